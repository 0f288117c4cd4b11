"""With a real Orthanc: an object that the disk has damaged comes again from the primary by itself."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from failover.admin.questions import PlanQuestion
from failover.admin.requests import ProtectionRequest
from failover.app.debt_lists import DebtLists
from failover.app.samples import part10
from failover.clock import SystemClock, parse_rfc3339
from failover.errors import Refused
from tests.integration.test_replication_archive import a_site, samples_of_today, until
from tests.integration.test_replication_space import metric
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port

pytestmark = pytest.mark.integration


async def test_a_damaged_object_is_fetched_again(tmp_path: Path) -> None:
    with Orthanc() as primary:
        for instance in samples_of_today()[:6]:
            primary.upload(part10(instance))
        async with a_site(
            tmp_path, {"web": {"url": primary.url}}, free_port(), scrub="2s", dicom=None
        ) as site:
            await until(site.covered, "all is here")
            before = {uid: bytes(held.PixelData) for uid, held in site.objects().items()}
            victim = sorted((site.configuration.archive.data_dir / "objects").rglob("*.dcm"))[0]
            content = bytearray(victim.read_bytes())
            content[-100] ^= 0xFF
            victim.write_bytes(content)

            async def noticed() -> bool:
                return await metric(site, "archive", "failover_archive_damaged_total") >= 1

            async def whole_again() -> bool:
                told = (await site.ask("archive", "ledger.numbers"))["troubles"]
                held = (await site.ask("archive", "numbers"))["instances"]
                return told == {} and held == 6

            await until(noticed, "it was read again and is not what came")
            await until(whole_again, "it is here again")
            after = {uid: bytes(held.PixelData) for uid, held in site.objects().items()}
            assert after == before
            assert await site.lag() == 0
            lists = DebtLists(site.configuration.state_dir, SystemClock(), present=True)
            told = await lists.plan(PlanQuestion(limit=10))
            assert {one["why"] for one in told["studies"]} == {"age"}
            assert parse_rfc3339(told["studies"][0]["goes_at"]) > SystemClock().wall() + timedelta(days=89)
            with pytest.raises(Refused, match="no such study"):
                await lists.protect(ProtectionRequest(True, "a lawsuit", "1.2.3"))
            study = told["studies"][0]["study_instance_uid"]
            assert await lists.protect(ProtectionRequest(True, "a lawsuit", study)) == {"studies": 1}
            assert (await lists.plan(PlanQuestion(limit=10)))["protected_studies"] == 1
            [quarantined] = (await site.ask("archive", "quarantine.list"))["objects"]
            assert quarantined["reason"] == "damaged"
