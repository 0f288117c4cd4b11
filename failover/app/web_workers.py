"""The other web workers, as the router knows them: each route is pushed to them, what they report is joined.

The router decides for all: what waits in a worker, fails or succeeds there reaches the checker as if it were
here, and its counts are added to ours. A worker that has not said that it goes by the present route may still
send work anywhere: it counts as one in flight. So does one that is not joined, until its process is dead
or the supervisor says that none runs.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.app import increments
from failover.app.shared_logins import Told
from failover.app.web_words import digest_read, name_of
from failover.clock import Clock
from failover.control import Json, Line, ask
from failover.errors import ControlError
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import UpstreamName
from failover.routing import wire
from failover.routing.board import RouteBoard

_log = structlog.get_logger(__name__)

# A worker that hears nothing for `web_worker.UNHEARD_S` goes on without our verdicts.
ALIVE_EVERY_S: Final = 0.5
# A scrape does not wait for the hung.
TELL_LIMIT_S: Final = 1.0


@dataclass(eq=False, slots=True)
class _Worker:
    name: str
    line: Line
    seen: int = 0
    told: int = 0
    flights: dict[UpstreamName, int] = field(default_factory=dict)
    connections: int = 0
    spool_bytes: tuple[int, int] = (0, 0)


class WebWorkers:
    """Those beside the router: none of them with `listen.web.workers: 1`."""

    def __init__(
        self,
        processes: int,
        board: RouteBoard,
        traffic: Mapping[UpstreamName, LiveTraffic],
        metrics: RouterMetrics,
        clock: Clock,
        logins: Callable[[Callable[[Json], None]], Told] | None = None,
        supervisor: Path | None = None,
    ) -> None:
        """`processes`: how many web workers there are, the router among them. `supervisor`: its socket.

        `logins` gets how to say something to all of them, and keeps logins in step; None: there are none.
        """
        self._names = [name_of(number) for number in range(2, processes + 1)]
        self._board = board
        self._traffic = traffic
        self._metrics = metrics
        self._clock = clock
        self._workers: dict[str, _Worker] = {}
        self._route = board.current
        self._version = 1
        self._tells = 0
        self._reported = Signal()
        self._tasks: list[asyncio.Task[None]] = []
        self._supervisor = supervisor
        self._pids: dict[str, int | None] = {}
        """As they said when they joined, or as the supervisor says; None: none runs. Others are not known."""
        self._logins = logins(self._say) if logins is not None and self._names else None
        self.last_store_on_backup_s: float | None = None
        for name in self._names:
            metrics.component_up.labels(name).set(0)

    def start(self) -> None:
        if self._names:
            self._tasks = [
                spawn(self._push(), name="push routes"),
                spawn(self._say_alive(), name="web workers"),
            ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)

    # -- the lines

    async def serve(self, line: Line, question: Json) -> None:
        """Talk with one worker until its line ends."""
        name = str(question.get("name"))
        if name not in self._names:
            _log.error("no web worker of ours", name=name)
            return
        worker = self._workers[name] = _Worker(name, line)
        if question.get("pid") is not None:
            self._pids[name] = int(question["pid"])
        self._metrics.component_up.labels(name).set(1)
        _log.info("web worker joined", worker=name)
        line.send({**self._word(), **(self._logins.begin() if self._logins is not None else {})})
        try:
            while True:
                word = await line.receive()
                if "seen" in word:
                    self._heard(worker, word)
                elif self._logins is not None:
                    self._logins.heard(word)
        except ControlError as error:
            _log.warning("web worker gone", worker=name, reason=str(error))
        except (KeyError, TypeError, ValueError) as error:
            # Another version: it is cut off, and goes on without our verdicts until it is restarted.
            _log.error("web worker cannot be understood", worker=name, error=repr(error))
        finally:
            if self._workers.get(name) is worker:
                del self._workers[name]
                self._metrics.component_up.labels(name).set(0)
                for traffic in self._traffic.values():
                    traffic.forget(name)
            self._reported.fire()

    def _heard(self, worker: _Worker, report: Json) -> None:
        worker.seen = int(report["seen"])
        worker.told = int(report["told"])
        worker.flights = {UpstreamName(name): int(count) for name, count in report["flights"].items()}
        worker.connections = int(report["connections"])
        memory, disk = report["spool"]
        worker.spool_bytes = int(memory), int(disk)
        if report["stored_s"] is not None:
            # It outlives whoever told it: a worker that starts anew has stored nothing yet.
            self.last_store_on_backup_s = max(self.last_store_on_backup_s or 0.0, float(report["stored_s"]))
        for name, told in report["traffic"].items():
            digest, facts = digest_read(told)
            traffic = self._traffic.get(UpstreamName(name))
            if traffic is not None and self._workers.get(worker.name) is worker:
                traffic.hear_elsewhere(worker.name, digest, facts)
        increments.add(self._metrics, report.get("counts") or {})
        self._reported.fire()

    # -- what they are told

    async def _push(self) -> None:
        while True:
            if self._route is self._board.current:
                await self._board.changed.wait()
            self._route = self._board.current
            self._version += 1
            self._say(self._word())

    def _word(self) -> Json:
        return {"route": wire.told(self._route), "version": self._version}

    async def _say_alive(self) -> None:
        while True:
            await self._clock.sleep(ALIVE_EVERY_S)
            self._say({})
            await self._look_for_missing()
            self._reported.fire()  # who has died tells nothing

    async def _look_for_missing(self) -> None:
        """Ask who starts them: one that ends before it joins would count as at work for ever."""
        if self._supervisor is None or len(self._workers) == len(self._names):
            return
        try:
            children = await ask(self._supervisor, "children", timeout_s=ALIVE_EVERY_S)
        except ControlError:
            return
        for name in self._names:
            if name not in self._workers and name in children:
                self._pids[name] = children[name]["pid"]

    def _say(self, word: Json) -> None:
        for worker in self._workers.values():
            worker.line.send(word)

    def end_work(self, upstream: UpstreamName) -> int:
        """Let them end what is at `upstream`; return how much that was as last heard."""
        self._say({"end_work": str(upstream)})
        return sum(worker.flights.get(upstream, 0) for worker in self._workers.values())

    async def all_heard(self, *, timeout_s: float) -> bool:
        """Wait until each goes by the present route. False: one had not said so in time."""
        return await self._reported.wait_until(lambda: not self._unheard(), timeout_s=timeout_s)

    async def told(self) -> None:
        """Wait until each has told all that it has counted, or shown to be dead or hung."""
        self._tells += 1
        wanted = self._tells
        self._say({"tell": wanted})
        await self._reported.wait_until(
            lambda: all(worker.told >= wanted for worker in self._workers.values()), timeout_s=TELL_LIMIT_S
        )
        for name in self._names:
            worker = self._workers.get(name)
            self._metrics.component_up.labels(name).set(worker is not None and worker.told >= wanted)

    # -- what they do

    def _unheard(self) -> int:
        """How many may still go by another route than the present one."""
        return sum(self._may_be_behind(name) for name in self._names)

    def _may_be_behind(self, name: str) -> bool:
        worker = self._workers.get(name)
        if worker is None:
            # A line that ended is no death; one that never joined may have served under a router before us.
            if name not in self._pids:
                return True
            pid = self._pids[name]
            return pid is not None and not _dead(pid)
        return worker.seen != self._version or self._route is not self._board.current

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many requests, answers and tunnels are there, or may still come there unseen."""
        return sum(worker.flights.get(upstream, 0) for worker in self._workers.values()) + self._unheard()

    @property
    def connections(self) -> int:
        return sum(worker.connections for worker in self._workers.values())

    def spool_bytes(self, place: int) -> int:
        """What their bodies take: 0 in memory, 1 on disk."""
        return sum(worker.spool_bytes[place] for worker in self._workers.values())


def _dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False
