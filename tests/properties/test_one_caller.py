"""

ne caller, or one kind of bad request, can never move the route, whatever it does and in whatever order.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.aio import cancel_and_wait, spawn
from failover.health.passive import Outcome
from failover.health.verdict import (
    VerdictPolicy,
    elapsed,
    failed,
    new_health,
    passed,
    silent,
    stored_by_caller,
)
from failover.model import Part, Service, Verdict
from tests.unit.health.test_watch import Watched

POLICY = VerdictPolicy()
PARTS = frozenset({Part.REACH, Part.QUERY, Part.RETRIEVE})

deeds = st.lists(
    st.one_of(
        st.tuples(st.just("began"), st.sampled_from(Part)),
        st.tuples(st.just("ended"), st.sampled_from(Outcome)),
        st.tuples(st.just("stored"), st.booleans()),
        st.tuples(st.just("waits"), st.sampled_from([0.025, 0.2, 0.5, 3.0])),
    ),
    max_size=25,
)


@pytest.mark.timeout(120)
@settings(max_examples=40, deadline=None)
@given(deeds=deeds, service=st.sampled_from(Service))
async def test_one_caller_alone(deeds: list[tuple[str, object]], service: Service) -> None:
    watched = Watched(service=service, query=True)
    task = spawn(watched.watch.run(), name="watch")
    try:
        await watched.passes(0.1)
        tokens: list[int] = []
        for deed in deeds:
            match deed:
                case ("began", Part() as part):
                    tokens.append(watched.traffic.began(part, "anything"))
                case ("ended", Outcome() as outcome):
                    if tokens:
                        watched.traffic.ended(tokens.pop(), outcome)
                case ("stored", bool(accepted)):
                    watched.traffic.store_result("CT1", accepted)
                case ("waits", float(seconds)):
                    await watched.passes(seconds)
        await watched.passes(2.0)
        assert watched.verdicts() == ["None", "up"]
    finally:
        await cancel_and_wait(task)


facts = st.lists(
    st.tuples(
        st.sampled_from(["passed", "failed", "silent", "stored", "nothing"]),
        st.sampled_from(sorted(PARTS)),
        st.sampled_from([0.0, 0.1, 1.0, 6.0]),
        st.sampled_from(["CT1", "MR1"]),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(facts)
def test_verdicts_follow_their_own_definition(row: list[tuple[str, Part, float, str, bool]]) -> None:
    health, now_s = new_health(PARTS), 0.0
    for what, part, after_s, caller, accepted in row:
        now_s += after_s
        before = health
        match what:
            case "passed":
                health = passed(health, part, "fine", now_s, POLICY)
            case "failed":
                health = failed(health, part, "no", now_s, POLICY)
            case "silent":
                health = silent(health, part, "silence", now_s, POLICY)
            case "stored":
                health = stored_by_caller(health, caller, accepted, now_s, POLICY)
            case _:
                health = elapsed(health, now_s, POLICY)
        assert health.reason
        if health.verdict is Verdict.UP:
            assert all(state.verdict is Verdict.UP for state in health.parts.values())
        if health.verdict is Verdict.SUSPECT:
            assert health.suspect_since_s is not None
            assert now_s - health.suspect_since_s < POLICY.fail_after_s
        if before.verdict is Verdict.DOWN and health.verdict is not Verdict.DOWN:
            assert health.verdict is Verdict.UP
            assert all(health.parts[each].passed >= POLICY.rise for each in PARTS)
        if before.verdict is Verdict.UP and health.verdict is Verdict.DOWN:
            assert len(before.suspicions) == 3  # only the fourth suspicion leaps
