"""The two evaluation protocols on small cases worked by hand."""

import itertools

import numpy as np
import pytest

from xsap.errors import DataError
from xsap.evaluation.metrics import bootstrap_interval
from xsap.evaluation.protocols import (
    ReferenceDictionary,
    RiskCoverage,
    evaluate,
    evaluate_reference,
    read_queries,
    to_text,
)
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions
from xsap.text import TextPolicy


class Answers:
    """Links by a table: mention → concept ids, best first."""

    def __init__(self, answers, concept_ids):
        self.answers, self.concept_ids = answers, concept_ids

    def link(self, mentions, top_k, *, languages):
        assert len(languages) == len(mentions)
        return [Result(m, tuple(Candidate(c, c, c, 0.5) for c in self.answers.get(m, [])[:top_k])) for m in mentions]


class Scores:
    """Encodes each known name as a unit vector of its own, and a query as its scores with each name, not scaled to unit length."""

    def __init__(self, names, queries):
        self.names, self.queries, self.encoded = names, queries, []

    def encode(self, names, *, unit, policy, progress=False):
        assert unit is False
        assert policy == TextPolicy("cased", "none")
        self.encoded += names
        eye = np.eye(len(self.names), dtype=np.float32)
        return np.array([eye[self.names.index(n)] if n in self.names else self.queries[n] for n in names], np.float32)


def test_concept_protocol_matches_scores_worked_by_hand():
    mentions = build_mentions(
        ["a", "b", "c", "d", "e", "f"],
        ["de", "de", "de", "es", "es", "es"],
        [["C1"], ["C2"], ["C9", "C3"], ["C1"], ["X"], []],
    )
    answers = {
        "a": ["C1"],
        "b": ["C1", "C2"],
        "c": ["C4", "C5", "C6", "C7", "C8", "C3"],
        "d": ["C2"],
        "e": ["C1"],
        "f": ["C1"],
    }
    report = evaluate(Answers(answers, [f"C{i}" for i in range(1, 9)]), mentions).to_dict()
    assert (report["protocol"], report["k"], list(report["languages"])) == ("concept", 10, ["de", "es"])
    german, spanish, mean = report["languages"]["de"], report["languages"]["es"], report["mean"]
    assert [german[key] for key in ("n", "gold_not_in_dictionary", "acc@1", "acc@5", "acc@10")] == pytest.approx(
        [3, 0, 1 / 3, 2 / 3, 1]
    )
    assert german["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 6) / 3)
    assert [spanish[key] for key in ("n", "gold_not_in_dictionary", "acc@1", "acc@5", "mrr")] == [2, 1, 0, 0, 0]
    assert [mean[key] for key in ("n", "gold_not_in_dictionary", "acc@1", "acc@5")] == pytest.approx(
        [5, 1, 1 / 6, 1 / 3]
    )
    assert mean["mrr"] == pytest.approx(german["mrr"] / 2)
    assert german["acc@1_interval"] == list(bootstrap_interval([np.array([1.0, 0.0, 0.0])], seed=0))
    assert mean["acc@1_interval"] == list(bootstrap_interval([np.array([1.0, 0.0, 0.0]), np.zeros(2)], seed=0))
    assert report["without_concept"] == {
        "n": 1,
        "linked": 1,
        "unlinked": 0,
        "languages": {"es": {"n": 1, "linked": 1, "unlinked": 0}},
    }


def reference(dictionary, scores, *queries):
    """dictionary: (ids, name). scores: query → its score with each distinct lower-cased name. queries: (mention, ids)."""
    names = list(dict.fromkeys(name.lower() for _, name in dictionary))
    encoder = Scores(names, scores)
    rows = ReferenceDictionary([ids for ids, _ in dictionary], [name for _, name in dictionary])
    mentions = build_mentions([m for m, _ in queries], ["und"] * len(queries), [ids.split("|") for _, ids in queries])
    report = evaluate_reference(encoder, rows, mentions).to_dict()
    return [round(report["mean"][f"acc@{k}"] * len(queries)) for k in range(1, 11)], report, encoder


def test_reference_protocol_counts_names_and_lower_cases_the_dictionary_only():
    dictionary = [("D1", "Cold"), ("D1", "Common Cold"), ("D2", "FLU"), ("D3", "fever")]
    hits, report, encoder = reference(dictionary, {"Flu": [4, 3, 2, 1]}, ("Flu", "D2"))
    assert hits == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]  # two names of one wrong concept come first, and each counts
    assert encoder.encoded == ["cold", "common cold", "flu", "fever", "Flu"]
    assert report["protocol"] == "reference"


