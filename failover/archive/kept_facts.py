"""What the index keeps of no object: single facts by name, as JSON in the table `facts`."""

from __future__ import annotations

import json
import sqlite3
from typing import Any


def read_fact(connection: sqlite3.Connection, name: str) -> Any:
    """Return what was kept under `name`, None when nothing was."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else json.loads(row[0])


def keep_fact(connection: sqlite3.Connection, name: str, value: Any) -> None:
    """Keep `value` under `name`, in the transaction of `connection`."""
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
