"""Rows in, in whatever order; out, in the order of a key. What comes in order already is only set aside; the rest DuckDB sorts.

Most big sources are sorted by concept (MRCONSO is), so most rows never need sorting, and DuckDB is not even loaded where few do. It
sorts in so much memory, and beyond that on disk.

Rows from any reader, in any order and more than memory holds → a terminology folder.

A terminology's rules look at one concept at a time (`Terminology.build`). So rows only need to be brought together by concept: parts of
some ten thousand rows, cut where a concept ends, are built one by one and written in order. What comes out does not depend on the order
of the rows, nor on where the parts are cut.
"""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.accounting import Summary
from xsap.artifacts import check_can_write
from xsap.errors import ConfigError
from xsap.files import RowCounts, prefetch_map
from xsap.terms.terminology import (
    CONCEPTS_SCHEMA,
    NAMES_SCHEMA,
    PRECEDENCE,
    RETIRED_SCHEMA,
    Terminology,
    write_terminology,
)

_BATCH = 50_000  # rows
_FEW = 300_000  # rows out of order that are sorted in memory, without DuckDB
_AMOUNT = re.compile(r"\d+(\.\d+)?\s*[kmgt]i?b", re.IGNORECASE)


def check_memory(text: str) -> None:
    """Raise ConfigError unless this is an amount of memory such as 2GB."""
    if not _AMOUNT.fullmatch(text.strip()):
        raise ConfigError(f"expected an amount of memory such as 2GB, found '{text}'")


class InOrder:
    """Rows of one schema, kept on disk. A run: rows that came in order; the others, wherever they came.

    place: of its files, without an ending. key: a column of strings without nulls.
    """

    def __init__(self, place: Path, schema: pa.Schema, key: str, max_memory: str) -> None:
        self._place, self._schema, self._key, self._memory = place, schema, key, max_memory
        self._last = ""
        self._run: pa.ipc.RecordBatchFileWriter | None = None
        self._few: list[pa.Table] = []
        self._database: Any = None

    def add(self, rows: pa.Table) -> None:
        """Take some rows. Raises ConfigError when the memory is too little to take them."""
        if not rows.num_rows:
            return
        ids = rows[self._key].combine_chunks()
        if ids[0].as_py() >= self._last and pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py() is not False:
            if self._run is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._run = pa.ipc.new_file(self._place.with_suffix(".arrow"), self._schema, options=options)
            self._run.write_table(rows, max_chunksize=_BATCH)
            self._last = ids[-1].as_py()
            return
        self._few.append(rows)
        if sum(part.num_rows for part in self._few) > _FEW:
            self._insert()

    def read(self) -> tuple[Iterator[pa.Table], Iterator[pa.Table]]:
        """The run, and the others, each in the order of the key."""
        return self._read_run(), self._read_others()

    def close(self) -> None:
        """Let go of the files."""
        if self._run is not None:
            self._run.close()
        if self._database is not None:
            self._database.close()

    def _insert(self) -> None:
        """Hand the few over to DuckDB."""
        if self._database is None:
            self._open()
        self._database.register("part", pa.concat_tables(self._few))
        with self._enough_memory():
            self._database.execute("INSERT INTO others SELECT * FROM part")
        self._database.unregister("part")
        self._few = []

    def _open(self) -> None:
        import duckdb

        limits = {"memory_limit": self._memory, "temp_directory": str(self._place.parent)}
        self._database = duckdb.connect(self._place.with_suffix(".duckdb"), config=limits)
        self._database.execute("PRAGMA disable_checkpoint_on_shutdown")  # what is left goes away
        self._database.register("empty", self._schema.empty_table())
        self._database.execute("CREATE TABLE others AS SELECT * FROM empty")

    def _read_run(self) -> Iterator[pa.Table]:
        if self._run is not None:
            self._run.close()
            with pa.OSFile(str(self._place.with_suffix(".arrow"))) as file, pa.ipc.open_file(file) as run:
                for number in range(run.num_record_batches):
                    yield pa.Table.from_batches([run.get_batch(number)])

    def _read_others(self) -> Iterator[pa.Table]:
        if self._database is None:
            if self._few:
                yield pa.concat_tables(self._few).sort_by(self._key)
        else:
            if self._few:
                self._insert()
            with self._enough_memory():
                for batch in self._database.sql(f"SELECT * FROM others ORDER BY {self._key}").to_arrow_reader(_BATCH):
                    yield pa.Table.from_batches([batch]).cast(self._schema)

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        import duckdb

        try:
            yield
        except duckdb.OutOfMemoryException:
            raise ConfigError(
                f"sorting needs more memory than the {self._memory} it may take; allow more with --max-memory"
            ) from None


