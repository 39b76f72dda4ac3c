"""Answers as columns: what is said of a candidate, and a sheet with its answers beside it, long or wide.

Long: each row of the input comes again for each of its candidates, with their rank; a row without any comes once, with the reason. Wide: each row
comes once, with `concept_id_1`, `name_1`, …, `concept_id_2`, … beside it and the reason last. On its way an answer is a line of JSON:
that is what a run that was killed leaves behind, and what is remembered of mentions seen before, in a tenth of the objects' memory.
Whether a line is fresh, remembered or left behind, the same is written.
"""

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import pyarrow as pa

from xsap.linking.results import Result
from xsap.sheets.cells import Column
from xsap.sheets.columns import Sheet

_TYPES = {
    "rank": pa.int32(),
    "concept_id": pa.string(),
    "name": pa.string(),  # the preferred English one
    "matched_name": pa.string(),
    "language": pa.string(),  # of matched_name
    "source": pa.string(),  # of matched_name
    "semantic_types": pa.list_(pa.string()),
    "codes": pa.list_(pa.string()),
    "score": pa.float64(),
    "confidence": pa.float64(),
    "reason": pa.string(),  # why there is no answer
}
ANSWER = tuple(_TYPES)
CANDIDATE = ANSWER[1:-1]
_FIELDS = attrgetter(*CANDIDATE)
_FLOATS = [place for place, field in enumerate(CANDIDATE) if pa.types.is_float64(_TYPES[field])]
_LISTS = [place for place, field in enumerate(CANDIDATE) if pa.types.is_list(_TYPES[field])]
_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DIGITS = 6  # of scores and confidences


class Answer(NamedTuple):
    """A mention's candidates, best first, as CANDIDATE names their fields (lists as tuples); and why there is no answer, if there is none."""

    candidates: list[list[Any]]
    reason: str | None


def packed(result: Result) -> bytes:
    """A result as a line of JSON."""
    candidates = [list(_FIELDS(candidate)) for candidate in result.candidates]
    for fields in candidates:
        for place in _FLOATS:
            fields[place] = None if fields[place] is None else round(fields[place], _DIGITS)
    reason = result.reason if candidates else result.reason or "no candidates"
    return _ENCODER.encode([candidates, reason]).encode()


def unpacked(line: bytes) -> Answer:
    """What `packed` made a line of. Raises ValueError or TypeError for another line."""
    candidates, reason = json.loads(line)
    for fields in candidates:
        if len(fields) != len(CANDIDATE):
            raise ValueError(f"expected {len(CANDIDATE)} fields of each candidate, found {len(fields)}")
        for place in _LISTS:
            fields[place] = tuple(fields[place])
    return Answer(candidates, reason)


def added(header: Sequence[str], *, wide: int | None) -> tuple[list[str], list[pa.DataType]]:
    """Names and types of the columns that answers add; a name that the sheet has already gets `linked_` before it.

    wide: for how many candidates each row has columns; None for the long form.
    """
    if wide is None:
        names, types = list(ANSWER), list(_TYPES.values())
    else:
        names = [f"{field}_{rank}" for rank in range(1, wide + 1) for field in CANDIDATE] + ["reason"]
        types = [_TYPES[field] for field in CANDIDATE] * wide + [_TYPES["reason"]]
    taken = set(header)
    return [_free(name, taken) for name in names], types


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"linked_{name}"
    return name


def with_answers(sheet: Sheet, answers: Sequence[Answer], *, wide: int | None) -> Sheet:
    """A sheet and an answer for each of its rows, as one sheet."""
    names, _ = added(sheet.header, wide=wide)
    if wide is not None:
        blank = [None] * len(CANDIDATE)
        rows = []
        for candidates, reason in answers:
            shown = candidates[:wide] + [blank] * (wide - len(candidates))
            rows.append([*(cell for candidate in shown for cell in candidate), reason])
        return Sheet([*sheet.header, *names], [*sheet.columns, *_columns(rows, len(names))])
    again, rows = [], []
    for place, (candidates, reason) in enumerate(answers):
        for rank, candidate in enumerate(candidates, start=1):
            rows.append([rank, *candidate, reason])
        if not candidates:
            rows.append([None] * (len(ANSWER) - 1) + [reason])
        again += [place] * max(1, len(candidates))
    return Sheet([*sheet.header, *names], [*(_taken(column, again) for column in sheet.columns), *_columns(rows, len(names))])


def _taken(column: Column, places: list[int]) -> Column:
    return [column[place] for place in places] if isinstance(column, list) else column.take(pa.array(places, pa.int64()))


def _columns(rows: list[list[Any]], width: int) -> list[Column]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
