"""A WebSocket through us: bytes both ways with back-pressure, and an end after which pages connect again.

Nothing in it is read but where its frames begin (RFC 6455 5.2): only there may our own Close be put in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from failover.proxy import faults
from failover.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection

# Close, 1012 "service restart": pages connect again, and reach whoever answers then.
CLOSE_1012: Final = b"\x88\x02\x03\xf4"


class FrameBorders:
    """Knows whether the bytes so far end where a frame ends. Pure."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    @property
    def between(self) -> bool:
        return not self._header and not self._left

    def feed(self, data: bytes) -> None:
        place = 0
        while place < len(data):
            if self._left:
                step = min(self._left, len(data) - place)
                self._left -= step
                place += step
                continue
            missing = _header_length(self._header) - len(self._header)
            self._header += data[place : place + missing]
            place += missing
            if len(self._header) == _header_length(self._header):
                self._left = _payload_length(self._header)
                self._header = b""


def _header_length(header: bytes) -> int:
    if len(header) < 2:
        return 2
    extended = {126: 2, 127: 8}.get(header[1] & 0x7F, 0)
    return 2 + extended + (4 if header[1] & 0x80 else 0)


def _payload_length(header: bytes) -> int:
    short = header[1] & 0x7F
    if short < 126:
        return short
    return int.from_bytes(header[2 : 4 if short == 126 else 10], "big")


class Tunnel:
    __slots__ = ("_borders", "_caller", "_connection", "_on_end", "_over", "_sent_bytes")

    def __init__(
        self, caller: CallerConnection, connection: UpstreamConnection, on_end: Callable[[int], None]
    ) -> None:
        self._caller = caller
        self._connection = connection
        self._on_end = on_end
        self._borders = FrameBorders()
        self._sent_bytes = 0
        self._over = False

    def begin(self, from_upstream: bytes, from_caller: bytes) -> None:
        """From here on it takes what comes; these bytes came with the head of the answer, and before it."""
        self._connection.asker, self._connection.tunnel = None, self
        if from_upstream:
            self.from_upstream(from_upstream)
        if from_caller:
            self.from_caller(from_caller)

    def from_upstream(self, data: bytes) -> None:
        self._borders.feed(data)
        self._sent_bytes += len(data)
        self._caller.write(data)
        if self._caller.write_paused:
            self._connection.pause_reading()

    def from_caller(self, data: bytes) -> None:
        self._connection.write(data)
        if self._connection.write_paused:
            self._caller.pause_reading()

    def caller_paused(self) -> None:
        self._connection.pause_reading()

    def caller_writable(self) -> None:
        self._connection.resume_reading()

    def upstream_writable(self) -> None:
        self._caller.resume_reading()

    def upstream_ended(self) -> None:
        self.restart()

    def fault(self, error: Exception) -> None:
        faults.report(error)
        self._caller.abort()  # inside a frame, perhaps: no Close of ours would be read

    def restart(self) -> None:
        """The upstream is gone, or is to be left: tell the page to connect again."""
        if self._over:
            return
        if self._borders.between:
            self._caller.write(CLOSE_1012)
        self._end()

    def close(self) -> None:
        """The caller has left."""
        self._over = True
        self._connection.drop()

    def _end(self) -> None:
        self._over = True
        self._connection.drop()
        self._on_end(self._sent_bytes)
