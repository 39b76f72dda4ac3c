"""Masks and losses against plain loops over pairs and triplets, and against pytorch-metric-learning."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import (
    CircleLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NCALoss,
    NTXentLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.fixtures.examples import examples
from xsap.training.losses import circle, info_nce, lifted_structure, multi_similarity, nca, triplet
from xsap.training.mining import all_pairs, triplet_margin

Pairs = list[list[int]]  # the partners of each name
Matrix = list[list[float]]
Masks = tuple[Tensor, Tensor]
MINED = 0.2  # the miner's margin

LOSSES: list[tuple[Callable[..., Tensor], dict[str, float]]] = [
    (multi_similarity, {"alpha": 1.0, "beta": 60.0, "base": 0.5}),
    (multi_similarity, {"alpha": 2.0, "beta": 10.0, "base": 0.3}),
    (info_nce, {"temperature": 0.1}),
    (circle, {"m": 0.4, "gamma": 80.0}),
    (circle, {"m": 0.25, "gamma": 12.0}),
    (triplet, {"margin": 0.05}),
    (triplet, {"margin": 0.2}),
    (triplet, {"margin": 0.7}),
    (lifted_structure, {"neg_margin": 1.0, "pos_margin": 0.0}),
    (lifted_structure, {"neg_margin": 0.3, "pos_margin": 0.5}),
    (nca, {"softmax_scale": 1.0}),
    (nca, {"softmax_scale": 8.0}),
]


def name_of(x: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in x.items()) if isinstance(x, dict) else getattr(x, "__name__", x)


each_loss = pytest.mark.parametrize(("loss", "parameters"), LOSSES, ids=name_of)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Unit vectors, double precision, and concepts; with duplicate names, one class, no positive, …"""
    n = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    vectors = rng.normal(size=(n, 4)) + draw(st.sampled_from([0.0, 2.0]))
    concepts = rng.integers(0, draw(st.integers(1, n + 2)), n)
    if draw(st.booleans()):
        vectors[n // 2] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.from_numpy(vectors), torch.from_numpy(concepts)


def edges() -> dict[str, tuple[Tensor, Tensor]]:
    v = torch.from_numpy(np.random.default_rng(1).normal(size=(6, 4)))
    twins = v[[0, 0, 1, 1, 2, 3]]
    rows = {
        "one name": (v[:1], [5]),
        "two names of a concept": (v[:2], [0, 0]),
        "two names of two": (v[:2], [0, 1]),
        "one concept": (v, [0] * 6),
        "no positive": (v, range(6)),
        "a positive, a negative": (v[:3], [0, 0, 1]),
        "duplicates of a concept": (twins, [0, 0, 1, 1, 2, 2]),
        "duplicates across concepts": (twins, [0, 1, 2, 0, 1, 2]),
        "all duplicates": (v[[0] * 6], [0, 0, 1, 1, 2, 3]),
        "all duplicates of a concept": (v[[0] * 6], [0] * 6),
        "opposites": (torch.cat([v[:3], -v[:3]]), [0, 1, 2, 0, 1, 2]),
    }
    return {name: (unit(x), torch.tensor([*concepts])) for name, (x, concepts) in rows.items()}


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


each_edge = pytest.mark.parametrize(("vectors", "concepts"), edges().values(), ids=edges())


@given(batch=batches(), margin=st.sampled_from([0.0, 0.2, 0.7]))
@settings(max_examples=examples(300), deadline=None)
def test_triplet_margin_keeps_the_pairs_of_every_hard_triplet(batch: tuple[Tensor, Tensor], margin: float) -> None:
    vectors, concepts = batch
    similarity = vectors @ vectors.T
    positives, negatives = triplet_margin(similarity, *all_pairs(concepts), margin=margin)
    distance = (2 - 2 * similarity).clamp(min=0).sqrt()
    n = len(vectors)
    hard_positives, hard_negatives = torch.zeros(n, n, dtype=torch.bool), torch.zeros(n, n, dtype=torch.bool)
    for a in range(n):
        for p in range(n):
            for q in range(n):
                is_triplet = p != a and concepts[a] == concepts[p] and concepts[a] != concepts[q]
                if is_triplet and distance[a, q] - distance[a, p] <= margin:
                    hard_positives[a, p] = hard_negatives[a, q] = True
    assert torch.equal(positives, hard_positives)
    assert torch.equal(negatives, hard_negatives)


def loop_multi_similarity(
    s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, alpha: float, beta: float, base: float
) -> float:
    total = 0.0
    for i in range(len(s)):
        pull = sum(math.exp(-alpha * (s[i][j] - base)) for j in positives[i])
        push = sum(math.exp(beta * (s[i][j] - base)) for j in negatives[i])
        total += math.log1p(pull) / alpha + math.log1p(push) / beta
    return total / len(s)


def loop_info_nce(s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, temperature: float) -> float:
    terms = []
    for i in range(len(s)):
        for j in positives[i]:
            p = math.exp(s[i][j] / temperature)
            terms.append(-math.log(p / (p + sum(math.exp(s[i][k] / temperature) for k in negatives[i]))))
    return mean(terms)


def loop_circle(s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, m: float, gamma: float) -> float:
    terms = []
    for i in range(len(s)):
        if positives[i] and negatives[i]:
            pull = sum(math.exp(-gamma * max(0, 1 + m - s[i][j]) * (s[i][j] - (1 - m))) for j in positives[i])
            push = sum(math.exp(gamma * max(0, s[i][j] + m) * (s[i][j] - m)) for j in negatives[i])
            terms.append(math.log1p(pull * push))
    return mean(terms)


def loop_triplet(s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, margin: float) -> float:
    each = [d[a][p] - d[a][q] + margin for a in range(len(d)) for p in positives[a] for q in negatives[a]]
    return mean([x for x in each if x > 0])


def loop_lifted_structure(
    s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, neg_margin: float, pos_margin: float
) -> float:
    terms = []
    for a in range(len(d)):
        for p in positives[a]:
            push = sum(math.exp(neg_margin - d[i][j]) for i in (a, p) for j in negatives[i])
            terms.append(max(0, math.log(push) + d[a][p] - pos_margin) ** 2 / 2 if push else 0.0)
    return mean(terms)


def loop_nca(s: Matrix, d: Matrix, positives: Pairs, negatives: Pairs, softmax_scale: float) -> float:
    terms = []
    for i in range(len(d)):
        weight = {j: math.exp(-softmax_scale * d[i][j] ** 2) for j in positives[i] + negatives[i]}
        if positives[i]:
            terms.append(-math.log(sum(weight[j] for j in positives[i]) / sum(weight.values())))
    return mean(terms)


def mean(terms: list[float]) -> float:
    return sum(terms) / max(1, len(terms))


def looped(loss: Callable[..., Tensor], parameters: dict[str, float], vectors: Tensor, masks: Masks) -> float:
    """The loss by a loop. Distances are computed from the vectors, not from the cosines."""
    loop: Callable[..., float] = globals()[f"loop_{loss.__name__}"]
    rows = vectors.tolist()
    cosines = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    distances = [[math.dist(a, b) for b in rows] for a in rows]
    return loop(
        cosines, distances, *([row.nonzero().flatten().tolist() for row in mask] for mask in masks), **parameters
    )


@each_loss
@given(batch=batches(), masks=st.sampled_from(["all", "mined", "any", "unopposed"]))
@settings(max_examples=examples(60), deadline=None)
def test_losses_match_loops_over_pairs(
    loss: Callable[..., Tensor], parameters: dict[str, float], batch: tuple[Tensor, Tensor], masks: str
) -> None:
    vectors, concepts = batch
    similarity = vectors @ vectors.T
    chosen = masks_of(similarity, concepts, masks)
    ours = loss(similarity, *chosen, **parameters).item()
    assert ours == pytest.approx(looped(loss, parameters, vectors, chosen), rel=1e-8, abs=1e-12)


@each_loss
@each_edge
def test_losses_match_loops_in_edge_cases(
    loss: Callable[..., Tensor], parameters: dict[str, float], vectors: Tensor, concepts: Tensor
) -> None:
    for kind in ("all", "mined", "any", "unopposed"):
        masks = masks_of(vectors @ vectors.T, concepts, kind)
        expected = looped(loss, parameters, vectors, masks)
        assert loss(vectors @ vectors.T, *masks, **parameters).item() == pytest.approx(expected, rel=1e-8, abs=1e-12)
        single = vectors.float()
        assert loss(single @ single.T, *masks, **parameters).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def masks_of(similarity: Tensor, concepts: Tensor, kind: str) -> Masks:
    """All pairs, the mined ones, a random half of them, or all but the negatives of the first half of the names."""
    positives, negatives = all_pairs(concepts)
    n = len(concepts)
    if kind == "mined":
        return triplet_margin(similarity, positives, negatives, margin=MINED)
    if kind == "any":
        kept = torch.from_numpy(np.random.default_rng(n).random((n, n)) < 0.5)
        return positives & kept, negatives & kept
    if kind == "unopposed":
        return positives, negatives & (torch.arange(n) >= n // 2)[:, None]
    return positives, negatives


def value_and_gradient(vectors: Tensor, compute: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    leaf = vectors.clone().requires_grad_()
    loss = compute(unit(leaf))
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)


THEIRS: dict[Callable[..., Tensor], Callable[..., Any]] = {
    multi_similarity: MultiSimilarityLoss,
    info_nce: partial(NTXentLoss, distance=CosineSimilarity()),
    circle: CircleLoss,
    triplet: TripletMarginLoss,
    lifted_structure: LiftedStructureLoss,
    nca: NCALoss,
}


def comparable(loss: Callable[..., Tensor], parameters: dict[str, float], pairs: str) -> bool:
    """Whether mined triplets or pairs mean the same to pytorch-metric-learning as our masks do."""
    if loss is nca:  # it takes from what was mined how much an anchor weighs, and draws from all pairs
        return pairs == "all"
    if pairs == "triplets" and loss in (
        info_nce,
        lifted_structure,
    ):  # there a pair counts once per triplet
        return False
    return (
        pairs != "triplets" or loss is not triplet or parameters["margin"] <= MINED
    )  # masks have the triplets between mined pairs too


COMPARED = [(*each, pairs) for pairs in ("all", "triplets", "pairs") for each in LOSSES if comparable(*each, pairs)]
each_compared = pytest.mark.parametrize(("loss", "parameters", "pairs"), COMPARED, ids=name_of)


def assert_equal_to_theirs(
    loss: Callable[..., Tensor],
    parameters: dict[str, float],
    pairs: str,
    vectors: Tensor,
    concepts: Tensor,
    dtype: torch.dtype,
) -> bool:
    """Value and gradient, ours in `dtype`, against theirs in double precision. False where theirs is not comparable."""
    masks = masks_of(vectors @ vectors.T, concepts, "all" if pairs == "all" else "mined")
    chosen = tuple(index for mask in masks for index in mask.nonzero(as_tuple=True))
    if pairs == "triplets":
        chosen = TripletMarginMiner(margin=MINED, type_of_triplets="all")(vectors, concepts)
    if (
        loss not in (triplet, nca) and max(map(len, chosen)) == 1
    ):  # of a single triplet, or pair, it takes the loss to be zero
        return False
    if loss is nca and len(concepts) > 1 and not masks[0].any():  # without positives it has the mean of nothing, nan
        return False
    ours = value_and_gradient(vectors.to(dtype), lambda v: loss(v @ v.T, *masks, **parameters))
    theirs = value_and_gradient(
        vectors, lambda v: THEIRS[loss](**parameters)(v, concepts, None if pairs == "all" else chosen)
    )
    assert ours[0].dtype == dtype
    exact = dtype == torch.float64  # but for a softplus beyond 20, which torch takes as linear: e⁻²⁰ = 2e-9
    torch.testing.assert_close(
        ours[0].double(), theirs[0].double(), rtol=1e-8 if exact else 1e-5, atol=1e-12 if exact else 1e-5
    )
    torch.testing.assert_close(ours[1].double(), theirs[1], rtol=1e-7 if exact else 1e-3, atol=1e-8 if exact else 1e-4)
    return True


@each_compared
@given(batch=batches())
@settings(max_examples=examples(60), deadline=None)
def test_losses_and_gradients_match_pytorch_metric_learning(
    loss: Callable[..., Tensor], parameters: dict[str, float], pairs: str, batch: tuple[Tensor, Tensor]
) -> None:
    assume(assert_equal_to_theirs(loss, parameters, pairs, *batch, torch.float64))


@each_compared
def test_losses_and_gradients_match_pytorch_metric_learning_in_edge_cases_and_single_precision(
    loss: Callable[..., Tensor], parameters: dict[str, float], pairs: str
) -> None:
    numbers = [np.random.default_rng(seed) for seed in range(6)]
    generated = [
        (unit(torch.from_numpy(rng.normal(size=(12, 8)))), torch.from_numpy(rng.integers(0, 5, 12))) for rng in numbers
    ]
    for vectors, concepts in [*generated, *edges().values()]:
        for dtype in (torch.float64, torch.float32):
            assert_equal_to_theirs(loss, parameters, pairs, vectors, concepts, dtype)


@each_loss
def test_losses_and_gradients_match_pytorch_metric_learning_in_a_large_batch(
    loss: Callable[..., Tensor], parameters: dict[str, float]
) -> None:
    vectors = torch.from_numpy(np.random.default_rng(3).normal(size=(360, 16)))
    vectors[180] = vectors[0]
    few = loss in (info_nce, lifted_structure)  # theirs takes memory for every positive pair times every negative pair
    concepts = torch.arange(360) // (1 if few else 4)
    concepts[:6] = 0
    assert assert_equal_to_theirs(loss, parameters, "all", unit(vectors), concepts, torch.float64)


def test_triplet_on_the_margin_does_not_count_in_the_average() -> None:
    vectors = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.6, 0, 0, 0.8]], dtype=torch.float64)
    positives, negatives = torch.zeros(2, 4, 4, dtype=torch.bool)
    positives[0, 1] = negatives[0, 2] = negatives[0, 3] = True
    assert triplet(vectors @ vectors.T, positives, negatives, margin=0.0).item() == pytest.approx(
        math.sqrt(2) - math.sqrt(0.8), rel=1e-12
    )


