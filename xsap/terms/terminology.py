"""A terminology: concepts and their names in many languages, as two Arrow tables that are never turned into Python objects row by row.

`names.parquet` has one row for each name of a concept in a language, sorted and unique by (concept_id, language, name);
`concepts.parquet` has one row for each concept, sorted by concept_id; `retired.parquet`, where there is one, says what became of identifiers
that the source no longer uses; `definitions.parquet` and `relations.parquet` are those of concept_details.py. Readers (data_prep) hand their rows to `Terminology.build`, which puts them into this shape and accounts
for each one that it drops. Its rules look at one concept at a time, so a terminology that memory can't hold is built and written in
parts, by `write_terminology`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from xsap.artifacts import manifest_hash, open_artifact, publish, read_unchanged
from xsap.errors import ArtifactError, DataError
from xsap.files import RowCounts
from xsap.languages import ENGLISH
from xsap.terms.concept_details import (
    CIRCULAR_EXAMPLES,
    DEFINITIONS_SCHEMA,
    RELATIONS_SCHEMA,
    DetailCounts,
    circular_concepts,
    keep_definitions,
    keep_relations,
    related_among,
)

NAME_KINDS = (
    "preferred",
    "synonym",
    "abbreviation",
    "tradename",
)  # of two equal rows the one whose kind comes first is kept

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
        pa.field("vocabulary", pa.string(), nullable=False),  # source of the preferred name
        pa.field("code", pa.string()),  # of the preferred name in that source
        pa.field("semantic_types", pa.list_(pa.string()), nullable=False),
        pa.field("cross_references", pa.list_(pa.string()), nullable=False),
    ]
)
RETIRED_SCHEMA = pa.schema(
    [
        pa.field("retired_id", pa.string(), nullable=False),
        pa.field("concept_id", pa.string()),  # null: deleted, with no successor
        pa.field("relation", pa.string(), nullable=False),  # of the concept to the retired one: one of RELATIONS
    ]
)
CONCEPT_LISTS = ("semantic_types", "cross_references")  # the columns of concepts that have several values
TERMINOLOGY_FORMAT = 2
"""Version of the tables; a folder of another version has to be created again."""
PRECEDENCE = "precedence"  # the extra column of rows whose source ranks its names: the highest is best
RELATIONS = ("same", "broader", "narrower", "related", "deleted")
_KEY = ["concept_id", "language", "name"]
_REPEATED = ["language", "kind", "source", "status", "relation"]  # columns of few values, which Parquet keeps once
TABLES = {
    "names": NAMES_SCHEMA,
    "concepts": CONCEPTS_SCHEMA,
    "retired": RETIRED_SCHEMA,
    "definitions": DEFINITIONS_SCHEMA,
    "relations": RELATIONS_SCHEMA,
}
"""The tables of a folder; those after the first two are only there if they have rows."""
_REQUIRED = ("names", "concepts")


@dataclass(frozen=True)
class Terminology:
    """Concepts and their names.

    Attributes:
        names: NAMES_SCHEMA, sorted by concept, language and name.
        concepts: CONCEPTS_SCHEMA, sorted by concept.
        metadata: What its reader recorded.
        content_hash: sha256 of the folder; None before it is saved.
        retired: RETIRED_SCHEMA.
        definitions: DEFINITIONS_SCHEMA, sorted by concept, language and source.
        relations: RELATIONS_SCHEMA, sorted; both ends of each are among the concepts.
    """

    names: pa.Table
    concepts: pa.Table
    metadata: dict[str, Any] = field(default_factory=dict)
    content_hash: str | None = None
    retired: pa.Table = field(default_factory=RETIRED_SCHEMA.empty_table)
    definitions: pa.Table = field(default_factory=DEFINITIONS_SCHEMA.empty_table)
    relations: pa.Table = field(default_factory=RELATIONS_SCHEMA.empty_table)

    @classmethod
    def build(
        cls,
        names: pa.Table,
        concepts: pa.Table | None = None,
        metadata: dict[str, Any] | None = None,
        retired: pa.Table | None = None,
    ) -> tuple["Terminology", Counter[str]]:
        """A terminology from rows in any order, and the number of rows dropped, by reason.

        The preferred name of a concept is its first preferred English name, else its first English name, else its first name; "first" is by
        kind, then by the highest precedence, then alphabetical. Its source and code are the concept's own vocabulary and code.

        Args:
            names: The columns of NAMES_SCHEMA, and `precedence` (integers) if the source ranks names.
            concepts: concept_id, and optionally semantic_types and cross_references; one or more rows per concept. Concepts without a
                name are left out.
            metadata: What to record in the manifest.
            retired: The columns of RETIRED_SCHEMA.

        Returns:
            The terminology and the dropped rows by reason.

        Raises:
            DataError: A name has an unknown kind.
        """
        precedence = (
            names[PRECEDENCE] if PRECEDENCE in names.column_names else pa.array(np.zeros(names.num_rows, np.int64))
        )
        names = names.select(NAMES_SCHEMA.names).cast(NAMES_SCHEMA)
        rank = pc.index_in(names["kind"], pa.array(NAME_KINDS))
        if rank.null_count:
            found = names.filter(pc.is_null(rank))["kind"][0].as_py()
            raise DataError(f"a name's kind must be one of {', '.join(NAME_KINDS)}; found '{found}'")
        names = names.append_column("rank", rank).append_column("last", pc.negate(precedence.cast(pa.int64())))
        blank = pc.equal(pc.utf8_length(names["name"]), 0)
        dropped = Counter({"empty name": pc.sum(blank).as_py() or 0})
        order = [(column, "ascending") for column in (*_KEY, "rank", "last", "source", "code", "status")]
        names = names.filter(pc.invert(blank)).sort_by(order).combine_chunks()
        first = _starts(names, _KEY)
        dropped["same name of the same concept"] = names.num_rows - (pc.sum(first).as_py() or 0)
        names = names.filter(first)
        gone = (
            (RETIRED_SCHEMA.empty_table() if retired is None else retired)
            .cast(RETIRED_SCHEMA)
            .sort_by([(c, "ascending") for c in RETIRED_SCHEMA.names])
        )
        return cls(names.select(NAMES_SCHEMA.names), _concepts(names, concepts), metadata or {}, retired=gone), +dropped

    def with_details(
        self, definitions: pa.Table | None = None, relations: pa.Table | None = None
    ) -> tuple["Terminology", DetailCounts]:
        """The terminology with definitions of its concepts and the relations between them, and what happened to each row.

        Args:
            definitions: DEFINITIONS_SCHEMA, in any order.
            relations: RELATIONS_SCHEMA, in any order.
        """
        ids = self.concepts["concept_id"].combine_chunks()
        given = DEFINITIONS_SCHEMA.empty_table() if definitions is None else definitions
        defined, dropped = keep_definitions(given, ids)
        counts = RowCounts(given.num_rows, defined.num_rows, dropped)
        given = RELATIONS_SCHEMA.empty_table() if relations is None else relations
        related, dropped = keep_relations(given, ids)
        circular = circular_concepts(related, ids)
        of_relations = RowCounts(given.num_rows, related.num_rows, dropped)
        found = DetailCounts(counts, of_relations, len(circular), tuple(circular[:CIRCULAR_EXAMPLES]))
        return replace(self, definitions=defined, relations=related), found

    def __repr__(self) -> str:
        return f"Terminology({self.concepts.num_rows:,} concepts, {self.names.num_rows:,} names, {len(self.languages)} languages)"

    @classmethod
    def load(cls, path: Path | str) -> "Terminology":
        """Open a terminology folder and check every hash.

        Args:
            path: The folder.

        Returns:
            The terminology.

        Raises:
            ArtifactError: The folder is missing, damaged, or of another kind or format.
        """
        return read_unchanged(path, lambda: cls._load(Path(path)))

    @classmethod
    def _load(cls, path: Path) -> "Terminology":
        manifest = open_artifact(path, "terminology")
        check_terminology_format(manifest, path)
        tables = {table: _read_table(path, table, schema, manifest["files"]) for table, schema in TABLES.items()}
        if not isinstance(manifest.get("metadata"), dict):
            raise ArtifactError(
                f"{path}: its manifest has no metadata; the terminology folder is damaged; create it again"
            )
        return cls(metadata=manifest["metadata"], content_hash=manifest_hash(manifest), **tables)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the folder, completely or not at all.

        Args:
            path: The folder to write.
            overwrite: Replace an existing terminology folder.

        Raises:
            DataError: The terminology has no names.
            ArtifactError: The folder exists and may not be replaced.
        """
        with write_terminology(path, self.metadata, overwrite=overwrite) as write:
            write(self)

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
        """The part of the terminology with these languages, sources and semantic types. Concepts keep their preferred name.

        Args:
            languages: ISO 639 codes; None for all.
            sources: Vocabularies that names are from; None for all.
            semantic_types: Types such as T047; None for all.

        Returns:
            A terminology with the names and concepts that match.
        """
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
        part = Terminology(names, concepts, self.metadata, retired=self.retired)
        ids = self.concepts["concept_id"].combine_chunks()
        kept = pc.is_in(ids, concepts["concept_id"].combine_chunks()).to_numpy(zero_copy_only=False)
        return part.with_details(self.definitions, related_among(self.relations, ids, kept))[0]


