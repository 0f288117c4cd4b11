"""Has what was written without a sync on the disk: files, and the folders they lie in. Blocking."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from failover.durable import sync_file, sync_folder, write_file

# Their `syncfs` writes all of it, and since Linux 5.8 says so when something before it could not be written.
# Of others it is known too little: overlays and FUSE hear nothing of errors below them.
_WHOLE: Final = ("ext4", "xfs")
_SINCE: Final = (5, 8)
_MOUNTS: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Settled:
    """A file to sync. `content` reads what it must hold, for one that the system could not write back."""

    path: Path
    content: Callable[[], bytes]


class FileSystem:
    """The file system that a folder lies in. Kept open, so that no error in between goes to others alone."""

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._is_believed = _release() >= _SINCE and _kind(self._descriptor) in _WHOLE

    def settle(self, files: Sequence[Settled]) -> None:
        """Sync these files, but those that are gone, and their folders. Raises OSError, StorageError."""
        if self._sync() and self._is_believed:
            return
        folders: set[Path] = set()
        for file in files:
            try:
                sync_file(file.path)
            except FileNotFoundError:
                continue  # evicted or replaced meanwhile
            except OSError:
                write_file(file.path, file.content())  # the system has dropped it: the journal alone has it
            folders |= {file.path.parent, file.path.parent.parent}
        for folder in folders:
            sync_folder(folder)

    def close(self) -> None:
        os.close(self._descriptor)

    def _sync(self) -> bool:
        """Have all of it written back at once, where the system can: where it cannot say whether that went
        well, the syncs of single files are cheap then."""
        with contextlib.suppress(AttributeError):
            return bool(ctypes.CDLL(None).syncfs(self._descriptor) == 0)
        return False


def _release() -> tuple[int, ...]:
    numbers = os.uname().release.split("-", 1)[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def _kind(descriptor: int) -> str:
    """Return the kind of the file system, nothing where the system does not say."""
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in _MOUNTS.read_text("utf-8", "replace").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2:3] == [wanted]:
                return after.split()[0]
    return ""
