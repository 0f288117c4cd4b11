"""What is owed and cannot be sent: its file is damaged or gone, and no object of it is here to send.

It would be awaited for ever. It is refused instead, with a status that is no DICOM one: out of the lag,
listed, told, accepted by `failover decide refused` or after the hold, as DESIGN 4.4 has it for what the
primary refuses. Who sends the object again makes it owed again (`take_back`). In the writer thread.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from failover.archive.writer import Transaction
from failover.model import LOST, DebtState

# Janitor and scrubber show no object whose file is not there. What was sent may be proven yet.
_MAY_BE_LOST: Final = (
    "SELECT i.id, i.path FROM instances i INDEXED BY instances_hidden WHERE i.hidden = 1 AND i.state = 'owed'"
)


def are_lost(connection: sqlite3.Connection, data_dir: Path) -> list[int]:
    """Return the rows of what is owed and has no file."""
    return [row["id"] for row in connection.execute(_MAY_BE_LOST) if not (data_dir / row["path"]).exists()]


def refuse(transaction: Transaction, data_dir: Path, now: float) -> int:
    """Owe no more what is lost; return how many objects. Looked at here: no store is half way there."""
    lost = are_lost(transaction.connection, data_dir)
    transaction.connection.executemany(
        "UPDATE instances SET state = ?, state_since = ?, refused_status = ? WHERE id = ?",
        [(DebtState.REFUSED, now, LOST, row) for row in lost],
    )
    return len(lost)


def take_back(transaction: Transaction, row: sqlite3.Row) -> None:
    """Owe again what was lost and has come again."""
    transaction.connection.execute(
        "UPDATE instances SET state = ?, state_since = NULL, refused_status = NULL"
        " WHERE id = ? AND state = 'refused' AND refused_status = ?",
        (DebtState.OWED, row["id"], LOST),
    )
