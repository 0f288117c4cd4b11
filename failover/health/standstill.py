"""When our own loop stood still: then a late answer is our fault, not the upstream's. Pure.

The checker ticks it in a known rhythm; a tick that comes late is a standstill of that length.
"""

from __future__ import annotations

from collections import deque
from typing import Final

_NOTICED_S: Final = 0.050  # less is the scheduler's ordinary lateness
_KEPT_S: Final = 60.0


class LoopWatch:
    """Remembers the standstills of the last minute."""

    def __init__(self, tick_s: float, now_s: float) -> None:
        self._tick_s = tick_s
        self._last_s = now_s
        self._gaps: deque[tuple[float, float]] = deque()  # (began, ended)

    def expect(self, tick_s: float) -> None:
        """The next tick is due `tick_s` after the last one."""
        self._tick_s = tick_s

    def tick(self, now_s: float) -> float:
        """The loop runs. Returns for how many seconds it stood still just before."""
        stood_s = self._stood_s(now_s)
        if stood_s:
            self._gaps.append((now_s - stood_s, now_s))
        while self._gaps and now_s - self._gaps[0][1] > _KEPT_S:
            self._gaps.popleft()
        self._last_s = now_s
        return stood_s

    def stood_still_s(self, since_s: float, now_s: float) -> float:
        """How many seconds of the time from `since_s` to `now_s` the loop stood still."""
        gaps = list(self._gaps)
        ongoing_s = self._stood_s(now_s)  # the tick that would have noticed it may run after us
        if ongoing_s:
            gaps.append((now_s - ongoing_s, now_s))
        return sum(max(0.0, min(ended, now_s) - max(began, since_s)) for began, ended in gaps)

    def _stood_s(self, now_s: float) -> float:
        late_s = now_s - self._last_s - self._tick_s
        return late_s if late_s >= _NOTICED_S else 0.0
