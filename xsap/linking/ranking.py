"""Ranked names → ranked concepts: the only home of how a concept is scored by its names, and of ties between concepts.

A concept counts once, with its best-scoring name. Order: higher score first, of equal scores the lower concept_id; among equally good names
of one concept the lower row. Names are over-fetched, and fetched again more widely, until the answer can't change any more: so k
concepts come whenever the names have k, however many names each concept has. Where names come from (vectors, n-grams, a list) is the caller's.

Which names and concepts may be an answer: exact, by leaving out the others before the search, never after it.

A concept is kept if it has one of the semantic types (a group stands for its types; an OMOP terminology has domains in their place) and a code
or a cross-reference in one of the sources; a name, if one of its languages is wanted and one of its concepts is kept.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.linking.dictionary import Dictionary, NameConcepts
from xsap.search.vectors import Floats, Rows
from xsap.terms.semantic_types import types_of

NO_CONCEPT = -1  # in place of a concept where there are no more
_OVERFETCH = 4  # names for each concept wanted
_FETCHED = 1 << 24  # names held at once when the search widens

NameSearch = Callable[[NDArray[np.int64], int], tuple[Floats, Rows]]
"""(numbers of queries, k) → scores and rows of names, (q, k) each, greatest score first, equal ones by row; k is at most the number of names."""


class Ranked(NamedTuple):
    """The best concepts of each query: three arrays (q, wanted), NONE and score 0 where there are no more. rows: each concept's best name."""

    concepts: NDArray[np.int64]
    rows: Rows
    scores: Floats


def rank_concepts(
    find: NameSearch,
    owners: NameConcepts,
    queries: int,
    wanted: int,
    *,
    total: int | None = None,
    floor: float = -np.inf,
) -> Ranked:
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


def _rank(
    scores: Floats, rows: Rows, owners: NameConcepts, wanted: int, floor: float
) -> tuple[Ranked, NDArray[np.bool_]]:
    """The best concepts among fetched names, and (q,) whether there are as many as wanted. scores, rows: (q, fetch), best first."""
    q, fetch = rows.shape
    counts = np.where(scores > floor, owners.starts[rows + 1] - owners.starts[rows], 0).ravel()
    cell = np.repeat(np.arange(rows.size), counts)  # which of the q × fetch names each (name, concept) comes from
    within = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    concept = owners.concepts[owners.starts[rows.ravel()[cell]] + within]
    first = np.unique(cell // fetch * owners.count + concept, return_index=True)[
        1
    ]  # best name first, so the first is best
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
    return Ranked(np.full((q, wanted), NO_CONCEPT), np.zeros((q, wanted), np.int64), np.zeros((q, wanted), np.float32))


class Filter(NamedTuple):
    """What to keep; None leaves one open. sources: of the concept's codes and cross-references. languages: ISO codes."""

    semantic_types: frozenset[str] | None = None
    sources: frozenset[str] | None = None
    languages: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        *,
        semantic_types: Collection[str] | None = None,
        groups: Collection[str] | None = None,
        sources: Collection[str] | None = None,
        languages: Collection[str] | None = None,
    ) -> "Filter":
        """A filter of what users write. Types and groups add up. Raises DataError for a group or language that is unknown."""
        types = None if semantic_types is None and groups is None else frozenset(semantic_types or ())
        for group in groups or ():
            types = frozenset(types or ()) | types_of(group)
        codes = None if languages is None else frozenset(map(to_iso, languages))
        return cls(types, None if sources is None else frozenset(sources), codes)


class FilteredDictionary(NamedTuple):
    """What a filter leaves of an index. rows: names, ascending; None for all. owners: of all names, without the concepts left out."""

    rows: NDArray[np.int64] | None
    owners: NameConcepts


def apply_filter(dictionary: Dictionary, wanted: Filter) -> FilteredDictionary:
    """Raises DataError if nothing is left, and for a semantic type or source that the index doesn't have."""
    owners = dictionary.owners
    if wanted == Filter():
        return FilteredDictionary(None, owners)
    good = np.ones(owners.count, bool)
    if wanted.semantic_types is not None:
        good &= _any_in(dictionary.concepts["semantic_types"], wanted.semantic_types, "semantic type")
    if wanted.sources is not None:
        good &= _any_in(dictionary.concepts["codes"], wanted.sources, "source", before=":")
    pairs = good[owners.concepts]
    names = np.repeat(np.arange(len(owners)), np.diff(owners.starts))[pairs]
    counts = np.bincount(names, minlength=len(owners))
    rows = counts > 0
    if wanted.languages is not None:
        rows &= _any_in(dictionary.names["languages"], wanted.languages, "language")
    if not rows.any():
        raise DataError(
            "the filter leaves nothing of the index to link into; each part of it is there, but not together"
        )
    starts = np.concatenate([[0], np.cumsum(counts)])
    return FilteredDictionary(
        np.flatnonzero(rows), NameConcepts(starts, owners.concepts[pairs].astype(np.int64), owners.count)
    )


def _any_in(lists: pa.ChunkedArray, wanted: frozenset[str], what: str, before: str | None = None) -> NDArray[np.bool_]:
    """(n,) whether a list has one of the values; before: compare what stands before its first such character."""
    found = np.zeros(len(lists), bool)
    start, known = 0, set[str]()
    for chunk in lists.chunks:
        values = pc.list_flatten(chunk)
        if before is not None:
            values = pc.list_element(pc.split_pattern(values, before, max_splits=1), 0)
        known.update(pc.unique(values).to_pylist())
        hits = pc.is_in(values, pa.array(sorted(wanted), pa.string())).to_numpy(zero_copy_only=False).astype(bool)
        found[start + pc.list_parent_indices(chunk).to_numpy()[hits]] = True
        start += len(chunk)
    if not known:
        raise DataError(f"the index has no {what}s at all, so none can be chosen; leave that filter out")
    if missing := sorted(wanted - known) if len(wanted & known) == 0 else None:
        shown = ", ".join(sorted(known)[:12]) + (", …" if len(known) > 12 else "")
        raise DataError(f"the index has no {what} '{missing[0]}'; it has {shown}")
    return found
