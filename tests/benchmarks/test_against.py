"""A results folder against an older one: pairs by a plain loop, verdicts by hand, and what is not compared."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.compare import BETTER, SAME, UNLIKE, UNPAIRED, WORSE, Change, differences, to_text
from benchmarks.accuracy.dictionary import SearchSpace, count
from benchmarks.accuracy.results import of_task, provenance, read_results, write_results
from benchmarks.accuracy.scores import answer, key_of
from benchmarks.accuracy.tasks import Task
from xsap.errors import ArtifactError
from xsap.evaluation.metrics import paired_bootstrap
from xsap.evaluation.protocols import Dictionary
from xsap.linking.results import Candidate, Result
from xsap.terms.mentions import build_mentions

ROWS = [(f"g{i}", "de") for i in range(30)] + [(f"s{i}", "es") for i in range(60)]


class Right:
    """Links these mentions rightly, and the others to another concept."""

    concept_ids = ("A", "B")

    def __init__(self, right):
        self.right = set(right)

    def link(self, mentions, top_k):
        return [
            Result(m, (Candidate("A", "a", "a", 1.0) if m in self.right else Candidate("B", "b", "b", 1.0),))
            for m in mentions
        ]

    def dictionary_rows(self, mentions, k):
        return np.zeros((len(mentions), 1), np.int64)  # right, all of them: it is the concept protocol that is compared


def write(folder, systems, *, rows=ROWS, dictionary=("a", "b"), task="t"):
    """systems: label → the mentions it links rightly."""
    mentions = build_mentions([m for m, _ in rows], [code for _, code in rows], [["A"]] * len(rows))
    made = Task(
        task,
        "invented",
        mentions,
        SearchSpace(Dictionary(["A", "B"], list(dictionary)), "here", {}, {}),
        count(mentions),
    )
    answers = {
        name: answer(made, Right(right), folder / "answers", key_of(made, {"right": sorted(right)}))
        for name, right in systems.items()
    }
    results = provenance(["x"]) | {
        "systems": {},
        "tasks": {task: made.metadata()},
        "scores": {task: of_task(made, answers)},
    }
    write_results(results, folder)
    return folder


def compared(old, new):
    return {(c.task, c.system): c for c in differences(read_results(old), read_results(new), old, new)}


def first(german, spanish):
    return [f"g{i}" for i in range(german)] + [f"s{i}" for i in range(spanish)]


OLD = {"up": first(9, 18), "down": first(21, 40), "even": first(15, 30), "gone": first(1, 1)}
NEW = {"up": first(18, 36), "down": first(20, 30), "even": first(14, 31), "new": first(1, 1)}


def test_pairs_by_a_plain_loop(tmp_path):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    found = compared(old, new)
    assert list(found) == [("t", name) for name in ("up", "down", "even", "gone", "new")]
    for name in ("up", "down", "even"):
        change = found["t", name]
        sides = [
            [float(mention in systems[name]) for mention, of in ROWS if of == code]
            for systems in (OLD, NEW)
            for code in ("de", "es")
        ]
        means = [sum(side) / len(side) for side in sides]
        assert (change.old, change.new) == pytest.approx(
            ((means[0] + means[1]) / 2, (means[2] + means[3]) / 2), abs=1e-6
        )
        pairs = [sorted(zip(sides[i], sides[i + 2], strict=True), key=lambda pair: pair[::-1]) for i in (0, 1)]
        columns = [[np.array([pair[side] for pair in group]) for group in pairs] for side in (0, 1)]
        expected = paired_bootstrap(*columns, seed=0)
        assert change.interval == pytest.approx((expected.low, expected.high))
    assert {name: change.verdict for (_, name), change in found.items()} == {
        "up": BETTER,
        "down": WORSE,
        "even": SAME,
        "gone": UNLIKE,
        "new": UNLIKE,
    }
    assert (found["t", "gone"].why, found["t", "gone"].new) == ("only in the older folder", None)
    assert (found["t", "new"].why, found["t", "new"].old) == ("only in the newer folder", None)


def test_pairing_sees_what_intervals_alone_do_not(tmp_path):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    assert compared(old, new)["t", "down"].verdict == WORSE
    shutil.rmtree(old / "answers")
    down, up = (compared(old, new)["t", name] for name in ("down", "up"))
    assert (down.verdict, down.interval, down.why) == (SAME, None, UNPAIRED)
    assert (up.verdict, up.interval) == (BETTER, None)  # 30 % of 90 against 60 %: the intervals lie apart
    assert compared(new, old)["t", "up"].verdict == WORSE


def test_a_folder_against_itself_is_the_same_to_the_last_digit(tmp_path):
    folder = write(tmp_path / "one", OLD)
    assert {(c.verdict, c.interval, c.old == c.new) for c in compared(folder, folder).values()} == {
        (SAME, (0.0, 0.0), True)
    }


def test_other_mentions_or_dictionaries_are_not_compared(tmp_path):
    old = write(tmp_path / "old", OLD)
    for name, change, why in (
        ("fewer", {"rows": ROWS[:-1]}, "another mention set"),
        ("other", {"dictionary": ("a", "c")}, "another dictionary"),
        ("task", {"task": "u"}, "only in the older folder"),
    ):
        found = compared(old, write(tmp_path / name, OLD, **change))["t", "up"]
        assert (found.verdict, found.why, found.interval) == (UNLIKE, why, None)


def test_the_same_mentions_in_another_order_are_compared_by_their_intervals(tmp_path):
    found = compared(write(tmp_path / "old", OLD), write(tmp_path / "new", NEW, rows=ROWS[::-1]))
    assert {name: found["t", name].verdict for name in ("up", "down", "even")} == {
        "up": BETTER,
        "down": SAME,
        "even": SAME,
    }
    assert found["t", "up"].why == UNPAIRED


def test_damaged_answers_are_not_passed_over(tmp_path):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    for file in (old / "answers").rglob("answers.parquet"):
        file.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="damaged"):
        compared(old, new)


def test_the_table_to_the_character():
    changes = [
        Change("t", "up", 0.3, 0.6, (0.25, 0.375), BETTER),
        Change("t", "a|b", 0.3, 0.25, None, SAME, "so"),
        Change("t", "gone", 0.3, None, None, UNLIKE, "only in the older folder"),
    ]
    assert to_text(changes, Path("old|x"), Path("new")).splitlines() == [
        "| task | system | Acc@1 in old\\|x | in new |           difference |                                verdict |",
        "| :--- | -----: | --------------: | -----: | -------------------: | -------------------------------------: |",
        "| t    |     up |            30.0 |   60.0 | +30.0 [+25.0, +37.5] |                                 better |",
        "| t    |   a\\|b |            30.0 |   25.0 |                 -5.0 |                 no sure difference: so |",
        "| t    |   gone |            30.0 |      – |                      | not compared: only in the older folder |",
    ]


def test_the_command(tmp_path, run):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", {name: NEW[name] for name in ("down", "even")})
    done = run("-m", "benchmarks", "report", "new", "--against", "old", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in done.stdout.splitlines()]
    assert head == ["task", "system", "Acc@1 in old", "in new", "difference", "verdict"]
    assert [row[:2] for row in rows] == [["t", name] for name in ("up", "down", "even", "gone")]
    assert rows[0][2:] == ["30.0", "–", "", "not compared: only in the older folder"]
    assert rows[1][2:4] == ["68.3", "58.3"]
    assert re.fullmatch(r"-10\.0 \[-1\d\.\d, -\d\.\d\]", rows[1][4])
    assert [row[5] for row in rows[1:3]] == ["worse", "no sure difference"]
    assert not (new / "report.md").exists()
    assert not (old / "report.md").exists()
