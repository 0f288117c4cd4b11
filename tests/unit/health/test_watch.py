"""The watch of one service: rhythm, limits, silence, late answers, our own fault.

Manual clock, no sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.clock import ManualClock
from failover.errors import UpstreamRefused, UpstreamUnreachable
from failover.health.passive import LiveTraffic, Outcome
from failover.health.plan import PlannedProbe
from failover.health.report import Report
from failover.health.scheduled import Scheduled
from failover.health.standstill import LoopWatch
from failover.health.verdict import VerdictPolicy
from failover.health.watch import ServiceWatch
from failover.metrics import RouterMetrics
from failover.model import Part, Service, UpstreamName, Verdict

TICK_S = 0.025
REACH, QUERY = Part.REACH, Part.QUERY


class Pacs:
    """Answers probes after `takes_s`; stops answering while `stopped`; refuses while `broken`."""

    def __init__(self, clock: ManualClock, part: Part, takes_s: float = 0.01) -> None:
        self.clock = clock
        self.part = part
        self.name = "HEAD /" if part is REACH else "QIDO"
        self.takes_s = takes_s
        self.stopped = False
        self.broken = False
        self.unreachable = False
        self.asked_at_s: list[float] = []
        self.open = 0
        self.open_most = 0

    async def ask(self) -> str:
        self.asked_at_s.append(self.clock.monotonic())
        self.open += 1
        self.open_most = max(self.open_most, self.open)
        try:
            if self.unreachable:
                raise UpstreamUnreachable("connection refused")
            await self.clock.sleep(self.takes_s)
            while self.stopped:
                await self.clock.sleep(0.01)
            if self.broken:
                raise UpstreamRefused(f"{self.name} gives 503", transient=True)
            return f"{self.name} gives 200"
        finally:
            self.open -= 1


class Watched:
    """One service under watch, with its clock and traffic."""

    def __init__(
        self,
        *,
        service: Service = Service.WEB,
        query: bool = False,
        name: UpstreamName = UpstreamName.PRIMARY,
        clock: ManualClock | None = None,
    ) -> None:
        self.clock = clock or ManualClock()
        self.traffic = LiveTraffic(self.clock)
        self.still = LoopWatch(TICK_S, 0.0)
        self.reports: list[Report] = []
        dicom = service is Service.DICOM
        interval_s, timeout_s = (5.0, 3.0) if dicom else (1.0, 0.4)
        self.reach = Pacs(self.clock, REACH)
        self.query = Pacs(self.clock, QUERY)
        probes = [
            Scheduled(
                PlannedProbe(name, service, REACH, "HEAD /", interval_s, timeout_s, few_slots=dicom),
                self.reach,
            )
        ]
        if query:
            plan = PlannedProbe(name, service, QUERY, "QIDO", 10.0, timeout_s, True, dicom)
            probes.append(Scheduled(plan, self.query))
        self.metrics = RouterMetrics(CollectorRegistry())
        self.watch = ServiceWatch(
            name,
            service,
            probes,
            VerdictPolicy(),
            fast_interval_s=0.2,
            live_counts=True,
            traffic=self.traffic,
            still=self.still,
            clock=self.clock,
            metrics=self.metrics,
            tell=self.reports.append,
        )

    @property
    def verdict(self) -> Verdict | None:
        return self.watch.health.verdict

    async def passes(self, seconds: float) -> None:
        """Let time pass; live traffic is looked at each 25 ms."""
        ends_s = self.clock.monotonic() + seconds
        while self.clock.monotonic() < ends_s - 1e-9:
            await self.clock.advance(min(TICK_S, ends_s - self.clock.monotonic()))
            self.watch.look(self.still.tick(self.clock.monotonic()))

    async def until(self, holds: Callable[[], bool], within_s: float) -> float:
        """Let time pass until `holds`; return how long it took."""
        began_s = self.clock.monotonic()
        while not holds():
            assert self.clock.monotonic() - began_s < within_s, f"not within {within_s} s"
            await self.passes(TICK_S)
        return self.clock.monotonic() - began_s

    def verdicts(self) -> list[str]:
        """The row of verdicts that were told."""
        row: list[str] = []
        for report in self.reports:
            if not row or row[-1] != str(report.verdict):
                row.append(str(report.verdict))
        return row

    def count(self, result: str, part: Part = REACH) -> float:
        labels = {"upstream": "primary", "part": part, "result": result}
        for service in Service:
            value = self.metrics.registry.get_sample_value(
                "failover_probes_total", {**labels, "service": service}
            )
            if value is not None:
                return value
        return 0.0


@asynccontextmanager
async def watched(*, service: Service = Service.WEB, query: bool = False) -> AsyncIterator[Watched]:
    watching = Watched(service=service, query=query)
    task = spawn(watching.watch.run(), name="watch")
    try:
        await watching.passes(0.1)
        yield watching
    finally:
        await cancel_and_wait(task)


async def test_one_good_probe_and_it_is_up() -> None:
    async with watched() as w:
        assert w.verdict is Verdict.UP
        assert w.verdicts() == ["None", "up"]


async def test_in_calm_one_probe_each_interval() -> None:
    async with watched() as w:
        await w.passes(10.0)
        assert len(w.reach.asked_at_s) == 11


async def test_calm_while_it_is_up_and_nobody_asks() -> None:
    async with watched() as w:
        calm = [w.watch.calm]
        token = w.traffic.began(QUERY, "qido")
        calm.append(w.watch.calm)  # somebody waits
        w.traffic.ended(token, Outcome.ANSWERED)
        await w.passes(TICK_S)
        calm.append(w.watch.calm)  # there was something to see
        await w.passes(TICK_S)
        calm.append(w.watch.calm)
        assert calm == [True, False, False, True]


async def test_dead_at_the_start_is_down_after_fall_probes() -> None:
    w = Watched()
    w.reach.unreachable = True
    task = spawn(w.watch.run(), name="watch")
    took_s = await w.until(lambda: w.verdict is Verdict.DOWN, 1.0)
    assert took_s <= 0.25
    assert w.watch.health.reason == "reach: HEAD /: connection refused"
    await cancel_and_wait(task)


async def test_killed_without_traffic_suspect_soon_down_after_fail_after() -> None:
    async with watched() as w:
        w.reach.unreachable = True
        suspect_s = await w.until(lambda: w.verdict is Verdict.SUSPECT, 2.0)
        assert suspect_s <= 1.3
        down_s = await w.until(lambda: w.verdict is Verdict.DOWN, 6.0)
        assert 4.9 <= down_s <= 5.3
        assert w.verdicts() == ["None", "up", "suspect", "down"]


async def test_killed_under_traffic_suspect_at_once() -> None:
    async with watched() as w:
        await w.passes(0.3)
        w.reach.unreachable = True
        w.traffic.ended(w.traffic.began(QUERY, "qido"), Outcome.FAILED)
        assert await w.until(lambda: w.verdict is Verdict.SUSPECT, 0.2) <= 0.1


async def test_stopped_under_traffic_suspect_within_half_a_second() -> None:
    async with watched() as w:
        await w.passes(5.3)
        w.reach.stopped = True
        for _ in range(3):
            w.traffic.began(QUERY, "qido")
        assert await w.until(lambda: w.verdict is Verdict.SUSPECT, 1.0) <= 0.45


async def test_a_pause_of_a_second_and_a_half_is_bridged() -> None:
    async with watched() as w:
        await w.passes(3.0)
        w.reach.stopped = True
        tokens = [w.traffic.began(QUERY, "qido") for _ in range(5)]
        await w.passes(1.5)
        w.reach.stopped = False
        for token in tokens:
            w.traffic.ended(token, Outcome.ANSWERED)
        await w.passes(0.3)
        assert w.verdicts() == ["None", "up", "suspect", "up"]
        await w.passes(5.0)
        assert w.verdict is Verdict.UP


async def test_a_silence_that_a_probe_answers_is_none_and_is_asked_ever_more_seldom() -> None:
    async with watched(service=Service.DICOM) as w:
        w.traffic.began(QUERY, "C-FIND")  # a search of a minute
        await w.passes(60.0)
        assert w.verdicts() == ["None", "up"]
        assert len(w.reach.asked_at_s) <= 60 / 5 + 1 + 15


@asynccontextmanager
async def a_calm_dicom_side(calm_s: float = 20.0) -> AsyncIterator[Watched]:
    async with watched(service=Service.DICOM) as w:
        await w.passes(calm_s)
        yield w


def four_search(w: Watched) -> None:
    for _ in range(4):
        w.traffic.began(QUERY, "C-FIND")


@pytest.mark.parametrize("takes_s", [1.1, 1.2])
async def test_a_full_orthanc_with_four_dicom_threads_is_not_suspected(takes_s: float) -> None:
    """At 1.2 s the first of the immediate probes is late, and comes while the second is asked."""
    async with a_calm_dicom_side() as w:
        w.reach.takes_s = takes_s
        four_search(w)
        await w.passes(30.0)
        assert w.verdicts() == ["None", "up"]


async def test_a_hung_dicom_side_is_suspect_before_a_caller_has_waited_a_second_and_a_half() -> None:
    async with a_calm_dicom_side(21.0) as w:
        w.reach.stopped = True
        four_search(w)
        assert await w.until(lambda: w.verdict is Verdict.SUSPECT, 3.0) <= 1.45


async def test_a_hung_dicom_side_is_suspect_sooner_when_a_caller_waits_for_its_association() -> None:
    """Given an opening that waits since before our probe: what a crowd is given began with it."""
    async with a_calm_dicom_side(21.0) as w:
        w.reach.stopped = True
        w.traffic.began(REACH, "A-ASSOCIATE")
        for _ in range(3):
            w.traffic.began(QUERY, "C-FIND")
        assert await w.until(lambda: w.verdict is Verdict.SUSPECT, 3.0) <= 1.25


async def test_a_full_orthanc_that_opens_the_callers_association_first_is_not_suspected() -> None:
    """Given one that needs 1.2 s, for the caller's opening and then for our echo behind it."""
    async with a_calm_dicom_side() as w:
        w.reach.takes_s = 1.2
        four_search(w)
        for _ in range(20):
            opening = w.traffic.began(REACH, "A-ASSOCIATE")
            await w.passes(1.2)
            w.traffic.ended(opening, Outcome.ANSWERED)
        assert w.verdicts() == ["None", "up"]


