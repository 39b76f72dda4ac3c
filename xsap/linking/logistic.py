"""The logistic regression of a confidence: features of answers, and an offset for each language that is shrunk toward zero.

The offsets' prior is estimated, so the less languages differ and the fewer mentions of one were seen, the smaller its offset; an unseen language
has none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from xsap.languages import UNKNOWN

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
MentionLanguages = Sequence[str | None]  # ISO 639; None and UNKNOWN for an unknown one

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)  # what is read from a file
_RIDGE = 0.1  # prior precision of the weights of standardized features
_PRIOR_STD, _PRIOR_WEIGHT = 0.3, 2  # the usual standard deviation of offsets, counted as so many languages
_MAX_ITERATIONS = 30  # for the standard deviation of offsets


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """log odds = intercept + Σ weight · (feature - center) / scale + offset of the language.

    Attributes:
        center: Means of the two features.
        scale: Their standard deviations, positive.
        weights: Of the standardized features, not negative.
        intercept: Log odds of average features.
        corrections: Language → offset.
        prior_std: Standard deviation of the offsets' prior.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    center: tuple[float, float]
    scale: tuple[float, float]
    weights: tuple[float, float]
    intercept: float
    corrections: dict[str, float]
    prior_std: float

    def __post_init__(self) -> None:
        if min(self.scale) <= 0 or min(self.weights) < 0 or self.prior_std < 0:
            raise ValueError("scales must be positive, weights and the prior's standard deviation not negative")

    def confidence(self, features: Values, languages: MentionLanguages | None) -> Values:
        """(n, 2) features and the mentions' languages → (n,) confidences."""
        codes = [None] * len(features) if languages is None else languages
        assert len(codes) == len(features), "as many languages as mentions"
        odds = self.intercept + np.array([self.corrections.get(code or UNKNOWN, 0.0) for code in codes], np.float64)
        for column, center, scale, weight in zip(features.T, self.center, self.scale, self.weights, strict=True):
            odds = odds + weight * ((column - center) / scale)
        return _sigmoid(odds)


def fit_logistic(features: Values, right: Mask, codes: NDArray[Any]) -> LogisticModel:
    """Fit the model; a weight that would be negative becomes 0, the most negative first, since a higher score is never a worse sign.

    Args:
        features: (n, 2).
        right: (n,).
        codes: (n,) languages; UNKNOWN gets no offset.
    """
    center, deviation = features.mean(0), features.std(0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    known = sorted(set(codes) - {UNKNOWN})
    one_hot = np.array([codes == code for code in known], np.float64).reshape(len(known), len(codes)).T
    free = [0, 1]
    while True:
        solution, prior_std = _regression(((features - center) / scale)[:, free], one_hot, right)
        found = solution[1 : 1 + len(free)].tolist()
        if min(found, default=0.0) >= 0:
            break
        del free[found.index(min(found))]
    weights = dict(zip(free, found, strict=True))
    return LogisticModel(
        center=tuple(center.tolist()),
        scale=tuple(scale.tolist()),
        weights=(weights.get(0, 0.0), weights.get(1, 0.0)),
        intercept=float(solution[0]),
        corrections=dict(zip(known, solution[1 + len(free) :].tolist(), strict=True)),
        prior_std=prior_std,
    )


def _regression(inputs: Values, one_hot: Values, right: Mask) -> tuple[Values, float]:
    """Penalized logistic regression → intercept, weights and offsets, and the standard deviation of the offsets' prior.

    Weights have a normal prior of precision _RIDGE, offsets one whose variance is estimated by expectation maximization under Laplace's
    approximation (Bishop, Pattern Recognition and Machine Learning, 2006, 3.5 and 4.4). _PRIOR_WEIGHT languages of standard deviation
    _PRIOR_STD are counted in, so that one or two languages cannot make it arbitrary.
    """
    design = np.hstack([np.ones((len(right), 1)), inputs, one_hot])
    counts = (1, inputs.shape[1], one_hot.shape[1])
    solution, variance = np.zeros(design.shape[1]), _PRIOR_STD**2
    for _ in range(_MAX_ITERATIONS):
        previous = variance
        solution, hessian = minimize_log_loss(design, right, np.repeat([0.0, _RIDGE, 1 / previous], counts), solution)
        second_moments = (solution**2 + np.diag(np.linalg.inv(hessian)))[1 + counts[1] :]
        variance = (float(second_moments.sum()) + _PRIOR_WEIGHT * _PRIOR_STD**2) / (counts[2] + _PRIOR_WEIGHT)
        if abs(variance - previous) < 1e-6 * previous:
            break
    return solution, math.sqrt(previous)


def minimize_log_loss(design: Values, right: Mask, penalty: Values, start: Values) -> tuple[Values, Values]:
    """Newton's method, halving a step that leads upwards.

    Args:
        design: (n, p).
        right: (n,).
        penalty: (p,) of log loss + Σ penalty · solution² / 2.
        start: (p,).

    Returns:
        (p,) the minimum, and (p, p) the Hessian there.
    """

    def loss(solution: Values) -> float:
        odds = design @ solution
        return float(np.logaddexp(0, np.where(right, -odds, odds)).sum() + 0.5 * (penalty * solution**2).sum())

    solution, value = start, loss(start)
    while True:
        probability = _sigmoid(design @ solution)
        hessian = (design.T * (probability * (1 - probability))) @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, design.T @ (probability - right) + penalty * solution)
        while (new := loss(solution - step)) > value and np.abs(step).max() > 1e-9:
            step = step / 2
        if value - new <= 1e-12 * value:
            return solution, hessian
        solution, value = solution - step, new


def _sigmoid(odds: Values) -> Values:
    probability: Values = 0.5 * (1 + np.tanh(0.5 * odds))
    return probability
