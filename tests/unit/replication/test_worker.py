"""What the loop that fetches does with a primary that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from failover.clock import ManualClock
from failover.errors import UpstreamUnreachable
from failover.metrics import ReplicatorMetrics
from failover.replication.orders import Orders
from failover.replication.worker import Worker


@dataclass
class _Study:
    study_instance_uid: str = "1.2"


class _OneStudyToFetch:
    def jobs(self, limit: int, without: set[str]) -> list[_Study]:
        return [] if "1.2" in without else [_Study()]


class _Way:
    name = "web"


class _NobodyThere:
    async def studies(self, uids: list[str]) -> Any:
        raise UpstreamUnreachable("nobody there")


@pytest.fixture
def lines() -> Iterator[Any]:
    """What is logged, down to info."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(20))
    try:
        with capture_logs() as found:
            yield found
    finally:
        structlog.configure(wrapper_class=before)


async def test_a_study_that_cannot_be_fetched_is_one_warning(lines: Any) -> None:
    """A refused connection is what an outage looks like: no error, no traceback."""
    clock, registry = ManualClock(), CollectorRegistry()
    way: Any = _Way()
    inventory: Any = _OneStudyToFetch()
    archive: Any = _NobodyThere()
    unused: Any = None

    async def route() -> dict[str, Any]:
        return {"mode": "auto", "phase": "on_primary", "primary": {"web": "up"}}

    orders = Orders([way], route, clock)
    await orders.hear_now()
    metrics = ReplicatorMetrics(registry)
    worker = Worker(orders, unused, unused, archive, inventory, unused, unused, metrics, clock)
    lines.clear()
    await worker._fetch_next()
    await clock.advance(0.0)
    assert [(line["log_level"], line.get("exc_info")) for line in lines] == [("warning", None)]
    assert registry.get_sample_value("failover_replication_failures_total", {"step": "fetch"}) == 1
    assert worker._next_job() is None  # it waits for its next try
