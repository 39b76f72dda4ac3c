"""A results folder against an older one: what each system that stands in both gained or lost, task by task.

Where both folders still hold what was answered, mention by mention, differences are paired, and surely worse means that the interval of the
difference lies below zero. Without those answers the older figure has only its own interval, and worse means that the two don't
overlap. Scores on other mentions are not compared at all: that is said, and nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.accuracy import difference_of, kept_answers
from benchmarks.page import Table, per_cent, to_markdown
from xsap.linking.metrics import hits

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
    pairs = [(task, system) for results in (old, new) for task, scored in results["scores"].items() for system in scored["scores"]]
    return [_change(task, system, old, new, old_folder, new_folder) for task, system in dict.fromkeys(pairs)]


def _change(task: str, system: str, old: Results, new: Results, old_folder: Path, new_folder: Path) -> Change:
    rows = [results["scores"].get(task, {}).get("scores", {}).get(system) for results in (old, new)]
    before, after = (row["concept"]["mean"]["acc@1"] if row else None for row in rows)
    why = "only in the newer folder" if not rows[0] else "only in the older folder" if not rows[1] else _unlike(task, old, new)
    if why:
        return Change(task, system, before, after, None, UNLIKE, why)
    paired = _paired(task, system, old, new, old_folder, new_folder)
    if paired is not None:
        low, high = paired
        return Change(task, system, before, after, paired, WORSE if high < 0 else BETTER if low > 0 else SAME)
    (old_low, old_high), (new_low, new_high) = (row["concept"]["mean"]["acc@1_interval"] for row in rows if row)
    return Change(task, system, before, after, None, WORSE if new_high < old_low else BETTER if new_low > old_high else SAME, UNPAIRED)


def _unlike(task: str, old: Results, new: Results) -> str:
    for what in ("mentions", "dictionary"):
        if old["tasks"][task][what]["sha256"] != new["tasks"][task][what]["sha256"]:
            return f"another {what.removesuffix('s')}" + (" set" if what == "mentions" else "")
    return ""


def _paired(task: str, system: str, old: Results, new: Results, old_folder: Path, new_folder: Path) -> tuple[float, float] | None:
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
        rows.append([c.task, c.system, per_cent(c.old), per_cent(c.new), gain, c.verdict + (f": {c.why}" if c.why else "")])
    return to_markdown([Table(rows)]).rstrip("\n")
