"""A run that is killed a hundred times, saves included, against one that never was: nothing is lost, and nothing differs by a bit.

Run as a program, this file is the killer. It imports everything once and forks a run an attempt, for an import takes longer than the
run. Each process of a run writes into a ledger, before it encodes them, the rows of the names of each step; the ledger is no part of the run.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
KEPT = 2  # checkpoints
RUN = [
    "epochs=99",
    "sampling.mode=groups",
    "sampling.hard_negatives=1",
    "sampling.hard_negatives_refresh_steps=7",
    "sampling.token_dropout=0.1",
    "sampling.language_temperature=0.5",
    "batch.names=24",
    "batch.chunk=9",
    "optim.learning_rate=1e-3",
    "optim.max_grad_norm=0.5",
    "optim.schedule=linear",
    "optim.warmup_steps=10",
    "optim.weight_decay=0.1",
    "checkpoint.save_steps=1",
    f"checkpoint.save_total_limit={KEPT}",
]


class Killer:
    """Attempts at one run of so many steps, by one process or by several, each killed at some moment.

    folder: of the run and of its ledgers.
    """

    def __init__(self, settings: list[str], folder: Path, processes: int, steps: int) -> None:
        self.folder, self.processes, self.steps = folder, processes, steps
        self.settings = [*settings, f"max_steps={steps}", f"output={folder / 'run'}", "resume=auto"]
        self.attempts = 0
        self.counts: Counter[str] = Counter()
        folder.mkdir(parents=True)

    def start(self) -> list[int]:
        """The ids of the processes of another attempt."""
        assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork takes no threads with it"
        self.attempts += 1
        self.seen, self.left = self._written(), self._aside()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ids = []
        for rank in range(self.processes):
            pid = os.fork()
            if not pid:
                self._be(rank, port)
            ids.append(pid)
        return ids

    def _be(self, rank: int, port: int) -> None:
        """Be one process of the run; never returns."""
        code = 1
        try:
            for descriptor in (1, 2):
                os.dup2(os.open(self.folder / f"said-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            if self.processes > 1:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(self.processes),
                    "ACCELERATE_USE_CPU": "true",
                }
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self._keep_ledger(rank)
            from xsap.config import load_settings
            from xsap.training.run import run

            run(load_settings(None, self.settings))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _keep_ledger(self, rank: int) -> None:
        from xsap.encoding.packing import Tokens
        from xsap.training.trainer import Trainer

        ledger = os.open(self._ledger(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        step, take, now = Trainer._step, Tokens.take, []

        def stepped(trainer: Trainer, number: int) -> Any:
            now.append(number)
            done = step(trainer, number)
            now.clear()
            return done

        def taken(tokens: Tokens, rows: Any) -> Tokens:
            if now:
                os.write(
                    ledger, (json.dumps([self.attempts, now[0], rows.tolist()]) + "\n").encode()
                )  # in one piece, or not at all
            return take(tokens, rows)

        Trainer._step, Tokens.take = stepped, taken

    def _ledger(self, rank: int) -> Path:
        return self.folder / f"ledger-{rank}"

    def _written(self) -> int:
        return self._ledger(0).stat().st_size if self._ledger(0).exists() else 0

    def wait(self, ids: list[int], seconds: float = float("inf"), until: Callable[[], bool] = lambda: False) -> bool:
        """Let so much time go by, or that come true, unless the run ends before → whether it is still alive."""
        end = time.monotonic() + seconds
        while alive(ids[0]) and time.monotonic() < end and not until():
            time.sleep(0.001)
        return alive(ids[0])

    def stepping(self) -> bool:
        """Whether this attempt has begun a step."""
        return self._written() > self.seen

    def _aside(self) -> set[Path]:
        """What is being written, or was when a kill came: checkpoints, and the model."""
        return {*self.folder.glob("run/checkpoints/.step-*"), *self.folder.glob("run/.model.*")}

    def saving(self) -> bool:
        """Whether this attempt is writing a checkpoint or the model."""
        return bool(self._aside() - self.left)

    def saved(self) -> bool:
        """Whether the last step is in a checkpoint."""
        return (self.folder / "run" / "checkpoints" / f"step-{self.steps}").is_dir()

    def attempt(self, phase: str, seconds: dict[str, float], rng: random.Random) -> None:
        """Start, and kill at a random moment of a phase. seconds: how long each is thought to last; learnt from how it went."""
        begin, over = {
            "start": (lambda: True, self.stepping),
            "step": (
                self.stepping,
                lambda: self.newest() >= reached + 2,
            ),  # of several steps, lest all be done too soon
            "save": (self.saving, lambda: not self.saving()),
            "end": (lambda: self.saved() and self.saving(), lambda: False),
        }[phase]
        reached = self.newest()
        ids = self.start()
        self.wait(ids, until=begin)
        if self.wait(ids, rng.uniform(0, seconds[phase]), until=over):
            seconds[phase] *= 0.7 if over() else 1.1
            self.kill(ids, rng.randrange(self.processes))
        else:
            seconds[phase] *= 0.7
            self.reap(ids)

    def kill(self, ids: list[int], which: int) -> None:
        """Kill one process; the others end by themselves, for want of it, or are ended as a launcher does."""
        os.kill(ids[which], signal.SIGKILL)
        os.waitpid(ids[which], 0)
        self.counts["kills"] += 1
        self.counts["in a save"] += self.saving()
        for pid in ids[:which] + ids[which + 1 :]:
            until = time.monotonic() + 2
            while alive(pid) and time.monotonic() < until:
                time.sleep(0.01)
            for number in (signal.SIGTERM, signal.SIGKILL):
                if alive(pid):
                    self.counts[f"others ended by {number.name}"] += 1
                    os.kill(pid, number)
                    time.sleep(1)
            os.waitpid(pid, 0)
        self._look()

    def _look(self) -> None:
        from xsap.artifacts import open_artifact
        from xsap.errors import ArtifactError

        places = sorted(
            self.folder.glob("run/checkpoints/step-*"), key=lambda place: int(place.name.removeprefix("step-"))
        )
        for place in places[-KEPT:]:
            try:
                open_artifact(place, "checkpoint")
            except ArtifactError:
                self.counts["unreadable checkpoints"] += 1

    def newest(self) -> int:
        """Steps of the newest checkpoint."""
        places = self.folder.glob("run/checkpoints/step-*")
        return max((int(place.name.removeprefix("step-")) for place in places), default=0)

    def reap(self, ids: list[int]) -> None:
        """All must have ended well."""
        if any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ids):
            raise AssertionError((self.folder / "said-0").read_text())

    def finish(self) -> dict[str, float]:
        """Let an attempt come to its end → seconds before its first step, for two steps, for a save, and after the last step."""
        times, looks = [time.monotonic()], [0, 0]

        def saved() -> bool:
            looks[self.saving()] += 1
            return self.saved()

        ids = self.start()
        for until in (self.stepping, saved, lambda: False):
            self.wait(ids, until=until)
            times.append(time.monotonic())
        self.reap(ids)
        before, during, after = (later - sooner for sooner, later in pairwise(times))
        return {
            "start": before,
            "step": 2 * during / self.steps,
            "save": looks[1] / sum(looks) * during / self.steps,
            "end": after,
        }


def alive(pid: int) -> bool:
    """Whether a child runs, without taking note of its end."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path, sample_names: list[str]) -> list[str]:
    """Settings that name a terminology and a tiny model."""
    from xsap.encoding.model_folder import EncoderConfig
    from xsap.encoding.vocabulary import from_scratch
    from xsap.text import TextPolicy

    size = {"vocabulary_size": 1500, "layers": 1, "hidden": 32, "heads": 2, "dropout": 0.1}
    base = tmp_path_factory.mktemp("base") / "model"
    from_scratch(sample_names, EncoderConfig("mean", 25, TextPolicy("lower")), **size, seed=1).save_pretrained(base)
    return [f"terminology={sample_folder}", f"base={base}", "sampling.languages=en+de+ja_syn", *RUN]


