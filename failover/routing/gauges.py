"""Shows the state of routing as gauges. A verdict or number that nobody knows is absent."""

from __future__ import annotations

from failover.metrics import RouterMetrics
from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.gate import gate, live_numbers
from failover.routing.route import service_route
from failover.routing.state import State
from failover.routing.states import TRANSITIONS, Numbers, Rules


def show_every_edge(metrics: RouterMetrics) -> None:
    """Count each edge from 0: Prometheus sees no increase in a series that begins at 1."""
    for edge in TRANSITIONS.values():
        for service in Service:
            metrics.transitions.labels(service, edge.to, edge.code)


def show_standing(metrics: RouterMetrics, state: State, rules: Rules) -> None:
    """Verdicts, who answers reads, and the mode in force."""
    for name, service in rules.exists:
        verdict = state.verdict(name, service)
        known = verdict is not None
        metrics.upstream_up.set(float(verdict is not Verdict.DOWN) if known else None, name, service)
        metrics.upstream_suspect.set(float(verdict is Verdict.SUSPECT) if known else None, name, service)
    for service in Service:
        if any((name, service) in rules.exists for name in UpstreamName):
            standing = service_route(state, rules, service)
            for name in UpstreamName:
                metrics.active_upstream.set(float(name is standing.reads), service, name)
            for phase in Phase:
                metrics.phase.set(float(phase is standing.phase), service, phase)
    for mode in Mode:
        metrics.mode.labels(mode).set(float(mode is state.intent.mode))


def show_numbers(metrics: RouterMetrics, state: State, rules: Rules, now_s: float) -> None:
    """The gate, and the numbers of replication as last reported."""
    metrics.failback_allowed.set(float(gate(state, rules, now_s).allowed))
    numbers = live_numbers(state, now_s) or Numbers()
    metrics.lag_objects.set(numbers.lag_objects)
    metrics.lag_seconds.set(numbers.lag_s)
    metrics.pending.set(numbers.pending_to_backup, "to_backup")
    metrics.pending.set(numbers.pending_to_primary, "to_primary")
    metrics.refused.set(numbers.refused)
    metrics.vanished.set(numbers.vanished)
    metrics.coverage.set(numbers.coverage_ratio)
