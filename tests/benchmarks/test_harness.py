"""The harness of the speed benchmarks: targets, interleaved timing, machine, memory, JSON and charts."""

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import typer
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks.speed import harness
from benchmarks.speed.harness import Target, target
from xsap.errors import ConfigError
from xsap.plots import COLORS, GREY, save

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Result:
    value: float
    target: Target


@pytest.mark.parametrize(
    ("value", "limit", "at_most", "met"),
    [
        (8, 8, False, True),
        (7.99, 8, False, False),
        (0.3, 0.3, True, True),
        (0.301, 0.3, True, False),
        (float("nan"), 1, True, False),
    ],
)
def test_target_is_met_at_its_limit(value, limit, at_most, met):
    found = target("a thing", value, limit, at_most=at_most)
    assert found == Target("a thing", value, limit, at_most, met) or np.isnan(value)
    assert found.met is met


@pytest.mark.parametrize(
    ("value", "limit", "at_most", "shown"),
    [(20.03, 20, True, "MISSED: x 20.03,"), (999.7, 1000, False, "MISSED: x 999.7,"), (20, 20, True, "met: x 20,")],
)
def test_missed_target_never_looks_met(value, limit, at_most, shown):
    assert str(target("x", value, limit, at_most=at_most)).startswith(shown)


def test_missed_target_is_named_and_exits_with_3():
    targets = [target("speed-up", 8.4567, 8), target("seconds", 1.25, 1, at_most=True)]
    assert list(map(str, targets)) == [
        "met: speed-up 8.46, target at least 8",
        "MISSED: seconds 1.25, target at most 1",
    ]
    harness.exit_by([])
    harness.exit_by(targets[:1])
    with pytest.raises(typer.Exit) as stopped:
        harness.exit_by(targets)
    assert stopped.value.exit_code == 3


@pytest.mark.parametrize(
    ("figure", "text"), [(0.10523, "0.105"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234"), (0, "0"), (9, "9")]
)
def test_figure_has_three_significant_digits(figure, text):
    assert harness.format_figure(figure) == text


def test_implementations_are_interleaved_and_the_warm_up_does_not_count(capsys):
    calls = []
    functions = {name: lambda given, name=name: calls.append((name, given)) or 0.5 for name in ("a", "b")}
    inputs = ["warm", "one", "two"]
    seconds = harness.time_interleaved(functions, inputs, CPU, warm_up=1, report=lambda took, result: f"{result:.1f}")
    assert calls == [(name, each) for each in inputs for name in ("a", "b")]
    assert {name: len(took) for name, took in seconds.items()} == {"a": 2, "b": 2}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "warm-up, a: 0.5"
    assert captured.err.splitlines()[-1] == "round 2, b: 0.5"
    assert len(captured.err.splitlines()) == 6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_product_seconds_times_products_of_the_stated_size(dtype, monkeypatch):
    results = []

    def timed(function, argument, device):
        results.append(function(argument))
        return len(results), results[-1]

    monkeypatch.setattr(harness, "timed", timed)
    assert harness.product_seconds(dtype, 32, 16, CPU, repeats=3) == [2, 3, 4]
    assert {result.shape for result in results} == {(32, 64)}
    assert results[0].dtype == (torch.int32 if dtype == "int8" else getattr(torch, dtype))


def test_product_rate_follows_from_the_median_before_and_after(monkeypatch):
    seconds = iter([[1.0, 2.0], [10.0], [4.0], [30.0]])
    asked = []
    monkeypatch.setattr(harness, "product_seconds", lambda *given: asked.append(given) or next(seconds))
    rates = harness.ProductRates(["float32", "int8"], 8, 2, CPU)
    rates.measure()
    assert asked == 2 * [("float32", 8, 2, CPU), ("int8", 8, 2, CPU)]
    assert rates.flops_per_second() == {"float32": 2 * 8 * 2 * 8 / 2, "int8": 2 * 8 * 2 * 8 / 20}


def test_machine_names_device_cores_and_versions():
    found = harness.describe_machine(CPU, ["transformers"])
    assert found.device.startswith(f"CPU {os.uname().machine}")
    assert found.threads == torch.get_num_threads()
    assert found.cores >= 1
    assert found.versions["torch"] == torch.__version__
    assert set(found.versions) == {"python", "xsap", "torch", "numpy", "transformers"}
    assert f"torch {torch.__version__}, numpy {np.__version__}" in str(found)


def test_machine_without_cpu_info_names_its_architecture(tmp_path):
    assert harness.describe_machine(CPU, cpu_info=tmp_path / "none").device == f"CPU {os.uname().machine}"
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A Fast One\nmodel name\t: A Fast One\n")
    found = harness.describe_machine(CPU, cpu_info=tmp_path / "cpuinfo").device
    assert found == f"CPU {os.uname().machine}, A Fast One"


def test_memory_is_that_of_the_process():
    before = harness.memory_bytes("VmRSS")
    held = np.ones(64 << 20, np.uint8)
    assert harness.memory_bytes("VmRSS") - before > 48 << 20
    assert harness.memory_bytes("VmHWM") >= harness.memory_bytes("VmRSS") - (1 << 20)
    assert held.all()
    del held
    harness.reset_peak_memory()
    assert harness.memory_bytes("VmHWM") - before < 48 << 20


def test_cuda_is_the_default_where_available_and_otherwise_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="--device cuda needs a GPU and a torch built for it, found none; use --device cpu"
    ):
        harness.select_device(harness.DeviceName.CUDA)
    assert harness.select_device(None) == harness.select_device(harness.DeviceName.CPU) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert harness.select_device(None) == harness.select_device(harness.DeviceName.CUDA) == torch.device("cuda")


def test_bar_plot_draws_bars_as_long_as_their_values(tmp_path):
    save(
        [harness.bar_plot("one", {"theirs": 1, "xsap a": 3}), harness.bar_plot("two", {"xsap b": 2})],
        tmp_path / "c.png",
    )
    picture = imread(tmp_path / "c.png")[..., :3]
    grey, color = (np.abs(picture - to_rgb(each)).max(-1) < 0.02 for each in (GREY, COLORS[0]))
    lengths = [int(rows.sum(1).max()) for rows in (grey, color)]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.05)


def test_finish_writes_plots_prints_and_judges(tmp_path, capsys):
    result = Result(1, target("value", 1, 2))
    harness.finish(result, lambda each: f"value {each.value}", json_to=None)
    assert capsys.readouterr().out == "value 1\n"
    with pytest.raises(typer.Exit):
        harness.finish(
            result,
            lambda each: "text",
            json_to=tmp_path / "a.json",
            plot_to=tmp_path / "a.svg",
            plot=lambda each, path: path.write_text(f"{each.value}"),
            targets=[result.target],
        )
    assert (tmp_path / "a.svg").read_text() == "1"
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "value": 1,
        "target": {"what": "value", "value": 1, "limit": 2, "at_most": False, "met": False},
    }
