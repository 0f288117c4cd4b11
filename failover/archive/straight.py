"""New files whose content goes from our memory to the disk, past the system's cache. Blocking; never synced.

The cache takes fresh memory for each object: that costs more than all the rest of a store, and the object is
hardly ever looked at while it lies there. Small files, and those of a file system that knows no such writes,
go through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from failover.durable import write_whole

Buffer = bytes | bytearray | memoryview

# Smaller files cost less through the cache.
LEAST_BYTES: Final = 128 * 1024
# The memory that is written from: one for each thread. Larger files go through the cache.
_MOST_BYTES: Final = 1024 * 1024 + 64 * 1024
# So many the system takes at once (IOV_MAX of Linux).
_MOST_PIECES: Final = 1024
# Where such a write may begin and end, on the disk and in memory.
_BLOCK_BYTES: Final = 4096
_threads = threading.local()


def write_new(path: Path, pieces: Sequence[Buffer]) -> None:
    """Make the file `path`, which is not there yet. Raises OSError; then a part of it may be there."""
    size = sum(map(len, pieces))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        done = _straight(descriptor, pieces, size) if LEAST_BYTES <= size <= _MOST_BYTES else 0
        if done == 0:
            done = os.writev(descriptor, pieces[:_MOST_PIECES])
        if done < size:
            os.lseek(descriptor, done, os.SEEK_SET)
            write_whole(descriptor, memoryview(b"".join(pieces))[done:])
    finally:
        os.close(descriptor)


def _straight(descriptor: int, pieces: Sequence[Buffer], size: int) -> int:
    """Write whole blocks from the beginning; return how many bytes, 0 where it cannot be done so."""
    memory = _memory()
    at = 0
    for piece in pieces:
        memory[at : at + len(piece)] = piece
        at += len(piece)
    whole = size // _BLOCK_BYTES * _BLOCK_BYTES
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_DIRECT)
        done = os.pwrite(descriptor, memory[:whole], 0)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    except OSError:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
        return 0
    if done == whole:
        done += os.pwrite(descriptor, memory[whole:size], whole)
    return done


def _memory() -> memoryview:
    memory: memoryview | None = getattr(_threads, "memory", None)
    if memory is None:
        memory = _threads.memory = memoryview(mmap.mmap(-1, _MOST_BYTES))
    return memory
