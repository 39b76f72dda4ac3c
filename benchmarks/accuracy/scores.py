"""What systems answered to tasks, as ranks of the gold, and the scores that follow from ranks.

A system is run on a task once: its answers are kept in a folder named by the hash of everything they depend on, so an
interrupted run resumes, and a second run only computes scores. Under the concept protocol @k counts concepts, under the reference protocol rows of the
dictionary (xsap.evaluation.protocols). Equal scores are ordered by concept_id, or by row. Every score is a mean over
languages with equal weight, unless stated otherwise. Ranks are sorted before they are resampled, so that intervals and
p-values do not depend on the order of mentions either.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.accuracy.baselines import DictionaryLinker
from benchmarks.accuracy.tasks import CUTS, Task
from xsap.artifacts import open_artifact, publish
from xsap.evaluation.metrics import (
    Difference,
    Ranks,
    Score,
    ScoreRow,
    Values,
    bootstrap_interval,
    hits,
    holm,
    macro_mean,
    mcnemar,
    paired_bootstrap,
)
from xsap.evaluation.protocols import concept_ranks, reference_ranks

MAX_RANK = max(CUTS)
SEED = 0
PROTOCOLS = ("concept", "reference")
MEAN_ROW = "mean"  # instead of a language
CURVE = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, MAX_RANK)
_VERSION = 1  # of the kept answers: raised when the way of counting changes

ANSWERS_SCHEMA = pa.schema(
    [
        pa.field("mention", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("concept", pa.int16(), nullable=False),  # rank of the first right concept; metrics.MISS
        pa.field("reference", pa.int16()),  # rank of the first right row; null if this protocol was not asked for
        pa.field("found_id", pa.string()),  # the first candidate
        pa.field("found_name", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("gold_score", pa.float32()),  # of the first right concept, if it is among the candidates
    ]
)


@dataclass(frozen=True)
class RankedAnswers:
    """A system's answers to a task. table: ANSWERS_SCHEMA, one row per mention. key: hash of all they depend on."""

    table: pa.Table
    key: str

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that they were ranked under."""
        return tuple(name for name in PROTOCOLS if not self.table[name].null_count)

    def ranks(self, protocol: str) -> Ranks:
        """(n,) ranks of the gold under a protocol."""
        ranks: Ranks = self.table[protocol].to_numpy().astype(np.int64)
        return ranks


@dataclass(frozen=True, slots=True)
class AccuracyDifference:
    """Acc@1 of a second system less that of a first one on the same mentions.

    Attributes:
        n: Number of mentions.
        difference: In [-1, 1].
        low: Lower end of the 95 % interval by paired bootstrap.
        high: Its upper end.
        p: p-value of the paired bootstrap.
        mcnemar: p-value of McNemar's exact test; None for a mean over languages.
        holm: The same adjusted by Holm's method over the languages.
    """

    n: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    mcnemar: float | None = None
    holm: float | None = None


@dataclass(frozen=True, slots=True)
class SystemComparison:
    """Two systems on one task: language → difference, then their mean."""

    first: str
    second: str
    rows: Mapping[str, AccuracyDifference]


def key_of(task: Task, metadata: Mapping[str, Any], *, reference: bool = True) -> str:
    """One hash for a system's answers to a task; reference: whether they are also ranked under the reference protocol."""
    rows = [task.mentions[name].to_pylist() for name in ("mention", "language", "concept_ids")]
    inputs = {"task": task.metadata(), "rows": rows, "system": metadata, "version": _VERSION}
    if not reference:
        inputs["protocols"] = PROTOCOLS[:1]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def kept_answers(folder: Path, key: str) -> RankedAnswers | None:
    """The answers of an earlier run, if there are any. Raises ArtifactError if their folder is damaged."""
    answers = folder / key
    if not answers.is_dir():
        return None
    open_artifact(answers, "answers")
    return RankedAnswers(pq.read_table(answers / "answers.parquet", schema=ANSWERS_SCHEMA), key)


def answer(task: Task, linker: DictionaryLinker, folder: Path, key: str, *, reference: bool = True) -> RankedAnswers:
    """Link a task's mentions, and keep the answers in `folder / key`; reference: also under the reference protocol."""
    ranks, results = concept_ranks(linker, task.mentions, MAX_RANK, composite=task.composite)
    rows: Sequence[int | None] | Ranks = [None] * len(ranks)
    if reference:
        rows, _ = reference_ranks(linker.dictionary_rows, task.space.rows, task.mentions, MAX_RANK)
    first = [result.candidates[0] if result.candidates else None for result in results]
    columns = [
        *(task.mentions[name].to_pylist() for name in ("mention", "language")),
        ranks,
        rows,
        [None if c is None else c.concept_id for c in first],
        [None if c is None else c.matched_name for c in first],
        [None if c is None else c.score for c in first],
        [result.candidates[rank].score if rank >= 0 else None for rank, result in zip(ranks, results, strict=True)],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ANSWERS_SCHEMA, strict=True)]
    table = pa.table(arrays, ANSWERS_SCHEMA)
    with publish(folder / key, "answers", {"task": task.name}) as aside:
        pq.write_table(table, aside / "answers.parquet", compression="zstd")
    return RankedAnswers(table, key)


