"""Heads on an entity memory: tags of tokens, for named entities, and relations of two spans, both to be fine-tuned.

They read the states of the upper layers, which know the entities that the memory added to the mentions it detects. As in KeBioLM (Yuan et al.,
BioNLP 2021, section 4), a tag is predicted from the state of its token. A relation is predicted from the first and last states of its two spans,
where the original puts markers around them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xsap.artifacts import open_artifact, publish
from xsap.encoding.encoder import TOKENS_PER_BATCH
from xsap.encoding.packing import PackedBatch, Tokens, pack
from xsap.errors import ArtifactError
from xsap.linking.index_files import UNREADABLE
from xsap.text_in.memory import EntityMemoryModel, SpanPositions
from xsap.text_in.memory_texts import TokenizedTexts, TokenSpans, tokenize_texts

HEAD_KIND = "memory-head"
_TAGS, _RELATIONS = "tags", "relations"
_HEAD_FILE, _MEMORY_FOLDER = "head.safetensors", "memory"


class TypedSpan(NamedTuple):
    """A span of a sequence, with its type: of characters, or of tokens."""

    start: int
    end: int
    type: str


class EntityScores(NamedTuple):
    """Precision, recall and F1 of entities, each right only with its type and both ends; and how many there are."""

    precision: float
    recall: float
    f1: float
    gold: int
    found: int


class TagSet:
    """Tags in the scheme IOB2 as numbers: O, then B and I of each type.

    Attributes:
        types: The types, sorted.
    """

    def __init__(self, types: Sequence[str]) -> None:
        self.types = sorted(set(types))

    def __len__(self) -> int:
        return 1 + 2 * len(self.types)

    def names(self) -> list[str]:
        """The tag of each number, such as `B-DISO`."""
        return ["O", *(f"{letter}-{each}" for each in self.types for letter in "BI")]

    def encode(self, tokens: Tokens, spans: TokenSpans, types: Sequence[str]) -> NDArray[np.int64]:
        """Tags of tokens; of spans that overlap, the one that starts first counts, of these the longest.

        Args:
            tokens: Windows of T tokens in all.
            spans: Spans of tokens.
            types: The type of each.

        Returns:
            (T,) numbers of tags.
        """
        number_of = {each: number for number, each in enumerate(self.types)}
        tags = np.zeros(len(tokens.ids), np.int64)
        order = np.lexsort((-spans.ends, spans.starts, spans.texts))
        for row in order.tolist():
            first = tokens.offsets[spans.texts[row]]
            start, end = first + spans.starts[row], first + spans.ends[row]
            if not tags[start:end].any():
                tags[start:end] = 2 + 2 * number_of[types[row]]
                tags[start] -= 1
        return tags

    def decode(self, tags: Sequence[int]) -> list[TypedSpan]:
        """The spans of one sequence of tags: one starts at each B, and at an I that follows no tag of its type."""
        spans, start, open_type = [], 0, -1
        for position, tag in enumerate([*tags, 0]):
            kind, begins = (-1, False) if tag == 0 else ((tag - 1) // 2, tag % 2 == 1)
            if open_type >= 0 and (kind != open_type or begins):
                spans.append(TypedSpan(start, position, self.types[open_type]))
                open_type = -1
            if kind >= 0 and open_type < 0:
                start, open_type = position, kind
        return spans


def entity_scores(gold: Sequence[Sequence[TypedSpan]], found: Sequence[Sequence[TypedSpan]]) -> EntityScores:
    """Micro-averaged scores of entities in sequences, as CoNLL-2003 and seqeval compute them.

    Args:
        gold: The entities of each sequence.
        found: Those that were predicted.
    """
    right = sum(len(set(left) & set(other)) for left, other in zip(gold, found, strict=True))
    there, predicted = (sum(len(set(each)) for each in side) for side in (gold, found))
    precision, recall = right / predicted if predicted else 0.0, right / there if there else 0.0
    f1 = 2 * right / (there + predicted) if there + predicted else 0.0
    return EntityScores(precision, recall, f1, there, predicted)


class MemoryTagger(nn.Module):
    """Tags of tokens.

    Attributes:
        memory: The memory, which is fine-tuned, too.
        tags: The tags.
        classifier: (hidden → tags).
    """

    def __init__(self, memory: EntityMemoryModel, types: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.memory, self.tags = memory, TagSet(types)
        self.classifier = _new_linear(memory.norm.weight.shape[0], len(self.tags), seed).to(memory.vectors.device)

    def forward(self, batch: PackedBatch) -> Tensor:
        """(r · s, tags) logits of each position of a packed batch."""
        logits: Tensor = self.classifier(self.memory(batch).states.flatten(0, 1))
        return logits

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], *, tokens_per_batch: int = TOKENS_PER_BATCH) -> list[list[TypedSpan]]:
        """The entities of texts, in characters.

        Args:
            texts: The texts as given.
            tokens_per_batch: Tokens that are computed together.
        """
        memory = self.memory
        tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
        training = self.training
        self.eval()
        out: list[list[TypedSpan]] = [[] for _ in texts]
        rows = np.arange(len(tokenized.tokens))
        cuts = np.flatnonzero(np.diff(tokenized.tokens.offsets[1:] // tokens_per_batch)) + 1
        for part in np.split(rows, cuts) if len(rows) else []:
            batch = pack(tokenized.tokens.take(part)).to(memory.vectors.device)
            tags = self(batch).argmax(-1).cpu().numpy()
            for window, start, length in zip(part.tolist(), batch.starts.tolist(), batch.lengths.tolist(), strict=True):
                inner = tags[start + 1 : start + length - 1].tolist()
                out[int(tokenized.sources[window])] += _in_characters(tokenized, window, self.tags.decode(inner))
        self.train(training)
        return out

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the tagger's folder, with its memory, whole or not at all."""
        _save(self.memory, self.classifier, path, {_TAGS: self.tags.types}, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str, *, device: str | torch.device | None = None) -> "MemoryTagger":
        """Open a folder that `save` wrote, every hash checked. Raises ArtifactError."""
        memory, types = _open(Path(path), _TAGS, device)
        tagger = cls(memory, types)
        _restore(tagger.classifier, Path(path))
        return tagger.eval()


