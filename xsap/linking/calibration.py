"""Calibrated confidence, and abstention with a guaranteed precision.

The confidence of an answer is the probability that its first candidate is correct: a logistic regression on the candidate's score and on the
square root of its lead over the second concept. Each language has an offset to the log odds that is shrunk toward zero, the more so the fewer
of its mentions were seen and the less languages differ; an unseen language has none. `python -m benchmarks nil` measures this choice: the lead
helps most and languages a little, while isotonic regression, instead or on top, is no better and makes ties. A calibration fitted without any
mention that has no concept is far too confident on such mentions.

Precision is the fraction of given answers that are correct. To guarantee it, a confidence threshold must not be the best of many by chance, so
thresholds are tested in an order fixed in advance, each by an exact binomial test, until the first one fails. Mentions of one concept tend to
be right or wrong together, so counts are divided by their design effect. A guarantee takes some hundred mentions (59 independent correct
answers for 0.95, 149 for 0.98) and holds for new mentions of the same mixture of languages and of mentions without a concept.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.languages import UNKNOWN

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
MentionLanguages = Sequence[str | None]  # ISO 639; None and UNKNOWN for an unknown one

FORMAT = 2
CERTAINTY = 0.95  # of a guaranteed precision
CURVE_POINTS = 200
MIN_MENTIONS, MIN_OF_EACH = 50, 10  # to fit on: in total, and right ones as well as wrong ones
FOLDS = 5
_EXPECTED_ERRORS = 5  # at the guaranteed precision, before the first test
_RIDGE = 0.1  # prior precision of the weights of standardized features
_PRIOR_STD, _PRIOR_WEIGHT = 0.3, 2  # the usual standard deviation of offsets, counted as so many languages
_MAX_ITERATIONS = 30  # for the standard deviation of offsets
_REMEDY = "make it again: xsap calibrate"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class RiskCoverageCurve:
    """Correct answers among the most confident ones, for falling thresholds; the last row is all mentions.

    Attributes:
        threshold: Confidences, strictly falling.
        answered: Mentions whose confidence is at least the threshold.
        right: How many of them are right.
        expected: Their mean confidence.
        effect: Their design effect, see `design_effect`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    threshold: tuple[float, ...]
    answered: tuple[int, ...]
    right: tuple[int, ...]
    expected: tuple[float, ...]
    effect: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.threshold, self.answered, self.right, self.expected, self.effect)
        if len({len(column) for column in columns}) != 1 or not self.threshold:
            raise ValueError("a curve needs columns of one length, at least 1")
        if not all(0 <= value <= 1 for value in (*self.threshold, *self.expected)):
            raise ValueError("thresholds and confidences lie between 0 and 1")
        if min(self.effect) < 1:
            raise ValueError("a design effect is at least 1")
        rows = [(2.0, 0, 0), *zip(*columns[:3], strict=True)]
        for (before, answered, right), (threshold, more, rights) in pairwise(rows):
            if not (threshold < before and more > answered and 0 <= rights - right <= more - answered):
                raise ValueError("thresholds must fall, and answers and right ones rise together")

    @classmethod
    def from_sample(
        cls, confidence: Values, right: Mask, groups: Sequence[str], *, points: int = CURVE_POINTS
    ) -> "RiskCoverageCurve":
        """The curve of a sample; mentions of equal confidence stay together.

        Args:
            confidence: (n,) in [0, 1], n at least 1.
            right: (n,) whether the first candidate is correct.
            groups: (n,) labels, equal for mentions that may be right or wrong together.
            points: Number of rows, at most, evenly spaced over the mentions.
        """
        order = np.argsort(-confidence, kind="stable")
        falling, hits, codes = confidence[order], right[order], codes_of(groups)[order]
        ends = np.flatnonzero(np.append(falling[1:] < falling[:-1], True))
        if len(ends) > points:
            wanted = np.arange(1, points + 1) * len(falling) // points - 1
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
        """The lowest confidence above which new answers keep a precision, with probability CERTAINTY.

        Learn then test (Angelopoulos et al., arXiv:2110.01052) with a fixed sequence, each test on counts divided by the design effect (Rao
        and Scott, Biometrics 48, 1992).

        Args:
            precision: Fraction of answers that must be correct, in (0, 1).

        Raises:
            ConfigError: `precision` is outside (0, 1), or these mentions cannot guarantee it.
        """
        if not 0 < precision < 1:
            raise ConfigError(f"a precision must be between 0 and 1, found {precision:g}")
        threshold = self.lowest_threshold(precision)
        if threshold is None:
            percents = range(math.ceil(100 * precision) - 1, 0, -1)
            lower = next((p / 100 for p in percents if self.lowest_threshold(p / 100) is not None), None)
            instead = "nor any other" if lower is None else f"but {lower:g}"
            raise ConfigError(
                f"the {self.answered[-1]:,} mentions of the calibration can't guarantee a precision of {precision:g}, {instead}. "
                "Choose a lower precision, or calibrate on more mentions"
            )
        return threshold

    def lowest_threshold(self, precision: float) -> float | None:
        """As `threshold_for`, but None for a precision that cannot be guaranteed.

        The sequence starts where mean confidence exceeds the precision by most standard errors, but not before there are so many answers that
        _EXPECTED_ERRORS of them are wrong at this precision, since one error among a few answers would end it. It continues downwards.
        """
        answered = np.array(self.answered)
        start = int(((np.array(self.expected) - precision) * np.sqrt(answered)).argmax())
        enough = int(np.searchsorted(answered * (1 - precision), _EXPECTED_ERRORS - 1e-9))
        threshold = None
        for i in range(max(start, min(enough, len(answered) - 1)), len(answered)):
            wrong = math.ceil((self.answered[i] - self.right[i]) / self.effect[i])
            if binomial_cdf(wrong, math.floor(self.answered[i] / self.effect[i]), 1 - precision) > 1 - CERTAINTY:
                break
            threshold = self.threshold[i]
        return threshold


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

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
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


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an index stores: the model of confidence, and the curve of out-of-fold confidences of the mentions it was fitted on."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    model: LogisticModel
    curve: RiskCoverageCurve

    def confidence(self, features: Values, languages: MentionLanguages | None = None) -> Values:
        """The probability that the first candidate is correct; it never falls when its score or its lead rises.

        Args:
            features: (n, 2), see `features_of`.
            languages: (n,) of the mentions, where known.

        Returns:
            (n,) in [0, 1]; nan where a feature is nan.
        """
        return self.model.confidence(features, languages)

    def threshold_for(self, precision: float) -> float:
        """The lowest confidence that keeps a precision, see `RiskCoverageCurve.threshold_for`."""
        return self.curve.threshold_for(precision)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: object) -> "Calibration":
        """The inverse of `to_dict`, with every number checked. Raises ArtifactError."""
        if not isinstance(data, dict) or type(data.get("format")) is not int or data["format"] != FORMAT:
            found = f"format {data.get('format')!r:.20}" if isinstance(data, dict) else type(data).__name__
            raise ArtifactError(f"expected a calibration of format {FORMAT}, found {found}; {_REMEDY}")
        try:
            text = json.dumps({key: value for key, value in data.items() if key != "format"})
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            location = ".".join(map(str, first["loc"])) or "calibration"
            raise ArtifactError(f"not a readable calibration: {location}: {first['msg']}; {_REMEDY}") from None
        except (TypeError, ValueError, RecursionError):
            raise ArtifactError(f"not a readable calibration: it is not JSON; {_REMEDY}") from None


