"""Workbooks in Office Open XML (.xlsx and .xlsm, transitional and Strict), read as a stream of rows.

The format is ECMA-376 Part 1, SpreadsheetML. Only four of its parts are read: the list of sheets, one sheet, the shared strings and, for dates,
the number formats; damage anywhere else does no harm. Namespaces are ignored, which makes Strict workbooks equal to others. A reader of our
own, because the general ones lose what a term needs: one reads an error value as text, another as an empty cell; none tells a formula that was
never calculated from an empty cell; and a single value in the last possible cell makes one allocate the whole sheet.
"""

import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.parsers import expat

from xsap.errors import DataError
from xsap.files import MAX_CELL_CHARS, MAX_ZIP_RATIO, is_zip_bomb

_MAX_ROWS, _MAX_COLUMNS = 1 << 20, 1 << 14  # of a sheet, by its format
ERRORS_EMPTIED = "error values such as #N/A, read as empty"
_BLOCK_BYTES = 1 << 20
_MAX_STRINGS = 1 << 31  # characters of all shared strings

_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")
_BLANK_CELL = re.compile(rb'<c r="[A-Z]+[0-9]+"(?: s="[0-9]+")?(?: ?/>|></c>)')
_BLANK_ROW = re.compile(rb'<row r="[0-9]+"[^<>]*(?:/>|>\s*</row>)')
_CELL_NAME = re.compile(r"\$?([A-Za-z]{1,3})\$?([0-9]{1,10})")
_INTEGER = re.compile("[+-]?[0-9]{1,18}")

# Built-in number formats of ECMA-376 Part 1, 18.8.30
_DATE_FORMATS = {*range(14, 18), *range(27, 32), 36, *range(50, 55), 57, 58}
_TIME_FORMATS = {*range(18, 22), *range(32, 36), 45, 47, 55, 56}
_MOMENT_FORMAT, _DURATION_FORMAT = 22, 46
_LITERAL = re.compile(r'"[^"]*"|\\.|_.|\*.')  # parts of a number format that are shown as they are
_DURATION = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
_BRACKETS = re.compile(r"\[[^\[\]]*\]")  # colors, conditions and locales
_EPOCH = {False: datetime(1899, 12, 30), True: datetime(1904, 1, 1)}
_LAST_DAY = 2_958_466  # the day after 9999-12-31


class SheetInfo(NamedTuple):
    """A sheet's name, whether a person sees it, and where its cells are."""

    name: str
    visible: bool
    part: str


def decode_escapes(text: str) -> str:
    """Text with each `_xHHHH_` as the character that it stands for (ECMA-376 Part 1, 22.9.2.19, ST_Xstring)."""
    if "_x" not in text:
        return text
    units = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def format_kind(code: str) -> str | None:
    """What a number format shows a number as: `date`, `moment` (a date with a time), `time`, `duration`; None for a number."""
    section = _LITERAL.sub("", code.split(";")[0])
    if _DURATION.search(section):
        return "duration"
    letters = _BRACKETS.sub("", section)
    shown = set(letters.casefold().replace("general", ""))
    hours = bool(shown & set("hs"))
    if shown & set("yd") or ("m" in shown and not hours):
        return "moment" if hours else "date"
    return "time" if hours else None


def temporal_text(serial: float, kind: str, *, from_1904: bool = False) -> str | None:
    """A date, time or duration that is stored as a number of days, as ISO 8601 has it; None if no such day exists."""
    if kind == "duration":
        return duration_text(timedelta(days=serial)) if abs(serial) < _LAST_DAY else None
    if not 0 <= serial < _LAST_DAY:
        return None
    if not from_1904 and 1 <= serial < 60:  # 1900 has a 29 February there, day 60
        serial += 1
    moment = _EPOCH[from_1904] + timedelta(milliseconds=round(serial * 86_400_000))
    if kind == "time" or (serial < 1 and not from_1904):
        return moment.time().isoformat() if serial < 1 else moment.isoformat()
    return moment.date().isoformat() if kind == "date" and moment.time() == time() else moment.isoformat()


