"""C-STORE: the instance goes on as it comes, is kept until it is acknowledged, and is finished elsewhere if
need be. Success reaches the caller only from an upstream that said success.
"""

from __future__ import annotations

import contextlib
from typing import Final

import structlog

from failover.dicom.dimse import Status
from failover.dicom.messages import Fragment, fragment_of
from failover.errors import AssociationEnded, SpoolFull
from failover.health.passive import Outcome
from failover.model import Phase, Service, UpstreamName, Verdict
from failover.relay.carrying import carry
from failover.relay.flight import Answer, CallerLeft, Flight, LegLost
from failover.relay.legs import Leg
from failover.relay.session import Session
from failover.spool import KeptBody

_log = structlog.get_logger(__name__)
_HOLD_S: Final = 1.0  # the last step of failback holds stores at most so long; then they go on
_REPLAY_BYTES: Final = 128 * 1024


class Store:
    """One C-STORE under way: what of its data set has come, and where it has gone."""

    def __init__(self, session: Session, body: KeptBody) -> None:
        self._session = session
        self._body = body
        self.handed_over = False  # the body is another's now
        self._whole = False  # the caller's data set has come to its end
        body.on_change = session.nudge

    async def hold(self) -> None:
        """Wait while the route holds stores, at most 1 s."""
        board = self._session.around.board
        if board.current.hold_stores:
            await board.changed.wait_until(lambda: not board.current.hold_stores, timeout_s=_HOLD_S)

    async def copy(self, flight: Flight, upstream: UpstreamName, status: int) -> None:
        """Hand what is kept to whoever copies it; in `failing_back` wait for the copy, for as long as due.

        Only of a plain success: with a warning the primary may hold something else than was sent.
        """
        session = self._session
        copies, route = session.around.copies, session.around.board.current
        if copies is None or upstream is not UpstreamName.PRIMARY or status != Status.SUCCESS:
            return
        failing_back = route.services[Service.DICOM].phase is Phase.FAILING_BACK
        if not (copies.tee or failing_back):
            return
        if flight.unkept or session.verdict(UpstreamName.BACKUP) is Verdict.DOWN:
            copies.drop()
            return
        copy = copies.offer(self._body, session.later, flight.context_id, flight.request.command)
        if copy is not None:
            self.handed_over = True
            if failing_back:
                await copy.wait()

    async def attempt(self, leg: Leg, flight: Flight) -> Answer:
        """Send it to one upstream, from its beginning; return the response."""
        flight.sent = True
        try:
            await self._session.until_writable(leg, flight)
            await leg.association.send_command(flight.context_id, flight.request.command)
            await self._replay(leg, flight)
            if not self._whole:
                await self._stream(leg, flight)
        except AssociationEnded as error:
            raise LegLost(str(error), Outcome.FAILED) from error
        message = await self._session.hear_response(leg, flight)
        return Answer(message.command, await self._session.hear_data_set(leg, flight, message))

    async def _replay(self, leg: Leg, flight: Flight) -> None:
        """Send what is kept of an earlier attempt."""
        body, at = self._body, 0
        while at < body.length_bytes or (self._whole and at == 0 == body.length_bytes):
            try:
                piece = await body.read(at, _REPLAY_BYTES)
            except SpoolFull as error:
                flight.unkept = True
                raise LegLost(f"what was kept cannot be read: {error}", Outcome.LEFT) from error
            at += len(piece)
            await self._session.until_writable(leg, flight)
            is_last = self._whole and at == body.length_bytes
            await leg.association.send_fragments(flight.context_id, fragment_of(piece, is_last=is_last))
            if is_last:
                return

    async def _stream(self, leg: Leg, flight: Flight) -> None:
        """Send on what comes from the caller, and keep it."""
        session = self._session
        while True:
            try:
                fragments = await session.caller.next_fragments()
            except AssociationEnded as error:
                raise CallerLeft(str(error)) from error
            if not fragments:
                return
            for fragment in fragments:
                await self._keep(flight, fragment)
            await session.until_writable(leg, flight)
            await leg.association.send_fragments(flight.context_id, *fragments)

    async def _keep(self, flight: Flight, fragment: Fragment) -> None:
        self._whole = fragment.is_last
        if flight.unkept:
            return
        try:
            self._body.append_pieces(fragment.pieces, fragment.size)
        except SpoolFull as error:
            flight.unkept = True
            self._body.close()
            _log.warning("instance goes on unprotected", why=str(error))
            return
        if self._body.busy:  # the disk is behind: the caller waits
            await self._session.until(lambda: not self._body.busy or self._body.failed)


async def relay_store(session: Session, flight: Flight) -> None:
    """Carry one C-STORE. Raises CallerLeft."""
    body = session.around.spool.open()
    store = Store(session, body)
    try:
        await store.hold()
        flight.acknowledged = lambda upstream, status: store.copy(flight, upstream, status)
        await carry(session, flight, store.attempt)
        with contextlib.suppress(AssociationEnded):
            await session.caller.skip_data_set()  # nobody took it: what still comes has no use
    finally:
        if not store.handed_over:
            body.close()
