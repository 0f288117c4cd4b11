"""Messages over an established association, the same on both sides: receive, send, stream, cancel, release.

Data sets stream: a fragment that nobody takes stops the peer. What the messages mean is for the service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

from failover.dicom import encoding, units
from failover.dicom.association import State
from failover.dicom.connection import Connection
from failover.dicom.dimse import Command
from failover.dicom.messages import Fragment, Message
from failover.dicom.negotiation import AcceptedContext, largest_fragment
from failover.errors import AssociationEnded, LimitExceeded


class Association:
    """One established association. All methods raise AssociationEnded when it is over."""

    def __init__(
        self,
        connection: Connection,
        request: units.AssociateRq,
        answer: units.AssociateAc,
        contexts: Mapping[int, AcceptedContext],
        *,
        companion: object = None,
    ) -> None:
        self.request = request
        self.answer = answer
        self.contexts = contexts
        self.companion = companion  # what the acceptor's `accept` left for whoever serves it
        self.peer_host = connection.peer_host
        self._connection = connection
        peer = request.user if not connection.machine.requestor else answer.user
        self._fragment_bytes = largest_fragment(peer.max_pdu_bytes, connection.max_pdu_bytes)
        self._sending = asyncio.Lock()  # messages never interleave: a second sender waits for the first
        self._data_set_left = False  # fragments of the last message are still to come
        self._working = 0

    @property
    def ended(self) -> str | None:
        """Why it is over, None while it is not."""
        return self._connection.ended

    @property
    def releasing(self) -> bool:
        """Whether the peer has asked for A-RELEASE."""
        return self._connection.released

    @property
    def has_queued(self) -> bool:
        """Whether something has arrived that nobody has taken."""
        return bool(self._connection.inbox.items)

    @property
    def next_is_response(self) -> bool:
        """Whether what has arrived first, and nobody has taken, is a response."""
        return self._connection.inbox.begins_with_response

    # -- receiving ----------------------------------------------------------------------------------

    async def receive(self) -> Message | None:
        """Return the next message, None when the peer asked for A-RELEASE.

        What was not taken of the data set before it is read and thrown away.
        """
        while True:
            item = await self._connection.next_item()
            if item is None:
                return None
            if isinstance(item, Message):
                self._data_set_left = item.has_data_set
                return item
            self._data_set_left = not item.is_last

    def data_set(self) -> DataSet:
        """Iterate over the bytes of the data set of the message just received, as they arrive."""
        return DataSet(self)

    async def next_fragments(self) -> list[Fragment]:
        """Return what has arrived of the data set of the message just received, at least one fragment of it.

        An empty list when it has come to its end.
        """
        found: list[Fragment] = []
        while self._data_set_left and (self._connection.inbox.items or not found):
            item = await self._connection.next_item()
            if not isinstance(item, Fragment):  # A-RELEASE-RQ inside a data set
                self._connection.abort_as_provider(
                    units.AbortReason.UNEXPECTED_PDU, "release inside a data set"
                )
                raise AssociationEnded("release inside a data set")
            self._data_set_left = not item.is_last
            found.append(item)
        return found

    async def whole_data_set(self, most_bytes: int) -> bytes:
        """Return the data set whole, for identifiers. Raises LimitExceeded beyond `most_bytes`."""
        parts: list[units.Buffer] = []
        size = 0
        while fragments := await self.next_fragments():
            for fragment in fragments:
                size += fragment.size
                parts += fragment.pieces
            if size > most_bytes:
                raise LimitExceeded(f"a data set of more than {most_bytes} bytes where a short one belongs")
        return b"".join(parts)

    async def skip_data_set(self) -> None:
        """Read what is left of the data set of the message just received, and throw it away."""
        while await self.next_fragments():
            pass

    def take(self) -> Message | Fragment | None:
        """Return what arrived next without waiting, None when nothing did: for who listens."""
        item = self._connection.take()
        if isinstance(item, Message):
            self._data_set_left = item.has_data_set
        elif item is not None:
            self._data_set_left = not item.is_last
        return item

    @property
    def in_data_set(self) -> bool:
        """Whether fragments of the data set of the last message taken are still to be taken."""
        return self._data_set_left

    def cancelled(self, message_id: int) -> bool:
        """Return whether a C-CANCEL arrived for the request with this message ID."""
        return message_id in self._connection.inbox.cancelled

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever something arrived, was cancelled, drained or ended."""
        self._connection.listener = listener

    # -- sending ------------------------------------------------------------------------------------

    async def send(self, context_id: int, command: Command, data_set: units.Buffer | None = None) -> None:
        """Send one message; `command` must say whether a data set follows."""
        async with self._sending:
            chunks = [*self._cut(context_id, command.encode(), is_command=True, ends=True)]
            if data_set is not None:
                chunks += self._cut(context_id, data_set, is_command=False, ends=True)
            await self._connection.write_p_data(*chunks)

    async def send_alike(
        self,
        context_id: int,
        command: Command,
        data_sets: Sequence[units.Buffer],
        *,
        last: Command | None = None,
    ) -> None:
        """Send a message for each data set, all with this command, in one go: the matches of a C-FIND.

        `last` follows them, without a data set.
        """
        async with self._sending:
            head = b"".join(self._cut(context_id, command.encode(), is_command=True, ends=True))
            chunks: list[units.Buffer] = []
            for data_set in data_sets:
                size = len(data_set)
                if size <= self._fragment_bytes:
                    chunks += (
                        head,
                        encoding.p_data_header(context_id, size, is_command=False, is_last=True),
                        data_set,
                    )
                else:
                    chunks += (head, *self._cut(context_id, data_set, is_command=False, ends=True))
            if last is not None:
                chunks += self._cut(context_id, last.encode(), is_command=True, ends=True)
            # In one piece: they are many and small, and each would be a write of its own to the system.
            await self._connection.write_p_data(b"".join(chunks))

    async def send_parts(self, context_id: int, command: Command, parts: AsyncIterator[units.Buffer]) -> None:
        """Send one message whose data set comes in parts; each is sent when the next one is known."""
        async with self._sending:
            waiting = [*self._cut(context_id, command.encode(), is_command=True, ends=True)]
            held: units.Buffer | None = None
            async for part in parts:
                if held is not None:
                    waiting += self._cut(context_id, held, is_command=False, ends=False)
                    await self._connection.write_p_data(*waiting)
                    waiting = []
                held = part
            waiting += self._cut(context_id, held or b"", is_command=False, ends=True)
            await self._connection.write_p_data(*waiting)

    async def send_command(self, context_id: int, command: Command) -> None:
        """Begin a message whose data set follows by `send_fragments`. For who sends alone: no lock."""
        await self._connection.write_p_data(
            *self._cut(context_id, command.encode(), is_command=True, ends=True)
        )

    async def send_fragments(self, context_id: int, *fragments: Fragment) -> None:
        """Go on with the message; it is cut anew where the peer takes less at a time."""
        chunks: list[units.Buffer] = []
        for fragment in fragments:
            run = fragment.run
            if run is not None and run.longest <= self._fragment_bytes and run.context_id == context_id:
                chunks.append(run.framed)
                continue
            last = len(fragment.pieces) - 1
            for place, piece in enumerate(fragment.pieces):
                ends = fragment.is_last and place == last
                chunks += self._cut(context_id, piece, is_command=False, ends=ends)
        await self._connection.write_p_data(*chunks)

    @property
    def writing_paused(self) -> bool:
        """Whether the peer has not yet taken what was sent: the next send would wait."""
        return self._connection.writing_paused

    def _cut(
        self, context_id: int, data: units.Buffer, *, is_command: bool, ends: bool
    ) -> Iterator[units.Buffer]:
        """Yield headers and pieces that fit the peer's maximum length."""
        pieces = encoding.fragments(data, self._fragment_bytes)
        for place, piece in enumerate(pieces, start=1):
            yield encoding.p_data_header(
                context_id, len(piece), is_command=is_command, is_last=ends and place == len(pieces)
            )
            yield piece

    # -- ending -------------------------------------------------------------------------------------

    async def release(self, timeout_s: float = 2.0) -> None:
        """Ask for A-RELEASE, or answer the peer's, and close; after `timeout_s` without an answer, drop."""
        connection = self._connection
        if connection.released:
            connection.respond_release()
        else:
            connection.request_release()
        try:
            async with asyncio.timeout(timeout_s):
                if connection.machine.state is State.AWAITING_RELEASE_RP:
                    await self._until_released()
                await connection.wait_gone()
        except TimeoutError:
            connection.drop()

    def release_unawaited(self, gone: Callable[[], None], timeout_s: float = 2.0) -> None:
        """As `release`, for who does not wait: `gone` is called when the connection is closed."""
        connection = self._connection
        if connection.is_gone:
            gone()
            return
        drop = asyncio.get_running_loop().call_later(timeout_s, connection.drop)

        def closed() -> None:
            drop.cancel()
            gone()

        def throw_away() -> None:
            while connection.take() is not None:
                pass  # what still arrives after our A-RELEASE-RQ has no taker
            if connection.released:
                connection.respond_release()  # the peer's request, or both at the same time (PS3.8 7.2.2.3)

        connection.when_gone = closed
        connection.listener = throw_away
        throw_away()
        connection.request_release()

    async def _until_released(self) -> None:
        with contextlib.suppress(AssociationEnded):
            while await self._connection.next_item() is not None:
                pass  # what still arrives after our A-RELEASE-RQ has no taker
            self._connection.respond_release()  # both asked at the same time (PS3.8 7.2.2.3)

    def abort(self, why: str = "aborted by us") -> None:
        """A-ABORT (service-user), at once."""
        self._connection.abort(why)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While inside, an operation of the peer is under way at our side: its silence is not idleness."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1

    @property
    def is_working(self) -> bool:
        """Whether an operation of the peer is under way at our side."""
        return self._working > 0

    def stalled_s(self, now_s: float) -> float:
        """Return for how long nothing moved although it was the peer's turn; 0 when it is ours."""
        connection = self._connection
        in_message = connection.assembler is not None and connection.assembler.in_message
        theirs = connection.writing_paused or (
            not connection.inbox.items and (in_message or not self._working)
        )
        return now_s - connection.last_moved_s if theirs else 0.0


class DataSet:
    """The bytes of a data set, piece by piece as they arrive. (No generator: ADR 7.)"""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._pieces: deque[units.Buffer] = deque()

    def __aiter__(self) -> DataSet:
        return self

    async def __anext__(self) -> units.Buffer:
        while not self._pieces:
            fragments = await self._association.next_fragments()
            if not fragments:
                raise StopAsyncIteration
            for fragment in fragments:
                if fragment.size:
                    self._pieces.extend(fragment.pieces)
        return self._pieces.popleft()
