"""What the checker tells the router of one service of one upstream. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from failover.health.verdict import Health
from failover.model import Part, Service, UpstreamName, Verdict


@dataclass(frozen=True, slots=True)
class PartReport:
    verdict: Verdict | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """A verdict with its reason, and the parts inside it."""

    upstream: UpstreamName
    service: Service
    verdict: Verdict | None
    reason: str
    parts: Mapping[Part, PartReport]


def report_of(upstream: UpstreamName, service: Service, health: Health) -> Report:
    parts = {part: PartReport(state.verdict, state.reason) for part, state in health.parts.items()}
    return Report(upstream, service, health.verdict, health.reason, parts)
