"""`.concept` folders, compared with PubTator files through BioSyn's conversion; unusual and malformed lines by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.concept_files import read_concept_files
from benchmarks.corpora.pubtator import read_pubtator
from xsap.errors import DataError
from xsap.terms.mentions import read_mentions, write_mentions

PROCESSED = {
    "21.concept": (
        "21||0|16||SpecificDisease||familial wobbles||D000001+123456\n"
        "21||20|43||CompositeMention||liver damage|kidney damage||D000002|D000003\n"
        "21||50|52||Modifier||familial wobbles||D000001\n"
    ),
    "20.concept": "20||5|9||Disease||ache||-1\n20||5|9||Chemical||ache||CUI-less\n20||5|9||Disease||ache||MESH:D000004,MESH:D000005\n",
    "22.concept": "\n",
    "tac.concept": "-1||-1|-1||-1||a bad taste||10000001|10000002\n",
}


def _folder(path, files):
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_processed_folder_is_read_by_file_and_line(tmp_path):
    rows = read_concept_files(_folder(tmp_path, PROCESSED)).to_pylist()
    assert [tuple(row[key] for key in ("mention", "concept_ids", "document_id", "groups")) for row in rows] == [
        ("ache", [], "20", ["DISO"]),
        ("ache", [], "20", ["CHEM"]),
        ("ache", ["D000004", "D000005"], "20", ["DISO"]),
        ("familial wobbles", ["D000001", "123456"], "21", ["DISO"]),
        ("liver damage|kidney damage", ["D000002", "D000003"], "21", ["DISO"]),
        ("familial wobbles", ["D000001"], "21", ["DISO"]),
        ("a bad taste", ["10000001", "10000002"], "tac", []),
    ]
    assert {row[key] for row in rows for key in ("context", "start", "end")} == {None}
    assert {row["language"] for row in rows} == {"en"}


def test_corpus_folder_gives_processed_test_first(tmp_path):
    _folder(tmp_path / "test", {"1.concept": "1||0|1||Disease||raw||D1\n"})
    _folder(tmp_path / "processed_train", {"1.concept": "1||0|1||Disease||train||D1\n"})
    assert read_concept_files(tmp_path)["mention"].to_pylist() == ["raw"]
    _folder(tmp_path / "processed_test", {"1.concept": "1||0|1||Disease||processed||D1\n"})
    _folder(tmp_path, {"test_dictionary.txt": "D1||x\n"})
    assert read_concept_files(tmp_path)["mention"].to_pylist() == ["processed"]


def test_single_file_may_have_any_name(tmp_path):
    path = _folder(tmp_path, {"0.txt": "\ufeff-1||0|0||Disease||foggy||100000001\r\n"}) / "0.txt"
    assert read_concept_files(path).to_pylist()[0] == {
        "mention": "foggy", "language": "en", "concept_ids": ["100000001"], "context": None, "start": None, "end": None, "document_id": "0",
        "groups": ["DISO"],
    }  # fmt: skip


def test_text_file_beside_gives_context_and_offsets(tmp_path):
    text = "Familial wobbles\n\nLiver and kidney damage in  ten.\n"
    lines = (
        "30||0|16||SpecificDisease||Familial wobbles||D1\n"
        "30||17|40||CompositeMention||Liver damage|kidney damage||D2|D3\n"
        "30||27|33||Disease||KIDNEY||D3\n"
        "30||28|34||Disease||kidney||D3\n"
        "30||0|0||0||Familial|wobbles||D1\n"
        "30||45|48||Disease||ten||D3\n"
    )
    rows = read_concept_files(_folder(tmp_path, {"30.concept": lines, "30.txt": text})).to_pylist()
    assert {row["context"] for row in rows} == {"Familial wobbles Liver and kidney damage in ten."}
    assert [(row["start"], row["end"]) for row in rows] == [
        (0, 16),
        (17, 40),
        (27, 33),
        (None, None),
        (None, None),
        (44, 47),
    ]
    write_mentions(read_concept_files(tmp_path), tmp_path / "m.tsv")
    assert read_mentions(tmp_path / "m.tsv")["mention"].to_pylist()[1] == "Liver damage|kidney damage"


@pytest.mark.parametrize(
    "line",
    [
        "21||0|16||Disease||wobbles",
        "21||0|16||Disease||wobbles||D1||x",
        "21||0-16||Disease||wobbles||D1",
        "21||0||16||Disease||wobbles||D1",
        "21||0|16||Disease|| ||D1",
        "D1||wobbles",
        "C0000001\twobbles\tD1",
        "21||0|99999999999||Disease||wobbles||D1",
    ],
)
def test_malformed_line_is_reported(tmp_path, line):
    _folder(tmp_path, {"21.concept": f"21||0|16||Disease||wobbles||D1\n{line}\n"})
    with pytest.raises(
        DataError, match=r"21\.concept:2: expected pmid\|\|start\|end\|\|Class\|\|mention\|\|id; found '"
    ):
        read_concept_files(tmp_path)


def test_unreadable_folder_is_reported(tmp_path):
    with pytest.raises(
        DataError, match=r"expected \.concept files in it, or in processed_test or test below it; found none"
    ):
        read_concept_files(_folder(tmp_path / "a", {"1.txt": "text"}))
    with pytest.raises(DataError, match=r"expected lines pmid.*, found none"):
        read_concept_files(_folder(tmp_path / "b", {"1.concept": "\n"}))
    with pytest.raises(DataError, match=r"1\.concept:1: expected UTF-8"):
        read_concept_files(_folder(tmp_path / "c", {"1.concept": b"1||0|1||Disease||\xe9||D1"}))
    with pytest.raises(DataError, match=r"1\.txt:1: expected UTF-8"):
        read_concept_files(_folder(tmp_path / "d", {"1.concept": "1||0|1||Disease||x||D1", "1.txt": b"\xe9"}))
    with pytest.raises(DataError, match="found nothing there"):
        read_concept_files(tmp_path / "gone")


words = st.text(alphabet="abé .", min_size=1, max_size=20).map(str.strip).filter(bool)


@given(title=words, abstract=words, data=st.data())
def test_mentions_match_pubtator_reader(tmp_path_factory, title, abstract, data):
    """BioSyn's preprocess/ncbi_disease_preprocess.py, in short, on a PubTator file that the other reader reads."""
    text = f"{title} {abstract}"
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(1, 6)), min_size=1, max_size=4))
    marked = [(start, start + n, text[start : start + n]) for start, n in spans]
    marked = [
        (start, end, mention) for start, end, mention in marked if mention == mention.strip() and end <= len(text)
    ]
    ids = data.draw(
        st.lists(st.sampled_from(["D1", "D1|D2", "D1+OMIM:3", "-1"]), min_size=len(marked), max_size=len(marked))
    )
    if not marked:
        return
    folder = tmp_path_factory.mktemp("n")
    lines = [
        f"9\t{start}\t{end}\t{mention}\tModifier\t{one}" for (start, end, mention), one in zip(marked, ids, strict=True)
    ]
    (folder / "corpus.txt").write_text("\n".join([f"9|t|{title}", f"9|a|{abstract}", *lines]) + "\n", encoding="utf-8")
    _folder(
        folder / "test",
        {
            "9.txt": f"{title}\n\n{abstract}\n",
            "9.concept": "".join(
                f"9||{s}|{e}||Modifier||{m}||{one}\n" for (s, e, m), one in zip(marked, ids, strict=True)
            ),
        },
    )
    assert read_concept_files(folder / "test").equals(read_pubtator(folder / "corpus.txt"))
