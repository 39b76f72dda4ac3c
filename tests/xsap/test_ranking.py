"""Names → concepts, against a plain loop over all names; and the ranks of mentions, against plain loops over their parts."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from xsap.errors import ArtifactError
from xsap.evaluation.metrics import MISS
from xsap.evaluation.protocols import ReferenceDictionary, concept_ranks, reference_ranks
from xsap.linking.dictionary import NameConcepts
from xsap.linking.name_keys import MATCHES, SIMILAR, Hit
from xsap.linking.ranking import NO_CONCEPT, Ranked, put_exact_first, rank_concepts
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions

LISTS = pa.list_(pa.string())


class ScoreTable:
    """Finds names by a table of scores, (queries, names), among `rows`. Remembers how many it was asked for.

    For names that score `min_score` or less it gives the last row and that score.
    """

    def __init__(self, scores, rows=None, min_score=-np.inf):
        self.scores, self.min_score, self.asked = np.asarray(scores, np.float32), min_score, []
        self.rows = np.arange(self.scores.shape[1]) if rows is None else np.array(sorted(rows), np.int64)

    def __call__(self, part, k):
        assert 0 < k <= len(self.rows)
        self.asked.append((part.tolist(), k))
        found = [sorted(self.rows.tolist(), key=lambda row: (-self.scores[query, row], row))[:k] for query in part]
        rows = np.array(found, np.int64).reshape(len(part), k)
        scores = np.take_along_axis(self.scores[part], rows, axis=1)
        fits = scores > self.min_score
        return np.where(fits, scores, self.min_score).astype(np.float32), np.where(fits, rows, self.scores.shape[1] - 1)


def plain_loop(scores, lists, wanted, *, rows=None, min_score=-np.inf):
    """[(concept, row, score)] of one query: each concept by its best name, of equally good ones the lowest; then by score and concept."""
    best = {}
    for row, score in enumerate(scores):
        if score > min_score and (rows is None or row in rows):
            for concept in lists[row]:
                if concept not in best or score > best[concept][1]:
                    best[concept] = row, score
    ranked = sorted(best, key=lambda concept: (-best[concept][1], concept))[:wanted]
    return [(concept, *best[concept]) for concept in ranked]


def found(ranked, query):
    """What `rank_concepts` found for a query, as the loop has it. After the last concept there is only filling."""
    line = [array[query].tolist() for array in ranked]
    n = sum(concept != NO_CONCEPT for concept in line[0])
    assert all(concept == NO_CONCEPT for concept in line[0][n:])
    assert not any(line[2][n:])
    return list(zip(*line, strict=True))[:n]


def concepts_of(lists, known):
    return NameConcepts.from_ids(
        pa.array([[f"C{c:02}" for c in concepts] for concepts in lists], LISTS),
        pa.array([f"C{c:02}" for c in range(known)]),
    )


@settings(max_examples=examples(150))
@given(
    data=st.data(),
    names=st.integers(1, 60),
    concepts=st.integers(1, 20),
    queries=st.integers(1, 4),
    wanted=st.integers(1, 25),
)
def test_rank_concepts_matches_a_plain_loop(data, names, concepts, queries, wanted):
    """Few scores, so that ties are many; names of several concepts and of none; concepts without a name; a minimal score; a part of the names."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    greatest = data.draw(st.integers(0, 3))
    scores = rng.integers(-greatest, greatest + 1, (queries, names))
    lists = [sorted(set(rng.integers(concepts, size=rng.integers(0, 4)).tolist())) for _ in range(names)]
    min_score = data.draw(st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 3.0]))
    rows = data.draw(st.none() | st.sets(st.integers(0, names - 1), min_size=1))
    table = ScoreTable(scores, rows, min_score)
    sizes = {"names_per_concept": st.integers(1, 4), "names_per_search": st.sampled_from([1, 16, 1 << 24])}
    ranked = rank_concepts(
        table,
        concepts_of(lists, concepts),
        queries,
        wanted,
        total=len(table.rows),
        min_score=min_score,
        **{name: data.draw(size) for name, size in sizes.items()},
    )
    assert {array.shape for array in ranked} == {(queries, min(wanted, concepts))}
    for query in range(queries):
        assert found(ranked, query) == plain_loop(scores[query].tolist(), lists, wanted, rows=rows, min_score=min_score)


