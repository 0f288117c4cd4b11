"""The course of one request: carries out what `retry` says, between one caller and whichever upstream.

Nothing is decided here. Where it may be: `stage`. An `attempt` is the request at one upstream; what comes
back goes through `answering`; an upstream that falls silent in the middle is the affair of `silence`, one
that is slow to begin that of `hedging`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from failover.aio import spawn
from failover.health.passive import Outcome
from failover.http.framing import BodyReader
from failover.http.head import AnswerHead, RequestHead
from failover.model import Service, UpstreamName, Verdict
from failover.proxy import answering, challenge, faults, hedging, patience, rewrite, silence
from failover.proxy.answer import Answer
from failover.proxy.answering import Answering
from failover.proxy.attempt import Attempt, Owner
from failover.proxy.body import Keep, RequestBody
from failover.proxy.classify import classify
from failover.proxy.hedging import Hedge
from failover.proxy.retry import PRIMARY, RETRY_EVERY_S, SEND, Action, Failure, Pursuit, Step
from failover.proxy.stage import ANSWERING, ASKING, ENDED, WAITING, Stage
from failover.proxy.tunnel import Tunnel
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection
    from failover.proxy.server import Proxy

_log = structlog.get_logger(__name__)

# The last step of failback: stores wait until the route has turned (DESIGN 4.4).
HOLD_STORES_S: Final = 1.0
_LEFT: Final = 499  # nginx's code for a caller that left before its answer


class Exchange(Owner):
    __slots__ = (
        "_answering", "_checking", "_first_asked", "_hedge", "_holding_stores", "_timer", "_tunnel",
        "attempt", "proxy", "pursuit", "response", "stage", "started_s",
    )  # fmt: skip

    def __init__(
        self, proxy: Proxy, caller: CallerConnection, head: RequestHead, reader: BodyReader, forwarded: bytes,
        *, admitted: bool | None, started_s: float,
    ) -> None:  # fmt: skip
        self.proxy = proxy
        self.caller = caller
        self.head = head
        self.forwarded = forwarded
        self.asked = asked = classify(head, proxy.prefix)
        self.stage: Stage = WAITING
        self.started_s = started_s
        self.body = None
        if not reader.ended:
            keep = Keep.NONE if asked.kind is Kind.OTHER else Keep.SPOOL
            self.body = RequestBody(keep, proxy.spool, partial(self.guarded, self._body_moved))
        self.pursuit = Pursuit(
            asked, proxy.reach(asked), admitted=admitted,
            logins=proxy.admission is not None and proxy.admission.logins,
        )  # fmt: skip
        self.attempt: Attempt | None = None
        """The one that is asked now."""
        self.response = caller.response
        self._answering: Answering | None = None
        self._checking = False
        self._tunnel: Tunnel | None = None
        self._first_asked: UpstreamName | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._holding_stores = False
        self._hedge: Hedge | None = None

    # -- the course

    def begin(self) -> None:
        if self.proxy.board.current.hold_stores and self.asked.kind is Kind.STORE:
            self._holding_stores = True
            self._after(HOLD_STORES_S)
            return
        self.see()
        self.do(self.pursuit.next(self.started_s))

    def see(self) -> None:
        """Take notice of the route as it is now."""
        sight = self.proxy.sight(self.asked.kind)
        self.pursuit.see(sight.choice, sight.primary, forced=sight.forced)
        if self.pursuit.unsure and not self._checking:
            in_doubt = sight.primary is not Verdict.UP or sight.choice.first is not PRIMARY
            if in_doubt or self.asked.ours:
                self._checking = True
                spawn(self._check(), name="check caller")

    async def _check(self) -> None:
        """Whether the backup may answer this caller takes a while to tell."""
        admission = self.proxy.admission
        assert admission is not None
        try:
            admitted = await admission.check(self.head, self.caller.address)
        except Exception as error:  # whoever waits for it would wait for ever
            faults.report(error)
            admitted = False
        self.pursuit.settle(admitted=admitted)
        self.guarded(self.route_changed)

    def _again(self) -> None:
        """A wait is over: a new round."""
        self.cancel_timer()
        self._holding_stores = False
        self.pursuit.new_round()
        self.see()
        self.go_on()

    def go_on(self) -> None:
        self.do(self.pursuit.next(self.proxy.clock.monotonic()))

    def do(self, step: Step) -> None:
        action = step.action
        if action is not SEND and self._hedge is not None:
            self._hedge.cancel()
        if action is SEND:
            assert step.upstream is not None
            self.stage = ASKING
            if self._first_asked is None:
                self._first_asked = step.upstream
            hedged = None if self._hedge is None else self._hedge.take(step.upstream)
            if hedged is not None:
                self.attempt = hedged
                return
            self.attempt = Attempt(self, self.proxy.sides[step.upstream], self.proxy.prefix)
            if self._hedge is None and step.upstream is PRIMARY:
                self._hedge = hedging.considered(self)
            self.attempt.start(fresh=step.fresh)
        elif action is Action.WAIT:
            self._after(RETRY_EVERY_S)
        elif action is Action.PASS_KEPT:
            self.pass_whole(self.response.take_kept())
        elif action is Action.REDIRECT:
            self._say(step.status, step.sentence, rewrite.VIEWER)
        else:
            self._say(step.status, step.sentence)

    def turn_to(self, attempt: Attempt) -> None:
        """`attempt`, of a hedge, has the better answer: leave the primary, of which nothing was passed on."""
        self._forget_answer()
        self.leave(Outcome.LEFT)
        self.pursuit.cause = "hedge"
        self.attempt = attempt

    def _after(self, seconds: float) -> None:
        self.stage = WAITING
        self.call_later(seconds, self._again)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back unless something happens before; there is one timer."""
        self._timer = asyncio.get_running_loop().call_later(seconds, self._timer_over, callback)

    def _timer_over(self, callback: Callable[[], None]) -> None:
        self._timer = None
        self.guarded(callback)

    def guarded(self, callback: Callable[[], None]) -> None:
        """Call what nobody above us would hear fail."""
        try:
            callback()
        except Exception as error:
            self.fault(error)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def route_changed(self) -> None:
        """The board has a new route: a request that waits at an upstream it should not wait at moves."""
        route, attempt = self.proxy.board.current, self.attempt
        if self.stage is WAITING:
            if not (self._holding_stores and route.hold_stores):
                self._again()
            return
        if attempt is None or self.stage is ENDED:
            return
        verdict = route.verdicts.get((attempt.name, Service.WEB))
        if self.stage is ASKING:
            self.see()
            if self.pursuit.leaves(attempt.name, verdict, sent=attempt.sent):
                self._forget_answer()
                self.leave(Outcome.LEFT)
                self.go_on()
        elif verdict is Verdict.DOWN:
            # What would wait for ever is closed, so that its page connects again.
            if self._tunnel is not None:
                self._tunnel.restart()
                return
            answer = self.response.answer
            if answer is not None and (answer.is_event_stream or answer.passage):
                self.failed(attempt, Failure.BROKE)
        elif verdict is Verdict.SUSPECT and self._timer is None:
            silence.watch(self)

    def end_at(self, upstream: UpstreamName) -> bool:
        """`upstream` is given nothing more: go elsewhere, or end honestly. Returns whether this was there."""
        attempt, parked = self.attempt, self.response.parked
        hedged = self._hedge is not None and self._hedge.end_at(upstream)
        if parked is not None and parked.name is upstream:
            self.response.leave_parked()
            return True
        if attempt is None or attempt.name is not upstream or self.stage is ENDED:
            return hedged
        if self._tunnel is not None:
            self._tunnel.restart()
            return True
        sent = attempt.sent
        self.cancel_timer()
        self.leave(Outcome.LEFT)
        if not self._may_go_on():
            return True
        self.see()
        self.do(self.pursuit.ended_at(upstream, sent=sent, now_s=self.proxy.clock.monotonic()))
        return True

    # -- the caller's body

    def body_data(self, data: bytes) -> None:
        body = self.body
        assert body is not None
        body.append(data)
        self._body_moved()
        if self.body is not None and body.full:
            self.caller.pause_reading()

    def body_ended(self) -> None:
        if self.body is not None:
            self.body.whole = True
            self._body_moved()

    def _body_moved(self) -> None:
        """There is more to send, or room for more."""
        body = self.body
        if body is None:
            return
        if self.asked.kind is not Kind.OTHER and self.pursuit.body_kept and not body.kept_whole:
            self.pursuit.body_kept = False
            self.proxy.metrics.http_unprotected.labels("spool_full").inc()
            _log.warning("body goes on unprotected", reason="spool_full", route=self.asked.route.value)
        if self.attempt is not None:
            self.attempt.pump()
        elif body.roomy:
            self.caller.resume_reading()

    def body_lost(self) -> None:
        """The spool's disk failed under a body that was not sent whole: it cannot go on anywhere."""
        self.answers_itself(503, "the body could not be kept, send it again")

    # -- what an attempt tells; only the one that is asked now has a say

    def answered_whole(self, attempt: Attempt, head: AnswerHead, body: bytes) -> bool:
        if attempt is not self.attempt:
            return False
        if self._hedge is not None:
            self._hedge.heard(attempt, head)
        return answering.whole(self, attempt, head, body)

    def answer_began(self, attempt: Attempt, head: AnswerHead) -> None:
        if attempt is self.attempt:
            if self._hedge is not None:
                self._hedge.heard(attempt, head)
            if self._answering is None:
                self._answering = Answering(self)
            self._answering.began(attempt, head)

    def answer_data(self, attempt: Attempt, data: bytes) -> None:
        if attempt is self.attempt:
            assert self._answering is not None
            self._answering.data(data)

    def answer_unfinished(self, attempt: Attempt) -> None:
        if attempt is self.attempt:
            assert self._answering is not None
            self._answering.unfinished()

    def answer_ended(self, attempt: Attempt) -> None:
        if attempt is self.attempt:
            assert self._answering is not None
            self._answering.ended(attempt)

    def failed(self, attempt: Attempt, failure: Failure) -> None:
        """The upstream gave no whole answer."""
        if attempt is not self.attempt:
            if attempt is self.response.parked:
                self.response.leave_parked()  # there is no way back to it; the other is asked already
            return
        answer = self.response.answer
        sent, reused = attempt.sent, attempt.reused
        self.cancel_timer()
        if self.asked.kind is Kind.STORE:
            attempt.side.traffic.store_result(self.caller.address, False)
        self.leave(Outcome.TIMED_OUT if failure is Failure.TIMED_OUT else Outcome.FAILED)
        reused = reused and answer is None
        if silence.back_to_parked(self) or not self._may_go_on():
            return
        self.see()
        now_s = self.proxy.clock.monotonic()
        self.do(self.pursuit.failed(attempt.name, failure, sent=sent, reused=reused, now_s=now_s))

    def answers_itself(self, status: int, sentence: str, *, close: bool = False) -> None:
        """Let go of the upstream and answer `status`."""
        self._forget_answer()
        self.leave(Outcome.LEFT)
        self._say(status, sentence, close=close)

    def _may_go_on(self) -> bool:
        """The upstream is gone. Whether the other may give the answer, or its rest; else it is broken now."""
        self.cancel_timer()
        response = self.response
        if response.lose():
            if response.lost is not None:
                self.stage = ASKING
            return True
        answer = response.answer
        assert answer is not None
        # Never a short body that looks whole.
        self.finish(answer.upstream.name, answer.head.status, answer.body_bytes, broken=True)
        return False

    def sweep(self, idle_s: float) -> None:
        """Nothing moved for `idle_s` seconds."""
        patience.look(self, idle_s)

    # -- the caller

    def caller_paused(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_paused()
        elif self.stage is ANSWERING and self.attempt is not None:
            connection = self.attempt.connection
            if connection is not None:
                connection.pause_reading()

    def caller_writable(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_writable()
        elif self.attempt is not None and self.attempt.connection is not None:
            self.attempt.connection.resume_reading()

    def from_caller(self, data: bytes) -> None:
        """Bytes behind the request: only a tunnel takes them."""
        assert self._tunnel is not None
        self._tunnel.from_caller(data)

    def caller_left(self) -> None:
        """The caller's connection ended, or its body has no reading."""
        if self.stage is ENDED:
            return
        attempt, answer = self.attempt, self.response.answer or self.response.lost
        if self._tunnel is not None:
            self._tunnel.close()
        self.leave(Outcome.LEFT)
        status = _LEFT
        if self._tunnel is not None:
            status = 101
        elif answer is not None and answer.begun:
            status = answer.head.status
        body_bytes = answer.body_bytes if answer is not None else 0
        self._close()
        name = attempt.name if attempt is not None else None
        self.proxy.count(self, name, status, body_bytes, broken=True)

    # -- tunnels

    def switched(self, attempt: Attempt, head: AnswerHead, rest: bytes) -> None:
        """The upstream speaks another protocol from here on."""
        if attempt is not self.attempt:
            return
        assert attempt.connection is not None
        if not self.asked.upgrade or (head.upgrade or b"").lower() != b"websocket":
            self.failed(attempt, Failure.BROKE)  # 101 unasked: its bytes have no reading
            return
        attempt.learn(Outcome.ANSWERED)
        self.stage = Stage.TUNNEL
        upstream = attempt.side.upstream
        self.caller.write(rewrite.answer_head(head, upstream, self.caller.place, rewrite.TO_WEBSOCKET))
        self._tunnel = Tunnel(self.caller, attempt.connection, self._tunnel_ended)
        self._tunnel.begin(rest, self.caller.take_buffer())

    def _tunnel_ended(self, sent_bytes: int) -> None:
        attempt = self.attempt
        assert attempt is not None
        self.leave(Outcome.LEFT)
        self._close()
        self.proxy.count(self, attempt.name, 101, sent_bytes, broken=False)
        self.caller.exchange_ended(close=True)

    # -- ends

    def keeps(self) -> bool:
        """Whether the caller's connection serves on after this answer."""
        body = self.body
        whole = body is None or body.whole
        return self.head.keep_alive and whole and not self.proxy.stopping and not self.caller.ended

    def pass_whole(self, answer: Answer) -> None:
        """Pass on an answer that is here, whole."""
        answer.pass_whole(self.caller, self.head, keep=self.keeps())
        self.finish(answer.upstream.name, answer.head.status, answer.body_bytes, close=answer.close)

    def fault(self, error: Exception) -> None:
        """Our own code failed: this request ends now, and nobody else is harmed."""
        faults.report(error)
        answer = self.response.answer
        unbegun = self.stage <= ASKING and self.response.lost is None
        try:
            if self.stage is ENDED or not unbegun or (answer is not None and answer.begun):
                self.caller.abort()
            else:
                self.answers_itself(500, "the router failed at this request", close=True)
        except Exception as second:
            faults.report(second)
            self.caller.abort()

    def leave(self, outcome: Outcome, *, answered: bool = False) -> None:
        """Let go of the upstream."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.leave(outcome, answered=answered)

    def _say(self, status: int, sentence: str, location: bytes | None = None, *, close: bool = False) -> None:
        """Answer ourselves."""
        lost = self.response.lost
        if lost is not None:  # too late to say anything: never a short body that looks whole
            self.finish(lost.upstream.name, lost.head.status, lost.body_bytes, broken=True)
            return
        keep = not close and self.keeps()
        head_only = self.head.method == b"HEAD"
        fields, page = (b"", None) if location is None else (b"Location: %b\r\n" % location, None)
        if status == 401:
            admission = self.proxy.admission
            assert admission is not None
            status, fields, page = challenge.of(self.head, self.asked, admission.ways)
        body = page or f"{sentence}\n".encode()
        self.caller.write(rewrite.own_page(status, body, fields, close=not keep, head_only=head_only))
        self.finish(None, status, 0, close=not keep)

    def finish(
        self, name: UpstreamName | None, status: int, body_bytes: int, *, close: bool = False,
        broken: bool = False,
    ) -> None:  # fmt: skip
        self._close()
        cause = self.pursuit.cause
        if cause is not None and name is not None and name is not self._first_asked:
            self.proxy.metrics.http_moved.labels(cause).inc()
        self.proxy.count(self, name, status, body_bytes, broken=broken)
        if broken:
            self.caller.abort()
        else:
            self.caller.exchange_ended(close=close)

    def _close(self) -> None:
        self.stage = ENDED
        if self._timer is not None:
            self.cancel_timer()
        if self._hedge is not None:
            self._hedge.cancel()
            self._hedge = None
        self.response.close()
        if self.body is not None:
            self.body.close()
            self.body = None

    def _forget_answer(self) -> None:
        self.cancel_timer()
        self.response.forget()
