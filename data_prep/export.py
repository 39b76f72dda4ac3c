"""Export of a terminology as a training file for the original SapBERT code: lines `id||name||name`, two names of one concept each.

The names of a concept, in whatever language, are one set, and every two of them are a pair; of a concept with more than `pairs_per_concept`
pairs a random sample is drawn. The sample depends on the seed and the concept's identifier alone and uses only `Random.random`, whose
sequence Python guarantees, so equal input gives equal bytes on any machine. The original file was made by the same policy, but from an
unordered set and without a seed.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import groupby
from math import isqrt
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq

from xsap.artifacts import manifest_hash, open_artifact, sha256_of, write_atomically
from xsap.errors import DataError
from xsap.files import RowCounts
from xsap.text import TextPolicy, normalize

SEPARATOR = "||"
PAIRS_PER_CONCEPT = 50


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What was exported.

    names_in = names + duplicates + unwritable + other_languages. duplicates: equal to another name of the concept under the policy.
    unwritable: contain the separator. concepts: have a pair. sampled: concepts of whose pairs a sample was drawn. pairs: lines.
    """

    names_in: int = 0
    names: int = 0
    duplicates: int = 0
    unwritable: int = 0
    other_languages: int = 0
    concepts: int = 0
    sampled: int = 0
    pairs: int = 0

    def row_counts(self) -> RowCounts:
        """Names in, kept and dropped."""
        dropped = {
            "language not chosen": self.other_languages,
            "the same name of the same concept": self.duplicates,
            "can't be written": self.unwritable,
        }
        return RowCounts(self.names_in, self.names, {reason: n for reason, n in dropped.items() if n})


def export_pairs(
    terminology: Path,
    out: Path,
    *,
    policy: TextPolicy,
    languages: Collection[str] | None = None,
    pairs_per_concept: int = PAIRS_PER_CONCEPT,
    seed: int = 0,
) -> ExportCounts:
    """Write the pairs of a terminology, and in a second file, OUT.json, how they were made.

    Args:
        terminology: The terminology folder.
        out: The text file.
        policy: How names are written.
        languages: ISO codes; None for all.
        pairs_per_concept: The most pairs of a concept.
        seed: Of the random samples.

    Returns:
        What was written.

    Raises:
        ArtifactError: The folder is no terminology.
        DataError: There is no pair; nothing is written.
    """
    manifest = open_artifact(terminology, "terminology")
    counts = dict.fromkeys(asdict(ExportCounts()), 0)
    with write_atomically(out) as stream:
        for concept, rows in groupby(_rows(terminology / "names.parquet"), key=lambda row: row[0]):
            names = _names(rows, policy, languages, counts)
            pairs = pair_indices(concept, len(names), pairs_per_concept, seed)
            stream.writelines(f"{concept}{SEPARATOR}{names[i]}{SEPARATOR}{names[j]}\n" for i, j in pairs)
            counts["pairs"] += len(pairs)
            counts["concepts"] += bool(pairs)
            counts["sampled"] += len(names) * (len(names) - 1) // 2 > pairs_per_concept
        if not counts["pairs"]:
            raise DataError(
                f"{terminology}: expected a concept with two names to pair, found none; choose more languages"
            )
    metadata: dict[str, Any] = {
        "terminology": manifest_hash(manifest),
        "policy": policy.to_dict(),
        "pairs_per_concept": pairs_per_concept,
        "seed": seed,
    }
    metadata |= {"languages": sorted(languages) if languages is not None else None, "sha256": sha256_of(out), **counts}
    with write_atomically(out.with_name(f"{out.name}.json")) as stream:
        json.dump(metadata, stream, indent=1)
    return ExportCounts(**counts)


def pair_indices(concept: str, n: int, limit: int, seed: int) -> list[tuple[int, int]]:
    """Which of a concept's n names are paired: all (i, j) with i < j in order, or a uniform sample of `limit` of them."""
    possible = n * (n - 1) // 2
    if possible <= limit:
        return [(i, j) for i in range(n) for j in range(i + 1, n)]
    rng = Random(int.from_bytes(sha256(f"{seed}\0{concept}".encode()).digest()[:8]))
    chosen = set[int]()
    for last in range(possible - limit, possible):  # Floyd: Bentley, Programming Pearls, CACM 30 (9), 1987
        drawn = int(rng.random() * (last + 1))
        chosen.add(last if drawn in chosen else drawn)
    return sorted(_pair(number) for number in chosen)


def _pair(number: int) -> tuple[int, int]:
    """The number-th pair in the order (0,1), (0,2), (1,2), (0,3), …"""
    j = (1 + isqrt(1 + 8 * number)) // 2
    return number - j * (j - 1) // 2, j


def _rows(file: Path) -> Iterator[tuple[str, str, str]]:
    """(concept, language, name) of each row, in order."""
    for batch in pq.ParquetFile(file).iter_batches(columns=["concept_id", "language", "name"]):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _names(
    rows: Iterable[tuple[str, str, str]], policy: TextPolicy, languages: Collection[str] | None, counts: dict[str, int]
) -> list[str]:
    """A concept's names under the policy, sorted, each once. counts: fields of ExportCounts, increased."""
    names = set[str]()
    for _, language, name in rows:
        counts["names_in"] += 1
        written = normalize(name, policy)
        if languages is not None and language not in languages:
            counts["other_languages"] += 1
        elif not written or SEPARATOR in written or written[0] == "|" or written[-1] == "|":
            counts["unwritable"] += 1
        elif written in names:
            counts["duplicates"] += 1
        else:
            names.add(written)
    counts["names"] += len(names)
    return sorted(names)
