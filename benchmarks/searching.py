"""The race of searching: 1,000 mentions and one mention in a million made-up vectors, ours in each storage against the usual ways.

The usual ways are what the original's evaluation does, a product with all vectors and a sort of all scores for one mention after another
(measured on a part, and multiplied), and faiss's exact index, where it is installed. Recall is counted against the exact float32 answers.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.page import markdown
from benchmarks.searchers import APPROXIMATE, FAISS, PLAIN, SINGLES, K, in_a_process, write_sets
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError

STORAGES = ("float32", "float16", "int8")
NINE_MILLION, FULL = 9_000_000, {"names": 1_000_000, "dimension": 768, "mentions": 1000}


def race(*, names: int, dimension: int, mentions: int, approximate: bool, place: Path | None, seed: int = 0) -> dict[str, Any]:
    """The whole race → its figures. place: where some 9 kB a name fit while it lasts."""
    sides = [PLAIN, *([FAISS] if find_spec("faiss") else []), *(f"xsap {storage}" for storage in STORAGES)]
    sides += [APPROXIMATE] if approximate else []
    figures: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="xsap-search-", dir=place) as folder:
        write_sets(Path(folder), names, dimension, mentions, STORAGES, seed)
        _say(f"{names:,} × {dimension} written in {', '.join(STORAGES)}")
        if approximate:
            in_a_process("build", folder)
        for side in sides:
            figures[side] = json.loads(in_a_process("run", side, folder, "together"))
            one, all_of_them = median(figures[side]["single_seconds"]), figures[side]["batch_seconds"]
            _say(f"{side}: one {1000 * one:.1f} ms, {mentions:,} in {all_of_them:.2f} s, {figures[side]['bytes'] / 1e9:.2f} GB")
        rows = {side: np.load(Path(folder) / f"{side}.npy") for side in sides}
    nearest = rows["xsap float32"]
    for side, found in rows.items():
        shared = [len(np.intersect1d(*pair)) for pair in zip(found, nearest, strict=False)]
        figures[side]["recall@10"] = float(np.mean(shared)) / nearest.shape[1]
        figures[side]["single_p50"] = median(figures[side]["single_seconds"])
    size = {"names": names, "dimension": dimension, "mentions": mentions}
    return size | {"k": K, "seed": seed, "sides": figures, "bars": _bars(figures) if size == FULL else [], **_machine()}


def race_nine_million(*, names: int = NINE_MILLION, dimension: int, place: Path | None, seed: int = 0) -> dict[str, Any]:
    """Vectors of all of UMLS, as int8 alone: opened, and asked one mention at a time."""
    with TemporaryDirectory(prefix="xsap-search-", dir=place) as folder:
        start = time.perf_counter()
        write_sets(Path(folder), names, dimension, SINGLES + 1, ("int8",), seed)
        _say(f"{names:,} × {dimension} written in int8, in {time.perf_counter() - start:.0f} s")
        side = json.loads(in_a_process("run", "xsap int8", folder))
    side["single_p50"] = median(side["single_seconds"])
    bars = [
        _bar("opened, seconds", side["open_seconds"], 2, most=True),
        _bar("resident, GB (the whole process)", side["process_bytes"] / 1e9, 9, most=True),
        _bar("one mention, exact, seconds (p50)", side["single_p50"], 1, most=True),
    ]
    return {"names": names, "dimension": dimension, "seed": seed, "side": side, "bars": bars if names == NINE_MILLION else [], **_machine()}


def _bars(sides: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the search is held to at FULL size."""
    exact = sides["xsap float16"]
    bars = [
        _bar(f"times as fast as {PLAIN}, float16", sides[PLAIN]["batch_seconds"] / exact["batch_seconds"], 40),
        _bar("one mention, exact, float16, ms (p50)", 1000 * exact["single_p50"], 60, most=True),
    ]
    if FAISS in sides:
        theirs = sides[FAISS]["batch_seconds"]
        bars += [
            _bar(f"times as fast as {FAISS}, {side}", theirs / sides[side]["batch_seconds"], 1) for side in ("xsap float16", "xsap int8")
        ]
        bars.append(_bar(f"of {FAISS}'s memory, xsap int8", sides["xsap int8"]["bytes"] / sides[FAISS]["bytes"], 0.5, most=True))
    if APPROXIMATE in sides:
        bars.append(_bar("one mention, approximate, ms (p50)", 1000 * sides[APPROXIMATE]["single_p50"], 10, most=True))
        bars.append(_bar("recall@10, approximate", sides[APPROXIMATE]["recall@10"], 0.99))
    return bars


def _bar(what: str, found: float, bar: float, *, most: bool = False) -> dict[str, Any]:
    return {"what": what, "found": found, "bar": bar, "most": most, "met": found <= bar if most else found >= bar}


