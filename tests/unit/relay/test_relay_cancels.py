"""C-CANCEL where it is easily lost, or taken for what it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from failover.dicom.dimse import cancel_rq, find_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from tests.fakes.upstream import FakeUpstream, encoded, study
from tests.unit.relay.scene import COMMITMENT, ID, STUDY_FIND, scene
from tests.unit.relay.test_relay_operations import commit, echo


async def test_what_is_cancelled_while_no_upstream_has_it_ends_as_cancelled(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage, asyncio.timeout(20):
        caller = await stage.open()
        await stage.primary.kill()
        await stage.backup.kill()
        await caller.send(ID[STUDY_FIND], find_rq(3, STUDY_FIND), encoded(study("")))
        await caller.send(ID[STUDY_FIND], cancel_rq(3))
        answer = await caller.receive()
        assert answer is not None
        assert (answer.command.status, answer.has_data_set) == (0xFE00, False)
        await stage.primary.start()
        assert await echo(caller, 4) == 0
        await caller.release()


class HearsCancels(FakeUpstream):
    """Notes at each operation whether a C-CANCEL has come with the Message ID of its own report."""

    heard: tuple[bool, ...] = ()

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        self.heard += (association.cancelled(77),)
        await super()._answer(association, message, fault)


async def test_a_cancel_with_the_number_of_a_report_does_not_go_to_who_reports(tmp_path: Path) -> None:
    """Given a caller that cancels a 77 of its own, which has ended; then the primary reports under 77."""
    primary = HearsCancels("ORTHANC")
    async with scene(tmp_path, primary=primary) as stage, asyncio.timeout(20):
        caller = await stage.open()
        assert await echo(caller, 77) == 0
        await caller.send(ID[COMMITMENT], cancel_rq(77))
        _, event = await commit(caller)
        assert event is not None
        assert event.command.message_id == 77
        await caller.whole_data_set(1000)
        assert await echo(caller, 5) == 0
        assert primary.heard == (False, False, False)
        await caller.release()
