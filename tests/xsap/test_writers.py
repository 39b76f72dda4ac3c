import csv
import gzip
import io
import json
import math

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ConfigError
from xsap.tabular.link_file import ANSWER, Answer
from xsap.tabular.readers import Chunk, InputTable
from xsap.tabular.writers import OutputFormat, escape_formula, open_writer, unique

TWO = Answer(
    [
        ["C1", "Fever", "-pyrexia", "fr", "S2", ("Finding", "Sign"), ("S:1", "T:2"), 0.9, 0.876],
        ["C22", "Cold", "Cold", "en", "S", (), (), -0.5, None],
    ],
    None,
)
NO_CONCEPT = Answer([], "the mention is blank")


def written(header, columns, answers, layout, *, types=None, delimiter=",", size=2):
    """The bytes of all rows, written `size` at a time, and how many rows the writer says it wrote."""
    source = InputTable(
        "x", header, types or [pa.string()] * len(header), None, lambda _: iter([]), delimiter=delimiter
    )
    stream, count = io.BytesIO(), 0
    with open_writer(stream, layout, source) as write:
        for start in range(0, len(answers), size):
            part = [column[start : start + size] for column in columns]
            count += write(Chunk(header, part), list(map(str, part[0])), answers[start : start + size])
    return stream.getvalue(), count


def text(*given, **options):
    return written(*given, **options)[0].decode()


def test_csv_tsv_and_jsonl():
    given = (["term"], [["a\tb", " "]], [TWO, NO_CONCEPT])
    assert written(*given, OutputFormat("csv"))[1] == 3
    assert text(*given, OutputFormat("csv")).split("\n") == [
        "term,rank,concept_id,name,matched_name,language,source,semantic_types,codes,score,confidence,reason",
        "a\tb,1,C1,Fever,'-pyrexia,fr,S2,Finding|Sign,S:1|T:2,0.9,0.876,",
        "a\tb,2,C22,Cold,Cold,en,S,,,-0.5,,",
        " ,,,,,,,,,,,the mention is blank",
        "",
    ]
    assert (
        text(*given, OutputFormat("tsv")).split("\n")[1]
        == "a b\t1\tC1\tFever\t'-pyrexia\tfr\tS2\tFinding|Sign\tS:1|T:2\t0.9\t0.876\t"
    )
    first, _, last = map(json.loads, text(*given, OutputFormat("jsonl")).splitlines())
    assert first["matched_name"] == "-pyrexia"
    assert (first["term"], first["codes"], first["reason"]) == ("a\tb", ["S:1", "T:2"], None)
    assert last == {"term": " ", **dict.fromkeys(ANSWER), "reason": "the mention is blank"}


def test_answers_for_people():
    given = (
        ["term"],
        [["fiebre", " ", "x" * 90, "y\nz\udc80"]],
        [TWO, NO_CONCEPT, NO_CONCEPT, Answer(TWO.candidates[1:], "unsure")],
    )
    assert text(*given, OutputFormat("table")).splitlines() == [
        "fiebre",
        "   1   0.900   88 %  C1   Fever  (-pyrexia)",
        "   2  -0.500         C22  Cold",
        "(blank)",
        "      the mention is blank",
        "x" * 79 + "…",
        "      the mention is blank",
        "y z\\udc80",
        "   1  -0.500  C22  Cold",
        "      unsure",
    ]


def test_for_excel():
    given = (["term", "n"], [["é", "x"], [1.5, 10]], [TWO, NO_CONCEPT])
    comma = written(*given, OutputFormat("csv", 1, wide=True, excel=True))[0]
    assert comma.startswith("\ufeffterm,n,".encode())
    assert comma.count(b"\r\n") == comma.count(b"\n") == 3
    semicolons = (
        written(*given, OutputFormat("csv", 1, wide=True, excel=True), delimiter=";")[0]
        .decode("utf-8-sig")
        .split("\r\n")
    )
    assert semicolons[1] == "é;1,5;C1;Fever;'-pyrexia;fr;S2;Finding|Sign;S:1|T:2;0,9;0,876;"
    assert semicolons[2] == "x;10" + ";" * 9 + ";the mention is blank"
    assert text(*given, OutputFormat("csv"), delimiter=";").startswith(
        "term,n,"
    )  # programs get commas and points, whatever the input had
    assert written(*given, OutputFormat("tsv", excel=True))[0].startswith("\ufeffterm\tn\t".encode())


