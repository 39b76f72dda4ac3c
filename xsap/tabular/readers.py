"""What a cell is: as JSON has it, as text, and as the one Arrow type that a whole column can take.

A cell comes from CSV, JSON, a workbook or a Parquet file, and goes to any of CSV, TSV, JSONL and Parquet. On the way it is a value that JSON
has, or stays in Arrow; nothing of it is lost, but a column of several kinds of values becomes text where it must have one type.

What files of terms look like from below: CSV, TSV, JSONL (plain or gzipped) and XLSX as rows, one after another, never all at once.

The only home of each format's dialect. CSV is RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), with commas or semicolons; a cell keeps
its line ends. TSV has no quoting. JSONL is a JSON object a line. Of an XLSX workbook one sheet is read, with the values that its
formulas had when it was saved; a date is text as ISO 8601 has it. A blank line is no row, but in a file of one column an empty cell.
Whatever is wrong with a file is a DataError with file and line.

Terms by the column: a file of terms as a `InputTable`, whose rows come in chunks with all their columns.

A file is read twice. The first time it is checked to its end, so that a bad line in row nine million is told of before hours of linking and not
after, and what only the end tells is known at the start: how many rows there are, which keys a JSONL file's lines have, what a column
holds. The second time its rows come as `Chunk`s, so memory is that of one chunk, whatever the file's size. A column of a
Parquet file stays in Arrow, and so in its own type, until a text format asks for its cells.
"""

import csv
import difflib
import gzip
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError, DataError
from xsap.files import csv_delimiter

Column: TypeAlias = list[Any] | pa.ChunkedArray
_EXACT = 2**53  # beyond it not every integer is a float64


def cells_of(column: Column) -> list[Any]:
    """A column's cells as JSON has them: dates, times and decimals as text, bytes as the text they are in UTF-8, else in hexadecimal."""
    if isinstance(column, list):
        return column
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    of = column.type
    if pa.types.is_float32(of):  # as short as it was: 0.1, not 0.10000000149011612
        return [None if shown is None else float(shown) for shown in column.cast(pa.string()).to_pylist()]
    if pa.types.is_timestamp(of) or pa.types.is_date(of) or pa.types.is_time(of) or pa.types.is_decimal(of):
        return list(column.cast(pa.string()).to_pylist())
    values = column.to_pylist()
    simple = pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_boolean(of)
    return (
        values
        if simple or pa.types.is_string(of) or pa.types.is_large_string(of)
        else [_as_json(value) for value in values]
    )


def text(cell: object) -> str:
    """A cell as text: nothing for None and NaN, JSON for what is neither text nor a finite number."""
    if isinstance(cell, str):
        return cell
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else repr(cell)
    if type(cell) is int:
        return str(cell)
    return json.dumps(as_finite(cell), ensure_ascii=False)


def as_finite(cell: Any) -> Any:
    """A cell with every NaN in it as None and every infinity as text, because JSON has no such numbers."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return None if math.isnan(cell) else str(cell)
    if isinstance(cell, list):
        return [as_finite(value) for value in cell]
    return {key: as_finite(value) for key, value in cell.items()} if isinstance(cell, dict) else cell


def kind(cell: object) -> str:
    """What a cell is to a column that must have one type."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return "int" if abs(cell) <= _EXACT else "long" if -(2**63) <= cell < 2**63 else "huge"
    return "none" if cell is None else type(cell).__name__


def type_of(kinds: set[str]) -> pa.DataType:
    """The one type that holds all of these without loss; text where there is none, as `text` writes it."""
    found = kinds - {"none"}
    if found and found <= {"int", "long"}:
        return pa.int64()
    if found and found <= {"int", "float"}:
        return pa.float64()
    return pa.bool_() if found == {"bool"} else pa.string()


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    return [_as_json(each) for each in value] if isinstance(value, list | tuple) else str(value)


def escape_surrogates(value: str) -> str:
    """Text with half surrogate pairs, which UTF-8 can't hold, as `\\udc80`."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


_LONGEST_CELL = (
    1 << 24
)  # characters; csv's own limit is below a page of text, and none would let an open quote take in the whole file
_LONGEST_LINE = 1 << 26  # bytes
_LAST_ROW = 1 << 20  # of a sheet, by its format
_AT_ONCE = 1000
_BOM = b"\xef\xbb\xbf"
_SIGNATURES = {
    b"\x1f\x8b": "a gzip file; let its name end in .gz",
    b"PK\x03\x04": "a zip file or a workbook; if it is a workbook, let its name end in .xlsx",
    b"PAR1\x15": "a Parquet file; let its name end in .parquet",
    b"\xff\xfe": "UTF-16; convert the file to UTF-8",
    b"\xfe\xff": "UTF-16; convert the file to UTF-8",
}


def ending(path: Path | str) -> tuple[str, bool]:
    """How a file's name ends, in small letters and beneath a `.gz`, and whether that is there: (".csv", True) for Terms.CSV.gz."""
    name = PurePath(PurePath(path).name.casefold())
    return (name.with_suffix("").suffix, True) if name.suffix == ".gz" else (name.suffix, False)


