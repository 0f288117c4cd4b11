"""A file of the archive replaced by another of the same content: in which order, so that no kill loses it.

The new file is synced and renamed, its folder synced, and only then the row that names it committed; the old
file is doomed in the same transaction and unlinked later, so that whoever has begun to read it ends. A kill
leaves the old file with its row, or the new one with its row and the old one doomed. In the writer thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from failover.archive import rows
from failover.archive.rows import File
from failover.archive.writer import Transaction
from failover.durable import place, storage_error

# Who was told the path of a file before it was replaced may open it for so long.
READERS_S: Final = 900.0


def doom(transaction: Transaction, path: str, not_before: float = 0.0) -> None:
    """Have the janitor unlink a file that no row names any more, from `not_before` on (Unix time)."""
    transaction.connection.execute("INSERT OR REPLACE INTO doomed VALUES (?, ?)", (path, not_before))


def is_doomed(connection: sqlite3.Connection, path: str) -> bool:
    return connection.execute("SELECT 1 FROM doomed WHERE path = ?", (path,)).fetchone() is not None


def into_place(
    transaction: Transaction, data_dir: Path, temporary: Path, path: str, *, in_journal: bool = False
) -> None:
    """Rename a synced file to its place; durable with the transaction. Raises DiskFull, StorageError.

    `in_journal`: file and folder need no sync, nor has the file had one.
    """
    target = data_dir / path
    try:
        existed = os.path.lexists(target)
        try:
            place(temporary, target)
        except FileNotFoundError:  # the first object of its folder
            target.parent.mkdir(mode=0o700, exist_ok=True)
            place(temporary, target)
    except OSError as error:
        raise storage_error(error, target) from error
    if not in_journal:
        # Its folder may be one that the journal's objects have made, and whose name is not synced.
        transaction.folders |= {target.parent, target.parent.parent}
    if not existed:
        transaction.undo.append(lambda: target.unlink(missing_ok=True))


def replace_file(
    transaction: Transaction,
    data_dir: Path,
    seen: sqlite3.Row,
    temporary: Path,
    new: File,
    *,
    now: float,
    may: Callable[[sqlite3.Row], bool],
) -> sqlite3.Row | None:
    """Put the file at `temporary` in the place of the one that `seen` named; return the row as it was.

    None, and nothing is done: the instance has gone, has another file by now, or `may` says no.
    """
    held: sqlite3.Row | None = transaction.connection.execute(
        "SELECT * FROM instances WHERE id = ?", (seen["id"],)
    ).fetchone()
    if held is None or (held["path"], held["digest"]) != (seen["path"], seen["digest"]) or not may(held):
        return None
    into_place(transaction, data_dir, temporary, new.path)
    rows.change_file(transaction, held, new)
    doom(transaction, held["path"], now + READERS_S)
    return held
