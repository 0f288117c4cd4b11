"""An error in our own code ends the one request that met it, at once, and is logged without what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import pytest

from failover.errors import UpstreamUnreachable
from failover.model import Verdict
from failover.proxy import caller, hold, patience
from failover.proxy.answer import Answer
from failover.proxy.attempt import Attempt
from failover.proxy.retry import Pursuit
from failover.proxy.tunnel import Tunnel
from tests.fakes.backend import Received, Talk, always, answer, silent
from tests.fakes.callers import Answered
from tests.fakes.logs import captured
from tests.fakes.web_stage import PRIMARY, Stage, web_stage

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy:DeprecationWarning"),
]
Scene = Callable[[Stage, pytest.MonkeyPatch], Awaitable[Answered]]
SECRET = "DOE^JANE"
LONG = 3 * 2**20


def fails(*_: object, **__: object) -> NoReturn:
    raise KeyError(SECRET)


async def fails_later(*_: object, **__: object) -> NoReturn:
    raise KeyError(SECRET)


async def read_fails(stage: Stage, patch: pytest.MonkeyPatch) -> Answered:
    patch.setattr(hold, "plan", fails)
    stage.primary.script = always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    return await stage.ask("/dicom-web/studies")


async def connecting_fails(stage: Stage, patch: pytest.MonkeyPatch) -> Answered:
    patch.setattr(Attempt, "_send", fails)
    return await stage.ask("/dicom-web/studies")


async def waiting_fails(stage: Stage, patch: pytest.MonkeyPatch) -> Answered:
    patch.setattr(Pursuit, "new_round", fails)
    await stage.primary.kill()
    return await stage.ask("/x", method="POST", body=b"x")


async def the_sweep_fails(stage: Stage, patch: pytest.MonkeyPatch) -> Answered:
    patch.setattr(patience, "look", fails)
    stage.primary.script = silent
    return await stage.ask("/dicom-web/studies")


async def a_new_route_fails(stage: Stage, patch: pytest.MonkeyPatch) -> Answered:
    patch.setattr(Pursuit, "leaves", fails)
    stage.primary.script = silent
    asking = asyncio.gather(stage.ask("/dicom-web/studies"))
    await stage.primary.received(2)
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    return (await asking)[0]


@pytest.mark.parametrize(
    "scene", [read_fails, connecting_fails, waiting_fails, the_sweep_fails, a_new_route_fails]
)
async def test_the_request_gets_500_at_once_and_others_are_served(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    bystander = await stage.caller()
    assert (await bystander.ask("/before")).status == 200
    with captured() as logs, monkeypatch.context() as patch:
        async with asyncio.timeout(20):  # long before any time-out of the proxy
            answered = await scene(stage, patch)
    assert (answered.status, answered.upstream, answered.header("connection")) == (500, "none", "close")
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["KeyError"]
    assert SECRET not in repr(logs)
    assert not any(side.flights for side in stage.proxy.sides.values())
    stage.primary.script = None
    stage.verdict(PRIMARY, Verdict.UP)
    if scene is not waiting_fails:
        assert (await bystander.ask("/after")).status == 200
    if scene is the_sweep_fails:  # it goes on sweeping
        stage.primary.script = silent
        with monkeypatch.context() as patch:
            patch.setattr(patience, "look", fails)
            assert (await stage.ask("/dicom-web/studies")).status == 500


async def test_an_answer_under_way_breaks_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = asyncio.Event()

    async def streams(_: Received, talk: Talk) -> None:
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * LONG) + b"x" * LONG)
        await goes_on.wait()
        await talk.send(b"x" * LONG)

    stage.primary.script = streams
    one = await stage.caller()
    await one.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await one.head()).status == 200
    await one.reader.readexactly(LONG)
    with captured() as logs, monkeypatch.context() as patch:
        patch.setattr(Answer, "data", fails)
        goes_on.set()
        with pytest.raises(ConnectionResetError):
            await one.reader.read()
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["KeyError"]
    assert stage.proxy.in_flight(PRIMARY) == 0


async def test_a_tunnel_breaks_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def switch(_: Received, talk: Talk) -> None:
        await talk.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        await talk.reader.read(10)
        await talk.send(b"\x82\x01a")

    stage.primary.script = switch
    one = await stage.caller()
    answered = await one.ask("/ws", "Connection: Upgrade", "Upgrade: websocket")
    assert answered.status == 101
    with captured() as logs, monkeypatch.context() as patch:
        patch.setattr(Tunnel, "from_upstream", fails)
        await one.send(b"\x82\x01a")
        assert await one.ended() == b""
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["KeyError"]
    assert stage.proxy.in_flight(PRIMARY) == 0


async def test_a_head_that_we_fail_to_read_ends_its_connection_alone(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with captured() as logs, monkeypatch.context() as patch:
        patch.setattr(caller, "parse_request", fails)
        one = await stage.caller()
        await one.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await one.ended() == b""
    assert [line["error"] for line in logs if line["log_level"] == "error"] == ["KeyError"]
    assert (await stage.ask("/x")).status == 200


async def test_an_event_of_the_attempt_that_was_left_is_not_blamed_on_the_other(stage: Stage) -> None:
    """A parked attempt fails while the other one is asked: the other's answer still comes."""
    from tests.integration.proxy.test_resume import (
        FIRST,
        PARTS,
        SECOND,
        SHUFFLED,
        STUDY,
        multipart,
        parts_of,
        typed,
    )

    whole = answer(multipart(FIRST, PARTS, "x"), "200 OK", typed(FIRST))
    hung, asked, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pauses(_: Received, talk: Talk) -> None:
        await talk.send(whole[:1_200_000])
        hung.set()
        await talk.reader.read()

    async def slow(_: Received, talk: Talk) -> None:
        asked.set()
        await goes_on.wait()
        await talk.send(answer(multipart(SECOND, SHUFFLED, "y"), "200 OK", typed(SECOND)))

    stage.primary.script, stage.backup.script = pauses, slow
    asking = asyncio.gather(stage.ask(STUDY))
    await hung.wait()
    stage.verdict(PRIMARY, Verdict.SUSPECT)
    await asked.wait()
    (one,) = stage.proxy._callers
    parked = one.response.parked
    assert parked is not None
    parked.upstream_failed(UpstreamUnreachable("gone"))
    assert one.response.parked is None
    goes_on.set()
    (answered,) = await asking
    assert answered.whole
    assert parts_of(answered.body, FIRST.boundary) == PARTS
    assert len(stage.backup.requests) == 1
    assert not any(side.flights for side in stage.proxy.sides.values())


async def test_a_login_of_the_connection_is_not_inherited_by_the_next_caller_of_a_proxy(
    tmp_path: Path,
) -> None:
    async with web_stage(tmp_path, trusted_proxies=["127.0.0.1"]) as stage:
        proxy = await stage.caller()
        for address, lines in [
            ("10.0.0.1", ["Authorization: NTLM TlRM"]), ("10.0.0.1", []), ("10.0.0.2", []), ("10.0.0.1", []),
        ]:  # fmt: skip
            assert (await proxy.ask("/x", f"X-Forwarded-For: {address}", *lines)).status == 200
        first, second, stranger, again = [one.connection for one in stage.primary.requests]
        assert first == second
        assert first not in (stranger, again)
