"""Which names make up step n of epoch e: a pure function of (seed, e, n), with nothing to store and nothing to replay.

An epoch is a pseudo-random permutation that can be asked for any of its places alone (a Feistel network over the numbers
0 … n-1), so a run resumes at any step, and every process computes its own share, without a shuffled list. Pairs are numbered, never
written down: a number is a concept and the how-manieth of its pairs.

Two sources of names in each step: a terminology, and beside it another with its own share, such as general-domain translations.

Both are sampled by themselves, so what the first gives in a step is what it would give alone in a batch of its size. The second goes
round at its own pace: its epochs are counted from the steps taken.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xsap.errors import ConfigError
from xsap.languages import to_iso

Integers = NDArray[np.int64]
_ROUNDS = 10  # on a handful of names fewer are measurably uneven; 8 pass a chi-square test, and two more are cheap


class Sampler(Protocol):
    """Names for every step of every epoch."""

    steps_per_epoch: int

    def batch(self, epoch: int, step: int) -> "Names":
        """The names of one step."""


class Names(NamedTuple):
    """Rows of names (into the tokens), and the concept of each as a number; both (n,). Names of one concept are positives."""

    rows: Integers
    concepts: Integers


def language_weights(languages: Sequence[str], temperature: float) -> NDArray[np.float64] | None:
    """(n,) weight of each name such that a language's share of what is drawn is its share of names to the power `temperature`, as far as
    concepts have the choice (Arivazhagan et al., 2019, §4.2, with 1/T for our temperature). None for 1: all names alike."""
    if temperature == 1:
        return None
    _, inverse, counts = np.unique(np.asarray(languages, dtype=object), return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = (counts / len(languages)) ** (temperature - 1)
    return weights[inverse]


def parse_choice(choice: str) -> frozenset[str] | None:
    """The languages of the paper's settings: `all_syn` → None (all), `en_syn` → en, `en+es_syn` → en and es."""
    stem, _, suffix = choice.partition("_")
    if suffix != "syn" or not stem:
        raise ConfigError(f"sampling.languages must be all_syn, en_syn or such as en+es_syn; found '{choice}'")
    return None if stem == "all" else frozenset(to_iso(code) for code in stem.split("+"))


