"""One request at one upstream: its connection, the sending of head and body, what live traffic learns of it.

Tells its exchange what comes back, and decides nothing.
"""

from __future__ import annotations

import asyncio
from abc import ABCMeta, abstractmethod
from typing import TYPE_CHECKING, Final

from failover.health.passive import Outcome
from failover.http.framing import LAST_CHUNK, chunk
from failover.http.head import AnswerHead, RequestHead
from failover.model import UpstreamName
from failover.proxy import rewrite
from failover.proxy.body import RequestBody
from failover.proxy.classify import PARTS, Asked
from failover.proxy.retry import Failure
from failover.proxy.upstream import Asker, UpstreamConnection

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection
    from failover.proxy.side import Side

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Owner(metaclass=ABCMeta):
    """The exchange, as an attempt sees it. It is told which attempt speaks: there may be more than one."""

    __slots__ = ("asked", "body", "caller", "forwarded", "head")
    caller: CallerConnection
    head: RequestHead
    asked: Asked
    body: RequestBody | None
    forwarded: bytes

    @abstractmethod
    def answered_whole(self, attempt: Attempt, head: AnswerHead, body: bytes) -> bool: ...
    @abstractmethod
    def answer_began(self, attempt: Attempt, head: AnswerHead) -> None: ...
    @abstractmethod
    def answer_data(self, attempt: Attempt, data: bytes) -> None: ...
    @abstractmethod
    def answer_unfinished(self, attempt: Attempt) -> None: ...
    @abstractmethod
    def answer_ended(self, attempt: Attempt) -> None: ...
    @abstractmethod
    def switched(self, attempt: Attempt, head: AnswerHead, rest: bytes) -> None: ...
    @abstractmethod
    def failed(self, attempt: Attempt, failure: Failure) -> None: ...
    @abstractmethod
    def body_lost(self) -> None: ...
    @abstractmethod
    def fault(self, error: Exception) -> None: ...


