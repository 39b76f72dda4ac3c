"""What people hand over, opened: plain, .gz or .bz2, as bytes, as lines, or as JSON.

The only home of what a damaged file looks like from below: one that is missing, cut short, not compressed as its name says, not UTF-8, not
JSON, or nested so deeply that no reader should follow it. Each is a DataError with file and line, so a reader above thinks of its format
alone. Lines are read one by one; of a file without line ends no more than `_LONGEST` bytes are held.

Work on pieces of a file in threads, so that the next ones are made while the last one is used: most of it is Arrow's, which runs
beside Python. Pieces keep their order, and only a few are held.
"""

import bz2
import gzip
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any, TypeVar

from xsap.errors import DataError

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
_LONGEST = 1 << 30
_BOM = b"\xef\xbb\xbf"
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
_HALF_PAIR = re.compile(
    r"\\u[dD][89a-fA-F]"
)  # JSON can escape half of a surrogate pair, which is no character and can't be written


def ending(path: Path) -> str:
    """How a file's name ends, in small letters and beneath its compression: `.tsv` for names.TSV.gz."""
    name = PurePath(path.name.lower())
    return (name.with_suffix("") if name.suffix in _OPENERS else name).suffix


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, decompressed if its name says so. Raises DataError, while the block reads, too."""
    if not path.is_file():
        raise DataError(
            f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'} there. Is the path right?"
        )
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as stream:
            yield stream
    except EOFError:
        raise DataError(
            f"{path}: expected a whole compressed file, found its end too early. Is the file cut short?"
        ) from None
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a disk's failure, which is not the file's
            raise
        raise DataError(
            f"{path}: expected a {path.suffix} file: {error}. Is it damaged, or not compressed at all?"
        ) from None


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line with its end); a byte-order mark is left out. Raises DataError."""
    with open_bytes(path) as stream:
        number = 0
        while raw := stream.readline(_LONGEST):
            number += 1
            if len(raw) >= _LONGEST:
                raise DataError(
                    f"{path}:{number}: expected lines, found one of more than {_LONGEST:,} bytes. Is it the right file?"
                )
            yield number, raw.removeprefix(_BOM) if number == 1 else raw


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end); only `\\n` and `\\r\\n` end a line. Raises DataError."""
    for number, raw in byte_lines(path):
        text = decode(raw, f"{path}:{number}")
        yield number, text[:-1].removesuffix("\r") if text.endswith("\n") else text


def decode(raw: bytes, where: str) -> str:
    """Bytes as UTF-8. Raises DataError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: expected UTF-8, found byte 0x{raw[error.start]:02x}; convert the file to UTF-8"
        ) from None


def parse_json(text: str, where: str, expected: str) -> Any:
    """One JSON text as Python has it. expected: what it should be, for the message. Raises DataError."""
    try:
        value = json.loads(text)
        if _HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: expected {expected}, found half of a surrogate pair in it, which is no character"
        ) from None
    except ValueError as error:
        raise DataError(f"{where}: expected {expected}: {error}") from None
    except RecursionError:
        raise DataError(f"{where}: expected {expected}, found one that is nested too deeply to be read") from None
    return value


def of_kind(value: Any, kind: type, where: str) -> Any:
    """A JSON value that must be a dict, list, str or bool. Raises DataError if it is not."""
    if not isinstance(value, kind):
        found = (
            "nothing" if value is None else _KINDS[type(value)] if isinstance(value, dict | list) else str(value)[:80]
        )
        raise DataError(f"{where}: expected {_KINDS[kind]}, found {found}")
    return value


def invalid_text_reason(line: bytes) -> str | None:
    """What keeps a line from being text in UTF-8, for a message; None if nothing does."""
    if b"\0" in line:
        return f"expected text, found a NUL byte at column {line.index(0) + 1:,}. Is the file damaged, or in UTF-16?"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"expected UTF-8, found byte 0x{line[error.start]:02x} at column {error.start + 1:,} of the line; convert the file to UTF-8"
    return None


T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 2


def mapped(function: Callable[[T], R], items: Iterator[T]) -> Iterator[tuple[T, R]]:
    """Each item, in order, and what the function makes of it, which is made for two items at a time."""
    with ThreadPoolExecutor(_AHEAD) as workers:
        pending: deque[tuple[T, Future[R]]] = deque()
        for item in items:
            pending.append((item, workers.submit(function, item)))
            if len(pending) > _AHEAD:
                made, future = pending.popleft()
                yield made, future.result()
        for made, future in pending:
            yield made, future.result()