def delimiter_of(path: Path) -> str:
    """What a CSV file has between its cells, by its first line."""
    return csv_delimiter(next((line for _, line in _lines(path)), ""))


def read_csv(path: Path) -> Iterator[list[str]]:
    """The header, then each row with as many cells. Raises DataError."""
    lines = (line for _, line in _lines(path))
    first = next(lines, "")
    records = csv.reader(chain([first], lines), delimiter=csv_delimiter(first), strict=True)
    width = line = 0
    while True:
        block: list[tuple[int, list[str]]] = []
        error = None
        with _large_cells():
            try:
                block.extend((records.line_num, row) for row in islice(records, _AT_ONCE))
            except csv.Error as found:  # told of after what is wrong in the rows before it
                error = found
        for end, row in block:
            where, line = f"{path}:{line + 1}", end
            if row or width == 1:
                width = width or len(row)
                yield _of_width(row or [""], width, where)
        if error:
            raise DataError(
                f"{path}:{line + 1}: not CSV as RFC 4180 has it, in the row that begins here: {_why(error)}"
            )
        if not block:
            return


def _why(error: csv.Error) -> str:
    if "new-line" in str(error):
        return "a carriage return outside quotes. Does the file end its lines as old Macs did? Then convert it"
    if "field limit" in str(error):
        return f"a cell of more than {_LONGEST_CELL:,} characters. Is a quote left open?"
    return f"{error}. Is a quote left open?"


def read_tsv(path: Path) -> Iterator[list[str]]:
    """The header, then each row with as many cells. Raises DataError."""
    width = 0
    for number, line in _lines(path):
        line = line.removesuffix("\n").removesuffix("\r")
        if line or width <= 1:
            row = line.split("\t")
            width = width or len(row)
            yield _of_width(row, width, f"{path}:{number}")


def _of_width(row: list[str], width: int, where: str) -> list[str]:
    if len(row) != width:
        raise DataError(f"{where}: expected {width} field(s) as in the header, found {len(row)}")
    return row


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Each line's object; NaN, which is no JSON but common, as None. Raises DataError."""
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(
                line, object_pairs_hook=_each_once, parse_constant=lambda name: None if name == "NaN" else name
            )
        except RecursionError:
            raise DataError(
                f"{path}:{number}: expected a JSON object, found one that is nested too deeply to be read"
            ) from None
        except ValueError as error:
            raise DataError(f"{path}:{number}: expected a JSON object, found what is no JSON: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: expected a JSON object, found {line[:40].strip()}")
        yield record


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("an object has a key twice")
    return record


def read_xlsx(path: Path, sheet: str | None) -> Iterator[list[Any]]:
    """The rows of a sheet (the first by default) from the first that has anything on, each as long as it is, a cell as JSON has it.

    Empty rows come through where more follow. Raises DataError, and ConfigError where openpyxl is missing.
    """
    try:
        import openpyxl
    except ImportError:
        raise ConfigError(f"{path}: reading .xlsx needs openpyxl; pip install 'xsap[xlsx]'") from None
    if not path.is_file():
        raise missing_file(path)
    book = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles that it doesn't know
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        sheets = {each.title: each for each in book.worksheets}
        if not sheets or (sheet is not None and sheet not in sheets):
            wanted = "a sheet" if sheet is None else f"a sheet '{sheet}'"
            raise DataError(f"{path}: expected {wanted}, found {', '.join(sheets) or 'none'}")
        chosen = sheets[sheet] if sheet is not None else book.worksheets[0]
        chosen.reset_dimensions()  # some programs state them wrongly, and what lies outside would be lost
        started, empty = False, 0
        for number, row in enumerate(chosen.iter_rows(), start=1):
            if number > _LAST_ROW:
                raise DataError(
                    f"{path}: expected at most {_LAST_ROW:,} rows in a sheet, found more. Is the file damaged?"
                )
            cells = [_cell(cell) for cell in row]
            if any(cell is not None for cell in cells):
                yield from ([] for _ in range(empty))
                yield cells
                started, empty = True, 0
            else:
                empty += started
    except (DataError, MemoryError):
        raise
    except Exception as error:  # openpyxl checks little: damaged bytes come up as whatever they break
        if isinstance(error, OSError) and error.errno is not None:  # a disk's failure, which is not the file's
            raise
        what = (
            "no workbook"
            if isinstance(error, zipfile.BadZipFile)
            else f"one that can't be read ({type(error).__name__}: {error})"
        )
        raise DataError(
            f"{path}: expected an .xlsx workbook, found {what}. Is it damaged, protected by a password, or an old .xls? Save it as .xlsx"
        ) from None
    finally:
        if book is not None:
            book.close()


