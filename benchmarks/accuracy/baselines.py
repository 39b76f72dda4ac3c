"""Linkers that are not trained: exact names, character n-grams, and the fusion of two systems.

A `DictionaryLinker` links into one dictionary under both protocols: `link` ranks concepts, as a user of the linker sees
them, and `dictionary_rows` ranks rows of the dictionary, as the original SapBERT script does. The systems here
normalize names and mentions by EXACT_MATCH under either protocol.

Character n-grams are compared by the cosine of TF-IDF vectors, with the weights of scikit-learn's
`TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True)`:
https://scikit-learn.org/stable/modules/feature_extraction.html#tfidf-term-weighting. Each word is padded by a space on
both sides and split into all its runs of two and of three characters. Three code points of 21 bits make one integer, so
the vocabulary is a sorted array, and each n-gram has its rows, ascending, with their weights (postings). `Lexicon` is
nothing but arrays, which can be saved as `.npy` files and searched memory-mapped.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.accuracy.dictionary import SearchSpace
from xsap.evaluation.protocols import MentionLinker
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import NGRAM_SIZES
from xsap.linking.mention_weight import RowSearch
from xsap.linking.name_keys import Hit
from xsap.linking.ranking import NO_CONCEPT, NameSearch, put_exact_first, rank_concepts
from xsap.linking.rejection import rejection_reason
from xsap.linking.results import Candidate, Result
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, TextPolicy, normalize_all

FUSED_CANDIDATES = 128  # of each system, that fusion takes into account
RRF_CONSTANT = 60  # of reciprocal rank fusion, as in its paper
NO_NAME_FITS = "no name has anything in common with the mention"
_CODE_POINT_BITS = 21  # normalized names have no zeros, so n-grams of different lengths differ

_Item = TypeVar("_Item", str, int)

MentionSearch = Callable[[Sequence[str]], NameSearch]
"""Mentions → a search for the names nearest to some of them."""


class DictionaryLinker(MentionLinker, Protocol):
    """Anything that links into one dictionary, under both protocols."""

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows: ...  # noqa: D102


@dataclass(frozen=True)
class Lexicon:
    """Names indexed by their character n-grams.

    Attributes:
        count: Number of names.
        grams: (v,) n-grams, ascending.
        starts: (v + 1,) where the postings of each n-gram start.
        rows: (p,) rows of the postings.
        weights: (p,) their weights; the vector of each name has unit length.
        names_per_part: Names or mentions whose n-grams are held at once.
        scores_per_group: Scores that are represented by their maximum in the search for the best ones.
    """

    count: int
    grams: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    weights: Floats
    names_per_part: int = 1 << 15
    scores_per_group: int = 64

    @classmethod
    def build(cls, names: Sequence[str], *, names_per_part: int = 1 << 15, scores_per_group: int = 64) -> "Lexicon":
        """Index names by their n-grams; positions of names are rows, and a blank name has no n-grams."""
        assert len(names) < 1 << 31, "a row is kept in 32 bits"
        parts = range(0, len(names), names_per_part)
        grams, frequencies = np.empty(0, np.int64), np.empty(0, np.int64)
        for start in parts:
            counts = _count_grams(names[start : start + names_per_part])
            grams, position = np.unique(np.concatenate([grams, counts.grams]), return_inverse=True)
            both = np.concatenate([frequencies, counts.frequencies])
            frequencies = np.bincount(position, both, len(grams)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(frequencies)])
        rows, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        lexicon = cls(len(names), grams, starts, rows, weights, names_per_part, scores_per_group)
        free = starts[:-1].copy()  # where the next posting of each n-gram goes
        for start in parts:
            part = names[start : start + names_per_part]
            counts = _count_grams(part)
            gram = np.searchsorted(grams, counts.grams)
            before = np.cumsum(counts.frequencies) - counts.frequencies
            positions = (free[gram] - before)[counts.entries] + np.arange(len(counts.entries))
            rows[positions] = counts.rows + start
            weights[positions] = lexicon._weights(gram[counts.entries], counts.rows, counts.counts, len(part))
            free[gram] += counts.frequencies
        return lexicon

    def search(self, mentions: Sequence[str], k: int, within: Rows | None = None) -> tuple[Floats, Rows]:
        """The k names with the greatest cosine to each mention.

        Args:
            mentions: Mentions; their n-grams that no name has are ignored, also for their length.
            k: Number of names.
            within: The rows that are searched, ascending; None for all.

        Returns:
            (q, min(k, n)) cosines, greatest first, and the rows of the names; equal cosines are ordered by row. A name
            without a common n-gram has cosine 0.
        """
        k = min(k, self.count if within is None else len(within))
        scores, rows = np.zeros((len(mentions), k), np.float32), np.zeros((len(mentions), k), np.int64)
        for i, (spans, weights) in enumerate(self._postings(mentions) if k else ()):
            found = [self.rows[span] for span in spans] or [np.empty(0, np.int32)]
            parts = [_product(self.weights[span], w) for span, w in zip(spans, weights, strict=True)] or [np.empty(0)]
            cosines = np.bincount(np.concatenate(found), np.concatenate(parts), self.count).astype(np.float32)
            best = _top_k(cosines if within is None else cosines[within], k, self.scores_per_group)
            rows[i] = best if within is None else within[best]
            scores[i] = cosines[rows[i]]
        return scores, rows

    def scores(self, mentions: Sequence[str], rows: Rows) -> Floats:
        """Cosines of mentions with given names, equal to those of `search`.

        Args:
            mentions: q mentions.
            rows: (q, c) rows of names, in any order.

        Returns:
            (q, c) cosines.
        """
        assert len(mentions) == len(rows), f"{len(mentions)} mentions, rows for {len(rows)}"
        assert not rows.size or 0 <= rows.min() <= rows.max() < self.count, f"rows outside of {self.count} names"
        scores = np.zeros(rows.shape)
        wanted_rows = rows.astype(np.int32)
        for line, wanted, (spans, weights) in zip(scores, wanted_rows, self._postings(mentions), strict=True):
            for span, weight in zip(spans, weights, strict=True):
                i = np.minimum(np.searchsorted(self.rows[span], wanted), span.stop - span.start - 1)
                line += np.where(self.rows[span][i] == wanted, _product(self.weights[span][i], weight), 0)
        return scores.astype(np.float32)

    def _postings(self, mentions: Sequence[str]) -> Iterator[tuple[list[slice], NDArray[np.float64]]]:
        """For each mention: the spans of its n-grams' postings, ascending, and the n-grams' weights in the mention."""
        for start in range(0, len(mentions), self.names_per_part):
            part = mentions[start : start + self.names_per_part]
            counts = _count_grams(part)
            gram = np.searchsorted(self.grams, counts.grams)
            known = (np.searchsorted(self.grams, counts.grams, side="right") > gram)[counts.entries]
            order = np.flatnonzero(known)[np.argsort(counts.rows[known], kind="stable")]
            gram, rows = gram[counts.entries[order]], counts.rows[order]
            weights = self._weights(gram, rows, counts.counts[order], len(part))
            limits = zip(self.starts[gram].tolist(), self.starts[gram + 1].tolist(), strict=True)
            spans = [slice(*pair) for pair in limits]
            ends = np.cumsum(np.bincount(rows, minlength=len(part))).tolist()
            for first, last in pairwise([0, *ends]):
                yield spans[first:last], weights[first:last]

    def _weights(
        self, grams: NDArray[np.int64], rows: NDArray[np.int64], counts: NDArray[np.int64], n: int
    ) -> NDArray[np.float64]:
        """(e,) weights: (1 + ln count) · (1 + ln((1 + names) / (1 + names with it))), each of n rows of unit length.

        The n-grams (as positions) of a row have the same order in every call, so equal bags get equal weights to the
        last bit.
        """
        frequencies = self.starts[grams + 1] - self.starts[grams]
        values = (1 + np.log(counts)) * (1 + np.log((1 + self.count) / (1 + frequencies)))
        unit: NDArray[np.float64] = values / np.sqrt(np.bincount(rows, values**2, n))[rows]
        return unit


def _product(weights: Floats, weight: float) -> NDArray[np.float64]:
    """In float64, so that a cosine is rounded once."""
    product: NDArray[np.float64] = np.multiply(weights, weight, dtype=np.float64)
    return product


class _GramCounts(NamedTuple):
    """n-grams of names, (v,) ascending, each with its number of names; and (e,) pairs of n-gram and name with their counts."""

    grams: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    entries: NDArray[np.int64]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]


def _count_grams(names: Sequence[str]) -> _GramCounts:
    padded = [f" {name.replace(' ', '  ')} " if name else "" for name in normalize_all(names, EXACT_MATCH)]
    rows = np.repeat(np.arange(len(padded)), np.fromiter(map(len, padded), np.int64, len(padded)))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    words = (np.cumsum(codes == ord(" ")) + 1) // 2  # each word has a space before and after it
    keys, key_rows = [], []
    for size in NGRAM_SIZES:
        n = max(0, len(codes) - size + 1)
        inside = words[:n] == words[size - 1 :]
        key = np.zeros(n, np.int64)
        for i in range(size):
            key = key << _CODE_POINT_BITS | codes[i : i + n]
        keys.append(key[inside])
        key_rows.append(rows[:n][inside])
    grams, gram = np.unique(np.concatenate(keys), return_inverse=True)
    pairs, counts = np.unique(gram * len(names) + np.concatenate(key_rows), return_counts=True)
    entries = pairs // max(1, len(names))
    frequencies = np.bincount(entries, minlength=len(grams))
    return _GramCounts(grams, frequencies, entries, pairs - entries * len(names), counts)


def _top_k(scores: Floats, k: int, scores_per_group: int) -> Rows:
    """The positions of the k greatest scores, greatest first, equal ones by position.

    The k best are in groups whose maxima are at least the k-th greatest maximum.
    """
    groups = len(scores) // scores_per_group
    grouped = scores[: groups * scores_per_group].reshape(groups, scores_per_group)
    maxima = grouped.max(1) if groups > 4 * k else scores
    least = np.partition(maxima, len(maxima) - k)[len(maxima) - k]
    chosen = np.flatnonzero(scores >= least)
    return chosen[np.argsort(-scores[chosen], kind="stable")[:k]]


@dataclass(frozen=True)
class UniqueNames:
    """The names of a dictionary that differ after normalization, as first written and in that order, and their concepts."""

    texts: list[str]
    concepts: NameConcepts

    @classmethod
    def from_space(cls, space: SearchSpace, policy: TextPolicy) -> "UniqueNames":
        """The names of a dictionary; names that are empty after normalization are left out."""
        concepts: dict[str, set[str]] = defaultdict(set)
        texts: dict[str, str] = {}
        rows = zip(
            normalize_all(space.rows.names, policy), space.rows.names, space.concept_ids.to_pylist(), strict=True
        )
        for name, text, ids in rows:
            if name:
                concepts[name].update(ids)
                texts.setdefault(name, text)
        lists = pa.array([sorted(concepts[name]) for name in texts], pa.list_(pa.string()))
        return cls(list(texts.values()), NameConcepts.from_ids(lists, pa.array(space.concepts, pa.string())))


@dataclass(frozen=True)
class NameLinker:
    """A DictionaryLinker over a search for names.

    Attributes:
        space: The dictionary.
        names: Its unique names.
        search: Searches `names`, for the concept protocol.
        row_search: Searches all rows of the dictionary, for the reference protocol.
        min_score: Names with this score or less are no candidates.
        mentions_per_batch: Mentions searched at once.
        exact: What finds the concepts that come first because a mention names them; None where only scores decide.
    """

    space: SearchSpace
    names: UniqueNames
    search: MentionSearch
    row_search: MentionSearch
    min_score: float
    mentions_per_batch: int = 2048
    exact: Callable[[str], list[Hit]] | None = None

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.space.concepts

    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str] | None = None) -> list[Result]:  # noqa: ARG002
        """A result for each mention; without candidates, but with a reason, if no name fits or the mention is rejected."""
        reasons = [rejection_reason(mention) for mention in mentions]
        accepted = [mention for mention, reason in zip(mentions, reasons, strict=True) if reason is None]
        linked = (result for batch in self._batches(accepted) for result in self._link(batch, top_k))
        pairs = zip(mentions, reasons, strict=True)
        return [next(linked) if reason is None else Result(mention, (), reason) for mention, reason in pairs]

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """(q, k) rows of the dictionary, best first, equal ones by row; NO_CONCEPT where no more names fit."""
        k = min(k, len(self.space.rows.names))
        found = [np.empty((0, k), np.int64)]
        for batch in self._batches(mentions):
            scores, rows = self.row_search(batch)(np.arange(len(batch)), k)
            found.append(np.where(scores > self.min_score, rows, NO_CONCEPT))
        return np.concatenate(found)

    def _batches(self, mentions: Sequence[str]) -> Iterator[Sequence[str]]:
        for start in range(0, len(mentions), self.mentions_per_batch):
            yield mentions[start : start + self.mentions_per_batch]

    def _link(self, mentions: Sequence[str], top_k: int) -> list[Result]:
        ids, texts, preferred = self.space.concepts, self.names.texts, self.space.preferred
        ranked = rank_concepts(
            self.search(mentions), self.names.concepts, len(mentions), top_k, min_score=self.min_score
        )
        if self.exact is not None:
            hits = [self.exact(mention) for mention in mentions]
            put_exact_first(ranked, hits, [[hit.score for hit in own] for own in hits])
        results = []
        for mention, *found in zip(mentions, *(array.tolist() for array in ranked), strict=True):
            candidates = tuple(
                Candidate(ids[concept], preferred.get(ids[concept], texts[row]), texts[row], score)
                for concept, row, score in zip(*found, strict=True)
                if concept != NO_CONCEPT
            )
            results.append(Result(mention, candidates, None if candidates else NO_NAME_FITS))
        return results


@dataclass(frozen=True)
class ExactNames:
    """Names looked up after normalization by EXACT_MATCH."""

    rows: dict[str, list[int]]
    count: int

    @classmethod
    def build(cls, names: Sequence[str]) -> "ExactNames":
        """Index names; empty ones match nothing."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(normalize_all(names, EXACT_MATCH)):
            if name:
                rows[name].append(row)
        return cls(dict(rows), len(names))

    def search(self, mentions: Sequence[str], k: int, within: Rows | None = None) -> tuple[Floats, Rows]:
        """(q, k) scores, 1 for an equal name or 0, and rows; a row with score 0 has no meaning. within: the rows that are searched."""
        k = min(k, self.count if within is None else len(within))
        allowed = None if within is None else set(within.tolist())
        scores, rows = np.zeros((len(mentions), k), np.float32), np.zeros((len(mentions), k), np.int64)
        for i, name in enumerate(normalize_all(mentions, EXACT_MATCH)):
            found = [row for row in self.rows.get(name, []) if allowed is None or row in allowed][:k]
            scores[i, : len(found)], rows[i, : len(found)] = 1, found
        return scores, rows


