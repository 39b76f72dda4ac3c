"""Large batches: a loss that needs all vectors at once, over several processes and in chunks that fit into memory, with exact gradients.

`gather` gives every process the vectors of all, so that each computes the same loss of the global batch; only its own
vectors carry a graph. The derivative with respect to these is then already complete, so nothing is summed on the way
back: DistributedDataParallel's mean over processes, times their number, is the gradient that one process would have on
the joined batch.

`cached_backward` is gradient caching (Gao et al., RepL4NLP 2021): chunks are encoded and only their vectors kept; the
loss gives the gradient of each vector; then each chunk is encoded again and its part propagated back. It is exact if
both passes draw the same dropout: `encode` must be a pure function of the chunk's number.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor


def gather(vectors: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
    """All processes' vectors, with the gradient of one's own. Scale the loss by the number of processes.

    Args:
        vectors: (sizes[rank], d) this process's vectors.
        sizes: Vectors of each process.
        rank: This process.

    Returns:
        (sum(sizes), d), one process's vectors after another's.
    """
    if len(sizes) == 1:
        return vectors
    padded = F.pad(vectors.detach(), (0, 0, 0, max(sizes) - len(vectors)))
    parts = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(parts, padded.contiguous())
    return torch.cat(
        [vectors if r == rank else part[:size] for r, (part, size) in enumerate(zip(parts, sizes, strict=True))]
    )


def cached_backward(
    encode: Callable[[int], Tensor],
    chunks: int,
    loss_of: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], None],
    no_sync: Callable[[], AbstractContextManager[object]],
) -> Tensor:
    """Add the gradient of `loss_of`(the vectors of all chunks) to the parameters that `encode` reads.

    Args:
        encode: Chunk number → (m, d) vectors with their graph.
        chunks: Number of chunks.
        loss_of: (sum of m, d) vectors, chunk after chunk → loss.
        backward: Backward pass of the loss, which may scale it.
        no_sync: Context without gradient exchange between processes, for all chunks but the last.

    Returns:
        The loss, without its graph.
    """
    # With a graph, which is dropped at once: without one torch may choose another kernel, which may draw other random numbers.
    with no_sync():
        vectors = [encode(chunk).detach() for chunk in range(chunks)]
    joined = torch.cat(vectors).requires_grad_()
    loss = loss_of(joined)
    backward(loss)
    assert joined.grad is not None
    gradients = joined.grad.split([len(part) for part in vectors])
    for chunk, gradient in enumerate(gradients[:-1]):
        with no_sync():
            encode(chunk).backward(gradient)
    encode(chunks - 1).backward(gradients[-1])
    return loss.detach()
