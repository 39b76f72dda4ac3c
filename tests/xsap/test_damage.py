"""Damage to what lies on disk: flipped bits, and files cut short, lengthened or gone, are refused in one line, and never answered from.

The default suite has a small share of it; `make test-slow` has a thousand flips and two hundred truncations of each kind of index.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

from tests.xsap.test_building import NAMES, SIZES, StoppedError, assert_same, part_folder, stop_after
from tests.xsap.test_index import Ngrams, terminology
from xsap.cli import main
from xsap.errors import ArtifactError
from xsap.linking.build import build_index, merge_shards
from xsap.linking.calibration import Calibration, LogisticModel, RiskCoverageCurve
from xsap.linking.dictionary import build_dictionary, in_memory
from xsap.linking.index import EncoderSpec, Index
from xsap.linking.linker import Linker
from xsap.search.approximate import HnswIndex
from xsap.search.vectors import SCAN_FROM, Vectors

ALL = {
    "names.arrow",
    "concepts.arrow",
    "starts.npy",
    "owners.npy",
    "hashes.npy",
    "rows.npy",
    "bounds.npy",
    "scan.npy",
    "scales.npy",
}
ALL |= {"manifest.json", "calibration", "fusion", "graph.usearch"}
FILES = {"float32": ALL | {"vectors.npy"}, "float16": ALL | {"vectors.npy"}, "int8": ALL}

Open = Callable[[], object]


class Harm(NamedTuple):
    """One act of damage. bit: to flip; else size: to cut to, or to lengthen to; -1 to remove."""

    file: Path
    bit: int | None
    size: int = 0


def flips(folder: Path, n: int, seed: int) -> list[Harm]:
    """n bits, half of them in files picked by their size, half in any file: so small ones get their share."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    sizes = np.array([file.stat().st_size for file in files])
    shares = (sizes / sizes.sum() + 1 / len(files)) / 2
    chosen = rng.choice(len(files), n, p=shares)
    return [Harm(files[i], int(rng.integers(8 * sizes[i]))) for i in chosen]


def cuts(folder: Path, n: int, seed: int) -> list[Harm]:
    """n truncations: each file to nothing and by one byte, the others anywhere. On top of these each file is lengthened, and is gone."""
    rng = np.random.default_rng(seed)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    ends = [Harm(file, None, size) for file in files for size in (0, file.stat().st_size - 1)]
    assert n > len(ends), "too few truncations for so many files"
    anywhere = [Harm(file, None, int(rng.integers(file.stat().st_size))) for file in rng.choice(files, n - len(ends))]
    return ends + anywhere + [Harm(file, None, size) for file in files for size in (-1, file.stat().st_size + 1)]


@contextmanager
def harmed(harm: Harm) -> Iterator[None]:
    """Damage that is undone afterwards."""
    file, before = harm.file, harm.file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(0 if harm.bit is not None else max(0, min(harm.size, before)))
        tail = b"" if harm.bit is not None else stream.read()
    try:
        if harm.bit is not None:
            flip(harm)
        elif harm.size < 0:
            file.unlink()
        else:
            with file.open("r+b") as stream:
                stream.truncate(harm.size)  # beyond the end it adds zeros
        yield
    finally:
        if harm.bit is not None:
            flip(harm)
        elif harm.size < 0:
            file.write_bytes(tail)
        else:
            with file.open("r+b") as stream:
                stream.truncate(min(harm.size, before))
                stream.seek(0, 2)
                stream.write(tail)


