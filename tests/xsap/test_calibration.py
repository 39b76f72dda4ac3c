import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from xsap.errors import ArtifactError, DataError
from xsap.languages import UNKNOWN
from xsap.linking import calibration as module
from xsap.linking.calibration import Calibration, features_of, fit


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


def test_features_worked_by_hand():
    features = features_of(np.array([0.9, 1.0, 0.5, 0.4]), np.array([0.65, 1.0, np.nan, 0.5]))
    assert features == pytest.approx(
        np.array([[0.9, 0.5], [1.0, 0.0], [0.5, 0.0], [0.4, 0.0]])
    )  # a second above the first has no lead


@pytest.mark.parametrize("seed", range(3))
def test_the_regression_against_scikit_learn(seed):
    """With the penalties that ours arrived at; columns are scaled, for scikit-learn has one penalty for all."""
    features, right, languages, _ = world(seed, {"es": 300, "ja": 200, "und": 80, "de": 20}, {"ja": 1.0, "es": -0.5})
    found = fitted(features, right, languages)[0]
    standard = (features - features.mean(0)) / features.std(0) / math.sqrt(0.1)
    one_hot = (
        np.array([[code == known for known in ("de", "es", "ja")] for code in languages], float) * found.odds.spread
    )
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(np.hstack([standard, one_hot]), right)
    ours = found.confidence(features, languages)
    assert ours == pytest.approx(theirs.predict_proba(np.hstack([standard, one_hot]))[:, 1], abs=1e-5)
    assert list(found.odds.corrections) == ["de", "es", "ja"]
    assert list(found.odds.corrections.values()) == pytest.approx(theirs.coef_[0, 2:] * found.odds.spread, abs=1e-4)


def test_the_spread_is_the_one_that_corrections_and_their_uncertainty_give():
    features, right, languages, _ = world(1, {"es": 300, "ja": 200, "tr": 100}, {"ja": 0.8, "tr": -0.8})
    odds = fitted(features, right, languages)[0].odds
    design = np.hstack(
        [
            np.ones((600, 1)),
            (features - odds.centre) / odds.scale,
            [[c == k for k in ("es", "ja", "tr")] for c in languages],
        ]
    ).astype(float)
    share = odds.confidence(features, languages)
    hessian = sum(p * (1 - p) * np.outer(row, row) for p, row in zip(share, design, strict=True))
    hessian += np.diag([0, 0.1, 0.1, *[1 / odds.spread**2] * 3])
    uncertain = np.diag(np.linalg.inv(hessian))[3:]
    expected = (sum(u**2 for u in odds.corrections.values()) + uncertain.sum() + 2 * 0.3**2) / 5
    assert odds.spread**2 == pytest.approx(expected, rel=1e-3)


def test_a_language_moves_as_far_as_its_mentions_carry_it():
    """The same odds, 2 below the others', told by 20 mentions and by 3,000."""
    moved = {}
    for n in (20, 3000):
        moved[n] = []
        for seed in range(8):
            features, right, languages, _ = world(
                seed, {"es": 1500, "fr": 1500, "ja": 1500, "zh": 1500, "tr": n}, {"tr": -2.0}
            )
            moved[n].append(fitted(features, right, languages)[0].odds.corrections["tr"])
    assert -0.75 < np.mean(moved[20]) < 0
    assert np.mean(moved[3000]) < -1.4
    assert min(moved[20]) > max(moved[3000])


def test_a_language_not_seen_gets_the_pooled_confidence(calibration):
    features = features_of(np.array([0.8, 0.7]), np.array([0.6, 0.69]))
    pooled = calibration.confidence(features)
    for languages in ([None, None], ["sw", "th"], [UNKNOWN, UNKNOWN]):
        assert calibration.confidence(features, languages).tolist() == pooled.tolist()
    assert UNKNOWN not in calibration.odds.corrections
    assert calibration.confidence(features, ["es", "ja"]).tolist() != pooled.tolist()


def test_a_single_language_needs_no_correction():
    features, right, languages, _ = world(0, {"es": 500})
    assert fitted(features, right, languages)[0].odds.corrections["es"] == pytest.approx(0, abs=1e-6)


@settings(max_examples=200)
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


def test_where_a_higher_score_is_a_worse_sign_the_score_says_nothing():
    features, right, languages, _ = world(0, {"es": 800}, weights=(-2.0, 1.0))
    odds = fitted(features, right, languages)[0].odds
    assert odds.weights[0] == 0
    assert odds.weights[1] > 0
    features, right, languages, _ = world(0, {"es": 800}, weights=(-2.0, -1.0))
    found = fitted(features, right, languages)[0]
    assert found.odds.weights == (0, 0)
    assert found.confidence(features) == pytest.approx(np.full(800, right.mean()), abs=1e-6)


def test_confidences_are_the_probabilities_that_they_say():
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
    assert np.isfinite([*found.odds.weights, found.odds.intercept, *left_out]).all()
    constant = features_of(np.full(100, 0.7), np.full(100, 0.6))
    found, _ = fitted(constant, np.arange(100) < 50, ["es"] * 100)
    assert found.confidence(constant) == pytest.approx(np.full(100, 0.5), abs=1e-6)


