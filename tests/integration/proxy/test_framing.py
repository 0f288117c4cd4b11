"""Bytes through the proxy: bodies both ways, HEAD, old HTTP, bodies until the end of a connection."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import psutil
import pytest

from failover.proxy.connection import READ_BUFFER, Buffered
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.web_stage import PRIMARY, Stage, a_turn, callers, some_turns

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


async def test_chunked_both_ways(stage: Stage) -> None:
    async def echo(received: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for place in range(0, len(received.body), 7):
            piece = received.body[place : place + 7]
            await talk.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await talk.send(b"0\r\n\r\n")

    stage.primary.script = echo
    caller = await stage.caller()
    await caller.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"one ", b"two ", b"three"):
        await caller.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    await caller.send(b"0\r\n\r\n")
    answered = await caller.answer("POST")
    assert answered.body == b"one two three"
    assert stage.primary.requests[0].header("Transfer-Encoding") == "chunked"


async def test_64_mb_stream_with_flat_memory(stage: Stage) -> None:
    block, count = os.urandom(256 * 1024), 256

    async def stream(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(block) * count))
        for _ in range(count):
            await talk.send(block)

    stage.primary.script = stream
    before = psutil.Process().memory_info().rss
    caller = await stage.caller()
    await caller.send(b"GET /dicom-web/studies/1.2 HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await caller.head()
    assert head.header("Content-Length") == str(len(block) * count)
    highest = 0
    for _ in range(count):
        assert await caller.reader.readexactly(len(block)) == block
        highest = max(highest, psutil.Process().memory_info().rss)
    assert highest - before < 24 * 2**20


async def test_a_caller_that_does_not_read_stops_the_upstream(stage: Stage) -> None:
    sent = 0

    async def stream(_: Received, talk: Talk) -> None:
        nonlocal sent
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while sent < 200 * 2**20:
            await talk.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536

    stage.primary.script = stream
    caller = await stage.caller()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await caller.send(b"GET /dicom-web/studies/1.2 HTTP/1.1\r\nHost: a\r\n\r\n")
    (exchange_owner,) = await callers(stage)
    while not exchange_owner.write_paused:
        await a_turn()
    before = -1
    while sent != before:
        before = sent
        await asyncio.wait_for(asyncio.shield(some_turns()), 5)
    assert sent < 40 * 2**20
    caller.close()
    while stage.proxy.in_flight(PRIMARY):
        await a_turn()


async def test_head_has_a_length_and_no_body(stage: Stage) -> None:
    stage.primary.script = always(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
    caller = await stage.caller()
    for _ in range(2):
        answered = await caller.ask("/dicom-web/studies/1.2", method="HEAD")
        assert (answered.status, answered.header("Content-Length")) == (200, "12345")


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_these_have_no_body(stage: Stage, status: str) -> None:
    stage.primary.script = always(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode())
    caller = await stage.caller()
    for _ in range(2):
        answered = await caller.ask("/thing")
        assert (answered.status, answered.header("ETag")) == (int(status[:3]), "x")
        assert answered.header("Transfer-Encoding") is None


@pytest.mark.parametrize("megabytes", [0, 2])  # held until whole, and streamed
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_only_the_end_of_the_connection_ends_ends_so_for_the_caller(
    stage: Stage, method: str, megabytes: int
) -> None:
    """A killed upstream's kernel says the same FIN: a length or a last chunk would promise too much."""
    body = b"all of " + b"i" * (megabytes * 2**20) + b"t"

    async def old(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.0 200 OK\r\n\r\n" + body[:7])
        await talk.send(body[7:])
        talk.close()

    stage.primary.script = old
    caller = await stage.caller()
    answered = await caller.ask("/thing", method=method, body=b"x" if method == "POST" else None)
    assert (answered.status, answered.body, answered.header("Connection")) == (200, body, "close")
    assert answered.header("Transfer-Encoding") is answered.header("Content-Length") is None
    assert await caller.ended() == b""


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_reset_inside_a_body_until_close_is_a_reset_for_the_caller(stage: Stage, method: str) -> None:
    async def resets(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (3 * 2**20))
        await goes_on.wait()
        linger = struct.pack("ii", 1, 0)
        talk.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        talk.die()

    goes_on = asyncio.Event()
    stage.primary.script = resets
    caller = await stage.caller()
    body = "" if method == "GET" else "Content-Length: 0\r\n"
    await caller.send(f"{method} /thing HTTP/1.1\r\nHost: a\r\n{body}\r\n".encode())
    assert (await caller.head()).status == 200
    await caller.reader.readexactly(3 * 2**20)
    goes_on.set()
    with pytest.raises(ConnectionResetError):
        await caller.reader.read()


async def test_parts_prove_that_a_body_until_close_is_whole(stage: Stage) -> None:
    body = b'[{"00080018":{"vr":"UI","Value":["1.2"]}}]'

    async def old(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n" + body)
        talk.close()

    stage.primary.script = old
    caller = await stage.caller()
    for _ in range(2):
        answered = await caller.ask("/dicom-web/studies/1/metadata")
        assert (answered.body, answered.header("Content-Length")) == (body, str(len(body)))


async def test_http_1_0_caller_gets_its_answer_and_the_end(stage: Stage) -> None:
    stage.primary.script = always(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    caller = await stage.caller()
    await caller.send(b"GET /thing HTTP/1.0\r\n\r\n")
    answered = await caller.answer()
    assert (answered.status, answered.body) == (200, b"abc")
    assert answered.header("Transfer-Encoding") is None
    assert await caller.ended() == b""
    assert stage.primary.requests[0].header("Host") == f"127.0.0.1:{stage.primary.port}"


async def test_broken_stream_never_looks_whole(stage: Stage) -> None:
    async def half(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await talk.send(b"200000\r\n" + b"x" * 0x200000 + b"\r\n")
        talk.die()

    stage.primary.script = half
    answered = await stage.ask("/dicom-web/studies/1.2")
    assert answered.status == 200
    assert not answered.whole


async def test_no_read_makes_a_buffer(stage: Stage) -> None:
    """Given a plain connection of uvloop, which has one buffer, and one of asyncio, which would make one."""
    READ_BUFFER[:4096] = bytes(4096)
    caller = await stage.caller()
    await caller.ask("/a")
    (one,) = await callers(stage)
    if isinstance(one.transport, asyncio.Transport):
        assert isinstance(one.transport.get_protocol(), Buffered)
        assert b" HTTP/1.1" in bytes(READ_BUFFER[:4096]) or b"HTTP/1.1 200 OK" in bytes(READ_BUFFER[:4096])
    else:
        assert one.transport.get_protocol() is one
        assert not any(READ_BUFFER[:4096])


async def test_stop_lets_requests_end(stage: Stage) -> None:
    going = asyncio.Event()

    async def slow(_: Received, talk: Talk) -> None:
        await going.wait()
        await talk.send(answer(b"done"))

    stage.primary.script = slow
    busy, idle = await stage.caller(), await stage.caller()
    await busy.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    await stage.primary.received()
    stop = asyncio.ensure_future(stage.proxy.stop(10))  # noqa: TID251
    going_idle = await idle.ended()
    going.set()
    answered = await busy.answer()
    assert (answered.body, answered.header("Connection"), going_idle) == (b"done", "close", b"")
    await stop
    assert stage.proxy._callers == set()
