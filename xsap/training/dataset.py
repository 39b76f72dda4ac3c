"""What a run trains on: a terminology or a file of pairs, turned into names, the concept of each, and its language."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.encoding.packing import Tokens
from xsap.errors import ConfigError
from xsap.languages import UNKNOWN
from xsap.terms.mentions import read_pairs
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize_all


@dataclass(frozen=True)
class NameSet:
    """names: n strings, as their source has them. concepts: (n,) the concept of each, numbered. languages: n ISO codes.

    in_pairs: rows 2i and 2i + 1 are a pair of a file, in its order. terminology: where the names are from, else None. second: from which
    concept on they are of a second source; their rows come last.
    """

    names: list[str]
    concepts: NDArray[np.int64]
    languages: list[str]
    is_pairs: bool
    terminology: Terminology | None = None
    auxiliary_start: int | None = None

    def split(self) -> tuple["NameSet", "NameSet"]:
        """The first source and the second, each as if it were alone."""
        cut = int(np.searchsorted(self.concepts >= (self.auxiliary_start or 0), True))
        first = NameSet(self.names[:cut], self.concepts[:cut], self.languages[:cut], self.is_pairs, self.terminology)
        return first, NameSet(
            self.names[cut:], self.concepts[cut:] - (self.auxiliary_start or 0), self.languages[cut:], is_pairs=False
        )


def with_auxiliary(first: NameSet, second: NameSet) -> NameSet:
    """Both sources in one table of names."""
    assert first.terminology is not None, "a file of pairs has no second source"
    start = first.terminology.concepts.num_rows
    concepts = np.concatenate([first.concepts, second.concepts + start])
    return NameSet(
        first.names + second.names, concepts, first.languages + second.languages, False, first.terminology, start
    )


def from_terminology(path: Path, languages: frozenset[str] | None) -> NameSet:
    """The names of a terminology in these languages (None: all). Raises ConfigError if one of them has none."""
    terminology = Terminology.load(path)
    lacking = sorted((languages or frozenset()) - set(terminology.languages))
    if lacking:
        raise ConfigError(f"{path}: has no name in {', '.join(lacking)}; it has {', '.join(terminology.languages)}")
    names = terminology.select(languages=languages).names
    concepts = pc.index_in(names["concept_id"], terminology.concepts["concept_id"].combine_chunks())
    numbers = concepts.to_numpy().astype(np.int64)
    return NameSet(
        names["name"].to_pylist(), numbers, names["language"].to_pylist(), is_pairs=False, terminology=terminology
    )


def from_pairs(path: Path) -> NameSet:
    """The names of an `id||name||name` file, pair after pair."""
    pairs = read_pairs(path)
    names = [name for pair in zip(pairs.left, pairs.right, strict=True) for name in pair]
    _, numbers = np.unique(pairs.concept_ids, return_inverse=True)
    return NameSet(names, np.repeat(numbers.astype(np.int64), 2), [UNKNOWN] * len(names), is_pairs=True)


def distinct(name_set: NameSet, policy: TextPolicy, anchor_language: str | None) -> NameSet:
    """Names under a policy, each once a concept: "Fever" and "fever" are no pair to learn from. Of equal names one in `anchor_language` stays."""
    names = normalize_all(name_set.names, policy)
    if name_set.is_pairs:
        return NameSet(names, name_set.concepts, name_set.languages, is_pairs=True)
    _, strings = np.unique(np.array(names, dtype=object), return_inverse=True)
    other = np.array([code != anchor_language for code in name_set.languages])
    order = np.lexsort((other, strings, name_set.concepts))
    key = np.stack([name_set.concepts, strings])[:, order]
    first = np.concatenate([[True], (key[:, 1:] != key[:, :-1]).any(0)])
    kept = np.sort(order[first])
    kept = kept[[bool(names[i]) for i in kept]]
    return NameSet(
        [names[i] for i in kept],
        name_set.concepts[kept],
        [name_set.languages[i] for i in kept],
        False,
        name_set.terminology,
        name_set.auxiliary_start,
    )


def fingerprint(tokens: Tokens, name_set: NameSet) -> str:
    """One sha256 of all that a step can draw from: the token ids and concepts of the names, and their languages, in order."""
    digest = hashlib.sha256()
    for array in (tokens.ids, tokens.offsets, name_set.concepts):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\n".join(name_set.languages).encode())
    if name_set.auxiliary_start is not None:
        digest.update(f"\nsecond from {name_set.auxiliary_start}".encode())
    return digest.hexdigest()
