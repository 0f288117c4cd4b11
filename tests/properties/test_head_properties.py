"""What we accept as a head, llhttp reads in the same way; a head read again is read as the first time."""

from __future__ import annotations

import contextlib
from functools import partial

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from failover.errors import MalformedHead
from failover.http.head import RequestHead, parse_answer, parse_request
from failover.http.known import Known, is_plain
from failover.model import UpstreamName
from failover.proxy.classify import Asked, WebRoute, classify
from failover.proxy.rewrite import binds_connection, request_head
from failover.proxy.upstreams import WebUpstream
from failover.routing.selection import Kind

_LINES = (
    b"Host: a", b"Host: a:80", b"Accept: text/html", b"X: \t y z \t", b"X:", b"x-y_z: \xff",
    b"Content-Length: 5", b"Content-Length: +5", b"Transfer-Encoding: chunked", b"Connection: close, X",
    b"Upgrade: websocket", b"Expect: 100-continue", b"Cookie: a=b; c=d", b"Bad Name: x", b"X : y", b" folded",
    b": empty", b"X;y: z", b"(X): y", b"no colon", b"X: a\x00b", b"X: a\x7fb", b"X: a\nY: b", b"X: a\rb",
    b"X\x80: y",
)  # fmt: skip
lines = st.lists(st.sampled_from(_LINES) | st.binary(max_size=12), max_size=6)
first_lines = st.sampled_from(
    [b"GET /a HTTP/1.1", b"HEAD /b?c=d HTTP/1.1", b"GET /c HTTP/1.0", b"POST /d HTTP/1.1",
     b"GET  /e HTTP/1.1", b"GET /f#g HTTP/1.1", b"GET http://a/h HTTP/1.1", b"GET /\x7f HTTP/1.1",
     b"OPTIONS * HTTP/1.1", b"GET /i", b"GET /j\rk HTTP/1.1", b"GET /\xc3\xa4 HTTP/1.1", b"GET /l HTTP/2.0",
     b"TRACE / HTTP/1.1"]
) | st.binary(max_size=24)  # fmt: skip


class _Collector:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), name, value.rstrip(b" \t")))


def _head(first: bytes, fields: list[bytes]) -> bytes:
    return b"\r\n".join([first, *fields]) + b"\r\n\r\n"


def _read(raw: bytes) -> RequestHead | None:
    try:
        return parse_request(raw)
    except MalformedHead:
        return None


def _known(raw: bytes) -> Known | None:
    head = _read(raw)
    return Known(head, raw) if head is not None and is_plain(head) else None


@given(first_lines, lines)
def test_llhttp_reads_what_we_accept_in_the_same_way(first: bytes, fields: list[bytes]) -> None:
    raw = _head(first, fields)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    head = _read(raw)
    if head is None:
        return
    theirs = _Collector()
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(theirs).feed_data(raw)
    assert theirs.headers == head.headers


@given(lines)
def test_llhttp_reads_the_answers_we_accept_in_the_same_way(fields: list[bytes]) -> None:
    raw = _head(b"HTTP/1.1 200 OK", fields)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        head = parse_answer(raw)
    except MalformedHead:
        return
    theirs = _Collector()
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpResponseParser(theirs).feed_data(raw)
    assert theirs.headers == head.headers


@given(first_lines, first_lines, lines)
def test_read_again_is_as_read_whole(before: bytes, first: bytes, fields: list[bytes]) -> None:
    known = _known(_head(before, fields))
    if known is not None:
        again = known.again(_head(first, fields))
        assert again is None or again == _read(_head(first, fields))


@given(first_lines, first_lines, lines, st.lists(st.tuples(st.integers(0, 9), lines), max_size=4))
def test_what_is_like_another_is_as_read_whole(
    before: bytes, first: bytes, fields: list[bytes], changes: list[tuple[int, list[bytes]]]
) -> None:
    """Given lines that are replaced, by none, one or several others, no reading differs from that of all."""
    known = _known(_head(before, fields))
    changed = list(fields)
    for place, others in changes:
        changed[place % (len(changed) + 1) : place % (len(changed) + 1) + 1] = others[:1]
    raw = _head(first, changed)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    if known is not None:
        like = known.like(raw)
        assert like is None or like == _read(raw)


