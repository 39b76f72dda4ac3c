"""Hard concepts against brute force in double precision; in a run that is broken off, and on two processes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.fixtures.commands import ROOT, Run
from xsap import Encoder, Terminology
from xsap.config import load_settings
from xsap.encoding.model_folder import EncoderConfig
from xsap.encoding.packing import tokenize_names
from xsap.encoding.vocabulary import from_scratch
from xsap.terms.terminology import NAMES_SCHEMA
from xsap.text import TextPolicy, normalize_all
from xsap.training import mining as hard_negatives
from xsap.training import run as run_module
from xsap.training.mining import HardNegatives, all_pairs
from xsap.training.run import run as train
from xsap.training.sampling import Concepts, GroupSampler, Names

ALONE = SimpleNamespace(device=torch.device("cpu"), is_main_process=True, num_processes=1)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in the process; each run in a test begins as in a new one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()


def neighbors_of(
    folder: Path, names: list[str], concepts: np.ndarray, kept: int, languages: list[str] | None = None
) -> HardNegatives:
    encoder = Encoder.from_pretrained(folder, device="cpu").train()  # as a run has it between two steps
    usable = Concepts(concepts, languages, "en" if languages else None)
    sampler = GroupSampler(usable, names_per_concept=2, names=40, seed=0, hard_negatives=1)
    names = normalize_all(names, encoder.policy)
    strings = np.array([sorted(set(names)).index(name) for name in names])
    return HardNegatives(
        sampler, encoder, tokenize_names(names, encoder.tokenizer, encoder.max_length), strings, kept, every=1
    )


def cosines(folder: Path, names: list[str]) -> np.ndarray:
    """By the encoder as users call it; two of the same name have none, itself included."""
    encoder = Encoder.from_pretrained(folder, device="cpu")
    vectors = encoder.encode(names).astype(np.float64)
    similarity = vectors @ vectors.T
    same = np.array(normalize_all(names, encoder.policy), dtype=object)
    similarity[same[:, None] == same] = -2
    return similarity


@pytest.mark.parametrize(("names_at_once", "rows_at_once"), [(1024, 4096), (7, 5)])
def test_the_nearest_concepts_are_those_of_brute_force(
    tiny_folder: Path, sample_names: list[str], monkeypatch: pytest.MonkeyPatch, names_at_once: int, rows_at_once: int
) -> None:
    """The first names alone count; some concepts have the same one, written in two ways."""
    monkeypatch.setattr(hard_negatives, "_NAMES", names_at_once)
    monkeypatch.setattr(hard_negatives, "_ROWS", rows_at_once)
    first, others = sample_names[:600:10], sample_names[5:605:10]
    first[30:40] = [name.lower() for name in first[:10]]
    names = [name for pair in zip(first, others, strict=True) for name in pair]
    found = neighbors_of(tiny_folder, names, np.repeat(np.arange(60), 2), kept=8)
    assert found.sampler.nearest is None
    found.refresh(ALONE)
    similarity = cosines(tiny_folder, first)
    assert found.sampler.nearest.shape == (60, 8)
    assert (similarity == -2).sum() == 60 + 20
    for own, row in zip(similarity, found.sampler.nearest, strict=True):
        assert len(set(row.tolist())) == 8
        np.testing.assert_allclose(
            own[row], np.sort(own)[::-1][:8], atol=1e-6
        )  # the most similar first, and none of the same name


def test_a_concept_stands_for_its_first_name_in_the_anchor_language(tiny_folder: Path, sample_names: list[str]) -> None:
    names, concepts = sample_names[:600:5], np.repeat(np.arange(40), 3)
    languages = [
        "en" if i % 3 == i // 3 % 3 else "de" for i in range(120)
    ]  # now the first, now the second, now the third
    found = neighbors_of(tiny_folder, names, concepts, 5, languages)
    found.refresh(ALONE)
    similarity = cosines(tiny_folder, [name for name, code in zip(names, languages, strict=True) if code == "en"])
    for own, row in zip(similarity, found.sampler.nearest, strict=True):
        np.testing.assert_allclose(own[row], np.sort(own)[::-1][:5], atol=1e-6)


def test_of_few_concepts_all_others_are_known_and_those_of_the_same_name_come_last(tiny_folder: Path) -> None:
    names = ["fever", "Fieber", "FEVER", "heat", "cough", "Husten", "pain", "Schmerz"]
    found = neighbors_of(tiny_folder, names, np.repeat(np.arange(4), 2), kept=100)
    found.refresh(ALONE)
    assert found.sampler.nearest.shape == (4, 3)
    assert [set(row) for row in found.sampler.nearest[[0, 1], :2].tolist()] == [
        {2, 3}
    ] * 2  # then itself or its namesake


def test_a_look_up_leaves_no_trace_but_its_result(tiny_folder: Path, sample_names: list[str]) -> None:
    found = neighbors_of(tiny_folder, sample_names[:80], np.repeat(np.arange(40), 2), kept=4)
    torch.manual_seed(5)
    state, before = torch.get_rng_state(), {name: value.clone() for name, value in found.encoder.state_dict().items()}
    found.refresh(ALONE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in found.encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in found.encoder.parameters())


named = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=20)


@given(named=named, told=st.booleans())
def test_the_same_string_under_two_concepts_is_no_negative(named: list[tuple[int, int]], told: bool) -> None:
    concepts, strings = (torch.tensor(column) for column in zip(*named, strict=True))
    positives, negatives = all_pairs(concepts, strings if told else None)
    for i, (concept, string) in enumerate(named):
        for j, (other, text) in enumerate(named):
            assert positives[i, j] == (i != j and concept == other)
            assert negatives[i, j] == (concept != other and (not told or string != text))


@pytest.fixture(scope="module")
def homonyms(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 of the sample's concepts; each shares one of its names with another concept."""
    rows = [row for row in Terminology.load(sample_folder).names.to_pylist() if row["language"] in ("en", "de", "es")]
    kept = sorted({row["concept_id"] for row in rows})[:40]
    rows = [row for row in rows if row["concept_id"] in kept]
    for number, concept in enumerate(kept):
        lent = next(row for row in rows if row["concept_id"] == kept[number ^ 1])
        rows.append(lent | {"concept_id": concept})
    folder = tmp_path_factory.mktemp("homonyms") / "terminology"
    Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), None)[0].save(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> dict[float, Path]:
    """Dropout → a model of one narrow layer."""
    size = {"vocabulary_size": 2000, "layers": 1, "hidden": 32, "heads": 2}
    folders = {dropout: tmp_path_factory.mktemp("base") / "model" for dropout in (0.0, 0.1)}
    for dropout, folder in folders.items():
        from_scratch(
            sample_names, EncoderConfig("mean", 25, TextPolicy("lower")), **size, dropout=dropout, seed=1
        ).save_pretrained(folder)
    return folders


# 10 steps are 3 epochs; hard concepts are looked up after the 4th and the 8th
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


def losses_of(output: Path) -> list[float]:
    return [
        line["loss"] for line in map(json.loads, (output / "metrics.jsonl").read_text().splitlines()) if "loss" in line
    ]


def test_in_training_the_same_string_under_two_concepts_is_no_negative(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the names of each step in their order. Without hard concepts such pairs are negatives, as in the original recipe."""
    rows, masks, names = [], [], []
    batch, objective, prepared = GroupSampler.batch, run_module._objective, run_module.distinct

    def recorded_batch(sampler: GroupSampler, epoch: int, step: int) -> Names:
        rows.append(found := batch(sampler, epoch, step))
        return found

    def recorded_masks(loss: object) -> object:
        inner = objective(loss)

        def call(similarity: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
            masks.append(negatives)
            return inner(similarity, positives, negatives)

        return call

    def recorded_names(*arguments: object) -> object:
        names.append((name_set := prepared(*arguments)).names)
        return name_set

    monkeypatch.setattr(GroupSampler, "batch", recorded_batch)
    monkeypatch.setattr(run_module, "_objective", recorded_masks)
    monkeypatch.setattr(run_module, "distinct", recorded_names)
    for hard, output in ((2, "hard"), (0, "plain")):
        more = [f"sampling.hard_negatives={hard}", "max_steps=6"]
        train(load_settings(None, settings(homonyms, bases[0.0], tmp_path / output, *more)))
        namesakes = 0
        for (at, concepts), negatives in zip(rows, masks, strict=True):
            texts = np.array([names[-1][row] for row in at], dtype=object)
            same = (texts[:, None] == texts) & (concepts[:, None] != concepts)
            namesakes += same.sum()
            assert np.array_equal(negatives.numpy(), (concepts[:, None] != concepts) & ~(same if hard else False))
        assert len(masks) == 6
        assert namesakes >= 10
        rows.clear()
        masks.clear()


@pytest.fixture(scope="module")
def unbroken(homonyms: Path, bases: dict[float, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(load_settings(None, settings(homonyms, bases[0.1], output)))
    return output


def test_hard_concepts_are_looked_up_every_so_many_steps_and_kept_with_each_checkpoint(unbroken: Path) -> None:
    found = [
        load_file(unbroken / "checkpoints" / f"step-{step}" / "arrays.safetensors").get("nearest")
        for step in (2, 4, 6, 8, 10)
    ]
    assert found[:2] == [None, None]  # what the 4th step led to is looked up before the 5th
    assert found[2].shape == (40, 8)
    assert torch.equal(found[2], found[3])
    assert not torch.equal(found[3], found[4])


@pytest.mark.parametrize(
    "stopped", [2, 4, 6, 8], ids=["before the first look-up", "at it", "between two", "at the second"]
)
def test_a_run_broken_off_and_resumed_meets_the_same_hard_concepts(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, unbroken: Path, stopped: int
) -> None:
    """To the bit. What the run did after its checkpoint is lost with it."""
    output = shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(output / "model")
    for place in (output / "checkpoints").iterdir():
        if int(place.name.removeprefix("step-")) > stopped:
            shutil.rmtree(place)
    train(load_settings(None, settings(homonyms, bases[0.1], output, "resume=auto")))
    assert losses_of(output) == losses_of(unbroken)
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (output, unbroken))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_two_processes_meet_the_hard_concepts_of_one(
    homonyms: Path, bases: dict[float, Path], tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(load_settings(None, settings(homonyms, bases[0.0], tmp_path / "one")))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [word for value in settings(homonyms, bases[0.0], tmp_path / "two") for word in ("--set", value)]
    done = run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, ROOT / "xsap" / "train.py", *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "two" / "checkpoints" / "step-10" / "manifest.json").read_text())
    assert manifest["identity"]["processes"] == 2
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)
    one, two = (
        load_file(tmp_path / name / "checkpoints" / "step-10" / "arrays.safetensors")["nearest"]
        for name in ("one", "two")
    )
    assert (one[:, :2] == two[:, :2]).float().mean() > 0.9  # near ties may fall otherwise
