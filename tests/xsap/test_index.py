"""An index in memory and on disk: what it holds, how its model is found, and that damage is always detected."""

import hashlib
import json
import mmap
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from tests.fixtures.builds import Ngrams, assert_same_files
from tests.fixtures.dictionaries import ids_of_names, terminology
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.encoder_spec import record_location, resolve_location
from xsap.linking.index import Index
from xsap.search import vectors as vectors_module
from xsap.search.approximate import HnswIndex
from xsap.search.vectors import Vectors
from xsap.text import TextPolicy

COLDS = terminology(
    ("C1", "en", "Cold"),
    ("C2", "en", "cold"),
    ("C1", "en", "Common  cold"),
    ("C3", "en", "Feeling cold"),
    ("C1", "de", "Erkältung"),
)


@pytest.fixture
def folder(tmp_path):
    Index.build(COLDS, Ngrams(), languages={"en"}).save(tmp_path / "index")
    return tmp_path / "index"


def test_name_of_several_concepts_keeps_all():
    index = Index.build(COLDS, Ngrams(policy=TextPolicy("lower", "NFC")), languages={"en"})
    assert index.names.select(["name", "language", "source"]).to_pylist() == [
        {"name": "Cold", "language": "en", "source": "TEST"},
        {"name": "Common  cold", "language": "en", "source": "TEST"},
        {"name": "Feeling cold", "language": "en", "source": "TEST"},
    ]
    assert ids_of_names(index.dictionary) == [["C1", "C2"], ["C1"], ["C3"]]
    assert (len(index.vectors), index.vectors.dimension) == (3, 32)
    np.testing.assert_array_equal(
        index.vectors.take(slice(None)), Ngrams().encode(["Cold", "Common  cold", "Feeling cold"])
    )


def test_names_that_differ_under_the_policy_are_separate_rows():
    names = Index.build(COLDS, Ngrams(), languages={"en"}).names["name"].to_pylist()
    assert names == ["Cold", "Common  cold", "cold", "Feeling cold"]


def test_build_embeds_only_the_given_languages():
    assert Index.build(COLDS, Ngrams(), languages={"de"}).names["name"].to_pylist() == ["Erkältung"]
    assert Index.build(COLDS, Ngrams(), languages={"de"}).concepts["concept_id"].to_pylist() == ["C1"]
    assert (
        Index.build(COLDS, Ngrams()).names.num_rows == Index.build(COLDS, Ngrams(), languages=None).names.num_rows == 5
    )


def test_build_without_names_lists_the_languages():
    with pytest.raises(
        DataError,
        match=r"^expected a terminology with names in fi; found en \(4\), de \(1\)\. Choose among these with .*$",
    ):
        Index.build(COLDS, Ngrams(), languages={"fi"})


def test_empty_names_are_dropped_and_counted():
    index = Index.build(terminology(("C1", "en", "fever"), ("C2", "en", " \u200b"), ("C3", "en", "\t")), Ngrams())
    assert index.names["name"].to_pylist() == ["fever"]
    assert index.concepts["concept_id"].to_pylist() == ["C1"]
    assert index.dictionary.dropped == {"empty name": 2}
    with pytest.raises(DataError, match="expected a terminology with names in en"):
        Index.build(terminology(("C2", "en", "\u200b")), Ngrams(), languages={"en"})


def test_build_rejects_vectors_that_are_not_finite():
    class Broken(Ngrams):
        def encode(self, names, *, progress=False):
            return np.full((len(names), 4), np.nan, np.float32)

    with pytest.raises(DataError, match="finite"):
        Index.build(COLDS, Broken())


FILES = {"names.arrow", "concepts.arrow", "bounds.npy"} | {
    f"{name}.npy" for name in ("starts", "name_concepts", "preferences", "hashes", "entries")
}


