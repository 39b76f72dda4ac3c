"""The list of a review: which terms a filter keeps, in which order, page by page; and how many there are of each kind.

A page begins after the last term of the page before, found by its sort key and position and not by a number of rows, so that no term is
skipped or shown twice while decisions change what the filter keeps.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from xsap.exchange.mapping import Status
from xsap.server.review_store import ReviewStore, concepts_from_json
from xsap.text import EXACT_MATCH, normalize

PAGE_ROWS = 50
MAX_VALUES = 40  # of a facet
_SHOWN_CHARACTERS = 300  # of a term in the list
Sort = Literal["position", "frequency", "confidence", "-confidence", "margin", "-margin", "status"]
_ORDER: dict[Sort, tuple[str, bool]] = {  # column of `state`, and whether the greatest comes first
    "position": ("position", False),
    "frequency": ("frequency", True),
    "confidence": ("confidence", False),
    "-confidence": ("confidence", True),
    "margin": ("margin", False),
    "-margin": ("margin", True),
    "status": ("status", False),
}
_CONFIDENCE_BANDS = (0.0, 0.5, 0.8, 0.95)  # lower ends
_MARGIN_BANDS = (0.0, 0.01, 0.05, 0.1)
_TEXT_COLUMNS = {
    "statuses": "status",
    "languages": "language",
    "domains": "domain",
    "matches": "matched",
    "reviewers": "reviewer",
}


class ReviewFilter(BaseModel):
    """Which terms are listed; a condition that is empty keeps all.

    Attributes:
        text: Part of the term, its code or one of its other columns.
        statuses: What was decided.
        languages: Of the terms.
        domains: Of the first candidates.
        matches: How the first candidates were found.
        reviewers: Who decided.
        candidates: How many candidates there are.
        confirmed: Whether a second reviewer agreed.
        min_confidence: Least confidence of the first candidate.
        max_confidence: Greatest one.
        min_margin: Least lead of the first candidate over the second.
        max_margin: Greatest one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    text: Annotated[str, Field(max_length=500)] = ""
    statuses: Annotated[tuple[Status, ...], Field(max_length=MAX_VALUES)] = ()
    languages: Annotated[tuple[str, ...], Field(max_length=MAX_VALUES)] = ()
    domains: Annotated[tuple[str, ...], Field(max_length=MAX_VALUES)] = ()
    matches: Annotated[tuple[str, ...], Field(max_length=MAX_VALUES)] = ()
    reviewers: Annotated[tuple[str, ...], Field(max_length=MAX_VALUES)] = ()
    candidates: Annotated[tuple[int, ...], Field(max_length=MAX_VALUES)] = ()
    confirmed: bool | None = None
    min_confidence: Annotated[float | None, Field(ge=0, le=1)] = None
    max_confidence: Annotated[float | None, Field(ge=0, le=1)] = None
    min_margin: Annotated[float | None, Field(ge=0, le=2)] = None
    max_margin: Annotated[float | None, Field(ge=0, le=2)] = None

    def condition(self, without: str = "") -> tuple[str, list[Any]]:
        """The condition on `state s` in SQL, and its parameters.

        Args:
            without: The name of a condition that is left out, to count what each of its values would keep.
        """
        parts, parameters = ["1"], list[Any]()
        for name, column in (*_TEXT_COLUMNS.items(), ("candidates", "candidates")):
            wanted = getattr(self, name)
            if wanted and name != without:
                parts.append(f"s.{column} IN ({', '.join('?' * len(wanted))})")
                parameters += wanted
        for column in ("confidence", "margin"):
            low, high = getattr(self, f"min_{column}"), getattr(self, f"max_{column}")
            if column != without and (low, high) != (None, None):
                parts.append(f"s.{column} BETWEEN ? AND ?")
                parameters += [0 if low is None else low, 2 if high is None else high]
        if self.confirmed is not None and without != "confirmed":
            parts.append("s.confirmer != ''" if self.confirmed else "s.confirmer = ''")
        folded = normalize(self.text, EXACT_MATCH)
        if folded:
            parts.append("s.term IN (SELECT term FROM searched WHERE instr(text, ?))")
            parameters.append(folded)
        return " AND ".join(parts), parameters


class ListedTerm(NamedTuple):
    """A term in the list."""

    term: int
    version: int
    code: str
    name: str
    language: str
    status: str
    target: str
    matched: str
    candidates: int
    score: float
    confidence: float
    frequency: int
    reviewer: str
    confirmer: str
    noted: int


class Cursor(NamedTuple):
    """Where a page ends: the sort key and the position of its last term."""

    key: float | str
    position: int


class Page(NamedTuple):
    """A page of the list, and where the next one begins; None if it is the last."""

    rows: list[ListedTerm]
    following: Cursor | None


