"""From mentions to ranked concepts.

A mention that equals a name of the index under EXACT_MATCH means that name's concepts: they come first, ordered by score like all others after
them. A score is the cosine of mention and name or, where the index has a fusion weight, the weighted mean of cosine and string similarity.
How likely an answer is right is its confidence, where the index is calibrated. Which concepts follow from which names is decided in
ranking.py; how names are searched, in search/approximate.py. Linkers may be used by many threads at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Real
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from xsap.encoding.encoder import Dtype, device_for
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.calibration import abstention_reason, features_of
from xsap.linking.dictionary import values_at
from xsap.linking.encoder_spec import Embedder, EncoderSpec, open_encoder
from xsap.linking.fusion import FusedSearch
from xsap.linking.index import Index
from xsap.linking.ranking import (
    NAMES_PER_SEARCH,
    NO_CONCEPT,
    Filter,
    FilteredDictionary,
    NameSearch,
    Ranked,
    Strings,
    apply_filter,
    put_exact_first,
    rank_concepts,
)
from xsap.linking.results import Candidate, Result, Results, validate_top_k
from xsap.search.approximate import Searcher, search_device
from xsap.search.exact import exact_scores
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, normalize

LONGEST_MENTION = 2_000  # characters; a longer string is a document, not a term
FILTERS_KEPT = 8  # filters whose names a linker remembers

Mention = tuple[str, str]  # its text and its language


def validate_mentions(mentions: Iterable[str | None]) -> list[str]:
    """Mentions as a list of strings, "" where one is missing. Raises ConfigError for what is not a list or a column of strings."""
    if isinstance(mentions, str):
        raise ConfigError(
            f"link takes a list of mentions, found the single string '{mentions[:40]}'; put it into a list"
        )
    if not isinstance(mentions, Iterable):
        raise ConfigError(f"link takes a list of mentions, found {mentions!r:.40}")
    if hasattr(mentions, "columns"):  # iterating over a data frame gives the names of its columns
        raise ConfigError(
            f"link takes one column of mentions, found a whole {type(mentions).__name__}; choose its column of mentions"
        )
    return ["" if mention is None or is_missing(mention) else mention for mention in mentions]


def languages_of(given: Sequence[str | None] | None, n: int) -> list[str]:
    """The ISO 639 codes of n mentions, UNKNOWN where none is given. Raises ConfigError for another number of them, DataError for an unknown one."""
    if given is None:
        return [UNKNOWN] * n
    if isinstance(given, str):
        raise ConfigError(
            f"languages takes a language for each mention, found the single string '{given[:40]}'; put it into a list"
        )
    given = list(given)  # a column may give another NaN each time it is read
    if len(given) != n:
        raise ConfigError(f"expected a language for each mention, found {len(given):,} for {n:,}")
    known = {code: UNKNOWN if is_missing(code) or not code else to_iso(str(code)) for code in set(given)}
    return [known[code] for code in given]


def is_missing(value: object) -> bool:
    """Whether a value is None, or what tables of pandas have instead: NaN, NA, NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def rejection_reason(mention: object) -> str | None:
    """Why a mention cannot be linked; None if it can. Raises ConfigError if it is not a string."""
    if not isinstance(mention, str):
        raise ConfigError(f"a mention must be text, found {mention!r} ({type(mention).__name__})")
    if len(mention) > LONGEST_MENTION:
        return f"the mention has {len(mention):,} characters; a term has at most {LONGEST_MENTION:,}"
    if not mention:
        return "the mention is empty"
    if not normalize(mention, EXACT_MATCH):
        return "the mention is blank"
    if any("\ud800" <= character <= "\udfff" for character in mention):
        return "the mention is not valid Unicode: it has half of a surrogate pair"
    return None


def _check_number(name: str, value: object) -> None:
    if value is not None and not isinstance(value, Real):
        raise ConfigError(f"{name} must be a number between 0 and 1, found {value!r:.40} ({type(value).__name__})")


