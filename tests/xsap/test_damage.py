"""Flipped bits, and truncated, lengthened or missing files, are rejected with one line.

A few are in the default suite; `make test-slow` has a thousand flips and two hundred truncations of each kind of index.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from tests.fixtures.builds import (
    NAMES,
    Ngrams,
    StoppedError,
    StoppingNgrams,
    assert_same_files,
    build_small,
    part_folder,
)
from tests.fixtures.dictionaries import terminology
from xsap.cli import app
from xsap.errors import ArtifactError
from xsap.linking.build import merge_shards
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.linking.encoder_spec import EncoderSpec
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.search.approximate import HnswIndex
from xsap.search.vectors import MIN_ROWS_WITH_CODES, Vectors
from xsap.terminal import run

ALL = {
    "names.arrow",
    "concepts.arrow",
    "starts.npy",
    "name_concepts.npy",
    "hashes.npy",
    "entries.npy",
    "preferences.npy",
    "bounds.npy",
    "scan.npy",
    "scales.npy",
}
ALL |= {"manifest.json", "calibration", "fusion", "hnsw.usearch"}
FILES = {"float32": ALL | {"vectors.npy"}, "float16": ALL | {"vectors.npy"}, "int8": ALL}

Open = Callable[[], object]


class Damage(NamedTuple):
    """One act of damage. bit: to flip; else size: to cut to, or to lengthen to; -1 to remove."""

    file: Path
    bit: int | None
    size: int = 0


def flips(folder: Path, n: int, seed: int) -> list[Damage]:
    """n bits, half of them in files picked by their size, half in any file: so small ones are damaged too."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sizes = np.array([file.stat().st_size for file in files])
    weights = (sizes / sizes.sum() + 1 / len(files)) / 2
    chosen = rng.choice(len(files), n, p=weights)
    return [Damage(files[i], int(rng.integers(8 * sizes[i]))) for i in chosen]


