"""When an object is asked for again, sent again, refused."""

from __future__ import annotations

from itertools import pairwise

import pytest

from failover.replication.proof import (
    ASK_AFTER_S,
    Refusals,
    StoreHealth,
    again_after_s,
    is_permanent,
    next_question_s,
)


def test_questions_come_with_growing_distance_and_then_the_object_is_sent_again() -> None:
    assert next_question_s(0) == 0.0
    assert all(earlier < later for earlier, later in pairwise(ASK_AFTER_S))
    assert next_question_s(len(ASK_AFTER_S)) is None


def test_failed_objects_wait_longer_each_time() -> None:
    waits = [again_after_s(times) for times in range(1, 9)]
    assert waits == sorted(waits)
    assert waits[-1] == 60.0


@pytest.mark.parametrize(
    ("status", "permanent"),
    [
        (0xA700, False),
        (0xA900, True),
        (0xA9FF, True),
        (0xC000, True),
        (0xCFFF, True),
        (0x0122, True),
        (0x0110, False),
        (0xB000, False),
        (None, False),
    ],
)
def test_permanent(status: int | None, permanent: bool) -> None:
    assert is_permanent(status) is permanent


def test_refused_is_who_was_refused_three_times_while_others_were_taken() -> None:
    assert not Refusals(2, 5).final
    assert not Refusals(3, 0).final, "nobody is taken: the primary is at fault"
    assert Refusals(3, 1).final


def test_only_a_proof_ends_a_row_of_failures() -> None:
    health = StoreHealth()
    for _ in range(3):
        health.failed()
    health.accepted()
    assert health.failing
    health.proven()
    assert not health.failing
    assert (health.failed_total, health.accepted_total, health.proven_total) == (3, 1, 1)
