"""The HNSW index against the exact search, its file, and the errors where it cannot be used."""

import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking.build_memory import rss_bytes
from xsap.search.approximate import EF_CHOICES, RECALL_AT, HnswIndex, nearest_rows, release_pages
from xsap.search.exact import search_vectors
from xsap.search.vectors import Vectors, write_vectors

usearch = pytest.importorskip("usearch.index")


def clusters(seed, n, d=32, around=1):
    """Unit vectors in clusters of 8, as the names of a concept are."""
    rng = np.random.default_rng(around)
    centres = rng.standard_normal((n // 8 + 1, d), dtype=np.float32)
    vectors = np.repeat(centres, 8, axis=0)[:n] + np.float32(0.5) * np.random.default_rng(seed).standard_normal(
        (n, d), dtype=np.float32
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def hnsw():
    return HnswIndex.build(Vectors.from_array(clusters(0, 2000)))


def recall_of(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


@pytest.mark.parametrize("vector_dtype", ["float32", "float16", "int8"])
def test_hnsw_search_finds_nearly_all_nearest_rows_with_their_exact_scores(vector_dtype):
    vectors = Vectors.from_array(clusters(0, 1500), vector_dtype, min_rows_with_codes=1)
    queries = clusters(5, 200)
    scores, rows = HnswIndex.build(vectors).search(queries, 10)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    expected_scores, expected = search_vectors(vectors, queries, 10)
    assert recall_of(rows, expected) > 0.99
    same = (rows == expected).all(1)
    assert same.mean() > 0.9
    assert scores[same].tobytes() == expected_scores[same].tobytes()


def test_scores_and_recall_match_plain_products_in_float64(hnsw):
    queries, k = clusters(9, 100), 20
    products = queries.astype(np.float64) @ hnsw.vectors.take(slice(None)).astype(np.float64).T
    scores, rows = hnsw.search(queries, k)
    np.testing.assert_allclose(scores, np.take_along_axis(products, rows, 1), rtol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall_of(rows, np.argsort(-products, axis=1)[:, :k]) > 0.99


def test_recall_is_that_of_a_plain_count(monkeypatch):
    asked = []
    search = HnswIndex.search
    monkeypatch.setattr(
        HnswIndex, "search", lambda self, queries, k: asked.append((self.ef, queries)) or search(self, queries, k)
    )
    all_choices = {"ef_choices": (1, 64), "target_recall": {64: 2}}  # a target that none reaches
    vectors = Vectors.from_array(clusters(0, 1500))
    built = HnswIndex.build(vectors, seed=3, **all_choices)
    assert list(dict.fromkeys(ef for ef, _ in asked)) == [1, 64]
    queries = np.concatenate([part for ef, part in asked if ef == 1])
    assert len(queries) == 200
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    cosines = (queries @ vectors.take(slice(None)).T).max(1)
    assert 0.8 < np.median(cosines) < 0.9
    assert built.ef == 64
    assert built.recall == pytest.approx(
        recall_of(built.search(queries, RECALL_AT)[1], search_vectors(vectors, queries, RECALL_AT)[1])
    )
    again = []
    monkeypatch.setattr(HnswIndex, "search", lambda self, queries, k: again.append(queries) or search(self, queries, k))
    HnswIndex.build(vectors, seed=3, **all_choices)
    HnswIndex.build(vectors, seed=4, **all_choices)
    assert np.array_equal(np.concatenate(again)[:200], queries)
    assert not np.array_equal(np.concatenate(again)[-200:], queries)


def test_the_least_ef_that_reaches_the_target_is_chosen_and_its_recall_stored(hnsw):
    assert hnsw.ef == EF_CHOICES[0]
    assert 0.95 <= hnsw.recall <= 1
    noise = np.random.default_rng(1).standard_normal((2000, 64), dtype=np.float32)
    vectors = Vectors.from_array(noise / np.linalg.norm(noise, axis=1, keepdims=True))
    poor = HnswIndex.build(vectors, connectivity=2, ef_construction=2, ef_choices=(1, 64, 400))
    assert poor.ef == 400
    assert poor.recall < 0.95


def test_equal_scores_are_ordered_by_row():
    array = clusters(0, 600)
    array[[17, 300, 301, 599]] = array[5]
    scores, rows = HnswIndex.build(Vectors.from_array(array)).search(array[5:6], 6)
    assert rows[0, :5].tolist() == [5, 17, 300, 301, 599]
    assert len(set(scores[0, :5].tolist())) == 1


def test_queries_with_too_few_rows_found_are_searched_exactly(hnsw):
    def search(codes, wanted, threads):
        return SimpleNamespace(keys=hnsw.usearch.search(codes, wanted).keys, counts=np.array([2, 64, 0]))

    queries = clusters(5, 3)
    scores, rows = replace(hnsw, usearch=SimpleNamespace(search=search)).search(queries, 9)
    expected = search_vectors(hnsw.vectors, queries[[0, 2]], 9)
    np.testing.assert_array_equal(rows[[0, 2]], expected[1])
    np.testing.assert_array_equal(scores[[0, 2]], expected[0])
    np.testing.assert_array_equal(rows[1], hnsw.search(queries, 9)[1][1])


def test_few_rows_and_many_wanted(hnsw):
    for n in (1, 3, 40):
        vectors = Vectors.from_array(clusters(0, n))
        small = HnswIndex.build(vectors)
        np.testing.assert_array_equal(
            small.search(clusters(1, 5), 50)[1], search_vectors(vectors, clusters(1, 5), 50)[1]
        )
        assert small.recall == 1
    assert hnsw.search(clusters(1, 2), 1900)[1].shape == (2, 1900)
    assert hnsw.search(clusters(1, 2)[:0], 3)[0].shape == (0, 3)


def test_a_saved_index_opens_and_gives_the_same_answers(hnsw, tmp_path):
    metadata = hnsw.save(tmp_path / "hnsw.usearch")
    assert metadata == {"ef": hnsw.ef, "recall@64": hnsw.recall}
    opened = HnswIndex.open(tmp_path / "hnsw.usearch", hnsw.vectors, metadata)
    assert (opened.ef, opened.recall) == (hnsw.ef, hnsw.recall)
    queries = clusters(2, 50)
    for one, other in zip(opened.search(queries, 7), hnsw.search(queries, 7), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_that_does_not_fit_is_refused(hnsw, tmp_path):
    file = tmp_path / "hnsw.usearch"
    metadata = hnsw.save(file)
    whole = file.read_bytes()
    others = [
        (hnsw.vectors, {}),
        (hnsw.vectors, metadata | {"ef": 0}),
        (hnsw.vectors, metadata | {"recall@64": "high"}),
    ]
    others += [
        (Vectors.from_array(clusters(0, 1999)), metadata),
        (Vectors.from_array(clusters(0, 2000, d=31)), metadata),
    ]
    for vectors, said in others:
        with pytest.raises(
            ArtifactError,
            match=r"hnsw\.usearch: not an HNSW index of these [12],[09]{3} vectors; the folder is damaged; create it again$",
        ):
            HnswIndex.open(file, vectors, said)
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 5000):
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="not an HNSW index"):
            HnswIndex.open(file, hnsw.vectors, metadata)
    with pytest.raises(ArtifactError, match="not an HNSW index"):
        HnswIndex.open(tmp_path / "nowhere", hnsw.vectors, metadata)


def test_recall_is_verified_by_a_few_queries_and_in_doubt_by_many(hnsw, monkeypatch):
    asked, recalls = [], []

    def measure(self, queries, nearest):
        asked.append(len(queries))
        np.testing.assert_array_equal(nearest, search_vectors(self.vectors, queries, RECALL_AT)[1])
        return recalls.pop(0)

    monkeypatch.setattr(HnswIndex, "measure_recall", measure)
    hnsw, claimed = replace(hnsw, recall=0.97), 0.97
    for given, counts in (([claimed - 0.09], [16]), ([claimed - 0.11, claimed - 0.09], [16, 200])):
        recalls[:], asked[:] = given, []
        hnsw.verify_recall("hnsw")
        assert asked == counts
    recalls[:] = [claimed - 0.11] * 2
    with pytest.raises(
        ArtifactError,
        match=r"^hnsw: expected an HNSW index that finds 97% of the 64 nearest names, found 86%; it was built from other",
    ):
        hnsw.verify_recall("hnsw")


def test_an_index_of_other_vectors_is_refused_even_with_forged_metadata(hnsw, tmp_path):
    others = Vectors.from_array(clusters(0, 2000, around=2))
    HnswIndex.build(others).save(tmp_path / "hnsw")
    HnswIndex.open(tmp_path / "hnsw", others, hnsw.metadata()).verify_recall(tmp_path / "hnsw")
    with pytest.raises(
        ArtifactError, match=r"found [1-4]?\d%; it was built from other vectors; create the index again$"
    ):
        HnswIndex.open(tmp_path / "hnsw", hnsw.vectors, hnsw.metadata()).verify_recall(tmp_path / "hnsw")
    hnsw.verify_recall("itself")


@pytest.mark.parametrize("rows", [1, 7, 700, 5000])
def test_nearest_rows_in_slices_are_those_of_one_search(hnsw, rows):
    few = Vectors.from_array(clusters(0, 100).round(1)) if rows < 10 else hnsw.vectors  # rounded, so that some tie
    queries = clusters(4, 20).round(1)
    found = nearest_rows(few, queries, components_per_slice=32 * rows)
    np.testing.assert_array_equal(found, search_vectors(few, queries, RECALL_AT)[1])


def test_pages_of_memory_maps_are_released(tmp_path):
    """Otherwise all that was read of the files would count as memory of the build, and exceed --max-memory."""
    n = 250_000
    with write_vectors(tmp_path, n, 64, "float32") as put:
        for i in range(5):
            put(np.random.default_rng(i).standard_normal((n // 5, 64), dtype=np.float32))
    vectors, queries = Vectors.open(tmp_path), clusters(0, 16, d=64)
    nearest_rows(Vectors.from_array(clusters(0, 100, d=64)), queries)  # the memory of a search itself is there before
    before = rss_bytes()
    assert vectors.values is not None
    found = nearest_rows(vectors, queries, components_per_slice=64 * 10_000)
    assert rss_bytes() - before < 8_000_000
    assert float(np.abs(vectors.values).max()) > 0
    assert rss_bytes() - before > 60_000_000
    release_pages(vectors)
    assert rss_bytes() - before < 8_000_000
    np.testing.assert_array_equal(found, search_vectors(vectors, queries, RECALL_AT)[1])


def test_threads_get_the_same_answers(hnsw):
    queries, found = clusters(3, 64), {}
    expected = hnsw.search(queries, 5)

    def work(i):
        found[i] = [hnsw.search(queries[i : i + 1], 5) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, answers in found.items():
        for scores, rows in answers:
            np.testing.assert_array_equal(rows[0], expected[1][i])
            np.testing.assert_array_equal(scores[0], expected[0][i])


def test_the_error_without_usearch_says_what_to_install(hnsw, monkeypatch, tmp_path):
    metadata = hnsw.save(tmp_path / "hnsw")
    monkeypatch.setitem(sys.modules, "usearch", None)
    for call in (
        lambda: HnswIndex.build(hnsw.vectors),
        lambda: HnswIndex.open(tmp_path / "hnsw", hnsw.vectors, metadata),
    ):
        with pytest.raises(
            ConfigError, match=r"^approximate search needs usearch, which isn't installed: pip install 'xsap\[ann\]'"
        ):
            call()


def test_queries_that_are_not_finite_are_refused(hnsw):
    with pytest.raises(DataError, match="the query vectors must be finite"):
        hnsw.search(np.full((1, 32), np.nan, np.float32), 3)
