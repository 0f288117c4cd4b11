"""Who was let in by the primary within the last hours, so that it is let in while the primary is away.

Keeps keyed hashes of what callers showed, never a cookie or an `Authorization` itself, in memory and in
`state_dir/remembered.json` (the key lies in `state_dir/access.key`). What the primary accepted is at first a
candidate: it counts when a probe that began later found that the primary refuses who shows nothing. Who asks
that probe, and what counts as accepted, is for others.

Several processes keep one memory (`Learnt`): one of them asks the probe, writes, and tells the others what
counts; each tells what it heard the primary accept or refuse. What is told names the moment of the request
that was answered, or of the refusal, so that it does not matter in which order it comes.

What was shown is taken as one: all cookies and the `Authorization` together. Which of them opened the door is
known to the primary alone; taken apart, a cookie such as `lang=de` would open it too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog

from failover.clock import Clock, parse_rfc3339, rfc3339
from failover.durable import write_file
from failover.errors import StorageError

_log = structlog.get_logger(__name__)

FILE: Final = "remembered.json"
KEY_FILE: Final = "access.key"
_KEY_BYTES: Final = 32
# A clinic has fewer sessions in half a day; beyond it the oldest are forgotten. Some 3 MB.
MOST: Final = 16_384
# Candidates wait for one probe; what comes beyond is a candidate again at its next request.
MOST_CANDIDATES: Final = 4_096
# A session id is longer; anything shorter could be guessed, or is a language.
SHORTEST_COOKIE: Final = 16
_SCHEMES: Final = (b"basic ", b"bearer ")

Pair = tuple[bytes, bytes]
Known = tuple[bytes, float]
"""A digest, and the monotonic time of the request that the primary accepted, or of its refusal."""
Alike = tuple[bytes, bytes]
"""The name that was asked for and the lines that tell who asks: one probe tells for all who are alike."""


class _Candidate(NamedTuple):
    came_s: float
    asked_s: float
    alike: Alike


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one process has learnt and the others must know; they get the digests alone."""

    accepted: tuple[Known, ...] = ()
    """It counts now."""
    refused: tuple[Known, ...] = ()
    """It counts no more."""
    dropped: tuple[bytes, ...] = ()
    """Candidates that came to nothing: the next request makes them candidates again."""


Tell = Callable[[Learnt], None]


def _nobody(learnt: Learnt) -> None:
    """There is one process."""


def read_key(folder: Path) -> bytes:
    """Return the key in `folder`; a new one when there is none, which a disk that is full does not keep."""
    path = folder / KEY_FILE
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        if len(key) == _KEY_BYTES:
            return key
    except (OSError, ValueError):
        pass
    key = os.urandom(_KEY_BYTES)
    try:
        write_file(path, key.hex().encode() + b"\n")
    except StorageError as error:
        _log.error("the key of logins is not kept: all log in again after a restart", error=str(error))
    return key