def read_page(
    store: ReviewStore, wanted: ReviewFilter, sort: Sort, after: Cursor | None, *, rows: int = PAGE_ROWS
) -> Page:
    """The terms that a filter keeps, in an order, after a cursor.

    Args:
        store: The review.
        wanted: The filter.
        sort: The order; equal terms come as in the input.
        after: Where the page before ended; None for the first page.
        rows: Terms of a page.
    """
    condition, parameters = wanted.condition()
    column, falling = _ORDER[sort]
    if after is not None:
        sign = "<" if falling else ">"
        condition += f" AND (s.{column} {sign} ? OR s.{column} = ? AND s.position > ?)"
        parameters += [after.key, after.key, after.position]
    found = store.query(
        f"SELECT s.term, s.{column}, s.position FROM state s WHERE {condition} "
        f"ORDER BY s.{column} {'DESC' if falling else 'ASC'}, s.position LIMIT {rows + 1}",
        parameters,
    )
    following = Cursor(*found[rows - 1][1:]) if len(found) > rows else None
    return Page(listed_terms(store, [term for term, *_ in found[:rows]]), following)


def listed_terms(store: ReviewStore, terms: Sequence[int]) -> list[ListedTerm]:
    """Terms as the list shows them, in the given order; those that the input lacks are left out."""
    found = store.query(
        "SELECT s.term, s.decision, t.code, substr(t.name, 1, ?), s.language, s.status, coalesce(d.targets, t.proposal), s.matched, "
        "s.candidates, s.score, s.confidence, s.frequency, s.reviewer, s.confirmer, coalesce(d.comment, '') != '', t.proposal "
        "FROM state s JOIN terms t USING (term) LEFT JOIN decisions d ON d.decision = s.decision "
        f"WHERE s.term IN ({', '.join('?' * len(terms))})",
        [_SHOWN_CHARACTERS, *terms],
    )
    by_term = {}
    for *cells, proposal in found:
        targets = concepts_from_json(proposal if cells[5] == Status.UNREVIEWED else cells[6])
        cells[6] = "; ".join(concept.name or concept.concept_id for concept in targets)[:_SHOWN_CHARACTERS]
        by_term[cells[0]] = ListedTerm(*cells)
    return [by_term[term] for term in terms if term in by_term]


def count_terms(store: ReviewStore, wanted: ReviewFilter) -> int:
    """How many terms a filter keeps."""
    condition, parameters = wanted.condition()
    return int(store.count(f"SELECT count(*) FROM state s WHERE {condition}", parameters)[0][0])


def count_facets(store: ReviewStore, wanted: ReviewFilter) -> dict[str, list[tuple[Any, int]]]:
    """For each condition its values, and how many terms each would keep beside the other conditions; the most frequent first.

    Args:
        store: The review.
        wanted: The filter.
    """
    facets: dict[str, list[tuple[Any, int]]] = {}
    for name, column in (*_TEXT_COLUMNS.items(), ("candidates", "candidates"), ("confirmed", "confirmer != ''")):
        condition, parameters = wanted.condition(name)
        facets[name] = store.count(
            f"SELECT s.{column} AS value, count(*) FROM state s WHERE {condition} GROUP BY value ORDER BY 2 DESC LIMIT {MAX_VALUES}",
            parameters,
        )
    for name, bands in (("confidence", _CONFIDENCE_BANDS), ("margin", _MARGIN_BANDS)):
        condition, parameters = wanted.condition(name)
        cases = " ".join(f"WHEN s.{name} >= {low} THEN {low}" for low in reversed(bands))
        facets[name] = store.count(
            f"SELECT CASE {cases} END AS value, count(*) FROM state s WHERE {condition} AND s.{name} >= 0 GROUP BY value ORDER BY 1 DESC",
            parameters,
        )
    return facets


class BulkEffect(NamedTuple):
    """What an action on a filter would do.

    Attributes:
        rows: Terms that get a new state.
        skipped: Terms of the filter that it leaves as they are: a person decided on them, or they have no concept to approve.
        expected_wrong: How many approved concepts are wrong, by the calibration of the index; None without one.
    """

    rows: int
    skipped: int
    expected_wrong: float | None


def bulk_condition(wanted: ReviewFilter, status: Status, min_confidence: float | None) -> tuple[str, list[Any]]:
    """The terms of a filter that an action changes, as a condition on `state s` and its parameters.

    Terms on which a person decided are left as they are; only taking decisions back is about them alone.

    Args:
        wanted: The filter.
        status: The new status.
        min_confidence: Least confidence of the first candidate; None for any.
    """
    condition, parameters = wanted.condition()
    condition += " AND s.effective != 0" if status is Status.UNREVIEWED else " AND s.effective = 0"
    if status is Status.APPROVED:
        condition += " AND s.candidates > 0"
    if min_confidence is not None:
        condition += " AND s.confidence >= ?"
        parameters.append(min_confidence)
    return condition, parameters


def bulk_effect(store: ReviewStore, wanted: ReviewFilter, status: Status, min_confidence: float | None) -> BulkEffect:
    """What an action on a filter would do; the arguments are those of `bulk_condition`."""
    condition, parameters = bulk_condition(wanted, status, min_confidence)
    ((rows, wrong, least),) = store.count(
        f"SELECT count(*), total(1 - s.confidence), min(s.confidence) FROM state s WHERE {condition}", parameters
    )
    calibrated = status is Status.APPROVED and least is not None and least >= 0
    return BulkEffect(rows, count_terms(store, wanted) - rows, round(wrong, 2) if calibrated else None)
