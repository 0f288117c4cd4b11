"""A JSON array passed on item by item: what is missing comes from the other upstream. Pure.

An item is known again by one of its attributes: the UID of its level.
"""

from __future__ import annotations

import json

from failover.http.head import AnswerHead
from failover.http.json_items import JsonItems
from failover.proxy.passage import WHOLE_PART_BYTES, CannotContinue, may_continue, media_type


class Items:
    """A JSON array whose items are known by one of their attributes (PS3.18 F.2)."""

    framed = True

    def __init__(self, key: str) -> None:
        self._tag = key
        self._reader = JsonItems(max_item_bytes=WHOLE_PART_BYTES)
        self._done: set[str] = set()
        self._unseen: set[str] = set()  # done before, and not found in the answer that goes on
        self._unkeyed = False
        self._resumed = False
        self._any = False

    @property
    def catches_up(self) -> bool:
        return bool(self._unseen)

    def receive(self, data: bytes) -> list[bytes]:
        out: list[bytes] = []
        for item in self._reader.receive_data(data):
            key = self._key_of(item)
            if key is None or (not self._resumed and key in self._done):
                if self._resumed:
                    raise CannotContinue("an item that cannot be told from those already sent")
                self._unkeyed = True
            elif key in self._done:
                self._unseen.discard(key)
                continue
            else:
                self._done.add(key)
            out += [b"," if self._any else b"[", item]
            self._any = True
        return out

    def end(self) -> list[bytes]:
        self._reader.receive_end()
        if self._unseen:
            raise CannotContinue("the other holds less")
        return [b"]" if self._any else b"[]"]

    def resume(self, head: AnswerHead, *, vouched: bool) -> bool:
        media = media_type(head)
        if (
            not vouched
            or self._unkeyed
            or not may_continue(head)
            or media is None
            or not media.essence.endswith("json")
        ):
            return False
        self._reader = JsonItems(max_item_bytes=WHOLE_PART_BYTES)
        self._resumed = True
        self._unseen = self._done.copy()
        return True

    def _key_of(self, item: bytes) -> str | None:
        try:
            value = json.loads(item)[self._tag]["Value"][0]
        except (ValueError, LookupError, TypeError):
            return None
        return value if isinstance(value, str) and value else None
