"""The report of a run, read back by a plain XML parser: what is drawn, by the ticks beside it, is what the log says."""

import itertools
import json
import math
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.config import Settings
from xsap.errors import ArtifactError
from xsap.training.chart import STYLE, look_of, number, spread, ticks
from xsap.training.report import write_report

LOSS, RATE = 2, 10  # steps before and after one that a short run's loss, or throughput, is smoothed over


def score(value, n=50, half=0.05):
    return {
        "n": n,
        "unreachable": 0,
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
    text = write_report(run).read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n<html ")
    return ET.fromstring(text.partition("\n")[2])


def words(element):
    return " ".join("".join(element.itertext()).split())


def tiles(page):
    return {words(tile[0]): [words(part) for part in tile[1:]] for tile in page.findall(".//div[@class='facts']/div")}


def sections(page):
    return {words(section.find("h2")): section for section in page.iter("section")}


def read_ticks(svg, axis, coordinate):
    pairs = [
        (float(text.get(coordinate)), float(text.text.replace(",", "")))
        for text in svg.iter("text")
        if text.get("class") == axis
    ]
    (a, low), (b, high) = pairs[0], pairs[-1]
    for place, value in pairs:  # the scale is linear
        assert value == pytest.approx(low + (high - low) * (place - a) / (b - a), abs=2e-3 * (high - low))
    return lambda place: low + (high - low) * (place - a) / (b - a), (high - low) / abs(b - a)


def read_chart(section):
    """name → stretches of (step, value), by the ticks; ends: the texts beside the lines' ends → (step, value); unit: values a pixel."""
    svg = section.find(".//svg")
    (x, _), (y, unit) = read_ticks(svg, "x", "x"), read_ticks(svg, "y", "y")

    def dots(element):
        return [[(x(float(dot.get("cx"))), y(float(dot.get("cy"))))] for dot in element.iter("circle")]

    lines, ends = {}, {}
    for group in svg.iter("g"):
        if group.find("title") is None:
            ends[group.find("text").text] = dots(group)[0][0]
        else:
            drawn = [
                [tuple(map(float, point.split(","))) for point in line.get("points").split()]
                for line in group.iter("polyline")
            ]
            lines[group.find("title").text] = [[(x(a), y(b)) for a, b in stretch] for stretch in drawn] + dots(group)
    return SimpleNamespace(svg=svg, lines=lines, ends=ends, unit=unit)


def same(points, steps, values, unit):
    assert len(points) == len(steps)
    np.testing.assert_allclose([x for x, _ in points], steps, atol=0.002 * max(steps))
    np.testing.assert_allclose([y for _, y in points], values, atol=0.2 * unit)


def around(values, i, half):
    return values[max(0, i - half) : i + half + 1]


EVALUATED = {0: (0.1, 0.2, 0.15), 20: (0.3, 0.2, 0.25), 40: (0.6, 0.4, 0.5), 60: (0.5, 0.42, 0.46)}


@pytest.fixture
def short(tmp_path):
    """60 steps with everything that a log may have, and their lines."""
    steps = list(some_steps(60))
    told = [evaluation(0, 0.15, de=0.1, es=0.2)]
    for line in steps:
        told.append(line)
        if line["step"] in EVALUATED:
            de, es, mean = EVALUATED[line["step"]]
            told.append(evaluation(line["step"], mean, de=de, es=es))
    run = write_run(
        tmp_path / "short", told, terminology="T", max_steps=80, optim={"learning_rate": 2e-3}, text={"case": "lower"}
    )
    return SimpleNamespace(run=run, steps=steps)


# What is drawn


def test_the_loss_is_drawn_step_by_step_and_smoothed(short):
    chart = read_chart(sections(read(short.run))["Loss"])
    loss = [line["loss"] for line in short.steps]
    smooth = [sum(around(loss, i, LOSS)) / len(around(loss, i, LOSS)) for i in range(60)]
    same(chart.lines["each step"][0], range(1, 61), loss, chart.unit)
    same(chart.lines["mean"][0], range(1, 61), smooth, chart.unit)
    assert list(chart.ends) == [number(smooth[-1])]
    same([chart.ends[number(smooth[-1])]], [60], smooth[-1:], chart.unit)


def test_the_learning_rate_is_drawn(short):
    chart = read_chart(sections(read(short.run))["Learning rate"])
    same(chart.lines["Learning rate"][0], range(1, 61), [line["lr"] for line in short.steps], chart.unit)


@pytest.mark.parametrize("unit", ["names", "tokens"])
def test_throughput_is_all_names_by_all_seconds_of_some_steps(short, unit):
    title = f"{unit.capitalize()} per second"
    chart = read_chart(sections(read(short.run))[title])
    rates = [
        sum(line[unit] for line in part) / sum(line["seconds"] for line in part)
        for part in (around(short.steps, i, RATE) for i in range(60))
    ]
    same(chart.lines[title][0], range(1, 61), rates, chart.unit)
    assert [float(end.replace(",", "")) for end in chart.ends] == [pytest.approx(rates[-1], rel=1e-3)]


def test_a_log_without_counts_shows_steps_per_second(tmp_path):
    steps = list(some_steps(30, counted=False))
    found = sections(read(write_run(tmp_path / "run", steps)))
    assert not {"Names per second", "Tokens per second"} & found.keys()
    chart = read_chart(found["Steps per second"])
    rates = [len(part) / sum(line["seconds"] for line in part) for part in (around(steps, i, RATE) for i in range(30))]
    same(chart.lines["Steps per second"][0], range(1, 31), rates, chart.unit)


def test_a_log_that_counts_only_from_its_middle_draws_no_rate_before(tmp_path):
    steps = [*some_steps(40, counted=False), *({**line, "step": line["step"] + 40} for line in some_steps(20))]
    chart = read_chart(sections(read(write_run(tmp_path / "run", steps)))["Names per second"])
    (points,) = chart.lines["Names per second"]
    assert points[0][0] == pytest.approx(41 - RATE, abs=0.2)
    first = steps[40 : 40 + RATE + 1]  # the seconds of steps that counted nothing are none of theirs
    assert points[RATE][1] == pytest.approx(
        sum(s["names"] for s in first) / sum(s["seconds"] for s in first), abs=0.2 * chart.unit
    )


def test_accuracy_is_drawn_by_language_and_named_at_its_end(short):
    chart = read_chart(sections(read(short.run))["Acc@1 by language"])
    assert chart.lines.keys() == {"German", "Spanish", "mean"}
    for i, (name, end) in enumerate({"German": "German 50.0", "Spanish": "Spanish 42.0", "mean": "mean 46.0"}.items()):
        percent = [100 * values[i] for values in EVALUATED.values()]
        same(chart.lines[name][0], list(EVALUATED), percent, chart.unit)
        same([chart.ends[end]], [60], percent[-1:], chart.unit)
    assert len(chart.ends) == 3


def test_the_means_interval_is_drawn(short):
    svg = sections(read(short.run))["Acc@1 by language"].find(".//svg")
    (x, _), (y, unit) = read_ticks(svg, "x", "x"), read_ticks(svg, "y", "y")
    band = [tuple(map(float, point.split(","))) for point in svg.find("polygon").get("points").split()]
    means = [values[2] for values in EVALUATED.values()]
    same([(x(a), y(b)) for a, b in band[:4]], list(EVALUATED), [100 * (mean - 0.05) for mean in means], unit)
    same([(x(a), y(b)) for a, b in band[:3:-1]], list(EVALUATED), [100 * (mean + 0.05) for mean in means], unit)


def test_all_charts_end_at_the_last_step_of_the_log(tmp_path):
    lines = [*some_steps(10), evaluation(12, 0.3, es=0.3)]  # a kill took the last steps before they were flushed
    charts = list(read(write_run(tmp_path / "run", lines)).iter("svg"))
    assert len(charts) == 5
    for svg in charts:
        right = float(
            next(path.get("d") for path in svg.iter("path") if path.get("class") == "grid").rpartition("H")[2]
        )
        assert read_ticks(svg, "x", "x")[0](right) == pytest.approx(12, abs=0.02)


def test_the_ends_of_many_lines_are_apart_and_in_the_picture(tmp_path):
    codes = [
        "ar",
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
    lines = [evaluation(step, 0.5, **{code: 0.5 + i / 1000 for i, code in enumerate(codes)}) for step in (0, 5)]
    svg = sections(read(write_run(tmp_path / "run", lines)))["Acc@1 by language"].find(".//svg")
    places = sorted(float(text.get("y")) for text in svg.iter("text") if text.get("class") == "end")
    assert len(places) == 22
    assert min(b - a for a, b in itertools.pairwise(places)) >= 14.8
    assert places[0] >= 10
    assert places[-1] <= float(svg.get("viewBox").split()[3]) - 20
    assert len({look_of(i) for i in range(18)}) == 18


# What is told


def test_the_table_has_every_evaluation(short):
    table = sections(read(short.run))["Evaluations"].find(".//table")
    assert [words(cell) for cell in table.findall("thead/tr/th")] == [
        "step",
        "meann = 100",
        "Germann = 50",
        "Spanishn = 50",
    ]
    rows = {int(row[0].text): [cell.text for cell in row[1:]] for row in table.findall("tbody/tr")}
    assert rows == {
        0: ["15.0 [10.0, 20.0]", "10.0", "20.0"],
        20: ["25.0 [20.0, 30.0]", "30.0", "20.0"],
        40: ["50.0 [45.0, 55.0]", "60.0", "40.0"],
        60: ["46.0 [41.0, 51.0]", "50.0", "42.0"],
    }
    assert [row[0].text for row in table.iter("tr") if row.get("class") == "best"] == ["40"]


def test_the_summary(short):
    found = tiles(read(short.run))
    minutes = sum(line["seconds"] for line in short.steps) / 60
    assert found["Steps"] == ["60", "of 80 planned"]
    assert float(found["Minutes"][0]) == pytest.approx(minutes, rel=5e-3)
    assert float(found["Last loss"][0]) == pytest.approx(short.steps[-1]["loss"], rel=1e-3)
    assert found["Mean Acc@1, %"] == ["46.0 [41.0, 51.0]", "2 languages, n = 100, at step 60"]
    assert found["Best mean Acc@1, %"] == ["50.0 [45.0, 55.0]", "at step 40; its checkpoint is not kept"]
    (short.run / "checkpoints" / "step-40").mkdir(parents=True)
    assert tiles(read(short.run))["Best mean Acc@1, %"][1] == "at step 40; its checkpoint is kept"


def test_the_settings_that_differ_are_told_with_their_defaults(short):
    codes = read(short.run).findall(".//p[@class='settings']/code")
    assert {code.text: code.get("title") for code in codes} == {
        "terminology = T": "default: not set",
        "max_steps = 80": "default: not set",
        "optim.learning_rate = 0.002": "default: 2e-05",
        "text.case = lower": "default: not set",
        "text.unicode = NFC": "default: not set",
    }


def test_settings_at_their_defaults_are_not_told(tmp_path):
    page = read(write_run(tmp_path / "run", some_steps(2)))
    assert words(page.find(".//p[@class='settings']")) == "Settings that differ from the defaults: none"
    assert tiles(page)["Steps"] == ["2", "planned: 1 epoch"]


def test_a_mean_without_an_interval(tmp_path):
    line = evaluation(3, 0.3, es=0.3)
    del line["evaluation"]["mean"]["acc@1_interval"]
    page = read(write_run(tmp_path / "run", [*some_steps(3), line]))
    assert tiles(page)["Mean Acc@1, %"][0] == "30.0"
    assert "30.0" in [cell.text for cell in page.iter("td")]
    assert tiles(page)["Best mean Acc@1, %"][1] == "at step 3; the last"


def test_evaluations_of_other_mentions_are_no_comparison(tmp_path):
    lines = [evaluation(0, 0.2, es=0.2), *some_steps(5), evaluation(5, 0.3, es=0.3, de=0.3)]
    page = read(write_run(tmp_path / "run", lines))
    assert [words(warning) for warning in page.findall(".//p[@class='warning']")] == [
        "Not all evaluations are of the same mentions; their means can't be compared."
    ]
    assert [cell.text for cell in page.find(".//tbody/tr")] == ["0", "20.0 [15.0, 25.0]", "–", "20.0"]


# Logs as they come


def test_a_line_cut_short_is_passed_over_wherever_it_is(tmp_path):
    steps = [*some_steps(20)]
    whole = read(write_run(tmp_path / "whole", steps))
    cut = write_run(
        tmp_path / "cut",
        steps[:10],
        tail='{"step": 11, "lo\n{"step": 11, "evaluation": {"languages": {"es": 3}, "mean": 3}}\n[]\n7\n\n',
    )
    with (cut / "metrics.jsonl").open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in steps[10:]) + '{"step": 21, "loss": 2.')
    assert [ET.tostring(svg) for svg in read(cut).iter("svg")] == [ET.tostring(svg) for svg in whole.iter("svg")]


