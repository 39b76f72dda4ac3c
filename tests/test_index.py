"""An index in memory and on disk: what it holds, how its model is found, and that no damage goes unseen."""

import hashlib
import json
import mmap
import shutil
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking import index as index_module
from xsap.linking import vectors as vectors_module
from xsap.linking.index import Index
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy

CASED = TextPolicy()


class Ngrams:
    """Character trigrams hashed into 32 components: similar names get similar vectors."""

    def __init__(self, content="a" * 64, policy=CASED):
        self.content, self.policy, self.pooling, self.max_length = content, policy, "cls", 25

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
    ("C1", "en", "Cold"), ("C2", "en", "cold"), ("C1", "en", "Common  cold"), ("C3", "en", "Feeling cold"), ("C1", "de", "Erkältung")
)


def concepts_of(index):
    """The identifiers of each name's concepts."""
    ids, owners = index.concepts["concept_id"].to_pylist(), index.contents.owners
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
    np.testing.assert_array_equal(index.vectors.take(slice(None)), Ngrams().encode(["Cold", "Common  cold", "Feeling cold"]))


def test_names_that_differ_under_the_policy_are_apart():
    assert Index.build(COLDS, Ngrams()).names["name"].to_pylist() == ["Cold", "Common  cold", "cold", "Feeling cold"]


def test_only_the_languages_asked_for():
    assert Index.build(COLDS, Ngrams(), languages={"de"}).names["name"].to_pylist() == ["Erkältung"]
    assert Index.build(COLDS, Ngrams(), languages={"de"}).concepts["concept_id"].to_pylist() == ["C1"]
    assert Index.build(COLDS, Ngrams(), languages=None).names.num_rows == 5


def test_no_name_in_a_language_says_which_there_are():
    with pytest.raises(
        DataError, match=r"^expected a terminology with names in fi; found en \(4\), de \(1\)\. Choose among these with .*$"
    ):
        Index.build(COLDS, Ngrams(), languages={"fi"})


def test_names_without_a_visible_character_are_dropped_and_counted():
    index = Index.build(terminology(("C1", "en", "fever"), ("C2", "en", " \u200b"), ("C3", "en", "\t")), Ngrams())
    assert index.names["name"].to_pylist() == ["fever"]
    assert index.concepts["concept_id"].to_pylist() == ["C1"]
    assert index.contents.dropped == {"empty name": 2}
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
def test_saved_and_loaded_it_is_the_same(tmp_path, storage, files):
    built = Index.build(COLDS, Ngrams(), storage=storage)
    built.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    np.testing.assert_array_equal(built.vectors.take(slice(None)), loaded.vectors.take(slice(None)))
    assert (loaded.names, loaded.concepts, concepts_of(loaded)) == (built.names, built.concepts, concepts_of(built))
    assert (loaded.model, loaded.languages, loaded.contents.dropped) == (built.model, built.languages, built.contents.dropped)
    assert loaded.contents.keys.find("COMMON COLD", loaded.names["name"]) == [1]
    assert (loaded.vectors.storage, loaded.path) == (storage, tmp_path / "index")
    assert loaded.content
    assert {p.name for p in (tmp_path / "index").iterdir()} == {"manifest.json"} | FILES | files


def test_what_is_loaded_is_mapped_not_read(folder):
    loaded, large = Index.load(folder), Index.load(folder).vectors.fine
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
        Index.build(COLDS, Ngrams(content=None)).save(tmp_path / "index")
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
    with patch.object(vectors_module, "SCAN_FROM", 50):
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
    manifest = {key: value for key, value in manifest.items() if key not in ("manifest_sha256", "files")} | {"files": manifest["files"]}
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "xxh3": xxhash.xxh3_128_hexdigest(data)}
    text = json.dumps(manifest, indent=1, ensure_ascii=False).removesuffix("\n}")
    (folder / "manifest.json").write_text(f'{text},\n "manifest_sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n')


@pytest.mark.parametrize("change", [{"count": 3}, {"model": None}, {"model": {"content": "x"}}, {"languages": 3}, {"dropped": None}])
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
