"""Storage commitment of the archive, asked by a modality of pynetdicom that waits for its report."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from failover.archive.index import Index
from failover.archive.janitor import Janitor
from failover.archive.retention import Policy
from failover.clients.checkpoint import keep_answers
from failover.clock import SystemClock
from failover.dicom.negotiation import RELAY_VERSION
from failover.metrics import ArchiveMetrics
from tests.integration.archive_stage import AE_TITLE, Stage, an_archive
from tests.peers.process import free_port
from tests.unit.archive.objects import CT, data_set, uid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@dataclass
class Modality:
    """CT1: asks for commitment, and keeps the reports that it gets: who called, which event, what it says."""

    port: int = field(default_factory=free_port)
    reports: list[tuple[str, int, Dataset]] = field(default_factory=list)
    answers: int = 0x0000

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        def heard(event: evt.Event) -> tuple[int, None]:
            information = event.event_information
            self.reports.append((event.assoc.requestor.ae_title, event.event_type, information))
            return self.answers, None

        entity = AE("CT1")
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard)]
        )
        try:
            yield
        finally:
            server.shutdown()

    def ask(self, stage: Stage, *instances: str, action: int = 1, version: str | None = None) -> int:
        """Store nothing, ask for commitment of these CT images; return the status."""
        entity = AE("CT1")
        if version is not None:
            entity.implementation_version_name = version
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", stage.port, ae_title=AE_TITLE)
        assert association.is_established
        keep_answers(association)
        request = Dataset()
        request.TransactionUID = uid(99, *(len(one) for one in instances))
        request.ReferencedSOPSequence = []
        for one in instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, one
            request.ReferencedSOPSequence.append(item)
        status, _ = association.send_n_action(
            request, action, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        association.release()
        return int(status.Status)

    def store(self, stage: Stage, *numbers: int) -> None:
        entity = AE("CT1")
        entity.add_requested_context(CT, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", stage.port, ae_title=AE_TITLE)
        keep_answers(association)
        for number in numbers:
            ds = data_set(1, 1, number)
            ds.file_meta = meta()
            assert association.send_c_store(ds).Status == 0
        association.release()

    async def report(self) -> tuple[str, int, Dataset]:
        """Return the next report."""
        async with asyncio.timeout(60):
            while not self.reports:
                await SystemClock().sleep(0.02)
        return self.reports.pop(0)


def meta() -> Any:
    from pydicom.dataset import FileMetaDataset

    made = FileMetaDataset()
    made.TransferSyntaxUID = ExplicitVRLittleEndian
    return made


def uids(report: Dataset, sequence: str) -> list[str]:
    return [str(item.ReferencedSOPInstanceUID) for item in report.get(sequence, [])]


@contextlib.asynccontextmanager
async def scene(folder: Path, modality: Modality, **settings: object) -> AsyncIterator[Stage]:
    async with an_archive(folder, destinations={"CT1": modality.port}, **settings) as stage:
        yield stage


async def test_nothing_is_committed_before_the_primary_is_shown_to_hold_it(tmp_path: Path) -> None:
    """Given an owed object, when CT1 asks, then it hears nothing until the proof."""
    modality = Modality()
    with modality.listening():
        async with scene(tmp_path, modality) as stage:
            await asyncio.to_thread(modality.store, stage, 1, 2)
            one, two = uid(1, 1, 1), uid(1, 1, 2)
            assert await asyncio.to_thread(modality.ask, stage, one, two) == 0
            await stage.ask("ledger.mark", {"sop_instance_uids": [one], "state": "proven"})
            async with asyncio.timeout(30):
                while "commitments_waiting 1.0" not in (await stage.ask("metrics"))["text"]:
                    await SystemClock().sleep(0.02)
            assert modality.reports == []
        async with scene(tmp_path, modality) as stage:  # it outlives a restart
            assert modality.reports == []
            await stage.ask("ledger.mark", {"sop_instance_uids": [two], "state": "proven"})
            caller, event, report = await modality.report()
            assert (caller, event) == (AE_TITLE, 1)
            assert uids(report, "ReferencedSOPSequence") == [one, two]
            assert "FailedSOPSequence" not in report
            assert report.TransactionUID == uid(99, len(one), len(two))


async def test_what_is_not_here_fails_at_once_and_what_is_never_proven_in_the_end(tmp_path: Path) -> None:
    modality = Modality()
    with modality.listening():
        async with scene(tmp_path, modality, commitment_wait="1s") as stage:
            await asyncio.to_thread(modality.store, stage, 1)
            assert await asyncio.to_thread(modality.ask, stage, uid(7, 7, 7)) == 0
            _, event, report = await modality.report()
            assert (event, uids(report, "FailedSOPSequence")) == (2, [uid(7, 7, 7)])
            assert report.FailedSOPSequence[0].FailureReason == 0x0112
            assert await asyncio.to_thread(modality.ask, stage, uid(1, 1, 1)) == 0
            _, event, report = await modality.report()
            assert (event, report.FailedSOPSequence[0].FailureReason) == (2, 0x0110)


async def test_through_the_router_the_report_comes_from_the_name_that_was_called(tmp_path: Path) -> None:
    """The router calls with the modality's name and our version; CT1 called PACS, and expects PACS."""
    modality = Modality()
    with modality.listening():
        async with scene(tmp_path, modality, commitment="archive") as stage:
            await asyncio.to_thread(modality.store, stage, 1)
            status = await asyncio.to_thread(modality.ask, stage, uid(1, 1, 1), version=RELAY_VERSION)
            assert status == 0
            caller, event, _ = await modality.report()
            assert (caller, event) == ("PACS", 1), "commitment: archive waits for no proof"


