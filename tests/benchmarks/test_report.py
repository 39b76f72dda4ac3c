"""Pages, charts and results files: what is written is read back by a parser, whatever strings it holds."""

import html
import json
import math
import re

import numpy as np
import pytest

from benchmarks.accuracy.dictionary import SearchSpace, count
from benchmarks.accuracy.report import blocks_of, write_pages
from benchmarks.accuracy.results import of_task, provenance, read_results, write_results
from benchmarks.accuracy.scores import CURVE, answer
from benchmarks.accuracy.tasks import Task
from tests.fixtures.html_page import Page
from xsap.errors import DataError
from xsap.evaluation.protocols import ReferenceDictionary
from xsap.files import RowCounts
from xsap.linking.results import Candidate, Result
from xsap.page import Heading, Paragraph, Table, to_html
from xsap.terms.mentions import build_mentions

NASTY = '<script>alert("1|2")</script>'


def cells_of(line):
    """The cells of a line of a Markdown table, as GitHub splits it: at each | that has no backslash before it."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line[1:-1].replace("\\\\", "\0"))]


def literally(text):
    """Markdown's text with its backslash escapes undone (CommonMark 0.31, section 2.4)."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text.replace("\0", "\\\\"))


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
        ReferenceDictionary(["A", "B"], [NASTY, "x | y"]),
        "a<b>|c",
        {"A": NASTY, "B": "x | y"},
        {"A": ["T047"], "B": ["T121"]},
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
    blocks = blocks_of(results)
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
def test_files_that_are_no_results(folder, content):
    (folder / "results.json").write_bytes(content if isinstance(content, bytes) else content.encode())
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
