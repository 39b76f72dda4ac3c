"""Names → token ids, once: two flat arrays, from which any batch is a gather.

A tokenizer handles some tens of thousands of names a second, an encoder on a GPU more than it; so training tokenizes its whole
terminology before the first step, through `datasets`, and never again.

Token ids through a BERT-family encoder without padding.

Names have about 8 tokens; padded to 25, two thirds of the work is wasted. Here names are laid end to end into tiles of 64 places, longest
first, the shorter ones where room is left, so that about one place in a hundred stays free. Embeddings, layer norms and linear layers see the
tiles as they are; attention sees in each tile a mask that keeps every name to itself. A tile is a small dense product, which
CPUs and GPUs do at full speed, and its shape doesn't depend on the names. Where only [CLS] is wanted, the last layer is computed for it alone.

The layers are those of the Hugging Face model itself, so its weights, its `state_dict` and its `save_pretrained` are untouched.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

_NAMES_AT_ONCE = 10_000  # what a tokenizer returns takes some 2 kB a name, forty times what is kept of it


@dataclass(frozen=True)
class Tokens:
    """ids: (T,) the token ids of all names, one name after another. offsets: (n + 1,) where each name starts."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens a name, special tokens included."""
        return np.diff(self.offsets)

    def count(self, rows: NDArray[np.int64]) -> int:
        """Tokens of the names at `rows`."""
        return int((self.offsets[rows + 1] - self.offsets[rows]).sum())

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """The names at `rows`, in that order."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(self.ids[at], offsets)


def drop_tokens(tokens: Tokens, rate: float, random: NDArray[np.float64]) -> Tokens:
    """Names without a share of their tokens; the first and last, which are special, stay, and a name that would lose all others is left whole.

    random: (T,) in [0, 1), one for each token.
    """
    inner = np.ones(len(tokens.ids), bool)
    inner[tokens.offsets[:-1]] = inner[tokens.offsets[1:] - 1] = False
    kept = ~inner | (random >= rate)
    names = np.repeat(np.arange(len(tokens)), tokens.lengths)
    bare = np.bincount(names[kept & inner], minlength=len(tokens)) == 0
    kept |= bare[names]  # all of what would be left with nothing
    lengths = np.bincount(names[kept], minlength=len(tokens))
    return Tokens(tokens.ids[kept], np.concatenate([[0], np.cumsum(lengths)]))


def tokenize_names(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """Token ids of normalized names, in memory; a name longer than `max_length` tokens (special ones included) is cut."""
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(names), _NAMES_AT_ONCE):
        rows = _ids(names[start : start + _NAMES_AT_ONCE], tokenizer, max_length)
        lengths.append(np.array([len(row) for row in rows], np.int64))
        ids.append(np.fromiter((i for row in rows for i in row), np.int32, lengths[-1].sum()))
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


def tokenize_to_disk(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, file: Path) -> Tokens:
    """`tokenize_names` by way of an Arrow file, with a progress bar. In memory are the ids alone, 4 bytes a token."""
    from datasets import Dataset  # only training needs it, and it takes a second

    def convert(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"ids": [np.asarray(row, np.int32) for row in _ids(batch["name"], tokenizer, max_length)]}

    dataset = Dataset.from_dict({"name": list(names)}).map(
        convert,
        batched=True,
        batch_size=_NAMES_AT_ONCE,
        remove_columns=["name"],
        cache_file_name=str(file),
        load_from_cache_file=False,
        new_fingerprint="tokens",  # else the tokenizer is pickled, to be hashed
        desc="tokens",
    )
    column = dataset.data.column("ids").combine_chunks()
    chunks = getattr(column, "chunks", [column])
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])
    ids = (
        np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])
        if len(chunks) > 1
        else chunks[0].flatten().to_numpy()
    )
    return Tokens(ids.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _ids(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    encoded = tokenizer(list(names), truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
    rows: list[list[int]] = encoded["input_ids"]
    return rows


Transformer = Any  # a Hugging Face model or a part of one: their attributes are made at run time
_FAMILY = {"bert": 0, "roberta": None, "xlm-roberta": None, "camembert": None}  # first position; None: padding_idx + 1
_PLACES = (
    64  # of a tile: wide enough for full speed, narrow enough that attention to strangers, masked out, costs little
)


@dataclass(frozen=True)
class Packed:
    """A batch of n names in t tiles of s places, at most q names a tile.

    ids: (t, s) token ids, 0 where a place is free. positions: (t, s) 0, 1, … within each name. owners: (t, s) which of its tile's names a
    token belongs to, -1 where free. starts: (n,) the place of each given name's first token, counted over all tiles. lengths: (n,)
    tokens of each. slots: (n,) its tile · q + its number in the tile. longest: tokens of the longest.
    """

    ids: Tensor
    positions: Tensor
    owners: Tensor
    starts: Tensor
    lengths: Tensor
    slots: Tensor
    q: int
    longest: int

    def to(self, device: torch.device) -> "Packed":
        """The same batch on a device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self) if f.type is Tensor}
        return replace(self, **moved)


