"""A router as its operators see it, in memory: intents change the status, are audited, can be refused.

It stands in where a test is about the door (API, page, commands) and not about routing.
"""

from __future__ import annotations

import copy
from typing import Any

from failover.admin.questions import OwedQuestion, PlanQuestion, QuarantineQuestion, SplitQuestion
from failover.admin.requests import DecisionRequest, Json, ProtectionRequest, RouteRequest
from failover.aio import Signal
from failover.clock import Clock, ManualClock, rfc3339
from failover.errors import Refused
from failover.model import Mode, UpstreamName


def calm_status(site: str = "essen") -> Json:
    """The status of a quiet day."""
    return {
        "site": site,
        "time": "2026-01-01T00:10:00.000Z",
        "mode": "auto",
        "phase": "on_primary",
        "intent": {"upstream": None, "reason": None, "actor": None, "until": None},
        "services": {
            "web": {"active": "primary", "phase": "on_primary", "since": "2026-01-01T00:00:00.000Z"},
            "dicom": {"active": "primary", "phase": "on_primary", "since": "2026-01-01T00:00:00.000Z"},
        },
        "upstreams": {
            name: {
                "web": {"up": True, "verdict": "up", "reason": "reach: HEAD / answered 200 in 4 ms"},
                "dicom": {
                    "up": True,
                    "verdict": "up",
                    "reason": "reach: C-ECHO answered in 12 ms",
                    "parts": {"query": "up", "retrieve": "up", "store": "up"},
                },
            }
            for name in ("primary", "backup")
        },
        "in_flight": {"primary": {"web": 3, "dicom": 1}, "backup": {"web": 0, "dicom": 0}},
        "failback": {"allowed": True, "reason": "nothing is owed", "hold_down_left_s": 0.0},
        "replication": {
            "lag_objects": 0,
            "lag_s": 0.0,
            "pending_to_backup": 12,
            "pending_to_primary": 0,
            "refused": 0,
            "coverage_ratio": 0.9987,
        },
        "decisions": [],
    }


class FakeOperations:
    """Implements failover.admin.operations.Operations."""

    def __init__(self, clock: Clock | None = None, status: Json | None = None) -> None:
        self.clock = clock or ManualClock()
        self.now = status or calm_status()
        self.trail: list[Json] = []
        self.changed = Signal()
        self.awaited: str | None = None
        self.warnings: list[str] = []
        self.asked: list[tuple[RouteRequest | DecisionRequest, str]] = []
        self.breaks: Exception | None = None
        self.questions: list[OwedQuestion | QuarantineQuestion | SplitQuestion] = []
        self.owed_pages: dict[str | None, Json] = {}
        self.quarantined: list[Json] = []
        self.split_studies: list[Json] = []
        self.outlook: Json = {"studies": []}
        self.protections: list[tuple[ProtectionRequest, str]] = []

    def status(self) -> Json:
        if self.breaks is not None:
            raise self.breaks
        return copy.deepcopy(self.now)

    async def change_route(self, request: RouteRequest, actor: str) -> Json:
        self.asked.append((request, actor))
        target = request.upstream if request.mode is Mode.FORCED else UpstreamName.BACKUP
        if request.mode in (Mode.FORCED, Mode.DRAIN) and not request.even_if_down and self._is_down(target):
            raise Refused(f"the {target} is down; with even_if_down it is done all the same")
        if request.dry_run:
            return {**self.status(), "would": self._would(request)}
        self.now["mode"] = request.mode.value
        self.now["intent"] = {
            "upstream": request.upstream and request.upstream.value,
            "reason": request.reason,
            "actor": actor,
            "until": "2026-01-01T02:00:00.000Z" if request.for_s else None,
        }
        to_backup = target is UpstreamName.BACKUP and request.mode in (Mode.FORCED, Mode.DRAIN)
        if request.mode is not Mode.PAUSED:
            self.move("backup" if to_backup else "primary")
        self.happen("intent", code=request.mode.value, reason=request.reason, actor=actor)
        return {**self.status(), "warnings": self.warnings} if self.warnings else self.status()

    async def decide(self, request: DecisionRequest, actor: str) -> Json:
        self.asked.append((request, actor))
        if request.dry_run:
            return {**self.status(), "would": [f"decision {request.decision} would be recorded"]}
        self.happen("decision", code=request.decision.value, reason=request.reason, actor=actor)
        return self.status()

    async def owed(self, question: OwedQuestion) -> Json:
        self.questions.append(question)
        if self.breaks is not None:
            raise self.breaks
        return self.owed_pages.get(question.after, {"objects": [], "next": None})

    async def plan(self, question: PlanQuestion) -> Json:
        if self.breaks is not None:
            raise self.breaks
        return copy.deepcopy(self.outlook)

    async def protect(self, request: ProtectionRequest, actor: str) -> Json:
        self.protections.append((request, actor))
        return {"studies": 1}

    async def split(self, question: SplitQuestion) -> Json:
        self.questions.append(question)
        return {"studies": self.split_studies, "next": None}

    async def quarantine(self, question: QuarantineQuestion) -> Json:
        self.questions.append(question)
        return {"objects": self.quarantined, "next": None}

    def events(self, since: int) -> list[Json]:
        return [event for event in self.trail if event["id"] > since]

    async def metrics(self) -> bytes:
        return b"# HELP failover_mode 1 for the operator's intent in force\nfailover_mode 1.0\n"

    def not_ready(self) -> str | None:
        return self.awaited

    # -- what a test makes happen -------------------------------------------------------------------

    def move(self, upstream: str) -> None:
        """Let `upstream` answer everything from now on."""
        phase = "on_primary" if upstream == "primary" else "on_backup"
        self.now["phase"] = phase
        for service in self.now["services"].values():
            service.update(active=upstream, phase=phase)
        self.changed.fire()

    def happen(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        blank = dict.fromkeys(("service", "from", "to", "code", "reason", "actor"))
        event = {"id": len(self.trail) + 1, "time": rfc3339(self.clock.wall()), "kind": kind}
        self.trail.append({**event, **blank, **fields})
        self.changed.fire()

    def _is_down(self, upstream: UpstreamName | None) -> bool:
        services = self.now["upstreams"][str(upstream or "primary")].values()
        return any(service["verdict"] == "down" for service in services)

    def _would(self, request: RouteRequest) -> list[str]:
        owed = self.now["replication"]["lag_objects"]
        sentences = [f"mode would be {request.mode}"]
        if request.upstream is not None:
            other = request.upstream if request.mode is Mode.FORCED else UpstreamName.BACKUP
            sentences.append(f"web and DICOM would be answered by the {other}")
        if owed:
            sentences.append(f"{owed} objects are not proven on the primary; the debt goes on being paid")
        return sentences
