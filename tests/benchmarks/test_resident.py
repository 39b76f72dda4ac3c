"""The race of searching on a device, run on the CPU: its figures by a clock that is set by hand, and what it checks first."""

import json

import numpy as np
import pytest
import torch

from benchmarks.speed import ablations as ablations
from benchmarks.speed import search as device_copy
from benchmarks.speed.search import PLAIN, SINGLES
from xsap.search import exact as scan

CPU = torch.device("cpu")
SMALL = {"names": 2000, "dimension": 24, "device": CPU, "batch": 32}


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_the_race(vector_dtype, tmp_path, monkeypatch):
    asked = []
    search = scan.search_vectors
    monkeypatch.setattr(
        scan,
        "search_vectors",
        lambda vectors, some, k, **options: (
            asked.append((len(some), list(options))) or search(vectors, some, k, **options)
        ),
    )
    result = device_copy.compare_speed(**SMALL, vector_dtype=vector_dtype, place=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert asked[:2] == [(10, ["resident"]), (10, [])]
    assert asked[2:] == [*6 * [(32, ["resident"])], *(SINGLES + 1) * [(1, ["resident"])]]
    sides = result["sides"]
    assert list(sides) == [PLAIN, "xsap resident"]
    assert sides["xsap resident"]["recall@10"] == 1
    assert 0.7 < sides[PLAIN]["recall@10"] <= 1  # it ranks by 16 bits
    assert result["device_bytes"] == 2000 * 24 * 2
    assert (result["seed"], result["k"], result["storage"], result["bars"]) == (0, 10, vector_dtype, [])
    json.dumps(result)
    device_copy.plot(result, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_figures_follow_from_the_clock(tmp_path, monkeypatch):
    seconds = {
        32: iter([99, 2, 4, 8, 1, 16]),
        "one": iter([99, *(SINGLES // 2) * [0.1, 0.3]]),
        "plain": iter(5 * [0.5, 1.5]),
    }

    def timed(step, given, device):
        if not isinstance(given, np.ndarray):
            return 7, step(given)  # the upload
        name = step.__name__
        return next(seconds[32 if len(given) == 32 else "plain" if name == "plain" else "one"]), step(given)

    monkeypatch.setattr(ablations, "timed", timed)
    rates = iter([[0.5], [1.5]])
    monkeypatch.setattr("benchmarks.speed.train.product_seconds", lambda precision, tokens, hidden, device: next(rates))
    result = device_copy.compare_speed(**SMALL, vector_dtype="int8", place=tmp_path)
    ours, theirs = result["sides"]["xsap resident"], result["sides"][PLAIN]
    assert ours["mentions_a_second"] == 32 / 4  # the first batch doesn't count
    assert theirs["mentions_a_second"] == 1
    assert result["times_as_fast"] == 8
    assert result["upload_seconds"] == 7
    assert (len(ours["single_seconds"]), max(ours["single_seconds"])) == (SINGLES, 0.3)
    rate = 8192 * 2 * 24 * 4 * 24 / 1
    assert result["product_flops_a_second"] == rate
    assert result["share_of_rate"] == pytest.approx(2000 * 24 * 2 * 8 / rate)
    text = device_copy.to_text(result)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2][:5] == [PLAIN, "1.0", "1.0", "1,000.0", "1,500.0"]
    assert rows[3] == ["xsap resident", "8.0", "8.0", "200.0", "300.0", "1.0000"]
    assert "batches of 32 mentions, exact for what is stored" in text


def test_other_rows_than_the_cpus_are_seen(tmp_path, monkeypatch):
    search = scan.search_vectors

    def wrong(vectors, queries, k, device_copy=None):
        scores, rows = search(vectors, queries, k, device_copy=device_copy)
        return scores, rows if device_copy is None else rows[:, ::-1]

    monkeypatch.setattr(scan, "search_vectors", wrong)
    with pytest.raises(AssertionError, match="other rows than without"):
        device_copy.compare_speed(**SMALL, vector_dtype="int8", place=tmp_path)
