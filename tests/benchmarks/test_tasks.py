"""Tasks: which mentions stay, row counts, hashes, and errors in one line."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy.dictionary import NO_GOLD, NOT_IN_TERMINOLOGY
from benchmarks.accuracy.published import read_published
from benchmarks.accuracy.tasks import (
    CORPORA,
    CUTS,
    brings_dictionary,
    corpus_of,
    data_keys,
    hash_of,
    keep_with_gold,
    of_group,
    open_task,
    with_icd_dot,
)
from xsap.errors import ConfigError, DataError
from xsap.files import RowCounts
from xsap.terms.mentions import build_mentions, write_mentions
from xsap.terms.terminology import CONCEPTS_SCHEMA, NAMES_SCHEMA, Terminology

V0 = {
    "de_1k_test_query.txt": "C0000001||Wackelfieber\nC0000001|C0000002||Wackeln\nC0000009||Leberrauschen\n",
    "es_1k_test_query.txt": "C0000002||tembleque\n",
    "all_1k_test_query.txt": "C0000002||nobody's language\n",
}
V1 = {
    "de_1k_test_query_with_context.txt": "C0000001||Wackelfieber||Das <tgt>Wackelfieber</tgt> ist selten.\n",
    "zh_1k_test_query_with_context.txt": "C0000003||抖||他<tgt>抖</tgt>了。\n",
}
DICTIONARY = "C0000001||wobble fever\nC0000001||wobbles\nC0000002|C0000003||shakes\n"


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def xlbel(tmp_path):
    """A folder with both versions, and the other languages' file of v0.0."""
    return write(
        tmp_path / "xlbel",
        {f"xlbel_v0.0/{name}": text for name, text in V0.items()} | {f"xlbel_v1.0/{n}": t for n, t in V1.items()},
    )


@pytest.fixture
def dictionary(tmp_path):
    return str(write(tmp_path, {"dict.txt": DICTIONARY}) / "dict.txt")


def test_corpus_linked_into_dictionary(tmp_path, xlbel, dictionary):
    task = open_task("xlbel-v0", {"xlbel": xlbel}, tmp_path, dictionary=dictionary)
    rows = [tuple(row[name] for name in ("mention", "language", "concept_ids")) for row in task.mentions.to_pylist()]
    assert rows == [
        ("Wackelfieber", "de", ["C0000001"]),
        ("Wackeln", "de", ["C0000001", "C0000002"]),
        ("Leberrauschen", "de", ["C0000009"]),  # its gold is not in the dictionary: it stays, and is a miss
        ("tembleque", "es", ["C0000002"]),
    ]
    assert task.row_counts == {"de": RowCounts(3, 3, {}), "es": RowCounts(1, 1, {})}
    assert task.space.concepts == ["C0000001", "C0000002", "C0000003"]
    metadata = task.metadata()
    assert (metadata["mentions"]["n"], metadata["dictionary"]["rows"], metadata["dictionary"]["concepts"]) == (4, 3, 3)
    assert metadata["row_counts"] == {
        "de": {"rows_in": 3, "kept": 3, "dropped": {}},
        "es": {"rows_in": 1, "kept": 1, "dropped": {}},
    }
    assert task.training is None
    other = open_task("xlbel-v1", {"xlbel": xlbel, "training": tmp_path}, tmp_path, dictionary=dictionary)
    assert other.mentions["mention"].to_pylist() == ["Wackelfieber", "抖"]
    assert other.mentions["context"].to_pylist() == ["Das Wackelfieber ist selten.", "他抖了。"]
    assert other.training == tmp_path


