"""Charts drawn by matplotlib, as SVG text for a page or as a PNG or SVG file.

Every chart of the project is drawn here, and no other module imports matplotlib, which is optional (`pip install 'xsap[plot]'`). A function
takes plain data and returns a `Plot` that is not drawn yet; `to_svg` and `save` draw one or several of them in a grid. The six colors
contrast 3 : 1 with white and with near-black and differ to red-green-blind eyes too (11 or more in OKLab × 100), the background is
transparent, and text takes the color of the page around it, so one SVG serves light and dark mode. Series never differ by color alone but by
dash, marker or hatch too. Equal data give equal bytes.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1651fd", "#f76615", "#1da67c", "#c0028b", "#8b5a31", "#9a85d6")
GREY = "#7d8691"
POINTS_PER_LINE = 1000
_NO_MATPLOTLIB = "charts need matplotlib, found none. Install it: pip install 'xsap[plot]'"
_INK = "#1d2733"  # replaced by currentColor in SVG
_DASHES = ("-", (0, (6, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "oo")
_LONG_DECIMAL = re.compile(r"(\.\d\d)\d+")  # finer than a hundredth of a point, which nobody sees
_STYLE = {
    "svg.hashsalt": "xsap",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "grid.color": _INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}


class Bar(NamedTuple):
    """A score and its interval, in [0, 1]; None where there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart: (n,) x, ascending, and (n,) y, nan where the line breaks. low, high: (n,) limits of a band around it.

    name: entry in the legend; empty for none. style: "series" (color, dash and marker by number), "strong" (thick, in the color of the text) or
    "faint" (thin and pale).
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    style: Literal["series", "strong", "faint"] = "series"


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart that is not drawn yet; width and height are in inches."""

    width: float
    height: float
    draw: Callable[["Axes"], None]


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_plot(path: Path | None) -> None:
    """Raise ConfigError if `save` could not write to `path`; call it before long work. None is always fine."""
    if path and path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"a plot is written as PNG or SVG: expected a file that ends in .png or .svg, found {path}")
    if path and not is_available():
        raise ConfigError(_NO_MATPLOTLIB)


def to_svg(plots: Plot | Sequence[Plot], *, title: str = "", columns: int = 1) -> str:
    """Plots as one `<svg>` element.

    Args:
        plots: One plot, or several for a grid that is filled row by row.
        title: Description for screen readers; it is not drawn.
        columns: Number of plots in a row of the grid.

    Returns:
        The element without XML header; its text has the color of the page around it.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    with _drawn(plots, columns, "") as figure:
        stream = StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    svg = re.sub(r'<g id="[^"]*">', "<g>", stream.getvalue())  # ids that nothing refers to and that repeat in a page
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").strip()
    svg = re.sub(r' d="[^"]*"', lambda path: _LONG_DECIMAL.sub(r"\1", path[0]), svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(_printable(title))}"', 1)


def save(plots: Plot | Sequence[Plot], path: Path, *, title: str = "", columns: int = 1) -> None:
    """Write plots to a file, whole or not at all: .png (on white) or .svg by its suffix.

    Args:
        plots: One plot, or several for a grid that is filled row by row.
        path: File that ends in .png or .svg.
        title: Heading of the figure; empty for none.
        columns: Number of plots in a row of the grid.

    Raises:
        ConfigError: another suffix, or matplotlib is not installed.
    """
    check_plot(path)
    if path.suffix.lower() == ".svg":
        svg = to_svg(plots, title=title, columns=columns)
        dark = "<style>@media (prefers-color-scheme: dark) { svg { color: #e8eaed } }</style>"
        with write_atomically(path) as stream:
            stream.write(svg.replace("</svg>", f"{dark}</svg>") + "\n")
        return
    with _drawn(plots, columns, title) as figure, write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})