def pack(tokens: Tokens) -> Packed:
    """Names in any order → tiles."""
    lengths = tokens.lengths
    longest = int(lengths.max(initial=1))
    size = max(longest, min(int(lengths.sum()), _PLACES if longest <= _PLACES // 2 else 2 * longest))
    tile, start, number = _bin_pack(lengths, size)
    tiles, first = int(tile.max(initial=0)) + 1, tile * size + start
    within = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], lengths)
    at = np.repeat(first, lengths) + within
    ids, positions, owners = (
        np.zeros(tiles * size, np.int64),
        np.zeros(tiles * size, np.int64),
        np.full(tiles * size, -1),
    )
    ids[at], positions[at], owners[at] = tokens.ids, within, np.repeat(number, lengths)
    q = int(number.max(initial=0)) + 1
    laid = [torch.from_numpy(part).view(tiles, size) for part in (ids, positions, owners)]
    names = [torch.from_numpy(part) for part in (first, lengths, tile * q + number)]
    return Packed(laid[0], laid[1], laid[2], names[0], names[1], names[2], q, longest)


def _bin_pack(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """(3, n): each name's tile, its place there, and its number there. A tile takes the longest waiting name that fits, again and again."""
    by_length = np.argsort(lengths, kind="stable")
    present = np.unique(lengths).tolist()
    ends = np.searchsorted(
        lengths[by_length], np.arange(size + 2)
    ).tolist()  # sorted names ends[l] … tops[l] - 1 of length l wait
    tops = ends[1:]
    laid = np.empty((len(lengths), 4), np.int64)
    tile = place = number = 0
    for row in range(len(lengths)):
        at = bisect_right(present, size - place) - 1
        if at < 0:
            tile, place, number, at = tile + 1, 0, 0, len(present) - 1
        length = present[at]
        tops[length] -= 1
        if tops[length] == ends[length]:
            present.pop(at)
        laid[row] = tops[length], tile, place, number
        place, number = place + length, number + 1
    out = np.empty((3, len(lengths)), np.int64)
    out[:, by_length[laid[:, 0]]] = laid[:, 1:].T
    return out


def can_pack(model: Transformer) -> bool:
    """Whether `packed_states` knows the model's architecture; others run by `padded_states`."""
    config = model.config
    kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
    return config.model_type in _FAMILY and kind == "absolute" and not getattr(config, "is_decoder", False)


def packed_states(model: Transformer, batch: Packed) -> Tensor:
    """(t, s, hidden): the last layer's state of each token."""
    states = _embed(model.embeddings, batch, _FAMILY[model.config.model_type])
    own = batch.owners[:, None, :, None] == batch.owners[:, None, None, :]
    for layer in model.encoder.layer:
        states = _layer(layer, states, states, own)
    return states


def packed_first(model: Transformer, batch: Packed) -> Tensor:
    """(n, hidden): the last layer's state of each name's first token, in the given order of names, the layer being computed for it alone."""
    states = _embed(model.embeddings, batch, _FAMILY[model.config.model_type])
    own = batch.owners[:, None, :, None] == batch.owners[:, None, None, :]
    *layers, last = model.encoder.layer
    for layer in layers:
        states = _layer(layer, states, states, own)
    first = states.flatten(0, 1)[batch.starts]
    own = torch.arange(batch.q, device=own.device)[:, None] == batch.owners[:, None, None, :]
    return _layer(last, first, states, own, batch.slots)


def packed_mean(model: Transformer, batch: Packed) -> Tensor:
    """(n, hidden): the mean state over each name's tokens, special ones included, in the given order of names."""
    states = packed_states(model, batch)
    own = torch.arange(batch.q, device=states.device)[:, None] == batch.owners[:, None, :]
    sums = (own.to(states.dtype) @ states).flatten(0, 1)[batch.slots]
    return sums / batch.lengths[:, None]


def padded_states(model: Transformer, batch: Packed, length: int, pad_id: int) -> Tensor:
    """(n, length, hidden) in the given order of names, each padded to `length`: the plain way, for any architecture, and for pooling over
    pad positions too."""
    places = torch.arange(length, device=batch.ids.device)
    mask = places < batch.lengths[:, None]
    ids = batch.ids.flatten()[torch.where(mask, batch.starts[:, None] + places, 0)].masked_fill(~mask, pad_id)
    states: Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return states


def _embed(embeddings: Transformer, batch: Packed, first_position: int | None) -> Tensor:
    first = embeddings.position_embeddings.padding_idx + 1 if first_position is None else first_position
    states = embeddings.word_embeddings(batch.ids) + embeddings.token_type_embeddings.weight[0]
    states = states + embeddings.position_embeddings(batch.positions + first)
    return _dropout(embeddings.LayerNorm(states), embeddings.dropout)


def _layer(layer: Transformer, queries: Tensor, states: Tensor, own: Tensor, slots: Tensor | None = None) -> Tensor:
    """One layer for the queries. They are all states, (t, s, hidden); or, with slots, (n, hidden) of them. own: (t, 1, q or s, s)."""
    attention = layer.attention.self
    query, key, value = attention.query(queries), attention.key(states), attention.value(states)
    if slots is not None:
        query = (
            query.new_zeros(len(states) * own.shape[2], query.shape[-1])
            .index_copy(0, slots, query)
            .view(len(states), own.shape[2], -1)
        )
    query, key, value = (
        part.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    attended = _attention(query, key, value, own, attention.dropout).transpose(1, 2).flatten(2)
    if slots is not None:
        attended = attended.flatten(0, 1)[slots]
    attended = _add(layer.attention.output, attended, queries)
    return _add(layer.output, layer.intermediate(attended), attended)


def _add(output: Transformer, states: Tensor, residual: Tensor) -> Tensor:
    """What BertOutput and BertSelfOutput do."""
    added: Tensor = output.LayerNorm(_dropout(output.dense(states), output.dropout) + residual)
    return added


def _attention(query: Tensor, key: Tensor, value: Tensor, own: Tensor, dropout: torch.nn.Dropout) -> Tensor:
    """Scaled dot-product attention to one's own, (t, heads, q or s, head size). Written out where a CPU trains: there the backward
    pass of torch's kernel takes several times as long as these three products."""
    if query.is_cuda or not query.requires_grad:
        return F.scaled_dot_product_attention(query, key, value, own, dropout.p if dropout.training else 0.0)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    weights = scores.masked_fill(~own, torch.finfo(scores.dtype).min).softmax(-1)
    attended: Tensor = _dropout(weights.to(value.dtype), dropout) @ value
    return attended


def _dropout(states: Tensor, dropout: torch.nn.Dropout) -> Tensor:
    """Dropout; its rate on a CPU a multiple of 2^-16, from four places a random number: torch draws one a place, a tenth of a training step."""
    if states.is_cuda or not dropout.training or not dropout.p:
        return F.dropout(states, dropout.p, dropout.training)
    bits = torch.empty(states.numel() + 3 >> 2, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[: states.numel()].view(states.shape) >= round(dropout.p * 2**16) - 2**15
    return states * kept.to(states.dtype).mul_(1 / (1 - dropout.p))
