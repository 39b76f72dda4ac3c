"""Calibrated confidence and guaranteed precision: against scikit-learn, scipy and plain loops, and in simulated samples with known truth."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from sklearn.linear_model import LogisticRegression

from tests.fixtures.examples import examples
from tests.fixtures.html_page import Page
from tests.fixtures.table_linker import TableLinker
from xsap import plots
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.calibration_report import (
    CalibrationReport,
    calibrate,
    confidence_scores,
    ece_under_calibration,
    expected_calibration_error,
    notes_on,
    proportion_interval,
    reliability,
    report_on,
    to_page,
    to_text,
)
from xsap.evaluation.tuning import link_sample
from xsap.languages import UNKNOWN
from xsap.linking.calibration import (
    CERTAINTY,
    Calibration,
    RiskCoverageCurve,
    abstention_reason,
    binomial_cdf,
    calibration_folds,
    codes_of,
    design_effect,
    features_of,
    fit,
    risk_coverage,
)
from xsap.linking.logistic import fit_logistic, minimize_log_loss
from xsap.terms.mentions import build_mentions


def world(seed, sizes, corrections=None, weights=(2.0, 1.0), intercept=-0.5):
    """Answers whose probability of being right is known. sizes: mentions of each language."""
    rng = np.random.default_rng(seed)
    languages = [code for code, n in sizes.items() for _ in range(n)]
    n = len(languages)
    first = np.clip(0.72 + 0.13 * rng.normal(size=n), -1, 1)
    features = features_of(first, first - rng.gamma(1.2, 0.07, n))
    standard = (features - [0.72, 0.24]) / [0.13, 0.13]
    odds = intercept + standard @ weights + np.array([(corrections or {}).get(code, 0.0) for code in languages])
    truth = 1 / (1 + np.exp(-odds))
    return features, rng.random(n) < truth, languages, truth


def fitted(features, right, languages, seed=0):
    return fit(features, right, languages, [str(i) for i in range(len(right))], seed=seed)


@pytest.fixture(scope="module")
def calibration():
    features, right, languages, _ = world(0, {"es": 400, "ja": 300, "und": 50, "de": 20})
    return fitted(features, right, languages)[0]


def test_features_match_values_worked_by_hand():
    features = features_of(np.array([0.9, 1.0, 0.5, 0.4]), np.array([0.65, 1.0, np.nan, 0.5]))
    assert features == pytest.approx(
        np.array([[0.9, 0.5], [1.0, 0.0], [0.5, 0.0], [0.4, 0.0]])
    )  # a second above the first has no lead


@pytest.mark.parametrize("seed", range(3))
def test_logistic_model_matches_scikit_learn(seed):
    """With the penalties that ours arrived at; columns are scaled, for scikit-learn has one penalty for all."""
    features, right, languages, _ = world(seed, {"es": 300, "ja": 200, "und": 80, "de": 20}, {"ja": 1.0, "es": -0.5})
    found = fitted(features, right, languages)[0]
    standard = (features - features.mean(0)) / features.std(0) / math.sqrt(0.1)
    one_hot = (
        np.array([[code == known for known in ("de", "es", "ja")] for code in languages], float) * found.model.prior_std
    )
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(np.hstack([standard, one_hot]), right)
    ours = found.confidence(features, languages)
    assert ours == pytest.approx(theirs.predict_proba(np.hstack([standard, one_hot]))[:, 1], abs=1e-5)
    assert list(found.model.corrections) == ["de", "es", "ja"]
    assert list(found.model.corrections.values()) == pytest.approx(
        theirs.coef_[0, 2:] * found.model.prior_std, abs=1e-4
    )


def test_prior_std_follows_from_corrections_and_their_uncertainty():
    features, right, languages, _ = world(1, {"es": 300, "ja": 200, "tr": 100}, {"ja": 0.8, "tr": -0.8})
    odds = fitted(features, right, languages)[0].model
    design = np.hstack(
        [
            np.ones((600, 1)),
            (features - odds.center) / odds.scale,
            [[c == k for k in ("es", "ja", "tr")] for c in languages],
        ]
    ).astype(float)
    share = odds.confidence(features, languages)
    hessian = sum(p * (1 - p) * np.outer(row, row) for p, row in zip(share, design, strict=True))
    hessian += np.diag([0, 0.1, 0.1, *[1 / odds.prior_std**2] * 3])
    uncertain = np.diag(np.linalg.inv(hessian))[3:]
    expected = (sum(u**2 for u in odds.corrections.values()) + uncertain.sum() + 2 * 0.3**2) / 5
    assert odds.prior_std**2 == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_language_correction_grows_with_its_mentions():
    """The same log odds, 2 below those of the others, in 20 mentions and in 3,000."""
    moved = {}
    for n in (20, 3000):
        moved[n] = []
        for seed in range(8):
            features, right, languages, _ = world(
                seed, {"es": 1500, "fr": 1500, "ja": 1500, "zh": 1500, "tr": n}, {"tr": -2.0}
            )
            moved[n].append(fitted(features, right, languages)[0].model.corrections["tr"])
    assert -0.75 < np.mean(moved[20]) < 0
    assert np.mean(moved[3000]) < -1.4
    assert min(moved[20]) > max(moved[3000])


def test_unseen_language_gets_the_pooled_confidence(calibration):
    features = features_of(np.array([0.8, 0.7]), np.array([0.6, 0.69]))
    pooled = calibration.confidence(features)
    for languages in ([None, None], ["sw", "th"], [UNKNOWN, UNKNOWN]):
        assert calibration.confidence(features, languages).tolist() == pooled.tolist()
    assert UNKNOWN not in calibration.model.corrections
    assert calibration.confidence(features, ["es", "ja"]).tolist() != pooled.tolist()


def test_single_language_gets_no_correction():
    features, right, languages, _ = world(0, {"es": 500})
    assert fitted(features, right, languages)[0].model.corrections["es"] == pytest.approx(0, abs=1e-6)


@settings(max_examples=examples(200))
@given(
    score=st.floats(-1, 1),
    second=st.floats(-1, 1),
    more=st.floats(0, 1),
    language=st.sampled_from(["es", "ja", "de", "fr", None]),
)
def test_confidence_never_falls_when_score_or_lead_rises(calibration, score, second, more, language):
    base = features_of(np.array([score]), np.array([second]))
    higher = features_of(np.array([score + more]), np.array([second]))  # the lead rises with it
    wider = base + [[0.0, more]]
    low, mid, high = (float(calibration.confidence(each, [language])[0]) for each in (base, higher, wider))
    assert 0 <= low <= 1
    assert low <= mid + 1e-12
    assert low <= high + 1e-12


def test_weight_of_a_score_that_is_a_worse_sign_is_zero():
    features, right, languages, _ = world(0, {"es": 800}, weights=(-2.0, 1.0))
    odds = fitted(features, right, languages)[0].model
    assert odds.weights[0] == 0
    assert odds.weights[1] > 0
    features, right, languages, _ = world(0, {"es": 800}, weights=(-2.0, -1.0))
    found = fitted(features, right, languages)[0]
    assert found.model.weights == (0, 0)
    assert found.confidence(features) == pytest.approx(np.full(800, right.mean()), abs=1e-6)


def test_confidences_match_true_probabilities():
    sizes, corrections = {"es": 3000, "ja": 2000, "tr": 1000}, {"ja": 0.6, "tr": -0.6}
    features, right, languages, _ = world(1, sizes, corrections)
    found, _ = fitted(features, right, languages)
    fresh, _, languages, truth = world(2, sizes, corrections)
    confidence = found.confidence(fresh, languages)
    assert np.abs(confidence - truth).mean() < 0.02
    assert np.abs(found.confidence(fresh) - truth).mean() > 0.04  # without the languages it is further off


def test_separable_outcomes_give_finite_numbers():
    features = features_of(np.linspace(0, 1, 100), np.linspace(0, 1, 100) - 0.1)
    found, left_out = fitted(features, features[:, 0] > 0.5, ["es"] * 100)
    assert np.isfinite([*found.model.weights, found.model.intercept, *left_out]).all()
    constant = features_of(np.full(100, 0.7), np.full(100, 0.6))
    found, _ = fitted(constant, np.arange(100) < 50, ["es"] * 100)
    assert found.confidence(constant) == pytest.approx(np.full(100, 0.5), abs=1e-6)


def test_newton_finds_the_minimum_from_a_far_start():
    """A full step from there leads upwards and away."""
    rng = np.random.default_rng(0)
    design = np.hstack([np.ones((200, 1)), rng.normal(size=(200, 2))])
    right = rng.random(200) < 1 / (1 + np.exp(-design @ [0.5, 2.0, -1.0]))
    penalty = np.array([0.0, 0.1, 0.1])
    near, _ = minimize_log_loss(design, right, penalty, np.zeros(3))
    theirs = LogisticRegression(C=10, tol=1e-10).fit(design[:, 1:], right)
    assert near == pytest.approx(np.concatenate([theirs.intercept_, theirs.coef_[0]]), abs=1e-4)
    for start in ([6.0, -6.0, 6.0], [-3.0, 8.0, 3.0], [10.0, 0.0, 0.0]):
        assert minimize_log_loss(design, right, penalty, np.array(start))[0] == pytest.approx(near, abs=1e-5)


def test_out_of_fold_confidence_is_by_a_model_fitted_on_the_other_folds():
    features, right, languages, _ = world(3, {"es": 120, "ja": 83})
    codes = np.array(languages, object)
    found, out_of_fold = fitted(features, right, languages, seed=5)
    fold = calibration_folds(right, seed=5)
    assert found.model == fit_logistic(features, right, codes)
    for number in range(5):
        inside = fold == number
        assert right[inside].mean() == pytest.approx(right.mean(), abs=0.03)  # each fold has its fraction of right ones
        model = fit_logistic(features[~inside], right[~inside], codes[~inside])
        assert out_of_fold[inside] == pytest.approx(model.confidence(features[inside], codes[inside].tolist()))
    assert (found.curve.answered[-1], found.curve.right[-1]) == (203, right.sum())


def test_fit_depends_on_its_seed_alone():
    features, right, languages, _ = world(4, {"es": 200, "ja": 100})
    (one, first), (same, again), (_, other) = (fitted(features, right, languages, seed=seed) for seed in (7, 7, 8))
    assert one == same
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(("n", "hits"), [(49, 25), (100, 9), (100, 91), (100, 0), (100, 100), (0, 0)])
def test_too_few_mentions_are_an_error(n, hits):
    features = features_of(np.linspace(0.2, 0.9, n), np.zeros(n))
    with pytest.raises(
        DataError,
        match=rf"^a calibration needs at least 50 mentions, .* found {n}, {hits} correctly and {n - hits} wrongly\. Take",
    ):
        fitted(features, np.arange(n) < hits, ["es"] * n)


def test_minimum_number_of_mentions_is_enough():
    features = features_of(np.linspace(0.2, 0.9, 50), np.zeros(50))
    assert fitted(features, np.arange(50) < 10, [None] * 50)[0].model.corrections == {}


@pytest.mark.parametrize(
    ("corrections", "depends"), [({}, False), ({"de": 0.1, "es": -0.15}, False), ({"de": 0.1, "es": -0.3}, True)]
)
def test_offsets_that_move_a_confidence_by_more_than_five_points_depend_on_languages(calibration, corrections, depends):
    changed = replace(calibration, model=replace(calibration.model, corrections=corrections))
    assert changed.depends_on_languages == depends
    features = np.stack([np.linspace(-1, 1, 2001), np.full(2001, 0.2)], axis=1)
    moved = [np.abs(changed.confidence(features, [code] * 2001) - changed.confidence(features)) for code in corrections]
    assert (max((float(each.max()) for each in moved), default=0.0) > 0.05) == depends


def test_no_candidates_give_no_confidence(calibration):
    assert np.isnan(calibration.confidence(np.array([[np.nan, 0.0]]))).all()
    assert len(calibration.confidence(np.zeros((0, 2)), [])) == 0


def test_threshold_of_a_calibration_is_its_curves(calibration):
    assert calibration.threshold_for(0.8) == calibration.curve.threshold_for(0.8)


@settings(max_examples=examples(20))
@given(
    seed=st.integers(0, 1000),
    sizes=st.dictionaries(st.sampled_from(["es", "ja", "tr", "und"]), st.integers(60, 300), min_size=1),
)
def test_json_round_trip_gives_the_same_calibration(seed, sizes):
    features, right, languages, _ = world(seed, sizes)
    found, _ = fitted(features, right, languages)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.confidence(features, languages).tolist() == found.confidence(features, languages).tolist()


def paths(tree, path=()):
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from paths(value, (*path, key))


def changed(data, path, value=None, *, added="", removed=False):
    """A copy in which the entry at `path` has another value, or is gone, or has one more beside it."""
    copy = json.loads(json.dumps(data))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if removed:
        del inner[path[-1]]
    else:
        inner[path[-1] + added] = value
    return copy


def test_every_missing_invalid_or_added_entry_is_an_error(calibration):
    data = calibration.to_dict()
    assert Calibration.from_dict(json.loads(json.dumps(data))) == calibration
    damaged = []
    for path in paths(data):
        damaged += [
            changed(data, path, value)
            for value in (None, "1", True, [], {"a": "b"}, math.nan, math.inf, [math.nan, 1.0])
        ]
        if path[:2] != ("model", "corrections") or len(path) == 2:  # one language more or less is no fault
            damaged += [changed(data, path, removed=True), changed(data, path, 1.0, added="_")]
    assert len(damaged) > 150
    for each in damaged:
        with pytest.raises(
            ArtifactError,
            match=r"^(not a readable calibration: |expected a calibration of format 2, found ).*xsap calibrate$",
        ):
            Calibration.from_dict(each)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "scale"), [0.0, 1.0]),
        (("model", "weights"), [1.0, -1e-9]),
        (("model", "prior_std"), -0.1),
        (("model", "center"), [1.0, 2.0, 3.0]),
        (("model", "intercept"), "0"),
        (("curve", "threshold"), [0.5]),
        (("curve", "answered"), [1.5]),
        (("format",), 1),
        (("format",), None),
    ],
)
def test_impossible_numbers_are_an_error(calibration, path, value):
    with pytest.raises(ArtifactError, match="create it again: xsap calibrate$"):
        Calibration.from_dict(changed(calibration.to_dict(), path, value))


@pytest.mark.parametrize(
    "data", [None, [], "x", 3, {}, {"format": 2}, {"format": 2, "model": 3, "curve": object()}, {"format": True}]
)
def test_other_data_are_an_error_of_one_line(data):
    with pytest.raises(ArtifactError) as caught:
        Calibration.from_dict(data)
    assert "\n" not in str(caught.value)


def test_error_names_the_entry(calibration):
    broken = changed(calibration.to_dict(), ("model", "intercept"), "high")
    with pytest.raises(
        ArtifactError,
        match=r"^not a readable calibration: model\.intercept: Input should be a valid number; create it again",
    ):
        Calibration.from_dict(broken)


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


@settings(max_examples=examples(100))
@given(rows=outcomes)
def test_curve_matches_a_plain_loop(rows):
    confidence, right, groups = arrays(rows)
    curve = RiskCoverageCurve.from_sample(confidence, right, groups)
    assert list(curve.threshold) == sorted(set(confidence), reverse=True)
    for threshold, answered, hits, expected, effect in zip(
        curve.threshold, curve.answered, curve.right, curve.expected, curve.effect, strict=True
    ):
        inside = [row for row in rows if row[0] >= threshold]
        assert (answered, hits) == (len(inside), sum(r for _, r, _ in inside))
        assert expected == pytest.approx(np.mean([c for c, _, _ in inside]))
        assert effect == pytest.approx(naive_effect([r - c for c, r, _ in inside], [g for _, _, g in inside]), abs=1e-8)


@settings(max_examples=examples(30))
@given(n=st.integers(201, 2000), ties=st.integers(1, 3000), seed=st.integers(0, 99))
def test_long_curve_is_thinned_to_correct_rows(n, ties, seed):
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, ties, n) / ties
    right = rng.random(n) < confidence
    curve = RiskCoverageCurve.from_sample(confidence, right, alone(n))
    assert len(curve.threshold) <= 200
    assert curve.answered[-1] == n
    for threshold, answered, hits in zip(curve.threshold, curve.answered, curve.right, strict=True):
        assert (answered, hits) == ((confidence >= threshold).sum(), right[confidence >= threshold].sum())
    largest = np.unique(confidence, return_counts=True)[1].max()
    assert np.diff((0, *curve.answered)).max() <= n / 200 + largest + 1


@given(n=st.integers(0, 400), events=st.integers(0, 400), probability=st.floats(0.001, 0.999))
def test_binomial_cdf_matches_scipy(n, events, probability):
    assert binomial_cdf(min(events, n), n, probability) == pytest.approx(
        binom.cdf(min(events, n), n, probability), rel=1e-9, abs=1e-100
    )  # far below, scipy is off by more than that, as exact fractions show


def test_mentions_that_a_guarantee_needs_match_values_worked_by_hand():
    """0.95^58 is above 0.05 and 0.95^59 below."""
    for n, kept in ((58, False), (59, True)):
        curve = RiskCoverageCurve((0.99,), (n,), (n,), (0.99,), (1.0,))
        if kept:
            assert curve.threshold_for(0.95) == 0.99
        else:
            with pytest.raises(
                ConfigError,
                match=r"^the 58 mentions of the calibration can't guarantee a precision of 0.95, but 0.94\.",
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


@settings(max_examples=examples(40))
@given(
    n=st.integers(100, 3000),
    slope=st.floats(0.5, 8),
    together=st.integers(1, 4),
    precision=st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98]),
    seed=st.integers(0, 999),
)
def test_thresholds_match_a_plain_sequence_of_tests(n, slope, together, precision, seed):
    confidence, right, groups = random_outcomes(np.random.default_rng(seed), n, slope, together)
    curve = RiskCoverageCurve.from_sample(confidence, right, groups)
    expected = naive_threshold(curve, precision)
    if expected is None:
        with pytest.raises(ConfigError):
            curve.threshold_for(precision)
    else:
        assert curve.threshold_for(precision) == expected


def random_outcomes(rng, n, slope, together=1):
    """Confidences that are the true probabilities; mentions of a group have one random number."""
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


def count_kept(slope, precision, n, together, tries=200, declared=True):
    """How often a guaranteed precision holds in truth, and in how many tries one was given."""
    kept = given_ = 0
    truth = np.sort(1 / (1 + np.exp(-slope * np.random.default_rng(0).normal(size=200_000))))
    precisions = np.cumsum(truth[::-1])[::-1] / np.arange(len(truth), 0, -1)  # of answering from this confidence on
    for seed in range(tries):
        confidence, right, groups = random_outcomes(np.random.default_rng(seed), n, slope, together)
        try:
            threshold = RiskCoverageCurve.from_sample(
                confidence, right, groups if declared else alone(n)
            ).threshold_for(precision)
        except ConfigError:
            continue
        given_ += 1
        kept += precisions[min(np.searchsorted(truth, threshold), len(truth) - 1)] >= precision
    return kept, given_


@pytest.mark.parametrize(
    ("slope", "precision", "n", "together"),
    [
        (3, 0.9, 500, 1),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in [(4, 0.95, 1500, 1), (4, 0.95, 1500, 3), (6, 0.8, 300, 2)]
        ),
    ],
)
def test_guaranteed_precision_holds_in_nine_of_ten_samples(slope, precision, n, together):
    kept, given_ = count_kept(slope, precision, n, together)
    assert given_ >= 100
    assert kept / given_ >= 0.9


@pytest.mark.slow
def test_dependent_mentions_counted_as_independent_break_the_guarantee():
    """So groups are needed: the test above can fail."""
    kept, given_ = count_kept(4, 0.95, 1500, 8, declared=False)
    assert kept / given_ < 0.9
    kept, given_ = count_kept(4, 0.95, 1500, 8)
    assert kept / given_ >= 0.9


def test_one_error_among_the_most_confident_does_not_end_the_sequence():
    """Confidences far too low exceed the precision most at the very top, where one error among few answers would end the sequence."""
    confidence = np.linspace(0.5, 0.96, 1000)
    right = np.ones(1000, bool)
    right[:400] = False
    right[997] = False  # a mistake near the top
    assert RiskCoverageCurve.from_sample(confidence, right, alone(1000)).threshold_for(0.95) < 0.75


def test_precision_just_too_low_everywhere_is_hardly_ever_guaranteed():
    """Scores without information: the luckiest of two hundred thresholds would be guaranteed in a fifth of the samples."""
    guaranteed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        confidence = np.clip(0.949 + 0.01 * rng.normal(size=1000), 0, 1)
        curve = RiskCoverageCurve.from_sample(confidence, rng.random(1000) < 0.949, alone(1000))
        guaranteed += curve.lowest_threshold(0.95) is not None
    assert guaranteed / 200 <= 0.08


def test_precisions_outside_0_to_1_and_out_of_reach_are_errors():
    curve = RiskCoverageCurve.from_sample(np.linspace(0, 1, 100), np.zeros(100, bool), alone(100))
    for precision in (0, 1, -0.5, 95, math.nan):
        with pytest.raises(ConfigError, match="must be between 0 and 1, found"):
            curve.threshold_for(precision)
    with pytest.raises(
        ConfigError,
        match=r"^the 100 mentions .* a precision of 0.9, nor any other\. Choose a lower precision, or calibrate on more mentions$",
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
def test_impossible_curves_are_an_error(change):
    sound = {"threshold": (0.8, 0.5), "answered": (2, 5), "right": (2, 4), "expected": (0.9, 0.7), "effect": (1.0, 1.2)}
    assert RiskCoverageCurve(**sound)
    with pytest.raises(ValueError, match="curve|confidences|thresholds|effect"):
        RiskCoverageCurve(**sound | change)


@settings(max_examples=examples(100))
@given(rows=outcomes)
def test_risk_and_coverage_average_over_ties(rows):
    """Expected risk of the k most confident: whole blocks of ties, and of the last block its mean."""
    confidence, right, _ = arrays(rows)
    coverage, risk = risk_coverage(confidence, right)
    ranked = sorted(rows, key=lambda row: -row[0])
    for k in range(1, len(rows) + 1):
        edge = ranked[k - 1][0]
        above, tied = [r for c, r, _ in rows if c > edge], [r for c, r, _ in rows if c == edge]
        wrong = above.count(False) + (k - len(above)) * tied.count(False) / len(tied)
        assert (coverage[k - 1], risk[k - 1]) == pytest.approx((k / len(rows), wrong / k))


def test_risk_and_coverage_match_values_worked_by_hand():
    coverage, risk = risk_coverage(np.array([0.2, 0.9, 0.6, 0.7]), np.array([False, True, True, False]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert [len(part) for part in risk_coverage(np.zeros(0), np.zeros(0, bool))] == [0, 0]


def test_design_effect_matches_values_worked_by_hand():
    residuals = np.array([0.5, 0.5, -0.5, -0.5])
    assert design_effect(residuals, codes_of(["a", "a", "b", "b"])) == pytest.approx(2.0)
    assert design_effect(residuals, codes_of(["a", "b", "c", "d"])) == 1.0
    assert design_effect(residuals, codes_of(["a", "b", "a", "b"])) == 1.0  # less than independent is not believed
    assert design_effect(np.zeros(3), codes_of(["a", "a", "b"])) == 1.0


def test_abstention_reason_states_confidence_and_threshold():
    assert abstention_reason(0.9, 0.9) is None
    assert abstention_reason(0.4, 0.9) == "the confidence of the first candidate, 0.400, is below 0.900"
    assert abstention_reason(0.4, 0.8912, 0.95) == (
        "the confidence of the first candidate, 0.400, is below 0.891, above which answers keep a precision of 0.95"
    )


def test_curve_is_thinned_evenly():
    curve = RiskCoverageCurve.from_sample(np.arange(100) / 100, np.ones(100, bool), alone(100), points=4)
    assert curve.answered == (25, 50, 75, 100)


# Reports on calibrations: measures against plain loops and scipy, and pages and tables read back.


pairs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0]) | st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=60,
)


def naive_bins(confidence, right, bins):
    """A bin ends at each quantile, itself included."""
    edges = [np.quantile(confidence, i / bins) for i in range(1, bins)]
    rows = [[] for _ in range(bins)]
    for c, r in zip(confidence, right, strict=True):
        rows[sum(c > edge for edge in edges)].append((c, r))
    return [(sum(c for c, _ in row) / len(row), sum(r for _, r in row) / len(row), len(row)) for row in rows if row]


@settings(max_examples=examples(100))
@given(rows=pairs, bins=st.integers(1, 15))
def test_bins_and_error_match_a_plain_loop(rows, bins):
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    expected = naive_bins(confidence, right, bins)
    found = reliability(confidence, right, bins)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(
        sum(n * abs(m - s) for m, s, n in expected) / len(rows)
    )


def test_calibration_error_matches_values_worked_by_hand():
    confidence, right = np.array([0.1, 0.3, 0.8, 0.9]), np.array([False, True, True, False])
    assert expected_calibration_error(confidence, right, 2) == pytest.approx(
        (2 * abs(0.2 - 0.5) + 2 * abs(0.85 - 0.5)) / 4
    )
    assert expected_calibration_error(confidence, right, 1) == pytest.approx(abs(0.525 - 0.5))
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True]), 2) == 0


def test_bins_have_about_equally_many_mentions():
    confidence = np.random.default_rng(0).random(1000) ** 3
    assert {n for _, _, n in reliability(confidence, confidence > 0.5, 10)} <= {99, 100, 101}


def test_error_of_true_probabilities_is_in_the_range_under_calibration():
    """In about 95 of 100 samples; in none if confidences are off by a tenth."""
    inside = off = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.beta(1, 1.5, 400)
        right = rng.random(400) < truth
        low, high = ece_under_calibration(truth, 10, seed=seed)
        inside += low <= expected_calibration_error(truth, right, 10) <= high
        shifted = np.clip(truth + 0.12, 0, 1)
        off += expected_calibration_error(shifted, right, 10) <= ece_under_calibration(shifted, 10, seed=seed)[1]
    assert 0.9 <= inside / 200 <= 0.99
    assert off / 200 < 0.1


@given(n=st.integers(1, 300), fraction=st.floats(0, 1))
def test_intervals_of_independent_mentions_match_scipy(n, fraction):
    hits = np.arange(n) < round(fraction * n)
    theirs = binomtest(int(hits.sum()), n).proportion_ci(0.95, "wilson")
    assert proportion_interval(hits, np.arange(n)) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("hits", [[True, True, True, False], [True] * 4, [False] * 4])
def test_mentions_that_are_hits_together_count_once(hits):
    once = proportion_interval(np.array(hits * 5), np.arange(20))
    twice = proportion_interval(np.array(hits * 10), np.tile(np.arange(20), 2))
    assert twice == pytest.approx(once)


def sample(n=600, seed=0, nil=0.4):
    """A linker and mentions: the higher the score, the oftener the answer is right."""
    rng = np.random.default_rng(seed)
    answers, rows = {}, []
    for i in range(n):
        score = float(rng.uniform(0.3, 1))
        right = rng.random() < 1 / (1 + math.exp(-14 * (score - 0.68)))
        answers[f"m{i}"] = [("A" if right else "B", score), ("C", score - float(rng.uniform(0, 0.3)))]
        missing = not right and rng.random() < nil
        rows.append((f"m{i}", ("es", "ja", "xx<&>")[i % 3], [] if missing else ["A"]))
    return TableLinker(answers), build_mentions(*map(list, zip(*rows, strict=True)))


def test_calibrate_reports_out_of_fold_confidences_by_language():
    linker, mentions = sample()
    report = calibrate(linker, mentions, seed=0)
    assert list(report.rows) == ["all", "es", "ja", "xx<&>"]
    whole = report.rows["all"]
    gold = mentions["concept_ids"].to_pylist()
    assert (whole.n, whole.without_concept) == (600, sum(not ids for ids in gold))
    assert sum(report.rows[code].n for code in ("es", "ja", "xx<&>")) == 600
    right = [linker.answers[m][0][0] in ids for m, ids in zip(mentions["mention"].to_pylist(), gold, strict=True)]
    assert whole.right == pytest.approx(np.mean(right))
    assert whole.ece < 0.08
    assert whole.bins[0][1] < whole.bins[-1][1]
    assert whole.curve[-1] == pytest.approx((1.0, 1 - np.mean(right)))
    assert len(whole.curve) == 100
    assert report.calibration.curve.right[-1] == sum(right)
    linked = link_sample(linker, mentions)
    calibration, out_of_fold = fit(linked.features, linked.right, linked.languages, linked.groups, seed=0)
    assert report.calibration == calibration
    assert whole.bins == reliability(out_of_fold, linked.right, 10)  # not of the fit to these very mentions
    assert calibrate(linker, mentions, seed=0) == report
    assert calibrate(linker, mentions, seed=1) != report
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["rows"]["es"]["ece"] == report.rows["es"].ece
    assert written["thresholds"] == report.thresholds


def test_thresholds_are_of_the_calibration_and_answers_at_them_are_counted():
    odds = {
        "center": (0.0, 0.0),
        "scale": (1.0, 1.0),
        "weights": (1.0, 1.0),
        "intercept": 0.0,
        "corrections": {},
        "prior_std": 0.1,
    }
    curve = RiskCoverageCurve.from_sample(np.linspace(0.5, 1, 400), np.arange(400) >= 50, [str(i) for i in range(400)])
    calibration = Calibration.from_dict(
        {"format": 2, "model": odds, "curve": json.loads(json.dumps(Calibration(None, curve).to_dict()))["curve"]}
    )
    linker, mentions = sample(200)
    linked = link_sample(linker, mentions)
    confidence = np.random.default_rng(0).random(200)
    report = report_on(calibration, confidence, linked, seed=0)
    assert list(report.thresholds) == ["0.9", "0.95", "0.98"]
    for name, threshold in report.thresholds.items():
        assert threshold == calibration.threshold_for(float(name))
        kept = report.rows["ja"].at_precision[name]
        given_ = [
            right
            for right, code, c in zip(linked.right, linked.languages, confidence, strict=True)
            if code == "ja" and c >= threshold
        ]
        assert kept.answered == len(given_)
        nil = [
            c >= threshold
            for no_gold, code, c in zip(linked.without_concept, linked.languages, confidence, strict=True)
            if no_gold and code == "ja"
        ]
        assert kept.without_concept == sum(nil) > 0
        assert kept.coverage == pytest.approx(len(given_) / linked.languages.count("ja"))
        assert kept.precision == pytest.approx(np.mean(given_))


def small_report(*, repeated=3, unlinked=1, without_concept=0):
    right, groups = np.arange(60) < 20, codes_of(map(str, range(60)))
    thresholds = {"0.9": 0.8, "0.95": None}
    row = confidence_scores(
        np.linspace(0, 0.5, 60), right, groups, thresholds, without_concept=np.arange(60) < without_concept, seed=0
    )
    return CalibrationReport(None, repeated, unlinked, thresholds, {"all": row})


def test_no_answers_and_no_guarantee_are_said():
    report = small_report()
    row = report.rows["all"]
    assert row.at_precision["0.9"].answered == 0
    assert row.at_precision["0.9"].precision is None
    assert row.at_precision["0.95"] is None
    lines = to_text(report).splitlines()
    assert lines[2].split() == ["all", "60", "0", "0", "33.3", f"{100 * row.ece:.1f}", *lines[2].split()[-2:]]
    assert lines[5].split() == ["all", "0.0", "–", "not", "guaranteed"]
    assert [line.split(" have ")[0].split(" repeat ")[0] for line in lines[7:9]] == ["3 mentions", "1 mentions"]
    assert lines[9].startswith("Every mention has a concept in the index.")
    assert notes_on(small_report(repeated=0, unlinked=0, without_concept=7)) == [
        "7 mentions have no concept (NIL): every answer to them is wrong; of them are answered: 0 at 0.9."
    ]
    assert Page(to_page(report, "x")).tables[0][1][-4:] == ["0.0", "–", "not guaranteed", ""]


def test_page_has_a_table_and_two_diagrams_per_language(monkeypatch):
    linker, mentions = sample()
    report = calibrate(linker, mentions, seed=0)
    page = Page(to_page(report, "Index <b> & co"))
    assert page.text_of("h1") == page.text_of("title")[:1] == ["Index <b> & co"]
    names = ["All languages", "Spanish", "Japanese", "xx<&>"]
    assert page.text_of("h2") == [f"{name}, n = {n}" for name, n in zip(names, (600, 200, 200, 200), strict=True)]
    (table,) = page.tables
    assert [row[0] for row in table[1:]] == names
    nil = str(report.rows["all"].without_concept)
    assert table[1][1:5] == ["600", nil, "0", f"{100 * report.rows['all'].right:.1f}"]
    labels = [svg["aria-label"] for svg in page.attributes_of("svg")]
    assert labels == [f"Reliability, risk and coverage: {name}" for name in names]
    monkeypatch.setattr(plots, "is_available", lambda: False)
    bare = Page(to_page(report, "Index <b> & co"))
    assert bare.tables == page.tables
    assert bare.attributes_of("svg") == []


def test_report_of_too_few_mentions_is_an_error():
    linker, mentions = sample(30)
    with pytest.raises(DataError, match="^a calibration needs at least 50 mentions"):
        calibrate(linker, mentions, seed=0)
    linker = TableLinker({"x": []})
    with pytest.raises(DataError, match="found 0, 0 correctly and 0 wrongly"):
        calibrate(linker, build_mentions(["x"], ["es"], [["A"]]), seed=0)
