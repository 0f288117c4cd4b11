"""The index: what the archive holds, found by key, level by level; and the window of the last comparison.

Reads are synchronous and from any thread, each with a connection of its own (WAL: readers never wait for the
writer). All writing goes through `write`, in the one writer thread. Files are the business of `instances`,
debt of `ledger`, what a key means of `dicom.query_keys`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from failover.archive import summaries
from failover.archive.held import SELECT_HELD, SELECT_ROW, Held, as_held
from failover.archive.held_text import HeldText
from failover.archive.index_file import open_file, prepare, what_to_do
from failover.archive.journal import Entry, Journal
from failover.archive.kept_facts import keep_fact, read_fact
from failover.archive.kept_window import KeptWindow, evicted_until
from failover.archive.match_rows import match_of
from failover.archive.matches import Match
from failover.archive.paths import INDEX
from failover.archive.queries import Level, Query
from failover.archive.rejection import NOTES_THAT_NAME
from failover.archive.statements import Sql, is_left_over, to_sql
from failover.archive.window import Window
from failover.archive.writer import Transaction, Writer
from failover.durable import SyncedFile, make_folder, sync_folder
from failover.errors import DiskFull, StateUnreadable, StorageError

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

# Searches that may look at every row run here, so that the event loop never waits for them.
_SCAN_THREADS: Final = 2

# Hidden, though the primary has it: by a rejection note, or because janitor or scrubber found no whole file.
_HIDDEN: Final = (
    "SELECT i.study FROM instances i INDEXED BY instances_hidden"
    " WHERE i.hidden = 1 AND i.state IN ('none', 'sent', 'proven')"
)
_SET_ASIDE: Final = f"{_HIDDEN} AND i.study = t.id AND NOT EXISTS ({NOTES_THAT_NAME})".format(
    uid="i.uid", study_uid="t.uid"
)


class Index:
    """All of the archive's questions. Make one per process; `close` it last."""

    def __init__(self, data_dir: Path, *, has_primary: bool) -> None:
        """Open, or make, the index in `data_dir`. Raises StateUnreadable when the file is none of ours,
        DiskFull.

        Nor is a new one made beside objects: it would know nothing of them, and of no debt.
        """
        make_folder(data_dir)
        self._path = data_dir / INDEX
        self._data_dir = data_dir
        self._folder = str(data_dir)
        self._local = threading.local()
        self._closed = False
        self._scans = ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="archive-search")
        self._refuses_writes: str | None = None
        try:
            connection = open_file(self._path)
            try:
                prepare(connection, data_dir)
            except BaseException:
                connection.close()  # it may have begun: who tries again must not wait for it
                raise
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) == sqlite3.SQLITE_FULL:
                # Nothing is lost: whoever moved the index away would lose debts.
                raise DiskFull(f"{self._path}: the disk has no room to open it, or to update it") from error
            raise StateUnreadable(f"{self._path} cannot be read: {error}; {what_to_do(data_dir)}") from error
        sync_folder(data_dir)  # the name of the write-ahead log
        self._unrecovered: str | None = None
        self._not_synced: str | None = None
        self._log = SyncedFile(self._path.with_name(f"{INDEX}-wal"))
        self.journal = Journal(data_dir, self._sync_log)
        self.held_text = HeldText(lambda: open_file(self._path))
        self._writer = Writer(
            connection, self.journal, self._finish, self.keep_journaled, self._sync_log, self._end_writing
        )
        self.covered = KeptWindow(self._reader(), has_primary=has_primary)

    def close(self) -> None:
        """Finish what is queued for writing, then close. Reads raise afterwards.

        A read that a thread has begun ends: a connection that is closed under it takes the process along, so
        each closes with the last who uses it.
        """
        self._scans.shutdown(wait=True)
        self._writer.close()
        self._log.close()
        self.held_text.close()
        self._closed = True
        self._local = threading.local()

    # -- searching ----------------------------------------------------------------------------------

    async def search(self, query: Query) -> list[Match]:
        """Return the matches of `query`, newest study first, then by series and instance number.

        What an index finds runs at once; what may look at every row, in a thread.
        """
        sql = self._sql(query)
        if not sql.scans:
            return list(self._run(query, sql))
        return await asyncio.get_running_loop().run_in_executor(self._scans, self.search_now, query)

    async def templates(self, query: Query) -> list[bytes]:
        """Return the finished JSON of the matches of `query` (`Match.template`), in the order of `search`."""
        found = self.templates_at_once(query)
        return found if found is not None else [match.template for match in await self.search(query)]

    def templates_at_once(self, query: Query) -> list[bytes] | None:
        """As `templates`; None where it may take longer, or is not that simple."""
        sql = self._sql(query)
        if sql.scans or sql.residual or query.level is not Level.STUDY or query.with_sop_classes:
            return None
        cursor = self._reader().cursor()
        cursor.row_factory = None
        return [row[3] for row in cursor.execute(sql.text, sql.parameters).fetchall()]

    def search_now(self, query: Query) -> list[Match]:
        """Return the matches of `query`, here and now, whatever it costs."""
        return list(self.matches(query))

    def matches(self, query: Query) -> Iterator[Match]:
        """Yield the matches of `query` one by one."""
        return self._run(query, self._sql(query, may_read_all=True))

    def _sql(self, query: Query, *, may_read_all: bool = False) -> Sql:
        sql = to_sql(query)
        if sql.if_many is not None and self._reader().execute(*sql.if_many).fetchone() is not None:
            sql = to_sql(query, many=True)
        if sql.scans and sql.holding:
            among = self.held_text.candidates(sql.holding, may_read_all=may_read_all)
            if among is not None:
                return to_sql(query, among=among)
        return sql

    def _finish(self, transaction: Transaction) -> None:
        """Before the commit of each transaction, after its jobs."""
        summaries.finish(transaction)
        ids = tuple(transaction.described)
        if ids:
            self.held_text.changing(ids)
            transaction.over.append(partial(self.held_text.changed, ids))

    def _run(self, query: Query, sql: Sql) -> Iterator[Match]:
        cursor = self._reader().cursor()
        cursor.row_factory = None  # plain tuples: a search may have thousands
        make = match_of(query.level, with_sop_classes=query.with_sop_classes)
        rows = cursor.execute(sql.text, sql.parameters)
        if not sql.residual:
            yield from map(make, rows)
            return
        skip, left, own = query.offset, query.limit, -len(sql.residual)
        for row in rows:
            if not is_left_over(row[own:], sql.residual):
                continue
            if skip:
                skip -= 1
                continue
            if left is not None:
                if left <= 0:
                    return
                left -= 1
            yield make(row[:own])

    # -- locating -----------------------------------------------------------------------------------

    def instance(
        self, sop_instance_uid: str, *, study: str | None = None, series: str | None = None
    ) -> Held | None:
        """Return one instance, None when it is not held (in that study and series, where they are given)."""
        found = self._held("i.uid = ?", (sop_instance_uid,))
        held = next(found, None)
        if held is None or (study is not None and held.key.study_instance_uid != study):
            return None
        if series is not None and held.key.series_instance_uid != series:
            return None
        return held

    def instances(self, *, study: str, series: str | None = None) -> list[Held]:
        """Return the instances of a study or of one series of it, by series and instance number."""
        if series is None:
            return list(self._held("t.uid = ?", (study,)))
        return list(self._held("t.uid = ? AND s.uid = ?", (study, series)))

    def instances_of(self, matches: Sequence[Match]) -> Iterator[Held]:
        """Yield every instance below `matches`, whatever their level (a patient: by its studies)."""
        for match in matches:
            if match.sop_instance_uid is not None:
                yield from self._held("i.uid = ?", (match.sop_instance_uid,))
            elif match.series_instance_uid is not None:
                yield from self._held(
                    "t.uid = ? AND s.uid = ?", (match.study_instance_uid or "", match.series_instance_uid)
                )
            elif match.study_instance_uid is not None:
                yield from self._held("t.uid = ?", (match.study_instance_uid,))

    def study_json(self, study_instance_uid: str) -> str | None:
        """Return the finished DICOM JSON of a study (with the base-URL mark), None when it is not held."""
        row = (
            self._reader()
            .execute("SELECT json FROM studies WHERE uid = ? AND instances > 0", (study_instance_uid,))
            .fetchone()
        )
        return None if row is None else str(row["json"])

    def row(self, sop_instance_uid: str) -> sqlite3.Row | None:
        """Return the whole row of an instance, hidden ones too, with `study_uid` and `series_uid`."""
        found: sqlite3.Row | None = (
            self._reader()
            .execute(
                f"{SELECT_ROW} i.uid = ?",
                (sop_instance_uid,),
            )
            .fetchone()
        )
        return found

    def quarantined(self, *, limit: int = 100, after: int | None = None) -> list[dict[str, Any]]:
        """Return what is in quarantine, newest first, without names; those behind the one with id `after`."""
        found = self._reader().execute(
            "SELECT id, uid, study_uid, path, bytes, reason, caller, origin, arrived_at FROM quarantine"
            " WHERE id < ? ORDER BY id DESC LIMIT ?",
            (2**62 if after is None else after, limit),
        )
        return [dict(row) for row in found]

    def with_hidden(self) -> dict[str, str]:
        """Return the studies, with their dates, of which something that the primary has is not shown here."""
        found = self._reader().execute(f"SELECT t.uid, t.date FROM studies t WHERE t.id IN ({_HIDDEN})")
        return {row["uid"]: row["date"] for row in found}

    def set_aside(self, studies: Collection[str]) -> set[str]:
        """Return of which of these something is damaged or gone here, and by no rejection note."""
        found = self._reader().execute(
            "SELECT t.uid FROM json_each(?) asked JOIN studies t ON t.uid = asked.value"
            f" WHERE EXISTS ({_SET_ASIDE})",
            (json.dumps(list(studies)),),
        )
        return {row["uid"] for row in found}

    def file(self, path: str) -> Path:
        """Return where a path of the index lies."""
        return self._data_dir / path

    # -- numbers and window ---------------------------------------------------------------------------

    def numbers(self) -> dict[str, int]:
        """Return how many `instances` and `studies` are held, and their `bytes`."""
        row = self._reader().execute("SELECT instances, studies, bytes FROM totals").fetchone()
        return {"instances": row["instances"], "studies": row["studies"], "bytes": row["bytes"]}

    def version(self) -> int:
        """Return a number that changes with each committed change of the index; for conditional requests."""
        return int(self._reader().execute("PRAGMA data_version").fetchone()[0])

    @property
    def window(self) -> Window:
        """What the last comparison with the primary covered; nothing, before the journal is made good."""
        return self.covered.believed if self.recovered else Window()

    async def set_window(self, first_day: date | None, short: Mapping[str, int]) -> None:
        """Keep what a comparison has covered; durable on return."""
        window = Window(first_day, dict(short))
        await self.write(lambda transaction: self.covered.compared(transaction, window))

    def evicted_until(self) -> str | None:
        """Return the youngest study date of which something went for space: what is older goes as well."""
        return evicted_until(self._reader())

    # -- writing ------------------------------------------------------------------------------------

    def refuse_writes(self, why: str) -> None:
        """Write nothing more: what is damaged must not lose debts as well. Reads go on."""
        self._refuses_writes = why

    def check_writable(self) -> None:
        """Raise StorageError when nothing may be written any more."""
        why = self._refuses_writes or self.stopped_by
        if why is not None:
            raise StorageError(why)

    @property
    def stopped_by(self) -> str | None:
        """What the disk has done, so that nothing is written at present; None: it is written."""
        return self._not_synced or self._unrecovered

    async def write(self, work: Callable[[Transaction], _T]) -> _T:
        """Run `work` in the writer thread; return its result when that is durable.

        Raises DiskFull, StorageError, or the FailoverError that `work` raised.
        """
        self.check_writable()
        return await asyncio.wrap_future(self._writer.submit(work))

    def write_now(self, work: Callable[[Transaction], _T]) -> _T:
        """As `write`, for threads: blocks until it is durable."""
        return self.submit(work).result()

    def submit(self, work: Callable[[Transaction], _T], entry: Entry | None = None) -> Future[_T]:
        """As `write`, for threads that do not wait; `entry` goes into the journal first."""
        self.check_writable()
        return self._writer.submit(work, entry)

    # -- the journal, for `recovery` ----------------------------------------------------------------

    @property
    def recovered(self) -> bool:
        """Whether all that the journal holds is here. Until then numbers and debts are too low."""
        return self._unrecovered is None

    def refuse_until_recovered(self, why: str | None) -> None:
        """Write nothing but what makes good what the journal holds; None: that is done."""
        self._unrecovered = why

    def make_good(self, work: Callable[[Transaction], _T]) -> _T:
        """As `write_now`, also while nothing else may be written."""
        return self._writer.submit(work).result()

    def journaled(self) -> int:
        """Return up to which number the journal is in the index."""
        return int(read_fact(self._reader(), "journaled") or 0)

    @staticmethod
    def keep_journaled(transaction: Transaction, number: int) -> None:
        """Write that number down within a transaction."""
        keep_fact(transaction.connection, "journaled", number)

    def named(self, files: Mapping[str, int]) -> set[str]:
        """Return which of these files, of so many bytes, a row of any kind names."""
        wanted = json.dumps(list(files))
        named: set[str] = set()
        for table in ("instances", "history", "quarantine"):
            found = self._reader().execute(
                f"SELECT path, bytes FROM {table} WHERE path IN (SELECT value FROM json_each(?))", (wanted,)
            )
            named |= {row["path"] for row in found if row["bytes"] == files[row["path"]]}
        return named

    def _sync_log(self) -> None:
        """Make durable what was committed without a sync. Raises OSError."""
        # What is no longer in the write-ahead log, SQLite has synced into the index itself.
        try:
            self._log.sync()
        except OSError:
            self._end_writing()
            raise

    def _end_writing(self) -> None:
        """The log could not be synced: the system has dropped a part of it, and says next time that all is
        well. What is written behind a hole is lost with it, so nothing is; a start makes good what the
        journal has."""
        self._not_synced = "the disk did not take the index's log: nothing is written before a restart"
        self.journal.leave()
        self._writer.end(StorageError(self._not_synced))
        _log.error("the index is written no more: its log could not be synced")

    # -- inside -------------------------------------------------------------------------------------

    def reader(self) -> sqlite3.Connection:
        """Return this thread's connection for reading; for `ledger` and `janitor`."""
        return self._reader()

    def _reader(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.ProgrammingError("the index is closed")
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_file(self._path)
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
        return connection

    def _held(self, condition: str, parameters: tuple[str, ...]) -> Iterator[Held]:
        cursor = self._reader().cursor()
        cursor.row_factory = None  # plain tuples, as in `_run`
        found = cursor.execute(
            f"{SELECT_HELD} {condition} AND i.hidden = 0 ORDER BY s.number, s.id, i.number, i.id", parameters
        )
        return map(partial(as_held, self._folder), found)

    def held(self, row: sqlite3.Row) -> Held:
        """Return the row of an instance (see `row`) as what callers get."""
        return as_held(
            self._folder,
            (
                row["study_uid"], row["series_uid"], row["uid"], row["sop_class"], row["transfer_syntax"],
                row["path"], row["bytes"], row["data_set_offset"], row["pixel_offset"], row["pixel_length"],
                row["digest"], row["origin"], row["state"], row["json"],
            )
        )  # fmt: skip
