"""What a 401 of ours looks like, and the login pages. Pure.

The page stands where a login would help, and at `/.failover/login`; what becomes of the form is in `login`,
of the way to the identity provider in `provider_pages`. Where that is the only way, browsers are sent there.
"""

from __future__ import annotations

import re
from html import escape
from typing import Final, NamedTuple
from urllib.parse import quote

from failover.http.head import RequestHead
from failover.proxy.classify import OURS, Asked, WebRoute

LOGIN: Final = OURS + b"login"
# A path of this site: never another host (`//…`, `/\…`), never a control byte.
_OWN_PATH: Final = re.compile(r"/(?![/\\])[!-\[\]-~]{0,2000}")
# Browsers know no such scheme, and show the page (RFC 9110 15.5.2 wants a challenge).
FORM: Final = b'WWW-Authenticate: Form realm="archive"\r\n'
PAGE_FIELDS: Final = (
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    b"frame-ancestors 'none'; base-uri 'none'\r\n"
    b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n"
)
BEARER: Final = b'WWW-Authenticate: Bearer realm="archive"\r\n'
_BASIC: Final = b'WWW-Authenticate: Basic realm="archive", charset="UTF-8"\r\n'
PROVIDER_LOGIN: Final = OURS + b"oidc/login"
PROVIDER_CALLBACK: Final = OURS + b"oidc/callback"
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 24rem; margin: 12vh auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
label { display: block; margin: 1rem 0 .25rem; }
input { box-sizing: border-box; width: 100%; padding: .5rem; font: inherit; }
button { margin-top: 1.5rem; padding: .5rem 1.5rem; font: inherit; }
a.button { display: inline-block; margin-top: .5rem; padding: .5rem 1.5rem; border: 1px solid;
  border-radius: .3rem; color: inherit; text-decoration: none; font-weight: 600; }
a.button:hover, a.button:focus-visible { background: color-mix(in srgb, currentColor 12%, transparent); }
h2 { font-size: 1rem; margin: 2rem 0 0; }
[role=alert] { font-weight: 600; border-inline-start: .3rem solid #c22; padding-inline-start: .7rem; }
</style></head><body><main>
<h1>@TITLE@</h1>
@BODY@
</main></body></html>
"""
_TITLE: Final = "Log in to the archive"
_AWAY: Final = "The PACS does not answer now. Its images of the last weeks are in the archive"
_FORM_ALONE: Final = f"""<p>{_AWAY}; this login is the archive's
own, not that of the PACS.</p>"""
_PROVIDER_ALONE: Final = f"<p>{_AWAY}, for whoever may see them.</p>"
_LINK: Final = (
    """<p><a class="button" href="@HREF@" target="_top">Log in with the hospital's account</a></p>"""
)
_OR: Final = "<h2>Or with a password of the archive</h2>"
_FORM: Final = """<form method="post" action="@LOGIN@">
<input type="hidden" name="to" value="@TO@">
<label for="user">User</label>
<input id="user" name="user" autocomplete="username" autocapitalize="none" required@FOCUS@>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
</form>"""


class Ways(NamedTuple):
    """How somebody may log in."""

    form: bool
    provider: bool


def page(to: bytes, ways: Ways, problem: str = "") -> bytes:
    """Return the login page; `to` is where it leads afterwards."""
    path = own_path(to.decode("latin-1"))
    parts = [_FORM_ALONE if not ways.provider else _PROVIDER_ALONE]
    if problem:
        parts.append(_alert(problem))
    if ways.provider:
        parts.append(_LINK.replace("@HREF@", escape(provider_login(path))))
    if ways.form and ways.provider:
        parts.append(_OR)
    if ways.form:
        form = _FORM.replace("@FOCUS@", "" if ways.provider else " autofocus")
        parts.append(form.replace("@LOGIN@", LOGIN.decode()).replace("@TO@", escape(path)))
    return _page(_TITLE, parts)


def told(title: str, problem: str, advice: str, to: str) -> bytes:
    """Return the page of a login at the provider that came to nothing; `to`: where a new one leads."""
    href = escape(provider_login(own_path(to)))
    again = f'<p><a class="button" href="{href}" target="_top">Try again</a></p>'
    return _page(title, [_alert(problem), f"<p>{escape(advice)}</p>", again])


def provider_login(path: str) -> str:
    """Return where a login at the provider begins that leads to the own path `path`."""
    return f"{PROVIDER_LOGIN.decode()}?to={quote(path, safe='/')}"


def _alert(problem: str) -> str:
    return f'<p role="alert">{escape(problem)}</p>'


def _page(title: str, parts: list[str]) -> bytes:
    return _PAGE.replace("@TITLE@", title).replace("@BODY@", "\n".join(parts)).encode()


def own_path(to: str) -> str:
    """Return `to` when it is a path of this site, else our own page: a login leads nobody elsewhere."""
    return to if _OWN_PATH.fullmatch(to) else OURS.decode()


def of(head: RequestHead, asked: Asked, ways: Ways) -> tuple[int, bytes, bytes | None]:
    """Return status, fields, and for a person the page, of our "log in" to `head`.

    A browser gets no Basic challenge: its dialogue would come up over the page, and also for its scripts.
    """
    if asked.route is WebRoute.PAGE and head.method in (b"GET", b"HEAD"):
        if ways.provider and not ways.form and _is_navigation(head):
            to = provider_login(own_path(head.target.decode("latin-1")))
            return 302, PAGE_FIELDS + b"Location: %b\r\n" % to.encode(), page(head.target, ways)
        return 401, PAGE_FIELDS + _challenge_of(ways, browser=True), page(head.target, ways)
    agent = head.first(b"user-agent") or b""
    browser = head.first(b"sec-fetch-mode") is not None or agent.startswith(b"Mozilla/")
    return 401, _challenge_of(ways, browser=browser), None


def _challenge_of(ways: Ways, *, browser: bool) -> bytes:
    """RFC 9110 15.5.2 wants one. For Bearer (RFC 6750 3) no browser opens a dialogue."""
    by_password = (FORM if browser else _BASIC) if ways.form else b""
    return by_password + (BEARER if ways.provider else b"")


def _is_navigation(head: RequestHead) -> bool:
    """Whether a person goes to this page: a script, a picture or a frame cannot log in (Fetch metadata).

    Over plain HTTP browsers do not say so: then what accepts pages is one.
    """
    mode = head.first(b"sec-fetch-mode")
    if mode is None:
        return head.method == b"GET" and b"text/html" in (head.first(b"accept") or b"").lower()
    return (
        head.method == b"GET" and mode == b"navigate" and head.first(b"sec-fetch-dest") in (None, b"document")
    )
