"""What the journal holds is made good at each start: a row that is not there, a file that is not whole.

After a kill all is there, and this only looks whether each file has its length. After a power cut the index
may lack the last transactions (they were committed without a sync of their own), and files may be missing,
short or empty: each is compared with what the journal has. Blocking; before anything is stored or served.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from failover.archive import lost, paths, rejection
from failover.archive.arrival import Arrived, Buffer, Examined, examine
from failover.archive.index import Index
from failover.archive.journal import Facts, Record
from failover.archive.placement import ATTEMPTS, Placement, new_instance
from failover.archive.rows import NewInstance
from failover.archive.writer import Transaction
from failover.durable import make_folder, write_file
from failover.errors import DiskFull, StorageError
from failover.model import DebtState, Origin

_log = structlog.get_logger(__name__)

# Another one at each start of the machine; within one, the system has what a killed process has written.
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def this_boot() -> str:
    """Return what tells this start of the machine from others; nothing where it does not say."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def facts_of(it: Examined, new: NewInstance, first: Buffer, caller: str, boot: str) -> Facts:
    """Return what the journal must say of an object beside its content, for `recover` to make its row.

    `first` begins with the whole head of its file.
    """
    return {
        "path": new.path,
        "digest": it.digest.hex(),
        "head": it.meta.data_set_offset,
        "head_crc": zlib.crc32(memoryview(first)[: it.meta.data_set_offset]),
        "origin": new.origin.value,
        "state": new.state.value,
        "arrived_at": new.arrived_at,
        "caller": caller,
        "boot": boot,
    }


class Recovery:
    """One per archive. `decide` is that of `instances`."""

    def __init__(self, data_dir: Path, index: Index, decide: Callable[[Placement], Placement]) -> None:
        self._data_dir = data_dir
        self._index = index
        self._decide = decide
        self.boot = this_boot()

    def recover(self) -> bool:
        """Make good what the journal holds. False: the disk does not let us; nothing else is written then.

        Raises StateUnreadable for a journal that a newer version has written.
        """
        try:
            self._recover()
        except (StorageError, OSError, sqlite3.Error) as error:
            self._index.refuse_until_recovered(
                "the disk does not let us make good what was stored last: it is tried again"
            )
            _log.error(
                "what was stored last could not be made good: stores are refused, it is tried again",
                error=str(error),
            )
            return False
        self._index.refuse_until_recovered(None)
        return True

    def _recover(self) -> None:
        applied = self._index.journaled()
        records = list(self._index.journal.records())
        last = max([applied, *(record.number for record in records)])
        named = self._index.named({record.facts["path"]: record.length for record in records})
        stand: list[Record] = []
        added = mended = 0
        for record in records:
            if record.number > applied:
                added += self._added(record)
            elif record.facts["path"] in named:
                mended += self._mended(record)
                stand.append(record)
        self._index.journal.go_on(last, stand)  # the next transaction writes the number down
        if added or mended:
            _log.warning("made good from the journal", rows=added, files=mended)

    # -- a row that is not there --------------------------------------------------------------------

    def _added(self, record: Record) -> bool:
        """Store the object of a record anew, as it was. False: it was never acknowledged, and is left out."""
        try:
            return self._add(record)
        except DiskFull:
            # Of a disk that fails otherwise nothing is sure: it may have lost the row of what was told.
            if not self._is_of_this_boot(record):
                raise
            # Its row was not committed before the kill, so that nobody was told that it is here.
            _log.warning("an object that was not acknowledged is left out")
            return False

    def _add(self, record: Record) -> bool:
        content = record.content()
        it = _examined(record.facts, content)
        if it is None:
            return False
        facts = record.facts
        temporary = self._data_dir / paths.INCOMING / f"journal-{record.number}.part"
        write_file(temporary, content)
        new = new_instance(it, Origin(facts["origin"]), DebtState(facts["state"]), facts["arrived_at"])
        try:
            placement = Placement(self._data_dir, temporary, new, facts["caller"])
            for _ in range(ATTEMPTS):
                if self._index.make_good(placement.place) is not None:
                    return True
                placement = self._decide(placement)
        finally:
            temporary.unlink(missing_ok=True)
        raise StorageError("an object of the journal finds no place")

    # -- a file that is not whole -------------------------------------------------------------------

    def _mended(self, record: Record) -> bool:
        """Write a file anew that is not as it was kept; return whether that was needed."""
        path = self._data_dir / record.facts["path"]
        try:
            has_its_length = path.stat().st_size == record.length
        except FileNotFoundError:
            has_its_length = False
            make_folder(path.parent)
        if has_its_length and self._is_of_this_boot(record):
            return False
        content = record.content()
        if has_its_length and path.read_bytes() == content:
            return False
        if _examined(record.facts, content) is None:
            _log.error("a file is not whole, nor is it in the journal")
            return False
        write_file(path, content)
        self._index.make_good(lambda transaction: _show(transaction, record.facts["path"]))
        return True

    def _is_of_this_boot(self, record: Record) -> bool:
        return bool(self.boot) and record.facts["boot"] == self.boot


def _examined(facts: Facts, content: bytes) -> Examined | None:
    """Return what an object of the journal is, None: it is not whole."""
    if zlib.crc32(memoryview(content)[: facts["head"]]) != facts["head_crc"]:
        return None
    try:
        it = examine(Arrived(Path("journal"), [content]))
    except StorageError:
        return None
    return it if it.digest.hex() == facts["digest"] else None


def _show(transaction: Transaction, path: str) -> None:
    """Show the object again whose file has come back, if it was missed meanwhile."""
    row = transaction.connection.execute("SELECT * FROM instances WHERE path = ?", (path,)).fetchone()
    if row is not None and row["hidden"]:
        lost.take_back(transaction, row)
        rejection.show_or_hide(transaction, row["uid"])
