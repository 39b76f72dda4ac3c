"""What a terminology says of concepts beside their names: definitions, and relations to broader concepts.

Both are tables that a terminology's folder has only if its source has them, so a folder without them is as it always was. A relation says that
a concept is a kind of another one; it is kept if both are concepts of the terminology. Circles of relations are kept and counted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xsap.files import RowCounts
from xsap.terms.hierarchy import Hierarchy, Numbers, relations_among

DEFINITIONS_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("concept_id", "language", "definition", "source")]
)
RELATIONS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("concept_id", "parent_id")])
CIRCULAR_RELATIONS = "concepts above themselves, by circular relations"
CIRCULAR_EXAMPLES = 5  # of circular concepts in a report


@dataclass(frozen=True)
class DetailCounts:
    """What happened to the definitions and the relations of a source.

    Attributes:
        definitions: Definitions read, kept and dropped.
        relations: Relations likewise.
        circular: How many concepts are above themselves.
        examples: The first of these.
    """

    definitions: RowCounts = field(default_factory=RowCounts)
    relations: RowCounts = field(default_factory=RowCounts)
    circular: int = 0
    examples: tuple[str, ...] = ()

    def after(self, definitions: Mapping[str, int], relations: Mapping[str, int] | None = None) -> "DetailCounts":
        """The counts with those rows that a reader dropped before, by reason."""
        before = [RowCounts(sum(part.values()), 0, dict(part)) for part in (definitions, relations or {})]
        return replace(self, definitions=before[0] + self.definitions, relations=before[1] + self.relations)

    def to_metadata(self) -> dict[str, Any]:
        """For the manifest: `definitions` and `relations`, each only if there were any."""
        found: dict[str, Any] = {}
        for what, counts in (("definitions", self.definitions), ("relations", self.relations)):
            if counts.rows_in:
                found[what] = {"in": counts.rows_in, "kept": counts.kept, "dropped": dict(counts.dropped)}
        if self.circular:
            found["relations"] |= {"circular": self.circular, "examples": list(self.examples)}
        return found


def detail_lines(metadata: Mapping[str, Any]) -> list[str]:
    """Lines for people on what `DetailCounts.to_metadata` added to a manifest; none without definitions and relations."""
    lines: list[str] = []
    for what in ("definitions", "relations"):
        if isinstance(found := metadata.get(what), Mapping):
            lines += RowCounts(found["in"], found["kept"], found["dropped"]).lines(what)
            if found.get("circular"):
                lines.append(f"{found['circular']:,} {CIRCULAR_RELATIONS}: {', '.join(found['examples'])}")
    return lines


def keep_definitions(rows: pa.Table, concept_ids: pa.Array) -> tuple[pa.Table, Counter[str]]:
    """The definitions of a terminology's concepts, sorted, and how many others there are, by reason.

    Args:
        rows: DEFINITIONS_SCHEMA, in any order.
        concept_ids: The concepts.
    """
    rows = rows.select(DEFINITIONS_SCHEMA.names).cast(DEFINITIONS_SCHEMA)
    order = [(column, "ascending") for column in DEFINITIONS_SCHEMA.names]
    return _keep(
        rows,
        {
            "empty definition": pc.greater(pc.utf8_length(rows["definition"]), 0),
            "definition of a concept that is not kept": pc.is_in(rows["concept_id"], concept_ids),
        },
        ["concept_id", "language", "definition"],
        "same definition of the same concept",
        order,
    )


def keep_relations(rows: pa.Table, concept_ids: pa.Array) -> tuple[pa.Table, Counter[str]]:
    """The relations between a terminology's concepts, sorted, and how many others there are, by reason.

    Args:
        rows: RELATIONS_SCHEMA, in any order.
        concept_ids: The concepts.
    """
    rows = rows.select(RELATIONS_SCHEMA.names).cast(RELATIONS_SCHEMA)
    order = [(column, "ascending") for column in RELATIONS_SCHEMA.names]
    return _keep(
        rows,
        {
            "relation of a concept with itself": pc.not_equal(rows["concept_id"], rows["parent_id"]),
            "child is not kept": pc.is_in(rows["concept_id"], concept_ids),
            "parent is not kept": pc.is_in(rows["parent_id"], concept_ids),
        },
        RELATIONS_SCHEMA.names,
        "same relation",
        order,
    )


def _keep(
    rows: pa.Table, conditions: Mapping[str, Any], key: list[str], repeated: str, order: list[tuple[str, str]]
) -> tuple[pa.Table, Counter[str]]:
    """Rows that fit all conditions, the first of each key; and the others, each under the first reason."""
    dropped, good = Counter[str](), np.ones(rows.num_rows, bool)
    for reason, fits in conditions.items():
        fitting = fits.to_numpy().astype(bool)
        dropped[reason] += int((good & ~fitting).sum())
        good &= fitting
    kept = rows.filter(pa.array(good)).sort_by(order)
    kept = kept.append_column("row", pa.array(np.arange(kept.num_rows)))
    first = kept.group_by(key).aggregate([("row", "min")])["row_min"].to_numpy()
    dropped[repeated] += kept.num_rows - len(first)
    return kept.take(pa.array(np.sort(first))).select(rows.column_names), +dropped


def numbered(relations: pa.Table, concept_ids: pa.Array) -> tuple[Numbers, Numbers]:
    """The children and the parents of relations, as positions in `concept_ids`, which must have all of them."""
    columns = (pc.index_in(relations[column], concept_ids) for column in RELATIONS_SCHEMA.names)
    children, parents = (column.to_numpy().astype(np.int64) for column in columns)
    return children, parents


def related_among(relations: pa.Table, concept_ids: pa.Array, kept: NDArray[np.bool_]) -> pa.Table:
    """The relations among some concepts; where a parent is left out, the nearest kept ones above it take its place.

    Args:
        relations: RELATIONS_SCHEMA, among the concepts.
        concept_ids: All n concepts.
        kept: (n,) whether a concept is kept.
    """
    children, parents = relations_among(*numbered(relations, concept_ids), kept)
    columns = [concept_ids.take(pa.array(part)) for part in (children, parents)]
    return pa.table(columns, schema=RELATIONS_SCHEMA)


def circular_concepts(relations: pa.Table, concept_ids: pa.Array) -> list[str]:
    """The concepts that are above themselves. relations: RELATIONS_SCHEMA, among `concept_ids`."""
    circles = Hierarchy.from_pairs(*numbered(relations, concept_ids), len(concept_ids)).circles()
    return sorted(concept_ids[concept].as_py() for circle in circles for concept in circle)
