"""Losses: functions of an (n, n) matrix of cosines and two masks of pairs.

In matrix form they need O(n²) memory and no synchronization with the host, and do not depend on how the masks were
made. Cosines are those of unit vectors, so losses of Euclidean distances are computed from them too: |x - y| = √(2 - 2
cos).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_similarity(
    similarity: Tensor, positives: Tensor, negatives: Tensor, *, alpha: float, beta: float, base: float
) -> Tensor:
    """Multi-Similarity loss (Wang et al., CVPR 2019, L_MS), averaged over all n anchors.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        alpha: Scale of positive pairs.
        beta: Scale of negative pairs.
        base: Cosine that pairs are compared with.

    Returns:
        A scalar. An anchor without pairs adds zero.
    """
    pull = _log_one_plus_sum_exp(-alpha * (similarity - base), positives) / alpha
    push = _log_one_plus_sum_exp(beta * (similarity - base), negatives) / beta
    return (pull + push).mean()


def info_nce(similarity: Tensor, positives: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al., 2018, eq. 4) of each positive pair against its anchor's negatives, averaged over positive pairs.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        temperature: Divides the cosines.

    Returns:
        A scalar; zero without positives.
    """
    logits = similarity / temperature
    push = _log_sum_exp(logits, negatives)[:, None]
    return _mean(F.softplus(push - logits), positives)  # -log(e^p / (e^p + Σ e^n))


def circle(similarity: Tensor, positives: Tensor, negatives: Tensor, *, m: float, gamma: float) -> Tensor:
    """Circle loss (Sun et al., CVPR 2020, eq. 6), averaged over the anchors whose loss is above zero.

    With p and n an anchor's cosines, it is log(1 + Σ_n e^(γ [n + m]₊ (n - m)) · Σ_p e^(-γ [1 + m - p]₊ (p - 1 + m)));
    the weights [·]₊ get no gradient.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        m: Margin.
        gamma: Scale.

    Returns:
        A scalar; zero if every anchor lacks positives or negatives. Such anchors do not count in the average.
    """
    detached = similarity.detach()
    pull = -gamma * (1 + m - detached).relu() * (similarity - 1 + m)
    push = gamma * (detached + m).relu() * (similarity - m)
    each = F.softplus(_log_sum_exp(pull, positives) + _log_sum_exp(push, negatives))
    return _mean(each, each > 0)


def triplet(similarity: Tensor, positives: Tensor, negatives: Tensor, *, margin: float) -> Tensor:
    """Triplet loss [|a - p| - |a - n| + margin]₊, averaged over the triplets above zero (Hermans et al., 2017, L_BA≠0), |·| Euclidean.

    Triplets are all combinations of an anchor's positives and negatives.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        margin: By how much negatives must be farther than positives.

    Returns:
        A scalar; zero if no triplet is above zero.
    """
    # A triplet above zero is linear in its distances, so the sum over triplets is a sum over pairs, each times the number of its triplets.
    # Binary search in sorted rows gives that number: O(n²) memory and O(n² log n) time for up to n³ triplets.
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
    """Lifted structured loss (Oh Song et al., CVPR 2016, eq. 4), averaged over positive pairs, |·| Euclidean.

    Of a pair it is ½ [log(Σ_n e^(neg_margin - |a - n|) + Σ_n e^(neg_margin - |p - n|)) + |a - p| - pos_margin]₊², over
    the negatives of a and of p.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        neg_margin: Margin of negative pairs.
        pos_margin: Margin of positive pairs.

    Returns:
        A scalar; zero without positives. A positive pair without negatives adds zero, and counts in the average.
    """
    distance = _distance(similarity)
    push = _log_sum_exp(neg_margin - distance, negatives)
    each = (torch.logaddexp(push[:, None], push) + distance - pos_margin).relu().square() / 2
    return _mean(each, positives)


def nca(similarity: Tensor, positives: Tensor, negatives: Tensor, *, softmax_scale: float) -> Tensor:
    """Neighborhood components analysis (Goldberger et al., NIPS 2004, Σ log p_i), averaged over the anchors with a positive.

    p_i is the probability that anchor i draws a positive when it draws one of its pairs by a softmax of -softmax_scale
    · |i - j|². With a miner, anchors draw from the pairs in the masks, whereas pytorch-metric-learning draws from all
    pairs, weights anchors by how often they were mined, and leaves out anchors whose p_i underflows to zero.

    Args:
        similarity: (n, n) cosines.
        positives: (n, n) bool, False on the diagonal; disjoint from `negatives`.
        negatives: (n, n) bool.
        softmax_scale: Multiplies the squared distances.

    Returns:
        A scalar; zero without positives. An anchor without positives does not count in the average.
    """
    logits = 2 * softmax_scale * similarity  # |x - y|² = 2 - 2 cos; the constant cancels in a softmax
    # -log(Σ e^p / (Σ e^p + Σ e^n))
    each = F.softplus(_log_sum_exp(logits, negatives) - _log_sum_exp(logits, positives))
    return _mean(each, positives.any(1))


def marginal_likelihood(scores: Tensor, right: Tensor) -> Tensor:
    """Negative log marginal likelihood of the right candidates (Sung et al., ACL 2020, synonym marginalization), averaged over mentions.

    Of a mention it is -log Σ_right softmax(scores).

    Args:
        scores: (b, k) of each mention's candidates.
        right: (b, k) bool.

    Returns:
        A scalar; zero if no mention has a right candidate. A mention without one does not count in the average.
    """
    each = torch.logsumexp(scores, 1) - _log_sum_exp(scores, right)
    return _mean(each, right.any(1))


def biosyn_marginal_likelihood(scores: Tensor, right: Tensor) -> Tensor:
    """`marginal_likelihood` as the original code computes it: likelihoods of 0 count as no right candidate, others are at least 1e-9.

    Args:
        scores: (b, k) of each mention's candidates.
        right: (b, k) bool.

    Returns:
        A scalar; zero without right candidates.
    """
    likelihood = (scores.softmax(1) * right).sum(1)
    return _mean(-likelihood.clamp(1e-9, 1).log(), likelihood > 0)


def _distance(similarity: Tensor) -> Tensor:
    """(n, n) Euclidean distances of unit vectors. Those within rounding of zero are zero and have no gradient."""
    squared = 2 - 2 * similarity
    apart = squared > 32 * torch.finfo(squared.dtype).eps  # 768 dimensions round to ±22 eps
    return squared.masked_fill(~apart, 1.0).sqrt() * apart  # no √ of zero, whose gradient is infinite


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the masked values, or zero without any."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def _log_one_plus_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    return F.softplus(_log_sum_exp(values, mask))


def _log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """(n,) log Σ exp over each row's masked values. Without any it is the smallest finite number, because -inf has no gradient."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).logsumexp(1)
