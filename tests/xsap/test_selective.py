import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from xsap.errors import ConfigError
from xsap.linking import calibration as module
from xsap.linking.calibration import (
    CERTAINTY,
    RiskCoverageCurve,
    abstention,
    binomial_cdf,
    codes_of,
    design_effect,
    risk_coverage,
)

outcomes = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), st.booleans(), st.sampled_from("abcdef")),
    min_size=1,
)


def arrays(rows):
    return np.array([c for c, _, _ in rows]), np.array([r for _, r, _ in rows]), [g for _, _, g in rows]


def alone(n):
    return [str(i) for i in range(n)]


def naive_effect(residuals, groups):
    total = 0.0
    for group in set(groups):
        inside = [r for r, g in zip(residuals, groups, strict=True) if g == group]
        total += sum(a * b for a in inside for b in inside)
    independent = sum(r * r for r in residuals)
    return max(1.0, total / independent) if independent else 1.0


@settings(max_examples=100)
@given(rows=outcomes)
def test_a_curve_against_a_plain_loop(rows):
    confidence, right, groups = arrays(rows)
    curve = RiskCoverageCurve.of(confidence, right, groups)
    assert list(curve.threshold) == sorted(set(confidence), reverse=True)
    for threshold, answered, hits, expected, effect in zip(
        curve.threshold, curve.answered, curve.right, curve.expected, curve.effect, strict=True
    ):
        inside = [row for row in rows if row[0] >= threshold]
        assert (answered, hits) == (len(inside), sum(r for _, r, _ in inside))
        assert expected == pytest.approx(np.mean([c for c, _, _ in inside]))
        assert effect == pytest.approx(naive_effect([r - c for c, r, _ in inside], [g for _, _, g in inside]), abs=1e-8)


@settings(max_examples=30)
@given(n=st.integers(201, 2000), ties=st.integers(1, 3000), seed=st.integers(0, 99))
def test_a_long_curve_is_thinned_to_rows_that_are_true(n, ties, seed):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, ties, n) / ties
    right = rng.random(n) < confidence
    curve = RiskCoverageCurve.of(confidence, right, alone(n))
    assert len(curve.threshold) <= 200
    assert curve.answered[-1] == n
    for threshold, answered, hits in zip(curve.threshold, curve.answered, curve.right, strict=True):
        assert (answered, hits) == ((confidence >= threshold).sum(), right[confidence >= threshold].sum())
    largest = np.unique(confidence, return_counts=True)[1].max()
    assert np.diff((0, *curve.answered)).max() <= n / 200 + largest + 1


@given(n=st.integers(0, 400), events=st.integers(0, 400), probability=st.floats(0.001, 0.999))
def test_the_binomial_tail_against_scipy(n, events, probability):
    assert binomial_cdf(min(events, n), n, probability) == pytest.approx(
        binom.cdf(min(events, n), n, probability), rel=1e-9, abs=1e-300
    )


def test_what_a_promise_needs_worked_by_hand():
    """0.95^58 is above 0.05 and 0.95^59 below."""
    for n, kept in ((58, False), (59, True)):
        curve = RiskCoverageCurve((0.99,), (n,), (n,), (0.99,), (1.0,))
        if kept:
            assert curve.threshold_for(0.95) == 0.99
        else:
            with pytest.raises(
                ConfigError,
                match=r"^the 58 mentions of the calibration can't promise a precision of 0.95, but one of 0.94\.",
            ):
                curve.threshold_for(0.95)
    halved = RiskCoverageCurve((0.99,), (118,), (118,), (0.99,), (2.0,))
    assert halved.threshold_for(0.95) == 0.99
    with pytest.raises(ConfigError):
        RiskCoverageCurve((0.99,), (117,), (117,), (0.99,), (2.0,)).threshold_for(0.95)


