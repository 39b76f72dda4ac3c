"""Time and memory from a UMLS release to training data: `xsap-prepare umls` against the original notebook.

Each implementation is a process of its own, timed from start to end, imports included; its memory is the maximum
resident size that the system reports (`ru_maxrss` of wait4). Rounds are interleaved.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from xsap.errors import XsapError
from xsap.page import markdown
from xsap.terminal import log

OURS, NOTEBOOK = "xsap-prepare umls", "original notebook"


@dataclass(frozen=True, slots=True)
class ProcessRun:
    """One run of a program: seconds, and maximum resident bytes."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class PrepareComparison:
    """Result of `compare_prepare`. meta: file → bytes. implementations: name → its runs."""

    meta: dict[str, int]
    tradenames: bool
    implementations: dict[str, list[ProcessRun]]


def compare_prepare(
    meta: Path, *, tradenames: bool, rounds: int, notebook: bool, max_memory: str | None = None
) -> PrepareComparison:
    """Time both programs on a release.

    Args:
        meta: META folder of the release.
        tradenames: Whether to read MRREL for trade names, too.
        rounds: Runs of each program.
        notebook: Whether to run the notebook, which reads the whole release into memory.
        max_memory: Limit of our sort, such as 2GB.

    Returns:
        Seconds and bytes of each run.

    Raises:
        XsapError: A program fails.
    """
    runs: dict[str, list[ProcessRun]] = {name: [] for name in ((OURS, NOTEBOOK) if notebook else (OURS,))}
    extra = ["--tradenames"] if tradenames else []
    for _ in range(rounds):
        for name in runs:
            with TemporaryDirectory(prefix="xsap-prepare-", dir=meta.parent) as work:
                out = str(Path(work) / "out")
                words = ["benchmarks.speed.notebook", str(meta), out, *extra]
                if name == OURS:
                    limit = ["--max-memory", max_memory] if max_memory else []
                    words = ["data_prep", "umls", str(meta), "--out", out, "--suppress", "all", *extra, *limit]
                each = run_process([sys.executable, "-m", *words])
            runs[name].append(each)
            log(f"{name}: {each.seconds:.1f} s, {each.bytes / 1e9:.2f} GB")
    files = {file.name: file.stat().st_size for file in sorted(meta.glob("*.RRF"))}
    return PrepareComparison(files, tradenames, runs)


def run_process(command: Sequence[str]) -> ProcessRun:
    """Run a command and measure it. Raises XsapError if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = " ".join(command[1:4])
        raise XsapError(f"expected {words} to succeed, found exit code {process.returncode}; see its message above")
    return ProcessRun(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def to_text(result: PrepareComparison) -> str:
    """A Markdown table of medians, and their ratios to the notebook's."""
    seconds = {name: median(run.seconds for run in runs) for name, runs in result.implementations.items()}
    memory = {name: median(run.bytes for run in runs) for name, runs in result.implementations.items()}
    rows = [["", "seconds", "speed-up", "peak memory, GB", "memory reduction"]]
    for name, took in seconds.items():
        ratios = [f"{of[NOTEBOOK] / of[name]:.1f}" if NOTEBOOK in of else "" for of in (seconds, memory)]
        rows.append([name, f"{took:.1f}", ratios[0], f"{memory[name] / 1e9:.2f}", ratios[1]])
    return "\n".join(markdown(rows))
