"""Gradient caching against the plain gradient of the whole batch: every loss, uneven chunks, active dropout, one process and two."""

import copy
import json
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.fixtures.commands import ROOT, Launch
from tests.fixtures.encoders import save_one_layer_model
from tests.fixtures.training import read_losses, read_weights, set_options
from xsap import Encoder
from xsap.config import load_settings
from xsap.encoding.packing import PackedBatch, Tokens, pack, tokenize_names
from xsap.training.large_batch import cached_backward
from xsap.training.losses import circle, info_nce, lifted_structure, multi_similarity, nca, triplet
from xsap.training.mining import all_pairs, triplet_margin
from xsap.training.run import train

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "multi_similarity": partial(multi_similarity, alpha=1.0, beta=60.0, base=0.5),
    "info_nce": partial(info_nce, temperature=0.05),
    "circle": partial(circle, m=0.4, gamma=80.0),
    "triplet": partial(triplet, margin=0.2),
    "lifted_structure": partial(lifted_structure, neg_margin=1.0, pos_margin=0.0),
    "nca": partial(nca, softmax_scale=8.0),
}
SIZES = [5, 11, 1, 7]  # names per chunk: all different, one of a single name


@pytest.fixture(scope="module")
def encoder(tiny_folder: Path) -> Encoder:
    """With dropout 0.1, in training mode. Weights are scaled up, so that names differ and every layer matters."""
    encoder = Encoder.from_pretrained(tiny_folder, device="cpu").train()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return encoder


@pytest.fixture(scope="module")
def tokens(encoder: Encoder, sample_names: list[str]) -> Tokens:
    """24 names, of all lengths."""
    return tokenize_names(sample_names[:240:10], encoder.tokenizer, 32)


def objective(name: str, mined: bool) -> Callable[[Tensor], Tensor]:
    """Vectors of 24 names of 8 concepts → the loss, of all pairs or of those that the miner keeps, which are some but not all."""
    masks = all_pairs(torch.arange(24) % 8)

    def loss_of(vectors: Tensor) -> Tensor:
        similarity = vectors @ vectors.T
        if not mined:
            return LOSSES[name](similarity, *masks)
        thinned = triplet_margin(similarity, *masks, margin=-0.1)
        assert all(0 < few.sum() < many.sum() for few, many in zip(thinned, masks, strict=True))
        return LOSSES[name](similarity, *thinned)

    return loss_of


def encode_by(encoder: Encoder, tokens: Tokens, sizes: Sequence[int]) -> Callable[[int], Tensor]:
    chunks = torch.arange(len(tokens)).split(list(sizes))

    def encode(chunk: int) -> Tensor:
        torch.manual_seed(100 + chunk)
        return encoder(pack(tokens.take(chunks[chunk].numpy())))

    return encode


def gradients(encoder: Encoder) -> dict[str, Tensor]:
    found = {
        name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.grad is not None
    }
    encoder.zero_grad()
    return found


def both_ways(
    encoder: Encoder, tokens: Tokens, sizes: Sequence[int], loss_of: Callable[[Tensor], Tensor]
) -> Iterator[tuple]:
    """(loss, gradients) of the plain way, then of the cached one."""
    encode = encode_by(encoder, tokens, sizes)
    plain = loss_of(torch.cat([encode(chunk) for chunk in range(len(sizes))]))
    plain.backward()
    yield plain.detach(), gradients(encoder)
    yield cached_backward(encode, len(sizes), loss_of, torch.Tensor.backward, nullcontext), gradients(encoder)


