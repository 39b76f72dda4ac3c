"""Exact nearest neighbors by dot product: approximate scores of all rows, and a proof of which rows need an exact one.

The approximate score a of a row lies within a known ε of its exact score. If the k-th best exact score is τ, no row with a < τ − ε is among
the k best; all others are scored again from the stored vectors, in float64, added in one fixed order and rounded to float32. So the answer
is exact whichever approximate scores were used, and the same for a query alone as among thousands, on any number of threads. Equal vectors
tie, and of equal scores the lower row comes first. Memory is that of some blocks of scores, for any number of vectors; they may be
memory-mapped and larger than the machine.

Approximate scores come from int8 products of quantized vectors (what quantization lost bounds the error, by Cauchy and Schwarz), from
float32 products (the error is at most γ_d ‖q‖‖v‖ in whatever order they are added: Higham, Accuracy and Stability of Numerical Algorithms,
2002, section 3.1), or from 16-bit products on another device, where both factors and the product are rounded.
"""

import ctypes
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.int8 import int8_is_faster
from xsap.errors import DataError
from xsap.search.vectors import Floats, Rows, Vectors, check_finite, quantize

# Measured on a processor with VNNI: int8 products took less time than float32 products for single queries and for batches with a k of 10; for
# batches with a k of 64 it was the other way round, as more rows are left to be scored exactly.
INT8_BATCH = 64  # queries that are a batch
INT8_MAX_K = 32  # for a batch int8 products are tried up to this k

MIN_ROWS_PER_PENDING = 64  # int8 is abandoned where it leaves more than one in so many rows: float32 is faster there
_GROUP = 32  # columns of which only the maximum is compared first
_MIN_ROWS_PER_GATHERED = 4  # rows are gathered where fewer than one in so many is searched; else the others are masked
_RESCORED_PER_PART = 256  # vectors scored exactly at once, so that they stay in the processor's cache
_NOT_FINITE = "the stored vectors must be finite numbers whose products are so, found others; create the index again"
_SLACK = 2.0**-20  # of ‖q‖‖v‖, for every rounding that a bound does not name

Where = slice | Tensor
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """How much an exact search holds at once. They change memory and speed, never an answer.

    Attributes:
        scores_per_block: Approximate scores; None for 2²¹ (8 MiB, and as much for the products they come from), or for 2²⁷ on another
            device, where every block costs a wait.
        rows_per_block: Rows whose vectors are neither converted nor gathered.
        components_per_block: Components of vectors that are converted or gathered (2²⁵: 128 MiB).
        queries_per_batch: Queries searched for together.
        max_pending: Rows of all queries of a batch that wait for their exact score.
    """

    scores_per_block: int | None = None
    rows_per_block: int = 1 << 20
    components_per_block: int = 1 << 25
    queries_per_batch: int = 1024
    max_pending: int = 1 << 20


@dataclass(frozen=True)
class ScoreBound:
    """Approximate scores of rows, and how far they may be from the exact ones.

    Attributes:
        name: Of the kind of scores, for the log.
        score: A slice or a tensor of m row numbers → (q, m) float32 scores, which the caller may overwrite. A row's exact score lies within
            `margin` of `scale` times its score.
        scale: (q,) float64, positive.
        margin: (q,) float64.
        converts: Whether scoring converts or gathers vectors, so that `Sizes.components_per_block` limits a block.
        max_pending: The fraction of rows that may be left for exact scores before these scores are abandoned; None: any.
    """

    name: str
    score: Callable[[Where], Tensor]
    scale: NDArray[np.float64]
    margin: NDArray[np.float64]
    converts: bool = False
    max_pending: float | None = None


Scorers = Callable[[Vectors, Floats, int, Tensor | None], Iterable[ScoreBound]]
"""(vectors, queries, k, device copy) → kinds of approximate scores, the fastest first; the last is never abandoned."""


