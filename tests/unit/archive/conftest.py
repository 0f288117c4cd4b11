"""An archive without listeners: index, instances, ledger and janitor on a folder of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import spawn
from failover.archive.index import Index
from failover.archive.instances import Instances, Stored
from failover.archive.janitor import Janitor
from failover.archive.ledger import Ledger
from failover.archive.matches import Match
from failover.archive.queries import Level, make_query
from failover.archive.retention import Policy
from failover.archive.troubles import Troubles
from failover.clock import ManualClock
from failover.metrics import ArchiveMetrics
from failover.model import Origin

_T = TypeVar("_T")


@dataclass
class Room:
    """What the scenes work in."""

    data_dir: Path
    clock: ManualClock
    index: Index
    instances: Instances
    ledger: Ledger
    janitor: Janitor
    troubles: Troubles

    async def store(self, content: bytes | Path, origin: Origin = Origin.CALLER) -> Stored:
        return await self.instances.store(content, origin, "CT1")

    async def find(self, level: Level = Level.STUDY, **keys: str) -> list[Match]:
        """Search by keyword."""
        from pydicom.datadict import tag_for_keyword

        return await self.index.search(make_query(level, {tag_for_keyword(k): v for k, v in keys.items()}))

    def files(self) -> list[Path]:
        """All files below the data folder but index and journal."""
        return sorted(
            p
            for p in self.data_dir.rglob("*")
            if p.is_file() and not p.name.startswith(("index.sqlite", "journal-"))
        )

    async def finish(self, work: Coroutine[Any, Any, _T], pause_s: float) -> _T:
        """Run `work`, which pauses by our clock for `pause_s` at a time."""
        task = spawn(work, name="a scene")
        while not task.done():
            await self.clock.advance(pause_s)
        return await task

    def close(self) -> None:
        self.instances.close()
        self.index.close()


MakeRoom = Callable[..., Room]


@pytest.fixture
async def make_room(tmp_path: Path) -> AsyncIterator[MakeRoom]:
    rooms: list[Room] = []

    def make(
        *,
        has_primary: bool = True,
        min_free_bytes: int = 0,
        max_bytes: int = 10**12,
        days: int = 90,
        clock: ManualClock | None = None,
    ) -> Room:
        data_dir = tmp_path / "archive"
        clock = clock or ManualClock()
        metrics = ArchiveMetrics(CollectorRegistry())
        index = Index(data_dir, has_primary=has_primary)
        instances = Instances(
            data_dir, index, metrics, clock, owes=has_primary, min_free_bytes=min_free_bytes
        )
        policy = Policy(days, max_bytes, min_free_bytes, needs_proof=has_primary)
        troubles = Troubles(metrics)
        janitor = Janitor(data_dir, index, policy, metrics, clock, troubles)
        room = Room(data_dir, clock, index, instances, Ledger(index, clock), janitor, troubles)
        rooms.append(room)
        return room

    yield make
    for room in rooms:
        room.close()


@pytest.fixture
async def room(make_room: MakeRoom) -> Room:
    return make_room()
