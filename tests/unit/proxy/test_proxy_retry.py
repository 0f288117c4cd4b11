"""Who is asked, who is asked next, and which answer counts: DESIGN 4.2 as scenes without sockets."""

from __future__ import annotations

import pytest

from failover.model import UpstreamName, Verdict
from failover.proxy.classify import Asked, WebRoute
from failover.proxy.retry import Action, Failure, Judgement, Pursuit, Step
from failover.proxy.rewrite import Reach
from failover.routing.selection import Choice, Kind

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
CALM = Choice(PRIMARY, BACKUP, True, "")
SUSPECT = Choice(BACKUP, PRIMARY, True, "")
DOWN = Choice(BACKUP, PRIMARY, False, "")  # on_primary, verdict down
BACKUP_MODE = Choice(BACKUP, PRIMARY, False, "")
BACKUP_ALONE = Choice(BACKUP, None, False, "")

QIDO = Asked(WebRoute.QIDO, Kind.READ, b"", b"/studies")
WADO = Asked(WebRoute.WADO, Kind.READ, b"", b"/studies/1")
STOW = Asked(WebRoute.STOW, Kind.STORE, b"", b"/studies")
PAGE = Asked(WebRoute.PAGE, Kind.READ, b"")
POST = Asked(WebRoute.OTHER, Kind.OTHER, b"")

REACH = {
    QIDO: (Reach.ASK, Reach.ASK), WADO: (Reach.ASK, Reach.ASK), STOW: (Reach.ASK, Reach.ASK),
    PAGE: (Reach.ASK, Reach.VIEWER), POST: (Reach.ASK, Reach.NEVER),
}  # fmt: skip


def pursuit(
    asked: Asked, choice: Choice = CALM, verdict: Verdict = Verdict.UP, admitted: bool = True
) -> Pursuit:
    primary, backup = REACH[asked]
    one = Pursuit(asked, {PRIMARY: primary, BACKUP: backup}, admitted=admitted)
    one.see(choice, verdict)
    return one


def said(step: Step) -> str:
    if step.action is Action.SEND:
        return f"send {step.upstream}" + (" fresh" if step.fresh else "")
    return f"say {step.status}" if step.action is Action.SAY else step.action.value


@pytest.mark.parametrize(("asked", "choice", "verdict", "admitted", "step"), [
    (QIDO, CALM, Verdict.UP, True, "send primary"),
    (STOW, CALM, Verdict.UP, True, "send primary fresh"),
    (POST, CALM, Verdict.UP, True, "send primary fresh"),
    (QIDO, SUSPECT, Verdict.SUSPECT, True, "send backup"),
    (QIDO, SUSPECT, Verdict.SUSPECT, False, "send primary"),  # a stranger waits
    (PAGE, SUSPECT, Verdict.SUSPECT, True, "send primary"),  # a redirect to the viewer is not whole
    (PAGE, BACKUP_MODE, Verdict.UP, True, "redirect"),
    (QIDO, DOWN, Verdict.DOWN, True, "send backup"),
    (QIDO, DOWN, Verdict.DOWN, False, "say 503"),
    (POST, DOWN, Verdict.DOWN, True, "say 503"),
    (POST, BACKUP_MODE, Verdict.UP, True, "send primary fresh"),
    (POST, BACKUP_ALONE, Verdict.DOWN, True, "say 503"),
    (QIDO, BACKUP_ALONE, Verdict.DOWN, False, "say 503"),
    (QIDO, Choice(None, None, False, ""), Verdict.DOWN, True, "say 503"),
])  # fmt: skip
def test_first_step(asked: Asked, choice: Choice, verdict: Verdict, admitted: bool, step: str) -> None:
    assert said(pursuit(asked, choice, verdict, admitted).next(0.0)) == step


@pytest.mark.parametrize(("asked", "failure", "sent", "reused", "step"), [
    (QIDO, Failure.UNREACHABLE, False, False, "send backup"),
    (QIDO, Failure.BROKE, True, False, "send backup"),
    (QIDO, Failure.BROKE, True, True, "send primary fresh"),  # a stale kept connection
    (QIDO, Failure.TIMED_OUT, True, False, "send backup"),
    (STOW, Failure.BROKE, True, False, "send backup fresh"),
    (POST, Failure.UNREACHABLE, False, False, "wait"),
    (POST, Failure.BROKE, True, False, "say 502"),
    (POST, Failure.TIMED_OUT, True, False, "say 504"),
])  # fmt: skip
def test_after_a_failure_of_the_primary(
    asked: Asked, failure: Failure, sent: bool, reused: bool, step: str
) -> None:
    one = pursuit(asked)
    one.next(0.0)
    assert said(one.failed(PRIMARY, failure, sent=sent, reused=reused, now_s=0.0)) == step


