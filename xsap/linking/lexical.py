"""Names that look alike: the one home of character n-grams, as cosines of TF-IDF vectors over the names of a dictionary.

A word is padded by a space on each side and cut into all its runs of two and of three characters; a name is the bag of its words'
n-grams. Three code points of 21 bits make one integer, so the vocabulary is a sorted array. For each n-gram the rows that have it are
kept, ascending, with their weights (its postings): nothing but arrays, which `.npy` files hold, and search as well when memory-mapped.

The weights are scikit-learn's `TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True)`, whose defaults are a smooth
idf and the l2 norm: https://scikit-learn.org/stable/modules/feature_extraction.html#tfidf-term-weighting
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsap.linking.search import Floats, Rows
from xsap.text import EXACT_MATCH, normalise_all

SIZES = (2, 3)  # characters of an n-gram: together they find more than either alone, or than longer ones; four would not fit an integer
_BITS = 21  # of a code point; normalising leaves no zeros, so n-grams of different sizes differ
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
            frequencies = np.bincount(place, np.concatenate([frequencies, bags.frequencies]), len(grams)).astype(np.int64)
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
            shares = [_times(self.weights[span], weight) for span, weight in zip(postings, weights, strict=True)] or [np.empty(0)]
            cosines = np.bincount(np.concatenate(common), np.concatenate(shares), self.count).astype(np.float32)
            rows[i] = _top(cosines, k)
            scores[i] = cosines[rows[i]]
        return scores, rows

    def scores(self, mentions: Sequence[str], rows: Rows) -> Floats:
        """(q, c) cosines of each mention with the names in its line of `rows`, (q, c) in any order: those that `search` would give."""
        assert len(mentions) == len(rows), f"{len(mentions)} mentions, rows for {len(rows)}"
        assert not rows.size or 0 <= rows.min() <= rows.max() < self.count, f"rows outside of {self.count} names"
        scores = np.zeros(rows.shape)
        for line, wanted, (postings, weights) in zip(scores, rows.astype(np.int32), self._postings(mentions), strict=True):
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
            spans = [slice(first, last) for first, last in zip(self.starts[gram].tolist(), self.starts[gram + 1].tolist(), strict=True)]
            ends = np.cumsum(np.bincount(rows, minlength=len(part))).tolist()
            for first, last in zip([0, *ends], ends, strict=False):
                yield spans[first:last], weights[first:last]

    def _weigh(self, grams: Integers, rows: Integers, counts: Integers, n: int) -> Weights:
        """(e,) weights: (1 + ln count) · (1 + ln((1 + names) / (1 + names with it))), made unit length for each of n rows.

        grams: by place. A row's come in the same order wherever they are weighed, so that equal bags get equal weights to the last bit.
        """
        values = (1 + np.log(counts)) * (1 + np.log((1 + self.count) / (1 + self.starts[grams + 1] - self.starts[grams])))
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
    padded = [f" {name.replace(' ', '  ')} " if name else "" for name in normalise_all(names, EXACT_MATCH)]
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
