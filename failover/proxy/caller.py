"""One caller's connection: requests read strictly, one after the other, each handed to an exchange.

Pipelined requests wait in the buffer and are served in order. A message that has no single strict reading is
answered 400 and ends the connection.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from failover.errors import LimitExceeded, MalformedHead, ProtocolError
from failover.http.forwarded import forwarded_fields, is_trusted, origin
from failover.http.framing import BodyReader, request_body
from failover.http.head import RequestHead, head_end, parse_request
from failover.http.known import Known, is_plain
from failover.model import UpstreamName
from failover.proxy import faults, login, rewrite
from failover.proxy.connection import Connection
from failover.proxy.exchange import Exchange
from failover.proxy.leads import Place
from failover.proxy.login import LoginExchange
from failover.proxy.phase import CLOSING, EXCHANGE, HEAD, IDLE, LINGER, Phase
from failover.proxy.provider_pages import PATHS as PROVIDER_PATHS
from failover.proxy.provider_pages import ProviderExchange
from failover.proxy.response import Response
from failover.proxy.stage import Stage
from failover.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from failover.proxy.admission import Admission
    from failover.proxy.server import Proxy

# Requests that a caller sends before it has its answers; then it is not read any more.
PIPELINE_BYTES: Final = 64 * 1024
# Longer heads are not remembered: idle callers must not hold memory.
KNOWN_BYTES: Final = 2048
# How long a caller may take to close after its last answer; what it still sends is thrown away.
LINGER_S: Final = 2.0


# SO_LINGER with no time: closing sends RST.
_RESET: Final = struct.pack("ii", 1, 0)


class CallerConnection(Connection):
    __slots__ = (
        "_admitted", "_buffer", "_eof", "_forwarded", "_forwarded_host", "_known", "_proxy",
        "_reader", "_searched", "_since_s", "_trusted", "address", "asked_before", "bound", "counted",
        "exchange", "phase", "place", "response", "stirred", "tls", "turned_away",
    )  # fmt: skip

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy
        self.address = ""
        """Of the caller of the present request; behind a trusted proxy not that of the connection."""
        self.bound: dict[UpstreamName, UpstreamConnection] = {}
        """Connections to upstreams that carried this caller's NTLM or Negotiate."""
        self.exchange: Exchange | LoginExchange | None = None
        self.response = Response(self)
        self.place = Place(proxy.scheme, None, proxy.prefix)
        """Where the caller of the present request sees us."""
        self.phase: Phase = HEAD
        self.tls = False
        self.stirred = True
        """Something moved since the last sweep."""
        self.asked_before = False
        """A request came on this connection."""
        self.counted: str | None = None
        """As whose it is counted among those of one address."""
        self.turned_away = False
        self._since_s = 0.0
        self._buffer = b""
        self._eof = False  # it closed its side
        self._searched = 0
        self._reader: BodyReader | None = None
        self._trusted = False
        self._admitted: bool | None = None
        self._forwarded = b""
        self._forwarded_host: bytes | None = b""
        self._known: Known | None = None

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else "unknown"
        self.tls = transport.get_extra_info("sslcontext") is not None
        sock = transport.get_extra_info("socket")
        if sock is not None and isinstance(peer, tuple):
            # A caller that vanished without a word is noticed by the kernel.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._trusted = is_trusted(self.address, self._proxy.listen.trusted_proxies)
        self._since_s = self._proxy.clock.monotonic()
        self._proxy.gate.came(self, trusted=self._trusted)

    def data_received(self, data: bytes) -> None:
        phase = self.phase
        if phase >= LINGER:
            return
        self.stirred = True
        try:
            if phase is EXCHANGE:
                self._receive(data)
            else:
                self._buffer = self._buffer + data if self._buffer else data
                self._next()
        except Exception as error:
            self.fault(error)

    def _receive(self, data: bytes) -> None:
        """More of the request under way, or what comes behind it."""
        exchange = self.exchange
        assert exchange is not None
        if exchange.stage is Stage.TUNNEL:
            exchange.from_caller(data)
        elif self._reader is not None:
            self._read_body(exchange, self._reader, data)
        else:
            self._buffer += data
            if len(self._buffer) > PIPELINE_BYTES:
                self.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        # A caller may close its side and still wait for its answers, but not stop inside a request.
        # Under TLS there is no closing of one side: asyncio closes both.
        if self.tls:
            return False
        if self.phase is IDLE:
            return bool(self._buffer)  # pipelined, and to be read in a moment
        return self.phase is EXCHANGE and self._reader is None and not self._is_tunnel()

    def _is_tunnel(self) -> bool:
        return self.exchange is not None and self.exchange.stage is Stage.TUNNEL

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._proxy.gate.went(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            try:
                exchange.caller_left()
            except Exception as fault:
                faults.report(fault)
        self.drop_bound()
        self.let_go()

    def drop_bound(self) -> None:
        for connection in self.bound.values():
            connection.drop()
        self.bound.clear()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.exchange is not None:
            self._guarded(self.exchange.caller_paused)

    def resume_writing(self) -> None:
        self.write_paused = False
        self.stirred = True
        if self.exchange is not None:
            self._guarded(self.exchange.caller_writable)
        elif self.phase <= HEAD:
            self._guarded(self._next if self._buffer else self.resume_reading)

    def _guarded(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as error:
            self.fault(error)

    def fault(self, error: Exception) -> None:
        """Our own code failed: the request that met it ends now, and nobody else is harmed."""
        if self.exchange is not None:
            self.exchange.fault(error)
        else:
            faults.report(error)
            self.abort()

    # -- requests

    def _next(self) -> None:
        """Take the next head out of the buffer, if it is whole."""
        if self.closed or self.phase > HEAD:
            return
        if self.write_paused:
            # It asks and does not read: its answers would gather here without a bound.
            self.pause_reading()
            return
        proxy = self._proxy
        if self.phase is IDLE:
            # RFC 9112 2.2: an empty line before a request is no error.
            if self._buffer.startswith(b"\r\n"):
                self._buffer = self._buffer[2:]
            if not self._buffer:
                self._await_more()
                return
            again = None if self._known is None else self._known.again(self._buffer)
            if again is not None and len(self._buffer) <= proxy.listen.max_head_bytes:
                self._buffer = b""
                self._begin(again, b"")
                return
            self.phase = HEAD
            self._since_s = proxy.clock.monotonic()
        try:
            end = head_end(self._buffer, self._searched, proxy.listen.max_head_bytes)
            if end < 0:
                self._searched = len(self._buffer)
                self._await_more()
                return
            head = self._read_head(self._buffer[:end])
        except LimitExceeded as error:
            self._refuse(431, str(error))
            return
        except MalformedHead as error:
            self._refuse(error.status, str(error))
            return
        rest = self._buffer[end:]
        self._buffer, self._searched = b"", 0
        self._begin(head, rest)

    def _await_more(self) -> None:
        """What is here is not a whole head."""
        if self._eof:
            self.close()
        else:
            self.resume_reading()

    def _read_head(self, raw: bytes) -> RequestHead:
        like = None if self._known is None else self._known.like(raw)
        if like is not None:
            return like
        head = parse_request(raw)
        if is_plain(head):  # an upload between two reads takes nothing away
            self._known = Known(head, raw) if len(raw) <= KNOWN_BYTES else None
        return head

    def _begin(self, head: RequestHead, rest: bytes) -> None:
        proxy = self._proxy
        now_s = proxy.clock.monotonic()
        self.phase, self._since_s, self.stirred = EXCHANGE, now_s, False
        reader = request_body(head)
        forwarded = self._who(head)
        if self._admitted is None:
            self._admitted = proxy.admits(self.address)
        exchange: Exchange | LoginExchange
        if proxy.admission is None:
            exchange = Exchange(
                proxy, self, head, reader, forwarded, admitted=self._admitted, started_s=now_s
            )
        else:
            exchange = self._admit(proxy.admission, head, reader, forwarded, now_s)
        self.exchange = exchange
        self.asked_before = True
        if reader.ended:
            self._reader = None
            self._buffer = rest
            if len(rest) > PIPELINE_BYTES:
                self.pause_reading()
        else:
            self._reader = reader
            self.resume_reading()
        exchange.begin()
        if rest and self._reader is reader and self.exchange is exchange and not self.closed:
            self._read_body(exchange, reader, rest)
        if self._eof and self._reader is not None and self.phase is EXCHANGE:
            self.close()  # it stopped inside its request; `connection_lost` tells the exchange

    def _admit(
        self, admission: Admission, head: RequestHead, reader: BodyReader, forwarded: bytes, now_s: float
    ) -> Exchange | LoginExchange:
        proxy, admitted = self._proxy, self._admitted
        path = login.own(head.target, admission.ways) if admission.logins else None
        if path is not None:
            made = ProviderExchange if path in PROVIDER_PATHS else LoginExchange
            return made(proxy, admission, self, head, path, whole=reader.ended, started_s=now_s)
        if not admitted:
            admitted = admission.knows(head, secure=self.place.scheme == b"https")
        return Exchange(proxy, self, head, reader, forwarded, admitted=admitted, started_s=now_s)

    def _who(self, head: RequestHead) -> bytes:
        """Return the lines that tell the upstream who the caller is; the same ones for the same Host."""
        if self._trusted:
            source = origin(head, self._peer(), self._proxy.scheme, self._proxy.listen.trusted_proxies)
            if source.address != self.address:
                self.drop_bound()  # the proxy speaks for another caller now, who must not inherit a login
            self.address = source.address
            self._admitted = None
            self.place = Place(source.scheme, source.host, self._proxy.prefix)
            return forwarded_fields(source)
        if head.host != self._forwarded_host or not self._forwarded:
            self._forwarded_host = head.host
            self._forwarded = forwarded_fields(origin(head, self.address, self._proxy.scheme, ()))
            self.place = Place(self._proxy.scheme, head.host, self._proxy.prefix)
        return self._forwarded

    def _peer(self) -> str:
        peer = self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else "unknown"

    def _read_body(self, exchange: Exchange | LoginExchange, reader: BodyReader, data: bytes) -> None:
        try:
            payload = reader.feed(data)
        except ProtocolError as error:
            answering = exchange.stage is Stage.ANSWERING
            exchange.caller_left()
            self.exchange = None
            if answering:
                self.abort()  # a second head inside an answer would be part of its body
            else:
                self._refuse(400, str(error))
            return
        if reader.ended:
            self._reader = None
            self._buffer = reader.rest
        if payload:
            exchange.body_data(payload)
        if reader.ended and self.exchange is exchange:
            exchange.body_ended()

    def _refuse(self, status: int, sentence: str) -> None:
        """Answer a message that cannot be read, and end the connection (RFC 9112 2.2, 6.3)."""
        self._proxy.count_refused(status)
        self.write(rewrite.own_answer(status, sentence, close=True, head_only=False, location=None))
        self._linger()

    def turn_away(self) -> None:
        """There is no room for it: it hears so before it has asked."""
        self.turned_away = True
        sentence = "too many connections: close some, or try again"
        self.write(rewrite.own_answer(503, sentence, close=True, head_only=False, location=None))
        self._linger()

    # -- what the exchange does

    def resume_reading(self) -> None:
        if self.reading_paused:
            self.stirred = True
            super().resume_reading()

    def take_buffer(self) -> bytes:
        """Return what came behind the request; it belongs to the tunnel that begins, as all that follows."""
        data, self._buffer = self._buffer, b""
        self.resume_reading()
        return data

    def bind(self, upstream: UpstreamName, connection: UpstreamConnection) -> None:
        """Keep a connection that carried this caller's NTLM or Negotiate for its next request."""
        previous = self.bound.get(upstream)
        if previous is not None:
            previous.drop()
        connection.reused = True
        if self.closed:
            connection.drop()
        else:
            self.bound[upstream] = connection

    def exchange_ended(self, *, close: bool) -> None:
        """The answer is out. The next request, or the end."""
        self.exchange = None
        if self.closed:
            return
        if close or self._reader is not None or (self._eof and not self._buffer):
            self._linger()
            return
        self.phase, self._since_s = IDLE, self._proxy.clock.monotonic()
        if self.reading_paused and len(self._buffer) <= PIPELINE_BYTES:
            self.resume_reading()
        if self._buffer:
            # Not from here: answers of our own would nest as deep as requests are pipelined.
            asyncio.get_running_loop().call_soon(self._guarded, self._next)

    def abort(self) -> None:
        """End at once, by a reset; what was not sent is lost. `connection_lost` tells the exchange."""
        if not self.closed:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                # Without it the kernel would say FIN, which ends a body without a length as if it were whole.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()

    def _linger(self) -> None:
        # Closing while bytes of the caller are unread would send a reset, which can destroy our last answer.
        self.phase, self._since_s = LINGER, self._proxy.clock.monotonic()
        self._reader, self._buffer = None, b""
        if self.closed:
            return
        if self._eof or not self.transport.can_write_eof():
            self.close()
        else:
            self.transport.write_eof()
            self.resume_reading()

    @property
    def ended(self) -> bool:
        """It closed its side, and nothing that it sent before is still to be read."""
        return self._eof and not self._buffer

    @property
    def asks_nothing(self) -> bool:
        """Not a byte of a request is here."""
        return self.phase <= HEAD and not self._buffer

    def close(self) -> None:
        """End when what was written is out."""
        self.phase, self._since_s = CLOSING, self._proxy.clock.monotonic()
        if not self.closed:
            self.transport.close()

    def forget_admission(self) -> None:
        """Whom the backup may answer has changed: ask again at the next request."""
        self._admitted = None

    def sweep(self, now_s: float) -> None:
        """Time-outs, looked at four times a second."""
        listen, phase = self._proxy.listen, self.phase
        if phase is EXCHANGE:
            if self.stirred:
                self.stirred, self._since_s = False, now_s
            elif self.exchange is not None:
                self.exchange.sweep(now_s - self._since_s)
            return
        idle_s = now_s - self._since_s
        if phase is IDLE:
            if idle_s > listen.keep_alive:
                self.close()
        elif phase is HEAD:
            if idle_s > listen.head_timeout:
                if self._buffer:
                    self._refuse(408, "the head took too long")
                else:
                    self.close()
        elif phase is LINGER:
            if idle_s > LINGER_S and not self.write_paused:
                self.close()
            elif idle_s > listen.body_idle:
                self.abort()
        elif idle_s > listen.body_idle:
            self.abort()
