"""The journal makes an object durable before its file, its folder and its row are: a power cut in between."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import zlib
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from failover.aio import spawn
from failover.archive import recovery
from failover.archive.arrival import Arrived
from failover.archive.handlers import Handlers
from failover.archive.held import Held
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.janitor import Janitor
from failover.archive.journal import NAMES
from failover.archive.ledger import Ledger
from failover.archive.paths import INDEX
from failover.archive.retention import Policy
from failover.archive.troubles import Troubles
from failover.archive.window import Window
from failover.clock import ManualClock
from failover.errors import Conflict, ControlError, DiskFull, StateUnreadable, StorageError
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import MakeRoom, Room
from tests.unit.archive.objects import data_set, part10, uid


@pytest.fixture
def reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Who opens an archive afterwards does so after another start of the machine."""

    def reboot() -> None:
        boot = tmp_path / "boot_id"
        boot.write_text("another one")
        monkeypatch.setattr(recovery, "_BOOT_ID", boot)

    return reboot


class _Opened:
    def __init__(self, data_dir: Path) -> None:
        self.index = Index(data_dir, has_primary=True)
        self.clock = ManualClock()
        metrics = ArchiveMetrics(CollectorRegistry())
        self.instances = Instances(data_dir, self.index, metrics, self.clock, owes=True, min_free_bytes=0)

    def held(self, *place: int) -> Held | None:
        return self.index.instance(uid(*place))

    def close(self) -> None:
        self.instances.close()
        self.index.close()


def _as_after_a_cut(room: Room, target: Path, index_of: Path | None = None) -> Path:
    """Copy what the disk would hold: all of it, with the index as it was in `index_of`."""
    shutil.copytree(room.data_dir, target)
    if index_of is not None:
        for end in ("", "-wal", "-shm"):
            (target / f"{INDEX}{end}").unlink(missing_ok=True)
            if (index_of / f"{INDEX}{end}").exists():
                shutil.copy(index_of / f"{INDEX}{end}", target)
    return target


