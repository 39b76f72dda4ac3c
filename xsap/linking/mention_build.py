"""Mention names of an index: annotations counted, only new strings encoded, and the weight learned."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from xsap.errors import ConfigError
from xsap.linking.dictionary import Dictionary, find_rows, hash_names
from xsap.linking.encoder_spec import Embedder, EncoderSpec, encode_as_mentions
from xsap.linking.fusion import FusedSearch
from xsap.linking.mention_names import Annotations, MentionNames
from xsap.linking.mention_weight import MentionWeight, Searches, learn_mention_weight
from xsap.linking.ranking import NameSearch
from xsap.search.exact import search_vectors
from xsap.search.vectors import Floats, Rows, VectorDtype, Vectors, check_finite


class NamedVectors(NamedTuple):
    """Names whose vectors are known, and these: n names, (n, d) vectors."""

    names: pa.ChunkedArray
    vectors: Vectors


class BuiltMentions(NamedTuple):
    """Mention names with their vectors, how many of them were encoded, and how the weight was chosen."""

    names: MentionNames
    encoded: int
    weight: MentionWeight


def check_mention_weight(weight: float | None) -> None:
    """Raise ConfigError for a weight that is not from 0 to 1."""
    if weight is not None and not 0 <= weight <= 1:
        raise ConfigError(f"the weight of mention names must be between 0 and 1, found {weight:g}")


def build_mention_names(
    mentions: pa.Table,
    dictionary: Dictionary,
    vectors: Vectors,
    encoder: Embedder,
    *,
    known: Sequence[NamedVectors] = (),
    fusion_weight: float = 0.0,
    weight: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> BuiltMentions:
    """The mention names of an index.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`.
        dictionary: The index's names and concepts.
        vectors: Their vectors.
        encoder: The encoder of the index.
        known: Further names with vectors of this encoder, which are not encoded again, as those of the dictionary are not.
        fusion_weight: The index's weight of string similarity.
        weight: Of the mention names, 0 to 1; None to learn it.
        seed: Of the folds on which it is learned.
        progress: Whether to show a progress bar.

    Raises:
        DataError: No mention has a concept of the index.
        ConfigError: The weight is out of range.
    """
    check_mention_weight(weight)
    annotations = Annotations.from_mentions(mentions, dictionary.concepts["concept_id"].to_pylist())
    strings = annotations.names["name"]
    sources = [NamedVectors(dictionary.names["name"], vectors), *known]
    array, encoded = _vectors_of(strings, sources, encoder, progress=progress)
    own = Vectors.from_array(array, vectors.vector_dtype)
    chosen = MentionWeight(1.0 if weight is None else weight, note="given")
    if weight is None:
        prompts = EncoderSpec.from_encoder(encoder).prompts
        texts = strings.to_pylist()
        queries = array if prompts[0] == prompts[1] else encode_as_mentions(encoder, texts, progress=progress)
        searches = _searches(annotations.names, queries, dictionary, vectors, own, fusion_weight)
        chosen = learn_mention_weight(mentions, annotations, searches, seed=seed)
    names = replace(annotations.mention_names(), weight=chosen.weight, vectors=own, learnt=chosen.to_dict())
    return BuiltMentions(names, encoded, chosen)


def _vectors_of(
    strings: pa.ChunkedArray, sources: Sequence[NamedVectors], encoder: Embedder, *, progress: bool
) -> tuple[Floats, int]:
    """(m, d) vectors of strings, of which only those that no source has are encoded, and how many these are."""
    wanted = hash_names(strings, encoder.policy)
    array, missing = np.empty((len(strings), encoder.dimension), np.float32), np.ones(len(strings), bool)
    for names, vectors in sources:
        rows = find_rows(wanted, hash_names(names, encoder.policy))
        found = missing & (rows >= 0)
        array[found] = vectors.take(rows[found])
        missing &= ~found
    new = np.flatnonzero(missing)
    if len(new):
        array[new] = encoder.encode(strings.take(pa.array(new)).to_pylist(), progress=progress)
        check_finite(array[new], "vectors of mention names")
    return array, len(new)


def _searches(
    annotated_names: pa.Table,
    queries: Floats,
    dictionary: Dictionary,
    vectors: Vectors,
    own: Vectors,
    fusion_weight: float,
) -> Searches:
    strings = annotated_names["name"]
    texts, languages = (annotated_names[column].to_pylist() for column in ("name", "language"))

    def fused(search: NameSearch, names: pa.ChunkedArray) -> NameSearch:
        return FusedSearch(search, texts, names, fusion_weight) if fusion_weight else search

    def official(part: Rows, k: int) -> tuple[Floats, Rows]:
        return search_vectors(vectors, queries[part], k)

    def annotated(part: Rows, k: int, rows: Rows) -> tuple[Floats, Rows]:
        return fused(lambda some, wanted: search_vectors(own, queries[some], wanted, rows=rows), strings)(part, k)

    names, concepts = dictionary.names, dictionary.concepts
    hits = [dictionary.keys.find(*mention, names, concepts) for mention in zip(texts, languages, strict=True)]
    return Searches(fused(official, names["name"]), annotated, dictionary.name_concepts, hits)


def vectors_to_reuse(names: MentionNames | None, vector_dtype: VectorDtype) -> list[NamedVectors]:
    """The mention names of an older index, as far as their vectors can be stored in this dtype again without loss."""
    if names is None or names.vectors is None or names.vectors.vector_dtype not in ("float32", vector_dtype):
        return []
    return [NamedVectors(names.names["name"], names.vectors)]
