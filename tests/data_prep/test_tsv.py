import bz2
import gzip

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.delimited import LINE, read_tsv_blocks, whole_numbers
from xsap.errors import DataError

cells = st.text(st.sampled_from("ab\"'\\,|;\r\u2028\u0085\u000b\u001c\ufeff#é熱 N"), max_size=6)
tables = st.integers(2, 4).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(
            st.tuples(st.lists(cells, min_size=width, max_size=width), st.sampled_from(["\n", "\r\n"])), max_size=8
        ),
    )
)


def naive(raw: bytes) -> tuple[list[str], list[list[str]]]:
    """Header and rows, a byte at a time."""
    lines, line = [], b""
    for byte in raw.removeprefix(b"\xef\xbb\xbf"):
        if byte == ord("\n"):
            lines.append(line.removesuffix(b"\r"))
            line = b""
        else:
            line += bytes([byte])
    assert line == b""
    header, *rows = [line.decode().split("\t") for line in lines]
    return header, rows


@settings(max_examples=150, deadline=None)
@given(tables, st.integers(1, 60), st.sampled_from(["", ".gz", ".bz2"]), st.booleans(), st.data())
def test_every_cell_as_a_naive_reader_finds_it(tmp_path_factory, table, block_bytes, packed, mark, data):
    width, rows = table
    names = ["id", "név", "c", "d"][:width]
    text = ("\ufeff" if mark else "") + "\t".join(names) + "\r\n" + "".join("\t".join(row) + end for row, end in rows)
    path = tmp_path_factory.mktemp("tsv") / f"t.csv{packed}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[packed](text.encode()))
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    header, expected = naive(text.encode())
    found = [row for block in read_tsv_blocks(path, wanted, block_bytes=block_bytes) for row in block.to_pylist()]
    assert found == [
        {name: row[header.index(name)] for name in wanted} | {LINE: at} for at, row in enumerate(expected, start=2)
    ]


FAULTS = {
    "nothing there": (None, ": expected a file, found nothing there. Is the path right?"),
    "empty": (b"", ": expected a header with the column 'a', found an empty file. Was its transfer cut short?"),
    "no such column": (b"x\tb\n", ":1: expected a header with the column 'a', parted by tabs; found x, b"),
    "commas": (b"a,b\n1,2\n", ":1: expected a header with the column 'a', parted by tabs; found a,b"),
    "blank header": (b"\na\tb\n", ":1: expected a header with the column 'a', parted by tabs; found an empty line"),
    "UTF-16": (
        "a\tb\n".encode("utf-16"),
        ":1: expected text, found a NUL byte at column 4. Is the file damaged, or in UTF-16?",
    ),
    "too few": (
        b"a\tb\n1\t2\n3\n4\t5\t6\n",
        ":3: expected 2 fields as in the header, found 1; does a field hold a line feed, or is the file",
    ),
    "too many": (b"a\tb\n1\t2\t3\n", ":2: expected 2 fields as in the header, found 3; does a field hold a tab?"),
    "one less, one more": (b"a\tb\n1\n1\t2\t3\n", ":2: expected 2 fields as in the header, found 1"),
    "two short rows": (b"a\tb\n1\n2\n", ":2: expected 2 fields as in the header, found 1"),
    "blank line": (b"a\tb\n1\t2\n\n3\t4\n", ":3: expected 2 fields as in the header, found an empty line"),
    "blank last line": (b"a\tb\n1\t2\n\n", ":3: expected 2 fields as in the header, found an empty line"),
    "cut in the last field": (
        b"a\tb\n1\t2\n3\t4",
        ":3: expected a line feed after the last row, found none. Is the file cut short?",
    ),
    "cut in the first field": (
        b"a\tb\n1\t2\n3",
        ":3: expected a line feed after the last row, found none. Is the file cut short?",
    ),
    "Latin-1 header": (
        b"a\t\xe8\n",
        ":1: expected UTF-8, found byte 0xe8 at column 3 of the line; convert the file to UTF-8",
    ),
    "no UTF-8": (
        b"a\tb\n1\t2\n3\t\xe8\n",
        ":3: expected UTF-8, found byte 0xe8 at column 3 of the line; convert the file to UTF-8",
    ),
    "NUL": (b"a\tb\n1\t\0\n", ":2: expected text, found a NUL byte at column 3. Is the file damaged, or in UTF-16?"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_a_fault_is_told_with_its_line(tmp_path, fault, block_bytes):
    raw, message = FAULTS[fault]
    path = tmp_path / "t.csv"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        list(read_tsv_blocks(path, ["a"], block_bytes=block_bytes))
    assert str(caught.value).startswith(f"{path}{message}")


def test_a_packed_file_that_is_cut_is_told(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" + b"1\t2\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"t\.csv\.gz: .*Is the file cut short\?"):
        list(read_tsv_blocks(path, ["a"]))


def test_a_file_without_line_ends_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.delimited._LONGEST", 100)
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\tb\n" + b"x" * 200)
    with pytest.raises(DataError, match=r"t\.csv: expected rows of a line each, found a line of over 100 bytes"):
        list(read_tsv_blocks(path, ["a"], block_bytes=32))


def test_whole_numbers(tmp_path):
    rows = pa.table({"n": ["7", "0", "999999999999999999"], LINE: [2, 3, 4]})
    assert whole_numbers(tmp_path, rows, "n").tolist() == [7, 0, 999999999999999999]
    assert whole_numbers(tmp_path, rows.slice(0, 0), "n").tolist() == []


@pytest.mark.parametrize("text", ["", "-1", "1.0", " 1", "0x1F", "1e3", "1234567890123456789", "\\N", "1\r"])
def test_what_is_no_whole_number(tmp_path, text):
    rows = pa.table({"n": ["7", text], LINE: [2, 3]})
    with pytest.raises(DataError) as caught:
        whole_numbers(tmp_path / "t", rows, "n")
    assert str(caught.value) == " ".join(f"{tmp_path}/t:3: expected a whole number in 'n', found '{text}'".splitlines())


def test_digits_of_another_script_are_no_whole_number(tmp_path):
    with pytest.raises(DataError, match="expected whole numbers in 'n', found other digits"):
        whole_numbers(tmp_path / "t", pa.table({"n": ["٣"], LINE: [2]}), "n")
