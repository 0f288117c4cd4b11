"""What an upstream says that nobody asked for: it ends no operation; its own questions find their way."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.dicom.dimse import Message, response
from failover.dicom.exchange import Association
from tests.fakes.upstream import FakeUpstream
from tests.unit.relay.scene import scene
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
        await legs.changed.wait_until(lambda: not any(map(legs.in_flight, stage.relay.traffic)), timeout_s=10)
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
