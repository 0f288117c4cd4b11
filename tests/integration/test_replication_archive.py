"""The replicator between a real primary and the real archive: only the router is a fake."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from aiohttp import web
from pydicom.dataset import FileDataset

from failover.app.listeners import bind
from failover.app.samples import part10, sample_studies
from failover.archive.service import ArchiveService
from failover.clients.dimse_bulk import DimseBulk, Outgoing
from failover.clock import SystemClock
from failover.config import Configuration
from failover.control import Json, ask, socket_path
from failover.model import Address, AeTitle, DicomPeer
from failover.replication.service import ReplicationService
from tests.fakes.processes import FakeRouter
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port

pytestmark = pytest.mark.integration
WITHIN_S = 50.0


@dataclass
class Site:
    configuration: Configuration
    router: FakeRouter
    replication: ReplicationService

    async def restart_replicator(self) -> None:
        """A new one begins with what the old one wrote down."""
        await self.replication.stop()
        self.replication = ReplicationService(self.configuration, SystemClock())
        await self.replication.start()

    async def ask(self, component: str, method: str, params: Json | None = None) -> Json:
        return await ask(socket_path(self.configuration.state_dir, component), method, params, timeout_s=30)

    async def covered(self) -> bool:
        return bool((await self.ask("replicator", "numbers"))["coverage_ratio"] == 1.0)

    async def lag(self) -> int:
        return int((await self.ask("archive", "ledger.numbers"))["lag_objects"])

    def window(self) -> dict[str, Any]:
        """What the archive has written down of the last comparison."""
        path = self.configuration.archive.data_dir / "index.sqlite"
        with closing(sqlite3.connect(path)) as connection:
            (value,) = connection.execute("SELECT value FROM facts WHERE name = 'window'").fetchone()
        window: dict[str, Any] = json.loads(value)
        return window

    def objects(self) -> dict[str, FileDataset]:
        files = (self.configuration.archive.data_dir / "objects").rglob("*.dcm")
        held = [pydicom.dcmread(path) for path in files]
        return {instance.SOPInstanceUID: instance for instance in held}


async def until(holds: Callable[[], Any], what: str) -> None:
    clock = SystemClock()
    end_s = clock.monotonic() + WITHIN_S
    while not await holds():
        assert clock.monotonic() < end_s, f"not within {WITHIN_S:g} s: {what}"
        await clock.sleep(0.05)


@asynccontextmanager
async def a_site(
    folder: Path,
    primary: dict[str, Any],
    dicom_port: int,
    *,
    max_bytes: int = 10**12,
    scrub: str = "30d",
    compression: str = "jpeg-lossless",
    **word: str | None,
) -> AsyncIterator[Site]:
    setting = Configuration.model_validate(
        {
            "state_dir": str(folder / "state"),
            "primary": primary,
            "archive": {
                "data_dir": str(folder / "archive"),
                "dicom": {"port": str(dicom_port)},
                "web": {"port": str(free_port())},
                "retention": {"min_free_bytes": "1MB", "max_bytes": f"{max_bytes}B"},
                "scrub": scrub,
                "compression": compression,
            },
            "replication": {"poll_every": "500ms"},
        },
        context={"folder": folder},
    )
    archive = ArchiveService(setting, lambda *_: web.Application(), SystemClock())
    await archive.start(
        bind("archive.dicom", "127.0.0.1", dicom_port),
        bind("archive.web", "127.0.0.1", setting.archive.web.port),
    )
    router = FakeRouter(setting.state_dir, **word)
    await router.start()
    replication = ReplicationService(setting, SystemClock())
    await replication.start()
    site = Site(setting, router, replication)
    try:
        yield site
    finally:
        await site.replication.stop()
        await router.stop()
        await archive.stop()


def dicom_side(peer: Orthanc | Dcmqrscp) -> dict[str, Any]:
    return {"dicom": {"host": peer.host, "port": str(peer.dicom_port), "ae_title": peer.ae_title}}


def samples_of_today() -> list[FileDataset]:
    return [i for i, _ in zip(sample_studies(SystemClock().wall().date()), range(73), strict=False)]


async def store(where: DicomPeer, instances: list[FileDataset], folder: Path) -> None:
    outgoing = []
    for instance in instances:
        path = folder / f"{instance.SOPInstanceUID}.dcm"
        path.write_bytes(part10(instance))
        outgoing.append(
            Outgoing(
                path,
                instance.SOPClassUID,
                instance.SOPInstanceUID,
                str(instance.file_meta.TransferSyntaxUID),
            )
        )
    modality = DimseBulk(where, AeTitle("CT1"))
    answers = await modality.store(outgoing)
    await modality.close()
    assert all(answers[item.sop_instance_uid].accepted for item in outgoing)


async def test_the_archive_fills_from_orthanc_and_pays_back(tmp_path: Path) -> None:
    samples = samples_of_today()
    there, stored_meanwhile = samples[:60], samples[60:]
    port = free_port()
    with Orthanc() as primary:
        for instance in there:
            primary.upload(part10(instance))
        async with a_site(tmp_path, {"web": {"url": primary.url}, **dicom_side(primary)}, port) as site:
            await until(site.covered, "coverage is 1")
            held = site.objects()
            assert held.keys() == {i.SOPInstanceUID for i in there}
            for instance in there:
                brought = held[instance.SOPInstanceUID]
                assert brought.get("PixelData") == instance.get("PixelData")
                assert brought.PatientName == instance.PatientName
            assert await site.lag() == 0, "what came from the primary is not owed to it"

            await asyncio.to_thread(primary.kill)
            site.router.word.update(phase="on_backup", primary={"web": "down", "dicom": "down"})
            mini = DicomPeer(Address("127.0.0.1", port), AeTitle("MINIPACS"))
            await store(mini, stored_meanwhile, tmp_path)
            assert await site.lag() == len(stored_meanwhile)
            await asyncio.to_thread(primary.restart)
            site.router.word.update(primary={"web": "up", "dicom": "up"})

            async def paid() -> bool:
                return await site.lag() == 0

            await until(paid, "the debt is paid")
            assert primary.instance_count() == len(samples)
            for instance in stored_meanwhile:
                assert primary.lookup(instance.SOPInstanceUID)


async def test_the_archive_fills_by_move_from_a_primary_that_has_nothing_else(tmp_path: Path) -> None:
    samples = samples_of_today()[:6]
    port = free_port()
    with Dcmqrscp(destinations={"MINIPACS": port}) as primary:
        where = DicomPeer(Address(primary.host, primary.dicom_port), AeTitle(primary.ae_title))
        await store(where, samples, tmp_path)
        async with a_site(tmp_path, dicom_side(primary), port, web=None) as site:
            await until(site.covered, "coverage is 1")
            assert site.objects().keys() == {i.SOPInstanceUID for i in samples}
            assert await site.lag() == 0, "stores of a move of our own are replicated, not owed"


async def test_a_corrected_patient_replaces_the_study_in_the_archive(tmp_path: Path) -> None:
    samples = samples_of_today()[:5]
    with Orthanc() as primary:
        for instance in samples:
            primary.upload(part10(instance))
        async with a_site(tmp_path, {"web": {"url": primary.url}}, free_port(), dicom=None) as site:
            await until(site.covered, "coverage is 1")
            primary.delete(samples[0].StudyInstanceUID)
            for instance in samples:
                instance.PatientName, instance.PatientID = "Müller^Jörg", "DEMO-0099"
                primary.upload(part10(instance))
            uid = samples[0].StudyInstanceUID

            async def replaced() -> bool:
                held = await site.ask("archive", "studies.held", {"study_instance_uids": [uid]})
                study = held["studies"].get(uid, {})
                whole = study.get("instances") == len(samples)
                return bool(study.get("patient_id") == "DEMO-0099" and whole)

            await until(replaced, "the study has its new patient")
            assert await site.lag() == 0


@pytest.mark.parametrize("by", ["dicomweb", "c-get"])
async def test_a_fetch_under_way_ends_when_the_primary_is_drained(by: str, tmp_path: Path) -> None:
    samples = samples_of_today()
    with Orthanc() as primary:
        for instance in samples:
            primary.upload(part10(instance))
        places = {"web": {"url": primary.url}} if by == "dicomweb" else dicom_side(primary)
        web, dicom = ("up", None) if by == "dicomweb" else (None, "up")
        async with a_site(tmp_path, places, free_port(), web=web, dicom=dicom) as site:

            async def has_begun() -> bool:
                return bool((await site.ask("archive", "numbers"))["instances"])

            await until(has_begun, "it fetches")
            site.router.word.update(mode="drain")
            said = await site.ask("replicator", "hear")
            assert said["allowed"] == "the primary is drained"
            handover = site.configuration.archive.data_dir / "handover"
            held = (await site.ask("archive", "numbers"))["instances"]
            assert held < len(samples)
            assert not list(handover.glob("wado-*")), "nothing half fetched is left"
            site.router.word.update(mode="auto")
            await until(site.covered, "then it goes on")
            assert site.objects().keys() == {i.SOPInstanceUID for i in samples}
