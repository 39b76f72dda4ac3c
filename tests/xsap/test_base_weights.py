"""Interpolation with the base's weights: what is saved and evaluated is the line between both, and training is as without it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.commands import ROOT
from tests.fixtures.training import assert_same_weights, read_losses, read_weights
from xsap import Encoder, Index, Linker, Terminology, evaluate
from xsap.config import load_settings
from xsap.errors import ConfigError
from xsap.terms.mentions import read_mentions
from xsap.training.base_weights import copy_weights, interpolated
from xsap.training.run import train

MENTIONS = ROOT / "data_prep" / "sample" / "mentions.tsv"


def run(terminology: Path, base: Path, output: Path, *more: str) -> Path:
    words = [f"terminology={terminology}", f"base={base}", f"output={output}", "optim.learning_rate=1e-3", *more]
    batch = ["sampling.mode=groups", "batch.names=60", "loss.name=info_nce", "loss.miner=none", "max_steps=4"]
    train(load_settings(None, ["optim.weight_decay=0.1", *batch, *words]))
    return output


@pytest.fixture(scope="module")
def english(sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So that most rows of the embedding table are not in training."""
    folder = tmp_path_factory.mktemp("terminology") / "english"
    Terminology.load(sample_folder).select(languages={"en"}).save(folder)
    return folder


@pytest.fixture(scope="module")
def trained(english: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(english, tiny_folder, tmp_path_factory.mktemp("trained") / "run")


@pytest.mark.parametrize("fraction", [0.25, 0.9])
def test_saved_weights_are_between_those_of_the_base_and_the_trained_ones(
    english: Path, tiny_folder: Path, trained: Path, tmp_path: Path, fraction: float
) -> None:
    output = run(english, tiny_folder, tmp_path / "run", f"base_fraction={fraction}")
    assert read_losses(output) == read_losses(trained)
    base, plain, found = load_file(tiny_folder / "model.safetensors"), read_weights(trained), read_weights(output)
    assert found.keys() == plain.keys()
    changed = 0
    for name, weights in found.items():
        expected = fraction * base[name].double() + (1 - fraction) * plain[name].double()
        torch.testing.assert_close(weights.double(), expected, rtol=1e-6, atol=1e-7)
        changed += not torch.equal(plain[name], base[name])
    assert changed > 10
    assert Encoder.from_pretrained(output / "model").provenance["training"]["base_fraction"] == fraction


def test_evaluation_is_that_of_the_weights_that_are_saved(
    sample_folder: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    output = run(sample_folder, tiny_folder, tmp_path / "run", "base_fraction=0.5", f"evaluation.mentions={MENTIONS}")
    encoder = Encoder.from_pretrained(output / "model")
    index = Index.build(Terminology.load(sample_folder), encoder, languages={"en"})
    expected = evaluate(Linker(encoder, index), read_mentions(MENTIONS)).to_dict()
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "evaluation" in line][-1]["evaluation"]["mean"] == expected["mean"]


def test_stopped_and_resumed_run_saves_the_same_weights(english: Path, tiny_folder: Path, tmp_path: Path) -> None:
    more = ["base_fraction=0.5", "checkpoint.save_steps=2"]
    whole = run(english, tiny_folder, tmp_path / "whole", *more)
    run(english, tiny_folder, tmp_path / "parts", *more, "max_minutes=0.00001")
    parts = run(english, tiny_folder, tmp_path / "parts", *more, "resume=auto")
    assert_same_weights(whole, parts)


def test_weights_come_back_unchanged_and_also_after_an_error() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(7, 5)
    base = copy_weights(layer)
    torch.nn.init.normal_(layer.weight, std=9)
    own = copy_weights(layer)

    def fail() -> None:
        with interpolated(layer, base, 0.3):
            assert not torch.equal(layer.weight, own["weight"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert all(torch.equal(parameter, own[name]) for name, parameter in layer.named_parameters())
    with interpolated(layer, {}, 0.0):
        assert torch.equal(layer.weight, own["weight"])


def test_a_new_model_has_no_base() -> None:
    with pytest.raises(
        ConfigError, match="base_fraction needs a pretrained base, found scratch; add --set base_fraction=0"
    ):
        load_settings(None, ["base=scratch", "base_fraction=0.5", "terminology=t", "output=o"])
