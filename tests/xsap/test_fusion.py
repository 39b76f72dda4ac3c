"""Lexical fusion: n-grams as scikit-learn cuts them, and the order of all names by a plain loop over every one."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from tests.fixtures.examples import examples
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import FusedSearch, fuse, grams, string_similarity
from xsap.linking.ranking import rank_concepts
from xsap.text import fold_case

texts = st.text("ab AB\u00e9-1\t\u0130\u200b\u3000発熱🫀\ud83e", max_size=9)
names_like = st.text("ab ", min_size=1, max_size=5)
weights = st.sampled_from([0.0, 0.05, 0.25, 0.3, 0.5, 1.0])


POOL = 4  # small, so that searches exceed it
PART = {"mentions_per_part": 3}


def column(names):
    return pa.chunked_array([pa.array(names[:2], pa.string()), pa.array(names[2:], pa.string())])


def scikit(mentions, names):
    """(q, n) cosines of which n-grams there are, in float64."""
    vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=(2, 3), binary=True, lowercase=False)
    bags = (
        vectorizer.fit_transform([fold_case(text) for text in [*mentions, *names, "any"]]).toarray().astype(np.float64)
    )
    bags /= np.maximum(np.linalg.norm(bags, axis=1, keepdims=True), 1e-9)
    return bags[: len(mentions)] @ bags[len(mentions) : -1].T


def test_grams_are_those_found_by_hand():
    assert grams("AB  c") == {" a", "ab", "b ", " ab", "ab ", " c", "c ", " c "}
    assert grams(" \u200b\t") == grams("") == frozenset()
    assert grams("ａ") == grams("a") == {" a", "a ", " a "}


def test_string_similarity_is_that_computed_by_hand():
    found = string_similarity(
        ["ab", "b b", "?", ""], np.array([[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2]]), column(["ab", "b", ""])
    )
    shared = 1 / np.sqrt(5 * 3)  # of 5 and 3 n-grams one is common: "b "
    np.testing.assert_allclose(found, [[1, shared, 0], [0, 1, shared], [0, 0, 0], [0, 0, 0]], atol=1e-7)
    assert found.dtype == np.float32


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(texts, max_size=8),
    st.lists(texts.filter(str.isprintable), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_string_similarity_matches_scikit_learn(mentions, names, seed):
    rows = np.random.default_rng(seed).integers(len(names), size=(len(mentions), 5))
    expected = np.take_along_axis(scikit(mentions, names), rows, 1) if mentions else np.empty((0, 5))
    np.testing.assert_allclose(string_similarity(mentions, rows, column(names), **PART), expected, rtol=0, atol=1e-6)


def make_search(cosines):
    """Of (q, n) cosines the greatest k, equal ones by row; as many as there are."""

    def search(part, k):
        rows = np.argsort(-cosines[part], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines[part], rows, 1), rows

    return search


def plain_loop(cosines, similarity, concepts_of_names, weight, wanted):
    """Each concept's best name, of all names: those among the POOL with the greatest cosines get their string similarity added."""
    nearest = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:POOL]
    best = {}
    for row, concepts in enumerate(concepts_of_names):
        score = np.float32(1 - weight) * cosines[row]
        if row in nearest:
            score += np.float32(weight) * similarity[row]
        for concept in concepts:
            if concept not in best or score > best[concept][0]:
                best[concept] = score, row
    return [
        (concept, row, score) for concept, (score, row) in sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    ][:wanted]


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(names_like, min_size=1, max_size=30), names_like, weights, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_fused_search_gives_the_concepts_of_a_plain_loop(names, mention, weight, wanted, seed):
    """Cosines and names tie often, concepts share names, and the search must widen beyond the pool."""
    rng = np.random.default_rng(seed)
    cosines = rng.integers(-2, 3, (3, len(names))).astype(np.float32) / 2
    concepts_of_names = [sorted(set(rng.integers(6, size=rng.integers(1, 3)).tolist())) for _ in names]
    lists = pa.array([[f"C{concept}" for concept in row] for row in concepts_of_names])
    mentions = [mention, names[-1], "zz"]
    found = FusedSearch(make_search(cosines), mentions, column(names), weight, POOL)
    ranked = rank_concepts(found, NameConcepts.from_ids(lists, pa.array([f"C{i}" for i in range(6)])), 3, wanted)
    for query, asked in enumerate(mentions):
        similarity = string_similarity([asked], np.arange(len(names))[None], column(names))[0]
        expected = plain_loop(cosines[query], similarity, concepts_of_names, weight, wanted)
        filled = ranked.concepts[query] >= 0
        assert list(zip(*(array[query][filled].tolist() for array in ranked), strict=True)) == expected


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(names_like, min_size=1, max_size=20),
    st.lists(names_like, min_size=1, max_size=5),
    weights,
    st.integers(1, 9),
)
def test_fused_search_orders_by_score_then_row_and_each_query_alone(names, mentions, weight, k):
    cosines = np.random.default_rng(len(names)).integers(-3, 4, (len(mentions), len(names))).astype(np.float32) / 3
    found = FusedSearch(make_search(cosines), mentions, column(names), weight, POOL)
    scores, rows = found(np.arange(len(mentions)), min(k, len(names)))
    assert (scores.dtype, rows.dtype, scores.shape) == (np.float32, np.int64, (len(mentions), min(k, len(names))))
    for line, at in zip(scores.tolist(), rows.tolist(), strict=True):
        assert list(zip(line, at, strict=True)) == sorted(
            zip(line, at, strict=True), key=lambda pair: (-pair[0], pair[1])
        )
    every = found(np.arange(len(mentions)), len(names))[0]
    np.testing.assert_array_equal(scores, every[:, : scores.shape[1]])  # the pool is whole, however few are asked for
    for query in range(len(mentions)):
        alone = found(np.array([query]), min(k, len(names)))
        np.testing.assert_array_equal(alone[0][0], scores[query])
        np.testing.assert_array_equal(alone[1][0], rows[query])
    if weight == 0:
        unchanged = make_search(cosines)(np.arange(len(mentions)), min(k, len(names)))
        np.testing.assert_array_equal(rows, unchanged[1])
        np.testing.assert_array_equal(scores, unchanged[0])


def test_fuse_gives_the_scores_computed_by_hand():
    cosines, rows = np.float32([[1, 0.8, 0.6, 0.4]]), np.array([[7, 3, 5, 1]])
    scores, order = fuse(cosines, rows, np.float32([[0, 0.5, 1]]), 0.25)
    assert order.tolist() == [[7, 3, 5, 1]]
    np.testing.assert_allclose(scores, [[0.75, 0.725, 0.7, 0.3]], rtol=1e-6)
    scores, order = fuse(cosines, rows, np.float32([[0, 0.5, 1]]), 0.5)
    assert order.tolist() == [[5, 3, 7, 1]]
    np.testing.assert_allclose(scores, [[0.8, 0.65, 0.5, 0.2]], rtol=1e-6)
    assert fuse(np.float32([[1]]), np.array([[0]]), np.float32([[1]]), 0.3)[0] == pytest.approx(1)
    assert fuse(np.empty((0, 3), np.float32), np.empty((0, 3), np.int64), np.empty((0, 3), np.float32), 0.5)[
        0
    ].shape == (0, 3)
