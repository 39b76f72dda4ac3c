"""Terminology folders as tables that DuckDB queries, for work on existing terminologies that may be larger than memory.

A folder's hashes are checked when it is opened. After that its columns are read from disk as queries ask for them, and intermediate results
go to disk, too, beyond a fixed amount of memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from xsap.artifacts import manifest_hash, open_artifact
from xsap.terms.terminology import TABLES, check_terminology_format

if TYPE_CHECKING:
    import duckdb
    import pyarrow.dataset as ds


QUERY_MEMORY = "2GB"  # for DuckDB; reading and writing take some hundred megabytes more
ROWS_PER_BATCH = 200_000


@dataclass(frozen=True, slots=True)
class StoredTerminology:
    """A terminology folder: its path, the sha256 of its content, and what its manifest says about its source."""

    folder: Path
    content_hash: str
    metadata: dict[str, Any]
    rows_per_batch: int = ROWS_PER_BATCH

    @classmethod
    def open(cls, folder: Path, *, rows_per_batch: int = ROWS_PER_BATCH) -> "StoredTerminology":
        """Open a folder and check every hash. Raises ArtifactError."""
        manifest = open_artifact(folder, "terminology")
        check_terminology_format(manifest, folder)
        return cls(folder, manifest_hash(manifest), manifest.get("metadata", {}), rows_per_batch)

    def origin(self) -> dict[str, Any]:
        """What the manifest of a terminology made from this one says about it."""
        return {"name": self.folder.name, "content": self.content_hash, "metadata": self.metadata}

    def count(self, table: str) -> int:
        """The number of rows of one of TABLES."""
        return int(pq.read_metadata(file).num_rows) if (file := self._file(table)).is_file() else 0

    def read(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a table (all by default), in memory."""
        file = self._file(table)
        return pq.read_table(file, columns=columns) if file.is_file() else TABLES[table].empty_table()

    def batches(self, table: str, columns: list[str]) -> Iterator[pa.Table]:
        """Some columns of a table in its order, `rows_per_batch` rows at a time."""
        with pq.ParquetFile(self._file(table)) as file:
            for batch in file.iter_batches(self.rows_per_batch, columns=columns):
                yield pa.Table.from_batches([batch])

    def relation(self, table: str) -> "ds.Dataset | pa.Table":
        """A table for DuckDB, which reads from disk the columns that it needs."""
        import pyarrow.dataset as ds  # this loads pandas

        return ds.dataset(file) if (file := self._file(table)).is_file() else TABLES[table].empty_table()

    def _file(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"


@contextmanager
def database(**terminologies: StoredTerminology) -> Iterator["duckdb.DuckDBPyConnection"]:
    """Yield a connection in which each terminology has the tables of TABLES: `old=…` gives old_names, old_concepts and so on."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="xsap-prepare-") as folder:
        connection = duckdb.connect(
            Path(folder) / "work.duckdb",
            config={"memory_limit": QUERY_MEMORY, "temp_directory": folder, "preserve_insertion_order": False},
        )
        try:
            for name, stored in terminologies.items():
                for table in TABLES:
                    connection.register(f"{name}_{table}", stored.relation(table))
            yield connection
        finally:
            connection.close()


def query_batches(connection: "duckdb.DuckDBPyConnection", query: str) -> Iterator[pa.Table]:
    """The rows of a query, ROWS_PER_BATCH at a time; all of them must be taken before the next query."""
    for batch in connection.sql(query).to_arrow_reader(ROWS_PER_BATCH):
        yield pa.Table.from_batches([batch])


def query_number(connection: "duckdb.DuckDBPyConnection", query: str) -> int:
    """The single number that a query gives."""
    ((found,),) = connection.sql(query).fetchall()
    return int(found)


def quoted(text: str) -> str:
    """A string as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"
