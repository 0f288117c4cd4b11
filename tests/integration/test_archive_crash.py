"""Nothing acknowledged is lost: an archive killed at its every step, and at any moment under load."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from failover.archive.index import Index
from failover.archive.ledger import Ledger
from failover.clock import SystemClock
from failover.control import socket_path
from failover.dicom.dimse import store_rq
from failover.dicom.requestor import open_association
from failover.dicom.units import ProposedContext
from failover.errors import AssociationEnded, UpstreamError
from failover.model import Address, AeTitle, DebtState, DicomPeer
from tests.integration.archive_stage import AE_TITLE
from tests.peers.process import free_port, listens
from tests.unit.archive.objects import CT, data_set, part10, uid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

_CALLERS = 4
_KILLS = 5


async def test_killed_at_every_step_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    walk = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.crash_walk", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await walk.communicate()
    assert walk.returncode == 0, said.decode()
    steps = int(said.split()[1])
    # Each of eight objects is at least opened, written, synced, renamed, its folder synced, and committed.
    assert steps > 8 * 6, said.decode()


@asynccontextmanager
async def _archive(folder: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "failover", "archive", "-c", str(folder / "failover.yaml"),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not listens(port):
                assert process.returncode is None, "the archive did not start"
                await SystemClock().sleep(0.02)
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_killed_under_load_it_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "failover.yaml").write_text(f"""
primary: {{dicom: {{host: 127.0.0.1, port: {free_port()}, ae_title: ORTHANC}}}}
archive: {{dicom: {{port: {port}}}, web: {{port: {free_port()}}}, retention: {{min_free_bytes: 1MB}}}}
""")
    acknowledged: set[str] = set()
    for run in range(_KILLS):
        async with _archive(tmp_path, port) as process:
            before = len(acknowledged)
            callers = [
                asyncio.ensure_future(_store_until_it_dies(port, run * _CALLERS + n, acknowledged))  # noqa: TID251
                for n in range(_CALLERS)
            ]
            wanted = before + random.randrange(5, 80)
            async with asyncio.timeout(60):
                while len(acknowledged) < wanted:
                    await SystemClock().sleep(0.001)
            os.kill(process.pid, signal.SIGKILL)
            await asyncio.gather(*callers)
    assert len(acknowledged) >= 5 * _KILLS

    async with _archive(tmp_path, port):  # the next one comes up over it, and lets go again
        assert socket_path(tmp_path / "data", "archive").exists()
    index = Index(tmp_path / "data" / "archive", has_primary=True)
    owed = {
        e["sop_instance_uid"] for e in Ledger(index, SystemClock()).entries([DebtState.OWED], limit=10_000)
    }
    assert acknowledged <= owed
    for held in (index.instance(sop_instance_uid) for sop_instance_uid in acknowledged):
        assert held is not None
        assert held.path.stat().st_size == held.size_bytes
    index.close()


async def _store_until_it_dies(port: int, study: int, acknowledged: set[str]) -> None:
    peer = DicomPeer(Address("127.0.0.1", port), AeTitle(AE_TITLE))
    context = ProposedContext(1, CT, (ExplicitVRLittleEndian,))
    with suppress(AssociationEnded, UpstreamError):
        association = await open_association(peer, f"CT{study}", [context], timeout_s=30)
        for number in range(1, 10_000):
            whole = part10(data_set(study, 1, number))
            data = whole[144 + int.from_bytes(whole[140:144], "little") :]
            await association.send(1, store_rq(number, CT, uid(study, 1, number)), data)
            answer = await association.receive()
            assert answer is not None
            assert answer.command.status == 0
            acknowledged.add(uid(study, 1, number))
