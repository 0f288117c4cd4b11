"""A real Orthanc comes back with less than it had: what is debt, what was deleted, what a person decides."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from failover.app.samples import part10
from tests.integration.test_replication_archive import Site, a_site, until
from tests.integration.test_replication_space import chosen
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port
from tests.unit.archive.notes import a_note

pytestmark = pytest.mark.integration
# What a note must have as the study that it speaks of.
_SAME = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
)


@asynccontextmanager
async def a_full_site(folder: Path, studies: int) -> AsyncIterator[tuple[Site, Orthanc, list[str]]]:
    """Everything of the primary is in the archive, and the recheck of the start is done."""
    held = chosen(studies)
    with Orthanc() as primary:
        for instances in held.values():
            for instance in instances:
                primary.upload(part10(instance))
        async with a_site(folder, {"web": {"url": primary.url}}, free_port(), dicom=None) as site:
            await until(site.covered, "all is here")
            await until(lambda: rechecked(site), "the recheck of the start is done")
            yield site, primary, list(held)


async def recheck(site: Site) -> dict[str, Any]:
    numbers: dict[str, Any] = (await site.ask("replicator", "numbers"))["recheck"]
    return numbers


async def rechecked(site: Site) -> bool:
    return bool((await recheck(site))["done"])


def files_of(primary: Orthanc, study_instance_uid: str) -> dict[str, tuple[str, bytes]]:
    """Return transfer syntax and pixel data of each object of a study, as Orthanc has it."""
    found: dict[str, tuple[str, bytes]] = {}
    for study in primary.lookup(study_instance_uid):
        for instance in primary.json(f"{study['Path']}/instances"):
            _, content = primary.request("GET", f"/instances/{instance['ID']}/file")
            ds = pydicom.dcmread(BytesIO(content))
            found[str(ds.SOPInstanceUID)] = str(ds.file_meta.TransferSyntaxUID), ds.get("PixelData", b"")
    return found


def compressed_studies(site: Site) -> set[str]:
    """Return the studies of which all objects are compressed."""
    path = site.configuration.archive.data_dir / "index.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT t.uid FROM instances i JOIN studies t ON t.id = i.study GROUP BY t.id"
            " HAVING min(coalesce(i.compression, '') = 'done') = 1"
        )
        return {uid for (uid,) in found}


async def shown(site: Site, uids: Sequence[str]) -> set[str]:
    answer = await site.ask("archive", "studies.held", {"study_instance_uids": list(uids)})
    return {uid for uid, study in answer["studies"].items() if study["instances"]}


@asynccontextmanager
async def an_outage(site: Site) -> AsyncIterator[None]:
    """While this lasts, the router thinks that the primary is down."""
    site.router.word.update(phase="on_backup", primary={"web": "down", "dicom": None})

    async def due() -> bool:
        return not await rechecked(site)

    await until(due, "it heard of the outage")
    yield
    site.router.word.update(primary={"web": "up", "dicom": None})


async def test_a_primary_restored_from_a_dump_gets_back_what_it_lost(tmp_path: Path) -> None:
    """What was compressed meanwhile is sent as it came: the same transfer syntax, the same pixels."""
    async with a_full_site(tmp_path, 4) as (site, primary, uids):
        count = primary.instance_count()

        async def compressed() -> bool:
            uids.sort(key=lambda uid: uid not in compressed_studies(site))
            return uids[0] in compressed_studies(site)

        await until(compressed, "a study is compressed")
        had = files_of(primary, uids[0])
        async with an_outage(site):
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(primary.restart)
            primary.delete(uids[0])  # a whole study, and one object of another
            (other,) = primary.lookup(uids[1])
            lost = primary.json(f"{other['Path']}/instances")[0]["ID"]
            primary.request("DELETE", f"/instances/{lost}")
            assert primary.instance_count() == count - 3

        async def back() -> bool:
            return primary.instance_count() == count and await site.lag() == 0 and await rechecked(site)

        await until(back, "what it lost is back")
        assert await shown(site, uids) == set(uids)
        assert files_of(primary, uids[0]) == had


async def test_what_was_deleted_in_calm_is_hidden_and_never_sent_back(tmp_path: Path) -> None:
    async with a_full_site(tmp_path, 4) as (site, primary, uids):
        primary.delete(uids[0])
        count = primary.instance_count()

        async def hidden() -> bool:
            return await shown(site, uids) == set(uids[1:])

        await until(hidden, "it is deleted here as well")
        async with an_outage(site):
            await asyncio.to_thread(primary.kill)
            await asyncio.to_thread(primary.restart)
        await until(lambda: rechecked(site), "asked again")
        assert await site.lag() == 0
        assert primary.instance_count() == count
        assert await shown(site, uids) == set(uids[1:])


@pytest.mark.parametrize("decision", ["owed", "deleted"])
async def test_when_much_has_vanished_nothing_happens_until_an_operator_decides(
    decision: str, tmp_path: Path
) -> None:
    async with a_full_site(tmp_path, 5) as (site, primary, uids):
        count = primary.instance_count()
        async with an_outage(site):
            for uid in uids[:3]:
                primary.delete(uid)

        async def waits() -> bool:
            return await recheck(site) == {"done": False, "vanished": 3, "wants_decision": True}

        await until(waits, "an operator must decide")
        await site.restart_replicator()
        await until(waits, "and after a restart too")
        assert await site.lag() == 0, "nothing is sent"
        assert await shown(site, uids) == set(uids), "nothing is deleted"
        site.router.word["vanished"] = decision
        await until(lambda: rechecked(site), "decided")
        site.router.word["vanished"] = None
        if decision == "owed":

            async def back() -> bool:
                return primary.instance_count() == count and await site.lag() == 0

            await until(back, "all is sent back")
            assert await shown(site, uids) == set(uids)
        else:
            assert await shown(site, uids) == set(uids[3:])
            assert await site.lag() == 0
            assert primary.instance_count() == count - 6


async def test_a_rejection_note_of_the_primary_hides_and_brings_no_endless_fetching(tmp_path: Path) -> None:
    async with a_full_site(tmp_path, 3) as (site, primary, uids):
        count = primary.instance_count()
        (found,) = primary.lookup(uids[0])
        first = primary.json(f"{found['Path']}/instances")[0]
        series_uid = primary.json(f"/series/{first['ParentSeries']}")["MainDicomTags"]["SeriesInstanceUID"]
        bad = first["MainDicomTags"]["SOPInstanceUID"]
        note_uid = "2.25.4711001"
        tags = primary.json(f"/instances/{first['ID']}/simplified-tags")
        note = a_note(
            [(uids[0], series_uid, bad, "1.2.840.10008.5.1.4.1.1.2")],
            "113037",
            study=uids[0],
            sop_instance_uid=note_uid,
            **{keyword: value for keyword, value in tags.items() if keyword in _SAME},
        )
        primary.upload(note)

        async def hidden() -> bool:
            answer = await site.ask("archive", "study.instances", {"study_instance_uid": uids[0]})
            rejected = {one["sop_instance_uid"]: one["rejected"] for one in answer["instances"]}
            return rejected.get(note_uid) is False and rejected.get(bad) is True

        await until(hidden, "the note is here and hides what it names")
        await until(site.covered, "nothing counts as missing")
        async with an_outage(site):
            pass
        await until(lambda: rechecked(site), "asked again")
        assert await site.lag() == 0, "nor as lost: this primary goes on showing it"
        primary.request("DELETE", f"/instances/{first['ID']}")  # as a primary does that hides it
        async with an_outage(site):
            pass
        await until(lambda: rechecked(site), "asked once more")
        assert await site.lag() == 0, "a primary that hides what is rejected is not sent it"
        assert primary.instance_count() == count
