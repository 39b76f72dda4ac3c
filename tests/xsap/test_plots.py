"""Charts: what matplotlib's axes hold is the data given, and the files say the same bytes for the same data."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from xsap import plots
from xsap.errors import ConfigError
from xsap.plots import (
    COLORS,
    GREY,
    POINTS_PER_LINE,
    Bar,
    Line,
    check_plot,
    heat_map,
    horizontal_bars,
    line_chart,
    reliability_diagram,
    risk_coverage_diagram,
    save,
    score_bars,
    thinned,
    to_svg,
)

NASTY = '<script>alert("$1|2$")</script>'
NAN = float("nan")


def axes_of(plot):
    axes = Figure().subplots()
    plot.draw(axes)
    return axes


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def all_plots():
    return {
        "lines": line_chart([Line("a", [1, 2], [3, 4]), Line(NASTY, [1, 2], [NAN, 2], [0, 1], [3, 4])], title="t"),
        "bars": score_bars({"de": [Bar(0.2, 0.1, 0.3), Bar(None)]}, ["a", NASTY]),
        "horizontal": horizontal_bars({"a": 3, NASTY: 4}),
        "reliability": reliability_diagram([(0.2, 0.3), (0.8, 0.7)], title=NASTY, background=[(0.1, 0.2), (0.9, 0.9)]),
        "risk": risk_coverage_diagram([(0.5, 0), (1, 0.2)], marks={NASTY: (0.5, 0)}),
        "heat": heat_map([[1, 2], [3, 100]], rows=["a", NASTY], columns=["c", "d"]),
    }


def test_line_chart_draws_each_line_with_its_band():
    axes = axes_of(line_chart([Line("a", [0, 10, 20], [1, 5, 3], [0, 4, 2], [2, 6, 4])], x_limits=(0, 30), x_label="k"))
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [10, 5], [20, 3]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {(0.0, 0.0), (0.0, 2.0), (10.0, 4.0), (10.0, 6.0), (20.0, 2.0), (20.0, 4.0)} <= set(map(tuple, band))
    assert axes.get_xlim() == (0, 30)
    assert axes.get_xlabel() == "k"
    assert legend_of(axes) == ["a"]


def test_line_chart_breaks_a_line_at_nan_and_draws_lone_points_as_dots():
    axes = axes_of(line_chart([Line("", range(6), [1, 2, NAN, 3, NAN, NAN])]))
    line, dots = axes.lines
    np.testing.assert_array_equal(line.get_ydata(), [1, 2, NAN, 3, NAN, NAN])
    assert dots.get_xydata().tolist() == [[3, 3]]
    assert axes.get_legend() is None


def test_line_chart_without_finite_values_says_so():
    axes = axes_of(line_chart([Line("", [1, 2], [NAN, NAN])]))
    assert [text.get_text() for text in axes.texts] == ["no finite values"]
    assert axes_of(line_chart([])).texts[0].get_text() == "no finite values"


def test_line_chart_with_logarithmic_x_puts_8_halfway_to_64():
    axes = axes_of(line_chart([Line("a", [1, 8, 64], [0, 50, 100])], log_x=True, x_ticks=[1, 8, 64]))
    x = axes.transData.transform([[1, 0], [8, 0], [64, 0]])[:, 0]
    assert x[1] == pytest.approx((x[0] + x[2]) / 2)
    assert [axes.xaxis.get_major_formatter()(tick) for tick in axes.get_xticks()] == ["1", "8", "64"]


def test_ticks_are_numbers_for_people():
    form = axes_of(line_chart([Line("a", [0, 1], [0, 1])])).yaxis.get_major_formatter()
    assert [form(value) for value in (12000, 0.5, 2e-5, 0)] == ["12,000", "0.5", "2e−05", "0"]


def test_thinned_keeps_peaks_and_the_last_value():
    y = np.random.default_rng(0).uniform(2, 6, 200_000)
    y[123_456], y[500:1500] = 50.0, np.nan
    kept = thinned(y)
    assert len(kept) <= POINTS_PER_LINE + 1
    assert {123_456, int(np.nanargmin(y)), 199_999} <= set(kept.tolist())
    assert thinned(y[:7]).tolist() == list(range(7))
    drawn = axes_of(line_chart([Line("", np.arange(len(y)), y)])).lines[0]
    assert np.nanmax(drawn.get_ydata()) == 50


def test_score_bars_are_as_long_as_the_scores_with_their_intervals():
    axes = axes_of(
        score_bars({"de": [Bar(0.25, 0.2, 0.5), Bar(0.5)], NASTY: [Bar(None), Bar(1, 0.9, 1)]}, ["one", "_two"])
    )
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    assert widths == [[25, 0], [50, 100]]
    whiskers = [
        segment[:, 0].tolist() for lines in axes.collections for segment in lines.get_segments() if len(segment)
    ]
    assert [whisker for whisker in whiskers if whisker[0] < whisker[1]] == [[20, 50], [90, 100]]
    assert sorted(text.get_text() for text in axes.texts) == ["100.0", "25.0", "50.0"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["de", NASTY]
    assert [name.strip("\u200b") for name in legend_of(axes)] == ["one", "_two"]
    tops = [bar.get_y() for bars in axes.containers if hasattr(bars, "patches") for bar in bars]
    assert tops[0] < tops[2] < tops[1] < tops[3]
    assert axes.yaxis_inverted()


def test_horizontal_bars_state_their_values_from_the_top_down():
    axes = axes_of(horizontal_bars({"ours": 12000, "other": 4000}, highlighted=lambda name: name == "ours"))
    assert [bar.get_width() for bar in axes.patches] == [12000, 4000]
    assert [text.get_text() for text in axes.texts] == ["12,000", "4,000"]
    assert axes.yaxis_inverted()
    colors = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colors == [COLORS[0], GREY]
    labeled = axes_of(horizontal_bars({"a": 1}, labels=["3.00 ×"], slots=6))
    assert [text.get_text() for text in labeled.texts] == ["3.00 ×"]
    assert labeled.get_ylim() == (5.5, -0.5)


def test_reliability_and_risk_are_drawn_in_percent():
    diagonal, behind, line = axes_of(reliability_diagram([(0.2, 0.3), (0.8, 0.7)], background=[(0.1, 0.2)])).lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [100, 100]]
    np.testing.assert_allclose(behind.get_xydata(), [[10, 20]])
    np.testing.assert_allclose(line.get_xydata(), [[20, 30], [80, 70]])
    axes = axes_of(risk_coverage_diagram([(0.5, 0.0), (1, 0.2)], marks={"0.95": (0.5, 0.0)}))
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[50, 0], [100, 20]])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[50, 0]])
    assert [text.get_text() for text in axes.texts] == ["0.95"]


def test_heat_map_shows_each_cell_rounded_down():
    axes = axes_of(heat_map([[99.9, 40], [NAN, 100]], rows=["a", "b"], columns=["c", "d"]))
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0.5, 0.5), "99"),
        ((1.5, 0.5), "40"),
        ((1.5, 1.5), "100"),
    ]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize("name", all_plots())
def test_svg_is_deterministic_whole_and_self_contained(name):
    svg = to_svg(all_plots()[name], title=NASTY)
    assert svg == to_svg(all_plots()[name], title=NASTY)
    root = ET.fromstring(svg)
    assert root.get("aria-label") == NASTY
    assert NASTY in ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert re.findall(r"\b(?:href|src)=\"[^#]|url\([^#]|<script|<image|<metadata", svg) == []
    assert "currentColor" in svg
    assert "#1d2733" not in svg  # text takes the color of the page


def test_svg_does_not_depend_on_the_users_matplotlibrc():
    import matplotlib

    plot = line_chart([Line("a", [1, 2], [3, 4])])
    usual = to_svg(plot)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert to_svg(plot) == usual


@pytest.mark.slow
def test_save_writes_the_same_png_or_svg_again(tmp_path):
    grid = list(all_plots().values())
    for name in ("a.png", "a.svg"):
        save(grid, tmp_path / name, title=NASTY, columns=2)
        first = (tmp_path / name).read_bytes()
        save(grid, tmp_path / name, title=NASTY, columns=2)
        assert (tmp_path / name).read_bytes() == first
    image = imread(tmp_path / "a.png")
    assert image.shape[0] > 500
    assert (image[0, 0, :3] == 1).all()
    ET.parse(tmp_path / "a.svg")


def test_grid_hides_what_is_left_over():
    svg = to_svg([line_chart([Line("a", [1], [1])])] * 3, columns=2)
    assert svg.count(">a</text>") == 3
    assert svg.count(">step</text>") == 3


def test_other_suffix_and_missing_matplotlib_are_errors_of_one_line(tmp_path, monkeypatch):
    check_plot(None)
    check_plot(tmp_path / "x.SVG")
    with pytest.raises(ConfigError, match=r"expected a file that ends in \.png or \.svg, found x\.pdf"):
        check_plot(plots.Path("x.pdf"))
    monkeypatch.setattr(plots, "is_available", lambda: False)
    for call in (lambda: check_plot(tmp_path / "x.png"), lambda: to_svg(line_chart([]))):
        with pytest.raises(
            ConfigError, match=r"^charts need matplotlib, found none. Install it: pip install 'xsap\[plot\]'$"
        ):
            call()


def test_series_differ_by_dash_and_marker_and_bars_by_hatch():
    lines = axes_of(line_chart([Line(f"s{i}", [1, 2], [i, i]) for i in range(18)])).lines[::2]
    looks = [(line.get_color(), str(line._unscaled_dash_pattern), line.get_marker()) for line in lines]
    assert len(set(looks)) == 18
    assert len({look[1:] for look in looks}) == 18
    bars = axes_of(score_bars({"de": [Bar(0.5)] * 18}, [f"s{i}" for i in range(18)])).patches
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 18


# linear RGB as protanopes and deuteranopes see it: Machado, Oliveira and Fernandes 2009, severity 1
EYES = (
    np.eye(3),
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
)
LMS = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
OKLAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(color):
    parts = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return linear(color) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("page", ["#ffffff", "#15181c"], ids=["light", "dark"])
def test_colors_contrast_with_a_light_and_a_dark_page(page):
    for color in (*COLORS, GREY):
        dark, light = sorted([luminance(color), luminance(page)])
        assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_colors_differ_to_red_green_blind_eyes_too():
    for eye in EYES:
        seen = [
            100 * np.array(OKLAB) @ np.cbrt(np.array(LMS) @ np.clip(np.array(eye) @ linear(color), 0, 1))
            for color in COLORS
        ]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 11
