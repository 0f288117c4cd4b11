"""Where the bytes that a connection reads land, and the PDUs in them. Neither knows what a PDU means.

Usually everything lands in one buffer of the thread, and what of it stays is copied out. A long read of a
data set stays where it landed: no byte of an instance is copied between the socket it comes from and the one
it goes to, nor to be kept. A buffer is used again when nobody holds a view of it any more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

from failover.dicom.pdu import PduReader
from failover.dicom.units import Pdu

BUFFER_BYTES: Final = 256 * 1024
# Whoever keeps a piece keeps the buffer: of one that is kept at least half has been filled at once.
LEAST_IN_PLACE_BYTES: Final = BUFFER_BYTES // 2
_LEAST_ROOM_BYTES: Final = 32 * 1024  # with less of it the next buffer is begun
_KEPT_FREE: Final = 32  # buffers that a thread keeps to be used again
_threads = threading.local()


class _Buffers:
    """The buffers of one thread, some of them in use."""

    def __init__(self) -> None:
        self._all = [bytearray(BUFFER_BYTES)]
        self._last = 0  # where the last free one was

    def free(self) -> bytearray:
        """Return one that nobody looks into; it is the caller's for as long as there is a view of it."""
        if _is_free(self._all[self._last]):
            return self._all[self._last]
        for place, buffer in enumerate(self._all):
            if _is_free(buffer):
                self._last = place
                return buffer
        fresh = bytearray(BUFFER_BYTES)
        if len(self._all) < _KEPT_FREE:
            self._last = len(self._all)
            self._all.append(fresh)
        return fresh


def _is_free(buffer: bytearray) -> bool:
    """Whether there is no view of it: Python lets none that is looked into change its size."""
    try:
        buffer.pop()
    except BufferError:
        return False
    buffer.append(0)
    return True


def _of_thread() -> _Buffers:
    buffers: _Buffers | None = getattr(_threads, "buffers", None)
    if buffers is None:
        buffers = _threads.buffers = _Buffers()
    return buffers


class Reading:
    """The byte stream of one connection. After `arrived` has raised, it is to be thrown away."""

    def __init__(self, max_pdu_bytes: int) -> None:
        self._reader = PduReader(max_pdu_bytes)
        self._buffers = _of_thread()
        self._landing: bytearray | None = None  # the buffer of the read under way: no view, it is not ours
        self._own: memoryview | None = None  # one that is ours until it is full, or the data set ends
        self._start = 0  # of what is not yet a PDU, in `_own`
        self._filled = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished PDU are kept."""
        return self._reader.held_bytes + (0 if self._own is None else self._filled - self._start)

    def room(self) -> memoryview:
        """Return where the next read is to land."""
        if self._own is not None:
            return self._own[self._filled :]
        self._landing = self._buffers.free()
        return memoryview(self._landing)

    def arrived(self, count: int) -> Iterator[Pdu]:
        """Yield each PDU that is complete now that `count` bytes have landed. To be exhausted, then `settle`.

        Raises as `PduReader.receive_data`.
        """
        own = self._own
        if own is None:
            assert self._landing is not None, "nothing was read"
            landed = memoryview(self._landing)
            if count < LEAST_IN_PLACE_BYTES:
                yield from self._reader.receive_data(landed[:count])
                return
            own = self._own = landed
            self._start = self._filled = 0
        self._filled += count
        yield from self._reader.receive_data(own[self._start : self._filled], stays=True)
        self._start = self._filled - self._reader.left_bytes

    def settle(self, *, in_data_set: bool) -> None:
        """Give the buffer back once the data set has come to its end; begin the next when it is full."""
        own = self._own
        if own is None or (in_data_set and len(own) - self._filled >= _LEAST_ROOM_BYTES):
            return
        left = own[self._start : self._filled]
        if in_data_set and len(left) < LEAST_IN_PLACE_BYTES:
            self._own = memoryview(self._buffers.free())
            self._own[: len(left)] = left
            self._start, self._filled = 0, len(left)
            return
        self._own = None
        list(self._reader.receive_data(left))  # no PDU comes of it: it is kept

    def close(self) -> None:
        """Give all buffers back: what still lands is not looked at."""
        self._own = self._landing = None
