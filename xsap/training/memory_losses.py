"""The three losses of an entity memory: masked language model, detection of mentions, linking (Yuan et al., BioNLP 2021, section 3.3).

Each is a mean over all tokens or spans of a step, whatever process computes them. The softmax of linking is taken over the entities of the step,
those most similar to each span, and NIL; or over the whole table, in parts. What differs from the paper: single tokens are masked, as in BERT,
not whole entities; logits of linking are cosines times a learned scale; mentions of no entity are linked to NIL, whose vector is learned; tokens of
which it is not known whether they are a mention have no loss of detection; and the language model predicts pieces that occur in the texts alone.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xsap.encoding.packing import PackedBatch, Tokens, pack
from xsap.text_in.memory import NIL, EntityMemoryModel, SpanPositions, locate_spans
from xsap.text_in.memory_texts import NO_LABEL, TokenSpans

Softmax = Literal["batch", "full"]
_ENTITIES_PER_PART = 1 << 14


class LossWeights(NamedTuple):
    """Weights of the losses in their sum; the original has 1 for each."""

    language: float = 1.0
    detection: float = 1.0
    linking: float = 1.0


@dataclass(frozen=True)
class MemoryBatch:
    """A step's part of one process: n windows with m spans.

    Attributes:
        packed: The windows, with masked tokens.
        spans: The spans that entities are added to.
        labels: (r · s,) label of each position; NO_LABEL where there is none, or none is known.
        masked: (k,) positions of masked tokens.
        originals: (k,) their ids.
        linked: (l,) which spans have a known entity, or NIL.
        targets: (l,) which of `entities` is theirs.
        entities: (g,) the distinct entities of all spans of the step, those of other processes too.
        totals: (3,) tokens masked, tokens labeled and spans linked in the whole step, over all processes; at least 1.
    """

    packed: PackedBatch
    spans: SpanPositions
    labels: Tensor
    masked: Tensor
    originals: Tensor
    linked: Tensor
    targets: Tensor
    entities: Tensor
    totals: Tensor

    def to(self, device: torch.device) -> "MemoryBatch":
        """The same batch on a device."""
        moved = {part.name: getattr(self, part.name).to(device) for part in fields(self)}
        return replace(self, **moved)


class MemoryLosses(nn.Module):
    """The losses of a memory, as a module, so that Accelerate can wrap it.

    Attributes:
        memory: The memory.
        softmax: Over which entities the softmax of linking is taken.
        weights: Of the losses.
        entities_per_part: Entities of the whole table that are compared at a time, which bounds memory.
    """

    def __init__(
        self,
        memory: EntityMemoryModel,
        softmax: Softmax = "batch",
        weights: LossWeights | None = None,
        *,
        entities_per_part: int = _ENTITIES_PER_PART,
    ) -> None:
        super().__init__()
        self.memory, self.softmax, self.weights = memory, softmax, weights or LossWeights()
        self.entities_per_part = entities_per_part

    def forward(self, batch: MemoryBatch) -> Tensor:
        """The losses of a batch.

        Args:
            batch: One process's part of a step.

        Returns:
            (3,) language, detection and linking: sums over the batch, divided by the totals of the step.
        """
        output = self.memory(batch.packed, batch.spans)
        embeddings = self.memory.encoder.transformer.get_input_embeddings().weight
        # every parameter is in the graph of every step, as processes that share gradients need it
        unused = [parameter.sum() for parameter in self.memory.parameters() if parameter.requires_grad]
        zero = (output.states.sum() + torch.stack(unused).sum()) * 0
        language = detection = linking = zero
        dtype = self.memory.vectors.dtype  # losses are not computed in mixed precision
        if self.weights.language and len(batch.masked):
            logits = self.memory.language_head(output.states.flatten(0, 1)[batch.masked], embeddings)
            language = zero + F.cross_entropy(logits.to(dtype), batch.originals, reduction="sum")
        if self.weights.detection:
            scores = output.detection.flatten(0, 1).to(dtype)
            detection = zero + F.cross_entropy(scores, batch.labels, ignore_index=NO_LABEL, reduction="sum")
        if self.weights.linking and len(batch.linked):
            linking = zero + self._linking(output.queries[batch.linked], output.candidates[batch.linked], batch).sum()
        return torch.stack([language, detection, linking]) / batch.totals

    def _linking(self, queries: Tensor, candidates: Tensor, batch: MemoryBatch) -> Tensor:
        """(l,) losses of the spans with a known entity."""
        logits = self.memory.logits_of(queries, batch.entities)
        right = logits.gather(1, batch.targets[:, None])[:, 0]
        if self.softmax == "full":
            return self._log_sum_of_all(queries) - right
        others = torch.isin(candidates, batch.entities)
        similar = self._logits_of_candidates(queries, candidates).masked_fill(others, float("-inf"))
        return torch.cat([logits, similar], 1).logsumexp(1) - right

    def _logits_of_candidates(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """(l, c) logits of each span's own candidates, whose last one is NIL."""
        known = (queries[:, None] * self.memory.vectors[candidates[:, :-1]]).sum(-1) * self.memory.log_scale.exp()
        nil = self.memory.logits_of(queries, torch.tensor([NIL], device=queries.device))
        return torch.cat([known, nil], 1)

    def _log_sum_of_all(self, queries: Tensor) -> Tensor:
        """(l,) log of the sum over all entities and NIL; the parts of the table are computed again in the backward pass."""
        count, size, device = len(self.memory.vectors), self.entities_per_part, queries.device

        def part(queries: Tensor, start: int) -> Tensor:
            rows = torch.arange(start, min(start + size, count), device=device)
            return self.memory.logits_of(queries, rows).logsumexp(1)

        sums = [checkpoint(part, queries, start, use_reentrant=False) for start in range(0, count, size)]
        sums.append(self.memory.logits_of(queries, torch.tensor([NIL], device=device))[:, 0])
        return torch.stack(sums, 1).logsumexp(1)


