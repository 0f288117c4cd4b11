"""Bounds that several processes keep together: what each has taken stands in memory that all of them see.

A process writes its own places alone and reads the others', so no lock is needed; two that take at the same
moment may pass a bound by what they take. One process alone uses `Alone` and shares nothing.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Protocol

_ENVIRONMENT: Final = "FAILOVER_SHARES"
_NUMBER_BYTES: Final = 8


class Bound(IntEnum):
    """What is bounded; the value is its row in the shared memory."""

    CONNECTIONS = 0
    HELD_BYTES = 1
    SPOOL_MEMORY_BYTES = 2
    SPOOL_DISK_BYTES = 3
    COPY_BYTES = 4


class Share(Protocol):
    """What this process has taken of one bound. Assign to `used`; `total` is what all have taken.

    `ahead` is how much more this one has than the one with the least.
    """

    used: int

    def total(self) -> int: ...
    def ahead(self) -> int: ...


class Alone:
    """The share of a process that has the bound for itself."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def total(self) -> int:
        return self.used

    def ahead(self) -> int:
        return 0


class OneOf:
    """One process's place in a row of places."""

    __slots__ = ("_mine", "_row")

    def __init__(self, row: memoryview[int], mine: int) -> None:
        """Begins at 0: a process that had this place before has died and holds nothing any more."""
        self._row = row
        self._mine = mine
        row[mine] = 0

    @property
    def used(self) -> int:
        return self._row[self._mine]

    @used.setter
    def used(self, count: int) -> None:
        # One aligned word: a reader sees the number of before or of now.
        self._row[self._mine] = count

    def total(self) -> int:
        return sum(self._row)

    def ahead(self) -> int:
        return self.used - min(self._row)


Shares = Mapping[Bound, Share]


def alone() -> Shares:
    """Return the shares of a process that shares nothing."""
    return {bound: Alone() for bound in Bound}


def create(processes: int) -> int:
    """Return the descriptor of places for `processes`; children get it by `bequeath`. Close it when done."""
    descriptor = os.memfd_create("failover-shares", 0)
    os.ftruncate(descriptor, len(Bound) * processes * _NUMBER_BYTES)
    return descriptor


def bequeath(descriptor: int, number: int) -> dict[str, str]:
    """Return the environment by which child `number`, from 0, finds the places that it inherits."""
    return {_ENVIRONMENT: f"{descriptor}:{number}"}


def inherited() -> Shares:
    """Return our shares of what a supervisor left us; without one we are alone."""
    text = os.environ.pop(_ENVIRONMENT, "")
    if not text:
        return alone()
    descriptor, number = (int(part) for part in text.split(":"))
    return opened(descriptor, number)


def opened(descriptor: int, number: int) -> Shares:
    """Return the shares of process `number`, and close the descriptor: the memory stays."""
    size = os.fstat(descriptor).st_size
    shared = memoryview(mmap.mmap(descriptor, size)).cast("q")
    os.close(descriptor)
    processes = len(shared) // len(Bound)
    return {bound: OneOf(shared[bound * processes : (bound + 1) * processes], number) for bound in Bound}
