"""What kinds of error a system makes, and examples of each with what it found instead.

The kinds exclude each other, and are tried in their order: the gold is not in the dictionary; nothing was found; the gold scores as much as what
was put first; the name found is the mention, as EXACT_MATCH compares them; the gold came second to fifth; it came later; it is not among the candidates.
"""

import hashlib
from typing import Any

import pyarrow as pa

from benchmarks.accuracy import DEEPEST, SEED, Answers, unreachable
from benchmarks.tasks import Task
from xsap.linking.metrics import MISS
from xsap.text import EXACT_MATCH, normalise

ABSENT, NOTHING, TIE = "gold not in the dictionary", "nothing found", "a tie with the gold"
SAME_NAME, NEAR, FAR, LOST = "the same name, of another concept", "gold at 2 to 5", f"gold at 6 to {DEEPEST}", f"gold not among {DEEPEST}"
KINDS = (ABSENT, NOTHING, TIE, SAME_NAME, NEAR, FAR, LOST)
EXAMPLES = 3  # of each kind, unless said otherwise
_SHOWN = 3  # gold concepts of an example


def mistakes_of(task: Task, answers: Answers, examples: int = EXAMPLES) -> dict[str, Any]:
    """How many of each kind, concept protocol, and `examples` of each, no two alike, drawn by a hash: in whatever order mentions come, the same."""
    rows = _rows(task.mentions, answers.table)
    kinds = [_kind(row, absent) for row, absent in zip(rows, unreachable(task).tolist(), strict=True)]
    lots = [_lot(row) for row in rows]
    told: dict[str, Any] = {}
    for kind in (kind for kind in KINDS if kind in kinds):
        drawn = {lot: row for lot, row, of in zip(lots, rows, kinds, strict=True) if of == kind}
        told[kind] = {"n": kinds.count(kind), "examples": [_shown(drawn[lot], task) for lot in sorted(drawn)[:examples]]}
    return told


def _lot(row: dict[str, Any]) -> str:
    """Of mentions that are asked the same, the same."""
    return hashlib.sha256(f"{SEED}\0{row['mention']}\0{row['language']}\0{'|'.join(sorted(row['concept_ids']))}".encode()).hexdigest()


def _rows(mentions: pa.Table, answers: pa.Table) -> list[dict[str, Any]]:
    asked = mentions.select(["concept_ids"]).to_pylist()
    return [one | other for one, other in zip(asked, answers.to_pylist(), strict=True)]


def _kind(row: dict[str, Any], absent: bool) -> str | None:
    """None where the gold comes first."""
    if row["concept"] == 0:
        return None
    if absent:
        return ABSENT
    if row["found_id"] is None:
        return NOTHING
    if row["gold_score"] == row["score"]:  # a gold that was not found has none
        return TIE
    if normalise(row["found_name"], EXACT_MATCH) == normalise(row["mention"], EXACT_MATCH):
        return SAME_NAME
    if row["concept"] == MISS:
        return LOST
    return NEAR if row["concept"] < 5 else FAR


def _shown(row: dict[str, Any], task: Task) -> dict[str, Any]:
    gold: list[str] = sorted(row["concept_ids"])
    preferred = task.space.preferred
    named = [f"{one} {preferred.get(one, '')}".strip() for one in gold[:_SHOWN]]
    return {
        "mention": row["mention"],
        "language": row["language"],
        "gold": [*named, *([f"{len(gold) - _SHOWN} more"] if len(gold) > _SHOWN else [])],
        "rank": None if row["concept"] == MISS else row["concept"] + 1,
        "found": None if row["found_id"] is None else f"{row['found_id']} {preferred.get(row['found_id'], '')}".strip(),
        "matched": row["found_name"],
        "score": None if row["score"] is None else round(row["score"], 4),
    }
