"""The proxy on a stage: two scripted backends, a route that a test sets by hand, real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from failover.clock import Clock, SystemClock
from failover.config.schema import Hedge, ListenWeb
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import ClientTls, Mode, Phase, Service, UpstreamName, Verdict
from failover.proxy.admission import Admission
from failover.proxy.copies import WebCopies
from failover.proxy.server import Proxy, WebUpstream
from failover.routing.board import RouteBoard
from failover.routing.selection import Route, ServiceRoute
from failover.spool import Spool
from failover.tls import ServerIdentity
from tests.fakes.backend import Backend
from tests.fakes.callers import Answered, RawCaller, ask

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
LOOPS = [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy]


def calm_route(phase: Phase = Phase.ON_PRIMARY) -> Route:
    reads = PRIMARY if phase is Phase.ON_PRIMARY else BACKUP
    stores = BACKUP if phase is Phase.ON_BACKUP else PRIMARY
    both = [(name, service) for name in UpstreamName for service in Service]
    return Route(
        mode=Mode.AUTO,
        forced=None,
        keep_replicating=False,
        services={service: ServiceRoute(phase, reads, stores) for service in Service},
        verdicts=dict.fromkeys(both, Verdict.UP),
        exists=frozenset(both),
        hold_stores=False,
    )


@dataclass
class Stage:
    proxy: Proxy
    board: RouteBoard
    primary: Backend
    backup: Backend
    port: int
    admitted: set[str] = field(default_factory=lambda: {"127.0.0.1"})
    told: list[str] = field(default_factory=list)
    """Words of copies that the archive was told to expect."""
    metrics: RouterMetrics = field(default_factory=lambda: RouterMetrics(CollectorRegistry()))

    async def ask(self, target: str, *lines: str, method: str = "GET", body: bytes | None = None) -> Answered:
        return await ask(self.port, target, *lines, method=method, body=body)

    async def caller(self) -> RawCaller:
        return await RawCaller(self.port).open()

    def verdict(self, upstream: UpstreamName, verdict: Verdict) -> None:
        """Publish a verdict on an upstream's web side; the phase stays."""
        route = self.board.current
        self.board.publish(replace(route, verdicts={**route.verdicts, (upstream, Service.WEB): verdict}))

    def phase(self, phase: Phase, **verdicts: Verdict) -> None:
        route = calm_route(phase)
        given = {(UpstreamName(name), Service.WEB): verdict for name, verdict in verdicts.items()}
        self.board.publish(replace(route, verdicts={**route.verdicts, **given}))

    def drain(self) -> None:
        """An operator drains the primary."""
        self.board.publish(replace(calm_route(Phase.ON_BACKUP), mode=Mode.DRAIN, forced=BACKUP))

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


async def a_turn() -> None:
    """Let the loop go round."""
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def some_turns() -> None:
    for _ in range(200):
        await a_turn()


async def callers(stage: Stage) -> list[Any]:
    """Return the proxy's side of its callers' connections, once there is one."""
    while not stage.proxy._callers:
        await a_turn()
    return list(stage.proxy._callers)


@asynccontextmanager
async def web_stage(
    folder: Path,
    *,
    foreign_backup: bool = False,
    copies: bool = False,
    tee: bool = True,
    identity: ServerIdentity | None = None,
    primary_tls: tuple[int, ClientTls | None] | None = None,
    admission: Admission | None = None,
    hedge: Hedge | None = None,
    clock: Clock | None = None,
    **listen: object,
) -> AsyncIterator[Stage]:
    """Proxy, primary and backup (our archive unless `foreign_backup`) on free ports.

    `primary_tls`: the port on which the primary speaks TLS, and how the proxy does.
    """
    primary, backup = await Backend("primary").start(), await Backend("backup").start()
    sock = socket.create_server(("127.0.0.1", 0), backlog=128)
    board = RouteBoard(calm_route())
    metrics = RouterMetrics(CollectorRegistry())
    clock = clock or SystemClock()
    spool = Spool(folder / "spool")
    admitted = {"127.0.0.1"}
    ours = not foreign_backup
    upstreams = {
        PRIMARY: WebUpstream(PRIMARY, "127.0.0.1", *(primary_tls or (primary.port, None))),
        BACKUP: WebUpstream(
            BACKUP, "127.0.0.1", backup.port, dicomweb_path="/archive/dicom-web" if ours else "/rs",
            takes_unsafe=not ours, has_viewer=ours, is_archive=ours,
        ),
    }  # fmt: skip
    traffic = {name: LiveTraffic(clock) for name in UpstreamName}
    told: list[str] = []

    async def expect(word: str, _number: int, _for_s: float) -> None:
        told.append(word)

    base = f"http://127.0.0.1:{backup.port}{upstreams[BACKUP].dicomweb_path}"
    proxy = Proxy(
        ListenWeb.model_validate(listen), upstreams, board, traffic,
        admitted.__contains__, metrics, clock, spool, identity,
        copies=WebCopies(base, expect if ours else None, metrics, tee=tee) if copies else None,
        admission=admission, hedge=hedge,
    )  # fmt: skip
    port = sock.getsockname()[1]
    await proxy.start(sock)
    try:
        yield Stage(proxy, board, primary, backup, port, admitted, told, metrics)
    finally:
        await proxy.stop(0.2)
        await primary.kill()
        await backup.kill()
        spool.close()
