"""Exact readers for the two delimited formats of terminology releases, RRF (UMLS) and tab-separated tables (SNOMED CT, OMOP).

In both formats a line feed ends a row, one byte separates fields, and nothing is quoted or escaped: quotes, lone carriage returns and U+2028
are data. In RRF a vertical bar closes every field, the last one too (https://www.ncbi.nlm.nih.gov/books/NBK9685/). In a tab-separated table
a tab separates two fields, the first line names the columns, and a carriage return right before the line feed belongs to the line's end.

General CSV readers, DuckDB's and Arrow's among them, treat some of these bytes as structure even when configured not to. So files are cut into
blocks of whole lines, and one splitter finds the fields of a block by their separators, exact for any bytes and without a loop over rows. A
block that it rejects is examined line by line for the error message. For RRF, where MRCONSO has 10^7 rows, Arrow's faster CSV reader comes
first, but only for blocks without any byte on which the two could differ.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from data_prep.accounting import Rejects, reject
from xsap.errors import DataError
from xsap.files import invalid_text_reason, open_bytes, prefetch_map

MRFILES = "MRFILES.RRF"
MRFILES_COLUMNS = ("FIL", "DES", "FMT", "CLS", "RWS", "BTS")  # file, description, columns, their number, rows, bytes
LINE = "line of the file"  # the column that read_tsv_blocks adds: the line number of each row, from 1
BLOCK_BYTES = 1 << 23
MAX_LINE_BYTES = 1 << 26  # without a limit, a file without line ends would be read into memory whole

_BAR, _TAB, _LINE_FEED, _CARRIAGE_RETURN = b"|\t\n\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_AFTER_LAST_BAR = "after the last bar"


def find_file(folder: Path, name: str) -> Path | None:
    """The file `name` or `name.gz` in a folder; None if neither exists."""
    return next((file for file in (folder / name, folder / f"{name}.gz") if file.is_file()), None)


def read_rrf(
    path: Path,
    columns: Sequence[str],
    wanted: Sequence[str] | None = None,
    *,
    rejects: Rejects | None = None,
    only: bytes | None = None,
    block_bytes: int = BLOCK_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[pa.Table]:
    """The records of an RRF file, in order, as tables of strings.

    After the last record, the numbers of rows and bytes are compared with those that an MRFILES.RRF in the same folder announces.

    Args:
        path: The file; `.gz` and `.bz2` are decompressed.
        columns: The names of all columns of the file.
        wanted: The columns to read; all by default.
        rejects: Collects malformed lines, which otherwise are an error.
        only: Blocks that do not contain these bytes are checked, but not yielded.
        block_bytes: Bytes read at a time.
        max_line_bytes: The longest line, in bytes.

    Raises:
        DataError: With file and line, for anything that is not RRF in UTF-8.
    """
    announced = None if path.name.startswith(MRFILES) else _announced(path)
    expectation = f" {MRFILES} announces {announced[0]:,} rows." if announced else ""
    wanted, width = wanted or columns, len(columns)
    rows = size = 0
    blocks = _blocks(path, block_bytes, max_line_bytes)
    for raw, table in prefetch_map(lambda raw: _parse_with_arrow(_ended(raw), columns, wanted), blocks):
        block = _ended(raw)
        lines = block.count(b"\n") if table is None else table.num_rows
        if table is None and not (rows == 0 and block.startswith(_BYTE_ORDER_MARK)):
            table = _split_rrf(block, columns, wanted)
        if table is None:
            good = []
            for number, offset, line in _numbered_lines(block, rows + 1, size):
                fault = _rrf_fault(line, width, first=number == 1)
                if fault is None:
                    good.append(line + b"\n")
                else:
                    error = DataError(f"{path}:{number}: {fault}{expectation}")
                    reject(rejects, path, number, error, offset=offset)
            table = _split_rrf(b"".join(good), columns, wanted)
            assert table is not None, f"{path}: valid lines of the block from line {rows + 1} on were refused"
        rows += lines
        size += len(raw)
        if table.num_rows and (only is None or only in block):
            yield table
    if not rows and announced != (0, 0):
        raise DataError(f"{path}: expected records of {width} fields, found an empty file.{expectation}")
    if rejects is not None:
        rejects.check()
    for unit, found, expected in zip(("rows", "bytes"), (rows, size), announced or (rows, size), strict=True):
        if found != expected:
            advice = "Is the file cut short?" if found < expected else "Does it belong to this release?"
            raise DataError(
                f"{path}: {MRFILES} announces {expected:,} {unit}, found {found:,}. {advice} "
                f"To read an extract, copy or link it to a folder without {MRFILES}"
            )


def read_tsv_blocks(
    path: Path,
    wanted: Sequence[str],
    *,
    rejects: Rejects | None = None,
    block_bytes: int = BLOCK_BYTES,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[pa.Table]:
    """The rows of a tab-separated file with a header, in order, as tables of strings with the columns `wanted`, and LINE (int64).

    Args:
        path: The file; `.gz` and `.bz2` are decompressed. A byte-order mark is skipped.
        wanted: The columns to read.
        rejects: Collects malformed rows, which otherwise are an error.
        block_bytes: Bytes read at a time.
        max_line_bytes: The longest line, in bytes.

    Raises:
        DataError: With file and line, for anything that is not such a table, or has no header with these columns.
    """
    header: list[str] = []
    number, offset = 1, 0
    for raw in _blocks(path, block_bytes, max_line_bytes):
        block = raw
        if not header:
            first, _, block = raw.removeprefix(_BYTE_ORDER_MARK).partition(b"\n")
            header, number = _header(path, first, wanted), 2
        offset += len(raw)
        ends = _field_ends(block, _TAB, len(header))
        numbers = np.arange(number, number + (len(ends) if ends is not None else block.count(b"\n")))
        number += len(numbers)
        if ends is None:
            at = (int(numbers[0]) if len(numbers) else number, offset - len(block))
            block, numbers = _good_tsv_rows(path, block, at, len(header), rejects)
            ends = _field_ends(block, _TAB, len(header))
            assert ends is not None, f"{path}: valid rows of the block up to line {number} were refused"
        if len(ends):
            table = _fields(block, ends, {name: header.index(name) for name in wanted})
            yield table.append_column(LINE, pa.array(numbers))
    if rejects is not None:
        rejects.check()
    if not header:
        raise DataError(
            f"{path}: expected a header with the column '{wanted[0]}', found an empty file. Was its transfer cut short?"
        )


def rows_with_numbers(path: Path, rows: pa.Table, columns: Sequence[str], rejects: Rejects | None) -> pa.Table:
    """The rows whose cells in some columns are whole numbers of at most 18 digits; the others are malformed.

    Args:
        path: The file that the rows come from.
        rows: Rows that `read_tsv_blocks` gave.
        columns: The columns of numbers.
        rejects: Collects the other rows; without it, one is an error.
    """
    for column in columns:
        texts = rows[column].combine_chunks()
        good = pc.and_(pc.match_substring_regex(texts, "^[0-9]+$"), pc.less_equal(pc.binary_length(texts), 18))
        rows = good_rows(path, rows, good, column, "a whole number", rejects)
    return rows


def good_rows(
    path: Path, rows: pa.Table, good: pa.BooleanArray, column: str, expected: str, rejects: Rejects | None
) -> pa.Table:
    """The rows that are good; the others are malformed.

    Args:
        path: The file that the rows come from.
        rows: Rows that `read_tsv_blocks` gave.
        good: Whether each is good.
        column: The column that decides.
        expected: What is expected in it, for the message.
        rejects: Collects the other rows; without it, one is an error.
    """
    bad = rows.filter(pc.invert(good))
    for line, text in zip(bad[LINE].to_pylist(), bad[column].to_pylist(), strict=True):
        error = DataError(f"{path}:{line}: expected {expected} in '{column}', found '{text[:80]}'")
        reject(rejects, path, line, error)
    return rows.filter(good) if bad.num_rows else rows


def whole_numbers(rows: pa.Table, column: str) -> NDArray[np.int64]:
    """(n,) a column of the n rows that `rows_with_numbers` gave, as integers."""
    return np.asarray(pc.cast(rows[column].combine_chunks(), pa.int64()), np.int64)


# Blocks and fields, the same in both formats


def _blocks(path: Path, block_bytes: int, max_line_bytes: int) -> Iterator[bytes]:
    """The file's decompressed bytes in blocks of whole lines, with a progress bar on a terminal; only the last block may lack a line feed."""
    from tqdm import tqdm

    with open_bytes(path) as stream:
        file = stream.fileno()
        total = os.fstat(file).st_size
        with tqdm(total=total, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False) as bar:
            while block := stream.read(block_bytes):
                if not block.endswith(b"\n"):
                    rest = stream.readline(max_line_bytes + 1)
                    if len(rest) > max_line_bytes:
                        raise DataError(
                            f"{path}: expected one record per line, found a line of over {max_line_bytes:,} bytes. Is it the right file?"
                        )
                    block += rest
                yield block
                bar.update(os.lseek(file, 0, os.SEEK_CUR) - bar.n)


