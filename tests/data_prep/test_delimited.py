"""RRF and tab-separated files: each reader must agree with a second, naive one on any bytes, and name the line of a fault."""

import bz2
import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.accounting import Rejects
from data_prep.delimited import LINE, read_rrf, read_tsv_blocks, rows_with_numbers, whole_numbers
from tests.fixtures.examples import examples
from xsap.errors import DataError

PIECES = [
    b"a",
    b"b c",
    b'"',
    b"\r",
    b"\t",
    "é".encode(),
    "熱".encode(),
    "\u2028".encode(),
    "\x85".encode(),
    "\ufeff".encode(),
    b"\\",
]
BROKEN = [b"\xc3", b"\xa9", b"\xff", b"\0"]


def naive_rrf(data: bytes, width: int) -> list[list[str]] | int:
    """The rows, or the number of the first line that is not RRF: what the format's description says, line by line."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            fields = line.decode().split("|")
        except UnicodeDecodeError:
            return number
        if len(fields) != width + 1 or fields[-1] or b"\0" in line or (number == 1 and fields[0].startswith("\ufeff")):
            return number
        rows.append(fields[:-1])
    return rows


def read(path: Path, width: int, **options) -> list[list[str]]:
    columns = [f"c{i}" for i in range(width)]
    return [list(row.values()) for table in read_rrf(path, columns, **options) for row in table.to_pylist()]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rrf") / "MRX.RRF"


fields = st.lists(st.sampled_from(PIECES), max_size=3).map(b"".join)


@given(
    rows=st.lists(st.lists(fields, min_size=3, max_size=3), min_size=1, max_size=8),
    block=st.integers(1, 60),
    ended=st.booleans(),
)
def test_rrf_fields_match_naive_reader(file, rows, block, ended):
    data = b"".join(b"|".join(row) + b"|\n" for row in rows)
    file.write_bytes(data if ended else data[:-1])
    expected = naive_rrf(data, 3)
    if isinstance(expected, int):  # the first field of all began with a byte-order mark
        with pytest.raises(DataError, match=rf":{expected}: .*byte-order mark"):
            read(file, 3, block_bytes=block)
    else:
        assert read(file, 3, block_bytes=block) == expected == [[f.decode() for f in row] for row in rows]


@given(
    pieces=st.lists(
        st.sampled_from([*PIECES, *BROKEN, b"|", b"||\n", b"a|b|\n", b"|\r\n", b"\n"]), min_size=1, max_size=30
    ),
    block=st.integers(1, 60),
)
@example(pieces=[b"a\nb|\n"], block=60)  # the right number of separators, in the wrong order
@example(pieces=[b"a|b||c|d|\n"], block=60)  # twice the fields in one line
def test_rrf_of_any_bytes_is_read_or_refused_as_by_naive_reader(file, pieces, block):
    data = b"".join(pieces)
    file.write_bytes(data)
    expected = naive_rrf(data, 2)
    try:
        found: list[list[str]] | str = read(file, 2, block_bytes=block)
    except DataError as error:
        found = str(error)
    if isinstance(expected, int):
        assert isinstance(found, str)
        assert found.startswith(f"{file}:{expected}: ")
        assert "\n" not in found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"a|b|\nc|d\n",
            ":2: expected 2 fields, each closed by a bar, found no bar at the end. Is the file cut short?",
        ),
        (b"a|b|\nc|\n", ":2: expected 2 fields, found 1. Is the file cut short?"),
        (b"a|b|\nc|d|e|\n", ":2: expected 2 fields, found 3. Is this the right file, or does a field contain a bar?"),
        (b"a|b|\n\nc|d|\n", ":2: expected 2 fields, found an empty line"),
        (
            b"a|b|\r\nc|d|\r\n",
            ":1: expected a line end of LF alone, found CR LF; a transfer changed the file: convert it with dos2unix",
        ),
        (b"\xef\xbb\xbfa|b|\n", ":1: expected plain UTF-8, found a byte-order mark"),
        (
            b"a|b|\na|caf\xe9|\n",
            ":2: expected UTF-8, found byte 0xe9 at column 6 of the line; convert the file to UTF-8",
        ),
        (b"a|b|\na|c\0d|\n", ":2: expected text, found a NUL byte at column 4"),
        (
            "a|b|\n".encode("utf-16-le"),
            ":1: expected text, found a NUL byte at column 2. Is the file damaged, or in UTF-16?",
        ),
        (b"", ": expected records of 2 fields, found an empty file."),
    ],
)
def test_malformed_rrf_error_names_line_and_advice(file, data, message):
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(file, 2)
    assert str(caught.value).startswith(f"{file}{message}")


def test_rrf_yields_only_wanted_columns(file):
    file.write_bytes(b"1|2|3|\n4|5|6|\n")
    (table,) = read_rrf(file, ["a", "b", "c"], ["c", "a"])
    assert table.to_pydict() == {"c": ["3", "6"], "a": ["1", "4"]}


def test_gzipped_rrf_is_read_and_its_damage_reported(tmp_path):
    data = b"".join(b"%d|x|\n" % i for i in range(5000))
    packed = tmp_path / "MRX.RRF.gz"
    packed.write_bytes(gzip.compress(data))
    (tmp_path / "MRFILES.RRF").write_bytes(
        b"MRX.RRF|x|A,B|2|5000|%d|\n" % len(data)
    )  # MRFILES counts the bytes before packing
    assert read(packed, 2, block_bytes=1000) == naive_rrf(data, 2)
    (tmp_path / "MRFILES.RRF").write_bytes(b"MRX.RRF|x|A,B|2|4999|%d|\n" % len(data))
    with pytest.raises(DataError, match="announces 4,999 rows, found 5,000"):
        read(packed, 2)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"MRX.RRF.gz: expected a whole compressed file, .*cut short\?"):
        read(packed, 2)
    packed.write_bytes(data)
    with pytest.raises(DataError, match=r"expected a \.gz file"):
        read(packed, 2)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ("1,234", "8", "MRFILES.RRF: expected numbers of rows and bytes for MRX.RRF, found '1,234' and '8'"),
        (
            "3",
            "15",
            "MRX.RRF: MRFILES.RRF announces 3 rows, found 2. Is the file cut short? To read an extract, copy or link it to a folder without MRFILES.RRF",
        ),
        (
            "1",
            "5",
            "MRX.RRF: MRFILES.RRF announces 1 rows, found 2. Does it belong to this release? To read an extract, copy or link it to a folder without MRFILES.RRF",
        ),
        (
            "2",
            "11",
            "MRX.RRF: MRFILES.RRF announces 11 bytes, found 10. Is the file cut short? To read an extract, copy or link it to a folder without MRFILES.RRF",
        ),
    ],
)
def test_rrf_counts_must_match_mrfiles(tmp_path, rows, size, message):
    (tmp_path / "MRX.RRF").write_bytes(b"a|b|\nc|d|\n")
    listing = tmp_path / "MRFILES.RRF"
    listing.write_text("MRX.RRF|x|A,B|2|2|10|\nMRY.RRF|y|A,B|2|9|99|\n")
    assert len(read(tmp_path / "MRX.RRF", 2)) == 2
    listing.write_text(f"MRX.RRF|x|A,B|2|{rows}|{size}|\n")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "MRX.RRF", 2)
    assert str(caught.value).endswith(message)
    listing.write_text("MRY.RRF|y|A,B|2|9|99|\n")  # says nothing of this file
    assert len(read(tmp_path / "MRX.RRF", 2)) == 2


def test_empty_rrf_is_valid_if_mrfiles_announces_it(tmp_path):
    (tmp_path / "MRX.RRF").write_bytes(b"")
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|0|0|\n")
    assert read(tmp_path / "MRX.RRF", 2) == []
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|1|4|\n")
    with pytest.raises(
        DataError, match=r"MRX.RRF: expected records of 2 fields, found an empty file. MRFILES.RRF announces 1 rows."
    ):
        read(tmp_path / "MRX.RRF", 2)


def test_malformed_rrf_error_names_announced_rows(tmp_path):
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|15938386|99|\n")
    (tmp_path / "MRX.RRF").write_bytes(b"a|b|\nc|d")
    with pytest.raises(DataError, match=r"Is the file cut short\? MRFILES.RRF announces 15,938,386 rows\.$"):
        read(tmp_path / "MRX.RRF", 2)


cells = st.text(st.sampled_from("ab\"'\\,|;\r\u2028\u0085\u000b\u001c\ufeff#é熱 N"), max_size=6)
tables = st.integers(2, 4).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(
            st.tuples(st.lists(cells, min_size=width, max_size=width), st.sampled_from(["\n", "\r\n"])), max_size=8
        ),
    )
)


def naive_tsv(raw: bytes) -> tuple[list[str], list[list[str]]]:
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


@settings(max_examples=examples(150), deadline=None)
@given(tables, st.integers(1, 60), st.sampled_from(["", ".gz", ".bz2"]), st.booleans(), st.data())
def test_tsv_cells_match_naive_reader(tmp_path_factory, table, block_bytes, packed, mark, data):
    width, rows = table
    names = ["id", "név", "c", "d"][:width]
    text = ("\ufeff" if mark else "") + "\t".join(names) + "\r\n" + "".join("\t".join(row) + end for row, end in rows)
    path = tmp_path_factory.mktemp("tsv") / f"t.csv{packed}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[packed](text.encode()))
    wanted = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    header, expected = naive_tsv(text.encode())
    found = [row for block in read_tsv_blocks(path, wanted, block_bytes=block_bytes) for row in block.to_pylist()]
    assert found == [
        {name: row[header.index(name)] for name in wanted} | {LINE: at} for at, row in enumerate(expected, start=2)
    ]


FAULTS = {
    "nothing there": (None, ": expected a file, found nothing there. Is the path right?"),
    "empty": (b"", ": expected a header with the column 'a', found an empty file. Was its transfer cut short?"),
    "no such column": (b"x\tb\n", ":1: expected a header with the column 'a', separated by tabs; found x, b"),
    "commas": (b"a,b\n1,2\n", ":1: expected a header with the column 'a', separated by tabs; found a,b"),
    "blank header": (b"\na\tb\n", ":1: expected a header with the column 'a', separated by tabs; found an empty line"),
    "UTF-16": (
        "a\tb\n".encode("utf-16"),
        ":1: expected text, found a NUL byte at column 4. Is the file damaged, or in UTF-16?",
    ),
    "too few": (
        b"a\tb\n1\t2\n3\n4\t5\t6\n",
        ":3: expected 2 fields as in the header, found 1; does a field contain a line feed, or is the file",
    ),
    "too many": (b"a\tb\n1\t2\t3\n", ":2: expected 2 fields as in the header, found 3; does a field contain a tab?"),
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
def test_malformed_tsv_error_names_line(tmp_path, fault, block_bytes):
    raw, message = FAULTS[fault]
    path = tmp_path / "t.csv"
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        list(read_tsv_blocks(path, ["a"], block_bytes=block_bytes))
    assert str(caught.value).startswith(f"{path}{message}")


def test_truncated_gzipped_tsv_is_refused(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\tb\n" + b"1\t2\n" * 1000)[:-20])
    with pytest.raises(DataError, match=r"t\.csv\.gz: .*Is the file cut short\?"):
        list(read_tsv_blocks(path, ["a"]))


def test_tsv_line_length_is_limited(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\tb\n" + b"x" * 200)
    with pytest.raises(DataError, match=r"t\.csv: expected one record per line, found a line of over 100 bytes"):
        list(read_tsv_blocks(path, ["a"], block_bytes=32, max_line_bytes=100))


def test_whole_numbers_of_ascii_digits(tmp_path):
    rows = pa.table({"n": ["7", "0", "999999999999999999"], LINE: [2, 3, 4]})
    assert whole_numbers(rows_with_numbers(tmp_path, rows, ["n"], None), "n").tolist() == [7, 0, 999999999999999999]
    assert whole_numbers(rows_with_numbers(tmp_path, rows.slice(0, 0), ["n"], None), "n").tolist() == []


@pytest.mark.parametrize("text", ["", "-1", "1.0", " 1", "0x1F", "1e3", "1234567890123456789", "\\N", "1\r", "٣"])
def test_invalid_whole_number_error_names_line(tmp_path, text):
    rows = pa.table({"n": ["7", text, "8"], LINE: [2, 3, 5]})
    with pytest.raises(DataError) as caught:
        rows_with_numbers(tmp_path / "t", rows, ["n"], None)
    assert str(caught.value) == " ".join(f"{tmp_path}/t:3: expected a whole number in 'n', found '{text}'".splitlines())
    rejects = Rejects(tmp_path / "rejects.tsv", 1)
    assert rows_with_numbers(tmp_path / "t", rows, ["n"], rejects)[LINE].to_pylist() == [2, 5]
    assert list(rejects.rows) == [(tmp_path / "t", 3)]


@given(
    st.lists(st.sampled_from([b"1\t2", b"", b"1", b"1\t2\t3", b"\t\xe8", b"\0\t", b"3\t\r"]), max_size=20),
    st.integers(1, 60),
    st.booleans(),
)
def test_malformed_tsv_rows_are_skipped_with_their_lines_and_offsets(tmp_path_factory, rows, block_bytes, ended):
    path = tmp_path_factory.mktemp("tsv") / "t.csv"
    raw = b"\n".join([b"\xef\xbb\xbfa\tb", *rows]) + (b"\n" if ended else b"")
    path.write_bytes(raw)
    good, bad, offset = [], [], len(b"\xef\xbb\xbfa\tb\n")
    for line, row in enumerate(raw.split(b"\n")[1:], start=2):
        if row.count(b"\t") == 1 and not {0, 0xE8} & set(row) and offset + len(row) < len(raw):
            good.append((row.split(b"\t")[0].decode(), line))
        elif row or offset < len(raw):
            bad.append((line, offset))
        offset += len(row) + 1
    rejects = Rejects(path.with_name("rejects.tsv"), 100)
    found = [
        row
        for block in read_tsv_blocks(path, ["a"], rejects=rejects, block_bytes=block_bytes)
        for row in block.to_pylist()
    ]
    assert [(row["a"], row[LINE]) for row in found] == good
    assert [(line, at) for (_, line), (at, _) in rejects.rows.items()] == bad
