"""Multipart bodies (RFC 2046 5.1, as PS3.18 8.6.1 uses them): a streaming parser and a writer. Pure.

The parser gets bytes in any split and returns events; it holds back a delimiter's length and no more, so a
part of any size passes in flat memory. It decides nothing about types: `media_types` does. The boundary of
what we write is given by whoever writes, long and random, because OHIF and others search for it in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from failover.errors import LimitExceeded, MalformedMultipart

# RFC 2046 5.1.1: bchars, 1 to 70 of them, not ending with a space.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CRLF: Final = b"\r\n"
# A part's head beyond this is refused: what DICOMweb needs has less than 500 bytes.
MAX_PART_HEAD_BYTES: Final = 16384
# More spaces than this after a boundary are content, not padding (RFC 2046: transport-padding).
_MAX_PADDING: Final = 256


@dataclass(frozen=True, slots=True)
class PartBegan:
    """A part's head is complete. Field names in lower case."""

    headers: Mapping[str, str]
    raw: bytes = b""
    """The head as it came, without the empty line that ends it."""


@dataclass(frozen=True, slots=True)
class PartBytes:
    """The next bytes of the part's content; never empty."""

    content: bytes


@dataclass(frozen=True, slots=True)
class PartEnded:
    """The part is whole: its delimiter was seen."""


@dataclass(frozen=True, slots=True)
class BodyEnded:
    """The close delimiter was seen: no part can follow. What comes after it (epilogue) is dropped."""


Event = PartBegan | PartBytes | PartEnded | BodyEnded


class _Expect(Enum):
    PREAMBLE = auto()
    HEAD = auto()
    CONTENT = auto()
    NOTHING = auto()


class _Line(Enum):
    """What follows a boundary: it makes the line a delimiter, the last one, or content that looks similar."""

    DELIMITER = auto()
    CLOSE = auto()
    CONTENT = auto()
    UNKNOWN_YET = auto()


class MultipartParser:
    """Bytes in, events out. One body each."""

    def __init__(
        self, boundary: str, *, max_head_bytes: int = MAX_PART_HEAD_BYTES, max_parts: int | None = None
    ) -> None:
        """`max_parts`: one more raises LimitExceeded. Raises MalformedMultipart when the boundary is none."""
        if not _BOUNDARY.fullmatch(boundary):
            raise MalformedMultipart("the boundary is not 1 to 70 characters of RFC 2046 5.1.1")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._max_head_bytes = max_head_bytes
        self._max_parts = max_parts
        self._parts = 0
        # RFC 2046: the first delimiter needs no CRLF before it. We put one there, so that all look alike.
        self._rest = bytearray(_CRLF)
        self._expect = _Expect.PREAMBLE
        self._skip = 0  # bytes of `_rest` that are not content: the CRLF that ended the head

    @property
    def ended(self) -> bool:
        """Whether the close delimiter was seen."""
        return self._expect is _Expect.NOTHING

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """Return what is complete now. Raises MalformedMultipart, LimitExceeded."""
        events: list[Event] = []
        if self._expect is _Expect.NOTHING:
            return events  # the epilogue
        self._rest += data
        while self._advance(events):
            pass
        return events

    def receive_end(self) -> None:
        """The body is over. Raises MalformedMultipart unless the close delimiter was seen."""
        if not self.ended:
            raise MalformedMultipart("the body ended before its close delimiter")

    def _advance(self, events: list[Event]) -> bool:
        """Take one step; False when more bytes are needed or none are wanted."""
        if self._expect is _Expect.HEAD:
            return self._take_head(events)
        if self._expect is _Expect.NOTHING:
            return False
        return self._take_content(events)

    def _take_head(self, events: list[Event]) -> bool:
        # `_rest` begins with the CRLF of the delimiter's line, so an empty head is CRLF CRLF like any other.
        end = self._rest.find(b"\r\n\r\n")
        if end > self._max_head_bytes or (end < 0 and len(self._rest) > self._max_head_bytes):
            raise LimitExceeded(f"the head of a part has more than {self._max_head_bytes} bytes")
        if end < 0:
            return False
        self._parts += 1
        if self._max_parts is not None and self._parts > self._max_parts:
            raise LimitExceeded(f"more than {self._max_parts} parts")
        raw = bytes(self._rest[2:end]) if end else b""
        events.append(PartBegan(_parse_head(raw), raw))
        # The CRLF that ends the head may be the one before the next delimiter: an empty part of some senders.
        del self._rest[: end + 2]
        self._skip = 2
        self._expect = _Expect.CONTENT
        return True

    def _take_content(self, events: list[Event]) -> bool:
        searched_from = 0
        while True:
            at = self._rest.find(self._delimiter, searched_from)
            if at < 0:
                # Everything but what may be the beginning of a delimiter is content.
                self._pass_on(events, len(self._rest) - len(self._delimiter) + 1)
                return False
            line, padding = _what_follows(self._rest, at + len(self._delimiter))
            if line is _Line.UNKNOWN_YET:
                self._pass_on(events, at)
                return False
            if line is not _Line.CONTENT:
                break
            searched_from = at + 1
        if self._expect is _Expect.CONTENT:
            if at > self._skip:
                events.append(PartBytes(bytes(memoryview(self._rest)[self._skip : at])))
            events.append(PartEnded())
        self._skip = 0
        if line is _Line.CLOSE:
            self._rest.clear()
            self._expect = _Expect.NOTHING
            events.append(BodyEnded())
            return False
        del self._rest[: at + len(self._delimiter) + padding]
        self._expect = _Expect.HEAD
        return True

    def _pass_on(self, events: list[Event], end: int) -> None:
        """Pass on `_rest` up to `end` as content; in the preamble it is dropped."""
        if end <= self._skip:
            return
        if self._expect is _Expect.CONTENT:
            events.append(PartBytes(bytes(memoryview(self._rest)[self._skip : end])))
        del self._rest[:end]
        self._skip = 0


