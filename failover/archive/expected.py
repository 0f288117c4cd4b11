"""Stores that are none of a caller's: those we have asked the primary for by C-MOVE, and the router's copies.

Both are known by a Move Originator that our other processes have told over the control channel. It is held in
memory: after a restart such a store counts as a caller's, is owed, and the primary proves it at once.
"""

from __future__ import annotations

from typing import Final

from failover.clock import Clock
from failover.control import Json
from failover.errors import ControlError
from failover.model import Origin

# Replicator and router have a few at a time; more is a fault of ours, and the oldest go.
_MOST: Final = 10_000


class ExpectedMoves:
    """Move Originators (AE title, message ID) that our own processes have told, and what they stand for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[Origin, float]] = {}

    def expect(
        self, originator_ae: str, message_id: int, for_s: float, origin: Origin = Origin.REPLICATED
    ) -> None:
        """For `for_s` seconds, stores with this Move Originator have come in this way."""
        self._known.pop((originator_ae, message_id), None)
        while len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[originator_ae, message_id] = origin, self._clock.monotonic() + for_s

    def origin(self, originator_ae: str, originator_message_id: int | None) -> Origin:
        """Return how a store with this Move Originator came in: by a caller, unless we know better."""
        if originator_message_id is None:
            return Origin.CALLER
        origin, until_s = self._known.get((originator_ae, originator_message_id), (Origin.CALLER, 0.0))
        return origin if self._clock.monotonic() < until_s else Origin.CALLER

    async def expect_copies(self, question: Json) -> Json:
        """The method `copy.expect`: the router will copy what the primary has acknowledged."""
        try:
            originator, message_id = str(question["originator_ae"]), int(question["message_id"])
            for_s = float(question["for_s"])
        except (KeyError, TypeError, ValueError) as error:
            raise ControlError("originator_ae, message_id and for_s must be given") from error
        self.expect(originator, message_id, for_s, Origin.COPIED)
        return {}
