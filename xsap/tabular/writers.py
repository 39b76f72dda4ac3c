"""Sheets written chunk by chunk: CSV, TSV, JSONL and Parquet, and tables for people to read; gzipped on the way where that is wanted.

What Parquet and JSONL get is what the cells are. CSV and TSV are opened by spreadsheets, which run a cell that begins with `=`, `+`, `-` or
`@` as a formula, whoever wrote it, so every such cell of text gets an apostrophe before it, the input's and the header's too
(https://owasp.org/www-community/attacks/CSV_Injection). Numbers don't. The same holds for cells whose formula stands behind
blanks, quotes or apostrophes; so taking one apostrophe off each cell that matches gives back exactly what was there.
"""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError
from xsap.linking.results import Result
from xsap.tabular.readers import Chunk, Column, InputTable, as_finite, cells_of, ending, escape_surrogates, text

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


def encode_answer(result: Result) -> bytes:
    """A result as a line of JSON."""
    candidates = [list(_FIELDS(candidate)) for candidate in result.candidates]
    for fields in candidates:
        for place in _FLOATS:
            fields[place] = None if fields[place] is None else round(fields[place], _DIGITS)
    reason = result.reason if candidates else result.reason or "no candidates"
    return _ENCODER.encode([candidates, reason]).encode()


def decode_answer(line: bytes) -> Answer:
    """What `encode_answer` made a line of. Raises ValueError or TypeError for another line."""
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


def with_answers(sheet: Chunk, answers: Sequence[Answer], *, wide: int | None) -> Chunk:
    """A sheet and an answer for each of its rows, as one sheet."""
    names, _ = added(sheet.header, wide=wide)
    if wide is not None:
        blank = [None] * len(CANDIDATE)
        rows = []
        for candidates, reason in answers:
            shown = candidates[:wide] + [blank] * (wide - len(candidates))
            rows.append([*(cell for candidate in shown for cell in candidate), reason])
        return Chunk([*sheet.header, *names], [*sheet.columns, *_columns(rows, len(names))])
    again, rows = [], []
    for place, (candidates, reason) in enumerate(answers):
        for rank, candidate in enumerate(candidates, start=1):
            rows.append([rank, *candidate, reason])
        if not candidates:
            rows.append([None] * (len(ANSWER) - 1) + [reason])
        again += [place] * max(1, len(candidates))
    return Chunk(
        [*sheet.header, *names], [*(_taken(column, again) for column in sheet.columns), *_columns(rows, len(names))]
    )


def _taken(column: Column, places: list[int]) -> Column:
    return (
        [column[place] for place in places] if isinstance(column, list) else column.take(pa.array(places, pa.int64()))
    )


def _columns(rows: list[list[Any]], width: int) -> list[Column]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


FORMS = ("table", "csv", "tsv", "jsonl", "parquet")
JOIN = "|"  # what stands between the values of a list in CSV and TSV

_SKIPPED = r"['\"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]*"  # what a spreadsheet may drop before it looks
_FORMULA = re.compile(
    rf"['\"]*[\t\r\n\0]|{_SKIPPED}[=+\-@＝＋－＠]"
)  # full-width signs begin formulas in East Asian versions
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?%?")
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_TSV = str.maketrans(dict.fromkeys("\t\r\n", " "))

# a sheet, its mentions and their answers → how many rows were written
Write = Callable[[Chunk, Sequence[str], Sequence[Answer]], int]


@dataclass(frozen=True)
class OutputFormat:
    """How answers are written.

    form: one of FORMS. top_k: candidates asked for. wide: a row for each row, not for each candidate. excel: CSV or TSV with a byte-order
    mark, without which Excel takes UTF-8 for something else, and `\\r\\n`; to a CSV input with semicolons the output has them too, and
    decimal commas: Excel opens by itself what is written as in its country, and so was a file that it saved. gz: compressed.
    Raises ConfigError for what doesn't go together.
    """

    form: str
    top_k: int = 5
    wide: bool = False
    excel: bool = False
    gz: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"expected a format among {', '.join(FORMS)}; found '{self.form}'")
        if self.top_k < 1:
            raise ConfigError(f"top_k must be at least 1, found {self.top_k}")
        if self.wide and self.form == "table":
            raise ConfigError("--wide goes with csv, tsv, jsonl and parquet; a table is long")
        if self.excel and self.form not in ("csv", "tsv"):
            raise ConfigError(f"--excel goes with csv and tsv, found {self.form}")
        if self.gz and self.form == "parquet":
            raise ConfigError("a .parquet file is compressed inside; let its name not end in .gz")

    @classmethod
    def to(
        cls, out: Path | None, form: str | None, *, top_k: int = 5, wide: bool = False, excel: bool = False
    ) -> "OutputFormat":
        """The layout of a file, or stdout: in `form`, by default as the name ends, else a table; gzipped if it ends in .gz."""
        suffix, gz = ending(out) if out else ("", False)
        known = suffix.removeprefix(".")
        return cls(form or (known if known in FORMS else "table"), top_k, wide, excel, gz)