def worst(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of any gradient, relative to the largest gradient."""
    assert found.keys() == wanted.keys()
    scale = max(gradient.abs().max().item() for gradient in wanted.values())
    assert scale > 0
    return max((found[name] - wanted[name]).abs().max().item() for name in wanted) / scale


@pytest.mark.parametrize("mined", [False, True], ids=["all", "mined"])
@pytest.mark.parametrize("name", LOSSES)
def test_cached_gradient_matches_the_plain_one(encoder: Encoder, tokens: Tokens, name: str, mined: bool) -> None:
    (loss, wanted), (cached, found) = both_ways(encoder, tokens, SIZES, objective(name, mined))
    assert torch.equal(cached, loss)
    assert worst(found, wanted) < 1e-6


@pytest.mark.parametrize("sizes", [[24], [23, 1], [1, 23], [1] * 24], ids=str)
def test_cached_gradient_does_not_depend_on_chunk_sizes(encoder: Encoder, tokens: Tokens, sizes: list[int]) -> None:
    (loss, wanted), (cached, found) = both_ways(encoder, tokens, sizes, objective("info_nce", mined=True))
    assert torch.equal(cached, loss)
    assert worst(found, wanted) < (1e-6 if len(sizes) > 1 else 1e-12)


def test_cached_gradient_is_exact_in_double_precision(
    encoder: Encoder, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference in single precision is rounding, not a missing term."""
    monkeypatch.setattr(
        torch.Tensor, "float", lambda tensor: tensor
    )  # the encoder returns single precision in any case
    double = Encoder(copy.deepcopy(encoder.transformer).double(), encoder.tokenizer, encoder.config).train()
    (loss, wanted), (cached, found) = both_ways(double, tokens, SIZES, objective("info_nce", mined=True))
    assert loss.dtype == torch.float64
    assert torch.equal(cached, loss)
    assert worst(found, wanted) < 1e-14


def test_dropout_is_active_in_these_tests(encoder: Encoder, tokens: Tokens) -> None:
    encode = encode_by(encoder, tokens, SIZES)
    assert torch.equal(encode(0), encode(0))
    torch.manual_seed(3)
    assert not torch.allclose(encoder(pack(tokens.take(np.arange(5)))), encode(0), atol=1e-3)


def test_cached_gradients_add_to_earlier_ones(encoder: Encoder, tokens: Tokens) -> None:
    """As in a backward pass. A loss that `backward` scales has scaled gradients, but is returned unscaled."""
    encode, loss_of = encode_by(encoder, tokens, SIZES), objective("info_nce", mined=False)
    (loss, wanted), _ = both_ways(encoder, tokens, SIZES, loss_of)
    for _ in range(2):
        assert torch.equal(
            cached_backward(encode, len(SIZES), loss_of, lambda loss: (loss * 8).backward(), nullcontext), loss
        )
    assert worst(gradients(encoder), {name: 16 * gradient for name, gradient in wanted.items()}) < 1e-6


def test_cached_backward_keeps_at_most_one_graph_in_memory(encoder: Encoder, tokens: Tokens) -> None:
    """The purpose of gradient caching."""
    inner, made, alive = encode_by(encoder, tokens, SIZES), [], []

    def living() -> int:
        return sum(graph() is not None for graph in made)

    def encode(chunk: int) -> Tensor:
        alive.append(living())
        vectors = inner(chunk)
        made.append(weakref.ref(vectors))
        return vectors

    def loss_of(vectors: Tensor) -> Tensor:
        alive.append(living())
        return objective("info_nce", mined=False)(vectors)

    cached_backward(encode, len(SIZES), loss_of, torch.Tensor.backward, nullcontext)
    gradients(encoder)
    assert alive == [0] * 9


def test_processes_exchange_gradients_with_the_last_chunk_only(encoder: Encoder, tokens: Tokens) -> None:
    inner, events, depth = encode_by(encoder, tokens, SIZES), [], [0]

    def encode(chunk: int) -> Tensor:
        vectors = inner(chunk)
        vectors.register_hook(lambda _: events.append((chunk, "alone" if depth[0] else "exchanged")))
        events.append((chunk, "alone" if depth[0] else "exchanged"))
        return vectors

    @contextmanager
    def no_sync() -> Iterator[None]:
        depth[0] += 1
        yield
        depth[0] -= 1

    cached_backward(encode, len(SIZES), objective("info_nce", mined=False), torch.Tensor.backward, no_sync)
    gradients(encoder)
    first = [(chunk, "alone") for chunk in range(4)]
    assert events == first + [(chunk, "alone") for chunk in (0, 0, 1, 1, 2, 2)] + [(3, "exchanged")] * 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> Path:
    """Without dropout, which would draw other numbers for other chunks."""
    return save_one_layer_model(tmp_path_factory.mktemp("base") / "model", sample_names, dropout=0.0)


# 33 names are 17 on one process and 16 on the other: in chunks of 16 that is two chunks and one
COMMON = [
    "sampling.mode=groups",
    "sampling.names_per_concept=3",
    "batch.names=33",
    "max_steps=5",
    "optim.learning_rate=1e-3",
    "optim.max_grad_norm=0.5",
]


def settings(terminology: Path, base: Path, output: Path, *more: str) -> list[str]:
    return [f"terminology={terminology}", f"base={base}", f"output={output}", "checkpoint.save_steps=5", *COMMON, *more]


@pytest.fixture(scope="module")
def unchunked(sample_folder: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unchunked") / "run"
    train(load_settings(None, settings(sample_folder, base, output)))
    return output


def assert_same_run(output: Path, expected: Path) -> None:
    """Equal losses and weights, but for rounding."""
    assert len(read_losses(expected)) == 5
    assert read_losses(output) == pytest.approx(read_losses(expected), rel=1e-5)
    weights, others = read_weights(output), read_weights(expected)
    assert weights.keys() == others.keys()
    for name, value in others.items():
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, which Adam scales up
            assert (weights[name] - value).norm() <= 1e-5 * value.norm(), name


@pytest.mark.parametrize("chunk", [7, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 32))])
def test_run_in_chunks_matches_run_without(
    sample_folder: Path, base: Path, tmp_path: Path, unchunked: Path, chunk: int
) -> None:
    train(load_settings(None, settings(sample_folder, base, tmp_path / "run", f"batch.chunk={chunk}")))
    assert_same_run(tmp_path / "run", unchunked)


def test_run_in_chunks_encodes_at_most_a_chunk_at_a_time(
    sample_folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = Encoder.forward, []

    def counted(encoder: Encoder, batch: PackedBatch, unit: bool = True) -> Tensor:
        sizes.append(len(batch.starts))
        return forward(encoder, batch, unit)

    monkeypatch.setattr(Encoder, "forward", counted)
    train(load_settings(None, settings(sample_folder, base, tmp_path / "run", "batch.chunk=10", "max_steps=1")))
    assert sizes == [10, 10, 10, 3] * 2


@pytest.mark.slow
def test_two_processes_in_chunks_match_one_without(
    sample_folder: Path, base: Path, tmp_path: Path, launch: Launch, unchunked: Path
) -> None:
    """One process has two chunks, the other one: see COMMON."""
    words = set_options(settings(sample_folder, base, tmp_path / "run", "batch.chunk=16"))
    done = launch(2, ROOT / "xsap" / "train.py", *words)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step-5" / "manifest.json").read_text())
    assert manifest["identity"]["processes"] == 2
    assert_same_run(tmp_path / "run", unchunked)
