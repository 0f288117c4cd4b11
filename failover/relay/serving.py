"""The loop over one caller's association: what each message of the caller, or of the upstream, sets off."""

from __future__ import annotations

import structlog

from failover.dicom.messages import Message
from failover.errors import LimitExceeded
from failover.health.passive import Outcome
from failover.relay.carrying import carry
from failover.relay.flight import CallerLeft, Flight, LegLost, too_long
from failover.relay.operations import Keep, Shape, operation
from failover.relay.retrieve import Retrieve
from failover.relay.search import Search
from failover.relay.session import Session
from failover.relay.store import relay_store

_log = structlog.get_logger(__name__)


async def serve_caller(session: Session) -> None:
    """Serve until the caller releases. Raises CallerLeft."""
    caller = session.caller
    while True:
        await session.until(session.stirs)
        await _settle_leg(session)
        item = caller.take()
        if isinstance(item, Message):
            if item.command.is_response:
                await session.answer_back(item)
            else:
                with caller.working():
                    await serve_request(session, item)
        elif item is None:
            if caller.releasing:
                return
            if caller.ended is not None:
                raise CallerLeft(caller.ended)


async def _settle_leg(session: Session) -> None:
    """See to an idle leg: pass on what the upstream asks, close what it ended or what is misplaced."""
    leg = session.leg
    if leg is None:
        return
    try:
        while leg.association.has_queued:
            item = leg.association.take()
            if not isinstance(item, Message):
                continue
            if item.command.is_response:
                raise LegLost("a response to what was not asked", Outcome.FAILED)
            await session.pass_back(leg, item)
    except LegLost as lost:
        _log.warning("idle upstream lost", upstream=str(leg.upstream), why=str(lost))
        session.lose(leg)
    else:
        if not leg.alive or session.misplaced():
            session.drop_leg()


async def serve_request(session: Session, message: Message) -> None:
    """Carry one request of the caller to its end. Raises CallerLeft."""
    flight = Flight(operation(message.command.field), message)
    if flight.policy.shape is Shape.STORE:
        await relay_store(session, flight)
        return
    identifier: bytes | None = None
    if flight.policy.keep is not Keep.NONE:
        try:
            identifier = await session.identifier(message)
        except LimitExceeded as error:
            await session.to_caller(flight.context_id, too_long(flight, error))
            return
    if flight.policy.shape is Shape.RETRIEVE:
        await carry(session, flight, Retrieve(session, identifier).attempt)
    else:
        await carry(session, flight, Search(session, flight, identifier).attempt)
