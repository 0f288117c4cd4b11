"""What a caller's connection and one to an upstream have in common: how they read, and back-pressure.

Every read lands in one shared buffer and is copied once, at its real size. A plain connection of uvloop does
so by itself. Under TLS, and with asyncio's own loop, a `Protocol` gets a new buffer of 256 KB for each read,
which is mapped and faulted anew each time: there `Buffered` stands between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

# 128 KiB stays below the size at which malloc maps the copy anew each time.
READ_BYTES: Final = 128 * 1024
# One loop, one thread: what was read is copied out before anything else can be read.
READ_BUFFER: Final = memoryview(bytearray(READ_BYTES))
# Above it the writer is asked to pause; below the second it may go on.
WRITE_HIGH_BYTES: Final = 256 * 1024
WRITE_LOW_BYTES: Final = 64 * 1024


class Connection(asyncio.Protocol):
    __slots__ = ("closed", "reading_paused", "transport", "write_paused")

    def __init__(self) -> None:
        self.transport: Any = None
        self.closed = False
        self.reading_paused = False
        self.write_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.restore_limits()
        # uvloop's transports are no asyncio.Transport by class.
        if isinstance(transport, asyncio.Transport) or transport.get_extra_info("sslcontext") is not None:
            self.transport.set_protocol(Buffered(self))

    def let_go(self) -> None:
        """The transport is closed. What it holds of TLS, 200 KB, would wait for the collector of cycles."""
        self.transport = None

    def restore_limits(self) -> None:
        if not self.closed and not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)

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


class Buffered(asyncio.BufferedProtocol):
    """Reads into the shared buffer for `connection`, and hands it all that a transport calls."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get_buffer(self, sizehint: int) -> memoryview:
        return READ_BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(READ_BUFFER[:nbytes]))

    def eof_received(self) -> bool | None:
        return self._connection.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.connection_lost(error)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
