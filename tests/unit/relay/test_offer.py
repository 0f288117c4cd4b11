"""The relay's pure rules: whom to offer an association, which answers count, what is proposed."""

from __future__ import annotations

import pytest

from failover.dicom.dimse import CommandField
from failover.dicom.negotiation import propose
from failover.dicom.units import (
    AssociateAc,
    AssociateRq,
    ContextResult,
    RoleSelection,
    UserInformation,
    padded_ae,
)
from failover.model import UpstreamName
from failover.relay.matches import match_key
from failover.relay.object_statuses import ObjectStatuses
from failover.relay.offer import (
    PATIENCE_BUSY_S,
    PATIENCE_S,
    AskAgain,
    OfferTo,
    PassOn,
    Refusal,
    caller_answer,
    first_proposal,
    kind_of,
    later_proposal,
    next_offer,
    patience_s,
)
from failover.relay.operations import Judgement, Keep, OnLoss, Shape, judge, operation
from failover.routing.selection import Choice, Kind
from tests.fakes.upstream import CT, encoded, study

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
CALM = Choice(PRIMARY, BACKUP, True, "")
DOUBT = Choice(BACKUP, PRIMARY, True, "")
DOWN = Choice(BACKUP, PRIMARY, False, "")
ALONE = Choice(BACKUP, None, False, "")
NOWHERE = Choice(None, None, False, "")
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
ECHO = "1.2.840.10008.1.1"


@pytest.mark.parametrize(
    ("choice", "tried", "expected"),
    [
        (CALM, {}, OfferTo(PRIMARY)),
        (CALM, {PRIMARY: Refusal.TRANSIENT}, OfferTo(BACKUP)),
        (CALM, {PRIMARY: Refusal.UNREACHABLE}, OfferTo(BACKUP)),
        (CALM, {PRIMARY: Refusal.TIMED_OUT}, OfferTo(BACKUP)),
        (CALM, {PRIMARY: Refusal.BROKE}, OfferTo(BACKUP)),
        (CALM, {PRIMARY: Refusal.PERMANENT}, PassOn(PRIMARY)),
        (CALM, {PRIMARY: Refusal.TRANSIENT, BACKUP: Refusal.TRANSIENT}, AskAgain()),
        (CALM, {PRIMARY: Refusal.TRANSIENT, BACKUP: Refusal.PERMANENT}, AskAgain()),
        (DOUBT, {BACKUP: Refusal.PERMANENT}, OfferTo(PRIMARY)),
        (DOWN, {BACKUP: Refusal.PERMANENT}, PassOn(BACKUP)),
        (ALONE, {BACKUP: Refusal.TRANSIENT}, AskAgain()),
        (NOWHERE, {}, AskAgain()),
    ],
)
def test_next_offer(choice: Choice, tried: dict[UpstreamName, Refusal], expected: object) -> None:
    assert next_offer(choice, tried) == expected


def test_patience() -> None:
    assert patience_s(CALM, PRIMARY, answers_others=False) == PATIENCE_S == 1.0
    assert patience_s(CALM, PRIMARY, answers_others=True) == PATIENCE_BUSY_S
    assert patience_s(CALM, BACKUP, answers_others=False) > PATIENCE_BUSY_S
    assert patience_s(ALONE, BACKUP, answers_others=False) > PATIENCE_BUSY_S


def rq(*syntaxes: str) -> AssociateRq:
    roles = (RoleSelection(CT, True, True), RoleSelection(FIND, True, True))
    user = UserInformation(4096, async_window=(5, 5), roles=roles)
    return AssociateRq(padded_ae("PACS"), padded_ae("CT1"), propose(syntaxes), user)


@pytest.mark.parametrize(
    ("syntaxes", "kind"),
    [
        ([ECHO], Kind.READ),
        ([ECHO, FIND, CT], Kind.READ),
        ([ECHO, CT], Kind.STORE),
        (["1.2.840.10008.5.1.4.31"], Kind.READ),
        (["1.2.840.10008.3.1.2.3.3"], Kind.OTHER),
        (["1.2.840.10008.1.20.1", CT], Kind.STORE),
    ],
)
def test_what_an_association_is_for(syntaxes: list[str], kind: Kind) -> None:
    assert kind_of(rq(*syntaxes)) is kind


def test_later_only_what_was_promised_is_proposed() -> None:
    request = rq(ECHO, FIND, CT)
    answer = AssociateAc(
        request.called_bytes,
        request.calling_bytes,
        (
            ContextResult(1, 0, "1.2.840.10008.1.2"),
            ContextResult(3, 3),
            ContextResult(5, 0, "1.2.840.10008.1.2.1"),
        ),
        UserInformation(roles=(RoleSelection(CT, True, True),), async_window=(2, 2)),
    )
    assert first_proposal(request).contexts == request.contexts
    later = later_proposal(request, answer)
    assert [(c.context_id, c.transfer_syntaxes) for c in later.contexts] == [
        (1, ("1.2.840.10008.1.2",)),
        (5, ("1.2.840.10008.1.2.1",)),
    ]
    assert later.roles == (RoleSelection(CT, True, True),)
    assert caller_answer(answer, None).contexts == answer.contexts


