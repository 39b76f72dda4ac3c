"""Opening text files: compression, UTF-8, lines, the dialects of CSV, TSV and JSONL, prefetching, and row counts."""

import bz2
import gzip
import random
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.files import (
    RowCounts,
    byte_lines,
    check_json_type,
    file_ending,
    invalid_text_reason,
    is_compressed,
    numbered_lines,
    parse_json,
    prefetch_map,
    read_jsonl,
    read_lines,
    text_lines,
)
from xsap.tabular.delimited_text import open_delimited
from xsap.tabular.readers import open_table


def rows_of(numbered):
    return [row for _, row in numbered]


READ = {
    "csv": lambda path: rows_of(open_delimited(path).rows),
    "tsv": lambda path: rows_of(open_delimited(path).rows),
    "jsonl": lambda path: rows_of(read_jsonl(path)),
    "txt": lambda path: rows_of(numbered_lines(path)),
}


def read(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return READ[file_ending(path).removeprefix(".")](path)


@pytest.mark.parametrize(
    ("path", "ending", "compressed"),
    [
        ("dir.csv/Terms.CSV.gz", ".csv", True),
        ("latest.json.BZ2", ".json", True),
        ("x.tsv", ".tsv", False),
        ("x.gz", "", True),
        ("x", "", False),
    ],
)
def test_file_ending_ignores_case_and_compression(path, ending, compressed):
    assert (file_ending(Path(path)), is_compressed(Path(path))) == (ending, compressed)


# One table for all readers

READERS = {
    "byte_lines": ("txt", lambda path: b"".join(rows_of(byte_lines(path)))),
    "numbered_lines": ("txt", lambda path: list(numbered_lines(path))),
    "read_lines": ("txt", read_lines),
    "open_delimited csv": ("csv", lambda path: list(open_delimited(path).rows)),
    "open_delimited tsv": ("tsv", lambda path: list(open_delimited(path).rows)),
    "read_jsonl": ("jsonl", lambda path: list(read_jsonl(path))),
    "open_table csv": ("csv", lambda path: [table.to_pydict() for table in open_table(path).chunks(9)]),
    "open_table tsv": ("tsv", lambda path: [table.to_pydict() for table in open_table(path).chunks(9)]),
    "open_table jsonl": ("jsonl", lambda path: [table.to_pydict() for table in open_table(path).chunks(9)]),
}
CONTENT = {
    "txt": "fièvre\n\nb\n".encode(),
    "csv": 'term,note\n"fièvre\nhaute",x\n'.encode(),
    "tsv": "term\tnote\nfièvre\tx\n".encode(),
    "jsonl": '{"term": "fièvre"}\n'.encode(),
}
STORED = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".GZ": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),  # two members
    ".bz2": bz2.compress,
}
every_reader = pytest.mark.parametrize("reader", READERS)


@every_reader
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("stored", STORED)
def test_every_reader_decompresses_and_drops_a_byte_order_mark(tmp_path, reader, bom, stored):
    ending, read_all = READERS[reader]
    (tmp_path / f"plain.{ending}").write_bytes(CONTENT[ending])
    (tmp_path / f"x.{ending}{stored}").write_bytes(STORED[stored](bom + CONTENT[ending]))
    found = read_all(tmp_path / f"x.{ending}{stored}")
    assert found
    assert found == read_all(tmp_path / f"plain.{ending}")


@every_reader
def test_every_reader_names_a_missing_file_and_a_folder(tmp_path, reader):
    ending, read_all = READERS[reader]
    with pytest.raises(DataError, match=rf"x\.{ending}: expected a file, found nothing there\. Is the path right\?$"):
        read_all(tmp_path / f"x.{ending}")
    (tmp_path / f"x.{ending}").mkdir()
    with pytest.raises(DataError, match=rf"x\.{ending}: expected a file, found a folder there\. Is the path right\?$"):
        read_all(tmp_path / f"x.{ending}")


DAMAGE = {
    "truncated": (".gz", lambda data: gzip.compress(data)[:-6], r": expected a whole compressed file, found its end too early"),
    "truncated bz2": (".bz2", lambda data: bz2.compress(data)[:-6], r": expected a whole compressed file, found its end too early"),
    "not gzip": (".gz", lambda data: data, r": expected a \.gz file: Not a gzipped file .*\. Is it damaged, or not compressed at all\?$"),
    "gzip without its ending": ("", gzip.compress, r": expected text in UTF-8, found a gzip file; rename it to end in \.gz$"),
    "a zip file": ("", lambda data: b"PK\x03\x04" + data, r": expected text in UTF-8, found a zip file or a workbook"),
    "UTF-16 without a mark": ("", lambda data: data.decode().encode("utf-16-be"), r": .*found a NUL byte in its first line\. Is it UTF-16\?"),
}  # fmt: skip


