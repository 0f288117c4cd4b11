"""The router's word to the replicator, which asks for it each second: control method `route`. Pure.

What follows from it, and how long it counts, is `replication.permission`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from failover.health.report import Report
from failover.model import Part, Service, UpstreamName, Verdict
from failover.routing.route import whole_phase
from failover.routing.state import Key, State
from failover.routing.states import Rules

PRIMARY = UpstreamName.PRIMARY


def word_of(state: State, rules: Rules, reports: Mapping[Key, Report]) -> dict[str, Any]:
    """Return the word.

    `vanished`: what an operator decided on what the recheck misses, until it wants no decision any more.
    """
    intent, decided = state.intent, state.vanished_decided
    return {
        "mode": str(intent.mode),
        "phase": str(whole_phase(state, rules)),
        "forced": _text(intent.forced),
        "keep_replicating": intent.forced is not UpstreamName.BACKUP or intent.keep_replicating,
        "primary": {str(service): _text(state.verdict(PRIMARY, service)) for service in Service},
        "store": {str(service): _text(store_verdict(reports, service)) for service in Service},
        "vanished": None if decided is None else str(decided).removeprefix("vanished-"),
    }


def store_verdict(reports: Mapping[Key, Report], service: Service) -> Verdict | None:
    """Return what is believed of stores to the primary by `service`; None when nothing is known."""
    report = reports.get((PRIMARY, service))
    part = None if report is None else report.parts.get(Part.STORE)
    return None if part is None else part.verdict


def _text(value: object) -> str | None:
    return None if value is None else str(value)
