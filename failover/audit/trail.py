"""The one audit trail: appended, never changed, on disk line by line as JSON. Written by the router alone.

`add` gives an entry its number at once; `written` returns when all entries so far are on disk. A disk that
is full or slow delays no decision: entries wait in memory, and are written when there is room again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Final

import structlog

from failover import durable
from failover.aio import Signal, cancel_and_wait, spawn
from failover.audit.events import Event, EventKind, parse_event
from failover.clock import Clock, rfc3339
from failover.errors import StorageError

_log = structlog.get_logger(__name__)
_KEPT: Final = 10_000  # entries in memory; older ones are read from the file when asked for
_RETRY_S: Final = 1.0


class Trail:
    """The entries, oldest first. `appended` fires at each."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Read what is there. Raises StorageError when the file cannot be read or made good."""
        self._path = path
        self._clock = clock
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._unwritten: deque[Event] = deque()
        self._wanted = Signal()
        self._progress = Signal()
        self._writer: asyncio.Task[None] | None = None
        self._half_a_line = False
        self.problem: str | None = None
        """Why the last entries could not be written, None when they were."""
        self.appended = Signal()
        try:
            durable.make_folder(path.parent)
            if path.exists():
                self._read()
        except OSError as error:
            raise durable.storage_error(error, path) from error
        self._next_id = self._recent[-1].id + 1 if self._recent else 1

    def start(self) -> None:
        """Begin to write in the background."""
        if self._writer is None:
            self._writer = spawn(self._write(), name="audit trail")

    async def stop(self, timeout_s: float = 2.0) -> None:
        """Write what is left, for at most `timeout_s` seconds."""
        await self.written(timeout_s=timeout_s)
        await cancel_and_wait(self._writer)
        self._writer = None

    def add(
        self,
        kind: EventKind,
        code: str,
        reason: str,
        *,
        service: str | None = None,
        from_: str | None = None,
        to: str | None = None,
        actor: str | None = None,
    ) -> Event:
        """Append one entry and return it. It is on disk when `written` says so."""
        event = Event(
            self._next_id, rfc3339(self._clock.wall()), kind, service, from_, to, code, reason, actor
        )
        self._next_id += 1
        self._recent.append(event)
        self._unwritten.append(event)
        self._wanted.fire()
        self.appended.fire()
        return event

    async def written(self, *, timeout_s: float) -> bool:
        """Return True once all entries so far are on disk, False after `timeout_s` seconds."""
        last = self._next_id - 1
        return await self._progress.wait_until(
            lambda: not self._unwritten or self._unwritten[0].id > last, timeout_s=timeout_s
        )

    @property
    def unwritten(self) -> int:
        """How many entries are not on disk yet."""
        return len(self._unwritten)

    def events(self, since: int) -> list[Event]:
        """Return the entries whose id is greater than `since`, oldest first."""
        if self._recent and since + 1 < self._recent[0].id:
            older = [event for event in self._entries() if since < event.id < self._recent[0].id]
            return older + list(self._recent)
        return [event for event in self._recent if event.id > since]

    def _read(self) -> None:
        for event in self._entries():
            self._recent.append(event)
        with self._path.open("rb") as file:
            # A crash can leave half a line: the next entry must not be glued to it.
            self._half_a_line = bool(file.seek(0, 2)) and (file.seek(-1, 2), file.read(1))[1] != b"\n"

    def _entries(self) -> list[Event]:
        with self._path.open("rb") as file:
            return [event for line in file if (event := parse_event(line)) is not None]

    async def _write(self) -> None:
        while True:
            while not self._unwritten:
                await self._wanted.wait()
            batch = list(self._unwritten)
            lines = (b"\n" if self._half_a_line else b"") + b"\n".join(event.line() for event in batch)
            try:
                await asyncio.to_thread(durable.append_line, self._path, lines)
            except StorageError as error:
                if self.problem is None:
                    _log.error("audit trail not written", error=str(error), waiting=len(batch))
                self.problem = str(error)
                await self._clock.sleep(_RETRY_S)
                continue
            self.problem, self._half_a_line = None, False
            for _ in batch:
                self._unwritten.popleft()
            self._progress.fire()
