import csv
import datetime
import gzip
import io
import random
import re
import sys
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import ConfigError, DataError
from xsap.tabular.readers import delimiter_of, ending, read_csv, read_jsonl, read_tsv, read_xlsx

READ = {"csv": read_csv, "tsv": read_tsv, "jsonl": read_jsonl}


def read(folder, name, data, *more):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    kind = ending(path)[0].removeprefix(".")
    return list(READ[kind](path)) if kind in READ else list(read_xlsx(path, *(more or [None])))


def test_how_a_name_ends():
    assert ending("dir.csv/Terms.CSV.gz") == (".csv", True)
    assert ending("x.tsv") == (".tsv", False)
    assert ending("x.gz") == ("", True)
    assert ending("x") == ("", False)


# Text


def test_a_csv_with_a_mark_quotes_commas_and_line_ends(tmp_path):
    rows = read(tmp_path, "x.csv", '\ufeffterm,note\r\n"a, ""b""","two\r\nlines"\r\nfiebre,\r\n')
    assert rows == [["term", "note"], ['a, "b"', "two\r\nlines"], ["fiebre", ""]]


def test_a_csv_with_semicolons_as_excel_writes_it_where_the_comma_is_decimal(tmp_path):
    assert read(tmp_path, "x.csv", 'id;term\n1;"Fieber; hoch, 39,5"\n') == [["id", "term"], ["1", "Fieber; hoch, 39,5"]]
    assert delimiter_of(tmp_path / "x.csv") == ";"
    assert read(tmp_path, "y.csv", "id,a;b\n1,x;y\n") == [["id", "a;b"], ["1", "x;y"]]
    assert delimiter_of(tmp_path / "y.csv") == ","


def test_a_tsv_has_no_quoting(tmp_path):
    assert read(tmp_path, "x.tsv", 'term\tid\r\n"5 inch\t7') == [["term", "id"], ['"5 inch', "7"]]


def test_blank_lines(tmp_path):
    assert read(tmp_path, "x.csv", "term,id\na,1\n\n\nb,2\n") == [["term", "id"], ["a", "1"], ["b", "2"]]
    assert read(tmp_path, "x.csv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.tsv", "term\tid\na\t1\n\n\t\n") == [["term", "id"], ["a", "1"], ["", ""]]
    assert read(tmp_path, "x.tsv", "term\na\n\nb\n") == [["term"], ["a"], [""], ["b"]]
    assert read(tmp_path, "x.jsonl", '{"a": 1}\n\n \n{}\n') == [{"a": 1}, {}]


def test_json_as_programs_write_it(tmp_path):
    assert read(tmp_path, "x.jsonl", '{"a": NaN, "b": -Infinity, "c": ["\u00e9\u2028"]}') == [
        {"a": None, "b": "-Infinity", "c": ["é\u2028"]}
    ]


def test_gzip_alike(tmp_path):
    assert read(tmp_path, "x.csv.gz", gzip.compress("term\nfièvre\n".encode())) == [["term"], ["fièvre"]]
    assert read(tmp_path, "x.TSV.GZ", gzip.compress(b"term\n") + gzip.compress(b"a\n")) == [
        ["term"],
        ["a"],
    ]  # two members
    assert read(tmp_path, "x.jsonl.gz", gzip.compress(b'{"a": 1}')) == [{"a": 1}]


def test_a_cell_larger_than_csv_s_own_limit_and_the_limit_stays(tmp_path):
    before = csv.field_size_limit()
    assert len(read(tmp_path, "x.csv", f"term\n{'x' * 200_000}\n")[1][0]) == 200_000
    assert csv.field_size_limit() == before


def test_an_open_quote_takes_in_no_more_than_the_largest_cell(tmp_path, monkeypatch):
    monkeypatch.setattr("xsap.tabular.readers._LONGEST_CELL", 1000)
    with pytest.raises(
        DataError, match=r"x\.csv:3: .*: a cell of more than 1,000 characters\. Is a quote left open\?$"
    ):
        read(tmp_path, "x.csv", 'term\na\n"open\n' + "b\n" * 1000)
    monkeypatch.setattr("xsap.tabular.readers._LONGEST_LINE", 1000)
    with pytest.raises(DataError, match=r"x\.tsv:2: expected lines, found one of more than 1,000 bytes"):
        read(tmp_path, "x.tsv", "term\n" + "b" * 1000)


