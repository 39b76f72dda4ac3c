"""A terminology: concepts and their names in many languages, as two Arrow tables that are never turned into Python objects row by row.

`names.parquet` has one row for each name of a concept in a language, sorted and unique by (concept_id, language, name);
`concepts.parquet` has one row for each concept, sorted by concept_id. Readers (data_prep) hand their rows to `Terminology.build`,
which puts them into this shape and accounts for each one that it drops.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xsap.artifacts import content_hash, open_artifact, publish
from xsap.errors import ArtifactError, DataError
from xsap.languages import ENGLISH

KINDS = ("preferred", "synonym", "abbreviation", "tradename")  # of two equal rows the one whose kind comes first is kept

NAMES_SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("code", pa.string()),
        pa.field("status", pa.string()),
    ]
)
CONCEPTS_SCHEMA = pa.schema(
    [
        pa.field("concept_id", pa.string(), nullable=False),
        pa.field("preferred_name", pa.string(), nullable=False),
        pa.field("semantic_types", pa.list_(pa.string()), nullable=False),
        pa.field("cross_references", pa.list_(pa.string()), nullable=False),
    ]
)
_KEY = ["concept_id", "language", "name"]


@dataclass(frozen=True)
class Terminology:
    """names: NAMES_SCHEMA. concepts: CONCEPTS_SCHEMA. facts: what its reader wants remembered. content: sha256, once it is on disk."""

    names: pa.Table
    concepts: pa.Table
    facts: dict[str, Any] = field(default_factory=dict)
    content: str | None = None

    @classmethod
    def build(
        cls, names: pa.Table, concepts: pa.Table | None = None, facts: dict[str, Any] | None = None
    ) -> tuple["Terminology", Counter[str]]:
        """Rows in any order → a terminology, and how many rows were dropped for which reason.

        names: NAMES_SCHEMA's columns. concepts: concept_id, semantic_types, cross_references (any of the last two may be missing),
        one row a concept; concepts without a name are left out. A concept is called by its first preferred English name, else by
        its first English name, else by its first name; "first" is by kind, then alphabetical.
        """
        names = names.select(NAMES_SCHEMA.names).cast(NAMES_SCHEMA)
        blank = pc.equal(pc.utf8_length(names["name"]), 0)
        dropped = Counter({"empty name": pc.sum(blank).as_py() or 0})
        names = names.filter(pc.invert(blank))
        rank = pc.index_in(names["kind"], pa.array(KINDS))
        if rank.null_count:
            found = names.filter(pc.is_null(rank))["kind"][0].as_py()
            raise DataError(f"a name's kind must be one of {', '.join(KINDS)}; found '{found}'")
        order = [(column, "ascending") for column in (*_KEY, "rank", "source", "code", "status")]
        names = names.append_column("rank", rank).sort_by(order).combine_chunks()
        first = _starts(names, _KEY)
        dropped["same name of the same concept"] = names.num_rows - (pc.sum(first).as_py() or 0)
        names = names.filter(first)
        terminology = cls(names.select(NAMES_SCHEMA.names), _concepts(names, concepts), facts or {})
        return terminology, +dropped

    @classmethod
    def load(cls, path: Path | str) -> "Terminology":
        """Open a terminology folder, every hash checked. Raises ArtifactError."""
        manifest = open_artifact(path, "terminology")
        if "facts" not in manifest:
            raise ArtifactError(f"{path}: its manifest has no facts; the terminology folder is damaged, make it again")
        names, concepts = (pq.read_table(Path(path) / f"{table}.parquet") for table in ("names", "concepts"))
        return cls(names, concepts, manifest["facts"], content_hash(manifest))

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the folder, at once or not at all. Raises DataError for a terminology without names, ArtifactError if `path` is taken."""
        if not self.names.num_rows:
            raise DataError(f"a terminology needs at least one name, found none to write to {path}; are the filters too strict?")
        facts = {"facts": self.facts, "names": self.names.num_rows, "concepts": self.concepts.num_rows, "languages": self.languages}
        with publish(path, "terminology", facts, overwrite=overwrite) as folder:
            pq.write_table(self.names, folder / "names.parquet", compression="zstd")
            pq.write_table(self.concepts, folder / "concepts.parquet", compression="zstd")

    @property
    def languages(self) -> dict[str, int]:
        """How many names each language has, most first."""
        counts = pc.value_counts(self.names["language"]).to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counts, key=lambda row: (-row["counts"], row["values"]))}

    def select(
        self,
        *,
        languages: Collection[str] | None = None,
        sources: Collection[str] | None = None,
        semantic_types: Collection[str] | None = None,
    ) -> "Terminology":
        """The part with these ISO languages, sources and semantic types; None leaves one open. Concepts keep their preferred name."""
        names, concepts = self.names, self.concepts
        for column, wanted in (("language", languages), ("source", sources)):
            if wanted is not None:
                names = names.filter(pc.is_in(names[column], pa.array(sorted(wanted), pa.string())))
        if semantic_types is not None:
            rows = pc.list_parent_indices(concepts["semantic_types"])
            hits = pc.is_in(pc.list_flatten(concepts["semantic_types"]), pa.array(sorted(semantic_types), pa.string()))
            concepts = concepts.take(pc.unique(rows.filter(hits)))
            names = names.filter(pc.is_in(names["concept_id"], concepts["concept_id"].combine_chunks()))
        concepts = concepts.filter(pc.is_in(concepts["concept_id"], pc.unique(names["concept_id"])))
        return Terminology(names, concepts, self.facts)


def _starts(table: pa.Table, columns: list[str]) -> pa.Array:
    """(n,) bool: where a sorted table has a row that differs from the one before it in any of `columns`."""
    n = table.num_rows
    if n == 0:
        return pa.array([], pa.bool_())
    differs = pa.array([False] * (n - 1), pa.bool_())
    for name in columns:
        column = table[name]
        differs = pc.or_(differs, pc.not_equal(column.slice(1), column.slice(0, n - 1)))
    return pa.chunked_array([pa.array([True]), *differs.chunks] if isinstance(differs, pa.ChunkedArray) else [pa.array([True]), differs])


def _concepts(names: pa.Table, extra: pa.Table | None) -> pa.Table:
    """CONCEPTS_SCHEMA for the concepts that have names. names: as in `Terminology.build`, with the column `rank`."""
    foreign = pc.cast(pc.not_equal(names["language"], ENGLISH), pa.int8())
    order = [("concept_id", "ascending"), ("foreign", "ascending"), ("rank", "ascending"), ("language", "ascending"), ("name", "ascending")]
    best = names.append_column("foreign", foreign).sort_by(order)
    best = best.filter(_starts(best, ["concept_id"])).select(["concept_id", "name"]).rename_columns(["concept_id", "preferred_name"])
    lists = CONCEPTS_SCHEMA.names[2:]
    if extra is None:
        extra = pa.table({"concept_id": pa.array([], pa.string())})
    at = pc.index_in(best["concept_id"], extra["concept_id"].combine_chunks())
    for name in lists:
        known = extra[name] if name in extra.column_names else pa.nulls(extra.num_rows, pa.list_(pa.string()))
        values = known.take(at).to_pylist() if extra.num_rows else [None] * best.num_rows
        best = best.append_column(name, pa.array([sorted(set(value or ())) for value in values], pa.list_(pa.string())))
    return best.select(CONCEPTS_SCHEMA.names).cast(CONCEPTS_SCHEMA).combine_chunks()
