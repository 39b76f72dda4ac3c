"""What is fitted on mentions: fusion weights, by plain loops and on cases with one right answer, and samples for calibration."""

from statistics import fmean, pstdev

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer

from tests.fixtures.examples import examples
from tests.fixtures.table_linker import TableLinker
from xsap.errors import DataError
from xsap.evaluation.tuning import MIN_MENTIONS, WEIGHTS, choose_weight, link_sample, tune_fusion
from xsap.linking.calibration import features_of
from xsap.linking.dictionary import NameConcepts
from xsap.linking.fusion import POOL, FusedSearch, fuse, grams, string_similarity
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.ranking import rank_concepts
from xsap.search.exact import search_array
from xsap.terms.mentions import build_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy, fold_case

IDS = ["A", "B", "C", "D"]
EACH = NameConcepts.from_ids(pa.array([[concept] for concept in IDS]), pa.array(IDS))  # name i is of concept i alone


def choose(cases, seed=0, together=False):
    """cases: (gold, the cosines of the names of A to D, their string similarities). together: whether all of one gold concept are in the same half."""
    cosines, similarity = (np.float32([case[i] for case in cases]) for i in (1, 2))
    rows = np.argsort(-cosines, axis=1, kind="stable")
    gold = [{case[0]} if together else {case[0], f"0 {i}"} for i, case in enumerate(cases)]
    sorted_ones = np.take_along_axis(cosines, rows, 1), rows, np.take_along_axis(similarity, rows, 1)
    return choose_weight(*sorted_ones, EACH, IDS, gold, seed=seed)


SIMILAR = ([0.8, 0.7, 0, 0], [0, 1, 0, 0])  # B from a weight of 0.1 on (0.72 to 0.73), A below it
DISSIMILAR = ([0.8, 0.75, 0, 0], [0, 1, 0, 0])  # B from 0.05 on


def loop_accuracy(cases, weight):
    right = []
    for gold, cosines, similarity in cases:
        scores = [
            np.float32(1 - weight) * np.float32(c) + np.float32(weight) * np.float32(a)
            for c, a in zip(cosines, similarity, strict=True)
        ]
        right.append(float(IDS[scores.index(max(scores))] == gold))
    return right


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_accuracies_and_weight_match_plain_loops(seed, n):
    rng = np.random.default_rng(seed)
    cases = [
        (IDS[rng.integers(4)], (rng.integers(5, size=4) / 4).tolist(), (rng.integers(5, size=4) / 4).tolist())
        for _ in range(n)
    ]
    choice = choose(cases)
    right = [loop_accuracy(cases, weight) for weight in WEIGHTS]
    assert choice.accuracies == pytest.approx([fmean(row) for row in right])
    assert choice.weight == (WEIGHTS[plain_choice(right)] if choice.gain.low > 0 else 0)


def plain_choice(right):
    best = max(right, key=sum)  # the first of several
    for position, row in enumerate(right):
        lost = [b - r for b, r in zip(best, row, strict=True)]
        if fmean(lost) <= pstdev(lost) / len(row) ** 0.5 + 1e-15:
            return position
    raise AssertionError("the best one loses nothing against itself")


def test_lowest_weight_that_is_enough_is_chosen():
    choice = choose([(gold, *SIMILAR) for gold in "B" * 60] + [("C", [0, 0, 1, 0], [0, 0, 1, 0])] * 40)
    assert choice.weight == 0.1
    assert choice.accuracies == (0.4, 0.4, *[1.0] * 9)


def test_weight_a_little_better_than_a_lower_one_is_not_chosen():
    """At 0.1 the SIMILAR ones come right that weren't at 0.05; two of three of them go wrong that were right."""
    many = [("B", *DISSIMILAR)] * 90
    assert choose(many + [("B", *SIMILAR)] * 2 + [("A", *SIMILAR)]).weight == 0.05
    assert choose(many + [("B", *SIMILAR)] * 20 + [("A", *SIMILAR)]).weight == 0.1


@pytest.mark.parametrize("seed", range(5))
def test_weight_is_zero_where_fusion_harms_or_gain_is_not_significant(seed):
    harmed = [("A", *SIMILAR)] * 30 + [("C", [0, 0, 1, 0], [0, 0, 1, 0])] * 30
    assert choose(harmed, seed).weight == 0
    assert choose(harmed, seed).gain.difference == 0
    few = harmed + [("B", *SIMILAR)] * 31
    choice = choose(few, seed)
    assert choice.gain.low <= 0
    assert choice.weight == 0
    assert max(choice.accuracies) > choice.accuracies[0]


@pytest.mark.parametrize("seed", range(5))
def test_mentions_of_one_concept_never_choose_the_weight_of_each_other(seed):
    """What pays for B only harms A. Half of each would choose a weight that pays on the whole; each alone does not."""
    mixed = [("B", *SIMILAR)] * 150 + [("A", *SIMILAR)] * 50
    choice = choose(mixed, seed, together=True)
    assert choice.gain.difference == pytest.approx(-50 / 200)
    assert choice.weight == 0
    assert choose(mixed, seed).gain.difference == pytest.approx(100 / 200)
    assert choose(mixed, seed).weight == 0.1
    assert choose(mixed[:150], seed, together=True).gain.difference == 0  # there is no other concept to choose on


class FirstLetterEncoder:
    """Vectors by the first letter of a name, so that string similarity alone separates names of one letter."""

    content_hash, pooling, max_length, policy, dtype, dimension = "a" * 64, "cls", 25, TextPolicy(), "float32", 2

    def encode(self, names, *, progress=False):
        return np.float32([[np.cos(ord(name[0])), np.sin(ord(name[0]))] for name in names])


