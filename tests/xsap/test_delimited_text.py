"""Text tables: delimiters, quoting, encodings, line ends and rows of unequal length."""

import csv
import gzip
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.files import read_jsonl
from xsap.tabular.delimited_text import BLANK_LINES, LONG_ROWS, SHORT_ROWS, open_delimited


def write(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def read(folder, name, data, **options):
    path = write(folder, name, data)
    return [row for _, row in (read_jsonl(path) if name.endswith("jsonl") else open_delimited(path, **options).rows)]


def test_csv_with_byte_order_mark_quotes_commas_and_line_ends(tmp_path):
    rows = read(tmp_path, "x.csv", '\ufeffterm,note\r\n"a, ""b""","two\r\nlines"\r\nfiebre,\r\n')
    assert rows == [["term", "note"], ['a, "b"', "two\r\nlines"], ["fiebre", ""]]


def test_rows_come_with_the_line_that_they_begin_in(tmp_path):
    (tmp_path / "x.csv").write_text('a,b\n\n"1\n2",3\n4,5\n')
    assert [number for number, _ in open_delimited(tmp_path / "x.csv").rows] == [1, 3, 5]
    (tmp_path / "x.tsv").write_text("a\tb\n\n1\t2\n")
    assert [number for number, _ in open_delimited(tmp_path / "x.tsv").rows] == [1, 3]
    (tmp_path / "x.jsonl").write_text('{}\n\n{"a": 1}\n')
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [(1, {}), (3, {"a": 1})]


def test_csv_delimiter_is_a_semicolon_where_excel_writes_one(tmp_path):
    assert read(tmp_path, "x.csv", 'id;term\n1;"Fieber; hoch, 39,5"\n') == [["id", "term"], ["1", "Fieber; hoch, 39,5"]]
    assert open_delimited(tmp_path / "x.csv").delimiter == ";"
    assert read(tmp_path, "y.csv", "id,a;b\n1,x;y\n") == [["id", "a;b"], ["1", "x;y"]]
    assert open_delimited(tmp_path / "y.csv").delimiter == ","


def test_tsv_has_no_quoting(tmp_path):
    assert read(tmp_path, "x.tsv", 'term\tid\r\n"5 inch\t7') == [["term", "id"], ['"5 inch', "7"]]


def test_blank_lines_are_skipped_except_in_a_file_of_one_column(tmp_path):
    assert read(tmp_path, "x.csv", "term,id\na,1\n\n\nb,2\n") == [["term", "id"], ["a", "1"], ["b", "2"]]
    assert read(tmp_path, "x.csv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.tsv", "term\tid\na\t1\n\n\t\n") == [["term", "id"], ["a", "1"], ["", ""]]
    assert read(tmp_path, "x.tsv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.jsonl", '{"a": 1}\n\n \n{}\n') == [{"a": 1}, {}]


def test_csv_cells_may_exceed_the_csv_module_s_limit_which_is_restored(tmp_path):
    before = csv.field_size_limit()
    assert len(read(tmp_path, "x.csv", f"term\n{'x' * 200_000}\n")[1][0]) == 200_000
    assert csv.field_size_limit() == before


def test_open_quote_reads_no_more_than_the_longest_cell_and_line(tmp_path):
    (tmp_path / "x.csv").write_text('term\na\n"open\n' + "b\n" * 1000)
    with pytest.raises(
        DataError, match=r"x\.csv:3: .*: a cell of more than 1,000 characters\. Is a quote left open\?$"
    ):
        list(open_delimited(tmp_path / "x.csv", max_cell_chars=1000).rows)
    (tmp_path / "x.tsv").write_text("term\n" + "b" * 1000)
    with pytest.raises(DataError, match=r"x\.tsv:2: expected lines, found one of more than 1,000 bytes"):
        list(open_delimited(tmp_path / "x.tsv", max_line_bytes=1000).rows)


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
    rows = rows[next((i for i, row in enumerate(rows) if any(map(str.strip, row))), len(rows)) :]
    width = len(rows[0]) if rows else 0
    rows = [row or [""] for row in rows if row or width == 1]
    if any(any(row[width:]) for row in rows):
        return None
    return [(row + [""] * width)[:width] for row in rows]


@settings(max_examples=examples(400))
@given(header=st.sampled_from(["x,y\n", "x\n", "\n,\nx,y,z\r\n"]), text=st.text('ab",\r\n', max_size=14))
def test_csv_rows_equal_those_of_a_naive_reader(tmp_path_factory, header, text):
    folder, text = tmp_path_factory.getbasetemp(), header + text
    try:
        rows = read(folder, "naive.csv", text)
    except DataError:
        rows = None
    assert rows == naive_csv(text)


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=examples(60))
@given(rows=st.lists(st.tuples(cells, cells), max_size=4), packed=st.booleans(), delimiter=st.sampled_from(",;"))
def test_csv_reads_back_what_the_csv_module_writes(tmp_path_factory, rows, packed, delimiter):
    stream = io.StringIO()
    rows = [("term", "note"), *rows]
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    data = stream.getvalue().encode()
    name = "again.csv.gz" if packed else "again.csv"
    found = read(tmp_path_factory.getbasetemp(), name, gzip.compress(data) if packed else data)
    assert found == [list(row) for row in rows]


