"""What a request is: search, retrieve, store, page or other; what may be done with it. Pure.

Reads method, path and Accept alone; DICOMweb is what lies below the callers' prefix (PS3.18 6.1, 10).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from failover.http.head import RequestHead
from failover.model import Part
from failover.routing.selection import Kind

OURS: Final = b"/.failover/"
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
# A path that a server may read in another way than we do: it never counts as DICOMweb or as ours.
_DOTTED: Final = re.compile(rb"(?i)/(\.|%2e){1,2}(/|$)|%2f|%5c|\\")
_LEVELS: Final = frozenset((b"studies", b"series", b"instances"))
_RENDERED: Final = frozenset((b"rendered", b"thumbnail"))


class WebRoute(StrEnum):
    """The `route` label of the metrics, and the kind whose usual duration is learnt."""

    QIDO = "qido"
    WADO = "wado"
    RENDERED = "rendered"
    STOW = "stow"
    PAGE = "page"
    OTHER = "other"


PARTS: Final = {
    WebRoute.QIDO: Part.QUERY,
    WebRoute.WADO: Part.RETRIEVE,
    WebRoute.RENDERED: Part.RETRIEVE,
    WebRoute.STOW: Part.STORE,
    WebRoute.PAGE: Part.REACH,
    WebRoute.OTHER: Part.REACH,
}

# Bound once: on Python 3.11 reading a member from its class costs 0.2 µs, and each request reads forty.
_READ: Final = Kind.READ
_UNSAFE: Final = Kind.OTHER
_OTHER: Final = WebRoute.OTHER
_RETRIEVES: Final = (WebRoute.WADO, WebRoute.RENDERED)


class Asked:
    """What a request asks for. Nobody changes it.

    One is made for each request, and written out: what makes dataclasses and named tuples is never compiled.
    """

    __slots__ = ("below_prefix", "kind", "ours", "path", "route", "upgrade", "wado_uri")

    def __init__(
        self, route: WebRoute, kind: Kind, path: bytes, below_prefix: bytes | None = None,
        *, ours: bool = False, upgrade: bool = False, wado_uri: bytes | None = None,
    ) -> None:  # fmt: skip
        self.route = route
        self.kind = kind
        self.path = path
        """The target without its query."""
        self.below_prefix = below_prefix
        """What follows the callers' DICOMweb prefix, query included; None: it is no DICOMweb."""
        self.ours = ours
        """Below `/.failover/`: always for our archive."""
        self.upgrade = upgrade
        self.wado_uri = wado_uri
        """The query of a WADO-URI request, which says by itself what it is, wherever it lies (PS3.18 9)."""

    @property
    def retrieve(self) -> bool:
        return self.route in _RETRIEVES


def classify(head: RequestHead, prefix: bytes | None) -> Asked:
    """Return what `head` asks for; `prefix` is the callers' DICOMweb prefix without a slash at its end."""
    target, method = head.target, head.method
    path = target.partition(b"?")[0]
    safe = method in _SAFE
    kind = _READ if safe else _UNSAFE
    if head.upgrade is not None and head.wants_websocket:
        # A tunnel cannot be repeated: what its first bytes did is unknown.
        return Asked(WebRoute.OTHER, Kind.OTHER, path, upgrade=True)
    dotted = b"/." in path or b"%" in path or b"\\" in path
    plain = not dotted or _DOTTED.search(path) is None
    if plain and path.startswith(OURS):
        return Asked(WebRoute.PAGE, kind, path, ours=True)
    if prefix is not None and plain and path.startswith(prefix):
        below = path[len(prefix) :]
        if not below or below.startswith(b"/"):
            route = _dicomweb(method, [step for step in below.split(b"/") if step])
            if route is WebRoute.OTHER and _is_wado_uri(method, target):
                return Asked(WebRoute.WADO, kind, path, wado_uri=target.partition(b"?")[2])
            if route is WebRoute.STOW:
                kind = Kind.STORE
            return Asked(route, kind, path, below_prefix=target[len(prefix) :])
    if plain and b"requestType=WADO" in target and _is_wado_uri(method, target):
        return Asked(WebRoute.WADO, kind, path, wado_uri=target.partition(b"?")[2])
    if method in (b"GET", b"HEAD") and _accepts_pages(head):
        return Asked(WebRoute.PAGE, kind, path)
    return Asked(_OTHER, kind, path)


def _is_wado_uri(method: bytes, target: bytes) -> bool:
    """PS3.18 9.1.2: each such request names these two, whatever its path."""
    if b"requestType=WADO" not in target or method not in (b"GET", b"HEAD"):
        return False
    named = target.partition(b"?")[2].split(b"&")
    return b"requestType=WADO" in named and any(pair.startswith(b"objectUID=") for pair in named)


def _accepts_pages(head: RequestHead) -> bool:
    known: bool | None = head.derived.get("pages")
    if known is None:
        known = head.derived["pages"] = b"text/html" in (head.first(b"accept") or b"").lower()
    return known


def _dicomweb(method: bytes, steps: list[bytes]) -> WebRoute:
    """PS3.18 table 10.1-1: studies, studies/{uid}/series, studies/{uid}/series/{uid}/instances, and below."""
    if not steps:
        return WebRoute.OTHER
    if method == b"POST":
        return WebRoute.STOW if steps[0] == b"studies" and len(steps) <= 2 else WebRoute.OTHER
    if method not in (b"GET", b"HEAD"):
        return WebRoute.OTHER
    if steps[-1] in _RENDERED:
        return WebRoute.RENDERED
    if len(steps) == 1:
        return WebRoute.QIDO if steps[0] in _LEVELS else WebRoute.OTHER
    if steps[0] != b"studies":
        return WebRoute.OTHER
    if len(steps) in (3, 5) and steps[-1] in _LEVELS:
        return WebRoute.QIDO
    return WebRoute.WADO
