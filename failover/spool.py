"""Bodies kept until they are answered: in memory first, then on disk, both bounded.

A `Spool` belongs to one process. Each `KeptBody` is written once, front to back, and can be read from the
start as often as needed, also while it is still being written. What to do when the bound is reached
(`SpoolFull`) is the caller's affair: the body then goes on unprotected.

The files have no name (they are unlinked as soon as they are open), so a killed process leaves nothing.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from failover.durable import make_folder
from failover.errors import SpoolFull, StorageError
from failover.shares import Bound, Shares, alone

Bytes = bytes | bytearray | memoryview
_log = structlog.get_logger(__name__)

# A body stays in memory up to here: most stores of one slice do, and a disk would only delay them.
MEMORY_PER_BODY_BYTES: Final = 2 * 2**20
# Bytes that wait for the disk before the writer is asked to pause (`KeptBody.busy`).
_PENDING_HIGH_BYTES: Final = 2 * 2**20
# Pieces below this are gathered: each one kept for itself costs some 300 bytes that nobody counts.
_SMALL_BYTES: Final = 1024
_GATHERED_BYTES: Final = 64 * 1024


class Spool:
    """Room for kept bodies: `memory_bytes` and `disk_bytes` are the bounds of all of them together.

    With `shares` they are the bounds of all processes that share them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        memory_bytes: int = 64 * 2**20,
        disk_bytes: int = 8 * 2**30,
        shares: Shares | None = None,
    ) -> None:
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._executor: ThreadPoolExecutor | None = None
        shares = shares or alone()
        self.memory, self.disk = shares[Bound.SPOOL_MEMORY_BYTES], shares[Bound.SPOOL_DISK_BYTES]

    @property
    def memory_used_bytes(self) -> int:
        """What this process's bodies take in memory."""
        return self.memory.used

    @property
    def disk_used_bytes(self) -> int:
        """What this process's bodies take on disk."""
        return self.disk.used

    def open(self) -> KeptBody:
        """Return a new, empty body. Close it when its request is answered."""
        return KeptBody(self)

    def close(self) -> None:
        """End the writer thread. Bodies still open lose their files with this process."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    # -- for KeptBody

    def take_memory(self, count: int) -> bool:
        if self.memory.total() + count > self._memory_bytes:
            return False
        self.memory.used += count
        return True

    def take_disk(self, count: int) -> bool:
        if self.disk.total() + count > self._disk_bytes:
            return False
        self.disk.used += count
        return True

    def open_file(self) -> int:
        """Return the descriptor of a file without a name. Raises SpoolFull when there is no room for it."""
        try:
            make_folder(self._folder)
            descriptor, path = tempfile.mkstemp(prefix="body-", dir=self._folder)
            os.unlink(path)
        except OSError as error:
            raise SpoolFull(f"spool: {error.strerror}") from error
        except StorageError as error:
            raise SpoolFull(f"spool: {error}") from error
        return descriptor

    @property
    def executor(self) -> ThreadPoolExecutor:
        # Two threads: one slow read must not stop every write, and more would only fight for the disk.
        if self._executor is None:
            self._executor = ThreadPoolExecutor(2, thread_name_prefix="spool")
        return self._executor


class KeptBody:
    """One body. `append` front to back, `read` at any place already appended.

    After a failed write (`failed`) what is in memory or was read stays usable, the rest is lost: readers
    get SpoolFull.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._chunks: list[Bytes] | None = []  # the whole body, while it is in memory
        self._pending: deque[tuple[int, Bytes]] = deque()  # (place, bytes) on their way to the disk
        self._pending_bytes = 0
        self._writing = 0  # how many of `_pending` a thread has in its hands
        self._descriptor: int | None = None
        self.on_disk_bytes = 0  # written and readable
        self._closed = False
        self.length_bytes = 0
        self.failed = False
        self.on_change: Callable[[], None] | None = None
        """Called when `busy` ends, when more can be read, or when writing failed."""

    @property
    def busy(self) -> bool:
        """Whether the disk is behind: the writer should pause until `on_change`."""
        return self._pending_bytes > _PENDING_HIGH_BYTES

    def append(self, data: Bytes) -> None:
        """Keep `data`, of larger pieces not a copy: it must not change any more.

        Raises SpoolFull; then nothing of `data` was kept and what was kept before stays.
        """
        self.append_pieces((data,), len(data))

    def append_pieces(self, pieces: Sequence[Bytes], count: int) -> None:
        """Keep all of `pieces`, which have `count` bytes together, or none of them. As `append`."""
        if self.failed:
            raise SpoolFull("the spool's disk has no room")
        if not count:
            return
        chunks = self._chunks
        if chunks is not None:
            if self.length_bytes + count <= MEMORY_PER_BODY_BYTES and self._spool.take_memory(count):
                for data in pieces:
                    if not (chunks and _gather(chunks[-1], data)):
                        chunks.append(_gatherable(data))
                self.length_bytes += count
                return
            self._move_to_disk(chunks)
        if not self._spool.take_disk(count):
            raise SpoolFull("the spool is full")
        for data in pieces:
            self._enqueue(data)

    def _move_to_disk(self, chunks: list[Bytes]) -> None:
        moved = self.length_bytes
        if not self._spool.take_disk(moved):
            raise SpoolFull("the spool is full")
        try:
            self._descriptor = self._spool.open_file()
        except SpoolFull:
            self._spool.disk.used -= moved
            raise
        self._chunks = None
        self._spool.memory.used -= moved
        self.length_bytes = 0
        for chunk in chunks:
            self._enqueue(chunk)

    def _enqueue(self, data: Bytes) -> None:
        untouched = len(self._pending) > self._writing
        if not (untouched and _gather(self._pending[-1][1], data)):
            self._pending.append((self.length_bytes, _gatherable(data)))
        self._pending_bytes += len(data)
        self.length_bytes += len(data)
        if not self._writing:
            self._write_on()

    def _write_on(self) -> None:
        batch = list(self._pending)
        self._writing = len(batch)
        assert self._descriptor is not None
        future = asyncio.get_running_loop().run_in_executor(
            self._spool.executor, _write_all, self._descriptor, batch
        )
        future.add_done_callback(lambda done: self._written(len(batch), done))

    def _written(self, count: int, done: asyncio.Future[None]) -> None:
        self._writing = 0
        error = None if done.cancelled() else done.exception()
        if self._closed:
            self._close_file()
            return
        if error is not None or done.cancelled():
            self.failed = True
            _log.warning("spool write failed", error=type(error).__name__)
        else:
            for _ in range(count):
                place, data = self._pending.popleft()
                self._pending_bytes -= len(data)
                self.on_disk_bytes = place + len(data)
            if self._pending:
                self._write_on()
        if self.on_change is not None:
            self.on_change()

    def read_now(self, offset: int, limit: int) -> bytes | None:
        """Return up to `limit` bytes at `offset` from memory; None when they must be read from the disk.

        b"" when nothing beyond `offset` has been appended yet.
        """
        if offset >= self.length_bytes:
            return b""
        if self._chunks is not None:
            place = 0
            for chunk in self._chunks:
                if offset < place + len(chunk):
                    return bytes(chunk[offset - place : offset - place + limit])
                place += len(chunk)
            return b""
        for place, chunk in self._pending:
            if place <= offset < place + len(chunk):
                return bytes(chunk[offset - place : offset - place + limit])
        return None

    async def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes at `offset`; b"" beyond the end. Raises SpoolFull if they were lost."""
        data = self.read_now(offset, limit)
        if data is not None:
            return data
        if self._descriptor is None:
            raise SpoolFull("the body was closed")
        limit = min(limit, self.on_disk_bytes - offset)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._spool.executor, os.pread, self._descriptor, limit, offset
            )
        except OSError as error:
            raise SpoolFull(f"spool: {error.strerror}") from error

    def close(self) -> None:
        """Give the room back. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self.on_change = None
        if self._chunks is not None:
            self._spool.memory.used -= self.length_bytes
            self._chunks = None
        else:
            self._spool.disk.used -= self.length_bytes
        self._pending.clear()
        if not self._writing:
            self._close_file()

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Gathered(bytearray):
    """Small pieces, one after the other; a bytearray that was handed in is another's and must not grow."""


def _gatherable(data: Bytes) -> Bytes:
    """Return what is kept of `data`: itself, or a small one as what others can be gathered in."""
    return data if len(data) >= _SMALL_BYTES else _Gathered(data)


def _gather(last: Bytes, data: Bytes) -> bool:
    """Add a small `data` to `last` if that gathers small ones and has room. Returns whether it did."""
    if len(data) >= _SMALL_BYTES or not isinstance(last, _Gathered) or len(last) >= _GATHERED_BYTES:
        return False
    last += data
    return True


def _write_all(descriptor: int, batch: list[tuple[int, Bytes]]) -> None:
    for place, data in batch:
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, place)
            view = view[count:]
            place += count