@pytest.mark.parametrize(
    ("vector_dtype", "files"),
    [("float32", {"vectors.npy"}), ("float16", {"vectors.npy"}), ("int8", {"scan.npy", "scales.npy"})],
)
def test_loaded_index_equals_saved_index(tmp_path, vector_dtype, files):
    built = Index.build(COLDS, Ngrams(), languages={"en"}, vector_dtype=vector_dtype)
    built.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    np.testing.assert_array_equal(built.vectors.take(slice(None)), loaded.vectors.take(slice(None)))
    assert (loaded.names, loaded.concepts, ids_of_names(loaded.dictionary)) == (
        built.names,
        built.concepts,
        ids_of_names(built.dictionary),
    )
    assert (loaded.model, loaded.languages, loaded.dictionary.dropped) == (
        built.model,
        built.languages,
        built.dictionary.dropped,
    )
    hits = loaded.dictionary.keys.find("COMMON COLD", "und", loaded.names, loaded.concepts)
    assert [(hit.row, hit.match) for hit in hits] == [(1, "case")]
    assert (loaded.vectors.vector_dtype, loaded.path) == (vector_dtype, tmp_path / "index")
    assert loaded.content_hash
    assert {p.name for p in (tmp_path / "index").iterdir()} == {"manifest.json"} | FILES | files


def test_load_maps_files_and_does_not_read_them(folder):
    loaded, large = Index.load(folder), Index.load(folder).vectors.values
    assert large is not None
    owner = large
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    assert isinstance(owner.base if owner.base is not None else owner, mmap.mmap | np.memmap)
    before = pa.total_allocated_bytes()
    again = Index.load(folder)
    assert pa.total_allocated_bytes() - before < 1024 < loaded.names.nbytes + again.concepts.nbytes + 1024


def test_save_writes_equal_files_for_any_block_size(tmp_path):
    source = terminology(*((f"C{i}", "en", f"name {i}") for i in range(20)))
    Index.build(source, Ngrams()).save(tmp_path / "whole")
    Index.build(source, Ngrams()).save(tmp_path / "blocks", vectors_per_write=3)
    assert_same_files(tmp_path / "whole", tmp_path / "blocks")


def test_repr_is_one_short_line():
    index = Index.build(COLDS, Ngrams(), languages={"de", "en"}, vector_dtype="int8")
    assert repr(index) == "Index(5 names, 3 concepts, languages=de,en, vector_dtype=int8, model=aaaaaaaa…)"
    assert "languages=all, vector_dtype=float32, model=an unsaved one" in repr(
        Index.build(COLDS, Ngrams(content_hash=None), languages=None)
    )


def test_save_rejects_an_unsaved_model(tmp_path):
    with pytest.raises(ConfigError, match="needs a saved model"):
        Index.build(COLDS, Ngrams(content_hash=None)).save(tmp_path / "index")
    assert not list(tmp_path.iterdir())


def test_model_path_is_found_after_moving_the_index_with_the_model_and_names_no_folder_above(tmp_path):
    (tmp_path / "a" / "model").mkdir(parents=True)
    Index.build(COLDS, Ngrams(), model_path=tmp_path / "a" / "model").save(tmp_path / "a" / "index")
    assert Index.load(tmp_path / "a" / "index").model.path == str(tmp_path / "a" / "model")
    assert tmp_path.name not in (tmp_path / "a" / "index" / "manifest.json").read_text()
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Index.load(tmp_path / "b" / "index").model.path == str(tmp_path / "b" / "model")


