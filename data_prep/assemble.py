"""Rows from a reader, in any order and more than memory holds, written as a terminology folder.

The rules of a terminology look at one concept at a time (`Terminology.build`), so rows only have to be brought together by concept. Parts of
some ten thousand names, cut between concepts, are built one by one and written in order. The result depends neither on the order of the
rows nor on where the parts are cut. Most large sources are sorted by concept already (MRCONSO is): sorted rows are only written to a
temporary file, and DuckDB sorts the others, on disk if need be; with few of them it is not even loaded.
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import Summary
from xsap.artifacts import check_can_write
from xsap.errors import ConfigError
from xsap.files import RowCounts, prefetch_map
from xsap.terms.concept_details import (
    CIRCULAR_EXAMPLES,
    DEFINITIONS_SCHEMA,
    RELATIONS_SCHEMA,
    DetailCounts,
    circular_concepts,
    keep_definitions,
    keep_relations,
)
from xsap.terms.terminology import (
    CONCEPT_LISTS,
    CONCEPTS_SCHEMA,
    NAMES_SCHEMA,
    PRECEDENCE,
    RETIRED_SCHEMA,
    Terminology,
    write_terminology,
)

MAX_MEMORY = 1_000_000_000  # bytes that sorting may take before it goes to disk

_KEY = "concept_id"
_NAMES = NAMES_SCHEMA.append(pa.field(PRECEDENCE, pa.int32(), nullable=False))
_NOTHING = Terminology(NAMES_SCHEMA.empty_table(), CONCEPTS_SCHEMA.empty_table())
_DETAILS_PER_PART = 1_000_000  # rows; each part is looked up in all concepts
_CONCEPTS = pa.schema([CONCEPTS_SCHEMA.field(0), *(CONCEPTS_SCHEMA.field(name) for name in CONCEPT_LISTS)])


class Assembly:
    """Collects rows and, at the end, writes them as a terminology. A context manager: leaving it removes its temporary files.

    Args:
        max_memory: Bytes that sorting may take before it goes to disk; all else takes some hundred megabytes.
        names_per_part: Names that are built and written at a time.
        max_unsorted: Rows out of order that are sorted in memory, without DuckDB.
    """

    def __init__(
        self, max_memory: int = MAX_MEMORY, *, names_per_part: int = 100_000, max_unsorted: int = 300_000
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="xsap-prepare-"))
        self._names = ExternalSort(self._folder / "names", _NAMES, _KEY, max_memory, max_unsorted)
        self._concepts = ExternalSort(self._folder / "concepts", _CONCEPTS, _KEY, max_memory, max_unsorted)
        self._definitions = ExternalSort(
            self._folder / "definitions", DEFINITIONS_SCHEMA, _KEY, max_memory, max_unsorted
        )
        self._relations = ExternalSort(self._folder / "relations", RELATIONS_SCHEMA, _KEY, max_memory, max_unsorted)
        self._dropped_details: dict[str, Counter[str]] = {"definitions": Counter(), "relations": Counter()}
        self._retired = [RETIRED_SCHEMA.empty_table()]
        self._names_per_part = names_per_part
        self.names_added = 0

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for rows in (self._names, self._concepts, self._definitions, self._relations):
            rows.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_names(self, rows: pa.Table) -> None:
        """Add normalized names: the columns of NAMES_SCHEMA, and optionally `precedence`."""
        if PRECEDENCE not in rows.column_names:
            rows = rows.append_column(PRECEDENCE, pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows))
        self._names.add(rows.select(_NAMES.names).cast(_NAMES))
        self.names_added += rows.num_rows

    def add_concepts(self, rows: pa.Table) -> None:
        """Add data of concepts: concept_id with lists of semantic_types, cross_references or both. A concept may be in several rows."""
        for name in CONCEPT_LISTS:
            if name not in rows.column_names:
                empty = pa.array([[]], pa.list_(pa.string()))
                rows = rows.append_column(name, empty.take(pa.repeat(0, rows.num_rows)))
        self._concepts.add(rows.select(_CONCEPTS.names).cast(_CONCEPTS))

    def add_retired(self, rows: pa.Table) -> None:
        """Add identifiers that are no longer in use: the columns of RETIRED_SCHEMA."""
        self._retired.append(rows.select(RETIRED_SCHEMA.names).cast(RETIRED_SCHEMA))

    def add_definitions(self, rows: pa.Table, dropped: Mapping[str, int] | None = None) -> None:
        """Add normalized definitions: DEFINITIONS_SCHEMA. dropped: those that the reader left out, by reason."""
        self._definitions.add(rows.select(DEFINITIONS_SCHEMA.names).cast(DEFINITIONS_SCHEMA))
        self._dropped_details["definitions"].update(dropped or {})

    def add_relations(self, rows: pa.Table, dropped: Mapping[str, int] | None = None) -> None:
        """Add relations to broader concepts: RELATIONS_SCHEMA. dropped: those that the reader left out, by reason."""
        self._relations.add(rows.select(RELATIONS_SCHEMA.names).cast(RELATIONS_SCHEMA))
        self._dropped_details["relations"].update(dropped or {})

    def save(
        self, out: Path, counts: RowCounts, metadata: dict[str, Any], *, overwrite: bool = False
    ) -> tuple[Summary, RowCounts]:
        """Write the folder, whole or not at all.

        Args:
            out: The folder.
            counts: What the reader did with its rows; those kept must be the names added here.
            metadata: What the manifest states about the source; what happened to definitions and relations is added to it.
            overwrite: Replace an existing terminology.

        Returns:
            What the terminology holds, and `counts` with the names that are dropped here.

        Raises:
            DataError: There is no name.
            ArtifactError: `out` exists and may not be replaced.
        """
        assert counts.kept == self.names_added, f"a reader kept {counts.kept} names but added {self.names_added}"
        check_can_write(out, overwrite=overwrite, kind="terminology")
        summary, dropped, ids = Summary(), Counter[str](), [pa.array([], pa.string())]
        with write_terminology(out, metadata, overwrite=overwrite) as write:
            for _, (part, dropped_here) in prefetch_map(
                lambda tables: Terminology.build(tables[0], tables[1], retired=tables[2]), self._parts()
            ):
                write(part)
                summary += Summary.from_terminology(part)
                dropped += dropped_here
                ids.append(part.concepts["concept_id"].combine_chunks())
            metadata |= self._write_details(write, pa.concat_arrays(ids)).to_metadata()
        return summary, counts.then(summary.names, dropped)

    def _write_details(self, write: Callable[[Terminology], None], ids: pa.Array) -> DetailCounts:
        """Write the definitions of concepts and the relations between them. ids: all concepts."""
        found, relations = dict[str, RowCounts](), [RELATIONS_SCHEMA.empty_table()]
        for table, rows, keep in (
            ("definitions", self._definitions, keep_definitions),
            ("relations", self._relations, keep_relations),
        ):
            found[table] = RowCounts()
            for part in _merged(rows, _DETAILS_PER_PART):
                kept, dropped = keep(part, ids)
                write(replace(_NOTHING, **{table: kept}))
                found[table] += RowCounts(part.num_rows, kept.num_rows, dropped)
                if table == "relations":
                    relations.append(kept)
        circular = circular_concepts(pa.concat_tables(relations), ids)
        counts = DetailCounts(
            found["definitions"], found["relations"], len(circular), tuple(circular[:CIRCULAR_EXAMPLES])
        )
        return counts.after(**self._dropped_details)

    def _parts(self) -> Iterator[tuple[pa.Table, pa.Table, pa.Table | None]]:
        """Names sorted and cut between concepts; the data of just these concepts; with the first part, all retired identifiers."""
        from tqdm import tqdm

        retired = pa.concat_tables(self._retired).group_by(RETIRED_SCHEMA.names).aggregate([])
        ordered, others = (LookAhead(rows, _NAMES, _KEY) for rows in self._names.read())
        concepts = [LookAhead(rows, _CONCEPTS, _KEY) for rows in self._concepts.read()]
        with tqdm(
            total=self.names_added, unit="name", unit_scale=True, desc="writing", disable=None, leave=False
        ) as bar:
            for leading, following in ((ordered, [others]), (others, [])):
                while part := leading.next_rows(self._names_per_part):
                    last = part[_KEY][-1].as_py()
                    names = pa.concat_tables([part, *(rows.up_to(last) for rows in following)])
                    bar.update(names.num_rows)
                    yield names, pa.concat_tables([rows.up_to(last) for rows in concepts]), retired
                    retired = None


def _merged(rows: "ExternalSort", rows_per_part: int) -> Iterator[pa.Table]:
    """All rows in parts that are cut between keys."""
    one, other = (LookAhead(tables, rows.schema, _KEY) for tables in rows.read())
    for leading, following in ((one, [other]), (other, [])):
        while part := leading.next_rows(rows_per_part):
            yield pa.concat_tables([part, *(rows.up_to(part[_KEY][-1].as_py()) for rows in following)])


class ExternalSort:
    """Rows of one schema on disk: those that came in the order of the key, and the others, which are sorted when they are read.

    Args:
        path: Path of the temporary files, without suffix.
        schema: The rows' schema.
        key: A column of strings without nulls.
        max_memory: Bytes that DuckDB may take.
        max_unsorted: Rows out of order that are sorted in memory, without DuckDB.
        rows_per_batch: Rows that are written and read at a time.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        key: str,
        max_memory: int,
        max_unsorted: int = 300_000,
        *,
        rows_per_batch: int = 50_000,
    ) -> None:
        self._path, self.schema, self._key, self._max_memory = path, schema, key, max_memory
        self._max_unsorted, self._rows_per_batch = max_unsorted, rows_per_batch
        self._last_key = ""
        self._ordered: pa.ipc.RecordBatchFileWriter | None = None
        self._unsorted: list[pa.Table] = []
        self._database: Any = None

    def add(self, rows: pa.Table) -> None:
        """Take some rows. Raises ConfigError if sorting needs more memory than it may take."""
        if not rows.num_rows:
            return
        keys = rows[self._key].combine_chunks()
        if keys[0].as_py() >= self._last_key and pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py() is not False:
            if self._ordered is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._ordered = pa.ipc.new_file(self._path.with_suffix(".arrow"), self.schema, options=options)
            self._ordered.write_table(rows, max_chunksize=self._rows_per_batch)
            self._last_key = keys[-1].as_py()
            return
        self._unsorted.append(rows)
        if sum(part.num_rows for part in self._unsorted) > self._max_unsorted:
            self._insert()

    def read(self) -> tuple[Iterator[pa.Table], Iterator[pa.Table]]:
        """The rows that came in order, and the others, each sorted by the key."""
        return self._read_ordered(), self._read_others()

    def close(self) -> None:
        """Close the temporary files."""
        if self._ordered is not None:
            self._ordered.close()
        if self._database is not None:
            self._database.close()

    def _insert(self) -> None:
        """Move the unsorted rows from memory to DuckDB."""
        if self._database is None:
            self._open()
        self._database.register("part", pa.concat_tables(self._unsorted))
        with self._memory_errors():
            self._database.execute("INSERT INTO others SELECT * FROM part")
        self._database.unregister("part")
        self._unsorted = []

    def _open(self) -> None:
        import duckdb

        limits = {"memory_limit": f"{self._max_memory}B", "temp_directory": str(self._path.parent)}
        self._database = duckdb.connect(self._path.with_suffix(".duckdb"), config=limits)
        self._database.execute("PRAGMA disable_checkpoint_on_shutdown")  # the file is removed anyway
        self._database.register("empty", self.schema.empty_table())
        self._database.execute("CREATE TABLE others AS SELECT * FROM empty")

    def _read_ordered(self) -> Iterator[pa.Table]:
        if self._ordered is not None:
            self._ordered.close()
            with pa.OSFile(str(self._path.with_suffix(".arrow"))) as file, pa.ipc.open_file(file) as reader:
                for number in range(reader.num_record_batches):
                    yield pa.Table.from_batches([reader.get_batch(number)])

    def _read_others(self) -> Iterator[pa.Table]:
        if self._database is None:
            if self._unsorted:
                yield pa.concat_tables(self._unsorted).sort_by(self._key)
            return
        if self._unsorted:
            self._insert()
        with self._memory_errors():
            rows = self._database.sql(f"SELECT * FROM others ORDER BY {self._key}")
            for batch in rows.to_arrow_reader(self._rows_per_batch):
                yield pa.Table.from_batches([batch]).cast(self.schema)

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException:
            raise ConfigError(
                f"sorting needs more memory than the {self._max_memory:,} bytes it may take; allow more with --max-memory"
            ) from None


