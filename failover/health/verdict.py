"""What one service of one upstream is worth: up, suspect or down, on two clocks (DESIGN 4.1). Pure.

Facts go in (a probe passed or failed, a silence, a store, time), a new `Health` comes out. `suspect` comes
at once and moves single requests; `down` comes when the service was suspect without a break for
`fail_after`, or suspect for the fourth time within a minute, and moves the route. Each part is judged
alone; outside there is one verdict, and its reason names the part that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from failover.health.rise_fall import (
    PartHealth,
    part_failed,
    part_given_up,
    part_passed,
    part_suspected,
)
from failover.health.stores import (
    StoreRecord,
    caller_stored,
    replicator_stored,
    store_suspicion,
)
from failover.model import Part, Verdict

SUSPICIONS_WITHIN_S: Final = 60.0
SUSPICIONS_MEAN_DOWN: Final = 4
CALM_AGAIN_AFTER_S: Final = 60.0  # of `down`: then the calm rhythm again
_ORDER: Final = (Part.REACH, Part.QUERY, Part.RETRIEVE, Part.STORE)


@dataclass(frozen=True, slots=True)
class VerdictPolicy:
    """When a service is suspect, down, and up again."""

    rise: int = 3
    fall: int = 2
    fail_after_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """All that is believed of one service of one upstream."""

    parts: Mapping[Part, PartHealth]  # the probed ones, and `store`
    verdict: Verdict | None = None  # None: not known yet
    reason: str = "not probed yet"
    suspect_since_s: float | None = None
    suspicions: tuple[float, ...] = ()  # when each of the last minute began
    down_since_s: float | None = None
    doubted: frozenset[Part] = frozenset()  # parts that have to pass before the calm rhythm returns
    stores: StoreRecord = field(default=StoreRecord())

    @property
    def probed(self) -> frozenset[Part]:
        return frozenset(self.parts) - {Part.STORE}


def new_health(probed: frozenset[Part]) -> Health:
    """Return what is believed at the start: nothing. `probed` are the parts that have a probe."""
    parts = {part: PartHealth() for part in _ORDER if part in probed}
    parts[Part.STORE] = PartHealth(Verdict.UP, reason="no store failed")
    return Health(parts=parts, doubted=probed)


# -- facts ------------------------------------------------------------------------------------------


def passed(health: Health, part: Part, reason: str, now_s: float, policy: VerdictPolicy) -> Health:
    """One probe of `part` passed, or a live operation succeeded."""
    if part not in health.probed:
        return health
    health = _with(health, part, part_passed(health.parts[part], rise=policy.rise, reason=reason))
    enough = health.verdict is not Verdict.DOWN or health.parts[part].passed >= policy.rise
    if enough:
        health = replace(health, doubted=health.doubted - {part})
    return _settled(health, now_s, policy)


def failed(health: Health, part: Part, reason: str, now_s: float, policy: VerdictPolicy) -> Health:
    """One probe of `part` failed: in doubt, until all parts have passed."""
    if part not in health.probed:
        return health
    health = _with(health, part, part_failed(health.parts[part], fall=policy.fall, reason=reason))
    return _settled(replace(health, doubted=health.probed), now_s, policy)


def silent(health: Health, part: Part, reason: str, now_s: float, policy: VerdictPolicy) -> Health:
    """Silence or a live failure, and two immediate probes of `part` failed: suspect at once."""
    if part not in health.probed:
        return health
    health = _with(health, part, part_suspected(health.parts[part], reason=reason))
    return _settled(replace(health, doubted=health.probed), now_s, policy)


def live_failure(health: Health, part: Part) -> Health:
    """A live operation failed: it never counts as such, but `part` and `reach` are in doubt."""
    return replace(health, doubted=health.doubted | ({part, Part.REACH} & health.probed))


def stored_by_caller(
    health: Health, caller: str, accepted: bool, now_s: float, policy: VerdictPolicy
) -> Health:
    """A store of a caller ended. `accepted=False` only when the failure does not speak of the object."""
    record = caller_stored(health.stores, caller, accepted, now_s)
    return _store_judged(replace(health, stores=record), accepted, False, now_s, policy)


def stored_by_replicator(
    health: Health, accepted: bool, proven: bool, now_s: float, policy: VerdictPolicy
) -> Health:
    """The replicator sent one object; `proven`: the primary has shown it."""
    record = replicator_stored(health.stores, accepted, proven)
    # Without a proof an acceptance of ours ends no suspicion: it says nothing yet.
    ends = accepted and not record.replicator_failed
    return _store_judged(replace(health, stores=record), ends, proven, now_s, policy)


def nothing_to_prove(health: Health, now_s: float, policy: VerdictPolicy) -> Health:
    """Nothing is owed, so no store can show that `store` works again: believe it."""
    if health.parts[Part.STORE].verdict is not Verdict.DOWN:
        return health
    fine = PartHealth(Verdict.UP, reason="nothing is owed that could prove it")
    return _settled(replace(_with(health, Part.STORE, fine), stores=StoreRecord()), now_s, policy)


def elapsed(health: Health, now_s: float, policy: VerdictPolicy) -> Health:
    """Time passed: a suspicion may have become certainty."""
    return _settled(health, now_s, policy)


def stood_still(health: Health, for_s: float) -> Health:
    """Our own loop stood still for `for_s` seconds: they do not count as suspicion."""
    if health.suspect_since_s is None:
        return health
    return replace(health, suspect_since_s=health.suspect_since_s + for_s)


def in_doubt(health: Health, now_s: float) -> bool:
    """Whether probes go at the fast rhythm.

    After a minute of `down` the calm rhythm again, until the last probe of every part was good.
    """
    if not health.doubted:
        return False
    if health.down_since_s is None or now_s - health.down_since_s < CALM_AGAIN_AFTER_S:
        return True
    return all(health.parts[part].passed > 0 for part in health.probed)


# -- the rule ---------------------------------------------------------------------------------------


def _settled(health: Health, now_s: float, policy: VerdictPolicy) -> Health:
    if health.verdict is Verdict.DOWN:
        return _while_down(health, policy)
    worst = [part for part in _ORDER if part in health.parts and _is(health, part, Verdict.DOWN)]
    if worst:
        return _down(health, worst[0], "", now_s)
    suspect = [part for part in _ORDER if part in health.parts and _is(health, part, Verdict.SUSPECT)]
    if suspect:
        return _while_suspect(health, suspect[0], now_s, policy)
    if any(health.parts[part].verdict is None for part in health.probed):
        # No suspicion is left, and it was never up: as unknown as before.
        return replace(health, verdict=None, reason="not every part was probed yet", suspect_since_s=None)
    return replace(health, verdict=Verdict.UP, reason=_good_sentence(health), suspect_since_s=None)


def _while_suspect(health: Health, part: Part, now_s: float, policy: VerdictPolicy) -> Health:
    since_s = health.suspect_since_s
    if since_s is None:
        recent = tuple(at_s for at_s in health.suspicions if now_s - at_s < SUSPICIONS_WITHIN_S)
        since_s = now_s
        health = replace(health, suspicions=(*recent, now_s), suspect_since_s=now_s)
        if len(health.suspicions) >= SUSPICIONS_MEAN_DOWN:
            return _down(health, part, f"suspect {len(health.suspicions)} times within a minute: ", now_s)
    if now_s - since_s >= policy.fail_after_s:
        return _down(health, part, f"no good answer for {policy.fail_after_s:g} s: ", now_s)
    return replace(health, verdict=Verdict.SUSPECT, reason=f"{part}: {health.parts[part].reason}")


def _down(health: Health, part: Part, why: str, now_s: float) -> Health:
    return replace(
        health,
        verdict=Verdict.DOWN,
        reason=f"{part}: {why}{health.parts[part].reason}",
        parts={name: part_given_up(state) for name, state in health.parts.items()},
        suspect_since_s=None,
        suspicions=(),
        down_since_s=now_s,
        doubted=health.probed,
    )


def _while_down(health: Health, policy: VerdictPolicy) -> Health:
    waiting = [part for part in _ORDER if part in health.probed and health.parts[part].passed < policy.rise]
    if waiting:
        # What failed last is what keeps it down; else the first that has not passed often enough.
        part = next((part for part in waiting if health.parts[part].failed), waiting[0])
        state = health.parts[part]
        why = f"{state.passed} of {policy.rise} good in a row" if state.passed else state.reason
        return replace(health, reason=f"{part}: {why}")
    if _is(health, Part.STORE, Verdict.DOWN):
        return replace(health, reason=f"store: {health.parts[Part.STORE].reason}")
    return replace(
        health, verdict=Verdict.UP, reason=_good_sentence(health), down_since_s=None, doubted=frozenset()
    )


def _store_judged(
    health: Health, accepted: bool, proven: bool, now_s: float, policy: VerdictPolicy
) -> Health:
    state = health.parts[Part.STORE]
    why = store_suspicion(health.stores, now_s)
    if proven or (accepted and state.verdict is not Verdict.DOWN):
        state = PartHealth(Verdict.UP, passed=1, reason="a store was " + ("proven" if proven else "accepted"))
    elif accepted:
        state = replace(state, reason="a store was accepted and is not proven yet")
    elif why is not None:
        state = part_suspected(state, reason=why)
    return _settled(_with(health, Part.STORE, state), now_s, policy)


def _with(health: Health, part: Part, state: PartHealth) -> Health:
    return replace(health, parts={**health.parts, part: state})


def _is(health: Health, part: Part, verdict: Verdict) -> bool:
    return health.parts[part].verdict is verdict


def _good_sentence(health: Health) -> str:
    names = ", ".join(str(part) for part in _ORDER if part in health.probed)
    return f"good: {names}" if names else "nothing to probe"
