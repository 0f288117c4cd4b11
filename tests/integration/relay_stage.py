"""The relay between two real archives, and DCMTK's tools run against it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from failover.clock import SystemClock
from failover.config.schema import ListenDicom
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import Address, AeTitle, DicomPeer, UpstreamName
from failover.relay.server import Relay
from failover.routing.board import RouteBoard
from failover.spool import Spool
from failover.tls import ServerIdentity
from tests.peers.process import environment, find_program
from tests.unit.relay.scene import BACKUP, PRIMARY, route


@dataclass
class Stage:
    relay: Relay
    board: RouteBoard
    port: int
    tls_port: int = 0

    async def run(self, program: str, *arguments: str, called: str = "PACS") -> tuple[int, str]:
        """Run one of DCMTK's tools against the relay: exit code and what it said."""
        command = [str(find_program(program)), "-v", "-aec", called, "-aet", "CT1", *arguments]
        child = await asyncio.create_subprocess_exec(
            *command, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await child.communicate()
        assert child.returncode is not None
        return child.returncode, said.decode(errors="replace")

    @property
    def address(self) -> tuple[str, str]:
        return "127.0.0.1", str(self.port)


@asynccontextmanager
async def stage(
    upstreams: Mapping[UpstreamName, DicomPeer], folder: Path, identity: ServerIdentity | None = None
) -> AsyncIterator[Stage]:
    """With an `identity` there is a second port, which speaks TLS."""
    clock = SystemClock()
    board = RouteBoard(route())
    spool = Spool(folder / "spool")
    relay = Relay(
        ListenDicom(),
        "any",
        upstreams,
        board,
        {name: LiveTraffic(clock) for name in UpstreamName},
        RouterMetrics(CollectorRegistry()),
        clock,
        spool=spool,
        identity=identity,
    )
    sock = socket.create_server(("127.0.0.1", 0))
    tls_sock = socket.create_server(("127.0.0.1", 0)) if identity is not None else None
    await relay.start(sock, tls_sock)
    tls_port = tls_sock.getsockname()[1] if tls_sock is not None else 0
    try:
        yield Stage(relay, board, sock.getsockname()[1], tls_port)
    finally:
        await relay.stop(0)
        spool.close()


def peer(port: int, ae_title: str) -> DicomPeer:
    return DicomPeer(Address("127.0.0.1", port), AeTitle(ae_title))


def samples(folder: Path, count: int, *, patient: str = "P1") -> Sequence[Path]:
    """Write `count` CT instances of one study; return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    study_uid, series_uid = generate_uid(), generate_uid()
    paths = []
    for number in range(count):
        instance: Dataset = dcmread(get_testdata_file("CT_small.dcm"))
        instance.PatientID = patient
        instance.PatientName = "Muster^Anna"
        instance.StudyInstanceUID, instance.SeriesInstanceUID = study_uid, series_uid
        instance.SOPInstanceUID = generate_uid()
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        instance.InstanceNumber = number + 1
        path = folder / f"{number:03}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


__all__ = ["BACKUP", "PRIMARY", "Stage", "peer", "samples", "stage"]
