"""Clocks that a test may give to what counts seconds: nobody sits out a limit, and nobody runs into one."""

from __future__ import annotations

from failover.clock import SystemClock


class FastClock(SystemClock):
    """Ten seconds pass in one: for limits of seconds that a test has to sit out."""

    def monotonic(self) -> float:
        return super().monotonic() * 10

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 10)


class SlowClock(SystemClock):
    """A second takes 100: for what must not wait for a limit of seconds, on a machine that is slow itself."""

    def monotonic(self) -> float:
        return super().monotonic() / 100

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds * 100)
