"""Resume: a run that is killed a hundred times, also while saving, ends bit by bit like one that was not interrupted.

Run as a program, this file starts and kills the runs. It imports everything once and forks a process per attempt, because imports take
longer than the run. Each process of a run logs the rows of the names of each step to a file before it encodes them.
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
    """Attempts at one run, on one process or several, each killed at some moment.

    folder: where the run and its row logs are.
    """

    def __init__(self, settings: list[str], folder: Path, processes: int, steps: int) -> None:
        self.folder, self.processes, self.steps = folder, processes, steps
        self.settings = [*settings, f"max_steps={steps}", f"output={folder / 'run'}", "resume=auto"]
        self.attempts = 0
        self.counts: Counter[str] = Counter()
        folder.mkdir(parents=True)

    def start(self) -> list[int]:
        """Start another attempt; the ids of its processes."""
        assert len([*Path("/proc/self/task").iterdir()]) == 1, "a fork does not copy threads"
        self.attempts += 1
        self.logged, self.left = self._log_size(), self._temporary()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        ids = []
        for rank in range(self.processes):
            pid = os.fork()
            if not pid:
                self._run(rank, port)
            ids.append(pid)
        return ids

    def _run(self, rank: int, port: int) -> None:
        """Run one process; never returns."""
        code = 1
        try:
            for descriptor in (1, 2):
                os.dup2(os.open(self.folder / f"output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            if self.processes > 1:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(self.processes),
                    "ACCELERATE_USE_CPU": "true",
                }
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            self._log_rows(rank)
            from xsap.config import load_settings
            from xsap.training.run import train

            train(load_settings(None, self.settings))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _log_rows(self, rank: int) -> None:
        """Log the rows of each step's names. Rows taken without gradients are those of a search for hard negatives."""
        from xsap.encoding.packing import Tokens
        from xsap.training.sampling import GroupSampler

        log = os.open(self._row_log(rank), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        batch, take, steps = GroupSampler.batch, Tokens.take, []

        def recorded_batch(sampler: GroupSampler, epoch: int, step: int) -> Any:
            steps.append(epoch * sampler.steps_per_epoch + step)
            return batch(sampler, epoch, step)

        def recorded_take(tokens: Tokens, rows: Any) -> Tokens:
            if torch.is_grad_enabled():
                line = json.dumps([self.attempts, steps[-1], rows.tolist()]) + "\n"
                os.write(log, line.encode())  # one call, so that a line is written as a whole or not at all
            return take(tokens, rows)

        GroupSampler.batch, Tokens.take = recorded_batch, recorded_take

    def _row_log(self, rank: int) -> Path:
        return self.folder / f"rows-{rank}"

    def _log_size(self) -> int:
        return self._row_log(0).stat().st_size if self._row_log(0).exists() else 0

    def wait(self, ids: list[int], seconds: float = float("inf"), until: Callable[[], bool] = lambda: False) -> bool:
        """Wait for that many seconds, a condition, or the end of the run. Returns whether the run is still alive."""
        end = time.monotonic() + seconds
        while alive(ids[0]) and time.monotonic() < end and not until():
            time.sleep(0.001)
        return alive(ids[0])

    def stepping(self) -> bool:
        """Whether this attempt has begun a step."""
        return self._log_size() > self.logged

    def _temporary(self) -> set[Path]:
        """Checkpoints and models that are being written, or were when a process was killed."""
        return {*self.folder.glob("run/checkpoints/.step-*"), *self.folder.glob("run/.model.*")}

    def saving(self) -> bool:
        """Whether this attempt is writing a checkpoint or the model."""
        return bool(self._temporary() - self.left)

    def saved(self) -> bool:
        """Whether there is a checkpoint of the last step."""
        return (self.folder / "run" / "checkpoints" / f"step-{self.steps}").is_dir()

    def attempt(self, phase: str, seconds: dict[str, float], rng: random.Random) -> None:
        """Start, and kill at a random moment of a phase. seconds: estimated duration of each phase, which is adapted."""
        begin, over = {
            "start": (lambda: True, self.stepping),
            "step": (
                self.stepping,
                lambda: self.newest() >= reached + 2,
            ),  # several steps, so that the run is not done too soon
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
        """Kill one process; the others fail without it, or are terminated as a launcher does."""
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
        self._count_unreadable()

    def _count_unreadable(self) -> None:
        from xsap.artifacts import open_artifact
        from xsap.errors import ArtifactError

        paths = sorted(
            self.folder.glob("run/checkpoints/step-*"), key=lambda path: int(path.name.removeprefix("step-"))
        )
        for path in paths[-KEPT:]:
            try:
                open_artifact(path, "checkpoint")
            except ArtifactError:
                self.counts["unreadable checkpoints"] += 1

    def newest(self) -> int:
        """Steps of the newest checkpoint."""
        paths = self.folder.glob("run/checkpoints/step-*")
        return max((int(path.name.removeprefix("step-")) for path in paths), default=0)

    def reap(self, ids: list[int]) -> None:
        """Wait for the processes; raise AssertionError if one failed."""
        if any(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ids):
            raise AssertionError((self.folder / "output-0").read_text())

    def finish(self) -> dict[str, float]:
        """Run an attempt to its end. Returns seconds before its first step, for two steps, for a save, and after the last step."""
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
    """Whether a child process runs; does not reap it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.fixture(scope="module")
def base_settings(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path, sample_names: list[str]) -> list[str]:
    """Settings with a terminology and a tiny model."""
    from tests.fixtures.encoders import save_one_layer_model

    folder = tmp_path_factory.mktemp("base") / "model"
    base = save_one_layer_model(folder, sample_names, dropout=0.1, vocabulary_size=1500)
    return [f"terminology={sample_folder}", f"base={base}", "sampling.languages=en+de+ja_syn", *RUN]


def run_and_kill(
    base_settings: list[str], folder: Path, *, processes: int, steps: int, kills: dict[str, int], last: int
) -> dict[str, Any]:
    given = {
        "settings": base_settings,
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


def rows_of(folder: Path, rank: int) -> dict[int, dict[int, list[list[int]]]]:
    """Step → attempt → the rows that it encoded, chunk by chunk."""
    steps: dict[int, dict[int, list[list[int]]]] = {}
    for attempt, step, rows in map(json.loads, (folder / f"rows-{rank}").read_text().splitlines()):
        steps.setdefault(step, {}).setdefault(attempt, []).append(rows)
    return steps


def assert_nothing_lost(folder: Path, processes: int, steps: int) -> None:
    """The same rows, log and weights, bit by bit; with three processes but for rounding, as the order of their sums may change."""
    whole_run, killed_run = folder / "whole_run", folder / "killed_run"
    for rank in range(processes):
        wanted, found = rows_of(whole_run, rank), rows_of(killed_run, rank)
        assert sorted(wanted) == sorted(found) == list(range(steps))
        for step, takes in found.items():
            ((_, whole),) = wanted[step].items()
            assert (
                len(whole) == 1 or whole[: len(whole) // 2] == whole[len(whole) // 2 :]
            )  # once for the loss and once for the gradient
            assert all(
                taken == whole[: len(taken)] for taken in takes.values()
            )  # cut short when killed, but never other rows
            assert whole in takes.values()
    if processes < 3:
        assert log_of(killed_run) == log_of(whole_run)
    else:
        assert np.array(log_of(killed_run)) == pytest.approx(np.array(log_of(whole_run)), rel=1e-4)
    assert [line[0] for line in log_of(whole_run)] == list(range(1, steps + 1))
    for file in (f"checkpoints/step-{steps}/{name}.safetensors" for name in ("model", "optimizer", "arrays")):
        assert_same(killed_run / "run" / file, whole_run / "run" / file, exact=processes < 3)
    model = Path("run", "model", "model.safetensors")
    assert_same(killed_run / model, whole_run / model, exact=processes < 3)
    assert "skipped damaged checkpoint" not in (killed_run / "output-0").read_text()


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
def test_run_killed_a_hundred_times_ends_like_an_uninterrupted_one(base_settings: list[str], tmp_path: Path) -> None:
    counts = run_and_kill(
        base_settings, tmp_path, processes=1, steps=120, kills={"start": 10, "step": 50, "save": 30}, last=10
    )
    assert counts["kills"] == 100
    assert counts.get("unreadable checkpoints", 0) == 0
    assert_nothing_lost(tmp_path, 1, 120)
    assert counts["in a save"] >= 10
    killed_run, whole_run = (
        {path.name for path in (tmp_path / name / "run").rglob("*")} for name in ("killed_run", "whole_run")
    )
    assert killed_run == whole_run


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(2, {"start": 1, "step": 5, "save": 3}), (3, {"step": 3})])
def test_run_on_several_processes_ends_like_an_uninterrupted_one_after_kills(
    base_settings: list[str], tmp_path: Path, processes: int, kills: dict[str, int]
) -> None:
    counts = run_and_kill(base_settings, tmp_path, processes=processes, steps=40, kills=kills, last=1)
    assert counts["kills"] == sum(kills.values()) + 1
    assert counts.get("unreadable checkpoints", 0) == 0
    assert_nothing_lost(tmp_path, processes, 40)


def main() -> None:
    """Kill and finish a run. The argument is JSON: settings, folder, processes, steps, kills per phase, seed. Prints counts and seconds."""
    given = json.loads(sys.argv[1])
    import datasets  # noqa: F401
    import transformers.models.xlm_roberta.modeling_xlm_roberta  # noqa: F401

    import xsap.training.run  # noqa: F401

    torch.set_num_threads(1)
    folder, rng, processes = Path(given["folder"]), random.Random(given["seed"]), given["processes"]
    whole_run, killed_run = (
        Killer(given["settings"], folder / name, processes, given["steps"]) for name in ("whole_run", "killed_run")
    )
    seconds = whole_run.finish()
    for phase in rng.sample(
        [phase for phase, kills in given["kills"].items() for _ in range(kills)], sum(given["kills"].values())
    ):
        killed_run.attempt(phase, seconds, rng)
    killed_run.counts["steps before the last kills"] = killed_run.newest()
    while killed_run.counts["kills"] < sum(given["kills"].values()) + given["last"]:
        killed_run.attempt("end", seconds, rng)
    killed_run.reap(killed_run.start())
    print(json.dumps(killed_run.counts | {"attempts": killed_run.attempts, "seconds": seconds}))


if __name__ == "__main__":
    main()