def test_reference_protocol_counts_ten_names():
    dictionary = [(f"D{i}", f"name {i}") for i in range(12)]
    falling = list(range(12, 0, -1))
    assert reference(dictionary, {"q": falling}, ("q", "D9"))[0] == [0] * 9 + [1]
    assert reference(dictionary, {"q": falling}, ("q", "D10"))[0] == [0] * 10


def test_composite_counts_when_all_its_parts_are_hit():
    dictionary = [("D1", "breast"), ("D2", "ovarian cancer"), ("D3", "lung")]
    scores = {"breast cancer": [3, 2, 1], " ovary": [1, 2, 3], "z": [1, 2, 3]}
    whole = ("breast cancer+ ovary", "D1+D2")
    assert reference(dictionary, scores, whole)[0][:3] == [
        0,
        1,
        1,
    ]  # the parts are right at the first and the second name
    assert reference(dictionary, scores, ("breast cancer| ovary", "D1|D2"))[0][:3] == [0, 1, 1]
    assert reference(dictionary, scores, ("breast cancer+z", "D1"))[0][:3] == [0, 0, 1]


def test_row_is_right_if_it_shares_an_id_with_the_gold():
    dictionary = [("D1|D7", "a"), ("D2+D8", "b"), ("D3", "c")]
    for ids, first in [("D7", 1), ("D8", 2), ("D8+D3", 2), ("D9|D3", 3), ("D", 0)]:
        hits = reference(dictionary, {"q": [3, 2, 1]}, ("q", ids), ("c", "D3"))[0]
        assert hits[:3] == [int(0 < first <= k) + 1 for k in (1, 2, 3)]  # and the name itself, first


def test_duplicate_rows_are_kept_and_ties_go_to_the_first():
    dictionary = [("D1", "Cold"), ("D2", "cold"), ("D1", "COLD"), ("D3", "flu")]
    assert reference(dictionary, {"q": [2, 1]}, ("q", "D2"))[0][:4] == [0, 1, 1, 1]
    assert reference(dictionary, {"q": [2, 1]}, ("q", "D3"))[0][:5] == [0, 0, 0, 1, 1]
    assert reference(dictionary, {"q": [0, 0]}, ("q", "D3"))[0][:4] == [0, 0, 0, 1]
    assert reference(dictionary, {"q": [2, 1]}, ("q", "D9"), ("q", "D1"))[1]["mean"]["gold_not_in_dictionary"] == 1


def test_id_mention_lines_are_recognized_by_content(tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text("D1|D2||b+c\nD3||a\tx\n")
    assert read_queries(file).select(["mention", "language", "concept_ids"]).to_pylist() == [
        {"mention": "b+c", "language": "und", "concept_ids": ["D1", "D2"]},
        {"mention": "a\tx", "language": "und", "concept_ids": ["D3"]},
    ]
    file.write_text("D1 | D2 ||b+c\n")
    assert read_queries(file)["concept_ids"].to_pylist() == [["D1", "D2"]]
    file = tmp_path / "queries.tsv"
    file.write_text("mention\tlanguage\tconcept_ids\nfiebre\tes\tC1| C2\n")
    assert read_queries(file)["concept_ids"].to_pylist() == [["C1", "C2"]]


def test_dictionary_file_keeps_order_and_duplicates(tmp_path):
    (tmp_path / "dict.txt").write_text("D2||B\nD1||a\nD2||B\n")
    dictionary = ReferenceDictionary.read(tmp_path / "dict.txt")
    assert dictionary == (["D2", "D1", "D2"], ["B", "a", "B"])
    assert dictionary.metadata() == {"names": 3, "concepts": 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "q.tsv",
            "mention\tlanguage\nfiebre\tes\n",
            "expected mentions with their gold concepts.*--column concept_ids=",
        ),
        ("q.tsv", "mention\tconcept_ids\nfiebre\t | \n", "expected mentions with their gold concepts"),
        ("q.txt", "D1||a\nD2\n", "q.txt:2: expected id||name, found 1 field"),
        ("q.txt", "D1||a\nD2||\n", "q.txt:2: expected id||name, found 2 field.*1 of them not empty"),
        ("q.csv", "", "q.csv: expected .* an empty file"),
        ("q.csv", "mention,concept_ids\n", "found none"),
    ],
)
def test_files_without_gold_concepts_are_an_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message.replace("||", r"\|\|")):
        read_queries(tmp_path / name)


def test_queries_are_read_with_other_headers(tmp_path):
    (tmp_path / "q.csv").write_text("Diagnose,Code\nFieber,C1 | C2\n")
    found = read_queries(tmp_path / "q.csv", columns={"mention": "Diagnose", "concept_ids": "Code"})
    assert found.select(["mention", "concept_ids"]).to_pylist() == [{"mention": "Fieber", "concept_ids": ["C1", "C2"]}]


