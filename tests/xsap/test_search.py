import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.search import exact as module
from xsap.search.exact import check_finite, search


def brute_force(vectors, queries, k):
    """Every score in float64, a full stable sort: greatest first, equal ones by row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def assert_same(vectors, queries, k, **settings):
    scores, rows = search(vectors, queries, k, **settings)
    expected_scores, expected_rows = brute_force(vectors, queries, k)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores.astype(np.float32))


def whole_numbers(rng, n, d, largest=2):
    """Small whole numbers: their dot products are exact in float32, and most of them tie."""
    return rng.integers(-largest, largest + 1, size=(n, d)).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 700),
    q=st.integers(1, 6),
    d=st.integers(1, 4),
    k=st.integers(1, 12),
    block=st.sampled_from([1, 7, 64, 500, 4096, 1 << 23]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ties_and_block_boundaries_against_brute_force(n, q, d, k, block, seed):
    rng = np.random.default_rng(seed)
    assert_same(whole_numbers(rng, n, d), whole_numbers(rng, q, d), k, block=block)


def test_many_queries_are_searched_in_parts(monkeypatch):
    monkeypatch.setattr(module, "_QUERIES", 4)
    rng = np.random.default_rng(0)
    assert_same(whole_numbers(rng, 300, 8), whole_numbers(rng, 11, 8), 5, block=256)


def test_groups_rule_out_most_rows_but_never_a_right_one():
    rng = np.random.default_rng(0)
    for n in (4 * 10 * 32 + 1, 5000, 20_001):  # all above the width from which groups are used
        vectors = rng.standard_normal((n, 16), dtype=np.float32)
        rows = search(vectors, vectors[:50], 10)[1]
        np.testing.assert_array_equal(rows, brute_force(vectors, vectors[:50], 10)[1])
        assert_same(whole_numbers(rng, n, 12), whole_numbers(rng, 20, 12), 10)  # the best few differ, and the next tie


@pytest.mark.parametrize("order", ["worst first", "best first", "shuffled", "all but one query done"])
@pytest.mark.parametrize("k", [2, 40])
def test_later_blocks_are_held_to_what_earlier_ones_found(order, k):
    rng = np.random.default_rng(0)
    vectors, queries = whole_numbers(rng, 6000, 3, 9), np.abs(whole_numbers(rng, 5, 3, 3))
    if order != "shuffled":
        vectors = vectors[np.argsort(vectors.sum(1), kind="stable")]
        vectors = vectors if order == "worst first" else np.ascontiguousarray(vectors[::-1])
    if order == "all but one query done":
        queries[2] *= -1
    for block in (5 * 40, 5 * 600):  # less and more than the groups of k rows
        assert_same(vectors, queries, k, block=block)


def test_all_scores_equal_gives_the_first_rows():
    for n in (20, 5000):
        scores, rows = search(np.ones((n, 3), np.float32), np.ones((2, 3), np.float32), 7, block=1024)
        assert rows.tolist() == [list(range(7))] * 2
        assert (scores == 3).all()


def test_more_wanted_than_there_is():
    rng = np.random.default_rng(1)
    scores, rows = search(whole_numbers(rng, 5, 3), whole_numbers(rng, 4, 3), 9, block=8)
    assert scores.shape == rows.shape == (4, 5)
    assert sorted(rows[0].tolist()) == [0, 1, 2, 3, 4]


def test_nothing_to_search_and_nothing_asked():
    assert search(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), 4)[1].shape == (2, 0)
    assert search(np.ones((5, 3), np.float32), np.empty((0, 3), np.float32), 4)[0].shape == (0, 4)


def test_negative_scores_beat_the_filling_of_a_block():
    vectors = -np.ones((33, 2), np.float32)
    scores, rows = search(vectors, np.ones((1, 2), np.float32), 33)
    assert (scores == -2).all()
    assert rows.tolist() == [list(range(33))]


@pytest.mark.filterwarnings("error")
def test_a_read_only_memory_map_and_a_strided_view(tmp_path):
    rng = np.random.default_rng(2)
    vectors, queries = whole_numbers(rng, 3000, 4), whole_numbers(rng, 3, 4)
    np.save(tmp_path / "v.npy", vectors)
    assert_same(np.load(tmp_path / "v.npy", mmap_mode="r"), queries, 6, block=1000)
    assert_same(vectors[::2], queries[:, ::-1], 6)


def test_what_is_not_finite_is_refused():
    vectors = np.zeros((10, 3), np.float32)
    vectors[7, 1] = np.nan
    with pytest.raises(DataError, match=r"these must be finite numbers; found another in row 7"):
        check_finite(vectors, "these")
    with pytest.raises(DataError, match="query vectors"):
        search(np.zeros((2, 3), np.float32), np.full((1, 3), np.inf, np.float32), 1)
    with pytest.raises(AssertionError, match="components"):
        search(np.zeros((2, 3), np.float32), np.zeros((1, 4), np.float32), 1)
