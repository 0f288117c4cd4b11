"""What wants a person is told once, shown as long as it lasts, and over when it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from failover.audit.trail import Trail
from failover.errors import Refused
from failover.routing.controller import TRAIL_FILE
from failover.routing.machine import first_state, step
from failover.routing.state import Audit, Decided, Now, NumbersHeard
from failover.routing.states import Decision, Numbers, Rules
from failover.routing.troubles import Trouble, news, troubles_of
from failover.routing.wishes import decidable
from tests.unit.routing.test_controller import Router, running

FULL = {"no_room": "the disk is full"}


def test_an_archive_that_does_not_answer_has_what_it_had() -> None:
    told = troubles_of({}, Numbers(troubles=FULL), None)
    assert told == {"no_room": Trouble("archive", "the disk is full")}
    assert troubles_of(told, None, None) == told
    assert troubles_of(told, Numbers(), None) == {}


def test_each_is_news_once_and_when_it_is_over() -> None:
    full = troubles_of({}, Numbers(troubles=FULL), "Read-only file system")
    assert [code for code, _ in news({}, full)] == ["no_room", "state_not_written"]
    assert news(full, full) == []
    assert news(full, troubles_of(full, Numbers(), None)) == [
        ("no_room_over", "archive: it is over"),
        ("state_not_written_over", "router: it is over"),
    ]


async def test_the_archives_troubles_stand_in_status_and_trail(tmp_path: Path) -> None:
    async with running(tmp_path) as router:
        router.controller.replication_heard(Numbers(lag_objects=0, refused=0, troubles=FULL))
        assert await router.trail.appended.wait_until(lambda: "no_room" in router.codes(), timeout_s=20)
        assert router.controller.snapshot()["troubles"] == [
            {"component": "archive", "code": "no_room", "sentence": "the disk is full"}
        ]
        router.controller.replication_heard(Numbers(lag_objects=0, refused=0))
        assert await router.trail.appended.wait_until(lambda: "no_room_over" in router.codes(), timeout_s=20)
        assert router.controller.snapshot()["troubles"] == []


async def test_a_router_that_cannot_write_says_so_until_it_can(tmp_path: Path) -> None:
    router = Router(tmp_path)
    in_its_way = tmp_path / TRAIL_FILE
    in_its_way.mkdir()
    router.start()
    try:
        heard = router.trail.appended
        assert await heard.wait_until(lambda: "state_not_written" in router.codes(), timeout_s=20)
        [trouble] = router.controller.snapshot()["troubles"]
        assert trouble["component"] == "router"
        assert "state not persisted" in trouble["sentence"]
        in_its_way.rmdir()
        assert await heard.wait_until(lambda: "state_not_written_over" in router.codes(), timeout_s=20)
        assert router.controller.snapshot()["troubles"] == []
        assert await router.trail.written(timeout_s=20)
    finally:
        await router.stop()
    assert [event.code for event in Trail(in_its_way, router.clock).events(0)] == router.codes()


def test_the_clock_can_be_decided_on_only_while_it_is_doubted() -> None:
    now = Now(10.0, datetime(2026, 1, 1, tzinfo=UTC))
    doubted = NumbersHeard(Numbers(lag_objects=0, troubles={"clock_doubted": "it leapt"}), now.s)
    decided = Decided(Decision.CLOCK_RIGHT, "it was off for a year", "ada")
    rules = Rules(exists=frozenset())
    with pytest.raises(Refused, match="does not doubt its clock"):
        step(first_state(now), decided, now, rules)
    state, _ = step(first_state(now), doubted, now, rules)
    assert decidable(state, rules, now.s) == [Decision.CLOCK_RIGHT]
    after, commands = step(state, decided, now, rules)
    assert [c.code for c in commands if isinstance(c, Audit)] == ["decided_clock-right"]
    assert after == state
