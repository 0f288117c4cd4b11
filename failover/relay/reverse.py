"""Requests that an upstream sends the caller in the caller's association: N-EVENT-REPORT of a commitment.

They are passed on, and noted until the caller answers: that may be after an operation of its own, in which
the association may have moved to another upstream. They are never repeated: an upstream that gets no response
asks again itself.
"""

from __future__ import annotations

import structlog

from failover.dicom.dimse import Message, Status, response
from failover.errors import LimitExceeded
from failover.relay.flight import CallerLeft, Flight, LegLost
from failover.relay.legs import Leg
from failover.relay.operations import operation
from failover.relay.session import Session

_log = structlog.get_logger(__name__)


async def pass_back(session: Session, leg: Leg, message: Message) -> None:
    """Pass a request of the upstream to the caller. Raises LegLost, CallerLeft."""
    flight = Flight(operation(message.command.field), message)
    flight.cancel_sent = True  # a C-CANCEL of the caller speaks of a request of its own, whatever its number
    data_set = await session.hear_data_set(leg, flight, message)
    session.asked_back[flight.message_id] = leg, flight
    await session.to_caller(message.context_id, message.command, data_set)


async def pass_back_and_wait(session: Session, leg: Leg, message: Message) -> None:
    """The same in the middle of an operation of the caller, which goes on when the caller has answered.

    Raises LegLost, CallerLeft. The caller may ask nothing meanwhile: one operation at a time was agreed
    (PS3.7 D.3.3.3).
    """
    await pass_back(session, leg, message)
    while message.command.message_id in session.asked_back:
        answer = await session.caller_says()
        if not answer.command.is_response:
            why = "a request while another one is under way"
            session.caller.abort(why)
            raise CallerLeft(why)
        await answer_back(session, answer)


async def answer_back(session: Session, answer: Message) -> bool:
    """Pass a response of the caller to the upstream that asked, if that is still there. Raises CallerLeft.

    False: nobody asked, and it means nothing.
    """
    leg, flight = session.asked_back.get(answer.command.message_id, (None, None))
    if leg is None or flight is None or not flight.is_answered_by(answer.command):
        return False
    del session.asked_back[flight.message_id]
    command = answer.command
    data_set: bytes | None = None
    try:
        data_set = await session.identifier(answer)
    except LimitExceeded as error:
        _log.warning("response too long", operation=flight.policy.name, why=str(error))
        command = response(flight.request.command, Status.PROCESSING_FAILURE)
    if leg.alive:
        try:
            await session.to_leg(leg, flight, command, data_set)
        except LegLost as lost:
            _log.info("response not passed on", operation=flight.policy.name, why=str(lost))
            session.lose(leg)
    return True
