"""The leakage ledger: which mentions of a test stand in a terminology already, letter for letter or but for one edit.

What a model is asked after having been taught it says little about what it has learnt. Strings are compared as EXACT_MATCH normalises them,
and names of all languages count, for a multilingual model learns from all. The stricter test is then made by holding out: the terminology
without every name of a gold concept that is equal to its mention, or within one edit of it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_prep.assemble import Assembly
from data_prep.edits import Neighbourhood
from data_prep.stored import Stored
from data_prep.tally import Tally, aligned, count_by
from xsap.artifacts import write_atomically
from xsap.languages import to_name
from xsap.terms.terminology import NAMES_SCHEMA, PRECEDENCE
from xsap.text import EXACT_MATCH, normalise_all

SEEN_GOLD, SEEN_OTHER, NEAR_GOLD, NEAR_OTHER, UNSEEN = "seen: gold", "seen: other", "near: gold", "near: other", "unseen"
STATUSES = (SEEN_GOLD, SEEN_OTHER, NEAR_GOLD, NEAR_OTHER, UNSEEN)  # a mention has the first that fits
LEDGER_SCHEMA = pa.schema(
    [
        pa.field("mention", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("concept_ids", pa.list_(pa.string()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("matched_concept_id", pa.string()),  # whose name gave the status
        pa.field("matched_name", pa.string()),
        pa.field("gold_in_terminology", pa.bool_(), nullable=False),  # any of concept_ids
    ]
)
_EQUAL, _NEAR = 0, 1  # edits
_REASONS = {_EQUAL: "equal to a mention of its concept", _NEAR: "one edit from a mention of its concept"}
_SPACES = dict.fromkeys(map(ord, "\t\r\n"), " ")

Found = dict[str, tuple[int, str]]  # concept → fewest edits, and the first name with so few


@dataclass(frozen=True)
class Ledger:
    """rows: LEDGER_SCHEMA, a row a mention, in their order. edits: (names,) of a gold concept's name to one of its mentions: 0, 1, or 2 for
    more, in the terminology's order."""

    rows: pa.Table
    edits: NDArray[np.uint8]

    def lines(self) -> list[str]:
        """For people: mentions by language and status, and those of them whose gold concepts the terminology lacks."""
        counts = Counter(zip(self.rows["language"].to_pylist(), self.rows["status"].to_pylist(), strict=True))
        absent = count_by(self.rows.filter(pc.invert(self.rows["gold_in_terminology"]))["language"])
        table = {
            f"{code}  {to_name(code)}": [n, *(counts[code, status] for status in STATUSES), absent.get(code, 0)]
            for code, n in count_by(self.rows["language"]).items()
        }
        table["all"] = [sum(column) for column in zip(*table.values(), strict=True)]
        rows = [(language, *(f"{n:,}" for n in cells)) for language, cells in table.items()]
        return aligned([("mentions", "n", *STATUSES, "no gold there"), *rows])

    def write(self, path: Path) -> None:
        """As TSV with a header, whole or not at all; identifiers are separated by bars, and tabs and line ends become spaces."""
        with write_atomically(path) as stream:
            stream.write("\t".join(LEDGER_SCHEMA.names) + "\n")
            for row in self.rows.to_pylist():
                stream.write("\t".join(_cell(row[column]) for column in LEDGER_SCHEMA.names) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = "|".join(value) if isinstance(value, list) else "" if value is None else str(value)
    return text.translate(_SPACES)


def read_ledger(stored: Stored, mentions: pa.Table) -> Ledger:
    """Look each mention up in a terminology. mentions: terms.mentions' SCHEMA."""
    strings = normalise_all(mentions["mention"].to_pylist(), EXACT_MATCH)
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    gold_of = defaultdict[str, set[str]](set)
    for string, ids in zip(strings, gold, strict=True):
        gold_of[string].update(ids)
    found, edits = _look_up(stored, gold_of)
    living = stored.read("concepts", ["concept_id"])["concept_id"]
    known = set(living.filter(pc.is_in(living, pa.array(sorted(set().union(*gold)), pa.string()))).to_pylist())
    rows = [
        {"status": status, "matched_concept_id": concept, "matched_name": name, "gold_in_terminology": not known.isdisjoint(ids)}
        for string, ids in zip(strings, gold, strict=True)
        for status, concept, name in [_judge(found[string], ids)]
    ]
    columns = {field.name: mentions[field.name] for field in list(LEDGER_SCHEMA)[:3]}
    columns |= {field.name: pa.array([row[field.name] for row in rows], field.type) for field in list(LEDGER_SCHEMA)[3:]}
    return Ledger(pa.table(columns).cast(LEDGER_SCHEMA), edits)


def _look_up(stored: Stored, gold_of: dict[str, set[str]]) -> tuple[dict[str, Found], NDArray[np.uint8]]:
    """Normalised mention → the concepts that have a name within one edit of it; and a ledger's `edits`. gold_of: mention → gold concepts."""
    neighbourhood = Neighbourhood.of(list(gold_of))
    found: dict[str, Found] = {string: {} for string in gold_of}
    edits = np.full(stored.count("names"), 2, np.uint8)
    start = 0
    for rows in stored.batches("names", ["concept_id", "name"]):
        concepts, names = rows["concept_id"].to_pylist(), rows["name"].to_pylist()
        normalised = normalise_all(names, EXACT_MATCH)
        for i, j in neighbourhood.pairs(normalised):
            string, concept = neighbourhood.strings[i], concepts[j]
            distance = _EQUAL if string == normalised[j] else _NEAR
            match = (distance, names[j])
            found[string][concept] = min(match, found[string].get(concept, match))
            if concept in gold_of[string]:
                edits[start + j] = min(edits[start + j], distance)
        start += rows.num_rows
    return found, edits


def _judge(found: Found, gold: list[str]) -> tuple[str, str | None, str | None]:
    """A mention's status, and the first concept and name that give it."""
    ranked = [(STATUSES.index(_status(distance, concept in gold)), concept, name) for concept, (distance, name) in found.items()]
    if not ranked:
        return UNSEEN, None, None
    rank, concept, name = min(ranked)
    return STATUSES[rank], concept, name


def _status(distance: int, is_gold: bool) -> str:
    return (SEEN_GOLD if is_gold else SEEN_OTHER) if distance == _EQUAL else NEAR_GOLD if is_gold else NEAR_OTHER


def hold_out(stored: Stored, ledger: Ledger, into: Assembly, mentions: dict[str, str]) -> tuple[Tally, dict[str, Any]]:
    """Hand over the terminology without the names that give a mention of their concept away → what became of the names, and the facts.

    mentions: the file's name → its sha256. A concept keeps its preferred name unless that one goes.
    """
    concepts, start = stored.read("concepts"), 0
    into.add_concepts(concepts)
    into.add_retired(stored.read("retired"))
    for rows in stored.batches("names", NAMES_SCHEMA.names):
        first, last = (pc.index(concepts["concept_id"], rows["concept_id"][at]).as_py() for at in (0, -1))
        part = concepts.slice(first, last - first + 1)  # both tables are sorted by concept
        preferred = part["preferred_name"].take(pc.index_in(rows["concept_id"], part["concept_id"].combine_chunks()))
        rows = rows.append_column(PRECEDENCE, pc.equal(preferred, rows["name"]).cast(pa.int32()))
        into.add_names(rows.filter(pa.array(ledger.edits[start : start + rows.num_rows] > _NEAR)))
        start += rows.num_rows
    counts = {reason: int(np.count_nonzero(ledger.edits == edits)) for edits, reason in _REASONS.items()}
    dropped = {reason: n for reason, n in counts.items() if n}
    facts = stored.facts | {"held_out": {"of": stored.content, "files": mentions, "names": sum(dropped.values())}}
    return Tally(start, into.taken, dropped), facts
