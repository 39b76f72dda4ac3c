"""Merging several terminologies into one, and mapping a terminology to the identifiers of another vocabulary.

A merged concept has the names of all terminologies. Of equal names of a concept in one language, the one of the terminology given first is
kept with its kind and source; definitions and relations are those of all. A concept keeps the preferred name of the terminology given first, unless that one has no preferred English
name and another has (the rule of `Terminology.build`).

Mapping follows cross-references, such as `UMLS:C0015967`. A concept with several references into the vocabulary is usually broader than each
of them; its names would become names of different concepts, which training then pulls together and evaluation accepts as right. So it is
dropped by default. Where a broader concept is dropped, the nearest ones above it that are mapped take its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import check_choice
from data_prep.assemble import Assembly
from data_prep.store import StoredTerminology, database, query_batches, query_number, quoted
from xsap.errors import ConfigError
from xsap.files import RowCounts, aligned
from xsap.terms.concept_details import DEFINITIONS_SCHEMA, related_among

if TYPE_CHECKING:
    import duckdb

_KEY = "concept_id, language, name"


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What one of several merged terminologies contributed. new: its concepts that no terminology before it has."""

    folder: Path
    names: int
    kept: int
    concepts: int
    new: int


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of a merge.

    counts: names kept and dropped. metadata: for the manifest. in_use: retired identifiers of one terminology that are concepts of another.
    """

    counts: RowCounts
    metadata: dict[str, Any]
    sources: list[SourceCounts]
    in_use: int

    def lines(self) -> list[str]:
        """A table for people, with a line per terminology, and the retired identifiers that are in use."""
        rows = [(str(s.folder), *(f"{n:,}" for n in (s.names, s.kept, s.concepts, s.new))) for s in self.sources]
        table = aligned([("terminology", "names", "kept", "concepts", "new concepts"), *rows])
        if self.in_use:
            table.append(
                f"{self.in_use:,} retired identifiers are concepts of another terminology, so they are kept in use"
            )
        return table


def merge_terminologies(folders: Sequence[Path], assembly: Assembly) -> Merged:
    """Add the names, concepts and retired identifiers of several terminologies to a new one.

    Args:
        folders: Two or more terminology folders, by precedence.
        assembly: Takes the rows of the new terminology.

    Returns:
        What was merged.

    Raises:
        ConfigError: There are fewer than two folders.
        ArtifactError: A folder is no terminology, or damaged.
    """
    if len(folders) < 2:
        raise ConfigError(f"expected two terminologies or more to merge, found {len(folders)}")
    stored = [StoredTerminology.open(folder) for folder in folders]
    sources = []
    with database(**{f"t{i}": one for i, one in enumerate(stored)}) as connection:
        for i, one in enumerate(stored):
            before = assembly.names_added
            for rows in query_batches(connection, _new_names(i, len(stored))):
                assembly.add_names(rows)
            for rows in query_batches(
                connection, f"SELECT concept_id, semantic_types, cross_references FROM t{i}_concepts"
            ):
                assembly.add_concepts(rows)
            assembly.add_definitions(one.read("definitions"))
            assembly.add_relations(one.read("relations"))
            known = _union_all("concept_id", "concepts", range(i))
            concepts = f"SELECT count(*) FROM t{i}_concepts" + (f" ANTI JOIN ({known}) USING (concept_id)" if i else "")
            sources.append(
                SourceCounts(
                    one.folder,
                    one.count("names"),
                    assembly.names_added - before,
                    one.count("concepts"),
                    query_number(connection, concepts),
                )
            )
        in_use = _add_retired(connection, len(stored), assembly)
    rows_in, kept = sum(share.names for share in sources), assembly.names_added
    dropped = {"same name of the same concept in a terminology named before": rows_in - kept} if rows_in > kept else {}
    return Merged(
        RowCounts(rows_in, kept, dropped), {"reader": "merge", "of": [one.origin() for one in stored]}, sources, in_use
    )


def _union_all(columns: str, table: str, which: range) -> str:
    return " UNION ALL ".join(f"SELECT {columns} FROM t{i}_{table}" for i in which)


def _new_names(i: int, n: int) -> str:
    """A query for the names of terminology `i` that none before it has. Precedence falls with `i`; a preferred name comes before the others."""
    known = f" ANTI JOIN ({_union_all(_KEY, 'names', range(i))}) AS known USING ({_KEY})" if i else ""
    return f"""SELECT names.*, CAST({2 * (n - i)} + (names.name = concepts.preferred_name)::INTEGER AS INTEGER) AS precedence
        FROM (SELECT * FROM t{i}_names{known}) AS names JOIN t{i}_concepts AS concepts USING (concept_id)"""


def _add_retired(connection: "duckdb.DuckDBPyConnection", n: int, assembly: Assembly) -> int:
    """Add the retired identifiers that are no terminology's concepts, and return the number of the others."""
    retired = _union_all("*", "retired", range(n))
    living = f"(SELECT concept_id AS retired_id FROM ({_union_all('concept_id', 'concepts', range(n))}))"
    for rows in query_batches(connection, f"SELECT DISTINCT * FROM ({retired}) ANTI JOIN {living} USING (retired_id)"):
        assembly.add_retired(rows)
    return query_number(
        connection, f"SELECT count(DISTINCT retired_id) FROM ({retired}) SEMI JOIN {living} USING (retired_id)"
    )


