"""Callers of long answers, each at a viewer's pace, so that a fault finds all of them inside one.

Two kinds: the one part of 64 MB, and a study of many slices, of which each part must be there once, whole
and with the right pixels. Their time is the longest wait for the next byte, for the whole takes as long as
the pace wants. They are a process of their own: what they read and judge must not slow the other callers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

import aiohttp

from failover.clock import SystemClock
from failover.dicom.part10 import read_head
from failover.errors import UnreadableDataSet
from tests.bench.outage.callers import (
    DICOM,
    JUDGED,
    TIMEOUT_S,
    Ask,
    Check,
    Tally,
    mark_of,
    not_good,
    parts_of,
)
from tests.bench.outage.content import Content, pixels_of

_PIECE_BYTES: Final = 64 * 1024
# Else the kernel takes all that a small answer has left, and a fault finds nothing under way.
_WINDOW_BYTES: Final = 256 * 1024
_clock = SystemClock()
_processes = get_context("spawn")


@dataclass(frozen=True)
class Wanted:
    """What each of the readers asks for, again and again."""

    path: str
    headers: Mapping[str, str]
    pixels: Mapping[str, bytes] = field(repr=False)
    """By SOP instance UID, of each part; none: one part, whatever its pixels."""

    @property
    def ask(self) -> Ask:
        check = each_once(self.pixels) if self.pixels else parts_of(1)
        return Ask("long", "GET", self.path, check, dict(self.headers))


def large(content: Content) -> Wanted:
    """The one part of 64 MB."""
    study, series, instance = content.large
    return Wanted(f"/dicom-web/studies/{study}/series/{series}/instances/{instance}", DICOM, {})


def many(content: Content) -> Wanted:
    """The study of many slices, not compressed."""
    accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.1'}
    return Wanted(f"/dicom-web/studies/{content.many}", accept, content.many_pixels)


def each_once(pixels: Mapping[str, bytes]) -> Check:
    """Every instance of `pixels` is there once, whole and right."""

    def check(answer: aiohttp.ClientResponse, body: bytes) -> bool:
        mark = mark_of(answer)
        if answer.status != 200 or not mark:
            return False
        first, *parts, last = (b"\r\n" + body).split(b"\r\n" + mark)
        if first.strip() or last.strip() != b"--":
            return False
        files = [part.partition(b"\r\n\r\n")[2] for part in parts]
        try:
            found = [(read_head(file).sop_instance_uid, pixels_of(file)) for file in files]
        except UnreadableDataSet:
            return False
        return len(found) == len(pixels) and dict(found) == pixels

    return check


class Readers:
    """`at_once` of them, each `bytes_per_s`, until told to end; then they end what they read."""

    def __init__(self, port: int, wanted: Wanted, *, at_once: int, bytes_per_s: float) -> None:
        self.tally = Tally()
        self._at_once = at_once
        self._inside = _processes.Value("i", 0)
        self._ended = _processes.Event()
        self._hears, self._tells = _processes.Pipe(duplex=False)
        arguments = (port, wanted, at_once, bytes_per_s, self._inside, self._ended, self._tells)
        self._process = _processes.Process(target=_read_on, args=arguments, daemon=True)

    @property
    def inside(self) -> int:
        """How many are inside an answer: some of it is here, and some is not."""
        return int(self._inside.value)

    async def be_inside(self) -> None:
        """Begin, and return when each of them is inside an answer."""
        self._process.start()
        self._tells.close()
        while self.inside < self._at_once:
            assert self._process.is_alive(), "the readers ended at their start"
            await _clock.sleep(0.05)

    async def go_on(self) -> None:
        self.tally = await asyncio.to_thread(self._hears.recv)
        await asyncio.to_thread(self._process.join)

    def end(self) -> None:
        self._ended.set()


def _read_on(
    port: int, wanted: Wanted, at_once: int, bytes_per_s: float, inside: Any, ended: Any, tells: Connection
) -> None:
    reading = _Reading(f"http://127.0.0.1:{port}", wanted.ask, bytes_per_s, inside, ended)
    asyncio.run(reading.go_on(at_once))
    tells.send(reading.tally)


class _Reading:
    """The readers, in their process."""

    def __init__(self, base: str, ask: Ask, bytes_per_s: float, inside: Any, ended: Any) -> None:
        self.tally = Tally()
        self._url, self._ask = base + ask.path, ask
        self._bytes_per_s = bytes_per_s
        self._inside, self._ended = inside, ended

    async def go_on(self, at_once: int) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=_with_small_window)
        limits = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_S, connect=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:
            await asyncio.gather(*(self._read_on(session) for _ in range(at_once)))

    async def _read_on(self, session: aiohttp.ClientSession) -> None:
        ask = self._ask
        while not self._ended.is_set():
            began_s, waited_s, fault = _clock.monotonic(), [0.0], None
            try:
                async with session.request(ask.method, self._url, headers=ask.headers) as answer:
                    waited_s.append(_clock.monotonic() - began_s)
                    body = await self._body(answer, waited_s)
                    if not await asyncio.to_thread(ask.check, answer, body):
                        fault = not_good(answer)
            except JUDGED as error:
                fault = type(error).__name__
            except TimeoutError:
                fault = f"nothing within {TIMEOUT_S:g} s"
            self.tally.add(ask, began_s, max(waited_s), fault)
            if fault is not None:
                await _clock.sleep(0.2)  # who is refused at once does not ask without a pause

    async def _body(self, answer: aiohttp.ClientResponse, waited_s: list[float]) -> bytes:
        body, began_s = bytearray(), _clock.monotonic()
        self._inside.value += 1
        try:
            while True:
                asked_s = _clock.monotonic()
                piece = await answer.content.read(_PIECE_BYTES)
                waited_s.append(_clock.monotonic() - asked_s)
                if not piece:
                    return bytes(body)
                body += piece
                ahead_s = len(body) / self._bytes_per_s - (_clock.monotonic() - began_s)
                if ahead_s > 0:
                    await _clock.sleep(ahead_s)
        finally:
            self._inside.value -= 1


def _with_small_window(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW_BYTES)
    return sock
