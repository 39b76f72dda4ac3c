"""What an index holds beside its vectors: names, the concepts that they stand for, keys for exact look-up; and their files.

A name that several concepts share keeps them all, and says which languages and sources have it. `unique.py` says which rows there are. Tables
are Arrow files, uncompressed, so that they are memory-mapped; they are cut into batches of as many rows, however they came to be.

Which rows an index has: a terminology's names, each once as the model's text policy normalizes it, in the order of its first concept.

The terminology streams by, in blocks of whole concepts. What stays of it are numbers (a concept's place, codes for languages and sources, a
hash of 128 bits that stands for the normalized string) and the names themselves, as Arrow has them: nine million names are then a matter of
some gigabytes. Two strings of one XXH3-128 would be taken for one name; among ten million that has a chance of 10⁻²⁵.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from xsap.artifacts import manifest_hash, open_artifact
from xsap.errors import ArtifactError, DataError
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, TextPolicy, normalize, normalize_column

NAMES_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # as its source has it, where several fell together the first
        pa.field("language", pa.string(), nullable=False),  # of `name`
        pa.field("source", pa.string(), nullable=False),  # of `name`
        pa.field("languages", pa.list_(pa.string()), nullable=False),  # all that have it, sorted
        pa.field("sources", pa.list_(pa.string()), nullable=False),
    ]
)
CONCEPTS_SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("preferred_name", pa.string(), nullable=False),
        pa.field("semantic_types", pa.list_(pa.string()), nullable=False),
        pa.field(
            "codes", pa.list_(pa.string()), nullable=False
        ),  # SOURCE:code, sorted, of all its names and its cross-references
    ]
)
_TABLES = {"names": NAMES_SCHEMA, "concepts": CONCEPTS_SCHEMA}
_IDS_AT_ONCE = 1 << 16  # names hashed, and rows written, at once
_FEW = 5_000  # rows read one by one


class Keys(NamedTuple):
    """Names by what EXACT_MATCH makes of them. hashes: (n,) XXH3 of that string, sorted; rows: of the name that each is of."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, names: pa.ChunkedArray) -> "Keys":
        """Names in the order of their rows."""
        hashes = np.empty(len(names), np.uint64)
        for start in range(0, len(names), _IDS_AT_ONCE):
            strings = normalize_column(names.slice(start, _IDS_AT_ONCE), EXACT_MATCH).to_pylist()
            hashes[start : start + _IDS_AT_ONCE] = [xxhash.xxh3_64_intdigest(string.encode()) for string in strings]
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order.astype(np.int32))

    def find(self, mention: str, names: pa.ChunkedArray) -> list[int]:
        """The rows of all names that equal a mention under EXACT_MATCH, ascending."""
        string = normalize(mention, EXACT_MATCH)
        if not string:
            return []
        key = np.uint64(xxhash.xxh3_64_intdigest(string.encode("utf-8", "surrogatepass")))
        first, last = np.searchsorted(self.hashes, key, "left"), np.searchsorted(self.hashes, key, "right")
        rows = sorted(self.rows[first:last].tolist())
        return [row for row in rows if normalize(names[row].as_py(), EXACT_MATCH) == string]


@dataclass(frozen=True, slots=True)
class NameConcepts:
    """Which concepts each name stands for. starts: (names + 1,); concepts: numbers of concepts, those of name i at starts[i] to starts[i + 1].

    count: how many concepts there are; their numbers are in the order of their ids.
    """

    starts: NDArray[np.int64]
    concepts: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, concept_ids: pa.ListArray, known: pa.Array) -> "NameConcepts":
        """concept_ids: (names,) lists. known: all concepts' ids, sorted. Raises ArtifactError if a name has an id that isn't known."""
        counts = pc.list_value_length(concept_ids).to_numpy().astype(np.int64)
        numbers = pc.index_in(concept_ids.flatten(), known)
        if numbers.null_count:
            raise ArtifactError("the index has a name of a concept that it doesn't list; it is damaged, make it again")
        return cls(np.concatenate([[0], np.cumsum(counts)]), numbers.to_numpy().astype(np.int64), len(known))

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class Dictionary:
    """names: NAMES_SCHEMA. concepts: CONCEPTS_SCHEMA, sorted. owners: of each name. keys: for exact look-up. dropped: names left out, by reason."""

    names: pa.Table
    concepts: pa.Table
    owners: NameConcepts
    keys: Keys
    dropped: dict[str, int]


