"""Ranked names → ranked concepts: the only home of how a concept is scored by its names, and of ties between concepts.

A concept counts once, with its best-scoring name. Order: higher score first, of equal scores the lower concept_id; among equally good names
of one concept the lower row. Names are over-fetched, and fetched again more widely, until the answer can't change any more: so k
concepts come whenever the names have k, however many names each concept has. Where names come from (vectors, n-grams, a list) is the caller's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.errors import ArtifactError
from xsap.linking.search import Floats, Rows

NONE = -1  # in place of a concept where there are no more
_OVERFETCH = 4  # names for each concept wanted
_FETCHED = 1 << 24  # names held at once when the search widens

Find = Callable[[NDArray[np.int64], int], tuple[Floats, Rows]]
"""(numbers of queries, k) → scores and rows of names, (q, k) each, greatest score first, equal ones by row; k is at most the number of names."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Which concepts each name stands for. starts: (names + 1,); concepts: numbers of concepts, those of name i at starts[i] to starts[i + 1].

    count: how many concepts there are; their numbers are in the order of their ids.
    """

    starts: NDArray[np.int64]
    concepts: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, concept_ids: pa.ListArray, known: pa.Array) -> "Owners":
        """concept_ids: (names,) lists. known: all concepts' ids, sorted. Raises ArtifactError if a name has an id that isn't known."""
        counts = pc.list_value_length(concept_ids).to_numpy().astype(np.int64)
        numbers = pc.index_in(concept_ids.flatten(), known)
        if numbers.null_count:
            raise ArtifactError("the index has a name of a concept that it doesn't list; it is damaged, make it again")
        return cls(np.concatenate([[0], np.cumsum(counts)]), numbers.to_numpy().astype(np.int64), len(known))

    def __len__(self) -> int:
        return len(self.starts) - 1


class Ranked(NamedTuple):
    """The best concepts of each query: three arrays (q, wanted), NONE and score 0 where there are no more. rows: each concept's best name."""

    concepts: NDArray[np.int64]
    rows: Rows
    scores: Floats


def rank_concepts(find: Find, owners: Owners, queries: int, wanted: int, *, total: int | None = None, floor: float = -np.inf) -> Ranked:
    """The `wanted` best concepts of each query, or as many as there are.

    total: how many names `find` searches, where it isn't all. Names that score `floor` or less are no candidates.
    """
    wanted, total = min(wanted, owners.count), len(owners) if total is None else total
    best = _no_concepts(queries, wanted)
    pending, fetch = np.arange(queries), min(total, _OVERFETCH * wanted)
    while pending.size and fetch:  # 0 where there are no names, or none is wanted
        wider = []
        at_once = max(1, _FETCHED // fetch)
        for start in range(0, len(pending), at_once):
            part = pending[start : start + at_once]
            scores, rows = find(part, fetch)
            ranked, enough = _rank(scores, rows, owners, wanted, floor)
            # a name not fetched scores at most as much as the last one fetched: at that score its concept may have the lower id
            final = (enough & (scores[:, -1] < ranked.scores[:, -1])) | (scores[:, -1] <= floor) | (fetch == total)
            final |= enough & (wanted == owners.count)
            best.concepts[part[final]] = ranked.concepts[final]
            best.rows[part[final]] = ranked.rows[final]
            best.scores[part[final]] = ranked.scores[final]
            wider.append(part[~final])
        pending, fetch = np.concatenate(wider), min(total, 8 * fetch)
    return best


def _rank(scores: Floats, rows: Rows, owners: Owners, wanted: int, floor: float) -> tuple[Ranked, NDArray[np.bool_]]:
    """The best concepts among fetched names, and (q,) whether there are as many as wanted. scores, rows: (q, fetch), best first."""
    q, fetch = rows.shape
    counts = np.where(scores > floor, owners.starts[rows + 1] - owners.starts[rows], 0).ravel()
    cell = np.repeat(np.arange(rows.size), counts)  # which of the q × fetch names each (name, concept) comes from
    within = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    concept = owners.concepts[owners.starts[rows.ravel()[cell]] + within]
    first = np.unique(cell // fetch * owners.count + concept, return_index=True)[1]  # best name first, so the first is best
    concept, cell = concept[first], cell[first]
    order = np.lexsort((concept, -scores.ravel()[cell], cell // fetch))
    concept, cell = concept[order], cell[order]
    starts = np.searchsorted(cell // fetch, np.arange(q + 1))
    place = np.arange(len(cell)) - np.repeat(starts[:-1], np.diff(starts))
    taken = place < wanted
    cell, at = cell[taken], (cell[taken] // fetch, place[taken])
    ranked = _no_concepts(q, wanted)
    ranked.concepts[at] = concept[taken]
    ranked.rows[at] = rows.ravel()[cell]
    ranked.scores[at] = scores.ravel()[cell]
    return ranked, np.diff(starts) >= wanted


def _no_concepts(q: int, wanted: int) -> Ranked:
    return Ranked(np.full((q, wanted), NONE), np.zeros((q, wanted), np.int64), np.zeros((q, wanted), np.float32))
