"""What a caller of the relay sees when an upstream answers, dies, hangs or says no, for each operation."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from failover.dicom.dimse import Command, CommandField, Tag, cancel_rq, echo_rq, find_rq, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.health.passive import StoreFact
from failover.model import Phase, Verdict
from failover.spool import Spool
from tests.fakes.clocks import FastClock
from tests.fakes.upstream import CT, FakeUpstream, decoded, encoded, study
from tests.unit.relay.scene import (
    BACKUP,
    COMMITMENT,
    ECHO,
    ID,
    PRIMARY,
    STUDY_FIND,
    STUDY_GET,
    scene,
)

STUDIES = [study(f"1.2.{number}") for number in range(5)]


async def echo(caller: Association, message_id: int = 1) -> int:
    await caller.send(ID[ECHO], echo_rq(message_id))
    message = await caller.receive()
    assert message is not None
    return message.command.status


async def find(caller: Association, message_id: int = 1) -> tuple[list[str], int]:
    identifier = encoded(study(""))
    await caller.send(ID[STUDY_FIND], find_rq(message_id, STUDY_FIND), identifier)
    uids: list[str] = []
    while True:
        message = await caller.receive()
        assert message is not None
        if not message.has_data_set:
            return uids, message.command.status
        uids.append(decoded(await caller.whole_data_set(1 << 20)).StudyInstanceUID)


async def store(caller: Association, uid: str, raw: bytes, message_id: int = 1) -> int:
    await caller.send(ID[CT], store_rq(message_id, CT, uid), raw)
    message = await caller.receive()
    assert message is not None
    return message.command.status


async def get(
    caller: Association, message_id: int = 9, *, refused: Sequence[str] = ()
) -> tuple[list[str], Command]:
    """C-GET: the SOP instance UIDs in the order of their arrival, and the final response.

    Each instance named in `refused` gets a failure status when it comes for the first time.
    """
    request = Command.make(
        CommandField.C_GET_RQ,
        {
            Tag.AFFECTED_SOP_CLASS_UID: STUDY_GET,
            Tag.MESSAGE_ID: message_id,
            Tag.PRIORITY: 0,
            Tag.DATA_SET_TYPE: 1,
        },
    )
    await caller.send(ID[STUDY_GET], request, encoded(study("1.2")))
    uids: list[str] = []
    while True:
        message = await caller.receive()
        assert message is not None
        if message.command.field == CommandField.C_STORE_RQ:
            uid = message.command.sop_instance_uid
            status = 0xA700 if uid in refused and uid not in uids else 0
            uids.append(uid)
            await caller.whole_data_set(10 << 20)
            await caller.send(message.context_id, response(message.command, status))
        elif message.command.status != 0xFF00:
            return uids, message.command


async def test_everything_goes_to_the_primary(tmp_path: Path) -> None:
    async with scene(tmp_path, primary=FakeUpstream("ORTHANC", matches=STUDIES)) as stage:
        caller = await stage.open()
        assert await echo(caller) == 0
        assert await find(caller) == ([s.StudyInstanceUID for s in STUDIES], 0)
        raw = os.urandom(300_000)
        assert await store(caller, "1.2.3", raw) == 0
        assert stage.primary.stored == {"1.2.3": raw}
        await caller.release()
        assert stage.backup.requests == []
        assert (
            stage.counted(
                "failover_dicom_operations_total", operation="C-STORE", upstream="primary", status="success"
            )
            == 1
        )
        assert stage.relay.last_store_on_backup_s is None


async def test_the_rq_upstream_names_the_relay_and_keeps_the_callers_title(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open(calling=b" CT1            ")
        [rq] = stage.primary.requests
        assert rq.called_ae == "ORTHANC"
        assert rq.calling_bytes == b" CT1            "
        assert rq.user.implementation_version == "FAILOVER_RELAY"
        assert caller.answer.calling_bytes == b" CT1            "  # PS3.8 9.3.3
        assert caller.answer.user.async_window is None
        assert stage.relay.in_flight(PRIMARY) == 1
        await caller.release()
        assert await stage.relay.legs.changed.wait_until(
            lambda: stage.relay.in_flight(PRIMARY) == 0, timeout_s=10
        )
        assert stage.relay.in_flight(PRIMARY) == 0


async def test_a_dead_primary_is_not_noticed_at_opening(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.primary.kill()
        caller = await stage.open()
        assert await echo(caller) == 0
        assert stage.backup.asked == ["C-ECHO"]
        await caller.release()


async def test_find_goes_on_at_the_backup_without_a_match_twice(tmp_path: Path) -> None:
    primary = FakeUpstream("ORTHANC", matches=STUDIES)
    backup = FakeUpstream("MINIPACS", matches=list(reversed(STUDIES)))
    async with scene(tmp_path, primary=primary, backup=backup) as stage:
        caller = await stage.open()
        primary.faults["C-FIND"].append("die_after_one")
        uids, status = await find(caller)
        assert status == 0
        assert sorted(uids) == sorted(s.StudyInstanceUID for s in STUDIES)
        assert await echo(caller, 2) == 0  # the same association goes on
        await caller.release()


async def test_a_hung_primary_is_left_when_it_becomes_suspect(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    async with scene(tmp_path, backup=backup) as stage:
        caller = await stage.open()
        stage.primary.faults["C-FIND"].append("hang")
        await caller.send(ID[STUDY_FIND], find_rq(1, STUDY_FIND), encoded(study("")))
        stage.publish(primary=Verdict.SUSPECT)
        count = 0
        while (message := await caller.receive()) is not None and message.has_data_set:
            count += 1
        assert count == len(STUDIES)
        await caller.release()


async def test_an_empty_search_of_the_backup_does_not_count_in_doubt(tmp_path: Path) -> None:
    primary = FakeUpstream("ORTHANC", matches=STUDIES)
    async with scene(tmp_path, primary=primary) as stage:
        stage.publish(primary=Verdict.SUSPECT)
        caller = await stage.open()
        assert (await find(caller))[0] == [s.StudyInstanceUID for s in STUDIES]
        assert stage.backup.asked == ["C-FIND"]
        assert primary.asked == ["C-FIND"]
        await caller.release()


async def test_an_empty_search_of_the_backup_counts_when_the_primary_is_down(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.primary.kill()
        stage.publish(primary=Verdict.SUSPECT)
        caller = await stage.open()
        await caller.send(ID[STUDY_FIND], find_rq(1, STUDY_FIND), encoded(study("")))
        stage.publish(primary=Verdict.DOWN, phase=Phase.ON_BACKUP)
        message = await caller.receive()
        assert message is not None
        assert message.command.status == 0
        await caller.release()


async def test_failure_statuses_of_the_moving_kind_move(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    async with scene(tmp_path, backup=backup) as stage:
        caller = await stage.open()
        stage.primary.faults["C-FIND"].append(0xA700)
        assert len((await find(caller))[0]) == len(STUDIES)
        stage.primary.faults["C-STORE"].append(0xA700)
        assert await store(caller, "1.2.3", b"x" * 5000) == 0
        assert stage.backup.stored == {"1.2.3": b"x" * 5000}
        assert stage.relay.last_store_on_backup_s is not None
        await caller.release()


async def test_a_permanent_status_of_a_store_is_passed_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.primary.faults["C-STORE"].append(0xC000)
        assert await store(caller, "1.2.3", b"x" * 5000) == 0xC000
        assert stage.backup.stored == {}
        await caller.release()


async def test_objects_of_two_callers_refused_and_none_accepted_move(tmp_path: Path) -> None:
    """The first is passed on: it speaks of that object. The second caller's shows that it does not."""
    async with scene(tmp_path) as stage:
        stage.primary.faults["C-STORE"].extend([0xC000, 0xC000, 0xA900, 0xC000])
        first, second = await stage.open(calling="CT1"), await stage.open(calling="MR1")
        assert await store(first, "1.2.1", b"x" * 100) == 0xC000
        assert await store(first, "1.2.2", b"x" * 100, 2) == 0xC000
        assert await store(second, "1.2.3", b"x" * 100) == 0
        assert await store(first, "1.2.4", b"x" * 100, 3) == 0
        assert set(stage.backup.stored) == {"1.2.3", "1.2.4"}
        facts = stage.relay.traffic[PRIMARY].take()
        assert {fact.caller for fact in facts if isinstance(fact, StoreFact)} == {"CT1", "MR1"}
        assert await store(second, "1.2.5", b"x" * 100, 2) == 0  # the primary takes objects again
        stage.primary.faults["C-STORE"].append(0xC000)
        assert await store(first, "1.2.6", b"x" * 100, 4) == 0xC000
        await first.release()
        await second.release()


