"""The proxy as one thing: accepts callers, knows both upstreams, watches the route, ends in order.

Who answers a request is decided in `retry` (pure) and carried out by `exchange`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from failover.clock import Clock
from failover.config.schema import ListenWeb
from failover.health.passive import LiveTraffic
from failover.metrics import RouterMetrics
from failover.model import UpstreamName
from failover.proxy.upstreams import WebUpstream
from failover.routing.board import RouteBoard
from failover.spool import Spool

__all__ = ["Proxy", "WebUpstream"]


class Proxy:
    """The HTTP reverse proxy on `listen.web`."""

    def __init__(
        self,
        listen: ListenWeb,
        upstreams: Mapping[UpstreamName, WebUpstream],
        board: RouteBoard,
        traffic: Mapping[UpstreamName, LiveTraffic],
        admits: Callable[[str], bool],
        metrics: RouterMetrics,
        clock: Clock,
        spool: Spool,
    ) -> None:
        self.last_store_on_backup_s: float | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve callers on `sock`, a listening socket, until `stop`."""
        raise NotImplementedError

    async def stop(self, grace_s: float) -> None:
        """Accept nothing new, let requests end for `grace_s` seconds, then break what is left."""
        raise NotImplementedError

    def in_flight(self, upstream: UpstreamName) -> int:
        """How many requests are at `upstream` now."""
        raise NotImplementedError
