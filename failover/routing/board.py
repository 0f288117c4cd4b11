"""The current route: written by the controller, read by proxy and relay for each request.

No lock: one loop.
"""

from __future__ import annotations

from failover.aio import Signal
from failover.model import Service
from failover.routing.selection import Choice, Kind, Route, choose


class RouteBoard:
    """Holds one immutable `Route`. `changed` fires at each publish."""

    def __init__(self, route: Route) -> None:
        self.current = route
        """`publish` alone writes it; each request reads it several times."""
        self._choices: dict[tuple[Service, Kind], Choice] = {}  # of the current route
        self.changed = Signal()

    def choice(self, service: Service, kind: Kind) -> Choice:
        """Return where a request of `kind` goes now, worked out once for each route."""
        found = self._choices.get((service, kind))
        if found is None:
            found = self._choices[service, kind] = choose(self.current, service, kind)
        return found

    def publish(self, route: Route) -> None:
        """Make `route` the current one. Nothing happens when it says the same as before."""
        if route == self.current:
            return
        self.current = route
        self._choices.clear()
        self.changed.fire()
