"""Bounds that several processes keep together: what each has taken stands in memory that all of them see.

A process writes its own places alone and reads the others', so no lock is needed; two that take at the same
moment may pass a bound by what they take. One process alone uses `Alone` and shares nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections import Counter
from enum import IntEnum
from typing import Final, Protocol

_ENVIRONMENT: Final = "FAILOVER_SHARES"
_NUMBER_BYTES: Final = 8
# Addresses whose connections are counted fall into so many places: two that share one are taken for one.
_PLACES: Final = 4096


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


class Crowd(Protocol):
    """How many of something each caller has, in all processes together."""

    def add(self, caller: str, more: int) -> None:
        """`more` of ours; negative when they have gone."""

    def of(self, caller: str) -> int: ...


class CrowdAlone:
    """The crowd of a process that shares nothing."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def add(self, caller: str, more: int) -> None:
        self._count[caller] += more
        if not self._count[caller]:
            del self._count[caller]

    def of(self, caller: str) -> int:
        return self._count[caller]


class CrowdOfAll:
    """Each process has its own places; those of all together say how many there are."""

    def __init__(self, places: memoryview[int], mine: int) -> None:
        """Begins at 0, as `OneOf` does."""
        self._places = places
        self._mine = mine * _PLACES
        for place in range(self._mine, self._mine + _PLACES):
            places[place] = 0

    def add(self, caller: str, more: int) -> None:
        self._places[self._mine + _place(caller)] += more

    def of(self, caller: str) -> int:
        return sum(self._places[_place(caller) :: _PLACES])


def _place(caller: str) -> int:
    return int.from_bytes(hashlib.blake2b(caller.encode(), digest_size=4).digest()) % _PLACES


class Shares(dict[Bound, Share]):
    """Our share of each bound, and the `crowd` of connections by caller."""

    def __init__(self, shares: dict[Bound, Share], crowd: Crowd) -> None:
        super().__init__(shares)
        self.crowd = crowd


def alone() -> Shares:
    """Return the shares of a process that shares nothing."""
    return Shares({bound: Alone() for bound in Bound}, CrowdAlone())


def create(processes: int) -> int:
    """Return the descriptor of places for `processes`; children get it by `bequeath`. Close it when done."""
    descriptor = os.memfd_create("failover-shares", 0)
    os.ftruncate(descriptor, (len(Bound) + _PLACES) * processes * _NUMBER_BYTES)
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
    processes = len(shared) // (len(Bound) + _PLACES)
    rows = {bound: OneOf(shared[bound * processes : (bound + 1) * processes], number) for bound in Bound}
    return Shares(dict(rows), CrowdOfAll(shared[len(Bound) * processes :], number))
