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
    lines: list[bytes] = field(default_factory=list, compare=False, repr=False)
    """The fields as they came, or as those of the head came of which this is told apart."""

    @property
    def keep_alive(self) -> bool:
        """Whether the caller wants to send another request. HTTP/1.0 callers get one answer each."""
        return self.minor_version == 1 and b"close" not in self.connection

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

    @property
    def keep_alive(self) -> bool:
        if self.minor_version == 0:
            return b"keep-alive" in self.connection and b"close" not in self.connection
        return b"close" not in self.connection


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
    head.lines = lines[1:-2]
    special = _scan(head.lines, head.headers)
    _read_fields(head, special)
    _read_own(head, special)
    _read_target(head)
    if head.minor_version == 0 and head.chunked:
        # RFC 9112 6.1: a 1.0 message with Transfer-Encoding has framing that cannot be trusted.
        raise MalformedHead("Transfer-Encoding in HTTP/1.0")
    return head


_PATH: Final = re.compile(rb"/[!\"$-~]*")


def parse_again(line: bytes, known: RequestHead) -> RequestHead | None:
    """Return the head of first line `line` whose fields are, byte for byte, those of `known`.

    None when `known` does not tell how to read it: then it is read whole. Never for a message with a body,
    an expectation or an upgrade.
    """
    method, _, rest = line.partition(b" ")
    if method != known.method or rest[-9:] != b" HTTP/1.1" or not _is_plain(known):
        return None
    target = rest[:-9]
    if _PATH.fullmatch(target) is None:
        return None
    head = RequestHead.__new__(RequestHead)
    head.headers, head.connection, head.derived = known.headers, known.connection, known.derived
    head.content_length, head.chunked, head.upgrade, head.expects_continue = None, False, None, False
    head.method, head.target, head.minor_version, head.host = known.method, target, 1, known.host
    head.lines = known.lines
    return head


# Beyond so many it is another request, and read whole.
_CHANGED: Final = 3
LIKE: Final = "like"
"""In `derived`: the head whose fields these are, and the places of those that differ."""
# What is worked out from fields alone and stays true while no field of these names differs.
_PAGES: Final = frozenset((b"accept",))
_BINDS: Final = frozenset((b"authorization", b"proxy-authenticate", b"www-authenticate"))


def parse_like(raw: bytes, known: RequestHead) -> RequestHead | None:
    """Return the head in `raw`, of which at most a few lines differ from those of `known`.

    A caller's next request has another Referer, Accept or trace number and the same ten fields besides. What
    differs is read as strictly as ever, and must have the same name in the same place; nothing that says how
    the message is framed, or to whom it goes, may differ. None: `raw` is to be read whole.
    """
    lines, old = raw.split(b"\r\n"), known.lines
    count = len(old)
    if not count or len(lines) != count + 3:
        return None
    head = parse_again(lines[0], known)
    if head is None:
        return None
    headers = known.headers.copy()
    changed: list[int] = []
    pages, binds = True, True
    for place in range(count):
        line = lines[place + 1]
        if line == old[place]:
            continue
        match = _FIELD.fullmatch(line)
        if match is None or len(changed) == _CHANGED:
            return None
        name, value = match.groups()
        key = headers[place][0]
        if name.lower() != key or key in _KEEP:
            return None
        headers[place] = (key, name, value.rstrip(b" \t"))
        changed.append(place)
        pages, binds = pages and key not in _PAGES, binds and key not in _BINDS
    head.headers = headers
    derived: dict[Hashable, Any] = {LIKE: (known, changed)}
    before = known.derived
    if pages and "pages" in before:
        derived["pages"] = before["pages"]
    if binds and "binds" in before:
        derived["binds"] = before["binds"]
    head.derived = derived
    return head


def _is_plain(head: RequestHead) -> bool:
    return (
        head.minor_version == 1
        and head.content_length is None
        and not head.chunked
        and head.upgrade is None
        and not head.expects_continue
    )


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
    if head.minor_version == 0 and head.chunked:
        raise MalformedHead("Transfer-Encoding in HTTP/1.0")
    return head


_FIELD: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
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
            match = _FIELD.fullmatch(line)
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
        if header[0] in _KEEP:
            special.append(header)
    return special


_KEEP: Final = frozenset(
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
