"""An object is acknowledged when file, row and debt are there; what cannot be kept leaves nothing."""

from __future__ import annotations

import asyncio

import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from failover.archive.instances import Result
from failover.archive.queries import Level
from failover.errors import Conflict, DataSetMismatch, DiskFull, StorageError, UnreadableDataSet
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import CT, an_object, data_set, part10, uid


async def test_what_a_caller_stores_is_durable_listed_and_owed(room: Room) -> None:
    stored = await room.store(an_object(1, 2, 3))

    assert stored.result is Result.KEPT
    held = room.index.instance(uid(1, 2, 3))
    assert held is not None
    assert held.state is DebtState.OWED
    assert held.path.read_bytes()[:132] == bytes(128) + b"DICM"
    assert room.ledger.numbers().lag_objects == 1
    (study,) = await room.find()
    assert study.attributes()["00201208"]["Value"] == [1]


async def test_what_comes_from_the_primary_is_not_owed_and_its_coming_is_a_proof(room: Room) -> None:
    await room.store(an_object(), Origin.REPLICATED)

    row = room.index.row(uid(1, 1, 1))
    assert row is not None
    assert (row["state"], row["proven_at"]) == ("none", room.clock.wall().timestamp())
    assert room.ledger.numbers().lag_objects == 0


async def test_an_archive_without_a_primary_owes_nothing(make_room: MakeRoom) -> None:
    room = make_room(has_primary=False)
    await room.store(an_object())
    assert room.ledger.numbers().lag_objects == 0
    assert room.index.window.complete


async def test_pixels_lie_where_the_index_says(room: Room) -> None:
    await room.store(an_object())
    held = room.index.instance(uid(1, 1, 1))
    assert held is not None
    assert held.pixel_offset is not None
    assert held.path.read_bytes()[held.pixel_offset :][: held.pixel_length] == bytes(range(32))


async def test_the_same_object_again_is_known_and_written_once(room: Room) -> None:
    await room.store(an_object())
    again = await room.store(an_object())
    assert again.result is Result.KNOWN
    assert len(room.files()) == 1
    assert room.index.numbers()["instances"] == 1


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
async def test_the_same_object_encoded_otherwise_is_known(room: Room, syntax: str) -> None:
    ds = data_set()
    await room.store(part10(ds))
    ds["PixelData"].VR = "OW"
    if syntax == ExplicitVRBigEndian:  # PS3.5 A.3: words are swapped with the rest
        ds.PixelData = bytes(
            b for pair in zip(ds.PixelData[1::2], ds.PixelData[::2], strict=True) for b in pair
        )
    assert (await room.store(part10(ds, syntax))).result is Result.KNOWN


async def test_the_same_image_compressed_without_loss_is_known(room: Room) -> None:
    await room.store(an_object())
    compressed = pydicom.dcmread(room.files()[0])
    compressed.compress(RLELossless, generate_instance_uid=False)
    assert (await room.store(part10(compressed, RLELossless))).result is Result.KNOWN


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"PixelData": bytes(32)}, "content"), ({"PatientID": "OTHER", "PatientName": "Other"}, "patient")],
)
async def test_a_known_uid_with_other_content_goes_to_quarantine(
    room: Room, changed: dict[str, object], reason: str
) -> None:
    await room.store(an_object())
    held = room.index.instance(uid(1, 1, 1))
    assert held is not None
    before = held.path.read_bytes()

    for _ in range(2):  # the same one twice takes room once
        with pytest.raises(Conflict):
            await room.store(an_object(**changed))

    assert held.path.read_bytes() == before
    (quarantined,) = room.index.quarantined()
    assert quarantined["reason"] == reason
    assert (room.data_dir / quarantined["path"]).is_file()
    assert room.ledger.numbers().lag_objects == 1
    (study,) = await room.find()
    assert study.attributes()["00100020"]["Value"] == ["P1"]


