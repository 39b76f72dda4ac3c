"""A training run of an entity memory: mentions in texts → windows → three losses → update, in the loop that encoders are trained in.

The windows of a step, its masks and its dropout are pure functions of the seed and the step, so an interrupted run that is resumed has the same
weights, bitwise identical.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from xsap.artifacts import check_can_write
from xsap.encoding.encoder import Encoder
from xsap.errors import ConfigError
from xsap.linking.encoder_spec import open_encoder
from xsap.linking.index import Index
from xsap.text_in.memory import MEMORY_KIND, NIL, EntityMemoryModel, MemoryConfig
from xsap.text_in.memory_table import EntityTable
from xsap.text_in.memory_texts import NO_LABEL
from xsap.training.embedding_table import TrimmedEmbedding, trim, whole_table
from xsap.training.frozen_layers import freeze
from xsap.training.memory_corpus import MemoryCorpus, build_corpus, read_marked_texts
from xsap.training.memory_losses import LossWeights, Masking, MemoryBatch, MemoryLosses, make_memory_batch, mask_tokens
from xsap.training.memory_settings import MemorySettings
from xsap.training.processes import choose_mixed_precision, start_accelerator
from xsap.training.run_folder import check_run_folder, make_run_folder
from xsap.training.sampling import Stream, mix, permute
from xsap.training.trainer import Trainer, schedule

# settings that may differ when a run is resumed; inputs must have the same content, not the same path
_NOT_IN_IDENTITY = {
    "output",
    "overwrite",
    "resume",
    "max_minutes",
    "tracker",
    "checkpoint",
    "base",
    "index",
    "mentions",
}

logger = logging.getLogger(__name__)


def train_memory(settings: MemorySettings, *, progress_bar: bool = False) -> Path:
    """Train an entity memory.

    Args:
        settings: All settings of the run.
        progress_bar: Whether progress bars are drawn; otherwise a line is logged once a minute.

    Returns:
        The folder of the memory.

    Raises:
        XsapError: A setting or an input is not usable; raised before anything is computed, wherever that can be known.
    """
    resume = settings.resume == "auto"
    if settings.mixed_precision == "auto":
        settings = settings.model_copy(update={"mixed_precision": choose_mixed_precision()})
    check_run_folder(settings.output, resume=resume, overwrite=settings.overwrite)
    check_can_write(settings.output / "memory", overwrite=True, kind=MEMORY_KIND)
    accelerator = start_accelerator(settings.mixed_precision, settings.tracker, settings.output)
    index, mentions = Index.load(settings.index), read_marked_texts(settings.mentions)
    memory = _new_memory(settings, index)
    corpus = build_corpus(mentions, memory.encoder, memory.table, settings.memory.max_tokens)
    if accelerator.is_main_process:
        logger.info("%s: %s", settings.mentions, corpus.summary())
        make_run_folder(settings.output, settings.model_dump(mode="json"), resume=resume)
    accelerator.wait_for_everyone()
    if settings.tracker:
        accelerator.init_trackers("xsap")
    base_hash, optim = memory.encoder.content_hash, settings.optim
    vocabulary = TrimmedVocabulary.trim(memory, corpus)
    memory.to(accelerator.device)
    weights = LossWeights(settings.loss.language, settings.loss.detection, settings.loss.linking)
    step = MemoryStep(
        accelerator,
        vocabulary.renumber(corpus),
        settings.batch.windows,
        settings.seed,
        settings.loss.masked,
        weights,
        vocabulary,
    )
    total = settings.epochs * step.steps_per_epoch if settings.max_steps is None else settings.max_steps
    rate = schedule(optim.schedule, warmup_steps=optim.warmup_steps, total_steps=total)
    inputs = {"base": base_hash, "index": index.content_hash, "data": corpus.fingerprint, "steps": total}
    trainer = _trainer(settings, memory, step, rate, total, inputs, progress_bar=progress_bar)
    steps = trainer.run(resume=resume)
    if accelerator.is_main_process:
        decay = optim.weight_decay if optim.frozen_layers is None else 0.0
        factors = (1 - optim.learning_rate * rate(done) * decay for done in range(steps))
        vocabulary.restore(memory, math.prod(factors))
        metadata = {"steps": steps, "mentions": corpus.counts | {"used": len(corpus.rows)}}
        memory.save(settings.output / "memory", overwrite=True, metadata=metadata)
    accelerator.end_training()
    return settings.output / "memory"


def _trainer(
    settings: MemorySettings,
    memory: EntityMemoryModel,
    step: "MemoryStep",
    rate: Callable[[int], float],
    total_steps: int,
    inputs: dict[str, str | int | None],
    *,
    progress_bar: bool,
) -> Trainer:
    """The trainer of these parts, with what it takes from the settings. inputs: what a resumed run must have in common beside settings."""
    optim, accelerator = settings.optim, step.accelerator
    same = settings.model_dump(mode="json", exclude=_NOT_IN_IDENTITY) | {"processes": accelerator.num_processes}
    return Trainer(
        accelerator=accelerator,
        encoder=MemoryLosses(memory, settings.loss.softmax, step.weights),
        optimizer=memory_optimizer(memory, optim.learning_rate, settings.head_learning_rate, optim.weight_decay),
        rate=rate,
        mining=None,
        evaluate=None,
        report=lambda: None,
        output=settings.output,
        identity=same | inputs,
        seed=settings.seed,
        learning_rate=optim.learning_rate,
        max_grad_norm=optim.max_grad_norm,
        total_steps=total_steps,
        max_minutes=settings.max_minutes,
        save_steps=settings.checkpoint.save_steps,
        save_total_limit=settings.checkpoint.save_total_limit,
        eval_steps=0,
        gradients=step.gradients,
        progress_bar=progress_bar,
    )


def _new_memory(settings: MemorySettings, index: Index) -> EntityMemoryModel:
    """An untrained memory of the index's concepts, on the base model."""
    if settings.base is None:
        encoder = open_encoder(index.model, settings.index, None, "cpu", "float32")
    else:
        encoder = Encoder.from_pretrained(settings.base, pooling=settings.pooling, device="cpu", override=True)
    if settings.optim.frozen_layers is not None:
        freeze(encoder, settings.optim.frozen_layers)
    sizes = settings.memory
    config = MemoryConfig(sizes.entity_size, sizes.context_layers, sizes.candidates, sizes.max_tokens)
    longest = encoder.transformer.config.max_position_embeddings - 2
    if sizes.max_tokens > longest:
        raise ConfigError(
            f"memory.max_tokens must be at most {longest}, by the positions of the base model; found {sizes.max_tokens}"
        )
    memory = EntityMemoryModel(encoder, EntityTable.from_index(index, sizes.entity_size), config, seed=settings.seed)
    memory.feedback = sizes.feedback
    return memory


