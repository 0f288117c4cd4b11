"""What a wrong clock, a damaged index and a disk without room do to an archive."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from failover.aio import cancel_and_wait, spawn
from failover.archive.index import Index
from failover.archive.opening import Soundness, look_through
from failover.archive.paths import INDEX
from failover.archive.reserve import RESERVE_BYTES, Reserve
from failover.archive.retention import ClockSeen, Policy, leap_s, may_age
from failover.clock import Clock, ManualClock
from failover.errors import StorageError
from failover.model import Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import an_object

DAY_S = 86400.0
POLICY = Policy(days=90, max_bytes=10**12, min_free_bytes=0, needs_proof=False)


class LeapingClock(ManualClock):
    """A clock whose time of day can be set."""

    ahead = timedelta()

    def wall(self) -> datetime:
        return super().wall() + self.ahead


@pytest.mark.parametrize(
    ("passed_s", "ahead_days", "restarted", "believed"),
    [
        (10.0, 0.0, False, True),
        (10.0, 8.9, False, True),
        (10.0, 9.1, False, False),
        (100 * DAY_S, 0.0, False, True),  # it really ran so long
        (0.0, 8.0, True, True),  # it was off for a week
        (0.0, 365.0, True, False),
        (10.0, -3650.0, False, True),  # behind: all stays longer
    ],
)
def test_a_clock_is_believed_as_far_as_time_has_passed(
    passed_s: float, ahead_days: float, restarted: bool, believed: bool
) -> None:
    seen = ClockSeen(1_800_000_000.0, None if restarted else 500.0)
    wall = seen.wall + (0.0 if restarted else passed_s) + ahead_days * DAY_S
    assert may_age(leap_s(seen, wall, 500.0 + passed_s), POLICY) is believed


def test_of_few_days_of_retention_a_leap_of_a_day_is_still_believed() -> None:
    few = Policy(days=3, max_bytes=1, min_free_bytes=0, needs_proof=False)
    assert may_age(DAY_S, few)
    assert not may_age(1.01 * DAY_S, few)


async def test_a_clock_that_leaps_evicts_nothing_until_it_is_right_or_confirmed(make_room: MakeRoom) -> None:
    clock = LeapingClock()
    room = make_room(has_primary=False, clock=clock)
    await room.store(an_object())
    room.janitor.turn()
    clock.ahead = timedelta(days=400)
    room.janitor.turn()
    assert room.index.numbers()["instances"] == 1
    assert "400 days ahead" in (room.janitor.clock_guard.doubt or "")
    clock.ahead = timedelta()
    room.janitor.turn()
    assert room.janitor.clock_guard.doubt is None, "it was set right"
    clock.ahead = timedelta(days=400)
    room.janitor.turn()
    assert room.index.numbers()["instances"] == 1
    await asyncio.to_thread(room.janitor.clock_guard.confirm)
    room.janitor.turn()
    assert room.index.numbers()["instances"] == 0


async def test_a_leap_over_a_restart_is_seen_too(make_room: MakeRoom) -> None:
    room = make_room(has_primary=False)
    await room.store(an_object())
    room.janitor.turn()
    room.close()
    clock = LeapingClock()
    clock.ahead = timedelta(days=365)
    room = make_room(has_primary=False, clock=clock)
    room.janitor.turn()
    assert room.index.numbers()["instances"] == 1
    assert "since the archive last ran" in (room.janitor.clock_guard.doubt or "")


async def test_what_is_wanted_for_space_goes_also_while_the_clock_is_doubted(make_room: MakeRoom) -> None:
    clock = LeapingClock()
    room = make_room(has_primary=False, clock=clock, max_bytes=1500)
    for study in (1, 2, 3):
        await room.store(an_object(study))
    room.janitor.clock_guard.look(POLICY)
    clock.ahead = timedelta(days=400)
    room.janitor.turn()
    assert 0 < room.index.numbers()["bytes"] <= 1500, "the oldest went, the others stayed"


def damage(data_dir: Path) -> None:
    """Write over the last third of the index, as a failing disk does."""
    path = data_dir / INDEX
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size * 2 // 3)
        file.write(b"\xa5" * (size - size * 2 // 3))


async def test_an_index_that_is_damaged_is_noticed_and_written_no_more(make_room: MakeRoom) -> None:
    room = make_room()
    for study in range(1, 30):
        await room.store(an_object(study), Origin.REPLICATED)
    room.close()
    assert look_through(room.data_dir / INDEX, room.clock).whole
    damage(room.data_dir)
    room = make_room()
    await room.janitor.look_through_index()
    [what] = room.troubles.sentences().values()
    assert "the index is damaged" in what
    assert "failover import" in what
    with pytest.raises(StorageError, match="the index is damaged"):
        await room.store(an_object(99))
    with pytest.raises(StorageError, match="the index is damaged"):
        room.instances.receive()


def io_error(code: int = sqlite3.SQLITE_IOERR_READ) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("failures", "code", "refused"),
    [
        (1, sqlite3.SQLITE_IOERR_READ, False),
        (2, sqlite3.SQLITE_IOERR_READ, False),
        (3, sqlite3.SQLITE_IOERR_READ, True),
        (1, sqlite3.SQLITE_CORRUPT, True),
        (1, sqlite3.SQLITE_IOERR_CORRUPTFS, True),
    ],
)
async def test_a_disk_that_fails_once_ends_no_stores_and_one_that_goes_on_does(
    room: Room, monkeypatch: pytest.MonkeyPatch, failures: int, code: int, refused: bool
) -> None:
    turns = []

    def turn() -> None:
        turns.append(1)
        if len(turns) <= failures:
            raise io_error(code)

    monkeypatch.setattr(room.janitor, "turn", turn)
    task = spawn(room.janitor.run(), name="janitor")
    while len(turns) < failures + 2:
        await room.clock.advance(10.0)
    await cancel_and_wait(task)
    assert ("index_damaged" in room.troubles.sentences()) is refused
    if not refused:
        await room.store(an_object(1))
        return
    with pytest.raises(StorageError, match="the index is damaged"):
        await room.store(an_object(1))


@pytest.mark.parametrize(("failures", "refused"), [(1, False), (2, True)])
async def test_an_index_that_was_not_read_once_is_looked_through_again(
    room: Room, monkeypatch: pytest.MonkeyPatch, failures: int, refused: bool
) -> None:
    looks = []

    def look(path: Path, clock: Clock) -> Soundness:
        looks.append(path)
        return (
            Soundness(None, False, "disk I/O error") if len(looks) <= failures else look_through(path, clock)
        )

    monkeypatch.setattr("failover.archive.janitor.look_through", look)
    await room.finish(room.janitor.look_through_index(), 10.0)
    assert len(looks) == 2
    assert ("index_damaged" in room.troubles.sentences()) is refused


async def test_a_look_that_takes_too_long_ends_without_a_verdict(room: Room) -> None:
    many = [(str(n),) for n in range(20_000)]
    room.index.write_now(
        lambda transaction: transaction.connection.executemany("INSERT INTO evicted VALUES (?, 0)", many)
    )
    found = look_through(room.data_dir / INDEX, room.clock, limit_s=-1.0)
    assert (found.damage, found.whole) == (None, False)


def test_room_is_kept_and_given_up(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path)
    reserve.keep()
    assert reserve.held_bytes == RESERVE_BYTES
    assert sum(p.stat().st_blocks for p in tmp_path.iterdir()) * 512 >= RESERVE_BYTES, "it is really taken"
    given_up = 0
    while reserve.give_up():
        given_up += 1
        assert reserve.held_bytes < RESERVE_BYTES
    assert given_up == 16, "step by step: who fills the disk does not get it all at once"
    reserve.keep()
    assert reserve.held_bytes == RESERVE_BYTES


def test_what_is_not_there_cannot_be_looked_through(tmp_path: Path) -> None:
    index = Index(tmp_path, has_primary=False)
    assert look_through(tmp_path / INDEX, ManualClock()).whole
    index.close()
