"""An index in memory and on disk: what it holds, how its model is found, and that no damage goes unseen."""

import hashlib
import json
import mmap
import shutil
import sys
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import index as index_module
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.index import Index
from xsap.search import approximate
from xsap.search import vectors as vectors_module
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy

CASED = TextPolicy()


class Ngrams:
    """Character trigrams hashed into 32 components: similar names get similar vectors."""

    def __init__(self, content_hash="a" * 64, policy=CASED):
        self.content_hash, self.policy, self.pooling, self.max_length, self.dtype = (
            content_hash,
            policy,
            "cls",
            25,
            "float32",
        )

    def encode(self, names, *, progress=False):
        vectors = np.zeros((len(names), 32), np.float32)
        for row, name in enumerate(names):
            for i in range(len(name) + 2):
                vectors[row, sum(map(ord, f"  {name}  "[i : i + 3])) % 32] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def terminology(*names):
    """names: (concept_id, language, name)."""
    rows = [dict(zip(NAMES_SCHEMA.names, (*name, "synonym", "TEST", None, None), strict=True)) for name in names]
    return Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA))[0]


COLDS = terminology(
    ("C1", "en", "Cold"),
    ("C2", "en", "cold"),
    ("C1", "en", "Common  cold"),
    ("C3", "en", "Feeling cold"),
    ("C1", "de", "Erkältung"),
)


def concepts_of(index):
    """The identifiers of each name's concepts."""
    ids, owners = index.concepts["concept_id"].to_pylist(), index.dictionary.owners
    return [[ids[c] for c in owners.concepts[a:b]] for a, b in zip(owners.starts[:-1], owners.starts[1:], strict=True)]


@pytest.fixture
def folder(tmp_path):
    Index.build(COLDS, Ngrams()).save(tmp_path / "index")
    return tmp_path / "index"


def test_a_name_of_several_concepts_keeps_them_all():
    index = Index.build(COLDS, Ngrams(policy=TextPolicy("lower", "NFC")))
    assert index.names.select(["name", "language", "source"]).to_pylist() == [
        {"name": "Cold", "language": "en", "source": "TEST"},
        {"name": "Common  cold", "language": "en", "source": "TEST"},
        {"name": "Feeling cold", "language": "en", "source": "TEST"},
    ]
    assert concepts_of(index) == [["C1", "C2"], ["C1"], ["C3"]]
    assert (len(index.vectors), index.vectors.dimension) == (3, 32)
    np.testing.assert_array_equal(
        index.vectors.take(slice(None)), Ngrams().encode(["Cold", "Common  cold", "Feeling cold"])
    )


def test_names_that_differ_under_the_policy_are_apart():
    assert Index.build(COLDS, Ngrams()).names["name"].to_pylist() == ["Cold", "Common  cold", "cold", "Feeling cold"]


def test_only_the_languages_asked_for():
    assert Index.build(COLDS, Ngrams(), languages={"de"}).names["name"].to_pylist() == ["Erkältung"]
    assert Index.build(COLDS, Ngrams(), languages={"de"}).concepts["concept_id"].to_pylist() == ["C1"]
    assert Index.build(COLDS, Ngrams(), languages=None).names.num_rows == 5


def test_no_name_in_a_language_says_which_there_are():
    with pytest.raises(
        DataError,
        match=r"^expected a terminology with names in fi; found en \(4\), de \(1\)\. Choose among these with .*$",
    ):
        Index.build(COLDS, Ngrams(), languages={"fi"})


def test_names_without_a_visible_character_are_dropped_and_counted():
    index = Index.build(terminology(("C1", "en", "fever"), ("C2", "en", " \u200b"), ("C3", "en", "\t")), Ngrams())
    assert index.names["name"].to_pylist() == ["fever"]
    assert index.concepts["concept_id"].to_pylist() == ["C1"]
    assert index.dictionary.dropped == {"empty name": 2}
    with pytest.raises(DataError, match="expected a terminology with names in en"):
        Index.build(terminology(("C2", "en", "\u200b")), Ngrams())


