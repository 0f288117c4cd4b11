"""Retention with a real Orthanc and archive: what went for space stays away, proofs are renewed."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from failover.app.samples import part10, sample_studies
from failover.clock import SystemClock
from tests.integration.test_replication_archive import Site, a_site, until
from tests.peers.orthanc import Orthanc
from tests.peers.process import free_port

pytestmark = pytest.mark.integration


def chosen(studies: int) -> dict[str, list[Any]]:
    """Return two instances of each of the newest studies with two days or more between them, newest first."""
    found: dict[str, list[Any]] = {}
    for instance in sample_studies(SystemClock().wall().date()):
        study = found.setdefault(instance.StudyInstanceUID, [])
        if len(study) < 2:
            study.append(instance)
    days = {instances[0].StudyDate: instances for instances in found.values()}
    newest = sorted(days, reverse=True)[:studies]
    return {days[day][0].StudyInstanceUID: days[day] for day in newest}


def age(site: Site, assignment: str) -> None:
    """Let time have passed for what the archive holds."""
    path = site.configuration.archive.data_dir / "index.sqlite"
    with sqlite3.connect(path, timeout=30) as connection:
        connection.execute(f"UPDATE instances SET {assignment}")
    connection.close()


async def metric(site: Site, component: str, name: str) -> float:
    text = (await site.ask(component, "metrics"))["text"]
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def test_what_went_for_space_is_not_fetched_again_and_ends_the_window(tmp_path: Path) -> None:
    studies = chosen(5)
    sizes = [sum(len(part10(i)) for i in instances) for instances in studies.values()]
    with Orthanc() as primary:
        for instances in studies.values():
            for instance in instances:
                primary.upload(part10(instance))
        room = sum(sizes[:3]) + sizes[3] // 2  # for three of them
        async with a_site(
            tmp_path,
            {"web": {"url": primary.url}},
            free_port(),
            dicom=None,
            max_bytes=room,
            compression="none",  # compressed, all of them would find room
        ) as site:

            async def settled() -> bool:
                said = await site.ask("replicator", "numbers")
                held = await site.ask("archive", "numbers")
                return bool(said["pending_to_backup"] == 0 and 0 < held["bytes"] <= room)

            await until(settled, "the oldest studies went, and nothing is to be fetched")
            fetched = await metric(site, "replicator", "failover_replication_fetched_total")
            polls = await metric(site, "replicator", "failover_replication_poll_duration_seconds_count")

            async def some_polls_later() -> bool:
                count = await metric(site, "replicator", "failover_replication_poll_duration_seconds_count")
                return count >= polls + 4

            await until(some_polls_later, "it has looked again")
            assert await metric(site, "replicator", "failover_replication_fetched_total") == fetched
            assert fetched <= 10, "nothing came twice"
            said = await site.ask("replicator", "numbers")
            assert 0.0 < said["coverage_ratio"] < 1.0, "what is not here is not covered"
            answer = await site.ask("archive", "studies.held", {"study_instance_uids": list(studies)})
            gone = [instances[0].StudyDate for uid, instances in studies.items() if uid in answer["evicted"]]
            assert gone
            assert answer["evicted_until"] == max(gone)
            first = site.window()["from"].replace("-", "")
            assert (
                max(gone)
                < first
                <= min(
                    instances[0].StudyDate
                    for uid, instances in studies.items()
                    if uid in answer["studies"] and uid not in answer["evicted"]
                )
            )


async def test_old_objects_get_a_new_proof_and_go_although_others_were_deleted_there(tmp_path: Path) -> None:
    studies = chosen(4)
    uids = list(studies)
    with Orthanc() as primary:
        for instances in studies.values():
            for instance in instances:
                primary.upload(part10(instance))
        async with a_site(tmp_path, {"web": {"url": primary.url}}, free_port(), dicom=None) as site:
            await until(site.covered, "all is here")
            await asyncio.to_thread(primary.delete, uids[-1])
            days_s = 91 * 86400
            age(site, f"arrived_at = arrived_at - {days_s}, proven_at = proven_at - {days_s}")
            await site.restart_replicator()  # it renews proofs at once, then each minute

            count = sum(len(instances) for instances in studies.values())

            async def evicted() -> bool:
                # Those dated within the window come back afterwards: by age they go when they have left it.
                return await metric(site, "archive", "failover_archive_evicted_total") >= count

            await until(
                evicted, "what the primary has was proven anew, what was deleted there needs no proof"
            )
            held = await site.ask("archive", "studies.held", {"study_instance_uids": [uids[-1]]})
            assert held["studies"] == {}
            assert await site.lag() == 0
