"""The probes of a DICOM side: C-ECHO for `reach`, C-FIND at study level for `query`. No probe moves or
stores.

Each asks in a fresh association. The watch sets the limits; `last_resort_s` only ends what nobody awaits
any more.
"""

from __future__ import annotations

from pydicom import Dataset

from failover.clients import dimse
from failover.health.probes import EchoProbe
from failover.model import AeTitle, DicomPeer


def echo_probe(peer: DicomPeer, calling_ae: AeTitle, last_resort_s: float) -> EchoProbe:
    """Return the C-ECHO probe of `peer`."""

    async def echo() -> None:
        await dimse.echo(peer, calling_ae, timeout_s=last_resort_s)

    return EchoProbe(echo)


class FindSearcher:
    """Searches by C-FIND, study root (PS3.4 C.6.2)."""

    name = "C-FIND"

    def __init__(self, peer: DicomPeer, calling_ae: AeTitle, last_resort_s: float) -> None:
        self._peer = peer
        self._calling_ae = calling_ae
        self._last_resort_s = last_resort_s

    async def holds(self, study_instance_uid: str) -> bool:
        found = await self._find(study_instance_uid, "", limit=1)
        return study_instance_uid in found

    async def recent(self, dates: str | None, limit: int) -> list[str]:
        return await self._find("", dates or "", limit=limit)

    async def _find(self, uid: str, dates: str, limit: int) -> list[str]:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "STUDY"
        identifier.StudyDate = dates
        identifier.StudyInstanceUID = uid
        matches = await dimse.find(
            self._peer,
            self._calling_ae,
            dimse.STUDY_ROOT_FIND,
            identifier,
            timeout_s=self._last_resort_s,
            limit=limit,
        )
        return [str(match.get("StudyInstanceUID", "")) for match in matches]
