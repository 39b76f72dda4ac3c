import json
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.export import export_pairs, pair_indices
from xsap.errors import DataError
from xsap.terms.mentions import read_pairs
from xsap.terms.terminology import NAMES_SCHEMA, Terminology
from xsap.text import TextPolicy

LOWER = TextPolicy(case="lower")


def saved(folder, rows):
    """A terminology of (concept, language, name)."""
    columns = {"concept_id": [r[0] for r in rows], "language": [r[1] for r in rows], "name": [r[2] for r in rows]}
    columns |= {
        "kind": ["synonym"] * len(rows),
        "source": ["X"] * len(rows),
        "code": [None] * len(rows),
        "status": [None] * len(rows),
    }
    Terminology.build(pa.table({f.name: pa.array(columns[f.name], f.type) for f in NAMES_SCHEMA}))[0].save(
        folder, overwrite=True
    )
    return folder


@given(st.integers(0, 30), st.integers(0, 60), st.integers(0, 5))
def test_pair_indices_are_all_or_a_distinct_sample(n, cap, seed):
    pairs = pair_indices("C1", n, cap, seed)
    every = list(combinations(range(n), 2))
    assert len(pairs) == len(set(pairs)) == min(cap, len(every))
    assert set(pairs) <= set(every)
    assert pairs == sorted(pairs)
    assert pairs == pair_indices("C1", n, cap, seed)


def test_sampled_pairs_are_uniform():
    counts = Counter(pair for number in range(6000) for pair in pair_indices(f"C{number}", 6, 5, 0))
    expected = 6000 * 5 / 15
    assert len(counts) == 15
    assert (
        sum((n - expected) ** 2 / expected for n in counts.values()) < 36
    )  # chi-square at 14 degrees of freedom, p = 0.001
    assert pair_indices("C1", 20, 9, 0) != pair_indices("C1", 20, 9, 1) != pair_indices("C2", 20, 9, 1)


def test_exported_pairs_match_plain_loop(tmp_path):
    rows = [
        ("C1", "en", "Fever"),
        ("C1", "es", "fever"),
        ("C1", "es", "Fiebre"),
        ("C1", "de", "a||b"),
        ("C1", "de", "a|"),
        ("C2", "en", "x"),
    ]
    rows += [("C3", "en", f"n{i}") for i in range(12)]
    done = export_pairs(saved(tmp_path / "t", rows), tmp_path / "pairs.txt", policy=LOWER)
    lines = (tmp_path / "pairs.txt").read_text().splitlines()
    assert lines[0] == "C1||fever||fiebre"
    possible = {f"C3||{a}||{b}" for a, b in combinations(sorted(f"n{i}" for i in range(12)), 2)}
    assert len(lines) == 51
    assert set(lines[1:]) < possible
    assert (done.names_in, done.names, done.duplicates, done.unwritable) == (18, 15, 1, 2)
    assert (done.concepts, done.sampled, done.pairs) == (2, 1, 51)
    assert read_pairs(tmp_path / "pairs.txt").left[0] == "fever"
    metadata = json.loads((tmp_path / "pairs.txt.json").read_text())
    assert (metadata["pairs_per_concept"], metadata["seed"], metadata["policy"]["case"]) == (50, 0, "lower")
    cased = export_pairs(
        tmp_path / "t", tmp_path / "cased.txt", policy=TextPolicy(), languages={"en", "es"}, pairs_per_concept=3
    )
    assert (tmp_path / "cased.txt").read_text().splitlines()[:2] == ["C1||Fever||Fiebre", "C1||Fever||fever"]
    assert (cased.other_languages, cased.pairs) == (2, 6)


def test_exported_bytes_do_not_depend_on_hash_seed(tmp_path):
    saved(tmp_path / "t", [(f"C{i % 40}", "en", f"name {i}") for i in range(900)])
    words = "from pathlib import Path; from data_prep.export import *; export_pairs(Path('t'), Path(__import__('sys').argv[1]), policy=TextPolicy())"
    files = []
    for seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path])),
        }
        subprocess.run([sys.executable, "-c", words, f"{seed}.txt"], cwd=tmp_path, env=environment, check=True)
        files.append((tmp_path / f"{seed}.txt").read_bytes())
    assert files[0] == files[1]
    assert len(files[0].splitlines()) == 40 * 50


def test_export_without_pairs_writes_nothing(tmp_path):
    saved(tmp_path / "t", [("C1", "en", "fever")])
    with pytest.raises(DataError, match="expected a concept with two names to pair, found none; choose more languages"):
        export_pairs(tmp_path / "t", tmp_path / "pairs.txt", policy=LOWER)
    assert [file.name for file in tmp_path.iterdir()] == ["t"]
