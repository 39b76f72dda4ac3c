"""A results folder: `results.json` holds everything that a report states; the pages are made from it alone.

Its last key is a hash of all others, so a damaged file, or a figure that was changed by hand, is an error. The answers
of each system are in `answers/`, by the hash of everything they depend on, so that a later run can be compared mention
by mention.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import TypeAdapter

from benchmarks.accuracy.breakdowns import (
    AblationCell,
    ErrorGroup,
    classify_errors,
    label_by_group,
    label_by_length,
    label_by_script,
    label_by_seen,
    sort_labels,
)
from benchmarks.accuracy.scores import (
    CURVE,
    RankedAnswers,
    SystemComparison,
    breakdown_of,
    compare_accuracy,
    curve_of,
    scores_of,
)
from benchmarks.accuracy.tasks import Task
from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.evaluation.metrics import ScoreRow
from xsap.evaluation.strata import strata_of
from xsap.terms.terminology import Terminology

RESULTS_FILE = "results.json"
FORMAT = 2
_ADVICE = "run `python -m benchmarks linking` again"
_PACKAGES = ("xsap", "torch", "transformers", "tokenizers", "numpy", "pyarrow")


def without_folder(word: str) -> str:
    """A word of a command with a path in it reduced to its last part, since folders tell of people and machines; a hub id stays.

    >>> without_folder("mantra=/home/ann/Mantra.zip"), without_folder("m=runs/x/model@cls"), without_folder("dmis-lab/biobert")
    ('mantra=Mantra.zip', 'm=model@cls', 'dmis-lab/biobert')
    """
    prefix = re.match(r"(?:[\w. -]+=|mentions:|index:)*", word)
    assert prefix is not None, "an empty prefix matches"
    path = word[prefix.end() :]
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not Path(path).exists()
    if is_hub_id or not re.search(r"[/\\]", path):
        return word
    return prefix[0] + re.split(r"[/\\]", path.rstrip("/\\"))[-1]


@dataclass(frozen=True)
class TaskResults:
    """All results of one task.

    Attributes:
        scores: System → protocol → language → scores.
        curves: System → accuracy at each k of the curve.
        breakdowns: Breakdown (length, script, …) → system → label → Acc@1.
        comparisons: Of each pair of systems.
        errors: System → kind → errors.
        answers: System → key of its answers.
    """

    scores: dict[str, dict[str, dict[str, ScoreRow]]]
    curves: dict[str, list[float | None]]
    breakdowns: dict[str, dict[str, dict[str, ScoreRow]]]
    comparisons: list[SystemComparison]
    errors: dict[str, dict[str, ErrorGroup]]
    answers: dict[str, str]


@dataclass(frozen=True)
class RunResults:
    """All results of one run, with its provenance.

    Attributes:
        command: The command line.
        created: When it ended.
        versions: Of Python and packages.
        machine: Processor and cores.
        curve: The k of accuracy curves.
        systems: System → its metadata.
        tasks: Task → its metadata.
        scores: Task → its results.
        ablations: Task → system → cells of the ablation of case and similarity.
    """

    command: str
    created: str
    versions: dict[str, str]
    machine: dict[str, Any]
    curve: list[int]
    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores: dict[str, TaskResults] = field(default_factory=dict)
    ablations: dict[str, dict[str, list[AblationCell]]] = field(default_factory=dict)

    @classmethod
    def from_command(cls, command: Sequence[str]) -> Self:
        """The results of a run that has no tasks and systems yet, with its provenance; paths in the command lose their folders."""
        packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
        return cls(
            shlex.join(map(without_folder, command)),
            datetime.now(UTC).isoformat(timespec="seconds"),
            {"python": platform.python_version(), **packages},
            {"processor": platform.machine(), "cores": cores},
            list(CURVE),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON; scores are lists of value, low and high."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The results that `to_dict` wrote. Raises pydantic's ValidationError, a ValueError, for anything else."""
        fields = {key: value for key, value in content.items() if key not in ("format", "sha256")}
        return TypeAdapter(cls).validate_python(fields)


def results_of_task(task: Task, answers: Mapping[str, RankedAnswers], examples: int = 3) -> TaskResults:
    """Score the answers to a task.

    Args:
        task: The task.
        answers: System → its answers.
        examples: Number of examples of each kind of error.
    """
    return TaskResults(
        scores={
            system: {protocol: scores_of(task, each, protocol) for protocol in each.protocols}
            for system, each in answers.items()
        },
        curves={system: list(curve_of(task, each)) for system, each in answers.items()},
        breakdowns=_breakdowns(task, answers),
        comparisons=[
            SystemComparison(one, other, compare_accuracy(task, *(answers[s].ranks("concept") for s in (one, other))))
            for one, other in combinations(answers, 2)
        ],
        errors={system: classify_errors(task, each, examples) for system, each in answers.items()},
        answers={system: each.key for system, each in answers.items()},
    )


def _breakdowns(task: Task, answers: Mapping[str, RankedAnswers]) -> dict[str, dict[str, dict[str, ScoreRow]]]:
    """Acc@1 by what training has seen, length, script and semantic group, unless there is only one label."""
    labels = {
        "length": label_by_length(task.mentions),
        "script": label_by_script(task.mentions),
        "semantic group": label_by_group(task.mentions, task.space.types),
    }
    if task.training_mentions is not None:
        labels = {"seen": list(map(str, strata_of(task.mentions, task.training_mentions))), **labels}
    elif task.training:
        labels = {"seen": label_by_seen(task.mentions, Terminology.load(task.training)), **labels}
    orders = {name: sort_labels(each) for name, each in labels.items()}
    return {
        name: {system: breakdown_of(labels[name], order, each) for system, each in answers.items()}
        for name, order in orders.items()
        if len(order) > 1
    }


def write_results(results: RunResults, folder: Path) -> None:
    """Write `results.json`; nan becomes null."""
    content = _to_json(results.to_dict())
    with write_atomically(folder / RESULTS_FILE) as stream:
        json.dump(content | {"sha256": _digest(content)}, stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def _to_json(value: Any) -> Any:
    """Floats rounded to six digits, since more are noise; nan as null; text that UTF-8 can encode."""
    if isinstance(value, dict):
        return {key: _to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 6)
    if isinstance(value, str):  # a path may hold bytes that are not UTF-8
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 over all keys but `sha256`."""
    hashed = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def read_results(folder: Path) -> RunResults:
    """A folder's results. Raises DataError if there are none, or the file is not as it was written."""
    file = folder / RESULTS_FILE
    if not file.is_file():
        expected = "expected a results folder of `python -m benchmarks linking`"
        raise DataError(f"{folder}: {expected}, found no {RESULTS_FILE} there")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content.get("format") if isinstance(content, dict) else None
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: expected results as JSON, found something else: {error}") from None
    if found != FORMAT:
        given = "no 'format'" if found is None else f"format {found}"
        raise DataError(f"{file}: expected results of format {FORMAT}, found {given}; {_ADVICE}")
    if content.get("sha256") != _digest(content):
        found = "found another sha256: the file was changed or damaged"
        raise DataError(f"{file}: expected results as they were written, {found}; {_ADVICE}")
    return RunResults.from_dict(content)
