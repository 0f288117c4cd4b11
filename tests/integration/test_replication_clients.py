"""The replicator's two clients against a real Orthanc and a real dcmqrscp."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import FileDataset

from failover.app.samples import part10, sample_studies
from failover.clients.dicomweb import DicomwebClient
from failover.clients.dimse_bulk import DimseBulk, NoContext, Outgoing, identifier
from failover.clients.stored import NOT_SENT, Stored
from failover.errors import (
    UpstreamBroke,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from failover.model import Address, AeTitle, DicomPeer, InstanceKey, Uid
from tests.peers.dcmqrscp import Dcmqrscp
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port
from tests.peers.storescp import Storescp

pytestmark = pytest.mark.integration
TODAY = date(2026, 3, 1)
ME = AeTitle("PACS")


@pytest.fixture(scope="module")
def samples() -> list[FileDataset]:
    return list(sample_studies(TODAY))


@pytest.fixture(scope="module")
def orthanc(samples: list[FileDataset]) -> Iterator[Orthanc]:
    with Orthanc() as peer:
        for instance in samples:
            peer.upload(part10(instance))
        yield peer


def web(peer: Orthanc, **limits: float) -> DicomwebClient:
    return DicomwebClient(peer.url + peer.dicomweb_path, **limits)  # type: ignore[arg-type]


def dimse(peer: Orthanc | Dcmqrscp, **limits: float) -> DimseBulk:
    where = DicomPeer(Address(peer.host, peer.dicom_port), AeTitle(peer.ae_title))
    return DimseBulk(where, ME, **limits)  # type: ignore[arg-type]


def key(instance: FileDataset) -> InstanceKey:
    return InstanceKey(
        Uid(instance.StudyInstanceUID), Uid(instance.SeriesInstanceUID), Uid(instance.SOPInstanceUID)
    )


def outgoing(instance: FileDataset, folder: Path) -> Outgoing:
    path = folder / f"{instance.SOPInstanceUID}.dcm"
    path.write_bytes(part10(instance))
    return Outgoing(
        path,
        instance.SOPClassUID,
        instance.SOPInstanceUID,
        instance.file_meta.TransferSyntaxUID,
    )


async def test_search_returns_every_page(orthanc: Orthanc, samples: list[FileDataset]) -> None:
    client = web(orthanc)
    found = await client.search_all("instances", [], key="00080018", page=25)
    assert {m["00080018"]["Value"][0] for m in found} == {i.SOPInstanceUID for i in samples}
    assert await client.search("studies", [("StudyDate", "19000101-19000102")]) == []
    await client.close()


async def test_retrieve_brings_every_kind_of_instance_as_it_is(
    orthanc: Orthanc, samples: list[FileDataset], tmp_path: Path
) -> None:
    client = web(orthanc)
    kinds = {(i.SOPClassUID, i.file_meta.TransferSyntaxUID): i for i in samples}
    for instance in kinds.values():
        target = tmp_path / "instance.dcm"
        size = await client.retrieve_instance(key(instance), target)
        assert size == target.stat().st_size
        brought = pydicom.dcmread(target)
        assert brought.file_meta.TransferSyntaxUID == instance.file_meta.TransferSyntaxUID
        assert brought.get("PixelData") == instance.get("PixelData")
        assert brought.PatientName == instance.PatientName
    await client.close()


async def test_what_is_not_there_is_refused_for_good(orthanc: Orthanc, tmp_path: Path) -> None:
    client = web(orthanc)
    with pytest.raises(UpstreamRefused) as caught:
        await client.retrieve_instance(InstanceKey(Uid("1.2"), Uid("1.3"), Uid("1.4")), tmp_path / "x.dcm")
    assert not caught.value.transient
    assert not (tmp_path / "x.dcm").exists()
    await client.close()


async def test_stow_is_accepted_and_then_seen(samples: list[FileDataset], tmp_path: Path) -> None:
    with Orthanc() as primary:
        client = web(primary)
        item = outgoing(samples[0], tmp_path)
        assert (await client.store(item.path, item.sop_instance_uid)).accepted
        assert len(primary.lookup(item.sop_instance_uid)) == 1
        item.path.write_bytes(b"\0" * 128 + b"DICM" + b"no data set at all")
        try:
            answer = await client.store(item.path, item.sop_instance_uid)
        except UpstreamRefused:
            pass  # a 4xx for the whole body is as good an answer
        else:
            assert not answer.accepted
        await client.close()


async def test_no_server_a_dead_one_and_a_hanging_one_are_three_errors(tmp_path: Path) -> None:
    nobody = DicomwebClient(f"http://127.0.0.1:{free_port()}/dicom-web")
    with pytest.raises(UpstreamUnreachable):
        await nobody.search("studies")
    await nobody.close()
    with Orthanc() as peer:
        client, assoc = web(peer, timeout_s=0.5), dimse(peer, timeout_s=0.5)
        peer.stop()
        with pytest.raises(UpstreamTimeout):
            await client.search("studies")
        with pytest.raises(UpstreamError):
            await assoc.find([identifier("STUDY", {"StudyInstanceUID": ""})])
        peer.cont()
        peer.kill()
        with pytest.raises((UpstreamUnreachable, UpstreamBroke)):
            await client.search("studies")
        with pytest.raises(UpstreamUnreachable):
            await assoc.find([identifier("STUDY", {"StudyInstanceUID": ""})])
        await client.close()
        await assoc.close()


async def test_find_at_three_levels_in_one_association(orthanc: Orthanc, samples: list[FileDataset]) -> None:
    client = dimse(orthanc)
    study = samples[0].StudyInstanceUID
    studies, series, images = await client.find(
        [
            identifier("STUDY", {"StudyDate": "20260228-20260302", "StudyInstanceUID": ""}),
            identifier("SERIES", {"StudyInstanceUID": study, "SeriesInstanceUID": ""}),
            identifier(
                "IMAGE",
                {
                    "StudyInstanceUID": study,
                    "SeriesInstanceUID": samples[0].SeriesInstanceUID,
                    "SOPInstanceUID": "",
                },
            ),
        ]
    )
    assert (len(studies), len(series), len(images)) == (5, 2, 24)
    await client.close()


async def test_get_brings_instances_as_they_are(
    orthanc: Orthanc, samples: list[FileDataset], tmp_path: Path
) -> None:
    client = dimse(orthanc)
    cine = next(i for i in samples if "NumberOfFrames" in i and i.NumberOfFrames > 1)
    for instance in (samples[0], cine):
        question = identifier(
            "IMAGE",
            {
                "StudyInstanceUID": instance.StudyInstanceUID,
                "SeriesInstanceUID": instance.SeriesInstanceUID,
                "SOPInstanceUID": instance.SOPInstanceUID,
            },
        )
        status, files = await client.get(question, [instance.SOPClassUID], tmp_path)
        assert status == 0
        assert len(files) == 1
        brought = pydicom.dcmread(files[0])
        assert brought.file_meta.TransferSyntaxUID == instance.file_meta.TransferSyntaxUID
        assert brought.PixelData == instance.PixelData
    await client.close()


async def test_store_then_move_without_get(samples: list[FileDataset], tmp_path: Path) -> None:
    with (
        Storescp() as destination,
        Dcmqrscp(destinations={destination.ae_title: destination.dicom_port}) as primary,
    ):
        client = dimse(primary)
        cine = next(i for i in samples if "NumberOfFrames" in i and i.NumberOfFrames > 1)
        chosen = [*samples[:3], cine]
        answers = await client.store([outgoing(i, tmp_path) for i in chosen])
        assert all(answers[i.SOPInstanceUID].accepted for i in chosen)
        question = identifier("STUDY", {"StudyInstanceUID": samples[0].StudyInstanceUID})
        with pytest.raises(NoContext):
            await client.get(question, [samples[0].SOPClassUID], tmp_path)
        moved = await client.move(question, AeTitle(destination.ae_title), 4711)
        assert (moved.status, moved.completed, moved.failed) == (0, 3, 0)
        assert len(destination.files()) == 3
        # The cine was JPEG, which this primary does not take: it went uncompressed, under its own UID.
        whole = identifier("STUDY", {"StudyInstanceUID": cine.StudyInstanceUID})
        assert (await client.move(whole, AeTitle(destination.ae_title), 4713)).completed == 1
        assert any(path.name.endswith(cine.SOPInstanceUID) for path in destination.files())
        with pytest.raises(UpstreamRefused):
            await client.move(question, AeTitle("NOBODY"), 4712)
        await client.close()


async def test_objects_of_a_class_that_nobody_takes_there_are_refused_each(
    samples: list[FileDataset], tmp_path: Path
) -> None:
    """Else they would stay owed for ever, and hold up the way back without a word of which."""
    from pynetdicom import AE

    entity = AE("NARROW")
    entity.add_supported_context("1.2.840.10008.1.1")
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False)
    client = DimseBulk(DicomPeer(Address("127.0.0.1", port), AeTitle("NARROW")), ME)
    try:
        sent = [outgoing(instance, tmp_path) for instance in samples[:3]]
        answers = await client.store(sent)
        assert {uid: answer.failure_reason for uid, answer in answers.items()} == {
            item.sop_instance_uid: 0x0122 for item in sent
        }
    finally:
        await client.close()
        server.shutdown()


@pytest.mark.parametrize("answers_first", [True, False])
async def test_what_comes_behind_an_association_that_died_was_not_sent(
    samples: list[FileDataset], tmp_path: Path, answers_first: bool
) -> None:
    """The peer aborts at the second object: that one may be there, the third cannot be."""
    from pynetdicom import AE, build_context, evt

    entity, stored = AE("ABORTS"), list[str]()
    chosen = samples[:3]
    entity.supported_contexts = [build_context(i.SOPClassUID, i.file_meta.TransferSyntaxUID) for i in chosen]

    def keep(event: Any) -> int:
        stored.append(event.request.AffectedSOPInstanceUID)
        if len(stored) == 2 or not answers_first:
            event.assoc.abort()
        return 0

    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    client = DimseBulk(DicomPeer(Address("127.0.0.1", port), AeTitle("ABORTS")), ME)
    try:
        answers = await client.store([outgoing(instance, tmp_path) for instance in chosen])
    finally:
        await client.close()
        server.shutdown()
    uids = [instance.SOPInstanceUID for instance in chosen]
    at = len(stored) - 1
    assert [answers.get(uid) for uid in uids] == [Stored(True)] * at + [None] + [NOT_SENT] * (2 - at)


async def test_a_server_that_falls_silent_inside_an_instance_is_not_a_full_disk(tmp_path: Path) -> None:
    async def stops(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nContent-Length: 100000\r\n\r\n"
            + bytes(9000)
        )
        await writer.drain()

    server = await asyncio.start_server(stops, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = DicomwebClient(f"http://127.0.0.1:{port}/dicom-web", timeout_s=0.3)
    target = tmp_path / "object.dcm"
    try:
        with pytest.raises(UpstreamError):
            await client.retrieve_instance(InstanceKey(Uid("1.2"), Uid("1.3"), Uid("1.4")), target)
    finally:
        await client.close()
        server.close()
    assert not target.exists()
