"""Who is turned away for want of room: each is counted, one a minute and cause is in the log."""

from __future__ import annotations

from failover.clock import ManualClock
from failover.dicom.turned_away import Cause, TurnedAway


async def test_each_is_counted_and_one_a_minute_is_said() -> None:
    clock = ManualClock()
    counted: list[Cause] = []
    away = TurnedAway("relay", clock, counted.append)
    said = [away.note(Cause.MAX_PER_ADDRESS, "10.1.2.3", "CT1") for _ in range(5)]
    said.append(away.note(Cause.MAX_ASSOCIATIONS, "10.1.2.4", "CT2"))
    await clock.advance(61)
    said.append(away.note(Cause.MAX_PER_ADDRESS, "10.1.2.5", "CT3"))
    assert said == [1, 0, 0, 0, 0, 1, 5]
    assert counted.count(Cause.MAX_PER_ADDRESS) == 6
