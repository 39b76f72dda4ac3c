"""Token vectors: the states of a name's tokens, where pooling would make one vector of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xsap.encoding.encoder import Encoder
from xsap.encoding.packed_layers import can_pack, packed_states
from xsap.encoding.packing import PackedBatch, Tokens, Transformer, pack, padded_states, tokenize_names
from xsap.encoding.threads import threads_for
from xsap.text import normalize_all


@dataclass(frozen=True)
class TokenVectors:
    """Unit vectors of the tokens of n names, special tokens left out.

    Attributes:
        vectors: (T, hidden) float32, one name after another.
        offsets: (n + 1,) where each name starts.
    """

    vectors: Tensor
    offsets: NDArray[np.int64]

    def padded(self, names: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Token vectors of some names as (m, longest, hidden), zero behind the last token; and (m, longest) where there are tokens."""
        lengths = self.offsets[names + 1] - self.offsets[names]
        positions = np.arange(max(1, int(lengths.max(initial=1))))
        real = positions < lengths[:, None]
        at = np.where(real, self.offsets[names][:, None] + positions, 0)
        mask = torch.from_numpy(real)
        return self.vectors[torch.from_numpy(at)] * mask[..., None], mask


@torch.inference_mode()
def token_vectors(
    encoder: Encoder,
    names: Sequence[str],
    transformer: Transformer,
    *,
    prompt: str = "",
    tokens_per_batch: int | None = None,
) -> TokenVectors:
    """Unit vectors of the tokens of names.

    Args:
        encoder: Whose tokenizer and text policy are used.
        names: n names, normalized here.
        transformer: Its transformer, or `lowest_layers` of it.
        prompt: Text before each name; its tokens are left out, too.
        tokens_per_batch: Tokens encoded at a time; by default as `Encoder.encode`.
    """
    tokenizer, device = encoder.tokenizer, next(encoder.transformer.parameters()).device
    texts = normalize_all(names, encoder.policy)
    tokens = tokenize_names([prompt + text for text in texts], tokenizer, encoder.max_length)
    size = tokens_per_batch or encoder.tokens_per_batch
    ends = np.flatnonzero(np.diff(np.cumsum(tokens.lengths) // size)) + 1
    states = [
        _states(transformer, tokens.take(rows), int(tokenizer.pad_token_id or 0), device)
        for rows in np.split(np.arange(len(tokens)), ends)
        if len(rows)
    ]
    special = np.isin(tokens.ids, tokenizer.all_special_ids)
    if prompt:
        within = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], tokens.lengths)
        special |= within < len(tokenizer(prompt)["input_ids"]) - 1
    owner = np.repeat(np.arange(len(tokens)), tokens.lengths)
    bare = np.bincount(owner[~special], minlength=len(tokens)) == 0
    kept = ~special | bare[owner]  # a name of which nothing is left keeps all
    flat = torch.cat(states) if states else torch.zeros(0, encoder.dimension)
    vectors = nn.functional.normalize(flat[torch.from_numpy(kept)].float(), dim=-1)
    return TokenVectors(vectors, np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(tokens)))]))


def _states(transformer: Transformer, tokens: Tokens, pad_id: int, device: torch.device) -> Tensor:
    """(T, hidden) the states of all tokens, on the CPU."""
    batch = pack(tokens).to(device)
    with threads_for(len(tokens.ids)):
        if not can_pack(transformer):
            states = padded_states(transformer, batch, batch.longest, pad_id)
            return states[torch.arange(batch.longest, device=device) < batch.lengths[:, None]].cpu()
        return packed_states(transformer, batch).flatten(0, 1)[_positions(batch)].cpu()


def _positions(batch: PackedBatch) -> Tensor:
    """(T,) where the tokens of each name stand, name by name."""
    within = torch.arange(batch.longest, device=batch.starts.device)
    return (batch.starts[:, None] + within)[within < batch.lengths[:, None]]
