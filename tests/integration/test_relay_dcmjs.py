"""dcmjs-dimse (npm) as the caller of the relay and as its upstream: a fourth reading of the standard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.fakes.upstream import CT, FakeUpstream, encoded, study
from tests.integration.relay_stage import BACKUP, PRIMARY, peer, samples, stage
from tests.peers.dcmjs_dimse import DcmjsArchive, Fact, call

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
async def archive() -> AsyncIterator[DcmjsArchive]:
    found = DcmjsArchive()
    await asyncio.to_thread(found.start)
    yield found
    await asyncio.to_thread(found.close)


def statuses(told: list[Fact], step: str) -> list[int]:
    return [fact["status"] for fact in told if fact.get("step") == step]


async def test_its_caller_notices_no_primary_that_dies_in_every_operation(tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 4)
    uids = [str(dcmread(path).SOPInstanceUID) for path in files]
    primary, backup = FakeUpstream("PRIME"), FakeUpstream("BACK")
    for upstream in (primary, backup):
        upstream.matches = [study(f"1.2.{number}") for number in range(5)]
        upstream.instances = {uid: _data_set(path) for uid, path in zip(uids, files, strict=True)}
        await upstream.start()
    try:
        async with stage({PRIMARY: primary.peer, BACKUP: backup.peer}, tmp_path) as on:
            primary.faults["C-STORE"].append("die_in_data")
            primary.faults["C-FIND"].append("die_after_one")
            primary.faults["C-GET"].append("die_after_one")
            told = await call(
                on.port, [["echo"], *(["store", str(path)] for path in files), ["find"], ["get", "1.2.3"]]
            )
        assert not [fact for fact in told if "failed" in fact or "rejected" in fact], told
        assert statuses(told, "echo") == [0]
        assert statuses(told, "store") == [0] * len(files)
        assert [fact["found"] for fact in told if "found" in fact] == [f"1.2.{n}" for n in range(5)]
        assert statuses(told, "find")[-1] == 0
        assert [fact["got"] for fact in told if "got" in fact] == uids
        assert statuses(told, "get")[-1] == 0
        assert told[-1] == {"released": True}
        assert {*primary.stored, *backup.stored} == set(uids)
        asked = [*primary.requests, *backup.requests]
        assert {rq.user.async_window for rq in asked} == {None}  # it had proposed four at a time
        assert {rq.user.identity.primary for rq in asked if rq.user.identity} == {b"anna"}
    finally:
        await primary.kill()
        await backup.kill()


def _data_set(path: Path) -> bytes:
    instance = dcmread(path)
    assert instance.SOPClassUID == CT
    del instance.file_meta
    return encoded(instance)


async def test_it_serves_as_the_primary_until_it_is_killed(archive: DcmjsArchive, tmp_path: Path) -> None:
    files = samples(tmp_path / "in", 3)
    backup = FakeUpstream("BACK", matches=[study(f"1.2.{number}") for number in range(2)])
    await backup.start()
    try:
        async with stage({PRIMARY: peer(archive.dicom_port, "PRIME"), BACKUP: backup.peer}, tmp_path) as on:
            code, said = await on.run("storescu", *on.address, *map(str, files))
            assert code == 0, said
            before = await call(on.port, [["echo"], ["find"], ["store", str(files[0])]])
            await asyncio.to_thread(archive.kill)
            after = await call(on.port, [["echo"], ["find"], ["store", str(files[0])]])
        for told in (before, after):
            assert statuses(told, "echo") == [0]
            assert [fact["found"] for fact in told if "found" in fact] == ["1.2.0", "1.2.1"]
            assert statuses(told, "store") == [0]
            assert told[-1] == {"released": True}
        stored = [fact["stored"] for fact in archive.told() if "stored" in fact]
        assert stored == [str(dcmread(path).SOPInstanceUID) for path in (*files, files[0])]
        assert {"user": "anna"} in archive.told()
        assert list(backup.stored) == stored[-1:]
    finally:
        await backup.kill()
