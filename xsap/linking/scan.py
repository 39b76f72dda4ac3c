"""Exact nearest neighbours among stored vectors: a cheap look at every row, and a proof of which rows need another.

The cheap score c of a row lies within a known ε of its true one. If the k-th best true score is τ, no row with c < τ − ε is among the k
best; all others are scored again from the stored vectors, in float64, added in one fixed order and rounded to float32. So the answer is
exact whichever way it was found, and the same for a query alone as among thousands, on any number of threads; equal vectors tie, and of
equal scores the lower row comes first. Memory is that of some blocks of scores, whatever the number of vectors.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xsap.linking.cheap import COMPONENTS, Cheap, Doubles, Where, ways
from xsap.linking.search import check_finite
from xsap.linking.vectors import Floats, Rows, Vectors

BLOCK = 1 << 21  # cheap scores held at once: 8 MiB, and as much for the products they come from
BLOCK_THERE = 1 << 27  # on another device, where every block costs a wait
_QUERIES = 1024  # searched for together
_GROUP = 32  # columns of which only the greatest is looked at first
_WAITING = 1 << 20  # rows of all queries that wait for their true score
_RESCORED = 256  # vectors scored at once: they stay in the processor's cache
_GATHERED = 4  # where fewer than one in so many rows is kept, these are gathered, not the others masked


def search_vectors(
    vectors: Vectors, queries: Floats, k: int, *, rows: Rows | None = None, resident: Tensor | None = None, block: int | None = None
) -> tuple[Floats, Rows]:
    """The k rows with the greatest dot product, for each query.

    queries: (q, d) float32. rows: search these alone; sorted, unique. resident: the vectors on another device, from `cheap.upload`. block: how
    many scores to hold at once, else BLOCK or BLOCK_THERE. Returns scores (q, min(k, rows searched)), greatest first, and rows alike; equal scores by row. Raises
    DataError for queries that aren't finite.
    """
    assert queries.ndim == 2, f"expected a matrix, found {queries.ndim} dimensions"
    assert queries.shape[1] == vectors.dimension, f"vectors of {vectors.dimension} components, queries of {queries.shape[1]}"
    assert queries.dtype == np.float32, f"expected float32, found {queries.dtype}"
    assert resident is None or resident.shape == (len(vectors), vectors.dimension), "these aren't the vectors on the device"
    assert rows is None or not len(rows) or (rows[0] >= 0 and rows[-1] < len(vectors) and (rows[1:] > rows[:-1]).all()), "rows must ascend"
    check_finite(queries, "the query vectors")
    k = min(k, len(vectors) if rows is None else len(rows))
    block = block or (BLOCK if resident is None else BLOCK_THERE)
    scores, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), _QUERIES) if k > 0 else ():
        part = slice(start, start + _QUERIES)
        scores[part], found[part] = _search(vectors, np.ascontiguousarray(queries[part]), k, rows, resident, block)
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


def _search(vectors: Vectors, queries: Floats, k: int, rows: Rows | None, resident: Tensor | None, block: int) -> tuple[Floats, Rows]:
    for cheap in ways(vectors, queries, resident):
        answers = _Answers(vectors, queries, k, cheap)
        kept = len(vectors) if rows is None else len(rows)
        limit = np.inf if cheap.share is None else len(queries) * max(8 * k, kept // cheap.share)
        gathered = rows is not None and kept < len(vectors) // _GATHERED
        step = min(block // len(queries), COMPONENTS // max(1, vectors.dimension) if gathered else cheap.widest)
        for where, numbers, dropped in _blocks(len(vectors), rows, max(_GROUP, step // _GROUP * _GROUP), gathered=gathered):
            answers.look(cheap.score(where), numbers, dropped)
            if answers.looked_at > limit:
                break
        else:
            answers.settle()
            return answers.scores, answers.rows
    raise AssertionError("the last way is never given up")


class _Answers:
    """The k best rows of each query among those looked at so far, and the rows that wait for their true score."""

    def __init__(self, vectors: Vectors, queries: Floats, k: int, cheap: Cheap) -> None:
        q = len(queries)
        self.vectors, self.queries, self.k, self.cheap = vectors, queries, k, cheap
        self.scores, self.rows = np.full((q, k), -np.inf, np.float32), np.full((q, k), len(vectors), np.int64)
        self.floor = np.full(q, np.finfo(np.float32).min)  # a cheap score below it rules a row out
        self.waiting: list[tuple[Rows, Rows, Floats]] = []  # query, row, cheap score
        self.looked_at = self.waits = self.pruned = 0

    def look(self, scores: Tensor, numbers: Rows | int, dropped: Tensor | None) -> None:
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
            self.settle()

    def settle(self) -> None:
        """Give the rows that wait their true scores: first each query's k likeliest, then the others that these don't rule out."""
        if not self.waits:
            return
        query, row, cheap = self._prune()
        likeliest = _places(query) < self.k
        self._rescore(query[likeliest], row[likeliest])
        query, row, cheap = query[~likeliest], row[~likeliest], cheap[~likeliest]
        possible = cheap * self.cheap.unit[query] >= self.scores[query, -1] - self.cheap.off[query]
        self._rescore(query[possible], row[possible])
        self._set_floor((self.scores[:, -1] - self.cheap.off) / self.cheap.unit)
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
        self._set_floor(kth - 2 * self.cheap.off / self.cheap.unit)

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


def _blocks(n: int, rows: Rows | None, step: int, *, gathered: bool) -> Iterator[tuple[Where, Rows | int, Tensor | None]]:
    """Blocks of rows: where they are, their numbers (or the first's), and which of them are not to be searched."""
    if rows is not None and gathered:
        for start in range(0, len(rows), step):
            yield torch.from_numpy(rows[start : start + step]), rows[start : start + step], None
        return
    dropped = None if rows is None else torch.ones(n, dtype=torch.bool).index_fill_(0, torch.from_numpy(rows), False)
    for start in range(0, n, step):
        where = slice(start, start + step)
        yield where, start, None if dropped is None else dropped[where]
