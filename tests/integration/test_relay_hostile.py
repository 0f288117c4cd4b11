"""An upstream that breaks the protocol, at its opening or in an operation: callers hear nothing of it.

It is a socket and some bytes: what arrives is not read but for the request that sets it off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from failover.dicom.dimse import echo_rq
from failover.dicom.encoding import encode
from failover.dicom.negotiation import Acceptance, acceptance_ac, choose_contexts
from failover.dicom.pdu import PduReader
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import (
    Abort,
    AssociateAc,
    AssociateRj,
    AssociateRq,
    ContextResult,
    Pdv,
    ReleaseRp,
    ReleaseRq,
    RoleSelection,
)
from tests.fakes.upstream import CT, FakeUpstream, study
from tests.integration.relay_stage import BACKUP, PRIMARY, peer, stage
from tests.integration.test_acceptor_malformed import INSIDE, p_data, pdu
from tests.unit.relay.scene import ALL
from tests.unit.relay.test_relay_operations import echo, find, store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

Answer = Callable[[AssociateRq], bytes]


def good_ac(rq: AssociateRq) -> bytes:
    contexts = choose_contexts(rq, lambda _: (EXPLICIT_LITTLE, IMPLICIT_LITTLE))
    return encode(acceptance_ac(rq, Acceptance(contexts, roles=rq.user.roles), 65536))


def ac_of(*results: ContextResult) -> Answer:
    return lambda rq: encode(AssociateAc(rq.called_bytes, rq.calling_bytes, results, rq.user))


# What it says instead of an A-ASSOCIATE-AC.
OPENINGS: dict[str, Answer] = {
    "http": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing, and the end": lambda _: b"",
    "half an ac": lambda rq: good_ac(rq)[:90],
    "an ac of 4 GB": lambda _: pdu(2, b"", 0xFFFFFFFF),
    "an rq": lambda rq: encode(rq),
    "p-data": lambda _: p_data(Pdv(1, True, True, b"ab")),
    "a release": lambda _: encode(ReleaseRq()),
    "a release rp": lambda _: encode(ReleaseRp()),
    "an abort": lambda _: encode(Abort(2, 1)),
    "a context that nobody proposed": ac_of(ContextResult(99, 0, EXPLICIT_LITTLE)),
    "a syntax that nobody proposed": ac_of(ContextResult(1, 0, "1.2.840.10008.1.2.4.50")),
    "a rejection and more": lambda _: encode(AssociateRj(2, 3, 1)) + bytes(100),
}


@asynccontextmanager
async def hostile(opening: Answer, inside: bytes | None = None) -> AsyncIterator[int]:
    """Yield the port of one that answers an RQ by `opening` and the first P-DATA by `inside`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readexactly(6)
            [rq] = PduReader(65536).receive_data(
                head + await reader.readexactly(int.from_bytes(head[2:], "big"))
            )
            assert isinstance(rq, AssociateRq)
            writer.write(opening(rq))
            if inside is not None and await reader.read(1):
                writer.write(inside)
                await reader.read()
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the relay, or the test, has ended it
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def everything_is_served(port: int, folder: Path) -> None:
    backup = FakeUpstream("BACK", matches=[study(f"1.2.{number}") for number in range(3)])
    await backup.start()
    try:
        upstreams = {PRIMARY: peer(port, "PRIME"), BACKUP: backup.peer}
        async with stage(upstreams, folder) as on, asyncio.timeout(60):
            roles = (RoleSelection(CT, True, True),)
            caller = await open_association(peer(on.port, "PACS"), "CT1", ALL, timeout_s=20, roles=roles)
            assert await echo(caller, 1) == 0
            assert await find(caller, 2) == (["1.2.0", "1.2.1", "1.2.2"], 0)
            assert await store(caller, "1.2.3", b"x" * 100_000, 3) == 0
            assert backup.stored == {"1.2.3": b"x" * 100_000}
            await caller.release()
            assert on.relay.acceptor.associations == 0
            assert await on.relay.legs.changed.wait_until(
                lambda: on.relay.in_flight(PRIMARY) == 0, timeout_s=20
            )
    finally:
        await backup.kill()


@pytest.mark.parametrize("name", OPENINGS)
async def test_rubbish_instead_of_an_ac(name: str, tmp_path: Path) -> None:
    async with hostile(OPENINGS[name]) as port:
        await everything_is_served(port, tmp_path)


ANSWERS = {
    **{name: raw for name, (raw, _) in INSIDE.items()},
    "release": encode(ReleaseRq()),
    "abort": encode(Abort(0, 0)),
    "an echo": p_data(Pdv(1, True, True, echo_rq(7).encode())),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_rubbish_instead_of_an_answer(name: str, tmp_path: Path) -> None:
    async with hostile(good_ac, ANSWERS[name]) as port:
        await everything_is_served(port, tmp_path)
