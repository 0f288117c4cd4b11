"""The proxy as one thing: knows its callers and both upstreams, watches the route, ends in order.

Who is let in is the affair of the `gate`. Who answers a request is decided in `retry` (pure) and carried out
by `exchange`.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.clock import Clock
from failover.config.schema import Hedge, ListenWeb
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
from failover.proxy.gate import Gate
from failover.proxy.hedge import Hedging
from failover.proxy.login import LoginExchange
from failover.proxy.phase import LINGER
from failover.proxy.pool import Pool
from failover.proxy.rewrite import Reach
from failover.proxy.side import Side
from failover.proxy.upstreams import WebUpstream
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind, choose
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


class Sight:
    """What a request sees of the route: where it goes, the verdict on the primary, whether it is forced."""

    __slots__ = ("choice", "forced", "primary")

    def __init__(self, choice: Choice, primary: Verdict | None, forced: bool) -> None:
        self.choice = choice
        self.primary = primary
        self.forced = forced


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
        self.board = board
        self.admits = admits
        self.admission = admission
        self.learns = admission is not None and admission.remembered is not None
        self.hedging = Hedging(hedge, os.urandom(32)) if hedge is not None and len(upstreams) > 1 else None
        self.metrics = metrics
        self.clock = clock
        self.spool = spool
        self.scheme = b"http" if identity is None else b"https"
        self.prefix = _callers_prefix(upstreams)
        """The callers' DICOMweb prefix: the primary's, else the backup's. None: there is no DICOMweb."""
        self.sides = {
            name: Side(one, Pool(one, listen.max_head_bytes, clock, processes=listen.workers), traffic[name])
            for name, one in upstreams.items()
        }
        shares = shares or alone()
        self.held = shares[Bound.HELD_BYTES]
        self.stopping = False
        self.last_store_on_backup_s: float | None = None
        """Monotonic time of the last STOW that the backup acknowledged."""
        self.gate = Gate(listen, admits, lambda: CallerConnection(self), metrics, clock, shares, identity)
        self._callers = self.gate.callers
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
        self._tasks: list[asyncio.Task[None]] = []
        for name in upstreams:
            metrics.http_in_flight.labels(name.value).set_function(partial(self.in_flight, name))
        metrics.http_connections.set_function(lambda: len(self._callers))

    # -- life

    async def start(self, sock: socket.socket) -> None:
        """Serve callers on `sock`, a listening socket, until `stop`."""
        self._tasks = [
            spawn(self._watch_route(), name="proxy route"),
            spawn(self._sweep(), name="proxy sweep"),
        ]
        if self.admission is not None:
            self.admission.start()
        self.gate.open(sock)

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let requests end for `grace_s` seconds, then break what is left."""
        self.stopping = True
        self.gate.shut()  # 1. accept nothing new
        gone = self.gate.gone
        for caller in list(self._callers):
            if caller.asks_nothing and caller.asked_before:
                caller.close()  # 2. who asks for nothing goes at once
        # Who has just come will ask: closed now, it would see a connection that dies without an answer.
        await gone.wait_until(lambda: not self._newcomers(), timeout_s=min(grace_s, NEWCOMERS_S))
        for caller in self._newcomers():
            caller.close()
        # 3. let requests end; each answer says `Connection: close` now
        await gone.wait_until(lambda: not self._busy(), timeout_s=grace_s)
        left = list(self._callers)
        for caller in left:
            caller.abort()  # 4. break what is left, and say so
        if left:
            _log.warning("requests broken at stop", connections=len(left))
        await gone.wait_until(lambda: not self._callers, timeout_s=1.0)
        if self.copies is not None:
            await self.copies.stop()
        for side in self.sides.values():
            side.pool.close()  # 5. nobody asks any more
        await cancel_and_wait(*self._tasks)
        if self.admission is not None:
            await self.admission.stop()
        self.access.close()
        await self.gate.close()

    def change(self, listen: ListenWeb, admits: Callable[[str], bool], hedge: Hedge | None = None) -> None:
        """Go by these limits and addresses from the next request on, also of callers who are connected."""
        self.listen, self.admits = listen, admits
        self.gate.change(listen, admits)
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
        side = self.sides.get(upstream)
        return 0 if side is None else side.flights

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
        if upstream in self.sides:
            self.sides[upstream].pool.sweep(math.inf)
        return ended

    def _newcomers(self) -> list[CallerConnection]:
        return [caller for caller in self._callers if caller.asks_nothing]

    def _busy(self) -> bool:
        return any(caller.phase is not LINGER for caller in self._callers)

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
            for side in self.sides.values():
                side.pool.sweep(now_s)
            self.access.flush()
            self.gate.sweep()
            if self.stopping:
                self.gate.gone.fire()

    # -- what exchanges ask and tell

    def reach(self, asked: Asked) -> Mapping[UpstreamName, Reach]:
        """What asking each upstream leads to; worked out once for all requests that are alike in it."""
        alike = (asked.route, asked.kind, asked.below_prefix is None, asked.ours)
        found = self._reach.get(alike)
        if found is None:
            found = self._reach[alike] = {
                name: rewrite.reach(asked, side.upstream) for name, side in self.sides.items()
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


def _callers_prefix(upstreams: Mapping[UpstreamName, WebUpstream]) -> bytes | None:
    for name in (UpstreamName.PRIMARY, UpstreamName.BACKUP):
        one = upstreams.get(name)
        if one is not None and one.dicomweb_path is not None:
            return one.dicomweb_path.rstrip("/").encode()
    return None