def write_dictionary(folder: Path, dictionary: Dictionary) -> None:
    """Add their files to an artifact's folder while it is being filled; `dropped` is for its manifest."""
    for name, table in (("names", dictionary.names), ("concepts", dictionary.concepts)):
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as stream, pa.ipc.new_file(stream, _TABLES[name]) as writer:
            for start in range(0, table.num_rows, _IDS_AT_ONCE):
                writer.write_table(table.slice(start, _IDS_AT_ONCE).combine_chunks())
    arrays = {
        "starts": dictionary.owners.starts,
        "owners": dictionary.owners.concepts.astype(np.int32),
        **dictionary.keys._asdict(),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def open_dictionary(folder: Path, dropped: dict[str, int]) -> Dictionary:
    """What `write_dictionary` wrote, memory-mapped. Raises ValueError if the files don't fit together, and what pyarrow and numpy raise."""
    names, concepts = (pa.ipc.open_file(pa.memory_map(str(folder / f"{table}.arrow"))).read_all() for table in _TABLES)
    starts, owners, hashes, rows = (
        np.load(folder / f"{array}.npy", mmap_mode="r", allow_pickle=False)
        for array in ("starts", "owners", "hashes", "rows")
    )
    sound = (names.schema, concepts.schema) == (NAMES_SCHEMA, CONCEPTS_SCHEMA) and len(hashes) == len(
        rows
    ) == names.num_rows
    if not sound or len(starts) != names.num_rows + 1 or (starts[0], starts[-1]) != (0, len(owners)):
        raise ValueError("the tables of an index don't fit together")
    return Dictionary(names, concepts, NameConcepts(starts, owners, concepts.num_rows), Keys(hashes, rows), dropped)


def values_at(column: pa.ChunkedArray, rows: Sequence[int]) -> list[Any]:
    """A column's values at a few rows: `take` reads much more of a memory map than it needs."""
    return (
        [column[row].as_py() for row in rows]
        if len(rows) <= _FEW
        else column.take(pa.array(rows, pa.int64())).to_pylist()
    )


_NAMES = ["concept_id", "language", "name", "source", "code"]
_CONCEPTS = ["concept_id", "preferred_name", "semantic_types", "cross_references"]
_CODE = "^[^:]+:."  # of the cross-references those that name their source
_KEYS_AT_ONCE = 1 << 16  # names looked at at once

Longs = NDArray[np.int64]


class NameSource(NamedTuple):
    """A terminology to stream from. batches: a table's columns, in order. languages: how many names each has. content: its hash, on disk."""

    batches: Callable[[str, list[str]], Iterator[pa.RecordBatch]]
    languages: dict[str, int]
    content_hash: str | None


def in_memory(terminology: Terminology) -> NameSource:
    """A terminology that is loaded."""
    tables = {"names": terminology.names, "concepts": terminology.concepts}
    return NameSource(
        lambda table, columns: iter(tables[table].select(columns).to_batches(_KEYS_AT_ONCE)),
        terminology.languages,
        terminology.content_hash,
    )


def on_disk(folder: Path | str) -> NameSource:
    """A terminology's folder, every hash checked. Raises ArtifactError."""
    manifest = open_artifact(folder, "terminology")
    if "languages" not in manifest:
        raise ArtifactError(
            f"{folder}: its manifest doesn't say which languages it has; the terminology folder is damaged, make it again"
        )

    def batches(table: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(Path(folder) / f"{table}.parquet") as file:
            yield from file.iter_batches(_KEYS_AT_ONCE, columns=columns)

    return NameSource(batches, manifest["languages"], manifest_hash(manifest))


def build_dictionary(source: NameSource, languages: Collection[str] | None, policy: TextPolicy) -> Dictionary:
    """What an index of a terminology's names in these ISO languages (None: all) holds. Raises DataError if there is no such name."""
    taken = _Taken(languages, policy)
    ids = pa.chunked_array((batch["concept_id"] for batch in source.batches("concepts", ["concept_id"])), pa.string())
    for block in _whole_concepts(source.batches("names", _NAMES)):
        taken.add(block, ids)
    if not taken.numbers or not sum(map(len, taken.numbers)):
        wanted = "any language" if languages is None else ", ".join(sorted(languages))
        found = ", ".join(f"{language} ({count:,})" for language, count in source.languages.items()) or "no names"
        raise DataError(
            f"expected a terminology with names in {wanted}; found {found}. Choose among these with --languages"
        )
    known, ids = np.zeros(len(ids), bool), None
    number = np.concatenate(list(_emptied(taken.numbers)))
    known[number] = True
    number = (np.cumsum(known) - 1)[number]
    first, rows = _distinct(np.concatenate(list(_emptied(taken.hashes))))
    starts, owners = _sets(number, rows, int(known.sum()), int(first.sum()))
    names = _names(taken, first, rows)
    concepts = _concepts(source, known, taken.codes)
    pa.default_memory_pool().release_unused()
    dropped = {"empty name": taken.empty} if taken.empty else {}
    return Dictionary(
        names,
        concepts,
        NameConcepts(starts, owners.astype(np.int64), concepts.num_rows),
        Keys.of(names["name"]),
        dropped,
    )


def hashes_of(names: pa.Array, policy: TextPolicy) -> NDArray[np.uint64]:
    """(n, 2): the XXH3-128 of each name as a policy normalizes it."""
    digests = b"".join(xxhash.xxh3_128_digest(name.encode()) for name in normalize_column(names, policy).to_pylist())
    return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


class _Taken:
    """What is kept of the names that have streamed by: for each a concept's place, a language's and a source's code, a hash; and the name."""

    def __init__(self, languages: Collection[str] | None, policy: TextPolicy) -> None:
        self.wanted = None if languages is None else pa.array(sorted(languages), pa.string())
        self.policy, self.empty, self.concepts = policy, 0, 0
        self.names: list[pa.Array] = []
        self.numbers: list[Longs] = []
        self.hashes: list[NDArray[np.uint64]] = []
        self.labels: dict[str, list[NDArray[np.int32]]] = {"language": [], "source": []}
        self.known: dict[str, dict[str, int]] = {"language": {}, "source": {}}
        self.codes: list[pa.ListArray] = []  # of each concept that has a name here

    def add(self, block: pa.Table, ids: pa.ChunkedArray) -> None:
        """Take the names of some whole concepts. ids: of all concepts, these next. Raises ArtifactError if they aren't these."""
        own = block["concept_id"].chunk(0)
        starts = _starts(own)
        number = self.concepts + np.cumsum(starts) - 1
        new = own.filter(pa.array(starts))
        if not ids.slice(self.concepts, len(new)).equals(pa.chunked_array([new])):
            raise ArtifactError(
                "the terminology's names are not of its concepts, in their order; it is damaged, make it again"
            )
        self.concepts += len(new)
        names = block["name"].chunk(0)
        taken = np.ones(len(own), bool)
        if self.wanted is not None:
            taken = pc.is_in(block["language"].chunk(0), self.wanted).to_numpy(zero_copy_only=False)
        visible = pc.greater(pc.binary_length(normalize_column(names, self.policy)), 0).to_numpy(zero_copy_only=False)
        self.empty += int((taken & ~visible).sum())
        taken &= visible
        mask = pa.array(taken)
        self.names.append(names.filter(mask))
        self.hashes.append(hashes_of(self.names[-1], self.policy))
        self.numbers.append(number[taken].astype(np.int32))
        for column, known in self.known.items():
            self.labels[column].append(_coded(block[column].chunk(0).filter(mask), known))
        self.codes.append(_codes(block, number - number[0], _steps(number[taken]) - number[0]))


def _whole_concepts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, cut where a concept begins; each table one chunk."""
    left: list[pa.RecordBatch] = []
    for batch in batches:
        table = pa.Table.from_batches([*left, batch]).combine_chunks()
        if table.num_rows:
            last = int(np.flatnonzero(_starts(table["concept_id"].chunk(0)))[-1])
            if last:
                yield table.slice(0, last).combine_chunks()
            left = table.slice(last).to_batches()
    if left:
        yield pa.Table.from_batches(left).combine_chunks()


def _starts(ids: pa.Array) -> NDArray[np.bool_]:
    """(n,): where another id begins."""
    differs = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    return np.concatenate([[True], differs.astype(bool)])


def _steps(values: Longs) -> Longs:
    """The different ones of sorted values."""
    different: Longs = values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]
    return different


def _coded(values: pa.Array, known: dict[str, int]) -> NDArray[np.int32]:
    """Numbers for strings of which there are few; `known` takes up new ones."""
    coded = values.dictionary_encode()
    here = np.array([known.setdefault(value, len(known)) for value in coded.dictionary.to_pylist()], np.int32)
    codes: NDArray[np.int32] = here[coded.indices.to_numpy()]
    return codes


def _codes(block: pa.Table, number: Longs, wanted: Longs) -> pa.ListArray:
    """SOURCE:code of each wanted concept. number: of each row's concept. wanted: sorted."""
    place = np.full(int(number[-1]) + 1, -1)
    place[wanted] = np.arange(len(wanted))
    rows = np.flatnonzero(block["code"].chunk(0).is_valid().to_numpy(zero_copy_only=False) & (place[number] >= 0))
    source, code = (block[column].chunk(0).take(pa.array(rows)) for column in ("source", "code"))
    coded = pc.binary_join_element_wise(source, code, ":").dictionary_encode()
    alphabet, rank = _in_order(coded.dictionary)
    starts, values = _sets(rank[coded.indices.to_numpy()], place[number[rows]], len(alphabet), len(wanted))
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), alphabet.take(pa.array(values)))


