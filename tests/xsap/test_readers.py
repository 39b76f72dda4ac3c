"""Input tables: cells, Arrow columns, chunks of rows, and workbooks."""

import datetime
import decimal
import gzip
import itertools
import json
import math
import tracemalloc
import uuid

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError, DataError
from xsap.tabular.cells import (
    MixedType,
    cell_kind,
    escape_surrogates,
    finite,
    output_type,
    storage_type,
    to_cells,
    to_column,
    to_text,
)
from xsap.tabular.readers import open_table, table_of_terms

# Cells and columns

UTC = datetime.UTC
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("values", "of", "expected"),
    [
        (["a", None], pa.string(), ["a", None]),
        (["a", None], pa.large_string(), ["a", None]),
        (["a", "b", "a", None], pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a", None]),
        ([1, None], pa.int64(), [1, None]),
        ([True, None], pa.bool_(), [True, None]),
        ([0.1, None], pa.float32(), [0.1, None]),
        ([0.1, None], pa.float64(), [0.1, None]),
        ([decimal.Decimal("1.50")], pa.decimal128(5, 2), ["1.50"]),
        ([datetime.date(2024, 2, 29), None], pa.date32(), ["2024-02-29", None]),
        ([1_000_000_001], pa.timestamp("ns"), ["1970-01-01 00:00:01.000000001"]),
        ([datetime.datetime(2024, 2, 29, tzinfo=UTC)], pa.timestamp("s", "UTC"), ["2024-02-29 00:00:00Z"]),
        ([datetime.time(8, 30)], pa.time32("s"), ["08:30:00"]),
        ([10**18], pa.timestamp("s"), ["<value out of range: 1000000000000000000>"]),
        (["é".encode(), b"\xff\x00", None], pa.binary(), ["é", "ff00", None]),
        ([["a", None], None], pa.list_(pa.string()), [["a", None], None]),
        ([[("k", 1)]], pa.map_(pa.string(), pa.int64()), [[["k", 1]]]),
        ([{"a": datetime.date(2024, 2, 29), "b": [b"x"]}], pa.struct({"a": pa.date32(), "b": pa.list_(pa.binary())}), [{"a": "2024-02-29", "b": ["x"]}]),
        ([None], pa.null(), [None]),
        ([ID.bytes], pa.uuid(), [str(ID)]),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)  # fmt: skip
def test_to_cells_gives_arrow_s_values_as_json_has_them(values, of, expected):
    array = pa.array(values, of.storage_type).cast(of) if of == pa.uuid() else pa.array(values, of)
    found = to_cells(pa.chunked_array([array, array.slice(0, 0)]))
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    json.dumps(found)


MIXED = [1, 1.5, True, None, "é", ["a", {"b": None}], 2**70, "\udc80", 10**18]


def test_mixed_cells_come_back_from_an_arrow_column_as_they_were():
    column = to_column(MIXED, MixedType())
    found = to_cells(pa.chunked_array([column, column.slice(0, 0)]).take(pa.array(range(9))))
    assert found == MIXED
    assert list(map(type, found)) == list(map(type, MIXED))


@pytest.mark.parametrize(
    ("cells", "of"), [(["a", "\udc80"], pa.string()), (["a"], pa.int64()), ([1], pa.string()), ([2**70], pa.int64())]
)
def test_to_column_stores_cells_that_do_not_fit_their_type_as_mixed(cells, of):
    column = to_column(cells, of)
    assert column.type == MixedType()
    assert to_cells(column) == cells


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a", "a"),
        (None, ""),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        (math.nan, ""),
        (-math.inf, "-inf"),
        (["é", math.nan], '["é", null]'),
    ],
)
def test_to_text_writes_cells_as_text(cell, expected):
    assert to_text(cell) == expected


def test_finite_replaces_numbers_that_json_lacks():
    assert finite({"a": [math.nan, 1.5], "b": math.inf, "c": "x"}) == {"a": [None, 1.5], "b": "inf", "c": "x"}


def test_escape_surrogates_writes_halves_of_pairs_as_escapes():
    assert escape_surrogates("a\udc80é") == "a\\udc80é"
    assert escape_surrogates("é") == "é"


