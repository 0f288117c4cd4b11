"""A real Orthanc as the primary of the relay: killed in the middle, and DCMTK's Nagle against it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom import dcmread

from failover.clock import SystemClock
from tests.integration.relay_stage import BACKUP, PRIMARY, peer, samples, stage
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.orthanc import Orthanc
from tests.peers.process import environment, find_program, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
async def orthanc() -> AsyncIterator[Orthanc]:
    found = Orthanc()
    await asyncio.to_thread(found.start)
    yield found
    await asyncio.to_thread(found.close)


@pytest.fixture
async def backup() -> AsyncIterator[Dcmqrscp]:
    found = Dcmqrscp(ae_title="BACK", with_get=True)
    await asyncio.to_thread(found.start)
    yield found
    await asyncio.to_thread(found.close)


async def test_a_kill_in_the_middle_of_stores(orthanc: Orthanc, backup: Dcmqrscp, tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 100)
    upstreams = {PRIMARY: peer(orthanc.dicom_port, "ORTHANC"), BACKUP: peer(backup.dicom_port, "BACK")}
    async with stage(upstreams, tmp_path) as on:
        storing = asyncio.gather(on.run("storescu", *on.address, *map(str, files)))
        await asyncio.to_thread(wait_for, lambda: orthanc.instance_count() >= 10, "some are stored")
        await asyncio.to_thread(orthanc.kill)
        [(code, said)] = await storing
        assert code == 0, said
        assert said.count("Received Store Response (Success)") == len(files)
        got = tmp_path / "got"
        got.mkdir()
        study = dcmread(files[0]).StudyInstanceUID
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
        code, said = await on.run("getscu", "-S", "-od", str(got), *keys, *on.address)
        assert code == 0, said
        at_backup = {dcmread(path).SOPInstanceUID for path in got.iterdir()}
        await asyncio.to_thread(orthanc.start)
        missing = {dcmread(path).SOPInstanceUID for path in files} - at_backup
        for uid in missing:  # acknowledged before the kill: there they must be
            assert await asyncio.to_thread(orthanc.lookup, uid)


async def test_a_store_through_the_relay_is_faster_than_without(
    orthanc: Orthanc, backup: Dcmqrscp, tmp_path: Path
) -> None:
    """Debian's DCMTK leaves Nagle on: the direct connection waits 40 ms for each instance (DESIGN 4.6)."""
    files = [str(path) for path in samples(tmp_path / "in", 40)]
    clock = SystemClock()
    upstreams = {PRIMARY: peer(orthanc.dicom_port, "ORTHANC"), BACKUP: peer(backup.dicom_port, "BACK")}
    async with stage(upstreams, tmp_path) as on:
        direct_s: list[float] = []
        relayed_s: list[float] = []
        # The best of each: a busy machine may slow either down.
        while not direct_s or (min(relayed_s) >= min(direct_s) / 2 and len(direct_s) < 3):
            began_s = clock.monotonic()
            child = await asyncio.create_subprocess_exec(
                str(find_program("storescu")), "-aec", "ORTHANC", "127.0.0.1", str(orthanc.dicom_port),
                *files, env=environment(),
            )  # fmt: skip
            assert await child.wait() == 0
            direct_s.append(clock.monotonic() - began_s)
            began_s = clock.monotonic()
            code, said = await on.run("storescu", *on.address, *files)
            assert code == 0, said
            relayed_s.append(clock.monotonic() - began_s)
        assert min(relayed_s) < min(direct_s) / 2
