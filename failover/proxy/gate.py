"""The door for callers: takes them out of the backlog, one after the other, and says who is let in.

Beyond `max_connections` they wait in the backlog. One address may have only so many, and the last places are
kept for addresses that `access.web` names: whoever is turned away hears why. With several web workers none
takes what another could.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import structlog

from failover.addresses import who
from failover.aio import Signal, spawn
from failover.clock import Clock
from failover.config.schema import ListenWeb
from failover.doors import HandshakeLimits, Handshakes
from failover.metrics import RouterMetrics
from failover.proxy import rewrite
from failover.proxy.caller import CallerConnection
from failover.seldom import Seldom
from failover.shares import Bound, Shares
from failover.tls import ServerIdentity

_log = structlog.get_logger(__name__)

# Connections taken from the backlog at one wake-up, so that a flood of them does not starve the others.
ACCEPTS: Final = 64
# The same where several processes take from one backlog: who wakes first must not take what the others could.
ACCEPTS_OF_ONE: Final = 4
# Whoever sleeps last wakes first: with this many connections more than another has, it lets the others go
# before it for a moment. Not for longer: they may be dead.
AHEAD: Final = 4
AFTER_YOU_S: Final = 0.005
# Who is turned away hears why and has a moment to close; beyond so many at once they are cut off.
TURNED_AWAY: Final = 64
# Callers who have not finished their TLS handshake; one takes 10 to 50 KB until it is done or over.
HANDSHAKES: Final = 512
HANDSHAKES_OF_ONE: Final = 256
HANDSHAKE_S: Final = 10.0
_TO_PLAIN: Final = "this port speaks TLS: use https"


class Gate:
    """Owns the listening socket and knows who is in."""

    def __init__(
        self,
        listen: ListenWeb,
        admits: Callable[[str], bool],
        make: Callable[[], CallerConnection],
        metrics: RouterMetrics,
        clock: Clock,
        shares: Shares,
        identity: ServerIdentity | None,
    ) -> None:
        self.callers: set[CallerConnection] = set()
        self.gone = Signal()
        """Fires whenever one has gone."""
        self._listen, self._admits = listen, admits
        self._make = make
        self._metrics = metrics
        self._connections = shares[Bound.CONNECTIONS]
        self._crowd = shares.crowd
        self._handshakes = None if identity is None else _handshakes(identity, listen)
        self._seldom = Seldom(clock)
        self._turned_away = 0
        self._sock: socket.socket | None = None
        self._shut = False
        self._accepting = False
        self._yielded = False

    # -- life

    def open(self, sock: socket.socket) -> None:
        """Take callers from `sock`, a listening socket, until `shut`."""
        sock.setblocking(False)
        self._sock = sock
        self._accept_on()

    def shut(self) -> None:
        """Take nobody in any more; whoever waits in the backlog is the next process's."""
        self._shut = True
        self._accept_off()

    async def close(self) -> None:
        if self._handshakes is not None:
            await self._handshakes.stop()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def change(self, listen: ListenWeb, admits: Callable[[str], bool]) -> None:
        """Go by these limits and addresses from now on."""
        self._listen, self._admits = listen, admits

    def sweep(self) -> None:
        """Look whether there is room again: what went may have gone from another process."""
        if not self._is_full():
            self._accept_on()

    # -- accepting

    def _accept_on(self) -> None:
        if self._sock is not None and not self._accepting and not self._shut:
            self._accepting = True
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _accept_off(self) -> None:
        if self._sock is not None and self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        """Take callers out of the backlog; beyond max_connections they wait in it."""
        sock = self._sock
        for _ in range(ACCEPTS if self._listen.workers == 1 else ACCEPTS_OF_ONE):
            if sock is None or self._shut:
                return
            if self._is_full():
                self._accept_off()
                return
            if self._connections.ahead() >= AHEAD and not self._yielded:
                self._yielded = True
                self._accept_off()
                asyncio.get_running_loop().call_later(AFTER_YOU_S, self._after_you)
                return
            try:
                accepted, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors left, most likely: the sweep tries again.
                _log.error("cannot accept", error=error.strerror)
                self._accept_off()
                return
            accepted.setblocking(False)
            if self._handshakes is not None:
                self._handshakes.begin(accepted, self._make)
            else:
                spawn(self._serve(accepted), name="proxy accept")

    def _after_you(self) -> None:
        """Take what the others have left."""
        self._accept_on()
        if self._accepting:
            self._accept()
        self._yielded = False

    def _is_full(self) -> bool:
        return self._connections.total() >= self._listen.max_connections

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, accepted)
        except OSError:
            accepted.close()

    # -- who is in

    def came(self, caller: CallerConnection, *, trusted: bool) -> None:
        """One more connection; from the proxies in front of us as many as there is room for."""
        full = self._no_room_for(caller) if not trusted else None
        if full is None and not trusted:
            caller.counted = who(caller.address)
            self._crowd.add(caller.counted, 1)
        self.callers.add(caller)
        self._connections.used = len(self.callers)
        if full is not None:
            self._turn_away(caller, full)
        elif self._shut:
            caller.close()

    def went(self, caller: CallerConnection) -> None:
        self.callers.discard(caller)
        self._connections.used = len(self.callers)
        if caller.counted is not None:
            self._crowd.add(caller.counted, -1)
        else:
            self._turned_away -= caller.turned_away
        self.gone.fire()
        if not self._accepting:
            self._accept_on()

    def _no_room_for(self, caller: CallerConnection) -> str | None:
        """Return which limit keeps a new caller out."""
        listen = self._listen
        if self._crowd.of(who(caller.address)) >= listen.max_per_address:
            return "max_per_address"
        reserve = min(listen.reserve, listen.max_connections // 8)
        if self._connections.total() >= listen.max_connections - reserve and not self._admits(caller.address):
            return "reserve"
        return None

    def _turn_away(self, caller: CallerConnection, limit: str) -> None:
        self._metrics.http_turned_away.labels(limit).inc()
        count = self._seldom.due(limit)
        if count:
            _log.warning("turned away for want of room", limit=limit, count=count, last_peer=caller.address)
        if self._turned_away >= TURNED_AWAY:
            caller.abort()
            return
        self._turned_away += 1
        caller.turn_away()


def _handshakes(identity: ServerIdentity, listen: ListenWeb) -> Handshakes:
    limits = HandshakeLimits(min(HANDSHAKE_S, listen.head_timeout), HANDSHAKES, HANDSHAKES_OF_ONE)
    answer = rewrite.own_answer(400, _TO_PLAIN, close=True, head_only=False, location=None)
    return Handshakes(identity, limits, to_plain=answer)
