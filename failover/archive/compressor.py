"""Lossless compression in the background: proven objects, one after the other, in a process of low priority.

What is compressed and how it is proven decides `compressing`, in that process; how files are replaced,
`replacing`. Here stands which object is next. What is owed again is made first what it was, so that the
primary gets what it would have got (`restore`). Bounded: one object at a time, and as long a rest as it took.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

from failover.archive import paths
from failover.archive.codecs import Undecodable
from failover.archive.compressing import SYNTAXES, Kept, Original
from failover.archive.damaged import Damaged
from failover.archive.decoders import Decoders
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.pixels import NoPixels, NoSuchFrame
from failover.archive.replacing import replace_file
from failover.archive.rows import File
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.dicom.query_keys import comparable_value
from failover.errors import StorageError, UnreadableDataSet
from failover.metrics import COMPRESSED_MODALITIES, ArchiveMetrics

_log = structlog.get_logger(__name__)
DONE: Final = "done"
FAILED: Final = "failed"
# What was compressed, is owed again and could not be brought back: it is sent as it is.
UNRESTORABLE: Final = "unrestorable"
# How often it is looked for new objects, and for what is owed and was compressed.
_LOOK_S: Final = 1.0
# How often all objects are looked through again, for those that are proven by now; after trouble, the rest.
_ROUND_S: Final = 300.0
# Until what is owed again is tried again: a full disk is no word on the object.
_AFTER_TROUBLE_S: Final = 10.0
# A frame may take this long in a process that everyone else goes before.
_FRAME_TIMEOUT_S: Final = 300.0
# How often it is counted what waits, and up to how many: each costs a look at its row.
_COUNT_S: Final = 60.0
_MOST_COUNTED: Final = 100_000
_WAITING: Final = (
    " FROM instances i JOIN series s ON s.id = i.series"
    " WHERE i.compression IS NULL AND i.state IN ('none', 'proven') AND i.proven_at IS NOT NULL"
    " AND i.hidden = 0 AND i.id > ? AND s.modality NOT IN (SELECT value FROM json_each(?))"
)
_NEXT: Final = f"SELECT i.*, s.modality{_WAITING} ORDER BY i.id LIMIT 1"
_COUNT: Final = f"SELECT count(*) FROM (SELECT 1{_WAITING} LIMIT {_MOST_COUNTED})"
_OWED_AGAIN: Final = (
    "SELECT i.* FROM instances i WHERE i.state = 'owed' AND i.compression = 'done'"
    " ORDER BY i.arrived_at LIMIT 1"
)


class Compressor:
    """One per archive that has a primary. `run` as a task, `close` last."""

    def __init__(
        self,
        data_dir: Path,
        index: Index,
        instances: Instances,
        damaged: Damaged,
        default: str,
        by_modality: Mapping[str, str],
        metrics: ArchiveMetrics,
        clock: Clock,
    ) -> None:
        """`default` and the values of `by_modality`: none, or a key of `compressing.SYNTAXES`."""
        self._data_dir = data_dir
        self._index = index
        self._instances = instances
        self._damaged = damaged
        self._default = default
        # As the index holds modalities: in their normal form.
        self._by_modality = {comparable_value("CS", name): how for name, how in by_modality.items()}
        self._metrics = metrics
        self._clock = clock
        self._worker = Decoders(1, timeout_s=_FRAME_TIMEOUT_S, background=True)
        self._last = 0  # objects before it have been looked at in this round
        self._round_began_s = self._rests_until_s = self._counted_s = float("-inf")

    async def close(self) -> None:
        await self._worker.close()

    async def run(self) -> None:
        """Work until cancelled. What fails is logged, and the next object taken."""
        await asyncio.to_thread(self.count)
        while True:
            began, rest_s = self._clock.monotonic(), _LOOK_S
            try:
                if began >= self._counted_s + _COUNT_S:
                    self._counted_s = began
                    await asyncio.to_thread(self.count_waiting)
                worked = await self.turn()
            except (StorageError, OSError, sqlite3.Error) as error:
                _log.warning("compression stopped for a while", error=str(error))
                worked, rest_s = False, _AFTER_TROUBLE_S
                self._rests_until_s = self._clock.monotonic() + _ROUND_S
            except Exception:
                _log.exception("compression stopped for a while")
                worked, rest_s = False, _AFTER_TROUBLE_S
                self._rests_until_s = self._clock.monotonic() + _ROUND_S
            await self._clock.sleep(self._clock.monotonic() - began if worked else rest_s)

    async def turn(self) -> bool:
        """Bring back one object that is owed again, else compress the next one; False: there was none."""
        if await self._restore_one():
            return True
        if self._clock.monotonic() < self._rests_until_s:
            return False
        row = await asyncio.to_thread(self._next)
        if row is None and self._clock.monotonic() >= self._round_began_s + _ROUND_S:
            self._last, self._round_began_s = 0, self._clock.monotonic()
            row = await asyncio.to_thread(self._next)
        if row is None:
            return False
        self._last = row["id"]
        await self._compress(row)
        return True

    def count(self) -> None:
        """Set the gauges from what is written down. Blocks."""
        for row in self._index.reader().execute("SELECT * FROM compressed"):
            self._show(row["modality"], row["bytes_before"], row["bytes_after"])

    def count_waiting(self) -> None:
        """Set the gauge of what is still to be looked at. Blocks."""
        row = self._asked(_COUNT, after=0)
        self._metrics.compression_waiting.set(0 if row is None else row[0])

    # -- compressing --------------------------------------------------------------------------------

    def _next(self) -> sqlite3.Row | None:
        return self._asked(_NEXT, after=self._last)

    def _asked(self, query: str, *, after: int) -> sqlite3.Row | None:
        """Return the row that `query` finds in what waits beyond the id `after`; None: there is nothing."""
        named = [modality for modality, how in self._by_modality.items() if how == "none"]
        if self._default == "none":
            named = [modality for modality, how in self._by_modality.items() if how != "none"]
            if not named:
                return None
            query = query.replace("NOT IN", "IN")
        found: sqlite3.Row | None = self._index.reader().execute(query, (after, json.dumps(named))).fetchone()
        return found

    async def _compress(self, row: sqlite3.Row) -> None:
        self._instances.check_room(row["bytes"])
        target = self._instances.temporary()
        syntax = SYNTAXES[self._by_modality.get(row["modality"], self._default)]
        try:
            if not await self._damaged.is_whole(row):
                return  # compressed, the damage would get a digest that is right
            outcome = await self._worker.compressed(self._data_dir / row["path"], target, syntax)
            if "kept" in outcome:
                await self._keep(row, outcome["kept"])
                return
            new = _file(row, outcome["made"])
            original = json.dumps(outcome["original"])
            modality = _label(row["modality"])
            if await self._index.write(lambda t: self._replace(t, row, target, new, original, modality)):
                self._metrics.compressed.labels(DONE).inc()
                await asyncio.to_thread(self.count)
        except FileNotFoundError:
            return  # evicted or replaced this moment; a file that is gone is the janitor's affair
        except (Undecodable, NoPixels, NoSuchFrame, UnreadableDataSet) as error:
            _log.warning("an object could not be compressed", error=type(error).__name__)
            await self._keep(row, FAILED)
        finally:
            await asyncio.to_thread(target.unlink, missing_ok=True)

    async def _keep(self, row: sqlite3.Row, why: str) -> None:
        self._metrics.compressed.labels(why).inc()
        await self._index.write(
            lambda t: t.connection.execute(
                "UPDATE instances SET compression = ? WHERE id = ? AND digest = ?",
                (why, row["id"], row["digest"]),
            )
        )

    def _replace(
        self,
        transaction: Transaction,
        row: sqlite3.Row,
        target: Path,
        new: File,
        original: str,
        modality: str,
    ) -> bool:
        held = replace_file(
            transaction, self._data_dir, row, target, new, now=self._now(), may=_may_be_compressed
        )
        if held is None:
            return False
        transaction.connection.execute(
            "UPDATE instances SET compression = ?, arrived = ?, arrived_digest = ? WHERE id = ?",
            (DONE, original, held["digest"], held["id"]),
        )
        transaction.connection.execute(
            "INSERT INTO compressed VALUES (?, 1, ?, ?) ON CONFLICT (modality) DO UPDATE SET"
            " objects = objects + 1, bytes_before = bytes_before + excluded.bytes_before,"
            " bytes_after = bytes_after + excluded.bytes_after",
            (modality, held["bytes"], new.size_bytes),
        )
        return True

    def _show(self, modality: str, before: int, after: int) -> None:
        self._metrics.compression_bytes.labels(modality, "before").set(before)
        self._metrics.compression_bytes.labels(modality, "after").set(after)
        self._metrics.compression_ratio.set(before / after if after else None, modality)

    # -- bringing back ------------------------------------------------------------------------------

    async def _restore_one(self) -> bool:
        row = await asyncio.to_thread(lambda: self._index.reader().execute(_OWED_AGAIN).fetchone())
        if row is None:
            return False
        target = self._instances.temporary()
        try:
            self._instances.check_room(row["bytes"])
            if not await self._damaged.is_whole(row):
                return True  # brought back, or sent as it is, the damage would pass for the object
            original = Original(**json.loads(row["arrived"]))
            outcome = await self._worker.restored(self._data_dir / row["path"], target, original)
            new = _file(row, outcome["made"])
            if original.exact and new.digest != row["arrived_digest"]:
                raise Undecodable("the object does not come back as it was")
            await self._index.write(lambda t: self._put_back(t, row, target, new))
        except FileNotFoundError:
            _log.error("an object that is owed again is not there any more")
            await self._keep(row, UNRESTORABLE)
        except (Undecodable, NoPixels, NoSuchFrame, UnreadableDataSet) as error:
            # It is lossless all the same: better the primary gets it in another syntax than not at all.
            _log.error("an object that is owed again is sent compressed", error=type(error).__name__)
            await self._keep(row, UNRESTORABLE)
        finally:
            await asyncio.to_thread(target.unlink, missing_ok=True)
        return True

    def _put_back(self, transaction: Transaction, row: sqlite3.Row, target: Path, new: File) -> None:
        held = replace_file(
            transaction, self._data_dir, row, target, new, now=self._now(), may=lambda _: True
        )
        if held is not None:
            same = held["arrived_digest"] == new.digest
            transaction.connection.execute(
                "UPDATE instances SET compression = NULL, arrived = NULL, arrived_digest = ? WHERE id = ?",
                (None if same else held["arrived_digest"], held["id"]),
            )

    def _now(self) -> float:
        return self._clock.wall().timestamp()


def _may_be_compressed(held: sqlite3.Row) -> bool:
    """It may have become owed, or hidden, while it was compressed."""
    return held["state"] in ("none", "proven") and held["proven_at"] is not None and not held["hidden"]


def _label(modality: str) -> str:
    return modality.upper() if modality.upper() in COMPRESSED_MODALITIES else "other"


def _file(row: sqlite3.Row, made: dict[str, Any]) -> File:
    digest = bytes.fromhex(made["digest"])
    return File(
        transfer_syntax_uid=made["syntax"],
        path=paths.object_path(row["uid"], digest),
        size_bytes=made["size_bytes"],
        data_set_offset=made["data_set_offset"],
        pixel_offset=made["pixel_offset"],
        pixel_length=made["pixel_length"],
        digest=digest,
    )


REASONS: Final = (DONE, *(kept.value for kept in Kept), FAILED, UNRESTORABLE)