def test_mentions_without_gold_are_dropped_and_counted(tmp_path, dictionary):
    entities = [
        ("wobbles", "C0000001"),
        ("nameless", None),
        ("shakes", "C0000002"),
    ]
    passages = [{"id": "p", "type": "text", "text": [" ".join(m for m, _ in entities)], "offsets": [[0, 23]]}]
    rows, at = [], 0
    for number, (mention, concept) in enumerate(entities):
        normalized = [{"db_name": "UMLS", "db_id": concept}] if concept else []
        rows.append(
            {
                "id": f"e{number}",
                "type": "x",
                "text": [mention],
                "offsets": [[at, at + len(mention)]],
                "normalized": normalized,
            }
        )
        at += len(mention) + 1
    document = {
        "id": "1",
        "document_id": "d",
        "passages": passages,
        "entities": rows,
        "events": [],
        "coreferences": [],
        "relations": [],
    }
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(document) + "\n")
    task = open_task("bigbio:UMLS:es", {"bigbio": file}, tmp_path, dictionary=dictionary)
    assert task.mentions["mention"].to_pylist() == ["wobbles", "shakes"]
    assert task.row_counts == {"es": RowCounts(3, 2, {NO_GOLD: 1})}
    assert "BigBIO" in task.about
    none = build_mentions(["a", "b"], ["de", "de"], [[], []])
    with pytest.raises(DataError, match="expected mentions with gold concepts, found none among 2"):
        keep_with_gold(none)


def _terminology(folder):
    """Two HPO-like concepts with cross-references, English and German names."""
    names = [("HP:1", "en", "wobble fever"), ("HP:1", "de", "Wackelfieber"), ("HP:2", "en", "shakes")]
    rows = [
        {"concept_id": c, "language": code, "name": name, "kind": "preferred", "source": "HPO"}
        for c, code, name in names
    ]
    concepts = [
        {"concept_id": "HP:1", "preferred_name": "", "semantic_types": [], "cross_references": ["UMLS:C0000001"]},
        {
            "concept_id": "HP:2",
            "preferred_name": "",
            "semantic_types": [],
            "cross_references": ["UMLS:C0000001", "UMLS:C0000002"],
        },
    ]
    built, _ = Terminology.build(
        pa.Table.from_pylist(rows, NAMES_SCHEMA),
        pa.Table.from_pylist(concepts, CONCEPTS_SCHEMA).drop_columns(["vocabulary", "code"]),
    )
    built.save(folder / "terminology")


def test_hpo_and_corpus_in_hpo(tmp_path, xlbel):
    split = tmp_path / "split"
    _terminology(split)
    write_mentions(
        build_mentions(["Wackelei", "?", "temblores"], ["de", "de", "es"], [["HP:1"], [], ["HP:2"]]),
        split / "mentions.tsv",
    )
    data = {"hpo": tmp_path / "hpo", "xlbel": xlbel}
    task = open_task("hpo", data, tmp_path, split_hpo=lambda folder, work: split)
    assert task.mentions["mention"].to_pylist() == ["Wackelei", "temblores"]
    assert task.row_counts == {"de": RowCounts(2, 1, {NO_GOLD: 1}), "es": RowCounts(1, 1, {})}
    assert (task.space.rows.names, task.space.languages) == (["wobble fever", "shakes"], ("en",))  # English names only
    assert task.training == split / "terminology"
    inside = open_task("xlbel-v0-in-hpo", data | {"training": xlbel}, tmp_path, split_hpo=lambda folder, work: split)
    rows = {row["mention"]: row["concept_ids"] for row in inside.mentions.to_pylist()}
    assert rows == {"Wackelfieber": ["HP:1", "HP:2"], "Wackeln": ["HP:1", "HP:2"], "tembleque": ["HP:2"]}
    assert inside.row_counts == {"de": RowCounts(3, 2, {NOT_IN_TERMINOLOGY: 1}), "es": RowCounts(1, 1, {})}
    assert inside.training == xlbel
    assert [
        brings_dictionary(name) for name in ("hpo", "xlbel-v0-in-hpo", "bigbio:UMLS:es-in-hpo", "xlbel-v0", "hpo-x")
    ] == [True] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xlbel", r"unknown corpus 'xlbel'; did you mean 'xlbel-v[01]'\?"),
        ("zzz", "unknown corpus 'zzz'; they are xlbel-v0, .*, bigbio:DATABASE:LANGUAGE"),
        ("hpo-in-hpo", "unknown corpus 'hpo'"),
        ("-in-hpo", "unknown corpus ''"),
        ("bigbio", "unknown corpus 'bigbio'"),
        ("bigbio:UMLS", "expected bigbio:DATABASE:LANGUAGE such as bigbio:UMLS:es, found 'bigbio:UMLS'"),
        ("bigbio::es", "expected bigbio:DATABASE:LANGUAGE"),
        ("bigbio:UMLS:es:x", "expected bigbio:DATABASE:LANGUAGE"),
        ("xlbel-v0", "task 'xlbel-v0' needs the files of xlbel: --data xlbel=PATH"),
        ("hpo", "task 'hpo' needs the files of hpo: --data hpo=PATH"),
        ("xlbel-v0-in-hpo", "needs the files of hpo"),
    ],
)
def test_unknown_or_incomplete_task_is_reported(tmp_path, dictionary, name, message):
    with pytest.raises(ConfigError, match=message):
        open_task(name, {}, tmp_path, dictionary=dictionary)


