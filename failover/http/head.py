"""HTTP/1 heads: one strict reading of each, or none. Pure.

What a second parser could read in another way is refused (RFC 9112): HTTP/0.9 and 2.0, no Host or two,
Transfer-Encoding in 1.0 or together with Content-Length, odd or repeated Content-Length, bare CR or LF,
obs-fold, control bytes, two spaces in the first line, CONNECT, TRACE. What follows a head is the affair of
`framing`. Lines that come again are read once.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

from failover.errors import LimitExceeded, MalformedHead

Header = tuple[bytes, bytes, bytes]
"""Name in lower case, name as it came, value without the white space around it."""

END_OF_HEAD: Final = b"\r\n\r\n"
# Each field costs a call; no browser or PACS sends more than some fifty.
MAX_FIELDS: Final = 256
# A length has at most 18 digits: below 2**63 in every implementation that may read it after us.
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(rb"[!-~]+")
# RFC 3986 3.2.2 allows more in a name; no host is called so, and lists and quotes stand in other fields.
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_REFUSED_METHODS: Final = {b"CONNECT": 405, b"TRACE": 405}


@dataclass(slots=True)
class Fields:
    """What the fields of a head say about the message and the connection."""

    headers: list[Header] = field(default_factory=list)
    content_length: int | None = None
    chunked: bool = False
    connection: frozenset[bytes] = frozenset()
    """The options of `Connection`, in lower case: they name further hop-by-hop fields."""
    upgrade: bytes | None = None
    derived: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)
    """What others worked out from the fields alone; heads with the same fields share it."""

    def first(self, name: bytes) -> bytes | None:
        """Return the value of the first field called `name` (lower case)."""
        for key, _, value in self.headers:
            if key == name:
                return value
        return None

    def every(self, name: bytes) -> list[bytes]:
        """Return the values of all fields called `name` (lower case)."""
        return [value for key, _, value in self.headers if key == name]


@dataclass(slots=True)
class RequestHead(Fields):
    method: bytes = b""
    target: bytes = b""
    """Origin-form (`/path?query`), or `*`."""
    minor_version: int = 1
    host: bytes | None = None
    expects_continue: bool = False
    keep_alive: bool = True
    """Whether the caller wants to send another request. HTTP/1.0 callers get one answer each."""

    @property
    def wants_websocket(self) -> bool:
        """Any other upgrade, h2c above all, is ignored: RFC 9110 7.8 allows it, and nothing is smuggled."""
        return (
            self.upgrade is not None
            and self.upgrade.lower() == b"websocket"
            and self.method == b"GET"
            and not (self.content_length or self.chunked)  # a tunnel would end inside its body
            and b"upgrade" in self.connection
        )


@dataclass(slots=True)
class AnswerHead(Fields):
    status: int = 0
    reason: bytes = b""
    minor_version: int = 1
    kept: bool = field(default=False, compare=False)
    """More answers with this head are expected: what follows from it alone is worth keeping in `derived`."""
    keep_alive: bool = True


def head_end(buffer: bytes | bytearray, searched: int, max_bytes: int) -> int:
    """Return where the head in `buffer` ends, -1 when it is not whole yet.

    The first `searched` bytes are known not to hold the end. Raises LimitExceeded beyond `max_bytes`, and
    MalformedHead as soon as a head cannot become a good one (a bare LF where a line should end).
    """
    end = buffer.find(END_OF_HEAD, max(0, searched - 3))
    if end < 0:
        if len(buffer) > max_bytes:
            raise LimitExceeded(f"a head of more than {max_bytes} bytes")
        if buffer.count(b"\n") != buffer.count(b"\r\n"):
            raise MalformedHead("a line that ends with a bare LF")
        return -1
    if end + 4 > max_bytes:
        raise LimitExceeded(f"a head of more than {max_bytes} bytes")
    return end + 4


def parse_request(raw: bytes) -> RequestHead:
    """Return the head in `raw`, which ends with the empty line. Raises MalformedHead."""
    lines = raw.split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise MalformedHead("not a request line of method, target and version")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        known = re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version)
        raise MalformedHead("not HTTP/1.1 or 1.0", status=505 if known else 400)
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise MalformedHead("not a method and a target")
    if method in _REFUSED_METHODS:
        raise MalformedHead("this method is not served here", status=_REFUSED_METHODS[method])
    head = RequestHead(method=method, target=target, minor_version=version[7] - 48)
    special = _scan(lines[1:-2], head.headers)
    _read_fields(head, special)
    _read_own(head, special)
    _read_target(head)
    if head.minor_version == 0 and head.chunked:
        # RFC 9112 6.1: a 1.0 message with Transfer-Encoding has framing that cannot be trusted.
        raise MalformedHead("Transfer-Encoding in HTTP/1.0")
    head.keep_alive = head.minor_version == 1 and b"close" not in head.connection
    return head


# Heads of answers, byte for byte: a poll, an empty search or a 404 has the same one again and again.
_answers: dict[bytes, AnswerHead] = {}
_ANSWERS: Final = 128
_ANSWER_BYTES: Final = 1024
# Secrets are not kept, nor what may be written anew for each caller.
_NOT_IN_KEPT: Final = frozenset(
    (
        b"authentication-info", b"content-location", b"location", b"proxy-authenticate", b"set-cookie",
        b"www-authenticate",
    )
)  # fmt: skip


def parse_answer(raw: bytes) -> AnswerHead:
    """Return the head in `raw`, which ends with the empty line. Raises MalformedHead.

    Equal heads may be one object: nobody changes it but for `derived`.
    """
    head = _answers.get(raw)
    if head is None:
        head = _parse_answer(raw)
        if len(raw) <= _ANSWER_BYTES and all(key not in _NOT_IN_KEPT for key, _, _ in head.headers):
            if len(_answers) >= _ANSWERS:
                _answers.clear()
            _answers[raw] = head
            head.kept = True
    return head


def _parse_answer(raw: bytes) -> AnswerHead:
    match = _STATUS_LINE.fullmatch(raw, 0, raw.index(b"\r\n"))
    if match is None:
        raise MalformedHead("not a status line of HTTP/1.1 or 1.0")
    head = AnswerHead(status=int(match[2]), reason=match[3] or b"", minor_version=match[1][0] - 48)
    special = _scan(raw.split(b"\r\n")[1:-2], head.headers)
    if special:
        _read_fields(head, special)
    options = head.connection
    if head.minor_version == 0:
        if head.chunked:
            raise MalformedHead("Transfer-Encoding in HTTP/1.0")
        head.keep_alive = b"keep-alive" in options and b"close" not in options
    else:
        head.keep_alive = b"close" not in options
    return head


FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
# Most lines of most heads were seen before, byte for byte. What was read stays the same, so it is kept;
# longer lines, and those that hold secrets or belong to one message, are not.
_seen: dict[bytes, Header] = {}
_SEEN_LINES: Final = 1024
_SEEN_BYTES: Final = 160
_NOT_KEPT: Final = frozenset(
    (
        b"authorization", b"cookie", b"etag", b"last-modified", b"proxy-authorization", b"set-cookie",
        b"www-authenticate",
    )
)  # fmt: skip


def _scan(lines: list[bytes], headers: list[Header]) -> list[Header]:
    """Append the fields in `lines` to `headers`; return those that `_read_fields` looks at.

    Raises MalformedHead for a line that is not a token, a colon and a value (RFC 9112 5): so for a folded
    line, for a bare CR or LF, and for a control byte other than a tab, which no value may hold.
    """
    special: list[Header] = []
    if len(lines) > MAX_FIELDS:
        raise MalformedHead(f"more than {MAX_FIELDS} fields", status=431)
    for line in lines:
        header = _seen.get(line)
        if header is None:
            match = FIELD.fullmatch(line)
            if match is None:
                raise MalformedHead("a line that is no field")
            name, value = match.groups()
            # RFC 9112 5.1: the white space behind a value is not part of it.
            header = (name.lower(), name, value.rstrip(b" \t"))
            if len(line) <= _SEEN_BYTES and header[0] not in _NOT_KEPT:
                if len(_seen) >= _SEEN_LINES:
                    _seen.clear()
                _seen[line] = header
        headers.append(header)
        if header[0] in SPECIAL:
            special.append(header)
    return special


SPECIAL: Final = frozenset(
    (b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"host", b"expect")
)


def _read_fields(head: Fields, special: list[Header]) -> None:
    options: list[bytes] = []
    encodings: list[bytes] = []
    for key, _, value in special:
        if key == b"connection":
            options += [option.strip().lower() for option in value.split(b",")]
        elif key == b"content-length":
            if head.content_length is not None or not _LENGTH.fullmatch(value):
                raise MalformedHead("Content-Length must be one whole number")
            head.content_length = int(value)
        elif key == b"transfer-encoding":
            encodings.append(value.lower())
        elif key == b"upgrade":
            head.upgrade = value if head.upgrade is None else head.upgrade + b", " + value
    if options:
        head.connection = frozenset(options)
    if encodings:
        if head.content_length is not None:
            raise MalformedHead("both Transfer-Encoding and Content-Length")
        if encodings != [b"chunked"]:
            raise MalformedHead("a transfer coding other than chunked", status=501)
        head.chunked = True


def _read_own(head: RequestHead, special: list[Header]) -> None:
    """Host and Expect, which only requests have."""
    host = expect = None
    for key, _, value in special:
        if key == b"host":
            if host is not None:
                raise MalformedHead("there must be one Host")
            host = value
        elif key == b"expect" and expect is None:
            expect = value
    if host is not None:
        if not _HOST.fullmatch(host):
            raise MalformedHead("a Host that is none")
        head.host = host
    elif head.minor_version == 1:
        raise MalformedHead("there must be one Host")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise MalformedHead("an expectation other than 100-continue", status=417)
        head.expects_continue = head.minor_version == 1


def _read_target(head: RequestHead) -> None:
    """Bring absolute-form (RFC 9112 3.2.2) to origin-form; it must name the same authority as Host."""
    target = head.target
    if target.startswith(b"/"):
        if b"#" in target:
            raise MalformedHead("a fragment in the target")
        return
    if target == b"*" and head.method == b"OPTIONS":
        return
    match = re.match(rb"(?i)https?://([^/?#@]+)(/[^#]*|\?[^#]*)?$", target)
    if match is None:
        raise MalformedHead("a target that is neither a path nor a URL")
    if head.host is not None and match[1].lower() != head.host.lower():
        raise MalformedHead("target and Host name different authorities")
    rest = match[2] or b"/"
    head.target = rest if rest.startswith(b"/") else b"/" + rest