def mix(*numbers: Integers | int) -> Integers:
    """One well-mixed 63-bit number for each tuple of numbers, elementwise (the finaliser of SplitMix64, Steele et al., 2014)."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = state + np.asarray(number, np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(1)).astype(np.int64)


def permute(places: Integers, sizes: Integers | int, keys: Integers | int) -> Integers:
    """Where a pseudo-random permutation of 0 … size-1, chosen by key, sends each place; elementwise, in constant memory.

    A Feistel network on the next even power of two, walked along its cycle until it is back inside (Black and Rogaway, 2002).
    """
    places, sizes, keys = np.broadcast_arrays(places, np.asarray(sizes, np.int64), np.asarray(keys, np.int64))
    half = np.maximum(1, (np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.int64) + 1) // 2)
    out = _feistel(places, half, keys)
    while (outside := out >= sizes).any():
        out[outside] = _feistel(out[outside], half[outside], keys[outside])
    return out


def _feistel(numbers: Integers, half: Integers, keys: Integers) -> Integers:
    mask = (np.int64(1) << half) - 1
    left, right = numbers >> half, numbers & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (mix(keys, turn, right) & mask)
    return (left << half) | right


class Concepts:
    """The names of each concept as one run of rows, sorted so that names of the anchor language come first.

    concept_of: (n,) the concept of each name as any integer. languages, anchor: each name's language, and the one of which every pair
    or group must have a name. Concepts that can give no pair are left out.
    """

    def __init__(
        self, concept_of: Integers, languages: Collection[str] | None = None, anchor: str | None = None
    ) -> None:
        anchored = (
            np.ones(len(concept_of), bool)
            if anchor is None
            else np.array([code == anchor for code in languages or ()], bool)
        )
        order = np.lexsort((~anchored, concept_of))
        numbers, first, counts = np.unique(concept_of[order], return_index=True, return_counts=True)
        ends = np.concatenate([[0], np.cumsum(anchored[order])])
        anchors = ends[first + counts] - ends[first]
        kept = (counts >= 2) & (anchors >= 1)
        self.rows, self.numbers = order.astype(np.int64), numbers[kept].astype(np.int64)
        self.first, self.counts, self.anchors = first[kept], counts[kept], anchors[kept]
        if not len(self.numbers):
            raise ConfigError("no concept has two names to pair; check the languages, the anchor and the terminology")


class PairSampler:
    """At most `pairs_per_concept` pairs of each concept, drawn anew each epoch, all of them in random order (Liu et al., 2021, §2.1)."""

    def __init__(self, concepts: Concepts, *, pairs_per_concept: int, pairs: int, seed: int) -> None:
        self.concepts, self.pairs, self.seed = concepts, pairs, seed
        n, a = concepts.counts, concepts.anchors
        self.possible = a * (a - 1) // 2 + a * (n - a)  # pairs with an anchor in them: all, where every name is one
        self.ends = np.cumsum(np.minimum(self.possible, pairs_per_concept))
        self.steps_per_epoch = -(-int(self.ends[-1]) // pairs)

    def batch(self, epoch: int, step: int) -> Names:
        """Left names, then right names, of the pairs of a step; the last step of an epoch may have fewer."""
        total = int(self.ends[-1])
        places = np.arange(step * self.pairs, min((step + 1) * self.pairs, total))
        drawn = permute(places, total, mix(self.seed, epoch, 0))
        at = np.searchsorted(self.ends, drawn, side="right")
        nth = drawn - np.where(at > 0, self.ends[at - 1], 0)
        keys = mix(self.seed, epoch, 1, self.concepts.numbers[at])
        left, right = _pair(permute(nth, self.possible[at], keys), self.concepts.counts[at])
        first = self.concepts.first[at]
        rows = self.concepts.rows[np.concatenate([first + left, first + right])]
        return Names(rows, np.tile(self.concepts.numbers[at], 2))


def _pair(number: Integers, n: Integers) -> tuple[Integers, Integers]:
    """The number-th pair (i, j), i < j < n, in the order (0,1), (0,2), …, (1,2), …: with anchors first, anchored pairs come first."""
    n_ = n.astype(np.float64)
    left = np.floor(n_ - 0.5 - np.sqrt(np.maximum((n_ - 0.5) ** 2 - 2.0 * number, 0.0))).astype(np.int64)
    left -= _before(left, n) > number  # the square root may be off by one
    left += _before(left + 1, n) <= number
    return left, number - _before(left, n) + left + 1


def _before(left: Integers, n: Integers) -> Integers:
    """How many pairs have a smaller first member than `left`."""
    return left * n - left * (left + 1) // 2


class GroupSampler:
    """`names_per_concept` names of each of k concepts: a name, once encoded, serves in several pairs.

    Each epoch meets every concept once, in random order; a concept with fewer names gives all it has. Where there is an anchor
    language, a group's first name is of it.
    """

    def __init__(
        self,
        concepts: Concepts,
        *,
        names_per_concept: int,
        names: int,
        seed: int,
        hard_negatives: int = 0,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        least = max(2, 1 + hard_negatives)
        if names < least * names_per_concept:
            raise ConfigError(
                f"batch.names must hold at least {least} groups of {names_per_concept} names, found {names}"
            )
        if hard_negatives >= len(concepts.numbers):
            raise ConfigError(
                f"sampling.hard_negatives must be fewer than the concepts, {len(concepts.numbers):,} here; found {hard_negatives}"
            )
        self.concepts, self.names_per_concept, self.seed, self.hard_negatives = (
            concepts,
            names_per_concept,
            seed,
            hard_negatives,
        )
        self.groups = names // names_per_concept // (1 + hard_negatives)
        self.steps_per_epoch = -(-len(concepts.numbers) // self.groups)
        self.weights = weights
        self.nearest: Integers | None = None  # (concepts, k): of each the nearest others, once they are known

    def batch(self, epoch: int, step: int) -> Names:
        """The names of a step, group after group; the last step of an epoch may have fewer."""
        concepts, total = self.concepts, len(self.concepts.numbers)
        places = np.arange(step * self.groups, min((step + 1) * self.groups, total))
        at = self._with_hard_negatives(permute(places, total, mix(self.seed, epoch, 2)), epoch)
        key = mix(self.seed, epoch, 3, concepts.numbers[at])
        size = np.minimum(self.names_per_concept, concepts.counts[at])
        group = np.repeat(np.arange(len(at)), size - 1)
        nth = np.arange(len(group)) - np.repeat(np.cumsum(size - 1) - (size - 1), size - 1)
        if self.weights is None:
            anchor = permute(np.zeros_like(at), concepts.anchors[at], key)
            others = permute(nth, concepts.counts[at][group] - 1, mix(key, 4)[group])
            others += others >= anchor[group]  # skip the anchor itself
        else:
            anchor, others = self._weighted(at, size - 1, key)
        rows = np.concatenate([concepts.first[at] + anchor, concepts.first[at][group] + others])
        owner = np.concatenate([np.arange(len(at)), group])
        order = np.argsort(owner, kind="stable")
        return Names(concepts.rows[rows[order]], concepts.numbers[at][owner[order]])

    def _weighted(self, at: Integers, wanted: Integers, key: Integers) -> tuple[Integers, Integers]:
        """The how-manieth names of their concepts: an anchor of each, and `wanted` others, drawn by weight without replacement: those of
        the least -log(u) / weight (Efraimidis and Spirakis, 2006)."""
        assert self.weights is not None
        counts = self.concepts.counts[at]
        group, begin = np.repeat(np.arange(len(at)), counts), np.repeat(np.cumsum(counts) - counts, counts)
        nth = np.arange(len(group)) - begin
        uniform = (mix(key[group], 8, nth) + 1.0) * 2.0**-63
        ranks = -np.log(uniform) / self.weights[self.concepts.rows[self.concepts.first[at][group] + nth]]
        order = np.lexsort((np.where(nth < self.concepts.anchors[at][group], ranks, np.inf), group))
        anchor = nth[order[nth == 0]]
        ranks[nth == anchor[group]] = np.inf
        order = np.lexsort((ranks, group))
        return anchor, nth[order[nth < wanted[group]]]

    def _with_hard_negatives(self, at: Integers, epoch: int) -> Integers:
        """Concepts and `hard_negatives` of the nearest of each, every one once; as long as the nearest aren't known, any."""
        if not self.hard_negatives:
            return at
        total = len(self.concepts.numbers)
        if self.nearest is None:
            others = permute(np.arange(self.hard_negatives)[None], total, mix(self.seed, epoch, 6, at)[:, None])
        else:
            drawn = permute(
                np.arange(self.hard_negatives)[None], self.nearest.shape[1], mix(self.seed, epoch, 7, at)[:, None]
            )
            others = np.take_along_axis(self.nearest[at], drawn, 1)
        _, first = np.unique(both := np.concatenate([at, others.ravel()]), return_index=True)
        return both[np.sort(first)]


