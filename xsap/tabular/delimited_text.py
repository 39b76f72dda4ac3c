"""Text tables: rows of cells separated by commas, semicolons, tabs or bars, as spreadsheet programs, R and databases write them.

Cells are quoted as RFC 4180 (https://www.rfc-editor.org/rfc/rfc4180) has it. In tab-separated text, where many programs write quotes as they are,
a cell counts as quoted only if it begins and ends with a quote and each quote inside is doubled; any other quote is a character of the cell.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from xsap.errors import DataError
from xsap.files import MAX_CELL_CHARS, MAX_LINE_BYTES, file_ending, text_lines

DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SHORT_ROWS = "rows with fewer cells than the header, filled up"
LONG_ROWS = "rows with empty cells beyond the header, cut"
BLANK_LINES = "blank lines, skipped"
_USUAL = {".csv": ",;", ".tsv": "\t", ".txt": "\t"}  # delimiters that a file's name makes us expect
_SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n"])"?[\r\n]*', re.IGNORECASE)  # Excel's own way to state the delimiter
_OPEN_QUOTE = re.compile(r'(?:^|[,;\t|])"[^"]*$')
_QUOTED = re.compile(r'"[^"]*"')
_SAMPLE_LINES = 50  # that the delimiter is chosen from
_ROWS_PER_LIMIT = 1000  # rows read each time that csv's global limit is set
_LINES_PER_CELL = 1000  # a quote of tab-separated text that is not closed within so many lines is a character

NumberedLine = tuple[int, str]


@dataclass
class DelimitedText:
    """An open text table.

    Attributes:
        delimiter: What separates its cells.
        rows: The rows with the line that each begins in: the header first, then rows with as many cells.
        repairs: What was repaired in the rows read so far: reason → how many rows.
        notes: What was chosen and its name does not say.
    """

    delimiter: str
    rows: Iterator[tuple[int, list[str]]]
    repairs: Counter[str]
    notes: list[str]


def open_delimited(
    path: Path,
    *,
    encoding: str | None = None,
    header_row: int = 1,
    max_cell_chars: int = MAX_CELL_CHARS,
    max_line_bytes: int = MAX_LINE_BYTES,
    on_long_row: Callable[[int, DataError], None] | None = None,
    standard_quotes: bool = False,
) -> DelimitedText:
    """Open a text table.

    The delimiter is what a first line `sep=;` says. Else it is a tab in a .tsv file, and in others the one of comma, semicolon, tab and bar by
    which the header and the first rows have equally many cells; what is quoted does not count. Lines end with `\\n`, `\\r\\n`, or all with `\\r`.
    A blank line is skipped, except in a file of one column, where it is an empty cell. A row with too few cells is filled up with empty ones.

    Args:
        path: The file; `.gz` and `.bz2` are decompressed.
        encoding: Its encoding, if it is not UTF-8 and has no byte-order mark.
        header_row: The line of the header, from 1; lines before it are skipped, and blank ones after them.
        max_cell_chars: The longest cell; a longer one is most likely a quote left open.
        max_line_bytes: The longest line.
        on_long_row: Called with the line and the error of a row with more cells than the header, which is then skipped.
        standard_quotes: Whether quotes in tab-separated text are those of RFC 4180, too.

    Raises:
        DataError: With file and line; for rows, while they are read.
    """
    lines = _any_line_end(text_lines(path, encoding=encoding, max_bytes=max_line_bytes))
    notes: list[str] = []
    first = next(lines, None)
    stated = _SEPARATOR_LINE.fullmatch(first[1]) if first else None
    if first and not stated:
        lines = chain([first], lines)
    if header_row > 1:
        lines = (line for line in lines if line[0] >= header_row)
    sample = list(islice(lines, _SAMPLE_LINES))
    lines, ending = chain(sample, lines), file_ending(path)
    if stated:
        delimiter = stated[1]
    elif ending == ".tsv":
        delimiter = "\t"
    else:
        delimiter = detect_delimiter(
            [text for _, text in sample], "\t,;|" if ending == ".txt" else ",;\t|", max_cell_chars
        )
    if delimiter not in _USUAL.get(ending, ",;") and any(delimiter in text for _, text in sample):
        notes.append(f"cells separated by {DELIMITER_NAMES.get(delimiter, repr(delimiter))}")
    by_tabs = delimiter == "\t" and not standard_quotes
    split = tab_rows(lines) if by_tabs else _csv_rows(lines, path, delimiter, max_cell_chars)
    repairs = Counter[str]()
    return DelimitedText(delimiter, _equally_wide(split, path, repairs, header_row, on_long_row), repairs, notes)


def detect_delimiter(sample: list[str], candidates: str, max_cell_chars: int = MAX_CELL_CHARS) -> str:
    """The delimiter of a text table.

    Args:
        sample: Its first lines with their ends, the header first.
        candidates: The possible delimiters; of two that do equally well the one named first is taken.
        max_cell_chars: The longest cell.
    """
    lines = list(sample)
    while len(lines) > 1 and not lines[0].strip():
        del lines[0]
    present = [each for each in candidates if any(each in _QUOTED.sub("", line) for line in lines[:1])]
    if not present and lines and _OPEN_QUOTE.search(lines[0]):  # the header has a line break in a cell
        present = list(candidates)

    def consistency(delimiter: str) -> tuple[float, int]:
        with _csv_limit(max_cell_chars):
            try:
                rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
            except csv.Error:
                return 0.0, 0
        body = rows[1:-1] if len(sample) == _SAMPLE_LINES else rows[1:]
        equal = sum(len(row) == len(rows[0]) for row in body)
        return equal / len(body) if body else 1.0, len(rows[0])

    return max(present, key=consistency) if present else candidates[0]


def _any_line_end(lines: Iterator[NumberedLine]) -> Iterator[NumberedLine]:
    """Lines; those of a file that has carriage returns alone, which come as one line, are split."""
    first = next(lines, None)
    if first is None:
        return
    if "\r" in first[1] and "\n" not in first[1]:
        parts = first[1].split("\r")
        yield from ((number, f"{part}\n") for number, part in enumerate(parts, start=1) if part or number < len(parts))
        return
    yield first
    yield from lines


def _equally_wide(
    rows: Iterable[tuple[int, list[str]]],
    path: Path,
    repairs: Counter[str],
    header_row: int,
    on_long_row: Callable[[int, DataError], None] | None,
) -> Iterator[tuple[int, list[str]]]:
    """Rows from the first one with text on, each with as many cells as that one; an empty list is a blank line."""
    width = 0
    for number, row in rows:
        if not width:
            if any(cell.strip() for cell in row):
                width = len(row)
                yield number, row
        elif len(row) == width:
            yield number, row
        elif not row and width > 1:
            repairs[BLANK_LINES] += 1
        elif len(row) < width:
            if row:
                repairs[SHORT_ROWS] += 1
            yield number, row + [""] * (width - len(row))
        elif not any(row[width:]):
            repairs[LONG_ROWS] += 1
            yield number, row[:width]
        else:
            hint = "" if header_row > 1 else " If the header is in a later line, add --header-row with its number"
            error = DataError(
                f"{path}:{number}: expected {width} field(s) as in the header, found {len(row)}. "
                f"Is there a delimiter in a cell without quotes?{hint}"
            )
            if on_long_row is None:
                raise error
            on_long_row(number, error)


def _csv_rows(
    lines: Iterator[NumberedLine], path: Path, delimiter: str, max_cell_chars: int
) -> Iterator[tuple[int, list[str]]]:
    first = next(lines, None)
    if first is None:
        return
    last, before = 0, first[0] - 1

    def texts() -> Iterator[str]:
        nonlocal last
        for number, text in chain([first], lines):
            last = number
            yield text

    records = csv.reader(texts(), delimiter=delimiter, strict=True)
    while True:
        block: list[tuple[int, list[str]]] = []
        error = None
        with _csv_limit(max_cell_chars):
            try:
                block.extend((last, row) for row in islice(records, _ROWS_PER_LIMIT))
            except csv.Error as found:  # raised after the rows before it were given
                error = found
        for end, row in block:
            yield before + 1, row
            before = end
        if error:
            raise DataError(
                f"{path}:{before + 1}: expected CSV as in RFC 4180, found in the row that begins here: "
                f"{_csv_error(error, max_cell_chars)}"
            )
        if not block:
            return


def _csv_error(error: csv.Error, max_cell_chars: int) -> str:
    if "new-line" in str(error):
        return "a carriage return outside quotes. Does the file end some of its lines as old Macs did? Then convert it"
    if "field limit" in str(error):
        return f"a cell of more than {max_cell_chars:,} characters. Is a quote left open?"
    return f"{error}. Is a quote left open, or not doubled inside a quoted cell?"


@contextmanager
def _csv_limit(max_cell_chars: int) -> Iterator[None]:
    """Set csv's limit, which is global, for a moment."""
    before = csv.field_size_limit(max_cell_chars)
    try:
        yield
    finally:
        csv.field_size_limit(before)


