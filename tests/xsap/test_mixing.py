"""A second source of names: each step is what both sources give alone, side by side, and runs with it can be killed and resumed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from data_prep.assemble import Assembly
from data_prep.bitext import read_bitext
from tests.xsap.test_train import SMALL, assert_same_weights, fresh_accelerate  # noqa: F401
from xsap.config import load_settings
from xsap.errors import ConfigError
from xsap.text import TextPolicy
from xsap.training.dataset import NameSet, distinct, fingerprint, with_auxiliary
from xsap.training.run import run as train
from xsap.training.sampling import Concepts, GroupSampler, Mixed, PairSampler


class _Half:  # a terminology as far as Material cares
    def __init__(self, concepts: int) -> None:
        self.concepts = type("Table", (), {"num_rows": concepts})()


def name_set(concepts: int, names: int, stem: str) -> NameSet:
    owners = np.repeat(np.arange(concepts), names)
    return NameSet([f"{stem} {i}" for i in range(len(owners))], owners, ["en"] * len(owners), False, _Half(concepts))


def test_each_step_is_both_sources_side_by_side_and_the_second_goes_round_at_its_own_pace():
    first, second = name_set(40, 3, "a"), name_set(7, 2, "b")
    both = distinct(with_auxiliary(first, second), TextPolicy(), None)
    assert both.parts()[0].names == first.names
    assert both.parts()[1].names == second.names
    samplers = (
        GroupSampler(Concepts(first.concepts), names_per_concept=2, names=12, seed=3),
        PairSampler(Concepts(second.concepts), pairs_per_concept=50, pairs=3, seed=3),
    )
    mixed = Mixed(*samplers, rows=len(first.names), concepts=both.second)
    seen: Counter[str] = Counter()
    for step in range(14):  # two epochs of the first, which has 7 steps; the second's has 3
        names = mixed.batch(*divmod(step, mixed.steps_per_epoch))
        alone = samplers[0].batch(*divmod(step, 7)), samplers[1].batch(*divmod(step, 3))
        strings = [both.names[row] for row in names.rows]
        assert strings == [first.names[row] for row in alone[0].rows] + [second.names[row] for row in alone[1].rows]
        assert (both.concepts[names.rows] == names.concepts).all()
        seen.update(string for string in strings if string[0] == "b")
    assert set(seen.values()) == {4, 5}  # fourteen steps are four epochs of the second and two thirds of a fifth
    assert len(seen) == 14


def test_the_fingerprint_knows_where_the_second_source_begins():
    tokens = type("Tokens", (), {"ids": np.arange(3), "offsets": np.arange(3)})()
    one = NameSet(["a", "b"], np.array([0, 0]), ["en", "en"], False)
    assert fingerprint(tokens, one) != fingerprint(
        tokens, NameSet(one.names, one.concepts, one.languages, False, None, 5)
    )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("muse")
    (folder / "en-de.txt").write_text("".join(f"word{i} Wort{i}\n" for i in range(60)), encoding="utf-8")
    with Assembly(200_000_000) as assembly:
        assembly.save(folder / "t", *read_bitext([folder / "en-de.txt"], assembly, languages="en,de"))
    return folder / "t"


@pytest.mark.parametrize(
    "how",
    [
        ["batch.pairs=20", "sampling.auxiliary_fraction=0.25"],
        [
            "sampling.mode=groups",
            "batch.names=60",
            "sampling.auxiliary_fraction=0.3",
            "sampling.hard_negatives=1",
            "sampling.hard_negatives_refresh_steps=2",
        ],
    ],
)
def test_a_run_with_a_second_source_resumes_to_the_same_weights(sample_folder, pairs, tmp_path, how):
    words = [f"terminology={sample_folder}", f"auxiliary={pairs}", *SMALL, *how, "checkpoint.save_steps=2"]
    train(load_settings(None, [*words, "max_steps=5", f"output={tmp_path / 'whole'}"]))
    train(load_settings(None, [*words, "max_steps=5", "max_minutes=0.0001", f"output={tmp_path / 'parts'}"]))
    train(load_settings(None, [*words, "max_steps=5", f"output={tmp_path / 'parts'}", "resume=auto"]))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    train(
        load_settings(
            None, [*[w for w in words if not w.startswith("auxiliary=")], "max_steps=5", f"output={tmp_path / 'alone'}"]
        )
    )
    one, other = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "alone"))
    assert one["embeddings.word_embeddings.weight"].shape != other["embeddings.word_embeddings.weight"].shape or any(
        (one[name] != other[name]).any() for name in one
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs=P", "terminology=null"], "a file of pairs allows no second source"),
        (
            ["sampling.auxiliary_fraction=0.001"],
            "sampling.auxiliary_fraction = 0.001 of a step is not even a pair; make it larger",
        ),
    ],
)
def test_what_a_second_source_can_not_go_with(sample_folder, pairs, tmp_path, words, message):
    (tmp_path / "P").write_text("C1||a||b\n")
    words = [word.replace("=P", f"={tmp_path / 'P'}") for word in words]
    with pytest.raises(ConfigError, match=message):
        train(
            load_settings(
                None, [f"terminology={sample_folder}", f"auxiliary={pairs}", *SMALL, f"output={tmp_path / 'x'}", *words]
            )
        )
