"""A search that matched nothing: "nothing found" only where all that it could match is held."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from failover.archive.damaged import AGAIN_AFTER_S, Damaged
from failover.archive.outside import could_match_outside, may_have_missed
from failover.archive.queries import Level, Query, make_query
from failover.archive.window import Window
from failover.dicom.query_keys import AnyOf
from failover.metrics import ArchiveMetrics
from failover.model import Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import an_object, uid

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
