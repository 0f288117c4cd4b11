"""Disks forget silently: every object is read again; what is damaged is shown no more until it is back."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.archive.damaged import AGAIN_AFTER_S, Damaged
from failover.archive.scrubber import MOST_BYTES_S, Round, Scrubber, rest_s
from failover.metrics import ArchiveMetrics
from failover.model import LOST, DebtState, Origin
from tests.bench import many
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import an_object, uid

DAY_S = 86400.0


def scrubber(room: Room, period_s: float = 30 * DAY_S) -> tuple[Scrubber, CollectorRegistry]:
    registry = CollectorRegistry()
    metrics = ArchiveMetrics(registry)
    damaged = Damaged(room.data_dir, room.index, metrics, room.clock, room.troubles)
    return Scrubber(room.index, damaged, period_s, metrics, room.clock), registry


def file_of(room: Room, study: int) -> Path:
    row = room.index.row(uid(study, 1, 1))
    assert row is not None
    return room.data_dir / str(row["path"])


def forget_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


def test_a_round_is_spread_over_its_period_and_never_faster_than_its_bound() -> None:
    began = Round(began=0.0, left=1000)
    assert rest_s(began, 0.0, 30_000.0, 1000) == 30.0
    assert rest_s(began, 0.0, 30 * DAY_S, 1000) == 60.0, "a small archive is read through in its first hours"
    assert rest_s(began, 29_999.0, 30_000.0, MOST_BYTES_S) == 1.0, "late, and yet not faster"
    assert rest_s(began, 99_999.0, 30_000.0, 0) == 0.0


async def test_sound_objects_are_read_and_the_round_ends_with_its_period(room: Room) -> None:
    for study in (1, 2, 3):
        await room.store(an_object(study), Origin.REPLICATED)
    scrub, registry = scrubber(room)
    for _ in range(5):
        await scrub.turn()
    assert registry.get_sample_value("failover_archive_scrubbed_total") == 3
    assert registry.get_sample_value("failover_archive_damaged_total") == 0
    await room.clock.advance(30 * DAY_S)
    for _ in range(5):
        await scrub.turn()
    assert registry.get_sample_value("failover_archive_scrubbed_total") == 6


async def test_the_many_studies_of_the_bench_are_sound(tmp_path: Path, make_room: MakeRoom) -> None:
    many.make(tmp_path / "archive", 3)
    room = make_room()
    scrub, registry = scrubber(room)
    for _ in range(3):
        await room.finish(scrub.turn(), AGAIN_AFTER_S)
    assert registry.get_sample_value("failover_archive_scrubbed_total") == 3
    assert registry.get_sample_value("failover_archive_damaged_total") == 0


async def test_a_restart_does_not_begin_a_finished_round_again(room: Room) -> None:
    await room.store(an_object(1))
    for expected in (1, 0):
        scrub, registry = scrubber(room)
        for _ in range(3):
            await scrub.turn()
        assert registry.get_sample_value("failover_archive_scrubbed_total") == expected


async def test_a_damaged_object_is_quarantined_and_shown_no_more_until_the_primary_brings_it(
    room: Room,
) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(2), Origin.REPLICATED)
    path = file_of(room, 1)
    forget_a_bit(path)
    scrub, registry = scrubber(room)
    for _ in range(3):
        await room.finish(scrub.turn(), AGAIN_AFTER_S)
    assert registry.get_sample_value("failover_archive_damaged_total") == 1
    assert [m.study_instance_uid for m in await room.find()] == [uid(2)], "nobody reads a wrong image"
    [quarantined] = room.index.quarantined()
    assert (quarantined["uid"], quarantined["reason"]) == (uid(1, 1, 1), "damaged")
    assert (room.data_dir / quarantined["path"]).is_file()
    assert not path.exists()
    assert list(room.troubles.sentences()) == ["objects_damaged"]

    await room.store(an_object(1), Origin.REPLICATED)
    assert len(await room.find()) == 2
    assert path.is_file()
    await scrub.turn()
    assert room.troubles.sentences() == {}


async def test_what_is_owed_and_damaged_is_refused_until_somebody_sends_it_again(room: Room) -> None:
    """It cannot be sent: awaited, it would keep the way back closed for ever."""
    await room.store(an_object(1))
    await room.store(an_object(2))
    forget_a_bit(file_of(room, 1))
    scrub, _ = scrubber(room)
    for _ in range(3):
        await room.finish(scrub.turn(), AGAIN_AFTER_S)
    row = room.index.row(uid(1, 1, 1))
    assert row is not None
    assert (row["state"], row["hidden"]) == (DebtState.OWED, 1)
    room.janitor.turn()
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.refused, numbers.lost) == (1, 1, 1)
    [entry] = room.ledger.entries([DebtState.REFUSED])
    assert (entry["sop_instance_uid"], entry["refused_status"]) == (uid(1, 1, 1), LOST)
    await room.store(an_object(1))
    assert len(await room.find()) == 2
    room.janitor.refuse_lost()
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.refused, numbers.lost) == (2, 0, 0)


async def test_an_owed_object_whose_file_is_gone_is_refused_and_a_proof_ends_that(room: Room) -> None:
    await room.store(an_object(1))
    path = file_of(room, 1)
    path.unlink()
    room.janitor.compare_folder(path.parent.name)
    room.janitor.refuse_lost()
    assert (room.ledger.numbers().lag_objects, room.ledger.numbers().refused) == (0, 1)
    await room.store(an_object(1), Origin.REPLICATED)
    assert (room.ledger.numbers().lag_objects, room.ledger.numbers().refused) == (0, 0)
    row = room.index.row(uid(1, 1, 1))
    assert row is not None
    assert (row["state"], row["hidden"]) == (DebtState.PROVEN, 0)


async def test_a_refusal_of_the_primary_is_no_loss(room: Room) -> None:
    await room.store(an_object(1))
    await room.ledger.mark([uid(1, 1, 1)], DebtState.REFUSED, status=0xA900)
    file_of(room, 1).unlink()
    await room.store(an_object(1))
    assert room.ledger.numbers().refused == 1


@pytest.mark.parametrize("cut", [1, 20])
async def test_a_file_that_became_shorter_is_damaged(make_room: MakeRoom, cut: int) -> None:
    room = make_room(has_primary=False)
    await room.store(an_object(1))
    path = file_of(room, 1)
    path.write_bytes(path.read_bytes()[:-cut])
    scrub, registry = scrubber(room)
    for _ in range(2):
        await room.finish(scrub.turn(), AGAIN_AFTER_S)
    assert registry.get_sample_value("failover_archive_damaged_total") == 1
    assert await room.find() == []
    room.janitor.turn()
    [quarantined] = room.index.quarantined()
    assert (room.data_dir / quarantined["path"]).is_file(), "kept for people to look at"


async def test_a_period_of_nothing_reads_nothing(room: Room) -> None:
    await room.store(an_object(1))
    scrub, registry = scrubber(room, 0.0)
    task = spawn(scrub.run(), name="scrubber")
    await room.clock.advance(DAY_S)
    await cancel_and_wait(task)
    assert registry.get_sample_value("failover_archive_scrubbed_total") == 0


@pytest.mark.parametrize("wrong", ["EIO", "a bit"])
async def test_what_was_read_wrongly_once_is_not_set_aside(
    room: Room, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Given a sound object, when the disk errs at the first reading, then it is read again, and shown."""
    await room.store(an_object(1))
    read, readings = os.pread, []

    def pread(descriptor: int, size: int, position: int) -> bytes:
        readings.append(position)
        if len(readings) > 1:
            return read(descriptor, size, position)
        if wrong == "EIO":
            raise OSError(errno.EIO, "I/O error")
        return read(descriptor, size, position)[:-1] + b"?"

    monkeypatch.setattr(os, "pread", pread)
    scrub, registry = scrubber(room)
    await room.finish(scrub.turn(), AGAIN_AFTER_S)
    assert registry.get_sample_value("failover_archive_scrubbed_total") == 1
    assert registry.get_sample_value("failover_archive_damaged_total") == 0
    assert len(await room.find()) == 1
    assert room.index.quarantined() == []
    assert room.troubles.sentences() == {}


async def test_what_the_disk_never_gives_back_is_set_aside(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.store(an_object(1))

    def pread(descriptor: int, size: int, position: int) -> bytes:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "pread", pread)
    scrub, registry = scrubber(room)
    await room.finish(scrub.turn(), AGAIN_AFTER_S)
    assert registry.get_sample_value("failover_archive_damaged_total") == 1
    assert await room.find() == []
