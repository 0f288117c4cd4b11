"""The states of routing and every edge between them, each with its code and its sentence. Pure.

`TRANSITIONS` is the whole truth: what is not in it does not happen; docs/routing.md is drawn from it. When
an edge is taken is `machine`'s to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Final

from failover.model import Mode, Phase, Service, UpstreamName


class Cause(StrEnum):
    """Why a phase changes."""

    PRIMARY_DOWN = "primary_down"
    SISTER_DOWN = "sister_down"  # the other service of the primary, with policy.together
    HOLD_DOWN_OVER = "hold_down_over"
    FAILBACK_DECIDED = "failback_decided"
    NOTHING_OWED = "nothing_owed"
    FORCED_BACKUP = "forced_backup"
    FORCED_PRIMARY = "forced_primary"
    DRAINED = "drained"
    STARTED_OWING = "started_owing"


CAUSES: Final[Mapping[Cause, str]] = {
    Cause.PRIMARY_DOWN: "this service of the primary is down, the backup's is up, the mode is auto",
    Cause.SISTER_DOWN: "policy.together: another service of the primary is down, all of the backup are up",
    Cause.HOLD_DOWN_OVER: "the primary was up for the hold-down without a suspicion; failback: auto",
    Cause.FAILBACK_DECIDED: "the same with failback: manual, and an operator decided",
    Cause.NOTHING_OWED: "the gate is open: primary up, recheck done, nothing owed; stores are held meanwhile",
    Cause.FORCED_BACKUP: "an operator forced the backup",
    Cause.FORCED_PRIMARY: "an operator forced the primary",
    Cause.DRAINED: "an operator drains the primary",
    Cause.STARTED_OWING: "the router began without a readable state, and something is owed to the primary",
}


@dataclass(frozen=True, slots=True)
class Edge:
    """To which phase, under which code (metrics, events), and the sentence for a tired engineer."""

    to: Phase
    code: str
    sentence: str


TRANSITIONS: Final[Mapping[tuple[Phase, Cause], Edge]] = {
    (Phase.ON_PRIMARY, Cause.PRIMARY_DOWN): Edge(
        Phase.ON_BACKUP, "primary_down", "the primary is down; the backup serves"
    ),
    (Phase.ON_PRIMARY, Cause.SISTER_DOWN): Edge(
        Phase.ON_BACKUP,
        "primary_down_together",
        "the primary's other service is down, and both move together; the backup serves",
    ),
    (Phase.ON_PRIMARY, Cause.FORCED_BACKUP): Edge(
        Phase.ON_BACKUP, "forced_backup", "an operator forced the backup; the primary gets probes only"
    ),
    (Phase.ON_PRIMARY, Cause.DRAINED): Edge(
        Phase.ON_BACKUP, "drain_primary", "an operator drains the primary; new work goes to the backup"
    ),
    (Phase.ON_PRIMARY, Cause.STARTED_OWING): Edge(
        Phase.ON_BACKUP,
        "started_owing",
        "started without a readable state while the archive owes the primary objects; the backup serves",
    ),
    (Phase.ON_BACKUP, Cause.HOLD_DOWN_OVER): Edge(
        Phase.FAILING_BACK,
        "primary_back",
        "the primary is back; stores go to it, reads follow when nothing is owed",
    ),
    (Phase.ON_BACKUP, Cause.FAILBACK_DECIDED): Edge(
        Phase.FAILING_BACK,
        "failback_decided",
        "an operator began the way back; stores go to the primary, reads follow when nothing is owed",
    ),
    (Phase.ON_BACKUP, Cause.FORCED_PRIMARY): Edge(
        Phase.ON_PRIMARY, "forced_primary", "an operator forced the primary; debt goes on being paid"
    ),
    (Phase.FAILING_BACK, Cause.NOTHING_OWED): Edge(
        Phase.ON_PRIMARY, "debt_paid", "all that the primary missed is proven there; it serves again"
    ),
    (Phase.FAILING_BACK, Cause.PRIMARY_DOWN): Edge(
        Phase.ON_BACKUP, "primary_failed_again", "the primary failed during failback; the backup serves"
    ),
    (Phase.FAILING_BACK, Cause.SISTER_DOWN): Edge(
        Phase.ON_BACKUP,
        "primary_failed_again_together",
        "the primary's other service failed during failback; the backup serves",
    ),
    (Phase.FAILING_BACK, Cause.FORCED_BACKUP): Edge(
        Phase.ON_BACKUP,
        "forced_backup",
        "an operator forced the backup during failback; the primary gets probes only",
    ),
    (Phase.FAILING_BACK, Cause.DRAINED): Edge(
        Phase.ON_BACKUP,
        "drain_primary",
        "an operator drains the primary during failback; new work goes to the backup",
    ),
    (Phase.FAILING_BACK, Cause.FORCED_PRIMARY): Edge(
        Phase.ON_PRIMARY,
        "forced_primary",
        "an operator forced the primary during failback; debt goes on being paid",
    ),
}
FAILOVERS: Final = frozenset({Cause.PRIMARY_DOWN, Cause.SISTER_DOWN})
# Which one is further from the primary: the phase of the whole is that of the service with the highest.
DISTANCE: Final[Mapping[Phase, int]] = {Phase.ON_PRIMARY: 0, Phase.FAILING_BACK: 1, Phase.ON_BACKUP: 2}


class Decision(StrEnum):
    """What only a person may decide."""

    FAILBACK = "failback"  # begin the gated way back (policy.failback: manual)
    REFUSED = "refused"  # go back although the primary refuses objects
    VANISHED_OWED = "vanished-owed"  # what vanished from the primary is debt
    VANISHED_DELETED = "vanished-deleted"  # what vanished from the primary was deleted there
    CLOCK_RIGHT = "clock-right"  # the archive's clock leapt, and is right: what is old by it may go


@dataclass(frozen=True, slots=True)
class Intent:
    """What the operator wants, and until when. `until` is wall time, for people and for a restart."""

    mode: Mode = Mode.AUTO
    upstream: UpstreamName | None = None
    reason: str | None = None
    actor: str | None = None
    until: datetime | None = None
    keep_replicating: bool = False
    grace_s: float = 60.0

    @property
    def forced(self) -> UpstreamName | None:
        """Who alone serves by the operator's wish, None when health decides."""
        if self.mode is Mode.DRAIN:
            return UpstreamName.BACKUP
        return self.upstream if self.mode is Mode.FORCED else None


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asks for: PUT /api/route."""

    mode: Mode
    upstream: UpstreamName | None = None
    reason: str = ""
    for_s: float | None = None
    even_if_down: bool = False
    keep_replicating: bool = False
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Numbers:
    """What archive and replicator reported; None is unknown, and unknown keeps the gate closed."""

    lag_objects: int | None = None
    lag_s: float | None = None
    owed_older_than_10_s: int | None = None
    pending_to_backup: int | None = None
    pending_to_primary: int | None = None
    refused: int | None = None
    lost: int | None = None  # of the refused: the archive lost them before they were sent
    coverage_ratio: float | None = None
    # After an outage, drain or forced backup: all objects of the last days were asked for again.
    recheck_done: bool | None = True
    vanished: int | None = None  # how many studies the recheck did not find any more
    wants_decision: bool = False  # they are so many that a person must say what they are
    troubles: Mapping[str, str] = field(default_factory=dict)  # what the archive wants a person for, by code


@dataclass(frozen=True, slots=True)
class Rules:
    """`policy` of the configuration, and which services there are."""

    exists: frozenset[tuple[UpstreamName, Service]]
    failback_auto: bool = True
    hold_down_s: float = 60.0
    together: bool = True
    refused_hold_s: float = 3600.0
    # False: the backup is a PACS of another make, of which nobody knows what it owes the primary.
    keeps_ledger: bool = True

    @property
    def moving(self) -> tuple[Service, ...]:
        """The services that both upstreams have. What only one has stays there and moves nothing."""
        return _both_have(self.exists)


@cache  # asked a dozen times a step
def _both_have(exists: frozenset[tuple[UpstreamName, Service]]) -> tuple[Service, ...]:
    return tuple(service for service in Service if all((name, service) in exists for name in UpstreamName))
