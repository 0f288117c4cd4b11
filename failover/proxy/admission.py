"""Whom the backup may answer, apart from addresses (`access.web`, DESIGN 4.5): what a caller shows.

`knows` is asked for each request of an address that is not admitted: our own session, by a password or by the
identity provider, remembered credentials, a checked `Authorization: Basic`. A password that was not checked
yet takes a fifth of a second: `knows` says None, and `check` does it in a thread. `heard` learns from the
answers of the primary.

Of several web workers the router alone probes and writes: the others tell it of their `Candidate`s, and hear
from it what counts (`credentials.remembered`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from failover.aio import Signal, cancel_and_wait, spawn
from failover.clock import Clock
from failover.credentials.remembered import SHORTEST_COOKIE, Alike, Learnt, Remembered
from failover.credentials.sessions import Sessions
from failover.errors import UpstreamError
from failover.http import cookies
from failover.http.head import AnswerHead, RequestHead
from failover.proxy.challenge import Ways
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.passwords import Busy, PasswordCheck, Tried
from failover.proxy.provider import ProviderCheck

_log = structlog.get_logger(__name__)

Ask = Callable[[str, Mapping[str, str]], Awaitable[int]]
"""Ask the primary for a path with these fields and nothing else; return the status. Raises UpstreamError."""

# A checked Basic is believed for so long; a wrong one is not tried again for so long.
_BELIEVED_S: Final = 600.0
_MOST_CHECKED: Final = 4096
# The probe for credentials that were accepted: soon after, and never more than so many a second.
_PROBE_EVERY_S: Final = 0.5
_AFTER_TROUBLE_S: Final = 10.0
_WRITE_EVERY_S: Final = 10.0
# Like a session id, and nobody's: a primary that lets in who shows any cookie lets in everyone.
_MEANINGLESS: Final = "failover-probe=0000000000000000"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the primary accepted, to be remembered once a probe found that it refuses strangers."""

    host: bytes
    forwarded: bytes
    """The lines by which the primary is told who asks."""
    digest: bytes
    asked_s: float


class _Checked(NamedTuple):
    """A password that was looked at; it is looked at again when another one is kept for its user."""

    at_s: float
    user: str
    kept: str | None
    fits: bool


