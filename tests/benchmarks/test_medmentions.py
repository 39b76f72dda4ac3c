"""MedMentions' folders, full and ST21pv, whose split lies in one of them only; the lines are PubTator's (test_bench_pubtator.py)."""

import gzip

import pytest

from benchmarks.corpora.pubtator import read_medmentions
from xsap.errors import DataError

FULL = "".join(f"{pmid}|t|A cough\n{pmid}|a|No more.\n{pmid}\t2\t7\tcough\tT184\tC0000001\n\n" for pmid in (11, 12, 13))
ST21PV = FULL.replace("T184\tC", "T033\tUMLS:C")
TEST = "corpus_pubtator_pmids_test.txt"


@pytest.fixture
def corpus(tmp_path):
    """The repository's layout, with the test split 13 and 11."""
    for name, text in (("full", FULL), ("st21pv", ST21PV)):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "corpus_pubtator.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "full" / "data" / TEST).write_bytes(b"13\r\n11\n\n")
    (tmp_path / "full" / "data" / "corpus_pubtator_pmids_trng.txt").write_text("12\n")
    return tmp_path


@pytest.mark.parametrize("folder", ["full", "full/data", "st21pv", "st21pv/data"])
def test_a_folder_gives_its_test_split_in_the_corpus_order(corpus, folder):
    table = read_medmentions(corpus / folder)
    assert table["document_id"].to_pylist() == ["11", "13"]
    assert table["concept_ids"].to_pylist() == [["C0000001"]] * 2
    assert table["groups"].to_pylist() == ([["DISO"]] * 2 if "full" in folder else [[], []])


def test_a_file_gives_all_of_it_and_an_unzipped_one_is_taken_first(corpus):
    data = corpus / "full" / "data"
    assert read_medmentions(data / "corpus_pubtator.txt.gz")["document_id"].to_pylist() == ["11", "12", "13"]
    (data / "corpus_pubtator.txt").write_text(FULL.replace("A cough", "A COUGH"))
    assert read_medmentions(data)["context"].to_pylist() == ["A COUGH No more."] * 2


def test_a_split_beside_the_corpus_is_its_own(corpus):
    (corpus / "st21pv" / "data" / TEST).write_text("12\n")
    assert read_medmentions(corpus / "st21pv")["document_id"].to_pylist() == ["12"]


def test_what_is_missing_is_named(corpus, tmp_path_factory):
    (corpus / "full" / "data" / TEST).write_text("11\nPMID 13\n")
    with pytest.raises(DataError, match=rf"{TEST}:2: expected a PMID a line; found 'PMID 13'"):
        read_medmentions(corpus / "full")
    (corpus / "full" / "data" / TEST).write_text("11\n99\n")
    with pytest.raises(
        DataError, match=r"corpus_pubtator\.txt\.gz: expected every document .*1 are not there, the first of them 99"
    ):
        read_medmentions(corpus / "full")
    (corpus / "full" / "data" / TEST).write_text("\n")
    with pytest.raises(DataError, match=rf"{TEST}: expected a PMID a line, found none"):
        read_medmentions(corpus / "st21pv")
    (corpus / "full" / "data" / TEST).unlink()
    with pytest.raises(DataError, match=rf"expected {TEST} there or in \.\./\.\./full/data"):
        read_medmentions(corpus / "st21pv")
    for wrong in (corpus, corpus / "gone"):
        with pytest.raises(DataError, match="expected MedMentions' full or st21pv folder"):
            read_medmentions(wrong)
