"""What of the routing state survives a restart, and what an unreadable file does."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from failover.clock import SystemClock
from failover.errors import StateUnreadable
from failover.model import Mode, Phase, Service, UpstreamName
from failover.routing.machine import first_state
from failover.routing.state import Now, State
from failover.routing.states import Intent
from failover.routing.store import RouteStore, restored, saved

WALL = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
BEFORE = Now(5000.0, WALL)
AFTER = Now(17.0, WALL + timedelta(seconds=30))  # another boot, half a minute later


def some_state() -> State:
    return replace(
        first_state(BEFORE),
        phases={Service.WEB: Phase.FAILING_BACK, Service.DICOM: Phase.ON_BACKUP},
        intent=Intent(
            Mode.FORCED, UpstreamName.BACKUP, "upgrade", "ada", WALL + timedelta(hours=1), True, 30.0
        ),
        intent_until_s=BEFORE.s + 3600,
        failovers={Service.WEB: (4000.0, 4900.0)},
        failback_decided=True,
        refused_accepted=3,
        blind=False,
    )


def test_what_was_saved_comes_back() -> None:
    state = some_state()
    again = restored(saved(state, BEFORE), AFTER)
    assert again.phases == state.phases
    assert again.since_wall == state.since_wall
    assert again.intent == state.intent
    assert again.intent_until_s == AFTER.s + 3570
    assert again.failovers == {Service.WEB: (AFTER.s - 1030, AFTER.s - 130)}
    assert (again.failback_decided, again.refused_accepted, again.blind) == (True, 3, False)
    assert again.numbers is None
    assert again.seen == {}


def test_a_clock_that_was_set_back_makes_no_failover_of_the_future() -> None:
    earlier = Now(17.0, WALL - timedelta(days=3))
    assert restored(saved(some_state(), BEFORE), earlier).failovers == {Service.WEB: (17.0, 17.0)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.clear(),
        lambda c: c.update(version=2),
        lambda c: c.update(phases={}),
        lambda c: c["phases"]["web"].update(phase="nowhere"),
        lambda c: c.update(intent=None),
        lambda c: c["intent"].update(until="yesterday"),
        lambda c: c.update(failovers=[]),
    ],
)
def test_rubbish_is_unreadable(spoil: Any) -> None:
    content = saved(some_state(), BEFORE)
    spoil(content)
    with pytest.raises(StateUnreadable):
        restored(content, AFTER)


def store(path: Path, told: list[str] | None = None) -> RouteStore:
    return RouteStore(path, SystemClock(), lambda: (told or []).append("recovered"))


async def test_saved_is_on_disk_and_newer_overtakes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "route.json"
    keeping = store(path)
    assert keeping.load() is None
    keeping.start()
    assert await keeping.save({"n": 1}, timeout_s=10)
    assert await keeping.save({"n": 2}, timeout_s=10)
    await keeping.stop()
    assert store(path).load() == {"n": 2}
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_disk_that_is_not_willing_is_told_and_written_later(tmp_path: Path) -> None:
    path, told = tmp_path / "route.json", []
    keeping = RouteStore(path, SystemClock(), lambda: told.append("recovered"))
    path.mkdir()
    (path / "in the way").touch()
    keeping.start()
    assert not await keeping.save({"n": 1}, timeout_s=0.05)
    (path / "in the way").unlink()
    path.rmdir()
    assert await keeping.save({"n": 2}, timeout_s=10)
    await keeping.stop()
    assert store(path).load() == {"n": 2}
    assert told == ["recovered"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_broken_file_is_unreadable(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "route.json"
    path.write_bytes(content)
    with pytest.raises(StateUnreadable):
        store(path).load()
