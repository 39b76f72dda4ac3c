"""Usagi's dialect of CSV (https://github.com/OHDSI/Usagi, ReadCSVFile and WriteCSVFile of version 1.4.3), and how files that other programs edited are read.

One line is one record, UTF-8 without a byte-order mark. A cell is quoted only if it has a quote or a comma, quotes in it are doubled, and a backslash is
an escape: `\\\\` is a backslash, `\\n` a line feed. Excel and other editors save the same table with a byte-order mark, with semicolons, or with
line ends inside quotes; Usagi can't read these, `read_records` can, and counts what it repaired.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xsap.errors import DataError
from xsap.files import open_bytes, text_lines
from xsap.tabular.delimited_text import detect_delimiter

BYTE_ORDER_MARK = "byte-order mark at the start"
OTHER_DELIMITER = "semicolons or tabs instead of commas"
LINE_ENDS = "line ends inside of cells"
PLAIN_BACKSLASHES = "rows with a backslash or a quote that is not escaped"
EMPTY_CELLS = "rows with empty cells beyond the header, cut"
BLANK_LINES_SKIPPED = "empty lines, skipped"

_ESCAPE = re.compile(r'\\([\\"n])')
_ESCAPED = {"\\": "\\", '"': '"', "n": "\n"}
_LINES_PER_RECORD = 1000  # a quote that is not closed within so many lines is a character of its cell


@dataclass(slots=True)
class Repairs:
    """What was repaired while a file was read.

    Attributes:
        counts: Reason → how often.
        lines: Reason → the line where it was found first.
    """

    counts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, line: int) -> None:
        """Count a repair."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.lines.setdefault(reason, line)

    def remarks(self) -> list[str]:
        """One phrase for each reason, for a summary."""
        return [f"{reason}: {count:,}" for reason, count in self.counts.items()]


def encode_cell(text: str) -> str:
    """A cell as Usagi writes it.

    >>> print(encode_cell('a, "b"'), encode_cell("back\\\\slash"), encode_cell("two\\nlines"))
    "a, ""b\""" back\\\\slash two\\nlines
    """
    cell = text.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n").replace('"', '""')
    return f'"{cell}"' if '"' in cell or "," in cell else cell


def decode_cell(raw: str) -> str:
    """The text of a cell between two delimiters. Where Usagi keeps the two characters of `\\n`, it is the line feed that Usagi wrote so."""
    if len(raw) > 1 and raw.startswith('"') and raw.endswith('"'):
        raw = raw[1:-1].replace('""', '"')
    return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], raw) if "\\" in raw else raw


def encode_record(cells: list[str]) -> str:
    """A record with its line end."""
    return ",".join(map(encode_cell, cells)) + "\n"


def read_records(path: Path, repairs: Repairs, *, encoding: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """The records of a file with the line that each begins in: the header first, then cells under it, as many as it has.

    Args:
        path: The file.
        repairs: Counts what was repaired.
        encoding: Its encoding, if it is not UTF-8 and has no byte-order mark.

    Raises:
        DataError: With file and line, for a record with more cells than the header.
    """
    with open_bytes(path) as stream:
        if stream.read(3) == b"\xef\xbb\xbf":
            repairs.add(BYTE_ORDER_MARK, 1)
    lines = _Lines(text_lines(path, encoding=encoding))
    number, line = lines.take() or (1, "")
    delimiter = detect_delimiter([line], ",;\t")
    if delimiter != ",":
        repairs.add(OTHER_DELIMITER, 1)
    header = [decode_cell(raw) for raw in split_record(line, delimiter)[0]]
    yield number, header
    while (taken := lines.take()) is not None:
        number, line = taken
        if not line.strip():
            repairs.add(BLANK_LINES_SKIPPED, number)
            continue
        raw, is_open = split_record(line, delimiter)
        if len(raw) != len(header):
            raw = _repaired(lines, number, line, raw, is_open, delimiter, len(header), repairs)
        if any(raw[len(header) :]):
            raise DataError(
                f"{path}:{number}: expected {len(header)} cells as in the header, found {len(raw)}. "
                "Is there a comma in a cell without quotes?"
            )
        if len(raw) > len(header):
            repairs.add(EMPTY_CELLS, number)
        cells = [decode_cell(cell) for cell in raw[: len(header)]]
        yield number, cells + [""] * (len(header) - len(cells))


def split_record(line: str, delimiter: str, *, escapes: bool = True, quotes: bool = True) -> tuple[list[str], bool]:
    """The cells of a line, still encoded, and whether a quote is open at its end.

    Args:
        line: Without its line end.
        delimiter: Between two cells, outside of quotes.
        escapes: Whether a backslash takes away the meaning of the character after it, as Usagi reads it.
        quotes: Whether a quote counts that is not at the start of a cell.
    """
    if '"' not in line and ("\\" not in line or not escapes):
        return line.split(delimiter), False
    cells, start = list[str](), 0
    quoted = escaped = False
    for at, character in enumerate(line):
        if character == '"' and not escaped and (quotes or quoted or at == start):
            quoted = not quoted
        elif character == delimiter and not quoted and not escaped:
            cells.append(line[start:at])
            start = at + 1
        escaped = escapes and character == "\\" and not escaped
    return [*cells, line[start:]], quoted


class _Lines:
    """Lines without their ends; those that were looked at can be given again."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines = lines
        self._held: list[tuple[int, str]] = []

    def take(self) -> tuple[int, str] | None:
        """The next line; None after the last one."""
        if self._held:
            return self._held.pop()
        found = next(self._lines, None)
        return None if found is None else (found[0], found[1].removesuffix("\n").removesuffix("\r"))

    def put_back(self, lines: list[tuple[int, str]]) -> None:
        """Give lines again, in their order."""
        self._held += reversed(lines)


def _repaired(
    lines: _Lines, number: int, line: str, raw: list[str], is_open: bool, delimiter: str, width: int, repairs: Repairs
) -> list[str]:
    """The cells of a line that has not as many as the header: with the lines after it, or without escapes, or as it is."""
    taken: list[tuple[int, str]] = []
    whole = line
    while is_open and len(taken) < _LINES_PER_RECORD and (following := lines.take()) is not None:
        taken.append(following)
        whole += f"\n{following[1]}"
        longer, is_open = split_record(whole, delimiter)
        if not is_open and len(longer) == width:
            repairs.add(LINE_ENDS, number)
            return longer
    lines.put_back(taken)
    for escapes, quotes in ((False, True), (True, False), (False, False)):
        other, is_open = split_record(line, delimiter, escapes=escapes, quotes=quotes)
        if len(other) == width and not is_open:
            repairs.add(PLAIN_BACKSLASHES, number)
            return other
    return raw
