"""What linking answers: a mention, its candidates, and many of them together as dictionaries, a data frame, or a table in a notebook."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import TYPE_CHECKING, Any, overload

from xsap.errors import ConfigError
from xsap.languages import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = 50  # results in a notebook


@dataclass(frozen=True, slots=True)
class Candidate:
    """A concept, its preferred name, its name that came nearest to the mention, and the cosine of the two.

    language, source: of the matched name. codes: the concept's, its cross-references among them, as SOURCE:code. confidence: the probability
    that this concept is right, of the first candidate of a calibrated index; else None.
    """

    concept_id: str
    name: str
    matched_name: str
    score: float
    language: str = UNKNOWN
    source: str = ""
    semantic_types: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A mention as it was given, its candidates, best first, and if there are none the reason."""

    mention: str
    candidates: tuple[Candidate, ...]
    reason: str | None = None


class Results(Sequence[Result]):
    """Results in the order of their mentions."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, at: int) -> Result: ...
    @overload
    def __getitem__(self, at: slice) -> "Results": ...
    def __getitem__(self, at: int | slice) -> "Result | Results":
        return Results(self._results[at]) if isinstance(at, slice) else self._results[at]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Results({self._results!r})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """A dictionary for each candidate, with its mention and rank; one with the reason for a mention that has none."""
        rows: list[dict[str, Any]] = []
        nothing = dict.fromkeys(Candidate.__slots__)
        for result in self._results:
            rows += [
                {"mention": result.mention, "rank": rank, **asdict(candidate), "reason": None}
                for rank, candidate in enumerate(result.candidates, start=1)
            ]
            if not result.candidates:
                rows.append({"mention": result.mention, "rank": None, **nothing, "reason": result.reason})
        return rows

    def to_pandas(self) -> "pd.DataFrame":
        """`to_dicts` as a data frame. Raises ConfigError without pandas."""
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ConfigError("to_pandas needs pandas; install it: pip install pandas") from None
        return pd.DataFrame(self.to_dicts(), columns=["mention", "rank", *Candidate.__slots__, "reason"])

    def _repr_html_(self) -> str:
        """The first results as a table, for a notebook."""
        rows = self[:_SHOWN].to_dicts()
        sure = any(row["confidence"] is not None for row in rows)
        columns = ["mention", "rank", "concept_id", "name", "matched_name", "score", *(["confidence"] if sure else [])]
        cells = [
            [_shown(row["name"] or row["reason"] if column == "name" else row[column]) for column in columns]
            for row in rows
        ]
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in cells)
        head = "".join(f"<th>{column.replace('matched_name', 'matched name')}</th>" for column in columns)
        more = f"<p>… and {len(self) - _SHOWN:,} more mentions</p>" if len(self) > _SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _shown(cell: object) -> str:
    return "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else escape(str(cell))
