"""Parts of a task's mentions within which scores are told, for a mean hides which of them a system can link.

A function each for what training has seen, for length, script and semantic group: mentions in, a label for each out, in their order.
Strings are compared and measured as EXACT_MATCH normalizes them, so a part is the same for every system. "Seen" means by the names
given as the training terminology, whether or not a run drew them.

What case and cosine do: a model's Acc@1 with mention and dictionary as they stand or lower-cased, by cosine or by dot product.

The original evaluation lower-cases one side only, and compares raw vectors; its users ask what that costs. Each of the eight cells gives the model
the text as the cell says, past its own text policy, and counts concepts.

What kinds of error a system makes, and examples of each with what it found instead.

The kinds exclude each other, and are tried in their order: the gold is not in the dictionary; nothing was found; the gold scores as much as what
was put first; the name found is the mention, as EXACT_MATCH compares them; the gold came second to fifth; it came later; it is not among the candidates.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.accuracy.baselines import NameLinker, Names, Search
from benchmarks.accuracy.models import AS_IT_STANDS, LOWER, CachedEncoder
from benchmarks.accuracy.scores import DEEPEST, SEED, RankedAnswers, by_language, gold_not_in_dictionary
from benchmarks.accuracy.tasks import Task
from xsap.artifacts import open_artifact, publish
from xsap.errors import DataError
from xsap.evaluation.metrics import MISS, hits, macro_mean
from xsap.evaluation.protocols import concept_ranks
from xsap.linking.ranking import NameSearch
from xsap.search.exact import search
from xsap.search.vectors import Floats
from xsap.terms.semantic_types import GROUPS, group_of
from xsap.terms.terminology import Terminology
from xsap.text import (
    EXACT_MATCH,
    NO_SCRIPT,
    OTHER_SCRIPT,
    TextPolicy,
    normalize,
    normalize_all,
    normalize_column,
    script_of,
)

SEEN = ("string seen", "concept seen", "neither")
LENGTHS = ("0", "1-5", "6-10", "11-20", "21-40", "41+")
_LONGEST = (0, 5, 10, 20, 40)  # of each length but the last
SEVERAL, NO_GROUP = "several", "unknown"
GROUPS_COLUMN = "groups"  # list<string>: the semantic groups that a corpus itself gives its mentions
_FIRST = (*SEEN, *LENGTHS)
_LAST = (OTHER_SCRIPT, NO_SCRIPT, SEVERAL, NO_GROUP)


def by_seen(mentions: pa.Table, training: Terminology) -> list[str]:
    """SEEN: the string is a name of any concept in any language; else, one of its gold ids is a concept; else neither.

    mentions, here and below: terms.mentions' SCHEMA.
    """
    strings = normalize_all(mentions["mention"].to_pylist(), EXACT_MATCH)
    asked = pa.array(sorted(set(strings)), pa.string())
    names: set[str] = set()
    for chunk in training.names["name"].chunks:  # millions of names, of which few are asked for
        normalized = normalize_column(chunk, EXACT_MATCH)
        names.update(pc.unique(normalized.filter(pc.is_in(normalized, asked))).to_pylist())
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    living = training.concepts["concept_id"]
    concepts = frozenset(living.filter(pc.is_in(living, pa.array(sorted(set().union(*gold)), pa.string()))).to_pylist())
    string_seen, concept_seen, neither = SEEN
    return [
        string_seen if string in names else neither if concepts.isdisjoint(ids) else concept_seen
        for string, ids in zip(strings, gold, strict=True)
    ]


def by_length(mentions: pa.Table) -> list[str]:
    """LENGTHS, in characters; 0 where normalization leaves nothing."""
    lengths = map(len, normalize_all(mentions["mention"].to_pylist(), EXACT_MATCH))
    return [LENGTHS[sum(length > longest for longest in _LONGEST)] for length in lengths]


def by_script(mentions: pa.Table) -> list[str]:
    """What `script_of` says of each mention."""
    return [script_of(mention) for mention in mentions["mention"].to_pylist()]


def by_group(mentions: pa.Table, types: Mapping[str, Sequence[str]]) -> list[str]:
    """The semantic group's abbreviation, SEVERAL if there is more than one, NO_GROUP if there is none.

    Groups are those of the mentions' GROUPS_COLUMN if they have it, or else those of all their gold concepts' types. types: concept →
    its semantic types (TUI); a concept or type that is unknown has no group. Raises DataError for a given group that the UMLS hasn't.
    """
    if GROUPS_COLUMN in mentions.column_names:
        groups = [set(given or ()) for given in mentions[GROUPS_COLUMN].to_pylist()]
        if strange := sorted(set().union(*groups) - GROUPS.keys()):
            raise DataError(
                f"the mentions' column '{GROUPS_COLUMN}' must hold semantic groups out of {', '.join(GROUPS)}; found '{strange[0]}'"
            )
    else:
        groups = [
            {group for concept in ids for tui in types.get(concept, ()) if (group := group_of(tui))}
            for ids in mentions["concept_ids"].to_pylist()
        ]
    return [SEVERAL if len(found) > 1 else next(iter(found), NO_GROUP) for found in groups]


def in_order(labels: Iterable[str]) -> list[str]:
    """The different labels as a report lists them: seen and lengths from least to most, names by the alphabet, what is no name last."""

    def place(label: str) -> tuple[int, int, str]:
        if label in _FIRST:
            return 0, _FIRST.index(label), label
        return (2, _LAST.index(label), label) if label in _LAST else (1, 0, label)

    return sorted(set(labels), key=place)


CASES = {"cased": AS_IT_STANDS, "lower": LOWER}
PRODUCTS = ("cosine", "dot")
_FILE = "effects.json"


def cached_ablation(task: Task, model: CachedEncoder, place: Path) -> list[dict[str, Any]]:
    """`case_and_similarity_ablation`, out of a folder where an earlier run has left them, or else left there."""
    if not place.is_dir():
        rows = case_and_similarity_ablation(task, model)
        with publish(place, "effects", {"task": task.name}) as aside:
            (aside / _FILE).write_text(json.dumps(rows), encoding="utf-8")
    open_artifact(place, "effects")
    kept: list[dict[str, Any]] = json.loads((place / _FILE).read_text(encoding="utf-8"))
    return kept


def case_and_similarity_ablation(task: Task, model: CachedEncoder) -> list[dict[str, Any]]:
    """Eight rows: mention, dictionary, product, and the mean Acc@1 over languages."""
    rows = []
    asked = {mention: _vectors_of(task, model, policy) for mention, policy in CASES.items()}
    for dictionary, policy in CASES.items():
        names = Names.of(task.space, policy)
        raw = model.vectors(normalize_all(names.texts, policy), unit=False, policy=AS_IT_STANDS)
        for product in PRODUCTS:
            vectors = _unit(raw) if product == "cosine" else raw
            for mention, queries in asked.items():
                find = _comparing(vectors, queries)
                linker = NameLinker(task.space, names, find, find, -np.inf)
                ranks = np.array(concept_ranks(linker, task.mentions, 1, composite=task.composite)[0])
                score = macro_mean([hits(ranks[chosen], 1) for chosen in by_language(task).values()])
                rows.append({"mention": mention, "dictionary": dictionary, "product": product, "acc@1": score})
    return rows


def _vectors_of(task: Task, model: CachedEncoder, policy: TextPolicy) -> dict[str, Floats]:
    """Of each mention, and of each part of a composite one."""
    wholes = task.mentions["mention"].to_pylist()
    texts = list(dict.fromkeys(part for whole in wholes for part in (whole.split("|") if task.composite else [whole])))
    return dict(zip(texts, model.encoder.encode(texts, unit=False, policy=policy), strict=True))


def _comparing(vectors: Floats, queries: dict[str, Floats]) -> Search:
    def find(mentions: Sequence[str]) -> NameSearch:
        asked = np.stack([queries[mention] for mention in mentions])
        return lambda part, k: search(vectors, asked[part], k)

    return find


def _unit(vectors: Floats) -> Floats:
    """Of length 1. Dividing the dictionary's is enough: a query's length does not change the order of its candidates."""
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit


ABSENT, NOTHING, TIE = "gold not in the dictionary", "nothing found", "a tie with the gold"
SAME_NAME, NEAR, FAR, LOST = (
    "the same name, of another concept",
    "gold at 2 to 5",
    f"gold at 6 to {DEEPEST}",
    f"gold not among {DEEPEST}",
)
KINDS = (ABSENT, NOTHING, TIE, SAME_NAME, NEAR, FAR, LOST)
EXAMPLES = 3  # of each kind, unless said otherwise
_SHOWN = 3  # gold concepts of an example


def classify_errors(task: Task, answers: RankedAnswers, examples: int = EXAMPLES) -> dict[str, Any]:
    """How many of each kind, concept protocol, and `examples` of each, no two alike, drawn by a hash: in whatever order mentions come, the same."""
    rows = _rows(task.mentions, answers.table)
    kinds = [_kind(row, absent) for row, absent in zip(rows, gold_not_in_dictionary(task).tolist(), strict=True)]
    lots = [_lot(row) for row in rows]
    told: dict[str, Any] = {}
    for kind in (kind for kind in KINDS if kind in kinds):
        drawn = {lot: row for lot, row, of in zip(lots, rows, kinds, strict=True) if of == kind}
        told[kind] = {
            "n": kinds.count(kind),
            "examples": [_shown(drawn[lot], task) for lot in sorted(drawn)[:examples]],
        }
    return told


def _lot(row: dict[str, Any]) -> str:
    """Of mentions that are asked the same, the same."""
    return hashlib.sha256(
        f"{SEED}\0{row['mention']}\0{row['language']}\0{'|'.join(sorted(row['concept_ids']))}".encode()
    ).hexdigest()


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
    if normalize(row["found_name"], EXACT_MATCH) == normalize(row["mention"], EXACT_MATCH):
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
