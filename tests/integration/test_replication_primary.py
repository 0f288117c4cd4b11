"""The whole replicator with a real primary: Orthanc by DICOMweb, Orthanc by C-GET, dcmqrscp by C-MOVE."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import FileDataset

from failover.app.samples import part10, sample_studies
from failover.clients.dimse_bulk import DimseBulk, Outgoing
from failover.clock import SystemClock
from failover.config import Configuration
from failover.control import ask, socket_path
from failover.model import Address, AeTitle, DicomPeer
from failover.replication.service import ReplicationService
from tests.fakes.processes import FakeArchive, FakeRouter
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port
from tests.peers.storescp import Storescp

pytestmark = pytest.mark.integration
WITHIN_S = 50.0


@pytest.fixture(scope="module")
def today() -> date:
    """Read once: midnight may pass while these tests run."""
    return SystemClock().wall().date()


@pytest.fixture(scope="module")
def samples(today: date) -> list[FileDataset]:
    """Six studies are enough here: the three of today, with 73 instances, and three older ones."""
    chosen: dict[str, list[FileDataset]] = {}
    for instance in sample_studies(today):
        chosen.setdefault(instance.StudyInstanceUID, []).append(instance)
    return [i for study in [*list(chosen.values())[:4], *list(chosen.values())[-2:]] for i in study]


async def until(holds: Callable[[], Any], what: str) -> None:
    """Return once `holds()`; it may be a coroutine function."""
    clock = SystemClock()
    end_s = clock.monotonic() + WITHIN_S
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert clock.monotonic() < end_s, f"not within {WITHIN_S:g} s: {what}"
        await clock.sleep(0.05)


def configuration(folder: Path, primary: dict[str, Any], archive_ae: str = "MINIPACS") -> Configuration:
    return Configuration.model_validate(
        {
            "state_dir": str(folder / "state"),
            "primary": primary,
            "archive": {"data_dir": str(folder / "archive"), "dicom": {"ae_title": archive_ae}},
            "replication": {"poll_every": "500ms"},
        },
        context={"folder": folder},
    )


@asynccontextmanager
async def replicating(
    configuration: Configuration, **word: str | None
) -> AsyncIterator[tuple[FakeArchive, FakeRouter, Callable[[], Any]]]:
    """The replicator at work, between an archive and a router that are fakes."""
    state = configuration.state_dir
    archive = FakeArchive(state, configuration.archive.data_dir)
    router = FakeRouter(state, **word)
    service = ReplicationService(configuration, SystemClock())
    await archive.start()
    await router.start()
    await service.start()
    try:
        yield archive, router, lambda: ask(socket_path(state, "replicator"), "numbers")
    finally:
        await service.stop()
        await router.stop()
        await archive.stop()


def web_and_dicom(peer: Orthanc) -> dict[str, Any]:
    return {"web": {"url": peer.url}, **dicom_only(peer)}


def dicom_only(peer: Orthanc | Dcmqrscp) -> dict[str, Any]:
    return {"dicom": {"host": peer.host, "port": str(peer.dicom_port), "ae_title": peer.ae_title}}


def fill(peer: Orthanc, samples: list[FileDataset]) -> None:
    for instance in samples:
        peer.upload(part10(instance))


def same_pixels(archive: FakeArchive, samples: list[FileDataset]) -> bool:
    return {uid: held.instance.get("PixelData") for uid, held in archive.held.items()} == {
        i.SOPInstanceUID: i.get("PixelData") for i in samples
    }


@pytest.mark.parametrize("by", ["dicomweb", "c-get"])
async def test_a_full_primary_is_replicated_and_coverage_becomes_one(
    by: str, samples: list[FileDataset], tmp_path: Path
) -> None:
    with Orthanc() as primary:
        fill(primary, samples)
        places = web_and_dicom(primary) if by == "dicomweb" else dicom_only(primary)
        setting = configuration(tmp_path, places)
        began = SystemClock().wall().date()
        async with replicating(setting, web="up" if by == "dicomweb" else None) as (archive, _, numbers):

            async def complete() -> bool:
                said = await numbers()
                return said["coverage_ratio"] == 1.0 and said["pending_to_backup"] == 0

            await until(complete, "coverage is 1")
            assert same_pixels(archive, samples)
            assert max(archive.taken.values()) == 1, "each instance was fetched once"
            await until(lambda: archive.window and archive.window["from"], "the window is told")
            assert archive.window in [
                {"from": (day - timedelta(days=setting.window_days)).strftime("%Y%m%d"), "short": {}}
                for day in (began, SystemClock().wall().date())  # two, where midnight has passed
            ]
            metrics = await ask(socket_path(setting.state_dir, "replicator"), "metrics")
            via = "wado" if by == "dicomweb" else "get"
            assert f'failover_replication_fetched_total{{via="{via}"}} {len(samples)}.0' in metrics["text"]


async def test_new_instances_and_a_corrected_patient_follow(
    samples: list[FileDataset], tmp_path: Path
) -> None:
    study = [i for i in samples if i.StudyInstanceUID == samples[0].StudyInstanceUID]
    with Orthanc(extra={"OverwriteInstances": True}) as primary:
        fill(primary, study[:5])
        async with replicating(configuration(tmp_path, web_and_dicom(primary))) as (archive, _, _n):
            await until(lambda: len(archive.held) == 5, "the study is there")
            fill(primary, study[5:8])
            await until(lambda: len(archive.held) == 8, "the new instances follow")
            taken = sum(archive.taken.values())
            corrected = []
            for instance in study[:8]:
                other = instance.copy()
                other.PatientName = "Müller^Jörg"
                other.PatientBirthDate = "19560315"
                corrected.append(other)
            for entry in primary.lookup(study[0].StudyInstanceUID):
                primary.request("DELETE", entry["Path"])
            fill(primary, corrected)
            await until(
                lambda: all(str(h.instance.PatientName) == "Müller^Jörg" for h in archive.held.values()),
                "the corrected study replaces the old one",
            )
            assert sum(archive.taken.values()) >= taken + 8


@pytest.mark.parametrize("by", ["stow", "c-store"])
async def test_debt_is_sent_proven_and_then_gone(by: str, samples: list[FileDataset], tmp_path: Path) -> None:
    with Orthanc() as primary:
        fill(primary, samples[:3])  # a study that both sides have a part of
        places = web_and_dicom(primary) if by == "stow" else dicom_only(primary)
        async with replicating(configuration(tmp_path, places), web="up" if by == "stow" else None) as (
            archive,
            router,
            _,
        ):
            router.word["phase"] = "on_backup"
            for instance in samples[3:12]:
                archive.put(instance, "owed")
            await until(lambda: archive.states() == {"none": 3, "proven": 9}, "all is proven")
            assert primary.instance_count() == 12
            order = [state for uid, state in archive.marks if uid == samples[3].SOPInstanceUID]
            assert order == ["sent", "proven"]


async def test_a_dead_primary_is_paid_when_it_is_back(samples: list[FileDataset], tmp_path: Path) -> None:
    with Orthanc() as primary:
        async with replicating(configuration(tmp_path, web_and_dicom(primary))) as (archive, router, _):
            await asyncio.to_thread(primary.kill)
            archive.put(samples[0], "owed")
            router.word["primary"] = {"web": "down", "dicom": "down"}
            await asyncio.to_thread(primary.restart)
            router.word["primary"] = {"web": "up", "dicom": "up"}
            await until(lambda: archive.states()["proven"] == 1, "the debt is paid")


async def test_a_drained_primary_is_not_touched(samples: list[FileDataset], tmp_path: Path) -> None:
    with Orthanc() as primary:
        fill(primary, samples[:2])
        setting = configuration(tmp_path, web_and_dicom(primary))
        async with replicating(setting) as (archive, router, numbers):
            await until(lambda: len(archive.held) == 2, "it replicates")
            router.word.update(mode="drain")

            async def heard() -> bool:
                return bool((await numbers())["allowed"] == "the primary is drained")

            await until(heard, "the word is heard")
            before = len(archive.held)
            count = primary.instance_count()
            archive.put(samples[20], "owed")
            fill(primary, samples[2:4])

            async def some_polls_later() -> bool:
                return bool((await numbers())["last_poll_s_ago"] > 2.5)

            await until(some_polls_later, "polls would have come")
            assert len(archive.held) == before + 1
            assert archive.states()["owed"] == 1
            assert primary.instance_count() == count + 2
            router.word.update(mode="drain", keep_replicating=True)
            await until(lambda: archive.states()["proven"] == 1, "then it goes on")


async def test_a_primary_without_dicomweb_and_without_get_fills_the_archive_by_move(
    samples: list[FileDataset], tmp_path: Path
) -> None:
    study = [i for i in samples if i.StudyInstanceUID == samples[0].StudyInstanceUID][:6]
    archive_port = free_port()
    with (
        Dcmqrscp(destinations={"MINIPACS": archive_port}) as primary,
        Storescp(ae_title="MINIPACS", dicom_port=archive_port) as door,
    ):
        where = DicomPeer(Address(primary.host, primary.dicom_port), AeTitle(primary.ae_title))
        modality = DimseBulk(where, AeTitle("CT1"))
        await modality.store([_outgoing(i, tmp_path) for i in study])
        await modality.close()
        setting = configuration(tmp_path, dicom_only(primary))
        async with replicating(setting, web=None) as (archive, _, numbers):
            # The archive's own door: what storescp received becomes what the fake archive holds.
            import pydicom

            async def arrived() -> bool:
                for path in door.files():
                    instance = pydicom.dcmread(path, force=True)
                    if instance.SOPInstanceUID not in archive.held:
                        archive.put(instance, "none")
                return len(archive.held) == len(study)

            await until(arrived, "C-MOVE brought the study")
            assert archive.expected_moves
            assert archive.expected_moves[0][0] == "PACS"

            async def covered() -> bool:
                return bool((await numbers())["coverage_ratio"] == 1.0)

            await until(covered, "instances were counted by looking, and all are there")
            archive.put(samples[30], "owed")
            await until(lambda: archive.states()["proven"] == 1, "the debt is paid by C-STORE")


def _outgoing(instance: FileDataset, folder: Path) -> Outgoing:
    path = folder / f"{instance.SOPInstanceUID}.dcm"
    path.write_bytes(part10(instance))
    return Outgoing(
        path, instance.SOPClassUID, instance.SOPInstanceUID, str(instance.file_meta.TransferSyntaxUID)
    )


def test_samples_reach_back_beyond_the_recent_days(samples: list[FileDataset], today: date) -> None:
    oldest = min(i.StudyDate for i in samples)
    assert oldest < (today - timedelta(days=30)).strftime("%Y%m%d")
