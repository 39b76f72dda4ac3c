import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.linking.columns import ANSWER, column_of, read_sheet, sheet_of, with_answers, write_sheet, write_text
from xsap.linking.linker import Candidate, Result

FEVER = Result("fiebre", (Candidate("C1", "Fever", "pyrexia", 0.9), Candidate("C2", "Cold", "Cold", 1 / 3)))
BLANK = Result(" ", (), "the mention is blank")


def read(tmp_path, name, data):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_sheet(tmp_path / name)


def written(sheet, form):
    stream = io.StringIO(newline="")
    write_sheet(sheet, stream, form)
    return stream.getvalue()


def test_a_csv_with_a_mark_quotes_commas_and_line_ends(tmp_path):
    sheet = read(tmp_path, "x.csv", '\ufeffterm,note\r\n"a, ""b""","two\r\nlines"\r\nfiebre,\r\n')
    assert sheet == (["term", "note"], [['a, "b"', "two\nlines"], ["fiebre", ""]])


def test_a_csv_with_semicolons_as_excel_writes_it_where_the_comma_is_decimal(tmp_path):
    assert read(tmp_path, "x.csv", 'id;term\n1;"Fieber; hoch, 39,5"\n') == (["id", "term"], [["1", "Fieber; hoch, 39,5"]])
    assert read(tmp_path, "y.csv", "id,a;b\n1,x;y\n") == (["id", "a;b"], [["1", "x;y"]])


def test_a_tsv_has_no_quoting(tmp_path):
    assert read(tmp_path, "x.TSV", 'term\tid\n"5 inch\t7\n') == (["term", "id"], [['"5 inch', "7"]])


def test_a_jsonl_has_every_key_that_some_line_has(tmp_path):
    sheet = read(tmp_path, "x.jsonl", '{"term": "a", "n": 1}\n\n{"x": [1], "term": null}\n')
    assert sheet == (["term", "n", "x"], [["a", 1, None], [None, None, [1]]])
    assert column_of(sheet, "term", "x") == ["a", ""]
    assert column_of(sheet, "n", "x") == ["1", ""]


def test_blank_lines(tmp_path):
    assert read(tmp_path, "x.csv", "term,id\na,1\n\n").rows == [["a", "1"]]
    assert read(tmp_path, "x.csv", "term\na\n\nb\n").rows == [["a"], [""], ["b"]]
    assert read(tmp_path, "x.tsv", "term\na\n\nb\n").rows == [["a"], [""], ["b"]]


def test_a_cell_larger_than_csv_s_own_limit_and_the_limit_stays(tmp_path):
    before = csv.field_size_limit()
    assert len(read(tmp_path, "x.csv", f"term\n{'x' * 200_000}\n").rows[0][0]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x\.csv:3: expected 2 field\(s\) as in the header, found 3$"),
        ("x.csv", 'a,b\n"x\ny",2\n1\n', r"x\.csv:4: expected 2 field\(s\)"),
        ("x.csv", 'a,b\n1,"2\n', r"x\.csv:2: not CSV as RFC 4180 has it: unexpected end of data"),
        ("x.csv", 'a,b\n1,"2"3\n', r"x\.csv:2: not CSV"),
        ("x.csv", "", r"x\.csv: expected columns with names, found an empty file"),
        ("x.tsv", "a\tb\n1\n", r"x\.tsv:2: expected 2 field\(s\) as in the header, found 1$"),
        ("x.tsv", "", "found an empty file"),
        ("x.jsonl", "", "found an empty file"),
        ("x.jsonl", '{"a": 1}\n[1]\n', r"x\.jsonl:2: expected a JSON object, found \[1\]"),
        ("x.jsonl", '{"a": 1\n', r"x\.jsonl:1: expected a JSON object, found what is no JSON"),
        ("x.csv", b"a\n\xff\n", r"x\.csv: expected UTF-8, found byte 0xff at offset 2"),
        ("x.xls", "", r"x\.xls: expected a file that ends in \.csv, \.tsv or \.jsonl"),
    ],
)
def test_what_is_no_such_file_says_where(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, data)


def test_a_missing_column_names_the_nearest():
    with pytest.raises(DataError, match=r"^f\.csv: expected a column 'term', found id, terms; did you mean 'terms'\?$"):
        column_of((sheet := sheet_of([]))._replace(header=["id", "terms"]), "term", "f.csv")
    with pytest.raises(DataError, match=r"^f\.csv: expected a column 'term', found two of that name$"):
        column_of(sheet._replace(header=["term", "term"]), "term", "f.csv")


def test_every_row_appears_and_its_other_columns_come_through():
    sheet = with_answers(sheet_of([])._replace(header=["id", "name"], rows=[["7", "fiebre"], ["8", " "]]), [FEVER, BLANK])
    assert sheet.header == ["id", "name", "rank", "concept_id", "linked_name", "matched_name", "score", "reason"]
    assert sheet.rows == [
        ["7", "fiebre", 1, "C1", "Fever", "pyrexia", 0.9, None],
        ["7", "fiebre", 2, "C2", "Cold", "Cold", 0.333333, None],
        ["8", " ", None, None, None, None, None, "the mention is blank"],
    ]
    assert with_answers(sheet._replace(rows=[]), []).header[-3:] == ["linked_matched_name", "linked_score", "linked_reason"]


def test_answers_in_each_form():
    sheet = with_answers(sheet_of(["a\tb", "\udc80"]), [FEVER, BLANK])
    assert written(sheet, "csv").splitlines() == [
        "mention,rank,concept_id,name,matched_name,score,reason",
        "a\tb,1,C1,Fever,pyrexia,0.9,",
        "a\tb,2,C2,Cold,Cold,0.333333,",
        "\\udc80,,,,,,the mention is blank",
    ]
    assert written(sheet, "tsv").splitlines()[1] == "a b\t1\tC1\tFever\tpyrexia\t0.9\t"
    first, _, last = map(json.loads, written(sheet, "jsonl").splitlines())
    assert first == {"mention": "a\tb", **dict(zip(ANSWER, [1, "C1", "Fever", "pyrexia", 0.9, None], strict=True))}
    assert last == {"mention": "\udc80", **dict.fromkeys(ANSWER), "reason": "the mention is blank"}


def test_answers_for_people():
    stream = io.StringIO()
    write_text([FEVER, BLANK, Result("x" * 90, (), "too long")], stream)
    assert stream.getvalue().splitlines() == [
        "fiebre",
        "   1   0.900  C1  Fever  (pyrexia)",
        "   2   0.333  C2  Cold",
        "(blank)",
        "      the mention is blank",
        "x" * 79 + "…",
        "      too long",
    ]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), max_size=6)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells), max_size=4), form=st.sampled_from(["csv", "jsonl"]))
def test_what_is_written_is_read_again(tmp_path_factory, rows, form):
    path = tmp_path_factory.getbasetemp() / f"again.{form}"
    sheet = sheet_of([])._replace(header=["term", "note"], rows=[["first", "row"], *map(list, rows)])
    path.write_text(written(sheet, form), encoding="utf-8", newline="")
    assert read_sheet(path) == sheet
