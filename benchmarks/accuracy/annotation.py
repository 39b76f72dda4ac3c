"""Finding mentions in texts and linking them: exact spans, linking on gold spans, and both together, by language.

The texts are those of a corpus with annotated mentions. Detection compares spans by their offsets: a gold mention counts once, whatever number of
concepts it has, and mentions in separate pieces count as gold that no span can equal. Linking asks for the concept of each gold span. End to end, a
span and its first concept must both be right. Only mentions whose concept the terminology has are gold; texts without any are left out, since what is
found in them is neither right nor wrong. A span that equals a mention whose concept the terminology does not have counts as found, not as an error of
detection, and is left out of the end-to-end scores, too.

Precision is low by construction where annotators marked some semantic groups only, or a sample of what a dictionary has. Intervals are bootstrapped
over texts, the unit that is drawn.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.accuracy.dictionary import restrict
from xsap.languages import UNKNOWN, to_name
from xsap.linking.dictionary import Dictionary, NameSource, build_dictionary
from xsap.linking.linker import Linker
from xsap.page import markdown, percent
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy
from xsap.text_in.annotate import FindSpans
from xsap.text_in.spans import Span, SpanFinder
from xsap.text_in.spellings import NearSpellings

SPAN_RESAMPLES, SEED = 1_000, 0
ALL_TEXTS = "all"

LinkSpans = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[Span]]], list[list[str | None]]]
"""Texts, languages and spans of each → the concept id of each span, None where it has none."""


@dataclass(frozen=True, slots=True)
class GoldText:
    """A text with its gold.

    Attributes:
        text: The text.
        language: Its language.
        spans: The concepts of each mention that the terminology has, by its offsets.
        other: Mentions of other concepts.
        unlocated: Mentions of the terminology's concepts that have no offsets.
    """

    text: str
    language: str
    spans: dict[Span, frozenset[str]]
    other: frozenset[Span]
    unlocated: int


@dataclass(frozen=True, slots=True)
class Rate:
    """A score with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{percent(self.value)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True, slots=True)
class LanguageScores:
    """Scores of one language: texts, gold spans, spans found, and precision, recall, F1 of detection, accuracy on gold spans, F1 end to end."""

    texts: int
    gold: int
    found: int
    precision: Rate
    recall: Rate
    f1: Rate
    linking: Rate
    end_to_end: Rate


def gold_texts(mentions: pa.Table, terminology: Terminology) -> list[GoldText]:
    """The texts of a corpus that have a mention of a concept of the terminology.

    Args:
        mentions: terms.mentions' SCHEMA with contexts: the text of each document.
        terminology: Gold concepts are its own, or those that it cross-references.
    """
    numbered = mentions.append_column("row", pa.array(range(mentions.num_rows)))
    kept = {row["row"]: row for row in restrict(numbered, terminology)[0].to_pylist()}
    texts: dict[tuple[str, str], list[tuple[Span | None, frozenset[str]]]] = defaultdict(list)
    for number, row in enumerate(numbered.to_pylist()):
        if row["context"] is not None:
            span = None if row["start"] is None else Span(row["start"], row["end"])
            ids = frozenset(kept[number]["concept_ids"]) if number in kept else frozenset()
            texts[row["context"], row["language"]].append((span, ids))
    gold = []
    for (text, language), rows in texts.items():
        spans: dict[Span, frozenset[str]] = {}
        for span, ids in rows:
            if span is not None and ids:
                spans[span] = spans.get(span, frozenset()) | ids
        other = frozenset(span for span, ids in rows if span is not None and not ids and span not in spans)
        unlocated = sum(span is None and bool(ids) for span, ids in rows)
        if spans:
            gold.append(GoldText(text, language, spans, other, unlocated))
    return gold


def evaluate_annotation(gold: Sequence[GoldText], find: FindSpans, link: LinkSpans) -> dict[str, LanguageScores]:
    """Scores by language and of all texts.

    Args:
        gold: The texts.
        find: Finds spans.
        link: Links spans.
    """
    texts, languages = [each.text for each in gold], [each.language for each in gold]
    found = find(texts, languages)
    own = [list(each.spans) for each in gold]
    of_found, of_gold = link(texts, languages, found), link(texts, languages, own)
    counts = np.zeros(
        (len(gold), 6), np.int64
    )  # spans found, right spans, right concepts, gold spans, gold linked right, all gold
    for row, each in enumerate(gold):
        judged = [
            (span, concept) for span, concept in zip(found[row], of_found[row], strict=True) if span not in each.other
        ]
        right = [(span, concept) for span, concept in judged if span in each.spans]
        counts[row] = (
            len(judged),
            len(right),
            sum(concept in each.spans[span] for span, concept in right),
            len(each.spans),
            sum(concept in each.spans[span] for span, concept in zip(own[row], of_gold[row], strict=True)),
            len(each.spans) + each.unlocated,
        )
    groups = {
        language: [at for at, each in enumerate(languages) if each == language] for language in sorted(set(languages))
    }
    return {name: _scores(counts[rows]) for name, rows in ({ALL_TEXTS: range(len(gold))} | groups).items()}