def test_rank_concepts_gives_the_answer_found_by_hand():
    lists = [[1], [0, 2], [2], [1, 3]]
    ranked = rank_concepts(ScoreTable([[5, 7, 7, 5], [0, 0, 9, 0]]), concepts_of(lists, 4), 2, 3)
    assert found(ranked, 0) == [
        (0, 1, 7),
        (2, 1, 7),
        (1, 0, 5),
    ]  # a shared name names both, and the lower row counts for a concept
    assert found(ranked, 1) == [(2, 2, 9), (0, 1, 0), (1, 0, 0)]
    assert [array.dtype for array in ranked] == [np.int64, np.int64, np.float32]


def test_names_are_fetched_until_the_answer_cannot_change_and_no_further():
    """The first concept has the 40 best names; query 1 is answered by the first four, and isn't asked again."""
    lists = [[0]] * 40 + [[1]] + [[2]] * 30
    scores = np.array([[*range(100, 60, -1), 50, *range(49, 19, -1)], [*[0] * 40, 8, *range(99, 69, -1)]])
    scores[1, 41] = 3
    scores[1, 0] = 98
    table = ScoreTable(scores)
    ranked = rank_concepts(table, concepts_of(lists, 3), 2, 2)
    assert [[concept for concept, *_ in found(ranked, query)] for query in (0, 1)] == [[0, 1], [0, 2]]
    assert table.asked == [([0, 1], 8), ([0], 64)]


def test_one_more_name_is_fetched_where_the_last_one_ties():
    """Of equal scores the lower concept comes first, and it may come with a name that wasn't fetched."""
    table = ScoreTable([[1] * 9])
    ranked = rank_concepts(table, concepts_of([[9]] * 8 + [[3]], 10), 1, 1)
    assert found(ranked, 0) == [(3, 8, 1)]
    assert [k for _, k in table.asked] == [4, 9]
    sure = ScoreTable([[2, 2, 2, 1, 1, 1, 1, 1, 1]])
    assert found(rank_concepts(sure, concepts_of([[9]] * 8 + [[3]], 10), 1, 1), 0) == [(9, 0, 2)]
    assert len(sure.asked) == 1


def test_more_is_fetched_while_names_tie_though_all_concepts_are_there():
    """A name that ties may be the preferred one of a concept, which then comes first."""
    table = ScoreTable([[1] * 4 + [0] * 96])
    lists = concepts_of([[0], [1], [0], [0]] + [[1]] * 96, 2)
    assert found(rank_concepts(table, lists, 1, 9), 0) == [(0, 0, 1), (1, 1, 1)]
    assert len(table.asked) == 1


def test_of_equal_scores_the_concept_of_a_preferred_name_comes_first_and_that_name_counts():
    lists = concepts_of([[0], [0, 1], [1], [2]], 3)
    preferred = replace(lists, preferences=np.array([1, 1, 1, 3, 2], np.uint8))
    assert found(rank_concepts(ScoreTable([[1, 1, 1, 1]]), preferred, 1, 3), 0) == [(1, 2, 1), (2, 3, 1), (0, 0, 1)]
    assert found(rank_concepts(ScoreTable([[2, 1, 1, 1]]), preferred, 1, 3), 0) == [(0, 0, 2), (1, 2, 1), (2, 3, 1)]


def test_nothing_more_is_fetched_once_all_names_are_there():
    table = ScoreTable([[1] * 4])
    assert found(rank_concepts(table, concepts_of([[1], [0]] + [[1]] * 2, 2), 1, 9), 0) == [(0, 1, 1), (1, 0, 1)]
    assert len(table.asked) == 1


def test_nothing_more_is_fetched_below_the_minimal_score():
    table = ScoreTable([[3, 1, 0, 0, *[0] * 96]], min_score=0.0)
    assert found(rank_concepts(table, concepts_of([[i] for i in range(100)], 100), 1, 1, min_score=0.0), 0) == [
        (0, 0, 3)
    ]
    assert found(rank_concepts(table, concepts_of([[i] for i in range(100)], 100), 1, 5, min_score=0.0), 0) == [
        (0, 0, 3),
        (1, 1, 1),
    ]
    assert len(table.asked) == 2


