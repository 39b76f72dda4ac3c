"""The dictionary of an index: its names, the concepts of each name, and keys for exact look-up.

One row is one name, distinct under the text policy of the model; a name that several concepts have keeps them all.
The terminology is read as a stream of whole concepts, of which only the names (in Arrow) and a few integers for each
are kept, so nine million names take some gigabytes. Names are compared by the XXH3-128 of the normalized string: among
ten million names a collision has a probability of 10⁻²⁵. Keys for exact look-up are made in
name_keys.py. Tables are uncompressed Arrow files, so that they can be memory-mapped, in record batches of a fixed size,
so that equal dictionaries are equal files.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from xsap.artifacts import manifest_hash, open_artifact, read_unchanged
from xsap.errors import ArtifactError, DataError
from xsap.linking.details import ConceptDetails, build_details
from xsap.linking.name_keys import EntryCollector, Keys, pair_preferences
from xsap.terms.terminology import TABLES, Terminology, check_terminology_format
from xsap.text import TextPolicy, normalize_column

_TEXT, _TEXTS = pa.field("", pa.string(), nullable=False), pa.field("", pa.list_(pa.string()), nullable=False)
INDEX_NAMES_SCHEMA = pa.schema(
    [*map(_TEXT.with_name, ("name", "language", "source")), *map(_TEXTS.with_name, ("languages", "sources"))]
)
INDEX_CONCEPTS_SCHEMA = pa.schema(
    [
        *map(_TEXT.with_name, ("concept_id", "preferred_name", "vocabulary", "code")),
        *map(_TEXTS.with_name, ("semantic_types", "codes")),
    ]
)
ROWS_PER_BATCH = 1 << 16
_NAME_COLUMNS = ["concept_id", "language", "name", "kind", "source", "code"]
_CONCEPT_COLUMNS = ["concept_id", "preferred_name", "vocabulary", "code", "semantic_types", "cross_references"]
_CODE = "^[^:]+:."  # a cross-reference that names its source


@dataclass(frozen=True, slots=True)
class NameConcepts:
    """The concepts of each name, as a sparse matrix in compressed rows.

    Attributes:
        starts: (names + 1,) int64; the concepts of name i are `concepts[starts[i] : starts[i + 1]]`.
        concepts: Row numbers in the table of concepts, ascending for each name.
        count: Number of rows of that table.
        preferences: Of each pair of a name and one of its concepts: how far that is the concept's preferred name, the highest first.
    """

    starts: NDArray[np.int64]
    concepts: NDArray[np.int64]
    count: int
    preferences: NDArray[np.uint8]

    @classmethod
    def from_ids(cls, concept_ids: pa.ListArray, known: pa.Array) -> "NameConcepts":
        """Number the concepts of each name.

        Args:
            concept_ids: (names,) lists of ids.
            known: The ids of all concepts, sorted.

        Returns:
            The concepts of each name by their positions in `known`, all with the same preference.

        Raises:
            ArtifactError: A name has an id that is not among the known ones.
        """
        counts = pc.list_value_length(concept_ids).to_numpy().astype(np.int64)
        numbers = pc.index_in(concept_ids.flatten(), known)
        if numbers.null_count:
            raise ArtifactError(
                "the index has a name of a concept that it doesn't list; it is damaged; create it again"
            )
        starts, concepts = np.concatenate([[0], np.cumsum(counts)]), numbers.to_numpy().astype(np.int64)
        return cls(starts, concepts, len(known), np.zeros(len(concepts), np.uint8))

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Dictionary:
    """The names that can be answers, and their concepts.

    Attributes:
        names: NAMES_SCHEMA: a name as its first source writes it, that source and its language, all that have it.
        concepts: CONCEPTS_SCHEMA, sorted by id. vocabulary, code: the concept's own, empty if it has none. codes: SOURCE:code, of its
            names and cross-references, sorted.
        name_concepts: The concepts of each name.
        keys: For exact look-up.
        dropped: How many names of the terminology were left out, by reason.
        details: Definitions and parents of the concepts; None if the terminology has none.
    """

    names: pa.Table = field(repr=False)
    concepts: pa.Table = field(repr=False)
    name_concepts: NameConcepts = field(repr=False)
    keys: Keys = field(repr=False)
    dropped: dict[str, int]
    details: ConceptDetails | None = field(default=None, repr=False)


class _Column:
    """The strings of a sorted column, as bisect reads them."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> str:
        text: str = self._column[row].as_py()
        return text


