"""The one thread that writes the index: what waits is done in one transaction, so that many share one fsync.

A job is a function of the connection; it runs in a savepoint of its own, so that one that fails takes nothing
with it. A job may leave folders to sync: they are synced before the commit, because a committed row says that
its file is durable. Futures are resolved only after the commit; so whoever was answered is on disk.
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
    touched_studies: set[int] = field(default_factory=set)  # to be read anew: something went, or was hidden
    touched_series: set[int] = field(default_factory=set)
    # What `summaries` knows of rows that it has read or written; emptied when anything is rolled back.
    remembered: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    # Run after the commit, before anyone is answered; and when the job or its group fails.
    after: list[Callable[[], None]] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)


@dataclass(slots=True)
class _Job:
    work: Callable[[Transaction], Any]
    future: Future[Any]


class Writer:
    """Runs jobs in order. `finish` is called once in each transaction, after its jobs."""

    def __init__(self, connection: sqlite3.Connection, finish: Callable[[Transaction], None]) -> None:
        self._connection = connection
        self._finish = finish
        self._remembered: dict[tuple[Any, ...], Any] = {}
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Transaction], _T]) -> Future[_T]:
        """Queue `work`; the future has its result once that is durable.

        It has DiskFull when there was no room, else what `work` raised. Raises StorageError after `close`.
        """
        future: Future[_T] = Future()
        with self._lock:
            if self._closed:
                raise StorageError("the archive is closing")
            self._jobs.put(_Job(work, future))
        return future

    def close(self) -> None:
        """Do what is queued, end the thread, and leave all in the one file. Returns when that is done.

        Whoever reads at this moment may end; then the log stays, and who opens it next goes on from it.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()
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
        transaction = Transaction(self._connection, remembered=self._remembered)
        results: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                results.append(self._one(job, transaction))
            self._finish(transaction)
            for folder in transaction.folders:
                sync_folder(folder)
        except (sqlite3.Error, OSError, StorageError) as error:
            self._rollback()
            _run_all(transaction.undo)
            self._fail(group, error)
            return
        except BaseException as error:
            # A bug of ours: nobody may wait for ever, and the thread must go on.
            self._rollback()
            _run_all(transaction.undo)
            _log.exception("transaction failed", error=type(error).__name__)
            self._fail(group, StorageError("internal error in the index"))
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            # It may be on disk all the same: nothing is undone, the janitor removes files without a row.
            self._rollback()
            self._fail(group, error)
            return
        _run_all(transaction.after)
        for job, result, problem in results:
            if problem is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(problem)

    @staticmethod
    def _fail(group: list[_Job], error: BaseException) -> None:
        failure = _storage_error(error)
        _log.error("transaction failed", error=type(error).__name__, jobs=len(group))
        for job in group:
            job.future.set_exception(failure)

    def _one(self, job: _Job, transaction: Transaction) -> tuple[_Job, Any, BaseException | None]:
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