def test_task_without_dictionary_is_reported(tmp_path, xlbel):
    with pytest.raises(ConfigError, match="needs something to link into: --dictionary"):
        open_task("xlbel-v0", {"xlbel": xlbel}, tmp_path)
    with pytest.raises(DataError, match="expected a file, found nothing"):
        open_task("xlbel-v0", {"xlbel": xlbel}, tmp_path, dictionary=str(tmp_path / "gone.txt"))


@given(
    st.lists(
        st.tuples(
            st.text(max_size=3),
            st.sampled_from(["de", "es"]),
            st.lists(st.sampled_from("ABC"), max_size=2, unique=True),
        ),
        max_size=6,
    ),
    st.randoms(),
)
def test_hash_of_mentions_does_not_depend_on_order(rows, rng):
    def made(rows):
        return hash_of(
            build_mentions([m for m, _, _ in rows], [code for _, code, _ in rows], [list(ids) for _, _, ids in rows])
        )

    before = made(rows)
    shuffled = [(m, code, rng.sample(ids, len(ids))) for m, code, ids in rows]
    rng.shuffle(shuffled)
    assert made(shuffled) == before
    assert made([*rows, ("x", "de", ["A"])]) != before
    for i, (mention, code, ids) in enumerate(rows):
        for change in ((mention + "x", code, ids), (mention, "fr", ids), (mention, code, [*ids, "Z"])):
            assert made([*rows[:i], change, *rows[i + 1 :]]) != before


def test_table_of_corpora():
    assert CUTS == (1, 5, 64)
    assert {figure.benchmark for figure in read_published()} <= CORPORA.keys()  # or nobody would see them
    assert data_keys()[0] == "hpo"
    assert {"bigbio", "training", *(corpus.data for corpus in CORPORA.values())} <= set(data_keys())
    assert [name for name, corpus in CORPORA.items() if corpus.composite] == [
        "ncbi-disease",
        "bc5cdr-disease",
        "bc5cdr-chemical",
    ]
    assert corpus_of("bigbio:SNOMEDCT_US:de").data == "bigbio"


@pytest.mark.parametrize("name", CORPORA)
def test_every_corpus_states_what_it_expects(tmp_path, name):
    for path in (
        tmp_path / "gone",
        write(tmp_path / "empty", {}),
        write(tmp_path, {"noise.tsv": "\x00\x01\n\t\t\n"}) / "noise.tsv",
    ):
        with pytest.raises(DataError) as error:
            CORPORA[name].read(path)
        assert "expected" in str(error.value)
        assert str(path) in str(error.value) or path.name in str(error.value)


def test_codiesp_groups(tmp_path):
    lines = [
        "d1\tDIAGNOSTICO\tr05\ttos\t0 3",
        "d1\tPROCEDIMIENTO\tbw20\ttac\t4 7",
        "d1\tDIAGNOSTICO\tr50.9\tfiebre\t8 14",
    ]
    root = write(
        tmp_path / "final_dataset_v4_to_publish" / "test",
        {"testX.tsv": "\n".join(lines) + "\n", "text_files/d1.txt": "tos tac fiebre"},
    )
    read = {
        name: CORPORA[name].read(root.parents[1])["mention"].to_pylist()
        for name in ("codiesp", "codiesp-d", "codiesp-p")
    }
    assert read == {"codiesp": ["tos", "tac", "fiebre"], "codiesp-d": ["tos", "fiebre"], "codiesp-p": ["tac"]}
    table = CORPORA["codiesp"].read(root.parents[1])
    assert of_group(table, "LIVB").num_rows == 0


