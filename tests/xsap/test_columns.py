import gzip
import itertools
import json
import tracemalloc

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ConfigError, DataError
from xsap.tabular.readers import cells_of, open_source, terms_source


def source(folder, name, data):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return open_source(folder / name)


def rows(found, size=2):
    """All rows of a source, whose chunks must have the size asked for, all but the last."""
    sheets = list(found.chunks(size))
    assert all(sheet.header == found.header for sheet in sheets)
    heights = [len(sheet.columns[0]) for sheet in sheets]
    assert all(height == size for height in heights[:-1])
    assert all(0 < height <= size for height in heights)
    assert sum(heights) == found.rows
    return [list(row) for sheet in sheets for row in zip(*map(cells_of, sheet.columns), strict=True)]


def workbook(path, lines):
    book = openpyxl.Workbook()
    for line in lines:
        book.active.append(line)
    book.save(path)
    return open_source(path)


def test_a_csv_and_a_tsv(tmp_path):
    found = source(tmp_path, "x.CSV", "id;term\n1;a\n2;b\n3;c\n")
    assert (found.header, found.rows, found.types, found.delimiter) == (["id", "term"], 3, [pa.string()] * 2, ";")
    assert rows(found) == rows(found) == [["1", "a"], ["2", "b"], ["3", "c"]]  # as often as wanted
    found = source(tmp_path, "x.tsv.gz", gzip.compress(b"id\tterm\n1\ta\n"))
    assert (found.header, rows(found), found.delimiter) == (["id", "term"], [["1", "a"]], ",")
    assert rows(source(tmp_path, "y.csv", "term\n")) == []


def test_a_jsonl_has_every_key_that_some_line_has(tmp_path):
    lines = [
        {"term": "a", "n": 1, "f": 1},
        {"x": [1], "term": None, "f": 0.5},
        {"b": True, "huge": 2**70, "mixed": "1"},
        {"mixed": 1},
    ]
    found = source(tmp_path, "x.jsonl", "\n".join(map(json.dumps, lines)))
    assert found.header == ["term", "n", "f", "x", "b", "huge", "mixed"]
    assert rows(found) == [[line.get(key) for key in found.header] for line in lines]
    assert found.types == [pa.string(), pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.string(), pa.string()]


def test_a_workbook_is_as_wide_as_what_it_has_on(tmp_path):
    found = workbook(
        tmp_path / "x.xlsx", [["term", None, "n", None], ["a", None, 1], [], ["b", "beside", 2.5, None, "far"]]
    )
    assert found.header == ["term", "", "n", "", ""]
    assert rows(found) == [["a", None, 1, None, None], [None] * 5, ["b", "beside", 2.5, None, "far"]]
    assert found.types == [pa.string(), pa.string(), pa.float64(), pa.string(), pa.string()]
    assert workbook(tmp_path / "y.xlsx", [["term", 2024]]).header == ["term", "2024"]
    found = workbook(tmp_path / "z.xlsx", [["term", "never", None, None], ["a"]])
    assert (found.header, rows(found)) == (["term", "never"], [["a", None]])


def test_cells_that_are_only_colored_make_no_column(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["term"])
    for place in ("C1", "D2", "A3", "B4"):
        book.active[place].font = openpyxl.styles.Font(bold=True)
    book.active["A2"] = "a"
    book.save(tmp_path / "x.xlsx")
    found = open_source(tmp_path / "x.xlsx")
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
def test_a_parquet_file_keeps_its_types(tmp_path, groups, size):
    pq.write_table(TABLE, tmp_path / "x.parquet", row_group_size=groups)
    found = open_source(tmp_path / "x.parquet")
    assert (found.header, found.types, found.rows) == (TABLE.column_names, TABLE.schema.types, 5)
    sheets = list(found.chunks(size))
    again = pa.concat_tables([pa.table(sheet.columns, names=sheet.header) for sheet in sheets])
    assert again.unify_dictionaries().to_pylist() == TABLE.to_pylist()
    assert again.schema.types == TABLE.schema.types
    assert len(rows(found, size)) == 5


