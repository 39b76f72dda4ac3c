"""What counts as a hit, how hits become scores with intervals, and whether two systems differ. NumPy only.

Every score is made from ranks: for each query the place, counted from 0, of its first right candidate, and MISS where none is right. The mean
of an empty array is nan, as are its intervals: no queries say nothing. Two systems are compared query by query, for they were asked the same.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xsap.errors import DataError

MISS = -1
RESAMPLES = 1000
_DRAWN = 1 << 22  # indices drawn at once
_ROUNDING = 1e-12  # below it a mean of groups' differences is none: 0.1 + 0.2 - 0.3 is not zero in floating point

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


class Difference(NamedTuple):
    """What a second system has over a first one: of macro means, with its interval and the two-sided p value of there being none."""

    difference: float
    low: float
    high: float
    p: float


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


def bootstrap_interval(
    groups: Sequence[Values], *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of `macro_mean(groups)`, resampled within groups (Efron and Tibshirani 1993, chapter 13).

    One group gives the interval of its mean. The same seed and groups give the same interval; (nan, nan) if a group is empty.
    """
    if not groups or not all(map(len, groups)):
        return math.nan, math.nan
    return _percentiles(_resampled_macro_means(groups, resamples, seed), level)


def paired_bootstrap(
    first: Sequence[Values], second: Sequence[Values], *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> Difference:
    """`macro_mean(second) - macro_mean(first)` with its percentile bootstrap interval, queries resampled within groups.

    first, second: of the same queries in the same order, so that a draw takes a query's values from both, which is to draw the
    differences of the queries. p: twice the share of resampled differences that are zero or on the other side of it, whichever side
    has fewer, at most 1. The share is (1 + those) / (1 + resamples) (Davison and Hinkley 1997, section 4.2), so p is never 0; but for
    that 1 it agrees with the interval. All nan if a group is empty. Raises DataError where the queries can't be the same.
    """
    if len(first) != len(second):
        raise DataError(
            f"two systems are compared on the same groups of queries; found {len(first)} and {len(second)} groups"
        )
    gains = [_gains(*pair) for pair in zip(first, second, strict=True)]
    difference = macro_mean(second) - macro_mean(first)
    if math.isnan(difference):
        return Difference(math.nan, math.nan, math.nan, math.nan)
    means = _resampled_macro_means(gains, resamples, seed)
    means[np.abs(means) < _ROUNDING] = 0.0
    fewer = min(int(np.count_nonzero(means <= 0)), int(np.count_nonzero(means >= 0)))
    p = min(1.0, 2 * (1 + fewer) / (1 + resamples))
    return Difference(difference, *_percentiles(means, level), p)


def mcnemar(first: Values, second: Values) -> float:
    """The exact two-sided p value that two systems are right equally often, from the queries that only one got right (McNemar 1947).

    first, second: `hits` of the same queries in the same order. Of n such queries each is either system's with chance 1/2: p is twice
    the tail of that binomial, at most 1, and 1 if there are none. Raises DataError where the values are no hits of the same queries.
    """
    gains = _gains(first, second)
    if not np.isin(first, (0, 1)).all() or not np.isin(second, (0, 1)).all():
        raise DataError(
            "McNemar's test takes hits, each 0 or 1; found other values. Compare means with paired_bootstrap"
        )
    gained, lost = int(np.count_nonzero(gains > 0)), int(np.count_nonzero(gains < 0))
    n, fewer = gained + lost, min(gained, lost)
    log_last = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2)
    k = np.arange(fewer, 0, -1)
    tail = math.exp(log_last) * (
        1 + float(np.cumprod(k / (n + 1 - k)).sum())
    )  # P(fewer), and each P(k - 1) from P(k): no big numbers
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several comparisons, adjusted so that the chance of any false finding stays below the level (Holm 1979).

    In the order given; nan, a comparison that could not be made, stays nan and isn't counted.
    """
    made = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(made):
        adjusted[place] = highest = min(1.0, max(highest, (len(made) - rank) * p))
    return adjusted


def _gains(first: Values, second: Values) -> Values:
    """(n,) what each query's value gained."""
    if len(first) != len(second):
        raise DataError(
            f"two systems are compared on the same queries; found {len(first):,} and {len(second):,} of them"
        )
    gains: Values = np.subtract(second, first, dtype=np.float64)
    return gains


def _percentiles(means: Values, level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_macro_means(groups: Sequence[Values], resamples: int, seed: int) -> Values:
    """(resamples,) macro means of as many samples of each group."""
    rng = np.random.default_rng(seed)
    means: Values = np.mean([_resampled_means(group, resamples, rng) for group in groups], axis=0)
    return means


def _resampled_means(values: Values, resamples: int, rng: np.random.Generator) -> Values:
    """(resamples,) means of samples of n out of n values, with replacement."""
    n = len(values)
    at_once = max(1, _DRAWN // n)
    return np.concatenate(
        [
            values[rng.integers(n, size=(min(at_once, resamples - start), n))].mean(1)
            for start in range(0, resamples, at_once)
        ]
    )
