"""None"""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.fixtures.examples import examples
from xsap.errors import DataError
from xsap.evaluation.gold import GoldCounts, check_gold
from xsap.evaluation.metrics import (
    MISS,
    Difference,
    bootstrap_interval,
    hits,
    holm,
    macro_mean,
    mcnemar,
    mean,
    paired_bootstrap,
    rank_of,
    rank_of_all,
    reciprocal_ranks,
    split_ids,
)

RANKS = np.array([0, 1, 4, 5, MISS])


def test_a_table_worked_by_hand():
    assert hits(RANKS, 1).tolist() == [1, 0, 0, 0, 0]
    assert hits(RANKS, 2).tolist() == [1, 1, 0, 0, 0]
    assert hits(RANKS, 5).tolist() == [1, 1, 1, 0, 0]
    assert hits(RANKS, 6).tolist() == [1, 1, 1, 1, 0]
    assert mean(hits(RANKS, 5)) == pytest.approx(0.6)
    assert mean(reciprocal_ranks(RANKS)) == pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6 + 0) / 5)


def test_rank_of_the_first_right_candidate():
    assert rank_of([["A"], ["B", "C"], ["D"]], ["C", "D"]) == 1
    assert rank_of([["A"]], ["B"]) == MISS
    assert rank_of([], ["B"]) == MISS
    assert rank_of([["A"]], []) == MISS


def test_a_query_of_several_parts_is_as_good_as_its_worst():
    assert rank_of_all([3]) == 3
    assert rank_of_all([0, 4, 2]) == 4
    assert rank_of_all([0, MISS]) == MISS


def test_ids_are_split_at_both_signs():
    assert split_ids("D1|D2+D3") == {"D1", "D2", "D3"}
    assert split_ids("D1") == {"D1"}


def test_macro_mean_weights_groups_equally():
    assert macro_mean([np.array([1.0]), np.array([0.0, 0.0, 1.0])]) == pytest.approx((1 + 1 / 3) / 2)


def test_nothing_says_nothing():
    empty = np.array([], np.int64)
    assert math.isnan(mean(hits(empty, 1)))
    assert math.isnan(macro_mean([]))
    assert all(map(math.isnan, bootstrap_interval([hits(empty, 1)], seed=0)))
    assert all(map(math.isnan, bootstrap_interval([], seed=0)))


def test_bootstrap_is_a_function_of_seed_and_values():
    values = hits(np.random.default_rng(0).integers(0, 3, 200), 1)
    assert bootstrap_interval([values], seed=1) == bootstrap_interval([values], seed=1)
    assert bootstrap_interval([values], seed=1) != bootstrap_interval([values], seed=2)
    assert bootstrap_interval([np.ones(5)], seed=0) == (1.0, 1.0)


def test_bootstrap_agrees_with_a_plain_loop():
    values = np.random.default_rng(0).random(40)
    rng = np.random.default_rng(7)
    means = [rng.choice(values, 40).mean() for _ in range(4000)]
    low, high = bootstrap_interval([values], seed=3, resamples=4000, level=0.9)
    assert low == pytest.approx(np.quantile(means, 0.05), abs=0.005)
    assert high == pytest.approx(np.quantile(means, 0.95), abs=0.005)