def duration_text(duration: timedelta) -> str:
    """A duration as hours, minutes and seconds: `30:00:00`."""
    seconds = round(abs(duration) / timedelta(milliseconds=1)) / 1000
    minutes, rest = divmod(seconds, 60)
    shown = f"{rest:06.3f}".removesuffix(".000")
    return f"{'-' if duration < timedelta() else ''}{int(minutes) // 60}:{int(minutes) % 60:02}:{shown}"


def number_of(text: str) -> int | float:
    """A number as the file has it: an integer if it is whole. Raises ValueError."""
    if _INTEGER.fullmatch(text):
        return int(text)
    number = float(text)
    return int(Decimal(text)) if number.is_integer() and abs(number) < 2**63 else number


class XlsxBook:
    """An open workbook.

    Args:
        stream: Its bytes.
        path: Its path, for messages.
    """

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._path = path
        self._archive = zipfile.ZipFile(stream)
        self._names = {_part_name(name): name for name in self._archive.namelist()}
        package = self._relations("")
        self._book = next((part for kind, part in package.values() if kind == "officeDocument"), "xl/workbook.xml")
        relations = self._relations(self._book)
        self._parts = dict(relations.values())
        self._from_1904 = False
        self._strings: list[str] | None = None
        self._kinds: list[str | None] | None = None
        self.sheets: list[SheetInfo] = []

        def start(tag: str, attributes: dict[str, str]) -> None:
            if tag == "workbookPr":
                self._from_1904 = attributes.get("date1904") in ("1", "true", "on")
            elif tag == "sheet":
                kind, part = relations.get(attributes.get("id", ""), ("", ""))
                if kind == "worksheet":
                    visible = attributes.get("state", "visible") == "visible"
                    self.sheets.append(SheetInfo(decode_escapes(attributes.get("name", "")), visible, part))

        self._parse(self._book, start)

    def rows(self, sheet: SheetInfo, repairs: Counter[str]) -> Iterator[tuple[int, list[Any]]]:
        """(number from 1, cells) of each row that has a value or an error; cells as JSON has them, empty ones and errors as
        None, dates as ISO 8601 has them.

        Args:
            sheet: One of `sheets`.
            repairs: Is increased by the error values that were read as empty.

        Raises:
            DataError: For a formula without a stored value, and for a damaged file.
        """
        if self._strings is None:
            self._strings = self._shared_strings()
        if self._kinds is None:
            self._kinds = self._number_formats()
        parser = _SheetParser(f"{self._path}: sheet '{sheet.name}'", self._cell_value, repairs)
        for _ in self._steps(sheet.part, parser.start, parser.end, parser.text, without_blanks=True):
            yield from parser.take()

    def _cell_value(self, kind: str, style: str, text: str) -> Any:
        """The value of a cell with text in it, by the cell's type."""
        if kind == "s":
            assert self._strings is not None
            return self._strings[_index(text)] or None
        if kind in ("str", "inlineStr"):
            return decode_escapes(text) or None
        if kind == "b":
            return text.strip() in ("1", "true")
        shown_as = (
            self._kinds[int(style)] if self._kinds and style.isdigit() and int(style) < len(self._kinds) else None
        )
        if kind == "d":
            return text.removesuffix("T00:00:00") if shown_as == "date" else text
        number = number_of(text.strip())
        as_text = temporal_text(number, shown_as, from_1904=self._from_1904) if shown_as else None
        return number if as_text is None else as_text

    def _shared_strings(self) -> list[str]:
        strings: list[str] = []
        pieces: list[str] = []
        open_tags: list[str] = []
        size = 0

        def start(tag: str, _: dict[str, str]) -> None:
            open_tags.append(tag)
            if tag == "si":
                pieces.clear()

        def text(data: str) -> None:
            nonlocal size
            if open_tags[-1:] == ["t"] and "rPh" not in open_tags:  # rPh: how Japanese text is pronounced
                pieces.append(data)
                size += len(data)
                if size > _MAX_STRINGS:
                    raise DataError(f"{self._path}: expected at most {_MAX_STRINGS:,} characters of text, found more")

        def end(tag: str) -> None:
            open_tags.pop()
            if tag == "si":
                strings.append(decode_escapes("".join(pieces)))

        if "sharedStrings" in self._parts:
            self._parse(self._parts["sharedStrings"], start, end, text)
        return strings

    def _number_formats(self) -> list[str | None]:
        """For each cell format what it shows a number as. Styles that can't be read are not needed: then dates are numbers."""
        known = dict.fromkeys(_DATE_FORMATS, "date") | dict.fromkeys(_TIME_FORMATS, "time")
        custom: dict[int, str | None] = {**known, _MOMENT_FORMAT: "moment", _DURATION_FORMAT: "duration"}
        kinds: list[str | None] = []
        inside = False

        def start(tag: str, attributes: dict[str, str]) -> None:
            nonlocal inside
            number = attributes.get("numFmtId", "")
            if tag == "numFmt" and number.isdigit():
                custom[int(number)] = format_kind(attributes.get("formatCode", ""))
            elif tag == "cellXfs":
                inside = True
            elif tag == "xf" and inside:
                kinds.append(custom.get(int(number)) if number.isdigit() else None)

        def end(tag: str) -> None:
            nonlocal inside
            inside = inside and tag != "cellXfs"

        if "styles" in self._parts:
            try:
                self._parse(self._parts["styles"], start, end)
            except (expat.ExpatError, DataError):
                return []
        return kinds

    def _relations(self, part: str) -> dict[str, tuple[str, str]]:
        """The relations of a part of the package: identifier → the last word of its type, and the part that it leads to."""
        folder, name = posixpath.split(part)
        found: dict[str, tuple[str, str]] = {}

        def start(tag: str, attributes: dict[str, str]) -> None:
            if tag == "Relationship" and attributes.get("TargetMode") != "External":
                target = posixpath.normpath(
                    posixpath.join("/", folder, attributes.get("Target", "").replace("\\", "/"))
                )
                found[attributes.get("Id", "")] = (attributes.get("Type", "").rpartition("/")[2], target.lstrip("/"))

        relations = posixpath.join(folder, "_rels", f"{name}.rels")
        if _part_name(relations) in self._names:
            self._parse(relations, start)
        return found

    def _parse(self, part: str, *handlers: Callable[..., None]) -> None:
        for _ in self._steps(part, *handlers):
            pass

    def _steps(
        self,
        part: str,
        start: Callable[[str, dict[str, str]], None],
        end: Callable[[str], None] | None = None,
        text: Callable[[str], None] | None = None,
        *,
        without_blanks: bool = False,
    ) -> Iterator[None]:
        """Parse a part of the package block by block. without_blanks: cut out cells and rows that have no value before they are parsed."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = lambda tag, attributes: start(_local(tag), _local_names(attributes))
        if end is not None:
            parser.EndElementHandler = lambda tag: end(_local(tag))
        if text is not None:
            parser.CharacterDataHandler = text
        parser.StartDoctypeDeclHandler = self._reject_doctype
        rest = b""
        with self._open(part) as stream:
            while block := stream.read(_BLOCK_BYTES):
                if without_blanks:
                    block, rest = _without_blanks(rest + block)
                parser.Parse(block, False)
                yield
        parser.Parse(rest, True)
        yield

    def _open(self, part: str) -> IO[bytes]:
        name = self._names.get(_part_name(part))
        if name is None:
            raise DataError(f"{self._path}: expected a workbook, found no {part} in it. Is it damaged?")
        info = self._archive.getinfo(name)
        if info.flag_bits & 1:
            raise DataError(
                f"{self._path}: expected a workbook without a password, found an encrypted one. "
                "Open it, remove the password and save it"
            )
        if is_zip_bomb(info):
            raise DataError(
                f"{self._path}: expected at most {MAX_ZIP_RATIO} times the compressed size of {part}, found "
                f"{info.file_size:,} bytes. Is it a damaged file, or a zip bomb? If it is neither, save it as .csv"
            )
        return self._archive.open(info)

    def _reject_doctype(self, *_: object) -> None:
        raise DataError(
            f"{self._path}: expected a workbook, found a document type declaration in its XML. Is it damaged?"
        )


class _SheetParser:
    """The cells of a sheet, from the events of an XML parser."""

    def __init__(self, where: str, value_of: Callable[[str, str, str], Any], repairs: Counter[str]) -> None:
        self._where, self._value_of, self._repairs = where, value_of, repairs
        self._rows: list[tuple[int, list[Any]]] = []
        self._number = self._column = 0
        self._cells: list[Any] = []
        self._kind = self._style = ""
        self._formula = self._reading = False
        self._phonetic = 0
        self._pieces: list[str] = []
        self._size = 0

    def take(self) -> list[tuple[int, list[Any]]]:
        """The rows that are complete."""
        rows, self._rows = self._rows, []
        return rows

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "c":
            self._place(attributes.get("r"))
            self._kind, self._style = attributes.get("t", "n"), attributes.get("s", "0")
            self._formula, self._size = False, 0
            self._pieces.clear()
        elif tag == "v" or (tag == "t" and not self._phonetic):
            self._reading = True
        elif tag == "f":
            self._formula = True
        elif tag == "rPh":
            self._phonetic += 1
        elif tag == "row":
            number = attributes.get("r", "")
            self._start_row(int(number) if number.isdigit() else self._number + 1)

    def text(self, data: str) -> None:
        if self._reading:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > MAX_CELL_CHARS:
                raise DataError(f"{self._where}: expected cells of at most {MAX_CELL_CHARS:,} characters, found more")

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._reading = False
        elif tag == "rPh":
            self._phonetic -= 1
        elif tag == "c":
            value = self._value()
            if value is not None or self._kind == "e":  # a row with nothing but an error is a row
                self._cells += [None] * (self._column - len(self._cells))
                self._cells[self._column - 1 : self._column] = [value]
        elif tag == "row" and self._cells:
            self._rows.append((self._number, self._cells))
            self._cells = []

    def _start_row(self, number: int) -> None:
        if number > _MAX_ROWS:
            raise DataError(
                f"{self._where}: expected at most {_MAX_ROWS:,} rows in a sheet, found more. Is the file damaged?"
            )
        if number <= self._number:
            raise DataError(f"{self._where}: expected rows in order, found row {number:,} after row {self._number:,}")
        self._number, self._column, self._cells = number, 0, []

    def _place(self, name: str | None) -> None:
        """Set the column of a cell from its name, such as AB12; a cell without a name is right of the one before it."""
        match = _CELL_NAME.fullmatch(name or "")
        column = self._column + 1
        if match:
            column = 0
            for letter in match[1]:
                column = 26 * column + (ord(letter) & 31)
        if column > _MAX_COLUMNS:
            raise DataError(
                f"{self._where}: expected at most {_MAX_COLUMNS:,} columns, found more. Is the file damaged?"
            )
        self._column = column

    def _value(self) -> Any:
        text = "".join(self._pieces)
        if self._kind == "e":
            self._repairs[ERRORS_EMPTIED] += 1
            return None
        if self._formula and not text and self._kind != "str":
            raise DataError(
                f"{self._where}, row {self._number:,}, column {self._column}: expected the value of a formula, found a formula that was "
                "never calculated. Open the workbook in Excel or LibreOffice and save it"
            )
        if not text:
            return None
        try:
            return self._value_of(self._kind, self._style, text)
        except (ValueError, IndexError):
            raise DataError(
                f"{self._where}, row {self._number:,}, column {self._column}: expected a value of type '{self._kind}', "
                f"found '{text[:40]}'. Is the file damaged?"
            ) from None


def _without_blanks(block: bytes) -> tuple[bytes, bytes]:
    """XML without cells and rows that have no value, up to the last tag that is complete; and the rest."""
    end = block.rfind(b">") + 1
    return (_BLANK_ROW.sub(b"", _BLANK_CELL.sub(b"", block[:end])), block[end:]) if end else (block, b"")


def _index(text: str) -> int:
    index = int(text)
    if index < 0:
        raise IndexError(index)
    return index


def _part_name(name: str) -> str:
    """A part's name as it is compared: OPC (ECMA-376 Part 2, 6.2.2) ignores the case of ASCII letters."""
    part = name.replace("\\", "/").lstrip("/")
    return part.casefold()


def _local(tag: str) -> str:
    return tag.rpartition(":")[2]


def _local_names(attributes: dict[str, str]) -> dict[str, str]:
    return {_local(name): value for name, value in attributes.items()}
