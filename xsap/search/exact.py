"""Exact nearest neighbors by dot product, and the one rule for ties: of equal scores the lower row comes first.

The vectors are read once, in blocks, as one matrix product each; a block's best rows are found by partition, never by sorting it.
Most rows are ruled out by the maximum of their group of 32: the k best rows lie in the k groups with the greatest maxima, and once k rows
are known, in groups whose maximum exceeds the least of them. Memory is that of one block of scores, whatever the number of vectors, so
they may be a memory map larger than the machine.

Cheap scores of stored vectors, and how far they may be from the true ones: what makes an exact search fast.

By int8 products of quantized vectors, what quantization lost bounds the error, by Cauchy and Schwarz. By float32 products it is
γ_d ‖q‖‖v‖ in whatever order they are added (Higham, Accuracy and Stability of Numerical Algorithms, 2002, § 3.1). On another device both
sides and the product are rounded to 16 bits.

Exact nearest neighbors among stored vectors: a cheap look at every row, and a proof of which rows need another.

The cheap score c of a row lies within a known ε of its true one. If the k-th best true score is τ, no row with c < τ − ε is among the k
best; all others are scored again from the stored vectors, in float64, added in one fixed order and rounded to float32. So the answer is
exact whichever way it was found, and the same for a query alone as among thousands, on any number of threads; equal vectors tie, and of
equal scores the lower row comes first. Memory is that of some blocks of scores, whatever the number of vectors.
"""

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.int8 import int8_is_faster
from xsap.errors import DataError
from xsap.search.vectors import Floats, Rows, Vectors, quantize

PLAIN_BLOCK = 1 << 23  # scores held at once: 32 MiB
_PLAIN_QUERIES = 1024  # of a block's scores in one matrix product, once there are so many
_PLAIN_GROUP = 32


