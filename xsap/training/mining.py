"""Which pairs of a batch are positive, negative and hard, as boolean masks.

The triplet miner of the SapBERT recipe keeps (a, p) and (a, n) of every triplet whose negative is within `margin` of its positive.
Listing triplets costs O(N³) memory; but only the sets of pairs reach the loss, and those follow from each anchor's nearest negative
and farthest positive. So this works on the N × N distances alone, and gives the same masks.
"""

import torch
from torch import Tensor


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