numbers = st.one_of(st.integers(), st.integers(-5, 5), st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)]))
of_one_kind = [
    st.text("a1"),
    st.booleans(),
    numbers,
    st.floats(allow_nan=False),
    st.one_of(numbers, st.floats(allow_nan=False)),
]
anything = st.one_of(
    *of_one_kind, st.lists(st.integers(), max_size=2), st.dictionaries(st.text("k"), st.none(), max_size=1)
)


@given(cells=st.one_of(*(st.lists(st.one_of(st.none(), each), max_size=4) for each in [*of_one_kind, anything])))
def test_output_type_loses_nothing(cells):
    """Cells that the type holds come out as they went in; other cells become text; and text only where it must be."""
    of = output_type({cell_kind(cell) for cell in cells})
    given_ = {type(cell) for cell in cells} - {type(None)}
    if pa.types.is_string(of):
        integers = [cell for cell in cells if type(cell) is int]
        fits = given_ == {int} and all(-(2**63) <= cell < 2**63 for cell in integers)
        exact = given_ and given_ <= {int, float} and float in given_ and all(abs(cell) <= 2**53 for cell in integers)
        assert given_ != {bool}
        assert not fits
        assert not exact
    else:
        found = pa.array(cells, of).to_pylist()
        assert found == cells
        assert float in given_ or [type(cell) for cell in found] == [type(cell) for cell in cells]


@given(cells=st.one_of(*(st.lists(st.one_of(st.none(), each), max_size=4) for each in [*of_one_kind, anything])))
def test_storage_type_gives_every_cell_back_with_its_type(cells):
    found = to_cells(to_column(cells, storage_type({cell_kind(cell) for cell in cells})))
    assert found == cells
    assert list(map(type, found)) == list(map(type, cells))


# Tables