def _cell(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime):
        from openpyxl.styles.numbers import is_datetime

        return (
            value.date().isoformat()
            if is_datetime(cell.number_format) == "date" and value.time() == time()
            else value.isoformat()
        )
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) else value


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end); only `\\n` ends a line. A byte-order mark is left out. Raises DataError."""
    with _open(path) as stream:
        number = 0
        while raw := stream.readline(_LONGEST_LINE):
            number += 1
            if number == 1:
                found = next((what for start, what in _SIGNATURES.items() if raw.startswith(start)), None)
                if not found and b"\0" in raw:
                    found = "a NUL byte in its first line. Is it UTF-16? Then convert it to UTF-8"
                if found:
                    raise DataError(f"{path}: expected text in UTF-8, found {found}")
                raw = raw.removeprefix(_BOM)
            if len(raw) >= _LONGEST_LINE:
                raise DataError(
                    f"{path}:{number}: expected lines, found one of more than {_LONGEST_LINE:,} bytes. Is it the right file?"
                )
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{raw[error.start]:02x} at column {error.start + 1:,}"
                raise DataError(f"{path}:{number}: expected UTF-8, found {found}; convert the file to UTF-8") from None
            yield number, line


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise missing_file(path)
    try:
        opener: Any = gzip.open if ending(path)[1] else Path.open
        with opener(path, "rb") as stream:
            yield stream
    except EOFError:
        raise DataError(
            f"{path}: expected a whole gzip file, found its end too early. Is the file cut short?"
        ) from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: expected a gzip file: {error}. Is it damaged, or not compressed at all?") from None


def missing_file(path: Path) -> DataError:
    """What to raise where a file should be and isn't."""
    return DataError(
        f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} there. Is the path right?"
    )


@contextmanager
def _large_cells() -> Iterator[None]:
    """csv's limit is a global; it is put back."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
_MOST_COLUMNS = 10_000
_CHECKED = 1 << 14  # rows at a time

T = TypeVar("T")


class Chunk(NamedTuple):
    """Some rows of a file, column by column. A list's cells are text, or whatever JSON has; None where there is none."""

    header: list[str]
    columns: list[Column]


@dataclass(frozen=True)
class InputTable:
    """Where terms come from, checked.

    where: for messages. types: what each column is when it is written as Parquet. rows: how many, None if only the end will tell. chunks:
    the rows from the first on, as many at a time as it is told, the last time fewer. path: the file, if it is one. sheet: of a
    workbook. delimiter: what a CSV file has between its cells.
    """

    where: str
    header: list[str]
    types: list[pa.DataType]
    rows: int | None
    chunks: Callable[[int], Iterator[Chunk]]
    path: Path | None = None
    sheet: str | None = None
    delimiter: str = ","

    def place(self, column: str) -> int:
        """Where in the header a column stands. Raises DataError if it isn't there, or is there twice."""
        if self.header.count(column) == 1:
            return self.header.index(column)
        if column in self.header:
            raise DataError(f"{self.where}: expected a column '{column}', found two of that name")
        near = difflib.get_close_matches(column, self.header, n=1, cutoff=0.5)
        found = ", ".join(self.header[:50]) + (", …" if len(self.header) > 50 else "")
        raise DataError(
            f"{self.where}: expected a column '{column}', found {found}"
            + (f"; did you mean '{near[0]}'?" if near else "")
        )


def open_source(path: Path | str, *, sheet: str | None = None) -> InputTable:
    """Read a `.csv`, `.tsv`, `.jsonl` (also with `.gz`), `.parquet` or `.xlsx` file to its end, and be ready to read it again.

    sheet: of a workbook; the first by default. Raises DataError with file and line; ConfigError for a sheet of what is no workbook.
    """
    path = Path(path)
    kind, encode_answer = ending(path)
    if kind not in ENDINGS:
        raise DataError(
            f"{path}: expected a file that ends in .csv, .tsv, .jsonl (or one of these and .gz), .parquet or .xlsx"
        )
    if encode_answer and kind in (".parquet", ".xlsx"):
        raise DataError(
            f"{path}: expected a {kind} file as it is, which is compressed inside; unpack it: gunzip {path.name}"
        )
    if sheet is not None and kind != ".xlsx":
        raise ConfigError(f"--sheet '{sheet}' is for .xlsx files, found {path}")
    if kind == ".parquet":
        return _parquet(path)
    if kind == ".jsonl":
        return _jsonl(path)
    return _xlsx(path, sheet) if kind == ".xlsx" else _delimited(path, read_csv if kind == ".csv" else read_tsv)


