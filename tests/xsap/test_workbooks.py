"""Workbooks: cells, sheets, formulas and errors, formats other than .xlsx, and files that are damaged or none."""

import datetime
import random
import struct
import sys
import zipfile
from collections import Counter

import openpyxl
import pytest
import xlwt
from hypothesis import given
from hypothesis import strategies as st

from xsap.errors import ConfigError, DataError
from xsap.tabular.cells import to_cells
from xsap.tabular.readers import open_table
from xsap.tabular.workbooks import binary_extent, choose_sheet, open_workbook_file
from xsap.tabular.xlsx import ERRORS_EMPTIED, decode_escapes, duration_text, format_kind, number_of, temporal_text


def read_sheet(path, sheet=None):
    """The rows of a sheet from the first to the last with a value, without empty cells at their ends."""
    with open_workbook_file(path) as book:
        rows = dict(book.rows(choose_sheet(book, sheet, path), Counter()))
    return [rows.get(number, []) for number in range(min(rows, default=0), max(rows, default=-1) + 1)]


def save_workbook(path, rows, *, sheets=("Sheet1",)):
    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for title in sheets[1:]:
        book.create_sheet(title).append([title])
    for row in rows:
        book.active.append(row)
    book.save(path)


def test_xlsx_cells_are_read_as_json_has_them(tmp_path):
    day, moment = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 13, 5, 7)
    header = ["text", "int", "float", "bool", "date", "moment", "midnight", "time", "length", "empty"]
    row = [
        "=1+1",
        7,
        1.5,
        True,
        day,
        moment,
        datetime.datetime(2024, 2, 29),
        datetime.time(8, 30),
        datetime.timedelta(hours=30),
        None,
    ]
    save_workbook(tmp_path / "x.xlsx", [header, ["fièvre\nhaute", *row[1:]]])
    assert read_sheet(tmp_path / "x.xlsx") == [
        header,
        [
            "fièvre\nhaute",
            7,
            1.5,
            True,
            "2024-02-29",
            "2024-02-29T13:05:07",
            "2024-02-29T00:00:00",
            "08:30:00",
            "30:00:00",
        ],
    ]


def test_xlsx_time_hidden_by_a_date_format_is_kept(tmp_path):
    book = openpyxl.Workbook()
    book.active["A1"] = datetime.datetime(2024, 2, 29, 13, 5)
    book.active["A1"].number_format = "yyyy-mm-dd"
    book.save(tmp_path / "x.xlsx")
    assert read_sheet(tmp_path / "x.xlsx") == [["2024-02-29T13:05:00"]]


def test_xlsx_empty_rows_are_read_only_between_others(tmp_path):
    save_workbook(tmp_path / "x.xlsx", [[], [None, None], ["term", "n"], ["a"], [], [None], ["b", 2], [], [None]])
    assert read_sheet(tmp_path / "x.xlsx") == [["term", "n"], ["a"], [], [], ["b", 2]]


def test_xlsx_sheet_is_chosen_by_name(tmp_path):
    save_workbook(tmp_path / "x.xlsx", [["first"]], sheets=("One", "Two"))
    assert read_sheet(tmp_path / "x.xlsx") == read_sheet(tmp_path / "x.xlsx", "One") == [["first"]]
    assert read_sheet(tmp_path / "x.xlsx", "Two") == [["Two"]]
    with pytest.raises(DataError, match=r"x\.xlsx: expected a sheet 'two', found One, Two$"):
        read_sheet(tmp_path / "x.xlsx", "two")


MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
OFFICE = "http://schemas.openxmlformats.org"
BY_HAND = {  # the parts of ECMA-376 that a workbook can't do without
    "[Content_Types].xml": f'<Types xmlns="{OFFICE}/package/2006/content-types"><Default Extension="xml" ContentType="application/xml"/>'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/xl/workbook.xml"'
    ' ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/><Override PartName="/xl/worksheets/s.xml"'
    ' ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{OFFICE}/package/2006/relationships"><Relationship Id="r1" Type="{OFFICE}/officeDocument/2006/'
    'relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{OFFICE}/officeDocument/2006/relationships"><sheets><sheet name="S" sheetId="1" r:id="r1"/>'
    "</sheets></workbook>",
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{OFFICE}/package/2006/relationships"><Relationship Id="r1" Type="{OFFICE}/'
    'officeDocument/2006/relationships/worksheet" Target="worksheets/s.xml"/></Relationships>',
}


