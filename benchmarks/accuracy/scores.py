"""Systems × tasks → the rank of each mention's gold, and the scores that follow from ranks.

A pair of system and task is run once: what it answered is kept in a folder named by the hash of all that it follows from, so a run that was
cut goes on, and a second run only counts. Under the concept protocol @k counts concepts, under the reference protocol rows of the
dictionary (xsap.evaluation.protocols). Ties go by concept_id, or by row. Every score is a mean over languages, each alike, unless it says otherwise.
Ranks are sorted before they are resampled, so that intervals and p values too are the same in whatever order mentions come.
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

from benchmarks.accuracy.baselines import Linking
from benchmarks.accuracy.tasks import CUTS, Task
from xsap.artifacts import open_artifact, publish
from xsap.evaluation.metrics import (
    Difference,
    Ranks,
    Values,
    bootstrap_interval,
    hits,
    holm,
    macro_mean,
    mcnemar,
    paired_bootstrap,
    reciprocal_ranks,
)
from xsap.evaluation.protocols import concept_ranks, reference_ranks

DEEPEST = max(CUTS)
SEED = 0
PROTOCOLS = ("concept", "reference")
CURVE = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, DEEPEST)
_VERSION = 1  # of what is kept: another when the way of counting changes

ANSWERS_SCHEMA = pa.schema(
    [
        pa.field("mention", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("concept", pa.int16(), nullable=False),  # rank of the first right concept; metrics.MISS
        pa.field("reference", pa.int16(), nullable=False),  # rank of the first right row
        pa.field("found_id", pa.string()),  # the first candidate
        pa.field("found_name", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("gold_score", pa.float32()),  # of the first right concept, where it is among the candidates
    ]
)


@dataclass(frozen=True)
class RankedAnswers:
    """What a system answered to a task. table: ANSWERS_SCHEMA, a row a mention. key: the hash of what it follows from."""

    table: pa.Table
    key: str

    def ranks(self, protocol: str) -> Ranks:
        """(n,) under a protocol."""
        ranks: Ranks = self.table[protocol].to_numpy().astype(np.int64)
        return ranks


def key_of(task: Task, metadata: Mapping[str, Any]) -> str:
    """One hash for a system's answers to a task."""
    rows = [task.mentions[name].to_pylist() for name in ("mention", "language", "concept_ids")]
    said = {"task": task.metadata(), "rows": rows, "system": metadata, "version": _VERSION}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def kept_answers(folder: Path, key: str) -> RankedAnswers | None:
    """What was answered in an earlier run. Raises ArtifactError where its folder is damaged."""
    place = folder / key
    if not place.is_dir():
        return None
    open_artifact(place, "answers")
    return RankedAnswers(pq.read_table(place / "answers.parquet", schema=ANSWERS_SCHEMA), key)


def answer(task: Task, linking: Linking, folder: Path, key: str) -> RankedAnswers:
    """Link a task's mentions under both protocols, and keep the answers."""
    ranks, results = concept_ranks(linking, task.mentions, DEEPEST, composite=task.composite)
    rows, _ = reference_ranks(linking.dictionary_rows, task.space.rows, task.mentions, DEEPEST)
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
    table = pa.table(
        [pa.array(column, f.type) for column, f in zip(columns, ANSWERS_SCHEMA, strict=True)], ANSWERS_SCHEMA
    )
    with publish(folder / key, "answers", {"task": task.name}) as aside:
        pq.write_table(table, aside / "answers.parquet", compression="zstd")
    return RankedAnswers(table, key)


def by_language(task: Task) -> dict[str, NDArray[np.bool_]]:
    """Which mentions are of each language, sorted."""
    languages = np.array(task.mentions["language"].to_pylist(), object)
    return {code: languages == code for code in sorted(set(languages))}


def gold_not_in_dictionary(task: Task) -> NDArray[np.bool_]:
    """(n,) whether none of a mention's gold is in the dictionary."""
    known = frozenset(task.space.concepts)
    return np.array([known.isdisjoint(ids) for ids in task.mentions["concept_ids"].to_pylist()])


def scores_of(task: Task, answers: RankedAnswers, protocol: str) -> dict[str, Any]:
    """Rows of scores in [0, 1] by language, then `mean`, each with 95 % bootstrap intervals."""
    ranks, groups, missing = answers.ranks(protocol), by_language(task), gold_not_in_dictionary(task)
    rows = {code: row_of([ranks[chosen]], int(missing[chosen].sum())) for code, chosen in groups.items()}
    return rows | {"mean": row_of([ranks[chosen] for chosen in groups.values()], int(missing.sum()))}


def row_of(groups: Sequence[Ranks], missing: int) -> dict[str, Any]:
    """Acc@1, Acc@5, MRR and recall@64 of groups of ranks, each group alike."""
    groups = [np.sort(ranks) for ranks in groups]
    row: dict[str, Any] = {"n": sum(map(len, groups)), "unreachable": missing}
    named = {f"acc@{k}" if k < DEEPEST else f"recall@{k}": [hits(ranks, k) for ranks in groups] for k in CUTS}
    named["mrr"] = [reciprocal_ranks(ranks) for ranks in groups]
    for name, values in named.items():
        row[name] = macro_mean(values)
        row[f"{name}_interval"] = list(bootstrap_interval(values, seed=SEED))
    return row


def curve_of(task: Task, answers: RankedAnswers) -> list[float]:
    """Accuracy at each k of CURVE, mean over languages, concept protocol."""
    ranks = answers.ranks("concept")
    return [macro_mean([hits(ranks[chosen], k) for chosen in by_language(task).values()]) for k in CURVE]


def parts_of(labels: Sequence[str], order: Sequence[str], answers: RankedAnswers) -> dict[str, Any]:
    """Acc@1 of parts of the mentions (all languages in one), by their label, in an order."""
    ranks, of = answers.ranks("concept"), np.array(labels, object)
    rows = {}
    for label in order:
        values = hits(np.sort(ranks[of == label]), 1)
        rows[label] = {
            "n": len(values),
            "acc@1": float(values.mean()),
            "acc@1_interval": list(bootstrap_interval([values], seed=SEED)),
        }
    return rows


def compare(task: Task, first: Ranks, second: Ranks) -> dict[str, Any]:
    """The second system's Acc@1 less the first's: by language with McNemar's p, adjusted by Holm over the languages, and the mean."""
    one, other, groups = hits(first, 1), hits(second, 1), by_language(task)
    p_values = [mcnemar(one[chosen], other[chosen]) for chosen in groups.values()]
    rows: dict[str, Any] = {}
    for (code, chosen), p, adjusted in zip(groups.items(), p_values, holm(p_values), strict=True):
        rows[code] = _difference([one[chosen]], [other[chosen]]) | {"mcnemar": p, "holm": adjusted}
    rows["mean"] = _difference(
        [one[chosen] for chosen in groups.values()], [other[chosen] for chosen in groups.values()]
    )
    return rows


def _difference(first: Sequence[Values], second: Sequence[Values]) -> dict[str, Any]:
    found = difference_of(first, second)
    return {
        "n": sum(map(len, first)),
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p": found.p,
    }


def difference_of(first: Sequence[Values], second: Sequence[Values]) -> Difference:
    """The second system's macro mean less the first's, paired: groups of the same mentions in the same order, whichever that is."""
    orders = [np.lexsort(pair) for pair in zip(first, second, strict=True)]
    sides = [[values[order] for values, order in zip(side, orders, strict=True)] for side in (first, second)]
    return paired_bootstrap(sides[0], sides[1], seed=SEED)
