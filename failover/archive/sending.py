"""Sub-operations of C-GET and C-MOVE (PS3.4 C.4.2, C.4.3): instances sent by C-STORE over an association.

Which instances is the asker's affair. Stored bytes are sent as they are wherever the peer takes their
transfer syntax, else uncompressed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from failover.archive.codecs import Undecodable
from failover.archive.decoders import Decoders
from failover.archive.dicomweb.from_disk import file_pieces
from failover.archive.held import Held
from failover.archive.pixels import NoPixels, NoSuchFrame
from failover.dicom.dimse import Category, Command, Status, Tag, category, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.dicom.negotiation import AcceptedContext
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import Buffer, ProposedContext
from failover.errors import AssociationEnded, StorageError, UnreadableDataSet

_log = structlog.get_logger(__name__)
_PIECE_BYTES: Final = 1 << 20  # nearly all objects in one: each piece may take a turn of a thread
_MOST_CONTEXTS: Final = 128
# What the decoders make of any syntax that they read.
TARGETS: Final = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)


@dataclass(slots=True)
class Counters:
    """Numbers of sub-operations (PS3.7 9.1.4.1.8 ff.)."""

    remaining: int
    completed: int = 0
    failed: int = 0
    warning: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def count(self, status: int, sop_instance_uid: str) -> None:
        self.remaining -= 1
        kind = category(status)
        if kind is Category.SUCCESS:
            self.completed += 1
        elif kind is Category.WARNING:
            self.warning += 1
        else:
            self.failed += 1
            self.failed_uids.append(sop_instance_uid)

    def values(self, *, with_remaining: bool) -> dict[Tag, int | str | None]:
        return {
            Tag.REMAINING: self.remaining if with_remaining else None,
            Tag.COMPLETED: self.completed,
            Tag.FAILED: self.failed,
            Tag.WARNING: self.warning,
        }

    def final_status(self, *, cancelled: bool) -> int:
        if cancelled:
            return Status.CANCEL
        if not self.failed and not self.warning:
            return Status.SUCCESS
        if self.failed and not self.completed and not self.warning:
            return Status.UNABLE_TO_PERFORM
        return Status.SUB_OPERATIONS_WITH_FAILURES

    def pending(self, request: Command) -> Command:
        return response(request, Status.PENDING, self.values(with_remaining=True))


def contexts_for(instances: Iterable[Held]) -> list[ProposedContext]:
    """Return what to propose to a C-MOVE destination: each class as it is stored, and uncompressed."""
    wanted: dict[tuple[str, tuple[str, ...]], None] = {}
    for held in instances:
        wanted[held.sop_class_uid, (held.transfer_syntax_uid,)] = None
        wanted[held.sop_class_uid, TARGETS] = None
    return [
        ProposedContext(2 * place + 1, abstract, syntaxes)
        for place, (abstract, syntaxes) in enumerate([*wanted][:_MOST_CONTEXTS])
    ]


def context_for(
    held: Held, contexts: Mapping[int, AcceptedContext], *, we_are_acceptor: bool
) -> AcceptedContext | None:
    """Return the best context for `held`: its own syntax, else one that we can make; None: it cannot go."""
    usable = [
        context
        for context in contexts.values()
        if context.abstract_syntax == held.sop_class_uid
        and (context.scp_role if we_are_acceptor else context.scu_role)
    ]
    for syntax in (held.transfer_syntax_uid, *TARGETS):
        for context in usable:
            if context.transfer_syntax == syntax:
                return context
    return None


async def send(
    association: Association,
    held: Held,
    message_id: int,
    decoders: Decoders,
    *,
    we_are_acceptor: bool,
    originator: tuple[str, int] | None = None,
) -> int:
    """Send one instance; return the status of its sub-operation. Raises AssociationEnded."""
    context = context_for(held, association.contexts, we_are_acceptor=we_are_acceptor)
    if context is None:
        return Status.SOP_CLASS_NOT_SUPPORTED
    command = store_rq(
        message_id,
        held.sop_class_uid,
        held.key.sop_instance_uid,
        originator_ae=originator[0] if originator else None,
        originator_message_id=originator[1] if originator else None,
    )
    began = False
    try:
        if context.transfer_syntax == held.transfer_syntax_uid:
            extent = (held.data_set_offset, held.size_bytes - held.data_set_offset)
            pieces = file_pieces(held.file, extent, _PIECE_BYTES)
            first = await anext(pieces)
            began = True
            await association.send_parts(context.context_id, command, _with(first, pieces))
        else:
            async with decoders.data_set(held.path, context.transfer_syntax) as pieces:
                began = True
                await association.send_parts(context.context_id, command, pieces)
    except (StorageError, OSError, UnreadableDataSet, Undecodable, NoPixels, NoSuchFrame) as error:
        # The row of an object that cannot be read again: the janitor and the scrubber say more.
        _log.error("an instance could not be sent", error=type(error).__name__)
        if began:
            # Part of the data set is out: nothing but an A-ABORT tells the peer that the rest is missing.
            association.abort("an instance broke off")
            raise AssociationEnded("an instance broke off") from error
        return Status.PROCESSING_FAILURE
    answer = await _response(association, message_id)
    return Status.PROCESSING_FAILURE if answer is None else answer.command.status


async def _response(association: Association, message_id: int) -> Message | None:
    while True:
        message = await association.receive()
        if message is None or (message.command.is_response and message.command.message_id == message_id):
            return message


async def _with(first: Buffer, rest: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    yield first
    async for piece in rest:
        yield piece
