"""Malformed and hostile input at the acceptor: an A-ABORT or a rejection, resources freed, and after each one
a good C-ECHO of someone else.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psutil
import pytest

from failover.clients.dimse import echo
from failover.clock import SystemClock
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.dimse import echo_rq, response, store_rq
from failover.dicom.encoding import encode, p_data_header
from failover.dicom.exchange import Association
from failover.dicom.negotiation import choose_contexts
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import (
    Abort,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    ContextResult,
    PDataTf,
    Pdv,
    ProposedContext,
    ReleaseRp,
    ReleaseRq,
    UserInformation,
    padded_ae,
)
from failover.model import Address, AeTitle, DicomPeer
from tests.fakes.logs import captured
from tests.peers.process import slowness

pytestmark = [pytest.mark.integration]

ECHO, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"
USER = UserInformation(16384, "1.2.3", "TEST")
CONTEXTS = (ProposedContext(1, ECHO, (IMPLICIT_LITTLE,)), ProposedContext(3, CT, (EXPLICIT_LITTLE,)))
RQ = AssociateRq(padded_ae("PACS"), padded_ae("CT1"), CONTEXTS, USER)
GOOD = encode(RQ)


def item(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, len(content) if length is None else length) + content


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def rq(*items: bytes, called: bytes = padded_ae("PACS"), calling: bytes = padded_ae("CT1")) -> bytes:
    return pdu(1, b"\0\1\0\0" + called + calling + bytes(32) + b"".join(items))


APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
VERIFICATION = item(0x20, b"\1\0\0\0" + item(0x30, ECHO.encode()) + item(0x40, IMPLICIT_LITTLE.encode()))
MAXIMUM = item(0x51, b"\0\0\x40\0")
INFORMATION = item(0x50, MAXIMUM + item(0x52, b"1.2.3"))


def context(content: bytes) -> bytes:
    return rq(APPLICATION, item(0x20, content), INFORMATION)


def user(*items: bytes) -> bytes:
    return rq(APPLICATION, VERIFICATION, item(0x50, MAXIMUM + b"".join(items)))


def p_data(*pdvs: Pdv) -> bytes:
    return encode(PDataTf(pdvs))


COMMAND = echo_rq(1).encode()
ABSTRACT, TRANSFER = item(0x30, ECHO.encode()), item(0x40, IMPLICIT_LITTLE.encode())

# Before an association: bytes, and what is expected back (7 A-ABORT, 3 A-ASSOCIATE-RJ) with its reason.
OPENINGS: dict[str, tuple[bytes, int, int]] = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 7, 1),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 7, 1),
    "zeros": (bytes(100), 7, 1),
    "type 8": (pdu(8, bytes(4)), 7, 1),
    "type 255": (pdu(255, bytes(4)), 7, 1),
    "p-data first": (p_data(Pdv(1, True, True, COMMAND)), 7, 2),
    "release first": (encode(ReleaseRq()), 7, 2),
    "release rp first": (encode(ReleaseRp()), 7, 2),
    "ac first": (encode(AssociateAc(RQ.called_bytes, RQ.calling_bytes, (ContextResult(1, 3),), USER)), 7, 2),
    "rj first": (encode(AssociateRj(1, 1, 1)), 7, 2),
    "huge length": (pdu(1, b"", 0xFFFFFFFF), 7, 6),
    "length just beyond": (pdu(1, b"", 256 * 1024 + 1), 7, 6),
    "huge p-data": (pdu(4, b"", 0x7FFFFFFF), 7, 6),
    "release of 5": (pdu(5, bytes(5)), 7, 6),
    "abort of 0": (pdu(7, b""), 7, 6),
    "rq of 0": (pdu(1, b""), 7, 6),
    "rq of 67": (pdu(1, bytes(67)), 7, 6),
    "rq without items": (rq(), 7, 6),
    "no application context": (rq(VERIFICATION, INFORMATION), 7, 6),
    "no contexts": (rq(APPLICATION, INFORMATION), 7, 6),
    "no user information": (rq(APPLICATION, VERIFICATION), 7, 6),
    "two user informations": (rq(APPLICATION, VERIFICATION, INFORMATION, INFORMATION), 7, 6),
    "item beyond pdu": (rq(APPLICATION, item(0x20, b"abcd", 1000)), 7, 6),
    "half an item header": (rq(APPLICATION, VERIFICATION, INFORMATION, b"\x50\0"), 7, 6),
    "empty application context": (rq(item(0x10, b""), VERIFICATION, INFORMATION), 7, 6),
    "long application context": (rq(item(0x10, b"1" * 65), VERIFICATION, INFORMATION), 7, 6),
    "application context beyond ascii": (rq(item(0x10, b"\xff\xfe"), VERIFICATION, INFORMATION), 7, 6),
    "empty context": (context(b""), 7, 6),
    "context of 3": (context(b"\1\0\0"), 7, 6),
    "even context id": (context(b"\2\0\0\0" + ABSTRACT + TRANSFER), 7, 6),
    "context id 0": (context(b"\0\0\0\0" + ABSTRACT + TRANSFER), 7, 6),
    "no abstract syntax": (context(b"\1\0\0\0" + TRANSFER), 7, 6),
    "two abstract syntaxes": (context(b"\1\0\0\0" + ABSTRACT * 2 + TRANSFER), 7, 6),
    "no transfer syntax": (context(b"\1\0\0\0" + ABSTRACT), 7, 6),
    "empty transfer syntax": (context(b"\1\0\0\0" + ABSTRACT + item(0x40, b"")), 7, 6),
    "sub-item beyond item": (context(b"\1\0\0\0" + ABSTRACT + item(0x40, b"1.2", 99)), 7, 6),
    "context twice": (rq(APPLICATION, VERIFICATION, VERIFICATION, INFORMATION), 7, 6),
    "200 contexts": (
        rq(APPLICATION, *(item(0x20, bytes((n % 256, 0, 0, 0)) + ABSTRACT + TRANSFER) for n in range(200)),
           INFORMATION), 7, 6,
    ),
    "maximum length of 3": (rq(APPLICATION, VERIFICATION, item(0x50, item(0x51, b"abc"))), 7, 6),
    "empty class uid": (user(item(0x52, b"")), 7, 6),
    "window of 2": (user(item(0x53, b"ab")), 7, 6),
    "role without flags": (user(item(0x54, b"\0\3" + b"1.2")), 7, 6),
    "role longer than item": (user(item(0x54, b"\xff\xff" + b"1.2")), 7, 6),
    "extended of 1": (user(item(0x56, b"\0")), 7, 6),
    "identity of 5": (user(item(0x58, b"\1\0\0\0\0")), 7, 6),
    "identity field too long": (user(item(0x58, b"\1\0\xff\xffab\0\0")), 7, 6),
    "identity with a tail": (user(item(0x58, b"\1\0\0\1a\0\0zzzz")), 7, 6),
    "user item beyond": (user(item(0x55, b"X", 500)), 7, 6),
    "protocol version 2": (GOOD[:6] + b"\0\2" + GOOD[8:], 3, 2),
    "other application context": (rq(item(0x10, b"1.2.3"), VERIFICATION, INFORMATION), 3, 2),
    "blank calling title": (rq(APPLICATION, VERIFICATION, INFORMATION, calling=bytes(16)), 3, 3),
    "calling title with a backslash": (
        rq(APPLICATION, VERIFICATION, INFORMATION, calling=b"A\\B             "), 3, 3,
    ),
    "calling title with a newline": (
        rq(APPLICATION, VERIFICATION, INFORMATION, calling=b"A\nB             "), 3, 3,
    ),
    "called title beyond ascii": (
        rq(APPLICATION, VERIFICATION, INFORMATION, called=b"PACS\xff           "), 3, 7,
    ),
}  # fmt: skip

# Inside an association: bytes, and the reason of the A-ABORT.
INSIDE: dict[str, tuple[bytes, int]] = {
    "second rq": (GOOD, 2),
    "ac": (encode(AssociateAc(RQ.called_bytes, RQ.calling_bytes, (ContextResult(1, 3),), USER)), 2),
    "rj": (encode(AssociateRj(1, 1, 1)), 2),
    "release rp": (encode(ReleaseRp()), 2),
    "unknown type": (pdu(9, b""), 1),
    "p-data too long": (pdu(4, b"", 65537), 6),
    "p-data without pdv": (pdu(4, b""), 6),
    "pdv without header": (pdu(4, b"\0\0\0"), 6),
    "pdv of 0": (pdu(4, b"\0\0\0\0\1\3"), 6),
    "pdv of 1": (pdu(4, b"\0\0\0\1\1\3"), 6),
    "pdv beyond its pdu": (pdu(4, b"\0\0\1\0\1\3ab"), 6),
    "pdv length of 4 GB": (pdu(4, b"\xff\xff\xff\xff\1\3ab"), 6),
    "even context": (pdu(4, b"\0\0\0\2\2\3"), 6),
    "context not agreed": (p_data(Pdv(7, True, True, COMMAND)), 6),
    "data out of nowhere": (p_data(Pdv(1, False, True, b"abcd")), 6),
    "empty command": (p_data(Pdv(1, True, True, b"")), 6),
    "truncated command": (p_data(Pdv(1, True, True, COMMAND[:-3])), 6),
    "command of rubbish": (p_data(Pdv(1, True, True, b"\xff" * 40)), 6),
    "command with a group 8": (p_data(Pdv(1, True, True, b"\x08\0" + COMMAND[2:])), 6),
    "element length of 4 GB": (
        p_data(Pdv(1, True, True, struct.pack("<HHI", 0, 0x100, 0xFFFFFFFF) + b"ab")), 6,
    ),
    "element twice": (p_data(Pdv(1, True, True, COMMAND + COMMAND)), 6),
    "command inside a data set": (
        p_data(Pdv(3, True, True, store_rq(1, CT, "1.2").encode())) + p_data(Pdv(3, True, True, COMMAND)), 6,
    ),
    "two contexts in one message": (
        p_data(Pdv(3, True, True, store_rq(1, CT, "1.2").encode())) + p_data(Pdv(1, False, True, b"ab")), 6,
    ),
    "release inside a data set": (
        p_data(Pdv(3, True, True, store_rq(1, CT, "1.2").encode())) + encode(ReleaseRq()), 2,
    ),
    "data after its end": (
        p_data(Pdv(1, True, True, COMMAND), Pdv(1, False, True, b"abcd")), 6,
    ),
    "endless command": (
        b"".join(p_data(Pdv(1, True, False, bytes(16000))) for _ in range(5)), 6,
    ),
}  # fmt: skip


async def serve(association: Association) -> None:
    while (message := await association.receive()) is not None:
        async for _ in association.data_set():
            pass
        await association.send(message.context_id, response(message.command, 0))


@asynccontextmanager
async def listening(limits: Limits, **options: Sequence[str]) -> AsyncIterator[tuple[Acceptor, DicomPeer]]:
    acceptor = Acceptor(
        limits,
        lambda _rq, _host: None,
        lambda rq: choose_contexts(rq, lambda _: (EXPLICIT_LITTLE, IMPLICIT_LITTLE)),
        serve,
        SystemClock(),
        **options,  # type: ignore[arg-type]
    )
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    peer = DicomPeer(Address("127.0.0.1", sock.getsockname()[1]), AeTitle("PACS"))
    await acceptor.start(sock)
    try:
        yield acceptor, peer
    finally:
        await acceptor.stop(0)


def lengths_in(raw: bytes) -> list[tuple[int, int]]:
    """Return place and size of each length field of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    found = [(2, 4)]

    def walk(place: int, end: int) -> None:
        while place < end:
            found.append((place + 2, 2))
            kind, size = raw[place], int.from_bytes(raw[place + 2 : place + 4], "big")
            if kind == 0x20:
                walk(place + 8, place + 4 + size)
            elif kind == 0x50:
                walk(place + 4, place + 4 + size)
            place += 4 + size

    walk(74, len(raw))
    return found


