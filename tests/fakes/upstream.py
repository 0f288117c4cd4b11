"""A DICOM upstream that can be told to fail: what a real archive does not do at the right moment.

It speaks through our own acceptor. `faults` is a list of what happens to the next operations of a name:
"die" (the connection breaks at once), "die_after_one" (after one match or instance), "hang" (no word),
"abort", "stray_id" or "stray_field" (a success that answers something else, then no word), or a status.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from failover.aio import Signal
from failover.clock import SystemClock
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.dimse import Command, CommandField, Tag, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.dicom.negotiation import Acceptance, Rejection, accept_roles, choose_contexts
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import AssociateRq
from failover.errors import AssociationEnded
from failover.model import Address, AeTitle, DicomPeer

CT = "1.2.840.10008.5.1.4.1.1.2"
Fault = str | int


def encoded(data_set: Dataset, *, implicit: bool = False) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def decoded(raw: bytes, *, implicit: bool = False) -> Dataset:
    return read_dataset(BytesIO(raw), implicit, True)


def study(uid: str, patient: str = "P1", **more: str) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = "STUDY"
    found.PatientID = patient
    found.StudyInstanceUID = uid
    for keyword, value in more.items():
        setattr(found, keyword, value)
    return found


class FakeUpstream:
    """Listens on a free port; `stored` is what it acknowledged, `asked` every operation it was sent."""

    def __init__(self, ae_title: str, *, matches: Sequence[Dataset] = (), port: int = 0) -> None:
        self.ae_title = ae_title
        self.matches = list(matches)
        self.instances: dict[str, bytes] = {}  # what C-GET sends, by SOP instance UID
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.commands: list[Command] = []
        self.requests: list[AssociateRq] = []
        self.faults: Mapping[str, deque[Fault]] = defaultdict(deque)
        self.rejection: Rejection | None = None
        self.turned_away: list[AssociateRq] = []
        self.silent_opening = False  # no answer to an A-ASSOCIATE-RQ
        self.max_pdu_bytes = 65536
        self.syntaxes: dict[str, Sequence[str]] = {}  # of an abstract syntax; default both little endian
        self.grants_extended = True  # what is asked for by extended negotiation (PS3.7 D.3.3.5), else nothing
        self.responses_to_events: list[int] = []
        self.cancelled = 0
        self.delivered = 0  # instances of C-GETs that the requestor took
        self.changed = Signal()  # at each A-ASSOCIATE-RQ and each operation
        self._port = port
        self._acceptor: Acceptor | None = None

    @property
    def peer(self) -> DicomPeer:
        return DicomPeer(Address("127.0.0.1", self._port), AeTitle(self.ae_title))

    async def start(self) -> FakeUpstream:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", self._port))
        self._port = sock.getsockname()[1]
        self._acceptor = Acceptor(
            Limits(
                max_associations=1000,
                max_per_address=1000,
                max_per_ae_title=1000,
                max_pdu_bytes=self.max_pdu_bytes,
            ),
            self._admit,
            self._accept,
            self._serve,
            SystemClock(),
            name=f"fake {self.ae_title}",
        )
        await self._acceptor.start(sock)
        return self

    async def kill(self) -> None:
        """Close the listener and break every connection. `start` brings it back on the same port."""
        if self._acceptor is not None:
            acceptor, self._acceptor = self._acceptor, None
            await acceptor.stop(0)

    def _admit(self, rq: AssociateRq, _host: str) -> Rejection | None:
        if self.rejection is not None:
            self.turned_away.append(rq)
            self.changed.fire()
        return self.rejection

    async def _accept(self, rq: AssociateRq) -> Acceptance:
        self.requests.append(rq)
        self.changed.fire()
        if self.silent_opening:
            await asyncio.Event().wait()
        contexts = choose_contexts(rq, lambda uid: self.syntaxes.get(uid, (EXPLICIT_LITTLE, IMPLICIT_LITTLE)))
        roles = accept_roles(rq, [context.abstract_syntax for context in rq.contexts])
        response_ = b"ticket" if rq.user.identity and rq.user.identity.response_requested else None
        extended = rq.user.extended if self.grants_extended else ()
        return Acceptance(contexts, roles=roles, extended=extended, identity_response=response_)

    async def _serve(self, association: Association) -> None:
        while (message := await association.receive()) is not None:
            name = message.command.name
            if message.command.is_response:
                self.responses_to_events.append(message.command.status)
                continue
            self.asked.append(name)
            self.commands.append(message.command)
            self.changed.fire()
            fault = self.faults[name].popleft() if self.faults[name] else None
            if fault == "hang":
                await asyncio.Event().wait()
            if fault in ("die", "abort"):
                self._break(association, fault)
            if fault in ("stray_id", "stray_field"):
                await association.send(message.context_id, _stray(message.command, fault))
                await asyncio.Event().wait()
            await self._answer(association, message, fault)

    def _break(self, association: Association, fault: Fault) -> None:
        if fault == "abort":
            association.abort()
        else:
            association._connection.drop()
        raise AssociationEnded("as told")

    async def _answer(self, association: Association, message: Message, fault: Fault | None) -> None:
        context_id, command = message.context_id, message.command
        name = command.name
        if name == "C-STORE":
            body = bytearray()
            async for part in association.data_set():
                body += part
                if fault == "die_in_data" and len(body) > 1000:
                    self._break(association, "die")
            if fault == "die_at_end":
                self._break(association, "die")
            if not isinstance(fault, int):
                self.stored[command.sop_instance_uid] = bytes(body)
        else:
            raw = await association.whole_data_set(1 << 20)
            if name == "C-FIND":
                await self._find(association, message, fault)
            elif name == "C-GET":
                await self._get(association, message, fault)
                return
            elif name == "N-ACTION":
                await association.send(context_id, response(command, 0))
                await self._event(association, message, raw)
                return
        await association.send(context_id, response(command, fault if isinstance(fault, int) else 0))

    async def _find(self, association: Association, message: Message, fault: Fault | None) -> None:
        implicit = association.contexts[message.context_id].transfer_syntax == IMPLICIT_LITTLE
        for place, match in enumerate(self.matches):
            if fault == "die_after_one" and place == 1:
                self._break(association, "die")
            if fault == "hang_after_one" and place == 1:
                await asyncio.Event().wait()
            if isinstance(fault, int) and fault != 0:
                return
            if association.cancelled(message.command.message_id):
                self.cancelled += 1
                return
            pending = response(message.command, 0xFF00, has_data_set=True)
            await association.send(message.context_id, pending, encoded(match, implicit=implicit))

    async def _get(self, association: Association, message: Message, fault: Fault | None) -> None:
        completed = failed = 0
        contexts = {c.abstract_syntax: c.context_id for c in association.contexts.values()}
        for number, (uid, raw) in enumerate(self.instances.items(), start=1):
            if fault == "die_after_one" and completed == 1:
                self._break(association, "die")
            if fault == "hang_after_one" and completed == 1:
                await asyncio.Event().wait()
            if isinstance(fault, int):
                break
            await association.send(contexts[CT], _announced(number, uid), raw)
            answer = await association.receive()
            if answer is None or answer.command.status != 0:
                failed += 1
            else:
                completed += 1
                self.delivered += 1
                self.changed.fire()
            left = len(self.instances) - completed - failed
            counters: dict[Tag, int | str | None] = {
                Tag.REMAINING: left, Tag.COMPLETED: completed, Tag.FAILED: failed, Tag.WARNING: 0,
            }  # fmt: skip
            if left:
                await association.send(message.context_id, response(message.command, 0xFF00, counters))
        status = fault if isinstance(fault, int) else 0
        final: dict[Tag, int | str | None] = {Tag.COMPLETED: completed, Tag.FAILED: failed, Tag.WARNING: 0}
        await association.send(message.context_id, response(message.command, status, final))

    async def _event(self, association: Association, message: Message, raw: bytes) -> None:
        event = response(message.command, 0).replaced({
            Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ, Tag.MESSAGE_ID: 77, Tag.STATUS: None,
            Tag.MESSAGE_ID_RESPONDED_TO: None, Tag.EVENT_TYPE_ID: 1, Tag.DATA_SET_TYPE: 1,
        })  # fmt: skip
        await association.send(message.context_id, event, raw)


def _stray(request: Command, fault: Fault) -> Command:
    answer = response(request, 0)
    if fault == "stray_field":
        return answer.replaced({Tag.COMMAND_FIELD: CommandField.N_DELETE_RSP})
    return answer.replaced({Tag.MESSAGE_ID_RESPONDED_TO: request.message_id + 1000})


def _announced(number: int, uid: str) -> Command:
    return store_rq(number, CT, uid)
