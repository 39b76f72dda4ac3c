"""Approximate search: a graph of near neighbours proposes rows, and their exact scores rank them.

The graph is HNSW (Malkov and Yashunin, IEEE TPAMI 2020) over the int8 codes, as usearch builds it (extra [ann]). A cosine of codes is that of
the vectors that they stand for, whatever the rows' scales. How many of the true neighbours the graph finds is measured when it is built,
never assumed: it looks as widely as a sample of queries needs, and the recall stays beside it. Filters are for the exact search.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from xsap.errors import ArtifactError, ConfigError
from xsap.linking.scan import exact_scores, search_vectors
from xsap.linking.search import check_finite
from xsap.linking.vectors import Floats, Rows, Vectors, quantise

RECALL_AT = 64
ENOUGH = 0.95  # the recall at which no wider look is tried
WIDTHS = (128, 256, 512, 1024, 2048)  # rows that a search holds while it walks the graph ("ef")
_LINKS, _BUILD_WIDTH = 16, 128  # of each row, twice as many on the lowest level; and the width while building ("M", "ef construction")
_SAMPLE, _APART = 200, 0.6  # queries: rows, moved by so much and made unit vectors again, which leaves a cosine of 0.86
_AT_ONCE = 16_384  # rows added between two steps of the progress bar


@dataclass(frozen=True, eq=False)
class Graph:
    """graph: a usearch.index.Index of int8 codes; built by several threads, so never twice the same.

    width: rows that a search holds while it walks the graph. recall: the share of a sample's RECALL_AT nearest rows that it finds so.
    """

    vectors: Vectors
    graph: Any
    width: int
    recall: float
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)  # usearch gives every caller the same working memory

    @classmethod
    def build(cls, vectors: Vectors, *, seed: int = 0, progress: bool = False) -> "Graph":
        """Link all rows, and measure how widely to look: as far as ENOUGH recall needs. Raises ConfigError if usearch isn't installed."""
        assert len(vectors), "a graph needs a row to begin with"
        graph = _usearch()(
            ndim=vectors.dimension, metric="cos", dtype="i8", connectivity=_LINKS, expansion_add=_BUILD_WIDTH, enable_key_lookups=False
        )
        with tqdm(total=len(vectors), desc="graph", unit=" names", disable=not progress) as bar:
            for start, codes in _codes(vectors):
                graph.add(np.arange(start, start + len(codes)), codes)
                bar.update(len(codes))
        queries = _sample(vectors, seed)
        nearest = search_vectors(vectors, queries, RECALL_AT)[1]
        for width in WIDTHS:
            found = cls(vectors, graph, width, 0.0).search(queries, RECALL_AT)[1]
            share = float(np.mean([len(np.intersect1d(*pair)) for pair in zip(found, nearest, strict=True)])) / nearest.shape[1]
            if share >= ENOUGH:
                break
        return cls(vectors, graph, width, share)

    def save(self, file: Path | str) -> dict[str, Any]:
        """Write one file into an artifact's folder that is being filled → what its manifest has to keep."""
        self.graph.save(str(file))
        return {"width": self.width, f"recall@{RECALL_AT}": self.recall}

    @classmethod
    def open(cls, file: Path | str, vectors: Vectors, facts: Mapping[str, Any]) -> "Graph":
        """What `save` wrote and returned, memory-mapped. Raises ArtifactError if it isn't of these vectors, ConfigError without usearch."""
        try:
            graph = _usearch().restore(str(file), view=True, enable_key_lookups=False)
            width, share = int(facts["width"]), float(facts[f"recall@{RECALL_AT}"])
            sound = graph is not None and (len(graph), graph.ndim) == (len(vectors), vectors.dimension) and width > 0 and 0 <= share <= 1
        except (RuntimeError, KeyError, ValueError, TypeError, OSError):
            sound = False
        if not sound:
            raise ArtifactError(f"{file}: not a graph of these {len(vectors):,} vectors; the folder is damaged, make it again")
        return cls(vectors, graph, width, share)

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """As `search_vectors`, but a row may be missed. A query for which the graph finds too few rows is answered by the exact search."""
        check_finite(queries, "the query vectors")
        q, k = len(queries), min(k, len(self.vectors))
        wanted = min(len(self.vectors), max(RECALL_AT, 4 * k))
        found, counts = self._propose(quantise(queries)[0], wanted)
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
            matches = self.graph.search(codes, wanted, threads=min(len(codes), os.cpu_count() or 1))
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
        yield start, quantise(vectors.take(part))[0] if vectors.scan is None else vectors.scan[part]


def _sample(vectors: Vectors, seed: int) -> Floats:
    """(at most _SAMPLE, d) unit vectors near to rows, as mentions are to names."""
    rng = np.random.default_rng(seed)
    queries = vectors.take(np.sort(rng.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False)))
    moves = rng.standard_normal(queries.shape, dtype=np.float32)
    queries += np.float32(_APART) * moves / np.linalg.norm(moves, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def _usearch() -> Any:
    if find_spec("usearch") is None:
        raise ConfigError("approximate search needs usearch, which isn't installed: pip install 'xsap[ann]'; or search exactly")
    from usearch.index import Index

    return Index