def test_a_search_returns_no_more_names_than_names_per_search():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (50, 60))
    lists = [[int(c)] for c in rng.integers(5, size=60)]
    table = ScoreTable(scores)
    ranked = rank_concepts(table, concepts_of(lists, 5), 50, 4, names_per_search=100)
    assert max(len(part) * k for part, k in table.asked) <= 100
    for query in range(50):
        assert found(ranked, query) == plain_loop(scores[query].tolist(), lists, 4)


@settings(max_examples=examples(150))
@given(
    data=st.data(),
    names=st.integers(1, 30),
    concepts=st.integers(1, 10),
    queries=st.integers(1, 4),
    wanted=st.integers(1, 12),
)
def test_concepts_of_exact_names_come_first_as_in_a_plain_loop(data, names, concepts, queries, wanted):
    """Each query names some concepts, or none, in some order; all others follow, as they were."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scores = rng.integers(-2, 3, (queries, names)).astype(np.float32)
    lists = [sorted(set(rng.integers(concepts, size=rng.integers(1, 4)).tolist())) for _ in range(names)]
    kinds = list(MATCHES)
    hits = [
        [Hit(int(c), int(rng.integers(names)), kinds[c % 4]) for c in rng.permutation(concepts)[: rng.integers(3)]]
        for _ in range(queries)
    ]
    own_scores = [[1.0 + j for j in range(len(own))] for own in hits]
    ranked = rank_concepts(ScoreTable(scores), concepts_of(lists, concepts), queries, wanted)
    matches = put_exact_first(ranked, hits, own_scores)
    for number, own in enumerate(hits):
        named = {hit.concept for hit in own}
        others = [one for one in plain_loop(scores[number].tolist(), lists, concepts) if one[0] not in named]
        first = [(hit.concept, hit.row, score) for hit, score in zip(own, own_scores[number], strict=True)]
        width = min(wanted, concepts)
        assert found(ranked, number) == (first + others)[:width]
        assert matches[number] == ([hit.match for hit in own] + [SIMILAR] * width)[:width]


def test_without_exact_names_the_ranking_is_unchanged():
    ranked = Ranked(np.array([[3]]), np.array([[7]]), np.array([[0.5]], np.float32))
    assert put_exact_first(ranked, [[]], [[]]) == [[SIMILAR]]
    assert [column.tolist() for column in ranked] == [[[3]], [[7]], [[0.5]]]


@pytest.mark.parametrize(("lists", "queries", "wanted"), [([], 2, 3), ([[0]], 0, 3), ([[0]], 2, 0)])
def test_no_names_no_queries_nothing_wanted(lists, queries, wanted):
    ranked = rank_concepts(ScoreTable(np.zeros((queries, len(lists)))), concepts_of(lists, 1), queries, wanted)
    assert all(array.shape == (queries, min(1, wanted)) for array in ranked)
    assert (ranked.concepts == NO_CONCEPT).all()


def test_name_concepts_of_a_slice_of_a_table():
    name_concepts = NameConcepts.from_ids(
        pa.array([["X"], ["B", "A"], [], ["C"], ["Y"]], LISTS).slice(1, 3), pa.array(["A", "B", "C"])
    )
    assert (
        name_concepts.starts.tolist(),
        name_concepts.concepts.tolist(),
        name_concepts.count,
        len(name_concepts),
    ) == (
        [0, 2, 2, 3],
        [1, 0, 2],
        3,
        3,
    )
    with pytest.raises(ArtifactError, match="a concept that it doesn't list"):
        NameConcepts.from_ids(pa.array([["A"], ["Z"]], LISTS), pa.array(["A"]))


# Ranks of mentions


class Answers(NamedTuple):
    """Links by a table of mention → concepts, best first; remembers what it was asked."""

    table: dict
    asked: list

    def link(self, mentions, top_k, *, languages):
        assert len(languages) == len(mentions)
        self.asked.append((list(mentions), top_k))
        return [
            Result(m, tuple(Candidate(c, c, f"{c} of {m}", 0.5) for c in self.table.get(m, ())[:top_k]))
            for m in mentions
        ]


parts = st.sampled_from(["a", "b", "c", "d", ""])
ids = st.sampled_from(["C1", "C2", "C3", "C4"])
answers = st.fixed_dictionaries({part: st.lists(ids, max_size=4, unique=True) for part in ("a", "b", "c", "")})
mention_lists = st.lists(
    st.tuples(st.lists(parts, min_size=1, max_size=3), st.lists(ids, min_size=1, max_size=2, unique=True)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=examples(100))
@given(table=answers, given=mention_lists, k=st.integers(1, 4), composite=st.booleans())
def test_concept_ranks_against_plain_loops(table, given, k, composite):
    texts = ["|".join(whole) for whole, _ in given]
    mentions = build_mentions(texts, ["de"] * len(given), [gold for _, gold in given])
    linker = Answers(table, [])
    ranks, results = concept_ranks(linker, mentions, k, composite=composite)
    for text, (whole, gold), rank, result in zip(texts, given, ranks, results, strict=True):
        worst = None
        for part in whole if composite else [text]:
            candidates = table.get(part, ())[:k]
            ranks_of_gold = [rank for rank, concept in enumerate(candidates) if concept in gold]
            own = min(ranks_of_gold, default=99), part
            worst = own if worst is None or own[0] > worst[0] else worst
        assert rank == (MISS if worst[0] == 99 else worst[0])
        assert result.mention == worst[1]  # of the part that decided, of equals the first
    ((asked, top_k),) = linker.asked
    assert len(asked) == len(set(asked))
    assert top_k == k


def test_concept_ranks_of_composites_by_hand():
    table = {"a": ["C1", "C2"], "b": ["C3", "C2"], "a|b": ["C9"]}
    mentions = build_mentions(["a|b", "b|a", "a|x|b"], ["en"] * 3, [["C2"], ["C1", "C2"], ["C1", "C3"]])
    ranks, results = concept_ranks(Answers(table, []), mentions, 5, composite=True)
    assert ranks == [1, 1, MISS]
    assert [(r.mention, [c.concept_id for c in r.candidates]) for r in results] == [
        ("a", ["C1", "C2"]),
        ("b", ["C3", "C2"]),
        ("x", []),
    ]
    assert concept_ranks(Answers(table, []), mentions, 5)[0] == [MISS, MISS, MISS]  # unsplit they are no names
    assert concept_ranks(Answers(table, []), mentions, 1, composite=True)[0] == [MISS, MISS, MISS]


rows_of = st.fixed_dictionaries(
    {part: st.lists(st.integers(-1, 4), min_size=3, max_size=3) for part in ("a", "b", "c", "d", "")}
)


@settings(max_examples=examples(100))
@given(
    table=rows_of,
    dictionary=st.lists(st.lists(ids, min_size=1, max_size=2, unique=True), min_size=5, max_size=5),
    given=mention_lists,
    sign=st.sampled_from("|+"),
)
def test_reference_ranks_against_plain_loops(table, dictionary, given, sign):
    asked = []

    def nearest(strings, k):
        asked.append((strings, k))
        return np.array([table[string] for string in strings])

    mentions = build_mentions(
        [sign.join(whole) for whole, _ in given], ["de"] * len(given), [[sign.join(gold)] for _, gold in given]
    )
    rows = ReferenceDictionary([sign.join(names) for names in dictionary], ["n"] * 5)
    ranks, gold_not_in_dictionary = reference_ranks(nearest, rows, mentions, 3)
    for (whole, gold), rank, absent in zip(given, ranks, gold_not_in_dictionary, strict=True):
        worst = 0
        for part in whole:
            hits = [rank for rank, row in enumerate(table[part]) if row >= 0 and set(dictionary[row]) & set(gold)]
            worst = max(worst, min(hits, default=99))
        assert rank == (MISS if worst == 99 else worst)
        assert absent == (not any(set(names) & set(gold) for names in dictionary))
    assert len(asked) == 1
    assert asked[0][1] == 3
