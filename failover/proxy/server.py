"""The proxy as one thing: accepts callers, knows both upstreams, watches the route, ends in order.

Who answers a request is decided in `retry` (pure) and carried out by `exchange`.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

import structlog

from failover.addresses import who
from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.config.schema import Hedge, ListenWeb
from failover.doors import HandshakeLimits, Handshakes
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import Service, UpstreamName, Verdict
from failover.proxy import rewrite
from failover.proxy.access import AccessLog
from failover.proxy.admission import Admission
from failover.proxy.caller import CallerConnection
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.copies import WebCopies
from failover.proxy.exchange import Exchange
from failover.proxy.hedge import Hedging
from failover.proxy.login import LoginExchange
from failover.proxy.phase import LINGER
from failover.proxy.pool import Pool
from failover.proxy.rewrite import Reach
from failover.proxy.upstreams import WebUpstream
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind, choose
from failover.seldom import Seldom
from failover.shares import Bound, Shares, alone
from failover.spool import Spool
from failover.tallies import Cell, SpreadCell
from failover.tls import ServerIdentity

__all__ = ["Proxy", "WebUpstream"]

_log = structlog.get_logger(__name__)

# Time-outs are looked at this often; a timer of its own for each request would cost more than it tells.
SWEEP_S: Final = 0.25
# At a stop: how long a connection that was just let in may take to ask.
NEWCOMERS_S: Final = 0.5
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


class Sight(NamedTuple):
    """What a request sees of the route: where it goes, the verdict on the primary, whether it is forced."""

    choice: Choice
    primary: Verdict | None
    forced: bool


class Proxy:
    """The HTTP reverse proxy on `listen.web`."""

    def __init__(
        self,
        listen: ListenWeb,
        upstreams: Mapping[UpstreamName, WebUpstream],
        board: RouteBoard,
        traffic: Mapping[UpstreamName, LiveTraffic],
        admits: Callable[[str], bool],
        metrics: RouterMetrics,
        clock: Clock,
        spool: Spool,
        identity: ServerIdentity | None = None,
        copies: WebCopies | None = None,
        admission: Admission | None = None,
        shares: Shares | None = None,
        hedge: Hedge | None = None,
        component: str = "router",
    ) -> None:
        """`identity`: callers must speak TLS, and get this certificate. Without `copies`, none is made.

        Without `hedge` no read is asked of both.
        `shares`: of the bounds that all web workers keep together. `component`: our name in the access log.

        `admits` tells of an address, `admission` of what a caller shows, whether the backup may answer it.
        """
        self.listen = listen
        self.copies = copies
        self.upstreams = upstreams
        self.board = board
        self.traffic = traffic
        self.admits = admits
        self.admission = admission
        self.learns = admission is not None and admission.remembered is not None
        self.hedging = Hedging(hedge, os.urandom(32)) if hedge is not None and len(upstreams) > 1 else None
        self.metrics = metrics
        self.clock = clock
        self.spool = spool
        self.scheme = b"http" if identity is None else b"https"
        self._handshakes = None if identity is None else _handshakes(identity, listen)
        self.prefix = _callers_prefix(upstreams)
        """The callers' DICOMweb prefix: the primary's, else the backup's. None: there is no DICOMweb."""
        self.pools = {
            name: Pool(one, listen.max_head_bytes, clock, processes=listen.workers)
            for name, one in upstreams.items()
        }
        self.flights = dict.fromkeys(UpstreamName, 0)
        shares = shares or alone()
        self.held = shares[Bound.HELD_BYTES]
        self.stopping = False
        self.last_store_on_backup_s: float | None = None
        """Monotonic time of the last STOW that the backup acknowledged."""
        self._callers: set[CallerConnection] = set()
        self._connections = shares[Bound.CONNECTIONS]
        self._crowd = shares.crowd
        self._turned_away = 0
        self._seldom = Seldom(clock)
        self._reach: dict[tuple[WebRoute, Kind, bool, bool], dict[UpstreamName, Reach]] = {}
        self._seen = board.current
        self._sights: dict[Kind, Sight] = {}
        self._cells: dict[tuple[str, str, int], tuple[Cell, SpreadCell]] = {}
        self.access = AccessLog(
            clock,
            every=listen.access_log,
            on_lost=metrics.http_log_lost.inc,
            prefix=f"level=info component={component} event=request",
        )
        self._gone = Signal()
        self._sock: socket.socket | None = None
        self._accepting = False
        self._yielded = False
        self._tasks: list[asyncio.Task[None]] = []
        for name in upstreams:
            metrics.http_in_flight.labels(name.value).set_function(partial(self.in_flight, name))
        metrics.http_connections.set_function(lambda: len(self._callers))

    # -- life

    async def start(self, sock: socket.socket) -> None:
        """Serve callers on `sock`, a listening socket, until `stop`."""
        sock.setblocking(False)
        self._sock = sock
        self._tasks = [
            spawn(self._watch_route(), name="proxy route"),
            spawn(self._sweep(), name="proxy sweep"),
        ]
        if self.admission is not None:
            self.admission.start()
        self._accept_on()

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let requests end for `grace_s` seconds, then break what is left."""
        self.stopping = True
        self._accept_off()  # 1. accept nothing new; whoever waits in the backlog is the next process's
        for caller in list(self._callers):
            if caller.asks_nothing and caller.asked_before:
                caller.close()  # 2. who asks for nothing goes at once
        # Who has just come will ask: closed now, it would see a connection that dies without an answer.
        await self._gone.wait_until(lambda: not self._newcomers(), timeout_s=min(grace_s, NEWCOMERS_S))
        for caller in self._newcomers():
            caller.close()
        # 3. let requests end; each answer says `Connection: close` now
        await self._gone.wait_until(lambda: not self._busy(), timeout_s=grace_s)
        left = list(self._callers)
        for caller in left:
            caller.abort()  # 4. break what is left, and say so
        if left:
            _log.warning("requests broken at stop", connections=len(left))
        await self._gone.wait_until(lambda: not self._callers, timeout_s=1.0)
        if self.copies is not None:
            await self.copies.stop()
        for pool in self.pools.values():
            pool.close()  # 5. nobody asks any more
        await cancel_and_wait(*self._tasks)
        if self._handshakes is not None:
            await self._handshakes.stop()
        if self.admission is not None:
            await self.admission.stop()
        self.access.close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def change(self, listen: ListenWeb, admits: Callable[[str], bool], hedge: Hedge | None = None) -> None:
        """Go by these limits and addresses from the next request on, also of callers who are connected."""
        self.listen, self.admits = listen, admits
        if self.hedging is not None and hedge is not None:
            self.hedging.policy = hedge
        for caller in self._callers:
            caller.forget_admission()

    @property
    def connections(self) -> int:
        """How many connections of callers are open."""
        return len(self._callers)

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many requests, answers and tunnels are at `upstream` now."""
        return self.flights[upstream]

    def end_work(self, upstream: UpstreamName) -> int:
        """End what is at `upstream`: what may be repeated goes elsewhere, the rest is cut and says so.

        Idle connections to it are closed too. Returns how many requests, answers and tunnels were there.
        """
        ended = 0
        for caller in list(self._callers):
            if caller.exchange is not None:
                try:
                    ended += caller.exchange.end_at(upstream)
                except Exception as error:
                    caller.fault(error)
            bound = caller.bound.pop(upstream, None)
            if bound is not None:
                bound.drop()
        if upstream in self.pools:
            self.pools[upstream].sweep(math.inf)
        return ended

    def _newcomers(self) -> list[CallerConnection]:
        return [caller for caller in self._callers if caller.asks_nothing]

    def _busy(self) -> bool:
        return any(caller.phase is not LINGER for caller in self._callers)

    # -- accepting

    def _accept_on(self) -> None:
        if self._sock is not None and not self._accepting and not self.stopping:
            self._accepting = True
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _accept_off(self) -> None:
        if self._sock is not None and self._accepting:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        """Take callers out of the backlog; beyond max_connections they wait in it."""
        sock = self._sock
        for _ in range(ACCEPTS if self.listen.workers == 1 else ACCEPTS_OF_ONE):
            if sock is None or self.stopping:
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
                self._handshakes.begin(accepted, lambda: CallerConnection(self))
            else:
                spawn(self._serve(accepted), name="proxy accept")

    def _after_you(self) -> None:
        """Take what the others have left."""
        self._accept_on()
        if self._accepting:
            self._accept()
        self._yielded = False

    def _is_full(self) -> bool:
        return self._connections.total() >= self.listen.max_connections

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: CallerConnection(self), accepted)
        except OSError:
            accepted.close()

    def caller_came(self, caller: CallerConnection, *, trusted: bool) -> None:
        """One more connection; from the proxies in front of us as many as there is room for."""
        full = self._no_room_for(caller) if not trusted else None
        if full is None and not trusted:
            caller.counted = who(caller.address)
            self._crowd.add(caller.counted, 1)
        self._callers.add(caller)
        self._connections.used = len(self._callers)
        if full is not None:
            self._turn_away(caller, full)
        elif self.stopping:
            caller.close()

    def caller_went(self, caller: CallerConnection) -> None:
        self._callers.discard(caller)
        self._connections.used = len(self._callers)
        if caller.counted is not None:
            self._crowd.add(caller.counted, -1)
        else:
            self._turned_away -= caller.turned_away
        self._gone.fire()
        if not self._accepting:
            self._accept_on()

    def _no_room_for(self, caller: CallerConnection) -> str | None:
        """Return which limit keeps a new caller out."""
        listen = self.listen
        if self._crowd.of(who(caller.address)) >= listen.max_per_address:
            return "max_per_address"
        reserve = min(listen.reserve, listen.max_connections // 8)
        if self._connections.total() >= listen.max_connections - reserve and not self.admits(caller.address):
            return "reserve"
        return None

    def _turn_away(self, caller: CallerConnection, limit: str) -> None:
        self.metrics.http_turned_away.labels(limit).inc()
        count = self._seldom.due(limit)
        if count:
            _log.warning("turned away for want of room", limit=limit, count=count, last_peer=caller.address)
        if self._turned_away >= TURNED_AWAY:
            caller.abort()
            return
        self._turned_away += 1
        caller.turn_away()

    # -- watching

    async def _watch_route(self) -> None:
        while True:
            await self.board.changed.wait()
            for caller in list(self._callers):
                if caller.exchange is not None:
                    try:
                        caller.exchange.route_changed()
                    except Exception as error:
                        caller.fault(error)

    async def _sweep(self) -> None:
        while True:
            await self.clock.sleep(SWEEP_S)
            now_s = self.clock.monotonic()
            for caller in list(self._callers):
                try:
                    caller.sweep(now_s)
                except Exception as error:
                    caller.fault(error)
            for pool in self.pools.values():
                pool.sweep(now_s)
            self.access.flush()
            if not self._is_full():
                self._accept_on()
            if self.stopping:
                self._gone.fire()

    # -- what exchanges ask and tell

    def reach(self, asked: Asked) -> Mapping[UpstreamName, Reach]:
        """What asking each upstream leads to; worked out once for all requests that are alike in it."""
        alike = (asked.route, asked.kind, asked.below_prefix is None, asked.ours)
        found = self._reach.get(alike)
        if found is None:
            found = self._reach[alike] = {
                name: rewrite.reach(asked, one) for name, one in self.upstreams.items()
            }
        return found

    def sight(self, kind: Kind) -> Sight:
        """What a request of `kind` sees of the route; worked out once for each route."""
        route = self.board.current
        if route is not self._seen:
            self._seen = route
            self._sights.clear()
        found = self._sights.get(kind)
        if found is None:
            found = self._sights[kind] = Sight(
                choose(route, Service.WEB, kind),
                route.verdicts.get((UpstreamName.PRIMARY, Service.WEB)),
                route.forced is UpstreamName.PRIMARY,
            )
        return found

    def count(
        self,
        exchange: Exchange | LoginExchange,
        at: UpstreamName | None,
        status: int,
        body_bytes: int,
        *,
        broken: bool,
    ) -> None:
        """One request has ended. No path and no query in the log: they hold UIDs and names."""
        now_s = self.clock.monotonic()
        took_s = now_s - exchange.started_s
        upstream = "none" if at is None else at
        route = exchange.asked.route
        key = (upstream, route, status)
        cells = self._cells.get(key)
        if cells is None:
            cells = self._cells[key] = (
                self.metrics.http_requests.cell(upstream, route, str(status)),
                self.metrics.http_duration.cell(upstream, route),
            )
        cells[0].count += 1
        cells[1].observe(took_s)
        self.access.note(
            now_s, exchange.head.method, route, status, upstream, took_s, body_bytes,
            exchange.caller.address, broken=broken,
        )  # fmt: skip

    def count_refused(self, status: int) -> None:
        """A message that could not be read."""
        self.metrics.http_requests.cell("none", "other", str(status)).count += 1


def _handshakes(identity: ServerIdentity, listen: ListenWeb) -> Handshakes:
    limits = HandshakeLimits(min(HANDSHAKE_S, listen.head_timeout), HANDSHAKES, HANDSHAKES_OF_ONE)
    answer = rewrite.own_answer(400, _TO_PLAIN, close=True, head_only=False, location=None)
    return Handshakes(identity, limits, to_plain=answer)


def _callers_prefix(upstreams: Mapping[UpstreamName, WebUpstream]) -> bytes | None:
    for name in (UpstreamName.PRIMARY, UpstreamName.BACKUP):
        one = upstreams.get(name)
        if one is not None and one.dicomweb_path is not None:
            return one.dicomweb_path.rstrip("/").encode()
    return None
