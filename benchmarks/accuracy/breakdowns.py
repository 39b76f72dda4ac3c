"""Where a system errs: scores by label of the mentions, kinds of error, and an ablation of case and similarity.

A mean hides which mentions a system can link. Mentions are labeled by whether training has seen them, by length,
script and semantic group; there is one function for each, from mentions to labels in their order. Strings are compared and measured as
EXACT_MATCH normalizes them, so labels are the same for every system. "Seen" means in the names of the training
terminology, whether or not a run drew them.

Kinds of error exclude one another and are tried in the order of `ERROR_KINDS`.

The ablation: the original evaluation lower-cases the dictionary only and compares raw vectors. In each of its eight
cells, mentions and dictionary are cased or lower-cased, without the model's own text policy, and compared by cosine or
dot product; concepts are counted.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.accuracy.baselines import MentionSearch, NameLinker, UniqueNames
from benchmarks.accuracy.models import CachedEncoder
from benchmarks.accuracy.scores import MAX_RANK, SEED, RankedAnswers, by_language, gold_not_in_dictionary
from benchmarks.accuracy.tasks import Task
from xsap.artifacts import open_artifact, publish
from xsap.errors import DataError
from xsap.evaluation.metrics import MISS, hits, macro_mean
from xsap.evaluation.protocols import CASED, LOWER, concept_ranks
from xsap.linking.encoder_spec import encode_as_mentions
from xsap.linking.ranking import NameSearch
from xsap.search.exact import search_array
from xsap.search.vectors import Floats
from xsap.terms.corpus import GROUPS_COLUMN
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
_MAX_LENGTHS = (0, 5, 10, 20, 40)  # of each of LENGTHS but the last
SEVERAL_GROUPS, NO_GROUP = "several", "unknown"
_FIRST_LABELS = (*SEEN, *LENGTHS)
_LAST_LABELS = (OTHER_SCRIPT, NO_SCRIPT, SEVERAL_GROUPS, NO_GROUP)


def label_by_seen(mentions: pa.Table, training: Terminology) -> list[str]:
    """Labels of SEEN: the string is a name, of any concept in any language; else, a gold id is a concept; else neither.

    Args:
        mentions: terms.mentions' SCHEMA.
        training: The training terminology.
    """
    strings = normalize_all(mentions["mention"].to_pylist(), EXACT_MATCH)
    wanted = pa.array(sorted(set(strings)), pa.string())
    names: set[str] = set()
    for chunk in training.names["name"].chunks:  # millions of names, few of them wanted
        normalized = normalize_column(chunk, EXACT_MATCH)
        names.update(pc.unique(normalized.filter(pc.is_in(normalized, wanted))).to_pylist())
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    known = training.concepts["concept_id"]
    concepts = frozenset(known.filter(pc.is_in(known, pa.array(sorted(set().union(*gold)), pa.string()))).to_pylist())
    string_seen, concept_seen, neither = SEEN
    return [
        string_seen if string in names else neither if concepts.isdisjoint(ids) else concept_seen
        for string, ids in zip(strings, gold, strict=True)
    ]


def label_by_length(mentions: pa.Table) -> list[str]:
    """Labels of LENGTHS, in characters; 0 if normalization leaves nothing."""
    lengths = map(len, normalize_all(mentions["mention"].to_pylist(), EXACT_MATCH))
    return [LENGTHS[sum(length > longest for longest in _MAX_LENGTHS)] for length in lengths]


def label_by_script(mentions: pa.Table) -> list[str]:
    """The script of each mention, as `script_of` names it."""
    return [script_of(mention) for mention in mentions["mention"].to_pylist()]


def label_by_group(mentions: pa.Table, types: Mapping[str, Sequence[str]]) -> list[str]:
    """The semantic group of each mention: its abbreviation, SEVERAL_GROUPS or NO_GROUP.

    Args:
        mentions: terms.mentions' SCHEMA. Its GROUPS_COLUMN is used if there is one, else the types of all gold
            concepts.
        types: Concept → semantic types (TUI); a concept or type that is unknown has no group.

    Raises:
        DataError: For a group in GROUPS_COLUMN that the UMLS does not have.
    """
    if GROUPS_COLUMN in mentions.column_names:
        groups = [set(given or ()) for given in mentions[GROUPS_COLUMN].to_pylist()]
        if unknown := sorted(set().union(*groups) - GROUPS.keys()):
            expected = f"the mentions' column '{GROUPS_COLUMN}' must hold semantic groups out of {', '.join(GROUPS)}"
            raise DataError(f"{expected}; found '{unknown[0]}'")
    else:
        groups = [
            {group for concept in ids for tui in types.get(concept, ()) if (group := group_of(tui))}
            for ids in mentions["concept_ids"].to_pylist()
        ]
    return [SEVERAL_GROUPS if len(found) > 1 else next(iter(found), NO_GROUP) for found in groups]


def sort_labels(labels: Iterable[str]) -> list[str]:
    """The different labels in the order of a report: SEEN and LENGTHS as defined, then names, other labels last."""

    def key(label: str) -> tuple[int, int, str]:
        if label in _FIRST_LABELS:
            return 0, _FIRST_LABELS.index(label), label
        return (2, _LAST_LABELS.index(label), label) if label in _LAST_LABELS else (1, 0, label)

    return sorted(set(labels), key=key)


# Kinds of error

GOLD_ABSENT, NOTHING_FOUND, TIED = "gold not in the dictionary", "nothing found", "a tie with the gold"
SAME_NAME, RANK_2_TO_5 = "the same name, of another concept", "gold at 2 to 5"
RANK_6_ON, GOLD_NOT_FOUND = f"gold at 6 to {MAX_RANK}", f"gold not among {MAX_RANK}"
ERROR_KINDS = (GOLD_ABSENT, NOTHING_FOUND, TIED, SAME_NAME, RANK_2_TO_5, RANK_6_ON, GOLD_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """A mention that was linked wrongly.

    Attributes:
        mention: The mention.
        language: Its language.
        gold: Its gold concepts with their preferred names, the first few.
        rank: Rank of the gold from 1; None if it was not found.
        found: The first candidate with its preferred name, if there was one.
        matched: The name by which it was found.
        score: Its score.
    """

    mention: str
    language: str
    gold: list[str]
    rank: int | None
    found: str | None
    matched: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """The number of errors of one kind, and some examples."""

    n: int
    examples: list[ErrorExample]


def classify_errors(task: Task, answers: RankedAnswers, examples: int = 3) -> dict[str, ErrorGroup]:
    """Count the errors of each kind, under the concept protocol, and draw examples.

    Args:
        task: The task.
        answers: Its answers.
        examples: Number of examples of each kind; no two are equal, and they do not depend on the order of mentions.

    Returns:
        Kind → errors, in the order of KINDS, for the kinds that occur.
    """
    rows = [
        {"concept_ids": ids} | row
        for ids, row in zip(task.mentions["concept_ids"].to_pylist(), answers.table.to_pylist(), strict=True)
    ]
    kinds = [_kind_of(row, absent) for row, absent in zip(rows, gold_not_in_dictionary(task).tolist(), strict=True)]
    order = [_random_key(row) for row in rows]
    groups = {}
    for kind in (kind for kind in ERROR_KINDS if kind in kinds):
        drawn = {key: row for key, row, other in zip(order, rows, kinds, strict=True) if other == kind}
        shown = [_example(drawn[key], task) for key in sorted(drawn)[:examples]]
        groups[kind] = ErrorGroup(kinds.count(kind), shown)
    return groups


def _random_key(row: Mapping[str, Any]) -> str:
    """A hash; equal for equal mentions."""
    gold = "|".join(sorted(row["concept_ids"]))
    return hashlib.sha256(f"{SEED}\0{row['mention']}\0{row['language']}\0{gold}".encode()).hexdigest()


def _kind_of(row: Mapping[str, Any], gold_absent: bool) -> str | None:
    """None if the gold is the first candidate."""
    if row["concept"] == 0:
        return None
    if gold_absent:
        return GOLD_ABSENT
    if row["found_id"] is None:
        return NOTHING_FOUND
    if row["gold_score"] == row["score"]:  # None for a gold that was not found
        return TIED
    if normalize(row["found_name"], EXACT_MATCH) == normalize(row["mention"], EXACT_MATCH):
        return SAME_NAME
    if row["concept"] == MISS:
        return GOLD_NOT_FOUND
    return RANK_2_TO_5 if row["concept"] < 5 else RANK_6_ON


def _example(row: Mapping[str, Any], task: Task, max_gold: int = 3) -> ErrorExample:
    gold: list[str] = sorted(row["concept_ids"])
    preferred = task.space.preferred
    named = [f"{one} {preferred.get(one, '')}".strip() for one in gold[:max_gold]]
    return ErrorExample(
        row["mention"],
        row["language"],
        [*named, *([f"{len(gold) - max_gold} more"] if len(gold) > max_gold else [])],
        None if row["concept"] == MISS else row["concept"] + 1,
        None if row["found_id"] is None else f"{row['found_id']} {preferred.get(row['found_id'], '')}".strip(),
        row["found_name"],
        None if row["score"] is None else round(row["score"], 4),
    )


# Ablation of case and similarity

CASES = {"cased": CASED, "lower": LOWER}
SIMILARITIES = ("cosine", "dot")
_ABLATION_FILE = "ablation.json"


@dataclass(frozen=True, slots=True)
class AblationCell:
    """Mean Acc@1 over languages for a key of CASES for mentions, one for the dictionary, and one of SIMILARITIES."""

    mention: str
    dictionary: str
    similarity: str
    accuracy: float | None


def cached_ablation(task: Task, model: CachedEncoder, folder: Path) -> list[AblationCell]:
    """`case_and_similarity_ablation`, kept in a folder for later runs."""
    if not folder.is_dir():
        cells = case_and_similarity_ablation(task, model)
        with publish(folder, "ablation", {"task": task.name}) as aside:
            text = json.dumps([asdict(cell) for cell in cells])
            (aside / _ABLATION_FILE).write_text(text, encoding="utf-8")
    open_artifact(folder, "ablation")
    return [AblationCell(**cell) for cell in json.loads((folder / _ABLATION_FILE).read_text(encoding="utf-8"))]


def case_and_similarity_ablation(task: Task, model: CachedEncoder) -> list[AblationCell]:
    """The eight cells of mention case × dictionary case × similarity."""
    cells = []
    queries = {mention_case: _mention_vectors(task, model, policy) for mention_case, policy in CASES.items()}
    languages = by_language(task).values()
    for dictionary_case, policy in CASES.items():
        names = UniqueNames.from_space(task.space, policy)
        raw = model.vectors(normalize_all(names.texts, policy), unit=False, policy=CASED)
        for similarity in SIMILARITIES:
            vectors = _to_unit_length(raw) if similarity == "cosine" else raw
            for mention_case, vector_of in queries.items():
                search = _search_by_vectors(vectors, vector_of)
                linker = NameLinker(task.space, names, search, search, -np.inf)
                ranks = np.array(concept_ranks(linker, task.mentions, 1, composite=task.composite)[0])
                accuracy = macro_mean([hits(ranks[chosen], 1) for chosen in languages])
                cells.append(AblationCell(mention_case, dictionary_case, similarity, accuracy))
    return cells


def _mention_vectors(task: Task, model: CachedEncoder, policy: TextPolicy) -> dict[str, Floats]:
    """The raw vector of each mention, and of each part of a composite one."""
    mentions = task.mentions["mention"].to_pylist()
    parts = (part for mention in mentions for part in (mention.split("|") if task.composite else [mention]))
    texts = list(dict.fromkeys(parts))
    return dict(zip(texts, encode_as_mentions(model.encoder, texts, unit=False, policy=policy), strict=True))


def _search_by_vectors(vectors: Floats, vector_of: Mapping[str, Floats]) -> MentionSearch:
    def search(mentions: Sequence[str]) -> NameSearch:
        queries = np.stack([vector_of[mention] for mention in mentions])
        return lambda part, k: search_array(vectors, queries[part], k)

    return search


def _to_unit_length(vectors: Floats) -> Floats:
    """For the dictionary only: a query's length does not change the order of its candidates."""
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit
