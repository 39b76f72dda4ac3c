"""Results of several systems → one table and one bar chart, side by side.

Reads what `xsap evaluate --json` writes. Systems are set side by side only where that is fair: one protocol, and the same number of
the same mentions in every language; anything else is an error, not a footnote. The table is Markdown that reads as plain text.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.page import markdown
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError
from xsap.languages import to_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CUTS = ("acc@1", "acc@5")
_LABELS = {"acc@1": "Acc@1", "acc@5": "Acc@5"}
_COLOURS = ("#9aa5b1", "#1f6fb2", "#e08a1e", "#3a8f5c", "#b5485d", "#7a5ea8")  # told apart by eye and in grey


@dataclass(frozen=True, slots=True)
class System:
    """One system's results: its name, the file they came from, and what that file says."""

    name: str
    file: Path
    report: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """Scores by language, the mean over languages last."""
        return {**self.report["languages"], "mean": self.report["mean"]}


def read_systems(given: Sequence[str]) -> list[System]:
    """`NAME=FILE` arguments as systems that may be compared. Raises ConfigError or DataError where they may not."""
    systems: list[System] = []
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ConfigError(f"expected NAME=FILE such as after=after.json, found '{text}'")
        if name in {system.name for system in systems}:
            raise ConfigError(f"expected a name of its own for each system, found '{name}' twice")
        systems.append(System(name, Path(file), _read(Path(file))))
    for other in systems[1:]:
        _check_comparable(systems[0], other)
    return systems


def _read(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise DataError(f"{file}: expected the results of xsap evaluate --json, found nothing there. Is the path right?")
    try:
        report: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = [*report["languages"].values(), report["mean"]]
        complete = all(isinstance(row["n"], int) and all(isinstance(row[cut], float | int) for cut in CUTS) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise DataError(f"{file}: expected the results of xsap evaluate --json: languages and mean, each with n, {' and '.join(CUTS)}")
    return report


def _check_comparable(one: System, other: System) -> None:
    places = f"{one.file} and {other.file}"
    protocols = [system.report.get("protocol") for system in (one, other)]
    if protocols[0] != protocols[1]:
        raise DataError(f"{places}: expected one protocol, found {protocols[0]} and {protocols[1]}; their scores mean different things")
    counts = [{code: row["n"] for code, row in system.report["languages"].items()} for system in (one, other)]
    for code in sorted(counts[0].keys() | counts[1].keys()):
        n, m = (count.get(code, 0) for count in counts)
        if n != m:
            raise DataError(f"{places}: expected the same mentions, found {n:,} and {m:,} in '{code}'; evaluate both on one file")
    hashes = [system.report.get("mentions", {}).get("sha256") for system in (one, other)]
    if all(hashes) and hashes[0] != hashes[1]:
        raise DataError(f"{places}: expected the same mentions, found two files of different content; evaluate both on one file")


def to_markdown(systems: Sequence[System]) -> str:
    """The table, above it the protocol, below it what the means gained over the first system's, and what each system is."""
    rows = [["language", "n", *(f"{_LABELS[cut]} {system.name}" for cut in CUTS for system in systems)]]
    for code, first in systems[0].rows.items():
        rows.append([code, f"{first['n']:,}", *(_cell(system.rows[code], cut) for cut in CUTS for system in systems)])
    protocol = systems[0].report.get("protocol", "not stated")
    head = f"Protocol: {protocol}. Per cent, with 95 % bootstrap intervals; the mean takes each language alike."
    lines = [head, "", *markdown(rows), ""]
    lines += [f"- {line}" for line in [*_gains(systems), *map(_provenance, systems)]]
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], cut: str) -> str:
    score = f"{100 * row[cut]:.1f}"
    interval = _interval(row, cut)
    return score if interval is None else f"{score} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _interval(row: Mapping[str, Any], cut: str) -> tuple[float, float] | None:
    """The interval in [0, 1]; None where there is none, or it is of no mentions (nan)."""
    low, high = row.get(f"{cut}_interval") or (math.nan, math.nan)
    return None if math.isnan(low) or math.isnan(high) else (low, high)


def _gains(systems: Sequence[System]) -> list[str]:
    first = systems[0]
    return [
        f"mean {_LABELS[cut]}: {other.name} − {first.name} = {100 * (other.report['mean'][cut] - first.report['mean'][cut]):+.1f} points"
        for other in systems[1:]
        for cut in CUTS
    ]


def _provenance(system: System) -> str:
    parts = [f"{system.name}: {system.file.name}"]
    if model := system.report.get("model"):
        parts.append(f"model {str(model)[:12]}")
    dictionary = system.report.get("dictionary") or {}
    if "names" in dictionary and "concepts" in dictionary:
        parts.append(f"{dictionary['names']:,} names of {dictionary['concepts']:,} concepts")
    return ", ".join(parts)


def plot(systems: Sequence[System], path: Path, *, cut: str = "acc@1") -> None:
    """The scores as a bar chart in a PNG file: a group of bars a language, a bar a system. Raises ConfigError without matplotlib."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"a plot is written as PNG: expected a file that ends in .png, found {path}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ConfigError("--plot needs matplotlib; install it: pip install matplotlib") from None
    groups = list(systems[0].rows)
    width = 1.2 + len(groups) * max(0.85, 0.3 * (len(systems) + 1))
    figure = Figure(figsize=(max(6.4, width), 4.8), dpi=150, layout="constrained")
    axes = figure.subplots()
    places = [i + (0.4 if code == "mean" else 0.0) for i, code in enumerate(groups)]  # the mean stands a little apart
    for number, system in enumerate(systems):
        _bars(axes, system, cut, places, number, len(systems))
    axes.set_xticks(places, [_tick(code, row) for code, row in systems[0].rows.items()])
    axes.set_ylim(0, 108)  # room for a number above an interval that ends at 100
    axes.margins(x=0.02)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(f"{_LABELS[cut]}, per cent")
    axes.set_title(f"Mentions linked to the right concept at first place ({_LABELS[cut]})" if cut == "acc@1" else _LABELS[cut])
    axes.yaxis.grid(True, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(loc="outside lower center", ncols=len(systems), frameon=False, title="lines: 95 % bootstrap intervals")
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")


def _bars(axes: "Axes", system: System, cut: str, places: Sequence[float], number: int, systems: int) -> None:
    width = 0.8 / systems
    at = [place + (number - (systems - 1) / 2) * width for place in places]
    heights, below, above = [], [], []
    for row in system.rows.values():
        low, high = _interval(row, cut) or (row[cut], row[cut])
        heights.append(100 * row[cut])
        below.append(100 * max(0.0, row[cut] - low))
        above.append(100 * max(0.0, high - row[cut]))
    axes.bar(at, heights, width * 0.92, label=system.name, color=_COLOURS[number % len(_COLOURS)])
    axes.errorbar(at, heights, yerr=[below, above], fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    for x, height, more in zip(at, heights, above, strict=True):
        if not math.isnan(height):
            axes.text(x, height + more + 1, f"{height:.0f}", ha="center", va="bottom", fontsize=8)


def _tick(code: str, row: Mapping[str, Any]) -> str:
    return f"{'mean' if code == 'mean' else to_name(code)}\nn = {row['n']:,}"
