"""What keeps files and debt safe from faults of ours: a writer that goes on, an index not replaced."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest

from failover.aio import cancel_and_wait, spawn
from failover.archive.index import Index
from failover.archive.kept_metadata import NAME, KeptMetadata
from failover.archive.ledger import Ledger
from failover.archive.paths import INDEX, OBJECTS
from failover.archive.service import _limits
from failover.archive.writer import Transaction
from failover.clock import ManualClock
from failover.config.load import parse
from failover.errors import StateUnreadable
from failover.relay.copies import _LANES
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import an_object


def test_when_the_router_is_full_there_are_places_for_its_probes_and_copies(tmp_path: Path) -> None:
    text = "primary: {dicom: {host: 127.0.0.1, port: 4242, ae_title: A}}\n"
    text += "listen: {dicom: {max_associations: 7, max_per_address: 2, max_per_ae_title: 5}}\n"
    limits = _limits(parse(text, name="failover.yaml", folder=tmp_path))
    least = min(limits.max_associations, limits.max_per_address, limits.max_per_ae_title)
    assert least - limits.reserve >= 7 + _LANES + 2  # two associations of probes at once (DESIGN 4.1)


async def test_who_gives_up_waiting_does_not_end_the_writing(tmp_path: Path) -> None:
    """A store whose association was ended, in the middle of its transaction and while it waited for one."""
    index = Index(tmp_path, has_primary=True)
    began, may_end = Event(), Event()
    done: list[str] = []

    def slow(_: Transaction) -> None:
        began.set()
        may_end.wait(20)
        done.append("under way")

    async with asyncio.timeout(30):
        under_way = spawn(index.write(slow), name="under way")
        await asyncio.to_thread(began.wait, 20)
        waiting = asyncio.wrap_future(index._writer.submit(lambda _: done.append("waiting")))
        waiting.cancel()
        await cancel_and_wait(under_way)
        may_end.set()
        await index.write(lambda _: done.append("next"))
    assert done == ["under way", "next"]
    index.close()


def test_no_new_index_is_begun_beside_objects(tmp_path: Path) -> None:
    """The janitor would take them for files that nobody knows, and what is owed is nowhere else."""
    index = Index(tmp_path, has_primary=True)
    kept = tmp_path / OBJECTS / "abc" / "def.dcm"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"an object")
    index.close()
    Index(tmp_path, has_primary=True).close()
    (tmp_path / INDEX).unlink()
    with pytest.raises(StateUnreadable, match=r"objects but index\.sqlite is new or gone: stop the archive"):
        Index(tmp_path, has_primary=True)
    assert kept.exists()
    (tmp_path / OBJECTS).rename(tmp_path / "aside")
    (tmp_path / INDEX).unlink(missing_ok=True)
    Index(tmp_path, has_primary=True).close()


def test_an_index_that_cannot_be_read_is_named_with_its_folder(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b"garbage" * 1000)
    with pytest.raises(StateUnreadable) as told:
        Index(tmp_path, has_primary=True)
    assert str(told.value).startswith(f"{tmp_path / INDEX} cannot be read: file is not a database; stop")
    assert "`failover import`" in str(told.value)


def test_metadata_that_cannot_be_kept_on_the_disk_keep_nobody_from_starting(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()  # nothing can be opened or made there
    kept = KeptMetadata(tmp_path)
    kept.keep({b"digest": b"{}"})
    assert kept.get([b"digest"]) == {b"digest": b"{}"}
    kept.close()


async def test_a_clock_that_was_set_back_makes_no_debt_young(room: Room) -> None:
    """Else the gate would take what came an hour before for what came just now, and let reads go back."""
    await room.store(an_object())
    before = ManualClock(room.clock.wall() - timedelta(hours=1))
    numbers = Ledger(room.index, before).numbers()
    assert (numbers.lag_objects, numbers.owed_older_than_10_s) == (1, 1)
