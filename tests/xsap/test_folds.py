"""Folds of mentions, against a plain search for what belongs together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.errors import DataError
from xsap.evaluation.folds import assign_folds
from xsap.terms.mentions import build_mentions


def mentions_of(concepts, documents=None, contexts=None):
    n = len(concepts)
    return build_mentions(
        [f"m{i}" for i in range(n)],
        ["en"] * n,
        concepts,
        document_id=documents or [None] * n,
        context=contexts or [None] * n,
    )


def naive_groups(concepts):
    """Sets of rows, joined as long as two of them share a concept."""
    groups = [({row}, set(ids)) for row, ids in enumerate(concepts)]
    joined = True
    while joined:
        joined = False
        for i, (rows, ids) in enumerate(groups):
            for other in groups[i + 1 :]:
                if ids & other[1]:
                    rows |= other[0]
                    ids |= other[1]
                    groups.remove(other)
                    joined = True
                    break
    return [rows for rows, _ in groups]


@given(
    st.lists(st.lists(st.sampled_from("ABCDEFGH"), max_size=3, unique=True), min_size=2, max_size=20),
    st.integers(2, 4),
    st.integers(0, 3),
)
def test_folds_by_concept_keep_connected_mentions_together_and_differ_by_at_most_the_largest_group(
    concepts, folds, seed
):
    groups = naive_groups(concepts)
    if len(groups) < folds:
        with pytest.raises(DataError, match=f"at least {folds} groups"):
            assign_folds(mentions_of(concepts), folds, by="concept", seed=seed)
        return
    found = assign_folds(mentions_of(concepts), folds, by="concept", seed=seed)
    assert all(len(set(found[list(rows)])) == 1 for rows in groups)
    sizes = np.bincount(found, minlength=folds)
    assert len(sizes) == folds
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(map(len, groups))


def test_folds_by_document_fall_back_to_the_context_and_then_to_the_row():
    documents = ["d1", "d2", "d1", None, None, None, None, ""]
    contexts = ["a", "a", "b", "c", "c", None, None, "c"]
    table = mentions_of([["X"]] * 8, documents, contexts)
    apart = {
        frozenset(np.flatnonzero(found == fold).tolist())
        for seed in range(20)
        for found in [assign_folds(table, 5, by="document", seed=seed)]
        for fold in range(5)
    }
    assert apart == {frozenset(rows) for rows in ({0, 2}, {1}, {3, 4, 7}, {5}, {6})}


def test_folds_follow_from_the_seed():
    table = mentions_of([[f"C{i % 40}"] for i in range(100)])
    same = [assign_folds(table, 3, by="concept", seed=1).tolist() for _ in range(2)]
    assert same[0] == same[1] != assign_folds(table, 3, by="concept", seed=2).tolist()


def test_too_few_documents_for_the_folds_are_refused():
    with pytest.raises(
        DataError, match=r"^expected at least 3 documents for 3 folds, found 2 among 3 mentions; choose fewer folds"
    ):
        assign_folds(mentions_of([["A"], ["B"], ["C"]], ["d", "d", "e"]), 3, by="document", seed=0)
