"""A hierarchy of concepts: the broader concepts of each, as numbers in arrays; ancestors, common ancestors and circles.

Concepts are numbered from 0, in the order of their ids, so that of two equally good answers the one with the lower number is the same on every
computer. Real hierarchies have several roots, several parents of one concept and, once they are merged from many sources, circles (Bodenreider,
Circular hierarchical relationships in the UMLS, AMIA 2001): a relation is never removed because of one, and every function here ends all the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """The parents of n concepts, as a sparse matrix in compressed rows.

    Attributes:
        starts: (n + 1,) the parents of concept i are `parents[starts[i] : starts[i + 1]]`.
        parents: Numbers of concepts, ascending for each child.
    """

    starts: Numbers
    parents: Numbers

    @classmethod
    def from_pairs(cls, children: Numbers, parents: Numbers, n: int) -> "Hierarchy":
        """A hierarchy of n concepts.

        Args:
            children: (m,) numbers below n.
            parents: (m,) the parent of each; a pair may be repeated, and one of a concept with itself is left out.
            n: How many concepts there are.
        """
        children, parents = children.astype(np.int64), parents.astype(np.int64)
        pairs = np.unique(children[children != parents] * n + parents[children != parents])
        counts = np.bincount(pairs // max(1, n), minlength=n)
        return cls(np.concatenate([[0], np.cumsum(counts)]), pairs % max(1, n))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def reversed(self) -> "Hierarchy":
        """The children of each concept, in place of its parents."""
        return Hierarchy.from_pairs(self.parents, self.children, len(self))

    @property
    def children(self) -> Numbers:
        """(m,) the child of each of `parents`."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def parents_of(self, concept: int) -> list[int]:
        """The parents of a concept, ascending."""
        found: list[int] = self.parents[self.starts[concept] : self.starts[concept + 1]].tolist()
        return found

    def ancestors(self, concept: int, max_steps: int | None = None) -> dict[int, int]:
        """The concept and all above it, with the fewest steps to each, nearest first.

        Args:
            concept: A number.
            max_steps: Steps at most; None for all.
        """
        steps, frontier = {concept: 0}, [concept]
        while frontier and (max_steps is None or steps[frontier[0]] < max_steps):
            following = sorted({above for each in frontier for above in self.parents_of(each)} - steps.keys())
            steps.update(dict.fromkeys(following, steps[frontier[0]] + 1))
            frontier = following
        return steps

    def has_more_below(self, concept: int, limit: int) -> bool:
        """Whether more than `limit` concepts are below a concept."""
        seen, pending = {concept}, [concept]
        while pending and len(seen) <= limit + 1:
            following = {below for each in pending for below in self.reversed.parents_of(each)} - seen
            seen |= following
            pending = list(following)
        return len(seen) - 1 > limit

    def lowest_common_ancestor(self, concepts: Iterable[int], max_steps: int | None = None) -> int | None:
        """The lowest of the concepts that are equal to or above all of some; None if there is none within the steps.

        Lowest: no other common ancestor is below it. Of several, the one with the fewest steps to the concept that is farthest below it, then
        with the fewest steps in total, then the lowest number.

        Args:
            concepts: At least one.
            max_steps: Steps from each of them, at most; None for any number.
        """
        above = [self.ancestors(concept, max_steps) for concept in dict.fromkeys(concepts)]
        common = set(above[0]).intersection(*above[1:])
        higher = {one: set(self.ancestors(one)) & common - {one} for one in common}
        covered = {high for one, all_higher in higher.items() for high in all_higher if one not in higher[high]}

        def distance(one: int) -> tuple[int, int, int]:
            steps = [each[one] for each in above]
            return max(steps), sum(steps), one

        return min(common - covered, key=distance, default=None)

    def levels(self) -> Numbers:
        """(n,) the fewest steps from a concept without parents; -1 below none."""
        levels = np.where(np.diff(self.starts) == 0, 0, -1)
        frontier, level = np.flatnonzero(levels == 0), 0
        while len(frontier):
            level += 1
            below = _neighbors(self.reversed, frontier)[1]
            frontier = np.unique(below[levels[below] < 0])
            levels[frontier] = level
        return levels

    def circles(self) -> list[list[int]]:
        """The sets of concepts that are all above each other, each ascending, by their first concept (Tarjan, SIAM J. Comput. 1, 1972)."""
        pending = _in_or_between_circles(self)
        search = _Tarjan(self, pending)
        return sorted(sorted(found) for concept in pending for found in search.visit(concept) if len(found) > 1)