async def test_one_caller_whose_opening_hangs_does_not_take_the_time_of_all() -> None:
    """Given an opening that is never answered, and then an Orthanc whose four threads are taken."""
    async with a_calm_dicom_side() as w:
        w.traffic.began(REACH, "A-ASSOCIATE")
        await w.passes(7.0)
        w.reach.takes_s = 0.9
        four_search(w)
        await w.passes(30.0)
        assert w.verdicts() == ["None", "up"]


async def test_a_slow_search_is_no_suspicion() -> None:
    async with watched(query=True) as w:
        w.query.takes_s = 2.0
        await w.passes(10.0)
        assert w.verdict is Verdict.UP
    w = Watched(query=True)
    w.query.takes_s = 2.0  # it always was so slow
    task = spawn(w.watch.run(), name="watch")
    await w.passes(90.0)
    assert w.verdicts() == ["None", "up"]
    await cancel_and_wait(task)


async def test_a_hung_search_behind_a_healthy_front_is_suspect_then_down() -> None:
    async with watched(query=True) as w:
        await w.passes(9.0)
        w.query.stopped = True
        await w.until(lambda: w.verdict is Verdict.SUSPECT, 4.0)
        await w.until(lambda: w.verdict is Verdict.DOWN, 6.0)
        assert w.watch.health.reason.startswith("query: no good answer for 5 s: QIDO: no answer within")


