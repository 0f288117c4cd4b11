"""One strict reading of each head, or none."""

from __future__ import annotations

import pytest

from failover.errors import LimitExceeded, MalformedHead
from failover.http.head import head_end, parse_answer, parse_request

H = b"Host: a\r\n"


def test_good_request() -> None:
    head = parse_request(
        b"GET /a%20b?q=%5E HTTP/1.1\r\nHost: pacs:8080\r\nAccept:  text/html \t\r\nEmpty:\r\n"
        b"Connection: close, X-Mine\r\n\r\n"
    )
    assert (head.method, head.target, head.host, head.minor_version) == (
        b"GET",
        b"/a%20b?q=%5E",
        b"pacs:8080",
        1,
    )
    assert head.headers[1] == (b"accept", b"Accept", b"text/html")
    assert head.first(b"empty") == b""
    assert head.connection == {b"close", b"x-mine"}
    assert not head.keep_alive


REFUSED = [
    # the first line
    (b"GET /\r\n\r\n", 400),  # HTTP/0.9
    (b"GET / HTTP/2.0\r\n" + H + b"\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\n", 505),
    (b"GET / HTTP/1.2\r\n" + H + b"\r\n", 505),
    (b"GET / HTTP/11.1\r\n" + H + b"\r\n", 400),
    (b"GET / ICE/1.0\r\n" + H + b"\r\n", 400),
    (b"GET / http/1.1\r\n" + H + b"\r\n", 400),
    (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /  HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b" GET / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /a b HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET /#f HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET a HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET * HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"G@T / HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"CONNECT a:1 HTTP/1.1\r\n" + H + b"\r\n", 405),
    (b"TRACE / HTTP/1.1\r\n" + H + b"\r\n", 405),
    # Host
    (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + H + b"\r\n", 400),
    (b"GET / HTTP/1.0\r\n" + H + H + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
    (b"GET http://b/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    (b"GET ftp://a/ HTTP/1.1\r\n" + H + b"\r\n", 400),
    # lines
    (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b" folded: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"\tfolded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n X: first\r\n" + H + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\x00b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\x0bb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: a\x7fb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X : a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b": a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"no colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X(y): a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X\xc3: a\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + H + b"X: y\r\n" * 300 + b"\r\n", 431),
    # framing
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1, 1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: +1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 0x1\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1_0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1 0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length:\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 18446744073709551616\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: identity\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding:\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b'Transfer-Encoding: "chunked"\r\n\r\n', 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
    (b"POST / HTTP/1.1\r\n" + H + b"Expect: tea\r\n\r\n", 417),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "status"), REFUSED)
def test_refused_requests(raw: bytes, status: int) -> None:
    with pytest.raises(MalformedHead) as raised:
        parse_request(raw)
    # llhttp may refuse a coding that we would call not implemented: either way it is not served.
    assert raised.value.status == status or {raised.value.status, status} == {400, 501}


@pytest.mark.parametrize(("target", "read"), [
    (b"http://a/x?y", b"/x?y"), (b"HTTP://A", b"/"), (b"http://a?q", b"/?q"), (b"/x//y/../z", b"/x//y/../z"),
])  # fmt: skip
def test_absolute_form_becomes_origin_form(target: bytes, read: bytes) -> None:
    assert parse_request(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target).target == read


def test_unknown_methods_are_read_with_their_fields() -> None:
    head = parse_request(b"FROB /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n")
    assert (head.method, [value for _, _, value in head.headers]) == (b"FROB", [b"a", b"y"])


def test_http_1_0_needs_no_host_and_gets_one_answer() -> None:
    head = parse_request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert head.host is None
    assert not head.keep_alive


@pytest.mark.parametrize(("lines", "wanted"), [
    (b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
    (b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", True),
    (b"Upgrade: websocket\r\n", False),
    (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
    (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", False),
    (b"Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", False),
    (b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", False),
])  # fmt: skip
def test_only_websocket_is_an_upgrade(lines: bytes, wanted: bool) -> None:
    assert parse_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n").wants_websocket is wanted


def test_good_answers() -> None:
    head = parse_answer(b"HTTP/1.1 200 All good\r\nContent-Length: 3\r\n\r\n")
    assert (head.status, head.reason, head.content_length, head.keep_alive) == (200, b"All good", 3, True)
    assert parse_answer(b"HTTP/1.1 200\r\n\r\n").reason == b""
    assert not parse_answer(b"HTTP/1.0 200 OK\r\n\r\n").keep_alive
    assert parse_answer(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n").keep_alive


@pytest.mark.parametrize("raw", [
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"HTTP/1.1 99 Low\r\n\r\n",
    b"HTTP/1.1 600 High\r\n\r\n",
    b"HTTP/1.1 2000 Long\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"HTTP/1.1 200 O\x00K\r\n\r\n",
    b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
])  # fmt: skip
def test_refused_answers(raw: bytes) -> None:
    with pytest.raises(MalformedHead):
        parse_answer(raw)


def test_head_end() -> None:
    assert head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", 0, 100) == 27
    assert head_end(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 0, 100) == -1
    with pytest.raises(LimitExceeded):
        head_end(b"x" * 101, 0, 100)
    with pytest.raises(LimitExceeded):
        head_end(b"x" * 101 + b"\r\n\r\n", 0, 100)
    with pytest.raises(MalformedHead):
        head_end(b"GET / HTTP/1.1\nHost: a\n\n", 0, 100)


def test_a_head_that_comes_again_is_read_once() -> None:
    raw = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "read-once"\r\n\r\n'

    first = parse_answer(raw)

    assert parse_answer(bytes(bytearray(raw))) is first
    assert first.kept


@pytest.mark.parametrize(
    "line",
    [
        b"Set-Cookie: session=once",
        b"WWW-Authenticate: Digest nonce=once",
        b"Location: /once",
        b"X-Long: " + b"o" * 1024,
    ],
)
def test_a_head_with_a_secret_or_of_one_answer_is_not_kept(line: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n"

    first = parse_answer(raw)

    assert parse_answer(bytes(bytearray(raw))) is not first
    assert not first.kept
