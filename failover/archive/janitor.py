"""Keeps the archive's folders true to its index, and carries out retention, a little at a time.

At the start it removes what a kill has left half done. Later, each turn is bounded: some folders are compared
with the index (a file without a row goes, a row without a file is shown no more), some objects are evicted.
What goes is written down as doomed in the transaction that removes its row, so that no file is forgotten.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import structlog

from failover.archive import lost, paths, rows
from failover.archive.clock_guard import ClockGuard
from failover.archive.index import Index
from failover.archive.index_file import what_to_do
from failover.archive.opening import is_damage, is_unread, look_through
from failover.archive.replacing import doom, is_doomed
from failover.archive.reserve import Reserve
from failover.archive.retention import (
    PROOF_AGE_S,
    Candidate,
    Cause,
    Policy,
    choose,
    space_wanted,
)
from failover.archive.troubles import Trouble, Troubles
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.errors import DiskFull, StorageError
from failover.metrics import ArchiveMetrics
from failover.model import DebtState

_log = structlog.get_logger(__name__)

_TURN_EVERY_S: Final = 10.0
# A disk that does not give the index back in so many turns one after the other has lost it.
_UNREAD_TURNS: Final = 3
# 4096 folders are compared in about an hour and a half.
_FOLDERS_A_TURN: Final = 8
_EVICTED_A_TRANSACTION: Final = 200
_TRANSACTIONS_A_TURN: Final = 10
# Where a walk through what wants a proof stands: (arrived_at, row), or a study's date, time, row, and a row.
Place = tuple[Any, ...]
# What a replicator that died has left in handover/; a living one hands over within seconds.
_HANDOVER_AGE_S: Final = 3600.0

# Patients whose studies stay, also those that come later: a JSON list of patient IDs in their normal form.
PATIENTS_FACT: Final = "protected_patients"
PROTECTED_PATIENTS: Final = (
    f"SELECT value FROM json_each((SELECT value FROM facts WHERE name = '{PATIENTS_FACT}'))"
)
PROTECTED: Final = f"(t.protected = 1 OR t.patient_id IN ({PROTECTED_PATIENTS}))"
_MAY_GO: Final = f"i.state IN ('none', 'proven', 'deleted') AND NOT {PROTECTED}"
_PROVEN_LATELY: Final = "(i.state = 'deleted' OR i.proven_at >= ?)"
_CANDIDATES: Final = (
    "SELECT i.id, i.bytes, t.date, i.arrived_at, i.state, i.proven_at, t.protected"
    " FROM {order} WHERE " + _MAY_GO
)
_BY_AGE: Final = "instances i JOIN studies t ON t.id = i.study"
# CROSS JOIN keeps the order of the tables: SQLite walks studies_by_date backwards and stops at the limit.
_BY_STUDY: Final = "studies t CROSS JOIN instances i ON i.study = t.id"
_STUDY_ORDER: Final = "t.date, t.time, t.id, i.id"
# A study without a date is not older than all others: it goes by its age alone.
_HAS_DATE: Final = "t.date > ''"


class Janitor:
    """One per archive. `at_start` before anything is stored, then `run` as a task."""

    def __init__(
        self,
        data_dir: Path,
        index: Index,
        policy: Policy,
        metrics: ArchiveMetrics,
        clock: Clock,
        troubles: Troubles | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._index = index
        self.policy = policy
        self._metrics = metrics
        self._clock = clock
        self._troubles = troubles or Troubles(metrics)
        self._reserve = Reserve(data_dir)
        self.clock_guard = ClockGuard(index, clock, self._troubles)
        self._next_folder = 0

    def change(self, policy: Policy) -> None:
        """Go by this policy from the next turn on."""
        self.policy = policy

    def at_start(self) -> None:
        """Remove what a kill has left: half-received objects, files whose rows are gone. Blocks.

        On a disk that is full what can be removed without writing is; the rest waits for the turns.
        """
        self.look_at_index()
        self.look_for_room()
        left = 0
        for path in (self._data_dir / paths.INCOMING).iterdir():
            path.unlink(missing_ok=True)
            left += 1
        now = self._clock.wall().timestamp()
        for path in (self._data_dir / paths.HANDOVER).rglob("*"):
            if path.is_file() and now - path.stat().st_mtime > _HANDOVER_AGE_S:
                path.unlink(missing_ok=True)
                left += 1
        try:
            self._bury(at_start=True)
        except StorageError as error:
            _log.warning("files whose rows are gone are still there", error=str(error))
        if left:
            _log.info("leftovers removed", files=left)

    async def run(self) -> None:
        """Take turns until cancelled. A turn that fails is logged; the next one tries again."""
        unread = 0
        while True:
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.turn)
                unread = 0
            except DiskFull as error:
                _log.warning("janitor's turn failed", error=str(error))
                self._reserve.give_up()  # for the next turn: evictions, too, are written down
            except sqlite3.DatabaseError as error:
                _log.warning("janitor's turn failed", error=str(error))
                unread = unread + 1 if is_unread(error) else 0
                if is_damage(error) or unread == _UNREAD_TURNS:
                    self._damaged(str(error))
            except (StorageError, OSError, sqlite3.Error) as error:
                _log.warning("janitor's turn failed", error=str(error))
            except Exception:
                # A bug in one turn: without the others nothing is evicted, and one day no store is taken.
                _log.exception("janitor's turn failed")
            await self._clock.sleep(_TURN_EVERY_S)

    async def look_through_index(self) -> None:
        """Look once, in a thread, whether the index is sound; a damaged one is written no more."""
        path = self._data_dir / paths.INDEX
        began_s = self._clock.monotonic()
        found = await asyncio.to_thread(look_through, path, self._clock)
        if found.unread is not None:
            await self._clock.sleep(_TURN_EVERY_S)
            found = await asyncio.to_thread(look_through, path, self._clock)
        took_s = round(self._clock.monotonic() - began_s, 1)
        damage = found.damage or found.unread
        if damage is not None:
            self._damaged(damage)
        elif found.whole:
            _log.info("index looked through: it is sound", took_s=took_s)
        else:
            _log.warning("index looked through in part: no damage so far", took_s=took_s)

    def _damaged(self, damage: str) -> None:
        what = f"the index is damaged ({damage}): stores are refused; {what_to_do(self._data_dir)}"
        self._troubles.tell(Trouble.INDEX_DAMAGED, what)
        self._index.refuse_writes("the index is damaged")

    def look_for_room(self) -> None:
        """Keep the index's room, and tell when stores find none."""
        self._reserve.keep()
        full = self._reserve.free_bytes() < self.policy.min_free_bytes
        what = (
            f"the disk of {self._data_dir} has less than archive.retention.min_free_bytes left: stores are"
            " refused until there is room"
        )
        self._troubles.tell(Trouble.NO_ROOM, what if full else None)

    def look_at_index(self) -> None:
        """Tell when the disk has ended the writing of the index."""
        why = self._index.stopped_by
        what = f"{why}; stores are refused; look at the disk, then restart the archive"
        self._troubles.tell(Trouble.INDEX_NOT_WRITTEN, what if why else None)

    def turn(self) -> None:
        """One turn: numbers, folders, history, retention. Blocks; for a thread."""
        self.look_at_index()
        self.look_for_room()
        self.count()
        for _ in range(_FOLDERS_A_TURN):
            self.compare_folder(f"{self._next_folder:03x}")
            self._next_folder = (self._next_folder + 1) % 4096
        self.refuse_lost()
        self._index.write_now(self._forget_history)
        for _ in range(_TRANSACTIONS_A_TURN):
            if not self.evict():
                break
        self._bury()

    def count(self) -> None:
        """Set the gauges of what is held."""
        numbers = self._index.numbers()
        self._metrics.instances.set(numbers["instances"])
        self._metrics.studies.set(numbers["studies"])
        self._metrics.bytes.set(numbers["bytes"])
        self._metrics.limit_bytes.set(self.policy.max_bytes)
        self._metrics.free_bytes.set(self.free_bytes())
        self._metrics.min_free_bytes.set(self.policy.min_free_bytes)

    # -- retention ----------------------------------------------------------------------------------

    def evict(self) -> int:
        """Evict at most 200 objects; return how many went."""
        self.clock_guard.look(self.policy)
        return self._index.write_now(self._evict)

    def unproven(self, limit: int, after: Place | None = None) -> tuple[list[str], Place | None]:
        """Return SOP instance UIDs that would go had they a proof young enough, and where to go on.

        First by age, oldest first, then, where space is wanted, those of the oldest studies. `after` is what
        the last call returned, so that objects which get no proof do not stand in the way of the others.
        """
        if not self.policy.needs_proof:
            return [], None
        now = self._clock.wall().timestamp()
        old_proof = f"{_MAY_GO} AND i.state <> 'deleted' AND coalesce(i.proven_at, 0) < ?"
        if after is None or len(after) == 2:
            found = self._index.reader().execute(
                f"SELECT i.uid, i.arrived_at, i.id FROM {_BY_AGE} WHERE {old_proof} AND i.arrived_at < ?"
                " AND (i.arrived_at, i.id) > (?, ?) ORDER BY i.arrived_at, i.id LIMIT ?",
                (now - PROOF_AGE_S, self._cutoff(now), *(after or (-1.0, 0)), limit),
            )
            rows_ = [tuple(row) for row in found]
            if rows_:
                return [row[0] for row in rows_], rows_[-1][1:]
            after = None
        if not self._space_wanted():
            return [], None
        found = self._index.reader().execute(
            f"SELECT i.uid, {_STUDY_ORDER} FROM {_BY_STUDY} WHERE {old_proof} AND {_HAS_DATE}"
            f" AND ({_STUDY_ORDER}) > (?, ?, ?, ?) ORDER BY {_STUDY_ORDER} LIMIT ?",
            (now - PROOF_AGE_S, *(after or ("", "", 0, 0)), limit),
        )
        rows_ = [tuple(row) for row in found]
        return [row[0] for row in rows_], rows_[-1][1:] if rows_ else None

    def _evict(self, transaction: Transaction) -> int:
        now = self._clock.wall().timestamp()
        wanted = self._space_wanted()
        by_age = self.clock_guard.believed
        going = choose(self._candidates(transaction, now, for_space=False), self.policy, now, 0)
        if wanted and not going:
            candidates = self._candidates(transaction, now, for_space=True)
            going = choose(candidates, self.policy, now, wanted, by_age=by_age)
        for candidate, cause in going:
            self._remove(transaction, candidate, cause, now)
        if going:
            ended = max((c.study_date for c, cause in going if cause is Cause.SPACE), default=None)
            if ended is not None:
                self._index.covered.ended(transaction, ended)
            transaction.after.append(lambda: self._metrics.evicted.inc(len(going)))
            _log.info("evicted", objects=len(going), for_space=bool(wanted))
        return len(going)

    def _candidates(self, transaction: Transaction, now: float, *, for_space: bool) -> list[Candidate]:
        """Return what may go: old enough, or of the oldest studies."""
        conditions, parameters = "", []
        if self.policy.needs_proof:
            conditions += f" AND {_PROVEN_LATELY}"
            parameters.append(now - PROOF_AGE_S)
        if for_space:
            query, order = _CANDIDATES.format(order=_BY_STUDY), _STUDY_ORDER
            conditions += f" AND {_HAS_DATE}"
        else:
            query, order = _CANDIDATES.format(order=_BY_AGE), "i.arrived_at"
            conditions += " AND i.arrived_at < ?"
            parameters.append(self._cutoff(now))
        found = transaction.connection.execute(
            f"{query}{conditions} ORDER BY {order} LIMIT ?", (*parameters, _EVICTED_A_TRANSACTION)
        )
        return [_candidate(row) for row in found.fetchall()]

    def _space_wanted(self) -> int:
        return space_wanted(self._index.numbers()["bytes"], self.free_bytes(), self.policy)

    def _remove(self, transaction: Transaction, candidate: Candidate, cause: Cause, now: float) -> None:
        row = transaction.connection.execute(
            "SELECT i.*, t.uid AS study_uid FROM instances i JOIN studies t ON t.id = i.study WHERE i.id = ?",
            (candidate.row,),
        ).fetchone()
        rows.remove_instance(transaction, row)
        doom(transaction, row["path"])
        if cause is Cause.SPACE:
            transaction.connection.execute(
                "INSERT OR REPLACE INTO evicted VALUES (?, ?)", (row["study_uid"], now)
            )

    def _cutoff(self, now: float) -> float:
        """What came before this moment is old; nothing is while the clock is not believed."""
        if not self.clock_guard.believed:
            return 0.0
        return now - timedelta(days=self.policy.days).total_seconds()

    def free_bytes(self) -> int:
        """Return how much of the disk is free."""
        return self._reserve.free_bytes()

    def _forget_history(self, transaction: Transaction) -> None:
        """Versions that the primary has corrected go after the days of retention."""
        cutoff = self._cutoff(self._clock.wall().timestamp())
        connection = transaction.connection
        found = connection.execute(
            "SELECT id, path FROM history WHERE replaced_at < ? LIMIT ?", (cutoff, _EVICTED_A_TRANSACTION)
        ).fetchall()
        # Such a study has left the window by its date.
        connection.execute("DELETE FROM evicted WHERE evicted_at < ?", (cutoff,))
        for row in found:
            connection.execute("DELETE FROM history WHERE id = ?", (row["id"],))
            doom(transaction, row["path"])

    # -- files --------------------------------------------------------------------------------------

    def _bury(self, *, at_start: bool = False) -> None:
        """Unlink what is doomed. In the writer thread: nothing can come back to life meanwhile.

        `at_start`: nobody reads yet, so that nothing need wait.
        """
        until = float("inf") if at_start else self._clock.wall().timestamp()
        while self._index.write_now(lambda transaction: self._bury_some(transaction, until)):
            pass

    def _bury_some(self, transaction: Transaction, until: float) -> int:
        connection = transaction.connection
        found = connection.execute(
            "SELECT path FROM doomed WHERE not_before <= ? LIMIT ?", (until, _EVICTED_A_TRANSACTION)
        ).fetchall()
        for row in found:
            if not self._is_used(connection, row["path"]):
                (self._data_dir / row["path"]).unlink(missing_ok=True)
            connection.execute("DELETE FROM doomed WHERE path = ?", (row["path"],))
        return len(found)

    def compare_folder(self, name: str) -> None:
        """Make one folder and the index agree. In the writer thread: no store is half way there then."""
        folder = self._data_dir / paths.OBJECTS / name

        def work(transaction: Transaction) -> None:
            connection = transaction.connection
            files = (
                {f"{paths.OBJECTS}/{name}/{file}" for file in os.listdir(folder)}
                if folder.is_dir()
                else set()
            )
            known = connection.execute(
                "SELECT i.* FROM instances i WHERE i.path >= ? AND i.path < ?",
                (f"{paths.OBJECTS}/{name}/", f"{paths.OBJECTS}/{name}0"),
            ).fetchall()
            for path in files - {row["path"] for row in known}:
                if not self._is_used(connection, path) and not is_doomed(connection, path):
                    (self._data_dir / path).unlink(missing_ok=True)
                    _log.warning("file without a row removed")
            for row in known:
                if row["path"] not in files and not row["hidden"]:
                    rows.hide_instance(transaction, row, hidden=True)
                    _log.error("an object's file is gone: it is shown no more", state=row["state"])

        self._index.write_now(work)

    def refuse_lost(self) -> None:
        """Wait no more for what is owed and has no file."""
        if not lost.are_lost(self._index.reader(), self._data_dir):
            return
        now = self._clock.wall().timestamp()
        if count := self._index.write_now(lambda t: lost.refuse(t, self._data_dir, now)):
            _log.error("objects that were owed are damaged or gone: send them again", objects=count)

    @staticmethod
    def _is_used(connection: sqlite3.Connection, path: str) -> bool:
        found = connection.execute(
            "SELECT 1 FROM instances WHERE path = ?1 UNION ALL SELECT 1 FROM history WHERE path = ?1"
            " UNION ALL SELECT 1 FROM quarantine WHERE path = ?1 LIMIT 1",
            (path,),
        ).fetchone()
        return found is not None


def _candidate(row: sqlite3.Row) -> Candidate:
    return Candidate(
        row=row["id"],
        size_bytes=row["bytes"],
        study_date=row["date"],
        arrived_at=row["arrived_at"],
        state=DebtState(row["state"]),
        proven_at=row["proven_at"],
        protected=bool(row["protected"]),
    )
