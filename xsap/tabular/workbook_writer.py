"""Answers as an Excel workbook (.xlsx) that is written row by row, in bounded memory.

Text is stored as text, in cells formatted as text, whatever it looks like: codes such as 007, identifiers of 18 digits, 1/2 and +49 stay as they
are, also when somebody edits the cell, and nothing is a formula or a link. Numbers of the input and scores are numbers, unless they have more
digits than Excel keeps. The header is frozen and has a filter; the widths of columns follow the first rows. Equal rows give equal bytes.

A cell of Excel holds 32,767 characters (UTF-16 code units): a longer one is cut, and counted. A sheet holds 1,048,576 rows and 16,384
columns: more are refused.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from xsap.errors import ConfigError
from xsap.tabular.answers import LIST_SEPARATOR
from xsap.tabular.cells import escape_surrogates, to_text

MAX_ROWS, MAX_COLUMNS = (
    1 << 20,
    1 << 14,
)  # of a sheet, https://support.microsoft.com/office/1672b34d-7043-467e-8e27-269d656771c3
MAX_CELL = 32_767  # UTF-16 code units
_MAX_EXACT = 10**15  # Excel keeps 15 digits of a number
_NARROWEST, _WIDEST = 8, 60  # columns, in characters
_ROWS_MEASURED = 200
_DOUBLE_WIDTH = "\u1100"  # about where the characters of double width begin
_RICH = ("<r>", "</r>")  # XlsxWriter takes text that begins and ends so for XML
_MADE = datetime(2000, 1, 1)  # not when it is written, so that equal rows give equal bytes
_INSTEAD = "or an --out that ends in .csv or .parquet"

WriteRows = Callable[[list[list[Any]]], int]
"""Columns of cells, at least one → how many of the cells were cut."""


def check_row_count(rows: int | None, where: object) -> None:
    """Raise ConfigError if a table has more rows than a sheet has below its header; to be called before any work.

    Args:
        rows: How many rows the table has; None if that isn't known.
        where: The table's name in the error.
    """
    if rows is not None and rows >= MAX_ROWS:
        raise ConfigError(
            f"{where}: expected at most {MAX_ROWS - 1:,} rows, as a workbook's sheet has, found {rows:,}; use an --out that ends in .csv or .parquet"
        )


@contextmanager
def open_workbook(out: IO[bytes], header: Sequence[str]) -> Iterator[WriteRows]:
    """Yield a function that appends rows to the only sheet of a new workbook, which is complete after the block.

    Args:
        out: The stream that the workbook is written to at the end; until then its rows are in a temporary folder, beside `out` if it is a file.
        header: The names of the columns.

    Raises:
        ConfigError: XlsxWriter is not installed, or there are more columns than a sheet has; and while rows are written, if there are more
            than a sheet has.
    """
    with open_book(out) as (book, text):
        if len(header) > MAX_COLUMNS:
            raise ConfigError(
                f"expected at most {MAX_COLUMNS:,} columns, as a workbook's sheet has, found {len(header):,}; "
                f"use a smaller --top-k, {_INSTEAD}"
            )
        sheet = _Sheet(book.add_worksheet("linked"), text)
        sheet.write([[_text(name)] for name in header])
        yield sheet.write
        sheet.finish()


@contextmanager
def open_book(out: IO[bytes]) -> Iterator[tuple[Any, Any]]:
    """Yield an empty workbook of XlsxWriter and its format of text; it is written when the block ends, unless that raises.

    Args:
        out: As for `open_workbook`.

    Raises:
        ConfigError: XlsxWriter is not installed.
    """
    try:
        import xlsxwriter
    except ImportError:
        raise ConfigError("writing .xlsx needs XlsxWriter, found none; install it: pip install 'xsap[xlsx]'") from None
    name = getattr(out, "name", None)
    beside = Path(name).parent if isinstance(name, str) else None
    with tempfile.TemporaryDirectory(prefix=".xsap-", dir=beside) as folder:
        book = xlsxwriter.Workbook(out, {"constant_memory": True, "tmpdir": folder, "use_zip64": True})
        book.set_properties({"created": _MADE})
        try:
            yield book, book.add_format({"num_format": "@"})
            _close(book)
        finally:
            book.fileclosed = True  # after an error nothing more is written


def _close(book: Any) -> None:
    from xlsxwriter.exceptions import FileCreateError

    try:
        book.close()
    except FileCreateError as error:  # such as for a full disk
        raise error.args[0] from None


class _Sheet:
    """A sheet that grows: how many rows it has, and how wide the first ones are.

    Args:
        sheet: XlsxWriter's.
        text: The format of cells of text.
    """

    def __init__(self, sheet: Any, text: Any) -> None:
        self._sheet, self._text, self._rows, self._widths = sheet, text, 0, list[int]()

    def write(self, columns: list[list[Any]]) -> int:
        """Append rows. Returns how many cells were cut; raises ConfigError if there are too many rows."""
        start, rows = self._rows, len(columns[0])
        if start + rows > MAX_ROWS:
            raise ConfigError(
                f"expected at most {MAX_ROWS - 1:,} rows, as a workbook's sheet has, found more; use --wide or a smaller --top-k, {_INSTEAD}"
            )
        if start < _ROWS_MEASURED:
            measured = [max(map(_width, column[:_ROWS_MEASURED]), default=0) for column in columns]
            self._widths = [max(pair) for pair in zip(self._widths or measured, measured, strict=True)]
        self._rows += rows
        cut = 0
        for row, cells in enumerate(zip(*columns, strict=True), start=start):
            for column, cell in enumerate(cells):
                cut += put_cell(self._sheet, row, column, cell, self._text)
        return cut

    def finish(self) -> None:
        """What a sheet has besides its rows."""
        last = len(self._widths) - 1
        for column, width in enumerate(self._widths):
            self._sheet.set_column(column, column, min(max(width + 2, _NARROWEST), _WIDEST))
        self._sheet.freeze_panes(1, 0)
        self._sheet.autofilter(0, 0, self._rows - 1, last)
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:XFD{MAX_ROWS}"})


def put_cell(sheet: Any, row: int, column: int, cell: Any, text_format: Any) -> bool:
    """Write a cell of a sheet, unless it is empty; text stays text, whatever it looks like.

    Args:
        sheet: XlsxWriter's.
        row: From 0.
        column: From 0.
        cell: As JSON has it, or an answer's list.
        text_format: The format of cells of text.

    Returns:
        Whether it was cut.
    """
    if isinstance(cell, bool):
        sheet.write_boolean(row, column, cell)
        return False
    if isinstance(cell, int | float) and abs(cell) < _MAX_EXACT:
        sheet.write_number(row, column, cell)
        return False
    whole = _text(cell)
    text = cut_to_cell(whole)
    if text.startswith(_RICH[0]) and text.endswith(_RICH[1]):  # in two runs it is text again
        sheet.write_rich_string(row, column, text[:1], text_format, text[1:], text_format)
    elif text:
        sheet.write_string(row, column, text, text_format)
    return text is not whole


def _text(cell: Any) -> str:
    """A cell as text; an answer's list with separators, as in CSV."""
    return escape_surrogates(LIST_SEPARATOR.join(cell) if isinstance(cell, tuple) else to_text(cell))


def cut_to_cell(text: str) -> str:
    """As much of a text as a cell holds, without half of a surrogate pair at its end."""
    if len(text) <= MAX_CELL // 2 or len(text.encode("utf-16-le")) // 2 <= MAX_CELL:
        return text
    return text.encode("utf-16-le")[: 2 * MAX_CELL].decode("utf-16-le", "ignore")


def _width(cell: Any) -> int:
    """How wide a cell is, in characters of a Latin script."""
    lines = _text(cell)[: 10 * _WIDEST].splitlines()
    return max((len(line) + sum(character >= _DOUBLE_WIDTH for character in line) for line in lines), default=0)
