"""The search over stored vectors against a full sort of float64 scores, for every storage, way of scoring, filter and block."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.search import exact as cheap
from xsap.search import exact as module
from xsap.search import vectors as stored
from xsap.search.exact import ScoreBound, exact_scores, int8_is_faster, search_vectors, upload
from xsap.search.vectors import Vectors

STORAGES = ("float32", "float16", "int8")


@pytest.fixture(autouse=True)
def with_codes(monkeypatch):
    """Small sets have codes, too, and they are used, on processors without the instructions as well."""
    monkeypatch.setattr(stored, "SCAN_FROM", 1)
    if not int8_is_faster():
        monkeypatch.setattr(torch, "_int_mm", lambda left, right, out: out.copy_(left.int() @ right.int()))
        monkeypatch.setattr(cheap, "int8_is_faster", lambda: True)


@pytest.fixture
def scorers(monkeypatch):
    """The names of the ways of scoring that are taken, as they are taken."""
    taken = []
    for name in ("_by_int8", "_by_float32", "_by_resident"):
        way = getattr(cheap, name)
        monkeypatch.setattr(cheap, name, lambda *given, way=way, name=name: taken.append(name) or way(*given))
    return taken


def brute_force(vectors, queries, k, rows=None):
    """Every score in float64, rounded to float32; a full stable sort: greatest first, equal ones by row."""
    kept = np.arange(len(vectors)) if rows is None else rows
    scores = (queries.astype(np.float64) @ vectors.take(kept).astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), kept[order]


def assert_same(vectors, queries, k, **arguments):
    scores, rows = search_vectors(vectors, queries, k, **arguments)
    expected_scores, expected_rows = brute_force(vectors, queries, k, arguments.get("rows"))
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


KINDS = {"any": units, "ties": few_directions, "near": nearly_equal}


@settings(max_examples=400, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    vector_dtype=st.sampled_from(STORAGES),
    n=st.integers(1, 400),
    q=st.integers(1, 5),
    d=st.integers(1, 9),
    k=st.integers(1, 12) | st.integers(30, 80),
    block=st.sampled_from([1, 64, 500, 4096, 1 << 22]),
    keep=st.sampled_from([None, 0.02, 0.2, 0.6, 1.0]),
    on=st.sampled_from([None, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_against_brute_force(kind, vector_dtype, n, q, d, k, block, keep, on, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = Vectors.of(KINDS[kind](rng, n, d), vector_dtype), KINDS[kind](rng, q, d)
    queries[0] = vectors.take(np.array([seed % n]))[0]
    rows = None if keep is None else np.flatnonzero(rng.random(n) < keep)
    device_copy = None if on is None else upload(vectors, "cpu", on)
    assert_same(vectors, queries, k, rows=rows, block=block, device_copy=device_copy)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_many_rows_and_queries(vector_dtype, kind, monkeypatch):
    monkeypatch.setattr(module, "_QUERIES", 8)
    monkeypatch.setattr(module, "_WAITING", 300)
    rng = np.random.default_rng(1)
    vectors, queries = Vectors.of(KINDS[kind](rng, 6000, 24), vector_dtype), KINDS[kind](rng, 19, 24)
    for k in (1, 10, 90):
        assert_same(vectors, queries, k, block=8192)
    assert_same(vectors, queries, 10, rows=np.flatnonzero(rng.random(6000) < 0.1), block=2048)
    assert_same(vectors, queries, 10, rows=np.flatnonzero(rng.random(6000) < 0.5), block=8192)


def test_rows_that_come_in_the_worst_order(monkeypatch):
    monkeypatch.setattr(module, "_WAITING", 100)
    rng = np.random.default_rng(2)
    vectors, query = units(rng, 3000, 16), units(rng, 1, 16)
    rising = vectors[np.argsort(vectors @ query[0])]
    for array in (rising, rising[::-1]):
        assert_same(Vectors.of(np.ascontiguousarray(array)), query, 7, block=64)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_more_wanted_than_a_block_holds(kind):
    rng = np.random.default_rng(13)
    vectors, queries = Vectors.of(KINDS[kind](rng, 100, 20)), KINDS[kind](rng, 4, 20)
    for k in (33, 90, 100):
        assert_same(vectors, queries, k, block=1)
        assert_same(vectors, queries, k, block=1, rows=np.arange(0, 100, 2))


def test_int8_is_given_up_where_it_tells_nothing(scorers):
    rng = np.random.default_rng(3)
    alike = nearly_equal(rng, 4000, 32)
    assert_same(Vectors.of(alike), alike[:3], 5, block=4096)
    assert scorers == ["_by_int8", "_by_float32"]
    scorers.clear()
    apart = units(rng, 4000, 256)
    assert_same(Vectors.of(apart), apart[:3], 5, block=4096)
    assert scorers == ["_by_int8"]


@pytest.mark.parametrize("worst", [True, False])
def test_any_error_within_the_bound_is_borne(monkeypatch, worst):
    """Cheap scores as wrong as they may be: too low for the best rows, too high for the others, or anything in between."""
    monkeypatch.setattr(module, "_WAITING", 200)
    rng = np.random.default_rng(14)
    for n, k, off in ((900, 7, 0.05), (900, 40, 0.3), (3000, 1, 0.02), (3000, 10, 0.1)):
        vectors, queries = Vectors.of(units(rng, n, 6)), units(rng, 4, 6)
        true = queries.astype(np.float64) @ vectors.fine.astype(np.float64).T
        kth = -np.sort(-true, axis=1)[:, k - 1 : k]
        error = np.where(true >= kth, -1, 1) if worst else rng.uniform(-1, 1, true.shape)
        unit = rng.uniform(0.01, 20, 4)
        scores = torch.from_numpy(((true + 0.999 * off * error) / unit[:, None]).astype(np.float32))
        way = ScoreBound(lambda where, scores=scores: scores[:, where].clone(), unit, np.full(4, off), n)
        monkeypatch.setattr(module, "scorers", lambda *given, way=way: [way])
        for block in (1, 512, 1 << 20):
            assert_same(vectors, queries, k, block=block)
            assert_same(vectors, queries, k, block=block, rows=np.flatnonzero(rng.random(n) < 0.5))


def test_scores_that_differ_in_the_last_place(monkeypatch):
    """Nothing is lost in the codes here: only roundings to float32 part the cheap scores from the true ones."""
    rng = np.random.default_rng(15)
    for _ in range(5):
        alike = nearly_equal(rng, 1000, 768, apart=1e-7)
        assert_same(Vectors.of(alike), alike[:2], 30, block=1024)
    monkeypatch.setattr(cheap, "_HOPELESS", 1)
    query = rng.integers(-127, 128, size=(1, 8))
    query[0, 0] = 127
    codes = rng.integers(-127, 128, size=(50_000, 8)).astype(np.int8)
    products = codes @ query[0]
    codes, products = (array[(products > 1000) & (products < 2000)] for array in (codes, products))
    assert len(codes) > 500  # rows with terms of thousands that nearly cancel out
    for last in range(10):
        scales = ((1 + last * 2.0**-23) * 5 / products).astype(np.float32)
        assert_same(Vectors(None, codes, scales, 0.0, 2.0), (query / 128).astype(np.float32), 5, block=64)


def test_few_rows_wait(monkeypatch):
    settled = []
    settle = module._TopK.settle
    monkeypatch.setattr(
        module._TopK, "settle", lambda self: settled.append((self.waits, self.looked_at)) or settle(self)
    )
    rng = np.random.default_rng(16)
    vectors, queries = Vectors.of(units(rng, 30_000, 128)), units(rng, 10, 128)
    search_vectors(vectors, queries, 5, block=10_240)
    ((waits, looked_at),) = settled
    assert 50 <= waits < 10 * 60
    assert looked_at < 10 * 300
    settled.clear()
    monkeypatch.setattr(module, "_WAITING", 100)
    search_vectors(vectors, queries, 5, block=10_240)
    assert len(settled) > 3


@pytest.mark.parametrize("storage", STORAGES)
def test_few_vectors_are_converted_at_once(monkeypatch, vector_dtype):
    rng = np.random.default_rng(17)
    vectors, queries, asked = Vectors.of(units(rng, 5000, 16), vector_dtype), units(rng, 1, 16), []
    monkeypatch.setattr(cheap, "COMPONENTS", 16 * 96)
    monkeypatch.setattr(module, "COMPONENTS", 16 * 96)
    monkeypatch.setattr(
        Vectors, "take", lambda self, rows, take=Vectors.take: asked.append(len(taken := take(self, rows))) or taken
    )
    expected = search_vectors(vectors, queries, 5)[1]
    monkeypatch.setattr(cheap, "int8_is_faster", lambda: False)
    np.testing.assert_array_equal(search_vectors(vectors, queries, 5)[1], expected)
    assert max(asked) <= 96 + module._RESCORED
    assert sum(asked) > 5000


def test_few_rows_kept_are_gathered_and_of_many_the_others_masked(monkeypatch):
    made, blocks = [], module._blocks
    monkeypatch.setattr(
        module, "_blocks", lambda *given, **how: made.clear() or made.extend(blocks(*given, **how)) or made
    )
    rng = np.random.default_rng(18)
    for n, rows in (
        (1000, np.arange(0, 1000, 7)),
        (1000, np.arange(0, 1000, 3)),
        (100, np.arange(100)),
        (100, np.arange(24)),
    ):
        assert_same(Vectors.of(units(rng, n, 64)), units(rng, 1, 64), 3, rows=rows, block=32)
        assert len(made) == -(-(n if len(rows) >= n // 4 else len(rows)) // 32)
        assert all(isinstance(where, slice) == (len(rows) >= n // 4) for where, _, _ in made)
        seen = [
            numbers if dropped is None else numbers + np.flatnonzero(~dropped.numpy()) for _, numbers, dropped in made
        ]
        assert np.concatenate(seen).tolist() == rows.tolist()


def test_few_rows_are_scored_again(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "exact_scores", lambda *given: asked.append(len(given[3])) or exact_scores(*given))
    rng = np.random.default_rng(4)
    array = units(rng, 20_000, 128)
    queries = array[:10] + np.float32(0.03) * rng.standard_normal((10, 128), dtype=np.float32)
    assert_same(Vectors.of(array), queries / np.linalg.norm(queries, axis=1, keepdims=True), 5, block=1 << 14)
    assert 50 <= sum(asked) < 10 * 20_000 / 100


def test_small_sets_have_no_codes_and_need_none(monkeypatch, scorers):
    monkeypatch.setattr(stored, "SCAN_FROM", 10_000)
    rng = np.random.default_rng(5)
    assert_same(Vectors.of(units(rng, 900, 8)), units(rng, 4, 8), 6, block=256)
    assert scorers == ["_by_float32"]


@pytest.mark.parametrize("storage", STORAGES)
def test_without_int8_products_the_answer_is_the_same(monkeypatch, scorers, vector_dtype):
    rng = np.random.default_rng(6)
    vectors, queries = Vectors.of(units(rng, 3000, 40), vector_dtype), units(rng, 5, 40)
    scores, rows = search_vectors(vectors, queries, 8)
    monkeypatch.setattr(cheap, "int8_is_faster", lambda: False)
    again, same = search_vectors(vectors, queries, 8)
    assert scorers == ["_by_int8", "_by_float32"]
    np.testing.assert_array_equal(scores, again)
    np.testing.assert_array_equal(rows, same)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_query_alone_and_among_others_bit_for_bit(vector_dtype):
    rng = np.random.default_rng(7)
    vectors, queries = Vectors.of(units(rng, 5000, 100), vector_dtype), units(rng, 60, 100)
    scores, rows = search_vectors(vectors, queries, 9)
    for i in range(0, 60, 7):
        alone, same = search_vectors(vectors, queries[i : i + 1], 9, block=4096)
        assert alone.tobytes() == scores[i : i + 1].tobytes()
        np.testing.assert_array_equal(same, rows[i : i + 1])


def test_threads_change_nothing():
    rng = np.random.default_rng(8)
    vectors, queries = Vectors.of(units(rng, 3000, 64), "float16"), units(rng, 40, 64)
    expected, found = search_vectors(vectors, queries, 5), {}

    def work(i):
        found[i] = search_vectors(vectors, queries[i : i + 5], 5)

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
        assert search_vectors(vectors, queries, 5)[0].tobytes() == expected[0].tobytes()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 100, 768])
def test_exact_scores_are_rounded_once(d):
    rng = np.random.default_rng(d)
    vectors, queries = Vectors.of(units(rng, 300, d)), units(rng, 4, d)
    query, row = rng.integers(0, 4, 600), rng.integers(0, 300, 600)
    expected = [np.float32(sum_exactly(queries[i], vectors.fine[j])) for i, j in zip(query, row, strict=True)]
    assert exact_scores(vectors, queries, query, row).tolist() == [float(value) for value in expected]


def sum_exactly(left, right):
    from math import fsum

    return fsum(float(a) * float(b) for a, b in zip(left, right, strict=True))


def test_equal_vectors_tie_wherever_they_stand():
    rng = np.random.default_rng(9)
    one = units(rng, 1, 768)
    for vector_dtype in STORAGES:
        array = units(rng, 2000, 768)
        places = np.array([3, 31, 32, 700, 1999])
        array[places] = one
        scores, rows = search_vectors(Vectors.of(array, vector_dtype), one, 6)
        assert rows[0, :5].tolist() == places.tolist()
        assert len(set(scores[0, :5].tolist())) == 1


def test_zero_vectors_and_zero_queries():
    array = np.zeros((500, 6), np.float32)
    array[300] = 1 / np.sqrt(6)
    for vector_dtype in STORAGES:
        vectors = Vectors.of(array, vector_dtype)
        assert_same(vectors, -array[300:301], 4)
        scores, rows = search_vectors(vectors, np.zeros((1, 6), np.float32), 4)
        assert (scores.tolist(), rows.tolist()) == ([[0, 0, 0, 0]], [[0, 1, 2, 3]])


def test_vectors_of_any_length():
    rng = np.random.default_rng(10)
    for scale in (1e-20, 1e-3, 50.0):
        array = (units(rng, 700, 12) * rng.random((700, 1)) * scale).astype(np.float32)
        for vector_dtype in ("float32", "int8"):
            assert_same(Vectors.of(array, vector_dtype), (units(rng, 3, 12) * np.float32(7)), 5, block=2048)


def test_more_wanted_than_there_is_and_nothing_at_all():
    rng = np.random.default_rng(11)
    vectors, queries = Vectors.of(units(rng, 7, 3)), units(rng, 2, 3)
    assert_same(vectors, queries, 20)
    assert_same(vectors, queries, 20, rows=np.array([2, 5]))
    assert search_vectors(vectors, queries, 0)[0].shape == (2, 0)
    assert search_vectors(vectors, queries, 3, rows=np.array([], np.int64))[1].shape == (2, 0)
    assert search_vectors(vectors, queries[:0], 3)[1].shape == (0, 3)
    assert search_vectors(Vectors.of(np.empty((0, 3), np.float32)), queries, 3)[1].shape == (2, 0)


@pytest.mark.filterwarnings("error")
def test_mapped_files_are_searched_as_they_lie(tmp_path):
    rng = np.random.default_rng(12)
    array, queries = units(rng, 2000, 20), units(rng, 3, 20)
    for vector_dtype in STORAGES:
        (tmp_path / vector_dtype).mkdir()
        with stored.write_vectors(tmp_path / vector_dtype, 2000, 20, vector_dtype) as put:
            put(array)
        vectors = Vectors.open(tmp_path / vector_dtype)
        assert_same(vectors, queries, 6, block=4096)
        assert_same(vectors, queries, 6, rows=np.arange(100, 1900, 9))
        assert_same(vectors, queries, 6, device_copy=upload(vectors, "cpu"))


def test_wrong_queries():
    vectors = Vectors.of(np.zeros((2, 3), np.float32))
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
    with pytest.raises(AssertionError, match="aren't the vectors"):
        search_vectors(vectors, np.zeros((1, 3), np.float32), 1, device_copy=torch.zeros(3, 3))