@contextmanager
def write_terminology(
    path: Path | str, metadata: dict[str, Any], *, overwrite: bool = False
) -> Iterator[Callable[[Terminology], None]]:
    """Write a terminology in parts; the folder is published when the block ends.

    Args:
        path: The folder to write.
        metadata: What to record in the manifest; the block may still add to it.
        overwrite: Replace an existing terminology folder.

    Yields:
        A function that takes the parts, in the order of their concept identifiers; no concept may be in two parts.

    Raises:
        DataError: The terminology has no names.
        ArtifactError: The folder exists and may not be replaced.
    """
    languages, counts = Counter[str](), Counter[str]()
    last = ""
    manifest: dict[str, Any] = {"terminology_format": TERMINOLOGY_FORMAT, "metadata": metadata}
    with publish(path, "terminology", manifest, overwrite=overwrite) as folder, ExitStack() as open_files:
        writers: dict[str, pq.ParquetWriter] = {}

        def write(part: Terminology) -> None:
            nonlocal last
            if part.names.num_rows:
                assert part.names["concept_id"][0].as_py() > last, "parts of a terminology out of order"
                last = part.names["concept_id"][-1].as_py()
            languages.update(part.languages)
            for table, schema in TABLES.items():
                rows = getattr(part, table)
                counts[table] += rows.num_rows
                if table not in writers and (rows.num_rows or table in _REQUIRED):
                    writer = pq.ParquetWriter(
                        folder / f"{table}.parquet", schema, compression="zstd", use_dictionary=_REPEATED
                    )
                    writers[table] = open_files.enter_context(writer)
                if rows.num_rows:
                    writers[table].write_table(rows)

        yield write
        open_files.close()
        if not counts["names"]:
            raise DataError(
                f"a terminology needs at least one name, found none to write to {path}; are the filters too strict?"
            )
        by_size = dict(sorted(languages.items(), key=lambda item: (-item[1], item[0])))
        manifest |= {"names": counts["names"], "concepts": counts["concepts"], "languages": by_size}


