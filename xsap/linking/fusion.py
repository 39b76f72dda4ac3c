"""Lexical fusion: names are scored by string similarity in addition to cosine similarity. Off unless a weight was fitted.

Only the nearest POOL names by cosine are compared with the mention: names that n-grams alone would find added nothing on HPO. String
similarity is never negative, so no name outside the pool can overtake one in it, and ordering the pool by the weighted mean of cosine and
similarity orders all names. All n-grams have equal weight, however frequent they are in the dictionary: weighting them by rarity made no difference,
so an index stores nothing but one number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from xsap.linking.dictionary import values_at
from xsap.linking.ranking import NameSearch
from xsap.search.vectors import Floats, Rows
from xsap.text import fold_case

NGRAM_SIZES = (
    2,
    3,
)  # characters of an n-gram: both find more than either, or than longer ones; four would not fit an integer
POOL = 32
MENTIONS_PER_PART = 256  # mentions for whose names n-grams are held at once


def grams(name: str) -> frozenset[str]:
    """All runs of SIZES characters of a name's words, each word with a space on both sides; none of a blank name."""
    words = [f" {word} " for word in fold_case(name).split(" ") if word]
    return frozenset(
        word[start : start + size] for word in words for size in NGRAM_SIZES for start in range(len(word) - size + 1)
    )


def string_similarity(
    mentions: Sequence[str], rows: Rows, names: pa.ChunkedArray, *, mentions_per_part: int = MENTIONS_PER_PART
) -> Floats:
    """Cosines of the sets of n-grams of each mention and of some names: |A ∩ B| / √(|A| |B|).

    The coefficient of Ochiai (Bulletin of the Japanese Society of Scientific Fisheries 22, 1957).

    Args:
        mentions: q mentions.
        rows: (q, c) int64: the names that each mention is compared with.
        names: All names, by row.
        mentions_per_part: Mentions for whose names n-grams are held at once.

    Returns:
        (q, c) float32 in [0, 1]; 0 for a blank mention or name.
    """
    scores = np.zeros(rows.shape, np.float32)
    for start in range(0, len(mentions), mentions_per_part):
        part = rows[start : start + mentions_per_part]
        different, positions = np.unique(part, return_inverse=True)
        bags = [grams(name) for name in values_at(names, different.tolist())]
        for i, compared in enumerate(positions.reshape(part.shape), start):
            own = grams(mentions[i])
            scores[i] = [len(own & bags[j]) / math.sqrt(len(own) * len(bags[j]) or 1) for j in compared.tolist()]
    return scores


def fuse(cosines: Floats, rows: Rows, similarity: Floats, weight: float) -> tuple[Floats, Rows]:
    """Order names by (1 - weight) · cosine + weight · similarity, greatest first, equal ones by row.

    Args:
        cosines: (q, c) float32, greatest first.
        rows: (q, c) int64.
        similarity: (q, p) float32, `string_similarity` of the first p names; that of the others is taken to be 0.
        weight: 0 to 1.

    Returns:
        Scores and rows, (q, c) each, in their new order.
    """
    scores = np.float32(1 - weight) * cosines
    scores[:, : similarity.shape[1]] += np.float32(weight) * similarity
    order = np.lexsort((rows, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


@dataclass(frozen=True)
class FusedSearch:
    """A search for names whose nearest `pool` names are ordered by `fuse`.

    Attributes:
        search: Finds names by cosine. It may be asked for more names than there are.
        mentions: The mention of each query.
        names: All names, by row.
        weight: 0 to 1.
        pool: How many names of each mention are compared with it.
    """

    search: NameSearch
    mentions: Sequence[str]
    names: pa.ChunkedArray
    weight: float
    pool: int = POOL

    def __call__(self, part: Rows, k: int) -> tuple[Floats, Rows]:
        """Scores and rows of the k best names for some queries, as a `NameSearch`.

        Args:
            part: (q,) int64, the numbers of the queries.
            k: At most the number of names.
        """
        cosines, rows = self.search(part, max(k, self.pool))
        mentions = [self.mentions[query] for query in part.tolist()]
        similarity = string_similarity(mentions, rows[:, : self.pool], self.names)
        scores, rows = fuse(cosines, rows, similarity, self.weight)
        return scores[:, :k], rows[:, :k]
