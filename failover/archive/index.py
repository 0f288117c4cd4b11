"""The index: what the archive holds, found by key, level by level; and the window of the last comparison.

Reads are synchronous and from any thread, each with a connection of its own (WAL: readers never wait for the
writer). All writing goes through `write`, in the one writer thread. Files are the business of `instances`,
debt of `ledger`, what a key means of `dicom.query_keys`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from failover.archive import summaries
from failover.archive.held_text import HeldText
from failover.archive.index_file import open_file, prepare, what_to_do
from failover.archive.journal import Entry, Journal
from failover.archive.kept_facts import keep_fact, read_fact
from failover.archive.matches import Match, dump
from failover.archive.paths import INDEX
from failover.archive.queries import Level, Query
from failover.archive.rejection import NOTES_THAT_NAME
from failover.archive.statements import Sql, is_left_over, to_sql
from failover.archive.window import Window
from failover.archive.writer import Transaction, Writer
from failover.durable import make_folder, sync_file, sync_folder
from failover.errors import DiskFull, StateUnreadable, StorageError
from failover.model import DebtState, InstanceKey, Origin

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")

# Searches that may look at every row run here, so that the event loop never waits for them.
_SCAN_THREADS: Final = 2

_FROM_ALL_LEVELS: Final = (
    " FROM instances i JOIN series s ON s.id = i.series JOIN studies t ON t.id = i.study WHERE"
)
_SELECT_ROW: Final = f"SELECT i.*, t.uid AS study_uid, s.uid AS series_uid{_FROM_ALL_LEVELS}"
_SELECT_HELD: Final = (
    "SELECT t.uid, s.uid, i.uid, i.sop_class, i.transfer_syntax, i.path, i.bytes, i.data_set_offset,"
    f" i.pixel_offset, i.pixel_length, i.digest, i.origin, i.state, i.json{_FROM_ALL_LEVELS}"
)
# Hidden, though the primary has it and no rejection note names it: janitor or scrubber found no whole file.
_SELECT_SET_ASIDE: Final = (
    "SELECT DISTINCT t.uid, t.date FROM instances i INDEXED BY instances_hidden"
    " JOIN studies t ON t.id = i.study WHERE i.hidden = 1 AND i.state IN ('none', 'sent', 'proven')"
    f" AND NOT EXISTS ({NOTES_THAT_NAME.format(uid='i.uid', study_uid='t.uid')})"
)
# A call of an Enum costs as much as the rest of a row.
_ORIGINS: Final = {origin.value: origin for origin in Origin}
_STATES: Final = {state.value: state for state in DebtState}


@dataclass(frozen=True, slots=True)
class Held:
    """One instance as the archive holds it. Offsets are from the start of the file.

    `pixel_offset` is where the value of Pixel Data begins: its bytes when `pixel_length` is known, the item
    tag of the basic offset table when it is None (encapsulated). None: no pixel data, or a deflated data set.
    `json` is the finished DICOM JSON of the instance level, with the base-URL mark (see `Match.template`).
    """

    key: InstanceKey
    sop_class_uid: str
    transfer_syntax_uid: str
    file: str  # where it lies; `path` as a path
    size_bytes: int
    data_set_offset: int
    pixel_offset: int | None
    pixel_length: int | None
    digest: bytes
    origin: Origin
    state: DebtState
    json: str

    @property
    def path(self) -> Path:
        return Path(self.file)

    def attributes(self) -> dict[str, dict[str, Any]]:
        """Return the DICOM JSON of the instance level: rows, columns, number of frames, instance number …"""
        found: dict[str, dict[str, Any]] = json.loads(self.json)
        return found


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
        self._has_primary = has_primary
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
        self.journal = Journal(data_dir, self._sync_log)
        self.held_text = HeldText(lambda: open_file(self._path))
        self._writer = Writer(
            connection, self.journal, self._finish, self.keep_journaled, self._sync_log, self._end_writing
        )
        self._window = self._kept_window = self.read_window(self._reader())

    def close(self) -> None:
        """Finish what is queued for writing, then close. Reads raise afterwards.

        A read that a thread has begun ends: a connection that is closed under it takes the process along, so
        each closes with the last who uses it.
        """
        self._scans.shutdown(wait=True)
        self._writer.close()
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
        sql = self._sql(query)
        if sql.scans or sql.residual or query.level is not Level.STUDY or query.with_sop_classes:
            return [match.template for match in await self.search(query)]
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
            for then in (transaction.after, transaction.undo):
                then.append(partial(self.held_text.changed, ids))

    def _run(self, query: Query, sql: Sql) -> Iterator[Match]:
        cursor = self._reader().cursor()
        cursor.row_factory = None  # plain tuples: a search may have thousands
        make = _MATCHES[query.level]
        if query.with_sop_classes and query.level is Level.STUDY:
            make = _study_in_order
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
                f"{_SELECT_ROW} i.uid = ?",
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

    def set_aside(self, studies: Collection[str] | None = None) -> dict[str, str]:
        """Return the studies, with their dates, of which something that the primary has is damaged or gone
        here; of these `studies` alone, where they are given."""
        condition, parameters = "", []
        if studies is not None:
            condition = (
                " AND i.study IN (SELECT id FROM studies WHERE uid IN (SELECT value FROM json_each(?)))"
            )
            parameters.append(json.dumps(list(studies)))
        found = self._reader().execute(f"{_SELECT_SET_ASIDE}{condition}", parameters)
        return {row["uid"]: row["date"] for row in found}

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
        return self._window if self.recovered else Window()

    async def set_window(self, first_day: date | None, short: Mapping[str, int]) -> None:
        """Keep what a comparison has covered; durable on return."""
        window = Window(first_day, dict(short))
        await self.write(lambda transaction: self.keep_compared(transaction, window))

    def keep_compared(self, transaction: Transaction, window: Window) -> None:
        """Write down what a comparison has covered, less what went for space after it had looked."""
        until = _evicted_until(transaction.connection)
        if until is not None and window.first_day is not None:
            day_after = date.fromisoformat(until) + timedelta(days=1)
            window = replace(window, first_day=max(window.first_day, day_after))
        self._keep_window(transaction, window)

    def end_window(self, transaction: Transaction, study_date: str) -> None:
        """What went for space is not fetched again, nor what is older, and ends the window (DESIGN 4.2)."""
        try:
            after = date.fromisoformat(study_date) + timedelta(days=1)
        except ValueError:
            return
        connection = transaction.connection
        if study_date > (_evicted_until(connection) or ""):
            keep_fact(connection, "evicted_until", study_date)
        window = self.read_window(connection)  # an earlier job of this transaction may have kept another
        if window.first_day is not None and after > window.first_day:
            self._keep_window(transaction, replace(window, first_day=after))

    def _keep_window(self, transaction: Transaction, window: Window) -> None:
        """Write it down within a transaction. What it covers more than before holds once that is durable.

        What it covers less, at once: no search may see that something has gone and not that the window has.
        """
        first_day = window.first_day and window.first_day.isoformat()
        keep_fact(transaction.connection, "window", {"from": first_day, "short": dict(window.short)})
        if not self._has_primary:
            return
        before, kept_before = self._window, self._kept_window
        self._window, self._kept_window = before.meet(window), window

        def holds() -> None:
            self._window = self._kept_window

        def comes_to_nothing() -> None:
            self._window, self._kept_window = before, kept_before

        transaction.after.append(holds)
        transaction.undo.append(comes_to_nothing)

    def evicted_until(self) -> str | None:
        """Return the youngest study date of which something went for space: what is older goes as well."""
        return _evicted_until(self._reader())

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
            with contextlib.suppress(FileNotFoundError):
                sync_file(self._path.with_name(f"{INDEX}-wal"))
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
            f"{_SELECT_HELD} {condition} AND i.hidden = 0 ORDER BY s.number, s.id, i.number, i.id", parameters
        )
        return map(self._as_held, found)

    def held(self, row: sqlite3.Row) -> Held:
        """Return the row of an instance (see `row`) as what callers get."""
        return self._as_held(
            (
                row["study_uid"], row["series_uid"], row["uid"], row["sop_class"], row["transfer_syntax"],
                row["path"], row["bytes"], row["data_set_offset"], row["pixel_offset"], row["pixel_length"],
                row["digest"], row["origin"], row["state"], row["json"],
            )
        )  # fmt: skip

    def _as_held(self, row: tuple[Any, ...]) -> Held:
        """Return a row of `_SELECT_HELD` as what callers get."""
        (
            study, series, instance, sop_class, syntax, path, size, data_set, pixels, length, digest, origin,
            state, text,
        ) = row  # fmt: skip
        return Held(
            InstanceKey(study, series, instance), sop_class, syntax, f"{self._folder}/{path}", size, data_set,
            pixels, length, digest, _ORIGINS[origin], _STATES[state], text,
        )  # fmt: skip

    def read_window(self, connection: sqlite3.Connection) -> Window:
        """Return the window as `connection` sees it."""
        if not self._has_primary:
            return Window(complete=True)
        kept = read_fact(connection, "window")
        if kept is None:
            return Window()
        first_day = date.fromisoformat(kept["from"]) if kept["from"] else None
        return Window(first_day, dict(kept["short"]))


def _evicted_until(connection: sqlite3.Connection) -> str | None:
    until = read_fact(connection, "evicted_until")
    return None if until is None else str(until)


def _patient(row: tuple[Any, ...]) -> Match:
    patient = {tag: value for tag, value in json.loads(row[3]).items() if tag.startswith("0010")} | {
        "00080005": {"vr": "CS", "Value": ["ISO_IR 192"]},
        "00201200": {"vr": "IS", "Value": [row[6]]},
        "00201202": {"vr": "IS", "Value": [row[7]]},
        "00201204": {"vr": "IS", "Value": [row[8]]},
    }
    return Match(Level.PATIENT, None, None, None, dump(patient).encode())


def _study(row: tuple[Any, ...]) -> Match:
    return Match(Level.STUDY, row[0], None, None, row[3])


def _study_in_order(row: tuple[Any, ...]) -> Match:
    """What SQL has added stands at the end: PS3.18 F.2.2 has attributes in the order of their tags."""
    return Match(Level.STUDY, row[0], None, None, dump(json.loads(row[3])).encode())


def _series(row: tuple[Any, ...]) -> Match:
    return Match(Level.SERIES, row[0], row[1], None, row[3], row[4:])


def _image(row: tuple[Any, ...]) -> Match:
    return Match(Level.IMAGE, row[0], row[1], row[2], row[3], row[4:])


_MATCHES: Final[Mapping[Level, Callable[[tuple[Any, ...]], Match]]] = {
    Level.PATIENT: _patient,
    Level.STUDY: _study,
    Level.SERIES: _series,
    Level.IMAGE: _image,
}
