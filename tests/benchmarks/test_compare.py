"""Regression check of results folders: pairs by a plain loop, verdicts by hand; and results of `xsap evaluate` side by side."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.compare import (
    BETTER,
    NO_DIFFERENCE,
    NOT_COMPARED,
    UNPAIRED,
    WORSE,
    Change,
    changes_to_markdown,
    comparison_to_markdown,
    find_changes,
    plot,
    read_systems,
)
from benchmarks.accuracy.results import RunResults, read_results, results_of_task, write_results
from benchmarks.accuracy.scores import answer, key_of
from tests.fixtures.accuracy_tasks import task_of
from xsap.errors import ArtifactError, ConfigError, DataError
from xsap.evaluation.metrics import paired_bootstrap
from xsap.linking.results import Candidate, Result

ROWS = [(f"g{i}", "de") for i in range(30)] + [(f"s{i}", "es") for i in range(60)]


class Right:
    """Links these mentions rightly, and the others to another concept."""

    concept_ids = ("A", "B")

    def __init__(self, right):
        self.right = set(right)

    def link(self, mentions, top_k, *, languages=None):
        return [
            Result(m, (Candidate("A", "a", "a", 1.0) if m in self.right else Candidate("B", "b", "b", 1.0),))
            for m in mentions
        ]

    def dictionary_rows(self, mentions, k):
        return np.zeros((len(mentions), 1), np.int64)  # right, all of them: it is the concept protocol that is compared


def write(folder, systems, *, rows=ROWS, dictionary=("a", "b"), task="t"):
    """systems: label → the mentions it links rightly."""
    made = task_of([(*row, ["A"]) for row in rows], list(zip("AB", dictionary, strict=True)), name=task)
    answers = {
        name: answer(made, Right(right), folder / "answers", key_of(made, {"right": sorted(right)}))
        for name, right in systems.items()
    }
    results = RunResults.from_command(["x"])
    results.tasks[task] = made.metadata()
    results.scores[task] = results_of_task(made, answers)
    write_results(results, folder)
    return folder


def compared(old, new):
    return {(c.task, c.system): c for c in find_changes(read_results(old), read_results(new), old, new)}


def first(german, spanish):
    return [f"g{i}" for i in range(german)] + [f"s{i}" for i in range(spanish)]


OLD = {"up": first(9, 18), "down": first(21, 40), "even": first(15, 30), "gone": first(1, 1)}
NEW = {"up": first(18, 36), "down": first(20, 30), "even": first(14, 31), "new": first(1, 1)}


def test_paired_changes_match_plain_loop(tmp_path):
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
        "even": NO_DIFFERENCE,
        "gone": NOT_COMPARED,
        "new": NOT_COMPARED,
    }
    assert (found["t", "gone"].reason, found["t", "gone"].new) == ("only in the older folder", None)
    assert (found["t", "new"].reason, found["t", "new"].old) == ("only in the newer folder", None)


def test_pairing_detects_changes_that_intervals_alone_do_not(tmp_path):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    assert compared(old, new)["t", "down"].verdict == WORSE
    shutil.rmtree(old / "answers")
    down, up = (compared(old, new)["t", name] for name in ("down", "up"))
    assert (down.verdict, down.interval, down.reason) == (NO_DIFFERENCE, None, UNPAIRED)
    assert (up.verdict, up.interval) == (BETTER, None)  # 30 % of 90 against 60 %: the intervals lie apart
    assert compared(new, old)["t", "up"].verdict == WORSE


def test_folder_compared_with_itself_has_no_difference(tmp_path):
    folder = write(tmp_path / "one", OLD)
    assert {(c.verdict, c.interval, c.old == c.new) for c in compared(folder, folder).values()} == {
        (NO_DIFFERENCE, (0.0, 0.0), True)
    }


def test_other_mentions_or_dictionaries_are_not_compared(tmp_path):
    old = write(tmp_path / "old", OLD)
    for name, change, why in (
        ("fewer", {"rows": ROWS[:-1]}, "another mention set"),
        ("other", {"dictionary": ("a", "c")}, "another dictionary"),
        ("task", {"task": "u"}, "only in the older folder"),
    ):
        found = compared(old, write(tmp_path / name, OLD, **change))["t", "up"]
        assert (found.verdict, found.reason, found.interval) == (NOT_COMPARED, why, None)


def test_same_mentions_in_other_order_are_compared_by_intervals(tmp_path):
    found = compared(write(tmp_path / "old", OLD), write(tmp_path / "new", NEW, rows=ROWS[::-1]))
    assert {name: found["t", name].verdict for name in ("up", "down", "even")} == {
        "up": BETTER,
        "down": NO_DIFFERENCE,
        "even": NO_DIFFERENCE,
    }
    assert found["t", "up"].reason == UNPAIRED


def test_damaged_answers_are_an_error(tmp_path):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    for file in (old / "answers").rglob("answers.parquet"):
        file.write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="damaged"):
        compared(old, new)


def test_changes_to_markdown():
    changes = [
        Change("t", "up", 0.3, 0.6, (0.25, 0.375), BETTER),
        Change("t", "a|b", 0.3, 0.25, None, NO_DIFFERENCE, "so"),
        Change("t", "gone", 0.3, None, None, NOT_COMPARED, "only in the older folder"),
    ]
    assert changes_to_markdown(changes, Path("old|x"), Path("new")).splitlines() == [
        "| task | system | Acc@1 in old\\|x | in new |           difference |                                verdict |",
        "| :--- | -----: | --------------: | -----: | -------------------: | -------------------------------------: |",
        "| t    |     up |            30.0 |   60.0 | +30.0 [+25.0, +37.5] |                                 better |",
        "| t    |   a\\|b |            30.0 |   25.0 |                 -5.0 |          no significant difference: so |",
        "| t    |   gone |            30.0 |      – |                      | not compared: only in the older folder |",
    ]


def test_report_command_against_older_folder(tmp_path, run_here):
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", {name: NEW[name] for name in ("down", "even")})
    done = run_here("-m", "benchmarks", "report", "new", "--against", "old", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in done.stdout.splitlines()]
    assert head == ["task", "system", "Acc@1 in old", "in new", "difference", "verdict"]
    assert [row[:2] for row in rows] == [["t", name] for name in ("up", "down", "even", "gone")]
    assert rows[0][2:] == ["30.0", "–", "", "not compared: only in the older folder"]
    assert rows[1][2:4] == ["68.3", "58.3"]
    assert re.fullmatch(r"-10\.0 \[-1\d\.\d, -\d\.\d\]", rows[1][4])
    assert [row[5] for row in rows[1:3]] == ["worse", "no significant difference"]
    assert not (new / "report.md").exists()
    assert not (old / "report.md").exists()


# Side by side


def _row(n, one, five, interval=None):
    return {"n": n, "acc@1": one, "acc@5": five, "mrr": one} | ({"acc@1_interval": interval} if interval else {})


def _results(one=0.25, five=0.5, n=1200, **more):
    languages = {"de": _row(n, one, five, [one - 0.125, one + 0.125]), "zh": _row(25, one + 0.25, five)}
    return {"protocol": "concept", "k": 10, "languages": languages, "mean": _row(n + 25, one + 0.125, five)} | more


def _write(folder, **results):
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return [f"{name}={folder / name}.json" for name in results]


def test_comparison_to_markdown(tmp_path):
    after = _results(
        0.5, 0.75, model="0123456789abcdef", dictionary={"names": 28467, "concepts": 19562, "languages": ["en"]}
    )
    given = _write(tmp_path, before=_results(), after=after)
    assert comparison_to_markdown(read_systems(given)).splitlines() == [
        "Protocol: concept. Percent, with 95 % bootstrap intervals; the mean gives each language equal weight.",
        "",
        "| language |     n |      Acc@1 before |       Acc@1 after | Acc@5 before | Acc@5 after |",
        "| :------- | ----: | ----------------: | ----------------: | -----------: | ----------: |",
        "| de       | 1,200 | 25.0 [12.5, 37.5] | 50.0 [37.5, 62.5] |         50.0 |        75.0 |",
        "| zh       |    25 |              50.0 |              75.0 |         50.0 |        75.0 |",
        "| mean     | 1,225 |              37.5 |              62.5 |         50.0 |        75.0 |",
        "",
        "- mean Acc@1: after − before = +25.0 points",
        "- mean Acc@5: after − before = +25.0 points",
        "- before: before.json",
        "- after: after.json, model 0123456789ab, 28,467 names of 19,562 concepts",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "reference"}, "expected one protocol, found concept and reference"),
        ({"n": 1201}, "expected the same mentions, found 1,200 and 1,201 in 'de'"),
        ({"mentions": {"sha256": "b"}}, "two files of different content"),
        ({"languages": {"de": _row(1200, 0, 0)}}, "found 25 and 0 in 'zh'"),
    ],
)
def test_incomparable_results_are_rejected(tmp_path, change, message):
    given = _write(tmp_path, before=_results(mentions={"sha256": "a"}), after=_results(**change))
    with pytest.raises(DataError, match=message):
        read_systems(given)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"languages": {}}', '{"languages": {"de": {"n": 3}}, "mean": {}}']
)
def test_other_file_is_rejected(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: expected the results of xsap evaluate --json"):
        read_systems([f"a={tmp_path / 'a.json'}"])


def test_names_of_systems_must_differ(tmp_path):
    (given,) = _write(tmp_path, a=_results())
    with pytest.raises(ConfigError, match="found 'a' twice"):
        read_systems([given, given])
    for text in ("a.json", "=a.json", "a="):
        with pytest.raises(ConfigError, match="expected NAME=FILE"):
            read_systems([text])


def test_plot_shows_scores_and_names_of_all_systems(tmp_path):
    systems = read_systems(_write(tmp_path, before=_results(0.25), after=_results(0.5)))
    plot(systems, tmp_path / "chart.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "chart.svg").read_text(encoding="utf-8"))
    assert {"25.0", "50.0", "37.5", "75.0", "62.5", "before", "after", "German (n = 1,200)", "mean (n = 1,225)"} <= set(
        texts
    )
    plot(systems, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"ends in \.png or \.svg, found .*chart\.pdf"):
        plot(systems, tmp_path / "chart.pdf")


def test_compare_command(tmp_path, run_here):
    _write(tmp_path, before=_results(), after=_results(0.5))
    done = run_here(
        "-m", "benchmarks", "compare", "before=before.json", "after=after.json", "--plot", "linking.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "| mean     | 1,225 |" in done.stdout
    assert (tmp_path / "linking.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["x=gone.json"], ["before"], []):
        done = run_here("-m", "benchmarks", "compare", *wrong, cwd=tmp_path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert done.stderr.startswith("error: ")