def test_of_a_step_told_twice_the_later_holds(tmp_path):
    steps, again = list(some_steps(20)), list(some_steps(20, seed=1))
    once = read(write_run(tmp_path / "once", [*steps[:10], *again[10:]]))
    twice = read(write_run(tmp_path / "twice", [*steps, *again[10:]]))
    assert [ET.tostring(svg) for svg in once.iter("svg")] == [ET.tostring(svg) for svg in twice.iter("svg")]


def test_a_loss_that_is_no_number_breaks_the_line_and_is_told(tmp_path):
    steps = list(some_steps(30))
    steps[9]["loss"], steps[20]["loss"], steps[22]["loss"] = math.nan, None, math.inf
    page = read(write_run(tmp_path / "run", steps))
    chart = read_chart(sections(page)["Loss"])
    stretches = sorted(chart.lines["each step"])
    assert [(round(stretch[0][0]), round(stretch[-1][0])) for stretch in stretches] == [
        (1, 9),
        (11, 20),
        (22, 22),
        (24, 30),
    ]
    finite = [line["loss"] for line in steps[7:12] if line["loss"] == line["loss"]]
    assert chart.lines["mean"][0][9][1] == pytest.approx(sum(finite) / 4, abs=0.2 * chart.unit)
    (warning,) = page.findall(".//p[@class='warning']")
    assert words(warning) == "The loss of 3 of 30 steps is not a finite number, first at step 10."


