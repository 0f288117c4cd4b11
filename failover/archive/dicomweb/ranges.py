"""Which part of a body a caller asks for (RFC 9110 14): one range of bytes, or all of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BYTES: Final = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes from `first` of a body of `whole` bytes."""

    first: int
    length: int
    whole: int

    @property
    def content_range(self) -> str:
        return f"bytes {self.first}-{self.first + self.length - 1}/{self.whole}"


class NotSatisfiable(ValueError):
    """The range lies behind the end: 416."""


def asked_part(field: str | None, if_range: str | None, etag: str, whole: int) -> Part | None:
    """Return the part that Range asks for; None: the whole body is sent.

    `etag` is strong and without quotes. Several ranges, and units that nobody knows, are not answered in
    parts (RFC 9110 14.2 allows that). Raises NotSatisfiable.
    """
    if field is None or (if_range is not None and if_range.strip() != f'"{etag}"'):
        return None  # RFC 9110 13.1.5: a date or a weak validator never matches
    match = _BYTES.fullmatch(field.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), whole)
        first = whole - length
    else:
        first = int(match[1])
        last = min(int(match[2]), whole - 1) if match[2] else whole - 1
        if match[2] and int(match[2]) < first:
            return None  # RFC 9110 14.1.1: invalid, so ignored
        length = last - first + 1
    if length < 1:
        raise NotSatisfiable("the range lies behind the end")
    return Part(first, length, whole)