# Tab-separated text


def tab_rows(lines: Iterator[NumberedLine]) -> Iterator[tuple[int, list[str]]]:
    """Rows of tab-separated lines; an empty list for a blank line."""
    width = 0
    ahead = deque[NumberedLine]()
    while True:
        line = ahead.popleft() if ahead else next(lines, None)
        if line is None:
            return
        number, text = line
        row = _without_end(text).split("\t")
        if '"' in text and any(cell.startswith('"') for cell in row):
            quoted, used = _quoted_row(text, ahead, lines)
            if (
                used
                and width
                and (len(quoted) != width or _are_rows([text, *(ahead[i][1] for i in range(used))], width))
            ):
                quoted, used = _quoted_row(text, None, lines)  # quotes that enclose line breaks by chance
            if len(quoted) == len(row) or used or not (width and len(row) == width):
                row = quoted
                for _ in range(used):
                    ahead.popleft()
        width = width or (len(row) if row != [""] else 0)
        yield number, [] if row == [""] and width != 1 else row


def _quoted_row(text: str, ahead: deque[NumberedLine] | None, lines: Iterator[NumberedLine]) -> tuple[list[str], int]:
    """The cells of a line, and how many of the following lines belong to them; `ahead` is filled with what is read. None: no others do."""
    row: list[str] = []
    at = used = 0
    while True:
        end = _closing_quote(text, at)
        if text.startswith('"', at) and end is None and ahead is not None:
            longer, more = _until_closed(text, ahead, used, lines)
            end = _closing_quote(longer, at)
            if end is not None and _ends_cell(longer, end):
                text, used = longer, more
            else:
                end = None
        if end is not None and _ends_cell(text, end):
            row.append(text[at + 1 : end].replace('""', '"'))
            at = end + 1
        else:
            tab = text.find("\t", at)
            stop = tab if tab >= 0 else len(_without_end(text))
            row.append(text[at:stop])
            at = stop
        if not text.startswith("\t", at):
            return row, used
        at += 1


