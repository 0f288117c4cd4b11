"""Whether retention may believe the wall clock: a leap ahead would make everything held too old at once.

The rule is `retention.may_age`. Here the clocks are looked at, what was believed last is kept over restarts,
and an operator's word is taken. Until then nothing goes by age; for space it goes as ever.
"""

from __future__ import annotations

from typing import Final

import structlog

from failover.archive.index import Index
from failover.archive.kept_facts import keep_fact, read_fact
from failover.archive.retention import ClockSeen, Policy, leap_s, may_age
from failover.archive.troubles import Trouble, Troubles
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.errors import StorageError

_log = structlog.get_logger(__name__)

# What was seen is written down so often: each time costs a sync.
_WRITTEN_EVERY_S: Final = 600.0
_DAY_S: Final = 86400.0


class ClockGuard:
    """One per archive, looked at by the janitor before it evicts."""

    def __init__(self, index: Index, clock: Clock, troubles: Troubles) -> None:
        self._index = index
        self._clock = clock
        self._troubles = troubles
        self._seen: ClockSeen | None = None
        self._written_s = float("-inf")
        self.doubt: str | None = None
        """Why the clock is not believed, None when it is."""

    @property
    def believed(self) -> bool:
        return self.doubt is None

    def look(self, policy: Policy) -> None:
        """Compare the clocks with what they showed when they were last believed. Blocks."""
        wall, monotonic_s = self._clock.wall().timestamp(), self._clock.monotonic()
        seen = self._seen or self._before()
        if seen is None or may_age(leap := leap_s(seen, wall, monotonic_s), policy):
            self.doubt = None
            self._believe(ClockSeen(wall, monotonic_s))
        else:
            self._seen = seen
            self.doubt = self.doubt or _doubt(leap, restarted=seen.monotonic_s is None)
        self._troubles.tell(Trouble.CLOCK_DOUBTED, self.doubt)

    def confirm(self) -> None:
        """An operator says that the clock is right: from here on it is believed again. Blocks."""
        self._written_s = float("-inf")
        self.doubt = None
        self._believe(ClockSeen(self._clock.wall().timestamp(), self._clock.monotonic()))
        self._troubles.tell(Trouble.CLOCK_DOUBTED, None)

    def _before(self) -> ClockSeen | None:
        kept = read_fact(self._index.reader(), "clock")
        return None if kept is None else ClockSeen(float(kept["wall"]), None)

    def _believe(self, seen: ClockSeen) -> None:
        self._seen = seen
        assert seen.monotonic_s is not None
        if seen.monotonic_s - self._written_s < _WRITTEN_EVERY_S:
            return

        def write(transaction: Transaction) -> None:
            keep_fact(transaction.connection, "clock", {"wall": seen.wall})

        try:
            self._index.write_now(write)
            self._written_s = seen.monotonic_s
        except StorageError as error:
            _log.warning("the time is not written down", error=str(error))


def _doubt(leap: float, *, restarted: bool) -> str:
    how = "since the archive last ran" if restarted else "while the archive ran"
    return (
        f"the clock went {leap / _DAY_S:.0f} days ahead {how}: nothing is evicted by age. Set it right, or"
        " say `failover decide clock-right --reason …` when it is right"
    )
