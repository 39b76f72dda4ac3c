"""Which concepts are hard to tell apart, as the model stands: looked up anew every so many steps, for the sampler to bring together.

In a random batch nearly all negatives are easy. Each concept stands here for its first name (the anchor, where there is one); its hard
negatives are the concepts whose names come nearest, but for those that bear the same name, which nothing can tell apart.
"""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import pack
from xsap.encoding.tokens import Tokens
from xsap.training.sampling import GroupSampler

_NAMES, _ROWS = 1024, 4096  # at once, to encode and to compare


@dataclass
class Neighbours:
    """strings: (n,) the string of each name, numbered. kept: nearest concepts of each. every: steps between look-ups."""

    sampler: GroupSampler
    encoder: Encoder
    tokens: Tokens
    strings: NDArray[np.int64]
    kept: int
    every: int

    @torch.no_grad()
    def refresh(self, accelerator: Accelerator) -> None:
        """Look up all nearest concepts, on the main process, and hand them to every process's sampler."""
        concepts = self.sampler.concepts
        rows = concepts.rows[concepts.first]
        found = torch.zeros(len(rows), min(self.kept, len(rows) - 1), dtype=torch.int64, device=accelerator.device)
        if accelerator.is_main_process:
            found = _nearest(self._encode(rows, accelerator.device), torch.from_numpy(self.strings[rows]), found.shape[1])
        if accelerator.num_processes > 1:
            found = broadcast(found)
        self.sampler.nearest = found.cpu().numpy()

    def _encode(self, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        self.encoder.eval()
        parts = np.split(rows, range(_NAMES, len(rows), _NAMES))
        return torch.cat([self.encoder(pack(self.tokens.take(part)).to(device)) for part in parts])


def _nearest(vectors: Tensor, strings: Tensor, kept: int) -> Tensor:
    """(n, kept) of each unit vector the rows of greatest cosine, the most similar first; the same strings last. vectors: (n, d)."""
    strings = strings.to(vectors.device)
    found = []
    for start in range(0, len(vectors), _ROWS):
        some = slice(start, start + _ROWS)
        similarity = vectors[some] @ vectors.T
        similarity.masked_fill_(strings[some, None] == strings[None], -2)  # itself among them
        found.append(similarity.topk(kept).indices)
    return torch.cat(found)
