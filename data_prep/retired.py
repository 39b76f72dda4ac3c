"""Successors of identifiers that are no longer in use, and gold annotations updated with them.

Only a successor that its source calls the same concept may replace an identifier: one that is broader, narrower or related would change what
the annotator said. A successor may be retired in turn, so chains are followed to their ends.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xsap.files import RowCounts, aligned
from xsap.terms.mentions import SCHEMA

SAME = "same"
DELETED = "deleted, without a successor"
NOT_THE_SAME = "only broader, narrower or related successors"
CIRCULAR = "successors that lead back to it"
NO_IDENTIFIER_LEFT = "no identifier left"


@dataclass(frozen=True, slots=True)
class Successors:
    """Successors of retired identifiers.

    same: retired identifier → the successors that are the same concept. inexact: retired identifiers that have other successors.
    """

    same: Mapping[str, list[str]]
    inexact: frozenset[str]

    @classmethod
    def from_table(cls, wanted: pa.ChunkedArray | pa.Array, retired: pa.Table, living: pa.ChunkedArray) -> "Successors":
        """Find the successors of some identifiers, and the successors of these.

        Args:
            wanted: Identifiers, retired or not.
            retired: A table of RETIRED_SCHEMA.
            living: The identifiers of concepts with names; these are not retired, even if the table lists them.
        """
        rows = retired.filter(pc.invert(pc.is_in(retired["retired_id"], _array(living))))
        same, inexact = defaultdict[str, list[str]](list), set[str]()
        while len(wanted):
            is_wanted = pc.is_in(rows["retired_id"], _array(wanted))
            found, rows = rows.filter(is_wanted), rows.filter(pc.invert(is_wanted))
            exact = pc.and_(pc.equal(found["relation"], SAME), pc.is_valid(found["concept_id"]))
            for row, is_exact in zip(found.to_pylist(), exact.to_pylist(), strict=True):
                same[row["retired_id"]] += [row["concept_id"]] if is_exact else []
                if not is_exact and row["concept_id"] is not None:
                    inexact.add(row["retired_id"])
            wanted = found["concept_id"].filter(exact)
        return cls(dict(same), frozenset(inexact))

    def trace(self, identifier: str) -> tuple[list[str], str | None]:
        """(identifiers in use that are the same concept, sorted; if there is none, the reason). An identifier in use gives itself."""
        ends, visited, pending = set[str](), set[str](), [identifier]
        while pending:
            one = pending.pop()
            if one in visited:
                continue
            visited.add(one)
            if one in self.same:
                pending += self.same[one]
            else:
                ends.add(one)
        if ends:
            return sorted(ends), None
        if visited & self.inexact:
            return [], NOT_THE_SAME
        return [], CIRCULAR if all(self.same[one] for one in visited) else DELETED


@dataclass(frozen=True, slots=True)
class Update:
    """mentions: the updated ones. counts: mentions kept and dropped. identifiers: outcome → number of gold identifiers."""

    mentions: pa.Table
    counts: RowCounts
    identifiers: Mapping[str, int]

    def lines(self) -> list[str]:
        """Tables for people: identifiers by outcome; mentions in, kept and dropped."""
        total = ("gold identifiers", f"{sum(self.identifiers.values()):,}")
        return [
            *aligned([total, *((f"  {outcome}", f"{n:,}") for outcome, n in self.identifiers.items())]),
            "",
            *self.counts.lines("mentions"),
        ]


def update_gold(mentions: pa.Table, retired: pa.Table, living: pa.ChunkedArray) -> Update:
    """Replace retired gold identifiers by their successors.

    An identifier that is neither retired nor in the terminology stays, because the terminology may be a part of a larger one. Equal identifiers
    of a mention become one. A mention is dropped if it had identifiers and none is left.

    Args:
        mentions: A table of xsap.terms.mentions.SCHEMA.
        retired: A table of RETIRED_SCHEMA.
        living: The terminology's concept identifiers.

    Returns:
        The updated mentions, and what happened to mentions and identifiers.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    wanted = pc.unique(pc.list_flatten(mentions["concept_ids"]))
    successors = Successors.from_table(wanted, retired, living)
    known = set(living.filter(pc.is_in(living, wanted)).to_pylist())
    outcomes, updated = Counter[str](), list[list[str]]()
    for ids in gold:
        current = list[str]()
        for one in ids:
            ends, reason = successors.trace(one)
            current += ends
            if reason:
                outcomes[f"removed: {reason}"] += 1
            elif ends != [one]:
                outcomes["replaced by successors"] += 1
            else:
                outcomes["in use" if one in known else "not in the terminology, kept"] += 1
        updated.append(list(dict.fromkeys(current)))
    kept = [bool(after) or not before for before, after in zip(gold, updated, strict=True)]
    at = SCHEMA.get_field_index("concept_ids")
    table = mentions.set_column(at, SCHEMA.field(at), pa.array(updated, SCHEMA.field(at).type))
    return Update(
        table.filter(pa.array(kept, pa.bool_())),
        RowCounts(len(gold), sum(kept), {NO_IDENTIFIER_LEFT: kept.count(False)} if False in kept else {}),
        dict(sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))),
    )


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
