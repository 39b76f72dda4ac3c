"""Approximate search: a graph of near neighbors proposes rows, and their exact scores rank them.

The graph is HNSW (Malkov and Yashunin, IEEE TPAMI 2020) over the int8 codes, as usearch builds it (extra [ann]). A cosine of codes is that of
the vectors that they stand for, whatever the rows' scales. How many of the true neighbors the graph finds is measured when it is built,
never assumed: it looks as widely as a sample of queries needs, and the recall stays beside it. When it is opened a few queries show whether it
still finds as many, so that a graph of other vectors answers nothing. Filters are for the exact search.

The nearest names of mentions, in the fastest way at hand: the only home of which way that is.

A graph, where the index was opened with one, answers what isn't filtered and asks for no more names than its recall speaks for. All else is
searched exactly: on the encoder's accelerator, which then keeps a copy of the vectors in 16 bits, or on the processor where there is none
or the copy leaves no room. Exact answers are the same on both, to the bit.
"""

import mmap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from xsap.errors import ArtifactError, ConfigError
from xsap.search.exact import check_finite, exact_scores, search_vectors, upload
from xsap.search.vectors import Floats, Rows, Vectors, quantize

RECALL_AT = 64
ENOUGH = {10: 0.99, RECALL_AT: 0.9}  # of so many nearest rows: the recall at which no wider look is tried
WIDTHS = (128, 256, 512, 1024, 2048)  # rows that a search holds while it walks the graph ("ef")
_LINKS, _BUILD_WIDTH = (
    16,
    128,
)  # of each row, twice as many on the lowest level; and the width while building ("M", "ef construction")
_SAMPLE, _NOISE = 200, 0.6  # queries: rows, moved by so much and made unit vectors again, which leaves a cosine of 0.86
_FEW, _OTHERS, _CLEARLY = 16, 1 << 20, 0.1  # queries when it is opened, and their seed; by how much less they may find
SLICE = 1 << 28  # components of vectors that one exact search reads
_AT_ONCE = 16_384  # rows added between two steps of the progress bar


