"""Results of linking: a mention with its candidates; and many of them as dictionaries, a data frame, or a table in a notebook."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from operator import index
from typing import TYPE_CHECKING, Any, overload

from xsap.errors import ConfigError
from xsap.languages import UNKNOWN
from xsap.linking.name_keys import SIMILAR
from xsap.terms.abbreviations import Expansion
from xsap.terms.clinical_text import CleanedTerm

if TYPE_CHECKING:
    import pandas as pd


RESULTS_IN_NOTEBOOK = 50
CLEANED = ("cleaned", "negated", "suspected", "history", "laterality", "grade", "removed")
"""Columns of a mention that clinical qualifiers were taken out of: what is left of it, and what they said."""
EXPANDED = ("expansion", "expansion_source")
"""Columns of a mention with an abbreviation: what was linked in its place, and where the expansion is from."""


def validate_top_k(top_k: object) -> int:
    """The number of concepts asked for. Raises ConfigError if it is not a whole number of at least 1."""
    try:
        number = 0 if isinstance(top_k, bool) else index(top_k)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(
            f"top_k must be a whole number, at least 1; found {top_k!r:.40} ({type(top_k).__name__})"
        ) from None
    if number < 1:
        raise ConfigError(f"top_k must be at least 1, found {top_k}")
    return number


@dataclass(frozen=True, slots=True)
class Candidate:
    """A concept that a mention may refer to.

    Attributes:
        concept_id: Its id.
        name: Its preferred name.
        matched_name: Its name that is nearest to the mention.
        score: 1 where the mention is a name or a code of the concept. Else the cosine of the matched name and the mention; with lexical fusion
            the weighted mean of cosine and string similarity. Lower for what people annotated, see `linking.mention_names`.
        language: Of the matched name, ISO 639.
        source: Of the matched name.
        semantic_types: Of the concept.
        codes: Of the concept, cross-references included, as SOURCE:code.
        confidence: The probability that this concept is right: of the first candidate of a calibrated index, else None.
        match: How the matched name was found: `exact` where it is written as the mention is, `case` where it differs in letter case, width, or
            kinds of dashes and quotes, `code` where the mention is the concept's identifier or code, `accents` where it differs in accents,
            else `similar`. `broader` where
            the concept is not one whose name was found, but the one above several, asked for as `broader`; the matched name, its language, its
            source and the score are then those of the best concept below it.
        vocabulary: The vocabulary that the concept's own code comes from, such as SNOMED: the source of its preferred name.
        code: The concept's own code there; empty if it has none.
        annotations: How often people annotated the matched name with this concept; None where nobody annotated that string.
        share: The fraction of the annotations of the matched name that are of this concept; None where there are none.
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
    match: str = SIMILAR
    vocabulary: str = ""
    code: str = ""
    annotations: int | None = None
    share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Result:
    """What a mention was linked to.

    Attributes:
        mention: The mention as it was given.
        candidates: Its concepts, best first.
        reason: Why there are no candidates; None if there are.
        uncertain: If there are no candidates because the best one is less certain than was asked for: what they would have been.
        cleaned: The clinical qualifiers that were taken out before it was linked, if that was asked for and there were any.
        expansion: What was linked in its place because of an abbreviation in it, if that was asked for and one was known.
    """

    mention: str
    candidates: tuple[Candidate, ...]
    reason: str | None = None
    uncertain: tuple[Candidate, ...] = ()
    cleaned: CleanedTerm | None = None
    expansion: Expansion | None = None

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dictionary, candidates as lists of dictionaries; the last three only if there are any."""
        candidates, uncertain = ([each.to_dict() for each in found] for found in (self.candidates, self.uncertain))
        fields: dict[str, Any] = {"mention": self.mention, "candidates": candidates, "reason": self.reason}
        if uncertain:
            fields["uncertain"] = uncertain
        if self.cleaned is not None:
            fields["cleaned"] = self.cleaned.to_dict()
        if self.expansion is not None:
            fields["expansion"] = self.expansion._asdict()
        return fields

    def notes(self) -> dict[str, Any]:
        """The columns CLEANED and EXPANDED; None, False or empty where nothing was taken out or written out."""
        cleaned, expansion = self.cleaned, self.expansion
        values: dict[str, Any] = dict.fromkeys((*CLEANED, *EXPANDED)) | {
            "negated": False,
            "suspected": False,
            "removed": (),
        }
        if cleaned is not None:
            shown = (cleaned.history or None, cleaned.laterality or None, cleaned.grade or None, cleaned.removed)
            values |= zip(CLEANED, (cleaned.text, cleaned.negated, cleaned.suspected, *shown), strict=True)
        if expansion is not None:
            values |= zip(EXPANDED, expansion, strict=True)
        return values


class Results(Sequence[Result]):
    """Results in the order of their mentions."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, key: int) -> Result: ...
    @overload
    def __getitem__(self, key: slice) -> "Results": ...
    def __getitem__(self, key: int | slice) -> "Result | Results":
        return Results(self._results[key]) if isinstance(key, slice) else self._results[key]

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        linked = sum(bool(result.candidates) for result in self)
        return f"Results({len(self):,} mentions, {linked:,} linked)"

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary per candidate, with its mention and rank; for a mention without candidates one with the reason.

        If qualifiers were taken out or abbreviations written out of any mention, each has the columns CLEANED or EXPANDED, too.
        """
        rows: list[dict[str, Any]] = []
        shown: tuple[str, ...] = CLEANED if any(result.cleaned is not None for result in self) else ()
        shown += EXPANDED if any(result.expansion is not None for result in self) else ()
        empty = dict.fromkeys(Candidate.__slots__)
        for result in self._results:
            found = result.notes() if shown else {}
            notes = {column: found[column] for column in shown}
            rows += [
                {"mention": result.mention, "rank": rank, **candidate.to_dict(), "reason": None, **notes}
                for rank, candidate in enumerate(result.candidates, start=1)
            ]
            if not result.candidates:
                rows.append({"mention": result.mention, "rank": None, **empty, "reason": result.reason, **notes})
        return rows

    def to_pandas(self) -> "pd.DataFrame":
        """`to_dicts` as a data frame, with NA for None: text as strings, lists joined by |, ranks as Int64, numbers as Float64.

        Raises ConfigError without pandas.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ConfigError("to_pandas needs pandas; install it: pip install pandas") from None
        dtypes = {
            "rank": "Int64",
            "score": "Float64",
            "confidence": "Float64",
            "annotations": "Int64",
            "share": "Float64",
            "negated": "boolean",
            "suspected": "boolean",
        }
        rows = self.to_dicts()
        columns: dict[str, Any] = {}
        known = ("mention", "rank", *Candidate.__slots__, "reason")
        for column in (*known, *(each for each in (rows[0] if rows else ()) if each not in known)):
            cells = [row[column] for row in rows]
            joined = ["|".join(cell) if isinstance(cell, tuple) else cell for cell in cells]
            columns[column] = pd.array(joined, dtype=dtypes.get(column, "string"))
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        """The first results as a table, for a notebook."""
        rows = self[:RESULTS_IN_NOTEBOOK].to_dicts()
        calibrated = any(row["confidence"] is not None for row in rows)
        columns = [
            "mention",
            "rank",
            "concept_id",
            "name",
            "matched_name",
            "score",
            *(["confidence"] if calibrated else []),
        ]
        cells = [
            [_to_html(row["name"] or row["reason"] if column == "name" else row[column]) for column in columns]
            for row in rows
        ]
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in cells)
        head = "".join(f"<th>{column.replace('matched_name', 'matched name')}</th>" for column in columns)
        more = (
            f"<p>… and {len(self) - RESULTS_IN_NOTEBOOK:,} more mentions</p>" if len(self) > RESULTS_IN_NOTEBOOK else ""
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _to_html(cell: object) -> str:
    return "" if cell is None else f"{cell:.3f}" if isinstance(cell, float) else escape(str(cell))
