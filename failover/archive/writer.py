"""The one thread that writes the index: what waits is done in one transaction, so that many share one fsync.

A job is a function of the connection; it runs in a savepoint of its own, so that one that fails takes nothing
with it. Entries of a group go into the journal first, with one sync; a transaction of nothing but them is
committed without another. A job may leave folders to sync: they are synced before the commit, because a
committed row says that its file is durable. Futures are resolved last; so whoever was answered is on disk.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import structlog

from failover.archive.journal import Entry, Journal
from failover.durable import NO_ROOM, sync_folder
from failover.errors import DiskFull, FailoverError, StorageError

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

# Jobs that share one transaction. More would make the first of them wait too long.
MAX_GROUP: Final = 256
_READERS_MS: Final = 1000  # for so long the end waits for who reads


class Counted(NamedTuple):
    """By how much the counts of a study and a series change; with `arrived_at` of what came."""

    study: int
    series: int
    instances: int
    size_bytes: int
    arrived_at: float = 0.0


@dataclass(slots=True)
class Transaction:
    """What a job sees: the connection, and what must happen around the commit."""

    connection: sqlite3.Connection
    folders: set[Path] = field(default_factory=set)  # synced before the commit
    counted: list[Counted] = field(default_factory=list)  # written before the commit
    described: set[int] = field(default_factory=set)  # studies whose own columns are new or other ones
    touched_studies: set[int] = field(default_factory=set)  # to be read anew: something went, or was hidden
    touched_series: set[int] = field(default_factory=set)
    # What `summaries` knows of rows that it has read or written; emptied when anything is rolled back.
    remembered: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    # Run after the commit, before anyone is answered; and when the job or its group fails.
    after: list[Callable[[], None]] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)
    # Run before anyone is answered whatever came of it: of a commit that failed neither of them is.
    over: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]
    entry: Entry | None


_Outcome = tuple[_Job, Any, BaseException | None]


class Writer:
    """Runs jobs in order. `finish` is called once in each transaction, after its jobs."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        journal: Journal,
        finish: Callable[[Transaction], None],
        journaled: Callable[[Transaction, int], None],
        sync_index: Callable[[], None],
        not_synced: Callable[[], None],
    ) -> None:
        """`journaled` writes down up to which number the journal is in the index, within a transaction;
        `sync_index` makes durable what was committed without a sync. `not_synced` is told when SQLite could
        not sync a commit."""
        self._connection = connection
        self._journal = journal
        self._finish = finish
        self._journaled = journaled
        self._sync_index = sync_index
        self._not_synced = not_synced
        self._ended_by: StorageError | None = None
        self._syncs_commits = True
        self._written_number = 0
        self._remembered: dict[tuple[Any, ...], Any] = {}
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], _T], entry: Entry | None = None) -> Future[_T]:
        """Queue `work`; the future has its result once that is durable.

        `entry` stands in the journal when `work` runs, if its number is set. The future has DiskFull when
        there was no room, else what `work` raised. Raises StorageError after `close`.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed:
                raise StorageError("the archive is closing")
            self._jobs.put(_Job(work, future, entry))
        return future

    def end(self, error: StorageError) -> None:
        """Do nothing more: who waits, or comes, gets `error`."""
        self._ended_by = error

    def close(self) -> None:
        """Do what is queued, end the thread, and leave all in the one file. Returns when that is done.

        Whoever reads at this moment may end; then the log stays, and who opens it next goes on from it.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()
        self._journal.close()
        with contextlib.suppress(sqlite3.Error):  # a full disk, a damaged file: the log is as good
            self._connection.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._jobs.get()
            if first is None:
                return
            group = [first]
            while len(group) < MAX_GROUP:
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    ended = True
                    break
                group.append(job)
            # Who gave up before its turn is left out; who gives up later cannot take back what is done.
            wanted = [job for job in group if job.future.set_running_or_notify_cancel()]
            if wanted:
                self._do(wanted)

    def _do(self, group: list[_Job]) -> None:
        if self._ended_by is not None:
            for job in group:
                job.future.set_exception(self._ended_by)
            return
        entries = [job.entry for job in group if job.entry is not None]
        journaled = bool(entries) and self._journal.append(entries)
        results = self._written(group, entries if journaled else [])
        if journaled:
            self._journal.ended()
        for job, result, problem in results:
            if problem is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(problem)

    def _written(self, group: list[_Job], entries: list[Entry]) -> list[_Outcome]:
        """Do the jobs in one transaction; return what became of each. `entries` are in the journal."""
        transaction = Transaction(self._connection, remembered=self._remembered)
        try:
            return self._committed(transaction, group, entries)
        finally:
            _run_all(transaction.over)

    def _committed(self, transaction: Transaction, group: list[_Job], entries: list[Entry]) -> list[_Outcome]:
        results: list[_Outcome] = []
        number = self._journal.last_number
        try:
            self._sync_commits(not entries)
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                results.append(self._one(job, transaction))
            self._finish(transaction)
            if number != self._written_number:
                # Also what the journal has not taken, and what comes to nothing here: a start that found it
                # in the journal would take it for newer than this.
                self._journaled(transaction, number)
            for folder in transaction.folders:
                sync_folder(folder)
        except (sqlite3.Error, OSError, StorageError) as error:
            self._take_back(transaction, entries)
            return self._failed(group, error)
        except BaseException as error:
            # A bug of ours: nobody may wait for ever, and the thread must go on.
            self._take_back(transaction, entries)
            _log.exception("transaction failed", error=type(error).__name__)
            return self._failed(group, StorageError("internal error in the index"))
        try:
            self._connection.execute("COMMIT")
            self._written_number = number
            if entries and (len(entries) < len(group) or not all(entry.used for entry in entries)):
                self._sync_index()  # not all of it stands in the journal
        except (sqlite3.Error, OSError) as error:
            # It may be on disk all the same: nothing is undone, the janitor removes files without a row.
            self._rollback()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_FSYNC:
                self._not_synced()
            return self._failed(group, error)
        _run_all(transaction.after)
        return results

    def _sync_commits(self, wanted: bool) -> None:
        if self._syncs_commits != wanted:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if wanted else 'NORMAL'}")
            self._syncs_commits = wanted

    def _take_back(self, transaction: Transaction, entries: list[Entry]) -> None:
        self._rollback()
        _run_all(transaction.undo)
        for entry in entries:
            entry.used = False

    @staticmethod
    def _failed(group: list[_Job], error: BaseException) -> list[_Outcome]:
        failure = _storage_error(error)
        _log.error("transaction failed", error=type(error).__name__, jobs=len(group))
        return [(job, None, failure) for job in group]

    def _one(self, job: _Job, transaction: Transaction) -> _Outcome:
        self._connection.execute("SAVEPOINT job")
        after, undo, counted = len(transaction.after), len(transaction.undo), len(transaction.counted)
        try:
            result = job.work(transaction)
        except sqlite3.OperationalError:
            raise  # no room, or the disk fails: that holds for the whole transaction
        except Exception as error:
            self._connection.execute("ROLLBACK TO job")
            self._connection.execute("RELEASE job")
            del transaction.after[after:]
            del transaction.counted[counted:]
            transaction.remembered.clear()
            if job.entry is not None:
                job.entry.used = False
            _run_all(transaction.undo[undo:])
            del transaction.undo[undo:]
            if not isinstance(error, FailoverError):
                _log.exception("index job failed", error=type(error).__name__)
                error = StorageError("internal error in the index")
            return job, None, error
        self._connection.execute("RELEASE job")
        return job, result, None

    def _rollback(self) -> None:
        self._remembered.clear()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.error("rollback failed", error=type(error).__name__)


def _run_all(actions: list[Callable[[], None]]) -> None:
    for action in actions:
        try:
            action()
        except OSError as error:
            _log.warning("step around a transaction failed", error=error.strerror)


def _storage_error(error: BaseException) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return DiskFull("the index has no room")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DiskFull("the index has no room")
    return StorageError(f"the index cannot be written: {type(error).__name__}")
