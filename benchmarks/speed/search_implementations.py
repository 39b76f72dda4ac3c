"""The vectors that a search benchmark searches, and each implementation of the search in a process of its own.

Clustered vectors resemble those of names: concepts with four names each are grouped in topics, and topics in areas, drawn in
128 dimensions of falling weight, which gives cosines and an effective dimension like those of HPO's names under a small
model trained here (about 0.7 to other names of the same concept, 0.56 to the tenth neighbor, 61 dimensions), and some uniform noise;
queries are rows moved to a cosine of 0.86. Uniform vectors and queries are random directions.

An implementation reads what it needs from files, so that its memory is its own: the maximum resident memory, mapped
files included, less that before it opened anything. Needs Linux. `python -m benchmarks.speed.search_implementations` is
the program of such a process.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.speed.harness import memory_bytes, reset_peak_memory
from xsap.search.vectors import Floats, Rows, VectorDtype, Vectors, write_vectors

FULL_SORT, FAISS, HNSW = "product and full sort", "faiss IndexFlatIP", "xsap HNSW"
SINGLE_QUERIES = 50  # answered one at a time, after a first one
ROWS_PER_BLOCK = 65_536
LATENT_DIMENSIONS, NAMES_PER_CONCEPT, NAMES_PER_TOPIC, NAMES_PER_AREA = 128, 4, 40, 2000
QUERY_DISTANCE = 0.6  # of a clustered query from its row
HNSW_FILE, HNSW_METADATA = "hnsw.usearch", "hnsw.json"

Search = Callable[[Floats], Rows]


@dataclass(frozen=True, slots=True)
class SearchSize:
    """What is searched. distribution: clustered or uniform."""

    names: int
    dimension: int
    mentions: int
    top_k: int
    distribution: str = "clustered"


@dataclass(frozen=True, slots=True)
class SearchFigures:
    """One implementation.

    Attributes:
        details: What it says of itself, such as the version of faiss.
        open_seconds: Time to open the vectors.
        first_seconds: The first query.
        single_seconds: Other queries, one at a time.
        single_median: Their median.
        batch_seconds: All queries at once; None if that was not asked for.
        extrapolated: Whether `batch_seconds` is scaled from single queries.
        cores_busy: CPU seconds per second of the batch, or of the single queries.
        bytes: Maximum resident memory, less that before the vectors were opened.
        process_bytes: Maximum resident memory.
        recall: Fraction of the exact float32 answers found; None if they are unknown.
    """

    details: dict[str, Any]
    open_seconds: float
    first_seconds: float
    single_seconds: list[float]
    single_median: float
    batch_seconds: float | None
    extrapolated: bool
    cores_busy: float
    bytes: int
    process_bytes: int
    recall: float | None = None


def synthetic_vectors(n: int, d: int, seed: int, *, distribution: str = "clustered") -> Iterator[Floats]:
    """Unit vectors, the same ones for the same arguments.

    Args:
        n: Number of vectors.
        d: Components of a vector.
        seed: Another seed gives other vectors.
        distribution: clustered or uniform, see the module's docstring.

    Yields:
        Blocks of (m, d) float32.
    """
    first = np.random.default_rng((seed, 0))
    weights = np.arange(1, LATENT_DIMENSIONS + 1, dtype=np.float32) ** np.float32(-0.3)

    def draw(rng: np.random.Generator, rows: int, variance: float) -> Floats:
        points: Floats = rng.standard_normal((rows, LATENT_DIMENSIONS), np.float32)
        points *= weights * np.float32(variance**0.5)
        return points

    center, areas = draw(first, 1, 0.04), draw(first, max(1, n // NAMES_PER_AREA), 0.23)
    topics = draw(first, max(1, n // NAMES_PER_TOPIC), 0.25)
    projection = first.standard_normal((LATENT_DIMENSIONS, d), np.float32)
    for number, start in enumerate(range(0, n, ROWS_PER_BLOCK), 1):
        rng, rows = np.random.default_rng((seed, number)), min(ROWS_PER_BLOCK, n - start)
        if distribution == "uniform":
            yield _unit(rng.standard_normal((rows, d), np.float32))
            continue
        topic = rng.integers(len(topics), size=-(-rows // NAMES_PER_CONCEPT))
        concepts = center + areas[topic % len(areas)] + topics[topic] + draw(rng, len(topic), 0.23)
        block = _unit((np.repeat(concepts, NAMES_PER_CONCEPT, axis=0)[:rows] + draw(rng, rows, 0.25)) @ projection)
        block += rng.integers(-127, 128, size=block.shape, dtype=np.int8) * np.float32(0.2 / 73 / d**0.5)
        yield _unit(block)


def write_vector_sets(folder: Path, size: SearchSize, vector_dtypes: Sequence[VectorDtype], seed: int) -> None:
    """Write the same vectors in each dtype, in folders with the dtypes' names, and `queries.npy`."""
    rng, n = np.random.default_rng((seed, 1 << 40)), size.names
    chosen = np.sort(rng.choice(n, size.mentions, replace=size.mentions > n))
    queries = np.empty((size.mentions, size.dimension), np.float32)
    with ExitStack() as stack:
        writers = []
        for vector_dtype in vector_dtypes:
            (folder / vector_dtype).mkdir()
            writer = write_vectors(folder / vector_dtype, n, size.dimension, vector_dtype)
            writers.append(stack.enter_context(writer))
        blocks = synthetic_vectors(n, size.dimension, seed, distribution=size.distribution)
        for start, block in zip(range(0, n, ROWS_PER_BLOCK), blocks, strict=True):
            for write in writers:
                write(block)
            inside = (start <= chosen) & (chosen < start + ROWS_PER_BLOCK)
            queries[inside] = block[chosen[inside] - start]
    noise = _unit(rng.standard_normal(queries.shape, np.float32))
    queries = noise if size.distribution == "uniform" else queries + np.float32(QUERY_DISTANCE) * noise
    np.save(folder / "queries.npy", rng.permutation(_unit(queries)))


