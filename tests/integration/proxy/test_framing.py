"""Bytes through the proxy: bodies both ways, pipelining, HEAD, old HTTP, tunnels, limits, the end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import psutil
import pytest

from failover.model import Phase, Verdict
from failover.proxy.caller import PIPELINE_BYTES
from failover.proxy.connection import READ_BUFFER, READ_BYTES
from failover.proxy.upstream import MAX_INTERIM
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.web_stage import PRIMARY, Stage, web_stage

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
    (exchange_owner,) = await _callers(stage)
    while not exchange_owner.write_paused:
        await _turn()
    before = -1
    while sent != before:
        before = sent
        await asyncio.wait_for(asyncio.shield(_some_turns()), 5)
    assert sent < 40 * 2**20
    caller.close()
    while stage.proxy.in_flight(PRIMARY):
        await _turn()


async def _callers(stage: Stage) -> list:  # type: ignore[type-arg]
    while not stage.proxy._callers:
        await _turn()
    return list(stage.proxy._callers)


async def _turn() -> None:
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def _some_turns() -> None:
    for _ in range(200):
        await _turn()


async def test_pipelined_requests_are_answered_in_order(stage: Stage) -> None:
    async def name_it(received: Received, talk: Talk) -> None:
        await talk.send(answer(received.target.encode()))

    stage.primary.script = name_it
    caller = await stage.caller()
    await caller.send(
        b"".join(b"GET /dicom-web/studies/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(50))
    )
    for n in range(50):
        assert (await caller.answer()).body == b"/dicom-web/studies/%d" % n


async def test_a_body_and_the_next_request_in_one_write(stage: Stage) -> None:
    caller = await stage.caller()
    await caller.send(
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /y HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert (await caller.answer("POST")).status == 200
    assert (await caller.answer()).status == 200
    assert [(r.target, r.body) for r in stage.primary.requests] == [("/x", b"abc"), ("/y", b"")]


async def test_pipelined_requests_are_answered_after_the_caller_closed_its_side(stage: Stage) -> None:
    async def name_it(received: Received, talk: Talk) -> None:
        await talk.send(answer(received.target.encode() + received.body))

    stage.primary.script = name_it
    caller = await stage.caller()
    await caller.send(
        b"".join(b"GET /dicom-web/studies/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(20))
        + b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n"
    )
    caller.writer.write_eof()
    for n in range(20):
        assert (await caller.answer()).body == b"/dicom-web/studies/%d" % n
    last = await caller.answer("POST")
    assert (last.body, await caller.ended()) == (b"/xabc", b"")


@pytest.mark.parametrize("last", [
    b"GET /x HTTP/1.1\r\nHost: a\r\n", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab",
])  # fmt: skip
async def test_a_caller_that_stops_inside_a_pipelined_request_gets_the_answers_before(
    stage: Stage, last: bytes
) -> None:
    caller = await stage.caller()
    await caller.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + last)
    caller.writer.write_eof()
    for _ in range(2):
        assert (await caller.answer()).status == 200
    assert await caller.ended() == b""
    while stage.proxy.in_flight(PRIMARY) or stage.proxy._callers:
        await _turn()


async def test_pipelining_holds_a_bounded_part_of_what_a_caller_sends(stage: Stage) -> None:
    caller = await stage.caller()
    request = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Filler: %b\r\n\r\n" % (b"f" * 600)
    count = 1000
    caller.writer.write(request * count)
    (one,) = await _callers(stage)
    most = 0
    for _ in range(count):
        await caller.answer()
        most = max(most, len(one._buffer))
    assert 0 < most <= PIPELINE_BYTES + READ_BYTES


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


async def test_websocket_is_a_tunnel_and_ends_with_1012(stage: Stage) -> None:
    async def switch(received: Received, talk: Talk) -> None:
        assert received.header("Upgrade") == "websocket"
        assert received.header("Sec-WebSocket-Key") == "abc"
        await talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\n"
        )
        while data := await talk.reader.read(65536):
            if b"die" in data:
                talk.die()
                return
            await talk.send(b"\x82" + bytes([len(data)]) + data)

    stage.primary.script = switch
    caller = await stage.caller()
    await caller.send(
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: abc\r\n\r\nearly"
    )
    head = await caller.head()
    assert (head.status, head.header("Sec-WebSocket-Accept")) == (101, "x")
    assert head.header("Upgrade") == "websocket"
    assert await caller.reader.readexactly(7) == b"\x82\x05early"
    await caller.send(b"more")
    assert await caller.reader.readexactly(6) == b"\x82\x04more"
    assert stage.proxy.in_flight(PRIMARY) == 1
    await caller.send(b"die")
    assert await caller.ended() == b"\x88\x02\x03\xf4"
    assert stage.proxy.in_flight(PRIMARY) == 0


async def test_what_came_before_the_switch_does_not_stop_a_tunnel(stage: Stage) -> None:
    """Behind its request a caller may send more than is kept while the answer is awaited."""
    early, later = b"e" * (PIPELINE_BYTES + 1), b"l" * 300_000
    switch_now = asyncio.Event()
    arrived = 0

    async def switch(_: Received, talk: Talk) -> None:
        nonlocal arrived
        await switch_now.wait()
        await talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        while arrived < len(early) + len(later):
            arrived += len(await talk.reader.read(65536))
        await talk.send(b"\x81\x03all")

    stage.primary.script = switch
    caller = await stage.caller()
    await caller.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    await stage.primary.received()
    await caller.send(early)
    (one,) = await _callers(stage)
    while not one.reading_paused:
        await _turn()
    switch_now.set()
    await caller.send(later)
    assert (await caller.head()).status == 101
    assert await asyncio.wait_for(caller.reader.readexactly(5), 20) == b"\x81\x03all"


async def test_websocket_is_closed_when_its_upstream_is_down(stage: Stage) -> None:
    async def switch(_: Received, talk: Talk) -> None:
        await talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        await talk.reader.read()

    stage.primary.script = switch
    caller = await stage.caller()
    await caller.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await caller.head()).status == 101
    stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    assert await caller.ended() == b"\x88\x02\x03\xf4"


@pytest.mark.parametrize("dies", [True, False])
async def test_an_event_stream_ends_when_its_upstream_does_so_that_the_page_reconnects(
    stage: Stage, dies: bool
) -> None:
    """Given a page with an EventSource at the primary: it hears each event at once, and then the end."""
    ends = asyncio.Event()

    async def tell(_: Received, talk: Talk) -> None:
        await talk.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await talk.send(b"d\r\ndata: first\n\n\r\n")
        await ends.wait()
        talk.die()

    stage.primary.script = tell
    caller = await stage.caller()
    await caller.send(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
    assert (await caller.head()).header("Content-Type") == "text/event-stream"
    assert b"data: first\n\n" in await caller.reader.readuntil(b"\n\n")
    if dies:
        ends.set()
    else:
        stage.phase(Phase.ON_BACKUP, primary=Verdict.DOWN)
    async with asyncio.timeout(20):
        try:
            rest = await caller.reader.read()
        except ConnectionError:  # a reset: an end that nobody takes for whole
            rest = b""
    assert b"0\r\n\r\n" not in rest
    assert stage.proxy.in_flight(PRIMARY) == 0
    assert stage.backup.requests == []
    ends.set()


async def test_h2c_is_ignored_and_never_passed_on(stage: Stage) -> None:
    answered = await stage.ask(
        "/x",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    )
    assert answered.status == 200
    received = stage.primary.requests[0]
    assert received.header("Upgrade") is None
    assert received.header("HTTP2-Settings") is None
    assert received.header("Connection") is None


async def test_101_unasked_is_a_502_for_what_may_not_be_repeated(stage: Stage) -> None:
    stage.primary.script = always(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert (await stage.ask("/x", method="POST", body=b"y")).status == 502


async def test_ntlm_binds_the_upstream_connection_to_one_caller(stage: Stage) -> None:
    async def challenge(received: Received, talk: Talk) -> None:
        if received.header("Authorization") is None:
            await talk.send(answer(b"", "401 Unauthorized", "WWW-Authenticate: NTLM"))
        else:
            await talk.send(answer(b"secret"))

    stage.primary.script = challenge
    first, second = await stage.caller(), await stage.caller()
    assert (await first.ask("/x")).status == 401
    assert (await first.ask("/x", "Authorization: NTLM abc", method="POST", body=b"1")).status == 200
    assert (await first.ask("/x", "Authorization: NTLM abc")).status == 200
    await second.ask("/x")
    assert [r.connection for r in stage.primary.requests] == [1, 1, 1, 2]


async def test_early_answer_ends_the_callers_connection(stage: Stage) -> None:
    stage.primary.read_bodies = False

    async def refuse(_: Received, talk: Talk) -> None:
        await talk.send(answer(b"too big", "413 Content Too Large"))

    stage.primary.script = refuse
    caller = await stage.caller()
    await caller.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
    answered = await caller.answer("POST")
    assert (answered.status, answered.body) == (413, b"too big")
    assert answered.header("Connection") == "close"
    assert await caller.ended() == b""


async def test_hop_by_hop_fields_and_what_connection_names_never_pass(stage: Stage) -> None:
    stage.primary.script = always(
        answer(b"x", "200 OK", "Connection: X-Inner", "X-Inner: 1", "Keep-Alive: timeout=5", "Alt-Svc: h3",
               "X-Failover-Upstream: forged")
    )  # fmt: skip
    answered = await stage.ask(
        "/x", "Connection: X-Mine", "X-Mine: 1", "TE: trailers", "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Failover-Via: router",
    )  # fmt: skip
    assert answered.upstream == "primary"
    assert {"connection", "x-inner", "keep-alive", "alt-svc"}.isdisjoint(
        k.lower() for k, _ in answered.headers
    )
    received = {name.lower(): value for name, value in stage.primary.requests[0].headers}
    assert {"connection", "x-mine", "te", "x_forwarded_for", "x-failover-via"}.isdisjoint(received)
    assert received["x-forwarded-for"] == "127.0.0.1"


async def test_bad_chunk_in_a_request_is_a_400_and_the_end(stage: Stage) -> None:
    caller = await stage.caller()
    await caller.send(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n")
    assert (await caller.answer("POST")).status == 400
    assert await caller.ended() == b""


async def test_malformed_heads_are_400_and_the_end(stage: Stage) -> None:
    for raw in (b"GET / HTTP/1.1\n\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"):
        caller = await stage.caller()
        await caller.send(raw)
        answered = await caller.answer()
        assert (answered.status, answered.upstream) == (400, "none")
        assert await caller.ended() == b""
    caller = await stage.caller()
    await caller.send(b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000)
    assert (await caller.answer()).status == 431
    assert stage.primary.requests == []


@pytest.mark.parametrize("raw", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd",
    b"rubbish\r\n\r\n",
])  # fmt: skip
async def test_hostile_answers_are_never_passed_on(stage: Stage, raw: bytes) -> None:
    stage.primary.script = always(raw)
    assert (await stage.ask("/dicom-web/studies")).upstream == "backup"
    answered = await stage.ask("/x", method="POST", body=b"y")
    assert answered.status == 502 or not answered.whole


async def test_answer_after_the_answer_is_never_read_as_the_next_one(stage: Stage) -> None:
    stage.primary.script = always(answer(b"one") + answer(b"forged"))
    caller = await stage.caller()
    assert (await caller.ask("/a")).body == b"one"
    assert (await caller.ask("/b")).body == b"one"
    assert [r.connection for r in stage.primary.requests] == [1, 2]


_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"


async def test_many_interim_answers_are_no_more_than_advice(stage: Stage) -> None:
    stage.primary.script = always(_INTERIM * MAX_INTERIM + answer(b"at last"))
    for _ in range(2):
        answered = await stage.ask("/dicom-web/studies/1.2")
        assert (answered.body, answered.upstream) == (b"at last", "primary")


async def test_interim_answers_without_an_end_are_no_answer(stage: Stage) -> None:
    async def advise(_: Received, talk: Talk) -> None:
        for _ in range(MAX_INTERIM // 100 + 1):
            await talk.send(_INTERIM * 100)
            await _turn()
        await talk.send(answer(b"never"))

    stage.primary.script = advise
    assert (await stage.ask("/dicom-web/studies")).upstream == "backup"
    assert (await stage.ask("/x", method="POST", body=b"y")).status == 502


async def test_bytes_are_read_into_the_shared_buffer(stage: Stage) -> None:
    """On uvloop a class that is both kinds of protocol would get `data_received` and never the buffer."""
    caller = await stage.caller()
    await caller.ask("/a")
    assert "data_received" not in {name for one in await _callers(stage) for name in dir(one)}
    assert b"GET /a HTTP/1.1" in bytes(READ_BUFFER[:4096]) or b"HTTP/1.1 200 OK" in bytes(READ_BUFFER[:4096])


async def test_limits_by_phase(tmp_path: Path) -> None:
    async with web_stage(
        tmp_path, head_timeout="300ms", body_idle="300ms", answer_timeout="300ms", keep_alive="300ms"
    ) as stage:
        slow_head = await stage.caller()
        await slow_head.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        slow_body = await stage.caller()
        await slow_body.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        idle = await stage.caller()
        assert (await idle.ask("/x")).status == 200
        assert (await slow_head.answer()).status == 408
        assert (await slow_body.answer()).status == 408
        assert await idle.ended() == b""

        async def silent(_: Received, talk: Talk) -> None:
            await talk.reader.read()

        stage.primary.script = silent
        answered = await stage.ask("/x", method="POST", body=b"y")
        assert (answered.status, answered.upstream) == (504, "none")


async def test_more_callers_than_allowed_wait_in_the_backlog(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_connections="2") as stage:
        first, second = await stage.caller(), await stage.caller()
        assert (await first.ask("/x")).status == 200
        assert (await second.ask("/x")).status == 200
        third = await stage.caller()
        await third.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await second.ask("/x")).status == 200
        assert len(stage.primary.requests) == 3
        first.close()
        assert (await third.answer()).status == 200


async def test_one_address_has_so_many_connections_and_hears_why_it_gets_no_more(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_per_address="2") as stage:
        first, second = await stage.caller(), await stage.caller()
        assert [(await one.ask("/x")).status for one in (first, second)] == [200, 200]
        third = await stage.caller()
        turned_away = await third.answer()
        assert (turned_away.status, turned_away.upstream) == (503, "none")
        assert turned_away.header("Connection") == "close"
        assert turned_away.header("Retry-After")
        assert await third.ended() == b""
        assert (await second.ask("/x")).status == 200
        assert stage.counted("failover_http_turned_away_total", reason="max_per_address") == 1
        first.close()
        async with asyncio.timeout(10):
            while (await (again := await stage.caller()).ask("/x")).status != 200:
                again.close()
        third.close()


async def test_proxies_in_front_of_us_have_as_many_connections_as_there_is_room_for(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_per_address="1", trusted_proxies=["127.0.0.1"]) as stage:
        callers = [await stage.caller() for _ in range(4)]
        assert [(await one.ask("/x")).status for one in callers] == [200] * 4


async def test_a_crowd_of_strangers_leaves_room_for_the_admitted(tmp_path: Path) -> None:
    async with web_stage(tmp_path, max_connections="16", reserve="2") as stage:
        stage.admitted.clear()
        callers = [await stage.caller() for _ in range(14)]
        assert {(await one.ask("/x")).status for one in callers} == {200}
        assert (await (await stage.caller()).answer()).status == 503
        assert stage.counted("failover_http_turned_away_total", reason="reserve") == 1
        stage.admitted.add("127.0.0.1")
        assert (await (await stage.caller()).ask("/x")).status == 200


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
