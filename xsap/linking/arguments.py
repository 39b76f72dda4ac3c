"""What users give to `Linker.link`: mentions, their languages and numbers, checked."""

from collections.abc import Iterable, Sequence
from numbers import Real

from xsap.errors import ConfigError
from xsap.languages import UNKNOWN, to_iso


def validate_mentions(mentions: Iterable[str | None]) -> list[str]:
    """Mentions as a list of strings, "" where one is missing. Raises ConfigError for what is not a list or a column of strings."""
    if isinstance(mentions, str):
        raise ConfigError(
            f"link takes a list of mentions, found the single string '{mentions[:40]}'; put it into a list"
        )
    if not isinstance(mentions, Iterable):
        raise ConfigError(f"link takes a list of mentions, found {mentions!r:.40}")
    if hasattr(mentions, "columns"):  # iterating over a data frame gives the names of its columns
        raise ConfigError(
            f"link takes one column of mentions, found a whole {type(mentions).__name__}; choose its column of mentions"
        )
    return ["" if mention is None or is_missing(mention) else mention for mention in mentions]


def languages_of(given: Sequence[str | None] | None, n: int) -> list[str]:
    """The ISO 639 codes of n mentions, UNKNOWN where none is given. Raises ConfigError for another number of them, DataError for an unknown one."""
    if given is None:
        return [UNKNOWN] * n
    if isinstance(given, str):
        raise ConfigError(
            f"languages takes a language for each mention, found the single string '{given[:40]}'; put it into a list"
        )
    given = list(given)  # a column may give another NaN each time it is read
    if len(given) != n:
        raise ConfigError(f"expected a language for each mention, found {len(given):,} for {n:,}")
    known = {code: UNKNOWN if is_missing(code) or not code else to_iso(str(code)) for code in set(given)}
    return [known[code] for code in given]


def is_missing(value: object) -> bool:
    """Whether a value is None, or what tables of pandas have instead: NaN, NA, NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def check_number(name: str, value: object) -> None:
    """Raise ConfigError if a probability that may be None is no number."""
    if value is not None and not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number between 0 and 1, found {value!r:.40} ({type(value).__name__})")
