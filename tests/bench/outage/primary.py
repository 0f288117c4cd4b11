"""A primary that misbehaves on order: a front that passes all on to a real archive, until told not to.

    python -m tests.bench.outage.primary HOST PORT BEHIND FOLDER

Its mode is what stands in FOLDER/mode: `well`, `500`, `500_but_health`, `slow` (each answer 10 s late),
`break` (bodies beyond 64 KB end in their middle). Whatever the mode, /orders/ID counts how often a POST was
carried out (a line in FOLDER/orders), /kind/slow takes 20 s and /kind/broken answers 500.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from failover.clock import SystemClock

SLOW_S: Final = 10.0
SLOW_KIND_S: Final = 20.0
BREAK_BEYOND: Final = 64 * 1024
_HOP: Final = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length", "host"))


class Front:
    def __init__(self, behind: str, folder: Path) -> None:
        self._behind = behind
        self._mode = folder / "mode"
        self._orders = folder / "orders"
        self._clock = SystemClock()
        self._session: aiohttp.ClientSession | None = None

    async def opened(self, _: web.Application) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, timeout=aiohttp.ClientTimeout(60)
        )

    async def answer(self, request: web.Request) -> web.StreamResponse:
        mode = self._mode.read_text()
        body = await request.read()
        if mode == "slow":
            await self._clock.sleep(SLOW_S)
        health = request.path == "/"
        if mode == "500" or (mode == "500_but_health" and not health):
            return web.Response(status=500, text="out of order")
        if health:
            return web.Response(text="well")
        if request.path.startswith("/orders/"):
            with self._orders.open("a") as orders:
                orders.write(f"{request.path[8:]}\n")
            return web.Response(text="done")
        if request.path == "/kind/slow":
            await self._clock.sleep(SLOW_KIND_S)
            return web.Response(text="late")
        if request.path == "/kind/broken":
            return web.Response(status=500, text="always")
        return await self._pass_on(request, body, breaks=mode == "break")

    async def _pass_on(self, request: web.Request, body: bytes, *, breaks: bool) -> web.StreamResponse:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers["Host"] = request.host
        async with self._session.request(
            request.method, f"{self._behind}{request.raw_path}", data=body or None, headers=headers
        ) as answer:
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP:
                    response.headers.add(name, value)
            if answer.content_length is not None:
                response.content_length = answer.content_length
            await response.prepare(request)
            passed = 0
            async for piece in answer.content.iter_any():
                passed += len(piece)
                if breaks and passed > BREAK_BEYOND:
                    await response.write(piece[: len(piece) // 2])
                    transport = request.transport
                    if transport is not None:
                        transport.abort()
                    return response
                await response.write(piece)
            await response.write_eof()
            return response


async def _serve(host: str, port: int, behind: str, folder: Path) -> None:
    front = Front(behind, folder)
    app = web.Application(client_max_size=2**31)
    app.on_startup.append(front.opened)
    app.router.add_route("*", "/{anything:.*}", front.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
