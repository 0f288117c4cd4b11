"""How a request looks to an upstream, and its answer to the caller. Pure.

The caller's URL space is the primary's. Heads are written anew: framing, hop-by-hop fields and what
`Connection` names are never copied (RFC 9110 7.6.1); who the caller is we say ourselves.

`Connection` takes away only what may be meant for one hop. "Connection: host, cookie" would let a caller have
us strip what others decide by (the same section forbids to send it): such a name is ignored and the field
goes on. Not 400: a proxy on the way may have made the caller say so, and an answer has nobody to refuse.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from failover.http import cookies
from failover.http.head import AnswerHead, Header, RequestHead
from failover.http.known import LIKE
from failover.model import UpstreamName
from failover.proxy.classify import Asked
from failover.proxy.leads import Place, cookie_paths, lead_back
from failover.proxy.upstreams import WebUpstream
from failover.routing.selection import Kind

VIEWER: Final = b"/.failover/"
WADO_URI: Final = b"/wado"
_PRIMARY: Final = UpstreamName.PRIMARY


class Reach(StrEnum):
    """What asking an upstream for something leads to."""

    ASK = "ask"
    VIEWER = "viewer"  # a page that it cannot serve: 302 to our viewer
    NEVER = "never"  # it cannot have it, or must not get it


def reach(asked: Asked, upstream: WebUpstream) -> Reach:
    """Return whether `upstream` may get the request at all."""
    if asked.ours:
        return Reach.ASK if upstream.is_archive else Reach.NEVER
    if upstream.is_archive:
        is_dicomweb = asked.below_prefix is not None or asked.wado_uri is not None
        if is_dicomweb and asked.kind is not Kind.OTHER:
            return Reach.ASK
    elif (asked.kind is not Kind.OTHER or upstream.takes_unsafe) and (
        asked.below_prefix is None or upstream.dicomweb_path is not None
    ):
        return Reach.ASK
    if upstream.has_viewer and asked.below_prefix is None and asked.route == "page":
        return Reach.VIEWER
    return Reach.NEVER


def target(asked: Asked, head: RequestHead, upstream: WebUpstream) -> bytes:
    """Return the target as `upstream` knows it: the callers' DICOMweb prefix becomes its own.

    Where another product has its WADO-URI nobody told us: it gets the callers' path.
    """
    if asked.wado_uri is not None and upstream.is_archive:
        return b"%b?%b" % (WADO_URI, asked.wado_uri)
    if upstream.name is _PRIMARY or asked.below_prefix is None or upstream.dicomweb_path is None:
        return head.target
    return upstream.dicomweb_path.rstrip("/").encode() + asked.below_prefix


# -- requests ---------------------------------------------------------------------------------------

_HOP_BY_HOP: Final = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
        b"content-length", b"upgrade", b"http2-settings", b"proxy-authenticate", b"proxy-authorization",
    )
)  # fmt: skip
_NOT_TO_UPSTREAM: Final = _HOP_BY_HOP | {b"expect", b"forwarded", b"x-real-ip"}
# The validators and ranges of one system mean nothing to the other (DESIGN 4.2): it answers whole.
_OF_THE_PRIMARY: Final = frozenset(
    (b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
)
# Meant for the recipient, whatever `Connection` says; so is what begins like this.
_END_TO_END: Final = frozenset(
    (
        b"age", b"allow", b"authorization", b"cache-control", b"cookie", b"date", b"etag", b"expires",
        b"host", b"last-modified", b"link", b"location", b"origin", b"pragma", b"range", b"referer",
        b"retry-after", b"set-cookie", b"user-agent", b"vary", b"warning", b"www-authenticate",
    )
)  # fmt: skip
_END_TO_END_BEGINS: Final = (b"accept", b"access-control-", b"content-", b"if-", b"sec-")
_CRLF: Final = b"\r\n"
# What DICOMweb answers is read on its way (what a store names, an empty search, URLs) and may have to be
# continued from the other upstream: it must not come compressed. Without the field any coding would be
# welcome (RFC 9110 12.5.3). A proxy before us may compress.
_PLAIN: Final = b"Accept-Encoding: identity\r\n"
_ACCEPT_ENCODING: Final = frozenset((b"accept-encoding",))
# The only other protocol that is spoken through us.
TO_WEBSOCKET: Final = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def request_head(
    head: RequestHead,
    asked: Asked,
    upstream: WebUpstream,
    forwarded: bytes,
    prefix: bytes | None,
    framing: bytes,
) -> bytes:
    """Return the whole head for `upstream`.

    `forwarded` are the finished lines that say who the caller is, `prefix` the callers' DICOMweb prefix,
    `framing` the finished line of Content-Length or Transfer-Encoding, or nothing.
    """
    sent: _Sent | None = head.derived.get(upstream.name)
    if sent is not None and sent.serves(upstream, asked, forwarded, prefix):
        fields = sent.fields
    else:
        like = _fields_like(head, asked, upstream, forwarded, prefix)
        if like is not None:
            fields = like
        else:
            lines = _request_lines(head, asked, upstream, forwarded, prefix)
            fields = b"".join(lines)
            head.derived[upstream.name] = _Sent(upstream, asked, forwarded, prefix, lines, fields)
    if asked.upgrade:
        framing += TO_WEBSOCKET
    at = head.target if asked.below_prefix is None is asked.wado_uri else target(asked, head, upstream)
    return b"".join((head.method, b" ", at, b" HTTP/1.1\r\n", fields, framing, _CRLF))


class _Sent:
    """What an upstream got of the fields of a head; the same for each head with the same fields."""

    __slots__ = (
        "_after", "_before", "_dicomweb", "_forwarded", "_ours", "_place", "_prefix", "_upstream", "fields",
        "lines",
    )  # fmt: skip

    def __init__(
        self, upstream: WebUpstream, asked: Asked, forwarded: bytes, prefix: bytes | None,
        lines: list[bytes], fields: bytes,
    ) -> None:  # fmt: skip
        self._upstream, self._forwarded, self._prefix = upstream, forwarded, prefix
        self._ours, self._dicomweb = asked.ours, asked.below_prefix is not None
        self.lines = lines
        """One for each field, empty when it was not sent; then those of our own."""
        self.fields = fields
        self._place = -1
        self._before = self._after = b""

    def with_line(self, place: int, line: bytes) -> bytes:
        """Return the fields with another line at `place`, which is the same again and again."""
        if place != self._place:
            self._place = place
            self._before, self._after = b"".join(self.lines[:place]), b"".join(self.lines[place + 1 :])
        return b"".join((self._before, line, self._after))

    def serves(self, upstream: WebUpstream, asked: Asked, forwarded: bytes, prefix: bytes | None) -> bool:
        return (
            self._upstream is upstream and self._ours is asked.ours
            and self._forwarded == forwarded and self._prefix == prefix
            and self._dicomweb is (asked.below_prefix is not None)
        )  # fmt: skip


def _fields_like(
    head: RequestHead, asked: Asked, upstream: WebUpstream, forwarded: bytes, prefix: bytes | None
) -> bytes | None:
    """Return the fields of a head of which a few differ from those of one that went to `upstream` before."""
    like = head.derived.get(LIKE)
    if like is None:
        return None
    before: RequestHead = like[0]
    changed: list[int] = like[1]
    sent: _Sent | None = before.derived.get(upstream.name)
    if sent is None or not sent.serves(upstream, asked, forwarded, prefix):
        return None
    lines = sent.lines if len(changed) == 1 else sent.lines.copy()
    for place in changed:
        header = head.headers[place]
        # Whether a field goes on follows from its name, which is the same; of cookies from each of them.
        if header[0] == b"cookie":
            line = _upstream_line(header, upstream)
        else:
            line = b"".join((header[1], b": ", header[2], _CRLF)) if lines[place] else b""
        if lines is sent.lines:
            return sent.with_line(place, line)
        lines[place] = line
    return b"".join(lines)


def _must_be_plain(asked: Asked, upstream: WebUpstream) -> bool:
    """Whether the answer is asked for without compression; our archive never compresses."""
    return asked.below_prefix is not None and not upstream.is_archive


def _dropped(head: RequestHead, asked: Asked, upstream: WebUpstream) -> frozenset[bytes]:
    """Return the fields that this upstream does not get, besides those that none gets."""
    dropped = _of_this_hop(head.connection)
    if _must_be_plain(asked, upstream):
        dropped = dropped | _ACCEPT_ENCODING
    if upstream.name is not _PRIMARY:
        if not asked.ours:
            dropped = dropped | _OF_THE_PRIMARY
        if not upstream.pass_credentials:
            dropped = dropped | {b"authorization"}
    return dropped


def _request_lines(
    head: RequestHead, asked: Asked, upstream: WebUpstream, forwarded: bytes, prefix: bytes | None
) -> list[bytes]:
    """Return the lines that follow from the fields of `head`, one for each, and from who the caller is."""
    dropped = _dropped(head, asked, upstream)
    lines: list[bytes] = []
    for header in head.headers:
        line = _upstream_lines.get(header)
        if line is None:
            line = _upstream_line(header, upstream)
            if len(header[2]) <= _LINE_BYTES and header[0] not in _NOT_KEPT:
                if len(_upstream_lines) >= _LINES:
                    _upstream_lines.clear()
                _upstream_lines[header] = line
        lines.append(b"" if dropped and header[0] in dropped else line)
    if head.host is None:
        # HTTP/1.0 may come without Host, 1.1 may not go on without (RFC 9112 3.2).
        lines.append(b"Host: %b\r\n" % _authority(upstream))
    lines.append(forwarded)
    if _must_be_plain(asked, upstream):
        lines.append(_PLAIN)
    if upstream.is_archive:
        lines.append(b"X-Failover-Via: router\r\n")
        if prefix is not None:
            lines.append(b"X-Failover-Prefix: %b\r\n" % (prefix or b"/"))
    return lines


# Lines for upstreams, by the field they come from; bounded.
_upstream_lines: dict[Header, bytes] = {}
_LINES: Final = 512
_LINE_BYTES: Final = 160
# Secrets do not stay.
_NOT_KEPT: Final = frozenset((b"authorization", b"proxy-authorization", b"cookie"))


def _upstream_line(header: Header, upstream: WebUpstream) -> bytes:
    """Return the line of a field for upstreams, b"" when none gets it."""
    key, name, value = header
    if key == b"cookie":
        own = _cookies_for(upstream, value)
        return b"%b: %b\r\n" % (name, own) if own else b""
    ours = key in _NOT_TO_UPSTREAM or key.startswith((b"x-forwarded-", b"x-failover-"))
    if ours or (b"_" in key and _is_twin(key)):
        return b""
    return b"%b: %b\r\n" % (name, value)


_NOTHING: Final[frozenset[bytes]] = frozenset()


def _of_this_hop(options: frozenset[bytes]) -> frozenset[bytes]:
    """Return the fields that the options of `Connection` take away."""
    if options <= _NAMES_NO_FIELD:
        return _NOTHING
    return frozenset(
        name for name in options if name not in _END_TO_END and not name.startswith(_END_TO_END_BEGINS)
    )


def _cookies_for(upstream: WebUpstream, value: bytes) -> bytes:
    if upstream.name is UpstreamName.PRIMARY:
        return cookies.of_the_primary(value)
    return cookies.of_the_backup(value, others=upstream.pass_credentials)


def _is_twin(key: bytes) -> bool:
    """Whether `key` becomes a field of ours where `_` and `-` are the same (CGI, WSGI)."""
    twin = key.replace(b"_", b"-")
    return twin in _NOT_TO_UPSTREAM or twin == b"host" or twin.startswith((b"x-forwarded-", b"x-failover-"))


def _authority(upstream: WebUpstream) -> bytes:
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return f"{host}:{upstream.port}".encode()


_LOGINS: Final = frozenset((b"authorization", b"www-authenticate", b"proxy-authenticate"))


def binds_connection(head: RequestHead | AnswerHead) -> bool:
    """Whether a connection that carried `head` belongs to one caller alone from now on.

    NTLM and Negotiate (RFC 4559) authenticate the connection, not the request.
    """
    known: bool | None = head.derived.get("binds")
    if known is None:
        known = False
        for key, _, value in head.headers:
            if key in _LOGINS and value.lstrip()[:9].lower().startswith((b"ntlm", b"negotiate")):
                known = True
        head.derived["binds"] = known
    return known


# -- answers ----------------------------------------------------------------------------------------

# Alt-Svc would lead callers past the router.
_NOT_TO_CALLER: Final = (_HOP_BY_HOP - {b"proxy-authenticate"}) | {b"alt-svc"}
_NAMES_NO_FIELD: Final = frozenset((b"close", b"keep-alive"))
_OF_ONE_ANSWER: Final = frozenset((b"etag", b"last-modified"))
# What leads somewhere, or is somebody's: never the same line for both upstreams.
_LEADING: Final = frozenset((b"set-cookie", b"location", b"content-location", b"www-authenticate"))
_UPSTREAM_LINES: Final = {name: b"X-Failover-Upstream: %b\r\n" % name.encode() for name in UpstreamName}


def answer_head(answer: AnswerHead, upstream: WebUpstream, place: Place, framing: bytes) -> bytes:
    """Return the whole head for the caller; `framing` as in `request_head`, with Connection."""
    if not answer.kept:
        return b"".join((_answer_lines(answer, upstream, place), framing, _CRLF))
    return b"".join((_kept_lines(answer, upstream, place).lines, framing, _CRLF))


def whole_answer_head(answer: AnswerHead, upstream: WebUpstream, place: Place, *, keep: bool) -> bytes:
    """Return the whole head of an answer that has the length that it says; `keep` the connection after it."""
    if keep and answer.kept:
        return _kept_lines(answer, upstream, place).whole
    return answer_head(answer, upstream, place, _length_lines(answer.content_length or 0, keep=keep))


def _length_lines(length: int, *, keep: bool) -> bytes:
    if keep:
        return b"Content-Length: %d\r\n" % length
    return b"Content-Length: %d\r\nConnection: close\r\n" % length


class _Kept:
    """What callers get of a head that comes again."""

    __slots__ = ("lines", "upstream", "whole")

    def __init__(self, upstream: WebUpstream, lines: bytes, length: int) -> None:
        self.upstream = upstream
        self.lines = lines
        self.whole = b"".join((lines, _length_lines(length, keep=True), _CRLF))


def _kept_lines(answer: AnswerHead, upstream: WebUpstream, place: Place) -> _Kept:
    # A kept head has no field that leads somewhere: its lines are the same for each place.
    kept: _Kept | None = answer.derived.get(upstream.name)
    if kept is None or kept.upstream is not upstream:
        kept = _Kept(upstream, _answer_lines(answer, upstream, place), answer.content_length or 0)
        answer.derived[upstream.name] = kept
    return kept


def _answer_lines(answer: AnswerHead, upstream: WebUpstream, place: Place) -> bytes:
    lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, answer.reason)]
    connection = answer.connection
    if connection and not connection <= _NAMES_NO_FIELD:
        connection = _of_this_hop(connection)
        for header in answer.headers:
            if header[0] not in connection:
                lines.append(_caller_line(header, upstream, place))
    else:
        for header in answer.headers:
            line = _caller_lines.get(header)
            lines.append(_caller_line(header, upstream, place) if line is None else line)
    lines.append(_UPSTREAM_LINES[upstream.name])
    return b"".join(lines)


# Lines for callers, by the field they come from; bounded.
_caller_lines: dict[Header, bytes] = {}


def _caller_line(header: Header, upstream: WebUpstream, place: Place) -> bytes:
    """Return the line of a field for callers, b"" when it is not passed on."""
    key, name, value = header
    if key in _LEADING:
        own = _leading(key, value, upstream, place)
        return b"" if own is None else b"%b: %b\r\n" % (name, own)
    passes = key not in _NOT_TO_CALLER and not key.startswith(b"x-failover-")
    line = b"%b: %b\r\n" % (name, value) if passes else b""
    if len(value) <= _LINE_BYTES and key not in _OF_ONE_ANSWER:
        if len(_caller_lines) >= _LINES:
            _caller_lines.clear()
        _caller_lines[header] = line
    return line


def _leading(key: bytes, value: bytes, upstream: WebUpstream, place: Place) -> bytes | None:
    backup = upstream.name is not UpstreamName.PRIMARY
    if key == b"set-cookie":
        return cookies.set_cookie(value, place.host, backup=backup, paths=cookie_paths(upstream, place))
    if key == b"www-authenticate":
        # What is typed in there would go to the primary at the next request, and never reach the backup.
        return None if backup and not upstream.pass_credentials else value
    return lead_back(value, upstream, place)


_REASONS: Final = {
    200: b"OK", 302: b"Found", 303: b"See Other", 400: b"Bad Request", 401: b"Unauthorized",
    403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    413: b"Content Too Large", 417: b"Expectation Failed", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable",
    504: b"Gateway Timeout", 505: b"HTTP Version Not Supported",
}  # fmt: skip
# A killed archive is back within 3 s, a suspicion is decided within 5 s.
_RETRY_AFTER_S: Final = 5


def own_answer(status: int, sentence: str, *, close: bool, head_only: bool, location: bytes | None) -> bytes:
    """Return an answer of the router itself, whole. `sentence` goes to the caller: no patient data."""
    fields = b"" if location is None else b"Location: %b\r\n" % location
    return own_page(status, f"{sentence}\n".encode(), fields, close=close, head_only=head_only)


def own_page(status: int, body: bytes, fields: bytes, *, close: bool, head_only: bool) -> bytes:
    """As `own_answer`, with a body of HTML (it begins with `<`) or text, and further finished `fields`."""
    lines = [
        b"HTTP/1.1 %d %b\r\n" % (status, _REASONS[status]),
        b"X-Failover-Upstream: none\r\nCache-Control: no-store\r\n",
        b"Content-Type: text/%b; charset=utf-8\r\n" % (b"html" if body.startswith(b"<") else b"plain"),
        b"Content-Length: %d\r\n" % len(body),
        fields,
    ]
    if status == 503:
        lines.append(b"Retry-After: %d\r\n" % _RETRY_AFTER_S)
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(_CRLF)
    if not head_only:
        lines.append(body)
    return b"".join(lines)
