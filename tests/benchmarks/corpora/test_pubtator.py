"""PubTator files: fragments in the forms that corpora publish, compared with a naive reader of well-formed lines; MedMentions' folders."""

import gzip
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.pubtator import read_medmentions, read_pubtator
from xsap.errors import DataError
from xsap.terms.mentions import read_mentions, write_mentions

FULL = (
    "101|t|Zinc  lozenges for the common cold\n"
    "101|a|Über 20 adults|a pilot: runny nose (RN) was milder.\u2028End.\n"
    "101\t0\t4\tZinc\tT121,T123,T196\tC0000001\n"
    "101\t23\t34\tcommon cold\tT047\tC0000002\n"
    "101\t59\t69\trunny nose\tT184\tC0000003\n"
    "101\t59\t69\trunny nose\tT184\tC0000003\n"
    "101\t71\t73\tRN\tUnknownType\tC0000003\n"
    "101\t59\t69\trunny nose\tT033\tC0000004\n"
    "\n"
    "102|t|A title alone\n"
    "102|a|\n"
    "\n"
    "103|t|\n"
    "103|a|Of mice\n"
    "103\t4\t8\tmice\tT015\tC0000005\n"
)
ST21PV = "104|t|Sore throat\n104|a|and aspirin.\n104\t0\t11\tSore throat\tT038\tUMLS:C0000006\n104\t16\t23\taspirin\tT103\tUMLS:C0000007\n"
CDR = (
    "105|t|Liver and kidney damage by sulfex\n"
    "105|a|None died.\n"
    "105\t0\t23\tLiver and kidney damage\tDisease\tD000001|D000002\tLiver damage|kidney damage\n"
    "105\t0\t23\tLiver and kidney damage\tDisease\tD000001\tLiver damage|kidney damage\n"
    "105\t27\t33\tsulfex\tChemical\t-1\n"
    "105\tCID\tD000009\tD000001\n"
)
NCBI = (
    "\n106|t|Familial wobbles\n106|a|No gene.\n"
    "106\t0\t16\tFamilial wobbles\tSpecificDisease\tD000001+OMIM:123456\n"
    "106\t9\t16\twobbles\tModifier\tMESH:D000001\n"
)
BIORED = "107|t|wobblin\n107|a|x\n107\t0\t7\twobblin\tGeneOrGeneProduct\t12,34\n107\t0\t7\twobblin\tChemicalEntity\n107\tPositive_Correlation\t12\tD01\tNovel\n"


