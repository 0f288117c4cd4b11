"""The `Route` that a state means, and the phase of the whole. Pure."""

from __future__ import annotations

from failover.model import Phase, Service, UpstreamName
from failover.routing.selection import Route, ServiceRoute
from failover.routing.state import State
from failover.routing.states import DISTANCE, Rules

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP


def whole_phase(state: State, rules: Rules) -> Phase:
    """The phase of the service that is further from the primary."""
    phases = [state.phases[service] for service in rules.moving]
    return max(phases, key=lambda phase: DISTANCE[phase], default=Phase.ON_PRIMARY)


def service_route(state: State, rules: Rules, service: Service) -> ServiceRoute:
    """Where one service stands. What only one upstream has is always there."""
    if service in rules.moving:
        phase = state.phases[service]
        reads = PRIMARY if phase is Phase.ON_PRIMARY else BACKUP
        stores = BACKUP if phase is Phase.ON_BACKUP else PRIMARY
        return ServiceRoute(phase, reads, stores)
    if (BACKUP, service) in rules.exists:
        return ServiceRoute(whole_phase(state, rules), BACKUP, BACKUP)
    return ServiceRoute(Phase.ON_PRIMARY, PRIMARY, PRIMARY)


def route_of(state: State, rules: Rules) -> Route:
    """Everything that traffic needs to know."""
    return Route(
        mode=state.intent.mode,
        forced=state.intent.forced,
        keep_replicating=state.intent.keep_replicating,
        services={service: service_route(state, rules, service) for service in Service},
        verdicts={key: state.verdict(*key) for key in sorted(rules.exists)},
        exists=rules.exists,
        hold_stores=state.last_step_since_s is not None,
    )
