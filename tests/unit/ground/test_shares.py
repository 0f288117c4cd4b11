"""Bounds that several processes keep together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from failover import shares
from failover.errors import SpoolFull
from failover.shares import Bound
from failover.spool import Spool


async def test_two_processes_keep_one_bound_and_a_new_one_begins_at_nothing(tmp_path: Path) -> None:
    descriptor = shares.create(2)
    mine, theirs = (shares.opened(os.dup(descriptor), number) for number in (0, 1))
    here = Spool(tmp_path / "spool", memory_bytes=10, disk_bytes=0, shares=mine)
    there = Spool(tmp_path / "spool", memory_bytes=10, disk_bytes=0, shares=theirs)
    body = here.open()
    body.append(b"1234567")
    with pytest.raises(SpoolFull):
        there.open().append(b"1234")
    there.open().append(b"123")
    assert (here.memory_used_bytes, there.memory_used_bytes) == (7, 3)
    assert mine[Bound.SPOOL_MEMORY_BYTES].total() == 10
    assert mine[Bound.HELD_BYTES].total() == 0
    assert [one[Bound.SPOOL_MEMORY_BYTES].ahead() for one in (mine, theirs)] == [4, 0]

    # The second is killed and comes back: what it had taken is free again.
    shares.opened(descriptor, 1)
    assert mine[Bound.SPOOL_MEMORY_BYTES].total() == 7
    body.close()
    assert theirs[Bound.SPOOL_MEMORY_BYTES].total() == 0


def test_a_crowd_is_counted_over_all_processes_and_a_dead_one_has_none() -> None:
    descriptor = shares.create(2)
    mine, theirs = (shares.opened(os.dup(descriptor), number).crowd for number in (0, 1))
    mine.add("10.1.2.3", 2)
    theirs.add("10.1.2.3", 1)
    theirs.add("10.1.2.4", 1)
    assert [one.of("10.1.2.3") for one in (mine, theirs)] == [3, 3]
    mine.add("10.1.2.3", -1)
    assert theirs.of("10.1.2.3") == 2
    shares.opened(descriptor, 1)
    assert [mine.of(caller) for caller in ("10.1.2.3", "10.1.2.4")] == [1, 0]


def test_without_a_supervisor_a_process_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAILOVER_SHARES", raising=False)
    found = shares.inherited()
    found[Bound.CONNECTIONS].used += 2
    assert [found[bound].total() for bound in Bound] == [2, 0, 0, 0, 0]
    found.crowd.add("10.1.2.3", 2)
    found.crowd.add("10.1.2.3", -1)
    assert [found.crowd.of(caller) for caller in ("10.1.2.3", "10.1.2.4")] == [1, 0]
