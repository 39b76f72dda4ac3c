"""Ranks and scores: tables by hand, plain loops on generated answers, and independence of the order of mentions."""

import json
import math
import random
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.results import results_of_task
from benchmarks.accuracy.scores import (
    CURVE,
    MAX_RANK,
    RankedAnswers,
    answer,
    breakdown_of,
    compare_accuracy,
    curve_of,
    difference_of,
    kept_answers,
    key_of,
    scores_of,
)
from tests.fixtures.accuracy_tasks import TableLinker, task_of
from tests.fixtures.examples import examples
from xsap.errors import ArtifactError
from xsap.evaluation.metrics import MISS, Score, ScoreRow

DICTIONARY = [("A", "alpha"), ("A", "alef"), ("B", "beta"), ("C", "gamma"), ("D|E", "delta")]
OTHERS = [f"X{i}" for i in range(80)]


def by_hand(tmp_path):
    """German: gold at 1, at 2 and at 6; Spanish: gold at 64, at 65, not there, and not in the dictionary."""
    rows = [
        ("a", "de", ["A"]),
        ("b", "de", ["Z", "B"]),
        ("c", "de", ["C"]),
        ("d", "es", ["E"]),
        ("e", "es", ["E"]),
        ("f", "es", ["A"]),
        ("g", "es", ["Z"]),
    ]
    table = {
        "a": (["A", "B"], [1, 2]),
        "b": (["A", "B"], [0, 1, 2]),
        "c": ([*OTHERS[:5], "C"], [0, 1, 2, 4, 3]),
        "d": ([*OTHERS[:63], "E"], [4]),
        "e": ([*OTHERS[:64], "E"], []),
        "f": (["B"], [2, 3, 4]),
        "g": (["B"], [0, 1, 2, 3, 4]),
    }
    task, linking = task_of(rows, DICTIONARY), TableLinker(table)
    return task, answer(task, linking, tmp_path, key_of(task, {})), linking