@each_loss
@each_edge
def test_gradients_are_finite_and_moderate_in_edge_cases(
    loss: Callable[..., Tensor], parameters: dict[str, float], vectors: Tensor, concepts: Tensor
) -> None:
    """Also where rounding made cosines of equal vectors slightly more or less than 1."""
    for dtype in (torch.float64, torch.float32):
        similarity = (vectors @ vectors.T).to(dtype)
        for ulps in (0, 1, -1, 4, -4):
            leaf = torch.where(similarity > 0.999, 1 + ulps * torch.finfo(dtype).eps, similarity).requires_grad_()
            loss(leaf, *all_pairs(concepts), **parameters).backward()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
            assert leaf.grad.abs().max() < 1000


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            self.numbers = max(self.numbers, each.numel() if isinstance(each, Tensor) else 0)
        return made


@each_loss
def test_losses_need_quadratic_memory_and_no_host_synchronization(
    loss: Callable[..., Tensor], parameters: dict[str, float]
) -> None:
    n = 7
    similarity = torch.empty(n, n, device="meta", requires_grad=True)  # has no values, so that reading one fails
    positives, negatives = torch.empty(2, n, n, device="meta", dtype=torch.bool)
    with Largest() as largest:
        value = loss(similarity, positives, negatives, **parameters)
        value.backward()
    assert (value.shape, value.dtype) == ((), torch.float32)
    assert largest.numbers == n * n
