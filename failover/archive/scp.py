"""The archive's DICOM side: C-ECHO, C-STORE, C-FIND, C-MOVE, C-GET and storage commitment as an SCP.

It turns messages into calls of `instances` and `index` and their outcomes into statuses (PS3.4 B.2.3, C.4).
What is served is what the index shows; nothing is acknowledged before `instances` says that it is durable.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Mapping
from typing import Final

import structlog

from failover.addresses import is_within
from failover.archive import find, sending
from failover.archive.commitment import PUSH_MODEL
from failover.archive.commitments import Commitments
from failover.archive.decoders import Decoders
from failover.archive.expected import ExpectedMoves
from failover.archive.held import Held
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.outside import may_have_missed
from failover.archive.queries import Level
from failover.clock import Clock
from failover.config.schema import ArchiveDicom, DicomCallers, MoveDestination
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.dimse import Command, CommandField, Status, Tag, category, response
from failover.dicom.exchange import Association
from failover.dicom.identifier import encode
from failover.dicom.messages import Message
from failover.dicom.negotiation import (
    CALLED_AE_NOT_RECOGNIZED,
    CALLING_AE_NOT_RECOGNIZED,
    RELAY_VERSION,
    VERIFICATION,
    Acceptance,
    AcceptedContext,
    Rejection,
    accept_roles,
)
from failover.dicom.query_keys import KeyUnreadable
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import AssociateRq, ContextOutcome, ContextResult, ProposedContext
from failover.errors import (
    AssociationEnded,
    Conflict,
    DataSetMismatch,
    DiskFull,
    LimitExceeded,
    StorageError,
    UnreadableDataSet,
    UpstreamError,
)
from failover.metrics import ArchiveMetrics
from failover.model import Address, AeTitle, DicomPeer, Origin

_log = structlog.get_logger(__name__)
_LITTLE: Final[tuple[str, ...]] = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
# An identifier with a list of 10,000 UIDs has 650 KB; beyond this it is no question.
_MAX_IDENTIFIER_BYTES: Final = 1 << 20
_OPEN_DESTINATION_S: Final = 10.0
# Matches of a C-FIND that go out in one write; a C-CANCEL is looked for between.
_ANSWERS_AT_ONCE: Final = 100
_DUPLICATE_SOP_INSTANCE: Final = 0x0111  # PS3.7 annex C
_PENDING_WITH_KEYS_UNSUPPORTED: Final = 0xFF01
# PS3.6 annex A: services that are not storage; an abstract syntax of none of these is kept, private ones too.
_NOT_STORAGE: Final = (
    "1.2.840.10008.1.", "1.2.840.10008.3.1.", "1.2.840.10008.4.2", "1.2.840.10008.5.1.1.",
    "1.2.840.10008.5.1.4.1.1.200.4", "1.2.840.10008.5.1.4.1.1.200.5", "1.2.840.10008.5.1.4.1.1.200.6",
    "1.2.840.10008.5.1.4.1.1.201.2", "1.2.840.10008.5.1.4.1.1.201.3", "1.2.840.10008.5.1.4.1.1.201.4",
    "1.2.840.10008.5.1.4.1.1.201.5", "1.2.840.10008.5.1.4.1.1.201.6", "1.2.840.10008.5.1.4.1.2.",
    "1.2.840.10008.5.1.4.20.", "1.2.840.10008.5.1.4.31",
    "1.2.840.10008.5.1.4.32", "1.2.840.10008.5.1.4.33", "1.2.840.10008.5.1.4.34.4",
    "1.2.840.10008.5.1.4.34.5.", "1.2.840.10008.5.1.4.34.6", "1.2.840.10008.5.1.4.34.8",
    "1.2.840.10008.5.1.4.37", "1.2.840.10008.5.1.4.38.2", "1.2.840.10008.5.1.4.38.3",
    "1.2.840.10008.5.1.4.38.4", "1.2.840.10008.5.1.4.39.2", "1.2.840.10008.5.1.4.39.3",
    "1.2.840.10008.5.1.4.39.4", "1.2.840.10008.5.1.4.41", "1.2.840.10008.5.1.4.42",
    "1.2.840.10008.5.1.4.43.2", "1.2.840.10008.5.1.4.43.3", "1.2.840.10008.5.1.4.43.4",
    "1.2.840.10008.5.1.4.44.2", "1.2.840.10008.5.1.4.44.3", "1.2.840.10008.5.1.4.44.4",
    "1.2.840.10008.5.1.4.45.2", "1.2.840.10008.5.1.4.45.3", "1.2.840.10008.5.1.4.45.4",
)  # fmt: skip
# Storage classes among the print services, retired and still in use.
_PRINTED: Final = frozenset({
    "1.2.840.10008.5.1.1.27", "1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.1.30",
})  # fmt: skip


class Scp:
    """One per archive. `start` with a listening socket, `stop` once."""

    def __init__(
        self,
        listen: ArchiveDicom,
        callers: DicomCallers,
        destinations: Mapping[AeTitle, MoveDestination],
        index: Index,
        instances: Instances,
        expected: ExpectedMoves,
        commitments: Commitments,
        metrics: ArchiveMetrics,
        clock: Clock,
        *,
        calls_out_as: AeTitle,
        fails_outside_window: bool,
        limits: Limits,
    ) -> None:
        """`calls_out_as`: the AE title under which C-MOVE opens associations (listen.dicom.ae_title)."""
        self._ae_title = listen.ae_title
        self._callers = callers
        self._destinations = destinations
        self._index = index
        self._instances = instances
        self._expected = expected
        self._commitments = commitments
        self._metrics = metrics
        self._clock = clock
        self._calls_out_as = calls_out_as
        self._fails_outside_window = fails_outside_window
        self._answers_made = find.Made()
        # Its own: peers that take slowly what is transcoded for them must not hold up the pictures.
        self._decoders = Decoders(workers=2)
        self._acceptor = Acceptor(limits, self._admit, self._accept, self._serve, clock, name="archive")

    async def start(self, sock: socket.socket) -> None:
        await self._acceptor.start(sock)

    def change(self, callers: DicomCallers, destinations: Mapping[AeTitle, MoveDestination]) -> None:
        """Go by these callers and destinations from the next association or C-MOVE on."""
        self._callers, self._destinations = callers, destinations
        self._commitments.change(destinations)

    async def stop(self, grace_s: float) -> None:
        await self._acceptor.stop(grace_s)
        await self._decoders.close()

    # -- opening ------------------------------------------------------------------------------------

    def _admit(self, rq: AssociateRq, host: str) -> Rejection | None:
        if rq.called_ae != self._ae_title:
            return CALLED_AE_NOT_RECOGNIZED
        if not isinstance(self._callers, dict):
            return None
        networks = self._callers.get(AeTitle(rq.calling_ae), [])
        if is_within(host, networks):
            return None
        return CALLING_AE_NOT_RECOGNIZED

    def _accept(self, rq: AssociateRq) -> Acceptance:
        results = [_result(context, rq) for context in rq.contexts]
        stored = [context.abstract_syntax for context in rq.contexts if _is_storage(context.abstract_syntax)]
        return Acceptance(results, roles=accept_roles(rq, stored))

    async def _serve(self, association: Association) -> None:
        while (message := await association.receive()) is not None:
            context = association.contexts[message.context_id]
            with association.working():
                status = await self._answer(association, message, context)
            self._metrics.operations.labels(message.command.name, category(status).value).inc()

    async def _answer(self, association: Association, message: Message, context: AcceptedContext) -> int:
        field = message.command.field
        if field == CommandField.C_ECHO_RQ:
            return await self._say(association, message, Status.SUCCESS)
        if field == CommandField.C_STORE_RQ and _is_storage(context.abstract_syntax):
            return await self._say(association, message, *await self._store(association, message, context))
        if field == CommandField.C_FIND_RQ and context.abstract_syntax in find.FIND:
            return await self._find(association, message, context)
        if field == CommandField.C_GET_RQ and context.abstract_syntax in find.GET:
            return await self._get(association, message, context)
        if field == CommandField.C_MOVE_RQ and context.abstract_syntax in find.MOVE:
            return await self._move(association, message, context)
        if field == CommandField.N_ACTION_RQ and context.abstract_syntax == PUSH_MODEL:
            return await self._say(association, message, *await self._commit(association, message, context))
        if message.command.is_response:
            return Status.SUCCESS  # of a sub-operation that was given up: nobody waits for it
        return await self._say(association, message, Status.UNRECOGNIZED_OPERATION)

    async def _say(
        self, association: Association, message: Message, status: int, comment: str | None = None
    ) -> int:
        values: dict[Tag, int | str | None] = {Tag.ERROR_COMMENT: comment}
        await association.send(message.context_id, response(message.command, status, values))
        return status

    # -- storing ------------------------------------------------------------------------------------

    async def _store(
        self, association: Association, message: Message, context: AcceptedContext
    ) -> tuple[int, str | None]:
        command = message.command
        caller = association.request.calling_ae
        try:
            head = self._instances.data_set_head(
                command.sop_class_uid, command.sop_instance_uid, context.transfer_syntax, caller
            )
            incoming = self._instances.receive(head, context.transfer_syntax)
        except DiskFull as error:
            return Status.OUT_OF_RESOURCES, str(error)
        try:
            async for part in association.data_set():
                await incoming.write(part)
            await incoming.keep(self._origin(command), caller)
        except DiskFull as error:
            return Status.OUT_OF_RESOURCES, str(error)
        except DataSetMismatch as error:
            return Status.IDENTIFIER_DOES_NOT_MATCH, str(error)  # 0xA900 for C-STORE too (PS3.4 B.2.3)
        except UnreadableDataSet as error:
            return Status.CANNOT_UNDERSTAND, str(error)
        except Conflict as error:
            return _DUPLICATE_SOP_INSTANCE, str(error)
        except StorageError as error:
            _log.error("not stored", error=str(error))
            return Status.OUT_OF_RESOURCES, "could not be written"
        finally:
            await incoming.discard()
        return Status.SUCCESS, None

    def _origin(self, command: Command) -> Origin:
        return self._expected.origin(
            command.text(Tag.MOVE_ORIGINATOR_AE), command.number(Tag.MOVE_ORIGINATOR_MESSAGE_ID)
        )

    async def _commit(
        self, association: Association, message: Message, context: AcceptedContext
    ) -> tuple[int, str | None]:
        rq = association.request
        via_router = rq.user.implementation_version == RELAY_VERSION
        try:
            return await self._commitments.answer(
                message.command,
                await association.whole_data_set(_MAX_IDENTIFIER_BYTES),
                context.transfer_syntax,
                rq.calling_ae,
                self._calls_out_as if via_router else self._ae_title,  # what the modality called
            )
        except LimitExceeded as error:
            return Status.OUT_OF_RESOURCES, str(error)
        except StorageError as error:
            _log.error("a request for commitment was not kept", error=str(error))
            return Status.PROCESSING_FAILURE, "could not be written"

    # -- searching ----------------------------------------------------------------------------------

    async def _find(self, association: Association, message: Message, context: AcceptedContext) -> int:
        request = message.command
        try:
            raw = await association.whole_data_set(_MAX_IDENTIFIER_BYTES)
            identifier, query = find.asked(raw, context.transfer_syntax, context.abstract_syntax)
        except (UnreadableDataSet, LimitExceeded) as error:
            return await self._say(association, message, Status.CANNOT_UNDERSTAND, str(error))
        except KeyUnreadable as error:
            return await self._say(association, message, Status.IDENTIFIER_DOES_NOT_MATCH, str(error))
        window = self._index.window
        matches = await self._index.search(query)
        # PS3.4 C.4.1.1.4: 0xFF01 where a key had no part in the matching.
        pending = _PENDING_WITH_KEYS_UNSUPPORTED if query.unsupported else Status.PENDING
        if not matches:
            if (
                self._fails_outside_window
                and association.request.user.implementation_version == RELAY_VERSION
                and may_have_missed(query, window, self._index)
            ):
                return await self._say(association, message, Status.UNABLE_TO_PROCESS, window.sentence())
            return await self._say(association, message, Status.SUCCESS)
        command, success = response(request, pending, has_data_set=True), response(request, Status.SUCCESS)
        answers = find.Answers(
            identifier, query.level, self._ae_title, context.transfer_syntax, self._answers_made
        )
        for at in range(0, len(matches), _ANSWERS_AT_ONCE):
            if association.cancelled(request.message_id):
                return await self._say(association, message, Status.CANCEL)
            some = answers.of_all(matches[at : at + _ANSWERS_AT_ONCE])
            is_last = at + _ANSWERS_AT_ONCE >= len(matches)
            await association.send_alike(message.context_id, command, some, last=success if is_last else None)
        return Status.SUCCESS

    # -- retrieving ---------------------------------------------------------------------------------

    async def _wanted(self, association: Association, context: AcceptedContext) -> list[Held]:
        """Return the instances that a C-GET or C-MOVE names. Raises KeyUnreadable, UnreadableDataSet."""
        query = find.selection(await _identifier(association, context), context.abstract_syntax)
        matches = await self._index.search(query)
        if query.level is Level.PATIENT:
            studies = find.studies_of(query)
            matches = await self._index.search(studies)
        return list(self._index.instances_of(matches))

    async def _get(self, association: Association, message: Message, context: AcceptedContext) -> int:
        try:
            wanted = await self._wanted(association, context)
        except (UnreadableDataSet, LimitExceeded) as error:
            return await self._say(association, message, Status.CANNOT_UNDERSTAND, str(error))
        except KeyUnreadable as error:
            return await self._say(association, message, Status.IDENTIFIER_DOES_NOT_MATCH, str(error))
        counters = sending.Counters(len(wanted))
        numbers = itertools.cycle(range(1, 65536))
        for held in wanted:
            if association.cancelled(message.command.message_id):
                return await self._end(association, message, context, counters, cancelled=True)
            status = await sending.send(
                association, held, next(numbers), self._decoders, we_are_acceptor=True
            )
            counters.count(status, held.key.sop_instance_uid)
            if counters.remaining:
                await association.send(message.context_id, counters.pending(message.command))
        return await self._end(association, message, context, counters)

    async def _move(self, association: Association, message: Message, context: AcceptedContext) -> int:
        request = message.command
        try:
            wanted = await self._wanted(association, context)
        except (UnreadableDataSet, LimitExceeded) as error:
            return await self._say(association, message, Status.CANNOT_UNDERSTAND, str(error))
        except KeyUnreadable as error:
            return await self._say(association, message, Status.IDENTIFIER_DOES_NOT_MATCH, str(error))
        name = AeTitle(request.text(Tag.MOVE_DESTINATION))
        destination = self._destinations.get(name)
        if destination is None:
            return await self._say(
                association, message, Status.MOVE_DESTINATION_UNKNOWN, "not in archive.move_destinations"
            )
        counters = sending.Counters(len(wanted))
        if not wanted:
            return await self._end(association, message, context, counters)
        peer = DicomPeer(Address(destination.host, destination.port), name)
        try:
            other = await open_association(
                peer, self._calls_out_as, sending.contexts_for(wanted), timeout_s=_OPEN_DESTINATION_S
            )
        except UpstreamError as error:
            _log.warning("move destination not reached", destination=name, error=str(error))
            counters.failed, counters.remaining = counters.remaining, 0
            counters.failed_uids = [held.key.sop_instance_uid for held in wanted]
            return await self._end(association, message, context, counters)
        cancelled = False
        originator = (association.request.calling_ae, request.message_id)
        numbers = itertools.cycle(range(1, 65536))
        try:
            for held in wanted:
                cancelled = association.cancelled(request.message_id)
                if cancelled:
                    break
                status = await sending.send(
                    other,
                    held,
                    next(numbers),
                    self._decoders,
                    we_are_acceptor=False,
                    originator=originator,
                )
                counters.count(status, held.key.sop_instance_uid)
                if counters.remaining:
                    await association.send(message.context_id, counters.pending(request))
            await other.release()
        except AssociationEnded:
            other.abort("given up")
            if association.ended is not None:
                raise
            left = wanted[len(wanted) - counters.remaining :]  # the destination has gone
            counters.failed += len(left)
            counters.failed_uids += [held.key.sop_instance_uid for held in left]
            counters.remaining = 0
        return await self._end(association, message, context, counters, cancelled=cancelled)

    async def _end(
        self,
        association: Association,
        message: Message,
        context: AcceptedContext,
        counters: sending.Counters,
        *,
        cancelled: bool = False,
    ) -> int:
        status = counters.final_status(cancelled=cancelled)
        values = counters.values(with_remaining=cancelled)
        if not counters.failed_uids:
            await association.send(message.context_id, response(message.command, status, values))
            return status
        failed = {0x00080058: {"vr": "UI", "Value": counters.failed_uids}}  # PS3.4 C.4.2.1.4.2
        await association.send(
            message.context_id,
            response(message.command, status, values, has_data_set=True),
            encode(failed, implicit=context.transfer_syntax == IMPLICIT_LITTLE),
        )
        return status


async def _identifier(association: Association, context: AcceptedContext) -> find.Identifier:
    raw = await association.whole_data_set(_MAX_IDENTIFIER_BYTES)
    return find.read_identifier(raw, context.transfer_syntax)


def _is_storage(abstract_syntax: str) -> bool:
    return abstract_syntax in _PRINTED or not abstract_syntax.startswith(_NOT_STORAGE)


def _result(context: ProposedContext, rq: AssociateRq) -> ContextResult:
    """Answer one proposed context: services in little endian, objects as they come."""
    abstract, proposed = context.abstract_syntax, context.transfer_syntaxes
    if abstract in (VERIFICATION, PUSH_MODEL) or abstract in find.FIND | find.GET | find.MOVE:
        chosen = next((syntax for syntax in _LITTLE if syntax in proposed), None)
    elif not _is_storage(abstract):
        return ContextResult(context.context_id, ContextOutcome.ABSTRACT_SYNTAX_NOT_SUPPORTED)
    elif any(role.sop_class == abstract and role.scp for role in rq.user.roles):
        # We send over it: uncompressed we can make of everything, so that is the safe one of several.
        chosen = next((syntax for syntax in (*_LITTLE, *proposed) if syntax in proposed), None)
    else:
        chosen = next(iter(proposed), None)
    if chosen is None:
        return ContextResult(context.context_id, ContextOutcome.TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return ContextResult(context.context_id, ContextOutcome.ACCEPTED, chosen)
