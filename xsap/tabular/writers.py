"""Output of linking: the input's columns and the answers, as CSV, TSV, JSONL or Parquet, optionally gzipped, or as plain text for people.

There are two forms. Long: each row of the input is repeated for each of its candidates, with their rank; a row without candidates is written
once, with the reason. Wide: each row is written once, followed by `concept_id_1`, `name_1`, …, `concept_id_2`, … and the reason.

Parquet and JSONL keep cells as they are. CSV and TSV are opened by spreadsheets, which run a cell that begins with `=`, `+`, `-` or `@` as a
formula, so every such cell of text gets an apostrophe before it, in the input's columns and headers too
(https://owasp.org/www-community/attacks/CSV_Injection). Numbers don't. Cells whose formula follows blanks, quotes or apostrophes get one
too; so removing one apostrophe from each cell that matches gives back exactly what was there.
"""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError
from xsap.files import file_ending
from xsap.linking.results import Result
from xsap.tabular.cells import MixedType, escape_surrogates, finite, to_cells, to_text
from xsap.tabular.readers import InputTable

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
FORMS = ("table", "csv", "tsv", "jsonl", "parquet")
LIST_SEPARATOR = "|"  # between the values of a list in CSV and TSV

_FIELDS = attrgetter(*CANDIDATE)
_FLOATS = [i for i, field in enumerate(CANDIDATE) if pa.types.is_float64(_TYPES[field])]
_LISTS = [i for i, field in enumerate(CANDIDATE) if pa.types.is_list(_TYPES[field])]
_DIGITS = 6  # of scores and confidences
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_SKIPPED = r"['\"\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]*"  # what a spreadsheet may skip before a formula
_FORMULA = re.compile(
    rf"['\"]*[\t\r\n\0]|{_SKIPPED}[=+\-@＝＋－＠]"
)  # full-width signs begin formulas in East Asian versions
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?%?")
_TSV_SPACES = str.maketrans(dict.fromkeys("\t\r\n", " "))


# Answers


class Answer(NamedTuple):
    """A result as cells: the fields of each candidate in the order of CANDIDATE, best first; and why there is no answer, if there is none."""

    candidates: list[list[Any]]
    reason: str | None

    @classmethod
    def from_result(cls, result: Result) -> "Answer":
        """The cells of a result; scores are rounded, and a result without candidates always has a reason."""
        candidates = [list(_FIELDS(candidate)) for candidate in result.candidates]
        for fields in candidates:
            for i in _FLOATS:
                fields[i] = None if fields[i] is None else round(fields[i], _DIGITS)
        return cls(candidates, result.reason if candidates else result.reason or "no candidates")


def encode_answer(answer: Answer) -> bytes:
    """An answer as a line of JSON, a tenth of the object's memory."""
    return _COMPACT.encode(answer).encode()


def decode_answer(line: bytes) -> Answer:
    """The answer that `encode_answer` made a line of. Raises ValueError or TypeError for another line."""
    candidates, reason = json.loads(line)
    for fields in candidates:
        if len(fields) != len(CANDIDATE):
            raise ValueError(f"expected {len(CANDIDATE)} fields of each candidate, found {len(fields)}")
        for i in _LISTS:
            fields[i] = tuple(fields[i])
    return Answer(candidates, reason)


def answer_columns(header: Sequence[str], *, wide: int | None) -> tuple[list[str], list[pa.DataType]]:
    """Names and types of the columns that answers add; a name that the header has already gets `linked_` before it.

    Args:
        header: The names of the input's columns.
        wide: The number of candidates that each row has columns for; None for the long form.
    """
    if wide is None:
        names, types = list(ANSWER), list(_TYPES.values())
    else:
        names = [f"{field}_{rank}" for rank in range(1, wide + 1) for field in CANDIDATE] + ["reason"]
        types = [_TYPES[field] for field in CANDIDATE] * wide + [_TYPES["reason"]]
    taken = set(header)
    return [_unused(name, taken) for name in names], types


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"linked_{name}"
    return name


