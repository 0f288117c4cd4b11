"""What a kill leaves goes; what retention lets go goes; everything else stays."""

from __future__ import annotations

import os
from datetime import date

import pytest

from failover.archive.retention import (
    Candidate,
    Cause,
    Policy,
    choose,
    counts_from,
    space_wanted,
    why_it_stays,
)
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import an_object, uid

DAY_S = 86400.0
POLICY = Policy(days=90, max_bytes=1000, min_free_bytes=100, needs_proof=True)
NOW = 1_800_000_000.0


def candidate(days_ago: float, state: DebtState = DebtState.NONE, proof_h: float | None = 1) -> Candidate:
    arrived = NOW - days_ago * DAY_S
    proven = None if proof_h is None else NOW - proof_h * 3600
    return Candidate(1, 10, "20200101", arrived, state, proven)


@pytest.mark.parametrize(
    ("state", "proof_h", "word"),
    [
        (DebtState.OWED, 1, "does not have it"),
        (DebtState.SENT, 1, "does not have it"),
        (DebtState.REFUSED, 1, "refuses"),
        (DebtState.PROVEN, 25, "older than 24 h"),
        (DebtState.NONE, None, "nobody has asked"),
    ],
)
def test_why_an_object_stays_however_old(state: DebtState, proof_h: float | None, word: str) -> None:
    old = candidate(1000, state, proof_h)
    assert word in (why_it_stays(old, POLICY, NOW) or "")
    assert choose([old], POLICY, NOW, 10**9) == []


def test_what_is_old_and_proven_goes_by_age_and_what_is_young_for_space() -> None:
    assert choose([candidate(91), candidate(89)], POLICY, NOW, 0) == [(candidate(91), Cause.AGE)]
    young = choose([candidate(89), candidate(88), candidate(87)], POLICY, NOW, 15)
    assert [cause for _, cause in young] == [Cause.SPACE, Cause.SPACE]


def test_days_count_from_the_arrival_also_for_a_study_date_in_the_future() -> None:
    for study_date in ("20991231", "20000101", "", "garbage"):
        assert counts_from(Candidate(1, 1, study_date, NOW, DebtState.NONE, None)) == NOW


def test_space_is_wanted_before_stores_are_refused() -> None:
    assert space_wanted(900, 10_000, POLICY) == 0
    assert space_wanted(1100, 10_000, POLICY) == 100
    assert space_wanted(900, 120, POLICY) == 30
    assert space_wanted(10, 0, POLICY) == 10


async def test_eviction_takes_row_and_file_and_spares_what_is_owed(room: Room) -> None:
    await room.store(an_object(1))
    await room.store(an_object(2), Origin.REPLICATED)
    await room.clock.advance(91 * DAY_S)
    assert room.janitor.evict() == 0  # the proof of its coming is too old by now
    assert room.janitor.unproven(10)[0] == [uid(2, 1, 1)]
    await room.ledger.mark([uid(2, 1, 1)], DebtState.PROVEN)
    assert room.janitor.unproven(10) == ([], None)
    room.janitor.turn()
    assert [m.study_instance_uid for m in await room.find()] == [uid(1)]
    assert len(room.files()) == 1
    assert room.index.numbers()["studies"] == 1


async def test_an_archive_alone_evicts_without_proofs(make_room: MakeRoom) -> None:
    room = make_room(has_primary=False)
    await room.store(an_object())
    await room.clock.advance(91 * DAY_S)
    room.janitor.turn()
    assert room.index.numbers() == {"instances": 0, "studies": 0, "bytes": 0}
    assert room.files() == []


async def test_what_goes_for_space_ends_the_window(make_room: MakeRoom) -> None:
    room = make_room(max_bytes=3000)
    for study in range(1, 6):
        await room.store(an_object(study, StudyDate=f"202512{study:02d}"), Origin.REPLICATED)
        await room.clock.advance(1)
    await room.index.set_window(date(2025, 11, 1), {})
    room.janitor.turn()
    left = room.index.numbers()
    assert left["bytes"] <= 3000
    assert room.index.window.first_day == date(2025, 12, 1 + 5 - left["studies"])


async def test_at_the_start_half_received_objects_go(room: Room) -> None:
    await room.store(an_object())
    incoming = room.data_dir / "incoming" / "4711-3.part"
    incoming.write_bytes(b"half an object")
    fresh = room.data_dir / "handover" / "fresh"
    stale = room.data_dir / "handover" / "stale"
    now = room.clock.wall().timestamp()
    for path, age_s in ((fresh, 10), (stale, 7200)):
        path.write_bytes(b"x")
        os.utime(path, (now - age_s, now - age_s))
    room.janitor.at_start()
    assert not incoming.exists()
    assert not stale.exists()
    assert fresh.exists()
    assert len(await room.find()) == 1


