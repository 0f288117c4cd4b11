"""TLS before the proxy and behind it, on both event loops: what passes, and who is refused."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from failover.clock import SystemClock
from failover.model import ClientTls, ServerTls
from failover.tls import ServerIdentity, client_context, server_context
from tests.fakes.backend import Backend, Received, Talk, answer
from tests.fakes.callers import RawCaller
from tests.fakes.web_stage import Stage, web_stage
from tests.peers.authority import Authority

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
LARGE = 3 * 2**20 + 7


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def tls_stage(
    folder: Path, files: ServerTls, **listen: Any
) -> AsyncIterator[tuple[Stage, ServerIdentity]]:
    identity = ServerIdentity("web", files, SystemClock())
    async with web_stage(folder, identity=identity, **listen) as on:
        yield on, identity


class TlsCaller(RawCaller):
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self._context = context

    async def open(self) -> TlsCaller:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._context, server_hostname="localhost", limit=2**20
        )
        return self

    def close(self) -> None:
        self.writer.transport.abort()

    @property
    def serial(self) -> object:
        shown = self.writer.get_extra_info("peercert")
        return shown["serialNumber"]


@asynccontextmanager
async def caller(on: Stage, settings: ClientTls) -> AsyncIterator[TlsCaller]:
    one = await TlsCaller(on.port, client_context(settings)).open()
    try:
        yield one
    finally:
        one.close()


async def test_requests_pass_and_the_upstream_hears_https(authority: Authority, tmp_path: Path) -> None:
    async with (
        tls_stage(tmp_path, authority.server()) as (on, _),
        caller(on, authority.client()) as one,
    ):
        got = await one.ask("/page")
        assert (got.status, got.upstream) == (200, "primary")
        received = on.primary.requests[-1]
        assert received.header("X-Forwarded-Proto") == "https"
        assert "proto=https" in str(received.header("Forwarded"))
        again = await one.ask("/page")
        assert again.status == 200, "the connection is kept"


async def test_what_tls_took_is_given_back_at_once(authority: Authority, tmp_path: Path) -> None:
    """200 KB each: the collector of cycles comes once in hundreds of callers."""
    async with tls_stage(tmp_path, authority.server()) as (on, _):
        gc.disable()
        try:
            async with caller(on, authority.client()) as one:
                assert (await one.ask("/page")).status == 200
                (seen,) = on.proxy._callers
                held = weakref.ref(seen.transport.get_extra_info("ssl_object"))
                assert held() is not None
                del seen
            async with asyncio.timeout(20):
                while on.proxy._callers or held() is not None:
                    await asyncio.wait([asyncio.get_running_loop().run_in_executor(None, int)])
        finally:
            gc.enable()


async def test_large_bodies_pass_both_ways(authority: Authority, tmp_path: Path) -> None:
    body = bytes(range(256)) * (LARGE // 256)

    async def mirror(asked: Received, talk: Talk) -> None:
        await talk.send(answer(asked.body))

    async with (
        tls_stage(tmp_path, authority.server()) as (on, _),
        caller(on, authority.client()) as one,
    ):
        on.primary.script = mirror
        got = await one.ask("/upload", method="POST", body=body)
        assert got.status == 200
        assert got.body == body


async def test_a_pipelined_byte_drip_is_read_as_one(authority: Authority, tmp_path: Path) -> None:
    async with (
        tls_stage(tmp_path, authority.server()) as (on, _),
        caller(on, authority.client()) as one,
    ):
        for byte in b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n":
            await one.send(bytes([byte]))
        assert (await one.answer()).status == 200
        assert (await one.answer()).status == 200
        assert [each.target for each in on.primary.requests] == ["/a", "/b"]


async def test_who_speaks_http_hears_why_and_is_closed(authority: Authority, tmp_path: Path) -> None:
    async with tls_stage(tmp_path, authority.server()) as (on, _):
        plain = await RawCaller(on.port).open()
        got = await plain.ask("/page", method="POST", body=b"x" * 20000)
        assert got.status == 400
        assert got.header("connection") == "close"
        assert b"TLS" in got.body
        assert await plain.reader.read() == b"", "closed, not reset"
        plain.writer.close()
        assert on.primary.requests == []


async def test_without_a_certificate_of_the_client_ca_nobody_asks(
    authority: Authority, tmp_path: Path
) -> None:
    async with tls_stage(tmp_path, authority.server(client_ca=authority.ca_file)) as (on, _):
        async with caller(on, authority.client("viewer")) as known:
            assert (await known.ask("/page")).status == 200
        asked = len(on.primary.requests)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            async with caller(on, authority.client()) as stranger:
                await stranger.ask("/page")
        assert len(on.primary.requests) == asked


async def test_a_replaced_certificate_drops_no_connection(authority: Authority, tmp_path: Path) -> None:
    issued = authority.issue("site", file="site")
    async with (
        tls_stage(tmp_path, ServerTls(issued.cert, issued.key)) as (on, identity),
        caller(on, authority.client()) as before,
    ):
        assert (await before.ask("/one")).status == 200
        authority.issue("site", file="site")
        assert identity.look(at_once=True) is None
        async with caller(on, authority.client()) as after:
            assert (await after.ask("/two")).status == 200
            assert after.serial != before.serial
        assert (await before.ask("/three")).status == 200


async def test_half_handshakes_keep_nobody_out(authority: Authority, tmp_path: Path) -> None:
    async with tls_stage(tmp_path, authority.server(), head_timeout="5s") as (on, _):
        idle = [await asyncio.open_connection("127.0.0.1", on.port) for _ in range(300)]
        async with caller(on, authority.client()) as one:
            assert (await one.ask("/page")).status == 200
        oldest = await asyncio.wait_for(idle[0][0].read(), 30)
        assert oldest == b"", "beyond the limit the oldest one goes"
        for _, writer in idle:
            writer.transport.abort()


async def test_an_end_in_the_middle_of_a_handshake_harms_nobody(authority: Authority, tmp_path: Path) -> None:
    hello = ssl.MemoryBIO()
    started = client_context(authority.client()).wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        started.do_handshake()
    data = hello.read()
    async with tls_stage(tmp_path, authority.server()) as (on, _):
        for end in (1, 5, len(data) // 2, len(data)):
            with socket.create_connection(("127.0.0.1", on.port)) as sock:
                sock.sendall(data[:end])
        async with caller(on, authority.client()) as one:
            assert (await one.ask("/page")).status == 200


async def test_a_caller_that_goes_in_its_request_leaves_nothing(authority: Authority, tmp_path: Path) -> None:
    async with tls_stage(tmp_path, authority.server()) as (on, _):
        async with caller(on, authority.client()) as one:
            await one.send(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        async with caller(on, authority.client()) as two:
            assert (await two.ask("/page")).status == 200
        async with asyncio.timeout(30):
            while on.counted("failover_http_connections"):
                await on.proxy.clock.sleep(0.01)


class TlsFront:
    """TLS before a plain backend: what an https primary is to the proxy."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target, self._context = target_port, context
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> TlsFront:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", self._target)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            except (ConnectionError, ssl.SSLError):
                pass
            target.close()

        await asyncio.gather(copy(reader, outer), copy(inner, writer))

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


@pytest.fixture
def scenes(authority: Authority, tmp_path: Path) -> list[tuple[str, ClientTls]]:
    other = Authority(tmp_path / "other")
    return [
        ("primary", authority.client()),
        ("primary", ClientTls(ca_file=authority.ca_file, server_name="pacs.example.org")),
        ("primary", ClientTls(verify=False)),
        ("backup", ClientTls(ca_file=authority.ca_file, server_name="other.example.org")),
        ("backup", other.client()),
        ("backup", ClientTls()),
    ]


async def test_an_upstream_is_believed_by_issuer_and_name(
    authority: Authority, tmp_path: Path, scenes: list[tuple[str, ClientTls]]
) -> None:
    for answering, settings in scenes:
        pacs = await Backend("primary").start()
        front = await TlsFront(pacs.port, server_context(authority.server("pacs.example.org"))).start()
        async with web_stage(tmp_path / "stage", primary_tls=(front.port, settings)) as on:
            got = await on.ask("/dicom-web/studies")
            assert (got.status, got.upstream) == (200, answering), settings
        front.close()
        await pacs.kill()
