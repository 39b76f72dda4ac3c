"""Systems without training, against plain loops over the names of a dictionary; and their fusion, by hand and by a plain loop."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy import baselines as module
from benchmarks.accuracy.baselines import DEPTH, FUSION, NO_NAME_FITS, ExactNames, Fused, Lexicon, Names, exact, tfidf
from benchmarks.accuracy.dictionary import SearchSpace
from xsap.evaluation.protocols import Dictionary
from xsap.linking.ranking import NONE
from xsap.linking.results import Candidate, Result
from xsap.text import EXACT_MATCH, TextPolicy, normalize

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
        Dictionary([ids for ids, _ in rows], [name for _, name in rows]), "invented", preferred or {}, {}
    )


def owners_of(ids):
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
        for concept in owners_of(ids) if scores.get(key, 0) > 0 else ():
            own = -scores[key], order.index(key)
            best[concept] = min(best.get(concept, own), own)
    ranked = sorted(best, key=lambda concept: (best[concept][0], concept))[:top_k]
    return [(concept, written[order[best[concept][1]]], -best[concept][0]) for concept in ranked]


@given(row_lists, st.sampled_from([EXACT_MATCH, TextPolicy("cased", "none"), TextPolicy("lower", "none")]))
def test_names_are_unique_and_keep_all_their_concepts(rows, policy):
    names = Names.of(space_of(rows), policy)
    owners, written = defaultdict(set), {}
    for ids, name in rows:
        if key := normalize(name, policy):
            owners[key] |= owners_of(ids)
            written.setdefault(key, name)
    known = sorted(set().union(*(owners_of(ids) for ids, _ in rows)))
    assert names.texts == list(written.values())
    spans = zip(names.owners.starts.tolist(), names.owners.starts[1:].tolist(), strict=False)
    assert [[known[c] for c in names.owners.concepts[a:b]] for a, b in spans] == [
        sorted(owners[key]) for key in written
    ]
    assert names.owners.count == len(known)


@settings(max_examples=60)
@given(row_lists, st.lists(texts | st.sampled_from(["", " \u200b"]), max_size=5), st.integers(1, 6), st.integers(1, 3))
def test_exact_match_against_a_plain_loop(rows, mentions, k, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH", batch)
        system = exact(space_of(rows))
        results, found = system.link(mentions, k), system.dictionary_rows(mentions, k)
    assert [result.mention for result in results] == mentions
    for mention, result, line in zip(mentions, results, found.tolist(), strict=True):
        key = normalize(mention, EXACT_MATCH)
        expected = ranked_concepts(rows, {key: 1.0} if key else {}, k)
        assert [(c.concept_id, c.matched_name, c.score) for c in result.candidates] == expected
        same = [row for row, (_, name) in enumerate(rows) if key and normalize(name, EXACT_MATCH) == key][:k]
        assert line == same + [NONE] * (min(k, len(rows)) - len(same))


@settings(max_examples=60)
@given(row_lists, st.lists(texts, max_size=5), st.integers(1, 6))
def test_n_grams_against_a_plain_loop(rows, mentions, k):
    system = tfidf(space_of(rows))
    results, found = system.link(mentions, k), system.dictionary_rows(mentions, k)
    unique = list(dict.fromkeys(key for _, name in rows if (key := normalize(name, EXACT_MATCH))))
    places = [np.tile(np.arange(n), (len(mentions), 1)) for n in (len(unique), len(rows))]
    of_names = Lexicon.build(unique).scores(mentions, places[0]).tolist()
    of_rows = Lexicon.build([name for _, name in rows]).scores(mentions, places[1]).tolist()
    for result, cosines, line, scores in zip(results, of_names, found.tolist(), of_rows, strict=True):
        expected = ranked_concepts(rows, dict(zip(unique, cosines, strict=True)), k)
        assert [(c.concept_id, c.matched_name, c.score) for c in result.candidates] == expected
        best = [row for row in np.argsort(-np.array(scores), kind="stable").tolist() if scores[row] > 0][:k]
        assert line == best + [NONE] * (min(k, len(rows)) - len(best))


def test_exact_match_by_hand():
    system = exact(space_of(ROWS, {"C1": "Fever, preferred"}))
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
    assert system.dictionary_rows(["fever", "\u200b"], 9).tolist() == [[0, 1, 6, *[NONE] * 5], [NONE] * 8]
    assert system.dictionary_rows(["fever"], 2).tolist() == [[0, 1]]
    assert system.dictionary_rows([], 2).shape == (0, 2)


def test_n_grams_find_what_has_something_in_common():
    system = tfidf(space_of(ROWS))
    (typo, none) = system.link(["high fevr", "zz"], 2)
    assert [c.concept_id for c in typo.candidates] == ["C1", "C2"]
    assert typo.candidates[0].matched_name == "High fever"
    assert 0 < typo.candidates[1].score < typo.candidates[0].score < 1
    assert (none.candidates, none.reason) == ((), NO_NAME_FITS)
    assert system.dictionary_rows(["zz"], 3).tolist() == [[NONE] * 3]


def test_what_is_no_term_has_no_candidates():
    """As `xsap link` has it; an index and a model are asked the same."""
    mentions = ["fever", "", " \u200b", "x" * 2001, "rash"]
    for system in (exact, tfidf):
        results = system(space_of(ROWS)).link(mentions, 2)
        assert [(r.mention, bool(r.candidates), r.reason) for r in results] == [
            ("fever", True, None),
            ("", False, "the mention is empty"),
            (" \u200b", False, "the mention is blank"),
            ("x" * 2001, False, "the mention has 2,001 characters; a term has at most 2,000"),
            ("rash", True, None),
        ]


@pytest.mark.parametrize("system", [exact, tfidf])
def test_a_dictionary_of_blank_names_finds_nothing(system):
    blank = system(space_of([("C1", "\u200b"), ("C2", "\ufeff")]))
    assert blank.link(["a"], 3)[0].candidates == ()
    assert blank.dictionary_rows(["a"], 3).tolist() == [[NONE, NONE]]


def test_exact_names_are_no_more_than_there_are():
    scores, rows = ExactNames.build(["a", "b", "A"]).search(["a", "c"], 9)
    assert scores.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert rows[0, :2].tolist() == [0, 2]
    assert ExactNames.build([]).search(["a"], 2)[0].shape == (1, 0)


# Fusion


class Stub:
    """Links by a table: mention → concepts, and the same as rows; remembers how many it was asked for."""

    def __init__(self, name, table):
        self.name, self.table, self.asked, self.concept_ids = name, table, [], ["C1", "C2", "C3", "C4", "C5"]

    def link(self, mentions, top_k):
        self.asked.append(top_k)
        found = [
            tuple(Candidate(f"C{c}", f"preferred {9 - c}", f"{c} by {self.name}", 0.5) for c in self.table[m])
            for m in mentions
        ]
        return [
            Result(m, each[:top_k], None if each else f"{self.name} has none")
            for m, each in zip(mentions, found, strict=True)
        ]

    def dictionary_rows(self, mentions, k):
        self.asked.append(k)
        lines = [self.table[m][:k] for m in mentions]
        return np.array([line + [NONE] * (6 - len(line)) for line in lines]).reshape(len(mentions), 6)


def test_fusion_by_hand():
    one, other = Stub("A", {"m": [3, 1, 2], "n": [], "o": []}), Stub("B", {"m": [4, 2, 3], "n": [5], "o": []})
    fused = Fused(one, other)
    first, second, third = fused.link(["m", "n", "o"], 5)
    assert FUSION == 60
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
    assert one.asked == other.asked == [DEPTH]
    assert [c.concept_id for c in fused.link(["m"], 2)[0].candidates] == ["C3", "C2"]
    assert fused.dictionary_rows(["m", "n"], 5).tolist() == [[3, 2, 4, 1, NONE], [5, *[NONE] * 4]]
    assert fused.dictionary_rows([], 5).shape == (0, 5)
    assert one.asked[-1] == DEPTH
    assert fused.concept_ids == one.concept_ids


def test_equal_ranks_go_by_concept_and_by_row():
    fused = Fused(Stub("A", {"m": [4, 2]}), Stub("B", {"m": [2, 4]}))
    assert [c.concept_id for c in fused.link(["m"], 5)[0].candidates] == ["C2", "C4"]
    assert fused.dictionary_rows(["m"], 2).tolist() == [[2, 4]]
    apart = Fused(Stub("A", {"m": [5]}), Stub("B", {"m": [1]}))
    assert [c.concept_id for c in apart.link(["m"], 5)[0].candidates] == ["C1", "C5"]


@given(st.permutations(range(6)), st.permutations(range(6)), st.integers(0, 6), st.integers(0, 6), st.integers(1, 8))
def test_fusion_against_a_plain_loop(one, other, n, m, k):
    lists = [list(one)[:n], list(other)[:m]]
    fused = Fused(*(Stub(name, {"m": line}) for name, line in zip("AB", lists, strict=True)))
    scores = {item: sum(1 / (60 + line.index(item) + 1) for line in lists if item in line) for item in range(6)}
    expected = sorted((item for item in scores if scores[item]), key=lambda item: (-scores[item], item))[:k]
    assert [c.concept_id for c in fused.link(["m"], k)[0].candidates] == [f"C{item}" for item in expected]
    assert fused.dictionary_rows(["m"], k).tolist() == [expected + [NONE] * (k - len(expected))]


def test_real_systems_fused():
    """What both find comes before what one finds, and n-grams alone answer where nothing is equal."""
    fused = Fused(exact(space_of(ROWS)), tfidf(space_of(ROWS)))
    fever, typo = fused.link(["fever", "high fevr"], 3)
    assert [c.concept_id for c in fever.candidates] == ["C1", "C2"]
    assert fever.candidates[0].score == pytest.approx(2 / 61)
    assert typo.candidates[0].matched_name == "High fever"
    assert fused.dictionary_rows(["rash"], 2).tolist()[0][0] == 3
    nested = Fused(fused, exact(space_of(ROWS)))
    assert nested.link(["fever"], 1)[0].candidates[0].score == pytest.approx(2 / 61)
