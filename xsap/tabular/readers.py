"""Input tables of terms: CSV, TSV, JSONL, XLSX and Parquet files read in chunks of rows.

A file is read twice. The first pass checks it to its end, so that a bad line in row nine million is reported before hours of linking and not
after them, and learns what only the end tells: the number of rows, the keys of a JSONL file, the types of the columns. The second pass gives the
rows as Arrow tables of bounded size, so memory is that of one chunk, for a file of any size.

A column of a Parquet file keeps its type. A JSONL or XLSX column whose cells have several types is stored as `cells.MixedType`.
"""

import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.files import file_ending, is_compressed, missing_file, open_csv, read_jsonl, read_tsv
from xsap.tabular.cells import cell_kind, output_type, storage_type, to_column, to_text

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx")
MAX_LINE_BYTES = 1 << 26
_MAX_COLUMNS = 10_000
_MAX_XLSX_ROWS = 1 << 20  # of a sheet, by its format
_ROWS_PER_CHECK = 1 << 14  # rows of a Parquet file checked at a time

T = TypeVar("T")


# Tables


@dataclass(frozen=True)
class InputTable:
    """A checked table of terms, whose rows can be read again and again in chunks.

    Attributes:
        where: Its name in messages.
        header: The names of its columns; a name may be there twice.
        types: Each column's type when it is written as Parquet.
        rows: How many rows it has; None if only the end of the input tells.
        chunks: Given a number of rows, the rows from the first on as Arrow tables of that size; the last one may be shorter.
        path: The file, if it is one.
        sheet: The sheet of a workbook that was asked for.
        delimiter: The delimiter of a CSV file.
        repairs: What was repaired while the file was checked: reason → how many cells or rows. For the summary of a command.
        notes: What was chosen and is not said by the caller's options, such as the sheet of a workbook. For the summary of a command.
    """

    where: str
    header: list[str]
    types: list[pa.DataType]
    rows: int | None
    chunks: Callable[[int], Iterator[pa.Table]]
    path: Path | None = None
    sheet: str | None = None
    delimiter: str = ","
    repairs: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """The notes and the repairs as phrases for a summary, such as `sheet 'Terms'` and `short rows, filled up: 3`."""
        return [*self.notes, *(f"{reason}: {count:,}" for reason, count in self.repairs.items())]

    def column_index(self, column: str) -> int:
        """The position of a column in the header. Raises DataError if it isn't there, or is there twice."""
        if self.header.count(column) == 1:
            return self.header.index(column)
        if column in self.header:
            raise DataError(f"{self.where}: expected one column '{column}', found two of that name")
        found = ", ".join(self.header[:50]) + (", …" if len(self.header) > 50 else "")
        raise DataError(f"{self.where}: expected a column '{column}', found {found}{did_you_mean(column, self.header)}")


def open_table(
    path: Path | str, *, sheet: str | None = None, encoding: str | None = None, header_row: int = 1
) -> InputTable:
    """Check a file of terms to its end, and prepare to read it again in chunks.

    Args:
        path: A `.csv`, `.tsv`, `.jsonl` (these also compressed, `.gz` or `.bz2`), `.parquet` or `.xlsx` file.
        sheet: The sheet of a workbook; the first by default.
        encoding: The encoding of a text file; UTF-8 by default.
        header_row: The row with the names of the columns, from 1; the rows before it are skipped.

    Raises:
        DataError: With file and line, for a file that can't be read.
        ConfigError: For a sheet of a file that is not a workbook.
    """
    path = Path(path)
    ending = file_ending(path)
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: expected a file that ends in .csv, .tsv, .jsonl (or one of these and .gz), .parquet or .xlsx"
        )
    if is_compressed(path) and ending in (".parquet", ".xlsx"):
        raise DataError(f"{path}: expected a {ending} file without further compression; decompress it first")
    if sheet is not None and ending != ".xlsx":
        raise ConfigError(f"--sheet '{sheet}' is for .xlsx files, found {path}")
    if ending == ".parquet":
        return _open_parquet(path)
    if ending == ".jsonl":
        return _open_jsonl(path)
    return _open_xlsx(path, sheet) if ending == ".xlsx" else _open_delimited(path, ending)


def table_of_terms(terms: Iterable[str], where: str, *, rows: int | None = None) -> InputTable:
    """Bare terms as a table of one column, `mention`; an iterator is consumed only as far as needed, and only once."""

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(iter(terms), size):
            yield pa.table([to_column(batch, pa.string())], ["mention"])

    return InputTable(where, ["mention"], [pa.string()], rows, chunks)


def _batches(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(rows, size)):
        yield batch


def _check_header(header: list[str], path: Path) -> list[str]:
    if not any(header):
        raise DataError(f"{path}: expected a header with column names, found an empty file")
    if len(header) > _MAX_COLUMNS:
        raise DataError(f"{path}: expected at most {_MAX_COLUMNS:,} columns, found more. Is it a table?")
    return header


def _open_delimited(path: Path, ending: str) -> InputTable:
    def read() -> tuple[str, Iterator[tuple[int, list[str]]]]:
        if ending == ".csv":
            return open_csv(path, max_line_bytes=MAX_LINE_BYTES)
        return ",", read_tsv(path, max_line_bytes=MAX_LINE_BYTES)

    delimiter, rows = read()
    header = _check_header(next(rows, (1, []))[1], path)
    types = [pa.string()] * len(header)

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(islice(read()[1], 1, None), size):
            columns = zip(*(row for _, row in batch), strict=True)
            yield pa.table([pa.array(column, pa.string()) for column in columns], header)

    return InputTable(str(path), header, types, sum(1 for _ in rows), chunks, path, delimiter=delimiter)


