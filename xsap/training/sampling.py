"""Sampling: which names make up step n of epoch e, as a pure function of (seed, e, n), with nothing to store and nothing to replay.

An epoch is a pseudo-random permutation that can be evaluated at any position alone (a Feistel network over the numbers
0 … n-1). So a run resumes at any step, and every process computes its own part, without a shuffled list. Pairs are
numbered, never listed: a number is decoded into a concept and the index of one of its pairs.
"""

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from xsap.errors import ConfigError
from xsap.languages import to_iso

_ROUNDS = 10  # with few names fewer rounds are measurably uneven; 8 pass a chi-square test, and two more are cheap


class Stream(IntEnum):
    """Streams of random numbers: a tag that is mixed into the seed. Two uses with one tag would be correlated."""

    PAIR_ORDER = 0
    PAIR_OF_CONCEPT = 1
    GROUP_ORDER = 2
    FIRST_NAME = 3
    OTHER_NAMES = 4
    FILE_ORDER = 5
    RANDOM_CONCEPTS = 6
    HARD_NEGATIVES = 7
    WEIGHTED_NAMES = 8
    TOKEN_DROPOUT = 9
    DROPOUT = 10
    MENTION_ORDER = 11
    WINDOW_ORDER = 12
    MASKED_TOKENS = 13


class Sampler(Protocol):
    """Names for every step of every epoch."""

    steps_per_epoch: int

    def batch(self, epoch: int, step: int) -> "Names":
        """The names of one step."""


class CandidatesOfStep(NamedTuple):
    """The mentions of a step, which are its first b names, and their candidates, which come next.

    Attributes:
        names: (b, k) which of the step's names the candidates of each mention are.
        right: (b, k) bool, whether a candidate is a name of a right concept.
        similarity: (b, k) float32, string similarity of mention and candidate.
        aligned: Where the step's further names begin, which are aligned with one another.
    """

    names: NDArray[np.int64]
    right: NDArray[np.bool_]
    similarity: NDArray[np.float32]
    aligned: int


class Names(NamedTuple):
    """The names of a step. Names of one concept are positives of one another.

    Attributes:
        rows: (n,) rows of the run's table of names.
        concepts: (n,) the concept of each, as a number.
        candidates: Of the mentions among them; None without mentions.
    """

    rows: NDArray[np.int64]
    concepts: NDArray[np.int64]
    candidates: CandidatesOfStep | None = None


