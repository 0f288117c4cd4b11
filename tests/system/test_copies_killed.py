"""The copy on the way under kill -9: whoever dies between its steps, no object is ever wrongly "not owed".

The archive writes `copied` only of what came under a Move Originator that the router told it, and the router
sends a copy only after the primary said success. Each kill falls right behind that: between it and the
copy, in the middle of the copy, or between the copy and what the archive writes down of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from failover.dicom.dimse import store_rq
from failover.dicom.exchange import Association
from failover.dicom.negotiation import propose
from failover.dicom.part10 import read_head
from failover.dicom.requestor import open_association
from failover.errors import AssociationEnded, UpstreamError
from failover.model import Address, AeTitle, DicomPeer
from tests.peers.orthanc import Orthanc
from tests.peers.process import wait_for
from tests.system.callers import new_study
from tests.system.site import Site
from tests.system.test_copies import origins

OBJECTS = 48
KILLS = (5, 13, 20, 31)


class Modality:
    """Stores in one association; opens another when that is gone, as modalities do."""

    def __init__(self, site: Site, files: dict[str, bytes]) -> None:
        self._peer = DicomPeer(Address("127.0.0.1", site.dicom_port), AeTitle(site.ae_title))
        self._files = files
        self._association: Association | None = None

    async def store_all(self, acknowledged: Callable[[str], None]) -> None:
        for number, (uid, file) in enumerate(self._files.items(), start=1):
            while not await self._stored(number, uid, file):
                pass
            await asyncio.to_thread(acknowledged, uid)
        if self._association is not None:
            await self._association.release()

    async def _stored(self, number: int, uid: str, file: bytes) -> bool:
        head = read_head(file)
        try:
            if self._association is None or self._association.ended is not None:
                contexts = propose([head.sop_class_uid], [head.transfer_syntax_uid])
                self._association = await open_association(self._peer, "CT1", contexts, timeout_s=60)
            command = store_rq(number, head.sop_class_uid, uid)
            await self._association.send(1, command, file[head.data_set_offset :])
            answer = await self._association.receive()
        except (UpstreamError, AssociationEnded):
            return False
        return answer is not None and answer.command.status == 0


@pytest.mark.parametrize("killed", ["router", "archive", "primary"])
def test_what_the_archive_does_not_owe_is_on_the_primary(
    replicated_site: Site, orthanc: Orthanc, sample_files: list[bytes], killed: str
) -> None:
    site = replicated_site
    files = dict(new_study(sample_files[0], 600 + number) for number in range(OBJECTS))
    acknowledged: list[str] = []

    def note(uid: str) -> None:
        acknowledged.append(uid)
        if len(acknowledged) not in KILLS:
            return
        if killed == "primary":
            orthanc.restart()
        else:
            wait_for(lambda: site.children()[killed]["pid"], f"{killed} runs again")
            site.kill(killed)

    asyncio.run(Modality(site, files).store_all(note))
    assert acknowledged == list(files)
    site.wait_until(
        lambda status: status["phase"] == "on_primary" and status["replication"]["lag_objects"] == 0,
        "all is paid",
        timeout_s=120,
    )
    wait_for(lambda: set(files) <= set(origins(site)), "all is in the archive", timeout_s=60)
    came = {uid: origin for uid, origin in origins(site).items() if uid in files}
    on_primary = {uid for uid in files if orthanc.lookup(uid)}
    assert on_primary == set(files)
    assert "copied" in came.values()
    # What the primary never acknowledged came as a caller's, however it is paid by now.
    assert set(came.values()) <= {"copied", "replicated", "caller"}
