"""Probe: the pooling that finds synonyms comes first, by a plain count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.commands import Run
from tests.fixtures.encoders import copy_without_config, save_max_pooled
from xsap import Encoder
from xsap.encoding import encoder as encoder_module
from xsap.encoding.model_folder import POOLINGS
from xsap.encoding.packing import padded_states
from xsap.encoding.probe import open_for_probe, probe
from xsap.encoding.sample_names import SAMPLE_NAMES


def test_probe_matches_a_count_by_hand(tiny_folder: Path) -> None:
    encoder = open_for_probe(tiny_folder)
    results = {result.pooling: result for result in probe(encoder)}
    assert set(results) == set(POOLINGS)
    for pooling in ("cls", "mean"):
        vectors = Encoder.from_pretrained(tiny_folder, pooling=pooling, max_length=25, override=True).encode(
            SAMPLE_NAMES
        )
        hits, margins = 0, []
        for i, vector in enumerate(vectors):
            own = float(vector @ vectors[i + 1 if i % 2 == 0 else i - 1])
            rival = max(float(vector @ vectors[j]) for j in range(len(SAMPLE_NAMES)) if j // 2 != i // 2)
            hits += own > rival
            margins.append(own - rival)
        assert results[pooling].nearest == hits / len(SAMPLE_NAMES)
        np.testing.assert_allclose(results[pooling].margin, np.mean(margins), atol=1e-6)


def test_probe_puts_the_best_pooling_first_and_leaves_the_encoder_unchanged(tiny_folder: Path) -> None:
    encoder = open_for_probe(tiny_folder)
    results = probe(encoder)
    assert [result.nearest for result in results] == sorted((result.nearest for result in results), reverse=True)
    assert encoder.pooling == "cls"


def test_probe_pads_to_25_positions_whatever_the_model_allows(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mean_all` with 8,192 positions would take hours."""
    padded = []
    monkeypatch.setattr(
        encoder_module, "padded_states", lambda *given: padded.append(given[2]) or padded_states(*given)
    )
    encoder = open_for_probe(tiny_folder)
    assert encoder.max_length == 32
    probe(encoder)
    assert set(padded) == {25}
    padded.clear()
    encoder.config = replace(encoder.config, max_length=9)
    probe(encoder)
    assert (set(padded), encoder.max_length) == ({9}, 9)


def test_probe_tries_its_poolings_on_a_folder_that_pools_in_another_way(tiny_folder: Path, tmp_path: Path) -> None:
    bare = copy_without_config(tiny_folder, tmp_path / "bare")
    folder = save_max_pooled(tiny_folder, tmp_path / "st")
    assert probe(open_for_probe(folder)) == probe(open_for_probe(bare))


def test_synonyms_are_different_names() -> None:
    assert len(set(SAMPLE_NAMES)) == len(SAMPLE_NAMES) == 40


def test_probe_command_prints_every_pooling_best_first(tiny_folder: Path, run: Run) -> None:
    done = run("-m", "xsap", "probe", tiny_folder)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.startswith("pooling")
    assert sorted(row.split()[0] for row in rows) == sorted(POOLINGS)
    assert [row.split()[0] for row in rows] == [result.pooling for result in probe(open_for_probe(tiny_folder))]


def test_convert_command_keeps_vectors_and_states_the_pooling(tiny_folder: Path, tmp_path: Path, run: Run) -> None:
    bare = copy_without_config(tiny_folder, tmp_path / "bare")
    done = run("-m", "xsap", "convert", bare, "--pooling", "cls", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = Encoder.from_pretrained(tmp_path / "out")
    expected = Encoder.from_pretrained(bare, pooling="cls")
    assert np.array_equal(made.encode(["fever", "Fieber"]), expected.encode(["fever", "Fieber"]))
