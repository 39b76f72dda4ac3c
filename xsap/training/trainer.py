"""The training loop: names → vectors → similarities → masks → loss → update; evaluation, logging and checkpoints in between.

The batch is the same for any number of processes: each encodes its part of the names, and all get the vectors of all
names.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from xsap.artifacts import write_atomically
from xsap.encoding.packing import Tokens, drop_tokens, pack
from xsap.errors import ConfigError
from xsap.progress import SECONDS_BETWEEN_LINES, Advance, track
from xsap.training.large_batch import cached_backward, gather
from xsap.training.run_folder import Checkpoint, load_checkpoint, save_checkpoint
from xsap.training.sampling import Names, Sampler, Stream, mix, names_of_rank

BatchLoss = Callable[[Tensor, Names], Tensor]  # ((n, d) vectors, what they are of) → loss
# (the model as Accelerate prepared it, step) → its loss without graph, and counts for the log; the gradients are in the parameters
StepGradients = Callable[[nn.Module, int], tuple[Tensor, dict[str, int]]]
FLUSH_STEPS = 20  # steps whose losses stay on the device, so that logging does not stop it at each

logger = logging.getLogger(__name__)


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019), fused, with weight decay on every trained parameter, as in the SapBERT recipe."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)


class Mining(Protocol):
    """What is searched with the model as it is, every so many steps, and decides what later steps learn from."""

    @property
    def refresh_steps(self) -> int:
        """Steps between searches."""

    @property
    def at_start(self) -> bool:
        """Whether there is a search before the first step, too."""

    def refresh(self, accelerator: Accelerator) -> None:
        """Search, and give every process what was found."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""


