"""What links without being trained on anything: exact names, character n-grams, and two systems fused.

A `Linking` is something that links into one dictionary, as the concept protocol sees it (`link`: ranked concepts) and as the reference
protocol does (`dictionary_rows`: ranked rows of the dictionary). Lexical systems normalise both sides by EXACT_MATCH under either protocol.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.dictionary import Space
from xsap.linking.askable import why_not
from xsap.linking.lexical import Lexicon
from xsap.linking.ranking import NONE, Find, Owners, rank_concepts
from xsap.linking.results import Candidate, Result
from xsap.linking.search import Floats, Rows
from xsap.text import EXACT_MATCH, TextPolicy, normalise_all

DEPTH = 128  # candidates of each system that fusion looks at
FUSION = 60  # the constant of reciprocal rank fusion, as its paper has it
NO_NAME_FITS = "no name has anything in common with the mention"
_BATCH = 2048  # mentions searched at once

Search = Callable[[Sequence[str]], Find]
"""Mentions → what finds the names nearest to some of them. A score of the floor or less means that a name does not fit."""


class Linking(Protocol):
    """Something that links into one dictionary."""

    @property
    def concept_ids(self) -> Collection[str]: ...  # noqa: D102
    def link(self, mentions: Sequence[str], top_k: int) -> Sequence[Result]: ...  # noqa: D102
    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows: ...  # noqa: D102


@dataclass(frozen=True)
class Names:
    """The unique names of a dictionary, as a policy normalises them, in order of first appearance. texts: as first written."""

    texts: list[str]
    owners: Owners

    @classmethod
    def of(cls, space: Space, policy: TextPolicy) -> "Names":
        """Names that are empty once normalised are left out."""
        normalised = normalise_all(space.rows.names, policy)
        concepts: dict[str, set[str]] = defaultdict(set)
        texts: dict[str, str] = {}
        for name, text, ids in zip(normalised, space.rows.names, space.concept_ids.to_pylist(), strict=True):
            if name:
                concepts[name].update(ids)
                texts.setdefault(name, text)
        lists = pa.array([sorted(concepts[name]) for name in texts], pa.list_(pa.string()))
        return cls(list(texts.values()), Owners.of(lists, pa.array(space.concepts, pa.string())))


@dataclass(frozen=True)
class NameLinker:
    """A search over names → a Linking. over_rows: the same over all rows of the dictionary, for the reference protocol."""

    space: Space
    names: Names
    search: Search
    over_rows: Search
    floor: float

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.space.concepts

    def link(self, mentions: Sequence[str], top_k: int) -> list[Result]:
        """A result for each mention; those that no name fits, or that `xsap link` refuses, have no candidates and a reason."""
        reasons = [why_not(mention) for mention in mentions]
        terms = [mention for mention, reason in zip(mentions, reasons, strict=True) if reason is None]
        batches = (self._link(terms[start : start + _BATCH], top_k) for start in range(0, len(terms), _BATCH))
        results = (result for batch in batches for result in batch)
        return [next(results) if reason is None else Result(m, (), reason) for m, reason in zip(mentions, reasons, strict=True)]

    def _link(self, mentions: Sequence[str], top_k: int) -> list[Result]:
        ids, texts = self.space.concepts, self.names.texts
        ranked = rank_concepts(self.search(mentions), self.names.owners, len(mentions), top_k, floor=self.floor)
        results = []
        for mention, *found in zip(mentions, *(array.tolist() for array in ranked), strict=True):
            candidates = tuple(
                Candidate(ids[concept], self.space.preferred.get(ids[concept], texts[row]), texts[row], score)
                for concept, row, score in zip(*found, strict=True)
                if concept != NONE
            )
            results.append(Result(mention, candidates, None if candidates else NO_NAME_FITS))
        return results

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """(q, k) rows of the dictionary, best first, equal ones by row; NONE where no more fit."""
        k = min(k, len(self.space.rows.names))
        found = [np.empty((0, k), np.int64)]
        for start in range(0, len(mentions), _BATCH):
            part = mentions[start : start + _BATCH]
            scores, rows = self.over_rows(part)(np.arange(len(part)), k)
            found.append(np.where(scores > self.floor, rows, NONE))
        return np.concatenate(found)


@dataclass(frozen=True)
class ExactNames:
    """Names looked up as EXACT_MATCH normalises them: `search` scores 1 where they are equal."""

    rows: dict[str, list[int]]
    count: int

    @classmethod
    def build(cls, names: Sequence[str]) -> "ExactNames":
        """Empty names match nothing."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(normalise_all(names, EXACT_MATCH)):
            if name:
                rows[name].append(row)
        return cls(dict(rows), len(names))

    def search(self, mentions: Sequence[str], k: int) -> tuple[Floats, Rows]:
        """(q, k) scores, 1 or 0, and rows; what stands beside a 0 means nothing."""
        k = min(k, self.count)
        scores, rows = np.zeros((len(mentions), k), np.float32), np.zeros((len(mentions), k), np.int64)
        for i, name in enumerate(normalise_all(mentions, EXACT_MATCH)):
            found = self.rows.get(name, [])[:k]
            scores[i, : len(found)], rows[i, : len(found)] = 1, found
        return scores, rows


