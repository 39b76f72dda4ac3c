"""What races in `benchmarks.speed.search`: the made-up vectors, and each side as a process of its own.

Vectors are as those of names are: concepts with four names each lie in topics, and topics in areas, drawn in 128 dimensions of falling
weight, which gives cosines and an effective dimension like those of HPO's names under a small model trained here (about 0.7 to a name's
siblings, 0.56 to its tenth neighbor, 61 dimensions); and some uniform noise. Queries are rows moved to a cosine of 0.86.
A side reads what it needs from files, so that its memory is its own: the highest resident, mapped files included, less that before it
opened anything. Needs Linux.

The race of searching on a device that holds all vectors in 16 bits: mentions in batches and one at a time, on one GPU.

Ours is exact for what is stored: the device proposes, and the stored vectors are scored again on the CPU; both must find the same rows as a
search without the device. The usual way is a product in the device's 16 bits and a sort of all scores, one mention after another, measured
on a part. The share of the device's own rate of matrix products counts the product with all vectors alone.

The device is a parameter, and the tests pass a CPU. On CUDA this has not been run yet: there was no such device where it was written.

The race of searching: 1,000 mentions and one mention in a million made-up vectors, ours in each storage against the usual ways.

The usual ways are what the original's evaluation does, a product with all vectors and a sort of all scores for one mention after another
(measured on a part, and multiplied), and faiss's exact index, where it is installed. Recall is counted against the exact float32 answers.
All of that is on a CPU; `--device cuda` is another race, `benchmarks.speed.search`.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.speed.harness import (
    DeviceName,
    JsonTo,
    PlotTo,
    bar,
    chart,
    check_plot,
    device_of,
    exit_by,
    in_digits,
    machine,
    machine_in_words,
    rss_bytes,
    say,
    verdicts,
    write_json,
)
from xsap.errors import ConfigError
from xsap.page import markdown

if TYPE_CHECKING:
    import torch

    from xsap.search.vectors import Vectors


K = 10
PLAIN, FAISS, APPROXIMATE = "product and full sort", "faiss IndexFlatIP", "xsap approximate"
SINGLES = 50  # mentions answered alone, after a first one
_LATENT, _ROWS, _NAMES, _TOPIC, _AREA = (
    128,
    65_536,
    4,
    40,
    2000,
)  # dimensions; rows of a block, a concept, a topic, an area
_PLAIN_PART = 10  # mentions that PLAIN answers
_APART = 0.6  # of a query from its row

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Search = Callable[[Floats], Rows]


def synthetic_vectors(n: int, d: int, seed: int) -> Iterator[Floats]:
    """n unit vectors of d components, in blocks; the same ones for the same n, d and seed."""
    first = np.random.default_rng((seed, 0))
    weights = np.arange(1, _LATENT + 1, dtype=np.float32) ** np.float32(-0.3)

    def drawn(rng: np.random.Generator, rows: int, share: float) -> Floats:
        points: Floats = rng.standard_normal((rows, _LATENT), np.float32) * (weights * np.float32(share**0.5))
        return points

    everywhere, areas = drawn(first, 1, 0.04), drawn(first, max(1, n // _AREA), 0.23)
    topics = drawn(first, max(1, n // _TOPIC), 0.25)
    spread = first.standard_normal((_LATENT, d), np.float32)
    for number, start in enumerate(range(0, n, _ROWS), 1):
        rng, rows = np.random.default_rng((seed, number)), min(_ROWS, n - start)
        topic = rng.integers(len(topics), size=-(-rows // _NAMES))
        concepts = everywhere + areas[topic % len(areas)] + topics[topic] + drawn(rng, len(topic), 0.23)
        block = _unit((np.repeat(concepts, _NAMES, axis=0)[:rows] + drawn(rng, rows, 0.25)) @ spread)
        block += rng.integers(-127, 128, size=block.shape, dtype=np.int8) * np.float32(0.2 / 73 / d**0.5)
        yield _unit(block)


def write_sets(folder: Path, n: int, d: int, mentions: int, storages: tuple[str, ...], seed: int) -> None:
    """The same vectors in each storage, in folders of their names, and `queries.npy`."""
    from xsap.search.vectors import write_vectors

    rng = np.random.default_rng((seed, 1 << 40))
    chosen, queries = np.sort(rng.choice(n, mentions, replace=mentions > n)), np.empty((mentions, d), np.float32)
    with ExitStack() as stack:
        puts = []
        for vector_dtype in storages:
            (folder / vector_dtype).mkdir()
            puts.append(stack.enter_context(write_vectors(folder / vector_dtype, n, d, vector_dtype)))  # type: ignore[arg-type]
        for start, block in zip(range(0, n, _ROWS), synthetic_vectors(n, d, seed), strict=True):
            for put in puts:
                put(block)
            here = (start <= chosen) & (chosen < start + _ROWS)
            queries[here] = block[chosen[here] - start]
    queries += np.float32(_APART) * _unit(rng.standard_normal(queries.shape, np.float32))
    np.save(folder / "queries.npy", rng.permutation(_unit(queries)))


def _unit(vectors: Floats) -> Floats:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def open_side(side: str, folder: Path) -> tuple[Search, dict[str, Any]]:
    """A side's search, ready to be asked, and facts of it."""
    if side == PLAIN:
        vectors = np.load(folder / "float32" / "vectors.npy")
        return lambda queries: np.stack([np.argsort(-(vectors @ query))[:K] for query in queries]), {}
    if side == FAISS:
        import faiss

        with (folder / "float32" / "vectors.npy").open("rb") as stream:
            np.lib.format.read_magic(stream)
            (n, d), *_ = np.lib.format.read_array_header_1_0(stream)
            index = faiss.IndexFlatIP(d)
            for start in range(0, n, _ROWS):
                rows = min(_ROWS, n - start)
                index.add(np.fromfile(stream, np.float32, rows * d).reshape(rows, d))
        return lambda queries: index.search(queries, K)[1], {"faiss": faiss.__version__}
    from xsap.search.exact import search_vectors
    from xsap.search.vectors import Vectors

    if side == APPROXIMATE:
        from xsap.search.approximate import HnswIndex

        vectors16 = Vectors.open(folder / "float16")
        metadata = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
        graph = HnswIndex.open(folder / "graph.usearch", vectors16, metadata)
        return lambda queries: graph.search(queries, K)[1], metadata
    ours = Vectors.open(folder / side.removeprefix("xsap "))
    return lambda queries: search_vectors(ours, queries, K)[1], ours.metadata()