@dataclass(frozen=True, eq=False)
class HnswIndex:
    """graph: a usearch.index.Index of int8 codes; built by several threads never twice the same, and some rows may be lost to it.

    width: rows that a search holds while it walks the graph. recall: the share of a sample's RECALL_AT nearest rows that it finds so.
    """

    vectors: Vectors
    graph: Any
    width: int
    recall: float
    _turn: threading.Lock = field(
        default_factory=threading.Lock, repr=False
    )  # usearch gives every caller the same working memory

    @classmethod
    def build(cls, vectors: Vectors, *, seed: int = 0, progress: bool = False) -> "HnswIndex":
        """Link all rows, and measure how widely to look: as far as ENOUGH recall needs. Raises ConfigError if usearch isn't installed."""
        assert len(vectors), "a graph needs a row to begin with"
        graph = _usearch()(
            ndim=vectors.dimension,
            metric="cos",
            dtype="i8",
            connectivity=_LINKS,
            expansion_add=_BUILD_WIDTH,
            enable_key_lookups=False,
        )
        with tqdm(total=len(vectors), desc="graph", unit=" names", disable=not progress) as bar:
            for start, codes in _codes(vectors):
                graph.add(np.arange(start, start + len(codes)), codes, threads=torch.get_num_threads())
                bar.update(len(codes))
                _release_pages(vectors)
        queries = _sample(vectors, _SAMPLE, seed)
        nearest = _nearest(vectors, queries)
        for width in WIDTHS:
            wide = cls(vectors, graph, width, 0.0)
            if all(wide._recall(queries, nearest, at) >= least for at, least in ENOUGH.items()):
                break
        return replace(wide, recall=wide._recall(queries, nearest))

    def save(self, file: Path | str) -> dict[str, Any]:
        """Write one file into an artifact's folder that is being filled → what its manifest has to keep."""
        self.graph.save(str(file))
        return self.metadata()

    def metadata(self) -> dict[str, Any]:
        """What a manifest and a report say of it."""
        return {"width": self.width, f"recall@{RECALL_AT}": self.recall}

    @classmethod
    def open(cls, file: Path | str, vectors: Vectors, metadata: Mapping[str, Any]) -> "HnswIndex":
        """What `save` wrote and returned, memory-mapped. Raises ArtifactError if it isn't of these vectors, ConfigError without usearch."""
        try:
            graph = _usearch().restore(str(file), view=True, enable_key_lookups=False)
            width, share = int(metadata["width"]), float(metadata[f"recall@{RECALL_AT}"])
            sound = (
                graph is not None
                and (len(graph), graph.ndim) == (len(vectors), vectors.dimension)
                and width > 0
                and 0 <= share <= 1
            )
        except (RuntimeError, KeyError, ValueError, TypeError, OSError):
            sound = False
        if not sound:
            raise ArtifactError(
                f"{file}: not a graph of these {len(vectors):,} vectors; the folder is damaged, make it again"
            )
        return cls(vectors, graph, width, share)

    def verify_recall(self, file: Path | str) -> None:
        """Measure the recall again, on a few queries, and on as many as at first where these find clearly less. Raises ArtifactError if both do."""
        for count in (_FEW, _SAMPLE):
            queries = _sample(self.vectors, count, _OTHERS)
            share = self._recall(queries, _nearest(self.vectors, queries))
            if share >= self.recall - _CLEARLY:
                return
        raise ArtifactError(
            f"{file}: expected a graph that finds {self.recall:.0%} of the {RECALL_AT} nearest names, found {share:.0%}; "
            "it is of other vectors, make the index again"
        )

    def _recall(self, queries: Floats, nearest: Rows, at: int = RECALL_AT) -> float:
        """Of the `at` nearest. nearest: (q, at least as many)."""
        parts = []
        for start in range(0, len(queries), _FEW):
            parts.append(self.search(queries[start : start + _FEW], RECALL_AT)[1])
            _release_pages(self.vectors)
        found, true = np.concatenate(parts)[:, :at], nearest[:, :at]
        common = [len(np.intersect1d(*pair)) for pair in zip(found, true, strict=True)]
        return float(np.mean(common)) / int(true.shape[1])

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """As `search_vectors`, but a row may be missed. A query for which the graph finds too few rows is answered by the exact search."""
        check_finite(queries, "the query vectors")
        q, k = len(queries), min(k, len(self.vectors))
        wanted = min(len(self.vectors), max(RECALL_AT, 4 * k))
        found, counts = self._propose(quantize(queries)[0], wanted)
        query, place = np.nonzero(np.arange(wanted) < counts[:, None])
        proposed = np.full((q, wanted), -np.inf, np.float32)
        proposed[query, place] = exact_scores(self.vectors, queries, query, found[query, place])
        order = np.lexsort((found, -proposed))[:, :k]
        scores, rows = np.take_along_axis(proposed, order, 1), np.take_along_axis(found, order, 1)
        few = counts < k
        if few.any():
            scores[few], rows[few] = search_vectors(self.vectors, queries[few], k)
        return scores, rows

    def _propose(self, codes: NDArray[np.int8], wanted: int) -> tuple[Rows, Rows]:
        """(q, wanted) rows, nearest first by their codes, and (q,) how many of them are rows indeed."""
        rows, counts = np.zeros((len(codes), wanted), np.int64), np.zeros(len(codes), np.int64)
        if not (len(codes) and wanted):
            return rows, counts
        with self._turn:
            self.graph.expansion_search = max(self.width, wanted)
            matches = self.graph.search(codes, wanted, threads=min(len(codes), torch.get_num_threads()))
        if len(codes) == 1:
            counts[0] = len(matches.keys)
            rows[0, : counts[0]] = matches.keys
        else:
            counts[:] = matches.counts
            rows[:] = np.where(np.arange(wanted) < counts[:, None], matches.keys, 0)
        return rows, counts


