"""Bodies end where one strict reading says so."""

from __future__ import annotations

import collections

import pytest

from failover.errors import MalformedBody
from failover.http.framing import (
    BodyReader,
    ChunkedBody,
    LengthBody,
    NoBody,
    UntilClose,
    answer_body,
    request_body,
)
from failover.http.head import parse_answer, parse_request


def test_length_body_keeps_the_rest_for_the_next_message() -> None:
    body = LengthBody(5)
    assert (body.feed(b"abc"), body.ended) == (b"abc", False)
    assert (body.feed(b"deXYZ"), body.ended, body.rest) == (b"de", True, b"XYZ")


def test_chunked_body_drops_extensions_and_trailers() -> None:
    body = ChunkedBody()
    assert body.feed(b'3;a=b;c="d"\r\nabc\r\n002\r\nde\r\n0\r\nX: y\r\n\r\nGET') == b"abcde"
    assert (body.ended, body.rest) == (True, b"GET")


@pytest.mark.parametrize("raw", [
    b"x\r\n", b"\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1 \r\n", b" 1\r\n", b"1\n", b"1_0\r\n", b";a\r\n",
    b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na\rb", b"1000000000000000\r\n", b"1;\x00\r\n", b"1;" + b"x" * 300,
    b"0\r\nno colon\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n folded: x\r\n\r\n", b"0\r\nX: \x00\r\n\r\n",
    b"0\n\n",
    b"0\r\n" + b"X: " + b"y" * 9000,
    b"0\r\n" + b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 200,
])  # fmt: skip
def test_chunked_bodies_without_one_reading(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        ChunkedBody().feed(raw)
    body = ChunkedBody()
    with pytest.raises(MalformedBody):
        collections.deque((body.feed(raw[i : i + 1]) for i in range(len(raw))), maxlen=0)


def test_what_is_cut_off_is_not_whole() -> None:
    for reader, data in ((LengthBody(5), b"abc"), (ChunkedBody(), b"3\r\nabc\r\n")):
        reader.feed(data)
        assert not reader.finish()
    assert UntilClose().finish()


@pytest.mark.parametrize(("lines", "kind"), [
    (b"", NoBody), (b"Content-Length: 0\r\n", NoBody), (b"Content-Length: 1\r\n", LengthBody),
    (b"Transfer-Encoding: Chunked\r\n", ChunkedBody),
])  # fmt: skip
def test_request_bodies(lines: bytes, kind: type[BodyReader]) -> None:
    head = parse_request(b"POST / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    assert isinstance(request_body(head), kind)


@pytest.mark.parametrize(("status", "lines", "method", "kind"), [
    (200, b"", b"GET", UntilClose), (200, b"", b"HEAD", NoBody),
    (200, b"Content-Length: 9\r\n", b"HEAD", NoBody),
    (200, b"Content-Length: 9\r\n", b"GET", LengthBody), (204, b"Content-Length: 9\r\n", b"GET", NoBody),
    (304, b"Transfer-Encoding: chunked\r\n", b"GET", NoBody), (200, b"Content-Length: 0\r\n", b"GET", NoBody),
    (404, b"Transfer-Encoding: chunked\r\n", b"GET", ChunkedBody),
])  # fmt: skip
def test_answer_bodies(status: int, lines: bytes, method: bytes, kind: type[BodyReader]) -> None:
    head = parse_answer(b"HTTP/1.1 %d X\r\n" % status + lines + b"\r\n")
    assert isinstance(answer_body(head, method), kind)
