"""Where a body ends: by length, by chunks, by the end of the connection, or there is none. Pure.

Readers take bytes as they come and give the payload; framing never passes through. Chunk extensions and
trailers are read strictly and dropped (RFC 9112 7.1.1, 7.1.2: a recipient may).
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from failover.errors import MalformedBody
from failover.http.head import AnswerHead, RequestHead

LAST_CHUNK: Final = b"0\r\n\r\n"
# Size and extensions of one chunk: nobody sends extensions; without a bound they would be held for ever.
_MAX_SIZE_LINE: Final = 256
# All trailers of one body.
_MAX_TRAILERS: Final = 8192
# 15 hexadecimal digits: below 2**60 in every implementation that may read it after us.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t -~\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*")


class BodyReader(Protocol):
    """Takes the bytes after a head. Once `ended`, `rest` holds what belongs to the next message."""

    ended: bool
    rest: bytes

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`. Raises MalformedBody. Not to be called once `ended`."""

    def finish(self) -> bool:
        """The connection ended: return whether the body is whole."""


class NoBody:
    __slots__ = ("ended", "rest")

    def __init__(self) -> None:
        self.ended = True
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        self.rest += data
        return b""

    def finish(self) -> bool:
        return True


class LengthBody:
    """A body of `length` bytes, more than none (RFC 9112 6.2)."""

    __slots__ = ("ended", "left", "rest")

    def __init__(self, length: int) -> None:
        self.left = length
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        count = len(data)
        if count < self.left:
            self.left -= count
            return data
        self.ended = True
        if count > self.left:
            self.rest = data[self.left :]
            data = data[: self.left]
        self.left = 0
        return data

    def finish(self) -> bool:
        return self.ended


class UntilClose:
    """A body that ends with its connection (RFC 9112 6.3, rule 8); whole or not cannot be told."""

    __slots__ = ("ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bool:
        self.ended = True
        return True


class ChunkedBody:
    """A body in chunks (RFC 9112 7.1)."""

    __slots__ = ("_left", "_line", "_phase", "_trailers", "ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.rest = b""
        self._phase = "size"  # size, payload, after (the CRLF behind a payload), trailers
        self._left = 0
        self._line = b""  # a line not yet whole
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        payload: list[bytes] = []
        place, count = 0, len(data)
        while place < count and not self.ended:
            if self._phase == "payload":
                piece = data[place : place + self._left]
                payload.append(piece)
                place += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._phase = "after"
                continue
            end = data.find(b"\n", place)
            self._line += data[place:] if end < 0 else data[place : end + 1]
            place = count if end < 0 else end + 1
            if end >= 0:
                self._take_line()
            else:
                self._check_waiting_line()
        if self.ended:
            self.rest = data[place:]
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _check_waiting_line(self) -> None:
        limit = _MAX_TRAILERS if self._phase == "trailers" else _MAX_SIZE_LINE
        if len(self._line) > limit:
            raise MalformedBody("a chunk size line or trailer without an end")
        if self._phase == "after" and not b"\r\n".startswith(self._line):
            raise MalformedBody("a chunk longer than its size")

    def _take_line(self) -> None:
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise MalformedBody("a line in a chunked body that ends with a bare LF")
        line = line[:-2]
        if self._phase == "after":
            if line:
                raise MalformedBody("a chunk longer than its size")
            self._phase = "size"
        elif self._phase == "size":
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(line) > _MAX_SIZE_LINE:
                raise MalformedBody("a chunk size that is none")
            self._left = int(match[1], 16)
            self._phase = "payload" if self._left else "trailers"
        elif not line:
            self.ended = True
        else:
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILERS or not _TRAILER.fullmatch(line):
                raise MalformedBody("a trailer that is none, or too many of them")

    def finish(self) -> bool:
        return self.ended


_NO_STATUS_BODY: Final = (204, 304)


def request_body(head: RequestHead) -> BodyReader:
    """Return the reader of a request's body (RFC 9112 6.3: without framing fields there is none)."""
    if head.chunked:
        return ChunkedBody()
    if head.content_length:
        return LengthBody(head.content_length)
    return _NONE


# Nobody feeds what has ended: one is enough for all requests that end with their head.
_NONE: Final = NoBody()


def answer_has_body(head: AnswerHead, method: bytes) -> bool:
    """Return whether an answer to `method` can have a body (RFC 9112 6.3, rules 1 and 2)."""
    return method != b"HEAD" and head.status >= 200 and head.status not in _NO_STATUS_BODY


def answer_body(head: AnswerHead, method: bytes) -> BodyReader:
    """Return the reader of the body of an answer to `method` (RFC 9112 6.3)."""
    if not answer_has_body(head, method):
        return NoBody()
    if head.chunked:
        return ChunkedBody()
    if head.content_length is None:
        return UntilClose()
    return LengthBody(head.content_length) if head.content_length else NoBody()


def chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return `data`, which is not empty, as one chunk, in pieces for `writelines`."""
    return b"%x\r\n" % len(data), data, b"\r\n"
