"""AdamW and its learning rate as a function of the step.

The loop: names → vectors → similarities → masks → loss → step; now and then evaluate, log, save.

It works on the global batch whatever the number of processes: each encodes its share, and all see all vectors.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from xsap.artifacts import write_atomically
from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import Tokens, drop_tokens, pack
from xsap.errors import ConfigError
from xsap.training import run_folder as checkpoint
from xsap.training.large_batch import cached_backward, gather
from xsap.training.mining import HardNegatives, all_pairs
from xsap.training.sampling import Sampler, mix, share


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, ICLR 2019) in its fused form, on every parameter alike, as the SapBERT recipe has it."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)


def schedule(name: str, *, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The share of the learning rate that step 0, 1, … takes: a linear warm-up, then constant, or linear down to zero after the last."""

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if name == "constant":
            return 1.0
        return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))

    return share


Objective = Callable[[Tensor, Tensor, Tensor], Tensor]  # (similarity, positives, negatives) → loss
_FLUSH_EVERY = 20  # steps whose losses wait on the device, so that logging doesn't stop it at each


@dataclass
class Trainer:
    """One run. objective: mining and loss. rate: step → share of `learning_rate`. identity: see checkpoint.

    neighbors: looks up the hard concepts of its sampler. evaluate: steps done → scores to log. report: called when there is news in the log.
    chunk: names encoded at once, 0 for all. token_dropout: share of tokens left out of names.
    """

    accelerator: Accelerator
    encoder: Encoder
    optimizer: torch.optim.Optimizer
    tokens: Tokens
    sampler: Sampler
    objective: Objective
    rate: Callable[[int], float]
    hard_negatives: HardNegatives | None
    evaluate: Callable[[int], dict[str, Any]] | None
    report: Callable[[], object]
    output: Path
    identity: dict[str, Any]
    seed: int
    learning_rate: float
    max_grad_norm: float
    chunk: int
    token_dropout: float
    total_steps: int
    max_minutes: float | None
    save_steps: int
    save_total_limit: int
    eval_steps: int

    def run(self, *, resume: bool) -> int:
        """Train to the last step, or until time is up. Returns the number of steps done, those before a resumption included."""
        began = time.monotonic()
        done, spent = self._resume() if resume else (0, 0.0)
        self._model, self._optimizer = self.accelerator.prepare(self.encoder, self.optimizer)
        self._waiting: list[tuple[Tensor, dict[str, Any]]] = []
        self._tick = time.monotonic()
        if done == 0:
            self._evaluate(0)
        self._tick = time.monotonic()
        with tqdm(
            total=self.total_steps, initial=done, desc="train", unit=" steps", disable=not self._main, mininterval=0.5
        ) as bar:
            late = self._late(spent, 0)  # as when it had stopped for lack of time before
            while done < self.total_steps and not late:
                if self.hard_negatives and done and done % self.hard_negatives.every == 0:
                    self.hard_negatives.refresh(self.accelerator)
                loss, counts = self._step(done)
                done += 1
                self._waiting.append((loss, {"step": done, "lr": self.learning_rate * self.rate(done - 1), **counts}))
                if len(self._waiting) >= _FLUSH_EVERY:
                    bar.set_postfix(loss=f"{self._flush():.4f}", refresh=False)
                bar.update()
                late = self._late(spent + time.monotonic() - began, done)
                last = late or done == self.total_steps
                if last or (self.eval_steps and done % self.eval_steps == 0):
                    self._evaluate(done)
                if self.save_steps and (last or done % self.save_steps == 0):
                    self._save(done, spent + time.monotonic() - began)
            self._flush()
            if late and self._main:
                tqdm.write(f"stopped after {self.max_minutes:g} minutes, at step {done:,} of {self.total_steps:,}")
        return done

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _step(self, step: int) -> tuple[Tensor, dict[str, int]]:
        """One update from the names of a step, counted from 0 over all epochs → its loss, still on the device; how many names and tokens."""
        accelerator, rank, processes = self.accelerator, self.accelerator.process_index, self.accelerator.num_processes
        names = self.sampler.batch(*divmod(step, self.sampler.steps_per_epoch))
        parts = [share(names, r, processes) for r in range(processes)]
        sizes = [len(part.rows) for part in parts]
        concepts = np.concatenate([part.concepts for part in parts])
        strings = (
            None
            if self.hard_negatives is None
            else self.hard_negatives.strings[np.concatenate([part.rows for part in parts])]
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * self.rate(step)
        self._model.train()
        rows = (
            parts[rank].rows if sizes[rank] else names.rows[:1]
        )  # without a share it encodes some name, for others wait for its gradient
        chunks = np.split(rows, range(self.chunk, len(rows), self.chunk)) if self.chunk else [rows]

        def encode(chunk: int) -> Tensor:
            torch.manual_seed(int(mix(self.seed, step, rank, chunk)[0]))  # dropout too is a pure function of the step
            tokens = self._drop(self.tokens.take(chunks[chunk]), step, rank, chunk)
            vectors: Tensor = self._model(pack(tokens).to(accelerator.device))
            return vectors

        def loss_of(vectors: Tensor) -> Tensor:
            vectors = gather(vectors[: sizes[rank]], sizes, rank)
            same_name = None if strings is None else torch.from_numpy(strings).to(vectors.device)
            masks = all_pairs(torch.from_numpy(concepts).to(vectors.device), same_name)
            nothing = 0 * vectors.detach().sum()  # unless a vector is no number, which masks could hide
            loss: Tensor = processes * (self.objective(vectors @ vectors.T, *masks) + nothing)
            return loss

        if len(chunks) == 1:
            loss = loss_of(encode(0))
            accelerator.backward(loss)
        else:
            loss = cached_backward(
                encode, len(chunks), loss_of, accelerator.backward, lambda: accelerator.no_sync(self._model)
            )
        if self.max_grad_norm:
            accelerator.clip_grad_norm_(self._model.parameters(), self.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach() / processes, {"names": len(names.rows), "tokens": self.tokens.count(names.rows)}

    def _drop(self, tokens: Tokens, *key: int) -> Tokens:
        if not self.token_dropout:
            return tokens
        return drop_tokens(
            tokens, self.token_dropout, np.ldexp(mix(self.seed, 9, *key, np.arange(len(tokens.ids))), -63)
        )

    def _late(self, seconds: float, done: int) -> bool:
        """Whether time is up for any process: clocks differ, and all must stop at the same step, so they ask one another now and then."""
        late = self.max_minutes is not None and seconds > self.max_minutes * 60
        if self.max_minutes is None or self.accelerator.num_processes == 1:
            return late
        if done % _FLUSH_EVERY:
            return False
        flag = torch.tensor([float(late)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _evaluate(self, done: int) -> None:
        if self.evaluate is None:
            return
        self._flush()
        if self._main:
            scores = self.evaluate(done)
            self._log(
                {"step": done, "evaluation": scores},
                done,
                {f"acc@1/{code}": v["acc@1"] for code, v in scores["languages"].items()},
            )
            self.report()
        self.accelerator.wait_for_everyone()
        self._tick = time.monotonic()

    def _flush(self) -> float:
        """Write the steps that wait → the last one's loss. Their seconds are a mean: a device's clock can't be read without stopping it."""
        latest, waiting = float("nan"), self._waiting
        losses = torch.stack([loss for loss, _ in waiting]).tolist() if waiting else []
        seconds = round((time.monotonic() - self._tick) / max(1, len(waiting)), 5)
        for latest, (_, metadata) in zip(losses, waiting, strict=True):
            if not math.isfinite(latest):
                raise ConfigError(
                    f"the loss must be a number, found {latest} at step {metadata['step']:,}; lower optim.learning_rate, or set optim.max_grad_norm = 1"
                )
            if self._main:
                self._log(
                    {**metadata, "loss": latest, "seconds": seconds},
                    metadata["step"],
                    {"loss": latest, "lr": metadata["lr"]},
                )
        self._waiting, self._tick = [], time.monotonic()
        return latest

    def _log(self, line: dict[str, Any], step: int, tracked: dict[str, float]) -> None:
        with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        self.accelerator.log(tracked, step=step)

    def _save(self, done: int, spent: float) -> None:
        self._flush()
        if self._main:
            more = {"spent": spent}
            scaler = getattr(self.accelerator, "scaler", None)
            if scaler is not None:
                more["scaler"] = scaler.state_dict()
            nearest = self.hard_negatives.sampler.nearest if self.hard_negatives else None
            arrays = {} if nearest is None else {"nearest": torch.from_numpy(nearest)}
            folder, keep = self.output / "checkpoints", self.save_total_limit
            checkpoint.save(folder, done, self.encoder, self._bare_optimizer, self.identity, more, arrays, keep=keep)
        self.accelerator.wait_for_everyone()
        self._tick = time.monotonic()

    @property
    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        return bare

    def _resume(self) -> tuple[int, float]:
        """Steps done and seconds spent by the newest checkpoint; the log is cut back to it."""
        found = checkpoint.resume(self.output / "checkpoints", self.encoder, self.optimizer, self.identity)
        done, more, arrays = found or (0, {}, {})
        if self.hard_negatives and "nearest" in arrays:
            self.hard_negatives.sampler.nearest = arrays["nearest"].numpy()
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and "scaler" in more:
            scaler.load_state_dict(more["scaler"])
        log = self.output / "metrics.jsonl"
        if self._main and log.is_file():
            kept = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line) <= (done or -1)]
            with write_atomically(log) as stream:
                stream.writelines(f"{line}\n" for line in kept)
        self.accelerator.wait_for_everyone()
        return done, float(more.get("spent", 0.0))


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a kill cut short
