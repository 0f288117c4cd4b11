"""A raw HTTP caller: sends bytes as they are, reads answers by their framing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass
class Answered:
    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = True

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def upstream(self) -> str | None:
        return self.header("X-Failover-Upstream")


@dataclass
class RawCaller:
    port: int
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter = field(init=False)

    async def open(self) -> RawCaller:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        return self

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, target: str, *lines: str, method: str = "GET", body: bytes | None = None) -> Answered:
        """One request, one answer. `Host` is given unless a line gives it."""
        fields = list(lines)
        if not any(line.lower().startswith("host:") for line in fields):
            fields.insert(0, "Host: pacs.example")
        if body is not None:
            fields.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([f"{method} {target} HTTP/1.1", *fields, "", ""]).encode("latin-1"))
        if body is not None:
            await self.send(body)
        return await self.answer(method)

    async def head(self) -> Answered:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return Answered(int(first.split(" ")[1]), headers)

    async def answer(self, method: str = "GET") -> Answered:
        answered = await self.head()
        while answered.status == 100:
            answered = await self.head()
        if method == "HEAD" or answered.status in (101, 204, 304):
            return answered
        length = answered.header("content-length")
        try:
            if length is not None:
                answered.body = await self.reader.readexactly(int(length))
            elif answered.header("transfer-encoding") == "chunked":
                await self._chunks(answered)
            else:
                answered.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            answered.whole = False
        return answered

    async def _chunks(self, answered: Answered) -> None:
        while True:
            size = int(await self.reader.readline(), 16)
            answered.body += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if not size:
                return

    async def ended(self) -> bytes:
        """Read until the other side closes; return what still came."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.transport.abort()


async def ask(
    port: int, target: str, *lines: str, method: str = "GET", body: bytes | None = None
) -> Answered:
    """One request on a connection of its own."""
    caller = await RawCaller(port).open()
    try:
        return await caller.ask(target, *lines, method=method, body=body)
    finally:
        caller.close()
