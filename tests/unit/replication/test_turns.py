from __future__ import annotations

import sqlite3

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import spawn
from failover.clock import ManualClock
from failover.errors import UpstreamBroke
from failover.metrics import ReplicatorMetrics
from failover.replication.turns import turn


@pytest.mark.parametrize(
    "error", [UpstreamBroke("reset"), sqlite3.OperationalError("database or disk is full"), KeyError("bug")]
)
async def test_a_turn_is_done_again_whatever_it_met(error: Exception) -> None:
    """A loop of the replicator that ended would be missed by nobody."""
    clock, registry = ManualClock(), CollectorRegistry()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise error

    task = spawn(turn("pay", work, ReplicatorMetrics(registry), clock), name="turn")
    while not task.done():
        await clock.advance(10.0)
    await task
    assert tries == 3
    assert registry.get_sample_value("failover_replication_failures_total", {"step": "pay"}) == 2
