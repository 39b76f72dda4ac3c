"""The report of a training run: what it shows is what the log says, however the log looks."""

import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.fixtures.html_page import Page
from xsap import plots
from xsap.config import Settings
from xsap.errors import ArtifactError
from xsap.training.report import accuracy_lines, format_number, loss_lines, rate_lines, read_log, write_report

LOSS, RATE = 2, 10  # steps before and after one that a short run's loss, or throughput, is smoothed over
LANGUAGES = [
    "cs",
    "da",
    "de",
    "el",
    "es",
    "et",
    "fi",
    "fr",
    "hr",
    "hu",
    "it",
    "ja",
    "ko",
    "lv",
    "nl",
    "no",
    "pl",
    "pt",
    "ru",
    "sv",
]


def score(value, n=50, half=0.05):
    return {
        "n": n,
        "gold_not_in_dictionary": 0,
        "acc@1": value,
        "acc@1_interval": [value - half, value + half],
        "acc@5": 0.9,
        "mrr": 0.8,
    }


def evaluation(step, mean, **languages):
    rows = {code: score(value) for code, value in languages.items()}
    return {
        "step": step,
        "evaluation": {"protocol": "concept", "k": 10, "languages": rows, "mean": score(mean, n=50 * len(rows))},
    }


def some_steps(n, *, counted=True, seed=0):
    draw = random.Random(seed)
    for step in range(1, n + 1):
        counts = {"names": draw.randint(300, 600), "tokens": draw.randint(3000, 6000)} if counted else {}
        yield {
            "step": step,
            "loss": draw.uniform(2, 6),
            "lr": 2e-5 * (1 - step / n),
            "seconds": draw.uniform(0.1, 0.5),
            **counts,
        }


def write_run(folder, lines, *, tail="", **settings):
    folder.mkdir(parents=True, exist_ok=True)
    config = Settings(output=folder, **settings).model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail, encoding="utf-8")
    return folder


def read(run):
    return Page(write_report(run).read_text(encoding="utf-8"))


def log_of(run):
    return read_log(run / "metrics.jsonl")


def lines_of(log):
    return {line.name: line for line in [*loss_lines(log), *accuracy_lines(log), *rate_lines(log).values()]}


def assert_same_log(one, other):
    np.testing.assert_array_equal(one.steps, other.steps)
    for field, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[field])
    assert one.evaluations == other.evaluations


def summary_of(page):
    return {row[0]: row[1:] for row in page.tables[0][1:]}


def settings_of(page):
    tables = [table for table in page.tables if table[0] == ["setting", "value", "default"]]
    return {tuple(row) for table in tables for row in table[1:]}


def warnings_of(page):
    return [text for text in page.text_of("p") if text.startswith(("Not all evaluations", "The loss of"))]


def window(values, i, half):
    return values[max(0, i - half) : i + half + 1]


EVALUATED = {0: (0.1, 0.2, 0.15), 20: (0.3, 0.2, 0.25), 40: (0.6, 0.4, 0.5), 60: (0.5, 0.42, 0.46)}


@pytest.fixture
def short(tmp_path):
    """60 steps with everything that a log may have, and their lines."""
    steps = list(some_steps(60))
    lines = [evaluation(0, 0.15, de=0.1, es=0.2)]
    for line in steps:
        lines.append(line)
        if line["step"] in EVALUATED:
            de, es, mean = EVALUATED[line["step"]]
            lines.append(evaluation(line["step"], mean, de=de, es=es))
    run = write_run(
        tmp_path / "short", lines, terminology="T", max_steps=80, optim={"learning_rate": 2e-3}, text={"case": "lower"}
    )
    return SimpleNamespace(run=run, steps=steps)


# Lines of the charts


def test_loss_lines_are_each_step_and_the_mean_around_it(short):
    each, smooth = loss_lines(log_of(short.run))
    loss = [line["loss"] for line in short.steps]
    expected = [sum(window(loss, i, LOSS)) / len(window(loss, i, LOSS)) for i in range(60)]
    np.testing.assert_array_equal(each.x, range(1, 61))
    np.testing.assert_array_equal(each.y, loss)
    np.testing.assert_array_equal(smooth.x, range(1, 61))
    np.testing.assert_allclose(smooth.y, expected)
    assert smooth.name == f"mean {format_number(expected[-1])}"


def test_learning_rate_line_is_of_each_step(short):
    line = rate_lines(log_of(short.run))["Learning rate"]
    np.testing.assert_array_equal(line.y, [line["lr"] for line in short.steps])