@contextmanager
def open_writer(stream: IO[bytes], layout: OutputFormat, source: InputTable) -> Iterator[Write]:
    """Yield what writes a sheet of the source with its answers, and can be called again for the rows that follow."""
    packing: Any = gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) if layout.gz else nullcontext(stream)
    wide = layout.top_k if layout.wide else None
    names, types = added(source.header, wide=wide)
    header, types = [*source.header, *names], [*source.types, *types]
    with packing as target:
        if layout.form == "table":
            yield lambda _, mentions, answers: _put(target, table(mentions, answers))
        elif layout.form == "parquet":
            schema = pa.schema(list(zip(unique(header), types, strict=True)))
            with pq.ParquetWriter(target, schema, compression="zstd") as parquet:
                yield lambda sheet, _, answers: _put_arrow(parquet, with_answers(sheet, answers, wide=wide), schema)
        elif layout.form == "jsonl":
            keys = unique(header)
            yield lambda sheet, _, answers: _put(
                target, _json_lines(keys, with_answers(_converted(sheet, cells_of), answers, wide=wide))
            )
        else:
            decimal_comma = layout.excel and layout.form == "csv" and source.delimiter == ";"
            shown = partial(_shown, decimal_comma=decimal_comma)
            lines = (
                _tsv_lines if layout.form == "tsv" else partial(_csv_lines, source.delimiter if layout.excel else ",")
            )
            end = "\r\n" if layout.excel else "\n"
            _put(target, ["\ufeff" if layout.excel else "", *lines([shown([name]) for name in header], end)])

            def write(sheet: Chunk, _: Sequence[str], answers: Sequence[Answer]) -> int:
                columns = with_answers(
                    _converted(sheet, shown), answers, wide=wide
                ).columns  # a cell is converted once, not for each candidate
                ours = len(sheet.header)
                return _put(target, lines([*columns[:ours], *map(shown, columns[ours:])], end))

            yield write


def table(mentions: Sequence[str], answers: Sequence[Answer]) -> Iterator[str]:
    """Lines for people to read: each mention, and below it its candidates."""
    for mention, (candidates, reason) in zip(mentions, answers, strict=True):
        shown = mention if len(mention) <= 80 else f"{mention[:79]}…"
        yield (" ".join(shown.split()) or "(blank)") + "\n"
        fields = [dict(zip(CANDIDATE, candidate, strict=True)) for candidate in candidates]
        width = max((len(c["concept_id"]) for c in fields), default=0)
        blank = (
            " " * 7 if any(c["confidence"] is not None for c in fields) else ""
        )  # as wide as a confidence, which only the first has
        for rank, c in enumerate(fields, start=1):
            sure = blank if c["confidence"] is None else f"  {100 * c['confidence']:3.0f} %"
            matched = "" if c["matched_name"] == c["name"] else f"  ({c['matched_name']})"
            yield f"{rank:>4}  {c['score']:6.3f}{sure}  {c['concept_id']:{width}}  {c['name']}{matched}\n"
        if reason is not None:
            yield f"      {reason}\n"


def escape_formula(cell: str) -> str:
    """A cell of text as CSV and TSV have it: one that a spreadsheet would run gets an apostrophe before it."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unique(header: Sequence[str]) -> list[str]:
    """Names of which none comes twice, as JSON's keys must be: a second `note` is called `note_2`."""
    names: dict[str, None] = {}
    taken = set(header)
    for name in header:
        free, number = name, 2
        while free in names or (free != name and free in taken):
            free, number = f"{name}_{number}", number + 1
        names[free] = None
    return list(names)


def _put(stream: IO[bytes], lines: Iterable[str]) -> int:
    written = list(lines)
    stream.write("".join(written).encode("utf-8", "backslashreplace"))
    return len(written)


def _converted(sheet: Chunk, convert: Callable[[Column], Column]) -> Chunk:
    return Chunk(sheet.header, list(map(convert, sheet.columns)))


def _shown(column: Column, *, decimal_comma: bool) -> list[str]:
    """A column's cells as CSV and TSV have them."""
    if decimal_comma:
        return [_cell(cell).replace(".", ",") if isinstance(cell, float) else _cell(cell) for cell in cells_of(column)]
    return list(map(_cell, cells_of(column)))


def _cell(cell: Any) -> str:
    if isinstance(cell, str):
        return cell if cell[:1].isalnum() else escape_formula(cell)  # most are; nothing that is inert begins so
    if cell is None:
        return ""
    return (
        escape_formula(JOIN.join(cell)) if isinstance(cell, tuple) else text(cell)
    )  # a tuple is an answer's list; the input's own stay JSON


def _csv_lines(delimiter: str, columns: Iterable[Iterable[str]], end: str) -> list[str]:
    written: list[str] = []
    # Python before 3.11.9 quotes only the line ends that it was given, so it is given both (https://github.com/python/cpython/issues/67044)
    csv.writer(SimpleNamespace(write=written.append), delimiter=delimiter, lineterminator="\r\n").writerows(
        zip(*columns, strict=True)
    )
    return written if end == "\r\n" else [line[:-2] + end for line in written]


def _tsv_lines(columns: Iterable[Iterable[str]], end: str) -> list[str]:
    clean = [[cell.translate(_TSV) for cell in column] for column in columns]
    return ["\t".join(row) + end for row in zip(*clean, strict=True)]


def _json_lines(keys: list[str], sheet: Chunk) -> Iterator[str]:
    for row in zip(*sheet.columns, strict=True):
        record = dict(zip(keys, row, strict=True))
        try:
            yield _STRICT.encode(record) + "\n"
        except ValueError:
            yield _STRICT.encode(as_finite(record)) + "\n"


def _put_arrow(parquet: Any, sheet: Chunk, schema: pa.Schema) -> int:
    rows = pa.table(
        [_as_arrow(column, of) for column, of in zip(sheet.columns, schema.types, strict=True)], schema=schema
    )
    parquet.write_table(rows)
    return int(rows.num_rows)


def _as_arrow(column: Column, of: pa.DataType) -> Any:
    if not isinstance(column, list):
        return column
    if pa.types.is_string(of):
        column = [None if cell is None else escape_surrogates(text(cell)) for cell in column]
    return pa.array(column, of)
