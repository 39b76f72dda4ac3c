"""A calibration's report → one HTML page: a reliability diagram and a risk-coverage curve of each language, and the table behind them.

Every language has a pair of diagrams of its own, with all languages together in grey behind it, so that no colours have to be told apart
however many languages there are. The page needs no network, script or plotting library. All axes go from 0 to 100 per cent.
"""

from collections.abc import Mapping, Sequence
from html import escape

from xsap.errors import DataError
from xsap.languages import to_name
from xsap.linking.reliability import ALL, Report, notes_of, precision_of

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
    dots = [f"{n:,} answers of mean confidence {100 * mean:.1f}: {100 * share:.1f} right" for mean, share, n in row["bins"]]
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
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y(tick)}">{tick}</text><text x="{x(tick)}" y="{bottom + 12}">{tick}</text>')
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
    promised = "".join(f"<th>answered<small>at {at}</small></th><th>right<small>of them</small></th>" for at in report["thresholds"])
    head = f"<tr><th></th><th>n</th><th>no concept</th><th>right</th><th>ECE</th><th>by chance</th><th>area</th>{promised}</tr>"
    body = []
    for name, row in report["rows"].items():
        low, high = (100 * value for value in row["ece_by_chance"])
        cells = [_label(name), f"{row['n']:,}", f"{row['without_concept']:,}", f"{100 * row['right']:.1f}", f"{100 * row['ece']:.1f}"]
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
