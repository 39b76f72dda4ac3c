"""What an index knows of its concepts beside their names: a definition in each language, and the broader concepts of each.

Both come from the terminology and are files of their own, so an index of a terminology without them is as it always was, and one that was made
before opens. Where a concept has several definitions in one language, that of the concept's own vocabulary is kept, else the first by source; of
several of one source, the first by text.
Where the index has no names of a broader concept, the nearest ones above it take its place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.languages import ENGLISH
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, RELATIONS_SCHEMA, numbered
from xsap.terms.hierarchy import Hierarchy, relations_among

INDEX_DEFINITIONS_SCHEMA = pa.schema(
    [
        pa.field("concept", pa.int32(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("language", "definition")),
    ]
)
_DEFINITIONS, _STARTS, _PARENTS = DETAIL_FILES = ("definitions.arrow", "parent_starts.npy", "parents.npy")
_ROWS = 1 << 16  # of a terminology that are read together, and definitions that are written together

Batches = Callable[[str, list[str], int], Iterator[pa.RecordBatch]]
"""(table of a terminology, columns, rows per batch) → record batches, in order."""


@dataclass(frozen=True, eq=False)
class ConceptDetails:
    """Definitions and parents of the concepts of an index.

    Attributes:
        definitions: INDEX_DEFINITIONS_SCHEMA, sorted by concept (its number) and language, one for each pair of these.
        hierarchy: The parents of each concept.
    """

    definitions: pa.Table
    hierarchy: Hierarchy

    @cached_property
    def _concepts(self) -> NDArray[np.int32]:
        concepts: NDArray[np.int32] = self.definitions["concept"].to_numpy()
        return concepts

    def definition_of(self, concept: int, language: str | None = None) -> str | None:
        """The definition of a concept in a language, else in English, else in any; None if it has none.

        Args:
            concept: Its number.
            language: ISO 639; None for English.
        """
        first, end = np.searchsorted(self._concepts, [concept, concept + 1]).tolist()
        languages = self.definitions["language"].slice(first, end - first).to_pylist()
        if not languages:
            return None
        at = next((languages.index(code) for code in (language, ENGLISH) if code in languages), 0)
        text: str = self.definitions["definition"][first + at].as_py()
        return text


def build_details(batches: Batches, concepts: pa.Table) -> ConceptDetails | None:
    """The details of the concepts of an index; None if the terminology has none of them.

    Args:
        batches: The terminology.
        concepts: The concepts of the index, sorted by id.
    """
    ids = concepts["concept_id"].combine_chunks()
    definitions = _definitions(batches, ids, concepts["vocabulary"].combine_chunks())
    relations = pa.Table.from_batches(batches("relations", RELATIONS_SCHEMA.names, _ROWS), RELATIONS_SCHEMA)
    if not (definitions.num_rows or relations.num_rows):
        return None
    children = parents = np.zeros(0, np.int64)
    if relations.num_rows:
        every = pa.chunked_array((batch.column(0) for batch in batches("concepts", ["concept_id"], _ROWS)), pa.string())
        at = pc.index_in(every, ids).combine_chunks()
        kept = at.is_valid().to_numpy(zero_copy_only=False)
        numbers = pc.fill_null(at, -1).to_numpy().astype(np.int64)
        pairs = relations_among(*numbered(relations, every.combine_chunks()), kept)
        children, parents = (numbers[part] for part in pairs)
    return ConceptDetails(definitions, Hierarchy.from_pairs(children, parents, len(ids)))


def _definitions(batches: Batches, ids: pa.Array, vocabularies: pa.Array) -> pa.Table:
    more = [pa.field("foreign", pa.int8()), pa.field("source", pa.string())]
    parts = [pa.schema([*INDEX_DEFINITIONS_SCHEMA, *more]).empty_table()]
    for batch in batches("definitions", DEFINITIONS_SCHEMA.names, _ROWS):
        known = batch.filter(pc.is_in(batch["concept_id"], ids))
        concept = pc.index_in(known["concept_id"], ids)
        foreign = pc.cast(pc.not_equal(known["source"], vocabularies.take(concept)), pa.int8())
        columns = [concept, known["language"], known["definition"], foreign, known["source"]]
        parts.append(pa.table(columns, schema=parts[0].schema))
    order = [(column, "ascending") for column in ("concept", "language", "foreign", "source", "definition")]
    rows = pa.concat_tables(parts).sort_by(order).combine_chunks()
    firsts = np.ones(rows.num_rows, bool)
    if rows.num_rows:
        same = [pc.equal(rows[c].slice(1), rows[c].slice(0, rows.num_rows - 1)) for c in ("concept", "language")]
        firsts[1:] = ~pc.and_(*same).to_numpy()
    return rows.filter(pa.array(firsts)).select(INDEX_DEFINITIONS_SCHEMA.names).cast(INDEX_DEFINITIONS_SCHEMA)


def write_details(folder: Path, details: ConceptDetails | None) -> None:
    """Write the files of details, those that have any rows, into a folder that is being published."""
    if details is None:
        return
    if details.definitions.num_rows:
        path = str(folder / _DEFINITIONS)
        with pa.OSFile(path, "wb") as stream, pa.ipc.new_file(stream, INDEX_DEFINITIONS_SCHEMA) as writer:
            for start in range(0, details.definitions.num_rows, _ROWS):
                rows = details.definitions.slice(start, _ROWS)
                writer.write_table(rows.take(np.arange(len(rows))).combine_chunks())  # without the slice's offsets
    if len(details.hierarchy.parents):
        np.save(folder / _STARTS, details.hierarchy.starts.astype(np.int64), allow_pickle=False)
        np.save(folder / _PARENTS, details.hierarchy.parents.astype(np.int32), allow_pickle=False)


def open_details(folder: Path, concepts: int) -> ConceptDetails | None:
    """Memory-map the details of an index; None if it has none.

    Args:
        folder: Of the index.
        concepts: How many it has.

    Raises:
        ValueError: The files don't fit together; and what pyarrow and numpy raise.
    """
    there = [(folder / file).exists() for file in DETAIL_FILES]
    if not any(there):
        return None
    if there[1] != there[2]:
        raise ValueError("an index has one of the two arrays of parents")
    definitions = INDEX_DEFINITIONS_SCHEMA.empty_table()
    if there[0]:
        definitions = _open_definitions(folder / _DEFINITIONS, concepts)
    starts, parents = np.zeros(concepts + 1, np.int64), np.zeros(0, np.int32)
    if there[1]:
        starts, parents = (_open_array(folder / file) for file in (_STARTS, _PARENTS))
        sound = starts.dtype == np.int64 and parents.dtype == np.int32 and parents.ndim == 1
        if (
            not sound
            or starts.shape != (concepts + 1,)
            or (starts[0], starts[-1]) != (0, len(parents))
            or (np.diff(starts) < 0).any()
        ):
            raise ValueError("the arrays of parents don't fit the concepts")
        if len(parents) and (parents.min() < 0 or parents.max() >= concepts):
            raise ValueError("parents.npy has a number out of its range")
    return ConceptDetails(definitions, Hierarchy(starts, parents))  # type: ignore[arg-type]


def _open_array(file: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header raises whatever Python's parser does
        raise ValueError(f"{file.name} is no array") from error
    return array


def _open_definitions(file: Path, concepts: int) -> pa.Table:
    """A table whose every offset, string and number is checked, for memory-mapped data is used as it is."""
    with pa.memory_map(str(file)) as stream:
        reader, last = pa.ipc.open_file(stream), 0
        if reader.schema != INDEX_DEFINITIONS_SCHEMA:
            raise ValueError(f"{file.name} has other columns")
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            batch.validate(full=True)
            if any(column.null_count for column in batch.columns):
                raise ValueError(f"{file.name} has empty cells")
            numbers = np.concatenate([[last], batch["concept"].to_numpy()])
            if (np.diff(numbers) < 0).any() or numbers[-1] >= concepts:
                raise ValueError(f"{file.name} has a number out of its range")
            last = int(numbers[-1])
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
