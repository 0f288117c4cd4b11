"""A DICOM primary that misbehaves on order: a front that passes all on to a real archive, until told not to.

    python -m tests.bench.outage.dicom_primary HOST PORT BEHIND_PORT FOLDER

Its mode is what stands in FOLDER/mode: `well`, `failing` (each request gets a failure status that speaks of
the archive), `slow` (each A-ASSOCIATE-AC and each answer 10 s late), `refuse` (associations get RJ
transient). Whatever the mode, a C-FIND for the patient ID of `SLOW_PATIENT` takes 20 s.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import uvloop

from failover.aio import cancel_and_wait, spawn
from failover.app.listeners import bind
from failover.clock import SystemClock
from failover.dicom.acceptor import Acceptor, Limits
from failover.dicom.dimse import CommandField, response
from failover.dicom.exchange import Association
from failover.dicom.negotiation import TEMPORARY_CONGESTION, Acceptance, Rejection
from failover.dicom.requestor import open_association
from failover.dicom.units import AssociateRq
from failover.errors import AssociationEnded, AssociationRejected, UpstreamError
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.outage.stage import AE_TITLE

SLOW_S: Final = 10.0
SLOW_KIND_S: Final = 20.0
SLOW_PATIENT: Final = "TWENTY SECONDS"
_MOST_BYTES: Final = 64 << 20


class Front:
    def __init__(self, behind_port: int, folder: Path) -> None:
        self._behind = DicomPeer(Address("127.0.0.1", behind_port), AeTitle(AE_TITLE))
        self._mode = folder / "mode"
        self._clock = SystemClock()
        limits = Limits(max_associations=2000, max_per_address=2000, max_per_ae_title=2000)
        self.acceptor = Acceptor(limits, self._admit, self._accept, self._serve, self._clock, name="primary")

    @property
    def mode(self) -> str:
        return self._mode.read_text()

    def _admit(self, rq: AssociateRq, host: str) -> Rejection | None:
        return TEMPORARY_CONGESTION if self.mode == "refuse" else None

    async def _accept(self, rq: AssociateRq) -> Acceptance | Rejection:
        if self.mode == "slow":
            await self._clock.sleep(SLOW_S)
        user = rq.user
        try:
            behind = await open_association(
                self._behind, rq.calling_bytes, rq.contexts, timeout_s=30, roles=user.roles,
                extended=user.extended, common_extended=user.common_extended, identity=user.identity,
            )  # fmt: skip
        except AssociationRejected as error:
            return Rejection(error.result, error.source, error.reason)
        except UpstreamError:
            return TEMPORARY_CONGESTION
        answer = behind.answer
        return Acceptance(answer.contexts, answer.user.roles, answer.user.extended, companion=behind)

    async def _serve(self, caller: Association) -> None:
        behind = caller.companion
        assert isinstance(behind, Association)
        backwards = spawn(self._answers(behind, caller), name="answers")
        try:
            await self._requests(caller, behind)
            await behind.release()
        finally:
            await cancel_and_wait(backwards)
            behind.abort()

    async def _requests(self, caller: Association, behind: Association) -> None:
        while (message := await caller.receive()) is not None:
            data_set = await caller.whole_data_set(_MOST_BYTES) if message.has_data_set else None
            command = message.command
            if (
                self.mode == "failing"
                and not command.is_response
                and command.field != CommandField.C_CANCEL_RQ
            ):
                echo = command.field == CommandField.C_ECHO_RQ
                await caller.send(message.context_id, response(command, 0x0110 if echo else 0xA700))
                continue
            if command.field == CommandField.C_FIND_RQ and SLOW_PATIENT.encode() in (data_set or b""):
                await self._clock.sleep(SLOW_KIND_S)
            await behind.send(message.context_id, command, data_set)

    async def _answers(self, behind: Association, caller: Association) -> None:
        try:
            while (message := await behind.receive()) is not None:
                data_set = await behind.whole_data_set(_MOST_BYTES) if message.has_data_set else None
                if self.mode == "slow":
                    await self._clock.sleep(SLOW_S)
                await caller.send(message.context_id, message.command, data_set)
        except AssociationEnded:
            caller.abort()


async def _serve(host: str, port: int, behind_port: int, folder: Path) -> None:
    front = Front(behind_port, folder)
    await front.acceptor.start(bind("primary", host, port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
