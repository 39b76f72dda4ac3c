"""Exact look-up: from a mention to the names and codes that equal it, the best first.

Each name of each concept is an entry under one hashed key, which is equal for all strings that may count as equal (`look_up_key`). What is found
under a mention's key is compared with it again, in forms that make more and more names equal, and gets a rank by the first form that fits:

    exact    written in the same way, but for white space and invisible characters
    case     equal but for letter case, width, ligatures and kinds of dashes and quotes, first by the rules of the mention's language
    code     the terminology's own identifier of the concept, or its code in the source of one of its names
    accents  equal but for accents, or with ä, ö, ü, å, ø written as ae, oe, ue, aa, oe

Among equals those come first that are names in the mention's language, then the concept whose preferred name it is, then the lower identifier.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from xsap.languages import UNKNOWN
from xsap.text import (
    AS_WRITTEN,
    expand_umlauts,
    fold_accents,
    fold_case,
    look_up_key,
    look_up_keys,
    normalize,
    normalize_column,
)

EXACT, CASE, CODE, ACCENTS, SIMILAR = MATCHES = ("exact", "case", "code", "accents", "similar")
"""How a name or code was found; the last one is by similarity of vectors, not by look-up."""

BROADER = "broader"  # in place of a match: the concept is above those whose names were found

ENTRY = np.dtype([("row", "<i4"), ("concept", "<i4"), ("spelling", "<u4"), ("language", "<u4"), ("preference", "u1")])
"""row: of the name; of a code's entry, of a name of its concept. spelling, language: XXH32 of the name as it is written, and of its language."""

PREFERRED_NAME, PREFERRED, OTHER, CODE_ENTRY = 3, 2, 1, 0
"""Values of `preference`: the concept's preferred name, a preferred name in its language, any other name, a code."""

_CODE_SHAPE = "[0-9].*[^0-9]|[^0-9].*[0-9]|^[0-9]{5,}$"  # it has a digit; a shorter number may be any number
_WRITTEN, _LANGUAGE_CASE, _ANY_CASE, _CODE, _NO_ACCENTS = range(5)
_MATCH_OF = (EXACT, CASE, CASE, CODE, ACCENTS)


class Hit(NamedTuple):
    """A concept that a mention names exactly.

    Attributes:
        concept: Its number.
        row: The name, or for a code the first name of the concept.
        match: One of MATCHES.
        score: 1, or less for a concept that fewer annotations of the mention name; not used where accents differ.
    """

    concept: int
    row: int
    match: str
    score: float = 1.0


class Keys(NamedTuple):
    """The entries of all names and codes.

    Attributes:
        hashes: (n,) XXH3-64 of the look-up keys, sorted.
        entries: (n,) ENTRY, in the same order.
    """

    hashes: NDArray[np.uint64]
    entries: NDArray[Any]

    @classmethod
    def from_entries(cls, hashes: NDArray[np.uint64], entries: NDArray[Any]) -> "Keys":
        """Keys of entries in any order; equal ones keep their order."""
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], entries[order])

    def find(self, mention: str, language: str, names: pa.Table, concepts: pa.Table) -> list[Hit]:
        """The concepts whose names or codes equal a mention, best first, each once.

        Args:
            mention: The mention.
            language: Its ISO 639 code, or UNKNOWN.
            names: INDEX_NAMES_SCHEMA.
            concepts: INDEX_CONCEPTS_SCHEMA.
        """
        key = look_up_key(mention)
        if not key:
            return []
        found = self._entries_of(key)
        source, _, code = mention.strip().partition(":")
        qualified = self._entries_of(look_up_key(code)) if source and code else []
        if not found and not qualified:
            return []
        comparison = _Comparison(mention, language, names, concepts)
        ranked = []
        for row, concept, spelling, of_language, preference in [*found, *(e for e in qualified if e[4] == CODE_ENTRY)]:
            if preference == CODE_ENTRY:
                rank = comparison.rank_code(concept)
            else:
                rank = _WRITTEN if spelling == comparison.spelling else comparison.rank_name(row)
            if rank is not None:
                ranked.append((rank, of_language != comparison.language_hash, -preference, concept, row))
        hits: dict[int, Hit] = {}
        for rank, _, _, concept, row in sorted(ranked):
            hits.setdefault(concept, Hit(concept, row, _MATCH_OF[rank]))
        return list(hits.values())

    def _entries_of(self, key: str) -> list[tuple[int, int, int, int, int]]:
        value = np.uint64(xxhash.xxh3_64_intdigest(key.encode("utf-8", "surrogatepass")))
        first = int(np.searchsorted(self.hashes, value, "left"))
        if first == len(self.hashes) or self.hashes[first] != value:
            return []
        last = int(np.searchsorted(self.hashes, value, "right"))
        entries: list[tuple[int, int, int, int, int]] = self.entries[first:last].tolist()
        return entries


