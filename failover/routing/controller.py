"""Carries facts to the machine and its commands out: persist, audit, then act, in that order.

It decides nothing. Verdicts come from the checker (`heard`), wishes from the admin API, numbers from
whoever asks archive and replicator, time from its own tick. A move away from a dead primary gives the disk
200 ms, then acts, says `state not persisted`, and the state is written later; everything else gives it 5
s. All calls belong to one loop, that of `start`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.audit.events import EventKind
from failover.audit.trail import Trail
from failover.clock import Clock
from failover.config.schema import Configuration
from failover.errors import FailoverError, StateUnreadable
from failover.health.passive import LiveTraffic
from failover.health.plan import existing
from failover.health.report import Report
from failover.metrics import RouterMetrics
from failover.model import Mode, Part, Service, UpstreamName, Verdict
from failover.routing import wishes
from failover.routing.board import RouteBoard
from failover.routing.gate import live_numbers
from failover.routing.gauges import show_numbers, show_standing
from failover.routing.machine import first_state, step
from failover.routing.replicator_word import store_verdict, word_of
from failover.routing.route import route_of, whole_phase
from failover.routing.selection import Route
from failover.routing.snapshot import status_of
from failover.routing.state import (
    AskNumbers,
    Audit,
    Command,
    Decided,
    EndWork,
    Event,
    Key,
    Now,
    NumbersHeard,
    Persist,
    PublishRoute,
    State,
    TimePassed,
    VerdictHeard,
    Wished,
)
from failover.routing.states import Decision, Numbers, Rules, Wish
from failover.routing.store import RouteStore, restored, saved
from failover.routing.troubles import Trouble, news, troubles_of

_log = structlog.get_logger(__name__)

TICK_S: Final = 0.1
TICK_LAST_STEP_S: Final = 0.02  # stores are held then, at most 1 s
URGENT_DISK_S: Final = 0.2
PATIENT_DISK_S: Final = 5.0
_FORGIVE_EVERY_S: Final = 10.0
STATE_FILE: Final = "route.json"
TRAIL_FILE: Final = "audit.jsonl"


async def _no_numbers() -> Numbers | None:
    return None


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the controller asks of the rest of the router. Each default is for a router without that part."""

    # Ask archive and replicator now; None when they do not answer. At most 1 s: stores are held meanwhile.
    ask_numbers: Callable[[], Awaitable[Numbers | None]] = _no_numbers
    # Requests (web) or associations (dicom) of callers at this upstream now.
    in_flight: Callable[[UpstreamName, Service], int] = lambda _upstream, _service: 0
    # Monotonic time of the last store that the backup acknowledged through proxy or relay.
    last_store_on_backup_s: Callable[[], float | None] = lambda: None
    # The grace of a drain is over: end what is still at this upstream.
    # Returns how many things were there.
    end_work: Callable[[UpstreamName], int] = lambda _upstream: 0
    # Checker.nothing_to_prove.
    nothing_to_prove: Callable[[UpstreamName], None] = lambda _upstream: None


def rules_of(configuration: Configuration) -> Rules:
    """Return `policy` and the configured services as the machine wants them."""
    policy = configuration.policy
    return Rules(
        exists=existing(configuration),
        failback_auto=policy.failback == "auto",
        hold_down_s=policy.hold_down,
        together=policy.together,
        refused_hold_s=policy.refused_hold,
        keeps_ledger=configuration.backup == "embedded",
    )


@dataclass(slots=True)
class _Batch:
    commands: list[Command]
    content: dict[str, Any]
    done: asyncio.Future[None]


