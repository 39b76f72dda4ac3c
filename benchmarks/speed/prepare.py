"""How long a UMLS release takes to become training data, and how much memory: `xsap-prepare umls` against the original notebook.

Each side is a process of its own, timed from its start to its end, imports included; its memory is the highest that the system saw
resident (`ru_maxrss` of wait4). The sides take turns.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.speed.synthetic_umls import generate
from xsap.errors import XsapError
from xsap.page import markdown

app = typer.Typer(add_completion=False, rich_markup_mode=None)

OURS, NOTEBOOK = "xsap-prepare umls", "original notebook"


def compare_speed(
    meta: Path, *, tradenames: bool, rounds: int, rival: bool, max_memory: str | None = None
) -> dict[str, Any]:
    """Seconds and bytes of each side, by turn. Raises XsapError if a side fails."""
    sides: dict[str, list[dict[str, float]]] = {side: [] for side in ((OURS, NOTEBOOK) if rival else (OURS,))}
    extra = ["--tradenames"] if tradenames else []
    for _ in range(rounds):
        for side, runs in sides.items():
            with TemporaryDirectory(prefix="xsap-race-", dir=meta.parent) as place:
                out = str(Path(place) / "out")
                if side == OURS:
                    limit = ["--max-memory", max_memory] if max_memory else []
                    words = ["data_prep", "umls", str(meta), "--out", out, "--suppress", "all", *extra, *limit]
                else:
                    words = ["benchmarks.speed.notebook", str(meta), out, *extra]
                runs.append(timed([sys.executable, "-m", *words]))
            print(f"{side}: {runs[-1]['seconds']:.1f} s, {runs[-1]['bytes'] / 1e9:.2f} GB", file=sys.stderr, flush=True)
    return {
        "meta": {file.name: file.stat().st_size for file in sorted(meta.glob("*.RRF"))},
        "tradenames": tradenames,
        "sides": sides,
    }


def timed(command: Sequence[str]) -> dict[str, float]:
    """Run a command → seconds, and bytes resident at most. Raises XsapError if it fails."""
    import time

    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise XsapError(
            f"{' '.join(command[1:4])} ended with exit code {process.returncode}; its own message stands above"
        )
    return {"seconds": time.perf_counter() - start, "bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def to_text(result: Mapping[str, Any]) -> str:
    """A Markdown table of medians, and the ratios to the last side."""
    medians = {
        side: {unit: statistics.median(run[unit] for run in runs) for unit in ("seconds", "bytes")}
        for side, runs in result["sides"].items()
    }
    rows = [["", "seconds", "times as fast", "peak memory, GB", "times less memory"]]
    rival = medians.get(NOTEBOOK)
    for side, m in medians.items():
        ratios = [f"{rival[unit] / m[unit]:.1f}" if rival else "" for unit in ("seconds", "bytes")]
        rows.append([side, f"{m['seconds']:.1f}", ratios[0], f"{m['bytes'] / 1e9:.2f}", ratios[1]])
    return "\n".join(markdown(rows))


@app.command("synthetic-umls")
def synthetic_umls(
    out: Annotated[Path, typer.Option(help="The META folder to write.")],
    rows: Annotated[int, typer.Option(min=1, help="Of MRCONSO.")] = 100_000,
    relations: Annotated[int, typer.Option(min=0, help="Rows of MRREL.")] = 0,
    seed: Annotated[int, typer.Option(help="Another seed, another release.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what stands there, if xsap made it.")] = False,
) -> None:
    """A made-up UMLS release of any size."""
    generate(out, rows=rows, relations=relations, seed=seed, overwrite=overwrite)
    print(f"{out}: {rows:,} rows of MRCONSO, {relations:,} of MRREL")
