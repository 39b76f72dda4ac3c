import json
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from xsap.errors import DataError
from xsap.evaluation.calibration_report import (
    answers_of,
    calibrate,
    ece_under_calibration,
    expected_calibration_error,
    measured,
    notes_of,
    page_of,
    reliability,
    report_of,
    share_interval,
    to_text,
)
from xsap.linking.calibration import Calibration, RiskCoverageCurve, codes_of, features_of, fit
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions

SVG = "{http://www.w3.org/2000/svg}"
pairs = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0]) | st.floats(0, 1), st.booleans()),
    min_size=1,
    max_size=60,
)


def candidate(concept_id, score):
    fields = {"concept_id": concept_id, "name": "n", "matched_name": "n", "score": score}
    others = {"language": "en", "source": "s", "semantic_types": (), "codes": (), "confidence": None}
    return Candidate(
        **fields, **{name: value for name, value in others.items() if name in Candidate.__dataclass_fields__}
    )


class TrimmedEmbedding:
    """Answers by mention, out of a table."""

    def __init__(self, answers, concept_ids=("A", "B", "C")):
        self.answers, self.concept_ids, self.asked = answers, concept_ids, []

    def link(self, mentions, top_k, *, languages):
        self.asked.append((list(mentions), top_k, list(languages)))
        return [Result(m, tuple(candidate(*pair) for pair in self.answers[m][:top_k])) for m in mentions]


def naive_bins(confidence, right, bins):
    """A bin ends at each quantile, itself included."""
    edges = [np.quantile(confidence, i / bins) for i in range(1, bins)]
    rows = [[] for _ in range(bins)]
    for c, r in zip(confidence, right, strict=True):
        rows[sum(c > edge for edge in edges)].append((c, r))
    return [(sum(c for c, _ in row) / len(row), sum(r for _, r in row) / len(row), len(row)) for row in rows if row]


@settings(max_examples=100)
@given(rows=pairs, bins=st.integers(1, 15))
def test_bins_and_error_against_a_plain_loop(rows, bins):
    confidence, right = np.array([c for c, _ in rows]), np.array([r for _, r in rows])
    expected = naive_bins(confidence, right, bins)
    found = reliability(confidence, right, bins)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(
        sum(n * abs(m - s) for m, s, n in expected) / len(rows)
    )


def test_an_error_worked_by_hand():
    confidence, right = np.array([0.1, 0.3, 0.8, 0.9]), np.array([False, True, True, False])
    assert expected_calibration_error(confidence, right, 2) == pytest.approx(
        (2 * abs(0.2 - 0.5) + 2 * abs(0.85 - 0.5)) / 4
    )
    assert expected_calibration_error(confidence, right, 1) == pytest.approx(abs(0.525 - 0.5))
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([False, True]), 2) == 0


def test_bins_have_about_as_many_mentions_each():
    confidence = np.random.default_rng(0).random(1000) ** 3
    assert {n for _, _, n in reliability(confidence, confidence > 0.5, 10)} <= {99, 100, 101}


def test_the_error_of_true_probabilities_lies_in_the_range_by_chance():
    """In 95 of 100 worlds or so; where confidences are off by a tenth in none."""
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


@given(n=st.integers(1, 300), share=st.floats(0, 1))
def test_intervals_of_independent_mentions_against_scipy(n, share):
    hits = np.arange(n) < round(share * n)
    theirs = binomtest(int(hits.sum()), n).proportion_ci(0.95, "wilson")
    assert share_interval(hits, np.arange(n)) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("hits", [[True, True, True, False], [True] * 4, [False] * 4])
def test_mentions_that_fall_together_count_once(hits):
    once = share_interval(np.array(hits * 5), np.arange(20))
    twice = share_interval(np.array(hits * 10), np.tile(np.arange(20), 2))
    assert twice == pytest.approx(once)