class Controller:
    """Owns the state of routing.

    `board` is there from the start; `changed` fires when the status may differ.
    """

    def __init__(
        self,
        configuration: Configuration,
        traffic: Mapping[Key, LiveTraffic],
        trail: Trail,
        metrics: RouterMetrics,
        clock: Clock,
    ) -> None:
        """Read the state of before. `trail` and the state's file belong to `state_dir`."""
        self._site = configuration.site
        self._rules = rules_of(configuration)
        self._traffic = traffic
        self._trail = trail
        self._metrics = metrics
        self._clock = clock
        self._store = RouteStore(configuration.state_dir / STATE_FILE, clock, self._state_recovered)
        self._state, self._began = self._first_state()
        self._reports: dict[Key, Report] = {}
        self._hooks = Hooks()
        self._batches: deque[_Batch] = deque()
        self._wanted = Signal()
        self._busy = False
        self._tasks: list[asyncio.Task[None]] = []
        self._asking: asyncio.Task[None] | None = None
        self._forgave_s = float("-inf")
        self._troubles: Mapping[str, Trouble] = {}
        self.changed = Signal()
        self.board = RouteBoard(self.route)

    @property
    def route(self) -> Route:
        return route_of(self._state, self._rules)

    # -- from start to stop -------------------------------------------------------------------------

    def start(self, hooks: Hooks) -> None:
        """Begin to act. The trail must have been started."""
        self._hooks = hooks
        self._store.start()
        intent = self._state.intent
        self._trail.add(
            EventKind.STARTED,
            "started",
            f"{self._began}; mode {intent.mode}, phase {whole_phase(self._state, self._rules)}",
        )
        show_standing(self._metrics, self._state, self._rules)
        self._tasks = [
            spawn(self._carry_out_batches(), name="controller"),
            spawn(self._tick(), name="controller tick"),
        ]

    async def stop(self) -> None:
        """Act no more; what was decided is on disk, if the disk is willing."""
        await cancel_and_wait(*self._tasks, self._asking)
        for batch in self._batches:
            batch.done.cancel()
        await self._store.stop()

    def _first_state(self) -> tuple[State, str]:
        now = self._now()
        try:
            content = self._store.load()
            if content is not None:
                return restored(content, now), "the routing state was read"
        except StateUnreadable as error:
            _log.error("routing state unreadable, kept beside it as .unreadable", error=str(error))
            self._store.set_aside()
            return first_state(now), "the routing state could not be read"
        return first_state(now), "there was no routing state"

    # -- what it hears ------------------------------------------------------------------------------

    def heard(self, report: Report) -> None:
        """Take a report of the checker: traffic knows the verdict at once, phases follow by the table."""
        key = (report.upstream, report.service)
        self._reports[key] = report
        route = self.board.current
        if key in route.verdicts and route.verdicts[key] is not report.verdict:
            # A verdict is observed, not decided: it waits for no disk.
            self.board.publish(replace(route, verdicts={**route.verdicts, key: report.verdict}))
        self._apply(VerdictHeard(report.upstream, report.service, report.verdict, report.reason))
        self.changed.fire()

    def replication_heard(self, numbers: Numbers | None) -> None:
        """Take the numbers of archive and replicator.

        Call it each second, with None when they do not answer.
        """
        self._apply(NumbersHeard(numbers, self._clock.monotonic()))

    def change_rules(self, configuration: Configuration) -> None:
        """Go by `policy` of `configuration` from now on; its services are those of the start."""
        self._rules = rules_of(configuration)
        self.changed.fire()

    async def set_intent(self, wish: Wish, actor: str, *, dry_run: bool = False) -> list[str]:
        """Do what an operator wants; return what it does, as sentences.

        A dry run changes and records nothing. Raises Refused or Unprocessable.
        """
        event, now = Wished(wish, actor), self._now()
        _, commands = step(self._state, event, now, self._rules)
        work = self._work_on_primary()
        lines = wishes.would(self._state, wish, commands, self._rules, now, work)
        if not dry_run:
            await self._apply(event)
        return lines

    async def decide(
        self, decision: Decision, reason: str, actor: str, *, dry_run: bool = False
    ) -> list[str]:
        """Record what only a person may decide; return what it does. Raises Refused or Unprocessable."""
        event, now = Decided(decision, reason, actor), self._now()
        new, _ = step(self._state, event, now, self._rules)
        if not dry_run:
            await self._apply(event)
        return wishes.would_decide(new, decision, self._rules, now)

    # -- what it tells ------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Everything of GET /api/status."""
        return status_of(
            self._state,
            self._rules,
            self._now(),
            site=self._site,
            reports=self._reports,
            in_flight=self._hooks.in_flight,
            troubles=self._troubles,
        )

    def not_ready(self) -> str | None:
        """What of the verdicts is still awaited, None when each is known."""
        for name, service in sorted(self._rules.exists):
            if self._state.verdict(name, service) is None:
                return f"the first verdict on {service} of the {name} is awaited"
        return None

    def replicator_route(self) -> dict[str, Any]:
        """What the replicator asks each second: control method `route`."""
        return word_of(self._state, self._rules, self._reports)

    # -- steps --------------------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self._clock.monotonic(), self._clock.wall())

    def _apply(self, event: Event) -> asyncio.Future[None]:
        """Step, and carry the commands out: at once when none must be persisted and none is waiting."""
        now = self._now()
        self._state, commands = step(self._state, event, now, self._rules)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._busy and not self._batches and not any(isinstance(c, Persist) for c in commands):
            for command in commands:
                self._act(command)
            done.set_result(None)
        else:
            self._batches.append(_Batch(commands, saved(self._state, now), done))
            self._wanted.fire()
        if commands:
            show_standing(self._metrics, self._state, self._rules)
            self.changed.fire()
        return done

    async def _carry_out_batches(self) -> None:
        while True:
            while not self._batches:
                await self._wanted.wait()
            batch = self._batches.popleft()
            self._busy = True
            try:
                await self._carry_out(batch)
            except Exception:
                # Without this loop no move is carried out any more: a bug in one must not stop the next.
                _log.exception("commands not carried out")
            finally:
                self._busy = False
                if not batch.done.done():
                    batch.done.set_result(None)
            self.changed.fire()

    async def _carry_out(self, batch: _Batch) -> None:
        persist = next((c for c in batch.commands if isinstance(c, Persist)), None)
        acts = [c for c in batch.commands if not isinstance(c, Persist | Audit)]
        audits = [c for c in batch.commands if isinstance(c, Audit)]
        if persist is not None:
            limit_s = URGENT_DISK_S if persist.urgent else PATIENT_DISK_S
            began_s = self._clock.monotonic()
            in_time = await self._store.save(batch.content, timeout_s=limit_s)
            for audit in audits:
                self._act(audit)
            left_s = limit_s - (self._clock.monotonic() - began_s)
            if in_time and left_s > 0:
                in_time = await self._trail.written(timeout_s=left_s)
            if not in_time:
                self._metrics.state_not_persisted.inc()
                why = f"state not persisted within {limit_s * 1000:.0f} ms; acted all the same, written later"
                self._trail.add(EventKind.STATE, "state_not_persisted", why)
                _log.error("state not persisted", limit_s=limit_s)
        else:
            for audit in audits:
                self._act(audit)
        for act in acts:
            self._act(act)

    def _act(self, command: Command) -> None:
        match command:
            case Audit():
                self._audit(command)
            case PublishRoute():
                # The verdicts of this moment, not those of when the batch began to wait.
                verdicts = {key: self._state.verdict(*key) for key in command.route.verdicts}
                self.board.publish(replace(command.route, verdicts=verdicts))
            case AskNumbers():
                if self._asking is None or self._asking.done():
                    self._asking = spawn(self._ask_numbers(), name="ask numbers")
            case EndWork():
                ended = self._hooks.end_work(command.upstream)
                _log.warning("work ended after the grace", upstream=command.upstream, ended=ended)
            case Persist():
                raise AssertionError("Persist is carried out by its batch")

    def _audit(self, told: Audit) -> None:
        service = None if told.service is None else str(told.service)
        from_ = None if told.from_ is None else str(told.from_)
        to = None if told.to is None else str(told.to)
        self._trail.add(
            told.kind, told.code, told.reason, service=service, from_=from_, to=to, actor=told.actor
        )
        _log.info(str(told.kind), code=told.code, service=service, to=to, reason=told.reason)
        if told.kind is EventKind.TRANSITION:
            self._metrics.transitions.labels(service, to, told.code).inc()

    async def _ask_numbers(self) -> None:
        asked_s = self._clock.monotonic()
        try:
            numbers = await self._hooks.ask_numbers()
        except FailoverError as error:
            _log.warning("numbers of replication not known", error=str(error))
            numbers = None
        self._apply(NumbersHeard(numbers, asked_s))

    async def _tick(self) -> None:
        while True:
            held = self._state.last_step_since_s is not None
            await self._clock.sleep(TICK_LAST_STEP_S if held else TICK_S)
            try:
                self._tick_once()
            except Exception:
                # Without ticks nothing ends and nothing returns: a bug in one must not stop the others.
                _log.exception("tick failed")

    def _tick_once(self) -> None:
        now_s = self._clock.monotonic()
        last_s = self._hooks.last_store_on_backup_s()
        work = self._work_on_primary()
        if self._state.intent.mode is Mode.DRAIN and not self.board.current.primary_untouched:
            work = max(work, 1)  # the drain is not published yet: new work still goes there
        stores = sum(
            traffic.waiting(Part.STORE)
            for (name, _), traffic in self._traffic.items()
            if name is UpstreamName.BACKUP
        )
        self._apply(
            TimePassed(
                stores_on_backup=stores,
                stored_on_backup_ago_s=None if last_s is None else now_s - last_s,
                work_on_primary=work,
            )
        )
        self._forgive_stores(now_s)
        self._tell_troubles(now_s)
        show_numbers(self._metrics, self._state, self._rules, now_s)

    def _forgive_stores(self, now_s: float) -> None:
        """`store` is down until one is proven; when nothing is owed, none can be."""
        numbers = live_numbers(self._state, now_s)
        if numbers is None or numbers.lag_objects != 0 or now_s - self._forgave_s < _FORGIVE_EVERY_S:
            return
        if any(store_verdict(self._reports, service) is Verdict.DOWN for service in Service):
            self._forgave_s = now_s
            self._hooks.nothing_to_prove(UpstreamName.PRIMARY)

    def _tell_troubles(self, now_s: float) -> None:
        problem = self._store.problem or self._trail.problem
        before, self._troubles = (
            self._troubles,
            troubles_of(self._troubles, live_numbers(self._state, now_s), problem),
        )
        for code, sentence in news(before, self._troubles):
            self._trail.add(EventKind.TROUBLE, code, sentence)
            _log.warning("trouble", code=code, what=sentence)
            self.changed.fire()

    def _work_on_primary(self) -> int:
        return sum(self._hooks.in_flight(UpstreamName.PRIMARY, service) for service in Service)

    def _state_recovered(self) -> None:
        self._trail.add(EventKind.STATE, "state_persisted", "the routing state is on disk again")
