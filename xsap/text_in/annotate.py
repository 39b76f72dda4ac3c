"""Annotate texts: spans that may be mentions, each linked in its sentence.

Spans are found in the names of the index (spans.py), or given. They are linked as any other mentions are, so filters, confidence and abstention hold;
with a filter, only names of concepts that it keeps are found.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tqdm import tqdm

from xsap.errors import ConfigError, DataError
from xsap.linking.arguments import is_missing, languages_of
from xsap.linking.mention_context import MentionContext
from xsap.linking.results import Result
from xsap.terms.abbreviations import Expansion, find_definitions
from xsap.text_in.document_abbreviations import DocumentAbbreviations
from xsap.text_in.spans import Span
from xsap.text_in.words import sentence_at

TEXTS_PER_BATCH = 256


class LinksInContext(Protocol):
    """What is needed of a linker."""

    @property
    def uses_context(self) -> bool: ...  # noqa: D102

    def link(  # noqa: D102
        self,
        mentions: Iterable[str | None],
        top_k: int = 5,
        *,
        languages: Sequence[str | None] | None = None,
        context: Any = None,
        filter: Any = None,  # noqa: A002
        min_confidence: float | None = None,
        min_precision: float | None = None,
    ) -> Sequence[Result]: ...


@dataclass(frozen=True, slots=True)
class LinkedSpan:
    """A span of a text and what it was linked to.

    Attributes:
        start: Where the span begins in the text, in code points from 0.
        end: Where it ends: `text[start:end]` is the mention.
        result: The mention and its candidates, or why it has none.
    """

    start: int
    end: int
    result: Result

    def to_dict(self) -> dict[str, Any]:
        """The offsets and the result as a dictionary."""
        return {"start": self.start, "end": self.end, **self.result.to_dict()}


@dataclass(frozen=True, slots=True)
class AnnotatedText:
    """A text and its spans, by their offsets.

    Attributes:
        text: The text as it was given.
        spans: Its spans.
    """

    text: str
    spans: tuple[LinkedSpan, ...]

    def to_dict(self) -> dict[str, Any]:
        """The text and its spans as a dictionary."""
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans]}


FindSpans = Callable[[Sequence[str], Sequence[str]], Sequence[Sequence[Span]]]
"""Texts and their languages → the spans of each."""


def annotate_texts(
    linker: LinksInContext,
    find: FindSpans,
    texts: Iterable[str | None],
    top_k: int,
    *,
    languages: Sequence[str | None] | None = None,
    spans: Sequence[Iterable[tuple[int, int]]] | None = None,
    options: Mapping[str, Any] | None = None,
    abbreviations: DocumentAbbreviations | None = None,
    texts_per_batch: int = TEXTS_PER_BATCH,
    progress: bool = False,
) -> list[AnnotatedText]:
    """Find the spans of texts, unless they are given, and link them.

    Args:
        linker: What links.
        find: Finds spans.
        texts: The texts.
        top_k: Concepts for each span, at most.
        languages: The language of each text, where it is known.
        spans: (start, end) of the spans of each text, instead of those that `find` finds.
        options: Further arguments of `link`: filter, min_confidence, min_precision.
        abbreviations: Writes out abbreviations; None to leave them.
        texts_per_batch: Texts whose spans are linked together.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ConfigError: Something that is not a text, or there is not a list of spans for each text.
        DataError: A language is unknown, or a span is not in its text.
    """
    if isinstance(texts, str):
        raise ConfigError(f"annotate takes a list of texts, found the single string '{texts[:40]}'; put it into a list")
    checked = [_check_text(text) for text in texts]
    codes = languages_of(languages, len(checked))
    if spans is not None and len(spans) != len(checked):
        raise ConfigError(f"expected a list of spans for each text, found {len(spans):,} for {len(checked):,}")
    annotated: list[AnnotatedText] = []
    with tqdm(total=len(checked), desc="annotate", unit=" texts", disable=not progress) as bar:
        for start in range(0, len(checked), texts_per_batch):
            part = slice(start, start + texts_per_batch)
            own = (
                find(checked[part], codes[part])
                if spans is None
                else [check_spans(text, each) for text, each in zip(checked[part], spans[part], strict=True)]
            )
            expansions: list[list[Expansion | None]] = [[None] * len(each) for each in own]
            if abbreviations is not None:
                defined = [find_definitions(text) for text in checked[part]]
                if spans is None:
                    own = abbreviations.with_short_forms(checked[part], codes[part], defined, own)
                expansions = abbreviations.expansions(checked[part], codes[part], defined, own)
            annotated += _link_spans(linker, checked[part], codes[part], own, expansions, top_k, options or {})
            bar.update(len(own))
    return annotated


def _link_spans(
    linker: LinksInContext,
    texts: Sequence[str],
    languages: Sequence[str],
    spans: Sequence[Sequence[Span]],
    expansions: Sequence[Sequence[Expansion | None]],
    top_k: int,
    options: Mapping[str, Any],
) -> list[AnnotatedText]:
    mentions: list[str] = []
    of_mentions: list[str] = []
    contexts: list[MentionContext] = []
    for text, language, own, written_out in zip(texts, languages, spans, expansions, strict=True):
        for (start, end), expansion in zip(own, written_out, strict=True):
            mentions.append(text[start:end] if expansion is None else expansion.text)
            of_mentions.append(language)
            if linker.uses_context:
                first, last = sentence_at(text, start, end)
                contexts.append(MentionContext(text[first:last], start - first, end - first))
    given = {**options, "context": contexts} if linker.uses_context else options
    results = iter(linker.link(mentions, top_k, languages=of_mentions, **given) if mentions else ())
    annotated = []
    for text, own, written_out in zip(texts, spans, expansions, strict=True):
        linked = []
        for (start, end), expansion in zip(own, written_out, strict=True):
            result = next(results)
            if expansion is not None:
                result = replace(result, mention=text[start:end], expansion=expansion)
            linked.append(LinkedSpan(start, end, result))
        annotated.append(AnnotatedText(text, tuple(linked)))
    return annotated


def check_spans(text: str, spans: Iterable[tuple[int, int]]) -> list[Span]:
    """Given spans in the order of their offsets. Raises DataError for one that is not in the text, or is empty."""
    checked = sorted({Span(int(start), int(end)) for start, end in spans})
    for start, end in checked:
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"expected spans inside a text of {len(text):,} characters, found {start}–{end}. "
                "Offsets are in characters (code points) from 0, the end exclusive"
            )
    return checked


def _check_text(text: object) -> str:
    if text is None or is_missing(text):
        return ""
    if not isinstance(text, str):
        raise ConfigError(f"a text must be a string, found {text!r:.40} ({type(text).__name__})")
    return text
