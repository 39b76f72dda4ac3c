"""How a name is normalised: the only place that lower-cases, composes Unicode or touches white space.

The policy is part of a model. It is saved with it, and applied alike to the names of a dictionary and to the mentions that are
linked into it, so that the two sides can't drift apart.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from xsap.errors import ConfigError

Case = Literal["cased", "lower"]
Form = Literal["none", "NFC", "NFKC"]

# Invisible and without meaning inside a term: byte-order mark, zero-width space, word joiner, soft hyphen. The zero-width
# (non-)joiners stay: they carry meaning in Persian and in Indic scripts.
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u2060\u00ad"))


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """What is done to a string before it is tokenised or compared.

    case: "lower" folds case away. unicode: the normal form; "none" leaves the string exactly as it stands (white space
    included), which is what the original SapBERT code does.
    """

    case: Case = "cased"
    unicode: Form = "NFC"

    def __post_init__(self) -> None:
        for field, value, known in (("case", self.case, get_args(Case)), ("unicode", self.unicode, get_args(Form))):
            if value not in known:
                raise ConfigError(f"a text policy's {field} must be one of {', '.join(known)}; found '{value}'")

    def to_dict(self) -> dict[str, str]:
        """The policy as JSON writes it."""
        return asdict(self)


EXACT_MATCH = TextPolicy(case="lower", unicode="NFKC")
"""The policy under which two strings count as the same name."""


def normalise(name: str, policy: TextPolicy) -> str:
    """One name under a policy: invisible characters dropped, runs of white space and controls made one space, ends trimmed."""
    if policy.unicode != "none":
        if not name.isascii():
            name = unicodedata.normalize(policy.unicode, name.translate(_INVISIBLE))  # in this order: they keep an accent from its letter
        if not name.isprintable():  # no control is printable, so most names are spared the loop
            name = "".join(" " if unicodedata.category(c) == "Cc" else c for c in name)
        name = " ".join(name.split())
    if policy.case == "lower":
        name = name.lower()
        if policy.unicode != "none":  # lower-casing can decompose ("İ"), so compose again
            name = unicodedata.normalize(policy.unicode, name)
    return name


def normalise_all(names: Iterable[str], policy: TextPolicy) -> list[str]:
    """`normalise` for each name, in order."""
    return [normalise(name, policy) for name in names]
