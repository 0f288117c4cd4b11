"""What an upstream says that nobody asked for: it ends no operation; its own questions find their way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.dicom.dimse import CommandField, find_rq, response, store_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.model import Phase
from tests.fakes.upstream import CT, FakeUpstream, encoded, study
from tests.unit.relay.scene import ID, PRIMARY, STUDY_FIND, scene
from tests.unit.relay.test_relay_operations import STUDIES, commit, echo, find, get, store


@pytest.mark.parametrize("fault", ["stray_id", "stray_field"])
async def test_a_response_to_something_else_ends_no_operation(tmp_path: Path, fault: str) -> None:
    """Given a primary that says success to what was not asked; the backup's is the answer."""
    backup = FakeUpstream("MINIPACS", matches=STUDIES)
    async with scene(tmp_path, backup=backup) as stage:
        backup.instances = {"1.9.1": b"x" * 1000}
        for name in ("C-STORE", "C-FIND", "C-GET"):
            stage.primary.faults[name].append(fault)
        caller = await stage.open()
        assert await store(caller, "1.2.3", b"abcd") == 0
        assert stage.backup.stored == {"1.2.3": b"abcd"}
        assert await find(caller, 2) == ([s.StudyInstanceUID for s in STUDIES], 0)
        assert (await get(caller, 3))[0] == ["1.9.1"]
        await caller.release()


async def test_a_response_while_nothing_is_asked_costs_the_upstream_its_association(tmp_path: Path) -> None:
    primary = SaysTwice("ORTHANC")
    async with scene(tmp_path, primary=primary) as stage:
        caller = await stage.open()
        assert await echo(caller) == 0
        legs = stage.relay.legs
        assert await legs.changed.wait_until(
            lambda: not any(map(legs.in_flight, stage.relay.traffic)), timeout_s=10
        )
        assert await echo(caller) == 0
        assert len(primary.requests) == 2
        await caller.release()


class SaysTwice(FakeUpstream):
    """Answers each C-ECHO twice."""

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        await super()._answer(association, message, fault)
        await association.send(message.context_id, response(message.command, 0))


async def test_a_report_answered_after_a_move_costs_the_new_upstream_nothing(tmp_path: Path) -> None:
    """Given a report of the primary, which dies before the caller answers it; it works on meanwhile."""
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        _, event = await commit(caller)
        assert event is not None
        await caller.whole_data_set(1000)
        await stage.primary.kill()
        assert await echo(caller, 5) == 0
        await caller.send(event.context_id, response(event.command, 0))
        assert await echo(caller, 6) == 0
        assert stage.backup.asked == ["C-ECHO"] * 2
        assert len(stage.backup.requests) == 1
        await caller.release()


async def test_a_report_is_answered_after_an_operation_of_the_callers_own(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.instances = {"1.9.1": b"x" * 1000}
        caller = await stage.open()
        _, event = await commit(caller)
        assert event is not None
        await caller.whole_data_set(1000)
        assert (await get(caller))[0] == ["1.9.1"]
        await caller.send(event.context_id, response(event.command, 0))
        assert await store(caller, "1.2.3", b"abcd", 7) == 0
        assert stage.primary.responses_to_events == [0]
        assert len(stage.primary.requests) == 1
        await caller.release()


async def test_a_report_that_is_not_answered_yet_keeps_its_association(tmp_path: Path) -> None:
    """Given a report of the primary, and a route that leaves it: first the answer, then the release."""
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        _, event = await commit(caller)
        assert event is not None
        await caller.whole_data_set(1000)
        stage.publish(phase=Phase.ON_BACKUP)
        legs = stage.relay.legs
        assert not await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=0.05)
        await caller.send(event.context_id, response(event.command, 0))
        assert await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=10)
        assert stage.primary.responses_to_events == [0]
        await caller.release()