def _codes(vectors: Vectors) -> Iterator[tuple[int, NDArray[np.int8]]]:
    for start in range(0, len(vectors), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        yield start, quantize(vectors.take(part))[0] if vectors.scan is None else vectors.scan[part]


def _sample(vectors: Vectors, count: int, seed: int) -> Floats:
    """(at most `count`, d) unit vectors near to rows, as mentions are to names."""
    rng = np.random.default_rng(seed)
    queries = vectors.take(np.sort(rng.choice(len(vectors), min(count, len(vectors)), replace=False)))
    moves = rng.standard_normal(queries.shape, dtype=np.float32)
    queries += np.float32(_NOISE) * moves / np.linalg.norm(moves, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def _nearest(vectors: Vectors, queries: Floats) -> Rows:
    """(q, at most RECALL_AT) the nearest rows, found exactly, with no more of a memory map in memory at once than a slice."""
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    step = max(1, SLICE // max(1, vectors.dimension))
    for start in range(0, len(vectors), step):
        part, (fine, scan, scales) = slice(start, start + step), (vectors.fine, vectors.scan, vectors.scales)
        some = Vectors(
            None if fine is None else fine[part],
            None if scan is None else scan[part],
            None if scales is None else scales[part],
            vectors.error,
            vectors.norm,
        )
        more, found = search_vectors(some, queries, RECALL_AT)
        scores, rows = np.hstack([scores, more]), np.hstack([rows, found + start])
        order = np.lexsort((rows, -scores))[:, :RECALL_AT]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        _release_pages(vectors)
    return rows


def _release_pages(vectors: Vectors) -> None:
    """What was read of memory maps counts no longer as the process's memory: what follows would not need it again soon."""
    for array in (vectors.fine, vectors.scan, vectors.scales):
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)


def check_usearch_installed() -> None:
    """Raise ConfigError if usearch isn't there: before hours of encoding, not after."""
    if find_spec("usearch") is None:
        raise ConfigError(
            "approximate search needs usearch, which isn't installed: pip install 'xsap[ann]'; or search exactly"
        )


def _usearch() -> Any:
    check_usearch_installed()
    from usearch.index import Index

    return Index


WIDEST = (
    WIDTHS[-1] // 4
)  # names that a graph is asked for: it looks at four times as many, and no wider look was measured


class Searcher:
    """device: holds a copy of the vectors from the first exact search on; None for the processor alone. May be used by many threads at once."""

    def __init__(self, vectors: Vectors, graph: HnswIndex | None, device: torch.device | None) -> None:
        self.vectors, self.graph, self.device = vectors, graph, device
        self._device_copy: Tensor | None = None
        self._lock = Lock()

    def search(self, queries: Floats, k: int, rows: Rows | None = None) -> tuple[Floats, Rows]:
        """The k nearest names of each query: as `search_vectors`, but that a graph may miss some. rows: among these alone."""
        if self.graph is not None and rows is None and k <= WIDEST:
            return self.graph.search(queries, k)
        device_copy = self._uploaded()
        if device_copy is not None:
            try:
                return search_vectors(self.vectors, queries, k, rows=rows, device_copy=device_copy)
            except torch.OutOfMemoryError:
                self.release()
        return search_vectors(self.vectors, queries, k, rows=rows)

    def release(self) -> bool:
        """Give the accelerator's memory back, and search on the processor from now on; whether there was a copy."""
        with self._lock:
            held, self.device, self._device_copy = self._device_copy is not None, None, None
        if held and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return held

    def _uploaded(self) -> Tensor | None:
        with self._lock:
            if self.device is not None and self._device_copy is None:
                try:
                    self._device_copy = upload(self.vectors, self.device)
                except torch.OutOfMemoryError:
                    self.device = None
            return self._device_copy


def search_device(encoder: object) -> torch.device | None:
    """Where an encoder computes, if that is a GPU with CUDA."""
    parameters = encoder.parameters() if isinstance(encoder, torch.nn.Module) else ()
    device = next((parameter.device for parameter in parameters), None)
    return device if device is not None and device.type == "cuda" else None
