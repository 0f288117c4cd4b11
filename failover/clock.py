"""Time as an input. The only module that reads the machine's clocks."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What time it is, and waiting for it to pass."""

    def monotonic(self) -> float:
        """Seconds since some point; never goes back. For all intervals and limits."""

    def wall(self) -> datetime:
        """The time of day, aware, in UTC. For people and records, never for a decision."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`; at once when they are not positive."""


class SystemClock:
    """The machine's clocks."""

    # The bare function: the data path asks for the time several times per request.
    monotonic = staticmethod(time.monotonic)

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class ManualClock:
    """A clock that a test moves by hand. Sleepers wake in the order of their time."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._now_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self._now_s

    def wall(self) -> datetime:
        return self._start + timedelta(seconds=self._now_s)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now_s + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass; each sleeper whose time has come runs before the next one wakes."""
        target = self._now_s + seconds
        while True:
            due = [s for s in self._sleepers if s[0] <= target and not s[1].done()]
            if not due:
                break
            wake_at, future = min(due, key=lambda s: s[0])
            self._now_s = max(self._now_s, wake_at)
            self._sleepers.remove((wake_at, future))
            future.set_result(None)
            for _ in range(20):  # let what was woken run on, and perhaps sleep again
                await asyncio.sleep(0)
        self._now_s = target
        self._sleepers = [s for s in self._sleepers if not s[1].done()]
        for _ in range(20):
            await asyncio.sleep(0)


def rfc3339(moment: datetime) -> str:
    """Return an aware `moment` as RFC 3339 in UTC with milliseconds: 2026-01-02T03:04:05.678Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """Return the aware moment that `text` names. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"no time zone in {text!r}")
    return moment.astimezone(UTC)
