"""The mentions that a model is tuned on: which ones can be used, what a right candidate of each is, and which names are candidates.

Candidates are the distinct strings of the dictionary, so a name of several concepts is one candidate, and right if any of them is. A mention
that cannot be learned from is dropped, and counted by the reason.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import DataError
from xsap.evaluation.gold import check_gold
from xsap.files import RowCounts
from xsap.linking.rejection import rejection_reason
from xsap.text import TextPolicy, normalize_all

_NIL, _NOT_IN_DICTIONARY, _EQUAL = "without a concept (NIL)", "gold not in dictionary", "equal to another one"
_NO_TERM, _COMPOSITE = "cannot be linked", "of several concepts (composite)"


@dataclass(frozen=True)
class MentionSet:
    """Mentions to learn from.

    Attributes:
        texts: m mentions, normalized.
        gold: Ids of the right concepts of each that the dictionary has, at least one.
        counts: What became of all mentions.
    """

    texts: list[str]
    gold: list[tuple[str, ...]]
    counts: RowCounts

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the mentions and their concepts, in order."""
        return hashlib.sha256(json.dumps([self.texts, self.gold]).encode()).hexdigest()


def mentions_to_learn(mentions: pa.Table, known: frozenset[str], policy: TextPolicy, *, composite: bool) -> MentionSet:
    """Choose the mentions that can be learned from; equal ones of the same concepts count once.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`.
        known: Ids of all concepts of the dictionary.
        policy: How the model normalizes names.
        composite: Whether a mention may have several concepts, any of which is right.

    Raises:
        DataError: No mention can be used.
    """
    columns = [mentions[name].to_pylist() for name in ("mention", "concept_ids")]
    check_gold(columns[1], known, dictionary="terminology")
    texts = normalize_all(columns[0], policy)
    kept: dict[tuple[str, tuple[str, ...]], None] = {}
    dropped = Counter[str]()
    for mention, text, ids in zip(columns[0], texts, columns[1], strict=True):
        key = text, tuple(sorted(known.intersection(ids)))
        reason = (
            _NIL
            if not ids
            else _NO_TERM
            if rejection_reason(mention) is not None or not text
            else _NOT_IN_DICTIONARY
            if not key[1]
            else _COMPOSITE
            if len(set(ids)) > 1 and not composite
            else _EQUAL
            if key in kept
            else None
        )
        if reason:
            dropped[reason] += 1
        else:
            kept[key] = None
    if not kept:
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in dropped.most_common())
        raise DataError(f"expected mentions to learn from, found none among {mentions.num_rows:,} ({reasons})")
    counts = RowCounts(mentions.num_rows, len(kept), dropped)
    return MentionSet([text for text, _ in kept], [ids for _, ids in kept], counts)


@dataclass(frozen=True)
class CandidateNames:
    """The names that can be candidates: the distinct strings of a table of names.

    Attributes:
        rows: (n,) the first row of each string in the table.
        concepts: Ids of the concepts of each string, sorted.
    """

    rows: NDArray[np.int64]
    concepts: list[tuple[str, ...]]

    @classmethod
    def from_names(cls, names: Sequence[str], concepts: Sequence[str]) -> "CandidateNames":
        """names: the table's strings; concepts: the id of each one's concept."""
        rows: dict[str, int] = {}
        owners: dict[str, set[str]] = {}
        for row, (name, concept) in enumerate(zip(names, concepts, strict=True)):
            rows.setdefault(name, row)
            owners.setdefault(name, set()).add(concept)
        return cls(np.array(list(rows.values()), np.int64), [tuple(sorted(ids)) for ids in owners.values()])


def right_candidates(
    gold: Sequence[Sequence[str]], found: NDArray[np.int64], concepts: Sequence[Sequence[str]], *, as_biosyn: bool
) -> NDArray[np.bool_]:
    """Whether candidates are right: names of a right concept.

    Args:
        gold: Ids of the right concepts of each of m mentions.
        found: (m, k) numbers of their candidates.
        concepts: Ids of the concepts of each name.
        as_biosyn: Whether a candidate is right, as in the original code, if each gold id is a part of the text of its ids joined by `|`: for
            C1 a name of C10 is right.

    Returns:
        (m, k).
    """
    if as_biosyn:
        joined = ["|".join(ids) for ids in concepts]
        rows = [
            [all(one in joined[name] for one in ids) for name in line]
            for ids, line in zip(gold, found.tolist(), strict=True)
        ]
    else:
        sets = [frozenset(ids) for ids in concepts]
        rows = [
            [not sets[name].isdisjoint(ids) for name in line] for ids, line in zip(gold, found.tolist(), strict=True)
        ]
    return np.array(rows, bool).reshape(found.shape)
