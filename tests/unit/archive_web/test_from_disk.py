"""Bytes of a file on their way to callers, quick and slow ones, in whole and in part; a file that shrinks."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from failover.archive.dicomweb.from_disk import Streamed, write_file
from failover.errors import UnreadableDataSet

CONTENT = os.urandom(3_000_000)


@pytest_asyncio.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """A server that sends `before` and the bytes from `offset` on of a file of 3 MB."""
    (tmp_path / "file").write_bytes(CONTENT)

    async def handler(request: web.Request) -> web.StreamResponse:
        before, offset = request.query["before"].encode(), int(request.query["offset"])
        length = int(request.query["length"])
        response = Streamed()
        if request.query["told"] == "yes":
            response.content_length = len(before) + length
        try:
            await write_file(request, response, str(tmp_path / "file"), (offset, length), before)
        except UnreadableDataSet:
            return web.Response(status=406)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    yield listener.getsockname()[1]
    await runner.cleanup()


async def ask(port: int, query: str, receive_bytes: int = 0) -> tuple[bytes, bytes]:
    """Return head and body; with `receive_bytes` the caller has room for so little that the server waits."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=max(4096, receive_bytes))
    writer.write(f"GET /?{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    try:
        whole = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize("receive_bytes", [0, 4096])
@pytest.mark.parametrize("before", ["", "head of a part"])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 3_000_000), (12_345, 600_000), (2_999_999, 1), (70_000, 100)]
)
async def test_the_bytes_come_whole_and_in_order(
    port: int, offset: int, length: int, before: str, receive_bytes: int
) -> None:
    query = f"before={before.replace(' ', '+')}&offset={offset}&length={length}&told=yes"
    head, body = await ask(port, query, receive_bytes)
    assert head.startswith(b"HTTP/1.1 200")
    assert body == before.encode() + CONTENT[offset : offset + length]


async def test_of_a_long_file_only_what_goes_next_is_looked_for_in_memory(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, real = 0, os.preadv

    def counts(descriptor: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        nonlocal looks
        looks += len(buffers[0]) == 1
        return real(descriptor, buffers, offset, flags)

    (tmp_path / "file").write_bytes(bytes(16_000_000))
    monkeypatch.setattr(os, "preadv", counts)
    _, body = await ask(port, "before=&offset=0&length=16000000&told=yes", 65536)
    assert len(body) == 16_000_000
    assert 0 < looks < 1200  # once all that was left was looked for again before each 256 KB: 4000


async def test_bytes_that_are_cut_into_chunks_are_not_handed_over(port: int) -> None:
    head, body = await ask(port, "before=&offset=0&length=600000&told=no")
    assert b"chunked" in head
    assert len(body) > 600_000
    first, _, rest = body.partition(b"\r\n")
    assert rest[: int(first, 16)] == CONTENT[: int(first, 16)]


async def test_a_file_that_is_shorter_than_it_was_is_said_before_a_byte_goes_out(port: int) -> None:
    head, _ = await ask(port, "before=&offset=2999999&length=100000&told=yes")
    assert head.startswith(b"HTTP/1.1 406")