def _write(folder, text, name="corpus_pubtator.txt"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _read(folder, text, *keys):
    return [tuple(row[key] for key in keys) for row in read_pubtator(_write(folder, text)).to_pylist()]


def test_annotations_become_mentions(tmp_path):
    assert _read(tmp_path, FULL, "mention", "concept_ids", "start", "end", "document_id", "groups", "language") == [
        ("Zinc", ["C0000001"], 0, 4, "101", ["CHEM"], "en"),
        ("common cold", ["C0000002"], 22, 33, "101", ["DISO"], "en"),
        ("runny nose", ["C0000003"], 58, 68, "101", ["DISO"], "en"),
        ("runny nose", ["C0000003"], 58, 68, "101", ["DISO"], "en"),
        ("RN", ["C0000003"], 70, 72, "101", [], "en"),
        ("runny nose", ["C0000004"], 58, 68, "101", ["DISO"], "en"),
        ("mice", ["C0000005"], 3, 7, "103", ["LIVB"], "en"),
    ]
    context = "Zinc lozenges for the common cold Über 20 adults|a pilot: runny nose (RN) was milder. End."
    assert _read(tmp_path, FULL, "context")[0] == (context,)


def test_st21pv_loses_prefix_and_ambiguous_groups(tmp_path):
    assert _read(tmp_path, ST21PV, "mention", "concept_ids", "groups") == [
        ("Sore throat", ["C0000006"], []),
        ("aspirin", ["C0000007"], ["CHEM"]),
    ]


def test_composite_mentions_missing_ids_and_relations(tmp_path):
    assert _read(tmp_path, CDR, "mention", "concept_ids", "groups", "start", "end") == [
        ("Liver damage|kidney damage", ["D000001", "D000002"], ["DISO"], 0, 23),
        ("Liver and kidney damage", ["D000001"], ["DISO"], 0, 23),
        ("sulfex", [], ["CHEM"], 27, 33),
    ]
    assert _read(tmp_path, NCBI, "mention", "concept_ids", "groups") == [
        ("Familial wobbles", ["D000001", "OMIM:123456"], ["DISO"]),
        ("wobbles", ["D000001"], ["DISO"]),
    ]
    assert _read(tmp_path, BIORED, "concept_ids", "groups") == [(["12", "34"], []), ([], ["CHEM"])]


def test_mention_that_differs_at_its_offsets_has_none(tmp_path):
    text = (
        FULL.replace("\t71\t73\tRN", "\t72\t74\tRN")
        .replace("\t4\t8\tmice", "\t4\t900\tmice")
        .replace("\t23\t34\tcommon", "\t34\t23\tcommon")
    )
    found = _read(tmp_path, text, "mention", "start", "end")
    assert [found[at] for at in (1, 4, 6)] == [("common cold", None, None), ("RN", None, None), ("mice", None, None)]
    assert found[2] == ("runny nose", 58, 68)


def test_gzip_crlf_and_bom_give_same_mentions(tmp_path):
    plain = read_pubtator(_write(tmp_path, FULL))
    crlf = "\ufeff" + FULL.replace("\n", "\r\n")
    assert read_pubtator(_write(tmp_path, crlf, "a.txt")).equals(plain)
    assert read_pubtator(_write(tmp_path, gzip.compress(crlf.encode()), "a.txt.gz")).equals(plain)


def test_documents_can_be_selected(tmp_path):
    path = _write(tmp_path, FULL + "\n" + ST21PV)
    assert read_pubtator(path, {"103", "104"})["document_id"].to_pylist() == ["103", "104", "104"]
    with pytest.raises(
        DataError, match=r"corpus_pubtator\.txt: expected all documents .*2 are missing, the first of them 7"
    ):
        read_pubtator(path, ["9", "103", "7"])
    with pytest.raises(DataError, match="found 4 documents and no annotation"):
        read_pubtator(path, ["102"])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("101|t|A\n101|a|B\n102\t0\t1\tA\tT047\tC1\n", 3),
        ("101\t0\t1\tA\tT047\tC1\n", 1),
        ("101|a|B\n101|t|A\n", 1),
        ("101|t|A\n102|a|B\n", 2),
        ("101|t|A\n101|a|B\n101|a|C\n", 3),
        ("101|t|A\n101|a|B\n101\t0\t1\tA\tT047\tC1\tx\ty\n", 3),
        ("101|t|A\n101|a|B\n101\t0\t1\tA\n", 3),
        ("101|t|A\n101|a|B\n101\tx3\t1\tA\tT047\tC1\n", 3),
        ("101|t|A\n101|a|B\n101\t0\t1\t \tT047\tC1\n", 3),
        ("101|t|A\n101|a|B\n101\t0\t1234567890123\tA\tT047\tC1\n", 3),
        ("101|t|A\n101|a|B\n101\t٣\t٤\tA\tT047\tC1\n", 3),
        ("101|t|A\n101|a|B\n101\tCID\tD1\tD2\tx\ty\n", 3),
        ("C0000001||fever\n", 1),
    ],
)
def test_malformed_line_is_reported(tmp_path, text, line):
    with pytest.raises(
        DataError,
        match=rf"corpus_pubtator\.txt:{line}: expected .*id<tab>start<tab>end<tab>mention<tab>class<tab>identifier",
    ):
        read_pubtator(_write(tmp_path, text))


def test_unreadable_file_is_reported(tmp_path):
    for text, name, message in [
        ("", "a.txt", "found 0 documents and no annotation"),
        (b"101|t|caf\xe9\n", "a.txt", "expected UTF-8, found byte 0xe9"),
        (gzip.compress(b"101|t|caf\xe9\n"), "a.txt.gz", "expected UTF-8, found byte 0xe9 at column 10"),
        (gzip.compress(FULL.encode())[:-20], "a.txt.gz", "expected a whole compressed file"),
        (b"\x1f\x8bno such thing", "a.txt.gz", r"expected a \.gz file"),
        (gzip.compress(FULL.encode()), "a.txt", r"found a gzip file; rename it to end in \.gz"),
    ]:
        with pytest.raises(DataError, match=message):
            read_pubtator(_write(tmp_path, text, name))
    with pytest.raises(DataError, match="found nothing there"):
        read_pubtator(tmp_path / "gone.txt")


# A second reader


def naive(text):
    """Whole documents by blank lines, fields by one expression; nothing odd is foreseen."""
    found = []
    for block in re.split(r"\n\n+", text):
        document = " ".join(re.findall(r"^\d+\|[ta]\|(.*)$", block, re.M))
        for pmid, start, end, mention, types, ids in re.findall(
            r"^(\d+)\t(\d+)\t(\d+)\t(.*)\t(.*)\t(.*)$", block, re.M
        ):
            assert document[int(start) : int(end)] == mention
            found.append(
                (
                    pmid,
                    " ".join(mention.split()),
                    types,
                    ids,
                    " ".join(document.split()),
                    document[: int(start)].split(),
                )
            )
    return found


words = st.text(alphabet="aé漢 \u00a0|", min_size=1, max_size=25)


