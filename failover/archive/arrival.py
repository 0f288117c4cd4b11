"""An object that has arrived whole: what it is, whether it can be read, and its file made durable.

Blocking throughout, but `examine_at_once`: it runs in the threads of `instances`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from failover.archive.attributes import WANTED, Described, describe
from failover.archive.header import Scanned, scan, scan_beginning
from failover.archive.straight import write_new
from failover.dicom.part10 import MAX_META_BYTES, PREAMBLE_LENGTH, FileMeta, read_head, write_head
from failover.dicom.syntaxes import DEFLATED
from failover.durable import place, storage_error
from failover.errors import DataSetMismatch, UnreadableDataSet

_CHUNK_BYTES: Final = 1024 * 1024
# What is looked through while others wait for the same loop: as a whole, in pieces, elements of it.
_SMALL_BYTES: Final = 64 * 1024
_MOST_PIECES: Final = 64
_STEPS_AT_ONCE: Final = 1000
# Of more than 2047 bytes Python hashes while others run, and has to wait for them: longer than it hashes.
_HASHED_AT_ONCE_BYTES: Final = 31 * 64
# PS3.10 7.1: a preamble can make the file a program or a page as well; TIFF's alone has a use.
_NO_PREAMBLE: Final = bytes(PREAMBLE_LENGTH)


Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class Arrived:
    """An object that is whole: in memory (`pieces`), or in the file at `path`.

    The first piece begins with the whole head of the file once it is examined.
    """

    path: Path
    pieces: Sequence[Buffer] | None
    announced: bool = False  # the first piece is our head, made of what a C-STORE-RQ announced
    digest: bytes | None = None  # of it, where it was made of what came
    written: Future[None] | None = None  # while what is in memory is written to its file

    @property
    def held_bytes(self) -> int:
        return sum(map(len, self.pieces or ()))

    def write(self) -> None:
        """Write what is in memory to its file, without a sync. Raises DiskFull, StorageError."""
        assert self.pieces is not None
        try:
            write_new(self.path, self.pieces)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def clear_preamble(self, it: Examined) -> None:
        """Let what is in memory begin with a preamble that is nothing else than DICOM."""
        if self.pieces is None or it.meta.has_tiff_preamble:
            return
        if bytes(self.pieces[0][:PREAMBLE_LENGTH]) != _NO_PREAMBLE:
            self.pieces = [_NO_PREAMBLE + bytes(self.pieces[0][PREAMBLE_LENGTH:]), *self.pieces[1:]]

    def sync(self, it: Examined) -> None:
        """Make the file durable under its temporary name, with a preamble that is nothing else than DICOM."""
        preamble = None if it.meta.has_tiff_preamble else _NO_PREAMBLE
        try:
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                if preamble is not None:
                    os.pwrite(descriptor, preamble, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def rewrite_head(self, it: Examined) -> Examined:
        """Give the object a File Meta Information that names what it is; offsets move with it."""
        key, offset = it.described.key, it.meta.data_set_offset
        head = write_head(it.described.sop_class_uid, key.sop_instance_uid, it.meta.transfer_syntax_uid)
        if self.pieces is not None:
            self.pieces = [head, memoryview(self.pieces[0])[offset:], *self.pieces[1:]]
        else:
            try:
                self._copy_behind(head, offset)
            except OSError as error:
                raise storage_error(error, self.path) from error
        moved = len(head) - offset
        return replace(
            it,
            meta=replace(it.meta, data_set_offset=len(head), has_tiff_preamble=False),
            size_bytes=it.size_bytes + moved,
            pixel_offset=None if it.pixel_offset is None else it.pixel_offset + moved,
        )

    def _copy_behind(self, head: bytes, offset: int) -> None:
        copy = self.path.with_suffix(".copy")
        try:
            with self.path.open("rb") as source, copy.open("xb") as target:
                target.write(head)
                source.seek(offset)
                shutil.copyfileobj(source, target, _CHUNK_BYTES)
            place(copy, self.path)
        finally:
            copy.unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove the temporary file, if it is still there."""
        if self.written is not None:
            wait([self.written])
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Examined:
    """What an object is. Offsets are from the start of the file; see `index.Held`."""

    meta: FileMeta
    described: Described
    digest: bytes
    size_bytes: int
    pixel_offset: int | None
    pixel_length: int | None


