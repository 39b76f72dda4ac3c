"""Terms and concepts of texts by an entity memory: it finds the spans itself, and links them to its entities."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xsap.encoding.encoder import TOKENS_PER_BATCH
from xsap.encoding.packing import Tokens, pack
from xsap.encoding.threads import threads_for
from xsap.progress import track
from xsap.text_in.memory import NIL, EntityMemoryModel, locate_spans
from xsap.text_in.memory_original import RESERVED, OriginalBatch, original_output
from xsap.text_in.memory_texts import TokenSpans, tokenize_texts


class MemorySpan(NamedTuple):
    """A term that a memory found.

    Attributes:
        start: First character in the text as given.
        end: The character after the last.
        text: text[start:end].
        concept_id: The most probable entity; None for none of the table (NIL).
        preferred_name: Its name.
        probability: That of the entity, among the most similar ones and NIL; not calibrated.
    """

    start: int
    end: int
    text: str
    concept_id: str | None
    preferred_name: str | None
    probability: float


class LinkedSpans(NamedTuple):
    """m spans of n windows of tokens, each with its most probable entities.

    Attributes:
        spans: The spans.
        entities: (m, c) rows of the table, the most probable first; NIL for no entity.
        probabilities: (m, c) float32.
    """

    spans: TokenSpans
    entities: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def annotate_with_memory(
    memory: EntityMemoryModel, texts: Sequence[str], *, progress: bool = False, tokens_per_batch: int = TOKENS_PER_BATCH
) -> list[list[MemorySpan]]:
    """Find and link the terms of texts.

    Args:
        memory: The memory.
        texts: The texts as given.
        progress: Whether to show a progress bar.
        tokens_per_batch: Tokens that are computed together.

    Returns:
        The spans of each text, in order.
    """
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
    linked = link_spans(memory, tokenized.tokens, None, progress=progress, tokens_per_batch=tokens_per_batch)
    names, ids = memory.table.entities["preferred_name"], memory.table.entities["concept_id"]
    out: list[list[MemorySpan]] = [[] for _ in texts]
    places = tokenized.characters(linked.spans).tolist()
    rows, probabilities = linked.entities[:, 0].tolist(), linked.probabilities[:, 0].tolist()
    for (text, start, end), row, probability in zip(places, rows, probabilities, strict=True):
        concept, name = (None, None) if row == NIL else (ids[row].as_py(), names[row].as_py())
        out[text].append(MemorySpan(start, end, texts[text][start:end], concept, name, probability))
    return out


@torch.inference_mode()
def link_spans(
    memory: EntityMemoryModel,
    tokens: Tokens,
    spans: TokenSpans | None,
    *,
    progress: bool = False,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> LinkedSpans:
    """The entities of spans, the memory's own or given ones.

    Args:
        memory: The memory.
        tokens: Token ids of n windows.
        spans: Given spans, sorted by window; None for those that the memory detects.
        progress: Whether to show a progress bar.
        tokens_per_batch: Tokens that are computed together.

    Returns:
        The spans, in the order of the windows, and their entities.
    """
    training = memory.training
    memory.eval()
    found = []
    with track("annotate", "windows", len(tokens), bar=progress) as advance:
        for part in _parts(tokens, tokens_per_batch):
            own = tokens.take(part)
            within = None if spans is None else _of_windows(spans, part)
            with threads_for(len(own.ids)):
                compute = _link_padded if memory.config.as_original else _link_packed
                placed, entities, probabilities = compute(memory, own, within)
            found.append(
                (placed._replace(texts=part[placed.texts]), entities.cpu().numpy(), probabilities.float().cpu().numpy())
            )
            advance(len(part), "")
    memory.train(training)
    if not found:
        none = np.zeros((0, 1), np.int64)
        return LinkedSpans(TokenSpans(*none.T.repeat(3, 0)), none, none.astype(np.float32))
    columns = [np.concatenate(column) for column in zip(*(placed for placed, _, _ in found), strict=True)]
    rows, likely = (np.concatenate([each[k] for each in found]) for k in (1, 2))
    return LinkedSpans(TokenSpans(*columns), rows, likely)


def _link_packed(
    memory: EntityMemoryModel, tokens: Tokens, spans: TokenSpans | None
) -> tuple[TokenSpans, Tensor, Tensor]:
    batch = pack(tokens).to(memory.vectors.device)
    if spans is None:
        output = memory(batch)
        spans = memory.detected_spans(batch, output.detection)
    else:
        output = memory(batch, locate_spans(batch, spans).to(memory.vectors.device))
    probabilities, order = output.weights.sort(1, descending=True)
    return spans, output.candidates.gather(1, order), probabilities


def _link_padded(
    memory: EntityMemoryModel, tokens: Tokens, spans: TokenSpans | None
) -> tuple[TokenSpans, Tensor, Tensor]:
    """As the original does; it links the first terms of a text alone."""
    assert spans is None, "the original code links what it detects"
    width = int(tokens.lengths.max())
    inside = torch.arange(width) < torch.from_numpy(tokens.lengths)[:, None]
    ids = torch.zeros(inside.shape, dtype=torch.int64).masked_scatter(inside, torch.from_numpy(tokens.ids).long())
    output = original_output(
        memory, OriginalBatch(ids.to(memory.vectors.device), inside.long().to(memory.vectors.device))
    )
    count = min(memory.config.candidates, len(memory.vectors))
    rows, probabilities, places = [], [], []
    for text, own in enumerate(output.spans):
        for number, (start, end) in enumerate(own):
            if start and output.linking is not None:  # others stand in place of terms that the text lacks
                logits, entities = output.linking[text, number].topk(count)
                places.append((text, start, end))
                rows.append(entities.masked_fill(_reserved(memory)[entities], NIL))
                probabilities.append(logits.softmax(-1))
    columns = np.array(places, np.int64).reshape(-1, 3).T
    if not places:
        return TokenSpans(*columns), torch.zeros(0, count, dtype=torch.int64), torch.zeros(0, count)
    return TokenSpans(*columns), torch.stack(rows), torch.stack(probabilities)


def _reserved(memory: EntityMemoryModel) -> Tensor:
    names = memory.table.entities["concept_id"].to_pylist()
    return torch.tensor([name in RESERVED for name in names], device=memory.vectors.device)


def _of_windows(spans: TokenSpans, part: NDArray[np.int64]) -> TokenSpans:
    """The spans of consecutive windows, which are counted from the first of them."""
    rows = np.flatnonzero((spans.texts >= part[0]) & (spans.texts <= part[-1]))
    own = spans.take(rows)
    return own._replace(texts=own.texts - part[0])


def _parts(tokens: Tokens, size: int) -> list[NDArray[np.int64]]:
    """Windows in order, in batches of about `size` tokens."""
    rows = np.arange(len(tokens))
    return np.split(rows, np.flatnonzero(np.diff(tokens.offsets[1:] // size)) + 1) if len(rows) else []