def test_scores_by_hand(tmp_path):
    task, answers, linking = by_hand(tmp_path)
    assert linking.depths == [64, 64]
    assert answers.ranks("concept").tolist() == [0, 1, 5, 63, MISS, MISS, MISS]
    assert answers.ranks("reference").tolist() == [0, 2, 4, 0, MISS, MISS, MISS]
    scores = scores_of(task, answers, "concept")
    assert list(scores) == ["de", "es", "mean"]

    def figures(row):
        return [
            row.n,
            row.gold_not_in_dictionary,
            *(row.scores[m].value for m in ("acc@1", "acc@5", "recall@64", "mrr")),
        ]

    assert figures(scores["de"]) == pytest.approx([3, 0, 1 / 3, 2 / 3, 1, (1 + 1 / 2 + 1 / 6) / 3])
    assert figures(scores["es"]) == pytest.approx([4, 1, 0, 0, 1 / 4, 1 / 64 / 4])
    assert figures(scores["mean"]) == pytest.approx([7, 1, 1 / 6, 1 / 3, 5 / 8, (5 / 9 + 1 / 256) / 2])
    reference = scores_of(task, answers, "reference")
    assert figures(reference["de"]) == pytest.approx([3, 0, 1 / 3, 1, 1, (1 + 1 / 3 + 1 / 5) / 3])
    assert figures(reference["es"]) == pytest.approx([4, 1, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    for row in [*scores.values(), *reference.values()]:
        assert all(0 <= low <= value <= high <= 1 for value, low, high in row.scores.values())
        assert list(row.scores) == ["acc@1", "acc@5", "recall@64", "mrr"]
    assert scores["es"].scores["acc@1"] == Score(0, 0, 0)
    assert dict(zip(CURVE, curve_of(task, answers), strict=True)) == pytest.approx(
        {
            k: (de / 3 + es / 4) / 2
            for k, de, es in zip(CURVE, [1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3], [0] * 11 + [1], strict=True)
        }
    )


def test_answers_are_kept_and_read_again(tmp_path):
    task, answers, _ = by_hand(tmp_path)
    rows = answers.table.to_pylist()
    assert rows[2] == {
        "mention": "c",
        "language": "de",
        "concept": 5,
        "reference": 4,
        "found_id": "X0",
        "found_name": "name of X0",
        "score": 6.0,
        "gold_score": 1.0,
    }
    assert [row["gold_score"] for row in rows] == [2, 1, 1, 1, None, None, None]
    again = kept_answers(tmp_path, answers.key)
    assert again == answers
    assert again.table.equals(answers.table)
    assert kept_answers(tmp_path, "another") is None
    (tmp_path / answers.key / "answers.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="damaged"):
        kept_answers(tmp_path, answers.key)


def test_answers_without_candidates(tmp_path):
    task = task_of([("a", "de", ["A"])], DICTIONARY)
    answers = answer(task, TableLinker({}), tmp_path, "k")
    assert answers.table.to_pylist()[0] == dict.fromkeys(answers.table.column_names) | {
        "mention": "a",
        "language": "de",
        "concept": MISS,
        "reference": MISS,
    }
    assert scores_of(task, answers, "concept")["mean"].scores["mrr"].value == 0


def test_composite_mention_has_rank_of_its_worst_part(tmp_path):
    rows = [("a|b", "en", ["A", "B"]), ("a|c", "en", ["A"]), ("b|a", "en", ["A", "B"])]
    table = {
        "a": (["A"], [0]),
        "b": (["C", "B"], [3, 2]),
        "c": (["C"], [3]),
        "a|b": (["A"], [0]),
        "b|a": (["A"], [0]),
        "a|c": (["A"], [0]),
    }
    whole, parted = (task_of(rows, DICTIONARY, composite=composite) for composite in (False, True))
    found = {
        task.composite: answer(task, TableLinker(table), tmp_path, str(task.composite)) for task in (whole, parted)
    }
    assert found[False].ranks("concept").tolist() == [0, 0, 0]
    assert found[True].ranks("concept").tolist() == [1, MISS, 1]
    assert found[True].table["found_id"].to_pylist() == ["C", "C", "C"]
    assert found[True].table["gold_score"].to_pylist() == [1, None, 1]
    assert [each.ranks("reference").tolist() for each in found.values()] == [
        [1, MISS, 1]
    ] * 2  # split there, whatever the task says


def test_key_depends_on_all_inputs():
    rows = [("a", "de", ["A"]), ("b", "de", ["B"])]
    task = task_of(rows, DICTIONARY)
    others = [
        task_of(rows[:1], DICTIONARY),
        task_of(rows[::-1], DICTIONARY),  # answers are in the order of the mentions
        task_of([("a", "es", ["A"]), rows[1]], DICTIONARY),
        task_of([("a", "de", ["A", "B"]), rows[1]], DICTIONARY),
        task_of([("a", "de", ["B"]), ("b", "de", ["A"])], DICTIONARY),
        task_of(rows, DICTIONARY[::-1]),
        task_of(rows, DICTIONARY[:-1]),
        task_of(rows, DICTIONARY, composite=True),
    ]
    keys = [
        key_of(task, {"kind": "x"}),
        key_of(task, {"kind": "y"}),
        key_of(task, {}),
        *(key_of(other, {"kind": "x"}) for other in others),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(task_of(rows, DICTIONARY), {"kind": "x"}) == keys[0]


def _answers(ranks, reference=None):
    """Answers of which only the ranks are looked at."""
    return RankedAnswers(
        pa.table({"concept": pa.array(ranks, pa.int16()), "reference": pa.array(reference or ranks, pa.int16())}), "key"
    )


_rank = st.one_of(st.just(MISS), st.sampled_from([0, 1, 4, 5, MAX_RANK - 1]), st.integers(0, MAX_RANK - 1))


@settings(max_examples=examples(60))
@given(st.lists(st.tuples(st.sampled_from(["de", "es", "zh"]), _rank), min_size=1, max_size=30), st.randoms())
def test_scores_match_plain_loop(rows, rng):
    task = task_of([("m", code, ["A"]) for code, _ in rows], DICTIONARY)
    scores = scores_of(task, _answers([rank for _, rank in rows]), "concept")
    means = {}
    for code in sorted({code for code, _ in rows}):
        ranks = [rank for other, rank in rows if other == code]
        means[code] = {f"acc@{k}": sum(0 <= r < k for r in ranks) / len(ranks) for k in (1, 5)}
        means[code]["recall@64"] = sum(r >= 0 for r in ranks) / len(ranks)
        means[code]["mrr"] = sum(1 / (r + 1) for r in ranks if r >= 0) / len(ranks)
        assert scores[code].n == len(ranks)
    assert list(scores) == [*means, "mean"]
    for name in ("acc@1", "acc@5", "recall@64", "mrr"):
        assert {code: row.scores[name].value for code, row in scores.items() if code != "mean"} == pytest.approx(
            {c: m[name] for c, m in means.items()}
        )
        assert scores["mean"].scores[name].value == pytest.approx(sum(m[name] for m in means.values()) / len(means))
    rng.shuffle(rows)
    shuffled = task_of([("m", code, ["A"]) for code, _ in rows], DICTIONARY)
    assert (
        scores_of(shuffled, _answers([rank for _, rank in rows]), "concept") == scores
    )  # the intervals too, to the last bit


def _binomial(gained, lost):
    n, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)


def test_compare_accuracy_by_hand():
    gains = {"de": (8, 0), "es": (5, 1), "zh": (1, 1)}
    rows = [(code, 1, 0) for code, (g, _) in gains.items() for _ in range(g)]
    rows += [(code, 0, MISS) for code, (_, lost) in gains.items() for _ in range(lost)] + [("zh", 0, 0)] * 3
    task = task_of([("m", code, ["A"]) for code, _, _ in rows], DICTIONARY)
    first, second = (np.array([row[side] for row in rows]) for side in (1, 2))
    found = compare_accuracy(task, first, second)
    assert list(found) == ["de", "es", "zh", "mean"]
    p = {code: _binomial(*pair) for code, pair in gains.items()}
    assert p == pytest.approx({"de": 2 / 256, "es": 14 / 64, "zh": 1})
    assert {code: found[code].mcnemar for code in p} == pytest.approx(p)
    assert {code: found[code].holm for code in p} == pytest.approx({"de": 3 * p["de"], "es": 2 * p["es"], "zh": 1})
    assert {code: row.difference for code, row in found.items()} == pytest.approx(
        {"de": 1, "es": 4 / 6, "zh": 0, "mean": 5 / 9}
    )
    assert {code: row.n for code, row in found.items()} == {"de": 8, "es": 6, "zh": 5, "mean": 19}
    assert (found["de"].low, found["de"].high) == (1, 1)
    assert (found["mean"].mcnemar, found["mean"].holm) == (None, None)
    back = compare_accuracy(task, second, first)
    assert back["mean"].difference == -found["mean"].difference
    assert back["es"].mcnemar == found["es"].mcnemar


@settings(max_examples=examples(40))
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25), st.randoms())
def test_difference_does_not_depend_on_order(pairs, rng):
    def found():
        return difference_of(*([np.array([pair[side] for pair in pairs], float)] for side in (0, 1)))

    before = found()
    rng.shuffle(pairs)
    assert found() == before
    low, high = before.low, before.high
    assert low <= before.difference <= high
    only_one = sum(one != other for one, other in pairs)
    assert max(abs(low), abs(high)) <= 1
    assert (
        (low, high) == (0, 0) if not only_one else low < high or only_one == len(pairs)
    )  # pairs stay pairs: equal ones have no variance


def test_breakdown_has_labels_in_given_order():
    labels = ["long", "short", "short", "short", "short"]
    found = breakdown_of(labels, ["short", "long"], _answers([0, 0, MISS, 1, 0]))
    assert list(found) == ["short", "long"]
    assert found["long"] == ScoreRow(1, {"acc@1": Score(1, 1, 1)})
    assert (found["short"].n, found["short"].scores["acc@1"].value) == (4, 0.5)
    many = [0, MISS, 3, 0, 0, MISS, MISS, 0, 0, 0, 2, MISS] * 3
    assert breakdown_of(["x"] * 36, ["x"], _answers(many)) == breakdown_of(
        ["x"] * 36, ["x"], _answers(sorted(many))
    )  # its interval too


WORDS = [
    "fever",
    "Fever",
    "cough",
    "a|b",
    "x+y",
    "热",
    "гной",
    "heart  failure",
    "pain in the left upper leg, at night",
]


@settings(max_examples=examples(25))
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(WORDS),
            st.sampled_from(["de", "es", "ja"]),
            st.sets(st.sampled_from("ABCEZ"), min_size=1, max_size=2),
        ),
        min_size=2,
        max_size=25,
    ),
    seed=st.integers(0, 5),
)
def test_task_results_do_not_depend_on_order_of_mentions(tmp_path_factory, rows, seed):
    rng = random.Random(seed)
    tables = [
        {
            word: (rng.sample("ABCDEX", rng.randint(0, 6)), rng.sample(range(5), rng.randint(0, 5)))
            for part in WORDS
            for word in part.split("|")
        }
        for _ in range(2)
    ]
    contents = []
    for order in (rows, rows[::-1], rng.sample(rows, len(rows))):
        folder = tmp_path_factory.mktemp("answers")
        task = task_of(order, DICTIONARY, composite=True, types={"A": ["T047"], "B": ["T121"], "C": ["T047", "T121"]})
        answers = {
            name: answer(task, TableLinker(table), folder, name)
            for name, table in zip(("one", "other"), tables, strict=True)
        }
        contents.append(json.dumps(asdict(results_of_task(task, answers)), sort_keys=True))
    assert contents[0] == contents[1] == contents[2]
