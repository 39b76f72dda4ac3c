"""How often broader answers are right, where linking would abstain.

A broader answer is right if it is one of the right concepts or at most RIGHT_STEPS above one. Mentions without a concept in the index (NIL, or
of another terminology) count as wrong where they get one, because nothing can show that it is right.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xsap.evaluation.calibration_report import Interval, proportion_interval
from xsap.evaluation.protocols import contexts_for
from xsap.linking.broader import RIGHT_STEPS
from xsap.linking.calibration import codes_of
from xsap.linking.linker import Linker
from xsap.linking.name_keys import BROADER
from xsap.terms.hierarchy import Hierarchy


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """Answers of one kind.

    Attributes:
        n: How many there are.
        right: How many of them are right.
        without_concept: How many are given to mentions none of whose concepts is in the index.
        precision: right / n; None of no answers.
        interval: Its 95 % interval, of mentions grouped by concept.
    """

    n: int
    right: int
    without_concept: int
    precision: float | None
    interval: Interval | None

    @classmethod
    def from_outcomes(cls, right: list[bool], concepts: list[str], without_concept: int) -> "AnswerScores":
        """The scores of n answers.

        Args:
            right: (n,) whether an answer is right.
            concepts: (n,) labels, equal for mentions of one concept.
            without_concept: See the attribute.
        """
        hits = np.array(right, bool)
        interval = proportion_interval(hits, codes_of(concepts)) if right else None
        return cls(len(right), int(hits.sum()), without_concept, float(hits.mean()) if right else None, interval)


@dataclass(frozen=True, slots=True)
class BroaderReport:
    """What mentions got.

    Attributes:
        n: Number of mentions.
        answered: Answers that are certain enough themselves; right if it is one of the right concepts.
        broader: Broader answers.
        exact: How many of the broader answers are one of the right concepts.
        unlinked: Mentions without either.
    """

    n: int
    answered: AnswerScores
    broader: AnswerScores
    exact: int
    unlinked: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"right_steps": RIGHT_STEPS}


def evaluate_broader(
    linker: Linker, mentions: pa.Table, *, min_confidence: float | None = None, min_precision: float | None = None
) -> BroaderReport:
    """Link mentions with broader answers, and score both kinds of answers.

    Args:
        linker: What links.
        mentions: A table of `terms.mentions.SCHEMA`.
        min_confidence: As for `Linker.link`.
        min_precision: As for `Linker.link`.

    Raises:
        ConfigError: As `Linker.link`.
    """
    texts, languages, gold = (mentions[name].to_pylist() for name in ("mention", "language", "concept_ids"))
    options: dict[str, Any] = {"min_confidence": min_confidence, "min_precision": min_precision, "broader": True}
    contexts = contexts_for(linker, mentions)
    results = linker.link(texts, 1, languages=languages, context=contexts, **options)
    details, ids = linker.index.dictionary.details, linker.index.concepts["concept_id"].to_pylist()
    assert details is not None, "broader answers without relations"
    numbers = {concept_id: number for number, concept_id in enumerate(ids)}
    outcomes: dict[bool, list[tuple[int | None, str, bool]]] = {False: [], True: []}
    for text, wanted, result in zip(texts, gold, results, strict=True):
        if result.candidates:
            answer, known = result.candidates[0], [numbers[one] for one in wanted if one in numbers]
            is_broader = answer.match == BROADER
            limit = RIGHT_STEPS if is_broader else 0
            steps = _steps(details.hierarchy, numbers[answer.concept_id], known, limit)
            outcomes[is_broader].append((steps, wanted[0] if wanted else f"mention {text}", not known))
    answered, broader = (
        AnswerScores.from_outcomes(
            [steps is not None for steps, _, _ in found],
            [label for _, label, _ in found],
            sum(nil for *_, nil in found),
        )
        for found in outcomes.values()
    )
    exact = sum(steps == 0 for steps, _, _ in outcomes[True])
    return BroaderReport(len(texts), answered, broader, exact, len(texts) - answered.n - broader.n)


def _steps(hierarchy: Hierarchy, answer: int, gold: list[int], limit: int) -> int | None:
    """The fewest steps from a right concept up to an answer, `limit` at most; None if it is above none of them."""
    found = (hierarchy.ancestors(one, limit).get(answer) for one in gold)
    return min((steps for steps in found if steps is not None), default=None)


def broader_text(report: BroaderReport) -> str:
    """Lines for the terminal.

    Args:
        report: The scores.
    """
    lines = [f"of {report.n:,} mentions:", *(f"  {line}" for line in _lines(report))]
    return "\n".join(lines)


def _lines(report: BroaderReport) -> list[str]:
    exact = f"{report.exact:,} of them one of the right concepts itself" if report.broader.n else ""
    rows = [
        ("linked", report.answered, ""),
        (f"linked to a broader concept, up to {RIGHT_STEPS} steps above", report.broader, exact),
    ]
    lines = []
    for what, scores, more in rows:
        parts = [f"{what}: {scores.n:,}"]
        if scores.precision is not None and scores.interval is not None:
            low, high = (100 * end for end in scores.interval)
            parts.append(f"{100 * scores.precision:.1f} % right [{low:.1f}, {high:.1f}]")
        if scores.without_concept:
            parts.append(f"{scores.without_concept:,} without a concept in the index, counted as wrong")
        lines.append(", ".join(filter(None, [*parts, more])))
    return [*lines, f"unlinked: {report.unlinked:,}"]
