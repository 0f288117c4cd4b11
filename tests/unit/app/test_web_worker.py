"""One web worker and a router that says what the test wants: when it joins again, when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from failover import shares
from failover.aio import spawn
from failover.app import web_worker
from failover.app.web_words import JOIN
from failover.app.web_worker import WebWorker, carry
from failover.clock import Clock, ManualClock, SystemClock
from failover.config.load import parse
from failover.control import ControlServer, Json, Line, socket_path
from failover.model import UpstreamName
from failover.routing import wire
from tests.fakes.web_stage import calm_route

PRIMARY = "primary: {web: {url: http://127.0.0.1:8042}, dicom: {host: localhost, port: 4242, ae_title: P}}\n"
CLOCK = SystemClock()


def the_route() -> Json:
    return {"route": wire.told(calm_route()), "version": 1}


class Carried(NamedTuple):
    worker: WebWorker
    carrying: asyncio.Task[int]
    stop: asyncio.Event


@asynccontextmanager
async def carried(
    folder: Path, router: Callable[[Line, Json], Awaitable[None]], clock: Clock = CLOCK
) -> AsyncIterator[Carried]:
    configuration = parse(f"{PRIMARY}state_dir: {folder}\n", name="f.yaml", folder=folder)
    server = ControlServer(socket_path(folder, "router"), {}, {JOIN: router})
    await server.start()
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        worker = WebWorker(configuration, "web-2", clock, shares.alone())
        carrying = spawn(carry(worker, sock, stop), name="carry")
        try:
            async with asyncio.timeout(20):
                yield Carried(worker, carrying, stop)
                stop.set()
                await carrying
        finally:
            carrying.cancel()
            await server.stop()


@pytest.mark.parametrize(
    "word",
    [
        {"route": {"of": "another version"}, "version": 2},
        {"end_work": "nobody"},
        {"tell": "what"},
    ],
)
async def test_a_word_that_cannot_be_carried_out_ends_the_worker(tmp_path: Path, word: Json) -> None:
    async def router(line: Line, _question: Json) -> None:
        line.send(the_route())
        await line.receive()
        line.send(word)
        await asyncio.Event().wait()

    async with carried(tmp_path, router) as it:
        assert await it.carrying == 1


async def test_a_report_that_fails_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Json:
        raise RuntimeError("a fault of ours")

    async def router(line: Line, _question: Json) -> None:
        line.send(the_route())
        await line.receive()
        monkeypatch.setattr(web_worker, "digest_told", fails)
        while True:
            await line.receive()

    async with carried(tmp_path, router) as it:
        assert await it.carrying == 1


async def test_a_line_that_ends_or_garbles_is_joined_again(tmp_path: Path) -> None:
    joined: list[Line] = []
    back = asyncio.Event()

    async def router(line: Line, _question: Json) -> None:
        joined.append(line)
        line.send(the_route())
        await line.receive()
        if len(joined) == 1:
            line._writer.write(b"\x00\x00\x00\x01?")
            await asyncio.Event().wait()
        if len(joined) == 2:
            return
        back.set()
        await asyncio.Event().wait()

    async with carried(tmp_path, router) as it:
        await back.wait()
        it.stop.set()
        assert await it.carrying == 0


async def test_the_same_facts_again_are_told_again(tmp_path: Path) -> None:
    """Two failed stores of one moment are two, though their reports are equal."""
    lines: asyncio.Queue[Line] = asyncio.Queue()

    async def router(line: Line, _question: Json) -> None:
        await lines.put(line)
        await asyncio.Event().wait()

    async with carried(tmp_path, router, ManualClock()) as it:
        line = await lines.get()
        line.send(the_route())
        await line.receive()
        for _ in range(2):
            it.worker._traffic[UpstreamName.PRIMARY].store_result("10.1.2.3", False)
            line.send({"tell": 1})
            told = await line.receive()
            assert len(told["traffic"]["primary"]["stores"]) == 1
        it.worker._metrics.http_log_lost.inc(3)
        line.send({"tell": 1})
        assert (await line.receive())["counts"] == {"http_log_lost": [[[], 3]]}
        it.worker._metrics.http_log_lost.inc(3)
        line.send({"tell": 1})
        assert (await line.receive())["counts"] == {"http_log_lost": [[[], 3]]}


async def test_a_route_that_is_told_twice_loses_its_verdicts_in_a_silence_too(
    tmp_path: Path,
) -> None:
    async def router(line: Line, _question: Json) -> None:
        for version in (1, 2):
            line.send({**the_route(), "version": version})
            await line.receive()
        heard.set()
        await asyncio.Event().wait()

    heard, clock = asyncio.Event(), ManualClock()
    async with carried(tmp_path, router, clock) as it:
        await heard.wait()
        assert it.worker._proxy is not None
        silent = wire.unheard(calm_route())
        assert it.worker._proxy.board.current == calm_route() != silent
        for _ in range(round(1.2 * web_worker.UNHEARD_S / web_worker.TICK_S)):
            await clock.advance(web_worker.TICK_S)
        assert it.worker._proxy.board.current == silent
