"""Mining: which pairs of a batch are positive, negative and hard, and which concepts are hard to tell apart.

The triplet miner of the SapBERT recipe keeps (a, p) and (a, n) of every triplet whose negative is within `margin` of
its positive. Listing triplets takes O(n³) memory; but only the sets of pairs enter the loss, and they follow from each
anchor's nearest negative and farthest positive. So this works on the n × n distances alone, and gives the same masks.

In a random batch nearly all negatives are easy. `HardNegatives` searches, every so many steps, for the nearest concepts
of each concept with the model as it is, and the sampler puts them into one batch. A concept is represented by its first
name, which is in the anchor language if there is one. Concepts with the same name are not hard negatives: no model can
tell them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens, pack
from xsap.search.exact import Sizes, search_vectors, upload
from xsap.search.vectors import Vectors
from xsap.training.sampling import GroupSampler, Names

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]  # (similarity, positives, negatives) → loss


def all_pairs(concepts: Tensor, names: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Masks of all pairs.

    Args:
        concepts: (n,) the concept of each name.
        names: (n,) the string of each name, as a number; if given, equal strings of two concepts are not negatives.

    Returns:
        (n, n) bool of positives (same concept, another name of the batch), and of negatives (another concept).
    """
    same = concepts[:, None] == concepts[None, :]
    positives = same.clone()
    positives.fill_diagonal_(False)
    return positives, ~same if names is None else ~same & (names[:, None] != names[None, :])


def triplet_margin(similarity: Tensor, positives: Tensor, negatives: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    """The pairs of all triplets with |a - n| - |a - p| ≤ margin (Liu et al., NAACL 2021, eq. 1), |·| Euclidean.

    Args:
        similarity: (n, n) cosines of unit vectors, so |x - y| = √(2 - 2 cos).
        positives: (n, n) bool, False on the diagonal.
        negatives: (n, n) bool.
        margin: How much farther than the positive a negative may be.

    Returns:
        Subsets of the two masks.
    """
    distance = (2 - 2 * similarity.detach()).clamp(min=0).sqrt()
    nearest_negative = distance.masked_fill(~negatives, torch.inf).amin(1, keepdim=True)
    farthest_positive = distance.masked_fill(~positives, -torch.inf).amax(1, keepdim=True)
    return positives & (nearest_negative - distance <= margin), negatives & (distance - farthest_positive <= margin)


@dataclass(frozen=True)
class PairLoss:
    """The loss of all pairs of a step's names.

    Attributes:
        objective: Mining and loss.
        strings: (rows,) the string of each name, as a number, if equal strings of two concepts are not negatives; else None.
    """

    objective: Objective
    strings: NDArray[np.int64] | None = None

    def __call__(self, vectors: Tensor, names: Names) -> Tensor:
        """The loss.

        Args:
            vectors: (n, d) unit vectors.
            names: What they are of, in the same order.
        """
        same_name = None if self.strings is None else torch.from_numpy(self.strings[names.rows]).to(vectors.device)
        masks = all_pairs(torch.from_numpy(names.concepts).to(vectors.device), same_name)
        return self.objective(vectors @ vectors.T, *masks)


@torch.no_grad()
def encode_rows(
    encoder: Encoder,
    tokens: Tokens,
    rows: NDArray[np.int64],
    device: torch.device,
    *,
    unit: bool = True,
    names_per_batch: int = 1024,
) -> Tensor:
    """Vectors of names by the model as it is, without dropout.

    Args:
        encoder: The model in training; it is left in evaluation mode.
        tokens: Token ids of all names.
        rows: (n,) which names, at least one.
        device: The model's.
        unit: Whether to scale vectors to length 1.
        names_per_batch: Names to encode at a time.

    Returns:
        (n, d) float32, on the device.
    """
    encoder.eval()
    parts = np.split(rows, range(names_per_batch, len(rows), names_per_batch))
    return torch.cat([encoder(pack(tokens.take(part)).to(device), unit) for part in parts])


@dataclass
class HardNegatives:
    """The nearest concepts of each concept, for a `GroupSampler`; the only writer of its `nearest`.

    Attributes:
        sampler: The sampler that draws hard negatives.
        encoder: The model in training.
        tokens: Token ids of all names.
        strings: (n,) the string of each name, as a number.
        kept: Nearest concepts to find of each.
        refresh_steps: Steps between searches.
        at_start: Whether there is a search before the first step, too. Without one, hard negatives are random at first.
        names_per_batch: Names to encode at a time.
        rows_per_batch: Concepts to search for at a time.
    """

    sampler: GroupSampler
    encoder: Encoder
    tokens: Tokens
    strings: NDArray[np.int64]
    kept: int
    refresh_steps: int
    at_start: bool = False
    names_per_batch: int = 1024
    rows_per_batch: int = 1024

    @torch.no_grad()
    def refresh(self, accelerator: Accelerator) -> None:
        """Find the nearest concepts on the main process, and send them to the sampler of every process."""
        concepts = self.sampler.concepts
        rows = concepts.rows[concepts.first]
        nearest = torch.zeros(len(rows), min(self.kept, len(rows) - 1), dtype=torch.int64, device=accelerator.device)
        if accelerator.is_main_process:
            vectors = encode_rows(
                self.encoder, self.tokens, rows, accelerator.device, names_per_batch=self.names_per_batch
            )
            found = _nearest(vectors, self.strings[rows], nearest.shape[1], self.rows_per_batch)
            nearest = torch.from_numpy(found).to(accelerator.device)
        if accelerator.num_processes > 1:
            nearest = broadcast(nearest)
        self.sampler.nearest = nearest.cpu().numpy()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""
        return {} if self.sampler.nearest is None else {"nearest": torch.from_numpy(self.sampler.nearest)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.sampler.nearest = state["nearest"].numpy() if "nearest" in state else None


def _nearest(vectors: Tensor, strings: NDArray[np.int64], kept: int, rows_per_batch: int) -> NDArray[np.int64]:
    """The rows of greatest cosine for each row, most similar first; rows of the same string, itself included, last.

    Args:
        vectors: (n, d) unit vectors. If they are on a GPU, it searches.
        strings: (n,) the string of each row, as a number.
        kept: Rows to return.
        rows_per_batch: Rows to search for at a time.

    Returns:
        (n, kept) int64.
    """
    queries = vectors.float().cpu().numpy()
    stored = Vectors.from_array(queries)
    device_copy = upload(stored, vectors.device) if vectors.is_cuda else None
    same = int(np.unique(strings, return_counts=True)[1].max())  # extra rows, as those of the same string come last
    sizes = Sizes(queries_per_batch=rows_per_batch)
    rows = search_vectors(stored, queries, kept + same, device_copy=device_copy, sizes=sizes)[1]
    order = np.argsort(strings[rows] == strings[:, None], axis=1, kind="stable")
    return np.take_along_axis(rows, order[:, :kept], 1)
