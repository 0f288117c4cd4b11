"""The known studies over a restart: an emptied database is then noticed by the first search, not never.

One file in `state_dir`, a list for each side by its address, so that another system under the old name is
not asked for studies that it never had. What was not seen for a week is no evidence and is not read. The
embedded archive has no list: it tells itself what it holds. Written in a thread, never in the checker's loop.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from failover.clock import Clock
from failover.durable import write_file
from failover.errors import StorageError
from failover.health.search import KNOWN_MOST, KnownStudies

_log = structlog.get_logger(__name__)

EVIDENCE_FOR: Final = timedelta(days=7)
SEEN_AGAIN: Final = timedelta(hours=1)  # so old the written date may be, while nothing else changes
SAVE_EVERY_S: Final = 5.0


class KnownFile:
    """Hands out `KnownStudies` that begin with what was written, and writes what they became."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._sides: dict[str, KnownStudies] = {}
        self._written: dict[str, tuple[list[str], datetime | None]] = {}

    def known(self, side: str) -> KnownStudies:
        """Return what is known of `side`, the address of one service: the same each time."""
        if side not in self._sides:
            uids, seen = self._read(side)
            self._sides[side] = KnownStudies(uids, seen)
            self._written[side] = (sorted(uids), seen)
        return self._sides[side]

    async def keep(self) -> None:
        """Write what changed, until cancelled."""
        while True:
            await self._clock.sleep(SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Write what changed. A disk that is not willing is told, and tried again at the next call."""
        now = {side: (sorted(known.uids), known.seen) for side, known in self._sides.items()}
        if not any(_differs(self._written[side], entry) for side, entry in now.items()):
            return
        content = {
            side: {"studies": uids, "seen": None if seen is None else seen.isoformat()}
            for side, (uids, seen) in now.items()
        }
        try:
            await asyncio.to_thread(write_file, self._path, json.dumps(content, indent=1).encode())
        except StorageError as error:
            _log.warning("known studies not written", error=str(error))
        else:
            self._written = now

    def _read(self, side: str) -> tuple[list[str], datetime | None]:
        try:
            entry = json.loads(self._path.read_bytes()).get(side)
            return ([], None) if entry is None else _entry(entry, self._clock.wall())
        except FileNotFoundError:
            return [], None
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            # It is learnt again: only an emptied database would go unnoticed meanwhile.
            _log.warning("known studies unreadable", error=type(error).__name__)
            return [], None


def _entry(entry: dict[str, Any], now: datetime) -> tuple[list[str], datetime | None]:
    seen = datetime.fromisoformat(entry["seen"])
    if not abs(now - seen) <= EVIDENCE_FOR:
        return [], None
    return [str(uid) for uid in entry["studies"]][:KNOWN_MOST], seen


def _differs(written: tuple[list[str], datetime | None], now: tuple[list[str], datetime | None]) -> bool:
    if written[0] != now[0]:
        return True
    before, seen = written[1], now[1]
    return seen is not None and (before is None or abs(seen - before) >= SEEN_AGAIN)
