"""Strata of tested mentions, and the comparison of two systems by stratum."""

import numpy as np
import pytest

from xsap.evaluation.strata import Stratum, compare_by_stratum, strata_of, strata_table
from xsap.terms.mentions import build_mentions


def mentions(*rows: tuple[str, list[str]]):
    return build_mentions([text for text, _ in rows], ["es"] * len(rows), [ids for _, ids in rows])


def test_strata_are_string_then_concept_then_neither() -> None:
    trained = mentions(("Fiebre", ["C1"]), ("dolor", ["C2", "C3"]), ("nada", []))
    tested = mentions(
        ("fiebre", ["C9"]),  # the string counts, whatever its concept
        ("calentura", ["C8", "C1"]),
        ("jaqueca", ["C3"]),
        ("tos", ["C4"]),
        ("ruido", []),
        ("NADA", []),
    )
    seen = [Stratum.STRING_SEEN, Stratum.CONCEPT_SEEN, Stratum.CONCEPT_SEEN, Stratum.NEITHER, Stratum.NEITHER]
    assert strata_of(tested, trained) == [*seen, Stratum.STRING_SEEN]


def test_comparison_has_the_counts_of_each_stratum_and_pairs_mentions() -> None:
    strata = [Stratum.STRING_SEEN] * 40 + [Stratum.NEITHER] * 20
    before = np.array([1] * 40 + [0] * 20)
    after = np.array([0] * 30 + [1] * 10 + [0] * 5 + [-1] * 15)
    found = compare_by_stratum(before, after, strata, seed=0)
    assert list(found) == ["all", "string seen", "neither"]  # none of the second stratum
    assert [each.n for each in found.values()] == [60, 40, 20]
    assert found["all"].gain.difference == pytest.approx((30 - 15) / 60)
    assert found["string seen"].before.value == 0
    assert found["string seen"].after.value == 0.75
    assert found["neither"].gain.difference == -0.75
    assert found["neither"].significantly_worse
    assert not found["string seen"].significantly_worse
    assert found["neither"].mcnemar == pytest.approx(2 * 0.5**15)
    rows = strata_table(found)
    assert [row[0] for row in rows] == ["mentions", "all", "string seen", "neither"]
    assert rows[3][3].startswith("25.0 [")
    assert found["neither"].to_dict()["n"] == 20


def test_equal_systems_are_not_significantly_worse() -> None:
    ranks = np.array([0, 1, -1] * 10)
    (all_mentions, neither) = compare_by_stratum(ranks, ranks, [Stratum.NEITHER] * 30, seed=1).values()
    assert neither.gain.difference == neither.gain.high == 0
    assert not neither.significantly_worse
    assert all_mentions.mcnemar == 1