async def test_an_answer_later_than_its_time_out_still_passes() -> None:
    async with watched() as w:
        w.reach.takes_s = 2.0  # five times the time-out, and alive
        await w.passes(60.0)
        assert Verdict.DOWN not in [report.verdict for report in w.reports]


async def test_a_time_out_counts_only_when_nothing_else_came() -> None:
    async with watched() as w:
        w.reach.stopped = True
        token = w.traffic.began(Part.RETRIEVE, "wado")
        for _ in range(100):
            w.traffic.heard(token)
            await w.passes(0.1)
        assert w.verdicts() == ["None", "up"]
        assert w.count("failed") == 0
        assert w.count("void") > 3


async def test_bytes_of_pages_do_not_excuse_a_hung_search() -> None:
    async with watched(query=True) as w:
        await w.passes(9.0)
        w.query.stopped = True
        token = w.traffic.began(REACH, "page")
        for _ in range(60):
            w.traffic.heard(token)
            await w.passes(0.1)
        assert "suspect" in w.verdicts()


async def test_a_probe_during_our_own_standstill_is_void() -> None:
    async with watched() as w:
        await w.passes(0.85)
        w.reach.stopped = True
        await w.passes(0.1)
        for _ in range(5):  # our process is stopped again and again: the clock runs, nobody ticks
            await w.clock.advance(1.0)
            w.watch.look(w.still.tick(w.clock.monotonic()))
        assert w.verdict is Verdict.UP
        assert w.count("failed") == 0


async def test_a_live_success_counts_as_a_passed_probe() -> None:
    async with watched() as w:
        w.reach.broken = True
        await w.until(lambda: w.verdict is Verdict.SUSPECT, 3.0)
        w.traffic.ended(w.traffic.began(REACH, "page"), Outcome.ANSWERED)
        await w.passes(TICK_S)
        assert w.verdict is Verdict.UP


async def test_a_burst_of_one_caller_does_not_end_down() -> None:
    async with watched() as w:
        w.reach.stopped = True
        await w.until(lambda: w.verdict is Verdict.DOWN, 10.0)
        for _ in range(50):
            w.traffic.ended(w.traffic.began(REACH, "page"), Outcome.ANSWERED)
        await w.passes(TICK_S)
        assert w.verdict is Verdict.DOWN


async def test_one_kind_of_bad_request_moves_nothing_and_costs_little() -> None:
    async with watched() as w:
        before = len(w.reach.asked_at_s)
        for _ in range(300):
            w.traffic.ended(w.traffic.began(QUERY, "qido"), Outcome.FAILED)
            await w.passes(0.1)
        assert w.verdicts() == ["None", "up"]
        assert len(w.reach.asked_at_s) - before < 30 * 2.5


async def test_never_more_than_two_associations_of_ours() -> None:
    async with watched(service=Service.DICOM, query=True) as w:
        w.reach.stopped = w.query.stopped = True
        four_search(w)
        await w.passes(40.0)
        assert w.reach.open_most + w.query.open_most <= 3
        assert w.reach.open + w.query.open <= 2


async def test_up_again_after_rise_good_ones_in_a_row() -> None:
    async with watched(query=True) as w:
        w.reach.unreachable = True
        await w.until(lambda: w.verdict is Verdict.DOWN, 10.0)
        w.reach.unreachable = False
        took_s = await w.until(lambda: w.verdict is Verdict.UP, 3.0)
        assert 0.4 <= took_s <= 1.5


async def test_after_a_minute_of_down_the_calm_rhythm() -> None:
    async with watched() as w:
        w.reach.unreachable = True
        await w.passes(70.0)
        before = len(w.reach.asked_at_s)
        await w.passes(20.0)
        assert len(w.reach.asked_at_s) - before in (20, 21)
        w.reach.unreachable = False
        assert await w.until(lambda: w.verdict is Verdict.UP, 5.0) <= 2.0


async def test_a_bug_in_a_probe_is_a_failure_not_the_end() -> None:
    async with watched() as w:

        async def breaks() -> str:
            raise ZeroDivisionError

        w.reach.ask = breaks  # type: ignore[method-assign]
        await w.until(lambda: w.verdict is Verdict.SUSPECT, 3.0)
        assert w.watch.health.reason == "reach: HEAD /: broke: ZeroDivisionError"


async def test_what_is_told_does_not_change_while_nothing_changes() -> None:
    async with watched(query=True) as w:
        await w.passes(12.0)
        before = len(w.reports)
        await w.passes(30.0)
        assert len(w.reports) == before


async def test_a_service_without_probes_ends_at_once() -> None:
    watching = Watched()
    watching.watch._probes = {}
    await asyncio.wait_for(watching.watch.run(), 1.0)


async def test_a_primary_that_stalls_again_and_again_is_down() -> None:
    async with watched() as w:
        for _ in range(4):
            await w.passes(8.0)
            w.reach.stopped = True
            await w.passes(2.0)
            w.reach.stopped = False
        assert w.verdicts()[-1] == "down" or Verdict.DOWN in [report.verdict for report in w.reports]
