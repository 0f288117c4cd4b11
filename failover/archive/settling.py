"""Has what was written without a sync on the disk: files, and the folders they lie in. Blocking."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from failover.durable import sync_file, sync_folder, write_file


@dataclass(frozen=True, slots=True)
class Settled:
    """A file to sync. `content` reads what it must hold, for one that the system could not write back."""

    path: Path
    content: Callable[[], bytes]


def settle(files: Sequence[Settled], data_dir: Path) -> None:
    """Sync these files and their folders, but those that are gone by now. Raises OSError, StorageError."""
    _sync_file_system(data_dir)
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


def _sync_file_system(folder: Path) -> None:
    """Have all of it written back at once, where the system can: the syncs of single files are cheap then."""
    with contextlib.suppress(AttributeError, OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            ctypes.CDLL(None).syncfs(descriptor)  # Linux; what it cannot say, each file's own sync will
        finally:
            os.close(descriptor)