def flip(harm: Harm) -> None:
    assert harm.bit is not None
    with harm.file.open("r+b") as stream:
        stream.seek(harm.bit // 8)
        byte = stream.read(1)[0]
        stream.seek(harm.bit // 8)
        stream.write(bytes([byte ^ 1 << harm.bit % 8]))


def not_found(harms: list[Harm], attempt: Open) -> list[tuple[Harm, str]]:
    """The harms that were not refused with an ArtifactError of one line that names the file; a manifest may be told of by its folder."""
    missed = []
    for harm in harms:
        with harmed(harm):
            try:
                found = f"opened: {attempt()!r:.80}"
            except ArtifactError as error:
                where = harm.file.parent.name if harm.file.name == "manifest.json" else harm.file.name
                found = "" if "\n" not in str(error) and where in str(error) else str(error)
            except Exception as error:
                found = repr(error)
        if found:
            missed.append((harm, found))
    return missed


def test_harm_is_done_and_undone(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abcdef")
    for harm, harm_done in [
        (Harm(file, 8), b"accdef"),
        (Harm(file, 47), b"abcde\xe6"),
        (Harm(file, None, 0), b""),
        (Harm(file, None, 5), b"abcde"),
        (Harm(file, None, 7), b"abcdef\0"),
    ]:
        with harmed(harm):
            assert file.read_bytes() == harm_done
        assert file.read_bytes() == b"abcdef"
    with harmed(Harm(file, None, -1)):
        assert not file.exists()
    assert file.read_bytes() == b"abcdef"


def make(folder: Path, model: Path, names: int, vector_dtype: str) -> Path:
    """An index with all kinds of file, a graph among them; its vectors are random, for nobody judges its answers. It stands beside its own copy of the model."""
    from xsap.encoding.encoder import Encoder

    shutil.copytree(model, folder / "model")
    encoder = Encoder.from_pretrained(folder / "model")
    dictionary = build_dictionary(
        in_memory(terminology(*((f"C{i:06}", "en", f"name {i}") for i in range(names)))), None, encoder.policy
    )
    rows = np.random.default_rng(0).standard_normal((names, encoder.dimension)).astype(np.float32)
    vectors = Vectors.of(rows / np.linalg.norm(rows, axis=1, keepdims=True), vector_dtype)
    index = Index(
        vectors, dictionary, EncoderSpec.of(encoder, folder / "model"), "t" * 64, None, graph=HnswIndex.build(vectors)
    )
    index.save(folder / "index")
    odds = LogisticModel((0.5, 0.1), (0.2, 0.1), (1.0, 0.5), -0.3, {"de": 0.1, "es": -0.2}, 0.1)
    curve = RiskCoverageCurve.of(np.linspace(0, 1, 200), np.arange(200) > 60, [str(i) for i in range(200)])
    Index.load(folder / "index").with_fusion_weight(0.2).with_calibration(Calibration(odds, curve))
    return folder / "index"


def answers(index: Path) -> list[object]:
    return list(Linker.load(index).link(["name 3", "fever", "dolor"], 3))


def kinds(index: Path) -> set[str]:
    return {file.name.split("-")[0] for file in index.iterdir()}


@pytest.fixture
def small(tmp_path, tiny_folder):
    """An index of 200 names with int8 codes, for which the number that it takes is lowered."""
    with patch("xsap.search.vectors.SCAN_FROM", 100):
        yield make(tmp_path, tiny_folder, 200, "float16")


def test_sixty_flips_and_forty_truncations_of_an_index(small):
    before = answers(small)
    assert kinds(small) == FILES["float16"]
    assert not_found(flips(small, 60, seed=1), lambda: Linker.load(small)) == []
    assert not_found(cuts(small, 40, seed=1), lambda: Linker.load(small)) == []
    assert answers(small) == before


def test_a_damaged_index_ends_a_command_with_one_line(small, capsys):
    for harm in [*flips(small, 3, seed=2), *cuts(small, 30, seed=2)[-4:]]:
        with harmed(harm), pytest.raises(SystemExit) as stop:
            main(["link", "fever", "--index", str(small)])
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err[:7], err.count("\n")) == (2, "", "error: ", 1)


def test_vectors_that_the_manifest_does_not_name_are_not_read(small, tmp_path, tiny_folder):
    with patch("xsap.search.vectors.SCAN_FROM", 100):
        int8 = make(tmp_path / "int8", tiny_folder, 200, "int8")
        shutil.copy(small / "vectors.npy", int8)
        with pytest.raises(ArtifactError, match=r"vectors\.npy: not named by the manifest"):
            Index.load(int8)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_a_thousand_flips_and_two_hundred_truncations_of_an_index(tmp_path, tiny_folder, vector_dtype):
    """Of so many names that it has all files without any help."""
    index = make(tmp_path, tiny_folder, SCAN_FROM + 500, vector_dtype)
    before = answers(index)
    assert kinds(index) == FILES[vector_dtype]
    harms = flips(index, 1000, seed=3)
    assert {harm.file.name.split("-")[0] for harm in harms} == FILES[vector_dtype]
    assert not_found(harms, lambda: Linker.load(index)) == []
    harms = cuts(index, 200, seed=3)
    assert len(harms) == 200 + 2 * len(FILES[vector_dtype])
    assert not_found(harms, lambda: Linker.load(index)) == []
    assert answers(index) == before


@pytest.mark.slow
def test_damage_to_the_model_of_an_index(tmp_path, tiny_folder):
    index = make(tmp_path, tiny_folder, 200, "float32")
    model = tmp_path / "model"
    before = answers(index)
    assert not_found(flips(model, 200, seed=4), lambda: Linker.load(index)) == []
    harms = [harm for harm in cuts(model, 60, seed=4) if (harm.file.name, harm.size) != ("manifest.json", -1)]
    assert not_found(harms, lambda: Linker.load(index)) == []
    with harmed(Harm(model / "manifest.json", None, -1)):
        assert (
            answers(index) == before
        )  # a model without a manifest is known by the hash of its other files, and these are whole
    assert answers(index) == before


@pytest.fixture
def shards():
    """Shards of 10 names and int8 codes for any number of names, as in the tests of building."""
    with ExitStack() as stack:
        for target, value in SIZES:
            stack.enter_context(patch(target, value))
        yield


@pytest.mark.slow
def test_what_is_damaged_of_an_unfinished_build_is_made_again(tmp_path, shards):
    """Damage comes singly; afterwards the index is that of an unbroken build, and only what was damaged was encoded again."""
    terminology(*NAMES).save(tmp_path / "source")
    build_index(tmp_path / "source", Ngrams(), tmp_path / "fresh")
    with pytest.raises(StoppedError):
        build_index(tmp_path / "source", stop_after(16), tmp_path / "index")
    folder, kept = part_folder(tmp_path / "index"), tmp_path / "kept"
    shutil.copytree(folder, kept)
    there = 10 * len(list(kept.glob("*.shard")))
    assert there >= 40
    found = []
    for harm in [*flips(kept, 150, seed=5), *cuts(kept, 60, seed=5)]:
        shutil.rmtree(folder, ignore_errors=True)
        with harmed(harm):
            shutil.copytree(kept, folder)
        built = build_index(tmp_path / "source", Ngrams(), tmp_path / "index", overwrite=True)
        found.append((built.found, there - 10 if harm.file.suffix == ".shard" else 0))
        assert_same(tmp_path / "index", tmp_path / "fresh")
    assert [a for a, _ in found] == [b for _, b in found]


@pytest.mark.slow
def test_damaged_parts_are_not_merged(tmp_path, shards):
    terminology(*NAMES).save(tmp_path / "source")
    parts = [tmp_path / "parts" / f"p{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        build_index(tmp_path / "source", Ngrams(), part, shard=(i, 3))
    merge_shards(parts, tmp_path / "before")
    harms = [*flips(tmp_path / "parts", 300, seed=6), *cuts(tmp_path / "parts", 100, seed=6)]
    assert not_found(harms, lambda: merge_shards(parts, tmp_path / "merged")) == []
    merge_shards(parts, tmp_path / "merged")
    assert_same(tmp_path / "merged", tmp_path / "before")
