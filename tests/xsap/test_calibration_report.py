"""Reports on calibrations: measures against plain loops and scipy, and pages and tables read back."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.fixtures.examples import examples
from tests.fixtures.html_page import Page
from tests.fixtures.table_linker import TableLinker
from xsap import plots
from xsap.errors import DataError
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
from xsap.linking.calibration import Calibration, RiskCoverageCurve, codes_of, fit
from xsap.terms.mentions import build_mentions

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


def test_too_few_mentions_are_an_error():
    linker, mentions = sample(30)
    with pytest.raises(DataError, match="^a calibration needs at least 50 mentions"):
        calibrate(linker, mentions, seed=0)
    linker = TableLinker({"x": []})
    with pytest.raises(DataError, match="found 0, 0 correctly and 0 wrongly"):
        calibrate(linker, build_mentions(["x"], ["es"], [["A"]]), seed=0)
