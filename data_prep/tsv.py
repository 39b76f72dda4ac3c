"""Any tab-separated table with a header → checked columns, in blocks: the form in which OMOP vocabularies and SNOMED CT are released.

A tab parts two fields, a line feed ends a row (a carriage return right before it belongs to the line's end), and nothing is quoted or
escaped: quotes, other carriage returns and U+2028 are data. As with RRF (data_prep.rrf), no general CSV reader keeps to that, so the bytes
are split here, and a block is accepted only if each of its rows has as many fields as the header. No closing mark tells a whole last field
from a cut one, so a last row without a line's end counts as cut short.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.files import open_bytes, why_no_text
from xsap.errors import DataError

LINE = "line of the file"  # the column that read_tsv_blocks adds: where each row stands, from 1

_TAB, _END, _RETURN = b"\t\n\r"
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 24
_LONGEST = 1 << 26  # bytes of a line: without a bound, a file without line ends would be read into memory whole


def read_tsv_blocks(path: Path, wanted: Sequence[str], *, block_bytes: int = _BLOCK) -> Iterator[pa.Table]:
    """The rows of a tab-separated file (`.gz` and `.bz2` are unpacked), in order, as tables of strings with the columns `wanted`, and LINE (int64).

    Raises DataError with file and line for anything that is not such a table, or has no header with these columns.
    """
    header: list[str] = []
    line = 1
    for block in _blocks(path, block_bytes):
        if not header:
            first, _, block = block.removeprefix(_BOM).partition(b"\n")
            header, line = _header(path, first, wanted), 2
        grid = _grid(block, len(header))
        if grid is None:
            raise DataError(_complaint(path, block, line, len(header)))
        if len(grid):
            yield _columns(block, grid, {name: header.index(name) for name in wanted}, line)
        line += len(grid)
    if not header:
        raise DataError(f"{path}: expected a header with the column '{wanted[0]}', found an empty file. Was its transfer cut short?")


def whole_numbers(path: Path, rows: pa.Table, column: str) -> np.ndarray:
    """(n,) int64: a column of `rows`, which came from `path` by read_tsv_blocks. Raises DataError with the line of the first that is no
    whole number of at most 18 digits."""
    texts = rows[column].combine_chunks()
    good = pc.and_(pc.utf8_is_decimal(texts), pc.less_equal(pc.binary_length(texts), 18))
    if (at := pc.index(good, False).as_py()) >= 0:
        raise DataError(f"{path}:{rows[LINE][at].as_py()}: expected a whole number in '{column}', found '{texts[at].as_py()[:80]}'")
    try:
        return np.asarray(pc.cast(texts, pa.int64()), np.int64)
    except pa.ArrowInvalid as error:  # digits, but not those of ASCII
        raise DataError(f"{path}: expected whole numbers in '{column}', found other digits ({error})") from None


def _blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file's bytes, unpacked, in pieces that end where a line ends (but for the last), with a progress bar on a terminal."""
    from tqdm import tqdm

    held = b""
    with open_bytes(path) as stream, tqdm(unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar:
        while chunk := stream.read(block_bytes):
            bar.update(len(chunk))
            held += chunk
            if cut := held.rfind(b"\n") + 1:
                yield held[:cut]
                held = held[cut:]
            if len(held) > _LONGEST:
                raise DataError(f"{path}: expected rows of a line each, found a line of over {_LONGEST:,} bytes. Is it the right file?")
    if held:
        yield held


def _header(path: Path, line: bytes, wanted: Sequence[str]) -> list[str]:
    if fault := why_no_text(line):
        raise DataError(f"{path}:1: {fault}")
    header = line.decode().removesuffix("\r").split("\t")
    if missing := [name for name in wanted if name not in header]:
        found = ", ".join(header)[:200] or "an empty line"
        raise DataError(f"{path}:1: expected a header with the column '{missing[0]}', parted by tabs; found {found}")
    return header


def _grid(block: bytes, width: int) -> np.ndarray | None:
    """(rows, width) int64: where in a block each field ends. None unless each row has `width` fields and its line's end, in UTF-8
    without NUL."""
    if b"\0" in block or not (block.isascii() or _is_utf8(block)):
        return None
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((data == _TAB) | (data == _END))
    if len(ends) % width or (len(ends) and ends[-1] + 1 < len(block)) or (block and not len(ends)):
        return None
    grid = ends.reshape(-1, width)
    if (data[grid[:, :-1]] != _TAB).any() or (data[grid[:, -1]] != _END).any():
        return None
    return grid


def _columns(block: bytes, grid: np.ndarray, places: dict[str, int], line: int) -> pa.Table:
    """Some fields of each row, and the row's line. grid: as of `_grid`. places: column → which field it is. line: that of the first row."""
    # Over the block itself lies an array of strings in which each field is followed by what parts it from the next: no byte is moved.
    offsets = np.zeros(2 * grid.size + 1, np.int32)
    offsets[1::2] = grid.ravel()
    offsets[2::2] = offsets[1::2] + 1
    ends = offsets[1::2].reshape(grid.shape)[:, -1]  # a view
    before = np.frombuffer(block, np.uint8)[np.maximum(ends - 1, 0)]
    ends -= before == _RETURN
    pieces = pa.StringArray.from_buffers(2 * grid.size, pa.py_buffer(offsets), pa.py_buffer(block))
    first = np.arange(len(grid)) * (2 * grid.shape[1])
    columns = {name: pieces.take(pa.array(first + 2 * at)) for name, at in places.items()}
    return pa.table(columns | {LINE: pa.array(np.arange(line, line + len(grid)))})


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _complaint(path: Path, block: bytes, line: int, width: int) -> str:
    """What is wrong with the first faulty row of a block whose first row is line `line` of the file."""
    *rows, rest = block.split(b"\n")
    for at, row in enumerate(rows, start=line):
        fields = row.count(b"\t") + 1
        if fault := why_no_text(row):
            return f"{path}:{at}: {fault}"
        if fields != width:
            advice = "does a field hold a line feed, or is the file cut short?" if fields < width else "does a field hold a tab?"
            return f"{path}:{at}: expected {width} fields as in the header, found {fields if row else 'an empty line'}; {advice}"
    assert rest, f"{path}: a block from line {line} on was refused, but each of its rows is right"
    return f"{path}:{line + len(rows)}: expected a line feed after the last row, found none. Is the file cut short?"
