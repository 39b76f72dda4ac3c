"""Opening a corpus, quoted TSV, locating mentions in texts, cells of identifiers and classes, and tables of mentions."""

import csv
import io
import zipfile

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.terms.corpus import (
    Document,
    Row,
    check_rows,
    document_variants,
    groups_of,
    is_st21pv,
    locate,
    open_corpus,
    parse_ids,
    to_table,
    tsv_rows,
)
from xsap.terms.mentions import SCHEMA

FILES = {
    "corpus/test/a.tsv": "á\r\n".encode(),
    "corpus/texts/1.txt": b"\xef\xbb\xbfuno",
    "corpus/texts/10.txt": b"diez",
    "corpus/texts/9.txt": b"",
}
JUNK = {"__MACOSX/corpus/test/._a.tsv": b"\x00\xff", "corpus/.DS_Store": b"\xff", "corpus/.git/x.txt": b"\xff"}


def _folder(path):
    for name, content in (FILES | JUNK).items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def _zip(path):
    with zipfile.ZipFile(path / "corpus.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("corpus/texts/", b"")
        for name, content in (FILES | JUNK).items():
            archive.writestr(name, content)
    return path / "corpus.zip"


@pytest.mark.parametrize("make", [_folder, _zip])
def test_folder_and_zip_have_same_files(tmp_path, make):
    with open_corpus(make(tmp_path), "x") as files:
        assert list(files.names) == sorted(FILES)
        assert [files.text(name) for name in files.names] == ["á\r\n", "uno", "diez", ""]
        assert files.optional_text("corpus/texts/2.txt") is None
        assert files.optional_text("corpus/texts") is None
        assert files.find("a.tsv") == "corpus/test/a.tsv"
        with pytest.raises(DataError, match=r"corpus/texts/2\.txt: expected x; found no such file"):
            files.text("corpus/texts/2.txt")
        with pytest.raises(DataError, match=r"expected x; found no files called b\.tsv"):
            files.find("b.tsv")


def test_single_file_can_read_files_nearby(tmp_path, monkeypatch):
    monkeypatch.chdir(_folder(tmp_path) / "corpus" / "test")
    for path in (tmp_path / "corpus" / "test" / "a.tsv", type(tmp_path)("a.tsv")):
        with open_corpus(path, "x") as files:
            assert files.find("of any name.tsv") == "test/a.tsv"
            assert files.text("test/a.tsv") == "á\r\n"
            assert files.text("texts/1.txt") == "uno"
            assert files.path_of("test/a.tsv") == str(tmp_path / "corpus" / "test" / "a.tsv")


def test_find_rejects_two_files_of_one_name(tmp_path):
    path = _folder(tmp_path)
    (path / "corpus" / "a.tsv").write_bytes(b"")
    with open_corpus(path, "x") as files, pytest.raises(DataError, match=r"found 2 files called a\.tsv"):
        files.find("a.tsv")


def test_missing_damaged_or_non_utf8_files_are_reported(tmp_path):
    with pytest.raises(DataError, match="expected texts; found nothing there"), open_corpus(tmp_path / "gone", "texts"):
        pass
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(DataError, match="expected a zip file of texts"), open_corpus(tmp_path / "x.zip", "texts"):
        pass
    whole = _zip(tmp_path).read_bytes()
    at = whole.index(b"a.tsv") + len("a.tsv")
    (tmp_path / "damaged.zip").write_bytes(whole[:at] + b"\xff\xff" + whole[at + 2 :])
    with (
        pytest.raises(DataError, match="expected a zip file of texts"),
        open_corpus(tmp_path / "damaged.zip", "texts") as files,
    ):
        files.text("corpus/test/a.tsv")
    with (
        open_corpus(_folder(tmp_path), "x") as files,
        pytest.raises(DataError, match=r"\.DS_Store: expected UTF-8, found byte 0xff; convert"),
    ):
        files.text("corpus/.DS_Store")


CELLS = st.text(st.sampled_from('ab \t"\n,é'), max_size=6)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=6))
def test_tsv_rows_read_back_what_csv_writes(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)
    assert [cells for _, cells in tsv_rows(stream.getvalue(), "x")] == rows


def test_tsv_rows_number_lines_and_skip_empty_ones():
    assert tsv_rows('a\tb\r\n\r\n"x\ny"\tz\nc\t\n', "x") == [(1, ["a", "b"]), (4, ["x\ny", "z"]), (5, ["c", ""])]


@pytest.mark.parametrize("text", ['a\tb\n"c\td\n', 'a\n"b"c\td\n'])
def test_unclosed_quote_is_reported(text):
    with pytest.raises(DataError, match=r"f\.tsv:\d: expected tab-separated cells, their quotes closed"):
        tsv_rows(text, "f.tsv")


def test_offsets_may_count_crlf_as_one_or_two_characters():
    documents = document_variants("Sin fiebre.\r\nCon tos.\r\n")
    assert [one.context for one in documents] == ["Sin fiebre. Con tos."] * 2
    assert locate(documents, [(17, 20)], ["tos"]) == locate(documents, [(16, 19)], ["tos"]) == (16, 19)
    assert locate(documents, [(15, 18)], ["tos"]) == (None, None)
    assert locate([], [(0, 1)], ["S"]) == (None, None)
    assert len(document_variants("uno\ndos")) == 1


