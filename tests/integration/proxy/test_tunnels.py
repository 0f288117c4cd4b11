"""What stops to be request and answer: WebSocket, event streams, switches of protocol, NTLM."""

from __future__ import annotations

import asyncio

import pytest

from failover.model import Phase, Verdict
from failover.proxy.caller import PIPELINE_BYTES
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.web_stage import PRIMARY, Stage, a_turn, callers

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


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
    (one,) = await callers(stage)
    while not one.reading_paused:
        await a_turn()
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
