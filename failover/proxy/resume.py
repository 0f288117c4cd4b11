"""An answer passed on in parts: what is missing after a death comes from the other upstream. Pure.

DESIGN 4.2: the caller's one response ends complete, each part once, or it is broken visibly. A `Passage`
lives as long as the response. It reads the bytes of one answer after the other and returns what goes on:

- parts of a multipart answer (PS3.18 8.6.1) and items of a JSON array are passed on whole and known again by
  their key: SOP instance UID, Content-Location, or the place in the asked list of frames;
- a part too long to hold streams, as does an opaque body: the other's copy continues it only if it is as long
  and its first N bytes hash as the N that were sent (an ETag of another system proves nothing).
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from failover.dicom import part10
from failover.errors import MalformedBody, ProtocolError, UnreadableDataSet
from failover.http.head import AnswerHead
from failover.http.json_items import JsonItems
from failover.http.media_types import MediaType, parse_media_type
from failover.http.multipart import BodyEnded, MultipartParser, PartBegan, PartBytes, PartEnded
from failover.proxy.classify import Asked, WebRoute

# DESIGN 4.2: parts up to this are passed on whole, larger ones stream.
WHOLE_PART_BYTES: Final = 8 * 2**20
# What may wait for the part that must be finished first.
WAITING_BYTES: Final = 32 * 2**20
# The File Meta Information, with the SOP instance UID in it, stands at the beginning.
_META_BYTES: Final = 4096

_SOP_INSTANCE_UID: Final = "00080018"
_QIDO_KEYS: Final = {b"studies": "0020000D", b"series": "0020000E", b"instances": _SOP_INSTANCE_UID}
_FRAMES: Final = re.compile(rb"/frames/[0-9,%C]+$", re.IGNORECASE)

Key = tuple[str, str]


class CannotContinue(ProtocolError):
    """What this answer has does not fit what the caller already got: break the response visibly."""


class Passage(Protocol):
    """What of a response went to the caller, and what is still to come."""

    framed: bool
    """The caller's response cannot have the Content-Length of one answer."""

    def receive(self, data: bytes) -> list[bytes]:
        """Return what goes to the caller now. Raises CannotContinue, or a ProtocolError of the answer."""

    def end(self) -> list[bytes]:
        """The answer is whole: return what ends the response. Raises like `receive`."""

    def resume(self, head: AnswerHead) -> bool:
        """The answer before is lost. Return whether the one that begins with `head` may go on."""


def passage(asked: Asked, answer: AnswerHead) -> Passage | None:
    """Return how `answer`, the first to this request, is passed on; None: as it comes, without a way back."""
    if not asked.retrieve and asked.route is not WebRoute.QIDO:
        return None
    if answer.status != 200 or _encoded(answer):
        return None
    media = _media(answer)
    if media is None:
        return None
    if media.essence == "multipart/related":
        boundary = media.parameters.get("boundary", "")
        try:
            return Parts(boundary, frames=_FRAMES.search(asked.path) is not None)
        except ProtocolError:
            return None
    if media.essence in ("application/dicom+json", "application/json"):
        key = _json_key(asked)
        return Items(key) if key is not None else None
    if asked.retrieve and answer.content_length is not None:
        return Opaque(media.essence, answer.content_length)
    return None


def _json_key(asked: Asked) -> str | None:
    last = asked.path.rstrip(b"/").rsplit(b"/", 1)[-1]
    if asked.route is WebRoute.QIDO:
        return _QIDO_KEYS.get(last)
    return _SOP_INSTANCE_UID if last == b"metadata" else None


def _media(answer: AnswerHead) -> MediaType | None:
    try:
        return parse_media_type((answer.first(b"content-type") or b"").decode("latin-1"))
    except ValueError:
        return None


def _encoded(answer: AnswerHead) -> bool:
    return (answer.first(b"content-encoding") or b"identity").lower() != b"identity"


def _may_continue(head: AnswerHead) -> bool:
    # 206 and a Warning say that it may hold less than the other had: then the end would look whole.
    return head.status == 200 and not _encoded(head) and head.first(b"warning") is None


# -- multipart --------------------------------------------------------------------------------------


