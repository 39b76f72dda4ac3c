"""What can be linked: strings that may be terms, and the languages that they are said to be in.

Mentions in, ranked concepts out: exact names first, then nearest vectors, by ranking.py's rules.

A mention that is a name of the index, letter for letter under EXACT_MATCH, means that name's concepts: these come first, among themselves by
score, like all others after them. A score is the cosine of mention and name, or where the index has a weight for likeness in spelling
(fusion.py) the weighted mean of both; how sure an answer is, is its confidence, where
the index was calibrated. `nearest.py` says how names are searched. Linkers may be used by many threads at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from tqdm import tqdm

from xsap.encoding.encoder import Dtype, device_for
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import UNKNOWN, to_iso
from xsap.linking.calibration import abstention, features_of
from xsap.linking.dictionary import values_at
from xsap.linking.fusion import fused
from xsap.linking.index import Embedder, EncoderSpec, Index, open_encoder
from xsap.linking.ranking import NO_CONCEPT, Filter, FilteredDictionary, NameSearch, Ranked, apply_filter, rank_concepts
from xsap.linking.results import Candidate, Result, Results
from xsap.search.approximate import Searcher, search_device
from xsap.search.exact import exact_scores
from xsap.search.vectors import Floats, Rows
from xsap.text import EXACT_MATCH, normalize

LONGEST_MENTION = 2_000  # characters; a longer string is a document, not a term


def languages_of(given: Sequence[str | None] | None, n: int) -> list[str]:
    """(n,) ISO codes, UNKNOWN where nothing is said. Raises ConfigError for another number of them, DataError for an unknown one."""
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
    """None, and what tables of pandas have in its place: NaN, NA, NaT."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def rejection_reason(mention: object) -> str | None:
    """Why a mention can't be linked; None if it can."""
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


_BATCH = 4096  # mentions encoded and searched at once
_EXACT = np.float32(4)  # added to an exact name's cosine while ranking


