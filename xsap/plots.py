"""Two charts as SVG, made to stand inside a page without any file beside it: bars with intervals, and accuracy by k.

Colors can be told apart by most eyes and in grey; where they come round again they are paler and lines dashed. Every mark has a title that a pointer shows. Sizes are in SVG's user units.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

COLORS = ("#9aa5b1", "#e08a1e", "#3a8f5c", "#1f6fb2", "#b5485d", "#7a5ea8")
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP = 720, 110, 60, 13, 12
_TOP, _HEIGHT = 14, 260


class Bar(NamedTuple):
    """A score and its interval, in [0, 1]; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def legend(systems: Sequence[str]) -> str:
    """The systems' colors, as HTML."""
    marks = [
        f'<span><i style="background:{_color(i)};opacity:{_opacity(i)}"></i>{escape(system, quote=False)}</span>'
        for i, system in enumerate(systems)
    ]
    return f'<p class="legend">{"".join(marks)}</p>'


def bars(rows: Mapping[str, Sequence[Bar]], systems: Sequence[str], title: str) -> str:
    """A group of horizontal bars a row, a bar a system, per cent from 0 to 100. rows: label → a bar for each system."""
    group = len(systems) * _BAR + _GAP
    bottom = _TOP + len(rows) * group
    parts = [_grid(_TOP, bottom)]
    for number, (label, values) in enumerate(rows.items()):
        top = _TOP + number * group
        middle = top + len(systems) * _BAR / 2
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(label, quote=False)}</text>'
        )
        parts += [_bar(bar, top + i * _BAR, i, f"{systems[i]}, {label}") for i, bar in enumerate(values)]
    return _svg(bottom + 26, title, parts)


def _grid(top: float, bottom: float) -> str:
    lines = [
        f'<path d="M{_x(share):.1f} {top}V{bottom}" class="grid"/>'
        f'<text x="{_x(share):.1f}" y="{bottom + 16}" text-anchor="middle" class="small">{100 * share:.0f}</text>'
        for share in (0, 0.2, 0.4, 0.6, 0.8, 1)
    ]
    return "".join(lines)


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _bar(bar: Bar, top: float, number: int, what: str) -> str:
    if bar.value is None:
        return ""
    middle, end = top + _BAR / 2, bar.value
    said = f"{100 * bar.value:.1f}"
    whisker = ""
    if bar.low is not None and bar.high is not None:
        end = max(end, bar.high)
        said += f" [{100 * bar.low:.1f}, {100 * bar.high:.1f}]"
        low, high = _x(bar.low), _x(bar.high)
        whisker = f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 3:.1f}v6M{high:.1f} {middle - 3:.1f}v6" class="whisker"/>'
    return (
        f'<g><title>{escape(what, quote=False)}: {said}</title><rect x="{_LEFT}" y="{top + 1:.1f}" width="{_x(bar.value) - _LEFT:.1f}" '
        f'height="{_BAR - 2}" fill="{_color(number)}" fill-opacity="{_opacity(number)}"/>{whisker}'
        f'<text x="{_x(end) + 5:.1f}" y="{middle + 4:.1f}" class="small">{100 * bar.value:.1f}</text></g>'
    )


def lines(curves: Mapping[str, Sequence[float | None]], places: Sequence[int], title: str) -> str:
    """Accuracy (0 to 100) by k, k on a logarithmic scale: a line a system, in its color."""
    bottom, last = _TOP + _HEIGHT, math.log(places[-1])

    def at(k: int, value: float) -> tuple[float, float]:
        return _LEFT + math.log(k) / last * (_WIDTH - _LEFT - _RIGHT), bottom - value * _HEIGHT

    parts = []
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        y = at(1, share)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" class="small">{100 * share:.0f}</text>')
    ticks = [k for k in (1, 2, 5, 10, 20, places[-1]) if k in places]
    parts += [
        f'<text x="{at(k, 0)[0]:.1f}" y="{bottom + 16}" text-anchor="middle" class="small">{k}</text>' for k in ticks
    ]
    for number, (system, values) in enumerate(curves.items()):
        known = [(k, value) for k, value in zip(places, values, strict=True) if value is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(k, value) for k, value in known))
        named = escape(f"{system}: {', '.join(f'{100 * value:.1f} at {k}' for k, value in known)}", quote=False)
        stroke = f'stroke="{_color(number)}" stroke-opacity="{_opacity(number)}" stroke-dasharray="{_dashes(number)}" stroke-width="2.5"'
        parts.append(f'<polyline points="{path}" fill="none" {stroke}><title>{named}</title></polyline>')
    return _svg(bottom + 26, title, parts)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _opacity(number: int) -> str:
    return f"{1 / (1 + number // len(COLORS)):.2f}"


def _dashes(number: int) -> str:
    again = number // len(COLORS)
    return f"{9 / again:.1f} 3" if again else "none"


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    said = escape(title)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{said}"><title>{said}</title>{"".join(parts)}</svg>'