def examine(arrived: Arrived) -> Examined:
    """Read an object through. Raises UnreadableDataSet, DataSetMismatch, StorageError."""
    if arrived.pieces is not None:
        if len(arrived.pieces) != 1:
            arrived.pieces = [b"".join(arrived.pieces)]
        return _named(arrived, _examine_buffer(memoryview(arrived.pieces[0]), None))
    try:
        with arrived.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UnreadableDataSet("an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                it = _examine_buffer(view, file.fileno())
    except OSError as error:
        raise storage_error(error, arrived.path) from error
    return _named(arrived, it)


def examine_at_once(arrived: Arrived) -> Examined | None:
    """As `examine`, for who must not be held up: None when it would take its time, or needs all at once."""
    pieces, digest = arrived.pieces, arrived.digest
    if not pieces:
        return None
    if not arrived.announced or digest is None or len(pieces) < 2:
        if arrived.held_bytes > _SMALL_BYTES:
            return None
        if len(pieces) != 1:
            arrived.pieces = pieces = [b"".join(pieces)]
    elif len(pieces) > _MOST_PIECES:
        return None
    with memoryview(pieces[0])[:MAX_META_BYTES] as start:
        meta = read_head(start)
    if len(pieces) > 1 and meta.data_set_offset != len(pieces[0]):
        return None
    beginning = pieces[1] if len(pieces) > 1 else memoryview(pieces[0])[meta.data_set_offset :]
    size_bytes = arrived.held_bytes
    scanned = scan_beginning(
        beginning, size_bytes - meta.data_set_offset, meta.transfer_syntax_uid, WANTED, _STEPS_AT_ONCE
    )
    if scanned is None:
        return None
    described = describe(scanned)
    if digest is None:
        made = begun_digest(meta.transfer_syntax_uid)
        for at in range(0, len(beginning), _HASHED_AT_ONCE_BYTES):
            made.update(beginning[at : at + _HASHED_AT_ONCE_BYTES])
        digest = made.digest()
    return _named(arrived, Examined(meta, described, digest, size_bytes, *_pixels(scanned, meta)))


def begun_digest(transfer_syntax_uid: str) -> hashlib._Hash:
    """Return the digest of an object, which goes on with its data set as it is encoded."""
    return hashlib.sha256(transfer_syntax_uid.encode("ascii") + b"\0")


def _named(arrived: Arrived, it: Examined) -> Examined:
    """Make sure that the head names the object that follows."""
    said = (it.meta.sop_class_uid, it.meta.sop_instance_uid)
    if said == (it.described.sop_class_uid, it.described.key.sop_instance_uid):
        return it
    if arrived.announced:
        raise DataSetMismatch("the data set is not the object that was announced")
    # In the field the file meta information is often that of the object a file was made from.
    return arrived.rewrite_head(it)


def _examine_buffer(view: memoryview, descriptor: int | None) -> Examined:
    with view[:MAX_META_BYTES] as start:
        meta = read_head(start)
    with view[meta.data_set_offset :] as data_set:
        scanned = scan(data_set, meta.transfer_syntax_uid, WANTED)
        described = describe(scanned)
        digest = begun_digest(meta.transfer_syntax_uid)
        if descriptor is None:
            digest.update(data_set)
        else:
            # Read, not mapped: mapped pages would count as our memory.
            position = meta.data_set_offset
            while chunk := os.pread(descriptor, _CHUNK_BYTES, position):
                digest.update(chunk)
                position += len(chunk)
    pixel_offset, pixel_length = _pixels(scanned, meta)
    return Examined(meta, described, digest.digest(), len(view), pixel_offset, pixel_length)


def _pixels(scanned: Scanned, meta: FileMeta) -> tuple[int | None, int | None]:
    if scanned.pixel_offset is None or meta.transfer_syntax_uid == DEFLATED:
        return None, None
    return scanned.pixel_offset + meta.data_set_offset, scanned.pixel_length
