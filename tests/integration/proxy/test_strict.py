"""Issue B, point 3: one strict reading of each message, and what was judged is what arrives.

Each row goes through the real proxy to a backend that records what came. A refused message is sent with a
second request right behind it, as a smuggler would: neither may reach the backend.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from failover.model import UpstreamName
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.callers import RawCaller
from tests.fakes.web_stage import PRIMARY, Stage, web_stage
from tests.unit.http.test_http_head import REFUSED

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
H = b"Host: a\r\n"


async def everything(caller: RawCaller) -> bytes:
    """All that the proxy says until it ends the connection."""
    async with asyncio.timeout(20):
        return await caller.ended()


# -- heads ------------------------------------------------------------------------------------------


async def test_a_head_without_one_reading_is_answered_and_nothing_behind_it_is_read(stage: Stage) -> None:
    for raw, status in REFUSED:
        caller = await stage.caller()
        await caller.send(raw + SMUGGLED)
        said = await everything(caller)
        first = said.split(b"\r\n", 1)[0]
        assert first[:12] == b"HTTP/1.1 %d" % status or {first[9:12], b"%d" % status} == {b"400", b"501"}, (
            raw,
            first,
        )
        assert said.count(b"X-Failover-Upstream: ") == 1, raw
        assert b"Connection: close\r\n" in said
        assert b"X-Failover-Upstream: none\r\n" in said
        caller.close()
    assert stage.primary.requests == []
    assert stage.backup.requests == []


# What a request says, and what arrives: first line, fields besides those of the router, body.
PASSED: list[tuple[bytes, str, list[tuple[str, str]], bytes]] = [
    (b"GET /x?a=%5E%2A HTTP/1.1\r\n" + H + b"\r\n", "GET /x?a=%5E%2A", [("Host", "a")], b""),
    (b"\r\nGET /x HTTP/1.1\r\n" + H + b"\r\n", "GET /x", [("Host", "a")], b""),
    (b"GET http://a/x HTTP/1.1\r\n" + H + b"\r\n", "GET /x", [("Host", "a")], b""),
    (b"GET HTTP://A HTTP/1.1\r\nHost: a\r\n\r\n", "GET /", [("Host", "a")], b""),
    (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", "OPTIONS *", [("Host", "a")], b""),
    (b"FROB //b/../c HTTP/1.1\r\n" + H + b"\r\n", "FROB //b/../c", [("Host", "a")], b""),
    # one length, one coding, written by us
    (
        b"POST /x HTTP/1.1\r\n" + H + b"Content-Length: 0003\r\n\r\nabc",
        "POST /x",
        [("Host", "a"), ("Content-Length", "3")],
        b"abc",
    ),
    (
        b"POST /x HTTP/1.1\r\n" + H + b"content-length:\t3 \r\n\r\nabc",
        "POST /x",
        [("Host", "a"), ("Content-Length", "3")],
        b"abc",
    ),
    (
        b"POST /x HTTP/1.1\r\n" + H + b'Transfer-Encoding: CHUNKED\r\n\r\n0003;x="y"\r\nabc\r\n000\r\n\r\n',
        "POST /x",
        [("Host", "a"), ("Transfer-Encoding", "chunked")],
        b"abc",
    ),
    (
        b"POST /x HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTrailer: Host\r\n\r\n1\r\na\r\n0\r\n"
        b"Host: evil\r\nContent-Length: 9\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        "POST /x",
        [("Host", "a"), ("Transfer-Encoding", "chunked")],
        b"a",
    ),
    (
        b"GET /x HTTP/1.1\r\n" + H + b"Content-Length: 3\r\n\r\nabc",
        "GET /x",
        [("Host", "a"), ("Content-Length", "3")],
        b"abc",
    ),
    # hop-by-hop, what Connection names, upgrades that nobody speaks, underscore twins
    (
        b"GET /x HTTP/1.1\r\n"
        + H
        + b"Connection: keep-alive, X-Hop, Host, Cookie\r\nX-Hop: 1\r\nCookie: a=b\r\n"
        b"Keep-Alive: timeout=5\r\nTE: trailers\r\nProxy-Connection: x\r\n"
        b"Proxy-Authorization: Basic x\r\n\r\n",
        "GET /x",
        [("Host", "a"), ("Cookie", "a=b")],
        b"",
    ),
    (
        b"GET /x HTTP/1.1\r\n"
        + H
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n",
        "GET /x",
        [("Host", "a")],
        b"",
    ),
    (
        b"GET /x HTTP/1.1\r\n"
        + H
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nab",
        "GET /x",
        [("Host", "a"), ("Content-Length", "2")],
        b"ab",
    ),
    (
        b"GET /x HTTP/1.1\r\n"
        + H
        + b"Transfer_Encoding: chunked\r\nContent_Length: 9\r\nX_Forwarded_For: 6.6.6.6\r\n"
        b"X-Forwarded_Host: evil\r\nX_Failover_Via: router\r\nX_REAL_IP: 6.6.6.6\r\nGood_Name: kept\r\n\r\n",
        "GET /x",
        [("Host", "a"), ("Good_Name", "kept")],
        b"",
    ),
    # who it is, we say
    (
        b"GET /x HTTP/1.1\r\n"
        + H
        + b"Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\n"
        b"X-Real-IP: 6.6.6.6\r\nX-Failover-Via: router\r\n"
        b"X-Failover-Copy: 0\r\n\r\n",
        "GET /x",
        [("Host", "a")],
        b"",
    ),
]


def of_us(port_host: str) -> list[tuple[str, str]]:
    return [
        ("Forwarded", f"for=127.0.0.1;host={port_host};proto=http"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", port_host),
        ("X-Forwarded-Proto", "http"),
    ]


async def test_what_was_judged_is_what_arrives(stage: Stage) -> None:
    caller = await stage.caller()
    for raw, first, fields, body in PASSED:
        count = len(stage.primary.requests)
        await caller.send(raw)
        assert (await caller.answer()).status == 200, raw
        (came,) = stage.primary.requests[count:]
        assert f"{came.method} {came.target}" == first
        assert sorted(came.headers) == sorted(fields + of_us("a")), raw
        assert came.body == body


async def test_pipelined_in_one_write_each_arrives_as_it_is(stage: Stage) -> None:
    caller = await stage.caller()
    await caller.send(b"".join(raw for raw, *_ in PASSED))
    for _ in PASSED:
        assert (await caller.answer()).status == 200
    came = [(f"{one.method} {one.target}", one.body) for one in stage.primary.requests]
    assert came == [(first, body) for _, first, _, body in PASSED]


# -- bodies of requests -----------------------------------------------------------------------------

BROKEN_CHUNKS = [
    b"g\r\n",
    b"\r\n",
    b" 3\r\nabc\r\n",
    b"3 \r\nabc\r\n",
    b"+3\r\nabc\r\n",
    b"-3\r\nabc\r\n",
    b"0x3\r\nabc\r\n",
    b"3\nabc\r\n",
    b"3\r\nabc\n",
    b"3\r\nabcd\r\n",
    b"3\r\nab\r\n0\r\n\r\n",
    b"3;\x00\r\nabc\r\n",
    b"3;a\nb\r\nabc\r\n",
    b"3;a\rb\r\nabc\r\n",
    b"10000000000000003\r\nabc\r\n",
    b"ffffffffffffffff\r\nabc\r\n",
    b"3" + b";" * 300 + b"\r\nabc\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\n folded: x\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nX: y\n\r\n",
    b"0\r\nX: \x00\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 4000 + b"\r\n",
    b"0\n\n",
    b"_3\r\nabc\r\n",
    b"3,3\r\nabc\r\n",
]


async def test_a_body_without_one_reading_ends_its_connection_and_nothing_behind_it_is_read(
    stage: Stage,
) -> None:
    for chunks in BROKEN_CHUNKS:
        for method, path in ((b"POST", b"/x"), (b"POST", b"/dicom-web/studies"), (b"GET", b"/x")):
            caller = await stage.caller()
            await caller.send(
                b"%b %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % (method, path)
            )
            await caller.send(chunks + SMUGGLED)
            said = await everything(caller)
            assert said.startswith(b"HTTP/1.1 400 "), (chunks, said)
            assert said.count(b"X-Failover-Upstream: ") == 1, chunks
            caller.close()
    # The head of each may have gone out; no body was whole, and nothing stood behind it.
    assert [one for one in stage.primary.requests if one.target == "/smuggled"] == []
    while stage.proxy.in_flight(PRIMARY):
        await _turn()


async def _turn() -> None:
    turned = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.002, turned.set_result, None)
    await turned


# -- answers ----------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HOSTILE = [
    b"rubbish\r\n\r\n",
    b"HTTP/0.9 200 OK\r\n\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: y\n\n",
    b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    *(CHUNKED + chunks for chunks in BROKEN_CHUNKS),
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",  # and the end
]


async def test_a_hostile_upstream_reaches_no_caller(stage: Stage) -> None:
    """A read goes to the other upstream, unseen; what may not be repeated gets an honest 502."""
    for raw in HOSTILE:

        async def hostile(_: Received, talk: Talk, raw: bytes = raw) -> None:
            await talk.send(raw)
            talk.close()

        stage.primary.script = hostile
        caller = await stage.caller()
        answered = await caller.ask("/dicom-web/studies")
        assert (answered.status, answered.body, answered.upstream) == (200, b"backup", "backup"), raw
        answered = await caller.ask("/x", method="POST", body=b"y")
        if answered.status == 200:  # what a request that is never held got of the body before it broke
            assert raw.startswith((CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 9")), raw
            assert not answered.whole, raw
        else:
            assert (answered.status, answered.upstream) == (502, "none"), raw
        caller.close()


@pytest.mark.parametrize("late", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate", b"late",
])  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_bytes_behind_an_answer_are_nobodys(stage: Stage, method: str, late: bytes) -> None:
    async def two(_: Received, talk: Talk) -> None:
        body = b"" if method == "HEAD" else b"first"
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body + late)

    stage.primary.script = two
    first = await stage.caller()
    assert (await first.ask("/x", method=method)).status == 200
    stage.primary.script = always(answer(b"second"))
    assert (await (await stage.caller()).ask("/x")).body == b"second"
    assert len({one.connection for one in stage.primary.requests}) == 2


async def test_an_answer_before_the_body_is_the_answer_and_ends_both_connections(stage: Stage) -> None:
    stage.primary.read_bodies = False
    stage.primary.script = always(answer(b"too large", "413 Content Too Large"))
    caller = await stage.caller()
    await caller.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n")
    answered = await caller.answer()
    assert (answered.status, answered.header("connection")) == (413, "close")
    await caller.send(b"".join((b"x" * 20, SMUGGLED)))
    assert await everything(caller) == b""
    assert [one.target for one in stage.primary.requests] == ["/x"]


# -- who is slow ------------------------------------------------------------------------------------


async def test_a_caller_that_asks_and_does_not_read_holds_a_bounded_part(stage: Stage) -> None:
    count, size = 400, 1_000_000
    stage.primary.script = always(answer(b"x" * size))
    caller = await stage.caller()
    caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await caller.send(b"GET /dicom-web/studies/1 HTTP/1.1\r\nHost: a\r\n\r\n" * count)
    (one,) = await _callers(stage)
    while not one.write_paused or stage.proxy.in_flight(PRIMARY):
        await _turn()
    served = -1
    while served != len(stage.primary.requests):
        served = len(stage.primary.requests)
        for _ in range(50):
            await _turn()
    assert served * size < 40 * 2**20  # what the kernel takes, and one answer
    assert one.transport.get_write_buffer_size() < 4 * 2**20
    caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
    for _ in range(count):
        assert len((await caller.answer()).body) == size


async def _callers(stage: Stage) -> list:  # type: ignore[type-arg]
    while not stage.proxy._callers:
        await _turn()
    return list(stage.proxy._callers)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_caller_that_stops_reading_is_let_go_and_its_upstream_too(
    tmp_path: Path, method: str
) -> None:
    async def endless(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**31)
        while True:
            await talk.send(b"x" * 65536)

    async with web_stage(tmp_path, body_idle="300ms") as stage:
        stage.primary.script = endless
        caller = await stage.caller()
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(f"{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode())
        await stage.primary.received()
        async with asyncio.timeout(20):
            while stage.proxy._callers or stage.proxy.in_flight(PRIMARY):
                await _turn()
        assert stage.proxy.held.total() == 0


async def test_an_upstream_that_stops_inside_its_answer_is_left(tmp_path: Path) -> None:
    async def stops(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        await talk.reader.read()

    async with web_stage(tmp_path, body_idle="300ms") as stage:
        stage.primary.script = stops
        answered = await stage.ask("/dicom-web/studies")  # held: the other gives it, unseen
        assert (answered.status, answered.upstream) == (200, "backup")
        assert not (await stage.ask("/x", method="POST", body=b"")).whole


async def test_callers_that_vanish_inside_a_body_leave_nothing(stage: Stage) -> None:
    before = psutil.Process().num_fds()
    for cut in range(0, 60, 3):
        raw = b"POST /dicom-web/studies HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n" + b"x" * 60
        caller = await stage.caller()
        await caller.send(raw[: len(raw) - cut])
        caller.close()
    async with asyncio.timeout(20):
        while stage.proxy._callers or any(stage.proxy.in_flight(name) for name in UpstreamName):
            await _turn()
        while psutil.Process().num_fds() > before + 2:
            await _turn()
    assert stage.proxy.spool.memory_used_bytes == 0
