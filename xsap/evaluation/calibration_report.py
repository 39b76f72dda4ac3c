"""Calibrate an index on mentions, and report by language how far its confidences can be trusted.

What is measured are out-of-fold confidences: each mention's by a model that was not fitted on it. The report is a table for the terminal and an
HTML page with a reliability diagram and a risk-coverage curve for each language, the curves of all languages together in grey behind them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import ConfigError, DataError
from xsap.evaluation.protocols import MentionLinker
from xsap.evaluation.tuning import CalibrationSample, fit_calibration
from xsap.languages import to_name
from xsap.linking.calibration import Calibration, codes_of, design_effect, risk_coverage
from xsap.linking.logistic import Mask, Values
from xsap.page import Block, Heading, Paragraph, Table, charts, to_html
from xsap.plots import reliability_diagram, risk_coverage_diagram

PRECISIONS = (0.9, 0.95, 0.98)
BINS = 10
ALL = "all"  # the row of all languages together
POINTS_PER_CURVE = 100
DRAWS = 200  # of the expected calibration error of calibrated confidences

Interval = tuple[float, float]
_ABOUT = (
    "Left: the fraction of correct answers against their confidence, dashed where confidence is exact. Right: the fraction of wrong answers if "
    "only the most confident are given, against the fraction of mentions that get one; dots mark the guaranteed precisions of the table. Grey: all "
    "languages. Confidences are out of fold. All figures are percent; ECE: the expected calibration error, with the range that it has for a sample "
    "of this size if confidences are exact; area: under the curve on the right."
)


@dataclass(frozen=True, slots=True)
class AnsweredPart:
    """The mentions whose confidence reaches a threshold, with 95 % intervals; precision is None where no mention does.

    without_concept: how many of them have no concept (NIL), so that their answers are wrong.
    """

    answered: int
    without_concept: int
    coverage: float
    coverage_interval: Interval
    precision: float | None
    precision_interval: Interval | None


@dataclass(frozen=True, slots=True)
class ConfidenceScores:
    """How good the confidences of some mentions are; fractions are in [0, 1].

    Attributes:
        n: Number of mentions.
        without_concept: How many have no concept (NIL).
        gold_not_in_dictionary: How many have gold concepts, none of which is in the index.
        right: Fraction whose first candidate is correct.
        ece: Expected calibration error.
        ece_if_calibrated: 95 % range of that error for exact confidences.
        area: Under the risk-coverage curve.
        at_precision: Precision, as text → the answers at its threshold; None where it cannot be guaranteed.
        bins: (mean confidence, fraction correct, mentions) of each bin.
        curve: (coverage, risk).
    """

    n: int
    without_concept: int
    gold_not_in_dictionary: int
    right: float
    ece: float
    ece_if_calibrated: Interval
    area: float
    at_precision: Mapping[str, AnsweredPart | None]
    bins: Sequence[tuple[float, float, int]]
    curve: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """A calibration, and how good its confidences are.

    Attributes:
        calibration: What `Index.with_calibration` stores.
        repeated: Mentions left out because they equal others.
        unlinked: Mentions left out because they have no candidates.
        thresholds: Precision, as text → the confidence that guarantees it; None where none does.
        rows: ALL and each language → scores.
    """

    calibration: Calibration
    repeated: int
    unlinked: int
    thresholds: Mapping[str, float | None]
    rows: Mapping[str, ConfidenceScores]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def calibrate(linker: MentionLinker, mentions: pa.Table, *, seed: int) -> CalibrationReport:
    """Fit a calibration on mentions, and measure it out of fold.

    Mentions should be like those that will be linked, including some without a concept (an empty concept_ids).

    Args:
        linker: What links; two candidates per mention are used.
        mentions: A table of `terms.mentions.SCHEMA`.
        seed: Of the split into folds.

    Returns:
        The calibration with its report.

    Raises:
        DataError: There are too few mentions, too few that are linked correctly or wrongly, or no gold concept is in the index.
    """
    calibration, confidence, sample = fit_calibration(linker, mentions, seed=seed)
    return report_on(calibration, confidence, sample, seed=seed)


def report_on(
    calibration: Calibration, confidence: Values, sample: CalibrationSample, *, seed: int
) -> CalibrationReport:
    """The report on a calibration.

    Args:
        calibration: Gives the thresholds.
        confidence: (n,) of the sample's mentions, which the calibration was not fitted on.
        sample: n linked mentions.
        seed: Of `ece_if_calibrated`.
    """
    languages, groups = np.array(sample.languages, object), codes_of(sample.groups)
    chosen = {ALL: np.ones(len(languages), bool)} | {code: languages == code for code in sorted(set(languages))}
    thresholds = {f"{precision:g}": _threshold(calibration, precision) for precision in PRECISIONS}
    rows = {
        name: confidence_scores(
            confidence[part],
            sample.right[part],
            groups[part],
            thresholds,
            without_concept=sample.without_concept[part],
            gold_not_in_dictionary=int(sample.gold_not_in_dictionary[part].sum()),
            seed=seed,
        )
        for name, part in chosen.items()
    }
    return CalibrationReport(calibration, sample.repeated, sample.unlinked, thresholds, rows)


def confidence_scores(
    confidence: Values,
    right: Mask,
    groups: NDArray[np.int64],
    thresholds: Mapping[str, float | None],
    *,
    without_concept: Mask,
    gold_not_in_dictionary: int = 0,
    seed: int,
) -> ConfidenceScores:
    """Measure confidences.

    Args:
        confidence: (n,), n at least 1.
        right: (n,) whether the first candidate is correct.
        groups: (n,) numbers, equal for mentions that may be right or wrong together.
        thresholds: Precision, as text → its threshold or None.
        without_concept: (n,) whether the mentions have no concept (NIL).
        gold_not_in_dictionary: How many have gold concepts, none of which is in the index.
        seed: Of `ece_if_calibrated`.
    """
    coverage, risk = risk_coverage(confidence, right)
    chosen = np.unique(np.linspace(0, len(right) - 1, POINTS_PER_CURVE, dtype=np.int64))
    return ConfidenceScores(
        n=len(right),
        without_concept=int(without_concept.sum()),
        gold_not_in_dictionary=gold_not_in_dictionary,
        right=_mean(right),
        ece=expected_calibration_error(confidence, right, BINS),
        ece_if_calibrated=ece_under_calibration(confidence, BINS, seed=seed),
        area=_mean(risk),
        at_precision={
            name: None if threshold is None else _answered(confidence >= threshold, right, groups, without_concept)
            for name, threshold in thresholds.items()
        },
        bins=reliability(confidence, right, BINS),
        curve=list(zip(coverage[chosen].tolist(), risk[chosen].tolist(), strict=True)),
    )


def reliability(confidence: Values, right: Mask, bins: int) -> list[tuple[float, float, int]]:
    """Accuracy by confidence.

    Args:
        confidence: (n,).
        right: (n,).
        bins: Number of bins, at most, of about equally many mentions; equal confidences are in one bin.

    Returns:
        Mean confidence, fraction correct and number of mentions of each bin, by rising confidence.
    """
    position, count = _bins(confidence, bins)
    sums, hits = (np.bincount(position, weights=values, minlength=len(count)) for values in (confidence, right))
    return [(float(s / n), float(h / n), int(n)) for s, h, n in zip(sums, hits, count, strict=True) if n]


def expected_calibration_error(confidence: Values, right: Mask, bins: int) -> float:
    """|mean confidence - fraction correct| of a bin, averaged over mentions (Guo et al., ICML 2017); (n,) arrays as in `reliability`."""
    return float(sum(n * abs(mean - hit) for mean, hit, n in reliability(confidence, right, bins)) / len(right))


def ece_under_calibration(confidence: Values, bins: int, *, seed: int) -> Interval:
    """The 95 % range of the expected calibration error if each confidence is the probability of being right.

    A finite sample's error is never 0. Outcomes are drawn independently, as by Bröcker and Smith (Weather and Forecasting 22, 2007, p. 651).

    Args:
        confidence: (n,).
        bins: As in `reliability`.
        seed: Of the draws.
    """
    position, count = _bins(confidence, bins)
    rng = np.random.default_rng(seed)
    draws = [
        np.bincount(position, weights=confidence - (rng.random(len(position)) < confidence), minlength=len(count))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(np.abs(draws).sum(1) / len(position), [0.025, 0.975])
    return float(low), float(high)


def proportion_interval(hits: Mask, groups: NDArray[np.int64]) -> Interval:
    """The 95 % interval of the fraction of hits: Wilson's (1927), of counts divided by the design effect.

    It is not empty even where all of a few are hits.

    Args:
        hits: (n,), n at least 1.
        groups: (n,) numbers, equal for mentions that may be hits together.
    """
    fraction, z2 = _mean(hits), 1.959964**2
    residuals = (
        hits - fraction if 0 < fraction < 1 else np.ones(len(hits))
    )  # where all are alike, a group counts as one
    n = len(hits) / design_effect(residuals.astype(np.float64), groups)
    middle = (n * fraction + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (n * fraction * (1 - fraction) + z2 / 4)) / (n + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def to_text(report: CalibrationReport) -> str:
    """The report as two tables for people: percent, with 95 % intervals."""
    width = max(10, *(len(name) + 1 for name in report.rows))
    lines = [
        "percent, with 95 % intervals",
        f"{'':{width}}{'n':>7}{'NIL':>7}{'gold not in dictionary':>24}{'right':>7}{'ECE':>7}  if calibrated",
    ]
    for name, row in report.rows.items():
        low, high = row.ece_if_calibrated
        scores = f"{100 * row.right:7.1f}{100 * row.ece:7.1f}  [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name:{width}}{row.n:7,}{row.without_concept:7,}{row.gold_not_in_dictionary:24,}{scores}")
    head = "".join(f"  {f'answered at {precision}':>16}  {'precision':20}" for precision in report.thresholds)
    lines += ["", f"{'':{width}}{head}".rstrip()]
    for name, row in report.rows.items():
        cells = "".join("  {:>16}  {:20}".format(*_cells(part)) for part in row.at_precision.values())
        lines.append(f"{name:{width}}{cells}".rstrip())
    notes = notes_on(report)
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def notes_on(report: CalibrationReport) -> list[str]:
    """What a reader should know beside the figures."""
    notes = []
    if report.repeated:
        notes.append(f"{report.repeated:,} mentions repeat others with the same concepts; they count once.")
    if report.unlinked:
        notes.append(f"{report.unlinked:,} mentions have no candidates, such as blank ones; they are left out.")
    whole = report.rows[ALL]
    if whole.without_concept:
        answered = ", ".join(f"{part.without_concept:,} at {name}" for name, part in whole.at_precision.items() if part)
        shown = f"; of them are answered: {answered}" if answered else ""
        notes.append(f"{whole.without_concept:,} mentions have no concept (NIL): every answer to them is wrong{shown}.")
    if not whole.without_concept and not whole.gold_not_in_dictionary:
        notes.append(
            "Every mention has a concept in the index. Where some have none, confidences are too high and no precision is guaranteed: "
            "calibrate on a sample of what will be linked, including those, with an empty concept_ids."
        )
    return notes


def to_page(report: CalibrationReport, title: str) -> str:
    """The report as an HTML page. title: what was calibrated, as plain text."""
    blocks: list[Block] = [Heading(1, title), Paragraph(_ABOUT)]
    blocks += [Paragraph(note, warning=True) for note in notes_on(report)]
    head = ["", "n", "without concept (NIL)", "gold not in dictionary", "right", "ECE", "ECE if calibrated", "area"]
    head += [text for precision in report.thresholds for text in (f"answered at {precision}", "precision")]
    blocks.append(Table([head, *(_table_row(name, row) for name, row in report.rows.items())]))
    for name, row in report.rows.items():
        behind = report.rows[ALL] if name != ALL else None
        blocks += [Heading(2, f"{_label(name)}, n = {row.n:,}"), *_diagrams(name, row, behind)]
    return to_html(blocks, title)


def _table_row(name: str, row: ConfidenceScores) -> list[str]:
    low, high = (100 * value for value in row.ece_if_calibrated)
    scores = [f"{100 * value:.1f}" for value in (row.right, row.ece)]
    cells = [
        _label(name),
        f"{row.n:,}",
        f"{row.without_concept:,}",
        f"{row.gold_not_in_dictionary:,}",
        *scores,
        f"{low:.1f} to {high:.1f}",
    ]
    return [*cells, f"{100 * row.area:.1f}", *(text for part in row.at_precision.values() for text in _cells(part))]


def _diagrams(name: str, row: ConfidenceScores, behind: ConfidenceScores | None) -> list[Block]:
    marks = {
        precision: (part.coverage, 1 - part.precision)
        for precision, part in row.at_precision.items()
        if part is not None and part.precision is not None
    }
    plots = [
        reliability_diagram(
            [(mean, hit) for mean, hit, _ in row.bins],
            title="Reliability",
            background=[(mean, hit) for mean, hit, _ in behind.bins] if behind else (),
        ),
        risk_coverage_diagram(
            row.curve, title="Risk and coverage", background=behind.curve if behind else (), marks=marks
        ),
    ]
    return charts(plots, f"Reliability, risk and coverage: {_label(name)}", columns=2)


def _cells(part: AnsweredPart | None) -> tuple[str, str]:
    """Coverage, and precision with its interval, in percent."""
    if part is None:
        return "not guaranteed", ""
    coverage = f"{100 * part.coverage:.1f}"
    if part.precision is None or part.precision_interval is None:
        return coverage, "–"
    low, high = part.precision_interval
    return coverage, f"{100 * part.precision:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _answered(answered: Mask, right: Mask, groups: NDArray[np.int64], without_concept: Mask) -> AnsweredPart:
    some = bool(answered.any())
    return AnsweredPart(
        answered=int(answered.sum()),
        without_concept=int((answered & without_concept).sum()),
        coverage=_mean(answered),
        coverage_interval=proportion_interval(answered, groups),
        precision=_mean(right[answered]) if some else None,
        precision_interval=proportion_interval(right[answered], groups[answered]) if some else None,
    )


def _bins(confidence: Values, bins: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n,) the bin of each, and how many each has."""
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    position = np.searchsorted(edges, confidence, side="left").astype(np.int64)
    return position, np.bincount(position, minlength=bins)


def _threshold(calibration: Calibration, precision: float) -> float | None:
    try:
        return calibration.threshold_for(precision)
    except ConfigError:
        return None


def _mean(values: Values | Mask) -> float:
    return float(np.mean(values))


def _label(name: str) -> str:
    try:
        return "All languages" if name == ALL else to_name(name)
    except DataError:
        return name
