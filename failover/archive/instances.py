"""Objects as files: received, checked, made durable with their row and debt, and only then acknowledged.

The order is the promise: an object is in the journal, or its file synced, renamed and its folder synced,
before the row that names it is committed, and the debt stands in that row. A kill at any point leaves either
all of it, or a file without a row, which the janitor removes. What is known already is not written twice;
what a caller sends under a known SOP instance UID with other content goes to quarantine and never touches
what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

from failover.archive import paths
from failover.archive.arrival import (
    Arrived,
    Buffer,
    Examined,
    begun_digest,
    examine,
    examine_at_once,
)
from failover.archive.content import same_object
from failover.archive.index import Index
from failover.archive.journal import Entry
from failover.archive.placement import ATTEMPTS, Placement, Result, new_instance
from failover.archive.recovery import Recovery, facts_of
from failover.clock import Clock
from failover.dicom.part10 import write_head
from failover.durable import make_folder, storage_error, write_whole
from failover.errors import Conflict, DiskFull, StorageError, UnreadableDataSet
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, InstanceKey, Origin, Uid

__all__ = ["Incoming", "Instances", "Result", "Stored"]

_T = TypeVar("_T")

# An object up to this size is not written before it is whole: one turn of a thread instead of many.
_HELD_BYTES: Final = 1024 * 1024
# All objects that arrive at once hold no more than this in memory; beyond it each writes early.
_HELD_TOTAL_BYTES: Final = 48 * 1024 * 1024
_SPILL_BYTES: Final = 64 * 1024
# Of a shorter piece a copy is held: the piece may be a small part of something large that was read.
_HELD_AS_IT_CAME_BYTES: Final = 16 * 1024
# Threads that write and sync files; more syncs at once gain nothing on one disk.
_THREADS: Final = 8
# The room on the disk is looked at this often; what is stored between is taken off.
_LOOK_EVERY_S: Final = 0.05
_RECOVER_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an object that is now durable here."""

    key: InstanceKey
    sop_class_uid: Uid
    result: Result


