"""Our own standstills are noticed, also one that is not over yet."""

from __future__ import annotations

from failover.health.standstill import LoopWatch


def test_ordinary_lateness_is_no_standstill() -> None:
    still = LoopWatch(0.025, 0.0)
    at_s = 0.0
    for _ in range(100):
        at_s += 0.045
        assert still.tick(at_s) == 0.0
    assert still.stood_still_s(0.0, at_s) == 0.0


def test_a_standstill_is_counted_where_it_was() -> None:
    still = LoopWatch(0.025, 0.0)
    still.tick(0.025)
    assert round(still.tick(1.05), 6) == 1.0
    assert round(still.stood_still_s(0.0, 2.0), 6) == 1.925  # and since 1.05 no tick came either
    still.tick(1.075)
    assert round(still.stood_still_s(0.0, 1.08), 6) == 1.0
    assert round(still.stood_still_s(0.55, 1.08), 6) == 0.5
    assert still.stood_still_s(1.06, 1.08) == 0.0


def test_the_ongoing_one_counts_before_its_tick() -> None:
    still = LoopWatch(0.025, 10.0)
    assert round(still.stood_still_s(10.0, 10.525), 6) == 0.5


def test_a_slower_rhythm_that_was_said_is_no_standstill() -> None:
    still = LoopWatch(0.025, 0.0)

    still.expect(0.1)

    assert still.tick(0.12) == 0.0
    assert round(still.tick(0.52), 6) == 0.3
