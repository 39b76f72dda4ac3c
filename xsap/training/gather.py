"""All processes' vectors on every process, with gradients, so that a loss sees the global batch.

Every process computes the same loss of all vectors; only its own part carries its graph. The derivative with respect to that part is
then already the whole one, so nothing is summed on the way back: DistributedDataParallel's mean over processes, times their number,
is the gradient that one process would have had on the joined batch.
"""

from collections.abc import Sequence

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
    return torch.cat([vectors if r == rank else part[:size] for r, (part, size) in enumerate(zip(parts, sizes, strict=True))])
