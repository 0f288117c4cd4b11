"""What the status says of parts that nothing probes."""

from __future__ import annotations

from failover.clock import ManualClock
from failover.health.report import report_of
from failover.health.verdict import VerdictPolicy, live_failure, new_health, passed
from failover.model import Part, Service, UpstreamName
from failover.routing.machine import first_state
from failover.routing.snapshot import status_of
from failover.routing.state import Now
from failover.routing.states import Rules

PRIMARY = UpstreamName.PRIMARY


def test_a_dicom_retrieve_has_no_verdict_and_says_so() -> None:
    """Nothing probes it; a failed live one counts for nothing by itself (DESIGN 4.1)."""
    clock = ManualClock()
    now = Now(clock.monotonic(), clock.wall())
    health = new_health(frozenset({Part.REACH, Part.QUERY}))
    for part in (Part.REACH, Part.QUERY):
        health = passed(health, part, "good", now.s, VerdictPolicy())
    health = live_failure(health, Part.RETRIEVE)
    status = status_of(
        first_state(now),
        Rules(exists=frozenset((PRIMARY, service) for service in Service)),
        now,
        site="essen",
        reports={(PRIMARY, service): report_of(PRIMARY, service, health) for service in Service},
        in_flight=lambda _upstream, _service: 0,
        troubles={},
    )
    sides = status["upstreams"]["primary"]
    assert sides["dicom"]["verdict"] == "up"
    assert sides["dicom"]["parts"] == {"reach": "up", "query": "up", "retrieve": None, "store": "up"}
    assert sides["web"]["parts"] == {"reach": "up", "query": "up", "store": "up"}  # health.frame: false