def corpus() -> dict[str, bytes]:
    """Return what a peer may send instead of a whole RQ, by a name for it."""
    found = {name: raw for name, (raw, _, _) in OPENINGS.items()}
    found |= {name: GOOD + raw for name, (raw, _) in INSIDE.items()}
    found |= {f"cut at {place}": GOOD[:place] for place in range(1, len(GOOD))}
    for place, size in lengths_in(GOOD):
        for value in (0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1):
            wrong = GOOD[:place] + value.to_bytes(size, "big") + GOOD[place + size :]
            found[f"length at {place} is {value}"] = wrong
    for kind in (0, *range(8, 256, 8)):
        found[f"a PDU of type {kind}"] = pdu(kind, GOOD[6:])
    return found


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(peer: DicomPeer) -> Streams:
    return await asyncio.open_connection(peer.address.host, peer.address.port)


async def next_pdu(reader: asyncio.StreamReader) -> bytes:
    """Return the next PDU, b"" at the end of the connection."""
    try:
        async with asyncio.timeout(20):
            head = await reader.readexactly(6)
            return head + await reader.readexactly(int.from_bytes(head[2:], "big"))
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


async def all_free(acceptor: Acceptor) -> None:
    assert await acceptor.changed.wait_until(lambda: acceptor.associations == 0, timeout_s=20)
    assert acceptor.associations == 0


