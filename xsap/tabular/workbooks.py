"""Sheets of workbooks: .xlsx, .xlsm, .xlsb, .xls and .ods.

What a file is follows from its bytes and not from its name, because workbooks are often renamed. Office Open XML is read as a stream (xlsx.py);
binary workbooks and OpenDocument by python-calamine, which loads the sheet into memory. It allocates a sheet with all of its empty cells, and
ends the process if it can't, so the extent of the sheets of an .xlsb workbook, which may have 16 billion cells, is checked first.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import IO, Any, Protocol
from xml.parsers import expat

from xsap.errors import ConfigError, DataError
from xsap.files import open_bytes
from xsap.tabular.xlsx import ERRORS_EMPTIED, SheetInfo, XlsxBook, duration_text

WORKBOOK_ENDINGS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_MAX_CELLS = 1 << 26  # of a sheet that is loaded into memory, empty ones included
_MAX_PART_BYTES = 1 << 30
_ROW_HEADER, _CELLS = 0, range(2, 12)  # records of [MS-XLSB] 2.3.1: BrtRowHdr; BrtCellRk to BrtFmlaError
_ERROR = re.compile(r"#(?:N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|SPILL!|CALC!|GETTING_DATA)|Err:[0-9]{3}")
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PASSWORD = "expected a workbook without a password, found an encrypted one. Open it, remove the password and save it"
_AS_XLSX = "Open it in Excel or LibreOffice and save it as .xlsx"


class Book(Protocol):
    """An open workbook."""

    sheets: list[SheetInfo]

    def rows(self, sheet: SheetInfo, repairs: Counter[str]) -> Iterator[tuple[int, list[Any]]]:
        """(number from 1, cells) of each row that has a value."""


@contextmanager
def open_workbook_file(path: Path) -> Iterator[Book]:
    """An open workbook of any of WORKBOOK_ENDINGS. Raises DataError, also while the block reads, and ConfigError without python-calamine."""
    with open_bytes(path) as stream, _workbook_errors(path):
        start = stream.read(512)
        stream.seek(0)
        if not start.startswith((b"PK", _COMPOUND_FILE, b"\x09\x08")):
            raise DataError(f"{path}: expected a workbook, found {_what_else(start)}")
        names: list[str] = []
        if start.startswith(b"PK"):
            archive = zipfile.ZipFile(stream)
            names = archive.namelist()
            _check_binary_sheets(archive, path)
        stream.seek(0)
        if names and "mimetype" not in names and not any(name.endswith("workbook.bin") for name in names):
            yield XlsxBook(stream, path)
        else:
            with _calamine_book(stream, path) as book:
                yield book


def choose_sheet(book: Book, sheet: str | None, path: Path) -> SheetInfo:
    """The sheet of a name, or else the first that a person sees. Raises DataError for a name that isn't there, and without a sheet."""
    named = [each for each in book.sheets if sheet in (None, each.name)]
    if not named:
        wanted = "a sheet of cells" if sheet is None else f"a sheet '{sheet}'"
        raise DataError(f"{path}: expected {wanted}, found {', '.join(each.name for each in book.sheets) or 'none'}")
    return next((each for each in named if each.visible), named[0])


def _what_else(start: bytes) -> str:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if re.match(rb"<(?:html|!doctype html|table|head|body|meta)", text, re.IGNORECASE):
        return f"a web page. {_AS_XLSX}"
    if text.startswith(b"<?xml"):
        return f"XML of another kind. {_AS_XLSX}"
    if start and b"\0" not in start:
        return "text. If it is a table with tabs or commas between its cells, rename it to end in .txt or .csv"
    return f"something else. Is it damaged? {_AS_XLSX}"


@contextmanager
def _workbook_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, ConfigError, MemoryError):
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{path}: expected a workbook, found one that is damaged ({error}). {_AS_XLSX}") from None
    except (expat.ExpatError, ValueError, LookupError, RuntimeError, OverflowError) as error:
        raise DataError(f"{path}: expected a workbook, found one with damaged XML ({error}). {_AS_XLSX}") from None


# Workbooks read by python-calamine


