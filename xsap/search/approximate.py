"""Approximate search: an HNSW index proposes rows, and their exact scores rank them.

The HNSW index (Malkov & Yashunin, IEEE TPAMI 42(4), 2020) is built over the int8 codes by usearch (extra [ann]); the cosine of two codes is
that of the vectors they represent, for any scales of the rows. How many of the true nearest rows it finds is measured when it is built,
never assumed: ef is the least that reaches a target recall on a sample of queries, and the recall is stored. When the index is opened, a few
queries show whether it still finds as many, so that an index of other vectors is refused. Filtered searches are always exact.

`Searcher` uses the HNSW index, where one was opened, for searches without a filter that ask for no more rows than its recall was measured
for. All else is searched exactly: on the encoder's GPU, which then holds a 16-bit copy of the vectors, or on the CPU where there is no GPU or
the copy does not fit. Exact answers are bitwise identical on both.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from xsap.encoding.forks import ForkSafeLock
from xsap.errors import ArtifactError, ConfigError
from xsap.search.exact import exact_scores, search_vectors, upload
from xsap.search.vectors import Floats, Rows, Vectors, check_finite, quantize

RECALL_AT = 64
TARGET_RECALL = {10: 0.99, RECALL_AT: 0.9}  # of so many nearest rows: a recall at which no greater ef is tried
EF_CHOICES = (128, 256, 512, 1024, 2048)  # rows that a search keeps while it walks the index
CONNECTIVITY, EF_CONSTRUCTION = 16, 128  # links per row ("M"; twice as many on the lowest level), and ef while building
MAX_HNSW_K = EF_CHOICES[-1] // 4  # four times as many rows are looked at, and no greater ef was measured
COMPONENTS_PER_SLICE = 1 << 28  # components of vectors that one exact search of `nearest_rows` reads
_NOISE = 0.6  # queries of a sample are rows plus so long a random vector, at unit length: a cosine of 0.86
_SAMPLE, _SMALL_SAMPLE = 200, 16  # queries that recall is measured on: when the index is built, and when it is opened
_CHECK_SEED, _TOLERANCE = 1 << 20, 0.1  # of the sample when it is opened, and by how much less it may find
_ROWS_PER_PART = 16_384  # rows added between two steps of the progress bar


@dataclass(frozen=True, eq=False)
class HnswIndex:
    """An HNSW index of int8 codes. Several threads never build the same one twice, and may lose some rows to it.

    Attributes:
        vectors: The vectors it was built of.
        usearch: The usearch.index.Index.
        ef: Rows that a search keeps while it walks the index.
        recall: The fraction of the RECALL_AT nearest rows that it found for a sample of queries.
    """

    vectors: Vectors
    usearch: Any
    ef: int
    recall: float
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)  # all callers of usearch get the same buffers

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        seed: int = 0,
        progress: bool = False,
        connectivity: int = CONNECTIVITY,
        ef_construction: int = EF_CONSTRUCTION,
        ef_choices: Sequence[int] = EF_CHOICES,
        target_recall: Mapping[int, float] = TARGET_RECALL,
    ) -> "HnswIndex":
        """Index all rows, and choose the least ef that reaches the target recall on a sample of queries.

        Args:
            vectors: At least one vector.
            seed: Of the sample.
            progress: Whether to show a progress bar on stderr.
            connectivity: Links per row.
            ef_construction: ef while building.
            ef_choices: What to choose from, ascending. If none reaches the target, the last is taken.
            target_recall: k → the fraction of the k nearest rows to find; k is at most RECALL_AT.

        Raises:
            ConfigError: usearch is not installed.
        """
        assert len(vectors), "an HNSW index needs at least one vector"
        index = _usearch()(
            ndim=vectors.dimension,
            metric="cos",
            dtype="i8",
            connectivity=connectivity,
            expansion_add=ef_construction,
            enable_key_lookups=False,
        )
        with tqdm(total=len(vectors), desc="HNSW index", unit=" names", disable=not progress) as bar:
            for start, codes in _codes(vectors):
                index.add(np.arange(start, start + len(codes)), codes, threads=torch.get_num_threads())
                bar.update(len(codes))
                release_pages(vectors)
        queries = _sample(vectors, _SAMPLE, seed)
        nearest = nearest_rows(vectors, queries)
        for ef in ef_choices:
            tried = cls(vectors, index, ef, 0.0)
            if all(tried.measure_recall(queries, nearest, k) >= target for k, target in target_recall.items()):
                break
        return replace(tried, recall=tried.measure_recall(queries, nearest))

    def save(self, file: Path | str) -> dict[str, Any]:
        """Write one file into the folder of an artifact that is being written; returns the entries of its manifest."""
        self.usearch.save(str(file))
        return self.metadata()

    def metadata(self) -> dict[str, Any]:
        """The entries of a manifest or report about this index."""
        return {"ef": self.ef, f"recall@{RECALL_AT}": self.recall}

    @classmethod
    def open(cls, file: Path | str, vectors: Vectors, metadata: Mapping[str, Any]) -> "HnswIndex":
        """Memory-map what `save` wrote.

        Args:
            file: The file.
            vectors: The vectors it was built of.
            metadata: What `save` returned.

        Raises:
            ArtifactError: The file is damaged, or of another number of vectors or components.
            ConfigError: usearch is not installed.
        """
        try:
            index = _usearch().restore(str(file), view=True, enable_key_lookups=False)
            ef, recall = int(metadata["ef"]), float(metadata[f"recall@{RECALL_AT}"])
            same_shape = index is not None and (len(index), index.ndim) == (len(vectors), vectors.dimension)
            sound = same_shape and ef > 0 and 0 <= recall <= 1
        except (RuntimeError, KeyError, ValueError, TypeError, OSError):
            sound = False
        if not sound:
            raise ArtifactError(
                f"{file}: not an HNSW index of these {len(vectors):,} vectors; the folder is damaged; create it again"
            )
        return cls(vectors, index, ef, recall)

    def verify_recall(self, file: Path | str) -> None:
        """Measure the recall again: on a few queries, and on as many as when it was built if these find clearly less.

        Args:
            file: Where the index is stored, for the error.

        Raises:
            ArtifactError: Both find clearly less, so the index is of other vectors.
        """
        for count in (_SMALL_SAMPLE, _SAMPLE):
            queries = _sample(self.vectors, count, _CHECK_SEED)
            recall = self.measure_recall(queries, nearest_rows(self.vectors, queries))
            if recall >= self.recall - _TOLERANCE:
                return
        raise ArtifactError(
            f"{file}: expected an HNSW index that finds {self.recall:.0%} of the {RECALL_AT} nearest names, found {recall:.0%}; "
            "it was built from other vectors; create the index again"
        )

    def measure_recall(self, queries: Floats, nearest: Rows, k: int = RECALL_AT) -> float:
        """The fraction of the k nearest rows that a search for RECALL_AT rows finds.

        Args:
            queries: (q, d) float32.
            nearest: (q, at least k) the true nearest rows, nearest first.
            k: At most RECALL_AT.
        """
        parts = []
        for start in range(0, len(queries), _SMALL_SAMPLE):
            parts.append(self.search(queries[start : start + _SMALL_SAMPLE], RECALL_AT)[1])
            release_pages(self.vectors)
        found, true = np.concatenate(parts)[:, :k], nearest[:, :k]
        common = [len(np.intersect1d(*pair)) for pair in zip(found, true, strict=True)]
        return float(np.mean(common)) / int(true.shape[1])

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """As `search_vectors`, but a row may be missed. Queries for which the index finds too few rows are searched exactly.

        Args:
            queries: (q, d) float32.
            k: How many rows to find for each query.

        Returns:
            Exact scores (q, min(k, n)) float32, greatest first, and their rows, of the same shape, int64.

        Raises:
            DataError: A query is not finite.
        """
        check_finite(queries, "the query vectors")
        q, k = len(queries), min(k, len(self.vectors))
        wanted = min(len(self.vectors), max(RECALL_AT, 4 * k))
        found, counts = self._propose(quantize(queries)[0], wanted)
        query, rank = np.nonzero(np.arange(wanted) < counts[:, None])
        proposed = np.full((q, wanted), -np.inf, np.float32)
        proposed[query, rank] = exact_scores(self.vectors, queries, query, found[query, rank])
        order = np.lexsort((found, -proposed))[:, :k]
        scores, rows = np.take_along_axis(proposed, order, 1), np.take_along_axis(found, order, 1)
        few = counts < k
        if few.any():
            scores[few], rows[few] = search_vectors(self.vectors, queries[few], k)
        return scores, rows

    def _propose(self, codes: NDArray[np.int8], wanted: int) -> tuple[Rows, Rows]:
        """(q, wanted) rows, nearest by their codes first, and (q,) how many of them were found."""
        rows, counts = np.zeros((len(codes), wanted), np.int64), np.zeros(len(codes), np.int64)
        if not (len(codes) and wanted):
            return rows, counts
        with self._lock:
            self.usearch.expansion_search = max(self.ef, wanted)
            matches = self.usearch.search(codes, wanted, threads=min(len(codes), torch.get_num_threads()))
        if len(codes) == 1:
            counts[0] = len(matches.keys)
            rows[0, : counts[0]] = matches.keys
        else:
            counts[:] = matches.counts
            rows[:] = np.where(np.arange(wanted) < counts[:, None], matches.keys, 0)
        return rows, counts


def nearest_rows(vectors: Vectors, queries: Floats, *, components_per_slice: int = COMPONENTS_PER_SLICE) -> Rows:
    """The RECALL_AT nearest rows, found exactly. No more than one slice of a memory map is kept in memory.

    Args:
        vectors: n vectors of d components.
        queries: (q, d) float32.
        components_per_slice: Components of vectors in a slice.

    Returns:
        (q, min(RECALL_AT, n)) int64, nearest first.
    """
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    step = max(1, components_per_slice // max(1, vectors.dimension))
    for start in range(0, len(vectors), step):
        more, found = search_vectors(vectors.between(start, start + step), queries, RECALL_AT)
        scores, rows = np.hstack([scores, more]), np.hstack([rows, found + start])
        order = np.lexsort((rows, -scores))[:, :RECALL_AT]
        scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        release_pages(vectors)
    return rows


def release_pages(vectors: Vectors) -> None:
    """Tell the system that memory-mapped pages read so far are not needed soon, so that they do not count as the process's memory."""
    for array in (vectors.values, vectors.codes, vectors.scales):
        owner: Any = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)


