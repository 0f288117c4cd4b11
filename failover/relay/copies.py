"""The copy on the way: what the primary has acknowledged goes to the backup too, out of what was kept of it.

With `replication.tee` each store is copied behind the caller's back; in `failing_back` the acknowledgement
waits for the copy, at most 1 s. A copy is never a debt and never a promise: what is dropped, the replicator
fetches.

How the embedded archive knows a copy from a caller's store: over the control channel, which nobody else can
reach, it is told a random Move Originator before an association for copies is opened. Only after the primary
said success is anything sent under it; if the archive or we forget it, the object is owed superfluously.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.copies import Copy, WaitingCopies
from failover.dicom.dimse import Command, Status, Tag
from failover.dicom.exchange import Association
from failover.dicom.messages import fragment_of
from failover.dicom.negotiation import RELAY_VERSION
from failover.dicom.requestor import open_association
from failover.errors import AssociationEnded, ControlError, SpoolFull, UpstreamError
from failover.metrics import RouterMetrics
from failover.model import DicomPeer
from failover.relay.offer import Proposal
from failover.spool import KeptBody

_log = structlog.get_logger(__name__)
EXPECTED_S: Final = 600.0  # how long the archive takes stores under one Move Originator for copies
_RENEWED_S: Final = 300.0  # an association older than this is opened anew, under another one
_ORIGINATOR_MESSAGE_ID: Final = 1
_LANES: Final = 8  # associations for copies at once: the archive's places are the callers'
_ONE_S: Final = 30.0  # a copy that takes longer is given up
_IDLE_S: Final = 5.0
_PIECE_BYTES: Final = 128 * 1024

Expect = Callable[[str, int, float], Awaitable[None]]
"""Tell the archive the Move Originator (AE title, message ID) that copies name, and for how many seconds."""


@dataclass(eq=False, slots=True)
class DicomCopy(Copy):
    """One C-STORE, in a context of an association that is proposed as its caller's was."""

    proposal: Proposal
    context_id: int
    command: Command


@dataclass(slots=True)
class _Lane:
    """An association for copies, and what its stores say that they are."""

    association: Association
    proposal: Proposal
    originator: str | None
    opened_s: float


class Copies:
    """Sends copies over a few associations, each for as long as it is of use."""

    def __init__(
        self,
        peer: DicomPeer,
        expect: Expect | None,
        metrics: RouterMetrics,
        clock: Clock,
        *,
        tee: bool,
        max_pdu_bytes: int,
    ) -> None:
        """`expect` None: a foreign backup, to which a copy is a store like any other. `tee`: copy always."""
        self.tee = tee
        self._peer = peer
        self._expect = expect
        self._clock = clock
        self._max_pdu_bytes = max_pdu_bytes
        self._waiting: WaitingCopies[DicomCopy] = WaitingCopies(metrics.dicom_copies)
        self._came = Signal()
        self._idle = 0
        self._lanes: set[asyncio.Task[None]] = set()

    def offer(
        self, body: KeptBody, proposal: Proposal, context_id: int, command: Command
    ) -> DicomCopy | None:
        """Take over `body`, and send it when a lane is free. None: dropped, and `body` stays the caller's."""
        copy = DicomCopy(body, proposal, context_id, command)
        if not self._waiting.add(copy):
            return None
        # One that has ended is among them until its callback runs.
        if self._idle < len(self._waiting) and sum(not lane.done() for lane in self._lanes) < _LANES:
            task = spawn(self._serve(), name="relay copying")
            self._lanes.add(task)
            task.add_done_callback(self._lanes.discard)
        self._came.fire()
        return copy

    def drop(self) -> None:
        """Count a copy that is not made."""
        self._waiting.drop()

    async def stop(self) -> None:
        """End at once: what is left the replicator fetches."""
        await cancel_and_wait(*self._lanes)
        self._waiting.clear()

    # -- a lane -------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        lane: _Lane | None = None
        try:
            while True:
                copy = self._take(lane)
                if copy is not None:
                    lane = await self._send(lane, copy)
                    continue
                self._idle += 1
                try:
                    came = await self._came.wait_until(lambda: bool(self._waiting), timeout_s=_IDLE_S)
                finally:
                    self._idle -= 1
                if not came:
                    break
            if lane is not None:
                # Not awaited: what is offered meanwhile would find all lanes taken, and none that takes it.
                closing, lane = lane, None
                closing.association.release_unawaited(lambda: None)
        finally:
            if lane is not None:
                lane.association.abort("no more copies")

    def _take(self, lane: _Lane | None) -> DicomCopy | None:
        """Return the next copy, of those for which `lane` need not be opened anew if there is one."""
        if not self._waiting:
            return None
        fits = (copy for copy in self._waiting if lane is not None and copy.proposal == lane.proposal)
        return self._waiting.take(next(fits, None) or next(iter(self._waiting)))

    async def _send(self, lane: _Lane | None, copy: DicomCopy) -> _Lane | None:
        """Send one copy; return the lane if it is still good."""
        is_there = whole = False
        try:
            async with asyncio.timeout(_ONE_S):
                lane = await self._lane_for(lane, copy)
                is_there = copy.context_id in lane.association.contexts and await _stored(lane, copy)
            whole = True
        except (UpstreamError, AssociationEnded, ControlError, SpoolFull, TimeoutError) as error:
            _log.info("copy not made", why=str(error) or type(error).__name__)
        finally:
            self._waiting.end(copy, is_there=is_there)
            if lane is not None and not whole:
                lane.association.abort("a copy was given up")
        return lane if whole else None

    async def _lane_for(self, lane: _Lane | None, copy: DicomCopy) -> _Lane:
        now_s = self._clock.monotonic()
        if lane is not None:
            association = lane.association
            fits = lane.proposal == copy.proposal and now_s - lane.opened_s < _RENEWED_S
            if fits and association.ended is None and not association.releasing:
                return lane
            await association.release()
        originator = None
        if self._expect is not None:
            originator = secrets.token_hex(8)  # an AE title has 16 characters
            await self._expect(originator, _ORIGINATOR_MESSAGE_ID, EXPECTED_S)
        proposal = copy.proposal
        association = await open_association(
            self._peer,
            proposal.calling_bytes,
            proposal.contexts,
            timeout_s=_ONE_S,
            implementation_version=RELAY_VERSION,
            identity=proposal.identity,
            max_pdu_bytes=self._max_pdu_bytes,
            clock=self._clock,
        )
        return _Lane(association, proposal, originator, now_s)


async def _stored(lane: _Lane, copy: DicomCopy) -> bool:
    """Send it and return whether the backup has it now. Raises AssociationEnded, SpoolFull."""
    command = copy.command
    if lane.originator is not None:
        command = command.replaced({
            Tag.MOVE_ORIGINATOR_AE: lane.originator,
            Tag.MOVE_ORIGINATOR_MESSAGE_ID: _ORIGINATOR_MESSAGE_ID,
        })  # fmt: skip
    association, body = lane.association, copy.body
    await association.send_command(copy.context_id, command)
    at, length = 0, body.length_bytes
    while True:
        piece = await body.read(at, _PIECE_BYTES)
        if not piece and at < length:
            raise SpoolFull("what was kept cannot be read")
        at += len(piece)
        await association.send_fragments(copy.context_id, fragment_of(piece, is_last=at == length))
        if at == length:
            break
    while (message := await association.receive()) is not None:
        if message.command.is_response:
            return message.command.status == Status.SUCCESS
    raise AssociationEnded("released in the middle of a copy")
