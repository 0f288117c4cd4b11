"""What the router wants of the replicator: heard each second, kept, and read as which ways are open now.

The rule is in `permission`; here is only the last word, its age, and the loop that asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from failover.aio import Signal
from failover.clock import Clock
from failover.errors import ControlError
from failover.model import Phase
from failover.replication.permission import Permission, Word, interrupts, parse_word, permission
from failover.replication.ways import Way

_log = structlog.get_logger(__name__)
_HEAR_EVERY_S: Final = 1.0


class Orders:
    """`ways`: all that the primary has, DICOMweb first."""

    def __init__(
        self, ways: Sequence[Way], ask_route: Callable[[], Awaitable[dict[str, Any]]], clock: Clock
    ) -> None:
        self.ways = tuple(ways)
        self.changed = Signal()
        self._ask_route, self._clock = ask_route, clock
        self._word: Word | None = None
        self._heard_at_s = 0.0
        self._reason = ""
        self._asked = self._answered = 0
        self.interruptions = 0  # how often the primary may have lost something; only grows

    async def hear(self) -> None:
        """Ask the router each second, for ever."""
        while True:
            with suppress(ControlError):  # it is restarting: its last word counts for a while
                await self.hear_now()
            self._tell_change()  # also when nothing was heard: a word does not count for long
            await self._clock.sleep(_HEAR_EVERY_S)

    async def hear_now(self) -> None:
        """Ask the router once; what it says holds from here on. Raises ControlError: it did not answer."""
        self._asked += 1
        mine = self._asked
        answer = await self._ask_route()
        if mine < self._answered:
            return  # a later question has been answered: this word is from before an operator spoke
        self._answered = mine
        try:
            word = parse_word(answer)
            if interrupts(self._word, word):
                self.interruptions += 1
            self._word, self._heard_at_s = word, self._clock.monotonic()
        except (AttributeError, KeyError, ValueError, TypeError) as error:
            _log.error("the router's word cannot be read", error=type(error).__name__)
        self._tell_change()

    def _tell_change(self) -> None:
        reason = self.allowed.reason
        if reason != self._reason:
            _log.info("what replication may do", reason=reason)
            self._reason = reason
            self.changed.fire()

    @property
    def allowed(self) -> Permission:
        return permission(self._word, self._clock.monotonic() - self._heard_at_s)

    @property
    def open_ways(self) -> list[Way]:
        """The ways whose service is up; DICOMweb first."""
        allowed = self.allowed
        is_up = {"web": allowed.web, "dicom": allowed.dicom}
        return [way for way in self.ways if is_up[way.name]]

    @property
    def way(self) -> Way | None:
        """The way to use; None while the primary is not up, or must be left alone."""
        return next(iter(self.open_ways), None)

    def doubts_stores(self, service: str) -> bool:
        """Whether the router thinks that stores by `service` fail."""
        return self._word is not None and self._word.doubts_stores(service)

    def was_unreachable(self) -> None:
        """The primary did not answer us: it may come back with less, whatever the router saw."""
        self.interruptions += 1

    @property
    def vanished_decision(self) -> str | None:
        """What an operator decided on what the recheck misses: owed or deleted."""
        return self._word.vanished if self._word is not None else None

    @property
    def in_a_hurry(self) -> bool:
        """In backup mode the way back waits for proofs."""
        return self._word is not None and self._word.phase is not Phase.ON_PRIMARY