def by_language(task: Task) -> dict[str, NDArray[np.bool_]]:
    """Language, sorted → (n,) which mentions are of it."""
    languages = np.array(task.mentions["language"].to_pylist(), object)
    return {code: languages == code for code in sorted(set(languages))}


def gold_not_in_dictionary(task: Task) -> NDArray[np.bool_]:
    """(n,) whether none of a mention's gold is in the dictionary."""
    known = frozenset(task.space.concepts)
    return np.array([known.isdisjoint(ids) for ids in task.mentions["concept_ids"].to_pylist()])


def scores_of(task: Task, answers: RankedAnswers, protocol: str) -> dict[str, ScoreRow]:
    """Rows of scores by language, then MEAN_ROW."""
    ranks, groups, missing = answers.ranks(protocol), by_language(task), gold_not_in_dictionary(task)
    rows = {code: _score_row([ranks[chosen]], int(missing[chosen].sum())) for code, chosen in groups.items()}
    return rows | {MEAN_ROW: _score_row([ranks[chosen] for chosen in groups.values()], int(missing.sum()))}


def _score_row(groups: Sequence[Ranks], missing: int) -> ScoreRow:
    """Acc@1, Acc@5, recall@64 and MRR of groups of ranks, each group with equal weight."""
    cuts = {f"acc@{k}" if k < MAX_RANK else f"recall@{k}": k for k in CUTS}
    return ScoreRow.from_ranks([np.sort(ranks) for ranks in groups], cuts, seed=SEED, gold_not_in_dictionary=missing)


def _score(groups: Sequence[Values]) -> Score:
    return Score(macro_mean(groups), *bootstrap_interval(groups, seed=SEED))


def curve_of(task: Task, answers: RankedAnswers) -> list[float]:
    """Accuracy at each k of CURVE, mean over languages, concept protocol."""
    ranks = answers.ranks("concept")
    return [macro_mean([hits(ranks[chosen], k) for chosen in by_language(task).values()]) for k in CURVE]


def breakdown_of(labels: Sequence[str], order: Sequence[str], answers: RankedAnswers) -> dict[str, ScoreRow]:
    """Acc@1 by label of the mentions, all languages together, labels in the given order."""
    ranks, label_of = answers.ranks("concept"), np.array(labels, object)
    values = {label: hits(np.sort(ranks[label_of == label]), 1) for label in order}
    return {label: ScoreRow(len(group), {"acc@1": _score([group])}) for label, group in values.items()}


def compare_accuracy(task: Task, first: Ranks, second: Ranks) -> dict[str, AccuracyDifference]:
    """The second system's Acc@1 less the first's, by language, then MEAN_ROW."""
    one, other, groups = hits(first, 1), hits(second, 1), by_language(task)
    p_values = [mcnemar(one[chosen], other[chosen]) for chosen in groups.values()]
    rows = {
        code: _accuracy_difference([one[chosen]], [other[chosen]], p, adjusted)
        for (code, chosen), p, adjusted in zip(groups.items(), p_values, holm(p_values), strict=True)
    }
    first_groups, second_groups = ([values[chosen] for chosen in groups.values()] for values in (one, other))
    return rows | {MEAN_ROW: _accuracy_difference(first_groups, second_groups)}


def _accuracy_difference(
    first: Sequence[Values], second: Sequence[Values], p: float | None = None, adjusted: float | None = None
) -> AccuracyDifference:
    found = difference_of(first, second)
    n = sum(map(len, first))
    return AccuracyDifference(n, found.difference, found.low, found.high, found.p, p, adjusted)


def difference_of(first: Sequence[Values], second: Sequence[Values]) -> Difference:
    """The second system's macro mean less the first's, paired; it does not depend on the order of mentions.

    Args:
        first: Values of the first system, one array per group.
        second: Values of the second system for the same mentions in the same order.
    """
    orders = [np.lexsort(pair) for pair in zip(first, second, strict=True)]
    ordered = [[values[order] for values, order in zip(one, orders, strict=True)] for one in (first, second)]
    return paired_bootstrap(ordered[0], ordered[1], seed=SEED)