def by_hand(path, rows):
    sheet = f'<worksheet {MAIN}><dimension ref="A1"/><sheetData>{rows}</sheetData></worksheet>'
    with zipfile.ZipFile(path, "w") as book:
        for name, content in {**BY_HAND, "xl/worksheets/s.xml": sheet}.items():
            book.writestr(name, content)
    return read_sheet(path)


def test_xlsx_formulas_give_values_and_a_wrong_dimension_hides_nothing(tmp_path):
    rows = (
        '<row r="2"><c r="B2" t="inlineStr"><is><t>term</t></is></c><c r="C2" t="str"><f>"a"&amp;"b"</f><v>ab</v></c></row>'
        '<row r="5"><c r="A5"><f>1+1</f><v>2</v></c><c r="B5" t="b"><v>1</v></c><c r="C5" t="e"><v>#N/A</v></c><c r="D5" t="str"><f>B1</f><v></v></c>'
        '<c r="F5"><v>1E3</v></c></row>'
    )
    assert by_hand(tmp_path / "x.xlsx", rows) == [[None, "term", "ab"], [], [], [2, True, None, None, None, 1000]]


def test_xlsx_row_beyond_the_last_possible_one_is_reported(tmp_path):
    rows = '<row r="1"><c r="A1"><v>1</v></c></row><row r="99999999999"><c r="A99999999999"><v>1</v></c></row>'
    with pytest.raises(DataError, match=r"expected at most 1,048,576 rows in a sheet, found more"):
        by_hand(tmp_path / "x.xlsx", rows)


def test_text_that_is_no_workbook_is_reported(tmp_path):
    (tmp_path / "x.xlsx").write_bytes(b"term\n")
    with pytest.raises(
        DataError,
        match=r"x\.xlsx: expected a workbook, found text\. If it is a table with tabs or commas between its cells, rename it",
    ):
        read_sheet(tmp_path / "x.xlsx")
    with pytest.raises(DataError, match="none: expected a file, found nothing there"):
        read_sheet(tmp_path / "none")


def test_damaged_workbooks_are_reported_in_one_line(tmp_path):
    path = tmp_path / "x.xlsx"
    save_workbook(path, [["term", "n"], *([f"t{i}", i] for i in range(50))])
    whole, draw = path.read_bytes(), random.Random(3)
    reported = 0
    for trial in range(120):
        data = bytearray(whole)
        if trial % 2:
            data = data[: draw.randrange(len(data))]
        for _ in range(4):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            read_sheet(path)
        except DataError as error:
            reported += "\n" not in str(error)
    assert reported > 80


def test_formula_that_was_never_calculated_is_an_error_that_says_how_to_save_it(tmp_path):
    save_workbook(tmp_path / "x.xlsx", [["term"], ["a"], ["=A2"]])
    with pytest.raises(
        DataError, match=r"sheet 'Sheet1', row 3, column 1: expected the value of a formula, .* and save it$"
    ):
        open_table(tmp_path / "x.xlsx")


def test_error_values_are_empty_and_counted_and_their_rows_stay(tmp_path):
    save_workbook(tmp_path / "x.xlsx", [["term"], ["#N/A"], ["a"], ["#REF!"]])
    found = open_table(tmp_path / "x.xlsx")
    assert [cell for chunk in found.chunks(9) for cell in to_cells(chunk.column(0))] == [None, "a", None]
    assert found.repairs == {ERRORS_EMPTIED: 2}
    assert found.remarks() == [f"{ERRORS_EMPTIED}: 2"]


@pytest.mark.parametrize("state", ["hidden", "veryHidden"])
def test_first_visible_sheet_is_read_and_named(tmp_path, state):
    book = openpyxl.Workbook()
    book.active.title = "Lookup"
    book.active.append(["code"])
    book.active.sheet_state = state
    book.create_sheet("Terms").append(["term"])
    book.create_sheet("More").append(["Other"])
    book.save(tmp_path / "x.xlsx")
    found = open_table(tmp_path / "x.xlsx")
    assert (found.sheet, found.header) == ("Terms", ["term"])
    assert found.remarks() == ["sheet 'Terms' (--sheet reads another: Lookup, More)"]
    assert open_table(tmp_path / "x.xlsx", sheet="Lookup").header == ["code"]
    with pytest.raises(DataError, match=r"found term\. Sheet 'More' has it in row 1: add --sheet 'More'$"):
        found.column_index("other")


