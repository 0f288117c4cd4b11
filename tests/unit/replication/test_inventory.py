"""The inventory remembers across a restart, orders jobs, and sums up the window."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

from failover.replication.inventory import Inventory
from failover.replication.reconcile import (
    SETTLED_AFTER_S,
    Finding,
    Need,
    PatientFacts,
    StudyOnPrimary,
    window_days,
)
from failover.replication.vanished import Gone

TODAY = date(2026, 3, 10)
WEEK_AGO = TODAY - timedelta(days=7)


@pytest.fixture
def inventory(tmp_path: Path) -> Iterator[Inventory]:
    opened = Inventory(tmp_path / "inventory.sqlite")
    yield opened
    opened.close()


def study(uid: str, day: date = TODAY, count: int | None = 10, name: str = "A^B") -> StudyOnPrimary:
    return StudyOnPrimary(uid, day.strftime("%Y%m%d"), "0700", PatientFacts("1", None, name), count)


def record(
    inventory: Inventory, one: StudyOnPrimary, held: int, missing: int, need: Need, stood_s: float = 0.0
) -> None:
    inventory.record([(one, held, Finding(need, missing, ""), stood_s)])


def test_jobs_come_newest_first_and_end_with_a_complete_look(inventory: Inventory) -> None:
    record(inventory, study("old", WEEK_AGO), 0, 10, Need.MISSING)
    record(inventory, study("new"), 5, 5, Need.EVERYTHING)
    record(inventory, study("whole"), 10, 0, Need.NOTHING)
    assert [job.study_instance_uid for job in inventory.jobs(9)] == ["new", "old"]
    (job,) = inventory.jobs(1)
    assert job.need is Need.EVERYTHING
    assert inventory.jobs(1, ["new"])[0].study_instance_uid == "old"
    inventory.record_look(job, listed=10, held=9, missing=1, whole=False)
    assert inventory.jobs(1)[0].need is Need.EVERYTHING, "not whole: still due"
    inventory.record_look(job, listed=10, held=10, missing=0, whole=True)
    assert [job.study_instance_uid for job in inventory.jobs(9)] == ["old"]
    known = inventory.known(["new", "nobody"])
    assert known.keys() == {"new"}
    assert known["new"].brought_facts == PatientFacts("1", None, "A^B")
    assert known["new"].looked == (10, 10)


def test_totals_and_short_studies_of_the_window(inventory: Inventory) -> None:
    record(inventory, study("half"), 4, 6, Need.MISSING)
    record(inventory, study("absent", WEEK_AGO), 0, 10, Need.MISSING)
    record(inventory, study("outside", TODAY - timedelta(days=400)), 0, 10, Need.MISSING)
    totals = inventory.totals(TODAY - timedelta(days=90), TODAY)
    assert (totals.studies, totals.instances, totals.missing) == (2, 20, 16)
    assert totals.short == {"half": 10}
    assert inventory.absent_days(TODAY - timedelta(days=90), TODAY) == {WEEK_AGO}
    record(inventory, study("uncounted", count=None), 0, 1, Need.MISSING)
    assert inventory.totals(WEEK_AGO, TODAY).instances is None
    (job,) = [j for j in inventory.jobs(9) if j.study_instance_uid == "uncounted"]
    inventory.record_look(job, listed=3, held=3, missing=0, whole=True)
    assert inventory.totals(TODAY, TODAY).instances == 13


def test_a_primary_that_lists_less_than_it_counts_is_believed_for_its_count(inventory: Inventory) -> None:
    record(inventory, study("odd", count=10), 9, 1, Need.MISSING)
    (job,) = inventory.jobs(1)
    inventory.record_look(job, listed=9, held=9, missing=0, whole=False)
    assert inventory.known(["odd"])["odd"].looked == (10, 9)


def test_vanished_studies_stay_marked_and_come_back(inventory: Inventory) -> None:
    record(inventory, study("a"), 10, 0, Need.NOTHING)
    record(inventory, study("b"), 0, 10, Need.MISSING)
    assert inventory.mark_vanished(TODAY, ["a"]) == 1
    assert inventory.mark_vanished(TODAY, ["a"]) == 0
    assert inventory.jobs(9) == []
    assert inventory.totals(TODAY, TODAY).studies == 1
    assert "b" in inventory.known(["b"])
    record(inventory, study("b"), 0, 10, Need.MISSING)
    assert inventory.totals(TODAY, TODAY).studies == 2


def test_settled_studies_are_not_looked_at_in_each_poll(inventory: Inventory) -> None:
    record(inventory, study("settled", WEEK_AGO), 10, 0, Need.NOTHING, SETTLED_AFTER_S)
    record(inventory, study("young", WEEK_AGO), 10, 0, Need.NOTHING, 60.0)
    record(inventory, study("younger", WEEK_AGO), 10, 0, Need.NOTHING, 6.0)
    record(inventory, study("today"), 10, 0, Need.NOTHING, 0.0)
    assert inventory.unsettled(TODAY - timedelta(days=1), 9) == ["younger", "young"]


def test_the_sweep_takes_new_days_first_then_the_longest_ago(inventory: Inventory) -> None:
    window = window_days(TODAY, 3)
    assert inventory.next_days(window, 2) == window[:2]
    for day in window:
        inventory.record_swept(day)
    assert inventory.next_days(window, 1) == window[:1]
    inventory.record_swept(window[0])
    assert inventory.next_days(window, 1) == [window[1]]
    next_window = window_days(TODAY + timedelta(days=1), 3)
    assert inventory.next_days(next_window, 1) == [next_window[0]], "never compared"
    record(inventory, study("gone", window[-1]), 10, 0, Need.NOTHING)
    assert inventory.forget_before(next_window[-1]) == ["gone"]
    assert inventory.swept_days() == set(window) & set(next_window)


def test_refusals_are_counted_and_forgotten_with_a_proof(inventory: Inventory) -> None:
    for times in (1, 2, 3):
        assert inventory.reckoning.refused("x", 0xC000).times == times
    inventory.reckoning.taken(["other"])
    assert inventory.reckoning.refused("x", 0xC000).final
    inventory.reckoning.taken(["x"])
    assert inventory.reckoning.refused("x", 0xC000).times == 1


def test_it_survives_a_restart_and_a_spoilt_file_costs_a_new_inventory(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sqlite"
    first = Inventory(path)
    record(first, study("a"), 0, 10, Need.MISSING)
    first.record_first_inventory()
    first.close()
    again = Inventory(path)
    assert again.jobs(9)[0].study_instance_uid == "a"
    assert again.first_inventory_done
    again.close()
    path.write_bytes(b"this is no database, and long enough to be taken for one " * 100)
    anew = Inventory(path)
    assert anew.jobs(9) == []
    assert not anew.first_inventory_done
    anew.close()


def test_what_vanished_keeps_the_moment_it_was_first_missed(inventory: Inventory) -> None:
    reckoning = inventory.reckoning
    one, other = Gone("1.1.1", "1.1", True, 3), Gone("1.1.2", "1.1", True, 3)
    reckoning.record_vanished(["1.1"], [one], 100.0)
    reckoning.record_vanished(["1.1"], [one, other], 200.0)
    assert [(entry["sop_instance_uid"], entry["since"]) for entry in reckoning.vanished_page(10, "")] == [
        ("1.1.1", 100.0),
        ("1.1.2", 200.0),
    ]
    assert [entry["sop_instance_uid"] for entry in reckoning.vanished_page(10, "1.1.1")] == ["1.1.2"]
    assert reckoning.vanished() == [one, other]
    assert (reckoning.vanished_objects(), reckoning.vanished_studies()) == (2, 1)


def test_a_file_of_the_version_before_is_upgraded_with_what_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sqlite"
    Inventory(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP TABLE gone; CREATE TABLE gone (sop_instance_uid TEXT PRIMARY KEY,"
            " study_instance_uid TEXT NOT NULL, seen INTEGER NOT NULL) WITHOUT ROWID;"
            " INSERT INTO gone VALUES ('1.1.1', '1.1', 1); PRAGMA user_version = 2;"
        )
    upgraded = Inventory(path)
    assert upgraded.reckoning.vanished() == [Gone("1.1.1", "1.1", True, 1)], "it counts as a whole study"
    assert upgraded.reckoning.vanished_page(1, "")[0]["since"] is None, "nobody knows"
    upgraded.close()


def in_a_full_disk(script: str, limit_bytes: int) -> str:
    """Run `script` where no file may grow beyond `limit_bytes` (the kernel sees to it); return its words."""
    head = f"""
