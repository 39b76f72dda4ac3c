"""What changed between two versions of a terminology, name by name and concept by concept.

Names are compared by (concept, language, name), definitions likewise; kind and source do not matter. Definitions and broader concepts are
compared only if both versions have any, for otherwise all of them would be changes. A name that disappears from one concept and appears at another
has moved. So each difference is listed once: the old names, without those removed or moved, with those added and those moved at their new
concept, are the new names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_prep.retired import Successors
from data_prep.store import StoredTerminology, database, query_batches, query_number
from xsap.artifacts import write_atomically
from xsap.files import aligned
from xsap.languages import to_name

if TYPE_CHECKING:
    import duckdb

COLUMNS = ("change", "concept_id", "language", "name", "other_concept_id")
CONCEPT_ADDED, CONCEPT_MOVED, CONCEPT_RETIRED = "concept added", "concept moved", "concept retired"
NAME_ADDED, NAME_MOVED, NAME_REMOVED = "name added", "name moved", "name removed"
DEFINITION_ADDED, DEFINITION_REMOVED = "definition added", "definition removed"
PARENT_ADDED, PARENT_REMOVED = "parent added", "parent removed"
EXAMPLES = 3
_KEY = "concept_id, language, name"


@contextmanager
def diff_terminologies(old: Path, new: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Yield a DuckDB connection with the table `changes`, with COLUMNS.

    A concept that is not in the new version counts as moved if the new version lists a successor that is the same concept, else as retired;
    its name is its preferred name, and its language is empty. Several other concepts are separated by `|`. A definition is in the place of the
    name; a parent is the other concept.

    Args:
        old: The folder of the older terminology.
        new: The folder of the newer terminology.

    Raises:
        ArtifactError: A folder is no terminology.
    """
    old_terminology, new_terminology = StoredTerminology.open(old), StoredTerminology.open(new)
    with database(old=old_terminology, new=new_terminology) as connection:
        connection.execute(
            f"CREATE TABLE disappeared AS SELECT {_KEY} FROM old_names ANTI JOIN new_names USING ({_KEY})"
        )
        connection.execute(f"CREATE TABLE appeared AS SELECT {_KEY} FROM new_names ANTI JOIN old_names USING ({_KEY})")
        connection.execute(f"""CREATE TABLE changes AS
            SELECT '{NAME_MOVED}' AS change, {_KEY}, string_agg(other, '|' ORDER BY other) AS other_concept_id
                FROM disappeared JOIN (SELECT concept_id AS other, language, name FROM appeared) USING (language, name) GROUP BY {_KEY}
            UNION ALL SELECT '{NAME_REMOVED}', {_KEY}, '' FROM disappeared ANTI JOIN appeared USING (language, name)
            UNION ALL SELECT '{NAME_ADDED}', {_KEY}, '' FROM appeared ANTI JOIN disappeared USING (language, name)
            UNION ALL SELECT '{CONCEPT_ADDED}', concept_id, '', preferred_name, ''
                FROM new_concepts ANTI JOIN old_concepts USING (concept_id)""")
        connection.register("successors", _successors(connection, new_terminology))
        connection.execute(f"""INSERT INTO changes SELECT CASE WHEN other IS NULL THEN '{CONCEPT_RETIRED}' ELSE '{CONCEPT_MOVED}' END,
            concept_id, '', preferred_name, coalesce(other, '') FROM ({_REMOVED_CONCEPTS}) LEFT JOIN successors USING (concept_id)""")
        for table, query in (("definitions", _DEFINITION_CHANGES), ("relations", _PARENT_CHANGES)):
            if old_terminology.count(table) and new_terminology.count(table):
                connection.execute(query)
        yield connection


_DEFINITION_CHANGES = f"""INSERT INTO changes
    SELECT DISTINCT '{DEFINITION_ADDED}', concept_id, language, definition, ''
        FROM new_definitions ANTI JOIN old_definitions USING (concept_id, language, definition)
    UNION ALL SELECT DISTINCT '{DEFINITION_REMOVED}', concept_id, language, definition, ''
        FROM old_definitions ANTI JOIN new_definitions USING (concept_id, language, definition)"""