def line_chart(
    lines: Sequence[Line],
    *,
    title: str = "",
    x_label: str = "step",
    y_label: str = "",
    x_limits: tuple[float, float] | None = None,
    y_limits: tuple[float | None, float | None] = (0.0, None),
    x_ticks: Sequence[float] | None = None,
    log_x: bool = False,
    stepped: bool = False,
    width: float = 9.0,
    height: float = 3.2,
) -> Plot:
    """Lines over a common x axis, with a legend beside them where they have names.

    Args:
        lines: The lines; one of more than POINTS_PER_LINE points is thinned so that its extremes stay.
        title: Heading of the chart.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        x_limits: Ends of the x axis; None: the data's.
        y_limits: Ends of the y axis; None for an end that the data determine.
        x_ticks: Positions of the ticks; None: chosen.
        log_x: Whether x is on a logarithmic scale.
        stepped: Whether y stays until the next x, as of a cumulative distribution.
        width: Inches.
        height: Inches.
    """

    def draw(axes: "Axes") -> None:
        axes.set_xscale("log" if log_x else "linear")
        numbers = iter(range(len(lines)))
        finite = [_draw_line(axes, line, next(numbers) if line.style == "series" else 0, stepped) for line in lines]
        if not any(finite):
            axes.text(0.5, 0.5, "no finite values", ha="center", va="center", transform=axes.transAxes)
        _label_axes(axes, title, x_label, y_label)
        if x_limits:
            axes.set_xlim(x_limits[0], x_limits[1] if x_limits[1] > x_limits[0] else x_limits[0] + 1)
        if any(finite):
            axes.set_ylim(*y_limits)
        if x_ticks is not None:
            axes.set_xticks(list(x_ticks))
            axes.minorticks_off()
        axes.xaxis.set_major_formatter("{x:,.6g}")
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.grid()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.2)

    return Plot(width, height, draw)


def score_bars(
    groups: Mapping[str, Sequence[Bar]], systems: Sequence[str], *, title: str = "", width: float = 9.0
) -> Plot:
    """Horizontal bars of scores with intervals, in percent: a group of bars per label, a bar per system.

    Args:
        groups: Label → a bar for each system.
        systems: Names of the systems, for the legend.
        title: Heading of the chart.
        width: Inches; the height follows from the number of bars.
    """
    size = len(systems) + 0.7  # bars and the gap after them

    def draw(axes: "Axes") -> None:
        for number, system in enumerate(systems):
            bars = [group[number] for group in groups.values()]
            y = np.arange(len(bars)) * size + number
            value, low, high = (
                100 * np.array([np.nan if part is None else part for part in column], np.float64)
                for column in zip(*bars, strict=True)
            )
            look: dict[str, Any] = {
                "color": COLORS[number % len(COLORS)],
                "hatch": _HATCHES[number % len(_HATCHES)],
                "linewidth": 0,
            }
            axes.barh(y, np.nan_to_num(value), 0.86, label=_label(system), edgecolor=(1, 1, 1, 0.55), **look)
            whiskers = np.nan_to_num(np.maximum(np.stack([value - low, high - value]), 0.0))
            axes.errorbar(value, y, xerr=whiskers, fmt="none", ecolor=_INK, elinewidth=0.9, capsize=1.8)
            for at, score, end in zip(y, value, np.fmax(value, high), strict=True):
                if np.isfinite(score):
                    _annotate(axes, f"{score:.1f}", (end, at), (4, 0), va="center")
        axes.set_yticks(np.arange(len(groups)) * size + (len(systems) - 1) / 2, map(_printable, groups))
        axes.set(xlim=(0, 108), ylim=(len(groups) * size - 0.85, -0.85), xticks=range(0, 101, 20))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        _label_axes(axes, title, "percent", "")
        axes.legend(loc="lower left", bbox_to_anchor=(1.0, 0.0), handlelength=2.4, handleheight=1.2)

    return Plot(width, max(1.8, 0.6 + 0.19 * size * len(groups)), draw)


