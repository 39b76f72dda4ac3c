"""Comparisons: of a results folder with an older one (regression check), and of `xsap evaluate` results side by side.

Regression check: if both folders still have the answers to each mention, differences are paired, and a system is worse
if the interval of the difference is below zero. Without the answers each figure has only its own interval, and a system
is worse if the two intervals do not overlap. Scores on different mentions are not compared.

Side by side: systems are compared only under one protocol and on the same mentions in every language; anything else is
an error. The table is Markdown that can be read as plain text.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.results import RunResults
from benchmarks.accuracy.scores import MEAN_ROW, difference_of, kept_answers
from xsap.errors import ConfigError, DataError
from xsap.evaluation.metrics import hits
from xsap.files import missing_file
from xsap.languages import to_name
from xsap.page import Table, best_cells, markdown, percent, to_markdown
from xsap.plots import Bar, save, score_bars

NO_DIFFERENCE, BETTER, WORSE, NOT_COMPARED = "no significant difference", "better", "worse", "not compared"
UNPAIRED = "by each folder's own interval, since the answers of both, in one order, are not there"


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one system's mean Acc@1 on one task.

    Attributes:
        task: The task.
        system: The system.
        old: Acc@1 in the older folder, in [0, 1]; None if it is not there.
        new: Acc@1 in the newer folder.
        interval: 95 % interval of the difference; None if it is not paired.
        verdict: NO_DIFFERENCE, BETTER, WORSE or NOT_COMPARED.
        reason: Why it is NOT_COMPARED; or UNPAIRED.
    """

    task: str
    system: str
    old: float | None
    new: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str = ""


def find_changes(old: RunResults, new: RunResults, old_folder: Path, new_folder: Path) -> list[Change]:
    """The change of each system on each task of either folder.

    Args:
        old: The older results.
        new: The newer results.
        old_folder: Their folder, for the answers.
        new_folder: Their folder, for the answers.
    """
    folders = ((old, old_folder), (new, new_folder))
    pairs = [(task, system) for run, _ in folders for task, scored in run.scores.items() for system in scored.scores]
    return [_change(task, system, folders) for task, system in dict.fromkeys(pairs)]


_Folders = tuple[tuple[RunResults, Path], tuple[RunResults, Path]]


def _change(task: str, system: str, folders: _Folders) -> Change:
    scored = [run.scores[task].scores.get(system) if task in run.scores else None for run, _ in folders]
    old, new = (each["concept"][MEAN_ROW].scores["acc@1"] if each else None for each in scored)
    if old is None or new is None:
        reason = "only in the newer folder" if old is None else "only in the older folder"
        return Change(task, system, old and old.value, new and new.value, None, NOT_COMPARED, reason)
    if reason := _incomparable(task, folders):
        return Change(task, system, old.value, new.value, None, NOT_COMPARED, reason)
    paired = _paired_interval(task, system, folders)
    if paired is not None:
        verdict = WORSE if paired[1] < 0 else BETTER if paired[0] > 0 else NO_DIFFERENCE
        return Change(task, system, old.value, new.value, paired, verdict)
    assert None not in (*old, *new), "scores of a task that has mentions are numbers"
    verdict = WORSE if new.high < old.low else BETTER if new.low > old.high else NO_DIFFERENCE  # type: ignore[operator]
    return Change(task, system, old.value, new.value, None, verdict, UNPAIRED)


def _incomparable(task: str, folders: _Folders) -> str:
    for what, reason in (("mentions", "another mention set"), ("dictionary", "another dictionary")):
        if len({run.tasks[task][what]["sha256"] for run, _ in folders}) > 1:
            return reason
    return ""


