"""Answers as columns, and tables written with them in every format."""

import csv
import gzip
import io
import itertools
import json
import math
import random
import re
import time
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError
from xsap.linking.results import Candidate, Result
from xsap.tabular import workbook_writer
from xsap.tabular.answers import (
    ANNOTATED,
    ANSWER,
    CANDIDATE,
    NOTES,
    Answer,
    answer_cells,
    answer_columns,
    decode_answer,
    encode_answer,
    with_answers,
)
from xsap.tabular.cells import cell_kind, storage_type, to_column
from xsap.tabular.readers import InputTable
from xsap.tabular.spreadsheet_text import escape_for_excel, escape_formula
from xsap.tabular.workbook_writer import MAX_CELL, MAX_ROWS, check_row_count, open_workbook
from xsap.tabular.writers import FORMS, OutputFormat, open_writer, unique_names
from xsap.terms.abbreviations import Expansion
from xsap.terms.clinical_text import CleanedTerm

BLANK = Answer([], "the mention is blank")


# Answers


FEVER = Candidate(
    "C1",
    "Fever",
    "pyrexia",
    0.9,
    "fr",
    "S2",
    ("Finding", "Sign"),
    ("S:1", "T:é\n2"),
    0.123456789,
    vocabulary="S",
    code="1",
)
COLD = Candidate("C2", "Cold", "Cold", 1 / 3, "en", "S")
BOTH = [
    [
        "C1",
        "Fever",
        "S",
        "1",
        "pyrexia",
        "fr",
        "S2",
        ("Finding", "Sign"),
        ("S:1", "T:é\n2"),
        0.9,
        0.123457,
        "similar",
        None,
        None,
    ],
    ["C2", "Cold", "", "", "Cold", "en", "S", (), (), 0.333333, None, "similar", None, None],
]


def rows_of(table):
    """The rows of a table; lists as tuples, as answers have them."""
    columns = [
        [tuple(cell) if isinstance(cell, list) else cell for cell in column.to_pylist()] for column in table.columns
    ]
    return list(zip(*columns, strict=True))


def test_every_field_of_a_candidate_has_a_column():
    assert sorted(CANDIDATE) == sorted(Candidate.__slots__)


def encoded(result):
    return encode_answer(Answer.from_result(result))


def test_answers_are_decoded_as_they_were_encoded():
    answer = Answer.from_result(Result("fiebre", (FEVER, COLD)))
    assert answer == decode_answer(encode_answer(answer))
    line = encoded(Result("fiebre", (FEVER, COLD)))
    assert b"\n" not in line
    assert decode_answer(line) == Answer(BOTH, None)
    assert decode_answer(encoded(Result(" ", (), "the mention is blank"))) == BLANK
    assert decode_answer(encoded(Result("x", ()))) == Answer(
        [], "no candidates"
    )  # a row without an answer always has a reason
    assert decode_answer(encoded(Result("x", (COLD,), "unsure"))) == Answer(BOTH[1:], "unsure")
    assert len(decode_answer(encoded(Result("x", (replace(FEVER, name="\udc80"),)))).candidates[0]) == len(CANDIDATE)


@pytest.mark.parametrize("line", [b"", b"1", b"[]", b'[[["C1"]],null]', b'{"a": 1}', b"[1,2]"])
def test_decode_answer_rejects_other_lines(line):
    with pytest.raises((ValueError, TypeError)):
        decode_answer(line)


def test_long_form_repeats_the_columns_of_each_row():
    table = pa.table([["7", "8", "9"], pa.array(["fiebre", " ", "x"]).dictionary_encode()], ["id", "name"])
    found = with_answers(table, [Answer(BOTH, None), BLANK, Answer(BOTH[1:], "unsure")], wide=None)
    assert found.column_names == ["id", "name", *ANSWER[:2], "linked_name", *ANSWER[3:]]
    assert rows_of(found) == [
        ("7", "fiebre", 1, *BOTH[0][:-2], None),
        ("7", "fiebre", 2, *BOTH[1][:-2], None),
        ("8", " ", *[None] * 13, "the mention is blank"),
        ("9", "x", 1, *BOTH[1][:-2], "unsure"),
    ]
    assert found.schema.types[:3] == [*table.schema.types, pa.int32()]


