"""The current route: written by the controller, read by proxy and relay for each request.

No lock: one loop.
"""

from __future__ import annotations

from failover.aio import Signal
from failover.routing.selection import Route


class RouteBoard:
    """Holds one immutable `Route`. `changed` fires at each publish."""

    def __init__(self, route: Route) -> None:
        self._current = route
        self.changed = Signal()

    @property
    def current(self) -> Route:
        return self._current

    def publish(self, route: Route) -> None:
        """Make `route` the current one. Nothing happens when it says the same as before."""
        if route == self._current:
            return
        self._current = route
        self.changed.fire()