class _Tarjan:
    """The search for strongly connected components, without recursion. among: the concepts that can be in one of more than one concept."""

    def __init__(self, hierarchy: Hierarchy, among: Sequence[int]) -> None:
        self._hierarchy, self._among = hierarchy, set(among)
        self._number: dict[int, int] = {}
        self._low: dict[int, int] = {}
        self._open: list[int] = []
        self._is_open: set[int] = set()

    def visit(self, first: int) -> list[list[int]]:
        """The components that a search from a concept completes; none if it was visited before."""
        found: list[list[int]] = []
        if first in self._number:
            return found
        stack = [(first, iter(self._enter(first)))]
        while stack:
            concept, following = stack[-1]
            for above in following:
                if above not in self._number:
                    stack.append((above, iter(self._enter(above))))
                    break
                if above in self._is_open:
                    self._low[concept] = min(self._low[concept], self._number[above])
            else:
                stack.pop()
                if stack:
                    self._low[stack[-1][0]] = min(self._low[stack[-1][0]], self._low[concept])
                if self._low[concept] == self._number[concept]:
                    at = self._open.index(concept)
                    found.append(self._open[at:])
                    self._is_open.difference_update(self._open[at:])
                    del self._open[at:]
        return found

    def _enter(self, concept: int) -> list[int]:
        self._number[concept] = self._low[concept] = len(self._number)
        self._open.append(concept)
        self._is_open.add(concept)
        return [above for above in self._hierarchy.parents_of(concept) if above in self._among]


def _in_or_between_circles(hierarchy: Hierarchy) -> list[int]:
    """The concepts that are left when those without parents, and those without children, are removed again and again."""
    left = np.ones(len(hierarchy), bool)
    for up, down in ((hierarchy, hierarchy.reversed), (hierarchy.reversed, hierarchy)):
        degrees = np.diff(up.starts).copy()
        removed = np.flatnonzero(degrees == 0)
        while len(removed):
            left[removed] = False
            below = _neighbors(down, removed)[1]
            np.subtract.at(degrees, below, 1)
            removed = np.unique(below[degrees[below] == 0])
    found: list[int] = np.flatnonzero(left).tolist()
    return found


def _neighbors(hierarchy: Hierarchy, concepts: Numbers) -> tuple[Numbers, Numbers]:
    """All parents of some concepts: the position of each one's child in `concepts`, and the parent."""
    counts = np.diff(hierarchy.starts)[concepts]
    position = np.repeat(np.arange(len(concepts)), counts)
    within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
    return position, hierarchy.parents[hierarchy.starts[concepts][position] + within]


def relations_among(children: Numbers, parents: Numbers, kept: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """The relations among some of the concepts: where a parent is left out, the nearest concepts above it that are kept take its place.

    Args:
        children: (m,) numbers below n.
        parents: (m,) the parent of each.
        kept: (n,) whether a concept is kept.

    Returns:
        Children and parents, all kept and with their numbers unchanged, sorted, each pair once.
    """
    n = len(kept)
    every = Hierarchy.from_pairs(children, parents, n)
    child, above = children[kept[children]], parents[kept[children]]
    done, seen = [np.zeros(0, np.int64)], np.zeros(0, np.int64)
    while len(child):
        pairs = np.setdiff1d(child * n + above, seen)
        seen = np.union1d(seen, pairs)
        child, above = pairs // n, pairs % n
        done.append(pairs[kept[above] & (child != above)])
        child, above = child[~kept[above]], above[~kept[above]]
        position, higher = _neighbors(every, above)
        child, above = child[position], higher
    pairs = np.unique(np.concatenate(done))
    return pairs // max(1, n), pairs % max(1, n)