def _check_binary_sheets(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise DataError if a sheet of an .xlsb workbook, with its empty cells, is more than can be loaded."""
    for info in archive.infolist():
        if re.search(r"worksheets/[^/]*\.bin$", info.filename):
            if info.file_size > _MAX_PART_BYTES:
                raise DataError(
                    f"{path}: expected sheets of at most {_MAX_PART_BYTES:,} bytes, found {info.file_size:,}. {_AS_XLSX}"
                )
            rows, columns = binary_extent(archive.read(info))
            if rows * columns > _MAX_CELLS:
                raise DataError(
                    f"{path}: expected sheets of at most {_MAX_CELLS:,} cells, empty ones included, found one of {rows:,} rows and "
                    f"{columns:,} columns. Delete what is far from the table, or save it as .xlsx"
                )


def binary_extent(data: bytes) -> tuple[int, int]:
    """The number of rows and of columns of a sheet as [MS-XLSB] has it, up to the last cell with a value. Raises IndexError if it is damaged."""
    rows = columns = row = at = 0
    while at < len(data):
        kind, at = _variable_integer(data, at, 2)
        size, at = _variable_integer(data, at, 4)
        if kind == _ROW_HEADER:
            row = int.from_bytes(data[at : at + 4], "little")
        elif kind in _CELLS:
            rows, columns = max(rows, row + 1), max(columns, int.from_bytes(data[at : at + 4], "little") + 1)
        at += size
    return rows, columns


def _variable_integer(data: bytes, at: int, most: int) -> tuple[int, int]:
    """An integer of seven bits a byte, of at most so many bytes, and the position after it."""
    value = 0
    for shift in range(most):
        byte = data[at]
        at += 1
        value |= (byte & 127) << 7 * shift
        if byte < 128:
            break
    return value, at


@contextmanager
def _calamine_book(stream: IO[bytes], path: Path) -> Iterator[Book]:
    try:
        from python_calamine import CalamineError, CalamineWorkbook, PasswordError
    except ImportError:
        raise ConfigError(
            f"{path}: reading this kind of workbook needs python-calamine, found none; install it: pip install 'xsap[xlsx]', "
            "or save the workbook as .xlsx"
        ) from None
    try:
        with CalamineWorkbook.from_filelike(stream) as book:
            yield _CalamineBook(book, path)
    except PasswordError:
        raise DataError(f"{path}: {_PASSWORD}") from None
    except CalamineError as error:
        raise DataError(f"{path}: expected a workbook, found one that can't be read ({error}). {_AS_XLSX}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # an assertion of calamine, in Rust
            raise
        raise DataError(f"{path}: expected a workbook, found one that can't be read ({error}). {_AS_XLSX}") from None


class _CalamineBook:
    """A workbook that calamine opened.

    Args:
        book: calamine's workbook.
        path: Its path, for messages.
    """

    def __init__(self, book: Any, path: Path) -> None:
        from python_calamine import SheetTypeEnum, SheetVisibleEnum

        self._book, self._path = book, path
        self.sheets = [
            SheetInfo(each.name, each.visible == SheetVisibleEnum.Visible, each.name)
            for each in book.sheets_metadata
            if each.typ == SheetTypeEnum.WorkSheet
        ]

    def rows(self, sheet: SheetInfo, repairs: Counter[str]) -> Iterator[tuple[int, list[Any]]]:
        """(number from 1, cells) of each row that has a value; cells as JSON has them, empty ones as None, dates as ISO 8601 has them."""
        found = self._book.get_sheet_by_name(sheet.name)
        first_row, first_column = found.start or (0, 0)
        for number, row in enumerate(found.to_python(skip_empty_area=True), start=first_row + 1):
            cells = [_calamine_value(cell, repairs) for cell in row]
            if any(cell is not None for cell in cells):
                yield number, [None] * first_column + cells


def _calamine_value(cell: Any, repairs: Counter[str]) -> Any:
    if isinstance(cell, str):
        if _ERROR.fullmatch(cell):
            repairs[ERRORS_EMPTIED] += 1
            return None
        return cell or None
    if isinstance(cell, float):
        return int(cell) if cell.is_integer() and abs(cell) < 2**63 else cell
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == time() else cell.isoformat()
    if isinstance(cell, date | time):
        return cell.isoformat()
    return duration_text(cell) if isinstance(cell, timedelta) else cell
