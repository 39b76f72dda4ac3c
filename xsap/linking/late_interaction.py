"""Late interaction: the tokens of a mention are compared with those of a candidate's names, each with its nearest one.

As in ColBERT (Khattab and Zaharia, SIGIR 2020), but in both directions, as in BERTScore (Zhang et al., ICLR 2020): the score is the harmonic mean
of how well the mention's tokens are found in the name, and the name's in the mention. Token vectors are those of the index's own encoder, after
its lowest layers, where they still say which token they are; nothing is trained, and few layers cost little. The context plays no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xsap.encoding.encoder import Encoder
from xsap.encoding.layers import lowest_layers
from xsap.encoding.token_vectors import TokenVectors, token_vectors
from xsap.errors import ConfigError
from xsap.linking.rerank import RerankQuery

LAYERS = 1
WEIGHT = 0.2
_PAIRS_PER_PART = 2048


@dataclass(frozen=True)
class LateInteraction:
    """Re-ranks by token vectors.

    Attributes:
        encoder: Of the index.
        layers: How many of its layers, from the lowest, are computed.
        weight: Of the interaction in a score, 0 to 1; the retrieval score has the rest.
    """

    encoder: Encoder
    layers: int = LAYERS
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"the weight of late interaction must be between 0 and 1, found {self.weight:g}")

    @property
    def uses_context(self) -> bool:
        """Strings alone are compared."""
        return False

    @property
    def content_hash(self) -> str | None:
        """What scores depend on besides the index."""
        return f"late {self.layers} {self.weight:g}"

    def score(self, queries: Sequence[RerankQuery]) -> Sequence[Sequence[float]]:
        """(1 - weight) · retrieval score + weight · interaction with the matched name."""
        names = [each.matched_name for query in queries for each in query.candidates]
        mentions = [query.mention for query in queries for _ in query.candidates]
        number = {name: i for i, name in enumerate(dict.fromkeys([*mentions, *names]))}
        layers = min(self.layers, self.encoder.transformer.config.num_hidden_layers)
        vectors = token_vectors(self.encoder, list(number), lowest_layers(self.encoder.transformer, layers))
        left, right = (np.array([number[text] for text in texts], np.int64) for texts in (mentions, names))
        found = iter(interactions(vectors, left, right).tolist())
        return [
            [(1 - self.weight) * each.score + self.weight * next(found) for each in query.candidates]
            for query in queries
        ]


def interactions(
    vectors: TokenVectors, left: np.ndarray, right: np.ndarray, *, pairs_per_part: int = _PAIRS_PER_PART
) -> Tensor:
    """The interaction of pairs of names.

    Args:
        vectors: Token vectors of n names, unit length.
        left: (p,) int64, one name of each pair.
        right: (p,) int64, the other.
        pairs_per_part: Pairs in memory at once.

    Returns:
        (p,) float32 in [-1, 1]: 2 · recall · precision / (recall + precision), where recall is the mean over the left tokens of the greatest cosine
        with a right one, and precision the reverse; 0 where their sum is not positive.
    """
    parts = [torch.zeros(0)]
    for start in range(0, len(left), pairs_per_part):
        a, has_a = vectors.padded(left[start : start + pairs_per_part])
        b, has_b = vectors.padded(right[start : start + pairs_per_part])
        cosines = (a @ b.transpose(1, 2)).masked_fill(~(has_a[:, :, None] & has_b[:, None, :]), -1.0)
        recall = (cosines.amax(2) * has_a).sum(1) / has_a.sum(1).clamp(min=1)
        precision = (cosines.amax(1) * has_b).sum(1) / has_b.sum(1).clamp(min=1)
        total = recall + precision
        parts.append(torch.where(total > 0, 2 * recall * precision / total.clamp(min=1e-9), torch.zeros(())))
    return torch.cat(parts)
