"""Operations of one request and some responses: C-ECHO, C-FIND, C-MOVE, and plainly all N-services.

A repeated C-FIND passes on only what the caller has not got yet; a repeated C-MOVE's counters never go back.
"""

from __future__ import annotations

from typing import Final

from failover.dicom.dimse import Category, Command, Tag, category
from failover.dicom.messages import Message
from failover.errors import AssociationEnded
from failover.health.passive import Outcome
from failover.relay.flight import Answer, CallerLeft, Flight, LegLost
from failover.relay.legs import Leg
from failover.relay.matches import match_key
from failover.relay.operations import Keep
from failover.relay.session import Session

_KEEP_RAW_BYTES: Final = 8 << 20  # matches kept as they are; beyond that only their keys
_COUNTERS: Final = (Tag.COMPLETED, Tag.FAILED, Tag.WARNING)


class Search:
    """One operation under way: what the caller has got of it already."""

    def __init__(self, session: Session, flight: Flight, identifier: bytes | None) -> None:
        self._session = session
        self._identifier = identifier
        self._passed_raw: list[bytes] = []  # turned into keys when the operation moves: most never do
        self._raw_bytes = 0
        self._passed_keys: set[bytes] = set()
        self._passed = 0
        self._most = dict.fromkeys(_COUNTERS, 0)
        context = session.caller.contexts.get(flight.context_id)
        self._syntax = context.transfer_syntax if context is not None else ""

    async def attempt(self, leg: Leg, flight: Flight) -> Answer:
        """Ask one upstream and pass on its pending responses; return its final one."""
        session = self._session
        if flight.policy.keep is Keep.NONE and flight.request.has_data_set:
            await self._stream_request(leg, flight)
        else:
            await session.to_leg(leg, flight, flight.request.command, self._identifier)
        while True:
            message = await session.hear_response(leg, flight)
            data_set = await session.hear_data_set(leg, flight, message)
            command = self._monotonic(message.command)
            if category(message.command.status) is not Category.PENDING:
                moved = command.number(Tag.COMPLETED)  # C-MOVE: its pending responses bring nothing
                return Answer(command, data_set, self._passed if moved is None else moved)
            await self._pass_on(flight, message, command, data_set)

    async def _stream_request(self, leg: Leg, flight: Flight) -> None:
        """Send a request that may not be repeated, piece by piece as it comes."""
        session = self._session
        await session.until_writable(leg, flight)
        flight.sent = True
        try:
            await leg.association.send_command(flight.context_id, flight.request.command)
        except AssociationEnded as error:
            raise LegLost(str(error), Outcome.FAILED) from error
        try:
            while fragments := await session.caller.next_fragments():
                await session.until_writable(leg, flight)
                try:
                    await leg.association.send_fragments(flight.context_id, *fragments)
                except AssociationEnded as error:
                    raise LegLost(str(error), Outcome.FAILED) from error
        except AssociationEnded as error:
            raise CallerLeft(str(error)) from error

    async def _pass_on(
        self, flight: Flight, message: Message, command: Command, data_set: bytes | None
    ) -> None:
        if data_set is not None and flight.policy.name == "C-FIND":
            if flight.moved:
                self._to_keys()
                key = match_key(data_set, self._syntax)
                if key in self._passed_keys:
                    return
                self._passed_keys.add(key)
            else:
                self._passed_raw.append(data_set)
                self._raw_bytes += len(data_set)
                if self._raw_bytes > _KEEP_RAW_BYTES:
                    self._to_keys()
        self._passed += 1
        await self._session.to_caller(message.context_id, command, data_set)

    def _to_keys(self) -> None:
        self._passed_keys.update(match_key(raw, self._syntax) for raw in self._passed_raw)
        self._passed_raw.clear()
        self._raw_bytes = 0

    def _monotonic(self, command: Command) -> Command:
        """Return `command` with counters not below those already shown."""
        values: dict[Tag, int | str | None] = {}
        for tag in _COUNTERS:
            number = command.number(tag)
            if number is not None:
                self._most[tag] = values[tag] = max(self._most[tag], number)
        return command.replaced(values) if values else command
