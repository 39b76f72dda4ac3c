"""The race of scoring: the reference finds what brute force does, the check can fail, and the seconds are put together as stated."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.speed import scoring
from benchmarks.speed.scoring import (
    APART,
    OURS,
    REFERENCE,
    check_agreement,
    compare_speed,
    reference_search,
    to_text,
    unit_vectors,
)
from tests.fixtures.commands import Run

TINY = {"names": 300, "mentions": 10, "dimension": 16}


@pytest.fixture
def clock(monkeypatch):
    """Half the reference's part takes 1 s, ours 4, the other half 3; of two cores they have 1.5, 2 and 0.5 s a second."""
    times, of_cpu = iter([0, 1, 10, 14, 20, 23]), iter([0, 1.5, 2, 10, 11, 12.5])
    monkeypatch.setattr(
        scoring, "time", SimpleNamespace(perf_counter=lambda: next(times), process_time=lambda: next(of_cpu))
    )


def test_vectors_are_of_unit_length_and_a_seeds_own():
    vectors = unit_vectors(50, 8, np.random.default_rng(3))
    np.testing.assert_allclose((vectors.astype(np.float64) ** 2).sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, unit_vectors(50, 8, np.random.default_rng(3)))
    assert vectors.dtype == np.float32
    assert (vectors != unit_vectors(50, 8, np.random.default_rng(4))).any()


def test_the_reference_finds_what_brute_force_does():
    rng = np.random.default_rng(0)
    vectors, queries = unit_vectors(400, 16, rng), unit_vectors(7, 16, rng)
    expected = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :20]
    np.testing.assert_array_equal(reference_search(vectors, queries, 20), expected)


def test_the_check_sees_another_name_but_not_an_equal_ones_place():
    vectors, queries = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]], np.array([[0.8, 0.6, 0, 0]], np.float32)
    right, swapped = np.array([[0, 1, 2]]), np.array([[1, 0, 2]])
    assert check_agreement(vectors, queries, {"a": right, "b": right}) == {"cosine": 0, "same_rows": 1}
    assert check_agreement(vectors, queries, {"a": right, "b": swapped}) == {
        "cosine": 0,
        "same_rows": pytest.approx(1 / 3),
    }
    with pytest.raises(AssertionError, match=r"their cosines are up to 0\.6 apart"):
        check_agreement(vectors, queries, {"a": right, "b": np.array([[0, 1, 3]])})
    with pytest.raises(AssertionError, match="found twice"):
        check_agreement(vectors, queries, {"a": right, "b": np.array([[0, 0, 2]])})
    with pytest.raises(AssertionError, match=r"\(1, 3\) rows by one side, \(1, 2\) by the other"):
        check_agreement(vectors, queries, {"a": right, "b": right[:, :2]})
    nudged = vectors.copy()
    nudged[1, 0] -= 4 * APART
    with pytest.raises(AssertionError, match="apart"):
        check_agreement(nudged, queries, {"a": right, "b": swapped})


def test_ours_answers_all_and_the_reference_a_part_that_is_multiplied(clock, monkeypatch):
    asked = []
    monkeypatch.setattr(
        scoring, "reference_search", lambda v, some, k: asked.append(len(some)) or reference_search(v, some, k)
    )
    result = compare_speed(**TINY, part=5)
    assert asked == [2, 2, 3]  # the warm-up, and a half before and a half after
    theirs, ours = result["sides"][REFERENCE], result["sides"][OURS]
    assert theirs == {"measured": 5, "all_seconds": [1, 3], "seconds": 8, "extrapolated": True}
    assert ours == {"measured": 10, "all_seconds": [4], "seconds": 4, "extrapolated": False}
    assert result["times_as_fast"] == 2
    assert result["cores_busy"] == {REFERENCE: (1.5 + 1.5) / 4, OURS: 8 / 4}
    assert result["flops_a_second"] == 2 * 300 * 10 * 16 / 4
    assert result["agreement"]["cosine"] <= APART
    assert result["within_bars"] is None  # of another size
    json.dumps(result)
    lines = to_text(result).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        REFERENCE,
        "5",
        "4.0",
        "8.0 (extrapolated)",
        "800.00",
        "1.0",
    ]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == [OURS, "10", "4.0", "4.0", "400.00", "2.0"]
    assert (
        "- one mention at a time: measured on 50 % of the mentions, half before ours and half after (1.0 and 3.0 s), and multiplied"
        in lines
    )
    assert not any("bars" in line for line in lines)


def test_the_same_seed_gives_the_same_race(monkeypatch):
    asked = []
    monkeypatch.setattr(
        scoring, "reference_search", lambda v, some, k: asked.append(some) or reference_search(v, some, k)
    )
    for seed in (5, 5, 6):
        compare_speed(**TINY, part=4, seed=seed)
    first, again, other = asked[0], asked[3], asked[6]
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_search_that_finds_other_names_ends_the_race(monkeypatch):
    monkeypatch.setattr(scoring, "reference_search", lambda v, some, k: reference_search(-v, some, k))
    with pytest.raises(AssertionError, match="the sides found different names"):
        compare_speed(**TINY, part=5)


@pytest.mark.parametrize(("seconds", "ratio", "code"), [(4, 2, 0), (3.9, 2, 3), (4, 2.1, 3)])
def test_bars_are_for_the_full_size_and_a_missed_one_is_exit_code_3(clock, monkeypatch, capsys, seconds, ratio, code):
    for name, value in (("FULL", TINY), ("MOST_SECONDS", seconds), ("LEAST_RATIO", ratio)):
        monkeypatch.setattr(scoring, name, value)
    with pytest.raises(SystemExit) as ended:
        main(["speed", "scoring", "--names", "300", "--mentions", "10", "--dimension", "16", "--part", "5"])
    assert ended.value.code == code
    verdict = f"- {'NOT within' if code else 'within'} the bars: at most {seconds} s, at least {ratio} times as fast"
    assert capsys.readouterr().out.splitlines()[-1] == verdict


def test_from_a_shell(tmp_path, run: Run):
    assert (scoring.FULL, scoring.MOST_SECONDS, scoring.LEAST_RATIO) == (
        {"names": 400_000, "mentions": 10_000, "dimension": 768},
        90,
        20,
    )
    done = run(
        "-m",
        "benchmarks",
        "speed",
        "scoring",
        "--names",
        50,
        "--mentions",
        4,
        "--dimension",
        8,
        "--json",
        tmp_path / "r.json",
    )
    assert done.returncode == 0, done.stderr
    assert "times as fast" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["k"], result["sides"][REFERENCE]["extrapolated"]) == (50, False)
