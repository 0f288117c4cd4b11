"""One connection to an upstream: answers are read strictly and told to the exchange as they come."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol

from failover.errors import MalformedHead, ProtocolError
from failover.http.framing import BodyReader, LengthBody, UntilClose, answer_body, answer_has_body
from failover.http.head import AnswerHead, head_end, parse_answer
from failover.proxy import faults
from failover.proxy.connection import Connection

if TYPE_CHECKING:
    from failover.proxy.pool import Pool
    from failover.proxy.splice import Splice

# 100, 102 and 103 before one answer: a 102 every 20 s for five hours. More of them are no answer.
MAX_INTERIM: Final = 1000


class Asker(metaclass=ABCMeta):
    """Who waits for the answer on a connection. (No Protocol: compiled, a call through one costs ten.)"""

    __slots__ = ()

    @abstractmethod
    def answered_whole(self, head: AnswerHead, body: bytes) -> bool:
        """An answer came in one read. False: it is wanted by the calls that follow."""

    @abstractmethod
    def answer_began(self, head: AnswerHead) -> None: ...
    @abstractmethod
    def heard(self) -> None:
        """More of an answer that has begun was read; `answer_data` follows when there is payload in it."""

    @abstractmethod
    def answer_data(self, data: bytes) -> None: ...
    @abstractmethod
    def answer_unfinished(self) -> None: ...
    @abstractmethod
    def answer_ended(self) -> None: ...
    @abstractmethod
    def switched(self, head: AnswerHead, rest: bytes) -> None: ...
    @abstractmethod
    def upstream_failed(self, error: Exception | None) -> None: ...
    @abstractmethod
    def upstream_writable(self) -> None: ...
    @abstractmethod
    def fault(self, error: Exception) -> None:
        """Our own code failed at what came."""


class Tunnelled(Protocol):
    """What takes the bytes of a connection that speaks another protocol now."""

    def from_upstream(self, data: bytes) -> None: ...
    def upstream_ended(self) -> None: ...
    def upstream_writable(self) -> None: ...
    def fault(self, error: Exception) -> None: ...


class UpstreamConnection(Connection):
    __slots__ = (
        "_head_bytes", "_interim", "_max_head_bytes", "_method", "_reader", "_searched", "answered", "asker",
        "bound", "idle_since_s", "pool", "reusable", "reused", "splice", "tunnel",
    )  # fmt: skip

    def __init__(self, pool: Pool, max_head_bytes: int) -> None:
        super().__init__()
        self.pool = pool
        self.asker: Asker | None = None
        self.tunnel: Tunnelled | None = None
        self.splice: Splice | None = None
        """What moves the body past us."""
        self.bound = False
        """It carried NTLM or Negotiate: one caller's alone."""
        self.reused = False
        self.reusable = False
        self.answered = False
        """A byte of the answer to the present request has come."""
        self.idle_since_s = 0.0
        self._max_head_bytes = max_head_bytes
        self._head_bytes = b""
        self._searched = 0
        self._interim = 0
        self._method = b""
        self._reader: BodyReader | None = None

    # -- what the exchange does

    def ask(self, asker: Asker, method: bytes) -> None:
        """The next answer on this connection is for `asker`, who asked by `method`."""
        self.asker = asker
        self._method = method
        self._reader = None
        self._interim = 0
        self.answered = False

    def drop(self) -> None:
        """Nobody waits for its answer any more: it cannot be used again."""
        self.asker = self.tunnel = None
        if self.splice is not None:
            self.splice.stop()
        if not self.closed:
            self.closed = True
            if self.transport is not None:  # it may still be connecting
                self.transport.abort()

    def resume_reading(self) -> None:
        if self.splice is not None:
            self.splice.go()
        else:
            super().resume_reading()

    # -- what a splice asks and tells

    @property
    def unread_bytes(self) -> int:
        """How much of a body with a length is still to come, in plain bytes."""
        reader = self._reader
        return reader.left if isinstance(reader, LengthBody) and self.pool.upstream.tls is None else 0

    def fetched(self, count: int) -> None:
        """`count` bytes of the body went past us."""
        reader, asker = self._reader, self.asker
        assert isinstance(reader, LengthBody)
        assert asker is not None
        reader.left -= count
        asker.heard()

    # -- what asyncio calls

    def data_received(self, data: bytes) -> None:
        tunnel, asker = self.tunnel, self.asker
        try:
            if tunnel is not None:
                tunnel.from_upstream(data)
            elif asker is None:
                # An answer that nobody asked for could be read as that to the next request.
                self.drop()
            else:
                self.answered = True
                if self._reader is None:
                    self._read_head(data)
                else:
                    asker.heard()
                    self._read_body(self._reader, data)
        except ProtocolError as error:
            self._fail(error)
        except Exception as error:
            self._fault(tunnel or asker, error)

    def _fault(self, whose: Asker | Tunnelled | None, error: Exception) -> None:
        self.drop()
        if whose is not None:
            whose.fault(error)
        else:
            faults.report(error)

    def _read_head(self, data: bytes) -> None:
        if self._head_bytes:
            data = self._head_bytes + data
        while True:
            end = head_end(data, self._searched, self._max_head_bytes)
            if end < 0:
                self._head_bytes, self._searched = data, len(data)
                return
            self._head_bytes, self._searched = b"", 0
            head = parse_answer(data[:end] if end < len(data) else data)
            rest = data[end:]
            if head.status >= 200 or head.status == 101:
                break
            # 100, 102, 103: the caller had its 100 from us, the rest is advice.
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise MalformedHead("interim answers without an end")
            data = rest
        asker = self.asker
        assert asker is not None
        if head.status == 101:
            self.reusable = False
            asker.switched(head, rest)
            return
        if rest and len(rest) == head.content_length and answer_has_body(head, self._method):
            self.reusable = head.keep_alive
            if asker.answered_whole(head, rest):
                return
        reader = answer_body(head, self._method)
        self._reader = reader
        self.reusable = head.keep_alive and not isinstance(reader, UntilClose)
        asker.answer_began(head)
        if not self._is_asked_by(asker):
            return  # it went elsewhere
        if reader.ended:
            self._end(reader, rest)
        elif rest:
            self._read_body(reader, rest)
        if self._is_asked_by(asker) and not reader.ended:
            asker.answer_unfinished()

    def _is_asked_by(self, asker: Asker) -> bool:
        """Asked anew each time: whoever is told of an answer may leave."""
        return self.asker is asker

    def _read_body(self, reader: BodyReader, data: bytes) -> None:
        asker = self.asker
        payload = reader.feed(data)
        if payload and asker is not None:
            asker.answer_data(payload)
            if self.asker is not asker:
                return
        if reader.ended:
            self._end(reader, reader.rest)

    def _end(self, reader: BodyReader, rest: bytes) -> None:
        if rest:
            self.reusable = False
        asker = self.asker
        if asker is not None:
            asker.answer_ended()

    def _fail(self, error: Exception | None) -> None:
        asker = self.asker
        self.drop()
        if asker is not None:
            asker.upstream_failed(error)

    def eof_received(self) -> bool:
        return False  # close; `connection_lost` tells what it means

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        tunnel, asker, reader = self.tunnel, self.asker, self._reader
        self.pool.lost(self)
        if self.splice is not None:
            self.splice.stop()
        try:
            if tunnel is not None:
                self.tunnel = None
                tunnel.upstream_ended()
            elif asker is not None:
                if error is None and isinstance(reader, UntilClose):
                    reader.finish()
                    asker.answer_ended()
                else:
                    self.asker = None
                    asker.upstream_failed(error)
        except Exception as fault:
            self._fault(tunnel or asker, fault)
        self.let_go()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        whose = self.tunnel or self.asker
        if whose is not None:
            try:
                whose.upstream_writable()
            except Exception as error:
                self._fault(whose, error)
