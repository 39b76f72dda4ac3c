"""What became of identifiers that are no longer in use, and mentions brought up to date by it.

Only a successor that its source calls the same concept may take an identifier's place: what is merely broader, narrower or related would
make a gold annotation say something that nobody said. A successor may be retired in its turn, so chains are followed to their ends.
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
IN_A_CIRCLE = "successors that lead back to it"
NO_IDENTIFIER_LEFT = "no identifier left"


@dataclass(frozen=True, slots=True)
class Successors:
    """same: retired identifier → those that are the same concept. inexact: retired identifiers that have other successors."""

    same: Mapping[str, list[str]]
    inexact: frozenset[str]

    @classmethod
    def of(cls, wanted: pa.ChunkedArray | pa.Array, retired: pa.Table, living: pa.ChunkedArray) -> "Successors":
        """What `trace` needs for the identifiers wanted.

        retired: RETIRED_SCHEMA. living: identifiers of concepts; one that has names is not retired, whatever the table says.
        """
        rows = retired.filter(pc.invert(pc.is_in(retired["retired_id"], _array(living))))
        same, inexact = defaultdict[str, list[str]](list), set[str]()
        while len(wanted):
            asked = pc.is_in(rows["retired_id"], _array(wanted))
            found, rows = rows.filter(asked), rows.filter(pc.invert(asked))
            exact = pc.and_(pc.equal(found["relation"], SAME), pc.is_valid(found["concept_id"]))
            for row, is_exact in zip(found.to_pylist(), exact.to_pylist(), strict=True):
                same[row["retired_id"]] += [row["concept_id"]] if is_exact else []
                if not is_exact and row["concept_id"] is not None:
                    inexact.add(row["retired_id"])
            wanted = found["concept_id"].filter(exact)
        return cls(dict(same), frozenset(inexact))

    def trace(self, identifier: str) -> tuple[list[str], str | None]:
        """The identifiers in use that are the same concept, sorted; and if there is none, why. One that is not retired stands for itself."""
        ends, passed, left = set[str](), set[str](), [identifier]
        while left:
            one = left.pop()
            if one in passed:
                continue
            passed.add(one)
            if one in self.same:
                left += self.same[one]
            else:
                ends.add(one)
        if ends:
            return sorted(ends), None
        if passed & self.inexact:
            return [], NOT_THE_SAME
        return [], IN_A_CIRCLE if all(self.same[one] for one in passed) else DELETED


@dataclass(frozen=True, slots=True)
class Update:
    """mentions: those that are kept, brought up to date. tally: what became of all. identifiers: how many of them met which fate."""

    mentions: pa.Table
    counts: RowCounts
    identifiers: Mapping[str, int]

    def lines(self) -> list[str]:
        """For people: identifiers by fate, then rows in, kept and dropped."""
        total = ("gold identifiers", f"{sum(self.identifiers.values()):,}")
        return [
            *aligned([total, *((f"  {fate}", f"{n:,}") for fate, n in self.identifiers.items())]),
            "",
            *self.counts.lines("mentions"),
        ]


def update_mentions(mentions: pa.Table, retired: pa.Table, living: pa.ChunkedArray) -> Update:
    """Put successors in the place of retired gold identifiers, each once a mention, in their order.

    mentions: terms.mentions' SCHEMA. retired: RETIRED_SCHEMA. living: the terminology's concept identifiers. An identifier that is neither
    stays: the terminology may be a part of what it was made from. A mention is dropped if it had identifiers and none is left.
    """
    gold: list[list[str]] = mentions["concept_ids"].to_pylist()
    wanted = pc.unique(pc.list_flatten(mentions["concept_ids"]))
    successors, known = Successors.from_table(wanted, retired, living), set(living.filter(pc.is_in(living, wanted)).to_pylist())
    outcomes, updated = Counter[str](), list[list[str]]()
    for ids in gold:
        current = list[str]()
        for one in ids:
            ends, rejection_reason = successors.trace(one)
            current += ends
            stays = "in use" if one in known else "unknown to the terminology, kept as they are"
            outcomes[
                f"left out: {rejection_reason}"
                if rejection_reason
                else stays
                if ends == [one]
                else "replaced by their successors"
            ] += 1
        updated.append(list(dict.fromkeys(current)))
    kept = [bool(after) or not before for before, after in zip(gold, updated, strict=True)]
    at = SCHEMA.get_field_index("concept_ids")
    table = mentions.set_column(at, SCHEMA.field(at), pa.array(updated, SCHEMA.field(at).type)).filter(
        pa.array(kept, pa.bool_())
    )
    dropped = {NO_IDENTIFIER_LEFT: kept.count(False)} if False in kept else {}
    return Update(
        table,
        RowCounts(len(gold), sum(kept), dropped),
        dict(sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))),
    )


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
