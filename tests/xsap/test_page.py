"""Blocks as HTML and as Markdown: what is written is read back by a parser, whatever strings it holds."""

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.examples import examples
from tests.fixtures.html_page import Page
from xsap import plots
from xsap.page import (
    Chart,
    Heading,
    Paragraph,
    Table,
    best_cells,
    charts,
    escape,
    latex_text,
    markdown,
    numeric_columns,
    percent,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    with_interval,
    write_page,
)

NASTY = '<script>alert("1|2")</script>'
SPECIAL = [
    "a|b",
    "a\\|b",
    "\\",
    "|",
    "`|`",
    "**x**",
    "_x_",
    "a_b",
    "[x](http://y)",
    "[x][y]",
    "&amp;",
    "a & b",
    "< 5",
    "~~x~~",
]


def split_cells(line):
    """The cells of a line of a Markdown table, as GitHub splits it: at each | that has no backslash before it."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1].replace("\\\\", "\0"))]


def unescape(text):
    """Markdown's text with its backslash escapes undone (CommonMark 0.31, section 2.4)."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text.replace("\0", "\\\\"))


texts = st.one_of(
    st.sampled_from([NASTY, *SPECIAL]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.text(st.sampled_from("|\\<>&`*_[](){}~#\"' a1\n"), max_size=10),
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=5)
)


@settings(max_examples=examples(150))
@given(rows=tables, words=st.booleans(), heading=texts, paragraph=texts)
def test_html_and_markdown_give_back_any_text(rows, words, heading, paragraph):
    blocks = [Heading(2, heading), Paragraph(paragraph), Table(rows, words)]
    page = Page(to_html(blocks, heading))
    assert page.tables == [[list(row) for row in rows]]
    assert "".join(page.text_of("p")) == paragraph
    written = to_markdown(blocks).split("\n")
    shown = [[" ".join(cell.split()) for cell in row] for row in rows]
    start = len(written) - 1 - (len(rows) + 1)
    found = [split_cells(line) for line in written[start:-1]]
    assert [[unescape(cell) for cell in row] for row in [found[0], *found[2:]]] == shown
    assert all(re.fullmatch(r":?-+:?", cell) for cell in found[1])
    assert len(found[1]) == len(rows[0])
    assert written[0] == f"## {written[0][3:]}"
    assert unescape(written[0][3:].replace("\\\\", "\0")) == " ".join(heading.split())


@settings(max_examples=examples(100))
@given(rows=tables, words=st.booleans())
def test_markdown_parser_reads_the_same_table_without_markup(rows, words):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    cells, inside = [], False
    tokens = parser.parse(to_markdown([Table(rows, words)]))
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            inside = True
        elif token.type == "inline":
            assert inside, "text outside of the table"
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.children
            cells.append("".join(child.content for child in token.children))
    assert cells == [" ".join(cell.split()) for row in rows for cell in row]


def test_markdown_tables_match_to_the_character():
    rows = [["a", "b"], ["x|y", "1"]]
    assert markdown(rows[:1]) == ["| a   |   b |", "| :-- | --: |"]
    assert to_markdown([Heading(1, "T"), Table(rows)]) == "# T\n\n| a    |   b |\n| :--- | --: |\n| x\\|y |   1 |\n"
    assert to_markdown([Table(rows, words=True), Chart("<svg/>")]) == "| a | b |\n| :-- | :-- |\n| x\\|y | 1 |\n"
    assert to_markdown([Paragraph("a|b", warning=True)]) == "**a\\|b**\n"


@pytest.mark.parametrize(
    "text",
    ["75.2 [73.6, 76.7]", "< 0.001", "+1.0 [+0.5, +1.5]", "HP:0001 Name (of it)", "runs/x_1/model", "a & b", "–"],
)
def test_markdown_leaves_common_report_text_as_it_is(text):
    assert to_markdown([Paragraph(text)]) == f"{text}\n"


def test_scores_are_percent_with_their_interval():
    assert [percent(value) for value in (0, 0.12345, 1, None)] == ["0.0", "12.3", "100.0", "–"]
    assert with_interval({"a": 0.5, "a_interval": [0.25, 1]}, "a") == "50.0 [25.0, 100.0]"
    assert with_interval({"a": 0.5, "a_interval": [None, None]}, "a") == with_interval({"a": 0.5}, "a") == "50.0"
    assert with_interval({"a": None, "a_interval": [None, None]}, "a") == "–"


def test_html_marks_the_best_row_and_warnings():
    page = Page(to_html([Paragraph("careful", warning=True), Table([["h"], ["a"], ["b"]], best=1)], "t"))
    assert page.best == [1]
    assert page.attributes_of("p") == [{"class": "warning"}]