def test_wide_form_has_one_row_for_each_of_the_input():
    found = with_answers(pa.table({"name_2": ["a", "b"]}), [Answer(BOTH[:1], None), BLANK], wide=2)
    assert found.column_names == ["name_2", *(f"{field}_1" for field in CANDIDATE[:-2]), "concept_id_2", "linked_name_2", *(f"{field}_2" for field in CANDIDATE[2:-2]), "reason"]  # fmt: skip
    assert rows_of(found) == [
        ("a", *BOTH[0][:-2], *[None] * 12, None),
        ("b", *[None] * 24, "the mention is blank"),
    ]


@pytest.mark.parametrize("wide", [None, 2])
def test_annotations_of_a_matched_name_have_columns_where_they_are_asked_for(wide):
    counted = [*BOTH[0][:-2], 3, 0.75]
    found = with_answers(pa.table({"term": ["a", "b"]}), [Answer([counted], None), BLANK], wide=wide, notes=ANNOTATED)
    first = found.slice(0, 1).to_pylist()[0]
    last = "" if wide is None else "_1"
    assert (first[f"annotations{last}"], first[f"share{last}"], first[f"match{last}"]) == (3, 0.75, "similar")
    assert found.num_columns == 1 + (len(CANDIDATE) + 2 if wide is None else wide * len(CANDIDATE) + 1)


def test_answer_columns_avoid_names_of_the_input():
    names, types = answer_columns(["name", "linked_name", "rank", "linked_rank_"], wide=None)
    assert (names[0], names[2]) == ("linked_rank", "linked_linked_name")
    assert len(names) == len(types) == len(ANSWER)
    assert set(answer_columns(["reason"], wide=3)[0]) >= {"linked_reason", "concept_id_1", "confidence_3"}


@given(data=st.data(), count=st.integers(0, 4), wide=st.one_of(st.none(), st.integers(1, 3)))
def test_with_answers_equals_a_naive_table(data, count, wide):
    most = wide or 3
    answers = []
    for row in range(count):
        found = [
            [f"C{row}.{rank}", *[None] * 8, rank / 7, *[None] * 4] for rank in range(data.draw(st.integers(0, most)))
        ]
        answers.append(Answer(found, None if found else "why"))
    table = pa.table([pa.array([f"t{row}" for row in range(count)], pa.string())], ["term"])
    rows = with_answers(table, answers, wide=wide).to_pylist()
    expected, plain = [], CANDIDATE[:-2]  # without those of an index with mention names
    for row, (candidates, reason, _) in enumerate(answers):
        if wide is None:
            for rank in range(max(1, len(candidates))):
                shown = dict(zip(plain, candidates[rank], strict=False)) if candidates else dict.fromkeys(plain)
                expected.append(
                    {"term": f"t{row}", "rank": rank + 1 if candidates else None} | shown | {"reason": reason}
                )
        else:
            line = {"term": f"t{row}"}
            for rank in range(wide):
                for place, field in enumerate(plain):
                    line[f"{field}_{rank + 1}"] = candidates[rank][place] if rank < len(candidates) else None
            expected.append(line | {"reason": reason})
    assert rows == expected


CLEANED_RESULT = Result(
    "V.a. HWI",
    (FEVER,),
    cleaned=CleanedTerm("HWI", False, True, "", "", "", ("V.a.",)),
    expansion=Expansion("Harnwegsinfekt", "table"),
)


def test_notes_of_a_mention_are_encoded_and_decoded():
    answer = Answer.from_result(CLEANED_RESULT)
    assert answer.notes == ("HWI", False, True, None, None, None, ("V.a.",), "Harnwegsinfekt", "table")
    assert decode_answer(encode_answer(answer)) == answer
    assert Answer.from_result(Result("x", ())).notes == ()


@pytest.mark.parametrize("wide", [None, 2])
def test_notes_are_columns_before_the_candidates_where_they_are_asked_for(wide):
    answers = [Answer.from_result(CLEANED_RESULT), BLANK]
    table = pa.table({"term": ["V.a. HWI", ""], "removed": [1, 2]})
    plain = with_answers(table, answers, wide=wide)
    found = with_answers(table, answers, wide=wide, notes=NOTES)
    added = found.column_names[2:11]
    assert added == [name if name != "removed" else "linked_removed" for name in NOTES]
    assert found.drop(added) == plain
    assert found.select(added).to_pylist()[0] == dict(zip(added, answers[0].notes, strict=True)) | {
        "linked_removed": ["V.a."]
    }
    assert found.select(added).to_pylist()[-1] == dict.fromkeys(added) | {
        "negated": False,
        "suspected": False,
        "linked_removed": [],
    }
    only = with_answers(table, answers, wide=wide, notes=NOTES[-2:])
    assert only.column_names[2:4] == ["expansion", "expansion_source"]
    assert answer_cells([], wide=wide, notes=NOTES)[1] == [[] for _ in found.column_names[2:]]


