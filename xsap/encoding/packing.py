"""Token ids of names, and packing them into rows without padding.

Training tokenizes its whole terminology once, before the first step, into two flat arrays from which any batch is a
gather: a tokenizer handles tens of thousands of names per second, an encoder on a GPU more than that.

Names have about 8 tokens; padded to 25, two thirds of the work is wasted. Here names are packed into rows of 64 tokens,
longest first, shorter ones where room is left, so that about 1 % of the positions stay empty. A row is a small dense
product, which CPUs and GPUs do at full speed, and its shape does not depend on the names. `packed_layers` runs models on
such rows; `padded_states` runs any other model with padding.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from xsap.progress import track

Transformer = Any  # a Hugging Face model or a part of one: their attributes are made at run time
NAMES_PER_BATCH = 10_000  # a tokenizer's output takes some 2 kB per name, forty times what is kept of it
_ROW_LENGTH = 64  # tokens: wide enough for full speed, narrow enough that masked attention to other names costs little


@dataclass(frozen=True)
class Tokens:
    """Token ids of n names.

    Attributes:
        ids: (T,) int32, the token ids of all names, one name after another.
        offsets: (n + 1,) int64, where each name starts in `ids`; the last one is T.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens per name, special tokens included."""
        return np.diff(self.offsets)

    def count(self, rows: NDArray[np.int64]) -> int:
        """Number of tokens of the names at `rows`."""
        return int((self.offsets[rows + 1] - self.offsets[rows]).sum())

    def take(self, rows: NDArray[np.int64]) -> "Tokens":
        """The names at `rows`, in that order."""
        starts, lengths = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        at = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(self.ids[at], offsets)


def drop_tokens(tokens: Tokens, rate: float, random: NDArray[np.float64]) -> Tokens:
    """Leave out tokens at random: token dropout.

    The first and last token of a name, which are special, stay. A name that would lose all others is left whole.

    Args:
        tokens: Token ids of n names, T in all.
        rate: Fraction of tokens to leave out.
        random: (T,) float64 in [0, 1), one number per token.

    Returns:
        The same n names with fewer tokens.
    """
    inner = np.ones(len(tokens.ids), bool)
    inner[tokens.offsets[:-1]] = inner[tokens.offsets[1:] - 1] = False
    kept = ~inner | (random >= rate)
    names = np.repeat(np.arange(len(tokens)), tokens.lengths)
    bare = np.bincount(names[kept & inner], minlength=len(tokens)) == 0
    kept |= bare[names]
    lengths = np.bincount(names[kept], minlength=len(tokens))
    return Tokens(tokens.ids[kept], np.concatenate([[0], np.cumsum(lengths)]))


def tokenize_names(
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    names_per_batch: int = NAMES_PER_BATCH,
) -> Tokens:
    """Tokenize names in memory.

    Args:
        names: Normalized names.
        tokenizer: A Hugging Face tokenizer.
        max_length: Tokens after which a name is truncated, special tokens included.
        names_per_batch: Names per call of the tokenizer, which bounds memory.
    """
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(names), names_per_batch):
        tokens = _tokenize(names[start : start + names_per_batch], tokenizer, max_length)
        lengths.append(tokens.lengths)
        ids.append(tokens.ids)
    return Tokens(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


def tokenize_to_disk(
    names: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    file: Path,
    *,
    names_per_batch: int = NAMES_PER_BATCH,
    progress_bar: bool = False,
) -> Tokens:
    """`tokenize_names` with an Arrow file, so that memory holds the ids alone, 4 bytes per token.

    Args:
        names: Normalized names.
        tokenizer: A Hugging Face tokenizer.
        max_length: Tokens after which a name is truncated, special tokens included.
        file: The Arrow file to write.
        names_per_batch: Names per call of the tokenizer, which bounds memory.
        progress_bar: Whether a progress bar is drawn; otherwise a line is logged once a minute.
    """
    from datasets import Dataset  # only training needs it, and it takes a second

    with track("tokenize", "names", len(names), bar=progress_bar) as advance, _without_bars():

        def convert(batch: pa.Table) -> pa.Table:
            tokens = _tokenize(batch["name"].to_pylist(), tokenizer, max_length)
            advance(len(tokens), "")
            rows = pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), pa.array(tokens.ids))
            return pa.table({"ids": rows})

        # Tables of Arrow in and out: lists of Python numbers took longer than the tokenizer.
        table = Dataset.from_dict({"name": list(names)}).with_format("arrow")
        dataset = table.map(
            convert,
            batched=True,
            batch_size=names_per_batch,
            remove_columns=["name"],
            cache_file_name=str(file),
            load_from_cache_file=False,
            new_fingerprint="tokens",  # otherwise datasets would pickle the tokenizer to hash it
        )
    column = dataset.data.column("ids").combine_chunks()
    chunks = getattr(column, "chunks", [column])
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])
    parts = [chunk.flatten().to_numpy() for chunk in chunks]
    ids = np.concatenate(parts) if len(parts) > 1 else parts[0]  # one part needs no copy
    return Tokens(ids.astype(np.int32, copy=False), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


@contextmanager
def _without_bars() -> Iterator[None]:
    """Turn off the progress bars of `datasets`, which it draws into files, too."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _tokenize(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    rows: list[list[int]]
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        # What calling the tokenizer does, without the offsets and masks of every token, which take as long as the ids.
        tokenizer.set_truncation_and_padding(
            PaddingStrategy.DO_NOT_PAD,
            TruncationStrategy.LONGEST_FIRST,
            max_length=max_length,
            stride=0,
            pad_to_multiple_of=None,
            padding_side=None,
        )
        backend = tokenizer.backend_tokenizer
        if backend.encode_special_tokens != tokenizer.split_special_tokens:
            backend.encode_special_tokens = tokenizer.split_special_tokens
        rows = [encoding.ids for encoding in backend.encode_batch_fast(list(names))]
    else:
        options = {"truncation": True, "padding": False, "return_attention_mask": False}
        rows = tokenizer(list(names), max_length=max_length, **options)["input_ids"]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Tokens(np.fromiter((i for row in rows for i in row), np.int32, int(offsets[-1])), offsets)