def exact_linker(space: SearchSpace) -> NameLinker:
    """Exact match after normalization."""
    return _lexical_linker(space, ExactNames.build)


def tfidf_linker(space: SearchSpace) -> NameLinker:
    """Cosine of character n-grams, weighted by inverse document frequency."""
    return _lexical_linker(space, Lexicon.build)


def search_rows_by_ngrams(names: Sequence[str]) -> Callable[[Sequence[str]], RowSearch]:
    """Mentions → a search by character n-grams for the names nearest to some of them, among given rows."""
    index = Lexicon.build(names)
    return lambda mentions: lambda part, k, rows: index.search([mentions[i] for i in part], k, rows)


def search_rows_by_equality(names: Sequence[str]) -> Callable[[Sequence[str]], RowSearch]:
    """Mentions → a search for the names that equal some of them, among given rows."""
    index = ExactNames.build(names)
    return lambda mentions: lambda part, k, rows: index.search([mentions[i] for i in part], k, rows)


def _lexical_linker(space: SearchSpace, build: Callable[[Sequence[str]], ExactNames | Lexicon]) -> NameLinker:
    def search_of(texts: Sequence[str]) -> MentionSearch:
        index = build(texts)
        return lambda mentions: lambda part, k: index.search([mentions[i] for i in part], k)

    names = UniqueNames.from_space(space, EXACT_MATCH)
    return NameLinker(space, names, search_of(names.texts), search_of(space.rows.names), 0.0)


