"""Generated workbooks and text tables, compared with pandas, openpyxl, calamine and xlrd as second readers.

Each file follows from its number alone: what is in it, how it is written and with what. It is read with equal cells, or refused in one line that
names the way out, and then the way out is gone and leads to equal cells.
"""

import csv
import datetime
import io
import random
from collections import Counter

import openpyxl
import pandas as pd
import pytest
import python_calamine
import xlrd
import xlsxwriter
import xlwt

from xsap.errors import DataError
from xsap.tabular.cells import to_cells
from xsap.tabular.readers import open_table

FILES, QUICK_FILES = 500, 60
WORDS = {
    "latin": [
        "fièvre",
        "Müdigkeit",
        "cough, dry",
        'the "flu"',
        "a;b",
        "x|y",
        "5 % ½",
        "007",
        "1/2",
        "tos seca",
        "'quoted'",
        "TRUE",
        "1,5",
        " padded ",
    ],
    "cyrillic": ["кашель", "жар", "боль; грудь", 'тест "а"', "007"],
    "world": [
        "發燒",
        "熱",
        "حمى",
        "ไข้",
        "Πυρετός",
        "fièvre",
        "😀 cough",
        "e\u0301tat",
        "a\u00a0b",
        "name_x0041_",
        "line\nbreak",
        "tab\tin",
    ],
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp1251"]
DELIMITERS = [",", ";", "\t", "|"]
HEADERS = [
    ["id", "term", "note"],
    ["Code", "Diagnose, Text", "Wert (a;b)"],
    ["TERM", "naïve", "x\ny"],
    ["id", "term"],
    ["term"],
]


def cell(draw, kind, words):
    if draw.random() < 0.15:
        return None
    if kind == "text":
        return draw.choice(words)
    if kind == "int":
        return draw.choice([0, 7, -3, 10**15 - 1, draw.randrange(10**9)])
    if kind == "float":
        return draw.choice([0.5, 1e-7, -12.75, 1e12 + 0.5, round(draw.random(), 12)])
    if kind == "bool":
        return draw.random() < 0.5
    day = datetime.datetime(1950, 1, 1) + datetime.timedelta(days=draw.randrange(40_000))
    return day.date() if kind == "date" else day + datetime.timedelta(seconds=draw.randrange(1, 86_400))


def content(draw, words, kinds):
    header = draw.choice(HEADERS)
    columns = [draw.choice(kinds) for _ in header]
    rows = [[cell(draw, kind, words) for kind in columns] for _ in range(draw.randrange(1, 12))]
    rows.append([draw.choice(words) if kind == "text" else cell(random.Random(5), kind, words) for kind in columns])
    return header, rows


def read(path, **options):
    found = open_table(path, **options)
    chunks = [zip(*map(to_cells, chunk.columns), strict=True) for chunk in found.chunks(3)]
    return [found.header, *(list(row) for chunk in chunks for row in chunk)]


def refused(path, way_out, **options):
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def as_text(value):
    return "" if value is None else str(value)


def check_text(draw, folder):
    """A text table; returns its rows, and why it was refused at first."""
    encoding, delimiter = draw.choice(ENCODINGS), draw.choice(DELIMITERS)
    words = WORDS[{"cp1252": "latin", "cp1251": "cyrillic"}.get(encoding, "world")]
    header, rows = content(draw, words, ["text", "text", "int", "float", "date"])
    header = [name if encoding != "cp1251" else name.replace("ï", "i") for name in header]
    rows = [header, *([as_text(value) for value in row] for row in rows)]
    if len(header) == 1:
        delimiter = draw.choice([",", "\t"])
    stream, quoting = io.StringIO(), draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    end = "\r\n" if delimiter == "\t" else draw.choice(["\n", "\r\n"])
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    titles = draw.choice([0, 0, 0, 2])
    text = "".join(f"Report {i}, draft{end}" for i in range(titles)) + stream.getvalue()
    ending = draw.choice([".tsv", ".csv", ".txt"]) if delimiter == "\t" else ".csv"
    stated = delimiter != "\t" and not titles and draw.random() < 0.3
    path = folder / f"x{ending}"
    path.write_bytes((f"sep={delimiter}{end}" * stated + text).encode(encoding))
    options, why = {"header_row": titles + 1}, None
    if encoding in ("cp1252", "cp1251"):
        if not text.isascii():
            refused(path, "add --encoding ", **options)
            why = "not UTF-8"
        options["encoding"] = encoding
    second = pd.read_csv(
        path, sep=delimiter, encoding=encoding, header=None, skiprows=titles + stated, dtype=str, keep_default_na=False, skip_blank_lines=len(header) > 1,
    )  # fmt: skip
    expected = [list(row) for row in second.itertuples(index=False)]
    if end == "\r\n" or delimiter != "\t":  # pandas is right, too
        assert expected == rows
    found = read(path, **options)
    assert found == rows
    return found, why


def iso(value):
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat()
    return value.isoformat() if isinstance(value, datetime.date) else value


def whole(value):
    return int(value) if isinstance(value, float) and value.is_integer() else value


def write_xlsx(draw, path, sheets):
    """Sheets of a workbook, the first one hidden if there are two, by one of two programs."""
    if draw.random() < 0.5:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, rows in sheets.items():
            sheet = book.create_sheet(name)
            for row in rows:
                sheet.append(row)
        if len(sheets) > 1:
            book.worksheets[0].sheet_state = draw.choice(["hidden", "veryHidden"])
            book.active = 1
        book.save(path)
        return
    options = {
        "default_date_format": "yyyy-mm-dd",
        "strings_to_formulas": False,
        "constant_memory": draw.random() < 0.5,
    }
    book = xlsxwriter.Workbook(path, options)
    moment = book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
    for number, (name, rows) in enumerate(sheets.items()):
        sheet = book.add_worksheet(name)
        for at, row in enumerate(rows):
            for column, value in enumerate(row):
                style = [moment] if isinstance(value, datetime.datetime) else []
                sheet.write(at, column, value, *style)
        if len(sheets) > 1 and number == 0:
            sheet.hide()
        elif number == len(sheets) - 1:
            sheet.activate()
            sheet.set_first_sheet()
    book.close()


def check_xlsx(draw, folder):
    header, rows = content(
        draw, WORDS["latin"] + WORDS["world"][:9], ["text", "text", "int", "float", "bool", "date", "moment"]
    )
    rows, path, titles = [header, *rows], folder / draw.choice(["x.xlsx", "x.xlsm"]), draw.choice([0, 0, 1])
    sheets = {"Lookup": [["hidden"]]} if draw.random() < 0.4 else {}
    write_xlsx(draw, path, {**sheets, "Terms": [["Report 2024"]] * titles + rows})
    found = read(path, header_row=titles + 1)
    second = [list(row) for row in openpyxl.load_workbook(path, data_only=True)["Terms"].iter_rows(values_only=True)][
        titles:
    ]
    assert found[1:] == [[iso(value) for value in row] for row in second[1:]]
    calamine = python_calamine.load_workbook(path).get_sheet_by_name("Terms").to_python(skip_empty_area=False)[titles:]
    assert [[None if v == "" else whole(iso(v)) for v in row] for row in calamine[1:]] == [
        [whole(v) for v in row] for row in found[1:]
    ]
    assert found == [header, *([iso(value) for value in row] for row in rows[1:])]
    if draw.random() < 0.2:
        book = openpyxl.load_workbook(path)
        book["Terms"].append(["=1+1"])
        book.save(path)
        refused(path, "Open the workbook in Excel or LibreOffice and save it", header_row=titles + 1)
        return found, "formula that was never calculated"
    return found, None


def check_xls(draw, folder):
    header, rows = content(
        draw, WORDS["latin"] + WORDS["world"][:9], ["text", "text", "int", "float", "bool", "date", "moment"]
    )
    book, path = xlwt.Workbook(), folder / "x.xls"
    if draw.random() < 0.4:
        book.add_sheet("Lookup").visibility = draw.choice([1, 2])
    sheet, formats = book.add_sheet("Terms"), {"date": "yyyy-mm-dd", "datetime": "yyyy-mm-dd hh:mm:ss"}
    for at, row in enumerate([header, *rows]):
        for column, value in enumerate(row):
            if value is not None:
                sheet.write(at, column, value, xlwt.easyxf(num_format_str=formats.get(type(value).__name__, "General")))
    book.set_active_sheet(len(book._Workbook__worksheets) - 1)
    book.save(str(path))
    found = read(path)
    second = xlrd.open_workbook(path)
    rows_of_second = [second["Terms"].row(at) for at in range(second["Terms"].nrows)]
    assert [[plain_xls(c) for c in row] for row in rows_of_second[1:]] == [[whole(v) for v in row] for row in found[1:]]
    assert [[whole(v) for v in row] for row in found] == [
        header,
        *([whole(iso(value)) for value in row] for row in rows),
    ]
    return found, None


def plain_xls(value):
    if value.ctype == xlrd.XL_CELL_DATE:
        return iso(xlrd.xldate_as_datetime(value.value, 0))
    if value.ctype == xlrd.XL_CELL_BOOLEAN:
        return bool(value.value)
    return None if value.value == "" else whole(value.value)


def check_ods(draw, folder):
    header, rows = content(draw, ["fièvre", "cough, dry", 'the "flu"', "007", "發燒"], ["text", "int", "float", "bool"])
    path = folder / "x.ods"
    pd.DataFrame(rows, columns=header, dtype=object).to_excel(path, engine="odf", index=False)
    found = read(path)
    second = pd.read_excel(path, engine="odf", header=None, dtype=object, keep_default_na=False)
    expected = [[None if value == "" else whole(value) for value in row] for row in second.itertuples(index=False)]
    assert [[whole(v) for v in row] for row in found[1:]] == expected[1:]
    return found, None


KINDS = {"text": check_text, "xlsx": check_xlsx, "xls": check_xls, "ods": check_ods}


def check_file(number, folder):
    """Returns the kind of file, the cells that were compared, and why it was refused, if it was."""
    draw = random.Random(number)
    kind = ("text", "text", "xlsx", "text", "xlsx", "xls", "text", "xlsx", "text", "ods")[number % 10]
    rows, why = KINDS[kind](draw, folder)
    return kind, sum(map(len, rows)), why


def check_files(numbers, folder):
    kinds, refusals, cells = Counter(), Counter(), 0
    for number in numbers:
        try:
            kind, count, why = check_file(number, folder)
        except Exception as error:
            error.add_note(f"file number {number}")
            raise
        kinds[kind] += 1
        refusals[why] += 1
        cells += count
    del refusals[None]
    return kinds, refusals, cells


def test_generated_files_are_read_as_second_readers_do(tmp_path):
    kinds, _, cells = check_files(range(QUICK_FILES), tmp_path)
    assert set(kinds) == set(KINDS)
    assert cells > 500


@pytest.mark.slow
def test_five_hundred_generated_files_are_read_as_second_readers_do(tmp_path):
    kinds, refusals, cells = check_files(range(FILES), tmp_path)
    print(dict(kinds), dict(refusals), cells)
    assert sum(kinds.values()) == FILES
    assert set(refusals) == {"not UTF-8", "formula that was never calculated"}
    assert cells > 5000
