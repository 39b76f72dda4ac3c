"""Frozen layers: what is frozen stays bit by bit, and the rest is trained as if the gradients of the frozen weights were left out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.fixtures.training import assert_same_weights, read_losses, read_weights
from xsap import Encoder
from xsap.config import load_settings
from xsap.encoding.layers import transformer_layers
from xsap.encoding.packing import pack, tokenize_names
from xsap.errors import ConfigError, XsapError
from xsap.training.dataset import distinct, from_terminology
from xsap.training.frozen_layers import freeze
from xsap.training.losses import info_nce
from xsap.training.mining import all_pairs
from xsap.training.run import train
from xsap.training.sampling import Concepts, GroupSampler

STEPS, LR, CLIP = 6, 2e-3, 0.5
SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 99}
DISTIL = {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64, "vocab_size": 99}


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_folder):
    """A model of two layers without dropout, so that a plain loop draws nothing."""
    folder = tmp_path_factory.mktemp("frozen") / "base"
    encoder = Encoder.from_pretrained(tiny_folder)
    config = encoder.transformer.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    encoder.save_pretrained(folder)
    return folder


def options(terminology, base, output, *more):
    optim = [f"optim.learning_rate={LR}", f"optim.max_grad_norm={CLIP}", "optim.weight_decay=0.1"]
    batch = ["sampling.mode=groups", "batch.names=40", f"max_steps={STEPS}", "loss.name=info_nce", "loss.miner=none"]
    return [f"terminology={terminology}", f"base={base}", f"output={output}", *optim, *batch, *more]


def is_frozen(name: str, layers: int) -> bool:
    return name.startswith("embeddings.") or any(name.startswith(f"encoder.layer.{i}.") for i in range(layers))


def plain_loop(base: Path, terminology: Path, layers: int) -> tuple[Encoder, list[float]]:
    """The whole model is computed backward; the gradients of frozen weights are then left out."""
    encoder = Encoder.from_pretrained(base, device="cpu").train()
    name_set = distinct(from_terminology(terminology, None), encoder.policy, None)
    tokens = tokenize_names(name_set.names, encoder.tokenizer, encoder.max_length)
    sampler = GroupSampler(Concepts(name_set.concepts), names_per_concept=4, names=40, seed=0)
    optimizer, losses = torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=0.1, fused=True), []
    for step in range(STEPS):
        names = sampler.batch(0, step)
        vectors = encoder(pack(tokens.take(names.rows)))
        loss = info_nce(vectors @ vectors.T, *all_pairs(torch.from_numpy(names.concepts)), temperature=0.05)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in encoder.transformer.named_parameters():
            if is_frozen(name, layers):
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
        optimizer.step()
        losses.append(loss.item())
    return encoder, losses


@pytest.mark.parametrize("layers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_frozen_weights_stay_and_others_are_trained_as_without_their_gradients(base, sample_folder, tmp_path, layers):
    train(load_settings(None, options(sample_folder, base, tmp_path / "run", f"optim.frozen_layers={layers}")))
    expected, losses = plain_loop(base, sample_folder, layers)
    assert read_losses(tmp_path / "run") == pytest.approx(losses, rel=1e-5)
    found, before = read_weights(tmp_path / "run"), load_file(base / "model.safetensors")
    wanted = dict(expected.transformer.named_parameters())
    frozen = {name for name in found if is_frozen(name, layers)}
    assert frozen
    for name, weight in found.items():
        if name in frozen:
            assert torch.equal(weight, before[name]), name
        elif not name.endswith("key.bias"):  # its gradient is zero but for rounding
            assert (weight - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
    moved = [name for name in set(found) - frozen if not torch.equal(found[name], before[name])]
    assert set(found) - frozen - set(moved) <= {name for name in found if name.endswith("key.bias")}


@pytest.mark.slow
def test_resumed_run_with_frozen_layers_has_the_same_weights_and_no_state_of_frozen_ones(
    tiny_folder, sample_folder, tmp_path
):
    def run(name, *more):  # with dropout
        words = options(sample_folder, tiny_folder, tmp_path / name, "optim.frozen_layers=1", *more)
        train(load_settings(None, [*words, "checkpoint.save_steps=2", "checkpoint.save_total_limit=9"]))

    run("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / f"step-{step}")
    run("resumed", "resume=auto")
    assert_same_weights(tmp_path / "whole", tmp_path / "resumed")
    (checkpoint,) = (tmp_path / "resumed" / "checkpoints").glob("step-*6")
    state = load_file(checkpoint / "optimizer.safetensors")
    assert state
    assert not [key for key in state if "embeddings" in key or "layer.0." in key]
    with pytest.raises(
        XsapError, match="was saved with optim = .*'frozen_layers': 1}, this run has .*'frozen_layers': 0}"
    ):
        run("resumed", "resume=auto", "optim.frozen_layers=0")


def test_nothing_below_the_lowest_trained_layer_is_kept_for_the_backward_pass(base, sample_names):
    encoder = Encoder.from_pretrained(base).train()
    batch = pack(tokenize_names(sample_names[:40], encoder.tokenizer, 32))

    def saved() -> int:
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            encoder(batch).sum().backward()
        return total

    everything = saved()
    freeze(encoder, 1)
    encoder.zero_grad(set_to_none=True)
    assert saved() < 0.7 * everything
    assert encoder.transformer.embeddings.word_embeddings.weight.grad is None


@pytest.mark.parametrize(
    ("model", "layers", "above"),
    [
        (XLMRobertaModel(XLMRobertaConfig(**SIZE), add_pooling_layer=False), "encoder.layer", ()),
        (BertModel(BertConfig(**SIZE), add_pooling_layer=False), "encoder.layer", ()),
        (MPNetModel(MPNetConfig(**SIZE), add_pooling_layer=False), "encoder.layer", ()),
        (DistilBertModel(DistilBertConfig(**DISTIL)), "transformer.layer", ()),
        (ModernBertModel(ModernBertConfig(**SIZE, pad_token_id=0)), "layers", ("final_norm.",)),
    ],
    ids=["XLM-R", "BERT", "MPNet", "DistilBERT", "ModernBERT"],
)
def test_layers_of_each_architecture(model, layers, above, tiny_folder):
    encoder = Encoder.from_pretrained(tiny_folder)
    encoder.transformer = model
    freeze(encoder, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith((f"{layers}.2.", *above))}
    with pytest.raises(ConfigError, match="must be below 3, the number of layers of the model; found 3"):
        freeze(encoder, 3)


def test_architecture_without_known_layers_is_refused():
    model = GPT2Model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99))
    with pytest.raises(ConfigError, match="the layers of a model of type gpt2 are not known"):
        transformer_layers(model)


def test_table_of_frozen_embeddings_does_not_decay(base, sample_folder, tmp_path):
    train(
        load_settings(
            None, options(sample_folder, base, tmp_path / "run", "optim.frozen_layers=0", "sampling.languages=en_syn")
        )
    )
    key = "embeddings.word_embeddings.weight"
    found, before = read_weights(tmp_path / "run")[key], load_file(base / "model.safetensors")[key]
    assert np.array_equal(found.numpy(), before.numpy())
