"""The replicator's SQLite file: its tables, how it is opened and written. What stands in it is for others.

Losing it costs a new inventory and a new recheck, not the debt: that is in the archive's ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from failover.durable import make_folder
from failover.errors import StorageError

_log = structlog.get_logger(__name__)
_VERSION: Final = 3
_SCHEMA: Final = """
CREATE TABLE study (
    study_instance_uid TEXT PRIMARY KEY,
    study_date TEXT NOT NULL,
    study_time TEXT NOT NULL,
    facts TEXT NOT NULL,             -- the primary's, as JSON
    instances INTEGER,               -- on the primary; NULL: not counted yet
    counted INTEGER NOT NULL,        -- 1: by its search, 0: by our looks, because its search has no count
    held INTEGER NOT NULL,           -- in the archive
    missing INTEGER NOT NULL,        -- of the primary's, not in the archive
    evicted INTEGER NOT NULL,        -- 1: what is missing was left out for space
    need INTEGER NOT NULL,           -- reconcile.Need: what is still to be fetched
    stood_s REAL NOT NULL,           -- how long the primary's count has stood
    brought_facts TEXT,              -- facts when the whole was last fetched
    looked_primary INTEGER,          -- counts at which nothing was missing, instance by instance
    looked_archive INTEGER,
    looked_missing INTEGER,
    looked_at_s REAL NOT NULL DEFAULT 0,  -- stood_s at that look
    vanished INTEGER NOT NULL DEFAULT 0   -- 1: the last comparison missed it, 2: and that has been judged
) WITHOUT ROWID;
CREATE INDEX study_by_date ON study (study_date, study_time);
CREATE INDEX study_by_need ON study (need, study_date, study_time);
CREATE TABLE day (study_date TEXT PRIMARY KEY, sweep INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE refusal (
    sop_instance_uid TEXT PRIMARY KEY,
    times INTEGER NOT NULL,
    others_taken INTEGER NOT NULL,
    status INTEGER
) WITHOUT ROWID;
CREATE TABLE gone (                  -- what the primary does not show any more, until it is judged
    sop_instance_uid TEXT PRIMARY KEY,
    study_instance_uid TEXT NOT NULL,
    seen INTEGER NOT NULL,           -- 1: by the last comparison
    of_objects INTEGER NOT NULL DEFAULT 1,  -- that the primary must have of this study
    since REAL NOT NULL DEFAULT 0    -- seconds since 1970
) WITHOUT ROWID;
"""
# From each older version to the next one; what is older than these is begun anew.
_UPGRADES: Final = {
    2: """
ALTER TABLE gone ADD COLUMN of_objects INTEGER NOT NULL DEFAULT 1;
ALTER TABLE gone ADD COLUMN since REAL NOT NULL DEFAULT 0;
""",
}
# Full, failing, read-only, in another's hands: nothing that a new file would mend.
_NOT_OF_THE_FILE: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
)


def open_inventory_file(path: Path) -> sqlite3.Connection:
    """Open the file, or begin a new one where it holds something else.

    Raises StorageError when the disk is at fault, or another process has it: what is in it stays.
    """
    try:
        make_folder(path.parent)
        try:
            return _open(path)
        except sqlite3.DatabaseError as error:
            if _of_the_disk(error):
                raise
            _log.warning("inventory cannot be read, a new one begins", error=str(error))
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return _open(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path}: cannot be opened: {error}") from error


def _of_the_disk(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_OF_THE_FILE


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            version = _VERSION
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {version}; COMMIT;")
        while version in _UPGRADES:
            db.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;")
            version += 1
        if version != _VERSION:
            raise sqlite3.DatabaseError(f"version {version}, this program writes {_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


class Transaction:
    """BEGIN … COMMIT, or ROLLBACK when the block raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            # A full disk: SQLite has rolled back by itself, or has left that to us; the next one must begin.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def marks(items: Sequence[Any]) -> str:
    """Return a question mark for each."""
    return ", ".join("?" * len(items))


def parts(items: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    """Return `items` in pieces: SQLite allows 999 variables in old builds."""
    return (items[start : start + size] for start in range(0, len(items), size))