def build_graph(folder: Path) -> None:
    """Build the graph that APPROXIMATE opens; its facts say how long that took."""
    from xsap.search.approximate import HnswIndex
    from xsap.search.vectors import Vectors

    start = time.perf_counter()
    graph = HnswIndex.build(Vectors.open(folder / "float16"), progress=True)
    metadata = graph.save(folder / "graph.usearch")
    metadata |= {"build_seconds": time.perf_counter() - start, "bytes": (folder / "graph.usearch").stat().st_size}
    (folder / "graph.json").write_text(json.dumps(metadata), encoding="utf-8")


def run_side(side: str, folder: Path, *, together: bool) -> dict[str, Any]:
    """Open a side, ask it one mention at a time, then (`together`) all at once → seconds, bytes; rows go to `SIDE.npy`."""
    if side == FAISS:
        import faiss  # noqa: F401
    elif side != PLAIN:
        import xsap.search.exact  # noqa: F401
    queries = np.load(folder / "queries.npy")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark begins anew: proc(5)
    before = rss_bytes("VmRSS")
    start = time.perf_counter()
    search, metadata = open_side(side, folder)
    opened = time.perf_counter() - start
    alone, rows = [], []
    for query in queries[: 1 + (_PLAIN_PART if side == PLAIN else SINGLES), None]:
        start = time.perf_counter()
        rows.append(search(query))
        alone.append(time.perf_counter() - start)
    result: dict[str, Any] = {
        "facts": metadata,
        "open_seconds": opened,
        "first_seconds": alone[0],
        "single_seconds": alone[1:],
    }
    extrapolated = side == PLAIN
    if together and extrapolated:
        result["batch_seconds"] = sum(alone[1:]) / len(alone[1:]) * len(queries)
    elif together:
        start = time.perf_counter()
        rows = [search(queries)]
        result["batch_seconds"] = time.perf_counter() - start
    np.save(folder / f"{side}.npy", np.concatenate(rows))
    peak = rss_bytes("VmHWM")
    return result | {"extrapolated": extrapolated, "bytes": peak - before, "process_bytes": peak}


