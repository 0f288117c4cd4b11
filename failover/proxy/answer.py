"""One answer on its way to the caller: held until it is whole, then passed on, or streamed, or by parts.

Writes the caller's side of the framing: a length where it is known, chunks for HTTP/1.1, else the end of the
connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from failover.http.framing import LAST_CHUNK, answer_has_body
from failover.http.head import AnswerHead, RequestHead
from failover.proxy import rewrite
from failover.proxy.hold import HOLD_TOTAL_BYTES, Plan
from failover.proxy.leads import JsonUrls, Place
from failover.proxy.passage import Passage
from failover.proxy.retry import Judgement
from failover.proxy.upstreams import WebUpstream
from failover.shares import Share

if TYPE_CHECKING:
    from failover.proxy.caller import CallerConnection


# Up to here a copy is cheaper than a second piece for the kernel to gather.
_JOINED_BYTES: Final = 64 * 1024


class Answer:
    __slots__ = (
        "_chunked", "_held", "_held_bytes", "_room", "begun", "body_bytes", "close", "head", "judgement",
        "passage", "plan", "proven", "received_bytes", "upstream", "urls",
    )  # fmt: skip

    def __init__(
        self, head: AnswerHead, upstream: WebUpstream, judgement: Judgement, plan: Plan, room: Share
    ) -> None:
        self.head = head
        self.upstream = upstream
        self.judgement = judgement
        self.plan = plan
        self.begun = False
        """A byte of it went to the caller: there is no way back."""
        self.close = False
        """The caller's connection ends with it."""
        self.body_bytes = 0
        self.received_bytes = 0
        self.passage: Passage | None = None
        """How its parts are known again; None: it goes on as it comes."""
        self.urls: JsonUrls | None = None
        """What leads the URLs in its body back to us; None: they stay as they are."""
        self.proven = head.content_length is not None or head.chunked
        """Its end can be told from a death: by its framing, or because all its parts are here."""
        self._chunked = False
        self._room = room  # what all held answers take together
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def is_event_stream(self) -> bool:
        return (self.head.first(b"content-type") or b"").lower().startswith(b"text/event-stream")

    def hold(self, data: bytes) -> bool:
        """Keep `data`. False when there is no room for more: it must stream (`data` is kept nevertheless)."""
        self._held.append(data)
        self._held_bytes += len(data)
        self._room.used += len(data)
        return self._held_bytes <= self.plan.limit_bytes and self._room.total() <= HOLD_TOTAL_BYTES

    @property
    def over_total(self) -> bool:
        return self._room.total() > HOLD_TOTAL_BYTES

    @property
    def body(self) -> bytes:
        return self._held[0] if len(self._held) == 1 else b"".join(self._held)

    def forget(self) -> None:
        """Give the room of what is held back."""
        self._room.used -= self._held_bytes
        self._held.clear()
        self._held_bytes = 0

    # -- to the caller

    def pass_whole(self, caller: CallerConnection, request: RequestHead, *, keep: bool) -> None:
        """Write head and held body at once: it is all of the answer."""
        held = self._held.copy()
        self.body_bytes = self._held_bytes
        self.forget()
        if self.urls is not None and held:
            held = [self.urls.whole(b"".join(held))]
            self.body_bytes = len(held[0])
        head = self._caller_head(request, caller.place, self.body_bytes, keep=keep)
        self.begun = True
        if self.body_bytes < _JOINED_BYTES:
            caller.write(b"".join((head, *held)))
        else:
            caller.write_pieces((head, *held))

    def begin(self, caller: CallerConnection, request: RequestHead, *, keep: bool) -> None:
        """Write the head, and what was held; the rest follows by `data` and `end`."""
        held = self.body
        self.forget()
        head = self._caller_head(request, caller.place, None, keep=keep)
        self.begun = True
        caller.write(head)
        if held:
            self.data(caller, held)

    def data(self, caller: CallerConnection, data: bytes) -> None:
        """Pass `data` on. Raises ProtocolError when it does not fit its passage."""
        self.received_bytes += len(data)
        if self.passage is None:
            self._write(caller, data)
        else:
            self._write(caller, *self.passage.receive(data))

    @property
    def unread_bytes(self) -> int:
        """How much of it may go to the caller without being read here: as it comes, with no way back."""
        if not self.begun or self.passage is not None or self.urls is not None:
            return 0
        return (self.head.content_length or 0) - self.received_bytes

    def passed_by(self, count: int) -> None:
        """`count` bytes went to the caller unread."""
        self.received_bytes += count
        self.body_bytes += count

    def end(self, caller: CallerConnection) -> None:
        """Raises like `data`."""
        if self.passage is not None:
            self._write(caller, *self.passage.end())
        if self.urls is not None:
            urls, self.urls = self.urls, None
            self._write(caller, urls.end())
        if self._chunked:
            caller.write(LAST_CHUNK)

    def may_turn_to(self, urls: JsonUrls | None) -> bool:
        """Whether its rest can come from an upstream whose URLs are led back by `urls`."""
        # Items are passed on whole, so an URL is never of both; an opaque body may have ended inside one.
        return (self.passage is not None and self.passage.framed) or (urls is None and self.urls is None)

    def turn_to(self, caller: CallerConnection, urls: JsonUrls | None) -> None:
        """Its rest comes from an upstream whose URLs are led back by `urls`."""
        if self.urls is not None:
            before, self.urls = self.urls.end(), None
            self._write(caller, before)
        self.urls = urls

    @property
    def _reframed(self) -> bool:
        """Its length on the way to the caller is not yet known."""
        return self.urls is not None or (self.passage is not None and self.passage.framed)

    def _write(self, caller: CallerConnection, *pieces: bytes) -> None:
        if self.urls is not None:
            pieces = (self.urls.feed(b"".join(pieces)),)
        length = sum(map(len, pieces))
        if not length:
            return
        self.body_bytes += length
        if self._chunked:
            caller.write_pieces([b"%x\r\n" % length, *pieces, b"\r\n"])
        elif len(pieces) == 1:
            caller.write(pieces[0])
        else:
            caller.write_pieces(pieces)

    def _caller_head(self, request: RequestHead, place: Place, whole: int | None, *, keep: bool) -> bytes:
        head = self.head
        framing = b""
        if not answer_has_body(head, request.method):
            if request.method == b"HEAD" and head.content_length is not None:
                framing = b"Content-Length: %d\r\n" % head.content_length
        elif not self.proven and self.passage is None:
            # Only the end of the connection ends it, whether its upstream was done or died (RFC 9112 8). A
            # length or a last chunk of ours would promise more than the upstream did.
            keep = False
        elif whole is not None:
            framing = b"Content-Length: %d\r\n" % whole
        elif head.content_length is not None and not self._reframed:
            framing = b"Content-Length: %d\r\n" % head.content_length
        elif request.minor_version == 1:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        else:
            keep = False
        self.close = not keep
        if not keep:
            framing += b"Connection: close\r\n"
        return rewrite.answer_head(head, self.upstream, place, framing)
