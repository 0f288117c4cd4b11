"""The ledger: what is owed is counted, listed in order, and marked."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from failover.archive import tables
from failover.archive.queries import Level, make_query
from failover.errors import DiskFull, StorageError
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import an_object, uid

OWED = [DebtState.OWED]


async def stocked(room: Room) -> None:
    """Studies 1 to 3, two objects each, a second apart; and one that the primary has."""
    for study in (1, 2, 3):
        for instance in (1, 2):
            await room.store(an_object(study, 1, instance))
            await room.clock.advance(1)
    await room.store(an_object(9), Origin.REPLICATED)


def uids(entries: list[dict[str, object]]) -> list[str]:
    return [str(entry["sop_instance_uid"]).removeprefix(uid(0)[:-1]) for entry in entries]


async def test_an_empty_ledger_has_no_lag(room: Room) -> None:
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.lag_s, numbers.owed_older_than_10_s) == (0, 0.0, 0)


async def test_lag_ends_with_the_proof_not_with_the_sending(room: Room) -> None:
    await stocked(room)
    assert room.ledger.numbers().lag_objects == 6
    assert room.ledger.numbers().lag_s == pytest.approx(6)
    await room.ledger.mark([uid(1, 1, 1), uid(1, 1, 2), uid(4)], DebtState.SENT)
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.pending_to_primary) == (6, 4)
    assert await room.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN) == 1
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.pending_to_primary) == (5, 4)
    assert numbers.lag_s == pytest.approx(5)


async def test_what_is_refused_is_out_of_the_lag_and_listed_with_its_status(room: Room) -> None:
    await stocked(room)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.REFUSED, status=0xA900)
    assert (room.ledger.numbers().lag_objects, room.ledger.numbers().refused) == (5, 1)
    (entry,) = room.ledger.entries([DebtState.REFUSED])
    assert entry["refused_status"] == 0xA900
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert (room.ledger.numbers().lag_objects, room.ledger.numbers().refused) == (6, 0)


async def test_what_we_brought_and_the_primary_lost_keeps_the_gate_closed_however_fresh_it_is(
    room: Room,
) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(2), Origin.COPIED)
    await room.store(an_object(3))
    await room.ledger.mark([uid(1, 1, 1), uid(2, 1, 1)], DebtState.OWED)
    numbers = room.ledger.numbers()
    assert (numbers.lag_objects, numbers.owed_older_than_10_s) == (3, 2)


async def test_only_what_is_older_than_ten_seconds_keeps_the_gate_closed(room: Room) -> None:
    await stocked(room)
    assert room.ledger.numbers().owed_older_than_10_s == 0
    await room.clock.advance(5.5)
    assert room.ledger.numbers().owed_older_than_10_s == 2


async def test_the_list_is_oldest_first_and_pages(room: Room) -> None:
    await stocked(room)
    whole = uids(room.ledger.entries(OWED))
    assert whole == ["1.1.1", "1.1.2", "2.1.1", "2.1.2", "3.1.1", "3.1.2"]
    page, got = room.ledger.entries(OWED, limit=4), []
    while page:
        got += uids(page)
        page = room.ledger.entries(OWED, limit=4, after=str(page[-1]["sop_instance_uid"]))
    assert got == whole


async def test_studies_that_are_asked_for_come_first_also_over_pages(room: Room) -> None:
    await stocked(room)
    first = [uid(3), uid(2)]
    page, got = room.ledger.entries(OWED, limit=3, studies_first=first), []
    while page:
        got += uids(page)
        last = str(page[-1]["sop_instance_uid"])
        page = room.ledger.entries(OWED, limit=3, after=last, studies_first=first)
    assert got == ["2.1.1", "2.1.2", "3.1.1", "3.1.2", "1.1.1", "1.1.2"]


async def test_an_entry_says_all_that_a_sender_needs(room: Room) -> None:
    await stocked(room)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.SENT)
    await room.clock.advance(2)
    (entry,) = room.ledger.entries([DebtState.SENT])
    assert entry["patient_id"] == "P1"
    assert entry["sent_s_ago"] == pytest.approx(2)
    assert entry["arrived_at_s_ago"] == pytest.approx(8)
    assert entry["attempts"] == 1
    assert open(str(entry["path"]), "rb").read(132)[128:] == b"DICM"  # noqa: ASYNC230, SIM115 - a scene
    assert entry["bytes"] == room.index.instance(uid(1, 1, 1)).size_bytes  # type: ignore[union-attr]


async def test_a_proof_of_what_was_never_owed_has_a_date(room: Room) -> None:
    await stocked(room)
    await room.clock.advance(100)
    await room.ledger.mark([uid(9, 1, 1)], DebtState.PROVEN)
    row = room.index.row(uid(9, 1, 1))
    assert row is not None
    assert (row["state"], row["proven_at"]) == ("none", room.clock.wall().timestamp())


async def test_what_vanished_from_the_primary_can_become_debt(room: Room) -> None:
    await stocked(room)
    await room.ledger.mark([uid(9, 1, 1)], DebtState.OWED)
    assert room.ledger.numbers().lag_objects == 7


async def test_states_that_are_no_marks_are_refused(room: Room) -> None:
    with pytest.raises(StorageError):
        await room.ledger.mark([], DebtState.NONE)
    with pytest.raises(StorageError):
        room.ledger.entries([DebtState.NONE])
    with pytest.raises(StorageError):
        room.ledger.entries([DebtState.OWED, DebtState.PROVEN])


async def test_what_was_paid_off_or_deleted_can_be_listed_with_its_moment(room: Room) -> None:
    await stocked(room)
    proven_at = room.clock.wall().timestamp()
    await room.ledger.mark([uid(1, 1, 2), uid(2, 1, 1), uid(9, 1, 1)], DebtState.PROVEN)
    await room.clock.advance(100)
    await room.ledger.mark([uid(2, 1, 1)], DebtState.DELETED)
    (paid,) = room.ledger.entries([DebtState.PROVEN])
    assert (paid["sop_instance_uid"], paid["since"]) == (uid(1, 1, 2), proven_at)  # 9 was never owed
    (deleted,) = room.ledger.entries([DebtState.DELETED])
    assert (deleted["sop_instance_uid"], deleted["since"]) == (uid(2, 1, 1), proven_at + 100)


async def test_owed_since_is_the_begin_of_the_debt_however_often_it_was_sent(room: Room) -> None:
    began = room.clock.wall().timestamp()
    await stocked(room)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.SENT)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.SENT)
    await room.ledger.tried([uid(1, 1, 1)])
    (sent,) = room.ledger.entries([DebtState.SENT])
    assert (sent["since"], sent["attempts"]) == (began, 3), "a send that was answered and not taken counts"
    await room.ledger.mark([uid(9, 1, 1)], DebtState.OWED)  # a primary restored from a dump has lost it
    lost = room.ledger.entries([DebtState.OWED])[-1]
    assert (lost["sop_instance_uid"], lost["since"]) == (uid(9, 1, 1), room.clock.wall().timestamp())
    await room.clock.advance(5)
    await room.ledger.mark([uid(9, 1, 1)], DebtState.REFUSED, status=0xA900)
    (refused,) = room.ledger.entries([DebtState.REFUSED])
    assert refused["since"] == room.clock.wall().timestamp()


async def test_the_debt_survives_a_restart(room: Room) -> None:
    from failover.archive.index import Index
    from failover.archive.ledger import Ledger

    await stocked(room)
    room.index.close()
    again = Index(room.data_dir, has_primary=True)
    assert Ledger(again, room.clock).numbers().lag_objects == 6
    again.close()


async def test_what_was_deleted_on_the_primary_is_hidden_until_it_is_there_again(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.store(an_object(2), Origin.CALLER)
    assert room.ledger.recent_studies(3600) == {uid(1): 1}
    assert await room.ledger.mark([uid(1, 1, 1), uid(2, 1, 1)], DebtState.DELETED) == 1, "what is owed stays"
    assert [m.study_instance_uid for m in await room.find()] == [uid(2)]
    assert room.ledger.recent_studies(3600) == {}
    await room.store(an_object(1), Origin.REPLICATED)
    assert len(await room.find()) == 2
    assert room.ledger.recent_studies(3600) == {uid(1): 1}


async def test_what_a_caller_brings_again_after_its_deletion_is_owed(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.DELETED)
    await room.store(an_object(1), Origin.CALLER)
    assert len(await room.find()) == 1
    assert room.ledger.numbers().lag_objects == 1


async def test_what_was_lost_on_the_primary_is_shown_and_owed(room: Room) -> None:
    await room.store(an_object(1), Origin.REPLICATED)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.DELETED)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.OWED)
    assert len(await room.find()) == 1
    assert room.ledger.numbers().lag_objects == 1


async def test_an_index_of_the_version_before_is_upgraded_with_its_debt(make_room: MakeRoom) -> None:
    room = make_room()
    await stocked(room)
    owed_since = room.ledger.entries(OWED)[0]["since"]
    room.close()
    with closing(sqlite3.connect(room.data_dir / "index.sqlite")) as connection:
        connection.executescript(
            "DROP TABLE rejected; DROP INDEX instances_paid_off; DROP INDEX instances_owed_compressed;"
            " DROP INDEX instances_hidden; DROP INDEX studies_by_date;"
            " CREATE INDEX studies_by_date ON studies(date DESC, time DESC, id DESC);"
            " ALTER TABLE studies DROP COLUMN name_words;"
            " DROP INDEX instances_to_compress; ALTER TABLE instances DROP COLUMN compression;"
            " ALTER TABLE instances DROP COLUMN arrived; ALTER TABLE instances DROP COLUMN arrived_digest;"
            " DROP TABLE compressed; DROP TABLE commitments; ALTER TABLE doomed DROP COLUMN not_before;"
            " ALTER TABLE instances DROP COLUMN state_since; PRAGMA user_version = 1;"
        )
    upgraded = make_room()
    fuzzy = make_query(Level.STUDY, {0x00100010: "mus patient2"}, fuzzy=True)
    assert len(await upgraded.index.search(fuzzy)) == 1
    assert upgraded.ledger.numbers().lag_objects == 6
    assert upgraded.ledger.entries(OWED)[0]["since"] == owed_since
    await upgraded.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN)
    assert len(upgraded.ledger.entries([DebtState.PROVEN])) == 1


async def test_what_was_hidden_before_an_upgrade_is_found_after_it(make_room: MakeRoom) -> None:
    room = make_room()
    for study, origin in ((1, Origin.CALLER), (2, Origin.REPLICATED)):
        await room.store(an_object(study), origin)
    for path in room.files():
        path.unlink()
        room.janitor.compare_folder(path.parent.name)
    room.close()
    with closing(sqlite3.connect(room.data_dir / "index.sqlite")) as connection:
        connection.executescript(
            "DROP INDEX instances_hidden; PRAGMA user_version = 7;"
            " CREATE INDEX instances_owed_hidden ON instances(id) WHERE state = 'owed' AND hidden = 1;"
        )
    upgraded = make_room()
    assert upgraded.index.set_aside([uid(1), uid(2)]) == {uid(2)}
    upgraded.janitor.refuse_lost()
    assert upgraded.ledger.numbers().lost == 1


async def test_an_index_that_has_no_room_to_be_upgraded_is_not_called_unreadable(
    make_room: MakeRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make_room()
    await stocked(room)
    room.close()
    with closing(sqlite3.connect(room.data_dir / "index.sqlite")) as connection:
        connection.executescript(
            "DROP INDEX instances_owed_compressed; DROP INDEX instances_hidden;"
            " DROP INDEX studies_by_date; ALTER TABLE studies DROP COLUMN name_words; VACUUM;"
            " CREATE INDEX studies_by_date ON studies(date DESC, time DESC, id DESC);"
            " PRAGMA user_version = 6;"
        )
    with monkeypatch.context() as full:
        full.setitem(tables.UPGRADES, 6, "PRAGMA max_page_count = 1;" + tables.UPGRADES[6])
        with pytest.raises(DiskFull):
            make_room()
    assert make_room().ledger.numbers().lag_objects == 6
