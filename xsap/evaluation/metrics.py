"""What counts as a hit, how hits become scores with intervals, and whether two systems differ. NumPy only.

Every score is made from ranks: for each query the position, counted from 0, of its first right candidate, and MISS where none is right. The
mean of an empty array is nan, as are its intervals. Two systems are compared query by query, because they answered the same queries.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from xsap.errors import DataError

MISS = -1
RESAMPLES = 1000
INDICES_PER_DRAW = 1 << 22
_ROUNDING = 1e-12  # below it a mean of groups' differences is none: 0.1 + 0.2 - 0.3 is not zero in floating point

Ranks = NDArray[np.int64]
Values = NDArray[np.float64]


class Difference(NamedTuple):
    """The macro mean of a second system less that of a first one, with its interval and two-sided p value."""

    difference: float
    low: float
    high: float
    p: float


class Score(NamedTuple):
    """A score in [0, 1] with its 95 % bootstrap interval; None, once read from a file, if it is not a number."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Scores of some mentions.

    Attributes:
        n: Number of mentions.
        scores: Metric, such as acc@1 or mrr → score.
        gold_not_in_dictionary: Mentions none of whose gold concepts is in the dictionary, so that every answer is wrong; None where they were
            not counted.
    """

    n: int
    scores: Mapping[str, Score]
    gold_not_in_dictionary: int | None = None

    @classmethod
    def from_ranks(
        cls, groups: Sequence[Ranks], cuts: Mapping[str, int], *, seed: int, gold_not_in_dictionary: int | None = None
    ) -> Self:
        """Accuracies at some k, and MRR.

        Args:
            groups: (n,) ranks of each group of mentions, such as a language; groups have equal weight.
            cuts: Metric → its k, such as {"acc@5": 5}.
            seed: Of the bootstrap.
            gold_not_in_dictionary: See the attribute.
        """
        values = {metric: [hits(ranks, k) for ranks in groups] for metric, k in cuts.items()}
        values["mrr"] = [reciprocal_ranks(ranks) for ranks in groups]
        scores = {
            metric: Score(macro_mean(each), *bootstrap_interval(each, seed=seed)) for metric, each in values.items()
        }
        return cls(sum(map(len, groups)), scores, gold_not_in_dictionary)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each score as `acc@1` and `acc@1_interval`."""
        row: dict[str, Any] = {"n": self.n}
        if self.gold_not_in_dictionary is not None:
            row["gold_not_in_dictionary"] = self.gold_not_in_dictionary
        for metric, score in self.scores.items():
            row |= {metric: score.value, f"{metric}_interval": [score.low, score.high]}
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        metrics = [key.removesuffix("_interval") for key in row if key.endswith("_interval")]
        scores = {metric: Score(row[metric], *row[f"{metric}_interval"]) for metric in metrics}
        return cls(row["n"], scores, row.get("gold_not_in_dictionary"))


def rank_of(candidates: Iterable[Collection[str]], gold: Collection[str]) -> int:
    """The rank of the first candidate that has an id in common with `gold`; MISS if none has. candidates: the ids of each, best first.

    >>> rank_of([["C1"], ["C2", "C3"]], ["C3"]), rank_of([["C1"]], ["C3"])
    (1, -1)
    """
    wanted = set(gold)
    return next((rank for rank, ids in enumerate(candidates) if not wanted.isdisjoint(ids)), MISS)


def rank_of_all(ranks: Sequence[int]) -> int:
    """The rank of a query of several parts, all of which must be hit: that of its worst part.

    >>> rank_of_all([0, 2]), rank_of_all([0, MISS])
    (2, -1)
    """
    return MISS if MISS in ranks else max(ranks)


def split_ids(identifiers: str) -> frozenset[str]:
    """`D1|D2` (either is right) and `D1+D2` (a composite) as a set of ids, since the original evaluation treats both alike.

    Blanks around an id are no part of it, and an empty one is none.

    >>> sorted(split_ids("D1| D2 +D3|"))
    ['D1', 'D2', 'D3']
    """
    return frozenset(part.strip() for part in identifiers.replace("+", "|").split("|") if part.strip())


def hits(ranks: Ranks, k: int) -> Values:
    """(n,) 1.0 where the first right candidate is among the first k, else 0.0. Their mean is Acc@k.

    >>> hits(np.array([0, 4, MISS]), 1).tolist()
    [1.0, 0.0, 0.0]
    """
    hit: NDArray[np.bool_] = (ranks != MISS) & (ranks < k)
    return hit.astype(np.float64)


def reciprocal_ranks(ranks: Ranks) -> Values:
    """(n,) 1 / (rank + 1), and 0 for a miss. Their mean is the MRR.

    >>> reciprocal_ranks(np.array([0, 3, MISS])).tolist()
    [1.0, 0.25, 0.0]
    """
    values: Values = np.where(ranks == MISS, 0.0, 1.0 / (np.where(ranks == MISS, 0, ranks) + 1.0))
    return values


def mean(values: Values) -> float:
    """The mean; nan of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def macro_mean(groups: Sequence[Values]) -> float:
    """The mean of the groups' means, each group with equal weight however large; nan of nothing.

    >>> macro_mean([np.array([1.0, 1.0, 1.0]), np.array([0.0])])
    0.5
    """
    return mean(np.array([mean(group) for group in groups], np.float64))


def bootstrap_interval(
    groups: Sequence[Values], *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """The percentile bootstrap interval of `macro_mean(groups)`, resampled within groups (Efron and Tibshirani 1993, chapter 13).

    Args:
        groups: (n,) values of each group; one group gives the interval of its mean.
        seed: The same seed and groups give the same interval.
        resamples: Number of resamples.
        level: Probability that the interval should cover.

    Returns:
        The ends of the interval; (nan, nan) if a group is empty.
    """
    if not groups or not all(map(len, groups)):
        return math.nan, math.nan
    return _percentiles(_resampled_macro_means(groups, resamples, seed), level)


def paired_bootstrap(
    first: Sequence[Values], second: Sequence[Values], *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> Difference:
    """`macro_mean(second) - macro_mean(first)` with its percentile bootstrap interval, queries resampled within groups.

    p is twice the fraction of resampled differences that are zero or of the rarer sign, at most 1. The fraction is (1 + those) / (1 +
    resamples) (Davison and Hinkley 1997, section 4.2), so p is never 0; but for that 1 it agrees with the interval. All nan if a group is
    empty.

    Args:
        first: (n,) values of each group of queries, of the first system.
        second: The same queries' values in the same order, of the second system; a draw takes the difference of a query.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Of the interval.

    Raises:
        DataError: The two do not have the same number of queries.
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

    Each of n such queries is either system's with probability 1/2: p is twice the tail of that binomial, at most 1, and 1 if there are none.

    Args:
        first: (n,) `hits` of the first system.
        second: (n,) `hits` of the second system for the same queries in the same order.

    Raises:
        DataError: The values are not hits of the same queries.
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
    made = sorted((p, position) for position, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, position) in enumerate(made):
        adjusted[position] = highest = min(1.0, max(highest, (len(made) - rank) * p))
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
    per_draw = max(1, INDICES_PER_DRAW // n)
    return np.concatenate(
        [
            values[rng.integers(n, size=(min(per_draw, resamples - start), n))].mean(1)
            for start in range(0, resamples, per_draw)
        ]
    )