class Linker:
    """Links mentions to the concepts of an index, with the encoder that the index was built with."""

    def __init__(self, encoder: Embedder, index: Index) -> None:
        """Raise ArtifactError if the index was built with another encoder, or with this one used differently.

        Where the index has a graph, it is used.
        """
        given, built = EncoderSpec.of(encoder), index.model
        if given.use != built.use:
            raise ArtifactError(
                f"the index was built with model {built.describe()}, not with {given.describe()}. Build it again"
            )
        self.encoder, self.index = encoder, index
        self._searcher = Searcher(index.vectors, index.graph, search_device(encoder))
        self._kept: dict[Filter, FilteredDictionary] = {}
        self._lock = Lock()  # a tokenizer serves one thread at a time

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
        """Open an index and its model: the one it was built with, by path and by hash, or `model` if that has the same hash.

        device: of the model and of exact searches: CUDA where there is one, unless given. encoder_precision: of the model's products for
        mentions, whichever the index was built with. approximate: search the index's graph where there is no filter, which may miss a name;
        confidences are those that were fitted to exact answers. Raises ArtifactError if the index is damaged, or its model gone or another;
        ConfigError for a graph that isn't there or without usearch, and for a dtype that can't be had here.
        """
        found = device_for(dtype, device)
        index = Index.load(index_path, ann=ann)
        return cls(open_encoder(index.model, index_path, model, found, dtype), index)

    @property
    def concept_ids(self) -> frozenset[str]:
        """Every concept that can be an answer."""
        return frozenset(self.index.concepts["concept_id"].to_pylist())

    def link(
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        filter: Filter | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        progress: bool = False,
    ) -> Results:
        """A result for each mention, in their order, each with at most `top_k` concepts.

        mentions: a list, or a column of pandas, polars or `datasets`. languages: of the mentions, where known. keep: what may be an answer.
        threshold: of the confidence below which there is no answer; min_precision: that which answers are to keep, in place of a threshold.
        Equal mentions are linked once. A mention that is missing, blank or longer than LONGEST_MENTION has no candidates, and a
        reason. Raises ConfigError for a single string, a top_k below 1, and a threshold or min_precision without a calibration; DataError
        for a filter that leaves nothing.
        """
        if isinstance(mentions, str):
            raise ConfigError(
                f"link takes a list of mentions, found the single string '{mentions[:40]}'; put it into a list"
            )
        if not isinstance(mentions, Iterable):
            raise ConfigError(f"link takes a list of mentions, found {mentions!r:.40}")
        if hasattr(mentions, "columns"):  # to walk over a data frame gives its columns' names
            raise ConfigError(
                f"link takes one column of mentions, found a whole {type(mentions).__name__}; choose its column of mentions"
            )
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, found {top_k}")
        least = self._least(min_confidence, min_precision)
        given = ["" if mention is None or is_missing(mention) else mention for mention in mentions]
        spoken = languages_of(languages, len(given))
        reasons = [rejection_reason(mention) for mention in given]
        asked = list(zip(given, spoken, strict=True))
        unique = list(dict.fromkeys(one for one, reason in zip(asked, reasons, strict=True) if reason is None))
        kept = self._keep(filter or Filter())
        answers: dict[tuple[str, str], Result] = {}
        with tqdm(total=len(unique), desc="link", unit=" mentions", disable=not progress) as bar:
            for start in range(0, len(unique), _BATCH):
                batch = unique[start : start + _BATCH]
                answers.update(zip(batch, self._answer(batch, top_k, kept, least, min_precision), strict=True))
                bar.update(len(batch))
        return Results(
            answers.get(one) or Result(one[0], (), reason) for one, reason in zip(asked, reasons, strict=True)
        )

    def _keep(self, wanted: Filter) -> FilteredDictionary:
        with self._lock:
            if wanted not in self._kept:
                if len(self._kept) > 8:
                    self._kept.clear()
                self._kept[wanted] = apply_filter(self.index.dictionary, wanted)
            return self._kept[wanted]

    def _least(self, min_confidence: float | None, min_precision: float | None) -> float | None:
        """The confidence that an answer must have; None for any."""
        if min_confidence is None and min_precision is None:
            return None
        if min_confidence is not None and min_precision is not None:
            raise ConfigError(
                f"expected a threshold or a min_precision, found both: {min_confidence:g} and {min_precision:g}"
            )
        if self.index.calibration is None:
            raise ConfigError(
                "a threshold or a min_precision needs a calibrated index; calibrate it: xsap calibrate MENTIONS --index INDEX"
            )
        if min_confidence is not None and not 0 <= min_confidence <= 1:
            raise ConfigError(f"a threshold is a confidence between 0 and 1, found {min_confidence:g}")
        return min_confidence if min_precision is None else self.index.calibration.threshold_for(min_precision)

    def _answer(
        self,
        asked: list[tuple[str, str]],
        top_k: int,
        kept: FilteredDictionary,
        least: float | None,
        min_precision: float | None,
    ) -> list[Result]:
        mentions, spoken = [mention for mention, _ in asked], [language for _, language in asked]
        calibration = self.index.calibration
        found = self._candidates(
            mentions, max(top_k, 2) if calibration else top_k, kept
        )  # a confidence looks at the second, too
        if calibration is None:
            return [Result(mention, candidates) for mention, candidates in zip(mentions, found, strict=True)]
        scores = np.array(
            [[c.score for c in candidates[:2]] + [np.nan] * (2 - len(candidates[:2])) for candidates in found]
        )
        confidences = calibration.confidence(features_of(scores[:, 0], scores[:, 1]), spoken).tolist()
        results = []
        for mention, candidates, confidence in zip(mentions, found, confidences, strict=True):
            reason = None if least is None else abstention(confidence, least, min_precision)
            sure = (replace(candidates[0], confidence=confidence), *candidates[1:top_k]) if candidates else ()
            results.append(Result(mention, () if reason else sure, reason))
        return results

    def _candidates(self, mentions: list[str], top_k: int, kept: FilteredDictionary) -> list[tuple[Candidate, ...]]:
        """For each mention its best concepts."""
        queries = self._encode(mentions)
        exact = self._exact(mentions, queries, kept)
        total = len(self.index.vectors) if kept.rows is None else len(kept.rows)

        def nearest(part: Rows, k: int) -> tuple[Floats, Rows]:
            return self._searcher.search(queries[part], k, kept.rows)

        weight, names = self.index.fusion_weight, self.index.names["name"]
        alike: NameSearch = fused(nearest, mentions, names, weight) if weight else nearest

        def find(part: Rows, k: int) -> tuple[Floats, Rows]:
            scores, rows = alike(part, k)
            for place, query in enumerate(part.tolist()):
                if query in exact:
                    scores[place], rows[place] = _in_front(*exact[query], scores[place], rows[place])
            return scores, rows

        ranked = rank_concepts(find, kept.owners, len(mentions), top_k, total=total)
        for query, (own, rows) in exact.items():
            for row, score in zip(rows.tolist(), own.tolist(), strict=True):
                ranked.scores[query, ranked.rows[query] == row] = score
        return self._describe(ranked)

    def _encode(self, mentions: list[str]) -> Floats:
        with self._lock:
            try:
                return self.encoder.encode(mentions)
            except torch.OutOfMemoryError:  # the vectors have taken what long mentions need
                if not self._searcher.release():
                    raise
            return self.encoder.encode(mentions)

    def _exact(self, mentions: list[str], queries: Floats, kept: FilteredDictionary) -> dict[int, tuple[Floats, Rows]]:
        """Of each mention that is a name letter for letter: the scores and rows of these names, best first."""
        dictionary, found = self.index.dictionary, {}
        for query, mention in enumerate(mentions):
            rows = np.array(dictionary.keys.find(mention, dictionary.names["name"]), np.int64)
            if kept.rows is not None:
                rows = rows[np.isin(rows, kept.rows)]
            if rows.size:
                scores = exact_scores(self.index.vectors, queries, np.full(len(rows), query), rows)
                weight = np.float32(self.index.fusion_weight)
                scores = (1 - weight) * scores + weight  # an exact name is spelt alike
                order = np.lexsort((rows, -scores))
                found[query] = scores[order], rows[order]
        return found

    def _describe(self, ranked: Ranked) -> list[tuple[Candidate, ...]]:
        there = ranked.concepts != NO_CONCEPT
        concepts, rows, scores = (array[there].tolist() for array in ranked)
        of_concepts = [
            values_at(self.index.concepts[name], concepts)
            for name in ("concept_id", "preferred_name", "semantic_types", "codes")
        ]
        ids, names, types, codes = of_concepts
        matched, languages, sources = (
            values_at(self.index.names[name], rows) for name in ("name", "language", "source")
        )
        flat = [
            Candidate(concept, name, found, score, language, source, tuple(of_type), tuple(coded))
            for concept, name, found, score, language, source, of_type, coded in zip(
                ids, names, matched, scores, languages, sources, types, codes, strict=True
            )
        ]
        ends = np.cumsum(there.sum(1)).tolist()
        return [tuple(flat[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _in_front(own: Floats, exact: Rows, scores: Floats, rows: Rows) -> tuple[Floats, Rows]:
    """Exact names before all others, as many rows as before."""
    others = ~np.isin(rows, exact)
    return np.concatenate([own + _EXACT, scores[others]])[: len(rows)], np.concatenate([exact, rows[others]])[
        : len(rows)
    ]
