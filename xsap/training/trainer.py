"""The loop: names → vectors → similarities → masks → loss → step; now and then evaluate, log, save.

It works on the global batch whatever the number of processes: each encodes its share, and all see all vectors.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from xsap.artifacts import write_atomically
from xsap.encoding.encoder import Encoder
from xsap.encoding.packing import pack
from xsap.encoding.tokens import Tokens
from xsap.training import checkpoint
from xsap.training.gather import gather
from xsap.training.mining import all_pairs
from xsap.training.sampling import Sampler, mix, share

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]  # (similarity, positives, negatives) → loss
_FLUSH_EVERY = 20  # steps whose losses wait on the device, so that logging doesn't stop it at each


@dataclass
class Trainer:
    """One run. objective: mining and loss. rate: step → share of `lr`. evaluate: the encoder → scores to log. identity: see checkpoint."""

    accelerator: Accelerator
    encoder: Encoder
    optimizer: torch.optim.Optimizer
    tokens: Tokens
    sampler: Sampler
    objective: Objective
    rate: Callable[[int], float]
    evaluate: Callable[[Encoder], dict[str, Any]] | None
    output: Path
    identity: dict[str, Any]
    seed: int
    lr: float
    clip: float
    total_steps: int
    max_minutes: float | None
    checkpoint_every: int
    checkpoint_keep: int
    evaluate_every: int

    def run(self, *, resume: bool) -> int:
        """Train to the last step, or until time is up. Returns the number of steps done, those before a resumption included."""
        began = time.monotonic()
        done, spent = self._resume() if resume else (0, 0.0)
        self._model, self._optimizer = self.accelerator.prepare(self.encoder, self.optimizer)
        self._waiting: list[tuple[int, Tensor, float, float]] = []
        if done == 0:
            self._evaluate(0)
        bar = tqdm(total=self.total_steps, initial=done, desc="train", unit=" steps", disable=not self._main, mininterval=0.5)
        late = self._late(spent)  # as when it had stopped for lack of time before
        while done < self.total_steps and not late:
            tick = time.monotonic()
            loss = self._step(done)
            done += 1
            self._waiting.append((done, loss, self.lr * self.rate(done - 1), time.monotonic() - tick))
            if len(self._waiting) >= _FLUSH_EVERY:
                bar.set_postfix(loss=f"{self._flush():.4f}", refresh=False)
            bar.update()
            late = self._late(spent + time.monotonic() - began)
            last = late or done == self.total_steps
            if last or (self.evaluate_every and done % self.evaluate_every == 0):
                self._evaluate(done)
            if self.checkpoint_every and (last or done % self.checkpoint_every == 0):
                self._save(done, spent + time.monotonic() - began)
        if late and self._main:
            tqdm.write(f"stopped after {self.max_minutes:g} minutes, at step {done:,} of {self.total_steps:,}")
        bar.close()
        self._flush()
        return done

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _step(self, step: int) -> Tensor:
        """One update from the names of a step, counted from 0 over all epochs → its loss, still on the device."""
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        names = self.sampler.batch(*divmod(step, self.sampler.steps_per_epoch))
        parts = [share(names, r, processes) for r in range(processes)]
        torch.manual_seed(int(mix(self.seed, step, rank)[0]))  # dropout too is a pure function of the step
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * self.rate(step)
        self._model.train()
        device = self.accelerator.device
        sizes = [len(part.rows) for part in parts]
        rows = parts[rank].rows if sizes[rank] else names.rows[:1]  # without a share it encodes some name, for others wait for its gradient
        vectors = gather(self._model(pack(self.tokens.take(rows)).to(device))[: sizes[rank]], sizes, rank)
        concepts = torch.from_numpy(np.concatenate([part.concepts for part in parts])).to(device)
        similarity = vectors @ vectors.T
        loss = self.objective(similarity, *all_pairs(concepts))
        self.accelerator.backward(loss * processes)
        if self.clip:
            self.accelerator.clip_grad_norm_(self._model.parameters(), self.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def _late(self, seconds: float) -> bool:
        """Whether time is up for any process: clocks differ, and all must stop at the same step."""
        late = self.max_minutes is not None and seconds > self.max_minutes * 60
        if self.max_minutes is None or self.accelerator.num_processes == 1:
            return late
        flag = torch.tensor([float(late)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item() > 0)

    def _evaluate(self, done: int) -> None:
        if self.evaluate is None:
            return
        self._flush()
        if self._main:
            scores = self.evaluate(self.encoder)
            self._log({"step": done, "evaluation": scores}, done, {f"acc@1/{code}": v["acc@1"] for code, v in scores["languages"].items()})
        self.accelerator.wait_for_everyone()

    def _flush(self) -> float:
        """Write the steps that wait → the last one's loss."""
        latest = float("nan")
        for step, loss, lr, seconds in self._waiting:
            latest = float(loss)
            if self._main:
                self._log({"step": step, "loss": latest, "lr": lr, "seconds": round(seconds, 5)}, step, {"loss": latest, "lr": lr})
        self._waiting.clear()
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
            checkpoint.save(
                self.output / "checkpoints", done, self.encoder, self._bare_optimizer, self.identity, more, keep=self.checkpoint_keep
            )
        self.accelerator.wait_for_everyone()

    @property
    def _bare_optimizer(self) -> torch.optim.Optimizer:
        bare: torch.optim.Optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        return bare

    def _resume(self) -> tuple[int, float]:
        """Steps done and seconds spent by the newest checkpoint; the log is cut back to it."""
        found = checkpoint.resume(self.output / "checkpoints", self.encoder, self.optimizer, self.identity)
        done, more = found or (0, {})
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
