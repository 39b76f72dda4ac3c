"""From mentions to candidate concepts: exact look-up and search, before anything is made of them for users.

A mention that is a name or a code of the index has that name's concepts first; all others come by the vectors of their names, and where the
index has a fusion weight by string similarity too. The vocabulary of a model may have no part of a mention, which then has no candidates.
"""

from collections.abc import Sequence
from functools import partial
from itertools import compress
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from xsap.encoding.forks import ForkSafeLock
from xsap.linking.dictionary import values_at
from xsap.linking.encoder_spec import Embedder, encode_as_mentions
from xsap.linking.fusion import FusedSearch, string_similarity
from xsap.linking.index import Index
from xsap.linking.mention_names import AnnotationCount, join_hits, weighted_search
from xsap.linking.name_keys import ACCENTS, CODE, Hit
from xsap.linking.ranking import (
    NAMES_PER_SEARCH,
    NO_CONCEPT,
    FilteredDictionary,
    NameSearch,
    Ranked,
    put_exact_first,
    rank_concepts,
)
from xsap.linking.results import Candidate
from xsap.search.approximate import Searcher, search_device
from xsap.search.exact import exact_scores, search_vectors
from xsap.search.vectors import Floats, Rows

Mention = tuple[str, str]  # its text and its language


@runtime_checkable
class MentionEncoder(Protocol):
    """An encoder that tells, with the vectors of mentions, of which ones its vocabulary has any part."""

    def encode_mentions(self, mentions: Sequence[str]) -> tuple[Floats, NDArray[np.bool_]]: ...  # noqa: D102


def _filter_hit(hit: Hit, kept: FilteredDictionary) -> Hit | None:
    """A hit that a filter keeps; one of a code may be shown by another name of its concept."""
    assert kept.rows is not None
    starts, concepts = kept.name_concepts.starts, kept.name_concepts.concepts
    at = int(np.searchsorted(kept.rows, hit.row))
    if (
        at < len(kept.rows)
        and kept.rows[at] == hit.row
        and hit.concept in concepts[starts[hit.row] : starts[hit.row + 1]]
    ):
        return hit
    if hit.match != CODE:
        return None
    rows = np.searchsorted(starts, np.flatnonzero(concepts == hit.concept), "right") - 1
    rows = rows[np.isin(rows, kept.rows)]
    return hit._replace(row=int(rows[0])) if len(rows) else None


class Retrieved(NamedTuple):
    """The candidates of q mentions.

    Attributes:
        queries: (q, d) vectors of the mentions.
        ranked: Their concepts, best first.
        matches: How each of them was found: MATCHES.
    """

    queries: Floats
    ranked: Ranked
    matches: list[list[str]]


