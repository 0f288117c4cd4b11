"""pynetdicom as the archive's caller: syntaxes kept as sent, statuses, cancel, roles, the router."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pydicom
import pytest
from pydicom import Dataset
from pydicom.data.data_manager import DATA_ROOT
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from failover.clients.checkpoint import keep_answers
from failover.dicom.dimse import store_rq
from failover.dicom.messages import fragment_of
from failover.dicom.requestor import RequestorAssociation, open_association
from failover.dicom.units import ProposedContext
from failover.model import Address, AeTitle, DicomPeer
from tests.integration.archive_stage import AE_TITLE, Stage, an_archive
from tests.peers.process import free_port
from tests.unit.archive.objects import CT, data_set, part10, uid

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
T = TypeVar("T")


@contextlib.contextmanager
def associated(
    stage: Stage,
    *contexts: tuple[str, list[str]],
    calling: str = "CALLER",
    version: str | None = None,
    get: bool = False,
    handlers: list[object] | None = None,
) -> Iterator[Association]:
    ae = AE(calling)
    if version:
        ae.implementation_version_name = version
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, syntaxes)
    roles = [build_role(CT, scp_role=True)] if get else []
    association = ae.associate(
        "127.0.0.1", stage.port, ae_title=AE_TITLE, ext_neg=roles, evt_handlers=handlers or []
    )
    assert association.is_established
    keep_answers(association)
    try:
        yield association
    finally:
        association.release()


async def caller(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)


def store(stage: Stage, *instances: Dataset, calling: str = "CALLER", **originator: object) -> list[int]:
    """Store as a modality does, each in the syntax it is in; return the statuses."""
    contexts = sorted({(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in instances})
    with associated(stage, *((c, [s]) for c, s in contexts), calling=calling) as association:
        return [int(association.send_c_store(ds, **originator).Status) for ds in instances]


def made(*numbers: int, syntax: str = ExplicitVRLittleEndian, **attributes: object) -> Dataset:
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(part10(data_set(*numbers, **attributes), syntax)))


def find(
    stage: Stage, level: str, model: str = FIND, version: str | None = None, **keys: object
) -> tuple[list[Dataset], Dataset]:
    """Search; return the matches and the final status."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    with associated(stage, (model, [ImplicitVRLittleEndian]), version=version) as association:
        answers = list(association.send_c_find(asked, model))
    return [found for status, found in answers if found is not None], answers[-1][0]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with an_archive(tmp_path) as running:
        yield running


async def test_every_transfer_syntax_is_kept_as_it_was_sent(stage: Stage) -> None:
    sent: dict[str, tuple[str, bytes]] = {}
    for path in sorted((Path(DATA_ROOT) / "test_files").glob("*.dcm")):
        with contextlib.suppress(Exception):  # some are broken on purpose
            ds = pydicom.dcmread(path)
            if "StudyInstanceUID" not in ds or "PixelData" not in ds or ds.SOPInstanceUID in sent:
                continue
            if await caller(lambda ds=ds: store(stage, ds)) == [0]:
                sent[ds.SOPInstanceUID] = (ds.file_meta.TransferSyntaxUID, ds.PixelData)
    assert len({syntax for syntax, _ in sent.values()}) >= 8
    kept = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, stage.objects())}
    assert {uid: (ds.file_meta.TransferSyntaxUID, ds.PixelData) for uid, ds in kept.items()} == sent
    assert {ds.file_meta.SourceApplicationEntityTitle for ds in kept.values()} == {"CALLER"}


async def test_private_classes_and_syntaxes_are_kept_too(stage: Stage) -> None:
    private, syntax = "1.3.12.2.1107.5.9.1", "1.2.276.0.7230010.3.4.99"
    ds = data_set(SOPClassUID=private)
    ds.PixelData = encapsulate([b"whatever a vendor puts here"])
    ds["PixelData"].is_undefined_length = True
    whole = part10(ds, JPEG2000Lossless)
    data = whole[_data_set_at(whole) :]
    assert await _store_raw(stage, uid(1, 1, 1), data, private, syntax) == 0
    (path,) = stage.objects()
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    assert pydicom.dcmread(path).SOPClassUID == private


def _data_set_at(content: bytes) -> int:
    return 144 + int.from_bytes(content[140:144], "little")


async def test_services_that_are_not_ours_are_not_accepted(stage: Stage) -> None:
    def work() -> list[str]:
        wanted = [(ModalityPerformedProcedureStep, [ImplicitVRLittleEndian]),
                  (ModalityWorklistInformationFind, [ImplicitVRLittleEndian]),
                  (Verification, [ImplicitVRLittleEndian])]  # fmt: skip
        with associated(stage, *wanted) as association:
            return [str(context.abstract_syntax) for context in association.accepted_contexts]

    assert await caller(work) == [Verification]


