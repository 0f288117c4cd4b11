"""A raw HTTP/1 server on loopback whose answers a test scripts, byte by byte where it matters.

It stands in for an upstream where a fault cannot be had from a real one: dying in the middle, staying
silent, lying. It records what arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    connection: int = 0
    """Which of the backend's connections it came on."""

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None


@dataclass
class Talk:
    """What a script may do with its connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    alive: bool = True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def die(self) -> None:
        """End the connection as a killed process does."""
        self.alive = False
        self.writer.transport.abort()

    def close(self) -> None:
        self.alive = False
        self.writer.close()


Script = Callable[[Received, Talk], Awaitable[None]]


def answer(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer with a length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def always(data: bytes) -> Script:
    async def script(_: Received, talk: Talk) -> None:
        await talk.send(data)

    return script


async def silent(_: Received, talk: Talk) -> None:
    """Accept and never answer, until the other side goes."""
    await talk.reader.read()


async def die(_: Received, talk: Talk) -> None:
    talk.die()


@dataclass
class Backend:
    name: str = "backend"
    script: Script | None = None
    read_bodies: bool = True
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> Backend:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def kill(self) -> None:
        """As kill -9: the port refuses, and every connection dies."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def received(self, count: int = 1) -> Received:
        """Wait until `count` requests have come; return the last of them."""
        while len(self.requests) < count:
            self._came.clear()
            await self._came.wait()
        return self.requests[count - 1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        number = self.connections
        talk = Talk(reader, writer)
        try:
            while talk.alive:
                received = await self._read(reader, number)
                self.requests.append(received)
                self._came.set()
                script = self.script or always(answer(self.name.encode()))
                await script(received, talk)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(Exception):
                writer.close()

    async def _read(self, reader: asyncio.StreamReader, number: int) -> Received:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head[:-4].split("\r\n")
        method, target, version = first.split(" ")
        assert version == "HTTP/1.1"
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        received = Received(method, target, headers, connection=number)
        if self.read_bodies:
            received.body = await self.read_body(received, reader)
        return received

    async def read_body(self, received: Received, reader: asyncio.StreamReader) -> bytes:
        length, coding = received.header("content-length"), received.header("transfer-encoding")
        if length is not None:
            return await reader.readexactly(int(length))
        body = b""
        while coding == "chunked":
            size = int(await reader.readline(), 16)
            body += await reader.readexactly(size)
            assert await reader.readline() == b"\r\n"
            if not size:
                break
        return body
