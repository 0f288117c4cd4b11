"""What a process says of its own footprint."""

from __future__ import annotations

import asyncio
import os

from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.footprint import Footprint


async def test_a_descriptor_and_a_task_more_are_seen_and_gone_again() -> None:
    registry = CollectorRegistry()
    Footprint(registry, "router")

    def now(name: str) -> float:
        value = registry.get_sample_value(f"failover_router_{name}")
        assert value is not None
        return value

    descriptors, tasks = now("open_descriptors"), now("tasks")
    opened = os.open("/dev/null", os.O_RDONLY)
    task = spawn(asyncio.Event().wait(), name="waits")
    assert (now("open_descriptors"), now("tasks")) == (descriptors + 1, tasks + 1)
    os.close(opened)
    await cancel_and_wait(task)
    assert (now("open_descriptors"), now("tasks")) == (descriptors, tasks)
    assert descriptors < now("descriptor_limit")
    assert now("resident_bytes") > 1e6


def test_without_a_loop_the_number_of_tasks_is_absent() -> None:
    registry = CollectorRegistry()
    Footprint(registry, "archive")
    assert registry.get_sample_value("failover_archive_tasks") is None
    assert registry.get_sample_value("failover_archive_open_descriptors") is not None
