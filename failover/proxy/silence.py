"""An upstream that became suspect inside its answer: when it is silent too, the other is asked for the rest.

It is not left before the other's answer fits: it may only have paused, and the other hold less. Until then it
is parked, and nothing of it is read.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from failover.model import Service, Verdict
from failover.proxy.stage import Stage

if TYPE_CHECKING:
    from failover.proxy.exchange import Exchange

# As long as the silence that makes an upstream suspect (DESIGN 4.1).
SILENT_S: Final = 0.150


def watch(exchange: Exchange) -> None:
    answer = exchange.response.answer
    if answer is not None and answer.passage is not None:
        exchange.call_later(SILENT_S, partial(_look, exchange, answer.received_bytes))


def _look(exchange: Exchange, received_bytes: int) -> None:
    attempt, answer = exchange.attempt, exchange.response.answer
    if attempt is None or answer is None:
        return
    verdict = exchange.proxy.board.current.verdicts.get((attempt.name, Service.WEB))
    if answer.received_bytes != received_bytes:
        if verdict is Verdict.SUSPECT:
            watch(exchange)  # it still speaks; it may fall silent while it is suspect
        return
    exchange.see()
    if exchange.caller.write_paused or not exchange.pursuit.leaves(attempt.name, verdict, sent=True):
        return
    exchange.attempt = None
    exchange.response.park(attempt)
    exchange.go_on()


def back_to_parked(exchange: Exchange) -> bool:
    """The other has nothing that fits: go on where we were. Returns whether there was such a place."""
    parked = exchange.response.unpark()
    if parked is None:
        return False
    exchange.attempt = parked
    exchange.stage = Stage.ANSWERING
    return True
