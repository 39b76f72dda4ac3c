"""What a re-ranker gets of candidates, and candidates in their new order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xsap.linking.dictionary import values_at
from xsap.linking.index import Index
from xsap.linking.mention_context import MentionContext
from xsap.linking.ranking import NO_CONCEPT, Ranked
from xsap.linking.rerank import RERANKED, RerankCandidate, Reranker, RerankQuery, ranking_scores, rerank_order
from xsap.linking.results import Candidate
from xsap.search.exact import exact_scores
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, normalize, normalize_all

CANDIDATE_NAMES = 3  # of a candidate, besides its preferred name
NAMES_COMPARED = 32  # of a candidate with the mention, the first in the dictionary's order

AskedMention = tuple[str, str, MentionContext | None]
"""A mention, its language and its context."""


@dataclass(frozen=True)
class CandidateTexts:
    """Describes candidates of an index by their names nearest to a mention."""

    index: Index

    @cached_property
    def _names_by_concept(self) -> tuple[NDArray[np.int64], Rows]:
        """(concepts + 1,) where each concept's names start, and the rows of all names, those of a concept one after another."""
        owners = self.index.dictionary.name_concepts
        order = np.argsort(owners.concepts, kind="stable")
        rows = np.repeat(np.arange(len(owners)), np.diff(owners.starts))[order]
        return np.searchsorted(owners.concepts[order], np.arange(owners.count + 1)), rows

    def nearest_names(
        self, concepts: NDArray[np.int64], query: NDArray[np.int64], queries: Floats, most: int
    ) -> list[list[str]]:
        """The names of concepts that are nearest to a mention, the nearest first.

        Args:
            concepts: (n,) numbers of concepts.
            query: (n,) which query each is compared with.
            queries: (q, d) vectors of mentions.
            most: Names of each concept, at most.
        """
        starts, rows = self._names_by_concept
        counts = np.minimum(starts[concepts + 1] - starts[concepts], NAMES_COMPARED)
        pair = np.repeat(np.arange(len(concepts)), counts)
        within = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
        own = rows[starts[concepts][pair] + within]
        cosines = exact_scores(self.index.vectors, queries, query[pair], own)
        order = np.lexsort((own, -cosines, pair))
        pair, own = pair[order], own[order]
        rank = np.arange(len(pair)) - np.searchsorted(pair, pair)
        pair, own = pair[rank < most], own[rank < most]
        distinct, position = np.unique(own, return_inverse=True)
        names = values_at(self.index.names["name"], distinct.tolist())
        found: list[list[str]] = [[] for _ in concepts]
        for i, at in zip(pair.tolist(), position.tolist(), strict=True):
            found[i].append(names[at])
        return found

    def _definition(self, concept: int, language: str) -> str:
        details = self.index.dictionary.details
        return "" if details is None else details.definition_of(concept, language) or ""

    def describe(
        self, asked: Sequence[AskedMention], queries: Floats, ranked: Ranked, matches: Sequence[Sequence[str]],
        matched_names: Sequence[Sequence[str]], *, hidden: bool = False,
    ) -> list[RerankQuery]:  # fmt: skip
        """What a re-ranker gets of mentions and their candidates.

        Args:
            asked: q mentions.
            queries: (q, d) their vectors.
            ranked: Their candidates.
            matches: How each was found.
            matched_names: The matched name of each candidate that there is.
            hidden: Whether names that equal the mention are left out, as in training on mentions that were found by them.

        Returns:
            A query for each mention that has candidates.
        """
        found = ranked.concepts != NO_CONCEPT
        concepts, query = ranked.concepts[found], np.nonzero(found)[0]
        at = concepts.tolist()
        columns = ("concept_id", "preferred_name", "semantic_types")
        ids, preferred, types = (values_at(self.index.concepts[column], at) for column in columns)
        languages = [asked[number][1] for number in query.tolist()]
        definitions = list(map(self._definition, at, languages))
        near = self.nearest_names(concepts, query, queries, CANDIDATE_NAMES + 2)
        flat_matches = [how for line, kept in zip(matches, found.tolist(), strict=True) for how, is_one in zip(line, kept, strict=True) if is_one]  # fmt: skip
        flat_matched = [name for line in matched_names for name in line]
        scores = [
            score
            for line, kept in zip(ranked.scores.tolist(), found.sum(1).tolist(), strict=True)
            for score in ranking_scores(line[:kept])
        ]
        excluded = [normalize(mention, EXACT_MATCH) if hidden else None for mention, _, _ in asked]
        candidates = [
            RerankCandidate(
                ids[i],
                _first_shown([preferred[i], *near[i]], excluded[number]),
                _first_shown([flat_matched[i], *near[i], preferred[i]], excluded[number]),
                _shown(preferred[i], [flat_matched[i], *near[i]], excluded[number]),
                tuple(types[i]),
                definitions[i],
                score,
                flat_matches[i],
            )
            for i, (number, score) in enumerate(zip(query.tolist(), scores, strict=True))
        ]
        ends = np.cumsum(found.sum(1)).tolist()
        return [
            RerankQuery(*mention, tuple(candidates[start:end]))
            for mention, start, end in zip(asked, [0, *ends[:-1]], ends, strict=True)
            if end > start
        ]


def _first_shown(names: Sequence[str], excluded: str | None) -> str:
    """The first name that does not equal the mention where that is hidden; empty if all do."""
    if excluded is None:
        return names[0]
    return next((name for name in names if normalize(name, EXACT_MATCH) != excluded), "")


def _shown(preferred: str, names: Sequence[str], excluded: str | None) -> tuple[str, ...]:
    """Distinct names other than the preferred one."""
    forms = normalize_all([preferred, *names], EXACT_MATCH)
    seen = {forms[0], excluded}
    shown = []
    for name, form in zip(names, forms[1:], strict=True):
        if form not in seen:
            seen.add(form)
            shown.append(name)
    return tuple(shown[:CANDIDATE_NAMES])


@dataclass(frozen=True)
class Reranking:
    """A re-ranker on an index.

    Attributes:
        reranker: Scores candidates.
        texts: Describes them.
        top: Candidates of a mention that are scored; those behind them stay where they are.
    """

    reranker: Reranker
    texts: CandidateTexts
    top: int = RERANKED

    def reorder(
        self, asked: Sequence[AskedMention], queries: Floats, ranked: Ranked, matches: Sequence[Sequence[str]],
        candidates: Sequence[tuple[Candidate, ...]],
    ) -> list[tuple[Candidate, ...]]:  # fmt: skip
        """Candidates in their new order, with their new scores.

        Args:
            asked: q mentions.
            queries: (q, d) their vectors.
            ranked: Their candidates, as the retriever has them.
            matches: How each was found.
            candidates: The same ones, for users.
        """
        first = Ranked(ranked.concepts[:, : self.top], ranked.rows[:, : self.top], ranked.scores[:, : self.top])
        names = [[each.matched_name for each in own[: self.top]] for own in candidates]
        given = self.texts.describe(asked, queries, first, [line[: self.top] for line in matches], names)
        scores = iter(self.reranker.score(given))
        return [_reordered(own, self.top, next(scores)) if own else own for own in candidates]


def _reordered(candidates: tuple[Candidate, ...], top: int, scores: Sequence[float]) -> tuple[Candidate, ...]:
    before = ranking_scores([each.score for each in candidates[:top]])
    first = tuple(
        candidates[i] if scores[i] == before[i] else replace(candidates[i], score=float(scores[i]))
        for i in rerank_order(scores)
    )
    return first + candidates[top:]
