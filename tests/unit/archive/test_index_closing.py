"""The index is closed while a thread reads: the read ends, and the process lives."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from failover.archive.index import Index

# In a process of its own: what is shown here would take the tests along.
_SCENE = """
import sys, threading
from pathlib import Path
from failover.archive.index import Index

COUNT = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT count(*) FROM n"
for number in range(10):
    index = Index(Path(sys.argv[1]) / str(number), has_primary=True)
    began, counted = threading.Event(), []

    def look():
        reader = index.reader()
        began.set()
        for _ in range(100):
            counted.append(reader.execute(COUNT).fetchone()[0])

    thread = threading.Thread(target=look)
    thread.start()
    began.wait()
    index.close()
    thread.join()
    assert counted == [20000] * 100, counted
"""


def test_a_read_under_way_ends_and_takes_nobody_along(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCENE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_who_begins_to_read_afterwards_is_told(tmp_path: Path) -> None:
    index = Index(tmp_path, has_primary=True)
    index.close()
    with pytest.raises(sqlite3.ProgrammingError):
        index.reader()