def linker(*names):
    rows = [(concept, "en", name, "synonym", "TEST", None, None) for concept, name in names]
    terminology, _ = Terminology.build(pa.table(list(map(pa.array, zip(*rows, strict=True))), schema=NAMES_SCHEMA))
    return Linker(FirstLetterEncoder(), Index.build(terminology, FirstLetterEncoder()))


ENDS = [f"{x}{y}" for x in "abcdefgh" for y in "mnopqrst"]


def test_tune_fusion_on_a_linker_leaves_out_repeated_and_unlinkable_mentions(caplog):
    """Names of one first letter have one vector: of them the first is nearest, and n-grams tell which is meant."""
    linked = linker(*((f"C{i:02}", f"x{end}") for i, end in enumerate(ENDS[:30])), ("D", "y"))
    mentions = [f"x{end}{end[-1]}" for end in ENDS[:30]] * 2 + [f"x{end}" for end in ENDS[:30]] + ["y"]
    gold = [[f"C{i:02}"] for i in range(30)] * 3 + [["D"]]
    more = ["xam", "lost", " ", "x", "\ud800"]
    table = build_mentions(
        [*mentions, *more[:4]], ["de"] * (len(mentions) + 4), [*gold, ["C00", "E"], ["E"], ["D"], []]
    )
    with caplog.at_level("INFO", logger="xsap"):
        choice = tune_fusion(linked, table, seed=3)
    assert "mentions in: 95, kept: 61, dropped (" in caplog.text
    for reason in (
        "cannot be linked: 1",
        "equal to another one: 31",
        "gold not in dictionary: 1",
        "without a concept (NIL): 1",
    ):
        assert reason in caplog.text
    strings = mentions[30:]
    cosines, rows = search_array(linked.index.vectors.take(slice(None)), linked.encoder.encode(strings), POOL)
    contents = linked.index.dictionary
    ids = contents.concepts["concept_id"].to_pylist()
    similarities = string_similarity(strings, rows, contents.names["name"])
    assert choice == choose_weight(cosines, rows, similarities, contents.name_concepts, ids, gold[30:], seed=3)
    assert choice.weight == 0.05
    assert choice.accuracies[0] == pytest.approx(3 / 61)
    assert choice.accuracies[1] == 1


def test_too_few_mentions_are_an_error():
    linked = linker(*((f"C{i:02}", f"x{end}") for i, end in enumerate(ENDS[:50])))
    enough = build_mentions([f"x{end}" for end in ENDS[:50]], ["de"] * 50, [[f"C{i:02}"] for i in range(50)])
    assert tune_fusion(linked, enough, seed=0).weight == 0.05
    with pytest.raises(
        DataError,
        match=r"^choosing a weight needs at least 50 different mentions whose concepts are in the index, found 49$",
    ):
        tune_fusion(linked, pa.concat_tables([enough.slice(1), enough.slice(1)]), seed=0)
    assert MIN_MENTIONS == 50


def test_sample_of_linked_mentions_matches_values_worked_by_hand():
    linked = TableLinker(
        {
            "first": [("A", 0.9), ("B", 0.65)],
            "alone": [("B", 0.8)],
            "either": [("C", 0.7), ("A", 0.7)],
            "gone": [("A", 0.6), ("B", 0.5)],
            "nothing": [("A", 0.5), ("B", 0.25)],
            "  ": [],
        }
    )
    rows = [
        ("first", "es", ["A"]),
        ("first", "es", ["A"]),
        ("first", "fr", ["A"]),
        ("alone", "es", ["A"]),
        ("either", "ja", ["C", "B"]),
        ("either", "ja", ["B", "C"]),
        ("gone", "ja", ["Z"]),
        ("nothing", "und", []),
        ("  ", "es", ["A"]),
    ]
    sample = link_sample(linked, build_mentions(*map(list, zip(*rows, strict=True))))
    assert linked.calls == [
        (["first", "first", "alone", "either", "gone", "nothing", "  "], 2, ["es", "fr", "es", "ja", "ja", "und", "es"])
    ]
    assert sample.features == pytest.approx(
        features_of(np.array([0.9, 0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0.65, 0.65, np.nan, 0.7, 0.5, 0.25]))
    )
    assert sample.right.tolist() == [True, True, False, True, False, False]
    assert sample.languages == ["es", "fr", "es", "ja", "ja", "und"]
    assert sample.groups == ["A", "A", "A", "B", "Z", "mention nothing"]
    assert sample.without_concept.tolist() == [False, False, False, False, False, True]
    assert sample.gold_not_in_dictionary.tolist() == [False, False, False, False, True, False]
    assert (sample.repeated, sample.unlinked) == (2, 1)


# Lexical fusion: n-grams as scikit-learn cuts them, and the order of all names by a plain loop over every one.


texts = st.text("ab AB\u00e9-1\t\u0130\u200b\u3000発熱🫀\ud83e", max_size=9)
names_like = st.text("ab ", min_size=1, max_size=5)
weights = st.sampled_from([0.0, 0.05, 0.25, 0.3, 0.5, 1.0])


FUSION_POOL = 4  # small, so that searches exceed it
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
    """Each concept's best name, of all names: those among the FUSION_POOL with the greatest cosines get their string similarity added."""
    nearest = sorted(range(len(cosines)), key=lambda row: (-cosines[row], row))[:FUSION_POOL]
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
    found = FusedSearch(make_search(cosines), mentions, column(names), weight, FUSION_POOL)
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
    found = FusedSearch(make_search(cosines), mentions, column(names), weight, FUSION_POOL)
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
