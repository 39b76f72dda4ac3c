"""Opening text files: decompression, encodings, numbered lines, JSONL and JSON.

Every reader of a text file goes through this module, so that a missing, truncated, wrongly compressed or wrongly encoded file gives the same
error everywhere: a DataError with file and line. Lines are read one at a time, and the length of a line is bounded. Two tools for readers
live here too: `prefetch_map`, which prepares the next pieces of a file in threads, and `RowCounts`, which accounts for every row.
"""

import bz2
import codecs
import gzip
import io
import json
import re
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import IO, Any, TypeVar

from xsap.errors import ConfigError, DataError

MAX_LINE_BYTES = 3 << 26
MAX_CELL_CHARS = 1 << 24  # without a limit, one open quote would read the whole file into memory
MAX_ZIP_RATIO = 400  # of a file's size in a zip to its compressed size; real XML stays below 100
_ALWAYS_UNZIPPED = 1 << 26  # bytes that a file in a zip may have, whatever its ratio

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
ZIP_ERRORS = (  # of a zip that is damaged, has a password, or is compressed in a way that Python does not know
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)
_BOM = b"\xef\xbb\xbf"
_MARKS = {_BOM: "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_COMMON_ENCODINGS = (
    "cp1252",
    "cp1250",
    "cp1251",
    "gb18030",
    "cp932",
    "mac_roman",
)  # tried for a suggestion, in this order
_SIGNATURES = {
    b"\x1f\x8b": "a gzip file; rename it to end in .gz",
    b"PK\x03\x04": "a zip file or a workbook; if it is a workbook, rename it to end in .xlsx",
    b"PAR1\x15": "a Parquet file; rename it to end in .parquet",
    b"\xff\xfe": "UTF-16; convert the file to UTF-8",
    b"\xfe\xff": "UTF-16; convert the file to UTF-8",
}
_TYPE_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # JSON can escape half of a surrogate pair, which UTF-8 can't encode

T = TypeVar("T")
R = TypeVar("R")


# Bytes and lines


def file_ending(path: Path) -> str:
    """The extension of a file's name in lower case, without the extension of its compression: `.tsv` for names.TSV.gz."""
    name = PurePath(path.name.lower())
    return (name.with_suffix("") if name.suffix in _OPENERS else name).suffix


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed: `.gz` or `.bz2`."""
    return path.suffix.lower() in _OPENERS


def missing_file(path: Path, expected: str = "a file") -> DataError:
    """The error for a path where there is no file."""
    found = "a folder" if path.is_dir() else "nothing"
    return DataError(f"{path}: expected {expected}, found {found} there. Is the path right?")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed if its name says so. Raises DataError, also while the block reads."""
    if not path.is_file():
        raise missing_file(path)
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as stream:
            yield stream
    except EOFError:
        raise DataError(
            f"{path}: expected a whole compressed file, found its end too early. Is the file cut short?"
        ) from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # an error of the disk, not of the file
            raise
        raise DataError(
            f"{path}: expected a {path.suffix} file: {error}. Is it damaged, or not compressed at all?"
        ) from None


def is_zip_bomb(info: zipfile.ZipInfo) -> bool:
    """Whether a file in a zip is too large for its compressed size."""
    return info.file_size > max(_ALWAYS_UNZIPPED, MAX_ZIP_RATIO * info.compress_size)


