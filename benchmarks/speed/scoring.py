"""The race of scoring: mentions that are encoded already against a dictionary that is, by the original's evaluation and by our search.

The original takes one mention at a time: a dot product with every name by NumPy, and an argsort of all of them by torch, of which it keeps
the first few (`get_score_matrix` and `retrieve_candidate_cuda` of https://github.com/cambridgeltl/sapbert, src/model_wrapper.py; here
on the CPU). Each mention takes it as long as any other, so it is measured on a part, half of it before ours and half after, and its
seconds for all of them are that part's, multiplied. Ours answers all mentions. Both must find the same names for that part.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from xsap.artifacts import write_atomically
from xsap.page import markdown

K = 64  # names wanted of each mention
APART = 1e-6  # how far the cosines of both sides' names may be apart, rank by rank
MOST_SECONDS, LEAST_RATIO = 90, 20  # what ours is held to at FULL
FULL = {"names": 400_000, "mentions": 10_000, "dimension": 768}
REFERENCE, OURS = "one mention at a time", "xsap"

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


def unit_vectors(n: int, dimension: int, rng: np.random.Generator) -> Floats:
    """(n, dimension) of random directions."""
    vectors = rng.standard_normal((n, dimension), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def reference_search(vectors: Floats, queries: Floats, k: int) -> Rows:
    """(q, k) rows with the greatest dot product, as the original's evaluation finds them."""
    import torch

    best = []
    for query in queries:
        scores = torch.from_numpy(np.matmul(query[None], vectors.T))
        best.append(torch.argsort(scores, dim=1, descending=True)[0, :k].numpy())
    return np.array(best)


def check_agreement(vectors: Floats, queries: Floats, found: Mapping[str, Rows]) -> dict[str, float]:
    """How far both sides' names are apart, by their cosines in float64, rank by rank. An AssertionError if that is more than APART.

    Rows alone may differ, where two names are as near as float32 can tell: `same_rows` is the share of ranks where they don't.
    """
    first, second = found.values()
    assert first.shape == second.shape, f"{first.shape} rows by one side, {second.shape} by the other"
    for rows in (first, second):
        assert all(len(set(line)) == len(line) for line in rows.tolist()), "a name was found twice"
    apart = max(
        float(np.abs(_cosines(vectors[one], query) - _cosines(vectors[other], query)).max())
        for one, other, query in zip(first, second, queries, strict=True)
    )
    assert apart <= APART, f"the sides found different names: their cosines are up to {apart:.2g} apart"
    return {"cosine": apart, "same_rows": float((first == second).mean())}


def _cosines(vectors: Floats, query: Floats) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = vectors.astype(np.float64) @ query.astype(np.float64)
    return cosines