def killed(
    made: list[str], folder: Path, *, processes: int, steps: int, kills: dict[str, int], last: int
) -> dict[str, Any]:
    given = {
        "settings": made,
        "folder": str(folder),
        "processes": processes,
        "steps": steps,
        "kills": kills,
        "last": last,
        "seed": 0,
    }
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    environment["JE_ARROW_MALLOC_CONF"] = "background_thread:false"
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(given)], capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


def log_of(folder: Path) -> list[tuple[float, ...]]:
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [tuple(line[key] for key in ("step", "loss", "lr", "names", "tokens")) for line in lines]


def ledger_of(folder: Path, rank: int) -> dict[int, dict[int, list[list[int]]]]:
    """Step → attempt → the rows that it took, part after part."""
    steps: dict[int, dict[int, list[list[int]]]] = {}
    for attempt, step, rows in map(json.loads, (folder / f"ledger-{rank}").read_text().splitlines()):
        steps.setdefault(step, {}).setdefault(attempt, []).append(rows)
    return steps


def assert_nothing_lost(folder: Path, processes: int, steps: int) -> None:
    """The same rows, the same log and the same weights to the bit; three processes add up in an order that a resumption may change, so
    theirs are the same but for rounding."""
    unbroken, broken = folder / "unbroken", folder / "broken"
    for rank in range(processes):
        wanted, found = ledger_of(unbroken, rank), ledger_of(broken, rank)
        assert sorted(wanted) == sorted(found) == list(range(steps))
        for step, takes in found.items():
            ((_, whole),) = wanted[step].items()
            assert (
                len(whole) == 1 or whole[: len(whole) // 2] == whole[len(whole) // 2 :]
            )  # parts, for the loss and for the gradient
            assert all(
                taken == whole[: len(taken)] for taken in takes.values()
            )  # cut short by a kill, but never other rows
            assert whole in takes.values()
    if processes < 3:
        assert log_of(broken) == log_of(unbroken)
    else:
        assert np.array(log_of(broken)) == pytest.approx(np.array(log_of(unbroken)), rel=1e-4)
    assert [line[0] for line in log_of(unbroken)] == list(range(1, steps + 1))
    for file in (f"checkpoints/step-{steps}/{name}.safetensors" for name in ("model", "optimizer", "arrays")):
        assert_same(broken / "run" / file, unbroken / "run" / file, exact=processes < 3)
    model = Path("run", "model", "model.safetensors")
    assert_same(broken / model, unbroken / model, exact=processes < 3)
    assert "passed over" not in (broken / "said-0").read_text()


def assert_same(file: Path, other: Path, *, exact: bool) -> None:
    tensors, others = load_file(file), load_file(other)
    assert tensors.keys() == others.keys()
    for name in others:
        assert (
            torch.equal(tensors[name], others[name])
            if exact
            else torch.allclose(tensors[name], others[name], atol=1e-3)
        ), (file, name)


@pytest.mark.slow
def test_a_hundred_kills_cost_nothing_but_time(made: list[str], tmp_path: Path) -> None:
    counts = killed(made, tmp_path, processes=1, steps=120, kills={"start": 10, "step": 50, "save": 30}, last=10)
    assert counts["kills"] == 100
    assert counts.get("unreadable checkpoints", 0) == 0
    assert_nothing_lost(tmp_path, 1, 120)
    assert counts["in a save"] >= 10
    broken, unbroken = ({path.name for path in (tmp_path / name / "run").rglob("*")} for name in ("broken", "unbroken"))
    assert broken == unbroken


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(2, {"start": 1, "step": 5, "save": 3}), (3, {"step": 3})])
def test_kills_of_one_of_several_processes_cost_nothing_either(
    made: list[str], tmp_path: Path, processes: int, kills: dict[str, int]
) -> None:
    counts = killed(made, tmp_path, processes=processes, steps=40, kills=kills, last=1)
    assert counts["kills"] == sum(kills.values()) + 1
    assert counts.get("unreadable checkpoints", 0) == 0
    assert_nothing_lost(tmp_path, processes, 40)


def main() -> None:
    """Arguments in JSON: settings, folder, processes, steps, kills of each phase, seed. Prints counts and seconds."""
    given = json.loads(sys.argv[1])
    import datasets  # noqa: F401
    import transformers.models.xlm_roberta.modeling_xlm_roberta  # noqa: F401

    import xsap.training.run  # noqa: F401

    torch.set_num_threads(1)
    folder, rng, processes = Path(given["folder"]), random.Random(given["seed"]), given["processes"]
    unbroken, broken = (
        Killer(given["settings"], folder / name, processes, given["steps"]) for name in ("unbroken", "broken")
    )
    seconds = unbroken.finish()
    for phase in rng.sample(
        [phase for phase, kills in given["kills"].items() for _ in range(kills)], sum(given["kills"].values())
    ):
        broken.attempt(phase, seconds, rng)
    broken.counts["steps by then"] = broken.newest()
    while broken.counts["kills"] < sum(given["kills"].values()) + given["last"]:
        broken.attempt("end", seconds, rng)
    broken.reap(broken.start())
    print(json.dumps(broken.counts | {"attempts": broken.attempts, "seconds": seconds}))


if __name__ == "__main__":
    main()
