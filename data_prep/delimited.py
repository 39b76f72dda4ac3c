"""Any file in the UMLS's Rich Release Format → checked columns.

In RRF only a line feed ends a record and a bar closes each field; nothing is quoted or escaped, so a stray quote, a lone carriage return or
U+2028 is data. General CSV readers take some of these for structure even when told otherwise (DuckDB's and Arrow's a carriage return).
So Arrow's, which is fast, gets a block only if none of that is in it, and what it refuses is judged again: another splitter, exact for
any bytes and without a loop over rows, and where that finds a fault the loop that tells the line.
Format: https://www.ncbi.nlm.nih.gov/books/NBK9685/

Any tab-separated table with a header → checked columns, in blocks: the form in which OMOP vocabularies and SNOMED CT are released.

A tab parts two fields, a line feed ends a row (a carriage return right before it belongs to the line's end), and nothing is quoted or
escaped: quotes, other carriage returns and U+2028 are data. As with RRF (data_prep.delimited), no general CSV reader keeps to that, so the bytes
are split here, and a block is accepted only if each of its rows has as many fields as the header. No closing mark tells a whole last field
from a cut one, so a last row without a line's end counts as cut short.
"""

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from data_prep.accounting import Rejects
from xsap.errors import DataError
from xsap.files import invalid_text_reason, mapped, open_bytes

MRFILES = "MRFILES.RRF"
MRFILES_COLUMNS = ("FIL", "DES", "FMT", "CLS", "RWS", "BTS")  # file, description, columns, their number, rows, bytes

_BAR, _END = ord("|"), ord("\n")
_BOM = b"\xef\xbb\xbf"
_BLOCK = 1 << 23
_REST = "after the last bar"
_LONGEST = 1 << 26  # bytes of a line: without a bound, a file without line ends would be read into memory whole


def read_rrf(
    path: Path,
    columns: Sequence[str],
    wanted: Sequence[str] | None = None,
    *,
    rejects: Rejects | None = None,
    only: bytes | None = None,
    block_bytes: int = _BLOCK,
) -> Iterator[pa.Table]:
    """The records of an RRF file (or its `.gz`), in order, as tables of strings with the columns `wanted` (else all).

    columns: every column of the file. rejects: takes the lines that are no records, which else are an error. only: blocks in which these
    bytes don't occur are checked, but not yielded. When the last record was read, the numbers of rows and bytes are compared with those
    that a MRFILES.RRF beside the file announces. Raises DataError with file and line for anything that is not RRF in UTF-8.
    """
    announced = None if path.name.startswith(MRFILES) else _announced(path)
    width = len(columns)
    places = [columns.index(c) for c in wanted or columns]
    rows = size = 0
    for raw, table in mapped(lambda raw: _fast(_whole(raw), columns, wanted or columns), _blocks(path, block_bytes)):
        block = _whole(raw)
        lines = block.count(b"\n") if table is None else table.num_rows
        if table is None:
            good = [block] if _grid(block, width, first=rows == 0) is not None else []
            for number, offset, line, fault in _judged(block, width, rows + 1, size) if not good else ():
                if fault is None:
                    good.append(line + b"\n")
                elif rejects is None:
                    raise DataError(f"{path}:{number}: {fault}{_expectation(announced)}")
                else:
                    rejects.add(path, number, offset, fault + _expectation(announced))
            block = b"".join(good)
            grid = _grid(block, width, first=False)
            assert grid is not None, (
                f"{path}: of a block from line {rows + 1} on, the lines that are right were refused"
            )
            table = _columns(block, grid, dict(zip(wanted or columns, places, strict=True)))
        rows += lines
        size += len(raw)
        if table.num_rows and (only is None or only in block):
            yield table
    if not rows and announced != (0, 0):
        raise DataError(f"{path}: expected records of {width} fields, found an empty file.{_expectation(announced)}")
    if rejects is not None:
        rejects.check()
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
        try:
            while chunk := stream.read(block_bytes):
                block = chunk if chunk.endswith(b"\n") else chunk + stream.readline(_LONGEST)
                if len(block) >= _LONGEST:
                    raise DataError(
                        f"{path}: expected records of a line each, found a line of over {_LONGEST:,} bytes. Is it an RRF file?"
                    )
                yield block
                bar.update(raw.tell() - bar.n)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path}: expected a gzip file, found a damaged one ({error}). Was its transfer cut short?"
            ) from None


