"""Names → concepts, against a plain loop over all names; and the ranks of mentions, against plain loops over their parts."""

import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.dictionaries import TERM_ROWS, describe, terminology_of_rows
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.metrics import MISS
from xsap.evaluation.protocols import ReferenceDictionary, concept_ranks, reference_ranks
from xsap.linking.dictionary import NameConcepts, NameSource, build_dictionary
from xsap.linking.name_keys import MATCHES, SIMILAR, Hit
from xsap.linking.ranking import NO_CONCEPT, Filter, Ranked, apply_filter, put_exact_first, rank_concepts
from xsap.linking.rejection import NO_LETTER, NULL_WORD, NULL_WORDS, UNKNOWN_CODE, non_term_reason, rejection_reason
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions
from xsap.text import TextPolicy

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


# Filters against a plain loop over the rows of an index, and what users may give as one.


some = st.none() | st.frozensets(st.sampled_from(["AAA", "B", "C", "AA"]), min_size=1, max_size=2)


@given(
    rows=TERM_ROWS,
    types=st.lists(
        st.tuples(st.sampled_from(["C1", "C2", "C3", "D"]), st.sampled_from(["T1", "T2", "T3"])), max_size=8
    ),
    wanted_types=st.none() | st.frozensets(st.sampled_from(["T1", "T2", "T3"]), min_size=1, max_size=2),
    sources=some,
    languages=st.none() | st.frozensets(st.sampled_from(["en", "de", "fi"]), min_size=1, max_size=2),
)
def test_apply_filter_matches_a_plain_loop(rows, types, wanted_types, sources, languages):
    dictionary = build_dictionary(
        NameSource.from_terminology(terminology_of_rows([*rows, ("Z", "en", "zz", "Z", None)], types)),
        None,
        TextPolicy("lower", "NFC"),
    )
    names, concepts, of_names, _ = describe(dictionary)
    good = {
        c["concept_id"]
        for c in concepts
        if (wanted_types is None or wanted_types & set(c["semantic_types"]))
        and (sources is None or sources & {code.split(":")[0] for code in c["codes"]})
    }
    kept = [
        row
        for row, name in enumerate(names)
        if good & set(of_names[row]) and (languages is None or languages & set(name["languages"]))
    ]
    absent = [
        f"'{value}'" if known else "at all"
        for wanted, known in (
            (wanted_types, {t for c in concepts for t in c["semantic_types"]}),
            (sources, {code.split(":")[0] for c in concepts for code in c["codes"]}),
            (languages, {la for name in names for la in name["languages"]}),
        )
        if wanted is not None and not wanted & known
        for value in sorted(wanted)
    ]
    wanted = Filter(semantic_types=wanted_types, sources=sources, languages=languages)
    if absent or not kept:
        with pytest.raises(DataError, match=f"has no .*{absent[0]}" if absent else "matches nothing"):
            apply_filter(dictionary, wanted)
        return
    found = apply_filter(dictionary, wanted)
    assert (list(range(len(names))) if found.rows is None else found.rows.tolist()) == kept
    ids = [c["concept_id"] for c in concepts]
    kept_concepts = [
        [ids[c] for c in found.name_concepts.concepts[a:b]]
        for a, b in zip(found.name_concepts.starts[:-1], found.name_concepts.starts[1:], strict=True)
    ]
    assert kept_concepts == [[c for c in row_concepts if c in good] for row_concepts in of_names]
    assert found.name_concepts.count == len(ids)
    assert found.name_concepts.starts.dtype == found.name_concepts.concepts.dtype == np.int64


@given(
    rows=TERM_ROWS,
    codes=st.none() | st.frozensets(st.sampled_from(["1", "2", "B:1", "AA:2", "C:3", "HP:1", "nothing"]), max_size=3),
    concepts=st.none() | st.frozensets(st.sampled_from(["C1", "C2", "C3", "Z", "nothing"]), max_size=3),
)
def test_filters_by_code_and_concept_match_a_plain_loop(rows, codes, concepts):
    fixed = [("Z", "en", "zz", "HPO", "HP:1"), ("C1", "en", "aa", "B", "1"), ("C2", "de", "bb", "AA", "2")]
    dictionary = build_dictionary(NameSource.from_terminology(terminology_of_rows([*rows, *fixed])), None, TextPolicy())
    _, described, of_names, _ = describe(dictionary)
    good = {
        c["concept_id"]
        for c in described
        if (codes is None or any(code in codes or code.split(":", 1)[1] in codes for code in c["codes"]))
        and (concepts is None or c["concept_id"] in concepts)
    }
    wanted = Filter(codes=codes, concepts=concepts)
    kept = [row for row, own in enumerate(of_names) if good & set(own)]
    if not kept:
        with pytest.raises(DataError, match="has no (code|concept) '|matches nothing"):
            apply_filter(dictionary, wanted)
        return
    found = apply_filter(dictionary, wanted).rows
    assert (list(range(len(of_names))) if found is None else found.tolist()) == kept


def test_types_and_groups_add_up_and_languages_become_iso():
    found = Filter(semantic_types=["Anything"], groups=["Disorders"], languages=["GER", "en"])
    assert {"Anything", "T047"} <= set(found.semantic_types or ())
    assert found.languages == {"de", "en"}
    assert Filter().semantic_types is None