@given(
    st.lists(st.sampled_from([*_LINES, b"X-Trace: 1", b"x-trace:2", b"Accept: b"]), max_size=6),
    st.integers(0, 6),
    st.lists(st.binary(max_size=9) | st.sampled_from([b"3", b" 4 ", b"5\r\nX: 6"]), min_size=2, max_size=4),
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([b"", b"X-Trace: 1", b"Host: b"])), max_size=2),
)  # fmt: skip
def test_what_differs_again_in_one_place_is_as_read_whole(
    fields: list[bytes], place: int, values: list[bytes], changes: list[tuple[int, bytes]]
) -> None:
    """Given heads that differ in the value of one field, and then in more, each is as read whole."""
    fields.insert(place, b"X-Trace: 0")
    place = fields.index(b"X-Trace: 0")
    known = _known(_head(b"GET /a HTTP/1.1", fields))
    if known is None:
        return
    for value in values:
        raw = _head(b"GET /b HTTP/1.1", [*fields[:place], b"X-Trace:" + value, *fields[place + 1 :]])
        raw = raw[: raw.index(b"\r\n\r\n") + 4]
        like = known.again(raw) or known.like(raw)
        assert like is None or like == _read(raw)
    for at, line in changes:
        fields[at : at + 1] = [line] if line else []
        raw = _head(b"GET /c HTTP/1.1", fields)
        like = known.again(raw) or known.like(raw)
        assert like is None or like == _read(raw)


def test_a_head_that_lacks_one_of_two_equal_fields_is_not_like_one_that_has_both() -> None:
    """What stands before the value that differs and what stands behind it may overlap."""
    fields = [b"Host: a", b"X: 1", b"X:", b"Y: z"]
    known = _known(_head(b"GET /a HTTP/1.1", fields))
    assert known is not None
    assert known.like(_head(b"GET /a HTTP/1.1", [fields[0], b"X: 2", *fields[2:]])) is not None
    other = _head(b"GET /a HTTP/1.1", [fields[0], b"X: 3", *fields[2:]])
    assert known.again(other) == _read(other)
    less = _head(b"GET /a HTTP/1.1", [fields[0], *fields[2:]])
    like = known.again(less)
    assert like is None or like == _read(less)


USUAL = [b"Host: a", b"Accept: b", b"X-Trace: 1", b"Referer: http://a/1", b"Connection: x-trace"]


@pytest.mark.parametrize(
    ("place", "line", "is_like"),
    [
        (2, b"X-Trace: 2", True),
        (2, b"x-trace:2 ", True),
        (1, b"Accept: text/html", True),
        (3, b"Referer: http://a/2", True),
        (3, b"Authorization: Negotiate abc", False),  # another name
        (0, b"Host: b", False),
        (4, b"Connection: referer", False),
        (2, b"X-Trace : 2", False),
        (2, b"X-Trace: 2\n", False),
        (2, b" X-Trace: 2", False),
        (2, b"", False),
    ],
)
def test_what_may_differ(place: int, line: bytes, is_like: bool) -> None:
    before = _head(b"GET /a HTTP/1.1", USUAL)
    known = parse_request(before)
    asked = Asked(WebRoute.OTHER, Kind.READ, b"/a")
    primary = WebUpstream(UpstreamName.PRIMARY, "127.0.0.1", 80)
    one = partial(
        request_head, asked=asked, upstream=primary, forwarded=b"F: 1\r\n", prefix=None, framing=b""
    )
    for known_was_sent in (False, True):
        if known_was_sent:
            assert classify(known, None)
            assert not binds_connection(known)
            assert one(known)
        raw = _head(b"GET /b HTTP/1.1", [*USUAL[:place], line, *USUAL[place + 1 :]])
        last = Known(known, before)
        like = last.like(raw)
        assert (like is not None) == is_like
        for read in (like, last.again(raw)):
            if read is not None:
                whole = parse_request(raw)
                assert read == whole
                assert one(read) == one(whole)
                assert classify(read, None).route is classify(whole, None).route
                assert binds_connection(read) == binds_connection(whole)


def test_what_differs_may_be_a_login() -> None:
    fields = [b"Host: a", b"Authorization: Basic abc"]
    known = parse_request(_head(b"GET /a HTTP/1.1", fields))
    assert not binds_connection(known)
    last = Known(known, _head(b"GET /a HTTP/1.1", fields))
    raw = _head(b"GET /a HTTP/1.1", [fields[0], b"Authorization: NTLM abc"])
    for like in (last.like(raw), last.again(raw)):
        assert like is not None
        assert binds_connection(like)


def test_the_usual_is_read_again() -> None:
    fields = [b"Host: a", b"Accept: b"]
    known = _known(_head(b"GET /a HTTP/1.1", fields))
    assert known is not None
    again = known.again(_head(b"GET /b HTTP/1.1", fields))
    assert again == parse_request(_head(b"GET /b HTTP/1.1", fields))
    assert known.again(_head(b"POST /b HTTP/1.1", fields)) is None  # without a length: another matter
    assert known.again(_head(b"GET /b HTTP/1.0", fields)) is None
    assert known.again(b"GET /b HTTP/1.1\r\nX: y\r\n" + b"\r\n".join(fields) + b"\r\n\r\n") is None