def row_of(ids: pa.ChunkedArray, wanted: str) -> int | None:
    """The row of an id in a column that is sorted by code point, as Python compares strings; None if it is not there."""
    column = _Column(ids)
    row = bisect_left(column, wanted)
    return row if row < len(ids) and column[row] == wanted else None


def values_at(column: pa.ChunkedArray, rows: Sequence[int], *, max_single_reads: int = 5_000) -> list[Any]:
    """A column's values at some rows; few are read one by one, for `take` reads too much of a memory map."""
    few = len(rows) <= max_single_reads
    return [column[row].as_py() for row in rows] if few else column.take(pa.array(rows, pa.int64())).to_pylist()


class NameSource(NamedTuple):
    """A terminology as a stream.

    Attributes:
        batches: (table, columns, rows per batch) → record batches, in order; none of a table that it has not.
        languages: Number of names in each language.
        content_hash: Hash of the terminology's folder, None if it was never saved.
    """

    batches: Callable[[str, list[str], int], Iterator[pa.RecordBatch]]
    languages: dict[str, int]
    content_hash: str | None

    @classmethod
    def from_terminology(cls, terminology: Terminology) -> "NameSource":
        """A terminology that is in memory."""
        return cls(
            lambda table, columns, rows: iter(getattr(terminology, table).select(columns).to_batches(rows)),
            terminology.languages,
            terminology.content_hash,
        )

    @classmethod
    def from_folder(cls, folder: Path | str) -> "NameSource":
        """A terminology's folder, every hash checked and every file opened; raises ArtifactError."""
        return read_unchanged(folder, lambda: cls._from_folder(Path(folder)))

    @classmethod
    def _from_folder(cls, folder: Path) -> "NameSource":
        manifest = open_artifact(folder, "terminology")
        check_terminology_format(manifest, folder)
        try:
            paths = {table: folder / f"{table}.parquet" for table in TABLES}
            files = {table: pq.ParquetFile(file) for table, file in paths.items() if file.name in manifest["files"]}
            sound = {"names", "concepts"} <= files.keys()
            sound = sound and all(file.schema_arrow == TABLES[table] for table, file in files.items())
        except (pa.ArrowException, OSError, ValueError):
            sound = False
        if not sound or not isinstance(manifest.get("languages"), dict):
            raise ArtifactError(f"{folder}: its files and manifest don't fit together; it is damaged; create it again")

        def batches(table: str, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
            for batch in files[table].iter_batches(rows, columns=columns) if table in files else ():
                batch.validate(full=True)
                yield batch

        return cls(batches, manifest["languages"], manifest_hash(manifest))


def build_dictionary(
    source: NameSource,
    languages: Collection[str] | None,
    policy: TextPolicy,
    *,
    rows_per_batch: int = ROWS_PER_BATCH,
) -> Dictionary:
    """The dictionary of a terminology's names in some languages.

    Args:
        source: The terminology.
        languages: ISO codes; None for all languages.
        policy: Names that are equal under it are one row, in the order of their first occurrences.
        rows_per_batch: Names that are read and hashed together; the result does not depend on it.

    Returns:
        The dictionary, in memory.

    Raises:
        DataError: The terminology has no name in these languages.
        ArtifactError: The terminology's tables do not fit together.
    """
    collector = _NameCollector(languages, policy)
    ids = pa.chunked_array(
        (batch["concept_id"] for batch in source.batches("concepts", ["concept_id"], rows_per_batch)), pa.string()
    )
    for block in _whole_concepts(source.batches("names", _NAME_COLUMNS, rows_per_batch)):
        collector.add(block, ids)
    if not sum(map(len, collector.numbers)):
        wanted = "any language" if languages is None else ", ".join(sorted(languages))
        found = ", ".join(f"{language} ({count:,})" for language, count in source.languages.items()) or "no names"
        raise DataError(
            f"expected a terminology with names in {wanted}; found {found}. Choose among these with --languages"
        )
    used, ids = np.zeros(len(ids), bool), None
    numbers = np.concatenate(list(_consume(collector.numbers)))
    used[numbers] = True
    numbers = (np.cumsum(used) - 1)[numbers]
    first, rows = _deduplicate(np.concatenate(list(_consume(collector.hashes))), rows_per_batch)
    starts, concepts_of_names = _distinct_by_row(numbers, rows, int(used.sum()), int(first.sum()))
    names = _names_table(collector, first, rows)
    concepts = _concepts_table(source.batches("concepts", _CONCEPT_COLUMNS, rows_per_batch), used, collector.codes)
    keys, entries = collector.entries.keys(rows, numbers, concepts["preferred_name"])
    preferences = pair_preferences(entries, starts, concepts_of_names, concepts.num_rows)
    name_concepts = NameConcepts(starts, concepts_of_names.astype(np.int64), concepts.num_rows, preferences)
    pa.default_memory_pool().release_unused()
    dropped = {"empty name": collector.empty} if collector.empty else {}
    return Dictionary(names, concepts, name_concepts, keys, dropped, build_details(source.batches, concepts))


def hash_names(
    names: pa.Array | pa.ChunkedArray, policy: TextPolicy, *, rows_per_batch: int = ROWS_PER_BATCH
) -> NDArray[np.uint64]:
    """(n, 2): the XXH3-128 of each name as a policy normalizes it, as two halves."""
    digests = bytearray()
    for start in range(0, len(names), rows_per_batch):
        strings = normalize_column(names.slice(start, rows_per_batch), policy).to_pylist()
        digests += b"".join(xxhash.xxh3_128_digest(string.encode()) for string in strings)
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


def find_rows(wanted: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) the row of `known` that equals each row of `wanted`, else -1. Both have distinct 128-bit rows, (…, 2).

    Of two known rows with the same first half one may be missed.
    """
    order = np.argsort(known[:, 0])
    positions = np.minimum(np.searchsorted(known[order, 0], wanted[:, 0]), len(order) - 1)
    rows = order[positions]
    return np.where((known[rows] == wanted).all(1), rows, -1)


class _NameCollector:
    """What is kept of each name: the string, its concept's number, codes for its language and source, a hash."""

    def __init__(self, languages: Collection[str] | None, policy: TextPolicy) -> None:
        self.languages = None if languages is None else pa.array(sorted(languages), pa.string())
        self.policy, self.empty, self.concepts = policy, 0, 0
        self.names: list[pa.Array] = []
        self.numbers: list[NDArray[np.int32]] = []
        self.hashes: list[NDArray[np.uint64]] = []
        self.labels: dict[str, list[NDArray[np.int32]]] = {"language": [], "source": []}
        self.values: dict[str, dict[str, int]] = {"language": {}, "source": {}}  # and the code of each
        self.codes: list[pa.ListArray] = []  # of each concept that has a name here
        self.entries = EntryCollector()

    def add(self, block: pa.Table, ids: pa.ChunkedArray) -> None:
        """Add the names of the next whole concepts; `ids` are those of all concepts."""
        own = block["concept_id"].chunk(0)
        starts = _run_starts(own)
        numbers = self.concepts + np.cumsum(starts) - 1
        new = own.filter(pa.array(starts))
        if not ids.slice(self.concepts, len(new)).equals(pa.chunked_array([new])):
            raise ArtifactError("the terminology's names and concepts do not match; it is damaged; create it again")
        self.concepts += len(new)
        names = block["name"].chunk(0)
        chosen = np.ones(len(own), bool)
        if self.languages is not None:
            chosen = pc.is_in(block["language"].chunk(0), self.languages).to_numpy(zero_copy_only=False)
        visible = pc.greater(pc.binary_length(normalize_column(names, self.policy)), 0).to_numpy(zero_copy_only=False)
        self.empty += int((chosen & ~visible).sum())
        chosen &= visible
        mask = pa.array(chosen)
        self.names.append(names.filter(mask))
        self.hashes.append(hash_names(self.names[-1], self.policy))
        self.numbers.append(numbers[chosen].astype(np.int32))
        for column, known in self.values.items():
            self.labels[column].append(_encode_labels(block[column].chunk(0).filter(mask), known))
        wanted = _distinct(numbers[chosen]) - numbers[0]
        self.codes.append(_codes_of_names(block, numbers - numbers[0], wanted))
        self.entries.add(
            block.select(["name", "language", "kind"]).filter(mask), new.take(pa.array(wanted)), self.codes[-1]
        )


def _whole_concepts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, cut where a concept begins; each table is one chunk."""
    rest: list[pa.RecordBatch] = []
    for batch in batches:
        table = pa.Table.from_batches([*rest, batch]).combine_chunks()
        if table.num_rows:
            last = int(np.flatnonzero(_run_starts(table["concept_id"].chunk(0)))[-1])
            if last:
                yield table.slice(0, last).combine_chunks()
            rest = table.slice(last).to_batches()
    if rest:
        yield pa.Table.from_batches(rest).combine_chunks()


def _run_starts(ids: pa.Array) -> NDArray[np.bool_]:
    """(n,) whether an id differs from the one before."""
    differs = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    return np.concatenate([[True], differs.astype(bool)])


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct ones of sorted values."""
    distinct: NDArray[np.int64] = values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]
    return distinct


