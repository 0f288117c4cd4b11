"""What has arrived in an association and nobody has taken yet: messages, and fragments of their data sets.

It says when that is too much to read on, and which requests were cancelled. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from failover.dicom.dimse import CommandField
from failover.dicom.messages import Fragment, Message

HIGH_BYTES: Final = 256 * 1024  # with more of them the socket is no longer read
LOW_BYTES: Final = 64 * 1024  # with no more than these it is read again
_ITEM_BYTES: Final = 128  # what a queued message, fragment or element costs besides its bytes
_C_CANCEL: Final = int(CommandField.C_CANCEL_RQ)


class Inbox:
    """A queue that knows its size."""

    __slots__ = ("_bytes", "cancelled", "items")

    def __init__(self) -> None:
        self.items: deque[Message | Fragment] = deque()
        self.cancelled: set[int] = set()  # Message IDs of requests
        self._bytes = 0

    def put(self, item: Message | Fragment) -> None:
        """Take in what arrived. A C-CANCEL is noted; a request takes up its Message ID anew."""
        if isinstance(item, Message):
            command = item.command
            if command.field == _C_CANCEL:
                self.cancelled.add(command.message_id)
                return
            if self.cancelled and not command.is_response:
                self.cancelled.discard(command.message_id)
        self.items.append(item)
        self._bytes += _size(item)

    def take(self) -> Message | Fragment | None:
        """Return what arrived first, None when there is nothing."""
        if not self.items:
            return None
        item = self.items.popleft()
        self._bytes -= _size(item)
        return item

    @property
    def is_high(self) -> bool:
        return self._bytes > HIGH_BYTES

    @property
    def is_low(self) -> bool:
        return self._bytes <= LOW_BYTES

    @property
    def begins_with_response(self) -> bool:
        if not self.items:
            return False
        item = self.items[0]
        return isinstance(item, Message) and item.command.is_response


def _size(item: Message | Fragment) -> int:
    if isinstance(item, Fragment):
        return _ITEM_BYTES * len(item.pieces) + item.size
    elements = item.command.elements
    return _ITEM_BYTES * (1 + len(elements)) + sum(map(len, elements.values()))
