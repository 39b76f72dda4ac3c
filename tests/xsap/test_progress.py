"""Progress of long work: a bar on a terminal, else few lines in the log."""

import re

import pytest

from xsap import progress
from xsap.progress import track


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_at_most_once_a_minute_however_often_it_advances(clock, caplog, capfd):
    with caplog.at_level("INFO", "xsap"), track("train", "steps", 10_000, bar=False, done=1_000) as advance:
        for step in range(9_000):
            clock[0] += 0.1
            advance(1, f"loss {step}" if step % 20 == 0 else "")
    lines = [record.message for record in caplog.records]
    assert 13 <= len(lines) <= 15
    assert re.fullmatch(r"train: 1,60\d of 10,000 steps, loss (580|600), 14 minutes left", lines[0])
    assert not set("\r%") & set("".join(capfd.readouterr()))  # no bar; the log itself may be shown


def test_work_of_less_than_a_minute_logs_nothing(clock, caplog):
    with caplog.at_level("INFO", "xsap"), track("train", "steps", 10, bar=False) as advance:
        for _ in range(10):
            clock[0] += 5.9
            advance(1, "loss 1")
    assert caplog.records == []


def test_bar_shows_count_and_note(capfd):
    with track("train", "steps", 10, bar=True, done=2) as advance:
        advance(8, "loss 0.5")
    shown = capfd.readouterr().err
    assert "train: 100%" in shown
    assert "10/10" in shown
    assert "loss 0.5" in shown


def test_tokenizing_draws_no_bar_into_a_file(run, tmp_path):
    code = (
        "import sys; from pathlib import Path; from xsap.encoding.vocabulary import train_tokenizer; "
        "from xsap.encoding.packing import tokenize_to_disk; names = ['fever', 'chest pain', 'cough and cold'] * 9; "
        "tokenize_to_disk(names, train_tokenizer(names, 60), 9, Path(sys.argv[1]), names_per_batch=2); "
        "import datasets; print(datasets.are_progress_bars_disabled())"
    )
    done = run("-c", code, tmp_path / "t.arrow")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    assert done.stderr == ""