import resource, signal
from pathlib import Path
from failover.errors import StorageError
from failover.replication.inventory_file import Transaction, open_inventory_file
def limit(bytes_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit({limit_bytes})
"""
    run = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_a_full_disk_throws_no_inventory_away(tmp_path: Path) -> None:
    path = tmp_path / "inventory.sqlite"
    known = Inventory(path)
    record(known, study("1.2.3"), 0, 10, Need.MISSING)
    known.close()
    said = in_a_full_disk(
        f"""
try:
    open_inventory_file(Path({str(path)!r}))
except StorageError as error:
    print(error)
""",
        limit_bytes=1000,
    )
    assert said.startswith(f"{path}: cannot be opened: ")
    again = Inventory(path)
    assert again.studies() == 1
    again.close()


def test_a_transaction_for_which_there_was_no_room_does_not_stop_the_next(tmp_path: Path) -> None:
    said = in_a_full_disk(
        f"""
import sqlite3
db = open_inventory_file(Path({str(tmp_path / "inventory.sqlite")!r}))
def write(value):
    with Transaction(db):
        db.execute("INSERT OR REPLACE INTO progress VALUES ('word', ?)", (value,))
write("before")
limit(200_000)
try:
    write("x" * 1_000_000)
except sqlite3.Error:
    print("no room")
limit(100_000_000)
write("after")
print(*db.execute("SELECT value FROM progress").fetchone())
""",
        limit_bytes=100_000_000,
    )
    assert said.split() == ["no", "room", "after"]