async def test_a_correction_by_the_primary_replaces_and_the_old_version_is_history(room: Room) -> None:
    await room.store(an_object(), Origin.REPLICATED)
    stored = await room.store(an_object(PatientName="Right^Name"), Origin.REPLICATED)

    assert stored.result is Result.REPLACED
    (study,) = await room.find(PatientName="right*")
    assert study.attributes()["00100010"]["Value"] == [{"Alphabetic": "Right^Name"}]
    assert await room.find(PatientName="muster*") == []
    assert room.index.numbers()["instances"] == 1
    (old,) = room.index.reader().execute("SELECT path FROM history").fetchall()
    assert (room.data_dir / old["path"]).is_file()


async def test_what_was_owed_and_is_other_on_the_primary_is_kept_for_people_to_see(room: Room) -> None:
    await room.store(an_object())
    await room.store(an_object(PatientName="Right^Name"), Origin.REPLICATED)
    (quarantined,) = room.index.quarantined()
    assert quarantined["reason"] == "replaced_by_primary"
    assert room.ledger.numbers().lag_objects == 0


async def test_what_was_owed_and_comes_back_from_the_primary_is_proven(room: Room) -> None:
    await room.store(an_object())
    await room.store(an_object(), Origin.REPLICATED)
    row = room.index.row(uid(1, 1, 1))
    assert row is not None
    assert row["state"] == "proven"
    await room.store(an_object(), Origin.COPIED)
    assert room.ledger.numbers().lag_objects == 0


async def test_a_copy_on_the_way_is_no_proof_of_a_debt(room: Room) -> None:
    await room.store(an_object())
    await room.store(an_object(), Origin.COPIED)
    assert room.ledger.numbers().lag_objects == 1


async def test_many_at_once_share_transactions_and_all_are_there(room: Room) -> None:
    await asyncio.gather(*(room.store(an_object(1 + n % 3, 1, n)) for n in range(60)))
    assert room.index.numbers() == {
        "instances": 60,
        "studies": 3,
        "bytes": sum(p.stat().st_size for p in room.files()),
    }
    assert len(await room.find(Level.IMAGE)) == 60


async def test_the_same_object_from_many_at_once_is_kept_once(room: Room) -> None:
    stored = await asyncio.gather(*(room.store(an_object()) for _ in range(10)))
    assert sorted(s.result for s in stored) == sorted([Result.KEPT] + [Result.KNOWN] * 9)
    assert len(room.files()) == 1


async def test_rivals_for_one_uid_at_once_leave_one_object_and_a_quarantine(room: Room) -> None:
    rivals = [an_object(PixelData=bytes([n]) * 32) for n in range(6)]
    outcomes = await asyncio.gather(*(room.store(rival) for rival in rivals), return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 5
    assert len(room.index.quarantined()) == 5
    assert len(room.files()) == 6


def _without_uid() -> bytes:
    return part10(data_set(StudyInstanceUID=None))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not DICOM at all",
        bytes(128) + b"DICM",
        an_object()[:-10],
        an_object()[:200],
        _without_uid(),
        an_object().replace(uid(1, 1).encode(), b"../../etc/passwd".ljust(len(uid(1, 1)), b"x")),
    ],
    ids=["empty", "text", "no meta", "cut in the pixels", "cut in the meta", "no study", "hostile UID"],
)
async def test_what_cannot_be_read_leaves_nothing(room: Room, content: bytes) -> None:
    with pytest.raises(UnreadableDataSet):
        await room.store(content)
    assert room.files() == []
    assert room.index.numbers()["instances"] == 0


async def test_a_data_set_that_is_not_what_was_announced_is_refused(room: Room) -> None:
    content = an_object()
    meta = pydicom.filereader.read_file_meta_info(_as_file(room, content))
    offset = 132 + 12 + meta.FileMetaInformationGroupLength
    for announced in (uid(9, 9, 9), "", "../../x", "\xff" * 300):
        incoming = room.instances.receive(
            room.instances.data_set_head(CT, announced, ExplicitVRLittleEndian, "CT1")
        )
        await incoming.write(content[offset:])
        with pytest.raises(DataSetMismatch):
            await incoming.keep(Origin.CALLER)
    assert room.index.numbers()["instances"] == 0


