"""How an answer comes to the caller: judged, held or streamed, resumed, set aside or passed on.

What is judged how is in `retry`, how it is delivered in `hold`, what continues a broken one in `resume`. One
per exchange, made when an answer begins that `whole` did not pass on.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from failover.aio import spawn
from failover.errors import ProtocolError
from failover.health.passive import Outcome
from failover.http.head import AnswerHead
from failover.model import UpstreamName
from failover.proxy import hold, leads, resume, rewrite, silence, splice, stores, stow
from failover.proxy.answer import Answer
from failover.proxy.attempt import Attempt
from failover.proxy.copies import WebCopy
from failover.proxy.hold import Delivery
from failover.proxy.passage import CannotContinue, is_encoded
from failover.proxy.retry import FAILING, PASS, PRIMARY, STORE, Failure, Judgement, outcome_of
from failover.proxy.stage import ANSWERING, Stage
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from failover.proxy.exchange import Exchange

_log = structlog.get_logger(__name__)
_ANSWERED: Final = Outcome.ANSWERED


def whole(exchange: Exchange, attempt: Attempt, head: AnswerHead, body: bytes) -> bool:
    """Most answers come in one read. When there is nothing to judge it goes on at once.

    What it does is what `began`, `data` and `ended` would do for such an answer.
    """
    proxy, caller, asked = exchange.proxy, exchange.caller, exchange.asked
    name, status = attempt.name, head.status
    if asked.kind is STORE or status in FAILING or not exchange.response.is_empty:
        return False
    if exchange.pursuit.judge(name, status) is not PASS:
        return False
    upstream = attempt.side.upstream
    if asked.below_prefix is not None and leads.rewriter(asked, head, upstream, caller.place) is not None:
        return False
    if name is PRIMARY and proxy.learns:
        _learn(exchange, head)
    exchange.leave(_ANSWERED, answered=True)
    keep = exchange.keeps()
    exchange.stage = ANSWERING
    caller.write(rewrite.whole_answer_head(head, upstream, caller.place, keep=keep) + body)
    exchange.finish(name, status, len(body), close=not keep)
    return True


def _learn(exchange: Exchange, head: AnswerHead) -> None:
    """What the primary answers tells whom it knows."""
    admission = exchange.proxy.admission
    assert admission is not None
    admission.heard(exchange.asked, exchange.head, head, exchange.forwarded, exchange.started_s)


class Answering:
    __slots__ = ("_exchange", "_proxy", "_response")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._proxy = exchange.proxy
        self._response = exchange.response

    # -- as it comes

    def began(self, attempt: Attempt, head: AnswerHead) -> None:
        exchange, proxy, name = self._exchange, self._proxy, attempt.name
        if self._response.lost is not None:
            self._resume(attempt, head)
            return
        if name is PRIMARY and proxy.learns:
            _learn(exchange, head)
        judgement = exchange.pursuit.judge(name, head.status)
        if judgement is Judgement.DROP:
            stores.note(exchange, name, head.status, lies=False)
            exchange.leave(outcome_of(head.status))
            exchange.do(exchange.pursuit.answer_dropped(name, proxy.clock.monotonic()))
            return
        plan = hold.plan(exchange.asked, head, judged=judgement is not Judgement.PASS)
        self._response.answer = answer = Answer(head, attempt.side.upstream, judgement, plan, proxy.held)
        answer.urls = leads.rewriter(exchange.asked, head, answer.upstream, exchange.caller.place)
        if plan.delivery is Delivery.STREAM:
            self._stream()

    def data(self, data: bytes) -> None:
        answer = self._response.answer
        assert answer is not None
        if answer.begun:
            try:
                answer.data(self._exchange.caller, data)
            except ProtocolError as error:
                self._does_not_fit(error)
                return
            if answer.passage is not None and answer.passage.catches_up:
                self._let_others_in()
        elif not answer.hold(data):
            if answer.over_total:
                self._proxy.metrics.http_unprotected.labels("hold_full").inc()
            self._stream()

    def _let_others_in(self) -> None:
        """Read on when all others had their turn: on uvloop one connection may read 4 MB in a row, and what
        is compared with what the caller has goes nowhere that would pause it."""
        attempt = self._exchange.attempt
        if attempt is not None and attempt.connection is not None and not attempt.connection.reading_paused:
            attempt.connection.pause_reading()
            asyncio.get_running_loop().call_soon(self._exchange.guarded, partial(self._read_on, attempt))

    def _read_on(self, attempt: Attempt) -> None:
        exchange = self._exchange
        if (
            attempt is exchange.attempt
            and attempt.connection is not None
            and not exchange.caller.write_paused
        ):
            attempt.connection.resume_reading()

    def unfinished(self) -> None:
        """The read that brought the head brought no end: a held answer without a length gets its time."""
        answer, attempt = self._response.answer, self._exchange.attempt
        if answer is None:
            return
        if not answer.begun:
            if answer.plan.limit_s is not None:
                self._exchange.call_later(answer.plan.limit_s, self._held_long_enough)
        elif attempt is not None and attempt.connection is not None:
            splice.begin(answer, attempt.connection, self._exchange.caller)

    def _held_long_enough(self) -> None:
        answer = self._response.answer
        if answer is not None and not answer.begun:
            self._stream()

    def _stream(self) -> None:
        """From here on the caller gets each byte as it comes."""
        exchange = self._exchange
        exchange.cancel_timer()
        exchange.stage = ANSWERING
        try:
            self._response.stream(exchange.head, exchange.asked, keep=exchange.keeps())
        except ProtocolError as error:
            self._does_not_fit(error)
            return
        if exchange.caller.write_paused:
            exchange.caller_paused()

    def _resume(self, attempt: Attempt, head: AnswerHead) -> None:
        """What begins with `head` shall give the rest of what was lost."""
        exchange = self._exchange
        upstream = attempt.side.upstream
        urls = leads.rewriter(exchange.asked, head, upstream, exchange.caller.place)
        if not self._response.resume(head, urls, vouched=upstream.name is PRIMARY or upstream.is_archive):
            exchange.leave(outcome_of(head.status))
            step = exchange.pursuit.cannot_resume(attempt.name, self._proxy.clock.monotonic())
            if not silence.back_to_parked(exchange):
                exchange.do(step)
            return
        exchange.stage = ANSWERING
        self._proxy.metrics.http_resumed.labels(attempt.name).inc()
        if exchange.caller.write_paused:
            exchange.caller_paused()

    def _does_not_fit(self, error: ProtocolError) -> None:
        """The body of an answer has no reading, or is not what the caller has the beginning of."""
        exchange = self._exchange
        attempt, answer = exchange.attempt, self._response.answer
        assert attempt is not None
        assert answer is not None
        if isinstance(error, CannotContinue):
            _log.warning("answer broken", reason=str(error), route=exchange.asked.route.value)
            exchange.leave(Outcome.ANSWERED)
            exchange.finish(attempt.name, answer.head.status, answer.body_bytes, broken=True)
        else:
            exchange.failed(attempt, Failure.BROKE)

    # -- its end

    def ended(self, attempt: Attempt) -> None:
        exchange, answer = self._exchange, self._response.answer
        assert answer is not None
        name, status = attempt.name, answer.head.status
        exchange.cancel_timer()
        if answer.begun:
            try:
                answer.end(exchange.caller)
            except ProtocolError as error:
                self._does_not_fit(error)
                return
            stores.note(exchange, name, status, lies=False)
            exchange.leave(outcome_of(status), answered=True)
            exchange.finish(name, status, answer.body_bytes, close=answer.close)
        elif not self._is_whole(answer):
            exchange.failed(attempt, Failure.BROKE)
        else:
            self._settle(name, answer)

    def _settle(self, name: UpstreamName, answer: Answer) -> None:
        """A held answer is here: it goes on, or aside, or does not count."""
        exchange, status, judgement = self._exchange, answer.head.status, answer.judgement
        pursuit, now_s = exchange.pursuit, self._proxy.clock.monotonic()
        lies = False
        if judgement is Judgement.READ:
            # What comes compressed although nobody asked for it cannot be read: then its status counts.
            readable = exchange.asked.kind is Kind.STORE and not is_encoded(answer.head)
            lies = readable and stow.acknowledges_nothing(status, answer.body)
            searched = exchange.head.method == b"GET" and not lies
            empty = searched and hold.is_empty_search(exchange.asked, answer.body)
            judgement = pursuit.judge_body(name, lies=lies, empty=empty)
        stores.note(exchange, name, status, lies=lies)
        exchange.leave(Outcome.FAILED if lies else outcome_of(status), answered=True)
        if judgement is Judgement.KEEP:
            self._response.keep()
            exchange.do(pursuit.answer_kept(name, now_s))
        elif judgement is Judgement.DROP:
            self._response.forget()
            exchange.do(pursuit.answer_dropped(name, now_s))
        elif (copy := stores.copy(exchange, name, answer)) is not None:
            exchange.stage = Stage.COPYING
            spawn(self._pass_when_copied(copy, answer), name="store waits for its copy")
        else:
            exchange.pass_whole(answer)

    def _is_whole(self, answer: Answer) -> bool:
        """Whether a held body is all of it, as far as can be told.

        Without a length or chunks only its end says so, and a killed upstream ends it too: where it has parts
        or items, these tell. Anything else ends for the caller as it ended here: with the connection.
        """
        if answer.proven or self._exchange.head.method != b"GET":
            return True
        parts = resume.passage(self._exchange.asked, answer.head)
        if parts is None:
            return True
        try:
            parts.receive(answer.body)
            parts.end()
        except ProtocolError:
            return False
        answer.proven = True
        return True

    async def _pass_when_copied(self, copy: WebCopy, answer: Answer) -> None:
        await copy.wait()
        if self._exchange.stage is Stage.COPYING:
            self._exchange.guarded(partial(self._exchange.pass_whole, answer))
