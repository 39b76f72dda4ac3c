"""Mentions within a terminology: through cross-references, with every row accounted for."""

import pyarrow as pa
import pytest

from benchmarks.accuracy.dictionary import ABSENT, NO_GOLD, RowCounts, count, restrict
from xsap.errors import DataError
from xsap.terms.mentions import build_mentions, read_mentions
from xsap.terms.terminology import NAMES_SCHEMA, Terminology

REFERENCES = {"HP:1": ["UMLS:C0000001", "MeSH:C0000009"], "HP:2": ["UMLS:C0000001", "UMLS:C0000002"], "C0000003": []}


def _terminology():
    rows = [{"concept_id": c, "language": "en", "name": c, "kind": "preferred", "source": "X"} for c in REFERENCES]
    concepts = pa.table({"concept_id": list(REFERENCES), "cross_references": list(REFERENCES.values())})
    return Terminology.build(pa.Table.from_pylist(rows, NAMES_SCHEMA), concepts)[0]


def _mentions():
    gold = [["C0000001"], ["C0000009"], ["C0000003", "C0000002"], ["C0000004", "C0000002"], [], ["HP:1"]]
    return build_mentions(list("abcdef"), ["de", "de", "de", "es", "es", "zh"], gold, start=[1, 2, 3, 4, 5, 6])


def test_gold_becomes_every_concept_that_it_names_and_the_rest_is_dropped():
    table, accounts = restrict(_mentions(), _terminology())
    assert dict(zip(table["mention"].to_pylist(), table["concept_ids"].to_pylist(), strict=True)) == {
        "a": ["HP:1", "HP:2"],
        "c": ["C0000003", "HP:2"],
        "d": ["HP:2"],
        "f": ["HP:1"],
    }
    assert table["start"].to_pylist() == [1, 3, 4, 6]
    assert accounts == {
        "de": RowCounts(3, 2, {ABSENT: 1}),
        "es": RowCounts(2, 1, {NO_GOLD: 1}),
        "zh": RowCounts(1, 1, {}),
    }
    assert count(table) == {"de": RowCounts(2, 2, {}), "es": RowCounts(1, 1, {}), "zh": RowCounts(1, 1, {})}


def test_another_vocabulary():
    table, _ = restrict(_mentions(), _terminology(), vocabulary="MeSH")
    assert dict(zip(table["mention"].to_pylist(), table["concept_ids"].to_pylist(), strict=True))["b"] == ["HP:1"]


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match="none of 1 mentions has its gold concept.*UMLS"):
        restrict(build_mentions(["a"], ["de"], [["C9"]]), _terminology())


def test_an_account_must_add_up():
    with pytest.raises(AssertionError, match="nobody accounts for"):
        RowCounts(3, 1, {ABSENT: 1})


def test_the_command_writes_mentions_and_accounts_for_them(tmp_path, run):
    _terminology().save(tmp_path / "hp")
    file = tmp_path / "de_1k_test_query.txt"
    file.write_text("C0000001||eins\nC0000004||vier\n")
    done = run(
        "-m", "benchmarks", "mentions", "xlbel", file, "--out", tmp_path / "m.tsv", "--terminology", tmp_path / "hp"
    )
    assert (done.returncode, done.stderr) == (0, "")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert cells[0] == ["language", "rows in", "kept", f"dropped: {ABSENT}"]
    assert cells[2:] == [["de German", "2", "1", "1"], ["all", "2", "1", "1"]]
    assert read_mentions(tmp_path / "m.tsv").to_pylist()[0]["concept_ids"] == ["HP:1", "HP:2"]
    file.write_text("C0000001|eins\n")
    done = run("-m", "benchmarks", "mentions", "xlbel", file, "--out", tmp_path / "other.tsv")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith(f"error: {file}:1: expected an XL-BEL line")
    assert not (tmp_path / "other.tsv").exists()
