"""When the way back may begin, and when reads may return: hold-down and gate, each with its sentence.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.state import State
from failover.routing.states import Numbers, Rules

FLAP_WITHIN_S: Final = 3600.0
LONGEST_HOLD_DOWN_S: Final = 1800.0
NUMBERS_LIVE_S: Final = 5.0  # reported longer ago, they are unknown
FRESH_S: Final = 10.0
BY_HAND: Final = (
    "waiting for you: the backup is none of ours, and nobody knows what it took that the primary lacks; bring"
    " that over, then `failover force primary --reason …` and `failover auto`"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether reads may return now, why not, and how long the hold-down still lasts."""

    allowed: bool
    reason: str
    hold_down_left_s: float


def gate(state: State, rules: Rules, now_s: float) -> Gate:
    """Return what `failback` of the status says."""
    left_s = max(
        (hold_down_left_s(state, rules, s, now_s) for s in rules.moving if backed_up(state, s)), default=0.0
    )
    closed = _closed(state, rules, now_s, left_s)
    if closed is not None:
        return Gate(False, closed, left_s)
    return Gate(True, "open: the primary is up and nothing is owed", left_s)


def _closed(state: State, rules: Rules, now_s: float, left_s: float) -> str | None:
    if not rules.moving:
        return "no service has both a primary and a backup"
    away = [service for service in rules.moving if state.phases[service] is not Phase.ON_PRIMARY]
    if away and state.intent.mode is not Mode.AUTO:
        return f"the mode is {state.intent.mode}: nothing returns by itself"
    for service in awaited(rules, away):
        verdict = state.verdict(UpstreamName.PRIMARY, service)
        if verdict is not Verdict.UP:
            return f"waiting: {service} of the primary is {verdict or 'not known yet'}"
    if any(backed_up(state, service) for service in away):
        if left_s > 0:
            return f"waiting: the primary must stay up for another {left_s:.0f} s"
        if not rules.failback_auto and not state.failback_decided:
            return "waiting: failback is manual; `failover decide failback` begins it"
    return debt_sentence(state, rules, now_s)


def awaited(rules: Rules, returning: Sequence[Service]) -> Sequence[Service]:
    """Return the services of the primary that must be up for these to return: with policy.together all."""
    return rules.moving if rules.together or not returning else returning


def debt_sentence(state: State, rules: Rules, now_s: float) -> str | None:
    """Return what of the debt keeps reads on the backup; None when nothing does."""
    numbers = live_numbers(state, now_s)
    if numbers is None or numbers.lag_objects is None:
        if not rules.keeps_ledger:
            return BY_HAND
        return "waiting: how many objects are owed to the primary is not known"
    recheck = _recheck_sentence(state, numbers)
    if recheck is not None:
        return recheck
    if numbers.lag_objects > 0:
        # What came straight to the archive's port just now does not count, or the gate never opened while
        # modalities store day and night; what we ourselves put there is awaited.
        older = numbers.owed_older_than_10_s
        if older is None or older > 0:
            return f"waiting: {_objects(numbers.lag_objects)} not proven on the primary"
        ago_s = state.stored_on_backup_ago_s
        if ago_s is not None and ago_s <= FRESH_S:
            return f"waiting: {_objects(numbers.lag_objects)} owed, stored through the router just now"
    refused = (numbers.refused or 0) - state.refused_accepted
    if refused > 0 and state.refused_since_s is not None:
        left_s = state.refused_since_s + rules.refused_hold_s - now_s
        if left_s > 0:
            return (
                f"waiting: {_refused_words(refused, numbers.lost or 0)};"
                f" `failover decide refused` accepts it, else it is awaited for another {left_s / 60:.0f} min"
            )
    return None


def _refused_words(refused: int, lost: int) -> str:
    """`refused` objects wait to be accepted; of those, `lost` were lost here."""
    gone = min(lost, refused)
    words = [f"{_objects(refused - gone)} refused by the primary for good"] if refused > gone else []
    return " and ".join([*words, *([f"{_objects(gone)} lost in the archive"] if gone else [])])


def _recheck_sentence(state: State, numbers: Numbers) -> str | None:
    """Return what of the recheck keeps reads on the backup; None when it is done."""
    if numbers.recheck_done is None:
        return "waiting: whether the recheck is done is not known, the replicator does not answer"
    if numbers.wants_decision:
        vanished = numbers.vanished or 0
        studies = "1 study" if vanished == 1 else f"{vanished} studies"
        if state.vanished_decided is not None:
            return f"waiting: the replicator carries out what was decided on {studies} that vanished"
        return (
            f"waiting: {studies} vanished from the primary; `failover decide vanished-owed` makes them debt,"
            " `failover decide vanished-deleted` says that they were deleted there"
        )
    if not numbers.recheck_done:
        return "waiting: the recheck of the last days' objects is not done"
    return None


def live_numbers(state: State, now_s: float) -> Numbers | None:
    """The numbers of replication, None when nobody has reported them for 5 s."""
    if state.numbers_at_s is None or now_s - state.numbers_at_s > NUMBERS_LIVE_S:
        return None
    return state.numbers


def hold_down_s(state: State, rules: Rules, service: Service, now_s: float) -> float:
    """How long the primary must be up: doubled at each failover within an hour, at most 30 min."""
    recent = sum(now_s - at_s <= FLAP_WITHIN_S for at_s in state.failovers.get(service, ()))
    doubled = rules.hold_down_s * 2.0 ** min(max(recent - 1, 0), 20)
    return max(rules.hold_down_s, min(doubled, LONGEST_HOLD_DOWN_S))


def hold_down_left_s(state: State, rules: Rules, service: Service, now_s: float) -> float:
    """How long the primary must still be up without a suspicion before this service begins its way back."""
    together = awaited(rules, [service])
    needed_s = max(hold_down_s(state, rules, each, now_s) for each in together)
    left_s = 0.0
    for each in together:
        seen = state.seen.get((UpstreamName.PRIMARY, each))
        up_s = now_s - seen.since_s if seen is not None and seen.verdict is Verdict.UP else 0.0
        left_s = max(left_s, needed_s - up_s)
    return left_s


def may_begin(state: State, rules: Rules, service: Service, now_s: float) -> bool:
    """Whether the hold-down of `service` is over, and with policy.together that of the others."""
    together = awaited(rules, [service])
    up = all(state.verdict(UpstreamName.PRIMARY, each) is Verdict.UP for each in together)
    return up and hold_down_left_s(state, rules, service, now_s) <= 0


def backed_up(state: State, service: Service) -> bool:
    """Whether this service is in backup mode and has not begun its way back."""
    return state.phases[service] is Phase.ON_BACKUP


def _objects(count: int) -> str:
    return "1 object is" if count == 1 else f"{count} objects are"
