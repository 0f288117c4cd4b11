"""Room kept on the archive's disk, so that its index can be opened and written where none is left.

SQLite needs some kilobytes to open an index (its -shm) and for each change (its -wal), those of an eviction
too, which alone makes room. Stores end at `min_free_bytes`, but others may fill the disk beyond that. What
is kept is given up then, and taken again when there is room.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import structlog

from failover.archive.paths import INDEX

_log = structlog.get_logger(__name__)

NAME: Final = f"{INDEX}-reserve"
# Several thousand rows of changes; an index that is opened needs 64 KiB.
RESERVE_BYTES: Final = 16 * 2**20
# With less than this the next change of the index may fail; so much is given up at a time, so that others who
# fill the disk anew do not get all of it at once.
_STEP_BYTES: Final = 2**20
# An index can hardly be opened with less.
_LEAST_BYTES: Final = 128 * 1024


class Reserve:
    """The file that holds the room. It knows nothing but the folder: make one wherever it is wanted."""

    def __init__(self, data_dir: Path, size_bytes: int = RESERVE_BYTES) -> None:
        self._data_dir = data_dir
        self._path = data_dir / NAME
        self._size_bytes = size_bytes

    @property
    def held_bytes(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def free_bytes(self) -> int:
        """Return how much of the disk is free."""
        space = os.statvfs(self._data_dir)
        return space.f_bavail * space.f_frsize

    def keep(self, *, also_in_need: bool = False) -> None:
        """Take the room when there is twice as much.

        `also_in_need`, for a stop: take what there is. The index has just been closed, and what its -wal and
        -shm gave back will be wanted at the next start.
        """
        free, held = self.free_bytes(), self.held_bytes
        if held < self._size_bytes and free >= 2 * self._size_bytes:
            self._take(self._size_bytes)
        elif also_in_need and not held and free >= _LEAST_BYTES:
            self._take(min(free, self._size_bytes))

    def give_up(self) -> bool:
        """Free a mebibyte of the room. Return whether there was any."""
        held = self.held_bytes
        if not held:
            return False
        left = max(0, held - _STEP_BYTES)
        os.truncate(self._path, left)
        _log.warning("room given up for the index: the disk is full", bytes=held - left, left=left)
        return True

    def _take(self, size_bytes: int) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            _log.warning("no room could be kept for the index", error=error.strerror)
