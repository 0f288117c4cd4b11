"""How an association with the relay is opened: admission, offers, rejections, what passes through."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import pytest

from failover.config.schema import ListenDicom
from failover.dicom.dimse import echo_rq, find_rq, store_rq
from failover.dicom.negotiation import (
    CALLED_AE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    TEMPORARY_CONGESTION,
    Rejection,
)
from failover.dicom.requestor import open_association
from failover.dicom.units import ExtendedNegotiation, UserIdentity
from failover.errors import AssociationRejected
from failover.health.passive import LiveFact
from failover.model import AeTitle, Part, Phase, Verdict
from tests.fakes.clocks import FastClock, SlowClock
from tests.fakes.upstream import CT, FakeUpstream, encoded, study
from tests.unit.relay.scene import (
    ALL,
    BACKUP,
    ECHO,
    ID,
    PRIMARY,
    STUDY_FIND,
    Scene,
    scene,
)
from tests.unit.relay.test_relay_operations import get

LOCAL = [ipaddress.ip_network("127.0.0.0/8")]
ELSEWHERE = [ipaddress.ip_network("10.0.0.0/8")]


async def rejected(stage: Scene, **options: str) -> tuple[int, int, int]:
    with pytest.raises(AssociationRejected) as caught:
        await stage.open(**options)  # type: ignore[arg-type]
    return caught.value.result, caught.value.source, caught.value.reason


async def test_strangers_are_rejected_for_good(tmp_path: Path) -> None:
    callers = {AeTitle("CT1"): LOCAL, AeTitle("MR1"): ELSEWHERE}
    async with scene(tmp_path, callers=callers) as stage:
        assert await rejected(stage, calling="STRANGER") == (1, 1, 3)
        assert await rejected(stage, calling="MR1") == (1, 1, 3)  # the right name from the wrong address
        caller = await stage.open(calling="CT1")
        await caller.release()
        assert len(stage.primary.requests) == 1  # nobody else reached an upstream
        assert stage.counted("failover_dicom_associations_total", upstream="none", result="rejected") == 2


async def test_a_wrong_called_title_is_rejected_for_good(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        assert await rejected(stage, called="OTHER") == (1, 1, 7)


async def test_a_transient_rejection_moves_to_the_other_upstream(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.rejection = LOCAL_LIMIT_EXCEEDED
        caller = await stage.open()
        assert stage.relay.in_flight(BACKUP) == 1
        assert stage.relay.in_flight(PRIMARY) == 0
        await caller.release()


async def test_a_permanent_rejection_is_passed_on(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.rejection = CALLED_AE_NOT_RECOGNIZED
        assert await rejected(stage) == (1, 1, 7)
        assert stage.backup.requests == []
        counted = stage.counted(
            "failover_dicom_associations_total", upstream="primary", result="refused_by_upstream"
        )
        assert counted == 1


async def test_a_permanent_rejection_of_the_backup_does_not_count_in_doubt(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.backup.rejection = Rejection(1, 1, 3)
        stage.publish(primary=Verdict.SUSPECT)
        caller = await stage.open()
        assert stage.relay.in_flight(PRIMARY) == 1
        await caller.release()


async def test_both_refuse_and_the_caller_hears_congestion(tmp_path: Path) -> None:
    async with scene(tmp_path, clock=FastClock()) as stage:
        stage.primary.rejection = stage.backup.rejection = LOCAL_LIMIT_EXCEEDED
        assert await rejected(stage) == (
            TEMPORARY_CONGESTION.result,
            TEMPORARY_CONGESTION.source,
            TEMPORARY_CONGESTION.reason,
        )


async def test_one_that_comes_back_within_five_seconds_is_waited_for(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.primary.kill()
        await stage.backup.kill()
        opening = asyncio.gather(stage.open(), stage.backup.start())
        caller, _ = await opening
        assert stage.relay.in_flight(BACKUP) == 1
        await caller.release()


async def test_a_silent_primary_is_given_up_after_a_second(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.silent_opening = True
        caller = await stage.open()
        assert len(stage.primary.requests) == 1
        assert stage.relay.in_flight(BACKUP) == 1
        await caller.release()


async def test_a_silent_primary_is_given_up_at_once_when_it_becomes_suspect(tmp_path: Path) -> None:
    async with scene(tmp_path, clock=SlowClock()) as stage, asyncio.timeout(50):
        stage.primary.silent_opening = True
        opening = asyncio.gather(stage.open())
        assert await stage.primary.changed.wait_until(lambda: bool(stage.primary.requests), timeout_s=30)
        stage.publish(primary=Verdict.SUSPECT)
        [caller] = await opening
        await caller.release()


async def test_a_primary_that_accepts_again_gets_the_searches_back(tmp_path: Path) -> None:
    """The association was opened at the backup although the primary is not suspect (DESIGN 4.2)."""
    async with scene(tmp_path) as stage:
        stage.primary.rejection = LOCAL_LIMIT_EXCEEDED
        caller = await stage.open()
        facts = stage.relay.traffic[PRIMARY].take()
        assert [(fact.part, fact.good) for fact in facts if isinstance(fact, LiveFact)] == [
            (Part.REACH, False)
        ]
        stage.primary.rejection = None
        await caller.send(ID[ECHO], echo_rq(1))
        assert await caller.receive() is not None
        assert stage.primary.asked == ["C-ECHO"]
        await caller.release()


async def test_what_is_whole_anywhere_waits_for_a_silent_primary_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opening has waited for it a second; C-ECHO and C-STORE do not wait another one."""
    monkeypatch.setattr("failover.relay.session._PASSED_OVER_S", 60.0)  # however busy the machine
    async with scene(tmp_path) as stage:
        stage.primary.silent_opening = True
        caller = await stage.open()
        await caller.send(ID[ECHO], echo_rq(1))
        assert await caller.receive() is not None
        await caller.send(ID[CT], store_rq(2, CT, "1.2.3"), b"x" * 1000)
        answer = await caller.receive()
        assert answer is not None
        assert answer.command.status == 0
        assert len(stage.primary.requests) == 1
        assert stage.backup.asked == ["C-ECHO", "C-STORE"]
        await caller.release()