@pytest.mark.parametrize(
    ("field", "status", "moves"),
    [
        (CommandField.C_STORE_RQ, 0xA700, True),
        (CommandField.C_STORE_RQ, 0x0110, True),
        (CommandField.C_STORE_RQ, 0xA900, False),
        (CommandField.C_STORE_RQ, 0xC000, False),
        (CommandField.C_STORE_RQ, 0x0122, False),
        (CommandField.C_FIND_RQ, 0xC001, True),
        (CommandField.C_FIND_RQ, 0xA700, True),
        (CommandField.C_FIND_RQ, 0xA900, False),
        (CommandField.C_GET_RQ, 0xC000, True),
        (CommandField.C_MOVE_RQ, 0xA702, True),
        (CommandField.C_MOVE_RQ, 0xA801, False),
        (CommandField.N_ACTION_RQ, 0x0110, False),
    ],
)
def test_which_statuses_move(field: CommandField, status: int, moves: bool) -> None:
    expected = Judgement.MOVE if moves else Judgement.PASS
    policy = operation(field)
    assert judge(policy, status, delivered=1, of_backup=False, provisional=True) is expected


@pytest.mark.parametrize(
    ("field", "status", "of_object"),
    [
        (CommandField.C_STORE_RQ, 0xA900, True),
        (CommandField.C_STORE_RQ, 0xC123, True),
        (CommandField.C_STORE_RQ, 0x0122, True),
        (CommandField.C_STORE_RQ, 0xA700, False),
        (CommandField.C_FIND_RQ, 0xC001, False),
        (CommandField.C_MOVE_RQ, 0xA801, False),
    ],
)
def test_which_statuses_speak_of_the_object(field: CommandField, status: int, of_object: bool) -> None:
    assert operation(field).speaks_of_object(status) is of_object


def test_objects_of_two_callers_refused_and_none_accepted_accuse_the_archive() -> None:
    statuses = ObjectStatuses()
    assert statuses.refused(PRIMARY, "CT1", 0.0) == []
    assert statuses.refused(PRIMARY, "CT1", 1.0) == []  # one caller, however often
    assert statuses.refused(BACKUP, "MR1", 2.0) == []  # another upstream
    assert statuses.refused(PRIMARY, "MR1", 3.0) == ["CT1", "MR1"]
    statuses.accepted(PRIMARY)
    assert statuses.refused(PRIMARY, "MR1", 4.0) == []
    assert statuses.refused(PRIMARY, "CT1", 14.5) == []  # more than 10 s apart


def test_answers_of_the_backup_in_doubt() -> None:
    find, store = operation(CommandField.C_FIND_RQ), operation(CommandField.C_STORE_RQ)
    assert judge(find, 0, delivered=0, of_backup=True, provisional=True) is Judgement.HOLLOW
    assert judge(find, 0, delivered=1, of_backup=True, provisional=True) is Judgement.PASS
    assert judge(find, 0xC001, delivered=0, of_backup=True, provisional=True) is Judgement.HOLLOW
    assert judge(find, 0, delivered=0, of_backup=True, provisional=False) is Judgement.PASS
    assert judge(find, 0xFE00, delivered=0, of_backup=True, provisional=True) is Judgement.PASS
    assert judge(store, 0, delivered=0, of_backup=True, provisional=True) is Judgement.PASS
    assert judge(store, 0xA700, delivered=0, of_backup=True, provisional=True) is Judgement.HOLLOW


def test_n_services_and_unknown_ones_are_never_repeated() -> None:
    for field in (CommandField.N_ACTION_RQ, CommandField.N_CREATE_RQ, 0x7777):
        policy = operation(field)
        assert (policy.on_loss, policy.keep, policy.shape) == (OnLoss.FAIL, Keep.NONE, Shape.PLAIN)
    assert operation(0x7777).name == "unknown"


def test_matches_are_known_by_their_unique_key() -> None:
    explicit, implicit = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
    one = match_key(encoded(study("1.2", RetrieveAETitle="A")), explicit)
    assert one == match_key(encoded(study("1.2", PatientName="X"), implicit=True), implicit)
    assert one != match_key(encoded(study("1.3")), explicit)


def test_matches_without_it_by_all_but_where_they_lie() -> None:
    syntax = "1.2.840.10008.1.2.1"
    keys = {
        match_key(encoded(study("", RetrieveAETitle=title, InstanceAvailability="ONLINE")), syntax)
        for title in ("A", "B")
    }
    assert len(keys) == 1
    assert match_key(encoded(study("", PatientName="X")), syntax) not in keys
    assert match_key(b"rubbish", syntax) != match_key(b"other", syntax)
