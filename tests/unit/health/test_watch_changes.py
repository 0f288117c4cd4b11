"""A watch that goes by another rhythm and other limits from one moment on."""

from __future__ import annotations

from failover.health.plan import PlannedProbe
from failover.health.verdict import VerdictPolicy
from failover.model import Service, UpstreamName, Verdict
from tests.unit.health.test_watch import REACH, Watched, watched


def change(w: Watched, *, interval_s: float = 1.0, policy: VerdictPolicy | None = None) -> None:
    plan = PlannedProbe(UpstreamName.PRIMARY, Service.WEB, REACH, "HEAD /", interval_s, 0.4)
    w.watch.change({REACH: plan}, policy or VerdictPolicy(), fast_interval_s=0.2)


async def test_the_rhythm_changes_at_once_and_what_is_known_stays() -> None:
    async with watched() as w:
        change(w, interval_s=0.5)
        assert w.verdict is Verdict.UP
        before = len(w.reach.asked_at_s)
        await w.passes(10.0)
        assert 19 <= len(w.reach.asked_at_s) - before <= 21
        assert w.verdicts() == ["None", "up"]


async def test_down_by_the_new_limit() -> None:
    async with watched() as w:
        change(w, policy=VerdictPolicy(fail_after_s=20.0))
        w.reach.unreachable = True
        await w.passes(15.0)
        assert w.verdict is Verdict.SUSPECT
        change(w, policy=VerdictPolicy(fail_after_s=5.0))
        await w.passes(0.5)
        assert w.verdict is Verdict.DOWN
