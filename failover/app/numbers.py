"""What the router asks of the other two: what is owed and pending, their metrics, whether they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from failover.app.debt_lists import DebtLists
from failover.app.store_totals import StoreSent, StoreTotals, news, totals_of
from failover.clock import SystemClock
from failover.control import Json, ask, socket_path
from failover.errors import ControlError
from failover.metrics import RouterMetrics
from failover.model import Service
from failover.routing.states import Numbers

_log = structlog.get_logger(__name__)
# Stores may be held while the answer is awaited, and a scrape must not wait for the dead.
LIMIT_S: Final = 1.0
# A batch that is being sent to the primary may end; an operator waits for it, but not for ever.
HEAR_LIMIT_S: Final = 5.0
OTHERS: Final = ("archive", "replicator")


class Others:
    """Archive and replicator, as the router knows them. With a foreign backup there are none."""

    def __init__(
        self, state_dir: Path, metrics: RouterMetrics, *, present: bool, sent: Callable[[StoreSent], None]
    ) -> None:
        """`sent` is called for what the replicator's stores say of the primary."""
        self._sockets = {name: socket_path(state_dir, name) for name in OTHERS} if present else {}
        self.lists = DebtLists(state_dir, SystemClock(), present=present)
        self._metrics = metrics
        self._sent = sent
        self._stores: dict[Service, StoreTotals] = {}

    async def numbers(self) -> Numbers | None:
        """Return what they report, None when the ledger does not answer: then nobody knows what is owed."""
        ledger, progress = await asyncio.gather(
            self._ask("archive", "ledger.numbers", {"unknown_too": True}), self._ask("replicator", "numbers")
        )
        known = progress or {}
        self._judge_stores(known)
        if ledger is None:
            return None
        # A replicator that does not answer can have done no recheck.
        recheck = known.get("recheck") or {"done": None}
        return Numbers(
            lag_objects=ledger["lag_objects"],
            lag_s=ledger["lag_s"],
            owed_older_than_10_s=ledger["owed_older_than_10_s"],
            pending_to_backup=known.get("pending_to_backup"),
            pending_to_primary=ledger["pending_to_primary"],
            refused=ledger["refused"],
            lost=ledger["lost"],
            coverage_ratio=known.get("coverage_ratio"),
            recheck_done=recheck["done"],
            vanished=recheck.get("vanished"),
            wants_decision=bool(recheck.get("wants_decision")),
            troubles={str(code): str(told) for code, told in (ledger.get("troubles") or {}).items()},
        )

    def _judge_stores(self, known: Json) -> None:
        try:
            totals = totals_of(known.get("stores") or {})
        except (KeyError, TypeError, ValueError) as error:
            _log.error("the replicator's stores cannot be read", error=type(error).__name__)
            return
        for sent in news(self._stores, totals):
            self._sent(sent)
        self._stores.update(totals)

    async def metrics_text(self) -> bytes:
        """Return the metrics of those that live, in Prometheus' text format; a dead one is absent."""
        answers = await asyncio.gather(*(self._ask(name, "metrics") for name in self._sockets))
        return b"".join(str(answer["text"]).encode() for answer in answers if answer is not None)

    async def replicator_hears(self) -> bool:
        """Return whether the replicator goes by the route of now and has nothing of before under way.

        One that does not say so, dead or hung, begins nothing new before it has asked for the route; what it
        had under way may still end.
        """
        if not self._sockets or await self._ask("replicator", "hear", limit_s=HEAR_LIMIT_S) is not None:
            return True
        _log.warning("the replicator has not said that it heard the operator")
        return False

    async def clock_is_right(self) -> None:
        """Tell the archive what an operator decided. Raises ControlError."""
        if "archive" in self._sockets:
            await ask(self._sockets["archive"], "retention.clock_right", timeout_s=LIMIT_S)

    async def _ask(
        self, component: str, method: str, question: Json | None = None, *, limit_s: float = LIMIT_S
    ) -> Json | None:
        path = self._sockets.get(component)
        if path is None:
            return None
        try:
            answer = await ask(path, method, question, timeout_s=limit_s)
        except ControlError:
            self._metrics.component_up.labels(component).set(0)
            return None
        self._metrics.component_up.labels(component).set(1)
        return answer
