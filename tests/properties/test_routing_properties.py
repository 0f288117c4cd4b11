"""What must hold of routing whatever happens, in whatever order."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from failover.audit.events import EventKind
from failover.model import Mode, Phase, Service, UpstreamName, Verdict
from failover.routing.gate import LONGEST_HOLD_DOWN_S, hold_down_s
from failover.routing.selection import Kind, choose
from failover.routing.state import Audit
from failover.routing.states import Decision, Numbers, Rules, Wish
from failover.routing.store import restored, saved
from tests.scenarios.simulation import EVERYTHING, Simulation

PRIMARY, BACKUP = UpstreamName.PRIMARY, UpstreamName.BACKUP
KEYS = sorted(EVERYTHING)

verdicts = st.tuples(st.just("hear"), st.sampled_from(KEYS), st.sampled_from(Verdict))
times = st.tuples(st.just("pass"), st.sampled_from([0.1, 0.5, 2.0, 11.0, 70.0]))
debts = st.tuples(
    st.just("owed"),
    st.one_of(
        st.none(),
        st.builds(
            Numbers,
            lag_objects=st.sampled_from([None, 0, 1, 50]),
            owed_older_than_10_s=st.sampled_from([None, 0, 1]),
            refused=st.sampled_from([None, 0, 2]),
        ),
    ),
)
wishes = st.tuples(
    st.just("wish"),
    st.builds(
        Wish,
        mode=st.sampled_from(Mode),
        upstream=st.sampled_from([None, PRIMARY, BACKUP]),
        reason=st.sampled_from(["", "because"]),
        for_s=st.sampled_from([None, 5.0]),
        even_if_down=st.booleans(),
        keep_replicating=st.booleans(),
    ),
)
others = st.sampled_from(
    [("decide", Decision.FAILBACK), ("decide", Decision.REFUSED), ("store",), ("restart",), ("under way", 1),
     ("under way", 0)]
)  # fmt: skip
stories = st.lists(st.one_of(verdicts, times, debts, wishes, others), max_size=40)
unattended = st.lists(st.one_of(verdicts, times, debts), max_size=40)
rules = st.builds(
    Rules,
    exists=st.sampled_from([EVERYTHING, EVERYTHING - {(PRIMARY, Service.DICOM)}]),
    failback_auto=st.booleans(),
    hold_down_s=st.sampled_from([0.0, 10.0, 60.0]),
    together=st.booleans(),
)


def carry_out(router: Simulation, event: tuple[object, ...]) -> None:
    match event:
        case ("hear", (UpstreamName() as name, Service() as service), Verdict() as verdict):
            router.hear(name, service, verdict)
        case ("pass", float(seconds)):
            router.passes(seconds)
        case ("owed", numbers):
            router.report(numbers)  # type: ignore[arg-type]
        case ("wish", Wish() as wish):
            router.wish(wish)
        case ("decide", Decision() as decision):
            router.decide(decision)
        case ("store",):
            router.store_on_backup()
        case ("under way", int(count)):
            router.stores_on_backup = count
        case ("restart",):
            router.restart()
        case _:
            raise AssertionError(event)


@settings(max_examples=150, deadline=None)
@given(rules, stories)
def test_never_back_on_the_primary_by_itself_while_something_is_owed(
    rules: Rules, story: list[tuple[object, ...]]
) -> None:
    router = Simulation(rules)
    router.report(Numbers(lag_objects=0, refused=0))
    for event in story:
        router.told = []
        carry_out(router, event)
        for entry in router.told:
            if entry.kind is EventKind.TRANSITION and entry.to == Phase.ON_PRIMARY:
                assert entry.code in ("debt_paid", "forced_primary")
                if entry.code == "debt_paid":
                    numbers = router.numbers
                    assert numbers is not None
                    assert numbers.lag_objects == 0 or numbers.owed_older_than_10_s == 0
                    assert entry.from_ == Phase.FAILING_BACK


@settings(max_examples=150, deadline=None)
@given(rules, stories)
def test_there_is_always_an_answer_while_one_upstream_is_up(
    rules: Rules, story: list[tuple[object, ...]]
) -> None:
    router = Simulation(rules)
    for event in story:
        carry_out(router, event)
        for service in Service:
            here = [name for name in UpstreamName if (name, service) in rules.exists]
            up = [name for name in here if router.state.verdict(name, service) is Verdict.UP]
            for kind in Kind:
                choice = choose(router.published, service, kind)
                assert choice.reason
                assert choice.first is not None
                assert choice.rescue is not choice.first
                if router.published.primary_untouched:
                    assert (choice.first, choice.rescue) == (BACKUP, None)
                elif up:
                    assert choice.first in up or choice.rescue in up
                    if kind is not Kind.OTHER and len(here) == 2:
                        # Not known yet is worth a try; what is known to be bad is left alone.
                        assert router.state.verdict(choice.first, service) in (Verdict.UP, None)


@settings(max_examples=100, deadline=None)
@given(
    rules, unattended, st.sampled_from([Mode.FORCED, Mode.DRAIN, Mode.PAUSED]), st.sampled_from(UpstreamName)
)
def test_no_phase_moves_against_the_intent(
    rules: Rules, story: list[tuple[object, ...]], mode: Mode, upstream: UpstreamName
) -> None:
    router = Simulation(rules)
    target = upstream if mode is Mode.FORCED else None
    assert router.wish(Wish(mode, target, "because", even_if_down=True)) is None
    before = router.state.phases
    for event in story:
        carry_out(router, event)
        assert router.state.phases == before


@settings(max_examples=150, deadline=None)
@given(rules, stories)
def test_a_restart_forgets_no_intent_and_no_phase(rules: Rules, story: list[tuple[object, ...]]) -> None:
    router = Simulation(rules)
    for event in story:
        carry_out(router, event)
    content = json.loads(json.dumps(saved(router.state, router.now)))
    again = restored(content, router.now)
    assert again.phases == router.state.phases
    intent = router.state.intent
    assert (again.intent.mode, again.intent.upstream, again.intent.reason) == (
        intent.mode, intent.upstream, intent.reason,
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(rules, stories)
def test_both_down_moves_nothing(rules: Rules, story: list[tuple[object, ...]]) -> None:
    router = Simulation(rules)
    for event in story:
        carry_out(router, event)
    router.wish(Wish(Mode.AUTO))
    router.hear_all(Verdict.DOWN, BACKUP)
    before = router.state.phases
    router.hear_all(Verdict.DOWN, PRIMARY)
    router.passes(30.0)
    assert router.state.phases == before


@settings(max_examples=100, deadline=None)
@given(rules, stories)
def test_the_hold_down_grows_and_has_an_end_and_stores_are_held_at_most_a_second(
    rules: Rules, story: list[tuple[object, ...]]
) -> None:
    router = Simulation(rules)
    for event in story:
        carry_out(router, event)
        for service in Service:
            held_s = hold_down_s(router.state, rules, service, router.at_s)
            assert rules.hold_down_s <= held_s <= max(rules.hold_down_s, LONGEST_HOLD_DOWN_S)
        since_s = router.state.last_step_since_s
        assert since_s is None or router.at_s - since_s < 1.0
        assert router.published.hold_stores is (since_s is not None)


@settings(max_examples=100, deadline=None)
@given(rules, stories)
def test_what_is_published_is_what_is_decided_and_every_entry_has_a_sentence(
    rules: Rules, story: list[tuple[object, ...]]
) -> None:
    router = Simulation(rules)
    for event in story:
        carry_out(router, event)
        published = router.published.services
        for service in rules.moving:
            assert published[service].phase is router.state.phases[service]
    for entry in router.told:
        assert isinstance(entry, Audit)
        assert entry.code
        assert entry.reason
