"""The connections to one upstream: opened with spacing, kept while idle, given to one exchange at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Final, Protocol

import structlog

from failover.aio import spawn
from failover.clock import Clock
from failover.errors import TlsUnusable
from failover.proxy.upstream import UpstreamConnection
from failover.proxy.upstreams import WebUpstream
from failover.tls import client_context

_log = structlog.get_logger(__name__)

# A PACS may close an idle connection after a second (Orthanc) or a minute; one that died is replaced unseen.
IDLE_S: Final = 15.0
# More than this many idle ones hold threads of the upstream for nothing.
MAX_IDLE: Final = 256
# A SYN that a full backlog dropped is sent again after 1 s; the verdict is `suspect` before that.
CONNECT_S: Final = 3.0
# Reconnects after a death need spacing: 40 at once overflowed a listen backlog of 5 (DESIGN 4.6).
BURST: Final = 4
SPACING_S: Final = 0.001
# How long resolved addresses are believed. When the resolver fails, old ones are better than none.
_ADDRESSES_S: Final = 30.0


class Opener(Protocol):
    """Who asked for a new connection."""

    def connected(self, connection: UpstreamConnection) -> None: ...
    def not_connected(self, error: Exception) -> None: ...
    def fault(self, error: Exception) -> None:
        """Our own code failed at it."""


class Pool:
    """All connections to one upstream."""

    def __init__(
        self, upstream: WebUpstream, max_head_bytes: int, clock: Clock, *, processes: int = 1
    ) -> None:
        """`processes` have such a pool to the same upstream: together they keep to the limits above."""
        self.upstream = upstream
        self._burst = max(1, BURST // processes)
        self._spacing_s = SPACING_S * processes
        self._max_idle = MAX_IDLE // processes
        self._max_head_bytes = max_head_bytes
        self._clock = clock
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._addresses: list[str] = []
        self._addresses_until_s = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._allowed = self._burst
        self._refilling: asyncio.TimerHandle | None = None

    def take(self) -> UpstreamConnection | None:
        """Return the idle connection that was used last, None when there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                connection.reused = True
                return connection
        return None

    def release(self, connection: UpstreamConnection) -> None:
        """`connection` has been answered whole and may be used again."""
        connection.asker = None
        if connection.reading_paused:
            connection.resume_reading()
        if connection.closed or len(self._idle) >= self._max_idle:
            connection.drop()
            return
        connection.idle_since_s = self._clock.monotonic()
        self._idle.append(connection)

    def open(self, opener: Opener) -> asyncio.Task[None]:
        """Make a new connection for `opener`; cancel the task when it is no longer wanted."""
        return spawn(self._connect(opener), name="proxy connect")

    async def _connect(self, opener: Opener) -> None:
        try:
            try:
                async with asyncio.timeout(CONNECT_S):
                    await self._turn()
                    connection = await self._dial()
            except (OSError, TimeoutError, TlsUnusable) as error:
                opener.not_connected(error)
            else:
                opener.connected(connection)
        except Exception as error:
            opener.fault(error)

    async def _dial(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        tls = self.upstream.tls
        context = None if tls is None else client_context(tls)
        name = None if tls is None else tls.name_for(self.upstream.host)
        error: OSError | None = None
        for address in await self._resolve():
            connection = UpstreamConnection(self, self._max_head_bytes)
            try:
                await loop.create_connection(
                    partial(_same, connection), address, self.upstream.port, ssl=context, server_hostname=name
                )
            except OSError as failed:
                error = failed
                continue
            if not connection.closed:  # uvloop makes one for an attempt that fails, too, and never ends it
                self._open.add(connection)
            if self._addresses[0] != address:
                self._addresses.remove(address)
                self._addresses.insert(0, address)  # what worked is tried first
            return connection
        raise error or OSError("no address")

    async def _resolve(self) -> list[str]:
        now_s = self._clock.monotonic()
        if now_s >= self._addresses_until_s:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    self.upstream.host, self.upstream.port, type=1
                )
            except OSError:
                if not self._addresses:
                    raise
            else:
                self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            self._addresses_until_s = now_s + _ADDRESSES_S
        return list(self._addresses)

    async def _turn(self) -> None:
        """Wait for this connection's turn: a few at once, then one a millisecond."""
        loop = asyncio.get_running_loop()
        if self._allowed > 0 and not self._waiting:
            self._allowed -= 1
        else:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            if self._refilling is None:
                self._refilling = loop.call_later(self._spacing_s, self._refill)
            await turn
            return
        if self._refilling is None:
            self._refilling = loop.call_later(self._spacing_s, self._refill)

    def _refill(self) -> None:
        self._refilling = None
        self._allowed = min(self._burst, self._allowed + 1)
        while self._allowed > 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._allowed -= 1
        if self._waiting or self._allowed < self._burst:
            self._refilling = asyncio.get_running_loop().call_later(self._spacing_s, self._refill)

    def lost(self, connection: UpstreamConnection) -> None:
        """`connection` has ended."""
        self._open.discard(connection)
        if connection.asker is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now_s: float) -> None:
        """Close what was idle for too long."""
        while self._idle and now_s - self._idle[0].idle_since_s > IDLE_S:
            self._idle.pop(0).drop()

    def close(self) -> None:
        if self._refilling is not None:
            self._refilling.cancel()
            self._refilling = None
        for connection in list(self._open):
            connection.drop()
        self._idle.clear()


def _same(connection: UpstreamConnection) -> UpstreamConnection:
    return connection
