"""What `xsap link --file … --out …` writes, read as mappings: CSV, TSV, XLSX, JSONL and Parquet, one row per candidate or one per term.

The columns of the answers come last, in a known order, so the columns of the source are those before them. A term is unreviewed: its target is the
first candidate, or none if it was not linked; an uncertain one keeps its candidates. The columns with the term, its code, its frequency and its
language are named by the caller or known by their usual names; all others are kept as they are.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.exchange.mapping import MappedConcept, Signature
from xsap.exchange.mapping import Mapping as TermMapping
from xsap.files import file_ending
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.results import Candidate
from xsap.tabular.answers import ANSWER, CANDIDATE, LIST_SEPARATOR
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable
from xsap.tabular.spreadsheet_text import unescape_cell
from xsap.text import EXACT_MATCH, normalize

TERM_FIELDS = ("name", "code", "frequency", "language")
"""What a column of the source can be."""

_USUAL = {
    "name": ("term", "mention", "sourceName", "source_name", "name"),
    "code": ("sourceCode", "source_code", "code"),
    "frequency": ("sourceFrequency", "source_frequency", "frequency", "count"),
    "language": ("language", "lang"),
}
_PREFIX = re.compile("^(?:linked_)*")
_NEWER = {"vocabulary", "code"}  # columns that files of xsap before 2.0 lack
_LISTS = ("semantic_types", "codes")
_ROWS_PER_CHUNK = 1 << 13


class AnswerPlaces(NamedTuple):
    """Where the answers are in a row.

    Attributes:
        start: The position of the first of their columns.
        rank: The position of the rank; None where each term has one row.
        candidates: For each candidate of a row the position of each field.
        reason: The position of the reason.
    """

    start: int
    rank: int | None
    candidates: list[dict[str, int]]
    reason: int


def find_answers(header: Sequence[str]) -> AnswerPlaces | None:
    """Where a table's answers are; None if it is not what `xsap link` writes."""
    last = len(header) - 1
    if last < 0 or _plain(header[last]) != "reason":
        return None
    fields, start = _fields_before(header, last, CANDIDATE, "")
    if fields and _plain(header[start - 1]) == ANSWER[0]:
        return AnswerPlaces(start - 1, start - 1, [fields], last)
    groups: list[dict[str, int]] = []
    end = last
    rank = re.fullmatch(r".*_([0-9]+)", header[last - 1]) if last else None
    for number in range(int(rank[1]) if rank else 0, 0, -1):
        fields, end = _fields_before(header, end, CANDIDATE, f"_{number}")
        if not fields:
            return None
        groups.append(fields)
    return AnswerPlaces(end, None, groups[::-1], last) if groups else None


def _fields_before(header: Sequence[str], end: int, fields: Sequence[str], suffix: str) -> tuple[dict[str, int], int]:
    """The positions of columns that stand one after another before `end`, and where they begin; none if they are not there."""
    places: dict[str, int] = {}
    at = end
    for field in reversed(fields):
        if at > 0 and _plain(header[at - 1]) == field + suffix:
            at -= 1
            places[field] = at
        elif field not in _NEWER:
            return {}, end
    return places, at


def _plain(name: str) -> str:
    """The name of a column of the answers without what keeps it apart from columns of the source."""
    return name[_PREFIX.match(name).end() :]  # type: ignore[union-attr]


def read_linked_table(
    table: InputTable, *, columns: Mapping[str, str] | None = None
) -> tuple[list[TermMapping], list[str]]:
    """Read the output of `xsap link`.

    Args:
        table: As `open_table` gives it.
        columns: Field of TERM_FIELDS → the column of the source, where its name is not a usual one.

    Returns:
        The mappings, one for each row of the source; and remarks for a summary.

    Raises:
        DataError: It is no such output, or has no such column.
        ConfigError: A field is unknown.
    """
    header = list(table.header)
    if is_text := file_ending(table.path or Path("x.csv")) in (".csv", ".tsv", ".txt"):
        header = [unescape_cell(name) for name in header]
    answers = find_answers(header)
    if answers is None:
        raise DataError(
            f"{table.where}: expected what xsap link --file FILE --out OUT writes, whose last columns are {', '.join(ANSWER[1:4])}, … reason; "
            f"found {', '.join(header[-5:])}"
        )
    places = _term_places(table.where, header[: answers.start], columns or {})
    stamp = int(table.path.stat().st_mtime * 1000) if table.path else 0
    reader = _Reader(answers, header[: answers.start], places, Signature("xsap", stamp), is_text, Counter())
    mappings = list(reader.mappings(_rows(table)))
    if not mappings:
        raise DataError(f"{table.where}: expected at least one row under the header, found none")
    remarks = [f"{field} from column '{header[place]}'" for field, place in places.items()]
    return mappings, [*remarks, *table.remarks(), *(f"{what}: {n:,}" for what, n in reader.unread.items())]


