"""An object that has arrived whole: what it is, whether it can be read, and its file made durable.

Blocking throughout: it runs in the threads of `instances`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from failover.archive.attributes import WANTED, Described, describe
from failover.archive.header import Scanned, scan
from failover.dicom.part10 import MAX_META_BYTES, PREAMBLE_LENGTH, FileMeta, read_head, write_head
from failover.dicom.syntaxes import DEFLATED
from failover.durable import place, storage_error
from failover.errors import DataSetMismatch, UnreadableDataSet

_CHUNK_BYTES: Final = 1024 * 1024
# PS3.10 7.1: a preamble can make the file a program or a page as well; TIFF's alone has a use.
_NO_PREAMBLE: Final = bytes(PREAMBLE_LENGTH)


@dataclass(slots=True)
class Arrived:
    """An object that is whole: in memory (`content`), or in the file at `path`."""

    path: Path
    content: bytes | None
    announced: bool = False  # the head is ours, made of what a C-STORE-RQ announced

    def write(self, it: Examined) -> bytes | None:
        """Write what is in memory to its file, without a sync, and return it; None: it is there already."""
        if self.content is None:
            return None
        if not it.meta.has_tiff_preamble and not self.content.startswith(_NO_PREAMBLE):
            self.content = _NO_PREAMBLE + self.content[PREAMBLE_LENGTH:]
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_all(descriptor, self.content)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self.path) from error
        return self.content

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
        if self.content is not None:
            self.content = head + self.content[offset:]
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
    if arrived.content is not None:
        return _named(arrived, _examine_buffer(memoryview(arrived.content), None))
    try:
        with arrived.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UnreadableDataSet("an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                it = _examine_buffer(view, file.fileno())
    except OSError as error:
        raise storage_error(error, arrived.path) from error
    return _named(arrived, it)


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
        digest = hashlib.sha256(meta.transfer_syntax_uid.encode("ascii") + b"\0")
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


def write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