def horizontal_bars(
    values: Mapping[str, float],
    *,
    title: str = "",
    labels: Sequence[str] | None = None,
    highlighted: Callable[[str], bool] | None = None,
    width: float = 6.0,
    slots: int = 0,
) -> Plot:
    """One bar for each value, from the top down, with a text at its end.

    Args:
        values: Name → length, not negative.
        title: Heading of the chart.
        labels: Text at the end of each bar; None: the value, as an integer with commas.
        highlighted: Which names get the first color; all others are gray. None: all of them.
        width: Inches.
        slots: Room for at least so many bars, so that a few are no thicker than many.
    """
    shown = labels if labels is not None else [f"{value:,.0f}" for value in values.values()]

    def draw(axes: "Axes") -> None:
        colors = [COLORS[0] if highlighted is None or highlighted(name) else GREY for name in values]
        bars = axes.barh(range(len(values)), list(values.values()), color=colors, height=0.7)
        axes.bar_label(bars, [_printable(text) for text in shown], padding=4, fontsize=8)
        axes.set_yticks(range(len(values)), map(_printable, values))
        end = 1.22 * max([*values.values(), 1e-9])
        axes.set(xlim=(0, end), ylim=(max(len(values), slots) - 0.5, -0.5), xticks=[])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _label_axes(axes, title, "", "")

    return Plot(width, 0.5 + 0.26 * max(len(values), slots), draw)


def reliability_diagram(
    bins: Sequence[tuple[float, float]], *, title: str = "", background: Sequence[tuple[float, float]] = ()
) -> Plot:
    """Accuracy against confidence; the diagonal is perfect calibration.

    Args:
        bins: (mean confidence, fraction correct) of each bin, in [0, 1].
        title: Heading of the chart.
        background: The same of a larger group, drawn in grey.
    """

    def draw(axes: "Axes") -> None:
        axes.plot([0, 100], [0, 100], color=GREY, linestyle=(0, (2, 3)), linewidth=1)
        _draw_percent_axes(axes, bins, background, marker="o")
        _label_axes(axes, title, "confidence, %", "correct, %")

    return Plot(3.4, 3.4, draw)


def risk_coverage_diagram(
    curve: Sequence[tuple[float, float]],
    *,
    title: str = "",
    background: Sequence[tuple[float, float]] = (),
    marks: Mapping[str, tuple[float, float]] | None = None,
) -> Plot:
    """Fraction of answers that are wrong (risk) against the fraction of mentions that get an answer (coverage).

    Args:
        curve: (coverage, risk) in [0, 1].
        title: Heading of the chart.
        background: The same of a larger group, drawn in grey.
        marks: Label → (coverage, risk) of points to be marked, such as thresholds.
    """

    def draw(axes: "Axes") -> None:
        _draw_percent_axes(axes, curve, background, marker="")
        for label, (coverage, risk) in (marks or {}).items():
            axes.plot([100 * coverage], [100 * risk], "o", color=COLORS[1], markersize=5)
            _annotate(axes, label, (100 * coverage, 100 * risk), (-4, 5), ha="right")
        _label_axes(axes, title, "answered, %", "of them wrong, %")

    return Plot(3.4, 3.4, draw)


def heat_map(
    values: ArrayLike, *, rows: Sequence[str], columns: Sequence[str], title: str = "", maximum: float = 100.0
) -> Plot:
    """A matrix of cells, darker where the value is higher, each with its value rounded down.

    Args:
        values: (rows, columns) in [0, maximum]; nan leaves a cell empty.
        rows: Labels of the rows.
        columns: Labels of the columns.
        title: Heading of the chart.
        maximum: Value of the darkest cell.
    """
    matrix = np.asarray(values, np.float64).reshape(len(rows), len(columns))

    def draw(axes: "Axes") -> None:
        mesh = axes.pcolormesh(matrix, cmap="Blues", vmin=0, vmax=1.3 * maximum, edgecolors="none")
        luminance = mesh.to_rgba(matrix)[..., :3] ** 2.2 @ [0.2126, 0.7152, 0.0722]
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                color = "#ffffff" if luminance[row, column] < 0.18 else "#000000"
                axes.text(column + 0.5, row + 0.5, f"{int(value)}", ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(np.arange(len(columns)) + 0.5, map(_printable, columns))
        axes.set_yticks(np.arange(len(rows)) + 0.5, map(_printable, rows))
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        _label_axes(axes, title, "", "")

    return Plot(6.0, 0.7 + 0.3 * len(rows), draw)


def thinned(y: NDArray[np.float64], points: int = POINTS_PER_LINE) -> NDArray[np.int64]:
    """Positions of at most `points` + 1 of (n,) values: the lowest and the highest of each bin, so that no peak is lost, and the last."""
    if len(y) <= points:
        return np.arange(len(y))
    kept = {len(y) - 1}
    edges = np.linspace(0, len(y), points // 2, dtype=np.int64)
    for start, end in pairwise(edges):
        finite = start + np.flatnonzero(np.isfinite(y[start:end]))
        kept |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])} if len(finite) else {int(start)}
    return np.array(sorted(kept))