def terms_source(terms: Iterable[str], where: str, *, rows: int | None = None) -> InputTable:
    """Bare terms as a source of one column, `mention`; an iterator is taken from only as far as it is needed, and only once."""

    def chunks(size: int) -> Iterator[Chunk]:
        for batch in _batches(iter(terms), size):
            yield Chunk(["mention"], [list(batch)])

    return InputTable(where, ["mention"], [pa.string()], rows, chunks)


def _batches(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(rows, size)):
        yield batch


def _checked(header: list[str], path: Path) -> list[str]:
    if not any(header):
        raise DataError(f"{path}: expected columns with names, found an empty file")
    if len(header) > _MOST_COLUMNS:
        raise DataError(f"{path}: expected at most {_MOST_COLUMNS:,} columns, found more. Is it a table?")
    return header


def _delimited(path: Path, read: Callable[[Path], Iterator[list[str]]]) -> InputTable:
    rows = read(path)
    header = _checked(next(rows, []), path)

    def chunks(size: int) -> Iterator[Chunk]:
        for batch in _batches(islice(read(path), 1, None), size):
            yield Chunk(header, [list(column) for column in zip(*batch, strict=True)])

    count, delimiter = sum(1 for _ in rows), delimiter_of(path) if read is read_csv else ","
    return InputTable(str(path), header, [pa.string()] * len(header), count, chunks, path, delimiter=delimiter)


def _jsonl(path: Path) -> InputTable:
    kinds: dict[str, set[str]] = {}
    count = 0
    for count, record in enumerate(read_jsonl(path), start=1):  # noqa: B007
        for key, cell in record.items():
            kinds.setdefault(key, set()).add(kind(cell))
        if len(kinds) > _MOST_COLUMNS:
            break
    header = _checked(list(kinds), path)

    def chunks(size: int) -> Iterator[Chunk]:
        for batch in _batches(read_jsonl(path), size):
            yield Chunk(header, [[record.get(key) for record in batch] for key in header])

    return InputTable(str(path), header, [type_of(kinds[key]) for key in header], count, chunks, path)


def _xlsx(path: Path, sheet: str | None) -> InputTable:
    rows = read_xlsx(path, sheet)
    names = next(rows, [])
    kinds: list[set[str]] = []
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007
        kinds += [set() for _ in row[len(kinds) :]]
        for found, cell in zip(kinds, row, strict=False):
            found.add(kind(cell))
    width = max((place for place, found in enumerate(kinds, start=1) if found - {"none"}), default=0)
    width = max(width, *(place for place, name in enumerate(names, start=1) if name is not None), 0, 0)
    header = _checked([text(name) for name in _padded(names, width)], path)
    kinds += [set() for _ in header[len(kinds) :]]

    def chunks(size: int) -> Iterator[Chunk]:
        for batch in _batches(islice(read_xlsx(path, sheet), 1, None), size):
            yield Chunk(header, [list(column) for column in zip(*(_padded(row, width) for row in batch), strict=True)])

    return InputTable(str(path), header, [type_of(found) for found in kinds[:width]], count, chunks, path, sheet)


def _padded(row: list[Any], width: int) -> list[Any]:
    return row[:width] + [None] * (width - len(row))


def _parquet(path: Path) -> InputTable:
    if not path.is_file():
        raise missing_file(path)
    with _damage_told(path), pq.ParquetFile(path) as file:
        schema, count = file.schema_arrow, 0
        for batch in file.iter_batches(_CHECKED):
            batch.validate(full=True)
            count += batch.num_rows
    header = _checked(list(schema.names), path)

    def chunks(size: int) -> Iterator[Chunk]:
        with _damage_told(path), pq.ParquetFile(path) as file:
            held: list[pa.RecordBatch] = []
            for batch in file.iter_batches(size):
                held.append(batch)
                while sum(map(len, held)) >= size:
                    table = pa.Table.from_batches(held, schema)
                    held = table[size:].to_batches()
                    yield Chunk(header, table[:size].columns)
            if held:
                yield Chunk(header, pa.Table.from_batches(held, schema).columns)

    return InputTable(str(path), header, schema.types, count, chunks, path)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk's failure, which is not the file's
            raise
        raise DataError(
            f"{path}: expected a Parquet file, found one that can't be read: {str(error)[:200].rstrip('.')}. Is it damaged?"
        ) from None
