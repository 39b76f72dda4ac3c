"""Mentions in TSV and Parquet, and the line formats of the original code: `id||name||name` and `id||name`."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.terms.mentions import (
    SCHEMA,
    build_mentions,
    parse_columns,
    read_id_names,
    read_mentions,
    read_pairs,
    write_mentions,
)

words = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\t\n\r\u2028\x85 "|\ufeff'), max_size=8)
ids = st.lists(st.text("CH:P0123+é ", min_size=1, max_size=5).map(str.strip).filter(bool), max_size=3)
numbers = st.none() | st.integers(0, 2**63 - 1)
rows = st.lists(
    st.tuples(
        words, st.sampled_from(["en", "de", "zh", "und"]), ids, st.none() | words, numbers, numbers, st.none() | words
    ),
    min_size=1,
    max_size=5,
)
steady = settings(max_examples=examples(60), deadline=None)


def table(rows):
    mentions, languages, concept_ids, *others = [list(column) for column in zip(*rows, strict=True)]
    return build_mentions(mentions, languages, concept_ids, **dict(zip(SCHEMA.names[3:], others, strict=True)))


def as_rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


def spaced(value):
    return value.replace("\t", " ").replace("\r", " ").replace("\n", " ") if isinstance(value, str) else value


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / "m.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_mentions(tmp_path / "m.tsv")

    return read


@steady
@given(rows=rows)
def test_parquet_gives_back_every_value(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "lr=1.parquet"
    write_mentions(table(rows), file)
    assert as_rows(read_mentions(file)) == [
        (*row[:3], *(None if cell == "" else cell for cell in row[3:])) for row in rows
    ]
    assert read_mentions(file).schema == SCHEMA


@steady
@given(rows=rows)
def test_tsv_gives_back_every_value_with_tabs_and_line_ends_as_spaces(tmp_path_factory, rows):
    file = tmp_path_factory.getbasetemp() / "mentions.tsv"
    write_mentions(table(rows), file)
    optional = [tuple(spaced(value) or (0 if value == 0 else None) for value in row[3:]) for row in rows]
    assert as_rows(read_mentions(file)) == [
        (spaced(row[0]), *row[1:3], *more) for row, more in zip(rows, optional, strict=True)
    ]
    assert read_mentions(file).schema == SCHEMA


@pytest.mark.parametrize(
    "odd", ['"', '""', '"""', '"a"', '"a', 'a"', '"a" b', '"a""b"', '"x, y"', 'say "a"', '"a" or "b"']
)
def test_quotes_around_a_mention_come_back_from_tsv(tmp_path, odd):
    write_mentions(build_mentions([odd, "b"], ["en", "en"], [["C"], ["D"]], context=[None, odd]), tmp_path / "m.tsv")
    found = read_mentions(tmp_path / "m.tsv")
    assert found["mention"].to_pylist() == [odd, "b"]
    assert found["context"].to_pylist() == [None, odd]


def test_start_and_end_still_point_at_the_mention_after_writing(tmp_path):
    context = "\r\n  Patient  has\u00a0no\t fever\n."
    start = context.index("fever")
    write_mentions(
        build_mentions(["fever"], ["en"], [["C1"]], context=[context], start=[start], end=[start + 5]),
        tmp_path / "m.tsv",
    )
    (row,) = read_mentions(tmp_path / "m.tsv").to_pylist()
    assert row["context"][row["start"] : row["end"]] == row["mention"] == "fever"


def test_writing_leaves_out_columns_without_a_value(tmp_path):
    write_mentions(build_mentions(["a", "b"], ["de", "en"], [["C1", "C2"], []], start=[None, 0]), tmp_path / "m.tsv")
    assert (tmp_path / "m.tsv").read_text() == "mention\tlanguage\tconcept_ids\tstart\na\tde\tC1|C2\t\nb\ten\t\t0\n"


@pytest.mark.parametrize("name", ["m.tsv", "m.parquet"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, name):
    write_mentions(build_mentions(["a"], ["en"], [[]]), tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises((KeyError, ValueError)):
        write_mentions(pa.table({"mention": ["b"]}), tmp_path / name)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, before)]


def test_a_mention_is_all_that_must_be_there(read):
    assert as_rows(read("mention\nfever\n")) == [("fever", "und", [], None, None, None, None)]


def test_columns_may_stand_in_any_order_and_be_empty(read):
    found = read("end\tconcept_ids\tmention\tlanguage\tstart\n5\tC1||C2|\tfever\tENG\t0\n\t\t\t\t\n")
    assert as_rows(found) == [("fever", "en", ["C1", "C2"], None, 0, 5, None), ("", "und", [], None, None, None, None)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "end"])
def test_byte_order_mark_and_line_ends_make_no_difference(read, end, bom, last):
    found = read(f"{bom}mention\tlanguage{end}fever\ten{end}tos\tes{end if last else ''}")
    assert [row[:2] for row in as_rows(found)] == [("fever", "en"), ("tos", "es")]