@pytest.mark.parametrize("name", OPENINGS)
async def test_openings(name: str) -> None:
    raw, kind, reason = OPENINGS[name]
    async with listening(Limits()) as (acceptor, peer):
        reader, writer = await connect(peer)
        writer.write(raw)
        answer = await next_pdu(reader)
        assert answer[0] == kind
        assert answer[9] == reason
        if kind == 7:
            assert answer[8] == 2  # service-provider
        await echo(peer, "OTHER", timeout_s=20)  # while the peer still holds its connection
        writer.close()
        await all_free(acceptor)


@pytest.mark.parametrize("name", INSIDE)
async def test_inside_an_association(name: str) -> None:
    raw, reason = INSIDE[name]
    async with listening(Limits()) as (acceptor, peer):
        reader, writer = await connect(peer)
        writer.write(GOOD)
        assert (await next_pdu(reader))[0] == 2
        writer.write(raw)
        answer = await next_pdu(reader)
        while answer[:1] == b"\x04":  # it had answered what came before
            answer = await next_pdu(reader)
        assert answer[0] == 7
        assert tuple(answer[8:10]) == (2, reason)
        await all_free(acceptor)
        await echo(peer, "OTHER", timeout_s=20)
        writer.close()


async def test_after_each_of_hundreds_an_echo_succeeds_within_half_a_second() -> None:
    """Given peers that send rubbish and stay: the next caller never waits, and in the end nothing is left."""
    inputs = corpus()
    assert len(inputs) >= 150
    took_s: dict[str, float] = {}
    clock, me = SystemClock(), psutil.Process()
    async with listening(Limits(max_per_address=100)) as (acceptor, peer):
        await echo(peer, "OTHER", timeout_s=20)
        before, before_bytes = me.num_fds(), me.memory_info().rss
        staying: list[asyncio.StreamWriter] = []
        for name, raw in inputs.items():
            _, writer = await connect(peer)
            writer.write(raw)
            staying.append(writer)
            began_s = clock.monotonic()
            await echo(peer, "OTHER", timeout_s=20)
            took_s[name] = clock.monotonic() - began_s
        for writer in staying:
            writer.close()
        while acceptor.connections or me.num_fds() > before:
            await asyncio.wait_for(acceptor.changed.wait_until(lambda: False, timeout_s=0.02), 20)
        assert me.memory_info().rss - before_bytes < 16 * 2**20
    slowest = max(took_s, key=took_s.__getitem__)
    assert took_s[slowest] < 0.5 * slowness(), slowest


