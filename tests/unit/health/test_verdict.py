"""The rule of verdicts: two clocks, rise and fall, parts inside, one verdict outside."""

from __future__ import annotations

from failover.health.verdict import (
    Health,
    VerdictPolicy,
    elapsed,
    failed,
    in_doubt,
    live_failure,
    new_health,
    nothing_to_prove,
    passed,
    silent,
    stood_still,
    stored_by_caller,
    stored_by_replicator,
)
from failover.model import Part, Verdict

POLICY = VerdictPolicy(rise=3, fall=2, fail_after_s=5.0)
REACH, QUERY, RETRIEVE, STORE = Part.REACH, Part.QUERY, Part.RETRIEVE, Part.STORE
ALL = frozenset({REACH, QUERY, RETRIEVE})


def healthy(parts: frozenset[Part] = ALL) -> Health:
    health = new_health(parts)
    for part in sorted(parts):
        health = passed(health, part, "fine", 0.0, POLICY)
    assert health.verdict is Verdict.UP
    return health


def fail(health: Health, part: Part, *times_s: float) -> Health:
    for at_s in times_s:
        health = failed(health, part, "HEAD / gives 503", at_s, POLICY)
    return health


def recover(health: Health, at_s: float, times: int = 3) -> Health:
    for _ in range(times):
        for part in sorted(health.probed):
            health = passed(health, part, "fine", at_s, POLICY)
    return health


def test_at_the_start_one_good_probe_of_each_part_is_up() -> None:
    health = new_health(ALL)
    for part in (REACH, QUERY):
        health = passed(health, part, "fine", 0.0, POLICY)
        assert health.verdict is None
    assert passed(health, RETRIEVE, "fine", 0.0, POLICY).verdict is Verdict.UP


def test_at_the_start_fall_failures_before_a_good_one_are_down() -> None:
    health = fail(new_health(ALL), REACH, 0.0)
    assert health.verdict is None
    health = fail(health, REACH, 0.2)
    assert health.verdict is Verdict.DOWN
    assert health.reason == "reach: HEAD / gives 503"


def test_one_failure_is_no_suspicion_but_doubt() -> None:
    health = fail(healthy(), QUERY, 1.0)
    assert health.verdict is Verdict.UP
    assert in_doubt(health, 1.0)
    for part in (QUERY, REACH, RETRIEVE):
        assert in_doubt(health, 1.2)
        health = passed(health, part, "fine", 1.2, POLICY)
    assert not in_doubt(health, 1.2)


def test_fall_failures_of_one_part_are_suspect_and_one_good_one_of_it_ends_it() -> None:
    health = fail(healthy(), QUERY, 1.0, 1.2)
    assert health.verdict is Verdict.SUSPECT
    assert health.reason == "query: HEAD / gives 503"
    assert passed(health, REACH, "fine", 1.3, POLICY).verdict is Verdict.SUSPECT
    assert passed(health, QUERY, "fine", 1.3, POLICY).verdict is Verdict.UP


def test_suspect_without_a_break_for_fail_after_is_down() -> None:
    health = fail(healthy(), REACH, 1.0, 1.2)
    assert elapsed(health, 6.1, POLICY).verdict is Verdict.SUSPECT
    down = elapsed(health, 6.2, POLICY)
    assert down.verdict is Verdict.DOWN
    assert down.reason == "reach: no good answer for 5 s: HEAD / gives 503"


def test_time_in_which_our_own_loop_stood_still_does_not_count() -> None:
    health = stood_still(fail(healthy(), REACH, 1.0, 1.2), 3.0)
    assert elapsed(health, 9.1, POLICY).verdict is Verdict.SUSPECT
    assert elapsed(health, 9.3, POLICY).verdict is Verdict.DOWN
    assert stood_still(healthy(), 3.0) == healthy()


def test_the_fourth_suspicion_within_a_minute_is_down() -> None:
    health = healthy()
    for at_s in (1.0, 15.0, 30.0):
        health = fail(health, REACH, at_s, at_s)
        assert health.verdict is Verdict.SUSPECT
        health = passed(health, REACH, "fine", at_s + 1, POLICY)
    later = fail(health, REACH, 62.0, 62.0)
    assert later.verdict is Verdict.SUSPECT  # the first is longer ago
    health = fail(health, REACH, 59.0, 59.0)
    assert health.verdict is Verdict.DOWN
    assert "suspect 4 times within a minute" in health.reason


def test_a_silence_is_suspect_at_once() -> None:
    health = silent(healthy(), REACH, "4 waiting, not a byte for 150 ms", 1.0, POLICY)
    assert health.verdict is Verdict.SUSPECT
    assert silent(new_health(ALL), REACH, "silence", 1.0, POLICY).verdict is None


