"""An entity memory: finding and linking mentions, what the memory adds to the language model, and concepts that it was not trained on.

Spans and concepts are scored as those of a dictionary are (annotation.py), beside dictionary look-up on the same texts. The memory acts on the
layers above it alone, so its effect is not seen in spans and concepts, which the layers below decide, but in the language model: the loss of masked
tokens, with the memory, with the same weights but nothing added, and of a model that was trained without. Differences are paired by text. The softmax
is over the pieces that occur in the texts, for both. For concepts that the memory was not trained on, its entities are those of another index.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.accuracy.annotation import (
    ALL_TEXTS,
    SEED,
    SPAN_RESAMPLES,
    LanguageScores,
    Rate,
    evaluate_annotation,
    gold_texts,
    look_up_linker,
)
from xsap.encoding.packing import Tokens, pack
from xsap.languages import to_name
from xsap.linking.dictionary import NameSource, build_dictionary
from xsap.linking.index import Index
from xsap.page import markdown
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy
from xsap.text_in.memory import EntityMemoryModel
from xsap.text_in.memory_answers import MemoryAnnotator
from xsap.text_in.memory_texts import TokenizedTexts, tokenize_texts
from xsap.text_in.spans import Span, SpanFinder
from xsap.training.memory_losses import mask_tokens

MASKED = 0.15
WINDOWS_PER_BATCH = 16


@dataclass(frozen=True)
class LanguageLoss:
    """Loss of masked tokens, in nats, and how much it is below that of the memory-less comparison, over texts.

    Attributes:
        system: What was measured.
        loss: Mean over masked tokens.
        gain: What the memory lowers it by, against this system, with a 95 % interval; None for the memory itself.
    """

    system: str
    loss: float
    gain: Rate | None


@dataclass(frozen=True)
class MemoryResult:
    """Scores of a memory, and what they were measured on.

    Attributes:
        corpus: Name of the texts.
        entities: Entities of the memory.
        systems: System → language → scores.
        masked: Masked tokens.
        language: Losses of masked tokens.
        swapped: Scores with another index, whose concepts the memory was not trained on; None without one.
        swapped_entities: How many these are.
    """

    corpus: str
    entities: int
    systems: dict[str, dict[str, LanguageScores]]
    masked: int
    language: list[LanguageLoss]
    swapped: dict[str, LanguageScores] | None
    swapped_entities: int


def compare_memory(
    name: str,
    mentions: pa.Table,
    terminology: Terminology,
    memory: EntityMemoryModel,
    *,
    plain: EntityMemoryModel | None = None,
    other: tuple[Terminology, Index] | None = None,
) -> MemoryResult:
    """Measure a memory on annotated texts.

    Args:
        name: Of the corpus.
        mentions: Its mentions, with whole texts as contexts.
        terminology: Whose concepts are gold: those of the memory.
        memory: The memory.
        plain: A memory that was trained without feedback, on the same data.
        other: Concepts that the memory was not trained on, and an index of them.
    """
    dictionary = build_dictionary(NameSource.from_terminology(terminology), None, TextPolicy("lower", "NFKC"))
    gold = gold_texts(mentions, terminology)
    systems = {
        "memory": evaluate_annotation(gold, *_functions(memory)),
        "names, linked by look-up": evaluate_annotation(gold, SpanFinder(dictionary).find, look_up_linker(dictionary)),
    }
    texts = sorted({text for text in mentions["context"].to_pylist() if text is not None})
    masked, language = _language_losses(memory, plain, texts)
    swapped, count = None, 0
    if other is not None:
        terms, index = other
        after = memory.with_index(index)
        swapped, count = evaluate_annotation(gold_texts(mentions, terms), *_functions(after)), len(after.table)
    return MemoryResult(name, len(memory.table), systems, masked, language, swapped, count)


def _functions(memory: EntityMemoryModel) -> tuple:  # type: ignore[type-arg]
    """How a memory finds spans, and how it links them."""
    annotator = MemoryAnnotator(memory)

    def find(texts: Sequence[str], languages: Sequence[str]) -> list[list[Span]]:  # noqa: ARG001
        return [[Span(each.start, each.end) for each in text.spans] for text in annotator.annotate(texts)]

    def link(texts: Sequence[str], languages: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[str | None]]:  # noqa: ARG001
        answers = []
        for text, own in zip(annotator.annotate(texts, 1, spans=spans), spans, strict=True):
            found = {(each.start, each.end): each.result.candidates for each in text.spans}
            answers.append([found[span][0].concept_id if found[span] else None for span in own])
        return answers

    return find, link


def _language_losses(
    memory: EntityMemoryModel, plain: EntityMemoryModel | None, texts: Sequence[str]
) -> tuple[int, list[LanguageLoss]]:
    """The number of masked tokens, and losses with the memory, with nothing added, and without training on it."""
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
    with_memory = masked_losses(memory, tokenized, len(texts), feedback=True)
    systems = {
        "memory": with_memory,
        "memory switched off": masked_losses(memory, tokenized, len(texts), feedback=False),
    }
    if plain is not None:
        systems["trained without memory"] = masked_losses(plain, tokenized, len(texts), feedback=False)
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, len(texts), (SPAN_RESAMPLES, len(texts)))
    losses = []
    for name, own in systems.items():
        difference, count = own[:, 0] - with_memory[:, 0], own[:, 1]
        drawn = difference[draws].sum(1) / np.maximum(count[draws].sum(1), 1)
        gain = Rate(float(difference.sum() / count.sum()), *map(float, np.percentile(drawn, [2.5, 97.5])))
        losses.append(LanguageLoss(name, float(own[:, 0].sum() / count.sum()), None if own is with_memory else gain))
    return int(with_memory[:, 1].sum()), losses


@torch.inference_mode()
def masked_losses(
    memory: EntityMemoryModel, tokenized: TokenizedTexts, texts: int, *, feedback: bool, seed: int = SEED
) -> NDArray[np.float64]:
    """The loss of masked tokens of each text; the same tokens are masked for every memory with this tokenizer.

    Args:
        memory: The memory, which finds the spans itself.
        tokenized: The texts.
        texts: How many they are.
        feedback: Whether entities are added to tokens.
        seed: Of the masks.

    Returns:
        (texts, 2): sum of the losses in nats, and number of masked tokens.
    """
    tokens, special = tokenized.tokens, memory.encoder.tokenizer.all_special_ids
    pieces = np.unique(tokens.ids)
    random = np.random.default_rng(seed).random((3, len(tokens.ids)))
    masking = mask_tokens(tokens, random, MASKED, memory.encoder.tokenizer.mask_token_id, np.setdiff1d(pieces, special))
    embeddings = memory.encoder.transformer.get_input_embeddings().weight[torch.from_numpy(pieces).long()]
    bias = memory.language_head.bias[torch.from_numpy(pieces).long()]
    was, memory.feedback = memory.feedback, feedback
    memory.eval()
    out = np.zeros((texts, 2))
    for start in range(0, len(tokens), WINDOWS_PER_BATCH):
        rows = np.arange(start, min(start + WINDOWS_PER_BATCH, len(tokens)))
        low, high = tokens.offsets[rows[0]], tokens.offsets[rows[-1] + 1]
        masked = masking.masked[low:high]
        batch = pack(Tokens(masking.ids[low:high], tokens.offsets[rows[0] : rows[-1] + 2] - low))
        at = np.repeat(batch.starts.numpy() - (tokens.offsets[rows] - low), batch.lengths.numpy()) + np.arange(
            high - low
        )
        states = memory(batch.to(memory.vectors.device)).states.flatten(0, 1)[torch.from_numpy(at[masked])]
        head = memory.language_head
        logits = F.linear(head.norm(F.gelu(head.dense(states))), embeddings, bias)
        right = torch.from_numpy(np.searchsorted(pieces, tokens.ids[low:high][masked]))
        losses = F.cross_entropy(logits, right.to(logits.device), reduction="none").cpu().numpy()
        owner = np.repeat(tokenized.sources[rows], batch.lengths.numpy())[masked]
        np.add.at(out[:, 0], owner, losses)
        np.add.at(out[:, 1], owner, 1)
    memory.feedback = was
    return out


def memory_to_text(result: MemoryResult) -> str:
    """Tables of spans and concepts, of the language model, and of concepts that were not trained on."""
    lines = [f"{result.corpus}; entities of the memory: {result.entities:,}", ""]
    header = ["system", "texts", "gold spans", "precision", "recall", "F1", "linking on gold spans", "end to end F1"]
    systems = dict(result.systems)
    if result.swapped is not None:
        systems[f"memory with {result.swapped_entities:,} other entities"] = result.swapped
    rows = [row for name, scores in systems.items() for row in _rows(name, scores)]
    lines += [*markdown([header, *rows]), "", f"Masked tokens: {result.masked:,}", ""]
    table = [["language model", "loss (nats)", "gain of the memory"]]
    for each in result.language:
        gain = each.gain
        shown = "" if gain is None else f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]{_verdict(gain)}"
        table.append([each.system, f"{each.loss:.4f}", shown])
    return "\n".join(
        [*lines, *markdown(table), "", "Percent with 95 % intervals, bootstrapped over texts; exact spans."]
    )


def _rows(name: str, scores: dict[str, LanguageScores]) -> list[list[str]]:
    """A row for all texts; and one for each language, if there are several."""
    languages = [language for language in scores if language != ALL_TEXTS]
    by_language = [_row(f"{name}: {to_name(language)}", scores[language]) for language in languages]
    return [_row(name, scores[ALL_TEXTS]), *(by_language if len(languages) > 1 else [])]


def _row(name: str, scores: LanguageScores) -> list[str]:
    counts = (f"{scores.texts:,}", f"{scores.gold:,}")
    rates = (scores.precision, scores.recall, scores.f1, scores.linking, scores.end_to_end)
    return [name, *counts, *map(str, rates)]


def _verdict(gain: Rate) -> str:
    return "" if gain.low > 0 else ", a loss" if gain.high < 0 else ", no gain"
