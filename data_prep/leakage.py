"""Leakage: which test mentions a terminology contains already, equal except for case or within one edit.

A result on names that a model was trained on says little about what it has learned. Strings are compared as EXACT_MATCH normalizes them, and
names of all languages count, because a multilingual model learns from all. For a stricter test, `hold_out` writes the terminology without
every name of a gold concept that is within one edit of one of its mentions.

An edit is one code point inserted, deleted or substituted; two swapped neighbors are two edits. If two strings are within one edit, they
share a variant: the string itself, or what is left of it without one code point. So all strings are turned into 64-bit hashes of their
variants, and only pairs that share a hash are compared. A string hashes to the sum of v(c_k)·B^k modulo 2^64; deleting one code point divides
what follows it by B, so the hashes of all variants come from one cumulative sum. A hash collision costs a comparison and never changes a result.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.accounting import count_by
from data_prep.assemble import Assembly
from data_prep.store import StoredTerminology
from xsap.artifacts import write_atomically
from xsap.files import RowCounts, aligned
from xsap.languages import to_name
from xsap.terms.terminology import NAMES_SCHEMA, PRECEDENCE
from xsap.text import EXACT_MATCH, normalize_all

_CODE_POINTS = 0x110000
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse
_SPARE_BITS = 5  # a hash that does not occur passes the bit filter with a chance of one in 2^5


@dataclass(frozen=True)
class Neighborhood:
    """Strings that others are compared with.

    hashes: (n,) hashes of all variants, sorted. rows: (n,) the string that each belongs to. occurs: (2^bits,) whether any hash has these
    leading bits. code_point_values: (code points,) the values v of the hash.
    """

    strings: Sequence[str]
    hashes: NDArray[np.uint64]
    rows: NDArray[np.int64]
    occurs: NDArray[np.bool_]
    bits: int
    code_point_values: NDArray[np.uint64]

    @classmethod
    def from_strings(
        cls, strings: Sequence[str], code_point_values: NDArray[np.uint64] | None = None
    ) -> "Neighborhood":
        """Hash strings without surrogates. code_point_values: (0x110000,) values v of the hash; random by default."""
        values = _random_values() if code_point_values is None else code_point_values
        hashes, rows = _variant_hashes(strings, values)
        order = np.argsort(hashes, kind="stable")
        hashes, rows = hashes[order], rows[order]
        bits = max(len(hashes), 2).bit_length() + _SPARE_BITS
        occurs = np.zeros(2**bits, np.bool_)
        occurs[_leading_bits(hashes, bits)] = True
        return cls(strings, hashes, rows, occurs, bits, values)

    def pairs(self, others: Sequence[str]) -> list[tuple[int, int]]:
        """(row of `strings`, row of `others`) of each pair within one edit, once and in order."""
        hashes, rows = _variant_hashes(others, self.code_point_values)
        possible = self.occurs[_leading_bits(hashes, self.bits)]
        hashes, rows = hashes[possible], rows[possible]
        first, last = np.searchsorted(self.hashes, hashes, "left"), np.searchsorted(self.hashes, hashes, "right")
        found = last - first
        of_others = np.repeat(rows, found)
        within = np.arange(len(of_others)) - np.repeat(np.cumsum(found) - found, found)
        of_strings = self.rows[np.repeat(first, found) + within]
        candidates = np.unique(of_strings * len(others) + of_others)
        left, right = np.divmod(candidates, max(len(others), 1))
        return [
            (i, j)
            for i, j in zip(left.tolist(), right.tolist(), strict=True)
            if within_one_edit(self.strings[i], others[j])
        ]


def within_one_edit(a: str, b: str) -> bool:
    """Whether two strings are equal or one edit apart."""
    if a == b:
        return True
    if abs(len(a) - len(b)) > 1:
        return False
    if len(a) > len(b):
        a, b = b, a
    same = next((i for i, (one, other) in enumerate(zip(a, b, strict=False)) if one != other), len(a))
    return a[same + (len(a) == len(b)) :] == b[same + 1 :]


def _variant_hashes(
    strings: Sequence[str], code_point_values: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The hashes of n strings, followed by those of each string without one code point; and the row of the string for each hash."""
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    codes = np.frombuffer("".join(strings).encode("utf-32-le"), np.uint32)
    ends = np.cumsum(lengths)
    starts = ends - lengths
    positions = np.arange(len(codes)) - np.repeat(starts, lengths)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(code_point_values[codes] * _powers(int(lengths.max(initial=0)))[positions], out=sums[1:])
    before = sums[:-1] - np.repeat(sums[starts], lengths)
    after = np.repeat(sums[ends], lengths) - sums[1:]
    left = before + after * np.uint64(pow(_BASE, -1, 2**64))
    rows = np.arange(len(strings))
    return np.concatenate([sums[ends] - sums[starts], left]), np.concatenate([rows, np.repeat(rows, lengths)])


