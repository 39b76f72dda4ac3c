"""Strata of tested mentions, by what a system was given to learn from: the mention itself, its concept, or neither.

Learning from mentions helps most where the same string was annotated, and may harm concepts that nobody annotated; one figure for all hides
that. So systems are compared stratum by stratum, each mention with itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from xsap.evaluation.metrics import Difference, Ranks, Score, bootstrap_interval, hits, mcnemar, mean, paired_bootstrap
from xsap.text import fold_case


class Stratum(StrEnum):
    """What of a tested mention occurs among the mentions that were learned from."""

    STRING_SEEN = "string seen"  # its string, in upper or lower case, of whatever concept
    CONCEPT_SEEN = "concept seen"  # not its string, but one of its concepts
    NEITHER = "neither"


ALL_STRATA = "all"


def strata_of(tested: pa.Table, trained: pa.Table) -> list[Stratum]:
    """The stratum of each tested mention.

    Args:
        tested: A table of `terms.mentions.SCHEMA`.
        trained: The mentions that were learned from; a table of the same schema.

    Returns:
        A stratum for each row of `tested`. A mention without a concept (NIL) has none that could be seen.
    """
    strings = {fold_case(mention) for mention in trained["mention"].to_pylist()}
    concepts = {concept for ids in trained["concept_ids"].to_pylist() for concept in ids}
    return [
        Stratum.STRING_SEEN
        if fold_case(mention) in strings
        else Stratum.NEITHER
        if concepts.isdisjoint(ids)
        else Stratum.CONCEPT_SEEN
        for mention, ids in zip(tested["mention"].to_pylist(), tested["concept_ids"].to_pylist(), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class StratumComparison:
    """Acc@1 of two systems on the mentions of a stratum, with 95 % intervals.

    Attributes:
        n: Mentions.
        before: Of the first system.
        after: Of the second one.
        gain: The second less the first, paired by mention.
        mcnemar: Exact p value that both are right equally often.
    """

    n: int
    before: Score
    after: Score
    gain: Difference
    mcnemar: float

    @property
    def significantly_worse(self) -> bool:
        """Whether the whole interval of the gain is below 0."""
        return self.gain.high < 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        scores = {"before": list(self.before), "after": list(self.after)}
        return {"n": self.n, **scores, "gain": self.gain._asdict(), "mcnemar_p": self.mcnemar}


def compare_by_stratum(
    before: Ranks, after: Ranks, strata: Sequence[Stratum], *, seed: int
) -> dict[str, StratumComparison]:
    """Compare two systems that linked the same mentions.

    Args:
        before: (n,) ranks of the first right candidates of the first system, as of `evaluation.metrics`.
        after: (n,) those of the second system.
        strata: n strata.
        seed: Of the bootstrap.

    Returns:
        Each stratum that has mentions, and ALL_STRATA first.
    """
    names = np.array(strata, object)
    chosen = {ALL_STRATA: np.ones(len(names), bool)} | {str(each): names == each for each in Stratum}
    return {name: _compare(before[part], after[part], seed) for name, part in chosen.items() if part.any()}


def _compare(before: Ranks, after: Ranks, seed: int) -> StratumComparison:
    first, second = hits(before, 1), hits(after, 1)
    one, two = (Score(mean(values), *bootstrap_interval([values], seed=seed)) for values in (first, second))
    gain = paired_bootstrap([first], [second], seed=seed)
    return StratumComparison(len(first), one, two, gain, mcnemar(first, second))


def strata_table(comparisons: dict[str, StratumComparison]) -> list[list[str]]:
    """A table of a header and a row for each stratum, in percent."""
    rows = [["mentions", "n", "Acc@1 before", "after", "gain", "p (McNemar)"]]
    for name, each in comparisons.items():
        scores = [_with_interval(*score) for score in (each.before, each.after)]
        gain = f"{100 * each.gain.difference:+.1f} [{100 * each.gain.low:+.1f}, {100 * each.gain.high:+.1f}]"
        rows.append([name, f"{each.n:,}", *scores, gain, f"{each.mcnemar:.2g}"])
    return rows


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    shown = [np.nan if each is None else 100 * each for each in (value, low, high)]
    return f"{shown[0]:.1f} [{shown[1]:.1f}, {shown[2]:.1f}]"
