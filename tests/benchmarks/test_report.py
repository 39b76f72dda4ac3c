"""Reports and results files: what is written is read back by a parser, whatever strings it contains."""

import html
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy.breakdowns import AblationCell
from benchmarks.accuracy.report import report_blocks, write_pages
from benchmarks.accuracy.results import RunResults, read_results, results_of_task, write_results
from benchmarks.accuracy.scores import CURVE, answer
from tests.fixtures.accuracy_tasks import TableLinker, task_of
from tests.fixtures.html_page import Page
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.page import Heading, Paragraph, Table, to_html

NASTY = '<script>alert("1|2")</script>'


def cells_of(line):
    """The cells of a line of a Markdown table, as GitHub splits it: at each | that has no backslash before it."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1].replace("\\\\", "\0"))]


def literally(text):
    """Markdown's text with its backslash escapes undone (CommonMark 0.31, section 2.4)."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text.replace("\0", "\\\\"))


TASKS = ("mantra", "hpo|<b>")
ROWS = [
    (NASTY, "de", ["A"]),
    ("a|b", "de", ["B"]),
    ("fever", "es", ["B"]),
    ("fever", "es", ["B"]),
    ("lost", "zh", ["Z"]),
    ("热", "zh", ["A", "B", "C", "D", "E"]),
]


def linker(table):
    """Links a mention to the concepts in its table, and to the rows of the same numbers."""
    by_mention = {mention: (concepts, ["AB".index(c) for c in concepts]) for mention, concepts in table.items()}
    return TableLinker(by_mention, ("A", "B"), matched_name=NASTY)


def results_of(folder):
    """Two tasks, one of which has published figures, and systems with names that need escapes."""
    linkers = {
        "plain": linker({NASTY: "A", "a|b": "AB", "fever": "BA"}),
        "<b>|x": linker({NASTY: "BA", "a|b": "AB", "热": "B", "fever": "A"}),
    }
    results = RunResults.from_command(["python", "-m", "benchmarks", "linking", "--out", "a folder|<i>"])
    results.systems.update({label: {"kind": "fixed", "of": [{"a": 1}, {"b": {"c": "d"}}]} for label in linkers})
    for name in TASKS:
        types = {"A": ["T047"], "B": ["T121"]}
        task = task_of(
            ROWS, [("A", NASTY), ("B", "x | y")], name=name, preferred={"A": NASTY, "B": "x | y"}, types=types
        )
        counts = {**task.row_counts, "de": RowCounts(4, 2, {"no gold concept": 2})}
        task = replace(task, about="synthetic & <nasty>", row_counts=counts)
        results.tasks[name] = task.metadata() | {"training": "0123abcd"}
        answers = {
            label: answer(task, each, folder / "answers", f"{name[:3]}{label[:1]}") for label, each in linkers.items()
        }
        results.scores[name] = results_of_task(task, answers)
    cell = AblationCell("cased", "lower", "dot", 0.25)
    results.ablations[TASKS[0]] = {"<b>|x": [cell], "plain": [replace(cell, accuracy=None)]}
    return results


@pytest.fixture
def folder(tmp_path):
    write_results(results_of(tmp_path), tmp_path)
    return tmp_path