def language_weights(languages: Sequence[str], temperature: float) -> NDArray[np.float64] | None:
    """Weights with which a language's fraction of the drawn names becomes its fraction of all names to the power of a temperature.

    That holds as far as concepts have names to choose from (Arivazhagan et al., 2019, § 4.2, whose temperature is 1/T
    of ours).

    Args:
        languages: Language of each of n names.
        temperature: 1 draws names as they are, 0 draws languages equally.

    Returns:
        (n,) a weight per name; None for temperature 1, where all are equal.
    """
    if temperature == 1:
        return None
    _, inverse, counts = np.unique(np.asarray(languages, dtype=object), return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = (counts / len(languages)) ** (temperature - 1)
    return weights[inverse]


def parse_language_choice(choice: str) -> frozenset[str] | None:
    """The languages of the paper's names of settings: `all_syn` → None (all), `en_syn` → en, `en+es_syn` → en and es."""
    stem, _, suffix = choice.partition("_")
    if suffix != "syn" or not stem:
        raise ConfigError(f"sampling.languages must be all_syn, en_syn or like en+es_syn; found '{choice}'")
    return None if stem == "all" else frozenset(to_iso(code) for code in stem.split("+"))


def mix(*numbers: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Hash tuples of numbers to 63 bits, elementwise (the finalizer of SplitMix64, Steele et al., OOPSLA 2014)."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for number in numbers:
            state = state + np.asarray(number, np.int64).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(1)).astype(np.int64)


def permute(
    positions: NDArray[np.int64], sizes: NDArray[np.int64] | int, keys: NDArray[np.int64] | int
) -> NDArray[np.int64]:
    """Evaluate pseudo-random permutations of 0 … size-1, elementwise and in constant memory.

    A Feistel network on the next even power of two, iterated until the result is below the size (Black and Rogaway,
    CT-RSA 2002).

    Args:
        positions: Where to evaluate, each below its size.
        sizes: Size of each permutation; broadcast.
        keys: Which permutation of that size; broadcast.

    Returns:
        The images of `positions`.
    """
    positions, sizes, keys = np.broadcast_arrays(positions, np.asarray(sizes, np.int64), np.asarray(keys, np.int64))
    half = np.maximum(1, (np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.int64) + 1) // 2)
    out = _feistel(positions, half, keys)
    while (outside := out >= sizes).any():
        out[outside] = _feistel(out[outside], half[outside], keys[outside])
    return out


def _feistel(numbers: NDArray[np.int64], half: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
    mask = (np.int64(1) << half) - 1
    left, right = numbers >> half, numbers & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (mix(keys, turn, right) & mask)
    return (left << half) | right


class Concepts:
    """The names of each concept as consecutive entries of `rows`, those in the anchor language first.

    Concepts that give no pair are left out.

    Args:
        concept_of: (n,) the concept of each name, as any integer.
        languages: Language of each name; needed with an anchor language.
        anchor: A language of which every pair or group must have a name; None for no such condition.

    Attributes:
        rows: (n,) rows of names, concept by concept.
        numbers: (c,) the usable concepts.
        first: (c,) where each concept's names begin in `rows`.
        counts: (c,) names of each concept.
        anchors: (c,) how many of them are in the anchor language; all, without one.

    Raises:
        ConfigError: No concept is usable.
    """

    def __init__(
        self, concept_of: NDArray[np.int64], languages: Collection[str] | None = None, anchor: str | None = None
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
            raise ConfigError(
                "no concept has two names to pair; check sampling.languages, sampling.anchor_language and the terminology"
            )


class PairSampler:
    """At most `pairs_per_concept` pairs of each concept, in random order, drawn again each epoch (Liu et al., NAACL 2021, § 2.1).

    Args:
        concepts: The names of each concept.
        pairs_per_concept: The largest number of pairs of a concept per epoch.
        pairs: Pairs per step.
        seed: Seed of the run.
    """

    def __init__(self, concepts: Concepts, *, pairs_per_concept: int, pairs: int, seed: int) -> None:
        self.concepts, self.pairs, self.seed = concepts, pairs, seed
        n, a = concepts.counts, concepts.anchors
        self.possible = a * (a - 1) // 2 + a * (
            n - a
        )  # pairs with a name in the anchor language; all pairs, without one
        self.ends = np.cumsum(np.minimum(self.possible, pairs_per_concept))
        self.steps_per_epoch = -(-int(self.ends[-1]) // pairs)

    def batch(self, epoch: int, step: int) -> Names:
        """Left names, then right names, of the pairs of a step; the last step of an epoch may have fewer."""
        total = int(self.ends[-1])
        positions = np.arange(step * self.pairs, min((step + 1) * self.pairs, total))
        drawn = permute(positions, total, mix(self.seed, epoch, Stream.PAIR_ORDER))
        at = np.searchsorted(self.ends, drawn, side="right")
        nth = drawn - np.where(at > 0, self.ends[at - 1], 0)
        keys = mix(self.seed, epoch, Stream.PAIR_OF_CONCEPT, self.concepts.numbers[at])
        left, right = _pair(permute(nth, self.possible[at], keys), self.concepts.counts[at])
        first = self.concepts.first[at]
        rows = self.concepts.rows[np.concatenate([first + left, first + right])]
        return Names(rows, np.tile(self.concepts.numbers[at], 2))


def _pair(number: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pair (i, j), i < j < n, of a given number in the order (0,1), (0,2), …, (1,2), …, where anchored pairs come first."""
    n_ = n.astype(np.float64)
    left = np.floor(n_ - 0.5 - np.sqrt(np.maximum((n_ - 0.5) ** 2 - 2.0 * number, 0.0))).astype(np.int64)
    left -= _before(left, n) > number  # the square root may be off by one
    left += _before(left + 1, n) <= number
    return left, number - _before(left, n) + left + 1


def _before(left: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of pairs whose first member is below `left`."""
    return left * n - left * (left + 1) // 2


class GroupSampler:
    """Groups of names of one concept each: a name, encoded once, is part of several pairs.

    Each epoch has every concept once, in random order; a concept with fewer names gives all it has. With an anchor
    language, a group's first name is in it.

    Args:
        concepts: The names of each concept.
        names_per_concept: Names per group.
        names: Names per step, at most.
        seed: Seed of the run.
        hard_negatives: How many of the nearest concepts of each drawn concept join the step; random ones until
            `nearest` is known.
        weights: (n,) relative chance of each name to be drawn for its group; None for equal chances.

    Attributes:
        nearest: (c, k) for each concept the indices of its nearest other concepts, once known. Set by `HardNegatives`
            alone.

    Raises:
        ConfigError: A step is too small for its groups, or there are too few concepts.
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
                f"sampling.hard_negatives must be below the number of concepts, {len(concepts.numbers):,}; found {hard_negatives}"
            )
        self.concepts, self.names_per_concept, self.seed = concepts, names_per_concept, seed
        self.hard_negatives = hard_negatives
        self.groups = names // names_per_concept // (1 + hard_negatives)
        self.steps_per_epoch = -(-len(concepts.numbers) // self.groups)
        self.weights = weights
        self.nearest: NDArray[np.int64] | None = None

    def batch(self, epoch: int, step: int) -> Names:
        """The names of a step, group after group; the last step of an epoch may have fewer."""
        concepts, total = self.concepts, len(self.concepts.numbers)
        positions = np.arange(step * self.groups, min((step + 1) * self.groups, total))
        at = self._with_hard_negatives(permute(positions, total, mix(self.seed, epoch, Stream.GROUP_ORDER)), epoch)
        key = mix(self.seed, epoch, Stream.FIRST_NAME, concepts.numbers[at])
        size = np.minimum(self.names_per_concept, concepts.counts[at])
        group = np.repeat(np.arange(len(at)), size - 1)
        nth = np.arange(len(group)) - np.repeat(np.cumsum(size - 1) - (size - 1), size - 1)
        if self.weights is None:
            anchor = permute(np.zeros_like(at), concepts.anchors[at], key)
            others = permute(nth, concepts.counts[at][group] - 1, mix(key, Stream.OTHER_NAMES)[group])
            others += others >= anchor[group]  # skip the anchor itself
        else:
            anchor, others = self._weighted(at, size - 1, key)
        rows = np.concatenate([concepts.first[at] + anchor, concepts.first[at][group] + others])
        owner = np.concatenate([np.arange(len(at)), group])
        order = np.argsort(owner, kind="stable")
        return Names(concepts.rows[rows[order]], concepts.numbers[at][owner[order]])

    def _weighted(
        self, at: NDArray[np.int64], wanted: NDArray[np.int64], key: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw names by weight without replacement: those of least -log(u) / weight (Efraimidis and Spirakis, 2006).

        Args:
            at: (g,) concepts.
            wanted: (g,) names to draw in addition to the first.
            key: (g,) random keys.

        Returns:
            Indices within the concepts' names: (g,) the first names, which are anchors, and (sum of wanted,) the
            others.
        """
        assert self.weights is not None
        counts = self.concepts.counts[at]
        group, begin = np.repeat(np.arange(len(at)), counts), np.repeat(np.cumsum(counts) - counts, counts)
        nth = np.arange(len(group)) - begin
        uniform = (mix(key[group], Stream.WEIGHTED_NAMES, nth) + 1.0) * 2.0**-63
        ranks = -np.log(uniform) / self.weights[self.concepts.rows[self.concepts.first[at][group] + nth]]
        order = np.lexsort((np.where(nth < self.concepts.anchors[at][group], ranks, np.inf), group))
        anchor = nth[order[nth == 0]]
        ranks[nth == anchor[group]] = np.inf
        order = np.lexsort((ranks, group))
        return anchor, nth[order[nth < wanted[group]]]

    def _with_hard_negatives(self, at: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Concepts, then `hard_negatives` of the nearest of each, without repetition; random ones until the nearest are known."""
        if not self.hard_negatives:
            return at
        total = len(self.concepts.numbers)
        if self.nearest is None:
            others = permute(
                np.arange(self.hard_negatives)[None], total, mix(self.seed, epoch, Stream.RANDOM_CONCEPTS, at)[:, None]
            )
        else:
            drawn = permute(
                np.arange(self.hard_negatives)[None],
                self.nearest.shape[1],
                mix(self.seed, epoch, Stream.HARD_NEGATIVES, at)[:, None],
            )
            others = np.take_along_axis(self.nearest[at], drawn, 1)
        _, first = np.unique(both := np.concatenate([at, others.ravel()]), return_index=True)
        return both[np.sort(first)]


class FilePairs:
    """The pairs of a file, in its order or in a random one that differs between epochs.

    Args:
        concept_of: (2p,) the concept of each name; rows 2i and 2i + 1 are the names of pair i.
        pairs: Pairs per step.
        shuffle: Whether to take them in random order.
        seed: Seed of the run.
    """

    def __init__(self, concept_of: NDArray[np.int64], *, pairs: int, shuffle: bool, seed: int) -> None:
        self.concept_of, self.pairs, self.shuffle, self.seed = concept_of, pairs, shuffle, seed
        self.steps_per_epoch = -(-(len(concept_of) // 2) // pairs)

    def batch(self, epoch: int, step: int) -> Names:
        """Left names, then right names, of the pairs of a step; the last step of an epoch may have fewer."""
        total = len(self.concept_of) // 2
        at = np.arange(step * self.pairs, min((step + 1) * self.pairs, total))
        if self.shuffle:
            at = permute(at, total, mix(self.seed, epoch, Stream.FILE_ORDER))
        rows = np.concatenate([2 * at, 2 * at + 1])
        return Names(rows, self.concept_of[rows])


def names_of_rank(names: Names, rank: int, processes: int) -> Names:
    """The part of a step's names that one process encodes: every `processes`-th of them. Parts are disjoint and complete."""
    return Names(names.rows[rank::processes], names.concepts[rank::processes])


class Mixed:
    """Two sources of names per step: a terminology, and an auxiliary one, such as general-domain translations.

    Each is sampled by itself, so a step has the names that the main source gives alone, then those of the auxiliary
    one. An epoch is one of the main source; the auxiliary source's epochs are counted from the steps taken.

    Args:
        main: Sampler of the main source.
        auxiliary: Sampler of the auxiliary source.
        rows: Added to the auxiliary rows, so that both index one table of names.
        concepts: Added to the auxiliary concepts.
    """

    def __init__(self, main: Sampler, auxiliary: Sampler, *, rows: int, concepts: int) -> None:
        self.main, self.auxiliary, self.rows, self.concepts = main, auxiliary, rows, concepts
        self.steps_per_epoch = main.steps_per_epoch

    def batch(self, epoch: int, step: int) -> Names:
        """The names of one step."""
        left = self.main.batch(epoch, step)
        right = self.auxiliary.batch(*divmod(epoch * self.steps_per_epoch + step, self.auxiliary.steps_per_epoch))
        return Names(
            np.concatenate([left.rows, right.rows + self.rows]),
            np.concatenate([left.concepts, right.concepts + self.concepts]),
        )
