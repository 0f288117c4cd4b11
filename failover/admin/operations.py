"""What the admin API needs of the router, as a Protocol: `app/operations` is one, tests have theirs."""

from __future__ import annotations

from typing import Protocol

from failover.admin.questions import OwedQuestion, PlanQuestion, QuarantineQuestion, SplitQuestion
from failover.admin.requests import DecisionRequest, Json, ProtectionRequest, RouteRequest
from failover.aio import Signal


class Operations(Protocol):
    """The router as its operators see it."""

    changed: Signal  # fires when `status` or `events` would answer otherwise

    def status(self) -> Json:
        """Return what GET /api/status answers (DESIGN section 5); cheap, called for each watcher."""

    async def change_route(self, request: RouteRequest, actor: str) -> Json:
        """Do it, persisted and audited, and return the status; for a dry run with `would`, changing nothing.

        Raises Refused, Unprocessable.
        """

    async def decide(self, request: DecisionRequest, actor: str) -> Json:
        """The same for what only a person may decide. Raises Refused, Unprocessable."""

    async def owed(self, question: OwedQuestion) -> Json:
        """Return what GET /api/owed answers. Raises Refused, ControlError."""

    async def split(self, question: SplitQuestion) -> Json:
        """Return what GET /api/split answers. Raises Refused, ControlError."""

    async def quarantine(self, question: QuarantineQuestion) -> Json:
        """Return what GET /api/quarantine answers. Raises Refused, ControlError."""

    async def plan(self, question: PlanQuestion) -> Json:
        """Return what GET /api/archive/plan answers. Raises Refused, ControlError."""

    async def protect(self, request: ProtectionRequest, actor: str) -> Json:
        """Protect a study or patient from retention, or no more, audited. Raises Refused, ControlError."""

    def events(self, since: int) -> list[Json]:
        """Return the audit events whose id is greater than `since`, oldest first."""

    async def metrics(self) -> bytes:
        """Return all metrics in Prometheus' text format 0.0.4, those of the other processes joined in."""

    def not_ready(self) -> str | None:
        """Return None when listeners are open and both upstreams have a verdict, else what is awaited."""