# Formats


TWO = Answer(
    [
        [
            "C1",
            "Fever",
            "S",
            "1",
            "-pyrexia",
            "fr",
            "S2",
            ("Finding", "Sign"),
            ("S:1", "T:2"),
            0.9,
            0.876,
            "similar",
            None,
            None,
        ],
        ["C22", "Cold", "", "", "Cold", "en", "S", (), (), -0.5, None, "similar", None, None],
    ],
    None,
)


def stored(cells):
    return to_column(cells, storage_type({cell_kind(cell) for cell in cells}))


def written(header, columns, answers, output_format, *, types=None, delimiter=",", size=2):
    """The bytes of all rows, written `size` at a time, and how many rows the writer counts. columns: Arrow columns, or cells."""
    source = InputTable(
        "x", header, types or [pa.string()] * len(header), None, lambda _: iter([]), delimiter=delimiter
    )
    stream, count = io.BytesIO(), 0
    with open_writer(stream, output_format, source) as write:
        for start in range(0, len(answers), size):
            part = [column[start : start + size] for column in columns]
            arrow = [stored(column) if isinstance(column, list) else column for column in part]
            count += write(pa.table(arrow, header), list(map(str, part[0])), answers[start : start + size]).rows
    return stream.getvalue(), count


def text(*given, **options):
    return written(*given, **options)[0].decode()


def test_csv_tsv_and_jsonl_have_a_row_for_each_candidate():
    given = (["term"], [["a\tb", " "]], [TWO, BLANK])
    assert written(*given, OutputFormat("csv"))[1] == 3
    assert text(*given, OutputFormat("csv")).split("\n") == [
        "term,rank,concept_id,name,vocabulary,code,matched_name,language,source,semantic_types,codes,score,confidence,match,reason",
        "a\tb,1,C1,Fever,S,1,'-pyrexia,fr,S2,Finding|Sign,S:1|T:2,0.9,0.876,similar,",
        "a\tb,2,C22,Cold,,,Cold,en,S,,,-0.5,,similar,",
        " ,,,,,,,,,,,,,,the mention is blank",
        "",
    ]
    assert (
        text(*given, OutputFormat("tsv")).split("\n")[1]
        == "a b\t1\tC1\tFever\tS\t1\t'-pyrexia\tfr\tS2\tFinding|Sign\tS:1|T:2\t0.9\t0.876\tsimilar\t"
    )
    first, _, last = map(json.loads, text(*given, OutputFormat("jsonl")).splitlines())
    assert first["matched_name"] == "-pyrexia"
    assert (first["term"], first["codes"], first["reason"]) == ("a\tb", ["S:1", "T:2"], None)
    assert last == {"term": " ", **dict.fromkeys(ANSWER), "reason": "the mention is blank"}


def test_excel_gets_a_byte_order_mark_and_the_delimiter_of_its_country():
    given = (["term", "n"], [["é", "x"], [1.5, 10]], [TWO, BLANK])
    comma = written(*given, OutputFormat("csv", 1, wide=True, excel=True))[0]
    assert comma.startswith("\ufeffterm,n,".encode())
    assert comma.count(b"\r\n") == comma.count(b"\n") == 3
    semicolons = (
        written(*given, OutputFormat("csv", 1, wide=True, excel=True), delimiter=";")[0]
        .decode("utf-8-sig")
        .split("\r\n")
    )
    assert semicolons[1] == "é;1,5;C1;Fever;S;1;'-pyrexia;fr;S2;Finding|Sign;S:1|T:2;0,9;0,876;similar;"
    assert semicolons[2] == "x;10" + ";" * 12 + ";the mention is blank"
    assert text(*given, OutputFormat("csv"), delimiter=";").startswith(
        "term,n,"
    )  # without --excel: commas and points, whatever the input has
    assert written(*given, OutputFormat("tsv", excel=True))[0].startswith("\ufeffterm\tn\t".encode())


def test_headers_are_escaped_as_cells_are():
    assert text(["=1", "+x"], [["a"], ["b"]], [BLANK], OutputFormat("csv")).startswith("'=1,'+x,rank,")
    assert text(["=1"], [["a"]], [BLANK], OutputFormat("jsonl")).startswith('{"=1": ')


def test_lists_of_answers_are_escaped_as_cells_are():
    given = (["term"], [["a"]], [Answer([["C1", "n", "n", "en", "=S", ("=T", "+U"), ("-1",), 1, None]], None)])
    assert text(*given, OutputFormat("csv")).split("\n")[1] == "a,1,C1,n,n,en,'=S,'=T|+U,-1,1,,"