async def test_both_refuse_and_nobody_waits_for_a_primary_that_has_answered(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.faults["C-STORE"].append(0xA700)
        stage.backup.faults["C-STORE"].append(0xC000)
        caller = await stage.open()
        async with asyncio.timeout(20):  # a backup's answer that does not count is waited out for 30 s
            assert await store(caller, "1.2.1", b"x" * 100) == 0xA700
        await caller.release()


async def test_both_refuse_and_the_primarys_own_answer_is_passed_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.publish(primary=Verdict.DOWN, backup=Verdict.DOWN)
        stage.primary.faults["C-STORE"].append(0xA701)
        stage.backup.faults["C-STORE"].append(0xA702)
        assert await store(caller, "1.2.3", b"x" * 5000) == 0xA701
        await caller.release()


async def test_a_store_is_finished_into_the_backup(tmp_path: Path) -> None:
    for fault in ("die", "die_in_data", "die_at_end", "abort"):
        async with scene(tmp_path) as stage:
            caller = await stage.open()
            stage.primary.faults["C-STORE"].append(fault)
            raw = os.urandom(3_000_000)
            assert await store(caller, "1.2.3", raw) == 0
            kept = {**stage.primary.stored, **stage.backup.stored}
            assert kept == {"1.2.3": raw}
            assert stage.spool.memory_used_bytes == stage.spool.disk_used_bytes == 0
            await caller.release()


async def test_a_store_to_a_hung_primary_is_finished_when_it_becomes_suspect(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.primary.faults["C-STORE"].append("hang")
        raw = os.urandom(3_000_000)  # more than the sockets take: the sender blocks in the middle
        stage.publish(primary=Verdict.SUSPECT)
        assert await store(caller, "1.2.3", raw) == 0
        assert stage.backup.stored == {"1.2.3": raw}
        await caller.release()


async def test_without_room_a_lost_store_ends_with_a_status_and_the_association_goes_on(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, spool=Spool(tmp_path, memory_bytes=1000, disk_bytes=1000)) as stage:
        caller = await stage.open()
        stage.primary.faults["C-STORE"].append("die_in_data")
        assert await store(caller, "1.2.3", os.urandom(400_000)) == 0xA700
        assert await echo(caller, 2) == 0
        await caller.release()


async def test_get_goes_on_at_the_backup_without_an_instance_twice(tmp_path: Path) -> None:
    instances = {f"1.9.{number}": os.urandom(50_000) for number in range(4)}
    async with scene(tmp_path) as stage:
        stage.primary.instances = stage.backup.instances = instances
        caller = await stage.open()
        uids, final = await get(caller)
        assert uids == list(instances)
        stage.primary.faults["C-GET"].append("die_after_one")
        uids, final = await get(caller)
        assert uids == list(instances)
        assert final.status == 0
        assert final.number(Tag.COMPLETED) == 4
        assert stage.spool.memory_used_bytes == 0
        await caller.release()


async def test_an_idle_association_moves_at_its_next_operation_and_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        assert await echo(caller, 1) == 0
        await stage.primary.kill()
        assert await echo(caller, 2) == 0
        assert stage.backup.asked == ["C-ECHO"]
        await stage.primary.start()
        stage.publish(phase=Phase.ON_BACKUP)
        assert await echo(caller, 3) == 0
        assert stage.backup.asked == ["C-ECHO"] * 2
        stage.publish()
        assert await echo(caller, 4) == 0
        assert stage.primary.asked == ["C-ECHO"] * 2
        await caller.release()


async def test_in_failing_back_stores_and_reads_go_apart(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY)
        caller = await stage.open()
        assert await store(caller, "1.2.3", b"x" * 100) == 0
        assert (await find(caller))[1] == 0
        assert stage.primary.asked == ["C-STORE"]
        assert stage.backup.asked == ["C-FIND"]
        await caller.release()


async def test_an_idle_leg_is_released_when_its_upstream_is_drained(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        legs = stage.relay.legs
        assert await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=10)
        assert legs.in_flight(PRIMARY) == 0
        assert await echo(caller) == 0
        assert stage.backup.asked == ["C-ECHO"]
        await caller.release()


async def test_a_context_that_the_backup_does_not_take_ends_one_operation(tmp_path: Path) -> None:
    backup = FakeUpstream("MINIPACS")
    backup.syntaxes[STUDY_FIND] = backup.syntaxes[CT] = ()
    async with scene(tmp_path, backup=backup) as stage:
        caller = await stage.open()
        await stage.primary.kill()
        stage.publish(primary=Verdict.DOWN, phase=Phase.ON_BACKUP)
        assert await find(caller, 1) == ([], 0x0122)
        assert await store(caller, "1.2.3", b"abc", 2) == 0xA700
        assert await echo(caller, 3) == 0
        await caller.release()


async def test_commitment_passes_and_its_report_comes_back(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        status, event = await commit(caller)
        assert status == 0
        assert event is not None
        assert event.command.field == CommandField.N_EVENT_REPORT_RQ
        assert await caller.whole_data_set(1000) == b"abcd"
        await caller.send(event.context_id, response(event.command, 0))
        assert await echo(caller, 5) == 0
        assert stage.primary.responses_to_events == [0]
        await caller.release()


async def test_a_lost_n_service_is_not_repeated(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        stage.primary.faults["N-ACTION"].append("die")
        status, _ = await commit(caller, wait_for_event=False)
        assert status == 0x0110
        assert stage.backup.asked == []
        assert await echo(caller, 5) == 0
        await caller.release()


async def commit(caller: Association, *, wait_for_event: bool = True) -> tuple[int, Message | None]:
    request = Command.make(
        CommandField.N_ACTION_RQ,
        {
            Tag.REQUESTED_SOP_CLASS_UID: COMMITMENT,
            Tag.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
            Tag.MESSAGE_ID: 4,
            Tag.ACTION_TYPE_ID: 1,
            Tag.DATA_SET_TYPE: 1,
        },
    )
    await caller.send(ID[COMMITMENT], request, b"abcd")
    answer = await caller.receive()
    assert answer is not None
    event = await caller.receive() if wait_for_event else None
    return answer.command.status, event


async def test_a_cancel_follows_the_operation(tmp_path: Path) -> None:
    primary = FakeUpstream("ORTHANC", matches=STUDIES * 2000)
    async with scene(tmp_path, primary=primary) as stage:
        caller = await stage.open()
        await caller.send(ID[STUDY_FIND], find_rq(3, STUDY_FIND), encoded(study("")))
        assert await caller.receive() is not None
        await caller.send(ID[STUDY_FIND], cancel_rq(3))
        while (message := await caller.receive()) is not None and message.has_data_set:
            pass
        assert primary.cancelled == 1
        await caller.release()


async def test_neither_can_take_it_and_the_operation_ends_with_a_status(tmp_path: Path) -> None:
    async with scene(tmp_path, clock=FastClock()) as stage:
        caller = await stage.open()
        await stage.primary.kill()
        await stage.backup.kill()
        assert await echo(caller) == 0x0110
        await stage.backup.start()
        assert await echo(caller, 2) == 0
        await caller.release()


async def test_stores_are_held_for_the_last_step_of_failback(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.publish(phase=Phase.FAILING_BACK, stores=PRIMARY, hold_stores=True)
        caller = await stage.open()
        await caller.send(ID[CT], store_rq(1, CT, "1.2.3"), b"abcd")
        stage.publish()
        message = await caller.receive()
        assert message is not None
        assert message.command.status == 0
        await caller.release()


async def test_in_backup_mode_a_retrieve_of_what_is_not_held_is_asked_of_the_primary(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.instances = {"1.9.1": b"x" * 1000}
        stage.publish(phase=Phase.ON_BACKUP)
        caller = await stage.open()
        uids, final = await get(caller)
        assert uids == ["1.9.1"]
        assert final.status == 0
        assert (stage.backup.asked, stage.primary.asked) == (["C-GET"], ["C-GET"])
        await caller.release()


async def test_an_archive_that_comes_back_within_five_seconds_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        await stage.primary.kill()
        await stage.backup.kill()
        await caller.send(ID[CT], store_rq(1, CT, "1.2.3"), b"abcd")
        await stage.backup.start()
        message = await caller.receive()
        assert message is not None
        assert message.command.status == 0
        assert stage.backup.stored == {"1.2.3": b"abcd"}
        await caller.release()


async def test_an_operation_that_breaks_every_association_ends(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        for upstream in (stage.primary, stage.backup):
            upstream.faults["C-STORE"].extend(["die_at_end"] * 50)
        assert await store(caller, "1.2.3", b"abcd") == 0xA700
        assert len(stage.primary.asked + stage.backup.asked) == 8
        assert await echo(caller, 2) == 0
        await caller.release()