def _field_ends(block: bytes, separator: int, width: int) -> NDArray[np.int64] | None:
    """Find the fields of a block of lines.

    Returns:
        (rows, width) offsets in the block of the byte that ends each field: a separator, or a line feed for the last of a row. None unless
        each row has `width` fields and ends with a line feed, and all is UTF-8 without NUL.
    """
    if b"\0" in block or not _is_utf8(block) or (block and not block.endswith(b"\n")):
        return None
    data = np.frombuffer(block, np.uint8)
    all_ends = np.flatnonzero((data == separator) | (data == _LINE_FEED))
    if len(all_ends) % width:
        return None
    ends = all_ends.reshape(-1, width)
    if (data[ends[:, :-1]] != separator).any() or (data[ends[:, -1]] != _LINE_FEED).any():
        return None
    return ends


def _fields(block: bytes, ends: NDArray[np.int64], positions: Mapping[str, int]) -> pa.Table:
    """Some fields of each row, without a carriage return at the line's end. ends: of `_field_ends`. positions: column name → field number."""
    # An array of strings is laid over the block in which fields alternate with the separators between them, so no byte is moved.
    offsets = np.zeros(2 * ends.size + 1, np.int32)
    offsets[1::2] = ends.ravel()
    offsets[2::2] = offsets[1::2] + 1
    line_ends = offsets[1::2].reshape(ends.shape)[:, -1]  # a view
    before = np.frombuffer(block, np.uint8)[np.maximum(line_ends - 1, 0)]
    line_ends -= before == _CARRIAGE_RETURN
    pieces = pa.StringArray.from_buffers(2 * ends.size, pa.py_buffer(offsets), pa.py_buffer(block))
    first = np.arange(len(ends)) * (2 * ends.shape[1])
    return pa.table({name: pieces.take(pa.array(first + 2 * position)) for name, position in positions.items()})


