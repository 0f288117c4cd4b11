"""Both upstreams watched at once: whoever would take over is asked before anything moves to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from failover.aio import cancel_and_wait, spawn
from failover.clock import ManualClock
from failover.health.passive import Outcome
from failover.model import Part, Service, UpstreamName, Verdict

from .test_watch import TICK_S, Watched


class Both:
    """Primary and backup of one service, on one clock."""

    def __init__(self, service: Service) -> None:
        clock = ManualClock()
        self.primary = Watched(service=service, clock=clock)
        self.backup = Watched(service=service, clock=clock, name=UpstreamName.BACKUP)
        self.primary.watch.successors = (self.backup.watch,)

    async def passes(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            await self.primary.passes(TICK_S)
            now_s = self.backup.clock.monotonic()
            self.backup.watch.look(self.backup.still.tick(now_s))

    async def until(self, holds: Callable[[], bool], within_s: float) -> None:
        left = round(within_s / TICK_S)
        while not holds():
            assert left > 0, f"not within {within_s} s"
            left -= 1
            await self.passes(TICK_S)


@asynccontextmanager
async def both(service: Service) -> AsyncIterator[Both]:
    pair = Both(service)
    tasks = [spawn(each.watch.run(), name="watch") for each in (pair.primary, pair.backup)]
    try:
        await pair.passes(21.0)
        yield pair
    finally:
        await cancel_and_wait(*tasks)


@pytest.mark.parametrize("service", list(Service))
@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_a_backup_that_died_with_the_primary_is_known_before_anything_could_move(
    service: Service, how: str
) -> None:
    """A cut network. The backup was asked just before, in calm, and nobody calls it."""
    async with both(service) as pair:
        for pacs in (pair.primary.reach, pair.backup.reach):
            pacs.unreachable, pacs.stopped = how == "killed", how == "hung"
        pair.primary.traffic.ended(pair.primary.traffic.began(Part.QUERY, "search"), Outcome.FAILED)
        await pair.until(lambda: pair.primary.verdict is Verdict.DOWN, 20.0)
        assert pair.backup.verdict is not Verdict.UP


@pytest.mark.parametrize("service", list(Service))
async def test_the_fourth_suspicion_moves_at_once_and_asks_the_backup_at_once(service: Service) -> None:
    async with both(service) as pair:
        for suspicion in range(1, 5):
            pair.primary.reach.unreachable = True
            traffic = pair.primary.traffic
            traffic.ended(traffic.began(Part.QUERY, "search"), Outcome.FAILED)
            before_s = pair.primary.clock.monotonic()
            await pair.until(lambda: pair.primary.verdict is not Verdict.UP, 4.0)
            fourth = suspicion == 4
            assert pair.primary.verdict is (Verdict.DOWN if fourth else Verdict.SUSPECT)
            if fourth:
                break
            pair.primary.reach.unreachable = False
            await pair.until(lambda: pair.primary.verdict is Verdict.UP, 4.0)
            await pair.passes(11.0)  # the backup is left alone again
        await pair.passes(0.1)
        assert pair.backup.reach.asked_at_s[-1] >= before_s


async def test_a_backup_that_answers_is_not_doubted_and_not_asked_without_end() -> None:
    async with both(Service.DICOM) as pair:
        asked = len(pair.backup.reach.asked_at_s)
        pair.primary.reach.unreachable = True
        pair.primary.traffic.ended(pair.primary.traffic.began(Part.QUERY, "search"), Outcome.FAILED)
        await pair.until(lambda: pair.primary.verdict is Verdict.DOWN, 20.0)
        assert pair.backup.verdicts() == ["None", "up"]
        # The calm rhythm, and the one that was wanted.
        assert len(pair.backup.reach.asked_at_s) - asked <= 3
