"""Any file in the UMLS's Rich Release Format → checked columns.

In RRF only a line feed ends a record and a bar closes each field; nothing is quoted or escaped, so a stray quote, a lone carriage return or
U+2028 is data. General CSV readers (DuckDB's and Arrow's among them) take some of these for structure even when told otherwise. So this
splits the bytes itself, a block at a time and without a loop over rows, and accepts a block only if every record has exactly its
fields; the loop that finds the faulty line runs only once there is one.
Format: https://www.ncbi.nlm.nih.gov/books/NBK9685/
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from xsap.errors import DataError

MRFILES = "MRFILES.RRF"
MRFILES_COLUMNS = ("FIL", "DES", "FMT", "CLS", "RWS", "BTS")  # file, description, columns, their number, rows, bytes

_BAR, _END = ord("|"), ord("\n")
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 24


def read_rrf(path: Path, columns: Sequence[str], wanted: Sequence[str] | None = None, *, block_bytes: int = _BLOCK) -> Iterator[pa.Table]:
    """The records of an RRF file (or its `.gz`), in order, as tables of strings with the columns `wanted` (else all).

    columns: every column of the file. When the last record was read, the numbers of rows and bytes are compared with those that a
    MRFILES.RRF beside the file announces. Raises DataError with file and line for anything that is not RRF in UTF-8.
    """
    announced = None if path.name.startswith(MRFILES) else _announced(path)
    rows = size = 0
    for block in _blocks(path, block_bytes):
        size += len(block)
        # A record whose closing bar stands is whole, even if an editor took the last line's end away.
        fields = _fields(block if block.endswith(b"\n") else block + b"\n", len(columns), first=rows == 0)
        if fields is None:
            raise DataError(_complaint(path, block, rows + 1, len(columns)) + _expectation(announced))
        step = len(columns) + 1
        count = len(fields) // step
        picked = {c: fields.take(pa.array(np.arange(columns.index(c), len(fields), step))) for c in wanted or columns}
        yield pa.table(picked)
        rows += count
    if not rows:
        raise DataError(f"{path}: expected records of {len(columns)} fields, found an empty file.{_expectation(announced)}")
    for unit, found, expected in zip(("rows", "bytes"), (rows, size), announced or (rows, size), strict=True):
        if found != expected:
            advice = "Is the file cut short?" if found < expected else "Does it belong to this release?"
            raise DataError(f"{path}: {MRFILES} announces {expected:,} {unit}, found {found:,}. {advice}")


def find_rrf(folder: Path, name: str) -> Path | None:
    """The file `name`, or `name.gz`, in a folder; None if neither is there."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def _blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file's bytes, uncompressed, in pieces that end where a line ends (but for the last), with a progress bar on a terminal."""
    from tqdm import tqdm

    if not path.is_file():
        raise DataError(f"{path}: expected a file, found nothing there. Is the path right?")
    with (
        path.open("rb") as raw,
        tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar,
    ):
        stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
        held: list[bytes] = []
        try:
            while chunk := stream.read(block_bytes):
                cut = chunk.rfind(b"\n") + 1
                if cut:
                    yield b"".join([*held, chunk[:cut]])
                    held = []
                held.append(chunk[cut:])
                bar.update(raw.tell() - bar.n)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: expected a gzip file, found a damaged one ({error}). Was its transfer cut short?") from None
        if rest := b"".join(held):
            yield rest


def _fields(block: bytes, width: int, *, first: bool) -> pa.StringArray | None:
    """Every field of a block, record by record, and after each record the nothing between closing bar and line end.

    None unless each record has `width` fields, all closed, in UTF-8 without NUL, and the file no byte-order mark.
    """
    if (first and block.startswith(_BOM)) or b"\0" in block or not _is_utf8(block):
        return None
    data = np.frombuffer(block, np.uint8)
    separators = (data == _BAR) | (data == _END)
    ends = np.flatnonzero(separators)
    if len(ends) % (width + 1):
        return None
    grid = ends.reshape(-1, width + 1)
    if (data[grid[:, :-1]] != _BAR).any() or (data[grid[:, -1]] != _END).any() or (grid[:, -1] != grid[:, -2] + 1).any():
        return None
    # Without its separators the block is the fields end to end: field i ends i bytes further to the left.
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))
    return pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(data[~separators]))


def _is_utf8(block: bytes) -> bool:
    try:
        return block.isascii() or bool(block.decode())
    except UnicodeDecodeError:
        return False


def _complaint(path: Path, block: bytes, number: int, width: int) -> str:
    """What is wrong with the first faulty line of a block whose first line is line `number`."""
    for at, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=number):
        if fault := _fault(line, width, first=at == 1):
            return f"{path}:{at}: {fault}"
    raise AssertionError(f"{path}: a block from line {number} on was refused, but each of its lines is right")


def _fault(line: bytes, width: int, *, first: bool) -> str | None:
    if first and line.startswith(_BOM):
        return "expected plain UTF-8, found a byte-order mark; an editor or a transfer put it there: take the file from the release again"
    if b"\0" in line:
        return f"expected text, found a NUL byte at column {line.index(0) + 1:,}. Is the file damaged, or in UTF-16?"
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"expected UTF-8, found byte 0x{line[error.start]:02x} at column {error.start + 1:,} of the line; convert the file to UTF-8"
    if line.endswith(b"|\r"):
        return "expected a line end of LF alone, found CR LF; a transfer changed the file: convert it with dos2unix"
    bars = line.count(b"|")
    if line.endswith(b"|"):
        return None if bars == width else f"expected {width} fields, found {bars}. {_advice(bars, width)}"
    if bars + 1 == width:
        return f"expected {width} fields, each closed by a bar, found no bar at the end. Is the file cut short?"
    return f"expected {width} fields, found {bars + 1 if line else 'an empty line'}. {_advice(bars + 1, width)}"


def _advice(found: int, width: int) -> str:
    return "Is the file cut short?" if found < width else "Is this the right file, or does a field hold a bar?"


def _expectation(announced: tuple[int, int] | None) -> str:
    return f" {MRFILES} announces {announced[0]:,} rows." if announced else ""


def _announced(path: Path) -> tuple[int, int] | None:
    """How many rows and bytes the MRFILES.RRF beside a file announces for it; None if there is none, or it does not name the file."""
    beside = find_rrf(path.parent, MRFILES)
    if beside is None:
        return None
    listing = pa.concat_tables(read_rrf(beside, MRFILES_COLUMNS, ("FIL", "RWS", "BTS")))
    for name, rows, size in zip(*(column.to_pylist() for column in listing.columns), strict=True):
        if name == path.name.removesuffix(".gz"):
            if not (rows.isdecimal() and size.isdecimal()):
                raise DataError(f"{beside}: expected numbers of rows and bytes for {name}, found '{rows}' and '{size}'")
            return int(rows), int(size)
    return None
