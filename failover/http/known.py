"""A caller's next head, read by what its last one tells. Pure.

A caller repeats the fields of its last request more often than not, or all but a Referer, an Accept or a
trace number. What is the same byte for byte is not read again; what differs is read as strictly as ever. None
is always right: then the head is read whole.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from itertools import compress, count
from operator import ne
from typing import Any, Final

from failover.http.head import FIELD, SPECIAL, RequestHead

LIKE: Final = "like"
"""In `derived`: the head whose fields these are, and the places of those that differ."""

_VERSION: Final = b" HTTP/1.1"
_PATH: Final = re.compile(rb"/[!\"$-~]*")
# Beyond so many it is another request, and read whole.
_CHANGED: Final = 3
_VALUE: Final = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
# Whether a connection is bound to its caller is worked out from these.
_BINDS: Final = frozenset((b"authorization", b"proxy-authenticate", b"www-authenticate"))


class _Alone:
    """The one field in which a caller's heads differ: what stands before its value, and behind it."""

    __slots__ = ("after", "before", "binds_stay", "key", "like", "name", "pages_stay", "place")

    def __init__(self, known: RequestHead, lines: list[bytes], place: int) -> None:
        self.key, self.name, _ = known.headers[place]
        self.place = place
        self.before = b"\r\n".join((_VERSION, *lines[:place], self.name + b":"))
        self.after = b"\r\n".join((b"", *lines[place + 1 :], b"", b""))
        self.like = (known, [place])
        self.pages_stay = self.key != b"accept"
        self.binds_stay = self.key not in _BINDS


class Known:
    """The last head of a caller that had no body, no expectation and no upgrade."""

    __slots__ = ("_alone", "_ending", "_head", "_lines", "_method", "_method_bytes")

    def __init__(self, head: RequestHead, raw: bytes) -> None:
        """`raw` is what `head` was read from; it `is_plain`."""
        fields = raw[raw.index(b"\r\n") :]
        self._head = head
        self._method = head.method + b" "
        self._method_bytes = len(self._method)
        self._ending = _VERSION + fields
        self._lines = fields.split(b"\r\n")[1:-2]
        self._alone: _Alone | None = None
        """Where the last one alone differed; the next one will."""

    def again(self, raw: bytes) -> RequestHead | None:
        """Return the head in `raw` when its fields are, byte for byte, the known ones, and nothing follows.

        Where more than one line stands before them that is no first line. One field may have another value:
        that in which the last head differed.
        """
        ending = self._ending
        if raw.endswith(ending):
            return self._of_target(raw[: -len(ending)])
        return None if self._alone is None else self._but_for(self._alone, raw)

    def _but_for(self, alone: _Alone, raw: bytes) -> RequestHead | None:
        """As `again`, where the value of one field is all that differs."""
        if not raw.endswith(alone.after):
            return None
        version = raw.find(b"\r\n") - len(_VERSION)
        if not raw.startswith(alone.before, version):
            return None
        start, end = version + len(alone.before), len(raw) - len(alone.after)
        # Nothing matches where the end stands before the start: then a line is missing.
        if _VALUE.fullmatch(raw, start, end) is None:
            return None
        head = self._of_target(raw[:version])
        if head is None:
            return None
        headers = head.headers.copy()
        headers[alone.place] = (alone.key, alone.name, raw[start:end].strip(b" \t"))
        before = head.derived
        derived: dict[Hashable, Any] = {LIKE: alone.like}
        if alone.pages_stay and "pages" in before:
            derived["pages"] = before["pages"]
        if alone.binds_stay and "binds" in before:
            derived["binds"] = before["binds"]
        head.headers, head.derived = headers, derived
        return head

    def like(self, raw: bytes) -> RequestHead | None:
        """Return the head in `raw`, which is all of it, when at most a few lines differ from the known ones.

        Each of them must have the same name in the same place; nothing that says how the message is framed,
        or to whom it goes, may differ.
        """
        lines, old = raw.split(b"\r\n"), self._lines
        first = lines[0]
        if len(lines) != len(old) + 3 or not old or not first.endswith(_VERSION):
            return None
        head = self._of_target(first[: -len(_VERSION)])
        changed = list(compress(count(), map(ne, old, lines[1:])))
        if head is None or len(changed) > _CHANGED:
            return None
        headers = head.headers.copy()
        for place in changed:
            match = FIELD.fullmatch(lines[place + 1])
            if match is None:
                return None
            name, value = match.groups()
            key = headers[place][0]
            if name.lower() != key or key in SPECIAL:
                return None
            headers[place] = (key, name, value.rstrip(b" \t"))
        if len(changed) == 1:
            self._alone = _Alone(self._head, old, changed[0])
        before = head.derived
        derived: dict[Hashable, Any] = {LIKE: (self._head, changed)}
        keys = [headers[place][0] for place in changed]
        if "pages" in before and b"accept" not in keys:
            derived["pages"] = before["pages"]
        if "binds" in before and _BINDS.isdisjoint(keys):
            derived["binds"] = before["binds"]
        head.headers, head.derived = headers, derived
        return head

    def _of_target(self, method_and_target: bytes) -> RequestHead | None:
        """Return the known head with another target: a method and a path stand before the version."""
        known = self._head
        if not method_and_target.startswith(self._method):
            return None
        target = method_and_target[self._method_bytes :]
        if _PATH.fullmatch(target) is None:
            return None
        head = RequestHead.__new__(RequestHead)
        head.headers, head.connection, head.derived = known.headers, known.connection, known.derived
        head.content_length, head.chunked, head.upgrade, head.expects_continue = None, False, None, False
        head.method, head.target, head.minor_version, head.host = known.method, target, 1, known.host
        head.keep_alive = known.keep_alive
        return head


def is_plain(head: RequestHead) -> bool:
    """Whether what follows from `head` follows from its fields alone, and there is nothing behind it."""
    return (
        head.minor_version == 1
        and head.content_length is None
        and not head.chunked
        and head.upgrade is None
        and not head.expects_continue
    )
