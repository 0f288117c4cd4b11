"""What vanished on the primary is debt or was deleted there; when too much vanished, a person decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from failover.model import Mode, Phase, UpstreamName, Verdict
from failover.replication.permission import Word, interrupts
from failover.replication.vanished import Extent, Gone, are_many, extent, judge

CALM = Word(Mode.AUTO, Phase.ON_PRIMARY, None, False, Verdict.UP, Verdict.UP)


def gone(studies: int, *, seen: bool) -> list[Gone]:
    return [Gone(f"1.{n}.{m}", f"1.{n}", seen, 2) for n in range(studies) for m in range(2)]


def an_image_of_each(studies: int, *, of_objects: int) -> list[Gone]:
    return [Gone(f"1.{n}.1", f"1.{n}", False, of_objects) for n in range(studies)]


@pytest.mark.parametrize(
    ("vanished", "of_studies", "many"),
    [
        (2, 2, False),  # at least three
        (3, 599, True),
        (3, 600, False),  # not more than 0.5 %
        (20, 100_000, False),
        (21, 100_000, True),
        (20, 3_999, True),
    ],
)
def test_when_a_person_must_decide(vanished: int, of_studies: int, many: bool) -> None:
    assert are_many(extent(gone(vanished, seen=True)), of_studies) is many


@pytest.mark.parametrize(
    ("studies", "of_objects", "waits"),
    [
        (3, 100, False),  # three images were rejected in quality control: a small site's usual hour
        (20, 30, False),
        (21, 1000, True),  # so many studies at once are nobody's usual hour
        (5, 2, False),
        (6, 2, True),  # half of six studies is as much as three
    ],
)
def test_an_image_that_goes_is_no_study_that_goes(studies: int, of_objects: int, waits: bool) -> None:
    assert judge(an_image_of_each(studies, of_objects=of_objects), 40, None).waits is waits


def test_images_that_go_one_by_one_within_the_hour_add_up() -> None:
    half = extent(an_image_of_each(5, of_objects=2))
    assert not judge(an_image_of_each(5, of_objects=100), 40, None, lately=half).waits
    assert judge(an_image_of_each(1, of_objects=2), 40, None, lately=half).waits


def test_what_the_last_comparison_saw_is_debt_and_what_was_gone_before_was_deleted() -> None:
    judgement = judge([Gone("1.1.1", "1.1", True), Gone("1.2.1", "1.2", False)], 1000, None)
    assert (judgement.owed, judgement.deleted, judgement.waits) == (("1.1.1",), ("1.2.1",), False)


def test_too_many_wait_and_an_operators_word_is_for_all_of_them() -> None:
    many = gone(5, seen=True)
    judgement = judge(many, 100, None)
    assert (judgement.owed, judgement.deleted, judgement.waits) == ((), (), True)
    assert len(judge(many, 100, "owed").owed) == 10
    assert len(judge(many, 100, "deleted").deleted) == 10


def test_a_mass_deletion_that_is_noticed_bit_by_bit_waits_too() -> None:
    assert not judge(gone(2, seen=False), 100, None).waits
    assert judge(gone(2, seen=False), 100, None, lately=Extent(1, 1.0)).waits


@pytest.mark.parametrize(
    ("before", "now", "interrupted"),
    [
        (None, CALM, True),  # nobody knows what happened before
        (CALM, CALM, False),
        (CALM, replace(CALM, dicom=Verdict.DOWN), True),
        (CALM, replace(CALM, web=Verdict.SUSPECT, dicom=Verdict.SUSPECT), True),
        (CALM, replace(CALM, web=Verdict.SUSPECT), False),
        (CALM, replace(CALM, mode=Mode.PAUSED), False),
        (CALM, replace(CALM, mode=Mode.DRAIN), True),
        (replace(CALM, mode=Mode.DRAIN, keep_replicating=True), CALM, True),
        (
            replace(CALM, mode=Mode.FORCED, forced=UpstreamName.BACKUP, keep_replicating=True),
            replace(CALM, phase=Phase.ON_BACKUP),
            True,
        ),
        (CALM, replace(CALM, phase=Phase.ON_BACKUP), True),
        (replace(CALM, phase=Phase.ON_BACKUP), replace(CALM, phase=Phase.FAILING_BACK), False),
        (replace(CALM, phase=Phase.FAILING_BACK), CALM, False),
    ],
)
def test_when_the_primary_may_have_lost_something(before: Word | None, now: Word, interrupted: bool) -> None:
    assert interrupts(before, now) is interrupted