def _in_order(values: pa.Array) -> tuple[pa.Array, Longs]:
    """Different strings, sorted, and where each now stands."""
    order = pc.sort_indices(values).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return values.take(pa.array(order)), rank


def _distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """(n,) whether a name is the first of its hash, and (n,) the number of its row: rows are in the order of these firsts."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable, so of equal ones the first comes first
    differs = np.ones(len(order), bool)
    for start in range(1, len(order), _KEYS_AT_ONCE):
        stop = min(start + _KEYS_AT_ONCE, len(order))
        differs[start:stop] = (hashes[order[start:stop]] != hashes[order[start - 1 : stop - 1]]).any(1)
    first = np.zeros(len(order), bool)
    first[order[differs]] = True
    number = (np.cumsum(first) - 1).astype(np.int32)
    rows = np.empty(len(order), np.int32)
    rows[order] = number[order[differs]][np.cumsum(differs) - 1]
    return first, rows


def _sets(values: NDArray[Any], rows: NDArray[Any], size: int, n: int) -> tuple[Longs, NDArray[np.int32]]:
    """The different values of each row, sorted: where each row's start, (n + 1,), and all of them. values: below `size`."""
    pairs = rows.astype(np.int64)
    pairs *= size
    pairs += values
    pairs.sort(kind="stable")  # they are nearly in order
    pairs = _steps(pairs)
    counts = np.bincount(pairs // max(1, size), minlength=n)
    pairs %= max(1, size)
    return np.concatenate([[0], np.cumsum(counts)]), pairs.astype(np.int32)


def _names(taken: _Taken, first: NDArray[np.bool_], rows: NDArray[np.int32]) -> pa.Table:
    """NAMES_SCHEMA. Empties what it has used."""
    lists, own = {}, {}
    for column, known in taken.known.items():
        alphabet, rank = _in_order(pa.array(list(known), pa.string()))
        label = rank.astype(np.int32)[np.concatenate(taken.labels.pop(column))]
        lists[column], own[column] = (alphabet, *_sets(label, rows, len(alphabet), int(first.sum()))), label[first]
    batches, start, row = [], 0, 0
    for names in _emptied(taken.names):
        kept = names.filter(pa.array(first[start : start + len(names)]))
        start, stop = start + len(names), row + len(kept)
        columns = [kept, *(lists[column][0].take(pa.array(own[column][row:stop])) for column in lists)]
        for alphabet, starts, values in lists.values():
            part = starts[row : stop + 1]
            strings = alphabet.take(pa.array(values[part[0] : part[-1]]))
            columns.append(pa.ListArray.from_arrays(pa.array((part - part[0]).astype(np.int32)), strings))
        batches.append(pa.RecordBatch.from_arrays(columns, schema=NAMES_SCHEMA))
        row = stop
    return pa.Table.from_batches(batches, NAMES_SCHEMA)


def _emptied(arrays: list[Any]) -> Iterator[Any]:
    """Each in turn, held no longer than it is used."""
    arrays.reverse()
    while arrays:
        yield arrays.pop()


def _concepts(source: NameSource, known: NDArray[np.bool_], codes: list[pa.ListArray]) -> pa.Table:
    """CONCEPTS_SCHEMA of the known ones. codes: those that their names have; emptied."""
    start, batches = 0, []
    blocks, of_names = _emptied(codes), codes[0].slice(0, 0)
    for batch in source.batches("concepts", _CONCEPTS):
        own = batch.filter(pa.array(known[start : start + batch.num_rows]))
        start += batch.num_rows
        while len(of_names) < own.num_rows:
            of_names = pa.concat_arrays([of_names, next(blocks)])
        both = _united(of_names.slice(0, own.num_rows), own["cross_references"])
        batches.append(pa.RecordBatch.from_arrays([*own.columns[:-1], both], [*_CONCEPTS[:-1], "codes"]))
        of_names = of_names.slice(own.num_rows)
    return pa.Table.from_batches(batches).cast(CONCEPTS_SCHEMA)


def _united(codes: pa.ListArray, references: pa.ListArray) -> pa.ListArray:
    """(n,) lists: the codes of both, sorted, each once."""
    theirs, others = pc.list_flatten(codes), pc.list_flatten(references)
    good = pc.match_substring_regex(others, _CODE)
    rows = np.concatenate(
        [pc.list_parent_indices(codes).to_numpy(), pc.list_parent_indices(references).filter(good).to_numpy()]
    )
    coded = pa.concat_arrays([theirs, others.filter(good)]).dictionary_encode()
    alphabet, rank = _in_order(coded.dictionary)
    starts, values = _sets(rank[coded.indices.to_numpy()], rows, len(alphabet), len(codes))
    return pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), alphabet.take(pa.array(values)))
