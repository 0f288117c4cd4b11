"""Searches for studies that are answered on the connection itself, as soon as they have arrived.

A search that the index answers takes a tenth of what a request costs that passes through aiohttp. So whoever
asks plainly (a whole GET of `/studies` in one piece, nothing before it under way) and will get matches is
answered here; everything else, whatever is odd or goes wrong among it, is aiohttp's, which is told nothing of
what was answered here. Both say the same: `search` words the answers.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.web_protocol import RequestHandler

from failover.archive.dicomweb import search
from failover.archive.dicomweb.accept import NotAcceptable, json_type, read_accept
from failover.archive.dicomweb.asking import Room, path_or, url_of
from failover.archive.queries import Level
from failover.metrics import ArchiveMetrics

# One request without a body: what does not look like this is not ours to judge.
_GET: Final = re.compile(
    rb"GET ([!-~]+?)(?:\?([!\"$-~]*))? HTTP/1\.1\r\n((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~]*\r\n)+)\r\n"
)
_WHOLE_GET: Final = re.compile(rb"GET [^\r\n]+\r\n(?:[^\r\n]+\r\n)+\r\n")
_MOST_BYTES: Final = 8192
# Who says one of these wants more than a plain answer, or may have a body.
_OTHERS: Final = frozenset(
    {"connection", "content-length", "transfer-encoding", "expect", "upgrade", "if-none-match", "range"}
)
_IDLE_S: Final = 75.0  # as aiohttp has it


@dataclass(frozen=True, slots=True)
class Searches:
    """What is needed to answer at once."""

    room: Room
    metrics: ArchiveMetrics
    fixed_headers: Mapping[str, str]
    is_admitted: Callable[[str], bool]

    def answer(self, head: bytes) -> bytes | None:
        """Return the whole answer to a request; None where it is not for us."""
        asked = _GET.fullmatch(head) if len(head) <= _MOST_BYTES else None
        if asked is None or asked[1].decode() != f"{self.room.dicomweb_path.rstrip('/')}/studies":
            return None
        headers = _headers(asked[3].decode())
        if headers is None:
            return None
        try:
            said = self._found((asked[2] or b"").decode(), headers)
        except (web.HTTPException, NotAcceptable, ValueError, sqlite3.Error):
            return None
        if said is not None:
            self.metrics.requests.labels("qido", "200").inc()
        return said

    def _found(self, parameters: str, headers: Mapping[str, str]) -> bytes | None:
        room = self.room
        wanted = search.prepared(Level.STUDY, parameters, ())
        accepted = headers.get("accept")
        media_type = json_type(read_accept([] if accepted is None else [accepted], wanted.accept))
        window = room.index.window
        templates = room.index.templates_at_once(wanted.query) if wanted.wanted else None
        if not templates:
            return None
        scheme, path = "http", room.dicomweb_path
        if headers.get("x-failover-via") == "router":
            path = path_or(headers.get("x-failover-prefix", path), path)
            forwarded = headers.get("x-forwarded-proto", scheme).lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
        base = url_of(scheme, headers.get("host", ""), path)
        said, _, body = search.answer(wanted, window, templates, base)
        said |= {"Content-Type": media_type, **self.fixed_headers, "Content-Length": str(len(body))}
        said |= {"Date": rfc822_formatted_time(), "Server": SERVER_SOFTWARE}
        lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
        return b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (lines.encode(), body)


def _headers(text: str) -> dict[str, str] | None:
    """Return the header lines by their names in lower case; None where they are none of a plain request."""
    headers: dict[str, str] = {}
    for line in text.split("\r\n")[:-1]:
        name, _, value = line.partition(":")
        name = name.lower()
        value = value.strip(" \t")
        if name in headers or (name in _OTHERS and (name, value.lower()) != ("connection", "keep-alive")):
            return None
        headers[name] = value
    return headers


class Connection(asyncio.Protocol):
    """In front of aiohttp's protocol, which gets all that is not answered here."""

    def __init__(self, behind: RequestHandler, searches: Searches) -> None:
        self._behind = behind
        self._searches = searches
        self._transport: asyncio.Transport | None = None
        # Whether all that aiohttp got were whole requests without a body: else it may have a part of one.
        self._is_plain = False
        self._timer: asyncio.TimerHandle | None = None
        self._answered_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is one by what it does
        peer = transport.get_extra_info("peername")
        self._is_plain = isinstance(peer, tuple) and self._searches.is_admitted(str(peer[0]))
        self._behind.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if self._is_plain and transport is not None and self._is_idle(transport):
            said = self._searches.answer(data)
            if said is not None:
                self._behind.keep_alive(True)  # it forgets since when nothing was asked: we know
                self._note_answer()
                transport.write(said)
                return
        self._is_plain = (
            self._is_plain and _WHOLE_GET.fullmatch(data) is not None and not _may_have_body(data)
        )
        self._forget_timer()
        self._behind.data_received(data)

    def _is_idle(self, transport: asyncio.Transport) -> bool:
        """Whether aiohttp waits for a request, and the caller has taken all that was said."""
        behind = self._behind
        return (
            behind._waiter is not None
            and not behind._waiter.done()
            and not behind._messages
            and not transport.get_write_buffer_size()
            and not transport.is_closing()
        )

    def eof_received(self) -> bool | None:
        self._behind.eof_received()
        return None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget_timer()
        self._transport = None
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    # -- a connection on which nothing is asked -------------------------------------------------------

    def _note_answer(self) -> None:
        loop = asyncio.get_running_loop()
        self._answered_s = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(_IDLE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._answered_s + _IDLE_S - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._close_if_idle)
            return
        self._timer = None
        self._behind.force_close()

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _may_have_body(head: bytes) -> bool:
    lowered = head.lower()
    return b"content-length" in lowered or b"transfer-encoding" in lowered or b"upgrade" in lowered


SEARCHES: Final = web.AppKey("searches", Searches)


class Site(web.SockSite):
    """As aiohttp's, with `Connection` in front where the application has `SEARCHES`."""

    def __init__(self, runner: web.AppRunner, sock: socket.socket) -> None:
        super().__init__(runner, sock)
        self._searches = runner.app.get(SEARCHES)

    async def start(self) -> None:
        searches = self._searches
        if searches is None:
            await super().start()
            return
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(server(), searches), sock=self._sock, backlog=self._backlog
        )