def test_duplicate_column_names_become_unique_in_jsonl_and_parquet():
    assert unique_names(["a", "a", "a_2", "", "", "a"]) == ["a", "a_3", "a_2", "", "_2", "a_4"]
    row = json.loads(text(["t", "t"], [["x"], ["y"]], [BLANK], OutputFormat("jsonl")))
    assert (row["t"], row["t_2"]) == ("x", "y")
    assert text(["t", "t"], [["x"], ["y"]], [BLANK], OutputFormat("csv")).startswith("t,t,rank")
    table = pq.read_table(io.BytesIO(written(["t", "t"], [["x"], ["y"]], [BLANK], OutputFormat("parquet"))[0]))
    assert table.column_names[:2] == ["t", "t_2"]


def test_mixed_cells_are_written_in_every_format():
    cells = [True, 1.5, None, ["x|y", "z"], {"k": math.nan}, math.inf, 2**70, "\udc80"]
    given = (["term"], [cells], [BLANK] * len(cells))
    shown = [row[0] for row in csv.reader(io.StringIO(text(*given, OutputFormat("csv"))))][1:]
    assert shown == ["true", "1.5", "", '["x|y", "z"]', '{"k": null}', "inf", str(2**70), "\\udc80"]

    def no_constant(name):
        raise AssertionError(name)

    lines = text(*given, OutputFormat("jsonl")).splitlines()
    assert [json.loads(line, parse_constant=no_constant)["term"] for line in lines] == [
        *cells[:4],
        {"k": None},
        "inf",
        2**70,
        "\udc80",
    ]
    table = pq.read_table(io.BytesIO(written(*given, OutputFormat("parquet"))[0]))
    assert table["term"].to_pylist() == [
        "true",
        "1.5",
        None,
        '["x|y", "z"]',
        '{"k": null}',
        "inf",
        str(2**70),
        "\\udc80",
    ]


def test_parquet_output_keeps_the_types_of_the_input():
    types = [
        pa.string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.timestamp("ns", "UTC"),
        pa.int64(),
        pa.bool_(),
        pa.float64(),
    ]
    columns = [
        ["a", "b"],
        pa.chunked_array([pa.array(["x", None]).dictionary_encode().cast(types[1])]),
        pa.chunked_array([pa.array([1, 2], types[2])]),
    ]
    columns += [[2**60, None], [True, None], [1, 0.5]]
    header = ["term", "d", "at", "n", "b", "f"]
    for wide in (False, True):
        stream = io.BytesIO(
            written(header, columns, [TWO, BLANK], OutputFormat("parquet", 2, wide=wide), types=types, size=1)[0]
        )
        table = pq.read_table(stream)
        assert table.schema.types[:6] == types
        assert table.slice(table.num_rows - 1)["n"].to_pylist() == [None]
        assert table["f"].to_pylist() == ([1.0, 0.5] if wide else [1.0, 1.0, 0.5])
        codes = table["codes_1" if wide else "codes"].to_pylist()
        assert codes == ([["S:1", "T:2"], None] if wide else [["S:1", "T:2"], [], None])


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "jsonl"])
def test_gzip_output_is_reproducible(form):
    given = (["term"], [["a", "b", "c"]], [TWO, BLANK, TWO])
    packed = written(*given, OutputFormat(form, gz=True))[0]
    assert (
        gzip.decompress(packed)
        == written(*given, OutputFormat(form))[0]
        == written(*given, OutputFormat(form), size=3)[0]
    )
    assert packed[3:8] == bytes(5)  # neither a name nor a time in gzip's header (RFC 1952, 2.3)


def test_output_format_follows_the_file_s_name(tmp_path):
    for name, form, gz in (("x.CSV", "csv", False), ("x.tsv.gz", "tsv", True), ("x.parquet", "parquet", False), ("x.xlsx", "xlsx", False), ("x.ndjson.gz", "jsonl", True)):  # fmt: skip
        assert OutputFormat.for_file(tmp_path / name, None) == OutputFormat(form, gz=gz)
        assert OutputFormat.for_file(tmp_path / name, form) == OutputFormat(form, gz=gz)
    assert OutputFormat.for_file(None, None, top_k=3) == OutputFormat("table", 3)
    assert OutputFormat.for_file(tmp_path / "x.txt.gz", "jsonl") == OutputFormat("jsonl", gz=True)
    assert OutputFormat.for_file(tmp_path / "x", "table") == OutputFormat("table")
    with pytest.raises(ConfigError, match=r"x\.csv\.bz2: expected a name without \.bz2"):
        OutputFormat.for_file(tmp_path / "x.csv.bz2", None)


