"""The one response that a caller gets: the answer on its way, and what is set aside while the other is asked.

At most one answer begins. One that began and lost its upstream is `lost` until the other gives its rest; a
failing one is `kept` until the other's is here; `parked` is an attempt that was silent inside its answer.
Nothing is decided here. One per connection of a caller; empty between two requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from failover.health.passive import Outcome
from failover.http.head import AnswerHead, RequestHead
from failover.proxy import resume
from failover.proxy.answer import Answer
from failover.proxy.classify import Asked
from failover.proxy.leads import JsonUrls
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from failover.proxy.attempt import Attempt
    from failover.proxy.caller import CallerConnection


class Response:
    __slots__ = ("_caller", "answer", "kept", "lost", "parked")

    def __init__(self, caller: CallerConnection) -> None:
        self._caller = caller
        self.answer: Answer | None = None
        """What comes from the upstream that is asked now."""
        self.kept: Answer | None = None
        """A failing one, whole."""
        self.lost: Answer | None = None
        """Begun at an upstream that is lost, or that is parked; its rest is looked for."""
        self.parked: Attempt | None = None
        """Suspect in the middle of `lost`; the other is asked first."""

    @property
    def is_empty(self) -> bool:
        """No answer has begun, and none is set aside."""
        return self.answer is None and self.kept is None and self.lost is None and self.parked is None

    def stream(self, request: RequestHead, asked: Asked, *, keep: bool) -> None:
        """From here on the caller gets each byte as it comes. Raises ProtocolError."""
        answer = self.answer
        assert answer is not None
        self.forget_kept()
        if request.method == b"GET" and asked.kind is Kind.READ:
            answer.passage = resume.passage(asked, answer.head)
        answer.begin(self._caller, request, keep=keep)

    def keep(self) -> None:
        """The answer, a failing one, is whole: set it aside."""
        self.kept, self.answer = self.answer, None

    def take_kept(self) -> Answer:
        kept, self.kept = self.kept, None
        assert kept is not None
        return kept

    # -- the rest of a broken one

    def lose(self) -> bool:
        """The upstream of the answer is gone. Whether the other may give it, or its rest."""
        answer = self.answer
        if answer is None or not answer.begun:
            self.forget()
            return True
        if answer.passage is None:
            return False
        self.lost, self.answer = answer, None
        return True

    def resume(self, head: AnswerHead, urls: JsonUrls | None, *, vouched: bool) -> bool:
        """What begins with `head` shall give the rest of what was lost. Whether it may.

        `urls` leads its URLs back; `vouched` as in `Passage.resume`.
        """
        lost = self.lost
        assert lost is not None
        assert lost.passage is not None
        if not lost.may_turn_to(urls) or not lost.passage.resume(head, vouched=vouched):
            return False
        self.leave_parked()
        lost.turn_to(self._caller, urls)
        self.answer, self.lost = lost, None
        return True

    def park(self, attempt: Attempt) -> None:
        """`attempt` is silent inside the answer: it waits where it is."""
        if attempt.connection is not None:
            attempt.connection.pause_reading()
        self.parked = attempt
        self.lost, self.answer = self.answer, None

    def unpark(self) -> Attempt | None:
        """The other has nothing that fits: go on where we were. None: there is no such place."""
        parked, self.parked = self.parked, None
        if parked is None:
            return None
        self.answer, self.lost = self.lost, None
        if parked.connection is not None and not self._caller.write_paused:
            parked.connection.resume_reading()
        return parked

    def leave_parked(self) -> None:
        parked, self.parked = self.parked, None
        if parked is not None:
            parked.leave(Outcome.FAILED)

    # -- the end

    def forget(self) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            answer.forget()

    def forget_kept(self) -> None:
        kept, self.kept = self.kept, None
        if kept is not None:
            kept.forget()

    def close(self) -> None:
        if not self.is_empty:
            self.forget()
            self.forget_kept()
            self.leave_parked()
            self.lost = None
