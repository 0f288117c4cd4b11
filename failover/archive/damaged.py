"""What the disk does not give back as it was kept: found by its digest, set aside, told.

A damaged file goes to quarantine and its object is shown no more, so that nobody reads a wrong image, and no
wrong one gets a digest that is right. When a file is looked at is `scrubber`'s and `compressor`'s affair.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Final

import structlog

from failover.archive import paths, rows
from failover.archive.index import Index
from failover.archive.troubles import Trouble, Troubles
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.durable import make_folder, move_into_place, place
from failover.metrics import ArchiveMetrics

_log = structlog.get_logger(__name__)
DAMAGED: Final = "damaged"
_CHUNK_BYTES: Final = 2**20
# A cable, a controller or a memory cell errs once; what a disk has lost it has lost five seconds later too.
AGAIN_AFTER_S: Final = 5.0
# Objects of which a file is in quarantine, and that may not have come again.
_SET_ASIDE: Final = (
    "SELECT DISTINCT i.path FROM quarantine q JOIN instances i ON i.uid = q.uid"
    " WHERE q.reason = 'damaged' AND i.hidden = 1 AND i.state <> 'deleted'"
)


class Damaged:
    """One per archive."""

    def __init__(
        self, data_dir: Path, index: Index, metrics: ArchiveMetrics, clock: Clock, troubles: Troubles
    ) -> None:
        self._data_dir = data_dir
        self._index = index
        self._metrics = metrics
        self._clock = clock
        self._troubles = troubles

    async def is_whole(self, row: sqlite3.Row, bytes_s: float = float("inf")) -> bool:
        """Return whether the file of `row` is what was kept; one that is not, twice over, is set aside.

        Read from the disk, at most `bytes_s` a second. Raises FileNotFoundError, OSError, StorageError.
        """
        if await self._digest(row, bytes_s) == row["digest"]:
            return True
        await self._clock.sleep(AGAIN_AFTER_S)
        digest = await self._digest(row, bytes_s)
        if digest == row["digest"]:
            _log.warning("an object was read wrongly once: look at the disk")
            return True
        if await self._index.write(lambda transaction: self._set_aside(transaction, row, digest)):
            self._metrics.damaged.inc()
            _log.error("an object is damaged: it is in quarantine", state=row["state"])
            await self.tell()
        return False

    async def tell(self) -> None:
        """Tell whether damaged objects are not here again."""
        found = await asyncio.to_thread(self._are_away)
        what = (
            "objects were damaged on the disk and are not shown: see `failover quarantine`. What the primary"
            " has is fetched again by itself; look at the disk"
        )
        self._troubles.tell(Trouble.OBJECTS_DAMAGED, what if found else None)

    def _are_away(self) -> bool:
        found = self._index.reader().execute(_SET_ASIDE).fetchall()
        return any(not (self._data_dir / row["path"]).exists() for row in found)

    async def _digest(self, row: sqlite3.Row, bytes_s: float) -> bytes:
        """Return the file's digest; nothing when the disk does not give it back."""
        found = hashlib.sha256(row["transfer_syntax"].encode("ascii") + b"\0")
        descriptor = await asyncio.to_thread(_open, self._data_dir / row["path"])
        try:
            position = int(row["data_set_offset"])
            while True:
                read = await asyncio.to_thread(_read, descriptor, position, found)
                if not read:
                    return found.digest()
                position += read
                if read == _CHUNK_BYTES:
                    await self._clock.sleep(_CHUNK_BYTES / bytes_s)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""
        finally:
            os.close(descriptor)

    def _set_aside(self, transaction: Transaction, seen: sqlite3.Row, digest: bytes) -> bool:
        """Move the file to quarantine and show the object no more. False: it is another file by now."""
        connection = transaction.connection
        held = connection.execute(
            "SELECT i.*, t.uid AS study_uid FROM instances i JOIN studies t ON t.id = i.study WHERE i.id = ?",
            (seen["id"],),
        ).fetchone()
        if held is None or (held["path"], held["digest"]) != (seen["path"], seen["digest"]):
            return False
        target = paths.quarantine_path(held["uid"], b"damaged" + held["digest"])
        make_folder(self._data_dir / paths.QUARANTINE)
        # Renamed before the row is committed: a kill between leaves a row without a file, which the janitor
        # shows no more.
        move_into_place(self._data_dir / held["path"], self._data_dir / target, sync=False)
        transaction.undo.append(lambda: place(self._data_dir / target, self._data_dir / held["path"]))
        connection.execute(
            "INSERT OR REPLACE INTO quarantine (uid, study_uid, path, digest, bytes, reason, caller, origin,"
            " arrived_at) VALUES (?,?,?,?,?,?,'',?,?)",
            (held["uid"], held["study_uid"], target, digest, held["bytes"], DAMAGED, held["origin"],
             self._clock.wall().timestamp()),
        )  # fmt: skip
        rows.hide_instance(transaction, held, hidden=True)
        return True


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    # What the memory holds says nothing of the disk.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def _read(descriptor: int, position: int, found: hashlib._Hash) -> int:
    chunk = os.pread(descriptor, _CHUNK_BYTES, position)
    found.update(chunk)
    # What nobody reads must not push out of memory what people do.
    os.posix_fadvise(descriptor, position, len(chunk), os.POSIX_FADV_DONTNEED)
    return len(chunk)