class RelationClassifier(nn.Module):
    """The relation of two spans of a text.

    Attributes:
        memory: The memory, which is fine-tuned, too.
        relations: Their names, sorted; one of them may stand for none.
        classifier: (4 · hidden → relations).
    """

    def __init__(self, memory: EntityMemoryModel, relations: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.memory, self.relations = memory, sorted(set(relations))
        self.classifier = _new_linear(4 * memory.norm.weight.shape[0], len(self.relations), seed)
        self.classifier.to(memory.vectors.device)

    def forward(self, batch: PackedBatch, heads: SpanPositions, tails: SpanPositions) -> Tensor:
        """Logits of the relations of p pairs of spans.

        Args:
            batch: The packed texts.
            heads: The first span of each pair.
            tails: The second one.

        Returns:
            (p, relations).
        """
        states = self.memory(batch).states.flatten(0, 1)
        parts = [states[at] for at in (heads.first, heads.last, tails.first, tails.last)]
        logits: Tensor = self.classifier(torch.cat(parts, -1))
        return logits

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the classifier's folder, with its memory, whole or not at all."""
        _save(self.memory, self.classifier, path, {_RELATIONS: self.relations}, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str, *, device: str | torch.device | None = None) -> "RelationClassifier":
        """Open a folder that `save` wrote, every hash checked. Raises ArtifactError."""
        memory, relations = _open(Path(path), _RELATIONS, device)
        head = cls(memory, relations)
        _restore(head.classifier, Path(path))
        return head.eval()


def _new_linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return layer


def _in_characters(tokenized: TokenizedTexts, window: int, spans: list[TypedSpan]) -> list[TypedSpan]:
    first = int(tokenized.tokens.offsets[window]) + 1
    return [
        TypedSpan(int(tokenized.starts[first + start]), int(tokenized.ends[first + end - 1]), kind)
        for start, end, kind in spans
    ]


def _save(
    memory: EntityMemoryModel, classifier: nn.Linear, path: Path | str, labels: dict[str, list[str]], *, overwrite: bool
) -> None:
    with publish(path, HEAD_KIND, dict(labels), overwrite=overwrite) as folder:
        memory.save(folder / _MEMORY_FOLDER)
        save_file({name: value.contiguous() for name, value in classifier.state_dict().items()}, folder / _HEAD_FILE)


def _open(path: Path, labels: str, device: str | torch.device | None) -> tuple[EntityMemoryModel, list[str]]:
    manifest = open_artifact(path, HEAD_KIND)
    if labels not in manifest:
        raise ArtifactError(f"{path}: expected a head with {labels}, found another one")
    return EntityMemoryModel.load(path / _MEMORY_FOLDER, device=device), list(manifest[labels])


def _restore(classifier: nn.Linear, path: Path) -> None:
    try:
        classifier.load_state_dict(load_file(path / _HEAD_FILE))
    except (*UNREADABLE, RuntimeError):
        raise ArtifactError(
            f"{path}: its files and manifest don't fit together; it is damaged; create it again"
        ) from None