GZ = gzip.compress(b"term\n" + random.Random(1).randbytes(999).hex().encode())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.csv", "a,b\n1,2\n1,2,3\n", r"x\.csv:3: expected 2 field\(s\) as in the header, found 3$"),
        ("x.csv", 'a,b\n"x\ny",2\n1\n', r"x\.csv:4: expected 2 field\(s\)"),
        ("x.csv", 'a,b\n1,2,3\n1,"2\n', r"x\.csv:2: expected 2 field\(s\)"),  # the first mistake, though the second ends the parsing
        ("x.csv", 'a,b\n\n1,"2\nc\n', r"x\.csv:3: not CSV as RFC 4180 has it, in the row that begins here: unexpected end of data"),
        ("x.csv", 'a,b\n1,"2"3\n', r"x\.csv:2: not CSV"),
        ("x.csv", "a,b\r1,2\r", r"x\.csv:1: not CSV .*: a carriage return outside quotes\. Does the file end its lines as old Macs did"),
        ("x.tsv", "a\tb\n1\n", r"x\.tsv:2: expected 2 field\(s\) as in the header, found 1$"),
        ("x.jsonl", '{"a": 1}\n[1]\n', r"x\.jsonl:2: expected a JSON object, found \[1\]$"),
        ("x.jsonl", '{"a": 1\n', r"x\.jsonl:1: expected a JSON object, found what is no JSON"),
        ("x.jsonl", '{"a": {"b": 1, "b": 2}}\n', r"x\.jsonl:1: .* an object has a key twice$"),
        ("x.jsonl", '{"a": ' + "[" * 100_000, r"x\.jsonl:1: expected a JSON object, found one that is nested too deeply"),
        ("x.jsonl", '{"a": ' + "1" * 5000 + "}", r"x\.jsonl:1: expected a JSON object, found what is no JSON"),
        ("x.csv", b"a\n\nb\xff\n", r"x\.csv:3: expected UTF-8, found byte 0xff at column 2; convert the file to UTF-8$"),
        ("x.csv", "a,b\n".encode("utf-16"), r"x\.csv: expected text in UTF-8, found UTF-16; convert the file to UTF-8$"),
        ("x.tsv", "a\n".encode("utf-16-be"), r"x\.tsv: expected text in UTF-8, found a NUL byte in its first line\. Is it UTF-16\?"),
        ("x.csv", GZ, r"x\.csv: expected text in UTF-8, found a gzip file; let its name end in \.gz$"),
        ("x.csv", b"PK\x03\x04", r"a workbook; if it is a workbook, let its name end in \.xlsx$|let its name end in \.xlsx$"),
        ("x.csv", b"PAR1\x15", r"found a Parquet file"),
        ("x.csv.gz", GZ[:-20], r"x\.csv\.gz: expected a whole gzip file, found its end too early"),
        ("x.csv.gz", GZ[:400] + b"\0\0\0" + GZ[403:], r"x\.csv\.gz: expected a gzip file: .*\. Is it damaged, or not compressed at all\?$"),
        ("x.csv.gz", b"term\n", r"x\.csv\.gz: expected a gzip file: Not a gzipped file"),
        ("x.xlsx", b"term\n", r"x\.xlsx: expected an \.xlsx workbook, found no workbook\. Is it damaged, protected by a password, or"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_says_where(tmp_path, name, data, message):
    with pytest.raises(DataError, match=message) as told:
        read(tmp_path, name, data)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("reader", [read_csv, read_tsv, read_jsonl, lambda path: read_xlsx(path, None)])
def test_a_file_that_isn_t_there(tmp_path, reader):
    with pytest.raises(DataError, match="none: expected a file, found nothing there"):
        list(reader(tmp_path / "none"))
    with pytest.raises(DataError, match="expected a file, found a folder there"):
        list(reader(tmp_path))


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
    width = next((len(row) for row in rows if row), 0)
    rows = [row or [""] for row in rows[next((i for i, row in enumerate(rows) if row), 0) :] if row or width == 1]
    return rows if {len(row) for row in rows} <= {width} else None


@settings(max_examples=400)
@given(text=st.text('ab",\r\n', max_size=14))
def test_csv_as_a_naive_reader_has_it(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    try:
        rows = read(folder, "naive.csv", text)
    except DataError:
        rows = None
    assert rows == naive_csv(text)


cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(cells, cells), max_size=4), packed=st.booleans(), delimiter=st.sampled_from(",;"))
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows, packed, delimiter):
    stream = io.StringIO()
    rows = [("term", "note"), *rows]
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    data = stream.getvalue().encode()
    name = "again.csv.gz" if packed else "again.csv"
    found = read(tmp_path_factory.getbasetemp(), name, gzip.compress(data) if packed else data)
    assert found == [list(row) for row in rows]