def test_newton_finds_the_minimum_from_afar():
    """A full step from there leads upwards and away."""
    rng = np.random.default_rng(0)
    design = np.hstack([np.ones((200, 1)), rng.normal(size=(200, 2))])
    right = rng.random(200) < 1 / (1 + np.exp(-design @ [0.5, 2.0, -1.0]))
    penalty = np.array([0.0, 0.1, 0.1])
    near, _ = module._newton(design, right, penalty, np.zeros(3))
    theirs = LogisticRegression(C=10, tol=1e-10).fit(design[:, 1:], right)
    assert near == pytest.approx(np.concatenate([theirs.intercept_, theirs.coef_[0]]), abs=1e-4)
    for start in ([6.0, -6.0, 6.0], [-3.0, 8.0, 3.0], [10.0, 0.0, 0.0]):
        assert module._newton(design, right, penalty, np.array(start))[0] == pytest.approx(near, abs=1e-5)


def test_each_mention_is_judged_by_a_fit_that_it_was_not_in(monkeypatch):
    features, right, languages, _ = world(3, {"es": 120, "ja": 83})
    seen, original = [], module._fitted

    def watched(features, right, codes):
        seen.append(({tuple(row) for row in features}, original(features, right, codes), right.mean()))
        return seen[-1][1]

    monkeypatch.setattr(module, "_fitted", watched)
    found, left_out = fitted(features, right, languages)
    *parts, (everything, odds, _) = seen
    assert everything == {tuple(row) for row in features}
    assert found.odds is odds
    for row, code, confidence in zip(features, languages, left_out, strict=True):
        outside = [odds for inside, odds, _ in parts if tuple(row) not in inside]
        assert len(outside) == 1
        assert outside[0].confidence(row[None, :], [code])[0] == pytest.approx(confidence)
    assert [share for _, _, share in parts] == pytest.approx(
        [right.mean()] * 5, abs=0.01
    )  # each part has its share of right ones
    assert (found.curve.answered[-1], found.curve.right[-1]) == (203, right.sum())


def test_a_fit_is_a_function_of_its_seed():
    features, right, languages, _ = world(4, {"es": 200, "ja": 100})
    (one, first), (same, again), (_, other) = (fitted(features, right, languages, seed=seed) for seed in (7, 7, 8))
    assert one == same
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(("n", "hits"), [(49, 25), (100, 9), (100, 91), (100, 0), (100, 100), (0, 0)])
def test_too_few_mentions_are_refused(n, hits):
    features = features_of(np.linspace(0.2, 0.9, n), np.zeros(n))
    with pytest.raises(
        DataError,
        match=rf"^a calibration needs at least 50 mentions, .* found {n}, {hits} rightly and {n - hits} wrongly\. Take",
    ):
        fitted(features, np.arange(n) < hits, ["es"] * n)


def test_the_least_is_enough():
    features = features_of(np.linspace(0.2, 0.9, 50), np.zeros(50))
    assert fitted(features, np.arange(50) < 10, [None] * 50)[0].odds.corrections == {}


def test_without_candidates_there_is_no_confidence(calibration):
    assert np.isnan(calibration.confidence(np.array([[np.nan, 0.0]]))).all()
    assert len(calibration.confidence(np.zeros((0, 2)), [])) == 0


def test_a_promise_is_the_curves(calibration):
    assert calibration.threshold_for(0.8) == calibration.curve.threshold_for(0.8)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 1000),
    sizes=st.dictionaries(st.sampled_from(["es", "ja", "tr", "und"]), st.integers(60, 300), min_size=1),
)
def test_json_gives_the_same_calibration_again(seed, sizes):
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


def test_every_missing_strange_or_added_entry_is_refused(calibration):
    data = calibration.to_dict()
    assert Calibration.from_dict(json.loads(json.dumps(data))) == calibration
    damaged = []
    for path in paths(data):
        damaged += [
            changed(data, path, value)
            for value in (None, "1", True, [], {"a": "b"}, math.nan, math.inf, [math.nan, 1.0])
        ]
        if path[:2] != ("odds", "corrections") or len(path) == 2:  # one language more or less is no fault
            damaged += [changed(data, path, removed=True), changed(data, path, 1.0, added="_")]
    assert len(damaged) > 150
    for each in damaged:
        with pytest.raises(
            ArtifactError,
            match=r"^(not a readable calibration: |expected a calibration of format 1, found ).*xsap calibrate$",
        ):
            Calibration.from_dict(each)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("odds", "scale"), [0.0, 1.0]),
        (("odds", "weights"), [1.0, -1e-9]),
        (("odds", "spread"), -0.1),
        (("odds", "centre"), [1.0, 2.0, 3.0]),
        (("odds", "intercept"), "0"),
        (("curve", "threshold"), [0.5]),
        (("curve", "answered"), [1.5]),
        (("format",), 2),
        (("format",), None),
    ],
)
def test_numbers_that_can_not_be_are_refused(calibration, path, value):
    with pytest.raises(ArtifactError, match="make it again: xsap calibrate$"):
        Calibration.from_dict(changed(calibration.to_dict(), path, value))


@pytest.mark.parametrize(
    "data", [None, [], "x", 3, {}, {"format": 1}, {"format": 1, "odds": 3, "curve": object()}, {"format": True}]
)
def test_what_is_no_calibration_at_all(data):
    with pytest.raises(ArtifactError) as caught:
        Calibration.from_dict(data)
    assert "\n" not in str(caught.value)


def test_the_message_names_the_place(calibration):
    broken = changed(calibration.to_dict(), ("odds", "intercept"), "high")
    with pytest.raises(
        ArtifactError,
        match=r"^not a readable calibration: odds\.intercept: Input should be a valid number; make it again",
    ):
        Calibration.from_dict(broken)
