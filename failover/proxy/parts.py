"""A multipart answer (PS3.18 8.6.1) passed on by parts: what is missing comes from the other upstream. Pure.

A part is passed on whole and known again by its key: SOP instance UID, Content-Location, or the place in the
asked list of frames. One too long to hold streams; only a copy proven to be the same continues it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from failover.dicom import part10
from failover.errors import ProtocolError, UnreadableDataSet
from failover.http.head import AnswerHead
from failover.http.multipart import BodyEnded, MultipartParser, PartBegan, PartBytes, PartEnded
from failover.proxy.passage import (
    WHOLE_PART_BYTES,
    CannotContinue,
    Key,
    Proof,
    Streamed,
    may_continue,
    media_type,
)

# What may wait for the part that must be finished first.
WAITING_BYTES: Final = 32 * 2**20
# The File Meta Information, with the SOP instance UID in it, stands at the beginning.
_META_BYTES: Final = 4096


class _Doing(Enum):
    """What becomes of the part that is being read."""

    HOLD = auto()
    STREAM = auto()
    SKIP = auto()


class Parts:
    """A multipart answer. The caller's boundary is that of the first answer."""

    framed = True

    def __init__(
        self, boundary: str, *, frames: bool, count: int | None = None, whole_bytes: int = WHOLE_PART_BYTES
    ) -> None:
        """`frames`: the parts come in the order in which they were asked for; `count`: so many there are.

        Raises MalformedMultipart.
        """
        self._count = count
        self._whole_bytes = whole_bytes
        self._mark = b"--" + boundary.encode("latin-1")
        self._parser = MultipartParser(boundary)
        self._frames = frames
        self._done: set[Key] = set()
        self._unseen: set[Key] = set()  # done before, and not found in the answer that goes on
        self._unkeyed = False  # a part went to the caller that could not be known again
        self._open: Streamed | None = None  # a part that streams, or of which the rest is missing
        self._proof: Proof | None = None
        self._resumed = False
        self._places = 0
        self._waiting: list[tuple[Key, list[bytes]]] = []  # whole, behind the open one
        self._waiting_bytes = 0
        self._tail = b""  # of what was streamed last: the boundary may lie across two pieces
        self._begin_part(PartBegan({}))

    def _begin_part(self, began: PartBegan) -> None:
        self._head = began
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._key: Key | None = None
        self._known = False  # whether `_key` was looked for
        self._doing = _Doing.HOLD

    @property
    def catches_up(self) -> bool:
        return bool(self._unseen) or (self._proof is not None and self._proof.left > 0)

    def receive(self, data: bytes) -> list[bytes]:
        out: list[bytes] = []
        for event in self._parser.receive_data(data):
            if isinstance(event, PartBegan):
                self._begin_part(event)
                self._places += 1
            elif isinstance(event, PartBytes):
                self._take(event.content, out)
            elif isinstance(event, PartEnded):
                self._end_part(out)
            elif isinstance(event, BodyEnded) and self._open is not None:
                raise CannotContinue("the other has no copy of the part that was begun")
        return out

    def end(self) -> list[bytes]:
        self._parser.receive_end()
        if self._resumed and (self._unseen or self._count not in (None, len(self._done))):
            raise CannotContinue("the other holds less")
        return [b"\r\n", self._mark, b"--\r\n"]

    def resume(self, head: AnswerHead, *, vouched: bool) -> bool:
        media = media_type(head)
        if not vouched and self._count is None:
            return False
        if self._unkeyed or not may_continue(head) or media is None or media.essence != "multipart/related":
            return False
        if self._open is not None and (self._open.key is None or self._open.length is None):
            return False
        try:
            self._parser = MultipartParser(media.parameters.get("boundary", ""))
        except ProtocolError:
            return False
        self._proof = self._open.again() if self._open is not None else None
        self._resumed, self._places = True, 0
        self._unseen = self._done.copy()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._begin_part(PartBegan({}))
        return True

    # -- one part

    def _take(self, content: bytes, out: list[bytes]) -> None:
        if self._doing is _Doing.SKIP:
            return
        if self._doing is _Doing.STREAM:
            self._stream(content, out)
            return
        self._held.append(content)
        self._held_bytes += len(content)
        if not self._known and (self._held_bytes >= _META_BYTES or not self._needs_content()):
            self._decide(out)
        if self._doing is _Doing.HOLD and self._held_bytes > self._whole_bytes:
            if self._open is not None:
                raise CannotContinue("a long part comes before the one that was begun")
            self._open = Streamed(self._key, self._length())
            self._doing = _Doing.STREAM
            out += self._framing()
            self._pour(out)

    def _decide(self, out: list[bytes]) -> None:
        """Enough is here to know which part this is."""
        self._known = True
        self._key = key = self._find_key()
        if not self._resumed:
            return
        if key is None:
            raise CannotContinue("a part that cannot be told from those already sent")
        if key in self._done:
            self._unseen.discard(key)
            self._doing = _Doing.SKIP
            self._held.clear()
        elif self._open is not None and key == self._open.key:
            if self._length() not in (self._open.length, None):  # not said: it is counted
                raise CannotContinue("the other copy is not as long")
            self._doing = _Doing.STREAM
            self._pour(out)

    def _end_part(self, out: list[bytes]) -> None:
        if not self._known:
            self._decide(out)
        if self._doing is _Doing.SKIP:
            return
        if self._doing is _Doing.STREAM:
            assert self._open is not None
            if self._open.length is not None and self._open.sent != self._open.length:
                raise CannotContinue("a part that is not as long as it said")
            self._finished(self._open.key)
            self._open = self._proof = None
            for key, pieces in self._waiting:
                out += pieces
                self._finished(key)
            self._waiting.clear()
            return
        pieces = [*self._framing(), *self._held]
        if self._resumed:
            self._tail = b""
            self._must_not_hold_mark(b"".join(self._held))
        if self._open is None:
            out += pieces
            self._finished(self._key)
            return
        assert self._key is not None
        self._waiting_bytes += self._held_bytes
        if self._waiting_bytes > WAITING_BYTES:
            raise CannotContinue("too much comes before the part that was begun")
        self._waiting.append((self._key, pieces))

    def _finished(self, key: Key | None) -> None:
        if key is None or key in self._done:
            self._unkeyed = True
        else:
            self._done.add(key)

    def _pour(self, out: list[bytes]) -> None:
        held, self._held = self._held, []
        for piece in held:
            self._stream(piece, out)

    def _stream(self, content: bytes, out: list[bytes]) -> None:
        assert self._open is not None
        new = self._proof.read(content) if self._proof is not None else content
        if new:
            if self._resumed:
                self._must_not_hold_mark(new)
            self._open.add(new)
            out.append(new)

    def _must_not_hold_mark(self, content: bytes) -> None:
        # The other chose a boundary that its own parts do not hold; ours was chosen for the first answer.
        seen = self._tail + content
        if self._mark in seen:
            raise CannotContinue("a part holds the boundary of the response")
        self._tail = seen[-len(self._mark) :]

    def _framing(self) -> list[bytes]:
        return [b"\r\n", self._mark, b"\r\n", self._head.raw, b"\r\n\r\n" if self._head.raw else b"\r\n"]

    def _length(self) -> int | None:
        said = self._head.headers.get("content-length", "")
        return int(said) if said.isdecimal() and len(said) < 19 else None

    def _needs_content(self) -> bool:
        return not self._frames and self._is_dicom()

    def _is_dicom(self) -> bool:
        return self._head.headers.get("content-type", "").lower().startswith("application/dicom") and not (
            self._head.headers["content-type"].lower().startswith("application/dicom+")
        )

    def _find_key(self) -> Key | None:
        if self._frames:
            return ("place", str(self._places))
        if self._is_dicom():
            try:
                meta = part10.read_head(b"".join(self._held))
            except UnreadableDataSet:
                return None
            return ("sop", meta.sop_instance_uid) if meta.sop_instance_uid else None
        location = self._head.headers.get("content-location", "")
        # Two systems differ in what stands before: compare what names the object (PS3.18 8.6.1.2).
        at = location.find("/studies/")
        return ("location", location[at:]) if at >= 0 else None