@pytest.mark.parametrize("sign", "=+-@＝＋－＠")
@pytest.mark.parametrize(
    "before", ["", " ", '"', "'", "\u00a0", "' \"", "\t", "\r\n", "\ufeff", "\0", "\x01", "\u200b"]
)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(sign, before):
    for after in ("", "cmd", "1+1", " 1"):
        assert escape_formula(f"{before}{sign}{after}") == f"'{before}{sign}{after}"


@pytest.mark.parametrize("cell", ["\tx", "\rx", "\nx", "\0x", "\t", "'\tx", '"\tx'])
def test_a_cell_that_begins_with_a_tab_or_line_end_gets_one_too(cell):
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell", ["-1.5", "+1", "-1,5", "-1.234,56", "+1e-5", "-5%", "-.5", "1-2", "a=b", "", "'", "fever", "(-)", "<5"]
)
def test_numbers_and_other_text_stay(cell):
    assert escape_formula(cell) == cell


@pytest.mark.parametrize(
    "cell", ["-1+2", "-1.5.", "-", "--1", "+1\n", "-1e", "-e5", "+49 30 1234", "-٣", "@SUM(1)", "-1|cmd", "＝1"]
)
def test_what_only_looks_like_a_number_does_not(cell):
    assert escape_formula(cell) == f"'{cell}"


@given(st.text("=+-@'\" \t\r\n1.,a%e＝\ufeff\0", max_size=6))
def test_the_apostrophe_can_be_taken_off_again(cell):
    """And nothing that is written begins a formula, blanks and quotes aside."""
    found = escape_formula(cell)
    assert (found[1:] if found.startswith("'") and escape_formula(found) != found else found) == cell
    if not found.startswith("'") and found.strip('" \t\r\n\ufeff\0')[:1] in set("=+-@＝"):
        assert set(found) <= set("+-0123456789.,eE%")
        assert found == cell


def test_headers_are_cells_too():
    assert text(["=1", "+x"], [["a"], ["b"]], [NO_CONCEPT], OutputFormat("csv")).startswith("'=1,'+x,rank,")
    assert text(["=1"], [["a"]], [NO_CONCEPT], OutputFormat("jsonl")).startswith('{"=1": ')


def test_a_list_of_answers_may_begin_a_formula_too():
    given = (["term"], [["a"]], [Answer([["C1", "n", "n", "en", "=S", ("=T", "+U"), ("-1",), 1, None]], None)])
    assert text(*given, OutputFormat("csv")).split("\n")[1] == "a,1,C1,n,n,en,'=S,'=T|+U,-1,1,,"


def test_names_that_come_twice():
    assert unique(["a", "a", "a_2", "", "", "a"]) == ["a", "a_3", "a_2", "", "_2", "a_4"]
    row = json.loads(text(["t", "t"], [["x"], ["y"]], [NO_CONCEPT], OutputFormat("jsonl")))
    assert (row["t"], row["t_2"]) == ("x", "y")
    assert text(["t", "t"], [["x"], ["y"]], [NO_CONCEPT], OutputFormat("csv")).startswith("t,t,rank")
    table = pq.read_table(io.BytesIO(written(["t", "t"], [["x"], ["y"]], [NO_CONCEPT], OutputFormat("parquet"))[0]))
    assert table.column_names[:2] == ["t", "t_2"]


def test_cells_of_json():
    cells = [True, 1.5, None, ["x|y", "z"], {"k": math.nan}, math.inf, 2**70, "\udc80"]
    given = (["term"], [cells], [NO_CONCEPT] * len(cells))
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


