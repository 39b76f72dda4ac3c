"""Answers of linking as columns of cells that follow the input's columns.

There are two forms. Long: each row of the input is repeated for each of its candidates, with their rank; a row without candidates is written
once, with the reason. Wide: each row is written once, followed by `concept_id_1`, `name_1`, …, `concept_id_2`, … and the reason. A row whose
candidates are too uncertain keeps them in their columns, with the reason why none is the answer.
"""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa

from xsap.linking.results import CLEANED, EXPANDED, Result
from xsap.tabular.cells import escape_surrogates, to_text

_TYPES = {
    "rank": pa.int32(),
    "concept_id": pa.string(),
    "name": pa.string(),  # the preferred English one
    "vocabulary": pa.string(),  # that the concept's own code comes from
    "code": pa.string(),
    "matched_name": pa.string(),
    "language": pa.string(),  # of matched_name
    "source": pa.string(),  # of matched_name
    "semantic_types": pa.list_(pa.string()),
    "codes": pa.list_(pa.string()),
    "score": pa.float64(),
    "confidence": pa.float64(),
    "match": pa.string(),  # how matched_name was found
    "annotations": pa.int32(),  # of matched_name with this concept
    "share": pa.float64(),  # of all annotations of matched_name
    "reason": pa.string(),  # why there is no answer
}
NOTES = (*CLEANED, *EXPANDED)
"""What may be written of the mention itself, before its candidates: what was taken out of it, and what was written out in it."""
_NOTE_TYPES = dict.fromkeys(NOTES, pa.string()) | {
    "negated": pa.bool_(),
    "suspected": pa.bool_(),
    "removed": pa.list_(pa.string()),
}
ANNOTATED = ("annotations", "share")
"""Fields of a candidate that have columns only where they are asked for, with those of NOTES: an index without mention names has none."""
CANDIDATE = tuple(_TYPES)[1:-1]
ANSWER = tuple(field for field in _TYPES if field not in ANNOTATED)
LIST_SEPARATOR = "|"  # between the values of a list in CSV, TSV and XLSX

_FIELDS = attrgetter(*CANDIDATE)
_FLOATS = [i for i, field in enumerate(CANDIDATE) if pa.types.is_float64(_TYPES[field])]
_LISTS = [i for i, field in enumerate(CANDIDATE) if pa.types.is_list(_TYPES[field])]
_DIGITS = 6  # of scores and confidences
_COMPACT = json.JSONEncoder(separators=(",", ":"))


class Answer(NamedTuple):
    """A result as cells.

    Attributes:
        candidates: The fields of each candidate in the order of CANDIDATE, best first.
        reason: Why there is no answer; None if there is one.
        notes: The fields of NOTES; empty if nothing was taken out or written out.
    """

    candidates: list[list[Any]]
    reason: str | None
    notes: Sequence[Any] = ()

    @classmethod
    def from_result(cls, result: Result) -> "Answer":
        """The cells of a result, of its uncertain candidates if it has no others; scores are rounded, and no answer is without a reason."""
        candidates = [list(_FIELDS(candidate)) for candidate in result.candidates or result.uncertain]
        for fields in candidates:
            for i in _FLOATS:
                fields[i] = None if fields[i] is None else round(fields[i], _DIGITS)
        notes = () if result.cleaned is None and result.expansion is None else tuple(result.notes().values())
        return cls(candidates, result.reason if candidates else result.reason or "no candidates", notes)


def encode_answer(answer: Answer) -> bytes:
    """An answer as a line of JSON, a tenth of the object's memory."""
    return _COMPACT.encode(answer).encode()


def decode_answer(line: bytes) -> Answer:
    """The answer that `encode_answer` made a line of. Raises ValueError or TypeError for another line."""
    candidates, reason, notes = json.loads(line)
    for fields in candidates:
        if len(fields) != len(CANDIDATE):
            raise ValueError(f"expected {len(CANDIDATE)} fields of each candidate, found {len(fields)}")
        for i in _LISTS:
            fields[i] = tuple(fields[i])
    return Answer(candidates, reason, tuple(tuple(note) if isinstance(note, list) else note for note in notes))


