"""Where the URLs in an answer lead: always back through the router. Pure.

A primary that builds URLs from Host, Forwarded or X-Forwarded-* leads back by itself: it is told all three.
One that builds them from its own name is corrected here: in Location, Content-Location, the Path of cookies,
and in RetrieveURL (0008,1190), RetrieveURI (0040,E010) and BulkDataURI of DICOM JSON (PS3.18 F.2). Those are
values that a grammar marks as URLs, and the text of the JSON stays what it is around them; nothing else in a
body is touched: not HTML, scripts or XML, not what is compressed, and no URL of another host or port.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from failover.http.cookies import PathMap
from failover.http.head import AnswerHead
from failover.model import UpstreamName
from failover.proxy.classify import Asked
from failover.proxy.upstreams import WebUpstream


class Place(NamedTuple):
    """Where the caller sees us."""

    scheme: bytes
    host: bytes | None
    """The Host that it asked for; None: it gave none (HTTP/1.0)."""
    prefix: bytes | None
    """The callers' DICOMweb prefix."""


_PORTS: Final = {b"http": b":80", b"https": b":443"}
_ABSOLUTE: Final = re.compile(rb"(?i)(https?:)?//([^/?#@]+)(.*)", re.DOTALL)


def lead_back(url: bytes, upstream: WebUpstream, place: Place) -> bytes:
    """Return `url`, which `upstream` gave, as the caller reaches it; another system's is not changed."""
    paths = cookie_paths(upstream, place)
    match = _ABSOLUTE.fullmatch(url)
    if match is None:
        return paths.apply(url) if paths is not None and url.startswith(b"/") else url
    scheme, authority, rest = match.groups()
    if rest and rest[:1] not in b"/?#":
        return url
    mapped = paths.apply(rest) if paths is not None else rest
    if _named(authority.lower(), (scheme or place.scheme).lower().rstrip(b":"), upstream):
        if place.host is None:
            return mapped or b"/"
        return b"%b://%b%b" % (place.scheme, place.host, mapped)
    if place.host is not None and authority.lower() == place.host.lower():
        return url[: len(url) - len(rest)] + mapped
    return url


def cookie_paths(upstream: WebUpstream, place: Place) -> PathMap | None:
    """Return how paths of `upstream` become the callers'; None: they are the same."""
    if upstream.name is UpstreamName.PRIMARY or upstream.dicomweb_path is None or place.prefix is None:
        return None
    theirs = upstream.dicomweb_path.rstrip("/").encode()
    return None if theirs == place.prefix or not theirs else PathMap(theirs, place.prefix)


def _named(authority: bytes, scheme: bytes, upstream: WebUpstream) -> bool:
    names = _names(upstream)
    usual = _PORTS.get(scheme, b"")
    return authority in names or (bool(usual) and authority.removesuffix(usual) in names)


@lru_cache(maxsize=16)
def _names(upstream: WebUpstream) -> frozenset[bytes]:
    """All authorities that mean `upstream`, without a port that is the usual one."""
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    usual = 443 if upstream.tls else 80
    own = host if upstream.port == usual else f"{host}:{upstream.port}"
    return frozenset(name.lower().encode() for name in (own, *upstream.names))


# -- DICOM JSON -------------------------------------------------------------------------------------

# A quote inside a JSON string is escaped: neither name can stand, in its quotes, within a string.
_URL: Final = re.compile(
    rb'("(?:00081190|0040[eE]010)"\s*:\s*\{\s*(?:"vr"\s*:\s*"[A-Z]{2}"\s*,\s*)?"Value"\s*:\s*\[\s*"'
    rb'|"BulkDataURI"\s*:\s*")((?:[^"\\]|\\.)*)(?=")'
)
_KEYS: Final = (b'"00081190"', b'"0040E010"', b'"0040e010"', b'"BulkDataURI"')
_LONGEST_KEY: Final = max(map(len, _KEYS))
# A URL of DICOMweb has some 300 bytes; what is longer is passed on as it is.
_KEPT_BYTES: Final = 4096


def rewriter(asked: Asked, answer: AnswerHead, upstream: WebUpstream, place: Place) -> JsonUrls | None:
    """Return what corrects the URLs in the body of `answer`; None: it needs, or bears, no correction.

    Our archive is told the callers' Host and prefix and builds its URLs from them.
    """
    if upstream.is_archive or asked.below_prefix is None or not 200 <= answer.status < 300:
        return None
    if answer.status == 206:
        return None  # a piece of a body cannot be read
    media = (answer.first(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media not in (b"application/dicom+json", b"application/json"):
        return None
    if (answer.first(b"content-encoding") or b"identity").lower() != b"identity":
        return None
    return JsonUrls(upstream, place)


class JsonUrls:
    """Corrects the URLs in one body of DICOM JSON, as it comes."""

    __slots__ = ("_kept", "_maps", "_place", "_upstream")

    def __init__(self, upstream: WebUpstream, place: Place) -> None:
        self._upstream = upstream
        self._maps = cookie_paths(upstream, place) is not None
        self._place = place
        self._kept = b""

    def whole(self, body: bytes) -> bytes:
        """Return a whole body, corrected."""
        if not any(key in body for key in _KEYS):
            return body
        if not self._maps:
            # Most build their URLs from Host: a search for names costs a tenth of one for URLs.
            plain = body.lower()
            if not any(name in plain for name in _names(self._upstream)):
                return body
        return _URL.sub(self._corrected, body)

    def feed(self, data: bytes) -> bytes:
        """Return what of the body can go on now; an URL is never cut in two."""
        body = self._kept + data if self._kept else data
        cut = self._safe(body)
        self._kept = body[cut:]
        return self.whole(body[:cut])

    def end(self) -> bytes:
        """Return the rest."""
        kept, self._kept = self._kept, b""
        return self.whole(kept)

    def _safe(self, body: bytes) -> int:
        """Up to where no URL that is not whole can begin."""
        safe = len(body)
        first = max(0, safe - _KEPT_BYTES)
        # A name that is cut in two begins with a quote among the last bytes.
        quote = body.find(b'"', max(first, safe - _LONGEST_KEY))
        if quote >= 0:
            safe = quote
        for key in _KEYS:
            at = body.rfind(key, first)
            if 0 <= at < safe and _URL.match(body, at, safe) is None:
                safe = at
        return safe

    def _corrected(self, match: re.Match[bytes]) -> bytes:
        before, url = match.groups()
        plain = url.replace(b"\\/", b"/")
        corrected = lead_back(plain, self._upstream, self._place)
        return before + url if corrected == plain else before + corrected
