"""Terminology folders as tables that DuckDB queries, for work on terminologies that exist already and are larger than memory.

A folder's hashes are checked when it is opened. After that its columns are read from disk as queries ask for them, and what a query has
to keep goes to disk, too, beyond a fixed amount of memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from xsap.artifacts import manifest_hash, open_artifact
from xsap.terms.terminology import CONCEPTS_SCHEMA, NAMES_SCHEMA, RETIRED_SCHEMA

if TYPE_CHECKING:
    import duckdb


MEMORY = "2GB"  # for queries; what is read and written takes some hundred megabytes beside it
ROWS = 200_000  # rows that are looked at at a time
_SCHEMAS = {"names": NAMES_SCHEMA, "concepts": CONCEPTS_SCHEMA, "retired": RETIRED_SCHEMA}


@dataclass(frozen=True, slots=True)
class Stored:
    """A terminology folder. content: the sha256 of its content. facts: what its reader remembered."""

    folder: Path
    content_hash: str
    metadata: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Stored":
        """Check every hash. Raises ArtifactError."""
        manifest = open_artifact(folder, "terminology")
        return cls(folder, manifest_hash(manifest), manifest.get("facts", {}))

    def origin(self) -> dict[str, Any]:
        """What a terminology made from this one remembers of it."""
        return {"name": self.folder.name, "content": self.content_hash, "facts": self.metadata}

    def count(self, table: str) -> int:
        """The rows of `names`, `concepts` or `retired`."""
        return int(pq.read_metadata(file).num_rows) if (file := self._file(table)).is_file() else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a table, in memory."""
        return (
            pq.read_table(file, columns=columns)
            if (file := self._file(table)).is_file()
            else _SCHEMAS[table].empty_table()
        )

    def batches(self, table: str, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of a table in its order, `ROWS` rows at a time."""
        with pq.ParquetFile(self._file(table)) as file:
            for batch in file.iter_batches(ROWS, columns=columns):
                yield pa.Table.from_batches([batch])

    def relation(self, table: str) -> "ds.Dataset | pa.Table":
        """A table as DuckDB reads it."""
        return ds.dataset(file) if (file := self._file(table)).is_file() else _SCHEMAS[table].empty_table()

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"


@contextmanager
def database(**terminologies: Stored) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Yield a connection in which each terminology has three tables: `old=…` gives old_names, old_concepts and old_retired."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="xsap-prepare-") as folder:
        connection = duckdb.connect(
            Path(folder) / "work.duckdb",
            config={"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": False},
        )
        try:
            for name, stored in terminologies.items():
                for table in _SCHEMAS:
                    connection.register(f"{name}_{table}", stored.relation(table))
            yield connection
        finally:
            connection.close()


def result(connection: "duckdb.DuckDBPyConnection", query: str) -> Iterator[pa.Table]:
    """What a query gives, `ROWS` rows at a time; all of it has to be taken before the next query."""
    for batch in connection.sql(query).to_arrow_reader(ROWS):
        yield pa.Table.from_batches([batch])


def number(connection: "duckdb.DuckDBPyConnection", query: str) -> int:
    """The one number that a query gives."""
    ((found,),) = connection.sql(query).fetchall()
    return int(found)


def quoted(text: str) -> str:
    """A string as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
