"""What a retrieve that moved says of its sub-operations: C-MOVE and C-GET, PS3.7 9.1.4 and 9.1.3."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.dicom.dimse import Command, CommandField, Tag, response
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from tests.fakes.upstream import FakeUpstream, encoded, study
from tests.unit.relay.scene import ID, STUDY_MOVE, scene
from tests.unit.relay.test_relay_operations import get

COUNTERS = (Tag.COMPLETED, Tag.FAILED, Tag.WARNING)
Numbers = tuple[int, int, int]


class Counts(FakeUpstream):
    """Answers a retrieve with these counters: pending ones, then a success; without `final` no more word."""

    def __init__(self, ae_title: str, *pending: Numbers, final: Numbers | None = None) -> None:
        super().__init__(ae_title)
        self.pending = pending
        self.final = final

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        await association.whole_data_set(1 << 20)
        for numbers in self.pending:
            await association.send(message.context_id, counted(message.command, 0xFF00, numbers))
        if self.final is None:
            await asyncio.Event().wait()
        else:
            await association.send(message.context_id, counted(message.command, 0, self.final))


def counted(request: Command, status: int, numbers: Numbers) -> Command:
    return response(request, status, {**dict(zip(COUNTERS, numbers, strict=True))})


async def numbers_of_next(caller: Association) -> tuple[int, list[int | None]]:
    message = await caller.receive()
    assert message is not None
    return message.command.status, [message.command.number(tag) for tag in COUNTERS]


async def test_the_counters_of_a_move_never_go_back(tmp_path: Path) -> None:
    """Given a primary that dies when most was moved, and a backup that begins anew."""
    primary = Counts("ORTHANC", (3, 1, 2))
    backup = Counts("MINIPACS", (1, 0, 0), (4, 0, 2), final=(6, 0, 3))
    async with scene(tmp_path, primary=primary, backup=backup) as stage, asyncio.timeout(20):
        caller = await stage.open()
        request = Command.make(
            CommandField.C_MOVE_RQ,
            {
                Tag.AFFECTED_SOP_CLASS_UID: STUDY_MOVE,
                Tag.MESSAGE_ID: 5,
                Tag.PRIORITY: 0,
                Tag.MOVE_DESTINATION: "WS1",
                Tag.DATA_SET_TYPE: 1,
            },
        )
        await caller.send(ID[STUDY_MOVE], request, encoded(study("1.2")))
        assert await numbers_of_next(caller) == (0xFF00, [3, 1, 2])
        await stage.primary.kill()
        assert await numbers_of_next(caller) == (0xFF00, [3, 1, 2])
        assert await numbers_of_next(caller) == (0xFF00, [4, 1, 2])
        assert await numbers_of_next(caller) == (0, [6, 1, 3])
        await caller.release()


@pytest.mark.parametrize("has_it", [True, False])
async def test_an_instance_that_the_caller_refused_is_failed_until_it_takes_it(
    tmp_path: Path, has_it: bool
) -> None:
    """Given a caller that refuses the first, and a primary that dies after the second; the backup has the
    first too, or has never heard of it."""
    instances = {uid: uid.encode() for uid in ("1.9.1", "1.9.2", "1.9.3")}
    async with scene(tmp_path) as stage, asyncio.timeout(20):
        stage.primary.instances = instances
        stage.backup.instances = {uid: raw for uid, raw in instances.items() if has_it or uid != "1.9.1"}
        stage.primary.faults["C-GET"].append("die_after_one")
        caller = await stage.open()
        uids, final = await get(caller, refused=["1.9.1"])
        assert uids == ["1.9.1", "1.9.2", *(["1.9.1"] if has_it else []), "1.9.3"]
        expected = [3, 0, 0] if has_it else [2, 1, 0]
        assert [final.number(tag) for tag in COUNTERS] == expected
        await caller.release()


async def test_what_the_second_upstream_could_not_send_is_failed_too(tmp_path: Path) -> None:
    """Given a primary that dies after the first, and a backup that can read none and says so."""
    async with scene(tmp_path, backup=Counts("MINIPACS", final=(0, 1, 0))) as stage, asyncio.timeout(20):
        stage.primary.instances = {"1.9.1": b"x" * 100, "1.9.2": b"y" * 100}
        stage.primary.faults["C-GET"].append("die_after_one")
        caller = await stage.open()
        uids, final = await get(caller)
        assert uids == ["1.9.1"]
        assert [final.number(tag) for tag in COUNTERS] == [1, 1, 0]
        await caller.release()