def _whole(block: bytes) -> bytes:
    """A record whose closing bar stands is whole, even if an editor took the last line's end away."""
    return block if block.endswith(b"\n") else block + b"\n"


def _fast(block: bytes, columns: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
    """The wanted fields of a block as Arrow's CSV reader sees it; None unless that is certain to be what RRF means."""
    if b"\r" in block or b"\0" in block or block.startswith(_BOM) or not _is_utf8(block):
        return None
    names = [*columns, _REST]
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(column_names=names, block_size=len(block), use_threads=False),
            csv.ParseOptions(
                delimiter="|", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
            ),
            csv.ConvertOptions(
                include_columns=[*dict.fromkeys([columns[0], *wanted]), _REST],
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    # An empty line would be a record of empty fields to Arrow; and after its last bar a record has nothing.
    if (
        not table.num_rows
        or not pc.min(pc.binary_length(table[columns[0]])).as_py()
        or pc.max(pc.binary_length(table[_REST])).as_py()
    ):
        return None
    return table.select(list(wanted))


def _grid(block: bytes, width: int, *, first: bool) -> np.ndarray | None:
    """(records, width + 1) where in a block each field ends, and each line. int64.

    None unless each record has `width` fields, all closed, in UTF-8 without NUL, and the file no byte-order mark.
    """
    if (first and block.startswith(_BOM)) or b"\0" in block or not _is_utf8(block):
        return None
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((data == _BAR) | (data == _END))
    if len(ends) % (width + 1):
        return None
    grid = ends.reshape(-1, width + 1)
    if (
        (data[grid[:, :-1]] != _BAR).any()
        or (data[grid[:, -1]] != _END).any()
        or (grid[:, -1] != grid[:, -2] + 1).any()
    ):
        return None
    return grid


def _columns(block: bytes, grid: np.ndarray, places: Mapping[str, int]) -> pa.Table:
    """Some fields of each record, under their columns' names. grid: as of `_grid`. places: column → which field of the record it is."""
    # Over the block itself lies an array of strings in which each field is followed by its separator, so no byte is moved.
    offsets = np.zeros(2 * grid.size + 1, np.int32)
    offsets[1::2] = grid.ravel()
    offsets[2::2] = offsets[1::2] + 1
    pieces = pa.StringArray.from_buffers(2 * grid.size, pa.py_buffer(offsets), pa.py_buffer(block))
    first = np.arange(len(grid)) * (2 * grid.shape[1])
    return pa.table({name: pieces.take(pa.array(first + 2 * at)) for name, at in places.items()})


def _is_utf8(block: bytes) -> bool:
    one = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, len(block)])), pa.py_buffer(block))
    try:
        one.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _judged(block: bytes, width: int, number: int, offset: int) -> Iterator[tuple[int, int, bytes, str | None]]:
    """Each line of a block whose first one is line `number` of the file, at byte `offset`: number, offset, the line, what is wrong."""
    for at, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=number):
        yield at, offset, line, _fault(line, width, first=at == 1)
        offset += len(line) + 1


def _fault(line: bytes, width: int, *, first: bool) -> str | None:
    if first and line.startswith(_BOM):
        return "expected plain UTF-8, found a byte-order mark; an editor or a transfer put it there: take the file from the release again"
    if reason := invalid_text_reason(line):
        return reason
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


LINE = "line of the file"  # the column that read_tsv_blocks adds: where each row stands, from 1

_TAB, _TSV_END, _RETURN = b"\t\n\r"
_TSV_BOM = b"\xef\xbb\xbf"
_TSV_BLOCK = 1 << 24
_TSV_LONGEST = 1 << 26  # bytes of a line: without a bound, a file without line ends would be read into memory whole


