"""The page of promises: each test that it names exists, and those that are marked slow say so."""

import ast
import re

import pytest

from tests.fixtures.commands import ROOT

PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_promise_has_a_test():
    assert len(ROWS) >= 40
    assert [row for row in ROWS if "::test_" not in row] == []
    assert "promises.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_test_of_a_promise_exists_and_runs_where_the_page_says(file, test):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
    marks = {ast.unparse(mark) for mark in found.decorator_list}
    row = next(row for row in ROWS if f"`{file}::{test}`" in row)
    assert ("pytest.mark.slow" in marks) == ("(slow)" in row)