def test_check_rows_rejects_unusable_rows(tmp_path):
    good = Row("tos", "es", ["1"], "Con tos.", 4, 7)
    nil, astray = good._replace(concept_ids=[]), good._replace(start=None, end=None)
    bare = astray._replace(context=None)
    with open_corpus(tmp_path, "x") as files:
        check_rows([good, astray, nil, bare, bare], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="expected x, with codes; found 0 mentions"):
            check_rows([], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="with codes; found 2 mentions and no such concept"):
            check_rows([nil, nil], files, "codes", with_texts=False)
        with pytest.raises(DataError, match=r"whose offsets match the texts; found 1 of 3\. Are the texts"):
            check_rows([good, astray, astray, bare], files, "codes", with_texts=False)
        check_rows([good, bare, bare], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="found 1 of 3"):
            check_rows([good, bare, bare], files, "codes", with_texts=True)


# Identifiers, classes and tables


@pytest.mark.parametrize(
    ("cell", "ids"),
    [
        ("D003924", ["D003924"]),
        (" C0011849 ", ["C0011849"]),
        ("UMLS:C0011849", ["C0011849"]),
        ("MESH:D003924", ["D003924"]),
        ("mesh:D003924", ["D003924"]),
        ("OMIM:222100", ["OMIM:222100"]),
        ("D003924|D006973", ["D003924", "D006973"]),
        ("D003924+D006973", ["D003924", "D006973"]),
        ("MESH:D000001+D000002", ["D000001", "D000002"]),
        ("MESH:D000001,MESH:D000002", ["D000001", "D000002"]),
        ("D000001|OMIM:222100", ["D000001", "OMIM:222100"]),
        ("D000001|D000002+D000001", ["D000001", "D000002"]),
        ("1234;5678", ["1234", "5678"]),
        ("A39.2+", ["A39.2+"]),
        ("D000001|", ["D000001"]),
        ("D000001|-1", ["D000001"]),
        ("HP:0001250", ["HP:0001250"]),
        *(
            (none, [])
            for none in (
                "",
                " ",
                "-",
                "-1",
                "cui-less",
                "CUI-less",
                "CUI_less",
                "CONCEPT_LESS",
                "NULL",
                "None",
                "nan",
                "MESH:",
                "|",
            )
        ),
    ],
)
def test_parse_ids(cell, ids):
    assert parse_ids(cell) == ids


@pytest.mark.parametrize(
    ("classes", "ancestors", "groups"),
    [
        (["T116", "T123"], False, ["CHEM"]),
        (["T047", "T033", "T121"], False, ["DISO", "CHEM"]),
        (["T038"], False, ["PHEN"]),
        (["T038"], True, []),
        (["T017", "T033", "T082", "T103"], True, ["CHEM"]),
        (["UnknownType"], False, []),
        (["DISO"], False, ["DISO"]),
        (["SpecificDisease"], False, ["DISO"]),
        ([" Chemical"], False, ["CHEM"]),
        (["Gene"], False, []),
        (["-1"], False, []),
        ([], False, []),
    ],
)
def test_groups_of_classes(classes, ancestors, groups):
    assert groups_of(classes, ancestors=ancestors) == groups


def test_st21pv_is_recognized_by_its_prefix():
    assert [is_st21pv(cell) for cell in ("UMLS:C0000001", "C0000001", "MESH:D1", "")] == [
        True,
        False,
        False,
        False,
    ]


def test_to_table_adds_groups_only_on_request():
    rows = [Row("a", "en", ["1"], "a b", 0, 1, "d", ["DISO"]), Row("b", "fr", [])]
    table = to_table(rows, with_groups=True)
    assert table.schema.equals(SCHEMA.append(pa.field("groups", pa.list_(pa.string()))))
    assert table.to_pylist()[1] == {
        "mention": "b", "language": "fr", "concept_ids": [], "context": None, "start": None, "end": None, "document_id": None, "groups": [],
    }  # fmt: skip
    assert to_table(rows, with_groups=False).schema == SCHEMA


# Locations in a document


@given(st.text(alphabet="ab \t\u00a0é\n", max_size=30), st.integers(-2, 32), st.integers(-2, 32))
def test_locate_finds_matching_span_in_context(text, start, end):
    piece = text[start:end] if 0 <= start < end <= len(text) else ""
    document = Document.from_text(text)
    first, last = document.locate([(start, end)], [piece])
    assert document.context == " ".join(text.split())
    if piece.strip():
        assert document.context[first:last] == " ".join(piece.split())
    else:
        assert (first, last) == (None, None)


@given(
    st.text(alphabet="abc ", min_size=5, max_size=30),
    st.text(alphabet="abc", min_size=1, max_size=5),
    st.integers(0, 25),
)
def test_locate_returns_none_for_other_text(text, piece, start):
    end = start + len(piece)
    assume(text[start:end] != piece)
    assert Document.from_text(text).locate([(start, end)], [piece]) == (None, None)


def test_locate_ignores_case_and_requires_every_piece():
    document = Document.from_text("Renal  and cardiac\nfailure")
    assert document.locate([(0, 5), (19, 26)], ["renal", "FAILURE"]) == (0, 25)
    assert document.locate([(19, 26), (0, 5)], ["failure", "Renal"]) == (0, 25)
    assert document.locate([(11, 18), (19, 26)], ["cardiac", "kidneys"]) == (None, None)
    assert document.locate([(11, 18)], ["cardiac", "failure"]) == document.locate([], []) == (None, None)
    assert document.locate([(6, 10)], ["and"]) == (6, 9)
    assert Document.from_text("one two three").locate([(3, 8)], ["two"]) == (4, 7)
    assert document.locate([(11, 99)], ["cardiac\nfailure"]) == document.locate([(-7, 26)], ["failure"]) == (None, None)
