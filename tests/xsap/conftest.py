"""Fixtures for all tests of xsap."""

import copy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.commands import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_tokenizers: dict[tuple[tuple[str, ...], int], "PreTrainedTokenizerBase"] = {}


@pytest.fixture(scope="session")
def sample_index(tmp_path_factory: pytest.TempPathFactory, run: Run, tiny_folder: Path, sample_folder: Path) -> Path:
    """An index of the sample terminology, of an untrained model."""
    out = tmp_path_factory.mktemp("sample_index") / "index"
    done = run("-m", "xsap", "index", tiny_folder, sample_folder, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in the process; each run in a test starts as in a new process."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.PartialState._reset_state()


@pytest.fixture(scope="module", autouse=True)
def quick_training(request: pytest.FixtureRequest) -> Iterator[None]:
    """In modules that train: no run draws a report, and equal names and sizes get a copy of one tokenizer.

    Charts are half of the time of such small runs, and the vocabulary is a quarter. Runs on the command line do all.
    """
    if not hasattr(request.module, "train"):
        yield
        return
    from xsap.encoding import vocabulary
    from xsap.training import run

    train_tokenizer = vocabulary.train_tokenizer

    def train_once(names: Sequence[str], vocabulary_size: int) -> "PreTrainedTokenizerBase":
        key = (tuple(names), vocabulary_size)
        if key not in _tokenizers:
            _tokenizers[key] = train_tokenizer(names, vocabulary_size)
        return copy.deepcopy(_tokenizers[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "train_tokenizer", train_once)
        patch.setattr(run, "write_report", lambda output: None)
        yield
