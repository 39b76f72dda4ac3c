"""The graph's answers against the exact search, its file, and what is said where it can't be used."""

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.linking.build import rss_bytes
from xsap.search import approximate as module
from xsap.search import vectors as stored
from xsap.search.approximate import RECALL_AT, HnswIndex
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
def graph():
    return HnswIndex.build(Vectors.of(clusters(0, 2000)))


def shared(found, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), expected.tolist(), strict=True)])


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_nearly_all_of_the_nearest_are_found_with_their_exact_scores(vector_dtype, monkeypatch):
    monkeypatch.setattr(stored, "SCAN_FROM", 1)
    vectors, queries = Vectors.of(clusters(0, 1500), vector_dtype), clusters(5, 200)
    scores, rows = HnswIndex.build(vectors).search(queries, 10)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    expected_scores, expected = search_vectors(vectors, queries, 10)
    assert shared(rows, expected) > 0.99
    same = (rows == expected).all(1)
    assert same.mean() > 0.9
    assert scores[same].tobytes() == expected_scores[same].tobytes()


def test_scores_and_recall_against_plain_products_in_float64(graph):
    queries, k = clusters(9, 100), 20
    products = queries.astype(np.float64) @ graph.vectors.take(slice(None)).astype(np.float64).T
    scores, rows = graph.search(queries, k)
    np.testing.assert_allclose(scores, np.take_along_axis(products, rows, 1), rtol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert shared(rows, np.argsort(-products, axis=1)[:, :k]) > 0.99


def test_the_recall_is_that_of_a_plain_count(graph, monkeypatch):
    asked = []
    search = HnswIndex.search
    monkeypatch.setattr(
        HnswIndex, "search", lambda self, queries, k: asked.append((self.width, queries)) or search(self, queries, k)
    )
    monkeypatch.setattr(module, "ENOUGH", {64: 2})  # so all widths are tried
    monkeypatch.setattr(module, "WIDTHS", (1, 64))
    vectors = Vectors.of(clusters(0, 1500))
    built = HnswIndex.build(vectors, seed=3)
    assert list(dict.fromkeys(width for width, _ in asked)) == list(module.WIDTHS)
    queries = np.concatenate([part for width, part in asked if width == module.WIDTHS[0]])
    assert len(queries) == 200
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    cosines = (queries @ vectors.take(slice(None)).T).max(1)
    assert 0.8 < np.median(cosines) < 0.9
    assert built.width == max(module.WIDTHS)
    assert built.recall == pytest.approx(
        shared(built.search(queries, RECALL_AT)[1], search_vectors(vectors, queries, RECALL_AT)[1])
    )
    again = []
    monkeypatch.setattr(HnswIndex, "search", lambda self, queries, k: again.append(queries) or search(self, queries, k))
    HnswIndex.build(vectors, seed=3)
    HnswIndex.build(vectors, seed=4)
    assert np.array_equal(np.concatenate(again)[:200], queries)
    assert not np.array_equal(np.concatenate(again)[-200:], queries)


def test_no_wider_than_needed_and_no_more_is_claimed_than_found(graph, monkeypatch):
    assert graph.width == module.WIDTHS[0]
    assert 0.95 <= graph.recall <= 1
    monkeypatch.setattr(module, "_LINKS", 2)  # a poor graph
    monkeypatch.setattr(module, "_BUILD_WIDTH", 2)
    monkeypatch.setattr(module, "WIDTHS", (1, 64, 400))
    noise = np.random.default_rng(1).standard_normal((2000, 64), dtype=np.float32)
    poor = HnswIndex.build(Vectors.of(noise / np.linalg.norm(noise, axis=1, keepdims=True)))
    assert poor.width == 400
    assert poor.recall < 0.95


def test_ties_go_by_row():
    array = clusters(0, 600)
    array[[17, 300, 301, 599]] = array[5]
    scores, rows = HnswIndex.build(Vectors.of(array)).search(array[5:6], 6)
    assert rows[0, :5].tolist() == [5, 17, 300, 301, 599]
    assert len(set(scores[0, :5].tolist())) == 1


def test_where_the_graph_finds_too_few_the_exact_search_answers(graph, monkeypatch):
    propose = HnswIndex._propose
    monkeypatch.setattr(HnswIndex, "_propose", lambda *given: (propose(*given)[0], np.array([2, 64, 0])))
    queries = clusters(5, 3)
    scores, rows = graph.search(queries, 9)
    expected = search_vectors(graph.vectors, queries[[0, 2]], 9)
    np.testing.assert_array_equal(rows[[0, 2]], expected[1])
    np.testing.assert_array_equal(scores[[0, 2]], expected[0])


def test_few_rows_and_many_wanted(graph):
    for n in (1, 3, 40):
        vectors = Vectors.of(clusters(0, n))
        small = HnswIndex.build(vectors)
        np.testing.assert_array_equal(
            small.search(clusters(1, 5), 50)[1], search_vectors(vectors, clusters(1, 5), 50)[1]
        )
        assert small.recall == 1
    assert graph.search(clusters(1, 2), 1900)[1].shape == (2, 1900)
    assert graph.search(clusters(1, 2)[:0], 3)[0].shape == (0, 3)


def test_written_and_opened(graph, tmp_path):
    metadata = graph.save(tmp_path / "graph.usearch")
    assert metadata == {"width": graph.width, "recall@64": graph.recall}
    opened = HnswIndex.open(tmp_path / "graph.usearch", graph.vectors, metadata)
    assert (opened.width, opened.recall) == (graph.width, graph.recall)
    queries = clusters(2, 50)
    for one, other in zip(opened.search(queries, 7), graph.search(queries, 7), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_that_does_not_fit_is_refused(graph, tmp_path):
    file = tmp_path / "graph.usearch"
    metadata = graph.save(file)
    whole = file.read_bytes()
    others = [
        (graph.vectors, {}),
        (graph.vectors, metadata | {"width": 0}),
        (graph.vectors, metadata | {"recall@64": "high"}),
    ]
    others += [(Vectors.of(clusters(0, 1999)), metadata), (Vectors.of(clusters(0, 2000, d=31)), metadata)]
    for vectors, said in others:
        with pytest.raises(
            ArtifactError,
            match=r"graph\.usearch: not a graph of these [12],[09]{3} vectors; the folder is damaged, make it again$",
        ):
            HnswIndex.open(file, vectors, said)
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 5000):
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="not a graph"):
            HnswIndex.open(file, graph.vectors, metadata)
    with pytest.raises(ArtifactError, match="not a graph"):
        HnswIndex.open(tmp_path / "nowhere", graph.vectors, metadata)