async def test_a_search_waits_for_a_silent_primary_again(tmp_path: Path) -> None:
    """The backup's matches may be fewer: the primary gets its chance while it is not suspect."""
    async with scene(tmp_path) as stage:
        stage.primary.silent_opening = True
        caller = await stage.open()
        stage.primary.silent_opening = False
        await caller.send(ID[STUDY_FIND], find_rq(1, STUDY_FIND), encoded(study("")))
        while (answer := await caller.receive()) is not None and answer.command.status != 0:
            pass
        assert stage.primary.asked == ["C-FIND"]
        await caller.release()


async def test_contexts_and_roles_are_those_of_the_upstream(tmp_path: Path) -> None:
    primary = FakeUpstream("ORTHANC")
    primary.syntaxes[CT] = ("1.2.840.10008.1.2",)
    primary.syntaxes[STUDY_FIND] = ()
    async with scene(tmp_path, primary=primary) as stage:
        caller = await stage.open()
        assert caller.contexts[ID[CT]].transfer_syntax == "1.2.840.10008.1.2"
        assert caller.contexts[ID[CT]].scp_role
        assert ID[STUDY_FIND] not in caller.contexts
        results = {result.context_id: result.outcome for result in caller.answer.contexts}
        assert results[ID[STUDY_FIND]] == 3
        assert stage.primary.requests[0].contexts == ALL
        await caller.release()


async def test_only_the_agreed_syntax_is_offered_to_the_second_upstream(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        caller = await stage.open()
        await stage.primary.kill()
        await caller.send(ID[ECHO], echo_rq(1))
        assert await caller.receive() is not None
        [rq] = stage.backup.requests
        assert {c.context_id: c.transfer_syntaxes for c in rq.contexts} == {
            context.context_id: (context.transfer_syntax,) for context in caller.contexts.values()
        }
        assert [role.sop_class for role in rq.user.roles] == [CT]
        await caller.release()


async def test_identity_and_extended_negotiation_pass_through(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        identity = UserIdentity(2, True, b"user", b"secret")
        extended = (ExtendedNegotiation(STUDY_FIND, b"\1\1\0"),)
        caller = await open_association(
            stage.peer, "CT1", ALL, timeout_s=10, identity=identity, extended=extended
        )
        [rq] = stage.primary.requests
        assert rq.user.identity == identity
        assert rq.user.extended == extended
        assert caller.answer.user.identity_response == b"ticket"
        assert caller.answer.user.extended == extended
        assert "secret" not in repr(rq)
        await caller.release()


async def test_forced_backup_leaves_the_primary_alone(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.publish(forced=BACKUP, phase=Phase.ON_BACKUP)
        caller = await stage.open()
        assert stage.relay.in_flight(BACKUP) == 1
        assert stage.primary.requests == []
        await caller.release()


async def test_a_caller_that_goes_away_while_we_ask_leaves_nothing_open(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.silent_opening = True
        opening = asyncio.gather(stage.open())
        assert await stage.primary.changed.wait_until(lambda: bool(stage.primary.requests), timeout_s=10)
        opening.cancel()
        acceptor = stage.relay.acceptor
        assert await acceptor.changed.wait_until(lambda: acceptor.associations == 0, timeout_s=10)
        assert acceptor.associations == 0
        assert stage.relay.in_flight(PRIMARY) == stage.relay.in_flight(BACKUP) == 0


async def test_associations_of_one_title_are_capped(tmp_path: Path) -> None:
    async with scene(tmp_path, listen=ListenDicom(max_per_ae_title=2)) as stage:
        first, second = await stage.open(), await stage.open()
        assert await rejected(stage) == (2, 3, 2)
        other = await stage.open(calling="MR1")
        for caller in (first, second, other):
            await caller.release()


async def test_known_titles_have_a_reserve(tmp_path: Path) -> None:
    callers = {AeTitle("CT1"): LOCAL}
    listen = ListenDicom(max_associations=2, reserve=1)
    async with scene(tmp_path, callers=callers, listen=listen) as stage:
        first, second = await stage.open(), await stage.open()
        assert await rejected(stage) == (2, 3, 2)
        await first.release()
        await second.release()


async def test_smaller_pdus_of_the_caller_are_respected(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.primary.instances = {"1.5": bytes(range(256)) * 400}
        caller = await stage.open(max_pdu_bytes=4096)  # our reader refuses longer ones
        await caller.send(ID[ECHO], echo_rq(1))
        assert await caller.receive() is not None
        uids, final = await get(caller)
        assert uids == ["1.5"]
        assert final.status == 0
        await caller.release()
