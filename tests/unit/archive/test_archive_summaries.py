"""Counts and finished JSON of series and studies are those of their instances, whatever happened before."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from failover.archive.arrival import Arrived, examine
from failover.archive.index import Index
from failover.archive.rows import NewInstance, add_instance
from failover.archive.writer import Transaction
from failover.errors import Conflict, StorageError
from failover.model import DebtState, Origin
from tests.unit.archive.conftest import Room
from tests.unit.archive.objects import data_set, part10, uid


def assert_counted(index: Index) -> None:
    """What each level says of itself is what counting says."""
    reader = index.reader()
    shown = {"instances": 0, "studies": 0, "bytes": 0}
    for row in reader.execute("SELECT * FROM studies").fetchall():
        found = reader.execute(
            "SELECT count(*) AS instances, count(DISTINCT series) AS series, total(bytes) AS bytes"
            " FROM instances WHERE study = ? AND hidden = 0",
            (row["id"],),
        ).fetchone()
        said = json.loads(row["json"])
        counts = [found[name] for name in ("instances", "bytes", "series")]
        assert [row[name] for name in ("instances", "bytes", "series")] == counts
        assert said["00201208"]["Value"] == [found["instances"]]
        assert said["00201206"]["Value"] == [found["series"]]
        modalities = reader.execute(
            "SELECT DISTINCT upper(modality) FROM series WHERE study = ? AND instances > 0 ORDER BY 1",
            (row["id"],),
        )
        assert said.get("00080061", {}).get("Value", []) == [one[0] for one in modalities]
        shown = {
            "instances": shown["instances"] + found["instances"],
            "studies": shown["studies"] + 1,
            "bytes": shown["bytes"] + int(found["bytes"]),
        }
    for row in reader.execute("SELECT * FROM series").fetchall():
        count, size = reader.execute(
            "SELECT count(*), total(bytes) FROM instances WHERE series = ? AND hidden = 0", (row["id"],)
        ).fetchone()
        assert (row["instances"], row["bytes"]) == (count, size)
        assert json.loads(row["json"])["00201209"]["Value"] == [count]
    assert index.numbers() == shown


async def test_counts_hold_through_stores_hiding_correction_and_conflict(room: Room) -> None:
    async def store(*place: int, origin: Origin = Origin.CALLER, **attributes: Any) -> None:
        await room.store(part10(data_set(*place, **attributes)), origin)
        assert_counted(room.index)

    await asyncio.gather(*(room.store(part10(data_set(1, 1, number))) for number in range(1, 9)))
    assert_counted(room.index)
    await store(1, 2, 1, Modality="SR")
    await store(2, 1, 1)
    # One hidden and shown again, and the last of its series.
    for state in (DebtState.DELETED, DebtState.OWED):
        await room.ledger.mark([uid(1, 1, 3)], DebtState.PROVEN)
        await room.ledger.mark([uid(1, 1, 3)], state)
        assert_counted(room.index)
    await room.ledger.mark([uid(1, 2, 1)], DebtState.PROVEN)
    await room.ledger.mark([uid(1, 2, 1)], DebtState.DELETED)
    assert_counted(room.index)
    await store(1, 2, 2, Modality="SR")
    await store(1, 1, 4, origin=Origin.REPLICATED, StudyDescription="corrected")
    await store(1, 1, 5, origin=Origin.REPLICATED, Modality="MR")
    await store(3, 1, 1, origin=Origin.REPLICATED)
    # It moves to another study: its own is left empty, and goes.
    moved = data_set(4, 1, 1)
    moved.SOPInstanceUID = uid(3, 1, 1)
    await room.store(part10(moved), Origin.REPLICATED)
    assert_counted(room.index)
    with pytest.raises(Conflict):
        await room.store(part10(data_set(2, 1, 1, PatientID="other")))
    assert_counted(room.index)


async def test_what_is_remembered_does_not_outlive_a_rollback(room: Room) -> None:
    """An instance of a new series that is taken back, alone or with its whole transaction, then comes."""
    await room.store(part10(data_set(1, 1, 1)))

    def coming(content: bytes, error: Exception) -> Callable[[Transaction], None]:
        it = examine(Arrived(room.data_dir / "none", [content]))
        new = NewInstance(
            it.described, it.meta.transfer_syntax_uid, "objects/abc/none.dcm", it.size_bytes, 0, None, None,
            it.digest, Origin.CALLER, DebtState.OWED, 0.0,
        )  # fmt: skip

        def work(transaction: Transaction) -> None:
            add_instance(transaction, new)
            raise error

        return work

    errors: list[Exception] = [StorageError("the job alone"), sqlite3.OperationalError("all of it")]
    for number, error in enumerate(errors, start=2):
        content = part10(data_set(1, number, 1))
        with pytest.raises(StorageError):
            await room.index.write(coming(content, error))
        await room.store(content)
        assert_counted(room.index)
        held = room.index.instance(uid(1, number, 1))
        assert held is not None
        assert held.key.series_instance_uid == uid(1, number)
