"""What races have in common: where they run, what they are held to, and how their figures are kept and drawn.

A bar is a figure that must be reached, and every verdict is written out, met or not. Whoever starts a race learns of a missed one by exit
code 3, for figures that nobody reads would not be seen to fall.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from xsap import __version__
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError

if TYPE_CHECKING:
    import torch


OURS = "xsap"  # how our sides' names begin
COLORS = ("#9aa5b1", "#1f6fb2")  # of what is compared with, and of ours


class DeviceName(StrEnum):
    """What a race runs on."""

    CPU = "cpu"
    CUDA = "cuda"


JsonTo: TypeAlias = Annotated[Path | None, typer.Option("--json", help="A file for all figures as JSON.")]
PlotTo: TypeAlias = Annotated[Path | None, typer.Option("--plot", help="A .png file for a bar chart.")]


def device_of(name: DeviceName | None) -> "torch.device":
    """The device of this name; CUDA where there is one, if none is named. Raises ConfigError where CUDA is asked for and there is none."""
    import torch

    there = torch.cuda.is_available()
    if name == DeviceName.CUDA and not there:
        raise ConfigError("--device cuda needs a GPU and a torch built for it, found none; take --device cpu")
    return torch.device(name.value if name else "cuda" if there else "cpu")


def machine(device: "torch.device", packages: Sequence[str] = ()) -> dict[str, Any]:
    """Where a race ran, and by which versions: of these packages, too."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {_processor()}"
    versions = {"python": platform.python_version(), OURS: __version__} | {
        name: version(name) for name in ("torch", "numpy", *packages)
    }
    return {"device": named, "cores": cores, "threads": torch.get_num_threads(), "versions": versions}


def _processor() -> str:
    """Its name, which tells whether it multiplies 8 or 16 bits fast; its kind where Linux doesn't say."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {names[0]}" if names else platform.machine()


def machine_in_words(result: Mapping[str, Any]) -> str:
    """What `machine` found, as a line."""
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    return f"{result['device']}, cores: {result['cores']}, threads: {result['threads']}; {versions}"


def rss_bytes(field: str) -> int:
    """Bytes of this process: `VmRSS`, resident now, or `VmHWM`, at most so far. Needs Linux: proc(5)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def bar(what: str, found: float, held_to: float, *, most: bool = False) -> dict[str, Any]:
    """A figure and what it is held to. most: it may be at most that, else it must be at least that."""
    return {
        "what": what,
        "found": found,
        "bar": held_to,
        "most": most,
        "met": found <= held_to if most else found >= held_to,
    }


def verdicts(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each bar."""
    return [
        f"{'met' if b['met'] else 'MISSED'}: {b['what']} {in_digits(b['found'])}, bar at {'most' if b['most'] else 'least'} {b['bar']:g}"
        for b in bars
    ]


def in_digits(figure: float) -> str:
    """Three digits that count, or all before the point: 0.105, 12.3, 1,234."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def exit_by(bars: Sequence[Mapping[str, Any]]) -> None:
    """Exit code 3 if one is missed."""
    if not all(b["met"] for b in bars):
        raise typer.Exit(3)


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def write_json(result: Mapping[str, Any], file: Path | None) -> None:
    """All figures of a race, if a file is named."""
    if file:
        with write_atomically(file) as stream:
            json.dump(result, stream, indent=1)


def check_plot(path: Path | None) -> None:
    """Raise ConfigError if a plot can't be written there: before a race, not after."""
    if path and path.suffix != ".png":
        raise ConfigError(f"a plot is written as PNG: expected a file that ends in .png, found {path}")
    if path and find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib; install it: pip install matplotlib")


def chart(panels: Mapping[str, Mapping[str, tuple[float, str]]], path: Path) -> None:
    """Bars in a PNG file. panels: title → side → its bar's length, and what stands beside that."""
    from matplotlib.figure import Figure

    counts = [len(panel) for panel in panels.values()]
    figure = Figure(figsize=(8, 0.5 * len(counts) + 0.4 + 0.36 * sum(counts)), dpi=150, layout="constrained")
    places = figure.subplots(len(counts), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (title, panel) in zip(places, panels.items(), strict=True):
        drawn = axes.barh(
            list(panel),
            [length for length, _ in panel.values()],
            color=[COLORS[name.startswith(OURS)] for name in panel],
        )
        axes.bar_label(drawn, [said for _, said in panel.values()], padding=4, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.invert_yaxis()
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")