def _what_follows(rest: bytearray, at: int) -> tuple[_Line, int]:
    """Return what the bytes at `at`, just behind a boundary, make of it, and the padding's length."""
    if rest[at : at + 2] == b"--":
        return _Line.CLOSE, 0
    padding = 0
    while at + padding < len(rest) and rest[at + padding] in b" \t":
        padding += 1
        if padding > _MAX_PADDING:
            return _Line.CONTENT, 0
    ending = bytes(rest[at + padding : at + padding + 2])
    if ending == _CRLF:
        return _Line.DELIMITER, padding
    if len(ending) < 2 and (_CRLF.startswith(ending) or (not padding and ending == b"-")):
        return _Line.UNKNOWN_YET, 0
    return _Line.CONTENT, 0


def _parse_head(head: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    if not head:
        return headers
    for line in head.split(_CRLF):
        if line[:1] in (b" ", b"\t") and headers:
            last = next(reversed(headers))  # RFC 5322 2.2.3: folded; `type=` of some senders is
            headers[last] += " " + line.strip().decode("latin-1")
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise MalformedMultipart("the head of a part has a line that is no field")
        headers[name.decode("ascii").lower()] = value.strip().decode("latin-1")
    return headers


@dataclass(frozen=True, slots=True)
class MultipartWriter:
    """The framing of a body that we write; contents pass beside it."""

    boundary: str
    _delimiter: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not _BOUNDARY.fullmatch(self.boundary):
            raise ValueError("the boundary is not 1 to 70 characters of RFC 2046 5.1.1")
        object.__setattr__(self, "_delimiter", b"\r\n--" + self.boundary.encode("ascii"))

    def content_type(self, part_type: str) -> str:
        """The Content-Type of the whole: multipart/related (RFC 2387) of parts of `part_type`."""
        return f'multipart/related; type="{part_type}"; boundary="{self.boundary}"'

    def part_head(self, headers: Mapping[str, str]) -> bytes:
        """What stands before a part's content. Raises ValueError: a value that would end the line."""
        lines = [self._delimiter]
        for name, value in headers.items():
            if "\r" in value or "\n" in value:
                raise ValueError("a header value with a line break")
            lines.append(f"{name}: {value}".encode("latin-1"))
        return _CRLF.join(lines) + b"\r\n\r\n"

    def end(self) -> bytes:
        """The close delimiter."""
        return self._delimiter + b"--\r\n"

    def length(self, parts: Iterable[tuple[Mapping[str, str], int]]) -> int:
        """The Content-Length of a body with these heads and content lengths."""
        return sum(len(self.part_head(headers)) + size for headers, size in parts) + len(self.end())
