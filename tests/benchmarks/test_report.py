"""Pages, charts and results files: what is written is read back by a parser, whatever strings it holds."""

import html
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy.dictionary import RowCounts, SearchSpace, count
from benchmarks.accuracy.report import blocks_of, write_pages
from benchmarks.accuracy.results import of_task, provenance, read_results, write_results
from benchmarks.accuracy.scores import CURVE, answer
from benchmarks.accuracy.tasks import Task
from xsap.errors import DataError
from xsap.evaluation.protocols import Dictionary
from xsap.linking.results import Candidate, Result
from xsap.page import Chart, Heading, Paragraph, Table, markdown, per_cent, to_html, to_markdown, with_interval
from xsap.plots import COLORS, Bar, bars, legend, lines
from xsap.terms.mentions import build_mentions

VOID = {"meta", "br", "img", "link", "input"}
NASTY = '<script>alert("1|2")</script>'


class Page(HTMLParser):
    """A page, strictly: every tag closed in its order; tables as rows of texts, SVG marks as attributes."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.texts, self.marks = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
        for name, value in attributes:
            assert name not in ("src", "href", "xlink:href", "srcset"), (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert "url(" not in (value or ""), (tag, name, value)
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        self.marks.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += text
        elif self.open:
            self.texts.append((self.open[-1], text))

    def all(self, tag):
        return [attributes for name, attributes in self.marks if name == tag]


def cells_of(line):
    """The cells of a line of a Markdown table, as GitHub splits it: at each | that has no backslash before it."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1].replace("\\\\", "\0"))]


