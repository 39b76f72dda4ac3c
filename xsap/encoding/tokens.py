"""Names → token ids, once: two flat arrays, from which any batch is a gather.

A tokenizer handles some tens of thousands of names a second, an encoder on a GPU more than it; so training tokenises its whole
terminology before the first step, through `datasets`, and never again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
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


def tokenise(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """Token ids of normalised names, in memory; a name longer than `max_length` tokens (special ones included) is cut."""
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(names), _NAMES_AT_ONCE):
        rows = _ids(names[start : start + _NAMES_AT_ONCE], tokenizer, max_length)
        lengths.append(np.array([len(row) for row in rows], np.int64))
        ids.append(np.fromiter((i for row in rows for i in row), np.int32, lengths[-1].sum()))
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


def tokenise_to_disk(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, file: Path) -> Tokens:
    """`tokenise` by way of an Arrow file, with a progress bar. In memory are the ids alone, 4 bytes a token."""
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
    ids = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks]) if len(chunks) > 1 else chunks[0].flatten().to_numpy()
    return Tokens(ids.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def _ids(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    encoded = tokenizer(list(names), truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
    rows: list[list[int]] = encoded["input_ids"]
    return rows