def test_both_pages_have_all_tables(folder):
    results = read_results(folder)
    write_pages(results, folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert NASTY not in text
    assert "@import" not in text
    blocks = report_blocks(results)
    assert page.tables == [[list(row) for row in block.rows] for block in blocks if isinstance(block, Table)]
    assert all(len(row) == len(table[0]) for table in page.tables for row in table)
    cells = {cell for table in page.tables for row in table for cell in row}
    assert {NASTY, "热", "Chinese", "mean", f"A {NASTY}; B x | y; C; 2 more", "0123abcd".join(["sha256 ", ""])} <= cells
    headings = [text for tag, text in page.texts if tag in ("h1", "h2", "h3")]
    assert [heading for heading in headings if heading in TASKS] == list(TASKS)
    assert headings.count("Published figures") == 1  # Mantra's
    assert headings.count("Examples: <b>|x") == 2
    assert len(page.attributes_of("svg")) == 6
    written = (folder / "report.md").read_text(encoding="utf-8")
    tables = [part.split("\n") for part in written.rstrip("\n").split("\n\n") if part.startswith("| ")]
    assert len(tables) == len(page.tables)
    bold = re.compile(r"^\*\*(.*)\*\*$")
    for lines_, table in zip(tables, page.tables, strict=True):
        rows = [cells_of(line) for line in lines_]
        assert {len(row) for row in rows} == {len(table[0])}
        assert [[literally(bold.sub(r"\1", cell)) for cell in row] for row in [rows[0], *rows[2:]]] == [
            [" ".join(cell.split()) for cell in row] for row in table
        ]
    assert "<script" not in re.sub(r"\\<", "", written)


def test_pages_show_expected_figures(folder):
    page = Page(to_html(report_blocks(read_results(folder)), "t"))
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
    comparison = next(table for table in page.tables if table[0][0] == "best − other")
    assert [row[0] for row in comparison[1:]] == ["plain − <b>|x"] * 4
    assert [row[2].split()[0] for row in comparison[1:]] == ["+50.0", "+100.0", "-50.0", "+33.3"]
    provenance = {row[0]: row[1] for row in page.tables[-1][1:]}
    assert provenance["command"] == "python -m benchmarks linking --out 'a folder|<i>'"
    assert provenance["system plain"] == "kind fixed, of (a 1) and (b (c d))"
    assert provenance["mantra: rows"] == "8 in = 6 kept + dropped (de: 2 no gold concept)"
    ablation = next(table for table in page.tables if table[0][2:3] == ["similarity"])
    assert ablation[1:] == [["cased", "lower", "dot", "25.0", "–"]]


def test_single_system_is_not_compared(tmp_path):
    results = results_of(tmp_path)
    for task, scored in results.scores.items():
        results.scores[task] = replace(
            scored,
            scores={"<b>|x": scored.scores["<b>|x"]},
            curves={"<b>|x": scored.curves["<b>|x"]},
            errors={"<b>|x": scored.errors["<b>|x"]},
            breakdowns={name: {"<b>|x": by["<b>|x"]} for name, by in scored.breakdowns.items()},
            comparisons=[],
        )
    headings = [block.text for block in report_blocks(results) if isinstance(block, Heading)]
    assert not [heading for heading in headings if "better than" in heading]


def test_results_are_read_as_they_were_written(folder):
    results = read_results(folder)
    assert results.curve == list(CURVE)
    assert RunResults.from_dict(json.loads(json.dumps(results.to_dict()))) == results
    write_results(results, folder / "again")
    assert (folder / "again" / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    odd = {"odd": {"values": [math.nan, np.float64(1 / 3), (1, "\udcff")]}}
    write_results(replace(results, systems=odd), folder / "again")
    assert read_results(folder / "again").systems == {"odd": {"values": [None, 0.333333, [1, "\\udcff"]]}}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "3", '"format"', "[" * 100_000, b"\xff\xfe", '{"format": 2}', '{"format": 1}', "{}"],
)
def test_other_file_is_rejected(folder, content):
    (folder / "results.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"results\.json: expected results"):
        read_results(folder)


def test_changed_figure_or_other_format_is_rejected(folder):
    file = folder / "results.json"
    whole = file.read_text(encoding="utf-8")
    changed = json.loads(whole)
    changed["scores"]["mantra"]["scores"]["plain"]["concept"]["mean"]["scores"]["acc@1"][0] = 0.99
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(DataError, match="found another sha256"):
        read_results(folder)
    changed = json.loads(whole)
    changed["format"] = 1
    file.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(
        DataError, match="expected results of format 2, found format 1; run `python -m benchmarks linking` again"
    ):
        read_results(folder)
    file.write_text(
        json.dumps(json.loads(whole), indent=3, sort_keys=True), encoding="utf-8"
    )  # other whitespace, same content
    read_results(folder)
    with pytest.raises(DataError, match=r"found no results\.json there"):
        read_results(file)


def test_html_is_escaped():
    assert html.escape(NASTY, quote=False) in to_html([Paragraph(NASTY)], NASTY)