async def test_what_cannot_be_kept_gets_its_status_and_leaves_nothing(stage: Stage) -> None:
    without_study = made(1, StudyInstanceUID=None)
    assert await caller(lambda: store(stage, without_study)) == [0xC000]
    assert await _store_raw(stage, uid(3, 1, 1), b"\xff" * 500) == 0xC000
    whole = part10(data_set(3))
    data = whole[_data_set_at(whole) :]
    assert await _store_raw(stage, uid(3, 1, 1), data[:-10]) == 0xC000
    assert await _store_raw(stage, uid(4, 1, 1), data) == 0xA900
    assert stage.objects() == []
    assert stage.half_received() == []
    assert await _store_raw(stage, uid(3, 1, 1), data) == 0


async def opened(stage: Stage, abstract: str, syntax: str) -> RequestorAssociation:
    """Open an association of our own, for bytes that pynetdicom would not send."""
    peer = DicomPeer(Address("127.0.0.1", stage.port), AeTitle(AE_TITLE))
    return await open_association(peer, "RAW", [ProposedContext(1, abstract, (syntax,))], timeout_s=30)


async def _store_raw(
    stage: Stage, sop_instance_uid: str, data: bytes, abstract: str = CT, syntax: str = ExplicitVRLittleEndian
) -> int:
    association = await opened(stage, abstract, syntax)
    await association.send(1, store_rq(1, abstract, sop_instance_uid), data)
    answer = await association.receive()
    await association.release()
    assert answer is not None
    return answer.command.status


async def test_a_full_disk_says_so_before_anything_is_written(tmp_path: Path) -> None:
    async with an_archive(tmp_path, min_free="900000TB") as stage:
        assert await caller(lambda: store(stage, made(1))) == [0xA700]
        assert stage.objects() == []
        assert stage.half_received() == []


async def test_a_conflict_is_told_and_the_study_stays_readable(stage: Stage) -> None:
    assert await caller(lambda: store(stage, made(1))) == [0]
    assert await caller(lambda: store(stage, made(1, PatientID="OTHER"))) == [0x0111]
    (study,), _ = await caller(lambda: find(stage, "STUDY", PatientID="", StudyInstanceUID=uid(1)))
    assert study.PatientID == "P1"
    (quarantined,) = (await stage.ask("quarantine.list"))["objects"]
    assert (quarantined["reason"], quarantined["caller"]) == ("patient", "CALLER")


async def test_an_association_that_dies_in_an_object_leaves_nothing(stage: Stage) -> None:
    association = await opened(stage, CT, ExplicitVRLittleEndian)
    await association.send_command(1, store_rq(1, CT, uid(1, 1, 1)))
    for _ in range(40):
        await association.send_fragments(1, fragment_of(bytes(100_000), is_last=False))
    association.abort()
    assert await caller(lambda: store(stage, made(2))) == [0]
    assert len(stage.objects()) == 1
    await stage.until_nothing_is_half_received()


async def test_the_four_levels_with_counts(stage: Stage) -> None:
    await caller(lambda: store(stage, *(made(1, s, i) for s in (1, 2) for i in (1, 2, 3))))
    patients, _ = await caller(
        lambda: find(
            stage, "PATIENT", PatientRootQueryRetrieveInformationModelFind, PatientID="P*", PatientName="",
            NumberOfPatientRelatedInstances="", NumberOfPatientRelatedSeries="",
        )
    )  # fmt: skip
    assert [(p.NumberOfPatientRelatedSeries, p.NumberOfPatientRelatedInstances) for p in patients] == [(2, 6)]
    studies, _ = await caller(
        lambda: find(
            stage, "STUDY", StudyDate="20251201-20251231", StudyInstanceUID="", ModalitiesInStudy="",
            NumberOfStudyRelatedSeries="", NumberOfStudyRelatedInstances="",
        )
    )  # fmt: skip
    (study,) = studies
    assert (study.ModalitiesInStudy, study.NumberOfStudyRelatedSeries) == ("CT", 2)
    assert (study.NumberOfStudyRelatedInstances, study.RetrieveAETitle) == (6, AE_TITLE)
    series, _ = await caller(
        lambda: find(
            stage, "SERIES", StudyInstanceUID=uid(1), SeriesInstanceUID="", SeriesNumber="2",
            NumberOfSeriesRelatedInstances="",
        )
    )  # fmt: skip
    assert [(s.SeriesInstanceUID, s.NumberOfSeriesRelatedInstances) for s in series] == [(uid(1, 2), 3)]
    images, status = await caller(
        lambda: find(
            stage, "IMAGE", StudyInstanceUID=uid(1), SeriesInstanceUID=uid(1, 2), SOPInstanceUID="",
            Rows=None, InstanceNumber="",
        )
    )  # fmt: skip
    assert [(i.InstanceNumber, i.Rows) for i in images] == [(1, 4), (2, 4), (3, 4)]
    assert status.Status == 0


