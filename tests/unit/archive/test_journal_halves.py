"""The journal's two files: they take turns, and what stands in one is settled before it is written over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from failover.archive import settling
from failover.archive.journal import NAMES, Entry, Journal, Record
from tests.peers.process import wait_for


def _fails(*arguments: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    it = Journal(tmp_path, lambda: None, half_bytes=64 * 1024)
    yield it
    it.close()


def _entry(tmp_path: Path, number: int, size: int = 8000) -> Entry:
    path = tmp_path / "objects" / "abc" / str(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([number]) * size)
    return Entry([path.read_bytes()], {"path": f"objects/abc/{number}", "n": number})


def _stored(journal: Journal, entry: Entry) -> bool:
    if not journal.append([entry]):
        return False
    entry.used = True
    journal.ended()
    return True


def _found(folder: Path) -> list[Record]:
    return list(Journal(folder, lambda: None).records())


def test_halves_take_turns_and_the_newest_records_stand(journal: Journal, tmp_path: Path) -> None:
    for number in range(1, 40):
        entry = _entry(tmp_path, number)
        assert _stored(journal, entry)
        assert entry.number == number
    found = [record.number for record in _found(tmp_path)]
    assert found == list(range(found[0], 40))
    assert found[0] > 20, "older ones were written over"
    assert len(found) > 5, "those not yet settled are there"
    for record in _found(tmp_path):
        assert record.content() == bytes([record.number]) * 8000
        assert record.facts["n"] == record.number


def test_who_goes_on_settles_what_stands_and_writes_over_it_no_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, lambda: None, half_bytes=64 * 1024)
    with monkeypatch.context() as patched:
        patched.setattr("failover.archive.settling.FileSystem.settle", _fails)
        for number in range(1, 12):  # eight in the one half, three in the other; then it is killed
            assert _stored(journal, _entry(tmp_path, number))
        journal._thread.shutdown(wait=True)
    synced = threading.Event()
    journal = Journal(tmp_path, lambda: void(synced.wait(30)), half_bytes=64 * 1024)
    stand = list(journal.records())
    journal.go_on(stand[-1].number, stand)
    assert [record.number for record in _found(tmp_path)] == [record.number for record in stand]
    assert not journal.append([_entry(tmp_path, 12)]), "a start has no time to wait"
    synced.set()
    wait_for(lambda: _stored(journal, _entry(tmp_path, 12)), "the older half is settled")
    for number in range(13, 30):
        entry = _entry(tmp_path, number)
        assert _stored(journal, entry)
        assert entry.number == number
    journal.close()
    assert not _found(tmp_path)


def test_a_disk_that_settles_slowly_is_not_waited_for_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failover.archive.journal._LONGEST_WAIT_S", 0.01)
    synced = threading.Event()
    journal = Journal(tmp_path, lambda: void(synced.wait(30)), half_bytes=64 * 1024)
    taken = [_stored(journal, _entry(tmp_path, number)) for number in range(1, 20)]
    assert taken == [True] * 16 + [False] * 3, "each half has room for eight"
    synced.set()
    wait_for(lambda: _stored(journal, _entry(tmp_path, 20)), "the older half is settled")
    journal.close()


def test_what_is_settled_does_not_stand_there_any_more(tmp_path: Path) -> None:
    """Nor does it come back behind a record of the next filling, which ends where it began."""
    for first in (1, 4):
        journal = Journal(tmp_path, lambda: None)
        for number in range(first, first + 3):
            assert _stored(journal, _entry(tmp_path, number))
            found = [record.content()[0] for record in _found(tmp_path)]
            assert found == list(range(first, number + 1))
        journal.close()
        assert not _found(tmp_path)


def test_a_group_beyond_the_journal_is_not_taken(journal: Journal, tmp_path: Path) -> None:
    assert not journal.append([_entry(tmp_path, number) for number in range(1, 10)])
    assert journal.append([_entry(tmp_path, 10)])


def test_a_half_has_only_so_many_records_as_a_start_looks_at_in_time(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failover.archive.journal.MAX_RECORDS", 3)
    for number in range(1, 8):
        assert _stored(journal, _entry(tmp_path, number, size=10))
    assert len(_found(tmp_path)) <= 2 * 3
    assert not journal.append([_entry(tmp_path, number, size=10) for number in range(10, 14)])


def test_the_room_that_is_kept_for_the_index_is_not_taken(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("failover.archive.journal.RESERVE_BYTES", 2**60)
    assert not journal.append([_entry(tmp_path, 1)])
    assert (tmp_path / NAMES[0]).stat().st_size < 4096


def test_a_half_that_cannot_be_settled_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, lambda: None, half_bytes=64 * 1024)
    taken = []
    with monkeypatch.context() as patched:
        patched.setattr("failover.archive.settling.FileSystem.settle", _fails)
        for number in range(1, 20):
            taken.append(_stored(journal, _entry(tmp_path, number)))
        # Looked at before it can be settled: that is tried again on and on.
        found = [record.number for record in _found(tmp_path)]
    assert taken == [True] * 16 + [False] * 3, "each half has room for eight; the first is still needed"
    assert found == list(range(1, 17))
    assert any(_stored(journal, _entry(tmp_path, number)) for number in range(20, 40))
    journal.close()


def test_rows_that_were_not_synced_once_are_never_believed_to_be(tmp_path: Path) -> None:
    """A second sync of a file says that all is well: the system has dropped what it could not write."""
    fails = [True]

    def sync_index() -> None:
        if fails.pop() if fails else False:
            raise OSError(5, "Input/output error")

    journal = Journal(tmp_path, sync_index, half_bytes=64 * 1024)
    taken = [_stored(journal, _entry(tmp_path, number)) for number in range(1, 20)]
    assert taken == sorted(taken, reverse=True), "nothing is added any more"
    assert 8 <= sum(taken) <= 16, "each half has room for eight"
    journal.close()
    assert [record.number for record in _found(tmp_path)] == list(range(1, sum(taken) + 1))


def void(_: object) -> None:
    return None


def test_each_file_is_synced_where_the_whole_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(settling, "sync_file", synced.append)
    monkeypatch.setattr(settling, "sync_folder", synced.append)
    path = tmp_path / "objects" / "abc" / "1"
    for kind, expected in (("fuse", {path, path.parent, path.parent.parent}), ("ext4", set[Path]())):
        monkeypatch.setattr(settling, "_kind", lambda descriptor, kind=kind: kind)
        file_system = settling.FileSystem(tmp_path)
        synced.clear()
        file_system.settle([settling.Settled(path, lambda: b"")])
        assert set(synced) == expected
        file_system.close()


def test_a_file_that_the_system_could_not_write_is_written_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "sync_file", _fails)
    monkeypatch.setattr(settling, "_kind", lambda descriptor: "")
    path = tmp_path / "objects" / "1"
    path.parent.mkdir()
    path.write_bytes(b"what the system has dropped")
    file_system = settling.FileSystem(tmp_path)
    file_system.settle([settling.Settled(path, lambda: b"as it was kept")])
    file_system.close()
    assert path.read_bytes() == b"as it was kept"