def test_codiesp_in_icd10cm(tmp_path):
    codes = [("R05", "Cough"), ("R50.9", "Fever, unspecified"), ("S02.0XXA", "Fracture, initial encounter")]
    columns = {name: [None] * len(codes) for name in NAMES_SCHEMA.names} | {
        "concept_id": [code for code, _ in codes],
        "language": ["en"] * len(codes),
        "name": [name for _, name in codes],
        "kind": ["preferred"] * len(codes),
        "source": ["ICD10CM"] * len(codes),
    }
    Terminology.build(pa.table(columns, NAMES_SCHEMA))[0].save(tmp_path / "icd10cm")
    lines = [
        "d1\tDIAGNOSTICO\tr05\ttos\t0 3",
        "d1\tPROCEDIMIENTO\tbw20\ttac\t4 7",
        "d1\tDIAGNOSTICO\tR509\tfiebre\t8 14",
        "d1\tDIAGNOSTICO\ts02.0xxa\tfractura\t15 23",
        "d1\tDIAGNOSTICO\tz99.99\tcaida\t24 29",
    ]
    files = {"devX.tsv": "\n".join(lines) + "\n", "text_files/d1.txt": "tos tac fiebre fractura caida"}
    data = {"codiesp": write(tmp_path / "dev", files), "icd10cm": tmp_path / "icd10cm"}
    task = open_task("codiesp-in-icd10cm", data, tmp_path)
    assert [(row["mention"], row["concept_ids"]) for row in task.mentions.to_pylist()] == [
        ("tos", ["R05"]),
        ("fiebre", ["R50.9"]),
        ("fractura", ["S02.0XXA"]),
    ]
    assert task.row_counts == {"es": RowCounts(4, 3, {NOT_IN_TERMINOLOGY: 1})}
    assert (sorted(task.space.rows.names), task.training) == (sorted(name for _, name in codes), tmp_path / "icd10cm")
    assert brings_dictionary(task.name)
    assert open_task(task.name, data | {"training": tmp_path}, tmp_path).training == tmp_path
    for missing in data:
        with pytest.raises(ConfigError, match=f"needs the files of {missing}: --data {missing}=PATH"):
            open_task(task.name, {key: path for key, path in data.items() if key != missing}, tmp_path)


def test_codes_are_written_as_icd_writes_them():
    assert [with_icd_dot(code) for code in ("q62.11", "Q6211", "i10", " r05 ", "S02.0xxA", "R5")] == [
        "Q62.11",
        "Q62.11",
        "I10",
        "R05",
        "S02.0XXA",
        "R5",
    ]


@pytest.mark.parametrize(
    ("files", "read"),
    [
        (["devX.tsv"], "devX.tsv"),
        (["trainX.tsv"], "trainX.tsv"),
        (["devX.tsv", "testX.tsv", "trainX.tsv"], "testX.tsv"),
    ],
)
def test_codiesp_reads_the_test_set_or_the_only_one(tmp_path, files, read):
    root = write(tmp_path, {f"{name[:-5]}/{name}": f"d1\tDIAGNOSTICO\tr05\t{name}\t0 3\n" for name in files})
    assert CORPORA["codiesp"].read(root)["mention"].to_pylist() == [read]


def test_codiesp_of_several_sets_without_the_test_set_is_refused(tmp_path):
    root = write(tmp_path, {f"{name}/{name}X.tsv": "d1\tDIAGNOSTICO\tr05\ttos\t0 3\n" for name in ("dev", "train")})
    with pytest.raises(DataError, match=r"found no files called testX\.tsv"):
        CORPORA["codiesp"].read(root)
