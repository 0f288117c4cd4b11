"""A web worker beside the router (`listen.web.workers`): carries callers, decides nothing about the route.

Takes callers from the same listening socket as the router. The route comes from the router as it changes;
what its traffic shows goes back. While the router is away it goes on by the last route, and when that takes
long without the verdicts in it: each request is offered to the active upstream, then to the other.

A fault in what it hears or tells ends the process: the supervisor starts it anew within 3 s, with the code of
now, and meanwhile the kernel gives its callers to the others. To join again would keep a worker that may go
by half a route, and meet the same word again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.app import listeners, process
from failover.app.admission import admission_of, has_logins
from failover.app.identities import Identities
from failover.app.increments import Increments
from failover.app.reload import Reloader
from failover.app.shared_logins import candidate_told, learnt_read, learnt_told
from failover.app.web import admits_of, proxy_of, spool_of
from failover.app.web_words import JOIN, digest_told, name_of
from failover.clock import Clock, SystemClock
from failover.config import Configuration
from failover.control import Json, Line, join, socket_path
from failover.credentials.remembered import Learnt
from failover.errors import ConfigurationError, ControlError, ControlUnreachable, FailoverError
from failover.health.passive import LiveTraffic
from failover.health.plan import existing
from failover.metrics import RouterMetrics
from failover.model import Service, UpstreamName
from failover.proxy.admission import Admission, Candidate
from failover.proxy.server import Proxy
from failover.routing import wire
from failover.routing.board import RouteBoard
from failover.routing.selection import Route
from failover.shares import Shares, inherited

_log = structlog.get_logger(__name__)

# How often the traffic is told while something waits, and while nothing does; as the checker looks.
TICK_S: Final = 0.025
CALM_TICK_S: Final = 0.075
COUNTS_EVERY_S: Final = 0.25
JOIN_AGAIN_S: Final = 0.1
# A router that was killed is back within 3 s. Longer: its verdicts say nothing of now.
UNHEARD_S: Final = 5.0
GRACE_S: Final = 4.0


def run(config_path: Path, number: int) -> int:
    """Carry callers until SIGTERM; return the exit code. Raises ConfigurationError, PortTaken."""
    name = name_of(number)

    async def serve(configuration: Configuration, stop: asyncio.Event, reloader: Reloader) -> int:
        opened = listeners.inherited()
        if opened is None:
            _log.error("a web worker is started by the supervisor, which has its listening socket")
            return 2
        worker = WebWorker(configuration, name, SystemClock(), inherited())
        reloader.takes(worker.change)
        process.settle()
        return await carry(worker, opened["web"], stop)

    return process.run(name, config_path, serve)


async def carry(worker: WebWorker, sock: socket.socket, stop: asyncio.Event) -> int:
    """Serve until `stop` is set, or until `serve` fails (1: the supervisor starts us anew)."""
    serving = spawn(worker.serve(sock), name="web worker")
    serving.add_done_callback(lambda _: stop.set())
    await stop.wait()
    code = 1 if serving.done() else 0
    await worker.stop()
    await cancel_and_wait(serving)
    return code


class WebWorker:
    """`serve`, then `stop`, then cancel `serve`."""

    def __init__(self, configuration: Configuration, name: str, clock: Clock, shares: Shares) -> None:
        self.name = name
        self._configuration = configuration
        self._clock = clock
        self._router = socket_path(configuration.state_dir, "router")
        self._metrics = RouterMetrics(CollectorRegistry())
        self._increments = Increments(self._metrics)
        self._identities = Identities(configuration, self._metrics, clock, only=("web",))
        self._shares = shares
        self._spool = spool_of(configuration, shares)
        self._traffic = {
            upstream: LiveTraffic(clock)
            for upstream, service in sorted(existing(configuration))
            if service is Service.WEB
        }
        self._admission: Admission | None = None
        self._proxy: Proxy | None = None
        self._told_route: Route | None = None
        self._version = 0
        self._tell = 0
        self._line: Line | None = None
        self._unheard_s = 0.0
        self._last_report: Json = {}
        self._counts_told_s = 0.0

    async def serve(self, sock: socket.socket) -> None:
        """Serve callers on `sock` from the first word of the router on, until cancelled.

        Raises whatever fails in what is heard or told: it then goes by a route that nobody keeps.
        """
        following = spawn(self._identities.follow(), name="follow certificates")
        lasting = [
            spawn(self._stay_joined(sock), name="hear the router"),
            spawn(self._tick(), name="report"),
        ]
        try:
            ended, _ = await asyncio.wait(lasting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                await task
        finally:
            await cancel_and_wait(following, *lasting)

    async def stop(self) -> None:
        """Let requests end, and tell what was counted. `serve` goes on: the route may still change."""
        if self._proxy is not None:
            await self._proxy.stop(GRACE_S)
            self._report(counts=True)
        self._spool.close()

    def change(self, configuration: Configuration) -> list[str]:
        """Take over what `app.reload` calls live; return what could not be. Raises TlsUnusable."""
        self._configuration = configuration
        left = self._identities.change(configuration)
        if self._proxy is not None:
            self._proxy.change(configuration.listen.web, admits_of(configuration), configuration.policy.hedge)
        return left

    # -- the router

    async def _stay_joined(self, sock: socket.socket) -> None:
        while True:
            try:
                await self._listen(sock)
            except ControlUnreachable:
                pass
            except ControlError as error:  # bytes that are no frame: this line has no reading any more
                _log.error("the router cannot be understood", error=str(error))
            await self._clock.sleep(JOIN_AGAIN_S)

    async def _listen(self, sock: socket.socket) -> None:
        line = await join(self._router, JOIN, {"name": self.name, "pid": os.getpid()})
        self._last_report = {}  # whoever listens now knows nothing of it
        try:
            while True:
                word = await line.receive()
                self._line = line
                await self._heard(word, sock)
        finally:
            self._line = None
            line.close()

    async def _heard(self, word: Json, sock: socket.socket) -> None:
        self._unheard_s = 0.0
        if "route" in word:
            self._version = int(word["version"])
            self._told_route = wire.read(word["route"])
        if "logins" in word:
            self._logins_begin(bytes.fromhex(word["logins"]["key"]), learnt_read(word["logins"]["learnt"]))
        if "learnt" in word and self._admission is not None and self._admission.remembered is not None:
            self._admission.remembered.take(learnt_read(word["learnt"]))
        if self._told_route is None:
            return
        if self._proxy is None:
            self._proxy = await self._begin(self._told_route, sock)
        else:
            self._proxy.board.publish(self._told_route)
        if "end_work" in word:
            ended = self._proxy.end_work(UpstreamName(word["end_work"]))
            _log.warning("work ended after the grace", upstream=word["end_work"], ended=ended)
        if "tell" in word:
            self._tell = int(word["tell"])
        if "route" in word or "end_work" in word or "tell" in word:
            self._report(counts="tell" in word)

    def _logins_begin(self, key: bytes, learnt: Learnt) -> None:
        """What the router that we have joined says of logins, before the first caller comes."""
        if self._admission is not None:
            self._admission.begin_anew(key, learnt)
            return
        self._admission = admission_of(
            self._configuration, self._clock, self._metrics, key, pass_on=self._pass_on
        )
        if self._admission is not None and self._admission.remembered is not None:
            self._admission.remembered.tell = self._tell_learnt
            self._admission.remembered.take(learnt)

    def _pass_on(self, candidate: Candidate) -> None:
        if self._line is not None:  # else: when the router is back, it is a candidate at its next request
            self._line.send({"candidate": candidate_told(candidate)})

    def _tell_learnt(self, learnt: Learnt) -> None:
        # Without a line: `Remembered.take` says it again when the router, back, has not heard of it.
        if self._line is not None:
            self._line.send({"learnt": learnt_told(learnt)})

    async def _begin(self, route: Route, sock: socket.socket) -> Proxy:
        if self._admission is None and has_logins(self._configuration):
            # The router runs by an older configuration: fewer are let in, not more, until it is restarted.
            _log.error("the router knows of no logins: addresses alone count")
        proxy = proxy_of(
            self._configuration,
            RouteBoard(route),
            self._traffic,
            self._metrics,
            self._clock,
            self._spool,
            self._identities.of("web"),
            self._admission,
            self._shares,
            component=self.name,
        )
        await proxy.start(sock)
        _log.info("serving")
        return proxy

    async def _tick(self) -> None:
        tick_s, before_s = TICK_S, self._clock.monotonic()
        while True:
            await self._clock.sleep(tick_s)
            now_s = self._clock.monotonic()
            # Time in which we ourselves stood still does not count.
            self._unheard_s += min(now_s - before_s, 2 * tick_s)
            before_s = now_s
            if self._proxy is None or self._told_route is None:
                continue
            if self._unheard_s > UNHEARD_S:
                unheard = wire.unheard(self._told_route)
                if self._proxy.board.current != unheard:
                    _log.error("the router is silent: its verdicts count no more", for_s=UNHEARD_S)
                    self._proxy.board.publish(unheard)
            counts = now_s - self._counts_told_s >= COUNTS_EVERY_S
            tick_s = TICK_S if self._report(counts=counts) else CALM_TICK_S

    def _report(self, *, counts: bool) -> bool:
        """Tell how things stand, unless all is as told before. Returns whether something waits."""
        line, proxy = self._line, self._proxy
        if line is None or proxy is None:
            return False
        report: Json = {
            "seen": self._version,
            "told": self._tell,
            "flights": {str(name): proxy.in_flight(name) for name in self._traffic},
            "connections": proxy.connections,
            "spool": [self._spool.memory_used_bytes, self._spool.disk_used_bytes],
            "stored_s": proxy.last_store_on_backup_s,
        }
        digests = {name: traffic.digest() for name, traffic in self._traffic.items()}
        waits = any(digest.waiting for digest in digests.values())
        facts = {name: self._traffic[name].take() for name in digests}
        report["traffic"] = {str(name): digest_told(digests[name], facts[name]) for name in digests}
        if counts:
            self._counts_told_s = self._clock.monotonic()
            news = self._increments.take()
            if news:
                report["counts"] = news
        # Facts and counts are told once: the same again are as many more.
        if waits or any(facts.values()) or "counts" in report or report != self._last_report:
            line.send(report)
            self._last_report = report
        return waits


if __name__ == "__main__":
    try:
        sys.exit(run(Path(sys.argv[1]), int(sys.argv[2])))
    except ConfigurationError as error:
        _log.error("configuration", problems="; ".join(error.problems))
        sys.exit(2)
    except FailoverError as error:
        _log.error("cannot serve", reason=str(error))
        sys.exit(1)