def scorers(vectors: Vectors, queries: Floats, k: int, device_copy: Tensor | None) -> Iterator[ScoreBound]:
    """The kinds of approximate scores for a batch of queries, the fastest first; the last is never abandoned.

    Args:
        vectors: The vectors to search.
        queries: (q, d) float32.
        k: Rows wanted for each query.
        device_copy: (n, d) of the vectors on another device; if given, only its scores are used.
    """
    if device_copy is not None:
        yield device_scorer(vectors, queries, device_copy)
        return
    # torch 2.13 miscounts int8 products of single components; those of more than these may not fit into 32 bits
    has_int8 = vectors.codes is not None and 1 < vectors.dimension < 1 << 17
    if has_int8 and (len(queries) < INT8_BATCH or k <= INT8_MAX_K) and int8_is_faster():
        yield int8_scorer(vectors, queries)
    yield float32_scorer(vectors, queries)


def _int8_product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    return torch._int_mm(left, right, out=out)


def int8_scorer(
    vectors: Vectors,
    queries: Floats,
    *,
    product: Callable[[Tensor, Tensor, Tensor], Tensor] = _int8_product,
    max_pending: float = 1 / MIN_ROWS_PER_PENDING,
) -> ScoreBound:
    """Products of int8 codes. With the codes' vectors q̂ and v̂, |q·v − q̂·v̂| ≤ ‖q‖‖v − v̂‖ + ‖q − q̂‖‖v̂‖.

    Args:
        vectors: Vectors with int8 codes.
        queries: (q, d) float32.
        product: (q, d) int8, (d, m) int8 and an (q, m) int32 output → the output.
        max_pending: As in `ScoreBound`.
    """
    assert vectors.codes is not None
    assert vectors.scales is not None
    codes, scales = quantize(queries)
    scale = np.where(scales > 0, scales, 1).astype(np.float64)
    lost = np.linalg.norm(queries - codes * scale[:, None], axis=1)
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    reach = (lengths + lost) * (vectors.max_norm + vectors.code_error)
    query_codes, row_codes, row_scales = torch.from_numpy(codes), _as_tensor(vectors.codes), _as_tensor(vectors.scales)
    buffers: dict[torch.dtype, Tensor] = {}

    def buffer(dtype: torch.dtype, width: int) -> Tensor:
        size = len(query_codes) * width
        if dtype not in buffers or buffers[dtype].numel() < size:
            buffers[dtype] = torch.empty(size, dtype=dtype)
        return buffers[dtype][:size].view(len(query_codes), width)

    def score(where: Where) -> Tensor:
        rows = row_codes[where]
        products = product(query_codes, rows.T, buffer(torch.int32, len(rows)))
        return buffer(torch.float32, len(rows)).copy_(products).mul_(row_scales[where])

    margin = lengths * vectors.code_error + lost * (vectors.max_norm + vectors.code_error) + _SLACK * reach + 1e-30
    return ScoreBound("int8", score, scale, margin, max_pending=max_pending)


def float32_scorer(vectors: Vectors, queries: Floats) -> ScoreBound:
    """Products of float32 vectors.

    Args:
        vectors: Any vectors.
        queries: (q, d) float32.
    """
    ours, reach = torch.from_numpy(queries), np.linalg.norm(queries.astype(np.float64), axis=1) * vectors.max_norm
    rounding = vectors.dimension * 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-6

    def score(where: Where) -> Tensor:
        return ours @ _as_tensor(vectors.take(where if isinstance(where, slice) else where.numpy())).T

    margin = (1.01 * rounding + _SLACK) * reach + 1e-30
    return ScoreBound("float32", score, np.ones(len(queries)), margin, converts=True)


def device_scorer(vectors: Vectors, queries: Floats, device_copy: Tensor) -> ScoreBound:
    """Products on another device. Both factors and the product are rounded to 16 bits: by half an epsilon each.

    Args:
        vectors: The vectors that were copied.
        queries: (q, d) float32.
        device_copy: (n, d), from `upload`.
    """
    ours = torch.from_numpy(queries).to(device_copy)
    reach = np.linalg.norm(queries.astype(np.float64), axis=1) * vectors.max_norm

    def score(where: Where) -> Tensor:
        return (ours @ device_copy[where if isinstance(where, slice) else where.to(device_copy.device)].T).float()

    margin = 2 * torch.finfo(device_copy.dtype).eps * reach + 1e-30
    return ScoreBound("device", score, np.ones(len(queries)), margin)


