"""Answering where one is sure and abstaining elsewhere: risk against coverage, and from which confidence on answers keep a precision.

Precision is the share of answers that are right. To promise it, a threshold must not be the luckiest of many: so thresholds are tested one
after another, in an order that no outcome has a say in, each by an exact test, and the first that fails ends it. Mentions of one concept
tend to be right or wrong together, so they count for fewer than they are: on HPO's for one half to two thirds. Some hundred are needed:
59 independent answers without a mistake for 0.95, 149 for 0.98. The promise is of fresh mentions of the same mixture: of languages, and of
mentions that have no concept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from xsap.errors import ConfigError

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

CERTAINTY = 0.95  # of a promised precision
_POINTS = 200  # of a curve, at most
_EXPECTED = 5  # mistakes


@dataclass(frozen=True, slots=True)
class Curve:
    """Of a sample of mentions, those whose confidence is at least `threshold`: how many are `answered`, how many of them are `right`, and
    their mean confidence, `expected`. Thresholds fall strictly; the last row is all mentions.

    effect: their design effect. Raises ValueError if that can't be.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)
    threshold: tuple[float, ...]
    answered: tuple[int, ...]
    right: tuple[int, ...]
    expected: tuple[float, ...]
    effect: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.threshold, self.answered, self.right, self.expected, self.effect)
        if len({len(column) for column in columns}) != 1 or not self.threshold:
            raise ValueError("a curve needs as many of each, and at least one")
        if not all(0 <= value <= 1 for value in (*self.threshold, *self.expected)):
            raise ValueError("thresholds and confidences lie between 0 and 1")
        if min(self.effect) < 1:
            raise ValueError("a design effect is at least 1")
        rows = [(2.0, 0, 0), *zip(*columns[:3], strict=True)]
        for (before, answered, right), (threshold, more, rights) in pairwise(rows):
            if not (threshold < before and more > answered and 0 <= rights - right <= more - answered):
                raise ValueError("thresholds must fall, and answers and right ones rise together")

    @classmethod
    def of(cls, confidence: Values, right: Mask, groups: Sequence[str]) -> "Curve":
        """(n,) of each, n at least 1 → at most _POINTS rows, evenly spread over the mentions; equal confidences stay together.

        groups: what mentions that may be right or wrong together have in common.
        """
        order = np.argsort(-confidence, kind="stable")
        falling, hits, codes = confidence[order], right[order], codes_of(groups)[order]
        ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
        if len(ends) > _POINTS:
            wanted = np.arange(1, _POINTS + 1) * len(falling) // _POINTS - 1
            ends = np.unique(ends[np.searchsorted(ends, wanted)])
        answered = ends + 1
        expected = np.minimum(np.cumsum(falling)[ends] / answered, 1.0)  # a sum of ones may round
        effect = [design_effect(hits[:n] - falling[:n], codes[:n]) for n in answered]
        return cls(
            threshold=tuple(falling[ends].tolist()),
            answered=tuple(answered.tolist()),
            right=tuple(np.cumsum(hits)[ends].tolist()),
            expected=tuple(expected.tolist()),
            effect=tuple(effect),
        )

    def threshold_for(self, precision: float) -> float:
        """The lowest confidence from which on answers keep `precision`, CERTAINTY sure, on fresh mentions like these.

        Learn then test (Angelopoulos et al., arXiv:2110.01052) with a fixed sequence, each test on counts divided by the design effect (Rao
        and Scott, Biometrics 48, 1992). Raises ConfigError for a precision outside (0, 1), and for one that these mentions can't promise.
        """
        if not 0 < precision < 1:
            raise ConfigError(f"a precision must lie between 0 and 1, found {precision:g}")
        threshold = self._lowest(precision)
        if threshold is None:
            lower = range(math.ceil(100 * precision) - 1, 0, -1)
            most = next((f"but one of {percent / 100:g}" for percent in lower if self._lowest(percent / 100) is not None), "nor any other")
            raise ConfigError(
                f"the {self.answered[-1]:,} mentions of the calibration can't promise a precision of {precision:g}, {most}. "
                "Ask for less, or calibrate on more mentions"
            )
        return threshold

    def _lowest(self, precision: float) -> float | None:
        """The sequence starts where the confidences promise most to spare, in standard errors, and not before so many answers that at this
        precision _EXPECTED were wrong: what few answers say is easily lost to one mistake. From there it goes down."""
        answered = np.array(self.answered)
        most = int(((np.array(self.expected) - precision) * np.sqrt(answered)).argmax())
        enough = int(np.searchsorted(answered * (1 - precision), _EXPECTED - 1e-9))
        threshold = None
        for i in range(max(most, min(enough, len(answered) - 1)), len(answered)):
            wrong = math.ceil((self.answered[i] - self.right[i]) / self.effect[i])
            if at_most(wrong, math.floor(self.answered[i] / self.effect[i]), 1 - precision) > 1 - CERTAINTY:
                break
            threshold = self.threshold[i]
        return threshold


def abstention(confidence: float, threshold: float, precision: float | None = None) -> str | None:
    """Why a mention gets no answer; None if it gets one. precision: the one that the threshold keeps, where it does."""
    if confidence >= threshold:
        return None
    keeps = "" if precision is None else f", from which on answers keep a precision of {precision:g}"
    return f"the confidence of the first candidate, {confidence:.3f}, is below {threshold:.3f}{keeps}"


def risk_coverage(confidence: Values, right: Mask) -> tuple[Values, Values]:
    """(n,) coverages 1/n to 1, and the share of wrong ones among as many of the most confident (Geifman and El-Yaniv, NIPS 2017).

    Mentions of equal confidence come in no order: each counts as wrong by their mean. The mean of the risks is the area under the curve.
    """
    values, place, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(place, weights=~right, minlength=len(values)) / count
    answered = np.arange(1, len(confidence) + 1)
    return answered / max(1, len(confidence)), np.cumsum(np.repeat(wrong, count)) / answered


def design_effect(residuals: Values, groups: NDArray[np.int64]) -> float:
    """How many times the variance of a sum of (n,) residuals is what it were without groups; at least 1. groups: (n,) numbers."""
    independent = float(np.sum(residuals**2))
    together = float(np.sum(np.bincount(groups, weights=residuals) ** 2))
    return max(1.0, round(together / independent, 9)) if independent else 1.0  # rounded: 59 / (1 + 2e-16) is below 59


def at_most(events: int, n: int, probability: float) -> float:
    """The probability of at most `events` in n independent trials, each of this probability in (0, 1)."""
    if events >= n:
        return 1.0
    k = np.arange(events + 1)
    ways = np.concatenate([[0.0], np.cumsum(np.log((n - k[:-1]) / k[1:]))])
    return float(np.exp(np.logaddexp.reduce(ways + k * math.log(probability) + (n - k) * math.log1p(-probability))))


def codes_of(groups: Sequence[str]) -> NDArray[np.int64]:
    """(n,) numbers, equal where the groups are."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
