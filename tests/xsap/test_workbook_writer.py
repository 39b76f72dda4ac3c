"""Workbooks, which openpyxl, a second implementation, reads back."""

import io
import re
import tracemalloc
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ConfigError
from xsap.tabular import workbook_writer
from xsap.tabular.workbook_writer import MAX_CELL, MAX_ROWS, check_row_count, open_workbook


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