def test_a_missing_column_names_the_nearest():
    found = terms_source([], "f.csv")
    found.header[:] = ["id", "terms", "two", "two"]
    assert found.place("terms") == 1
    with pytest.raises(
        DataError, match=r"^f\.csv: expected a column 'term', found id, terms, two, two; did you mean 'terms'\?$"
    ):
        found.place("term")
    with pytest.raises(DataError, match=r"^f\.csv: expected a column 'two', found two of that name$"):
        found.place("two")
    found.header[:] = [f"c{i}" for i in range(99)]
    with pytest.raises(DataError, match=r"c48, c49, …"):
        found.place("?")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "", r"x\.csv: expected columns with names, found an empty file$"),
        ("x.csv", "\n\n", r"x\.csv: expected columns with names, found an empty file$"),
        ("x.csv", ",\n1,2\n", "found an empty file"),
        ("x.tsv", "", "found an empty file"),
        ("x.jsonl", "", "found an empty file"),
        ("x.jsonl", "{}\n", "found an empty file"),
        ("x.csv", "a,b\n" + "1,2\n" * 5000 + "1\n", r"x\.csv:5002: expected 2 field"),  # told of when it is opened
        (
            "x.jsonl",
            "\n".join(f'{{"k{i}": 1}}' for i in range(10_002)),
            r"x\.jsonl: expected at most 10,000 columns, found more",
        ),
        (
            "x.xls",
            "",
            r"x\.xls: expected a file that ends in \.csv, \.tsv, \.jsonl \(or one of these and \.gz\), \.parquet or \.xlsx$",
        ),
        (
            "x.parquet.gz",
            "",
            r"expected a \.parquet file as it is, which is compressed inside; unpack it: gunzip x\.parquet\.gz$",
        ),
        (
            "x.parquet",
            "PAR1",
            r"x\.parquet: expected a Parquet file, found one that can't be read: .*\. Is it damaged\?$",
        ),
    ],
)
def test_what_can_t_be_opened(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message):
        source(tmp_path, name, data)


def test_a_sheet_is_of_a_workbook(tmp_path):
    (tmp_path / "x.csv").write_text("term\n")
    with pytest.raises(ConfigError, match=r"^--sheet 'S' is for \.xlsx files, found .*x\.csv$"):
        open_source(tmp_path / "x.csv", sheet="S")
    workbook(tmp_path / "x.xlsx", [["term"]])
    assert open_source(tmp_path / "x.xlsx", sheet="Sheet").sheet == "Sheet"
    with pytest.raises(DataError, match="found an empty file"):
        workbook(tmp_path / "y.xlsx", [])


def test_files_that_are_not_there(tmp_path):
    for name in ("x.csv", "x.jsonl", "x.parquet", "x.xlsx"):
        with pytest.raises(DataError, match=f"{name}: expected a file, found nothing there"):
            open_source(tmp_path / name)


def test_text_in_a_parquet_file_that_is_none(tmp_path):
    bad = pa.array([b"ok", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"term": bad}), tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"x\.parquet: expected a Parquet file, found one that can't be read: .*[Ii]nvalid UTF"
    ):
        open_source(tmp_path / "x.parquet")


def test_terms_are_taken_only_as_far_as_needed():
    numbers = itertools.count()
    found = terms_source(map(str, numbers), "stdin")
    assert (found.header, found.rows, found.path) == (["mention"], None, None)
    sheets = found.chunks(3)
    assert [next(sheets).columns for _ in range(2)] == [[["0", "1", "2"]], [["3", "4", "5"]]]
    assert next(numbers) == 6


values = st.one_of(
    st.none(),
    st.text(max_size=3),
    st.integers(-3, 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@settings(max_examples=60)
@given(
    lines=st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=5),
    size=st.integers(1, 6),
)
def test_a_jsonl_against_a_naive_reader(tmp_path_factory, lines, size):
    found = source(tmp_path_factory.getbasetemp(), "n.jsonl", "\n".join(map(json.dumps, lines)))
    header = []
    for line in lines:
        header += [key for key in line if key not in header]
    assert found.header == header
    assert rows(found, size) == [[line.get(key) for key in header] for line in lines]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "csv.gz", "parquet"])
def test_memory_is_that_of_a_chunk(tmp_path, kind):
    """Twelve times the rows, all read, in hardly more memory."""

    def peak(count):
        path = tmp_path / f"{count}.{kind}"
        data = {"id": list(map(str, range(count))), "term": [f"term {i} with some length to it" for i in range(count)]}
        if kind == "parquet":
            pq.write_table(pa.table(data), path, row_group_size=1000)
        else:
            write = json.dumps if kind == "jsonl" else ("\t" if kind == "tsv" else ",").join
            lines = ([write(["id", "term"])] if kind != "jsonl" else []) + [
                write({"id": i, "term": t} if kind == "jsonl" else [i, t]) for i, t in zip(*data.values(), strict=True)
            ]
            text = "\n".join(lines).encode()
            path.write_bytes(gzip.compress(text, 1) if kind == "csv.gz" else text)
        del data
        tracemalloc.start()
        found, arrow, before, seen = open_source(path), 0, pa.total_allocated_bytes(), 0
        for sheet in found.chunks(500):
            seen += len(sheet.columns[0])
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        assert seen == count
        used = tracemalloc.get_traced_memory()[1] + arrow
        tracemalloc.stop()
        return used

    small, large = peak(2_000), peak(24_000)
    assert large < 1.5 * small + 200_000
