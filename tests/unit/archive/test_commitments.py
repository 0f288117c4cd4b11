"""Requests that wait: looked at when they are due, and a modality that is gone holds up no other."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import cancel_and_wait, spawn
from failover.archive import commitment, commitments
from failover.archive.commitment import Report, Request
from failover.archive.commitments import Commitments
from failover.archive.retention import PROOF_AGE_S
from failover.config.schema import MoveDestination
from failover.metrics import ArchiveMetrics
from failover.model import AeTitle, DebtState, DicomPeer, Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import CT, an_object, uid

WAIT_S = 600.0


def kept(room: Room, *modalities: str) -> Commitments:
    destinations = {AeTitle(one): MoveDestination(host="127.0.0.1", port=1) for one in modalities}
    metrics = ArchiveMetrics(CollectorRegistry())
    return Commitments(room.index, destinations, metrics, room.clock, by_primary=True, wait_s=WAIT_S)


async def ask(work: Commitments, caller: str, number: int, *more: int) -> None:
    """Ask for the one object of each of these studies."""
    objects = tuple((CT, uid(study, 1, 1)) for study in (number, *more))
    await work.take(Request(uid(99, number), objects), caller, "ARCHIVE")


async def test_a_modality_that_does_not_answer_holds_up_no_other_and_is_tried_once(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, heard, tried, gone = kept(room, "GONE", "CT1"), asyncio.Event(), [], asyncio.Event()

    async def report(peer: DicomPeer, row: sqlite3.Row, report: Report) -> int:
        tried.append(str(peer.ae_title))
        if peer.ae_title == "CT1":
            heard.set()
            return 0
        await gone.wait()
        raise TimeoutError

    monkeypatch.setattr(commitments, "_report", report)
    for number in (1, 2, 3):
        await ask(work, "GONE", number)
    await ask(work, "CT1", 4)
    turn = spawn(work.turn(), name="turn")
    try:
        async with asyncio.timeout(30):
            await heard.wait()
        gone.set()
        await turn
    finally:
        await cancel_and_wait(turn)
    assert sorted(tried) == ["CT1", "GONE"]
    await work.turn()
    assert len(tried) == 2, "it is put off, with all that waits for it"
    await room.clock.advance(5)
    await work.turn()
    assert tried[2:] == ["GONE"]


async def test_what_cannot_be_decided_is_looked_at_less_often_and_in_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.store(an_object(1))
    work, looks, reports = kept(room, "CT1"), [], []
    decide = commitment.decide

    def looked(*args: object, **more: object) -> Report | None:
        looks.append(room.clock.monotonic())
        return decide(*args, **more)  # type: ignore[arg-type]

    async def report(peer: DicomPeer, row: sqlite3.Row, report: Report) -> int:
        reports.append(room.clock.monotonic())
        return 0

    monkeypatch.setattr(commitment, "decide", looked)
    monkeypatch.setattr(commitments, "_report", report)
    await ask(work, "CT1", 1)
    for _ in range(int(WAIT_S)):
        await work.turn()
        await room.clock.advance(1)
    assert not reports
    assert max(b - a for a, b in itertools.pairwise(looks)) == 30
    assert len(looks) < 30
    for _ in range(2):
        await work.turn()
        await room.clock.advance(1)
    assert reports == [WAIT_S]


@pytest.mark.parametrize(("reason", "committed"), [("damaged", True), ("conflict", False)])
async def test_what_was_damaged_once_and_is_whole_again_is_committed(
    room: Room, monkeypatch: pytest.MonkeyPatch, reason: str, committed: bool
) -> None:
    """Given an object that the primary has shown, and in quarantine a damaged or another version of it."""
    await room.store(an_object(1), Origin.REPLICATED)
    room.index.write_now(
        lambda t: t.connection.execute(
            "INSERT INTO quarantine (uid, study_uid, path, digest, bytes, reason, caller, origin, arrived_at)"
            " VALUES (?, ?, 'q', x'00', 1, ?, '', 'caller', 0)",
            (uid(1, 1, 1), uid(1), reason),
        )
    )
    work, reports = kept(room, "CT1"), []

    async def report(peer: DicomPeer, row: sqlite3.Row, report: Report) -> int:
        reports.append(report)
        return 0

    monkeypatch.setattr(commitments, "_report", report)
    await ask(work, "CT1", 1)
    await work.turn()
    [told] = reports
    assert (not told.failed) is committed


async def test_what_gets_no_proof_does_not_stand_in_the_way_of_what_others_wait_for(room: Room) -> None:
    for study in range(1, 6):
        await room.store(an_object(study), Origin.COPIED)
    work = kept(room, "CT1")
    await ask(work, "CT1", 1, 2, 3)
    await ask(work, "CT1", 3, 4, 5)
    seen, place = work.unproven(2)
    assert seen == [uid(1, 1, 1), uid(2, 1, 1)]
    assert place is not None
    more, place = work.unproven(2, place)
    assert more == [uid(3, 1, 1)], "asked for twice, named once"
    assert place is not None
    await room.ledger.mark([uid(4, 1, 1)], DebtState.PROVEN)
    last, place = work.unproven(2, place)
    assert last == [uid(5, 1, 1)]
    assert place is not None
    assert work.unproven(2, place) == ([], None)


@pytest.mark.parametrize("origin", [Origin.REPLICATED, Origin.COPIED])
async def test_an_old_proof_is_renewed_before_it_counts(
    room: Room, monkeypatch: pytest.MonkeyPatch, origin: Origin
) -> None:
    """Given an object that the primary showed long ago or never, it is asked for before it is committed."""
    await room.store(an_object(1), origin)
    await room.clock.advance(PROOF_AGE_S + 1)
    work, reports = kept(room, "CT1"), []

    async def report(peer: DicomPeer, row: sqlite3.Row, report: Report) -> int:
        reports.append(report)
        return 0

    monkeypatch.setattr(commitments, "_report", report)
    assert work.unproven(10) == ([], None)
    await ask(work, "CT1", 1)
    await work.turn()
    assert not reports
    assert work.unproven(10)[0] == [uid(1, 1, 1)]
    await room.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN)
    assert work.unproven(10) == ([], None)
    await room.clock.advance(5)
    await work.turn()
    [told] = reports
    assert not told.failed
