"""How an answer is delivered: held until it is whole, or streamed as it comes. Pure.

A held answer of which a part is missing can be fetched from the other upstream unseen; a streamed one
cannot. The policy is chosen per answer, as data; further ways of delivery are further members of `Delivery`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from failover.http.head import AnswerHead
from failover.proxy.classify import Asked, WebRoute
from failover.routing.selection import Kind

# DESIGN 4.2: what a caller waits for anyway; beyond it the wait for the last byte would be felt.
HOLD_BYTES: Final = 2**20
# A chunked answer does not say how long it is: it gets this long to end, then it streams.
HOLD_CHUNKED_S: Final = 0.050
# All held answers together: beyond it they stream, and are counted.
HOLD_TOTAL_BYTES: Final = 32 * 2**20
# The answer to a store is read before it is passed on; it names some 300 bytes per instance.
STORE_ANSWER_BYTES: Final = 8 * 2**20


class Delivery(StrEnum):
    STREAM = "stream"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Plan:
    """How one answer is delivered, and when holding it ends."""

    delivery: Delivery
    limit_bytes: int = 0
    """Beyond it the answer streams on."""
    limit_s: float | None = None
    """After it the answer streams on; None: it is held for as long as it takes."""


_STREAM: Final = Plan(Delivery.STREAM)
_HOLD_LENGTH: Final = Plan(Delivery.HOLD, HOLD_BYTES)
_HOLD_CHUNKED: Final = Plan(Delivery.HOLD, HOLD_BYTES, HOLD_CHUNKED_S)
_HOLD_STORE: Final = Plan(Delivery.HOLD, STORE_ANSWER_BYTES)


def plan(asked: Asked, answer: AnswerHead, *, judged: bool) -> Plan:
    """Return how `answer` is delivered.

    `judged`: its body decides, or the other upstream may answer better: as long as it is small it is held.
    """
    if asked.kind is Kind.STORE:
        return _HOLD_STORE
    if asked.kind is not Kind.READ:
        return _STREAM
    if (answer.first(b"content-type") or b"").lower().startswith(b"text/event-stream"):
        return _STREAM
    if answer.content_length is not None:
        return _HOLD_LENGTH if answer.content_length <= HOLD_BYTES else _STREAM
    return _HOLD_LENGTH if judged else _HOLD_CHUNKED


def is_empty_search(asked: Asked, body: bytes) -> bool:
    """Whether `body`, a whole 200, is a search that found nothing: `[]`, or no body at all."""
    return asked.route is WebRoute.QIDO and len(body) <= 64 and b"".join(body.split()) in (b"", b"[]")