def _codes(vectors: Vectors) -> Iterator[tuple[int, NDArray[np.int8]]]:
    for start in range(0, len(vectors), _ROWS_PER_PART):
        part = slice(start, start + _ROWS_PER_PART)
        yield start, quantize(vectors.take(part))[0] if vectors.codes is None else vectors.codes[part]


def _sample(vectors: Vectors, count: int, seed: int) -> Floats:
    """(at most `count`, d) unit vectors near rows, as mentions are near names."""
    rng = np.random.default_rng(seed)
    queries = vectors.take(np.sort(rng.choice(len(vectors), min(count, len(vectors)), replace=False)))
    noise = rng.standard_normal(queries.shape, dtype=np.float32)
    queries += np.float32(_NOISE) * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def check_usearch_installed() -> None:
    """Raise ConfigError if usearch is missing: before hours of encoding, not after."""
    if find_spec("usearch") is None:
        raise ConfigError(
            "approximate search needs usearch, which isn't installed: pip install 'xsap[ann]'; or search exactly"
        )


def _usearch() -> Any:
    check_usearch_installed()
    from usearch.index import Index

    return Index


class Searcher:
    """Searches vectors with the fastest kind of search available. May be used by many threads at once."""

    def __init__(self, vectors: Vectors, hnsw: HnswIndex | None, device: torch.device | None) -> None:
        """Choose what to search with.

        Args:
            vectors: The vectors.
            hnsw: Their HNSW index, if it is to be used.
            device: A GPU that holds a copy of the vectors from the first exact search on; None for the CPU alone.
        """
        self.vectors, self.hnsw, self.device = vectors, hnsw, device
        self.device_copy: Tensor | None = None
        self._lock = ForkSafeLock()

    def search(self, queries: Floats, k: int, rows: Rows | None = None) -> tuple[Floats, Rows]:
        """The k nearest rows of each query, as `search_vectors`; the HNSW index may miss some.

        Args:
            queries: (q, d) float32.
            k: How many rows to find for each query.
            rows: Search only these rows, exactly: (m,) int64, ascending, unique.

        Returns:
            Scores and rows, as `search_vectors`.

        Raises:
            DataError: A query is not finite.
        """
        if self.hnsw is not None and rows is None and k <= MAX_HNSW_K:
            return self.hnsw.search(queries, k)
        device_copy = self._uploaded()
        if device_copy is not None:
            try:
                return search_vectors(self.vectors, queries, k, rows=rows, device_copy=device_copy)
            except torch.OutOfMemoryError:
                self.release()
        return search_vectors(self.vectors, queries, k, rows=rows)

    def release(self) -> bool:
        """Free the GPU's memory, and search on the CPU from now on; returns whether there was a copy."""
        with self._lock:
            held, self.device, self.device_copy = self.device_copy is not None, None, None
        if held and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return held

    def _uploaded(self) -> Tensor | None:
        with self._lock:
            if self.device is not None and self.device_copy is None:
                try:
                    self.device_copy = upload(self.vectors, self.device)
                except torch.OutOfMemoryError:
                    self.device = None
            return self.device_copy


def search_device(encoder: object) -> torch.device | None:
    """The device an encoder computes on, if that is a CUDA GPU."""
    parameters = encoder.parameters() if isinstance(encoder, torch.nn.Module) else ()
    device = next((parameter.device for parameter in parameters), None)
    return device if device is not None and device.type == "cuda" else None
