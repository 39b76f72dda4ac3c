import math

import numpy as np
import pytest

from xsap.linking.metrics import MISS, bootstrap_interval, hits, macro_mean, mean, rank_of, rank_of_all, reciprocal_ranks, split_ids

RANKS = np.array([0, 1, 4, 5, MISS])


def test_a_table_worked_by_hand():
    assert hits(RANKS, 1).tolist() == [1, 0, 0, 0, 0]
    assert hits(RANKS, 2).tolist() == [1, 1, 0, 0, 0]
    assert hits(RANKS, 5).tolist() == [1, 1, 1, 0, 0]
    assert hits(RANKS, 6).tolist() == [1, 1, 1, 1, 0]
    assert mean(hits(RANKS, 5)) == pytest.approx(0.6)
    assert mean(reciprocal_ranks(RANKS)) == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6 + 0) / 5)


def test_rank_of_the_first_right_candidate():
    assert rank_of([["A"], ["B", "C"], ["D"]], ["C", "D"]) == 1
    assert rank_of([["A"]], ["B"]) == MISS
    assert rank_of([], ["B"]) == MISS
    assert rank_of([["A"]], []) == MISS


def test_a_query_of_several_parts_is_as_good_as_its_worst():
    assert rank_of_all([3]) == 3
    assert rank_of_all([0, 4, 2]) == 4
    assert rank_of_all([0, MISS]) == MISS


def test_ids_are_split_at_both_signs():
    assert split_ids("D1|D2+D3") == {"D1", "D2", "D3"}
    assert split_ids("D1") == {"D1"}


def test_macro_mean_counts_each_group_alike():
    assert macro_mean([np.array([1.0]), np.array([0.0, 0.0, 1.0])]) == pytest.approx((1 + 1 / 3) / 2)


def test_nothing_says_nothing():
    empty = np.array([], np.int64)
    assert math.isnan(mean(hits(empty, 1)))
    assert math.isnan(macro_mean([]))
    assert all(map(math.isnan, bootstrap_interval([hits(empty, 1)], seed=0)))
    assert all(map(math.isnan, bootstrap_interval([], seed=0)))


def test_bootstrap_is_a_function_of_seed_and_values():
    values = hits(np.random.default_rng(0).integers(0, 3, 200), 1)
    assert bootstrap_interval([values], seed=1) == bootstrap_interval([values], seed=1)
    assert bootstrap_interval([values], seed=1) != bootstrap_interval([values], seed=2)
    assert bootstrap_interval([np.ones(5)], seed=0) == (1.0, 1.0)


def test_bootstrap_agrees_with_a_plain_loop():
    values = np.random.default_rng(0).random(40)
    rng = np.random.default_rng(7)
    means = [rng.choice(values, 40).mean() for _ in range(4000)]
    low, high = bootstrap_interval([values], seed=3, resamples=4000, level=0.9)
    assert low == pytest.approx(np.quantile(means, 0.05), abs=0.005)
    assert high == pytest.approx(np.quantile(means, 0.95), abs=0.005)


def test_samples_drawn_in_parts_are_all_drawn(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval([values], seed=3)
    monkeypatch.setattr("xsap.linking.metrics._DRAWN", 333)
    assert bootstrap_interval([values], seed=3) == whole  # the generator goes on where it was


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_truth_as_often_as_it_says(level):
    """Two groups of unequal size and truth: the interval of the macro mean, over 400 worlds."""
    rng = np.random.default_rng(5)
    covered = 0
    for world in range(400):
        groups = [(rng.random(60) < 0.3).astype(float), (rng.random(200) < 0.7).astype(float)]
        low, high = bootstrap_interval(groups, seed=world, resamples=400, level=level)
        covered += low <= 0.5 <= high
    assert covered / 400 == pytest.approx(level, abs=0.05)