def test_no_finite_loss_at_all(tmp_path):
    page = read(write_run(tmp_path / "run", [line | {"loss": math.nan} for line in some_steps(5)]))
    assert "no finite values" in words(sections(page)["Loss"])
    assert tiles(page)["Last loss"][0] == "–"


def test_without_evaluations_there_is_neither_chart_nor_table(tmp_path):
    page = read(write_run(tmp_path / "run", some_steps(10)))
    assert "Evaluations" not in sections(page)
    assert words(sections(page)["Acc@1"]).startswith("Acc@1No evaluation was logged.")
    assert tiles(page).keys() == {"Steps", "Minutes", "Last loss"}


def test_one_step_is_a_dot(tmp_path):
    (line,) = some_steps(1)
    chart = read_chart(sections(read(write_run(tmp_path / "run", [line])))["Loss"])
    same(chart.lines["each step"][0], [1], [line["loss"]], chart.unit)


def test_no_steps(tmp_path):
    run = write_run(tmp_path / "run", [evaluation(0, 0.2, es=0.2)], max_steps=0)
    page = read(run)
    assert tiles(page)["Steps"] == ["0", "of 0 planned"]
    assert "No step was logged." in words(sections(page)["Loss"])
    svg = sections(page)["Acc@1 by language"].find(".//svg")
    y, unit = read_ticks(svg, "y", "y")
    assert [y(float(dot.get("cy"))) for dot in svg.iter("circle")] == pytest.approx([20] * 4, abs=unit)
    (run / "metrics.jsonl").unlink()  # a run without evaluations has none
    assert tiles(read(run)).keys() == {"Steps", "Minutes", "Last loss"}


