"""The transition table is whole, and the page drawn from it is current."""

from __future__ import annotations

import re
from pathlib import Path

from failover.model import Phase
from failover.routing.drawing import page
from failover.routing.states import CAUSES, TRANSITIONS, Cause

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_is_current() -> None:
    current = (DOCS / "routing.md").read_text(encoding="utf-8")
    assert current == page(), "run: python -m failover.routing.drawing > docs/routing.md"


def test_each_cause_is_explained_and_used() -> None:
    assert set(CAUSES) == set(Cause) == {cause for _, cause in TRANSITIONS}


def test_each_edge_leads_elsewhere_and_says_why() -> None:
    for (phase, _), edge in TRANSITIONS.items():
        assert edge.to is not phase
        assert re.fullmatch(r"[a-z_]+", edge.code)
        assert len(edge.sentence.split()) >= 4


def test_no_code_means_two_destinations() -> None:
    destinations: dict[str, set[Phase]] = {}
    for edge in TRANSITIONS.values():
        destinations.setdefault(edge.code, set()).add(edge.to)
    assert all(len(phases) == 1 for phases in destinations.values())


def test_reads_return_only_by_the_gate_or_by_an_operator() -> None:
    back = {cause for (_, cause), edge in TRANSITIONS.items() if edge.to is Phase.ON_PRIMARY}
    assert back == {Cause.NOTHING_OWED, Cause.FORCED_PRIMARY}


def test_an_operator_can_leave_every_phase() -> None:
    for phase in Phase:
        for cause, there in (
            (Cause.FORCED_PRIMARY, Phase.ON_PRIMARY),
            (Cause.FORCED_BACKUP, Phase.ON_BACKUP),
        ):
            assert phase is there or (phase, cause) in TRANSITIONS
