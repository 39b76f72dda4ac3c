"""All processes' vectors on every process, with gradients, so that a loss sees the global batch.

Every process computes the same loss of all vectors; only its own part carries its graph. The derivative with respect to that part is
then already the whole one, so nothing is summed on the way back: DistributedDataParallel's mean over processes, times their number,
is the gradient that one process would have had on the joined batch.

A large batch's exact gradient in chunks, for any loss of its vectors.

A contrastive loss needs all vectors of a batch at once, but only they must be in memory, not what made them. So the chunks are encoded and
only their vectors kept; the loss gives the gradient of each vector; then each chunk is encoded once more, and its part sent back
(Gao et al., RepL4NLP 2021). Exact, if both times the same dropout is drawn: `encode` must be a pure function of the chunk's number.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def gather(vectors: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """(sizes[rank], d) → (sum(sizes), d), one process's vectors after another's. Scale the loss by the number of processes."""
    if len(sizes) == 1:
        return vectors
    widest = F.pad(vectors.detach(), (0, 0, 0, max(sizes) - len(vectors)))
    parts = [torch.empty_like(widest) for _ in sizes]
    torch.distributed.all_gather(parts, widest.contiguous())
    return torch.cat(
        [vectors if r == rank else part[:size] for r, (part, size) in enumerate(zip(parts, sizes, strict=True))]
    )


def cached_backward(
    encode: Callable[[int], Tensor],
    chunks: int,
    loss_of: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], None],
    apart: Callable[[], AbstractContextManager[object]],
) -> Tensor:
    """Add the gradient of loss_of(the vectors of all chunks, one after another) to the parameters that `encode` reads → the loss.

    encode: chunk number → (m, d) vectors with their graph. backward: of the loss, which may be scaled there. apart: within it processes
    don't exchange gradients; all chunks but the last go back so.
    """
    # With its graph, which is dropped at once: without one torch may take another kernel, and that one other random numbers.
    with apart():
        vectors = [encode(chunk).detach() for chunk in range(chunks)]
    joined = torch.cat(vectors).requires_grad_()
    loss = loss_of(joined)
    backward(loss)
    assert joined.grad is not None
    gradients = joined.grad.split([len(part) for part in vectors])
    for chunk, gradient in enumerate(gradients[:-1]):
        with apart():
            encode(chunk).backward(gradient)
    encode(chunks - 1).backward(gradients[-1])
    return loss.detach()
