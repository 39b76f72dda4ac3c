"""Broader answers: what is proposed, when it is given, and how its precision is measured, against plain loops."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.builds import Ngrams
from tests.fixtures.dictionaries import terminology_of_rows
from xsap.errors import ConfigError
from xsap.evaluation.broader_answers import broader_text, evaluate_broader
from xsap.evaluation.tuning import CalibrationSample, fit_broader, fit_calibration
from xsap.exchange.linked_table import find_term_columns, read_linked
from xsap.exchange.mapping import CROSSWALK, Equivalence
from xsap.linking import broader as module
from xsap.linking.broader import CLOSE, MAX_STEPS, RIGHT_STEPS, BroaderAnswers, BroaderFinder
from xsap.linking.calibration import BroaderCalibration, Calibration, RiskCoverageCurve, features_of
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.linking.logistic import LogisticModel
from xsap.linking.ranking import Filter, apply_filter
from xsap.linking.results import Candidate, Result
from xsap.server.link_queue import LinkQueue
from xsap.server.link_route import read_link_body
from xsap.tabular.link_file import link_file
from xsap.tabular.readers import open_table, table_of_terms
from xsap.tabular.writers import OutputFormat
from xsap.terms.concept_details import RELATIONS_SCHEMA
from xsap.terms.mentions import build_mentions

COLORS = ["red", "blue", "green", "white"]


def related(rows, pairs):
    term = terminology_of_rows([(*row, "S", None) for row in rows], [(row[0], "T1") for row in rows])
    table = pa.Table.from_pylist([{"concept_id": a, "parent_id": b} for a, b in pairs], RELATIONS_SCHEMA)
    return term.with_details(relations=table)[0]


@pytest.fixture
def term():
    """Two kinds of rash in colors below `rash`, which is below `anything`, and a fever without parents."""
    rows = [("A", "en", "anything"), ("R", "en", "rash"), ("F", "en", "fever")]
    rows += [(f"R{i}", "en", f"{color} rash") for i, color in enumerate(COLORS)]
    return related(rows, [("R", "A"), *((f"R{i}", "R") for i in range(4))])


def model(intercept=0.0, weight=0.0):
    return LogisticModel((0.0, 0.0), (1.0, 1.0), (weight, 0.0), intercept, {}, 0.3)


CURVE = RiskCoverageCurve((0.9,), (100,), (95,), (0.9,), (1.0,))


def calibrated(term, *, first=-9.0, broader=9.0, sample=((0.1,), (0.99,), (True,), (0,))):
    """A linker that is sure of no first candidate, and of every broader answer."""
    calibration = Calibration(model(first), CURVE, BroaderCalibration(model(broader), *sample))
    return Linker(Ngrams(), replace(Index.build(term, Ngrams()), calibration=calibration))


def test_the_answer_is_the_concept_above_the_close_candidates(term):
    linker = calibrated(term)
    plain = linker.link("pink rash", 3, min_confidence=0.5)
    found = linker.link("pink rash", 3, min_confidence=0.5, broader=True)
    assert (plain.candidates, len(plain.uncertain)) == ((), 3)
    answer, *others = found.candidates
    assert (answer.concept_id, answer.name, answer.match, found.reason, found.uncertain) == ("R", "rash", "broader", None, ())  # fmt: skip
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(-9.0)))
    assert answer.matched_name in {"rash", *(f"{color} rash" for color in COLORS)}
    assert [each.concept_id for each in others] == [c.concept_id for c in plain.uncertain if c.concept_id != "R"][:2]


def test_without_a_certain_broader_answer_the_result_is_as_before(term):
    linker = calibrated(term, broader=-9.0)
    options = {"min_confidence": 0.5, "languages": ["en", None, "en"]}
    mentions = ["pink rash", " ", "fever"]
    assert linker.link(mentions, 2, broader=True, **options) == linker.link(mentions, 2, **options)


def test_a_certain_first_candidate_stays_the_answer(term):
    linker = calibrated(term, first=9.0)
    assert linker.link(["pink rash"], 2, min_confidence=0.5, broader=True) == linker.link(["pink rash"], 2, min_confidence=0.5)  # fmt: skip


def test_a_concept_that_the_filter_leaves_out_is_no_answer(term):
    linker = calibrated(term)
    wanted = {"concepts": ["R0", "R1", "R2", "R3"]}
    result = linker.link("pink rash", 2, min_confidence=0.5, broader=True, filter=wanted)
    assert result.candidates == ()
    wanted["concepts"].append("R")
    result = linker.link("pink rash", 2, min_confidence=0.5, broader=True, filter=wanted)
    assert [each.concept_id for each in result.candidates][0] == "R"


def test_a_concept_above_too_many_is_no_answer(term, monkeypatch):
    monkeypatch.setattr(module, "MIN_BELOW", 3)
    assert calibrated(term).link("pink rash", 2, min_confidence=0.5, broader=True).candidates == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "found neither min_confidence nor min_precision"),
        (
            {"min_precision": 0.3},
            "broader answers: the 1 mentions of the calibration can't guarantee a precision of 0.3",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(term, options, message):
    with pytest.raises(ConfigError, match=message):
        calibrated(term).link("pink rash", broader=True, **options)


def test_an_index_without_relations_or_calibration_is_refused(term):
    linker = calibrated(term)
    bare = replace(linker.index, dictionary=replace(linker.index.dictionary, details=None))
    with pytest.raises(ConfigError, match="need relations between concepts"):
        Linker(Ngrams(), bare).link("x", broader=True, min_confidence=0.5)
    old = replace(linker.index, calibration=replace(linker.index.calibration, broader=None))
    with pytest.raises(ConfigError, match="need a calibration of their own"):
        Linker(Ngrams(), old).link("x", broader=True, min_confidence=0.5)


def candidate(concept_id, score):
    return Candidate(concept_id, concept_id, concept_id, score)


graphs = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=2 * n),
        st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True),
    )
)


@given(graphs)
def test_what_is_proposed_follows_from_the_definition(graph):
    n, pairs, order = graph
    pairs = [(max(pair), min(pair)) for pair in pairs if len(set(pair)) == 2]
    if not pairs:
        return
    index = Index.build(related([(f"C{i}", "en", f"name {i}") for i in range(n)], [(f"C{a}", f"C{b}") for a, b in pairs]), Ngrams())  # fmt: skip
    finder = BroaderFinder.of_index(index)
    candidates = [candidate(f"C{i}", 1 - rank / 10) for rank, i in enumerate(order)]
    hierarchy, wanted = index.dictionary.details.hierarchy, None
    for count in range(min(CLOSE, len(order)), 1, -1):
        wanted = hierarchy.lowest_common_ancestor(order[:count], MAX_STEPS)
        if wanted is not None:
            break
    found = finder.find(candidates)
    assert (found and found.concept) == wanted
    if found is not None:
        below = [each for i, each in zip(order, candidates, strict=True) if wanted in hierarchy.ancestors(i, MAX_STEPS)]
        assert found.nearest is below[0]
        assert found.other == next((each.score for each in candidates if each not in below), candidates[-1].score)


def sample_of(n, seed):
    rng = np.random.default_rng(seed)
    first, confidence = rng.random(n), rng.random(n)
    return first, confidence, rng.random(n) < confidence, rng.integers(0, n // 2, n)


def test_a_guarantee_is_that_of_the_mentions_without_another_answer():
    first, confidence, right, groups = sample_of(4000, 1)
    right[first >= 0.5] = True  # where there is another answer, this one would be right, too
    found = BroaderCalibration(model(), *(tuple(column.tolist()) for column in (first, confidence, right, groups)))
    part = first < 0.5
    wanted = RiskCoverageCurve.from_sample(confidence[part], right[part], [str(g) for g in groups[part].tolist()])
    assert found.threshold_for(0.8, below=0.5) == wanted.threshold_for(0.8)
    assert found.threshold_for(0.8, below=0.5) > found.threshold_for(0.8, below=1.1)
    with pytest.raises(ConfigError, match="no mention of the calibration has a broader answer"):
        found.threshold_for(0.8, below=0.0)


def test_a_calibration_is_stored_with_broader_answers_and_without():
    columns = (tuple(column.tolist()) for column in sample_of(20, 2))
    complete = Calibration(model(), CURVE, BroaderCalibration(model(1.0), *columns))
    plain = replace(complete, broader=None)
    for one in (complete, plain):
        assert Calibration.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert "broader" not in plain.to_dict()


class Families:
    """300 families of concepts, each a parent with three children, whose names are near each other."""

    def __init__(self):
        families = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdgkm"]
        self.ids = {family: f"P{i:03}" for i, family in enumerate(families)}
        rows = [(concept, "en", f"{family * 3} syndrome") for family, concept in self.ids.items()]
        rows += [(f"{c}.{j}", "en", f"{family * 3} syndrome {kind}") for family, c in self.ids.items() for j, kind in enumerate(["acute", "late", "mild"])]  # fmt: skip
        self.term = related(rows, [(f"{c}.{j}", c) for c in self.ids.values() for j in range(3)])
        rng = np.random.default_rng(0)
        families = [families[i] for i in rng.permutation(len(families))]
        wrong = [families[i] for i in rng.permutation(len(families))]
        texts = [f"{family * 3} syndrom {['acuute', 'late'][i % 2]}" for i, family in enumerate(families)]
        gold = [[f"{self.ids[family if i % 3 else other]}.{i % 2}"] for i, (family, other) in enumerate(zip(families, wrong, strict=True))]  # fmt: skip
        self.mentions = build_mentions(texts, ["en"] * len(texts), gold)


@pytest.fixture(scope="module")
def families():
    return Families()


def test_a_calibration_is_fitted_and_scored_as_a_plain_loop_does(families, tmp_path):
    index = Index.build(families.term, Ngrams(), model_path=tmp_path / "model")
    linker = Linker(Ngrams(), index)
    calibration, first, sample = fit_calibration(linker, families.mentions, seed=0)
    broader = calibration.broader
    finder = BroaderFinder.of_index(index)
    rows = [i for i, candidates in enumerate(sample.candidates) if finder.find(candidates)]
    parents = {f"{c}.{j}": c for c in families.ids.values() for j in range(3)}
    ids = index.concepts["concept_id"].to_pylist()
    for row, right, confidence in zip(rows, broader.right, broader.first, strict=True):
        found = ids[finder.find(sample.candidates[row]).concept]
        assert right == any(found in (gold, parents.get(gold)) for gold in sample.gold[row])
        assert confidence == first[row]
    index.save(tmp_path / "index")
    linker = Linker(Ngrams(), Index.load(tmp_path / "index").with_calibration(calibration))
    assert linker.index.calibration == calibration
    limit = float(np.median(broader.confidence))
    report = evaluate_broader(linker, families.mentions, min_confidence=limit)
    texts, gold = (families.mentions[name].to_pylist() for name in ("mention", "concept_ids"))
    results = linker.link(texts, 1, languages=["en"] * len(texts), min_confidence=limit, broader=True)
    answers = [(result.candidates[0], ids) for result, ids in zip(results, gold, strict=True) if result.candidates]
    given = [(each, ids) for each, ids in answers if each.match == "broader"]
    assert (report.n, report.broader.n, report.answered.n) == (300, len(given), len(answers) - len(given))
    assert report.broader.right == sum(any(c.concept_id in (g, parents.get(g)) for g in ids) for c, ids in given)
    assert report.exact == sum(c.concept_id in ids for c, ids in given)
    assert report.unlinked == 300 - len(answers)
    assert 0 < report.broader.n < 300
    assert f"linked to a broader concept, up to {RIGHT_STEPS} steps above: {len(given)}" in broader_text(report)


def test_mentions_without_a_concept_in_the_index_count_as_wrong(term):
    mentions = build_mentions(["pink rash", "pink rash", "grey rash"], ["en"] * 3, [["R1"], [], ["X"]])
    report = evaluate_broader(calibrated(term), mentions, min_confidence=0.5)
    assert (report.broader.n, report.broader.right, report.broader.without_concept, report.exact) == (3, 1, 2, 0)
    assert "2 without a concept in the index, counted as wrong" in broader_text(report)


def test_too_few_mentions_give_no_calibration_of_broader_answers(term, caplog):
    linker = calibrated(term)
    candidates = [linker.link("pink rash", 10).candidates]
    sample = CalibrationSample(features_of(np.ones(1), np.ones(1)), np.ones(1, bool), ["en"], ["R1"], np.zeros(1, bool), np.zeros(1, bool), 0, 0, candidates, [("R1",)])  # fmt: skip
    assert fit_broader(BroaderFinder.of_index(linker.index), sample, np.zeros(1), seed=0) is None
    assert "no calibration of broader answers" in caplog.text


def test_a_linked_table_has_the_broader_concept_as_a_wider_one(term, tmp_path):
    for wide in (False, True):
        out = tmp_path / f"{wide}.csv"
        counts = link_file(
            calibrated(term),
            table_of_terms(["pink rash", "red rash", "?"], "x"),
            out,
            OutputFormat("csv", 2, wide),
            column="mention",
            options={"min_confidence": 0.5, "broader": True},
        )
        assert counts.summary().startswith("3 rows, 3 distinct mentions, 2 linked")
        assert "2 of those linked to a broader concept" in counts.summary()
        table = open_table(out)
        first, *_ = read_linked(table, find_term_columns(table, {}))
        assert (first.targets[0].concept_id, first.equivalence) == ("R", Equivalence.WIDER)
        words = CROSSWALK[first.equivalence]
        assert (words.predicate, words.usagi, words.r5) == (
            "skos:broadMatch",
            "WIDER",
            "source-is-narrower-than-target",
        )


def test_answers_are_deterministic_and_leave_a_result_without_candidates_alone(term):
    linker = calibrated(term)
    kept = apply_filter(linker.index.dictionary, Filter())
    answers = BroaderAnswers(linker.index, kept, 0.5, None)
    nothing = Result("x", (), "no term")
    assert answers.complete(nothing, "en", 3) == nothing
    results = [linker.link(["grey rash", "pink rash"], 4, min_confidence=0.5, broader=True) for _ in range(2)]
    assert results[0] == results[1]


def test_the_service_takes_the_argument(term):
    request = read_link_body({"mentions": ["pink rash"], "min_confidence": 0.5, "broader": True}, 10)
    queue = LinkQueue(calibrated(term), max_batch=8, max_waiting=8)
    try:
        (result,) = queue.submit([request])[0].result(timeout=60)
    finally:
        queue.close()
    assert result.candidates[0].match == "broader"
    assert not read_link_body({"mentions": ["x"]}, 10).options.broader


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--broader"], "--broader needs --min-confidence or --min-precision"),
        (["--min-precision", "0.9"], "--min-precision needs --broader"),
        (["--broader", "--min-confidence", "0.5", "--protocol", "reference"], "--broader needs --protocol concept"),
    ],
)
def test_evaluate_refuses_options_that_do_not_belong_together(run_here, tmp_path, words, message):
    done = run_here("-m", "xsap", "evaluate", tmp_path / "m.tsv", "--index", tmp_path / "i", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