class _Comparison:
    """A mention's forms, made when they are first needed, and their comparison with names and codes."""

    def __init__(self, mention: str, language: str, names: pa.Table, concepts: pa.Table) -> None:
        self.mention, self.language, self.names, self.concepts = mention, language, names, concepts
        self.spelling = spelling_hash(normalize(mention, AS_WRITTEN))
        self.language_hash = spelling_hash(language)
        self._forms: dict[tuple[Callable[..., str], str | None], str] = {}
        self._ranks: dict[int, int | None] = {}
        self._codes: dict[int, bool] = {}

    def _form(self, fold: Callable[..., str], language: str | None = None) -> str:
        if (fold, language) not in self._forms:
            self._forms[fold, language] = fold(self.mention) if language is None else fold(self.mention, language)
        return self._forms[fold, language]

    def rank_name(self, row: int) -> int | None:
        if row not in self._ranks:
            self._ranks[row] = self._rank_name(row)
        return self._ranks[row]

    def _rank_name(self, row: int) -> int | None:
        name = self.names["name"][row].as_py()
        language = self.names["language"][row].as_py() if self.language == UNKNOWN else self.language
        if fold_case(name, language) == self._form(fold_case, language):
            return _LANGUAGE_CASE
        if fold_case(name) == self._form(fold_case):
            return _ANY_CASE
        for fold in (fold_accents, expand_umlauts):
            if fold(name) == self._form(fold):
                return _NO_ACCENTS
        return None

    def rank_code(self, concept: int) -> int | None:
        if concept not in self._codes:
            own, codes = (self.concepts[column][concept].as_py() for column in ("concept_id", "codes"))
            forms = {own, *codes, *(code.partition(":")[2] for code in codes)}
            self._codes[concept] = self._form(fold_case) in map(fold_case, forms)
        return _CODE if self._codes[concept] else None


def spelling_hash(text: str) -> int:
    """The hash of a string in ENTRY."""
    return xxhash.xxh32_intdigest(text.encode("utf-8", "surrogatepass"))


def spelling_hashes(strings: Sequence[str]) -> NDArray[np.uint32]:
    """`spelling_hash` of each string."""
    return np.fromiter(map(spelling_hash, strings), np.uint32, len(strings))