def _is_utf8(block: bytes) -> bool:
    text = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, len(block)])), pa.py_buffer(block))
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _numbered_lines(block: bytes, number: int, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """(line number, byte offset in the file, line without its end) for a block that begins with line `number` at byte `offset`."""
    for at, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start=number):
        yield at, offset, line
        offset += len(line) + 1


# RRF


def _ended(block: bytes) -> bytes:
    """The block with a line feed at its end: a record that is closed by a bar is whole even if an editor removed the last line feed."""
    return block if block.endswith(b"\n") else block + b"\n"


def _parse_with_arrow(block: bytes, columns: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
    """The wanted fields of a block by Arrow's CSV reader; None unless its result is certain to be what RRF means."""
    if b"\r" in block or b"\0" in block or block.startswith(_BYTE_ORDER_MARK) or not _is_utf8(block):
        return None
    names = [*columns, _AFTER_LAST_BAR]
    try:
        table = csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(column_names=names, block_size=len(block), use_threads=False),
            csv.ParseOptions(
                delimiter="|", quote_char=False, escape_char=False, newlines_in_values=False, ignore_empty_lines=False
            ),
            csv.ConvertOptions(
                include_columns=[*dict.fromkeys([columns[0], *wanted]), _AFTER_LAST_BAR],
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    # Arrow reads an empty line as a record of empty fields; and nothing may follow the last bar.
    first, last = pc.binary_length(table[columns[0]]), pc.binary_length(table[_AFTER_LAST_BAR])
    if not table.num_rows or not pc.min(first).as_py() or pc.max(last).as_py():
        return None
    return table.select(list(wanted))


def _split_rrf(block: bytes, columns: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
    """The wanted fields of a block, exact for any bytes; None unless all its lines are records."""
    ends = _field_ends(block, _BAR, len(columns) + 1)  # the last field is the empty one after the last bar
    if ends is None or (ends[:, -1] != ends[:, -2] + 1).any():
        return None
    return _fields(block, ends, {name: columns.index(name) for name in wanted})


def _rrf_fault(line: bytes, width: int, *, first: bool) -> str | None:
    """What is wrong with a line, for a message; None if it is a record of `width` fields."""
    if first and line.startswith(_BYTE_ORDER_MARK):
        return "expected plain UTF-8, found a byte-order mark; an editor or a transfer added it: take the file from the release again"
    if reason := invalid_text_reason(line):
        return reason
    if line.endswith(b"|\r"):
        return "expected a line end of LF alone, found CR LF; a transfer changed the file: convert it with dos2unix"
    bars = line.count(b"|")
    if not line.endswith(b"|") and bars + 1 == width:
        return f"expected {width} fields, each closed by a bar, found no bar at the end. Is the file cut short?"
    found = bars if line.endswith(b"|") else bars + 1
    if found == width:
        return None
    advice = "Is the file cut short?" if found < width else "Is this the right file, or does a field contain a bar?"
    return f"expected {width} fields, found {found if line else 'an empty line'}. {advice}"


def _announced(path: Path) -> tuple[int, int] | None:
    """Rows and bytes that MRFILES.RRF in the same folder announces for a file; None if there is no such file or it does not list this one."""
    listing = find_file(path.parent, MRFILES)
    if listing is None:
        return None
    table = pa.concat_tables(read_rrf(listing, MRFILES_COLUMNS, ("FIL", "RWS", "BTS")))
    for name, rows, size in zip(*(column.to_pylist() for column in table.columns), strict=True):
        if name == path.name.removesuffix(".gz"):
            if not (rows.isdecimal() and size.isdecimal()):
                raise DataError(
                    f"{listing}: expected numbers of rows and bytes for {name}, found '{rows}' and '{size}'"
                )
            return int(rows), int(size)
    return None


# Tab-separated tables


def _header(path: Path, line: bytes, wanted: Sequence[str]) -> list[str]:
    if fault := invalid_text_reason(line):
        raise DataError(f"{path}:1: {fault}")
    header = line.decode().removesuffix("\r").split("\t")
    if missing := [name for name in wanted if name not in header]:
        found = ", ".join(header)[:200] or "an empty line"
        raise DataError(f"{path}:1: expected a header with the column '{missing[0]}', separated by tabs; found {found}")
    return header


def _good_tsv_rows(
    path: Path, block: bytes, at: tuple[int, int], width: int, rejects: Rejects | None
) -> tuple[bytes, NDArray[np.int64]]:
    """The rows of a block that are not malformed, and their lines. at: the line and the byte of the file that the block begins with."""
    good, numbers = [], []
    for number, offset, row in _numbered_lines(block, *at):
        is_cut = offset + len(row) == at[1] + len(block)
        no_end = "expected a line feed after the last row, found none. Is the file cut short?"
        fault = no_end if is_cut else _tsv_fault(row, width)
        if fault is None:
            good.append(row + b"\n")
            numbers.append(number)
        else:
            reject(rejects, path, number, DataError(f"{path}:{number}: {fault}"), offset=offset)
    return b"".join(good), np.array(numbers, np.int64)


def _tsv_fault(row: bytes, width: int) -> str | None:
    """What is wrong with a row, for a message; None if it has `width` fields."""
    if fault := invalid_text_reason(row):
        return fault
    fields = row.count(b"\t") + 1
    if fields == width:
        return None
    is_short = fields < width
    advice = (
        "does a field contain a line feed, or is the file cut short?" if is_short else "does a field contain a tab?"
    )
    return f"expected {width} fields as in the header, found {fields if row else 'an empty line'}; {advice}"