@pytest.mark.parametrize("given", [["A", "B"], ("B", "A"), {"A", "B"}, frozenset("AB"), {"A": 1, "B": 2}.keys()])
def test_filters_of_lists_and_sets_are_equal_and_hashable(given):
    assert Filter(sources=given) == Filter(sources=["A", "B"])
    assert len({Filter(sources=given), Filter(sources=["B", "A"])}) == 1
    assert Filter.from_dict({"sources": given}) == Filter(sources=given)


def test_a_single_string_is_one_value():
    assert Filter(sources="AB", languages="GER") == Filter(sources=["AB"], languages=["de"])


def test_from_dict_takes_a_filter_a_dictionary_or_nothing():
    wanted = Filter(languages="en")
    assert Filter.from_dict(wanted) is wanted
    assert Filter.from_dict(None) == Filter.from_dict({}) == Filter()
    assert Filter.from_dict({"groups": "DISO", "languages": None}) == Filter(groups=["DISO"])
    assert copy.deepcopy(wanted) == wanted  # as it is copied to workers of a cluster


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": ["X"]}, r"^unknown filter 'source'; did you mean 'sources'\?$"),
        (
            {"x1": ["X"]},
            r"^unknown filter 'x1'; a filter has semantic_types, groups, sources, codes, concepts, languages$",
        ),
        ({3: ["X"]}, r"^unknown filter 3; a filter has semantic_types"),
        ({"sources": 5}, r"^the filter 'sources' takes a list of strings, found 5 \(int\)$"),
        ({"sources": {"X": 1}}, r"^the filter 'sources' takes a list of strings, found \{'X': 1\} \(dict\)$"),
        (
            {"languages": ["en", None]},
            r"^the filter 'languages' takes a list of strings, found None \(NoneType\) in it$",
        ),
        ("en", r"^a filter is a Filter or a dictionary with lists, found 'en'$"),
        (["en"], r"^a filter is a Filter or a dictionary with lists, found \['en'\]$"),
    ],
)
def test_wrong_filters_are_refused_in_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        Filter.from_dict(given)


@pytest.mark.parametrize("given", [{"groups": ["Nonsense"]}, {"languages": "klingon"}])
def test_an_unknown_group_or_language_is_refused(given):
    with pytest.raises(DataError, match=r"unknown (semantic group 'Nonsense'|language 'klingon')"):
        Filter(**given)


def test_the_source_of_a_code_ends_at_its_first_colon():
    dictionary = build_dictionary(
        NameSource.from_terminology(
            terminology_of_rows([("C1", "en", "a", "HPO", "HP:1"), ("C2", "en", "b", "HP", "2")])
        ),
        None,
        TextPolicy(),
    )
    rows = apply_filter(dictionary, Filter(sources=["HP"])).rows
    assert rows is not None
    assert rows.tolist() == [1]


def test_a_cross_reference_is_a_code_in_its_source():
    source = terminology_of_rows(
        [("C1", "en", "a", "HPO", None), ("C2", "en", "b", "HPO", "9")], references=[("C1", "MSH:D1")]
    )
    rows = apply_filter(
        build_dictionary(NameSource.from_terminology(source), None, TextPolicy()), Filter(sources=["MSH"])
    ).rows
    assert rows is not None
    assert rows.tolist() == [0]


# Mentions without an answer: words for missing values, numbers and signs, codes; and what is a term although it looks like these.


FORMS = (str, str.lower, str.upper, str.title, lambda word: f" {word} ", lambda word: word.replace(".", ". "))


@pytest.mark.parametrize("language", NULL_WORDS)
def test_words_for_missing_values_have_a_reason_in_any_case(language):
    for word in NULL_WORDS[language].split("|"):
        for form in FORMS:
            assert non_term_reason(form(word)) == NULL_WORD, form(word)


@pytest.mark.parametrize(
    "mention", ["-", "--", "—", "0", "+++", ".", "?", "1/2", "37.5", "2026-01-31", "😀", "386661006", "①"]
)
def test_a_mention_without_a_letter_is_no_term(mention):
    assert non_term_reason(mention) == NO_LETTER


@pytest.mark.parametrize(
    "mention",
    ["I10", "J45", "R50.9", "S72.001A", "G40.9*", "HP:0001945", "HP_0001945", "MONDO:0005148", "C0015967", "D005334", "A10BA02",
     "BA00.Z", "ICD10:I10", "ICD-10:R50.9"],
)  # fmt: skip
def test_a_code_is_no_term(mention):
    assert non_term_reason(mention) == UNKNOWN_CODE


@pytest.mark.parametrize(
    "mention",
    ["B12", "CD4", "IgG4", "H1N1", "p53", "P53", "T3", "Q10", "T12", "C14", "HbA1c", "COVID-19", "i10", "TP53", "S100", "IL-6", "5-HT",
     "no", "unknown", "none of these", "o. B.", "L5", "mg", "発熱", "一", "null cell", "pH 7", "NAD", "Naevus", "47,XXY"],
)  # fmt: skip
def test_what_may_be_a_term_is_one(mention):
    assert non_term_reason(mention) is None


@pytest.mark.parametrize(
    "mention", ["\u200e", "\u202a\u202c", "\ufeff\u2060", "\u200d", "\ufe0f", "\u2066\u2069 \u3164"]
)
def test_invisible_characters_alone_are_blank(mention):
    assert rejection_reason(mention) == "the mention is blank"