class Admission:
    """What a caller may show instead of an address."""

    def __init__(
        self,
        clock: Clock,
        *,
        passwords: PasswordCheck | None = None,
        provider: ProviderCheck | None = None,
        sessions: Sessions | None = None,
        remembered: Remembered | None = None,
        paths: Sequence[str] = (),
        prefix: str | None = None,
        ask: Ask | None = None,
        pass_on: Callable[[Candidate], None] | None = None,
    ) -> None:
        """`paths`: on which the primary's 2xx counts; the DICOMweb `prefix` among them means its searches.

        `pass_on` takes the candidates when another process probes; without it, we do, by `ask`.
        """
        self.passwords = passwords
        self.provider = provider
        self.ways = Ways(form=passwords is not None, provider=provider is not None)
        self.sessions = sessions
        self.remembered = remembered
        self._clock = clock
        self._ask = ask
        self._pass_on = pass_on
        self._searches = prefix is not None and prefix in paths
        self._paths = frozenset(path.encode() for path in paths if path != prefix)
        self._probe_paths = [path if path != prefix else f"{path}/studies?limit=1" for path in paths]
        self._secret = os.urandom(32)
        self._checked: OrderedDict[bytes, _Checked] = OrderedDict()
        self._checking: dict[bytes, asyncio.Task[Tried | None]] = {}
        self._wanted = Signal()
        self._open_said = False
        self._tasks: list[asyncio.Task[None]] = []

    # -- life

    def start(self) -> None:
        if self.provider is not None:
            self.provider.start()
        if self.remembered is not None and self._pass_on is None:
            self._tasks = [
                spawn(self._probe_on(), name="remembered probe"),
                spawn(self._write_on(), name="remembered write"),
            ]

    async def stop(self) -> None:
        await cancel_and_wait(*self._tasks)
        if self.remembered is not None and self._pass_on is None and self.remembered.changed:
            self.remembered.write(self.remembered.content())
        if self.passwords is not None:
            self.passwords.close()
        if self.provider is not None:
            await self.provider.close()

    def begin_anew(self, key: bytes, learnt: Learnt) -> None:
        """The process that probes and writes has begun anew, with this key: go by what it knows."""
        if self.sessions is not None:
            self.sessions.change_key(key)
        if self.remembered is not None:
            self.remembered.begin_anew(key, learnt)

    # -- who is it

    @property
    def logins(self) -> bool:
        """Whether a login would help."""
        return self.passwords is not None or self.provider is not None

    def knows(self, head: RequestHead, *, secure: bool) -> bool | None:
        """Whether what `head` shows lets it in; None: its password must be checked first."""
        if self.sessions is not None and self._session_of(head, secure=secure) is not None:
            return True
        if self.remembered is not None:
            digest = self._digest(head)
            if digest is not None and self.remembered.holds(digest):
                return True
        if self.passwords is None:
            return False
        shown = _basic(head.first(b"authorization"))
        return False if shown is None else self._believed(self._hashed(shown))

    def _believed(self, key: bytes) -> bool | None:
        """What is known of a password; None: it must be checked, again or for the first time."""
        assert self.passwords is not None
        known = self._checked.get(key)
        if known is None:
            return None
        is_old = self._clock.monotonic() - known.at_s > _BELIEVED_S
        if is_old or known.kept != self.passwords.kept_of(known.user):
            del self._checked[key]
            return None
        return known.fits

    def _session_of(self, head: RequestHead, *, secure: bool) -> str | None:
        assert self.sessions is not None
        wanted = cookies.SECURE_SESSION if secure else cookies.SESSION
        for name, token in cookies.pairs(head.every(b"cookie")):
            if name == wanted:
                return self.sessions.user_of(token)
        return None

    async def check(self, head: RequestHead, address: str) -> bool:
        """Check the password that `head` shows."""
        shown = _basic(head.first(b"authorization"))
        if self.passwords is None or shown is None:
            return False
        tried = await self.try_basic(*shown, address)
        return tried is not None and tried.fits

    async def try_basic(self, user: str, password: str, address: str) -> Tried | None:
        """Check a password, once for all who show it at the same time; None: it cannot be done now."""
        key = self._hashed((user, password))
        believed = self._believed(key)
        if believed is not None:
            return Tried(believed)
        task = self._checking.get(key)
        if task is None:
            task = spawn(self._try(key, user, password, address), name="check password")
            self._checking[key] = task
            task.add_done_callback(lambda _: self._checking.pop(key, None))
        return await asyncio.shield(task)

    async def _try(self, key: bytes, user: str, password: str, address: str) -> Tried | None:
        assert self.passwords is not None
        try:
            tried = await self.passwords.by_basic(user, password, address)
        except Busy:
            return None
        if tried.wait_s > 0:
            return tried  # not looked at: it may be right
        kept = self.passwords.kept_of(user)
        self._checked[key] = _Checked(self._clock.monotonic(), user, kept, tried.fits)
        if len(self._checked) > _MOST_CHECKED:
            self._checked.popitem(last=False)
        return tried

    def _hashed(self, shown: tuple[str, str]) -> bytes:
        """A dump of our memory shows no password."""
        user, password = shown
        joined = f"{len(user)}:{user}{password}".encode()
        return hashlib.blake2b(joined, key=self._secret, digest_size=16).digest()

    # -- what the primary says

    def heard(
        self, asked: Asked, head: RequestHead, answer: AnswerHead, forwarded: bytes, asked_s: float
    ) -> None:
        """The primary answered `head` with `answer`."""
        remembered, status = self.remembered, answer.status
        if remembered is None:
            return
        if status == 401 or (status == 403 and self._counts_for_all(asked, head)):
            digest = self._digest(head)
            if digest is not None:
                remembered.refused(digest)
            return
        if not 200 <= status < 300:
            return
        digest = self._digest(head)
        if digest is None:
            return
        if _takes_back(head, answer):
            remembered.refused(digest)
        elif self._counts(asked, head, answer):
            host = head.host or b""
            if not remembered.accepted(digest, asked_s, (host, forwarded)):
                return
            if self._pass_on is None:
                self._wanted.fire()
            else:
                self._pass_on(Candidate(host, forwarded, digest, asked_s))

    def candidate(self, one: Candidate) -> None:
        """Another process heard the primary accept it."""
        assert self.remembered is not None
        if self.remembered.accepted(one.digest, one.asked_s, (one.host, one.forwarded)):
            self._wanted.fire()
        elif not self.remembered.waits(one.digest):
            # Refused since, or one too many; whoever told it may come again with it.
            self.remembered.tell(Learnt(dropped=(one.digest,)))

    def _counts_for_all(self, asked: Asked, head: RequestHead) -> bool:
        """Whether a 403 speaks of the caller: not of one study that it may not see (RFC 9110 15.5.4)."""
        if head.method != b"GET":
            return False
        below = (asked.below_prefix or b"").partition(b"?")[0].strip(b"/")
        return asked.path in self._paths or (self._searches and below == b"studies")

    def _counts(self, asked: Asked, head: RequestHead, answer: AnswerHead) -> bool:
        if head.method != b"GET":
            return False
        if asked.path in self._paths:
            return True
        # A login page that comes as 200 is no search.
        is_page = (answer.first(b"content-type") or b"").lower().startswith(b"text/html")
        return self._searches and asked.route is WebRoute.QIDO and not is_page

    def _digest(self, head: RequestHead) -> bytes | None:
        """The hash of what `head` shows to the primary; heads with the same fields share it."""
        assert self.remembered is not None
        if "shown" not in head.derived:
            given = [cookies.of_the_primary(value) for value in head.every(b"cookie")]
            authorizations = head.every(b"authorization")
            head.derived["shown"] = (
                self.remembered.digest(cookies.pairs(given), authorizations[0] if authorizations else None)
                if len(authorizations) < 2
                else None
            )
        found: bytes | None = head.derived["shown"]
        return found

    # -- the probe

    async def _probe_on(self) -> None:
        assert self.remembered is not None
        while True:
            while (alike := self.remembered.to_probe) is None:
                await self._wanted.wait()
            clear = await self._probe(alike)
            await self._clock.sleep(_PROBE_EVERY_S if clear else _AFTER_TROUBLE_S)

    async def _probe(self, alike: Alike) -> bool:
        """Ask whether the primary refuses who asks like this and shows nothing. False: unclear."""
        assert self.remembered is not None
        began_s = self._clock.monotonic()
        try:
            refuses = await self._refuses(*alike)
        except UpstreamError as error:
            _log.info("unclear whether the primary refuses strangers", reason=str(error))
            return False
        self.remembered.probed(alike, refuses=refuses, began_s=began_s)
        if refuses is self._open_said:
            self._open_said = not refuses
            if not refuses:
                _log.warning("the primary lets strangers in: its logins are not remembered (access.web)")
        return True

    async def _refuses(self, host: bytes, forwarded: bytes) -> bool:
        """As the same caller, at the same name, who shows nothing, and then a cookie without a meaning."""
        assert self._ask is not None
        fields = {"Accept": "application/dicom+json, application/json, */*;q=0.1"}
        if host:
            fields["Host"] = host.decode("latin-1")
        for line in forwarded.decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(": ")
            if colon:
                fields[name] = value
        for path in self._probe_paths:
            for more in ({}, {"Cookie": _MEANINGLESS}):
                status = await self._ask(path, {**fields, **more})
                if status >= 500:
                    raise UpstreamError(f"the primary answers {status}")
                if status not in (401, 403):
                    return False
        return True

    async def _write_on(self) -> None:
        assert self.remembered is not None
        while True:
            await self._clock.sleep(_WRITE_EVERY_S)
            if self.remembered.changed:
                content = self.remembered.content()
                if not await asyncio.to_thread(self.remembered.write, content):
                    self.remembered.changed = True


def _takes_back(head: RequestHead, answer: AnswerHead) -> bool:
    """Whether the answer ends a cookie that the caller showed and that may be its session: a logout."""
    ended = [value for value in answer.every(b"set-cookie") if cookies.ends(value)]
    if not ended:
        return False
    shown = {name for name, value in cookies.pairs(head.every(b"cookie")) if len(value) >= SHORTEST_COOKIE}
    return any(value.partition(b"=")[0].strip(b" \t") in shown for value in ended)


def _basic(authorization: bytes | None) -> tuple[str, str] | None:
    """Return user and password of `Authorization: Basic` (RFC 7617), None when it is none."""
    scheme, _, encoded = (authorization or b"").strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return None
    return (user, password) if colon else None
