"""The names that a run trains on, from a terminology or a file of pairs: their strings, concepts and languages."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.encoding.packing import Tokens
from xsap.errors import ConfigError
from xsap.languages import UNKNOWN
from xsap.terms.mentions import read_pairs
from xsap.terms.source_licenses import count_sources
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy, normalize_all

PAIRS_SOURCE = "a file of pairs"  # its names have no source of their own


@dataclass(frozen=True)
class NameSet:
    """Names to train on.

    Attributes:
        names: n strings, as their source has them.
        concepts: (n,) the concept of each, as a number.
        languages: n ISO codes.
        is_pairs: Whether rows 2i and 2i + 1 are the names of pair i of a file, in its order.
        terminology: Where the names are from; None for a file of pairs.
        auxiliary_start: The first concept of the auxiliary source, whose rows come last; None without one.
        sources: How many names each source has.
    """

    names: list[str]
    concepts: NDArray[np.int64]
    languages: list[str]
    is_pairs: bool
    terminology: Terminology | None = None
    auxiliary_start: int | None = None
    sources: Mapping[str, int] = field(default_factory=dict)

    def split(self) -> tuple["NameSet", "NameSet"]:
        """The main source and the auxiliary one, each by itself."""
        start = self.auxiliary_start or 0
        cut = int(np.searchsorted(self.concepts >= start, True))
        return (
            NameSet(self.names[:cut], self.concepts[:cut], self.languages[:cut], self.is_pairs, self.terminology),
            NameSet(self.names[cut:], self.concepts[cut:] - start, self.languages[cut:], is_pairs=False),
        )


def with_auxiliary(main: NameSet, auxiliary: NameSet) -> NameSet:
    """Both sources in one table of names."""
    assert main.terminology is not None, "a file of pairs allows no auxiliary source"
    start = main.terminology.concepts.num_rows
    return NameSet(
        main.names + auxiliary.names,
        np.concatenate([main.concepts, auxiliary.concepts + start]),
        main.languages + auxiliary.languages,
        is_pairs=False,
        terminology=main.terminology,
        auxiliary_start=start,
        sources=Counter(main.sources) + Counter(auxiliary.sources),
    )


def from_terminology(path: Path, languages: frozenset[str] | None) -> NameSet:
    """The names of a terminology.

    Args:
        path: The terminology folder.
        languages: Languages of the names; None for all.

    Raises:
        ConfigError: A language has no name.
    """
    terminology = Terminology.load(path)
    lacking = sorted((languages or frozenset()) - set(terminology.languages))
    if lacking:
        raise ConfigError(f"{path}: has no name in {', '.join(lacking)}; it has {', '.join(terminology.languages)}")
    names = terminology.select(languages=languages).names
    concepts = pc.index_in(names["concept_id"], terminology.concepts["concept_id"].combine_chunks())
    numbers = concepts.to_numpy().astype(np.int64)
    return NameSet(
        names["name"].to_pylist(),
        numbers,
        names["language"].to_pylist(),
        is_pairs=False,
        terminology=terminology,
        sources=count_sources(names["source"]),
    )


def from_pairs(path: Path) -> NameSet:
    """The names of an `id||name||name` file, pair by pair."""
    pairs = read_pairs(path)
    names = [name for pair in zip(pairs.left, pairs.right, strict=True) for name in pair]
    _, numbers = np.unique(pairs.concept_ids, return_inverse=True)
    concepts, languages = np.repeat(numbers.astype(np.int64), 2), [UNKNOWN] * len(names)
    return NameSet(names, concepts, languages, is_pairs=True, sources={PAIRS_SOURCE: len(names)})


def distinct(name_set: NameSet, policy: TextPolicy, anchor_language: str | None) -> NameSet:
    """Normalize names and remove those of a concept that become equal, as "Fever" and "fever" are no pair to learn from.

    Args:
        name_set: The names; a file of pairs keeps all of them.
        policy: How to normalize.
        anchor_language: Of equal names one in this language is kept, if there is one.
    """
    names = normalize_all(name_set.names, policy)
    if name_set.is_pairs:
        return replace(name_set, names=names)
    _, strings = np.unique(np.array(names, dtype=object), return_inverse=True)
    other = np.array([code != anchor_language for code in name_set.languages])
    order = np.lexsort((other, strings, name_set.concepts))
    key = np.stack([name_set.concepts, strings])[:, order]
    first = np.concatenate([[True], (key[:, 1:] != key[:, :-1]).any(0)])
    kept = np.sort(order[first])
    kept = kept[[bool(names[i]) for i in kept]]
    return replace(
        name_set,
        names=[names[i] for i in kept],
        concepts=name_set.concepts[kept],
        languages=[name_set.languages[i] for i in kept],
    )


def fingerprint(tokens: Tokens, name_set: NameSet) -> str:
    """SHA-256 over everything that a step can draw from: token ids, concepts and languages of the names, in order."""
    digest = hashlib.sha256()
    for array in (tokens.ids, tokens.offsets, name_set.concepts):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("\n".join(name_set.languages).encode())
    if name_set.auxiliary_start is not None:
        digest.update(f"\nauxiliary from {name_set.auxiliary_start}".encode())
    return digest.hexdigest()
