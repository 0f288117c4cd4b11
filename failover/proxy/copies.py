"""The copy on the way, on the web: what the primary has acknowledged goes to the backup too.

With `replication.tee` each store is copied behind the caller's back; in `failing_back` the acknowledgement
waits for the copy, at most 1 s (DESIGN 4.4). A copy is never a debt and never a promise: what is dropped, the
replicator fetches. How the embedded archive knows a copy from a caller's store: `relay.copies` tells it, for
both go by the same control method; here the word stands in a header field.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from failover.aio import cancel_and_wait, spawn
from failover.copies import Copy, WaitingCopies
from failover.errors import ControlError, SpoolFull
from failover.metrics import RouterMetrics
from failover.proxy.stow import all_stored
from failover.shares import Share
from failover.spool import KeptBody

_log = structlog.get_logger(__name__)
COPY_FIELD: Final = "X-Failover-Copy"
_MESSAGE_ID: Final = 1
_EXPECTED_S: Final = 600.0  # how long the archive takes what comes under one word
_LANES: Final = 2  # at once: a STOW has many objects, and the archive's time is the callers'
_SILENT_S: Final = 30.0  # a copy of which nothing moves for so long is given up
_PIECE_BYTES: Final = 256 * 1024

Expect = Callable[[str, int, float], Awaitable[None]]
"""Tell the archive the word that a copy shows (twice: as text and a number), and for how many seconds."""


@dataclass(eq=False, slots=True)
class WebCopy(Copy):
    """One STOW, to `path` below the root."""

    path: str
    content_type: str


class WebCopies:
    """Sends copies over a few connections of its own, opened at the first."""

    def __init__(
        self,
        base: str,
        expect: Expect | None,
        metrics: RouterMetrics,
        *,
        tee: bool,
        waiting_bytes: Share | None = None,
        processes: int = 1,
    ) -> None:
        """`base`: the backup's DICOMweb root. `expect` None: a foreign backup, to which it is a store.

        `processes` copy to it; what waits in all of them counts in `waiting_bytes`.
        """
        self.tee = tee
        self._base = base
        self._expect = expect
        self._waiting: WaitingCopies[WebCopy] = WaitingCopies(metrics.http_copies, waiting_bytes)
        self._most_lanes = max(1, _LANES // processes)
        self._lanes: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    def offer(self, body: KeptBody, path: str, content_type: str) -> WebCopy | None:
        """Take over `body`, a whole store to `path` below the root. None: dropped, it stays the caller's."""
        copy = WebCopy(body, path, content_type)
        if not self._waiting.add(copy):
            return None
        # One that has ended is among them until its callback runs.
        if sum(not lane.done() for lane in self._lanes) < self._most_lanes:
            lane = spawn(self._serve(), name="web copying")
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return copy

    def drop(self) -> None:
        """Count a copy that is not made."""
        self._waiting.drop()

    async def stop(self) -> None:
        """End at once: what is left the replicator fetches."""
        await cancel_and_wait(*self._lanes)
        self._waiting.clear()
        if self._session is not None:
            await self._session.close()

    async def _serve(self) -> None:
        while self._waiting:
            copy = self._waiting.take(next(iter(self._waiting)))
            is_there = False
            try:
                is_there = await self._stored(copy)
            except (aiohttp.ClientError, OSError, ControlError, SpoolFull) as error:
                # A time-out is an OSError. What aiohttp's errors say may hold the URL: their name is enough.
                _log.info("copy not made", why=type(error).__name__)
            finally:
                self._waiting.end(copy, is_there=is_there)

    async def _stored(self, copy: WebCopy) -> bool:
        """Send it and return whether the backup has all of it now."""
        headers = {
            "Content-Type": copy.content_type,
            "Content-Length": str(copy.body.length_bytes),
            "Accept": "application/dicom+json",
        }
        if self._expect is not None:
            word = secrets.token_hex(8)
            await self._expect(word, _MESSAGE_ID, _EXPECTED_S)
            headers[COPY_FIELD] = word
        if self._session is None:
            limits = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=_SILENT_S)
            self._session = aiohttp.ClientSession(timeout=limits)
        url = self._base + copy.path
        async with self._session.post(url, data=_pieces(copy.body), headers=headers) as answer:
            return all_stored(answer.status, await answer.read())


async def _pieces(body: KeptBody) -> AsyncIterator[bytes]:
    """Yield what is kept. Raises SpoolFull when it cannot be read back."""
    at = 0
    while at < body.length_bytes:
        piece = await body.read(at, _PIECE_BYTES)
        if not piece:
            raise SpoolFull("what was kept cannot be read")
        at += len(piece)
        yield piece