def test_header_row_of_a_workbook_is_counted_as_the_program_shows_it(tmp_path):
    save_workbook(tmp_path / "x.xlsx", [[], ["Report"], [], ["term", "n"], ["a", 1], [], ["b", 2]])
    with pytest.raises(DataError, match=r"Sheet 'Sheet1' has it in row 4: add --header-row 4$"):
        open_table(tmp_path / "x.xlsx").column_index("term")
    found = open_table(tmp_path / "x.xlsx", header_row=4)
    assert (found.header, found.rows) == (["term", "n"], 3)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("General", None), ("0.00", None), ("0%", None), ("@", None), ("#,##0 [$€-407]", None), ('0 "days"', None), ("[Red]0", None),
        ("yyyy-mm-dd", "date"), ("DD.MM.YYYY", "date"), ("mmm-yy", "date"), ("[$-F800]dddd, mmmm dd, yyyy", "date"),
        ("yyyy-mm-dd hh:mm", "moment"), ("m/d/yy h:mm", "moment"), ("h:mm AM/PM", "time"), ("mm:ss", "time"), ("[h]:mm:ss", "duration"),
    ],
)  # fmt: skip
def test_number_formats_that_show_dates(code, kind):
    assert format_kind(code) == kind


@given(serial=st.one_of(st.integers(61, 2_958_465), st.floats(61, 2_958_465)))
def test_dates_equal_those_of_openpyxl(serial):
    expected = openpyxl.utils.datetime.from_excel(serial)
    found = datetime.datetime.fromisoformat(temporal_text(serial, "moment"))
    assert abs(found - expected) <= datetime.timedelta(milliseconds=1)
    assert temporal_text(int(serial), "date") == openpyxl.utils.datetime.from_excel(int(serial)).date().isoformat()


def test_dates_at_the_ends_of_the_calendar():
    assert temporal_text(1, "date") == "1900-01-01"
    assert temporal_text(0.5, "time") == temporal_text(0.5, "date") == "12:00:00"
    assert temporal_text(1, "date", from_1904=True) == "1904-01-02"
    assert temporal_text(-1, "date") is None
    assert temporal_text(2_958_466, "date") is None
    assert duration_text(datetime.timedelta(hours=30, milliseconds=5)) == "30:00:00.005"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("-7", -7),
        ("7.0", 7),
        ("1E3", 1000),
        ("0.1", 0.1),
        ("900000000000207008", 900000000000207008),
        ("1.23456789012345E+17", 123456789012345000),
    ],
)
def test_whole_numbers_are_integers(text, number):
    assert (number_of(text), type(number_of(text))) == (number, type(number))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_x000D_\nb", "a\r\nb"),
        ("_x0041_", "A"),
        ("_x005F_x0041_", "_x0041_"),
        ("_xD83D__xDE00_", "😀"),
        ("_x41_ _xGGGG_", "_x41_ _xGGGG_"),
    ],
)
def test_escapes_of_office_open_xml_are_decoded(text, expected):
    assert decode_escapes(text) == expected


def strict(text):
    return text.replace(
        f"{OFFICE}/officeDocument/2006/relationships", "http://purl.oclc.org/ooxml/officeDocument/relationships"
    ).replace(f"{OFFICE}/spreadsheetml/2006/main", "http://purl.oclc.org/ooxml/spreadsheetml/main")


@pytest.mark.parametrize(
    "spoil",
    [
        strict,
        lambda text: (
            text.replace("<c ", "<x:c ").replace("</c>", "</x:c>").replace("<worksheet ", '<worksheet xmlns:x="y" ')
        ),
    ],
)
def test_strict_workbooks_and_prefixed_elements_are_read(tmp_path, spoil):
    save_workbook(tmp_path / "x.xlsx", [["term", 7], ["007", True]])
    with zipfile.ZipFile(tmp_path / "x.xlsx") as old, zipfile.ZipFile(tmp_path / "y.xlsx", "w") as new:
        for name in old.namelist():
            new.writestr(name, spoil(old.read(name).decode()))
    assert read_sheet(tmp_path / "y.xlsx") == [["term", 7], ["007", True]]


