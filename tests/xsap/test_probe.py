"""Probe: the pooling that finds synonyms comes first, by a plain count."""

from pathlib import Path

import numpy as np

from xsap import Encoder
from xsap.encoding.model_folder import POOLINGS
from xsap.encoding.probe import SYNONYMS, open_for_probe, probe


def test_probe_matches_a_count_by_hand(tiny_folder: Path) -> None:
    encoder = open_for_probe(tiny_folder)
    results = {result.pooling: result for result in probe(encoder)}
    assert set(results) == set(POOLINGS)
    names = [name for pair in SYNONYMS for name in pair]
    for pooling in ("cls", "mean"):
        vectors = Encoder.from_pretrained(tiny_folder, pooling=pooling, override=True).encode(names)
        hits, margins = 0, []
        for i, vector in enumerate(vectors):
            own = float(vector @ vectors[i + 1 if i % 2 == 0 else i - 1])
            rival = max(float(vector @ vectors[j]) for j in range(len(names)) if j // 2 != i // 2)
            hits += own > rival
            margins.append(own - rival)
        assert results[pooling].nearest == hits / len(names)
        np.testing.assert_allclose(results[pooling].margin, np.mean(margins), atol=1e-6)


def test_probe_puts_the_best_pooling_first_and_leaves_the_encoder_unchanged(tiny_folder: Path) -> None:
    encoder = open_for_probe(tiny_folder)
    results = probe(encoder)
    assert [result.nearest for result in results] == sorted((result.nearest for result in results), reverse=True)
    assert encoder.pooling == "cls"


def test_synonyms_are_different_names() -> None:
    names = [name for pair in SYNONYMS for name in pair]
    assert len(set(names)) == len(names) == 40