def test_samples_drawn_in_parts_are_all_drawn(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval([values], seed=3)
    monkeypatch.setattr("xsap.evaluation.metrics.INDICES_PER_DRAW", 333)
    assert bootstrap_interval([values], seed=3) == whole  # the generator goes on where it was


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_truth_as_often_as_it_says(level):
    """Two groups of unequal size and truth: the interval of the macro mean, over 400 worlds."""
    rng = np.random.default_rng(5)
    covered = 0
    for world in range(400):
        groups = [(rng.random(60) < 0.3).astype(float), (rng.random(200) < 0.7).astype(float)]
        low, high = bootstrap_interval(groups, seed=world, resamples=400, level=level)
        covered += low <= 0.5 <= high
    assert covered / 400 == pytest.approx(level, abs=0.05)


def covered(sample, interval, truth, worlds=1000):
    """In which share of worlds the interval of what was sampled there holds the truth."""
    rng = np.random.default_rng(11)
    intervals = [interval(sample(rng), world) for world in range(worlds)]
    return sum(low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals) / worlds


@pytest.mark.slow
@pytest.mark.parametrize(
    "rates",
    [
        {200: 0.1},
        *(
            pytest.param(rates, marks=pytest.mark.slow)
            for rates in ({60: 0.2, 150: 0.5, 400: 0.8}, {200: 0.5}, {200: 0.9})
        ),
    ],
    ids=str,
)
def test_the_interval_of_hits_covers_the_true_rate(rates):
    def sample(rng):
        return [(rng.random(n) < rate).astype(float) for n, rate in rates.items()]

    truth = sum(rates.values()) / len(rates)
    assert (
        0.92
        <= covered(sample, lambda groups, seed: bootstrap_interval(groups, seed=seed, resamples=300), truth)
        <= 0.975
    )


# Two systems


def two_systems(rng, sizes, both, gain):
    """Hits of two systems that are right together on a share `both`; else the second is more often right, by `gain` of all queries."""
    draws = [rng.random(n) for n in sizes]
    first = [((u < both) | (u > 1 - 0.1)).astype(float) for u in draws]
    second = [((u < both) | ((u > both) & (u < both + 0.1 + gain))).astype(float) for u in draws]
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "both", "gain"), [((200,), 0.4, 0.05), ((200,), 0.1, 0.0), ((60, 150, 400), 0.6, 0.1)]
)
def test_the_interval_of_a_difference_covers_the_true_one(sizes, both, gain):
    def interval(pair, seed):
        return paired_bootstrap(*pair, seed=seed, resamples=300)[1:3]

    assert 0.92 <= covered(lambda rng: two_systems(rng, sizes, both, gain), interval, gain) <= 0.975


def naive_paired_bootstrap(first, second, seed, resamples, level):
    """One sample at a time, both systems' means of the same drawn queries; the draws in the order of the one tested."""
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(len(group), size=(resamples, len(group))).tolist() for group in first]
    differences = []
    for sample in range(resamples):
        means = [
            [
                sum(Fraction(group[i]) for i in rows[sample]) / len(group)
                for group, rows in zip(system, drawn, strict=True)
            ]
            for system in (first, second)
        ]
        differences.append(sum(means[1]) / len(first) - sum(means[0]) / len(first))
    differences.sort()

    def quantile(share):
        at = share * (resamples - 1)
        low = math.floor(at)
        high = min(low + 1, resamples - 1)
        return float(differences[low] + (differences[high] - differences[low]) * Fraction(at - low))

    sides = [sum(d <= 0 for d in differences), sum(d >= 0 for d in differences)]
    return quantile((1 - level) / 2), quantile((1 + level) / 2), min(1.0, 2 * (1 + min(sides)) / (1 + resamples))


groups_of_pairs = st.lists(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 1.0])] * 2), min_size=1, max_size=7), min_size=1, max_size=3
)


@settings(max_examples=examples(60))
@given(pairs=groups_of_pairs, seed=st.integers(0, 99), level=st.sampled_from([0.8, 0.95]))
@example(
    pairs=[[(0.0, 1.0)] + [(0.0, 0.0)] * 9, [(0.0, 1.0)] * 2 + [(0.0, 0.0)] * 8, [(1.0, 0.0)] * 3 + [(0.0, 0.0)] * 7],
    seed=0,
    level=0.95,
)
def test_the_paired_bootstrap_agrees_with_a_plain_loop(pairs, seed, level):
    first, second = ([np.array([pair[i] for pair in group]) for group in pairs] for i in (0, 1))
    found = paired_bootstrap(first, second, seed=seed, resamples=39, level=level)
    low, high, p = naive_paired_bootstrap(first, second, seed, 39, level)
    assert found.difference == macro_mean(second) - macro_mean(first)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.p == p


def test_differences_that_cancel_out_are_none():
    """Of means 0.1, 0.2 and -0.3, which don't add up to zero in floating point, whichever query is drawn."""
    first, second = [np.zeros(5)] * 2 + [np.full(5, 0.3)], [np.full(5, 0.1), np.full(5, 0.2), np.zeros(5)]
    assert sum([0.1, 0.2, -0.3]) != 0
    assert paired_bootstrap(first, second, seed=0)[1:] == (0.0, 0.0, 1.0)