def test_text_table_has_a_row_per_language():
    mentions = build_mentions(["a", "b"], ["de", "es"], [["C1"], ["C2"]])
    lines = to_text(evaluate(Answers({"a": ["C1"]}, ["C1", "C2"]), mentions)).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["de", "es", "mean"]
    assert lines[2].split() == ["de", "1", "0", "100.0", "[100.0,", "100.0]", "100.0", "[100.0,", "100.0]", "100.0"]


def test_risk_and_coverage_are_those_of_the_surest_answers_first():
    """By score, or by confidence where all answers have one; a mention without a concept (NIL) counts, one without an answer does not."""
    rng = np.random.default_rng(1)
    scores, confidences = rng.random(40).tolist(), rng.random(40).tolist()
    right = rng.random(40) < 0.6
    gold = [["C1"] if hit else [] if i % 3 else ["C2"] for i, hit in enumerate(right)]
    for calibrated in (False, True):
        best = [
            Candidate("C1", "a", "a", s, confidence=c if calibrated else None)
            for s, c in zip(scores, confidences, strict=True)
        ]
        answers = [Result("m", (each,)) for each in best]
        found = RiskCoverage.from_answers([*answers, Result("m", (), "blank")], [*gold, ["C1"]])
        order = sorted(range(40), key=lambda i: -(confidences if calibrated else scores)[i])
        risks = [np.mean([not right[i] for i in order[:n]]) for n in range(1, 41)]
        assert (found.by, found.n) == ("confidence" if calibrated else "score", 40)
        assert found.area == pytest.approx(np.mean(risks))
        assert [coverage for coverage, _ in found.curve] == [step / 20 for step in range(1, 21)]
        assert [risk for _, risk in found.curve] == pytest.approx([risks[2 * step - 1] for step in range(1, 21)])
    assert RiskCoverage.from_answers([Result("m", (), "blank")], [["C1"]]) is None


def test_text_shows_risk_and_coverage():
    mentions = build_mentions(list("abcd"), ["de"] * 4, [["C1"], ["C1"], ["C2"], ["C2"]])
    report = evaluate(Answers({"a": ["C1"], "b": ["C1"], "c": ["C1"]}, ["C1", "C2"]), mentions)
    lines = to_text(report).splitlines()
    assert lines[-3] == "risk and coverage of 3 answers, the most certain first by score; area under the curve 33.3"
    assert lines[-2].split() == ["answered", "25.0", "50.0", "75.0", "90.0", "100.0"]
    assert lines[-1].split() == ["wrong"] + ["33.3"] * 5  # all scores are equal
    assert report.to_dict()["risk_coverage"]["n"] == 3


def test_mentions_without_a_concept_change_no_score_and_are_counted_by_language():
    """Scores with NIL mentions among them equal those without, whatever is answered to them."""
    rng = np.random.default_rng(0)
    ids = [f"C{i}" for i in range(4)]
    rows = [(f"m{i}", ("de", "es", "xx")[i % 3], [ids[rng.integers(4)]]) for i in range(60)]
    nil = [(f"n{i}", ("de", "ja")[i % 2], []) for i in range(9)]
    answers = {mention: [ids[rng.integers(4)]] for mention, _, _ in rows} | {f"n{i}": ["C1"] for i in range(5)}
    mixed = [row for pair in itertools.zip_longest(rows, nil) for row in pair if row]
    whole, part = (
        evaluate(Answers(answers, ids), build_mentions(*map(list, zip(*each, strict=True)))) for each in (mixed, rows)
    )
    assert (whole.languages, whole.mean) == (part.languages, part.mean)
    assert whole.without_concept == {"de": (5, 3, 2), "ja": (4, 2, 2)}
    assert part.without_concept == {}
    last = to_text(whole).splitlines()[-1]
    assert last.startswith(
        "without a concept (NIL), not in the scores: 9; 5 got an answer, which is wrong, and 4 got none"
    )
    assert "NIL" not in to_text(part)


@pytest.mark.parametrize("language", ["de", "und", "xx"])
def test_one_mention_is_scored(language):
    report = evaluate(Answers({"a": ["C1"]}, ["C1"]), build_mentions(["a"], [language], [["C1"]]))
    assert report.mean.scores["acc@1"] == (1, 1, 1)
    assert to_text(report).splitlines()[2].split()[:2] == [language, "1"]


def test_equal_mentions_are_linked_once_and_each_counts():
    mentions = build_mentions(["a", "a", "a", "b"], ["de"] * 4, [["C1"], ["C2"], ["C1"], ["C2"]])
    report = evaluate(Answers({"a": ["C1"], "b": ["C2"]}, ["C1", "C2"]), mentions)
    assert (report.mean.n, report.mean.scores["acc@1"].value) == (4, 0.75)