def test_columns_of_figures_are_aligned_to_the_right_and_text_to_the_left():
    rows = [
        ["what", "n", "score", "gain", "note", "empty"],
        ["a", "1,234", "75.2 [73.6, 76.7]", "+1.0 [−2.0, +1.5]", "7 of 9", ""],
    ]
    rows.append(["10", "–", "< 0.001", "1.0 to 2.5", "", "–"])
    assert numeric_columns(rows) == [False, True, True, True, False, False]
    page = Page(to_html([Table(rows)], "t"))
    for tag in ("th", "td"):
        classes = [each.get("class") for each in page.attributes_of(tag)]
        assert classes == ["text", None, None, None, "text", "text"] * (1 if tag == "th" else 2)
    assert numeric_columns([["a", "b"]]) == [False, False]


def test_best_cells_are_those_of_a_plain_loop_and_ties_are_both():
    rows = [
        ["task", "system", "a", "b"],
        ["t", "x", "75.2 [70, 80]", "–"],
        ["t", "y", "75.2", "1"],
        ["u", "x", "9", "3"],
    ]
    rows.append(["u", "y", "10.0", "2"])
    assert best_cells(rows, [2, 3], [row[0] for row in rows[1:]]) == {(0, 2), (1, 2), (1, 3), (3, 2), (2, 3)}
    assert best_cells(rows, [2]) == {(0, 2), (1, 2)}
    assert best_cells(rows[:2], [2]) == frozenset()
    table = Table(rows, bold=frozenset({(1, 2)}))
    assert "<td><b>75.2</b></td>" in to_html([table], "t")
    assert " **75.2** |" in to_markdown([table])


LATEX = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<"}
LATEX |= {r"\textgreater{}": ">", r"\textbar{}": "|", r"\textquotedbl{}": '"'}


@settings(max_examples=examples(150))
@given(text=texts)
def test_latex_escapes_every_character_of_its_syntax(text):
    written = latex_text(text)
    commands = re.findall(r"\\[a-z]+\{\}", written)
    assert set(commands) <= LATEX.keys()
    left = re.sub(r"\\[a-z]+\{\}", "", written)
    left = re.sub(r"\\[&%$#_{}]", "", left)
    left = left.removeprefix("{[}").removeprefix("{*}").replace("$-$", "")
    assert not set(left) & set("\\&%$#_{}~^")
    plain = re.sub(r"^\{([\[*])\}", r"\1", written)
    plain = re.sub(r"\\[a-z]+\{\}", lambda match: LATEX[match[0]], plain)
    assert re.sub(r"\\([&%$#_{}])", r"\1", plain) == " ".join(text.split()).replace("–", "--").replace("−", "$-$")


def test_latex_table_is_booktabs_with_the_best_in_bold():
    rows = [["system", "Acc@1"], ["a_b & c", "75.2 [70.0, 80.0]"], ["d", "75.1"]]
    assert to_latex(Table(rows, bold=frozenset({(0, 1)})), "100 %").splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{100 \%}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"system & Acc@1 \\",
        r"\midrule",
        r"a\_b \& c & \textbf{75.2 [70.0, 80.0]} \\",
        r"d & 75.1 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@given(rows=tables)
def test_csv_gives_back_every_cell(rows):
    assert list(csv.reader(io.StringIO(to_csv(rows), newline=""))) == rows


def test_lone_surrogates_of_a_path_are_replaced():
    assert escape("a\udcff<") == "a?&lt;"
    text = to_html([Heading(1, "a\udcff")], "a\udcff") + to_markdown([Paragraph("a\udcff")])
    assert text.encode("utf-8").count(b"a?") == 3


def test_write_page_writes_html_or_markdown_by_suffix(tmp_path):
    blocks = [Heading(1, NASTY)]
    for name, text in (("r.html", to_html(blocks, NASTY)), ("r.md", to_markdown(blocks))):
        write_page(blocks, tmp_path / name, NASTY)
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    assert NASTY not in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_charts_appear_in_html_only_and_vanish_without_matplotlib(monkeypatch):
    plot = plots.horizontal_bars({NASTY: 1})
    (chart,) = charts(plot, NASTY)
    page = Page(to_html([chart], "t"))
    assert [svg["aria-label"] for svg in page.attributes_of("svg")] == [NASTY]
    assert NASTY in page.text_of("text")
    assert to_markdown([chart]) == "\n"
    monkeypatch.setattr(plots, "is_available", lambda: False)
    assert charts(plot, NASTY) == []
