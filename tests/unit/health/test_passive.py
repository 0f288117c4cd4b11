"""What live traffic tells: silence, facts, and nothing of one caller that could move a verdict."""

from __future__ import annotations

from failover.clock import ManualClock
from failover.health.passive import LiveFact, LiveTraffic, Outcome, StoreFact
from failover.health.slowness import RecentSlowest, UsualTime
from failover.model import Part

QUERY, RETRIEVE, STORE = Part.QUERY, Part.RETRIEVE, Part.STORE


async def test_three_that_wait_and_no_byte_for_150_ms_are_a_silence() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    for _ in range(3):
        traffic.began(QUERY, "qido")
    await clock.advance(0.149)
    assert traffic.silence() is None
    await clock.advance(0.002)
    silence = traffic.silence()
    assert silence is not None
    assert (silence.waiting, silence.part) == (3, QUERY)
    assert str(silence) == "3 waiting, not a byte for 151 ms"


async def test_a_byte_for_anyone_breaks_the_silence() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    tokens = [traffic.began(QUERY, "qido") for _ in range(4)]
    await clock.advance(0.140)
    traffic.heard(tokens[0])
    await clock.advance(0.140)
    assert traffic.silence() is None
    await clock.advance(0.020)
    assert traffic.silence() is not None


async def test_one_alone_is_a_silence_only_beyond_its_usual_time() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    for _ in range(20):  # a slow search, and always was
        token = traffic.began(QUERY, "qido")
        await clock.advance(2.0)
        traffic.ended(token, Outcome.ANSWERED)
    traffic.began(QUERY, "qido")
    await clock.advance(1.9)
    assert traffic.silence() is None
    await clock.advance(1.0)
    assert traffic.silence() is not None


async def test_nothing_waits_nothing_is_silent() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    tokens = [traffic.began(QUERY, "qido") for _ in range(3)]
    for token, outcome in zip(tokens, Outcome, strict=False):
        traffic.ended(token, outcome)
    await clock.advance(10)
    assert traffic.silence() is None
    assert traffic.waiting() == 0


async def test_facts_are_taken_once_and_who_left_says_nothing() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    good, bad, late, gone = (traffic.began(QUERY, "qido") for _ in range(4))
    traffic.ended(good, Outcome.ANSWERED)
    traffic.ended(bad, Outcome.FAILED)
    traffic.ended(late, Outcome.TIMED_OUT)
    traffic.ended(gone, Outcome.LEFT)
    traffic.ended(good, Outcome.FAILED)  # ended already
    traffic.store_result("CT1", accepted=False)
    assert traffic.take() == [
        LiveFact(QUERY, True, 0.0),
        LiveFact(QUERY, False, 0.0),
        LiveFact(QUERY, False, 0.0),
        StoreFact("CT1", False, 0.0),
    ]
    assert traffic.take() == []


async def test_good_ones_in_a_row_are_one_fact_and_a_failure_between_them_is_kept() -> None:
    traffic = LiveTraffic(ManualClock())
    for part, outcome in (
        (QUERY, Outcome.ANSWERED),
        (QUERY, Outcome.ANSWERED),
        (Part.STORE, Outcome.ANSWERED),
        (QUERY, Outcome.FAILED),
        (QUERY, Outcome.ANSWERED),
        (QUERY, Outcome.ANSWERED),
    ):
        traffic.ended(traffic.began(part, "any"), outcome)
    facts = [(fact.part, fact.good) for fact in traffic.take() if isinstance(fact, LiveFact)]
    assert facts == [(QUERY, True), (Part.STORE, True), (QUERY, False), (QUERY, True)]


async def test_heard_since_knows_its_part() -> None:
    clock = ManualClock()
    traffic = LiveTraffic(clock)
    token = traffic.began(RETRIEVE, "wado")
    await clock.advance(1.0)
    traffic.heard(token)
    assert traffic.heard_since(0.5)
    assert traffic.heard_since(0.5, RETRIEVE)
    assert not traffic.heard_since(0.5, QUERY)
    assert not traffic.heard_since(1.0)


async def test_stores_under_way_are_counted() -> None:
    traffic = LiveTraffic(ManualClock())
    traffic.began(STORE, "stow")
    traffic.began(QUERY, "qido")
    assert traffic.waiting(STORE) == 1


async def test_the_facts_of_a_dead_checker_do_not_fill_the_memory() -> None:
    traffic = LiveTraffic(ManualClock())
    for _ in range(10_000):
        traffic.ended(traffic.began(QUERY, "qido"), Outcome.FAILED)
    assert len(traffic.take()) <= 1000


def test_usual_time_follows_what_is_usual() -> None:
    usual = UsualTime()
    assert usual.limit_s == 0.5
    for _ in range(50):
        usual.learn(0.010)
    assert usual.limit_s == 0.150
    for _ in range(50):
        usual.learn(1.0)
    assert 1.0 <= usual.limit_s < 1.2


def test_the_slowest_of_ten_minutes() -> None:
    recent = RecentSlowest()
    assert recent.slowest_s(0.0) is None
    recent.learn(1.0, 0.0)
    recent.learn(0.2, 100.0)
    recent.learn(0.1, 200.0)
    assert recent.slowest_s(600.0) == 1.0
    assert recent.slowest_s(601.0) == 0.2
    assert recent.slowest_s(900.0) is None