def cuts(folder: Path, n: int, seed: int) -> list[Damage]:
    """n truncations: each file to nothing and by one byte, the others anywhere. On top of these each file is lengthened, and is gone."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    ends = [Damage(file, None, size) for file in files for size in (0, file.stat().st_size - 1)]
    assert n > len(ends), "too few truncations for so many files"
    anywhere = [Damage(file, None, int(rng.integers(file.stat().st_size))) for file in rng.choice(files, n - len(ends))]
    return ends + anywhere + [Damage(file, None, size) for file in files for size in (-1, file.stat().st_size + 1)]


@contextmanager
def damaged(damage: Damage) -> Iterator[None]:
    """Damage that is undone afterwards."""
    file, before = damage.file, damage.file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(0 if damage.bit is not None else max(0, min(damage.size, before)))
        tail = b"" if damage.bit is not None else stream.read()
    try:
        if damage.bit is not None:
            flip(damage)
        elif damage.size < 0:
            file.unlink()
        else:
            with file.open("r+b") as stream:
                stream.truncate(damage.size)  # beyond the end it adds zeros
        yield
    finally:
        if damage.bit is not None:
            flip(damage)
        elif damage.size < 0:
            file.write_bytes(tail)
        else:
            with file.open("r+b") as stream:
                stream.truncate(min(damage.size, before))
                stream.seek(0, 2)
                stream.write(tail)


def flip(damage: Damage) -> None:
    assert damage.bit is not None
    with damage.file.open("r+b") as stream:
        stream.seek(damage.bit // 8)
        byte = stream.read(1)[0]
        stream.seek(damage.bit // 8)
        stream.write(bytes([byte ^ 1 << damage.bit % 8]))


def not_found(damages: list[Damage], attempt: Open) -> list[tuple[Damage, str]]:
    """Damages not rejected by an ArtifactError of one line that names the file, or the folder of a manifest."""
    missed = []
    for damage in damages:
        with damaged(damage):
            try:
                found = f"opened: {attempt()!r:.80}"
            except ArtifactError as error:
                where = damage.file.parent.name if damage.file.name == "manifest.json" else damage.file.name
                found = "" if "\n" not in str(error) and where in str(error) else str(error)
            except Exception as error:
                found = repr(error)
        if found:
            missed.append((damage, found))
    return missed


def test_damage_is_done_and_undone(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abcdef")
    for damage, expected in [
        (Damage(file, 8), b"accdef"),
        (Damage(file, 47), b"abcde\xe6"),
        (Damage(file, None, 0), b""),
        (Damage(file, None, 5), b"abcde"),
        (Damage(file, None, 7), b"abcdef\0"),
    ]:
        with damaged(damage):
            assert file.read_bytes() == expected
        assert file.read_bytes() == b"abcdef"
    with damaged(Damage(file, None, -1)):
        assert not file.exists()
    assert file.read_bytes() == b"abcdef"


def make(folder: Path, model: Path, names: int, vector_dtype: str) -> Path:
    """An index of random vectors with all kinds of files, an HNSW index among them, beside its own copy of the model."""
    from xsap.encoding.encoder import Encoder

    shutil.copytree(model, folder / "model")
    encoder = Encoder.from_pretrained(folder / "model")
    dictionary = build_dictionary(
        NameSource.from_terminology(terminology(*((f"C{i:06}", "en", f"name {i}") for i in range(names)))),
        None,
        encoder.policy,
    )
    rows = np.random.default_rng(0).standard_normal((names, encoder.dimension)).astype(np.float32)
    vectors = Vectors.from_array(rows / np.linalg.norm(rows, axis=1, keepdims=True), vector_dtype)
    index = Index(
        vectors,
        dictionary,
        EncoderSpec.from_encoder(encoder, folder / "model"),
        "t" * 64,
        None,
        hnsw=HnswIndex.build(vectors),
    )
    index.save(folder / "index")
    odds = LogisticModel((0.5, 0.1), (0.2, 0.1), (1.0, 0.5), -0.3, {"de": 0.1, "es": -0.2}, 0.1)
    curve = RiskCoverageCurve.from_sample(np.linspace(0, 1, 200), np.arange(200) > 60, [str(i) for i in range(200)])
    Index.load(folder / "index").with_fusion_weight(0.2).with_calibration(Calibration(odds, curve))
    return folder / "index"


def answers(index: Path) -> list[object]:
    return list(Linker.load(index).link(["name 3", "fever", "dolor"], 3))


def kinds(index: Path) -> set[str]:
    return {file.name.split("-")[0] for file in index.iterdir()}


@pytest.fixture
def small(tmp_path, tiny_folder):
    """An index of 200 names with int8 codes, for which the number that it takes is lowered."""
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 100):
        yield make(tmp_path, tiny_folder, 200, "float16")


def test_load_detects_sixty_flips_and_forty_truncations(small):
    before = answers(small)
    assert kinds(small) == FILES["float16"]
    assert not_found(flips(small, 60, seed=1), lambda: Linker.load(small)) == []
    assert not_found(cuts(small, 40, seed=1), lambda: Linker.load(small)) == []
    assert answers(small) == before


def test_command_reports_a_damaged_index_in_one_line(small, capsys):
    for damage in [*flips(small, 3, seed=2), *cuts(small, 36, seed=2)[-4:]]:
        with damaged(damage), pytest.raises(SystemExit) as stop:
            run(app, "xsap", ["link", "fever", "--index", str(small)])
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err[:7], err.count("\n")) == (2, "", "error: ", 1)


def test_load_rejects_vectors_that_the_manifest_does_not_name(small, tmp_path, tiny_folder):
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 100):
        int8 = make(tmp_path / "int8", tiny_folder, 200, "int8")
        shutil.copy(small / "vectors.npy", int8)
        with pytest.raises(ArtifactError, match=r"vectors\.npy: not listed in the manifest"):
            Index.load(int8)


@pytest.mark.slow
@pytest.mark.parametrize("vector_dtype", ["float32", "float16", "int8"])
def test_load_detects_a_thousand_flips_and_two_hundred_truncations(tmp_path, tiny_folder, vector_dtype):
    """Of so many names that it has all files without any help."""
    index = make(tmp_path, tiny_folder, MIN_ROWS_WITH_CODES + 500, vector_dtype)
    before = answers(index)
    assert kinds(index) == FILES[vector_dtype]
    damages = flips(index, 1000, seed=3)
    assert {damage.file.name.split("-")[0] for damage in damages} == FILES[vector_dtype]
    assert not_found(damages, lambda: Linker.load(index)) == []
    damages = cuts(index, 200, seed=3)
    assert len(damages) == 200 + 2 * len(FILES[vector_dtype])
    assert not_found(damages, lambda: Linker.load(index)) == []
    assert answers(index) == before


@pytest.mark.slow
def test_load_detects_damage_to_the_model_except_its_card(tmp_path, tiny_folder):
    index = make(tmp_path, tiny_folder, 200, "float32")
    model = tmp_path / "model"
    before = answers(index)
    card = model / "README.md"
    card.write_text("edited")
    assert answers(index) == before
    card.unlink()
    assert answers(index) == before
    assert not_found(flips(model, 200, seed=4), lambda: Linker.load(index)) == []
    damages = [damage for damage in cuts(model, 60, seed=4) if (damage.file.name, damage.size) != ("manifest.json", -1)]
    assert not_found(damages, lambda: Linker.load(index)) == []
    with damaged(Damage(model / "manifest.json", None, -1)):
        assert (
            answers(index) == before
        )  # a model without a manifest is known by the hash of its other files, and these are whole
    assert answers(index) == before


@pytest.fixture
def codes():
    """int8 codes for any number of names, as large indexes have them; and no waiting for the disk."""
    with patch("xsap.search.vectors.MIN_ROWS_WITH_CODES", 20), patch("os.fsync", lambda _: None):
        yield


@pytest.mark.slow
def test_build_makes_damaged_shards_again(tmp_path, codes):
    """Damage comes singly; afterwards the index is that of an unbroken build, and only what was damaged was encoded again."""
    terminology(*NAMES).save(tmp_path / "source")
    build_small(tmp_path / "source", Ngrams(), tmp_path / "fresh")
    with pytest.raises(StoppedError):
        build_small(tmp_path / "source", StoppingNgrams(16), tmp_path / "index")
    folder, kept = part_folder(tmp_path / "index"), tmp_path / "kept"
    shutil.copytree(folder, kept)
    there = 10 * len(list(kept.glob("*.shard")))
    assert there >= 40
    found = []
    for damage in [*flips(kept, 150, seed=5), *cuts(kept, 60, seed=5)]:
        shutil.rmtree(folder, ignore_errors=True)
        with damaged(damage):
            shutil.copytree(kept, folder)
        built = build_small(tmp_path / "source", Ngrams(), tmp_path / "index", overwrite=True)
        found.append((built.resumed, there - 10 if damage.file.suffix == ".shard" else 0))
        assert_same_files(tmp_path / "index", tmp_path / "fresh")
    assert [a for a, _ in found] == [b for _, b in found]


@pytest.mark.slow
def test_merge_detects_damaged_parts(tmp_path, codes):
    terminology(*NAMES).save(tmp_path / "source")
    parts = [tmp_path / "parts" / f"p{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        build_small(tmp_path / "source", Ngrams(), part, shard=(i, 3))
    merge_shards(parts, tmp_path / "before")
    damages = [*flips(tmp_path / "parts", 300, seed=6), *cuts(tmp_path / "parts", 100, seed=6)]
    assert not_found(damages, lambda: merge_shards(parts, tmp_path / "merged")) == []
    merge_shards(parts, tmp_path / "merged")
    assert_same_files(tmp_path / "merged", tmp_path / "before")
