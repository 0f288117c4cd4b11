"""Which studies hold a piece of text somewhere in a column: the index finds beginnings alone.

The text of a column is kept in memory as one stretch of bytes: read at its first search, brought up to date
by what each transaction says that it changes. What is found are candidates, SQL decides on them; what a
transaction is changing is a candidate until it has been read again, so that none is ever missing.
"""

from __future__ import annotations

import sqlite3
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from typing import Final

# Of more candidates than this the first ones are found sooner in the order of the answer.
MOST_CANDIDATES: Final = 500
# So much is looked through within a millisecond or two; more is not for the event loop.
_MOST_AT_ONCE_BYTES: Final = 8 << 20
# A column of more text is not kept.
_MOST_BYTES: Final = 64 << 20
# More changed rows than this and all are read anew: they are looked through one by one.
_MOST_CHANGED: Final = 1000
_END: Final = b"\0"  # between two values: none has one in it


class HeldText:
    """One for all threads. `changing` and `changed` are told by the writer, around its commit."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` opens the index for reading. (Another's connection may be in the midst of an older
        state.)"""
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._changing: dict[int, int] = {}  # rows in transactions that are not over, and in how many
        self._changed: set[int] = set()  # since they were read
        self._columns: dict[str, _Column | None] = {}  # None: too much text to keep

    def close(self) -> None:
        with self._reading:
            if self._connection is not None:
                self._connection.close()
            self._connection, self._columns = None, {}

    def changing(self, ids: Collection[int]) -> None:
        """These rows are about to change: candidates of every search from now on."""
        with self._lock:
            for one in ids:
                self._changing[one] = self._changing.get(one, 0) + 1

    def changed(self, ids: Collection[int]) -> None:
        """What `changing` said is committed, or taken back."""
        with self._lock:
            self._changed.update(ids)
            for one in ids:
                left = self._changing[one] - 1
                if left:
                    self._changing[one] = left
                else:
                    del self._changing[one]

    def candidates(self, holding: Sequence[tuple[str, str]], *, may_read_all: bool) -> list[int] | None:
        """Return the rows of studies of which a column of `holding` may hold the text beside it.

        None: they are too many, or cannot be told without reading, or looking through, a whole column, which
        only `may_read_all` allows.
        """
        if not self._reading.acquire(blocking=may_read_all):
            return None
        try:
            return self._candidates(holding, may_read_all=may_read_all)
        finally:
            self._reading.release()

    def _candidates(self, holding: Sequence[tuple[str, str]], *, may_read_all: bool) -> list[int] | None:
        with self._lock:
            found = set(self._changing)
        self._read_again()
        wanted = {column for column, _ in holding}
        missing = [column for column in wanted if column not in self._columns]
        if missing and not may_read_all:
            return None
        for column in missing:
            with closing(self._rows(column, None)) as rows:
                self._columns[column] = _read_column(rows)
        columns = {name: held for name in wanted if (held := self._columns[name]) is not None}
        if len(columns) < len(wanted):
            return None
        if not may_read_all and sum(one.size_bytes for one in columns.values()) > _MOST_AT_ONCE_BYTES:
            return None
        for name, text in holding:
            for row in columns[name].rows_with(text.encode("utf-8", "surrogatepass")):
                found.add(row)
                if len(found) > MOST_CANDIDATES:
                    return None
        return sorted(found)

    def _read_again(self) -> None:
        with self._lock:
            changed, self._changed = self._changed, set()
        if not changed:
            return
        # Read anew by the next who asks for them, unless this goes well.
        columns, self._columns = self._columns, {}
        for name, column in columns.items():
            if column is None:
                self._columns[name] = None
            elif len(changed) + len(column.changed) <= _MOST_CHANGED:
                column.changed.update(dict.fromkeys(changed, b""))
                with closing(self._rows(name, changed)) as rows:
                    column.changed.update(rows)
                self._columns[name] = column

    def _rows(self, column: str, ids: Collection[int] | None) -> sqlite3.Cursor:
        if self._connection is None:
            self._connection = self._connect()
            self._connection.row_factory = None
        text = f"SELECT id, CAST({column} AS BLOB) FROM studies WHERE {column} != ''"
        if ids is None:
            return self._connection.execute(f"{text} ORDER BY {column}")
        wanted = f"[{','.join(map(str, ids))}]"
        return self._connection.execute(f"{text} AND id IN (SELECT value FROM json_each(?))", (wanted,))


class _Column:
    """The text of one column of all studies: each value once, and the rows that have it."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._firsts = array("Q", [0])  # of each value, the place of its first row in `_ids`; and their end
        self._starts = array("Q", [0])  # of each value in `_text`; and where another would start
        self._text = bytearray()  # each value with `_END` behind it
        self.changed: dict[int, bytes] = {}  # what was read since

    def add(self, text: bytes, ids: Collection[int]) -> None:
        """Add the next value, and the rows that have it."""
        self._ids.extend(ids)
        self._text += text + _END
        self._firsts.append(len(self._ids))
        self._starts.append(len(self._text))

    @property
    def size_bytes(self) -> int:
        return len(self._text)

    def rows_with(self, text: bytes) -> Iterator[int]:
        """Yield the rows that hold `text`, and some that held it before they changed."""
        at = self._text.find(text)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            yield from self._ids[self._firsts[place] : self._firsts[place + 1]]
            at = self._text.find(text, self._starts[place + 1])
        for row, changed in self.changed.items():
            if text in changed:
                yield row


def _read_column(rows: Iterable[tuple[int, bytes]]) -> _Column | None:
    """`rows` are in the order of their text. None: it is too much, and read no further."""
    column = _Column()
    for text, same in groupby(rows, itemgetter(1)):
        if column.size_bytes + len(text) > _MOST_BYTES:
            return None
        column.add(text, [row for row, _ in same])
    return column
