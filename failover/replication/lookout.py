"""Looks at the primary: the recent days at each poll, the whole window once an hour, each day of it in turn.

What a search shows is compared by `reconcile` with what the archive holds, and what follows is written into
the inventory, from which `worker` fetches. Then the archive is told which window the comparison covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final

import structlog

from failover.aio import Signal
from failover.clock import Clock
from failover.errors import UpstreamError
from failover.metrics import ReplicatorMetrics
from failover.replication.archive_side import ArchiveSide
from failover.replication.inventory import Inventory
from failover.replication.orders import Orders
from failover.replication.recheck import Recheck
from failover.replication.reconcile import (
    Known,
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
from failover.replication.turns import turn
from failover.replication.ways import Way

_log = structlog.get_logger(__name__)
_IDLE_S: Final = 1.0
# While the primary is not up it is asked for a search so often, to see whether it answers one.
_LOOK_WHILE_DOWN_S: Final = 10.0
# Unsettled studies with older dates, looked at in each poll: one search with so many UIDs.
_UNSETTLED_AT_ONCE: Final = 20
# Days compared in one turn of the first inventory, before the loop hears again what is allowed.
_DAYS_AT_ONCE: Final = 10


class Lookout:
    """One loop. `found` fires when there is something to fetch."""

    def __init__(
        self,
        orders: Orders,
        archive: ArchiveSide,
        inventory: Inventory,
        recheck: Recheck,
        metrics: ReplicatorMetrics,
        clock: Clock,
        *,
        poll_every_s: float,
        window_length: int,
    ) -> None:
        self._orders, self._archive, self._inventory = orders, archive, inventory
        self._recheck, self._metrics, self._clock = recheck, metrics, clock
        self._poll_every_s, self._window_length = poll_every_s, window_length
        self.found = Signal()
        self.answers_search = False  # whether the primary answered the last one, up or not
        self._polled_at_s: float | None = None
        self._seen_at_s: dict[str, float] = {}
        self._sweep_carried = 0.0
        self._swept_at_s: float | None = None
        self._told_window: tuple[str | None, dict[str, int]] | None = None

    def change(self, *, poll_every_s: float, window_length: int) -> None:
        """Go by these from the next comparison on."""
        self._poll_every_s, self._window_length = poll_every_s, window_length

    async def look(self) -> None:
        """Compare both sides, for ever."""
        while True:
            allowed = self._orders.allowed
            if allowed.work:
                # First of all: a comparison must not take what an outage cost for deleted.
                await turn("recheck", self._ask_again, self._metrics, self._clock)
                await turn("poll", self._poll, self._metrics, self._clock)
                if not self._inventory.first_inventory_done:
                    continue  # the first inventory goes on at once, a few days at a time
                await self._pause(self._poll_every_s)
            elif allowed.touch:
                await self._try_a_search()
                await self._pause(min(_LOOK_WHILE_DOWN_S, self._poll_every_s))
            else:
                self.answers_search = False
                await self._pause(_IDLE_S)

    async def _pause(self, seconds: float) -> None:
        """Wait; not longer than until the router says something else."""
        before = self._orders.allowed.reason
        await self._orders.changed.wait_until(
            lambda: self._orders.allowed.reason != before, timeout_s=seconds
        )

    async def _try_a_search(self) -> None:
        """Learn whether a primary that is not up answers one. What it shows is not believed."""
        try:
            await self._orders.ways[0].studies(*recent_days(self._today()))
        except UpstreamError:
            self.answers_search = False
        else:
            self.answers_search = True

    async def _ask_again(self) -> None:
        way = self._orders.way
        if way is not None:
            await self._recheck.run(way)

    async def _poll(self) -> None:
        try:
            await self._compare_sides()
        except UpstreamError:
            self._orders.was_unreachable()
            raise

    async def _compare_sides(self) -> None:
        way = self._orders.way
        if way is None or self._recheck.due():
            return
        began_s = self._clock.monotonic()
        today = self._today()
        self.answers_search = False
        recent = await way.studies(*recent_days(today))
        self.answers_search = True
        await self._compare(recent)
        self._record_days(window_days(today, 1), recent)
        late = self._inventory.unsettled(recent_days(today)[0], _UNSETTLED_AT_ONCE)
        if late:
            await self._compare(await way.named(late))
        await self._sweep(way, today)
        await self._recheck.judge_absent(way)
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
            if not self._orders.allowed.work:
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
        if self._recheck.due():
            return  # the primary was away meanwhile
        gone = sum(self._inventory.mark_vanished(day, shown) for day in days)
        if gone:
            _log.warning("studies vanished on the primary", studies=gone)
        for day in days:
            self._inventory.record_swept(day)

    async def _compare(self, studies: Sequence[StudyOnPrimary]) -> None:
        """Compare what a search showed with the archive, and write down what follows."""
        uids = [study.study_instance_uid for study in studies]
        answer = await self._archive.studies(uids)
        held = answer.studies
        known = self._inventory.known(uids)
        now_s = self._clock.monotonic()
        rows = []
        for study in newest_first(studies):
            uid = study.study_instance_uid
            before = known.get(uid, Known())
            in_archive = held.get(uid)
            elapsed_s = now_s - self._seen_at_s.get(uid, now_s)
            self._seen_at_s[uid] = now_s
            finding = compare(study, in_archive, before, answer.evicted_until)
            instances = in_archive.instances if in_archive else 0
            rows.append((study, instances, finding, stood(before, study.instances, elapsed_s)))
        self._inventory.record(rows)
        if any(finding.need for _, _, finding, _ in rows):
            self.found.fire()

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
        now_s, polled_at_s = self._clock.monotonic(), self._polled_at_s
        return {
            "pending_to_backup": totals.pending if known else None,
            "coverage_ratio": coverage(totals.instances or 0, totals.missing) if known else None,
            "last_poll_s_ago": None if polled_at_s is None else now_s - polled_at_s,
            "studies": totals.studies,
        }

    def _today(self) -> date:
        return self._clock.wall().date()
