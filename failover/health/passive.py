"""What live traffic tells about one service of one upstream. Pure but for its lock: time comes from a Clock.

The data path calls `began`, `heard`, `ended` and `store_result` in its own thread; the checker reads the
facts in another. Answers: which parts succeeded or failed since the last look, is there a silence, did
anything come since. Leaves to `watch` what follows from it: live failures of anything but a store never
count, they trigger probes.

Where several processes carry the traffic, each has its own; the others' send a `Digest` and their facts to
that of the process that judges, which answers for all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Final

from failover.clock import Clock
from failover.health.slowness import UsualTime
from failover.model import Part

SILENCE_S: Final = 0.150
CROWD: Final = 3  # requests that wait together; fewer must be beyond their usual time
# Another process that waits tells so each 25 ms; one that was not heard for so long may itself stand still.
_DIGEST_HOLDS_S: Final = 0.5
_MAX_FACTS: Final = 1000  # older ones go: the checker looks every 25 ms, so it has died when this is reached


class Outcome(StrEnum):
    """How one request, association or operation at the upstream ended."""

    ANSWERED = "answered"  # whole, and no 5xx or failure status that speaks of the upstream
    FAILED = "failed"  # connection refused or died, 500 502 503 504 507, A-ABORT, failure status 0xA7xx …
    TIMED_OUT = "timed_out"
    LEFT = "left"  # the caller went away, or we moved it: says nothing


# Bound once: on Python 3.11 reading a member from its class costs 0.2 µs, and each request reads forty.
_ANSWERED: Final = Outcome.ANSWERED
_LEFT: Final = Outcome.LEFT


@dataclass(frozen=True, slots=True)
class LiveFact:
    """One request of `part` ended at `at_s`, well or not."""

    part: Part
    good: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class StoreFact:
    """A store of `caller` was accepted, or failed for a reason that does not speak of the object."""

    caller: str
    accepted: bool
    at_s: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Callers wait and the upstream says nothing. `part` is what most of them wait for."""

    waiting: int
    for_s: float
    part: Part

    def __str__(self) -> str:
        return f"{self.waiting} waiting, not a byte for {self.for_s * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class Digest:
    """What waits at the service, in one process, at one moment. Times are monotonic: of the machine."""

    waiting: Mapping[Part, int]
    unheard: Mapping[Part, int]
    """Of these, how many have no byte of their answer."""
    unheard_since_s: float | None
    """When the first of the unheard began."""
    beyond_from_s: float | None
    """From when on one of the unheard waits beyond its usual time."""
    heard_s: Mapping[Part, float]
    """When the last byte came."""


class _Waiting:
    """One for each request: written out, as what makes dataclasses is never compiled."""

    __slots__ = ("began_s", "heard", "part", "usual")

    def __init__(self, part: Part, usual: str, began_s: float) -> None:
        self.part = part
        self.usual = usual
        self.began_s = began_s
        self.heard = False


