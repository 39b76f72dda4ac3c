"""From ranked names to ranked concepts, and filters: which names and concepts may be answers.

A concept counts once, with its best-scoring name. Higher scores come first, of equal scores the concept whose preferred name it is, then the
lower concept_id; among equally good names of one concept its preferred name counts, then the lower row. Names are over-fetched, and fetched again more widely, until the answer cannot change any more: so k concepts
are found whenever the names have k, however many names each concept has. What searches the names (vectors, n-grams, a list) is the caller's
choice.

Filters are exact, because other names are left out before the search, never after it. A concept is kept if it has one of the semantic types (a
semantic group is its types; a terminology from OMOP has domains as types) and a code or cross-reference in one of the sources. A name is kept
if one of its languages is wanted and one of its concepts is kept.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.languages import to_iso
from xsap.linking.dictionary import Dictionary, NameConcepts
from xsap.linking.name_keys import SIMILAR, Hit
from xsap.search.vectors import Floats, Rows
from xsap.terms.semantic_types import types_of

NO_CONCEPT = -1  # where there are no more concepts
NAMES_PER_CONCEPT = 4  # names fetched at first for each concept wanted
NAMES_PER_SEARCH = 1 << 24  # names of all queries that one search may return

NameSearch = Callable[[NDArray[np.int64], int], tuple[Floats, Rows]]
"""(numbers of queries, k) → scores and rows of names, (q, k) each, greatest score first, equal ones by row; k is at most the number of names."""


class Ranked(NamedTuple):
    """The best concepts of each query: three arrays (q, wanted), filled with NO_CONCEPT, row 0 and score 0 where there are no more.

    Attributes:
        concepts: Numbers of concepts, best first.
        rows: Each concept's best name.
        scores: The score of that name.
    """

    concepts: NDArray[np.int64]
    rows: Rows
    scores: Floats


def rank_concepts(
    search: NameSearch,
    name_concepts: NameConcepts,
    queries: int,
    wanted: int,
    *,
    total: int | None = None,
    min_score: float = -np.inf,
    names_per_concept: int = NAMES_PER_CONCEPT,
    names_per_search: int = NAMES_PER_SEARCH,
) -> Ranked:
    """The best concepts of each query.

    Args:
        search: Finds names.
        name_concepts: The concepts of each name.
        queries: How many queries there are.
        wanted: Concepts wanted for each query.
        total: How many names `search` searches, if not all.
        min_score: Names with this score or less are no candidates.
        names_per_concept: Names fetched at first for each concept wanted.
        names_per_search: Names of all queries that one search may return, so that memory is bounded.

    Returns:
        For each query min(wanted, number of concepts) concepts, or as many as there are.
    """
    wanted, total = min(wanted, name_concepts.count), len(name_concepts) if total is None else total
    best = _no_concepts(queries, wanted)
    pending, fetch = np.arange(queries), min(total, names_per_concept * wanted)
    while pending.size and fetch:  # 0 where there are no names, or no concept is wanted
        wider = []
        queries_per_search = max(1, names_per_search // fetch)
        for start in range(0, len(pending), queries_per_search):
            part = pending[start : start + queries_per_search]
            scores, rows = search(part, fetch)
            ranked, enough = _rank(scores, rows, name_concepts, wanted, min_score)
            # a name that was not fetched scores at most as much as the last one fetched: at that score its concept may come first
            final = (enough & (scores[:, -1] < ranked.scores[:, -1])) | (scores[:, -1] <= min_score) | (fetch == total)
            best.concepts[part[final]] = ranked.concepts[final]
            best.rows[part[final]] = ranked.rows[final]
            best.scores[part[final]] = ranked.scores[final]
            wider.append(part[~final])
        pending, fetch = np.concatenate(wider), min(total, 8 * fetch)
    return best


def put_exact_first(
    ranked: Ranked, hits: Sequence[Sequence[Hit]], scores: Sequence[Sequence[float]]
) -> list[list[str]]:
    """Put the concepts that a mention names exactly before all others, in place.

    Args:
        ranked: The best concepts of each query, by all names.
        hits: The concepts that each query names exactly, best first.
        scores: The score of each of them.

    Returns:
        How each concept of each query was found: MATCHES.
    """
    wanted = ranked.concepts.shape[1]
    matches = [[SIMILAR] * wanted for _ in hits]
    for number, (own, own_scores) in enumerate(zip(hits, scores, strict=True)):
        if not own:
            continue
        others = ~np.isin(ranked.concepts[number], [hit.concept for hit in own])
        columns: list[tuple[NDArray[Any], Sequence[float]]] = [
            (ranked.concepts[number], [hit.concept for hit in own]),
            (ranked.rows[number], [hit.row for hit in own]),
            (ranked.scores[number], own_scores),
        ]
        for line, values in columns:
            line[:] = np.concatenate([np.array(values, line.dtype), line[others]])[:wanted]
        matches[number] = [*(hit.match for hit in own), *matches[number]][:wanted]
    return matches


def _rank(
    scores: Floats, rows: Rows, name_concepts: NameConcepts, wanted: int, min_score: float
) -> tuple[Ranked, NDArray[np.bool_]]:
    """The best concepts among fetched names, and (q,) whether there are as many as wanted. scores, rows: (q, fetch), best first."""
    q, fetch = rows.shape
    starts = name_concepts.starts
    counts = np.where(scores > min_score, starts[rows + 1] - starts[rows], 0).ravel()
    cell = np.repeat(np.arange(rows.size), counts)  # which of the q × fetch names each (name, concept) comes from
    within = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    position = starts[rows.ravel()[cell]] + within
    concept, preference = name_concepts.concepts[position], name_concepts.preferences[position].astype(np.int64)
    order = np.lexsort((cell, -preference, -scores.ravel()[cell], cell // fetch))
    concept, cell, preference = concept[order], cell[order], preference[order]
    pairs = cell // fetch * name_concepts.count + concept  # (query, concept)
    first = np.unique(pairs, return_index=True)[1]  # the best name comes first, so the first of each pair is its best
    concept, cell, preference = concept[first], cell[first], preference[first]
    order = np.lexsort((concept, -preference, -scores.ravel()[cell], cell // fetch))
    concept, cell = concept[order], cell[order]
    ends = np.searchsorted(cell // fetch, np.arange(q + 1))
    position = np.arange(len(cell)) - np.repeat(ends[:-1], np.diff(ends))
    taken = position < wanted
    cell, at = cell[taken], (cell[taken] // fetch, position[taken])
    ranked = _no_concepts(q, wanted)
    ranked.concepts[at] = concept[taken]
    ranked.rows[at] = rows.ravel()[cell]
    ranked.scores[at] = scores.ravel()[cell]
    return ranked, np.diff(ends) >= wanted


def _no_concepts(q: int, wanted: int) -> Ranked:
    return Ranked(np.full((q, wanted), NO_CONCEPT), np.zeros((q, wanted), np.int64), np.zeros((q, wanted), np.float32))


Strings = str | Collection[str] | None


@dataclass(frozen=True, init=False)
class Filter:
    """What may be an answer; None leaves a condition open. A filter is hashable, and equal to another one of the same conditions.

    Attributes:
        semantic_types: A concept has one of them.
        sources: A concept has a code or cross-reference in one of them.
        codes: A concept has one of them as code or cross-reference: `ICD10:I10`, or `I10` in any source.
        concepts: Ids of concepts.
        languages: A name is in one of them; ISO 639 codes.
    """

    semantic_types: frozenset[str] | None
    sources: frozenset[str] | None
    codes: frozenset[str] | None
    concepts: frozenset[str] | None
    languages: frozenset[str] | None

    def __init__(
        self,
        *,
        semantic_types: Strings = None,
        groups: Strings = None,
        sources: Strings = None,
        codes: Strings = None,
        concepts: Strings = None,
        languages: Strings = None,
    ) -> None:
        """Take lists, sets or single strings.

        Args:
            semantic_types: Semantic types such as `T047`.
            groups: Semantic groups such as `DISO` or `Disorders`; their types are added to `semantic_types`.
            sources: Sources such as `SNOMEDCT_US`.
            codes: Codes such as `ICD10:I10` or `I10`.
            concepts: Ids of concepts.
            languages: Languages in any form: `de`, `GER`, `German`.

        Raises:
            ConfigError: An argument is neither a string nor a list of strings.
            DataError: A group or a language is unknown.
        """
        types, of_groups = _strings("semantic_types", semantic_types), _strings("groups", groups)
        if of_groups is not None:
            types = (types or frozenset()).union(*map(types_of, of_groups))
        spoken = _strings("languages", languages)
        object.__setattr__(self, "semantic_types", types)
        object.__setattr__(self, "sources", _strings("sources", sources))
        object.__setattr__(self, "codes", _strings("codes", codes))
        object.__setattr__(self, "concepts", _strings("concepts", concepts))
        object.__setattr__(self, "languages", None if spoken is None else frozenset(map(to_iso, spoken)))

    @classmethod
    def from_dict(cls, conditions: "Filter | Mapping[str, Strings] | None") -> "Filter":
        """A filter of what a user gives.

        Args:
            conditions: A filter, the arguments of one as a dictionary, or None for no condition.

        Raises:
            ConfigError: It is something else, or has an unknown key.
            DataError: A group or a language is unknown.
        """
        if isinstance(conditions, Filter):
            return conditions
        if not isinstance(conditions, Mapping | None):
            raise ConfigError(f"a filter is a Filter or a dictionary with lists, found {conditions!r:.40}")
        known = ("semantic_types", "groups", "sources", "codes", "concepts", "languages")
        for key in conditions or ():
            if key not in known:
                hint = did_you_mean(str(key), known, otherwise=f"a filter has {', '.join(known)}")
                raise ConfigError(f"unknown filter {key!r:.40}{hint}")
        return cls(**(conditions or {}))


def _strings(name: str, given: Any) -> frozenset[str] | None:
    if given is None:
        return None
    strings = [given] if isinstance(given, str) else given
    if not isinstance(strings, Collection) or isinstance(strings, Mapping | bytes):
        raise ConfigError(f"the filter '{name}' takes a list of strings, found {given!r:.40} ({type(given).__name__})")
    for string in strings:
        if not isinstance(string, str):
            found = f"found {string!r:.40} ({type(string).__name__}) in it"
            raise ConfigError(f"the filter '{name}' takes a list of strings, {found}")
    return frozenset(strings)


class FilteredDictionary(NamedTuple):
    """What a filter leaves of a dictionary.

    Attributes:
        rows: Names that are kept, ascending; None for all.
        name_concepts: The concepts of all names, without those that are left out.
        mention_rows: Mention names that are kept, ascending; None for all.
    """

    rows: NDArray[np.int64] | None
    name_concepts: NameConcepts
    mention_rows: NDArray[np.int64] | None = None


def apply_filter(dictionary: Dictionary, wanted: Filter) -> FilteredDictionary:
    """What a filter leaves.

    Args:
        dictionary: The names and concepts of an index.
        wanted: The filter.

    Raises:
        DataError: Nothing is left, or the dictionary has none of the semantic types, sources, codes, concepts or languages.
    """
    name_concepts = dictionary.name_concepts
    if wanted == Filter():
        return FilteredDictionary(None, name_concepts)
    good = np.ones(name_concepts.count, bool)
    if wanted.semantic_types is not None:
        good &= _any_in(dictionary.concepts["semantic_types"], wanted.semantic_types, "semantic type")
    if wanted.sources is not None:
        good &= _any_in(dictionary.concepts["codes"], wanted.sources, "source", [_before_colon])
    if wanted.codes is not None:
        good &= _any_in(dictionary.concepts["codes"], wanted.codes, "code", [lambda codes: codes, _after_colon])
    if wanted.concepts is not None:
        good &= _is_one_of(dictionary.concepts["concept_id"], wanted.concepts)
    pairs = good[name_concepts.concepts]
    names = np.repeat(np.arange(len(name_concepts)), np.diff(name_concepts.starts))[pairs]
    counts = np.bincount(names, minlength=len(name_concepts))
    rows = counts > 0
    if wanted.languages is not None:
        rows &= _any_in(dictionary.names["languages"], wanted.languages, "language")
    if not rows.any():
        raise DataError(
            "the filter matches nothing in the index: each condition alone matches something, all of them together nothing; remove one"
        )
    starts = np.concatenate([[0], np.cumsum(counts)])
    kept = NameConcepts(
        starts,
        name_concepts.concepts[pairs].astype(np.int64),
        name_concepts.count,
        np.asarray(name_concepts.preferences[pairs]),
    )
    return FilteredDictionary(np.flatnonzero(rows), kept)


def _any_in(
    lists: pa.ChunkedArray,
    wanted: frozenset[str],
    what: str,
    forms: Sequence[Callable[[pa.Array], pa.Array]] = (lambda values: values,),
) -> NDArray[np.bool_]:
    """(n,) whether a list has one of the wanted values, in one of the forms that its values are compared in."""
    found, start, sought = np.zeros(len(lists), bool), 0, pa.array(sorted(wanted), pa.string())
    for chunk in lists.chunks:
        values, parents = pc.list_flatten(chunk), pc.list_parent_indices(chunk).to_numpy()
        for form in forms:
            hits = pc.is_in(form(values), sought).to_numpy(zero_copy_only=False).astype(bool)
            found[start + parents[hits]] = True
        start += len(chunk)
    if not found.any():
        known = {value for chunk in lists.chunks for value in pc.unique(forms[0](pc.list_flatten(chunk))).to_pylist()}
        if not known:
            raise DataError(f"the index has no {what}s at all, so it cannot be filtered by them; remove that filter")
        if wanted:
            raise DataError(f"the index has no {what} '{min(wanted)}'; it has {_some_of(known)}")
    return found


def _is_one_of(ids: pa.ChunkedArray, wanted: frozenset[str]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(ids, pa.array(sorted(wanted), pa.string())).to_numpy().astype(bool)
    if wanted and not found.any():
        raise DataError(f"the index has no concept '{min(wanted)}'; it has {_some_of(set(ids.to_pylist()))}")
    return found


def _some_of(known: set[str]) -> str:
    return ", ".join(sorted(known)[:12]) + (", …" if len(known) > 12 else "")


def _before_colon(codes: pa.Array) -> pa.Array:
    return pc.list_element(pc.split_pattern(codes, ":", max_splits=1), 0)


def _after_colon(codes: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(codes, "^[^:]*:", "")
