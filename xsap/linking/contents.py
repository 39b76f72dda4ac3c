"""Which rows an index has: a terminology's names, each once as the model's text policy normalises it, and the concepts that they stand for.

A name that several concepts share keeps them all, and says which languages and sources have it. Rows are in the order in which the
terminology (sorted by concept) first has the name. Columns stay columns: strings become Python objects only where normalisation must touch them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.linking.ranking import Owners
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, TextPolicy, normalise, normalise_column

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
        pa.field("codes", pa.list_(pa.string()), nullable=False),  # SOURCE:code, sorted, of all its names
    ]
)
_AT_ONCE = 1 << 16  # names hashed at once
_FEW = 5_000  # rows read one by one


class Keys(NamedTuple):
    """Names by what EXACT_MATCH makes of them. hashes: (n,) XXH3 of that string, sorted; rows: of the name that each is of."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, names: pa.ChunkedArray) -> "Keys":
        """Names in the order of their rows."""
        hashes = np.empty(len(names), np.uint64)
        for start in range(0, len(names), _AT_ONCE):
            strings = normalise_column(names.slice(start, _AT_ONCE), EXACT_MATCH).to_pylist()
            hashes[start : start + _AT_ONCE] = [xxhash.xxh3_64_intdigest(string.encode()) for string in strings]
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order.astype(np.int32))

    def find(self, mention: str, names: pa.ChunkedArray) -> list[int]:
        """The rows of all names that equal a mention under EXACT_MATCH, ascending."""
        string = normalise(mention, EXACT_MATCH)
        if not string:
            return []
        key = np.uint64(xxhash.xxh3_64_intdigest(string.encode("utf-8", "surrogatepass")))
        first, last = np.searchsorted(self.hashes, key, "left"), np.searchsorted(self.hashes, key, "right")
        rows = sorted(self.rows[first:last].tolist())
        return [row for row in rows if normalise(names[row].as_py(), EXACT_MATCH) == string]


@dataclass(frozen=True)
class Contents:
    """names: NAMES_SCHEMA. concepts: CONCEPTS_SCHEMA, sorted. owners: of each name. keys: for exact look-up. dropped: names left out, by reason."""

    names: pa.Table
    concepts: pa.Table
    owners: Owners
    keys: Keys
    dropped: dict[str, int]


def contents_of(terminology: Terminology, languages: Collection[str] | None, policy: TextPolicy) -> Contents:
    """What an index of a terminology's names in these ISO languages (None: all) holds. Raises DataError if there is no such name."""
    part = terminology.select(languages=languages)
    names, owners, dropped = _unique(part.names, policy)
    if not names.num_rows:
        wanted = "any language" if languages is None else ", ".join(sorted(languages))
        found = ", ".join(f"{language} ({count:,})" for language, count in terminology.languages.items()) or "no names"
        raise DataError(f"expected a terminology with names in {wanted}; found {found}. Choose among these with --languages")
    known = pc.unique(owners.flatten())
    concepts = part.concepts.filter(pc.is_in(part.concepts["concept_id"], known)).select(["concept_id", "preferred_name", "semantic_types"])
    concepts = concepts.append_column("codes", _codes(terminology.names, concepts["concept_id"].combine_chunks())).cast(CONCEPTS_SCHEMA)
    return Contents(names, concepts, Owners.of(owners, concepts["concept_id"].combine_chunks()), Keys.of(names["name"]), dropped)


def _unique(names: pa.Table, policy: TextPolicy) -> tuple[pa.Table, pa.ListArray, dict[str, int]]:
    """A terminology's names → NAMES_SCHEMA, the concepts of each (sorted), and how many were dropped for which reason."""
    normalised = normalise_column(names["name"], policy)
    kept = pc.greater(pc.utf8_length(normalised), 0)
    dropped = {"empty name": names.num_rows - (pc.sum(kept).as_py() or 0)}
    names, rows = names.filter(kept), normalised.filter(kept).dictionary_encode().indices.to_numpy().astype(np.int64)
    first = np.unique(rows, return_index=True)[1]  # the dictionary is in order of first appearance
    lists = {column: _lists(names[column], rows, len(first)) for column in ("concept_id", "language", "source")}
    columns = [*(names[column].take(first) for column in ("name", "language", "source")), lists["language"], lists["source"]]
    table = pa.table(dict(zip(NAMES_SCHEMA.names, columns, strict=True))).cast(NAMES_SCHEMA)
    return table, lists["concept_id"], {reason: n for reason, n in dropped.items() if n}


def _lists(values: pa.ChunkedArray, rows: NDArray[np.int64], n: int) -> pa.ListArray:
    """(n,) lists, each of the different values of one row, sorted. rows: of each value."""
    coded = values.combine_chunks().dictionary_encode()
    rank = pc.rank(coded.dictionary).to_numpy().astype(np.int64) - 1  # of each value in the alphabet
    alphabet, size = coded.dictionary.take(pc.sort_indices(coded.dictionary)), max(1, len(coded.dictionary))
    pairs = np.unique(rows * size + rank[coded.indices.to_numpy()])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs // size, minlength=n))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), alphabet.take(pa.array(pairs % size)))


def _codes(names: pa.Table, concept_ids: pa.Array) -> pa.ListArray:
    """The codes of each concept."""
    names = names.filter(pc.is_valid(names["code"]))
    at = pc.index_in(names["concept_id"], concept_ids)
    known = pc.is_valid(at)
    codes = pc.binary_join_element_wise(names["source"].filter(known), names["code"].filter(known), ":")
    return _lists(pa.chunked_array(codes.chunks, pa.string()), at.filter(known).to_numpy().astype(np.int64), len(concept_ids))


def values_at(column: pa.ChunkedArray, rows: Sequence[int]) -> list[Any]:
    """A column's values at a few rows: `take` reads much more of a memory map than it needs."""
    return [column[row].as_py() for row in rows] if len(rows) <= _FEW else column.take(pa.array(rows, pa.int64())).to_pylist()
