"""A chart of lines over steps, as inline SVG: axes, ticks, colors, how few points stand for many; and the style of the page it is on.

It is text that we write, for a training shows itself wherever it ran, without a plotting library or a network. Lines are named at their
ends, so no color has to be looked up. The six colors lie 11 or more apart in OKLab (× 100) to normal and to red-green-blind eyes, in
light and in dark alike, and stand out from their ground by 3 : 1; the lines after the sixth are dashed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import count, pairwise

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Band = tuple[Values, Values, Values]  # x, and y from and to: drawn as an area

POINTS = 1000  # at most, on one line
_COLORS, _DASHES = 6, 3
_ABOVE, _BELOW, _LEFT = 12, 24, 62  # room around the lines, for ticks
_LETTER, _LINE_HEIGHT = 6.6, 15
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #57606a; --grid: #e4e7eb; --tint: #f3f5f7;
  --faint: .35; --c0: #0b63d4; --c1: #ee4a10; --c2: #1f8a74; --c3: #7b2a77; --c4: #8a2f04; --c5: #2c9dde; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e8eaed; --soft: #a3abb5; --grid: #30363d; --tint: #1e2329;
  --faint: .6; --c0: #4a6fe3; --c1: #e09a28; --c2: #4a8268; --c3: #b79fd6; --c4: #f2ee6a; --c5: #9eeef8; } }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1040px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 16px; overflow-wrap: anywhere; } h2 { font-size: 16px; margin: 32px 0 2px; }
p { margin: 0 0 8px; color: var(--soft); } .warning { margin: 12px 0 0; color: var(--ink); font-weight: 700; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; } .facts span { display: block; color: var(--soft); font-size: 13px; }
.facts div { flex: 1 1 150px; background: var(--tint); border-radius: 8px; padding: 10px 14px; }
.facts b { display: block; font-size: 20px; line-height: 1.3; } .facts i { font: 14px system-ui, sans-serif; }
.settings { margin-top: 14px; }
code { display: inline-block; padding: 1px 7px; margin: 0 3px 5px 0; background: var(--tint); color: var(--ink); overflow-wrap: anywhere; }
section > div { overflow-x: auto; } section svg { min-width: 800px; } .row svg { min-width: 0; }
.row { display: flex; flex-wrap: wrap; gap: 0 20px; } .row section { flex: 1 1 300px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } thead { border-bottom: 1px solid var(--soft); }
td, th { padding: 3px 10px; text-align: right; white-space: nowrap; } tbody tr + tr { border-top: 1px solid var(--grid); }
small { display: block; font-weight: 400; color: var(--soft); } .best { background: var(--tint); font-weight: 700; }
svg { display: block; width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--soft); dominant-baseline: middle; }
.x, .none { text-anchor: middle; } .y, .unit { text-anchor: end; } svg .end { fill: var(--ink); } .strong .end { font-weight: 700; }
.grid { stroke: var(--grid); } .band { fill: var(--ink); opacity: .1; }
.line polyline, .line path { fill: none; stroke: var(--color); stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; }
.line circle { fill: var(--color); } .line path { stroke-width: 1; }
.c0 { --color: var(--c0); } .c1 { --color: var(--c1); } .c2 { --color: var(--c2); } .c3 { --color: var(--c3); }
.c4 { --color: var(--c4); } .c5 { --color: var(--c5); } .d1 { stroke-dasharray: 7 4; } .d2 { stroke-dasharray: 2 4; }
.strong { --color: var(--ink); } .strong polyline { stroke-width: 3; }
.raw { --color: var(--c0); opacity: var(--faint); } .raw polyline { stroke-width: 1; }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """(n,) x, ascending, and y, nan where it breaks. name: seen on hovering. label: stands at its end, the last value after it; or None."""

    name: str
    x: Values
    y: Values
    look: str = "c0"
    label: str | None = None


def look_of(number: int) -> str:
    """How the line of this number looks: a color, and after the last color a dash."""
    return f"c{number % _COLORS} d{number // _COLORS % _DASHES}"


def chart(
    lines: Sequence[Line],
    name: str,
    *,
    last: float,
    width: int,
    height: int,
    from_zero: bool = True,
    decimals: int | None = None,
    band: Band | None = None,
) -> str:
    """Lines over steps 0 to `last` as an `<svg>` of width × height units; higher where the ends of many lines need the room.

    from_zero: whether y starts there. decimals: of the values at the ends; None: as many as say four digits.
    """
    ends = [(line, *_end(line, decimals)) for line in lines if line.label is not None and np.isfinite(line.y).any()]
    height = max(height, _ABOVE + _BELOW + _LINE_HEIGHT * len(ends))
    right, bottom = width - 38 - round(_LETTER * max([5, *(len(text) for _, _, text in ends)])), height - _BELOW
    values = np.concatenate([*(line.y for line in lines), *(band[1:] if band else ())])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    up = np.array(ticks(min(low, 0.0) if from_zero else low, high, most=height // 35))
    along = np.array([x for x in ticks(0.0, last, most=max(3, width // 90), finest=1.0) if x <= last])

    def place(x: Values, y: Values) -> tuple[Values, Values]:
        return _LEFT + (right - _LEFT) * x / max(last, 1.0), bottom - (bottom - _ABOVE) * (y - up[0]) / (up[-1] - up[0])

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{safe(name)}">']
    for y, text in zip(place(0 * up, up)[1], _texts(up), strict=True):
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/><text class="y" x="{_LEFT - 8}" y="{y:.1f}">{text}</text>'
        )
    for x, text in zip(place(along, 0 * along)[0], _texts(along), strict=True):
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 15}">{text}</text>')
    parts.append(f'<text class="unit" x="{width - 4}" y="{bottom + 15}">step</text>')
    if band:
        around = place(np.concatenate([band[0], band[0][::-1]]), np.concatenate([band[1], band[2][::-1]]))
        parts.append(f'<polygon class="band" points="{_points(*around)}"/>')
    for line in lines:
        kept = _kept(line.y)
        parts.append(
            f'<g class="line {line.look}"><title>{safe(line.name)}</title>{_strokes(*place(line.x[kept], line.y[kept]))}</g>'
        )
    feet = [place(line.x[final], line.y[final]) for line, final, _ in ends]
    levels = spread([float(y) for _, y in feet], _LINE_HEIGHT, _ABOVE, bottom)
    for (line, _, text), (x, y), level in zip(ends, feet, levels, strict=True):
        pointer = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/><path d="M{x:.1f} {y:.1f}L{right + 22} {level:.1f}H{right + 28}"/>'
        parts.append(
            f'<g class="line {line.look}">{pointer}<text class="end" x="{right + 32}" y="{level:.1f}">{safe(text)}</text></g>'
        )
    if not len(values):
        parts.append(f'<text class="none" x="{(_LEFT + right) / 2:.1f}" y="{bottom / 2:.1f}">no finite values</text>')
    return "".join([*parts, "</svg>"])


def smoothed(top: Values, bottom: Values, half: int) -> tuple[NDArray[np.int64], Values]:
    """Some places in (n,) arrays, and at each the sum of top by that of bottom from `half` before it to `half` after; nan of nothing.

    They count where both are finite. A mean is over ones; a rate is of all names by all seconds, which is not the mean of rates.
    """
    places = np.unique(np.linspace(0, len(top) - 1, POINTS // 2, dtype=np.int64))
    both = np.isfinite(top) & np.isfinite(bottom)
    top, bottom = np.where(both, top, 0.0), np.where(both, bottom, 0.0)
    windows = [slice(max(0, i - half), i + half + 1) for i in places]
    sums = [(float(top[window].sum()), float(bottom[window].sum())) for window in windows]
    return places, np.array([a / b if b > 0 else math.nan for a, b in sums])


def ticks(low: float, high: float, *, most: int = 6, finest: float = 0.0) -> list[float]:
    """At most `most` values that enclose low and high, all multiples of 1, 2 or 5 × 10ᵏ, `finest` or more; of a single value and 0."""
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = (0.0, 1.0) if low == 0 else (min(low, 0.0), max(high, 0.0))
    for exponent in count(math.floor(math.log10((high - low) / most))):
        for digit in (1, 2, 5):
            step = digit * 10.0**exponent
            first, final = math.floor(low / step), math.ceil(high / step)
            if final - first < most and step >= finest:
                return [
                    i * digit / 10**-exponent if exponent < 0 else float(i * digit * 10**exponent)
                    for i in range(first, final + 1)
                ]
    raise AssertionError("unreachable: some step is wide enough")


def number(value: float, digits: int = 4) -> str:
    """A number for people: 12,345 or 0.1235 or 2e-5; a dash for none."""
    if not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as keeps each `gap` from the next, in their order, and all between low and high where there is room."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[
        tuple[float, int]
    ] = []  # (mean of place less its share of gaps, members): neighbors that touch move as one
    for rank, i in enumerate(order):
        mean, members = places[i] - gap * rank, 1
        while blocks and blocks[-1][0] > mean:
            before, more = blocks.pop()
            mean, members = (before * more + mean * members) / (members + more), members + more
        blocks.append((mean, members))
    flat = [mean for mean, members in blocks for _ in range(members)]
    top = high - gap * (len(places) - 1)
    moved = [max(low, min(mean, top)) + gap * rank for rank, mean in enumerate(flat)]
    return [moved[order.index(i)] for i in range(len(places))]


def safe(text: str) -> str:
    """Text as it may stand in a page, whatever is in it."""
    return escape(text.encode("utf-8", "replace").decode())


def _end(line: Line, decimals: int | None) -> tuple[int, str]:
    """Where a line ends, and what stands there."""
    final = int(np.flatnonzero(np.isfinite(line.y))[-1])
    value = float(line.y[final])
    return final, f"{line.label} {number(value) if decimals is None else f'{value:.{decimals}f}'}".strip()


def _texts(values: Values) -> list[str]:
    """Ticks as text, all with as many decimals as their distance needs."""
    step = float(values[1] - values[0]) if len(values) > 1 else 1.0
    if step < 1e-4 or float(np.abs(values).max()) >= 1e7:
        return [number(float(value)) for value in values]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{decimals}f}" for value in values]


def _kept(y: Values) -> NDArray[np.int64]:
    """The places of at most POINTS values: the lowest and the highest of each bin, so that no peak is lost, and the last."""
    if len(y) <= POINTS:
        return np.arange(len(y))
    edges = np.linspace(0, len(y), POINTS // 2, dtype=np.int64)
    kept = {len(y) - 1}
    for start, end in pairwise(edges):
        finite = start + np.flatnonzero(np.isfinite(y[start:end]))
        kept |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])} if len(finite) else {int(start)}
    return np.array(sorted(kept))


def _strokes(x: Values, y: Values) -> str:
    """A polyline for each stretch without nan, or a dot where it is a single point."""
    stretches = np.split(np.arange(len(y)), np.flatnonzero(~np.isfinite(y)))
    runs = [run[np.isfinite(y[run])] for run in stretches]
    return "".join(
        f'<polyline points="{_points(x[run], y[run])}"/>'
        if len(run) > 1
        else f'<circle cx="{x[run[0]]:.1f}" cy="{y[run[0]]:.1f}" r="2"/>'
        for run in runs
        if len(run)
    )


def _points(x: Values, y: Values) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
