"""`failover router`: proxy, relay, health checks, routing and admin API in one process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from failover.admin.api import admin_app
from failover.aio import cancel_and_wait, spawn
from failover.app import listeners, process, supervisor
from failover.app.admission import admission_of, has_logins
from failover.app.identities import Identities
from failover.app.numbers import Others
from failover.app.operations import RouterOperations
from failover.app.reload import Reloader
from failover.app.shared_logins import Told, answers
from failover.app.store_totals import StoreSent
from failover.app.web import admits_of, expecting, proxy_of, spool_of, upstreams
from failover.app.web_words import JOIN
from failover.app.web_workers import WebWorkers
from failover.audit.events import EventKind
from failover.audit.trail import Trail
from failover.clock import Clock, SystemClock
from failover.config import Configuration, load
from failover.config.changes import changed
from failover.control import ControlServer, Json, socket_path
from failover.credentials.remembered import read_key
from failover.doors import Door, HandshakeLimits, Handshakes
from failover.durable import make_folder
from failover.health.checker import Checker, traffic_of
from failover.metrics import RouterMetrics
from failover.model import DicomPeer, Service, UpstreamName
from failover.relay.copies import Copies
from failover.relay.server import Relay
from failover.routing.controller import TRAIL_FILE, Controller, Hooks
from failover.routing.gauges import show_every_edge
from failover.routing.states import Numbers
from failover.shares import Shares, alone, inherited

_log = structlog.get_logger(__name__)

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
NUMBERS_EVERY_S: Final = 0.5
# How long requests and associations may take to end at a stop; the supervisor kills after 6 s.
GRACE_S: Final = 4.0
# Stores are held meanwhile; a worker that has not heard by then is not waited for.
ALL_HEARD_S: Final = 0.2
ADMIN_TO_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks TLS: use https\n"
)


def run(config_path: Path) -> int:
    """Route until SIGTERM; return the exit code. Raises ConfigurationError, PortTaken.

    With web workers and without a supervisor we become one, of a router and of them.
    """
    if not listeners.are_inherited():
        configuration = load(config_path)
        if configuration.listen.web.workers > 1:
            return supervisor.run_router(configuration, config_path)
    return process.run("router", config_path, _serve)


async def _serve(configuration: Configuration, stop: asyncio.Event, reloader: Reloader) -> int:
    opened = listeners.inherited() or listeners.open_all(configuration)
    router = Router(configuration, SystemClock(), inherited())
    await router.start(opened)
    reloader.takes(router.change)
    process.settle()
    await stop.wait()
    await router.stop()
    return 0


class Router:
    """The parts of the router, put together. `start` once, `stop` once."""

    def __init__(self, configuration: Configuration, clock: Clock, shares: Shares | None = None) -> None:
        self._configuration = configuration
        self._clock = clock
        self._metrics = RouterMetrics(CollectorRegistry())
        self._listening = False
        state_dir = configuration.state_dir
        make_folder(state_dir)
        self._identities = Identities(configuration, self._metrics, clock)
        traffic = traffic_of(configuration, clock)
        web_traffic = {name: lives for (name, service), lives in traffic.items() if service is Service.WEB}
        shares = shares or alone()
        self._spool = spool_of(configuration, shares)
        self._others = Others(
            state_dir, self._metrics, present=configuration.backup == "embedded", sent=self._replicator_sent
        )
        self._trail = Trail(state_dir / TRAIL_FILE, clock)
        self._controller = Controller(configuration, traffic, self._trail, self._metrics, clock)
        self._checker = Checker(configuration, traffic, self._metrics, clock, self._controller.heard)
        admission, logins = None, None
        if has_logins(configuration):
            key = read_key(state_dir)
            admission = admission_of(configuration, clock, self._metrics, key)
            assert admission is not None, "it has logins"
            logins = partial(Told, admission, key)
        self._workers = WebWorkers(
            configuration.listen.web.workers,
            self._controller.board,
            web_traffic,
            self._metrics,
            clock,
            logins,
            socket_path(configuration.state_dir, "supervisor"),
        )
        self._proxy = proxy_of(
            configuration,
            self._controller.board,
            web_traffic,
            self._metrics,
            clock,
            self._spool,
            self._identities.of("web"),
            admission,
            shares,
        )
        self._relay = Relay(
            configuration.listen.dicom,
            configuration.access.dicom or "any",  # left out: then we listen on loopback alone
            dicom_upstreams(configuration),
            self._controller.board,
            {name: lives for (name, service), lives in traffic.items() if service is Service.DICOM},
            self._metrics,
            clock,
            self._spool,
            copies_of(configuration, self._metrics, clock),
            self._identities.of("dicom"),
        )
        self._admin = web.AppRunner(
            admin_app(
                RouterOperations(
                    self._controller,
                    self._trail,
                    self._others,
                    self._metrics,
                    lambda: self._listening,
                    self._workers.told,
                ),
                configuration.listen.admin,
            ),
            access_log=None,
        )
        self._control = ControlServer(
            socket_path(state_dir, "router"),
            {"route": self._route, **({} if admission is None else answers(admission))},
            {JOIN: self._workers.serve},
        )
        self._admin_door: Door | None = None
        self._numbers: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._show()

    async def start(self, opened: dict[str, socket.socket]) -> None:
        """Serve on the listening sockets."""
        self._metrics.component_up.labels("router").set(1)
        self._metrics.start_time.set(self._clock.wall().timestamp())
        self._trail.start()
        self._controller.start(
            Hooks(
                ask_numbers=self._numbers_now,
                in_flight=self._in_flight,
                last_store_on_backup_s=self._last_store_on_backup_s,
                end_work=self._end_work,
                nothing_to_prove=self._checker.nothing_to_prove,
            )
        )
        self._checker.start()
        self._numbers = spawn(self._ask_numbers(), name="ask numbers")
        self._workers.start()
        await self._control.start()
        await self._admin.setup()
        self._open_admin(opened["admin"])
        await self._proxy.start(opened["web"])
        await self._relay.start(*_dicom_doors(self._configuration, opened))
        self._following = spawn(self._identities.follow(), name="follow certificates")
        self._listening = True

    async def stop(self) -> None:
        """End in order: traffic first, what decides next, what records last."""
        self._listening = False
        await asyncio.gather(  # 1. accept nothing new, let requests and associations finish
            self._proxy.stop(GRACE_S), self._relay.stop(GRACE_S)
        )
        await cancel_and_wait(self._numbers, self._following)
        await self._checker.stop()  # 2. no verdict moves anything any more
        if self._admin_door is not None:
            await self._admin_door.stop()
        await self._admin.cleanup()
        await self._workers.stop()
        await self._control.stop()
        await self._controller.stop()  # 3. the state is on disk
        await self._trail.stop()  # 4. and so is the trail, which tells of all this
        self._spool.close()

    def change(self, configuration: Configuration) -> list[str]:
        """Take over what `app.reload` calls live; return what could not be. Raises TlsUnusable."""
        left = self._identities.change(configuration)
        listen = configuration.listen
        self._proxy.change(listen.web, admits_of(configuration), configuration.policy.hedge)
        self._relay.change(listen.dicom, configuration.access.dicom or "any")
        self._checker.change(configuration)
        self._controller.change_rules(configuration)
        before, self._configuration = self._configuration, configuration
        keys = [".".join(path) for path in changed(before, configuration)]
        if keys:
            self._trail.add(
                EventKind.CONFIGURATION, "configuration_taken", f"now in force: {', '.join(keys)}"
            )
        return left

    def _open_admin(self, sock: socket.socket) -> None:
        serve = self._admin.server
        assert serve is not None, "the runner was set up"
        identity = self._identities.of("admin")
        limits = HandshakeLimits()
        handshakes = None if identity is None else Handshakes(identity, limits, to_plain=ADMIN_TO_PLAIN)
        self._admin_door = Door(sock, serve, handshakes)
        self._admin_door.open()

    async def _route(self, _: Json) -> Json:
        return self._controller.replicator_route()

    async def _ask_numbers(self) -> None:
        while True:
            try:
                self._controller.replication_heard(await self._others.numbers())
            except (KeyError, TypeError, ValueError) as error:
                # Another version answers: what it owes is unknown, and unknown keeps the way back closed.
                _log.error("the archive's numbers cannot be read", error=repr(error))
            await self._clock.sleep(NUMBERS_EVERY_S)

    async def _numbers_now(self) -> Numbers | None:
        """Return what is owed once stores are held in each web worker: for the last step of failback."""
        await self._workers.all_heard(timeout_s=ALL_HEARD_S)
        return await self._others.numbers()

    def _show(self) -> None:
        """The numbers that are asked for at each scrape, and the edges that were never taken."""
        metrics, spool, web_ = self._metrics, self._spool, self._configuration.listen.web
        proxy, workers = self._proxy, self._workers
        show_every_edge(metrics)
        metrics.audit_unwritten.set_function(lambda: self._trail.unwritten)
        metrics.spool_bytes.labels("memory").set_function(
            lambda: spool.memory_used_bytes + workers.spool_bytes(0)
        )
        metrics.spool_bytes.labels("disk").set_function(
            lambda: spool.disk_used_bytes + workers.spool_bytes(1)
        )
        metrics.http_connections.set_function(lambda: proxy.connections + workers.connections)
        for name in UpstreamName:
            metrics.http_in_flight.labels(name).set_function(partial(self._in_flight, name, Service.WEB))
        metrics.spool_limit_bytes.labels("memory").set(web_.spool_memory)
        metrics.spool_limit_bytes.labels("disk").set(web_.spool_disk)

    def _in_flight(self, upstream: UpstreamName, service: Service) -> int:
        if service is Service.WEB:
            return self._proxy.in_flight(upstream) + self._workers.in_flight(upstream)
        return self._relay.in_flight(upstream)

    def _end_work(self, upstream: UpstreamName) -> int:
        ended = self._proxy.end_work(upstream) + self._relay.end_work(upstream)
        return ended + self._workers.end_work(upstream)

    def _replicator_sent(self, sent: StoreSent) -> None:
        self._checker.stored_by_replicator(PRIMARY, sent.service, accepted=sent.accepted, proven=sent.proven)

    def _last_store_on_backup_s(self) -> float | None:
        carriers = (self._proxy, self._workers, self._relay)
        times = [carrier.last_store_on_backup_s for carrier in carriers]
        return max((at_s for at_s in times if at_s is not None), default=None)


def _dicom_doors(
    configuration: Configuration, opened: Mapping[str, socket.socket]
) -> tuple[socket.socket | None, socket.socket | None]:
    """Return the socket for plain DICOM and that for TLS."""
    plain, second = opened["dicom"], opened.get(listeners.DICOM_TLS)
    tls = configuration.listen.dicom.tls
    if tls is None:
        return plain, None
    if tls.port is None:
        return None, plain  # its one port speaks TLS
    if second is None:
        _log.error("no port for DICOM TLS: the supervisor opened none; restart failover", port=tls.port)
    return plain, second


def dicom_upstreams(configuration: Configuration) -> dict[UpstreamName, DicomPeer]:
    """Return what the relay is told: where each DICOM side is, and its AE title."""
    return {
        name: upstream.dicom.peer
        for name, upstream in upstreams(configuration).items()
        if upstream.dicom is not None
    }


def copies_of(configuration: Configuration, metrics: RouterMetrics, clock: Clock) -> Copies | None:
    """Return what copies stores on their way to the primary; None when the backup has no DICOM side."""
    peer = dicom_upstreams(configuration).get(BACKUP)
    if peer is None:
        return None
    embedded = configuration.backup == "embedded"
    return Copies(
        peer,
        expecting(configuration) if embedded else None,
        metrics,
        clock,
        tee=configuration.replication.tee and embedded,
        max_pdu_bytes=configuration.listen.dicom.max_pdu_bytes,
    )