class Linker:
    """Links mentions to the concepts of an index, with the encoder that the index was built with."""

    def __init__(
        self,
        encoder: Embedder,
        index: Index,
        *,
        mentions_per_batch: int = 4096,
        names_per_search: int = NAMES_PER_SEARCH,
    ) -> None:
        """Combine an encoder and an index. The index's HNSW index is used if it was opened.

        Args:
            encoder: The encoder.
            index: The index.
            mentions_per_batch: Mentions that are encoded and searched together.
            names_per_search: Names that one search may return for them, so that memory is bounded.

        Raises:
            ArtifactError: The index was built with another encoder, or with this one used differently.
        """
        given, built = EncoderSpec.from_encoder(encoder), index.model
        if not given.matches(built):
            raise ArtifactError(
                f"the index was built with model {built.describe()}, not with {given.describe()}. Build it again"
            )
        self.encoder, self.index = encoder, index
        self.searcher = Searcher(index.vectors, index.hnsw, search_device(encoder))
        self.mentions_per_batch, self.names_per_search = mentions_per_batch, names_per_search
        self._filtered: dict[Filter, FilteredDictionary] = {}
        self._lock = Lock()  # a tokenizer can be used by one thread at a time

    @classmethod
    def load(
        cls,
        index_path: Path | str,
        *,
        model: Path | str | None = None,
        device: str | None = None,
        dtype: Dtype = "float32",
        ann: bool = False,
    ) -> "Linker":
        """Open an index and its model.

        Args:
            index_path: The folder of the index.
            model: Where the model is; by default where it was when the index was built. It must have the same content hash.
            device: Device of the model and of exact searches, as torch names it; by default a CUDA GPU if there is one.
            dtype: Of the model's matrix products for mentions, whichever the index was built with.
            ann: Whether to search the HNSW index where there is no filter. It may miss a name, and confidences are those that were fitted to
                exact answers.

        Raises:
            ArtifactError: The index is damaged, or its model is missing or another one.
            ConfigError: The index has no HNSW index, usearch is not installed, or `dtype` is not supported here.
        """
        device_found = device_for(dtype, device)
        index = Index.load(index_path, ann=ann)
        return cls(open_encoder(index.model, index_path, model, device_found, dtype), index)

    def __repr__(self) -> str:
        return f"Linker({self.index!r}, search={'exact' if self.index.hnsw is None else 'hnsw'})"

    @property
    def concept_ids(self) -> frozenset[str]:
        """The ids of all concepts that can be an answer."""
        return frozenset(self.index.concepts["concept_id"].to_pylist())

    def link(
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        filter: Filter | Mapping[str, Strings] | None = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
        progress: bool = False,
    ) -> Results:
        """Link mentions to concepts. Equal mentions are linked once.

        Args:
            mentions: A list, or a column of pandas, polars or `datasets`.
            top_k: How many concepts to return for each mention, at most.
            languages: The language of each mention, where it is known.
            filter: What may be an answer: a `Filter`, or its arguments as a dictionary, such as `{"sources": ["SNOMEDCT_US"], "languages": "en"}`.
            min_confidence: Abstain where the confidence is below this; 0 to 1.
            min_precision: Abstain unless this precision is guaranteed; instead of `min_confidence`.
            progress: Whether to show a progress bar on stderr.

        Returns:
            A result for each mention, in their order. A mention that is missing, blank or longer than LONGEST_MENTION has no candidates, but
            a reason.

        Raises:
            ConfigError: `mentions` is a single string, `top_k` is below 1, the filter has an unknown key, or `min_confidence` or
                `min_precision` is given without a calibration or out of range.
            DataError: The filter leaves nothing, or a language is unknown.
        """
        top_k = validate_top_k(top_k)
        texts = validate_mentions(mentions)
        threshold = self._threshold(min_confidence, min_precision)
        given = list(zip(texts, languages_of(languages, len(texts)), strict=True))
        reasons = [rejection_reason(text) for text in texts]
        unique = list(dict.fromkeys(mention for mention, reason in zip(given, reasons, strict=True) if reason is None))
        kept = self._apply_filter(Filter.from_dict(filter))
        results: dict[Mention, Result] = {}
        with tqdm(total=len(unique), desc="link", unit=" mentions", disable=not progress) as bar:
            for start in range(0, len(unique), self.mentions_per_batch):
                batch = unique[start : start + self.mentions_per_batch]
                results.update(zip(batch, self._link(batch, top_k, kept, threshold, min_precision), strict=True))
                bar.update(len(batch))
        return Results(
            results[mention] if reason is None else Result(mention[0], (), reason)
            for mention, reason in zip(given, reasons, strict=True)
        )

    def _apply_filter(self, wanted: Filter) -> FilteredDictionary:
        with self._lock:
            if wanted not in self._filtered:
                if len(self._filtered) > FILTERS_KEPT:
                    self._filtered.clear()
                self._filtered[wanted] = apply_filter(self.index.dictionary, wanted)
            return self._filtered[wanted]

    def _threshold(self, min_confidence: float | None, min_precision: float | None) -> float | None:
        """The confidence that an answer must have; None for any."""
        if min_confidence is None and min_precision is None:
            return None
        _check_number("min_confidence", min_confidence)
        _check_number("min_precision", min_precision)
        if min_confidence is not None and min_precision is not None:
            raise ConfigError(
                f"expected min_confidence or min_precision, found both: {min_confidence:g} and {min_precision:g}"
            )
        if self.index.calibration is None:
            raise ConfigError(
                "min_confidence and min_precision need a calibrated index; calibrate it: xsap calibrate MENTIONS --index INDEX"
            )
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise ConfigError(f"min_confidence must be between 0 and 1, found {min_confidence:g}")
        return min_confidence if min_precision is None else self.index.calibration.threshold_for(min_precision)

    def _link(
        self,
        batch: list[Mention],
        top_k: int,
        kept: FilteredDictionary,
        threshold: float | None,
        min_precision: float | None,
    ) -> list[Result]:
        mentions, languages = [text for text, _ in batch], [language for _, language in batch]
        calibration = self.index.calibration
        found = self._candidates(mentions, max(top_k, 2) if calibration else top_k, kept)
        if calibration is None:
            return [Result(mention, candidates) for mention, candidates in zip(mentions, found, strict=True)]
        scores = np.full((len(found), 2), np.nan)  # a confidence depends on the second score too
        for i, candidates in enumerate(found):
            scores[i, : len(candidates)] = [candidate.score for candidate in candidates[:2]]
        confidences = calibration.confidence(features_of(scores[:, 0], scores[:, 1]), languages).tolist()
        results = []
        for mention, candidates, confidence in zip(mentions, found, confidences, strict=True):
            reason = None if threshold is None else abstention_reason(confidence, threshold, min_precision)
            if candidates:
                candidates = (replace(candidates[0], confidence=confidence), *candidates[1:top_k])
            results.append(Result(mention, (), reason, candidates) if reason else Result(mention, candidates))
        return results

    def _candidates(self, mentions: list[str], top_k: int, kept: FilteredDictionary) -> list[tuple[Candidate, ...]]:
        """The best concepts of each mention: those of exact names first."""
        queries, weight = self._encode(mentions), self.index.fusion_weight
        search: NameSearch = partial(self._search, queries, kept.rows)
        if weight:
            search = FusedSearch(search, mentions, self.index.names["name"], weight)
        total = len(self.index.vectors) if kept.rows is None else len(kept.rows)
        ranked = rank_concepts(
            search, kept.name_concepts, len(mentions), top_k, total=total, names_per_search=self.names_per_search
        )
        put_exact_first(ranked, *self._exact_names(mentions, queries, kept.rows), kept.name_concepts)
        return self._describe(ranked)

    def _encode(self, mentions: list[str]) -> Floats:
        prompts = self.index.model.prompts
        prompt: dict[str, Any] = {"prompt": prompts[1]} if any(prompts) else {}  # most models have none
        with self._lock:
            try:
                return self.encoder.encode(mentions, **prompt)
            except torch.OutOfMemoryError:  # the copy of the vectors leaves too little memory for long mentions
                if not self.searcher.release():
                    raise
            return self.encoder.encode(mentions, **prompt)

    def _search(self, queries: Floats, kept: Rows | None, part: Rows, k: int) -> tuple[Floats, Rows]:
        return self.searcher.search(queries[part], k, kept)

    def _exact_names(self, mentions: list[str], queries: Floats, kept: Rows | None) -> tuple[Rows, Floats, Rows]:
        """The names that equal a mention: the number of the mention, the score and the row of each, three arrays (m,)."""
        dictionary, weight = self.index.dictionary, np.float32(self.index.fusion_weight)
        found = [dictionary.keys.find(mention, dictionary.names["name"]) for mention in mentions]
        query = np.repeat(np.arange(len(mentions)), [len(rows) for rows in found])
        row = np.array([row for rows in found for row in rows], np.int64)
        if kept is not None:
            inside = np.isin(row, kept)
            query, row = query[inside], row[inside]
        scores = exact_scores(self.index.vectors, queries, query, row)
        return query, (1 - weight) * scores + weight, row  # the string similarity of an exact name is 1

    def _describe(self, ranked: Ranked) -> list[tuple[Candidate, ...]]:
        found = ranked.concepts != NO_CONCEPT
        concepts, rows, scores = (array[found].tolist() for array in ranked)
        ids, preferred, types, codes = (
            values_at(self.index.concepts[column], concepts)
            for column in ("concept_id", "preferred_name", "semantic_types", "codes")
        )
        names, languages, sources = (
            values_at(self.index.names[column], rows) for column in ("name", "language", "source")
        )
        columns = ids, preferred, names, scores, languages, sources, map(tuple, types), map(tuple, codes)
        candidates = [Candidate(*values) for values in zip(*columns, strict=True)]
        ends = np.cumsum(found.sum(1)).tolist()
        return [tuple(candidates[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