@dataclass(frozen=True, slots=True)
class Mapped:
    """The result of a mapping.

    counts: names kept and dropped. metadata: for the manifest. concepts: what is counted, in plain words → number. copies: a concept that is
    mapped to several identifiers gives its names to each; these are all but one of them, and `counts` includes them as names in.
    """

    counts: RowCounts
    metadata: dict[str, Any]
    concepts: dict[str, int]
    copies: int

    def lines(self) -> list[str]:
        """Lines for people: the counts of concepts, and the copies if there are any."""
        copies = (
            [f"{self.copies:,} of the names in are copies, for concepts with several references"] if self.copies else []
        )
        return [*aligned([(label, f"{n:,}") for label, n in self.concepts.items()]), *copies]


def map_terminology(
    folder: Path, vocabulary: str, assembly: Assembly, *, keep_ambiguous: bool = False, keep_prefix: bool = False
) -> Mapped:
    """Add a terminology's concepts to a new one under the identifiers that their cross-references into a vocabulary give.

    The old identifier becomes a cross-reference of the new one and a retired identifier with the new one as its successor.

    Args:
        folder: The terminology folder.
        vocabulary: The prefix of the references, before the colon.
        assembly: Takes the rows of the new terminology.
        keep_ambiguous: A concept with several such references gives its names to each of them, instead of being dropped.
        keep_prefix: The new identifier is the whole reference, as in OBO (`HP:0001945`).

    Returns:
        What was mapped.

    Raises:
        DataError: No concept has a reference into the vocabulary.
    """
    stored, vocabulary = StoredTerminology.open(folder), vocabulary.removesuffix(":")
    with database(t=stored) as connection:
        _choose_targets(connection, folder, vocabulary, keep_ambiguous=keep_ambiguous, keep_prefix=keep_prefix)
        for rows in query_batches(connection, _MAPPED_NAMES):
            assembly.add_names(rows)
        for rows in query_batches(connection, _MAPPED_CONCEPTS):
            assembly.add_concepts(rows)
        for rows in query_batches(connection, _MAPPED_RETIRED):
            assembly.add_retired(rows)
        _map_details(connection, stored, assembly)
        concepts = {label: query_number(connection, query) for label, query in _CONCEPT_COUNTS.items()}
        none, ambiguous, mapped = (
            query_number(connection, f"SELECT count(*) FROM t_names {where}") for where in _NAMES_BY_OUTCOME
        )
    reasons = {
        f"concept without a reference to {vocabulary}": none,
        f"concept with several references to {vocabulary}": ambiguous,
    }
    counts = RowCounts(
        stored.count("names") + assembly.names_added - mapped,
        assembly.names_added,
        {reason: n for reason, n in reasons.items() if n},
    )
    metadata = {
        "reader": "map",
        "to": vocabulary,
        "keep_ambiguous": keep_ambiguous,
        "keep_prefix": keep_prefix,
        "of": [stored.origin()],
    }
    return Mapped(counts, metadata, concepts, assembly.names_added - mapped)


