"""BigBIO's KB schema: documents as `datasets` saves them, and PubTator files converted as BigBIO's MedMentions loader does."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpora.pubtator import read_pubtator
from xsap.errors import DataError
from xsap.terms.bigbio import read_bigbio
from xsap.terms.mentions import read_mentions, write_mentions

TEXTS = pa.list_(pa.string())
OFFSETS = pa.list_(pa.list_(pa.int32()))
LINKS = pa.list_(pa.struct({"db_name": pa.string(), "db_id": pa.string()}))
PASSAGES = pa.list_(pa.struct({"id": pa.string(), "type": pa.string(), "text": TEXTS, "offsets": OFFSETS}))
ENTITIES = pa.list_(
    pa.struct({"id": pa.string(), "type": pa.string(), "text": TEXTS, "offsets": OFFSETS, "normalized": LINKS})
)
NOTHING = pa.list_(pa.struct({"id": pa.string()}))
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "document_id": pa.string(),
        "passages": PASSAGES,
        "entities": ENTITIES,
        "events": NOTHING,
        "relations": NOTHING,
    }
)


def document(document_id, passages, *entities):
    """passages: texts. entities: (type, texts, offsets, [(db_name, db_id)])."""
    starts = [sum(len(text) + 1 for text in passages[:at]) for at in range(len(passages))]
    return {
        "id": f"i{document_id}",
        "document_id": document_id,
        "passages": [
            {"id": f"p{at}", "type": "t", "text": [text], "offsets": [[start, start + len(text)]]}
            for at, (text, start) in enumerate(zip(passages, starts, strict=True))
        ],
        "entities": [
            {
                "id": f"e{at}",
                "type": name,
                "text": texts,
                "offsets": offsets,
                "normalized": [{"db_name": db, "db_id": one} for db, one in links],
            }
            for at, (name, texts, offsets, links) in enumerate(entities)
        ],
        "events": [],
        "relations": [],
    }


DOCUMENTS = [
    document(
        "a/1",
        ["Zéro  toux", "Douleur du bras et de la jambe."],
        ("DISO", ["toux"], [[6, 10]], [("UMLS", "C0000001"), ("MESH", "D000001")]),
        ("DISO", ["Douleur", "jambe"], [[11, 18], [36, 41]], [("UMLS", "C0000002"), ("UMLS", "C0000003")]),
        ("ANAT", ["bras"], [[22, 26]], []),
        ("ANAT", ["jambe"], [[36, 41]], [("MESH", "D000002")]),
        ("DISO", ["bras"], [[23, 27]], [("umls", "UMLS:C0000004")]),
        ("r", [], [], []),
    ),
    document("a/2", ["Rien."]),
    document("a/3", ["Fièvre"], ("Disease", ["Fièvre"], [[0, 6]], [("UMLS", "C0000005+C0000006"), ("UMLS", "-1")])),
]
ROWS = [
    ("toux", ["C0000001"], 5, 9, "a/1", ["DISO"]),
    ("Douleur jambe", ["C0000002", "C0000003"], 10, 40, "a/1", ["DISO"]),
    ("bras", [], 21, 25, "a/1", ["ANAT"]),
    ("jambe", [], 35, 40, "a/1", ["ANAT"]),
    ("bras", ["C0000004"], None, None, "a/1", ["DISO"]),
    ("", [], None, None, "a/1", []),
    ("Fièvre", ["C0000005", "C0000006"], 0, 6, "a/3", ["DISO"]),
]


def _json(folder, documents, name="test.jsonl", **options):
    path = folder / name
    path.write_text("".join(json.dumps(one, **options) + "\n" for one in documents), encoding="utf-8")
    return path


def _parquet(folder, documents, schema=SCHEMA):
    pq.write_table(pa.Table.from_pylist(documents, schema), folder / "test.parquet")
    return folder / "test.parquet"


def _rows(table):
    return [
        tuple(row[key] for key in ("mention", "concept_ids", "start", "end", "document_id", "groups"))
        for row in table.to_pylist()
    ]


def test_mentions_have_ids_of_chosen_database(tmp_path):
    table = read_bigbio(_json(tmp_path, DOCUMENTS), db_name="UMLS", language="French")
    assert _rows(table) == ROWS
    assert set(table["language"].to_pylist()) == {"fr"}
    assert table["context"].to_pylist()[0] == "Zéro toux Douleur du bras et de la jambe."
    mesh = read_bigbio(tmp_path / "test.jsonl", db_name="mesh", language="fr")
    assert mesh["concept_ids"].to_pylist() == [["D000001"], [], [], ["D000002"], [], [], []]
    assert mesh["mention"].equals(table["mention"])


def test_parquet_and_json_give_same_mentions(tmp_path):
    table = read_bigbio(_parquet(tmp_path, DOCUMENTS * 200), db_name="UMLS", language="fr")  # more than one batch
    assert table.num_rows == 200 * len(ROWS)
    assert table.equals(
        read_bigbio(_json(tmp_path, DOCUMENTS * 200, ensure_ascii=False), db_name="UMLS", language="fr")
    )


def test_single_strings_and_blank_lines_are_accepted(tmp_path):
    loose = json.loads(json.dumps(DOCUMENTS[2]))
    loose["passages"][0]["text"] = loose["entities"][0]["text"] = "Fièvre"
    path = _json(tmp_path, [loose])
    path.write_text("\ufeff\n" + path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert _rows(read_bigbio(path, db_name="UMLS", language="fr")) == ROWS[-1:]


def test_entity_of_several_types_is_one_mention(tmp_path):
    def entity(name, one="C0000001"):
        return (name, ["Zorbin"], [[0, 6]], [("UMLS", one)])

    entities = [entity(name) for name in ("T116", "T123", "T116", "T028")] + [
        entity("T047", "C0000002"),
        entity("T116"),
    ]
    table = read_bigbio(_json(tmp_path, [document("1", ["Zorbin"], *entities)]), db_name="UMLS", language="en")
    assert list(zip(table["concept_ids"].to_pylist(), table["groups"].to_pylist(), strict=True)) == [
        (["C0000001"], ["CHEM"]),
        (["C0000001"], ["CHEM", "GENE"]),
        (["C0000002"], ["DISO"]),
        (["C0000001"], ["CHEM"]),
    ]


def test_unknown_database_error_lists_known_ones(tmp_path):
    with pytest.raises(
        DataError, match=r"test\.jsonl: expected entities linked to 'SNOMED'; .*: UMLS \(5\), MESH \(2\), umls \(1\)"
    ):
        read_bigbio(_json(tmp_path, DOCUMENTS), db_name="SNOMED", language="fr")
    with pytest.raises(DataError, match="unknown language 'Klingon'"):
        read_bigbio(tmp_path / "test.jsonl", db_name="UMLS", language="Klingon")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("entities"),
        lambda d: d.pop("document_id"),
        lambda d: d.update(passages=None),
        lambda d: d.update(passages={"text": ["a"], "offsets": [[0, 1]]}),
        lambda d: d["passages"][0].update(text=[1]),
        lambda d: d["entities"][0].update(offsets=[[0, 1, 2]]),
        lambda d: d["entities"][0].update(offsets=[0, 6]),
        lambda d: d["entities"][0].update(offsets=[["a", "b"]]),
        lambda d: d["entities"][0].update(offsets=[[0, float("inf")]]),
        lambda d: d["entities"][0].update(text=None),
        lambda d: d["entities"][0].update(normalized=["C0000001"]),
        lambda d: d["entities"][0].pop("type"),
        lambda d: d["entities"].append("x"),
    ],
)
def test_document_of_other_schema_is_reported(tmp_path, change):
    wrong = json.loads(json.dumps(DOCUMENTS[2]))
    change(wrong)
    with pytest.raises(
        DataError, match=r"test\.jsonl:2: expected a document in BigBIO's KB schema .*; found \w+Error: "
    ):
        read_bigbio(_json(tmp_path, [DOCUMENTS[0], wrong]), db_name="UMLS", language="fr")


@pytest.mark.parametrize(
    "line",
    ["{", "[1, 2]", '"text"', "3", json.dumps(DOCUMENTS[2] | {"document_id": "\ud800"}), "[" * 100_000, "nonsense"],
)
def test_malformed_line_is_reported(tmp_path, line):
    path = _json(tmp_path, DOCUMENTS[:1])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.jsonl:2: expected .*BigBIO's KB schema"):
        read_bigbio(path, db_name="UMLS", language="fr")


def test_unreadable_file_is_reported(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    wrong = pa.Table.from_pylist(DOCUMENTS, SCHEMA).drop_columns("entities")
    pq.write_table(wrong, tmp_path / "wrong.parquet")
    flat = pa.table({"document_id": ["1"], "passages": ["text"], "entities": ["x"]})
    pq.write_table(flat, tmp_path / "flat.parquet")
    for name, message in [
        ("text.parquet", r"text\.parquet: expected a Parquet file; found"),
        ("wrong.parquet", "found no column 'entities'"),
        ("flat.parquet", r"flat\.parquet, document 1: expected a document in BigBIO's KB schema"),
        ("gone.parquet", "found nothing there"),
        ("", "found a folder there"),
        ("latin.jsonl", "expected UTF-8"),
        ("gone.jsonl", "found nothing there"),
    ]:
        with pytest.raises(DataError, match=message):
            read_bigbio(tmp_path / name, db_name="UMLS", language="fr")
    with pytest.raises(DataError, match="found no entity"):
        read_bigbio(_json(tmp_path, DOCUMENTS[1:2]), db_name="UMLS", language="fr")


def test_offsets_survive_tsv_round_trip(tmp_path):
    write_mentions(read_bigbio(_json(tmp_path, DOCUMENTS), db_name="UMLS", language="fr"), tmp_path / "m.tsv")
    rows = read_mentions(tmp_path / "m.tsv").to_pylist()
    assert [row["context"][row["start"] : row["end"]] for row in rows if row["start"] is not None and " " not in row["mention"]] == [
        "toux", "bras", "jambe", "Fièvre",
    ]  # fmt: skip


words = st.text(alphabet="abé  \u00a0", min_size=1, max_size=20)


@st.composite
def corpora(draw):
    """The same documents as PubTator, and as BigBIO's medmentions.py makes them of it: an entity for each semantic type."""
    lines, documents = [], []
    prefix = draw(st.sampled_from(["", "UMLS:"]))
    for pmid in map(str, range(1, draw(st.integers(1, 3)) + 1)):
        title, abstract = draw(words), draw(words)
        text, entities = f"{title} {abstract}", []
        lines += [f"{pmid}|t|{title}", f"{pmid}|a|{abstract}"]
        for _ in range(draw(st.integers(0, 6))):
            start = draw(st.integers(0, len(text) - 1))
            end = min(len(text), start + draw(st.integers(1, 3)))
            types = draw(
                st.lists(st.sampled_from(["T047", "T121", "T038", "UnknownType"]), min_size=1, max_size=3, unique=True)
            )
            cui = prefix + draw(st.sampled_from(["C0000001", "C0000002"]))
            if text[start:end].strip():
                lines.append(f"{pmid}\t{start}\t{end}\t{text[start:end]}\t{','.join(types)}\t{cui}")
                entities += [(one, [text[start:end]], [[start, end]], [("UMLS", cui)]) for one in types]
        documents.append(document(pmid, [title, abstract], *entities))
        lines.append("")
    return "\n".join(lines), documents


def merged(rows):
    """Annotations that differ in their types only, as one: what the conversion can't keep apart."""
    found = {}
    for row in rows:
        groups = found.setdefault(tuple(str(row[key]) for key in row if key != "groups"), set())
        groups.update(row["groups"])
    return found


@given(corpus=corpora())
def test_mentions_match_pubtator_reader(tmp_path_factory, corpus):
    text, documents = corpus
    if not any(one["entities"] for one in documents):
        return
    folder = tmp_path_factory.mktemp("b")
    (folder / "corpus.txt").write_text(text, encoding="utf-8")
    ours = read_bigbio(_json(folder, documents), db_name="UMLS", language="en")
    theirs = read_pubtator(folder / "corpus.txt")
    assert merged(ours.to_pylist()) == merged(theirs.to_pylist())
    spans = [line.split("\t")[:4] + line.split("\t")[5:] for line in text.split("\n") if "\t" in line]
    if all(spans.count(span) == 1 for span in spans):
        assert ours.equals(theirs)