@pytest.mark.parametrize(
    "styles", ["<styleSheet", "", "<styleSheet><fills><fill/></fills><cellXfs><xf/></cellXfs></styleSheet>"]
)
def test_styles_are_not_needed(tmp_path, styles):
    extra = {
        **BY_HAND,
        "xl/_rels/workbook.xml.rels": BY_HAND["xl/_rels/workbook.xml.rels"].replace(
            "</Rel",
            f'<Relationship Id="r2" Type="{OFFICE}/officeDocument/2006/relationships/styles" Target="styles.xml"/></Rel',
        ),
        "xl/styles.xml": styles,
        "xl/worksheets/s.xml": f'<worksheet {MAIN}><sheetData><row r="1"><c r="A1" s="0"><v>45000</v></c></row></sheetData></worksheet>',
    }
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as book:
        for name, content in extra.items():
            book.writestr(name, content)
    assert read_sheet(tmp_path / "x.xlsx") == [[45000]]


def test_rich_text_is_joined_and_pronunciation_left_out(tmp_path):
    text = '<is><r><t>ab</t></r><r><t xml:space="preserve"> c</t></r><rPh sb="0" eb="1"><t>PHON</t></rPh></is>'
    assert by_hand(
        tmp_path / "x.xlsx", f'<row><c t="inlineStr">{text}</c><c><v>1</v></c></row><row><c><v>2</v></c></row>'
    ) == [["ab c", 1], [2]]


def test_blank_formatted_cells_cost_no_memory_and_make_no_rows(tmp_path):
    blank = "".join(
        f'<row r="{n}" spans="1:3"><c r="A{n}" s="1"/><c r="B{n}" s="1"/><c r="XFD{n}" s="1"></c></row>'
        for n in range(2, 100_000)
    )
    rows = f'<row r="1"><c r="A1"><v>1</v></c></row>{blank}<row r="100001"><c r="A100001" s="1"/></row>'
    assert by_hand(tmp_path / "x.xlsx", rows) == [[1]]


def test_value_in_the_last_possible_cell_allocates_no_sheet(tmp_path):
    rows = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    by_hand(tmp_path / "x.xlsx", '<row r="1"><c r="A1"><v>1</v></c></row>')
    with open_workbook_file(tmp_path / "x.xlsx") as book:
        assert len(book.sheets) == 1
    with zipfile.ZipFile(tmp_path / "y.xlsx", "w") as book:
        for name, content in {
            **BY_HAND,
            "xl/worksheets/s.xml": f"<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>",
        }.items():
            book.writestr(name, content)
    with pytest.raises(DataError, match=r"expected at most 10,000 columns, found more"):
        open_table(tmp_path / "y.xlsx")


def test_zip_bombs_and_entities_are_refused_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as book:
        for name, content in BY_HAND.items():
            book.writestr(name, content)
        with book.open("xl/worksheets/s.xml", "w") as part:
            for _ in range(80):
                part.write(b" " * (1 << 20))
    with pytest.raises(
        DataError,
        match=r"expected at most 400 times the compressed size of xl/worksheets/s\.xml, found 83,886,080 bytes",
    ):
        read_sheet(tmp_path / "x.xlsx")
    with zipfile.ZipFile(tmp_path / "y.xlsx", "w") as book:
        for name, content in BY_HAND.items():
            book.writestr(name, content.replace("<workbook", '<!DOCTYPE a [<!ENTITY b "c">]><workbook'))
    with pytest.raises(DataError, match="found a document type declaration in its XML"):
        read_sheet(tmp_path / "y.xlsx")


# Other formats


