"""How long each phase of a request may stand still: time-outs, each for whoever holds things up.

The limits are `listen.web.answer_timeout` and `body_idle`; a tunnel may be silent for as long as it likes,
and a copy has a limit of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from failover.proxy.retry import Failure
from failover.proxy.stage import Stage

if TYPE_CHECKING:
    from failover.proxy.exchange import Exchange


def look(exchange: Exchange, idle_s: float) -> None:
    """Nothing of `exchange` moved for `idle_s` seconds: end what waits for too long."""
    listen, caller, stage = exchange.proxy.listen, exchange.caller, exchange.stage
    attempt, body = exchange.attempt, exchange.body
    begun = stage is Stage.ANSWERING or exchange.response.answer is not None
    if stage is Stage.ASKING and attempt is not None and attempt.whole and not begun:
        if idle_s > listen.answer_timeout:
            exchange.failed(attempt, Failure.TIMED_OUT)
    elif idle_s <= listen.body_idle or stage in (Stage.TUNNEL, Stage.COPYING):
        return
    elif stage is Stage.ANSWERING and caller.write_paused:
        caller.abort()  # a slow reader must not hold memory and a thread of the upstream
    elif begun:
        if attempt is not None:
            exchange.failed(attempt, Failure.BROKE)  # the upstream stopped inside its answer
    elif body is not None and not body.whole and not caller.reading_paused:
        exchange.answers_itself(408, "the body paused for too long")
    elif attempt is not None:
        exchange.failed(attempt, Failure.TIMED_OUT)  # the upstream does not take the body
