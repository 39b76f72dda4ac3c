"""Fitting a calibration on mentions, and saying how far confidences can be believed, by language.

What is measured are confidences of mentions left out of the fit. Equal mentions of the same concepts count once: they are answered alike,
so a file that repeats them would seem to know more than it does. A mention whose concepts the index doesn't have, or that has none, is
one where every answer is wrong; a calibration on mentions that all have a concept says nothing of those.

A calibration's report → one HTML page: a reliability diagram and a risk-coverage curve of each language, and the table behind them.

Every language has a pair of diagrams of its own, with all languages together in grey behind it, so that no colors have to be told apart
however many languages there are. The page needs no network, script or plotting library. All axes go from 0 to 100 per cent.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import ConfigError, DataError
from xsap.languages import to_name
from xsap.linking.calibration import Calibration, Mask, Values, codes_of, design_effect, features_of, fit, risk_coverage
from xsap.linking.results import Result

PRECISIONS = (0.9, 0.95, 0.98)
BINS = 10
ALL = "all"  # the row of all languages together
_POINTS = 100  # of a curve in a report
_DRAWS = 200

Report = dict[str, Any]
Rows = NDArray[np.int64]


class Links(Protocol):
    """Anything that links mentions whose language may be known."""

    @property
    def concept_ids(self) -> Collection[str]: ...  # noqa: D102
    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str]) -> Sequence[Result]: ...  # noqa: D102


class CalibrationSample(NamedTuple):
    """Mentions that were linked: (n, 2) `features_of` their answers, whether the first candidate is right, their languages, their concept
    (the first of several; themselves, where they have none), and whether the index has none of their concepts.

    repeated, unlinked: how many more there were, left out as equal to others and as having no candidates.
    """

    features: Values
    right: Mask
    languages: list[str]
    groups: list[str]
    without_concept: Mask
    repeated: int
    unlinked: int


def calibrate(linker: Links, mentions: pa.Table, *, seed: int) -> tuple[Calibration, Report]:
    """A calibration fitted on mentions (terms.mentions' SCHEMA), and the report of how well it does. Raises DataError for too few."""
    answers = answers_of(linker, mentions)
    calibration, left_out = fit(answers.features, answers.right, answers.languages, answers.groups, seed=seed)
    return calibration, report_of(calibration, left_out, answers, seed=seed)


def answers_of(linker: Links, mentions: pa.Table) -> CalibrationSample:
    """Link mentions with two candidates each."""
    columns = (mentions[name].to_pylist() for name in ("mention", "language", "concept_ids"))
    unique = list(
        dict.fromkeys((mention, language, tuple(sorted(ids))) for mention, language, ids in zip(*columns, strict=True))
    )
    results = linker.link([mention for mention, _, _ in unique], 2, languages=[language for _, language, _ in unique])
    known = frozenset(linker.concept_ids)
    linked = [(result.candidates, key) for result, key in zip(results, unique, strict=True) if result.candidates]
    first = np.array([found[0].score for found, _ in linked], np.float64)
    second = np.array([found[1].score if len(found) > 1 else np.nan for found, _ in linked], np.float64)
    return CalibrationSample(
        features_of(first, second),
        np.array([found[0].concept_id in ids for found, (_, _, ids) in linked], bool),
        [language for _, (_, language, _) in linked],
        [ids[0] if ids else f"mention {mention}" for _, (mention, _, ids) in linked],
        np.array([known.isdisjoint(ids) for _, (_, _, ids) in linked], bool),
        repeated=mentions.num_rows - len(unique),
        unlinked=len(unique) - len(linked),
    )


def report_of(calibration: Calibration, confidence: Values, answers: CalibrationSample, *, seed: int) -> Report:
    """(n,) confidences of answers, measured: of all, and by language. Shares lie in [0, 1]."""
    languages, groups = np.array(answers.languages, object), codes_of(answers.groups)
    chosen = {ALL: np.ones(len(languages), bool)} | {code: languages == code for code in sorted(set(languages))}
    thresholds = {f"{precision:g}": _threshold(calibration, precision) for precision in PRECISIONS}
    return {
        "repeated": answers.repeated,
        "unlinked": answers.unlinked,
        "thresholds": thresholds,
        "rows": {
            name: {"without_concept": int(answers.without_concept[group].sum())}
            | measured(confidence[group], answers.right[group], groups[group], thresholds, seed=seed)
            for name, group in chosen.items()
        },
    }


def measured(
    confidence: Values, right: Mask, groups: Rows, thresholds: Mapping[str, float | None], *, seed: int
) -> Report:
    """What n confidences are worth, n at least 1. groups: (n,) numbers, equal where mentions may be right or wrong together.

    thresholds: by the precision that each is to keep; None for one that can't be promised.
    """
    coverage, risk = risk_coverage(confidence, right)
    places = np.unique(np.linspace(0, len(right) - 1, _POINTS, dtype=np.int64))
    return {
        "n": len(right),
        "right": _mean(right),
        "ece": expected_calibration_error(confidence, right, BINS),
        "ece_by_chance": list(ece_under_calibration(confidence, BINS, seed=seed)),
        "area": _mean(risk),
        "kept": {
            name: None if threshold is None else _kept(confidence >= threshold, right, groups)
            for name, threshold in thresholds.items()
        },
        "bins": [list(row) for row in reliability(confidence, right, BINS)],
        "curve": np.stack([coverage, risk], 1)[places].tolist(),
    }


def reliability(confidence: Values, right: Mask, bins: int) -> list[tuple[float, float, int]]:
    """Mean confidence, share right and number of mentions of each of at most `bins` bins, of about as many mentions each, rising.

    Equal confidences share a bin.
    """
    place, count = _bins(confidence, bins)
    sums, hits = (np.bincount(place, weights=values, minlength=len(count)) for values in (confidence, right))
    return [(float(s / n), float(h / n), int(n)) for s, h, n in zip(sums, hits, count, strict=True) if n]


def expected_calibration_error(confidence: Values, right: Mask, bins: int) -> float:
    """By how much mean confidence and share right of a bin differ, averaged over mentions (Guo et al., ICML 2017)."""
    return float(sum(n * abs(mean - share) for mean, share, n in reliability(confidence, right, bins)) / len(right))


def ece_under_calibration(confidence: Values, bins: int, *, seed: int) -> tuple[float, float]:
    """The range that 95 % of expected calibration errors would lie in if every confidence were the probability of being right, and every
    mention independent: the error of a finite sample is never 0. Drawn as by Bröcker and Smith (Weather and Forecasting 22, 2007, p. 651).
    """
    place, count = _bins(confidence, bins)
    rng = np.random.default_rng(seed)
    draws = [
        np.bincount(place, weights=confidence - (rng.random(len(place)) < confidence), minlength=len(count))
        for _ in range(_DRAWS)
    ]
    low, high = np.quantile(np.abs(draws).sum(1) / len(place), [0.025, 0.975])
    return float(low), float(high)


def _bins(confidence: Values, bins: int) -> tuple[Rows, Rows]:
    """(n,) the bin of each, and how many each has."""
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    place = np.searchsorted(edges, confidence, side="left").astype(np.int64)
    return place, np.bincount(place, minlength=bins)


def _threshold(calibration: Calibration, precision: float) -> float | None:
    try:
        return calibration.threshold_for(precision)
    except ConfigError:
        return None


def _kept(answered: Mask, right: Mask, groups: Rows) -> Report:
    """Coverage of all mentions, and precision of those answered, None where none is."""
    given = bool(answered.any())
    return {
        "answered": int(answered.sum()),
        "coverage": _mean(answered),
        "coverage_interval": list(share_interval(answered, groups)),
        "precision": _mean(right[answered]) if given else None,
        "precision_interval": list(share_interval(right[answered], groups[answered])) if given else None,
    }


def share_interval(hits: Mask, groups: Rows) -> tuple[float, float]:
    """The 95 % interval of the share of hits, of (n,) with n at least 1: Wilson's (1927), which says something even where all of a few are
    hits, of counts divided by the design effect."""
    share, z2 = _mean(hits), 1.959964**2
    residuals = hits - share if 0 < share < 1 else np.ones(len(hits))  # where all are alike, a group counts as one
    n = len(hits) / design_effect(residuals.astype(np.float64), groups)
    middle, half = (n * share + z2 / 2) / (n + z2), math.sqrt(z2 * (n * share * (1 - share) + z2 / 4)) / (n + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _mean(values: Values | Mask) -> float:
    return float(np.mean(values))


def to_text(report: Report) -> str:
    """The report as two tables for people: per cent, with 95 % intervals."""
    names = list(report["rows"])
    width = max(10, *(len(name) + 1 for name in names))
    lines = [
        "per cent, with 95 % intervals",
        f"{'':{width}}{'n':>7}{'no concept':>12}{'right':>7}{'ECE':>7}  by chance",
    ]
    for name, row in report["rows"].items():
        low, high = row["ece_by_chance"]
        shares = f"{100 * row['right']:7.1f}{100 * row['ece']:7.1f}  [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(f"{name:{width}}{row['n']:7,}{row['without_concept']:12,}{shares}")
    promised = "".join(
        f"  {f'covered at {precision}':>15}  {'precision then':20}" for precision in report["thresholds"]
    )
    lines += ["", f"{'':{width}}{promised}".rstrip()]
    for name, row in report["rows"].items():
        lines.append(f"{name:{width}}{''.join(map(_cells, row['kept'].values()))}".rstrip())
    return "\n".join([*lines, *(["", *notes_of(report)] if notes_of(report) else [])])


def notes_of(report: Report) -> list[str]:
    """What a reader should be told beside the figures."""
    notes = []
    if report["repeated"]:
        notes.append(f"{report['repeated']:,} mentions repeat others with the same concepts; they count once.")
    if report["unlinked"]:
        notes.append(f"{report['unlinked']:,} mentions have no candidates, such as blank ones; they are left out.")
    if not report["rows"][ALL]["without_concept"]:
        notes.append(
            "Every mention has a concept in the index. Where some have none, confidences are too high and no precision is kept: "
            "calibrate on a sample of what will be linked, those included, with an empty concept_ids."
        )
    return notes


def _cells(kept: Report | None) -> str:
    if kept is None:
        return f"  {'not promised':>15}  {'':20}"
    return f"  {100 * kept['coverage']:15.1f}  {precision_of(kept):20}"


def precision_of(kept: Report) -> str:
    """The precision of those answered, with its interval, in per cent."""
    low, high = kept["precision_interval"] or (math.nan, math.nan)
    return f"{100 * kept['precision']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if kept["answered"] else "–"


_SIDE, _LEFT, _ABOVE, _RIGHT, _BELOW = 220, 44, 10, 14, 38  # a diagram's square, and the room around it
_TICKS = (0, 25, 50, 75, 100)
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #57606a; --grid: #e4e7eb; --mark: #0b63d4; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --soft: #a3abb5; --grid: #30363d; --mark: #6d9bff; } }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1200px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 8px; } h2 { font-size: 16px; margin: 20px 0 4px; }
p { margin: 0 0 8px; color: var(--soft); max-width: 110ch; }
.warning { color: var(--ink); }
main { display: flex; flex-wrap: wrap; gap: 0 24px; } section { flex: 0 0 auto; } .wide { overflow-x: auto; }
svg text { font-size: 11px; fill: var(--soft); text-anchor: middle; dominant-baseline: middle; } svg .y { text-anchor: end; }
.grid { stroke: var(--grid); } .ideal { stroke: var(--soft); stroke-dasharray: 3 4; }
polyline { fill: none; stroke-width: 1.8; stroke: var(--mark); }
.behind { stroke: var(--soft); opacity: .45; } circle { fill: var(--mark); }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; } thead { border-bottom: 1px solid var(--soft); }
td, th { padding: 3px 8px; text-align: right; white-space: nowrap; } tbody tr + tr { border-top: 1px solid var(--grid); }
td:first-child { text-align: left; }
small { display: block; font-weight: 400; color: var(--soft); }
"""


def page_of(report: Report, title: str) -> str:
    """The page. title: what was calibrated, as plain text."""
    head = f'<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/><title>{escape(title)}</title>'
    note = (
        "Left: what share of answers was right (up) among those of one confidence (across); on the dashed line confidence is what it says. "
        "Right: what share was wrong (up) if only the most confident answers are given (share of mentions, across); the dots are where "
        "the precisions of the table are promised. Grey: all languages. Confidences are of mentions left out of the fit. Figures are per "
        "cent; ECE: the expected calibration error, and beside it the range of what chance makes of perfect confidences; area: under the "
        "right curve."
    )
    notes = "".join(f'<p class="warning">{escape(text)}</p>' for text in notes_of(report))
    rows: Mapping[str, Report] = report["rows"]
    sections = "".join(_section(name, row, rows[ALL]) for name, row in rows.items())
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1><p>{note}</p>{notes}\n'
        f'<div class="wide">{_table(report)}</div>\n<main>{sections}</main>\n</body></html>\n'
    )


def _section(name: str, row: Report, everything: Report) -> str:
    behind = everything if name != ALL else None
    points = [(100 * mean, 100 * share) for mean, share, _ in row["bins"]]
    dots = [
        f"{n:,} answers of mean confidence {100 * mean:.1f}: {100 * share:.1f} right" for mean, share, n in row["bins"]
    ]
    reliability = _diagram(
        f"Reliability, {_label(name)}",
        ("confidence, %", "right, %"),
        [] if behind is None else [(100 * mean, 100 * share) for mean, share, _ in behind["bins"]],
        points,
        list(zip(points, dots, strict=True)),
        ideal=True,
    )
    kept = {promised: each for promised, each in row["kept"].items() if each is not None and each["answered"]}
    where = [(100 * each["coverage"], 100 - 100 * each["precision"]) for each in kept.values()]
    curve = _diagram(
        f"Risk and coverage, {_label(name)}",
        ("answered, %", "of them wrong, %"),
        [] if behind is None else [(100 * coverage, 100 * risk) for coverage, risk in behind["curve"]],
        [(100 * coverage, 100 * risk) for coverage, risk in row["curve"]],
        list(zip(where, (f"promised {promised}" for promised in kept), strict=True)),
    )
    return f"<section><h2>{_label(name)}, n = {row['n']:,}</h2>{reliability}{curve}</section>"


def _diagram(
    name: str,
    axes: tuple[str, str],
    behind: Sequence[tuple[float, float]],
    line: Sequence[tuple[float, float]],
    dots: Sequence[tuple[tuple[float, float], str]],
    *,
    ideal: bool = False,
) -> str:
    """Lines and dots in per cent as an `<svg>`. dots: with what is seen on hovering. ideal: whether the diagonal is drawn."""
    width, height = _LEFT + _SIDE + _RIGHT, _ABOVE + _SIDE + _BELOW
    bottom = _ABOVE + _SIDE

    def x(percent: float) -> str:
        return f"{_LEFT + _SIDE * percent / 100:.1f}"

    def y(percent: float) -> str:
        return f"{bottom - _SIDE * percent / 100:.1f}"

    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">']
    for tick in _TICKS:
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick)}H{_LEFT + _SIDE}M{x(tick)} {_ABOVE}V{bottom}"/>')
        parts.append(
            f'<text class="y" x="{_LEFT - 6}" y="{y(tick)}">{tick}</text><text x="{x(tick)}" y="{bottom + 12}">{tick}</text>'
        )
    parts.append(f'<text x="{x(50)}" y="{bottom + 29}">{axes[0]}</text>')
    parts.append(f'<text transform="translate(10 {y(50)}) rotate(-90)">{axes[1]}</text>')
    if ideal:
        parts.append(f'<path class="ideal" d="M{x(0)} {y(0)}L{x(100)} {y(100)}"/>')
    for look, points in (("behind", behind), ("line", line)):
        if points:
            places = " ".join(f"{x(a)},{y(b)}" for a, b in points)
            parts.append(f'<polyline class="{look}" points="{places}"/>')
    parts += [f'<circle cx="{x(a)}" cy="{y(b)}" r="3"><title>{escape(text)}</title></circle>' for (a, b), text in dots]
    return "".join([*parts, "</svg>"])


def _table(report: Report) -> str:
    promised = "".join(
        f"<th>answered<small>at {at}</small></th><th>right<small>of them</small></th>" for at in report["thresholds"]
    )
    head = f"<tr><th></th><th>n</th><th>no concept</th><th>right</th><th>ECE</th><th>by chance</th><th>area</th>{promised}</tr>"
    body = []
    for name, row in report["rows"].items():
        low, high = (100 * value for value in row["ece_by_chance"])
        cells = [
            _label(name),
            f"{row['n']:,}",
            f"{row['without_concept']:,}",
            f"{100 * row['right']:.1f}",
            f"{100 * row['ece']:.1f}",
        ]
        cells += [f"{low:.1f} to {high:.1f}", f"{100 * row['area']:.1f}"]
        for kept in row["kept"].values():
            cells += ["–", "–"] if kept is None else [f"{100 * kept['coverage']:.1f}", precision_of(kept)]
        body.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def _label(name: str) -> str:
    try:
        return "All languages" if name == ALL else escape(to_name(name))
    except DataError:
        return escape(name)