def _open_jsonl(path: Path) -> InputTable:
    kinds: dict[str, set[str]] = {}
    count = 0
    for count, (_, record) in enumerate(read_jsonl(path, max_line_bytes=MAX_LINE_BYTES), start=1):  # noqa: B007
        for key, cell in record.items():
            kinds.setdefault(key, set()).add(cell_kind(cell))
        if len(kinds) > _MAX_COLUMNS:
            break
    header = _check_header(list(kinds), path)
    storage = [storage_type(found) for found in kinds.values()]

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(read_jsonl(path, max_line_bytes=MAX_LINE_BYTES), size):
            cells = ([record.get(key) for _, record in batch] for key in header)
            yield pa.table(list(map(to_column, cells, storage)), header)

    return InputTable(str(path), header, list(map(output_type, kinds.values())), count, chunks, path)


def _open_xlsx(path: Path, sheet: str | None) -> InputTable:
    rows = read_xlsx(path, sheet)
    names = next(rows, [])
    kinds: list[set[str]] = []
    count = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007
        kinds += [set() for _ in row[len(kinds) :]]
        for found, cell in zip(kinds, row, strict=False):
            found.add(cell_kind(cell))
    width = max((number for number, found in enumerate(kinds, start=1) if found - {"none"}), default=0)
    width = max(width, *(number for number, name in enumerate(names, start=1) if name is not None), 0, 0)
    header = _check_header([to_text(name) for name in _padded(names, width)], path)
    kinds = (kinds + [set() for _ in header])[:width]
    storage = list(map(storage_type, kinds))

    def chunks(size: int) -> Iterator[pa.Table]:
        for batch in _batches(islice(read_xlsx(path, sheet), 1, None), size):
            columns = map(list, zip(*(_padded(row, width) for row in batch), strict=True))
            yield pa.table(list(map(to_column, columns, storage)), header)

    return InputTable(str(path), header, list(map(output_type, kinds)), count, chunks, path, sheet)


def _padded(row: list[Any], width: int) -> list[Any]:
    return row[:width] + [None] * (width - len(row))


def read_xlsx(path: Path, sheet: str | None) -> Iterator[list[Any]]:
    """The rows of a workbook's sheet (the first by default) from the first row with a value on, as long as they are; cells as JSON has them.

    Formulas give the values that were saved with them; a date is text as ISO 8601 has it. Empty rows are included where more rows follow.
    Raises DataError, and ConfigError where openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise ConfigError(
            f"{path}: reading .xlsx needs openpyxl, found none; install it: pip install 'xsap[xlsx]'"
        ) from None
    if not path.is_file():
        raise missing_file(path)
    book = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles that openpyxl doesn't know
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        yield from _sheet_rows(book, path, sheet)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # openpyxl checks little: damaged bytes raise whatever they break
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the file
            raise
        what = f"one that can't be read ({type(error).__name__}: {error})"
        if isinstance(error, zipfile.BadZipFile):
            what = "no workbook"
        raise DataError(
            f"{path}: expected an .xlsx workbook, found {what}. "
            "Is it damaged, protected by a password, or an old .xls? Save it as .xlsx"
        ) from None
    finally:
        if book is not None:
            book.close()


def _sheet_rows(book: Any, path: Path, sheet: str | None) -> Iterator[list[Any]]:
    sheets = {each.title: each for each in book.worksheets}
    if not sheets or (sheet is not None and sheet not in sheets):
        wanted = "a sheet" if sheet is None else f"a sheet '{sheet}'"
        raise DataError(f"{path}: expected {wanted}, found {', '.join(sheets) or 'none'}")
    chosen = sheets[sheet] if sheet is not None else book.worksheets[0]
    chosen.reset_dimensions()  # some programs state them wrongly, and what lies outside would be lost
    started, empty = False, 0
    for number, row in enumerate(chosen.iter_rows(), start=1):
        if number > _MAX_XLSX_ROWS:
            raise DataError(
                f"{path}: expected at most {_MAX_XLSX_ROWS:,} rows in a sheet, found more. Is the file damaged?"
            )
        cells = [_xlsx_value(cell) for cell in row]
        if any(cell is not None for cell in cells):
            yield from ([] for _ in range(empty))
            yield cells
            started, empty = True, 0
        else:
            empty += started


def _xlsx_value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime):
        from openpyxl.styles.numbers import is_datetime

        is_date = is_datetime(cell.number_format) == "date" and value.time() == time()
        return value.date().isoformat() if is_date else value.isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) else value


def _open_parquet(path: Path) -> InputTable:
    if not path.is_file():
        raise missing_file(path)
    with _parquet_errors(path), pq.ParquetFile(path) as file:
        schema, count = file.schema_arrow, 0
        for batch in file.iter_batches(_ROWS_PER_CHECK):
            batch.validate(full=True)
            count += batch.num_rows
    header = _check_header(list(schema.names), path)

    def chunks(size: int) -> Iterator[pa.Table]:
        with _parquet_errors(path), pq.ParquetFile(path) as file:
            held: list[pa.RecordBatch] = []
            for batch in file.iter_batches(size):
                held.append(batch)
                while sum(map(len, held)) >= size:
                    table = pa.Table.from_batches(held, schema)
                    held = table[size:].to_batches()
                    yield table[:size]
            if held:
                yield pa.Table.from_batches(held, schema)

    return InputTable(str(path), header, schema.types, count, chunks, path)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the file
            raise
        raise DataError(
            f"{path}: expected a Parquet file, found one that can't be read: "
            f"{str(error)[:200].rstrip('.')}. Is it damaged?"
        ) from None
