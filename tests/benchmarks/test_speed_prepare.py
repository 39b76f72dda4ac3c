"""The synthetic UMLS release, the original notebook's procedure, and its comparison with ours."""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from benchmarks.speed.notebook import training_pairs
from benchmarks.speed.prepare import (
    NOTEBOOK,
    OURS,
    PrepareComparison,
    ProcessRun,
    compare_prepare,
    run_process,
    to_text,
)
from benchmarks.speed.synthetic_umls import generate
from tests.fixtures.commands import ROOT, Run
from xsap.errors import ArtifactError, XsapError
from xsap.languages import to_iso
from xsap.terms.terminology import Terminology
from xsap.text import EXACT_MATCH, normalize

COLUMNS = {"MRCONSO": 18, "MRSTY": 6, "MRREL": 16, "MRCUI": 7, "MRRANK": 4, "MRSAB": 25, "MRFILES": 6}


@pytest.fixture(scope="module")
def meta(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "META"
    generate(out, rows=20_000, relations=5_000)
    return out


def records(meta: Path, name: str) -> list[list[str]]:
    return [line.split("|") for line in (meta / f"{name}.RRF").read_bytes().decode().split("\n")[:-1]]


def test_release_has_the_true_format_and_announces_its_files(meta):
    announced = {row[0]: row for row in records(meta, "MRFILES")}
    for name, columns in COLUMNS.items():
        rows = records(meta, name)
        assert all(len(row) == columns + 1 and row[-1] == "" for row in rows), name
        if name != "MRFILES":
            size = (meta / f"{name}.RRF").stat().st_size
            assert announced[f"{name}.RRF"][3:6] == [str(columns), str(len(rows)), str(size)]
    assert len(records(meta, "MRCONSO")) == 20_000
    assert len(records(meta, "MRREL")) == 5_000


def test_release_has_the_true_proportions_and_difficult_names(meta):
    rows = records(meta, "MRCONSO")
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    languages = Counter(row[1] for row in rows)
    assert languages.most_common(2)[0][0] == "ENG"
    assert 0.66 < languages["ENG"] / len(rows) < 0.73
    assert len({to_iso(code) for code in languages}) > 20
    concepts = {row[0] for row in rows}
    assert 3.2 < len(rows) / len(concepts) < 4.0
    unique = len({(row[0], row[14].lower()) for row in rows if row[1] == "ENG"}) / languages["ENG"]
    assert 0.80 < unique < 0.93  # 2020AA: 8.74 of 10.28 million
    names = [row[14] for row in rows]
    bearers = defaultdict(set)
    for row in rows:
        bearers[row[14]].add(row[0])
    assert sum(len(ids) > 1 for ids in bearers.values()) > 20
    for sign in ('"', "\\", "\u200b", "e\u0301", "\t", "  "):
        assert any(sign in name for name in names), repr(sign)
    assert max(map(len, names)) > 1000
    assert 0.8 < sum(row[16] == "N" for row in rows) / len(rows) < 0.9
    preferred = Counter((row[0], row[1]) for row in rows if (row[2], row[4], row[6]) == ("P", "PF", "Y"))
    assert set(preferred.values()) == {1}
    assert set(preferred) == {(row[0], row[1]) for row in rows}
    assert {row[0] for row in records(meta, "MRSTY")} == concepts
    retired = records(meta, "MRCUI")
    assert retired
    assert not {row[0] for row in retired} & concepts
    assert {row[5] for row in retired if row[2] != "DEL"} <= concepts
    both = {(row[0], row[4]) for row in records(meta, "MRREL") if row[7] == "tradename_of"}
    back = {(row[4], row[0]) for row in records(meta, "MRREL") if row[7] == "has_tradename"}
    assert both
    assert len(both ^ back) <= 1  # the last relation may be cut in two


@pytest.mark.slow
def test_seed_decides_every_byte_of_a_release(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(tmp_path / name, rows=300, relations=50, seed=seed)
    contents = {name: {file.name: file.read_bytes() for file in (tmp_path / name).glob("*.RRF")} for name in "abc"}
    assert contents["a"] == contents["b"]
    assert contents["a"]["MRCONSO.RRF"] != contents["c"]["MRCONSO.RRF"]
    with pytest.raises(ArtifactError, match="exists already"):
        generate(tmp_path / "a", rows=1)


def test_notebook_and_ours_give_the_same_pairs(meta, tmp_path, run_here: Run):
    """For concepts with so few names that neither draws at random; the notebook keeps white space, so names are normalized."""
    theirs = defaultdict(set)
    for line in training_pairs(meta, tradenames=False):
        concept, left, right = line.split("||")
        theirs[concept].add(frozenset((normalize(left, EXACT_MATCH), normalize(right, EXACT_MATCH))))
    assert run_here("-m", "data_prep", "umls", meta, "--suppress", "all", "--out", tmp_path / "t").returncode == 0
    assert run_here("-m", "data_prep", "export", tmp_path / "t", "--out", tmp_path / "pairs.txt").returncode == 0
    ours = defaultdict(set)
    for line in (tmp_path / "pairs.txt").read_text(encoding="utf-8").split("\n")[:-1]:
        concept, left, right = line.split("||")
        ours[concept].add(frozenset((normalize(left, EXACT_MATCH), normalize(right, EXACT_MATCH))))
    names = Terminology.load(tmp_path / "t").names.to_pylist()
    few = {concept for concept, n in Counter(row["concept_id"] for row in names).items() if n <= 10}
    for concept in few:
        assert {pair for pair in theirs[concept] if len(pair) == 2} == {
            pair for pair in ours[concept] if len(pair) == 2
        }
    assert len(few) > 1000


def test_notebook_keeps_only_the_last_trade_name(tmp_path):
    rows = [("C1", "aspirin"), ("C2", "Brand A"), ("C3", "Brand B")]
    (tmp_path / "MRCONSO.RRF").write_text(
        "".join("|".join([c, *["x"] * 13, name, *["x"] * 3]) + "|\n" for c, name in rows)
    )
    relation = "|".join(["C1", *["x"] * 3, "{}", *["x"] * 2, "tradename_of", *["x"] * 8]) + "|\n"
    (tmp_path / "MRREL.RRF").write_text(relation.format("C2") + relation.format("C3"))
    lines = training_pairs(tmp_path, tradenames=True)
    assert [set(line.split("||")) for line in lines] == [{"C1", "aspirin", "brand b"}]


@pytest.mark.slow
def test_comparison_times_both_in_processes_of_their_own(meta, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = compare_prepare(meta, tradenames=True, rounds=1, notebook=True, max_memory="300MB")
    assert list(result.implementations) == ["xsap-prepare umls", "original notebook"]
    assert all(run.seconds > 0 and run.bytes > 20e6 for runs in result.implementations.values() for run in runs)
    assert result.meta["MRCONSO.RRF"] == (meta / "MRCONSO.RRF").stat().st_size
    assert [path for path in meta.parent.iterdir() if path != meta] == []
    with pytest.raises(
        XsapError, match="expected -m benchmarks.speed.notebook .* to succeed, found exit code 1; see its message above"
    ):
        run_process([sys.executable, "-m", "benchmarks.speed.notebook", str(meta / "nowhere"), str(tmp_path / "x")])


def test_table_has_medians_and_their_ratios():
    ours = [ProcessRun(2.0, 10**9), ProcessRun(9.0, 10**9), ProcessRun(1.0, 3 * 10**9)]
    result = PrepareComparison({}, False, {OURS: ours, NOTEBOOK: [ProcessRun(8.0, 5 * 10**9)]})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in to_text(result).splitlines()]
    assert rows[0][1:] == ["seconds", "speed-up", "peak memory, GB", "memory reduction"]
    assert rows[2:] == [[OURS, "2.0", "4.0", "1.00", "5.0"], [NOTEBOOK, "8.0", "1.0", "5.00", "1.0"]]
    alone = to_text(PrepareComparison({}, False, {OURS: ours})).splitlines()
    assert [cell.strip() for cell in alone[2].split("|")[1:-1]] == [OURS, "2.0", "", "1.00", ""]


@pytest.mark.slow
def test_commands_write_a_release_and_time_ours_alone(tmp_path, run_here: Run):
    done = run_here("-m", "benchmarks", "synthetic-umls", "--out", tmp_path / "META", "--rows", 50, "--relations", 5)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'META'}: 50 rows of MRCONSO, 5 of MRREL\n")
    words = ["--meta", tmp_path / "META", "--no-notebook", "--json", tmp_path / "r.json"]
    done = run_here("-m", "benchmarks", "speed", "prepare", *words)
    assert done.returncode == 0, done.stderr
    assert list(json.loads((tmp_path / "r.json").read_text())["implementations"]) == ["xsap-prepare umls"]