def schedule(name: str, *, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at step 0, 1, …: linear warm-up, then constant or linear to zero after the last step.

    Args:
        name: `constant` or `linear`.
        warmup_steps: Steps of the warm-up.
        total_steps: All steps, those of the warm-up included.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if name == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return factor


class LearningTask(NamedTuple):
    """What a run learns: parts of a `Trainer`, which see.

    Attributes:
        sampler: The names of each step.
        loss: Of their vectors.
        mining: Searches with the model now and then; None without any.
        head: Parameters of the loss; None without any.
        unit: Whether the loss gets vectors of length 1.
    """

    sampler: Sampler
    loss: BatchLoss
    mining: Mining | None = None
    head: nn.Module | None = None
    unit: bool = True


@dataclass
class TrainerState:
    """Everything that changes while a run lasts.

    Attributes:
        model: The encoder as Accelerate prepared it.
        optimizer: The optimizer as Accelerate prepared it.
        steps: Steps done, those before a resumption included.
        started: When training started, on the monotonic clock, as if there had been no interruption.
        flushed: When `pending` was last emptied, or an evaluation or a save ended.
        pending: Losses that are still on the device, with the rest of their log lines.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    started: float
    flushed: float = field(default_factory=time.monotonic)
    pending: list[tuple[Tensor, dict[str, Any]]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a resumption included."""
        return time.monotonic() - self.started


@dataclass
class Trainer:
    """One run.

    Attributes:
        accelerator: Accelerate's view of devices and processes.
        encoder: The model to train: an Encoder, unless `gradients` is given.
        optimizer: Its optimizer.
        rate: Step → factor of the learning rates.
        mining: Searches with the model now and then; None without any.
        evaluate: Steps done → scores to log; None for no evaluation.
        report: Called after the log has changed.
        output: The run's folder.
        identity: What a resumed run must have in common with this one.
        seed: Seed of dropout.
        learning_rate: Highest learning rate of the encoder, which the log has; others are the optimizer's.
        max_grad_norm: Norm that gradients are clipped to; 0 for no clipping.
        total_steps: Steps to train.
        max_minutes: Minutes after which training stops; None for no limit.
        save_steps: Steps between checkpoints; 0 for none.
        save_total_limit: Checkpoints to keep.
        eval_steps: Steps between evaluations; 0 for those before the first and after the last step only.
        head: Parameters of the loss, which the optimizer has, too; None without any.
        unit: Whether the loss gets vectors of length 1.
        gradients: Computes the loss and the gradients of a step; None for those of `loss` on the vectors of names.
        tokens: Token ids of all names.
        sampler: The names of each step.
        loss: Of the vectors of a step's names.
        chunk: Names to encode at a time; 0 for all.
        token_dropout: Fraction of tokens to leave out of names.
        progress_bar: Whether a progress bar is drawn; otherwise a line is logged once a minute.
    """

    accelerator: Accelerator
    encoder: nn.Module
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    mining: Mining | None
    evaluate: Callable[[int], dict[str, Any]] | None
    report: Callable[[], object]
    output: Path
    identity: dict[str, Any]
    seed: int
    learning_rate: float
    max_grad_norm: float
    total_steps: int
    max_minutes: float | None
    save_steps: int
    save_total_limit: int
    eval_steps: int
    head: nn.Module | None = None
    unit: bool = True
    gradients: StepGradients | None = None
    tokens: Tokens | None = None
    sampler: Sampler | None = None
    loss: BatchLoss | None = None
    chunk: int = 0
    token_dropout: float = 0.0
    progress_bar: bool = False
    _state: TrainerState = field(init=False, repr=False)

    def run(self, *, resume: bool) -> int:
        """Train to the last step, or until time is up.

        Args:
            resume: Whether to continue from the newest checkpoint.

        Returns:
            The number of steps done, those before a resumption included.
        """
        state = self._state = self._start(resume)
        if state.steps == 0:
            self._evaluate()
        state.flushed = time.monotonic()
        late = self._is_late(0)  # an earlier part of the run may have used up the time
        with self._tracked() as advance:
            while state.steps < self.total_steps and not late:
                self._mine(state.steps)
                learning_rate = self.learning_rate * self.rate(state.steps)
                loss, counts = self._step(state.steps)
                state.steps += 1
                state.pending.append((loss, {"step": state.steps, "lr": learning_rate, **counts}))
                advance(1, f"loss {self._flush():.4f}" if len(state.pending) >= FLUSH_STEPS else "")
                late = self._is_late(state.steps)
                last = late or state.steps == self.total_steps
                if last or (self.eval_steps and state.steps % self.eval_steps == 0):
                    self._evaluate()
                if self.save_steps and (last or state.steps % self.save_steps == 0):
                    self._save()
            self._flush()
        if late and self._is_main:
            logger.info(
                "stopped after %g minutes, at step %s of %s",
                self.max_minutes,
                f"{state.steps:,}",
                f"{self.total_steps:,}",
            )
        return state.steps

    def _start(self, resume: bool) -> TrainerState:
        """The state before the first step, or as the newest checkpoint has it; the log is cut back to that."""
        started = time.monotonic()
        checkpoint = None
        if resume:
            folder = self.output / "checkpoints"
            checkpoint = load_checkpoint(folder, self._saved, self.optimizer, self.identity)
            self._cut_log(checkpoint.step if checkpoint else -1)
        if checkpoint:
            if self.mining:
                self.mining.load_state_dict(checkpoint.arrays)
            if self._scaler is not None and "scaler" in checkpoint.more:
                self._scaler.load_state_dict(checkpoint.more["scaler"])
            started -= float(checkpoint.more.get("spent", 0.0))
        model, optimizer = self.accelerator.prepare(self.encoder, self.optimizer)
        return TrainerState(model, optimizer, checkpoint.step if checkpoint else 0, started)

    def _mine(self, step: int) -> None:
        if self.mining and step % self.mining.refresh_steps == 0 and (step or self.mining.at_start):
            self.mining.refresh(self.accelerator)

    @property
    def _saved(self) -> nn.Module:
        """What a checkpoint has the weights of."""
        return self.encoder if self.head is None else nn.ModuleDict({"encoder": self.encoder, "head": self.head})

    def _tracked(self) -> AbstractContextManager[Advance]:
        """Shows the progress on the main process."""
        bar, seconds = self.progress_bar and self._is_main, SECONDS_BETWEEN_LINES if self._is_main else math.inf
        return track("train", "steps", self.total_steps, bar=bar, done=self._state.steps, seconds=seconds)

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def _scaler(self) -> Any:
        """Accelerate's gradient scaler; None unless training in fp16."""
        return getattr(self.accelerator, "scaler", None)

    def _step(self, step: int) -> tuple[Tensor, dict[str, int]]:
        """One update.

        Args:
            step: Number of the step, counted from 0 over all epochs.

        Returns:
            The loss, still on the device, and counts for the log.
        """
        model, optimizer = self._state.model, self._state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.rate(step)
        model.train()
        loss, counts = (self.gradients or self._gradients_of_names)(model, step)
        if self.max_grad_norm:
            self.accelerator.clip_grad_norm_(model.parameters(), self.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        return loss, counts

    def _gradients_of_names(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, int]]:
        """The gradients of the loss of a step's names; their numbers of names and tokens."""
        tokens_of_all, sampler, loss_of_vectors = self.tokens, self.sampler, self.loss
        assert tokens_of_all is not None
        assert sampler is not None
        assert loss_of_vectors is not None
        accelerator, rank, processes = self.accelerator, self.accelerator.process_index, self.accelerator.num_processes
        names = sampler.batch(*divmod(step, sampler.steps_per_epoch))
        parts = [names_of_rank(names, r, processes) for r in range(processes)]
        sizes = [len(part.rows) for part in parts]
        gathered = torch.from_numpy(
            np.argsort(np.concatenate([np.arange(len(names.rows))[r::processes] for r in range(processes)]))
        )
        # without names of its own it encodes some name, because the other processes wait for its gradient
        own = parts[rank].rows if sizes[rank] else names.rows[:1]
        chunks = np.split(own, range(self.chunk, len(own), self.chunk)) if self.chunk else [own]

        def encode(chunk: int) -> Tensor:
            # dropout, too, is a pure function of the seed and the step
            torch.manual_seed(int(mix(self.seed, Stream.DROPOUT, step, rank, chunk)[0]))
            tokens = self._drop_tokens(tokens_of_all.take(chunks[chunk]), step, rank, chunk)
            batch = pack(tokens).to(accelerator.device)
            vectors: Tensor = model(batch) if self.unit else model(batch, False)
            return vectors

        def loss_of(vectors: Tensor) -> Tensor:
            vectors = gather(vectors[: sizes[rank]], sizes, rank)
            if processes > 1:
                vectors = vectors[gathered.to(vectors.device)]  # in the order of the names
            zero = 0 * vectors.detach().sum()  # nan if a vector is not finite, which masks could hide
            loss: Tensor = processes * (loss_of_vectors(vectors, names) + zero)
            return loss

        if len(chunks) == 1:
            loss = loss_of(encode(0))
            accelerator.backward(loss)
        else:
            loss = cached_backward(
                encode, len(chunks), loss_of, accelerator.backward, lambda: accelerator.no_sync(model)
            )
        self._share_head_gradients(processes)
        counts = {"names": len(names.rows), "tokens": tokens_of_all.count(names.rows)}
        if names.candidates is not None:
            counts["right_candidates"] = int(names.candidates.right.sum())
        return loss.detach() / processes, counts

    def _share_head_gradients(self, processes: int) -> None:
        """Give the loss's own parameters the gradient that one process has: each computed all of it, of a loss times their number."""
        for parameter in self.head.parameters() if self.head is not None and processes > 1 else ():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean") / processes

    def _drop_tokens(self, tokens: Tokens, *key: int) -> Tokens:
        if not self.token_dropout:
            return tokens
        numbers = mix(self.seed, Stream.TOKEN_DROPOUT, *key, np.arange(len(tokens.ids)))
        return drop_tokens(tokens, self.token_dropout, np.ldexp(numbers, -63))

    def _is_late(self, done: int) -> bool:
        """Whether time is up on any process. Clocks differ, and all must stop at the same step, so they agree every few steps."""
        late = self.max_minutes is not None and self._state.seconds > self.max_minutes * 60
        if self.max_minutes is None or self.accelerator.num_processes == 1:
            return late
        if done % FLUSH_STEPS:
            return False
        flag = torch.tensor([float(late)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self._flush()
        if self._is_main:
            steps = self._state.steps
            scores = self.evaluate(steps)
            tracked = {f"acc@1/{code}": v["acc@1"] for code, v in scores["languages"].items()}
            self._log({"step": steps, "evaluation": scores}, steps, tracked)
            self.report()
        self.accelerator.wait_for_everyone()
        self._state.flushed = time.monotonic()

    def _flush(self) -> float:
        """Log the pending steps. Their seconds are a mean, because reading a device's clock would stop it.

        Returns:
            The last loss, nan without any.
        """
        state, latest = self._state, float("nan")
        losses = torch.stack([loss for loss, _ in state.pending]).tolist() if state.pending else []
        seconds = round((time.monotonic() - state.flushed) / max(1, len(losses)), 5)
        for latest, (_, line) in zip(losses, state.pending, strict=True):
            if not math.isfinite(latest):
                raise ConfigError(
                    f"the loss must be a finite number, found {latest} at step {line['step']:,}; "
                    "lower optim.learning_rate, or set optim.max_grad_norm = 1"
                )
            if self._is_main:
                tracked = {"loss": latest, "lr": line["lr"]}
                self._log({**line, "loss": latest, "seconds": seconds}, line["step"], tracked)
        state.pending, state.flushed = [], time.monotonic()
        return latest

    def _log(self, line: dict[str, Any], step: int, tracked: dict[str, float]) -> None:
        with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self.accelerator.log(tracked, step=step)

    def _cut_log(self, steps: int) -> None:
        """Remove the lines of steps that come after a checkpoint."""
        log = self.output / "metrics.jsonl"
        if self._is_main and log.is_file():
            kept = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line) <= steps]
            with write_atomically(log) as stream:
                stream.writelines(f"{line}\n" for line in kept)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        seconds = self._state.seconds
        self._flush()
        if self._is_main:
            more: dict[str, Any] = {"spent": seconds}
            if self._scaler is not None:
                more["scaler"] = self._scaler.state_dict()
            arrays = self.mining.state_dict() if self.mining else {}
            optimizer = getattr(self._state.optimizer, "optimizer", self._state.optimizer)
            save_checkpoint(
                self.output / "checkpoints",
                Checkpoint(self._state.steps, more, arrays),
                self._saved,
                optimizer,
                self.identity,
                keep=self.save_total_limit,
            )
        self.accelerator.wait_for_everyone()
        self._state.flushed = time.monotonic()


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that an interruption cut short