@pytest.mark.parametrize("ending", ["", ".xls", ".ods", ".json", ".html", ".txt", ".xlsm", ".gz", ".csv.zip", ".table"])
def test_unknown_endings_are_rejected_and_name_the_known_ones(tmp_path, ending):
    with pytest.raises(ConfigError) as error:
        OutputFormat.for_file(tmp_path / f"x{ending}", None)
    last = ending.removesuffix(".gz").rpartition(".")[2]
    found = f"'.{last}'" if last else "none"
    assert str(error.value) == (
        f"{tmp_path}/x{ending}: expected a name that ends in .csv, .tsv, .jsonl, .parquet, .xlsx, or --format; "
        f"found {found}"
    )


def test_endings_of_another_format_are_rejected(tmp_path):
    for name, form in itertools.product(("x.csv", "x.tsv.gz", "x.jsonl", "x.parquet", "x.xlsx"), FORMS):
        if form == name.split(".")[1]:
            continue
        with pytest.raises(
            ConfigError, match=rf"{name}: expected --format {name.split('.')[1]} for a name .* found {form}$"
        ):
            OutputFormat.for_file(tmp_path / name, form)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "xml"}, r"expected a format among table, csv, tsv, jsonl, parquet, xlsx; found 'xml'"),
        ({"form": "csv", "top_k": 0}, "top_k must be at least 1, found 0"),
        ({"form": "csv", "top_k": "3"}, r"top_k must be a whole number, at least 1; found '3' \(str\)"),
        ({"form": "table", "wide": True}, "--wide needs --format csv, tsv, jsonl, parquet or xlsx; found table"),
        (
            {"form": "xlsx", "excel": True},
            r"--excel needs --format csv or tsv; found xlsx; remove it, because Excel opens \.xlsx",
        ),
        ({"form": "xlsx", "gz": True}, r"a \.xlsx file is already compressed"),
        ({"form": "jsonl", "excel": True}, "--excel needs --format csv or tsv; found jsonl"),
        ({"form": "parquet", "gz": True}, r"a \.parquet file is already compressed"),
    ],
)
def test_options_that_exclude_each_other_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        OutputFormat(**options)


cells = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.text("=+-'\",;\r\n\t\ufeffa1", max_size=5)
)


@settings(max_examples=examples(150))
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4),
    excel=st.booleans(),
    delimiter=st.sampled_from(",;"),
    size=st.integers(1, 4),
)
def test_other_programs_read_the_csv_back(rows, excel, delimiter, size):
    columns = [list(column) for column in zip(*rows, strict=True)]
    data = written(
        ["term", "note"],
        columns,
        [BLANK] * len(rows),
        OutputFormat("csv", excel=excel),
        delimiter=delimiter,
        size=size,
    )[0]
    escape = partial(escape_for_excel, decimal_sign="," if delimiter == ";" else ".") if excel else escape_formula
    expected = [[escape(cell) for cell in row] for row in rows]
    options = {"delimiter": delimiter if excel else ","}
    found = list(
        csv.reader(io.StringIO(data.decode("utf-8-sig" if excel else "utf-8"), newline=""), strict=True, **options)
    )
    assert [row[:2] for row in found[1:]] == expected
    if not any("\0" in cell for row in rows for cell in row):
        parsing = pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False, **options)
        converting = pa.csv.ConvertOptions(
            strings_can_be_null=False, column_types={"term": pa.string(), "note": pa.string()}
        )
        frame = pa.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=converting)
        assert [
            list(row) for row in zip(*(frame[name].to_pylist() for name in ("term", "note")), strict=True)
        ] == expected


@settings(max_examples=examples(100))
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4), size=st.integers(1, 4))
def test_other_programs_read_tsv_jsonl_and_parquet_back(rows, size):
    given = (["term", "note"], [list(column) for column in zip(*rows, strict=True)], [BLANK] * len(rows))
    lines = text(*given, OutputFormat("tsv"), size=size).split("\n")[1:-1]
    blanked = [["".join(" " if c in "\t\r\n" else c for c in escape_formula(cell)) for cell in row] for row in rows]
    assert [line.split("\t")[:2] for line in lines] == blanked
    lines = text(*given, OutputFormat("jsonl"), size=size).split("\n")[:-1]
    assert [tuple(json.loads(line)[key] for key in ("term", "note")) for line in lines] == rows
    table = pq.read_table(io.BytesIO(written(*given, OutputFormat("parquet"), size=size)[0]))
    assert list(zip(table["term"].to_pylist(), table["note"].to_pylist(), strict=True)) == rows