def table_in(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return open_table(folder / name)


def rows(found, size=2):
    """All rows of a table, whose chunks must have the size asked for, except the last."""
    chunks = list(found.chunks(size))
    assert all(chunk.column_names == found.header for chunk in chunks)
    heights = [chunk.num_rows for chunk in chunks]
    assert all(height == size for height in heights[:-1])
    assert all(0 < height <= size for height in heights)
    assert sum(heights) == found.rows
    return [list(row) for chunk in chunks for row in zip(*map(to_cells, chunk.columns), strict=True)]


def workbook(path, lines):
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    book.save(path)
    return open_table(path)


def test_csv_and_tsv_tables_can_be_read_again(tmp_path):
    found = table_in(tmp_path, "x.CSV", "id;term\n1;a\n2;b\n3;c\n")
    assert (found.header, found.rows, found.types, found.delimiter) == (["id", "term"], 3, [pa.string()] * 2, ";")
    assert rows(found) == rows(found) == [["1", "a"], ["2", "b"], ["3", "c"]]
    found = table_in(tmp_path, "x.tsv.gz", gzip.compress(b"id\tterm\n1\ta\n"))
    assert (found.header, rows(found), found.delimiter) == (["id", "term"], [["1", "a"]], ",")
    assert rows(table_in(tmp_path, "y.csv", "term\n")) == []


def test_jsonl_table_has_every_key_of_any_line(tmp_path):
    lines = [
        {"term": "a", "n": 1, "f": 1},
        {"x": [1], "term": None, "f": 0.5},
        {"b": True, "huge": 2**70, "mixed": "1"},
        {"mixed": 1},
    ]
    found = table_in(tmp_path, "x.jsonl", "\n".join(map(json.dumps, lines)))
    assert found.header == ["term", "n", "f", "x", "b", "huge", "mixed"]
    assert rows(found) == [[line.get(key) for key in found.header] for line in lines]
    assert found.types == [pa.string(), pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.string(), pa.string()]


def test_workbook_table_is_as_wide_as_its_values(tmp_path):
    found = workbook(
        tmp_path / "x.xlsx", [["term", None, "n", None], ["a", None, 1], [], ["b", "beside", 2.5, None, "far"]]
    )
    assert found.header == ["term", "", "n", "", ""]
    assert rows(found) == [["a", None, 1, None, None], [None] * 5, ["b", "beside", 2.5, None, "far"]]
    assert found.types == [pa.string(), pa.string(), pa.float64(), pa.string(), pa.string()]
    assert workbook(tmp_path / "y.xlsx", [["term", 2024]]).header == ["term", "2024"]
    found = workbook(tmp_path / "z.xlsx", [["term", "never", None, None], ["a"]])
    assert (found.header, rows(found)) == (["term", "never"], [["a", None]])


def test_workbook_cells_without_values_make_no_column(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["term"])
    for cell in ("C1", "D2", "A3", "B4"):
        book.active[cell].font = openpyxl.styles.Font(bold=True)
    book.active["A2"] = "a"
    book.save(tmp_path / "x.xlsx")
    found = open_table(tmp_path / "x.xlsx")
    assert (found.header, rows(found)) == (["term"], [["a"]])


TABLE = pa.table(
    {
        "term": pa.array(["a", "b", None, "d", "e"], pa.dictionary(pa.int8(), pa.string())),
        "n": pa.array([1, 2, 3, None, 5], pa.uint8()),
        "at": pa.array([1, 2, 3, 4, 5], pa.timestamp("ns", "UTC")),
        "of": pa.array([["x"], [], None, ["y", None], []], pa.large_list(pa.string())),
    }
)


@pytest.mark.parametrize(("groups", "size"), itertools.product([1, 2, 3, 5], [1, 2, 3, 4, 7]))
def test_parquet_chunks_keep_the_types_of_the_file(tmp_path, groups, size):
    pq.write_table(TABLE, tmp_path / "x.parquet", row_group_size=groups)
    found = open_table(tmp_path / "x.parquet")
    assert (found.header, found.types, found.rows) == (TABLE.column_names, TABLE.schema.types, 5)
    again = pa.concat_tables(found.chunks(size))
    assert again.unify_dictionaries().to_pylist() == TABLE.to_pylist()
    assert again.schema.types == TABLE.schema.types
    assert len(rows(found, size)) == 5


def test_column_index_suggests_the_most_similar_column():
    found = table_of_terms([], "f.csv")
    found.header[:] = ["id", "terms", "two", "two"]
    assert found.column_index("terms") == 1
    with pytest.raises(
        DataError, match=r"^f\.csv: expected a column 'term', found id, terms, two, two; did you mean 'terms'\?$"
    ):
        found.column_index("term")
    with pytest.raises(
        DataError,
        match=r"^f\.csv: expected one column 'two', found the columns 3 and 4 of that name\. Rename all but one$",
    ):
        found.column_index("two")
    found.header[:] = [f"c{i}" for i in range(99)]
    with pytest.raises(DataError, match=r"c48, c49, …"):
        found.column_index("?")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "", r"x\.csv: expected a header with column names, found an empty file$"),
        ("x.csv", "\n\n", r"x\.csv: expected a header with column names, found an empty file$"),
        ("x.csv", ",\n\n,\n", "found an empty file"),
        ("x.tsv", "", "found an empty file"),
        ("x.jsonl", "", "found an empty file"),
        ("x.jsonl", "{}\n", "found an empty file"),
        ("x.csv", "a,b\n" + "1,2\n" * 5000 + "1,2,3\n", r"x\.csv:5002: expected 2 field"),  # reported when it is opened
        (
            "x.jsonl",
            "\n".join(f'{{"k{i}": 1}}' for i in range(10_002)),
            r"x\.jsonl: expected at most 10,000 columns, found more",
        ),
        (
            "x.html",
            "",
            r"x\.html: expected a file that ends in \.csv, \.tsv, \.txt, .* \(or one of these and \.gz\), \.parquet, \.xlsx.* or \.ods$",
        ),
        (
            "x.parquet.gz",
            "",
            r"x\.parquet\.gz: expected a \.parquet file without further compression; decompress it first$",
        ),
        (
            "x.parquet",
            "PAR1",
            r"x\.parquet: expected a Parquet file, found one that can't be read: .*\. Is it damaged\?$",
        ),
    ],
)
def test_open_table_reports_what_it_cannot_read(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        table_in(tmp_path, name, data)


def test_sheet_is_an_option_of_workbooks_only(tmp_path):
    (tmp_path / "x.csv").write_text("term\n")
    with pytest.raises(ConfigError, match=r"^--sheet 'S' is for workbooks, found .*x\.csv; remove it$"):
        open_table(tmp_path / "x.csv", sheet="S")
    workbook(tmp_path / "x.xlsx", [["term"]])
    assert open_table(tmp_path / "x.xlsx", sheet="Sheet").sheet == "Sheet"
    with pytest.raises(DataError, match="found an empty file"):
        workbook(tmp_path / "y.xlsx", [])


def test_open_table_names_a_missing_file(tmp_path):
    for name in ("x.csv", "x.jsonl", "x.parquet", "x.xlsx"):
        with pytest.raises(DataError, match=f"{name}: expected a file, found nothing there"):
            open_table(tmp_path / name)


def test_parquet_text_that_is_not_utf8_is_reported(tmp_path):
    bad = pa.array([b"ok", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"term": bad}), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"x\.parquet: expected a Parquet file, found one that can't be read: .*[Ii]nvalid UTF"
    ):
        open_table(tmp_path / "x.parquet")


