"""Asks the primary again for what it had: after every outage, drain and forced backup, before reads return.

All objects of the last days, replicated ones too: counts of studies first, then instance by instance where
they differ. What a comparison in calm misses is judged here as well. The rule is in `vanished`; what waits
for an operator is kept in the inventory. All of it can be done again after a kill: what was not yet written
into the ledger is found again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Final

import structlog

from failover.clock import Clock
from failover.control import Json
from failover.model import DebtState
from failover.replication.archive_side import ArchiveSide
from failover.replication.inventory import Inventory
from failover.replication.orders import Orders
from failover.replication.vanished import NOTHING_MORE, Extent, Gone, extent, judge
from failover.replication.ways import Way

_log = structlog.get_logger(__name__)
# While an operator is awaited, the primary is asked again: it may have been given back what it lost.
_AGAIN_S: Final = 60.0
# The ledger's numbers and ours are asked for at the same moment: what became debt must be in theirs first.
_SETTLES_S: Final = 2.0
# Studies that vanish within an hour are judged together: the window is compared once in that time.
_TOGETHER_S: Final = 3600.0
# Studies asked for by name in one turn of `judge_absent`.
_ABSENT_AT_ONCE: Final = 100


class Recheck:
    """One per replicator; its calls come from one loop at a time, but for `report`."""

    def __init__(
        self, orders: Orders, archive: ArchiveSide, inventory: Inventory, clock: Clock, *, recheck_s: float
    ) -> None:
        self._orders, self._archive, self._inventory = orders, archive, inventory
        self._reckoning = inventory.reckoning
        self._clock, self.recheck_s = clock, recheck_s
        self._done_for: int | None = None  # the interruption after which it was done; None: since our start
        self._done_at_s = 0.0
        self._lately: deque[tuple[float, Extent]] = deque()

    def due(self) -> bool:
        """Whether the primary was away since the last recheck. Until then nothing counts as deleted."""
        return self._done_for != self._orders.interruptions

    @property
    def waits(self) -> bool:
        """Whether an operator must decide."""
        return self._reckoning.vanished_studies() > 0

    def numbers(self) -> Json:
        """What the gate asks for. `vanished`: studies that an operator must decide on."""
        vanished = self._reckoning.vanished_studies()
        settled = self._clock.monotonic() - self._done_at_s >= _SETTLES_S
        return {
            "done": not self.due() and not vanished and settled,
            "vanished": vanished,
            "wants_decision": vanished > 0,
        }

    async def run(self, way: Way) -> None:
        """Do what is to do now. Raises UpstreamError, ControlError: then it is still to be done."""
        again = self.waits and self._clock.monotonic() - self._done_at_s >= _AGAIN_S
        if self.due() or again:
            await self._ask_again(way)
        if self.waits:
            await self._settle()

    async def _ask_again(self, way: Way) -> None:
        asked_for = self._orders.interruptions
        expected = await self._archive.recent_studies(self.recheck_s)
        today = self._clock.wall().date()
        days = (today - timedelta(seconds=self.recheck_s), today + timedelta(days=1))
        shown = {study.study_instance_uid: study.instances for study in await way.studies(*days)}
        others = [uid for uid in expected if uid not in shown]
        shown |= {study.study_instance_uid: study.instances for study in await way.named(others)}
        gone: list[Gone] = []
        looked = 0
        for uid, instances in expected.items():
            if shown.get(uid) == instances:
                continue
            looked += 1
            gone += [
                Gone(sop, uid, seen=True, of_objects=expected[uid]) for sop in await self._missing(way, uid)
            ]
        before = self._inventory.absent_before({one.study_instance_uid for one in gone})
        gone = [replace(one, seen=one.study_instance_uid not in before) for one in gone]
        self._reckoning.record_vanished(list(expected), gone, self._now())
        await self._settle(asked_for)
        _log.info("recheck", studies=len(expected), by_instance=looked, objects_gone=len(gone))

    async def _missing(self, way: Way, study_instance_uid: str) -> list[str]:
        listed = {i.key.sop_instance_uid for i in await way.instances(study_instance_uid)}
        return [uid for uid in await self._archive.paid(study_instance_uid) if uid not in listed]

    # -- in calm

    async def report(self, study_instance_uid: str, sop_instance_uids: Iterable[str]) -> None:
        """A look in calm did not find these: they were deleted on the primary, unless there are too many."""
        if self.due():
            return
        missed = list(sop_instance_uids)
        if not missed:
            return
        held = len(await self._archive.paid(study_instance_uid))
        gone = [Gone(uid, study_instance_uid, seen=False, of_objects=held) for uid in missed]
        if self.due():
            return
        self._reckoning.record_vanished([study_instance_uid], gone, self._now())
        await self._settle()

    async def judge_absent(self, way: Way) -> None:
        """Judge the studies that the comparison has missed; one that got another date is not gone."""
        absent = self._inventory.absent_studies(_ABSENT_AT_ONCE)
        if not absent or self.due():
            return
        found = {study.study_instance_uid for study in await way.named(absent)}
        gone: list[Gone] = []
        for uid in absent:
            if uid not in found:
                held = await self._archive.paid(uid)
                gone += [Gone(sop, uid, seen=False, of_objects=len(held)) for sop in held]
        if self.due():
            return
        self._reckoning.record_vanished(absent, gone, self._now())
        self._inventory.record_judged(absent)
        await self._settle()

    # -- judging

    def _now(self) -> float:
        return self._clock.wall().timestamp()

    async def _settle(self, asked_for: int | None = None) -> None:
        """Write into the ledger what is clear; what is not stays. `asked_for`: a recheck ends with this."""
        now_s = self._clock.monotonic()
        while self._lately and now_s - self._lately[0][0] > _TOGETHER_S:
            self._lately.popleft()
        gone = self._reckoning.vanished()
        in_calm = not any(one.seen for one in gone)
        lately = sum((before for _, before in self._lately if in_calm), NOTHING_MORE)
        judgement = judge(gone, self._inventory.studies(), self._orders.vanished_decision, lately)
        if not judgement.waits:
            await self._archive.mark(judgement.owed, DebtState.OWED)
            await self._archive.mark(judgement.deleted, DebtState.DELETED)
            self._reckoning.forget_vanished()
            if gone:
                self._lately.append((now_s, extent(gone)))
        if gone:
            _log.warning(
                "objects vanished on the primary",
                objects=len(gone),
                owed=len(judgement.owed),
                deleted=len(judgement.deleted),
                reason=judgement.reason,
            )
        if asked_for is not None:
            self._done_for = asked_for
        if gone or asked_for is not None:
            self._done_at_s = self._clock.monotonic()
