"""What counts as a hit, and how hits become scores with intervals. NumPy only.

Every score is made from ranks: for each query the place, counted from 0, of its first right candidate, and MISS where none is right. The mean
of an empty array is nan, as are its intervals: no queries say nothing.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MISS = -1
RESAMPLES = 1000
_DRAWN = 1 << 22  # indices drawn at once

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


def rank_of(candidates: Iterable[Collection[str]], gold: Collection[str]) -> int:
    """The place of the first candidate that has an id in common with `gold`; MISS if none has. candidates: the ids of each, best first."""
    wanted = set(gold)
    return next((place for place, ids in enumerate(candidates) if not wanted.isdisjoint(ids)), MISS)


def rank_of_all(ranks: Sequence[int]) -> int:
    """The rank of a query of several parts, all of which must be hit: that of its worst part."""
    return MISS if MISS in ranks else max(ranks)


def split_ids(identifiers: str) -> frozenset[str]:
    """`D1|D2` (either is right) and `D1+D2` (a composite) as a set of ids, which the original evaluation doesn't tell apart."""
    return frozenset(identifiers.replace("+", "|").split("|"))


def hits(ranks: Ranks, k: int) -> Values:
    """(n,) 1.0 where the first right candidate is among the first k, else 0.0. Their mean is Acc@k."""
    hit: NDArray[np.bool_] = (ranks != MISS) & (ranks < k)
    return hit.astype(np.float64)


def reciprocal_ranks(ranks: Ranks) -> Values:
    """(n,) 1 / (rank + 1), and 0 for a miss. Their mean is the MRR."""
    values: Values = np.where(ranks == MISS, 0.0, 1.0 / (np.where(ranks == MISS, 0, ranks) + 1.0))
    return values


def mean(values: Values) -> float:
    """The mean; nan of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def macro_mean(groups: Sequence[Values]) -> float:
    """The mean of the groups' means, each group alike however large; nan of nothing."""
    return mean(np.array([mean(group) for group in groups], np.float64))


def bootstrap_interval(groups: Sequence[Values], *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of `macro_mean(groups)`, resampled within groups (Efron and Tibshirani 1993, chapter 13).

    One group gives the interval of its mean. The same seed and groups give the same interval; (nan, nan) if a group is empty.
    """
    if not groups or not all(map(len, groups)):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(group, resamples, rng) for group in groups], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: Values, resamples: int, rng: np.random.Generator) -> Values:
    """(resamples,) means of samples of n out of n values, with replacement."""
    n = len(values)
    at_once = max(1, _DRAWN // n)
    return np.concatenate(
        [values[rng.integers(n, size=(min(at_once, resamples - start), n))].mean(1) for start in range(0, resamples, at_once)]
    )