def _as_file(room: Room, content: bytes) -> str:
    path = room.data_dir.parent / "one.dcm"
    path.write_bytes(content)
    return str(path)


async def test_a_file_whose_meta_names_another_object_gets_one_that_is_right(room: Room) -> None:
    ds = data_set()
    wrong = part10(ds).replace(ds.SOPInstanceUID.encode(), uid(7, 7, 7).encode(), 1)
    stored = await room.store(wrong)
    assert stored.key.sop_instance_uid == uid(1, 1, 1)
    kept = pydicom.dcmread(room.files()[0])
    assert kept.file_meta.MediaStorageSOPInstanceUID == uid(1, 1, 1)
    assert kept.PixelData == ds.PixelData


async def test_a_preamble_that_is_a_program_is_wiped_and_that_of_tiff_stays(room: Room) -> None:
    await room.store(b"MZ" + bytes(126) + an_object(1)[128:])
    await room.store(b"II*\0" + bytes(124) + an_object(2)[128:])
    starts = {path.read_bytes()[:4] for path in room.files()}
    assert starts == {bytes(4), b"II*\0"}


async def test_a_large_object_streams_to_disk_and_memory_stays_flat(room: Room) -> None:
    pixels = bytes(8 * 2**20)
    content = an_object(Rows=2048, Columns=2048, PixelData=pixels)
    incoming = room.instances.receive()
    for start in range(0, len(content), 65536):
        await incoming.write(content[start : start + 65536])
        assert incoming._held_bytes <= 1024 * 1024 + 65536
    await incoming.keep(Origin.CALLER)
    (path,) = room.files()
    assert path.read_bytes()[128:] == content[128:]


async def test_what_is_given_up_leaves_nothing(room: Room) -> None:
    incoming = room.instances.receive()
    await incoming.write(bytes(2**21))
    assert len(room.files()) == 1
    await incoming.discard()
    assert room.files() == []


async def test_without_room_nothing_is_begun(make_room: MakeRoom) -> None:
    room = make_room(min_free_bytes=2**60)
    with pytest.raises(DiskFull):
        await room.store(an_object())
    with pytest.raises(DiskFull):
        room.instances.receive()
    assert room.files() == []


async def test_a_handed_over_file_changes_owner(room: Room) -> None:
    path = room.data_dir / "handover" / "one"
    path.write_bytes(an_object())
    stored = await room.instances.take(path, Origin.REPLICATED)
    assert stored.result is Result.KEPT
    path.write_bytes(an_object())
    assert (await room.instances.take(path, Origin.REPLICATED)).result is Result.KNOWN
    assert not path.exists()
    path.write_bytes(b"rubbish")
    with pytest.raises(UnreadableDataSet):
        await room.instances.take(path, Origin.REPLICATED)
    assert not path.exists()


async def test_only_what_lies_in_handover_is_taken(room: Room) -> None:
    outside = room.data_dir.parent / "outside.dcm"
    outside.write_bytes(an_object())
    link = room.data_dir / "handover" / "link"
    link.symlink_to(outside)
    for path in (outside, link, room.data_dir / "handover" / ".." / ".." / "outside.dcm"):
        with pytest.raises(StorageError):
            await room.instances.take(path, Origin.REPLICATED)
    assert outside.exists()


async def test_a_known_object_whose_file_was_lost_is_healed(room: Room) -> None:
    await room.store(an_object())
    (path,) = room.files()
    path.unlink()
    room.janitor.compare_folder(path.parent.name)
    assert await room.find() == []
    assert (await room.store(an_object())).result is Result.KNOWN
    assert path.is_file()
    assert len(await room.find()) == 1
