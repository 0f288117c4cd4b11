"""The loop over one caller's association: what each message of the caller, or of the upstream, sets off."""

from __future__ import annotations

from failover.dicom.dimse import Message
from failover.errors import LimitExceeded
from failover.relay.carrying import carry
from failover.relay.flight import CallerLeft, Flight, LegLost, too_long
from failover.relay.operations import Keep, Shape, operation
from failover.relay.retrieve import Retrieve
from failover.relay.reverse import relay_backwards
from failover.relay.search import Search
from failover.relay.session import Session
from failover.relay.store import relay_store


async def serve_caller(session: Session) -> None:
    """Serve until the caller releases. Raises CallerLeft."""
    session.serve = lambda message: serve_request(session, message)
    caller = session.caller
    while True:
        await session.until(session.stirs)
        await _settle_leg(session)
        item = caller.take()
        if isinstance(item, Message):
            if not item.command.is_response:  # an unasked response means nothing
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
    if leg.association.has_queued:
        item = leg.association.take()
        if isinstance(item, Message) and not item.command.is_response:
            try:
                await relay_backwards(session, leg, item)
            except LegLost:
                session.abort_leg()
    elif not leg.alive or session.misplaced():
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
