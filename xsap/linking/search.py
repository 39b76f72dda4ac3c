"""Exact nearest neighbours by dot product, and the one rule for ties: of equal scores the lower row comes first.

The vectors are read once, in blocks, as one matrix product each; a block's best rows are found by partition, never by sorting it.
Most rows are ruled out by the maximum of their group of 32: the k best rows lie in the k groups with the greatest maxima, and once k rows
are known, in groups whose maximum exceeds the least of them. Memory is that of one block of scores, whatever the number of vectors, so
they may be a memory map larger than the machine.
"""

import ctypes
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsap.errors import DataError

BLOCK = 1 << 23  # scores held at once: 32 MiB
_QUERIES = 1024  # of a block's scores in one matrix product, once there are so many
_GROUP = 32

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def search(vectors: Floats, queries: Floats, k: int, *, block: int = BLOCK) -> tuple[Floats, Rows]:
    """The k rows of `vectors` with the greatest dot product, for each query.

    vectors: (n, d) float32, finite, C-contiguous, in memory or mapped. queries: (q, d) float32. block: how many scores to hold at once.
    Returns scores (q, min(k, n)), greatest first, and rows alike; equal scores by row. Raises DataError for queries that aren't finite.
    """
    n, k = len(vectors), min(k, len(vectors))
    assert vectors.ndim == queries.ndim == 2, "expected two matrices"
    assert vectors.shape[1] == queries.shape[1], f"vectors of {vectors.shape[1]} components, queries of {queries.shape[1]}"
    assert vectors.dtype == queries.dtype == np.float32, f"expected float32, found {vectors.dtype} and {queries.dtype}"
    check_finite(queries, "the query vectors")
    parts = [_as_tensor(queries[start : start + _QUERIES]) for start in range(0, len(queries), _QUERIES)]
    best = [(torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)) for part in parts]
    height = max(1, min(len(queries), _QUERIES))
    step = max(1, min(block // height, n))
    width = -(-step // _GROUP) * _GROUP + _GROUP
    buffer = torch.empty(height * width)
    for start in range(0, n, step) if k else ():
        rows = _as_tensor(vectors[start : start + step])
        for i, part in enumerate(parts):
            scores = buffer[: len(part) * width].view(len(part), width)
            torch.mm(part, rows.T, out=scores[:, : len(rows)])
            scores[:, len(rows) :] = -torch.inf  # the last group has no rows
            least = best[i][0][:, -1:] if best[i][0].shape[1] == k else None
            values, columns = _best_of_block(scores, min(k, len(rows)), least)
            best[i] = _merge(best[i], (values, columns + start), k)
    return _stack([scores for scores, _ in best], np.float32, k), _stack([rows for _, rows in best], np.int64, k)


def check_finite(vectors: Floats, what: str) -> None:
    """Raise DataError if a vector has a component that is no finite number. Works in blocks, so `vectors` may be a memory map."""
    step = max(1, BLOCK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        bad = ~np.isfinite(vectors[start : start + step]).all(1)
        if bad.any():
            raise DataError(f"{what} must be finite numbers; found another in row {start + int(bad.argmax()):,}. Is the model damaged?")


def _best_of_block(scores: Tensor, k: int, least: Tensor | None) -> tuple[Tensor, Tensor]:
    """`_top`, by way of the groups' maxima. scores: (q, a multiple of _GROUP), of which the last group is -inf.

    least: (q, 1), the least of k rows that come before. What doesn't exceed it is of no use: less than k may be returned, and any below it.
    A row among the k best can't lie outside the k groups that come first by (maximum, position): each of those holds a row before it.
    """
    q, width = scores.shape
    grouped = scores.view(q, width // _GROUP, _GROUP)
    maxima = grouped.amax(2)
    groups = None if least is None else _above(maxima, least, k)
    if groups is None:
        if width <= 4 * k * _GROUP:
            return _top(scores, k, least)
        groups = _top(maxima, k)[1].sort(dim=1).values  # positions ascend again, so that ties go by position
    chosen = grouped.gather(1, groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    if least is not None:
        k = min(k, int((chosen > least).sum(1).max()))
        if k == 0:
            return chosen[:, :0], groups[:, :0]
    values, inside = _top(chosen, k, least)
    return values, groups.gather(1, inside // _GROUP) * _GROUP + inside % _GROUP


def _above(maxima: Tensor, least: Tensor, k: int) -> Tensor | None:
    """The groups of each line that exceed its least, ascending, and the last group in places left over; None if a line has more than k."""
    above = maxima > least
    counts = above.sum(1)
    most = int(counts.max())
    if most > k:
        return None
    lines, groups = above.nonzero(as_tuple=True)
    table = torch.full((len(maxima), most), maxima.shape[1] - 1)
    table[lines, torch.arange(len(lines)) - (counts.cumsum(0) - counts)[lines]] = groups
    return table


def _top(scores: Tensor, k: int, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k greatest of each line, (values, columns), greatest first, equal ones by column. scores: (q, n), n >= k >= 1.

    least: (q, 1); of equal ones that don't exceed it any may be left out.
    """
    values, columns = torch.topk(scores, min(k + 1, scores.shape[1]), dim=1)
    if values.shape[1] > k:  # where the next one ties with the last, topk took any of the equals
        tied = values[:, k] == values[:, k - 1]
        if least is not None:
            tied &= values[:, k] > least[:, 0]
        for i in tied.nonzero().flatten().tolist():
            above = (scores[i] > values[i, k - 1]).nonzero().flatten()
            equal = (scores[i] == values[i, k - 1]).nonzero().flatten()
            columns[i, :k] = torch.cat([above, equal])[:k]
    columns = columns[:, :k].sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _merge(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k best of two lists of best rows; the left one's rows all come before the right one's."""
    values, order = torch.cat([left[0], right[0]], 1).sort(dim=1, descending=True, stable=True)
    return values[:, :k], torch.cat([left[1], right[1]], 1).gather(1, order[:, :k])


def _as_tensor(array: Floats) -> Tensor:
    """The same memory as a tensor. By address, because torch.from_numpy complains about arrays that are mapped for reading only."""
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    if not array.size:
        return torch.empty(array.shape)
    memory = (ctypes.c_float * array.size).from_address(array.ctypes.data)
    memory._array = array  # type: ignore[attr-defined]  # kept alive as long as the tensor
    return torch.frombuffer(memory, dtype=torch.float32).view(array.shape)


def _stack(parts: list[Tensor], dtype: type, k: int) -> NDArray[Any]:
    return torch.cat(parts).numpy() if parts else np.empty((0, k), dtype)
