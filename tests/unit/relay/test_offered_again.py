"""A device that sends its RQ again: what follows from it is worked out once, and is what it was."""

from __future__ import annotations

from dataclasses import replace

from failover.dicom.encoding import encode
from failover.dicom.negotiation import acceptance_ac, contexts_in_force, propose
from failover.dicom.pdu import PduReader
from failover.dicom.units import (
    AssociateAc,
    AssociateRq,
    ContextResult,
    UserIdentity,
    UserInformation,
    padded_ae,
)
from failover.model import Address, AeTitle, DicomPeer
from failover.relay.legs import rq_for
from failover.relay.offer import caller_answer, first_proposal, later_proposal

CT = "1.2.840.10008.5.1.4.1.1.2"
PEER = DicomPeer(Address("127.0.0.1", 104), AeTitle("ORTHANC"))


def read_rq(calling: str, identity: UserIdentity | None = None) -> AssociateRq:
    user = UserInformation(16384, "1.2.3", identity=identity)
    [rq] = PduReader(65536).receive_data(
        encode(AssociateRq(padded_ae("PACS"), padded_ae(calling), propose([CT]), user))
    )
    assert isinstance(rq, AssociateRq)
    return rq


def read_ac(rq: AssociateRq, *contexts: ContextResult) -> AssociateAc:
    user = UserInformation(32768, "1.2.4")
    [ac] = PduReader(65536).receive_data(
        encode(AssociateAc(rq.called_bytes, rq.calling_bytes, contexts, user))
    )
    assert isinstance(ac, AssociateAc)
    return ac


def test_what_follows_from_the_same_rq_is_made_once() -> None:
    rq = read_rq("AGAIN1")
    again = read_rq("AGAIN1")
    leg = rq_for(PEER, first_proposal(rq), 65536)
    assert rq_for(PEER, first_proposal(again), 65536) is leg
    assert leg.called_bytes == padded_ae("ORTHANC")
    assert leg.calling_bytes == padded_ae("AGAIN1")
    other = replace(PEER, ae_title=AeTitle("OTHER"))
    assert rq_for(other, first_proposal(again), 65536).called_bytes == padded_ae("OTHER")
    assert rq_for(PEER, first_proposal(again), 16384).user.max_pdu_bytes == 16384


def test_another_answer_to_the_same_rq_is_another_answer() -> None:
    rq = read_rq("AGAIN2")
    yes = read_ac(rq, ContextResult(1, 0, "1.2.840.10008.1.2"))
    no = read_ac(rq, ContextResult(1, 3))
    for _ in range(2):
        for answer, count in ((yes, 1), (no, 0)):
            ac = acceptance_ac(rq, caller_answer(answer, None), 65536)
            assert ac.contexts == answer.contexts
            assert len(contexts_in_force(rq, ac)) == count
            assert len(later_proposal(rq, ac).contexts) == count
            assert len(encode(ac)) == len(encode(replace(ac)))
    changed = replace(ac, user=replace(ac.user, max_pdu_bytes=1234))
    assert encode(changed) != encode(ac)


def test_nothing_is_kept_of_an_rq_with_a_secret() -> None:
    secret = UserIdentity(2, False, b"user", b"password")
    rq = read_rq("AGAIN3", secret)
    assert rq.derived is None
    proposal = first_proposal(rq)
    assert proposal.derived is None
    assert rq_for(PEER, proposal, 65536).user.identity == secret
    assert rq_for(PEER, proposal, 65536).derived is None


def test_an_upstream_that_answers_ever_anew_makes_nothing_grow() -> None:
    rq = read_rq("AGAIN4")
    for number in range(100):
        answer = read_ac(rq, ContextResult(1, 0, f"1.2.840.10008.1.2.{number}"))
        later_proposal(rq, answer)
    assert rq.derived is not None
    assert len(rq.derived._found) <= 16
