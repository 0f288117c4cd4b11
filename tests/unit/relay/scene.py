"""A relay between two upstreams on loopback, with a route that the test publishes: the stage of the tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from failover.clock import Clock, SystemClock
from failover.config.schema import DicomCallers, ListenDicom
from failover.dicom.exchange import Association
from failover.dicom.negotiation import propose
from failover.dicom.requestor import open_association
from failover.dicom.units import ProposedContext, RoleSelection, UserIdentity
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import Address, AeTitle, DicomPeer, Mode, Phase, Service, UpstreamName, Verdict
from failover.relay.copies import Copies, Expect
from failover.relay.server import Relay
from failover.routing.board import RouteBoard
from failover.routing.selection import Route, ServiceRoute
from failover.spool import Spool
from tests.fakes.upstream import CT, FakeUpstream

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMMITMENT = "1.2.840.10008.1.20.1"
ECHO = "1.2.840.10008.1.1"
ALL = propose([ECHO, STUDY_FIND, STUDY_MOVE, STUDY_GET, CT, COMMITMENT])
ID = {context.abstract_syntax: context.context_id for context in ALL}


def route(
    *,
    phase: Phase = Phase.ON_PRIMARY,
    primary: Verdict | None = Verdict.UP,
    backup: Verdict | None = Verdict.UP,
    stores: UpstreamName | None = None,
    mode: Mode = Mode.AUTO,
    forced: UpstreamName | None = None,
    hold_stores: bool = False,
) -> Route:
    reads = PRIMARY if phase is Phase.ON_PRIMARY else BACKUP
    return Route(
        mode=mode,
        forced=forced,
        keep_replicating=False,
        services={Service.DICOM: ServiceRoute(phase, reads, stores or reads)},
        verdicts={(PRIMARY, Service.DICOM): primary, (BACKUP, Service.DICOM): backup},
        exists=frozenset({(PRIMARY, Service.DICOM), (BACKUP, Service.DICOM)}),
        hold_stores=hold_stores,
    )


@dataclass
class Scene:
    relay: Relay
    peer: DicomPeer
    board: RouteBoard
    primary: FakeUpstream
    backup: FakeUpstream
    spool: Spool
    metrics: RouterMetrics

    def publish(self, **changes: object) -> None:
        self.board.publish(route(**changes))  # type: ignore[arg-type]

    async def open(
        self,
        contexts: Sequence[ProposedContext] = ALL,
        *,
        calling: str | bytes = "CT1",
        called: str = "PACS",
        roles: Sequence[RoleSelection] = (RoleSelection(CT, True, True),),
        identity: UserIdentity | None = None,
        max_pdu_bytes: int = 65536,
        timeout_s: float = 20,
    ) -> Association:
        return await open_association(
            replace(self.peer, ae_title=AeTitle(called)),
            calling,
            contexts,
            timeout_s=timeout_s,
            roles=roles,
            identity=identity,
            max_pdu_bytes=max_pdu_bytes,
        )

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def counts(self, name: str, value: float, **labels: str) -> None:
        """Wait until the relay has counted so much."""
        async with asyncio.timeout(10):
            while self.counted(name, **labels) < value:
                await self.relay.clock.sleep(0.005)


@asynccontextmanager
async def scene(
    tmp_path: Path,
    *,
    primary: FakeUpstream | None = None,
    backup: FakeUpstream | None = None,
    callers: DicomCallers = "any",
    listen: ListenDicom | None = None,
    spool: Spool | None = None,
    clock: Clock | None = None,
    tee: bool | None = None,
    expect: Expect | None = None,
) -> AsyncIterator[Scene]:
    """`tee` None: no copies at all, as with a backup that has no DICOM side."""
    one, two = primary or FakeUpstream("ORTHANC"), backup or FakeUpstream("MINIPACS")
    await one.start()
    await two.start()
    clock = clock or SystemClock()
    metrics = RouterMetrics(CollectorRegistry())
    board = RouteBoard(route())
    kept = spool or Spool(tmp_path / "spool")
    copies = None
    if tee is not None:
        copies = Copies(two.peer, expect, metrics, clock, tee=tee, max_pdu_bytes=65536)
    relay = Relay(
        listen or ListenDicom(),
        callers,
        {PRIMARY: one.peer, BACKUP: two.peer},
        board,
        {name: LiveTraffic(clock) for name in UpstreamName},
        metrics,
        clock,
        spool=kept,
        copies=copies,
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    peer = DicomPeer(Address("127.0.0.1", sock.getsockname()[1]), AeTitle("PACS"))
    await relay.start(sock)
    try:
        yield Scene(relay, peer, board, one, two, kept, metrics)
    finally:
        await relay.stop(0)
        await one.kill()
        await two.kill()
        kept.close()
