"""Linkers without training, compared with plain loops; the n-gram lexicon, compared with scikit-learn; and fusion, by hand and by a loop."""

from collections import defaultdict
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks.accuracy.baselines import (
    FUSED_CANDIDATES,
    NO_NAME_FITS,
    RRF_CONSTANT,
    ExactNames,
    FusedLinker,
    Lexicon,
    UniqueNames,
    exact_linker,
    tfidf_linker,
)
from benchmarks.accuracy.dictionary import SearchSpace
from tests.fixtures.examples import examples
from xsap.evaluation.protocols import ReferenceDictionary
from xsap.linking.ranking import NO_CONCEPT
from xsap.linking.results import Candidate, Result
from xsap.text import EXACT_MATCH, TextPolicy, normalize, normalize_all

ROWS = [
    ("C1", "Fever"),
    ("C2", "FEVER"),
    ("C1", "High fever"),
    ("C3|C1", "Rash"),
    ("C4", "\u200b"),
    ("C2", "fièvre"),
    ("C1", "Fever"),
    ("C5", "qq"),
]
texts = st.text("ab AB\u200bé-", min_size=1, max_size=6)
row_lists = st.lists(st.tuples(st.sampled_from(["C1", "C2", "C3", "C1|C4", "C5+C2"]), texts), min_size=1, max_size=14)


def space_of(rows, preferred=None):
    return SearchSpace(
        ReferenceDictionary([ids for ids, _ in rows], [name for _, name in rows]), "synthetic", preferred or {}, {}
    )


def concepts_of(ids):
    return set(ids.replace("+", "|").split("|"))


def shown(results):
    return [[(c.concept_id, c.name, c.matched_name, c.score) for c in result.candidates] for result in results]


def ranked_concepts(rows, scores, top_k):
    """[(concept, name as it is first written, score)] by a plain loop over rows. scores: of each normalized name."""
    written, best = {}, {}
    for _, name in rows:
        written.setdefault(normalize(name, EXACT_MATCH), name)
    order = list(written)
    for ids, name in rows:
        key = normalize(name, EXACT_MATCH)
        for concept in concepts_of(ids) if scores.get(key, 0) > 0 else ():
            own = -scores[key], order.index(key)
            best[concept] = min(best.get(concept, own), own)
    ranked = sorted(best, key=lambda concept: (best[concept][0], concept))[:top_k]
    return [(concept, written[order[best[concept][1]]], -best[concept][0]) for concept in ranked]


@given(row_lists, st.sampled_from([EXACT_MATCH, TextPolicy("cased", "none"), TextPolicy("lower", "none")]))
def test_unique_names_keep_all_concepts(rows, policy):
    names = UniqueNames.from_space(space_of(rows), policy)
    concepts_of_name, written = defaultdict(set), {}
    for ids, name in rows:
        if key := normalize(name, policy):
            concepts_of_name[key] |= concepts_of(ids)
            written.setdefault(key, name)
    known = sorted(set().union(*(concepts_of(ids) for ids, _ in rows)))
    assert names.texts == list(written.values())
    spans = zip(names.concepts.starts.tolist(), names.concepts.starts[1:].tolist(), strict=False)
    assert [[known[c] for c in names.concepts.concepts[a:b]] for a, b in spans] == [
        sorted(concepts_of_name[key]) for key in written
    ]
    assert names.concepts.count == len(known)


@settings(max_examples=examples(60))
@given(row_lists, st.lists(texts | st.sampled_from(["", " \u200b"]), max_size=5), st.integers(1, 6), st.integers(1, 3))
def test_exact_linker_matches_plain_loop(rows, mentions, k, batch):
    system = replace(exact_linker(space_of(rows)), mentions_per_batch=batch)
    results, found = system.link(mentions, k), system.dictionary_rows(mentions, k)
    assert [result.mention for result in results] == mentions
    for mention, result, line in zip(mentions, results, found.tolist(), strict=True):
        key = normalize(mention, EXACT_MATCH)
        expected = ranked_concepts(rows, {key: 1.0} if key else {}, k)
        assert [(c.concept_id, c.matched_name, c.score) for c in result.candidates] == expected
        same = [row for row, (_, name) in enumerate(rows) if key and normalize(name, EXACT_MATCH) == key][:k]
        assert line == same + [NO_CONCEPT] * (min(k, len(rows)) - len(same))


