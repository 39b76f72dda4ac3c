"""Output of linking: the input's columns and the answers, as CSV, TSV, JSONL, Parquet or XLSX, or as plain text for people.

Parquet and JSONL keep cells as they are, and XLSX keeps all text as text. In CSV and TSV, text that a spreadsheet program would run as a formula
is escaped, in the input's columns and headers too (see spreadsheet_text.py).
"""

import csv
import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError
from xsap.files import file_ending
from xsap.linking.results import validate_top_k
from xsap.tabular.answers import LIST_SEPARATOR, Answer, answer_cells, answer_columns, output_column, with_answers
from xsap.tabular.cells import MixedType, finite, to_cells, to_text
from xsap.tabular.readers import InputTable
from xsap.tabular.spreadsheet_text import escape_for_excel, escape_formula
from xsap.tabular.text_table import text_table
from xsap.tabular.workbook_writer import open_workbook

FORMS = ("table", "csv", "tsv", "jsonl", "parquet", "xlsx")
COMPRESSED = ("parquet", "xlsx")  # in themselves

_ENDINGS = {form: form for form in FORMS[1:]} | {"ndjson": "jsonl"}
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_TSV_SPACES = str.maketrans(dict.fromkeys("\t\r\n", " "))


class Written(NamedTuple):
    """What was written: rows, and how many cells were cut to fit the format."""

    rows: int
    cut: int = 0


# a table, its mentions and their answers → what was written
Write = Callable[[pa.Table, Sequence[str], Sequence[Answer]], Written]


@dataclass(frozen=True)
class OutputFormat:
    """How answers are written.

    Attributes:
        form: One of FORMS.
        top_k: The number of candidates asked for.
        wide: Whether each row is written once, not once for each candidate.
        excel: Whether CSV or TSV gets a byte-order mark, without which Excel takes UTF-8 for something else, and `\\r\\n`; and text that Excel
            would take for a number or a date is escaped. If the input is a CSV with semicolons, so is the output, with decimal commas: Excel
            opens by itself only what is written as in its country.
        gz: Whether the output is compressed.
        notes: The columns of the mention itself that are written before its candidates, some of NOTES; and those of ANNOTATED, if they are.

    Raises:
        ConfigError: For options that exclude each other.
    """

    form: str
    top_k: int = 5
    wide: bool = False
    excel: bool = False
    gz: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"expected a format among {', '.join(FORMS)}; found '{self.form}'")
        validate_top_k(self.top_k)
        if self.wide and self.form == "table":
            raise ConfigError("--wide needs --format csv, tsv, jsonl, parquet or xlsx; found table")
        if self.excel and self.form not in ("csv", "tsv"):
            needless = "; remove it, because Excel opens .xlsx as it is" if self.form == "xlsx" else ""
            raise ConfigError(f"--excel needs --format csv or tsv; found {self.form}{needless}")
        if self.gz and self.form in COMPRESSED:
            raise ConfigError(f"a .{self.form} file is already compressed; remove .gz from its name")

    @classmethod
    def for_file(
        cls, out: Path | None, form: str | None, *, top_k: int = 5, wide: bool = False, excel: bool = False
    ) -> "OutputFormat":
        """The format of a file, or of stdout (None): `form`, or else what the file's name ends in; of stdout a table.

        Args:
            out: The file; it is gzipped if its name ends in .gz.
            form: One of FORMS.
            top_k: The number of candidates asked for.
            wide: Whether each row is written once, not once for each candidate.
            excel: Whether CSV and TSV are written for Excel.

        Raises:
            ConfigError: The file's name ends in what no format has, or in what another format has; or for options that exclude each other.
        """
        if out is None:
            return cls(form or "table", top_k, wide, excel)
        compression, ending = out.suffix.lower(), file_ending(out)
        if compression == ".bz2":
            raise ConfigError(f"{out}: expected a name without .bz2, because such files can only be read; use .gz")
        known = _ENDINGS.get(ending.removeprefix("."))
        if known is None and form is None:
            endings = ", ".join(f".{each}" for each in FORMS[1:])
            found = f"found '{ending}'" if ending else "found none"
            raise ConfigError(f"{out}: expected a name that ends in {endings}, or --format; {found}")
        if known and form not in (None, known):
            raise ConfigError(f"{out}: expected --format {known} for a name that ends in {ending}, found {form}")
        return cls(form or str(known), top_k, wide, excel, compression == ".gz")

    @property
    def is_binary(self) -> bool:
        """Whether it is nothing for a terminal."""
        return self.gz or self.form in COMPRESSED

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
            lines = text_table()
            yield lambda _, mentions, answers: _put(out, lines(mentions, answers))
        elif output_format.form == "xlsx":
            with _workbook_writer(out, output_format, source) as write:
                yield write
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
    names, types = answer_columns(source.header, wide=wide, notes=output_format.notes)
    schema = pa.schema(list(zip(unique_names([*source.header, *names]), [*source.types, *types], strict=True)))
    with pq.ParquetWriter(out, schema, compression="zstd") as parquet:

        def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> Written:
            columns = [
                output_column(to_cells(column), of) if isinstance(column.type, MixedType) else column
                for column, of in zip(table.columns, source.types, strict=True)
            ]
            linked = with_answers(pa.table(columns, source.header), answers, wide=wide, notes=output_format.notes)
            parquet.write_table(pa.table(linked.columns, schema=schema))
            return Written(linked.num_rows)

        yield write


