"""Who may talk to the admin listener at all: Host, Origin, content type, token (DESIGN 4.5). Pure.

A page elsewhere, or a name rebound to our address, must not be able to force a failover. So a request must be
addressed to us by a name that is ours, must not come from another site's page, and must carry JSON, which no
plain form can send. Each guard returns None or why the request is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

_WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
LONGEST_ACTOR: Final = 64


@dataclass(frozen=True, slots=True)
class Denial:
    """An answer in place of what was asked for."""

    status: int
    message: str


def deny(method: str, path: str, headers: Mapping[str, str], hosts: Collection[str]) -> Denial | None:
    """Return why this request is refused whoever sends it, None when it may go on.

    `headers` is read case-insensitively by its own doing (multidict) and holds one value a name; `hosts` are
    the names that the configuration adds.
    """
    host = headers.get("Host", "")
    if not is_our_host(host, hosts):
        return Denial(
            421, "this name is not ours: use an address, localhost, or add it to listen.admin.hosts"
        )
    origin = headers.get("Origin")
    if origin is not None and not is_same_origin(origin, host):
        return Denial(403, "pages of another origin may not use this listener")
    if headers.get("Sec-Fetch-Site") == "cross-site" and not _is_link_followed(method, path, headers):
        return Denial(403, "pages of another site may not use this listener")
    if method in _WRITES and not is_json(headers.get("Content-Type", "")):
        return Denial(415, "a write must be application/json")
    return None


def is_our_host(host: str, hosts: Collection[str]) -> bool:
    """Return whether a Host header names us: an address, `localhost`, or one of `hosts`, with any port."""
    name = _host_name(host)
    if name is None:
        return False
    if name == "localhost" or name in {known.lower().rstrip(".") for known in hosts}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_same_origin(origin: str, host: str) -> bool:
    """Return whether `origin` (RFC 6454) is the page that this very listener serves as `host`."""
    try:
        parts = urlsplit(origin)
        origin_port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.path or parts.query or parts.username:
        return False
    # Behind a proxy that ends TLS the scheme differs and the port of both is left out.
    default = 443 if parts.scheme == "https" else 80
    name, port = _host_name(host), _host_port(host)
    return name is not None and parts.hostname == name and (origin_port or default) == (port or default)


def is_json(content_type: str) -> bool:
    """Return whether a Content-Type is application/json, with nothing but a charset of UTF-8 beside it."""
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    return kind == "application/json" and all(p in ("charset=utf-8", 'charset="utf-8"') for p in parameters)


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an Authorization header (RFC 6750 2.1), None when it holds none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def actor_of(token_name: str | None, told: str | None) -> str:
    """Return who acts, for the audit trail: the token's name, else whom the command line or page names."""
    if token_name is not None:
        return token_name
    text = " ".join(unquote(told or "").split())
    text = "".join(c for c in text if c.isprintable())[:LONGEST_ACTOR]
    return text or "unknown"


def _is_link_followed(method: str, path: str, headers: Mapping[str, str]) -> bool:
    # Someone who follows a link in a mail or on a dashboard sees the page: it holds no fact and does nothing.
    return (
        method in ("GET", "HEAD")
        and path == "/"
        and headers.get("Sec-Fetch-Mode") == "navigate"
        and headers.get("Sec-Fetch-Dest") == "document"
    )


_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host.strip())
    return match[1].strip("[]").lower().rstrip(".") if match else None


def _host_port(host: str) -> int | None:
    match = _HOST.fullmatch(host.strip())
    return int(match[2]) if match and match[2] else None