@pytest.mark.parametrize("charset", ["ISO_IR 192", ["", "ISO 2022 IR 87"]])
async def test_a_query_in_another_character_set_finds_the_name(
    stage: Stage, charset: str | list[str]
) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    await caller(lambda: store(stage, made(1, PatientName=name, SpecificCharacterSet=["", "ISO 2022 IR 87"])))
    (study,), _ = await caller(
        lambda: find(stage, "STUDY", SpecificCharacterSet=charset, PatientName="*=山田*", StudyInstanceUID="")
    )
    assert str(study.PatientName) == name
    assert study.SpecificCharacterSet == "ISO_IR 192"


async def test_a_key_that_is_not_supported_is_told_and_the_rest_counts(stage: Stage) -> None:
    await caller(lambda: store(stage, made(1), made(2)))

    def work() -> list[int]:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.PatientID, asked.SeriesDescription = "STUDY", "P1", "brain"
        with associated(stage, (FIND, [ImplicitVRLittleEndian])) as association:
            return [int(status.Status) for status, _ in association.send_c_find(asked, FIND)]

    assert await caller(work) == [0xFF01, 0]


@pytest.mark.parametrize(
    ("keys", "status"),
    [({"StudyDate": "yesterday"}, 0xA900), ({"QueryRetrieveLevel": "FRAME"}, 0xA900), ({}, 0x0000)],
)
async def test_hostile_keys_get_a_status(stage: Stage, keys: dict[str, str], status: int) -> None:
    await caller(lambda: store(stage, made(1)))
    asked = {"StudyInstanceUID": "../../etc", "PatientName": "a*" * 200 + "b", **keys}
    level = asked.pop("QueryRetrieveLevel", "STUDY")
    found, last = await caller(lambda: find(stage, level, **asked))
    assert (found, last.Status) == ([], status)


async def test_a_search_is_cancelled(stage: Stage) -> None:
    for start in range(0, 300, 100):
        await caller(lambda start=start: store(stage, *(made(start + n) for n in range(1, 101))))

    def work() -> list[int]:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID, asked.PatientName = "STUDY", "", "x" * 0
        statuses = []
        with associated(stage, (FIND, [ImplicitVRLittleEndian])) as association:
            for status, _ in association.send_c_find(asked, FIND, msg_id=7):
                if not statuses:
                    association.send_c_cancel(7, None, FIND)
                statuses.append(int(status.Status))
        return statuses

    statuses = await caller(work)
    # On loopback all answers may be under way before the C-CANCEL arrives: then it comes too late.
    assert statuses[-1] in (0xFE00, 0x0000)
    assert set(statuses[:-1]) == {0xFF00}


async def test_nothing_found_outside_the_window_is_a_failure_through_the_router_alone(stage: Stage) -> None:
    await caller(lambda: store(stage, made(1, StudyDate="20251215")))
    router = "FAILOVER_RELAY"
    unknown = {"PatientID": "NOBODY", "StudyInstanceUID": ""}
    assert (await caller(lambda: find(stage, "STUDY", **unknown)))[1].Status == 0
    _, status = await caller(lambda: find(stage, "STUDY", version=router, **unknown))
    assert status.Status == 0xC001
    assert "no day" in status.ErrorComment

    await stage.ask("window.set", {"from": "20251201", "short": {}})
    _, status = await caller(lambda: find(stage, "STUDY", version=router, **unknown))
    assert status.Status == 0xC001
    assert "2025-12-01" in status.ErrorComment
    within = {**unknown, "StudyDate": "20251210-"}
    assert (await caller(lambda: find(stage, "STUDY", version=router, **within)))[1].Status == 0
    found, status = await caller(lambda: find(stage, "STUDY", version=router, PatientID="P1"))
    assert (len(found), status.Status) == (1, 0)


async def test_a_copy_of_the_router_is_not_owed_and_pays_no_debt(stage: Stage) -> None:
    told = {"originator_ae": "0123456789abcdef", "message_id": 1}
    await stage.ask("copy.expect", {**told, "for_s": 60})
    copy = {"originator_aet": told["originator_ae"], "originator_id": 1}
    assert await caller(lambda: store(stage, made(1), **copy)) == [0]
    assert (await stage.ask("ledger.numbers"))["lag_objects"] == 0
    assert await caller(lambda: store(stage, made(2))) == [0]
    assert await caller(lambda: store(stage, made(2), **copy)) == [0]  # a caller brought it: it stays owed
    assert await caller(
        lambda: store(stage, made(3), originator_aet="0123456789abcdee", originator_id=1)
    ) == [0]
    assert (await stage.ask("ledger.numbers"))["lag_objects"] == 2


