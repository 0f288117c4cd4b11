"""What a 401 of ours looks like, and the login page. Pure.

The page stands where a login would help, and at `/.failover/login`; what becomes of the form is in `login`.
"""

from __future__ import annotations

import re
from html import escape
from typing import Final

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
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Log in to the archive</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 24rem; margin: 12vh auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; }
label { display: block; margin: 1rem 0 .25rem; }
input { box-sizing: border-box; width: 100%; padding: .5rem; font: inherit; }
button { margin-top: 1.5rem; padding: .5rem 1.5rem; font: inherit; }
[role=alert] { font-weight: 600; border-inline-start: .3rem solid #c22; padding-inline-start: .7rem; }
</style></head><body><main>
<h1>Log in to the archive</h1>
<p>The PACS does not answer now. Its images of the last weeks are in the archive; this login is the archive's
own, not that of the PACS.</p>
@ALERT@
<form method="post" action="@LOGIN@">
<input type="hidden" name="to" value="@TO@">
<label for="user">User</label>
<input id="user" name="user" autocomplete="username" autocapitalize="none" required autofocus>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
</form></main></body></html>
"""


def page(to: bytes, problem: str = "") -> bytes:
    """Return the login page; `to` is where it leads afterwards."""
    alert = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    text = _PAGE.replace("@ALERT@", alert).replace("@LOGIN@", LOGIN.decode())
    return text.replace("@TO@", escape(own_path(to.decode("latin-1")))).encode()


def own_path(to: str) -> str:
    """Return `to` when it is a path of this site, else our own page: a login leads nobody elsewhere."""
    return to if _OWN_PATH.fullmatch(to) else OURS.decode()


def of(head: RequestHead, asked: Asked) -> tuple[bytes, bytes | None]:
    """Return the fields, and for a person the page, of a 401 to `head`.

    A browser gets no Basic challenge: its dialogue would come up over the page, and also for its scripts.
    """
    if asked.route is WebRoute.PAGE and head.method in (b"GET", b"HEAD"):
        return PAGE_FIELDS + FORM, page(head.target)
    agent = head.first(b"user-agent") or b""
    if head.first(b"sec-fetch-mode") is not None or agent.startswith(b"Mozilla/"):
        return FORM, None
    return b'WWW-Authenticate: Basic realm="archive", charset="UTF-8"\r\n', None
