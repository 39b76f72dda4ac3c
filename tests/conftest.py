"""What several tests share: the sample terminology, and small encoders made on the spot."""

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.fixtures.commands import ROOT, Launch, Run, Shell, Template, environment, ranks
from tests.fixtures.template import LIBRARIES

# Machines that run tests are busy, so there are no deadlines. See fixtures/examples.py for tests that state a number of examples.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("XSAP_DTYPE", "float32")  # what --dtype auto is, on any processor


gc.disable()  # until all tests are imported: what the imports make stays


def pytest_collection_finish() -> None:
    """Leave modules and tests out of every later garbage collection, each of which took more than a second with them."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power. Those of what is written, in which order, put a function of their own here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """The process whose forks run commands."""
    process = Template(tmp_path_factory.mktemp("template"))
    yield process
    process.stop()


@pytest.fixture(scope="session")
def run(template: Template) -> Run:
    """Run a command as a user would type it, from a folder outside the checkout, and return what it printed.

    A program of this repository, code (`-c`) or a script is a fork of the template; whatever else `python` is called
    with, and what asks for `fresh`, is a new interpreter.
    """

    def call(
        *words: object, cwd: Path | None = None, fresh: bool = False, **options: object
    ) -> subprocess.CompletedProcess[str]:
        ours = words[0] == "-c" or words[0] == "-m" and words[1].partition(".")[0] in LIBRARIES
        if (ours or isinstance(words[0], Path)) and not fresh and not options:
            return template.run(words, cwd)
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd or "/", env=environment(), timeout=300, **options
        )

    return call


@pytest.fixture
def forked_python(monkeypatch: pytest.MonkeyPatch, template: Template) -> None:
    """What the code under test runs in a Python of its own, with `subprocess.run`, is a fork of the template."""
    start = subprocess.run

    def run_in_fork(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] != sys.executable:
            return start(command, **options)
        done = template.run(command[1:], options.get("cwd") or Path.cwd(), [options.get("env", {})])
        if options.get("check"):
            done.check_returncode()
        return done

    monkeypatch.setattr(subprocess, "run", run_in_fork)


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run` for `-m xsap`, `data_prep` or `benchmarks`, in this process."""

    def call(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        _, module, *rest = map(str, words)
        main = importlib.import_module("xsap.cli" if module == "xsap" else f"{module}.__main__").main
        with monkeypatch.context() as patch:
            patch.chdir(cwd or "/")
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setattr(sys, "argv", [module, *rest])
            with pytest.raises(SystemExit) as stop:
                main()
        return subprocess.CompletedProcess(words, int(stop.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def launch(template: Template) -> Launch:
    """Run a script in several processes that know of each other, as torchrun does: `launch(2, script, *arguments)`."""

    def call(processes: int, *words: object) -> subprocess.CompletedProcess[str]:
        return template.run(words, None, ranks(processes))

    return call


@pytest.fixture(scope="session")
def shell(template: Template) -> Shell:
    """Run a line of the shell in a folder, with `xsap`, `xsap-prepare` and `python` those of this checkout."""

    def call(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        path = f"{template.programs()}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment() | {"PATH": path}, timeout=600
        )  # fmt: skip

    return call


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The sample terminology as a terminology folder."""
    out = tmp_path_factory.mktemp("sample") / "terminology"
    done = run("-m", "data_prep", "umls", ROOT / "data_prep" / "sample", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def sample_names(sample_folder: Path) -> list[str]:
    """All names of the sample terminology."""
    from xsap.terms.terminology import Terminology

    return Terminology.load(sample_folder).names["name"].to_pylist()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, sample_names: list[str]) -> Path:
    """A model folder of ours: an XLM-R of two narrow layers from scratch, mean pooling, lower case."""
    from xsap.encoding.model_folder import EncoderConfig
    from xsap.encoding.vocabulary import from_scratch
    from xsap.text import TextPolicy

    description = EncoderConfig("mean", 32, TextPolicy("lower", "NFKC"))
    size = {"vocabulary_size": 3000, "layers": 2, "hidden": 64, "heads": 4, "dropout": 0.1}
    folder = tmp_path_factory.mktemp("tiny") / "model"
    from_scratch(sample_names, description, **size, seed=1).save_pretrained(folder)
    return folder