def _powers(n: int) -> NDArray[np.uint64]:
    """(n,) B^0 … B^(n-1) modulo 2^64."""
    powers = np.full(n, _BASE, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _leading_bits(hashes: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    shifted: NDArray[np.uint64] = hashes >> np.uint64(64 - bits)
    return shifted


@cache
def _random_values() -> NDArray[np.uint64]:
    """The values v: a random number for each code point."""
    return np.random.default_rng(0).integers(0, 2**64, _CODE_POINTS, np.uint64)


SEEN_GOLD, SEEN_OTHER, NEAR_GOLD, NEAR_OTHER, UNSEEN = (
    "seen: gold",
    "seen: other",
    "near: gold",
    "near: other",
    "unseen",
)
STATUSES = (SEEN_GOLD, SEEN_OTHER, NEAR_GOLD, NEAR_OTHER, UNSEEN)  # a mention has the first that applies
LEDGER_SCHEMA = pa.schema(
    [
        pa.field("mention", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("concept_ids", pa.list_(pa.string()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("matched_concept_id", pa.string()),  # the concept whose name gives the status
        pa.field("matched_name", pa.string()),
        pa.field("gold_in_terminology", pa.bool_(), nullable=False),  # any of concept_ids
    ]
)
_EQUAL, _NEAR, _FAR = 0, 1, 2  # edits; more than one is _FAR
_REASONS = {_EQUAL: "equal to a mention of its concept", _NEAR: "one edit from a mention of its concept"}
_SPACES = dict.fromkeys(map(ord, "\t\r\n"), " ")

Matches = dict[str, tuple[int, str]]  # concept → fewest edits, and the first name with so few


@dataclass(frozen=True)
class Ledger:
    """The result of each mention and of each name of the terminology.

    rows: LEDGER_SCHEMA, one row per mention, in their order. edits: (names,) in the terminology's order, the fewest edits from the name to a
    mention of its concept: 0, 1, or 2 for more.
    """

    rows: pa.Table
    edits: NDArray[np.uint8]

    def lines(self) -> list[str]:
        """A table for people: mentions by language and status, and those whose gold concepts are not in the terminology."""
        counts = Counter(zip(self.rows["language"].to_pylist(), self.rows["status"].to_pylist(), strict=True))
        absent = count_by(self.rows.filter(pc.invert(self.rows["gold_in_terminology"]))["language"])
        table = {
            f"{code}  {to_name(code)}": [n, *(counts[code, status] for status in STATUSES), absent.get(code, 0)]
            for code, n in count_by(self.rows["language"]).items()
        }
        table["all"] = [sum(column) for column in zip(*table.values(), strict=True)]
        rows = [(language, *(f"{n:,}" for n in cells)) for language, cells in table.items()]
        return aligned([("mentions", "n", *STATUSES, "gold absent"), *rows])

    def write(self, path: Path) -> None:
        """Write the rows as TSV with a header; several identifiers are separated by `|`, tabs and line breaks become spaces."""
        with write_atomically(path) as stream:
            stream.write("\t".join(LEDGER_SCHEMA.names) + "\n")
            for row in self.rows.to_pylist():
                stream.write("\t".join(_cell(row[column]) for column in LEDGER_SCHEMA.names) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "|".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return text.translate(_SPACES)


def build_ledger(stored: StoredTerminology, mentions: pa.Table) -> Ledger:
    """Look each mention up in a terminology.

    Args:
        stored: The terminology.
        mentions: A table of xsap.terms.mentions.SCHEMA.

    Returns:
        The ledger.
    """
    strings = normalize_all(mentions["mention"].to_pylist(), EXACT_MATCH)
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    gold_of = defaultdict[str, set[str]](set)
    for string, ids in zip(strings, gold, strict=True):
        gold_of[string].update(ids)
    matches, edits = _look_up(stored, gold_of)
    living = stored.read("concepts", ["concept_id"])["concept_id"]
    known = set(living.filter(pc.is_in(living, pa.array(sorted(set().union(*gold)), pa.string()))).to_pylist())
    results = [
        (*_classify_mention(matches[string], ids), not known.isdisjoint(ids))
        for string, ids in zip(strings, gold, strict=True)
    ]
    fields = list(LEDGER_SCHEMA)
    columns = [mentions[field.name] for field in fields[:3]]
    columns += [pa.array([row[i] for row in results], field.type) for i, field in enumerate(fields[3:])]
    return Ledger(pa.table(columns, LEDGER_SCHEMA.names).cast(LEDGER_SCHEMA), edits)


def _look_up(stored: StoredTerminology, gold_of: dict[str, set[str]]) -> tuple[dict[str, Matches], NDArray[np.uint8]]:
    """For each normalized mention the concepts with a name within one edit; and a ledger's `edits`. gold_of: mention → gold concepts."""
    neighborhood = Neighborhood.from_strings(list(gold_of))
    matches: dict[str, Matches] = {string: {} for string in gold_of}
    edits = np.full(stored.count("names"), _FAR, np.uint8)
    start = 0
    for rows in stored.batches("names", ["concept_id", "name"]):
        concepts, names = rows["concept_id"].to_pylist(), rows["name"].to_pylist()
        normalized = normalize_all(names, EXACT_MATCH)
        for i, j in neighborhood.pairs(normalized):
            string, concept = neighborhood.strings[i], concepts[j]
            distance = _EQUAL if string == normalized[j] else _NEAR
            match = (distance, names[j])
            matches[string][concept] = min(match, matches[string].get(concept, match))
            if concept in gold_of[string]:
                edits[start + j] = min(edits[start + j], distance)
        start += rows.num_rows
    return matches, edits


def _classify_mention(matches: Matches, gold: list[str]) -> tuple[str, str | None, str | None]:
    """A mention's status, and the first concept and name that give it."""
    ranked = [
        (STATUSES.index(_status(distance, concept in gold)), concept, name)
        for concept, (distance, name) in matches.items()
    ]
    if not ranked:
        return UNSEEN, None, None
    rank, concept, name = min(ranked)
    return STATUSES[rank], concept, name


def _status(distance: int, is_gold: bool) -> str:
    return (SEEN_GOLD if is_gold else SEEN_OTHER) if distance == _EQUAL else NEAR_GOLD if is_gold else NEAR_OTHER


def hold_out(
    stored: StoredTerminology, ledger: Ledger, assembly: Assembly, mentions: dict[str, str]
) -> tuple[RowCounts, dict[str, Any]]:
    """Add to a new terminology all names but those within one edit of a mention of their concept.

    A concept keeps its preferred name unless that one is removed.

    Args:
        stored: The terminology.
        ledger: Its ledger.
        assembly: Takes the rows of the new terminology.
        mentions: The mentions file's name → its sha256, for the manifest.

    Returns:
        Names kept and dropped, and the manifest's metadata.
    """
    concepts, start = stored.read("concepts"), 0
    assembly.add_concepts(concepts)
    assembly.add_retired(stored.read("retired"))
    assembly.add_definitions(stored.read("definitions"))
    assembly.add_relations(stored.read("relations"))
    for rows in stored.batches("names", NAMES_SCHEMA.names):
        first, last = (pc.index(concepts["concept_id"], rows["concept_id"][at]).as_py() for at in (0, -1))
        part = concepts.slice(first, last - first + 1)  # both tables are sorted by concept
        preferred = part["preferred_name"].take(pc.index_in(rows["concept_id"], part["concept_id"].combine_chunks()))
        rows = rows.append_column(PRECEDENCE, pc.equal(preferred, rows["name"]).cast(pa.int32()))
        assembly.add_names(rows.filter(pa.array(ledger.edits[start : start + rows.num_rows] == _FAR)))
        start += rows.num_rows
    counts = {reason: int(np.count_nonzero(ledger.edits == edits)) for edits, reason in _REASONS.items()}
    dropped = {reason: n for reason, n in counts.items() if n}
    metadata = stored.metadata | {
        "held_out": {"of": stored.content_hash, "files": mentions, "names": sum(dropped.values())}
    }
    return RowCounts(start, assembly.names_added, dropped), metadata
