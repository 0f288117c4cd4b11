"""The file of the index: opened, made when new, brought to our version; what to do where it is lost.

What is asked of an open one is `index`'s affair, how its tables look `tables`'s.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from failover.archive import tables
from failover.archive.paths import INDEX, OBJECTS
from failover.archive.rows import words_of
from failover.errors import StateUnreadable

# A writer that is not ours (a backup tool) may hold the file this long.
_BUSY_TIMEOUT_S: Final = 10.0


def open_file(path: Path) -> sqlite3.Connection:
    """Return a connection to it, for any one thread at a time; the file is made where there is none."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S)
    connection.row_factory = sqlite3.Row
    # FULL: each commit is synced, so that an acknowledged store survives a power cut, not our death alone.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -16000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def prepare(connection: sqlite3.Connection, data_dir: Path) -> None:
    """Make the tables of a new index, or bring those of an older version up to ours.

    Raises StateUnreadable beside objects that a new index would know nothing of, and for a newer version.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        if _holds_objects(data_dir / OBJECTS):
            # The janitor removes files without a row: what only this archive has would be gone for good.
            raise StateUnreadable(
                f"{data_dir} holds objects but {INDEX} is new or gone: {what_to_do(data_dir)}"
            )
        _run(connection, tables.TABLES, tables.VERSION)
    connection.create_function("name_words_of", 1, lambda attributes: words_of(json.loads(attributes)))
    while version in tables.UPGRADES:
        _run(connection, tables.UPGRADES[version], version + 1)
        version += 1
    if version not in (0, tables.VERSION):
        raise StateUnreadable(
            f"{INDEX} has version {version}, this program reads {tables.VERSION}: update the program"
        )


def what_to_do(data_dir: Path) -> str:
    """Return how a lost or damaged index is replaced."""
    return (
        f"stop the archive, move {INDEX}* and the folder {OBJECTS} out of {data_dir}, put a backup of {INDEX}"
        " there if there is one, start, and `failover import` that folder: what the primary has is not owed"
    )


def _holds_objects(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else False


def _run(connection: sqlite3.Connection, script: str, version: int) -> None:
    """Run all of it or nothing; the file has this version then."""
    connection.execute("BEGIN IMMEDIATE")
    for statement in _statements(script):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines():
        statement += line.split("--", 1)[0] + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
