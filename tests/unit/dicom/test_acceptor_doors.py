"""An acceptor whose own code fails, whose peers are slow or take nothing: one association, at most."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from failover.clock import Clock, ManualClock, SystemClock
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.connection import Connection
from failover.dicom.dimse import Command, echo_rq, response
from failover.dicom.encoding import encode
from failover.dicom.exchange import Association
from failover.dicom.inbox import HIGH_BYTES
from failover.dicom.messages import MAX_COMMAND_BYTES
from failover.dicom.negotiation import (
    CALLED_AE_NOT_RECOGNIZED,
    Acceptance,
    Rejection,
    acceptance_ac,
    choose_contexts,
)
from failover.dicom.reading import BUFFER_BYTES
from failover.dicom.syntaxes import IMPLICIT_LITTLE
from failover.dicom.units import Abort, AssociateRq, PDataTf, Pdv, ProposedContext, UserInformation, padded_ae
from tests.fakes.clocks import FastClock

ECHO = "1.2.840.10008.1.1"
RQ = AssociateRq(
    padded_ae("PACS"),
    padded_ae("CT1"),
    (ProposedContext(1, ECHO, (IMPLICIT_LITTLE,)),),
    UserInformation(16384, "1.2.3", "TEST"),
)
ECHO_RQ = encode(PDataTf((Pdv(1, True, True, echo_rq(1).encode()),)))
OUR_FAULT = encode(Abort(2, 0))
SECRET = "DOE^JANE"


def accept(rq: AssociateRq) -> Acceptance:
    return Acceptance(choose_contexts(rq, lambda _uid: (IMPLICIT_LITTLE,)))


async def serve(association: Association) -> None:
    while (message := await association.receive()) is not None:
        await association.send(message.context_id, response(message.command, 0))


@dataclass
class Stage:
    acceptor: Acceptor
    port: int
    failed: list[int] = field(default_factory=list)

    async def say(self, *pdus: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(pdus))
        return reader, writer


@contextmanager
def log_lines() -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, level: str, line: MutableMapping[str, Any]) -> str:
        lines.append({**line, "level": level})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0), processors=[keep])
    try:
        yield lines
    finally:
        structlog.configure(**before)


async def heard(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(6)
    return head + await reader.readexactly(int.from_bytes(head[2:6], "big"))


@asynccontextmanager
async def listening(
    *,
    admit: Callable[[AssociateRq, str], Rejection | None] = lambda _rq, _host: None,
    accept: Callable[[AssociateRq], Acceptance] = accept,
    serve: Callable[[Association], object] = serve,
    clock: Clock | None = None,
) -> AsyncIterator[Stage]:
    failed: list[int] = []
    acceptor = Acceptor(
        Limits(),
        admit,
        accept,
        serve,  # type: ignore[arg-type]
        clock or SystemClock(),
        failed=lambda: failed.append(1),
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await acceptor.start(sock)
    try:
        yield Stage(acceptor, sock.getsockname()[1], failed)
    finally:
        await acceptor.stop(0)


def breaks(*_: object) -> None:
    raise RuntimeError(SECRET)


async def serve_and_break(association: Association) -> None:
    await association.receive()
    raise RuntimeError(SECRET)


async def listen_and_break(association: Association) -> None:
    association.listen(breaks)
    while await association.receive() is not None:
        pass


async def listen_while_reading_breaks(association: Association) -> None:
    """As a session of the relay: it waits for the listener alone, which breaks at what arrives first."""
    woken = asyncio.Event()
    heard_of = 0

    def listen() -> None:
        nonlocal heard_of
        heard_of += 1
        if heard_of == 1:
            raise RuntimeError(SECRET)
        woken.set()

    association.listen(listen)
    while association.ended is None:
        await woken.wait()
        woken.clear()


@pytest.mark.parametrize(
    ("where", "answered"),
    [
        ({"admit": breaks}, False),
        ({"accept": breaks}, False),
        ({"serve": serve_and_break}, True),
        ({"serve": listen_and_break}, True),
        ({"serve": listen_while_reading_breaks}, True),
    ],
)
async def test_a_fault_of_ours_ends_its_association_at_once(
    where: dict[str, Callable[..., None]], answered: bool
) -> None:
    """Given code of ours that breaks; its peer gets an A-ABORT of the provider, and the log where it was."""
    with log_lines() as logs:
        async with listening(**where) as stage, asyncio.timeout(20):  # type: ignore[arg-type]
            reader, writer = await stage.say(encode(RQ))
            if answered:
                assert (await heard(reader))[0] == 2
                writer.write(ECHO_RQ)
            assert await heard(reader) == OUR_FAULT
            writer.close()
            assert stage.failed == [1]
            assert await stage.acceptor.changed.wait_until(
                lambda: not stage.acceptor.associations, timeout_s=10
            )
    told = [line for line in logs if line["level"] == "error"]
    assert [(line["event"], line["error"]) for line in told] == [("failed inside", "RuntimeError")]
    assert "test_acceptor_doors.py" in told[0]["where"]
    assert SECRET not in repr(logs)


async def test_others_are_unharmed_by_a_fault_of_ours() -> None:
    async def breaks_for_some(association: Association) -> None:
        await (serve_and_break if association.request.calling_ae == "BAD" else serve)(association)

    async with listening(serve=breaks_for_some) as stage, asyncio.timeout(20):
        good, good_writer = await stage.say(encode(RQ))
        assert (await heard(good))[0] == 2
        bad, bad_writer = await stage.say(
            encode(AssociateRq(RQ.called_bytes, padded_ae("BAD"), RQ.contexts, RQ.user))
        )
        assert (await heard(bad))[0] == 2
        bad_writer.write(ECHO_RQ)
        assert await heard(bad) == OUR_FAULT
        good_writer.write(ECHO_RQ)
        assert (await heard(good))[0] == 4
        for writer in (good_writer, bad_writer):
            writer.close()


async def test_a_rejection_is_one_line_a_minute() -> None:
    with log_lines() as logs:
        async with listening(admit=lambda _rq, _host: CALLED_AE_NOT_RECOGNIZED) as stage:
            for _ in range(5):
                reader, writer = await stage.say(encode(RQ))
                assert (await heard(reader))[0] == 3
                writer.close()
    [line] = [line for line in logs if "reject" in line["event"]]
    assert (line["calling"], line["why"], line["count"]) == ("CT1", "called AE title not recognized", 1)


async def test_a_maximum_length_of_some_bytes_is_refused() -> None:
    async with listening() as stage:
        for length, kind in ((7, 3), (1023, 3), (1024, 2), (0, 2)):
            rq = AssociateRq(RQ.called_bytes, RQ.calling_bytes, RQ.contexts, UserInformation(length, "1.2"))
            reader, writer = await stage.say(encode(rq))
            assert (await heard(reader))[0] == kind
            writer.close()


# -- with a transport that a test moves ---------------------------------------------------------------


class StuckTransport(asyncio.Transport):
    """Takes bytes and never gets rid of them; `close` therefore closes nothing."""

    def __init__(self, connection: Connection, host: str = "127.0.0.1") -> None:
        super().__init__({"peername": (host, 50000)})
        self._connection = connection
        self.reading = True
        self.aborted = asyncio.Event()
        self._closing = False
        connection.connection_made(self)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 1

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        if not self.aborted.is_set():
            self.aborted.set()
            self._connection.connection_lost(None)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def receive(self, data: bytes) -> None:
        self._connection.get_buffer(-1)[: len(data)] = data
        self._connection.buffer_updated(len(data))


async def test_a_transport_that_cannot_close_is_aborted_after_artim() -> None:
    """Given a peer that aborts and takes nothing any more: our answer waits for it, at most ARTIM."""
    async with listening(clock=FastClock()) as stage, asyncio.timeout(20):
        transport = StuckTransport(stage.acceptor._connection())
        transport.receive(encode(RQ))
        assert await stage.acceptor.changed.wait_until(lambda: stage.acceptor.associations == 1, timeout_s=10)
        transport.receive(encode(Abort(0, 0)))
        assert transport.is_closing()
        await transport.aborted.wait()
        assert stage.acceptor.connections == 0


class LeapingClock(ManualClock):
    """Of a process that stood still: when it goes on, much time has passed at once."""

    async def leap(self, seconds: float) -> None:
        self._now_s += seconds
        await self.advance(0)


async def test_an_rq_that_came_while_we_stood_still_is_not_late() -> None:
    """Given a requestor that sends its RQ at once, and a process of ours that is stopped before it reads."""
    clock = LeapingClock()
    async with listening(clock=clock) as stage, asyncio.timeout(20):
        with socket.create_connection(("127.0.0.1", stage.port)) as caller:
            while not stage.acceptor.connections:
                await asyncio.get_running_loop().run_in_executor(None, int)
            caller.sendall(encode(RQ))
            await clock.leap(11)
            caller.setblocking(False)
            assert (await asyncio.get_running_loop().sock_recv(caller, 6))[:1] == b"\x02"


async def test_a_pdu_that_we_did_not_read_on_does_not_make_its_peer_slow() -> None:
    """Given a PDU half read when we pause; only what the peer takes while we read counts against it."""
    clock = ManualClock()
    connection = Connection(requestor=False, max_pdu_bytes=65536, clock=clock)
    transport = StuckTransport(connection)
    transport.receive(encode(RQ))
    connection.send_ac(acceptance_ac(RQ, accept(RQ), 65536))
    while transport.reading:
        transport.receive(ECHO_RQ * 500)
    transport.receive(ECHO_RQ[:20])
    await clock.advance(3600)
    assert connection.unfinished_s(clock.monotonic()) == 0
    while connection.take() is not None:
        pass
    assert bool(transport.reading) is True
    assert connection.unfinished_s(clock.monotonic()) == 0
    await clock.advance(61)
    assert connection.unfinished_s(clock.monotonic()) == 61
    transport.receive(ECHO_RQ[20:])
    assert connection.unfinished_s(clock.monotonic()) == 0


async def test_long_command_sets_that_nobody_takes_stop_the_reading() -> None:
    """Given a busy side of ours; requests without a data set, each with elements that we do not know."""
    queued: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def busy(association: Association) -> None:
        arrived = asyncio.Event()
        association.listen(arrived.set)
        while association._connection._paused_s is None:
            await arrived.wait()
            arrived.clear()
        queued.set_result(len(association._connection.inbox.items))

    padding = {0x0F00 + n: bytes(15_000) for n in range(4)}
    assert sum(map(len, padding.values())) < MAX_COMMAND_BYTES
    request = Command({**echo_rq(1).elements, **padding}).encode()
    pieces = [request[at : at + 16_000] for at in range(0, len(request), 16_000)]
    long_echo = b"".join(encode(PDataTf((Pdv(1, True, piece is pieces[-1], piece),))) for piece in pieces)
    async with listening(serve=busy) as stage, asyncio.timeout(20):
        reader, writer = await stage.say(encode(RQ))
        assert (await heard(reader))[0] == 2
        writer.write(long_echo * 200)
        # What one read brings beyond the limit is queued too; without the count all 200 were.
        assert await queued <= (HIGH_BYTES + BUFFER_BYTES) // 60_000 + 1
        writer.close()


async def test_an_accepted_connection_is_kept_alive_and_does_not_delay() -> None:
    found: list[int] = []

    async def look(association: Association) -> None:
        raw = association._connection._socket
        assert raw is not None
        found.append(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        found.append(raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        found.append(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))
        await serve(association)

    async with listening(serve=look) as stage:
        reader, writer = await stage.say(encode(RQ))
        await heard(reader)
        writer.write(ECHO_RQ)
        await heard(reader)
        writer.close()
    assert found == [1, 1, 60]


async def test_who_breaks_the_protocol_is_one_line_a_minute() -> None:
    with log_lines() as logs:
        async with listening() as stage:
            for _ in range(5):
                reader, writer = await stage.say(b"GET / HTTP/1.1\r\n\r\n")
                assert (await heard(reader))[0] == 7
                writer.close()
    assert [line["count"] for line in logs if line["event"] == "peer broke the protocol"] == [1]


async def test_a_flood_that_is_accepted_at_once_does_not_close_who_asks_among_it() -> None:
    """Given a crowd that the loop accepts before it reads a byte: the first of it asks, and is answered."""
    async with listening() as stage, asyncio.timeout(20):
        acceptor = stage.acceptor
        limits = Limits()
        unread, asked, begun = (StuckTransport(acceptor._connection()) for _ in range(3))
        asked.receive(encode(RQ))
        begun.receive(encode(RQ)[:100])
        crowd = [StuckTransport(acceptor._connection()) for _ in range(2 * limits.max_per_address)]
        assert [one.aborted.is_set() for one in (unread, asked, begun)] == [False, False, True]
        unread.receive(encode(RQ))
        assert await acceptor.changed.wait_until(lambda: acceptor.associations == 2, timeout_s=10)
        crowd += [StuckTransport(acceptor._connection()) for _ in range(500)]
        assert acceptor.connections <= 2 + 3 * limits.max_per_address
        for one in (unread, asked, *crowd):
            one.abort()


async def test_who_is_closed_for_its_address_counts_no_more_among_all() -> None:
    """Given as many half-open connections as are allowed, and one more of an address that is full itself."""
    async with listening() as stage:
        limits = Limits()
        hosts = ["10.0.0.1"]
        for last in range(2, 2 + limits.max_associations // limits.max_per_address):
            hosts += [f"10.0.0.{last}"] * limits.max_per_address
        many = []
        for host in hosts[: limits.max_associations]:
            many.append(StuckTransport(stage.acceptor._connection(), host))
            many[-1].receive(encode(RQ)[:100])
        many.append(StuckTransport(stage.acceptor._connection(), hosts[1]))
        assert [place for place, one in enumerate(many) if one.aborted.is_set()] == [1]
        for one in many:
            one.abort()


async def test_a_pdu_that_drips_for_a_minute_ends_its_association() -> None:
    """Given a peer that begins a PDU and sends a byte of it now and then: it is never silent for long."""
    clock = LeapingClock()
    async with listening(clock=clock) as stage:
        transport = StuckTransport(stage.acceptor._connection())
        transport.receive(encode(RQ))
        assert await stage.acceptor.changed.wait_until(lambda: stage.acceptor.associations == 1, timeout_s=10)
        transport.receive(ECHO_RQ[:10])
        for place in range(10, 16):
            await clock.leap(10)
            assert stage.acceptor.associations == 1
            transport.receive(ECHO_RQ[place : place + 1])
        await clock.leap(1)
        assert stage.acceptor.associations == 0
        transport.abort()
