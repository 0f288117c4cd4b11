"""Does a search find what is known to be there? The one probe that sees an empty database.

Answers it over a `Searcher` (QIDO or C-FIND). Learns a few studies at the first search. One that is not
found is a failure only when two other known ones are not found either: it may have been deleted or merged.
Who wants a login and never showed a study without one passes: it answers, and more cannot be told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final, Protocol

from failover.clock import Clock
from failover.errors import LoginWanted, UpstreamBroke
from failover.model import Part

KNOWN_MOST: Final = 10
_OTHERS: Final = 2
# How far back the learning search looks, in days: a whole archive must not be listed for ten studies.
_DAYS: Final = (1, 7, 90, None)


class Searcher(Protocol):
    """A search at study level."""

    @property
    def name(self) -> str: ...

    async def holds(self, study_instance_uid: str) -> bool:
        """Whether a search for this study finds it. Raises UpstreamError."""

    async def recent(self, dates: str | None, limit: int) -> list[str]:
        """Return up to `limit` study instance UIDs in this range of study dates. Raises UpstreamError."""


class KnownStudies:
    """Studies that this side has shown. `seen` is the wall time at which it last showed one."""

    def __init__(self, uids: Iterable[str] = (), seen: datetime | None = None) -> None:
        self._uids: deque[str] = deque(uids)
        self.seen = seen

    def __len__(self) -> int:
        return len(self._uids)

    @property
    def uids(self) -> list[str]:
        return list(self._uids)

    def learn(self, uids: list[str]) -> None:
        for uid in uids:
            if uid and uid not in self._uids:
                self._uids.append(uid)
        while len(self._uids) > KNOWN_MOST:
            self._uids.popleft()

    def next(self) -> str | None:
        """Return another one each time."""
        if not self._uids:
            return None
        self._uids.rotate(-1)
        return self._uids[-1]

    def others(self, than: str) -> list[str]:
        return [uid for uid in self._uids if uid != than][:_OTHERS]

    def forget(self, uid: str) -> None:
        if uid in self._uids:
            self._uids.remove(uid)


class SearchProbe:
    """A search for one known study; without one, a search that learns some and passes when it is answered."""

    part = Part.QUERY

    def __init__(self, searcher: Searcher, known: KnownStudies, clock: Clock) -> None:
        self._searcher = searcher
        self._known = known
        self._clock = clock
        self._empty_before = False
        self.name = searcher.name

    async def ask(self) -> str:
        uid = self._known.next()
        if uid is None:
            try:
                return await self._learn()
            except LoginWanted:
                # It answers, and has never let us in: its logins work, of its database we know nothing.
                return f"{self.name} wants a login, no study is known"
        if await self._searcher.holds(uid):
            self._known.seen = self._clock.wall()
            return f"{self.name} finds a known study"
        others = self._known.others(uid)
        for other in others:
            if await self._searcher.holds(other):
                self._known.forget(uid)
                self._known.seen = self._clock.wall()
                return f"{self.name} finds a known study"
        if len(others) < _OTHERS:
            # Too few are known to tell a deleted study from an empty database: begin anew.
            for gone in (uid, *others):
                self._known.forget(gone)
            return f"{self.name} is answered, the few known studies are gone"
        raise UpstreamBroke(f"{self.name} finds none of {1 + len(others)} known studies")

    async def _learn(self) -> str:
        today = self._clock.wall().date()
        for days in _DAYS[-1:] if self._empty_before else _DAYS:
            dates = None if days is None else f"{today - timedelta(days=days):%Y%m%d}-{today:%Y%m%d}"
            self._known.learn(await self._searcher.recent(dates, KNOWN_MOST))
            if len(self._known) > _OTHERS:
                break
        self._empty_before = not self._known
        if self._known:
            self._known.seen = self._clock.wall()
        return f"{self.name} is answered" + ("" if self._known else ", no study is known")
