"""Names that look alike: the one home of character n-grams, as cosines of TF-IDF vectors over the names of a dictionary.

A word is padded by a space on each side and cut into all its runs of two and of three characters; a name is the bag of its words'
n-grams. Three code points of 21 bits make one integer, so the vocabulary is a sorted array. For each n-gram the rows that have it are
kept, ascending, with their weights (its postings): nothing but arrays, which `.npy` files hold, and search as well when memory-mapped.

The weights are scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True)`, whose defaults are a smooth
idf and the l2 norm: https://scikit-learn.org/stable/modules/feature_extraction.html#tfidf-term-weighting

What links without being trained on anything: exact names, character n-grams, and two systems fused.

A `Linking` is something that links into one dictionary, as the concept protocol sees it (`link`: ranked concepts) and as the reference
protocol does (`dictionary_rows`: ranked rows of the dictionary). Lexical systems normalize both sides by EXACT_MATCH under either protocol.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.accuracy.dictionary import SearchSpace
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import SIZES
from xsap.linking.linker import rejection_reason
from xsap.linking.ranking import NO_CONCEPT, NameSearch, rank_concepts
from xsap.linking.results import Candidate, Result
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, TextPolicy, normalize_all

_BITS = 21  # of a code point; normalizing leaves no zeros, so n-grams of different sizes differ
_PART = 1 << 15  # names whose n-grams are held at once
_GROUP = 64  # cosines that stand for themselves by their maximum

Integers = NDArray[np.int64]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Lexicon:
    """How many names it has; their n-grams, (v,) ascending; and the postings of each: where they start, (v + 1,); rows and weights, (p,)."""

    count: int
    grams: Integers
    starts: Integers
    rows: NDArray[np.int32]
    weights: Floats

    @classmethod
    def build(cls, names: Sequence[str]) -> "Lexicon":
        """The lexicon of names, whose places are their rows: they are read twice, in parts. A blank name has no n-grams."""
        assert len(names) < 1 << 31, "a row is kept in 32 bits"
        parts = range(0, len(names), _PART)
        grams, frequencies = np.empty(0, np.int64), np.empty(0, np.int64)
        for start in parts:
            bags = _count(names[start : start + _PART])
            grams, place = np.unique(np.concatenate([grams, bags.grams]), return_inverse=True)
            frequencies = np.bincount(place, np.concatenate([frequencies, bags.frequencies]), len(grams)).astype(
                np.int64
            )
        starts = np.concatenate([[0], np.cumsum(frequencies)])
        lexicon = cls(len(names), grams, starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32))
        free = starts[:-1].copy()  # where the next posting of each n-gram goes
        for start in parts:
            part = names[start : start + _PART]
            bags = _count(part)
            gram = np.searchsorted(grams, bags.grams)
            before = np.cumsum(bags.frequencies) - bags.frequencies
            places = (free[gram] - before)[bags.entries] + np.arange(len(bags.entries))
            lexicon.rows[places] = bags.rows + start
            lexicon.weights[places] = lexicon._weigh(gram[bags.entries], bags.rows, bags.counts, len(part))
            free[gram] += bags.frequencies
        return lexicon

    def search(self, mentions: Sequence[str], k: int) -> tuple[Floats, Rows]:
        """The k names with the greatest cosine, for each mention.

        Returns cosines (q, min(k, n)), greatest first, and rows alike; equal cosines by row. A name without a common n-gram has cosine 0.
        The mention's n-grams that no name has count for nothing, not even for its length.
        """
        k = min(k, self.count)
        scores, rows = np.zeros((len(mentions), k), np.float32), np.zeros((len(mentions), k), np.int64)
        for i, (postings, weights) in enumerate(self._postings(mentions) if k else ()):
            common = [self.rows[span] for span in postings] or [np.empty(0, np.int32)]
            shares = [_times(self.weights[span], weight) for span, weight in zip(postings, weights, strict=True)] or [
                np.empty(0)
            ]
            cosines = np.bincount(np.concatenate(common), np.concatenate(shares), self.count).astype(np.float32)
            rows[i] = _top(cosines, k)
            scores[i] = cosines[rows[i]]
        return scores, rows

    def scores(self, mentions: Sequence[str], rows: Rows) -> Floats:
        """(q, c) cosines of each mention with the names in its line of `rows`, (q, c) in any order: those that `search` would give."""
        assert len(mentions) == len(rows), f"{len(mentions)} mentions, rows for {len(rows)}"
        assert not rows.size or 0 <= rows.min() <= rows.max() < self.count, f"rows outside of {self.count} names"
        scores = np.zeros(rows.shape)
        for line, wanted, (postings, weights) in zip(
            scores, rows.astype(np.int32), self._postings(mentions), strict=True
        ):
            for span, weight in zip(postings, weights, strict=True):
                at = np.minimum(np.searchsorted(self.rows[span], wanted), span.stop - span.start - 1)
                line += np.where(self.rows[span][at] == wanted, _times(self.weights[span][at], weight), 0)
        return scores.astype(np.float32)

    def _postings(self, mentions: Sequence[str]) -> Iterator[tuple[list[slice], Weights]]:
        """For each mention where the postings of its n-grams stand, ascending, and its own weights of them."""
        for start in range(0, len(mentions), _PART):
            part = mentions[start : start + _PART]
            bags = _count(part)
            gram = np.searchsorted(self.grams, bags.grams)
            known = (np.searchsorted(self.grams, bags.grams, side="right") > gram)[bags.entries]
            order = np.flatnonzero(known)[np.argsort(bags.rows[known], kind="stable")]
            gram, rows = gram[bags.entries[order]], bags.rows[order]
            weights = self._weigh(gram, rows, bags.counts[order], len(part))
            spans = [
                slice(first, last)
                for first, last in zip(self.starts[gram].tolist(), self.starts[gram + 1].tolist(), strict=True)
            ]
            ends = np.cumsum(np.bincount(rows, minlength=len(part))).tolist()
            for first, last in zip([0, *ends], ends, strict=False):
                yield spans[first:last], weights[first:last]

    def _weigh(self, grams: Integers, rows: Integers, counts: Integers, n: int) -> Weights:
        """(e,) weights: (1 + ln count) · (1 + ln((1 + names) / (1 + names with it))), made unit length for each of n rows.

        grams: by place. A row's come in the same order wherever they are weighed, so that equal bags get equal weights to the last bit.
        """
        values = (1 + np.log(counts)) * (
            1 + np.log((1 + self.count) / (1 + self.starts[grams + 1] - self.starts[grams]))
        )
        unit: Weights = values / np.sqrt(np.bincount(rows, values**2, n))[rows]
        return unit


def _times(weights: Floats, weight: float) -> Weights:
    """In float64, so that a cosine is rounded once."""
    product: Weights = np.multiply(weights, weight, dtype=np.float64)
    return product


class _Bags(NamedTuple):
    """The n-grams of some names, (v,) ascending, and in how many of them each is; then by n-gram and name, (e,): which n-gram, which
    name, how often."""

    grams: Integers
    frequencies: Integers
    entries: Integers
    rows: Integers
    counts: Integers


def _count(names: Sequence[str]) -> _Bags:
    padded = [f" {name.replace(' ', '  ')} " if name else "" for name in normalize_all(names, EXACT_MATCH)]
    rows = np.repeat(np.arange(len(padded)), np.fromiter(map(len, padded), np.int64, len(padded)))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    words = (np.cumsum(codes == ord(" ")) + 1) // 2  # a space opens and a space closes each
    keys, owners = [], []
    for size in SIZES:
        n = max(0, len(codes) - size + 1)
        inside = words[:n] == words[size - 1 :]
        key = np.zeros(n, np.int64)
        for i in range(size):
            key = key << _BITS | codes[i : i + n]
        keys.append(key[inside])
        owners.append(rows[:n][inside])
    grams, gram = np.unique(np.concatenate(keys), return_inverse=True)
    pairs, counts = np.unique(gram * len(names) + np.concatenate(owners), return_counts=True)
    entries = pairs // max(1, len(names))
    return _Bags(grams, np.bincount(entries, minlength=len(grams)), entries, pairs - entries * len(names), counts)


def _top(scores: Floats, k: int) -> Integers:
    """The k places with the greatest scores, greatest first, equal ones by place. The k best lie in groups whose maxima are at least
    the k-th greatest maximum."""
    groups = len(scores) // _GROUP
    maxima = scores[: groups * _GROUP].reshape(groups, _GROUP).max(1) if groups > 4 * k else scores
    least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
    chosen = np.flatnonzero(scores >= least)
    return chosen[np.argsort(-scores[chosen], kind="stable")[:k]]


DEPTH = 128  # candidates of each system that fusion looks at
FUSION = 60  # the constant of reciprocal rank fusion, as its paper has it
NO_NAME_FITS = "no name has anything in common with the mention"
_BATCH = 2048  # mentions searched at once

Search = Callable[[Sequence[str]], NameSearch]
"""Mentions → what finds the names nearest to some of them. A score of the floor or less means that a name does not fit."""


class Linking(Protocol):
    """Something that links into one dictionary."""

    @property
    def concept_ids(self) -> Collection[str]: ...  # noqa: D102
    def link(self, mentions: Sequence[str], top_k: int) -> Sequence[Result]: ...  # noqa: D102
    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows: ...  # noqa: D102


@dataclass(frozen=True)
class Names:
    """The unique names of a dictionary, as a policy normalizes them, in order of first appearance. texts: as first written."""

    texts: list[str]
    owners: NameConcepts

    @classmethod
    def of(cls, space: SearchSpace, policy: TextPolicy) -> "Names":
        """Names that are empty once normalized are left out."""
        normalized = normalize_all(space.rows.names, policy)
        concepts: dict[str, set[str]] = defaultdict(set)
        texts: dict[str, str] = {}
        for name, text, ids in zip(normalized, space.rows.names, space.concept_ids.to_pylist(), strict=True):
            if name:
                concepts[name].update(ids)
                texts.setdefault(name, text)
        lists = pa.array([sorted(concepts[name]) for name in texts], pa.list_(pa.string()))
        return cls(list(texts.values()), NameConcepts.of(lists, pa.array(space.concepts, pa.string())))


@dataclass(frozen=True)
class NameLinker:
    """A search over names → a Linking. over_rows: the same over all rows of the dictionary, for the reference protocol."""

    space: SearchSpace
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
        reasons = [rejection_reason(mention) for mention in mentions]
        terms = [mention for mention, reason in zip(mentions, reasons, strict=True) if reason is None]
        batches = (self._link(terms[start : start + _BATCH], top_k) for start in range(0, len(terms), _BATCH))
        results = (result for batch in batches for result in batch)
        return [
            next(results) if reason is None else Result(m, (), reason)
            for m, reason in zip(mentions, reasons, strict=True)
        ]

    def _link(self, mentions: Sequence[str], top_k: int) -> list[Result]:
        ids, texts = self.space.concepts, self.names.texts
        ranked = rank_concepts(self.search(mentions), self.names.owners, len(mentions), top_k, floor=self.floor)
        results = []
        for mention, *found in zip(mentions, *(array.tolist() for array in ranked), strict=True):
            candidates = tuple(
                Candidate(ids[concept], self.space.preferred.get(ids[concept], texts[row]), texts[row], score)
                for concept, row, score in zip(*found, strict=True)
                if concept != NO_CONCEPT
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
            found.append(np.where(scores > self.floor, rows, NO_CONCEPT))
        return np.concatenate(found)


@dataclass(frozen=True)
class ExactNames:
    """Names looked up as EXACT_MATCH normalizes them: `search` scores 1 where they are equal."""

    rows: dict[str, list[int]]
    count: int

    @classmethod
    def build(cls, names: Sequence[str]) -> "ExactNames":
        """Empty names match nothing."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(normalize_all(names, EXACT_MATCH)):
            if name:
                rows[name].append(row)
        return cls(dict(rows), len(names))

    def search(self, mentions: Sequence[str], k: int) -> tuple[Floats, Rows]:
        """(q, k) scores, 1 or 0, and rows; what stands beside a 0 means nothing."""
        k = min(k, self.count)
        scores, rows = np.zeros((len(mentions), k), np.float32), np.zeros((len(mentions), k), np.int64)
        for i, name in enumerate(normalize_all(mentions, EXACT_MATCH)):
            found = self.rows.get(name, [])[:k]
            scores[i, : len(found)], rows[i, : len(found)] = 1, found
        return scores, rows


def _of_texts(search: Callable[[Sequence[str], int], tuple[Floats, Rows]]) -> Search:
    return lambda mentions: lambda part, k: search([mentions[i] for i in part], k)


def exact(space: SearchSpace) -> NameLinker:
    """Exact match after normalization."""
    names = Names.of(space, EXACT_MATCH)
    found, rows = (_of_texts(ExactNames.build(texts).search) for texts in (names.texts, space.rows.names))
    return NameLinker(space, names, found, rows, 0.0)


def tfidf(space: SearchSpace) -> NameLinker:
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
        fused: NDArray[np.int64] = np.full((len(mentions), k), NO_CONCEPT)
        for i in range(len(mentions)):
            scores: dict[int, float] = defaultdict(float)
            for rows in both:
                for place, row in enumerate(rows[i].tolist(), start=1):
                    if row != NO_CONCEPT:
                        scores[row] += 1 / (FUSION + place)
            best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
            fused[i, : len(best)] = best
        return fused