def _unit(vectors: Floats) -> Floats:
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def open_implementation(name: str, folder: Path, top_k: int) -> tuple[Search, dict[str, Any]]:
    """A search among a folder's vectors, (q, d) queries → (q, top_k) rows, and what it says of itself."""
    if name == FULL_SORT:
        vectors = np.load(folder / "float32" / "vectors.npy")
        return lambda queries: np.stack([np.argsort(-(vectors @ query))[:top_k] for query in queries]), {}
    if name == FAISS:
        import faiss

        with (folder / "float32" / "vectors.npy").open("rb") as stream:
            np.lib.format.read_magic(stream)
            (n, d), *_ = np.lib.format.read_array_header_1_0(stream)
            index = faiss.IndexFlatIP(d)
            for start in range(0, n, ROWS_PER_BLOCK):
                rows = min(ROWS_PER_BLOCK, n - start)
                index.add(np.fromfile(stream, np.float32, rows * d).reshape(rows, d))
        return lambda queries: index.search(queries, top_k)[1], {"faiss": faiss.__version__}
    if name == HNSW:
        from xsap.search.approximate import HnswIndex

        metadata = json.loads((folder / HNSW_METADATA).read_text(encoding="utf-8"))
        hnsw = HnswIndex.open(folder / HNSW_FILE, Vectors.open(folder / "float16"), metadata)
        return lambda queries: hnsw.search(queries, top_k)[1], metadata
    from xsap.search.exact import search_vectors

    ours = Vectors.open(folder / name.removeprefix("xsap "))
    return lambda queries: search_vectors(ours, queries, top_k)[1], ours.metadata()


def build_hnsw(folder: Path) -> None:
    """Build the index that HNSW opens; its metadata say how long that took."""
    from xsap.search.approximate import HnswIndex

    start = time.perf_counter()
    metadata = HnswIndex.build(Vectors.open(folder / "float16"), progress=True).save(folder / HNSW_FILE)
    metadata |= {"build_seconds": time.perf_counter() - start, "bytes": (folder / HNSW_FILE).stat().st_size}
    (folder / HNSW_METADATA).write_text(json.dumps(metadata), encoding="utf-8")


def run_implementation(name: str, folder: Path, top_k: int, *, batch: bool, sorted_queries: int) -> SearchFigures:
    """Open an implementation, ask it one query at a time, then all at once; its rows are written to `NAME.npy`.

    Args:
        name: Name of the implementation.
        folder: What `write_vector_sets` wrote.
        top_k: Rows per query.
        batch: Whether to search for all queries at once, too.
        sorted_queries: Queries that FULL_SORT answers; its time is scaled to all.

    Returns:
        Figures without recall.
    """
    if name == FAISS:
        import faiss  # noqa: F401
    elif name != FULL_SORT:
        import xsap.search.exact  # noqa: F401
    queries = np.load(folder / "queries.npy")
    reset_peak_memory()
    before = memory_bytes("VmRSS")
    start = time.perf_counter()
    search, details = open_implementation(name, folder, top_k)
    opened = time.perf_counter() - start
    extrapolated = name == FULL_SORT
    alone, rows = [], []
    cpu, began = time.process_time(), time.perf_counter()
    for query in queries[: 1 + (sorted_queries if extrapolated else SINGLE_QUERIES), None]:
        start = time.perf_counter()
        rows.append(search(query))
        alone.append(time.perf_counter() - start)
    batch_seconds = sum(alone[1:]) / len(alone[1:]) * len(queries) if batch else None
    if batch and not extrapolated:
        cpu, began = time.process_time(), time.perf_counter()
        rows = [search(queries)]
        batch_seconds = time.perf_counter() - began
    cores_busy = (time.process_time() - cpu) / (time.perf_counter() - began)
    np.save(folder / f"{name}.npy", np.concatenate(rows))
    peak = memory_bytes("VmHWM")
    return SearchFigures(
        details=details,
        open_seconds=opened,
        first_seconds=alone[0],
        single_seconds=alone[1:],
        single_median=median(alone[1:]),
        batch_seconds=batch_seconds,
        extrapolated=extrapolated,
        cores_busy=cores_busy,
        bytes=peak - before,
        process_bytes=peak,
    )


def run_separately(name: str, folder: Path, top_k: int, *, batch: bool, sorted_queries: int) -> SearchFigures:
    """`run_implementation` in a process of its own."""
    words = ["run", name, str(folder), str(top_k), str(int(batch)), str(sorted_queries)]
    return SearchFigures(**json.loads(run_module(words)))


def run_module(words: Sequence[str]) -> str:
    """What this module prints when it is run with these arguments, see its end."""
    command, root = (
        [sys.executable, "-m", "benchmarks.speed.search_implementations", *words],
        Path(__file__).resolve().parents[2],
    )
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=root).stdout


if __name__ == "__main__":
    if sys.argv[1] == "build":
        build_hnsw(Path(sys.argv[2]))
    else:
        implementation, sets, k, with_batch, sorted_count = sys.argv[2:]
        figures = run_implementation(
            implementation, Path(sets), int(k), batch=bool(int(with_batch)), sorted_queries=int(sorted_count)
        )
        print(json.dumps(asdict(figures)))
