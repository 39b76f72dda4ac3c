"""Normalization of names (letter case, Unicode, white space) and the script that a name is written in.

The text policy is part of a model and is saved with it. It is applied to the names of a dictionary and to the mentions that are linked to
it, so that both are always normalized the same way. No other module changes case or composes Unicode.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, get_args

from xsap.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

Case = Literal["cased", "lower"]
Form = Literal["none", "NFC", "NFKC"]

# Invisible and without meaning inside a term: byte-order mark, zero-width space, word joiner, soft hyphen. The zero-width
# (non-)joiners stay: they carry meaning in Persian and in Indic scripts.
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad]")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc

# Words of characters that no policy of this case and form changes, one space between them. For NFC: letters that are composed already and have
# no combining marks among them (NFC_Quick_Check=Yes and combining class 0 in Unicode's DerivedNormalizationProps).
_LETTERS = r"\x{a1}-\x{ac}\x{ae}-\x{2ff}\x{388}-\x{3ff}\x{400}-\x{482}\x{48a}-\x{52f}\x{5d0}-\x{5ea}"
_LETTERS += r"\x{1e00}-\x{1eff}\x{3041}-\x{3096}\x{30a1}-\x{30fc}\x{4e00}-\x{9fff}\x{ac00}-\x{d7a3}"
_UNTOUCHED = {"cased": r"\x21-\x7e", "lower": r"\x21-\x40\x5b-\x7e"}

NO_SCRIPT = "none"
OTHER_SCRIPT = "other"
_KANA = "Kana"
_ALPHABETS = """
    LATIN GREEK CYRILLIC ARMENIAN GEORGIAN HEBREW ARABIC SYRIAC THAANA ETHIOPIC DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU
    KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR KHMER MONGOLIAN HANGUL BOPOMOFO
"""
_SCRIPTS = {
    word: word.capitalize() for word in _ALPHABETS.split()
}  # the first word of a letter's Unicode name → its script
_SCRIPTS |= {
    "CJK": "Han",
    "IDEOGRAPHIC": "Han",
    "HIRAGANA": _KANA,
    "KATAKANA": _KANA,
    "KATAKANA-HIRAGANA": _KANA,
    "HENTAIGANA": _KANA,
}


@dataclass(frozen=True, slots=True)
class TextPolicy:
    """How a string is normalized before it is tokenized or compared.

    Attributes:
        case: "lower" for lower case, "cased" to keep it.
        unicode: The normal form; "none" leaves the string unchanged, white space included, as the original SapBERT code does.
    """

    case: Case = "cased"
    unicode: Form = "NFC"

    def __post_init__(self) -> None:
        for field, value, known in (("case", self.case, get_args(Case)), ("unicode", self.unicode, get_args(Form))):
            if value not in known:
                raise ConfigError(f"a text policy's {field} must be one of {', '.join(known)}; found '{value}'")

    def to_dict(self) -> dict[str, str]:
        """The policy as JSON has it."""
        return asdict(self)


EXACT_MATCH = TextPolicy(case="lower", unicode="NFKC")
"""The policy under which two strings count as the same name."""


def normalize(name: str, policy: TextPolicy) -> str:
    """A name normalized by a policy: without invisible characters, each run of white space and controls as one space, trimmed.

    >>> normalize(" Fièvre\u200b  Jaune\\n", TextPolicy(case="lower"))
    'fièvre jaune'
    """
    if policy.unicode != "none":
        if not name.isascii():
            name = unicodedata.normalize(
                policy.unicode, _INVISIBLE.sub("", name)
            )  # in this order: they keep an accent from its letter
        if not name.isprintable():  # no control is printable, so most names skip the substitution
            name = _CONTROL.sub(" ", name)
        name = " ".join(name.split())
    if policy.case == "lower":
        name = name.lower()
        if policy.unicode != "none":  # lower-casing can decompose ("İ"), so compose again
            name = unicodedata.normalize(policy.unicode, name)
    return name


def normalize_column(names: "pa.ChunkedArray", policy: TextPolicy) -> "pa.Array":
    """`normalize` for an Arrow column of strings without nulls; names that it leaves unchanged, which most are, never become Python objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    word = f"[{_UNTOUCHED[policy.case]}{_LETTERS if (policy.case, policy.unicode) == ('cased', 'NFC') else ''}]+"
    others = pc.invert(pc.match_substring_regex(column, f"^{word}(?: {word})*$"))
    return pc.replace_with_mask(
        column, others, pa.array(normalize_all(column.filter(others).to_pylist(), policy), pa.string())
    )


def normalize_all(names: Iterable[str], policy: TextPolicy) -> list[str]:
    """`normalize` for each name, in order."""
    return [normalize(name, policy) for name in names]


def script_of(text: str) -> str:
    """The script of most letters of a text: `Latin`, `Han`, `Cyrillic`, …; of two equally frequent ones, the first.

    A text with any kana is `Kana`, because Japanese mixes it with Han. `other`: letters of no script known here; `none`: no letters.
    Compatibility forms count as their NFKC form. The first word of a letter's Unicode name is used for the property Script of Unicode
    Standard Annex 24, which Python lacks.

    >>> script_of("Fièvre"), script_of("発熱する"), script_of("123")
    ('Latin', 'Kana', 'none')
    """
    counts = Counter(map(_letter_script, text if text.isascii() else unicodedata.normalize("NFKC", text)))
    del counts[""]
    return _KANA if _KANA in counts else max(counts, key=counts.__getitem__, default=NO_SCRIPT)


@cache
def _letter_script(character: str) -> str:
    """The script of a letter; empty for any other character."""
    if not character.isalpha():
        return ""
    return _SCRIPTS.get(unicodedata.name(character, "").partition(" ")[0], OTHER_SCRIPT)
