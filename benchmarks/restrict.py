"""The part of a benchmark that a terminology can answer: mentions whose gold concept is in it, under its own ids.

XL-BEL and Mantra give UMLS CUIs. A terminology that is not UMLS may cross-reference them ("UMLS:C0345335"), and then those mentions
become a benchmark of it: their gold is every concept that names one of the CUIs.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xsap.errors import DataError
from xsap.terms.mentions import SCHEMA
from xsap.terms.terminology import Terminology

ABSENT = "gold concept not in the terminology"
NO_GOLD = "no gold concept"


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one language's rows: rows_in = kept + the sum of dropped, whose keys are reasons in plain words."""

    rows_in: int
    kept: int
    dropped: Mapping[str, int]

    def __post_init__(self) -> None:
        assert self.rows_in == self.kept + sum(self.dropped.values()), f"rows that nobody accounts for: {self}"


def count(mentions: pa.Table) -> dict[str, Account]:
    """The account of a table from which nothing was dropped, by language."""
    return {code: Account(n, n, {}) for code, n in _by_language(mentions).items()}


def restrict(mentions: pa.Table, terminology: Terminology, *, vocabulary: str = "UMLS") -> tuple[pa.Table, dict[str, Account]]:
    """Mentions whose gold is in the terminology, as its concept ids (sorted), in their order; and an account by language.

    mentions: terms.mentions' SCHEMA. A gold id is in the terminology if a concept has it as its id, or cross-references it as
    `vocabulary:id`. Raises DataError if no mention is left.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    known = _concepts_of({one for ids in gold for one in ids}, terminology, vocabulary)
    mapped = [sorted({concept for one in ids for concept in known.get(one, ())}) for ids in gold]
    reasons = [None if found else ABSENT if ids else NO_GOLD for ids, found in zip(gold, mapped, strict=True)]
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    at = SCHEMA.get_field_index("concept_ids")
    out = mentions.set_column(at, SCHEMA.field(at), pa.array(mapped, SCHEMA.field(at).type)).filter(kept)
    if not out.num_rows:
        raise DataError(
            f"none of {mentions.num_rows:,} mentions has its gold concept in the terminology; "
            f"are its concepts identified by, or cross-referenced to, {vocabulary}?"
        )
    return out, _accounts(mentions, reasons)


def _concepts_of(ids: set[str], terminology: Terminology, vocabulary: str) -> dict[str, set[str]]:
    """Each of the ids that the terminology has → its concepts there."""
    concepts = terminology.concepts
    own = concepts["concept_id"].filter(pc.is_in(concepts["concept_id"], pa.array(sorted(ids), pa.string())))
    known: dict[str, set[str]] = defaultdict(set)
    for one in own.to_pylist():
        known[one].add(one)
    references, owners = pc.list_flatten(concepts["cross_references"]), pc.list_parent_indices(concepts["cross_references"])
    hit = pc.is_in(references, pa.array(sorted(f"{vocabulary}:{one}" for one in ids), pa.string()))
    owned = concepts["concept_id"].take(owners.filter(hit))
    for reference, concept in zip(references.filter(hit).to_pylist(), owned.to_pylist(), strict=True):
        known[reference.removeprefix(f"{vocabulary}:")].add(concept)
    return known


def _accounts(mentions: pa.Table, reasons: list[str | None]) -> dict[str, Account]:
    counted = Counter(zip(mentions["language"].to_pylist(), reasons, strict=True))
    accounts = {}
    for code, rows_in in _by_language(mentions).items():
        dropped = {reason: counted[code, reason] for reason in (ABSENT, NO_GOLD) if counted[code, reason]}
        accounts[code] = Account(rows_in, counted[code, None], dropped)
    return accounts


def _by_language(mentions: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(mentions["language"].to_pylist()).items()))
