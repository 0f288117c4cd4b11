"""Router and web worker on one line: routes go out at once, traffic and counts come back."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

from failover.app import increments
from failover.app.increments import COUNTED, Increments
from failover.app.web_words import JOIN, digest_told
from failover.app.web_workers import WebWorkers
from failover.clock import SystemClock
from failover.control import ControlServer, Json, Line, join, socket_path
from failover.errors import ControlUnreachable
from failover.health.passive import LiveTraffic, Outcome
from failover.metrics import RouterMetrics
from failover.model import Part, Phase, Service, UpstreamName, Verdict
from failover.routing import wire
from failover.routing.board import RouteBoard
from failover.routing.selection import Kind, Route, choose
from failover.tallies import Spread, Tally
from tests.fakes.web_stage import calm_route

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
CLOCK = SystemClock()


class Stage:
    def __init__(self, folder: Path, processes: int) -> None:
        self.metrics = RouterMetrics(CollectorRegistry())
        self.board = RouteBoard(calm_route())
        self.traffic = {name: LiveTraffic(CLOCK) for name in UpstreamName}
        supervisor = socket_path(folder, "supervisor")
        self.workers = WebWorkers(
            processes, self.board, self.traffic, self.metrics, CLOCK, supervisor=supervisor
        )
        self.socket = socket_path(folder, "router")
        self.server = ControlServer(self.socket, {}, {JOIN: self.workers.serve})

    async def worker(self, number: int = 2, pid: int | None = None) -> tuple[Line, Json]:
        line = await join(self.socket, JOIN, {"name": f"web-{number}", "pid": pid or os.getpid()})
        return line, await line.receive()

    def up(self, number: int = 2) -> float | None:
        return self.metrics.registry.get_sample_value("failover_component_up", {"component": f"web-{number}"})


@asynccontextmanager
async def stage(folder: Path, processes: int = 2) -> AsyncIterator[Stage]:
    made = Stage(folder, processes)
    made.workers.start()
    await made.server.start()
    try:
        async with asyncio.timeout(20):
            yield made
    finally:
        await made.workers.stop()
        await made.server.stop()


async def word_with(line: Line, key: str) -> Json:
    while key not in (word := await line.receive()):
        pass
    return word


def report(seen: int, **more: object) -> Json:
    nothing: Json = {
        "seen": seen, "told": 0, "flights": {}, "connections": 0, "spool": [0, 0], "stored_s": None,
        "traffic": {},
    }  # fmt: skip
    return {**nothing, **more}


async def test_a_route_is_pushed_and_who_has_not_said_so_counts_as_at_work(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        assert s.workers.in_flight(PRIMARY) == 1  # it has not joined: one of before may be at work
        line, word = await s.worker()
        assert wire.read(word["route"]) == calm_route()
        line.send(report(word["version"], flights={"primary": 3}))
        assert await s.workers.all_heard(timeout_s=10)
        assert s.workers.in_flight(PRIMARY) == 3
        s.board.publish(calm_route(Phase.ON_BACKUP))
        assert s.workers.in_flight(PRIMARY) == 4  # from this very moment on
        assert not await s.workers.all_heard(timeout_s=0.01)
        told = await word_with(line, "route")
        assert wire.read(told["route"]) == s.board.current
        line.send(report(told["version"]))
        assert await s.workers.all_heard(timeout_s=10)
        assert s.workers.in_flight(PRIMARY) == 0


async def test_a_worker_whose_line_was_cut_counts_until_it_is_dead_or_joins_again(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    async with stage(tmp_path) as s:
        line, word = await s.worker(pid=process.pid)
        line.send(report(word["version"], flights={"primary": 3}))
        assert await s.workers.all_heard(timeout_s=10)
        line.close()
        while s.up():
            await CLOCK.sleep(0.005)
        assert s.workers.in_flight(PRIMARY) == 1  # it carries on, nobody knows what
        assert not await s.workers.all_heard(timeout_s=0.01)
        process.kill()
        await process.wait()
        assert s.workers.in_flight(PRIMARY) == 0
        assert await s.workers.all_heard(timeout_s=10)
        line, word = await s.worker()
        assert s.workers.in_flight(PRIMARY) == 1  # its successor has not said yet by which route it goes
        line.send(report(word["version"]))
        assert await s.workers.all_heard(timeout_s=10)


async def test_a_worker_that_ends_before_it_joins_is_no_work(tmp_path: Path) -> None:
    pid: list[int | None] = [os.getpid()]

    async def children(_: Json) -> Json:
        return {"router": {"pid": 1}, "web-2": {"pid": pid[0]}}

    supervisor = ControlServer(socket_path(tmp_path, "supervisor"), {"children": children})
    await supervisor.start()
    async with stage(tmp_path) as s:
        assert not await s.workers.all_heard(timeout_s=0.01)
        pid[0] = None
        assert await s.workers.all_heard(timeout_s=10)
        assert s.workers.in_flight(PRIMARY) == 0
    await supervisor.stop()


async def test_who_waits_for_all_hears_of_a_death(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=PIPE)
    async with stage(tmp_path) as s:
        line, _ = await s.worker(pid=process.pid)
        line.close()
        while s.up():
            await CLOCK.sleep(0.005)
        waiting = asyncio.ensure_future(s.workers.all_heard(timeout_s=10))  # noqa: TID251 (the test awaits it)
        process.kill()
        await process.wait()
        assert await waiting


async def test_what_waits_elsewhere_is_a_silence_here_and_ends_with_the_line(tmp_path: Path) -> None:
    there = LiveTraffic(CLOCK)
    there.began(Part.QUERY, "qido")
    there.ended(there.began(Part.QUERY, "qido"), Outcome.FAILED)
    there.store_result("10.1.2.3", False)
    digest = replace(there.digest(), unheard={Part.QUERY: 3}, unheard_since_s=CLOCK.monotonic() - 1.0)
    async with stage(tmp_path) as s:
        line, word = await s.worker()
        line.send(report(word["version"], traffic={"primary": digest_told(digest, there.take())}))
        await s.workers.all_heard(timeout_s=10)
        silence = s.traffic[PRIMARY].silence()
        assert silence is not None
        assert (silence.waiting, silence.part) == (3, Part.QUERY)
        assert s.traffic[PRIMARY].waiting() == 1
        assert [type(fact).__name__ for fact in s.traffic[PRIMARY].take()] == ["LiveFact", "StoreFact"]
        assert s.up() == 1
        line.close()
        while s.up():
            await CLOCK.sleep(0.005)
        assert s.traffic[PRIMARY].silence() is None
        assert s.traffic[PRIMARY].waiting() == 0


async def test_counts_are_summed_and_stay_when_the_worker_is_gone(tmp_path: Path) -> None:
    theirs = RouterMetrics(CollectorRegistry())
    taken = Increments(theirs)
    async with stage(tmp_path) as s:
        s.metrics.http_requests.cell("primary", "qido", "200").count = 5
        line, word = await s.worker()
        asked = asyncio.ensure_future(s.workers.told())  # noqa: TID251 (the test awaits it)
        theirs.http_requests.cell("primary", "qido", "200").count += 2
        theirs.http_duration.cell("primary", "qido").observe(0.02)
        theirs.http_moved.labels("broke").inc()
        theirs.http_log_lost.inc(7)
        tell = (await word_with(line, "tell"))["tell"]
        line.send(report(word["version"], told=tell, counts=taken.take()))
        await asked
        line.close()
        value = s.metrics.registry.get_sample_value
        labels = {"upstream": "primary", "route": "qido"}
        assert value("failover_http_requests_total", {**labels, "code": "200"}) == 7
        assert value("failover_http_request_duration_seconds_count", labels) == 1
        assert value("failover_http_request_duration_seconds_sum", labels) == pytest.approx(0.02)
        assert value("failover_http_moved_total", {"reason": "broke"}) == 1
        assert value("failover_http_log_lost_total") == 7
        assert taken.take() == {}


async def test_a_scrape_does_not_wait_for_one_that_is_not_there_and_a_stranger_is_sent_away(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, processes=3) as s:
        line, word = await s.worker(3)
        line.send(report(word["version"], told=1))
        await s.workers.told()
        assert (s.up(2), s.up(3)) == (0, 1)
        stranger = await join(s.socket, JOIN, {"name": "web-9", "pid": 1})
        with pytest.raises(ControlUnreachable):
            await stranger.receive()
        line.send({"seen": "what"})
        with pytest.raises(ControlUnreachable):
            await word_with(line, "no such word")


async def test_the_last_store_on_the_backup_stays_known_when_its_worker_is_gone(tmp_path: Path) -> None:
    async with stage(tmp_path, processes=3) as s:
        line, word = await s.worker()
        line.send(report(word["version"], stored_s=7.5))
        other, word = await s.worker(3)
        other.send(report(word["version"], stored_s=6.5))
        assert await s.workers.all_heard(timeout_s=10)
        assert s.workers.last_store_on_backup_s == 7.5
        line.close()
        while s.up():
            await CLOCK.sleep(0.005)
        assert s.workers.last_store_on_backup_s == 7.5
        line, word = await s.worker()
        line.send(report(word["version"]))
        assert await s.workers.all_heard(timeout_s=10)
        assert s.workers.last_store_on_backup_s == 7.5


async def test_at_the_end_of_a_grace_each_worker_ends_its_work(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        line, word = await s.worker()
        line.send(report(word["version"], flights={"primary": 2, "backup": 1}))
        await s.workers.all_heard(timeout_s=10)
        assert s.workers.end_work(PRIMARY) == 2
        assert (await word_with(line, "end_work"))["end_work"] == "primary"


def test_every_count_of_the_proxy_is_told() -> None:
    metrics = RouterMetrics(CollectorRegistry())
    counts = {
        name
        for name, metric in vars(metrics).items()
        if name.startswith(("http_", "logins")) and isinstance(metric, Counter | Tally | Spread)
    }
    assert counts == set(COUNTED)
    with pytest.raises(ValueError, match="not counted"):
        increments.add(metrics, {"mode": [[["auto"], 1]]})


@pytest.mark.parametrize("phase", [Phase.ON_PRIMARY, Phase.ON_BACKUP])
def test_a_router_that_is_silent_leaves_each_request_both_upstreams(phase: Phase) -> None:
    calm = calm_route(phase)
    down = {**calm.verdicts, (PRIMARY, Service.WEB): Verdict.DOWN}
    route: Route = wire.read(wire.told(replace(calm, verdicts=down, hold_stores=True)))
    assert route == replace(calm, verdicts=down, hold_stores=True)
    unheard = wire.unheard(route)
    active = PRIMARY if phase is Phase.ON_PRIMARY else BACKUP
    for kind in (Kind.READ, Kind.STORE):
        choice = choose(unheard, Service.WEB, kind)
        assert (choice.first, choice.rescue) == (active, active.other)
    assert not unheard.hold_stores
