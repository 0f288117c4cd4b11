"""A route on the wire: how the router tells it to the other web workers, and how they read it. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.selection import Route, ServiceRoute


def told(route: Route) -> dict[str, Any]:
    """Return `route` as JSON."""
    return {
        "mode": str(route.mode),
        "forced": None if route.forced is None else str(route.forced),
        "keep_replicating": route.keep_replicating,
        "services": {
            str(service): [str(one.phase), str(one.reads), str(one.stores)]
            for service, one in route.services.items()
        },
        "verdicts": [
            [str(name), str(service), None if verdict is None else str(verdict)]
            for (name, service), verdict in route.verdicts.items()
        ],
        "exists": sorted([str(name), str(service)] for name, service in route.exists),
        "hold_stores": route.hold_stores,
    }


def read(content: dict[str, Any]) -> Route:
    """Return what `told` made into JSON. Raises KeyError, TypeError or ValueError for anything else."""
    return Route(
        mode=Mode(content["mode"]),
        forced=None if content["forced"] is None else UpstreamName(content["forced"]),
        keep_replicating=bool(content["keep_replicating"]),
        services={
            Service(service): ServiceRoute(Phase(phase), UpstreamName(reads), UpstreamName(stores))
            for service, (phase, reads, stores) in content["services"].items()
        },
        verdicts={
            (UpstreamName(name), Service(service)): None if verdict is None else Verdict(verdict)
            for name, service, verdict in content["verdicts"]
        },
        exists=frozenset((UpstreamName(name), Service(service)) for name, service in content["exists"]),
        hold_stores=bool(content["hold_stores"]),
    )


def unheard(route: Route) -> Route:
    """Return how to go on when the router has not been heard for long: its last intent and phase stand, its
    verdicts do not. Each request is offered to the active upstream, then to the other (DESIGN 4.1).

    No store is held: nobody is there who would let it go.
    """
    return replace(route, verdicts=dict.fromkeys(route.verdicts, Verdict.SUSPECT), hold_stores=False)