def features_of(first: Values, second: Values) -> Values:
    """Scores → features.

    The square root, because a small lead says more than the same addition to a large one. Without a second concept the lead counts as zero.

    Args:
        first: (n,) scores of the first candidate.
        second: (n,) scores of the second concept, nan where there is none.

    Returns:
        (n, 2): the score, and the square root of its lead.
    """
    lead = np.where(np.isnan(second), 0.0, np.maximum(first - second, 0.0))
    return np.stack([first, np.sqrt(lead)], axis=1).astype(np.float64)


def fit(
    features: Values, right: Mask, languages: MentionLanguages, groups: Sequence[str], *, seed: int
) -> tuple[Calibration, Values]:
    """Fit a calibration.

    Args:
        features: (n, 2), finite, see `features_of`.
        right: (n,) whether the first candidate is correct.
        languages: (n,) of the mentions.
        groups: (n,) labels, equal for mentions that may be right or wrong together, such as those of one concept.
        seed: Of the split into folds.

    Returns:
        The calibration, and (n,) out-of-fold confidences: of each mention by a model fitted on the folds without it.

    Raises:
        DataError: There are fewer than MIN_MENTIONS, or fewer than MIN_OF_EACH right or wrong ones.
    """
    n, hits = len(right), int(right.sum())
    if n < MIN_MENTIONS or min(hits, n - hits) < MIN_OF_EACH:
        raise DataError(
            f"a calibration needs at least {MIN_MENTIONS} mentions, of which {MIN_OF_EACH} or more are linked correctly and as many wrongly; "
            f"found {n:,}, {hits:,} correctly and {n - hits:,} wrongly. Take more mentions, including some without a concept"
        )
    codes = np.array([code or UNKNOWN for code in languages], object)
    fold, out_of_fold = assign_folds(right, seed=seed), np.empty(n)
    for outside in (fold == number for number in range(FOLDS)):
        part = fit_logistic(features[~outside], right[~outside], codes[~outside])
        out_of_fold[outside] = part.confidence(features[outside], codes[outside].tolist())
    curve = RiskCoverageCurve.from_sample(out_of_fold, right, groups)
    return Calibration(fit_logistic(features, right, codes), curve), out_of_fold