def test_answers_worked_by_hand():
    linker = TrimmedEmbedding(
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
    answers = answers_of(linker, build_mentions(*map(list, zip(*rows, strict=True))))
    assert linker.asked == [
        (["first", "first", "alone", "either", "gone", "nothing", "  "], 2, ["es", "fr", "es", "ja", "ja", "und", "es"])
    ]
    assert answers.features == pytest.approx(
        features_of(np.array([0.9, 0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0.65, 0.65, np.nan, 0.7, 0.5, 0.25]))
    )
    assert answers.right.tolist() == [True, True, False, True, False, False]
    assert answers.languages == ["es", "fr", "es", "ja", "ja", "und"]
    assert answers.groups == ["A", "A", "A", "B", "Z", "mention nothing"]
    assert answers.without_concept.tolist() == [False, False, False, False, True, True]
    assert (answers.repeated, answers.unlinked) == (2, 1)


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
    return TrimmedEmbedding(answers), build_mentions(*map(list, zip(*rows, strict=True)))


def test_a_calibration_and_its_report():
    linker, mentions = sample()
    calibration, report = calibrate(linker, mentions, seed=0)
    assert list(report["rows"]) == ["all", "es", "ja", "xx<&>"]
    whole = report["rows"]["all"]
    gold = mentions["concept_ids"].to_pylist()
    assert (whole["n"], whole["without_concept"]) == (600, sum(not ids for ids in gold))
    assert sum(report["rows"][code]["n"] for code in ("es", "ja", "xx<&>")) == 600
    right = [linker.answers[m][0][0] in ids for m, ids in zip(mentions["mention"].to_pylist(), gold, strict=True)]
    assert whole["right"] == pytest.approx(np.mean(right))
    assert whole["ece"] < 0.08
    assert whole["bins"][0][1] < whole["bins"][-1][1]
    assert whole["curve"][-1] == pytest.approx([1.0, 1 - np.mean(right)])
    assert len(whole["curve"]) == 100
    assert calibration.curve.right[-1] == sum(right)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    answers = answers_of(linker, mentions)
    left_out = fit(answers.features, answers.right, answers.languages, answers.groups, seed=0)[1]
    assert whole["bins"] == [
        list(row) for row in reliability(left_out, answers.right, 10)
    ]  # not of the fit to these very mentions
    assert calibrate(linker, mentions, seed=0) == (calibration, report)
    assert calibrate(linker, mentions, seed=1)[1] != report


def test_thresholds_are_the_calibrations_and_what_they_keep_is_counted():
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
    answers = answers_of(linker, mentions)
    confidence = np.random.default_rng(0).random(200)
    report = report_of(calibration, confidence, answers, seed=0)
    assert list(report["thresholds"]) == ["0.9", "0.95", "0.98"]
    for name, threshold in report["thresholds"].items():
        assert threshold == calibration.threshold_for(float(name))
        kept = report["rows"]["ja"]["kept"][name]
        given_ = [
            right
            for right, code, c in zip(answers.right, answers.languages, confidence, strict=True)
            if code == "ja" and c >= threshold
        ]
        assert kept["answered"] == len(given_)
        assert kept["coverage"] == pytest.approx(len(given_) / answers.languages.count("ja"))
        assert kept["precision"] == pytest.approx(np.mean(given_))


def test_nothing_answered_and_nothing_promised_are_said():
    right, groups = np.arange(60) < 20, codes_of(map(str, range(60)))
    row = measured(np.linspace(0, 0.5, 60), right, groups, {"0.9": 0.8, "0.95": None}, seed=0)
    assert row["kept"]["0.9"]["answered"] == 0
    assert row["kept"]["0.9"]["precision"] is None
    assert row["kept"]["0.95"] is None
    report = {
        "repeated": 3,
        "unlinked": 1,
        "thresholds": {"0.9": 0.8, "0.95": None},
        "rows": {"all": row | {"without_concept": 0}},
    }
    lines = to_text(report).splitlines()
    assert lines[2].split() == ["all", "60", "0", "33.3", f"{100 * row['ece']:.1f}", *lines[2].split()[-2:]]
    assert lines[5].split() == ["all", "0.0", "–", "not", "promised"]
    assert [line.split(" have ")[0].split(" repeat ")[0] for line in lines[7:9]] == ["3 mentions", "1 mentions"]
    assert lines[9].startswith("Every mention has a concept in the index.")
    assert notes_of(report | {"repeated": 0, "unlinked": 0, "rows": {"all": row | {"without_concept": 1}}}) == []
    assert "–" in page_of(report, "x")


def test_the_page_is_whole_and_alone():
    linker, mentions = sample()
    report = calibrate(linker, mentions, seed=0)[1]
    page = page_of(report, "Index <b> & co")
    tree = ElementTree.fromstring(page)
    assert [heading.text for heading in tree.iter("h2")] == [
        "All languages, n = 600",
        "Spanish, n = 200",
        "Japanese, n = 200",
        "xx<&>, n = 200",
    ]
    assert tree.find("head/title").text == tree.find("body/h1").text == "Index <b> & co"
    assert "http" not in page
    assert "<script" not in page
    drawings = list(tree.iter("svg"))
    assert [len(list(drawing.iter("polyline"))) for drawing in drawings] == [1, 1, 2, 2, 2, 2, 2, 2]
    assert len(list(tree.iter("tbody"))[0]) == 4
    for polyline in tree.iter("polyline"):
        for point in polyline.get("points").split():
            x, y = map(float, point.split(","))
            assert 44 <= x <= 264
            assert 10 <= y <= 230


def test_a_diagrams_points_are_the_bins():
    linker, mentions = sample()
    report = calibrate(linker, mentions, seed=0)[1]
    first = next(ElementTree.fromstring(page_of(report, "x")).iter("svg"))
    (line,) = first.iter("polyline")
    found = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert np.array(found) == pytest.approx(
        np.array([(44 + 220 * m, 230 - 220 * s) for m, s, _ in report["rows"]["all"]["bins"]]), abs=0.06
    )
    assert [circle.find("title").text for circle in first.iter("circle")][0].startswith("60 answers of mean confidence")


def test_too_few_mentions_are_refused():
    linker, mentions = sample(30)
    with pytest.raises(DataError, match="^a calibration needs at least 50 mentions"):
        calibrate(linker, mentions, seed=0)
    linker = TrimmedEmbedding({"x": []})
    with pytest.raises(DataError, match="found 0, 0 rightly and 0 wrongly"):
        calibrate(linker, build_mentions(["x"], ["es"], [["A"]]), seed=0)