class FilePairs:
    """The pairs of a file: rows 2i and 2i + 1 are the names of pair i. In the file's order, or in a random one, new each epoch."""

    def __init__(self, concept_of: Integers, *, pairs: int, shuffle: bool, seed: int) -> None:
        self.concept_of, self.pairs, self.shuffle, self.seed = concept_of, pairs, shuffle, seed
        self.steps_per_epoch = -(-(len(concept_of) // 2) // pairs)

    def batch(self, epoch: int, step: int) -> Names:
        """Left names, then right names, of the pairs of a step; the last step of an epoch may have fewer."""
        total = len(self.concept_of) // 2
        at = np.arange(step * self.pairs, min((step + 1) * self.pairs, total))
        if self.shuffle:
            at = permute(at, total, mix(self.seed, epoch, 5))
        rows = np.concatenate([2 * at, 2 * at + 1])
        return Names(rows, self.concept_of[rows])


def share(names: Names, rank: int, processes: int) -> Names:
    """The part of a step's names that one process encodes: every `processes`-th of them. Parts are disjoint and complete."""
    return Names(names.rows[rank::processes], names.concepts[rank::processes])


class Mixed:
    """Each step's names from `first`, then those from `second`; an epoch is one of `first`.

    rows, concepts: what is added to the second's rows and concepts, so that both count in one table of names.
    """

    def __init__(self, first: Sampler, second: Sampler, *, rows: int, concepts: int) -> None:
        self.first, self.second, self.rows, self.concepts = first, second, rows, concepts
        self.steps_per_epoch = first.steps_per_epoch

    def batch(self, epoch: int, step: int) -> Names:
        """The names of a step, a pure function of (epoch, step) as those of its parts are."""
        one = self.first.batch(epoch, step)
        two = self.second.batch(*divmod(epoch * self.steps_per_epoch + step, self.second.steps_per_epoch))
        return Names(
            np.concatenate([one.rows, two.rows + self.rows]),
            np.concatenate([one.concepts, two.concepts + self.concepts]),
        )
