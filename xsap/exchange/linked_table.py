"""A table that `xsap link` wrote, long or wide, as mappings: the terms with their other columns, and the candidates as they were found.

The columns of the answers are found by their names, wherever they are now; where a column of the input had the same name, that of the answer
begins with `linked_`. A term's target is its first candidate, none where linking gave a reason why that is no answer; a broader concept is wider. What CSV files have against formulas (see spreadsheet_text.py) is taken back.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as ReadOnlyDict
from dataclasses import dataclass
from typing import Any

from xsap.errors import ConfigError, DataError
from xsap.exchange.mapping import Equivalence, MappedConcept, Mapping, Signature
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.name_keys import BROADER
from xsap.linking.results import Candidate
from xsap.tabular.answers import CANDIDATE, LIST_SEPARATOR
from xsap.tabular.cells import to_cells, to_text
from xsap.tabular.readers import InputTable
from xsap.tabular.spreadsheet_text import unescape_cell
from xsap.text import EXACT_MATCH, normalize

_ROWS_PER_CHUNK = 4096
_USUAL = {
    "name": ("term", "mention", "source_name", "sourceName", "name"),
    "code": ("source_code", "sourceCode", "code"),
    "language": ("language", "lang"),
    "frequency": ("source_frequency", "sourceFrequency", "frequency", "count"),
}
_RANK, _REASON = "rank", "reason"
_NEEDED = ("concept_id", "matched_name", "score")
_PREFIX = "linked_"
_WIDE = re.compile(r"(?:linked_)*concept_id_([1-9][0-9]{0,3})")
_LISTS, _NUMBERS = ("semantic_types", "codes"), ("score", "confidence")
_ESCAPED = (".csv", ".tsv", ".txt")  # files in which formulas are escaped


@dataclass(frozen=True, slots=True)
class TermColumns:
    """Which columns of the input have what.

    Attributes:
        name: The terms.
        code: Their codes in the source; None if it has none.
        language: Their languages.
        frequency: How often each occurs.
    """

    name: str
    code: str | None = None
    language: str | None = None
    frequency: str | None = None


@dataclass(frozen=True, slots=True)
class _Answers:
    """Where the answers are: (field → column) of each candidate of a wide row, or of the one of a long row; rank: None if wide."""

    fields: list[dict[str, int]]
    rank: int | None
    reason: int | None

    def columns(self) -> set[int]:
        """All columns that belong to answers."""
        single = {at for at in (self.rank, self.reason) if at is not None}
        return single.union(*(each.values() for each in self.fields))


def is_linked(header: Sequence[str]) -> bool:
    """Whether a table has the columns that linking adds.

    Args:
        header: The names of its columns.
    """
    return _find_answers(header) is not None


def find_term_columns(table: InputTable, given: ReadOnlyDict[str, str]) -> TermColumns:
    """Which columns of a linked table have what: those that are given, or else those with a usual name.

    Args:
        table: The table, which `is_linked`.
        given: Field of `TermColumns` → column.

    Raises:
        ConfigError: A field is unknown, or the column of the terms is not known.
        DataError: A column is missing.
    """
    if unknown := sorted(set(given) - set(_USUAL)):
        raise ConfigError(
            f"expected --column FIELD=HEADER with a field out of {', '.join(_USUAL)}; found '{unknown[0]}'"
        )
    answers = _find_answers(table.header)
    belongs = answers.columns() if answers else set()
    source = [name for at, name in enumerate(table.header) if at not in belongs]
    folded = {normalize(name, EXACT_MATCH): name for name in reversed(source)}
    found = {
        field: table.header[table.column_index(given[field])]
        if field in given
        else next((folded[key] for name in usual if (key := normalize(name, EXACT_MATCH)) in folded), None)
        for field, usual in _USUAL.items()
    }
    name = found["name"] or (source[0] if len(source) == 1 else None)
    if name is None:
        raise ConfigError(
            f"{table.where}: expected a column of terms, found {', '.join(source[:20]) or 'no column of the input'}; "
            "name the column: --column name=HEADER"
        )
    return TermColumns(name, found["code"], found["language"], found["frequency"])


def read_linked(table: InputTable, columns: TermColumns, *, chunk_rows: int = _ROWS_PER_CHUNK) -> Iterator[Mapping]:
    """The terms of a linked table, in order.

    Args:
        table: The table, which `is_linked`.
        columns: Which of its columns have what.
        chunk_rows: Rows in memory at once.

    Raises:
        DataError: A column is missing, or the candidates of a term do not follow one another.
    """
    answers = _find_answers(table.header)
    if answers is None:
        raise DataError(
            f"{table.where}: expected a table that xsap link wrote, found none of its columns; link it first"
        )
    given = (columns.name, columns.code, columns.language, columns.frequency)
    at = [None if column is None else table.column_index(column) for column in given]
    reader = _RowReader(table, answers, at)
    group: list[list[Any]] = []
    for number, row in enumerate(_rows(table, chunk_rows), start=1):
        rank = 1 if answers.rank is None else _whole(row[answers.rank])
        if rank > 1 and rank != len(group) + 1:
            found = f"rank {rank} after rank {len(group)}" if group else f"rank {rank} first"
            raise DataError(
                f"{table.where}: row {number:,}: expected the candidates of a term by rank, one after another, found {found}; "
                "sort the table as it was, or link the terms again"
            )
        if rank <= 1 and group:
            yield reader.mapping(group)
            group = []
        group.append(row)
    if group:
        yield reader.mapping(group)


def _rows(table: InputTable, chunk_rows: int) -> Iterator[list[Any]]:
    for chunk in table.chunks(chunk_rows):
        yield from map(list, zip(*(to_cells(column) for column in chunk.columns), strict=True))


class _RowReader:
    """Rows of a term as its mapping."""

    def __init__(self, table: InputTable, answers: _Answers, at: Sequence[int | None]) -> None:
        self._answers, self._at, self._where = answers, at, table.where
        self._created = Signature("xsap", int(table.path.stat().st_mtime * 1000) if table.path else 0)
        escaped = table.path is not None and any(ending in table.path.suffixes for ending in _ESCAPED)
        self._text: Callable[[object], str] = (lambda cell: unescape_cell(to_text(cell))) if escaped else to_text
        known = answers.columns() | {position for position in at if position is not None}
        self._others = [(name, position) for position, name in enumerate(table.header) if position not in known]

    def mapping(self, rows: list[list[Any]]) -> Mapping:
        """The mapping of a term's rows: one for each candidate, or a wide one."""
        row, (name, code, language, frequency) = rows[0], self._at
        pairs = [(each, fields) for each in rows for fields in self._answers.fields]
        candidates = tuple(candidate for pair in pairs if (candidate := self._candidate(*pair)) is not None)
        first = candidates[0] if candidates else None
        is_broader = first is not None and first.match == BROADER
        assert name is not None
        return Mapping(
            self._cell(row, code), self._text(row[name]),
            targets=() if first is None or self._cell(row, self._answers.reason) else (MappedConcept.from_candidate(first),),
            language=_language(self._cell(row, language)), frequency=_count(self._cell(row, frequency)),
            columns={column: self._text(row[position]) for column, position in self._others},
            equivalence=Equivalence.WIDER if is_broader else Equivalence.UNREVIEWED,
            score=None if first is None else first.score, confidence=None if first is None else first.confidence, candidates=candidates, created=self._created,
        )  # fmt: skip

    def _cell(self, row: list[Any], position: int | None) -> str:
        return "" if position is None else self._text(row[position])

    def _candidate(self, row: list[Any], fields: dict[str, int]) -> Candidate | None:
        found: dict[str, Any] = {}
        for field, position in fields.items():
            cell = row[position]
            if field in _LISTS:
                found[field] = _parts(cell if isinstance(cell, list) else self._text(cell))
            elif field in _NUMBERS:
                found[field] = self._number(cell)
            else:
                found[field] = self._text(cell)
        if not found["concept_id"]:
            return None
        if found["score"] is None:
            raise DataError(
                f"{self._where}: expected a score for the candidate {found['concept_id']}, found none; link the terms again"
            )
        return Candidate(**{"name": "", **{field: value for field, value in found.items() if value != ""}})

    def _number(self, cell: object) -> float | None:
        text = to_text(cell).strip().replace(",", ".")
        try:
            return float(text) if text else None
        except ValueError:
            raise DataError(f"{self._where}: expected a number as score or confidence, found '{text[:40]}'") from None


