"""GET /api/status, but for the numbers that only the data path knows: one JSON object from one state.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from failover.clock import rfc3339
from failover.health.report import Report
from failover.model import Mode, Part, Service, UpstreamName, Verdict
from failover.routing.gate import gate, live_numbers
from failover.routing.route import service_route, whole_phase
from failover.routing.state import Key, Now, State
from failover.routing.states import Numbers, Rules
from failover.routing.troubles import Trouble
from failover.routing.wishes import decidable

Json = dict[str, Any]


def status_of(
    state: State,
    rules: Rules,
    now: Now,
    *,
    site: str,
    reports: Mapping[Key, Report],
    in_flight: Callable[[UpstreamName, Service], int],
    troubles: Mapping[str, Trouble],
) -> Json:
    """Return the status; DESIGN section 5 has its contract."""
    intent, open_ = state.intent, gate(state, rules, now.s)
    return {
        "site": site,
        "mode": str(intent.mode),
        "phase": str(whole_phase(state, rules)),
        "intent": {
            "upstream": _text(intent.upstream),
            "reason": intent.reason,
            "actor": intent.actor,
            "until": None if intent.until is None else rfc3339(intent.until),
            "keep_replicating": intent.keep_replicating,
            "drain": _drain(state),
        },
        "services": {str(service): _service(state, rules, service) for service in Service},
        "upstreams": {
            str(name): {str(service): _side(rules, reports, (name, service)) for service in Service}
            for name in UpstreamName
        },
        "in_flight": {
            str(name): {str(service): in_flight(name, service) for service in Service}
            for name in UpstreamName
        },
        "failback": {
            "allowed": open_.allowed,
            "reason": open_.reason,
            "hold_down_left_s": round(open_.hold_down_left_s, 1),
            "by_hand": not rules.keeps_ledger,
        },
        "replication": _replication(live_numbers(state, now.s)),
        "troubles": [
            {"component": one.component, "code": code, "sentence": one.sentence}
            for code, one in sorted(troubles.items())
        ],
        "decisions": [str(each) for each in decidable(state, rules, now.s)],
    }


def _drain(state: State) -> str | None:
    """How far a drain is: `under_way`, `empty`, or `grace_over` when what was left was ended."""
    if state.intent.mode is not Mode.DRAIN:
        return None
    if state.drain_since_s is not None:
        return "under_way"
    return "grace_over" if state.grace_over else "empty"


def _service(state: State, rules: Rules, service: Service) -> Json:
    exists = any((name, service) in rules.exists for name in UpstreamName)
    standing = service_route(state, rules, service)
    return {
        "active": str(standing.reads) if exists else None,
        "phase": str(standing.phase),
        "since": rfc3339(state.since_wall[service]),
    }


def _side(rules: Rules, reports: Mapping[Key, Report], key: Key) -> Json:
    if key not in rules.exists:
        return {"up": None, "verdict": None, "reason": "not configured", "parts": {}}
    report = reports.get(key)
    if report is None:
        return {"up": None, "verdict": None, "reason": "not probed yet", "parts": {}}
    return {
        "up": None if report.verdict is None else report.verdict is not Verdict.DOWN,
        "verdict": _text(report.verdict),
        "reason": report.reason,
        "parts": _parts(report, key[1]),
    }


def _parts(report: Report, service: Service) -> Json:
    """The verdict of each part. A DICOM retrieve has no probe, so it has none: null, not left out."""
    unprobed = {Part.RETRIEVE} if service is Service.DICOM else set()
    return {
        str(part): _text(report.parts[part].verdict) if part in report.parts else None
        for part in Part
        if part in report.parts or part in unprobed
    }


def _replication(numbers: Numbers | None) -> Json:
    known = numbers or Numbers()
    return {
        "lag_objects": known.lag_objects,
        "lag_s": known.lag_s,
        "pending_to_backup": known.pending_to_backup,
        "pending_to_primary": known.pending_to_primary,
        "refused": known.refused,
        "lost": known.lost,
        "coverage_ratio": known.coverage_ratio,
        "recheck_done": known.recheck_done if numbers is not None else None,
        "vanished": known.vanished,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