def _are_rows(texts: list[str], width: int) -> bool:
    """Whether each line is a row by itself, so that quotes around several of them are no quoting."""
    return width > 1 and all(text.count("\t") == width - 1 for text in texts)


def _closing_quote(text: str, at: int) -> int | None:
    """Where the quote that opens at `at` is closed; None if none opens there, or it isn't closed."""
    if not text.startswith('"', at):
        return None
    end = text.find('"', at + 1)
    while end >= 0 and text.startswith('"', end + 1):
        end = text.find('"', end + 2)
    return end if end >= 0 else None


def _ends_cell(text: str, quote: int) -> bool:
    rest = text[quote + 1 : quote + 3]
    return rest.startswith(("\t", "\n")) or rest in ("", "\r", "\r\n")


def _until_closed(text: str, ahead: deque[NumberedLine], used: int, lines: Iterator[NumberedLine]) -> tuple[str, int]:
    """A text with the following lines up to the one that closes a quote, and how many lines follow it in all."""
    pieces, size = [text], len(text)
    open_quote = True
    while open_quote and used < _LINES_PER_CELL and size < MAX_CELL_CHARS:
        if used == len(ahead):
            line = next(lines, None)
            if line is None:
                break
            ahead.append(line)
        following = ahead[used][1]
        pieces.append(following)
        size += len(following)
        used += 1
        open_quote = _closing_quote(f'"{following}', 0) is None
    return "".join(pieces), used


def _without_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")
