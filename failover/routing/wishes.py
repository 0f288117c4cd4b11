"""What an operator may ask for, and the sentences of a dry run. Pure.

Raises Unprocessable for what makes no sense, Refused for what would do harm now; nothing is changed then.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from failover.audit.events import EventKind
from failover.errors import Refused, Unprocessable
from failover.model import Mode, Phase, UpstreamName, Verdict
from failover.routing.gate import gate, live_numbers
from failover.routing.state import Audit, Command, Now, State
from failover.routing.states import Decision, Intent, Rules, Wish
from failover.routing.troubles import CLOCK_DOUBTED

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP


def check_wish(state: State, wish: Wish, rules: Rules) -> None:
    """Raise when `wish` cannot be granted."""
    if wish.mode is not Mode.AUTO and not wish.reason.strip():
        raise Unprocessable("a reason must be given: it is what others find in the audit trail")
    if wish.mode is Mode.FORCED and wish.upstream is None:
        raise Unprocessable("forced needs an upstream: primary or backup")
    if wish.mode is Mode.DRAIN and wish.upstream is BACKUP:
        raise Unprocessable("only the primary can be drained; `force primary` takes work off the backup")
    if wish.mode in (Mode.AUTO, Mode.PAUSED) and wish.upstream is not None:
        raise Unprocessable(f"{wish.mode} takes no upstream")
    if wish.for_s is not None and (wish.mode is Mode.AUTO or not wish.for_s > 0):
        raise Unprocessable("a duration must be positive, and auto has no end")
    if wish.grace_s < 0:
        raise Unprocessable("the grace cannot be negative")
    target = target_of(wish)
    if wish.keep_replicating and target is not BACKUP:
        raise Unprocessable(
            "keep_replicating belongs to drain and to the forced backup: else it goes on anyway"
        )
    if target is None or wish.even_if_down:
        return
    for service in rules.moving:
        seen = state.seen.get((target, service))
        if seen is not None and seen.verdict is Verdict.DOWN:
            raise Refused(f"{service} of the {target} is down ({seen.reason}); --even-if-down does it anyway")


def check_decision(state: State, decision: Decision, reason: str, rules: Rules, now_s: float) -> None:
    """Raise when there is nothing to decide."""
    if not reason.strip():
        raise Unprocessable("a reason must be given: it is what others find in the audit trail")
    if decision is Decision.FAILBACK:
        if rules.failback_auto:
            raise Refused("failback is automatic (policy.failback): there is nothing to decide")
        if all(state.phases[service] is not Phase.ON_BACKUP for service in rules.moving):
            raise Refused("nothing is on the backup: there is no way back to begin")
        if state.intent.mode is not Mode.AUTO:
            raise Refused(f"the mode is {state.intent.mode}: `failover auto` comes first")
        return
    if decision is Decision.REFUSED:
        numbers = live_numbers(state, now_s)
        if numbers is None or numbers.refused is None:
            raise Refused("how many objects are refused is not known: archive or replicator do not answer")
        if numbers.refused <= state.refused_accepted:
            raise Refused("no object is refused that was not accepted already")
        return
    numbers = live_numbers(state, now_s)
    if decision is Decision.CLOCK_RIGHT:
        if numbers is None or CLOCK_DOUBTED not in numbers.troubles:
            raise Refused("the archive does not doubt its clock: there is nothing to decide")
        return
    if numbers is None or numbers.recheck_done is None:
        raise Refused("whether anything vanished is not known: archive or replicator do not answer")
    if not numbers.wants_decision:
        raise Refused("nothing has vanished from the primary that would wait for a decision")


def decidable(state: State, rules: Rules, now_s: float) -> list[Decision]:
    """Return the decisions that mean something now."""
    found = []
    for decision in Decision:
        with suppress(Refused):
            check_decision(state, decision, "is it possible?", rules, now_s)
            found.append(decision)
    return found


def target_of(wish: Wish) -> UpstreamName | None:
    """Who alone would serve, None when health decides."""
    if wish.mode is Mode.DRAIN:
        return BACKUP
    return wish.upstream if wish.mode is Mode.FORCED else None


def would(
    state: State,
    wish: Wish,
    commands: list[Command],
    rules: Rules,
    now: Now,
    work_on_primary: int,
) -> list[str]:
    """Return what `wish` would do, as sentences. `commands` are those of its step."""
    lines = [_first_line(wish)]
    moves = [c for c in commands if isinstance(c, Audit) and c.kind is EventKind.TRANSITION]
    lines += [f"{move.service}: {move.from_} -> {move.to}: {move.reason}" for move in moves]
    if not moves:
        lines.append("no service changes its phase now")
    target = target_of(wish)
    lines += _debt_lines(state, wish, now)
    if target is BACKUP:
        lines += _untouched_lines(wish, work_on_primary)
    if target is not None:
        lines += [
            f"{service} of the {target} is {state.verdict(target, service) or 'not known yet'}"
            for service in rules.moving
            if state.verdict(target, service) is not Verdict.UP
        ]
        lines.append(f"if the {target} fails meanwhile there is an alarm, and nothing moves")
    if wish.mode is Mode.PAUSED:
        lines.append("no phase changes by itself until auto; single requests are still rescued")
    if wish.mode is Mode.AUTO:
        lines.append(f"the way back: {gate(replace(state, intent=Intent()), rules, now.s).reason}")
    if wish.for_s is not None:
        lines.append(f"after {_span(wish.for_s)} the mode is auto again, with the usual gate")
    return lines


def would_decide(state: State, decision: Decision, rules: Rules, now: Now) -> list[str]:
    """Return what `decision` would do, as sentences."""
    if decision is Decision.FAILBACK:
        return ["the gated way back begins", f"the way back: {gate(state, rules, now.s).reason}"]
    if decision in (Decision.VANISHED_OWED, Decision.VANISHED_DELETED):
        vanished = 0 if state.numbers is None else state.numbers.vanished or 0
        subject = "1 study that vanished" if vanished == 1 else f"{vanished} studies that vanished"
        if decision is Decision.VANISHED_OWED:
            return [f"{subject} from the primary: what is held of it becomes debt and is sent again"]
        return [f"{subject} from the primary: hidden in the archive, and never sent back"]
    if decision is Decision.CLOCK_RIGHT:
        return ["the archive believes its clock: what is older than archive.retention.days by it goes"]
    refused = 0 if state.numbers is None else state.numbers.refused or 0
    subject = (
        "1 refused object no longer holds" if refused == 1 else f"{refused} refused objects no longer hold"
    )
    return [f"{subject} up failback; they stay in the archive, listed, and are never evicted"]


def _first_line(wish: Wish) -> str:
    match wish.mode:
        case Mode.AUTO:
            return "the mode becomes auto: health decides again"
        case Mode.PAUSED:
            return "the mode becomes paused"
        case Mode.DRAIN:
            return f"the primary gets no new work; what is under way may end within {_span(wish.grace_s)}"
        case Mode.FORCED:
            return f"the mode becomes forced: the {wish.upstream} serves, whatever the health"


def _debt_lines(state: State, wish: Wish, now: Now) -> list[str]:
    if target_of(wish) is None:
        return []
    numbers = live_numbers(state, now.s)
    if numbers is None or numbers.lag_objects is None:
        owed = "how many objects are owed to the primary is not known"
    elif numbers.lag_objects == 1:
        owed = "1 object is owed to the primary"
    else:
        owed = f"{numbers.lag_objects} objects are owed to the primary"
    if target_of(wish) is PRIMARY:
        missing = (
            "" if numbers is not None and numbers.lag_objects == 0 else "; until then the primary lacks them"
        )
        return [f"{owed}; the debt goes on being paid{missing}"]
    paid = "goes on being paid" if wish.keep_replicating else "is not paid until auto"
    return [f"{owed}; the debt {paid}"]


def _untouched_lines(wish: Wish, work_on_primary: int) -> list[str]:
    lines = []
    if work_on_primary:
        lines.append(f"{work_on_primary} requests and associations are at the primary now")
    if wish.keep_replicating:
        lines.append("replication goes on; no caller and no rescue touches the primary until auto")
    else:
        lines.append("no caller, no rescue and no replication touches the primary until auto: probes only")
    return lines


def _span(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:g} s"
