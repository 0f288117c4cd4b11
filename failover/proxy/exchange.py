"""One request and its answer: carries out what `retry` says, between one caller and whichever upstream.

Nothing is decided here. The stages: WAITING (for the next round, or for stores to be let go), ASKING (at an
upstream), ANSWERING (the caller has a byte of the answer), TUNNEL, COPYING (a store that the primary took
waits for its copy), ENDED.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import structlog

from failover.aio import spawn
from failover.errors import ProtocolError
from failover.health.passive import Outcome
from failover.http.framing import BodyReader
from failover.http.head import AnswerHead, RequestHead
from failover.model import Phase, Service, UpstreamName, Verdict
from failover.proxy import challenge, hold, leads, resume, rewrite, stow
from failover.proxy.answer import Answer
from failover.proxy.attempt import Attempt
from failover.proxy.body import Keep, RequestBody
from failover.proxy.classify import classify
from failover.proxy.copies import ACKNOWLEDGEMENT_WAITS_S, WebCopy
from failover.proxy.hold import Delivery
from failover.proxy.resume import CannotContinue
from failover.proxy.retry import (
    BACKUP,
    FAILING,
    PRIMARY,
    RETRY_EVERY_S,
    Action,
    Failure,
    Judgement,
    Pursuit,
    Step,
)
from failover.proxy.tunnel import Tunnel
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection
    from failover.proxy.server import Proxy

_log = structlog.get_logger(__name__)

# The last step of failback: stores wait until the route has turned (DESIGN 4.4).
HOLD_STORES_S: Final = 1.0
# As long as the silence that makes an upstream suspect (DESIGN 4.1).
SILENT_S: Final = 0.150
_LEFT: Final = 499  # nginx's code for a caller that left before its answer


class Stage(IntEnum):
    WAITING = 0
    ASKING = 1
    ANSWERING = 2
    TUNNEL = 3
    COPYING = 4
    ENDED = 5


class Exchange:
    __slots__ = (
        "_attempt", "_checking", "_first_asked", "_holding_stores", "_proxy", "_pursuit", "_response",
        "_timer", "_tunnel", "asked", "body", "caller", "forwarded", "head", "stage", "started_s",
    )  # fmt: skip

    def __init__(
        self, proxy: Proxy, caller: CallerConnection, head: RequestHead, reader: BodyReader, forwarded: bytes,
        *, admitted: bool | None, started_s: float,
    ) -> None:  # fmt: skip
        self._proxy = proxy
        self.caller = caller
        self.head = head
        self.forwarded = forwarded
        self.asked = asked = classify(head, proxy.prefix)
        self.stage = Stage.WAITING
        self.started_s = started_s
        self.body: RequestBody | None = None
        if not reader.ended:
            keep = Keep.NONE if asked.kind is Kind.OTHER else Keep.SPOOL
            self.body = RequestBody(keep, proxy.spool, self._body_moved)
        self._pursuit = Pursuit(
            asked, proxy.reach(asked), admitted=admitted,
            logins=proxy.admission is not None and proxy.admission.logins,
        )  # fmt: skip
        self._checking = False
        self._attempt: Attempt | None = None
        self._response = caller.response
        self._tunnel: Tunnel | None = None
        self._first_asked: UpstreamName | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._holding_stores = False

    # -- the course

    def begin(self) -> None:
        if self._proxy.board.current.hold_stores and self.asked.kind is Kind.STORE:
            self._holding_stores = True
            self._after(HOLD_STORES_S)
            return
        self._see()
        self._do(self._pursuit.next(self.started_s))

    def _see(self) -> None:
        sight = self._proxy.sight(self.asked.kind)
        self._pursuit.see(sight.choice, sight.primary, forced=sight.forced)
        if self._pursuit.unsure and not self._checking:
            in_doubt = sight.primary is not Verdict.UP or sight.choice.first is not UpstreamName.PRIMARY
            if in_doubt or self.asked.ours:
                self._checking = True
                spawn(self._check(), name="check caller")

    async def _check(self) -> None:
        """Whether the backup may answer this caller takes a while to tell."""
        admission = self._proxy.admission
        assert admission is not None
        admitted = await admission.check(self.head, self.caller.address)
        self._pursuit.settle(admitted=admitted)
        self.route_changed()

    def _again(self) -> None:
        """A wait is over: a new round."""
        self._holding_stores = False
        self._cancel_timer()
        self._pursuit.new_round()
        self._see()
        self._do(self._pursuit.next(self._proxy.clock.monotonic()))

    def _do(self, step: Step) -> None:
        action = step.action
        if action is Action.SEND:
            assert step.upstream is not None
            self.stage = Stage.ASKING
            if self._first_asked is None:
                self._first_asked = step.upstream
            self._attempt = Attempt(self, self._proxy, step.upstream)
            self._attempt.start(fresh=step.fresh)
        elif action is Action.WAIT:
            self._after(RETRY_EVERY_S)
        elif action is Action.PASS_KEPT:
            self._pass_whole(self._response.take_kept())
        elif action is Action.REDIRECT:
            self._say(step.status, step.sentence, rewrite.VIEWER)
        else:
            self._say(step.status, step.sentence)

    def _after(self, seconds: float) -> None:
        self.stage = Stage.WAITING
        self._timer = asyncio.get_running_loop().call_later(seconds, self._again)

    def route_changed(self) -> None:
        """The board has a new route: a request that waits at an upstream it should not wait at moves."""
        route, attempt = self._proxy.board.current, self._attempt
        if self.stage is Stage.WAITING:
            if not (self._holding_stores and route.hold_stores):
                self._again()
            return
        if attempt is None or self.stage is Stage.ENDED:
            return
        verdict = route.verdicts.get((attempt.name, Service.WEB))
        if self.stage is Stage.ASKING:
            self._see()
            if self._pursuit.leaves(attempt.name, verdict, sent=attempt.sent):
                self._forget_answer()
                self._leave(Outcome.LEFT)
                self._do(self._pursuit.next(self._proxy.clock.monotonic()))
        elif verdict is Verdict.DOWN:
            # What would wait for ever is closed, so that its page connects again.
            if self._tunnel is not None:
                self._tunnel.restart()
                return
            answer = self._response.answer
            if answer is not None and (answer.is_event_stream or answer.passage):
                self.failed(Failure.BROKE)
        elif verdict is Verdict.SUSPECT and self._timer is None:
            self._watch_silence()

    def _watch_silence(self) -> None:
        answer = self._response.answer
        if answer is not None and answer.passage is not None:
            self._timer = asyncio.get_running_loop().call_later(
                SILENT_S, self._still_silent, answer.received_bytes
            )

    def _still_silent(self, received_bytes: int) -> None:
        """The upstream became suspect inside its answer: if it is silent too, ask the other for the rest.

        It is not left before the other's answer fits: it may only have paused, and the other hold less.
        """
        self._timer = None
        attempt, answer = self._attempt, self._response.answer
        if attempt is None or answer is None:
            return
        verdict = self._proxy.board.current.verdicts.get((attempt.name, Service.WEB))
        if answer.received_bytes != received_bytes:
            if verdict is Verdict.SUSPECT:
                self._watch_silence()  # it still speaks; it may fall silent while it is suspect
            return
        self._see()
        if self.caller.write_paused or not self._pursuit.leaves(attempt.name, verdict, sent=True):
            return
        self._attempt = None
        self._response.park(attempt)
        self._do(self._pursuit.next(self._proxy.clock.monotonic()))

    def _back_to_parked(self) -> bool:
        """The other has nothing that fits: go on where we were. Returns whether there was such a place."""
        parked = self._response.unpark()
        if parked is None:
            return False
        self._attempt = parked
        self.stage = Stage.ANSWERING
        return True

    def end_at(self, upstream: UpstreamName) -> bool:
        """`upstream` is given nothing more: go elsewhere, or end honestly. Returns whether this was there."""
        attempt, parked = self._attempt, self._response.parked
        if parked is not None and parked.name is upstream:
            self._response.leave_parked()
            return True
        if attempt is None or attempt.name is not upstream or self.stage is Stage.ENDED:
            return False
        if self._tunnel is not None:
            self._tunnel.restart()
            return True
        sent = attempt.sent
        self._cancel_timer()
        self._leave(Outcome.LEFT)
        if not self._may_go_on():
            return True
        self._see()
        self._do(self._pursuit.ended_at(upstream, sent=sent, now_s=self._proxy.clock.monotonic()))
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
        if self.asked.kind is not Kind.OTHER and self._pursuit.body_kept and not body.kept_whole:
            self._pursuit.body_kept = False
            self._proxy.metrics.http_unprotected.labels("spool_full").inc()
            _log.warning("body goes on unprotected", reason="spool_full", route=self.asked.route.value)
        if self._attempt is not None:
            self._attempt.pump()
        elif body.roomy:
            self.caller.resume_reading()

    def body_lost(self) -> None:
        """The spool's disk failed under a body that was not sent whole: it cannot go on anywhere."""
        self._forget_answer()
        self._leave(Outcome.LEFT)
        self._say(503, "the body could not be kept, send it again")

    # -- the answer

    def answered_whole(self, head: AnswerHead, body: bytes) -> bool:
        """Most answers come in one read. When there is nothing to judge it goes on at once.

        What it does is what `answer_began`, `answer_data` and `answer_ended` would do for such an answer.
        """
        proxy, caller, asked, attempt = self._proxy, self.caller, self.asked, self._attempt
        assert attempt is not None
        name, status = attempt.name, head.status
        if asked.kind is Kind.STORE or status in FAILING or not self._response.is_empty:
            return False
        if self._pursuit.judge(name, status) is not Judgement.PASS:
            return False
        upstream = proxy.upstreams[name]
        if leads.rewriter(asked, head, upstream, caller.place) is not None:
            return False
        if name is PRIMARY and proxy.learns:
            assert proxy.admission is not None
            proxy.admission.heard(asked, self.head, head, self.forwarded, self.started_s)
        self._leave(Outcome.ANSWERED, answered=True)
        length, keep = len(body), self._keeps()
        framing = rewrite.length_lines(length, keep=keep)
        caller.write(rewrite.answer_head(head, upstream, caller.place, framing) + body)
        self._finish(name, status, length, close=not keep)
        return True

    def answer_began(self, head: AnswerHead) -> None:
        proxy, attempt = self._proxy, self._attempt
        assert attempt is not None
        name = attempt.name
        if self._response.lost is not None:
            self._resume(head)
            return
        if name is PRIMARY and proxy.learns:
            assert proxy.admission is not None
            proxy.admission.heard(self.asked, self.head, head, self.forwarded, self.started_s)
        judgement = self._pursuit.judge(name, head.status)
        if judgement is Judgement.DROP:
            self._note_store(name, head.status, lies=False)
            self._leave(Outcome.FAILED if head.status in FAILING else Outcome.ANSWERED)
            self._do(self._pursuit.answer_dropped(name, proxy.clock.monotonic()))
            return
        plan = hold.plan(self.asked, head, judged=judgement is not Judgement.PASS)
        self._response.answer = answer = Answer(head, proxy.upstreams[name], judgement, plan, proxy.held)
        answer.urls = leads.rewriter(self.asked, head, answer.upstream, self.caller.place)
        if plan.delivery is Delivery.STREAM:
            self._stream()

    def _stream(self) -> None:
        """From here on the caller gets each byte as it comes."""
        self._cancel_timer()
        self.stage = Stage.ANSWERING
        try:
            self._response.stream(self.head, self.asked, keep=self._keeps())
        except ProtocolError as error:
            self._does_not_fit(error)
            return
        if self.caller.write_paused:
            self.caller_paused()

    def _resume(self, head: AnswerHead) -> None:
        """What begins with `head` shall give the rest of what was lost."""
        attempt = self._attempt
        assert attempt is not None
        if not self._response.resume(head):
            self._leave(Outcome.FAILED if head.status in FAILING else Outcome.ANSWERED)
            step = self._pursuit.cannot_resume(attempt.name, self._proxy.clock.monotonic())
            if not self._back_to_parked():
                self._do(step)
            return
        self.stage = Stage.ANSWERING
        self._proxy.metrics.http_resumed.labels(attempt.name).inc()
        if self.caller.write_paused:
            self.caller_paused()

    def _does_not_fit(self, error: ProtocolError) -> None:
        """The body of an answer has no reading, or is not what the caller has the beginning of."""
        if isinstance(error, CannotContinue):
            _log.warning("answer broken", reason=str(error), route=self.asked.route.value)
            attempt, answer = self._attempt, self._response.answer
            assert attempt is not None
            assert answer is not None
            self._leave(Outcome.ANSWERED)
            self._finish(attempt.name, answer.head.status, answer.body_bytes, broken=True)
        else:
            self.failed(Failure.BROKE)

    def answer_data(self, data: bytes) -> None:
        answer = self._response.answer
        assert answer is not None
        if answer.begun:
            try:
                answer.data(self.caller, data)
            except ProtocolError as error:
                self._does_not_fit(error)
        elif not answer.hold(data):
            if answer.over_total:
                self._proxy.metrics.http_unprotected.labels("hold_full").inc()
            self._stream()

    def answer_unfinished(self) -> None:
        """The read that brought the head brought no end: a held answer without a length gets its time."""
        answer = self._response.answer
        if answer is not None and not answer.begun and answer.plan.limit_s is not None:
            self._timer = asyncio.get_running_loop().call_later(answer.plan.limit_s, self._held_long_enough)

    def _held_long_enough(self) -> None:
        self._timer = None
        answer = self._response.answer
        if answer is not None and not answer.begun:
            self._stream()

    def answer_ended(self) -> None:
        answer, attempt = self._response.answer, self._attempt
        assert answer is not None
        assert attempt is not None
        name, status, judgement = attempt.name, answer.head.status, answer.judgement
        self._cancel_timer()
        if answer.begun:
            try:
                answer.end(self.caller)
            except ProtocolError as error:
                self._does_not_fit(error)
                return
        elif not self._ends_whole(answer):
            self.failed(Failure.BROKE)
            return
        lies = empty = False
        if judgement is Judgement.READ and not answer.begun:
            lies = self.asked.kind is Kind.STORE and stow.acknowledges_nothing(status, answer.body)
            searched = self.head.method == b"GET" and not lies
            empty = searched and hold.is_empty_search(self.asked, answer.body)
            judgement = self._pursuit.judge_body(name, lies=lies, empty=empty)
        self._note_store(name, status, lies=lies)
        self._leave(Outcome.FAILED if status in FAILING or lies else Outcome.ANSWERED, answered=True)
        if answer.begun:
            self._finish(name, status, answer.body_bytes, close=answer.close)
        elif judgement is Judgement.KEEP:
            self._response.keep()
            self._do(self._pursuit.answer_kept(name, self._proxy.clock.monotonic()))
        elif judgement is Judgement.DROP:
            self._forget_answer()
            self._do(self._pursuit.answer_dropped(name, self._proxy.clock.monotonic()))
        elif (copy := self._copy(name, answer)) is not None:
            self.stage = Stage.COPYING
            spawn(self._pass_when_copied(copy, answer), name="store waits for its copy")
        else:
            self._pass_whole(answer)

    def _ends_whole(self, answer: Answer) -> bool:
        """Whether a held body is all of it, as far as can be told.

        Without a length or chunks only its end says so, and a killed upstream ends it too: where it has parts
        or items, these tell.
        """
        head = answer.head
        if head.content_length is not None or head.chunked or self.head.method != b"GET":
            return True
        parts = resume.passage(self.asked, head)
        if parts is None:
            return True
        try:
            parts.receive(answer.body)
            parts.end()
        except ProtocolError:
            return False
        return True

    def _copy(self, name: UpstreamName, answer: Answer) -> WebCopy | None:
        """Hand a store that the primary took to whoever copies it; return what the answer has to wait for."""
        copies, body, route = self._proxy.copies, self.body, self._proxy.board.current
        if copies is None or body is None or self.asked.kind is not Kind.STORE:
            return None
        if name is not UpstreamName.PRIMARY:
            return None
        failing_back = route.services[Service.WEB].phase is Phase.FAILING_BACK
        if not (copies.tee or failing_back) or not stow.all_stored(answer.head.status, answer.body):
            return None
        encoded = self.head.first(b"content-encoding") is not None
        backup_is_down = route.verdicts.get((BACKUP, Service.WEB)) is Verdict.DOWN
        kept = None if encoded or backup_is_down else body.hand_over()
        if kept is None:
            copies.drop()
            return None
        path = (self.asked.below_prefix or b"").partition(b"?")[0].decode("latin-1")
        copy = copies.offer(kept, path, (self.head.first(b"content-type") or b"").decode("latin-1"))
        if copy is None:
            kept.close()
        return copy if failing_back else None

    async def _pass_when_copied(self, copy: WebCopy, answer: Answer) -> None:
        await copy.ended.wait_until(lambda: copy.over, timeout_s=ACKNOWLEDGEMENT_WAITS_S)
        if self.stage is Stage.COPYING:
            self._pass_whole(answer)

    def _pass_whole(self, answer: Answer) -> None:
        answer.pass_whole(self.caller, self.head, keep=self._keeps())
        self._finish(answer.upstream.name, answer.head.status, answer.body_bytes, close=answer.close)

    def _keeps(self) -> bool:
        """Whether the caller's connection serves on after this answer."""
        body = self.body
        whole = body is None or body.whole
        return self.head.keep_alive and whole and not self._proxy.stopping and not self.caller.ended

    def _note_store(self, name: UpstreamName, status: int, *, lies: bool) -> None:
        """Live traffic learns how stores end; a status that speaks of the object says nothing of it."""
        if self.asked.kind is not Kind.STORE:
            return
        if lies or status in FAILING:
            self._proxy.traffic[name].store_result(self.caller.address, False)
        elif 200 <= status < 300:
            self._proxy.traffic[name].store_result(self.caller.address, True)
            if name is BACKUP:
                self._proxy.last_store_on_backup_s = self._proxy.clock.monotonic()

    # -- failures

    def failed(self, failure: Failure) -> None:
        """The upstream gave no whole answer."""
        attempt, answer = self._attempt, self._response.answer
        assert attempt is not None
        sent, reused = attempt.sent, attempt.reused
        self._cancel_timer()
        if self.asked.kind is Kind.STORE:
            self._proxy.traffic[attempt.name].store_result(self.caller.address, False)
        self._leave(Outcome.TIMED_OUT if failure is Failure.TIMED_OUT else Outcome.FAILED)
        reused = reused and answer is None
        if self._back_to_parked() or not self._may_go_on():
            return
        self._see()
        now_s = self._proxy.clock.monotonic()
        self._do(self._pursuit.failed(attempt.name, failure, sent=sent, reused=reused, now_s=now_s))

    def _may_go_on(self) -> bool:
        """The upstream is gone. Whether the other may give the answer, or its rest; else it is broken now."""
        self._cancel_timer()
        response = self._response
        if response.lose():
            if response.lost is not None:
                self.stage = Stage.ASKING
            return True
        answer = response.answer
        assert answer is not None
        # Never a short body that looks whole.
        self._finish(answer.upstream.name, answer.head.status, answer.body_bytes, broken=True)
        return False

    def sweep(self, idle_s: float) -> None:
        """Nothing moved for `idle_s` seconds: time-outs by phase, each for whoever holds things up."""
        listen, caller, attempt, body = self._proxy.listen, self.caller, self._attempt, self.body
        body_awaited = body is not None and not body.whole and not caller.reading_paused
        if (
            self.stage is Stage.ASKING
            and attempt is not None
            and self._response.answer is None
            and attempt.whole
        ):
            if idle_s > listen.answer_timeout:
                self.failed(Failure.TIMED_OUT)
        elif idle_s <= listen.body_idle or self.stage is Stage.TUNNEL:
            return
        elif self.stage is Stage.ANSWERING and caller.write_paused:
            caller.abort()  # a slow reader must not hold memory and a thread of the upstream
        elif self.stage is Stage.ANSWERING or self._response.answer is not None:
            self.failed(Failure.BROKE)  # the upstream stopped inside its answer
        elif body_awaited:
            self._leave(Outcome.LEFT)
            self._say(408, "the body paused for too long")
        elif self.stage is Stage.ASKING:
            self.failed(Failure.TIMED_OUT)  # the upstream does not take the body

    # -- the caller

    def caller_paused(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_paused()
        elif self.stage is Stage.ANSWERING and self._attempt is not None:
            connection = self._attempt.connection
            if connection is not None:
                connection.pause_reading()

    def caller_writable(self) -> None:
        if self._tunnel is not None:
            self._tunnel.caller_writable()
        elif self._attempt is not None and self._attempt.connection is not None:
            self._attempt.connection.resume_reading()

    def from_caller(self, data: bytes) -> None:
        """Bytes behind the request: only a tunnel takes them."""
        assert self._tunnel is not None
        self._tunnel.from_caller(data)

    def caller_left(self) -> None:
        """The caller's connection ended, or its body has no reading."""
        if self.stage is Stage.ENDED:
            return
        attempt, answer = self._attempt, self._response.answer or self._response.lost
        if self._tunnel is not None:
            self._tunnel.close()
        self._leave(Outcome.LEFT)
        status = _LEFT
        if self._tunnel is not None:
            status = 101
        elif answer is not None and answer.begun:
            status = answer.head.status
        body_bytes = answer.body_bytes if answer is not None else 0
        self._close()
        name = attempt.name if attempt is not None else None
        self._proxy.count(self, name, status, body_bytes, broken=True)

    # -- tunnels

    def switched(self, head: AnswerHead, rest: bytes) -> None:
        """The upstream speaks another protocol from here on."""
        attempt = self._attempt
        assert attempt is not None
        connection = attempt.connection
        assert connection is not None
        if not self.asked.upgrade or (head.upgrade or b"").lower() != b"websocket":
            self.failed(Failure.BROKE)  # 101 unasked: its bytes have no reading
            return
        attempt.learn(Outcome.ANSWERED)
        self.stage = Stage.TUNNEL
        framing = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        upstream = self._proxy.upstreams[attempt.name]
        self.caller.write(rewrite.answer_head(head, upstream, self.caller.place, framing))
        self._tunnel = Tunnel(self.caller, connection, self._tunnel_ended)
        connection.asker, connection.tunnel = None, self._tunnel
        if rest:
            self._tunnel.from_upstream(rest)
        early = self.caller.take_buffer()
        if early:
            self._tunnel.from_caller(early)

    def _tunnel_ended(self, sent_bytes: int) -> None:
        attempt = self._attempt
        assert attempt is not None
        self._leave(Outcome.LEFT)
        self._close()
        self._proxy.count(self, attempt.name, 101, sent_bytes, broken=False)
        self.caller.exchange_ended(close=True)

    # -- ends

    def _leave(self, outcome: Outcome, *, answered: bool = False) -> None:
        """Let go of the upstream."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.leave(outcome, answered=answered)

    def _say(self, status: int, sentence: str, location: bytes | None = None) -> None:
        """Answer ourselves."""
        lost = self._response.lost
        if lost is not None:  # too late to say anything: never a short body that looks whole
            self._finish(lost.upstream.name, lost.head.status, lost.body_bytes, broken=True)
            return
        keep = self._keeps()
        head_only = self.head.method == b"HEAD"
        fields, page = (b"", None) if location is None else (b"Location: %b\r\n" % location, None)
        if status == 401:
            fields, page = challenge.of(self.head, self.asked)
        body = page or f"{sentence}\n".encode()
        self.caller.write(rewrite.own_page(status, body, fields, close=not keep, head_only=head_only))
        self._finish(None, status, 0, close=not keep)

    def _finish(
        self, name: UpstreamName | None, status: int, body_bytes: int, *, close: bool = False,
        broken: bool = False,
    ) -> None:  # fmt: skip
        self._close()
        cause = self._pursuit.cause
        if cause is not None and name is not None and name is not self._first_asked:
            self._proxy.metrics.http_moved.labels(cause).inc()
        self._proxy.count(self, name, status, body_bytes, broken=broken)
        if broken:
            self.caller.abort()
        else:
            self.caller.exchange_ended(close=close)

    def _close(self) -> None:
        self.stage = Stage.ENDED
        self._cancel_timer()
        self._response.close()
        if self.body is not None:
            self.body.close()
            self.body = None

    def _forget_answer(self) -> None:
        self._cancel_timer()
        self._response.forget()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