def test_vectors_that_are_not_finite_are_refused():
    class Broken(Ngrams):
        def encode(self, names, *, progress=False):
            return np.full((len(names), 4), np.nan, np.float32)

    with pytest.raises(DataError, match="finite"):
        Index.build(COLDS, Broken())


FILES = {"names.arrow", "concepts.arrow", "starts.npy", "owners.npy", "hashes.npy", "rows.npy", "bounds.npy"}


@pytest.mark.parametrize(
    ("storage", "files"),
    [("float32", {"vectors.npy"}), ("float16", {"vectors.npy"}), ("int8", {"scan.npy", "scales.npy"})],
)
def test_saved_and_loaded_it_is_the_same(tmp_path, vector_dtype, files):
    built = Index.build(COLDS, Ngrams(), vector_dtype=vector_dtype)
    built.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    np.testing.assert_array_equal(built.vectors.take(slice(None)), loaded.vectors.take(slice(None)))
    assert (loaded.names, loaded.concepts, concepts_of(loaded)) == (built.names, built.concepts, concepts_of(built))
    assert (loaded.model, loaded.languages, loaded.dictionary.dropped) == (
        built.model,
        built.languages,
        built.dictionary.dropped,
    )
    assert loaded.dictionary.keys.find("COMMON COLD", loaded.names["name"]) == [1]
    assert (loaded.vectors.vector_dtype, loaded.path) == (vector_dtype, tmp_path / "index")
    assert loaded.content_hash
    assert {p.name for p in (tmp_path / "index").iterdir()} == {"manifest.json"} | FILES | files


def test_what_is_loaded_is_mapped_not_read(folder):
    loaded, large = Index.load(folder), Index.load(folder).vectors.values
    assert large is not None
    owner = large
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner.base if owner.base is not None else owner, mmap.mmap | np.memmap)
    before = pa.total_allocated_bytes()
    again = Index.load(folder)
    assert pa.total_allocated_bytes() - before < 1024 < loaded.names.nbytes + again.concepts.nbytes + 1024


def test_vectors_are_written_in_blocks(tmp_path):
    source = terminology(*((f"C{i}", "en", f"name {i}") for i in range(20)))
    Index.build(source, Ngrams()).save(tmp_path / "whole")
    with patch.object(index_module, "WRITTEN", 3):
        Index.build(source, Ngrams()).save(tmp_path / "blocks")
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "blocks" / file.name).read_bytes()


def test_a_model_that_was_never_saved_binds_nothing(tmp_path):
    with pytest.raises(ConfigError, match="never saved"):
        Index.build(COLDS, Ngrams(content_hash=None)).save(tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_the_model_is_found_where_it_was_and_beside_the_index_when_both_move(tmp_path):
    (tmp_path / "a" / "model").mkdir(parents=True)
    Index.build(COLDS, Ngrams(), model_path=tmp_path / "a" / "model").save(tmp_path / "a" / "index")
    assert Index.load(tmp_path / "a" / "index").model.path == str(tmp_path / "a" / "model")
    shutil.move(tmp_path / "a" / "index", tmp_path / "elsewhere")
    assert Index.load(tmp_path / "elsewhere").model.path == str(tmp_path / "a" / "model")
    shutil.move(tmp_path / "elsewhere", tmp_path / "a" / "index")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Index.load(tmp_path / "b" / "index").model.path == str(tmp_path / "b" / "model")


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """An index of so many names that it has int8 codes, and so all kinds of file: the threshold is lowered for it."""
    out = tmp_path_factory.mktemp("large") / "index"
    with patch.object(vectors_module, "MIN_ROWS_WITH_CODES", 50):
        Index.build(terminology(*((f"C{i:02}", "en", f"name {i}") for i in range(60))), Ngrams()).save(out)
        yield out


def test_every_bit_flip_and_truncation_of_every_file_is_found(large_folder):
    Index.load(large_folder)
    rng = np.random.default_rng(0)
    files = sorted(file for file in large_folder.iterdir())
    assert {file.name for file in files} == FILES | {"vectors.npy", "scan.npy", "scales.npy", "manifest.json"}
    for file in files:
        whole = file.read_bytes()
        for place in rng.integers(8 * len(whole), size=40).tolist():
            damaged = bytearray(whole)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=None if file.name == "manifest.json" else file.name):
                Index.load(large_folder)
        for length in [0, len(whole) - 1, *rng.integers(len(whole), size=6).tolist()]:
            file.write_bytes(whole[:length])
            with pytest.raises(ArtifactError, match=None if file.name == "manifest.json" else file.name):
                Index.load(large_folder)
        file.unlink()
        with pytest.raises(ArtifactError):
            Index.load(large_folder)
        file.write_bytes(whole)
    Index.load(large_folder)