def test_location_of_a_model_is_relative_or_below_home_or_absolute(tmp_path, monkeypatch):
    for name in ("x/model", "home/ann/model"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ann"))
    model, other = str(tmp_path / "x" / "model"), str(tmp_path / "home" / "ann" / "model")
    assert record_location(model, tmp_path / "x" / "index") == "../model"
    assert record_location(model, Path("/srv/index")) == model
    assert record_location(other, Path("/srv/index")) == "~/model"
    assert record_location("hub/id", tmp_path) == "hub/id"
    assert record_location(None, tmp_path) is None
    for path, folder in (
        (model, tmp_path / "x" / "index"),
        (model, Path("/srv/i")),
        (other, Path("/srv/i")),
        ("hub/id", tmp_path),
    ):
        assert resolve_location(record_location(path, folder), folder) == path


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """An index with int8 codes, and so with all kinds of files."""
    out = tmp_path_factory.mktemp("large") / "index"
    with patch.object(vectors_module, "MIN_ROWS_WITH_CODES", 50):
        Index.build(terminology(*((f"C{i:02}", "en", f"name {i}") for i in range(60))), Ngrams()).save(out)
        yield out


def test_load_detects_bit_flips_and_truncations_of_every_file(large_folder):
    Index.load(large_folder)
    rng = np.random.default_rng(0)
    files = sorted(file for file in large_folder.iterdir())
    assert {file.name for file in files} == FILES | {"vectors.npy", "scan.npy", "scales.npy", "manifest.json"}
    for file in files:
        whole = file.read_bytes()
        for bit in rng.integers(8 * len(whole), size=40).tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
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
    """Write a valid manifest with other keys, as another version of xsap might do."""
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
    "change", [{"count": 3}, {"model": None}, {"model": {"content_hash": "x"}}, {"languages": 3}, {"dropped": None}]
)
def test_load_rejects_a_manifest_that_does_not_fit(folder, change):
    reseal(folder)
    Index.load(folder)
    if change == {"dropped": None}:
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["dropped"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder, **{key: value for key, value in change.items() if key != "dropped"})
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


@pytest.mark.parametrize("name", ["vectors", "bounds", "starts", "name_concepts", "preferences", "hashes", "entries"])
def test_load_rejects_files_of_other_sizes_with_a_valid_manifest(folder, name):
    array = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", array[:-1])
    reseal(folder)
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


@pytest.mark.parametrize("name", ["names", "concepts"])
def test_load_rejects_tables_with_other_columns(folder, name):
    with pa.memory_map(str(folder / f"{name}.arrow")) as stream:
        table = pa.ipc.open_file(stream).read_all()
    table = table.drop_columns(["semantic_types" if name == "concepts" else "sources"])
    (folder / f"{name}.arrow").unlink()
    with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    reseal(folder)
    with pytest.raises(ArtifactError, match="fit together"):
        Index.load(folder)


# With an HNSW index


SENSES = terminology(
    *((f"C{i // 3:04}", "en", f"{'abcdefghij'[i % 10]}{i * 37 % 101} of {i * i % 997} {i}") for i in range(900))
)


@pytest.fixture(scope="module")
def hnsw_folder(tmp_path_factory):
    """The folder of an index of 900 names: more than an approximate search looks at for an answer."""
    pytest.importorskip("usearch")
    out = tmp_path_factory.mktemp("hnsw") / "index"
    Index.build(SENSES, Ngrams(), ann=True).save(out)
    return out


