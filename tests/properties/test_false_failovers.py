"""Less than one false failover a quarter (DESIGN 4.1): ninety days of short pauses move nothing.

The rule of verdicts and the routing machine, without sockets: each pause of the primary is what the watch
would tell of it. Callers notice it after 150 ms, two immediate probes of 120 ms fail, then a probe fails each
200 ms, until the first one that is asked after the pause.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from failover.health.verdict import Health, VerdictPolicy, elapsed, failed, new_health, passed, silent
from failover.model import Part, Service, UpstreamName, Verdict
from tests.scenarios.simulation import Simulation

DAY_S = 86400.0
QUARTER_S = 90 * DAY_S
SILENCE_S, AT_ONCE_S, FAST_S, CALM_S = 0.150, 0.120, 0.200, 1.0
PARTS = frozenset({Part.REACH, Part.QUERY, Part.RETRIEVE})


def pauses(rng: random.Random, a_day: float, longest_s: float) -> Iterator[tuple[float, float]]:
    """When pauses begin and how long they last: most are short, some as long as `longest_s`."""
    at_s = 0.0
    while (at_s := at_s + rng.expovariate(a_day / DAY_S)) < QUARTER_S:
        length_s = min(longest_s, rng.paretovariate(1.0) * 0.3)
        yield at_s, length_s
        at_s += length_s + CALM_S


def facts(
    rng: random.Random, began_s: float, length_s: float, health: Health, policy: VerdictPolicy
) -> Iterator[Health]:
    """What the watch tells of one pause, health by health."""
    ends_s = began_s + length_s
    now_s = began_s + SILENCE_S + 2 * AT_ONCE_S
    if now_s < ends_s:
        health = silent(health, Part.REACH, "silence", now_s, policy)
        yield health
        while (now_s := now_s + FAST_S) < ends_s:
            health = elapsed(failed(health, Part.REACH, "no answer", now_s, policy), now_s, policy)
            yield health
    now_s = ends_s + rng.random() * FAST_S
    health = elapsed(health, now_s, policy)
    yield health
    for part in sorted(PARTS):
        health = passed(health, part, "fine", now_s, policy)
    yield health


def moves_in_a_quarter(seed: int, *, a_day: float, longest_s: float, fail_after_s: float = 5.0) -> list[str]:
    """Return the transitions of ninety days."""
    rng, policy, router = random.Random(seed), VerdictPolicy(fail_after_s=fail_after_s), Simulation()
    router.hear_all(Verdict.UP)
    health = new_health(PARTS)
    for part in sorted(PARTS):
        health = passed(health, part, "fine", 0.0, policy)
    suspicions = 0
    for began_s, length_s in pauses(rng, a_day, longest_s):
        router.at_s = 1000.0 + began_s
        for told in facts(rng, began_s, length_s, health, policy):
            if told.verdict is not health.verdict:
                suspicions += told.verdict is Verdict.SUSPECT
                for service in Service:
                    router.hear(UpstreamName.PRIMARY, service, told.verdict)
            health = told
        if health.verdict is Verdict.DOWN:  # the pause is over: it comes back, for the next one
            for part in sorted(PARTS) * 2:
                health = passed(health, part, "fine", began_s + length_s + 1, policy)
    assert suspicions > 300, "the pauses were noticed"
    return [str(told.code) for told in router.told if told.kind == "transition"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_quarter_of_short_pauses_moves_nothing(seed: int) -> None:
    """Ten pauses a day, each up to 4.9 s: more than a PACS has whose users do not complain."""
    assert moves_in_a_quarter(seed, a_day=10, longest_s=4.9) == []


def test_pauses_that_are_no_short_ones_do_move_it() -> None:
    assert moves_in_a_quarter(1, a_day=10, longest_s=5.6)
    assert moves_in_a_quarter(1, a_day=10, longest_s=4.9, fail_after_s=3.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_lost_probes_alone_move_nothing(seed: int) -> None:
    """One probe of ten thousand is lost, as on a bad line; the next one is asked 200 ms later."""
    rng, policy, losses, health = random.Random(seed), VerdictPolicy(), 0, new_health(PARTS)
    for part in sorted(PARTS):
        health = passed(health, part, "fine", 0.0, policy)
    at_s, seen = 0.0, []
    while (at_s := at_s + CALM_S * rng.expovariate(1e-4)) < QUARTER_S:
        while True:  # this one is lost; the next one may be
            losses += 1
            health = failed(health, Part.REACH, "no answer", at_s, policy)
            seen.append(health.verdict)
            at_s += FAST_S
            if rng.random() >= 1e-4:
                break
        for part in sorted(PARTS):
            health = passed(health, part, "fine", at_s, policy)
    assert losses > 500
    assert Verdict.DOWN not in seen
    assert not [one for one, other in pairwise(seen) if one is other is Verdict.SUSPECT]