@settings(max_examples=examples(60))
@given(row_lists, st.lists(texts, max_size=5), st.integers(1, 6))
def test_tfidf_linker_matches_plain_loop(rows, mentions, k):
    system = tfidf_linker(space_of(rows))
    results, found = system.link(mentions, k), system.dictionary_rows(mentions, k)
    unique = list(dict.fromkeys(key for _, name in rows if (key := normalize(name, EXACT_MATCH))))
    all_rows = [np.tile(np.arange(n), (len(mentions), 1)) for n in (len(unique), len(rows))]
    of_names = Lexicon.build(unique).scores(mentions, all_rows[0]).tolist()
    of_rows = Lexicon.build([name for _, name in rows]).scores(mentions, all_rows[1]).tolist()
    for result, cosines, line, scores in zip(results, of_names, found.tolist(), of_rows, strict=True):
        expected = ranked_concepts(rows, dict(zip(unique, cosines, strict=True)), k)
        assert [(c.concept_id, c.matched_name, c.score) for c in result.candidates] == expected
        best = [row for row in np.argsort(-np.array(scores), kind="stable").tolist() if scores[row] > 0][:k]
        assert line == best + [NO_CONCEPT] * (min(k, len(rows)) - len(best))


def test_exact_linker_by_hand():
    system = exact_linker(space_of(ROWS, {"C1": "Fever, preferred"}))
    assert list(system.concept_ids) == ["C1", "C2", "C3", "C4", "C5"]
    fever = [("C1", "Fever, preferred", "Fever", 1.0), ("C2", "Fever", "Fever", 1.0)]
    assert shown(system.link(["fever ", "rash", "fievre", "Rash", "ＦＥＶＥＲ"], 5)) == [
        fever,
        [("C1", "Fever, preferred", "Rash", 1.0), ("C3", "Rash", "Rash", 1.0)],
        [],
        [("C1", "Fever, preferred", "Rash", 1.0), ("C3", "Rash", "Rash", 1.0)],
        fever,
    ]
    assert shown(system.link(["fever"], 1)) == [fever[:1]]
    assert system.dictionary_rows(["fever", "\u200b"], 9).tolist() == [[0, 1, 6, *[NO_CONCEPT] * 5], [NO_CONCEPT] * 8]
    assert system.dictionary_rows(["fever"], 2).tolist() == [[0, 1]]
    assert system.dictionary_rows([], 2).shape == (0, 2)


def test_tfidf_linker_finds_names_with_common_n_grams():
    system = tfidf_linker(space_of(ROWS))
    (typo, none) = system.link(["high fevr", "zz"], 2)
    assert [c.concept_id for c in typo.candidates] == ["C1", "C2"]
    assert typo.candidates[0].matched_name == "High fever"
    assert 0 < typo.candidates[1].score < typo.candidates[0].score < 1
    assert (none.candidates, none.reason) == ((), NO_NAME_FITS)
    assert system.dictionary_rows(["zz"], 3).tolist() == [[NO_CONCEPT] * 3]


def test_rejected_mentions_have_no_candidates_but_a_reason():
    """As `xsap link`, an index and a model do."""
    mentions = ["fever", "", " \u200b", "x" * 2001, "rash"]
    for system in (exact_linker, tfidf_linker):
        results = system(space_of(ROWS)).link(mentions, 2)
        assert [(r.mention, bool(r.candidates), r.reason) for r in results] == [
            ("fever", True, None),
            ("", False, "the mention is empty"),
            (" \u200b", False, "the mention is blank"),
            ("x" * 2001, False, "the mention has 2,001 characters; a term has at most 2,000"),
            ("rash", True, None),
        ]


@pytest.mark.parametrize("system", [exact_linker, tfidf_linker])
def test_dictionary_of_blank_names_finds_nothing(system):
    blank = system(space_of([("C1", "\u200b"), ("C2", "\ufeff")]))
    assert blank.link(["a"], 3)[0].candidates == ()
    assert blank.dictionary_rows(["a"], 3).tolist() == [[NO_CONCEPT, NO_CONCEPT]]


def test_exact_names_returns_at_most_all_names():
    scores, rows = ExactNames.build(["a", "b", "A"]).search(["a", "c"], 9)
    assert scores.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert rows[0, :2].tolist() == [0, 2]
    assert ExactNames.build([]).search(["a"], 2)[0].shape == (1, 0)


# Fusion


class Stub:
    """Links by a table: mention → concepts, and the same as rows; remembers the k of its calls."""

    def __init__(self, name, table):
        self.name, self.table, self.depths, self.concept_ids = name, table, [], ["C1", "C2", "C3", "C4", "C5"]

    def link(self, mentions, top_k, *, languages=None):
        self.depths.append(top_k)
        found = [
            tuple(Candidate(f"C{c}", f"preferred {9 - c}", f"{c} by {self.name}", 0.5) for c in self.table[m])
            for m in mentions
        ]
        return [
            Result(m, each[:top_k], None if each else f"{self.name} has none")
            for m, each in zip(mentions, found, strict=True)
        ]

    def dictionary_rows(self, mentions, k):
        self.depths.append(k)
        lines = [self.table[m][:k] for m in mentions]
        return np.array([line + [NO_CONCEPT] * (6 - len(line)) for line in lines]).reshape(len(mentions), 6)


