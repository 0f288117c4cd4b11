"""Searches that are answered on the connection itself, and all that is not: both say the same."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from failover.archive.dicomweb import at_once
from failover.archive.index import Index
from tests.integration.dicomweb_stage import WebStage, a_web_archive

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

PAGE = "GET /dicom-web/studies?limit=2 HTTP/1.1\r\nHost: h:1\r\nAccept: application/dicom+json\r\n\r\n"
FEW = PAGE.replace("limit=2", "StudyDate=19000101-&limit=1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WebStage]:
    async with a_web_archive(tmp_path_factory.mktemp("archive"), has_primary=False) as stage:
        yield stage


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, request: str) -> tuple[dict[str, str], bytes]:
        """Return status line and headers, and the body."""
        self.writer.write(request.encode())
        return await self.answer()

    async def answer(self) -> tuple[dict[str, str], bytes]:
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {"": lines[0]} | dict(line.split(": ", 1) for line in lines[1:])
        return headers, await self._reader.readexactly(int(headers.get("Content-Length", "0")))


@asynccontextmanager
async def connected(stage: WebStage) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.configuration.archive.web.port)
    yield Caller(reader, writer)
    writer.close()


@pytest.fixture
def at_once_only(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request that could have been was answered at once."""
    seen: list[bool] = []
    answer = at_once.Searches.answer

    def noted(self: at_once.Searches, head: bytes) -> bytes | None:
        said = answer(self, head)
        seen.append(said is not None)
        return said

    monkeypatch.setattr(at_once.Searches, "answer", noted)
    return seen


async def test_both_ways_say_the_same(archive: WebStage, at_once_only: list[bool]) -> None:
    async with connected(archive) as caller:
        await caller.ask(PAGE)  # it may come before aiohttp has begun to wait for one
        at_once_only.clear()
        quick, body = await caller.ask(PAGE)
        slow, other = await caller.ask(PAGE.replace("\r\n\r\n", "\r\nRange: bytes=0-\r\n\r\n"))
        again, _ = await caller.ask(PAGE)  # after aiohttp had its turn
    assert at_once_only == [True, False, True]
    assert body == other
    assert len(body) > 1000
    for one in (quick, slow, again):
        one.pop("Date")
    assert quick == slow == again


@pytest.mark.parametrize(
    "headers",
    ["X-Failover-Via: router\r\nX-Failover-Prefix: /pacs/rs\r\nX-Forwarded-Proto: https", "Accept: */*"],
)
async def test_urls_and_types_are_the_same_too(archive: WebStage, headers: str) -> None:
    asked = PAGE.replace("Accept: application/dicom+json", headers)
    async with connected(archive) as caller:
        await caller.ask(PAGE)
        quick = await caller.ask(asked)
        slow = await caller.ask(asked.replace("\r\n\r\n", "\r\nRange: bytes=0-\r\n\r\n"))
    assert quick[1] == slow[1]
    assert quick[0]["Content-Type"] == slow[0]["Content-Type"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (PAGE.replace("limit=2", "limit=-1"), "400"),
        (PAGE.replace("limit=2", "PatientID=nobody"), "204"),
        (PAGE.replace("limit=2", "limit=0"), "204"),
        (PAGE.replace("application/dicom+json", "text/html"), "406"),
        (PAGE.replace("h:1", "h/<script>"), "400"),
        (PAGE.replace("/studies?", "/nothing?"), "404"),
        (PAGE.replace("GET", "PUT"), "405"),
        (PAGE.replace("HTTP/1.1", "HTTP/1.0"), "200"),
        (PAGE.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), "200"),
        (PAGE.replace("\r\n\r\n", "\r\nContent-Length: 2\r\n\r\nab"), "200"),
    ],
)
async def test_what_is_odd_or_wrong_is_left_to_aiohttp(
    archive: WebStage, at_once_only: list[bool], request_: str, status: str
) -> None:
    async with connected(archive) as caller:
        await caller.ask(PAGE)
        at_once_only.clear()
        headers, _ = await caller.ask(request_)
    assert headers[""].split()[1] == status
    assert at_once_only == [False]


async def test_an_index_that_cannot_be_read_is_an_answer_of_aiohttp(
    archive: WebStage, at_once_only: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Index, "templates_at_once", fails)
    async with connected(archive) as caller:
        headers, _ = await caller.ask(PAGE)
    assert headers[""].split()[1] in ("200", "500")
    assert at_once_only == [False]


async def test_a_request_in_pieces_and_several_in_one_are_answered_in_order(archive: WebStage) -> None:
    async with connected(archive) as caller, connected(archive) as other:
        await caller.ask(PAGE)
        caller.writer.write(PAGE[:20].encode())
        await other.ask(PAGE)  # meanwhile the first piece has arrived
        headers, body = await caller.ask(PAGE[20:])
        assert headers[""].endswith("200 OK")
        caller.writer.write((FEW + PAGE + FEW).encode())
        three = [(await caller.answer())[1] for _ in range(3)]
        assert three[1] == body
        assert three[0] == three[2]
        assert (await caller.ask(PAGE))[1] == body


async def test_a_connection_on_which_nothing_more_is_asked_is_closed(
    archive: WebStage, monkeypatch: pytest.MonkeyPatch, at_once_only: list[bool]
) -> None:
    monkeypatch.setattr(at_once, "_IDLE_S", 0.05)
    async with connected(archive) as caller:
        while True not in at_once_only:
            await caller.ask(PAGE)
        assert await asyncio.wait_for(caller._reader.read(), 20) == b""
