"""Train a cross-encoder on mentions in their contexts, and test it on documents that were held out.

Training begins at the retriever: the scale of retrieval scores and the logit of "none of them" are fitted to the training mentions first, and
what the model adds is 0. A step is some mentions with all their candidates. The loop, its checkpoints and its
processes are those of `Trainer`; what a step computes is here.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens
from xsap.errors import ConfigError, DataError
from xsap.evaluation.context_ablation import ContextAblation, ablate_context, testable_mentions
from xsap.evaluation.folds import assign_folds
from xsap.files import RowCounts
from xsap.linking.cross_encoder import JOINT_LAYERS, START_SCALE, CrossEncoder, with_markers
from xsap.linking.cross_inputs import CANDIDATE_TOKENS, CONTEXT_TOKENS, CrossInputs, InputWindows
from xsap.linking.linker import Linker
from xsap.linking.rerank import RERANKED
from xsap.linking.rerank_choice import retriever_of
from xsap.training.embedding_table import TrimmedEmbedding, trim, whole_table
from xsap.training.frozen_layers import freeze
from xsap.training.processes import choose_mixed_precision, start_accelerator
from xsap.training.reranker_examples import RerankExamples, examples_of
from xsap.training.reranker_loss import fit_retrieval, listwise_cross_entropy, xmen_loss
from xsap.training.run_folder import check_run_folder, make_run_folder
from xsap.training.sampling import Stream, mix, permute
from xsap.training.silver_mentions import without_documents
from xsap.training.trainer import Trainer, schedule

LOSSES = ("listwise", "xmen")
HEAD_RATES = {"head": 1e-3, "numbers": 1e-2}  # learning rates of the head, and of the learned numbers
HELD_OUT = "silver mention of a document that is tested on"
FOLDS, SAVE_TOTAL_LIMIT, WARMUP_FRACTION = 5, 1, 0.1

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RerankSettings:
    """How a re-ranker is trained.

    Attributes:
        epochs: Times that each mention is read.
        batch: Mentions of a step.
        top: Candidates of a mention.
        learning_rate: Highest one of the encoder; those of the head are HEAD_RATES, scaled alike.
        weight_decay: Of the encoder and the head.
        frozen_layers: Lowest layers that stay as they are, the embeddings too; None to train all.
        context_tokens: See `InputWindows`.
        candidate_tokens: See `InputWindows`.
        joint_layers: See `CrossEncoder`.
        uses_context: Whether contexts are read.
        loss: One of LOSSES.
        max_grad_norm: Norm that gradients are clipped to; 0 for no clipping.
        max_minutes: Minutes after which training stops; None for no limit.
        save_steps: Steps between checkpoints; 0 for none.
        mixed_precision: auto, no, bf16 or fp16.
        seed: Of the folds, the order, the dropout and the intervals.
    """

    epochs: int = 3
    batch: int = 16
    top: int = RERANKED
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    frozen_layers: int | None = None
    context_tokens: int = CONTEXT_TOKENS
    candidate_tokens: int = CANDIDATE_TOKENS
    joint_layers: int | None = JOINT_LAYERS
    uses_context: bool = True
    loss: str = LOSSES[0]
    max_grad_norm: float = 1.0
    max_minutes: float | None = None
    save_steps: int = 200
    mixed_precision: str = "auto"
    seed: int = 0

    @property
    def windows(self) -> InputWindows:
        """How much is read."""
        return InputWindows(self.context_tokens, self.candidate_tokens)


@dataclass(frozen=True)
class RerankTraining:
    """What was trained, and what it is worth on mentions that were held out.

    Attributes:
        trained: Mentions learned from: in, kept, dropped by reason, and how many had a right candidate.
        ablation: On the mentions held out; None where none were.
        scale: Of retrieval scores in logits.
        nil_score: Score of "none of them".
        steps: Steps of training.
    """

    trained: RerankExamples
    ablation: ContextAblation | None
    scale: float
    nil_score: float
    steps: int


def hold_out_documents(mentions: pa.Table, folds: int, *, seed: int) -> tuple[pa.Table, pa.Table]:
    """The mentions to train on, and those of one fold of documents to test on.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`.
        folds: How many folds; one is held out.
        seed: Of the folds.
    """
    held_out = pa.array(assign_folds(mentions, folds, by="document", seed=seed) == 0)
    return mentions.filter(pc.invert(held_out)), mentions.filter(held_out)


@dataclass(frozen=True)
class RerankGradients:
    """The gradients of a step, see `Trainer.gradients`.

    Attributes:
        accelerator: Accelerate's view of devices and processes.
        inputs: All mentions.
        right: (g, k) whether each candidate is right.
        settings: Of the training.
    """

    accelerator: Accelerator
    inputs: CrossInputs
    right: NDArray[np.bool_]
    settings: RerankSettings

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each mention comes once."""
        return -(-len(self.inputs) // self.settings.batch)

    def mentions_of(self, step: int) -> NDArray[np.int64]:
        """The mentions of a step: a pure function of the seed and the step."""
        epoch, at = divmod(step, self.steps_per_epoch)
        positions = np.arange(at * self.settings.batch, min((at + 1) * self.settings.batch, len(self.inputs)))
        return permute(positions, len(self.inputs), mix(self.settings.seed, epoch, Stream.MENTION_ORDER))

    def __call__(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, int]]:
        """The loss and its gradients.

        Args:
            model: The cross-encoder, as Accelerate prepared it.
            step: Number of the step, counted from 0 over all epochs.
        """
        accelerator, all_mentions = self.accelerator, self.mentions_of(step)
        rank, processes = accelerator.process_index, accelerator.num_processes
        own = all_mentions[rank::processes]
        # without mentions of its own a process reads some mention, because the others wait for its gradient
        mentions, part = (own, len(own) / len(all_mentions)) if len(own) else (all_mentions[:1], 0.0)
        torch.manual_seed(int(mix(self.settings.seed, Stream.DROPOUT, step, rank)[0]))
        taken = self.inputs.take(mentions)
        logits = model(taken)
        loss = self._loss(logits, mentions, taken) * part * processes
        accelerator.backward(loss)
        total = accelerator.reduce(loss.detach(), "mean") if processes > 1 else loss.detach()
        return total, {"mentions": len(all_mentions), "tokens": self.inputs.count(all_mentions)}

    def _loss(self, logits: Tensor, mentions: NDArray[np.int64], taken: CrossInputs) -> Tensor:
        width = logits.shape[1] - 1
        right = torch.from_numpy(self.right[mentions][:, :width]).to(logits.device)
        if self.settings.loss == "listwise":
            return listwise_cross_entropy(logits, right)
        scores, counts = padded_scores(taken, width), torch.from_numpy(taken.counts)
        return xmen_loss(logits, right, scores.to(logits.device), counts.to(logits.device))


def padded_scores(inputs: CrossInputs, width: int) -> Tensor:
    """(g, width) retrieval scores, 0 where there is no candidate."""
    scores = np.zeros((len(inputs), width), np.float32)
    scores[np.arange(width) < inputs.counts[:, None]] = inputs.scores
    return torch.from_numpy(scores)


def train_reranker(
    linker: Linker,
    trained: pa.Table,
    tested: pa.Table | None,
    out: Path,
    run: Path,
    settings: RerankSettings,
    *,
    base: str | Path | None = None,
    pooling: str | None = None,
    silver: pa.Table | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> RerankTraining | None:
    """Train a re-ranker for an index, and test it.

    Args:
        linker: Of the index, without a re-ranker.
        trained: Mentions to learn from, a table of `terms.mentions.SCHEMA`.
        tested: Mentions that are tested on; None for none.
        out: The re-ranker's folder.
        run: The run's folder: log and checkpoints. A run that was interrupted there is resumed.
        settings: How it is trained.
        base: Model to start from; None for the one of the index.
        pooling: Its pooling, if it is not stated; it plays no part in reading.
        silver: Further mentions to learn from, which were found by their exact names; these are hidden. Those of tested documents are left out.
        overwrite: Whether `out` may be replaced.
        progress: Whether to show progress bars.

    Returns:
        What was trained; None in all processes but the first.

    Raises:
        ConfigError: A setting or an input is not usable.
        DataError: No mention has a right candidate.
    """
    if settings.loss not in LOSSES:
        raise ConfigError(f"expected the loss {' or '.join(LOSSES)}, found '{settings.loss}'")
    check_run_folder(run, resume=True, overwrite=True)
    precision = choose_mixed_precision() if settings.mixed_precision == "auto" else settings.mixed_precision
    accelerator = start_accelerator(precision, None, run)
    if tested is not None:
        testable_mentions(tested, linker.concept_ids)  # what can't be tested on is an error before training
    examples = _examples(linker, trained, tested, silver, settings)
    model, base_hash = _new_model(linker, base, pooling, settings)
    inputs = examples.to_inputs(model.encoder, settings.windows, with_context=settings.uses_context)
    right = examples.right_columns(settings.top)
    scores = padded_scores(inputs, settings.top)
    real = torch.from_numpy(np.arange(settings.top) < inputs.counts[:, None])
    scale, nil = fit_retrieval(scores, torch.from_numpy(right), real)
    model.set_numbers(scale=scale, nil=nil)
    data = _fingerprint(inputs, right)
    table = _trim(model.encoder, inputs)
    inputs = replace(inputs, prefixes=table.renumber(inputs.prefixes), texts=table.renumber(inputs.texts))
    model.to(accelerator.device)
    gradients = RerankGradients(accelerator, inputs, right, settings)
    total = settings.epochs * gradients.steps_per_epoch
    rate = schedule("linear", warmup_steps=int(WARMUP_FRACTION * total), total_steps=total)
    identity = {
        **_identity(settings),
        "base": base_hash,
        "data": data,
        "steps": total,
        "processes": accelerator.num_processes,
    }
    if accelerator.is_main_process:
        make_run_folder(run, {"sampling": "mentions", **asdict(settings)}, resume=True)
    accelerator.wait_for_everyone()
    trainer = _trainer(settings, model, gradients, accelerator, rate, run, identity, total, progress=progress)
    steps = trainer.run(resume=True)
    report = None
    if accelerator.is_main_process:
        with _whole_table(model.encoder, table, settings, rate, steps):
            model.save(
                out,
                retriever=retriever_of(linker.index),
                metadata=_metadata(settings, examples, steps),
                overwrite=overwrite,
            )
            reranked = Linker(linker.encoder, linker.index, reranker=model.eval(), rerank_top=settings.top)
            ablation = None if tested is None else ablate_context(linker, reranked, tested, seed=settings.seed)
        report = RerankTraining(examples, ablation, model.scale, model.nil_score, steps)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    accelerator.end_training()
    return report


def _examples(
    linker: Linker, trained: pa.Table, tested: pa.Table | None, silver: pa.Table | None, settings: RerankSettings
) -> RerankExamples:
    examples = examples_of(linker, trained, top=settings.top)
    if silver is not None:
        others = silver if tested is None else without_documents(silver, tested)
        found = examples_of(linker, others, top=settings.top, hide_names=True)
        of_tested = silver.num_rows - others.num_rows
        counts = found.counts + RowCounts(of_tested, 0, {HELD_OUT: of_tested} if of_tested else {})
        examples = examples.joined(replace(found, counts=counts))
    if not examples.reachable:
        raise DataError(
            f"expected mentions with a right concept among their first {settings.top} candidates, found none among "
            f"{examples.counts.rows_in:,}; is this the terminology that they were annotated with?"
        )
    logger.info(
        "%s of %s mentions have a right concept among their first %d candidates; dropped: %s",
        f"{examples.reachable:,}",
        f"{examples.counts.rows_in:,}",
        settings.top,
        ", ".join(f"{reason} {n:,}" for reason, n in examples.counts.dropped.items()) or "none",
    )
    return examples


def _new_model(
    linker: Linker, base: str | Path | None, pooling: str | None, settings: RerankSettings
) -> tuple[CrossEncoder, str | None]:
    """A cross-encoder before training, and the hash of the model that it starts from."""
    spec = linker.index.model
    location = base or spec.path
    if location is None:
        raise ConfigError("the index does not state where its model is; give --base MODEL")
    encoder = Encoder.from_pretrained(location, pooling=pooling or (None if base else spec.pooling), device="cpu")
    if base is None and encoder.content_hash != spec.content_hash:
        raise ConfigError(f"{location} is no longer the model that the index was built with; give --base MODEL")
    base_hash = encoder.content_hash
    torch.manual_seed(settings.seed)
    model = CrossEncoder(
        with_markers(encoder), settings.windows, joint_layers=settings.joint_layers, uses_context=settings.uses_context
    )
    model.top = settings.top
    if encoder.dense is not None:
        encoder.dense.requires_grad_(False)
    if settings.frozen_layers is not None:
        freeze(encoder, settings.frozen_layers)
    return model, base_hash


def _trim(encoder: Encoder, inputs: CrossInputs) -> TrimmedEmbedding:
    ids = np.concatenate([inputs.prefixes.ids, inputs.texts.ids])
    return trim(encoder.transformer, Tokens(ids, np.array([0, len(ids)])), encoder.tokenizer.all_special_ids)


def _whole_table(
    encoder: Encoder, table: TrimmedEmbedding, settings: RerankSettings, rate: Callable[[int], float], steps: int
) -> AbstractContextManager[None]:
    decay = 0.0 if settings.frozen_layers is not None else settings.weight_decay
    factors = (1 - settings.learning_rate * rate(step) * decay for step in range(steps))
    return whole_table(encoder.transformer, table, math.prod(factors))


def _optimizer(model: CrossEncoder, settings: RerankSettings) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": trained},
        {"params": list(model.head.parameters()), "lr": HEAD_RATES["head"]},
        {"params": [model.numbers], "lr": HEAD_RATES["numbers"], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _trainer(
    settings: RerankSettings,
    model: CrossEncoder,
    gradients: RerankGradients,
    accelerator: Accelerator,
    rate: Callable[[int], float],
    run: Path,
    identity: dict[str, Any],
    total: int,
    *,
    progress: bool,
) -> Trainer:
    return Trainer(
        accelerator=accelerator,
        encoder=model,
        optimizer=_optimizer(model, settings),
        rate=rate,
        mining=None,
        evaluate=None,
        report=lambda: None,
        output=run,
        identity=identity,
        seed=settings.seed,
        learning_rate=settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        total_steps=total,
        max_minutes=settings.max_minutes,
        save_steps=settings.save_steps,
        save_total_limit=SAVE_TOTAL_LIMIT,
        eval_steps=0,
        gradients=gradients,
        progress_bar=progress,
    )


def _identity(settings: RerankSettings) -> dict[str, Any]:
    """Settings that a resumed run must have in common with this one."""
    return {name: value for name, value in asdict(settings).items() if name not in ("max_minutes", "save_steps")}


def _fingerprint(inputs: CrossInputs, right: NDArray[np.bool_]) -> str:
    digest = hashlib.sha256()
    parts = (inputs.prefixes, inputs.texts)
    for array in (
        *(a for part in parts for a in (part.ids, part.offsets)),
        inputs.counts,
        inputs.scores,
        inputs.exact,
        right,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _metadata(settings: RerankSettings, examples: RerankExamples, steps: int) -> dict[str, Any]:
    """What the folder states of the training; no path, as it may be shared."""
    counts = {"in": examples.counts.rows_in, "kept": examples.counts.kept, "dropped": dict(examples.counts.dropped)}
    trained = {"mentions": counts, "with_a_right_candidate": examples.reachable, "steps": steps}
    return {"training": json.loads(json.dumps(asdict(settings))) | trained | {"start_scale": START_SCALE}}
