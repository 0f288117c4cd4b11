"""pynetdicom as the caller of the relay and as its upstream: another reading of the standard."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from failover.clients.checkpoint import keep_answers
from tests.fakes.upstream import FakeUpstream, study
from tests.integration.relay_stage import BACKUP, PRIMARY, peer, stage

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
T = TypeVar("T")
SERVICES = (Verification, FIND, GET, MOVE, StorageCommitmentPushModel, ModalityPerformedProcedureStep)


def image(uid: str = "1.2.3.4") -> Dataset:
    instance = dcmread(get_testdata_file("CT_small.dcm"))
    instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = uid
    return instance


class PynetdicomScp:
    """An archive made of pynetdicom, in its own threads."""

    def __init__(self) -> None:
        self.stored: dict[str, Dataset] = {}
        self.matches = 1000
        self.said: list[str] = []
        self.cancelled = threading.Event()
        ae = AE("PRIME")
        ae.maximum_pdu_size = 8192
        for uid in (
            Verification,
            FIND,
            GET,
            MOVE,
            StorageCommitmentPushModel,
            ModalityPerformedProcedureStep,
        ):
            ae.add_supported_context(uid)
        ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
        self._server = ae.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[
                (evt.EVT_C_ECHO, lambda event: 0),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_C_FIND, self._find),
                (evt.EVT_C_GET, self._get),
                (evt.EVT_C_MOVE, self._move),
                (evt.EVT_N_ACTION, self._action),
                (evt.EVT_N_CREATE, self._create),
                (evt.EVT_N_SET, self._create),
            ],
        )
        assert self._server is not None
        self.port = self._server.server_address[1]

    def close(self) -> None:
        assert self._server is not None
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.stored[event.request.AffectedSOPInstanceUID] = event.dataset
        return 0

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(self.matches):
            if event.is_cancelled:
                self.cancelled.set()
                yield 0xFE00, None
                return
            yield 0xFF00, study(f"1.2.{number}", PatientName="Σωκράτης", SpecificCharacterSet="ISO_IR 192")

    def _get(self, event: evt.Event) -> Iterator[object]:
        yield 3
        for number in range(3):
            yield 0xFF00, image(f"1.2.{number}")

    def _move(self, event: evt.Event) -> Iterator[object]:
        yield None, None  # the destination is unknown: 0xA801

    def _action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        self.said.append("action")
        return 0, None

    def _create(self, event: evt.Event) -> tuple[int, Dataset]:
        self.said.append(type(event.request).__name__)
        answer = Dataset()
        answer.PerformedProcedureStepStatus = "IN PROGRESS"
        return 0, answer


@pytest.fixture
def scp() -> Iterator[PynetdicomScp]:
    found = PynetdicomScp()
    yield found
    found.close()


def call(
    port: int, work: Callable[[Association], object], *, stored: list[Dataset], identity: bool = False
) -> object:
    """Open an association of pynetdicom with the relay, do `work` in it, release it."""
    ae = AE("CT1")
    ae.maximum_pdu_size = 4096
    for uid in SERVICES:
        ae.add_requested_context(uid)
    ae.add_requested_context(CTImageStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
    negotiation = [build_role(CTImageStorage, scu_role=True, scp_role=True)]
    if identity:
        user = UserIdentityNegotiation()
        user.user_identity_type, user.primary_field = 2, b"user"
        user.secondary_field, user.positive_response_requested = b"secret", True
        negotiation.append(user)

    def keep(event: evt.Event) -> int:
        stored.append(event.dataset)
        return 0

    association = ae.associate(
        "127.0.0.1", port, ae_title="PACS", ext_neg=negotiation, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    assert association.is_established
    keep_answers(association)
    result = work(association)
    association.release()
    assert association.is_released
    return result


async def test_all_services_pass(scp: PynetdicomScp, tmp_path: Path) -> None:
    stored: list[Dataset] = []

    def work(association: Association) -> None:
        assert association.send_c_echo().Status == 0
        assert association.send_c_store(image()).Status == 0
        matches = [(s.Status, m) for s, m in association.send_c_find(study(""), FIND)]
        assert len(matches) == 1001
        assert str(matches[5][1].PatientName) == "Σωκράτης"
        assert matches[-1] == (0, None)
        got = [s for s, _ in association.send_c_get(study("1.2"), GET)]
        assert got[-1].Status == 0
        assert got[-1].NumberOfCompletedSuboperations == 3
        moved = [s for s, _ in association.send_c_move(study("1.2"), "NOWHERE", MOVE)]
        assert moved[-1].Status == 0xA801
        status, _ = association.send_n_action(study(""), 1, StorageCommitmentPushModel, "1.2")
        assert status.Status == 0
        status, step = association.send_n_create(study(""), ModalityPerformedProcedureStep, "1.2")
        assert (status.Status, step.PerformedProcedureStepStatus) == (0, "IN PROGRESS")

    async with stage({PRIMARY: peer(scp.port, "PRIME"), BACKUP: peer(1, "BACK")}, tmp_path) as on:
        await asyncio.to_thread(call, on.port, work, stored=stored)
    assert list(scp.stored) == ["1.2.3.4"]
    assert scp.stored["1.2.3.4"].PixelData == image().PixelData
    assert [instance.SOPInstanceUID for instance in stored] == ["1.2.0", "1.2.1", "1.2.2"]
    assert all(instance.PixelData == image().PixelData for instance in stored)
    assert scp.said == ["action", "N_CREATE"]


async def test_a_cancel_reaches_the_upstream(scp: PynetdicomScp, tmp_path: Path) -> None:
    def work(association: Association) -> list[int]:
        statuses: list[int] = []
        for status, _ in association.send_c_find(study(""), FIND, msg_id=5):
            if not statuses:
                association.send_c_cancel(5, query_model=FIND)
            statuses.append(int(status.Status))
        return statuses

    async with stage({PRIMARY: peer(scp.port, "PRIME"), BACKUP: peer(1, "BACK")}, tmp_path) as on:
        scp.matches = 20_000
        statuses = await asyncio.to_thread(call, on.port, work, stored=[])
        assert statuses[-1] == 0xFE00
    assert scp.cancelled.is_set()


async def test_pynetdicom_as_the_caller_notices_no_dead_primary(tmp_path: Path) -> None:
    primary, backup = FakeUpstream("PRIME"), FakeUpstream("BACK")
    primary.matches = backup.matches = [study(f"1.2.{number}") for number in range(7)]
    await primary.start()
    await backup.start()

    def work(association: Association) -> list[str]:
        assert association.send_c_store(image("1.2.3")).Status == 0
        return [m.StudyInstanceUID for _, m in association.send_c_find(study(""), FIND) if m]

    try:
        async with stage({PRIMARY: primary.peer, BACKUP: backup.peer}, tmp_path) as on:
            primary.faults["C-STORE"].append("die_in_data")
            primary.faults["C-FIND"].append("die_after_one")
            uids = await asyncio.to_thread(call, on.port, work, stored=[], identity=True)
            assert uids == [f"1.2.{number}" for number in range(7)]
            assert list(backup.stored) == ["1.2.3"]
            assert {rq.user.identity is not None for rq in (*primary.requests, *backup.requests)} == {True}
    finally:
        await primary.kill()
        await backup.kill()