@st.composite
def documents(draw):
    blocks = []
    for pmid in range(1, draw(st.integers(1, 4)) + 1):
        title, abstract = draw(words), draw(words)
        text = f"{title} {abstract}"
        lines = [f"{pmid}|t|{title}", f"{pmid}|a|{abstract}"]
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(text) - 1))
            end = draw(st.integers(start + 1, len(text)))
            if text[start:end] == text[start:end].strip() != "":
                lines.append(f"{pmid}\t{start}\t{end}\t{text[start:end]}\tT047,T121\tC{draw(st.integers(1, 3))}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


@given(text=documents())
def test_mentions_match_naive_reader(tmp_path_factory, text):
    expected = naive(text)
    path = _write(tmp_path_factory.mktemp("p"), text)
    if not expected:
        with pytest.raises(DataError, match="no annotation"):
            read_pubtator(path)
        return
    rows = read_pubtator(path).to_pylist()
    assert [
        (row["document_id"], " ".join(row["mention"].split()), "T047,T121", row["concept_ids"][0], row["context"])
        for row in rows
    ] == [one[:5] for one in expected]
    for row, (*_, before) in zip(rows, expected, strict=True):
        assert row["context"][row["start"] : row["end"]] == " ".join(row["mention"].split())
        assert "".join(row["context"][: row["start"]].split()) == "".join(before)
        assert row["groups"] == ["DISO", "CHEM"]


def test_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_pubtator(_write(tmp_path, FULL)), tmp_path / "m.tsv")
    rows = read_mentions(tmp_path / "m.tsv").to_pylist()
    assert [row["context"][row["start"] : row["end"]] for row in rows] == [row["mention"] for row in rows]


# MedMentions's folders

MEDMENTIONS = "".join(
    f"{pmid}|t|A cough\n{pmid}|a|No more.\n{pmid}\t2\t7\tcough\tT184\tC0000001\n\n" for pmid in (11, 12, 13)
)
MEDMENTIONS_ST21PV = MEDMENTIONS.replace("T184\tC", "T033\tUMLS:C")
TEST_SPLIT = "corpus_pubtator_pmids_test.txt"


@pytest.fixture
def corpus(tmp_path):
    """The repository's layout, with the test split 13 and 11."""
    for name, text in (("full", MEDMENTIONS), ("st21pv", MEDMENTIONS_ST21PV)):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data" / "corpus_pubtator.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "full" / "data" / TEST_SPLIT).write_bytes(b"13\r\n11\n\n")
    (tmp_path / "full" / "data" / "corpus_pubtator_pmids_trng.txt").write_text("12\n")
    return tmp_path


@pytest.mark.parametrize("folder", ["full", "full/data", "st21pv", "st21pv/data"])
def test_medmentions_folder_gives_test_split_in_corpus_order(corpus, folder):
    table = read_medmentions(corpus / folder)
    assert table["document_id"].to_pylist() == ["11", "13"]
    assert table["concept_ids"].to_pylist() == [["C0000001"]] * 2
    assert table["groups"].to_pylist() == ([["DISO"]] * 2 if "full" in folder else [[], []])


def test_medmentions_file_gives_all_documents(corpus):
    data = corpus / "full" / "data"
    assert read_medmentions(data / "corpus_pubtator.txt.gz")["document_id"].to_pylist() == ["11", "12", "13"]
    (data / "corpus_pubtator.txt").write_text(MEDMENTIONS.replace("A cough", "A COUGH"))
    assert read_medmentions(data)["context"].to_pylist() == ["A COUGH No more."] * 2


def test_medmentions_split_beside_corpus_comes_first(corpus):
    (corpus / "st21pv" / "data" / TEST_SPLIT).write_text("12\n")
    assert read_medmentions(corpus / "st21pv")["document_id"].to_pylist() == ["12"]


def test_medmentions_missing_files_and_documents_are_reported(corpus, tmp_path_factory):
    (corpus / "full" / "data" / TEST_SPLIT).write_text("11\nPMID 13\n")
    with pytest.raises(DataError, match=rf"{TEST_SPLIT}:2: expected one PMID per line; found 'PMID 13'"):
        read_medmentions(corpus / "full")
    (corpus / "full" / "data" / TEST_SPLIT).write_text("11\n99\n")
    with pytest.raises(
        DataError, match=r"corpus_pubtator\.txt\.gz: expected all documents .*1 are missing, the first of them 99"
    ):
        read_medmentions(corpus / "full")
    (corpus / "full" / "data" / TEST_SPLIT).write_text("\n")
    with pytest.raises(DataError, match=rf"{TEST_SPLIT}: expected one PMID per line, found none"):
        read_medmentions(corpus / "st21pv")
    (corpus / "full" / "data" / TEST_SPLIT).unlink()
    with pytest.raises(DataError, match=rf"expected {TEST_SPLIT} there or in \.\./\.\./full/data"):
        read_medmentions(corpus / "st21pv")
    for wrong in (corpus, corpus / "gone"):
        with pytest.raises(DataError, match="expected MedMentions' full or st21pv folder"):
            read_medmentions(wrong)