def in_a_process(*words: str) -> str:
    """What this module prints when it is run with these words: `build FOLDER`, or `run SIDE FOLDER [together]`."""
    command = [sys.executable, "-m", "benchmarks.speed.search", *words]
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).resolve().parents[2]
    ).stdout


OURS = "xsap resident"
BATCH = 1024  # mentions searched for at once
_BATCHES = 6  # of which the first doesn't count
_PART = 10  # mentions that PLAIN answers, and that are compared with the search on the CPU
_PRODUCT = 8192  # of the product that tells the device's rate


def time_device_search(
    *,
    names: int,
    dimension: int,
    vector_dtype: str,
    device: "torch.device",
    place: Path | None,
    batch: int = BATCH,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole race → its figures. storage: what the vectors are stored in, and so what the answers are exact for.

    An AssertionError if a search with the device finds other rows than one without.
    """
    from xsap.search.vectors import Vectors

    with TemporaryDirectory(prefix="xsap-search-", dir=place) as folder:
        write_sets(Path(folder), names, dimension, batch * _BATCHES, (vector_dtype,), seed)
        say(f"{names:,} × {dimension} written in {vector_dtype}")
        figures = _measure(
            Vectors.open(Path(folder) / vector_dtype), np.load(Path(folder) / "queries.npy"), batch, device
        )
    size = {"names": names, "dimension": dimension, "storage": vector_dtype, "batch": batch}
    return size | {"k": K, "seed": seed, **figures, "bars": [], **machine(device)}


def _measure(vectors: "Vectors", queries: Floats, batch: int, device: "torch.device") -> dict[str, Any]:
    import torch

    from benchmarks.speed.ablations import timed
    from benchmarks.speed.train import product_seconds
    from xsap.search.exact import search_vectors, upload

    on_cuda, few = device.type == "cuda", queries[:_PART]
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    uploaded, there = timed(lambda stored: upload(stored, device), vectors, device)

    def ours(some: Floats) -> Rows:
        return search_vectors(vectors, some, K, device_copy=there)[1]

    def plain(query: Floats) -> Rows:
        scores = torch.from_numpy(query).to(there) @ there.T
        rows: Rows = torch.argsort(scores, dim=1, descending=True)[0, :K].cpu().numpy()
        return rows

    mine_of_few = ours(few)
    exact = search_vectors(vectors, few, K)[1]
    assert np.array_equal(mine_of_few, exact), "with the device the search finds other rows than without"
    products = product_seconds("bfloat16", _PRODUCT, vectors.dimension, device)
    together = [timed(ours, queries[start : start + batch], device)[0] for start in range(0, len(queries), batch)][1:]
    alone = [timed(ours, query, device)[0] for query in queries[: SINGLES + 1, None]][1:]
    most = torch.cuda.max_memory_allocated(device) if on_cuda else there.nbytes
    plain(few[:1])
    usual, found = zip(*(timed(plain, query, device) for query in few[:, None]), strict=True)
    products += product_seconds("bfloat16", _PRODUCT, vectors.dimension, device)
    rate = 8 * _PRODUCT * vectors.dimension**2 / median(products)
    theirs, mine = 1 / median(usual), batch / median(together)
    return {
        "sides": {
            PLAIN: {"mentions_a_second": theirs, "single_seconds": list(usual), "recall@10": _recall(found, exact)},
            OURS: {
                "mentions_a_second": mine,
                "single_seconds": alone,
                "recall@10": _recall(mine_of_few, exact),
                "batch_seconds": together,
            },
        },
        "times_as_fast": mine / theirs,
        "upload_seconds": uploaded,
        "device_bytes": most,
        "product_flops_a_second": rate,
        "share_of_rate": 2 * len(vectors) * vectors.dimension * mine / rate,
    }


def _recall(found: Iterable[Rows], exact: Rows) -> float:
    """The share of the exact rows that are found."""
    return float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=True)])) / int(exact.shape[1])


def device_search_to_text(result: Mapping[str, Any]) -> str:
    """The race as a table for people, and under it what makes it comparable."""
    rows = [["search on a device", "mentions/s", "times as fast", "one, ms (p50)", "slowest", "recall@10"]]
    for name, side in result["sides"].items():
        alone = [f"{1000 * seconds:,.1f}" for seconds in (median(side["single_seconds"]), max(side["single_seconds"]))]
        times = result["times_as_fast"] if name == OURS else 1
        rows.append([name, f"{side['mentions_a_second']:,.1f}", f"{times:.1f}", *alone, f"{side['recall@10']:.4f}"])
    metadata = [
        f"{result['names']:,} vectors × {result['dimension']} components, stored in {result['storage']}, clustered, made up with seed "
        f"{result['seed']}; the {result['k']} best of each; {machine_in_words(result)}",
        f"ours: batches of {result['batch']:,} mentions, exact for what is stored; {PLAIN}: one mention at a time, in the device's 16 bits",
        f"on the device: {result['device_bytes'] / 1e9:.2f} GB at most; uploaded in {result['upload_seconds']:.1f} s",
        f"{100 * result['share_of_rate']:.0f} % of the device's rate of bfloat16 products, {result['product_flops_a_second'] / 1e9:,.0f} GFLOP/s",
    ]
    return "\n".join([*markdown(rows), "", *(f"- {fact}" for fact in metadata)])


def plot_device_search(result: Mapping[str, Any], path: Path) -> None:
    """Mentions a second of each side as bars in a PNG file."""
    panel = {
        name: (side["mentions_a_second"], in_digits(side["mentions_a_second"]))
        for name, side in result["sides"].items()
    }
    chart({f"Mentions a second among {result['names']:,} vectors on {result['device']}": panel}, path)


STORAGES = ("float32", "float16", "int8")
NINE_MILLION, FULL = 9_000_000, {"names": 1_000_000, "dimension": 768, "mentions": 1000}


def compare_speed(
    *, names: int, dimension: int, mentions: int, approximate: bool, place: Path | None, seed: int = 0
) -> dict[str, Any]:
    """The whole race → its figures. place: where some 9 kB a name fit while it lasts."""
    sides = [PLAIN, *([FAISS] if find_spec("faiss") else []), *(f"xsap {vector_dtype}" for vector_dtype in STORAGES)]
    sides += [APPROXIMATE] if approximate else []
    figures: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory(prefix="xsap-search-", dir=place) as folder:
        write_sets(Path(folder), names, dimension, mentions, STORAGES, seed)
        say(f"{names:,} × {dimension} written in {', '.join(STORAGES)}")
        if approximate:
            in_a_process("build", folder)
        for side in sides:
            figures[side] = json.loads(in_a_process("run", side, folder, "together"))
            one, all_of_them = median(figures[side]["single_seconds"]), figures[side]["batch_seconds"]
            say(
                f"{side}: one {1000 * one:.1f} ms, {mentions:,} in {all_of_them:.2f} s, {figures[side]['bytes'] / 1e9:.2f} GB"
            )
        rows = {side: np.load(Path(folder) / f"{side}.npy") for side in sides}
    nearest = rows["xsap float32"]
    for side, found in rows.items():
        shared = [len(np.intersect1d(*pair)) for pair in zip(found, nearest, strict=False)]
        figures[side]["recall@10"] = float(np.mean(shared)) / nearest.shape[1]
        figures[side]["single_p50"] = median(figures[side]["single_seconds"])
    size = {"names": names, "dimension": dimension, "mentions": mentions}
    there = machine(device_of(DeviceName.CPU), ["usearch"] if approximate else [])
    there["versions"] |= figures[FAISS]["facts"] if FAISS in sides else {}
    return size | {"k": K, "seed": seed, "sides": figures, "bars": _bars(figures) if size == FULL else [], **there}


def race_nine_million(
    *, names: int = NINE_MILLION, dimension: int, place: Path | None, seed: int = 0
) -> dict[str, Any]:
    """Vectors of all of UMLS, as int8 alone: opened, and asked one mention at a time."""
    with TemporaryDirectory(prefix="xsap-search-", dir=place) as folder:
        start = time.perf_counter()
        write_sets(Path(folder), names, dimension, SINGLES + 1, ("int8",), seed)
        say(f"{names:,} × {dimension} written in int8, in {time.perf_counter() - start:.0f} s")
        side = json.loads(in_a_process("run", "xsap int8", folder))
    side["single_p50"] = median(side["single_seconds"])
    bars = [
        bar("vectors opened, their hashes not looked at, seconds", side["open_seconds"], 2, most=True),
        bar("resident, GB (the whole process)", side["process_bytes"] / 1e9, 9, most=True),
        bar("one mention, exact, seconds (p50)", side["single_p50"], 1, most=True),
    ]
    full = (names, dimension) == (NINE_MILLION, FULL["dimension"])
    told = {"names": names, "dimension": dimension, "k": K, "seed": seed, "side": side, "bars": bars if full else []}
    return told | machine(device_of(DeviceName.CPU))


def _bars(sides: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the search is held to at FULL size."""
    exact = sides["xsap float16"]
    bars = [
        bar(f"times as fast as {PLAIN}, float16", sides[PLAIN]["batch_seconds"] / exact["batch_seconds"], 40),
        bar("one mention, exact, float16, ms (p50)", 1000 * exact["single_p50"], 60, most=True),
    ]
    if FAISS in sides:
        theirs = sides[FAISS]["batch_seconds"]
        bars += [
            bar(f"times as fast as {FAISS}, {side}", theirs / sides[side]["batch_seconds"], 1)
            for side in ("xsap float16", "xsap int8")
        ]
        bars.append(
            bar(f"of {FAISS}'s memory, xsap int8", sides["xsap int8"]["bytes"] / sides[FAISS]["bytes"], 0.5, most=True)
        )
    if APPROXIMATE in sides:
        bars.append(bar("one mention, approximate, ms (p50)", 1000 * sides[APPROXIMATE]["single_p50"], 10, most=True))
        bars.append(bar("recall@10, approximate", sides[APPROXIMATE]["recall@10"], 0.99))
    return bars


def to_text(result: Mapping[str, Any]) -> str:
    """A race as a table for people, and under it what makes it comparable."""
    if "side" in result:
        side = result["side"]
        metadata = [
            f"{result['names']:,} × {result['dimension']}, int8 alone: opened in {1000 * side['open_seconds']:.0f} ms, one mention "
            f"{1000 * side['single_p50']:.0f} ms (the first {1000 * side['first_seconds']:.0f}), {side['process_bytes'] / 1e9:.2f} GB resident",
            machine_in_words(result),
        ]
        return "\n".join(f"- {fact}" for fact in [*metadata, *verdicts(result["bars"])])
    sides, count = result["sides"], f"{result['mentions']:,} mentions"
    rows = [
        [
            "search",
            f"{count}, s",
            "times as fast",
            "than faiss",
            "one, ms (p50)",
            "slowest",
            "first",
            "memory, GB",
            "recall@10",
        ]
    ]
    for name, side in sides.items():
        took = f"{side['batch_seconds']:,.2f}" + (" (extrapolated)" if side["extrapolated"] else "")
        ratios = [
            f"{sides[rival]['batch_seconds'] / side['batch_seconds']:.1f}" if rival in sides else ""
            for rival in (PLAIN, FAISS)
        ]
        alone = [f"{1000 * t:,.1f}" for t in (side["single_p50"], max(side["single_seconds"]), side["first_seconds"])]
        rows.append([name, took, *ratios, *alone, f"{side['bytes'] / 1e9:.2f}", f"{side['recall@10']:.4f}"])
    metadata = [
        f"{count} × {result['names']:,} vectors × {result['dimension']} components, clustered, made up with seed {result['seed']}; the "
        f"{result['k']} best of each; {machine_in_words(result)}",
        f"{PLAIN}: one mention at a time, measured on {len(sides[PLAIN]['single_seconds'])}, and multiplied",
        "one: the search alone, of a mention's vector; to encode the mention comes on top, whoever searches",
        "recall@10: against the exact float32 answers; of the other exact storages it tells what their rounding costs",
        "memory: of a process of its own, what it maps included, less that before it opened the vectors",
    ]
    if APPROXIMATE in sides:
        said = sides[APPROXIMATE]["facts"]
        metadata.append(
            f"{APPROXIMATE}: built in {said['build_seconds']:,.0f} s, {said['bytes'] / 1e9:.2f} GB, width {said['width']}, "
            f"recall@64 {said['recall@64']:.4f} when it was built"
        )
    return "\n".join([*markdown(rows), "", *(f"- {fact}" for fact in [*metadata, *verdicts(result["bars"])])])


def plot(result: Mapping[str, Any], path: Path) -> None:
    """A race as bars in a PNG file: mentions a second of each side, together, and milliseconds of one alone; or what nine million take."""

    def told(lengths: Mapping[str, float]) -> dict[str, tuple[float, str]]:
        return {name: (length, in_digits(length)) for name, length in lengths.items()}

    if "side" in result:
        side, of = result["side"], f"{result['names']:,} vectors as int8"
        seconds = {"xsap: opened": side["open_seconds"], "xsap: first mention": side["first_seconds"]}
        seconds |= {"xsap: one mention (p50)": side["single_p50"], "xsap: slowest mention": max(side["single_seconds"])}
        panels = {
            f"{of}: seconds": told(seconds),
            f"{of}: GB resident": told({"xsap: the process": side["process_bytes"] / 1e9}),
        }
    else:
        sides, count = result["sides"], result["mentions"]
        rates = {name: count / side["batch_seconds"] for name, side in sides.items()}
        together = {name: (rate, f"{in_digits(rate)} ({rate / rates[PLAIN]:.1f} ×)") for name, rate in rates.items()}
        panels = {
            f"{count:,} mentions at once: mentions a second (how many times as fast as {PLAIN})": together,
            "One mention at a time: milliseconds (p50)": told(
                {name: 1000 * side["single_p50"] for name, side in sides.items()}
            ),
        }
    chart(panels, path)


def command(
    names: Annotated[int, typer.Option(min=K, help="Vectors to search.")] = FULL["names"],
    dimension: Annotated[int, typer.Option(min=2, help="Of the vectors.")] = FULL["dimension"],
    mentions: Annotated[int, typer.Option(min=SINGLES + 1, help="Asked at once, on a CPU.")] = FULL["mentions"],
    approximate: Annotated[
        bool, typer.Option("--ann", help="Race the approximate search, too; its graph takes minutes.")
    ] = False,
    nine_million: Annotated[
        bool, typer.Option("--nine-million", help="Only this: nine million vectors as int8, 7 GB of disk.")
    ] = False,
    device: Annotated[
        DeviceName, typer.Option(help="cuda: a race of its own, from a GPU's memory; the bars are a CPU's.")
    ] = DeviceName.CPU,
    place: Annotated[
        Path | None, typer.Option("--in", help="A folder for what the race writes, instead of the system's own.")
    ] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """Search among vectors: ours against a product with a full sort, and faiss; exit code 3 if ours misses a bar at full size."""
    check_plot(plot_to)
    on = device_of(device)
    if approximate and on.type == "cuda":
        raise ConfigError("--ann races on a CPU alone; take --device cpu, or leave it out")
    if approximate and find_spec("usearch") is None:
        raise ConfigError("--ann needs usearch; install it: pip install 'xsap[ann]'")
    tell, draw = (device_search_to_text, plot_device_search) if on.type == "cuda" else (to_text, plot)
    if on.type == "cuda":
        count, vector_dtype = (NINE_MILLION, "int8") if nine_million else (names, "float16")
        result = time_device_search(names=count, dimension=dimension, vector_dtype=vector_dtype, device=on, place=place)
    elif nine_million:
        result = race_nine_million(dimension=dimension, place=place)
    else:
        result = compare_speed(
            names=names, dimension=dimension, mentions=mentions, approximate=approximate, place=place
        )
    write_json(result, json_to)
    if plot_to:
        draw(result, plot_to)
    print(tell(result))
    exit_by(result["bars"])


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build_graph(Path(sys.argv[2]))
    else:
        print(json.dumps(run_side(sys.argv[2], Path(sys.argv[3]), together="together" in sys.argv[4:])))