def answer_cells(answers: Sequence[Answer], *, wide: int | None) -> tuple[list[int], list[list[Any]]]:
    """The answers to some rows as columns of cells.

    Args:
        answers: One for each row.
        wide: The number of candidates that each row has columns for; None for the long form.

    Returns:
        The row that each row of the output belongs to, and the cells of each of `answer_columns`.
    """
    belongs, rows = list[int](), list[list[Any]]()
    blank = [None] * len(CANDIDATE)
    for row, (candidates, reason) in enumerate(answers):
        if wide is not None:
            shown = candidates[:wide] + [blank] * (wide - len(candidates))
            rows.append([*(cell for candidate in shown for cell in candidate), reason])
        elif candidates:
            rows += [[rank, *candidate, reason] for rank, candidate in enumerate(candidates, start=1)]
        else:
            rows.append([None, *blank, reason])
        belongs += [row] * (1 if wide is not None else max(1, len(candidates)))
    width = len(ANSWER) if wide is None else wide * len(CANDIDATE) + 1
    return belongs, [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def with_answers(table: pa.Table, answers: Sequence[Answer], *, wide: int | None) -> pa.Table:
    """A table with the columns of an answer for each row."""
    names, types = answer_columns(table.column_names, wide=wide)
    belongs, cells = answer_cells(answers, wide=wide)
    repeated = table.take(pa.array(belongs, pa.int64()))
    columns = [_output_column(column, of) for column, of in zip(cells, types, strict=True)]
    return pa.table([*repeated.columns, *columns], [*table.column_names, *names])


def _output_column(cells: list[Any], of: pa.DataType) -> pa.Array:
    """Cells as a column of type `of`, as text where that is the type."""
    if pa.types.is_string(of):
        cells = [None if cell is None else escape_surrogates(to_text(cell)) for cell in cells]
    return pa.array(cells, of)


# Formats

# a table, its mentions and their answers → how many rows were written
Write = Callable[[pa.Table, Sequence[str], Sequence[Answer]], int]


@dataclass(frozen=True)
class OutputFormat:
    """How answers are written.

    Attributes:
        form: One of FORMS.
        top_k: The number of candidates asked for.
        wide: Whether each row is written once, not once for each candidate.
        excel: Whether CSV or TSV gets a byte-order mark, without which Excel takes UTF-8 for something else, and `\\r\\n`. If the input is a CSV
            with semicolons, so is the output, with decimal commas: Excel opens by itself only what is written as in its country.
        gz: Whether the output is compressed.

    Raises:
        ConfigError: For options that exclude each other.
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
            raise ConfigError("--wide needs --format csv, tsv, jsonl or parquet; found table")
        if self.excel and self.form not in ("csv", "tsv"):
            raise ConfigError(f"--excel needs --format csv or tsv; found {self.form}")
        if self.gz and self.form == "parquet":
            raise ConfigError("a .parquet file is already compressed; remove .gz from its name")

    @classmethod
    def for_file(
        cls, out: Path | None, form: str | None, *, top_k: int = 5, wide: bool = False, excel: bool = False
    ) -> "OutputFormat":
        """The format of a file, or of stdout (None): `form`, or else what the file's name ends in, or else a table.

        Args:
            out: The file; it is gzipped if its name ends in .gz.
            form: One of FORMS.
            top_k: The number of candidates asked for.
            wide: Whether each row is written once, not once for each candidate.
            excel: Whether CSV and TSV are written for Excel.
        """
        known = file_ending(out).removeprefix(".") if out else ""
        compression = out.suffix.lower() if out else ""
        if compression == ".bz2":
            raise ConfigError(f"{out}: expected a name without .bz2, because such files can only be read; use .gz")
        return cls(form or (known if known in FORMS else "table"), top_k, wide, excel, compression == ".gz")

    @property
    def candidate_columns(self) -> int | None:
        """The number of candidates that each row has columns for; None for the long form."""
        return self.top_k if self.wide else None


@contextmanager
def open_writer(stream: IO[bytes], output_format: OutputFormat, source: InputTable) -> Iterator[Write]:
    """Yield a function that writes a chunk of the source with its answers, and can be called again for the rows that follow."""
    target: Any = nullcontext(stream)
    if output_format.gz:
        target = gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0)
    with target as out:
        if output_format.form == "table":
            yield lambda _, mentions, answers: _put(out, text_lines(mentions, answers))
        elif output_format.form == "parquet":
            with _parquet_writer(out, output_format, source) as write:
                yield write
        elif output_format.form == "jsonl":
            yield _jsonl_writer(out, output_format, source)
        else:
            yield _text_writer(out, output_format, source)


@contextmanager
def _parquet_writer(out: IO[bytes], output_format: OutputFormat, source: InputTable) -> Iterator[Write]:
    wide = output_format.candidate_columns
    names, types = answer_columns(source.header, wide=wide)
    schema = pa.schema(list(zip(unique_names([*source.header, *names]), [*source.types, *types], strict=True)))
    with pq.ParquetWriter(out, schema, compression="zstd") as parquet:

        def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> int:
            columns = [
                _output_column(to_cells(column), of) if isinstance(column.type, MixedType) else column
                for column, of in zip(table.columns, source.types, strict=True)
            ]
            linked = with_answers(pa.table(columns, source.header), answers, wide=wide)
            parquet.write_table(pa.table(linked.columns, schema=schema))
            return int(linked.num_rows)

        yield write


def _jsonl_writer(out: IO[bytes], output_format: OutputFormat, source: InputTable) -> Write:
    wide = output_format.candidate_columns
    keys = unique_names([*source.header, *answer_columns(source.header, wide=wide)[0]])

    def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> int:
        belongs, added = answer_cells(answers, wide=wide)
        own = [_repeated(to_cells(column), belongs) for column in table.columns]
        return _put(out, _json_lines(keys, [*own, *added]))

    return write


def _json_lines(keys: list[str], columns: list[list[Any]]) -> Iterator[str]:
    for row in zip(*columns, strict=True):
        record = dict(zip(keys, row, strict=True))
        try:
            yield _STRICT.encode(record) + "\n"
        except ValueError:
            yield _STRICT.encode(finite(record)) + "\n"


def _text_writer(out: IO[bytes], output_format: OutputFormat, source: InputTable) -> Write:
    """CSV and TSV; the header is written at once."""
    wide, excel, is_csv = output_format.candidate_columns, output_format.excel, output_format.form == "csv"
    delimiter = source.delimiter if excel else ","
    decimal_comma = excel and is_csv and source.delimiter == ";"
    end = "\r\n" if excel else "\n"

    def shown(cells: Iterable[Any]) -> list[str]:
        if decimal_comma:
            return [_text(cell).replace(".", ",") if isinstance(cell, float) else _text(cell) for cell in cells]
        return list(map(_text, cells))

    def lines(columns: list[list[str]]) -> list[str]:
        return _csv_lines(delimiter, columns, end) if is_csv else _tsv_lines(columns, end)

    def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> int:
        belongs, added = answer_cells(answers, wide=wide)
        own = [_repeated(shown(to_cells(column)), belongs) for column in table.columns]
        return _put(out, lines([*own, *map(shown, added)]))

    header = [*source.header, *answer_columns(source.header, wide=wide)[0]]
    _put(out, ["\ufeff" if excel else "", *lines([shown([name]) for name in header])])
    return write


def _repeated(cells: list[Any], belongs: list[int]) -> list[Any]:
    return [cells[row] for row in belongs]


def _text(cell: Any) -> str:
    """A cell in CSV and TSV."""
    if isinstance(cell, str):
        return cell if cell[:1].isalnum() else escape_formula(cell)  # most are, and no formula begins so
    if cell is None:
        return ""
    if isinstance(cell, tuple):  # an answer's list; lists of the input stay JSON
        return escape_formula(LIST_SEPARATOR.join(cell))
    return to_text(cell)


def _csv_lines(delimiter: str, columns: list[list[str]], end: str) -> list[str]:
    written: list[str] = []
    # Python before 3.11.9 quotes only the line ends that it was given, so it is given both (https://github.com/python/cpython/issues/67044)
    csv.writer(SimpleNamespace(write=written.append), delimiter=delimiter, lineterminator="\r\n").writerows(
        zip(*columns, strict=True)
    )
    return written if end == "\r\n" else [line[:-2] + end for line in written]


def _tsv_lines(columns: list[list[str]], end: str) -> list[str]:
    clean = [[cell.translate(_TSV_SPACES) for cell in column] for column in columns]
    return ["\t".join(row) + end for row in zip(*clean, strict=True)]


def _put(out: IO[bytes], lines: Iterable[str]) -> int:
    written = list(lines)
    out.write("".join(written).encode("utf-8", "backslashreplace"))
    return len(written)


def text_lines(mentions: Sequence[str], answers: Sequence[Answer]) -> Iterator[str]:
    """Lines for people to read: each mention, and its candidates below it."""
    for mention, (candidates, reason) in zip(mentions, answers, strict=True):
        shown = mention if len(mention) <= 80 else f"{mention[:79]}…"
        yield (" ".join(shown.split()) or "(blank)") + "\n"
        fields = [dict(zip(CANDIDATE, candidate, strict=True)) for candidate in candidates]
        width = max((len(c["concept_id"]) for c in fields), default=0)
        calibrated = any(c["confidence"] is not None for c in fields)
        for rank, c in enumerate(fields, start=1):  # only the first has a confidence
            confidence = f"  {100 * c['confidence']:3.0f} %" if c["confidence"] is not None else " " * 7 * calibrated
            matched = "" if c["matched_name"] == c["name"] else f"  ({c['matched_name']})"
            yield f"{rank:>4}  {c['score']:6.3f}{confidence}  {c['concept_id']:{width}}  {c['name']}{matched}\n"
        if reason is not None:
            yield f"      {reason}\n"


def escape_formula(cell: str) -> str:
    """A cell of text for CSV and TSV: one that a spreadsheet would run as a formula gets an apostrophe before it."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def unique_names(header: Sequence[str]) -> list[str]:
    """Names without duplicates, as JSON's keys must be: a second `note` becomes `note_2`."""
    names: dict[str, None] = {}
    taken = set(header)
    for name in header:
        free, number = name, 2
        while free in names or (free != name and free in taken):
            free, number = f"{name}_{number}", number + 1
        names[free] = None
    return list(names)