def byte_lines(path: Path, *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line with its end), without a byte-order mark. Raises DataError, also for a longer line."""
    with open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(max_bytes):
            number += 1
            if number == 1:
                raw = _text_start(raw, path)
            if len(raw) >= max_bytes:
                raise DataError(
                    f"{path}:{number}: expected lines, found one of more than {max_bytes:,} bytes. Is it the right file?"
                )
            yield number, raw


def _text_start(raw: bytes, path: Path) -> bytes:
    """The start of a file, without a byte-order mark. Raises DataError if it is not the start of a text file in UTF-8."""
    found = next((what for start, what in _SIGNATURES.items() if raw.startswith(start)), None)
    end = raw.find(b"\n")
    if not found and b"\0" in raw[: end if end >= 0 else None]:
        found = "a NUL byte in its first line. Is it UTF-16? Then convert it to UTF-8, or add --encoding utf-16-le"
    if found:
        raise DataError(f"{path}: expected text in UTF-8, found {found}")
    return raw.removeprefix(_BOM)


def text_encoding(path: Path, encoding: str | None = None) -> str:
    """The encoding of a text file: what its byte-order mark says, or else the one that is given, or else `utf-8`.

    Raises ConfigError for an encoding that Python does not know.
    """
    with open_bytes(path) as stream:
        return encoding_of(stream.read(4), encoding)


def encoding_of(start: bytes, encoding: str | None = None) -> str:
    """The encoding of bytes that begin with `start`, as `text_encoding`. Raises ConfigError for one that Python does not know."""
    marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if marked or encoding is None:
        return marked or "utf-8"
    try:
        b"a".decode(encoding, "replace")
        return codecs.lookup(encoding).name
    except (LookupError, ValueError):
        raise ConfigError(
            f"--encoding '{encoding}': expected the name of an encoding, such as cp1252, utf-16 or gb18030"
        ) from None


def text_lines(
    path: Path, *, encoding: str | None = None, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its end) of a text file in any encoding; only `\\n` ends a line.

    Args:
        path: The file; `.gz` and `.bz2` are decompressed.
        encoding: Its encoding; UTF-8 by default. A byte-order mark of UTF-8 or UTF-16 is always obeyed.
        max_bytes: The longest line.

    Raises:
        DataError: With file and line, while the lines are read; it suggests an encoding.
        ConfigError: For an unknown encoding.
    """
    name = text_encoding(path, encoding)
    if name == "utf-8":
        for number, raw in byte_lines(path, max_bytes=max_bytes):
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: {_not_utf8(raw[error.start], error.start)}{_suggest(raw)}") from None
        return
    number = 0
    with open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, name, newline="\n")
        try:
            while line := text.readline(max_bytes):
                number += 1
                if len(line) >= max_bytes:
                    raise DataError(f"{path}:{number}: expected lines, found one of more than {max_bytes:,} characters")
                yield number, line
        except UnicodeError as error:
            found = str(error).splitlines()[0]
            raise DataError(
                f"{path}: expected text in {name}, found after line {number:,}: {found}. Is it in another encoding?"
            ) from None


def _suggest(raw: bytes) -> str:
    """The end of a message about a line that is not in UTF-8: an encoding that it can be in."""
    for name in _COMMON_ENCODINGS:
        try:
            raw.decode(name)
        except UnicodeDecodeError:
            continue
        return f", or add --encoding {name}. In Excel, save it as 'CSV UTF-8'"
    return ". In Excel, save it as 'CSV UTF-8'"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end); only `\\n` and `\\r\\n` end a line. Raises DataError."""
    for number, line in _decoded_lines(path):
        yield number, line[:-1].removesuffix("\r") if line.endswith("\n") else line


def read_lines(path: Path | str) -> list[str]:
    """All lines of a file without their ends; only `\\n` and `\\r\\n` end a line. Raises DataError."""
    path = Path(path)
    with open_bytes(path) as stream:
        raw = stream.read()
    try:
        if _MARKS.get(raw[:2]) == "utf-16":
            raw = raw.decode("utf-16").encode()
        raw = _text_start(raw, path)
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number, start = raw.count(b"\n", 0, error.start) + 1, raw.rfind(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{number}: {_not_utf8(raw[error.start], error.start - start)}") from None
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _decoded_lines(path: Path) -> Iterator[tuple[int, str]]:
    if text_encoding(path) != "utf-8":
        yield from text_lines(path)
        return
    for number, raw in byte_lines(path):
        try:
            yield number, raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number}: {_not_utf8(raw[error.start], error.start)}") from None


def decode(raw: bytes, where: str) -> str:
    """Bytes decoded as UTF-8. Raises DataError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: expected UTF-8, found byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from None


def invalid_text_reason(line: bytes) -> str | None:
    """Why a line is not text in UTF-8, for a message; None if it is."""
    if b"\0" in line:
        return f"expected text, found a NUL byte at column {line.index(0) + 1:,}. Is the file damaged, or in UTF-16?"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(line[error.start], error.start)
    return None