def memory_optimizer(
    memory: EntityMemoryModel, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW with a learning rate for the encoder, and another for the memory's own weights.

    Args:
        memory: The memory.
        learning_rate: Of the encoder.
        head_learning_rate: Of all other weights.
        weight_decay: Of all weights.
    """
    groups: list[list[nn.Parameter]] = [[], []]
    for name, parameter in memory.named_parameters():
        if parameter.requires_grad:
            groups[not name.startswith("encoder.")].append(parameter)
    rates = (learning_rate, head_learning_rate)
    return torch.optim.AdamW(
        [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=weight_decay,
        fused=True,
    )


@dataclass
class TrimmedVocabulary:
    """The token ids in use, with which the embeddings and the head of the language model are trained.

    Attributes:
        table: The embeddings.
        bias: (pieces,) of the head before training.
        mask_id: Id of the mask, counted among the kept ones.
        others: Ids that can take a token's place, counted likewise.
    """

    table: TrimmedEmbedding
    bias: Tensor
    mask_id: int
    others: NDArray[np.int32]

    @classmethod
    def trim(cls, memory: EntityMemoryModel, corpus: MemoryCorpus) -> "TrimmedVocabulary":
        """Leave a memory the token ids of a corpus alone; `restore` undoes it. Raises ConfigError for a tokenizer without a mask."""
        tokenizer, head = memory.encoder.tokenizer, memory.language_head
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "an entity memory needs a tokenizer with a mask token, found one without; choose another base model"
            )
        special = tokenizer.all_special_ids
        table = trim(memory.encoder.transformer, corpus.texts.tokens, special)
        bias = head.bias.detach().clone()
        head.bias = nn.Parameter(bias[torch.from_numpy(table.rows)].clone())
        plain = np.flatnonzero(~np.isin(table.rows, special)).astype(np.int32)
        return cls(table, bias, int(np.searchsorted(table.rows, tokenizer.mask_token_id)), plain)

    def renumber(self, corpus: MemoryCorpus) -> MemoryCorpus:
        """The corpus with ids that count the kept ones."""
        return replace(corpus, texts=replace(corpus.texts, tokens=self.table.renumber(corpus.texts.tokens)))

    def restore(self, memory: EntityMemoryModel, decay: float) -> None:
        """Give a memory its whole vocabulary back; rows that were not in training are multiplied by `decay`."""
        bias = self.bias.clone()
        bias[torch.from_numpy(self.table.rows)] = memory.language_head.bias.detach().cpu()
        memory.language_head.bias = nn.Parameter(bias.to(memory.vectors.device))
        with whole_table(memory.encoder.transformer, self.table, decay):
            whole = memory.encoder.transformer.get_input_embeddings().weight
        embeddings = memory.encoder.transformer.get_input_embeddings()
        embeddings.weight, embeddings.num_embeddings = whole, len(whole)
        memory.encoder.transformer.config.vocab_size = len(whole)


@dataclass
class MemoryStep:
    """Computes the losses of a step's windows and their gradients.

    Attributes:
        accelerator: Accelerate's view of devices and processes.
        corpus: The windows.
        windows: Windows per step.
        seed: Of order, masks and dropout.
        masked: Fraction of tokens to mask.
        weights: Of the losses.
        vocabulary: Token ids in use.
    """

    accelerator: Accelerator
    corpus: MemoryCorpus
    windows: int
    seed: int
    masked: float
    weights: LossWeights
    vocabulary: TrimmedVocabulary

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each window comes once."""
        return -(-len(self.corpus.texts.tokens) // self.windows)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The windows of a step, counted from 0 over all epochs; the last step of an epoch may have fewer."""
        total = len(self.corpus.texts.tokens)
        epoch, number = divmod(step, self.steps_per_epoch)
        at = np.arange(number * self.windows, min((number + 1) * self.windows, total))
        return permute(at, total, mix(self.seed, epoch, Stream.WINDOW_ORDER))

    def gradients(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, Any]]:
        """Add the gradients of a step to the parameters.

        Args:
            model: `MemoryLosses` as Accelerate prepared it.
            step: Number of the step.

        Returns:
            The sum of the losses, and each of them with the number of windows, tokens and spans.
        """
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        rows = self.rows(step)
        masks = {row: self._mask(row, step) for row in rows.tolist()}
        spans_of_step = self._spans_of(rows)
        entities = self.corpus.entities[spans_of_step]
        tokens = self.corpus.texts.tokens
        totals = np.array(
            [
                sum(int(masked.sum()) for _, masked in masks.values()),
                sum(self._labeled(row) for row in rows.tolist()),
                int((entities >= NIL).sum()),
            ]
        )
        own = rows[rank::processes]
        is_empty = not len(own)  # it computes some window, because the other processes wait for its gradient
        own = rows[:1] if is_empty else own
        batch = self._batch(own, masks, np.unique(entities[entities >= NIL]), totals)
        torch.manual_seed(int(mix(self.seed, Stream.DROPOUT, step, rank)[0]))
        losses = model(batch.to(self.accelerator.device)).float() * (0.0 if is_empty else 1.0)
        weighted = losses * losses.new_tensor(self.weights)
        self.accelerator.backward(processes * weighted.sum())
        found = losses.detach()
        if processes > 1:
            found = self.accelerator.reduce(found, "sum")
        parts = dict(zip(self.weights._fields, found.tolist(), strict=True))
        counts = {"windows": len(rows), "tokens": tokens.count(rows), "spans": len(spans_of_step)}
        return (found * found.new_tensor(self.weights)).sum(), parts | counts

    def _mask(self, row: int, step: int) -> Masking:
        own = self.corpus.texts.tokens.take(np.array([row]))
        at = np.arange(len(own.ids))
        random = np.stack([np.ldexp(mix(self.seed, Stream.MASKED_TOKENS, step, row, at, k), -63) for k in range(3)])
        return mask_tokens(own, random, self.masked, self.vocabulary.mask_id, self.vocabulary.others)

    def _labeled(self, row: int) -> int:
        """How many tokens of a window have a label; its special tokens have none."""
        first, after = self.corpus.texts.tokens.offsets[row : row + 2]
        return int((self.corpus.labels[first + 1 : after - 1] != NO_LABEL).sum())

    def _spans_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The spans of windows, window by window."""
        starts = np.searchsorted(self.corpus.spans.texts, rows)
        ends = np.searchsorted(self.corpus.spans.texts, rows, side="right")
        return np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])

    def _batch(
        self,
        rows: NDArray[np.int64],
        masks: dict[int, Masking],
        entities: NDArray[np.int64],
        totals: NDArray[np.int64],
    ) -> MemoryBatch:
        corpus, number_of = self.corpus, {row: number for number, row in enumerate(rows.tolist())}
        tokens = corpus.texts.tokens.take(rows)
        starts, ends = corpus.texts.tokens.offsets[rows], corpus.texts.tokens.offsets[rows + 1]
        at = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        spans = self._spans_of(rows)
        own = corpus.spans.take(spans)
        own = own._replace(texts=np.array([number_of[text] for text in own.texts.tolist()], np.int64))
        ids, masked = (np.concatenate([masks[row][k] for row in rows.tolist()]) for k in (0, 1))
        return make_memory_batch(
            tokens, Masking(ids, masked), corpus.labels[at], own, corpus.entities[spans], entities, totals
        )
