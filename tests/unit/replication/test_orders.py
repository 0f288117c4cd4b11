"""The operator's word holds at once when the router says so, not at the next second."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from failover.aio import spawn
from failover.clock import ManualClock
from failover.errors import ControlUnreachable
from failover.replication.orders import Orders


def said(mode: str, *, keep: bool = True) -> dict[str, Any]:
    return {
        "mode": mode,
        "phase": "on_primary",
        "keep_replicating": keep,
        "primary": {"web": "up", "dicom": "up"},
    }


class Router:
    """Answers what it is set to; None: it is not there."""

    def __init__(self) -> None:
        self.word: dict[str, Any] | None = said("auto")

    async def ask(self) -> dict[str, Any]:
        if self.word is None:
            raise ControlUnreachable("router does not answer")
        return self.word


async def test_a_drain_is_heard_without_a_second_passing() -> None:
    router, clock = Router(), ManualClock()
    orders = Orders((), router.ask, clock)
    await orders.hear_now()
    assert orders.allowed.send
    router.word = said("drain", keep=False)
    assert orders.allowed.send  # it cannot know yet
    told = spawn(orders.changed.wait(), name="told")
    await asyncio.sleep(0)
    await orders.hear_now()
    assert not orders.allowed.touch
    assert clock.monotonic() == 0.0
    async with asyncio.timeout(5):
        await told


async def test_a_router_that_is_away_leaves_the_last_word_and_says_so() -> None:
    router, clock = Router(), ManualClock()
    orders = Orders((), router.ask, clock)
    await orders.hear_now()
    router.word = None
    with pytest.raises(ControlUnreachable):
        await orders.hear_now()
    assert orders.allowed.send
    await clock.advance(11)
    assert not orders.allowed.send


async def test_a_word_from_before_the_operator_spoke_does_not_undo_what_was_heard_after() -> None:
    answers: list[asyncio.Future[dict[str, Any]]] = []

    async def slow() -> dict[str, Any]:
        answers.append(asyncio.get_running_loop().create_future())
        return await answers[-1]

    orders = Orders((), slow, ManualClock())
    each_second = spawn(orders.hear_now(), name="asked before the drain")
    told_to = spawn(orders.hear_now(), name="asked because of the drain")
    await asyncio.sleep(0)
    answers[1].set_result(said("drain", keep=False))
    await told_to
    interruptions = orders.interruptions
    answers[0].set_result(said("auto"))
    await each_second
    assert not orders.allowed.touch, "the primary is being serviced"
    assert orders.interruptions == interruptions
