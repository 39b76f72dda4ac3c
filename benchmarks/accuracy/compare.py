"""A results folder against an older one: what each system that stands in both gained or lost, task by task.

Where both folders still hold what was answered, mention by mention, differences are paired, and surely worse means that the interval of the
difference lies below zero. Without those answers the older figure has only its own interval, and worse means that the two don't
overlap. Scores on other mentions are not compared at all: that is said, and nothing more.

Results of several systems → one table and one bar chart, side by side.

Reads what `xsap evaluate --json` writes. Systems are set side by side only where that is fair: one protocol, and the same number of
the same mentions in every language; anything else is an error, not a footnote. The table is Markdown that reads as plain text.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.accuracy.scores import difference_of, kept_answers
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError, DataError
from xsap.evaluation.metrics import hits
from xsap.languages import to_name
from xsap.page import Table, markdown, percent, to_markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Results = Mapping[str, Any]
SAME, BETTER, WORSE, UNLIKE = "no sure difference", "better", "worse", "not compared"
UNPAIRED = "by each folder's own interval, for the answers of both, in one order, are not there"


@dataclass(frozen=True, slots=True)
class Change:
    """Of one system's mean Acc@1 on one task, in [0, 1]. interval: of the difference, where it is paired. why: of UNLIKE; UNPAIRED."""

    task: str
    system: str
    old: float | None
    new: float | None
    interval: tuple[float, float] | None
    verdict: str
    why: str = ""


def differences(old: Results, new: Results, old_folder: Path, new_folder: Path) -> list[Change]:
    """A row for each task and system of either folder."""
    pairs = [
        (task, system)
        for results in (old, new)
        for task, scored in results["scores"].items()
        for system in scored["scores"]
    ]
    return [_change(task, system, old, new, old_folder, new_folder) for task, system in dict.fromkeys(pairs)]


def _change(task: str, system: str, old: Results, new: Results, old_folder: Path, new_folder: Path) -> Change:
    rows = [results["scores"].get(task, {}).get("scores", {}).get(system) for results in (old, new)]
    before, after = (row["concept"]["mean"]["acc@1"] if row else None for row in rows)
    why = (
        "only in the newer folder"
        if not rows[0]
        else "only in the older folder"
        if not rows[1]
        else _unlike(task, old, new)
    )
    if why:
        return Change(task, system, before, after, None, UNLIKE, why)
    paired = _paired(task, system, old, new, old_folder, new_folder)
    if paired is not None:
        low, high = paired
        return Change(task, system, before, after, paired, WORSE if high < 0 else BETTER if low > 0 else SAME)
    (old_low, old_high), (new_low, new_high) = (row["concept"]["mean"]["acc@1_interval"] for row in rows if row)
    return Change(
        task,
        system,
        before,
        after,
        None,
        WORSE if new_high < old_low else BETTER if new_low > old_high else SAME,
        UNPAIRED,
    )


def _unlike(task: str, old: Results, new: Results) -> str:
    for what in ("mentions", "dictionary"):
        if old["tasks"][task][what]["sha256"] != new["tasks"][task][what]["sha256"]:
            return f"another {what.removesuffix('s')}" + (" set" if what == "mentions" else "")
    return ""


def _paired(
    task: str, system: str, old: Results, new: Results, old_folder: Path, new_folder: Path
) -> tuple[float, float] | None:
    """The interval of the difference of means over languages; None where one folder has no answers, or not of the same rows."""
    sides = []
    for results, folder in ((old, old_folder), (new, new_folder)):
        kept = kept_answers(folder / "answers", results["scores"][task]["answers"][system])
        if kept is None:
            return None
        sides.append(kept)
    languages = [side.table["language"] for side in sides]
    mentions = [side.table["mention"] for side in sides]
    if not (_equal(*languages) and _equal(*mentions)):
        return None
    codes = np.array(languages[0].to_pylist(), object)
    groups = [[hits(side.ranks("concept"), 1)[codes == code] for code in sorted(set(codes))] for side in sides]
    found = difference_of(groups[0], groups[1])
    return found.low, found.high


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    return bool(one.equals(other))


def to_text(changes: list[Change], old: Path, new: Path) -> str:
    """A Markdown table."""
    rows = [["task", "system", f"Acc@1 in {old}", f"in {new}", "difference", "verdict"]]
    for c in changes:
        gain = "" if c.old is None or c.new is None or c.verdict == UNLIKE else f"{100 * (c.new - c.old):+.1f}"
        if c.interval:
            gain += f" [{100 * c.interval[0]:+.1f}, {100 * c.interval[1]:+.1f}]"
        rows.append(
            [c.task, c.system, percent(c.old), percent(c.new), gain, c.verdict + (f": {c.why}" if c.why else "")]
        )
    return to_markdown([Table(rows)]).rstrip("\n")


CUTS = ("acc@1", "acc@5")
_LABELS = {"acc@1": "Acc@1", "acc@5": "Acc@5"}
_COLORS = ("#9aa5b1", "#1f6fb2", "#e08a1e", "#3a8f5c", "#b5485d", "#7a5ea8")  # told apart by eye and in grey


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
        raise DataError(
            f"{file}: expected the results of xsap evaluate --json, found nothing there. Is the path right?"
        )
    try:
        report: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = [*report["languages"].values(), report["mean"]]
        complete = all(
            isinstance(row["n"], int) and all(isinstance(row[cut], float | int) for cut in CUTS) for row in rows
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        raise DataError(
            f"{file}: expected the results of xsap evaluate --json: languages and mean, each with n, {' and '.join(CUTS)}"
        )
    return report


def _check_comparable(one: System, other: System) -> None:
    places = f"{one.file} and {other.file}"
    protocols = [system.report.get("protocol") for system in (one, other)]
    if protocols[0] != protocols[1]:
        raise DataError(
            f"{places}: expected one protocol, found {protocols[0]} and {protocols[1]}; their scores mean different things"
        )
    counts = [{code: row["n"] for code, row in system.report["languages"].items()} for system in (one, other)]
    for code in sorted(counts[0].keys() | counts[1].keys()):
        n, m = (count.get(code, 0) for count in counts)
        if n != m:
            raise DataError(
                f"{places}: expected the same mentions, found {n:,} and {m:,} in '{code}'; evaluate both on one file"
            )
    hashes = [system.report.get("mentions", {}).get("sha256") for system in (one, other)]
    if all(hashes) and hashes[0] != hashes[1]:
        raise DataError(
            f"{places}: expected the same mentions, found two files of different content; evaluate both on one file"
        )


def comparison_to_markdown(systems: Sequence[System]) -> str:
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
    axes.set_title(
        f"Mentions linked to the right concept at first place ({_LABELS[cut]})" if cut == "acc@1" else _LABELS[cut]
    )
    axes.yaxis.grid(True, color="#dddddd")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(
        loc="outside lower center", ncols=len(systems), frameon=False, title="lines: 95 % bootstrap intervals"
    )
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
    axes.bar(at, heights, width * 0.92, label=system.name, color=_COLORS[number % len(_COLORS)])
    axes.errorbar(at, heights, yerr=[below, above], fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    for x, height, more in zip(at, heights, above, strict=True):
        if not math.isnan(height):
            axes.text(x, height + more + 1, f"{height:.0f}", ha="center", va="bottom", fontsize=8)


def _tick(code: str, row: Mapping[str, Any]) -> str:
    return f"{'mean' if code == 'mean' else to_name(code)}\nn = {row['n']:,}"