@dataclass
class _Streamed:
    """A part, or a body, of which some has gone to the caller."""

    key: Key | None
    length: int | None
    """Of the whole, where it was said."""
    sent: int = 0
    digest: hashlib._Hash = field(default_factory=lambda: hashlib.sha1(usedforsecurity=False))

    def add(self, data: bytes) -> None:
        self.sent += len(data)
        self.digest.update(data)

    def again(self) -> _Proof:
        return _Proof(self.sent, self.digest.digest())


@dataclass
class _Proof:
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


class _Doing(Enum):
    """What becomes of the part that is being read."""

    HOLD = auto()
    STREAM = auto()
    SKIP = auto()


class Parts:
    """A multipart answer. The caller's boundary is that of the first answer."""

    framed = True

    def __init__(self, boundary: str, *, frames: bool, whole_bytes: int = WHOLE_PART_BYTES) -> None:
        """`frames`: the parts come in the order in which they were asked for. Raises MalformedMultipart."""
        self._whole_bytes = whole_bytes
        self._mark = b"--" + boundary.encode("latin-1")
        self._parser = MultipartParser(boundary)
        self._frames = frames
        self._done: set[Key] = set()
        self._unkeyed = False  # a part went to the caller that could not be known again
        self._open: _Streamed | None = None  # a part that streams, or of which the rest is missing
        self._proof: _Proof | None = None
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
        return [b"\r\n", self._mark, b"--\r\n"]

    def resume(self, head: AnswerHead) -> bool:
        media = _media(head)
        if self._unkeyed or not _may_continue(head) or media is None or media.essence != "multipart/related":
            return False
        if self._open is not None and (self._open.key is None or self._open.length is None):
            return False
        try:
            self._parser = MultipartParser(media.parameters.get("boundary", ""))
        except ProtocolError:
            return False
        self._proof = self._open.again() if self._open is not None else None
        self._resumed, self._places = True, 0
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
            self._open = _Streamed(self._key, self._length())
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


# -- JSON -------------------------------------------------------------------------------------------


class Items:
    """A JSON array whose items are known by one of their attributes (PS3.18 F.2)."""

    framed = True

    def __init__(self, key: str) -> None:
        self._tag = key
        self._reader = JsonItems(max_item_bytes=WHOLE_PART_BYTES)
        self._done: set[str] = set()
        self._unkeyed = False
        self._resumed = False
        self._any = False

    def receive(self, data: bytes) -> list[bytes]:
        out: list[bytes] = []
        for item in self._reader.receive_data(data):
            key = self._key_of(item)
            if key is None or (not self._resumed and key in self._done):
                if self._resumed:
                    raise CannotContinue("an item that cannot be told from those already sent")
                self._unkeyed = True
            elif key in self._done:
                continue
            else:
                self._done.add(key)
            out += [b"," if self._any else b"[", item]
            self._any = True
        return out

    def end(self) -> list[bytes]:
        self._reader.receive_end()
        return [b"]" if self._any else b"[]"]

    def resume(self, head: AnswerHead) -> bool:
        media = _media(head)
        if self._unkeyed or not _may_continue(head) or media is None or not media.essence.endswith("json"):
            return False
        self._reader = JsonItems(max_item_bytes=WHOLE_PART_BYTES)
        self._resumed = True
        return True

    def _key_of(self, item: bytes) -> str | None:
        try:
            value = json.loads(item)[self._tag]["Value"][0]
        except (ValueError, LookupError, TypeError):
            return None
        return value if isinstance(value, str) and value else None


# -- opaque -----------------------------------------------------------------------------------------


class Opaque:
    """One body that means nothing to us: continued only by a copy that is proven to be the same."""

    framed = False

    def __init__(self, essence: str, length: int) -> None:
        self._essence = essence
        self._body = _Streamed(None, length)
        self._proof: _Proof | None = None

    def receive(self, data: bytes) -> list[bytes]:
        new = self._proof.read(data) if self._proof is not None else data
        if not new:
            return []
        self._body.add(new)
        return [new]

    def end(self) -> list[bytes]:
        if self._body.sent != self._body.length:
            raise MalformedBody("the body is not as long as it said")
        return []

    def resume(self, head: AnswerHead) -> bool:
        media = _media(head)
        if media is None or media.essence != self._essence or not _may_continue(head):
            return False
        if head.content_length != self._body.length:
            return False
        self._proof = self._body.again()
        return True
