"""Searches for what stands in the midst of a text: by candidates from memory, and none is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

import pytest

from failover.archive import held_text
from failover.archive.queries import Level, Query, make_query
from failover.errors import StorageError
from failover.model import Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import an_object, uid

NAME, PATIENT_ID, DESCRIPTION = 0x00100010, 0x00100020, 0x00081030


@pytest.fixture
async def stocked(room: Room) -> Room:
    for study, name in enumerate(("Müller^Jürgen", "Miller^Anna", "Yamada^Tarou=山田^太郎=やまだ^たろう"), 1):
        await room.store(an_object(study, PatientName=name, StudyDescription=f"Thorax {study}"))
    return room


async def found(room: Room, query: Query) -> set[str | None]:
    return {match.study_instance_uid for match in await room.index.search(query)}


def key(tag: int, text: str, level: Level = Level.STUDY, *, fuzzy: bool = False) -> Query:
    return make_query(level, {tag: text}, fuzzy=fuzzy)


@pytest.mark.parametrize("level", [Level.STUDY, Level.SERIES, Level.IMAGE])
@pytest.mark.parametrize(
    ("tag", "text", "fuzzy", "studies"),
    [
        (NAME, "*ller*", False, {1, 2}),
        (NAME, "*ÜRG*", False, {1}),
        (NAME, "*山^太*", False, set()),
        (NAME, "*田^*", False, {3}),
        (NAME, "*=*田*", False, {3}),
        (NAME, "*ll?r^*n*", False, {1, 2}),
        (NAME, "mueller", True, {1}),
        (NAME, "ann mill", True, {2}),
        (PATIENT_ID, "*2\\*3", False, {2, 3}),
        (DESCRIPTION, "*rax 1*", False, {1}),
    ],
)
async def test_what_is_found_in_memory_is_what_every_row_would_give(
    stocked: Room, level: Level, tag: int, text: str, fuzzy: bool, studies: set[int]
) -> None:
    query = key(tag, text, level, fuzzy=fuzzy)
    assert stocked.index._sql(query).scans  # nothing is read into memory yet
    expected = {uid(study) for study in studies}
    assert await found(stocked, query) == expected
    assert not stocked.index._sql(query).scans
    assert await found(stocked, query) == expected


async def test_what_came_or_was_corrected_since_is_found_at_once(stocked: Room) -> None:
    assert await found(stocked, key(NAME, "*ller*")) == {uid(1), uid(2)}
    await stocked.store(an_object(4, PatientName="Waller^Eve"))
    await stocked.store(an_object(2, PatientName="Corrected^Anna", PatientID="P2"), Origin.REPLICATED)
    assert await found(stocked, key(NAME, "*ller*")) == {uid(1), uid(4)}
    assert await found(stocked, key(NAME, "*rrect*")) == {uid(2)}


async def test_of_many_changes_all_is_read_anew(stocked: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_text, "_MOST_CHANGED", 2)
    await found(stocked, key(NAME, "*ller*"))
    for study in range(4, 9):
        await stocked.store(an_object(study, PatientName="Waller^Eve"))
    assert stocked.index._sql(key(NAME, "*ller*")).scans  # not in the event loop
    assert len(await found(stocked, key(NAME, "*ller*"))) == 7


async def test_what_changed_is_not_missed_after_a_read_that_failed(
    stocked: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = stocked.index.held_text
    for column in ("name_1", "name_2"):
        assert texts.candidates(((column, "zzz"),), may_read_all=True) == []
    await stocked.store(an_object(4, PatientName="Waller^Eve=Wallerin^Eve"))
    with monkeypatch.context() as broken:
        broken.setattr(texts, "_rows", fails)
        with pytest.raises(sqlite3.OperationalError):
            texts.candidates((("name_1", "aller"),), may_read_all=True)
    for column in ("name_1", "name_2"):
        assert texts.candidates(((column, "aller"),), may_read_all=True), column


def fails(*_: object) -> None:
    raise sqlite3.OperationalError("disk I/O error")


async def test_of_too_many_candidates_the_rows_are_read_in_order(
    stocked: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_text, "MOST_CANDIDATES", 1)
    assert await found(stocked, key(NAME, "*ller*")) == {uid(1), uid(2)}
    assert stocked.index._sql(key(NAME, "*ller*")).scans


async def test_what_a_transaction_changes_is_a_candidate_before_and_after_its_commit(stocked: Room) -> None:
    asked, texts = (("name_1", "ller"),), stocked.index.held_text
    before = texts.candidates(asked, may_read_all=True) or []
    assert len(before) == 2
    texts.changing({77})
    texts.changing({77})
    assert texts.candidates(asked, may_read_all=False) == [*before, 77]
    texts.changed({77})
    assert texts.candidates(asked, may_read_all=False) == [*before, 77]
    texts.changed({77})
    assert texts.candidates(asked, may_read_all=False) == before


@pytest.mark.parametrize("statement", ["COMMIT", "INSERT OR REPLACE INTO facts"])
async def test_what_a_transaction_that_failed_was_changing_is_a_candidate_no_more(
    stocked: Room, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    asked, writer = (("name_1", "zzz"),), stocked.index._writer
    assert stocked.index.held_text.candidates(asked, may_read_all=True) == []
    with monkeypatch.context() as broken:
        connection = _Failing(writer._connection, statement)
        broken.setattr(writer, "_connection", connection)
        with pytest.raises(StorageError):
            await stocked.store(an_object(4, PatientName="Waller^Eve"))
    assert connection.failed
    assert stocked.index.held_text.candidates(asked, may_read_all=True) == []
    await stocked.store(an_object(4, PatientName="Waller^Eve"))
    assert await found(stocked, key(NAME, "*aller*")) == {uid(4)}


class _Failing:
    """A connection whose statements of one kind the disk does not take."""

    def __init__(self, connection: sqlite3.Connection, beginning: str) -> None:
        self._connection = connection
        self._beginning = beginning
        self.failed = False

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement.startswith(self._beginning):
            self.failed = True
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_of_too_much_text_nothing_is_kept_nor_read_to_its_end(
    stocked: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, read = stocked.index.held_text, list[int]()
    rows = texts._rows

    def counted(column: str, ids: Collection[int] | None) -> sqlite3.Cursor:
        def seen(_: sqlite3.Cursor, row: tuple[int, bytes]) -> tuple[int, bytes]:
            read.append(row[0])
            return row

        cursor = rows(column, ids)
        cursor.row_factory = seen
        return cursor

    monkeypatch.setattr(texts, "_rows", counted)
    names = sorted(name.encode() for name in ("Müller^Jürgen", "Miller^Anna", "Yamada^Tarou"))
    for most in (len(b"\0".join(names)) - 1, len(b"\0".join(names[:2])) - 1):
        monkeypatch.setattr(held_text, "_MOST_BYTES", most)
        texts.close()
        read.clear()
        for _ in range(2):  # read, and known
            assert texts.candidates((("name_1", "ller"),), may_read_all=True) is None
        assert len(read) == 3, "the fourth row is not read, and nothing a second time"
        await stocked.store(an_object(4, PatientName="Miller^Anna"))
        assert texts.candidates((("name_1", "ller"),), may_read_all=False) is None
    assert await found(stocked, key(NAME, "*ller*")) == {uid(1), uid(2), uid(4)}


async def test_all_studies_of_one_name_are_candidates(stocked: Room) -> None:
    for study in (4, 5):
        await stocked.store(an_object(study, PatientName="Müller^Jürgen"))
    for _ in range(2):  # read, and known
        assert await found(stocked, key(NAME, "*üller^*")) == {uid(1), uid(4), uid(5)}


async def test_what_is_read_by_another_is_not_waited_for_in_the_event_loop(stocked: Room) -> None:
    texts = stocked.index.held_text
    assert texts.candidates((("name_1", "ller"),), may_read_all=True)
    with texts._reading:
        assert texts.candidates((("name_1", "ller"),), may_read_all=False) is None