def test_fusion_by_hand():
    one, other = Stub("A", {"m": [3, 1, 2], "n": [], "o": []}), Stub("B", {"m": [4, 2, 3], "n": [5], "o": []})
    fused = FusedLinker(one, other)
    first, second, third = fused.link(["m", "n", "o"], 5)
    assert RRF_CONSTANT == 60
    expected = [
        ("C3", "3 by A", 1 / 61 + 1 / 63),
        ("C2", "2 by A", 1 / 63 + 1 / 62),
        ("C4", "4 by B", 1 / 61),
        ("C1", "1 by A", 1 / 62),
    ]
    assert [(c.concept_id, c.matched_name, c.score) for c in first.candidates] == expected
    assert {c.name for c in first.candidates} == {"preferred 8", "preferred 7", "preferred 6", "preferred 5"}
    assert (first.mention, first.reason) == ("m", None)
    assert [(c.concept_id, c.matched_name, c.score) for c in second.candidates] == [("C5", "5 by B", 1 / 61)]
    assert second.reason is None
    assert (third.candidates, third.reason) == ((), "A has none")
    assert one.depths == other.depths == [FUSED_CANDIDATES]
    assert [c.concept_id for c in fused.link(["m"], 2)[0].candidates] == ["C3", "C2"]
    assert fused.dictionary_rows(["m", "n"], 5).tolist() == [[3, 2, 4, 1, NO_CONCEPT], [5, *[NO_CONCEPT] * 4]]
    assert fused.dictionary_rows([], 5).shape == (0, 5)
    assert one.depths[-1] == FUSED_CANDIDATES
    assert fused.concept_ids == one.concept_ids


def test_fusion_orders_equal_scores_by_concept_and_row():
    fused = FusedLinker(Stub("A", {"m": [4, 2]}), Stub("B", {"m": [2, 4]}))
    assert [c.concept_id for c in fused.link(["m"], 5)[0].candidates] == ["C2", "C4"]
    assert fused.dictionary_rows(["m"], 2).tolist() == [[2, 4]]
    apart = FusedLinker(Stub("A", {"m": [5]}), Stub("B", {"m": [1]}))
    assert [c.concept_id for c in apart.link(["m"], 5)[0].candidates] == ["C1", "C5"]


@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(0, 6), st.integers(0, 6), st.integers(1, 8))
def test_fusion_matches_plain_loop(one, other, n, m, k):
    lists = [list(one)[:n], list(other)[:m]]
    fused = FusedLinker(*(Stub(name, {"m": line}) for name, line in zip("AB", lists, strict=True)))
    scores = {item: sum(1 / (60 + line.index(item) + 1) for line in lists if item in line) for item in range(6)}
    expected = sorted((item for item in scores if scores[item]), key=lambda item: (-scores[item], item))[:k]
    assert [c.concept_id for c in fused.link(["m"], k)[0].candidates] == [f"C{item}" for item in expected]
    assert fused.dictionary_rows(["m"], k).tolist() == [expected + [NO_CONCEPT] * (k - len(expected))]


def test_fusion_of_real_systems():
    """What both find comes before what one finds, and n-grams alone answer where nothing is equal."""
    fused = FusedLinker(exact_linker(space_of(ROWS)), tfidf_linker(space_of(ROWS)))
    fever, typo = fused.link(["fever", "high fevr"], 3)
    assert [c.concept_id for c in fever.candidates] == ["C1", "C2"]
    assert fever.candidates[0].score == pytest.approx(2 / 61)
    assert typo.candidates[0].matched_name == "High fever"
    assert fused.dictionary_rows(["rash"], 2).tolist()[0][0] == 3
    nested = FusedLinker(fused, exact_linker(space_of(ROWS)))
    assert nested.link(["fever"], 1)[0].candidates[0].score == pytest.approx(2 / 61)


# The n-gram lexicon

NAMES = ["Fever", "fever, high", "high fever", "heart attack", "", "Fièvre", "fever", "zz", "  ", "発熱", "qq"]
short_texts = st.text("ab ABé-1\t\u0130\u200b\u3000発熱🫀\ud83e", max_size=9)


def small_lexicon(names):
    """Several parts and groups, even of a few names."""
    return Lexicon.build(names, names_per_part=3, scores_per_group=2)


def scikit(names, mentions):
    """(q, n) cosines, in float64."""
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True, lowercase=False)
    vectors = vectorizer.fit_transform(normalize_all(names, EXACT_MATCH))
    return (vectorizer.transform(normalize_all(mentions, EXACT_MATCH)) @ vectors.T).toarray()