def _scores(counts: NDArray[np.int64]) -> LanguageScores:
    rng = np.random.default_rng(SEED)
    draws = [counts.sum(0), *(counts[rng.integers(0, len(counts), len(counts))].sum(0) for _ in range(SPAN_RESAMPLES))]
    found, right, both, gold, linked, all_gold = (column.astype(float) for column in np.array(draws).T)

    def rate(part: NDArray[np.float64], whole: NDArray[np.float64]) -> Rate:
        values = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
        low, high = np.percentile(values[1:], [2.5, 97.5])
        return Rate(float(values[0]), float(low), float(high))

    total = counts.sum(0).tolist()
    return LanguageScores(
        len(counts), total[5], total[0], rate(right, found), rate(right, all_gold), rate(2 * right, found + all_gold),
        rate(linked, gold), rate(2 * both, found + all_gold),
    )  # fmt: skip


def look_up_linker(dictionary: Dictionary) -> LinkSpans:
    """Links a span to the first concept that it names exactly."""
    ids = dictionary.concepts["concept_id"].to_pylist()

    def concept_of(mention: str, language: str) -> str | None:
        hits = dictionary.keys.find(mention, language, dictionary.names, dictionary.concepts)
        return ids[hits[0].concept] if hits else None

    def link(texts: Sequence[str], languages: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str | None]]:
        return [
            [concept_of(text[start:end], language) for start, end in own]
            for text, language, own in zip(texts, languages, spans, strict=True)
        ]

    return link


def model_linker(linker: Linker) -> LinkSpans:
    """Links spans as `Linker.annotate` does."""

    def link(texts: Sequence[str], languages: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str | None]]:
        known = [None if language == UNKNOWN else language for language in languages]
        annotated = linker.annotate(texts, 1, languages=known, spans=spans)
        answers: list[list[str | None]] = []
        for text, own in zip(annotated, spans, strict=True):
            by_place = {(each.start, each.end): each.result.candidates for each in text.spans}
            answers.append([by_place[span][0].concept_id if by_place[span] else None for span in own])
        return answers

    return link


@dataclass(frozen=True)
class AnnotationResult:
    """Scores of one or several ways to find and link spans, and what they were measured on."""

    corpus: str
    dictionary: dict[str, int | str | None]
    systems: dict[str, dict[str, LanguageScores]]


def terminology_of_mentions(mentions: pa.Table) -> Terminology:
    """Annotated mentions as the names of their concepts."""
    rows = mentions.select(["mention", "language", "concept_ids"]).to_pylist()
    pairs = dict.fromkeys((concept, row["language"], row["mention"]) for row in rows for concept in row["concept_ids"])
    blank: dict[str, str | None] = dict.fromkeys(NAMES_SCHEMA.names)
    names = [
        blank | {"concept_id": concept, "language": language, "name": name, "kind": "synonym", "source": "mentions"}
        for concept, language, name in pairs
    ]
    return Terminology.build(pa.Table.from_pylist(names, NAMES_SCHEMA))[0]


def compare_annotation(
    name: str, mentions: pa.Table, terminology: Terminology, *, linker: Linker | None = None, fuzzy: bool = False
) -> AnnotationResult:
    """Scores of dictionary look-up, with near spellings if wanted, and of an index's linker.

    Args:
        name: Of the corpus.
        mentions: Its mentions with contexts.
        terminology: Whose names are found, and whose concepts are gold.
        linker: A linker of an index of this terminology; without one spans are linked by look-up alone.
        fuzzy: Whether to measure near spellings, too.
    """
    source = NameSource.from_terminology(terminology)
    dictionary = build_dictionary(source, None, TextPolicy("lower", "NFKC"))
    gold = gold_texts(mentions, terminology)
    finder = SpanFinder(dictionary)
    finds: dict[str, FindSpans] = {"names": finder.find}
    if fuzzy:
        finds["names and near spellings"] = NearSpellings(finder).find
    links = {"look-up": look_up_linker(dictionary)} | ({} if linker is None else {"model": model_linker(linker)})
    systems = {
        f"{found}, linked by {linked}": evaluate_annotation(gold, find, link)
        for found, find in finds.items()
        for linked, link in links.items()
    }
    described = {
        "names": dictionary.names.num_rows,
        "concepts": dictionary.concepts.num_rows,
        "hash": terminology.content_hash,
    }
    return AnnotationResult(name, described, systems)


def annotation_to_text(result: AnnotationResult) -> str:
    """A table for each system."""
    header = [
        "language",
        "texts",
        "gold spans",
        "found",
        "precision",
        "recall",
        "F1",
        "linking on gold spans",
        "end to end F1",
    ]
    lines = [f"{result.corpus}; names: {result.dictionary['names']:,}, concepts: {result.dictionary['concepts']:,}"]
    for system, scores in result.systems.items():
        rows = [
            [
                language if language == ALL_TEXTS else f"{language} {to_name(language)}",
                *(f"{count:,}" for count in (each.texts, each.gold, each.found)),
                *map(str, (each.precision, each.recall, each.f1, each.linking, each.end_to_end)),
            ]
            for language, each in scores.items()
        ]
        lines += ["", system, "", *markdown([header, *rows])]
    return "\n".join([*lines, "", "Percent with 95 % intervals, bootstrapped over texts; exact spans."])
