"""What retention will take can be asked for, and what is protected from it stays."""

from __future__ import annotations

from typing import Any

import pytest

from failover.archive import outlook
from failover.archive.retention import Cause, Policy, Standing
from failover.archive.retention import outlook as outlook_of
from failover.errors import ControlError
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import an_object, uid

DAY_S = 86400.0
NOW = 1_800_000_000.0
POLICY = Policy(days=90, max_bytes=10**9, min_free_bytes=0, needs_proof=True)


def standing(days_ago: float, **given: Any) -> Standing:
    facts = {"owed": 0, "refused": 0, "unproven": 0, "protected": False, **given}
    return Standing(NOW - days_ago * DAY_S, **facts)


def test_a_study_goes_when_its_last_arrival_is_old_enough_or_now_for_space() -> None:
    assert outlook_of(standing(80), POLICY, NOW, for_space=False) == (NOW + 10 * DAY_S, Cause.AGE, None)
    assert outlook_of(standing(80), POLICY, NOW, for_space=True) == (NOW, Cause.SPACE, None)
    assert outlook_of(standing(91), POLICY, NOW, for_space=True) == (NOW, Cause.AGE, None)


@pytest.mark.parametrize(
    ("given", "goes", "word"),
    [
        ({"protected": True}, False, "protected"),
        ({"refused": 2}, False, "2 of it were refused"),
        ({"owed": 3}, True, "3 of it are not on the primary"),
        ({"unproven": 4}, True, "asked for 4 of it first"),
    ],
)
def test_what_it_waits_for_is_said(given: dict[str, Any], goes: bool, word: str) -> None:
    goes_at, _, waits_for = outlook_of(standing(100, **given), POLICY, NOW, for_space=False)
    assert (goes_at is not None) is goes
    assert word in (waits_for or "")


def test_nothing_goes_by_age_while_the_clock_is_in_doubt() -> None:
    _, cause, waits_for = outlook_of(standing(100), POLICY, NOW, for_space=False, by_age=False)
    assert cause is Cause.AGE
    assert "the clock is in doubt" in (waits_for or "")
    by_space = outlook_of(standing(100), POLICY, NOW, for_space=True, by_age=False)
    assert by_space == (NOW, Cause.SPACE, None)


def ask(room: Room, limit: int = 100) -> dict[str, Any]:
    return outlook.plan(room.index, room.janitor, room.clock, limit)


def protect(
    room: Room, *, protected: bool = True, study: str | None = None, patient: str | None = None
) -> int:
    told = room.index.write_now(
        lambda t: outlook.protect(t, study=study, patient_id=patient, protected=protected)
    )
    return int(told["studies"])


async def test_the_plan_names_what_the_janitor_then_takes(make_room: MakeRoom) -> None:
    room = make_room(max_bytes=2500)
    for day in (9, 8, 7, 6, 5):
        await room.store(an_object(day, StudyDate=f"202512{day:02d}"), Origin.REPLICATED)
    await room.ledger.mark([uid(day, 1, 1) for day in (9, 8, 7, 6, 5)], DebtState.PROVEN)
    told = ask(room)
    assert told["space_wanted_bytes"] > 0
    planned = [one["study_instance_uid"] for one in told["studies"] if one["why"] == "space"]
    assert planned == [uid(5), uid(6), uid(7)][: len(planned)], "oldest first"
    room.janitor.turn()
    left = {m.study_instance_uid for m in await room.find()}
    assert left == {uid(day) for day in (9, 8, 7, 6, 5)} - set(planned)
    assert {one["why"] for one in ask(room)["studies"]} == {"age"}


async def test_a_protected_study_and_a_protected_patient_stay(make_room: MakeRoom) -> None:
    room = make_room(has_primary=False)
    for study in (1, 2, 3):
        await room.store(an_object(study))
    assert protect(room, study=uid(1)) == 1
    assert protect(room, patient="P2") == 1
    told = {one["study_instance_uid"]: one for one in ask(room)["studies"]}
    assert told[uid(1)]["goes_at"] is None
    assert "protected" in told[uid(2)]["waits_for"]
    assert not told[uid(3)]["protected"]
    await room.clock.advance(60 * DAY_S)
    await room.store(an_object(4, PatientID="P2"))  # comes later
    await room.clock.advance(91 * DAY_S)
    room.janitor.turn()
    assert {m.study_instance_uid for m in await room.find()} == {uid(1), uid(2), uid(4)}
    assert protect(room, patient="P2", protected=False) == 2
    assert protect(room, study=uid(1), protected=False) == 1
    room.janitor.turn()
    assert await room.find() == []


async def test_for_space_too_the_protected_ones_stay(make_room: MakeRoom) -> None:
    room = make_room(has_primary=False, max_bytes=1500)
    for day in (5, 6, 7):
        await room.store(an_object(day, StudyDate=f"202512{day:02d}"))
    protect(room, study=uid(5))
    room.janitor.turn()
    left = {m.study_instance_uid for m in await room.find()}
    assert uid(5) in left
    assert uid(6) not in left


async def test_what_cannot_be_protected_is_refused(room: Room) -> None:
    await room.store(an_object(1))
    with pytest.raises(ControlError, match="no such study"):
        protect(room, study=uid(99))
    with pytest.raises(ControlError, match="not protected"):
        protect(room, patient="P1", protected=False)
    with pytest.raises(ControlError, match="either"):
        protect(room)


async def test_an_owed_study_says_so(room: Room) -> None:
    await room.store(an_object(1))
    [one] = ask(room)["studies"]
    assert one["waits_for"].startswith("1 of it are not on the primary")
    assert (one["objects"], one["why"]) == (1, "age")