@pytest.mark.parametrize(
    "odd", ['"fever', "a\u2028b", "a\x85b", "a\x0bb", "a\x1cb", "a\rb", "'", "a|b", "", " ", "x" * 100_000]
)
def test_a_mention_stays_as_it_stands(read, odd):
    assert read(f"language\tmention\nen\t{odd}\nen\tb\n")["mention"].to_pylist() == [odd, "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "an empty file"),
        ("\ufeff", "an empty file"),
        ("mention\n", ": expected at least one mention under the header, found none"),
        ("language\nen\n", ": expected a column 'mention', found language; .*--column mention=HEADER"),
        ("mention\tmention\na\tb\n", ": expected one column 'mention', found the columns 1 and 2 of that name"),
        ("mention\tstart\na\t0\nb\t1.5\n", ": expected a whole number in column 'start', found '1.5' in row 2"),
        ("mention\tend\na\tx\n", ": expected a whole number in column 'end', found 'x' in row 1"),
        (f"mention\tend\na\t{10**30}\n", f": expected a whole number in column 'end', found '{10**30}' in row 1"),
        (b"mention\nfi\xe8vre\n", "expected UTF-8, found byte 0xe8"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(read, content, message):
    with pytest.raises(DataError, match=rf"m\.tsv.*{message}"):
        read(content)


CELLS = [
    ("fever", "English", " HP_1 | HP_2 ", "a context", 0, 5),
    ("temblor", "spa", "HP_3", None, None, None),
    ("nada", "", None, None, None, None),
    ("x", "Klingonish", "| HP_4||", None, 3, 4),
]
HEADERS = ["Diagnose", "Sprache", "Code", "context", "start", "end"]
READ = [
    ("fever", "en", ["HP_1", "HP_2"], "a context", 0, 5, None),
    ("temblor", "es", ["HP_3"], None, None, None, None),
    ("nada", "und", [], None, None, None, None),
    ("x", "und", ["HP_4"], None, 3, 4, None),
]
NAMES = {"mention": "Diagnose", "language": "Sprache", "concept_ids": "Code"}


def write_csv(file, delimiter=","):
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([[*HEADERS, "note"], *([*row, "n"] for row in CELLS)])


def write_xlsx(file):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [[*HEADERS, "note"], *([*row, "n"] for row in CELLS)]:
        book.active.append(row)
    book.save(file)


def write_jsonl(file):
    lines = [dict(zip([*HEADERS, "note"], [*row, "n"], strict=True)) for row in CELLS]
    for line in lines:
        line["Code"] = (line["Code"] or "").split("|")  # a list, with blanks around its elements and empty ones
    file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def write_parquet(file):
    columns = dict(zip([*HEADERS, "note"], zip(*([*row, "n"] for row in CELLS), strict=True), strict=True))
    pq.write_table(pa.table({name: list(cells) for name, cells in columns.items()}), file)


WRITERS = {
    "m.csv": write_csv,
    "m.tsv": lambda file: write_csv(file, "\t"),
    "m.xlsx": write_xlsx,
    "m.jsonl": write_jsonl,
    "m.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_of_tables_gives_the_same_mentions(tmp_path, caplog, name):
    WRITERS[name](tmp_path / name)
    with caplog.at_level("INFO", logger="xsap"):
        assert as_rows(read_mentions(tmp_path / name, columns=NAMES)) == READ
    assert "columns not used: note; mentions with an unknown language ('Klingonish')" in caplog.text
    assert "language unknown: 1" in caplog.text
    with pytest.raises(DataError, match="expected a column 'Diagnosen', found Diagnose"):
        read_mentions(tmp_path / name, columns={"mention": "Diagnosen"})


def test_integer_codes_of_a_workbook_are_ids(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [["mention", "concept_ids"], ["fever", 386661006], ["cough", "49727002 | 7"], ["x", None]]:
        book.active.append(row)
    book.save(tmp_path / "m.xlsx")
    assert read_mentions(tmp_path / "m.xlsx")["concept_ids"].to_pylist() == [["386661006"], ["49727002", "7"], []]


def test_a_list_is_no_mention(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"mention": "a"}\n{"mention": ["a", "b"]}\n')
    with pytest.raises(DataError, match=r"m\.jsonl.*mention"):
        read_mentions(tmp_path / "m.jsonl")


def test_column_options_are_fields_with_headers():
    assert parse_columns(["Diagnose", "concept_ids=Code=1", "language=L"]) == {
        "mention": "Diagnose",
        "concept_ids": "Code=1",
        "language": "L",
    }
    assert parse_columns([]) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["concept_id=x"],
            "expected --column FIELD=HEADER such as concept_ids=Code, found 'concept_id=x'; did you mean",
        ),
        (["mention="], "expected --column FIELD=HEADER"),
        (["", "x"], "expected --column FIELD=HEADER"),
        (["a", "mention=b"], "--column mention: expected once, found 'a' and 'b'"),
    ],
)
def test_other_column_options_are_rejected(given, message):
    with pytest.raises(ConfigError, match=message):
        parse_columns(given)


@pytest.mark.parametrize("name", ["m.tsv", "m.parquet"])
def test_a_missing_file_and_a_folder_are_named(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: expected a file, found nothing there"):
        read_mentions(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"{name}: expected a file, found a folder there"):
        read_mentions(tmp_path / name)


def test_parquet_is_read_as_tsv_is(tmp_path):
    pq.write_table(
        pa.table({"language": ["ENG", "spa", ""], "mention": ["a", "b", "c"], "note": [1, 2, 3]}),
        tmp_path / "m.parquet",
    )
    nothing = ([], None, None, None, None)
    assert as_rows(read_mentions(tmp_path / "m.parquet")) == [
        ("a", "en", *nothing),
        ("b", "es", *nothing),
        ("c", "und", *nothing),
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"language": ["en"]}, "expected a column 'mention', found language"),
        ({"mention": ["a"], "start": ["x"]}, "expected a whole number in column 'start', found 'x' in row 1"),
        (
            {"mention": ["a"], "context": [["x"]]},
            "expected text in each cell of the column 'context', found a list or an object in row 1",
        ),
    ],
)
def test_a_parquet_file_of_something_else_is_refused_in_one_line(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=rf"m\.parquet: .*{message}.*\Z"):
        read_mentions(tmp_path / "m.parquet")


