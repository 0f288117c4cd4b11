"""What a caller's connection and one to an upstream have in common: a shared read buffer, and back-pressure.

A `BufferedProtocol` on purpose: every read lands in one shared buffer and is copied once, at its real size.
With `Protocol`, asyncio makes a new 256 KB buffer for each read, which is mapped and faulted anew each time;
128 KiB stays below the size at which malloc does so for the copy. (uvloop gives a class that inherits from
both protocols `data_received` and never the buffer, so this inherits from one alone.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

READ_BYTES: Final = 128 * 1024
# One loop, one thread: what was read is copied out before anything else can be read.
READ_BUFFER: Final = memoryview(bytearray(READ_BYTES))
# Above it the writer is asked to pause; below the second it may go on.
WRITE_HIGH_BYTES: Final = 256 * 1024
WRITE_LOW_BYTES: Final = 64 * 1024


class Connection(asyncio.BufferedProtocol):
    __slots__ = ("closed", "reading_paused", "transport", "write_paused")

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = False
        self.reading_paused = False
        self.write_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.restore_limits()

    def let_go(self) -> None:
        """The transport is closed. What it holds of TLS, 200 KB, would wait for the collector of cycles."""
        self.transport = None

    def restore_limits(self) -> None:
        if not self.closed and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.transport.write(data)

    def write_pieces(self, pieces: Sequence[bytes]) -> None:
        if not self.closed:
            self.transport.writelines(pieces)

    def pause_reading(self) -> None:
        if not self.reading_paused and not self.closed and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self.reading_paused and not self.closed:
            self.reading_paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()