def _paired_interval(task: str, system: str, folders: _Folders) -> tuple[float, float] | None:
    """The interval of the difference of means over languages; None without answers of both to the same rows."""
    old, new = (kept_answers(folder / "answers", run.scores[task].answers[system]) for run, folder in folders)
    if old is None or new is None:
        return None
    if not all(old.table[column].equals(new.table[column]) for column in ("language", "mention")):
        return None
    codes = np.array(old.table["language"].to_pylist(), object)
    values = [[hits(each.ranks("concept"), 1)[codes == code] for code in sorted(set(codes))] for each in (old, new)]
    found = difference_of(values[0], values[1])
    return found.low, found.high


def changes_to_markdown(changes: Sequence[Change], old: str, new: str) -> str:
    """A table of changes. old, new: the names of the two folders."""
    old, new = (f"{old} (older)", f"{new} (newer)") if old == new else (old, new)
    rows = [["task", "system", f"Acc@1 in {old}", f"in {new}", "difference", "verdict"]]
    for c in changes:
        gain = "" if c.old is None or c.new is None or c.verdict == NOT_COMPARED else f"{100 * (c.new - c.old):+.1f}"
        if c.interval:
            gain += f" [{100 * c.interval[0]:+.1f}, {100 * c.interval[1]:+.1f}]"
        verdict = c.verdict + (f": {c.reason}" if c.reason else "")
        rows.append([c.task, c.system, percent(c.old), percent(c.new), gain, verdict])
    return to_markdown([Table(rows)]).rstrip("\n")


# Side by side

