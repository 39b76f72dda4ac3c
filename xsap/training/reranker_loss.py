"""Losses of re-rankers: functions of the logits of each mention's candidates, and of "none of them"."""

import torch
import torch.nn.functional as F
from torch import Tensor

from xsap.linking.cross_encoder import NO_CANDIDATE

_USUAL, _RIDGE = 3.0, 1e-3  # log of the scale that is usual for cosines, and how strongly it is preferred


def listwise_cross_entropy(logits: Tensor, right: Tensor) -> Tensor:
    """Softmax cross-entropy over a mention's candidates and "none of them" (ListNet's top one, Cao et al., ICML 2007), averaged over mentions.

    Where several candidates are right, each has the same part of the target distribution, which sums to 1, so that no mention counts more than
    another. Where none is, "none of them" is right.

    Args:
        logits: (n, k + 1), NO_CANDIDATE where there is no candidate; the last column is that of "none of them".
        right: (n, k) bool.

    Returns:
        A scalar.
    """
    none = ~right.any(1, keepdim=True)
    target = torch.cat([right, none], 1).to(logits.dtype)
    target = target / target.sum(1, keepdim=True)
    return -(target * logits.log_softmax(1)).sum(1).mean()


def xmen_loss(logits: Tensor, right: Tensor, scores: Tensor, counts: Tensor, *, regularization: float = 1.0) -> Tensor:
    """The loss of xMEN (Borchert et al., JAMIA Open 2025; its code of 2024-12), averaged over mentions, for comparison with it.

    It has two faults, which are kept. "None of them" takes the place of a mention's last candidate even if that is the only right one, and then
    nothing at all is labeled right. The regularizer is the distance of logits and retrieval scores, ‖logits - scores + 1e-6‖₂, although the
    former are log odds and the latter cosines, so it pulls logits to a scale at which their softmax is nearly even. Also,
    labels of a mention with several right candidates are not normalized.

    Args:
        logits: (n, k + 1); the last column is that of "none of them".
        right: (n, k) bool.
        scores: (n, k) retrieval scores.
        counts: (n,) candidates of each mention, at least 1; those behind them do not count.
        regularization: Weight of the regularizer.

    Returns:
        A scalar.
    """
    k = right.shape[1]
    column = torch.arange(k, device=logits.device)
    last = column == counts[:, None] - 1
    none = ~right.any(1)  # looked for among all candidates, the last one included
    own = torch.where(last, logits[:, -1:], logits[:, :k])
    labels = torch.where(last, none[:, None], right).to(logits.dtype)
    target = torch.where(last, none[:, None].to(scores.dtype), scores)
    real = column < counts[:, None]
    own = own.masked_fill(~real, NO_CANDIDATE)
    entropy = -(labels * real * own.log_softmax(1)).sum(1)
    distance = torch.where(real, own - target + 1e-6, 0.0)
    loss: Tensor = (entropy + regularization * torch.linalg.vector_norm(distance, dim=1)).mean()
    return loss


def fit_retrieval(scores: Tensor, right: Tensor, real: Tensor, *, steps: int = 50) -> tuple[float, float]:
    """The scale w of retrieval scores and the logit b of "none of them" with which `listwise_cross_entropy` of w · scores is least.

    The loss is convex in both, and L-BFGS finds its minimum. A training that begins there begins at what the retriever alone can say.

    Args:
        scores: (n, k) retrieval scores.
        right: (n, k) bool.
        real: (n, k) bool, where there are candidates.
        steps: Iterations, at most.

    Returns:
        w, at least 0.01, and b.
    """
    scores, mean = scores.double(), float(scores[real].double().mean())
    logs = torch.tensor(
        [_USUAL, 0.0], dtype=torch.float64, requires_grad=True
    )  # log w, and b relative to the mean score
    optimizer = torch.optim.LBFGS([logs], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scale = logs[0].exp()
        centered = (scale * (scores - mean)).masked_fill(~real, NO_CANDIDATE)
        value = listwise_cross_entropy(F.pad(centered, (0, 1)) + F.pad(logs[1:2], (scores.shape[1], 0)), right)
        value = (
            value + _RIDGE * (logs[0] - _USUAL) ** 2
        )  # where scores separate right from wrong, the scale has no bound
        value.backward()
        return value

    optimizer.step(loss)
    scale = max(0.01, float(logs[0].detach().exp()))
    return scale, float(logs[1].detach()) + scale * mean
