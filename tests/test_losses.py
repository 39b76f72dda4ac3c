"""Masks and losses against plain loops over pairs and triplets, and against pytorch-metric-learning."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import MultiSimilarityLoss, NTXentLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor

from xsap.training.losses import info_nce, multi_similarity
from xsap.training.mining import all_pairs, triplet_margin

MS = {"alpha": 1.0, "beta": 60.0, "base": 0.5}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Unit vectors, double precision, and concepts; with near-duplicates, one class, no positive, …"""
    n = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    vectors = rng.normal(size=(n, 4)) + draw(st.sampled_from([0.0, 2.0]))
    concepts = rng.integers(0, draw(st.integers(1, n + 2)), n)
    if draw(st.booleans()):
        vectors[n // 2] = vectors[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return torch.from_numpy(vectors), torch.from_numpy(concepts)


@given(batch=batches(), margin=st.sampled_from([0.0, 0.2, 0.7]))
@settings(max_examples=300, deadline=None)
def test_the_miner_keeps_the_pairs_of_every_hard_triplet(batch: tuple[Tensor, Tensor], margin: float) -> None:
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


def loop_multi_similarity(s: Tensor, positives: Tensor, negatives: Tensor, alpha: float, beta: float, base: float) -> float:
    total = 0.0
    for i in range(len(s)):
        pull = sum(math.exp(-alpha * (s[i, j] - base)) for j in range(len(s)) if positives[i, j])
        push = sum(math.exp(beta * (s[i, j] - base)) for j in range(len(s)) if negatives[i, j])
        total += math.log1p(pull) / alpha + math.log1p(push) / beta
    return total / len(s)


def loop_info_nce(s: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> float:
    terms = []
    for i, j in positives.nonzero().tolist():
        p = math.exp(s[i, j] / temperature)
        terms.append(-math.log(p / (p + sum(math.exp(s[i, k] / temperature) for k in range(len(s)) if negatives[i, k]))))
    return sum(terms) / max(1, len(terms))


@given(batch=batches(), mined=st.booleans())
@settings(max_examples=300, deadline=None)
def test_losses_equal_loops_over_pairs(batch: tuple[Tensor, Tensor], mined: bool) -> None:
    vectors, concepts = batch
    similarity = vectors @ vectors.T
    masks = all_pairs(concepts)
    if mined:
        masks = triplet_margin(similarity, *masks, margin=0.2)
    assert multi_similarity(similarity, *masks, **MS).item() == pytest.approx(loop_multi_similarity(similarity, *masks, **MS), rel=1e-9)
    assert info_nce(similarity, *masks, temperature=0.1).item() == pytest.approx(
        loop_info_nce(similarity, *masks, 0.1), rel=1e-9, abs=1e-12
    )


@given(batch=batches(), mined=st.booleans())
@settings(max_examples=200, deadline=None)
def test_losses_and_gradients_equal_pytorch_metric_learning(batch: tuple[Tensor, Tensor], mined: bool) -> None:
    vectors, concepts = batch
    triplets = TripletMarginMiner(margin=0.2, type_of_triplets="all")(vectors, concepts) if mined else None
    assume(triplets is None or len(triplets[0]) != 1)  # of a single triplet it takes the loss to be zero
    ours_theirs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (lambda *x: multi_similarity(*x, **MS), MultiSimilarityLoss(**MS)),
    ]
    if not mined:  # NTXentLoss turns triplets into other pairs than the masks hold
        ours_theirs.append((lambda *x: info_nce(*x, temperature=0.1), NTXentLoss(temperature=0.1, distance=CosineSimilarity())))
    for ours, theirs in ours_theirs:
        results = []
        for compute in (lambda v, f=ours: f_of(f, v, concepts, mined), lambda v, f=theirs: f(v, concepts, triplets)):
            leaf = vectors.clone().requires_grad_()
            unit = torch.nn.functional.normalize(leaf, dim=1)
            loss = compute(unit)
            if loss.requires_grad:
                loss.backward()
            results.append((loss.detach(), leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)))
        torch.testing.assert_close(results[0][0].double(), results[1][0].double(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-7)


def f_of(loss: Callable[..., Tensor], unit: Tensor, concepts: Tensor, mined: bool) -> Tensor:
    similarity = unit @ unit.T
    masks = all_pairs(concepts)
    return loss(similarity, *(triplet_margin(similarity, *masks, margin=0.2) if mined else masks))


@pytest.mark.parametrize("loss", [lambda *x: multi_similarity(*x, **MS), lambda *x: info_nce(*x, temperature=0.05)])
@pytest.mark.parametrize("concepts", [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 1, 1], [5]])
def test_gradients_are_finite_in_float32_at_every_edge(loss: Callable[..., Tensor], concepts: list[int]) -> None:
    leaf = torch.eye(len(concepts), 3).add(0.1).requires_grad_()
    unit = torch.nn.functional.normalize(leaf, dim=1)
    loss(unit @ unit.T, *all_pairs(torch.tensor(concepts))).backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
