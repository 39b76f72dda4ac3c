"""COMETA's splits: tables as pandas writes them, quoted cells included."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.cometa import read_cometa
from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA

HEADER = ["", "ID", "Term", "General SNOMED Label", "General SNOMED ID", "Specific SNOMED Label", "Specific SNOMED ID"]
HEADER += ["Example", "Example Link", "Origin_Sheet"]
TEXT = (
    "\t".join(HEADER) + "\n"
    "7\t7\ttummy bug\tStomach thing\t100000001\tStomach thing of today\t1234567890123456\tThat  tummy bug again .\thttps://example.org/a\tx.xlsx\n"
    '9\t9\t"the ""bug"""\tBug\t100000001\tBug\t100000001\t"two\nlines\tand a tab"\thttps://example.org/b\tx.xlsx\n'
    "4\t4\tfoggy \tFog\t\tFog\t100000002\t\t\tx.xlsx\n"
)


def _write(folder, text, name="test.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_meaning_selects_gold_concept(tmp_path):
    table = read_cometa(_write(tmp_path, TEXT))
    assert table.schema == SCHEMA
    keys = ("mention", "language", "concept_ids", "context", "start", "end", "document_id")
    assert [tuple(row[key] for key in keys) for row in table.to_pylist()] == [
        ("tummy bug", "en", ["100000001"], "That tummy bug again .", None, None, "https://example.org/a"),
        ('the "bug"', "en", ["100000001"], "two lines and a tab", None, None, "https://example.org/b"),
        ("foggy", "en", [], None, None, None, None),
    ]
    assert read_cometa(tmp_path / "test.csv", "specific")["concept_ids"].to_pylist() == [
        ["1234567890123456"],
        ["100000001"],
        ["100000002"],
    ]


def test_released_header_crlf_and_bom_give_same_mentions(tmp_path):
    expected = read_cometa(_write(tmp_path, TEXT))
    assert read_cometa(tmp_path).equals(expected)
    released = (
        "\n".join(line.split("\t", 1)[1] if line[:1] in "\t794" else line for line in TEXT.split("\n") if line) + "\n\n"
    )
    assert read_cometa(_write(tmp_path, "\ufeff" + released.replace("\n", "\r\n"), "dev.csv")).equals(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("\t", ","), r"test\.csv:1: expected COMETA's tab-separated columns, Term, .*; found no 'Term'"),
        (TEXT.replace("General SNOMED ID", "General ID"), r":1: .*found no 'General SNOMED ID'"),
        (TEXT.replace("Origin_Sheet", "Term"), r":1: .*found no 'Term'"),
        ("", r":1: .*found no 'Term'"),
        (TEXT.replace("foggy ", "foggy\t"), r"test\.csv:5: expected 10 tab-separated cells, found 11"),
        (TEXT.replace("\t100000002\t", "\tC0000002\t"), None),
        (
            TEXT.replace("\tFog\t\tFog", "\tFog\tfog\tFog"),
            r"test\.csv:5: expected a term and a SNOMED CT identifier; found 'foggy ' and 'fog'",
        ),
        (TEXT.replace("foggy ", " "), r"test\.csv:5: expected a term"),
        (
            TEXT.replace('tab"', "tab"),
            r"test\.csv:5: expected tab-separated cells, their quotes closed; found: unexpected end",
        ),
        (
            TEXT.replace("tummy bug", '"' + "x" * 200000),
            r"test\.csv:\d: expected tab-separated cells, .*; found: field larger",
        ),
        (TEXT.split("\n")[0], r"test\.csv: expected one mention per line after the header, found none"),
        (b"\xff", "expected UTF-8"),
    ],
)
def test_wrong_table_is_reported(tmp_path, text, message):
    path = _write(tmp_path, text)
    if message is None:
        read_cometa(path)
        path, message = (path, "found 'foggy ' and 'C0000002'")
        with pytest.raises(DataError, match=message):
            read_cometa(path, "specific")
        return
    with pytest.raises(DataError, match=message):
        read_cometa(path)


def test_folder_without_test_split_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"test\.csv: expected a file, found nothing there"):
        read_cometa(tmp_path)


cells = st.text(alphabet="ab \"'\t\n,é", max_size=8)


@given(
    table=st.lists(
        st.tuples(st.text(alphabet='a"\t', min_size=1, max_size=5).filter(str.strip), cells, cells),
        min_size=1,
        max_size=5,
    )
)
def test_table_written_like_pandas_is_read_back(tmp_path_factory, table):
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")  # QUOTE_MINIMAL, as pandas.to_csv
    writer.writerow(HEADER)
    for at, (term, example, link) in enumerate(table):
        writer.writerow([at, at, term, "L", 100000001, "L", 100000002, example, link, "s"])
    rows = read_cometa(_write(tmp_path_factory.mktemp("c"), stream.getvalue())).to_pylist()
    assert [(row["mention"], row["context"] or "", row["document_id"] or "") for row in rows] == [
        (term.strip(), " ".join(example.split()), link.strip()) for term, example, link in table
    ]
