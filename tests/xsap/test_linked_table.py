"""Linked tables as mappings: what every output format of `xsap link` holds comes back as the linker gave it."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.exchange.linked_table import TermColumns, is_linked, read_linked
from xsap.exchange.mapping import Status
from xsap.linking.results import Candidate, Result
from xsap.tabular.link_file import link_file
from xsap.tabular.readers import open_table
from xsap.tabular.spreadsheet_text import escape_for_excel, escape_formula, unescape_cell
from xsap.tabular.writers import OutputFormat

COLUMNS = TermColumns("term", "code", "lang", "count")
ROWS = [
    ["007", "Fieber", "de", "12", "=1+1"], ["1/2", "жар", "rus", "", "-5"], ["3", "no answer", "", "3.0", "'=x"], ["4", "unsure", "xx?", "many", "a|b"],
    ["5", "Fieber", "en", "1", ""],
]  # fmt: skip
HEADER = ["code", "term", "lang", "count", "name"]


class Answers:
    """A linker with candidates of every kind; one mention without, one that is too uncertain."""

    def link(self, mentions, top_k=5, *, languages=None, filter=None):  # noqa: A002
        return [self._result(*each) for each in zip(mentions, languages, strict=True)]

    def _result(self, mention, language):
        found = (
            Candidate(
                "A:1", f"={mention}", mention, 1.0, "de", "SRC", ("T184", "T047"), ("A:1", "B:007"), 0.975, "exact"
            ),
            Candidate("A:2", "other", "-5", -0.125, language or "und", "", (), (), None, "similar"),
        )
        if mention == "no answer":
            return Result(mention, (), "no term")
        return Result(mention, (), "too uncertain", found) if mention == "unsure" else Result(mention, found)


@pytest.fixture
def table(tmp_path):
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([HEADER, *ROWS])
    return open_table(tmp_path / "in.csv")


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("ending", "excel"), [("csv", False), ("csv", True), ("tsv", False), ("csv.gz", False), ("jsonl", False), ("parquet", False), ("xlsx", False)])  # fmt: skip
def test_linked_file_of_any_format_comes_back_as_it_was_linked(table, tmp_path, ending, excel, wide):
    out = tmp_path / f"out.{ending}"
    output_format = OutputFormat.for_file(out, None, top_k=3, wide=wide, excel=excel)
    link_file(Answers(), table, out, output_format, column="term", language_column="lang")
    linked = open_table(out)
    assert is_linked(linked.header)
    found = list(read_linked(linked, COLUMNS))
    assert [(each.source_code, each.source_name, each.language, each.frequency) for each in found] == [
        ("007", "Fieber", "de", 12), ("1/2", "жар", "ru", None), ("3", "no answer", "und", 3), ("4", "unsure", "und", None), ("5", "Fieber", "en", 1),
    ]  # fmt: skip
    assert [dict(each.columns) for each in found] == [{"name": row[-1]} for row in ROWS]
    assert {each.status for each in found} == {Status.UNREVIEWED}
    for each, row in zip(found, ROWS, strict=True):
        expected = Answers().link([row[1]], languages=[each.language])[0]
        assert each.candidates == (expected.candidates or expected.uncertain)
        assert (each.score, each.confidence) == ((None, None) if row[1] == "no answer" else (1.0, 0.975))


def test_table_that_is_not_linked_is_refused(table):
    assert not is_linked(HEADER)
    assert not is_linked(["rank", "name", "score", "code"])
    with pytest.raises(DataError, match="expected a table that xsap link wrote"):
        next(read_linked(table, COLUMNS))


def test_columns_of_older_versions_leave_those_of_the_input_alone(tmp_path):
    """Before candidates had codes of their own, a column `code` was the input's."""
    (tmp_path / "old.csv").write_text(
        "code,term,rank,concept_id,name,matched_name,score,reason\n7,a,1,A:1,x,y,0.5,\n", encoding="utf-8"
    )
    [found] = read_linked(open_table(tmp_path / "old.csv"), TermColumns("term", "code"))
    assert (found.source_code, found.candidates[0].code, found.candidates[0].score) == ("7", "", 0.5)


def test_sorted_rows_are_refused_with_their_row(table, tmp_path):
    link_file(Answers(), table, tmp_path / "out.csv", OutputFormat("csv", 3), column="term", language_column="lang")
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "sorted.csv").write_text(
        "\n".join([lines[0], lines[2], *lines[1:2], *lines[3:]]) + "\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"sorted\.csv: row 1: expected the candidates of a term by rank"):
        list(read_linked(open_table(tmp_path / "sorted.csv"), COLUMNS))


@given(st.text(st.sampled_from("=+-@'\" \t0159.,/aM|\u200b"), max_size=8) | st.text(max_size=12))
def test_escaped_cells_come_back(cell):
    assert unescape_cell(escape_formula(cell)) == cell
    if not cell.startswith('="'):
        assert unescape_cell(escape_for_excel(cell)) == cell