def test_rows_come_one_after_another_and_not_all_at_once(tmp_path):
    """A mistake far down is met only there."""
    lines = 50_000
    for name, line in (("x.csv", "1,2"), ("x.tsv", "1\t2"), ("x.jsonl", '{"a": 1}')):
        (tmp_path / name).write_text(f"{line}\n" * lines + "wrong\n")
        rows = READ[name[2:]](tmp_path / name)
        assert len([next(rows) for _ in range(lines - 1100)]) == lines - 1100
        with pytest.raises(DataError, match=rf"{name}:{lines + 1}: "):
            list(rows)


# Workbooks


def workbook(path, rows, *, sheets=("Sheet1",)):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = sheets[0]
    for title in sheets[1:]:
        book.create_sheet(title).append([title])
    for row in rows:
        book.active.append(row)
    book.save(path)


def test_cells_of_a_workbook_as_json_has_them(tmp_path):
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
    workbook(tmp_path / "x.xlsx", [header, ["fièvre\nhaute", *row[1:]]])
    assert list(read_xlsx(tmp_path / "x.xlsx", None)) == [
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
            "1 day, 6:00:00",
        ],
    ]


def test_a_time_that_a_date_s_format_hides_is_not_lost(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    book.active["A1"] = datetime.datetime(2024, 2, 29, 13, 5)
    book.active["A1"].number_format = "yyyy-mm-dd"
    book.save(tmp_path / "x.xlsx")
    assert list(read_xlsx(tmp_path / "x.xlsx", None)) == [["2024-02-29T13:05:00"]]


def test_rows_of_a_workbook_without_anything_on_them(tmp_path):
    workbook(tmp_path / "x.xlsx", [[], [None, None], ["term", "n"], ["a"], [], [None], ["b", 2], [], [None]])
    assert list(read_xlsx(tmp_path / "x.xlsx", None)) == [["term", "n"], ["a"], [], [], ["b", 2]]


def test_a_sheet_by_its_name(tmp_path):
    workbook(tmp_path / "x.xlsx", [["first"]], sheets=("One", "Two"))
    assert list(read_xlsx(tmp_path / "x.xlsx", None)) == list(read_xlsx(tmp_path / "x.xlsx", "One")) == [["first"]]
    assert list(read_xlsx(tmp_path / "x.xlsx", "Two")) == [["Two"]]
    with pytest.raises(DataError, match=r"x\.xlsx: expected a sheet 'two', found One, Two$"):
        list(read_xlsx(tmp_path / "x.xlsx", "two"))


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
        for name, content_hash in {**BY_HAND, "xl/worksheets/s.xml": sheet}.items():
            book.writestr(name, content_hash)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none may reach the user: openpyxl's is that there are no styles
        return list(read_xlsx(path, None))


def test_formulas_give_their_values_and_a_wrong_dimension_hides_nothing(tmp_path):
    rows = (
        '<row r="2"><c r="B2" t="inlineStr"><is><t>term</t></is></c><c r="C2" t="str"><f>"a"&amp;"b"</f><v>ab</v></c></row>'
        '<row r="5"><c r="A5"><f>1+1</f><v>2</v></c><c r="B5" t="b"><v>1</v></c><c r="C5" t="e"><v>#N/A</v></c><c r="D5"><f>B1</f></c>'
        '<c r="F5"><v>1E3</v></c></row>'
    )
    assert by_hand(tmp_path / "x.xlsx", rows) == [[None, "term", "ab"], [], [], [2, True, "#N/A", None, None, 1000]]


def test_a_row_past_the_last_one_is_damage(tmp_path):
    rows = '<row r="1"><c r="A1"><v>1</v></c></row><row r="99999999999"><c r="A99999999999"><v>1</v></c></row>'
    with pytest.raises(DataError, match=r"expected at most 1,048,576 rows in a sheet, found more"):
        by_hand(tmp_path / "x.xlsx", rows)


def test_damaged_workbooks_are_told_of_in_one_line(tmp_path):
    path = tmp_path / "x.xlsx"
    workbook(path, [["term", "n"], *([f"t{i}", i] for i in range(50))])
    whole, draw = path.read_bytes(), random.Random(3)
    told = 0
    for trial in range(120):
        data = bytearray(whole)
        if trial % 2:
            data = data[: draw.randrange(len(data))]
        for _ in range(4):
            if data:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        try:
            list(read_xlsx(path, None))
        except DataError as error:
            told += "\n" not in str(error)
    assert told > 80


def test_without_openpyxl(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ConfigError, match=r"x\.xlsx: reading \.xlsx needs openpyxl; pip install 'xsap\[xlsx\]'$"):
        list(read_xlsx(tmp_path / "x.xlsx", None))
