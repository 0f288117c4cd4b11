"""Where routing goes from here: step(state, event, now) gives a new state and commands. Pure.

Each event is taken in, then the table of `states` is applied until nothing more happens. Commands stand in
the order in which they must be carried out: Persist, Audit, PublishRoute. Two invariants hold after each
step, whatever came before: reads return by themselves only through FAILING_BACK with the gate open; and no
phase changes by itself in another mode than auto.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from failover.audit.events import EventKind
from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.gate import FLAP_WITHIN_S, awaited, debt_sentence, may_begin
from failover.routing.route import route_of, service_route, whole_phase
from failover.routing.state import (
    AskNumbers,
    Audit,
    Command,
    Decided,
    EndWork,
    Event,
    Now,
    NumbersHeard,
    Persist,
    PublishRoute,
    Seen,
    State,
    TimePassed,
    VerdictHeard,
    Wished,
)
from failover.routing.states import FAILOVERS, TRANSITIONS, Cause, Decision, Intent, Rules
from failover.routing.wishes import check_decision, check_wish

PRIMARY: Final = UpstreamName.PRIMARY
BACKUP: Final = UpstreamName.BACKUP
STORES_HELD_S: Final = 1.0
LAST_STEP_AGAIN_S: Final = 5.0  # after a last step that did not suffice
# Both were away together: the one that is back first must not win before the other had its chance.
COMMON_CAUSE_S: Final = 1.5


def first_state(now: Now) -> State:
    """Return where to begin without a readable state:

    on the primary, unless the first numbers say it is owed.
    """
    return State(
        phases=dict.fromkeys(Service, Phase.ON_PRIMARY),
        since_wall=dict.fromkeys(Service, now.wall),
        blind=True,
    )


def step(state: State, event: Event, now: Now, rules: Rules) -> tuple[State, list[Command]]:
    """Return the state after `event` and what is to be done.

    Raises Refused or Unprocessable: nothing changes.
    """
    new, told = _taken_in(state, event, now, rules)
    new, moved, urgent = _settled(new, event, now, rules)
    alarms, new = _alarms(new, rules)
    new = _last_step(new, now, rules)
    if new is state and not (told or moved or alarms):
        return state, []  # what most ticks come to, ten times a second
    commands: list[Command] = []
    if _worth_keeping(new) != _worth_keeping(state):
        commands.append(Persist(urgent))
    commands += [*told, *moved, *alarms]
    route = route_of(new, rules)
    if route != route_of(state, rules):
        commands.append(PublishRoute(route))
    if new.last_step_since_s is not None and state.last_step_since_s is None:
        commands.append(AskNumbers())
    if any(isinstance(command, Audit) and command.code == "grace_over" for command in told):
        commands.append(EndWork(PRIMARY))
    return new, commands


def _worth_keeping(state: State) -> tuple[object, ...]:
    return (
        state.phases,
        state.intent,
        state.drain_since_s,
        state.grace_over,
        state.failback_decided,
        state.refused_accepted,
        state.vanished_decided,
        state.failovers,
    )


# -- taking in --------------------------------------------------------------------------------------


def _taken_in(state: State, event: Event, now: Now, rules: Rules) -> tuple[State, list[Command]]:
    match event:
        case VerdictHeard():
            return _hear_verdict(state, event, now)
        case Wished():
            check_wish(state, event.wish, rules)
            return _take_intent(state, event, now)
        case Decided():
            check_decision(state, event.decision, event.reason, rules, now.s)
            return _take_decision(state, event)
        case NumbersHeard():
            return _take_numbers(state, event, now), []
        case TimePassed():
            return _take_time(state, event, now)


def _hear_verdict(state: State, heard: VerdictHeard, now: Now) -> tuple[State, list[Command]]:
    key = (heard.upstream, heard.service)
    before = state.seen.get(key, Seen(None, now.s, ""))
    if before.verdict is heard.verdict:
        return replace(state, seen={**state.seen, key: replace(before, reason=heard.reason)}), []
    returned = heard.verdict is Verdict.UP and before.verdict is not None
    seen = Seen(heard.verdict, now.s, heard.reason, now.s if returned else before.returned_s)
    state = replace(state, seen={**state.seen, key: seen})
    if before.verdict is None and heard.verdict is Verdict.UP:
        return state, []  # the start of an ordinary day
    told = Audit(
        EventKind.VERDICT,
        f"{heard.upstream}_{heard.verdict or 'unknown'}",
        heard.reason,
        heard.service,
        before.verdict,
        heard.verdict,
    )
    return state, [told]


def _take_intent(state: State, event: Wished, now: Now) -> tuple[State, list[Command]]:
    wish = event.wish
    upstream = BACKUP if wish.mode is Mode.DRAIN else wish.upstream
    intent = Intent(
        mode=wish.mode,
        upstream=PRIMARY if wish.mode is Mode.DRAIN else upstream,
        reason=wish.reason or None,
        actor=event.actor,
        until=now.wall + timedelta(seconds=wish.for_s) if wish.for_s is not None else None,
        keep_replicating=wish.keep_replicating,
        grace_s=wish.grace_s,
    )
    told = Audit(
        EventKind.INTENT,
        _intent_code(intent),
        wish.reason or "the decision is handed back",
        from_=_intent_code(state.intent),
        to=_intent_code(intent),
        actor=event.actor,
    )
    return replace(
        state,
        intent=intent,
        intent_until_s=now.s + wish.for_s if wish.for_s is not None else None,
        drain_since_s=now.s if wish.mode is Mode.DRAIN else None,
        grace_over=False,
        alarmed=frozenset(),
    ), [told]


def _take_numbers(state: State, event: NumbersHeard, now: Now) -> State:
    numbers = event.numbers
    state = replace(state, numbers=numbers, numbers_at_s=event.asked_s)
    if numbers is not None and numbers.recheck_done is not None and not numbers.wants_decision:
        state = replace(state, vanished_decided=None)  # carried out; the next one wants a decision of its own
    if numbers is None or numbers.refused is None:
        return state
    # Accepted were so many; when fewer are left, a new one is not covered by the old decision.
    accepted = min(state.refused_accepted, numbers.refused)
    since_s = state.refused_since_s if state.refused_since_s is not None else now.s
    return replace(
        state,
        refused_accepted=accepted,
        refused_since_s=since_s if numbers.refused > accepted else None,
    )


def _take_decision(state: State, event: Decided) -> tuple[State, list[Command]]:
    told = Audit(EventKind.DECISION, f"decided_{event.decision}", event.reason, actor=event.actor)
    if event.decision is Decision.FAILBACK:
        return replace(state, failback_decided=True), [told]
    if event.decision in (Decision.VANISHED_OWED, Decision.VANISHED_DELETED):
        return replace(state, vanished_decided=event.decision), [told]
    if event.decision is Decision.CLOCK_RIGHT:
        return state, [told]  # the archive has been told: routing does not change by it
    refused = 0 if state.numbers is None else state.numbers.refused or 0
    return replace(state, refused_accepted=refused, refused_since_s=None), [told]


def _take_time(state: State, event: TimePassed, now: Now) -> tuple[State, list[Command]]:
    told: list[Command] = []
    if event.stored_on_backup_ago_s != state.stored_on_backup_ago_s:
        state = replace(state, stored_on_backup_ago_s=event.stored_on_backup_ago_s)
    if state.intent_until_s is not None and now.s >= state.intent_until_s:
        before = _intent_code(state.intent)
        state = replace(
            state,
            intent=Intent(),
            intent_until_s=None,
            drain_since_s=None,
            grace_over=False,
            alarmed=frozenset(),
        )
        told.append(
            Audit(
                EventKind.INTENT, "intent_ended", "the time given with --for is over", from_=before, to="auto"
            )
        )
    since_s = state.drain_since_s
    if since_s is not None and event.work_on_primary == 0:
        why = "no request and no association is at the primary any more: it can be serviced"
        told.append(Audit(EventKind.DRAIN, "drained", why))
        state = replace(state, drain_since_s=None)
    elif since_s is not None and now.s - since_s >= state.intent.grace_s:
        left = event.work_on_primary
        why = f"the grace of {state.intent.grace_s:g} s is over; {left} at the primary are ended"
        told.append(Audit(EventKind.DRAIN, "grace_over", why))
        state = replace(state, drain_since_s=None, grace_over=True)
    return state, told


def _intent_code(intent: Intent) -> str:
    if intent.mode is Mode.FORCED:
        return f"forced_{intent.upstream}"
    return str(intent.mode)


# -- the table --------------------------------------------------------------------------------------


def _settled(state: State, event: Event, now: Now, rules: Rules) -> tuple[State, list[Command], bool]:
    """Apply edges until none is left. Returns the audits of what moved, and whether the primary is dead."""
    told: list[Command] = []
    urgent = False
    actor = event.actor if isinstance(event, Wished | Decided) else None
    moves = {s: cause for s in rules.moving if (cause := _cause(state, s, event, now, rules)) is not None}
    for service, cause in moves.items():
        before = state.phases[service]
        edge = TRANSITIONS[before, cause]
        reason = edge.sentence
        if cause in FAILOVERS:
            urgent = True
            recent = tuple(at_s for at_s in state.failovers.get(service, ()) if now.s - at_s <= FLAP_WITHIN_S)
            state = replace(
                state, failovers={**state.failovers, service: (*recent, now.s)}, failback_decided=False
            )
            reason = f"{edge.sentence} ({_why_down(state, service, cause)})"
        told.append(Audit(EventKind.TRANSITION, edge.code, reason, service, before, edge.to, actor))
        state = replace(
            state,
            phases={**state.phases, service: edge.to},
            since_wall={**state.since_wall, service: now.wall},
        )
    if moves:
        state = replace(state, last_step_since_s=None)
    if state.blind and (state.numbers is not None and state.numbers.lag_objects is not None):
        state = replace(state, blind=False)
    if state.failback_decided and whole_phase(state, rules) is Phase.ON_PRIMARY:
        state = replace(state, failback_decided=False)
    return state, told, urgent


def _cause(state: State, service: Service, event: Event, now: Now, rules: Rules) -> Cause | None:
    phase, forced = state.phases[service], state.intent.forced
    if forced is PRIMARY:
        return Cause.FORCED_PRIMARY if phase is not Phase.ON_PRIMARY else None
    if forced is BACKUP:
        if phase is Phase.ON_BACKUP:
            return None
        return Cause.DRAINED if state.intent.mode is Mode.DRAIN else Cause.FORCED_BACKUP
    if state.intent.mode is Mode.PAUSED:
        return None
    if state.blind and phase is Phase.ON_PRIMARY and state.numbers and state.numbers.lag_objects:
        return Cause.STARTED_OWING
    if phase is Phase.ON_BACKUP:
        if not may_begin(state, rules, service, now.s):
            return None
        if rules.failback_auto:
            return Cause.HOLD_DOWN_OVER
        return Cause.FAILBACK_DECIDED if state.failback_decided else None
    if _primary_lost(state, service, now):
        return Cause.PRIMARY_DOWN
    if (
        rules.together
        and _all_backups_up(state, rules)
        and any(_primary_lost(state, other, now) for other in rules.moving if other is not service)
    ):
        return Cause.SISTER_DOWN
    if phase is Phase.FAILING_BACK and _last_step_done(state, event, rules, now):
        return Cause.NOTHING_OWED
    return None


def _primary_lost(state: State, service: Service, now: Now) -> bool:
    """The primary is down and the backup up; not when both were away together and came back just now."""
    primary, backup = state.seen.get((PRIMARY, service)), state.seen.get((BACKUP, service))
    if primary is None or primary.verdict is not Verdict.DOWN:
        return False
    if backup is None or backup.verdict is not Verdict.UP:
        return False
    together = backup.returned_s is not None and backup.returned_s >= primary.since_s
    return not together or now.s - backup.since_s >= COMMON_CAUSE_S


def _all_backups_up(state: State, rules: Rules) -> bool:
    return all(state.verdict(BACKUP, service) is Verdict.UP for service in rules.moving)


def _why_down(state: State, service: Service, cause: Cause) -> str:
    other = Service.DICOM if service is Service.WEB else Service.WEB
    seen = state.seen[PRIMARY, other if cause is Cause.SISTER_DOWN else service]
    return seen.reason


# -- the last step of failback ----------------------------------------------------------------------


def _gate_open(state: State, rules: Rules, now: Now) -> bool:
    if state.intent.mode is not Mode.AUTO:
        return False
    services = awaited(rules, _returning(state, rules))
    up = all(state.verdict(PRIMARY, service) is Verdict.UP for service in services)
    return up and debt_sentence(state, rules, now.s) is None


def _returning(state: State, rules: Rules) -> list[Service]:
    return [service for service in rules.moving if state.phases[service] is Phase.FAILING_BACK]


def _last_step(state: State, now: Now, rules: Rules) -> State:
    """Begin to hold stores when the gate is open; let them go on after 1 s, and try again later."""
    since_s = state.last_step_since_s
    if not _returning(state, rules):
        return state if since_s is None else replace(state, last_step_since_s=None)
    if since_s is None:
        if now.s >= state.last_step_again_s and _gate_open(state, rules, now):
            return replace(state, last_step_since_s=now.s)
        return state
    if now.s - since_s >= STORES_HELD_S or not _gate_open(state, rules, now):
        return replace(state, last_step_since_s=None, last_step_again_s=now.s + LAST_STEP_AGAIN_S)
    return state


def _last_step_done(state: State, event: Event, rules: Rules, now: Now) -> bool:
    """Stores are held, none is under way to the backup, and numbers asked for since then say:

    nothing owed.
    """
    since_s, numbers_at_s = state.last_step_since_s, state.numbers_at_s
    if since_s is None or numbers_at_s is None or numbers_at_s < since_s:
        return False
    if not isinstance(event, TimePassed) or event.stores_on_backup or now.s - since_s >= STORES_HELD_S:
        return False
    ago_s = state.stored_on_backup_ago_s
    unseen = (
        ago_s is not None and now.s - ago_s >= numbers_at_s
    )  # acknowledged after the numbers were asked for
    return not unseen and _gate_open(state, rules, now)


# -- alarms -----------------------------------------------------------------------------------------


def _alarms(state: State, rules: Rules) -> tuple[list[Command], State]:
    """Tell once when the one that should serve is down and nothing moves."""
    found = [(service, *alarm) for service in Service if (alarm := _alarm(state, rules, service)) is not None]
    told: list[Command] = [
        Audit(EventKind.ALARM, code, why, service)
        for service, code, why in found
        if (service, code) not in state.alarmed
    ]
    alarmed = frozenset((service, code) for service, code, _ in found)
    return told, state if alarmed == state.alarmed else replace(state, alarmed=alarmed)


def _alarm(state: State, rules: Rules, service: Service) -> tuple[str, str] | None:
    """Return code and sentence when the upstream that answers reads is down and stays."""
    if all((name, service) not in rules.exists for name in UpstreamName):
        return None
    reads = service_route(state, rules, service).reads
    if state.verdict(reads, service) is not Verdict.DOWN:
        return None
    if state.intent.forced is reads:
        return "forced_upstream_down", f"the {reads} is down and forced: nothing moves"
    if service not in rules.moving:
        return "only_upstream_down", f"the {reads} is down and the only one with {service}"
    if state.verdict(reads.other, service) is Verdict.DOWN:
        return "both_down", "both upstreams are down: each request is offered to both in turn"
    if reads is BACKUP:
        return "backup_down", "the backup is down while it serves: what the primary can give comes from there"
    if state.intent.mode is Mode.PAUSED:
        return "paused_primary_down", "the primary is down and the mode is paused: nothing moves"
    return None
