"""`/.failover/login` and `/.failover/logout` on `listen.web`: answered by the router, never by an upstream.

What lies at `/.failover/oidc/` is in `provider_pages`, and shares the plumbing.

Stands in the place of an exchange: the caller's connection hands it the body of the form. What a login opens
is the affair of `admission`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import structlog

from failover.aio import spawn
from failover.credentials.sessions import LIFETIME_S
from failover.http import cookies
from failover.http.head import RequestHead
from failover.model import UpstreamName
from failover.proxy import faults, rewrite
from failover.proxy.admission import Admission
from failover.proxy.challenge import (
    FORM,
    LOGIN,
    PAGE_FIELDS,
    PROVIDER_CALLBACK,
    PROVIDER_LOGIN,
    Ways,
    own_path,
    page,
)
from failover.proxy.classify import OURS, Asked, WebRoute
from failover.proxy.passwords import Busy
from failover.proxy.stage import Stage
from failover.routing.selection import Kind

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from failover.proxy.caller import CallerConnection
    from failover.proxy.server import Proxy

_log = structlog.get_logger(__name__)

LOGOUT: Final = OURS + b"logout"
# A form of two short fields; more is none of ours.
_FORM_BYTES: Final = 8192
_LEFT: Final = 499


def own(target: bytes, ways: Ways) -> bytes | None:
    """Return which of our paths `target` is, None: none of them."""
    path = target.partition(b"?")[0]
    if path in (LOGIN, LOGOUT):
        return path
    return path if ways.provider and path in (PROVIDER_LOGIN, PROVIDER_CALLBACK) else None


class LoginExchange:
    """One request for one of our two paths. Has the face of an `Exchange` towards the caller's connection."""

    __slots__ = (
        "_form",
        "admission",
        "asked",
        "body",
        "caller",
        "head",
        "proxy",
        "stage",
        "started_s",
        "whole",
    )  # fmt: skip

    def __init__(
        self, proxy: Proxy, admission: Admission, caller: CallerConnection, head: RequestHead, path: bytes,
        *, whole: bool, started_s: float,
    ) -> None:  # fmt: skip
        """`whole`: it has no body."""
        self.proxy = proxy
        self.admission = admission
        self.caller = caller
        self.head = head
        self.asked = Asked(WebRoute.PAGE, Kind.OTHER, path, ours=True)
        self.stage = Stage.WAITING
        self.started_s = started_s
        self.body = None
        self._form = b""
        self.whole = whole

    # -- what the caller's connection calls

    def begin(self) -> None:
        method, path = self.head.method, self.asked.path
        if method == b"POST":
            if self.head.expects_continue and not self.whole:
                self.caller.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self.whole:
                self._posted()
        elif path == LOGIN and method in (b"GET", b"HEAD"):
            to = self.query().get("to", [""])[0].encode("latin-1", "replace")
            self.answer(200, page(to, self.admission.ways))
        else:
            self.answer(405, b"", b"Allow: POST\r\n" if path == LOGOUT else b"Allow: GET, HEAD, POST\r\n")

    def query(self) -> dict[str, list[str]]:
        """What stands behind the `?`; nothing when it is more than we ever write."""
        try:
            return parse_qs(urlsplit(self.head.target.decode("latin-1")).query, max_num_fields=16)
        except ValueError:
            return {}

    def body_data(self, data: bytes) -> None:
        if self.stage is Stage.ENDED:
            return
        self._form += data
        if len(self._form) > _FORM_BYTES:
            self.answer(413, b"this is no login\n")

    def body_ended(self) -> None:
        self.whole = True
        if self.stage is not Stage.ENDED and self.head.method == b"POST":
            self._posted()

    def sweep(self, idle_s: float) -> None:
        if not self.whole and idle_s > self.proxy.listen.body_idle:
            self.answer(408, b"the form took too long\n")

    def caller_left(self) -> None:
        if self.stage is not Stage.ENDED:
            self.stage = Stage.ENDED
            self.proxy.count(self, None, _LEFT, 0, broken=True)

    def route_changed(self) -> None:
        """No route leads to us."""

    def end_at(self, upstream: UpstreamName) -> bool:
        return False

    def caller_paused(self) -> None:
        """The page is short: what is written waits in the transport."""

    def caller_writable(self) -> None:
        """See `caller_paused`."""

    def from_caller(self, data: bytes) -> None:
        raise AssertionError("this is no tunnel")

    # -- the form

    def _posted(self) -> None:
        if not self._is_of_this_site():
            self.answer(403, b"this form comes from another site\n")
        elif self.asked.path == LOGOUT:
            self.answer(303, b"", self.session_cookie(b"", 0) + b"Location: %b\r\n" % LOGIN)
        elif self.admission.passwords is None:
            self.answer(405, b"", b"Allow: GET, HEAD\r\n")
        else:
            self.work(self._log_in())

    def work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Go on in a task of its own; a fault in it ends the wait."""
        spawn(self._guarded(coroutine), name="log in")

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Exception as error:
            self.fault(error)

    def fault(self, error: Exception) -> None:
        """Our own code failed: see `Exchange.fault`."""
        faults.report(error)
        self.answer(500, b"the router failed at this request\n")

    def _is_of_this_site(self) -> bool:
        """A page elsewhere must not log anybody in or out (Fetch metadata; RFC 6454 for older browsers)."""
        site = self.head.first(b"sec-fetch-site")
        if site is not None and site not in (b"same-origin", b"none"):
            return False
        origin = self.head.first(b"origin")
        place = self.caller.place
        if origin is None or place.host is None:
            return True
        return origin.lower() == b"%b://%b" % (place.scheme, place.host.lower())

    async def _log_in(self) -> None:
        admission, address = self.admission, self.caller.address
        passwords, sessions = admission.passwords, admission.sessions
        assert passwords is not None
        assert sessions is not None
        try:
            fields = _form_fields(self.head, self._form)
        except (ValueError, KeyError):
            self.answer(400, b"this is no login\n")
            return
        user, password, to = fields
        try:
            tried = await passwords.by_form(user, password, address)
        except Busy:
            problem = "Too many people log in now. Try again."
            self.answer(503, page(to, admission.ways, problem))
            return
        if self.stage is Stage.ENDED:
            return
        if tried.wait_s > 0:
            _log.warning("too many logins failed", peer=address)
            problem = f"Too many tries. Try again in {tried.wait_s:.0f} s."
            self.answer(429, page(to, admission.ways, problem), b"Retry-After: %d\r\n" % (tried.wait_s + 1))
            return
        if not tried.fits:
            _log.warning("login refused", peer=address)
            self.answer(401, page(to, admission.ways, "User or password is wrong."))
            return
        _log.info("logged in", user=user, peer=address)
        cookie = self.session_cookie(sessions.token(user), LIFETIME_S)
        self.answer(303, b"", cookie + leads(to.decode("latin-1")))

    def session_cookie(self, token: bytes, lifetime_s: int) -> bytes:
        secure = self.caller.place.scheme == b"https"
        return b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax; Max-Age=%d%b\r\n" % (
            cookies.SECURE_SESSION if secure else cookies.SESSION,
            token,
            lifetime_s,
            b"; Secure" if secure else b"",
        )

    # -- the answer

    def answer(self, status: int, body: bytes, fields: bytes = b"") -> None:
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        keep = self.head.keep_alive and self.whole and not self.proxy.stopping and not self.caller.ended
        if body.startswith(b"<"):
            fields += PAGE_FIELDS
            if status == 401:
                fields += FORM
        self.caller.write(
            rewrite.own_page(
                status, body, fields, close=not keep, head_only=self.head.method == b"HEAD"
            )
        )  # fmt: skip
        self.proxy.count(self, None, status, len(body), broken=False)
        self.caller.exchange_ended(close=not keep)


def leads(to: str) -> bytes:
    """Return the field that leads to the own path `to`, or to our own page."""
    return b"Location: %b\r\n" % quote(own_path(to), safe="/?&=%:;,+$!*'()@~#[]").encode()


def _form_fields(head: RequestHead, form: bytes) -> tuple[str, str, bytes]:
    """Return user, password and where it leads. Raises ValueError for anything but that form."""
    media = (head.first(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media != b"application/x-www-form-urlencoded":
        raise ValueError("no form")
    fields = parse_qs(
        form.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=8, errors="strict"
    )
    (user,), (password,), (to,) = fields["user"], fields["password"], fields.get("to", [""])
    return user, password, to.encode("latin-1", "replace")
