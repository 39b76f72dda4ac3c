"""The file of a review: an SQLite database with a format of its own, made complete or not at all, and changed in transactions.

Committed transactions are on disk (write-ahead log, synchronous=FULL). Several processes may have the file open; on a network drive they
can't, for SQLite's write-ahead log needs memory that they share (https://www.sqlite.org/wal.html).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from xsap.atomic import fsync_path, temporary_name
from xsap.errors import DataError
from xsap.output_paths import check_output_path

STORE_FORMAT = 1
_APPLICATION_ID = 0x78736170  # "xsap", in the header of the file
_SCHEMA = """
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE terms (
    term INTEGER PRIMARY KEY, code TEXT NOT NULL, name TEXT NOT NULL, language TEXT NOT NULL, frequency INTEGER,
    columns TEXT NOT NULL, candidates TEXT NOT NULL, proposal TEXT NOT NULL, score REAL, confidence REAL,
    created_by TEXT NOT NULL, created_on INTEGER NOT NULL, assigned TEXT NOT NULL, UNIQUE (code, name));
CREATE TABLE searched (term INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE state (
    term INTEGER PRIMARY KEY, position INTEGER NOT NULL, language TEXT NOT NULL, domain TEXT NOT NULL, matched TEXT NOT NULL,
    candidates INTEGER NOT NULL, frequency INTEGER NOT NULL, score REAL NOT NULL, confidence REAL NOT NULL, margin REAL NOT NULL,
    status TEXT NOT NULL, reviewer TEXT NOT NULL, confirmer TEXT NOT NULL, decision INTEGER NOT NULL, effective INTEGER NOT NULL);
CREATE INDEX state_position ON state (position);
CREATE INDEX state_frequency ON state (frequency, position);
CREATE INDEX state_confidence ON state (confidence, position);
CREATE INDEX state_margin ON state (margin, position);
CREATE INDEX state_facets ON state (status, language, domain, matched, candidates, reviewer, confirmer, confidence, margin);
CREATE TABLE actions (
    action INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, done_by TEXT NOT NULL, done_on INTEGER NOT NULL, undoes INTEGER);
CREATE TABLE decisions (
    decision INTEGER PRIMARY KEY AUTOINCREMENT, action INTEGER NOT NULL, term INTEGER NOT NULL, previous INTEGER NOT NULL,
    effective INTEGER NOT NULL, status TEXT NOT NULL, equivalence TEXT NOT NULL, targets TEXT NOT NULL, comment TEXT NOT NULL,
    decided_by TEXT NOT NULL, decided_on INTEGER NOT NULL, confirmed_by TEXT NOT NULL, confirmed_on INTEGER NOT NULL);
CREATE INDEX decisions_of_term ON decisions (term, decision);
CREATE INDEX decisions_of_action ON decisions (action);
CREATE INDEX undone_actions ON actions (undoes) WHERE undoes IS NOT NULL;
CREATE TRIGGER decisions_stay BEFORE UPDATE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions are never changed'); END;
CREATE TRIGGER decisions_are_kept BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'decisions are never removed'); END;
"""


def open_review_file(path: Path, *, new: bool = False) -> sqlite3.Connection:
    """Open a review's file.

    Args:
        path: The file.
        new: Whether it is made here.

    Raises:
        DataError: It is missing, or is no review.
    """
    if not new and not path.is_file():
        raise DataError(f"{path}: expected the file of a review, found nothing there. Is the path right?")
    with readable(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        try:
            if new:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {STORE_FORMAT}")
                connection.executescript(_SCHEMA)
            _check_format(connection, path)
            for pragma in ("synchronous = FULL", "cache_size = -32768", "temp_store = MEMORY"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
    return connection


def _check_format(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise DataError(f"{path}: expected the file of a review, found another SQLite file. Is the path right?")
    if version != STORE_FORMAT:
        raise DataError(
            f"{path}: expected a review of format {STORE_FORMAT}, found format {version}; open it with the xsap that made it"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file that it can't read or write into a DataError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(
            f"{path}: the review can't be read or written: {error}. Is it open elsewhere, or the disk full?"
        ) from None
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: expected the file of a review, found one that SQLite can't read ({error})") from None


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that the block writes, or nothing if it raises. Other processes that want to write wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def new_store(path: Path) -> Iterator[sqlite3.Connection]:
    """A new review that appears at `path` complete, or not at all."""
    check_output_path(path, "a file")
    aside = temporary_name(path.absolute())
    try:
        with closing(open_review_file(aside, new=True)) as connection:
            yield connection
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fsync_path(aside)
        aside.replace(path)
        fsync_path(path.absolute().parent)
    finally:
        for name in (aside.name, f"{aside.name}-wal", f"{aside.name}-shm"):
            aside.with_name(name).unlink(missing_ok=True)
