"""Any split of any message, of both sides, gives the same bytes out: the whole proxy, without a network.

A loop of its own gives connections whose other end is the test: every read is exactly one piece of a cut.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from failover.clock import SystemClock
from failover.config.schema import ListenWeb
from failover.health.passive import LiveTraffic
from failover.http.framing import BodyReader, answer_body, request_body
from failover.http.head import head_end, parse_answer, parse_request
from failover.metrics import RouterMetrics
from failover.model import UpstreamName
from failover.proxy.caller import CallerConnection
from failover.proxy.server import Proxy, WebUpstream
from failover.routing.board import RouteBoard
from failover.spool import Spool
from tests.fakes.web_stage import calm_route

Message = tuple[str, list[tuple[bytes, bytes]], bytes]
"""First line, fields besides those of framing, body."""


class Wire(asyncio.Transport):
    """One end of a connection; what comes is fed, what goes is kept."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.out = b""
        self._protocol = protocol
        self._coming: deque[bytes] = deque()
        self._paused = self._closing = False
        protocol.connection_made(self)

    def feed(self, data: bytes) -> None:
        self._coming.append(data)
        self._deliver()

    def _deliver(self) -> None:
        while self._coming and not self._paused and not self._closing:
            self._protocol.data_received(self._coming.popleft())

    def write(self, data: Any) -> None:
        self.out += data

    def writelines(self, pieces: Any) -> None:
        self.out += b"".join(pieces)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...
    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """What is fed is not read into a buffer first."""

    def resume_reading(self) -> None:
        self._paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


class WireLoop(asyncio.SelectorEventLoop):
    """Connections that the proxy opens end here."""

    def __init__(self) -> None:
        super().__init__()
        self.upstream: list[Wire] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        return [(2, 1, 6, "", (host, port))]

    async def create_connection(  # type: ignore[override]
        self, factory: Any, *_: Any, **__: Any
    ) -> Any:
        protocol = factory()
        wire = Wire(protocol)
        self.upstream.append(wire)
        return wire, protocol


def read_all(
    data: bytes, parse: Callable[[bytes], Any], body_of: Callable[[Any], BodyReader]
) -> list[Message]:
    """Return the whole messages in `data`."""
    found: list[Message] = []
    while data:
        end = head_end(data, 0, 10**6)
        if end < 0:
            break
        head = parse(data[:end])
        reader = body_of(head)
        if reader.ended:
            body, data = b"", data[end:]
        else:
            body = reader.feed(data[end:])
            if not reader.finish():
                break
            data = reader.rest
        fields = [(key, value) for key, _, value in head.headers
                  if key not in (b"content-length", b"transfer-encoding")]  # fmt: skip
        first = head.status if hasattr(head, "status") else head.method + b" " + head.target
        found.append((str(first), sorted(fields), body))
    return found


def requests_in(data: bytes) -> list[Message]:
    return read_all(data, parse_request, request_body)


def answers_in(data: bytes) -> list[Message]:
    return read_all(data, parse_answer, lambda head: answer_body(head, b"GET"))


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def played(asked: bytes, answers: list[bytes], cuts: list[int]) -> tuple[list[Message], list[Message]]:
    """Return what arrived at the upstream and what the caller got."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=WireLoop) as runner:
        return runner.run(_play(Path(folder), asked, answers, cuts))


async def _play(
    folder: Path, asked: bytes, answers: list[bytes], cuts: list[int]
) -> tuple[list[Message], list[Message]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, WireLoop)
    clock, spool = SystemClock(), Spool(folder)
    upstreams = {name: WebUpstream(name, "127.0.0.1", 80) for name in UpstreamName}
    traffic = {name: LiveTraffic(clock) for name in UpstreamName}
    proxy = Proxy(
        ListenWeb(access_log=0), upstreams, RouteBoard(calm_route()), traffic, lambda _: True,
        RouterMetrics(CollectorRegistry()), clock, spool,
    )  # fmt: skip
    caller = Wire(CallerConnection(proxy))
    answered: dict[Wire, int] = {}
    arrived: list[Message] = []

    async def turn() -> None:
        turned = loop.create_future()
        loop.call_later(0.0002, turned.set_result, None)
        await turned
        for wire in loop.upstream:
            came = requests_in(wire.out)
            for message in came[answered.get(wire, 0) :]:
                arrived.append(message)
                for piece in pieces(answers[len(arrived) - 1], cuts):
                    wire.feed(piece)
                    again = loop.create_future()
                    loop.call_soon(again.set_result, None)
                    await again
            answered[wire] = len(came)

    for piece in pieces(asked, cuts):
        caller.feed(piece)
        await turn()
    async with asyncio.timeout(20):
        while len(answers_in(caller.out)) < len(answers):
            await turn()
    for pool in [side.pool for side in proxy.sides.values()]:
        pool.close()
    caller.close()
    await turn()
    proxy.access.close()
    spool.close()
    return arrived, answers_in(caller.out)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    for size in itertools.chain(sizes, [len(body)]):
        piece = body[at : at + size]
        at += len(piece)
        if piece:
            out += b"%X;x=y\r\n%b\r\n" % (len(piece), piece)
    return out + b"0\r\nT: x\r\n\r\n"


bodies = st.binary(max_size=200) | st.sampled_from(
    [b"\r\n\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"]
)
sizes = st.lists(st.integers(1, 50), max_size=4)
request_lines = st.sampled_from(
    [(b"GET", b"/x"), (b"GET", b"/dicom-web/studies"), (b"GET", b"/dicom-web/studies/1/metadata"),
     (b"POST", b"/x"), (b"POST", b"/dicom-web/studies"), (b"PUT", b"/x?y=z"), (b"DELETE", b"/x")]
)  # fmt: skip
exchanges = st.tuples(
    request_lines, st.none() | bodies, st.none() | sizes,
    st.sampled_from([200, 201, 204, 404, 409]), bodies, st.none() | sizes,
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(exchanges, min_size=1, max_size=4), st.lists(st.integers(0, 2000), max_size=25))
def test_any_split_of_any_message_gives_the_same_bytes_out(
    talk: list[tuple[tuple[bytes, bytes], bytes | None, list[int] | None, int, bytes, list[int] | None]],
    cuts: list[int],
) -> None:
    asked, answers, sent, said = b"", [], [], []
    for (method, target), body, chunks, status, content, answer_chunks in talk:
        if method == b"POST" and status < 300:
            status = 202  # of a store it would have to name what it stored, or the other is asked
        head = b"%b %b HTTP/1.1\r\nHost: pacs\r\nX-Filler: abc\r\n" % (method, target)
        if body is None:
            asked += head + b"\r\n"
        elif chunks is None:
            asked += head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        else:
            asked += head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, chunks)
        sent.append((method + b" " + target, body or b""))
        answer = b"HTTP/1.1 %d Fine\r\nX-Filler: abc\r\n" % status
        if status == 204:
            answers.append(answer + b"\r\n")
            content = b""
        elif answer_chunks is None:
            answers.append(answer + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        else:
            answers.append(answer + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(content, answer_chunks))
        said.append((str(status), content))
    arrived, got = played(asked, answers, cuts)
    assert [(first, body) for first, _, body in arrived] == [(str(first), body) for first, body in sent]
    assert [(first, body) for first, _, body in got] == said
    assert (arrived, got) == played(asked, answers, [])