@pytest.fixture
def hnsw_copy(hnsw_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(hnsw_folder, tmp_path / "index")


def test_hnsw_index_is_saved_with_its_metadata_in_the_manifest(hnsw_folder):
    built, loaded = Index.build(SENSES, Ngrams(), ann=True), Index.load(hnsw_folder, ann=True)
    manifest = json.loads((hnsw_folder / "manifest.json").read_text())
    assert built.hnsw is not None
    assert loaded.hnsw is not None
    assert manifest["hnsw"] == {"ef": loaded.hnsw.ef, "recall@64": loaded.hnsw.recall} == loaded.hnsw.metadata()
    assert set(manifest["files"]) - {"scan.npy", "scales.npy"} == FILES | {"vectors.npy", "hnsw.usearch"}
    assert loaded.hnsw.recall > 0.9
    queries = Ngrams().encode([f"a{i} of x" for i in range(50)])
    (found, rows), (expected, others) = loaded.hnsw.search(queries, 5), built.hnsw.search(queries, 5)
    assert (rows == others).mean() > 0.95  # both were built of the same vectors, but by several threads
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert loaded.metadata()["search"] == {"hnsw": manifest["hnsw"]}
    assert Index.load(hnsw_folder).metadata()["search"] == "exact"


def test_load_without_ann_needs_no_usearch(hnsw_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    assert Index.load(hnsw_folder).hnsw is None
    encoder = Ngrams()
    encoder.encode = None  # nothing is encoded before the error
    for call in (
        lambda: Index.load(hnsw_folder, ann=True),
        lambda: Index.build(SENSES, encoder, ann=True),
    ):
        with pytest.raises(ConfigError, match="approximate search needs usearch, which isn't installed"):
            call()


def test_load_with_ann_says_how_to_add_an_hnsw_index(folder, tmp_path):
    Index.build(COLDS, Ngrams(), languages=None, vector_dtype="float16", model_path="hub/id").save(tmp_path / "half")
    for path, model, options in (
        (folder, "MODEL", "--languages en --vector-dtype float32"),
        (tmp_path / "half", "hub/id", "--languages all --vector-dtype float16"),
    ):
        with pytest.raises(ConfigError) as refused:
            Index.load(path, ann=True)
        assert str(refused.value) == (
            f"{path} has no HNSW index; search exactly, or add one, without encoding names again: "
            f"xsap index {model} TERMINOLOGY --out {path} --reuse {path} --overwrite {options} --pooling cls --max-length 25 --dtype float32 --ann"
        )


def test_load_detects_bit_flips_and_truncations_of_the_hnsw_index(hnsw_copy):
    file = hnsw_copy / "hnsw.usearch"
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for bit in rng.integers(8 * len(whole), size=20).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        for ann in (True, False):
            with pytest.raises(ArtifactError, match=r"hnsw\.usearch"):
                Index.load(hnsw_copy, ann=ann)
    for length in (0, len(whole) - 1, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"hnsw\.usearch"):
            Index.load(hnsw_copy, ann=True)


def test_load_rejects_an_hnsw_index_of_other_vectors_with_a_valid_manifest(hnsw_copy, tmp_path):
    others = np.random.default_rng(0).standard_normal((900, 32), dtype=np.float32)
    metadata = Index.load(hnsw_copy, ann=True).hnsw.metadata()
    HnswIndex.build(Vectors.from_array(others)).save(hnsw_copy / "hnsw.usearch")
    reseal(hnsw_copy, hnsw=metadata)
    Index.load(hnsw_copy)
    with pytest.raises(
        ArtifactError,
        match=r"hnsw\.usearch: expected an HNSW index that finds \d+% .* it was built from other vectors; create the index again$",
    ):
        Index.load(hnsw_copy, ann=True)


@pytest.mark.parametrize("metadata", [{"ef": 0, "recall@64": 1.0}, {"ef": 128}, {}, "128", {"ef": 128, "recall@64": 2}])
def test_load_rejects_metadata_of_no_hnsw_index(hnsw_copy, metadata):
    reseal(hnsw_copy, hnsw=metadata)
    with pytest.raises(ArtifactError, match="not an HNSW index of these 900 vectors"):
        Index.load(hnsw_copy, ann=True)


def test_calibration_and_fusion_weight_keep_the_hnsw_index_open(hnsw_copy):
    model = LogisticModel((0.5, 0.1), (0.2, 0.1), (1.0, 0.5), -0.3, {"de": 0.1}, 0.1)
    calibration = Calibration(
        model, RiskCoverageCurve.from_sample(np.linspace(0, 1, 200), np.arange(200) > 60, [str(i) for i in range(200)])
    )
    for ann in (True, False):
        index = Index.load(hnsw_copy, ann=ann)
        for changed in (index.with_fusion_weight(0.5), index.with_calibration(calibration)):
            assert (changed.hnsw is not None) == ann
    assert Index.load(hnsw_copy, ann=True).calibration == calibration


def test_an_index_of_older_look_up_keys_is_refused_with_the_way_to_make_it_again(tmp_path):
    from xsap.linking.dictionary_files import check_dictionary_format

    with pytest.raises(
        ArtifactError,
        match=r"index: expected names, concepts and look-up keys of version 3, found version 1; create it again: xsap index",
    ):
        check_dictionary_format({}, tmp_path / "index")
