"""Losses as functions of an (n, n) matrix of cosines and two masks of pairs.

In matrix form they cost O(n²), need no host synchronisation, and don't care where the masks come from.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_similarity(similarity: Tensor, positives: Tensor, negatives: Tensor, *, alpha: float, beta: float, base: float) -> Tensor:
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
    each = F.softplus(against - logits)  # -log(e^p / (e^p + Σ e^n))
    return torch.where(positives, each, 0.0).sum() / positives.sum().clamp(min=1)


def _log_one_plus_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    return F.softplus(_log_sum_exp(values, mask))


def _log_sum_exp(values: Tensor, mask: Tensor) -> Tensor:
    """(n,) log Σ exp over each row's masked values. A row without any has the log of zero, as the smallest number: -inf has no gradient."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).logsumexp(1)