def test_parquet_keeps_types():
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
            written(header, columns, [TWO, NO_CONCEPT], OutputFormat("parquet", 2, wide=wide), types=types, size=1)[0]
        )
        table = pq.read_table(stream)
        assert table.schema.types[:6] == types
        assert table.slice(table.num_rows - 1)["n"].to_pylist() == [None]
        assert table["f"].to_pylist() == ([1.0, 0.5] if wide else [1.0, 1.0, 0.5])
        codes = table["codes_1" if wide else "codes"].to_pylist()
        assert codes == ([["S:1", "T:2"], None] if wide else [["S:1", "T:2"], [], None])


@pytest.mark.parametrize("form", ["table", "csv", "tsv", "jsonl"])
def test_gzip_has_the_same_inside_and_is_always_the_same(form):
    given = (["term"], [["a", "b", "c"]], [TWO, NO_CONCEPT, TWO])
    packed = written(*given, OutputFormat(form, gz=True))[0]
    assert (
        gzip.decompress(packed)
        == written(*given, OutputFormat(form))[0]
        == written(*given, OutputFormat(form), size=3)[0]
    )
    assert packed[3:8] == bytes(5)  # neither a name nor a time in gzip's header (RFC 1952, 2.3)


def test_the_layout_of_a_file_s_name(tmp_path):
    for name, form, gz in (("x.CSV", "csv", False), ("x.tsv.gz", "tsv", True), ("x.parquet", "parquet", False), ("x", "table", False), ("x.gz", "table", True)):  # fmt: skip
        assert OutputFormat.to(tmp_path / name, None) == OutputFormat(form, gz=gz)
    assert OutputFormat.to(None, None, top_k=3) == OutputFormat("table", 3)
    assert OutputFormat.to(tmp_path / "x.csv.gz", "jsonl", excel=False) == OutputFormat("jsonl", gz=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "xml"}, r"expected a format among table, csv, tsv, jsonl, parquet; found 'xml'"),
        ({"form": "csv", "top_k": 0}, "top_k must be at least 1, found 0"),
        ({"form": "table", "wide": True}, "--wide goes with csv"),
        ({"form": "jsonl", "excel": True}, "--excel goes with csv and tsv, found jsonl"),
        ({"form": "parquet", "gz": True}, r"a \.parquet file is compressed inside"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(ConfigError, match=message):
        OutputFormat(**options)


cells = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.text("=+-'\",;\r\n\t\ufeffa1", max_size=5)
)


@settings(max_examples=150)
@given(
    rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4),
    excel=st.booleans(),
    delimiter=st.sampled_from(",;"),
    size=st.integers(1, 4),
)
def test_csv_is_read_back_by_others(rows, excel, delimiter, size):
    columns = [list(column) for column in zip(*rows, strict=True)]
    data = written(
        ["term", "note"],
        columns,
        [NO_CONCEPT] * len(rows),
        OutputFormat("csv", excel=excel),
        delimiter=delimiter,
        size=size,
    )[0]
    expected = [[escape_formula(cell) for cell in row] for row in rows]
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


@settings(max_examples=100)
@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4), size=st.integers(1, 4))
def test_tsv_jsonl_and_parquet_are_read_back_by_others(rows, size):
    given = (["term", "note"], [list(column) for column in zip(*rows, strict=True)], [NO_CONCEPT] * len(rows))
    lines = text(*given, OutputFormat("tsv"), size=size).split("\n")[1:-1]
    blanked = [["".join(" " if c in "\t\r\n" else c for c in escape_formula(cell)) for cell in row] for row in rows]
    assert [line.split("\t")[:2] for line in lines] == blanked
    lines = text(*given, OutputFormat("jsonl"), size=size).split("\n")[:-1]
    assert [tuple(json.loads(line)[key] for key in ("term", "note")) for line in lines] == rows
    table = pq.read_table(io.BytesIO(written(*given, OutputFormat("parquet"), size=size)[0]))
    assert list(zip(table["term"].to_pylist(), table["note"].to_pylist(), strict=True)) == rows