def test_whatever_is_in_a_text_is_text(tmp_path):
    name = '<b>&"run"\udcff'
    lines = [
        evaluation(0, 0.1, **{"<i>x</i>": 0.1}),
        *some_steps(2),
        evaluation(2, 0.2, **{"<i>x</i>": 0.2, '"&': 0.1}),
    ]
    page = read(write_run(tmp_path / name, lines, terminology='/T/<script>alert("1")</script>'))
    assert words(page.find(".//h1")) == words(page.find(".//title")) == 'Training run <b>&"run"?'
    assert 'terminology = /T/<script>alert("1")</script>' in [code.text for code in page.iter("code")]
    assert {"<i>x</i> 20.0", '"& 10.0'} < {text.text for text in page.iter("text")}
    assert not [
        element
        for element in page.iter()
        if element.tag in {"script", "i"} and element.text and element.text != "[15.0, 25.0]"
    ]
    assert [cell.text for cell in page.iter("th")] == ["step", "mean", '"&', "<i>x</i>"]


def test_two_hundred_thousand_steps_make_a_small_page_that_keeps_every_peak(tmp_path):
    codes = [
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
    loss = np.random.default_rng(0).uniform(2, 6, 200_000)
    loss[123_456] = 50.0
    metadata = '"lr": 2e-5, "seconds": 0.3, "names": 512, "tokens": 5000'
    steps = "".join(f'{{"step": {i + 1}, {metadata}, "loss": {x}}}\n' for i, x in enumerate(loss.tolist()))
    evaluations = [evaluation(at, 0.2 + at / 400_000, **dict.fromkeys(codes, 0.3)) for at in range(0, 200_001, 200)]
    evaluations[337] = evaluation(337 * 200, 0.9, **dict.fromkeys(codes, 0.3))
    run = write_run(tmp_path / "run", evaluations, tail=steps)
    page = read(run)
    assert (run / "report.html").stat().st_size < 300_000
    assert max(len(line.get("points").split()) for line in page.iter("polyline")) <= 1000
    chart = read_chart(sections(page)["Loss"])
    (drawn,) = chart.lines["each step"]
    assert max(drawn, key=lambda point: point[1]) == (
        pytest.approx(123_457, abs=150),
        pytest.approx(50, abs=chart.unit),
    )
    shown = [int(row[0].text.replace(",", "")) for row in page.findall(".//tbody/tr")]
    assert {0, 67_400, 200_000} < set(shown)
    assert len(shown) == 101
    assert "Here are 101 of 1,001;" in words(sections(page)["Evaluations"])


def test_the_page_needs_nothing_else(short):
    text = write_report(short.run).read_text(encoding="utf-8")
    assert (
        re.findall(
            r"https?:|//|src\s*=|href|url\(|@import|@font-face|<script|<link|<img|<iframe|<object|\son\w+=", text
        )
        == []
    )
    assert {file.name for file in short.run.iterdir()} == {"config.json", "metrics.jsonl", "report.html"}


def test_the_same_log_gives_the_same_page(short):
    once = write_report(short.run).read_bytes()
    assert write_report(short.run).read_bytes() == once


def test_it_needs_no_plotting_library_and_no_torch():
    code = "import sys, xsap.training.report; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("content", [None, "", "[]", '"sampling"', '{"hidden_size": 4}', '{"sampling": '])
def test_a_folder_that_is_no_run_is_refused(tmp_path, content_hash):
    if content_hash is not None:
        (tmp_path / "config.json").write_text(content_hash)
    with pytest.raises(ArtifactError) as caught:
        write_report(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: expected the folder of a training run")
    assert not (tmp_path / "report.html").exists()


def test_a_place_where_nothing_is_or_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "nothing", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="expected the folder of a training run"):
            write_report(place)


# Parts


NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 6))