def test_old_workbook_is_read_by_calamine(tmp_path):
    book = xlwt.Workbook()
    sheet = book.add_sheet("A")
    formats = {4: "yyyy-mm-dd", 5: "yyyy-mm-dd hh:mm", 6: "[h]:mm:ss"}
    values = ["term", 7, 1.5, True, datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 13, 5), 1.25, "007"]
    for row, value in enumerate(values):
        sheet.write(row, 1, value, xlwt.easyxf(num_format_str=formats.get(row, "General")))
    book.add_sheet("B").write(0, 0, "x")
    book.save(str(tmp_path / "x.xls"))
    expected = ["term", 7, 1.5, True, "2024-02-29", "2024-02-29T13:05:00", "30:00:00", "007"]
    assert read_sheet(tmp_path / "x.xls") == [[None, value] for value in expected]
    assert read_sheet(tmp_path / "x.xls", "B") == [["x"]]
    (tmp_path / "x.xls").rename(tmp_path / "y.xlsx")  # what a file is follows from its bytes
    assert len(read_sheet(tmp_path / "y.xlsx")) == 8


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"<html><table><tr><td>term", "found a web page\\. Open it in Excel or LibreOffice and save it as .xlsx$"),
        (b'<?xml version="1.0"?><Workbook', "found XML of another kind\\. Open it in Excel"),
        (
            b"term\tid\n",
            "found text\\. If it is a table with tabs or commas between its cells, rename it to end in .txt or .csv$",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
            "found one that can't be read .*\\. Open it in Excel or LibreOffice",
        ),
        (b"\0\1", "found something else\\. Is it damaged\\? Open it"),
        (b"PK\x03\x04", "found one that is damaged"),
    ],
)
@pytest.mark.parametrize("ending", [".xls", ".xlsx", ".ods", ".xlsb", ".xlsm"])
def test_file_that_is_no_workbook_names_the_way_out(tmp_path, start, message, ending):
    (tmp_path / f"x{ending}").write_bytes(start)
    with pytest.raises(DataError, match=f"x{ending}: expected a workbook, {message}") as caught:
        open_table(tmp_path / f"x{ending}")
    assert "\n" not in str(caught.value)


def test_without_calamine_the_error_says_what_to_install(tmp_path, monkeypatch):
    book = xlwt.Workbook()
    book.add_sheet("A").write(0, 0, "term")
    book.save(str(tmp_path / "x.xls"))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(
        ConfigError, match=r"needs python-calamine, found none; install it: pip install 'xsap\[xlsx\]', or save"
    ):
        open_table(tmp_path / "x.xls")


def record(kind, data=b""):
    """A record of [MS-XLSB]: its kind and its size in seven bits a byte."""

    def number(value):
        return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])

    return number(kind) + number(len(data)) + data


def wide(text):
    return struct.pack("<I", len(text)) + text.encode("utf-16-le")


def binary_workbook(path, cells):
    """An .xlsb workbook. cells: (row, column, text or number) in order."""
    rows = b""
    for row, column, value in cells:
        rows += record(0, struct.pack("<IIHBBB", row, 0, 300, 0, 0, 0) + struct.pack("<I", 0))
        place = struct.pack("<II", column, 0)
        rows += (
            record(6, place + wide(value)) if isinstance(value, str) else record(5, place + struct.pack("<d", value))
        )
    size = struct.pack("<IIII", 0, max(row for row, _, _ in cells), 0, max(column for _, column, _ in cells))
    sheet = record(129) + record(148, size) + record(145) + rows + record(146) + record(130)
    parts = {
        **{name: text for name, text in BY_HAND.items() if "rels" not in name or name == "_rels/.rels"},
        "xl/workbook.bin": record(131)
        + record(143)
        + record(156, struct.pack("<II", 0, 1) + wide("r1") + wide("S"))
        + record(144)
        + record(132),
        "xl/_rels/workbook.bin.rels": BY_HAND["xl/_rels/workbook.xml.rels"].replace("s.xml", "sheet1.bin"),
        "xl/worksheets/sheet1.bin": sheet,
    }
    del parts["xl/workbook.xml"]
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)
    return sheet


def test_binary_workbook_is_read(tmp_path):
    sheet = binary_workbook(tmp_path / "x.xlsb", [(0, 0, "term"), (1, 0, "cough"), (2, 1, 7.0), (3, 0, 0.5)])
    assert binary_extent(sheet) == (4, 2)
    assert [[cell for cell in row if cell is not None] for row in read_sheet(tmp_path / "x.xlsb")] == [
        ["term"],
        ["cough"],
        [7],
        [0.5],
    ]


def test_binary_workbook_with_a_value_far_away_is_refused_and_not_allocated(tmp_path):
    binary_workbook(tmp_path / "x.xlsb", [(0, 0, "term"), (1_048_575, 16_383, "far")])
    with pytest.raises(
        DataError, match=r"found one of 1,048,576 rows and 16,384 columns\. Delete what is far from the table"
    ):
        open_table(tmp_path / "x.xlsb")
