"""An exam on the table while the primary dies: a modality sends slice after slice, a workstation wants them.

What was acknowledged when the workstation asks must be there, wherever it asks. All slices are of one study.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pydicom import Dataset

from failover.clock import SystemClock
from failover.dicom.data_sets import encoded
from failover.dicom.dimse import Category, Command, CommandField, Tag, category, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.negotiation import propose
from failover.dicom.part10 import read_head
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE
from failover.dicom.units import RoleSelection
from failover.errors import AssociationEnded, UpstreamError
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.outage.content import ROOT, TEMPLATE_UID, new_object, part10
from tests.bench.outage.dicom_callers import CT, TIMEOUT_S, Tally, Wrong, final
from tests.bench.outage.stage import AE_TITLE

EVERY_S: Final = 0.1
_STUDY_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
_CONTEXTS: Final = propose([CT, _STUDY_GET], [EXPLICIT_LITTLE])
_ID: Final = {context.abstract_syntax: context.context_id for context in _CONTEXTS}
_MOST_BYTES: Final = 2 << 20
_clock = SystemClock()
_Faults = (UpstreamError, AssociationEnded, Wrong, TimeoutError)


class Exam:
    """One study, sent through `port` until told to end. Its stores and retrieves are of the row's kind."""

    def __init__(self, port: int, number: int, tally: Tally) -> None:
        """`number` tells it from other exams."""
        self._peer = DicomPeer(Address("127.0.0.1", port), AeTitle(AE_TITLE))
        self._study = f"{ROOT}.77{number:03}"
        file = part10(self._study, f"{self._study}.1", TEMPLATE_UID, side=512)
        self._template = file[read_head(file).data_set_offset :]
        self._first = number * 10_000
        self._tally = tally
        self._acknowledged: set[str] = set()
        self._ended = False

    async def go_on(self) -> None:
        association: Association | None = None
        number = 0
        while not self._ended:
            due_s, number, fault = _clock.monotonic() + EVERY_S, number + 1, None
            try:
                if association is None:
                    association = await self._open("CT9")
                async with asyncio.timeout(TIMEOUT_S):
                    await self._store(association, number)
            except _Faults as error:
                fault = f"{type(error).__name__} {error}"
                if association is not None:
                    self._tally.lost_association()
                    association.abort()
                    association = None
            self._tally.add("kind", _clock.monotonic() - due_s + EVERY_S, fault)
            await _clock.sleep(max(0.0, due_s - _clock.monotonic()))
        if association is not None:
            await association.release()

    def end(self) -> None:
        self._ended = True

    async def missing(self) -> int:
        """Retrieve the study; return how many slices that were acknowledged before do not come."""
        wanted, got, began_s, fault = self._acknowledged.copy(), set[str](), _clock.monotonic(), None
        try:
            association = await self._open("READER")
            async with asyncio.timeout(TIMEOUT_S):
                await self._get(association, got)
            await association.release()
        except _Faults as error:
            fault = f"{type(error).__name__} {error}"
        self._tally.add("kind", _clock.monotonic() - began_s, fault)
        return len(wanted - got)

    async def _open(self, calling: str) -> Association:
        roles = (RoleSelection(CT, True, True),)
        return await open_association(self._peer, calling, _CONTEXTS, timeout_s=TIMEOUT_S, roles=roles)

    async def _store(self, association: Association, number: int) -> None:
        uid, data_set = new_object(self._template, self._first + number)
        await association.send(_ID[CT], store_rq(number, CT, uid), data_set)
        await final(association)
        self._acknowledged.add(uid)

    async def _get(self, association: Association, got: set[str]) -> None:
        """C-GET of the study (PS3.4 C.4.3). Raises Wrong, AssociationEnded."""
        identifier = Dataset()
        identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", self._study
        request = Command.make(
            CommandField.C_GET_RQ,
            {
                Tag.AFFECTED_SOP_CLASS_UID: _STUDY_GET, Tag.MESSAGE_ID: 1, Tag.PRIORITY: 0,
                Tag.DATA_SET_TYPE: 1,
            },
        )  # fmt: skip
        await association.send(_ID[_STUDY_GET], request, encoded(identifier, EXPLICIT_LITTLE))
        while (message := await association.receive()) is not None:
            command = message.command
            if command.field == CommandField.C_STORE_RQ:
                await association.whole_data_set(_MOST_BYTES)
                got.add(command.sop_instance_uid)
                await association.send(message.context_id, response(command, 0))
            elif category(command.status) is Category.SUCCESS:
                return
            elif category(command.status) is not Category.PENDING:
                raise Wrong(f"status {command.status:#06x}")
        raise Wrong("released by the acceptor")