# Workbooks, which openpyxl, a second implementation, reads back.


def workbook(header, *chunks):
    """The bytes of a workbook, and how many cells of each chunk were cut."""
    stream = io.BytesIO()
    with open_workbook(stream, header) as write:
        cut = [write(columns) for columns in chunks]
    return stream.getvalue(), cut


def cells_of(data):
    """The cells of the only sheet, with their types and formats, as openpyxl reads them."""
    [sheet] = openpyxl.load_workbook(io.BytesIO(data)).worksheets
    return [[(cell.value, cell.data_type, cell.number_format) for cell in row] for row in sheet.iter_rows()]


CODES = [
    "007", "386661006386661006", "1/2", "=SUM(A1)", "+49 30 1234", "-1", "@x", "1E5", "MARCH1", "2024-01-01", "TRUE", "#N/A", "https://x.org",
    "mailto:a@b.c", "{=1}", "<r>x</r>", "<r><t>x</t></r>", "<b>", "&amp;", "=HYPERLINK(\"http://x\")", "internal:A1", "'x", " x ", "1.50", "発熱",
]  # fmt: skip


def test_text_is_text_whatever_it_looks_like():
    data, cut = workbook(["=code", "007"], [CODES, CODES[::-1]])
    header, *rows = cells_of(data)
    assert cut == [0]
    assert header == [("=code", "s", "@"), ("007", "s", "@")]
    assert rows == [[(a, "s", "@"), (b, "s", "@")] for a, b in zip(CODES, CODES[::-1], strict=True)]
    sheet = zipfile.ZipFile(io.BytesIO(data)).read("xl/worksheets/sheet1.xml").decode()
    assert not re.search("<f>|<hyperlink", sheet)


def test_numbers_are_numbers_up_to_the_digits_that_excel_keeps():
    cells = [1, -2.5, 0.123457, True, 10**15 - 1, 10**15, -(10**18), 1e300, float("nan"), float("inf"), None, ""]
    data, _ = workbook(["n"], [cells])
    assert [row[0][:2] for row in cells_of(data)[1:]] == [
        (1, "n"), (-2.5, "n"), (0.123457, "n"), (True, "b"), (10**15 - 1, "n"), (str(10**15), "s"), (str(-(10**18)), "s"), ("1e+300", "s"),
        (None, "n"), ("inf", "s"), (None, "n"), (None, "n"),
    ][: len(cells_of(data)) - 1]  # fmt: skip


def test_lists_of_answers_have_separators_and_other_lists_are_json():
    data, _ = workbook(["a"], [[("S:1", "T:2"), ("=x",), (), [1, "x"], {"k": None}, "\udc80"]])
    values = [row[0][0] for row in cells_of(data)]
    assert values == ["a", "S:1|T:2", "=x", None, '[1, "x"]', '{"k": null}', "\\udc80"]


def test_header_is_frozen_and_filtered_and_columns_fit():
    data, _ = workbook(["a", "long", "wide"], [["x"], ["y" * 200], ["発熱" * 10]], [["x"], ["z"], ["z"]])
    [sheet] = openpyxl.load_workbook(io.BytesIO(data)).worksheets
    assert (sheet.title, sheet.freeze_panes, sheet.auto_filter.ref, sheet.dimensions) == (
        "linked",
        "A2",
        "A1:C3",
        "A1:C3",
    )
    widths = [sheet.column_dimensions[name].width for name in "ABC"]
    assert [round(width) for width in widths] == [9, 61, 43]


