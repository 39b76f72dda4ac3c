"""Answers of an entity memory in the shape of all other answers, so that texts it annotated are written in every format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xsap.linking.results import Candidate, Result, validate_top_k
from xsap.text_in.annotate import AnnotatedText, LinkedSpan, check_spans
from xsap.text_in.memory import NIL, EntityMemoryModel
from xsap.text_in.memory_annotate import LinkedSpans, link_spans
from xsap.text_in.memory_texts import TokenizedTexts, find_token_spans, tokenize_texts

NO_ENTITY = "no concept of the memory"


@dataclass(frozen=True)
class MemoryAnnotator:
    """A memory that annotates texts as a `Linker` does.

    Attributes:
        memory: The memory.
    """

    memory: EntityMemoryModel

    def annotate(
        self,
        texts: Sequence[str],
        top_k: int = 1,
        *,
        languages: Sequence[str | None] | None = None,  # noqa: ARG002
        spans: Sequence[Iterable[tuple[int, int]]] | None = None,
    ) -> list[AnnotatedText]:
        """Find the spans of texts, unless they are given, and link them.

        The score of a candidate is its probability among the most similar entities and NIL, which is not calibrated.

        Args:
            texts: The texts.
            top_k: Concepts for each span, at most; fewer where NIL is more probable than the next one.
            languages: Not used: a memory needs no language.
            spans: (start, end) of the spans of each text, instead of those that the memory finds.

        Raises:
            DataError: A span is not in its text.
        """
        top_k, memory = validate_top_k(top_k), self.memory
        tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
        if spans is None:
            linked = link_spans(memory, tokenized.tokens, None)
            places = tokenized.characters(linked.spans).tolist()
            return self._answers(texts, places, linked, list(range(len(places))), top_k)
        checked = [check_spans(text, own) for text, own in zip(texts, spans, strict=True)]
        wanted = [[number, start, end] for number, own in enumerate(checked) for start, end in own]
        linked, rows = self._link_given(tokenized, wanted)
        return self._answers(texts, wanted, linked, rows, top_k)

    def _link_given(self, tokenized: TokenizedTexts, wanted: list[list[int]]) -> tuple[LinkedSpans, list[int | None]]:
        """The entities of given spans, and which of them belongs to each; None for a span without tokens in one window."""
        found, kept = find_token_spans(tokenized, np.array(wanted, np.int64).reshape(-1, 3))
        order = np.argsort(found.texts, kind="stable")
        row_of = {int(kept[number]): row for row, number in enumerate(order.tolist())}
        return link_spans(self.memory, tokenized.tokens, found.take(order)), [row_of.get(i) for i in range(len(wanted))]

    def _answers(
        self,
        texts: Sequence[str],
        places: list[list[int]],
        linked: LinkedSpans,
        rows: Sequence[int | None],
        top_k: int,
    ) -> list[AnnotatedText]:
        spans: list[list[LinkedSpan]] = [[] for _ in texts]
        for (number, start, end), row in zip(places, rows, strict=True):
            candidates = () if row is None else self._candidates(linked, row, top_k)
            result = Result(texts[number][start:end], candidates, None if candidates else NO_ENTITY)
            spans[number].append(LinkedSpan(start, end, result))
        return [AnnotatedText(text, tuple(own)) for text, own in zip(texts, spans, strict=True)]

    def _candidates(self, linked: LinkedSpans, row: int, top_k: int) -> tuple[Candidate, ...]:
        """The most probable entities up to NIL."""
        entities = self.memory.table.entities
        found: list[Candidate] = []
        for entity, probability in zip(linked.entities[row].tolist(), linked.probabilities[row].tolist(), strict=True):
            if entity == NIL or len(found) == top_k:
                break
            concept, name = (entities[column][entity].as_py() for column in ("concept_id", "preferred_name"))
            found.append(Candidate(concept, name, name, probability))
        return tuple(found)
