"""xsap/terms/hierarchy.py against a plain closure over sets, on generated graphs with and without circles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xsap.terms.hierarchy import Hierarchy, relations_among


def hierarchy_of(pairs, n):
    children, parents = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    return Hierarchy.from_pairs(children, parents, n)


def plain_steps(pairs, concept):
    """Steps to each ancestor, by relaxing every relation until nothing changes."""
    steps = {concept: 0}
    for _ in range(len(pairs) + 1):
        for child, parent in pairs:
            if child in steps and steps[child] + 1 < steps.get(parent, 10**9):
                steps[parent] = steps[child] + 1
    return steps


def plain_lca(pairs, concepts, max_steps):
    """The definition, word for word."""
    steps = {concept: plain_steps(pairs, concept) for concept in concepts}
    common = [x for x in range(30) if all(own.get(x, 10**9) <= max_steps for own in steps.values())]
    above = {x: set(plain_steps(pairs, x)) for x in common}
    lowest = [x for x in common if not any(x in above[y] and y not in above[x] for y in common if y != x)]
    return min(lowest, key=lambda x: (max(own[x] for own in steps.values()), sum(own[x] for own in steps.values()), x), default=None)  # fmt: skip


graphs = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=2 * n), st.booleans()
    )
)


def made(graph):
    """(n, pairs); without circles where the third value says so."""
    n, pairs, acyclic = graph
    return n, [(max(pair), min(pair)) for pair in pairs] if acyclic else pairs


@given(graphs, st.integers(0, 3))
def test_ancestors_are_those_of_a_plain_closure(graph, max_steps):
    n, pairs = made(graph)
    hierarchy = hierarchy_of(pairs, n)
    for concept in range(n):
        steps = plain_steps(pairs, concept)
        assert hierarchy.ancestors(concept) == steps
        assert hierarchy.ancestors(concept, max_steps) == {k: v for k, v in steps.items() if v <= max_steps}
        below = sum(concept in plain_steps(pairs, other) for other in range(n)) - 1
        assert [hierarchy.has_more_below(concept, limit) for limit in range(n)] == [below > i for i in range(n)]


@given(graphs, st.data())
def test_lowest_common_ancestor_is_that_of_the_definition(graph, data):
    n, pairs = made(graph)
    concepts = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
    max_steps = data.draw(st.integers(0, 4))
    assert hierarchy_of(pairs, n).lowest_common_ancestor(concepts, max_steps) == plain_lca(pairs, concepts, max_steps)


@given(graphs)
def test_circles_are_the_concepts_that_are_above_each_other(graph):
    n, pairs = made(graph)
    above = [set(plain_steps(pairs, concept)) for concept in range(n)]
    together = {tuple(y for y in range(n) if y in above[x] and x in above[y]) for x in range(n)}
    assert hierarchy_of(pairs, n).circles() == sorted(list(each) for each in together if len(each) > 1)


@given(graphs)
def test_levels_are_the_fewest_steps_from_a_concept_without_parents(graph):
    n, pairs = made(graph)
    roots = [x for x in range(n) if not any(child == x != parent for child, parent in pairs)]
    wanted = [min((plain_steps(pairs, x)[root] for root in roots if root in plain_steps(pairs, x)), default=-1) for x in range(n)]  # fmt: skip
    assert hierarchy_of(pairs, n).levels().tolist() == wanted


@given(graphs, st.data())
def test_relations_among_bridge_concepts_that_are_left_out(graph, data):
    n, pairs = made(graph)
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    wanted = set()
    for child in np.flatnonzero(kept).tolist():
        pending, seen = [parent for one, parent in pairs if one == child], set()
        while pending:
            at = pending.pop()
            if kept[at] and at != child:
                wanted.add((child, at))
            elif not kept[at] and at not in seen:
                seen.add(at)
                pending += [parent for one, parent in pairs if one == at]
    columns = [np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1)]
    found = relations_among(*columns, kept)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == sorted(wanted)


def test_a_repeated_relation_and_one_with_itself_count_once_and_not_at_all():
    hierarchy = hierarchy_of([(1, 0), (1, 0), (1, 1)], 2)
    assert (hierarchy.starts.tolist(), hierarchy.parents.tolist()) == ([0, 0, 1], [0])


@pytest.mark.parametrize("n", [0, 3])
def test_a_hierarchy_without_relations(n):
    hierarchy = hierarchy_of([], n)
    assert (len(hierarchy), hierarchy.circles(), hierarchy.levels().tolist()) == (n, [], [0] * n)


def test_a_long_chain_needs_no_recursion():
    n = 5000
    hierarchy = hierarchy_of([(i + 1, i) for i in range(n - 1)] + [(0, n - 1)], n)
    assert [len(each) for each in hierarchy.circles()] == [n]
    assert hierarchy.ancestors(n - 1)[0] == n - 1
