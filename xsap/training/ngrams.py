"""Names as sparse vectors of character n-grams, and the names that are most similar to a mention by them.

Two kinds of weights: those of `linking.fusion`, so that a weight learned in training is one that an index ranks by, and TF-IDF as BioSyn has it.
Names are searched by an inverted list: of all names only those count that have an n-gram in common with the mention.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from xsap.linking.fusion import grams
from xsap.search.vectors import Floats, Rows
from xsap.text import TextPolicy, normalize

Bag = dict[str, float]  # n-gram → weight; the squares of the weights add up to 1, or there is no n-gram
_LOWER = TextPolicy(case="lower", unicode="none")
_BLANKS = re.compile(r"\s\s+")


def set_of_grams(name: str) -> Bag:
    """The n-grams of `linking.fusion.grams` with equal weights, so that dot products are its string similarity."""
    found = grams(name)
    return dict.fromkeys(sorted(found), 1 / math.sqrt(len(found))) if found else {}


def tf_idf(names: Sequence[str]) -> Callable[[str], Bag]:
    """TF-IDF of single characters and pairs of them, fitted on a dictionary (Sung et al., ACL 2020, section 3.1).

    The weights are those of scikit-learn's `TfidfVectorizer(analyzer="char", ngram_range=(1, 2))`, which BioSyn uses: counts times
    ln((1 + n) / (1 + names with the n-gram)) + 1, scaled to length 1; an n-gram that no name has is left out.

    Args:
        names: The dictionary.

    Returns:
        Name → its n-grams.
    """
    documents = Counter(gram for name in names for gram in set(_characters(name)))
    rarity = {gram: math.log((1 + len(names)) / (1 + count)) + 1 for gram, count in documents.items()}

    def to_bag(name: str) -> Bag:
        bag = {gram: count * rarity[gram] for gram, count in Counter(_characters(name)).items() if gram in rarity}
        length = math.sqrt(sum(weight * weight for weight in bag.values()))
        return {gram: weight / length for gram, weight in bag.items()}

    return to_bag


def _characters(name: str) -> list[str]:
    """All characters of a name in lower case and all pairs of neighbors, repetitions included."""
    text = _BLANKS.sub(" ", normalize(name, _LOWER))
    return [*text, *map("".join, itertools.pairwise(text))]


class NgramNames:
    """Names by their n-grams.

    Args:
        bags: The n-grams of each of n names.
    """

    def __init__(self, bags: Iterable[Bag]) -> None:
        self._numbers: dict[str, int] = {}
        counts, grams_of, weights = [0], list[int](), list[float]()
        for bag in bags:
            grams_of += [self._numbers.setdefault(gram, len(self._numbers)) for gram in bag]
            weights += bag.values()
            counts.append(len(grams_of))
        self._starts = np.array(counts, np.int64)
        self._grams, self._weights = np.array(grams_of, np.int64), np.array(weights, np.float64)
        names = np.repeat(np.arange(len(counts) - 1), np.diff(self._starts))
        order = np.argsort(self._grams, kind="stable")
        self._names, self._list_weights = names[order], self._weights[order]
        self._list_starts = np.searchsorted(self._grams[order], np.arange(len(self._numbers) + 1))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def nearest(self, bags: Sequence[Bag], k: int) -> Rows:
        """The most similar names of each mention, best first, equal ones by row.

        Args:
            bags: The n-grams of each of q mentions.
            k: Names of each.

        Returns:
            (q, min(k, n)) int64.
        """
        k = min(k, len(self))
        rows = np.empty((len(bags), k), np.int64)
        for i, bag in enumerate(bags):
            scores = self._scores_of_all(bag)
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            chosen = np.flatnonzero(scores >= least)
            rows[i] = chosen[np.lexsort((chosen, -scores[chosen]))[:k]]
        return rows

    def scores(self, bags: Sequence[Bag], rows: Rows) -> Floats:
        """Dot products of mentions with some names.

        Args:
            bags: The n-grams of each of q mentions.
            rows: (q, c) the names of each.

        Returns:
            (q, c) float32 in [0, 1].
        """
        scores = np.zeros(rows.shape, np.float32)
        own = np.zeros(len(self._numbers))
        for i, bag in enumerate(bags):
            known = [(self._numbers[gram], weight) for gram, weight in bag.items() if gram in self._numbers]
            numbers = [number for number, _ in known]
            own[numbers] = [weight for _, weight in known]
            for j, row in enumerate(rows[i].tolist()):
                part = slice(self._starts[row], self._starts[row + 1])
                scores[i, j] = own[self._grams[part]] @ self._weights[part]
            own[numbers] = 0
        return scores

    def _scores_of_all(self, bag: Bag) -> NDArray[np.float64]:
        lists = [
            (weight, slice(self._list_starts[number], self._list_starts[number + 1]))
            for gram, weight in bag.items()
            if (number := self._numbers.get(gram)) is not None
        ]
        if not lists:
            return np.zeros(len(self))
        names = np.concatenate([self._names[part] for _, part in lists])
        products = np.concatenate([weight * self._list_weights[part] for weight, part in lists])
        # rounded, so that names of the same n-grams tie whatever the order of summation
        return np.round(np.bincount(names, products, len(self)), 12)
