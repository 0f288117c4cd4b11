"""One TCP connection that speaks the upper layer: it carries bytes to `pdu` and events to `association`, and
runs the effects that come back. Who may connect and what messages mean is for others.

Back-pressure both ways: when messages pile up unread, the socket is not read; writers wait in `drain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, cast

import structlog

from failover.clock import Clock
from failover.dicom import encoding, units
from failover.dicom.association import Effect, Event, State, UpperLayer
from failover.dicom.inbox import Inbox
from failover.dicom.messages import Fragment, Message, MessageAssembler
from failover.dicom.negotiation import Rejection, provider_rejection
from failover.dicom.reading import Reading
from failover.dicom.sockets import acknowledge, set_options
from failover.errors import AssociationEnded, MalformedMessage, MalformedPdu, ProtocolError, whence

_log = structlog.get_logger(__name__)
_REQUESTOR_CLOSE_S: Final = 2.0  # after our A-ABORT: then the connection is dropped
_SMALL_READ_BYTES: Final = 32 * 1024
# Bound once: on Python 3.11 reading a member from its class costs 0.2 µs.
_ESTABLISHED: Final = State.ESTABLISHED
_SEND_RQ, _SEND_AC = Effect.SEND_RQ, Effect.SEND_AC
_START_ARTIM, _STOP_ARTIM = Effect.START_ARTIM, Effect.STOP_ARTIM
_TELLING: Final = (
    Effect.TELL_INDICATION, Effect.TELL_ACCEPTED, Effect.TELL_REJECTED, Effect.TELL_P_DATA,
    Effect.TELL_ABORTED,
)  # fmt: skip
_WRITES_PER_TURN: Final = 16  # messages or fragments sent before other tasks get their turn


class Connection(asyncio.BufferedProtocol):
    """The transport, the state machine, and the queue of what arrived."""

    def __init__(
        self,
        *,
        requestor: bool,
        max_pdu_bytes: int,
        clock: Clock,
        artim_s: float = 10.0,
        opened: Callable[[Connection], None] | None = None,
        closed: Callable[[Connection], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
        broke: Callable[[Connection, str], None] | None = None,
    ) -> None:
        """`broke` is told instead of the log when the peer breaks the protocol, and why."""
        self.max_pdu_bytes = max_pdu_bytes
        self.peer_host = ""
        self.machine = UpperLayer(requestor=requestor)
        self.artim_deadline_s: float | None = None
        self.last_moved_s = clock.monotonic()  # a byte came or went
        self.rejection: Rejection | None = None  # what SEND_RJ sends
        self.assembler: MessageAssembler | None = None  # from the AC on
        self.inbox = Inbox()
        self.ended: str | None = None  # why nothing more comes, a sentence
        self.released = False  # the peer asked for A-RELEASE
        self.listener: Callable[[], None] | None = None  # called when something arrived, drained or ended
        self._clock = clock
        self._artim_s = artim_s
        self._opened, self._closed, self._failed, self._broke = opened, closed, failed, broke
        self._reading = Reading(max_pdu_bytes)
        self._deaf = False  # what arrives is not looked at
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._abort_reason = int(units.AbortReason.NOT_SPECIFIED)
        self._handshake: units.AssociateRq | units.AssociateAc | units.AssociateRj | None = None
        self._outgoing: units.AssociateRq | units.AssociateAc | None = None
        self._pdu_began_s: float | None = None  # since when a PDU is unfinished
        self._paused_s: float | None = None  # since when we do not read
        self._writing_paused = False
        self._writes = 0
        self._arrived: list[asyncio.Future[None]] = []  # one for each who waits
        self._drained: asyncio.Future[None] | None = None
        self.when_ended: Callable[[], None] | None = None  # called once, when nothing more comes
        self.when_gone: Callable[[], None] | None = None  # called when the transport is closed
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- what the owner asks ------------------------------------------------------------------------

    async def handshake(self) -> units.AssociateRq | units.AssociateAc | units.AssociateRj:
        """Return the RQ (acceptor), or the AC or RJ (requestor). Raises AssociationEnded."""
        while self._handshake is None:
            self._raise_if_ended()
            await self._wait_for_arrival()
        return self._handshake

    def send_rq(self, rq: units.AssociateRq) -> None:
        self._outgoing = rq
        self._step(Event.TRANSPORT_OPENED)

    def send_ac(self, ac: units.AssociateAc) -> None:
        """Accept. Raises AssociationEnded when the requestor has gone meanwhile."""
        self._raise_if_ended()
        self._outgoing = ac
        self.assembler = MessageAssembler(r.context_id for r in ac.contexts if r.accepted)
        self._step(Event.ACCEPT_RESPONSE)

    def send_rj(self, rejection: Rejection) -> None:
        """Reject, and wait for the requestor to close, at most ARTIM. Silent when it has gone."""
        self.rejection = rejection
        if self.machine.state is State.AWAITING_LOCAL_RESPONSE:
            self._step(Event.REJECT_RESPONSE)
            self.end(f"rejected: {rejection.sentence}")

    async def next_item(self) -> Message | Fragment | None:
        """Return what arrived next, None after A-RELEASE-RQ. Raises AssociationEnded."""
        while not self.inbox.items:
            self._raise_if_ended()
            if self.released:
                return None
            await self._wait_for_arrival()
        return self.take()

    def take(self) -> Message | Fragment | None:
        """Return what arrived next without waiting, None when nothing did."""
        item = self.inbox.take()
        if self._paused_s is not None and self.inbox.is_low:
            self._resume_reading()
        return item

    def unfinished_s(self, now_s: float) -> float:
        """Return for how long the peer has been at a PDU that it has not ended; 0 when there is none.

        Time in which we did not read is ours, not the peer's.
        """
        if self._pdu_began_s is None:
            return 0.0
        return (now_s if self._paused_s is None else self._paused_s) - self._pdu_began_s

    @property
    def awaits_us(self) -> bool:
        """Whether it is our turn: its RQ is whole, or not a byte of it was read."""
        state = self.machine.state
        unread = state is State.AWAITING_RQ and self._pdu_began_s is None
        return unread or state is State.AWAITING_LOCAL_RESPONSE

    async def write_p_data(self, *chunks: units.Buffer) -> None:
        """Send finished P-DATA-TF bytes and return when there is room for more. Raises AssociationEnded."""
        if self._writing_paused:
            await self.drain()
        if self.ended is not None:
            raise AssociationEnded(self.ended)
        if self.machine.state is not _ESTABLISHED:  # there DT-1 changes nothing (PS3.8 table 9-10)
            try:
                self._step(Event.P_DATA_REQUEST)
            except ProtocolError as error:
                raise AssociationEnded(f"no data may be sent: {error}") from error
        if self._transport is not None:
            self.last_moved_s = self._clock.monotonic()
            self._transport.writelines(chunks)
        self._writes += 1
        if self._writes % _WRITES_PER_TURN == 0:
            await asyncio.sleep(0)  # a long answer must not keep the loop to itself: others, and C-CANCEL

    async def drain(self) -> None:
        """Return when the peer has taken enough. Raises AssociationEnded."""
        while self._writing_paused:
            self._raise_if_ended()
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)

    @property
    def writing_paused(self) -> bool:
        """Whether the peer does not take what we send."""
        return self._writing_paused

    def request_release(self) -> None:
        if self.machine.state is _ESTABLISHED:
            self._step(Event.RELEASE_REQUEST)

    def respond_release(self) -> None:
        """Answer the peer's A-RELEASE-RQ."""
        if self.machine.state in (
            State.AWAITING_LOCAL_RELEASE,
            State.COLLISION_REQUESTOR_LOCAL,
            State.COLLISION_ACCEPTOR_LOCAL,
        ):
            self._step(Event.RELEASE_RESPONSE)

    def abort(self, why: str = "aborted by us") -> None:
        """A-ABORT by the service-user where an association is, else close. Silent when all is over."""
        try:
            self._step(Event.ABORT_REQUEST)
        except ProtocolError:  # Sta1, Sta2, Sta13: nothing to abort
            self.close()
        self.end(why)

    def abort_as_provider(self, reason: int, why: str) -> None:
        """A-ABORT by the service-provider: the peer sent what cannot be (PS3.8 9.3.8)."""
        self._abort_reason = reason
        self._hear_no_more()
        with contextlib.suppress(ProtocolError):
            self._step(Event.INVALID_PDU_ARRIVED)
        self.end(why)

    def fail_inside(self) -> None:
        """A-ABORT by the service-provider, without a reason: our own code broke."""
        listener, self.listener = self.listener, None  # it may be what broke
        self.abort_as_provider(units.AbortReason.NOT_SPECIFIED, "failed inside")
        if listener is not None:
            with contextlib.suppress(Exception):
                listener()  # whoever waits must see the end

    def expire_artim(self) -> None:
        self.artim_deadline_s = None
        with contextlib.suppress(ProtocolError):
            self._step(Event.ARTIM_EXPIRED)
        self.end("no A-ASSOCIATE-RQ in time")

    def close(self) -> None:
        """Close the transport; what was written still goes out, if the peer takes it within ARTIM.

        Sta1 has no ARTIM, but a transport that waits for its last bytes to be taken is not closed yet.
        """
        if self._transport is None:
            return
        self._transport.close()
        if self.artim_deadline_s is None:
            self.artim_deadline_s = self._clock.monotonic() + self._artim_s
            if self._transport is not None and self._transport.get_write_buffer_size():
                self._drop_in_time()

    def _drop_in_time(self) -> None:
        """An acceptor has a reaper, a requestor only this."""
        if self.machine.requestor:
            asyncio.get_running_loop().call_later(_REQUESTOR_CLOSE_S, self.drop)

    def drop(self) -> None:
        """Close the transport at once, without what was not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_gone(self) -> None:
        """Return when the transport is closed."""
        await asyncio.shield(self._gone)

    @property
    def is_gone(self) -> bool:
        return self._gone.done()

    def end(self, why: str) -> None:
        """Mark that nothing more comes, and wake everyone who waits for it."""
        if self.ended is None:
            self.ended = why
            if self.when_ended is not None:
                self.when_ended()
        self._wake()
        self._wake_writers()

    # -- asyncio.BufferedProtocol -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no asyncio.Transport by class, but by what they do.
        self._transport = tcp = cast(asyncio.Transport, transport)
        tcp.set_write_buffer_limits(high=256 * 1024, low=64 * 1024)
        peer = transport.get_extra_info("peername")
        self.peer_host = str(peer[0]) if isinstance(peer, tuple) else ""
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            # uvloop's stand-in makes a socket for each option: this one is kept until `connection_lost`.
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, raw.fileno())
            if self.machine.requestor:
                set_options(self._socket)
        if not self.machine.requestor:
            self._step(Event.TRANSPORT_ACCEPTED)
        else:
            self.machine.step(Event.ASSOCIATE_REQUEST)
        if self._opened is not None:
            self._opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reading.room()

    def buffer_updated(self, nbytes: int) -> None:
        self.last_moved_s = self._clock.monotonic()
        if self._deaf:
            return  # after an invalid PDU: wait for the peer to close
        reading, before = self._reading, self.machine.state
        try:
            for unit in reading.arrived(nbytes):
                self._receive(unit)
                if self.machine.state is State.IDLE or self._deaf:
                    self._hear_no_more()  # over: what follows has no meaning
                    return
            reading.settle(in_data_set=self.assembler is not None and self.assembler.in_data_set)
        except (MalformedPdu, MalformedMessage) as error:
            reason = error.reason if isinstance(error, MalformedPdu) else units.AbortReason.INVALID_PARAMETER
            if self._broke is not None:
                self._broke(self, str(error))
            else:
                _log.warning("peer broke the protocol", peer=self.peer_host, why=str(error))
            self.abort_as_provider(reason, f"broke the protocol: {error}")
            return
        except Exception as error:
            self._fault(error)
            return
        if nbytes < _SMALL_READ_BYTES and self._socket is not None and self._awaits_ack(before):
            acknowledge(self._socket)
        if not reading.held_bytes:
            self._pdu_began_s = None
        elif self._pdu_began_s is None:
            self._pdu_began_s = self.last_moved_s

    def _hear_no_more(self) -> None:
        self._deaf = True
        self._reading.close()

    def _awaits_ack(self, before: State) -> bool:
        """Whether the peer may have more to write before it hears from us. `before`: what it wrote now.

        Debian's DCMTK writes a PDU in two writes with Nagle on: without an ACK at once the second write waits
        for our delayed one, 40 ms. Upstreams go on with the next response; a caller that has said all waits
        for our answer, which is an ACK itself, and an upstream that has sent its AC for what we ask then.
        """
        if self._reading.held_bytes:
            return True
        if before is not _ESTABLISHED or self.machine.state is not _ESTABLISHED:
            return False
        return self.machine.requestor or (self.assembler is not None and self.assembler.in_message)

    def _fault(self, error: Exception) -> None:
        """Our own code broke on what arrived: this association ends at once, and no other."""
        if self._failed is not None:
            self._failed(error)
        else:
            _log.error("failed inside", error=type(error).__name__, where=whence(error))
        self.fail_inside()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        with contextlib.suppress(ProtocolError):
            self._step(Event.TRANSPORT_CLOSED)
        self._reading.close()
        self.end("connection closed" if exc is None else f"connection lost: {type(exc).__name__}")
        if self._socket is not None:
            self._socket.detach()  # the descriptor is the transport's
        self._transport = self._socket = None
        self._writing_paused = False
        if not self._gone.done():
            self._gone.set_result(None)
        self._wake_writers()
        if self._closed is not None:
            self._closed(self)
        if self.when_gone is not None:
            self.when_gone()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    # -- the machine --------------------------------------------------------------------------------

    def _receive(self, unit: units.Pdu) -> None:
        self._pdu_began_s = None
        match unit:
            case units.DataRun() | units.PDataTf():
                if self.machine.state is _ESTABLISHED or self.machine.state is State.AWAITING_RELEASE_RP:
                    self._deliver(unit)
                else:
                    self._unexpected(Event.P_DATA_ARRIVED)
            case units.AssociateRq():
                self.rejection = provider_rejection(unit)
                if self.machine.state is State.AWAITING_RQ:
                    self._handshake = unit
                    self._step(Event.RQ_ARRIVED, acceptable=self.rejection is None)
                else:
                    self._unexpected(Event.RQ_ARRIVED)
            case units.AssociateAc() | units.AssociateRj():
                event = Event.AC_ARRIVED if isinstance(unit, units.AssociateAc) else Event.RJ_ARRIVED
                if self.machine.state is State.AWAITING_AC:
                    self._handshake = unit
                    if isinstance(unit, units.AssociateAc):
                        self.assembler = MessageAssembler(r.context_id for r in unit.contexts if r.accepted)
                    self._step(event)
                    self._wake()
                else:
                    self._unexpected(event)
            case units.ReleaseRq():
                self._unexpected(Event.RELEASE_RQ_ARRIVED)
            case units.ReleaseRp():
                self._unexpected(Event.RELEASE_RP_ARRIVED)
            case units.Abort():
                self._step(Event.ABORT_ARRIVED)
                self.end(f"aborted by the peer: source {unit.source}, reason {unit.reason}")

    def _unexpected(self, event: Event) -> None:
        """Step with a PDU that may be out of place: the table knows; if so the A-ABORT says `unexpected`."""
        self._abort_reason = units.AbortReason.UNEXPECTED_PDU
        try:
            self._step(event)
        finally:
            self._abort_reason = units.AbortReason.NOT_SPECIFIED

    def _deliver(self, unit: units.PDataTf | units.DataRun) -> None:
        if self.machine.state is not _ESTABLISHED:  # there DT-2 changes nothing (PS3.8 table 9-10)
            self._step(Event.P_DATA_ARRIVED)
        assert self.assembler is not None
        if isinstance(unit, units.DataRun):
            self.inbox.put(self.assembler.receive_run(unit))
        else:
            for pdv in unit.pdvs:
                item = self.assembler.receive(pdv)
                if item is not None:
                    self.inbox.put(item)
        if self._paused_s is None and self.inbox.is_high and self._transport is not None:
            self._paused_s = self._clock.monotonic()
            self._transport.pause_reading()
        self._wake()

    def _resume_reading(self) -> None:
        if self._paused_s is None or self._transport is None:
            return
        if self._pdu_began_s is not None:
            self._pdu_began_s += self._clock.monotonic() - self._paused_s
        self._paused_s = None
        with contextlib.suppress(RuntimeError):
            self._transport.resume_reading()

    def _step(self, event: Event, *, acceptable: bool = True) -> None:
        for effect in self.machine.step(event, acceptable=acceptable):
            self._run(effect)

    def _run(self, effect: Effect) -> None:
        if effect in _TELLING:
            self._wake()
        elif effect is _SEND_RQ or effect is _SEND_AC:
            assert self._outgoing is not None
            self._write(self._outgoing)
        elif effect is _START_ARTIM:
            self.artim_deadline_s = self._clock.monotonic() + self._artim_s
            if self.machine.state is State.AWAITING_CLOSE:
                self._resume_reading()  # else we would not see the peer close
            self._drop_in_time()
        elif effect is _STOP_ARTIM:
            self.artim_deadline_s = None
        elif effect is Effect.CLOSE:
            self.close()
        else:
            self._run_an_end(effect)

    def _run_an_end(self, effect: Effect) -> None:
        match effect:
            case Effect.SEND_RELEASE_RQ:
                self._write(units.ReleaseRq())
            case Effect.SEND_RELEASE_RP:
                self._write(units.ReleaseRp())
            case Effect.TELL_RELEASE | Effect.TELL_COLLISION:
                self.released = True
                self._wake()
            case Effect.TELL_RELEASED:
                self.end("released")
            case Effect.SEND_RJ:
                assert self.rejection is not None
                self._write(self.rejection.pdu)
                self.end(f"rejected: {self.rejection.sentence}")
            case Effect.SEND_ABORT_USER:
                # AA-1 also answers what arrives before an association: then the reason is of the provider.
                if self._abort_reason:
                    self._write(units.Abort(units.AbortSource.PROVIDER, self._abort_reason))
                else:
                    self._write(units.Abort(units.AbortSource.USER, 0))
                self.end("aborted by us")
            case Effect.SEND_ABORT_PROVIDER:
                self._write(units.Abort(units.AbortSource.PROVIDER, self._abort_reason))
                self.end("broke the protocol")

    def _write(self, unit: units.Pdu) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encoding.encode(unit))

    # -- waiting ------------------------------------------------------------------------------------

    def _raise_if_ended(self) -> None:
        if self.ended is not None:
            raise AssociationEnded(self.ended)

    async def _wait_for_arrival(self) -> None:
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived.append(arrived)
        await arrived

    def _wake(self) -> None:
        if self._arrived:
            waiting, self._arrived = self._arrived, []
            for arrived in waiting:
                if not arrived.done():
                    arrived.set_result(None)
        if self.listener is not None:
            self.listener()

    def _wake_writers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self.listener is not None:
            self.listener()