@every_reader
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_reader_reports_a_damaged_file(tmp_path, reader, damage):
    ending, read_all = READERS[reader]
    suffix, spoil, message = DAMAGE[damage]
    (tmp_path / f"x.{ending}{suffix}").write_bytes(spoil(CONTENT[ending]))
    with pytest.raises(DataError, match=rf"x\.{ending}{re.escape(suffix)}{message}"):
        read_all(tmp_path / f"x.{ending}{suffix}")


@pytest.mark.parametrize("reader", [name for name in READERS if name != "byte_lines"])
def test_every_reader_reports_line_and_column_of_a_byte_that_is_not_utf8(tmp_path, reader):
    ending, read_all = READERS[reader]
    data = CONTENT[ending] + CONTENT[ending].replace("è".encode(), b"\xe8")
    (tmp_path / f"x.{ending}").write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_all(tmp_path / f"x.{ending}")
    at = data.index(b"\xe8")
    line, column = data.count(b"\n", 0, at) + 1, at - data.rindex(b"\n", 0, at)
    way_out = "; convert the file to UTF-8"
    if reader not in ("numbered_lines", "read_lines"):  # the readers of tables, which have --encoding
        way_out += ", or add --encoding cp1252. In Excel, save it as 'CSV UTF-8'"
    found = f"expected UTF-8, found byte 0xe8 at column {column} of the line"
    assert str(caught.value).endswith(f"x.{ending}:{line}: {found}{way_out}")


@pytest.mark.parametrize("reader", [name for name in READERS if name != "byte_lines"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_every_reader_reads_utf16_with_a_mark(tmp_path, reader, encoding):
    ending, read_all = READERS[reader]
    (tmp_path / f"plain.{ending}").write_bytes(CONTENT[ending])
    (tmp_path / f"x.{ending}").write_bytes(("\ufeff" + CONTENT[ending].decode()).encode(encoding))
    assert read_all(tmp_path / f"x.{ending}") == read_all(tmp_path / f"plain.{ending}")


def test_bytes_in_utf16_are_refused(tmp_path):
    (tmp_path / "x").write_bytes("a".encode("utf-16"))
    with pytest.raises(DataError, match=r"x: expected text in UTF-8, found UTF-16; convert the file to UTF-8$"):
        list(byte_lines(tmp_path / "x"))


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "gb18030", "cp932", "utf-16-le", "utf-8", "UTF8"])
def test_text_lines_decode_any_encoding(tmp_path, encoding):
    text = {"cp1252": "fièvre\r\n\n€", "cp1251": "кашель\n", "gb18030": "咳嗽\n", "cp932": "咳\n"}.get(
        encoding, "fièvre\n咳\n"
    )
    (tmp_path / "x").write_bytes(text.encode(encoding))
    assert "".join(line for _, line in text_lines(tmp_path / "x", encoding=encoding)) == text


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16"])
def test_byte_order_mark_overrules_the_encoding_that_is_given(tmp_path, mark):
    (tmp_path / "x").write_bytes("fièvre".encode(mark))
    assert list(text_lines(tmp_path / "x", encoding="cp1252")) == [(1, "fièvre")]


def test_text_lines_report_an_unknown_encoding_and_undecodable_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"a\n\xff\xff\n")
    for name in ("ansi-excel", "hex", "a\0b"):
        with pytest.raises(ConfigError, match=r"^--encoding '.*': expected the name of an encoding, such as cp1252"):
            list(text_lines(tmp_path / "x", encoding=name))
    with pytest.raises(
        DataError, match=r"x: expected text in shift_jis, found after line .*\. Is it in another encoding\?$"
    ):
        list(text_lines(tmp_path / "x", encoding="shift_jis"))


@pytest.mark.parametrize(
    ("text", "encoding", "suggested"),
    [("fièvre", "cp1252", "cp1252"), ("ťľč ť", "cp1250", "cp1250"), ("кашель", "mac_cyrillic", None)],
)
def test_error_about_utf8_suggests_an_encoding_that_decodes_the_line(tmp_path, text, encoding, suggested):
    (tmp_path / "x.csv").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match="--encoding") as caught:
        open_table(tmp_path / "x.csv")
    name = re.search("--encoding ([a-z0-9_]+)", str(caught.value))[1]
    text.encode(encoding).decode(name)
    assert suggested in (None, name)


# Lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n", ["a", ""]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"]),
        ("a\ufeff\n\ufeffb\n".encode(), ["a\ufeff", "\ufeffb"]),
    ],
)
def test_read_lines_splits_at_newlines_only(tmp_path, data, lines):
    (tmp_path / "x").write_bytes(data)
    assert read_lines(tmp_path / "x") == lines


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0"), max_size=6).filter(
    lambda s: not s.endswith("\r")
)


@settings(max_examples=examples(60), deadline=None)
@given(lines=st.lists(plain, max_size=5), end=st.sampled_from(["\n", "\r\n"]), bom=st.sampled_from(["", "\ufeff"]))
def test_read_lines_returns_written_lines_for_any_line_end(tmp_path_factory, lines, end, bom):
    file = tmp_path_factory.getbasetemp() / "lines.txt"
    file.write_bytes((bom + "".join(line + end for line in lines)).encode())
    if bom or not lines or not lines[0].startswith("\ufeff"):
        assert read_lines(file) == lines


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_read_lines_reports_line_and_column_of_the_first_byte_that_is_not_utf8(tmp_path, bom):
    (tmp_path / "x").write_bytes(bom + b"a\nfi\xe9vre\xff")
    with pytest.raises(DataError, match=r"x:2: expected UTF-8, found byte 0xe9 at column 3 of the line; convert"):
        read_lines(tmp_path / "x")


def test_byte_lines_keep_line_ends_and_bound_the_length_of_a_line(tmp_path):
    (tmp_path / "x").write_bytes(b"a\r\n\n" + b"b" * 20)
    assert list(byte_lines(tmp_path / "x")) == [(1, b"a\r\n"), (2, b"\n"), (3, b"b" * 20)]
    with pytest.raises(
        DataError, match=r"x:3: expected lines, found one of more than 20 bytes\. Is it the right file\?"
    ):
        list(byte_lines(tmp_path / "x", max_bytes=20))


def test_numbered_lines_drop_line_ends(tmp_path):
    (tmp_path / "x").write_bytes(b"a\r\n\r\nb\rc\n\nd\r")
    assert list(numbered_lines(tmp_path / "x")) == [(1, "a"), (2, ""), (3, "b\rc"), (4, ""), (5, "d\r")]


def test_invalid_text_reason_finds_nul_and_invalid_utf8():
    assert invalid_text_reason("fièvre\n".encode()) is None
    assert (
        invalid_text_reason(b"a\0") == "expected text, found a NUL byte at column 2. Is the file damaged, or in UTF-16?"
    )
    assert str(invalid_text_reason(b"fi\xe8vre")).startswith("expected UTF-8, found byte 0xe8 at column 3 of the line")


# CSV, TSV, JSONL


def test_jsonl_reads_nan_as_none_and_infinity_as_text(tmp_path):
    assert read(tmp_path, "x.jsonl", '{"a": NaN, "b": -Infinity, "c": ["\u00e9\u2028"]}') == [
        {"a": None, "b": "-Infinity", "c": ["é\u2028"]}
    ]


GZ = gzip.compress(b"term\n" + random.Random(1).randbytes(999).hex().encode())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x\.csv:3: expected 2 field\(s\) as in the header, found 3\. Is there a delimiter in a cell without quotes\? If the header is in a later line, add --header-row"),
        ("x.csv", 'a,b\n"x\ny",2\n1,2,3\n', r"x\.csv:4: expected 2 field\(s\)"),
        ("x.csv", 'a,b\n1,2,3\n1,"2\n', r"x\.csv:2: expected 2 field\(s\)"),  # the first error, though the second ends the parsing
        ("x.csv", 'a,b\n\n1,"2\nc\n', r"x\.csv:3: expected CSV as in RFC 4180, found in the row that begins here: unexpected end of data"),
        ("x.csv", 'a,b\n1,"2"3\n', r"x\.csv:2: expected CSV as in RFC 4180, found"),
        ("x.csv", "a,b\r1,2\n3,4\n", r"x\.csv:1: expected CSV .*: a carriage return outside quotes\. Does the file end some of its lines as old Macs did"),
        ("x.tsv", "a\tb\n1\t2\t3\n", r"x\.tsv:2: expected 2 field\(s\) as in the header, found 3"),
        ("x.jsonl", '{"a": 1}\n[1]\n', r"x\.jsonl:2: expected a JSON object, found \[1\]$"),
        ("x.jsonl", '{"a": 1\n', r"x\.jsonl:1: expected a JSON object: "),
        ("x.jsonl", '{"a": {"b": 1, "b": 2}}\n', r"x\.jsonl:1: .* an object has a key twice$"),
        ("x.jsonl", '{"a": ' + "[" * 100_000, r"x\.jsonl:1: expected a JSON object, found one that is nested too deeply"),
        ("x.jsonl", '{"a": ' + "1" * 5000 + "}", r"x\.jsonl:1: expected a JSON object: "),
        ("x.csv", b"a\n\nb\xff\n", r"x\.csv:3: expected UTF-8, found byte 0xff at column 2 of the line; convert the file to UTF-8, or add --encoding cp1252"),
        ("x.tsv", "a\n".encode("utf-16-be"), r"x\.tsv: expected text in UTF-8, found a NUL byte in its first line\. Is it UTF-16\?"),
        ("x.csv", GZ, r"x\.csv: expected text in UTF-8, found a gzip file; rename it to end in \.gz$"),
        ("x.csv", b"PK\x03\x04", r"a workbook; if it is a workbook, rename it to end in \.xlsx$"),
        ("x.csv", b"PAR1\x15", r"found a Parquet file"),
        ("x.csv.gz", GZ[:-20], r"x\.csv\.gz: expected a whole compressed file, found its end too early"),
        ("x.csv.gz", GZ[:400] + b"\0\0\0" + GZ[403:], r"x\.csv\.gz: expected a \.gz file: .*\. Is it damaged, or not compressed at all\?$"),
        ("x.csv.gz", b"term\n", r"x\.csv\.gz: expected a \.gz file: Not a gzipped file"),
    ],
)  # fmt: skip
def test_malformed_files_are_reported_with_file_and_line(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, name, data)
    assert "\n" not in str(caught.value)


