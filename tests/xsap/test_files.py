"""Opening text files: compression, UTF-8, lines, the dialects of CSV, TSV and JSONL, prefetching, and row counts."""

import bz2
import csv
import gzip
import io
import random
import re
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.files import (
    RowCounts,
    byte_lines,
    check_json_type,
    file_ending,
    invalid_text_reason,
    is_compressed,
    numbered_lines,
    open_csv,
    parse_json,
    prefetch_map,
    read_jsonl,
    read_lines,
    read_tsv,
)
from xsap.tabular.readers import open_table


def rows_of(numbered):
    return [row for _, row in numbered]


READ = {
    "csv": lambda path: rows_of(open_csv(path)[1]),
    "tsv": lambda path: rows_of(read_tsv(path)),
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
    "open_csv": ("csv", lambda path: list(open_csv(path)[1])),
    "read_tsv": ("tsv", lambda path: list(read_tsv(path))),
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
    "UTF-16": ("", lambda data: data.decode().encode("utf-16"), r": expected text in UTF-8, found UTF-16; convert the file to UTF-8$"),
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
    assert str(caught.value).endswith(
        f"x.{ending}:{line}: expected UTF-8, found byte 0xe8 at column {column} of the line; convert the file to UTF-8"
    )


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


@settings(max_examples=60, deadline=None)
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


def test_csv_with_byte_order_mark_quotes_commas_and_line_ends(tmp_path):
    rows = read(tmp_path, "x.csv", '\ufeffterm,note\r\n"a, ""b""","two\r\nlines"\r\nfiebre,\r\n')
    assert rows == [["term", "note"], ['a, "b"', "two\r\nlines"], ["fiebre", ""]]


def test_rows_come_with_the_line_that_they_begin_in(tmp_path):
    (tmp_path / "x.csv").write_text('a,b\n\n"1\n2",3\n4,5\n')
    assert [number for number, _ in open_csv(tmp_path / "x.csv")[1]] == [1, 3, 5]
    (tmp_path / "x.tsv").write_text("a\tb\n\n1\t2\n")
    assert [number for number, _ in read_tsv(tmp_path / "x.tsv")] == [1, 3]
    (tmp_path / "x.jsonl").write_text('{}\n\n{"a": 1}\n')
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [(1, {}), (3, {"a": 1})]


def test_csv_delimiter_is_a_semicolon_where_excel_writes_one(tmp_path):
    assert read(tmp_path, "x.csv", 'id;term\n1;"Fieber; hoch, 39,5"\n') == [["id", "term"], ["1", "Fieber; hoch, 39,5"]]
    assert open_csv(tmp_path / "x.csv")[0] == ";"
    assert read(tmp_path, "y.csv", "id,a;b\n1,x;y\n") == [["id", "a;b"], ["1", "x;y"]]
    assert open_csv(tmp_path / "y.csv")[0] == ","


def test_tsv_has_no_quoting(tmp_path):
    assert read(tmp_path, "x.tsv", 'term\tid\r\n"5 inch\t7') == [["term", "id"], ['"5 inch', "7"]]


def test_blank_lines_are_skipped_except_in_a_file_of_one_column(tmp_path):
    assert read(tmp_path, "x.csv", "term,id\na,1\n\n\nb,2\n") == [["term", "id"], ["a", "1"], ["b", "2"]]
    assert read(tmp_path, "x.csv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.tsv", "term\tid\na\t1\n\n\t\n") == [["term", "id"], ["a", "1"], ["", ""]]
    assert read(tmp_path, "x.tsv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.jsonl", '{"a": 1}\n\n \n{}\n') == [{"a": 1}, {}]


def test_jsonl_reads_nan_as_none_and_infinity_as_text(tmp_path):
    assert read(tmp_path, "x.jsonl", '{"a": NaN, "b": -Infinity, "c": ["\u00e9\u2028"]}') == [
        {"a": None, "b": "-Infinity", "c": ["é\u2028"]}
    ]


def test_csv_cells_may_exceed_the_csv_module_s_limit_which_is_restored(tmp_path):
    before = csv.field_size_limit()
    assert len(read(tmp_path, "x.csv", f"term\n{'x' * 200_000}\n")[1][0]) == 200_000
    assert csv.field_size_limit() == before


def test_open_quote_reads_no_more_than_the_longest_cell_and_line(tmp_path):
    (tmp_path / "x.csv").write_text('term\na\n"open\n' + "b\n" * 1000)
    with pytest.raises(
        DataError, match=r"x\.csv:3: .*: a cell of more than 1,000 characters\. Is a quote left open\?$"
    ):
        list(open_csv(tmp_path / "x.csv", max_cell_chars=1000)[1])
    (tmp_path / "x.tsv").write_text("term\n" + "b" * 1000)
    with pytest.raises(DataError, match=r"x\.tsv:2: expected lines, found one of more than 1,000 bytes"):
        list(read_tsv(tmp_path / "x.tsv", max_line_bytes=1000))


GZ = gzip.compress(b"term\n" + random.Random(1).randbytes(999).hex().encode())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x\.csv:3: expected 2 field\(s\) as in the header, found 3$"),
        ("x.csv", 'a,b\n"x\ny",2\n1\n', r"x\.csv:4: expected 2 field\(s\)"),
        ("x.csv", 'a,b\n1,2,3\n1,"2\n', r"x\.csv:2: expected 2 field\(s\)"),  # the first error, though the second ends the parsing
        ("x.csv", 'a,b\n\n1,"2\nc\n', r"x\.csv:3: expected CSV as in RFC 4180, found in the row that begins here: unexpected end of data"),
        ("x.csv", 'a,b\n1,"2"3\n', r"x\.csv:2: expected CSV as in RFC 4180, found"),
        ("x.csv", "a,b\r1,2\r", r"x\.csv:1: expected CSV .*: a carriage return outside quotes\. Does the file end its lines as old Macs did"),
        ("x.tsv", "a\tb\n1\n", r"x\.tsv:2: expected 2 field\(s\) as in the header, found 1$"),
        ("x.jsonl", '{"a": 1}\n[1]\n', r"x\.jsonl:2: expected a JSON object, found \[1\]$"),
        ("x.jsonl", '{"a": 1\n', r"x\.jsonl:1: expected a JSON object: "),
        ("x.jsonl", '{"a": {"b": 1, "b": 2}}\n', r"x\.jsonl:1: .* an object has a key twice$"),
        ("x.jsonl", '{"a": ' + "[" * 100_000, r"x\.jsonl:1: expected a JSON object, found one that is nested too deeply"),
        ("x.jsonl", '{"a": ' + "1" * 5000 + "}", r"x\.jsonl:1: expected a JSON object: "),
        ("x.csv", b"a\n\nb\xff\n", r"x\.csv:3: expected UTF-8, found byte 0xff at column 2 of the line; convert the file to UTF-8$"),
        ("x.csv", "a,b\n".encode("utf-16"), r"x\.csv: expected text in UTF-8, found UTF-16; convert the file to UTF-8$"),
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


def naive_csv(text):
    """The rows of RFC 4180, by hand; None for what isn't that. A quote inside an unquoted cell is a character."""
    rows, at = [], 0
    while at < len(text):
        row, blank, end = [], True, ","
        while end == ",":
            cell = ""
            if text.startswith('"', at):
                blank, at = False, at + 1
                while at < len(text) and (text[at] != '"' or text.startswith('""', at)):
                    cell, at = cell + text[at], at + 1 + (text[at] == '"')
                if at >= len(text):
                    return None
                at += 1
            else:
                cell = re.compile(r"[^,\r\n]*").match(text, at)[0]
                at += len(cell)
            row.append(cell)
            found = re.compile(r",|\r*\n|\r*\Z").match(text, at)
            if not found:
                return None
            end, at = found[0], found.end()
            blank &= end != ","
        rows.append([] if blank and row == [""] else row)
    width = next((len(row) for row in rows if row), 0)
    rows = [row or [""] for row in rows[next((i for i, row in enumerate(rows) if row), 0) :] if row or width == 1]
    return rows if {len(row) for row in rows} <= {width} else None


@settings(max_examples=400)
@given(text=st.text('ab",\r\n', max_size=14))
def test_csv_rows_equal_those_of_a_naive_reader(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    try:
        rows = read(folder, "naive.csv", text)
    except DataError:
        rows = None
    assert rows == naive_csv(text)


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(cells, cells), max_size=4), packed=st.booleans(), delimiter=st.sampled_from(",;"))
def test_csv_reads_back_what_the_csv_module_writes(tmp_path_factory, rows, packed, delimiter):
    stream = io.StringIO()
    rows = [("term", "note"), *rows]
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    data = stream.getvalue().encode()
    name = "again.csv.gz" if packed else "again.csv"
    found = read(tmp_path_factory.getbasetemp(), name, gzip.compress(data) if packed else data)
    assert found == [list(row) for row in rows]


ROWS = {"csv": lambda path: open_csv(path)[1], "tsv": read_tsv, "jsonl": read_jsonl}


def test_rows_are_read_one_at_a_time(tmp_path):
    """An error far down is met only there."""
    lines = 50_000
    for name, line in (("x.csv", "1,2"), ("x.tsv", "1\t2"), ("x.jsonl", '{"a": 1}')):
        (tmp_path / name).write_text(f"{line}\n" * lines + "wrong\n")
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
