"""The files of a dictionary in an index's folder: written in batches, memory-mapped, and checked when they are opened.

Memory-mapped Arrow data is used as it is, so an offset out of its buffer would be read from anywhere in memory. Therefore every offset, string
and number is checked once, in batches that are unmapped afterward: a folder with the right hashes but the wrong content is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import ArtifactError
from xsap.linking.details import DETAIL_FILES, open_details, write_details
from xsap.linking.dictionary import (
    INDEX_CONCEPTS_SCHEMA,
    INDEX_NAMES_SCHEMA,
    ROWS_PER_BATCH,
    Dictionary,
    NameConcepts,
)
from xsap.linking.name_keys import ENTRY, Keys

_SCHEMAS = {"names": INDEX_NAMES_SCHEMA, "concepts": INDEX_CONCEPTS_SCHEMA}
_DTYPES: dict[str, Any] = {
    "starts": np.int64,
    "name_concepts": np.int32,
    "preferences": np.uint8,
    "hashes": np.uint64,
    "entries": ENTRY,
}
DICTIONARY_FILES = (*(f"{name}.arrow" for name in _SCHEMAS), *(f"{name}.npy" for name in _DTYPES), *DETAIL_FILES)
DICTIONARY_FORMAT = 3
"""Version of these files, of concepts' columns, and of the normalization and look-up keys of names; a folder of another version has to be made again."""
_VALUES_PER_CHECK = 1 << 20


def write_dictionary(folder: Path, dictionary: Dictionary, *, rows_per_batch: int = ROWS_PER_BATCH) -> None:
    """Write a dictionary's files into a folder that is being published; `dropped` belongs into its manifest."""
    for name, table in (("names", dictionary.names), ("concepts", dictionary.concepts)):
        path = str(folder / f"{name}.arrow")
        with pa.OSFile(path, "wb") as stream, pa.ipc.new_file(stream, _SCHEMAS[name]) as writer:
            for start in range(0, table.num_rows, rows_per_batch):
                rows = table.slice(start, rows_per_batch)
                writer.write_table(
                    rows.take(np.arange(len(rows))).combine_chunks()
                )  # a slice would be written with its own offsets
    pairs = dictionary.name_concepts
    arrays: list[NDArray[Any]] = [pairs.starts, pairs.concepts.astype(np.int32), pairs.preferences, *dictionary.keys]
    for name, array in zip(_DTYPES, arrays, strict=True):
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    write_details(folder, dictionary.details)


def open_dictionary(folder: Path, dropped: dict[str, int]) -> Dictionary:
    """Memory-map a dictionary's files. Raises ValueError if they don't fit together, and what pyarrow and numpy raise."""
    names, concepts = (_open_table(folder, name) for name in _SCHEMAS)
    starts, numbers, preferences, hashes, entries = (_open_array(folder, name) for name in _DTYPES)
    n, pairs = names.num_rows, len(numbers)
    sound = len(hashes) == len(entries) and len(starts) == n + 1 and len(preferences) == pairs
    if not sound or (starts[0], starts[-1]) != (0, pairs):
        raise ValueError("the tables of an index don't fit together")
    _check_table(folder, "names")
    _check_table(folder, "concepts")
    _check_array(folder, "starts", 0, len(numbers) + 1, ascending=True)
    _check_array(folder, "name_concepts", 0, concepts.num_rows)
    _check_array(folder, "hashes", 0, 1 << 64, ascending=True)
    for part in _parts(entries):
        if min(part["row"].min(), part["concept"].min()) < 0 or part["row"].max() >= n:
            raise ValueError("entries.npy has a number out of its range")
        if part["concept"].max() >= concepts.num_rows:
            raise ValueError("entries.npy has a number out of its range")
    name_concepts = NameConcepts(starts, numbers, concepts.num_rows, preferences)
    details = open_details(folder, concepts.num_rows)
    return Dictionary(names, concepts, name_concepts, Keys(hashes, entries), dropped, details)


def check_dictionary_format(manifest: Mapping[str, Any], path: Path) -> None:
    """Raise ArtifactError for a folder whose dictionary is of another version."""
    found = manifest.get("dictionary_format", 1)
    if found != DICTIONARY_FORMAT:
        raise ArtifactError(
            f"{path}: expected names, concepts and look-up keys of version {DICTIONARY_FORMAT}, found version {found}; "
            "create it again: xsap index MODEL TERMINOLOGY --out INDEX --overwrite"
        )


def _open_table(folder: Path, name: str) -> pa.Table:
    table = pa.ipc.open_file(pa.memory_map(str(folder / f"{name}.arrow"))).read_all()
    if table.schema != _SCHEMAS[name]:
        raise ValueError(f"{name}.arrow has other columns")
    return table


def _open_array(folder: Path, name: str) -> NDArray[Any]:
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever Python's parser does
        raise ValueError(f"{name}.npy is no array") from error
    if not isinstance(array, np.ndarray) or (array.dtype, array.ndim) != (_DTYPES[name], 1):
        raise ValueError(f"{name}.npy is not an array of {np.dtype(_DTYPES[name])}")
    return array


def _check_table(folder: Path, name: str) -> None:
    """Check every offset and every string of a table. Raises pyarrow's ArrowInvalid, and ValueError for a null."""
    with pa.memory_map(str(folder / f"{name}.arrow")) as stream:
        reader = pa.ipc.open_file(stream)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ValueError(f"{name}.arrow has empty cells")


def _check_array(folder: Path, name: str, least: int, below: int, *, ascending: bool = False) -> None:
    """Raise ValueError if a value is not in [least, below), or less than the one before it."""
    last = least
    for part in _parts(_open_array(folder, name)):
        found = int(part.min()), int(part.max())
        if found[0] < least or found[1] >= below or (ascending and (part[0] < last or (part[1:] < part[:-1]).any())):
            raise ValueError(f"{name}.npy has a number out of its range")
        last = int(part[-1])


def _parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(array), _VALUES_PER_CHECK):
        yield array[start : start + _VALUES_PER_CHECK]