def test_paired_tests_detect_a_difference_and_only_then():
    same = np.array([1.0, 0.0, 1.0, 1.0])
    assert paired_bootstrap([same], [same], seed=0) == Difference(0.0, 0.0, 0.0, 1.0)
    assert paired_bootstrap([np.zeros(9)], [np.ones(9)], seed=0, resamples=99) == Difference(1.0, 1.0, 1.0, 2 / 100)
    rng = np.random.default_rng(2)
    first, second = two_systems(rng, (300, 500), 0.5, 0.1)
    better, worse = paired_bootstrap(first, second, seed=1), paired_bootstrap(second, first, seed=1)
    assert better.p < 0.01
    assert better.low > 0
    assert worse == pytest.approx((-better.difference, -better.high, -better.low, better.p))


def test_pairing_makes_the_interval_narrower_than_two_systems_asked_apart():
    rng = np.random.default_rng(4)
    first = (rng.random(400) < 0.5).astype(float)
    second = np.where(np.arange(400) < 20, 1.0, first)
    found = paired_bootstrap([first], [second], seed=0)
    apart = paired_bootstrap([first], [rng.permutation(second)], seed=0)
    assert found.high - found.low < 0.4 * (apart.high - apart.low)
    assert found.p < 0.01 < apart.p


def test_no_queries_make_no_difference():
    empty, some = np.array([]), np.array([1.0])
    for first, second in (
        ([], []),
        ([empty], [empty]),
        ([some, empty], [some, empty]),
        ([some], [np.array([math.nan])]),
    ):
        assert all(map(math.isnan, paired_bootstrap(first, second, seed=0)))


def test_systems_that_were_asked_different_queries_are_refused():
    with pytest.raises(DataError, match="the same queries; found 2 and 1 of them"):
        paired_bootstrap([np.zeros(3), np.zeros(2)], [np.zeros(3), np.zeros(1)], seed=0)
    with pytest.raises(DataError, match="the same groups of queries; found 1 and 2 groups"):
        paired_bootstrap([np.zeros(3)], [np.zeros(3)] * 2, seed=0)
    with pytest.raises(DataError, match="the same queries; found 1,200 and 1 of them"):
        mcnemar(np.zeros(1200), np.zeros(1))
    with pytest.raises(
        DataError, match="takes hits, each 0 or 1; found other values. Compare means with paired_bootstrap"
    ):
        mcnemar(np.array([1.0, 0.5]), np.array([1.0, 0.0]))
    with pytest.raises(DataError, match="takes hits"):
        mcnemar(np.array([1.0, 0.0]), np.array([1.0, math.nan]))


def discordant(gained, lost, agreed=0):
    return np.array([0.0] * gained + [1.0] * lost + [1.0, 0.0] * agreed), np.array(
        [1.0] * gained + [0.0] * lost + [1.0, 0.0] * agreed
    )


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (1, 1, 1.0),
        (2, 0, 0.5),
        (5, 0, 1 / 16),
        (0, 5, 1 / 16),
        (6, 1, 1 / 8),
        (8, 2, 112 / 1024),
        (3, 4, 1.0),
    ],
)
def test_mcnemar_by_hand(gained, lost, p):
    assert mcnemar(*discordant(gained, lost, agreed=20)) == pytest.approx(p, rel=1e-12)


@settings(max_examples=examples(80))
@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
def test_mcnemar_is_the_binomial_test_of_the_discordant(gained, lost):
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(*discordant(gained, lost, agreed=1)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost"), [(20_000, 20_000), (20_300, 19_700), (19_000, 21_000), (30_000, 25_000), (49_000, 1_000)]
)
def test_mcnemar_stands_tens_of_thousands_of_discordant_pairs(gained, lost):
    n, fewer = gained + lost, min(gained, lost)
    term, tail = 1, 1  # whole numbers: n over k, and their sum
    for k in range(1, fewer + 1):
        term = term * (n + 1 - k) // k
        tail += term
    assert mcnemar(*discordant(gained, lost)) == pytest.approx(
        min(1.0, float(Fraction(2 * tail, 2**n))), rel=1e-8, abs=0
    )


