"""The journal: objects and their debt, one behind the other, synced once for all that came together.

An object that is in it is durable, whatever the disk still holds back of its file, its folder and its row:
those follow without a sync of their own, and `recovery` makes them good after a crash. Two files take turns:
while one fills, what stands in the other is synced where it belongs (it is settled: `settling`), so that it
can be written over. Only the writer thread appends; a file grows as it is needed and is never made smaller.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from failover.archive.reserve import RESERVE_BYTES
from failover.archive.settling import FileSystem, Settled
from failover.durable import sync_folder
from failover.errors import StateUnreadable

_log = structlog.get_logger(__name__)

NAMES: Final = ("journal-0", "journal-1")
# Each of the two: what a start after a crash has to look at, and what the disk may hold back.
HALF_BYTES: Final = 64 * 2**20
MAX_RECORDS: Final = 4096
# Others may have written gigabytes to the same disk. Then files are synced one by one, until it is over.
_LONGEST_WAIT_S: Final = 1.0
_FIRST_BYTES: Final = 2**20
# Records begin on borders of this size: a write that a power cut tears never touches the one before it.
_ALIGNMENT: Final = 4096
_FAMILY: Final = b"FOVRJNL"
_MAGIC: Final = _FAMILY + b"1"
# Magic, filling, number, length of facts and content; then the CRC of it and the facts. All records since a
# file was begun anew have the same filling, which nobody outside knows: neither older ones behind them nor
# what somebody sends as pixels passes for one of theirs.
_HEAD: Final = struct.Struct("<8s8sQIQ")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _HEAD.size + _CRC.size
_MOST_BUFFERS: Final = 1024  # of one write: IOV_MAX
_MAX_FACTS_BYTES: Final = 64 * 1024

Facts = dict[str, Any]
Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class Entry:
    """An object for the journal, in pieces. `facts["path"]` is where its file lies below the data folder.

    `number` is set while it is durable here. `used` is for whoever writes the row: it needs the journal until
    its file is settled.
    """

    content: Sequence[Buffer]
    facts: Facts
    number: int | None = None
    used: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """An object that stands in the journal. Whether its content is whole is for the reader to see."""

    number: int
    facts: Facts
    length: int
    file: Path
    content_at: int

    def content(self) -> bytes:
        """Return it. Raises OSError."""
        with self.file.open("rb") as file:
            return os.pread(file.fileno(), self.length, self.content_at)


@dataclass(slots=True)
class _Half:
    path: Path
    descriptor: int | None = None
    size: int = 0
    end: int = 0
    records: int = 0
    filling: bytes = b""
    placed: list[Record] = field(default_factory=list)
    awaited: bool = True  # while it is settled, who stores waits for it
    settling: Future[None] | None = None


class Journal:
    """One per archive: `records`, then `go_on`, then the rest, which is for the writer thread alone."""

    def __init__(self, data_dir: Path, sync_index: Callable[[], None], half_bytes: int = HALF_BYTES) -> None:
        """`sync_index` makes durable what was committed to the index without a sync."""
        self._data_dir = data_dir
        self._sync_index = sync_index
        self._file_system = FileSystem(data_dir)
        self._half_bytes = half_bytes
        self._halves = [_Half(data_dir / name) for name in NAMES]
        self._current = 0
        self._appended: list[tuple[Entry, Record]] = []
        self._closed = False
        self._left = False  # what stands here stays, and nothing is added
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive-settle")
        self.last_number = 0  # of all that was ever tried to be written here

    # -- at a start ---------------------------------------------------------------------------------

    def records(self) -> Iterator[Record]:
        """Yield what stands in the journal, oldest first. Raises StateUnreadable, OSError."""
        firsts = {half.path: next(_records(half.path), None) for half in self._halves}
        known = [(first.number, path) for path, first in firsts.items() if first is not None]
        for _, path in sorted(known):
            yield from _records(path)

    def go_on(self, last: int, stand: Sequence[Record]) -> None:
        """Give higher numbers than `last`. `stand` is where it belongs, and is settled before it goes."""
        self.last_number = max(self.last_number, last)
        for record in stand:
            self._half_of(record).placed.append(record)
        begun = [half for half in self._halves if half.placed]
        for half in sorted(begun, key=lambda half: half.placed[0].number):
            half.end = half.placed[-1].content_at + half.placed[-1].length
            half.awaited = False  # a start has no time to wait
            self._settle_later(half)
            self._current = self._halves.index(half)

    # -- for the writer thread ----------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> bool:
        """Make `entries` durable with one sync. False: there is no room, or the disk fails; then none is."""
        try:
            return self._append(entries)
        except OSError as error:
            _log.warning("journal not written: files are synced one by one", error=error.strerror)
        except Exception:
            # A bug of ours: the writer thread must go on.
            _log.exception("journal not written: files are synced one by one")
        return False

    def _append(self, entries: Sequence[Entry]) -> bool:
        facts = [json.dumps(entry.facts, separators=(",", ":")).encode() for entry in entries]
        sizes = [sum(map(len, entry.content)) for entry in entries]
        lengths = [_aligned(_HEAD_BYTES + len(said) + size) for said, size in zip(facts, sizes, strict=True)]
        whole = sum(lengths)
        half = self._with_room(whole, len(entries))
        if half is None or half.descriptor is None:
            return False
        if half.end == 0:
            half.filling = os.urandom(8)
        buffers: list[Buffer] = []
        appended: list[tuple[Entry, Record]] = []
        at = half.end
        for entry, said, size, length in zip(entries, facts, sizes, lengths, strict=True):
            # Numbers are used up before anything is written: what a failing disk has taken all the same is
            # never taken for something newer than the row that was synced in its stead.
            self.last_number += 1
            head = _head(half.filling, self.last_number, said, size)
            buffers += (head, *entry.content, bytes(length - len(head) - size))
            record = Record(self.last_number, entry.facts, size, half.path, at + len(head))
            appended.append((entry, record))
            at += length
        written = 0
        for first in range(0, len(buffers), _MOST_BUFFERS):
            written += os.pwritev(half.descriptor, buffers[first : first + _MOST_BUFFERS], half.end + written)
        if written != whole:
            return False
        os.fdatasync(half.descriptor)
        for entry, record in appended:
            entry.number = record.number
        half.end, half.records = at, half.records + len(entries)
        self._appended = appended
        return True

    def ended(self) -> None:
        """The transaction after `append` is over: entries that it used are settled one day."""
        half = self._halves[self._current]
        for entry, record in self._appended:
            if entry.used:
                half.placed.append(record)
            else:
                entry.number = None
        self._appended = []

    def leave(self) -> None:
        """Keep what stands here for the next start, and add nothing: the index may have lost its rows."""
        self._left = True

    def close(self) -> None:
        """Settle all, so that the next start has nothing to make good."""
        if self._closed:
            return
        self._closed = True
        for half in self._halves:
            if half.end:
                self._settle_later(half)
        self._thread.shutdown(wait=True)
        self._file_system.close()
        for half in self._halves:
            if half.descriptor is not None:
                os.close(half.descriptor)
                half.descriptor = None

    # -- inside -------------------------------------------------------------------------------------

    def _half_of(self, record: Record) -> _Half:
        return next(half for half in self._halves if half.path == record.file)

    def _with_room(self, wanted: int, count: int) -> _Half | None:
        """Return the half that takes so many records and bytes, None: there is none. Raises OSError."""
        half = self._halves[self._current]
        if self._left or wanted > self._half_bytes or count > MAX_RECORDS:
            return None
        if half.settling is None and self._has_room(half, wanted, count):
            return half
        if half.settling is None:
            self._settle_later(half)
        other = self._halves[1 - self._current]
        if other.settling is not None and not self._is_over(other, other.settling):
            return None
        if other.end:
            self._settle_later(other)  # it could not be settled: once more
            return None
        other.settling, other.awaited, self._current = None, True, 1 - self._current
        return other if self._has_room(other, wanted, count) else None

    @staticmethod
    def _is_over(half: _Half, settling: Future[None]) -> bool:
        """Whether `half` is settled. A disk that does not keep up slows down who stores, but for so long."""
        with contextlib.suppress(TimeoutError):
            settling.result(_LONGEST_WAIT_S if half.awaited else 0)
            return True
        half.awaited = False
        return False

    def _has_room(self, half: _Half, wanted: int, count: int) -> bool:
        if half.records + count > MAX_RECORDS or half.end + wanted > self._half_bytes:
            return False
        if half.descriptor is None:
            half.descriptor = os.open(half.path, os.O_RDWR | os.O_CREAT, 0o600)
            half.size = os.fstat(half.descriptor).st_size
            sync_folder(half.path.parent)
        if half.size < half.end + wanted:
            size = max(half.size, _FIRST_BYTES)
            while size < half.end + wanted:
                size *= 2
            size = min(size, self._half_bytes)
            space = os.fstatvfs(half.descriptor)
            if space.f_bavail * space.f_frsize < size - half.size + 2 * RESERVE_BYTES:
                return False  # the room that is left is the index's
            # The room is taken now: a full disk is noticed here, and never in the middle of a record.
            os.posix_fallocate(half.descriptor, half.size, size - half.size)
            half.size = size
        return True

    def _settle_later(self, half: _Half) -> None:
        half.settling = self._thread.submit(self._settle, half)

    def _settle(self, half: _Half) -> None:
        """Sync files, folders and rows of what stands in `half`; then it can be written over."""
        try:
            if half.placed:
                self._file_system.settle([_settled(self._data_dir, record) for record in half.placed])
                self._sync_rows()
            if self._left:
                return
            with contextlib.suppress(FileNotFoundError), half.path.open("r+b", buffering=0) as file:
                file.write(bytes(_HEAD_BYTES))  # where nothing begins, nothing stands
            half.placed.clear()
            half.end = half.records = 0
        except Exception as error:
            # It is not written over, so that nothing is lost; and tried again when its turn comes.
            _log.error("journal not settled", error=f"{type(error).__name__}: {error}")

    def _sync_rows(self) -> None:
        try:
            self._sync_index()
        except OSError as error:
            # The next sync may say that all is well, though the system has dropped what it could not write.
            self.leave()
            _log.error("the index was not synced: the journal stays for the next start", error=error.strerror)


def _settled(data_dir: Path, record: Record) -> Settled:
    return Settled(data_dir / record.facts["path"], record.content)


# -- records ----------------------------------------------------------------------------------------


def _aligned(length: int) -> int:
    return (length + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


def _head(filling: bytes, number: int, facts: bytes, content_bytes: int) -> bytes:
    head = _HEAD.pack(_MAGIC, filling, number, len(facts), content_bytes)
    return head + _CRC.pack(zlib.crc32(head + facts)) + facts


def _records(path: Path) -> Iterator[Record]:
    """Yield what stands in `path`, in order.

    Behind a head that is damaged, or that a power cut kept from the disk, it is looked for the next one.
    """
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        descriptor, at = file.fileno(), 0
        filling = _filling(os.pread(descriptor, _HEAD_BYTES, 0), path)
        if filling is None:
            return
        size = os.fstat(descriptor).st_size
        while at + _HEAD_BYTES <= size:
            record = _record(descriptor, at, filling, size, path)
            if record is None:
                at += _ALIGNMENT
                continue
            yield record
            at = _aligned(record.content_at + record.length)


def _filling(first: bytes, path: Path) -> bytes | None:
    """Return the filling of a file that begins so, None: nothing stands in it."""
    if len(first) < _HEAD_BYTES or not any(first):
        return None
    magic, filling, *_ = _HEAD.unpack_from(first)
    if magic == _MAGIC:
        return bytes(filling)
    if magic.startswith(_FAMILY):
        raise StateUnreadable(f"{path} is of a newer version: update the program")
    # Its first record is one that a power cut kept from the disk, and was never acknowledged; or damaged.
    _log.error(
        "a file of the journal cannot be read: if files are missing now, its disk lost them", file=path.name
    )
    return None


def _record(descriptor: int, at: int, filling: bytes, size: int, path: Path) -> Record | None:
    fixed = os.pread(descriptor, _HEAD_BYTES, at)
    if len(fixed) < _HEAD_BYTES:
        return None
    magic, written, number, facts_bytes, content_bytes = _HEAD.unpack_from(fixed)
    content_at = at + _HEAD_BYTES + facts_bytes
    if magic != _MAGIC or written != filling or facts_bytes > _MAX_FACTS_BYTES:
        return None
    if content_at + content_bytes > size:
        return None
    facts = os.pread(descriptor, facts_bytes, at + _HEAD_BYTES)
    if _CRC.unpack_from(fixed, _HEAD.size)[0] != zlib.crc32(fixed[: _HEAD.size] + facts):
        return None
    return Record(number, json.loads(facts), content_bytes, path, content_at)
