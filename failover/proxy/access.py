"""The access log: one line per request, made cheaply, written by a thread that may wait for the disk.

Lines gather for a quarter of a second and go out in one piece. When standard error takes them too slowly they
are dropped and counted: no request waits for its line. Never a path or a query: they hold UIDs and names.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Final

from failover.clock import Clock
from failover.durable import write_whole

# Lines kept before they are handed over ahead of time.
_HAND_OVER: Final = 512
# Pieces that wait for the thread; beyond it lines are lost. 64 of 512 lines are some 6 MB.
_WAITING: Final = 64
# A longer write into a pipe is not atomic: lines of other processes could stand inside ours (POSIX PIPE_BUF).
_PIPE_BYTES: Final = 4096
_WHATS: Final = 512
# The longest registered method has 17 characters; anyone may invent one as long as a head.
_METHOD_BYTES: Final = 32
_WHOLE: Final = " broken=false\n"
_BROKEN: Final = " broken=true\n"


class AccessLog:
    """Writes lines to `descriptor`. `note` and `flush` belong to one thread."""

    def __init__(
        self,
        clock: Clock,
        *,
        every: int = 1,
        on_lost: Callable[[int], None] = lambda lines: None,
        descriptor: int = 2,
        prefix: str = "level=info component=router event=request",
    ) -> None:
        """`every`: a line for each n-th request; 0: for none. What failed has its line unless it is 0."""
        self._clock = clock
        self._every = every
        self._on_lost = on_lost
        self._descriptor = descriptor
        self._prefix = prefix
        self._passed = 0
        self._lines: list[str] = []
        self._waiting: SimpleQueue[list[str] | None] = SimpleQueue()
        self._writer: threading.Thread | None = None
        self._offset_s = self._wall_offset_s()
        self._second = -1
        self._stamp = ""
        self._whats: dict[tuple[bytes, str, int, str], str] = {}

    def _wall_offset_s(self) -> float:
        return self._clock.wall().timestamp() - self._clock.monotonic()

    def note(
        self, now_s: float, method: bytes, route: str, status: int, upstream: str, took_s: float,
        body_bytes: int, caller: str, *, broken: bool,
    ) -> None:  # fmt: skip
        """Keep the line of one request that ended at `now_s` (monotonic)."""
        every = self._every
        if every != 1:
            self._passed += 1
            if not every or (self._passed % every and status < 500 and not broken):
                return
        wall_s = now_s + self._offset_s
        second = int(wall_s)
        if second != self._second:
            self._second, self._stamp = second, f"timestamp={_stamp(second)}."
        key = (method[:_METHOD_BYTES], route, status, upstream)
        what = self._whats.get(key) or self._what(key)
        tenths = int(took_s * 10_000 + 0.5)
        micros = str(1_000_000 + int((wall_s - second) * 1e6))  # six digits, and one to cut off
        lines = self._lines
        lines.append(
            f"{self._stamp}{micros[1:]}{what}{tenths // 10}.{tenths % 10}"
            f" bytes={body_bytes} caller={caller}{_BROKEN if broken else _WHOLE}"
        )
        if len(lines) >= _HAND_OVER:
            self.flush()

    def _what(self, key: tuple[bytes, str, int, str]) -> str:
        """Return what the lines of requests that are alike have in common; worked out once."""
        method, route, status, upstream = key
        if len(self._whats) >= _WHATS:  # anyone may invent methods
            self._whats.clear()
        what = self._whats[key] = (
            f"Z {self._prefix} method={method.decode('ascii')} route={route} status={status}"
            f" upstream={upstream} took_ms="
        )
        return what

    def flush(self) -> None:
        """Hand what has gathered to the thread."""
        self._offset_s = self._wall_offset_s()  # the time of day may have been set
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._waiting.qsize() >= _WAITING:
            self._on_lost(len(lines))
            return
        if self._writer is None:
            self._writer = threading.Thread(target=self._write_all, name="access log", daemon=True)
            self._writer.start()
        self._waiting.put(lines)

    def close(self, *, wait_s: float = 1.0) -> None:
        """Write what is left; for at most `wait_s` seconds."""
        self.flush()
        thread, self._writer = self._writer, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(wait_s)

    # -- the thread

    def _write_all(self) -> None:
        try:
            at_most = _PIPE_BYTES if stat.S_ISFIFO(os.fstat(self._descriptor).st_mode) else 2**20
        except OSError:
            at_most = _PIPE_BYTES
        while (lines := self._waiting.get()) is not None:
            for piece in _pieces("".join(lines).encode(), at_most):
                try:
                    write_whole(self._descriptor, piece)
                except OSError:
                    break  # closed, or the disk is full: the next lines may fare better


def _pieces(data: bytes, at_most: int) -> list[bytes]:
    """Cut `data` behind ends of lines, into pieces of at most `at_most` bytes where lines allow it."""
    pieces, place = [], 0
    while len(data) - place > at_most:
        end = data.rfind(b"\n", place, place + at_most) + 1 or data.find(b"\n", place) + 1 or len(data)
        pieces.append(data[place:end])
        place = end
    pieces.append(data[place:])
    return pieces


def _stamp(second: int) -> str:
    """Return the time of day in UTC without its fraction, as the other lines of the log have it."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
