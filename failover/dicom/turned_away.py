"""Who is turned away for want of room, counted for whoever wants to know, and said once per cause and minute.

A flood of associations would else fill the log, and its victims would be nowhere to be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import structlog

from failover.clock import Clock
from failover.seldom import Seldom

_log = structlog.get_logger(__name__)


class Cause(StrEnum):
    """The limit that was reached. Its word is that of the configuration, below `listen.dicom`."""

    MAX_ASSOCIATIONS = "max_associations"
    RESERVE = "reserve"  # only known AE titles may take what is left
    MAX_PER_ADDRESS = "max_per_address"
    MAX_PER_AE_TITLE = "max_per_ae_title"
    HALF_OPEN = "half_open"  # connections that send no A-ASSOCIATE-RQ: the oldest one is closed
    STOPPING = "stopping"


class TurnedAway:
    """Counts by cause."""

    def __init__(self, acceptor: str, clock: Clock, told: Callable[[Cause], None] | None) -> None:
        self._acceptor = acceptor
        self._told = told
        self._seldom = Seldom(clock)

    def note(self, cause: Cause, peer: str, calling_ae: str = "") -> int:
        """One more. Returns of how many it told the log, 0 when it has spoken of this cause lately."""
        if self._told is not None:
            self._told(cause)
        count = self._seldom.due(cause)
        if not count:
            return 0
        _log.warning(
            "turned away for want of room",
            acceptor=self._acceptor,
            limit=str(cause),
            count=count,
            last_peer=peer,
            last_calling=calling_ae,
        )
        return count