async def test_rows_and_files_that_a_power_cut_took_come_back_with_their_debt(
    room: Room, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    await room.store(part10(data_set(1, 1, 1)))
    before = _as_after_a_cut(room, tmp_path / "before")
    contents = [part10(data_set(2, 1, number)) for number in range(1, 5)]
    await room.clock.advance(5)
    await asyncio.gather(*(room.store(content) for content in contents))
    await room.store(part10(data_set(3, 1, 1)), Origin.REPLICATED)
    arrived = [room.index.row(uid(2, 1, number)) for number in range(1, 5)]
    cut = _as_after_a_cut(room, tmp_path / "cut", before)
    files = [path for path in cut.rglob("*.dcm") if path.stat().st_size > 0]
    shutil.rmtree(files[0].parent)
    os.truncate(files[1], 0)
    os.truncate(files[2], 100)
    files[3].write_bytes(bytes(files[3].stat().st_size))  # its length was written, and nothing else
    reboot()
    opened = _Opened(cut)
    for number, row in enumerate(arrived, start=1):
        assert row is not None
        held, found = opened.held(2, 1, number), opened.index.row(uid(2, 1, number))
        assert held is not None
        assert found is not None
        assert held.path.read_bytes()[132:] == room.index.file(row["path"]).read_bytes()[132:]
        assert held.state is DebtState.OWED
        assert (found["arrived_at"], found["bytes"]) == (row["arrived_at"], row["bytes"])
    one, replicated = opened.held(1, 1, 1), opened.held(3, 1, 1)
    assert one is not None
    assert replicated is not None
    assert replicated.state is DebtState.NONE
    for held in (one, replicated):
        assert held.path.stat().st_size == held.size_bytes
    assert opened.index.numbers()["instances"] == 6
    assert not list((cut / "incoming").iterdir())
    opened.close()


async def test_what_went_after_it_was_written_down_does_not_come_back(
    room: Room, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    """Evicted, corrected, refused: a start after a kill finds it in the journal all the same."""
    await room.store(part10(data_set(1, 1, 1)))
    await room.store(part10(data_set(2, 1, 1)), Origin.REPLICATED)
    with pytest.raises(Conflict):
        await room.store(part10(data_set(1, 1, 1, PatientID="other")))
    await room.store(part10(data_set(2, 1, 1, PatientID="right")), Origin.REPLICATED)
    await room.clock.advance(200 * 24 * 3600)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN)
    assert await asyncio.to_thread(room.janitor.evict) == 1
    await asyncio.to_thread(room.janitor.turn)
    left = room.files()
    reboot()
    opened = _Opened(_as_after_a_cut(room, tmp_path / "killed"))
    assert opened.held(1, 1, 1) is None
    assert [path.name for path in (tmp_path / "killed").rglob("*.dcm")] == [path.name for path in left]
    held = opened.held(2, 1, 1)
    assert held is None or b"right" in held.path.read_bytes()
    opened.close()


async def test_a_record_that_a_power_cut_tore_is_none(
    make_room: MakeRoom, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    room = make_room()
    before = _as_after_a_cut(room, tmp_path / "before")
    for number in (1, 2):
        await room.store(part10(data_set(1, 1, number)))
    cut = _as_after_a_cut(room, tmp_path / "cut", before)
    shutil.rmtree(cut / "objects")
    content = (cut / NAMES[0]).read_bytes()
    at = content.rindex(bytes(range(32)))  # the pixels of the second one
    (cut / NAMES[0]).write_bytes(content[:at] + bytes(32) + content[at + 32 :])
    reboot()
    opened = _Opened(cut)
    assert opened.held(1, 1, 1) is not None
    assert opened.held(1, 1, 2) is None
    assert not list((cut / "incoming").iterdir())
    opened.close()


def _full(path: Path, content: bytes) -> None:
    raise DiskFull("no room")


def _fails(*arguments: object) -> None:
    raise OSError(5, "Input/output error")


async def test_nothing_is_stored_and_no_debt_told_before_all_is_made_good(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reboot: Callable[[], None]
) -> None:
    await room.index.set_window(date(2025, 12, 1), {})
    before = _as_after_a_cut(room, tmp_path / "before")
    await room.store(part10(data_set(1, 1, 1)))
    cut = _as_after_a_cut(room, tmp_path / "cut", before)
    reboot()
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "write_file", _full)
        opened = _Opened(cut)
    assert not opened.index.recovered
    # What is not in the index yet must not be taken for what is nowhere.
    assert opened.index.window == Window()
    with pytest.raises(StorageError):
        await opened.instances.store(part10(data_set(2, 1, 1)), Origin.CALLER)
    with pytest.raises(StorageError):
        opened.index.write_now(lambda _: None)
    again = spawn(opened.instances.recover(), name="a scene")
    while not again.done():
        await opened.clock.advance(10)
    held = opened.held(1, 1, 1)
    assert held is not None
    assert held.state is DebtState.OWED
    assert opened.index.window.first_day == date(2025, 12, 1)
    await opened.instances.store(part10(data_set(2, 1, 1)), Origin.CALLER)
    opened.close()


async def test_a_disk_that_fails_at_a_start_of_the_same_boot_loses_nothing_that_was_told(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an index that has lost its last rows to the disk, when that fails again at the next start, then
    nothing is stored, and the object is there when the disk is well."""
    before = _as_after_a_cut(room, tmp_path / "before")
    await room.store(part10(data_set(1, 1, 1)))
    killed = _as_after_a_cut(room, tmp_path / "killed", before)
    with monkeypatch.context() as patched:
        patched.setattr(recovery, "write_file", _fails)
        opened = _Opened(killed)
    troubles = Troubles(ArchiveMetrics(CollectorRegistry()))
    policy = Policy(90, 10**12, 0, needs_proof=True)
    Janitor(
        killed, opened.index, policy, ArchiveMetrics(CollectorRegistry()), ManualClock(), troubles
    ).at_start()
    handlers = Handlers.__new__(Handlers)
    handlers._index, handlers._troubles = opened.index, troubles
    handlers._ledger = Ledger(opened.index, opened.clock)
    told = await handlers.ledger_numbers({"unknown_too": True})
    assert (told["lag_objects"], told["refused"]) == (None, None)
    assert "the disk does not let us" in told["troubles"]["index_not_written"]
    with pytest.raises(ControlError):
        await handlers.ledger_numbers({})
    with pytest.raises(StorageError, match="the disk does not let us"):
        await opened.instances.store(part10(data_set(2, 1, 1)), Origin.CALLER)
    again = spawn(opened.instances.recover(), name="a scene")
    while not again.done():
        await opened.clock.advance(10)
    held = opened.held(1, 1, 1)
    assert held is not None
    assert held.state is DebtState.OWED
    assert opened.index.stopped_by is None
    assert (await handlers.ledger_numbers({"unknown_too": True}))["lag_objects"] == 1
    opened.close()


@pytest.mark.parametrize("by", ["ours", "sqlite's"])
async def test_behind_a_log_that_was_not_synced_once_nothing_is_written_and_nothing_told(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """A second sync says that all is well, though a part of the log was dropped, with all behind it."""
    before = _as_after_a_cut(room, tmp_path / "before")
    await room.store(part10(data_set(1, 1, 1)))
    with monkeypatch.context() as patched:
        if by == "ours":
            patched.setattr("failover.durable.SyncedFile.sync", _fails)
            # It is known, hence not in the journal: the log is synced for it.
            failing: Awaitable[object] = room.store(part10(data_set(1, 1, 1)))
        else:
            connection = _NotSynced(room.index._writer._connection)
            patched.setattr(room.index._writer, "_connection", connection)
            failing = room.index.write(lambda _: None)
        with pytest.raises(StorageError):
            await failing
    with pytest.raises(StorageError, match="before a restart"):
        await room.store(part10(data_set(2, 1, 1)))
    with pytest.raises(StorageError, match="before a restart"):
        room.janitor.turn()
    assert "restart the archive" in room.troubles.sentences()["index_not_written"]
    assert room.index.instance(uid(1, 1, 1)) is not None, "reads go on"
    room.close()
    opened = _Opened(_as_after_a_cut(room, tmp_path / "restarted", before))
    held = opened.held(1, 1, 1)
    assert held is not None, "the journal has kept it"
    assert held.state is DebtState.OWED
    await opened.instances.store(part10(data_set(2, 1, 1)), Origin.CALLER)
    opened.close()


class _NotSynced:
    """A connection whose commits the disk does not take."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error
        return self._connection.execute(statement, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_kill_on_a_full_disk_leaves_out_what_was_not_acknowledged(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _as_after_a_cut(room, tmp_path / "before")
    await room.store(part10(data_set(1, 1, 1)))
    killed = _as_after_a_cut(room, tmp_path / "killed", before)
    monkeypatch.setattr(recovery, "write_file", _full)
    opened = _Opened(killed)
    assert opened.held(1, 1, 1) is None
    await opened.instances.store(part10(data_set(1, 1, 1)), Origin.CALLER)
    opened.close()


async def test_what_is_in_the_journal_and_could_not_be_written_to_its_file_was_never_stored(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file is written while the journal is: what fails there is refused, and does not come back."""

    def full(arrived: Arrived) -> None:
        arrived.path.write_bytes(b"a part of it")
        raise DiskFull("no room")

    with monkeypatch.context() as patched:
        patched.setattr(Arrived, "write", full)
        with pytest.raises(DiskFull):
            await room.store(part10(data_set(1, 1, 1)))
    assert [record.number for record in room.index.journal.records()] == [1]
    assert not list((room.data_dir / "incoming").iterdir())
    await room.store(part10(data_set(1, 1, 2)))
    opened = _Opened(_as_after_a_cut(room, tmp_path / "killed"))
    assert opened.held(1, 1, 1) is None
    assert opened.held(1, 1, 2) is not None
    opened.close()


async def test_what_the_journal_did_not_take_for_certain_is_never_newer_than_the_index(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reboot: Callable[[], None]
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        patched.setattr("failover.archive.placement.sync_file", lambda path: None)
        await room.store(part10(data_set(1, 1, 1)))
    assert [record.number for record in room.index.journal.records()] == [1], "the disk has taken it"
    await room.clock.advance(200 * 24 * 3600)
    await room.ledger.mark([uid(1, 1, 1)], DebtState.PROVEN)
    assert await asyncio.to_thread(room.janitor.evict) == 1
    reboot()
    opened = _Opened(_as_after_a_cut(room, tmp_path / "cut"))
    assert opened.held(1, 1, 1) is None
    opened.close()


async def test_a_file_that_was_missed_is_shown_again_when_the_journal_has_it(
    room: Room, tmp_path: Path
) -> None:
    stored = await room.store(part10(data_set(1, 1, 1)))
    row = room.index.row(stored.key.sop_instance_uid)
    assert row is not None
    room.index.file(row["path"]).unlink()
    room.janitor.compare_folder(row["path"].split("/")[1])
    room.janitor.refuse_lost()
    assert room.index.instance(uid(1, 1, 1)) is None
    opened = _Opened(_as_after_a_cut(room, tmp_path / "killed"))
    held = opened.held(1, 1, 1)
    assert held is not None
    assert held.path.stat().st_size == held.size_bytes
    assert held.state is DebtState.OWED
    opened.close()


async def test_a_damaged_record_hides_none_behind_it_and_no_pixels_pass_for_one(
    make_room: MakeRoom, tmp_path: Path, reboot: Callable[[], None]
) -> None:
    room = make_room()
    before = _as_after_a_cut(room, tmp_path / "before")
    await room.store(part10(data_set(9, 1, 1)))
    forged = b"FOVRJNL1" + bytes(8) + (99).to_bytes(8, "little") + bytes(12)
    forged += zlib.crc32(forged).to_bytes(4, "little")
    for number in range(1, 4):
        await room.store(part10(data_set(1, 1, number, PixelData=forged * 400)))
    cut = _as_after_a_cut(room, tmp_path / "cut", before)
    shutil.rmtree(cut / "objects")
    content = bytearray((cut / NAMES[0]).read_bytes())
    content[list(room.index.journal.records())[1].content_at - 60] ^= 1
    (cut / NAMES[0]).write_bytes(content)
    reboot()
    opened = _Opened(cut)
    found = [opened.held(*place) is not None for place in ((9, 1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3))]
    assert found == [True, False, True, True]
    assert opened.index.journal.last_number == 4
    opened.close()


def test_a_journal_of_a_newer_version_is_not_passed_over(make_room: MakeRoom, tmp_path: Path) -> None:
    make_room().close()
    (tmp_path / "archive" / NAMES[0]).write_bytes(b"FOVRJNL2" + bytes(100))
    with pytest.raises(StateUnreadable):
        _Opened(tmp_path / "archive")


@pytest.mark.parametrize("content", [b"", b"FOVR", bytes(1000), b"FOVRJNL1" + b"\xff" * 40, b"x" * 9000])
def test_a_journal_that_is_none_is_begun_anew(make_room: MakeRoom, tmp_path: Path, content: bytes) -> None:
    make_room().close()
    (tmp_path / "archive" / NAMES[0]).write_bytes(content)
    opened = _Opened(tmp_path / "archive")
    assert opened.index.recovered
    opened.close()
