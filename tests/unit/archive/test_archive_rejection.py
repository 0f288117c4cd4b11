"""Rejection notes hide what they name, whichever came first; the note and the files stay."""

from __future__ import annotations

import pytest

from failover.archive.handlers import Handlers
from failover.archive.queries import Level
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.notes import a_note
from tests.unit.archive.objects import CT, an_object, uid

NOTE = uid(1, 77, 1)
BAD = (uid(1), uid(1, 1), uid(1, 1, 1), CT)


async def shown(room: Room, study: int = 1) -> set[str]:
    """What a search at instance level, a retrieve of the study and one of the instance agree to show."""
    found = await room.find(Level.IMAGE, StudyInstanceUID=uid(study))
    uids = {str(match.sop_instance_uid) for match in found}
    assert uids == {held.key.sop_instance_uid for held in room.index.instances(study=uid(study))}
    assert all(room.index.instance(one) for one in uids)
    return uids


async def two_images(room: Room, origin: Origin = Origin.REPLICATED) -> None:
    await room.store(an_object(1, 1, 1), origin)
    await room.store(an_object(1, 1, 2), origin)


@pytest.mark.parametrize("title", ["113001", "113037", "113038", "113039"])
@pytest.mark.parametrize("origin", [Origin.REPLICATED, Origin.CALLER, Origin.COPIED, Origin.IMPORTED])
async def test_a_note_hides_what_it_names_and_stays(room: Room, title: str, origin: Origin) -> None:
    await two_images(room)
    await room.store(a_note([BAD], title), origin)
    assert await shown(room) == {uid(1, 1, 2), NOTE}
    assert room.index.instance(uid(1, 1, 1)) is None
    assert len(room.files()) == 3, "nothing is deleted"


async def test_what_is_named_and_comes_later_is_never_shown(room: Room) -> None:
    await room.store(a_note([BAD]), Origin.REPLICATED)
    await two_images(room, Origin.CALLER)
    assert await shown(room) == {uid(1, 1, 2), NOTE}
    await room.store(an_object(1, 1, 1), Origin.CALLER)
    assert await shown(room) == {uid(1, 1, 2), NOTE}, "nor when it comes again"
    await room.store(an_object(1, 1, 1, StudyDescription="corrected"), Origin.REPLICATED)
    assert await shown(room) == {uid(1, 1, 2), NOTE}, "nor a correction of it"


async def test_a_study_that_is_rejected_as_a_whole_is_listed_with_the_note_alone(room: Room) -> None:
    await two_images(room)
    await room.store(a_note([BAD, (uid(1), uid(1, 1), uid(1, 1, 2), CT)]), Origin.REPLICATED)
    assert await shown(room) == {NOTE}
    (study,) = await room.find()
    assert '"00201208":{"vr":"IS","Value":[1]}' in study.template.decode().replace(" ", "")
    assert [match.series_instance_uid for match in await room.find(Level.SERIES)] == [f"{uid(1)}.77"]


@pytest.mark.parametrize(
    "note",
    [
        a_note([BAD], "113000"),  # of interest: no rejection
        a_note([BAD], "113001", scheme="99OURS"),
        a_note([(uid(2), uid(1, 1), uid(1, 1, 1), CT)]),  # it speaks of another study
        a_note([], "113001"),
        a_note([BAD], "113001", ConceptNameCodeSequence=[]),
        an_object(1, 77, 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.59"),
    ],
    ids=["of interest", "private code", "another study", "names nothing", "no title", "no document"],
)
async def test_what_is_no_rejection_hides_nothing(room: Room, note: bytes) -> None:
    await two_images(room)
    await room.store(note, Origin.CALLER)
    assert {uid(1, 1, 1), uid(1, 1, 2)} <= await shown(room)


async def test_a_note_that_the_primary_deleted_hides_nothing_any_more(room: Room) -> None:
    await two_images(room)
    await room.store(a_note([BAD]), Origin.REPLICATED)
    await room.ledger.mark([NOTE], DebtState.DELETED)
    assert await shown(room) == {uid(1, 1, 1), uid(1, 1, 2)}
    await room.store(a_note([BAD]), Origin.REPLICATED)
    assert await shown(room) == {uid(1, 1, 2), NOTE}
    await room.ledger.mark([uid(1, 1, 1)], DebtState.DELETED)
    await room.ledger.mark([NOTE], DebtState.DELETED)
    assert await shown(room) == {uid(1, 1, 2)}, "what the primary deleted stays hidden without a note"


async def test_a_corrected_note_names_anew(room: Room) -> None:
    await two_images(room)
    await room.store(a_note([BAD]), Origin.REPLICATED)
    await room.store(a_note([(uid(1), uid(1, 1), uid(1, 1, 2), CT)]), Origin.REPLICATED)
    assert await shown(room) == {uid(1, 1, 1), NOTE}


async def test_a_rejected_object_is_owed_until_the_primary_has_the_note(room: Room) -> None:
    await two_images(room, Origin.CALLER)
    await room.store(a_note([BAD]), Origin.CALLER)
    assert room.ledger.numbers().lag_objects == 3
    await room.ledger.mark([uid(1, 1, 1)], DebtState.SENT)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert room.ledger.numbers().lag_objects == 3, "not shown, but nobody knows why"
    await room.ledger.mark([uid(1, 1, 2), NOTE], DebtState.PROVEN)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.SENT)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert room.ledger.numbers().lag_objects == 0, "the primary has the note, and hides it"
    assert await shown(room) == {uid(1, 1, 2), NOTE}


async def test_the_replicator_is_told_so_that_it_does_not_fetch_it_again(room: Room) -> None:
    await two_images(room)
    await room.store(a_note([BAD]), Origin.REPLICATED)
    handlers = Handlers.__new__(Handlers)
    handlers._index = room.index
    answer = await handlers.study_instances({"study_instance_uid": uid(1)})
    assert {one["sop_instance_uid"]: one["rejected"] for one in answer["instances"]} == {
        uid(1, 1, 1): True,
        uid(1, 1, 2): False,
        NOTE: False,
    }


async def test_notes_hold_over_a_restart(make_room: MakeRoom) -> None:
    room = make_room()
    await room.store(a_note([BAD]), Origin.REPLICATED)
    room.close()
    again = make_room()
    await two_images(again)
    assert await shown(again) == {uid(1, 1, 2), NOTE}
