import gzip
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.delimited import read_rrf
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


def naive(data: bytes, width: int) -> list[list[str]] | int:
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
def test_every_byte_of_every_field_is_read(file, rows, block, ended):
    data = b"".join(b"|".join(row) + b"|\n" for row in rows)
    file.write_bytes(data if ended else data[:-1])
    expected = naive(data, 3)
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
def test_any_bytes_are_read_or_refused_as_the_naive_reader_does(file, pieces, block):
    data = b"".join(pieces)
    file.write_bytes(data)
    expected = naive(data, 2)
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
        (b"a|b|\nc|d|e|\n", ":2: expected 2 fields, found 3. Is this the right file, or does a field hold a bar?"),
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
def test_a_fault_is_named_with_its_line_and_what_to_do(file, data, message):
    file.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(file, 2)
    assert str(caught.value).startswith(f"{file}{message}")


def test_only_the_wanted_columns_are_made(file):
    file.write_bytes(b"1|2|3|\n4|5|6|\n")
    (table,) = read_rrf(file, ["a", "b", "c"], ["c", "a"])
    assert table.to_pydict() == {"c": ["3", "6"], "a": ["1", "4"]}


def test_gzip_is_read_alike_and_its_damage_is_told(tmp_path):
    data = b"".join(b"%d|x|\n" % i for i in range(5000))
    packed = tmp_path / "MRX.RRF.gz"
    packed.write_bytes(gzip.compress(data))
    (tmp_path / "MRFILES.RRF").write_bytes(
        b"MRX.RRF|x|A,B|2|5000|%d|\n" % len(data)
    )  # MRFILES counts the bytes before packing
    assert read(packed, 2, block_bytes=1000) == naive(data, 2)
    (tmp_path / "MRFILES.RRF").write_bytes(b"MRX.RRF|x|A,B|2|4999|%d|\n" % len(data))
    with pytest.raises(DataError, match="announces 4,999 rows, found 5,000"):
        read(packed, 2)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"MRX.RRF.gz: expected a gzip file, found a damaged one .*cut short\?"):
        read(packed, 2)
    packed.write_bytes(data)
    with pytest.raises(DataError, match="expected a gzip file"):
        read(packed, 2)


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        ("1,234", "8", "MRFILES.RRF: expected numbers of rows and bytes for MRX.RRF, found '1,234' and '8'"),
        ("3", "15", "MRX.RRF: MRFILES.RRF announces 3 rows, found 2. Is the file cut short?"),
        ("1", "5", "MRX.RRF: MRFILES.RRF announces 1 rows, found 2. Does it belong to this release?"),
        ("2", "11", "MRX.RRF: MRFILES.RRF announces 11 bytes, found 10. Is the file cut short?"),
    ],
)
def test_mrfiles_must_agree(tmp_path, rows, size, message):
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


def test_a_file_may_be_empty_if_mrfiles_says_so(tmp_path):
    (tmp_path / "MRX.RRF").write_bytes(b"")
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|0|0|\n")
    assert read(tmp_path / "MRX.RRF", 2) == []
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|1|4|\n")
    with pytest.raises(
        DataError, match=r"MRX.RRF: expected records of 2 fields, found an empty file. MRFILES.RRF announces 1 rows."
    ):
        read(tmp_path / "MRX.RRF", 2)


def test_a_fault_in_a_file_that_mrfiles_announces_says_how_long_it_should_be(tmp_path):
    (tmp_path / "MRFILES.RRF").write_text("MRX.RRF|x|A,B|2|15938386|99|\n")
    (tmp_path / "MRX.RRF").write_bytes(b"a|b|\nc|d")
    with pytest.raises(DataError, match=r"Is the file cut short\? MRFILES.RRF announces 15,938,386 rows\.$"):
        read(tmp_path / "MRX.RRF", 2)