def key_hashes(strings: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """(n,) the hash of the look-up key of each string."""
    keys = look_up_keys(strings).to_pylist()
    return np.fromiter((xxhash.xxh3_64_intdigest(key.encode()) for key in keys), np.uint64, len(keys))


class EntryCollector:
    """Collects the entries of a dictionary while its terminology is read, concept by concept."""

    def __init__(self) -> None:
        self._hashes: list[NDArray[np.uint64]] = []  # of each name
        self._spellings: list[NDArray[np.uint32]] = []
        self._languages: list[NDArray[np.uint32]] = []
        self._preferred: list[NDArray[np.bool_]] = []
        self._code_hashes: list[NDArray[np.uint64]] = []  # of each code
        self._code_concepts: list[NDArray[np.int64]] = []
        self._concepts = 0

    def add(self, names: pa.Table, ids: pa.Array, codes: pa.ListArray) -> None:
        """Add the next names, those of whole concepts.

        Args:
            names: Columns name, language and kind, of one chunk each.
            ids: Of the concepts that have these names, in order.
            codes: SOURCE:code of each of these concepts.
        """
        self._hashes.append(key_hashes(names["name"]))
        self._spellings.append(spelling_hashes(normalize_column(names["name"], AS_WRITTEN).to_pylist()))
        languages = names["language"].combine_chunks().dictionary_encode()
        self._languages.append(spelling_hashes(languages.dictionary.to_pylist())[languages.indices.to_numpy()])
        self._preferred.append(pc.equal(names["kind"], "preferred").to_numpy().astype(bool))
        bare = pc.replace_substring_regex(pc.list_flatten(codes), "^[^:]*:", "")
        strings = pa.concat_arrays([ids, bare])
        numbers = np.concatenate([np.arange(len(ids)), pc.list_parent_indices(codes).to_numpy()])
        found = pc.match_substring_regex(strings, _CODE_SHAPE)
        hashes, numbers = key_hashes(strings.filter(found)), numbers[found.to_numpy(zero_copy_only=False)]
        order = np.lexsort((hashes, numbers))
        hashes, numbers = hashes[order], numbers[order]
        new = np.ones(len(order), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (numbers[1:] != numbers[:-1])
        self._code_hashes.append(hashes[new])
        self._code_concepts.append(numbers[new] + self._concepts)
        self._concepts += len(ids)

    def keys(
        self, rows: NDArray[np.int32], concepts: NDArray[np.int64], preferred_names: pa.ChunkedArray
    ) -> tuple[Keys, NDArray[Any]]:
        """The keys, and the entries of the names in the order in which they were added.

        Args:
            rows: (n,) the row of each name that was added.
            concepts: (n,) the number of its concept, ascending.
            preferred_names: Of all concepts.
        """
        names = np.zeros(len(rows), ENTRY)
        names["row"], names["concept"] = rows, concepts
        names["spelling"], names["language"] = np.concatenate(self._spellings), np.concatenate(self._languages)
        names["preference"] = np.where(np.concatenate(self._preferred), PREFERRED, OTHER)
        own = spelling_hashes(normalize_column(preferred_names, AS_WRITTEN).to_pylist())
        names["preference"][names["spelling"] == own[concepts]] = PREFERRED_NAME
        row_of = rows[np.searchsorted(concepts, np.arange(len(own)))]
        is_own = names["preference"] == PREFERRED_NAME
        row_of[concepts[is_own]] = rows[is_own]
        codes = np.zeros(sum(map(len, self._code_hashes)), ENTRY)
        codes["concept"] = np.concatenate(self._code_concepts)
        codes["row"], codes["preference"] = row_of[codes["concept"]], CODE_ENTRY
        return Keys.from_entries(
            np.concatenate([*self._hashes, *self._code_hashes]), np.concatenate([names, codes])
        ), names


def pair_preferences(
    entries: NDArray[Any], starts: NDArray[np.int64], concepts: NDArray[Any], count: int
) -> NDArray[np.uint8]:
    """The highest preference of each pair of a name and a concept.

    Args:
        entries: (n,) ENTRY, of all names.
        starts: (names + 1,) where each name's concepts start.
        concepts: (pairs,) the concepts of each name, ascending.
        count: The number of concepts.
    """
    pairs = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * count + concepts
    preferences = np.zeros(len(pairs), np.uint8)
    positions = np.searchsorted(pairs, entries["row"].astype(np.int64) * count + entries["concept"])
    np.maximum.at(preferences, positions, entries["preference"])
    return preferences
