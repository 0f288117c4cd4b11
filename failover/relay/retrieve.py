"""C-GET: sub-operations flow from the upstream to the caller inside the association.

Towards the caller a message begins only when it is whole here, so none is ever half sent; what was already
delivered is not sent again when another upstream goes on, and the counters are then ours.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import structlog

from failover.dicom.dimse import Category, Command, CommandField, Status, Tag, category, response
from failover.dicom.messages import Fragment, Message
from failover.dicom.units import Buffer
from failover.errors import AssociationEnded, SpoolFull
from failover.health.passive import Outcome
from failover.relay.flight import Answer, CallerLeft, Flight, LegLost, answers
from failover.relay.legs import Leg
from failover.relay.session import Session
from failover.spool import KeptBody

_log = structlog.get_logger(__name__)
_PIECE_BYTES: Final = 128 * 1024


class Retrieve:
    """One C-GET under way: what the caller has got, and how it took it."""

    def __init__(self, session: Session, identifier: bytes | None) -> None:
        self._session = session
        self._identifier = identifier
        self._delivered: set[str] = set()  # SOP instance UIDs
        self._warnings = 0
        self._failed: set[str] = set()

    async def attempt(self, leg: Leg, flight: Flight) -> Answer:
        """Ask one upstream, pass its instances on; return its final response."""
        session = self._session
        await session.to_leg(leg, flight, flight.request.command, self._identifier)
        while True:
            message = await session.hear_message(leg, flight)
            command = message.command
            if command.field == CommandField.C_STORE_RQ:
                await self._sub_operation(leg, flight, message)
                continue
            if not command.is_response:
                await session.pass_back(leg, message)
                continue
            data_set = await session.hear_data_set(leg, flight, message)
            if flight.moved:
                command = self._counted(command)
            if category(command.status) is not Category.PENDING:
                return Answer(command, data_set, len(self._delivered))
            await session.to_caller(message.context_id, command, data_set)

    async def _sub_operation(self, leg: Leg, flight: Flight, message: Message) -> None:
        session = self._session
        uid = message.command.sop_instance_uid
        if uid in self._delivered or message.context_id not in session.caller.contexts:
            while leg.association.in_data_set:
                await session.hear(leg, flight)
            taken = uid in self._delivered
            status = Status.SUCCESS if taken else Status.SOP_CLASS_NOT_SUPPORTED
            await self._answer(leg, flight, message, response(message.command, status))
            return
        body = session.around.spool.open()
        body.on_change = session.nudge
        try:
            await self._deliver(leg, flight, message, body)
            answer = await session.caller_says()
            while answer.command.is_response and not answers(message.command, answer.command):
                await session.answer_back(answer)  # to a report, before this or meanwhile
                answer = await session.caller_says()
        finally:
            body.close()
        if not answer.command.is_response:
            session.caller.abort("a request where a response to C-STORE belongs")
            raise CallerLeft("a request where a response to C-STORE belongs")
        self._note(uid, answer.command.status)
        await self._answer(leg, flight, message, answer.command)

    async def _answer(self, leg: Leg, flight: Flight, message: Message, command: Command) -> None:
        """Answer a sub-operation, in its own presentation context."""
        session = self._session
        await session.until_writable(leg, flight)
        try:
            await leg.association.send(message.context_id, command)
        except AssociationEnded as error:
            raise LegLost(str(error), Outcome.FAILED) from error

    async def _deliver(self, leg: Leg, flight: Flight, message: Message, body: KeptBody) -> None:
        """Read the instance whole, then send it; without room for it, send it as it comes."""
        session = self._session
        rest: Fragment | None = None
        while rest is None and leg.association.in_data_set:
            item = await session.hear(leg, flight)
            if not isinstance(item, Fragment):
                continue
            try:
                body.append_pieces(item.pieces, item.size)
            except SpoolFull as error:
                _log.warning("instance goes on unprotected", why=str(error))
                rest = item
                break
            if body.busy:
                await session.until(lambda: not body.busy or body.failed)
        parts = _Parts(session, leg, flight, body, rest)
        try:
            await session.caller.send_parts(message.context_id, message.command, parts)
        except AssociationEnded as error:
            raise CallerLeft(str(error)) from error
        except (LegLost, SpoolFull) as error:  # half sent: the caller must see it
            session.caller.abort("an instance could not be sent to its end")
            raise CallerLeft("an unprotected instance was lost") from error

    def _note(self, uid: str, status: int) -> None:
        kind = category(status)
        if kind is Category.FAILURE:
            self._failed.add(uid)
            return
        self._failed.discard(uid)
        self._delivered.add(uid)
        if kind is Category.WARNING:
            self._warnings += 1

    def _counted(self, command: Command) -> Command:
        """Return `command` with our counters: those of a second upstream do not know what the first sent."""
        values: dict[Tag, int | str | None] = {
            Tag.COMPLETED: len(self._delivered) - self._warnings,
            Tag.FAILED: max(len(self._failed), command.number(Tag.FAILED) or 0),
            Tag.WARNING: self._warnings,
        }
        return command.replaced(values)


class _Parts:
    """What is kept of an instance, then, when there was no room for it, what still comes of it.

    No generator: ADR 7.
    """

    def __init__(
        self, session: Session, leg: Leg, flight: Flight, body: KeptBody, rest: Fragment | None
    ) -> None:
        self._session, self._leg, self._flight = session, leg, flight
        self._body = body
        self._at = 0
        self._unprotected = rest is not None
        self._pieces: deque[Buffer] = deque(() if rest is None else rest.pieces)

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> Buffer:
        if self._at < self._body.length_bytes:
            piece = await self._body.read(self._at, _PIECE_BYTES)
            self._at += len(piece)
            return piece
        while not self._pieces:
            if not self._unprotected or not self._leg.association.in_data_set:
                raise StopAsyncIteration
            item = await self._session.hear(self._leg, self._flight)
            if isinstance(item, Fragment):
                self._pieces.extend(item.pieces)
        return self._pieces.popleft()