def test_after_down_rise_good_ones_in_a_row_of_each_part_are_up() -> None:
    health = elapsed(fail(healthy(), REACH, 1.0, 1.2), 7.0, POLICY)
    health = recover(health, 8.0, times=2)
    assert health.verdict is Verdict.DOWN
    assert health.reason == "reach: 2 of 3 good in a row"
    health = fail(health, QUERY, 8.1)
    health = recover(health, 8.2, times=2)
    assert health.verdict is Verdict.DOWN  # query's run began anew
    assert health.reason == "query: 2 of 3 good in a row"
    assert recover(health, 8.3, times=1).verdict is Verdict.UP


def test_after_a_minute_of_down_the_calm_rhythm_until_every_part_passed() -> None:
    health = elapsed(fail(healthy(), REACH, 1.0, 1.2), 7.0, POLICY)
    assert in_doubt(health, 66.9)
    assert not in_doubt(health, 67.1)
    health = recover(health, 70.0, times=1)
    assert in_doubt(health, 70.0)
    health = fail(health, REACH, 70.2)
    assert not in_doubt(health, 70.2)


def test_a_live_failure_never_counts_but_is_doubt() -> None:
    health = healthy()
    for _ in range(100):
        health = live_failure(health, QUERY)
    assert health.verdict is Verdict.UP
    assert health.doubted == {QUERY, REACH}


def test_stores_of_one_caller_never_count() -> None:
    health = healthy()
    for at_s in range(100):
        health = stored_by_caller(health, "CT1", False, float(at_s), POLICY)
    assert health.verdict is Verdict.UP


def test_stores_of_two_callers_within_ten_seconds_are_suspect_then_down() -> None:
    health = stored_by_caller(healthy(), "CT1", False, 1.0, POLICY)
    assert stored_by_caller(health, "MR1", False, 11.1, POLICY).verdict is Verdict.UP
    health = stored_by_caller(health, "MR1", False, 10.9, POLICY)
    assert health.verdict is Verdict.SUSPECT
    assert health.reason == "store: stores of 2 callers failed within 10 s and none succeeded"
    assert stored_by_caller(health, "CT1", True, 11.0, POLICY).verdict is Verdict.UP
    down = elapsed(health, 15.9, POLICY)
    assert down.verdict is Verdict.DOWN
    # Probes are good all the while: only a proven store helps.
    down = recover(down, 20.0)
    assert down.verdict is Verdict.DOWN
    down = stored_by_replicator(down, True, False, 21.0, POLICY)
    assert down.verdict is Verdict.DOWN
    assert stored_by_replicator(down, True, True, 22.0, POLICY).verdict is Verdict.UP
    assert nothing_to_prove(down, 22.0, POLICY).verdict is Verdict.UP


def test_a_success_between_wipes_the_failures_of_stores() -> None:
    health = stored_by_caller(healthy(), "CT1", False, 1.0, POLICY)
    health = stored_by_caller(health, "US1", True, 2.0, POLICY)
    assert stored_by_caller(health, "MR1", False, 3.0, POLICY).verdict is Verdict.UP


def test_three_objects_of_the_replicator_in_a_row_are_suspect() -> None:
    health = healthy()
    for _ in range(2):
        health = stored_by_replicator(health, False, False, 1.0, POLICY)
    assert health.verdict is Verdict.UP
    health = stored_by_replicator(health, False, False, 1.0, POLICY)
    assert health.verdict is Verdict.SUSPECT


def test_only_a_proof_ends_the_replicators_row() -> None:
    health = healthy()
    for _ in range(2):  # Orthanc on a full disk: success is said, and nothing is shown afterwards
        health = stored_by_replicator(health, True, False, 1.0, POLICY)
        health = stored_by_replicator(health, False, False, 2.0, POLICY)
    assert health.verdict is Verdict.UP
    health = stored_by_replicator(health, False, False, 3.0, POLICY)
    assert health.verdict is Verdict.SUSPECT
    assert stored_by_replicator(health, True, False, 4.0, POLICY).verdict is Verdict.SUSPECT
    assert stored_by_replicator(health, True, True, 4.0, POLICY).verdict is Verdict.UP
    assert stored_by_caller(health, "CT1", True, 4.0, POLICY).verdict is Verdict.UP
    assert elapsed(health, 8.1, POLICY).verdict is Verdict.DOWN


def test_what_has_no_probe_is_up_only_by_what_it_has() -> None:
    dicom = healthy(frozenset({REACH, QUERY}))
    assert passed(dicom, RETRIEVE, "a C-GET", 1.0, POLICY) == dicom
    assert failed(dicom, RETRIEVE, "a C-GET", 1.0, POLICY) == dicom
