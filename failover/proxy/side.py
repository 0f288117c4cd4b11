"""One upstream as the proxy has it: what it is, the connections to it, what live traffic learns of it."""

from __future__ import annotations

from failover.health.passive import LiveTraffic
from failover.proxy.pool import Pool
from failover.proxy.upstreams import WebUpstream


class Side:
    __slots__ = ("flights", "pool", "traffic", "upstream")

    def __init__(self, upstream: WebUpstream, pool: Pool, traffic: LiveTraffic) -> None:
        self.upstream = upstream
        self.pool = pool
        self.traffic = traffic
        self.flights = 0
        """How many requests, answers and tunnels are there now."""