async def test_an_answer_to_our_own_move_is_replicated_and_any_other_is_owed(stage: Stage) -> None:
    await stage.ask("move.expect", {"calling_ae": "REPLICATOR", "message_id": 17, "for_s": 60})
    expected = {"originator_aet": "REPLICATOR", "originator_id": 17}
    assert await caller(lambda: store(stage, made(1), **expected)) == [0]
    assert (await stage.ask("ledger.numbers"))["lag_objects"] == 0
    for other in (
        {"originator_aet": "REPLICATOR", "originator_id": 18},
        {"originator_aet": "X", "originator_id": 17},
    ):
        number = 2 + other["originator_id"]
        assert await caller(lambda o=other, n=number: store(stage, made(n), **o)) == [0]
    assert (await stage.ask("ledger.numbers"))["lag_objects"] == 2


@pytest.mark.parametrize("kept", [RLELossless, ExplicitVRBigEndian, ExplicitVRLittleEndian])
async def test_get_brings_what_the_caller_takes_also_when_it_is_kept_otherwise(
    stage: Stage, kept: str
) -> None:
    ds = made(1)
    native = ds.PixelData
    if kept == RLELossless:
        ds.compress(RLELossless, generate_instance_uid=False)
    elif kept == ExplicitVRBigEndian:
        swapped = bytes(b for pair in zip(native[1::2], native[::2], strict=True) for b in pair)
        ds = made(1, syntax=kept, PixelData=swapped)
    assert await caller(lambda: store(stage, ds)) == [0]
    got: list[Dataset] = []

    def keep(event: evt.Event) -> int:
        received = event.dataset
        received.file_meta = event.file_meta
        got.append(received)
        return 0

    def work() -> Dataset:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", uid(1)
        wanted = [(GET, [ImplicitVRLittleEndian]), (CT, [ImplicitVRLittleEndian])]
        with associated(stage, *wanted, get=True, handlers=[(evt.EVT_C_STORE, keep)]) as association:
            return list(association.send_c_get(asked, GET))[-1][0]

    status = await caller(work)
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0, 1)
    assert got[0].PixelData == native
    assert got[0].PatientName == "Muster^Patient1"


async def test_get_counts_what_the_caller_does_not_take(stage: Stage) -> None:
    other = made(1, 2, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert await caller(lambda: store(stage, made(1), other)) == [0, 0]

    def work() -> tuple[Dataset, Dataset]:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", uid(1)
        wanted = [(GET, [ImplicitVRLittleEndian]), (CT, [ImplicitVRLittleEndian])]
        handlers = [(evt.EVT_C_STORE, lambda _event: 0)]
        with associated(stage, *wanted, get=True, handlers=handlers) as association:
            return list(association.send_c_get(asked, GET))[-1]

    status, failed = await caller(work)
    assert status.Status == 0xB000
    assert (status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations) == (1, 1)
    assert failed.FailedSOPInstanceUIDList == other.SOPInstanceUID


async def test_move_names_its_originator_and_takes_what_the_destination_takes(tmp_path: Path) -> None:
    heard: list[tuple[str, int, str]] = []

    def keep(event: evt.Event) -> int:
        request = event.request
        heard.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID,
                      event.assoc.requestor.ae_title))  # fmt: skip
        return 0xA700 if event.request.AffectedSOPInstanceUID == uid(1, 1, 2) else 0

    destination = AE("DEST")
    destination.supported_contexts = [build_context(CTImageStorage, ImplicitVRLittleEndian)]
    port = free_port()
    server = destination.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    try:
        async with an_archive(tmp_path, destinations={"DEST": port}) as stage:
            compressed = made(1, 1, 3)
            compressed.compress(RLELossless, generate_instance_uid=False)
            assert await caller(lambda: store(stage, made(1, 1, 1), made(1, 1, 2), compressed)) == [0] * 3

            def work() -> list[Dataset]:
                asked = Dataset()
                asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", uid(1)
                with associated(stage, (MOVE, [ImplicitVRLittleEndian]), calling="MOVER") as association:
                    return [s for s, _ in association.send_c_move(asked, "DEST", MOVE, msg_id=9)]

            statuses = await caller(work)
    finally:
        server.shutdown()
    assert {status.Status for status in statuses[:-1]} == {0xFF00}
    last = statuses[-1]
    assert (last.Status, last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (
        0xB000,
        2,
        1,
    )
    assert heard == [("MOVER", 9, "PACS")] * 3