def _find_answers(header: Sequence[str]) -> _Answers | None:
    reason = _place(header, _REASON)
    numbers = sorted({int(found[1]) for name in header if (found := _WIDE.fullmatch(name))})
    wide = [_places(header, f"_{number}") for number in numbers]
    if wide and all(set(_NEEDED) <= set(each) for each in wide):
        return _Answers(wide, None, reason)
    rank, fields = _place(header, _RANK), _places(header, "")
    return _Answers([fields], rank, reason) if rank is not None and set(_NEEDED) <= set(fields) else None


def _places(header: Sequence[str], ending: str) -> dict[str, int]:
    """Where the fields of a candidate are; those that older versions did not write only after its id, for other columns may have their names."""
    found = {field: _place(header, field + ending) for field in CANDIDATE}
    first = found["concept_id"]
    return {
        field: at
        for field, at in found.items()
        if at is not None and (field in _NEEDED or (first is not None and at > first))
    }


def _place(header: Sequence[str], name: str) -> int | None:
    """Where the answers' column of this name is: of several, the one with the most prefixes, for the others were there before."""
    found = [at for at, column in enumerate(header) if re.fullmatch(f"(?:{_PREFIX})*{re.escape(name)}", column)]
    return max(found, key=lambda at: len(header[at])) if found else None


def _parts(cell: Any) -> tuple[str, ...]:
    return tuple(cell) if isinstance(cell, list) else tuple(cell.split(LIST_SEPARATOR)) if cell else ()


def _whole(cell: object) -> int:
    """A rank; 0 for none."""
    text = to_text(cell).strip().removesuffix(".0")
    return int(text) if text.isdecimal() else 0


def _count(text: str) -> int | None:
    """A frequency; None for what is no number."""
    digits = text.strip().removesuffix(".0").replace(",", "").replace(" ", "")
    return int(digits) if digits.isdecimal() and len(digits) < 16 else None


def _language(text: str) -> str:
    try:
        return to_iso(text) if text.strip() else UNKNOWN
    except DataError:
        return UNKNOWN