@pytest.mark.parametrize("unit", ["names", "tokens"])
def test_throughput_is_all_names_by_all_seconds_of_a_window(short, unit):
    line = rate_lines(log_of(short.run))[f"{unit.capitalize()} per second"]
    rates = [
        sum(line[unit] for line in part) / sum(line["seconds"] for line in part)
        for part in (window(short.steps, i, RATE) for i in range(60))
    ]
    np.testing.assert_allclose(line.y, rates)


def test_throughput_of_a_log_without_counts_is_steps_per_second(tmp_path):
    steps = list(some_steps(30, counted=False))
    found = rate_lines(log_of(write_run(tmp_path / "run", steps)))
    assert found.keys() == {"Learning rate", "Steps per second"}
    parts = [window(steps, i, RATE) for i in range(30)]
    rates = [len(part) / sum(line["seconds"] for line in part) for part in parts]
    np.testing.assert_allclose(found["Steps per second"].y, rates)


def test_throughput_leaves_out_seconds_of_steps_that_counted_nothing(tmp_path):
    steps = [*some_steps(40, counted=False), *({**line, "step": line["step"] + 40} for line in some_steps(20))]
    rate = rate_lines(log_of(write_run(tmp_path / "run", steps)))["Names per second"].y
    assert np.flatnonzero(np.isfinite(rate))[0] == 40 - RATE
    first = steps[40 : 40 + RATE + 1]
    assert rate[40] == pytest.approx(sum(s["names"] for s in first) / sum(s["seconds"] for s in first))


def test_accuracy_lines_are_of_languages_and_mean_with_their_last_values(short):
    lines = accuracy_lines(log_of(short.run))
    assert [line.name for line in lines] == ["German 50.0", "Spanish 42.0", "mean 46.0"]
    for i, line in enumerate(lines):
        np.testing.assert_array_equal(line.x, list(EVALUATED))
        np.testing.assert_allclose(line.y, [100 * values[i] for values in EVALUATED.values()])
    assert lines[0].low is lines[1].low is None
    np.testing.assert_allclose(lines[2].low, [100 * (values[2] - 0.05) for values in EVALUATED.values()])
    np.testing.assert_allclose(lines[2].high, [100 * (values[2] + 0.05) for values in EVALUATED.values()])


def test_log_ends_at_the_last_entry_of_any_kind(tmp_path):
    lines = [*some_steps(10), evaluation(12, 0.3, es=0.3)]  # a crash lost the last steps before they were written
    assert log_of(write_run(tmp_path / "run", lines)).last == 12


# The page


def test_page_has_a_chart_of_loss_accuracy_and_rates(short):
    page = read(short.run)
    labels = [svg["aria-label"] for svg in page.attributes_of("svg")]
    rates = "Learning rate, Names per second, Tokens per second"
    assert labels == ["Acc@1 over steps", "Loss over steps", rates]
    assert {"German 50.0", "Spanish 42.0", "mean 46.0"} < set(page.text_of("text"))
    headings = ["Acc@1 by language", "Loss", "Learning rate and throughput", "Evaluations"]
    assert page.text_of("h2") == [*headings, "Settings that differ from the defaults"]


def test_page_without_matplotlib_has_its_tables_and_says_why(short, monkeypatch):
    whole = read(short.run)
    monkeypatch.setattr(plots, "is_available", lambda: False)
    page = read(short.run)
    assert page.attributes_of("svg") == []
    assert page.tables == whole.tables
    assert "There are no charts because matplotlib is not installed: pip install 'xsap[plot]'" in page.text_of("p")


def test_table_has_every_evaluation_and_marks_the_best(short):
    page = read(short.run)
    assert page.tables[1] == [
        ["step", "mean, n = 100", "German, n = 50", "Spanish, n = 50"],
        ["0", "15.0 [10.0, 20.0]", "10.0", "20.0"],
        ["20", "25.0 [20.0, 30.0]", "30.0", "20.0"],
        ["40", "50.0 [45.0, 55.0]", "60.0", "40.0"],
        ["60", "46.0 [41.0, 51.0]", "50.0", "42.0"],
    ]
    assert page.best == [2]


