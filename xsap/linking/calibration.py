"""Answering where one is sure and abstaining elsewhere: risk against coverage, and from which confidence on answers keep a precision.

Precision is the share of answers that are right. To promise it, a threshold must not be the luckiest of many: so thresholds are tested one
after another, in an order that no outcome has a say in, each by an exact test, and the first that fails ends it. Mentions of one concept
tend to be right or wrong together, so they count for fewer than they are: on HPO's for one half to two thirds. Some hundred are needed:
59 independent answers without a mistake for 0.95, 149 for 0.98. The promise is of fresh mentions of the same mixture: of languages, and of
mentions that have no concept.

How sure an answer is: the probability that its first candidate is right.

A logistic regression of whether it is right on its score and on the root of its lead over the second concept. Each language moves the log
odds by a correction that is shrunk to zero the more, the fewer of its mentions were seen and the less languages differ; a language never
seen gets none. By `python -m benchmarks nil` the lead pays most and the languages a little; isotonic regression in place of the logistic,
or on top of it, is no better, and makes ties. Without mentions that have no concept among those fitted on, confidences are of mentions
that have one, and far too high for others.
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

CERTAINTY = 0.95  # of a promised precision
_POINTS = 200  # of a curve, at most
_EXPECTED = 5  # mistakes


@dataclass(frozen=True, slots=True)
class RiskCoverageCurve:
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
    def of(cls, confidence: Values, right: Mask, groups: Sequence[str]) -> "RiskCoverageCurve":
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
            most = next(
                (f"but one of {percent / 100:g}" for percent in lower if self._lowest(percent / 100) is not None),
                "nor any other",
            )
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
            if binomial_cdf(wrong, math.floor(self.answered[i] / self.effect[i]), 1 - precision) > 1 - CERTAINTY:
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


Languages = Sequence[str | None]  # ISO 639; None and UNKNOWN for one that isn't known

FORMAT = 1
LEAST, LEAST_OF_EACH = 50, 10  # mentions to fit on, and how many of them right and how many wrong
_FOLDS = 5
_RIDGE = 0.1  # on weights, whose features have a standard deviation of 1
_USUAL, _BEFORE = 0.3, 2  # languages' corrections are taken to spread as if so many more, spread so far, had been seen
_ROUNDS = 30  # of estimating how far they spread
_AGAIN = "make it again: xsap calibrate"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """log odds = intercept + Σ weight · (feature - centre) / scale + the language's correction.

    spread: the corrections' standard deviation. Raises ValueError for a scale that isn't positive, and for a negative weight or spread.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    centre: tuple[float, float]
    scale: tuple[float, float]
    weights: tuple[float, float]
    intercept: float
    corrections: dict[str, float]
    spread: float

    def __post_init__(self) -> None:
        if min(self.scale) <= 0 or min(self.weights) < 0 or self.spread < 0:
            raise ValueError("scales must be positive, weights and spread not negative")

    def confidence(self, features: Values, languages: Languages | None) -> Values:
        """As `Calibration.confidence`."""
        codes = [None] * len(features) if languages is None else languages
        assert len(codes) == len(features), "as many languages as mentions"
        odds = self.intercept + np.array([self.corrections.get(code or UNKNOWN, 0.0) for code in codes], np.float64)
        for column, centre, scale, weight in zip(features.T, self.centre, self.scale, self.weights, strict=True):
            odds = odds + weight * ((column - centre) / scale)
        return _sigmoid(odds)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an index keeps: confidences, and of the mentions it was fitted on the curve of the confidences that they got without being
    fitted on themselves."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    odds: LogisticModel
    curve: RiskCoverageCurve

    def confidence(self, features: Values, languages: Languages | None = None) -> Values:
        """(n, 2) `features_of`, and the mentions' languages where they are known → (n,) in [0, 1]; nan where a feature is.

        It never falls when the score or the lead rises.
        """
        return self.odds.confidence(features, languages)

    def threshold_for(self, precision: float) -> float:
        """As `Curve.threshold_for`: the lowest confidence that keeps a precision."""
        return self.curve.threshold_for(precision)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: object) -> "Calibration":
        """What `to_dict` gave, every number checked. Raises ArtifactError."""
        if not isinstance(data, dict) or type(data.get("format")) is not int or data["format"] != FORMAT:
            found = f"format {data.get('format')!r:.20}" if isinstance(data, dict) else type(data).__name__
            raise ArtifactError(f"expected a calibration of format {FORMAT}, found {found}; {_AGAIN}")
        try:
            text = json.dumps({key: value for key, value in data.items() if key != "format"})
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "calibration"
            raise ArtifactError(f"not a readable calibration: {place}: {first['msg']}; {_AGAIN}") from None
        except (TypeError, ValueError, RecursionError):
            raise ArtifactError(f"not a readable calibration: it is no JSON; {_AGAIN}") from None