@given(NUMBERS, NUMBERS, st.integers(3, 12))
def test_ticks_are_round_enclose_and_are_few(a, b, most):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high, most=most)
    step = (found[-1] - found[0]) / (len(found) - 1)
    assert 2 <= len(found) <= most
    assert found[0] <= low + 1e-9 * abs(low)
    assert found[-1] >= high - 1e-9 * abs(high)
    assert f"{step:.6e}"[0] in "125"
    assert f"{step:.6e}"[1:8] == ".000000"
    assert all(value == pytest.approx(step * round(value / step), abs=1e-6 * step) for value in found)


def test_ticks_by_hand():
    assert ticks(0.0, 30.0, most=7) == [0, 5, 10, 15, 20, 25, 30]
    assert ticks(0.0, 0.72, most=5) == [0, 0.2, 0.4, 0.6, 0.8]
    assert ticks(0.0, 2.0, most=10, finest=1.0) == [0, 1, 2]
    assert ticks(0.0, 0.0) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(3.0, 3.0, most=4) == [0, 1, 2, 3]


@given(st.lists(st.floats(0, 300), max_size=12))
def test_labels_are_spread_as_little_as_needed(places):
    found = spread(places, 15, 0, 300)
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [found[i] for i in order]
    assert all(b - a >= 15 - 1e-6 for a, b in itertools.pairwise(moved))
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in moved)
    if all(b - a >= 15 for a, b in itertools.pairwise([places[i] for i in order])):
        assert found == pytest.approx(places)


def test_labels_that_touch_move_together():
    assert spread([100.0, 100.0, 200.0], 20, 0, 300) == [90, 110, 200]
    assert spread([295.0, 299.0], 20, 0, 300) == [280, 300]
    assert spread([2.0, 1.0], 20, 0, 300) == [20, 0]


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
def test_numbers_are_for_people(value, text):
    assert number(value) == text


# linear RGB as protanopes and deuteranopes see it: Machado, Oliveira and Fernandes 2009, severity 1
_EYES = (
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
)
_LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_are_told_apart_by_all_eyes_and_from_their_ground(theme):
    def linear(color):
        digits = color if len(color) == 6 else "".join(2 * digit for digit in color)
        parts = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)

    def luminance(color):
        return linear(color) @ [0.2126, 0.7152, 0.0722]

    variables = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[theme]
    ground, *colors = [
        re.search(rf"--{name}: #(\w+)", variables)[1] for name in ("page", "c0", "c1", "c2", "c3", "c4", "c5")
    ]
    for color in colors:
        dark, light = sorted([luminance(color), luminance(ground)])
        assert (light + 0.05) / (dark + 0.05) >= 3.0
    for eye in _EYES:
        seen = [
            100 * np.array(_LAB) @ np.cbrt(np.array(_LMS) @ np.clip(np.array(eye) @ linear(color), 0, 1))
            for color in colors
        ]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 11