def test_summary_has_steps_time_loss_and_accuracy(short):
    found = summary_of(read(short.run))
    minutes = sum(line["seconds"] for line in short.steps) / 60
    assert found["steps"] == ["60", "of 80 planned"]
    assert float(found["minutes"][0]) == pytest.approx(minutes, rel=5e-3)
    assert float(found["last loss"][0]) == pytest.approx(short.steps[-1]["loss"], rel=1e-3)
    assert found["mean Acc@1, %"] == ["46.0 [41.0, 51.0]", "2 languages, n = 100, at step 60"]
    assert found["best mean Acc@1, %"] == ["50.0 [45.0, 55.0]", "at step 40; its checkpoint is not kept"]
    (short.run / "checkpoints" / "step-40").mkdir(parents=True)
    assert summary_of(read(short.run))["best mean Acc@1, %"][1] == "at step 40; its checkpoint is kept"


def test_settings_that_differ_are_shown_with_their_defaults(short):
    assert settings_of(read(short.run)) == {
        ("terminology", "T", "not set"),
        ("max_steps", "80", "not set"),
        ("optim.learning_rate", "0.002", "2e-05"),
        ("text.case", "lower", "not set"),
        ("text.unicode", "NFC", "not set"),
    }


def test_settings_at_their_defaults_are_not_shown(tmp_path):
    page = read(write_run(tmp_path / "run", some_steps(2)))
    assert settings_of(page) == set()
    assert page.text_of("p")[-1] == "None."
    assert summary_of(page)["steps"] == ["2", "planned: 1 epoch"]


def test_mean_without_an_interval_is_shown_alone(tmp_path):
    line = evaluation(3, 0.3, es=0.3)
    del line["evaluation"]["mean"]["acc@1_interval"]
    page = read(write_run(tmp_path / "run", [*some_steps(3), line]))
    assert summary_of(page)["mean Acc@1, %"][0] == "30.0"
    assert page.tables[1][1][1] == "30.0"
    assert summary_of(page)["best mean Acc@1, %"][1] == "at step 3; the last"


def test_evaluations_of_other_mentions_get_a_warning(tmp_path):
    lines = [evaluation(0, 0.2, es=0.2), *some_steps(5), evaluation(5, 0.3, es=0.3, de=0.3)]
    page = read(write_run(tmp_path / "run", lines))
    assert warnings_of(page) == ["Not all evaluations are of the same mentions; their means can't be compared."]
    assert page.tables[1][1] == ["0", "20.0 [15.0, 25.0]", "–", "20.0"]


# Logs as they are found