def features_of(first: Values, second: Values) -> Values:
    """(n,) scores of the first candidate and of the second concept, nan where there is none → (n, 2) score and root of the lead.

    A small lead tells more than the same on top of a large one, hence the root. Without a second concept the lead is taken to be none.
    """
    lead = np.where(np.isnan(second), 0.0, np.maximum(first - second, 0.0))
    return np.stack([first, np.sqrt(lead)], axis=1).astype(np.float64)


def fit(
    features: Values, right: Mask, languages: Languages, groups: Sequence[str], *, seed: int
) -> tuple[Calibration, Values]:
    """A calibration, and (n,) the confidence of each mention by a fit on the four fifths that it isn't among.

    features: (n, 2), finite. groups: as in `Curve.of`, such as each mention's concept. Raises DataError for fewer than LEAST mentions, or
    fewer than LEAST_OF_EACH right or wrong ones.
    """
    n, hits = len(right), int(right.sum())
    if n < LEAST or min(hits, n - hits) < LEAST_OF_EACH:
        raise DataError(
            f"a calibration needs at least {LEAST} mentions, of which {LEAST_OF_EACH} or more are linked rightly and as many wrongly; "
            f"found {n:,}, {hits:,} rightly and {n - hits:,} wrongly. Take more mentions, some without a concept among them"
        )
    rng = np.random.default_rng(seed)
    fold = np.empty(n, np.int64)
    for side in (right, ~right):  # each fold gets its share of both
        fold[rng.permutation(np.flatnonzero(side))] = np.arange(side.sum()) % _FOLDS
    codes = np.array([code or UNKNOWN for code in languages], object)
    left_out = np.empty(n)
    for outside in (fold == number for number in range(_FOLDS)):
        part = _fitted(features[~outside], right[~outside], codes[~outside])
        left_out[outside] = part.confidence(features[outside], codes[outside].tolist())
    return Calibration(_fitted(features, right, codes), RiskCoverageCurve.of(left_out, right, groups)), left_out


def _fitted(features: Values, right: Mask, codes: NDArray[Any]) -> LogisticModel:
    """A weight that would come out negative is 0, the most negative first: a higher score is never a worse sign."""
    centre, deviation = features.mean(0), features.std(0)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    known = sorted(set(codes) - {UNKNOWN})
    one_hot = np.array([codes == code for code in known], np.float64).reshape(len(known), len(codes)).T
    free = [0, 1]
    while True:
        solution, spread = _regression(((features - centre) / scale)[:, free], one_hot, right)
        found = solution[1 : 1 + len(free)].tolist()
        if min(found, default=0.0) >= 0:
            break
        del free[found.index(min(found))]
    weights = dict(zip(free, found, strict=True))
    return LogisticModel(
        centre=tuple(centre.tolist()),
        scale=tuple(scale.tolist()),
        weights=(weights.get(0, 0.0), weights.get(1, 0.0)),
        intercept=float(solution[0]),
        corrections=dict(zip(known, solution[1 + len(free) :].tolist(), strict=True)),
        spread=spread,
    )


def _regression(inputs: Values, one_hot: Values, right: Mask) -> tuple[Values, float]:
    """Intercept, weights and corrections of a penalised logistic regression, and the spread of the corrections that its penalty supposes.

    Weights have a normal prior of precision _RIDGE, corrections one of a variance that is estimated by expectation and maximisation under
    Laplace's approximation (Bishop, Pattern Recognition and Machine Learning, 2006, 3.5 and 4.4), _BEFORE languages of spread _USUAL
    counted in, so that one or two languages don't make it anything.
    """
    design = np.hstack([np.ones((len(right), 1)), inputs, one_hot])
    counts = (1, inputs.shape[1], one_hot.shape[1])
    solution, variance = np.zeros(design.shape[1]), _USUAL**2
    for _ in range(_ROUNDS):
        supposed = variance
        solution, hessian = _newton(design, right, np.repeat([0.0, _RIDGE, 1 / supposed], counts), solution)
        second_moments = (solution**2 + np.diag(np.linalg.inv(hessian)))[1 + counts[1] :]
        variance = (float(second_moments.sum()) + _BEFORE * _USUAL**2) / (counts[2] + _BEFORE)
        if abs(variance - supposed) < 1e-6 * supposed:
            break
    return solution, math.sqrt(supposed)


def _newton(design: Values, right: Mask, penalty: Values, start: Values) -> tuple[Values, Values]:
    """The minimum of log loss + Σ penalty · solution² / 2, and the Hessian there. A step that leads upwards is halved."""

    def loss(solution: Values) -> float:
        odds = design @ solution
        return float(np.logaddexp(0, np.where(right, -odds, odds)).sum() + 0.5 * (penalty * solution**2).sum())

    solution, value = start, loss(start)
    while True:
        share = _sigmoid(design @ solution)
        hessian = (design.T * (share * (1 - share))) @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, design.T @ (share - right) + penalty * solution)
        while (new := loss(solution - step)) > value and np.abs(step).max() > 1e-9:
            step = step / 2
        if value - new <= 1e-12 * value:
            return solution, hessian
        solution, value = solution - step, new


def _sigmoid(odds: Values) -> Values:
    share: Values = 0.5 * (1 + np.tanh(0.5 * odds))
    return share