class Masking(NamedTuple):
    """Which tokens are masked, out of the T of some windows.

    Attributes:
        ids: (T,) token ids with masks.
        masked: (T,) bool, whether a token is to be predicted.
    """

    ids: NDArray[np.int32]
    masked: NDArray[np.bool_]


def mask_tokens(
    tokens: Tokens, random: NDArray[np.float64], rate: float, mask_id: int, others: NDArray[np.int32]
) -> Masking:
    """Choose tokens to predict: of ten, eight become the mask, one another token, one stays (Devlin et al., NAACL 2019, section 3.1).

    Args:
        tokens: Windows of T tokens in all; their first and last token stay.
        random: (3, T) numbers in [0, 1).
        rate: Fraction of tokens to predict.
        mask_id: Token id of the mask.
        others: Token ids that can take a token's place.
    """
    inner = np.ones(len(tokens.ids), bool)
    inner[tokens.offsets[:-1]] = inner[tokens.offsets[1:] - 1] = False
    masked = inner & (random[0] < rate)
    ids = tokens.ids.copy()
    ids[masked & (random[1] < 0.8)] = mask_id
    replaced = masked & (random[1] >= 0.8) & (random[1] < 0.9)
    ids[replaced] = others[(random[2][replaced] * len(others)).astype(np.int64)]
    return Masking(ids, masked)


def make_memory_batch(
    tokens: Tokens,
    masking: Masking,
    labels: NDArray[np.int64],
    spans: TokenSpans,
    entities: NDArray[np.int64],
    entities_of_step: NDArray[np.int64],
    totals: NDArray[np.int64],
) -> MemoryBatch:
    """Put the windows of one process together.

    Args:
        tokens: The windows, T tokens in all.
        masking: Their masked tokens.
        labels: (T,) labels; NO_LABEL where none is known.
        spans: Their spans, m in all.
        entities: (m,) rows of the spans' entities; NIL, or less for none that is known.
        entities_of_step: The distinct entities of the whole step, ascending.
        totals: (3,) see `MemoryBatch`.
    """
    packed = pack(Tokens(masking.ids, tokens.offsets))
    starts, lengths = packed.starts.numpy(), packed.lengths.numpy()
    at = np.repeat(starts - tokens.offsets[:-1], lengths) + np.arange(len(tokens.ids))
    by_position = np.full(packed.ids.numel(), NO_LABEL, np.int64)
    by_position[at] = labels
    by_position[at[tokens.offsets[:-1]]] = by_position[at[tokens.offsets[1:] - 1]] = NO_LABEL  # special tokens
    linked = np.flatnonzero(entities >= NIL)
    targets = np.searchsorted(entities_of_step, entities[linked])
    arrays = (by_position, at[masking.masked], tokens.ids[masking.masked].astype(np.int64), linked, targets)
    tensors = [torch.from_numpy(array) for array in (*arrays, entities_of_step, np.maximum(totals, 1))]
    return MemoryBatch(packed, locate_spans(packed, spans), *tensors)
