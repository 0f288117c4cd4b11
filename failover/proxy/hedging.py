"""One read that is slow at the primary, asked of the backup too: the first good answer goes to the caller.

When, and for whom, is decided in `hedge`. The exchange stays with the primary until the backup's answer
counts by its head; then it goes on there, and the primary's connection is closed. When the primary answers
first, the second attempt is left. When it fails, the exchange goes on with the second attempt.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from failover.health.passive import Outcome
from failover.http.head import AnswerHead
from failover.model import Service, UpstreamName, Verdict
from failover.proxy import faults, hedge
from failover.proxy.attempt import Attempt, Owner
from failover.proxy.hedge import Item
from failover.proxy.retry import BACKUP, FAILING, PRIMARY, Failure, outcome_of
from failover.proxy.stage import Stage

if TYPE_CHECKING:
    from failover.proxy.exchange import Exchange


def considered(exchange: Exchange) -> Hedge | None:
    """Return the hedge of a request that goes to the primary now; None: it is none that is hedged."""
    hedging = exchange.proxy.hedging
    if exchange.asked.route is not hedge.WADO or hedging is None:
        return None
    if not hedging.policy.enabled or exchange.body is not None:
        return None
    item = hedge.item_of(exchange.asked, exchange.head)
    if item is None or PRIMARY in exchange.caller.bound:
        return None
    return Hedge(exchange, item)


class Hedge(Owner):
    """Owns the second attempt until that has won or lost."""

    __slots__ = ("_asked_s", "_exchange", "_heard", "_item", "_key", "_second", "_timer")

    def __init__(self, exchange: Exchange, item: Item) -> None:
        self._exchange = exchange
        self._item = item
        self.caller, self.head, self.asked = exchange.caller, exchange.head, exchange.asked
        self.body = None
        self.forwarded = exchange.forwarded
        proxy = exchange.proxy
        hedging = proxy.hedging
        assert hedging is not None
        self._asked_s = now_s = proxy.clock.monotonic()
        self._heard = False
        self._second: Attempt | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._key = hedging.served.key(self.head, self.caller.address, item)
        hedging.earn()
        if hedging.served.holds(self._key, now_s):
            after_s = hedging.after_s(item.kind)
            self._timer = asyncio.get_running_loop().call_later(after_s, self._due)

    def _due(self) -> None:
        self._timer = None
        try:
            self._begin()
        except Exception as error:
            self.fault(error)

    def _begin(self) -> None:
        exchange, proxy = self._exchange, self._exchange.proxy
        first, hedging = exchange.attempt, proxy.hedging
        if exchange.stage is not Stage.ASKING or first is None or first.name is not PRIMARY:
            return
        if hedging is None or not hedging.policy.enabled or not exchange.response.is_empty:
            return
        if first.connection is not None and first.connection.bound:
            return  # it is this connection whom the primary knows
        verdicts = proxy.board.current.verdicts
        if any(verdicts.get((name, Service.WEB)) is not Verdict.UP for name in (PRIMARY, BACKUP)):
            return
        exchange.see()
        if not exchange.pursuit.may_hedge:
            return
        if not hedging.spend():
            self._count("over_budget")
            return
        self._second = Attempt(self, proxy.sides[BACKUP], proxy.prefix)
        self._second.start(fresh=False)

    # -- what the exchange tells

    def heard(self, attempt: Attempt, head: AnswerHead) -> None:
        """The answer of `attempt`, the exchange's own, begins."""
        if self._heard or attempt.name is not PRIMARY:
            return
        self._heard = True
        now_s = self._exchange.proxy.clock.monotonic()
        hedging = self._exchange.proxy.hedging
        if hedging is not None:
            hedging.learn(self._item.kind, now_s - self._asked_s)
            if not hedge.serves(head):
                # 401, 403, a step to the login, its page, a 404 that hides: what fails says nothing.
                if head.status < 500:
                    hedging.served.learn(self._key, now_s, served=False)
            elif attempt.connection is not None and not attempt.connection.bound:
                hedging.served.learn(self._key, now_s, served=True)
        if head.status not in FAILING:
            self.cancel()

    def take(self, upstream: UpstreamName) -> Attempt | None:
        """The exchange turns to `upstream`: return the attempt that is there already, None: there is none."""
        self._stop_timer()
        if upstream is not BACKUP or self._second is None:
            return None
        second, self._second = self._second, None
        second.hand_to(self._exchange)
        self._count("won")
        return second

    def end_at(self, upstream: UpstreamName) -> bool:
        """`upstream` is given nothing more. Returns whether something of this was there."""
        if upstream is not BACKUP or self._second is None:
            return False
        self._drop(Outcome.LEFT, "lost")
        return True

    def cancel(self) -> None:
        """It is answered, or not wanted any more."""
        self._stop_timer()
        if self._second is not None:
            self._drop(Outcome.LEFT, "lost")

    # -- what the second attempt tells

    def answered_whole(self, attempt: Attempt, head: AnswerHead, body: bytes) -> bool:
        if not hedge.serves(head):
            return False  # `answer_began` comes next
        self._win(attempt)
        return self._exchange.answered_whole(attempt, head, body)

    def answer_began(self, attempt: Attempt, head: AnswerHead) -> None:
        if hedge.serves(head):
            self._win(attempt)
            self._exchange.answer_began(attempt, head)
        else:
            self._drop(outcome_of(head.status), "failed")

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        self._drop(Outcome.TIMED_OUT if failure is Failure.TIMED_OUT else Outcome.FAILED, "failed")

    def switched(self, attempt: Attempt, head: AnswerHead, rest: bytes) -> None:
        self._drop(Outcome.FAILED, "failed")  # 101 unasked

    def answer_data(self, attempt: Attempt, data: bytes) -> None:
        """Comes to the exchange: an answer that began has won, or was left."""

    def answer_unfinished(self, attempt: Attempt) -> None:
        """See `answer_data`."""

    def answer_ended(self, attempt: Attempt) -> None:
        """See `answer_data`."""

    def body_lost(self) -> None:
        """There is none."""

    def fault(self, error: Exception) -> None:
        """Our own code failed at the second attempt before that had won: the exchange has its first."""
        faults.report(error)
        self._drop(Outcome.LEFT, "failed")

    # -- ends

    def _win(self, attempt: Attempt) -> None:
        exchange, hedging = self._exchange, self._exchange.proxy.hedging
        if hedging is not None and not self._heard:
            # What it would have taken nobody knows; so long it took at least.
            hedging.learn(self._item.kind, exchange.proxy.clock.monotonic() - self._asked_s)
        self._count("won")
        self._second = None
        attempt.hand_to(exchange)
        exchange.turn_to(attempt)

    def _drop(self, outcome: Outcome, result: str) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.leave(outcome)
            self._count(result)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self, result: str) -> None:
        self._exchange.proxy.metrics.http_hedges.labels(result).inc()
