"""Several requests in one write: answered in order, bounded, and to the last one that is whole."""

from __future__ import annotations

import pytest

from failover.proxy.caller import PIPELINE_BYTES
from tests.fakes.backend import Received, Talk, answer
from tests.fakes.web_stage import PRIMARY, Stage, a_turn, callers

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]


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
        await a_turn()


async def test_pipelining_holds_a_bounded_part_of_what_a_caller_sends(stage: Stage) -> None:
    caller = await stage.caller()
    request = b"GET /x HTTP/1.1\r\nHost: a\r\nX-Filler: %b\r\n\r\n" % (b"f" * 600)
    count = 1000
    caller.writer.write(request * count)
    (one,) = await callers(stage)
    most = 0
    for _ in range(count):
        await caller.answer()
        most = max(most, len(one._buffer))
    assert 0 < most <= PIPELINE_BYTES + 256 * 1024  # and what one read of uvloop brings