# Delimiters


@pytest.mark.parametrize("name", ["x.csv", "x.txt"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "rows",
    [
        [["term", "id"], ["a", "1"]],
        [["id", "codes (a,b;c|d)", "term"], ["1", "x,y;z|w", "cough"]],
        [["term", "value"], ["a", "1,5"], ["b", "2,5"], ["c; d", "3"]],
        [["term\nin two lines", "id"], ["a", "1"]],
        [["a", "b", "c"], ["1"], ["1", "2"], ["1", "2", "3"]],
    ],
)
def test_delimiter_is_found_whatever_is_in_the_cells(tmp_path, name, delimiter, rows):
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL).writerows(rows)
    found = open_delimited(write(tmp_path, name, stream.getvalue()))
    assert found.delimiter == delimiter
    assert [row for _, row in found.rows] == [row + [""] * (len(rows[0]) - len(row)) for row in rows]


@pytest.mark.parametrize(
    ("first", "delimiter"), [("sep=;", ";"), ("SEP=,", ","), ('"sep=|"', "|"), ("sep=\t", "\t"), ("sep=^", "^")]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_first_line_states_the_delimiter(tmp_path, first, delimiter, mark):
    text = (
        f"{mark}{first}\r\nterm{delimiter}id\r\na, b; c{delimiter}1\r\n"
        if delimiter in "|^\t"
        else f"{mark}{first}\r\nterm{delimiter}id\r\na{delimiter}1\r\n"
    )
    found = open_delimited(write(tmp_path, "x.csv", text))
    assert found.delimiter == delimiter
    assert [number for number, _ in found.rows] == [2, 3]


def test_unusual_delimiter_is_a_note(tmp_path):
    assert open_delimited(write(tmp_path, "x.csv", "a\tb\n")).notes == ["cells separated by tabs"]
    assert open_delimited(write(tmp_path, "y.csv", "a;b\n")).notes == []
    assert open_delimited(write(tmp_path, "z.txt", "a\tb\n")).notes == []


# Tab-separated text


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            'id\tterm\r\n1\t"cough, dry"\r\n3\t"the ""flu"""\r\n',
            [["id", "term"], ["1", "cough, dry"], ["3", 'the "flu"']],
        ),
        ('"id"\t"term"\n1\t"cough"\n', [["id", "term"], ["1", "cough"]]),
        ('id\tterm\n1\t"two\r\nlines"\n2\tb\n', [["id", "term"], ["1", "two\r\nlines"], ["2", "b"]]),
        ('id\tterm\n1\t"a\tb"\n', [["id", "term"], ["1", "a\tb"]]),
        ('id\tterm\n1\t5" tube\n2\t"open\n3\tc\n', [["id", "term"], ["1", '5" tube'], ["2", '"open'], ["3", "c"]]),
        ('id\tterm\n1\t"open\n2\tnot"\n', [["id", "term"], ["1", '"open'], ["2", 'not"']]),
        ('id\tterm\n1\t"a" b\n', [["id", "term"], ["1", '"a" b']]),
        ('id\tterm\n1\t"\n2\t""\n', [["id", "term"], ["1", '"'], ["2", ""]]),
        ('a\tb\tc\n"x\ty"\tz\n', [["a", "b", "c"], ['"x', 'y"', "z"]]),
    ],
)
def test_tab_separated_cell_is_quoted_only_if_it_is_so_as_a_whole(tmp_path, text, rows):
    assert read(tmp_path, "x.tsv", text) == rows


