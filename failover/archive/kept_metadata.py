"""Finished metadata of objects, kept so that an object is parsed once and not at each request.

A file of its own beside the index: all of it can be made again, so nothing here is synced, and a file that
cannot be read is made anew. Keyed by the digest of the object's content, which never changes.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

_log = structlog.get_logger(__name__)
NAME: Final = "metadata.sqlite"
# Some 5 KB an object, a fifth of that compressed: half a million objects. Beyond it the oldest go.
MAX_BYTES: Final = 512 * 2**20
_SIZE: Final = 4096


class KeptMetadata:
    """For one thread. `close` it last."""

    def __init__(self, data_dir: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._max_pages = max(16, max_bytes // _SIZE)
        path = data_dir / NAME
        try:
            self._connection = _open(f"file:{path}")
        except sqlite3.DatabaseError:
            _log.warning("kept metadata cannot be read: it is made anew")
            self._connection = _made_anew(path)

    def close(self) -> None:
        self._connection.close()

    def get(self, digests: Sequence[bytes]) -> dict[bytes, bytes]:
        """Return what is kept of these objects."""
        found: dict[bytes, bytes] = {}
        with contextlib.suppress(sqlite3.DatabaseError, zlib.error):
            for digest in digests:
                row = self._connection.execute(
                    "SELECT json FROM metadata WHERE digest = ?", (digest,)
                ).fetchone()
                if row is not None:
                    found[digest] = zlib.decompress(row[0])
        return found

    def keep(self, made: Mapping[bytes, bytes]) -> None:
        """Keep these; a full disk or a broken file only means that they are made again."""
        try:
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "INSERT OR IGNORE INTO metadata (digest, json) VALUES (?, ?)",
                [(digest, zlib.compress(text, 1)) for digest, text in made.items()],
            )
            self._connection.execute("COMMIT")
            self._forget_oldest()
        except sqlite3.DatabaseError as error:
            with contextlib.suppress(sqlite3.DatabaseError):
                self._connection.execute("ROLLBACK")
            _log.warning("metadata not kept", error=type(error).__name__)

    def forget_all_but(self, index: Path) -> None:
        """Forget what the index at `index` does not hold any more: it may name patients."""
        try:
            self._connection.execute("ATTACH ? AS held", (f"file:{index}?mode=ro",))
            self._connection.execute(
                "DELETE FROM metadata WHERE digest NOT IN (SELECT digest FROM held.instances)"
            )
            self._connection.execute("DETACH held")
        except sqlite3.DatabaseError as error:
            _log.warning("old metadata not forgotten", error=type(error).__name__)

    def _forget_oldest(self) -> None:
        (used,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if used - free > self._max_pages:
            self._connection.execute(
                "DELETE FROM metadata WHERE id <= (SELECT min(id) + (max(id) - min(id)) / 10 FROM metadata)"
            )


def forget_files(data_dir: Path) -> int:
    """Remove all that is kept, before any of it is opened; return how many bytes that were."""
    freed = 0
    for end in ("", "-wal", "-shm"):
        path = data_dir / (NAME + end)
        if path.exists():
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed


def _made_anew(path: Path) -> sqlite3.Connection:
    try:
        forget_files(path.parent)
        return _open(f"file:{path}")
    except (OSError, sqlite3.DatabaseError) as error:
        # The disk is full or cannot be written. What can be made again keeps nobody from reading.
        _log.warning("metadata is kept in memory alone", error=type(error).__name__)
        return _open("file::memory:")


def _open(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA page_size = {_SIZE}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is not left readable in the file
    connection.execute(
        "CREATE TABLE IF NOT EXISTS metadata (id INTEGER PRIMARY KEY, digest BLOB UNIQUE, json BLOB)"
    )
    connection.execute("SELECT count(*) FROM (SELECT 1 FROM metadata LIMIT 1)").fetchone()
    return connection