def answer_columns(
    header: Sequence[str], *, wide: int | None, notes: Sequence[str] = ()
) -> tuple[list[str], list[pa.DataType]]:
    """Names and types of the columns that answers add; a name that the header has already gets `linked_` before it.

    Args:
        header: The names of the input's columns.
        wide: The number of candidates that each row has columns for; None for the long form.
        notes: The columns of NOTES and ANNOTATED that are written.
    """
    fields = _candidate_fields(notes)
    if wide is None:
        names = ["rank", *fields, "reason"]
        types = [_TYPES[field] for field in names]
    else:
        names = [f"{field}_{rank}" for rank in range(1, wide + 1) for field in fields] + ["reason"]
        types = [_TYPES[field] for field in fields] * wide + [_TYPES["reason"]]
    taken, of_mention = set(header), [name for name in notes if name in NOTES]
    names, types = [*of_mention, *names], [*(_NOTE_TYPES[name] for name in of_mention), *types]
    return [_unused(name, taken) for name in names], types


def _candidate_fields(notes: Sequence[str]) -> tuple[str, ...]:
    """The fields of a candidate that have columns: all of them, or all but ANNOTATED, which come last."""
    return CANDIDATE if set(ANNOTATED) & set(notes) else CANDIDATE[: -len(ANNOTATED)]


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"linked_{name}"
    return name


def answer_cells(
    answers: Sequence[Answer], *, wide: int | None, notes: Sequence[str] = ()
) -> tuple[list[int], list[list[Any]]]:
    """The answers to some rows as columns of cells.

    Args:
        answers: One for each row.
        wide: The number of candidates that each row has columns for; None for the long form.
        notes: The columns of NOTES and ANNOTATED that are written.

    Returns:
        The row that each row of the output belongs to, and the cells of each of `answer_columns`.
    """
    belongs, rows = list[int](), list[list[Any]]()
    fields = _candidate_fields(notes)
    blank, places = [None] * len(fields), [NOTES.index(name) for name in notes if name in NOTES]
    no_notes = [Result("", ()).notes()[name] for name in NOTES]
    for row, (all_fields, reason, of_mention) in enumerate(answers):
        candidates = [candidate[: len(fields)] for candidate in all_fields]
        own = [(of_mention or no_notes)[place] for place in places]
        if wide is not None:
            shown = candidates[:wide] + [blank] * (wide - len(candidates))
            rows.append([*own, *(cell for candidate in shown for cell in candidate), reason])
        elif candidates:
            rows += [[*own, rank, *candidate, reason] for rank, candidate in enumerate(candidates, start=1)]
        else:
            rows.append([*own, None, *blank, reason])
        belongs += [row] * (1 if wide is not None else max(1, len(candidates)))
    width = len(places) + (len(fields) + 2 if wide is None else wide * len(fields) + 1)
    return belongs, [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def with_answers(
    table: pa.Table, answers: Sequence[Answer], *, wide: int | None, notes: Sequence[str] = ()
) -> pa.Table:
    """A table with the columns of an answer for each row."""
    names, types = answer_columns(table.column_names, wide=wide, notes=notes)
    belongs, cells = answer_cells(answers, wide=wide, notes=notes)
    repeated = table.take(pa.array(belongs, pa.int64()))
    columns = [output_column(column, of) for column, of in zip(cells, types, strict=True)]
    return pa.table([*repeated.columns, *columns], [*table.column_names, *names])


def output_column(cells: list[Any], of: pa.DataType) -> pa.Array:
    """Cells as a column of type `of`; text of any cell where that is the type."""
    if pa.types.is_string(of):
        cells = [None if cell is None else escape_surrogates(to_text(cell)) for cell in cells]
    return pa.array(cells, of)