_PARENT_CHANGES = f"""INSERT INTO changes
    SELECT '{PARENT_ADDED}', concept_id, '', preferred_name, parent_id
        FROM (SELECT * FROM new_relations ANTI JOIN old_relations USING (concept_id, parent_id)) JOIN new_concepts USING (concept_id)
    UNION ALL SELECT '{PARENT_REMOVED}', concept_id, '', preferred_name, parent_id
        FROM (SELECT * FROM old_relations ANTI JOIN new_relations USING (concept_id, parent_id)) JOIN old_concepts USING (concept_id)"""
_REMOVED_CONCEPTS = "SELECT concept_id, preferred_name FROM old_concepts ANTI JOIN new_concepts USING (concept_id)"


def _successors(connection: "duckdb.DuckDBPyConnection", new: StoredTerminology) -> pa.Table:
    """A table of concept_id and other: the concepts that are not in the new version but have successors there, and these."""
    retired = "(SELECT retired_id AS concept_id FROM new_retired)"
    query = f"SELECT concept_id FROM ({_REMOVED_CONCEPTS}) SEMI JOIN {retired} USING (concept_id)"
    removed = connection.sql(query).to_arrow_table()["concept_id"]
    living = new.read("concepts", ["concept_id"])["concept_id"]
    successors = Successors.from_table(removed, new.read("retired"), living)
    found = [(one, "|".join(ends)) for one in removed.to_pylist() if (ends := successors.trace(one)[0])]
    columns = [pa.array([row[i] for row in found], pa.string()) for i in range(2)]
    return pa.table(columns, ["concept_id", "other"])


def change_lines(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """Tables for people: concepts by change, names by language and change, and examples of each change."""
    kinds = (CONCEPT_ADDED, CONCEPT_MOVED, CONCEPT_RETIRED)
    concepts = [(kind.replace("concept", "concepts"), f"{_count(connection, kind):,}") for kind in kinds]
    details = (DEFINITION_ADDED, DEFINITION_REMOVED, PARENT_ADDED, PARENT_REMOVED)
    changed = {kind: n for kind in details if (n := _count(connection, kind))}
    concepts += [(kind.replace(" ", "s "), f"{n:,}") for kind, n in changed.items()]
    names = (NAME_ADDED, NAME_MOVED, NAME_REMOVED)
    counted = connection.sql(
        "SELECT language, change, count(*) FROM changes WHERE language <> '' GROUP BY ALL"
    ).fetchall()
    counts = {(language, change): n for language, change, n in counted}
    states = [
        dict(connection.sql(f"SELECT language, count(*) FROM {state}_names GROUP BY ALL").fetchall())
        for state in ("old", "new")
    ]
    rows = [("names", "old", "new", *(name.removeprefix("name ") for name in names))]
    for language in sorted(
        {*states[0], *states[1]}, key=lambda code: (-states[0].get(code, 0) - states[1].get(code, 0), code)
    ):
        cells = [*(state.get(language, 0) for state in states), *(counts.get((language, name), 0) for name in names)]
        rows.append((f"{language}  {to_name(language)}", *(f"{n:,}" for n in cells)))
    totals = [*(sum(state.values()) for state in states), *(_count(connection, name) for name in names)]
    rows.append(("all", *(f"{n:,}" for n in totals)))
    return [
        *aligned(concepts),
        "",
        *aligned(rows),
        *(line for kind in (*kinds, *names, *changed) for line in _examples(connection, kind)),
    ]


def _count(connection: "duckdb.DuckDBPyConnection", change: str) -> int:
    return query_number(connection, f"SELECT count(*) FROM changes WHERE change = '{change}'")


def _examples(connection: "duckdb.DuckDBPyConnection", change: str) -> list[str]:
    first = f"SELECT * EXCLUDE (change) FROM changes WHERE change = '{change}' ORDER BY ALL LIMIT {EXAMPLES}"
    rows = connection.sql(first).fetchall()
    lines = [
        "  ".join(filter(None, [f"  {one}", language, name, other and f"→ {other}"]))
        for one, language, name, other in rows
    ]
    return ["", f"{change}, for example:", *lines] if lines else []


def write_changes(connection: "duckdb.DuckDBPyConnection", path: Path) -> None:
    """Write all changes as TSV with a header, in order, whole or not at all."""
    with write_atomically(path) as stream:
        stream.write("\t".join(COLUMNS) + "\n")
        for rows in query_batches(connection, "SELECT * FROM changes ORDER BY ALL"):
            stream.writelines(
                "\t".join(row) + "\n" for row in zip(*(rows[column].to_pylist() for column in COLUMNS), strict=True)
            )
