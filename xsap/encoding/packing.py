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
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

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
        rows = _ids(names[start : start + names_per_batch], tokenizer, max_length)
        lengths.append(np.array([len(row) for row in rows], np.int64))
        ids.append(np.fromiter((i for row in rows for i in row), np.int32, lengths[-1].sum()))
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

        def convert(batch: dict[str, list[str]]) -> dict[str, Any]:
            rows = [np.asarray(row, np.int32) for row in _ids(batch["name"], tokenizer, max_length)]
            advance(len(rows), "")
            return {"ids": rows}

        dataset = Dataset.from_dict({"name": list(names)}).map(
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


def _ids(names: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    encoded = tokenizer(list(names), truncation=True, max_length=max_length, padding=False, return_attention_mask=False)
    rows: list[list[int]] = encoded["input_ids"]
    return rows


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
        prefix_ids: (r, s) which further name of its row a token attends to, -1 for none; None where no name has a prefix.
        slot_prefixes: (r, q) the same for each name of a row.
    """

    ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    starts: Tensor
    lengths: Tensor
    slots: Tensor
    q: int
    longest: int
    prefix_ids: Tensor | None = None
    slot_prefixes: Tensor | None = None

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on a device."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: part.to(device, non_blocking=True) for name, part in parts.items() if isinstance(part, Tensor)
        }
        return replace(self, **moved)


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


def pack_with_prefixes(prefixes: Tokens, texts: Tokens, counts: NDArray[np.int64]) -> PackedBatch:
    """Pack groups of texts that share a prefix, such as the candidates of a mention in its context.

    A text attends to its group's prefix and to itself, and its positions follow the prefix's; a prefix attends to itself alone. So a prefix is
    computed once for all texts of its group, and no text depends on the others of its group or on their order.

    Args:
        prefixes: Token ids of g prefixes.
        texts: Token ids of n texts, those of a group one after another.
        counts: (g,) how many texts each group has.

    Returns:
        A batch of g + n names: the prefixes, then the texts.
    """
    groups = np.repeat(np.arange(len(prefixes)), counts)
    ids = np.concatenate([prefixes.ids, texts.ids])
    lengths, owner = (
        np.concatenate([prefixes.lengths, texts.lengths]),
        np.concatenate([np.arange(len(prefixes)), groups]),
    )
    is_text = np.arange(len(owner)) >= len(prefixes)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # within a group the prefix comes first, then the texts in order
    order = np.lexsort((np.arange(len(owner)), owner))
    sizes = np.bincount(owner, weights=lengths, minlength=len(prefixes)).astype(np.int64)
    row, start, _ = _bin_pack(sizes, int(sizes.max(initial=1)))
    before = np.empty(len(owner), np.int64)  # tokens of its group that stand before each name
    running = np.cumsum(lengths[order]) - lengths[order]
    first_of_group = np.cumsum(sizes) - sizes
    before[order] = running - first_of_group[owner[order]]
    size, rows = int(sizes.max(initial=1)), int(row.max(initial=0)) + 1
    starts = row[owner] * size + start[owner] + before
    by_row = np.lexsort((starts, row[owner]))
    number = np.empty(len(owner), np.int64)  # of a name within its row
    in_row = row[owner][by_row]
    number[by_row] = np.arange(len(owner)) - np.searchsorted(in_row, in_row)
    q = int(number.max(initial=0)) + 1
    prefix_number = np.where(is_text, number[owner], -1)
    within = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    at = np.repeat(starts, lengths) + within
    arrays = {"ids": np.zeros(rows * size, np.int64), "position_ids": np.zeros(rows * size, np.int64)}
    arrays |= {"segment_ids": np.full(rows * size, -1), "prefix_ids": np.full(rows * size, -1)}
    arrays["ids"][at] = ids
    arrays["position_ids"][at] = within + np.repeat(np.where(is_text, prefixes.lengths[owner], 0), lengths)
    arrays["segment_ids"][at], arrays["prefix_ids"][at] = np.repeat(number, lengths), np.repeat(prefix_number, lengths)
    slots = row[owner] * q + number
    slot_prefixes = np.full(rows * q, -1)
    slot_prefixes[slots] = prefix_number
    longest = int((lengths + np.where(is_text, prefixes.lengths[owner], 0)).max(initial=1))
    by_token = {name: torch.from_numpy(array).view(rows, size) for name, array in arrays.items()}
    by_name = {"starts": starts, "lengths": lengths, "slots": slots}
    return PackedBatch(
        **by_token,
        **{name: torch.from_numpy(array) for name, array in by_name.items()},
        q=q,
        longest=longest,
        slot_prefixes=torch.from_numpy(slot_prefixes).view(rows, q),
    )


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
