"""Several terminologies → one, and one terminology → the identifiers of another vocabulary. Both join concepts that turn out to be one.

A merged concept has the names of all. Where two terminologies have the same name of it in the same language, the row of the terminology
named first is kept, whatever the other one says of its kind. A concept keeps the preferred name of the terminology named first, unless that
one has no preferred English name and another has (the rule of `Terminology.build`).

Re-identification goes by cross-references, such as `UMLS:C0015967`. A concept with several references into the vocabulary is as a rule wider
than each of them, and its names would become names of unlike concepts, which training then pulls together and a test counts as right
either way; so it is left out unless it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.accounting import check_choice
from data_prep.assemble import Assembly
from data_prep.store import StoredTerminology, database, query_batches, query_number, quoted
from xsap.errors import ConfigError
from xsap.files import RowCounts, aligned

if TYPE_CHECKING:
    import duckdb

_KEY = "concept_id, language, name"


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What one of several terminologies gave. new: its concepts that no terminology before it has."""

    folder: Path
    names: int
    kept: int
    concepts: int
    new: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of all names, the facts to remember, each terminology's share, and how many retired identifiers turned out to be in use."""

    counts: RowCounts
    metadata: dict[str, Any]
    sources: list[SourceCounts]
    in_use: int

    def lines(self) -> list[str]:
        """For people: a line a terminology, and what was found out about retired identifiers."""
        rows = [(str(s.folder), *(f"{n:,}" for n in (s.names, s.kept, s.concepts, s.new))) for s in self.sources]
        table = aligned([("terminology", "names", "kept", "concepts", "new concepts"), *rows])
        told = (
            [f"{self.in_use:,} retired identifiers have names in another of them, so they are not retired here"]
            if self.in_use
            else []
        )
        return [*table, *told]


def merge_terminologies(folders: Sequence[Path], assembly: Assembly) -> Merged:
    """Hand over the names, facts and retired identifiers of all. Raises ConfigError for fewer than two, ArtifactError for a bad folder."""
    if len(folders) < 2:
        raise ConfigError(f"expected two terminologies or more to merge, found {len(folders)}")
    stored = [StoredTerminology.open(folder) for folder in folders]
    sources = []
    with database(**{f"t{i}": one for i, one in enumerate(stored)}) as connection:
        for i, one in enumerate(stored):
            before = assembly.names_added
            for rows in query_batches(connection, _fresh_names(i, len(stored))):
                assembly.add_names(rows)
            for rows in query_batches(connection, f"SELECT concept_id, semantic_types, cross_references FROM t{i}_concepts"):
                assembly.add_concepts(rows)
            known = _union("concept_id", "concepts", range(i))
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
        in_use = _join_retired(connection, len(stored), assembly)
    rows_in, kept = sum(share.names for share in sources), assembly.names_added
    dropped = {"same name of the same concept in a terminology named before": rows_in - kept} if rows_in > kept else {}
    return Merged(
        RowCounts(rows_in, kept, dropped), {"reader": "merge", "of": [one.origin() for one in stored]}, sources, in_use
    )


def _union(columns: str, table: str, which: range) -> str:
    return " UNION ALL ".join(f"SELECT {columns} FROM t{i}_{table}" for i in which)


def _fresh_names(i: int, n: int) -> str:
    """The names of terminology `i` that none before it has. The sooner it was named, the higher it ranks; its preferred name ranks above."""
    known = f" ANTI JOIN ({_union(_KEY, 'names', range(i))}) AS known USING ({_KEY})" if i else ""
    return f"""SELECT names.*, CAST({2 * (n - i)} + (names.name = concepts.preferred_name)::INTEGER AS INTEGER) AS precedence
        FROM (SELECT * FROM t{i}_names{known}) AS names JOIN t{i}_concepts AS concepts USING (concept_id)"""