def _choose_targets(
    connection: "duckdb.DuckDBPyConnection", folder: Path, vocabulary: str, *, keep_ambiguous: bool, keep_prefix: bool
) -> None:
    """Create the tables `targets` (concept_id, reference, target: the new identifier) and `chosen`, the rows of it that are used."""
    prefix = quoted(f"{vocabulary}:")
    references = "SELECT concept_id, unnest(cross_references) AS reference FROM t_concepts"
    connection.execute(f"""CREATE TABLE targets AS
        SELECT DISTINCT concept_id, reference, {"reference" if keep_prefix else f"substr(reference, {len(vocabulary) + 2})"} AS target
        FROM ({references}) WHERE starts_with(reference, {prefix}) AND reference <> {prefix}""")
    if not query_number(connection, "SELECT count(*) FROM targets"):
        known = connection.sql(
            f"SELECT DISTINCT split_part(reference, ':', 1) FROM ({references}) WHERE contains(reference, ':')"
        ).fetchall()
        check_choice([vocabulary], {row[0] for row in known} - {vocabulary}, "cross-references to", folder)
    one = (
        ""
        if keep_ambiguous
        else " WHERE concept_id IN (SELECT concept_id FROM targets GROUP BY concept_id HAVING count(*) = 1)"
    )
    connection.execute(f"CREATE TABLE chosen AS SELECT * FROM targets{one}")


def _map_details(connection: "duckdb.DuckDBPyConnection", stored: StoredTerminology, assembly: Assembly) -> None:
    """Add the definitions of the concepts that are mapped, and the relations between them."""
    unmapped = query_number(connection, "SELECT count(*) FROM t_definitions ANTI JOIN chosen USING (concept_id)")
    for rows in query_batches(connection, _MAPPED_DEFINITIONS):
        assembly.add_definitions(rows)
    dropped = {"definition of a concept that is not mapped": unmapped} if unmapped else {}
    assembly.add_definitions(DEFINITIONS_SCHEMA.empty_table(), dropped)
    relations = stored.read("relations")
    if relations.num_rows:
        ids = stored.read("concepts", ["concept_id"])["concept_id"].combine_chunks()
        mapped = connection.sql("SELECT DISTINCT concept_id FROM chosen").to_arrow_table()["concept_id"]
        kept = pc.is_in(ids, mapped.combine_chunks().cast(pa.string())).to_numpy(zero_copy_only=False)
        connection.register("related", related_among(relations, ids, kept))
        for rows in query_batches(connection, _MAPPED_RELATIONS):
            assembly.add_relations(rows)


_MAPPED_DEFINITIONS = (
    """SELECT target AS concept_id, language, definition, source FROM t_definitions JOIN chosen USING (concept_id)"""
)
_MAPPED_RELATIONS = """SELECT children.target AS concept_id, parents.target AS parent_id FROM related
    JOIN chosen AS children ON children.concept_id = related.concept_id
    JOIN chosen AS parents ON parents.concept_id = related.parent_id"""
_MAPPED_NAMES = """SELECT names.* REPLACE (target AS concept_id), CAST(name = preferred_name AS INTEGER) AS precedence
    FROM t_names AS names JOIN t_concepts USING (concept_id) JOIN chosen USING (concept_id)"""
_MAPPED_CONCEPTS = """SELECT target AS concept_id, semantic_types,
    [one FOR one IN list_append(cross_references, concept_id) IF one <> reference AND one <> target] AS cross_references
    FROM t_concepts JOIN chosen USING (concept_id)"""
_MAPPED_RETIRED = """SELECT retired_id, coalesce(target, concept_id) AS concept_id, relation FROM t_retired LEFT JOIN chosen USING (concept_id)
    WHERE retired_id NOT IN (SELECT target FROM chosen)
    UNION SELECT concept_id, target, 'same' FROM chosen WHERE concept_id NOT IN (SELECT target FROM chosen)"""
_SIZES = "(SELECT concept_id, count(*) AS n FROM targets GROUP BY concept_id)"
_CONCEPT_COUNTS = {
    "concepts in": "SELECT count(*) FROM t_concepts",
    "  with one reference": f"SELECT count(*) FROM {_SIZES} WHERE n = 1",
    "  with several": f"SELECT count(*) FROM {_SIZES} WHERE n > 1",
    "  with none": "SELECT count(*) FROM t_concepts ANTI JOIN targets USING (concept_id)",
    "concepts out": "SELECT count(DISTINCT target) FROM chosen",
    "  joined from several": "SELECT count(*) FROM (SELECT target FROM chosen GROUP BY target HAVING count(*) > 1)",
}
_NAMES_BY_OUTCOME = (
    "ANTI JOIN targets USING (concept_id)",
    "SEMI JOIN targets USING (concept_id) ANTI JOIN chosen USING (concept_id)",
    "SEMI JOIN chosen USING (concept_id)",
)
