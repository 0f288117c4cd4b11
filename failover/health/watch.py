"""Watches one service of one upstream: when to probe, how long to wait, what to tell the rule.

The loop carries facts to `verdict` and nothing else decides. Two entries, both in the checker's loop:
`run` sends the probes one after the other, `look` is called every 25 ms (75 ms in calm) for what live
traffic and time say. At most one late answer is awaited besides the present probe (with DICOM: never more
than two associations of ours). How long a probe may take is `scheduled`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from failover.aio import cancel_and_wait, spawn
from failover.clock import Clock
from failover.errors import FailoverError
from failover.health import verdict as rule
from failover.health.passive import CROWD, LiveFact, LiveTraffic
from failover.health.plan import PlannedProbe
from failover.health.probes import Probe
from failover.health.report import Report, report_of
from failover.health.scheduled import NEVER_S, Pacing, Scheduled
from failover.health.standstill import LoopWatch
from failover.health.verdict import Health, VerdictPolicy
from failover.metrics import RouterMetrics
from failover.model import Part, Service, UpstreamName, Verdict

_log = structlog.get_logger(__name__)

AT_ONCE_PROBES: Final = 2
_FAILURE_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe said."""

    good: bool
    reason: str


@dataclass(slots=True)
class _Asked:
    """One probe under way, or late."""

    scheduled: Scheduled
    task: asyncio.Task[Answer]
    began_s: float
    crowded: bool
    limit_s: float

    @property
    def part(self) -> Part:
        return self.scheduled.plan.part