def naive_threshold(curve, precision):
    """The sequence begins where (mean confidence - precision) · √n is largest, at 5 / (1 - precision) answers or more if there are as many, and
    ends with the first test that is lost."""
    rows = list(zip(curve.threshold, curve.answered, curve.right, curve.expected, curve.effect, strict=True))
    best = max(rows, key=lambda row: ((row[3] - precision) * math.sqrt(row[1]), -row[1]))
    large = [row for row in rows if row[1] >= 5 / (1 - precision) * (1 - 1e-9)]
    found = None
    for threshold, answered, right, _, effect in rows[
        max(rows.index(best), rows.index(large[0]) if large else len(rows) - 1) :
    ]:
        if binom.cdf(math.ceil((answered - right) / effect), int(answered / effect), 1 - precision) > 1 - CERTAINTY:
            break
        found = threshold
    return found


@settings(max_examples=40)
@given(
    n=st.integers(100, 3000),
    slope=st.floats(0.5, 8),
    together=st.integers(1, 4),
    precision=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98]),
    seed=st.integers(0, 999),
)
def test_thresholds_against_a_plain_sequence(n, slope, together, precision, seed):
    confidence, right, groups = world(np.random.default_rng(seed), n, slope, together)
    curve = RiskCoverageCurve.of(confidence, right, groups)
    expected = naive_threshold(curve, precision)
    if expected is None:
        with pytest.raises(ConfigError):
            curve.threshold_for(precision)
    else:
        assert curve.threshold_for(precision) == expected


def world(rng, n, slope, together=1):
    """Confidences that are the true probabilities; mentions of a group share their luck."""
    odds = slope * rng.normal(size=n)
    confidence = 1 / (1 + np.exp(-odds))
    group = np.arange(n) // together
    order = np.argsort(odds)  # neighbors in confidence are together, so that their outcomes can be one
    luck = rng.random(n)[group]
    right = np.empty(n, bool)
    right[order] = luck < confidence[order]
    groups = np.empty(n, object)
    groups[order] = [str(g) for g in group]
    return confidence, right, groups.tolist()


def kept_share(slope, precision, n, together, tries=200, declared=True):
    """How often a promised precision is kept in truth, of the tries in which one was given."""
    kept = given_ = 0
    truth = np.sort(1 / (1 + np.exp(-slope * np.random.default_rng(0).normal(size=200_000))))
    precisions = np.cumsum(truth[::-1])[::-1] / np.arange(len(truth), 0, -1)  # of answering from this confidence on
    for seed in range(tries):
        confidence, right, groups = world(np.random.default_rng(seed), n, slope, together)
        try:
            threshold = RiskCoverageCurve.of(confidence, right, groups if declared else alone(n)).threshold_for(
                precision
            )
        except ConfigError:
            continue
        given_ += 1
        kept += precisions[min(np.searchsorted(truth, threshold), len(truth) - 1)] >= precision
    return kept, given_


@pytest.mark.parametrize(
    ("slope", "precision", "n", "together"),
    [(3, 0.9, 500, 1), (4, 0.95, 1500, 1), (4, 0.95, 1500, 3), (6, 0.8, 300, 2)],
)
def test_a_promise_is_kept_in_nine_of_ten_worlds(slope, precision, n, together):
    kept, given_ = kept_share(slope, precision, n, together)
    assert given_ >= 100
    assert kept / given_ >= 0.9


def test_mentions_that_fall_together_and_are_counted_alone_break_the_promise():
    """So groups are needed: the test above can fail."""
    kept, given_ = kept_share(4, 0.95, 1500, 8, declared=False)
    assert kept / given_ < 0.9
    kept, given_ = kept_share(4, 0.95, 1500, 8)
    assert kept / given_ >= 0.9


def test_a_single_lucky_start_is_not_needed():
    """Confidences too low by far promise most to spare at the very top, where one mistake among few answers would end the sequence."""
    confidence = np.linspace(0.5, 0.96, 1000)
    right = np.ones(1000, bool)
    right[:400] = False
    right[997] = False  # a mistake near the top
    assert RiskCoverageCurve.of(confidence, right, alone(1000)).threshold_for(0.95) < 0.75