async def test_an_rq_in_single_bytes_is_an_rq() -> None:
    async with listening(Limits()) as (_, peer):
        reader, writer = await connect(peer)
        for byte in GOOD:
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await next_pdu(reader))[0] == 2
        writer.write(encode(ReleaseRq()))
        assert (await next_pdu(reader))[0] == 6
        writer.close()


async def test_artim_closes_half_open_connections() -> None:
    async with listening(Limits(artim_s=0.3)) as (acceptor, peer):
        streams = [await connect(peer) for _ in range(5)]
        with captured() as logs:
            for _, writer in streams:
                writer.write(GOOD[:40])
            for reader, writer in streams:
                assert await next_pdu(reader) == b""
                writer.close()
        assert acceptor.connections == 0
        # An operator can see why, once a minute for each peer.
        assert [entry["event"] for entry in logs] == ["no A-ASSOCIATE-RQ within ARTIM"]


async def test_a_connection_that_only_begins_a_pdu_is_aborted_when_idle() -> None:
    async with listening(Limits(idle_timeout_s=0.3)) as (acceptor, peer):
        reader, writer = await connect(peer)
        writer.write(GOOD)
        assert (await next_pdu(reader))[0] == 2
        writer.write(p_data(Pdv(3, True, True, store_rq(1, CT, "1.2").encode())))
        writer.write(p_data_header(3, 1000, is_command=False, is_last=True) + b"half")
        assert await next_pdu(reader) == encode(Abort(0, 0))
        await all_free(acceptor)
        writer.close()