def search(vectors: Floats, queries: Floats, k: int, *, block: int = PLAIN_BLOCK) -> tuple[Floats, Rows]:
    """The k rows of `vectors` with the greatest dot product, for each query.

    vectors: (n, d) float32, finite, C-contiguous, in memory or mapped. queries: (q, d) float32. block: how many scores to hold at once.
    Returns scores (q, min(k, n)), greatest first, and rows alike; equal scores by row. Raises DataError for queries that aren't finite.
    """
    n, k = len(vectors), min(k, len(vectors))
    assert vectors.ndim == queries.ndim == 2, "expected two matrices"
    assert vectors.shape[1] == queries.shape[1], (
        f"vectors of {vectors.shape[1]} components, queries of {queries.shape[1]}"
    )
    assert vectors.dtype == queries.dtype == np.float32, f"expected float32, found {vectors.dtype} and {queries.dtype}"
    check_finite(queries, "the query vectors")
    parts = [_plain_tensor(queries[start : start + _PLAIN_QUERIES]) for start in range(0, len(queries), _PLAIN_QUERIES)]
    best = [(torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)) for part in parts]
    height = max(1, min(len(queries), _PLAIN_QUERIES))
    step = max(1, min(block // height, n))
    width = -(-step // _PLAIN_GROUP) * _PLAIN_GROUP + _PLAIN_GROUP
    buffer = torch.empty(height * width)
    for start in range(0, n, step) if k else ():
        rows = _plain_tensor(vectors[start : start + step])
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
    step = max(1, PLAIN_BLOCK // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        bad = ~np.isfinite(vectors[start : start + step]).all(1)
        if bad.any():
            raise DataError(
                f"{what} must be finite numbers; found another in row {start + int(bad.argmax()):,}. Is the model damaged?"
            )


def _best_of_block(scores: Tensor, k: int, least: Tensor | None) -> tuple[Tensor, Tensor]:
    """`_top`, by way of the groups' maxima. scores: (q, a multiple of _GROUP), of which the last group is -inf.

    least: (q, 1), the least of k rows that come before. What doesn't exceed it is of no use: less than k may be returned, and any below it.
    A row among the k best can't lie outside the k groups that come first by (maximum, position): each of those holds a row before it.
    """
    q, width = scores.shape
    grouped = scores.view(q, width // _PLAIN_GROUP, _PLAIN_GROUP)
    maxima = grouped.amax(2)
    groups = None if least is None else _above(maxima, least, k)
    if groups is None:
        if width <= 4 * k * _PLAIN_GROUP:
            return _top(scores, k, least)
        groups = _top(maxima, k)[1].sort(dim=1).values  # positions ascend again, so that ties go by position
    chosen = grouped.gather(1, groups[:, :, None].expand(-1, -1, _PLAIN_GROUP)).flatten(1)
    if least is not None:
        k = min(k, int((chosen > least).sum(1).max()))
        if k == 0:
            return chosen[:, :0], groups[:, :0]
    values, inside = _top(chosen, k, least)
    return values, groups.gather(1, inside // _PLAIN_GROUP) * _PLAIN_GROUP + inside % _PLAIN_GROUP


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


def _plain_tensor(array: Floats) -> Tensor:
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


COMPONENTS = 1 << 25  # of vectors gathered or converted at once: at most 128 MiB
_ROWS = 1 << 20  # scored at once where nothing is converted
_HOPELESS = 64  # where more than one in so many rows must be scored again, float32 products are faster than int8
_SLACK = 2.0**-20  # of ‖q‖‖v‖, for every rounding that a bound doesn't name

Doubles = NDArray[np.float64]
Where = slice | Tensor


@dataclass(frozen=True)
class ScoreBound:
    """A way to score rows: `score(where)` is (q, m) float32, and a row's true score lies within `margin` of `scale` times that.

    unit, off: (q,) float64. widest: rows scored at once, if they aren't gathered. share: of how many rows one may wait before the way is given up.
    """

    score: Callable[[Where], Tensor]
    scale: Doubles
    margin: Doubles
    widest: int
    max_pending: int | None = None


def scorers(vectors: Vectors, queries: Floats, device_copy: Tensor | None) -> Iterator[ScoreBound]:
    """The ways to score, the fastest first; the last of them is never given up."""
    if device_copy is not None:
        yield _by_resident(vectors, queries, device_copy)
        return
    # torch 2.13 miscounts int8 products of single components; those of more than these may not fit into 32 bits
    if vectors.scan is not None and 1 < vectors.dimension < 1 << 17 and int8_is_faster():
        yield _by_int8(vectors, queries)
    yield _by_float32(vectors, queries)


def _by_int8(vectors: Vectors, queries: Floats) -> ScoreBound:
    """|q·v − q̂·v̂| ≤ ‖q‖‖v − v̂‖ + ‖q − q̂‖‖v̂‖, where q̂ and v̂ are what the codes stand for."""
    assert vectors.scan is not None
    assert vectors.scales is not None
    codes, scales = quantize(queries)
    scale = np.where(scales > 0, scales, 1).astype(np.float64)
    missed = np.linalg.norm(queries - codes * scale[:, None], axis=1)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    reach = (lengths + missed) * (vectors.norm + vectors.error)
    ours, table, factors = torch.from_numpy(codes), _as_tensor(vectors.scan), _as_tensor(vectors.scales)
    buffers: dict[torch.dtype, Tensor] = {}

    def buffer(dtype: torch.dtype, width: int) -> Tensor:
        if dtype not in buffers or buffers[dtype].numel() < len(ours) * width:
            buffers[dtype] = torch.empty(len(ours) * width, dtype=dtype)
        return buffers[dtype][: len(ours) * width].view(len(ours), width)

    def score(where: Where) -> Tensor:
        rows = table[where]
        products = torch._int_mm(ours, rows.T, out=buffer(torch.int32, len(rows)))
        return buffer(torch.float32, len(rows)).copy_(products).mul_(factors[where])

    margin = lengths * vectors.error + missed * (vectors.norm + vectors.error) + _SLACK * reach + 1e-30
    return ScoreBound(score, scale, margin, _ROWS, _HOPELESS)


def _by_float32(vectors: Vectors, queries: Floats) -> ScoreBound:
    ours, reach = torch.from_numpy(queries), np.linalg.norm(queries.astype(np.float64), axis=1) * vectors.norm
    rounding = vectors.dimension * 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-6

    def score(where: Where) -> Tensor:
        return ours @ _as_tensor(vectors.take(where if isinstance(where, slice) else where.numpy())).T

    return ScoreBound(
        score,
        np.ones(len(queries)),
        (1.01 * rounding + _SLACK) * reach + 1e-30,
        COMPONENTS // max(1, vectors.dimension),
    )


def _by_resident(vectors: Vectors, queries: Floats, device_copy: Tensor) -> ScoreBound:
    """Both sides and the product are rounded to the device's 16 bits: by half an eps each."""
    ours = torch.from_numpy(queries).to(device_copy)
    reach = np.linalg.norm(queries.astype(np.float64), axis=1) * vectors.norm

    def score(where: Where) -> Tensor:
        return (ours @ device_copy[where if isinstance(where, slice) else where.to(device_copy.device)].T).float()

    return ScoreBound(score, np.ones(len(queries)), 2 * torch.finfo(device_copy.dtype).eps * reach + 1e-30, _ROWS)


def upload(vectors: Vectors, device: str | torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(n, d) of all vectors on a device, in 16 bits: 1.5 GB for a million of 768 components."""
    there = torch.empty((len(vectors), vectors.dimension), dtype=dtype, device=device)
    step = max(1, COMPONENTS // max(1, vectors.dimension))
    for start in range(0, len(vectors), step):
        there[start : start + step] = _as_tensor(vectors.take(slice(start, start + step)))
    return there


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    """The same memory as a tensor. By address, because torch.from_numpy complains about arrays that are mapped for reading only."""
    dtype = {"int8": torch.int8, "float32": torch.float32}[array.dtype.name]
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    memory = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
    memory._array = array  # type: ignore[attr-defined]  # kept alive as long as the tensor
    return torch.frombuffer(memory, dtype=dtype).view(array.shape)


BLOCK = 1 << 21  # cheap scores held at once: 8 MiB, and as much for the products they come from
BLOCK_THERE = 1 << 27  # on another device, where every block costs a wait
_QUERIES = 1024  # searched for together
_GROUP = 32  # columns of which only the greatest is looked at first
_WAITING = 1 << 20  # rows of all queries that wait for their true score
_RESCORED = 256  # vectors scored at once: they stay in the processor's cache
_GATHERED = 4  # where fewer than one in so many rows is kept, these are gathered, not the others masked


def search_vectors(
    vectors: Vectors,
    queries: Floats,
    k: int,
    *,
    rows: Rows | None = None,
    device_copy: Tensor | None = None,
    block: int | None = None,
) -> tuple[Floats, Rows]:
    """The k rows with the greatest dot product, for each query.

    queries: (q, d) float32. rows: search these alone; sorted, unique. resident: the vectors on another device, from `cheap.upload`. block: how
    many scores to hold at once, else BLOCK or BLOCK_THERE. Returns scores (q, min(k, rows searched)), greatest first, and rows alike; equal scores by row. Raises
    DataError for queries that aren't finite.
    """
    assert queries.ndim == 2, f"expected a matrix, found {queries.ndim} dimensions"
    assert queries.shape[1] == vectors.dimension, (
        f"vectors of {vectors.dimension} components, queries of {queries.shape[1]}"
    )
    assert queries.dtype == np.float32, f"expected float32, found {queries.dtype}"
    assert device_copy is None or device_copy.shape == (len(vectors), vectors.dimension), (
        "these aren't the vectors on the device"
    )
    assert (
        rows is None or not len(rows) or (rows[0] >= 0 and rows[-1] < len(vectors) and (rows[1:] > rows[:-1]).all())
    ), "rows must ascend"
    check_finite(queries, "the query vectors")
    k = min(k, len(vectors) if rows is None else len(rows))
    block = block or (BLOCK if device_copy is None else BLOCK_THERE)
    scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES) if k > 0 else ():
        part = slice(start, start + _QUERIES)
        scores[part], found[part] = _search(vectors, np.ascontiguousarray(queries[part]), k, rows, device_copy, block)
    return scores, found


def exact_scores(vectors: Vectors, queries: Floats, query: Rows, row: Rows) -> Floats:
    """(m,) float32 dot products of queries[query[i]] and vectors[row[i]], correct to within 0.5001 units in the last place.

    Products are exact in float64; they are added by halves, element by element, so no order of threads or of rows can change a bit.
    """
    doubles, scores = torch.from_numpy(queries).double(), np.empty(len(row), np.float32)
    for start in range(0, len(row), _RESCORED):
        part = slice(start, start + _RESCORED)
        products = torch.from_numpy(vectors.take(row[part])).double()
        products *= doubles[torch.from_numpy(query[part])]
        width = products.shape[1]
        while width > 1:
            half = (width + 1) // 2
            products[:, : width - half] += products[:, half:width]
            width = half
        scores[part] = products[:, 0].float().numpy() if width else 0
    return scores


def _search(
    vectors: Vectors, queries: Floats, k: int, rows: Rows | None, device_copy: Tensor | None, block: int
) -> tuple[Floats, Rows]:
    for cheap in scorers(vectors, queries, device_copy):
        answers = _TopK(vectors, queries, k, cheap)
        kept = len(vectors) if rows is None else len(rows)
        limit = np.inf if cheap.max_pending is None else len(queries) * max(8 * k, kept // cheap.max_pending)
        gathered = rows is not None and kept < len(vectors) // _GATHERED
        step = min(block // len(queries), COMPONENTS // max(1, vectors.dimension) if gathered else cheap.widest)
        for where, numbers, dropped in _blocks(
            len(vectors), rows, max(_GROUP, step // _GROUP * _GROUP), gathered=gathered
        ):
            answers.update(cheap.score(where), numbers, dropped)
            if answers.looked_at > limit:
                break
        else:
            answers.rescore()
            return answers.scores, answers.rows
    raise AssertionError("the last way is never given up")


class _TopK:
    """The k best rows of each query among those looked at so far, and the rows that wait for their true score."""

    def __init__(self, vectors: Vectors, queries: Floats, k: int, cheap: ScoreBound) -> None:
        q = len(queries)
        self.vectors, self.queries, self.k, self.cheap = vectors, queries, k, cheap
        self.scores, self.rows = np.full((q, k), -np.inf, np.float32), np.full((q, k), len(vectors), np.int64)
        self.floor = np.full(q, np.finfo(np.float32).min)  # a cheap score below it rules a row out
        self.waiting: list[tuple[Rows, Rows, Floats]] = []  # query, row, cheap score
        self.looked_at = self.waits = self.pruned = 0

    def update(self, scores: Tensor, numbers: Rows | int, dropped: Tensor | None) -> None:
        """Let the rows of a block wait that can't be ruled out. scores: (q, m). numbers: of the rows, or of the first. dropped: (m,) bool."""
        if dropped is not None:
            scores.masked_fill_(dropped.to(scores.device), -torch.inf)
        m = scores.shape[1]
        scores = F.pad(scores, (0, -m % _GROUP), value=-torch.inf) if m % _GROUP else scores
        groups = scores.view(len(scores), -1, _GROUP)
        greatest = groups.amax(2)
        pool = greatest if greatest.shape[1] >= 4 * self.k else scores
        if not self.looked_at and pool.shape[1] >= self.k:
            self._raise_floor(pool.topk(self.k, dim=1).values[:, -1].cpu().numpy())
        floor = torch.from_numpy(self.floor).to(scores.device)
        query, group = (greatest >= floor[:, None]).nonzero(as_tuple=True)
        inside = groups[query, group]
        which, column = (inside >= floor[query, None]).nonzero(as_tuple=True)
        row = (group[which] * _GROUP + column).cpu().numpy()
        row = row + numbers if isinstance(numbers, int) else numbers[row]
        self.waiting.append((query[which].cpu().numpy(), row, inside[which, column].cpu().numpy()))
        self.looked_at, self.waits = self.looked_at + len(row), self.waits + len(row)
        if self.waits > 2 * self.pruned + len(self.scores) * self.k:
            self._prune()
        if self.waits > _WAITING:
            self.rescore()

    def rescore(self) -> None:
        """Give the rows that wait their true scores: first each query's k likeliest, then the others that these don't rule out."""
        if not self.waits:
            return
        query, row, cheap = self._prune()
        likeliest = _places(query) < self.k
        self._rescore(query[likeliest], row[likeliest])
        query, row, cheap = query[~likeliest], row[~likeliest], cheap[~likeliest]
        possible = cheap * self.cheap.scale[query] >= self.scores[query, -1] - self.cheap.margin[query]
        self._rescore(query[possible], row[possible])
        self._set_floor((self.scores[:, -1] - self.cheap.margin) / self.cheap.scale)
        self.waiting, self.waits = [], 0

    def _prune(self) -> tuple[Rows, Rows, Floats]:
        """Raise the floor by what waits, and let go what is below it → query, row and cheap score of the others, in order."""
        query, row, cheap = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        order = _by_query(query, cheap)
        query, row, cheap = query[order], row[order], cheap[order]
        kth = np.full(len(self.scores), -np.inf, np.float32)
        last = _places(query) == self.k - 1
        kth[query[last]] = cheap[last]
        self._raise_floor(kth)
        left = cheap >= self.floor[query]
        self.waiting = [(query[left], row[left], cheap[left])]
        self.waits = self.pruned = int(left.sum())
        return self.waiting[0]

    def _raise_floor(self, kth: Floats) -> None:
        """kth: (q,) such that k rows have so great a cheap score: the k-th best true score is at least that less ε."""
        self._set_floor(kth - 2 * self.cheap.margin / self.cheap.scale)

    def _set_floor(self, floor: Doubles) -> None:
        with np.errstate(over="ignore"):
            self.floor = np.maximum(self.floor, floor.astype(np.float32))

    def _rescore(self, query: Rows, row: Rows) -> None:
        score = exact_scores(self.vectors, self.queries, query, row)
        have, place = np.nonzero(self.rows < len(self.vectors))
        query, row = np.concatenate([have, query]), np.concatenate([self.rows[have, place], row])
        score = np.concatenate([self.scores[have, place], score])
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        place = _places(query)
        best = place < self.k
        self.scores[query[best], place[best]], self.rows[query[best], place[best]] = score[best], row[best]


def _by_query(query: Rows, score: Floats) -> Rows:
    """The order by query, and by score downwards: one sort of 64-bit keys, for a float's bits are in order but for the negative ones'."""
    bits = score.view(np.int32)
    return np.argsort((query << 32) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits))


def _places(query: Rows) -> Rows:
    """0, 1, 2 … for each query's entries. query: sorted."""
    return np.arange(len(query)) - np.searchsorted(query, query)


def _blocks(
    n: int, rows: Rows | None, step: int, *, gathered: bool
) -> Iterator[tuple[Where, Rows | int, Tensor | None]]:
    """Blocks of rows: where they are, their numbers (or the first's), and which of them are not to be searched."""
    if rows is not None and gathered:
        for start in range(0, len(rows), step):
            yield torch.from_numpy(rows[start : start + step]), rows[start : start + step], None
        return
    dropped = None if rows is None else torch.ones(n, dtype=torch.bool).index_fill_(0, torch.from_numpy(rows), False)
    for start in range(0, n, step):
        where = slice(start, start + step)
        yield where, start, None if dropped is None else dropped[where]
