"""Hard negatives against brute force in double precision; in an interrupted run, and on two processes."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.fixtures.commands import ROOT, Launch
from tests.fixtures.encoders import save_one_layer_model
from tests.fixtures.training import read_losses, read_weights, set_options
from xsap import Encoder, Terminology
from xsap.config import load_settings
from xsap.encoding.packing import tokenize_names
from xsap.terms.terminology import NAMES_SCHEMA
from xsap.text import normalize_all
from xsap.training import alignment as alignment_module
from xsap.training import run as run_module
from xsap.training.alignment import search_warning
from xsap.training.mining import HardNegatives, all_pairs
from xsap.training.run import train
from xsap.training.sampling import Concepts, GroupSampler, Names

ALONE = SimpleNamespace(device=torch.device("cpu"), is_main_process=True, num_processes=1)


def make_hard_negatives(
    folder: Path,
    names: list[str],
    concepts: np.ndarray,
    kept: int,
    languages: list[str] | None = None,
    **sizes: int,
) -> HardNegatives:
    encoder = Encoder.from_pretrained(folder, device="cpu").train()  # as in a run, between two steps
    usable = Concepts(concepts, languages, "en" if languages else None)
    sampler = GroupSampler(usable, names_per_concept=2, names=40, seed=0, hard_negatives=1)
    names = normalize_all(names, encoder.policy)
    strings = np.array([sorted(set(names)).index(name) for name in names])
    tokens = tokenize_names(names, encoder.tokenizer, encoder.max_length)
    return HardNegatives(sampler, encoder, tokens, strings, kept, refresh_steps=1, **sizes)


def nearest_of(hard_negatives: HardNegatives) -> np.ndarray:
    """What the sampler draws from, which is what a checkpoint keeps."""
    nearest = hard_negatives.state_dict()["nearest"].numpy()
    assert np.array_equal(hard_negatives.sampler.nearest, nearest)
    return nearest


def cosines(folder: Path, names: list[str]) -> np.ndarray:
    """By `Encoder.encode`; -2 for concepts of the same name, itself included."""
    encoder = Encoder.from_pretrained(folder, device="cpu")
    vectors = encoder.encode(names).astype(np.float64)
    similarity = vectors @ vectors.T
    same = np.array(normalize_all(names, encoder.policy), dtype=object)
    similarity[same[:, None] == same] = -2
    return similarity


@pytest.mark.parametrize("sizes", [{}, {"names_per_batch": 7, "rows_per_batch": 5}])
def test_hard_negatives_match_brute_force(tiny_folder: Path, sample_names: list[str], sizes: dict[str, int]) -> None:
    """Only first names count; some concepts have the same one, in different case."""
    first, others = sample_names[:600:10], sample_names[5:605:10]
    first[30:40] = [name.lower() for name in first[:10]]
    names = [name for pair in zip(first, others, strict=True) for name in pair]
    found = make_hard_negatives(tiny_folder, names, np.repeat(np.arange(60), 2), kept=8, **sizes)
    assert found.state_dict() == {}
    found.refresh(ALONE)
    similarity = cosines(tiny_folder, first)
    assert nearest_of(found).shape == (60, 8)
    assert (similarity == -2).sum() == 60 + 20
    for own, row in zip(similarity, nearest_of(found), strict=True):
        assert len(set(row.tolist())) == 8
        np.testing.assert_allclose(own[row], np.sort(own)[::-1][:8], atol=1e-6)  # in order, none of the same name


def test_concept_is_represented_by_its_first_name_in_the_anchor_language(
    tiny_folder: Path, sample_names: list[str]
) -> None:
    names, concepts = sample_names[:600:5], np.repeat(np.arange(40), 3)
    # English is the first, the second or the third name
    languages = ["en" if i % 3 == i // 3 % 3 else "de" for i in range(120)]
    found = make_hard_negatives(tiny_folder, names, concepts, 5, languages)
    found.refresh(ALONE)
    similarity = cosines(tiny_folder, [name for name, code in zip(names, languages, strict=True) if code == "en"])
    for own, row in zip(similarity, nearest_of(found), strict=True):
        np.testing.assert_allclose(own[row], np.sort(own)[::-1][:5], atol=1e-6)


def test_hard_negatives_of_few_concepts_are_all_others_and_the_same_name_comes_last(tiny_folder: Path) -> None:
    names = ["fever", "Fieber", "FEVER", "heat", "cough", "Husten", "pain", "Schmerz"]
    found = make_hard_negatives(tiny_folder, names, np.repeat(np.arange(4), 2), kept=100)
    found.refresh(ALONE)
    assert nearest_of(found).shape == (4, 3)
    # last come the concept itself and the one of the same name
    assert [set(row) for row in nearest_of(found)[[0, 1], :2].tolist()] == [{2, 3}] * 2


def test_refresh_changes_nothing_but_its_result(tiny_folder: Path, sample_names: list[str]) -> None:
    found = make_hard_negatives(tiny_folder, sample_names[:80], np.repeat(np.arange(40), 2), kept=4)
    torch.manual_seed(5)
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in found.encoder.state_dict().items()}
    found.refresh(ALONE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in found.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in found.encoder.parameters())


named = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20)


@given(named=named, with_strings=st.booleans())
def test_equal_strings_of_two_concepts_are_not_negatives(named: list[tuple[int, int]], with_strings: bool) -> None:
    concepts, strings = (torch.tensor(column) for column in zip(*named, strict=True))
    positives, negatives = all_pairs(concepts, strings if with_strings else None)
    for i, (concept, string) in enumerate(named):
        for j, (other, text) in enumerate(named):
            assert positives[i, j] == (i != j and concept == other)
            assert negatives[i, j] == (concept != other and (not with_strings or string != text))


@pytest.fixture(scope="module")
def homonyms(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 of the sample's concepts; each shares one of its names with another concept."""
    rows = [row for row in Terminology.load(sample_folder).names.to_pylist() if row["language"] in ("en", "de", "es")]
    kept = sorted({row["concept_id"] for row in rows})[:40]
    rows = [row for row in rows if row["concept_id"] in kept]
    for number, concept in enumerate(kept):
        other = next(row for row in rows if row["concept_id"] == kept[number ^ 1])
        rows.append(other | {"concept_id": concept})
    folder = tmp_path_factory.mktemp("homonyms") / "terminology"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), None)[0].save(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> dict[float, Path]:
    """Dropout → a model folder."""
    return {
        dropout: save_one_layer_model(tmp_path_factory.mktemp("base") / "model", sample_names, dropout=dropout)
        for dropout in (0.0, 0.1)
    }


# 10 steps are 3 epochs; hard negatives are refreshed after the 4th and the 8th
COMMON = [
    "sampling.mode=groups",
    "sampling.hard_negatives=2",
    "sampling.hard_negatives_refresh_steps=4",
    "batch.names=90",
    "sampling.names_per_concept=3",
]
COMMON += [
    "max_steps=10",
    "epochs=9",
    "optim.learning_rate=3e-3",
    "checkpoint.save_steps=2",
    "checkpoint.save_total_limit=9",
    "loss.name=info_nce",
    "loss.miner=none",
]


def settings(terminology: Path, base: Path, output: Path, *more: str) -> list[str]:
    return [f"terminology={terminology}", f"base={base}", f"output={output}", *COMMON, *more]


def test_run_with_hard_negatives_excludes_equal_strings_from_negatives(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard negatives such pairs are negatives, as in the original recipe."""
    batches, masks, names = [], [], []
    batch, loss, prepare = GroupSampler.batch, alignment_module.info_nce, run_module.distinct

    def recorded_batch(sampler: GroupSampler, epoch: int, step: int) -> Names:
        batches.append(found := batch(sampler, epoch, step))
        return found

    def recorded_loss(similarity: Tensor, positives: Tensor, negatives: Tensor, **options: float) -> Tensor:
        masks.append(negatives)
        return loss(similarity, positives, negatives, **options)

    def recorded_names(*arguments: object) -> object:
        names.append((name_set := prepare(*arguments)).names)
        return name_set

    monkeypatch.setattr(GroupSampler, "batch", recorded_batch)
    monkeypatch.setattr(alignment_module, "info_nce", recorded_loss)
    monkeypatch.setattr(run_module, "distinct", recorded_names)
    for hard, output in ((2, "hard"), (0, "plain")):
        more = [f"sampling.hard_negatives={hard}", "max_steps=6"]
        train(load_settings(None, settings(homonyms, bases[0.0], tmp_path / output, *more)))
        homonym_pairs = 0
        for (rows, concepts, _), negatives in zip(batches, masks, strict=True):
            texts = np.array([names[-1][row] for row in rows], dtype=object)
            same = (texts[:, None] == texts) & (concepts[:, None] != concepts)
            homonym_pairs += same.sum()
            assert np.array_equal(negatives.numpy(), (concepts[:, None] != concepts) & ~(same if hard else False))
        assert len(masks) == 6
        assert homonym_pairs >= 10
        batches.clear()
        masks.clear()


@pytest.fixture(scope="module")
def unbroken(homonyms: Path, bases: dict[float, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(load_settings(None, settings(homonyms, bases[0.1], output)))
    return output


def test_hard_negatives_are_refreshed_on_schedule_and_saved_with_each_checkpoint(unbroken: Path) -> None:
    found = [
        load_file(unbroken / "checkpoints" / f"step-{step}" / "arrays.safetensors").get("nearest")
        for step in (2, 4, 6, 8, 10)
    ]
    assert found[:2] == [None, None]  # the first refresh comes between the 4th step and the 5th
    assert found[2].shape == (40, 8)
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[3], found[4])


@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param(2, id="before the first refresh", marks=pytest.mark.slow),
        pytest.param(4, id="at it"),
        pytest.param(6, id="between two"),
        pytest.param(8, id="at the second", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_has_the_same_hard_negatives(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, unbroken: Path, stopped: int
) -> None:
    """Bit by bit, whatever the run did after its checkpoint."""
    output = shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(output / "model")
    for path in (output / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > stopped:
            shutil.rmtree(path)
    train(load_settings(None, settings(homonyms, bases[0.1], output, "resume=auto")))
    assert read_losses(output) == read_losses(unbroken)
    found = read_weights(output)
    assert all(torch.equal(found[name], value) for name, value in read_weights(unbroken).items())


@pytest.mark.slow
def test_two_processes_have_the_hard_negatives_of_one(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, launch: Launch
) -> None:
    train(load_settings(None, settings(homonyms, bases[0.0], tmp_path / "one")))
    words = set_options(settings(homonyms, bases[0.0], tmp_path / "two"))
    done = launch(2, ROOT / "xsap" / "train.py", *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "two" / "checkpoints" / "step-10" / "manifest.json").read_text())
    assert manifest["identity"]["processes"] == 2
    assert read_losses(tmp_path / "two") == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)
    one, two = (
        load_file(tmp_path / name / "checkpoints" / "step-10" / "arrays.safetensors")["nearest"]
        for name in ("one", "two")
    )
    assert (one[:, :2] == two[:, :2]).float().mean() > 0.9  # near ties may fall otherwise


@pytest.mark.parametrize(
    ("concepts", "refresh_steps", "names", "share", "steps"),
    [
        (19_481, 500, 256, None, None),  # 5 % of the time
        (96_000, 250, 512, None, None),  # exactly a fifth
        (96_001, 250, 512, "20%", 251),
        (4_200_000, 500, 512, "85%", 10_938),
    ],
)
def test_a_search_that_takes_much_of_the_time_is_warned_of(concepts, refresh_steps, names, share, steps) -> None:
    warning = search_warning(concepts, refresh_steps, names)
    if share is None:
        assert warning is None
    else:
        assert warning == (
            f"each search for hard negatives encodes {concepts:,} names, at least {share} of the training time; "
            f"sampling.hard_negatives_refresh_steps={steps} makes it 20%"
        )
        assert search_warning(concepts, steps, names) is None


@pytest.mark.parametrize(("max_steps", "warned"), [(4, False), (5, True)])
def test_a_run_without_a_search_does_not_warn_of_one(sample_folder, tiny_folder, tmp_path, caplog, max_steps, warned):
    words = ["sampling.mode=groups", "batch.names=16", "sampling.hard_negatives=1", "loss.name=info_nce"]
    words += ["loss.miner=none", "sampling.hard_negatives_refresh_steps=4", f"max_steps={max_steps}"]
    words += [f"terminology={sample_folder}", f"base={tiny_folder}", f"output={tmp_path / 'run'}"]
    with caplog.at_level(logging.WARNING, "xsap"):
        train(load_settings(None, words))
    assert any("hard_negatives_refresh_steps" in record.getMessage() for record in caplog.records) is warned
