"""Mention names in an index's folder: a folder of their own, `mentions/`, with tables that are checked when they are opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.linking.dictionary import INDEX_NAMES_SCHEMA, NameConcepts
from xsap.linking.mention_names import MentionNames
from xsap.search.vectors import FILES, Vectors, write_vectors

MENTIONS_FOLDER = "mentions"
_ARRAYS: dict[str, Any] = {
    "starts": np.int64,
    "name_concepts": np.int32,
    "preferences": np.uint8,
    "counts": np.int32,
    "totals": np.int32,
}
MENTION_FILES = tuple(
    f"{MENTIONS_FOLDER}/{file}" for file in (*FILES, "names.arrow", *(f"{name}.npy" for name in _ARRAYS))
)


def write_mention_names(folder: Path, names: MentionNames) -> None:
    """Write the folder `mentions` into an index that is being published; `MentionNames.metadata` belongs into its manifest."""
    assert names.vectors is not None, "mention names without vectors"
    own = folder / MENTIONS_FOLDER
    own.mkdir()
    table = names.names.combine_chunks()
    with pa.OSFile(str(own / "names.arrow"), "wb") as stream, pa.ipc.new_file(stream, INDEX_NAMES_SCHEMA) as writer:
        writer.write_table(table)
    pairs = names.name_concepts
    arrays: tuple[NDArray[Any], ...] = (pairs.starts, pairs.concepts, pairs.preferences, names.counts, names.totals)
    for (name, dtype), array in zip(_ARRAYS.items(), arrays, strict=True):
        np.save(own / f"{name}.npy", array.astype(dtype), allow_pickle=False)
    vectors = names.vectors
    with write_vectors(own, len(vectors), vectors.dimension, vectors.vector_dtype) as write:
        write(vectors.take(slice(None)))


def open_mention_names(folder: Path, metadata: Mapping[str, Any] | None, concepts: int) -> MentionNames | None:
    """Open the mention names of an index's folder, if it has any.

    Args:
        folder: The index's folder.
        metadata: Their entries in its manifest; None if it has no mention names.
        concepts: Number of concepts of its dictionary.

    Raises:
        ValueError: The files do not fit together; and what pyarrow and numpy raise.
    """
    if metadata is None:
        return None
    own = folder / MENTIONS_FOLDER
    table = pa.ipc.open_file(pa.OSFile(str(own / "names.arrow"))).read_all()
    if table.schema != INDEX_NAMES_SCHEMA:
        raise ValueError("names.arrow has other columns")
    table.validate(full=True)
    arrays = [np.load(own / f"{name}.npy", allow_pickle=False) for name in _ARRAYS]
    if any((array.dtype, array.ndim) != (dtype, 1) for array, dtype in zip(arrays, _ARRAYS.values(), strict=True)):
        raise ValueError("an array has another type")
    starts, numbers, preferences, counts, totals = arrays
    vectors, weight = Vectors.open(own), float(metadata["weight"])
    n, pairs = table.num_rows, len(numbers)
    sound = (len(starts), len(totals), len(vectors)) == (n + 1, n, n) and metadata["names"] == n and 0 <= weight <= 1
    sound = sound and len(preferences) == len(counts) == pairs and (starts[0], starts[-1]) == (0, pairs)
    sound = sound and bool((np.diff(starts) >= 0).all()) and bool(((numbers >= 0) & (numbers < concepts)).all())
    if not sound or any(column.null_count for column in table.columns):
        raise ValueError("the tables of mention names don't fit together")
    name_concepts = NameConcepts(starts, numbers.astype(np.int64), concepts, preferences)
    return MentionNames(table, name_concepts, counts, totals, weight, vectors, metadata["learnt"], metadata["dropped"])