async def test_during_a_flood_a_known_title_gets_in() -> None:
    limits = Limits(max_associations=20, max_per_address=20, reserve=5, artim_s=60)
    async with listening(limits, known_ae_titles=["KNOWN"]) as (acceptor, peer):
        flood = [await connect(peer) for _ in range(500)]  # half-open: not a byte
        await echo(peer, "KNOWN", timeout_s=20)
        dripping = [await connect(peer) for _ in range(30)]
        for _, writer in dripping:
            writer.write(GOOD[:50])
        await echo(peer, "KNOWN", timeout_s=20)
        strangers = [await connect(peer) for _ in range(40)]
        for _, writer in strangers:
            writer.write(encode(AssociateRq(RQ.called_bytes, padded_ae("STRANGE"), CONTEXTS, USER)))
        kinds = [(await next_pdu(reader))[:1] for reader, _ in strangers]
        assert kinds.count(b"\x02") == 15  # the reserve stays free
        await echo(peer, "KNOWN", timeout_s=20)
        assert acceptor.connections <= limits.max_associations + 3 * limits.max_per_address
        for _, writer in (*flood, *dripping, *strangers):
            writer.close()
        await all_free(acceptor)


async def test_an_endless_rq_costs_no_more_than_its_cap() -> None:
    async with listening(Limits()) as (acceptor, peer):
        reader, writer = await connect(peer)
        writer.write(pdu(1, b"", 256 * 1024))
        writer.write(bytes(200 * 1024))
        await writer.drain()
        await echo(peer, "OTHER", timeout_s=20)
        assert acceptor.associations == 0
        writer.write(bytes(56 * 1024))
        assert (await next_pdu(reader))[0] == 7
        writer.close()


async def test_a_peer_that_takes_nothing_stops_only_itself() -> None:
    """Answers pile up for a peer that does not read: it is no longer read either."""
    async with listening(Limits(idle_timeout_s=0.5, artim_s=0.5)) as (acceptor, peer):
        reader, writer = await connect(peer)
        writer.write(GOOD)
        assert (await next_pdu(reader))[0] == 2
        one = p_data(Pdv(1, True, True, COMMAND)) * 1000
        try:
            async with asyncio.timeout(20):
                while True:
                    writer.write(one)
                    await writer.drain()
        except ConnectionError:
            pass
        await all_free(acceptor)
        await echo(peer, "OTHER", timeout_s=20)
        writer.close()
