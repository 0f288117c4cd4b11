"""For whom the primary is probed, of those whom it accepted, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from failover.clock import ManualClock
from failover.credentials.remembered import Remembered
from failover.errors import UpstreamBroke
from failover.proxy.admission import Admission, Candidate

AFTER_TROUBLE_S = 10.0


@dataclass
class Stage:
    """A primary that refuses strangers. `open_`: it answers now; `broken`: it gives no answer at all."""

    clock: ManualClock
    remembered: Remembered
    admission: Admission
    asked: list[str] = field(default_factory=list)
    """The name of each probe."""
    open_: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False

    async def ask(self, path: str, fields: Mapping[str, str]) -> int:
        if "Cookie" not in fields:
            self.asked.append(fields["Host"])
        await self.open_.wait()
        if self.broken:
            raise UpstreamBroke("no answer")
        return 401

    async def accepted(self, digest: bytes, host: str = "pacs") -> None:
        """One second later the primary has accepted it."""
        await self.clock.advance(1)
        asked_s = self.clock.monotonic()
        self.admission.candidate(Candidate(host.encode(), b"X-Forwarded-For: 10.0.0.7\r\n", digest, asked_s))
        await self.clock.advance(0)


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    clock = ManualClock()
    remembered = Remembered(folder, b"k" * 32, clock, hold_s=43200)

    async def ask(path: str, fields: Mapping[str, str]) -> int:
        return await made.ask(path, fields)

    admission = Admission(clock, remembered=remembered, paths=["/me"], ask=ask)
    made = Stage(clock, remembered, admission)
    admission.start()
    try:
        yield made
    finally:
        await admission.stop()


async def test_who_is_accepted_while_the_probe_is_under_way_is_told_by_the_next_one(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.accepted(b"first")
        await s.accepted(b"second")  # alike; the door may have been opened since the probe began
        s.open_.set()
        await s.clock.advance(0)
        assert [s.remembered.holds(digest) for digest in (b"first", b"second")] == [True, False]
        await s.clock.advance(1)
        assert s.remembered.holds(b"second")
        assert s.asked == ["pacs", "pacs"]


async def test_who_is_accepted_and_refused_in_turn_leaves_nothing_to_probe(tmp_path: Path) -> None:
    """Given a primary that lets in and refuses, while no probe becomes clear."""
    async with stage(tmp_path) as s:
        s.broken = True
        s.open_.set()
        for number in range(20):
            await s.accepted(b"shown", f"pacs-{number}")
            s.remembered.refused(b"shown")
        await s.clock.advance(AFTER_TROUBLE_S)
        seen = len(s.asked)
        s.broken = False
        await s.clock.advance(10 * AFTER_TROUBLE_S)
        assert len(s.asked) == seen  # nobody waits for one
        await s.accepted(b"another", "elsewhere")
        assert s.remembered.holds(b"another")
        assert s.asked[seen:] == ["elsewhere"]