def test_mcnemar_rejects_no_more_true_nulls_than_its_level():
    rng = np.random.default_rng(3)
    worlds = 2000
    p_values = np.array([mcnemar(*(system[0] for system in two_systems(rng, (250,), 0.5, 0.0))) for _ in range(worlds)])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(p_values <= level) <= level
    assert np.mean(p_values <= 0.2) > 0.1  # it does reject
    for n in range(1, 60):  # and not by luck: the chance of rejecting, of every number of discordant pairs
        chances = [(math.comb(n, gained) / 2**n, mcnemar(*discordant(gained, n - gained))) for gained in range(n + 1)]
        for level in (0.01, 0.05, 0.2):
            assert sum(chance for chance, p in chances if p <= level) <= level


# Several comparisons


def naive_holm(p_values):
    """Holm's procedure as he states it: the least level at which each hypothesis is still rejected, stepping down."""
    known = [p for p in p_values if not math.isnan(p)]

    def rejected(p, level):
        """Whether all hypotheses up to p fall, each against the level divided by how many stand."""
        steps = sorted(known)
        return all(q * (len(steps) - i) <= level for i, q in enumerate(steps) if q <= p)

    levels = sorted({min(1.0, q * n) for q in known for n in range(1, len(known) + 1)} | {1.0})
    return [
        math.nan if math.isnan(p) else next((level for level in levels if rejected(p, level)), 1.0) for p in p_values
    ]


@given(
    st.lists(st.sampled_from([0.0, 0.001, 0.01, 0.0125, 0.04, 0.3, 0.5, 1.0, math.nan]) | st.floats(0, 1), max_size=8)
)
def test_holm_agrees_with_his_procedure(p_values):
    assert holm(p_values) == pytest.approx(naive_holm(p_values), nan_ok=True, rel=1e-12)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([math.nan, 0.01, math.nan, 0.02], [math.nan, 0.02, math.nan, 0.02]),
        ([math.nan], [math.nan]),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, nan_ok=True)


# Gold concepts of mentions: counts by a plain loop, and ids that are written in another way.


ids = st.sampled_from(["A", "B", "C", "D", "E"])


@given(gold=st.lists(st.lists(ids, max_size=3), max_size=8), known=st.sets(ids))
def test_counts_match_a_plain_loop(gold, known):
    kinds = ["nil" if not each else "known" if known & set(each) else "other" for each in gold]
    expected = GoldCounts(kinds.count("known"), kinds.count("other"), kinds.count("nil"))
    if expected.in_dictionary:
        assert check_gold(gold, known) == expected
    else:
        with pytest.raises(DataError, match="found none"):
            check_gold(gold, known)


WAYS = [
    "HP_{}",
    "hp:{}",
    "HP{}",
    "HP-{}",
    "http://purl.obolibrary.org/obo/HP_{}",
    "https://example.org/HP#{}",
    "{}",
    "UMLS:HP:{}",
    "HP: {}",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", ["0001945", "0000001"])
def test_id_in_another_way_of_writing_is_shown_with_its_own(way, number):
    known = {f"HP:{i:07}" for i in range(1, 3000)}
    gold = [[way.format("0009999")], [way.format(number)], []]
    with pytest.raises(DataError) as error:
        check_gold(gold, known)
    message = str(error.value)
    assert message.count("\n") == 0
    assert message.startswith("expected mentions whose gold concepts are in the index, found none among 2: ")
    assert f"gold '{way.format(number)}', index 'HP:{number}'; write the ids as the index has them" in message


def test_ids_that_have_nothing_in_common_are_shown_as_well():
    with pytest.raises(
        DataError, match=re.escape("gold 'C0015967', dictionary 'HP:1'; are they ids of one terminology")
    ):
        check_gold([["C0015967"]], ["HP:2", "HP:1"], dictionary="dictionary")
    with pytest.raises(DataError, match="index no concepts"):
        check_gold([["C0015967"]], [])
    with pytest.raises(DataError, match=re.escape(f"gold '{60 * 'x'}…'")):
        check_gold([["x" * 10_000]], ["A"])


@pytest.mark.parametrize("missing", range(6))
def test_few_gold_concepts_in_the_index_are_warned_of(caplog, missing):
    gold = [["A"]] * (5 - missing) + [["a:"]] * missing
    if missing == 5:
        with pytest.raises(DataError, match="gold 'a:', index 'A'"):
            check_gold(gold, ["A", "B"])
        return
    check_gold([*gold, [], []], ["A", "B"])
    warned = f"only {5 - missing} of 5 mentions with gold concepts have one in the index: gold 'a:', index 'A'"
    assert (warned in caplog.text) == (missing > 2)