def _of_texts(search: Callable[[Sequence[str], int], tuple[Floats, Rows]]) -> Search:
    return lambda mentions: lambda part, k: search([mentions[i] for i in part], k)


def exact(space: Space) -> NameLinker:
    """Exact match after normalisation."""
    names = Names.of(space, EXACT_MATCH)
    found, rows = (_of_texts(ExactNames.build(texts).search) for texts in (names.texts, space.rows.names))
    return NameLinker(space, names, found, rows, 0.0)


def tfidf(space: Space) -> NameLinker:
    """Cosine of character n-grams, weighted by inverse document frequency."""
    names = Names.of(space, EXACT_MATCH)
    found, rows = (_of_texts(Lexicon.build(texts).search) for texts in (names.texts, space.rows.names))
    return NameLinker(space, names, found, rows, 0.0)


@dataclass(frozen=True)
class Fused:
    """Two systems by reciprocal rank fusion: a candidate scores the sum of 1 / (60 + its place, counted from 1) over both.

    Cormack, Clarke and Büttcher, SIGIR 2009 (Reciprocal rank fusion outperforms Condorcet and individual rank learning methods). The first
    DEPTH candidates of each are looked at; equal ones go by concept_id, or by row. A concept shows the name by which `first` found it, if it did.
    """

    first: Linking
    second: Linking

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.first.concept_ids

    def link(self, mentions: Sequence[str], top_k: int) -> list[Result]:
        """A result for each mention."""
        both = zip(self.first.link(mentions, DEPTH), self.second.link(mentions, DEPTH), strict=True)
        return [self._fuse(one, other, top_k) for one, other in both]

    def _fuse(self, one: Result, other: Result, top_k: int) -> Result:
        scores: dict[str, float] = defaultdict(float)
        shown: dict[str, Candidate] = {}
        for result in (one, other):
            for place, candidate in enumerate(result.candidates, start=1):
                scores[candidate.concept_id] += 1 / (FUSION + place)
                shown.setdefault(candidate.concept_id, candidate)
        best = sorted(scores, key=lambda concept: (-scores[concept], concept))[:top_k]
        candidates = tuple(Candidate(c, shown[c].name, shown[c].matched_name, scores[c]) for c in best)
        return Result(one.mention, candidates, None if candidates else one.reason)

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """As NameLinker's."""
        both = [system.dictionary_rows(mentions, DEPTH) for system in (self.first, self.second)]
        fused: NDArray[np.int64] = np.full((len(mentions), k), NONE)
        for i in range(len(mentions)):
            scores: dict[int, float] = defaultdict(float)
            for rows in both:
                for place, row in enumerate(rows[i].tolist(), start=1):
                    if row != NONE:
                        scores[row] += 1 / (FUSION + place)
            best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
            fused[i, : len(best)] = best
        return fused