def _join_retired(connection: "duckdb.DuckDBPyConnection", n: int, assembly: Assembly) -> int:
    """Hand over all retired identifiers but those that are some terminology's concepts → how many those are."""
    retired = _union("*", "retired", range(n))
    living = f"(SELECT concept_id AS retired_id FROM ({_union('concept_id', 'concepts', range(n))}))"
    for rows in query_batches(connection, f"SELECT DISTINCT * FROM ({retired}) ANTI JOIN {living} USING (retired_id)"):
        assembly.add_retired(rows)
    return query_number(
        connection, f"SELECT count(DISTINCT retired_id) FROM ({retired}) SEMI JOIN {living} USING (retired_id)"
    )


@dataclass(frozen=True, slots=True)
class Mapped:
    """What became of all names, the facts to remember, counts of concepts in plain words, and how many names in are copies.

    A concept that goes to several identifiers gives its names to each: all but one of them are copies, and `counts` counts them as names in.
    """

    counts: RowCounts
    metadata: dict[str, Any]
    concepts: dict[str, int]
    copies: int

    def lines(self) -> list[str]:
        """For people: the counts of concepts, and the copies if there are any."""
        copies = (
            [f"{self.copies:,} of the names in are copies, for concepts with several references"] if self.copies else []
        )
        return [*aligned([(label, f"{n:,}") for label, n in self.concepts.items()]), *copies]


def map_terminology(
    folder: Path, vocabulary: str, assembly: Assembly, *, several: bool = False, keep_prefix: bool = False
) -> Mapped:
    """Hand over a terminology with each concept under the identifier that its cross-reference into `vocabulary` names.

    vocabulary: what stands before a reference's colon. several: a concept with several such references gives its names to each of them; otherwise it
    is left out. keep_prefix: the new identifier is the whole reference, as in OBO (`HP:0001945`). The old identifier becomes a
    cross-reference of the new one and, with the new one as its successor, a retired identifier. Raises DataError if nothing refers there.
    """
    stored, vocabulary = StoredTerminology.open(folder), vocabulary.removesuffix(":")
    with database(t=stored) as connection:
        _choose_targets(connection, folder, vocabulary, several=several, keep_prefix=keep_prefix)
        for rows in query_batches(connection, _MAPPED_NAMES):
            assembly.add_names(rows)
        for rows in query_batches(connection, _MAPPED_CONCEPTS):
            assembly.add_concepts(rows)
        for rows in query_batches(connection, _MAPPED_RETIRED):
            assembly.add_retired(rows)
        concepts = {label: query_number(connection, query) for label, query in _CONCEPT_COUNTS.items()}
        none, left_out, mapped = (query_number(connection, f"SELECT count(*) FROM t_names {where}") for where in _OUTCOMES)
    reasons = {
        f"concept without a reference to {vocabulary}": none,
        f"concept with several references to {vocabulary}": left_out,
    }
    counts = RowCounts(
        stored.count("names") + assembly.names_added - mapped, assembly.names_added, {reason: n for reason, n in reasons.items() if n}
    )
    metadata = {
        "reader": "map",
        "to": vocabulary,
        "several": several,
        "keep_prefix": keep_prefix,
        "of": [stored.origin()],
    }
    return Mapped(counts, metadata, concepts, assembly.names_added - mapped)


def _choose_targets(
    connection: "duckdb.DuckDBPyConnection", folder: Path, vocabulary: str, *, several: bool, keep_prefix: bool
) -> None:
    """Make the tables `targets` (concept_id, reference, target: the new identifier) and, of it, `chosen`."""
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
        if several
        else " WHERE concept_id IN (SELECT concept_id FROM targets GROUP BY concept_id HAVING count(*) = 1)"
    )
    connection.execute(f"CREATE TABLE chosen AS SELECT * FROM targets{one}")


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
_OUTCOMES = (
    "ANTI JOIN targets USING (concept_id)",
    "SEMI JOIN targets USING (concept_id) ANTI JOIN chosen USING (concept_id)",
    "SEMI JOIN chosen USING (concept_id)",
)