class LookAhead:
    """Sorted rows, taken piece by piece. tables: the rows, of the schema, sorted by the key."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema, key: str) -> None:
        self._tables, self._key, self._held, self._done = tables, key, [schema.empty_table()], False

    def next_rows(self, at_least: int) -> pa.Table | None:
        """The next rows, cut between two keys: `at_least` of them, or all that are left; None if there are none."""
        while not self._done:
            rows = pa.concat_tables(self._held)
            cut = pc.index(rows[self._key], rows[self._key][-1]).as_py() if rows.num_rows else 0
            if cut >= at_least:
                self._held = [rows.slice(cut)]
                return rows.slice(0, cut)
            self._pull(at_least)
        rows = pa.concat_tables(self._held)
        self._held = [rows.slice(rows.num_rows)]
        return rows if rows.num_rows else None

    def up_to(self, last: str) -> pa.Table:
        """The rows not taken yet whose key is at most `last`."""
        while not self._done and (not self._held[-1].num_rows or self._held[-1][self._key][-1].as_py() <= last):
            self._pull(1)
        rows = pa.concat_tables(self._held)
        fits = pc.sum(pc.less_equal(rows[self._key], last)).as_py() or 0
        self._held = [rows.slice(fits)]
        return rows.slice(0, fits)

    def _pull(self, at_least: int) -> None:
        """Hold at least so many rows more, if there are any."""
        pulled = 0
        while pulled < at_least and not self._done:
            rows = next(self._tables, None)
            self._done = rows is None
            if rows is not None:
                self._held.append(rows)
                pulled += rows.num_rows
