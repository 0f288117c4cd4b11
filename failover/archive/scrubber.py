"""Reads every object again within a set period and compares it with its digest: disks forget silently.

A damaged one is set aside (`damaged`). Its row and its debt stay: the replicator misses it and brings it from
the primary, a caller may send it again, and either puts it back. Bounded: one object at a time, never faster
than 8 MiB/s, spread over the period.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass, replace
from typing import Final

import structlog

from failover.archive.damaged import Damaged
from failover.archive.index import Index
from failover.archive.kept_facts import keep_fact, read_fact
from failover.clock import Clock
from failover.errors import StorageError
from failover.metrics import ArchiveMetrics

_log = structlog.get_logger(__name__)
# A reading day must not feel it: a disk gives twenty times as much.
MOST_BYTES_S: Final = 8 * 2**20
# A small archive is read through in its first hours and rests for the remainder of the period.
_LONGEST_REST_S: Final = 60.0
# How far it is, is written down so often; a restart reads at most so many seconds of work again.
_WRITTEN_EVERY_S: Final = 300.0
_NEXT: Final = "SELECT * FROM instances WHERE id > ? AND state <> 'deleted' ORDER BY id LIMIT 1"


@dataclass(frozen=True, slots=True)
class Round:
    """How far the present round is. `began` is Unix time, `after` the row of the last object looked at."""

    began: float
    after: int = 0
    left: int = 0
    over: bool = False


def rest_s(round_: Round, now: float, period_s: float, size_bytes: int) -> float:
    """Return how long to rest after an object, so that the round ends with its period. Pure."""
    share_s = (round_.began + period_s - now) / max(1, round_.left)
    return max(size_bytes / MOST_BYTES_S, min(_LONGEST_REST_S, share_s))


class Scrubber:
    """One per archive. `run` as a task."""

    def __init__(
        self,
        index: Index,
        damaged: Damaged,
        period_s: float,
        metrics: ArchiveMetrics,
        clock: Clock,
    ) -> None:
        self._index = index
        self._damaged = damaged
        self._period_s = period_s
        self._metrics = metrics
        self._clock = clock
        self._round: Round | None = None
        self._written_s = float("-inf")

    async def run(self) -> None:
        """Read until cancelled. What fails is logged, and tried again."""
        while True:
            try:
                if self._period_s > 0:
                    pause_s = await self.turn()
                else:  # who compresses may have found one
                    await self._damaged.tell()
                    pause_s = _LONGEST_REST_S
            except (StorageError, OSError, sqlite3.Error) as error:
                _log.warning("scrubbing stopped for a while", error=str(error))
                pause_s = _LONGEST_REST_S
            except Exception:
                _log.exception("scrubbing stopped for a while")
                pause_s = _LONGEST_REST_S
            await self._clock.sleep(pause_s)

    async def turn(self) -> float:
        """Look at the next object; return how long to rest."""
        now = self._clock.wall().timestamp()
        round_ = self._round or await asyncio.to_thread(self._before)
        if round_ is None or (round_.over and now >= round_.began + self._period_s):
            round_ = Round(now, left=self._index.numbers()["instances"])
        row = None if round_.over else await asyncio.to_thread(self._next, round_.after)
        if row is None:
            if not round_.over:
                _log.info("every object was read again", days=round((now - round_.began) / 86400, 1))
            await self._keep(replace(round_, over=True), at_once=not round_.over)
            await self._damaged.tell()
            return min(_LONGEST_REST_S, max(1.0, round_.began + self._period_s - now))
        await self._look_at(row)
        round_ = replace(round_, after=row["id"], left=max(0, round_.left - 1))
        await self._keep(round_)
        return rest_s(round_, now, self._period_s, row["bytes"])

    async def _look_at(self, row: sqlite3.Row) -> None:
        try:
            await self._damaged.is_whole(row, MOST_BYTES_S)
        except FileNotFoundError:
            return  # evicted or replaced this moment; a file that is gone is the janitor's affair
        self._metrics.scrubbed.inc()

    # -- how far it is ------------------------------------------------------------------------------

    def _next(self, after: int) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._index.reader().execute(_NEXT, (after,)).fetchone()
        return found

    def _before(self) -> Round | None:
        kept = read_fact(self._index.reader(), "scrub")
        return Round(**kept) if kept else None

    async def _keep(self, round_: Round, *, at_once: bool = False) -> None:
        self._round = round_
        now_s = self._clock.monotonic()
        if not at_once and now_s - self._written_s < _WRITTEN_EVERY_S:
            return
        value = {"began": round_.began, "after": round_.after, "left": round_.left, "over": round_.over}
        await self._index.write(lambda transaction: keep_fact(transaction.connection, "scrub", value))
        self._written_s = now_s