@dataclass(frozen=True)
class PackedBatch:
    """A batch of n names in r rows of s positions, at most q names per row.

    Attributes:
        ids: (r, s) token ids, 0 where a position is empty.
        position_ids: (r, s) 0, 1, … within each name.
        segment_ids: (r, s) which of its row's names a token belongs to, -1 where empty.
        starts: (n,) the position of each name's first token, counted over all rows.
        lengths: (n,) tokens per name.
        slots: (n,) for each name its row · q + its number within the row.
        q: The largest number of names in a row.
        longest: Tokens of the longest name, those of its prefix included.
        places: Where prefixes and names are, if names have prefixes; else None.
    """

    ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    starts: Tensor
    lengths: Tensor
    slots: Tensor
    q: int
    longest: int
    places: "PrefixPlaces | None" = None

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on a device."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(self, **moved, places=None if self.places is None else self.places.to(device))


def pack(tokens: Tokens) -> PackedBatch:
    """Pack names, in any order, into rows."""
    lengths = tokens.lengths
    longest = int(lengths.max(initial=1))
    size = max(longest, min(int(lengths.sum()), _ROW_LENGTH if longest <= _ROW_LENGTH // 2 else 2 * longest))
    row, start, number = _bin_pack(lengths, size)
    rows, first = int(row.max(initial=0)) + 1, row * size + start
    within = np.arange(len(tokens.ids)) - np.repeat(tokens.offsets[:-1], lengths)
    positions = np.repeat(first, lengths) + within
    ids, position_ids = np.zeros(rows * size, np.int64), np.zeros(rows * size, np.int64)
    segment_ids = np.full(rows * size, -1)
    ids[positions], position_ids[positions], segment_ids[positions] = tokens.ids, within, np.repeat(number, lengths)
    q = int(number.max(initial=0)) + 1
    by_token = [torch.from_numpy(array).view(rows, size) for array in (ids, position_ids, segment_ids)]
    by_name = [torch.from_numpy(array) for array in (first, lengths, row * q + number)]
    return PackedBatch(by_token[0], by_token[1], by_token[2], by_name[0], by_name[1], by_name[2], q, longest)


@dataclass(frozen=True)
class PrefixPlaces:
    """Where the tokens of g prefixes and of n texts are in a batch, as positions counted over all rows; for attention.

    Attributes:
        prefixes: (g, p) of each prefix; behind its last token any position.
        is_prefix: (g, p) where it has tokens.
        texts: (n, t) of each text likewise.
        is_text: (n, t).
        keys: (n, p + t) of what each text attends to: its prefix, then itself.
        is_key: (n, p + t).
    """

    prefixes: Tensor
    is_prefix: Tensor
    texts: Tensor
    is_text: Tensor
    keys: Tensor
    is_key: Tensor

    def to(self, device: torch.device) -> "PrefixPlaces":
        """The same places on a device."""
        return PrefixPlaces(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def pack_with_prefixes(prefixes: Tokens, texts: Tokens, counts: NDArray[np.int64]) -> PackedBatch:
    """Pack groups of texts that share a prefix, such as the candidates of a mention in its context.

    A text attends to its group's prefix and to itself, and its positions follow the prefix's; a prefix attends to itself alone. So a prefix is
    computed once for all texts of its group, and no text depends on the others of its group or on their order. All tokens are in one row, those of
    the prefixes first, without empty positions: what attends to what is in `places`.

    Args:
        prefixes: Token ids of g prefixes.
        texts: Token ids of n texts, those of a group one after another.
        counts: (g,) how many texts each group has.

    Returns:
        A batch of n names, the texts.
    """
    groups = np.repeat(np.arange(len(prefixes)), counts)
    before = prefixes.lengths[groups]  # tokens of its prefix
    prefix_at, is_prefix = _places(prefixes, 0)
    text_at, is_text = _places(texts, len(prefixes.ids))
    within = [np.arange(len(each.ids)) - np.repeat(each.offsets[:-1], each.lengths) for each in (prefixes, texts)]
    within[1] = within[1] + np.repeat(before, texts.lengths)
    segment_ids = [np.full(len(prefixes.ids), -1), np.repeat(np.arange(len(texts)), texts.lengths)]
    rows = ([prefixes.ids.astype(np.int64), texts.ids.astype(np.int64)], within, segment_ids)
    keys = np.concatenate([prefix_at[groups], text_at], 1), np.concatenate([is_prefix[groups], is_text], 1)
    places = PrefixPlaces(*map(torch.from_numpy, (prefix_at, is_prefix, text_at, is_text, *keys)))
    ids, position_ids, own = (torch.from_numpy(np.concatenate(parts))[None] for parts in rows)
    return PackedBatch(
        ids,
        position_ids,
        own,
        starts=torch.from_numpy(len(prefixes.ids) + texts.offsets[:-1]),
        lengths=torch.from_numpy(texts.lengths),
        slots=torch.arange(len(texts)),
        q=len(texts),
        longest=int((texts.lengths + before).max(initial=1)),
        places=places,
    )


def _places(tokens: Tokens, start: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n, longest) the position of each token, if the first one is at `start`, and where there are tokens."""
    within = np.arange(int(tokens.lengths.max(initial=1)))
    real = within < tokens.lengths[:, None]
    return np.where(real, start + tokens.offsets[:-1, None] + within, 0), real


def _bin_pack(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Best-fit decreasing bin packing: a row takes the longest remaining name that fits, until none does.

    Args:
        lengths: (n,) tokens per name, none above `size`.
        size: Tokens per row.

    Returns:
        (3, n): each name's row, its start within the row, and its number within the row.
    """
    by_length = np.argsort(lengths, kind="stable")
    present = np.unique(lengths).tolist()
    ends = np.searchsorted(lengths[by_length], np.arange(size + 2)).tolist()
    tops = ends[1:]  # the sorted names ends[l] … tops[l] - 1, of length l, remain
    packed = np.empty((len(lengths), 4), np.int64)
    row = start = number = 0
    for i in range(len(lengths)):
        at = bisect_right(present, size - start) - 1
        if at < 0:
            row, start, number, at = row + 1, 0, 0, len(present) - 1
        length = present[at]
        tops[length] -= 1
        if tops[length] == ends[length]:
            present.pop(at)
        packed[i] = tops[length], row, start, number
        start, number = start + length, number + 1
    out = np.empty((3, len(lengths)), np.int64)
    out[:, by_length[packed[:, 0]]] = packed[:, 1:].T
    return out


def padded_states(model: Transformer, batch: PackedBatch, length: int, pad_id: int) -> Tensor:
    """Run a batch through the model with padding: for any architecture, and for pooling over padding.

    Args:
        model: Any Hugging Face encoder.
        batch: n names.
        length: Tokens that each name is padded to.
        pad_id: Token id of the padding.

    Returns:
        (n, length, hidden), in the order that the names were given in.
    """
    positions = torch.arange(length, device=batch.ids.device)
    mask = positions < batch.lengths[:, None]
    ids = batch.ids.flatten()[torch.where(mask, batch.starts[:, None] + positions, 0)].masked_fill(~mask, pad_id)
    states: Tensor = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return states
