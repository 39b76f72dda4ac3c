"""Folds of mentions with known concepts, so that nothing is tested on what it was learned from.

Mentions that belong together are in one fold. By document: those of one document, whose strings and context are alike. By concept: those that
share a concept, also through others in between (A with B, B with C), so that no concept of a fold occurs outside of it.
"""

from collections.abc import Hashable, Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xsap.errors import DataError

FoldsBy = Literal["document", "concept"]


def assign_folds(mentions: pa.Table, folds: int, *, by: FoldsBy, seed: int) -> NDArray[np.int64]:
    """Split mentions into folds of about equal numbers of mentions.

    The largest group comes first, each into the fold that has the fewest mentions, so the folds differ by at most the largest group; the seed
    decides the order among equally large groups and equally full folds.

    Args:
        mentions: A table of `terms.mentions.SCHEMA`, n rows.
        folds: How many folds; at least 2.
        by: What must not be split. A mention without a document is of the same document as those of the same context; without a context, or
            by concept without a concept (NIL), it is a group of its own.
        seed: Of the order of equally large groups.

    Returns:
        (n,) the fold of each mention, from 0; no fold is empty.

    Raises:
        DataError: There are fewer groups than folds.
    """
    assert folds > 1, f"{folds} folds"
    groups = _documents(mentions) if by == "document" else _concept_components(mentions)
    sizes = np.bincount(groups)
    if len(sizes) < folds:
        what = "documents" if by == "document" else "groups of mentions that share no concept"
        raise DataError(
            f"expected at least {folds} {what} for {folds} folds, found {len(sizes)} among {len(groups):,} mentions"
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    names = random.permutation(folds)
    counts, fold_of = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    for group in order.tolist():
        least = int(counts.argmin())
        counts[least] += sizes[group]
        fold_of[group] = names[least]
    return fold_of[groups]


def _documents(mentions: pa.Table) -> NDArray[np.int64]:
    """(n,) the number of each mention's document."""
    columns = (mentions[name].to_pylist() for name in ("document_id", "context"))
    return _numbers(
        ("document", document) if document else ("context", context) if context else ("row", row)
        for row, (document, context) in enumerate(zip(*columns, strict=True))
    )


def _concept_components(mentions: pa.Table) -> NDArray[np.int64]:
    """(n,) the number of the connected component of each mention, where mentions that share a concept are connected."""
    parents: dict[str, str] = {}

    def root(concept: str) -> str:
        while (parent := parents.setdefault(concept, concept)) != concept:
            parents[concept] = concept = parents[parent]  # halves the path
        return concept

    rows = mentions["concept_ids"].to_pylist()
    for ids in rows:
        for other in ids[1:]:
            parents[root(other)] = root(ids[0])
    return _numbers(("concept", root(ids[0])) if ids else ("row", row) for row, ids in enumerate(rows))


def _numbers(keys: Iterable[Hashable]) -> NDArray[np.int64]:
    """A number for each key, in the order of first occurrences."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