def _not_utf8(byte: int, offset: int) -> str:
    return f"expected UTF-8, found byte 0x{byte:02x} at column {offset + 1:,} of the line; convert the file to UTF-8"


# JSONL, JSON


def read_jsonl(
    path: Path, *, encoding: str | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank; NaN, which is not JSON but common, is None. Raises DataError."""
    for number, line in text_lines(path, encoding=encoding, max_bytes=max_line_bytes):
        if line.strip():
            where = f"{path}:{number}"
            record = _load_json(
                line, where, "a JSON object", object_pairs_hook=_unique_keys, parse_constant=_without_nan
            )
            if not isinstance(record, dict):
                raise DataError(f"{where}: expected a JSON object, found {line[:40].strip()}")
            yield number, record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("an object has a key twice")
    return record


def _without_nan(name: str) -> str | None:
    return None if name == "NaN" else name


def _load_json(text: str, where: str, expected: str, **hooks: Any) -> Any:
    try:
        return json.loads(text, **hooks)
    except ValueError as error:
        raise DataError(f"{where}: expected {expected}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: expected {expected}, found one that is nested too deeply to be read") from None


def parse_json(text: str, where: str, expected: str) -> Any:
    """One JSON text as Python objects. expected: what it should be, for the message. Raises DataError."""
    value = _load_json(text, where, expected)
    if _HALF_PAIR.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: expected {expected}, found half of a surrogate pair in it, which is no character"
            ) from None
    return value


def check_json_type(value: Any, expected: type, where: str) -> Any:
    """Return a JSON value that must be a dict, list, str or bool. Raises DataError if it is not."""
    if not isinstance(value, expected):
        found = "nothing" if value is None else _TYPE_NAMES.get(type(value)) if isinstance(value, dict | list) else None
        raise DataError(f"{where}: expected {_TYPE_NAMES[expected]}, found {found or str(value)[:80]}")
    return value


# Tools for readers


def prefetch_map(function: Callable[[T], R], items: Iterable[T], *, ahead: int = 2) -> Iterator[tuple[T, R]]:
    """Each item with the function's result, in order, computed in threads for a few items ahead.

    It pays where most of the work runs outside Python, as Arrow's does.

    Args:
        function: Called with one item at a time, in `ahead` threads.
        items: Taken one by one, and never more than `ahead` + 1 of them held.
        ahead: How many results are computed before they are asked for.
    """
    with ThreadPoolExecutor(ahead) as workers:
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, workers.submit(function, item)))
            if len(pending) > ahead:
                made, future = pending.popleft()
                yield made, future.result()
        for made, future in pending:
            yield made, future.result()


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What happened to the rows of an input: rows_in = kept + the sum of dropped, whose keys are reasons in plain words.

    A wrong sum is a bug of the reader, so it is an assertion and not a message.
    """

    rows_in: int = 0
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.rows_in == self.kept + sum(self.dropped.values()), f"rows that are not accounted for: {self}"

    def __add__(self, other: "RowCounts") -> "RowCounts":
        """The counts of two inputs together."""
        dropped = +(Counter(self.dropped) + Counter(other.dropped))
        return RowCounts(self.rows_in + other.rows_in, self.kept + other.kept, dropped)

    def then(self, kept: int, dropped: Mapping[str, int]) -> "RowCounts":
        """The counts after a further step, whose input is what is kept here: it kept `kept` and dropped the rest."""
        return RowCounts(self.rows_in, kept, +(Counter(self.dropped) + Counter(dropped)))

    def lines(self, what: str = "names") -> list[str]:
        """A table for people: rows in, kept and dropped, and the dropped ones by reason, most first."""
        reasons = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        rows = [(f"{what} in", self.rows_in), ("kept", self.kept), ("dropped", self.rows_in - self.kept)]
        return aligned([(label, f"{n:,}") for label, n in [*rows, *((f"  {reason}", n) for reason, n in reasons)]])


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines: the first cell left-aligned, the others right-aligned. Every row has as many cells as the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
