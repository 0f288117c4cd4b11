"""An answer passed on so that what is missing after a death can come from the other upstream. Pure.

DESIGN 4.2: the caller's one response ends complete, each part once, or it is broken visibly. `passage`
chooses how: `parts` of a multipart answer, `items` of a JSON array, or here a body that means nothing to us.
"""

from __future__ import annotations

import re
from typing import Final

from failover.errors import MalformedBody, ProtocolError
from failover.http.head import AnswerHead
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.items import Items
from failover.proxy.parts import Parts
from failover.proxy.passage import Passage, Proof, Streamed, is_encoded, may_continue, media_type

_SOP_INSTANCE_UID: Final = "00080018"
_QIDO_KEYS: Final = {b"studies": "0020000D", b"series": "0020000E", b"instances": _SOP_INSTANCE_UID}
_FRAMES: Final = re.compile(rb"/frames/([0-9,%C]+)$", re.IGNORECASE)
_ONE_INSTANCE: Final = re.compile(rb"/instances/[^/]+/?$")


def passage(asked: Asked, answer: AnswerHead) -> Passage | None:
    """Return how `answer`, the first to this request, is passed on; None: as it comes, without a way back."""
    if not asked.retrieve and asked.route is not WebRoute.QIDO:
        return None
    if answer.status != 200 or is_encoded(answer):
        return None
    media = media_type(answer)
    if media is None:
        return None
    if media.essence == "multipart/related":
        boundary = media.parameters.get("boundary", "")
        try:
            frames = _FRAMES.search(asked.path)
            return Parts(boundary, frames=frames is not None, count=_count(asked.path, frames))
        except ProtocolError:
            return None
    if media.essence in ("application/dicom+json", "application/json"):
        key = _json_key(asked)
        return Items(key) if key is not None else None
    if asked.retrieve and answer.content_length is not None:
        return Opaque(media.essence, answer.content_length)
    return None


def _count(path: bytes, frames: re.Match[bytes] | None) -> int | None:
    """Return how many parts the request asks for; None: it does not tell."""
    if frames is not None:
        return len(re.split(rb",|%2c", frames[1], flags=re.IGNORECASE))
    return 1 if _ONE_INSTANCE.search(path) else None


def _json_key(asked: Asked) -> str | None:
    last = asked.path.rstrip(b"/").rsplit(b"/", 1)[-1]
    if asked.route is WebRoute.QIDO:
        return _QIDO_KEYS.get(last)
    return _SOP_INSTANCE_UID if last == b"metadata" else None


class Opaque:
    """One body that means nothing to us: continued only by a copy that is proven to be the same."""

    framed = False

    def __init__(self, essence: str, length: int) -> None:
        self._essence = essence
        self._body = Streamed(None, length)
        self._proof: Proof | None = None

    @property
    def catches_up(self) -> bool:
        return self._proof is not None and self._proof.left > 0

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

    def resume(self, head: AnswerHead, *, vouched: bool) -> bool:
        media = media_type(head)  # that it is all is proven by its length, whoever gives it
        if media is None or media.essence != self._essence or not may_continue(head):
            return False
        if head.content_length != self._body.length:
            return False
        self._proof = self._body.again()
        return True
