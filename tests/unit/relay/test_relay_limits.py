"""The relay's bounds: who is turned away for want of room is counted, who is silent gives its place back, and
no upstream gets too much at once or asks too much.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from failover.compiled import is_compiled
from failover.config.schema import ListenDicom
from failover.dicom.dimse import Command, CommandField, Tag, echo_rq
from failover.dicom.exchange import Association
from failover.dicom.messages import Message
from failover.dicom.negotiation import Acceptance
from failover.dicom.units import AssociateRq
from failover.errors import AssociationEnded
from tests.fakes.clocks import SlowClock
from tests.fakes.upstream import FakeUpstream, encoded, study
from tests.unit.relay.scene import ECHO, ID, PRIMARY, STUDY_GET, scene
from tests.unit.relay.test_relay_opening import rejected

ASSOCIATIONS = "failover_dicom_associations_total"


async def test_associations_over_a_limit_are_counted_from_zero(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(max_per_ae_title=1)) as stage:
        labels = {"upstream": "none", "result": "over_limit"}
        assert stage.metrics.registry.get_sample_value(ASSOCIATIONS, labels) == 0
        caller = await stage.open()
        for _ in range(3):
            assert await rejected(stage) == (2, 3, 2)
        assert stage.counted(ASSOCIATIONS, **labels) == 3
        assert stage.counted(ASSOCIATIONS, upstream="none", result="rejected") == 0
        await caller.release()


async def test_a_caller_that_says_nothing_more_gives_its_place_back(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(idle_timeout=0.5)) as stage:
        caller = await stage.open()
        async with asyncio.timeout(20):
            with pytest.raises(AssociationEnded):
                await caller.receive()
        again = await stage.open()
        await again.release()


async def test_associations_of_one_address_are_capped_whatever_their_titles(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(max_per_address=2)) as stage:
        first, second = await stage.open(calling="CT1"), await stage.open(calling="MR1")
        assert await rejected(stage, calling="US1") == (2, 3, 2)
        await first.release()
        acceptor = stage.relay.acceptor
        assert await acceptor.changed.wait_until(lambda: acceptor.associations == 1, timeout_s=10)
        third = await stage.open(calling="US1")
        await second.release()
        await third.release()


class OpensLate(FakeUpstream):
    """Answers no A-ASSOCIATE-RQ before it is told to."""

    def __init__(self, ae_title: str) -> None:
        super().__init__(ae_title)
        self.told = asyncio.Event()

    async def _accept(self, rq: AssociateRq) -> Acceptance:
        acceptance = await super()._accept(rq)
        await self.told.wait()
        return acceptance


async def test_an_upstream_gets_sixteen_openings_at_once_and_the_others_after_them(tmp_path: Path) -> None:
    primary = OpensLate("ORTHANC")
    async with scene(tmp_path, primary=primary, clock=SlowClock()) as stage, asyncio.timeout(50):
        opening = asyncio.gather(*(stage.open(timeout_s=40) for _ in range(20)))
        legs = stage.relay.legs

        def all_want_one() -> bool:
            return legs.in_flight(PRIMARY) == 20 and len(primary.requests) >= 16

        assert await primary.changed.wait_until(all_want_one, timeout_s=30)
        assert not await primary.changed.wait_until(lambda: len(primary.requests) > 16, timeout_s=0.05)
        primary.told.set()
        callers = await opening
        assert (len(primary.requests), stage.backup.requests) == (20, [])
        for caller in callers:
            caller.abort()


class AsksMuch(FakeUpstream):
    """Sends 65 reports before it answers a C-ECHO."""

    async def _answer(self, association: Association, message: Message, fault: str | int | None) -> None:
        for _ in range(65):
            await self._event(association, message, b"abcd")
        await super()._answer(association, message, fault)


async def test_an_upstream_that_asks_more_than_is_answered_is_left(tmp_path: Path) -> None:
    async with scene(tmp_path, primary=AsksMuch("ORTHANC")) as stage, asyncio.timeout(20):
        caller = await stage.open()
        await caller.send(ID[ECHO], echo_rq(1))
        reports = 0
        while (message := await caller.receive()) is not None and not message.command.is_response:
            reports += 1
        assert message is not None
        assert (reports, message.command.status) == (64, 0)
        assert stage.backup.asked == ["C-ECHO"]
        await caller.release()


@pytest.mark.skipif(is_compiled(), reason="replaces a constant, which compiled code does not see (ADR 7)")
async def test_a_caller_that_answers_no_instance_gives_its_place_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a caller that takes an instance of its C-GET and says nothing more."""
    monkeypatch.setattr("failover.relay.session._CALLER_SILENT_S", 0.05)
    async with scene(tmp_path) as stage, asyncio.timeout(20):
        stage.primary.instances = {"1.9.1": b"x" * 1000}
        caller = await stage.open()
        request = Command.make(
            CommandField.C_GET_RQ,
            {
                Tag.AFFECTED_SOP_CLASS_UID: STUDY_GET,
                Tag.MESSAGE_ID: 9,
                Tag.PRIORITY: 0,
                Tag.DATA_SET_TYPE: 1,
            },
        )
        await caller.send(ID[STUDY_GET], request, encoded(study("1.2")))
        instance = await caller.receive()
        assert instance is not None
        assert instance.command.field == CommandField.C_STORE_RQ
        with pytest.raises(AssociationEnded):
            await caller.receive()
        legs = stage.relay.legs
        assert await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=10)
