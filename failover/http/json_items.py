"""A JSON array (RFC 8259) read item by item as its bytes come, without building what is in it. Pure.

Only brackets and strings are looked at: whoever wants an item parses it. Bytes may come in any split.
"""

from __future__ import annotations

import re
from typing import Final

from failover.errors import LimitExceeded, MalformedBody

# What can change the depth or begin a string. Multi-byte UTF-8 never holds one of these bytes.
_MARK: Final = re.compile(rb'["{}\[\]]')
# What stands in a string up to its end: an escaped quote is stepped over.
_IN_STRING: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_QUOTE: Final = ord('"')
_SPACE: Final = b" \t\r\n"


class JsonItems:
    """Bytes of one array in, its whole items out."""

    def __init__(self, *, max_item_bytes: int) -> None:
        self._max_item_bytes = max_item_bytes
        self._rest = bytearray()
        self._at = 0  # searched up to here: no byte is looked at twice
        self._in_string = False
        self._depth = 0
        self._began = self.ended = False

    def receive_data(self, data: bytes) -> list[bytes]:
        """Return each object or array that is now whole.

        Raises MalformedBody: it is no array of objects; LimitExceeded: an item beyond `max_item_bytes`.
        """
        self._rest += data
        items: list[bytes] = []
        while not self.ended and self._advance(items):
            pass
        if self.ended:
            if bytes(self._rest).strip(_SPACE):
                raise MalformedBody("something follows the array")
            self._rest.clear()
        if len(self._rest) > self._max_item_bytes:
            raise LimitExceeded(f"an item of more than {self._max_item_bytes} bytes")
        return items

    def receive_end(self) -> None:
        """The body is over. Raises MalformedBody unless the array was closed."""
        if not self.ended:
            raise MalformedBody("the body ended inside its array")

    def _advance(self, items: list[bytes]) -> bool:
        rest = self._rest
        if self._in_string:
            return self._pass_string()
        found = _MARK.search(rest, self._at)
        if found is None:
            self._at = len(rest)
            return False
        at, mark = found.start(), found[0]
        if not self._began:
            if mark != b"[" or rest[:at].strip(_SPACE):
                raise MalformedBody("not an array")
            self._began = True
            del rest[: at + 1]
            self._at = 0
            return True
        if mark == b'"':
            if not self._depth:
                raise MalformedBody("an item that is no object")
            self._in_string = True
            self._at = at + 1
        elif mark in b"{[":
            self._at = at + 1
            self._depth += 1
        elif self._depth:
            self._at = at + 1
            self._depth -= 1
            if not self._depth:
                items.append(bytes(rest[: at + 1]).strip(_SPACE + b","))
                del rest[: at + 1]
                self._at = 0
        elif mark == b"]":
            if rest[:at].strip(_SPACE):
                raise MalformedBody("an item that is no object")
            del rest[: at + 1]
            self.ended = True
        else:
            raise MalformedBody("a bracket too many")
        return True

    def _pass_string(self) -> bool:
        """Step over what of a string is here. False: its end is still to come."""
        inside = _IN_STRING.match(self._rest, self._at)
        assert inside is not None
        self._at = inside.end()
        if self._at == len(self._rest) or self._rest[self._at] != _QUOTE:
            return False  # at most a backslash is left, whose other half is to come
        self._at += 1
        self._in_string = False
        return True
