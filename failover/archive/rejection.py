"""Rejection notes (IHE RAD, Imaging Object Change Management): which objects must be shown no more.

A note is a Key Object Selection document whose title says why. It is kept and shown like any object; what it
names is kept too, and hidden from searches and retrieves while the note stands. A note that is hidden itself,
because the primary has deleted it, hides nothing any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pydicom
from pydicom.dataset import Dataset

from failover.archive import rows
from failover.archive.writer import Transaction
from failover.model import DebtState

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
# PS3.16 CID 7011: quality, patient safety, incorrect modality worklist entry, data retention expired.
CODES: Final = frozenset({"113001", "113037", "113038", "113039"})
# A note of a thousand objects has 100 KB; it is read in the thread that writes the index.
LARGEST_BYTES: Final = 4 * 2**20
_TITLE: Final = "ConceptNameCodeSequence"
# Notes that stand and name an object in its study, as SQL.
NOTES_THAT_NAME: Final = (
    "SELECT 1 FROM rejected r LEFT JOIN instances n ON n.uid = r.note"
    " WHERE r.uid = {uid} AND r.study_uid = {study_uid} AND coalesce(n.hidden, 0) = 0"
)
_IS_REJECTED: Final = NOTES_THAT_NAME.format(uid="?", study_uid="?")
_EVIDENCE: Final = "CurrentRequestedProcedureEvidenceSequence"


def named_by(path: Path) -> dict[str, str] | None:
    """Return what a rejection note names: SOP instance UID → study. None: it is no rejection note."""
    if path.stat().st_size > LARGEST_BYTES:
        return None
    try:
        with pydicom.dcmread(path, stop_before_pixels=True) as note:
            if not any(_is_rejection(code) for code in note.get(_TITLE) or ()):
                return None
            return dict(_named(note))
    except Exception:
        # pydicom raises whatever a broken value makes it raise; a document that cannot be read hides nothing.
        return None


def _is_rejection(code: Dataset) -> bool:
    return code.get("CodingSchemeDesignator") == "DCM" and str(code.get("CodeValue")) in CODES


def _named(note: Dataset) -> Iterator[tuple[str, str]]:
    for study in note.get(_EVIDENCE) or ():
        for series in study.get("ReferencedSeriesSequence") or ():
            for instance in series.get("ReferencedSOPSequence") or ():
                yield str(instance.ReferencedSOPInstanceUID), str(study.StudyInstanceUID)


# -- in a transaction of the writer thread --------------------------------------------------------------


def apply_note(transaction: Transaction, note: str, named: dict[str, str]) -> None:
    """Hide what the note with this SOP instance UID names, now and when it comes later."""
    connection = transaction.connection
    before = _named_before(transaction, note)
    connection.execute("DELETE FROM rejected WHERE note = ?", (note,))
    connection.executemany(
        "INSERT OR REPLACE INTO rejected (uid, note, study_uid) VALUES (?, ?, ?)",
        [(uid, note, study) for uid, study in named.items() if uid != note],
    )
    for uid in before | named.keys():
        show_or_hide(transaction, uid)


def note_changed(transaction: Transaction, note: str) -> None:
    """The note itself was hidden or shown: look again at what it names."""
    for uid in _named_before(transaction, note):
        show_or_hide(transaction, uid)


def is_rejected(connection: sqlite3.Connection, uid: str, study_uid: str) -> bool:
    """Whether a note that stands names this object in this study."""
    return connection.execute(_IS_REJECTED, (uid, study_uid)).fetchone() is not None


def show_or_hide(transaction: Transaction, uid: str) -> None:
    """Make an object hidden that was deleted on the primary or is rejected, and show all others."""
    row = transaction.connection.execute(
        "SELECT i.*, t.uid AS study_uid FROM instances i JOIN studies t ON t.id = i.study WHERE i.uid = ?",
        (uid,),
    ).fetchone()
    if row is None:
        return
    hidden = row["state"] == DebtState.DELETED or is_rejected(transaction.connection, uid, row["study_uid"])
    if bool(row["hidden"]) != hidden:
        rows.hide_instance(transaction, row, hidden=hidden)
        note_changed(transaction, uid)


def _named_before(transaction: Transaction, note: str) -> set[str]:
    found = transaction.connection.execute("SELECT uid FROM rejected WHERE note = ?", (note,))
    return {row["uid"] for row in found}
