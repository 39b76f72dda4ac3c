"""Lexical fusion: n-grams as scikit-learn cuts them, and the order of all names by a plain loop over every one."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from xsap.linking import fusion as module
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import fuse, fused, grams, string_similarity
from xsap.linking.ranking import rank_concepts
from xsap.text import EXACT_MATCH, normalize_all

texts = st.text("ab AB\u00e9-1\t\u0130\u200b\u3000発熱🫀\ud83e", max_size=9)
names_like = st.text("ab ", min_size=1, max_size=5)
weights = st.sampled_from([0.0, 0.05, 0.25, 0.3, 0.5, 1.0])


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    """A part ends after every few mentions, and the pool is small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", 3)
        patch.setattr(module, "POOL", 4)
        yield


def column(names):
    return pa.chunked_array([pa.array(names[:2], pa.string()), pa.array(names[2:], pa.string())])


def scikit(mentions, names):
    """(q, n) cosines of which n-grams there are, in float64."""
    vectorizer = CountVectorizer(analyzer="char_wb", ngram_range=(2, 3), binary=True, lowercase=False)
    bags = vectorizer.fit_transform(normalize_all([*mentions, *names, "any"], EXACT_MATCH)).toarray().astype(np.float64)
    bags /= np.maximum(np.linalg.norm(bags, axis=1, keepdims=True), 1e-9)
    return bags[: len(mentions)] @ bags[len(mentions) : -1].T


def test_n_grams_by_hand():
    assert grams("AB  c") == {" a", "ab", "b ", " ab", "ab ", " c", "c ", " c "}
    assert grams(" \u200b\t") == grams("") == frozenset()
    assert grams("ａ") == grams("a") == {" a", "a ", " a "}


def test_likeness_by_hand():
    found = string_similarity(
        ["ab", "b b", "?", ""], np.array([[0, 1, 2], [2, 1, 0], [0, 1, 2], [0, 1, 2]]), column(["ab", "b", ""])
    )
    shared = 1 / np.sqrt(5 * 3)  # of 5 and 3 n-grams one is common: "b "
    np.testing.assert_allclose(found, [[1, shared, 0], [0, 1, shared], [0, 0, 0], [0, 0, 0]], atol=1e-7)
    assert found.dtype == np.float32


@settings(max_examples=150, deadline=None)
@given(
    st.lists(texts, max_size=8),
    st.lists(texts.filter(str.isprintable), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_the_same_likeness_as_scikit_learn(mentions, names, seed):
    rows = np.random.default_rng(seed).integers(len(names), size=(len(mentions), 5))
    expected = np.take_along_axis(scikit(mentions, names), rows, 1) if mentions else np.empty((0, 5))
    np.testing.assert_allclose(string_similarity(mentions, rows, column(names)), expected, rtol=0, atol=1e-6)


def make_find(cosines):
    """Of (q, n) cosines the greatest k, equal ones by row; as many as there are."""

    def find(part, k):
        rows = np.argsort(-cosines[part], axis=1, kind="stable")[:, :k]
        return np.take_along_axis(cosines[part], rows, 1), rows

    return find


def plain_loop(cosines, alike, owners, weight, wanted):
    """Each concept's best name, of all names: those among the POOL with the greatest cosines get their share of likeness."""
    nearest = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[: module.POOL]
    best = {}
    for row, concepts in enumerate(owners):
        score = np.float32(1 - weight) * cosines[row]
        if row in nearest:
            score += np.float32(weight) * alike[row]
        for concept in concepts:
            if concept not in best or score > best[concept][0]:
                best[concept] = score, row
    return [
        (concept, row, score) for concept, (score, row) in sorted(best.items(), key=lambda item: (-item[1][0], item[0]))
    ][:wanted]


@settings(max_examples=200, deadline=None)
@given(st.lists(names_like, min_size=1, max_size=30), names_like, weights, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_concepts_against_a_plain_loop(names, mention, weight, wanted, seed):
    """Cosines and names tie often, concepts share names, and the search must widen beyond the pool."""
    rng = np.random.default_rng(seed)
    cosines = rng.integers(-2, 3, (3, len(names))).astype(np.float32) / 2
    owners = [sorted(set(rng.integers(6, size=rng.integers(1, 3)).tolist())) for _ in names]
    lists = pa.array([[f"C{concept}" for concept in row] for row in owners])
    mentions = [mention, names[-1], "zz"]
    found = fused(make_find(cosines), mentions, column(names), weight)
    ranked = rank_concepts(found, NameConcepts.of(lists, pa.array([f"C{i}" for i in range(6)])), 3, wanted)
    for query, asked in enumerate(mentions):
        alike = string_similarity([asked], np.arange(len(names))[None], column(names))[0]
        expected = plain_loop(cosines[query], alike, owners, weight, wanted)
        there = ranked.concepts[query] >= 0
        assert list(zip(*(array[query][there].tolist() for array in ranked), strict=True)) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(names_like, min_size=1, max_size=20),
    st.lists(names_like, min_size=1, max_size=5),
    weights,
    st.integers(1, 9),
)
def test_greatest_first_equal_ones_by_row_and_each_query_alone(names, mentions, weight, k):
    cosines = np.random.default_rng(len(names)).integers(-3, 4, (len(mentions), len(names))).astype(np.float32) / 3
    found = fused(make_find(cosines), mentions, column(names), weight)
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
        unchanged = make_find(cosines)(np.arange(len(mentions)), min(k, len(names)))
        np.testing.assert_array_equal(rows, unchanged[1])
        np.testing.assert_array_equal(scores, unchanged[0])


def test_the_same_name_scores_1_and_none_like_it_only_its_cosine_s_share():
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
