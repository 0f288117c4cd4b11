"""Runs all probes in a thread and loop of its own, so that a busy data path delays none, and tells the
verdicts.

Makes the probes that `plan` names; what follows from the answers is `watch`'s and `verdict`'s. Reports
arrive in the loop that called `start`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Final
from urllib.parse import urlsplit

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.clock import Clock
from failover.config.schema import Configuration, Upstream
from failover.health.dicom_probes import FindSearcher, echo_probe
from failover.health.memory import KnownFile
from failover.health.passive import LiveTraffic
from failover.health.plan import PlannedProbe, existing, planned, upstreams
from failover.health.probes import Probe, TcpProbe
from failover.health.report import Report
from failover.health.scheduled import Scheduled
from failover.health.search import KnownStudies, SearchProbe
from failover.health.standstill import LoopWatch
from failover.health.verdict import VerdictPolicy
from failover.health.watch import ServiceWatch
from failover.health.web_probes import FrameProbe, QidoSearcher, ReachProbe, WebSide
from failover.metrics import RouterMetrics
from failover.model import Address, Part, Service, UpstreamName

_log = structlog.get_logger(__name__)

TICK_S: Final = 0.025  # how often live traffic is looked at
# As often when there is none: before a request that begins now counts as a silence, it is looked at twice.
CALM_TICK_S: Final = 0.075
KNOWN_FILE: Final = "known-studies.json"
_STOP_S: Final = 3.0  # how long the thread may take to end; it is a daemon and dies with the process

Key = tuple[UpstreamName, Service]


def traffic_of(configuration: Configuration, clock: Clock) -> dict[Key, LiveTraffic]:
    """Return a `LiveTraffic` for each service that exists: for proxy, relay, checker and controller alike."""
    return {key: LiveTraffic(clock) for key in sorted(existing(configuration))}


class Checker:
    """Watches every configured service. One `start`, one `stop`."""

    def __init__(
        self,
        configuration: Configuration,
        traffic: Mapping[Key, LiveTraffic],
        metrics: RouterMetrics,
        clock: Clock,
        tell: Callable[[Report], None],
    ) -> None:
        """`tell` is called in the loop of `start` for each change of a verdict, a part or a reason."""
        self._configuration = configuration
        self._traffic = traffic
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self._theirs: asyncio.AbstractEventLoop | None = None
        self._own: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._stopped = False
        self._watches: dict[Key, ServiceWatch] = {}
        self._known = KnownFile(configuration.state_dir / KNOWN_FILE, clock)
        self._thread = Thread(target=self._run, name="checker", daemon=True)

    def start(self) -> None:
        """Begin to probe. Call it in the loop in which `tell` is to be called."""
        self._theirs = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End probes and thread. No report comes afterwards."""
        self._stopped = True
        if self._own is not None and self._ending is not None:
            self._in_own(self._ending.set)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _STOP_S)

    def stored_by_replicator(
        self, upstream: UpstreamName, service: Service, *, accepted: bool, proven: bool
    ) -> None:
        """The replicator sent one object:

        three failures in a row make `store` suspect, a proof ends `down`.
        """
        watch = self._watches.get((upstream, service))
        if watch is not None:
            self._in_own(lambda: watch.stored_by_replicator(accepted, proven))

    def nothing_to_prove(self, upstream: UpstreamName) -> None:
        """Nothing is owed to `upstream`: its `store` need not stay down for want of a proof."""
        for (name, _), watch in list(self._watches.items()):
            if name is upstream:
                self._in_own(watch.nothing_to_prove)

    def change(self, configuration: Configuration) -> None:
        """Probe in the rhythm of `health` and judge by the limits of `health` and `policy` from now on.

        Which probes there are, and whom they ask, stays as it was at the start.
        """
        self._configuration = configuration
        self._in_own(self._change)

    # -- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            # Without verdicts nothing moves by itself any more: the log must say so.
            _log.exception("checker ended")

    async def _main(self) -> None:
        self._own = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        still = LoopWatch(TICK_S, self._clock.monotonic())
        sides: list[WebSide] = []
        try:
            tasks = [spawn(watch.run(), name="watch") for watch in self._make(still, sides)]
            tasks.append(spawn(self._look(still), name="look"))
            tasks.append(spawn(self._known.keep(), name="known studies"))
            if not self._stopped:
                await self._ending.wait()
            await cancel_and_wait(*tasks)
            await self._known.save()
        finally:
            self._own = None
            for side in sides:
                await side.close()

    async def _look(self, still: LoopWatch) -> None:
        tick_s = TICK_S
        while True:
            await self._clock.sleep(tick_s)
            stood_still_s = still.tick(self._clock.monotonic())
            for key, watch in self._watches.items():
                try:
                    watch.look(stood_still_s)
                except Exception:
                    # A bug in one rule must not end the watching of the others.
                    _log.exception("look failed", upstream=key[0], service=key[1])
            tick_s = CALM_TICK_S if all(watch.calm for watch in self._watches.values()) else TICK_S
            still.expect(tick_s)

    def _make(self, still: LoopWatch, sides: list[WebSide]) -> list[ServiceWatch]:
        health, rules = self._configuration.health, _rules(self._configuration)
        deeper = bool(
            health.web.body_pattern or health.web.json_pointer or health.web.slower_than is not None
        )
        plans = planned(self._configuration)
        watches: dict[Key, ServiceWatch] = {}
        for name, service in sorted(existing(self._configuration)):
            mine = [plan for plan in plans if plan.upstream is name and plan.service is service]
            watches[name, service] = ServiceWatch(
                name,
                service,
                self._probes(name, service, mine, sides),
                rules,
                fast_interval_s=health.fast_interval,
                live_counts=not (deeper and service is Service.WEB),
                traffic=self._traffic[name, service],
                still=still,
                clock=self._clock,
                metrics=self._metrics,
                tell=self._tell_theirs,
            )
        for (name, service), watch in watches.items():
            other = Service.DICOM if service is Service.WEB else Service.WEB
            watch.sibling = watches.get((name, other))
            if name is UpstreamName.PRIMARY:
                watch.successors = tuple(w for (n, _), w in watches.items() if n is UpstreamName.BACKUP)
        self._watches = watches
        return list(watches.values())

    def _change(self) -> None:
        health = self._configuration.health
        plans = planned(self._configuration)
        for (name, service), watch in self._watches.items():
            mine = {plan.part: plan for plan in plans if plan.upstream is name and plan.service is service}
            watch.change(mine, _rules(self._configuration), fast_interval_s=health.fast_interval)

    def _probes(
        self, name: UpstreamName, service: Service, plans: list[PlannedProbe], sides: list[WebSide]
    ) -> list[Scheduled]:
        upstream = upstreams(self._configuration)[name]
        made: dict[Part, Probe] = {}
        known = self._known_studies(name, upstream, service)
        if service is Service.WEB and upstream.web is not None:
            wanted, prefix = self._configuration.health.web, upstream.dicomweb_path or ""
            side = WebSide(upstream.web.url, upstream.web.client_tls)
            sides.append(side)
            parts = urlsplit(upstream.web.url)
            address = Address(parts.hostname or "", parts.port or 0)
            made[Part.REACH] = TcpProbe(address) if wanted.method == "tcp" else ReachProbe(side, wanted)
            made[Part.QUERY] = SearchProbe(QidoSearcher(side, prefix), known, self._clock)
            made[Part.RETRIEVE] = FrameProbe(side, prefix, known)
        elif upstream.dicom is not None:
            calling_ae = self._configuration.listen.dicom.ae_title
            last_resort_s = max(self._configuration.policy.fail_after, upstream_timeout(plans))
            made[Part.REACH] = echo_probe(upstream.dicom.peer, calling_ae, last_resort_s)
            searcher = FindSearcher(upstream.dicom.peer, calling_ae, last_resort_s)
            made[Part.QUERY] = SearchProbe(searcher, known, self._clock)
        return [Scheduled(plan, made[plan.part]) for plan in plans]

    def _known_studies(self, name: UpstreamName, upstream: Upstream, service: Service) -> KnownStudies:
        if name is UpstreamName.BACKUP and self._configuration.backup == "embedded":
            return KnownStudies()
        if service is Service.WEB and upstream.web is not None:
            return self._known.known(f"{upstream.web.url}{upstream.dicomweb_path or ''}")
        if service is Service.DICOM and upstream.dicom is not None:
            peer = upstream.dicom.peer
            return self._known.known(f"{peer.ae_title}@{peer.address.host}:{peer.address.port}")
        return KnownStudies()

    def _tell_theirs(self, report: Report) -> None:
        if self._theirs is None or self._stopped or self._theirs.is_closed():
            return
        self._theirs.call_soon_threadsafe(self._hand_over, report)

    def _hand_over(self, report: Report) -> None:
        if not self._stopped:
            self._tell(report)

    def _in_own(self, call: Callable[[], None]) -> None:
        loop = self._own
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(call)
        except RuntimeError:
            _log.debug("checker has ended already")


def _rules(configuration: Configuration) -> VerdictPolicy:
    health = configuration.health
    return VerdictPolicy(health.rise, health.fall, configuration.policy.fail_after)


def upstream_timeout(plans: list[PlannedProbe]) -> float:
    """The longest time-out of `plans`, in seconds."""
    return max((plan.timeout_s for plan in plans), default=0.0)