@contextmanager
def _drawn(plots: Plot | Sequence[Plot], columns: int, title: str) -> Iterator["Figure"]:
    """The plots in a grid, under our style whatever the user's matplotlibrc says."""
    if not is_available():
        raise ConfigError(_NO_MATPLOTLIB)
    from matplotlib import style
    from matplotlib.figure import Figure

    listed = [plots] if isinstance(plots, Plot) else list(plots)
    rows = [listed[start : start + columns] for start in range(0, len(listed), columns)]
    heights = [max(plot.height for plot in row) for row in rows]
    widths = [max(plot.width for plot in listed[start::columns]) for start in range(min(columns, len(listed)))]
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")  # drawn by the viewer's fonts
        figure = Figure(figsize=(sum(widths), sum(heights) + 0.35 * bool(title)), layout="constrained")
        if title:
            figure.suptitle(_printable(title), fontsize=11)
        grid = figure.subplots(len(rows), len(widths), squeeze=False, height_ratios=heights, width_ratios=widths)
        for axes, plot in zip_longest(grid.flat, listed):
            plot.draw(axes) if plot else axes.set_axis_off()
        yield figure


def _draw_line(axes: "Axes", line: Line, number: int, stepped: bool) -> bool:
    """Draw a line with its band, and a dot where a point has no neighbor; whether it has any finite value."""
    x, y = (np.asarray(values, np.float64) for values in (line.x, line.y))
    finite = np.isfinite(y)
    if not finite.any():
        return False
    kept = thinned(y)
    look: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "linewidth": 1.5}
    if line.style == "series":
        look |= {"linestyle": _DASHES[number % len(_DASHES)], "marker": _MARKERS[number % len(_MARKERS)]}
        look |= {"markersize": 3.5, "markevery": max(1, len(kept) // 12)}
    elif line.style == "strong":
        look = {"color": _INK, "linewidth": 2.4}
    else:
        look |= {"linewidth": 0.7, "alpha": 0.45}
    name = _label(line.name) if line.name else "_"
    axes.plot(x[kept], y[kept], label=name, drawstyle="steps-post" if stepped else "default", **look)
    beside = np.concatenate([[False], finite, [False]])
    alone = finite & ~beside[:-2] & ~beside[2:]
    axes.plot(x[alone], y[alone], "o", color=look["color"], markersize=3.5)
    if line.low is not None and line.high is not None:
        low, high = (np.asarray(values, np.float64)[kept] for values in (line.low, line.high))
        axes.fill_between(x[kept], low, high, color=look["color"], alpha=0.15, linewidth=0)
    return True


def _draw_percent_axes(
    axes: "Axes", points: Sequence[tuple[float, float]], background: Sequence[tuple[float, float]], *, marker: str
) -> None:
    look: dict[str, Any] = {"linewidth": 1.8, "marker": marker, "markersize": 4, "clip_on": not marker}
    if background:
        axes.plot(*100 * np.array(background, np.float64).T, color=GREY, linewidth=1.2)
    axes.plot(*100 * np.array(points, np.float64).reshape(-1, 2).T, color=COLORS[0], **look)
    ticks = range(0, 101, 25)
    axes.set(xlim=(0, 100), ylim=(0, 100), xticks=ticks, yticks=ticks, aspect="equal")
    axes.grid()


def _annotate(axes: "Axes", text: str, point: tuple[float, float], offset: tuple[int, int], **alignment: Any) -> None:
    axes.annotate(_printable(text), point, offset, textcoords="offset points", fontsize=8, **alignment)


def _label_axes(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    axes.set(title=_printable(title), xlabel=_printable(x_label), ylabel=_printable(y_label))


def _label(name: str) -> str:
    """A name as matplotlib's legend takes it: one that begins with an underscore would be left out."""
    return _printable(f"\u200b{name}" if name.startswith("_") else name)


def _printable(text: str) -> str:
    """Text without lone surrogates, which a path may have but no file can hold."""
    return text.encode("utf-8", "replace").decode()
