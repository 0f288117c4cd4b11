"""What the machine knows at one moment, the facts it hears and the commands it gives. Pure data.

`State` is immutable; a part of it (`Saved`, in `store`) survives a restart, the rest is learnt again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from failover.audit.events import EventKind
from failover.model import Phase, Service, UpstreamName, Verdict
from failover.routing.selection import Route
from failover.routing.states import Decision, Intent, Numbers, Wish

Key = tuple[UpstreamName, Service]


@dataclass(frozen=True, slots=True)
class Now:
    """The moment of a step: monotonic seconds for decisions, wall time for people and records."""

    s: float
    wall: datetime


@dataclass(frozen=True, slots=True)
class Seen:
    """A verdict and since when it stands; `returned_s`: when it last became up after it was not."""

    verdict: Verdict | None
    since_s: float
    reason: str
    returned_s: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """Everything that decides. Times are monotonic seconds unless they are called wall."""

    phases: Mapping[Service, Phase]
    since_wall: Mapping[Service, datetime]
    intent: Intent = field(default=Intent())
    intent_until_s: float | None = None
    seen: Mapping[Key, Seen] = field(default_factory=dict)
    failovers: Mapping[Service, tuple[float, ...]] = field(default_factory=dict)  # of the last hour
    failback_decided: bool = False
    numbers: Numbers | None = None
    numbers_at_s: float | None = None
    refused_since_s: float | None = None
    refused_accepted: int = 0
    vanished_decided: Decision | None = None  # until the replicator wants no decision any more
    stored_on_backup_ago_s: float | None = None
    last_step_since_s: float | None = None  # stores are held since
    last_step_again_s: float = 0.0
    drain_since_s: float | None = None  # work at the primary is still awaited
    grace_over: bool = False  # of this drain: what was left when the grace ended was ended by us
    alarmed: frozenset[tuple[Service, str]] = frozenset()  # told already, by code
    blind: bool = False  # started without a readable state, and what is owed is not known yet

    def verdict(self, upstream: UpstreamName, service: Service) -> Verdict | None:
        seen = self.seen.get((upstream, service))
        return None if seen is None else seen.verdict


# -- what it hears ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VerdictHeard:
    upstream: UpstreamName
    service: Service
    verdict: Verdict | None
    reason: str


@dataclass(frozen=True, slots=True)
class Wished:
    wish: Wish
    actor: str


@dataclass(frozen=True, slots=True)
class Decided:
    decision: Decision
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class NumbersHeard:
    """`asked_s`: when they were asked for; what they say was true then or later."""

    numbers: Numbers | None
    asked_s: float


@dataclass(frozen=True, slots=True)
class TimePassed:
    """What the data path says at this moment."""

    stores_on_backup: int = 0  # under way to the backup through us
    stored_on_backup_ago_s: float | None = None  # since the backup last acknowledged one through us
    work_on_primary: int = 0  # requests and associations at the primary through us


Event = VerdictHeard | Wished | Decided | NumbersHeard | TimePassed


# -- what it commands -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the state down first. `urgent`: away from a dead primary, so the disk gets 200 ms, then act."""

    urgent: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """Append this to the trail."""

    kind: EventKind
    code: str
    reason: str
    service: Service | None = None
    from_: str | None = None
    to: str | None = None
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class PublishRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class AskNumbers:
    """Ask archive and replicator now: the last step waits for it."""


@dataclass(frozen=True, slots=True)
class EndWork:
    """The grace of a drain is over: end what is still at this upstream."""

    upstream: UpstreamName


Command = Persist | Audit | PublishRoute | AskNumbers | EndWork
