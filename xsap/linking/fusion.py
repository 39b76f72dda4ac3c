"""Lexical fusion: how much a name that is spelt like the mention may gain on one that means the same; off unless a weight was fitted.

Only the nearest POOL names by cosine are looked at: names that n-grams alone bring up added nothing on HPO. Likeness is never negative, so
no name outside of the pool can overtake one in it, and an order by the weighted mean of both is an order of all names. N-grams count alike,
however frequent they are in the dictionary: weighing them by rarity made no difference, and so an index has nothing to store but a number.
"""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from xsap.linking.dictionary import values_at
from xsap.linking.ranking import NameSearch
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, normalize

SIZES = (
    2,
    3,
)  # characters of an n-gram: together they find more than either alone, or than longer ones; four would not fit an integer
POOL = 32
_PART = 256  # mentions whose names' n-grams are held at once


def grams(name: str) -> frozenset[str]:
    """All runs of SIZES characters of a name's words, each word with a space on both sides; none of a blank name."""
    words = [f" {word} " for word in normalize(name, EXACT_MATCH).split(" ") if word]
    return frozenset(
        word[start : start + size] for word in words for size in SIZES for start in range(len(word) - size + 1)
    )


def string_similarity(mentions: Sequence[str], rows: Rows, names: pa.ChunkedArray) -> Floats:
    """(q, c) in [0, 1]: cosines of the sets of n-grams of each mention and of the names in its line of `rows`, (q, c).

    |A ∩ B| / √(|A| |B|), the coefficient of Ochiai (Bulletin of the Japanese Society of Scientific Fisheries 22, 1957); 0 for a blank.
    """
    scores = np.zeros(rows.shape, np.float32)
    for start in range(0, len(mentions), _PART):
        part = rows[start : start + _PART]
        different, places = np.unique(part, return_inverse=True)
        bags = [grams(name) for name in values_at(names, different.tolist())]
        for i, among in enumerate(places.reshape(part.shape), start):
            own = grams(mentions[i])
            scores[i] = [
                len(own & bags[place]) / math.sqrt(len(own) * len(bags[place]) or 1) for place in among.tolist()
            ]
    return scores


def fuse(cosines: Floats, rows: Rows, alike: Floats, weight: float) -> tuple[Floats, Rows]:
    """Names in their new order, greatest score first, equal ones by row: (1 - weight) · cosine + weight · likeness.

    cosines, rows: (q, c), best first. alike: (q, p) `string_similarity` of the first p of them; it is taken to be 0 of the others. weight: 0 to 1.
    """
    scores = np.float32(1 - weight) * cosines
    scores[:, : alike.shape[1]] += np.float32(weight) * alike
    order = np.lexsort((rows, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def fused(find: NameSearch, mentions: Sequence[str], names: pa.ChunkedArray, weight: float) -> NameSearch:
    """`find` with its nearest POOL names in the order of `fuse`; it must bear being asked for more names than there are.

    mentions: by the number of the query. names: by their row.
    """

    def found(part: Rows, k: int) -> tuple[Floats, Rows]:
        cosines, rows = find(part, max(k, POOL))
        alike = string_similarity([mentions[query] for query in part.tolist()], rows[:, :POOL], names)
        scores, rows = fuse(cosines, rows, alike, weight)
        return scores[:, :k], rows[:, :k]

    return found
