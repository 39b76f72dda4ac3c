"""Calibrated confidence, and abstention with a guaranteed precision.

The confidence of an answer is the probability that its first candidate is correct: a logistic regression (logistic.py) on the candidate's score and on the
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
from xsap.linking.arguments import check_number
from xsap.linking.logistic import STRICT, LogisticModel, Mask, MentionLanguages, Values, fit_logistic

FORMAT = 2
CERTAINTY = 0.95  # of a guaranteed precision
CURVE_POINTS = 200
MIN_MENTIONS, MIN_OF_EACH = 50, 10  # to fit on: in total, and right ones as well as wrong ones
CALIBRATION_FOLDS = 5
_EXPECTED_ERRORS = 5  # at the guaranteed precision, before the first test
_SMALL_OFFSET = 0.2  # of the log odds: at most 0.05 of a confidence
_REMEDY = "create it again: xsap calibrate"


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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
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
class BroaderCalibration:
    """The confidence of broader answers (broader.py), and the n mentions with such an answer that it was fitted on, out of fold.

    Attributes:
        model: Of the confidence.
        first: (n,) confidences of the mentions' first candidates, for a broader answer is given where that is low.
        confidence: (n,) of their broader answers.
        right: (n,) whether these are right.
        groups: (n,) numbers, equal for mentions that may be right or wrong together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: LogisticModel
    first: tuple[float, ...]
    confidence: tuple[float, ...]
    right: tuple[bool, ...]
    groups: tuple[int, ...]

    def threshold_for(self, precision: float, *, below: float) -> float:
        """The lowest confidence that keeps a precision where first candidates are less certain than `below`. Raises ConfigError."""
        rows = list(zip(self.first, self.confidence, self.right, map(str, self.groups), strict=True))
        chosen = [row for row in rows if row[0] < below]
        if not chosen:
            raise ConfigError(f"no mention of the calibration has a broader answer and a confidence below {below:.3f}")
        _, confidence, right, groups = zip(*chosen, strict=True)
        curve = RiskCoverageCurve.from_sample(np.array(confidence), np.array(right), groups)
        try:
            return curve.threshold_for(precision)
        except ConfigError as error:
            raise ConfigError(f"broader answers: {error}") from None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an index stores: the model of confidence, and the curve of out-of-fold confidences of the mentions it was fitted on.

    Attributes:
        model: Of the first candidate's confidence.
        curve: Of out-of-fold confidences.
        broader: Of broader answers; None without relations, or with too few mentions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: LogisticModel
    curve: RiskCoverageCurve
    broader: BroaderCalibration | None = None

    @property
    def depends_on_languages(self) -> bool:
        """Whether a mention of one of its languages may have a clearly different confidence if its language is not given."""
        return max(map(abs, self.model.corrections.values()), default=0.0) > _SMALL_OFFSET

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
        found = {"format": FORMAT, **asdict(self)}
        return {key: value for key, value in found.items() if value is not None}  # as before, without broader answers

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
    fold, out_of_fold = calibration_folds(right, seed=seed), np.empty(n)
    for outside in (fold == number for number in range(CALIBRATION_FOLDS)):
        part = fit_logistic(features[~outside], right[~outside], codes[~outside])
        out_of_fold[outside] = part.confidence(features[outside], codes[outside].tolist())
    curve = RiskCoverageCurve.from_sample(out_of_fold, right, groups)
    return Calibration(fit_logistic(features, right, codes), curve), out_of_fold


def calibration_folds(right: Mask, *, seed: int) -> NDArray[np.int64]:
    """(n,) the fold of each mention, of CALIBRATION_FOLDS; right and wrong mentions are spread evenly over them."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(right), np.int64)
    for outcome in (right, ~right):
        fold[rng.permutation(np.flatnonzero(outcome))] = np.arange(outcome.sum()) % CALIBRATION_FOLDS
    return fold


def answer_threshold(
    calibration: Calibration | None, min_confidence: float | None, min_precision: float | None
) -> float | None:
    """The confidence that an answer must have; None for any.

    Args:
        calibration: That of the index.
        min_confidence: The threshold itself, 0 to 1.
        min_precision: The precision that it guarantees, see `RiskCoverageCurve.threshold_for`.

    Raises:
        ConfigError: Both are given, one is not in its range, there is no calibration, or it cannot guarantee the precision.
    """
    if min_confidence is None and min_precision is None:
        return None
    check_number("min_confidence", min_confidence)
    check_number("min_precision", min_precision)
    if min_confidence is not None and min_precision is not None:
        raise ConfigError(
            f"expected min_confidence or min_precision, found both: {min_confidence:g} and {min_precision:g}"
        )
    if calibration is None:
        raise ConfigError(
            "min_confidence and min_precision need a calibrated index; calibrate it: xsap calibrate MENTIONS --index INDEX"
        )
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(f"min_confidence must be between 0 and 1, found {min_confidence:g}")
    return min_confidence if min_precision is None else calibration.threshold_for(min_precision)


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
