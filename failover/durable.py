"""Files that are on disk when we say so: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from failover.errors import DiskFull, StorageError

NO_ROOM = (28, 122)  # ENOSPC, EDQUOT


def sync_file(path: Path) -> None:
    """Make content and length of the file durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


class SyncedFile:
    """A file that is kept open to be synced: its own descriptor hears of every error since it was opened, a
    fresh one of none that somebody has heard of before. From any thread."""

    def __init__(self, path: Path) -> None:
        """It need not be there yet."""
        self._path = path
        self._descriptor: int | None = None
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):
            self._open()

    def sync(self) -> None:
        """Sync it, where it is there. Raises OSError."""
        with self._lock:
            if self._descriptor is None:
                with contextlib.suppress(FileNotFoundError):
                    self._open()
            if self._descriptor is not None:
                os.fdatasync(self._descriptor)

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable. A rename is not on disk before this."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make `folder` and its parents, durable, readable by us alone. Raises DiskFull, StorageError."""
    try:
        if folder.is_dir():
            return
        make_folder(folder.parent, mode)
        folder.mkdir(mode=mode, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise storage_error(error, folder) from error
        # Whoever starts us must know where: a folder's name alone does not say it.
        raise StorageError(f"{folder}: cannot be made a folder of ours: {error.strerror}") from error


def write_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `content`: after a crash it holds the old bytes or the new ones, never a part.

    Raises DiskFull or StorageError; then the old file stands and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def move_into_place(temporary: Path, path: Path, *, sync: bool = True) -> None:
    """Rename a finished file to `path` so that file and name are durable. Raises DiskFull, StorageError."""
    try:
        if sync:
            sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error


def place(temporary: Path, path: Path) -> None:
    """Rename a synced file to `path`. The name is durable only after `sync_folder`. Raises OSError.

    For whoever renames many files and then syncs each folder once.
    """
    os.replace(temporary, path)


def append_line(path: Path, line: bytes, *, mode: int = 0o600) -> None:
    """Append one line and sync it. A crash can leave a last line without its newline: readers skip it.

    Raises DiskFull or StorageError; then the file is as it was, so that the line can be appended again.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
        try:
            length = os.fstat(descriptor).st_size
            try:
                write_whole(descriptor, line.rstrip(b"\n") + b"\n")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, length)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(error, path) from error


def write_whole(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of it. A disk that has room for a part takes that part and says nothing of the rest."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return what to raise for `error`: DiskFull when there is no room, else StorageError."""
    kind = DiskFull if error.errno in NO_ROOM else StorageError
    return kind(f"{path.name}: {error.strerror}")