class Retriever:
    """Finds the candidates of mentions in an index."""

    def __init__(self, encoder: Embedder, index: Index, *, names_per_search: int = NAMES_PER_SEARCH) -> None:
        """Combine an encoder and an index.

        Args:
            encoder: The encoder that the index was built with.
            index: The index; its HNSW index is used if it was opened.
            names_per_search: Names that one search may return for all mentions of a call, so that memory is bounded.
        """
        self.encoder, self.index, self.names_per_search = encoder, index, names_per_search
        self.searcher = Searcher(index.vectors, index.hnsw, search_device(encoder))
        names = index.mention_names
        self.mention_names = (
            names if names is not None and names.weight else None
        )  # their rows follow those of the index
        self._lock = ForkSafeLock()  # a tokenizer can be used by one thread at a time

    def exact_hits(self, batch: Sequence[Mention], kept: FilteredDictionary) -> list[list[Hit]]:
        """The concepts that each mention names exactly, without those that a filter excludes."""
        dictionary = self.index.dictionary
        found = [dictionary.keys.find(*mention, dictionary.names, dictionary.concepts) for mention in batch]
        if kept.rows is not None:
            found = [[filtered for hit in own if (filtered := _filter_hit(hit, kept)) is not None] for own in found]
        names, first_row = self.mention_names, dictionary.names.num_rows
        if names is None:
            return found
        return [join_hits(own, text, names, first_row, kept) for own, (text, _) in zip(found, batch, strict=True)]

    def retrieve(
        self, mentions: Sequence[str], hits: Sequence[Sequence[Hit]], top_k: int, kept: FilteredDictionary
    ) -> Retrieved:
        """The best concepts of each mention, those of exact names first.

        Args:
            mentions: q mentions that are terms.
            hits: What `exact_hits` found for each.
            top_k: Concepts of each.
            kept: What a filter leaves of the dictionary.
        """
        queries, known = self._encode(list(mentions))
        ranked = self._rank(list(mentions), queries, top_k, kept)
        ranked.concepts[~known] = NO_CONCEPT
        matches = put_exact_first(ranked, hits, self._exact_scores(mentions, queries, hits))
        return Retrieved(queries, ranked, matches)

    def describe(self, retrieved: Retrieved) -> list[tuple[Candidate, ...]]:
        """The candidates of each mention as users get them, best first."""
        _, ranked, matches = retrieved
        found = ranked.concepts != NO_CONCEPT
        concepts, rows, scores = (array[found].tolist() for array in ranked)
        ids, preferred, types, codes, vocabularies, own_codes = (
            values_at(self.index.concepts[column], concepts)
            for column in ("concept_id", "preferred_name", "semantic_types", "codes", "vocabulary", "code")
        )
        names, languages, sources, annotations = self.describe_names(rows, concepts)
        how = [match for line, kept in zip(matches, found.tolist(), strict=True) for match in compress(line, kept)]
        columns = (
            ids,
            preferred,
            names,
            scores,
            languages,
            sources,
            map(tuple, types),
            map(tuple, codes),
            [None] * len(ids),
            how,
            vocabularies,
            own_codes,
            (None if each is None else each.annotations for each in annotations),
            (None if each is None else each.annotations / each.total for each in annotations),
        )
        candidates = [Candidate(*values) for values in zip(*columns, strict=True)]
        ends = np.cumsum(found.sum(1)).tolist()
        return [tuple(candidates[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def describe_names(
        self, rows: list[int], concepts: list[int]
    ) -> tuple[list[str], list[str], list[str], list[AnnotationCount | None]]:
        """Names, languages, sources and annotations of matched rows, each of a concept.

        A mention name has how often it was annotated with the concept; so has another name that was annotated, too; others have None.
        """
        table, official = self.index.names, self.index.names.num_rows
        of_index = np.array(rows, np.int64) < official
        columns = ("name", "language", "source")
        found = [values_at(table[column], [row for row in rows if row < official]) for column in columns]
        if self.mention_names is None:
            return found[0], found[1], found[2], [None] * len(rows)
        own = [
            values_at(self.mention_names.names[column], [row - official for row in rows if row >= official])
            for column in columns
        ]
        names, languages, sources = (
            [next(own if is_own else index) for is_own in ~of_index]
            for index, own in zip(map(iter, found), map(iter, own), strict=True)
        )
        at = [self.mention_names.row_of(name) for name in names]
        annotations = [
            None if row is None else self.mention_names.annotation(row, concept)
            for row, concept in zip(at, concepts, strict=True)
        ]
        return names, languages, sources, annotations

    def _rank(self, mentions: list[str], queries: Floats, top_k: int, kept: FilteredDictionary) -> Ranked:
        search: NameSearch = partial(self._search, queries, kept.rows)
        if self.index.fusion_weight:
            search = FusedSearch(search, mentions, self.index.names["name"], self.index.fusion_weight)
        total = len(self.index.vectors) if kept.rows is None else len(kept.rows)
        if self.mention_names is not None:
            names, rows = self.mention_names, kept.mention_rows
            sizes = total, len(names) if rows is None else len(rows)
            own: NameSearch = partial(self._search_mentions, queries, rows)
            if self.index.fusion_weight:
                own = FusedSearch(own, mentions, names.names["name"], self.index.fusion_weight)
            search = weighted_search(search, own, sizes, len(self.index.vectors), names.weight)
            total = sum(sizes)
        return rank_concepts(
            search, kept.name_concepts, len(mentions), top_k, total=total, names_per_search=self.names_per_search
        )

    def _encode(self, mentions: list[str]) -> tuple[Floats, NDArray[np.bool_]]:
        """Vectors of mentions, and of which ones the model's vocabulary has any part."""

        def encode() -> tuple[Floats, NDArray[np.bool_]]:
            if isinstance(self.encoder, MentionEncoder):
                return self.encoder.encode_mentions(mentions)
            return encode_as_mentions(self.encoder, mentions), np.ones(len(mentions), bool)

        with self._lock:
            try:
                return encode()
            except torch.OutOfMemoryError:  # the copy of the vectors leaves too little memory for long mentions
                if not self.searcher.release():
                    raise
            return encode()

    def _search(self, queries: Floats, kept: Rows | None, part: Rows, k: int) -> tuple[Floats, Rows]:
        return self.searcher.search(queries[part], k, kept)

    def _search_mentions(self, queries: Floats, kept: Rows | None, part: Rows, k: int) -> tuple[Floats, Rows]:
        assert self.mention_names is not None
        assert self.mention_names.vectors is not None
        return search_vectors(self.mention_names.vectors, queries[part], k, rows=kept)

    def _exact_scores(
        self, mentions: Sequence[str], queries: Floats, hits: Sequence[Sequence[Hit]]
    ) -> list[list[float]]:
        """The score of each hit: its own, or where accents differ what any other name has."""
        scores, weight = [[hit.score for hit in own] for own in hits], self.index.fusion_weight
        places = [(i, j) for i, own in enumerate(hits) for j, hit in enumerate(own) if hit.match == ACCENTS]
        query, row = np.array([i for i, _ in places], np.int64), np.array([hits[i][j].row for i, j in places], np.int64)
        cosines = exact_scores(self.index.vectors, queries, query, row).tolist() if places else []
        for (i, j), cosine in zip(places, cosines, strict=True):
            rows = np.array([[hits[i][j].row]])
            similarity = (
                float(string_similarity([mentions[i]], rows, self.index.names["name"])[0, 0]) if weight else 0.0
            )
            scores[i][j] = (1 - weight) * cosine + weight * similarity
        return scores
