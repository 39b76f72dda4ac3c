"""Losses as functions of an (n, n) matrix of cosines and two masks of pairs.

In matrix form they hold O(n²) numbers, need no host synchronisation, and don't care where the masks come from. Cosines are those of unit
vectors, so a loss of Euclidean distances takes them from here too: |x - y| = √(2 - 2 cos).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_similarity(
    similarity: Tensor, positives: Tensor, negatives: Tensor, *, alpha: float, beta: float, base: float
) -> Tensor:
    """Multi-Similarity loss (Wang et al., CVPR 2019; L_MS), averaged over all n anchors.

    similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal. An anchor without pairs adds zero.
    """
    pull = _log_one_plus_sum_exp(-alpha * (similarity - base), positives) / alpha
    push = _log_one_plus_sum_exp(beta * (similarity - base), negatives) / beta
    return (pull + push).mean()


def info_nce(similarity: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018, eq. 4) of each positive pair against its anchor's negatives, averaged over positive pairs.

    similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal. Zero where there is no positive.
    """
    logits = similarity / temperature
    against = _log_sum_exp(logits, negatives)[:, None]
    return _mean(F.softplus(against - logits), positives)  # -log(e^p / (e^p + Σ e^n))


def circle(similarity: Tensor, positives: Tensor, negatives: Tensor, *, m: float, gamma: float) -> Tensor:
    """Circle loss (Sun et al., CVPR 2020, eq. 6), averaged over the anchors whose loss is above zero.

    Of one anchor: log(1 + Σ_n e^(γ [n + m]₊ (n - m)) · Σ_p e^(-γ [1 + m - p]₊ (p - 1 + m))), p and n its cosines; the weights [·]₊ get no
    gradient. similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal. An anchor that lacks
    positives, or negatives, is not averaged over; zero where all do.
    """
    weighed = similarity.detach()
    pull = -gamma * (1 + m - weighed).relu() * (similarity - 1 + m)
    push = gamma * (weighed + m).relu() * (similarity - m)
    each = F.softplus(_log_sum_exp(pull, positives) + _log_sum_exp(push, negatives))
    return _mean(each, each > 0)


def triplet(similarity: Tensor, positives: Tensor, negatives: Tensor, *, margin: float) -> Tensor:
    """[|a - p| - |a - n| + margin]₊ averaged over the triplets where it is above zero (Hermans et al., 2017; L_BA≠0), |·| Euclidean.

    similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal. Triplets are a row's positives with its
    negatives; an anchor that lacks either has none. Zero where no triplet is above zero.
    """
    # A triplet above zero is linear in its distances, so the sum over triplets is a sum over pairs, each times the triplets it occurs in.
    # A row, sorted once, counts those by binary search: O(n²) memory and O(n² log n) time for up to n³ triplets.
    distance = _distance(similarity)
    near = distance.detach()
    reach = near + margin
    by_nearness = near.masked_fill(~negatives, torch.inf).sort(1).values
    by_reach = reach.masked_fill(~positives, -torch.inf).sort(1).values
    within_reach = torch.searchsorted(by_nearness, reach) * positives
    reaching = (len(near) - torch.searchsorted(by_reach, near, right=True)) * negatives
    return (within_reach * (distance + margin) - reaching * distance).sum() / within_reach.sum().clamp(min=1)


def lifted_structure(
    similarity: Tensor, positives: Tensor, negatives: Tensor, *, neg_margin: float, pos_margin: float
) -> Tensor:
    """Lifted structured loss (Oh Song et al., CVPR 2016, eq. 4), averaged over positive pairs.

    Of one pair: ½ [log(Σ_n e^(neg_margin - |a - n|) + Σ_n e^(neg_margin - |p - n|)) + |a - p| - pos_margin]₊², over the negatives of the
    one and of the other, |·| Euclidean. similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal.
    A positive pair without any negative adds zero, and counts. Zero where there is no positive.
    """
    distance = _distance(similarity)
    push = _log_sum_exp(neg_margin - distance, negatives)
    each = (torch.logaddexp(push[:, None], push) + distance - pos_margin).relu().square() / 2
    return _mean(each, positives)


def nca(similarity: Tensor, positives: Tensor, negatives: Tensor, *, softmax_scale: float) -> Tensor:
    """Neighborhood components analysis (Goldberger et al., NIPS 2004; the form Σ log p_i), averaged over the anchors with a positive.

    p_i is the chance that anchor i draws a positive when it draws one of its pairs by a softmax of -softmax_scale · |i - j|².
    similarity: (n, n) cosines. positives, negatives: (n, n) bool, disjoint, False on the diagonal. An anchor without positives is not
    averaged over; zero where all are. With a miner, an anchor draws from the pairs that the masks keep, whereas pytorch-metric-learning
    draws from all of them, and weighs anchors by how often they were mined; it also leaves out an anchor whose p_i underflows to zero.
    """
    logits = 2 * softmax_scale * similarity  # |x - y|² = 2 - 2 cos; a softmax takes no notice of the constant
    each = F.softplus(
        _log_sum_exp(logits, negatives) - _log_sum_exp(logits, positives)
    )  # -log(Σ e^p / (Σ e^p + Σ e^n))
    return _mean(each, positives.any(1))


def _distance(similarity: Tensor) -> Tensor:
    """(n, n) Euclidean distances of unit vectors. Those within a cosine's rounding of zero are zero, and have no gradient."""
    squared = 2 - 2 * similarity
    apart = squared > 32 * torch.finfo(squared.dtype).eps  # 768 dimensions round to ±22 eps
    return squared.masked_fill(~apart, 1.0).sqrt() * apart  # √ of anything but zero, where its gradient is infinite


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the masked values; zero where there is none."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _log_one_plus_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    return F.softplus(_log_sum_exp(values, mask))


def _log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """(n,) log Σ exp over each row's masked values. A row without any has the log of zero, as the smallest number: -inf has no gradient."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).logsumexp(1)
