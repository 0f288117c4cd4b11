"""Our own code breaks after a leg was opened and before its session begins: the leg is closed all the same.

Code is replaced by what breaks, so this runs on the sources alone (ADR 7).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from failover.compiled import is_compiled
from failover.dicom import acceptor
from failover.dicom.negotiation import Acceptance, acceptance_ac
from failover.dicom.units import AssociateAc, AssociateRq, ExtendedNegotiation
from failover.errors import AssociationEnded, UpstreamError
from failover.relay import server
from failover.relay.legs import Leg
from failover.relay.offer import Proposal
from tests.unit.relay.scene import ECHO, PRIMARY, Scene, scene
from tests.unit.relay.test_relay_operations import echo

pytestmark = pytest.mark.skipif(is_compiled(), reason="replaces functions, which compiled code does not see")


def no_proposal(rq: AssociateRq, agreed: AssociateAc) -> Proposal:
    raise RuntimeError("ours")


def no_ac_for_callers(rq: AssociateRq, acceptance: Acceptance, max_pdu_bytes: int) -> AssociateAc:
    if isinstance(acceptance.companion, Leg):
        raise RuntimeError("ours")
    return acceptance_ac(rq, acceptance, max_pdu_bytes)


def too_long_for_callers(rq: AssociateRq, acceptance: Acceptance, max_pdu_bytes: int) -> AssociateAc:
    """Return an AC that no length field can tell: the upstream's fitted in just so, ours has more to say."""
    ac = acceptance_ac(rq, acceptance, max_pdu_bytes)
    if not isinstance(acceptance.companion, Leg):
        return ac
    return replace(ac, user=replace(ac.user, extended=(ExtendedNegotiation(ECHO, bytes(65500)),)))


@pytest.mark.parametrize("where", ["answer", "encoding", "session"])
async def test_a_fault_of_ours_leaves_no_leg_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with scene(tmp_path) as stage:
        with monkeypatch.context() as broken:
            if where == "answer":
                broken.setattr(acceptor, "acceptance_ac", no_ac_for_callers)
            elif where == "encoding":
                broken.setattr(acceptor, "acceptance_ac", too_long_for_callers)
            else:
                broken.setattr(server, "later_proposal", no_proposal)
            await opened_in_vain(stage)
        assert len(stage.primary.requests) == 1
        legs = stage.relay.legs
        assert await legs.changed.wait_until(lambda: legs.in_flight(PRIMARY) == 0, timeout_s=10)
        caller = await stage.open()
        assert await echo(caller) == 0
        await caller.release()


async def opened_in_vain(stage: Scene) -> None:
    with contextlib.suppress(UpstreamError):  # no AC, when it is the answer that breaks
        caller = await stage.open()
        with pytest.raises(AssociationEnded):
            await caller.receive()
