"""A user's choice among what a file holds: every value chosen must occur there, or the error names the nearest one that does."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

from xsap.errors import DataError


def parse_choice(text: str | None) -> frozenset[str] | None:
    """A comma-separated list as a set; None (nothing was chosen, so everything is) for None or `all`."""
    if text is None or text.strip().lower() == "all":
        return None
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def check_choice(chosen: Iterable[str], known: Collection[str], what: str, where: Path | str) -> None:
    """Raise DataError for the first value chosen that `where` does not hold. what: "source", "semantic type", …"""
    for value in sorted(set(chosen) - set(known)):
        by_folded = {k.casefold(): k for k in known}
        near = difflib.get_close_matches(value.casefold(), by_folded, n=1, cutoff=0.5)
        hint = f"did you mean '{by_folded[near[0]]}'?" if near else f"it has {listed(known)}"
        raise DataError(f"{where} has no {what} '{value}'; {hint}")


def listed(values: Collection[str], limit: int = 8) -> str:
    """Some values for a message: the first few in order, and how many more there are."""
    shown = sorted(values)[:limit]
    rest = len(values) - len(shown)
    return (", ".join(shown) or "none") + (f" and {rest:,} more" if rest else "")
