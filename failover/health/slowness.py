"""How long things take: the usual time of a kind of request, the slowest probe of the last ten minutes.

Pure.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar, Final

RECENT_S: Final = 600.0


class UsualTime:
    """Smoothed duration and deviation (RFC 6298's estimator); `limit_s` is what is still usual."""

    UNKNOWN_S: ClassVar[float] = 0.5  # before anything was learnt
    FLOOR_S: ClassVar[float] = 0.150

    __slots__ = ("_deviation_s", "_mean_s")

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    def learn(self, took_s: float) -> None:
        """One more took `took_s` seconds."""
        if self._mean_s is None:
            self._mean_s, self._deviation_s = took_s, took_s / 2
            return
        self._deviation_s += (abs(took_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (took_s - self._mean_s) / 8

    @property
    def limit_s(self) -> float:
        """What lasts longer than this is beyond its usual time."""
        if self._mean_s is None:
            return self.UNKNOWN_S
        return max(self.FLOOR_S, self._mean_s + 4 * self._deviation_s)


class RecentSlowest:
    """The slowest of the last ten minutes, None when there was none."""

    def __init__(self) -> None:
        self._falling: deque[tuple[float, float]] = deque()  # (at, took), took strictly falling

    def learn(self, took_s: float, now_s: float) -> None:
        while self._falling and self._falling[-1][1] <= took_s:
            self._falling.pop()
        self._falling.append((now_s, took_s))

    def slowest_s(self, now_s: float) -> float | None:
        while self._falling and now_s - self._falling[0][0] > RECENT_S:
            self._falling.popleft()
        return self._falling[0][1] if self._falling else None
