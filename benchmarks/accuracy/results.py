"""A results folder: `results.json` holds all that a report says, with its provenance; the pages are made from it alone.

Its last key is a hash of all the others: a figure that somebody changed by hand, or a damaged file, is noticed and not shown. What each
system answered stands in `answers/`, by the hash of what it follows from, and lets a later run be compared pair by pair.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import breakdowns as strata
from benchmarks.accuracy.breakdowns import EXAMPLES, classify_errors
from benchmarks.accuracy.scores import CURVE, PROTOCOLS, RankedAnswers, compare, curve_of, parts_of, scores_of
from benchmarks.accuracy.tasks import Task
from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.terms.terminology import Terminology

RESULTS = "results.json"
FORMAT = 1
_PACKAGES = ("xsap", "torch", "transformers", "tokenizers", "numpy", "pyarrow")
_NEEDED = ("format", "command", "created", "versions", "machine", "curve", "tasks", "systems", "scores", "sha256")

Results = dict[str, Any]


def provenance(command: Sequence[str]) -> Results:
    """What a run is, but for its tasks and systems."""
    return {
        "format": FORMAT,
        "command": shlex.join(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "machine": {
            "processor": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        },
        "curve": list(CURVE),
    }


def of_task(task: Task, answers: Mapping[str, RankedAnswers], examples: int = EXAMPLES) -> Results:
    """All scores of a task. answers: by system. examples: of each kind of error."""
    pairs = [(first, second) for i, first in enumerate(answers) for second in list(answers)[i + 1 :]]
    return {
        "scores": {
            label: {protocol: scores_of(task, each, protocol) for protocol in PROTOCOLS}
            for label, each in answers.items()
        },
        "curves": {label: curve_of(task, each) for label, each in answers.items()},
        "parts": _parts(task, answers),
        "comparisons": [
            {
                "first": first,
                "second": second,
                "rows": compare(task, *(answers[label].ranks("concept") for label in (first, second))),
            }
            for first, second in pairs
        ],
        "mistakes": {label: classify_errors(task, each, examples) for label, each in answers.items()},
        "answers": {label: each.key for label, each in answers.items()},
    }


def _parts(task: Task, answers: Mapping[str, RankedAnswers]) -> Results:
    """Acc@1 by seen-ness, semantic group, length and script: part → label → system. A part of one label is left out."""
    labeled = {
        "length": strata.by_length(task.mentions),
        "script": strata.by_script(task.mentions),
        "semantic group": strata.by_group(task.mentions, task.space.types),
    }
    if task.training:
        labeled = {"seen": strata.by_seen(task.mentions, Terminology.load(task.training)), **labeled}
    parts: Results = {}
    for part, labels in labeled.items():
        order = strata.in_order(labels)
        if len(order) > 1:
            parts[part] = {label: parts_of(labels, order, each) for label, each in answers.items()}
    return parts


def write_results(results: Results, folder: Path) -> None:
    """Write `results.json`; what is no number is null there."""
    said = _finite(results)
    with write_atomically(folder / RESULTS) as stream:
        json.dump(said | {"sha256": _digest(said)}, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def _finite(value: Any) -> Any:
    """Rounded to six digits: more say nothing. nan, which JSON has not, becomes null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 6)
    if isinstance(value, str):  # a path may hold bytes that are no UTF-8
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _digest(results: Results) -> str:
    """sha256 over all keys but `sha256`."""
    said = {key: value for key, value in results.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_results(folder: Path) -> Results:
    """A folder's results. Raises DataError for one that has none, or whose file is not as it was written."""
    file = folder / RESULTS
    if not file.is_file():
        raise DataError(
            f"{folder}: expected a results folder of `python -m benchmarks linking`, found no {RESULTS} there"
        )
    try:
        results: Results = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in _NEEDED if key not in results]
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: expected results as JSON, found what is none: {error}") from None
    if missing or results["format"] != FORMAT:
        found = f"no '{missing[0]}'" if missing else f"format {results['format']}"
        raise DataError(
            f"{file}: expected results of format {FORMAT}, found {found}; run `python -m benchmarks linking` again"
        )
    if results["sha256"] != _digest(results):
        raise DataError(
            f"{file}: expected what `python -m benchmarks linking` wrote, found that its sha256 is another; run that again"
        )
    return results
