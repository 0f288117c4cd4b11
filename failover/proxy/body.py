"""The body of one request on its way to an upstream: passed on, or kept so that it can be sent again.

How a body is kept is a policy, chosen per request: `Keep.NONE` (what was sent is gone) or `Keep.SPOOL`
(memory, then disk; bounded). When the spool is full the rest goes on unprotected: `kept_whole` is False.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from failover.aio import spawn
from failover.errors import SpoolFull
from failover.spool import KeptBody, Spool

# What waits here for a slow upstream before the caller is paused, and where it may go on.
_WINDOW_HIGH_BYTES: Final = 256 * 1024
_WINDOW_LOW_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 128 * 1024


class Keep(StrEnum):
    NONE = "none"
    SPOOL = "spool"


class RequestBody:
    """Bytes come in by `append` and `finish`, go out by `take`; `rewind` starts again from the first."""

    def __init__(self, keep: Keep, spool: Spool, on_more: Callable[[], None]) -> None:
        self._kept: KeptBody | None = None
        if keep is Keep.SPOOL:
            self._kept = spool.open()
            self._kept.on_change = self._kept_changed
        self._on_more = on_more
        self._window: deque[bytes] = deque()
        self._window_bytes = 0
        self._offset = 0  # what of the kept part was taken
        self._reading: asyncio.Task[None] | None = None
        self._read_ahead = b""
        self.whole = False
        """The caller has sent all of it."""
        self.kept_whole = keep is Keep.SPOOL
        """Nothing of it was, or will be, given away for good."""
        self.lost = False
        """A kept part cannot be read back: this request cannot go on."""

    def append(self, data: bytes) -> None:
        if self.kept_whole:
            assert self._kept is not None
            try:
                self._kept.append(data)
                return
            except SpoolFull:
                self.kept_whole = False
        self._window.append(data)
        self._window_bytes += len(data)

    @property
    def full(self) -> bool:
        """Whether the caller should pause. It may go on when `on_more` is called and this is False."""
        if self.kept_whole:
            return self._kept is not None and self._kept.busy
        return self._window_bytes > _WINDOW_HIGH_BYTES

    @property
    def roomy(self) -> bool:
        return not self.full and (self.kept_whole or self._window_bytes < _WINDOW_LOW_BYTES)

    @property
    def exhausted(self) -> bool:
        """Whether all of it was taken."""
        return (
            self.whole
            and not self._window
            and not self._read_ahead
            and (self._kept is None or self._offset >= self._kept.length_bytes)
        )

    def take(self) -> bytes:
        """Return the next piece; b"" when there is none now: `on_more` is called when there may be."""
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead, b""
            self._offset += len(data)
            return data
        kept = self._kept
        if kept is not None and self._offset < kept.length_bytes:
            if self._reading is not None:
                return b""
            piece = kept.read_now(self._offset, _PIECE_BYTES)
            if piece is None:
                self._reading = spawn(self._read(kept, self._offset), name="spool read")
                return b""
            self._offset += len(piece)
            return piece
        if self._window:
            data = self._window.popleft()
            self._window_bytes -= len(data)
            return data
        return b""

    async def _read(self, kept: KeptBody, offset: int) -> None:
        try:
            data = await kept.read(offset, _PIECE_BYTES)
        except SpoolFull:
            data = b""
        self._reading = None
        if self._offset != offset:
            pass  # rewound meanwhile
        elif data:
            self._read_ahead = data
        else:
            self.lost = True
        self._on_more()

    def rewind(self) -> None:
        """Start again. Only while `kept_whole`, or before anything was taken."""
        self._offset = 0
        self._read_ahead = b""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _kept_changed(self) -> None:
        if self._kept is not None and self._kept.failed:
            self.kept_whole = False
            self.lost = self.lost or not self._kept_readable()
        self._on_more()

    def _kept_readable(self) -> bool:
        kept = self._kept
        return kept is None or kept.read_now(self._offset, 1) is not None or self._offset < kept.on_disk_bytes

    def hand_over(self) -> KeptBody | None:
        """Return the whole body, which is now its receiver's to close; None when it was not kept whole."""
        kept = self._kept
        if kept is None or not (self.whole and self.kept_whole) or kept.failed:
            return None
        self._kept = None
        return kept

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self._window.clear()
        self._window_bytes = 0