@contextmanager
def _workbook_writer(out: IO[bytes], output_format: OutputFormat, source: InputTable) -> Iterator[Write]:
    wide = output_format.candidate_columns
    with open_workbook(
        out, [*source.header, *answer_columns(source.header, wide=wide, notes=output_format.notes)[0]]
    ) as write_rows:

        def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> Written:
            belongs, added = answer_cells(answers, wide=wide, notes=output_format.notes)
            own = [_repeated(to_cells(column), belongs) for column in table.columns]
            return Written(len(belongs), write_rows([*own, *added]))

        yield write


def _jsonl_writer(out: IO[bytes], output_format: OutputFormat, source: InputTable) -> Write:
    wide = output_format.candidate_columns
    keys = unique_names([*source.header, *answer_columns(source.header, wide=wide, notes=output_format.notes)[0]])

    def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> Written:
        belongs, added = answer_cells(answers, wide=wide, notes=output_format.notes)
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
    end, escape = "\n", _escape
    if excel:
        end, escape = "\r\n", partial(escape_for_excel, decimal_sign="," if decimal_comma else ".")

    def shown(cells: Iterable[Any]) -> list[str]:
        if decimal_comma:
            return [repr(cell).replace(".", ",") if _is_finite(cell) else _text(cell, escape) for cell in cells]
        return [_text(cell, escape) for cell in cells]

    def lines(columns: list[list[str]]) -> list[str]:
        return _csv_lines(delimiter, columns, end) if is_csv else _tsv_lines(columns, end)

    def write(table: pa.Table, _: Sequence[str], answers: Sequence[Answer]) -> Written:
        belongs, added = answer_cells(answers, wide=wide, notes=output_format.notes)
        own = [_repeated(shown(to_cells(column)), belongs) for column in table.columns]
        return _put(out, lines([*own, *map(shown, added)]))

    header = [*source.header, *answer_columns(source.header, wide=wide, notes=output_format.notes)[0]]
    _put(out, ["\ufeff" if excel else "", *lines([shown([name]) for name in header])])
    return write


def _repeated(cells: list[Any], belongs: list[int]) -> list[Any]:
    return [cells[row] for row in belongs]


def _is_finite(cell: Any) -> bool:
    return isinstance(cell, float) and math.isfinite(cell)


def _text(cell: Any, escape: Callable[[str], str]) -> str:
    """A cell in CSV and TSV."""
    if isinstance(cell, str):
        return escape(cell)
    if cell is None:
        return ""
    if isinstance(cell, tuple):  # an answer's list; lists of the input stay JSON
        return escape(LIST_SEPARATOR.join(cell))
    return to_text(cell)


def _escape(cell: str) -> str:
    return cell if cell[:1].isalnum() else escape_formula(cell)  # most begin so, and no formula does


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


def _put(out: IO[bytes], lines: Iterable[str]) -> Written:
    written = list(lines)
    out.write("".join(written).encode("utf-8", "backslashreplace"))
    return Written(len(written))


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