def upload(vectors: Vectors, device: str | torch.device, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Copy all vectors to a device, in 16 bits: 1.5 GB for a million vectors of 768 components.

    Args:
        vectors: n vectors of d components.
        device: Where to.
        dtype: torch.bfloat16 or torch.float16.

    Returns:
        (n, d) of `dtype`.
    """
    device_copy = torch.empty((len(vectors), vectors.dimension), dtype=dtype, device=device)
    step = max(1, Sizes.components_per_block // max(1, vectors.dimension))
    for start in range(0, len(vectors), step):
        device_copy[start : start + step] = _as_tensor(vectors.take(slice(start, start + step)))
    return device_copy


def search_vectors(
    vectors: Vectors,
    queries: Floats,
    k: int,
    *,
    rows: Rows | None = None,
    device_copy: Tensor | None = None,
    sizes: Sizes = Sizes(),
    scorers: Scorers = scorers,
) -> tuple[Floats, Rows]:
    """The k rows with the greatest dot product, for each query; of equal scores the lower row comes first.

    Args:
        vectors: n vectors of d components.
        queries: (q, d) float32.
        k: How many rows to find for each query.
        rows: Search only these rows: (m,) int64, ascending, unique.
        device_copy: (n, d) of the vectors on another device, from `upload`.
        sizes: How much to hold at once.
        scorers: The kinds of approximate scores to use.

    Returns:
        Scores (q, min(k, rows searched)) float32, greatest first, and their rows, of the same shape, int64.

    Raises:
        DataError: A query, or a vector that is compared with it, is not finite.
    """
    assert queries.ndim == 2, f"expected a matrix, found {queries.ndim} dimensions"
    assert queries.shape[1] == vectors.dimension, (
        f"vectors of {vectors.dimension} components, queries of {queries.shape[1]}"
    )
    assert queries.dtype == np.float32, f"expected float32, found {queries.dtype}"
    shape = (len(vectors), vectors.dimension)
    assert device_copy is None or device_copy.shape == shape, "the device has a copy of other vectors"
    if rows is not None and len(rows):
        ascend = rows[0] >= 0 and rows[-1] < len(vectors) and (rows[1:] > rows[:-1]).all()
        assert ascend, "rows must ascend"
    check_finite(queries, "the query vectors")
    k = min(k, len(vectors) if rows is None else len(rows))
    scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), sizes.queries_per_batch) if k > 0 else ():
        part = slice(start, start + sizes.queries_per_batch)
        batch = np.ascontiguousarray(queries[part])
        scores[part], found[part] = _search(vectors, batch, k, rows, scorers(vectors, batch, k, device_copy), sizes)
    return scores, found


def search_array(array: Floats, queries: Floats, k: int, *, sizes: Sizes = Sizes()) -> tuple[Floats, Rows]:
    """`search_vectors` among vectors that are searched once: they get no int8 codes.

    Args:
        array: (n, d) float32, in memory or memory-mapped.
        queries: (q, d) float32.
        k: How many rows to find for each query.
        sizes: How much to hold at once.

    Returns:
        Scores and rows, as `search_vectors`.

    Raises:
        DataError: A vector or a query is not finite.
    """
    return search_vectors(Vectors.from_array(array, min_rows_with_codes=len(array) + 1), queries, k, sizes=sizes)


def exact_scores(vectors: Vectors, queries: Floats, query: Rows, row: Rows) -> Floats:
    """Dot products of queries[query[i]] and vectors[row[i]], correct to within 0.5001 units in the last place.

    Products are exact in float64; they are added by halves, element by element, so no order of threads or of rows can change a bit.

    Args:
        vectors: n vectors of d components.
        queries: (q, d) float32.
        query: (m,) int64.
        row: (m,) int64.

    Returns:
        (m,) float32.
    """
    doubles, scores = torch.from_numpy(queries).double(), np.empty(len(row), np.float32)
    for start in range(0, len(row), _RESCORED_PER_PART):
        part = slice(start, start + _RESCORED_PER_PART)
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
    vectors: Vectors, queries: Floats, k: int, rows: Rows | None, bounds: Iterable[ScoreBound], sizes: Sizes
) -> tuple[Floats, Rows]:
    searched = len(vectors) if rows is None else len(rows)
    gathered = rows is not None and searched < len(vectors) // _MIN_ROWS_PER_GATHERED
    for bound in bounds:
        best = _TopK(vectors, queries, k, bound, sizes.max_pending)
        limit = np.inf if bound.max_pending is None else len(queries) * max(8 * k, int(searched * bound.max_pending))
        scores = sizes.scores_per_block or (1 << 27 if bound.name == "device" else 1 << 21)
        converted = sizes.components_per_block // max(1, vectors.dimension)
        most = converted if gathered or bound.converts else sizes.rows_per_block
        step = max(_GROUP, min(scores // len(queries), most) // _GROUP * _GROUP)
        for where, numbers, masked in _blocks(len(vectors), rows, step, gathered=gathered):
            best.update(bound.score(where), numbers, masked)
            if best.seen > limit:
                _logger.debug(
                    "%s scores abandoned: %d rows pending for %d queries", bound.name, best.seen, len(queries)
                )
                break
        else:
            best.rescore()
            return best.scores, best.rows
    raise AssertionError("the last kind of scores is never abandoned")


class _TopK:
    """The k best rows of each query among those seen so far, and the rows that wait for their exact score."""

    def __init__(self, vectors: Vectors, queries: Floats, k: int, bound: ScoreBound, max_pending: int) -> None:
        q = len(queries)
        self.vectors, self.queries, self.k, self.bound, self.max_pending = vectors, queries, k, bound, max_pending
        self.scores, self.rows = np.full((q, k), -np.inf, np.float32), np.full((q, k), len(vectors), np.int64)
        self.threshold = np.full(q, np.finfo(np.float32).min)  # an approximate score below it rules a row out
        self.waiting: list[tuple[Rows, Rows, Floats]] = []  # query, row, approximate score
        self.seen = self.pending = self.pruned = 0  # rows that waited, that wait, that waited after the last pruning

    def update(self, scores: Tensor, numbers: Rows | int, masked: Tensor | None) -> None:
        """Add the rows of a block that cannot be ruled out.

        Args:
            scores: (q, m) approximate scores; may be overwritten.
            numbers: (m,) numbers of the rows, or the number of the first.
            masked: (m,) bool, rows that are not searched.
        """
        if masked is not None:
            scores.masked_fill_(masked.to(scores.device), -torch.inf)
        m = scores.shape[1]
        scores = F.pad(scores, (0, -m % _GROUP), value=-torch.inf) if m % _GROUP else scores
        groups = scores.view(len(scores), -1, _GROUP)
        maxima = groups.amax(2)
        if not bool((maxima < torch.inf).all()):  # a NaN would hide all rows of its group
            raise DataError(_NOT_FINITE)
        pool = maxima if maxima.shape[1] >= 4 * self.k else scores
        if not self.seen and pool.shape[1] >= self.k:
            self._raise_threshold(pool.topk(self.k, dim=1).values[:, -1].cpu().numpy())
        threshold = torch.from_numpy(self.threshold).to(scores.device)
        query, group = (maxima >= threshold[:, None]).nonzero(as_tuple=True)
        inside = groups[query, group]
        which, column = (inside >= threshold[query, None]).nonzero(as_tuple=True)
        row = (group[which] * _GROUP + column).cpu().numpy()
        row = row + numbers if isinstance(numbers, int) else numbers[row]
        self.waiting.append((query[which].cpu().numpy(), row, inside[which, column].cpu().numpy()))
        self.seen, self.pending = self.seen + len(row), self.pending + len(row)
        if self.pending > 2 * self.pruned + len(self.scores) * self.k:
            self._prune()
        if self.pending > self.max_pending:
            self.rescore()

    def rescore(self) -> None:
        """Score the waiting rows exactly: first the k likeliest of each query, then the others that these do not rule out."""
        if not self.pending:
            return
        _logger.debug("%s scores: %d rows seen, %d pending", self.bound.name, self.seen, self.pending)
        query, row, approximate = self._prune()
        likeliest = _ranks(query) < self.k
        self._add(query[likeliest], row[likeliest])
        query, row, approximate = query[~likeliest], row[~likeliest], approximate[~likeliest]
        possible = approximate * self.bound.scale[query] >= self.scores[query, -1] - self.bound.margin[query]
        self._add(query[possible], row[possible])
        self._set_threshold((self.scores[:, -1] - self.bound.margin) / self.bound.scale)
        self.waiting, self.pending = [], 0

    def _prune(self) -> tuple[Rows, Rows, Floats]:
        """Raise the threshold by what waits, and drop what is below it → query, row and approximate score of the others, in order."""
        query, row, approximate = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        order = _order_by_query(query, approximate)
        query, row, approximate = query[order], row[order], approximate[order]
        kth = np.full(len(self.scores), -np.inf, np.float32)
        last = _ranks(query) == self.k - 1
        kth[query[last]] = approximate[last]
        self._raise_threshold(kth)
        left = approximate >= self.threshold[query]
        self.waiting = [(query[left], row[left], approximate[left])]
        self.pending = self.pruned = int(left.sum())
        return self.waiting[0]

    def _raise_threshold(self, kth: Floats) -> None:
        """kth: (q,) such that k rows have so great an approximate score: the k-th best exact score is at least that less ε."""
        self._set_threshold(kth - 2 * self.bound.margin / self.bound.scale)

    def _set_threshold(self, threshold: NDArray[np.float64]) -> None:
        with np.errstate(over="ignore"):
            self.threshold = np.maximum(self.threshold, threshold.astype(np.float32))

    def _add(self, query: Rows, row: Rows) -> None:
        score = exact_scores(self.vectors, self.queries, query, row)
        if not np.isfinite(score).all():
            raise DataError(_NOT_FINITE)
        known, rank = np.nonzero(self.rows < len(self.vectors))
        query, row = np.concatenate([known, query]), np.concatenate([self.rows[known, rank], row])
        score = np.concatenate([self.scores[known, rank], score])
        order = np.lexsort((row, -score, query))
        query, row, score = query[order], row[order], score[order]
        rank = _ranks(query)
        best = rank < self.k
        self.scores[query[best], rank[best]], self.rows[query[best], rank[best]] = score[best], row[best]


def _order_by_query(query: Rows, score: Floats) -> Rows:
    """The order by query, then by descending score: one sort of 64-bit keys, as the bits of a float are in its order but for negative ones'."""
    bits = score.view(np.int32)
    return np.argsort((query << 32) - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits))