@settings(max_examples=examples(200))
@given(
    rows=st.lists(
        st.lists(st.one_of(st.text('ab" \n,', max_size=5), st.text('ab"\t', max_size=5)), min_size=2, max_size=2),
        max_size=5,
    ),
    every=st.booleans(),
)
def test_tab_separated_text_of_excel_and_r_is_read_back(tmp_path_factory, rows, every):
    """Excel quotes the cells that need it; R's write.table(qmethod="double") all of them."""
    rows = [["id", "term"], *rows]
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL).writerows(rows)
    assert read(tmp_path_factory.getbasetemp(), "excel.tsv", stream.getvalue()) == rows


@settings(max_examples=examples(200))
@given(rows=st.lists(st.lists(st.text('ab"', max_size=4), min_size=2, max_size=2), max_size=5))
def test_unquoted_tab_separated_text_keeps_every_row_and_stray_quote(tmp_path_factory, rows):
    def plain(cell):
        whole = re.fullmatch('"((?:[^"]|"")*)"', cell)
        return whole[1].replace('""', '"') if whole else cell

    lines = [["id", "term"], *rows]
    text = "\n".join(map("\t".join, lines)) + "\n"
    found = read(tmp_path_factory.getbasetemp(), "stray.tsv", text)
    if not any(cell.startswith('"') and plain(cell) == cell for row in rows for cell in row):
        assert found == [[plain(cell) for cell in row] for row in lines]
    assert "".join(map("".join, found)).count("a") == sum(cell.count("a") for row in lines for cell in row)


# Rows of unequal length, header, line ends


def test_short_rows_are_filled_up_and_counted(tmp_path):
    for name, text in (
        ("x.csv", "a,b,c\n1\n1,2\n\n1,2,3\n1,2,3,,\n"),
        ("x.tsv", "a\tb\tc\n1\n1\t2\n\n1\t2\t3\n1\t2\t3\t\t\n"),
    ):
        found = open_delimited(write(tmp_path, name, text))
        assert [row for _, row in found.rows] == [
            ["a", "b", "c"],
            ["1", "", ""],
            ["1", "2", ""],
            ["1", "2", "3"],
            ["1", "2", "3"],
        ]
        assert found.repairs == {SHORT_ROWS: 2, BLANK_LINES: 1, LONG_ROWS: 1}


def test_header_row_skips_title_lines(tmp_path):
    text = 'Report of 2024, "draft\n\nterm;id\n\na;1\n'
    found = open_delimited(write(tmp_path, "x.csv", text), header_row=3)
    assert list(found.rows) == [(3, ["term", "id"]), (5, ["a", "1"])]
    assert found.delimiter == ";"


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
def test_lines_may_end_with_carriage_returns_alone(tmp_path, name):
    mark = "," if name == "x.csv" else "\t"
    assert read(tmp_path, name, f"term{mark}id\ra{mark}1\r\rb{mark}2\r") == [["term", "id"], ["a", "1"], ["b", "2"]]
    assert read(tmp_path, name, "term\ra\rb") == [["term"], ["a"], ["b"]]


def test_nul_is_a_character_of_a_cell(tmp_path):
    assert read(tmp_path, "x.csv", "term,id\na\0b,1\n") == [["term", "id"], ["a\0b", "1"]]
    with pytest.raises(DataError, match=r"a NUL byte in its first line\. Is it UTF-16\? .* --encoding utf-16-le$"):
        read(tmp_path, "x.csv", "term\n".encode("utf-16-le"))
    assert read(tmp_path, "x.csv", "term\n".encode("utf-16-le"), encoding="utf-16-le") == [["term"]]


def test_unknown_encoding_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="expected the name of an encoding"):
        read(tmp_path, "x.csv", "a\n", encoding="ansi")