def test_damaged_lines_are_skipped_wherever_they_are(tmp_path):
    steps = [*some_steps(20)]
    whole = log_of(write_run(tmp_path / "whole", steps))
    cut = write_run(
        tmp_path / "cut",
        steps[:10],
        tail='{"step": 11, "lo\n{"step": 11, "evaluation": {"languages": {"es": 3}, "mean": 3}}\n[]\n7\n\n',
    )
    with (cut / "metrics.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in steps[10:]) + '{"step": 21, "loss": 2.')
    assert_same_log(log_of(cut), whole)


def test_later_entry_of_a_step_counts(tmp_path):
    steps, again = list(some_steps(20)), list(some_steps(20, seed=1))
    once = log_of(write_run(tmp_path / "once", [*steps[:10], *again[10:]]))
    twice = log_of(write_run(tmp_path / "twice", [*steps, *again[10:]]))
    assert_same_log(once, twice)


def test_loss_that_is_not_finite_breaks_the_line_and_gets_a_warning(tmp_path):
    steps = list(some_steps(30))
    steps[9]["loss"], steps[20]["loss"], steps[22]["loss"] = math.nan, None, math.inf
    run = write_run(tmp_path / "run", steps)
    each, smooth = loss_lines(log_of(run))
    assert np.flatnonzero(~np.isfinite(each.y)).tolist() == [9, 20, 22]
    finite = [line["loss"] for line in steps[7:12] if line["loss"] == line["loss"]]
    assert smooth.y[9] == pytest.approx(sum(finite) / 4)
    assert warnings_of(read(run)) == ["The loss of 3 of 30 steps is not a finite number, first at step 10."]


def test_no_finite_loss_at_all_is_said(tmp_path):
    page = read(write_run(tmp_path / "run", [line | {"loss": math.nan} for line in some_steps(5)]))
    assert "no finite values" in page.text_of("text")
    assert summary_of(page)["last loss"][0] == "–"


def test_without_evaluations_there_is_neither_chart_nor_table(tmp_path):
    page = read(write_run(tmp_path / "run", some_steps(10)))
    assert "Evaluations" not in page.text_of("h2")
    assert [text for text in page.text_of("p") if text.startswith("No evaluation was logged.")]
    assert summary_of(page).keys() == {"steps", "minutes", "last loss"}


@pytest.mark.parametrize("steps", [0, 1])
def test_very_short_runs_have_a_report(tmp_path, steps):
    run = write_run(tmp_path / "run", [*some_steps(steps), evaluation(0, 0.2, es=0.2)], max_steps=0)
    page = read(run)
    assert summary_of(page)["steps"] == [str(steps), "of 0 planned"]
    assert ("No step was logged." in page.text_of("p")) == (steps == 0)
    (run / "metrics.jsonl").unlink()  # as in a run that was just started
    assert summary_of(read(run)).keys() == {"steps", "minutes", "last loss"}


def test_any_text_is_escaped(tmp_path):
    name, tag = '<b>&"run"\udcff', "<i>x</i>"
    lines = [evaluation(0, 0.1, **{tag: 0.1}), *some_steps(2), evaluation(2, 0.2, **{tag: 0.2, '"&': 0.1})]
    page = read(write_run(tmp_path / name, lines, terminology='/T/<script>alert("1")'))
    assert page.text_of("h1") == page.text_of("title")[:1] == ['Training run <b>&"run"?']
    assert ("terminology", '<script>alert("1")', "not set") in settings_of(page)
    assert {f"{tag} 20.0", '"& 10.0'} < set(page.text_of("text"))
    assert page.attributes_of("i") == page.attributes_of("b") == []
    assert page.tables[1][0] == ["step", "mean, n = 100", '"&, n = 50', f"{tag}, n = 50"]


@pytest.mark.slow
def test_long_run_makes_a_small_page_that_keeps_every_peak(tmp_path):
    loss = np.random.default_rng(0).uniform(2, 6, 50_000)
    loss[31_456] = 50.0
    metadata = '"lr": 2e-5, "seconds": 0.3, "names": 512, "tokens": 5000'
    steps = "".join(f'{{"step": {i + 1}, {metadata}, "loss": {x}}}\n' for i, x in enumerate(loss.tolist()))
    evaluations = [evaluation(at, 0.2 + at / 100_000, **dict.fromkeys(LANGUAGES, 0.3)) for at in range(0, 50_001, 50)]
    evaluations[337] = evaluation(337 * 50, 0.9, **dict.fromkeys(LANGUAGES, 0.3))
    run = write_run(tmp_path / "run", evaluations, tail=steps)
    page = read(run)
    assert (run / "report.html").stat().st_size < 300_000
    assert max(path["d"].count("L") for path in page.attributes_of("path")) <= 1001
    each, smooth = loss_lines(log_of(run))
    assert len(smooth.x) <= 500
    assert float(each.y.max()) == 50
    shown = [int(row[0].replace(",", "")) for row in page.tables[1][1:]]
    assert {0, 16_850, 50_000} < set(shown)
    assert len(shown) == 101
    assert [text for text in page.text_of("p") if "These are 101 of 1,001;" in text]


def test_page_refers_to_nothing_outside_itself(short):
    text = write_report(short.run).read_text(encoding="utf-8")
    text = re.sub(r'xmlns(:xlink)?="[^"]*"|xlink:href="#|url\(#', "", text)
    assert (
        re.findall(
            r"https?:|//|src\s*=|href|url\(|@import|@font-face|<script|<link|<img|<iframe|<object|\son\w+=", text
        )
        == []
    )
    assert {file.name for file in short.run.iterdir()} == {"config.json", "metrics.jsonl", "report.html"}


@pytest.mark.slow
def test_same_log_gives_the_same_page(short):
    once = write_report(short.run).read_bytes()
    assert write_report(short.run).read_bytes() == once


def test_import_loads_neither_matplotlib_nor_torch():
    code = "import sys, xsap.training.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("content", [None, "", "[]", '"sampling"', '{"hidden_size": 4}', '{"sampling": '])
def test_folder_that_is_no_run_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ArtifactError) as caught:
        write_report(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected the folder of a training run")
    assert not (tmp_path / "report.html").exists()


def test_missing_folder_or_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="expected the folder of a training run"):
            write_report(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (0.123456, "0.1235"),
        (2e-5, "2e-5"),
        (math.nan, "–"),
        (3e8, "3e8"),
        (0.0, "0"),
        (100, "100"),
    ],
)
def test_format_number_writes_four_digits(value, text):
    assert format_number(value) == text
