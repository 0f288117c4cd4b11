"""`/.failover/oidc/login` and `/.failover/oidc/callback`: to the identity provider, and back from it.

Answered by the router, never by an upstream. What a login is worth is judged in `provider_logins`; here are
cookies, redirects and pages. A login leads to a path of this site alone.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from failover.credentials.sessions import LIFETIME_S
from failover.credentials.transactions import LIFETIME_S as UNDER_WAY_S
from failover.credentials.transactions import began_of
from failover.errors import ProviderUnavailable
from failover.http import cookies
from failover.proxy.challenge import PROVIDER_CALLBACK, PROVIDER_LOGIN, own_path, provider_login, told
from failover.proxy.login import LoginExchange, leads
from failover.proxy.passwords import Busy
from failover.proxy.provider import Finished, Outcome, Returned
from failover.proxy.stage import Stage

_log = structlog.get_logger(__name__)

PATHS: Final = frozenset((PROVIDER_LOGIN, PROVIDER_CALLBACK))
# As many tabs may log in at once; a login more takes the place of the oldest.
_MOST_UNDER_WAY: Final = 3
# A browser holds no more of them; what shows more is none.
_MOST_LOOKED_AT: Final = 16


class _Page(NamedTuple):
    status: int
    title: str
    problem: str
    advice: str


_PAGES: Final = {
    Outcome.STALE: _Page(
        400, "This login is over",
        "This login was begun more than ten minutes ago, in another browser, or has been used.",
        "Begin anew. If that comes again, allow cookies for this site.",
    ),
    Outcome.REFUSED: _Page(
        403, "Not logged in",
        "The hospital's login did not confirm who you are.",
        "You may have cancelled it. If it comes again, tell those who run the archive: their log says why.",
    ),
    Outcome.NOT_ALLOWED: _Page(
        403, "No access to the archive",
        "You are logged in, and your account is in none of the groups that may see the archive's images.",
        "Ask those who run the PACS for access. While the PACS is away, a colleague with access can look.",
    ),
    Outcome.UNAVAILABLE: _Page(
        503, "The hospital's login does not answer",
        "The hospital's login cannot be used now, so nobody new can log in to the archive with it.",
        "Try again in a few seconds. Whoever is logged in goes on working. If it stays away, tell those who"
        " run the hospital's login, and those who run the archive: its log says what is wrong.",
    ),
    Outcome.BUSY: _Page(
        503, "Too many people log in now", "Too many people log in at this moment.", "Try again.",
    ),
    Outcome.TOO_OFTEN: _Page(
        429, "Too many tries", "Too many logins from this address have failed.",
        "Wait a little, then try again.",
    ),
}  # fmt: skip


class ProviderExchange(LoginExchange):
    """One request for one of the two paths."""

    __slots__ = ()

    def begin(self) -> None:
        if self.head.method != b"GET":
            self.answer(405, b"", b"Allow: GET\r\n")
        elif self.asked.path == PROVIDER_LOGIN:
            self.work(self._lead_there())
        else:
            self.work(self._take_back())

    async def _lead_there(self) -> None:
        provider = self.admission.provider
        assert provider is not None
        query = self.query()
        to = own_path(query.get("to", [""])[0])
        if not self._is_at(provider.origin) and "here" not in query:
            # The provider leads back to `public_url`: there the cookie must be. Not twice: a proxy in front
            # may call us by a name that we never learn.
            self.answer(
                303, b"", b"Location: %b\r\n" % f"{provider.origin}{provider_login(to)}&here=1".encode()
            )
            return
        try:
            begun = await provider.begin(to)
        except ProviderUnavailable:
            self._tell(Finished(Outcome.UNAVAILABLE, to=to))
            return
        except Busy:
            self._tell(Finished(Outcome.BUSY, to=to))
            return
        name = self._prefix + begun.id[:8].encode()
        fields = self._login_cookie(name, begun.cookie.encode(), UNDER_WAY_S)
        for old in self._oldest_but(_MOST_UNDER_WAY - 1):
            fields += self._login_cookie(old, b"", 0)
        self.answer(303, b"", b"%bLocation: %b\r\n" % (fields, begun.location.encode()))

    async def _take_back(self) -> None:
        provider, sessions = self.admission.provider, self.admission.sessions
        assert provider is not None
        assert sessions is not None
        query = self.query()
        if any(len(values) > 1 for values in query.values()):  # RFC 6749 3.1: none may come twice
            query = {}
        state, code, error, issuer = (query.get(name, [""])[0] for name in ("state", "code", "error", "iss"))
        shown = dict(self._under_way())
        held = [value.decode("latin-1") for value in shown.values()]
        try:
            finished = await provider.finish(
                Returned(state, code, error, issuer, held), self.caller.address
            )  # fmt: skip
        except Busy:
            finished = Finished(Outcome.BUSY)
        if self.stage is Stage.ENDED:
            return
        if finished.outcome is not Outcome.ACCEPTED:
            _log.warning("login not accepted", outcome=str(finished.outcome), peer=self.caller.address)
            self._tell(finished)
            return
        _log.info("logged in", user=finished.who, peer=self.caller.address)
        fields = self.session_cookie(sessions.token(finished.user), LIFETIME_S)
        for name in shown:  # who is logged in needs none of the others
            fields += self._login_cookie(name, b"", 0)
        self.answer(303, b"", fields + leads(finished.to))

    # -- cookies

    @property
    def _secure(self) -> bool:
        return self.caller.place.scheme == b"https"

    @property
    def _prefix(self) -> bytes:
        return cookies.SECURE_LOGIN if self._secure else cookies.LOGIN

    def _under_way(self) -> list[cookies.Pair]:
        """What this browser holds of logins under way, oldest first."""
        shown = cookies.pairs(self.head.every(b"cookie"))
        found = [pair for pair in shown if pair[0].startswith(self._prefix)]
        return sorted(found[:_MOST_LOOKED_AT], key=lambda pair: began_of(pair[1]))

    def _oldest_but(self, most: int) -> list[bytes]:
        names = [name for name, _ in self._under_way()]
        return names[:-most] if len(names) > most else []

    def _login_cookie(self, name: bytes, value: bytes, lifetime_s: int) -> bytes:
        return b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax; Max-Age=%d%b\r\n" % (
            name, value, lifetime_s, b"; Secure" if self._secure else b"",
        )  # fmt: skip

    # -- pages

    def _is_at(self, origin: str) -> bool:
        """Whether the browser asked for us by the name to which the provider leads back."""
        host = self.caller.place.host
        return host is None or origin.partition("://")[2].encode() == host.lower()

    def _tell(self, finished: Finished) -> None:
        status, title, problem, advice = _PAGES[finished.outcome]
        to = finished.to or "/"
        fields = b"Retry-After: %d\r\n" % (finished.wait_s + 1) if status == 429 else b""
        self.answer(status, told(title, problem, advice, to), fields)
