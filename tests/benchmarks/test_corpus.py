"""Zips, folders and single files as one thing; quoted TSV; places in texts whose line ends are counted either way."""

import csv
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.corpus import Row, check_rows, documents_of, open_corpus, place, tsv_rows
from xsap.errors import DataError

FILES = {
    "corpus/test/a.tsv": "á\r\n".encode(),
    "corpus/texts/1.txt": b"\xef\xbb\xbfuno",
    "corpus/texts/10.txt": b"diez",
    "corpus/texts/9.txt": b"",
}
JUNK = {"__MACOSX/corpus/test/._a.tsv": b"\x00\xff", "corpus/.DS_Store": b"\xff", "corpus/.git/x.txt": b"\xff"}


def _folder(path):
    for name, content_hash in (FILES | JUNK).items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content_hash)
    return path


def _zip(path):
    with zipfile.ZipFile(path / "corpus.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("corpus/texts/", b"")
        for name, content_hash in (FILES | JUNK).items():
            archive.writestr(name, content_hash)
    return path / "corpus.zip"


@pytest.mark.parametrize("make", [_folder, _zip])
def test_a_folder_and_its_zip_show_the_same(tmp_path, make):
    with open_corpus(make(tmp_path), "x") as files:
        assert list(files.names) == sorted(FILES)
        assert [files.text(name) for name in files.names] == ["á\r\n", "uno", "diez", ""]
        assert files.text_if_there("corpus/texts/2.txt") is None
        assert files.text_if_there("corpus/texts") is None
        assert files.the("a.tsv") == "corpus/test/a.tsv"
        with pytest.raises(DataError, match=r"corpus/texts/2\.txt: expected x; found no such file"):
            files.text("corpus/texts/2.txt")
        with pytest.raises(DataError, match=r"expected x; found no files called b\.tsv"):
            files.the("b.tsv")


def test_a_single_file_is_found_with_its_neighbors(tmp_path, monkeypatch):
    monkeypatch.chdir(_folder(tmp_path) / "corpus" / "test")
    for path in (tmp_path / "corpus" / "test" / "a.tsv", type(tmp_path)("a.tsv")):
        with open_corpus(path, "x") as files:
            assert files.the("of any name.tsv") == "test/a.tsv"
            assert files.text("test/a.tsv") == "á\r\n"
            assert files.text("texts/1.txt") == "uno"
            assert files.where("test/a.tsv") == str(tmp_path / "corpus" / "test" / "a.tsv")


def test_two_files_of_a_name_are_not_chosen_between(tmp_path):
    path = _folder(tmp_path)
    (path / "corpus" / "a.tsv").write_bytes(b"")
    with open_corpus(path, "x") as files, pytest.raises(DataError, match=r"found 2 files called a\.tsv"):
        files.the("a.tsv")


def test_what_is_no_corpus(tmp_path):
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
        pytest.raises(DataError, match=r"\.DS_Store: expected UTF-8, found byte 0xff at offset 0"),
    ):
        files.text("corpus/.DS_Store")


CELLS = st.text(st.sampled_from('ab \t"\n,é'), max_size=6)


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=6))
def test_what_is_written_as_pandas_does_is_read_again(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(rows)
    assert [cells for _, cells in tsv_rows(stream.getvalue(), "x")] == rows


def test_lines_are_numbered_by_their_end_and_empty_ones_passed_over():
    assert tsv_rows('a\tb\r\n\r\n"x\ny"\tz\nc\t\n', "x") == [(1, ["a", "b"]), (4, ["x\ny", "z"]), (5, ["c", ""])]


@pytest.mark.parametrize("text", ['a\tb\n"c\td\n', 'a\n"b"c\td\n'])
def test_a_quote_that_does_not_close_is_named(text):
    with pytest.raises(DataError, match=r"f\.tsv:\d: expected tab-separated cells, their quotes closed"):
        tsv_rows(text, "f.tsv")


def test_offsets_may_count_a_line_end_as_one_character_or_two():
    documents = documents_of("Sin fiebre.\r\nCon tos.\r\n")
    assert [one.context for one in documents] == ["Sin fiebre. Con tos."] * 2
    assert place(documents, [(17, 20)], ["tos"]) == place(documents, [(16, 19)], ["tos"]) == (16, 19)
    assert place(documents, [(15, 18)], ["tos"]) == (None, None)
    assert place([], [(0, 1)], ["S"]) == (None, None)
    assert len(documents_of("uno\ndos")) == 1


def test_rows_that_cannot_be_a_benchmark_are_refused(tmp_path):
    good = Row("tos", "es", ["1"], "Con tos.", 4, 7)
    nil, astray = good._replace(concept_ids=[]), good._replace(start=None, end=None)
    bare = astray._replace(context=None)
    with open_corpus(tmp_path, "x") as files:
        check_rows([good, astray, nil, bare, bare], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="expected x, with codes; found 0 mentions"):
            check_rows([], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="with codes; found 2 mentions and no such concept"):
            check_rows([nil, nil], files, "codes", with_texts=False)
        with pytest.raises(DataError, match=r"stand at their offsets; found 1 of 3\. Are the texts"):
            check_rows([good, astray, astray, bare], files, "codes", with_texts=False)
        check_rows([good, bare, bare], files, "codes", with_texts=False)
        with pytest.raises(DataError, match="found 1 of 3"):
            check_rows([good, bare, bare], files, "codes", with_texts=True)
