"""Rows in, in whatever order; out, in the order of a key. What comes in order already is only set aside; the rest DuckDB sorts.

Most big sources are sorted by concept (MRCONSO is), so most rows never need sorting, and DuckDB is not even loaded where few do. It
sorts in so much memory, and beyond that on disk.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xsap.errors import ConfigError

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

    def __init__(self, place: Path, schema: pa.Schema, key: str, memory: str) -> None:
        self._place, self._schema, self._key, self._memory = place, schema, key, memory
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
            raise ConfigError(f"sorting needs more memory than the {self._memory} it may take; allow more with --memory") from None


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
