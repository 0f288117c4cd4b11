"""`failover router`: proxy, relay, health checks, routing and admin API in one process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from failover.admin.api import admin_app
from failover.aio import cancel_and_wait, spawn
from failover.app import listeners, process
from failover.app.admission import admission_of
from failover.app.identities import Identities
from failover.app.numbers import Others
from failover.app.operations import RouterOperations
from failover.app.reload import Reloader
from failover.app.store_totals import StoreSent
from failover.audit.events import EventKind
from failover.audit.trail import Trail
from failover.clock import Clock, SystemClock
from failover.config import Configuration
from failover.config.changes import changed
from failover.config.scalars import Network
from failover.config.schema import LOOPBACK, Backup, Upstream
from failover.control import ControlServer, Json, ask, socket_path
from failover.doors import Door, HandshakeLimits, Handshakes
from failover.durable import make_folder
from failover.health.checker import Checker, traffic_of
from failover.metrics import RouterMetrics
from failover.model import DicomPeer, Service, UpstreamName
from failover.proxy.copies import WebCopies
from failover.proxy.server import Proxy, WebUpstream
from failover.relay.copies import Copies
from failover.relay.server import Relay
from failover.routing.controller import TRAIL_FILE, Controller, Hooks
from failover.routing.gauges import show_every_edge
from failover.spool import Spool

_log = structlog.get_logger(__name__)

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
NUMBERS_EVERY_S: Final = 0.5
# How long requests and associations may take to end at a stop; the supervisor kills after 6 s.
GRACE_S: Final = 4.0
ADMIN_TO_PLAIN: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks TLS: use https\n"
)


def run(config_path: Path) -> int:
    """Route until SIGTERM; return the exit code. Raises ConfigurationError, PortTaken."""
    return process.run("router", config_path, _serve)


async def _serve(configuration: Configuration, stop: asyncio.Event, reloader: Reloader) -> int:
    opened = listeners.inherited() or listeners.open_all(configuration)
    router = Router(configuration, SystemClock())
    await router.start(opened)
    reloader.takes(router.change)
    await stop.wait()
    await router.stop()
    return 0


class Router:
    """The parts of the router, put together. `start` once, `stop` once."""

    def __init__(self, configuration: Configuration, clock: Clock) -> None:
        self._configuration = configuration
        self._clock = clock
        self._metrics = RouterMetrics(CollectorRegistry())
        self._listening = False
        state_dir = configuration.state_dir
        make_folder(state_dir)
        self._identities = Identities(configuration, self._metrics, clock)
        traffic = traffic_of(configuration, clock)
        self._spool = Spool(
            state_dir / "spool",
            memory_bytes=configuration.listen.web.spool_memory,
            disk_bytes=configuration.listen.web.spool_disk,
        )
        self._others = Others(
            state_dir, self._metrics, present=configuration.backup == "embedded", sent=self._replicator_sent
        )
        self._trail = Trail(state_dir / TRAIL_FILE, clock)
        self._controller = Controller(configuration, traffic, self._trail, self._metrics, clock)
        self._checker = Checker(configuration, traffic, self._metrics, clock, self._controller.heard)
        self._proxy = Proxy(
            configuration.listen.web,
            web_upstreams(configuration),
            self._controller.board,
            {name: lives for (name, service), lives in traffic.items() if service is Service.WEB},
            admits_of(configuration),
            self._metrics,
            clock,
            self._spool,
            self._identities.of("web"),
            admission=admission_of(configuration, clock),
            copies=web_copies_of(configuration, self._metrics),
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
                    self._controller, self._trail, self._others, self._metrics, lambda: self._listening
                ),
                configuration.listen.admin,
            ),
            access_log=None,
        )
        self._control = ControlServer(socket_path(state_dir, "router"), {"route": self._route})
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
                ask_numbers=self._others.numbers,
                in_flight=self._in_flight,
                last_store_on_backup_s=self._last_store_on_backup_s,
                end_work=self._end_work,
                nothing_to_prove=self._checker.nothing_to_prove,
            )
        )
        self._checker.start()
        self._numbers = spawn(self._ask_numbers(), name="ask numbers")
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
        await self._control.stop()
        await self._controller.stop()  # 3. the state is on disk
        await self._trail.stop()  # 4. and so is the trail, which tells of all this
        self._spool.close()

    def change(self, configuration: Configuration) -> list[str]:
        """Take over what `app.reload` calls live; return what could not be. Raises TlsUnusable."""
        left = self._identities.change(configuration)
        listen = configuration.listen
        self._proxy.change(listen.web, admits_of(configuration))
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

    def _show(self) -> None:
        """The numbers that are asked for at each scrape, and the edges that were never taken."""
        metrics, spool, web_ = self._metrics, self._spool, self._configuration.listen.web
        show_every_edge(metrics)
        metrics.audit_unwritten.set_function(lambda: self._trail.unwritten)
        metrics.spool_bytes.labels("memory").set_function(lambda: spool.memory_used_bytes)
        metrics.spool_bytes.labels("disk").set_function(lambda: spool.disk_used_bytes)
        metrics.spool_limit_bytes.labels("memory").set(web_.spool_memory)
        metrics.spool_limit_bytes.labels("disk").set(web_.spool_disk)

    def _in_flight(self, upstream: UpstreamName, service: Service) -> int:
        carrier = self._proxy if service is Service.WEB else self._relay
        return carrier.in_flight(upstream)

    def _end_work(self, upstream: UpstreamName) -> int:
        return self._proxy.end_work(upstream) + self._relay.end_work(upstream)

    def _replicator_sent(self, sent: StoreSent) -> None:
        self._checker.stored_by_replicator(PRIMARY, sent.service, accepted=sent.accepted, proven=sent.proven)

    def _last_store_on_backup_s(self) -> float | None:
        times = [self._proxy.last_store_on_backup_s, self._relay.last_store_on_backup_s]
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


def _upstreams(configuration: Configuration) -> dict[UpstreamName, Upstream]:
    assert configuration.primary is not None, "the configuration was checked: a router needs a primary"
    return {PRIMARY: configuration.primary, BACKUP: configuration.backup_upstream}


def web_upstreams(configuration: Configuration) -> dict[UpstreamName, WebUpstream]:
    """Return what the proxy is told: where each web side is and what it can do."""
    embedded = configuration.backup == "embedded"
    found = {}
    for name, upstream in _upstreams(configuration).items():
        if upstream.web is None:
            continue
        parts = urlsplit(upstream.web.url)
        archive = embedded and name is BACKUP
        found[name] = WebUpstream(
            name=name,
            host=parts.hostname or "",
            port=parts.port or 0,
            tls=upstream.web.client_tls,
            dicomweb_path=upstream.dicomweb_path,
            takes_unsafe=not archive,
            has_viewer=archive,
            is_archive=archive,
            pass_credentials=isinstance(upstream, Backup) and upstream.pass_credentials,
            names=tuple(upstream.web.names),
        )
    return found


def dicom_upstreams(configuration: Configuration) -> dict[UpstreamName, DicomPeer]:
    """Return what the relay is told: where each DICOM side is, and its AE title."""
    return {
        name: upstream.dicom.peer
        for name, upstream in _upstreams(configuration).items()
        if upstream.dicom is not None
    }


def _expecting(configuration: Configuration) -> Callable[[str, int, float], Awaitable[None]]:
    """Return how the archive is told what a copy will show."""
    archive = socket_path(configuration.state_dir, "archive")

    async def expect(originator_ae: str, message_id: int, for_s: float) -> None:
        told = {"originator_ae": originator_ae, "message_id": message_id, "for_s": for_s}
        await ask(archive, "copy.expect", told)

    return expect


def web_copies_of(configuration: Configuration, metrics: RouterMetrics) -> WebCopies | None:
    """Return what copies STOW on its way to the primary; None when the backup has no DICOMweb."""
    backup = configuration.backup_upstream
    if backup.web is None or backup.dicomweb_path is None:
        return None
    embedded = configuration.backup == "embedded"
    return WebCopies(
        backup.web.url + backup.dicomweb_path.rstrip("/"),
        _expecting(configuration) if embedded else None,
        metrics,
        tee=configuration.replication.tee and embedded,
    )


def copies_of(configuration: Configuration, metrics: RouterMetrics, clock: Clock) -> Copies | None:
    """Return what copies stores on their way to the primary; None when the backup has no DICOM side."""
    peer = dicom_upstreams(configuration).get(BACKUP)
    if peer is None:
        return None
    embedded = configuration.backup == "embedded"
    return Copies(
        peer,
        _expecting(configuration) if embedded else None,
        metrics,
        clock,
        tee=configuration.replication.tee and embedded,
        max_pdu_bytes=configuration.listen.dicom.max_pdu_bytes,
    )


def admits_of(configuration: Configuration) -> Callable[[str], bool]:
    """Return whether the archive may answer a caller at this address through the router (`access.web`)."""
    access = configuration.access.web
    networks: Sequence[Network] = LOOPBACK if access is None else access.addresses

    def admits(host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in networks)

    return admits
