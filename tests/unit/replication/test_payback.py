"""Send and prove, against a primary that lies, refuses, forgets: a fake way with behaviour."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydicom.dataset import FileDataset

from failover.app.samples import sample_studies
from failover.clients.stored import NOT_SENT, Stored
from failover.clock import ManualClock
from failover.errors import UpstreamUnreachable
from failover.metrics import ReplicatorMetrics
from failover.replication.archive_side import ArchiveSide, OwedObject
from failover.replication.inventory import Inventory
from failover.replication.payback import Payback
from failover.replication.proof import ASK_AFTER_S
from failover.replication.reconcile import Need
from tests.fakes.processes import FakeArchive
from tests.unit.replication.test_inventory import record, study


@dataclass
class FakeWay:
    """Keeps what it takes unless told otherwise."""

    name: str = "web"
    has: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    asked: int = 0
    shows: bool = True
    answer: Stored | None = field(default_factory=lambda: Stored(True))
    refuses: dict[str, int] = field(default_factory=dict)
    reachable: bool = True
    dies_at: int | None = None  # of the objects of a batch; this one is there, and not answered

    async def send(self, objects: Sequence[OwedObject]) -> dict[str, Stored]:
        if not self.reachable:
            raise UpstreamUnreachable("nobody there")
        answers = {}
        for number, item in enumerate(objects):
            uid = item.sop_instance_uid
            if self.dies_at is not None and number >= self.dies_at:
                if number == self.dies_at:
                    self.sent.append(uid)
                    self.has.add(uid)
                else:
                    answers[uid] = NOT_SENT
                continue
            self.sent.append(uid)
            if uid in self.refuses:
                answers[uid] = Stored(False, self.refuses[uid], "refused")
                continue
            self.has.add(uid)
            if self.answer is not None:
                answers[uid] = self.answer
        return answers

    async def shown(self, objects: Sequence[OwedObject]) -> set[str]:
        self.asked += 1
        return {item.sop_instance_uid for item in objects} & self.has if self.shows else set()

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"payback does not need {name}")


@dataclass
class Stage:
    archive: FakeArchive
    payback: Payback
    way: FakeWay
    clock: ManualClock
    objects: list[FileDataset]
    inventory: Inventory

    async def turn(self) -> None:
        await self.payback.prove(self.way)  # type: ignore[arg-type]
        await self.payback.send(self.way)  # type: ignore[arg-type]
        await self.payback.prove(self.way)  # type: ignore[arg-type]

    def state(self, index: int = 0) -> str:
        return self.archive.held[self.objects[index].SOPInstanceUID].state


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    archive = FakeArchive(tmp_path / "state", tmp_path / "archive")
    await archive.start()
    inventory = Inventory(tmp_path / "inventory.sqlite")
    clock = ManualClock()
    payback = Payback(ArchiveSide(archive.socket), inventory, ReplicatorMetrics(CollectorRegistry()), clock)
    samples = sample_studies(date(2026, 3, 1))
    objects = [next(samples) for _ in range(4)]
    yield Stage(archive, payback, FakeWay(), clock, objects, inventory)
    inventory.close()
    await archive.stop()


async def test_sent_then_proven(stage: Stage) -> None:
    for instance in stage.objects:
        stage.archive.put(instance, "owed")
    await stage.turn()
    assert stage.archive.states() == {"proven": 4}
    assert stage.way.asked == 1, "one study, one search"


async def test_a_success_status_proves_nothing(stage: Stage) -> None:
    """It says success and shows nothing: asked again with growing distance, then sent again."""
    stage.way.shows = False
    stage.archive.put(stage.objects[0], "owed")
    await stage.turn()
    assert stage.state() == "sent"
    assert stage.way.asked == 1
    await stage.turn()
    assert stage.way.asked == 1, "not asked before its time"
    for wait_s in ASK_AFTER_S[1:]:
        assert stage.state() == "sent"
        await stage.clock.advance(wait_s)
        await stage.payback.prove(stage.way)  # type: ignore[arg-type]
    assert stage.way.asked == len(ASK_AFTER_S)
    assert stage.state() == "owed"
    assert len(stage.way.sent) == 1
    stage.way.shows = True
    await stage.clock.advance(60)
    await stage.turn()
    assert len(stage.way.sent) == 2
    assert stage.state() == "proven"


async def test_what_was_not_answered_is_asked_for_before_it_is_sent_again(stage: Stage) -> None:
    stage.way.answer = None  # the association died: the fate is unknown
    stage.archive.put(stage.objects[0], "owed")
    await stage.turn()
    assert stage.state() == "proven"
    assert len(stage.way.sent) == 1


async def test_what_was_neither_answered_nor_shown_is_soon_sent_again(stage: Stage) -> None:
    """The association died before it came to this object: the way back must not wait three minutes for it."""
    stage.way.answer, stage.way.shows = None, False
    stage.archive.put(stage.objects[0], "owed")
    await stage.turn()
    assert stage.state() == "sent"
    stage.way.answer, stage.way.shows = Stored(True), True
    stage.way.has.clear()
    for _ in range(20):
        await stage.clock.advance(0.5)
        await stage.turn()
    assert stage.state() == "proven"
    assert len(stage.way.sent) == 2
    assert stage.payback.health("web").failed_total == 1


async def test_what_was_never_sent_is_owed_and_goes_at_once(stage: Stage) -> None:
    """The association died at the second of four objects: what came behind it is asked of nobody."""
    for instance in stage.objects:
        stage.archive.put(instance, "owed")
    stage.way.dies_at = 1
    assert await stage.payback.send(stage.way) == 1  # type: ignore[arg-type]
    assert stage.archive.states() == {"sent": 2, "owed": 2}
    assert stage.payback.health("web").failed_total == 1
    behind = [instance.SOPInstanceUID for instance in stage.objects[2:]]
    assert stage.payback.progress(behind) == {}, "they are due now"
    stage.way.dies_at = None
    assert await stage.payback.send(stage.way) == 2  # type: ignore[arg-type]
    assert stage.way.sent[-2:] == behind
    await stage.payback.prove(stage.way)  # type: ignore[arg-type]
    assert stage.archive.states() == {"proven": 4}


async def test_three_permanent_refusals_while_others_were_taken(stage: Stage) -> None:
    bad = stage.objects[0].SOPInstanceUID
    stage.way.refuses[bad] = 0xC000
    stage.archive.put(stage.objects[0], "owed")
    for _ in range(4):
        await stage.turn()
        await stage.clock.advance(60)
    assert stage.way.sent.count(bad) == 4
    assert stage.state() == "owed", "nobody else was taken: the primary may be at fault"
    stage.archive.put(stage.objects[1], "owed")
    await stage.turn()
    await stage.clock.advance(60)
    await stage.turn()
    assert stage.state() == "refused"
    assert stage.archive.held[bad].status == 0xC000
    assert stage.state(1) == "proven"
    assert not stage.payback.health("web").failing, "a permanent refusal speaks of its object alone"


async def test_a_transient_failure_never_makes_refused_but_stores_are_in_doubt(stage: Stage) -> None:
    stage.way.refuses[stage.objects[0].SOPInstanceUID] = 0xA700
    stage.archive.put(stage.objects[0], "owed")
    for _ in range(6):
        await stage.turn()
        await stage.clock.advance(60)
    assert stage.state() == "owed"
    assert stage.payback.health("web").failing


async def test_an_unreachable_primary_marks_nothing(stage: Stage) -> None:
    stage.way.reachable = False
    stage.archive.put(stage.objects[0], "owed")
    with pytest.raises(UpstreamUnreachable):
        await stage.turn()
    assert stage.archive.marks == []


async def test_renewing_a_proof_changes_no_state(stage: Stage) -> None:
    instance = stage.objects[0]
    stage.archive.put(instance, "none")
    stage.archive.to_be_evicted.append(instance.SOPInstanceUID)
    stage.way.has.add(instance.SOPInstanceUID)
    side = ArchiveSide(stage.archive.socket)
    assert not await stage.payback.renew(stage.way, (await side.unproven("retention", 10))[0])  # type: ignore[arg-type]
    assert (await side.unproven("retention", 10))[0] == []
    assert stage.state() == "none"


async def test_what_makes_a_study_of_the_primary_whole_is_sent_first(stage: Stage) -> None:
    """Given a study that the archive alone has, and one that a suspicion split: the latter is paid first."""
    alone = stage.objects[0]
    split = next(
        instance
        for instance in sample_studies(date(2026, 3, 1))
        if instance.StudyInstanceUID != alone.StudyInstanceUID
    )
    for instance in (alone, split):
        stage.archive.put(instance, "owed")
    record(stage.inventory, study(split.StudyInstanceUID), 1, 0, Need.NOTHING)
    assert await stage.payback.send(stage.way, limit=1) == 1  # type: ignore[arg-type]
    assert stage.way.sent == [split.SOPInstanceUID]


async def test_what_is_being_restored_holds_up_nothing_that_is_ready(stage: Stage) -> None:
    for instance in stage.objects[:2]:
        stage.archive.put(instance, "owed")
    first, second = (instance.SOPInstanceUID for instance in stage.objects[:2])
    stage.archive.held[first].restoring = True
    assert await stage.payback.send(stage.way, limit=1) == 1  # type: ignore[arg-type]
    assert stage.way.sent == [second]