async def test_a_response_to_a_report_beyond_our_limit_ends_with_a_status(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        _, event = await commit(caller)
        assert event is not None
        await caller.whole_data_set(1000)
        answer = response(event.command, 0, has_data_set=True)
        await caller.send(event.context_id, answer, bytes(5 << 20))
        assert await echo(caller, 5) == 0
        assert stage.primary.responses_to_events == [0x0110]
        await caller.release()


async def test_an_upstream_that_takes_some_bytes_at_a_time_is_passed_over(tmp_path: Path) -> None:
    primary = FakeUpstream("ORTHANC")
    primary.max_pdu_bytes = 16
    async with scene(tmp_path, primary=primary) as stage:
        caller = await stage.open()
        assert await store(caller, "1.2.3", b"abcd") == 0
        assert stage.backup.stored == {"1.2.3": b"abcd"}
        await caller.release()


class OneThingAtATime(FakeUpstream):
    """Answers a C-FIND only when its report has been answered."""

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        if message.command.name != "C-FIND":
            await super()._answer(association, message, fault)
            return
        await association.whole_data_set(1 << 20)
        if not self.responses_to_events:
            answer = await association.receive()
            assert answer is not None
            self.responses_to_events.append(answer.command.status)
        await self._find(association, message, fault)
        await association.send(message.context_id, response(message.command, 0))


async def test_a_report_that_crossed_an_operation_is_answered_while_it_is_under_way(tmp_path: Path) -> None:
    primary = OneThingAtATime("ORTHANC", matches=STUDIES)
    async with scene(tmp_path, primary=primary) as stage, asyncio.timeout(20):
        caller = await stage.open()
        _, event = await commit(caller)
        assert event is not None
        await caller.whole_data_set(1000)
        await caller.send(ID[STUDY_FIND], find_rq(5, STUDY_FIND), encoded(study("")))
        await caller.send(event.context_id, response(event.command, 0x0110))
        found = 0
        while (answer := await caller.receive()) is not None and answer.has_data_set:
            found += 1
        assert answer is not None
        assert (found, answer.command.status) == (len(STUDIES), 0)
        assert primary.responses_to_events == [0x0110]
        assert stage.backup.asked == []
        await caller.release()


class ReportsInAStore(FakeUpstream):
    """Sends a report in the middle of each C-STORE, and waits for no answer."""

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        if message.command.name == "C-STORE":
            await self._event(association, message, b"abcd")
        await super()._answer(association, message, fault)


async def test_a_caller_may_end_its_store_before_it_answers_a_report(tmp_path: Path) -> None:
    primary = ReportsInAStore("ORTHANC")
    async with scene(tmp_path, primary=primary) as stage, asyncio.timeout(20):
        caller = await stage.open()
        await caller.send(ID[CT], store_rq(3, CT, "1.2.3"), b"abcd")
        event = await caller.receive()
        assert event is not None
        assert event.command.field == CommandField.N_EVENT_REPORT_RQ
        stored = await caller.receive()
        assert stored is not None
        assert (stored.command.field, stored.command.status) == (CommandField.C_STORE_RSP, 0)
        await caller.send(event.context_id, response(event.command, 0))
        assert await echo(caller, 4) == 0
        assert primary.responses_to_events == [0]
        assert len(primary.requests) == 1
        await caller.release()


async def test_reports_of_two_upstreams_with_one_number_are_not_mixed_up(tmp_path: Path) -> None:
    """Given both ask with Message ID 77; the caller refuses the first report and takes the second."""
    async with scene(tmp_path) as stage, asyncio.timeout(20):
        caller = await stage.open()
        _, first = await commit(caller)
        assert first is not None
        await caller.whole_data_set(1000)
        await stage.primary.kill()
        _, second = await commit(caller)
        assert second is not None
        await caller.whole_data_set(1000)
        assert first.command.message_id == second.command.message_id
        await caller.send(first.context_id, response(first.command, 0x0110))
        await caller.send(second.context_id, response(second.command, 0))
        assert await echo(caller, 6) == 0
        assert stage.backup.responses_to_events == [0]
        await caller.release()