def all_cosines(lexicon, mentions):
    return lexicon.scores(mentions, np.tile(np.arange(lexicon.count), (len(mentions), 1)))


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(short_texts, min_size=1, max_size=12), st.lists(short_texts, max_size=7))
def test_lexicon_cosines_match_scikit_learn(names, mentions):
    assume(any(normalize_all(names, EXACT_MATCH)))  # which it refuses
    mentions = [*mentions, *names]
    np.testing.assert_allclose(all_cosines(small_lexicon(names), mentions), scikit(names, mentions), rtol=0, atol=1e-6)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(short_texts, min_size=1, max_size=40), st.lists(short_texts, min_size=1, max_size=4), st.integers(1, 50)
)
def test_lexicon_search_matches_full_sort(names, mentions, k):
    lexicon = small_lexicon(names)
    cosines = all_cosines(lexicon, mentions)
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    scores, rows = lexicon.search(mentions, k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(cosines, expected, 1))


def test_lexicon_search_of_many_names_matches_scikit_learn():
    rng = np.random.default_rng(0)
    syllables = np.array(["fe", "ver", "card", "itis", " ", "my", "o", "pathy", "ren", "al "])
    names = ["".join(rng.choice(syllables, rng.integers(1, 9))) for _ in range(3000)]
    names += names[:500]
    scores, rows = Lexicon.build(names, names_per_part=700, scores_per_group=64).search(names[:40], 6)
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


def test_lexicon_weight_by_hand():
    """Of "ab" the n-grams are " a", "ab", "b ", " ab" and "ab "; of "b", which has "b " in common with it, " b", "b " and " b "."""
    shared, own = 1.0, 1 + np.log(3 / 2)
    norms = np.sqrt(shared**2 + 4 * own**2), np.sqrt(shared**2 + 2 * own**2)
    cosine = all_cosines(small_lexicon(["ab", "b"]), ["ab", "b b"])
    twice = 1 + np.log(2)  # each of its n-grams is there twice, which its length makes up for
    np.testing.assert_allclose(cosine[0], [1, shared / norms[0] / norms[1]], atol=1e-7)
    np.testing.assert_allclose(cosine[1], [shared * twice / (norms[0] * norms[1] * twice), 1], atol=1e-7)


def test_lexicon_orders_ties_by_row_and_names_without_common_n_grams_last():
    scores, rows = small_lexicon(NAMES).search(["FEVER", "high  fever", "zz", "*", ""], 99)
    assert rows.shape == (5, len(NAMES))
    assert rows[0, :2].tolist() == [0, 6]  # equal but for case
    assert scores[0, 0] == scores[0, 1] == pytest.approx(1, abs=1e-6)
    assert rows[1, 0] == 2
    assert rows[2].tolist() == [7, *(row for row in range(len(NAMES)) if row != 7)]
    assert rows[3].tolist() == rows[4].tolist() == list(range(len(NAMES)))
    assert not scores[3:].any()
    assert (np.diff(scores, axis=1) <= 0).all()
    words_in_another_order = small_lexicon(["x", "heart of stone", "stone of heart"]).search(["of stone heart"], 2)
    assert words_in_another_order[1].tolist() == [[1, 2]]
    assert words_in_another_order[0][0, 0] == words_in_another_order[0][0, 1]


def test_lexicon_without_names_or_mentions():
    assert small_lexicon([]).search(["a"], 4)[1].shape == (1, 0)
    assert small_lexicon(["", " "]).search(["a"], 4)[1].tolist() == [[0, 1]]
    assert small_lexicon(NAMES).search([], 4)[0].shape == (0, 4)
    assert small_lexicon(NAMES).search(["a"], 0)[0].shape == (1, 0)
    assert small_lexicon(NAMES).scores(["a"], np.empty((1, 0), np.int64)).shape == (1, 0)


def test_lexicon_scores_rejects_invalid_rows():
    for rows in ([[-1]], [[len(NAMES)]]):
        with pytest.raises(AssertionError, match="rows outside of 11 names"):
            small_lexicon(NAMES).scores(["a"], np.array(rows))
    with pytest.raises(AssertionError, match="2 mentions, rows for 1"):
        small_lexicon(NAMES).scores(["a", "b"], np.array([[0]]))


def test_lexicon_arrays_can_be_memory_mapped(tmp_path):
    lexicon, arrays = small_lexicon(NAMES), {}
    for field in fields(lexicon):
        if isinstance(getattr(lexicon, field.name), np.ndarray):
            np.save(tmp_path / f"{field.name}.npy", getattr(lexicon, field.name), allow_pickle=False)
            arrays[field.name] = np.load(tmp_path / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
    mapped = replace(lexicon, **arrays)
    for one, other in zip(lexicon.search(NAMES, 5), mapped.search(NAMES, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(all_cosines(lexicon, NAMES), all_cosines(mapped, NAMES))
