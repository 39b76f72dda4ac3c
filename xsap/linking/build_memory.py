"""Memory of a build: how much it will take, and how much the process has now."""

import ctypes
import os
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from xsap.artifacts import read_manifest
from xsap.errors import ConfigError
from xsap.search.approximate import COMPONENTS_PER_SLICE

_FIXED_BYTES = 100_000_000  # memory for reading any terminology, and for libraries that are loaded late
_NAME_BYTES = 150  # for hashes, numbers and lists of a name
_BYTES_PER_TEXT_BYTE = 2.0  # of names and codes: what was read, and what is made of it
_COMPONENT_BYTES = 8192 * 48  # for each component of a vector, while 8,192 tokens are encoded
_HNSW_NAME_BYTES = 200  # for the links of a name in the HNSW index
_RECALL_BYTES = 5  # of each component that is read to measure the recall of the HNSW index: a code, and a float32


class MemoryEstimate(NamedTuple):
    """Bytes that a build takes beyond what the process has now, and those of them that are for the HNSW index."""

    names: int
    dimension: int
    total: int
    hnsw: int


def estimate_memory(
    terminology: Path | str,
    languages: Collection[str] | None,
    dimension: int,
    rows_per_shard: int,
    *,
    ann: bool = False,
) -> MemoryEstimate:
    """Estimate the memory of a build, by peak resident memory that was measured with names of 35 characters.

    Args:
        terminology: A terminology's folder.
        languages: ISO codes of the names to embed; None for all.
        dimension: Components of a vector.
        rows_per_shard: Vectors of a shard.
        ann: Whether an HNSW index is built, too.
    """
    counts = read_manifest(terminology, "terminology")["languages"]
    chosen = sum(n for language, n in counts.items() if languages is None or language in languages)
    fraction = chosen / max(1, sum(counts.values()))
    names, text = _column_bytes(Path(terminology) / "names.parquet", "name", "code")
    _, references = _column_bytes(Path(terminology) / "concepts.parquet", "cross_references")
    tables = _FIXED_BYTES + fraction * _NAME_BYTES * names + _BYTES_PER_TEXT_BYTE * (fraction * text + references)
    hnsw = (
        chosen * (dimension + _HNSW_NAME_BYTES) + _RECALL_BYTES * min(chosen * dimension, COMPONENTS_PER_SLICE)
        if ann
        else 0
    )
    encoding = _COMPONENT_BYTES * dimension + shard_bytes(rows_per_shard, dimension)
    return MemoryEstimate(chosen, dimension, int(tables + encoding + hnsw), hnsw)


def check_memory(max_memory: int, estimate: MemoryEstimate) -> None:
    """Raise ConfigError if a build would make the process take more than `max_memory` bytes."""
    resident = rss_bytes()
    needed = resident + estimate.total
    if needed > max_memory:
        hnsw = f", {estimate.hnsw / 1e9:.1f}GB for its HNSW index" if estimate.hnsw else ""
        raise ConfigError(
            f"an index of {estimate.names:,} names with {estimate.dimension} dimensions needs about "
            f"{needed / 1e9:.1f}GB of memory ({resident / 1e9:.1f}GB of it in use already{hnsw}), found a limit of "
            f"{max_memory / 1e9:.1f}GB. Allow more with --max-memory, or choose fewer --languages"
        )


def shard_bytes(rows: int, dimension: int) -> int:
    """Bytes of a shard's three copies in float32: encoded, written, read again."""
    return 3 * 4 * dimension * rows


def _column_bytes(file: Path, *columns: str) -> tuple[int, int]:
    """How many rows a Parquet file has, and bytes in some columns."""
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    sizes = [each.total_uncompressed_size for each in chunks if each.path_in_schema.split(".")[0] in columns]
    return metadata.num_rows, sum(sizes)


def trim_malloc() -> None:
    """Return freed memory to the system, on glibc: batches of many shapes fragment the heap to twice its size."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def rss_bytes() -> int:
    """Resident memory of the process; where the system does not say, its maximum so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
