"""The lists for the PACS administrator, from a real archive, replicator and Orthanc: object by object."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.admin.questions import OwedQuestion, OwedState, QuarantineQuestion, SplitQuestion
from failover.app.debt_lists import DebtLists
from failover.app.samples import part10
from failover.clock import SystemClock, parse_rfc3339
from failover.control import Json
from failover.errors import Refused
from failover.model import Address, AeTitle, DicomPeer
from tests.integration.test_replication_archive import (
    Site,
    a_site,
    dicom_side,
    samples_of_today,
    store,
    until,
)
from tests.integration.test_replication_recheck import a_full_site, an_outage, recheck
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port

pytestmark = pytest.mark.integration


def lists(site: Site) -> DebtLists:
    return DebtLists(site.configuration.state_dir, SystemClock(), present=True)


async def owed(
    site: Site, state: OwedState | None = None, limit: int = 100, after: str | None = None
) -> Json:
    return await lists(site).owed(OwedQuestion(state, limit, after))


async def test_an_outage_can_be_followed_object_by_object_until_all_is_proven(tmp_path: Path) -> None:
    samples = samples_of_today()[:3]
    uids = {str(instance.SOPInstanceUID) for instance in samples}
    port = free_port()
    with Orthanc() as primary:
        async with a_site(tmp_path, {"web": {"url": primary.url}, **dicom_side(primary)}, port) as site:
            await asyncio.to_thread(primary.kill)
            site.router.word.update(phase="on_backup", primary={"web": "down", "dicom": "down"})
            began = SystemClock().wall()
            await store(DicomPeer(Address("127.0.0.1", port), AeTitle("MINIPACS")), samples, tmp_path)

            answer = await owed(site)
            assert {one["sop_instance_uid"] for one in answer["objects"]} == uids
            for one in answer["objects"]:
                assert one["study_instance_uid"] in {str(i.StudyInstanceUID) for i in samples}
                assert one["state"] in ("owed", "sent")
                assert parse_rfc3339(one["since"]).timestamp() >= began.timestamp() - 1
            assert answer["counts"]["owed"] + answer["counts"]["sent"] == 3
            assert answer["counts"]["vanished"] == 0
            first = await owed(site, limit=2)
            rest = await owed(site, limit=2, after=first["next"])
            assert [one["sop_instance_uid"] for one in first["objects"] + rest["objects"]] == [
                one["sop_instance_uid"] for one in answer["objects"]
            ]
            assert rest["next"] is None

            await asyncio.to_thread(primary.restart)
            site.router.word.update(primary={"web": "up", "dicom": "up"})

            async def paid() -> bool:
                return await site.lag() == 0

            await until(paid, "the debt is paid")
            assert (await owed(site))["objects"] == []
            proven = (await owed(site, OwedState.PROVEN))["objects"]
            assert {one["sop_instance_uid"] for one in proven} == uids
            assert all(one["times_sent"] >= 1 and one["since"] and not one["next_attempt"] for one in proven)


async def test_a_study_split_by_an_outage_is_listed_until_it_is_whole(tmp_path: Path) -> None:
    """Given half a study on the primary when it dies, and the other half and a new study in the archive."""
    samples = samples_of_today()
    series = [one for one in samples if one.StudyInstanceUID == samples[0].StudyInstanceUID]
    other = next(one for one in samples if one.StudyInstanceUID != samples[0].StudyInstanceUID)
    there, meanwhile = series[0], series[1:3]
    assert len(meanwhile) == 2
    port = free_port()
    with Orthanc() as primary:
        primary.upload(part10(there))
        async with a_site(tmp_path, {"web": {"url": primary.url}, **dicom_side(primary)}, port) as site:
            await until(site.covered, "the first part is in the archive")
            assert (await lists(site).split(SplitQuestion()))["studies"] == []
            await asyncio.to_thread(primary.kill)
            site.router.word.update(phase="on_backup", primary={"web": "down", "dicom": "down"})
            archive = DicomPeer(Address("127.0.0.1", port), AeTitle("MINIPACS"))
            await store(archive, [*meanwhile, other], tmp_path)

            answer = await lists(site).split(SplitQuestion())
            (study,) = answer["studies"]
            assert study["study_instance_uid"] == str(series[0].StudyInstanceUID)
            assert (study["owed"] + study["sent"], study["refused"], study["held"]) == (2, 0, 3)
            assert (study["on_primary"], study["to_fetch"]) == (1, 0)
            assert parse_rfc3339(study["since"])
            assert (await lists(site).split(SplitQuestion(1)))["next"] is None, "it was the last one"
            assert (await lists(site).split(SplitQuestion(1, study["study_instance_uid"])))["studies"] == []

            await asyncio.to_thread(primary.restart)
            site.router.word.update(primary={"web": "up", "dicom": "up"})

            async def whole() -> bool:
                return (await lists(site).split(SplitQuestion()))["studies"] == [] and await site.lag() == 0

            await until(whole, "the study is whole")


async def test_what_vanished_and_what_was_deleted_is_listed(tmp_path: Path) -> None:
    async with a_full_site(tmp_path, 5) as (site, primary, uids):
        async with an_outage(site):
            for uid in uids[:3]:
                primary.delete(uid)

        async def waits() -> bool:
            return bool((await recheck(site))["wants_decision"])

        await until(waits, "an operator must decide")
        answer = await owed(site, OwedState.VANISHED)
        assert {one["study_instance_uid"] for one in answer["objects"]} == set(uids[:3])
        assert {one["state"] for one in answer["objects"]} == {"vanished"}
        assert all(one["since"] for one in answer["objects"])
        assert answer["counts"]["vanished"] == len(answer["objects"])
        site.router.word["vanished"] = "deleted"

        async def deleted() -> bool:
            gone = (await owed(site, OwedState.DELETED))["objects"]
            return {one["study_instance_uid"] for one in gone} == set(uids[:3])

        await until(deleted, "it counts as deleted")
        assert (await owed(site, OwedState.VANISHED))["objects"] == []


async def test_both_versions_of_what_is_in_quarantine_are_shown_by_what_differs(tmp_path: Path) -> None:
    (sample,) = samples_of_today()[:1]
    port = free_port()
    async with a_site(tmp_path, {"web": {"url": "http://127.0.0.1:1"}}, port) as site:
        archive = DicomPeer(Address("127.0.0.1", port), AeTitle("MINIPACS"))
        await store(archive, [sample], tmp_path)
        was = str(sample.PatientID)
        sample.PatientID = "SOMEBODY-ELSE"
        (tmp_path / "other").mkdir()
        with pytest.raises(AssertionError):
            await store(archive, [sample], tmp_path / "other")
        answer = await lists(site).quarantine(QuarantineQuestion())
        (one,) = answer["objects"]
        assert (one["reason"], one["sop_instance_uid"]) == ("patient", str(sample.SOPInstanceUID))
        assert one["quarantined"]["caller"] == "CT1"
        assert one["served"]["state"] == "owed"
        assert one["differs"] == [
            {"tag": "00100020", "keyword": "PatientID", "served": was, "quarantined": "SOMEBODY-ELSE"}
        ]
        after = await lists(site).quarantine(QuarantineQuestion(after=one["id"]))
        assert after == {"objects": [], "next": None}


async def test_with_a_backup_of_another_make_nobody_keeps_the_lists(tmp_path: Path) -> None:
    nobody = DebtLists(tmp_path, SystemClock(), present=False)
    with pytest.raises(Refused):
        await nobody.owed(OwedQuestion())