def read_tsv_blocks(path: Path, wanted: Sequence[str], *, block_bytes: int = _TSV_BLOCK) -> Iterator[pa.Table]:
    """The rows of a tab-separated file (`.gz` and `.bz2` are unpacked), in order, as tables of strings with the columns `wanted`, and LINE (int64).

    Raises DataError with file and line for anything that is not such a table, or has no header with these columns.
    """
    header: list[str] = []
    line = 1
    for block in _tsv_blocks(path, block_bytes):
        if not header:
            first, _, block = block.removeprefix(_TSV_BOM).partition(b"\n")
            header, line = _header(path, first, wanted), 2
        grid = _tsv_grid(block, len(header))
        if grid is None:
            raise DataError(_complaint(path, block, line, len(header)))
        if len(grid):
            yield _tsv_columns(block, grid, {name: header.index(name) for name in wanted}, line)
        line += len(grid)
    if not header:
        raise DataError(
            f"{path}: expected a header with the column '{wanted[0]}', found an empty file. Was its transfer cut short?"
        )


def whole_numbers(path: Path, rows: pa.Table, column: str) -> np.ndarray:
    """(n,) int64: a column of `rows`, which came from `path` by read_tsv_blocks. Raises DataError with the line of the first that is no
    whole number of at most 18 digits."""
    texts = rows[column].combine_chunks()
    good = pc.and_(pc.utf8_is_decimal(texts), pc.less_equal(pc.binary_length(texts), 18))
    if (at := pc.index(good, False).as_py()) >= 0:
        raise DataError(
            f"{path}:{rows[LINE][at].as_py()}: expected a whole number in '{column}', found '{texts[at].as_py()[:80]}'"
        )
    try:
        return np.asarray(pc.cast(texts, pa.int64()), np.int64)
    except pa.ArrowInvalid as error:  # digits, but not those of ASCII
        raise DataError(f"{path}: expected whole numbers in '{column}', found other digits ({error})") from None


def _tsv_blocks(path: Path, block_bytes: int) -> Iterator[bytes]:
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
            if len(held) > _TSV_LONGEST:
                raise DataError(
                    f"{path}: expected rows of a line each, found a line of over {_LONGEST:,} bytes. Is it the right file?"
                )
    if held:
        yield held


def _header(path: Path, line: bytes, wanted: Sequence[str]) -> list[str]:
    if fault := invalid_text_reason(line):
        raise DataError(f"{path}:1: {fault}")
    header = line.decode().removesuffix("\r").split("\t")
    if missing := [name for name in wanted if name not in header]:
        found = ", ".join(header)[:200] or "an empty line"
        raise DataError(f"{path}:1: expected a header with the column '{missing[0]}', parted by tabs; found {found}")
    return header


def _tsv_grid(block: bytes, width: int) -> np.ndarray | None:
    """(rows, width) int64: where in a block each field ends. None unless each row has `width` fields and its line's end, in UTF-8
    without NUL."""
    if b"\0" in block or not (block.isascii() or _tsv_is_utf8(block)):
        return None
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero((data == _TAB) | (data == _TSV_END))
    if len(ends) % width or (len(ends) and ends[-1] + 1 < len(block)) or (block and not len(ends)):
        return None
    grid = ends.reshape(-1, width)
    if (data[grid[:, :-1]] != _TAB).any() or (data[grid[:, -1]] != _TSV_END).any():
        return None
    return grid


def _tsv_columns(block: bytes, grid: np.ndarray, places: dict[str, int], line: int) -> pa.Table:
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


def _tsv_is_utf8(text: bytes) -> bool:
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
        if fault := invalid_text_reason(row):
            return f"{path}:{at}: {fault}"
        if fields != width:
            advice = (
                "does a field hold a line feed, or is the file cut short?"
                if fields < width
                else "does a field hold a tab?"
            )
            return f"{path}:{at}: expected {width} fields as in the header, found {fields if row else 'an empty line'}; {advice}"
    assert rest, f"{path}: a block from line {line} on was refused, but each of its rows is right"
    return f"{path}:{line + len(rows)}: expected a line feed after the last row, found none. Is the file cut short?"
