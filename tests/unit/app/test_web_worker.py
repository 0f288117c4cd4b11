"""One web worker and a router that says what the test wants: when it joins again, when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from failover import shares
from failover.aio import spawn
from failover.app import web_worker
from failover.app.web_words import JOIN
from failover.app.web_worker import WebWorker, carry
from failover.clock import SystemClock
from failover.config.load import parse
from failover.control import ControlServer, Json, Line, socket_path
from failover.routing import wire
from tests.fakes.web_stage import calm_route

PRIMARY = "primary: {web: {url: http://127.0.0.1:8042}, dicom: {host: localhost, port: 4242, ae_title: P}}\n"
CLOCK = SystemClock()


def the_route() -> Json:
    return {"route": wire.told(calm_route()), "version": 1}


@asynccontextmanager
async def carried(
    folder: Path, router: Callable[[Line, Json], Awaitable[None]]
) -> AsyncIterator[tuple[asyncio.Task[int], asyncio.Event]]:
    configuration = parse(f"{PRIMARY}state_dir: {folder}\n", name="f.yaml", folder=folder)
    server = ControlServer(socket_path(folder, "router"), {}, {JOIN: router})
    await server.start()
    stop = asyncio.Event()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        worker = WebWorker(configuration, "web-2", CLOCK, shares.alone())
        carrying = spawn(carry(worker, sock, stop), name="carry")
        try:
            async with asyncio.timeout(20):
                yield carrying, stop
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

    async with carried(tmp_path, router) as (carrying, _):
        assert await carrying == 1


async def test_a_report_that_fails_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Json:
        raise RuntimeError("a fault of ours")

    async def router(line: Line, _question: Json) -> None:
        line.send(the_route())
        await line.receive()
        monkeypatch.setattr(web_worker, "digest_told", fails)
        while True:
            await line.receive()

    async with carried(tmp_path, router) as (carrying, _):
        assert await carrying == 1


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

    async with carried(tmp_path, router) as (carrying, stop):
        await back.wait()
        stop.set()
        assert await carrying == 0
