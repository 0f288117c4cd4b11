"""Two hundred requests a second: searches, retrieves, stores and orders, on kept and on new connections.

Each answer is judged as a viewer would: the right status, whole, with all its parts. A request's time counts
from the moment at which it was due, so a stall is felt by all that fall into it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from failover.aio import spawn
from tests.bench.outage.content import SLICES, Content, new_object
from tests.bench.outage.stage import stow

RATE: Final = 200
TIMEOUT_S: Final = 30.0
_numbers = itertools.count(1)

Check = Callable[[aiohttp.ClientResponse, bytes], bool]
JUDGED: Final = (aiohttp.ClientError, OSError, ValueError, LookupError)
"""What says that a caller got no good answer, and not that the bench is at fault."""


def not_good(answer: aiohttp.ClientResponse) -> str:
    return str(answer.status) if answer.status != 200 else "200 but not whole"


@dataclass
class Ask:
    kind: str  # get, long, stow, order, kind
    method: str
    path: str
    check: Check
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    mark: str = ""
    """The SOP instance UID of a store, the number of an order."""


@dataclass
class Tally:
    """What callers saw in one run."""

    asked: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    """By kind, of what ended after the fault began. An order waits for the primary alone."""
    slowest_due_s: dict[str, float] = field(default_factory=dict)
    """When the slowest of each kind was due (monotonic)."""
    stored: list[str] = field(default_factory=list)
    """SOP instance UIDs that were acknowledged."""
    orders: list[str] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When each that failed was due (monotonic), and its kind."""

    def add(self, ask: Ask, due_s: float, took_s: float, fault: str | None) -> None:
        self.asked[ask.kind] += 1
        if fault is not None:
            self.failed[ask.kind] += 1
            self.reasons[f"{ask.kind}: {fault}"] += 1
            self.failures.append((due_s, ask.kind))
        elif ask.kind == "stow":
            self.stored.append(ask.mark)
        if ask.kind == "order":
            self.orders.append(ask.mark)
        if took_s >= self.slowest_s.get(ask.kind, 0.0):
            self.slowest_s[ask.kind], self.slowest_due_s[ask.kind] = took_s, due_s

    def begin(self) -> None:
        """The fault begins: how slow the first requests of a cold system were does not count."""
        self.slowest_s.clear()

    def join(self, other: Tally) -> None:
        """Take over what `other` saw."""
        self.asked.update(other.asked)
        self.failed.update(other.failed)
        self.reasons.update(other.reasons)
        self.slowest_s.update(other.slowest_s)
        self.slowest_due_s.update(other.slowest_due_s)
        self.failures += other.failures


def _searched(answer: aiohttp.ClientResponse, body: bytes) -> bool:
    return answer.status == 200 and len(json.loads(body)) >= 10


def parts_of(wanted: int) -> Check:
    def check(answer: aiohttp.ClientResponse, body: bytes) -> bool:
        mark = mark_of(answer)
        if answer.status != 200 or not mark:
            return False
        return body.count(mark + b"\r\n") == wanted and body.rstrip(b"\r\n ").endswith(mark + b"--")

    return check


def mark_of(answer: aiohttp.ClientResponse) -> bytes:
    """Return what begins each boundary line of a multipart answer; nothing when it is none."""
    if answer.content_type != "multipart/related":
        return b""
    for piece in answer.headers["Content-Type"].split(";"):
        name, _, value = piece.strip().partition("=")
        if name.lower() == "boundary":
            return b"--" + value.strip('"').encode()
    return b""


def _json_of(wanted: int) -> Check:
    return lambda answer, body: answer.status == 200 and len(json.loads(body)) == wanted


def _named(uid: str) -> Check:
    def check(answer: aiohttp.ClientResponse, body: bytes) -> bool:
        if answer.status != 200:
            return False
        named = json.loads(body).get("00081199", {}).get("Value", [])
        return uid in [item["00081155"]["Value"][0] for item in named]

    return check


def _done(answer: aiohttp.ClientResponse, body: bytes) -> bool:
    return answer.status == 200 and body == b"done"


DICOM: Final = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
_FRAMES: Final = {"Accept": 'multipart/related; type="application/octet-stream"'}
_JSON: Final = {"Accept": "application/dicom+json"}


def workload(content: Content) -> Iterator[Ask]:
    """Without end: of 100 requests 10 stores, 2 orders, 88 reads, of which one is a study of 16 slices."""
    for number in itertools.count():
        place = number % 100
        study, series, instance = content.small[number % len(content.small)]
        base = f"/dicom-web/studies/{study}"
        one = f"{base}/series/{series}/instances/{instance}"
        if place % 10 == 3:
            uid, file = new_object(content.template, next(_numbers))
            headers, body = stow(file)
            yield Ask("stow", "POST", "/dicom-web/studies", _named(uid), headers, body, uid)
        elif place in (25, 75):
            mark = str(next(_numbers))
            yield Ask("order", "POST", f"/orders/{mark}", _done, body=b"order", mark=mark)
        elif place == 50:
            yield Ask("get", "GET", f"/dicom-web/studies/{content.slices}", parts_of(SLICES), DICOM)
        elif place % 4 == 0:
            yield Ask("get", "GET", "/dicom-web/studies?limit=10", _searched, _JSON)
        elif place % 4 == 1:
            yield Ask("get", "GET", one, parts_of(1), DICOM)
        elif place % 4 == 2:
            yield Ask("get", "GET", f"{one}/frames/1", parts_of(1), _FRAMES)
        else:
            yield Ask("get", "GET", f"{one}/metadata", _json_of(1), _JSON)


def kind(path: str, status: int) -> Iterator[Ask]:
    """Without end: one path that earns always the same."""
    while True:
        yield Ask("kind", "GET", path, lambda answer, _: answer.status == status)


class Callers:
    """Ask at `rate` a second until told to end; then wait for what is under way."""

    def __init__(self, port: int, asks: Iterator[Ask], *, rate: float = RATE) -> None:
        self.tally = Tally()
        self._base = f"http://127.0.0.1:{port}"
        self._asks = asks
        self._rate = rate
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def go_on(self) -> None:
        loop = asyncio.get_running_loop()
        limits = aiohttp.ClientTimeout(TIMEOUT_S)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as kept,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=limits
            ) as new,
        ):
            # What a peer or we break shall be seen, not silently asked again.
            kept._retry_connection = new._retry_connection = False
            began = loop.time()
            for number, ask in enumerate(self._asks):
                due = began + number / self._rate
                with_timeout = max(0.0, due - loop.time())
                try:
                    await asyncio.wait_for(self._ended.wait(), with_timeout)
                    break
                except TimeoutError:
                    pass
                session = kept if number % 2 else new
                task = spawn(self._one(session, ask, due), name="a caller")
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            if self._under_way:
                await asyncio.wait(self._under_way)

    def end(self) -> None:
        self._ended.set()

    async def _one(self, session: aiohttp.ClientSession, ask: Ask, due: float) -> None:
        fault = None
        try:
            async with session.request(
                ask.method, self._base + ask.path, headers=ask.headers, data=ask.body
            ) as answer:
                body = await answer.read()
                if not ask.check(answer, body):
                    fault = not_good(answer)
        except JUDGED as error:
            fault = type(error).__name__
        except TimeoutError:
            fault = f"nothing within {TIMEOUT_S:g} s"
        self.tally.add(ask, due, asyncio.get_running_loop().time() - due, fault)