async def test_an_object_whose_file_is_gone_is_not_committed_by_the_archive(tmp_path: Path) -> None:
    modality = Modality()
    with modality.listening():
        async with scene(tmp_path, modality, commitment="archive") as stage:
            await asyncio.to_thread(modality.store, stage, 1)
            [file] = stage.objects()
        file.unlink()
        async with scene(tmp_path, modality, commitment="archive") as stage:
            index = Index(stage.data_dir, has_primary=True)
            metrics, clock = ArchiveMetrics(CollectorRegistry()), SystemClock()
            janitor = Janitor(stage.data_dir, index, Policy(90, 10**12, 0, True), metrics, clock)
            await asyncio.to_thread(janitor.compare_folder, file.parent.name)
            await asyncio.to_thread(index.close)
            assert await asyncio.to_thread(modality.ask, stage, uid(1, 1, 1)) == 0
            _, event, report = await modality.report()
            assert (event, report.FailedSOPSequence[0].FailureReason) == (2, 0x0110)


async def test_a_report_that_is_refused_is_brought_again(tmp_path: Path) -> None:
    modality = Modality(answers=0x0110)
    with modality.listening():
        async with scene(tmp_path, modality, commitment="archive") as stage:
            await asyncio.to_thread(modality.store, stage, 1)
            assert await asyncio.to_thread(modality.ask, stage, uid(1, 1, 1)) == 0
            await modality.report()
            modality.answers = 0
            assert (await modality.report())[1] == 1
            async with asyncio.timeout(30):
                while "commitments_waiting 0.0" not in (await stage.ask("metrics"))["text"]:
                    await SystemClock().sleep(0.02)


async def test_what_the_archive_cannot_do_it_refuses_so_that_the_modality_keeps_it(tmp_path: Path) -> None:
    modality = Modality()
    async with an_archive(tmp_path) as stage:
        assert (
            await asyncio.to_thread(modality.ask, stage, uid(1, 1, 1)) == 0x0110
        )  # no address for its report
    async with scene(tmp_path, modality) as stage:
        assert await asyncio.to_thread(modality.ask, stage) == 0x0115
        assert await asyncio.to_thread(lambda: modality.ask(stage, uid(1), action=2)) == 0x0123

        def contexts() -> list[int]:
            entity = AE("CT1")
            entity.add_requested_context(ModalityPerformedProcedureStep)
            entity.add_requested_context("1.2.840.10008.5.1.4.33")  # Instance Availability Notification
            entity.add_requested_context(StorageCommitmentPushModel)
            association = entity.associate("127.0.0.1", stage.port, ae_title=AE_TITLE)
            refused = [int(context.result) for context in association.rejected_contexts]
            association.release()
            return refused

        assert await asyncio.to_thread(contexts) == [3, 3], "abstract syntax not supported"