CUT_LABELS = {"acc@1": "Acc@1", "acc@5": "Acc@5"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One system's results of `xsap evaluate --json`: its name, their file, and its content."""

    name: str
    file: Path
    report: Mapping[str, Any]

    @property
    def rows(self) -> dict[str, Mapping[str, Any]]:
        """Scores by language, then the mean over languages."""
        return {**self.report["languages"], MEAN_ROW: self.report["mean"]}


def read_systems(given: Sequence[str]) -> list[Evaluation]:
    """`NAME=FILE` arguments as results that may be compared. Raises ConfigError or DataError if they may not."""
    systems: list[Evaluation] = []
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ConfigError(f"expected NAME=FILE such as after=after.json, found '{text}'")
        if name in {system.name for system in systems}:
            raise ConfigError(f"expected different names for all systems, found '{name}' twice")
        systems.append(Evaluation(name, Path(file), _read_evaluation(Path(file))))
    for other in systems[1:]:
        _check_comparable(systems[0], other)
    return systems


def _read_evaluation(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise missing_file(file, "the results of xsap evaluate --json")
    try:
        report: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        rows = [*report["languages"].values(), report["mean"]]
        complete = all(
            isinstance(row["n"], int) and all(isinstance(row[cut], float | int) for cut in CUT_LABELS) for row in rows
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        complete = False
    if not complete:
        expected = f"languages and mean, each with n, {' and '.join(CUT_LABELS)}"
        raise DataError(f"{file}: expected the results of xsap evaluate --json: {expected}")
    return report


def _check_comparable(one: Evaluation, other: Evaluation) -> None:
    files = f"{one.file} and {other.file}"
    protocols = [system.report.get("protocol") for system in (one, other)]
    if protocols[0] != protocols[1]:
        found = f"found {protocols[0]} and {protocols[1]}; their scores mean different things"
        raise DataError(f"{files}: expected one protocol, {found}")
    advice = "evaluate both on one file"
    counts = [{code: row["n"] for code, row in system.report["languages"].items()} for system in (one, other)]
    for code in sorted(counts[0].keys() | counts[1].keys()):
        n, m = (count.get(code, 0) for count in counts)
        if n != m:
            raise DataError(f"{files}: expected the same mentions, found {n:,} and {m:,} in '{code}'; {advice}")
    hashes = [system.report.get("mentions", {}).get("sha256") for system in (one, other)]
    if all(hashes) and hashes[0] != hashes[1]:
        raise DataError(f"{files}: expected the same mentions, found two files of different content; {advice}")


def comparison_rows(systems: Sequence[Evaluation]) -> list[list[str]]:
    """The table of scores: a row for each language and the mean, a column for each system and score."""
    header = [f"{label} {system.name}" for label in CUT_LABELS.values() for system in systems]
    rows = [["language", "n", *header]]
    for code, first in systems[0].rows.items():
        rows.append(
            [code, f"{first['n']:,}", *(_cell(system.rows[code], cut) for cut in CUT_LABELS for system in systems)]
        )
    return rows


def comparison_table(systems: Sequence[Evaluation]) -> Table:
    """Scores with a row for each system, a column for each language and the mean, and the best of each column in bold: for LaTeX."""
    codes = list(systems[0].rows)
    rows = [["system", *(f"{label} {code}" for label in CUT_LABELS.values() for code in codes)]]
    rows += [
        [system.name, *(percent(system.rows[code][cut]) for cut in CUT_LABELS for code in codes)] for system in systems
    ]
    return Table(rows, bold=best_cells(rows, range(1, len(rows[0]))))


def comparison_figures(systems: Sequence[Evaluation]) -> list[list[object]]:
    """All figures with a row for each system, language and score, as fractions: for CSV."""
    rows: list[list[object]] = [["system", "language", "n", "metric", "value", "low", "high"]]
    for system in systems:
        for code, row in system.rows.items():
            rows += [[system.name, code, row["n"], cut, *_bar(row, cut)] for cut in CUT_LABELS]
    return rows


def comparison_to_markdown(systems: Sequence[Evaluation]) -> str:
    """A table of scores, after the protocol and before the gains over the first system and what each system is."""
    rows = comparison_rows(systems)
    protocol = systems[0].report.get("protocol", "not stated")
    head = f"Protocol: {protocol}. Percent, with 95 % bootstrap intervals; the mean gives each language equal weight."
    notes = [f"- {line}" for line in [*_gains(systems), *map(_provenance, systems)]]
    return "\n".join([head, "", *markdown(rows), "", *notes])


def _cell(row: Mapping[str, Any], cut: str) -> str:
    bar = _bar(row, cut)
    score = f"{100 * row[cut]:.1f}"
    return score if bar.low is None or bar.high is None else f"{score} [{100 * bar.low:.1f}, {100 * bar.high:.1f}]"


def _bar(row: Mapping[str, Any], cut: str) -> Bar:
    """A score and its interval; no interval if there is none, or it is of no mentions (nan)."""
    low, high = row.get(f"{cut}_interval") or (math.nan, math.nan)
    return Bar(row[cut]) if math.isnan(low) or math.isnan(high) else Bar(row[cut], low, high)


def _gains(systems: Sequence[Evaluation]) -> list[str]:
    first = systems[0]
    return [
        f"mean {label}: {other.name} − {first.name} = {100 * (other.report['mean'][cut] - first.report['mean'][cut]):+.1f} points"
        for other in systems[1:]
        for cut, label in CUT_LABELS.items()
    ]


def _provenance(system: Evaluation) -> str:
    parts = [f"{system.name}: {system.file.name}"]
    if model := system.report.get("model"):
        parts.append(f"model {str(model)[:12]}")
    dictionary = system.report.get("dictionary") or {}
    if "names" in dictionary and "concepts" in dictionary:
        parts.append(f"{dictionary['names']:,} names of {dictionary['concepts']:,} concepts")
    return ", ".join(parts)


def plot(systems: Sequence[Evaluation], path: Path) -> None:
    """Acc@1 by language and system as a bar chart, in a .png or .svg file. Raises ConfigError without matplotlib."""
    groups = {
        f"{code if code == MEAN_ROW else to_name(code)} (n = {row['n']:,})": [
            _bar(system.rows[code], "acc@1") for system in systems
        ]
        for code, row in systems[0].rows.items()
    }
    title = "Mentions linked to the right concept (Acc@1), with 95 % bootstrap intervals"
    save(score_bars(groups, [system.name for system in systems], title=title), path)
