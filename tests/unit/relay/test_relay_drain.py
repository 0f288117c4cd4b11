"""What is left at a drained upstream when the grace is over: it ends, and no caller loses its association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from failover.aio import spawn
from failover.dicom.dimse import Command, CommandField, Tag, echo_rq, find_rq, store_rq
from failover.model import Phase
from tests.fakes.upstream import CT, FakeUpstream, encoded, study
from tests.unit.relay.scene import BACKUP, ECHO, ID, PRIMARY, STUDY_FIND, STUDY_MOVE, scene
from tests.unit.relay.test_relay_operations import STUDIES, commit, echo, get


def move_rq(message_id: int) -> Command:
    return Command.make(
        CommandField.C_MOVE_RQ,
        {
            Tag.AFFECTED_SOP_CLASS_UID: STUDY_MOVE,
            Tag.MESSAGE_ID: message_id,
            Tag.PRIORITY: 0,
            Tag.MOVE_DESTINATION: "WORKSTATION",
            Tag.DATA_SET_TYPE: 1,
        },
    )


async def test_after_the_grace_of_a_drain_an_idle_leg_is_released(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        assert stage.relay.end_work(BACKUP) == 0
        assert stage.relay.end_work(PRIMARY) == 1
        legs = stage.relay.legs
        assert await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=10)
        assert legs.in_flight(PRIMARY) == 0
        assert await echo(caller) == 0
        await caller.release()


async def test_after_the_grace_of_a_drain_searches_and_stores_move(tmp_path: Path) -> None:
    async with scene(tmp_path, backup=FakeUpstream("MINIPACS", matches=STUDIES)) as stage:
        stage.primary.faults["C-FIND"].append("hang")
        stage.primary.faults["C-STORE"].append("hang")
        searcher, sender = await stage.open(), await stage.open()
        await searcher.send(ID[STUDY_FIND], find_rq(1, STUDY_FIND), encoded(study("")))
        await sender.send(ID[CT], store_rq(1, CT, "1.2.3"), b"abcd")
        assert await stage.primary.changed.wait_until(lambda: len(stage.primary.asked) == 2, timeout_s=10)
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        assert stage.relay.in_flight(PRIMARY) == 2  # the grace: they may end where they are
        assert stage.relay.end_work(PRIMARY) == 2
        assert stage.relay.in_flight(PRIMARY) == 0
        stored = await sender.receive()
        assert stored is not None
        assert stored.command.status == 0
        assert stage.backup.stored == {"1.2.3": b"abcd"}
        found = 0
        while (message := await searcher.receive()) is not None and message.has_data_set:
            found += 1
        assert found == len(STUDIES)
        assert message is not None
        assert message.command.status == 0
        await searcher.release()
        await sender.release()


async def test_after_the_grace_of_a_drain_what_may_not_be_repeated_fails(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.primary.faults["N-ACTION"].append("hang")
        committing = spawn(commit(caller, wait_for_event=False), name="commitment")
        assert await stage.primary.changed.wait_until(
            lambda: stage.primary.asked == ["N-ACTION"], timeout_s=10
        )
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        assert stage.relay.end_work(PRIMARY) == 1
        assert (await committing)[0] == 0x0110
        assert stage.backup.asked == []
        assert await echo(caller, 5) == 0
        await caller.release()


async def test_after_the_grace_of_a_drain_a_half_sent_instance_goes_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        go_on = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            yield b"ab" * 1000
            yield b"cd" * 1000
            await go_on.wait()
            yield b"ef" * 1000

        sending = spawn(caller.send_parts(ID[CT], store_rq(1, CT, "1.2.3"), parts()), name="slow modality")
        assert await stage.primary.changed.wait_until(
            lambda: stage.primary.asked == ["C-STORE"], timeout_s=10
        )
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        assert stage.relay.end_work(PRIMARY) == 1  # it waits for the caller, not for the primary
        go_on.set()
        await sending
        message = await caller.receive()
        assert message is not None
        assert message.command.status == 0
        assert stage.backup.stored == {"1.2.3": b"ab" * 1000 + b"cd" * 1000 + b"ef" * 1000}
        await caller.release()


async def test_after_the_grace_of_a_drain_an_echo_and_a_move_are_asked_of_the_backup(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.faults["C-ECHO"].append("hang")
        stage.primary.faults["C-MOVE"].append("hang")
        monitor, workstation = await stage.open(), await stage.open()
        await monitor.send(ID[ECHO], echo_rq(1))
        await workstation.send(ID[STUDY_MOVE], move_rq(1), encoded(study("1.2.3")))
        assert await stage.primary.changed.wait_until(lambda: len(stage.primary.asked) == 2, timeout_s=10)
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        assert stage.relay.end_work(PRIMARY) == 2
        for caller in (monitor, workstation):
            message = await caller.receive()
            assert message is not None
            assert message.command.status == 0
        assert sorted(stage.backup.asked) == ["C-ECHO", "C-MOVE"]
        await monitor.release()
        await workstation.release()


async def test_after_the_grace_of_a_drain_a_get_goes_on_without_an_instance_twice(tmp_path: Path) -> None:
    instances = {f"1.9.{number}": bytes([number]) * 50_000 for number in range(4)}
    async with scene(tmp_path) as stage:
        stage.primary.instances = stage.backup.instances = instances
        stage.primary.faults["C-GET"].append("hang_after_one")
        caller = await stage.open()
        getting = spawn(get(caller), name="workstation")
        delivered = stage.primary.changed
        assert await delivered.wait_until(lambda: stage.primary.delivered == 1, timeout_s=10)
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        assert stage.relay.end_work(PRIMARY) == 1
        uids, final = await getting
        assert uids == list(instances)
        assert final.status == 0
        assert final.number(Tag.COMPLETED) == 4
        assert stage.backup.asked == ["C-GET"]
        await caller.release()