def test_unprotected_store_is_never_repeated() -> None:
    one = pursuit(STOW)
    one.body_kept = False
    assert said(one.failed(PRIMARY, Failure.BROKE, sent=True, reused=False, now_s=0.0)) == "say 502"


def test_neither_can_take_it_rounds_then_503() -> None:
    one, now_s, rounds = pursuit(QIDO), 0.0, 0
    step = one.next(now_s)
    while step.action is not Action.SAY:
        assert said(step) == "send primary"
        assert (
            said(one.failed(PRIMARY, Failure.UNREACHABLE, sent=False, reused=False, now_s=now_s))
            == "send backup"
        )
        step = one.failed(BACKUP, Failure.UNREACHABLE, sent=False, reused=False, now_s=now_s)
        if step.action is Action.WAIT:
            now_s, rounds = now_s + 0.2, rounds + 1
            one.new_round()
            step = one.next(now_s)
    assert (step.status, rounds) == (503, 25)


@pytest.mark.parametrize(("status", "judgement"), [
    (200, Judgement.READ), (204, Judgement.DROP), (206, Judgement.DROP), (302, Judgement.DROP),
    (401, Judgement.DROP), (404, Judgement.DROP), (503, Judgement.DROP),
])  # fmt: skip
def test_provisional_answers_of_the_backup(status: int, judgement: Judgement) -> None:
    assert pursuit(QIDO, SUSPECT, Verdict.SUSPECT).judge(BACKUP, status) is judgement


def test_not_whole_goes_back_to_the_primary_and_waits_there_until_it_is_down() -> None:
    one = pursuit(QIDO, SUSPECT, Verdict.SUSPECT)
    assert said(one.next(0.0)) == "send backup"
    assert one.judge_body(BACKUP, lies=False, empty=True) is Judgement.DROP
    assert said(one.answer_dropped(BACKUP, 0.0)) == "send primary"
    assert not one.leaves(PRIMARY, Verdict.SUSPECT, sent=True)
    assert said(one.failed(PRIMARY, Failure.UNREACHABLE, sent=False, reused=False, now_s=6.0)) == "wait"
    one.new_round()
    assert said(one.next(6.2)) == "send primary"  # the backup would say the same again
    one.see(BACKUP_ALONE, Verdict.DOWN)
    assert one.leaves(PRIMARY, Verdict.DOWN, sent=True)
    assert said(one.next(6.4)) == "send backup"
    assert one.judge(BACKUP, 200) is Judgement.PASS


def test_a_waiting_request_leaves_a_suspect_primary() -> None:
    one = pursuit(QIDO)
    one.next(0.0)
    assert not one.leaves(PRIMARY, Verdict.UP, sent=True)
    one.see(SUSPECT, Verdict.SUSPECT)
    assert one.leaves(PRIMARY, Verdict.SUSPECT, sent=True)
    assert (said(one.next(0.0)), one.cause) == ("send backup", "primary_suspect")


@pytest.mark.parametrize(("asked", "admitted"), [(POST, True), (QIDO, False), (PAGE, True)])
def test_these_wait_for_a_suspect_primary(asked: Asked, admitted: bool) -> None:
    one = pursuit(asked, admitted=admitted)
    one.next(0.0)
    one.see(SUSPECT, Verdict.SUSPECT)
    assert not one.leaves(PRIMARY, Verdict.SUSPECT, sent=True)


def test_a_stranger_gets_503_when_it_is_down() -> None:
    one = pursuit(QIDO, admitted=False)
    one.next(0.0)
    one.see(DOWN, Verdict.DOWN)
    assert one.leaves(PRIMARY, Verdict.DOWN, sent=True)
    assert said(one.next(0.0)) == "say 503"


@pytest.mark.parametrize("asked", [QIDO, STOW])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 507])
def test_failing_answer_is_kept_and_the_backups_good_one_wins(asked: Asked, status: int) -> None:
    one = pursuit(asked)
    assert one.judge(PRIMARY, status) is Judgement.KEEP
    assert said(one.answer_kept(PRIMARY, 0.0)).startswith("send backup")
    assert one.judge(BACKUP, 200) is Judgement.READ
    assert one.judge_body(BACKUP, lies=False, empty=False) is Judgement.PASS


def test_failing_answer_is_passed_on_when_the_backup_has_no_better() -> None:
    one = pursuit(QIDO)
    one.answer_kept(PRIMARY, 0.0)
    assert one.judge(BACKUP, 404) is Judgement.DROP
    assert said(one.answer_dropped(BACKUP, 0.0)) == "pass_kept"
    one = pursuit(QIDO)
    one.answer_kept(PRIMARY, 0.0)
    assert said(one.failed(BACKUP, Failure.UNREACHABLE, sent=False, reused=False, now_s=0.0)) == "pass_kept"


