"""Token ids through a BERT-family encoder without a single pad token.

Names have about 8 tokens; padded to 25, two thirds of the work is wasted. Here the tokens of all names stand one after another,
sorted by length, as one (T, hidden) matrix: embeddings, layer norms and linear layers see nothing else. Only attention must know
where a name ends; equal lengths stand together, so each length is one dense (names, heads, length, length) block, with no mask.

The layers are those of the Hugging Face model itself, so its weights, its `state_dict` and its `save_pretrained` are untouched.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xsap.encoding.tokens import Tokens

Transformer = Any  # a Hugging Face model or a part of one: their attributes are made at run time
_FAMILY = {"bert": 0, "roberta": None, "xlm-roberta": None, "camembert": None}  # first position; None: padding_idx + 1


@dataclass(frozen=True)
class Packed:
    """A batch of n names, T tokens.

    ids: (T,) token ids of the names, shortest names first. positions: (T,) 0, 1, … within each name. shapes: (names, length) for
    each length, ascending. order: (n,) where the i-th given name stands among the sorted ones.
    """

    ids: Tensor
    positions: Tensor
    shapes: tuple[tuple[int, int], ...]
    order: Tensor

    def to(self, device: torch.device) -> "Packed":
        """The same batch on a device."""
        ids, positions, order = (t.to(device, non_blocking=True) for t in (self.ids, self.positions, self.order))
        return Packed(ids, positions, self.shapes, order)


def pack(tokens: Tokens) -> Packed:
    """Names in any order → a batch whose equal lengths stand together."""
    lengths = tokens.lengths
    by_length = np.argsort(lengths, kind="stable")
    order = np.empty_like(by_length)
    order[by_length] = np.arange(len(by_length))
    in_order = tokens.take(by_length)
    positions = np.arange(len(in_order.ids)) - np.repeat(in_order.offsets[:-1], in_order.lengths)
    shapes = tuple((len(list(group)), length) for length, group in groupby(in_order.lengths.tolist()))
    ids = torch.from_numpy(in_order.ids.astype(np.int64))
    return Packed(ids, torch.from_numpy(positions), shapes, torch.from_numpy(order))


def can_pack(model: Transformer) -> bool:
    """Whether `packed_states` knows the model's architecture; others run by `grouped_states`."""
    config = model.config
    kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
    return config.model_type in _FAMILY and kind == "absolute" and not getattr(config, "is_decoder", False)


def packed_states(model: Transformer, batch: Packed) -> Tensor:
    """(T, hidden): the last layer's state of each token, in the order of `batch.ids`."""
    states = _embed(model.embeddings, batch, _FAMILY[model.config.model_type])
    sizes = [count * length for count, length in batch.shapes]
    for layer in model.encoder.layer:
        attended = _attend(layer.attention.self, states, batch.shapes, sizes)
        states = layer.attention.output(attended, states)
        states = layer.output(layer.intermediate(states), states)
    return states


def _embed(embeddings: Transformer, batch: Packed, first_position: int | None) -> Tensor:
    first = embeddings.position_embeddings.padding_idx + 1 if first_position is None else first_position
    states = embeddings.word_embeddings(batch.ids) + embeddings.token_type_embeddings.weight[0]
    states = states + embeddings.position_embeddings(batch.positions + first)
    normed: Tensor = embeddings.dropout(embeddings.LayerNorm(states))
    return normed


def _attend(attention: Transformer, states: Tensor, shapes: tuple[tuple[int, int], ...], sizes: list[int]) -> Tensor:
    """Self-attention of each name with itself alone. states: (T, hidden) → (T, hidden)."""
    heads, dropout = attention.num_attention_heads, attention.dropout.p if attention.training else 0.0
    # split, not slices: the backward pass of a split is one concatenation, that of a slice a whole matrix of zeros
    parts = zip(*(layer(states).split(sizes) for layer in (attention.query, attention.key, attention.value)), strict=True)
    attended = []
    for (count, length), qkv in zip(shapes, parts, strict=True):
        query, key, value = (part.view(count, length, heads, -1).transpose(1, 2) for part in qkv)
        out = _attention(query, key, value, dropout)
        attended.append(out.transpose(1, 2).reshape(count * length, -1))
    return torch.cat(attended)


def _attention(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Scaled dot-product attention, (names, heads, length, head size) each. Written out where a CPU trains: at a name's length the
    backward pass of torch's CPU kernel takes several times as long as these three products."""
    if query.is_cuda or not query.requires_grad:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    attended: Tensor = weights.to(value.dtype) @ value
    return attended


def grouped_states(model: Transformer, batch: Packed) -> Tensor:
    """`packed_states` for any other architecture: one call of the model for each length, so there is still no pad token."""
    states = []
    for (count, length), ids in zip(batch.shapes, batch.ids.split([c * n for c, n in batch.shapes]), strict=True):
        ids = ids.view(count, length)
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        states.append(out.reshape(count * length, -1))
    return torch.cat(states)


def padded_states(model: Transformer, batch: Packed, length: int, pad_id: int) -> Tensor:
    """(n, length, hidden) in the given order of names, each name padded to `length`: for pooling over pad positions too."""
    rows = []
    for (count, size), ids in zip(batch.shapes, batch.ids.split([c * n for c, n in batch.shapes]), strict=True):
        rows.append(F.pad(ids.view(count, size), (0, length - size), value=pad_id))
    padded = torch.cat(rows)[batch.order]
    states: Tensor = model(input_ids=padded, attention_mask=padded.ne(pad_id).long()).last_hidden_state
    return states


def first_tokens(states: Tensor, batch: Packed) -> Tensor:
    """(n, hidden): the state of each name's first token, in the given order of names."""
    return states[batch.positions == 0][batch.order]


def mean_tokens(states: Tensor, batch: Packed) -> Tensor:
    """(n, hidden): the mean state over each name's tokens, special ones included, in the given order of names."""
    parts = states.split([count * length for count, length in batch.shapes])
    means = [part.view(count, length, -1).mean(1) for (count, length), part in zip(batch.shapes, parts, strict=True)]
    return torch.cat(means)[batch.order]
