"""What files of terms look like from below: CSV, TSV, JSONL (plain or gzipped) and XLSX as rows, one after another, never all at once.

The only home of each format's dialect. CSV is RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180), with commas or semicolons; a cell keeps
its line ends. TSV has no quoting. JSONL is a JSON object a line. Of an XLSX workbook one sheet is read, with the values that its
formulas had when it was saved; a date is text as ISO 8601 has it. A blank line is no row, but in a file of one column an empty cell.
Whatever is wrong with a file is a DataError with file and line.
"""

import csv
import gzip
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import IO, Any

from xsap.artifacts import csv_delimiter
from xsap.errors import ConfigError, DataError

_LONGEST_CELL = 1 << 24  # characters; csv's own limit is below a page of text, and none would let an open quote take in the whole file
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
            raise DataError(f"{path}:{line + 1}: not CSV as RFC 4180 has it, in the row that begins here: {_why(error)}")
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
            record = json.loads(line, object_pairs_hook=_each_once, parse_constant=lambda name: None if name == "NaN" else name)
        except RecursionError:
            raise DataError(f"{path}:{number}: expected a JSON object, found one that is nested too deeply to be read") from None
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
        raise no_file(path)
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
                raise DataError(f"{path}: expected at most {_LAST_ROW:,} rows in a sheet, found more. Is the file damaged?")
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
        what = "no workbook" if isinstance(error, zipfile.BadZipFile) else f"one that can't be read ({type(error).__name__}: {error})"
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

        return value.date().isoformat() if is_datetime(cell.number_format) == "date" and value.time() == time() else value.isoformat()
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
                raise DataError(f"{path}:{number}: expected lines, found one of more than {_LONGEST_LINE:,} bytes. Is it the right file?")
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                found = f"byte 0x{raw[error.start]:02x} at column {error.start + 1:,}"
                raise DataError(f"{path}:{number}: expected UTF-8, found {found}; convert the file to UTF-8") from None
            yield number, line


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if not path.is_file():
        raise no_file(path)
    try:
        opener: Any = gzip.open if ending(path)[1] else Path.open
        with opener(path, "rb") as stream:
            yield stream
    except EOFError:
        raise DataError(f"{path}: expected a whole gzip file, found its end too early. Is the file cut short?") from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: expected a gzip file: {error}. Is it damaged, or not compressed at all?") from None


def no_file(path: Path) -> DataError:
    """What to raise where a file should be and isn't."""
    return DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} there. Is the path right?")


@contextmanager
def _large_cells() -> Iterator[None]:
    """csv's limit is a global; it is put back."""
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
