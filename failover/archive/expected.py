"""Stores that we have asked the primary for by C-MOVE: they are replicated, all others are a caller's.

Held in memory: after a restart such a store counts as a caller's, is owed, and the primary proves it at once.
"""

from __future__ import annotations

from typing import Final

from failover.clock import Clock

# The replicator has a few at a time; more is a fault of ours, and the oldest go.
_MOST: Final = 10_000


class ExpectedMoves:
    """(calling AE title, message ID) of C-MOVE requests of our own that are under way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[tuple[str, int], float] = {}

    def expect(self, calling_ae: str, message_id: int, for_s: float) -> None:
        """For `for_s` seconds, sub-operations with this Move Originator are answers to us."""
        self._until_s.pop((calling_ae, message_id), None)
        while len(self._until_s) >= _MOST:
            del self._until_s[next(iter(self._until_s))]
        self._until_s[calling_ae, message_id] = self._clock.monotonic() + for_s

    def is_expected(self, originator_ae: str, originator_message_id: int | None) -> bool:
        """Return whether a C-STORE-RQ with this Move Originator answers a request of ours."""
        if originator_message_id is None:
            return False
        until_s = self._until_s.get((originator_ae, originator_message_id))
        return until_s is not None and self._clock.monotonic() < until_s
