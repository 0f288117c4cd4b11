"""A search that matched nothing: "nothing found" only where all that it could match is held."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from failover.archive.damaged import AGAIN_AFTER_S, Damaged
from failover.archive.outside import could_match_outside, may_have_missed
from failover.archive.queries import Level, Query, make_query
from failover.archive.window import Window
from failover.archive.writer import Transaction
from failover.dicom.query_keys import AnyOf
from failover.errors import StorageError
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.notes import a_note
from tests.unit.archive.objects import CT, an_object, uid

TODAY = AnyOf(("20261124",))
SHORT = Window(date(2026, 11, 1), {"1.2": 3})


@pytest.mark.parametrize(("level", "keys", "window", "could"), [
    (Level.STUDY, {0x00080020: TODAY}, SHORT, False),
    (Level.STUDY, {0x00080020: TODAY, 0x00080061: AnyOf(("SR",))}, SHORT, True),
    (Level.SERIES, {0x00080020: TODAY}, SHORT, True),
    (Level.SERIES, {0x00080020: TODAY}, Window(date(2026, 11, 1), {}), False),
    (Level.STUDY, {0x00080020: AnyOf(("20261031",))}, SHORT, True),
])  # fmt: skip
async def test_what_is_held_in_part_could_match(
    room: Room, level: Level, keys: dict[int, Any], window: Window, could: bool
) -> None:
    assert could_match_outside(Query(level, keys), window, room.index) is could


async def test_what_was_damaged_could_match_until_it_is_here_again(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    held = room.index.instance(uid(1, 1, 1))
    assert held is not None
    held.path.write_bytes(held.path.read_bytes()[:-1] + b"?")
    damaged = Damaged(
        room.data_dir, room.index, ArchiveMetrics(CollectorRegistry()), room.clock, room.troubles
    )
    row = room.index.row(uid(1, 1, 1))
    assert row is not None

    def could(**keys: Any) -> bool:
        query = make_query(Level.STUDY, {int(tag[1:], 16): key for tag, key in keys.items()})
        return could_match_outside(query, Window(date(2025, 12, 1), {}), room.index)

    days = ({"x00080020": "20251215"}, {"x00080020": "20251201-"}, {"x0020000D": uid(1)})
    assert [could(**keys) for keys in days] == [False] * 3
    await room.finish(damaged.is_whole(row), AGAIN_AFTER_S)
    assert await room.find() == []
    assert [could(**keys) for keys in days] == [True] * 3
    assert not could(x00080020="20251216-")
    await room.store(an_object(1), Origin.REPLICATED)
    assert [could(**keys) for keys in days] == [False] * 3


async def test_what_is_gone_from_the_disk_could_match_until_it_is_here_again(room: Room) -> None:
    window = Window(date(2025, 12, 1), {})

    def could(level: Level, **keys: str) -> bool:
        asked = {int(tag[1:], 16): key for tag, key in keys.items()}
        return could_match_outside(make_query(level, asked), window, room.index)

    for study in (1, 2):
        await room.store(an_object(study, StudyDate=f"202512{10 + study}"), Origin.REPLICATED)
    (path,) = [held.path for held in room.index.instances(study=uid(1))]
    path.unlink()
    room.janitor.compare_folder(path.parent.name)
    assert len(await room.find()) == 1
    assert could(Level.STUDY, x00080020="20251211")
    assert could(Level.IMAGE, x0020000D=uid(1))
    assert not could(Level.STUDY, x00080020="20251212-")
    assert not could(Level.IMAGE, x0020000D=uid(2), x00200013="7")
    await room.store(an_object(1, StudyDate="20251211"), Origin.REPLICATED)
    assert not could(Level.STUDY, x00080020="20251211", x00100010="NOBODY")


@pytest.mark.parametrize("why", ["rejected", "deleted", "owed"])
async def test_what_the_primary_does_not_show_either_could_not_match(room: Room, why: str) -> None:
    origin = Origin.CALLER if why == "owed" else Origin.REPLICATED
    await room.store(an_object(1), origin)
    await room.store(an_object(1, 1, 2), Origin.REPLICATED)
    held = room.index.instance(uid(1, 1, 1))
    assert held is not None
    if why == "rejected":
        note = a_note([(uid(1), uid(1, 1), uid(1, 1, 1), CT)])
        await room.store(note, Origin.REPLICATED)
    if why == "deleted":
        await room.ledger.mark([uid(1, 1, 1)], DebtState.DELETED)
    held.path.unlink()
    room.janitor.compare_folder(held.path.parent.name)
    assert room.index.instance(uid(1, 1, 1)) is None
    assert room.index.set_aside([uid(1)]) == set()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_window_that_something_ends_is_short_before_that_is_written(room: Room, fails: bool) -> None:
    first, later = date(2025, 11, 1), date(2025, 12, 5)
    await room.index.set_window(first, {})
    seen = []

    def end(transaction: Transaction) -> None:
        room.index.covered.ended(transaction, "20251204")
        seen.append(room.index.window.first_day)
        if fails:
            raise StorageError("the disk fails")

    with pytest.raises(StorageError) if fails else nullcontext():
        await room.index.write(end)
    assert seen == [later]
    assert room.index.window.first_day == (first if fails else later)


async def test_a_window_that_grows_holds_only_when_it_is_written(room: Room) -> None:
    await room.index.set_window(date(2025, 12, 1), {uid(1): 3})
    seen = []

    def widen(transaction: Transaction) -> None:
        room.index.covered.compared(transaction, Window(date(2025, 11, 1), {uid(2): 1}))
        seen.append(room.index.window)

    await room.index.write(widen)
    assert seen == [Window(date(2025, 12, 1), {uid(1): 3, uid(2): 1})]
    assert room.index.window == Window(date(2025, 11, 1), {uid(2): 1})


@pytest.mark.parametrize("evicted_first", [False, True])
async def test_a_comparison_and_an_eviction_written_together_leave_what_both_cover(
    room: Room, evicted_first: bool
) -> None:
    """They share one transaction when both wait for the writer."""
    works: list[Callable[[Transaction], None]] = [
        lambda t: room.index.covered.compared(t, Window(date(2025, 11, 1), {})),
        lambda t: room.index.covered.ended(t, "20251204"),
    ]
    if evicted_first:
        works.reverse()
    await room.index.write(lambda transaction: [work(transaction) for work in works])
    assert room.index.window.first_day == date(2025, 12, 5)
    assert room.index.evicted_until() == "20251204"


@pytest.mark.parametrize(("before", "now", "could"), [
    (date(2026, 11, 1), date(2026, 11, 1), False),
    (None, date(2026, 11, 1), True),  # a comparison ended while it searched
    (date(2026, 11, 1), date(2026, 11, 25), True),  # something went for space while it searched
])  # fmt: skip
async def test_a_search_goes_by_the_window_before_and_after_it(
    room: Room, before: date | None, now: date, could: bool
) -> None:
    await room.index.set_window(now, {})
    query = Query(Level.STUDY, {0x00080020: TODAY})
    assert may_have_missed(query, Window(before, {}), room.index) is could
