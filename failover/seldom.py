"""Whether to speak of something again: once a minute for each key, with how often it happened since.

What peers can cause at will would else fill the log. The keys are bounded: beyond that they share one.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from failover.clock import Clock

EVERY_S: Final = 60.0
_MOST_KEYS: Final = 64


class Seldom:
    """For one kind of log line; each key is one reason for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said_s: dict[str, float] = {}
        self._since: Counter[str] = Counter()

    def due(self, key: str) -> int:
        """One more. Returns of how many to speak now, 0 when this key was spoken of within the minute."""
        now_s = self._clock.monotonic()
        if key not in self._said_s and len(self._said_s) >= _MOST_KEYS:
            self._forget(now_s)
            if len(self._said_s) >= _MOST_KEYS:
                key = ""
        self._since[key] += 1
        said_s = self._said_s.get(key)
        if said_s is not None and now_s - said_s < EVERY_S:
            return 0
        self._said_s[key] = now_s
        return self._since.pop(key)

    def _forget(self, now_s: float) -> None:
        for key in [key for key, said_s in self._said_s.items() if now_s - said_s >= EVERY_S]:
            del self._said_s[key]
            self._since.pop(key, None)
