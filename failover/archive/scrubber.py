"""Reads every object again within a set period and compares it with its digest: disks forget silently.

A damaged file goes to quarantine and its object is shown no more, so that nobody reads a wrong image. Its row
and its debt stay: the replicator misses it and brings it from the primary, a caller may send it again, and
either puts it back. Bounded: one object at a time, never faster than 8 MiB/s, spread over the period.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from failover.archive import paths, rows
from failover.archive.index import Index
from failover.archive.troubles import Trouble, Troubles
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.durable import make_folder, move_into_place, place
from failover.errors import StorageError
from failover.metrics import ArchiveMetrics

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

DAMAGED: Final = "damaged"
# A reading day must not feel it: a disk gives twenty times as much.
MOST_BYTES_S: Final = 8 * 2**20
_CHUNK_BYTES: Final = 2**20
# A small archive is read through in its first hours and rests for the remainder of the period.
_LONGEST_REST_S: Final = 60.0
# How far it is, is written down so often; a restart reads at most so many seconds of work again.
_WRITTEN_EVERY_S: Final = 300.0
_NEXT: Final = "SELECT * FROM instances WHERE id > ? AND state <> 'deleted' ORDER BY id LIMIT 1"
# Objects of which a file is in quarantine, and that may not have come again.
_SET_ASIDE: Final = (
    "SELECT DISTINCT i.path FROM quarantine q JOIN instances i ON i.uid = q.uid"
    " WHERE q.reason = 'damaged' AND i.hidden = 1 AND i.state <> 'deleted'"
)


@dataclass(frozen=True, slots=True)
class Round:
    """How far the present round is. `began` is Unix time, `after` the row of the last object looked at."""

    began: float
    after: int = 0
    left: int = 0
    over: bool = False


def rest_s(round_: Round, now: float, period_s: float, size_bytes: int) -> float:
    """Return how long to rest after an object, so that the round ends with its period. Pure."""
    share_s = (round_.began + period_s - now) / max(1, round_.left)
    return max(size_bytes / MOST_BYTES_S, min(_LONGEST_REST_S, share_s))


class Scrubber:
    """One per archive. `run` as a task."""

    def __init__(
        self,
        data_dir: Path,
        index: Index,
        period_s: float,
        metrics: ArchiveMetrics,
        clock: Clock,
        troubles: Troubles,
    ) -> None:
        self._data_dir = data_dir
        self._index = index
        self._period_s = period_s
        self._metrics = metrics
        self._clock = clock
        self._troubles = troubles
        self._round: Round | None = None
        self._written_s = float("-inf")

    async def run(self) -> None:
        """Read until cancelled. What fails is logged, and tried again."""
        if self._period_s <= 0:
            return
        while True:
            try:
                pause_s = await self.turn()
            except (StorageError, OSError, sqlite3.Error) as error:
                _log.warning("scrubbing stopped for a while", error=str(error))
                pause_s = _LONGEST_REST_S
            except Exception:
                _log.exception("scrubbing stopped for a while")
                pause_s = _LONGEST_REST_S
            await self._clock.sleep(pause_s)

    async def turn(self) -> float:
        """Look at the next object; return how long to rest."""
        now = self._clock.wall().timestamp()
        round_ = self._round or await _in_thread(self._before)
        if round_ is None or (round_.over and now >= round_.began + self._period_s):
            round_ = Round(now, left=self._index.numbers()["instances"])
        row = None if round_.over else await _in_thread(partial(self._next, round_.after))
        if row is None:
            if not round_.over:
                _log.info("every object was read again", days=round((now - round_.began) / 86400, 1))
            await self._keep(replace(round_, over=True), at_once=not round_.over)
            await _in_thread(self._tell)
            return min(_LONGEST_REST_S, max(1.0, round_.began + self._period_s - now))
        await self._look_at(row)
        round_ = replace(round_, after=row["id"], left=max(0, round_.left - 1))
        await self._keep(round_)
        return rest_s(round_, now, self._period_s, row["bytes"])

    # -- one object ---------------------------------------------------------------------------------

    async def _look_at(self, row: sqlite3.Row) -> None:
        path = self._data_dir / row["path"]
        try:
            digest = await self._digest(path, row)
        except FileNotFoundError:
            return  # evicted or replaced this moment; a file that is gone is the janitor's affair
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            digest = b""  # the disk does not give it back: it is damaged
        self._metrics.scrubbed.inc()
        if digest == row["digest"]:
            return
        if await self._index.write(lambda transaction: self._set_aside(transaction, row, digest)):
            self._metrics.damaged.inc()
            _log.error("an object is damaged: it is in quarantine", state=row["state"])
            await _in_thread(self._tell)

    async def _digest(self, path: Path, row: sqlite3.Row) -> bytes:
        found = hashlib.sha256(row["transfer_syntax"].encode("ascii") + b"\0")
        descriptor = await _in_thread(lambda: os.open(path, os.O_RDONLY))
        try:
            position = int(row["data_set_offset"])
            while True:
                read = await _in_thread(partial(_read, descriptor, position, found))
                if not read:
                    return found.digest()
                position += read
                if read == _CHUNK_BYTES:
                    await self._clock.sleep(_CHUNK_BYTES / MOST_BYTES_S)
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
        move_into_place(self._data_dir / held["path"], self._data_dir / target, sync_file=False)
        transaction.undo.append(lambda: place(self._data_dir / target, self._data_dir / held["path"]))
        connection.execute(
            "INSERT OR REPLACE INTO quarantine (uid, study_uid, path, digest, bytes, reason, caller, origin,"
            " arrived_at) VALUES (?,?,?,?,?,?,'',?,?)",
            (held["uid"], held["study_uid"], target, digest, held["bytes"], DAMAGED, held["origin"],
             self._clock.wall().timestamp()),
        )  # fmt: skip
        rows.hide_instance(transaction, held, hidden=True)
        return True

    # -- how far it is ------------------------------------------------------------------------------

    def _next(self, after: int) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._index.reader().execute(_NEXT, (after,)).fetchone()
        return found

    def _before(self) -> Round | None:
        row = self._index.reader().execute("SELECT value FROM facts WHERE name = 'scrub'").fetchone()
        kept: dict[str, Any] = {} if row is None else json.loads(row["value"])
        return Round(**kept) if kept else None

    async def _keep(self, round_: Round, *, at_once: bool = False) -> None:
        self._round = round_
        now_s = self._clock.monotonic()
        if not at_once and now_s - self._written_s < _WRITTEN_EVERY_S:
            return
        value = json.dumps(
            {"began": round_.began, "after": round_.after, "left": round_.left, "over": round_.over}
        )
        await self._index.write(
            lambda transaction: transaction.connection.execute(
                "INSERT OR REPLACE INTO facts VALUES ('scrub', ?)", (value,)
            )
        )
        self._written_s = now_s

    def _tell(self) -> None:
        found = self._index.reader().execute(_SET_ASIDE).fetchall()
        away = any(not (self._data_dir / row["path"]).exists() for row in found)
        what = (
            "objects were damaged on the disk and are not shown: see `failover quarantine`. What the primary"
            " has is fetched again by itself; look at the disk"
        )
        self._troubles.tell(Trouble.OBJECTS_DAMAGED, what if away else None)


def _read(descriptor: int, position: int, found: hashlib._Hash) -> int:
    chunk = os.pread(descriptor, _CHUNK_BYTES, position)
    found.update(chunk)
    # What nobody reads must not push out of memory what people do.
    os.posix_fadvise(descriptor, position, len(chunk), os.POSIX_FADV_DONTNEED)
    return len(chunk)


async def _in_thread(work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