def compare_speed(*, names: int, mentions: int, dimension: int, part: int, seed: int = 0) -> dict[str, Any]:
    """The whole race → its figures. part: the mentions that the reference answers, at least two."""
    import torch

    from xsap.search.exact import search_array

    rng = np.random.default_rng(seed)
    vectors, queries = unit_vectors(names, dimension, rng), unit_vectors(mentions, dimension, rng)
    k, part = min(K, names), min(part, mentions)
    sides: dict[str, Callable[[Floats], Rows]] = {
        REFERENCE: lambda some: reference_search(vectors, some, k),
        OURS: lambda some: search_array(vectors, some, k)[1],
    }
    for answer in sides.values():
        answer(queries[:2])  # a warm-up
    turns = ((REFERENCE, queries[: part // 2]), (OURS, queries), (REFERENCE, queries[part // 2 : part]))
    found: dict[str, list[Rows]] = {side: [] for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    of_cpu: dict[str, float] = dict.fromkeys(sides, 0.0)
    for side, some in turns:
        start, start_of_cpu = time.perf_counter(), time.process_time()
        found[side].append(sides[side](some))
        seconds[side].append(time.perf_counter() - start)
        of_cpu[side] += time.process_time() - start_of_cpu
        print(f"{side}: {len(some):,} mentions in {seconds[side][-1]:.1f} s", file=sys.stderr, flush=True)
    agreement = check_agreement(
        vectors, queries[:part], {side: np.concatenate(rows)[:part] for side, rows in found.items()}
    )
    extrapolated, ours = sum(seconds[REFERENCE]) / part * mentions, sum(seconds[OURS])
    within = ours <= MOST_SECONDS and extrapolated / ours >= LEAST_RATIO
    size = {"names": names, "mentions": mentions, "dimension": dimension}
    return size | {
        "k": k,
        "seed": seed,
        "sides": {
            REFERENCE: {
                "measured": part,
                "all_seconds": seconds[REFERENCE],
                "seconds": extrapolated,
                "extrapolated": part < mentions,
            },
            OURS: {"measured": mentions, "all_seconds": seconds[OURS], "seconds": ours, "extrapolated": False},
        },
        "times_as_fast": extrapolated / ours,
        "flops_a_second": 2.0 * names * mentions * dimension / ours,
        "cores_busy": {side: of_cpu[side] / sum(seconds[side]) for side in sides},
        "agreement": agreement,
        "bars": {"seconds": MOST_SECONDS, "times_as_fast": LEAST_RATIO},
        "within_bars": within if size == FULL else None,
        "device": f"CPU {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def to_text(result: Mapping[str, Any]) -> str:
    """The race as a table for people, and under it what makes it comparable."""
    rows = [["scoring", "mentions measured", "in seconds", "seconds for all", "ms a mention", "times as fast"]]
    theirs = result["sides"][REFERENCE]["seconds"]
    for name, side in result["sides"].items():
        took = f"{side['seconds']:,.1f}" + (" (extrapolated)" if side["extrapolated"] else "")
        figures = [
            f"{side['measured']:,}",
            f"{sum(side['all_seconds']):,.1f}",
            took,
            f"{1000 * side['seconds'] / result['mentions']:.2f}",
        ]
        rows.append([name, *figures, f"{theirs / side['seconds']:.1f}"])
    part, agreement = result["sides"][REFERENCE], result["agreement"]
    turns = " and ".join(f"{seconds:.1f}" for seconds in part["all_seconds"])
    busy = ", ".join(f"{side} {cores:.1f}" for side, cores in result["cores_busy"].items())
    metadata = [
        f"{result['mentions']:,} mentions × {result['names']:,} names × {result['dimension']} dimensions, float32, random unit vectors of seed "
        f"{result['seed']}; the {result['k']} best of each; {result['device']}, cores: {result['cores']}, threads: {result['threads']}, "
        f"torch {result['torch']}, numpy {result['numpy']}",
        f"{REFERENCE}: measured on {100 * part['measured'] / result['mentions']:g} % of the mentions, half before ours and half after "
        f"({turns} s), and multiplied",
        f"same names for those: cosines at most {agreement['cosine']:.1e} apart, rank by rank; {100 * agreement['same_rows']:g} % the same row",
        f"cores kept busy: {busy}; fewer than there are threads if the machine had other work as well",
        f"ours: {result['flops_a_second'] / 1e9:,.0f} GFLOP/s, if only the product counts",
    ]
    if result["within_bars"] is not None:
        bars = f"at most {result['bars']['seconds']} s, at least {result['bars']['times_as_fast']} times as fast"
        metadata.append(f"{'within' if result['within_bars'] else 'NOT within'} the bars: {bars}")
    return "\n".join([*markdown(rows), "", *(f"- {fact}" for fact in metadata)])


def command(
    names: Annotated[int, typer.Option(min=1, help="Of the dictionary.")] = FULL["names"],
    mentions: Annotated[int, typer.Option(min=2, help="Ours answers all of them.")] = FULL["mentions"],
    dimension: Annotated[int, typer.Option(min=1, help="Of the vectors.")] = FULL["dimension"],
    part: Annotated[int, typer.Option(min=2, help="Mentions that the reference answers.")] = 100,
    seed: Annotated[int, typer.Option(help="Other seed, other vectors.")] = 0,
    json_to: Annotated[Path | None, typer.Option("--json", help="A file for all figures as JSON.")] = None,
) -> None:
    """Scoring without encoding: one mention at a time against ours; exit code 3 if ours misses its bars."""
    result = compare_speed(names=names, mentions=mentions, dimension=dimension, part=part, seed=seed)
    if json_to:
        with write_atomically(json_to) as stream:
            json.dump(result, stream, indent=1)
    print(to_text(result))
    if result["within_bars"] is False:
        raise typer.Exit(3)