def test_where_precision_is_just_too_low_everywhere_hardly_anything_is_promised():
    """Scores that say nothing: the luckiest of two hundred thresholds would be promised in a fifth of the worlds."""
    promised = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        confidence = np.clip(0.949 + 0.01 * rng.normal(size=1000), 0, 1)
        curve = RiskCoverageCurve.of(confidence, rng.random(1000) < 0.949, alone(1000))
        promised += curve._lowest(0.95) is not None
    assert promised / 200 <= 0.08


def test_precisions_outside_and_out_of_reach_are_refused():
    curve = RiskCoverageCurve.of(np.linspace(0, 1, 100), np.zeros(100, bool), alone(100))
    for precision in (0, 1, -0.5, 95, math.nan):
        with pytest.raises(ConfigError, match="must lie between 0 and 1, found"):
            curve.threshold_for(precision)
    with pytest.raises(
        ConfigError,
        match=r"^the 100 mentions .* a precision of 0.9, nor any other\. Ask for less, or calibrate on more mentions$",
    ):
        curve.threshold_for(0.9)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": ()},
        {"threshold": (0.5,)},
        {"threshold": (0.5, 0.5)},
        {"threshold": (1.5, 0.5)},
        {"expected": (0.9, -0.1)},
        {"answered": (2, 2)},
        {"answered": (0, 5)},
        {"right": (3, 4)},
        {"right": (2, 1)},
        {"right": (1, 5)},
        {"effect": (1.0, 0.9)},
    ],
)
def test_curves_that_can_not_be(change):
    sound = {"threshold": (0.8, 0.5), "answered": (2, 5), "right": (2, 4), "expected": (0.9, 0.7), "effect": (1.0, 1.2)}
    assert RiskCoverageCurve(**sound)
    with pytest.raises(ValueError, match="curve|confidences|thresholds|effect"):
        RiskCoverageCurve(**sound | change)


@settings(max_examples=100)
@given(rows=outcomes)
def test_risk_and_coverage_against_all_orders_of_ties(rows):
    """Expected risk of the k most confident: whole blocks of ties, and of the last block its mean."""
    confidence, right, _ = arrays(rows)
    coverage, risk = risk_coverage(confidence, right)
    ranked = sorted(rows, key=lambda row: -row[0])
    for k in range(1, len(rows) + 1):
        edge = ranked[k - 1][0]
        above, tied = [r for c, r, _ in rows if c > edge], [r for c, r, _ in rows if c == edge]
        wrong = above.count(False) + (k - len(above)) * tied.count(False) / len(tied)
        assert (coverage[k - 1], risk[k - 1]) == pytest.approx((k / len(rows), wrong / k))


def test_risk_and_coverage_worked_by_hand():
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.7]), np.array([False, True, True, False]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert [len(part) for part in risk_coverage(np.zeros(0), np.zeros(0, bool))] == [0, 0]


def test_design_effect_worked_by_hand():
    residuals = np.array([0.5, 0.5, -0.5, -0.5])
    assert design_effect(residuals, codes_of(["a", "a", "b", "b"])) == pytest.approx(2.0)
    assert design_effect(residuals, codes_of(["a", "b", "c", "d"])) == 1.0
    assert design_effect(residuals, codes_of(["a", "b", "a", "b"])) == 1.0  # less than independent is not believed
    assert design_effect(np.zeros(3), codes_of(["a", "a", "b"])) == 1.0


def test_why_a_mention_gets_no_answer():
    assert abstention(0.9, 0.9) is None
    assert abstention(0.4, 0.9) == "the confidence of the first candidate, 0.400, is below 0.900"
    assert abstention(0.4, 0.8912, 0.95) == (
        "the confidence of the first candidate, 0.400, is below 0.891, from which on answers keep a precision of 0.95"
    )


def test_the_curve_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr(module, "_POINTS", 4)
    curve = RiskCoverageCurve.of(np.arange(100) / 100, np.ones(100, bool), alone(100))
    assert curve.answered == (25, 50, 75, 100)
