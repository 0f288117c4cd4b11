"""The loops that act: fetch what is missing, pay back what is owed, renew proofs.

Each turn reads facts, lets the pure modules decide, and acts; a turn that fails is tried again with growing
distance, and harms no other loop. Nothing here is urgent for callers, so it is polite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.control import Json
from failover.errors import FailoverError, UpstreamError
from failover.metrics import ReplicatorMetrics
from failover.replication.archive_side import ArchiveSide, WantedBy
from failover.replication.fetch import Fetcher
from failover.replication.inventory import Inventory, Job
from failover.replication.lookout import Lookout
from failover.replication.orders import Orders
from failover.replication.payback import Payback
from failover.replication.proof import PROBE_EVERY_S, again_after_s
from failover.replication.recheck import Recheck
from failover.replication.reconcile import Need, is_evicted
from failover.replication.turns import turn
from failover.replication.ways import Way

_log = structlog.get_logger(__name__)
# How soon the ledger is looked at again: the last step of a failback waits for proofs.
_PAY_EVERY_S: Final = 0.2
_PAY_EVERY_CALM_S: Final = 1.0
_IDLE_S: Final = 1.0
# Objects that only wait for a young proof to be evicted: so many, so often.
_RENEW_AT_ONCE: Final = 500
_RENEW_EVERY_S: Final = 60.0
_WANTED_BY: Final[tuple[WantedBy, ...]] = ("commitment", "retention")
_RENEW_PAGES: Final = 20


class Worker:
    """Start each loop as a task of its own; two of `fetch`."""

    def __init__(
        self,
        orders: Orders,
        lookout: Lookout,
        recheck: Recheck,
        archive: ArchiveSide,
        inventory: Inventory,
        fetcher: Fetcher,
        payback: Payback,
        metrics: ReplicatorMetrics,
        clock: Clock,
    ) -> None:
        self._orders, self._lookout, self._recheck = orders, lookout, recheck
        self._archive, self._inventory = archive, inventory
        self._fetcher, self._payback = fetcher, payback
        self._metrics, self._clock = metrics, clock
        self._in_hand: set[str] = set()
        self._waits: dict[str, tuple[int, float]] = {}
        self._probed_at_s: dict[str, float] = {}
        self._renewed: dict[WantedBy, list[Any] | None] = {}  # how far each walk has come
        self._let_go = Signal()  # a study is in hand no more
        self._paying = asyncio.Lock()  # held while something may be on its way to the primary

    # -- fetching

    async def fetch(self) -> None:
        """Bring study after study, newest first. Run two of these: Orthanc has few threads."""
        while True:
            await turn("fetch", self._fetch_next, self._metrics, self._clock)

    async def _fetch_next(self) -> None:
        job = self._next_job()
        if job is None:
            await self._wait_for_work()
            return
        self._in_hand.add(job.study_instance_uid)
        try:
            await self._fetch_while_allowed(job)
        finally:
            self._in_hand.discard(job.study_instance_uid)
            self._let_go.fire()

    async def _fetch_while_allowed(self, job: Job) -> None:
        """Fetch; in the middle of an instance let go of a primary that must not be touched any more."""
        fetching = spawn(self._fetch_or_put_off(job), name="fetch a study")
        while not fetching.done():
            if not self._orders.allowed.touch:
                _log.info("the fetch of a study ends half way: the primary must be left alone")
                for way in self._orders.ways:
                    await way.let_go()
                await cancel_and_wait(fetching)
                return
            ended = spawn(self._orders.changed.wait(), name="the router's word changes")
            await asyncio.wait((fetching, ended), return_when=asyncio.FIRST_COMPLETED)
            await cancel_and_wait(ended)

    async def _fetch_or_put_off(self, job: Job) -> None:
        try:
            await self._fetch(job)
        except Exception as error:
            if isinstance(error, FailoverError) and not self._orders.allowed.touch:
                return  # it ended because we let go: that speaks against neither the study nor the primary
            self._metrics.failures.labels("fetch").inc()
            times = self._put_off(job)
            # What nobody foresaw (a full disk below SQLite, a bug) leaves its trace; the loop goes on.
            trace = None if isinstance(error, FailoverError) else error
            _log.warning("a study could not be fetched", error=str(error), times=times, exc_info=trace)

    def _next_job(self) -> Job | None:
        if not self._orders.allowed.work:
            return None
        now_s = self._clock.monotonic()
        waiting = {uid for uid, (_, until_s) in self._waits.items() if until_s > now_s}
        jobs = self._inventory.jobs(1, self._in_hand | waiting)
        return jobs[0] if jobs else None

    async def _fetch(self, job: Job) -> None:
        way = self._orders.way
        if way is None:
            return
        held = await self._archive.studies([job.study_instance_uid])
        in_archive = held.studies.get(job.study_instance_uid)
        if job.need is not Need.HELD and is_evicted(job.study_date, in_archive, held.evicted_until):
            self._inventory.record_evicted(job)
            return
        fetched = await self._fetcher.study(way, job.study_instance_uid, job.need)
        if job.need is Need.HELD:
            self._inventory.record_brought(job)
            return
        if fetched.gone and self._recheck.due():
            self._put_off(job)  # the primary was away: the recheck comes first
            return
        await self._recheck.report(job.study_instance_uid, fetched.gone)
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
        await self._lookout.tell_window()

    def _put_off(self, job: Job) -> int:
        """Let the study wait, longer each time; return how often it has."""
        times = self._waits.get(job.study_instance_uid, (0, 0.0))[0] + 1
        self._waits[job.study_instance_uid] = (times, self._clock.monotonic() + again_after_s(times))
        return times

    async def _wait_for_work(self) -> None:
        await self._lookout.found.wait_until(lambda: self._next_job() is not None, timeout_s=_IDLE_S)

    # -- paying back

    async def pay(self) -> None:
        """Send what is owed, then ask for it, as long as there is debt."""
        while True:
            await turn("pay", self._pay, self._metrics, self._clock)
            await self._clock.sleep(_PAY_EVERY_S if self._orders.in_a_hurry else _PAY_EVERY_CALM_S)

    async def nothing_under_way(self) -> None:
        """Return when what was being sent at this moment has ended. Later sends ask for permission anew.

        Where the primary must not be touched any more, fetches have ended too.
        """
        async with self._paying:
            pass
        while not self._orders.allowed.touch and self._in_hand:
            await self._let_go.wait_until(lambda: not self._in_hand, timeout_s=_IDLE_S)

    async def _pay(self) -> None:
        async with self._paying:
            await self._pay_while_allowed()

    async def _pay_while_allowed(self) -> None:
        while True:
            allowed = self._orders.allowed
            if not allowed.touch or not allowed.send:
                return
            numbers = await self._archive.ledger_numbers()
            if not numbers.lag_objects:
                return
            prover = self._orders.way
            if numbers.sent and (prover is not None or self._lookout.answers_search):
                await self._payback.prove(prover or self._orders.ways[0])
            if numbers.pending:
                await self._probe_stores(prover)
            way = next((w for w in self._orders.open_ways if not self._doubted(w)), None)
            if not numbers.pending or way is None or not await self._payback.send(way):
                return
            await self._payback.prove(way)

    async def renew(self) -> None:
        """Ask the primary again for what a modality waits for, or what would be evicted: that wants a proof
        younger than a day."""
        while True:
            await self._orders.changed.wait_until(
                lambda: self._orders.way is not None, timeout_s=_RENEW_EVERY_S
            )
            for wanted_by in _WANTED_BY:
                await turn("renew", partial(self._renew, wanted_by), self._metrics, self._clock)
            await self._clock.sleep(_RENEW_EVERY_S)

    async def _renew(self, wanted_by: WantedBy) -> None:
        for _ in range(_RENEW_PAGES):
            way = self._orders.way
            if way is None:
                return
            after = self._renewed.get(wanted_by)
            objects, place = await self._archive.unproven(wanted_by, _RENEW_AT_ONCE, after)
            # A page that fails is asked for again in the next round: it must not keep all others waiting.
            self._renewed[wanted_by] = place
            missed = await self._payback.renew(way, objects) if objects else {}
            for study, uids in missed.items():
                # Under another patient it is not gone; what is gone needs no proof any more.
                listed = {i.key.sop_instance_uid for i in await way.instances(study)}
                await self._recheck.report(study, [uid for uid in uids if uid not in listed])
            if place is None:
                return

    def _doubted(self, way: Way) -> bool:
        return self._payback.health(way.name).failing or self._orders.doubts_stores(way.name)

    async def _probe_stores(self, prover: Way | None) -> None:
        """Send one object every ten seconds where stores are in doubt: one proven object ends it.

        Also while no service is up, if the primary answered a search: it may be down for its stores alone.
        """
        now_s = self._clock.monotonic()
        for way in self._orders.ways:
            if prover is None and not self._lookout.answers_search:
                continue
            if prover is not None and not self._doubted(way):
                continue
            if now_s - self._probed_at_s.get(way.name, -PROBE_EVERY_S) < PROBE_EVERY_S:
                continue
            self._probed_at_s[way.name] = now_s
            try:
                if await self._payback.send(way, limit=1):
                    await self._payback.prove(prover or way)
            except UpstreamError as error:
                _log.info("a store sent as a probe failed", service=way.name, error=str(error))

    # -- telling

    def owed_progress(self, sop_instance_uids: Sequence[str]) -> Json:
        """How far the debt of these objects is; `allowed` says why nothing may be sent at all."""
        allowed = self._orders.allowed
        return {
            "objects": self._payback.progress(sop_instance_uids),
            "allowed": allowed.reason,
            "sends": allowed.touch and allowed.send,
        }

    def numbers(self) -> dict[str, Any]:
        """What the router asks for. `stores`: totals since the start, of objects, by service."""
        return {
            **self._lookout.numbers(),
            "recheck": self._recheck.numbers(),
            "allowed": self._orders.allowed.reason,
            "stores": {
                way.name: {
                    "failed": self._payback.health(way.name).failed_total,
                    "accepted": self._payback.health(way.name).accepted_total,
                    "proven": self._payback.health(way.name).proven_total,
                }
                for way in self._orders.ways
            },
        }