async def test_a_file_without_a_row_goes_and_all_others_stay(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(1, PatientName="New^Name"), Origin.REPLICATED)
    kept = room.files()
    for path in kept:
        (path.parent / ("f" * 37 + ".dcm")).write_bytes(b"an orphan")
    for path in kept:
        room.janitor.compare_folder(path.parent.name)
    assert room.files() == kept


async def test_what_comes_again_stays_its_days_anew_but_a_debt_keeps_its_age(make_room: MakeRoom) -> None:
    room = make_room()
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(2))
    await room.clock.advance(60 * DAY_S)
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(2))
    assert room.ledger.numbers().lag_s == 60 * DAY_S
    await room.clock.advance(40 * DAY_S)
    await room.ledger.mark([uid(1, 1, 1), uid(2, 1, 1)], DebtState.PROVEN)
    assert room.janitor.evict() == 1, "the one that came a hundred days ago, and was owed ever since"
    assert [match.study_instance_uid for match in await room.find()] == [uid(1)]


async def test_history_goes_after_the_days_of_retention(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(1, PatientName="New^Name"), Origin.REPLICATED)
    room.janitor.turn()
    assert len(room.files()) == 2
    await room.clock.advance(91 * DAY_S)
    room.janitor.turn()
    assert len(room.files()) == 1
    assert len(await room.find(PatientName="New^Name")) == 1


async def test_a_version_that_comes_back_from_history_keeps_its_file(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(1, PatientName="New^Name"), Origin.REPLICATED)
    await room.store(an_object(1), Origin.REPLICATED)
    await room.clock.advance(91 * DAY_S)
    room.janitor.turn()
    held = room.index.instance(uid(1, 1, 1))
    assert held is not None
    assert held.path.is_file()


async def test_for_space_the_oldest_study_goes_whichever_came_first(make_room: MakeRoom) -> None:
    room = make_room(max_bytes=2500)
    for day in (9, 8, 7, 6, 5):  # the first inventory brings the newest first
        await room.store(an_object(day, StudyDate=f"202512{day:02d}"), Origin.REPLICATED)
    room.janitor.turn()
    left = sorted(m.study_instance_uid or "" for m in await room.find())
    assert left == sorted(uid(day) for day in range(9, 9 - len(left), -1))
    youngest_gone = f"202512{9 - len(left):02d}"
    assert room.index.evicted_until() == youngest_gone
    await room.index.set_window(date(2025, 11, 1), {})
    assert room.index.window.first_day == date(2025, 12, 10 - len(left)), "also against an older word"


async def test_objects_without_a_proof_do_not_stand_in_the_way_of_the_others(room: Room) -> None:
    for study in range(1, 6):
        await room.store(an_object(study), Origin.REPLICATED)
        await room.clock.advance(1)
    await room.clock.advance(91 * DAY_S)
    seen, place = room.janitor.unproven(2)
    assert seen == [uid(1, 1, 1), uid(2, 1, 1)]
    more, place = room.janitor.unproven(2, place)
    assert more == [uid(3, 1, 1), uid(4, 1, 1)]
    last, place = room.janitor.unproven(2, place)
    assert last == [uid(5, 1, 1)]
    assert room.janitor.unproven(2, place) == ([], None)
    await room.ledger.mark(last, DebtState.PROVEN)
    assert room.janitor.evict() == 1


async def test_where_space_is_wanted_proofs_are_renewed_of_the_oldest_studies(make_room: MakeRoom) -> None:
    room = make_room(max_bytes=1500)
    for day in (9, 8, 7):
        await room.store(an_object(day, StudyDate=f"202512{day:02d}"), Origin.REPLICATED)
    await room.clock.advance(2 * DAY_S)
    assert room.janitor.evict() == 0, "proofs of two days ago prove nothing"
    asked, place = room.janitor.unproven(2)
    assert asked == [uid(7, 1, 1), uid(8, 1, 1)]
    assert room.janitor.unproven(2, place)[0] == [uid(9, 1, 1)]
    await room.ledger.mark(asked, DebtState.PROVEN)
    assert room.janitor.evict() > 0
    assert uid(9) in {m.study_instance_uid for m in await room.find()}
