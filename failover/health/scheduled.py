"""A probe with its plan and what was measured of it: how long it may take now. And the spacing of immediate
probes that found nothing wrong.

Decides no verdict; `watch` sends the probe. No effects but those of the measured times it keeps.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from failover.health.plan import PlannedProbe
from failover.health.probes import Probe
from failover.health.slowness import RecentSlowest

AT_ONCE_S: Final = 0.120  # what an immediate probe is given at least
AT_ONCE_TIMES: Final = 3  # or so many times the slowest of its kind
# Orthanc with its four DICOM threads busy answers an echo after 0.9 to 1.1 s, and is not dead. The first of
# the immediate probes is given so long; it is still awaited while the second one is asked.
CROWDED_S: Final = 1.1
# A caller who waited for its association before our probe was asked waits for the same: what a crowd is given
# began with it. Not more than this, or one caller whose opening hangs would take the time of all.
AWAITED_MOST_S: Final = 0.3
# A PACS whose last answers were all slow is slow, not dead, and is given time; one that stalls now and
# then is not.
STEADY: Final = 3
STEADY_TIMES: Final = 1.5
NEVER_S: Final = float("-inf")
_QUIET_S: Final = 10.0


@dataclass(slots=True)
class Scheduled:
    """A probe with its plan and what was measured of it."""

    plan: PlannedProbe
    probe: Probe
    began_s: float = NEVER_S
    passed_s: float = NEVER_S
    slowest: RecentSlowest = field(default_factory=RecentSlowest)
    slowest_crowded: RecentSlowest = field(default_factory=RecentSlowest)
    last_took_s: deque[float] = field(default_factory=lambda: deque(maxlen=STEADY))

    def passed(self, took_s: float, now_s: float, *, crowded: bool) -> None:
        """It passed; `crowded`: callers were waiting when it was asked."""
        self.passed_s = now_s
        self.last_took_s.append(took_s)
        self.slowest.learn(took_s, now_s)
        if crowded:
            self.slowest_crowded.learn(took_s, now_s)

    def limit_s(self, now_s: float, fail_after_s: float) -> float:
        """How long it may take: its time-out, longer when it is known to be steadily slow."""
        most_s = max(self.plan.timeout_s, fail_after_s)
        if self.plan.follows_measured:
            slowest_s = self.slowest.slowest_s(now_s)
            wanted_s = most_s if slowest_s is None else AT_ONCE_TIMES * slowest_s
        else:
            steady = len(self.last_took_s) == STEADY
            wanted_s = STEADY_TIMES * min(self.last_took_s) if steady else 0.0
        return min(most_s, max(self.plan.timeout_s, wanted_s))

    def limit_at_once_s(
        self, now_s: float, fail_after_s: float, *, crowded: bool, awaited_s: float = 0.0
    ) -> float:
        """How long it may take as an immediate probe; `crowded`: callers fill the few slots of a PACS.

        `awaited_s`: for so long a caller has waited for the same, and nothing came.
        """
        limit_s = max(AT_ONCE_S, AT_ONCE_TIMES * (self.slowest.slowest_s(now_s) or 0.0))
        if crowded and self.plan.few_slots:
            crowded_s = self.slowest_crowded.slowest_s(now_s)
            given_s = CROWDED_S if crowded_s is None else AT_ONCE_TIMES * crowded_s
            limit_s = max(limit_s, given_s - min(awaited_s, AWAITED_MOST_S))
        return min(self.limit_s(now_s, fail_after_s), limit_s)


@dataclass(slots=True)
class Pacing:
    """Spaces immediate probes that found nothing wrong: each time a longer pause, until it is quiet."""

    first_s: float
    longest_s: float
    next_s: float = NEVER_S
    pause_s: float = 0.0

    def wasted(self, now_s: float) -> None:
        quiet = now_s - self.next_s > _QUIET_S
        self.pause_s = self.first_s if quiet else min(2 * self.pause_s, self.longest_s)
        self.next_s = now_s + self.pause_s
