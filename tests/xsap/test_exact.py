"""Exact search against a full sort of float64 scores: for every vector dtype, kind of approximate scores, filter and block size."""

import logging
import threading
from dataclasses import replace
from math import fsum

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.search import exact as module
from xsap.search.exact import (
    INT8_BATCH,
    INT8_MAX_K,
    ScoreBound,
    Sizes,
    device_scorer,
    exact_scores,
    float32_scorer,
    int8_is_faster,
    int8_scorer,
    scorers,
    search_array,
    search_vectors,
    upload,
)
from xsap.search.vectors import Vectors, check_finite, write_vectors

VECTOR_DTYPES = ("float32", "float16", "int8")


def with_codes(array, vector_dtype="float32"):
    """Vectors that have int8 codes, however few they are."""
    return Vectors.from_array(array, vector_dtype, min_rows_with_codes=1)


def int8_of(vectors, queries, **options):
    """int8 scores; by a plain product on processors without the instructions."""
    if not int8_is_faster():
        options["product"] = lambda left, right, out: out.copy_(left.int() @ right.int())
    return int8_scorer(vectors, queries, **options)


def int8_first(vectors, queries, k, device_copy):
    """As `scorers`, but int8 comes first for any k, on any processor."""
    if device_copy is not None:
        return [device_scorer(vectors, queries, device_copy)]
    int8 = [int8_of(vectors, queries)] if vectors.codes is not None and vectors.dimension > 1 else []
    return [*int8, float32_scorer(vectors, queries)]


def search(vectors, queries, k, *, scorers=int8_first, rows=None, device_copy=None, **sizes):
    return search_vectors(
        vectors, queries, k, rows=rows, device_copy=device_copy, sizes=Sizes(**sizes), scorers=scorers
    )


def brute_force(vectors, queries, k, rows=None):
    """Every score in float64, rounded to float32; a full stable sort: greatest first, equal ones by row."""
    kept = np.arange(len(vectors)) if rows is None else rows
    scores = (queries.astype(np.float64) @ vectors.take(kept).astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), kept[order]