def test_longer_cells_than_excel_holds_are_cut_and_counted():
    cells = [
        "x" * MAX_CELL,
        "x" * (MAX_CELL + 1),
        "😀" * (MAX_CELL // 2),
        "😀" * MAX_CELL,
        "<r>" + "x" * MAX_CELL + "</r>",
    ]
    data, cut = workbook(["a"], [cells], [["x"]])
    assert cut == [3, 0]
    values = [row[0][0] for row in cells_of(data)[1:]]
    assert values[0] == cells[0]
    assert values[2] == cells[2]
    assert all(whole.startswith(value) for whole, value in zip(cells, values, strict=False))
    assert {len(value.encode("utf-16-le")) // 2 for value in values[:5]} <= {MAX_CELL, MAX_CELL - 1}


def test_more_rows_than_a_sheet_has_are_refused(monkeypatch):
    check_row_count(None, "x")
    check_row_count(MAX_ROWS - 1, "x")
    with pytest.raises(
        ConfigError, match=r"^x.csv: expected at most 1,048,575 rows, as a workbook's sheet has, found 1,048,576; use"
    ):
        check_row_count(MAX_ROWS, "x.csv")
    monkeypatch.setattr(workbook_writer, "MAX_ROWS", 4)
    assert len(cells_of(workbook(["a"], [["x"]], [["y", "z"]])[0])) == 4
    with pytest.raises(ConfigError, match="expected at most 3 rows, .* found more; use --wide or a smaller --top-k"):
        workbook(["a"], [["x"]], [["x", "y", "z"]])


def test_more_columns_than_a_sheet_has_are_refused():
    assert len(cells_of(workbook(["a"] * (1 << 14))[0])[0]) == 1 << 14
    with pytest.raises(ConfigError, match="expected at most 16,384 columns, .* found 16,385; use a smaller --top-k"):
        workbook(["a"] * ((1 << 14) + 1))


def test_equal_rows_give_equal_bytes_in_chunks_of_any_size():
    cells = [f"t{i}" for i in range(10)]
    whole = workbook(["a"], [cells])[0]
    assert workbook(["a"], *([[cell]] for cell in cells))[0] == whole


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "xlsxwriter", None)
    with pytest.raises(ConfigError, match=r"pip install 'xsap\[xlsx\]'"):
        workbook(["a"])


def test_rows_wait_in_a_temporary_folder_beside_the_file(tmp_path):
    with (tmp_path / "x.xlsx").open("wb") as stream, open_workbook(stream, ["a"]) as write:
        write([["x"]])
        assert [each.name.startswith(".xsap-") for each in sorted(tmp_path.iterdir())] == [True, False]
    assert [each.name for each in tmp_path.iterdir()] == ["x.xlsx"]
    with (
        pytest.raises(ZeroDivisionError),
        (tmp_path / "y.xlsx").open("wb") as stream,
        open_workbook(stream, ["a"]) as write,
    ):
        raise ZeroDivisionError
    assert (tmp_path / "y.xlsx").read_bytes() == b""
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.xlsx", "y.xlsx"]


def test_full_disk_is_a_failure_of_the_system():
    if not Path("/dev/full").exists():
        pytest.skip("no device that is always full")
    with pytest.raises(OSError, match="No space left"), open("/dev/full", "wb", buffering=0) as stream:  # noqa: PTH123, SIM117
        with open_workbook(io.BufferedWriter(Unnamed(stream)), ["a"]) as write:
            write([["x"]])


class Unnamed(io.RawIOBase):
    """A stream without a name, which can't be sought."""

    def __init__(self, stream):
        self.stream = stream

    def writable(self):
        return True

    def write(self, data):
        return self.stream.write(data)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    def peak(chunks):
        with (tmp_path / "x.xlsx").open("wb") as stream:
            tracemalloc.start()
            with open_workbook(stream, ["a", "b"]) as write:
                for _ in range(chunks):
                    write([["fever"] * 500, [0.5] * 500])
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return used

    assert peak(20) < 1.5 * peak(2) + 200_000


def unescaped(value):
    """A cell's text, with `_x000D_` decoded (ECMA-376, 22.9.2.19), as Excel shows it."""
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), value or "")


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text("=+-'\",;\r\n\t\x0b\x1b_x0D<>r/&\ufffe", max_size=8),
    st.sampled_from(["_x000D_", "_x005F_", "<r>a</r>", "<r></r>"]),
)


@settings(max_examples=examples(150))
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=4), size=st.integers(1, 4))
def test_other_programs_read_the_cells_back(rows, size):
    columns = [list(column) for column in zip(*rows, strict=True)]
    data, _ = workbook(
        ["term", "note"], *([column[i : i + size] for column in columns] for i in range(0, len(rows), size))
    )
    expected = [list(row) for row in rows]
    found = [[unescaped(cell[0]) for cell in row] for row in cells_of(data)[1:]]
    assert [row[:2] for row in found] + [["", ""]] * (len(rows) - len(found)) == expected


# Text that spreadsheet programs would run or change.


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
@pytest.mark.parametrize(
    "before", ["", " ", '"', "'", "\u00a0", "' \"", "\t", "\r\n", "\ufeff", "\0", "\x01", "\u200b"]
)
def test_formulas_get_an_apostrophe(sign, before):
    for after in ("", "cmd", "1+1", " 1"):
        assert escape_formula(f"{before}{sign}{after}") == f"'{before}{sign}{after}"


