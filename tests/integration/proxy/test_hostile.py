"""What a caller or an upstream sends that is no HTTP, or too much of it, goes no further."""

from __future__ import annotations

import pytest

from failover.proxy.upstream import MAX_INTERIM
from tests.fakes.backend import Received, Talk, always, answer
from tests.fakes.web_stage import Stage, a_turn

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


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
            await a_turn()
        await talk.send(answer(b"never"))

    stage.primary.script = advise
    assert (await stage.ask("/dicom-web/studies")).upstream == "backup"
    assert (await stage.ask("/x", method="POST", body=b"y")).status == 502