def _deduplicate(hashes: NDArray[np.uint64], rows_per_batch: int) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """(n,) whether each of (n, 2) hashes is the first of its value, and (n,) its number in the order of these."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal ones the first comes first
    differs = np.ones(len(order), bool)
    for start in range(1, len(order), rows_per_batch):
        stop = min(start + rows_per_batch, len(order))
        differs[start:stop] = (hashes[order[start:stop]] != hashes[order[start - 1 : stop - 1]]).any(1)
    first = np.zeros(len(order), bool)
    first[order[differs]] = True
    numbers = (np.cumsum(first) - 1).astype(np.int32)
    rows = np.empty(len(order), np.int32)
    rows[order] = numbers[order[differs]][np.cumsum(differs) - 1]
    return first, rows


def _encode_labels(values: pa.Array, known: dict[str, int]) -> NDArray[np.int32]:
    """A code for each string; new strings are added to `known`."""
    encoded = values.dictionary_encode()
    codes = np.array([known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()], np.int32)
    labels: NDArray[np.int32] = codes[encoded.indices.to_numpy()]
    return labels


def _codes_of_names(block: pa.Table, numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> pa.ListArray:
    """SOURCE:code of each wanted concept. numbers: (n,) of each row's concept; wanted: sorted."""
    positions = np.full(int(numbers[-1]) + 1, -1)
    positions[wanted] = np.arange(len(wanted))
    has_code = block["code"].chunk(0).is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(has_code & (positions[numbers] >= 0))
    source, code = (block[column].chunk(0).take(pa.array(rows)) for column in ("source", "code"))
    return _string_lists(pc.binary_join_element_wise(source, code, ":"), positions[numbers[rows]], len(wanted))


