"""Reports: the table from hand-made results, to the character; the chart's bars, by their pixels; what may not be compared."""

import json

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from benchmarks.accuracy.compare import _COLORS, plot, read_systems, to_markdown
from xsap.errors import ConfigError, DataError
from xsap.page import markdown


def _row(n, one, five, interval=None):
    return {"n": n, "acc@1": one, "acc@5": five, "mrr": one} | ({"acc@1_interval": interval} if interval else {})


def _results(one=0.25, five=0.5, n=1200, **more):
    languages = {"de": _row(n, one, five, [one - 0.125, one + 0.125]), "zh": _row(25, one + 0.25, five)}
    return {"protocol": "concept", "k": 10, "languages": languages, "mean": _row(n + 25, one + 0.125, five)} | more


def _write(folder, **results):
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result))
    return [f"{name}={folder / name}.json" for name in results]


def test_the_table_to_the_character(tmp_path):
    after = _results(
        0.5, 0.75, model="0123456789abcdef", dictionary={"names": 28467, "concepts": 19562, "languages": ["en"]}
    )
    given = _write(tmp_path, before=_results(), after=after)
    assert to_markdown(read_systems(given)).splitlines() == [
        "Protocol: concept. Per cent, with 95 % bootstrap intervals; the mean takes each language alike.",
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


def test_markdown_needs_no_wide_cells():
    assert markdown([["a", "b"], ["x", "1"]]) == ["| a   |   b |", "| :-- | --: |", "| x   |   1 |"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "reference"}, "expected one protocol, found concept and reference"),
        ({"n": 1201}, "expected the same mentions, found 1,200 and 1,201 in 'de'"),
        ({"mentions": {"sha256": "b"}}, "two files of different content"),
        ({"languages": {"de": _row(1200, 0, 0)}}, "found 25 and 0 in 'zh'"),
    ],
)
def test_what_may_not_be_compared(tmp_path, change, message):
    given = _write(tmp_path, before=_results(mentions={"sha256": "a"}), after=_results(**change))
    with pytest.raises(DataError, match=message):
        read_systems(given)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"languages": {}}', '{"languages": {"de": {"n": 3}}, "mean": {}}']
)
def test_a_file_that_is_no_result(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: expected the results of xsap evaluate --json"):
        read_systems([f"a={tmp_path / 'a.json'}"])


def test_names_of_systems(tmp_path):
    (given,) = _write(tmp_path, a=_results())
    with pytest.raises(ConfigError, match="found 'a' twice"):
        read_systems([given, given])
    for text in ("a.json", "=a.json", "a="):
        with pytest.raises(ConfigError, match="expected NAME=FILE"):
            read_systems([text])


def _area(path, color):
    """How many pixels have a color."""
    return int((abs(imread(path)[..., :3] - to_rgb(color)).max(-1) < 0.02).sum())


def test_bars_are_as_high_as_the_scores(tmp_path):
    systems = read_systems(_write(tmp_path, before=_results(0.25), after=_results(0.5)))
    plot(systems, tmp_path / "chart.png")
    first, second = (_area(tmp_path / "chart.png", color) for color in _COLORS[:2])
    assert second / first == pytest.approx((0.5 + 0.75 + 0.625) / (0.25 + 0.5 + 0.375), rel=0.1)
    assert _area(tmp_path / "chart.png", _COLORS[2]) == 0
    with pytest.raises(ConfigError, match=r"ends in \.png, found .*chart\.svg"):
        plot(systems, tmp_path / "chart.svg")


def test_the_command_as_the_demo_calls_it(tmp_path, run):
    _write(tmp_path, before=_results(), after=_results(0.5))
    done = run(
        "-m", "benchmarks", "compare", "before=before.json", "after=after.json", "--plot", "linking.png", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "| mean     | 1,225 |" in done.stdout
    assert (tmp_path / "linking.png").read_bytes().startswith(b"\x89PNG")
    for wrong in (["x=gone.json"], ["before"], []):
        done = run("-m", "benchmarks", "compare", *wrong, cwd=tmp_path)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert done.stderr.startswith("error: ")