class LiveTraffic:
    """One per (upstream, service). Every call is cheap, synchronous and safe from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._next_token = 1
        self._waiting: dict[int, _Waiting] = {}
        self._usual: dict[str, UsualTime] = {}
        self._heard_s: dict[Part, float] = {}
        self._facts: list[LiveFact | StoreFact] = []
        self._elsewhere: dict[str, tuple[Digest, float]] = {}  # and when it came

    # -- the data path ------------------------------------------------------------------------------

    def began(self, part: Part, usual: str) -> int:
        """Something was sent to the upstream. Returns the token for `heard` and `ended`.

        `usual` names the kind of request whose usual time to the first byte is learnt: "qido", "C-FIND" …
        """
        now_s = self._clock.monotonic()
        with self._lock:
            token = self._next_token
            self._next_token += 1
            self._waiting[token] = _Waiting(part, usual, now_s)
            return token

    def heard(self, token: int) -> None:
        """A byte of the upstream arrived for `token`."""
        now_s = self._clock.monotonic()
        with self._lock:
            waiting = self._waiting.get(token)
            if waiting is not None:
                self._note_heard(waiting, now_s)

    def ended(self, token: int, outcome: Outcome) -> None:
        """Nothing more is awaited for `token`. An ended or unknown token is ignored."""
        now_s = self._clock.monotonic()
        with self._lock:
            waiting = self._waiting.pop(token, None)
            if waiting is None or outcome is _LEFT:
                return
            good = outcome is _ANSWERED
            if good:
                self._note_heard(waiting, now_s)
                last = self._facts[-1] if self._facts else None
                if isinstance(last, LiveFact) and last.good and last.part is waiting.part:
                    return  # it says nothing new to whoever looks at both at once
            self._add(LiveFact(waiting.part, good, now_s))

    def store_result(self, caller: str, accepted: bool) -> None:
        """A store of a caller ended: the one case in which live failures count.

        `caller` is the calling AE title or the address. `accepted=False` only for a failure that does not
        speak of the object (0xA7xx, 5xx, a death, a time-out). A permanent status (0xA9xx, 0xCxxx, 0x0122)
        is no call at all.
        """
        with self._lock:
            self._add(StoreFact(caller, accepted, self._clock.monotonic()))

    # -- the checker --------------------------------------------------------------------------------

    def take(self) -> list[LiveFact | StoreFact]:
        """Return what ended since the last call, oldest first; of good ones of a part in a row, the first."""
        with self._lock:
            facts, self._facts = self._facts, []
            return facts

    def silence(self) -> Silence | None:
        """Three or more wait, or one beyond its usual time, and not a byte came for 150 ms."""
        now_s = self._clock.monotonic()
        with self._lock:
            digests = [self._digest()]
            digests += [one for one, at_s in self._elsewhere.values() if now_s - at_s < _DIGEST_HOLDS_S]
        began = [one.unheard_since_s for one in digests if one.unheard_since_s is not None]
        if not began:
            return None
        # Silence begins with the last byte, or with the question when that is later.
        since_s = max(min(began), *(at_s for one in digests for at_s in one.heard_s.values()), 0.0)
        if now_s - since_s < SILENCE_S:
            return None
        unheard: dict[Part, int] = {}
        for one in digests:
            for part, count in one.unheard.items():
                unheard[part] = unheard.get(part, 0) + count
        waiting = sum(unheard.values())
        beyond = any(one.beyond_from_s is not None and now_s > one.beyond_from_s for one in digests)
        if waiting < CROWD and not beyond:
            return None
        return Silence(waiting, now_s - since_s, max(unheard, key=lambda part: unheard[part]))

    def unanswered_s(self, part: Part) -> float:
        """For how long the first of `part` that waits in this process has waited, and not a byte came."""
        now_s = self._clock.monotonic()
        with self._lock:
            began = [one.began_s for one in self._waiting.values() if one.part is part and not one.heard]
            if not began:
                return 0.0
            return now_s - max(min(began), *self._heard_s.values(), 0.0)

    def heard_since(self, since_s: float, part: Part | None = None) -> bool:
        """Whether a byte came after `since_s`, for `part` or for anything."""
        with self._lock:
            known = [self._heard_s, *(one.heard_s for one, _ in self._elsewhere.values())]
            if part is None:
                return any(at_s > since_s for times in known for at_s in times.values())
            return any(times.get(part, -1.0) > since_s for times in known)

    def waiting(self, part: Part | None = None) -> int:
        """How many requests are at the upstream now, of `part` or in all."""
        with self._lock:
            here = sum(part is None or w.part is part for w in self._waiting.values())
            there = sum(
                count
                for one, _ in self._elsewhere.values()
                for its, count in one.waiting.items()
                if part is None or its is part
            )
            return here + there

    # -- between processes ----------------------------------------------------------------------------

    def digest(self) -> Digest:
        """Return what waits here, for the process that judges."""
        with self._lock:
            return self._digest()

    def hear_elsewhere(self, source: str, digest: Digest, facts: Sequence[LiveFact | StoreFact]) -> None:
        """Take what process `source` tells: what waits there now, and what ended since it told last."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._elsewhere[source] = (digest, now_s)
            for fact in facts:
                self._add(fact)

    def forget(self, source: str) -> None:
        """`source` is gone, and what waited there with it."""
        with self._lock:
            self._elsewhere.pop(source, None)

    def _digest(self) -> Digest:
        waiting: dict[Part, int] = {}
        unheard: dict[Part, int] = {}
        since_s = beyond_s = None
        for one in self._waiting.values():
            waiting[one.part] = waiting.get(one.part, 0) + 1
            if one.heard:
                continue
            unheard[one.part] = unheard.get(one.part, 0) + 1
            from_s = one.began_s + self._usual_s(one.usual)
            since_s = one.began_s if since_s is None else min(since_s, one.began_s)
            beyond_s = from_s if beyond_s is None else min(beyond_s, from_s)
        return Digest(waiting, unheard, since_s, beyond_s, dict(self._heard_s))

    def _note_heard(self, waiting: _Waiting, now_s: float) -> None:
        self._heard_s[waiting.part] = now_s
        if not waiting.heard:
            waiting.heard = True
            usual = self._usual.get(waiting.usual)
            if usual is None:
                usual = self._usual[waiting.usual] = UsualTime()
            usual.learn(now_s - waiting.began_s)

    def _usual_s(self, usual: str) -> float:
        known = self._usual.get(usual)
        return UsualTime.UNKNOWN_S if known is None else known.limit_s

    def _add(self, fact: LiveFact | StoreFact) -> None:
        self._facts.append(fact)
        if len(self._facts) > _MAX_FACTS:
            del self._facts[: _MAX_FACTS // 2]