ROWS = {
    "csv": lambda path: open_delimited(path).rows,
    "tsv": lambda path: open_delimited(path).rows,
    "jsonl": read_jsonl,
}


def test_rows_are_read_one_at_a_time(tmp_path):
    """An error far down is met only there."""
    lines = 50_000
    for name, line in (("x.csv", "1,2"), ("x.tsv", "1\t2"), ("x.jsonl", '{"a": 1}')):
        (tmp_path / name).write_text(f"{line}\n" * lines + line.replace("1", "1,1\t1") + "\n")
        rows = ROWS[name[2:]](tmp_path / name)
        assert len([next(rows) for _ in range(lines - 1100)]) == lines - 1100
        with pytest.raises(DataError, match=rf"{name}:{lines + 1}: "):
            list(rows)


# JSON


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', "^f:1: expected an object: Expecting ',' delimiter"),
        ("[" * 100_000, "^f:1: expected an object, found one that is nested too deeply to be read$"),
        ('"\\ud800"', "^f:1: expected an object, found half of a surrogate pair in it, which is no character$"),
    ],
)
def test_parse_json_reports_what_is_wrong(text, message):
    with pytest.raises(DataError, match=message):
        parse_json(text, "f:1", "an object")


def test_parse_json_accepts_whole_surrogate_pairs():
    assert parse_json('{"a": "\\ud83d\\ude00"}', "f:1", "an object") == {"a": "😀"}


@pytest.mark.parametrize(
    ("value", "expected", "message"),
    [
        ([], dict, "expected an object, found a list"),
        (None, list, "expected a list, found nothing"),
        (7, str, "expected a text, found 7"),
        ({}, bool, "expected true or false, found an object"),
        ("x" * 99, list, f"expected a list, found {'x' * 80}$"),
    ],
)
def test_check_json_type_reports_another_type(value, expected, message):
    with pytest.raises(DataError, match=f"^f:1: {message}"):
        check_json_type(value, expected, "f:1")
    assert check_json_type(expected(), expected, "f:1") == expected()


# Tools for readers


def test_prefetch_map_keeps_the_order_and_holds_few_items():
    taken, lock = [], threading.Lock()

    def items():
        for item in range(20):
            with lock:
                taken.append(item)
            yield item

    def late(item):
        time.sleep((item % 3) / 500)
        return item * item

    for count, (item, result) in enumerate(prefetch_map(late, items(), ahead=3)):
        assert (item, result) == (count, count * count)
        assert len(taken) <= count + 4
    assert len(taken) == 20


def test_prefetch_map_raises_the_function_s_error_in_its_turn():
    made = prefetch_map(lambda item: 1 // item, iter([2, 1, 0, 3]))
    assert [next(made), next(made)] == [(2, 0), (1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_row_counts_add_up():
    counts = RowCounts(10, 7, {"blank": 3})
    assert counts + RowCounts(2, 1, {"blank": 1}) == RowCounts(12, 8, {"blank": 4})
    assert counts.then(5, {"too long": 2, "unused": 0}) == RowCounts(10, 5, {"blank": 3, "too long": 2})
    assert counts.lines() == ["names in  10", "kept       7", "dropped    3", "  blank    3"]
    with pytest.raises(AssertionError, match="rows that are not accounted for"):
        RowCounts(10, 7, {"blank": 2})