class Ahead:
    """Sorted rows that are asked for piece by piece."""

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema, key: str) -> None:
        self._tables, self._key, self._held, self._done = tables, key, [schema.empty_table()], False

    def some(self, least: int) -> pa.Table | None:
        """The next rows, cut between two keys: `least` of them or some more, or all that are left; None if there are none."""
        while not self._done:
            rows = pa.concat_tables(self._held)
            cut = pc.index(rows[self._key], rows[self._key][-1]).as_py() if rows.num_rows else 0
            if cut >= least:
                self._held = [rows.slice(cut)]
                return rows.slice(0, cut)
            self._pull(least)
        rows = pa.concat_tables(self._held)
        self._held = [rows.slice(rows.num_rows)]
        return rows if rows.num_rows else None

    def until(self, last: str) -> pa.Table:
        """The rows not yet given out whose key is at most `last`."""
        while not self._done and (not self._held[-1].num_rows or self._held[-1][self._key][-1].as_py() <= last):
            self._pull(1)
        rows = pa.concat_tables(self._held)
        fits = pc.sum(pc.less_equal(rows[self._key], last)).as_py() or 0
        self._held = [rows.slice(fits)]
        return rows.slice(0, fits)

    def _pull(self, least: int) -> None:
        """Hold at least so many rows more, if there are any."""
        held = 0
        while held < least and not self._done:
            rows = next(self._tables, None)
            self._done = rows is None
            if rows is not None:
                self._held.append(rows)
                held += rows.num_rows


MEMORY = "1GB"
_PART = 100_000  # rows of names that are built at a time
_KEY = "concept_id"
_LISTS = CONCEPTS_SCHEMA.names[2:]
_NAMES = NAMES_SCHEMA.append(pa.field(PRECEDENCE, pa.int32(), nullable=False))
_CONCEPTS = pa.schema([CONCEPTS_SCHEMA.field(0), *(CONCEPTS_SCHEMA.field(name) for name in _LISTS)])


class Assembly:
    """Takes rows and, at the end, writes them as a terminology. A context: on leaving it, its temporary files are gone.

    memory: what sorting may take before it goes to disk, such as "2GB"; all else takes some hundred megabytes beside it. Raises
    ConfigError for what is no amount of memory.
    """

    def __init__(self, max_memory: str = MEMORY) -> None:
        check_memory(max_memory)
        self._folder = Path(tempfile.mkdtemp(prefix="xsap-prepare-"))
        self._names = InOrder(self._folder / "names", _NAMES, _KEY, max_memory)
        self._concepts = InOrder(self._folder / "concepts", _CONCEPTS, _KEY, max_memory)
        self._retired = [RETIRED_SCHEMA.empty_table()]
        self.taken = 0

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._names.close()
        self._concepts.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_names(self, rows: pa.Table) -> None:
        """Take names: the columns of NAMES_SCHEMA, and `precedence` if there is one. Names are normalized already."""
        if PRECEDENCE not in rows.column_names:
            rows = rows.append_column(PRECEDENCE, pa.repeat(pa.scalar(0, pa.int32()), rows.num_rows))
        self._names.add(rows.select(_NAMES.names).cast(_NAMES))
        self.taken += rows.num_rows

    def add_concepts(self, rows: pa.Table) -> None:
        """Take facts of concepts: concept_id, and semantic_types or cross_references (lists) or both. A concept may stand in many rows."""
        for name in _LISTS:
            if name not in rows.column_names:
                empty = pa.array([[]], pa.list_(pa.string()))
                rows = rows.append_column(name, empty.take(pa.repeat(0, rows.num_rows)))
        self._concepts.add(rows.select(_CONCEPTS.names).cast(_CONCEPTS))

    def add_retired(self, rows: pa.Table) -> None:
        """Take identifiers that are no longer in use: RETIRED_SCHEMA."""
        self._retired.append(rows.select(RETIRED_SCHEMA.names).cast(RETIRED_SCHEMA))

    def save(
        self, out: Path, counts: RowCounts, metadata: dict[str, Any], *, overwrite: bool = False
    ) -> tuple[Summary, RowCounts]:
        """Write the folder, at once or not at all → what it holds, and `counts` after what is dropped here.

        tally.kept must be the names taken. Raises DataError if there is no name, ArtifactError if `out` is taken.
        """
        assert counts.kept == self.taken, f"a reader kept {counts.kept} names and handed over {self.taken}"
        check_can_write(out, overwrite=overwrite, kind="terminology")
        summary, dropped = Summary(), Counter[str]()
        with write_terminology(out, metadata, overwrite=overwrite) as write:
            for _, (part, again) in prefetch_map(
                lambda tables: Terminology.build(tables[0], tables[1], retired=tables[2]), self._parts()
            ):
                write(part)
                summary += Summary.of(part)
                dropped += again
        return summary, counts.then(summary.names, dropped)

    def _parts(self) -> Iterator[tuple[pa.Table, pa.Table, pa.Table | None]]:
        """Names in the order of their concepts, cut between concepts; the facts of just these concepts; with the first, all retired."""
        from tqdm import tqdm

        retired = pa.concat_tables(self._retired).group_by(RETIRED_SCHEMA.names).aggregate([])

        run, others = (Ahead(rows, _NAMES, _KEY) for rows in self._names.read())
        metadata = [Ahead(rows, _CONCEPTS, _KEY) for rows in self._concepts.read()]
        with tqdm(total=self.taken, unit="name", unit_scale=True, desc="writing", disable=None, leave=False) as bar:
            for leading, following in ((run, [others]), (others, [])):
                while part := leading.some(_PART):
                    last = part[_KEY][-1].as_py()
                    names = pa.concat_tables([part, *(rows.until(last) for rows in following)])
                    bar.update(names.num_rows)
                    yield names, pa.concat_tables([rows.until(last) for rows in metadata]), retired
                    retired = None
