"""Carrying one operation from upstream to upstream until there is an answer that counts, which is passed on.

How one upstream is asked is `search`, `store`, `retrieve`; which answers count is `operations.judge`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog

from failover.dicom.dimse import Category, Status, category
from failover.health.passive import Outcome
from failover.model import UpstreamName
from failover.relay.flight import Answer, Flight, LegLost, own_response
from failover.relay.legs import Leg
from failover.relay.offer import AGAIN_EVERY_S, NEITHER_S
from failover.relay.operations import Judgement, OnLoss, judge
from failover.relay.session import Session
from failover.routing.selection import Choice, Kind

_log = structlog.get_logger(__name__)
_LOSSES: Final = 8  # an operation that broke so many associations is itself what breaks them
_HOLLOW_S: Final = 30.0  # how long an operation goes back to a primary that is neither up nor down

Attempt = Callable[[Leg, Flight], Awaitable[Answer]]


async def carry(session: Session, flight: Flight, attempt: Attempt) -> None:
    """Try `attempt` at the chosen upstream, then at the other, again for NEITHER_S; pass on what counts.

    Raises CallerLeft alone.
    """
    clock = session.around.clock
    stuck_since_s: float | None = None
    while True:
        found = await session.leg_for(flight)
        if found is None:
            now_s = clock.monotonic()
            stuck_since_s = now_s if stuck_since_s is None else stuck_since_s
            if await _give_up(session, flight, now_s - stuck_since_s):
                return
            flight.lost.clear()
            await session.pause(AGAIN_EVERY_S)
            continue
        began_s = clock.monotonic()
        leg, choice = found
        answer = await _try(session, flight, leg, attempt)
        if clock.monotonic() - began_s > NEITHER_S:
            stuck_since_s = None  # it was under way for long: a new search for an upstream begins
        if answer is None:
            flight.losses += 1
            may_not = flight.sent and (flight.policy.on_loss is OnLoss.FAIL or flight.unkept)
            if may_not or flight.losses >= _LOSSES:
                lost = own_response(flight, flight.policy.lost, "the archive was lost")
                await _finish(session, flight, None, Answer(lost))
                return
            continue
        judgement = _judge(session, flight, leg, choice, answer)
        # What could not be kept cannot be sent again: the other would get an empty data set.
        if judgement is Judgement.PASS or (flight.sent and flight.unkept):
            await _finish(session, flight, leg.upstream, answer)
            return
        flight.hollow = flight.hollow or judgement is Judgement.HOLLOW
        flight.refused[leg.upstream] = answer
        flight.moved = True
        _log.info(
            "operation goes to the other upstream",
            operation=flight.policy.name,
            upstream=str(leg.upstream),
            status=f"{answer.command.status:#06x}",
            why=str(judgement),
        )


async def _give_up(session: Session, flight: Flight, stuck_s: float) -> bool:
    """Nobody can be had now. End the operation if that is right, and return whether it has ended."""
    if session.caller.cancelled(flight.message_id):
        await _finish(session, flight, None, Answer(own_response(flight, Status.CANCEL)))
        return True
    if flight.hollow and UpstreamName.PRIMARY not in flight.refused and stuck_s < _HOLLOW_S:
        if not session.choice(flight.policy.kind).provisional:
            flight.refused.clear()  # the primary is down now: the backup's answer counts
            flight.hollow = False
        return False
    if flight.refused or stuck_s > NEITHER_S:
        await _finish(session, flight, *_best(flight))
        return True
    return False


async def _try(session: Session, flight: Flight, leg: Leg, attempt: Attempt) -> Answer | None:
    """Return the answer of one upstream, None when it was lost; live traffic is told either way."""
    traffic = session.around.traffic[leg.upstream]
    flight.token = traffic.began(flight.policy.part, flight.policy.name)
    outcome = Outcome.LEFT
    try:
        answer = _weighed(session, flight, leg, await attempt(leg, flight))
        failed = answer.upstream_at_fault or flight.policy.moves(answer.command.status)
        outcome = Outcome.FAILED if failed else Outcome.ANSWERED
    except LegLost as lost:
        outcome = Outcome.LEFT if leg.expelled else lost.outcome
        _log.warning(
            "upstream lost in an operation",
            operation=flight.policy.name,
            upstream=str(leg.upstream),
            why=str(lost),
        )
        session.lose(leg)
        flight.lost[leg.upstream] += 1
        flight.moved = True
        flight.cancel_sent = False
        answer = None
    finally:
        traffic.ended(flight.token, outcome)
    if flight.policy.kind is Kind.STORE:
        _tell_store(session, leg, outcome, answer)
    return answer


def _weighed(session: Session, flight: Flight, leg: Leg, answer: Answer) -> Answer:
    """Return the answer, with what its status says of the object doubted when others are told the same."""
    statuses, status = session.around.object_statuses, answer.command.status
    if not flight.policy.speaks_of_object(status):
        if flight.policy.kind is Kind.STORE and category(status) in (Category.SUCCESS, Category.WARNING):
            statuses.accepted(leg.upstream)
        return answer
    calling_ae = session.caller.request.calling_ae
    refused = statuses.refused(leg.upstream, calling_ae, session.around.clock.monotonic())
    if not refused:
        return answer
    for caller in refused:
        session.around.traffic[leg.upstream].store_result(caller, False)
    return replace(answer, upstream_at_fault=True)


def _tell_store(session: Session, leg: Leg, outcome: Outcome, answer: Answer | None) -> None:
    """Stores have no probe: they are judged from what becomes of those of callers. A permanent status speaks
    of the object and says nothing, unless objects of several callers get it (`object_statuses`)."""
    traffic, caller = session.around.traffic[leg.upstream], session.caller.request.calling_ae
    if outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        traffic.store_result(caller, False)
    elif answer is not None and category(answer.command.status) in (Category.SUCCESS, Category.WARNING):
        traffic.store_result(caller, True)


def _judge(session: Session, flight: Flight, leg: Leg, choice: Choice, answer: Answer) -> Judgement:
    now = session.choice(flight.policy.kind)  # the primary may have gone down meanwhile: then it counts
    return judge(
        flight.policy,
        answer.command.status,
        delivered=answer.delivered,
        of_backup=leg.upstream is UpstreamName.BACKUP,
        provisional=choice.provisional and now.provisional,
        primary_may=choice.rescue is UpstreamName.PRIMARY and UpstreamName.PRIMARY not in flight.refused,
        upstream_at_fault=answer.upstream_at_fault,
    )


async def _finish(session: Session, flight: Flight, upstream: UpstreamName | None, answer: Answer) -> None:
    """Count the answer and pass it on."""
    metrics = session.around.metrics
    name = "none" if upstream is None else str(upstream)
    kind = category(answer.command.status)
    metrics.dicom_operations.labels(flight.policy.name, name, str(kind)).inc()
    if flight.moved and upstream is not None:
        metrics.dicom_moved.labels(flight.policy.name).inc()
    stored = flight.policy.kind is Kind.STORE and kind in (Category.SUCCESS, Category.WARNING)
    if stored and upstream is not None:
        session.around.store_kept(upstream)
        if flight.acknowledged is not None:
            await flight.acknowledged(upstream, answer.command.status)
    await session.to_caller(flight.context_id, answer.command, answer.data_set)


def _best(flight: Flight) -> tuple[UpstreamName | None, Answer]:
    """Return what the caller gets when nobody had a good answer: the primary's own, else the backup's."""
    for upstream in (UpstreamName.PRIMARY, UpstreamName.BACKUP):
        if upstream in flight.refused:
            return upstream, flight.refused[upstream]
    return None, Answer(own_response(flight, flight.policy.lost, "no archive could answer"))
