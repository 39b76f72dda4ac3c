"""A training step of the original SapBERT recipe: what our speed is measured against.

Written from its description (Liu et al., NAACL 2021, section 2, and https://github.com/cambridgeltl/sapbert, README), without its code: names
padded to 25 tokens; left and right names through the Hugging Face model one after the other, [CLS] taken; all triplets mined and the
loss computed by pytorch-metric-learning; torch's AdamW as it comes, unfused; fp32. Attention is what transformers chooses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss
from pytorch_metric_learning.miners import TripletMarginMiner
from torch import Tensor

from xsap.encoding.folder import REFERENCE_LENGTH
from xsap.encoding.tokens import Tokens

LR, WEIGHT_DECAY = 2e-5, 0.01
MARGIN, ALPHA, BETA, BASE = 0.2, 1.0, 60.0, 0.5


class Padded(NamedTuple):
    """2n names, the left ones first. ids: (2n, 25). mask: (2n, 25), 1 where a token is none of padding, else 0."""

    ids: Tensor
    mask: Tensor


def pad(tokens: Tokens, pad_id: int, length: int = REFERENCE_LENGTH) -> Padded:
    """Names padded to `length`, none of which may be longer."""
    mask = np.arange(length) < tokens.lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = tokens.ids
    return Padded(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))


def reference_vectors(transformer: Any, names: Padded) -> Tensor:
    """(2n, hidden) states of [CLS], by two passes over padded names."""
    sides = zip(names.ids.chunk(2), names.mask.chunk(2), strict=True)
    return torch.cat([transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0] for ids, mask in sides])


def reference_loss(vectors: Tensor, concepts: Tensor) -> Tensor:
    """Multi-similarity of the pairs that occur in a triplet within the margin. vectors: (2n, hidden). concepts: (2n,)."""
    hard = TripletMarginMiner(margin=MARGIN, type_of_triplets="all")(vectors, concepts)
    loss: Tensor = MultiSimilarityLoss(alpha=ALPHA, beta=BETA, base=BASE)(vectors, concepts, hard)
    return loss


def reference_step(transformer: Any) -> Callable[[Padded, Tensor], float]:
    """A function that makes one update from padded names and their concepts → its loss. Its first call makes the optimizer's state."""
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=False)

    def step(names: Padded, concepts: Tensor) -> float:
        loss = reference_loss(reference_vectors(transformer, names), concepts)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step