def reseal(folder, **changes):
    """Write the manifest anew, whole and with the right hash of itself: what a careful hand or another version of xsap might do."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest = {key: value for key, value in manifest.items() if key not in ("manifest_sha256", "files")} | {
        "files": manifest["files"]
    }
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "xxh3": xxhash.xxh3_128_hexdigest(data),
        }
    text = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    (folder / "manifest.json").write_text(
        f'{text},\n "manifest_sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'
    )


@pytest.mark.parametrize(
    "change", [{"count": 3}, {"model": None}, {"model": {"content": "x"}}, {"languages": 3}, {"dropped": None}]
)
def test_a_manifest_that_does_not_fit_is_found(folder, change):
    reseal(folder)
    Index.load(folder)
    if change == {"dropped": None}:
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["dropped"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder, **{key: value for key, value in change.items() if key != "dropped"})
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


@pytest.mark.parametrize("name", ["vectors", "bounds", "starts", "owners", "hashes", "rows"])
def test_files_of_another_index_are_found_however_well_sealed(folder, name):
    array = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", array[:-1])
    reseal(folder)
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


@pytest.mark.parametrize("name", ["names", "concepts"])
def test_tables_of_other_columns_are_found(folder, name):
    with pa.memory_map(str(folder / f"{name}.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    table = table.drop_columns(["semantic_types" if name == "concepts" else "sources"])
    (folder / f"{name}.arrow").unlink()
    with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    reseal(folder)
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


# With a graph


SENSES = terminology(
    *((f"C{i // 3:04}", "en", f"{'abcdefghij'[i % 10]}{i * 37 % 101} of {i * i % 997} {i}") for i in range(900))
)


@pytest.fixture(scope="module")
def with_graph(tmp_path_factory):
    """The folder of an index of 900 names: more than a graph looks at for an answer."""
    pytest.importorskip("usearch")
    out = tmp_path_factory.mktemp("graph") / "index"
    Index.build(SENSES, Ngrams(), ann=True).save(out)
    return out


@pytest.fixture
def graph_folder(with_graph, tmp_path):
    """A copy to be spoiled."""
    return shutil.copytree(with_graph, tmp_path / "index")


def test_a_graph_is_a_file_of_the_folder_and_its_facts_are_in_the_manifest(with_graph):
    built, loaded = Index.build(SENSES, Ngrams(), ann=True), Index.load(with_graph, ann=True)
    manifest = json.loads((with_graph / "manifest.json").read_text())
    assert built.graph is not None
    assert loaded.graph is not None
    assert (
        manifest["graph"] == {"ef": loaded.graph.ef, "recall@64": loaded.graph.recall} == loaded.graph.metadata()
    )
    assert set(manifest["files"]) - {"scan.npy", "scales.npy"} == FILES | {"vectors.npy", "graph.usearch"}
    assert loaded.graph.recall > 0.9
    queries = Ngrams().encode([f"a{i} of x" for i in range(50)])
    (found, rows), (expected, others) = loaded.graph.search(queries, 5), built.graph.search(queries, 5)
    assert (rows == others).mean() > 0.95  # two graphs of one set of vectors: threads built them
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert loaded.metadata()["search"] == {"approximate": manifest["graph"]}
    assert Index.load(with_graph).metadata()["search"] == "exact"


def test_without_being_asked_for_the_graph_needs_no_usearch(with_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    assert Index.load(with_graph).graph is None
    encoder = Ngrams()
    encoder.encode = None  # nothing is encoded before it is said
    for call in (
        lambda: Index.load(with_graph, ann=True),
        lambda: Index.build(SENSES, encoder, ann=True),
    ):
        with pytest.raises(ConfigError, match="approximate search needs usearch, which isn't installed"):
            call()


def test_an_index_without_a_graph_says_how_to_add_one(folder, tmp_path):
    Index.build(COLDS, Ngrams(), languages=None, vector_dtype="float16", model_path="hub/id").save(tmp_path / "half")
    for path, model, alike in (
        (folder, "MODEL", "--languages en --vector-dtype float32"),
        (tmp_path / "half", "hub/id", "--languages all --vector-dtype float16"),
    ):
        with pytest.raises(ConfigError) as refused:
            Index.load(path, ann=True)
        assert str(refused.value) == (
            f"{path} has no graph for approximate search; search exactly, or add one, which encodes no name again: "
            f"xsap index {model} TERMINOLOGY --out {path} --reuse {path} --overwrite {alike} --pooling cls --max-length 25 --dtype float32 --ann"
        )


def test_every_bit_flip_and_truncation_of_the_graph_is_found(graph_folder):
    file = graph_folder / "graph.usearch"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    damage = [(place // 8, 1 << place % 8) for place in rng.integers(8 * len(whole), size=20).tolist()]
    for place, bit in damage:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        for asked in (True, False):
            with pytest.raises(ArtifactError, match=r"graph\.usearch"):
                Index.load(graph_folder, ann=asked)
    for length in (0, len(whole) - 1, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"graph\.usearch"):
            Index.load(graph_folder, ann=True)


def test_a_graph_of_other_vectors_is_refused_however_well_sealed(graph_folder, tmp_path):
    others = np.random.default_rng(0).standard_normal((900, 32), dtype=np.float32)
    metadata = Index.load(graph_folder, ann=True).graph.metadata()
    approximate.HnswIndex.build(vectors_module.Vectors.from_array(others)).save(graph_folder / "graph.usearch")
    reseal(graph_folder, graph=metadata)
    Index.load(graph_folder)
    with pytest.raises(
        ArtifactError,
        match=r"graph\.usearch: expected a graph that finds \d+% .* it is of other vectors, make the index again$",
    ):
        Index.load(graph_folder, ann=True)


@pytest.mark.parametrize(
    "facts", [{"ef": 0, "recall@64": 1.0}, {"ef": 128}, {}, "128", {"ef": 128, "recall@64": 2}]
)
def test_facts_that_are_none_of_a_graph_are_refused(graph_folder, metadata):
    reseal(graph_folder, graph=metadata)
    with pytest.raises(ArtifactError, match="not a graph of these 900 vectors"):
        Index.load(graph_folder, ann=True)


def test_calibrating_and_weighing_keep_the_graph_open(graph_folder):
    odds = LogisticModel((0.5, 0.1), (0.2, 0.1), (1.0, 0.5), -0.3, {"de": 0.1}, 0.1)
    calibration = Calibration(
        odds, RiskCoverageCurve.of(np.linspace(0, 1, 200), np.arange(200) > 60, [str(i) for i in range(200)])
    )
    for asked in (True, False):
        index = Index.load(graph_folder, ann=asked)
        for changed in (index.with_fusion_weight(0.5), index.with_calibration(calibration)):
            assert (changed.graph is not None) == asked
    assert Index.load(graph_folder, ann=True).calibration == calibration