@pytest.mark.parametrize(("asked", "admitted"), [(POST, True), (PAGE, True), (QIDO, False)])
def test_failing_answers_that_nobody_may_better_are_passed_on(asked: Asked, admitted: bool) -> None:
    assert pursuit(asked, admitted=admitted).judge(PRIMARY, 500) is Judgement.PASS


def test_store_that_acknowledged_nothing() -> None:
    one = pursuit(STOW)
    assert one.judge(PRIMARY, 200) is Judgement.READ
    assert one.judge_body(PRIMARY, lies=True, empty=False) is Judgement.KEEP
    assert said(one.answer_kept(PRIMARY, 0.0)) == "send backup fresh"
    assert said(one.failed(BACKUP, Failure.UNREACHABLE, sent=False, reused=False, now_s=0.0)) == "say 502"
    assert pursuit(STOW).judge(PRIMARY, 202) is Judgement.PASS
    assert pursuit(STOW).judge(PRIMARY, 409) is Judgement.PASS


def test_backup_mode_what_is_not_held_is_asked_of_the_primary() -> None:
    one = pursuit(WADO, BACKUP_MODE)
    assert said(one.next(0.0)) == "send backup"
    assert one.judge(BACKUP, 404) is Judgement.DROP
    assert said(one.answer_dropped(BACKUP, 0.0)) == "send primary"
    assert one.judge(PRIMARY, 404) is Judgement.PASS
    assert one.judge(PRIMARY, 500) is Judgement.DROP
    assert said(one.answer_dropped(PRIMARY, 0.0)) == "say 503"


def test_retrieve_that_neither_can_give_now_is_503() -> None:
    one = pursuit(WADO, BACKUP_ALONE, Verdict.DOWN)
    one.next(0.0)
    assert one.judge(BACKUP, 404) is Judgement.DROP
    assert said(one.answer_dropped(BACKUP, 0.0)) == "say 503"
    assert pursuit(QIDO, BACKUP_ALONE, Verdict.DOWN).judge(BACKUP, 404) is Judgement.PASS


@pytest.mark.parametrize(("asked", "choice", "verdict", "step"), [
    (QIDO, CALM, Verdict.UP, "send primary"),
    (QIDO, SUSPECT, Verdict.SUSPECT, "send primary"),  # no login page while the primary may still answer
    (QIDO, DOWN, Verdict.DOWN, "say 401"),
    (STOW, DOWN, Verdict.DOWN, "say 401"),
    (PAGE, BACKUP_ALONE, Verdict.DOWN, "say 401"),
    (QIDO, BACKUP_MODE, Verdict.UP, "send primary"),
    (POST, DOWN, Verdict.DOWN, "say 503"),  # the archive could not take it
    (QIDO, Choice(None, None, False, ""), Verdict.DOWN, "say 503"),
])  # fmt: skip
def test_a_stranger_may_log_in_where_that_would_help(
    asked: Asked, choice: Choice, verdict: Verdict, step: str
) -> None:
    primary, backup = REACH[asked]
    one = Pursuit(asked, {PRIMARY: primary, BACKUP: backup}, admitted=False, logins=True)
    one.see(choice, verdict)
    assert said(one.next(0.0)) == step


def test_who_is_being_checked_waits_for_the_result() -> None:
    for admitted, step in ((True, "send backup"), (False, "say 503")):
        primary, backup = REACH[QIDO]
        one = Pursuit(QIDO, {PRIMARY: primary, BACKUP: backup}, admitted=None)
        one.see(DOWN, Verdict.DOWN)
        assert said(one.next(0.0)) == "wait"
        one.settle(admitted=admitted)
        assert said(one.next(0.2)) == step


def test_ours_is_the_archives_alone() -> None:
    ours = Asked(WebRoute.PAGE, Kind.READ, b"", ours=True)
    for reach, admitted, step in (
        (Reach.ASK, True, "send backup"), (Reach.ASK, False, "say 403"), (Reach.NEVER, True, "say 404"),
    ):  # fmt: skip
        one = Pursuit(ours, {PRIMARY: Reach.NEVER, BACKUP: reach}, admitted=admitted)
        one.see(CALM, Verdict.UP)
        assert said(one.next(0.0)) == step


def test_a_store_that_outgrew_the_spool_after_an_early_refusal_is_not_sent_with_a_hole() -> None:
    one = pursuit(STOW)
    assert said(one.next(0.0)) == "send primary fresh"
    assert one.judge(PRIMARY, 507) is Judgement.KEEP
    one.body_kept = False  # more of the body came while the answer did
    assert said(one.answer_kept(PRIMARY, 0.0)) == "pass_kept"


def test_nor_a_second_time_after_both_refused_and_the_route_changed() -> None:
    one = pursuit(STOW)
    one.next(0.0)
    assert said(one.answer_kept(PRIMARY, 0.0)) == "send backup fresh"
    one.body_kept = False
    one.see(DOWN, Verdict.DOWN)
    assert said(one.answer_dropped(BACKUP, 0.0)) == "pass_kept"
