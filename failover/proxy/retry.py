"""Who is asked, who is asked next, and which answer counts (DESIGN 4.1, 4.2). Pure: time is an input.

One `Pursuit` lives as long as its request. The exchange tells it what happened; it says what to do next.
What an upstream can have at all is `rewrite.reach`, where the route points is `routing.selection.choose`.

Rules, in the order in which they are asked:
1. Ours (`/.failover/`) is the archive's affair alone.
2. A caller whom `access.web` does not admit is never answered by the backup: 401 where a login would help.
3. An upstream that failed in this round is not asked again before the next; rounds are 200 ms apart.
4. What may not be repeated is never sent a second time once a byte of it was sent.
5. While the primary is not down, an answer of the backup that is not whole does not count.
6. A failing answer is kept while the other one is asked; the other's good answer wins, else the kept one.
7. A retrieve that neither can give now is 503, never 404.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from failover.health.passive import Outcome
from failover.model import UpstreamName, Verdict
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.rewrite import Reach
from failover.routing.selection import Choice, Kind

PRIMARY: Final = UpstreamName.PRIMARY
BACKUP: Final = UpstreamName.BACKUP

RETRY_EVERY_S: Final = 0.200
# A killed archive is back within 3 s; a caller who waits longer than this is better told to come again.
GIVE_UP_S: Final = 5.0
# While the primary is suspect its verdict is awaited (policy.fail_after, by default 5 s), but not for ever.
PATIENCE_S: Final = 60.0
FAILING: Final = frozenset((500, 502, 503, 504, 507))


def outcome_of(status: int) -> Outcome:
    """Return what live traffic learns of an answer with `status`."""
    return Outcome.FAILED if status in FAILING else Outcome.ANSWERED


class Failure(StrEnum):
    """How an upstream failed without an answer; the code in `failover_http_moved_total`."""

    UNREACHABLE = "unreachable"  # no connection, or it died before a byte was sent
    BROKE = "broke"  # sent, and the connection died before the answer was whole
    TIMED_OUT = "timed_out"


class Action(Enum):
    SEND = "send"
    REDIRECT = "redirect"  # 302 to the viewer
    WAIT = "wait"  # for RETRY_EVERY_S, or until the route changes; then ask again
    PASS_KEPT = "pass_kept"
    SAY = "say"  # an answer of our own


@dataclass(frozen=True, slots=True)
class Step:
    action: Action
    upstream: UpstreamName | None = None
    fresh: bool = False
    """SEND: only on a connection made for it."""
    status: int = 0
    sentence: str = ""


class Judgement(Enum):
    """What becomes of an answer, told from its head, or (the last two) also from its body."""

    PASS = "pass"
    READ = "read"  # its body decides: hold it whole and ask `judge_body`
    KEEP = "keep"  # hold it whole, and ask the other one
    DROP = "drop"  # it does not count: ask on


# Bound once: on Python 3.11 reading a member from its class costs 0.2 µs, and each request reads forty.
SEND: Final = Action.SEND
PASS: Final = Judgement.PASS
STORE: Final = Kind.STORE
_READ: Final = Kind.READ
_ASK: Final = Reach.ASK
_VIEWER: Final = Reach.VIEWER
_NEVER: Final = Reach.NEVER
_DOWN: Final = Verdict.DOWN
_SUSPECT: Final = Verdict.SUSPECT

_NOBODY: Final[frozenset[UpstreamName]] = frozenset()
_SEND: Final = {name: Step(Action.SEND, name) for name in UpstreamName}
_SEND_FRESH: Final = {name: Step(Action.SEND, name, fresh=True) for name in UpstreamName}
_WAIT: Final = Step(Action.WAIT)
_PASS_KEPT: Final = Step(Action.PASS_KEPT)
_REDIRECT: Final = Step(Action.REDIRECT, status=302, sentence="the viewer of the archive answers now")


def _say(status: int, sentence: str) -> Step:
    return Step(Action.SAY, status=status, sentence=sentence)


class Pursuit:
    """What was tried for one request, and what follows."""

    __slots__ = (
        "_admitted", "_choice", "_down", "_kept_lies", "_logins", "_not_counted", "_not_held", "_reach",
        "_stuck_since_s", "_suspect", "_timed_out", "_tried", "asked", "body_kept", "cause", "kept", "unsure",
    )  # fmt: skip

    def __init__(
        self,
        asked: Asked,
        reach: Mapping[UpstreamName, Reach],
        *,
        admitted: bool | None,
        logins: bool = False,
    ) -> None:
        """`admitted` None: what the caller shows must still be checked. `logins`: a stranger could log in."""
        self.asked = asked
        self.unsure = admitted is None
        """Not admitted yet: it waits for what `settle` says, and is not refused before."""
        self.body_kept = True
        """A store: whether its whole body can be sent again."""
        self.kept: UpstreamName | None = None
        """Whose failing answer is kept."""
        self.cause: str | None = None
        """Why it was moved last: the label in `failover_http_moved_total`."""
        self._reach = reach
        self._admitted = bool(admitted)
        self._logins = logins
        self._choice: Choice | None = None
        self._down = False
        self._suspect = False
        self._tried: frozenset[UpstreamName] = _NOBODY
        self._not_counted = False
        self._not_held = False
        self._kept_lies = False
        self._timed_out = False
        self._stuck_since_s: float | None = None

    # -- where to

    def see(self, choice: Choice, primary: Verdict | None, *, forced: bool = False) -> None:
        """Take notice of the route and of the verdict on the primary.

        `forced`: an operator points at the primary, whatever its verdict.
        """
        before = self._choice
        if before is not None and (
            before.first is not choice.first
            or before.rescue is not choice.rescue
            or before.provisional is not choice.provisional
        ):
            self._tried = _NOBODY
            self._not_counted = self._not_held = False
        self._choice = choice
        self._down = primary is _DOWN and not forced
        self._suspect = primary is _SUSPECT

    def next(self, now_s: float) -> Step:
        """Return what to do now. `see` comes first."""
        choice = self._choice
        if (
            choice is not None and choice.first is PRIMARY and not self._tried
            and self._reach.get(PRIMARY) is _ASK and not self.asked.ours
        ):  # fmt: skip
            # Most requests; what follows says the same, at length.
            return _SEND[PRIMARY] if self.asked.kind is _READ else _SEND_FRESH[PRIMARY]
        order = self._order()
        for upstream in order:
            if upstream in self._tried:
                continue
            if self._reach[upstream] is _VIEWER:
                return _REDIRECT
            return _SEND[upstream] if self.asked.kind is _READ else _SEND_FRESH[upstream]
        if self.kept is not None:
            return self._give_kept()
        if not order:
            return _WAIT if self.unsure else self._refuse()
        if self._not_held:
            return _say(503, "neither archive can give this now")
        if self._timed_out:
            return _say(504, "no answer within the time-out")
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
        if now_s - self._stuck_since_s >= (PATIENCE_S if self._suspect else GIVE_UP_S):
            return _say(503, "no archive could take this request")
        return _WAIT

    def settle(self, *, admitted: bool) -> None:
        """What the caller shows has been checked."""
        self.unsure = False
        self._admitted = admitted

    def new_round(self) -> None:
        """The wait is over: who failed may be asked again; what did not count would not count again."""
        self._tried = _NOBODY
        if self._not_counted:
            self._tried |= {BACKUP}

    def _order(self) -> list[UpstreamName]:
        choice = self._choice
        assert choice is not None, "see() comes first"
        if self.asked.ours:
            return [BACKUP] if self._admitted and self._reach.get(BACKUP) is _ASK else []
        order = [name for name in (choice.first, choice.rescue) if name is not None and self._may(name)]
        if order == [PRIMARY] and self._down and choice.first is BACKUP:
            return []  # it would only be asked because the backup may not be
        return order

    def _may(self, upstream: UpstreamName) -> bool:
        reach = self._reach.get(upstream, _NEVER)
        if reach is _NEVER or (upstream is BACKUP and not self._admitted):
            return False
        assert self._choice is not None
        # Rule 5: a 302 to the viewer is not whole.
        return reach is not _VIEWER or not self._choice.provisional

    def _refuse(self) -> Step:
        if self.asked.ours:
            if self._reach.get(BACKUP) is not _ASK:
                return _say(404, "there is no viewer here")
            if self._logins:
                return _say(401, "the archive wants a login")
            return _say(403, "the archive does not answer this address (access.web)")
        if not self._admitted:
            if self._logins and self._a_login_would_help():
                return _say(401, "the primary is down, and the archive wants a login")
            return _say(503, "the primary is down, and the archive does not answer this address (access.web)")
        return _say(503, "only the primary can answer this, and it is not available")

    def _a_login_would_help(self) -> bool:
        choice = self._choice
        assert choice is not None
        reach = self._reach.get(BACKUP, _NEVER)
        return BACKUP in (choice.first, choice.rescue) and reach is not _NEVER

    def _give_kept(self) -> Step:
        if self._kept_lies:
            return _say(502, "the archive said success and stored nothing")
        return _PASS_KEPT

    @property
    def may_hedge(self) -> bool:
        """Whether the backup may be asked beside the primary, which is asked now. `see` comes first."""
        choice = self._choice
        assert choice is not None
        return (
            choice.first is PRIMARY
            and choice.rescue is BACKUP
            and choice.provisional
            and not self._tried
            and self._may(BACKUP)
            and self._reach[BACKUP] is _ASK
        )

    # -- what happened

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again after a byte of it was sent."""
        kind = self.asked.kind
        return kind is _READ or (kind is STORE and self.body_kept)

    def failed(
        self, upstream: UpstreamName, failure: Failure, *, sent: bool, reused: bool, now_s: float
    ) -> Step:
        """`upstream` gave no whole answer. `reused`: on a kept connection that may simply have been stale."""
        self.cause = failure.value
        if sent and not self.repeatable:
            if failure is Failure.TIMED_OUT:
                return _say(504, "no answer within the time-out; it may still have been carried out")
            return _say(502, "the connection died; the request may have been carried out")
        if reused and failure is Failure.BROKE:
            return _SEND_FRESH[upstream]
        if failure is Failure.TIMED_OUT:
            self._timed_out = True
        self._tried |= {upstream}
        return self.next(now_s)

    def ended_at(self, upstream: UpstreamName, *, sent: bool, now_s: float) -> Step:
        """An operator takes work off `upstream`, the grace is over. `see` comes first."""
        self.cause = "work_ended"
        if sent and not self.repeatable:
            return _say(502, "an operator took the upstream away; the request may have been carried out")
        self._tried |= {upstream}
        return self.next(now_s)

    def cannot_resume(self, upstream: UpstreamName, now_s: float) -> Step:
        """`upstream` answered, but not with what the caller has the beginning of."""
        self._tried |= {upstream}
        step = self.next(now_s)
        # Asked again, it would answer the same: a caller who sees the break at once asks anew at once.
        return _say(502, "nobody has the rest of this answer") if step is _WAIT else step

    def leaves(self, upstream: UpstreamName, verdict: Verdict | None, *, sent: bool) -> bool:
        """Whether a request that waits at `upstream`, whose verdict is now `verdict`, goes elsewhere.

        `see` comes first. True also when there is nowhere to go: `next` then says so.
        """
        if verdict not in (_SUSPECT, _DOWN) or (sent and not self.repeatable):
            return False
        if self.asked.ours:
            return False
        order = self._order()
        if any(name is not upstream and name not in self._tried for name in order):
            if order[0] is upstream:
                return False  # both are bad: the route still points here
            self.cause = f"{upstream}_{verdict}"
            return True
        return not order

    def judge(self, upstream: UpstreamName, status: int) -> Judgement:
        """Return what becomes of an answer of `upstream` with `status`. Called once its head is here."""
        choice, kind = self._choice, self.asked.kind
        assert choice is not None
        if self.asked.ours or (kind is not _READ and not self.repeatable):
            return PASS
        if self.kept is not None or (upstream is BACKUP and choice.provisional):
            if not _is_good(status):
                return Judgement.DROP
            reads_body = kind is STORE or (upstream is BACKUP and self.asked.route is WebRoute.QIDO)
            return Judgement.READ if reads_body else PASS
        if status in FAILING and self._other_left(upstream):
            return Judgement.KEEP
        not_held = (upstream is BACKUP and status in (404, 410)) or (self._not_held and status in FAILING)
        if not_held and self.asked.retrieve:
            return Judgement.DROP
        if kind is STORE and 200 <= status < 300 and status != 202:
            return Judgement.READ
        return PASS

    def judge_body(self, upstream: UpstreamName, *, lies: bool, empty: bool) -> Judgement:
        """As `judge`, after READ. `lies`: a store that acknowledged nothing. `empty`: no match was found."""
        choice = self._choice
        assert choice is not None
        if lies:
            if self.kept is not None:
                return Judgement.DROP
            self._kept_lies = True
            return Judgement.KEEP
        if empty and upstream is BACKUP and choice.provisional:
            return Judgement.DROP
        return PASS

    def answer_kept(self, upstream: UpstreamName, now_s: float) -> Step:
        """The failing answer of `upstream` is here, whole, and kept."""
        self.cause = "store_not_acknowledged" if self._kept_lies else "status"
        self.kept = upstream
        self._tried |= {upstream}
        # Its body may have outgrown the spool while the failing answer came: then it would go on with a hole.
        return self.next(now_s) if self.repeatable else self._give_kept()

    def answer_dropped(self, upstream: UpstreamName, now_s: float) -> Step:
        """The answer of `upstream` did not count."""
        self._tried |= {upstream}
        if self.kept is not None and not self.repeatable:
            return self._give_kept()
        if self.kept is None and upstream is BACKUP:
            assert self._choice is not None
            if self._choice.provisional:
                self._not_counted = True
            else:
                self._not_held = True
                self.cause = "not_held"
                if not self._other_left(upstream):
                    return _say(503, "the primary is not available, and the archive does not hold this")
        return self.next(now_s)

    def _other_left(self, upstream: UpstreamName) -> bool:
        return any(
            name is not upstream and name not in self._tried and self._reach[name] is _ASK
            for name in self._order()
        )


def _is_good(status: int) -> bool:
    """Whole by its status: no 204, 206, redirect or error."""
    return 200 <= status < 300 and status not in (204, 206)
