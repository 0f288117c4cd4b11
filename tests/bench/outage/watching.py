"""What a run is told of the product and of itself: when a phase began, counters, our own standstill."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from failover.aio import spawn
from failover.clock import SystemClock
from tests.system.site import Site

_LOOK_EVERY_S: Final = 0.010
_TOLD_S: Final = 0.050  # less is the ordinary lateness of a loop with a few hundred callers
_clock = SystemClock()


def entered_s(site: Site, service: str, phase: str) -> float | None:
    """Return the monotonic time at which `service` last entered `phase`; None: it never did."""
    times = [one["time"] for one in site.transitions() if (one["service"], one["to"]) == (service, phase)]
    return monotonic_of(times[-1]) if times else None


def monotonic_of(time: str) -> float:
    """Return the monotonic time of a time of the admin API."""
    ago = _clock.wall() - datetime.fromisoformat(time)
    return _clock.monotonic() - ago.total_seconds()


def counted(site: Site, metric: str) -> float:
    """Return the sum of a counter over its labels."""
    text = site.admin("GET", "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.M))


@contextmanager
def standing_still(notes: list[str], what: str) -> Iterator[None]:
    """Note how long this loop stood still at most, if it did: the callers' times hold that too."""
    longest_s = 0.0

    async def look() -> None:
        nonlocal longest_s
        while True:
            due_s = _clock.monotonic() + _LOOK_EVERY_S
            await _clock.sleep(_LOOK_EVERY_S)
            longest_s = max(longest_s, _clock.monotonic() - due_s)

    task: asyncio.Task[None] = spawn(look(), name="own loop")
    try:
        yield
    finally:
        task.cancel()
        if longest_s >= _TOLD_S:
            notes.append(f"{what} stood still for up to {longest_s:.2f} s")
