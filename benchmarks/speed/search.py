"""Speed, memory and recall of searching a million vectors: ours in each vector dtype against the usual ways.

On a CPU the usual ways are what the original's evaluation does, a product with all vectors and a sort of all scores for
one mention after another (measured on a sample, and scaled), and faiss's exact index, where it is installed. EVALUATION
has the sizes of such an evaluation. Recall is counted against the exact float32 answers.

On a GPU ours keeps a 16-bit copy of all vectors on the device and is still exact for the stored ones: the device
proposes rows, and their stored vectors are scored again on the CPU; that must find the same rows as a search without
the device. The usual way there is a product and a sort of all scores in 16 bits, one mention after another. The
fraction of the device's own rate of matrix products counts the product with all vectors alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.harness import (
    DeviceName,
    Machine,
    ProductRates,
    Target,
    bar_plot,
    describe_machine,
    format_figure,
    select_device,
    target,
    timed,
    to_markdown,
)
from benchmarks.speed.search_implementations import (
    FAISS,
    FULL_SORT,
    HNSW,
    SINGLE_QUERIES,
    SearchFigures,
    SearchSize,
    run_module,
    run_separately,
    write_vector_sets,
)
from xsap.plots import save
from xsap.search.vectors import Floats, Rows, VectorDtype, Vectors
from xsap.terminal import log

if TYPE_CHECKING:
    import torch

VECTOR_DTYPES: tuple[VectorDtype, ...] = ("float32", "float16", "int8")
SORTED_QUERIES = 10  # that the full sort answers
COSINE_TOLERANCE = 1e-6
OURS_ON_DEVICE = "xsap device copy"
BATCH_QUERIES, BATCHES = 1024, 6  # on a device, where the first batch is a warm-up
PRODUCT_ROWS = 8192
MILLION = SearchSize(1_000_000, 768, 1000, 10)
EVALUATION = SearchSize(400_000, 768, 10_000, 64, "uniform")
NINE_MILLION = SearchSize(9_000_000, 768, SINGLE_QUERIES + 1, 10)


@dataclass(frozen=True, slots=True)
class SearchComparison:
    """Result of `compare_search` and `search_nine_million`. cosine_difference: see `check_agreement`."""

    size: SearchSize
    seed: int
    implementations: dict[str, SearchFigures]
    cosine_difference: float | None
    targets: list[Target]
    machine: Machine


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """One implementation on a device. single_seconds: queries one at a time. batch_seconds: each batch, if any."""

    mentions_per_second: float
    single_seconds: list[float]
    batch_seconds: list[float]
    recall: float


@dataclass(frozen=True, slots=True)
class DeviceComparison:
    """Result of `compare_device_search`. device_bytes: maximum memory on the device."""

    size: SearchSize
    vector_dtype: str
    seed: int
    implementations: dict[str, DeviceFigures]
    speedup: float
    upload_seconds: float
    device_bytes: int
    product_flops_per_second: float
    peak_fraction: float
    machine: Machine


def compare_search(
    size: SearchSize, *, ann: bool, work: Path | None, sorted_queries: int = SORTED_QUERIES, seed: int = 0
) -> SearchComparison:
    """Compare all implementations.

    Args:
        size: What is searched; MILLION and EVALUATION have targets.
        ann: Whether to build and search the HNSW index, too.
        work: Folder for temporary files, some 9 kB per name of 768 components; None for the system's.
        sorted_queries: Queries that the full sort answers; its time is scaled to all.
        seed: Of the vectors.

    Returns:
        All figures.

    Raises:
        AssertionError: The float32 search finds other rows than the full sort.
    """
    names = [FULL_SORT, *([FAISS] if find_spec("faiss") else []), *(f"xsap {dtype}" for dtype in VECTOR_DTYPES)]
    names += [HNSW] if ann else []
    figures: dict[str, SearchFigures] = {}
    with TemporaryDirectory(prefix="xsap-search-", dir=work) as temporary:
        folder = Path(temporary)
        write_vector_sets(folder, size, VECTOR_DTYPES, seed)
        log(f"{size.names:,} × {size.dimension} written in {', '.join(VECTOR_DTYPES)}")
        if ann:
            run_module(["build", temporary])
        for name in names:
            each = run_separately(name, folder, size.top_k, batch=True, sorted_queries=sorted_queries)
            took = f"one {1000 * each.single_median:.1f} ms, {size.mentions:,} in {each.batch_seconds:.2f} s"
            log(f"{name}: {took}, {each.bytes / 1e9:.2f} GB")
            figures[name] = each
        rows = {name: np.load(folder / f"{name}.npy") for name in names}
        vectors, queries = (np.load(folder / file, mmap_mode="r") for file in ("float32/vectors.npy", "queries.npy"))
        exact = rows["xsap float32"]
        difference = check_agreement(vectors, queries, {FULL_SORT: rows[FULL_SORT], "xsap float32": exact})
    figures = {name: replace(each, recall=recall(rows[name], exact)) for name, each in figures.items()}
    machine = describe_machine(select_device(DeviceName.CPU), ["usearch"] if ann else [])
    machine.versions.update(figures[FAISS].details if FAISS in figures else {})
    return SearchComparison(size, seed, figures, difference, targets_of(size, figures), machine)


def search_nine_million(size: SearchSize, *, work: Path | None, seed: int = 0) -> SearchComparison:
    """Vectors of all of UMLS, as int8 alone, opened and searched one query at a time; work: see `compare_search`."""
    with TemporaryDirectory(prefix="xsap-search-", dir=work) as temporary:
        write_vector_sets(Path(temporary), size, ("int8",), seed)
        log(f"{size.names:,} × {size.dimension} written in int8")
        figures = run_separately("xsap int8", Path(temporary), size.top_k, batch=False, sorted_queries=0)
    machine = describe_machine(select_device(DeviceName.CPU))
    found = {"xsap int8": figures}
    return SearchComparison(size, seed, found, None, targets_of(size, found), machine)


def recall(found: Rows, exact: Rows) -> float:
    """Fraction of the exact rows that are found; (q, k) each, of which `found` may have the first queries only."""
    common = [len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=False)]
    return float(np.mean(common) / exact.shape[1])


def check_agreement(vectors: Floats, queries: Floats, found: Mapping[str, Rows]) -> float:
    """Largest difference between the float64 cosines of two implementations' rows, rank by rank.

    Rows alone may differ, where two names are as near as float32 can tell.

    Args:
        vectors: (n, d) unit vectors.
        queries: (q, d) unit vectors.
        found: Name → (m, k) rows of the first m queries, for two implementations.

    Returns:
        The difference.

    Raises:
        AssertionError: It is above COSINE_TOLERANCE, or a row was found twice.
    """
    first, second = found.values()
    assert first.shape[1:] == second.shape[1:], f"{first.shape} rows against {second.shape}"
    for rows in (first, second):
        assert all(len(set(line)) == len(line) for line in rows.tolist()), "a name was found twice"
    difference = max(
        float(np.abs(_cosines(vectors[one], query) - _cosines(vectors[other], query)).max())
        for one, other, query in zip(first, second, queries, strict=False)
    )
    assert difference <= COSINE_TOLERANCE, f"different names were found: their cosines differ by up to {difference:.2g}"
    return difference


def _cosines(vectors: Floats, query: Floats) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = vectors.astype(np.float64) @ query.astype(np.float64)
    return cosines


def targets_of(size: SearchSize, figures: Mapping[str, SearchFigures]) -> list[Target]:
    """What our search has to reach at MILLION, EVALUATION and NINE_MILLION; other sizes have no targets."""
    if size == MILLION:
        return _million_targets(figures)
    if size == EVALUATION:
        ours = figures["xsap float32"].batch_seconds or 0.0
        return [
            target(f"speed-up over {FULL_SORT}, float32", (figures[FULL_SORT].batch_seconds or 0.0) / ours, 20),
            target("10,000 mentions, float32, seconds", ours, 90, at_most=True),
        ]
    if size == NINE_MILLION:
        each = figures["xsap int8"]
        return [
            target("vectors opened without checking their hashes, seconds", each.open_seconds, 2, at_most=True),
            target("maximum resident memory, GB (the whole process)", each.process_bytes / 1e9, 9, at_most=True),
            target("one mention, exact, seconds (median)", each.single_median, 1, at_most=True),
        ]
    return []


def _million_targets(figures: Mapping[str, SearchFigures]) -> list[Target]:
    seconds = {name: each.batch_seconds or 0.0 for name, each in figures.items()}
    single = 1000 * figures["xsap float16"].single_median
    targets = [
        target(f"speed-up over {FULL_SORT}, float16", seconds[FULL_SORT] / seconds["xsap float16"], 40),
        target("one mention, exact, float16, ms (median)", single, 60, at_most=True),
    ]
    if FAISS in figures:
        targets += [
            target(f"speed-up over {FAISS}, {name}", seconds[FAISS] / seconds[name], 1)
            for name in ("xsap float16", "xsap int8")
        ]
        memory = figures["xsap int8"].bytes / figures[FAISS].bytes
        targets.append(target(f"memory relative to {FAISS}, xsap int8", memory, 0.5, at_most=True))
    if HNSW in figures:
        single = 1000 * figures[HNSW].single_median
        targets.append(target("one mention, HNSW, ms (median)", single, 10, at_most=True))
        targets.append(target("recall, HNSW", figures[HNSW].recall or 0.0, 0.99))
    return targets


def to_text(result: SearchComparison) -> str:
    """A table for people, with what makes it comparable under it."""
    size, figures = result.size, result.implementations
    described = (
        f"{size.names:,} vectors × {size.dimension} components, {size.distribution}, synthetic with seed {result.seed}"
    )
    if FULL_SORT not in figures:
        each = figures["xsap int8"]
        notes = [
            f"{described}, int8 alone: opened in {1000 * each.open_seconds:.0f} ms, one mention {1000 * each.single_median:.0f} ms "
            f"(the first {1000 * each.first_seconds:.0f}), {each.process_bytes / 1e9:.2f} GB resident"
        ]
        return to_markdown([], [*notes, result.machine, *result.targets])
    rows = [["search", f"{size.mentions:,} mentions, s", f"speed-up over {FULL_SORT}", f"over {FAISS}"]]
    rows[0] += ["one, ms (median)", "slowest", "first", "memory, GB", f"recall@{size.top_k}"]
    seconds = {name: each.batch_seconds or 0.0 for name, each in figures.items()}
    for name, each in figures.items():
        cells = [f"{seconds[name]:,.2f}" + (" (extrapolated)" if each.extrapolated else "")]
        cells += [
            f"{seconds[baseline] / seconds[name]:.1f}" if baseline in seconds else "" for baseline in (FULL_SORT, FAISS)
        ]
        cells += [f"{1000 * t:,.1f}" for t in (each.single_median, max(each.single_seconds), each.first_seconds)]
        rows.append([name, *cells, f"{each.bytes / 1e9:.2f}", f"{each.recall:.4f}"])
    busy = ", ".join(f"{name} {each.cores_busy:.1f}" for name, each in figures.items())
    flops = 2 * size.names * size.mentions * size.dimension / seconds["xsap float32"]
    notes = [
        f"{size.mentions:,} mentions × {described}; the {size.top_k} best of each; {result.machine}",
        f"{FULL_SORT}: one mention at a time, measured on {len(figures[FULL_SORT].single_seconds)}, and scaled to all; same names as ours: "
        f"cosines differ by at most {result.cosine_difference:.1e}, rank by rank",
        "one: the search for a mention's vector, without encoding the mention, which takes the same for every implementation",
        f"recall@{size.top_k}: against the exact float32 answers; for other exact dtypes it shows what their rounding costs",
        "memory: of a process of its own, what it maps included, less that before it opened the vectors",
        f"cores busy: {busy}; less than the threads if the machine had other work",
        f"xsap float32: {flops / 1e9:,.0f} GFLOP/s, if only the product counts",
    ]
    if HNSW in figures:
        details = ", ".join(f"{name} {value:g}" for name, value in figures[HNSW].details.items())
        notes.append(f"{HNSW}: {details}")
    return to_markdown(rows, [*notes, *result.targets])


def plot(result: SearchComparison, path: Path) -> None:
    """Bar charts as a PNG or SVG file: rate of all mentions and time of one; or what nine million vectors take."""
    figures, size = result.implementations, result.size
    if FULL_SORT not in figures:
        each, title = figures["xsap int8"], f"{size.names:,} vectors as int8"
        seconds = {"xsap: opened": each.open_seconds, "xsap: first mention": each.first_seconds}
        seconds |= {"xsap: one mention (median)": each.single_median, "xsap: slowest mention": max(each.single_seconds)}
        memory = {"xsap: the process": each.process_bytes / 1e9}
        save([bar_plot(f"{title}: seconds", seconds), bar_plot(f"{title}: GB resident", memory)], path)
        return
    rates = {name: size.mentions / (each.batch_seconds or 0.0) for name, each in figures.items()}
    labels = [f"{format_figure(rate)} ({rate / rates[FULL_SORT]:.1f} ×)" for rate in rates.values()]
    together = f"{size.mentions:,} mentions at once: mentions per second (speed-up over {FULL_SORT})"
    single = {name: 1000 * each.single_median for name, each in figures.items()}
    alone = bar_plot("One mention at a time: milliseconds (median)", single)
    save([bar_plot(together, rates, labels), alone], path)


def compare_device_search(
    size: SearchSize, *, vector_dtype: VectorDtype, device: "torch.device", work: Path | None, seed: int = 0
) -> DeviceComparison:
    """Compare a search with a device's copy of the vectors with a product and full sort on that device.

    Args:
        size: What is searched; its mentions are those of a batch.
        vector_dtype: How the vectors are stored, and so what the answers are exact for.
        device: The device.
        work: Folder for temporary files; None for the system's.
        seed: Of the vectors.

    Returns:
        All figures.

    Raises:
        AssertionError: A search with the device finds other rows than one without.
    """
    with TemporaryDirectory(prefix="xsap-search-", dir=work) as temporary:
        folder = Path(temporary)
        write_vector_sets(folder, replace(size, mentions=size.mentions * BATCHES), (vector_dtype,), seed)
        log(f"{size.names:,} × {size.dimension} written in {vector_dtype}")
        vectors, queries = Vectors.open(folder / vector_dtype), np.load(folder / "queries.npy")
        return _time_device_search(size, vectors, queries, device, seed)


def _time_device_search(
    size: SearchSize, vectors: Vectors, queries: Floats, device: "torch.device", seed: int
) -> DeviceComparison:
    import torch

    from xsap.search.exact import search_vectors, upload

    on_cuda, few, k = device.type == "cuda", queries[:SORTED_QUERIES], size.top_k
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    upload_seconds, device_copy = timed(lambda stored: upload(stored, device), vectors, device)

    def ours(some: Floats) -> Rows:
        return search_vectors(vectors, some, k, device_copy=device_copy)[1]

    def full_sort(query: Floats) -> Rows:
        scores = torch.from_numpy(query).to(device_copy) @ device_copy.T
        rows: Rows = torch.argsort(scores, dim=1, descending=True)[0, :k].cpu().numpy()
        return rows

    ours_of_few = ours(few)
    exact = search_vectors(vectors, few, k)[1]
    assert np.array_equal(ours_of_few, exact), "with the device the search finds other rows than without"
    products = ProductRates(["bfloat16"], PRODUCT_ROWS, vectors.dimension, device)
    starts = range(0, len(queries), size.mentions)
    batches = [timed(ours, queries[start : start + size.mentions], device)[0] for start in starts][1:]
    alone = [timed(ours, query, device)[0] for query in queries[: SINGLE_QUERIES + 1, None]][1:]
    device_bytes = torch.cuda.max_memory_allocated(device) if on_cuda else device_copy.nbytes
    full_sort(few[:1])
    usual, found = zip(*(timed(full_sort, query, device) for query in few[:, None]), strict=True)
    products.measure()
    rate = products.flops_per_second()["bfloat16"]
    theirs, mine = 1 / median(usual), size.mentions / median(batches)
    return DeviceComparison(
        size=size,
        vector_dtype=vectors.vector_dtype,
        seed=seed,
        implementations={
            FULL_SORT: DeviceFigures(theirs, list(usual), [], recall(np.stack(found), exact)),
            OURS_ON_DEVICE: DeviceFigures(mine, alone, batches, recall(ours_of_few, exact)),
        },
        speedup=mine / theirs,
        upload_seconds=upload_seconds,
        device_bytes=device_bytes,
        product_flops_per_second=rate,
        peak_fraction=2 * len(vectors) * vectors.dimension * mine / rate,
        machine=describe_machine(device),
    )


def device_to_text(result: DeviceComparison) -> str:
    """A table for people, with what makes it comparable under it."""
    size = result.size
    rows = [["search on a device", "mentions/s", "speed-up", "one, ms (median)", "slowest", f"recall@{size.top_k}"]]
    for name, each in result.implementations.items():
        alone = [f"{1000 * seconds:,.1f}" for seconds in (median(each.single_seconds), max(each.single_seconds))]
        speedup = result.speedup if name == OURS_ON_DEVICE else 1
        rows.append([name, f"{each.mentions_per_second:,.1f}", f"{speedup:.1f}", *alone, f"{each.recall:.4f}"])
    notes = [
        f"{size.names:,} vectors × {size.dimension} components, stored in {result.vector_dtype}, {size.distribution}, synthetic with seed "
        f"{result.seed}; the {size.top_k} best of each; {result.machine}",
        f"ours: batches of {size.mentions:,} mentions, exact for what is stored; {FULL_SORT}: one mention at a time, in the device's 16 bits",
        f"on the device: at most {result.device_bytes / 1e9:.2f} GB; uploaded in {result.upload_seconds:.1f} s",
        f"{100 * result.peak_fraction:.0f} % of the device's rate of bfloat16 products, {result.product_flops_per_second / 1e9:,.0f} GFLOP/s",
    ]
    return to_markdown(rows, notes)


def plot_device(result: DeviceComparison, path: Path) -> None:
    """A bar chart of mentions per second as a PNG or SVG file."""
    rates = {name: each.mentions_per_second for name, each in result.implementations.items()}
    title = f"Mentions per second among {result.size.names:,} vectors on {result.machine.device}"
    save(bar_plot(title, rates), path)
