"""Character n-grams: scikit-learn gives the same cosines, and a full stable sort of them the same rows."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.accuracy import baselines as module
from benchmarks.accuracy.baselines import Lexicon
from xsap.text import EXACT_MATCH, normalize_all

NAMES = ["Fever", "fever, high", "high fever", "heart attack", "", "Fièvre", "fever", "zz", "  ", "発熱", "qq"]
texts = st.text("ab ABé-1\t\u0130\u200b\u3000発熱🫀\ud83e", max_size=9)


@pytest.fixture(autouse=True, scope="module")
def small_parts():
    """A part ends after every few names, and groups are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", 3)
        patch.setattr(module, "_GROUP", 2)
        yield


def scikit(names, mentions):
    """(q, n) cosines, in float64."""
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True, lowercase=False)
    vectors = vectorizer.fit_transform(normalize_all(names, EXACT_MATCH))
    return (vectorizer.transform(normalize_all(mentions, EXACT_MATCH)) @ vectors.T).toarray()


def all_cosines(lexicon, mentions):
    return lexicon.scores(mentions, np.tile(np.arange(lexicon.count), (len(mentions), 1)))


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=12), st.lists(texts, max_size=7))
def test_the_same_cosines_as_scikit_learn(names, mentions):
    assume(any(normalize_all(names, EXACT_MATCH)))  # which it refuses
    mentions = [*mentions, *names]
    np.testing.assert_allclose(all_cosines(Lexicon.build(names), mentions), scikit(names, mentions), rtol=0, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=40), st.lists(texts, min_size=1, max_size=4), st.integers(1, 50))
def test_the_best_rows_are_those_of_a_full_sort(names, mentions, k):
    lexicon = Lexicon.build(names)
    cosines = all_cosines(lexicon, mentions)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    scores, rows = lexicon.search(mentions, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(cosines, expected, 1))


def test_many_names_in_whole_parts_and_groups(monkeypatch):
    rng = np.random.default_rng(0)
    syllables = np.array(["fe", "ver", "card", "itis", " ", "my", "o", "pathy", "ren", "al "])
    names = ["".join(rng.choice(syllables, rng.integers(1, 9))) for _ in range(3000)]
    names += names[:500]
    monkeypatch.setattr(module, "_PART", 700)
    monkeypatch.setattr(module, "_GROUP", 64)
    scores, rows = Lexicon.build(names).search(names[:40], 6)
    expected = scikit(names, names[:40])
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :6], atol=1e-6)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, rows, 1), atol=1e-6)
    firsts = {}
    for row, name in enumerate(names):
        firsts.setdefault(bag(name), row)
    assert rows[:, 0].tolist() == [firsts[bag(name)] if bag(name) else 0 for name in names[:40]]


def bag(name):
    words = [f" {word} " for word in name.split()]
    return tuple(sorted(word[i : i + size] for word in words for size in (2, 3) for i in range(len(word) - size + 1)))


def test_a_weight_by_hand():
    """Of "ab" the n-grams are " a", "ab", "b ", " ab" and "ab "; of "b", which has "b " in common with it, " b", "b " and " b "."""
    shared, own = 1.0, 1 + np.log(3 / 2)
    norms = np.sqrt(shared**2 + 4 * own**2), np.sqrt(shared**2 + 2 * own**2)
    cosine = all_cosines(Lexicon.build(["ab", "b"]), ["ab", "b b"])
    twice = 1 + np.log(2)  # each of its n-grams is there twice, which its length makes up for
    np.testing.assert_allclose(cosine[0], [1, shared / norms[0] / norms[1]], atol=1e-7)
    np.testing.assert_allclose(cosine[1], [shared * twice / (norms[0] * norms[1] * twice), 1], atol=1e-7)


def test_ties_go_by_row_and_what_has_nothing_in_common_comes_last():
    scores, rows = Lexicon.build(NAMES).search(["FEVER", "high  fever", "zz", "*", ""], 99)
    assert rows.shape == (5, len(NAMES))
    assert rows[0, :2].tolist() == [0, 6]  # equal but for case
    assert scores[0, 0] == scores[0, 1] == pytest.approx(1, abs=1e-6)
    assert rows[1, 0] == 2
    assert rows[2].tolist() == [7, *(row for row in range(len(NAMES)) if row != 7)]
    assert rows[3].tolist() == rows[4].tolist() == list(range(len(NAMES)))
    assert not scores[3:].any()
    assert (np.diff(scores, axis=1) <= 0).all()
    words_in_another_order = Lexicon.build(["x", "heart of stone", "stone of heart"]).search(["of stone heart"], 2)
    assert words_in_another_order[1].tolist() == [[1, 2]]
    assert words_in_another_order[0][0, 0] == words_in_another_order[0][0, 1]


def test_nothing_to_search_and_nothing_asked():
    assert Lexicon.build([]).search(["a"], 4)[1].shape == (1, 0)
    assert Lexicon.build(["", " "]).search(["a"], 4)[1].tolist() == [[0, 1]]
    assert Lexicon.build(NAMES).search([], 4)[0].shape == (0, 4)
    assert Lexicon.build(NAMES).search(["a"], 0)[0].shape == (1, 0)
    assert Lexicon.build(NAMES).scores(["a"], np.empty((1, 0), np.int64)).shape == (1, 0)


def test_rows_that_are_none_are_refused():
    for rows in ([[-1]], [[len(NAMES)]]):
        with pytest.raises(AssertionError, match="rows outside of 11 names"):
            Lexicon.build(NAMES).scores(["a"], np.array(rows))
    with pytest.raises(AssertionError, match="2 mentions, rows for 1"):
        Lexicon.build(NAMES).scores(["a", "b"], np.array([[0]]))


def test_its_arrays_may_be_saved_and_mapped(tmp_path):
    lexicon, arrays = Lexicon.build(NAMES), {}
    for field in fields(lexicon):
        if field.name != "count":
            np.save(tmp_path / f"{field.name}.npy", getattr(lexicon, field.name), allow_pickle=False)
            arrays[field.name] = np.load(tmp_path / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
    mapped = replace(lexicon, **arrays)
    for one, other in zip(lexicon.search(NAMES, 5), mapped.search(NAMES, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(all_cosines(lexicon, NAMES), all_cosines(mapped, NAMES))