def test_it_is_confirmed_by_a_few_queries_and_in_doubt_by_many(graph, monkeypatch):
    asked, shares = [], []

    def share(self, queries, nearest):
        asked.append(len(queries))
        np.testing.assert_array_equal(nearest, search_vectors(self.vectors, queries, RECALL_AT)[1])
        return shares.pop(0)

    monkeypatch.setattr(HnswIndex, "_recall", share)
    graph, claimed = replace(graph, recall=0.97), 0.97
    for given, counts in (([claimed - 0.09], [16]), ([claimed - 0.11, claimed - 0.09], [16, 200])):
        shares[:], asked[:] = given, []
        graph.verify_recall("graph")
        assert asked == counts
    shares[:] = [claimed - 0.11] * 2
    with pytest.raises(
        ArtifactError,
        match=r"^graph: expected a graph that finds 97% of the 64 nearest names, found 86%; it is of other",
    ):
        graph.verify_recall("graph")


def test_a_graph_of_other_vectors_is_refused_however_well_its_facts_are_forged(graph, tmp_path):
    others = Vectors.of(clusters(0, 2000, around=2))
    HnswIndex.build(others).save(tmp_path / "graph")
    HnswIndex.open(tmp_path / "graph", others, graph.metadata()).verify_recall(tmp_path / "graph")
    with pytest.raises(ArtifactError, match=r"found [1-4]?\d%; it is of other vectors, make the index again$"):
        HnswIndex.open(tmp_path / "graph", graph.vectors, graph.metadata()).verify_recall(tmp_path / "graph")
    graph.verify_recall("itself")


@pytest.mark.parametrize("rows", [1, 7, 700, 5000])
def test_the_nearest_in_slices_are_those_of_one_search(graph, monkeypatch, rows):
    monkeypatch.setattr(module, "SLICE", 32 * rows)
    few = Vectors.of(clusters(0, 100).round(1)) if rows < 10 else graph.vectors  # rounded, so that some tie
    queries = clusters(4, 20).round(1)
    np.testing.assert_array_equal(module._nearest(few, queries), search_vectors(few, queries, RECALL_AT)[1])


def test_what_is_mapped_is_let_go(tmp_path, monkeypatch):
    """Otherwise all that was read of the files would count as memory of the build, and go beyond --max-memory."""
    monkeypatch.setattr(module, "SLICE", 64 * 10_000)
    n = 250_000
    with write_vectors(tmp_path, n, 64, "float32") as put:
        for i in range(5):
            put(np.random.default_rng(i).standard_normal((n // 5, 64), dtype=np.float32))
    vectors, queries = Vectors.open(tmp_path), clusters(0, 16, d=64)
    module._nearest(Vectors.of(clusters(0, 100, d=64)), queries)  # what a search needs itself is there before
    before = rss_bytes()
    assert vectors.fine is not None
    found = module._nearest(vectors, queries)
    assert rss_bytes() - before < 8_000_000
    assert float(np.abs(vectors.fine).max()) > 0
    assert rss_bytes() - before > 60_000_000
    module._release_pages(vectors)
    assert rss_bytes() - before < 8_000_000
    np.testing.assert_array_equal(found, search_vectors(vectors, queries, RECALL_AT)[1])


def test_threads_change_nothing(graph):
    queries, found = clusters(3, 64), {}
    expected = graph.search(queries, 5)

    def work(i):
        found[i] = [graph.search(queries[i : i + 1], 5) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, answers in found.items():
        for scores, rows in answers:
            np.testing.assert_array_equal(rows[0], expected[1][i])
            np.testing.assert_array_equal(scores[0], expected[0][i])


def test_without_usearch_it_says_what_to_install(graph, monkeypatch, tmp_path):
    metadata = graph.save(tmp_path / "graph")
    monkeypatch.setitem(sys.modules, "usearch", None)
    for call in (
        lambda: HnswIndex.build(graph.vectors),
        lambda: HnswIndex.open(tmp_path / "graph", graph.vectors, metadata),
    ):
        with pytest.raises(
            ConfigError, match=r"^approximate search needs usearch, which isn't installed: pip install 'xsap\[ann\]'"
        ):
            call()


def test_queries_that_are_not_finite_are_refused(graph):
    with pytest.raises(DataError, match="the query vectors must be finite"):
        graph.search(np.full((1, 32), np.nan, np.float32), 3)