def _string_lists(strings: pa.Array, rows: NDArray[np.int64], n: int) -> pa.ListArray:
    """(n,) lists: the distinct strings of each row, sorted."""
    encoded = strings.dictionary_encode()
    alphabet, ranks = _sorted_with_ranks(encoded.dictionary)
    starts, values = _distinct_by_row(ranks[encoded.indices.to_numpy()], rows, len(alphabet), n)
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), alphabet.take(pa.array(values)))


def _sorted_with_ranks(values: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Distinct strings, sorted, and the new position of each."""
    order = pc.sort_indices(values).to_numpy()
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return values.take(pa.array(order)), ranks


def _distinct_by_row(
    values: NDArray[Any], rows: NDArray[Any], size: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The distinct values (below size) of each row (below n), sorted: (n + 1,) where each row's start, and all values."""
    pairs = rows.astype(np.int64)
    pairs *= size
    pairs += values
    pairs.sort(kind="stable")  # they are nearly in order
    pairs = _distinct(pairs)
    counts = np.bincount(pairs // max(1, size), minlength=n)
    pairs %= max(1, size)
    return np.concatenate([[0], np.cumsum(counts)]), pairs.astype(np.int32)


def _names_table(collector: _NameCollector, first: NDArray[np.bool_], rows: NDArray[np.int32]) -> pa.Table:
    """NAMES_SCHEMA of the first name of each row; the collector is emptied meanwhile."""
    lists, own = {}, {}
    for column, known in collector.values.items():
        alphabet, ranks = _sorted_with_ranks(pa.array(list(known), pa.string()))
        labels = ranks.astype(np.int32)[np.concatenate(collector.labels.pop(column))]
        lists[column] = alphabet, *_distinct_by_row(labels, rows, len(alphabet), int(first.sum()))
        own[column] = labels[first]
    batches, start, row = [], 0, 0
    for names in _consume(collector.names):
        distinct = names.filter(pa.array(first[start : start + len(names)]))
        start, stop = start + len(names), row + len(distinct)
        columns = [distinct, *(lists[column][0].take(pa.array(own[column][row:stop])) for column in lists)]
        for alphabet, starts, values in lists.values():
            part = starts[row : stop + 1]
            strings = alphabet.take(pa.array(values[part[0] : part[-1]]))
            columns.append(pa.ListArray.from_arrays(pa.array((part - part[0]).astype(np.int32)), strings))
        batches.append(pa.RecordBatch.from_arrays(columns, schema=INDEX_NAMES_SCHEMA))
        row = stop
    return pa.Table.from_batches(batches, INDEX_NAMES_SCHEMA)


def _concepts_table(batches: Iterator[pa.RecordBatch], used: NDArray[np.bool_], codes: list[pa.ListArray]) -> pa.Table:
    """CONCEPTS_SCHEMA of the concepts that are used. codes: those of their names; the list is emptied."""
    start, tables = 0, []
    blocks, pending = _consume(codes), codes[0].slice(0, 0)
    for batch in batches:
        own = batch.filter(pa.array(used[start : start + batch.num_rows]))
        start += batch.num_rows
        while len(pending) < own.num_rows:
            pending = pa.concat_arrays([pending, next(blocks)])
        both = _with_references(pending.slice(0, own.num_rows), own["cross_references"])
        columns = [
            pc.fill_null(column, "") if name == "code" else column
            for name, column in zip(_CONCEPT_COLUMNS, own.columns, strict=True)
        ]
        tables.append(pa.RecordBatch.from_arrays([*columns[:-1], both], [*_CONCEPT_COLUMNS[:-1], "codes"]))
        pending = pending.slice(own.num_rows)
    return pa.Table.from_batches(tables).cast(INDEX_CONCEPTS_SCHEMA)


def _with_references(codes: pa.ListArray, references: pa.ListArray) -> pa.ListArray:
    """(n,) lists: codes and those cross-references that name their source, sorted, each once."""
    flat = pc.list_flatten(references)
    good = pc.match_substring_regex(flat, _CODE)
    rows = np.concatenate([
        pc.list_parent_indices(codes).to_numpy(), pc.list_parent_indices(references).filter(good).to_numpy()
    ])  # fmt: skip
    return _string_lists(pa.concat_arrays([pc.list_flatten(codes), flat.filter(good)]), rows, len(codes))


def _consume(arrays: list[Any]) -> Iterator[Any]:
    """Each array in turn, removed from the list, so that it is freed after its use."""
    arrays.reverse()
    while arrays:
        yield arrays.pop()