@pytest.mark.parametrize("content", [b"", b"mention\na\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "m.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.parquet: expected a Parquet file.*\Z"):
        read_mentions(tmp_path / "m.parquet")


LINE_FORMATS = {"id||name||name": (read_pairs, 3), "id||name": (read_id_names, 2)}
each_format = pytest.mark.parametrize("form", LINE_FORMATS)
cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r|\ufeff"), min_size=1, max_size=8
).filter(str.strip)


def read_format(form, path, data):
    path.write_bytes(data)
    return LINE_FORMATS[form][0](path)


@each_format
@steady
@given(data=st.data())
def test_line_formats_are_read_in_order_with_any_line_ends(tmp_path_factory, form, data):
    width = LINE_FORMATS[form][1]
    rows = data.draw(st.lists(st.tuples(*[cells] * width), min_size=1, max_size=5))
    bom, end, last = data.draw(
        st.tuples(st.sampled_from(["", "\ufeff"]), st.sampled_from(["\n", "\r\n"]), st.booleans())
    )
    text = bom + end.join("||".join(row) for row in rows) + end * last
    columns = read_format(form, tmp_path_factory.getbasetemp() / "pairs.txt", text.encode())
    assert list(zip(*columns, strict=True)) == [tuple(cell.strip() for cell in row) for row in rows]


def test_line_formats_have_named_columns(tmp_path):
    pairs = read_format("id||name||name", tmp_path / "p.txt", b"C1||fever||fiebre\nC2||cough||tos\n")
    assert (pairs.concept_ids, pairs.left, pairs.right) == (["C1", "C2"], ["fever", "cough"], ["fiebre", "tos"])
    queries = read_format("id||name", tmp_path / "q.txt", b"C1|C3||fever\nC2+C4||cough\n")
    assert (queries.concept_ids, queries.names) == (["C1|C3", "C2+C4"], ["fever", "cough"])


@pytest.mark.parametrize(
    "odd", ["a\u2028b", "a\u2029b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x85b", "a\rb", 'a"b', "a|b", "a\tb", "'a"]
)
def test_characters_like_line_ends_and_separators_stay_in_a_name(tmp_path, odd):
    pairs = read_format("id||name||name", tmp_path / "p.txt", f"C1||{odd}||b\nC2||c||d\n".encode())
    assert (pairs.concept_ids, pairs.left) == (["C1", "C2"], [odd, "c"])


@each_format
@pytest.mark.parametrize("bad", ["C1||fever||fiebre||x", "C1", "", "C1|| ", "||a||b", "C1||a||", "|| || "])
def test_line_of_another_format_is_rejected_with_its_number(tmp_path, form, bad):
    good = "||".join("abc"[: LINE_FORMATS[form][1]])
    with pytest.raises(DataError, match=rf"p\.txt:2: expected {form.replace('|', '.')}, found"):
        read_format(form, tmp_path / "p.txt", f"{good}\n{bad}\n{good}\n".encode())


@each_format
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
def test_empty_file_of_a_line_format_is_rejected(tmp_path, form, content):
    with pytest.raises(DataError, match=r"p\.txt: expected at least one line .* empty file"):
        read_format(form, tmp_path / "p.txt", content)


@each_format
def test_line_format_that_is_not_utf8_is_rejected_with_the_offset(tmp_path, form):
    with pytest.raises(DataError, match=r"p\.txt:1: expected UTF-8, found byte 0xe9 at column 5 of the line"):
        read_format(form, tmp_path / "p.txt", b"C1||\xe9||b\n")


@each_format
def test_missing_file_of_a_line_format_is_named(tmp_path, form):
    with pytest.raises(DataError, match=r"none\.txt: expected a file, found nothing there"):
        LINE_FORMATS[form][0](tmp_path / "none.txt")
