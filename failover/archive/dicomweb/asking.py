"""What is common to all DICOMweb requests: who asks, under which base URL, and the errors an answer may be.

The router tells the callers' prefix and that it asks (DESIGN 4.2); what a caller itself sends of these, the
router has dropped before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from aiohttp import web

from failover.archive.decoders import Decoders
from failover.archive.dicomweb.accept import read_accept
from failover.archive.expected import ExpectedMoves
from failover.archive.extents import FrameTables
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.kept_metadata import KeptMetadata
from failover.archive.window import Window
from failover.clock import Clock
from failover.http.media_types import Acceptable
from failover.model import parse_uid

# A Host that is neither a name nor an address never reaches a URL that we write.
_HOST: Final = re.compile(r"[A-Za-z0-9._\-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"/[A-Za-z0-9._~/-]*")
RETRY_AFTER_S: Final = 10


@dataclass(slots=True)
class Described:
    """Bytes of metadata and bulk data that all requests hold together, until their objects are made."""

    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What the handlers of DICOMweb work with."""

    index: Index
    instances: Instances
    expected: ExpectedMoves
    decoders: Decoders
    transcoders: Decoders  # peers that take slowly what is made for them must not hold up pictures
    frame_tables: FrameTables
    described: Described
    kept: KeptMetadata
    clock: Clock
    dicomweb_path: str
    max_store_bytes: int
    fails_outside_window: bool


ROOM: Final = web.AppKey("room", Room)


def is_via_router(request: web.Request) -> bool:
    return request.headers.get("X-Failover-Via") == "router"


def prefix(request: web.Request) -> str:
    """Return the DICOMweb prefix as this caller knows it: the router tells it, else it is our own."""
    own = request.app[ROOM].dicomweb_path
    told = request.headers.get("X-Failover-Prefix", own).strip() if is_via_router(request) else own
    return path_or(told, own)


def path_or(told: str, own: str) -> str:
    """Return the path that the router tells, if it is one."""
    return told if _PREFIX.fullmatch(told) else own


def base_url(request: web.Request) -> str:
    """Return the DICOMweb base URL as this caller knows it, without a slash at its end."""
    scheme = request.scheme
    if is_via_router(request):
        forwarded = request.headers.get("X-Forwarded-Proto", scheme).strip().lower()
        scheme = forwarded if forwarded in ("http", "https") else scheme
    return url_of(scheme, request.headers.get("Host", ""), prefix(request))


def url_of(scheme: str, host: str, path: str) -> str:
    """Return a base URL. Raises HTTPBadRequest where `host` is none."""
    if not _HOST.fullmatch(host):
        raise web.HTTPBadRequest(text="the Host header is no host")
    return f"{scheme}://{host}{path.rstrip('/')}"


def accepted(request: web.Request) -> Sequence[Acceptable]:
    """Return what the caller accepts, best first. Raises HTTPBadRequest."""
    try:
        return read_accept(request.headers.getall("Accept", []), request.query.get("accept"))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"Accept: {error}") from None


def uid(request: web.Request, name: str) -> str | None:
    """Return the UID of this name in the path; None where the path has none. Raises HTTPBadRequest."""
    text = request.match_info.get(name)
    if text is None:
        return None
    try:
        return parse_uid(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"the {name} in the path is no UID") from None


def warning(window: Window, *more: str) -> str:
    """Return the Warning of an answer (RFC 7234 5.5.1): what the archive covers, and what else holds."""
    return _warnings((window.sentence(), *more))


@lru_cache(maxsize=64)  # the same for hours
def _warnings(texts: tuple[str, ...]) -> str:
    return ", ".join(f'299 failover "{_plain(text)}"' for text in texts)


def unavailable(reason: str, window: Window) -> web.Response:
    """A 503 that says why, and when to ask again."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Warning": warning(window)}
    return web.Response(status=503, text=reason, headers=headers)


def is_unchanged(request: web.Request, etag: str) -> bool:
    """Return whether the caller has it already (RFC 9110 13.1.2): 304. `etag` without its quotes."""
    wanted = request.if_none_match
    return wanted is not None and any(known.value in ("*", etag) for known in wanted)


def _plain(text: str) -> str:
    return text.replace("\\", "").replace('"', "'")
