"""From mentions to ranked concepts.

A mention that is a name or a code of the index means that name's concepts: they come first, in the order of name_keys.py and with the score 1, or
where accents differ with that of all others. That is the cosine of mention and name or, where the index has a fusion weight, the weighted mean of
cosine and string similarity. A mention that is not in the index and is no term, or of which the model's vocabulary has no part, has no answer.
How likely an answer is right is its confidence, where the index is calibrated. Which concepts follow from which names is decided in
ranking.py; how candidates are found, in retrieval.py. Linkers may be used by many threads at once.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from xsap.encoding.encoder import Dtype, Encoder, device_for
from xsap.encoding.forks import ForkSafeLock
from xsap.encoding.precision import DtypeChoice, open_encoder_in
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import UNKNOWN
from xsap.linking.arguments import languages_of, validate_mentions
from xsap.linking.broader import FETCHED, BroaderAnswers
from xsap.linking.calibration import abstention_reason, answer_threshold, features_of
from xsap.linking.encoder_spec import Embedder, EncoderSpec, open_encoder
from xsap.linking.index import Index
from xsap.linking.mention_context import Context, contexts_of
from xsap.linking.mention_names import filter_names
from xsap.linking.name_keys import ACCENTS
from xsap.linking.preparation import link_prepared, prepare_mentions
from xsap.linking.ranking import NAMES_PER_SEARCH, Filter, FilteredDictionary, Strings
from xsap.linking.rejection import UNKNOWN_TEXT, non_term_reason, rejection_reason
from xsap.linking.rerank import RERANKED, Reranker
from xsap.linking.rerank_candidates import AskedMention, CandidateTexts, Reranking
from xsap.linking.rerank_choice import RerankChoice, open_reranker, pickled_reranker
from xsap.linking.results import Candidate, Result, Results, validate_top_k
from xsap.linking.retrieval import Retriever
from xsap.terms.abbreviations import Abbreviations
from xsap.text_in.annotate import AnnotatedText, annotate_texts
from xsap.text_in.document_abbreviations import DocumentAbbreviations
from xsap.text_in.spans import Span, SpanFinder
from xsap.text_in.spellings import NearSpellings

logger = logging.getLogger(__name__)

FILTERS_KEPT = 8  # filters whose names a linker remembers


class Linker:
    """Links mentions to the concepts of an index, with the encoder that the index was built with."""

    def __init__(
        self,
        encoder: Embedder,
        index: Index,
        *,
        mentions_per_batch: int = 4096,
        names_per_search: int = NAMES_PER_SEARCH,
        reranker: Reranker | None = None,
        rerank_top: int = RERANKED,
    ) -> None:
        """Combine an encoder and an index. The index's HNSW index is used if it was opened.

        Args:
            encoder: The encoder.
            index: The index.
            reranker: Scores the first candidates of each mention again; None for none, whatever the index has stored.
            rerank_top: How many candidates that is.
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
        self.retriever = Retriever(encoder, index, names_per_search=names_per_search)
        self.reranking = None if reranker is None else Reranking(reranker, CandidateTexts(index), rerank_top)
        self.mentions_per_batch = mentions_per_batch
        self._filtered: dict[Filter, FilteredDictionary] = {}
        self._model: str | None = None  # the model path that `load` was given
        self._device: str | None = None  # as given to `load`
        self._warned = False  # of mentions without languages
        self._lock = ForkSafeLock()

    @classmethod
    def load(
        cls,
        index_path: Path | str,
        *,
        model: Path | str | None = None,
        device: str | None = None,
        dtype: DtypeChoice = "float32",
        ann: bool = False,
        rerank: RerankChoice = None,
    ) -> "Linker":
        """Open an index and its model.

        Args:
            index_path: The folder of the index.
            model: Where the model is; by default where it was when the index was built. It must have the same content hash.
            device: Device of the model and of exact searches, as torch names it; by default a CUDA GPU if there is one.
            dtype: Of the model's matrix products for mentions, whichever the index was built with; `auto` for the fastest one here that
                agrees with float32.
            ann: Whether to search the HNSW index where there is no filter. It may miss a name, and confidences are those that were fitted to
                exact answers.
            rerank: What scores candidates again: a re-ranker, its folder, `late`, the address of a service, or `none`; by default what is
                stored in the index. Confidences are those of the stored one.

        Raises:
            ArtifactError: The index is damaged, or its model or re-ranker is missing or another one.
            ConfigError: The index has no HNSW index, usearch is not installed, or `dtype` is not supported here.
        """
        device_found = device_for("float32" if dtype == "auto" else dtype, device)
        index = Index.load(index_path, ann=ann)
        encoder = open_encoder_in(dtype, lambda each: open_encoder(index.model, index_path, model, device_found, each))
        opened = open_reranker(rerank, index, encoder)
        linker = cls(encoder, opened.bound_index, reranker=opened.reranker, rerank_top=opened.top)
        linker._model, linker._device = None if model is None else str(model), device
        return linker

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by reference, to be sent to another process: the paths of the index and its model, never their content.

        Unpickling opens both anew and checks their hashes; ArtifactError if they are no longer the same. A process keeps the linker that it
        unpickled last, so that many tasks with one linker open it once. ConfigError if the index or the model is in memory only.
        """
        model = self._model or self.index.model.path
        if self.index.path is None or model is None or not isinstance(self.encoder, Encoder):
            raise ConfigError(
                "only a linker of a saved index and its model can be pickled; save the index, and open it with Linker.load"
            )
        sizes = self.mentions_per_batch, self.retriever.names_per_search
        reranker = None if self.reranking is None else (pickled_reranker(self.reranking.reranker), self.reranking.top)
        return _reopen, (self.index, model, self._device, self.encoder.dtype, *sizes, reranker)

    def __repr__(self) -> str:
        return f"Linker({self.index!r}, search={'exact' if self.index.hnsw is None else 'hnsw'})"

    @property
    def uses_context(self) -> bool:
        """Whether answers depend on the contexts of mentions."""
        return self.reranking is not None and self.reranking.reranker.uses_context

    @property
    def identity(self) -> dict[str, Any] | None:
        """What answers depend on, for runs that resume: index, dtype and re-ranker; None for a re-ranker that nothing identifies."""
        used = {"index": self.index.content_hash, "dtype": self.encoder.dtype}
        if self.reranking is None:
            return used
        reranker = self.reranking.reranker.content_hash
        return None if reranker is None else used | {"reranker": [reranker, self.reranking.top]}

    @property
    def concept_ids(self) -> frozenset[str]:
        """The ids of all concepts that can be an answer."""
        return frozenset(self.index.concepts["concept_id"].to_pylist())

    @overload
    def link(  # type: ignore[overload-overlap]  # a string is a sequence of strings, too
        self,
        mentions: str,
        top_k: int = 5,
        *,
        languages: str | None = None,
        context: Context = None,
        filter: Filter | Mapping[str, Strings] | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        broader: bool = False,
        clean: bool = False,
        abbreviations: Abbreviations | None = None,
        progress: bool = False,
    ) -> Result: ...
    @overload
    def link(
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        context: Sequence[Context] | None = None,
        filter: Filter | Mapping[str, Strings] | None = None,
        min_confidence: float | None = None,
        min_precision: float | None = None,
        broader: bool = False,
        clean: bool = False,
        abbreviations: Abbreviations | None = None,
        progress: bool = False,
    ) -> Results: ...
    def link(
        self,
        mentions: str | Iterable[str | None],
        top_k: int = 5,
        *,
        languages: str | Sequence[str | None] | None = None,
        context: Context | Sequence[Context] = None,
        filter: Filter | Mapping[str, Strings] | None = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
        broader: bool = False,
        clean: bool = False,
        abbreviations: Abbreviations | None = None,
        progress: bool = False,
    ) -> Result | Results:
        """Link mentions to concepts. Equal mentions are linked once, or once in each context where that can change the answer.

        Args:
            mentions: A list, or a column of pandas, polars or `datasets`; or one string.
            top_k: How many concepts to return for each mention, at most.
            languages: The language of each mention, where it is known; for one string, its language.
            context: The text that each mention was found in, where it is known: a string, or `MentionContext` with the mention's position.
                It is used where the linker re-ranks candidates by it.
            filter: What may be an answer: a `Filter`, or its arguments as a dictionary, such as `{"sources": ["SNOMEDCT_US"], "languages": "en"}`.
            min_confidence: Abstain where the confidence is below this; 0 to 1.
            min_precision: Abstain unless this precision is guaranteed; instead of `min_confidence`.
            broader: Whether to answer, instead of abstaining, with the concept above the close candidates if that is certain enough; its
                `match` is `broader`, and the candidates follow it.
            clean: Whether to take clinical qualifiers (negation, suspicion, laterality …) out of a mention that is no name; the result has them.
            abbreviations: How to write out abbreviations, also those that the context defines; the result has the expansion.
            progress: Whether to show a progress bar on stderr.

        Returns:
            A result for each mention, in their order; for one string its result alone. A mention that is missing, blank, longer than LONGEST_MENTION, no term, or of
            which the model knows no part has no candidates, but a reason.

        Raises:
            ConfigError: `mentions` is a whole table, `top_k` is below 1, there is not a context for each mention, the filter has an unknown
                key, `min_confidence` or `min_precision` is given without a calibration or out of range, or `broader` without either or
                without relations.
            DataError: The filter leaves nothing, or a language is unknown.
        """
        options: dict[str, Any] = {"filter": filter, "min_confidence": min_confidence, "min_precision": min_precision}
        if isinstance(mentions, str):
            language = languages if languages is None or isinstance(languages, str) else languages_of(languages, 1)[0]
            single: Any = None if context is None else context if isinstance(context, list) else [context]
            options |= {"clean": clean, "abbreviations": abbreviations, "progress": progress, "broader": broader}
            return self.link([mentions], top_k, languages=[language], context=single, **options)[0]
        top_k = validate_top_k(top_k)
        texts = validate_mentions(mentions)
        threshold = answer_threshold(self.index.calibration, min_confidence, min_precision)
        if broader:
            choose = BroaderAnswers(self.index, self._apply_filter(Filter.from_dict(filter)), threshold, min_precision)
            options |= {"context": context, "clean": clean, "abbreviations": abbreviations, "progress": progress}
            linked = self.link(texts, max(top_k, FETCHED), languages=languages, **options)
            codes = languages_of(languages, len(texts))
            return Results(choose.complete(*pair, top_k) for pair in zip(linked, codes, strict=True))
        contexts = contexts_of(context, len(texts))  # type: ignore[arg-type]
        if clean or abbreviations is not None:
            kept = self._apply_filter(Filter.from_dict(filter))
            codes, hits = languages_of(languages, len(texts)), partial(self.retriever.exact_hits, kept=kept)
            prepared = prepare_mentions(texts, codes, contexts, hits, clean=clean, abbreviations=abbreviations)
            link: Any = partial(self.link, top_k=top_k, progress=progress, **options)
            return Results(link_prepared(prepared, codes, link))
        if not self.uses_context:
            contexts = [None] * len(texts)
        given: list[AskedMention] = list(zip(texts, languages_of(languages, len(texts)), contexts, strict=True))
        reasons = [rejection_reason(text) for text in texts]
        if threshold is not None:
            self._warn_of_unknown_languages([language for _, language, _ in given])
        unique = list(dict.fromkeys(mention for mention, reason in zip(given, reasons, strict=True) if reason is None))
        kept = self._apply_filter(Filter.from_dict(filter))
        results: dict[AskedMention, Result] = {}
        with tqdm(total=len(unique), desc="link", unit=" mentions", disable=not progress) as bar:
            for start in range(0, len(unique), self.mentions_per_batch):
                batch = unique[start : start + self.mentions_per_batch]
                results.update(zip(batch, self._link(batch, top_k, kept, threshold, min_precision), strict=True))
                bar.update(len(batch))
        return Results(
            results[mention] if reason is None else Result(mention[0], (), reason)
            for mention, reason in zip(given, reasons, strict=True)
        )

    def annotate(
        self,
        texts: Iterable[str | None],
        top_k: int = 1,
        *,
        languages: Sequence[str | None] | None = None,
        spans: Sequence[Iterable[tuple[int, int]]] | None = None,
        fuzzy: bool = False,
        filter: Filter | Mapping[str, Strings] | None = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
        abbreviations: Abbreviations | None = None,
        progress: bool = False,
    ) -> list[AnnotatedText]:
        """Find the names of the index in texts, and link each in its sentence.

        Args:
            texts: A list or column of texts.
            top_k: How many concepts to return for each span, at most.
            languages: The language of each text, where it is known.
            spans: (start, end) of the spans of each text, in code points, to link these instead of the names that are found.
            fuzzy: Whether to find near spellings of names, too: one letter or a plural ending differs. Much slower.
            filter: As for `link`; only names of concepts that it keeps are found.
            min_confidence: As for `link`.
            min_precision: As for `link`.
            abbreviations: As for `link`; what a text defines counts in all of it, and is found even if it is no name.
            progress: Whether to show a progress bar on stderr.

        Returns:
            A text with its spans for each of `texts`; `text[span.start:span.end]` is the mention that was linked.

        Raises:
            ConfigError: As `link`; something is not a text, or there is not a list of spans for each text.
            DataError: As `link`; or a span is not in its text.
        """
        options = {"filter": filter, "min_confidence": min_confidence, "min_precision": min_precision}
        find = partial(self.find_spans, fuzzy=fuzzy, filter=filter)
        written_out = None
        if abbreviations is not None:
            hits = partial(self.retriever.exact_hits, kept=self._apply_filter(Filter.from_dict(filter)))
            written_out = DocumentAbbreviations(abbreviations, hits)
        given: dict[str, Any] = {"languages": languages, "spans": spans, "options": options, "progress": progress}
        return annotate_texts(self, find, texts, top_k, abbreviations=written_out, **given)

    def find_spans(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        *,
        fuzzy: bool = False,
        filter: Filter | Mapping[str, Strings] | None = None,  # noqa: A002
    ) -> list[list[Span]]:
        """Find the spans that `annotate` links.

        Args:
            texts: The texts.
            languages: The language of each, an ISO 639 code or `und`.
            fuzzy: As for `annotate`.
            filter: As for `annotate`.
        """
        kept = self._apply_filter(Filter.from_dict(filter))
        keep = None if kept.rows is None else lambda *mention: bool(self.retriever.exact_hits([mention], kept)[0])
        return (self.near_spellings if fuzzy else self.span_finder).find(texts, languages, keep)

    @cached_property
    def span_finder(self) -> SpanFinder:
        """Finds the names of the index, and its mention names, in texts."""
        names = self.retriever.mention_names
        return SpanFinder(self.index.dictionary, () if names is None else names.rows_by_string)

    @cached_property
    def near_spellings(self) -> NearSpellings:
        """Finds these names and near spellings of them."""
        return NearSpellings(self.span_finder)

    def _apply_filter(self, wanted: Filter) -> FilteredDictionary:
        with self._lock:
            if wanted not in self._filtered:
                if len(self._filtered) > FILTERS_KEPT:
                    self._filtered.clear()
                self._filtered[wanted] = filter_names(self.index.dictionary, self.retriever.mention_names, wanted)
            return self._filtered[wanted]

    def _warn_of_unknown_languages(self, languages: Sequence[str]) -> None:
        """Say once, where an answer must be certain enough, that the calibration knew the languages of its mentions and these have none."""
        unknown, calibration = languages.count(UNKNOWN), self.index.calibration
        if unknown and calibration is not None and calibration.depends_on_languages and not self._warned:
            self._warned = True
            logger.warning(
                "mentions without a language: %d of %d. Confidences of this index differ by language, and a guaranteed precision holds for mentions whose "
                "language is given; give it, as the argument languages, or with --language or --language-column",
                unknown,
                len(languages),
            )

    def _link(
        self,
        batch: list[AskedMention],
        top_k: int,
        kept: FilteredDictionary,
        threshold: float | None,
        min_precision: float | None,
    ) -> list[Result]:
        mentions, languages, _ = (list(column) for column in zip(*batch, strict=True))
        calibration = self.index.calibration
        found = self._candidates(batch, max(top_k, 2) if calibration else top_k, kept)
        if calibration is None:
            return [Result(mention, *answer) for mention, answer in zip(mentions, found, strict=True)]
        scores = np.full((len(found), 2), np.nan)  # a confidence depends on the second score too
        for i, (candidates, _) in enumerate(found):
            scores[i, : len(candidates)] = [candidate.score for candidate in candidates[:2]]
        scores[np.isnan(scores[:, 0]), 0] = 0  # without candidates, so its confidence is not used
        confidences = calibration.confidence(features_of(scores[:, 0], scores[:, 1]), languages).tolist()
        results = []
        for mention, (candidates, no_answer), confidence in zip(mentions, found, confidences, strict=True):
            if no_answer:
                results.append(Result(mention, (), no_answer))
                continue
            reason = None if threshold is None else abstention_reason(confidence, threshold, min_precision)
            if candidates:
                candidates = (replace(candidates[0], confidence=confidence), *candidates[1:top_k])
            results.append(Result(mention, (), reason, candidates) if reason else Result(mention, candidates))
        return results

    def _candidates(
        self, batch: list[AskedMention], top_k: int, kept: FilteredDictionary
    ) -> list[tuple[tuple[Candidate, ...], str | None]]:
        """The best concepts of each mention, those of exact names first unless they are re-ranked, or why there are none."""
        hits = self.retriever.exact_hits([(mention, language) for mention, language, _ in batch], kept)
        reasons = [
            None if any(hit.match != ACCENTS for hit in own) else non_term_reason(mention)
            for (mention, _, _), own in zip(batch, hits, strict=True)
        ]
        asked = [i for i, reason in enumerate(reasons) if reason is None]
        answers: list[tuple[tuple[Candidate, ...], str | None]] = [((), reason) for reason in reasons]
        if not asked:
            return answers
        mentions, hits = [batch[i][0] for i in asked], [hits[i] for i in asked]
        wanted = top_k if self.reranking is None else max(top_k, self.reranking.top)
        found = self.retriever.retrieve(mentions, hits, wanted, kept)
        described = self.retriever.describe(found)
        if self.reranking is not None:
            described = self.reranking.reorder([batch[i] for i in asked], *found, described)
        for i, candidates in zip(asked, described, strict=True):
            answers[i] = candidates[:top_k], None if candidates else UNKNOWN_TEXT
        return answers


def _reopen(
    index: Index,
    model: str,
    device: str | None,
    dtype: Dtype,
    mentions_per_batch: int,
    names_per_search: int,
    reranker: tuple[str, int] | None,
) -> Linker:
    """A linker that was pickled by reference."""
    encoder = _open_encoder_once(index.model, str(index.path), model, device, dtype)
    sizes = {"mentions_per_batch": mentions_per_batch, "names_per_search": names_per_search}
    opened = None if reranker is None else open_reranker(reranker[0], index, encoder).reranker
    linker = Linker(encoder, index, **sizes, reranker=opened, rerank_top=reranker[1] if reranker else RERANKED)
    linker._model, linker._device = model, device
    return linker


@lru_cache(maxsize=1)
def _open_encoder_once(spec: EncoderSpec, index_path: str, model: str, device: str | None, dtype: Dtype) -> Encoder:
    return open_encoder(spec, index_path, model, device_for(dtype, device), dtype)