def _machine() -> dict[str, Any]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {"torch": str(torch.__version__), "numpy": np.__version__}
    return {"device": f"CPU {platform.machine()}", "cores": cores, "threads": torch.get_num_threads(), **versions}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def to_text(result: Mapping[str, Any]) -> str:
    """A race as a table for people, and under it what makes it comparable."""
    if "side" in result:
        side = result["side"]
        facts = [
            f"{result['names']:,} × {result['dimension']}, int8 alone: opened in {1000 * side['open_seconds']:.0f} ms, one mention "
            f"{1000 * side['single_p50']:.0f} ms (the first {1000 * side['first_seconds']:.0f}), {side['process_bytes'] / 1e9:.2f} GB resident"
        ]
        return "\n".join(f"- {fact}" for fact in [*facts, *_verdicts(result["bars"])])
    sides, count = result["sides"], f"{result['mentions']:,} mentions"
    rows = [["search", f"{count}, s", "times as fast", "than faiss", "one, ms (p50)", "slowest", "first", "memory, GB", "recall@10"]]
    for name, side in sides.items():
        took = f"{side['batch_seconds']:,.2f}" + (" (extrapolated)" if side["extrapolated"] else "")
        ratios = [f"{sides[rival]['batch_seconds'] / side['batch_seconds']:.1f}" if rival in sides else "" for rival in (PLAIN, FAISS)]
        alone = [f"{1000 * t:,.1f}" for t in (side["single_p50"], max(side["single_seconds"]), side["first_seconds"])]
        rows.append([name, took, *ratios, *alone, f"{side['bytes'] / 1e9:.2f}", f"{side['recall@10']:.4f}"])
    facts = [
        f"{count} × {result['names']:,} vectors × {result['dimension']} components, clustered, made up with seed {result['seed']}; the "
        f"{result['k']} best of each; {result['device']}, cores: {result['cores']}, threads: {result['threads']}, torch {result['torch']}, "
        f"numpy {result['numpy']}",
        f"{PLAIN}: one mention at a time, measured on {len(sides[PLAIN]['single_seconds'])}, and multiplied",
        "recall@10: against the exact float32 answers; of the other exact storages it tells what their rounding costs",
        "memory: of a process of its own, what it maps included, less that before it opened the vectors",
    ]
    if APPROXIMATE in sides:
        said = sides[APPROXIMATE]["facts"]
        facts.append(
            f"{APPROXIMATE}: built in {said['build_seconds']:,.0f} s, {said['bytes'] / 1e9:.2f} GB, width {said['width']}, "
            f"recall@64 {said['recall@64']:.4f} when it was built"
        )
    return "\n".join([*markdown(rows), "", *(f"- {fact}" for fact in [*facts, *_verdicts(result["bars"])])])


def _verdicts(bars: list[dict[str, Any]]) -> list[str]:
    return [
        f"{'met' if b['met'] else 'MISSED'}: {b['what']} {b['found']:.3g}, bar at {'most' if b['most'] else 'least'} {b['bar']:g}"
        for b in bars
    ]


def plot(result: Mapping[str, Any], path: Path) -> None:
    """The race as bars in a PNG file: mentions a second of each side, together and one at a time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.6 * len(result["sides"])), dpi=150, layout="constrained")
    sides = result["sides"]
    rates = {
        f"{result['mentions']:,} mentions at once: mentions a second": {
            n: result["mentions"] / s["batch_seconds"] for n, s in sides.items()
        },
        "One mention at a time: milliseconds": {n: 1000 * s["single_p50"] for n, s in sides.items()},
    }
    for axes, (title, lengths) in zip(figure.subplots(2, 1), rates.items(), strict=True):
        bars = axes.barh(
            list(lengths), list(lengths.values()), color=["#1f6fb2" if name.startswith("xsap") else "#9aa5b1" for name in lengths]
        )
        axes.bar_label(bars, [f"{length:,.3g}" for length in lengths.values()], padding=4, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")


def command(
    names: Annotated[int, typer.Option(min=K, help="Vectors to search.")] = FULL["names"],
    dimension: Annotated[int, typer.Option(min=2, help="Of the vectors.")] = FULL["dimension"],
    mentions: Annotated[int, typer.Option(min=SINGLES + 1, help="Asked at once.")] = FULL["mentions"],
    approximate: Annotated[bool, typer.Option("--approximate", help="Race the approximate search, too; its graph takes minutes.")] = False,
    nine_million: Annotated[bool, typer.Option("--nine-million", help="Only this: nine million vectors as int8, 7 GB of disk.")] = False,
    place: Annotated[Path | None, typer.Option("--in", help="A folder for what the race writes, instead of the system's own.")] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="A file for all figures as JSON.")] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="A .png file for a bar chart.")] = None,
) -> None:
    """Search among vectors: ours against a product with a full sort, and faiss; exit code 3 if ours misses a bar at full size."""
    if plot_to and (plot_to.suffix != ".png" or find_spec("matplotlib") is None):
        raise ConfigError(f"--plot writes a .png file, by matplotlib (pip install matplotlib); found {plot_to}")
    if approximate and find_spec("usearch") is None:
        raise ConfigError("--approximate needs usearch; install it: pip install 'xsap[ann]'")
    if nine_million:
        result = race_nine_million(dimension=dimension, place=place)
    else:
        result = race(names=names, dimension=dimension, mentions=mentions, approximate=approximate, place=place)
    if json_to:
        with write_atomically(json_to) as stream:
            json.dump(result, stream, indent=1)
    if plot_to and not nine_million:
        plot(result, plot_to)
    print(to_text(result))
    if not all(bar["met"] for bar in result["bars"]):
        raise typer.Exit(3)