@dataclass(frozen=True)
class FusedLinker:
    """Two systems by reciprocal rank fusion: a candidate scores the sum of 1 / (60 + its rank from 1) over both.

    Cormack, Clarke and Büttcher, SIGIR 2009 (Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods). The first FUSED_CANDIDATES of each are taken; equal scores are ordered by concept_id, or by row. A concept
    is shown with the name by which `first` found it, if it did.
    """

    first: DictionaryLinker
    second: DictionaryLinker

    @property
    def concept_ids(self) -> Collection[str]:
        """Every concept that can be an answer."""
        return self.first.concept_ids

    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str] | None = None) -> list[Result]:
        """A result for each mention."""
        results = (system.link(mentions, FUSED_CANDIDATES, languages=languages) for system in (self.first, self.second))
        return [_fuse_results(one, other, top_k) for one, other in zip(*results, strict=True)]

    def dictionary_rows(self, mentions: Sequence[str], k: int) -> Rows:
        """As NameLinker's."""
        ranked = [system.dictionary_rows(mentions, FUSED_CANDIDATES).tolist() for system in (self.first, self.second)]
        fused: Rows = np.full((len(mentions), k), NO_CONCEPT, np.int64)
        for i, lists in enumerate(zip(*ranked, strict=True)):
            scores = _fused_scores([[row for row in rows if row != NO_CONCEPT] for rows in lists])
            best = sorted(scores, key=lambda row: (-scores[row], row))[:k]
            fused[i, : len(best)] = best
        return fused


def _fuse_results(one: Result, other: Result, top_k: int) -> Result:
    scores = _fused_scores([[candidate.concept_id for candidate in result.candidates] for result in (one, other)])
    shown = {candidate.concept_id: candidate for candidate in (*other.candidates, *one.candidates)}
    best = sorted(scores, key=lambda concept: (-scores[concept], concept))[:top_k]
    candidates = tuple(Candidate(c, shown[c].name, shown[c].matched_name, scores[c]) for c in best)
    return Result(one.mention, candidates, None if candidates else one.reason)


def _fused_scores(lists: Sequence[Sequence[_Item]]) -> dict[_Item, float]:
    scores: dict[_Item, float] = defaultdict(float)
    for items in lists:
        for rank, item in enumerate(items, start=1):
            scores[item] += 1 / (RRF_CONSTANT + rank)
    return scores