def test_terms_are_consumed_only_as_far_as_needed():
    numbers = itertools.count()
    found = table_of_terms(map(str, numbers), "stdin")
    assert (found.header, found.rows, found.path) == (["mention"], None, None)
    chunks = found.chunks(3)
    assert [next(chunks)["mention"].to_pylist() for _ in range(2)] == [["0", "1", "2"], ["3", "4", "5"]]
    assert next(numbers) == 6


values = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.integers(-3, 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@settings(max_examples=examples(60))
@given(
    lines=st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=5),
    size=st.integers(1, 6),
)
def test_jsonl_table_equals_that_of_a_naive_reader(tmp_path_factory, lines, size):
    found = table_in(tmp_path_factory.getbasetemp(), "n.jsonl", "\n".join(map(json.dumps, lines)))
    header = []
    for line in lines:
        header += [key for key in line if key not in header]
    assert found.header == header
    expected = [[line.get(key) for key in header] for line in lines]
    assert rows(found, size) == expected
    types = [[type(cell) for cell in row] for row in expected]
    assert [[type(cell) for cell in row] for row in rows(found, size)] == types


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "csv.gz", "parquet"])
def test_reading_needs_the_memory_of_one_chunk(tmp_path, kind):
    """Twelve times the rows are read in hardly more memory."""

    def peak(count):
        path = tmp_path / f"{count}.{kind}"
        data = {"id": list(map(str, range(count))), "term": [f"term {i} with some length to it" for i in range(count)]}
        if kind == "parquet":
            pq.write_table(pa.table(data), path, row_group_size=500)
        else:
            write = json.dumps if kind == "jsonl" else ("\t" if kind == "tsv" else ",").join
            lines = ([write(["id", "term"])] if kind != "jsonl" else []) + [
                write({"id": i, "term": t} if kind == "jsonl" else [i, t]) for i, t in zip(*data.values(), strict=True)
            ]
            text = "\n".join(lines).encode()
            path.write_bytes(gzip.compress(text, 1) if kind == "csv.gz" else text)
        del data
        tracemalloc.start()
        found, arrow, before, seen = open_table(path), 0, pa.total_allocated_bytes(), 0
        for chunk in found.chunks(250):
            seen += chunk.num_rows
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        assert seen == count
        used = tracemalloc.get_traced_memory()[1] + arrow
        tracemalloc.stop()
        return used

    small, large = peak(1_000), peak(12_000)
    assert large < 1.5 * small + 200_000


# Similar column names, lists, and views