class Attempt(Asker):
    __slots__ = ("_connecting", "_over", "_owner", "_prefix", "_token", "connection", "name", "sent", "side",
                 "whole")  # fmt: skip

    def __init__(self, owner: Owner, side: Side, prefix: bytes | None) -> None:
        """`prefix`: the callers' DICOMweb prefix."""
        self._owner = owner
        self._prefix = prefix
        self.side = side
        self.name: UpstreamName = side.upstream.name
        self.connection: UpstreamConnection | None = None
        self.sent = False
        """A byte of the request was sent."""
        self.whole = False
        """All of it was."""
        self._connecting: asyncio.Task[None] | None = None
        self._token: int | None = None
        self._over = False
        side.flights += 1

    def start(self, *, fresh: bool) -> None:
        """Send the request on this caller's own connection, a kept one (unless `fresh`), or a new one."""
        pool = self.side.pool
        connection = self._owner.caller.bound.pop(self.name, None)
        if connection is not None and connection.closed:
            connection = None
        if connection is None and not fresh:
            connection = pool.take()
        if connection is None:
            self._connecting = pool.open(self)
        else:
            self._send(connection)

    @property
    def reused(self) -> bool:
        """Whether it went out on a kept connection of which no byte came back: it may have been stale."""
        return self.connection is not None and self.connection.reused and not self.connection.answered

    # -- the pool

    def connected(self, connection: UpstreamConnection) -> None:
        self._connecting = None
        if self._over:
            connection.drop()
        elif connection.closed:
            self._owner.failed(self, Failure.UNREACHABLE)
        else:
            self._send(connection)

    def not_connected(self, error: Exception) -> None:
        self._connecting = None
        if not self._over:
            self._owner.failed(self, Failure.UNREACHABLE)

    # -- sending

    def _send(self, connection: UpstreamConnection) -> None:
        owner = self._owner
        head, body = owner.head, owner.body
        self.connection = connection
        connection.ask(self, head.method)
        if rewrite.binds_connection(head):
            connection.bound = True
        framing = b""
        if body is not None:
            if head.expects_continue and not body.whole:
                owner.caller.write(_CONTINUE)
            head.expects_continue = False
            body.rewind()
            if head.content_length is not None:
                framing = b"Content-Length: %d\r\n" % head.content_length
            else:
                framing = b"Transfer-Encoding: chunked\r\n"
        elif head.content_length is not None:
            framing = b"Content-Length: 0\r\n"
        self.sent = True
        upstream = self.side.upstream
        connection.write(
            rewrite.request_head(head, owner.asked, upstream, owner.forwarded, self._prefix, framing)
        )
        if body is None:
            self._all_sent()
        else:
            self.pump()

    def pump(self) -> None:
        """Send what there is of the body while the upstream takes it; the caller goes on when it may."""
        connection, owner = self.connection, self._owner
        body = owner.body
        if connection is None or body is None or self.whole:
            return
        chunked = owner.head.chunked
        while not connection.write_paused and not connection.closed:
            data = body.take()
            if not data:
                break
            if chunked:
                connection.write_pieces(chunk(data))
            else:
                connection.write(data)
        if body.exhausted:
            if chunked:
                connection.write(LAST_CHUNK)
            self._all_sent()
        elif body.lost:
            owner.body_lost()
        elif body.roomy:
            owner.caller.resume_reading()

    def _all_sent(self) -> None:
        self.whole = True
        owner = self._owner
        owner.caller.stirred = True
        # Only now can an answer be awaited: a long upload must not look like a silence.
        route = owner.asked.route
        self._token = self.side.traffic.began(PARTS[route], route)

    # -- the connection

    def upstream_writable(self) -> None:
        self._owner.caller.stirred = True
        self.pump()

    def answered_whole(self, head: AnswerHead, body: bytes) -> bool:
        # 401 may bind the connection to its caller.
        return head.status != 401 and self._owner.answered_whole(self, head, body)

    def answer_began(self, head: AnswerHead) -> None:
        self._heard()
        if head.status == 401 and self.connection is not None and rewrite.binds_connection(head):
            self.connection.bound = True
        self._owner.answer_began(self, head)

    def heard(self) -> None:
        self._heard()

    def answer_data(self, data: bytes) -> None:
        self._owner.answer_data(self, data)

    def answer_unfinished(self) -> None:
        self._owner.answer_unfinished(self)

    def answer_ended(self) -> None:
        self._owner.answer_ended(self)

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        self._owner.switched(self, head, rest)

    def upstream_failed(self, error: Exception | None) -> None:
        self._owner.failed(self, Failure.BROKE)

    def fault(self, error: Exception) -> None:
        self._owner.fault(error)

    def _heard(self) -> None:
        self._owner.caller.stirred = True
        if self._token is not None:
            self.side.traffic.heard(self._token)

    # -- the end

    def hand_to(self, owner: Owner) -> None:
        """Tell `owner` what comes from now on."""
        self._owner = owner

    def learn(self, outcome: Outcome) -> None:
        """Tell live traffic how it ended; a tunnel has its answer long before its end."""
        traffic, token = self.side.traffic, self._token
        self._token = None
        if token is not None:
            traffic.ended(token, outcome)
        elif outcome in (Outcome.FAILED, Outcome.TIMED_OUT) and not self.whole:
            # Never sent whole, so never begun: it says something of the upstream nevertheless.
            asked = self._owner.asked
            traffic.ended(traffic.began(PARTS[asked.route], asked.route), outcome)

    def leave(self, outcome: Outcome, *, answered: bool = False) -> None:
        """Let go of the upstream. `answered`: it has answered whole, so its connection may serve on."""
        if self._over:
            return
        self._over = True
        side, connection = self.side, self.connection
        side.flights -= 1
        if self._connecting is not None:
            self._connecting.cancel()
        if connection is not None:
            connection.asker = None
            if not (answered and connection.reusable and self.whole):
                connection.drop()
            elif connection.bound:
                connection.resume_reading()
                self._owner.caller.bind(self.name, connection)
            else:
                side.pool.release(connection)
        self.learn(outcome)
