"""Opens the index at a start, also on a full disk, and looks in the background whether it is sound.

What an open index does is `index`'s affair. A damaged one is not mended here: reads go on as far as they
can, writing ends, since an index that loses rows loses debts, and people are told what to do.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from failover.archive import kept_metadata
from failover.archive.index import Index
from failover.archive.reserve import Reserve
from failover.clock import Clock
from failover.errors import DiskFull, StateUnreadable, StorageError

_log = structlog.get_logger(__name__)

# Some 20 GB from a disk that reads 100 MB/s. What is not looked at by then is looked at at the next start.
CHECK_LIMIT_S: Final = 300.0
# SQLite asks so often whether to go on: some hundred times a second.
_STEPS_BETWEEN: Final = 100_000
# Less than that is no room to open an index.
_NEEDED_BYTES: Final = 2**20


def open_index(data_dir: Path, *, has_primary: bool) -> Index:
    """Return the index in `data_dir`; on a full disk the room that was kept for it is given up.

    Raises StateUnreadable, DiskFull, StorageError.
    """
    reserve = Reserve(data_dir)
    try:
        return Index(data_dir, has_primary=has_primary)
    except (StateUnreadable, StorageError):
        if not data_dir.is_dir() or reserve.free_bytes() >= _NEEDED_BYTES:
            raise
        _log.error("the disk is full: the index cannot be opened as it is", free_bytes=reserve.free_bytes())
        if not reserve.give_up():
            kept_metadata.forget_files(data_dir)
    try:
        return Index(data_dir, has_primary=has_primary)
    except (StateUnreadable, StorageError) as error:
        raise DiskFull(
            f"{data_dir}: the disk is full, and the index needs a megabyte to be opened"
        ) from error


@dataclass(frozen=True, slots=True)
class Soundness:
    """`damage` is what SQLite says of the first damage; None: none was found. `whole`: all was looked at.

    `unread`: what it says of a disk that did not give something back, this time.
    """

    damage: str | None
    whole: bool
    unread: str | None = None


def look_through(path: Path, clock: Clock, *, limit_s: float = CHECK_LIMIT_S) -> Soundness:
    """Look whether the index at `path` is sound, table by table, small ones first. Blocks; for a thread.

    On a connection of its own that only reads, for at most `limit_s` seconds.
    """
    ends_s = clock.monotonic() + limit_s
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.set_progress_handler(lambda: int(clock.monotonic() >= ends_s), _STEPS_BETWEEN)
        names = [
            str(row[0])
            for row in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
                " ORDER BY name IN ('instances', 'series', 'studies'), name"
            )
        ]
        for name in names:
            found = str(connection.execute(f'PRAGMA quick_check("{name}")').fetchone()[0])
            if found != "ok":
                return Soundness(found.splitlines()[0], whole=False)
        return Soundness(None, whole=True)
    except sqlite3.DatabaseError as error:
        return Soundness(
            str(error) if is_damage(error) else None,
            whole=False,
            unread=str(error) if is_unread(error) else None,
        )
    finally:
        connection.close()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is not what it was."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    lost = (sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA)
    return code in lost or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unread(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the disk failed: it may do so once."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF == sqlite3.SQLITE_IOERR and not is_damage(error)
