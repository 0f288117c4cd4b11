"""How a new object is written down: kept, known, replacing, or in quarantine. Runs in the writer thread."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from failover.archive import lost, paths, rejection, rows
from failover.archive.arrival import Examined
from failover.archive.journal import Entry
from failover.archive.replacing import into_place
from failover.archive.writer import Transaction
from failover.durable import storage_error, sync_file
from failover.errors import Conflict
from failover.model import DebtState, Origin

# How often to decide again when the same UID is stored by others at the same moment.
ATTEMPTS: Final = 5


class Result(StrEnum):
    KEPT = "kept"
    KNOWN = "known"
    REPLACED = "replaced"


def new_instance(it: Examined, origin: Origin, state: DebtState, arrived_at: float) -> rows.NewInstance:
    """Return the row of an object that arrived at `arrived_at`, a time on the wall."""
    return rows.NewInstance(
        described=it.described,
        transfer_syntax_uid=it.meta.transfer_syntax_uid,
        path=paths.object_path(it.described.key.sop_instance_uid, it.digest),
        size_bytes=it.size_bytes,
        data_set_offset=it.meta.data_set_offset,
        pixel_offset=it.pixel_offset,
        pixel_length=it.pixel_length,
        digest=it.digest,
        origin=origin,
        state=state,
        arrived_at=arrived_at,
    )


@dataclass(frozen=True, slots=True)
class Placement:
    """A store that only has to be written down; `place` runs in the writer thread."""

    data_dir: Path
    temporary: Path
    new: rows.NewInstance
    caller: str
    compared_with: bytes | None = None  # digest of the held object that `same` was decided for
    same: bool = False
    entry: Entry | None = None  # its record in the journal; None: `temporary` is synced already
    written: Future[None] | None = None  # while `temporary` is still being written

    def place(self, transaction: Transaction) -> Result | Conflict | None:
        """Write it down. None: another store has changed what is held; decide again."""
        if self.written is not None:
            self.written.result()
        held = transaction.connection.execute(
            "SELECT i.*, t.uid AS study_uid FROM instances i JOIN studies t ON t.id = i.study"
            " WHERE i.uid = ?",
            (self.new.described.key.sop_instance_uid,),
        ).fetchone()
        if held is None:
            self._into_place(transaction, self.new.path, journaled=True)
            self._add(transaction)
            return Result.KEPT
        if self.new.digest in (held["digest"], held["arrived_digest"]):
            if not (self.data_dir / held["path"]).exists():
                self._bring_back(transaction, held)
            return self._known(transaction, held)
        if held["digest"] != self.compared_with:
            return None
        if self.same:
            return self._known(transaction, held)
        if self.new.origin is Origin.REPLICATED:
            return self._replace(transaction, held)
        return self._quarantine(transaction, held)

    def _bring_back(self, transaction: Transaction, held: sqlite3.Row) -> None:
        """A held object's file is gone, and here is the object again: as it is held, or as it came once."""
        new = self.new
        self._into_place(transaction, new.path)
        rows.change_file(
            transaction,
            held,
            rows.File(
                new.transfer_syntax_uid, new.path, new.size_bytes, new.data_set_offset, new.pixel_offset,
                new.pixel_length, new.digest,
            ),
        )  # fmt: skip
        transaction.connection.execute(
            "UPDATE instances SET compression = NULL, arrived = NULL, arrived_digest = NULL WHERE id = ?",
            (held["id"],),
        )
        lost.take_back(transaction, held)
        rejection.show_or_hide(transaction, held["uid"])

    def _add(self, transaction: Transaction) -> None:
        rows.add_instance(transaction, self.new)
        key = self.new.described.key
        uid = key.sop_instance_uid
        if rejection.is_rejected(transaction.connection, uid, key.study_instance_uid):
            rejection.show_or_hide(transaction, uid)
        if self.new.described.sop_class_uid == rejection.KEY_OBJECT_SELECTION:
            named = rejection.named_by(self.data_dir / self.new.path)
            rejection.apply_note(transaction, uid, named or {})

    def _known(self, transaction: Transaction, held: sqlite3.Row) -> Result:
        if held["state"] == DebtState.DELETED and self.new.origin is not Origin.COPIED:
            # It is on the primary again, or a caller brings it anew: then it is owed like any other.
            transaction.connection.execute(
                "UPDATE instances SET state = ?, arrived_at = ?, state_since = NULL WHERE id = ?",
                (self.new.state.value, self.new.arrived_at, held["id"]),
            )
            rejection.show_or_hide(transaction, held["uid"])
        # Its days count from its last arrival; the age of a debt, from its first.
        transaction.connection.execute(
            "UPDATE instances SET arrived_at = max(arrived_at, ?)"
            " WHERE id = ? AND state IN ('none', 'proven')",
            (self.new.arrived_at, held["id"]),
        )
        if self.new.origin is Origin.REPLICATED:
            # It has just come from the primary: that is a proof (DESIGN 4.4), of a debt too.
            transaction.connection.execute(
                "UPDATE instances SET proven_at = ?, refused_status = NULL,"
                " state = CASE WHEN state = 'none' THEN 'none' ELSE 'proven' END WHERE id = ?",
                (self.new.arrived_at, held["id"]),
            )
        return Result.KNOWN

    def _replace(self, transaction: Transaction, held: sqlite3.Row) -> Result:
        connection = transaction.connection
        unpaid = held["state"] in (DebtState.OWED, DebtState.SENT, DebtState.REFUSED)
        if unpaid:
            # A caller's version that the primary never got is nowhere else: kept for people to see.
            connection.execute(
                "INSERT OR IGNORE INTO quarantine (uid, study_uid, path, digest, bytes, reason, caller,"
                " origin, arrived_at) VALUES (?,?,?,?,?,'replaced_by_primary','',?,?)",
                (held["uid"], held["study_uid"], held["path"], held["digest"], held["bytes"], held["origin"],
                 held["arrived_at"]),
            )  # fmt: skip
        else:
            connection.execute(
                "INSERT INTO history (uid, study_uid, path, digest, bytes, transfer_syntax, replaced_at)"
                " VALUES (?,?,?,?,?,?,?)",
                (held["uid"], held["study_uid"], held["path"], held["digest"], held["bytes"],
                 held["transfer_syntax"], self.new.arrived_at),
            )  # fmt: skip
        rows.remove_instance(transaction, held)
        self._into_place(transaction, self.new.path)
        connection.execute("DELETE FROM history WHERE path = ?", (self.new.path,))
        self._add(transaction)
        return Result.REPLACED

    def _quarantine(self, transaction: Transaction, held: sqlite3.Row) -> Conflict:
        patient = rows.text(self.new.described.study, "00100020")
        reason = "patient" if patient != held["patient_id"] else "content"
        key = self.new.described.key
        path = paths.quarantine_path(key.sop_instance_uid, self.new.digest)
        self._into_place(transaction, path)
        transaction.connection.execute(
            "INSERT OR IGNORE INTO quarantine (uid, study_uid, path, digest, bytes, reason, caller, origin,"
            " arrived_at) VALUES (?,?,?,?,?,?,?,?,?)",
            (key.sop_instance_uid, key.study_instance_uid, path, self.new.digest, self.new.size_bytes, reason,
             self.caller, self.new.origin.value, self.new.arrived_at),
        )  # fmt: skip
        other = "another patient" if reason == "patient" else "other content"
        return Conflict(f"known SOP instance UID with {other}: kept in quarantine")

    def _into_place(self, transaction: Transaction, path: str, *, journaled: bool = False) -> None:
        """Rename the file to `path`, durable with the commit. `journaled`: by its entry, where it has one."""
        in_journal = journaled and self._is_in_journal()
        if not in_journal and self.entry is not None:
            try:
                sync_file(self.temporary)
            except OSError as error:
                raise storage_error(error, self.temporary) from error
        into_place(transaction, self.data_dir, self.temporary, path, in_journal=in_journal)

    def _is_in_journal(self) -> bool:
        if self.entry is None or self.entry.number is None:
            return False
        self.entry.used = True
        return True