class ServiceWatch:
    """Probes one service and keeps its health. Not for use outside one loop."""

    def __init__(
        self,
        upstream: UpstreamName,
        service: Service,
        probes: list[Scheduled],
        policy: VerdictPolicy,
        *,
        fast_interval_s: float,
        live_counts: bool,
        traffic: LiveTraffic,
        still: LoopWatch,
        clock: Clock,
        metrics: RouterMetrics,
        tell: Callable[[Report], None],
    ) -> None:
        """`live_counts`: an answer to a caller passes for a probe of `reach`, which looks no deeper."""
        self._upstream, self._service = upstream, service
        self._probes = {scheduled.plan.part: scheduled for scheduled in probes}
        self._policy = policy
        self._fast_s = fast_interval_s
        self._live_counts = live_counts
        self._traffic = traffic
        self._still = still
        self._clock = clock
        self._metrics = metrics
        self._tell = tell
        self._told: Report | None = None
        self._late: dict[Part, _Asked] = {}
        self._quiet = False
        self._woken = asyncio.Event()
        self._trigger: tuple[str, Pacing] | None = None  # why two immediate probes are wanted
        calm_s = self._probes[Part.REACH].plan.interval_s if Part.REACH in self._probes else 1.0
        self._after_silence = Pacing(fast_interval_s, calm_s)
        self._after_failure = Pacing(fast_interval_s, min(calm_s, _FAILURE_PAUSE_S))
        self._before_a_move = Pacing(fast_interval_s, calm_s)
        self._live_passed_s: dict[Part, float] = {}
        self.health: Health = rule.new_health(frozenset(self._probes))
        # The other service of the same upstream, when there is one: two that fail together are no
        # coincidence.
        self.sibling: ServiceWatch | None = None
        # Who would take over from this one. They are asked at once when it is suspect: in calm they were
        # asked seconds ago, and both failing within the same interval must change nothing.
        self.successors: tuple[ServiceWatch, ...] = ()

    # -- what live traffic and time say -------------------------------------------------------------

    @property
    def calm(self) -> bool:
        """Up, nobody waits, and nothing ended since `look` before: a rarer look would miss nothing."""
        return (
            self._quiet and not self._late and self.health.verdict is Verdict.UP
            and self._trigger is None and not self._traffic.waiting()
        )  # fmt: skip

    def look(self, stood_still_s: float) -> None:
        """Take the facts of live traffic; `stood_still_s` is how long our loop just stood still."""
        now_s = self._clock.monotonic()
        health = self.health
        if stood_still_s:
            health = rule.stood_still(health, stood_still_s)
        facts = self._traffic.take()
        self._quiet = not facts
        for fact in facts:
            if not isinstance(fact, LiveFact):
                health = rule.stored_by_caller(health, fact.caller, fact.accepted, now_s, self._policy)
            elif fact.good:
                health = self._live_success(health, fact.part, now_s)
            elif now_s >= self._after_failure.next_s:
                health = rule.live_failure(health, fact.part)
                self._want_probes("a live request failed", self._after_failure)
        if now_s >= self._after_silence.next_s and (silence := self._traffic.silence()) is not None:
            self._want_probes(str(silence), self._after_silence)
        self._set(rule.elapsed(health, now_s, self._policy))
        for late in list(self._late.values()):
            if now_s - late.began_s > self._policy.fail_after_s:
                late.task.cancel()

    def stored_by_replicator(self, accepted: bool, proven: bool) -> None:
        """The replicator sent one object to this service; `proven`: it was shown afterwards."""
        now_s = self._clock.monotonic()
        self._set(rule.stored_by_replicator(self.health, accepted, proven, now_s, self._policy))

    def change(
        self, plans: Mapping[Part, PlannedProbe], policy: VerdictPolicy, *, fast_interval_s: float
    ) -> None:
        """Go by this rhythm and these limits from now on. The probes stay, and so does what is known."""
        for part, scheduled in self._probes.items():
            scheduled.plan = plans.get(part, scheduled.plan)
        self._policy = policy
        self._fast_s = fast_interval_s
        for pacing in (self._after_silence, self._after_failure, self._before_a_move):
            pacing.first_s = fast_interval_s
        if Part.REACH in self._probes:
            calm_s = self._probes[Part.REACH].plan.interval_s
            self._after_silence.longest_s = self._before_a_move.longest_s = calm_s
            self._after_failure.longest_s = min(calm_s, _FAILURE_PAUSE_S)
        self._woken.set()  # the pause of now was measured by the old rhythm

    def nothing_to_prove(self) -> None:
        """Nothing is owed any more: `store` need not stay down for want of a proof."""
        self._set(rule.nothing_to_prove(self.health, self._clock.monotonic(), self._policy))

    def _live_success(self, health: Health, part: Part, now_s: float) -> Health:
        if part is Part.REACH and not self._live_counts:
            return health
        # Not more often than probes would: a burst of one caller is not `rise` good ones in a row.
        if now_s - self._live_passed_s.get(part, NEVER_S) < self._fast_s:
            return health
        self._live_passed_s[part] = now_s
        return rule.passed(health, part, "live requests are answered", now_s, self._policy)

    def _may_take_over(self, why: str) -> None:
        """The one before us is suspect: are we there?"""
        if self._clock.monotonic() >= self._before_a_move.next_s:
            self._want_probes(why, self._before_a_move)

    def _want_probes(self, why: str, pacing: Pacing) -> None:
        # Not known yet, suspect or down: the fast rhythm is at work already.
        if self.health.verdict is Verdict.UP and self._trigger is None and Part.REACH in self._probes:
            self._trigger = (why, pacing)
            self._woken.set()

    # -- the rhythm ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Probe until cancelled."""
        self._set(self.health)
        if not self._probes:
            return
        try:
            while True:
                if self._trigger is not None:
                    await self._ask_at_once(*self._trigger)
                    continue
                scheduled, wait_s = self._next_due()
                if wait_s > 0:
                    await self._until(wait_s)
                else:
                    await self._carry_out(scheduled, self._limit_s(scheduled))
        finally:
            await cancel_and_wait(*(late.task for late in self._late.values()))

    def _next_due(self) -> tuple[Scheduled, float]:
        now_s = self._clock.monotonic()
        doubt = rule.in_doubt(self.health, now_s)
        reach = self.health.parts.get(Part.REACH)
        unreached = reach is not None and reach.failed > 0
        waits: list[tuple[float, Scheduled]] = []
        for part, scheduled in self._probes.items():
            if unreached and part is not Part.REACH:
                continue  # what cannot be reached cannot be searched: it would only cost
            fast = doubt and (part in self.health.doubted or self.health.verdict is not Verdict.UP)
            interval_s = self._fast_s if fast else scheduled.plan.interval_s
            waits.append((scheduled.began_s + interval_s - now_s, scheduled))
        wait_s, scheduled = min(waits, key=lambda entry: entry[0])
        return scheduled, wait_s

    def _limit_s(self, scheduled: Scheduled) -> float:
        return scheduled.limit_s(self._clock.monotonic(), self._policy.fail_after_s)

    def _limit_at_once_s(self, scheduled: Scheduled, *, first: bool = True) -> float:
        # When the other service is away too, it is no crowd that keeps this one busy.
        alone = self.sibling is None or self.sibling.health.verdict in (Verdict.UP, None)
        return scheduled.limit_at_once_s(
            self._clock.monotonic(),
            self._policy.fail_after_s,
            crowded=first and alone and self._traffic.waiting() >= CROWD,
            awaited_s=self._traffic.unanswered_s(Part.REACH),
        )

    async def _ask_at_once(self, why: str, pacing: Pacing) -> None:
        scheduled = self._probes[Part.REACH]
        self._trigger = None
        began_s = self._clock.monotonic()
        for number in range(AT_ONCE_PROBES):
            limit_s = self._limit_at_once_s(scheduled, first=number == 0)
            passed = await self._carry_out(scheduled, limit_s, at_once=True)
            if passed or scheduled.passed_s > began_s:  # the first one, late
                self._trigger = None
                pacing.wasted(self._clock.monotonic())
                return
            if self.health.verdict is not Verdict.UP:
                break  # `fall` was reached
        self._trigger = None
        reason = f"{self.health.parts[Part.REACH].reason} ({why})"
        self._set(rule.silent(self.health, Part.REACH, reason, self._clock.monotonic(), self._policy))

    # -- one probe ----------------------------------------------------------------------------------

    async def _carry_out(self, scheduled: Scheduled, limit_s: float, *, at_once: bool = False) -> bool:
        """Ask once and tell the rule. Returns False when the probe failed; a void one says nothing."""
        began_s = scheduled.began_s = self._clock.monotonic()
        part = scheduled.plan.part
        task = spawn(_answer(scheduled.probe), name=f"probe {self._upstream} {self._service} {part}")
        asked = _Asked(scheduled, task, began_s, self._traffic.waiting() >= CROWD, limit_s)
        try:
            preempted = await self._await_answer(asked, at_once=at_once)
        except asyncio.CancelledError:
            task.cancel()
            raise
        now_s = self._clock.monotonic()
        if task.done():
            answer = task.result()
            if answer.good:
                return self._passed(asked, answer.reason)
            reason = answer.reason
        else:
            reason = f"{scheduled.probe.name}: no answer within {asked.limit_s * 1000:.0f} ms"
            self._await_late(asked)
            # Slow is not dead: others were answered meanwhile, or something more urgent came up.
            if preempted or self._traffic.heard_since(began_s, None if part is Part.REACH else part):
                return self._void(asked)
        if self._still.stood_still_s(began_s, now_s) >= asked.limit_s / 2:
            return self._void(asked)  # our own fault first
        self._count(part, "failed")
        self._metric_duration(part, now_s - began_s)
        self._set(rule.failed(self.health, part, reason, now_s, self._policy))
        return False

    async def _await_answer(self, asked: _Asked, *, at_once: bool) -> bool:
        """Return when there is an answer or the limit is reached; True when something urgent came up."""
        while not asked.task.done():
            left_s = asked.began_s + asked.limit_s - self._clock.monotonic()
            if left_s <= 0:
                break
            await self._until(left_s, asked.task)
            if self._trigger is None or at_once or asked.task.done():
                continue
            if asked.part is not Part.REACH:
                return True
            at_once = True  # this one is the first of the immediate ones: from now on their limit holds
            waited_s = self._clock.monotonic() - asked.began_s
            asked.limit_s = min(asked.limit_s, waited_s + self._limit_at_once_s(asked.scheduled))
        return False

    async def _until(self, seconds: float, task: asyncio.Task[Answer] | None = None) -> None:
        """Return after `seconds`, when `task` ends, or when something urgent came up."""
        timer = spawn(self._clock.sleep(seconds), name="probe timer")
        woken = spawn(self._woken.wait(), name="probe wake")
        try:
            await asyncio.wait(
                [timer, woken, *([task] if task is not None else [])], return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            timer.cancel()
            woken.cancel()
            self._woken.clear()

    def _passed(self, asked: _Asked, reason: str) -> bool:
        now_s, part = self._clock.monotonic(), asked.part
        took_s = now_s - asked.began_s
        asked.scheduled.passed(took_s, now_s, crowded=asked.crowded)
        self._count(part, "passed")
        self._metric_duration(part, took_s)
        before = self.health.parts[part]
        self._set(rule.passed(self.health, part, reason, now_s, self._policy))
        if before.failed and part is Part.REACH:
            for scheduled in self._probes.values():  # reached again: what about the rest?
                if scheduled is not asked.scheduled:
                    scheduled.began_s = NEVER_S
        return True

    def _void(self, asked: _Asked) -> bool:
        self._count(asked.part, "void")
        # Again soon, also where the calm rhythm is a minute.
        asked.scheduled.began_s = self._clock.monotonic() - asked.scheduled.plan.interval_s + self._fast_s
        return True

    def _await_late(self, asked: _Asked) -> None:
        """Keep an unanswered probe: an answer within `fail_after` still passes. The oldest is kept."""
        key = Part.REACH if asked.scheduled.plan.few_slots else asked.part
        other = self._late.get(key)
        if other is not None and not (asked.part is Part.REACH and other.part is not Part.REACH):
            asked.task.cancel()
            return
        if other is not None:
            other.task.cancel()
        self._late[key] = asked
        asked.task.add_done_callback(lambda task: self._late_ended(key, asked, task))

    def _late_ended(self, key: Part, asked: _Asked, task: asyncio.Task[Answer]) -> None:
        if self._late.get(key) is asked:
            del self._late[key]
        if not task.cancelled() and task.exception() is None and task.result().good:
            self._passed(asked, f"{task.result().reason}, late")

    # -- telling ------------------------------------------------------------------------------------

    def _set(self, health: Health) -> None:
        if health.verdict is not self.health.verdict:
            _log.info(
                "verdict",
                upstream=self._upstream,
                service=self._service,
                verdict=health.verdict,
                reason=health.reason,
            )
            # Suspect, or down at once: by the fourth suspicion within a minute.
            if self.health.verdict is Verdict.UP:
                for successor in self.successors:
                    successor._may_take_over(f"the {self._upstream} is {health.verdict}")
        self.health = health
        report = report_of(self._upstream, self._service, health)
        if report != self._told:
            self._told = report
            self._tell(report)

    def _count(self, part: Part, result: str) -> None:
        self._metrics.probes.labels(self._upstream, self._service, part, result).inc()

    def _metric_duration(self, part: Part, took_s: float) -> None:
        self._metrics.probe_duration.labels(self._upstream, self._service, part).observe(took_s)


async def _answer(probe: Probe) -> Answer:
    try:
        return Answer(True, await probe.ask())
    except FailoverError as error:
        return Answer(False, f"{probe.name}: {error}")
    except Exception as error:
        # A bug in a probe must not end the watching; it counts as failed and is in the log.
        _log.exception("probe broke", probe=probe.name)
        return Answer(False, f"{probe.name}: broke: {type(error).__name__}")