def check_terminology_format(manifest: Mapping[str, Any], path: Path | str) -> None:
    """Raise ArtifactError for a folder whose tables are of another version."""
    found = manifest.get("terminology_format", 1)
    if found != TERMINOLOGY_FORMAT:
        raise ArtifactError(
            f"{path}: expected a terminology of format {TERMINOLOGY_FORMAT}, whose concepts have a vocabulary and a code, found format {found}; "
            "create it again with the xsap-prepare command that made it"
        )


def _read_table(folder: Path, table: str, schema: pa.Schema, listed: Collection[str]) -> pa.Table:
    """A table of a terminology's folder. Raises ArtifactError if it isn't what `write_terminology` wrote; only some may be missing."""
    file = folder / f"{table}.parquet"
    if file.name not in listed:
        if table not in _REQUIRED and not file.exists():
            return schema.empty_table()
        raise ArtifactError(f"{file}: not listed in the manifest; the terminology folder is damaged; create it again")
    try:
        rows = pq.read_table(file)
        rows.validate(full=True)
        sound = rows.schema.equals(schema)
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        sound = False
    if not sound:
        raise ArtifactError(f"{file}: not the table of a terminology; the folder is damaged; create it again")
    return rows


def _starts(table: pa.Table, columns: list[str]) -> pa.Array:
    """(n,) bool: where a sorted table has a row that differs from the one before it in any of `columns`."""
    n = table.num_rows
    if n == 0:
        return pa.array([], pa.bool_())
    differs = pa.array([False] * (n - 1), pa.bool_())
    for name in columns:
        column = table[name]
        differs = pc.or_(differs, pc.not_equal(column.slice(1), column.slice(0, n - 1)))
    return pa.chunked_array(
        [pa.array([True]), *differs.chunks] if isinstance(differs, pa.ChunkedArray) else [pa.array([True]), differs]
    )


def _concepts(names: pa.Table, extra: pa.Table | None) -> pa.Table:
    """CONCEPTS_SCHEMA for the concepts that have names. names: as in `Terminology.build`, with the columns `rank` and `last`."""
    foreign = pc.cast(pc.not_equal(names["language"], ENGLISH), pa.int8())
    order = [(column, "ascending") for column in ("concept_id", "foreign", "rank", "last", "language", "name")]
    best = names.append_column("foreign", foreign).sort_by(order)
    best = (
        best.filter(_starts(best, ["concept_id"]))
        .select(["concept_id", "name", "source", "code"])
        .rename_columns(["concept_id", "preferred_name", "vocabulary", "code"])
    )
    extra = CONCEPTS_SCHEMA.empty_table() if extra is None else extra
    at = pc.index_in(extra["concept_id"], best["concept_id"].combine_chunks())
    for name in CONCEPT_LISTS:
        known = extra[name] if name in extra.column_names else pa.chunked_array([], pa.list_(pa.string()))
        best = best.append_column(name, _sorted_sets(known.combine_chunks(), at.combine_chunks(), best.num_rows))
    return best.select(CONCEPTS_SCHEMA.names).cast(CONCEPTS_SCHEMA).combine_chunks()


def _sorted_sets(lists: pa.Array, rows: pa.Array, n: int) -> pa.Array:
    """(n,) lists, each of all the values of those that go to its row, once and in order. rows: of each list; null goes nowhere."""
    flat = pa.table({"row": rows.take(pc.list_parent_indices(lists)), "value": pc.list_flatten(lists)})
    flat = (
        flat.filter(pc.and_(pc.is_valid(flat["row"]), pc.is_valid(flat["value"])))
        .group_by(["row", "value"])
        .aggregate([])
    )
    flat = flat.sort_by([("row", "ascending"), ("value", "ascending")])
    ends = np.cumsum(np.bincount(flat["row"].to_numpy(), minlength=n), dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), flat["value"].combine_chunks())
