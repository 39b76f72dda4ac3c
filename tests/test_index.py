import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from xsap.errors import ArtifactError, ConfigError, DataError
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


@pytest.fixture
def folder(tmp_path):
    Index.build(COLDS, Ngrams()).save(tmp_path / "index")
    return tmp_path / "index"


def test_a_name_of_several_concepts_keeps_them_all():
    index = Index.build(COLDS, Ngrams(policy=TextPolicy("lower", "NFC")))
    assert index.names.to_pylist() == [
        {"normalised": "cold", "name": "Cold", "language": "en", "concept_ids": ["C1", "C2"]},
        {"normalised": "common cold", "name": "Common  cold", "language": "en", "concept_ids": ["C1"]},
        {"normalised": "feeling cold", "name": "Feeling cold", "language": "en", "concept_ids": ["C3"]},
    ]
    assert index.vectors.shape == (3, 32)
    np.testing.assert_array_equal(index.vectors, Ngrams().encode(["Cold", "Common  cold", "Feeling cold"]))


def test_names_that_differ_under_the_policy_are_apart():
    assert Index.build(COLDS, Ngrams()).names["normalised"].to_pylist() == ["Cold", "Common cold", "cold", "Feeling cold"]


def test_shared_names_against_a_plain_loop():
    rng = np.random.default_rng(0)
    source = terminology(*((f"C{rng.integers(40):02}", "en", f"name {rng.integers(25)}") for _ in range(300)))
    expected: dict[str, set[str]] = {}
    for row in source.names.to_pylist():
        expected.setdefault(row["name"], set()).add(row["concept_id"])
    found = {row["normalised"]: row["concept_ids"] for row in Index.build(source, Ngrams()).names.to_pylist()}
    assert found == {name: sorted(concepts) for name, concepts in expected.items()}


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
    assert index.dropped == {"empty name": 2}
    with pytest.raises(DataError, match="expected a terminology with names in en"):
        Index.build(terminology(("C2", "en", "\u200b")), Ngrams())


def test_vectors_that_are_not_finite_are_refused():
    class Broken(Ngrams):
        def encode(self, names, *, progress=False):
            return np.full((len(names), 4), np.nan, np.float32)

    with pytest.raises(DataError, match="finite"):
        Index.build(COLDS, Broken())


def test_saved_and_loaded_it_is_the_same(folder):
    built, loaded = Index.build(COLDS, Ngrams()), Index.load(folder)
    assert isinstance(loaded.vectors, np.memmap)
    np.testing.assert_array_equal(built.vectors, loaded.vectors)
    assert (loaded.names, loaded.concepts) == (built.names, built.concepts)
    assert (loaded.model, loaded.languages, loaded.dropped) == (built.model, built.languages, built.dropped)
    assert loaded.content
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "vectors.npy", "names.parquet", "concepts.parquet"}


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


@pytest.mark.parametrize("name", ["vectors.npy", "names.parquet", "concepts.parquet"])
def test_every_bit_flip_and_truncation_is_found(folder, name):
    file = folder / name
    whole = file.read_bytes()
    for place in np.random.default_rng(0).integers(len(whole), size=20):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(place) % 8
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=f"{name}: its sha256"):
            Index.load(folder)
    for length in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=f"{name}: expected .* bytes"):
            Index.load(folder)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: named by the manifest, but missing"):
        Index.load(folder)


@pytest.mark.parametrize(
    "change",
    [{"count": 3}, {"dimension": 31}, {"dtype": "float16"}, {"model": None}, {"model": {"content": "x"}}, {"languages": 3}, {"text": 0}],
)
def test_a_manifest_that_does_not_fit_is_found(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    if "text" in change:
        manifest["model"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)