class Remembered:
    """The hashes. Belongs to one thread; `write` alone may be called in another."""

    def __init__(self, folder: Path | None, key: bytes, clock: Clock, *, hold_s: float) -> None:
        """Read what is in `folder`; nothing readable there: nobody is remembered. None: another writes."""
        self._path = None if folder is None else folder / FILE
        self._key = key
        self._clock = clock
        self._hold_s = hold_s
        self._accepted: OrderedDict[bytes, float] = OrderedDict()  # and when, monotonic; oldest first
        self._candidates: dict[bytes, _Candidate] = {}  # oldest first
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self.changed = False
        """Something is not on disk yet."""
        self.tell: Tell = _nobody
        """Called with what the other processes must know."""
        if self._path is not None:
            self._read(self._path)

    def digest(self, cookies: Iterable[Pair], authorization: bytes | None) -> bytes | None:
        """Return the hash of what a caller shows; None when it shows nothing that could be a credential."""
        shown = sorted(set(cookies))
        told = (authorization or b"").lstrip()
        if told:
            # Digest, Negotiate and NTLM differ with each request: nothing to know again.
            if not told[:7].lower().startswith(_SCHEMES):
                return None
        elif not any(len(value) >= SHORTEST_COOKIE for _, value in shown):
            return None
        keyed = hmac.new(self._key, digestmod=hashlib.sha256)
        for piece in (told, *(part for pair in shown for part in pair)):
            keyed.update(len(piece).to_bytes(4, "big") + piece)
        return keyed.digest()[:16]

    def holds(self, digest: bytes) -> bool:
        """Whether the primary accepted it within the time."""
        at_s = self._accepted.get(digest)
        return at_s is not None and self._clock.monotonic() - at_s < self._hold_s

    def waits(self, digest: bytes) -> bool:
        """Whether it is a candidate."""
        return digest in self._candidates

    @property
    def to_probe(self) -> Alike | None:
        """For whom a probe is wanted first: as the oldest candidate. None: there is no candidate."""
        return next(iter(self._candidates.values())).alike if self._candidates else None

    @property
    def count(self) -> int:
        return len(self._accepted)

    # -- what the primary said

    def accepted(self, digest: bytes, asked_s: float, alike: Alike) -> bool:
        """The primary accepted it for a request of `asked_s`. Returns whether a probe is wanted for it."""
        now_s = self._clock.monotonic()
        at_s = self._accepted.get(digest)
        if at_s is not None and now_s - at_s < self._hold_s / 2:
            return False
        if self._refused.get(digest, -1.0) >= asked_s:
            return False  # an answer that was long on its way: it was refused since
        if digest in self._candidates:
            return False
        if len(self._candidates) >= MOST_CANDIDATES:
            return False
        self._candidates[digest] = _Candidate(now_s, asked_s, alike)
        return True

    def refused(self, digest: bytes, at_s: float | None = None) -> None:
        """The primary refused it at `at_s` (None: now), or it was given back: forgotten at once."""
        if at_s is None:
            at_s = self._clock.monotonic()
        self._refused[digest] = max(at_s, self._refused.get(digest, at_s))
        self._refused.move_to_end(digest)
        while len(self._refused) > MOST:
            self._refused.popitem(last=False)
        candidate = self._candidates.get(digest)
        mattered = candidate is not None and candidate.asked_s <= at_s
        if mattered:
            del self._candidates[digest]
        if self._accepted.get(digest, at_s + 1) <= at_s:
            del self._accepted[digest]
            self.changed = mattered = True
        if mattered:
            # Only then: strangers are refused as often as they like, and nobody knew them.
            self.tell(Learnt(refused=((digest, at_s),)))

    def probed(self, alike: Alike, *, refuses: bool, began_s: float) -> None:
        """A probe that began at `began_s` found whether the primary refuses who asks alike and shows nothing.

        Candidates that came later wait for the next one.
        """
        accepted, dropped = [], []
        for digest, (came_s, asked_s, its) in list(self._candidates.items()):
            if its != alike or came_s > began_s:
                continue
            del self._candidates[digest]
            if refuses:
                self._accept(digest, asked_s)
                accepted.append((digest, asked_s))
            else:
                dropped.append(digest)
        self._forget_old()
        if accepted or dropped:
            self.tell(Learnt(accepted=tuple(accepted), dropped=tuple(dropped)))

    def _accept(self, digest: bytes, asked_s: float) -> None:
        self._accepted[digest] = asked_s
        self._accepted.move_to_end(digest)
        self.changed = True

    # -- what others learnt

    def take(self, learnt: Learnt) -> None:
        """Another process has learnt this."""
        for digest in learnt.dropped:
            self._candidates.pop(digest, None)
        for digest, at_s in learnt.refused:
            self.refused(digest, at_s)
        for digest, asked_s in learnt.accepted:
            self._candidates.pop(digest, None)
            refused_s = self._refused.get(digest, -1.0)
            if refused_s >= asked_s:
                # Whoever told it has not heard yet that it was refused since.
                self.tell(Learnt(refused=((digest, refused_s),)))
            elif asked_s > self._accepted.get(digest, -1.0):
                self._accept(digest, asked_s)
        self._forget_old()

    def everything(self) -> Learnt:
        """Return all that counts now, for a process that begins."""
        self._forget_old()
        return Learnt(accepted=tuple(self._accepted.items()))

    def begin_anew(self, key: bytes, learnt: Learnt) -> None:
        """Know what `learnt` has and nothing else: the process that writes has begun anew."""
        if key != self._key:
            self._key = key
            self._refused.clear()
        self._accepted.clear()
        self._candidates.clear()
        self.take(learnt)

    def _forget_old(self) -> None:
        oldest_s = self._clock.monotonic() - self._hold_s
        while self._accepted:
            digest, at_s = next(iter(self._accepted.items()))
            if at_s > oldest_s and len(self._accepted) <= MOST:
                break
            del self._accepted[digest]
            self.changed = True

    # -- the disk

    def content(self) -> bytes:
        """Return the file as it should be now; what changes later is `changed` again."""
        self.changed = False
        self._forget_old()
        now_s = self._clock.monotonic()
        ages = {digest.hex(): round(now_s - at_s, 1) for digest, at_s in self._accepted.items()}
        told = {"version": 1, "written_at": rfc3339(self._clock.wall()), "ages_s": ages}
        return json.dumps(told).encode()

    def write(self, content: bytes) -> bool:
        """Write `content`; may be called in another thread. Returns whether it is on disk."""
        assert self._path is not None, "another process writes"
        try:
            write_file(self._path, content)
        except StorageError as error:
            _log.warning("remembered credentials not written", error=str(error))
            return False
        return True

    def _read(self, path: Path) -> None:
        try:
            told = json.loads(path.read_bytes())
            away_s = (self._clock.wall() - parse_rfc3339(told["written_at"])).total_seconds()
            ages = sorted(
                ((bytes.fromhex(name), float(age) + away_s) for name, age in told["ages_s"].items()),
                key=lambda one: -one[1],
            )
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            _log.warning("remembered credentials cannot be read: nobody is remembered")
            return
        if away_s < 0:
            # A clock that was set back would lengthen what is held.
            _log.warning("remembered credentials are from the future: nobody is remembered")
            return
        now_s = self._clock.monotonic()
        for digest, age_s in ages[-MOST:]:
            if 0 <= age_s < self._hold_s:
                self._accepted[digest] = now_s - age_s
