"""The loops of the replicator: hear the router, look for studies, fetch, pay back, tell the window.

Each turn reads facts, lets the pure modules decide, and acts; a turn that fails is logged and tried again
with growing distance, and harms no other loop. Nothing here is urgent for callers, so it is polite.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, Final

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from failover.aio import Signal
from failover.clock import Clock
from failover.errors import ControlError, FailoverError
from failover.metrics import ReplicatorMetrics
from failover.model import Phase
from failover.replication.archive_side import ArchiveSide
from failover.replication.fetch import Fetcher
from failover.replication.inventory import Inventory, Job
from failover.replication.payback import Payback
from failover.replication.permission import Permission, Word, parse_word, permission
from failover.replication.proof import PROBE_EVERY_S, again_after_s
from failover.replication.reconcile import (
    Known,
    Need,
    StudyOnPrimary,
    compare,
    coverage,
    dicom_day,
    newest_first,
    recent_days,
    stood,
    sweep_share,
    window_days,
    window_from,
)
from failover.replication.ways import Way

_log = structlog.get_logger(__name__)
_HEAR_EVERY_S: Final = 1.0
# How soon the ledger is looked at again: the last step of a failback waits for proofs.
_PAY_EVERY_S: Final = 0.2
_PAY_EVERY_CALM_S: Final = 1.0
_IDLE_S: Final = 1.0
# While the primary is not up it is asked for a search so often, to see whether it answers one.
_LOOK_WHILE_DOWN_S: Final = 30.0
# Unsettled studies with older dates, looked at in each poll: one search with so many UIDs.
_UNSETTLED_AT_ONCE: Final = 20
# Days compared in one turn of the first inventory, before the loop hears again what is allowed.
_DAYS_AT_ONCE: Final = 10
_LONGEST_WAIT_S: Final = 10.0


class Worker:
    """Everything that goes on while the replicator runs. Start each loop as a task of its own."""

    def __init__(
        self,
        *,
        ways: Sequence[Way],
        ask_route: Callable[[], Awaitable[dict[str, Any]]],
        archive: ArchiveSide,
        inventory: Inventory,
        fetcher: Fetcher,
        payback: Payback,
        metrics: ReplicatorMetrics,
        clock: Clock,
        poll_every_s: float,
        window_length: int,
    ) -> None:
        """`ways`: DICOMweb first where the primary has it."""
        self._ways, self._ask_route = list(ways), ask_route
        self._archive, self._inventory = archive, inventory
        self._fetcher, self._payback = fetcher, payback
        self._metrics, self._clock = metrics, clock
        self._poll_every_s, self._window_length = poll_every_s, window_length
        self._word: Word | None = None
        self._heard_at_s = 0.0
        self._reason = ""
        self._polled_at_s: float | None = None
        self._seen_at_s: dict[str, float] = {}
        self._sweep_carried = 0.0
        self._swept_at_s: float | None = None
        self._in_hand: set[str] = set()
        self._waits: dict[str, tuple[int, float]] = {}
        self._told_window: tuple[str | None, dict[str, int]] | None = None
        self._probed_at_s = -PROBE_EVERY_S
        self._answers_search = False
        self._work = Signal()

    # -- what is allowed

    @property
    def allowed(self) -> Permission:
        return permission(self._word, self._clock.monotonic() - self._heard_at_s)

    async def hear(self) -> None:
        """Ask the router each second what it wants."""
        while True:
            with suppress(ControlError):
                answer = await self._ask_route()
                try:
                    self._word, self._heard_at_s = parse_word(answer), self._clock.monotonic()
                except (KeyError, ValueError, TypeError) as error:
                    _log.error("the router's word cannot be read", error=type(error).__name__)
            reason = self.allowed.reason
            if reason != self._reason:
                _log.info("what replication may do", reason=reason)
                self._reason = reason
                self._work.fire()
            await self._clock.sleep(_HEAR_EVERY_S)

    def _way(self, allowed: Permission) -> Way | None:
        """The first way whose service is up."""
        open_ways = {"web": allowed.web, "dicom": allowed.dicom}
        return next((way for way in self._ways if open_ways[way.name]), None)

    # -- looking

    async def look(self) -> None:
        """Compare both sides: the recent days at each poll, the whole window once an hour."""
        while True:
            allowed = self.allowed
            if not allowed.touch:
                await self._pause(_IDLE_S)
                continue
            await self._turn("poll", self._poll)
            if not self._inventory.first_inventory_done and self.allowed.work:
                continue  # the first inventory goes on at once, a few days at a time
            await self._pause(self._poll_every_s if allowed.work else _LOOK_WHILE_DOWN_S)

    async def _poll(self) -> None:
        allowed = self.allowed
        if not allowed.touch:
            return
        way = self._way(allowed) or self._ways[0]
        began_s = self._clock.monotonic()
        today = self._today()
        self._answers_search = False
        recent = await way.studies(*recent_days(today))
        self._answers_search = True
        await self._compare(recent)
        self._record_days(window_days(today, 1), recent)
        if allowed.work:
            first_recent = recent_days(today)[0]
            late = self._inventory.unsettled(first_recent, _UNSETTLED_AT_ONCE)
            if late:
                await self._compare(await way.named(late))
            await self._sweep(way, today)
        self._polled_at_s = self._clock.monotonic()
        self._metrics.poll_duration.observe(self._polled_at_s - began_s)
        await self.tell_window()

    async def _sweep(self, way: Way, today: date) -> None:
        window = window_days(today, self._window_length)
        now_s = self._clock.monotonic()
        if self._inventory.first_inventory_done:
            elapsed_s = now_s - self._swept_at_s if self._swept_at_s is not None else 0.0
            count, self._sweep_carried = sweep_share(len(window), elapsed_s, self._sweep_carried)
        else:
            count = _DAYS_AT_ONCE
        self._swept_at_s = now_s
        for day in self._inventory.next_days(window, count):
            if not self.allowed.work:
                return
            studies = await way.studies(day, day)
            await self._compare(studies)
            self._record_days([day], studies)
        if self._inventory.swept_days().issuperset(window):
            self._inventory.record_first_inventory()
        for uid in self._inventory.forget_before(window[-1]):
            self._seen_at_s.pop(uid, None)

    def _record_days(self, days: Sequence[date], studies: Sequence[StudyOnPrimary]) -> None:
        """`studies` is all that the primary has of `days`."""
        shown = [study.study_instance_uid for study in studies]
        gone = sum(self._inventory.mark_vanished(day, shown) for day in days)
        if gone:
            _log.warning("studies vanished on the primary", studies=gone)
        for day in days:
            self._inventory.record_swept(day)

    async def _compare(self, studies: Sequence[StudyOnPrimary]) -> None:
        """Compare what a search showed with the archive, and write down what follows."""
        uids = [study.study_instance_uid for study in studies]
        held = await self._archive.studies(uids)
        known = self._inventory.known(uids)
        now_s = self._clock.monotonic()
        rows = []
        for study in newest_first(studies):
            uid = study.study_instance_uid
            before = known.get(uid, Known())
            in_archive = held.get(uid)
            elapsed_s = now_s - self._seen_at_s.get(uid, now_s)
            self._seen_at_s[uid] = now_s
            finding = compare(study, in_archive, before)
            instances = in_archive.instances if in_archive else 0
            rows.append((study, instances, finding, stood(before, study.instances, elapsed_s)))
        self._inventory.record(rows)
        if any(finding.need for _, _, finding, _ in rows):
            self._work.fire()

    # -- fetching

    async def fetch(self) -> None:
        """Bring study after study, newest first. Run two of these: Orthanc has few threads."""
        while True:
            job = self._next_job()
            if job is None:
                await self._wait_for_work()
                continue
            self._in_hand.add(job.study_instance_uid)
            try:
                await self._fetch(job)
            except FailoverError as error:
                self._metrics.failures.labels("fetch").inc()
                times = self._put_off(job)
                _log.warning("a study could not be fetched", error=str(error), times=times)
            finally:
                self._in_hand.discard(job.study_instance_uid)

    def _next_job(self) -> Job | None:
        if not self.allowed.work:
            return None
        now_s = self._clock.monotonic()
        waiting = {uid for uid, (_, until_s) in self._waits.items() if until_s > now_s}
        jobs = self._inventory.jobs(1, self._in_hand | waiting)
        return jobs[0] if jobs else None

    async def _fetch(self, job: Job) -> None:
        way = self._way(self.allowed)
        if way is None:
            return
        everything = job.need is Need.EVERYTHING
        fetched = await self._fetcher.study(way, job.study_instance_uid, everything=everything)
        self._inventory.record_look(
            job,
            listed=fetched.listed,
            held=fetched.held,
            missing=fetched.missing,
            whole=fetched.whole,
        )
        if fetched.missing:
            self._put_off(job)  # it lists what it does not give: later again
        else:
            self._waits.pop(job.study_instance_uid, None)
        await self.tell_window()

    def _put_off(self, job: Job) -> int:
        """Let the study wait, longer each time; return how often it has."""
        times = self._waits.get(job.study_instance_uid, (0, 0.0))[0] + 1
        self._waits[job.study_instance_uid] = (times, self._clock.monotonic() + again_after_s(times))
        return times

    async def _wait_for_work(self) -> None:
        await self._work.wait_until(lambda: self._next_job() is not None, timeout_s=_IDLE_S)

    # -- paying back

    async def pay(self) -> None:
        """Send what is owed, then ask for it, as long as there is debt."""
        while True:
            await self._turn("pay", self._pay)
            hurry = self._word is not None and self._word.phase is not Phase.ON_PRIMARY
            await self._clock.sleep(_PAY_EVERY_S if hurry else _PAY_EVERY_CALM_S)

    async def _pay(self) -> None:
        while True:
            allowed = self.allowed
            if not allowed.touch or not allowed.send:
                return
            numbers = await self._archive.ledger_numbers()
            if not numbers.lag_objects:
                return
            way = self._way(allowed)
            if way is None or self._payback.health.failing:
                await self._probe_store(way)
                return
            if numbers.sent:
                await self._payback.prove(way)
            sent = await self._payback.send(way) if numbers.pending else 0
            if sent:
                await self._payback.prove(way)
            else:
                return

    async def _probe_store(self, way: Way | None) -> None:
        """Send one object every ten seconds: stores have no other probe, and one proven object ends it."""
        now_s = self._clock.monotonic()
        if now_s - self._probed_at_s >= PROBE_EVERY_S and (way is not None or self._answers_search):
            self._probed_at_s = now_s
            way = way or self._ways[0]
            await self._payback.send(way, limit=1)
            await self._payback.prove(way)
        elif way is not None:
            await self._payback.prove(way)

    # -- telling

    async def tell_window(self) -> None:
        """Tell the archive what the last comparison covered, when that has changed."""
        today = self._today()
        window = window_days(today, self._window_length)
        first = window_from(
            today, window, self._inventory.swept_days(), self._inventory.absent_days(window[-1], window[0])
        )
        short = self._inventory.totals(window[-1], window[0]).short
        told = (dicom_day(first) if first else None, short)
        if told != self._told_window:
            await self._archive.set_window(*told)
            self._told_window = told

    def numbers(self) -> dict[str, Any]:
        """What the router asks for: `pending_to_backup` and `coverage_ratio` are null when not known."""
        window = window_days(self._today(), self._window_length)
        totals = self._inventory.totals(window[-1], window[0])
        known = self._inventory.first_inventory_done and totals.instances is not None
        last_poll = self._clock.monotonic() - self._polled_at_s if self._polled_at_s is not None else None
        health = self._payback.health
        return {
            "pending_to_backup": totals.missing if known else None,
            "coverage_ratio": coverage(totals.instances or 0, totals.missing) if known else None,
            "last_poll_s_ago": last_poll,
            "studies": totals.studies,
            "allowed": self.allowed.reason,
            "stores": {
                "failed_in_a_row": health.failed_in_a_row,
                "accepted": health.accepted_total,
                "proven": health.proven_total,
            },
        }

    # -- turns

    def _today(self) -> date:
        return self._clock.wall().date()

    async def _pause(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    async def _turn(self, step: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`; what fails is logged and done again after a while, until it succeeds."""

        def failed(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            self._metrics.failures.labels(step).inc()
            level = (
                _log.warning
                if state.attempt_number in (1, 10) or state.attempt_number % 100 == 0
                else _log.debug
            )
            level("a step failed, it will be tried again", step=step, error=str(error))

        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(FailoverError),
            wait=wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT_S),
            sleep=self._clock.sleep,
            before_sleep=failed,
        ):
            with attempt:
                await work()