def _term_places(where: str, source: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Field → the position of its column."""
    if unknown := sorted(set(columns) - set(TERM_FIELDS)):
        raise ConfigError(f"expected fields out of {', '.join(TERM_FIELDS)}, found '{unknown[0]}'")
    folded = {normalize(name, EXACT_MATCH): at for at, name in reversed(list(enumerate(source)))}
    places = {}
    for field in TERM_FIELDS:
        wanted = [columns[field]] if field in columns else _USUAL[field]
        found = [folded[key] for name in wanted if (key := normalize(name, EXACT_MATCH)) in folded]
        if found:
            places[field] = found[0]
        elif field in columns:
            raise DataError(
                f"{where}: expected a column '{columns[field]}'{did_you_mean(columns[field], list(source))}"
            )
    if "name" not in places:
        if len(source) != 1:
            found_names = ", ".join(source[:20]) or "none"
            raise DataError(f"{where}: which column has the terms? Found {found_names}; name it: --column name=HEADER")
        places["name"] = 0
    return places


def _rows(table: InputTable) -> Iterator[list[Any]]:
    for chunk in table.chunks(_ROWS_PER_CHUNK):
        yield from map(list, zip(*(to_cells(column) for column in chunk.columns), strict=True))


@dataclass(frozen=True)
class _Reader:
    """Rows as mappings. is_text: whether formulas are escaped. unread: counts cells that are not what their column has."""

    answers: AnswerPlaces
    source: Sequence[str]
    places: Mapping[str, int]
    created: Signature
    is_text: bool
    unread: Counter[str]

    def mappings(self, rows: Iterator[list[Any]]) -> Iterator[TermMapping]:
        """A mapping for each row of the source: a row begins where the rank is 1, or where there is none."""
        rank, held = self.answers.rank, list[list[Any]]()
        for row in rows:
            if held and (rank is None or self._text(row[rank]) in ("", "1")):
                yield self._mapping(held)
                held = []
            held.append(row)
        if held:
            yield self._mapping(held)

    def _mapping(self, rows: list[list[Any]]) -> TermMapping:
        first = rows[0]
        candidates = [
            self._candidate(row, fields)
            for row in rows
            for fields in self.answers.candidates
            if self._text(row[fields["concept_id"]])
        ]
        linked = candidates and not self._text(first[self.answers.reason])
        used = {self.places[field] for field in ("name", "code", "frequency") if field in self.places}
        columns = {name: self._text(first[at]) for at, name in enumerate(self.source) if at not in used}
        return TermMapping(
            self._text(first[self.places["code"]]) if "code" in self.places else "",
            self._text(first[self.places["name"]]),
            (MappedConcept.from_candidate(candidates[0]),) if linked else (),
            language=self._language(first),
            frequency=self._frequency(first),
            columns=columns,
            score=candidates[0].score if candidates else None,
            confidence=candidates[0].confidence if candidates else None,
            candidates=tuple(candidates),
            created=self.created,
        )

    def _candidate(self, row: list[Any], fields: Mapping[str, int]) -> Candidate:
        values = {field: row[at] for field, at in fields.items()}
        text = {field: self._text(cell) for field, cell in values.items() if field not in _LISTS}
        lists = {field: self._list(values[field]) for field in _LISTS}
        confidence = text["confidence"]
        return Candidate(
            text["concept_id"], text["name"], text["matched_name"], _number(text["score"]) or 0.0, text["language"] or UNKNOWN,
            text["source"], lists["semantic_types"], lists["codes"], _number(confidence), text["match"],
            text.get("vocabulary", ""), text.get("code", ""),
        )  # fmt: skip

    def _language(self, row: list[Any]) -> str:
        text = self._text(row[self.places["language"]]) if "language" in self.places else ""
        if not text.strip():
            return UNKNOWN
        try:
            return to_iso(text)
        except DataError:
            self.unread["languages that are not known"] += 1
            return UNKNOWN

    def _frequency(self, row: list[Any]) -> int | None:
        text = self._text(row[self.places["frequency"]]).strip() if "frequency" in self.places else ""
        number = _number(text)
        if text and (number is None or number != int(number) or number < 0):
            self.unread["frequencies that are no whole numbers, left out"] += 1
            return None
        return None if number is None else int(number)

    def _text(self, cell: Any) -> str:
        text = to_text(cell)
        return unescape_cell(text) if self.is_text else text

    def _list(self, cell: Any) -> tuple[str, ...]:
        if isinstance(cell, list | tuple):
            return tuple(map(to_text, cell))
        return tuple(part for part in self._text(cell).split(LIST_SEPARATOR) if part)


def _number(text: str) -> float | None:
    """A number with a decimal point or comma; None for what is none."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return None