@pytest.mark.parametrize(
    "name",
    ["DIAGNO\u0301STICO texto", " Diagno\u0301stico texto", "Diagnóstico\u00a0texto ", "\ufeffdiagnóstico  texto"],
)
def test_similar_column_name_is_taken_if_there_is_only_one(tmp_path, name):
    found = table_in(tmp_path, "x.csv", f"id,{name}\n1,a\n")
    assert found.column_index("Diagnóstico texto") == 1
    twice = table_in(tmp_path, "y.csv", f"{name},{name}x,{name.swapcase()} \n1,a,b\n")
    with pytest.raises(
        DataError, match=r"expected one column like 'Diagn\\xf3stico texto', found .* \(column 1\) and .* \(column 3\)"
    ):
        twice.column_index("Diagnóstico texto")
    exact = table_in(tmp_path, "z.csv", f"{name},Diagnóstico texto\n1,a\n")
    assert exact.column_index("Diagnóstico texto") == 1


@pytest.mark.parametrize("cell", [["a", "b"], {"text": "a"}, []])
@pytest.mark.parametrize("form", ["jsonl", "ndjson", "parquet"])
def test_column_of_lists_or_objects_is_no_column_of_terms(tmp_path, cell, form):
    path = tmp_path / f"x.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"id": [1], "of": [cell or [None]]}), path)
    else:
        path.write_text("\n".join(map(json.dumps, [{"id": 1, "of": "a"}, {"id": 2, "of": cell}])))
    found = open_table(path)
    assert found.column_index("id") == 0
    assert found.column_index("of", lists=True) == 1
    row = 1 if form == "parquet" else 2
    with pytest.raises(
        DataError, match=rf"each cell of the column 'of', found a list or an object in row {row}\. Write each"
    ):
        found.column_index("of")


@pytest.mark.parametrize(
    ("of", "plain", "values"),
    [
        (pa.string_view(), pa.string(), ["a", None, "a longer text than fits into a view"]),
        (pa.binary_view(), pa.binary(), [b"a", None, b"\xff"]),
        (pa.list_(pa.string_view()), pa.list_(pa.string()), [["a"], None, [None, "b"]]),
        (pa.struct({"k": pa.string_view()}), pa.struct({"k": pa.string()}), [{"k": "a"}, None, {"k": None}]),
        (pa.large_string(), pa.large_string(), ["a", None, "b"]),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.string()), ["a", None, "a"]),
        (pa.null(), pa.null(), [None, None, None]),
        (pa.decimal128(5, 2), pa.decimal128(5, 2), [decimal.Decimal("1.50"), None, decimal.Decimal("0.01")]),
        (pa.float16(), pa.float16(), [0.5, None, 1.0]),
    ],
    ids=str,
)  # fmt: skip
def test_parquet_columns_of_every_kind_are_taken_from(tmp_path, of, plain, values):
    pq.write_table(pa.table({"of": pa.array(values, of)}), tmp_path / "x.parquet")
    found = open_table(tmp_path / "x.parquet")
    assert found.types == [plain]
    chunks = list(found.chunks(2))
    assert [chunk.schema.field(0).type for chunk in chunks] == [plain, plain]
    assert pa.concat_tables(chunks).column(0).to_pylist() == values
    assert chunks[0].take(pa.array([1, 0, 0])).column(0).to_pylist() == [values[1], values[0], values[0]]


def test_options_belong_to_kinds_of_files(tmp_path):
    pq.write_table(pa.table({"term": ["a"]}), tmp_path / "x.parquet")
    for options in ({"encoding": "cp1252"}, {"header_row": 2}, {"sheet": "S"}):
        with pytest.raises(ConfigError, match=r"^--.* is for .*, found .*x\.parquet; remove it$"):
            open_table(tmp_path / "x.parquet", **options)
    with pytest.raises(ConfigError, match=r"^--header-row must be at least 1, found 0$"):
        open_table(tmp_path / "x.csv", header_row=0)


def test_title_lines_are_named_in_the_error_about_the_column(tmp_path):
    (tmp_path / "x.csv").write_text("Report;;\n;;\nid;term;n\n1;a;2\n")
    with pytest.raises(
        DataError, match=r"expected a column 'term', found Report, , \. Line 3 has it: add --header-row 3$"
    ):
        open_table(tmp_path / "x.csv").column_index("term")
    found = open_table(tmp_path / "x.csv", header_row=3)
    assert (found.header, found.rows) == (["id", "term", "n"], 1)
