"""A terminology's description as one picture of four panels: languages, sources, how languages overlap, and how long names are."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xsap.artifacts import write_atomically
from xsap.errors import ConfigError
from xsap.languages import to_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BARS = 12  # at most, the last of them for all others
_LABEL = 24  # characters
_BLUE, _ORANGE, _GREY = "#0b63d4", "#ee4a10", "#9aa4ae"
_REACH = 0.999  # the share of names that the curves of lengths go up to; a few are longer than any axis


def check_plot(path: Path) -> None:
    """Raise ConfigError if a picture can't be written there: before the work, not after."""
    if path.suffix != ".png":
        raise ConfigError(f"a plot is written as PNG: expected a file that ends in .png, found {path}")
    if find_spec("matplotlib") is None:
        raise ConfigError('--plot needs matplotlib; install it: pip install "xsap[plot]"')


def plot(told: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG. told: what `data_prep.describe.describe` gives. Raises ConfigError as `check_plot`."""
    check_plot(path)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 9), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
    figure.suptitle(f"{Path(told['terminology']).name}: {told['names']:,} names of {told['concepts']:,} concepts")
    ((languages, sources), (overlap, lengths)) = figure.subplots(2, 2)
    _bars(languages, {to_name(code): n["names"] for code, n in told["by_language"].items()}, "Names by language")
    _bars(sources, {source: n["names"] for source, n in told["by_source"].items()}, "Names by source")
    _matrix(overlap, told["overlap"])
    _curves(lengths, told)
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")


def _bars(axes: "Axes", counts: Mapping[str, int], title: str) -> None:
    """Horizontal bars, the largest on top, each with its number."""
    shown = list(counts.items())
    if len(shown) > _BARS:
        rest = shown[_BARS - 1 :]
        shown = [*shown[: _BARS - 1], (f"{len(rest):,} others", sum(n for _, n in rest))]
    colours = [_GREY if len(counts) > _BARS and i == len(shown) - 1 else _BLUE for i in range(len(shown))]
    labels = [label if len(label) <= _LABEL else f"{label[: _LABEL - 9]}…{label[-8:]}" for label, _ in shown]
    heights = [n for _, n in shown]
    axes.barh(range(len(shown)), heights, color=colours, height=0.7)
    axes.set_yticks(range(len(shown)), labels)
    axes.set_ylim(max(len(shown), _BARS // 2) - 0.5, -0.5)  # the first on top, and a few bars no thicker than many
    for place, n in enumerate(heights):
        axes.annotate(f"{n:,}", (n, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlim(0, max(heights) * 1.18)  # room for the longest bar's number, so that the panels below need not be narrower
    axes.set_xticks([])
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _matrix(axes: "Axes", overlap: Mapping[str, Any]) -> None:
    """Of the concepts that have names in a row's language, the share that has names in a column's, rounded down: 100 means all."""
    codes, counts = overlap["languages"], np.array(overlap["concepts"], np.float64)
    shares = 100 * counts / np.diag(counts)[:, None]
    axes.imshow(
        shares, cmap="Blues", vmin=0, vmax=130, aspect="auto"
    )  # beyond 100, so that the darkest cell is not too dark for its number
    for (i, j), share in np.ndenumerate(shares):
        axes.text(j, i, f"{int(share)}", ha="center", va="center", fontsize=8, color="white" if share > 75 else "black")
    axes.set_xticks(range(len(codes)), codes)
    axes.set_yticks(range(len(codes)), [to_name(code) for code in codes])
    axes.set_title("Row's concepts with names in the column's language, %", loc="left", fontsize=11)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _curves(axes: "Axes", told: Mapping[str, Any]) -> None:
    """The share of names that are at most so long."""
    for unit, colour in (("characters", _BLUE), ("tokens", _ORANGE)):
        if histogram := told.get(f"{unit}_histogram"):
            lengths, shares = np.array(list(histogram)), np.cumsum(list(histogram.values())) / sum(histogram.values())
            end = int(np.searchsorted(shares, _REACH)) + 1
            axes.step([0, *lengths[:end]], [0, *(100 * shares[:end])], where="post", color=colour, label=unit)
    axes.set_ylim(0, 104)
    axes.set_xlim(left=0)
    axes.set_xlabel("length")
    axes.set_title("Names that are at most so long, %", loc="left", fontsize=11)
    axes.grid(True, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(loc="lower right", frameon=False)