@pytest.mark.parametrize("cell", ["\tx", "\rx", "\nx", "\0x", "\t", "'\tx", '"\tx'])
def test_cells_that_begin_with_a_tab_or_line_end_get_an_apostrophe(cell):
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["-1.5", "+1", "-1,5", "-1.234,56", "+1e-5", "-5%", "-.5", "1-2", "a=b", "", "'", "fever", "(-)", "<5"]
)
def test_numbers_and_other_text_get_no_apostrophe(cell):
    assert escape_formula(cell) == cell


@pytest.mark.parametrize(
    "cell", ["-1+2", "-1.5.", "-", "--1", "+1\n", "-1e", "-e5", "+49 30 1234", "-٣", "@SUM(1)", "-1|cmd", "＝1"]
)
def test_text_that_resembles_a_number_gets_an_apostrophe(cell):
    assert escape_formula(cell) == f"'{cell}"


@given(st.text("=+-@'\" \t\r\n1.,a%e＝\ufeff\0", max_size=6))
def test_escaped_formulas_can_be_restored(cell):
    """And nothing that is written begins a formula, except after blanks and quotes."""
    found = escape_formula(cell)
    assert (found[1:] if found.startswith("'") and escape_formula(found) != found else found) == cell
    if not found.startswith("'") and found.strip('" \t\r\n\ufeff\0')[:1] in set("=+-@＝"):
        assert set(found) <= set("+-0123456789.,eE%")
        assert found == cell


# What Excel takes for a number or a date: rules of its own in each country, so the examples are from Excel's documentation and from papers on
# gene names (https://doi.org/10.1186/s13059-016-1044-7)
CHANGED = [
    "007", "0123", "00", "1.50", "123456789012", "386661006386661006", "-0012", "+49301234", "+1", "1/2", "3-4", "1-2-3", "01.02.2024",
    "2024-01-02", "1.2.", "3 1/2", "10:30", "1:2:3", "2 pm", "12:00 am", "1E5", "2e10", "9E-2", "1 234", "1'234", "(5)", "( 7 )", "12,345.67",
    "MARCH1", "SEPT2", "Sep-7", "1-Dec", "DEC1", "oct4", "5. Mai 2020", "Jan 2020", "mrz 3", "1. März", "12 août", "3 ene", " 007", "007 ",
]  # fmt: skip
UNCHANGED = [
    "", "0", "7", "42", "-5", "1.5", "0.25", "-0.5", "12345678901", "fever", "I10", "C0015967", "HP:0001945", "250.00x", "grade 3", "type 2",
    "March", "markers 2", "genotype 2", "SNOMEDCT_US:386661006", "1 mg", "5%", "x" * 99, "1" * 99, "T047|T184", "٣", "2 pmx",
]  # fmt: skip


@pytest.mark.parametrize("cell", CHANGED)
def test_text_that_excel_would_change_is_a_formula_of_itself(cell):
    assert escape_for_excel(cell) == f'="{cell}"'


@pytest.mark.parametrize("cell", UNCHANGED)
def test_text_that_excel_leaves_as_it_is_stays(cell):
    assert escape_for_excel(cell) == cell


def test_decimal_sign_is_that_of_the_country():
    for sign, other in (".,", ",."):
        assert escape_for_excel(f"12{sign}5", sign) == f"12{sign}5"
        assert escape_for_excel(f"12{other}5", sign) == f'="12{other}5"'


@given(st.integers(-(10**20), 10**20))
def test_integers_stay_numbers_as_long_as_excel_shows_all_digits(number):
    assert (escape_for_excel(str(number)) == str(number)) == (len(str(number)) <= 11)


@given(st.text("=+-@'\" \t\r\n1.,a%e/:(＝\ufeff\0", max_size=6), st.sampled_from(".,"))
def test_formulas_are_escaped_for_excel_too(cell, sign):
    """What is not escaped by an apostrophe is a number, or a formula whose value is the text."""
    found = escape_for_excel(cell, sign)
    if found != escape_formula(cell):
        assert found == f'="{cell}"'
        assert not re.search('["\\x00-\\x1f]', cell)  # nothing that ends the text within the formula


def test_long_cells_are_matched_in_linear_time():
    """A pattern that backtracks would need hours."""
    rng, start = random.Random(0), time.process_time()
    for cell in ("1 " * 50_000, "1-" * 19 + "x", "jan" + " 1" * 18 + "x", "".join(rng.choices("1.,:/ -", k=39)) + "!"):
        escape_for_excel(cell)
    assert time.process_time() - start < 5
