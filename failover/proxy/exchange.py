"""One request and its answer: carries out what `retry` says, between one caller and whichever upstream.

Nothing is decided here. The stages: WAITING (for the next round, or for stores to be let go), CONNECTING,
ASKING (sent, or being sent), ANSWERING (the caller has a byte of the answer), TUNNEL, ENDED.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import structlog

from failover.health.passive import Outcome
from failover.http.framing import LAST_CHUNK, BodyReader, chunk
from failover.http.head import AnswerHead, RequestHead
from failover.model import Service, UpstreamName, Verdict
from failover.proxy import hold, rewrite, stow
from failover.proxy.answer import Answer
from failover.proxy.body import Keep, RequestBody
from failover.proxy.classify import PARTS, WebRoute, classify
from failover.proxy.hold import Delivery
from failover.proxy.retry import FAILING, PRIMARY, RETRY_EVERY_S, Action, Failure, Judgement, Pursuit, Step
from failover.proxy.tunnel import Tunnel
from failover.proxy.upstream import UpstreamConnection
from failover.routing.selection import Choice, Kind, choose

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection
    from failover.proxy.server import Proxy

_log = structlog.get_logger(__name__)

# The last step of failback: stores wait until the route has turned (DESIGN 4.4).
HOLD_STORES_S: Final = 1.0
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Stage(IntEnum):
    WAITING = 0
    CONNECTING = 1
    ASKING = 2
    ANSWERING = 3
    TUNNEL = 4
    ENDED = 5


class Exchange:
    __slots__ = (
        "_answer", "_at", "_connecting", "_connection", "_first_asked", "_forwarded", "_holding_stores",
        "_kept", "_proxy", "_pursuit", "_sent", "_timer", "_token", "_tunnel", "_wholly_sent", "asked",
        "body", "caller", "head", "stage", "started_s",
    )  # fmt: skip

    def __init__(
        self, proxy: Proxy, caller: CallerConnection, head: RequestHead, reader: BodyReader, forwarded: bytes,
        *, admitted: bool, started_s: float,
    ) -> None:  # fmt: skip
        self._proxy = proxy
        self.caller = caller
        self.head = head
        self.asked = asked = classify(head, proxy.prefix)
        self.stage = Stage.WAITING
        self.started_s = started_s
        self.body: RequestBody | None = None
        if not reader.ended:
            keep = Keep.NONE if asked.kind is Kind.OTHER else Keep.SPOOL
            self.body = RequestBody(keep, proxy.spool, self._body_moved)
        self._pursuit = Pursuit(asked, proxy.reach(asked), admitted=admitted)
        self._pursuit.body_kept = self.body is None or self.body.kept_whole
        self._forwarded = forwarded
        self._answer: Answer | None = None
        self._kept: Answer | None = None
        self._at: UpstreamName | None = None
        self._first_asked: UpstreamName | None = None
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._sent = False
        self._wholly_sent = False
        self._token: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._holding_stores = False
        self._tunnel: Tunnel | None = None

    # -- the course

    def begin(self) -> None:
        if self._proxy.board.current.hold_stores and self.asked.kind is Kind.STORE:
            self._holding_stores = True
            self._timer = asyncio.get_running_loop().call_later(HOLD_STORES_S, self._let_go)
            return
        self._see()
        self._do(self._pursuit.next(self.started_s))

    def _let_go(self) -> None:
        self._holding_stores = False
        self._again()

    def _see(self) -> Choice:
        route = self._proxy.board.current
        choice = choose(route, Service.WEB, self.asked.kind)
        self._pursuit.see(
            choice, route.verdicts.get((PRIMARY, Service.WEB)), forced=route.forced is UpstreamName.PRIMARY
        )
        return choice

    def _again(self) -> None:
        """A wait is over: a new round."""
        self._cancel_timer()
        if self.stage is not Stage.WAITING:
            return
        self._pursuit.new_round()
        self._see()
        self._do(self._pursuit.next(self._proxy.clock.monotonic()))

    def _do(self, step: Step) -> None:
        action = step.action
        if action is Action.SEND:
            assert step.upstream is not None
            self._send(step.upstream, fresh=step.fresh)
        elif action is Action.WAIT:
            self.stage = Stage.WAITING
            self._timer = asyncio.get_running_loop().call_later(RETRY_EVERY_S, self._again)
        elif action is Action.PASS_KEPT:
            assert self._kept is not None
            self._answer, self._kept = self._kept, None
            self._pass_whole()
        elif action is Action.REDIRECT:
            self._say(step.status, step.sentence, rewrite.VIEWER)
        else:
            self._say(step.status, step.sentence)

    # -- asking

    def _send(self, upstream: UpstreamName, *, fresh: bool) -> None:
        proxy = self._proxy
        self._at = upstream
        if self._first_asked is None:
            self._first_asked = upstream
        self._sent = self._wholly_sent = False
        proxy.flights[upstream] += 1
        pool = proxy.pools[upstream]
        connection = self.caller.bound.pop(upstream, None)
        if connection is not None and connection.closed:
            connection = None
        if connection is None and not fresh:
            connection = pool.take()
        if connection is not None:
            self._use(connection)
        else:
            self.stage = Stage.CONNECTING
            self._connecting = pool.open(self)

    def connected(self, connection: UpstreamConnection) -> None:
        self._connecting = None
        if self.stage is not Stage.CONNECTING or connection.closed:
            # It left while the connection was made, or the connection died at once.
            connection.drop()
            if self.stage is Stage.CONNECTING:
                self._failed(Failure.UNREACHABLE)
            return
        self._use(connection)

    def not_connected(self, error: Exception) -> None:
        self._connecting = None
        if self.stage is Stage.CONNECTING:
            self._failed(Failure.UNREACHABLE)

    def _use(self, connection: UpstreamConnection) -> None:
        assert self._at is not None
        self._connection = connection
        self.stage = Stage.ASKING
        upstream = self._proxy.upstreams[self._at]
        connection.ask(self, self.head.method)
        if rewrite.binds_connection(self.head):
            connection.bound = True
        body, head = self.body, self.head
        framing = b""
        if body is not None:
            if head.expects_continue and not body.whole:
                self.caller.write(_CONTINUE)
                head.expects_continue = False
            body.rewind()
            if head.content_length is not None:
                framing = b"Content-Length: %d\r\n" % head.content_length
            else:
                framing = b"Transfer-Encoding: chunked\r\n"
        elif head.content_length is not None:
            framing = b"Content-Length: 0\r\n"
        self._sent = True
        connection.write(
            rewrite.request_head(head, self.asked, upstream, self._forwarded, self._proxy.prefix, framing)
        )
        if body is None:
            self._all_sent()
        else:
            self._pump()

    def _pump(self) -> None:
        """Send what there is of the body while the upstream takes it."""
        connection, body = self._connection, self.body
        if connection is None or body is None or self._wholly_sent:
            return
        chunked = self.head.chunked
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
            self._lose_body()

    def _lose_body(self) -> None:
        """The spool's disk failed under a body that was not sent whole: it cannot go on anywhere."""
        self._leave(Outcome.LEFT)
        self._say(503, "the body could not be kept, send it again")

    def _all_sent(self) -> None:
        self._wholly_sent = True
        self.caller.stirred = True
        assert self._at is not None
        # Only now can an answer be awaited: a long upload must not look like a silence.
        self._token = self._proxy.traffic[self._at].began(PARTS[self.asked.route], self.asked.route)

    def upstream_writable(self) -> None:
        self._pump()
        self._body_moved()

    # -- the caller's body

    def body_data(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        was_kept = body.kept_whole
        body.append(data)
        if was_kept and not body.kept_whole:
            self._unprotected(body)
        if self.stage is Stage.ASKING or self.stage is Stage.ANSWERING:
            self._pump()
        if body.full:
            self.caller.pause_reading()

    def _unprotected(self, body: RequestBody) -> None:
        self._pursuit.body_kept = False
        self._proxy.metrics.http_unprotected.labels("spool_full").inc()
        _log.warning("body goes on unprotected", reason="spool_full", route=self.asked.route)

    def body_ended(self) -> None:
        assert self.body is not None
        self.body.whole = True
        if self.stage is Stage.ASKING or self.stage is Stage.ANSWERING:
            self._pump()

    def _body_moved(self) -> None:
        """There is more to send, or room for more."""
        body = self.body
        if body is None or self.stage is Stage.ENDED:
            return
        if self._pursuit.body_kept and not body.kept_whole:
            self._unprotected(body)
        if self.stage is Stage.ASKING or self.stage is Stage.ANSWERING:
            self._pump()
        if self.body is not None and body.roomy:
            self.caller.resume_reading()

    # -- the answer

    def answer_began(self, head: AnswerHead) -> None:
        proxy, at, connection = self._proxy, self._at, self._connection
        assert at is not None
        assert connection is not None
        self.caller.stirred = True
        if self._token is not None:
            proxy.traffic[at].heard(self._token)
        if head.status == 401 and rewrite.binds_connection(head):
            connection.bound = True
        judgement = self._pursuit.judge(at, head.status)
        if judgement is Judgement.DROP:
            self._note_store(at, head.status, lies=False)
            self._leave(Outcome.FAILED if head.status in FAILING else Outcome.ANSWERED)
            self._do(self._pursuit.answer_dropped(at, proxy.clock.monotonic()))
            return
        plan = hold.plan(self.asked, head, failing=judgement is Judgement.KEEP)
        self._answer = Answer(head, proxy.upstreams[at], judgement, plan, proxy.held)
        if plan.delivery is Delivery.STREAM:
            self._stream()

    def _stream(self) -> None:
        """From here on the caller gets each byte as it comes."""
        answer = self._answer
        assert answer is not None
        self._cancel_timer()
        self.stage = Stage.ANSWERING
        self._forget_kept()
        answer.begin(self.caller, self.head, keep=self._keeps())
        if self.caller.write_paused:
            self.caller_paused()

    def answer_data(self, data: bytes) -> None:
        answer = self._answer
        assert answer is not None
        self.caller.stirred = True
        if self._token is not None and self._at is not None:
            self._proxy.traffic[self._at].heard(self._token)
        if answer.begun:
            answer.data(self.caller, data)
        elif not answer.hold(data):
            if answer.over_total:
                self._proxy.metrics.http_unprotected.labels("hold_full").inc()
            self._stream()

    def answer_unfinished(self) -> None:
        """The read that brought the head brought no end: a held answer without a length gets its time."""
        answer = self._answer
        if answer is not None and answer.held and answer.plan.limit_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(answer.plan.limit_s, self._held_long_enough)

    def _held_long_enough(self) -> None:
        self._timer = None
        answer = self._answer
        if self.stage is Stage.ASKING and answer is not None and answer.held:
            self._stream()

    def answer_ended(self) -> None:
        answer, at = self._answer, self._at
        assert answer is not None
        assert at is not None
        self._cancel_timer()
        status = answer.head.status
        lies = (
            answer.judgement is Judgement.READ
            and self.asked.kind is Kind.STORE
            and not answer.begun
            and stow.acknowledges_nothing(status, answer.body)
        )
        self._note_store(at, status, lies=lies)
        self._leave(Outcome.FAILED if status in FAILING or lies else Outcome.ANSWERED, whole=True)
        if answer.begun:
            answer.end(self.caller)
            self._finish(at, status, answer.body_bytes, close=answer.close)
            return
        judgement = answer.judgement
        if judgement is Judgement.READ:
            empty = not lies and hold.is_empty_search(self.asked, answer.body)
            judgement = self._pursuit.judge_body(at, lies=lies, empty=empty)
        now_s = self._proxy.clock.monotonic
        if judgement is Judgement.KEEP:
            self._kept, self._answer = answer, None
            self._do(self._pursuit.answer_kept(at, now_s()))
        elif judgement is Judgement.DROP:
            answer.forget()
            self._answer = None
            self._do(self._pursuit.answer_dropped(at, now_s()))
        else:
            self._pass_whole()

    def _pass_whole(self) -> None:
        answer = self._answer
        assert answer is not None
        self._forget_kept()
        answer.pass_whole(self.caller, self.head, keep=self._keeps())
        self._finish(answer.upstream.name, answer.head.status, answer.body_bytes, close=answer.close)

    def _keeps(self) -> bool:
        """Whether the caller's connection serves on after this answer."""
        body = self.body
        return (
            self.head.keep_alive
            and not self._proxy.stopping
            and not self.caller.ended
            and (body is None or body.whole)
        )

    def _note_store(self, at: UpstreamName, status: int, *, lies: bool) -> None:
        if self.asked.kind is not Kind.STORE:
            return
        if lies or status in FAILING:
            self._proxy.traffic[at].store_result(self.caller.address, False)
        elif 200 <= status < 300:
            self._proxy.traffic[at].store_result(self.caller.address, True)
            if at is UpstreamName.BACKUP:
                self._proxy.last_store_on_backup_s = self._proxy.clock.monotonic()

    # -- failures

    def upstream_failed(self, error: Exception | None) -> None:
        self._failed(Failure.BROKE)

    def _failed(self, failure: Failure) -> None:
        at, connection = self._at, self._connection
        assert at is not None
        answer, self._answer = self._answer, None
        reused = connection is not None and connection.reused and not connection.answered
        self._cancel_timer()
        if self.asked.kind is Kind.STORE:
            self._proxy.traffic[at].store_result(self.caller.address, False)
        self._leave(Outcome.TIMED_OUT if failure is Failure.TIMED_OUT else Outcome.FAILED)
        if answer is not None:
            answer.forget()
            if answer.begun:
                # Never a short body that looks whole.
                self._finish(at, answer.head.status, answer.body_bytes, close=True, broken=True)
                return
        self._see()
        now_s = self._proxy.clock.monotonic()
        self._do(self._pursuit.failed(at, failure, sent=self._sent, reused=reused, now_s=now_s))

    def route_changed(self) -> None:
        if self._holding_stores:
            if not self._proxy.board.current.hold_stores:
                self._let_go()
            return
        if self.stage is Stage.WAITING:
            self._again()
            return
        at = self._at
        if at is None or self.stage is Stage.ENDED:
            return
        verdict = self._proxy.board.current.verdicts.get((at, Service.WEB))
        if self.stage is Stage.TUNNEL:
            if verdict is Verdict.DOWN and self._tunnel is not None:
                self._tunnel.restart()
        elif self.stage is Stage.ANSWERING:
            if verdict is Verdict.DOWN and self._is_event_stream():
                self._failed(Failure.BROKE)
        else:
            self._see()
            if self._pursuit.leaves(at, verdict, sent=self._sent):
                self._cancel_timer()
                if self._answer is not None:
                    self._answer.forget()
                    self._answer = None
                self._leave(Outcome.LEFT)
                self._do(self._pursuit.next(self._proxy.clock.monotonic()))

    def _is_event_stream(self) -> bool:
        answer = self._answer
        kind = answer.head.first(b"content-type") if answer is not None else None
        return kind is not None and kind.lower().startswith(b"text/event-stream")

    def sweep(self, idle_s: float) -> None:
        """Nothing moved for `idle_s` seconds. Time-outs by phase; each says what it frees."""
        listen, caller = self._proxy.listen, self.caller
        if self.stage is Stage.ASKING and self._answer is None:
            if self._wholly_sent:
                if idle_s > listen.answer_timeout:
                    self._failed(Failure.TIMED_OUT)
            elif idle_s > listen.body_idle:
                if caller.reading_paused or (self.body is not None and self.body.whole):
                    self._failed(Failure.TIMED_OUT)  # the upstream does not take the body
                else:
                    self._leave(Outcome.LEFT)
                    self._say(408, "the body paused for too long")
        elif self.stage in (Stage.ASKING, Stage.ANSWERING):
            if idle_s > listen.body_idle:
                if caller.write_paused:
                    caller.abort()  # a slow reader must not hold memory and an upstream's thread
                else:
                    self._failed(Failure.BROKE)
        elif self.stage is Stage.WAITING:
            body = self.body
            stopped = body is not None and not body.whole and not caller.reading_paused
            if stopped and idle_s > listen.body_idle:
                self._say(408, "the body paused for too long")

    # -- the caller

    def caller_paused(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_paused()
        elif self._connection is not None and self.stage is Stage.ANSWERING:
            self._connection.pause_reading()

    def caller_writable(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_writable()
        elif self._connection is not None:
            self._connection.resume_reading()

    def from_caller(self, data: bytes) -> None:
        """Bytes behind the request: only a tunnel takes them."""
        assert self._tunnel is not None
        self._tunnel.from_caller(data)

    def caller_left(self) -> None:
        """The caller's connection ended."""
        if self.stage is Stage.ENDED:
            return
        answer = self._answer
        at = self._at
        if answer is not None:
            answer.forget()
        if self._tunnel is not None:
            self._tunnel.close()
        self._leave(Outcome.LEFT)
        self._cancel_timer()
        status = 101 if self._tunnel is not None else 499  # nginx's code for "left before its answer"
        if answer is not None and answer.begun:
            status = answer.head.status
        self._close()
        self._proxy.count(self, at, status, answer.body_bytes if answer else 0, broken=True)

    # -- tunnels

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        connection, at = self._connection, self._at
        assert connection is not None
        assert at is not None
        upgrade = (head.upgrade or b"").lower()
        if not self.asked.upgrade or upgrade != b"websocket":
            connection.drop()
            self._failed(Failure.BROKE)  # 101 unasked: its bytes have no reading
            return
        if self._token is not None:
            self._proxy.traffic[at].ended(self._token, Outcome.ANSWERED)
            self._token = None
        self.stage = Stage.TUNNEL
        framing = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        self.caller.write(rewrite.answer_head(head, self._proxy.upstreams[at], framing))
        self._tunnel = Tunnel(self.caller, connection, self._tunnel_ended)
        connection.asker, connection.tunnel = None, self._tunnel
        if rest:
            self._tunnel.from_upstream(rest)
        early = self.caller.take_buffer()
        if early:
            self._tunnel.from_caller(early)

    def _tunnel_ended(self, sent_bytes: int) -> None:
        at = self._at
        self._leave(Outcome.LEFT)
        self._close()
        self._proxy.count(self, at, 101, sent_bytes, broken=False)
        self.caller.exchange_ended(close=True)

    # -- ends

    def _leave(self, outcome: Outcome, *, whole: bool = False) -> None:
        """Let go of the upstream. `whole`: it has answered, so its connection may serve on."""
        at = self._at
        if at is None:
            return
        proxy = self._proxy
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.asker = None
            if not (whole and connection.reusable and self._wholly_sent):
                connection.drop()
            elif connection.bound:
                connection.resume_reading()
                self.caller.bind(at, connection)
            else:
                proxy.pools[at].release(connection)
        if self._token is not None:
            proxy.traffic[at].ended(self._token, outcome)
            self._token = None
        elif outcome is Outcome.FAILED and not self._wholly_sent:
            # Never sent whole: it says something of the upstream nevertheless.
            traffic = proxy.traffic[at]
            traffic.ended(traffic.began(PARTS[self.asked.route], self.asked.route), outcome)
        proxy.flights[at] -= 1
        self._at = None
        self.stage = Stage.WAITING

    def _say(self, status: int, sentence: str, location: bytes | None = None) -> None:
        self._forget_kept()
        keep = self._keeps()
        answer = rewrite.own_answer(
            status, sentence, close=not keep, head_only=self.head.method == b"HEAD", location=location
        )
        self.caller.write(answer)
        self._finish(None, status, 0, close=not keep)

    def _finish(
        self, at: UpstreamName | None, status: int, body_bytes: int, *, close: bool, broken: bool = False
    ) -> None:
        self._close()
        moved = at is not None and at is not self._first_asked
        if moved and self._pursuit.cause is not None:
            self._proxy.metrics.http_moved.labels(self._pursuit.cause).inc()
        self._proxy.count(self, at, status, body_bytes, broken=broken)
        if broken:
            self.caller.abort()
        else:
            self.caller.exchange_ended(close=close)

    def _close(self) -> None:
        self.stage = Stage.ENDED
        self._cancel_timer()
        self._forget_kept()
        if self.body is not None:
            self.body.close()
            self.body = None

    def _forget_kept(self) -> None:
        if self._kept is not None:
            self._kept.forget()
            self._kept = None

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


__all__ = ["Exchange", "Stage", "WebRoute"]