def _ranks(query: Rows) -> Rows:
    """0, 1, 2 … for the entries of each query. query: sorted."""
    return np.arange(len(query)) - np.searchsorted(query, query)


def _blocks(
    n: int, rows: Rows | None, step: int, *, gathered: bool
) -> Iterator[tuple[Where, Rows | int, Tensor | None]]:
    """Blocks of at most `step` rows: where they are, their numbers (or that of the first), and which of them are not searched."""
    if rows is not None and gathered:
        for start in range(0, len(rows), step):
            yield torch.from_numpy(rows[start : start + step]), rows[start : start + step], None
        return
    masked = None if rows is None else torch.ones(n, dtype=torch.bool).index_fill_(0, torch.from_numpy(rows), False)
    for start in range(0, n, step):
        where = slice(start, start + step)
        yield where, start, None if masked is None else masked[where]


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    """The same memory as a tensor. By address, because torch.from_numpy warns about arrays that are mapped read-only."""
    dtype = {"int8": torch.int8, "float32": torch.float32}[array.dtype.name]
    if not array.size:
        return torch.empty(array.shape, dtype=dtype)
    memory = (ctypes.c_byte * array.nbytes).from_address(array.ctypes.data)
    memory._array = array  # type: ignore[attr-defined]  # kept alive as long as the tensor
    return torch.frombuffer(memory, dtype=dtype).view(array.shape)
