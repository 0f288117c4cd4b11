"""One caller's association: operation after operation, each at the upstream that is chosen for it now.

It owns the leg, waits for caller, leg and route at once, and carries an operation to another upstream when
the first is lost or says no. How an operation is sent and answered is in `search`, `store`, `retrieve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from failover.clock import Clock
from failover.dicom.dimse import Command, CommandField, Status, cancel_rq, response
from failover.dicom.exchange import Association
from failover.dicom.messages import Fragment, Message
from failover.dicom.units import Buffer
from failover.errors import AssociationEnded, LimitExceeded, UpstreamError, UpstreamTimeout
from failover.health.passive import LiveTraffic, Outcome
from failover.metrics import RouterMetrics
from failover.model import Service, UpstreamName, Verdict
from failover.relay.copies import Copies
from failover.relay.flight import Answer, CallerLeft, Flight, LegLost, not_taken
from failover.relay.legs import Leg, Legs
from failover.relay.object_statuses import ObjectStatuses
from failover.relay.offer import Proposal, keeps_promise
from failover.relay.operations import operation
from failover.routing.board import RouteBoard
from failover.routing.selection import Choice, Kind
from failover.spool import Spool

_log = structlog.get_logger(__name__)
MAX_SHORT_BYTES: Final = 4 << 20  # of an identifier or a match; a longer one ends the operation
_CALLER_SILENT_S: Final = 300.0  # a caller that answers no sub-operation for so long is aborted
_PASSED_OVER_S: Final = 1.0  # for so long nobody waits a second time for who let our patience run out
_ASKED_BACK: Final = 64  # so many reports an upstream may have unanswered in one association
_LOST_TWICE: Final = 2  # an upstream that lost one operation so often is not asked a third time at once


class Surroundings(Protocol):
    """What all sessions of a relay share."""

    legs: Legs
    board: RouteBoard
    traffic: dict[UpstreamName, LiveTraffic]
    metrics: RouterMetrics
    clock: Clock
    spool: Spool
    copies: Copies | None
    object_statuses: ObjectStatuses

    def store_kept(self, upstream: UpstreamName) -> None:
        """A C-STORE was acknowledged by `upstream`."""


class Session:
    """The life of one caller's association."""

    def __init__(
        self, caller: Association, leg: Leg | None, later: Proposal, kind: Kind, around: Surroundings
    ) -> None:
        self.caller = caller
        self.leg = leg
        self.around = around
        self.later = later
        self._kind = kind
        self._nudged: asyncio.Future[None] | None = None
        self._passed_over_s: dict[UpstreamName, float] = {}  # when it let our patience run out, monotonic
        if leg is not None and leg.passed_over is not None:
            self._passed_over_s[leg.passed_over] = around.clock.monotonic()
        self._asked_back: list[
            tuple[Leg, Flight]
        ] = []  # reports of upstreams that the caller has not answered
        caller.listen(self.nudge)
        if leg is not None:
            leg.association.listen(self.nudge)

    # -- waiting ------------------------------------------------------------------------------------

    def nudge(self) -> None:
        """Something changed: arrived, ended, drained, or the route."""
        if self._nudged is not None and not self._nudged.done():
            self._nudged.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once `holds()`, asked now and at each nudge."""
        while not holds():
            self._nudged = asyncio.get_running_loop().create_future()
            await self._nudged

    def stirs(self) -> bool:
        """Whether something is to be done although no operation is under way."""
        caller, leg = self.caller, self.leg
        return (
            caller.has_queued
            or caller.ended is not None
            or caller.releasing
            or (leg is not None and (leg.association.has_queued or not leg.alive))
            or self.misplaced()
        )

    async def pause(self, seconds: float) -> None:
        await self.around.clock.sleep(seconds)
        if self.caller.ended is not None:
            raise CallerLeft(self.caller.ended)

    # -- the route ----------------------------------------------------------------------------------

    def choice(self, kind: Kind) -> Choice:
        return self.around.board.choice(Service.DICOM, kind)

    def verdict(self, upstream: UpstreamName) -> Verdict | None:
        return self.around.board.current.verdicts.get((upstream, Service.DICOM))

    def _to_be_left(self, leg: Leg, flight: Flight) -> bool:
        """Whether an operation under way at `leg` is to be moved: its upstream is suspect or down, and the
        other one is better. A mere change of phase lets it end where it is."""
        kind = flight.policy.kind
        if kind is Kind.OTHER or self.verdict(leg.upstream) not in (Verdict.SUSPECT, Verdict.DOWN):
            return False
        choice = self.choice(kind)
        if choice.first is None or choice.first is leg.upstream:
            return False
        if choice.first in flight.refused:  # it had its say: only what did not count may count now
            return flight.hollow and not choice.provisional
        return True

    def misplaced(self) -> bool:
        """Whether the idle leg is where nobody serves any more: it is left at once, so that a drain ends.

        Not before the caller has answered what its upstream asked, or the grace of the drain is over.
        """
        if self.leg is None or any(asker is self.leg for asker, _ in self._asked_back):
            return False
        choice = self.choice(self._kind)
        return choice.first is not None and choice.first is not self.leg.upstream and not choice.provisional

    # -- the leg ------------------------------------------------------------------------------------

    async def leg_for(self, flight: Flight) -> tuple[Leg, Choice] | None:
        """Return a leg for this operation, opened if need be; None when nobody can be had now.

        Who lost this operation is asked after the other; who refused it, or lost it twice, is left out.
        """
        kind = flight.policy.kind
        choice = self.choice(kind)
        places = [name for name in (choice.first, choice.rescue) if name is not None]
        for upstream in sorted(places, key=lambda name: (flight.lost[name], self._waits_out(name, flight))):
            if upstream in flight.refused or flight.lost[upstream] >= _LOST_TWICE:
                continue
            leg = self.leg
            if leg is None or leg.upstream is not upstream or not leg.alive:
                try:
                    leg = await self.around.legs.open(upstream, self.later, choice, kind)
                except UpstreamError as error:
                    _log.info("leg not opened", upstream=str(upstream), why=str(error))
                    if isinstance(error, UpstreamTimeout):
                        self._passed_over_s[upstream] = self.around.clock.monotonic()
                    self._raise_if_caller_left()
                    continue
                self.drop_leg()
                self.leg = leg
                leg.association.listen(self.nudge)
            self._raise_if_caller_left()
            if not self._takes(leg, flight):
                _log.info("the upstream does not take this context", upstream=str(upstream))
                flight.refused[upstream] = Answer(not_taken(flight))
                # While the primary may still answer, nothing that the backup cannot do counts (DESIGN 4.1).
                flight.hollow = flight.hollow or (choice.provisional and upstream is UpstreamName.BACKUP)
                continue
            self._kind = kind
            return leg, choice
        return None

    def _takes(self, leg: Leg, flight: Flight) -> bool:
        """Whether `leg` has the operation's presentation context, with what was promised for it."""
        context = leg.association.contexts.get(flight.context_id)
        return context is not None and keeps_promise(
            self.caller.answer.user.extended, leg.association.answer.user.extended, context.abstract_syntax
        )

    def _waits_out(self, upstream: UpstreamName, flight: Flight) -> bool:
        """Whether the other one is asked first: this one has just let our patience run out, and what is asked
        is whole anywhere. Searches and retrieves wait for the primary once more (DESIGN 4.2)."""
        since_s = self._passed_over_s.get(upstream)
        if since_s is None or not flight.policy.whole_anywhere:
            return False
        return self.around.clock.monotonic() - since_s < _PASSED_OVER_S

    def drop_leg(self) -> None:
        """Close the leg: released when it is whole, else forgotten."""
        leg, self.leg = self.leg, None
        if leg is None:
            return
        if leg.association.ended is None:
            self.around.legs.release(leg)
        else:
            self.around.legs.abort(leg)

    def abort_leg(self) -> None:
        if self.leg is not None:
            self.lose(self.leg)

    def lose(self, leg: Leg) -> None:
        """Abort `leg`; the one that has taken its place meanwhile stays."""
        if self.leg is leg:
            self.leg = None
        self.around.legs.abort(leg)

    def end_at(self, upstream: UpstreamName) -> bool:
        """End the leg if it is at `upstream`, and say whether it was: what is under way moves or fails."""
        leg = self.leg
        if leg is None or leg.upstream is not upstream:
            return False
        if self.caller.is_working:
            self.around.legs.expel(leg)
            self.nudge()
        else:
            self.drop_leg()
        return True

    # -- what operations use ------------------------------------------------------------------------

    async def hear(self, leg: Leg, flight: Flight) -> Message | Fragment:
        """Return the next item from the upstream.

        What the caller says meanwhile is passed on: a C-CANCEL, and the answer to a report, for which the
        upstream may be waiting.

        Raises LegLost and CallerLeft.
        """
        association = leg.association
        while True:
            try:
                async with asyncio.timeout(flight.policy.silent_s):
                    await self.until(lambda: self._stirs(leg, flight))
            except TimeoutError:
                raise LegLost("silent for too long", Outcome.TIMED_OUT) from None
            self._raise_if_caller_left()
            if self._cancel_waits(flight) and association.ended is None:
                flight.cancel_sent = True
                await self.to_leg(leg, flight, cancel_rq(flight.message_id))
            while self._report_answered():
                answer = self.caller.take()
                if isinstance(answer, Message):
                    await self.answer_back(answer)
            item = association.take()
            if item is not None:
                self.around.traffic[leg.upstream].heard(flight.token)
                return item
            self._raise_if_lost(leg, flight)

    def _stirs(self, leg: Leg, flight: Flight) -> bool:
        association = leg.association
        return (
            association.has_queued
            or association.ended is not None
            or association.releasing
            or self.caller.ended is not None
            or self._cancel_waits(flight)
            or self._report_answered()
            or self._to_be_left(leg, flight)
        )

    def _report_answered(self) -> bool:
        return bool(self._asked_back) and self.caller.next_is_response

    def _cancel_waits(self, flight: Flight) -> bool:
        return not flight.cancel_sent and self.caller.cancelled(flight.message_id)

    def _raise_if_caller_left(self) -> None:
        if self.caller.ended is not None:
            raise CallerLeft(self.caller.ended)

    def _raise_if_lost(self, leg: Leg, flight: Flight) -> None:
        association = leg.association
        if association.ended is not None:
            raise LegLost(association.ended, Outcome.FAILED)
        if association.releasing:
            raise LegLost("released in the middle of an operation", Outcome.FAILED)
        if self._to_be_left(leg, flight):
            raise LegLost(f"the {leg.upstream} is {self.verdict(leg.upstream)}", Outcome.LEFT)

    async def hear_message(self, leg: Leg, flight: Flight) -> Message:
        """Return the next message from the upstream; what is left of a data set before it is skipped.

        A response to another request than this one breaks the protocol: what it would end is unknown, so the
        leg is lost, and nothing is taken for answered.
        """
        while True:
            item = await self.hear(leg, flight)
            if isinstance(item, Message):
                if item.command.is_response and not flight.is_answered_by(item.command):
                    raise LegLost("a response to what was not asked", Outcome.FAILED)
                return item

    async def hear_response(self, leg: Leg, flight: Flight) -> Message:
        """Return the next response from the upstream; what it asks the caller meanwhile is passed on."""
        while not (message := await self.hear_message(leg, flight)).command.is_response:
            await self.pass_back(leg, message)
        return message

    async def hear_data_set(self, leg: Leg, flight: Flight, message: Message) -> bytes | None:
        """Return the data set of a message just heard, whole; None when it has none."""
        if not message.has_data_set:
            return None
        parts: list[Buffer] = []
        size = 0
        while leg.association.in_data_set:
            item = await self.hear(leg, flight)
            if isinstance(item, Fragment):
                parts += item.pieces
                size += item.size
            if size > MAX_SHORT_BYTES:
                raise LegLost("a data set too long for its message", Outcome.FAILED)
        return b"".join(parts)

    async def to_leg(
        self, leg: Leg, flight: Flight, command: Command, data_set: Buffer | None = None
    ) -> None:
        """Send the upstream a message. Raises LegLost also when it takes nothing while it is suspect."""
        await self.until_writable(leg, flight)
        flight.sent = True
        try:
            await leg.association.send(flight.context_id, command, data_set)
        except AssociationEnded as error:
            raise LegLost(str(error), Outcome.FAILED) from error

    async def until_writable(self, leg: Leg, flight: Flight) -> None:
        """Return when the upstream takes more. Raises LegLost, CallerLeft."""
        association = leg.association
        if not association.writing_paused and association.ended is None:
            return
        try:
            async with asyncio.timeout(flight.policy.silent_s):
                await self.until(
                    lambda: (
                        not association.writing_paused
                        or association.ended is not None
                        or self.caller.ended is not None
                        or self._to_be_left(leg, flight)
                    )
                )
        except TimeoutError:
            raise LegLost("takes nothing", Outcome.TIMED_OUT) from None
        self._raise_if_caller_left()
        self._raise_if_lost(leg, flight)

    async def to_caller(self, context_id: int, command: Command, data_set: Buffer | None = None) -> None:
        """Send the caller a message. Raises CallerLeft."""
        try:
            await self.caller.send(context_id, command, data_set)
        except AssociationEnded as error:
            raise CallerLeft(str(error)) from error

    async def caller_says(self) -> Message:
        """Return the caller's next message. Raises CallerLeft, also when it says nothing for 300 s."""
        try:
            async with asyncio.timeout(_CALLER_SILENT_S):
                message = await self.caller.receive()
        except TimeoutError:
            self.caller.abort("no response to a request of ours")
            raise CallerLeft("no response in time") from None
        except AssociationEnded as error:
            raise CallerLeft(str(error)) from error
        if message is None:
            raise CallerLeft("released in the middle of an operation")
        return message

    async def identifier(self, message: Message) -> bytes | None:
        """Return the caller's identifier, whole. Raises CallerLeft, LimitExceeded."""
        if not message.has_data_set:
            return None
        try:
            return await self.caller.whole_data_set(MAX_SHORT_BYTES)
        except AssociationEnded as error:
            raise CallerLeft(str(error)) from error

    # -- what an upstream asks the caller: N-EVENT-REPORT of a commitment ---------------------------

    async def pass_back(self, leg: Leg, message: Message) -> None:
        """Pass a request of the upstream to the caller, and note it until that answers.

        That may be after operations of its own, when the association has moved. It is never repeated: an
        upstream that gets no response asks again itself. Raises LegLost, CallerLeft; LegLost also for what
        an acceptor may not ask: only reports, and what the caller has agreed to serve (PS3.7 D.3.3.4).
        """
        context = self.caller.contexts.get(message.context_id)
        serves = context is not None and context.scp_role
        if message.command.field != CommandField.N_EVENT_REPORT_RQ and not serves:
            raise LegLost("asks what is not its role", Outcome.FAILED)
        if len(self._asked_back) >= _ASKED_BACK:
            raise LegLost("asks more than is answered", Outcome.FAILED)
        flight = Flight(operation(message.command.field), message)
        flight.cancel_sent = (
            True  # a C-CANCEL of the caller speaks of a request of its own, whatever its number
        )
        data_set = await self.hear_data_set(leg, flight, message)
        self._asked_back.append((leg, flight))
        await self.to_caller(message.context_id, message.command, data_set)

    async def answer_back(self, answer: Message) -> None:
        """Pass a response of the caller to the upstream that asked first by this Message ID.

        It may be gone; what answers nothing means nothing. Raises CallerLeft.
        """
        asked = next((asked for asked in self._asked_back if asked[1].is_answered_by(answer.command)), None)
        if asked is None:
            return
        self._asked_back.remove(asked)
        leg, flight = asked
        command = answer.command
        data_set: bytes | None = None
        try:
            data_set = await self.identifier(answer)
        except LimitExceeded as error:
            _log.warning("response too long", operation=flight.policy.name, why=str(error))
            command = response(flight.request.command, Status.PROCESSING_FAILURE)
        if leg.alive:
            try:
                await self.to_leg(leg, flight, command, data_set)
            except LegLost as lost:
                _log.info("response not passed on", operation=flight.policy.name, why=str(lost))
                self.lose(leg)
