"""The window as the index keeps it: written within transactions, and what searches may believe at any moment.

What a comparison finds widens it, what goes for space ends it. A wider one holds once it is durable, a
shorter one at once, before its transaction is: no search may see that something has gone, and not that the
window has.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import date, timedelta
from typing import Final

from failover.archive.kept_facts import keep_fact, read_fact
from failover.archive.window import Window
from failover.archive.writer import Transaction

_WINDOW: Final = "window"
_EVICTED_UNTIL: Final = "evicted_until"


def evicted_until(connection: sqlite3.Connection) -> str | None:
    """Return the youngest study date of which something went for space: what is older goes as well."""
    until = read_fact(connection, _EVICTED_UNTIL)
    return None if until is None else str(until)


class KeptWindow:
    """One per index. Read from any thread; written in the writer thread."""

    def __init__(self, connection: sqlite3.Connection, *, has_primary: bool) -> None:
        self._has_primary = has_primary
        self.believed = self._kept = _read(connection) if has_primary else Window(complete=True)

    def compared(self, transaction: Transaction, window: Window) -> None:
        """Keep what a comparison has covered, less what went for space after it had looked."""
        until = evicted_until(transaction.connection)
        if until is not None and window.first_day is not None:
            window = replace(window, first_day=max(window.first_day, _day_after(until)))
        self._keep(transaction, window)

    def ended(self, transaction: Transaction, study_date: str) -> None:
        """What went for space is not fetched again, nor what is older, and ends the window (DESIGN 4.2)."""
        try:
            after = _day_after(study_date)
        except ValueError:
            return
        if study_date > (evicted_until(transaction.connection) or ""):
            keep_fact(transaction.connection, _EVICTED_UNTIL, study_date)
        window = _read(transaction.connection)  # an earlier job of this transaction may have kept another
        if window.first_day is not None and after > window.first_day:
            self._keep(transaction, replace(window, first_day=after))

    def _keep(self, transaction: Transaction, window: Window) -> None:
        first_day = window.first_day and window.first_day.isoformat()
        keep_fact(transaction.connection, _WINDOW, {"from": first_day, "short": dict(window.short)})
        if not self._has_primary:
            return
        before = self.believed, self._kept
        self.believed, self._kept = self.believed.meet(window), window

        def holds() -> None:
            self.believed = self._kept

        def comes_to_nothing() -> None:
            self.believed, self._kept = before

        transaction.after.append(holds)
        transaction.undo.append(comes_to_nothing)


def _read(connection: sqlite3.Connection) -> Window:
    kept = read_fact(connection, _WINDOW)
    if kept is None:
        return Window()
    first_day = date.fromisoformat(kept["from"]) if kept["from"] else None
    return Window(first_day, dict(kept["short"]))


def _day_after(study_date: str) -> date:
    return date.fromisoformat(study_date) + timedelta(days=1)
