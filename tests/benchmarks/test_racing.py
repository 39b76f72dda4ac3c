"""What races share: verdicts by hand, exit codes, charts that show what they are given, and a command line that starts without torch."""

import json
import os

import numpy as np
import pytest
import torch
import typer
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks.speed import harness as racing
from xsap.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("found", "held_to", "most", "met"),
    [
        (8, 8, False, True),
        (7.99, 8, False, False),
        (0.3, 0.3, True, True),
        (0.301, 0.3, True, False),
        (float("nan"), 1, True, False),
    ],
)
def test_a_bar_is_met_or_missed(found, held_to, most, met):
    told = racing.bar("a thing", found, held_to, most=most)
    assert told == {"what": "a thing", "found": found, "bar": held_to, "most": most, "met": met} or np.isnan(found)
    assert told["met"] is met


def test_verdicts_and_exit_codes():
    bars = [racing.bar("times as fast", 8.4567, 8), racing.bar("seconds", 1.25, 1, most=True)]
    assert racing.verdicts(bars) == ["met: times as fast 8.46, bar at least 8", "MISSED: seconds 1.25, bar at most 1"]
    racing.exit_by([])
    racing.exit_by(bars[:1])
    with pytest.raises(typer.Exit) as stopped:
        racing.exit_by(bars)
    assert stopped.value.exit_code == 3


@pytest.mark.parametrize(
    ("figure", "said"), [(0.10523, "0.105"), (12.34, "12.3"), (99.96, "100"), (1234.5, "1,234"), (0, "0"), (9, "9")]
)
def test_figures_in_digits(figure, said):
    assert racing.in_digits(figure) == said


def test_a_machine_is_told_with_its_versions():
    told = racing.machine(CPU, ["transformers"])
    assert told["device"].startswith(f"CPU {os.uname().machine}")
    assert told["threads"] == torch.get_num_threads()
    assert told["cores"] >= 1
    assert told["versions"]["torch"] == torch.__version__
    assert set(told["versions"]) == {"python", "xsap", "torch", "numpy", "transformers"}
    assert f"torch {torch.__version__}, numpy {np.__version__}" in racing.machine_in_words(told)
    json.dumps(told)


def test_the_processor_where_linux_does_not_say(monkeypatch):
    monkeypatch.setattr(racing.Path, "is_file", lambda path: False)
    assert racing.machine(CPU)["device"] == f"CPU {os.uname().machine}"


def test_memory_is_the_processes():
    before = racing.resident("VmRSS")
    held = np.ones(64 << 20, np.uint8)
    assert racing.resident("VmRSS") - before > 48 << 20
    assert racing.resident("VmHWM") >= racing.resident("VmRSS") - (1 << 20)
    assert held.all()


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match="--device cuda needs a GPU and a torch built for it, found none; take --device cpu"
    ):
        racing.device_of(racing.DeviceName.CUDA)
    assert racing.device_of(None) == racing.device_of(racing.DeviceName.CPU) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert racing.device_of(None) == racing.device_of(racing.DeviceName.CUDA) == torch.device("cuda")


def test_a_chart_shows_each_bar_as_long_as_it_is(tmp_path):
    racing.chart({"one": {"theirs": (1, "1"), "xsap a": (3, "3")}, "two": {"xsap b": (2, "2")}}, tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = imread(tmp_path / "c.png")[..., :3]
    grey, blue = (np.abs(picture - to_rgb(color)).max(-1) < 0.02 for color in racing.COLORS)
    lengths = [int(rows.sum(1).max()) for rows in (grey, blue)]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.05)


def test_a_plot_that_cannot_be_written(tmp_path, monkeypatch):
    racing.check_plot(None)
    racing.check_plot(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.png, found .*a\.svg"):
        racing.check_plot(tmp_path / "a.svg")
    monkeypatch.setattr(racing, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        racing.check_plot(tmp_path / "a.png")


def test_json_is_written_where_a_file_is_named(tmp_path):
    racing.write_json({"a": 1}, None)
    racing.write_json({"a": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_the_command_line_starts_without_torch(run):
    done = run(
        "-c", "import sys, benchmarks.__main__; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "set()"
