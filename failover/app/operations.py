"""What the admin API may ask of the router: reads the controller, hands wishes to it, joins the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from prometheus_client import generate_latest

from failover.admin.questions import OwedQuestion, PlanQuestion, QuarantineQuestion, SplitQuestion
from failover.admin.requests import DecisionRequest, ProtectionRequest, RouteRequest
from failover.aio import Signal
from failover.app.numbers import Others
from failover.audit.events import EventKind
from failover.audit.trail import Trail
from failover.clock import SystemClock, rfc3339
from failover.metrics import RouterMetrics
from failover.model import Mode
from failover.routing.controller import Controller
from failover.routing.states import Decision, Wish

Json = dict[str, Any]
UNHEARD: Final = (
    "the replicator did not answer within 5 s: it begins nothing new, but what it had under way may still "
    "end; see `failover status` before you service the primary"
)


class RouterOperations:
    """`failover.admin.operations.Operations` on the controller, the trail and the other processes."""

    def __init__(
        self,
        controller: Controller,
        trail: Trail,
        others: Others,
        metrics: RouterMetrics,
        listening: Callable[[], bool],
        workers_told: Callable[[], Awaitable[None]],
    ) -> None:
        """`workers_told` returns when the web workers have told what they counted."""
        self.changed: Signal = controller.changed
        self._clock = SystemClock()
        self._controller = controller
        self._trail = trail
        self._others = others
        self._lists = others.lists
        self._metrics = metrics
        self._listening = listening
        self._workers_told = workers_told

    def status(self) -> Json:
        return {**self._controller.snapshot(), "time": rfc3339(self._clock.wall())}

    async def change_route(self, request: RouteRequest, actor: str) -> Json:
        wish = Wish(
            mode=request.mode,
            upstream=request.upstream,
            reason=request.reason or "",
            for_s=request.for_s,
            even_if_down=request.even_if_down,
            keep_replicating=request.keep_replicating,
            grace_s=request.grace_s,
        )
        would = await self._controller.set_intent(wish, actor, dry_run=request.dry_run)
        if not request.dry_run:
            # A PACS in the middle of an upgrade must not be written to (DESIGN 4.3): not for a second.
            heard = await self._others.replicator_hears()
            if not heard and request.mode in (Mode.DRAIN, Mode.FORCED):
                return {**self.status(), "warnings": [UNHEARD]}
        return self._answer(would, dry_run=request.dry_run)

    async def decide(self, request: DecisionRequest, actor: str) -> Json:
        if request.decision is Decision.CLOCK_RIGHT and not request.dry_run:
            # It is the archive that believes its clock again; what it did not hear was not decided.
            await self._controller.decide(request.decision, request.reason, actor, dry_run=True)
            await self._others.clock_is_right()
        would = await self._controller.decide(
            Decision(request.decision), request.reason, actor, dry_run=request.dry_run
        )
        return self._answer(would, dry_run=request.dry_run)

    async def owed(self, question: OwedQuestion) -> Json:
        return await self._lists.owed(question)

    async def plan(self, question: PlanQuestion) -> Json:
        return await self._lists.plan(question)

    async def protect(self, request: ProtectionRequest, actor: str) -> Json:
        told = await self._lists.protect(request)
        what = "a patient" if request.study_instance_uid is None else "a study"
        code = "protected" if request.protected else "protection_ended"
        done = "is protected" if request.protected else "is no longer protected"
        # Whose or which is no business of the trail's readers.
        self._trail.add(EventKind.DECISION, code, f"{what} {done}: {request.reason}", actor=actor)
        return told

    async def split(self, question: SplitQuestion) -> Json:
        return await self._lists.split(question)

    async def quarantine(self, question: QuarantineQuestion) -> Json:
        return await self._lists.quarantine(question)

    def _answer(self, would: list[str], *, dry_run: bool) -> Json:
        return {**self.status(), "would": would} if dry_run else self.status()

    def events(self, since: int) -> list[Json]:
        return [event.as_json() for event in self._trail.events(since)]

    async def metrics(self) -> bytes:
        theirs, _ = await asyncio.gather(self._others.metrics_text(), self._workers_told())
        return generate_latest(self._metrics.registry) + theirs

    def not_ready(self) -> str | None:
        if not self._listening():
            return "the listeners are not open yet"
        return self._controller.not_ready()
