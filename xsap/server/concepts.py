"""The concepts of an index, looked up by id: their names, types and codes; and the concepts of which a name begins with some text."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.linking.dictionary import Dictionary, row_of, values_at

NAMES_SCANNED = 2_000_000  # a scan of more names takes longer than typing a letter


@dataclass(frozen=True, slots=True)
class ConceptName:
    """A name of a concept. languages: all that have it, ISO 639."""

    text: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConceptEntry:
    """A concept without its names.

    Attributes:
        row: Its number in the table of concepts.
        concept_id: Its id.
        name: Its preferred name.
        semantic_types: Its types.
        codes: SOURCE:code of each code and cross-reference.
    """

    row: int
    concept_id: str
    name: str
    semantic_types: tuple[str, ...]
    codes: tuple[str, ...]

    def codes_in(self, source: str) -> list[str]:
        """Its codes in a source, without the source's name."""
        return [code.removeprefix(f"{source}:") for code in self.codes if code.startswith(f"{source}:")]


class ConceptTable:
    """The concepts of an index's dictionary. Used by many threads.

    Attributes:
        types: All semantic types, sorted.
        sources: All sources of codes, sorted.
        languages: All languages of names, sorted.
    """

    def __init__(self, dictionary: Dictionary) -> None:
        """Sort the names by concept.

        Args:
            dictionary: Of the index.
        """
        self._dictionary = dictionary
        owned = dictionary.name_concepts
        names = np.repeat(np.arange(len(owned), dtype=np.int32), np.diff(owned.starts))
        order = np.lexsort((names, -owned.preferences.astype(np.int16), owned.concepts))
        self._names: NDArray[np.int32] = names[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(owned.concepts, minlength=owned.count))])
        self.types: tuple[str, ...] = _distinct_of_lists(dictionary.concepts["semantic_types"])
        self.sources: tuple[str, ...] = _sources_of(dictionary.concepts["codes"])
        self.languages: tuple[str, ...] = _distinct_of_lists(dictionary.names["languages"])

    def __len__(self) -> int:
        return int(self._dictionary.concepts.num_rows)

    def find(self, concept_id: str) -> ConceptEntry | None:
        """The concept of an id; None if there is none."""
        row = row_of(self._dictionary.concepts["concept_id"], concept_id)
        return None if row is None else self.entry(row)

    def entry(self, row: int) -> ConceptEntry:
        """The concept at a row."""
        columns = ("concept_id", "preferred_name", "semantic_types", "codes")
        concept_id, name, types, codes = (values_at(self._dictionary.concepts[column], [row])[0] for column in columns)
        return ConceptEntry(row, concept_id, name, tuple(types), tuple(codes))

    def definition_of(self, entry: ConceptEntry, language: str | None = None) -> str | None:
        """The definition of a concept in a language, else in English, else in any; None if it has none."""
        details = self._dictionary.details
        return None if details is None else details.definition_of(entry.row, language)

    def parents_of(self, entry: ConceptEntry) -> list[ConceptEntry]:
        """The concepts right above a concept."""
        details = self._dictionary.details
        return [] if details is None else [self.entry(row) for row in details.hierarchy.parents_of(entry.row)]

    def names_of(self, entry: ConceptEntry) -> list[ConceptName]:
        """The names of a concept, its preferred ones first."""
        rows = self._names[self._starts[entry.row] : self._starts[entry.row + 1]].tolist()
        texts, languages = (values_at(self._dictionary.names[column], rows) for column in ("name", "languages"))
        return [ConceptName(text, tuple(own)) for text, own in zip(texts, languages, strict=True)]

    def starting_with(self, text: str, limit: int) -> list[ConceptEntry]:
        """Concepts of which a name begins with some text, in any letter case, those with the shortest such names first.

        Args:
            text: What a name begins with; nothing begins with an empty text.
            limit: How many concepts to return, at most.

        Returns:
            The concepts; none where the index has more than NAMES_SCANNED names.
        """
        return [self.entry(row) for row, _ in zip(self._rows_starting_with(text), range(limit), strict=False)]

    def _rows_starting_with(self, text: str) -> Iterator[int]:
        names = self._dictionary.names["name"]
        if not text or len(names) > NAMES_SCANNED:
            return
        mask = pc.starts_with(names, text, ignore_case=True)
        found, lengths = np.flatnonzero(mask.to_numpy()), pc.utf8_length(names.filter(mask)).to_numpy()
        found = found[np.argsort(lengths, kind="stable")]
        seen: set[int] = set()
        owned = self._dictionary.name_concepts
        for row in found.tolist():
            for concept in owned.concepts[owned.starts[row] : owned.starts[row + 1]].tolist():
                if concept not in seen:
                    seen.add(concept)
                    yield concept


def _distinct_of_lists(lists: pa.ChunkedArray) -> tuple[str, ...]:
    found = {value for chunk in lists.chunks for value in pc.unique(pc.list_flatten(chunk)).to_pylist()}
    return tuple(sorted(found))


def _sources_of(codes: pa.ChunkedArray) -> tuple[str, ...]:
    """What stands before the first colon of each code."""
    found: set[str] = set()
    for chunk in codes.chunks:
        sources = pc.extract_regex(pc.list_flatten(chunk), "^(?P<source>[^:]+):").field("source")
        found.update(source for source in pc.unique(sources).to_pylist() if source)
    return tuple(sorted(found))
