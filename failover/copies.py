"""The copy on the way, as far as web and DICOM share it: what waits to be sent to the backup, and its bounds.

A copy is never a debt and never a promise: what is dropped, the replicator fetches. How a copy is sent, and
how the embedded archive knows it from a caller's store, is told in `relay.copies` and `proxy.copies`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from prometheus_client import Counter

from failover.aio import Signal
from failover.shares import Alone, Share
from failover.spool import KeptBody

ACKNOWLEDGEMENT_WAITS_S: Final = 1.0  # in failing_back; then the caller gets it without the copy
_WAITING: Final = 64  # copies beyond this are dropped: the backup is too slow
_WAITING_BYTES: Final = 512 * 2**20  # the same; they take room in the spool


@dataclass(eq=False, slots=True)
class Copy:
    """One store on its way to the backup. `over`: it is there, or will not be."""

    body: KeptBody
    over: bool = field(default=False, init=False)
    _ended: Signal = field(default_factory=Signal, init=False)

    async def wait(self) -> None:
        """Return when it is over, or the acknowledgement may wait no longer."""
        await self._ended.wait_until(lambda: self.over, timeout_s=ACKNOWLEDGEMENT_WAITS_S)

    def end(self) -> None:
        """Whoever sent it is done with it."""
        self.body.close()
        self.over = True
        self._ended.fire()


_C = TypeVar("_C", bound=Copy)


class WaitingCopies(Generic[_C]):
    """Those that are not being sent yet, oldest first. `made` counts what becomes of each, by `result`."""

    def __init__(self, made: Counter, waiting_bytes: Share | None = None) -> None:
        """`waiting_bytes`: what waits here and in other processes; None: we are alone."""
        self._made = made
        self._waiting: deque[_C] = deque()
        self._bytes = waiting_bytes or Alone()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[_C]:
        return iter(self._waiting)

    def add(self, copy: _C) -> bool:
        """Take over its body. False: dropped, and the body stays the caller's."""
        length = copy.body.length_bytes
        too_large = bool(self._waiting) and self._bytes.total() + length > _WAITING_BYTES
        if len(self._waiting) >= _WAITING or too_large:
            self.drop()
            return False
        copy.body.on_change = None
        self._waiting.append(copy)
        self._bytes.used += length
        return True

    def take(self, copy: _C) -> _C:
        """Let go of one that is sent now."""
        self._waiting.remove(copy)
        self._bytes.used -= copy.body.length_bytes
        return copy

    def drop(self) -> None:
        """Count a copy that is not made."""
        self._made.labels("dropped").inc()

    def end(self, copy: Copy, *, is_there: bool) -> None:
        """Count what became of one that was sent."""
        self._made.labels("copied" if is_there else "failed").inc()
        copy.end()

    def clear(self) -> None:
        """Drop all: what is left the replicator fetches."""
        while self._waiting:
            self.take(self._waiting[0]).body.close()
            self.drop()