def assert_same(vectors, queries, k, **options):
    scores, rows = search(vectors, queries, k, **options)
    expected_scores, expected_rows = brute_force(vectors, queries, k, options.get("rows"))
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def assert_same_in_array(array, queries, k, **sizes):
    scores, rows = search_array(array, queries, k, sizes=Sizes(**sizes))
    expected_scores, expected_rows = brute_force(Vectors.from_array(array), queries, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def units(rng, n, d):
    vectors = rng.standard_normal((n, d), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def few_directions(rng, n, d):
    """Whole numbers from −2 to 2 at unit length: many vectors are equal, and some are zero."""
    vectors = rng.integers(-2, 3, size=(n, d)).astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def nearly_equal(rng, n, d, apart=1e-4):
    """Vectors that differ by far less than their codes do."""
    vectors = (units(rng, 1, d) + apart * rng.standard_normal((n, d))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def whole_numbers(rng, n, d, largest=2):
    """Small whole numbers: their dot products are exact in float32, and most of them tie."""
    return rng.integers(-largest, largest + 1, size=(n, d)).astype(np.float32)


NAME_KINDS = {"any": units, "ties": few_directions, "near": nearly_equal}


@pytest.fixture
def log(caplog):
    """(kind of scores, rows seen, rows pending) of each time that rows are scored exactly; and the kinds of scores that were abandoned."""
    caplog.set_level(logging.DEBUG, logger="xsap.search.exact")

    def read():
        rescored = [record.args for record in caplog.records if "seen" in record.msg]
        abandoned = [record.args[0] for record in caplog.records if "abandoned" in record.msg]
        caplog.clear()
        return rescored, abandoned

    return read


@settings(max_examples=examples(400), deadline=None)
@given(
    kind=st.sampled_from(sorted(NAME_KINDS)),
    vector_dtype=st.sampled_from(VECTOR_DTYPES),
    n=st.integers(1, 400),
    q=st.integers(1, 5),
    d=st.integers(1, 9),
    k=st.integers(1, 12) | st.integers(30, 80),
    block=st.sampled_from([1, 64, 500, 4096, 1 << 22]),
    fraction=st.sampled_from([None, 0.02, 0.2, 0.6, 1.0]),
    on=st.sampled_from([None, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_exact_search_matches_brute_force(kind, vector_dtype, n, q, d, k, block, fraction, on, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = with_codes(NAME_KINDS[kind](rng, n, d), vector_dtype), NAME_KINDS[kind](rng, q, d)
    queries[0] = vectors.take(np.array([seed % n]))[0]
    rows = None if fraction is None else np.flatnonzero(rng.random(n) < fraction)
    device_copy = None if on is None else upload(vectors, "cpu", on)
    assert_same(vectors, queries, k, rows=rows, scores_per_block=block, device_copy=device_copy)


@settings(max_examples=examples(150), deadline=None)
@given(
    n=st.integers(1, 700),
    q=st.integers(1, 6),
    d=st.integers(1, 4),
    k=st.integers(1, 12),
    block=st.sampled_from([1, 7, 64, 500, 4096, 1 << 23]),
    seed=st.integers(0, 2**32 - 1),
)
def test_array_search_matches_brute_force_across_ties_and_block_boundaries(n, q, d, k, block, seed):
    rng = np.random.default_rng(seed)
    assert_same_in_array(whole_numbers(rng, n, d), whole_numbers(rng, q, d), k, scores_per_block=block)


@pytest.mark.parametrize("vector_dtype", VECTOR_DTYPES)
@pytest.mark.parametrize("kind", sorted(NAME_KINDS))
def test_many_rows_in_batches_of_queries_match_brute_force(vector_dtype, kind):
    rng = np.random.default_rng(1)
    vectors, queries = with_codes(NAME_KINDS[kind](rng, 6000, 24), vector_dtype), NAME_KINDS[kind](rng, 19, 24)
    small = {"queries_per_batch": 8, "max_pending": 300}
    for k in (1, 10, 90):
        assert_same(vectors, queries, k, scores_per_block=8192, **small)
    tenth, half = (np.flatnonzero(rng.random(6000) < fraction) for fraction in (0.1, 0.5))
    assert_same(vectors, queries, 10, rows=tenth, scores_per_block=2048, **small)
    assert_same(vectors, queries, 10, rows=half, scores_per_block=8192, **small)


def test_array_search_in_batches_of_queries_matches_brute_force():
    rng = np.random.default_rng(0)
    array, queries = whole_numbers(rng, 300, 8), whole_numbers(rng, 11, 8)
    assert_same_in_array(array, queries, 5, scores_per_block=256, queries_per_batch=4)


def test_groups_rule_out_most_rows_but_never_a_right_one():
    rng = np.random.default_rng(0)
    for n in (4 * 10 * 32 + 1, 5000, 20_001):  # all above the width from which group maxima are used
        vectors = rng.standard_normal((n, 16), dtype=np.float32)
        assert_same_in_array(vectors, vectors[:50], 10)
        assert_same_in_array(
            whole_numbers(rng, n, 12), whole_numbers(rng, 20, 12), 10
        )  # the best few differ, the next tie


@pytest.mark.parametrize("order", ["worst first", "best first", "shuffled", "all but one query done"])
@pytest.mark.parametrize("k", [2, 40])
def test_later_blocks_replace_only_worse_rows(order, k):
    rng = np.random.default_rng(0)
    vectors, queries = whole_numbers(rng, 6000, 3, 9), np.abs(whole_numbers(rng, 5, 3, 3))
    if order != "shuffled":
        vectors = vectors[np.argsort(vectors.sum(1), kind="stable")]
        vectors = vectors if order == "worst first" else np.ascontiguousarray(vectors[::-1])
    if order == "all but one query done":
        queries[2] *= -1
    for block in (5 * 40, 5 * 600):  # less and more than the groups of k rows
        assert_same_in_array(vectors, queries, k, scores_per_block=block)


def test_rows_in_ascending_and_descending_order_of_score_match_brute_force():
    rng = np.random.default_rng(2)
    vectors, query = units(rng, 3000, 16), units(rng, 1, 16)
    rising = vectors[np.argsort(vectors @ query[0])]
    for array in (rising, rising[::-1]):
        assert_same(with_codes(np.ascontiguousarray(array)), query, 7, scores_per_block=64, max_pending=100)


@pytest.mark.parametrize("kind", sorted(NAME_KINDS))
def test_more_rows_wanted_than_a_block_holds(kind):
    rng = np.random.default_rng(13)
    vectors, queries = with_codes(NAME_KINDS[kind](rng, 100, 20)), NAME_KINDS[kind](rng, 4, 20)
    for k in (33, 90, 100):
        assert_same(vectors, queries, k, scores_per_block=1)
        assert_same(vectors, queries, k, scores_per_block=1, rows=np.arange(0, 100, 2))


def test_all_scores_equal_gives_the_first_rows():
    for n in (20, 5000):
        array, queries = np.ones((n, 3), np.float32), np.ones((2, 3), np.float32)
        scores, rows = search_array(array, queries, 7, sizes=Sizes(scores_per_block=1024))
        assert rows.tolist() == [list(range(7))] * 2
        assert (scores == 3).all()


def test_negative_scores_precede_the_padding_of_a_block():
    scores, rows = search_array(-np.ones((33, 2), np.float32), np.ones((1, 2), np.float32), 33)
    assert (scores == -2).all()
    assert rows.tolist() == [list(range(33))]


# The kinds of approximate scores


def test_int8_scores_are_abandoned_where_they_rule_out_too_few_rows(log):
    rng = np.random.default_rng(3)
    alike = nearly_equal(rng, 4000, 32)
    assert_same(with_codes(alike), alike[:3], 5, scores_per_block=4096)
    rescored, abandoned = log()
    assert ([name for name, *_ in rescored], abandoned) == (["float32"], ["int8"])
    apart = units(rng, 4000, 256)
    assert_same(with_codes(apart), apart[:3], 5, scores_per_block=4096)
    rescored, abandoned = log()
    assert ([name for name, *_ in rescored], abandoned) == (["int8"], [])


def test_int8_is_tried_first_for_few_queries_or_a_small_k(monkeypatch):
    def kinds(vectors, q, k, device_copy=None):
        found = scorers(vectors, np.ones((q, vectors.dimension), np.float32), k, device_copy)
        return [bound.name for bound in found]

    monkeypatch.setattr(module, "int8_is_faster", lambda: True)
    vectors = with_codes(np.ones((3, 4), np.float32))
    assert kinds(vectors, INT8_BATCH - 1, 1000) == ["int8", "float32"]
    assert kinds(vectors, INT8_BATCH, INT8_MAX_K) == ["int8", "float32"]
    assert kinds(vectors, INT8_BATCH, INT8_MAX_K + 1) == ["float32"]
    assert kinds(vectors, 1, 1, upload(vectors, "cpu")) == ["device"]
    assert kinds(with_codes(np.ones((3, 1), np.float32)), 1, 1) == ["float32"]
    assert kinds(Vectors.from_array(np.ones((3, 4), np.float32)), 1, 1) == ["float32"]
    monkeypatch.setattr(module, "int8_is_faster", lambda: False)
    assert kinds(vectors, 1, 1) == ["float32"]


@pytest.mark.parametrize("worst", [True, False])
def test_any_error_within_the_margin_leaves_the_answer_exact(worst):
    """Approximate scores as wrong as they may be: too low for the best rows, too high for the others, or anything in between."""
    rng = np.random.default_rng(14)
    for n, k, margin in ((900, 7, 0.05), (900, 40, 0.3), (3000, 1, 0.02), (3000, 10, 0.1)):
        vectors, queries = with_codes(units(rng, n, 6)), units(rng, 4, 6)
        true = queries.astype(np.float64) @ vectors.values.astype(np.float64).T
        kth = -np.sort(-true, axis=1)[:, k - 1 : k]
        error = np.where(true >= kth, -1, 1) if worst else rng.uniform(-1, 1, true.shape)
        scale = rng.uniform(0.01, 20, 4)
        scores = torch.from_numpy(((true + 0.999 * margin * error) / scale[:, None]).astype(np.float32))
        bound = ScoreBound("test", lambda where, scores=scores: scores[:, where].clone(), scale, np.full(4, margin))
        options = {"scorers": lambda *_, bound=bound: [bound], "max_pending": 200}
        for block in (1, 512, 1 << 20):
            assert_same(vectors, queries, k, scores_per_block=block, **options)
            half = np.flatnonzero(rng.random(n) < 0.5)
            assert_same(vectors, queries, k, scores_per_block=block, rows=half, **options)


def test_scores_that_differ_in_the_last_place_are_ranked_exactly():
    """Nothing is lost in the codes here: only roundings to float32 separate the approximate scores from the exact ones."""
    rng = np.random.default_rng(15)
    for _ in range(5):
        alike = nearly_equal(rng, 1000, 768, apart=1e-7)
        assert_same(with_codes(alike), alike[:2], 30, scores_per_block=1024)
    query = rng.integers(-127, 128, size=(1, 8))
    query[0, 0] = 127
    codes = rng.integers(-127, 128, size=(50_000, 8)).astype(np.int8)
    products = codes @ query[0]
    codes, products = (array[(products > 1000) & (products < 2000)] for array in (codes, products))
    assert len(codes) > 500  # rows with terms of thousands that nearly cancel out
    for last in range(10):
        scales = ((1 + last * 2.0**-23) * 5 / products).astype(np.float32)
        vectors, queries = Vectors(None, codes, scales, 0.0, 2.0), (query / 128).astype(np.float32)
        only_int8 = [int8_of(vectors, queries, max_pending=1.0)]
        assert_same(vectors, queries, 5, scores_per_block=64, scorers=lambda *_, bounds=only_int8: bounds)


def test_few_rows_wait_for_exact_scores(log):
    rng = np.random.default_rng(16)
    vectors, queries = with_codes(units(rng, 30_000, 128)), units(rng, 10, 128)
    search(vectors, queries, 5, scores_per_block=10_240)
    (((_, seen, pending),), _) = log()
    assert 50 <= pending < 10 * 60
    assert seen < 10 * 300
    search(vectors, queries, 5, scores_per_block=10_240, max_pending=100)
    assert len(log()[0]) > 3


@pytest.mark.parametrize("kinds", [int8_first, lambda vectors, queries, *_: [float32_scorer(vectors, queries)]])
@pytest.mark.parametrize("vector_dtype", VECTOR_DTYPES)
def test_few_vectors_are_converted_at_once(monkeypatch, vector_dtype, kinds):
    rng = np.random.default_rng(17)
    vectors, queries, taken = with_codes(units(rng, 5000, 16), vector_dtype), units(rng, 1, 16), []
    take = Vectors.take
    monkeypatch.setattr(Vectors, "take", lambda self, rows: taken.append(len(found := take(self, rows))) or found)
    assert search(vectors, queries, 5, scorers=kinds, components_per_block=16 * 96)[1].shape == (1, 5)
    assert max(taken) <= 256
    if kinds is not int8_first:
        assert sorted(taken)[-52:] == [96] * 52
        assert sum(taken) > 5000


@pytest.mark.parametrize(
    ("n", "rows"),
    [(1000, np.arange(0, 1000, 7)), (1000, np.arange(0, 1000, 3)), (100, np.arange(100)), (100, np.arange(24))],
)
def test_few_rows_are_gathered_and_of_many_the_others_masked(n, rows):
    rng = np.random.default_rng(18)
    blocks = []

    def recording(vectors, queries, *_):
        bound = float32_scorer(vectors, queries)
        return [replace(bound, score=lambda where: blocks.append(where) or bound.score(where))]

    options = {"rows": rows, "scores_per_block": 32, "scorers": recording}
    assert_same(Vectors.from_array(units(rng, n, 64)), units(rng, 1, 64), 3, **options)
    gathered = len(rows) < n // 4
    assert all(isinstance(where, slice) != gathered for where in blocks)
    seen = [where.tolist() if gathered else range(n)[where] for where in blocks]
    assert [row for block in seen for row in block] == (rows.tolist() if gathered else list(range(n)))
    assert max(map(len, seen)) == 32 or len(rows) < 32


def test_few_rows_are_scored_exactly(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "exact_scores", lambda *given: asked.append(len(given[3])) or exact_scores(*given))
    rng = np.random.default_rng(4)
    array = units(rng, 20_000, 128)
    queries = array[:10] + np.float32(0.03) * rng.standard_normal((10, 128), dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert_same(with_codes(array), queries, 5, scores_per_block=1 << 14)
    assert 50 <= sum(asked) < 10 * 20_000 / 100


@pytest.mark.parametrize("vector_dtype", VECTOR_DTYPES)
def test_int8_and_float32_scores_give_the_same_answer(log, vector_dtype):
    rng = np.random.default_rng(6)
    vectors, queries = with_codes(units(rng, 3000, 40), vector_dtype), units(rng, 5, 40)
    scores, rows = search(vectors, queries, 8)
    again, same = search(vectors, queries, 8, scorers=lambda *given: int8_first(*given)[1:])
    assert [name for name, *_ in log()[0]] == ["int8", "float32"]
    np.testing.assert_array_equal(scores, again)
    np.testing.assert_array_equal(rows, same)


# Reproducibility


@pytest.mark.parametrize("vector_dtype", VECTOR_DTYPES)
def test_a_query_alone_and_among_others_gets_the_same_bits(vector_dtype):
    rng = np.random.default_rng(7)
    vectors, queries = with_codes(units(rng, 5000, 100), vector_dtype), units(rng, 60, 100)
    scores, rows = search(vectors, queries, 9)
    for i in range(0, 60, 7):
        alone, same = search(vectors, queries[i : i + 1], 9, scores_per_block=4096)
        assert alone.tobytes() == scores[i : i + 1].tobytes()
        np.testing.assert_array_equal(same, rows[i : i + 1])


def test_threads_get_the_same_bits():
    rng = np.random.default_rng(8)
    vectors, queries = with_codes(units(rng, 3000, 64), "float16"), units(rng, 40, 64)
    expected, found = search(vectors, queries, 5), {}

    def work(i):
        found[i] = search(vectors, queries[i : i + 5], 5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(0, 40, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (scores, rows) in found.items():
        assert scores.tobytes() == expected[0][i : i + 5].tobytes()
        np.testing.assert_array_equal(rows, expected[1][i : i + 5])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        assert search(vectors, queries, 5)[0].tobytes() == expected[0].tobytes()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 100, 768])
def test_exact_scores_are_rounded_once(d):
    rng = np.random.default_rng(d)
    vectors, queries = Vectors.from_array(units(rng, 300, d)), units(rng, 4, d)
    query, row = rng.integers(0, 4, 600), rng.integers(0, 300, 600)
    expected = [
        np.float32(fsum(float(a) * float(b) for a, b in zip(queries[i], vectors.values[j], strict=True)))
        for i, j in zip(query, row, strict=True)
    ]
    assert exact_scores(vectors, queries, query, row).tolist() == [float(value) for value in expected]


def test_equal_vectors_tie_in_any_row():
    rng = np.random.default_rng(9)
    one = units(rng, 1, 768)
    for vector_dtype in VECTOR_DTYPES:
        array = units(rng, 2000, 768)
        equal = np.array([3, 31, 32, 700, 1999])
        array[equal] = one
        scores, rows = search(with_codes(array, vector_dtype), one, 6)
        assert rows[0, :5].tolist() == equal.tolist()
        assert len(set(scores[0, :5].tolist())) == 1


def misleading(rng, n, d, query):
    """Vectors whose codes are all the same, and whose part that the codes lose points along the query the more, the later they come."""
    codes = rng.integers(-100, 101, d)
    codes[0] = 127
    lost = np.sign(query[1:]) * np.linspace(-0.499, 0.499, n)[:, None]
    array = np.tile(codes.astype(np.float64), (n, 1))
    array[:, 1:] += lost
    return (array / 127).astype(np.float32)


@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("k", [1, 3, 33])
def test_nearest_row_that_its_codes_hide_is_found(log, n, k):
    """int8 alone can't tell these rows apart, and prefers decoys whose codes are rounded towards the query."""
    rng = np.random.default_rng(k)
    query = units(rng, 1, 16)
    array = misleading(rng, n, 16, query[0])
    best = array[-1].astype(np.float64) @ query[0]
    decoys = array - 1e-3 * np.sign(query) * (np.arange(n) % 3 == 0)[:, None].astype(np.float32)
    both = np.concatenate([decoys, array]).astype(np.float32)
    vectors = with_codes(both)
    naive = vectors.codes[:, :].astype(np.int64) @ np.rint(query[0] * 127 / np.abs(query).max()).astype(np.int64)
    assert np.argmax(naive * vectors.scales.astype(np.float64)) != np.argmax(both.astype(np.float64) @ query[0])
    for vector_dtype in VECTOR_DTYPES:
        assert_same(with_codes(both, vector_dtype), query, k, scores_per_block=1024)
    assert search(vectors, query, 1)[0][0, 0] == np.float32(best)


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 10**6), d=st.integers(2, 24), n=st.integers(2, 300), k=st.integers(1, 20))
def test_rows_at_the_edge_of_the_bound_on_rounding_match_brute_force(seed, d, n, k):
    rng = np.random.default_rng(seed)
    query = units(rng, 1, d)
    array = misleading(rng, n, d, query[0])
    array[rng.permutation(n)[: n // 2]] *= np.float32(1 + 1e-7)
    assert_same(with_codes(rng.permutation(array)), query, k, scores_per_block=512)


# Unusual input


def test_zero_vectors_and_zero_queries():
    array = np.zeros((500, 6), np.float32)
    array[300] = 1 / np.sqrt(6)
    for vector_dtype in VECTOR_DTYPES:
        vectors = with_codes(array, vector_dtype)
        assert_same(vectors, -array[300:301], 4)
        scores, rows = search(vectors, np.zeros((1, 6), np.float32), 4)
        assert (scores.tolist(), rows.tolist()) == ([[0, 0, 0, 0]], [[0, 1, 2, 3]])


def test_vectors_of_any_length_match_brute_force():
    rng = np.random.default_rng(10)
    for scale in (1e-44, 1e-38, 1e-20, 1e-3, 50.0, 1e18, 1e25, 1e36):
        array = (units(rng, 700, 12) * rng.random((700, 1)) * scale).astype(np.float32)
        for vector_dtype in ("float32", "int8"):
            queries = units(rng, 3, 12) * np.float32(7)
            assert_same(with_codes(array, vector_dtype), queries, 5, scores_per_block=2048)


def test_more_rows_wanted_than_there_are_and_nothing_to_search():
    rng = np.random.default_rng(11)
    vectors, queries = with_codes(units(rng, 7, 3)), units(rng, 2, 3)
    assert_same(vectors, queries, 20)
    assert_same(vectors, queries, 20, rows=np.array([2, 5]))
    assert search(vectors, queries, 0)[0].shape == (2, 0)
    assert search(vectors, queries, 3, rows=np.array([], np.int64))[1].shape == (2, 0)
    assert search(vectors, queries[:0], 3)[1].shape == (0, 3)
    assert search(with_codes(np.empty((0, 3), np.float32)), queries, 3)[1].shape == (2, 0)
    scores, rows = search_array(whole_numbers(rng, 5, 3), whole_numbers(rng, 4, 3), 9, sizes=Sizes(scores_per_block=8))
    assert scores.shape == rows.shape == (4, 5)
    assert sorted(rows[0].tolist()) == [0, 1, 2, 3, 4]
    assert search_array(np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), 4)[1].shape == (2, 0)
    assert search_array(np.ones((5, 3), np.float32), np.empty((0, 3), np.float32), 4)[0].shape == (0, 4)


@pytest.mark.filterwarnings("error")
def test_memory_mapped_files_are_searched_without_a_copy(tmp_path):
    rng = np.random.default_rng(12)
    array, queries = units(rng, 2000, 20), units(rng, 3, 20)
    for vector_dtype in VECTOR_DTYPES:
        (tmp_path / vector_dtype).mkdir()
        with write_vectors(tmp_path / vector_dtype, 2000, 20, vector_dtype, min_rows_with_codes=1) as write:
            write(array)
        vectors = Vectors.open(tmp_path / vector_dtype, min_rows_with_codes=1)
        assert_same(vectors, queries, 6, scores_per_block=4096)
        assert_same(vectors, queries, 6, rows=np.arange(100, 1900, 9))
        assert_same(vectors, queries, 6, device_copy=upload(vectors, "cpu"))


@pytest.mark.filterwarnings("error")
def test_a_read_only_memory_map_and_a_strided_view_match_brute_force(tmp_path):
    rng = np.random.default_rng(2)
    vectors, queries = whole_numbers(rng, 3000, 4), whole_numbers(rng, 3, 4)
    np.save(tmp_path / "v.npy", vectors)
    assert_same_in_array(np.load(tmp_path / "v.npy", mmap_mode="r"), queries, 6, scores_per_block=1000)
    assert_same_in_array(vectors[::2], queries[:, ::-1], 6)


def test_wrong_queries_are_refused():
    vectors = with_codes(np.zeros((2, 3), np.float32))
    for bad in (np.inf, np.nan):
        with pytest.raises(DataError, match=r"^the query vectors must be finite numbers; found another in row 1\."):
            search_vectors(vectors, np.array([[0, 0, 0], [0, bad, 0]], np.float32), 1)
    with pytest.raises(AssertionError, match="vectors of 3 components, queries of 4"):
        search_vectors(vectors, np.zeros((1, 4), np.float32), 1)
    with pytest.raises(AssertionError, match="expected float32"):
        search_vectors(vectors, np.zeros((1, 3)), 1)
    for rows in ([1, 0], [0, 0], [-1, 1], [0, 2]):
        with pytest.raises(AssertionError, match="rows must ascend"):
            search_vectors(vectors, np.zeros((1, 3), np.float32), 1, rows=np.array(rows))
    with pytest.raises(AssertionError, match="a copy of other vectors"):
        search_vectors(vectors, np.zeros((1, 3), np.float32), 1, device_copy=torch.zeros(3, 3))


def test_arrays_and_queries_that_are_not_finite_are_refused():
    vectors = np.zeros((10, 3), np.float32)
    vectors[7, 1] = np.nan
    with pytest.raises(DataError, match=r"these must be finite numbers; found another in row 7"):
        check_finite(vectors, "these")
    with pytest.raises(DataError, match=r"^vectors must be finite numbers; found another in row 7"):
        search_array(vectors, np.zeros((1, 3), np.float32), 1)
    with pytest.raises(DataError, match="query vectors"):
        search_array(np.zeros((2, 3), np.float32), np.full((1, 3), np.inf, np.float32), 1)
    with pytest.raises(AssertionError, match="components"):
        search_array(np.zeros((2, 3), np.float32), np.zeros((1, 4), np.float32), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("with_int8", [False, True])
def test_stored_vectors_that_are_not_finite_are_refused_when_they_are_searched(bad, with_int8):
    """As in a file that was made by something else: a NaN must not hide the rows beside it."""
    rng = np.random.default_rng(13)
    array = units(rng, 100, 8)
    vectors = with_codes(array) if with_int8 else Vectors.from_array(array)
    values = array.copy()
    values[41, 3] = bad
    queries = np.concatenate([array[41:42], -array[41:42], array[40:41]])
    with pytest.raises(DataError, match="stored vectors must be finite numbers"):
        search(replace(vectors, values=values), queries, 3)


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_one_row_is_found_by_any_query(order):
    for vector_dtype in VECTOR_DTYPES:
        for value in (0.0, 1.0, -1.0, 1e-45):
            array = np.full((1, 5), value, np.float32)
            queries = np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)
            assert_same(with_codes(array, vector_dtype), queries if order == "ascending" else -queries, 7)
