"""Which pairs of a batch are positive, negative and hard, as boolean masks.

The triplet miner of the SapBERT recipe keeps (a, p) and (a, n) of every triplet whose negative is within `margin` of its positive.
Listing triplets costs O(N³) memory; but only the sets of pairs reach the loss, and those follow from each anchor's nearest negative
and farthest positive. So this works on the N × N distances alone, and gives the same masks.

Which concepts are hard to tell apart, as the model stands: looked up anew every so many steps, for the sampler to bring together.

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
from xsap.encoding.packing import Tokens, pack
from xsap.training.sampling import GroupSampler


def all_pairs(concepts: Tensor, names: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(n,) concept of each name → (n, n) masks of positives (same concept, not itself) and negatives (another concept).

    names: (n,) the string of each, numbered; if given, one string under two concepts is no negative.
    """
    same = concepts[:, None] == concepts[None, :]
    positives = same.clone()
    positives.fill_diagonal_(False)
    return positives, ~same if names is None else ~same & (names[:, None] != names[None, :])


def triplet_margin(similarity: Tensor, positives: Tensor, negatives: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    """The pairs that occur in a triplet with |a - n| - |a - p| ≤ margin (Liu et al., NAACL 2021, eq. 1), |·| Euclidean.

    similarity: (n, n) cosines of unit vectors, so |x - y| = √(2 - 2 cos). Returns the two masks, thinned.
    """
    distance = (2 - 2 * similarity.detach()).clamp(min=0).sqrt()
    nearest_negative = distance.masked_fill(~negatives, torch.inf).amin(1, keepdim=True)
    farthest_positive = distance.masked_fill(~positives, -torch.inf).amax(1, keepdim=True)
    return positives & (nearest_negative - distance <= margin), negatives & (distance - farthest_positive <= margin)


_NAMES, _ROWS = 1024, 4096  # at once, to encode and to compare


@dataclass
class HardNegatives:
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
            found = _nearest(
                self._encode(rows, accelerator.device), torch.from_numpy(self.strings[rows]), found.shape[1]
            )
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