def assign_folds(right: Mask, *, seed: int) -> NDArray[np.int64]:
    """(n,) the fold of each mention, of FOLDS; right and wrong mentions are spread evenly over them."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(right), np.int64)
    for outcome in (right, ~right):
        fold[rng.permutation(np.flatnonzero(outcome))] = np.arange(outcome.sum()) % FOLDS
    return fold


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


def abstention_reason(confidence: float, threshold: float, precision: float | None = None) -> str | None:
    """Why a mention gets no answer; None if it gets one. precision: the one that the threshold guarantees, if any."""
    if confidence >= threshold:
        return None
    guarantee = "" if precision is None else f", above which answers keep a precision of {precision:g}"
    return f"the confidence of the first candidate, {confidence:.3f}, is below {threshold:.3f}{guarantee}"


def risk_coverage(confidence: Values, right: Mask) -> tuple[Values, Values]:
    """Risk against coverage (Geifman and El-Yaniv, NIPS 2017); the mean of the risks is the area under the curve.

    Args:
        confidence: (n,); mentions of equal confidence have no order, so each counts as wrong by their mean.
        right: (n,).

    Returns:
        (n,) coverages 1/n to 1, and (n,) the fraction of wrong ones among as many of the most confident.
    """
    values, position, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    wrong = np.bincount(position, weights=~right, minlength=len(values)) / count
    answered = np.arange(1, len(confidence) + 1)
    return answered / max(1, len(confidence)), np.cumsum(np.repeat(wrong, count)) / answered


def design_effect(residuals: Values, groups: NDArray[np.int64]) -> float:
    """How many times larger the variance of a sum of (n,) residuals is than without groups, at least 1. groups: (n,) numbers."""
    independent = float(np.sum(residuals**2))
    together = float(np.sum(np.bincount(groups, weights=residuals) ** 2))
    return max(1.0, round(together / independent, 9)) if independent else 1.0  # rounded: 59 / (1 + 2e-16) is below 59


def binomial_cdf(events: int, n: int, probability: float) -> float:
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


def _sigmoid(odds: Values) -> Values:
    probability: Values = 0.5 * (1 + np.tanh(0.5 * odds))
    return probability
