"""The DICOM primary of a run: the front in the namespace, told to misbehave, killed, stopped, started."""

from __future__ import annotations

import asyncio
from typing import Final

from failover.clients.dimse import echo
from failover.errors import UpstreamError
from failover.model import Address, AeTitle, DicomPeer
from tests.bench.outage.stage import AE_TITLE, THEIRS, Archive, Namespace, Primary

DICOM_PORT: Final = 4242
PRIMARY: Final = f"{THEIRS}:{DICOM_PORT}"
PEER: Final = DicomPeer(Address(THEIRS, DICOM_PORT), AeTitle(AE_TITLE))


class DicomPrimary(Primary):
    """The stand-in of `dicom_primary`, in place of the one that speaks HTTP."""

    def __init__(self, namespace: Namespace, behind: Archive) -> None:
        super().__init__(namespace, behind)
        self._behind_port = behind.dicom_port

    def program(self) -> list[str]:
        arguments = [THEIRS, str(DICOM_PORT), str(self._behind_port), str(self.folder)]
        return ["tests.bench.outage.dicom_primary", *arguments]

    def answers(self) -> bool:
        try:
            asyncio.run(echo(PEER, "BENCH", timeout_s=2))
        except UpstreamError:
            return False
        return True
