from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from failover.aio import Recall, Signal, cancel_and_wait, spawn
from failover.clock import ManualClock, SystemClock, parse_rfc3339, rfc3339


async def test_sleepers_wake_in_the_order_of_their_time() -> None:
    clock = ManualClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    tasks = [spawn(sleeper("late", 3), name="late"), spawn(sleeper("soon", 1), name="soon")]
    await clock.advance(0)
    await clock.advance(2)
    assert woken == [("soon", 1.0)]
    await clock.advance(2)
    assert woken == [("soon", 1.0), ("late", 3.0)]
    assert clock.monotonic() == 4.0
    assert all(task.done() for task in tasks)


async def test_a_loop_that_sleeps_again_sees_each_of_its_times() -> None:
    clock = ManualClock()
    seen: list[float] = []

    async def loop() -> None:
        while True:
            await clock.sleep(1)
            seen.append(clock.monotonic())

    task = spawn(loop(), name="loop")
    await clock.advance(0)
    await clock.advance(3.5)
    assert seen == [1.0, 2.0, 3.0]
    await cancel_and_wait(task)
    assert task.cancelled()


def test_moments_are_written_in_utc_with_milliseconds() -> None:
    moment = datetime(2026, 5, 4, 3, 2, 1, 678_900, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2026-05-04T01:02:01.678Z"
    assert parse_rfc3339("2026-05-04T01:02:01.678Z") == datetime(2026, 5, 4, 1, 2, 1, 678_000, tzinfo=UTC)
    with pytest.raises(ValueError, match="time zone"):
        parse_rfc3339("2026-05-04T01:02:01")
    assert SystemClock().wall().tzinfo is UTC


async def test_a_signal_wakes_all_who_wait_and_is_never_stale() -> None:
    signal = Signal()
    signal.fire()  # nobody waits: nothing is remembered
    waiting = [spawn(signal.wait(), name=f"waiter {n}") for n in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    signal.fire()
    async with asyncio.timeout(5):
        await asyncio.gather(*waiting)


async def test_waiting_until_a_condition_holds() -> None:
    signal, facts = Signal(), {"holds": False}
    assert not await signal.wait_until(lambda: facts["holds"], timeout_s=0.01)
    waiting = spawn(signal.wait_until(lambda: facts["holds"], timeout_s=5), name="waiting")
    await asyncio.sleep(0)
    signal.fire()
    await asyncio.sleep(0)
    facts["holds"] = True
    signal.fire()
    async with asyncio.timeout(5):
        assert await waiting


async def test_a_task_that_is_called_back_goes_on_after_what_it_awaited() -> None:
    said: list[str] = []

    async def waits() -> None:
        with Recall() as recall:
            loop.call_soon(recall.call)
            await asyncio.Event().wait()
            said.append("not this")
        said.append("went on")
        recall.call()  # the block is left: nothing happens
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)

    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        await spawn(waits(), name="waits")
    assert said == ["went on"]


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_ends_an_outer_wait_passes_an_inner_one(inner: bool, cancelled: bool) -> None:
    said: list[str] = []
    began = asyncio.Event()
    outer, within = Recall(), Recall()

    async def waits() -> None:
        with outer:
            with within:
                began.set()
                await asyncio.Event().wait()
            said.append("left the inner one")
        said.append("left both")

    task = spawn(waits(), name="waits")
    await began.wait()
    if inner:
        within.call()
    if cancelled:
        task.cancel()
    else:
        outer.call()
    await asyncio.wait([task])
    assert task.cancelled() == cancelled
    assert said == ([] if cancelled else ["left both"])
