"""Fine-tuning of heads on an entity memory, in the loop that encoders are trained in: tags of tokens, or relations of spans."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from xsap.encoding.packing import Tokens, pack
from xsap.errors import DataError
from xsap.text_in.memory import locate_spans
from xsap.text_in.memory_heads import MemoryTagger, RelationClassifier, TypedSpan
from xsap.text_in.memory_texts import TokenSpans, find_token_spans, tokenize_texts
from xsap.training.run_folder import make_run_folder
from xsap.training.sampling import Stream, mix, permute
from xsap.training.trainer import Trainer, schedule

_NO_TAG = -100


class TaggedTexts(NamedTuple):
    """n windows of T tokens in all, and (T,) the tag of each, by number."""

    tokens: Tokens
    tags: NDArray[np.int64]


class RelatedSpans(NamedTuple):
    """n texts with a pair of spans each, of which row i is in text i, and (n,) the relation of each pair, by number."""

    tokens: Tokens
    heads: TokenSpans
    tails: TokenSpans
    relations: NDArray[np.int64]


def tagged_texts(tagger: MemoryTagger, texts: Sequence[str], entities: Sequence[Sequence[TypedSpan]]) -> TaggedTexts:
    """Texts with their entities, as a tagger learns them.

    Args:
        tagger: The tagger, which has the types.
        texts: The texts as given.
        entities: Of each text, in characters; one without tokens in one window is left out.
    """
    memory = tagger.memory
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
    rows = [(number, *entity) for number, own in enumerate(entities) for entity in own]
    places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    spans, found = find_token_spans(tokenized, places)
    return TaggedTexts(tokenized.tokens, tagger.tags.encode(tokenized.tokens, spans, [rows[i][3] for i in found]))


def related_spans(
    head: RelationClassifier,
    texts: Sequence[str],
    heads: Sequence[tuple[int, int]],
    tails: Sequence[tuple[int, int]],
    relations: Sequence[str] | None = None,
) -> RelatedSpans:
    """Texts with a pair of spans each, as a relation classifier learns and predicts them; a text with several pairs comes once for each.

    Args:
        head: The classifier, which has the relations.
        texts: The texts as given.
        heads: (start, end) of the first span of each, in characters.
        tails: Of the second one.
        relations: The relation of each pair; None to predict it.

    Raises:
        DataError: A text is longer than the memory's windows, or a span has no tokens.
    """
    memory = head.memory
    tokenized = tokenize_texts(texts, memory.encoder.tokenizer, memory.encoder.policy, memory.config.max_tokens)
    split = np.flatnonzero(np.bincount(tokenized.sources, minlength=len(texts)) != 1)
    if len(split):
        raise DataError(
            f"a text of two related spans must have at most {memory.config.max_tokens} tokens, found a longer one: text "
            f"{split[0]} of {len(texts)}; give the sentences that have both spans"
        )
    sides = []
    for places in (heads, tails):
        numbered = np.array([(number, *place) for number, place in enumerate(places)], np.int64).reshape(-1, 3)
        spans, found = find_token_spans(tokenized, numbered)
        if len(found) < len(texts):
            missing = np.setdiff1d(np.arange(len(texts)), found)[0]
            raise DataError(f"each text must have both spans, found none at {places[missing]} in text {missing}")
        sides.append(spans)
    numbers = np.array([head.relations.index(each) for each in relations or head.relations[:1] * len(texts)], np.int64)
    return RelatedSpans(tokenized.tokens, sides[0], sides[1], numbers)


@dataclass(frozen=True)
class HeadSettings:
    """How a head is fine-tuned.

    Attributes:
        epochs: Epochs over the examples.
        windows: Windows or pairs per step.
        learning_rate: Of the memory.
        head_learning_rate: Of the head.
        warmup_steps: Steps of linear warm-up, after which the rates fall linearly to zero.
        seed: Of order and dropout.
    """

    epochs: int = 3
    windows: int = 16
    learning_rate: float = 5e-5
    head_learning_rate: float = 1e-3
    warmup_steps: int = 0
    seed: int = 0


def fine_tune(
    head: MemoryTagger | RelationClassifier,
    examples: TaggedTexts | RelatedSpans,
    output: Path,
    settings: HeadSettings,
    *,
    progress_bar: bool = False,
) -> int:
    """Train a head and its memory.

    Args:
        head: The head; changed in place.
        examples: Tagged windows for a tagger, pairs of spans for a relation classifier.
        output: Folder for the log.
        settings: How.
        progress_bar: Whether a progress bar is drawn.

    Returns:
        The number of steps.
    """
    accelerator = Accelerator(mixed_precision="no")
    make_run_folder(output, {"memory": "fine-tuning", "settings": settings.__dict__}, resume=False)
    groups: list[list[nn.Parameter]] = [[], []]
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith("classifier.")].append(parameter)
    rates = (settings.learning_rate, settings.head_learning_rate)
    step = _HeadStep(accelerator, examples, settings)
    total = settings.epochs * step.steps_per_epoch
    return Trainer(
        accelerator=accelerator,
        encoder=head,
        optimizer=torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)], fused=True
        ),
        rate=schedule("linear", warmup_steps=settings.warmup_steps, total_steps=total),
        mining=None,
        evaluate=None,
        report=lambda: None,
        output=output,
        identity={},
        seed=settings.seed,
        learning_rate=settings.learning_rate,
        max_grad_norm=1.0,
        total_steps=total,
        max_minutes=None,
        save_steps=0,
        save_total_limit=1,
        eval_steps=0,
        gradients=step.gradients,
        progress_bar=progress_bar,
    ).run(resume=False)


@dataclass(frozen=True)
class _HeadStep:
    """Computes the loss of a step and its gradients."""

    accelerator: Accelerator
    examples: TaggedTexts | RelatedSpans
    settings: HeadSettings

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples.tokens) // self.settings.windows)

    def gradients(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, int]]:
        """Add the gradients of a step to the parameters; return its loss and the number of windows."""
        total, size, seed = len(self.examples.tokens), self.settings.windows, self.settings.seed
        epoch, number = divmod(step, self.steps_per_epoch)
        at = np.arange(number * size, min((number + 1) * size, total))
        rows = permute(at, total, mix(seed, epoch, Stream.WINDOW_ORDER))
        torch.manual_seed(int(mix(seed, Stream.DROPOUT, step)[0]))
        compute = self._tag_loss if isinstance(self.examples, TaggedTexts) else self._relation_loss
        loss = compute(model, rows)
        self.accelerator.backward(loss)
        return loss.detach(), {"windows": len(rows)}

    def _tag_loss(self, model: nn.Module, rows: NDArray[np.int64]) -> Tensor:
        assert isinstance(self.examples, TaggedTexts)
        offsets = self.examples.tokens.offsets
        packed = pack(self.examples.tokens.take(rows))
        labels = np.full(packed.ids.numel(), _NO_TAG, np.int64)
        for row, start, length in zip(rows.tolist(), packed.starts.tolist(), packed.lengths.tolist(), strict=True):
            labels[start + 1 : start + length - 1] = self.examples.tags[offsets[row] + 1 : offsets[row + 1] - 1]
        device = self.accelerator.device
        logits = model(packed.to(device))
        return F.cross_entropy(logits, torch.from_numpy(labels).to(device), ignore_index=_NO_TAG)

    def _relation_loss(self, model: nn.Module, rows: NDArray[np.int64]) -> Tensor:
        assert isinstance(self.examples, RelatedSpans)
        packed, device = pack(self.examples.tokens.take(rows)), self.accelerator.device
        own = [
            locate_spans(packed, spans.take(rows)._replace(texts=np.arange(len(rows)))).to(device)
            for spans in (self.examples.heads, self.examples.tails)
        ]
        logits = model(packed.to(device), *own)
        return F.cross_entropy(logits, torch.from_numpy(self.examples.relations[rows]).to(device))


def predict_relations(head: RelationClassifier, examples: RelatedSpans, *, pairs_per_batch: int = 64) -> Sequence[str]:
    """The most probable relation of each pair.

    Args:
        head: The classifier.
        examples: The pairs; their relations are not used.
        pairs_per_batch: Pairs that are computed together.
    """
    head.eval()
    found: list[str] = []
    device = head.memory.vectors.device
    with torch.inference_mode():
        for start in range(0, len(examples.tokens), pairs_per_batch):
            rows = np.arange(start, min(start + pairs_per_batch, len(examples.tokens)))
            packed = pack(examples.tokens.take(rows))
            own = [
                locate_spans(packed, spans.take(rows)._replace(texts=np.arange(len(rows)))).to(device)
                for spans in (examples.heads, examples.tails)
            ]
            found += [head.relations[number] for number in head(packed.to(device), *own).argmax(-1).tolist()]
    return found