class Instances:
    """Stores objects below `data_dir`. One per process."""

    def __init__(
        self,
        data_dir: Path,
        index: Index,
        metrics: ArchiveMetrics,
        clock: Clock,
        *,
        owes: bool,
        min_free_bytes: int,
    ) -> None:
        """`owes`: there is a primary, so that what callers bring is debt.

        Makes the folders, and good what the journal holds. Raises StorageError for the folders.
        """
        self._data_dir = data_dir
        self._index = index
        self._metrics = metrics
        self._clock = clock
        self._owes = owes
        self.min_free_bytes = min_free_bytes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="archive-store")
        self._numbers = count()
        self._held_bytes = 0
        self._looked_s, self._free_bytes = float("-inf"), 0
        for folder in (paths.OBJECTS, paths.INCOMING, paths.HANDOVER, paths.QUARANTINE):
            make_folder(data_dir / folder)
        self._recovery = Recovery(data_dir, index, self._decide)
        self._recovery.recover()

    async def recover(self) -> None:
        """Go on until what the journal holds is made good, if the disk did not let us at the start."""
        while not self._index.recovered:
            await self._clock.sleep(_RECOVER_EVERY_S)
            await self.in_thread(self._recovery.recover)

    def close(self) -> None:
        """Wait for the threads. Stores under way have been finished or discarded by their owners before."""
        self._threads.shutdown(wait=True)

    async def store(self, content: bytes | Path, origin: Origin, caller: str = "") -> Stored:
        """Store one Part 10 file; return when it is durable.

        A `Path` must lie on the archive's disk and changes owner: it is moved into place or deleted. Raises
        DiskFull, UnreadableDataSet (nothing is left), Conflict (kept in quarantine), StorageError. `caller`
        stands in the quarantine's record alone: an AE title or an address.
        """
        if isinstance(content, Path):
            return await self.keep(Arrived(content, None), origin, caller)
        incoming = self.receive()
        try:
            await incoming.write(content)
            return await incoming.keep(origin, caller)
        finally:
            await incoming.discard()

    def receive(self, head: bytes = b"", transfer_syntax_uid: str = "") -> Incoming:
        """Begin to receive one object piece by piece. Raises DiskFull when there is no room for any.

        `head` is what `data_set_head` made, where a bare data set follows in this transfer syntax; else a
        Part 10 file follows.
        """
        self.check_room(0)
        return Incoming(self, head, transfer_syntax_uid)

    def data_set_head(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str
    ) -> bytes:
        """Return the head of the Part 10 file for a data set that arrives by C-STORE."""
        return write_head(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source_ae)

    async def take(self, path: Path, origin: Origin) -> Stored:
        """Store a file that another process of ours left in `handover/`; it changes owner. Raises as `store`.

        A path that is not there raises StorageError and is not touched.
        """
        resolved = await self.in_thread(lambda: self._handed_over(path))
        return await self.store(resolved, origin, "replicator")

    def check_room(self, more_bytes: int) -> None:
        """Raise DiskFull when `more_bytes` would leave less than min_free_bytes on the disk.

        StorageError when the index takes nothing more.
        """
        self._index.check_writable()
        now_s = self._clock.monotonic()
        if now_s >= self._looked_s + _LOOK_EVERY_S or self._free_bytes - more_bytes < self.min_free_bytes:
            space = os.statvfs(self._data_dir)
            self._looked_s, self._free_bytes = now_s, space.f_bavail * space.f_frsize
        self._free_bytes -= more_bytes
        if self._free_bytes < self.min_free_bytes:
            raise DiskFull("no room: archive.retention.min_free_bytes is reached")

    # -- inside, for Incoming ---------------------------------------------------------------------------

    def _handed_over(self, path: Path) -> Path:
        resolved = path.resolve()
        if not paths.is_handover(resolved, self._data_dir.resolve()) or not resolved.is_file():
            raise StorageError("not a file in the handover folder")
        return resolved

    def temporary(self) -> Path:
        return self._data_dir / paths.INCOMING / f"{os.getpid()}-{next(self._numbers)}.part"

    def may_hold(self, held_bytes: int) -> bool:
        limit = _HELD_BYTES if self._held_bytes < _HELD_TOTAL_BYTES else _SPILL_BYTES
        return held_bytes <= limit

    def holds(self, change_bytes: int) -> None:
        self._held_bytes += change_bytes

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def keep(self, arrived: Arrived, origin: Origin, caller: str) -> Stored:
        """Store what is whole; the temporary file is gone afterwards. For `Incoming`."""
        began = self._clock.monotonic()
        outcome: Result | Conflict | None = None
        try:
            placement, outcome = await self._written(arrived, origin, caller)
            for _ in range(ATTEMPTS):
                if outcome is not None:
                    break
                placement = await self.in_thread(partial(self._decide, placement))
                outcome = await self._index.write(placement.place)
        except StorageError as error:
            self._metrics.refused_stores.labels(_reason(error)).inc()
            raise
        finally:
            if outcome not in (Result.KEPT, Result.REPLACED):
                await self.in_thread(arrived.delete)
        if outcome is None:
            raise StorageError("others store the same object at this moment")
        if isinstance(outcome, Conflict):
            self._metrics.refused_stores.labels("conflict").inc()
            raise outcome
        if outcome is not Result.KNOWN:
            self._metrics.stored.labels(origin.value).inc()
        self._metrics.store_duration.observe(self._clock.monotonic() - began)
        return Stored(placement.new.described.key, placement.new.described.sop_class_uid, outcome)

    async def _written(
        self, arrived: Arrived, origin: Origin, caller: str
    ) -> tuple[Placement, Result | Conflict | None]:
        """Check the object, here where that is quick, else in a thread; hand it on to the writer, and return
        what that did."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[tuple[Placement, Result | Conflict | None]] = loop.create_future()

        def tell(set_it: Callable[[], None]) -> None:
            if done.cancelled():  # who stored it has gone
                arrived.delete()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(lambda: None if done.done() else set_it())

        def hand_on(it: Examined) -> None:
            placement = self._prepare(arrived, it, origin, caller)
            written = self._index.submit(placement.place, placement.entry)
            written.add_done_callback(lambda ended: end(placement, ended))

        def begin() -> None:
            try:
                hand_on(examine(arrived))
            except BaseException as error:
                failure = error
                tell(lambda: done.set_exception(failure))

        def end(placement: Placement, written: Future[Result | Conflict | None]) -> None:
            error = written.exception()
            if error is not None:
                tell(lambda: done.set_exception(error))
            else:
                tell(lambda: done.set_result((placement, written.result())))

        it = examine_at_once(arrived)
        if it is None:
            self._threads.submit(begin)
        else:
            hand_on(it)
        return await done

    def _prepare(self, arrived: Arrived, it: Examined, origin: Origin, caller: str) -> Placement:
        """Return what is to be written down; a file that is there already is synced."""
        owed = self._owes and origin in (Origin.CALLER, Origin.IMPORTED)
        state = DebtState.OWED if owed else DebtState.NONE
        new = new_instance(it, origin, state, self._clock.wall().timestamp())
        # Most are new: what is held under the same UID is looked at when the writer has found something.
        if arrived.pieces is None:
            self.check_room(0)
            arrived.sync(it)
            return Placement(self._data_dir, arrived.path, new, caller)
        self.check_room(it.size_bytes)
        arrived.clear_preamble(it)
        entry = Entry(arrived.pieces, facts_of(it, new, arrived.pieces[0], caller, self._recovery.boot))
        # It is written while the writer makes it durable in the journal.
        arrived.written = self._threads.submit(arrived.write)
        return Placement(self._data_dir, arrived.path, new, caller, entry=entry, written=arrived.written)

    def _decide(self, placement: Placement) -> Placement:
        """Compare with what is held under the same UID, in a thread: the writer must not wait for that."""
        held = self._index.row(placement.new.described.key.sop_instance_uid)
        if held is None or placement.new.digest in (held["digest"], held["arrived_digest"]):
            return replace(placement, compared_with=None, same=False)
        same = same_object(
            self._data_dir / held["path"], placement.temporary, ours=held["compression"] == "done"
        )
        return replace(placement, compared_with=held["digest"], same=same)


class Incoming:
    """One object that arrives. Call `keep` or `discard`; `discard` after `keep` does nothing."""

    def __init__(self, instances: Instances, head: bytes, transfer_syntax_uid: str) -> None:
        self._instances = instances
        self._announced = bool(head)
        # Made of what comes as it comes: then it is there with the last byte.
        self._digest = begun_digest(transfer_syntax_uid) if head else None
        self._pieces: list[Buffer] = [head] if head else []
        self._held_bytes = len(head)
        self._file: int | None = None
        self._path = instances.temporary()
        self._ended = False
        instances.holds(self._held_bytes)

    async def write(self, piece: Buffer) -> None:
        """Take the next bytes, which must not change afterwards.

        Raises DiskFull or StorageError; then only `discard` is left to do.
        """
        self._pieces.append(piece if len(piece) >= _HELD_AS_IT_CAME_BYTES else bytes(piece))
        if self._digest is not None:
            self._digest.update(piece)
        self._held_bytes += len(piece)
        self._instances.holds(len(piece))
        if not self._instances.may_hold(self._held_bytes):
            self._digest = None
            await self._instances.in_thread(self._spill)

    async def keep(self, origin: Origin, caller: str = "") -> Stored:
        """All bytes are there: store the object, as `Instances.store`."""
        self._ended = True
        try:
            if self._file is None:
                digest = None if self._digest is None else self._digest.digest()
                arrived = Arrived(self._path, self._pieces, self._announced, digest)
            else:
                await self._instances.in_thread(self._finish_file)
                arrived = Arrived(self._path, None, self._announced)
            return await self._instances.keep(arrived, origin, caller)
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            self._release()

    async def discard(self) -> None:
        """The object will not be whole, or is not wanted: leave nothing."""
        if self._ended:
            return
        self._ended = True
        self._release()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            await self._instances.in_thread(lambda: self._path.unlink(missing_ok=True))

    def _spill(self) -> None:
        pieces, self._pieces = self._pieces, []
        try:
            self._instances.check_room(self._held_bytes)
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            write_whole(self._file, b"".join(pieces))
        except OSError as error:
            raise storage_error(error, self._path) from error
        finally:
            self._release()

    def _finish_file(self) -> None:
        self._spill()
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def _release(self) -> None:
        self._instances.holds(-self._held_bytes)
        self._held_bytes = 0


def _reason(error: StorageError) -> str:
    if isinstance(error, DiskFull):
        return "disk_full"
    return "unreadable" if isinstance(error, UnreadableDataSet) else "storage"
