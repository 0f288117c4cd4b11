"""Requests that an upstream sends the caller in the caller's association: N-EVENT-REPORT of a commitment."""

from __future__ import annotations

from failover.dicom.dimse import Message
from failover.relay.flight import Flight
from failover.relay.legs import Leg
from failover.relay.operations import operation
from failover.relay.session import Session


async def relay_backwards(session: Session, leg: Leg, message: Message) -> None:
    """Pass a request of the upstream to the caller, and the caller's response back.

    Raises LegLost, CallerLeft. It is never repeated: an upstream that gets no response asks again itself.
    """
    flight = Flight(operation(message.command.field), message)
    data_set = await session.hear_data_set(leg, flight, message)
    await session.to_caller(message.context_id, message.command, data_set)
    while True:
        answer = await session.caller_says()
        if answer.command.is_response:
            break
        await session.serve(answer)  # a request of the caller that crossed ours
    answered = await session.identifier(answer)
    await session.to_leg(leg, flight, answer.command, answered)
