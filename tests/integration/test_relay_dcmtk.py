"""DCMTK's tools through the relay to DCMTK's dcmqrscp, alive, killed and stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from failover.model import Phase, Verdict
from tests.integration.relay_stage import BACKUP, PRIMARY, Stage, peer, samples, stage
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.process import wait_for
from tests.peers.storescp import Storescp
from tests.unit.relay.scene import route

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@asynccontextmanager
async def two_archives(folder: Path) -> AsyncIterator[tuple[Stage, Dcmqrscp, Dcmqrscp, Storescp]]:
    destination = Storescp(ae_title="WORKSTATION")
    known = {"WORKSTATION": destination.dicom_port}
    primary = Dcmqrscp(ae_title="PRIME", destinations=known, with_get=True)
    backup = Dcmqrscp(ae_title="BACK", destinations=known, with_get=True)
    peers = (primary, backup, destination)
    try:
        for each in peers:
            await asyncio.to_thread(each.start)
        upstreams = {PRIMARY: peer(primary.dicom_port, "PRIME"), BACKUP: peer(backup.dicom_port, "BACK")}
        async with stage(upstreams, folder) as on:
            yield on, primary, backup, destination
    finally:
        for each in peers:
            await asyncio.to_thread(each.close)


async def find(on: Stage) -> str:
    code, said = await on.run(
        "findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID", "-k", "PatientID=P1",
        *on.address,
    )  # fmt: skip
    assert code == 0, said
    return said


def study_of(path: Path) -> str:
    return str(dcmread(path).StudyInstanceUID)


async def test_all_services_pass(tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 5)
    async with two_archives(tmp_path) as (on, _, _, destination):
        code, said = await on.run("echoscu", *on.address)
        assert code == 0, said
        code, said = await on.run("storescu", *on.address, *map(str, files))
        assert code == 0, said
        assert "Received Find Response 1" in (answer := await find(on)) or "Find Response: 1" in answer, (
            answer
        )
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_of(files[0])}")
        got = tmp_path / "got"
        got.mkdir()
        code, said = await on.run("getscu", "-S", "-od", str(got), *keys, *on.address)
        assert code == 0, said
        assert len(list(got.iterdir())) == 5
        code, said = await on.run("movescu", "-S", "-aem", "WORKSTATION", *keys, *on.address)
        assert code == 0, said
        assert len(destination.files()) == 5
        for path in got.iterdir():
            assert dcmread(path).PixelData == dcmread(files[0]).PixelData


async def test_a_wrong_called_title_is_told(tmp_path: Path) -> None:
    async with two_archives(tmp_path) as (on, *_):
        code, said = await on.run("echoscu", *on.address, called="NOBODY")
        assert code != 0
        assert "Called AE Title Not Recognized" in said


async def test_a_killed_primary_loses_no_store(tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 60)
    async with two_archives(tmp_path) as (on, primary, backup, _):
        storing = asyncio.gather(on.run("storescu", *on.address, *map(str, files)))
        stored = primary.folder / "storage"
        await asyncio.to_thread(wait_for, lambda: len(list(stored.glob("CT*"))) >= 5, "some are stored")
        await asyncio.to_thread(primary.kill)
        [(code, said)] = await storing
        assert code == 0, said
        assert "Refused" not in said
        kept: set[str] = set()
        for archive in (primary, backup):
            folder = archive.folder / "storage"
            kept |= {str(dcmread(path).SOPInstanceUID) for path in folder.glob("CT*")}
        assert kept >= {str(dcmread(path).SOPInstanceUID) for path in files}


async def test_a_killed_primary_is_not_noticed_by_searches_and_retrieves(tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 3)
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_of(files[0])}")
    async with two_archives(tmp_path) as (on, primary, _, destination):
        for phase in (Phase.ON_BACKUP, Phase.ON_PRIMARY):
            on.board.publish(route(phase=phase))
            code, said = await on.run("storescu", *on.address, *map(str, files))
            assert code == 0, said
        await asyncio.to_thread(primary.kill)
        assert "Find Response" in await find(on)
        got = tmp_path / "got"
        got.mkdir()
        code, said = await on.run("getscu", "-S", "-od", str(got), *keys, *on.address)
        assert code == 0, said
        assert len(list(got.iterdir())) == 3
        code, said = await on.run("movescu", "-S", "-aem", "WORKSTATION", *keys, *on.address)
        assert code == 0, said
        assert len(destination.files()) == 3


async def test_a_stopped_primary_is_left_when_suspect(tmp_path: Path) -> None:
    async with two_archives(tmp_path) as (on, primary, _, _):
        await asyncio.to_thread(primary.stop)
        opening = asyncio.gather(on.run("echoscu", *on.address))
        on.board.publish(route(primary=Verdict.SUSPECT))
        [(code, said)] = await opening
        assert code == 0, said
        await asyncio.to_thread(primary.cont)
