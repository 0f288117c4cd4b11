"""What every way to pass an answer on in parts has in common. Pure.

A `Passage` lives as long as the caller's response and reads one answer after the other. What was sent in part
is continued only by a copy that is proven to be the same: as long, and its first N bytes hash as the N sent
(an ETag of another system proves nothing).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Protocol

from failover.errors import ProtocolError
from failover.http.head import AnswerHead
from failover.http.media_types import MediaType, parse_media_type

# DESIGN 4.2: parts up to this are passed on whole, larger ones stream.
WHOLE_PART_BYTES: Final = 8 * 2**20

Key = tuple[str, str]


class CannotContinue(ProtocolError):
    """What this answer has does not fit what the caller already got: break the response visibly."""


class Passage(Protocol):
    """What of a response went to the caller, and what is still to come."""

    framed: bool
    """The caller's response cannot have the Content-Length of one answer."""

    @property
    def catches_up(self) -> bool:
        """What is read now the caller has already: no slowness of its slows it down."""

    def receive(self, data: bytes) -> list[bytes]:
        """Return what goes to the caller now. Raises CannotContinue, or a ProtocolError of the answer."""

    def end(self) -> list[bytes]:
        """The answer is whole: return what ends the response. Raises like `receive`."""

    def resume(self, head: AnswerHead, *, vouched: bool) -> bool:
        """The answer before is lost. Return whether the one that begins with `head` may go on.

        `vouched`: who gives it holds all, or says by 206 or Warning that it does not: the primary, and our
        archive. Another's end is believed only where the request tells how much there is.
        """


def media_type(answer: AnswerHead) -> MediaType | None:
    try:
        return parse_media_type((answer.first(b"content-type") or b"").decode("latin-1"))
    except ValueError:
        return None


def is_encoded(answer: AnswerHead) -> bool:
    return (answer.first(b"content-encoding") or b"identity").lower() != b"identity"


def may_continue(head: AnswerHead) -> bool:
    # 206 and a Warning say that it may hold less than the other had: then the end would look whole.
    return head.status == 200 and not is_encoded(head) and head.first(b"warning") is None


@dataclass
class Streamed:
    """A part, or a body, of which some has gone to the caller."""

    key: Key | None
    length: int | None
    """Of the whole, where it was said."""
    sent: int = 0
    digest: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))

    def add(self, data: bytes) -> None:
        self.sent += len(data)
        self.digest.update(data)

    def again(self) -> Proof:
        return Proof(self.sent, self.digest.digest())


@dataclass
class Proof:
    """Reads the other's copy up to where ours ended."""

    left: int
    wanted: bytes
    digest: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))

    def read(self, data: bytes) -> bytes:
        """Return what of `data` is new. Raises CannotContinue when the copies differ."""
        if not self.left:
            return data
        old, new = data[: self.left], data[self.left :]
        self.digest.update(old)
        self.left -= len(old)
        if not self.left and self.digest.digest() != self.wanted:
            raise CannotContinue("the other copy differs in what was already sent")
        return new