def literally(text):
    """Markdown's text with its backslash escapes undone (CommonMark 0.31, section 2.4)."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text.replace("\0", "\\\\"))


texts = st.one_of(
    st.sampled_from(
        [
            NASTY,
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
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.text(st.sampled_from("|\\<>&`*_[](){}~#\"' a1\n"), max_size=10),
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), min_size=1, max_size=5)
)


@settings(max_examples=150)
@given(rows=tables, words=st.booleans(), heading=texts, paragraph=texts)
def test_both_pages_give_back_whatever_text_they_were_given(rows, words, heading, paragraph):
    blocks = [Heading(2, heading), Paragraph(paragraph), Table(rows, words)]
    page = Page(to_html(blocks, heading))
    assert page.tables == [[list(row) for row in rows]]
    assert "".join(text for tag, text in page.texts if tag == "p") == paragraph
    written = to_markdown(blocks).split("\n")
    shown = [[" ".join(cell.split()) for cell in row] for row in rows]
    start = len(written) - 1 - (len(rows) + 1)
    found = [cells_of(line) for line in written[start:-1]]
    assert [[literally(cell) for cell in row] for row in [found[0], *found[2:]]] == shown
    assert all(re.fullmatch(r":?-+:?", cell) for cell in found[1])
    assert len(found[1]) == len(rows[0])
    assert written[0] == f"## {written[0][3:]}"
    assert literally(written[0][3:].replace("\\\\", "\0")) == " ".join(heading.split())


@settings(max_examples=100)
@given(rows=tables, words=st.booleans())
def test_a_markdown_parser_reads_the_same_table_without_markup(rows, words):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    cells, inside = [], False
    tokens = parser.parse(to_markdown([Table(rows, words)]))
    for token in tokens:
        if token.type in ("th_open", "td_open"):
            inside = True
        elif token.type == "inline":
            assert inside, "text outside of the table"
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.children
            cells.append("".join(child.content_hash for child in token.children))
    assert cells == [" ".join(cell.split()) for row in rows for cell in row]


def test_tables_to_the_character():
    rows = [["a", "b"], ["x|y", "1"]]
    assert markdown(rows[:1]) == ["| a   |   b |", "| :-- | --: |"]
    assert to_markdown([Heading(1, "T"), Table(rows)]) == "# T\n\n| a    |   b |\n| :--- | --: |\n| x\\|y |   1 |\n"
    assert to_markdown([Table(rows, words=True), Chart("<svg/>")]) == "| a | b |\n| :-- | :-- |\n| x\\|y | 1 |\n"
    for usual in (
        "75.2 [73.6, 76.7]",
        "< 0.001",
        "+1.0 [+0.5, +1.5]",
        "HP:0001 Name (of it)",
        "runs/x_1/model",
        "a & b",
        "–",
    ):
        assert to_markdown([Paragraph(usual)]) == f"{usual}\n"  # what reports are full of stays as it is


def test_scores_as_they_are_written():
    assert [per_cent(value) for value in (0, 0.12345, 1, None)] == ["0.0", "12.3", "100.0", "–"]
    assert with_interval({"a": 0.5, "a_interval": [0.25, 1]}, "a") == "50.0 [25.0, 100.0]"
    assert with_interval({"a": 0.5, "a_interval": [None, None]}, "a") == with_interval({"a": 0.5}, "a") == "50.0"
    assert with_interval({"a": None, "a_interval": [None, None]}, "a") == "–"


def test_bars_are_as_long_as_the_scores():
    rows = {"de": [Bar(0.25, 0.2, 0.5), Bar(0.5)], NASTY: [Bar(None), Bar(1, 0.9, 1)]}
    page = Page(bars(rows, ["one", NASTY], NASTY))
    found = page.all("rect")
    assert [rect["fill"] for rect in found] == [COLORS[0], COLORS[1], COLORS[1]]
    widths = [float(rect["width"]) for rect in found]
    assert widths == pytest.approx([widths[2] / 4, widths[2] / 2, widths[2]], abs=0.1)
    tops = [float(rect["y"]) for rect in found]
    assert tops == sorted(tops)
    left = float(found[0]["x"])
    whiskers = [path["d"] for path in page.all("path") if path["class"] == "whisker"]
    low, high = map(float, re.match(r"M([\d.]+) [\d.]+H([\d.]+)", whiskers[0]).groups())
    assert ((low - left) / widths[2], (high - left) / widths[2]) == pytest.approx((0.2, 0.5), abs=0.001)
    assert len(whiskers) == 2
    said = [text for tag, text in page.texts if tag == "title"]
    assert said == [NASTY, "one, de: 25.0 [20.0, 50.0]", f"{NASTY}, de: 50.0", f"{NASTY}, {NASTY}: 100.0 [90.0, 100.0]"]
    (drawn,) = page.all("svg")
    right, bottom = map(float, drawn["viewbox"].split()[2:])
    assert left + widths[2] < right
    assert tops[-1] < bottom


def test_curves_go_through_their_points():
    curves = {"one": [0, 0.5, 1], NASTY: [0.25, None, 0.25]}
    page = Page(lines(curves, [1, 8, 64], "t"))
    one, other = (
        [tuple(map(float, point.split(","))) for point in line["points"].split()] for line in page.all("polyline")
    )
    assert one[1][0] == pytest.approx((one[0][0] + one[2][0]) / 2)  # 8 is half-way to 64 on a logarithmic scale
    assert one[1][1] == pytest.approx((one[0][1] + one[2][1]) / 2)
    assert one[0][1] > one[2][1]
    assert [point[0] for point in other] == [one[0][0], one[2][0]]
    assert other[0][1] == pytest.approx(one[0][1] + (one[2][1] - one[0][1]) / 4)
    assert [text for tag, text in page.texts if tag == "title"] == [
        "t",
        "one: 0.0 at 1, 50.0 at 8, 100.0 at 64",
        f"{NASTY}: 25.0 at 1, 25.0 at 64",
    ]


def test_no_two_systems_look_alike():
    systems = [f"s{i}" for i in range(18)]
    marks = re.findall(r'<i style="([^"]+)">', legend(systems))
    drawn = Page(lines({system: [0.5, 0.6] for system in systems}, [1, 64], "t")).all("polyline")
    rects = Page(bars({"de": [Bar(0.5)] * 18}, systems, "t")).all("rect")
    assert len(set(marks)) == len({(line["stroke"], line["stroke-dasharray"]) for line in drawn}) == 18
    for mark, line, rect in zip(marks, drawn, rects, strict=True):
        assert mark == f"background:{line['stroke']};opacity:{line['stroke-opacity']}"
        assert mark == f"background:{rect['fill']};opacity:{rect['fill-opacity']}"


class Fixed:
    """Links a mention to the concepts in its table, and to the rows of the same numbers."""

    concept_ids = ("A", "B")

    def __init__(self, table):
        self.table = table

    def link(self, mentions, top_k):
        return [
            Result(m, tuple(Candidate(c, c, NASTY, 1 - i / 9) for i, c in enumerate(self.table.get(m, ""))))
            for m in mentions
        ]

    def dictionary_rows(self, mentions, k):
        rows = np.full((len(mentions), k), -1)
        for i, mention in enumerate(mentions):
            found = ["AB".index(c) for c in self.table.get(mention, "")]
            rows[i, : len(found)] = found
        return rows


TASKS = ("mantra", "hpo|<b>")


def results_of(folder):
    """Two tasks, one of which has published figures, and systems of nasty names."""
    mentions = build_mentions(
        [NASTY, "a|b", "fever", "fever", "lost", "热"],
        ["de", "de", "es", "es", "zh", "zh"],
        [["A"], ["B"], ["B"], ["B"], ["Z"], ["A", "B", "C", "D", "E"]],
    )
    space = SearchSpace(
        Dictionary(["A", "B"], [NASTY, "x | y"]), "a<b>|c", {"A": NASTY, "B": "x | y"}, {"A": ["T047"], "B": ["T121"]}
    )
    accounts = count(mentions) | {"de": RowCounts(4, 2, {"no gold concept": 2})}
    systems = {
        "plain": Fixed({NASTY: "A", "a|b": "AB", "fever": "BA"}),
        "<b>|x": Fixed({NASTY: "BA", "a|b": "AB", "热": "B", "fever": "A"}),
    }
    results = provenance(["python", "-m", "benchmarks", "linking", "--out", "a folder|<i>"])
    results |= {
        "systems": {label: {"kind": "fixed", "of": [{"a": 1}, {"b": {"c": "d"}}]} for label in systems},
        "tasks": {},
        "scores": {},
    }
    results["effects"] = {}
    for name in TASKS:
        task = Task(name, "invented & <nasty>", mentions, space, accounts)
        results["tasks"][name] = task.metadata() | {"training": "0123abcd"}
        results["scores"][name] = of_task(
            task,
            {
                label: answer(task, linking, folder / "answers", f"{name[:3]}{label[:1]}")
                for label, linking in systems.items()
            },
        )
    cells = [{"mention": "cased", "dictionary": "lower", "product": "dot", "acc@1": 0.25}]
    results["effects"][TASKS[0]] = {"<b>|x": cells, "plain": [cells[0] | {"acc@1": None}]}
    return results


@pytest.fixture
def folder(tmp_path):
    write_results(results_of(tmp_path), tmp_path)
    return tmp_path


def test_both_pages_of_a_report(folder):
    results = read_results(folder)
    write_pages(results, folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert NASTY not in text
    assert "@import" not in text
    assert "url(" not in text
    blocks = blocks_of(results)
    assert page.tables == [[list(row) for row in block.rows] for block in blocks if isinstance(block, Table)]
    assert all(len(row) == len(table[0]) for table in page.tables for row in table)
    cells = {cell for table in page.tables for row in table for cell in row}
    assert {NASTY, "热", "Chinese", "mean", f"A {NASTY}; B x | y; C; 2 more", "0123abcd".join(["sha256 ", ""])} <= cells
    headings = [text for tag, text in page.texts if tag in ("h1", "h2", "h3")]
    assert [heading for heading in headings if heading in TASKS] == list(TASKS)
    assert headings.count("Published figures") == 1  # Mantra's
    assert headings.count("Examples: <b>|x") == 2
    assert len(page.all("svg")) == 6
    written = (folder / "report.md").read_text(encoding="utf-8")
    tables = [part.split("\n") for part in written.rstrip("\n").split("\n\n") if part.startswith("| ")]
    assert len(tables) == len(page.tables)
    for lines_, table in zip(tables, page.tables, strict=True):
        rows = [cells_of(line) for line in lines_]
        assert {len(row) for row in rows} == {len(table[0])}
        assert [[literally(cell) for cell in row] for row in [rows[0], *rows[2:]]] == [
            [" ".join(cell.split()) for cell in row] for row in table
        ]
    assert "<script" not in re.sub(r"\\<", "", written)


def test_what_the_pages_say(folder):
    page = Page(to_html(blocks_of(read_results(folder)), "t"))
    summary, german = page.tables[0], page.tables[1]
    rows = {(row[0], row[1]): row[2:] for row in summary[1:]}
    assert rows["mantra", "plain"][0] == "6"
    # plain: German 1 and B at 2, Spanish 1 and 1, Chinese nothing; <b>|x: German A at 2 and B at 2, Spanish nothing, Chinese 1 of 2
    assert [cell.split()[0] for cell in rows["mantra", "plain"][1:5]] == ["50.0", "66.7", "58.3", "66.7"]
    assert [cell.split()[0] for cell in rows["mantra", "<b>|x"][1:5]] == ["16.7", "50.0", "33.3", "50.0"]
    # the reference protocol splits both German mentions at their |, and finds no part
    assert rows["mantra", "plain"][5:] == ["33.3", "33.3"]
    assert [row[0] for row in german] == ["language", "German", "Spanish", "Chinese", "mean"]
    assert [row[2].split()[0] for row in german[1:]] == ["50.0", "100.0", "0.0", "50.0"]
    assert [row[2].split()[0] for row in page.tables[2][1:]] == [
        "0.0",
        "100.0",
        "0.0",
        "33.3",
    ]  # the reference protocol's
    by_first = {table[0][0]: {row[0]: row[1:] for row in table[1:]} for table in page.tables[1:12]}
    assert by_first["k"]["plain"] == ["50.0", *["66.7"] * (len(CURVE) - 1)]
    assert by_first["kind of error"]["gold not in the dictionary"] == ["1", "1"]
    assert by_first["kind of error"]["nothing found"] == ["1", "0"]
    ahead = next(table for table in page.tables if table[0][0] == "best − other")
    assert [row[0] for row in ahead[1:]] == ["plain − <b>|x"] * 4
    assert [row[2].split()[0] for row in ahead[1:]] == ["+50.0", "+100.0", "-50.0", "+33.3"]
    provenance_box = {row[0]: row[1] for row in page.tables[-1][1:]}
    assert provenance_box["command"] == "python -m benchmarks linking --out 'a folder|<i>'"
    assert provenance_box["system plain"] == "kind fixed, of (a 1) and (b (c d))"
    assert provenance_box["mantra: rows"] == "8 in = 6 kept + dropped (de: 2 no gold concept)"
    effects = next(table for table in page.tables if table[0][2:3] == ["compared by"])
    assert effects[1:] == [["cased", "lower", "dot", "25.0", "–"]]


def test_one_system_is_not_compared(tmp_path):
    results = results_of(tmp_path)
    for scored in results["scores"].values():
        for part in ("scores", "curves", "mistakes", "answers"):
            scored[part].pop("plain")
        scored["comparisons"] = []
        scored["parts"] = {part: {"<b>|x": by["<b>|x"]} for part, by in scored["parts"].items()}
    headings = [block.text for block in blocks_of(results) if isinstance(block, Heading)]
    assert not [heading for heading in headings if "ahead" in heading]


def test_results_are_read_as_they_were_written(folder):
    results = read_results(folder)
    assert results["curve"] == list(CURVE)
    write_results(results, folder / "again")
    assert (folder / "again" / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    write_results(results | {"odd": [math.nan, np.float64(1 / 3), (1, "\udcff")]}, folder / "again")
    assert read_results(folder / "again")["odd"] == [None, 0.333333, [1, "\\udcff"]]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", '"format"', "[" * 100_000, b"\xff\xfe", '{"format": 1}', "{}"]
)
def test_files_that_are_no_results(folder, content_hash):
    (folder / "results.json").write_bytes(content_hash if isinstance(content_hash, bytes) else content_hash.encode())
    with pytest.raises(DataError, match=r"results\.json: expected results"):
        read_results(folder)


def test_a_figure_changed_by_hand_is_noticed(folder):
    file = folder / "results.json"
    whole = file.read_text(encoding="utf-8")
    changed = json.loads(whole)
    changed["scores"]["mantra"]["scores"]["plain"]["concept"]["mean"]["acc@1"] = 0.99
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match="its sha256 is another"):
        read_results(folder)
    changed = json.loads(whole)
    changed["format"] = 2
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match="expected results of format 1, found format 2"):
        read_results(folder)
    file.write_text(
        json.dumps(json.loads(whole), indent=3, sort_keys=True), encoding="utf-8"
    )  # laid out otherwise, the same
    read_results(folder)
    with pytest.raises(DataError, match=r"found no results\.json there"):
        read_results(file)


def test_escapes_are_entities():
    assert html.escape(NASTY, quote=False) in to_html([Paragraph(NASTY)], NASTY)
