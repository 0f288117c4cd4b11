"""What both sides hold, and how far the comparison has come: studies and days, in a file of the replicator.

It remembers and answers; what follows from it is decided in `reconcile`. Rows of studies that vanished on the
primary stay, marked, because the recheck after an outage will have to tell what the last comparison still
saw. Single objects that were refused or have vanished are in its `reckoning`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from failover.replication.inventory_file import Transaction, marks, open_inventory_file, parts
from failover.replication.reckoning import Reckoning
from failover.replication.reconcile import (
    SETTLED_AFTER_S,
    Finding,
    Known,
    Need,
    PatientFacts,
    StudyOnPrimary,
    dicom_day,
    parse_day,
)


@dataclass(frozen=True, slots=True)
class Job:
    """A study of which something has to be fetched."""

    study_instance_uid: str
    need: Need
    facts: PatientFacts
    study_date: str
    count: int | None  # what the primary's search said; None: it does not count


@dataclass(frozen=True, slots=True)
class Totals:
    """The studies of the window that the primary has."""

    studies: int
    instances: int | None  # None: there is a study whose instances nobody has counted yet
    missing: int
    pending: int  # of these, not left out for space
    short: dict[str, int]  # studies held in part → the primary's count


class Inventory:
    """All calls are short and block; one process, one thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, or begin a new one where it cannot be read: that costs a new inventory."""
        self._db = open_inventory_file(path)
        self.reckoning = Reckoning(self._db)

    def close(self) -> None:
        self._db.close()

    # -- studies

    def known(self, study_instance_uids: Sequence[str]) -> dict[str, Known]:
        """Return what is remembered of each; those never seen are left out."""
        found: dict[str, Known] = {}
        for part in parts(study_instance_uids):
            rows = self._db.execute(
                "SELECT study_instance_uid, instances, stood_s, brought_facts, looked_primary,"
                " looked_archive, looked_missing, looked_at_s, need FROM study WHERE study_instance_uid IN ("
                + marks(part)
                + ")",
                part,
            )
            for uid, instances, stood_s, brought, looked_primary, looked_archive, *rest in rows:
                missing, looked_at_s, need = rest
                looked = (
                    (looked_primary, looked_archive)
                    if looked_primary is not None and looked_archive is not None
                    else None
                )
                found[uid] = Known(
                    instances, stood_s, _facts(brought), looked, missing, looked_at_s, Need(need)
                )
        return found

    def record(self, studies: Iterable[tuple[StudyOnPrimary, int, Finding, float]]) -> None:
        """Write down what a search showed: (study, held in the archive, finding, stood_s)."""
        with Transaction(self._db):
            for study, held, finding, stood_s in studies:
                self._db.execute(
                    "INSERT INTO study (study_instance_uid, study_date, study_time, facts, instances,"
                    " counted, held, missing, evicted, need, stood_s)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (study_instance_uid) DO UPDATE SET study_date = excluded.study_date,"
                    " study_time = excluded.study_time, facts = excluded.facts,"
                    " instances = coalesce(excluded.instances, instances), counted = excluded.counted,"
                    " held = excluded.held,"
                    " missing = excluded.missing, evicted = excluded.evicted, need = excluded.need,"
                    " stood_s = excluded.stood_s, vanished = 0",
                    (
                        study.study_instance_uid,
                        study.study_date,
                        study.study_time,
                        _facts_json(study.facts),
                        study.instances,
                        int(study.instances is not None),
                        held,
                        finding.missing,
                        int(finding.evicted),
                        int(finding.need),
                        stood_s,
                    ),
                )

    def record_look(self, job: Job, *, listed: int, held: int, missing: int, whole: bool) -> None:
        """Write down a comparison instance by instance; `whole`: all of it was fetched, with `job.facts`.

        A primary whose search counts is believed for its count, so that one which lists fewer instances than
        it counts is not looked at for ever. A count of our own that differs begins to stand anew.
        """
        count = listed if job.count is None else job.count
        complete = missing == 0
        with Transaction(self._db):
            self._db.execute(
                "UPDATE study SET stood_s = CASE WHEN instances IS ? THEN stood_s ELSE 0 END, instances = ?,"
                " held = ?, missing = ?, need = ?, looked_primary = ?, looked_archive = ?,"
                " looked_missing = ?, looked_at_s = CASE WHEN instances IS ? THEN stood_s ELSE 0 END,"
                " brought_facts = coalesce(?, brought_facts) WHERE study_instance_uid = ?",
                (
                    count,
                    count,
                    held,
                    missing,
                    int(Need.NOTHING if complete else job.need),
                    count if complete else None,
                    held if complete else None,
                    missing,
                    count,
                    _facts_json(job.facts) if whole else None,
                    job.study_instance_uid,
                ),
            )

    def record_evicted(self, job: Job) -> None:
        """Something of the study, or of a younger one, went for space since it was compared."""
        with Transaction(self._db):
            self._db.execute(
                "UPDATE study SET need = 0, evicted = 1 WHERE study_instance_uid = ?",
                (job.study_instance_uid,),
            )

    def record_brought(self, job: Job) -> None:
        """What is left of an evicted study was fetched with `job.facts`."""
        with Transaction(self._db):
            self._db.execute(
                "UPDATE study SET need = 0, brought_facts = ? WHERE study_instance_uid = ?",
                (_facts_json(job.facts), job.study_instance_uid),
            )

    def mark_vanished(self, day: date, seen: Iterable[str]) -> int:
        """Mark the studies of `day` that the primary did not show; return how many are newly gone."""
        shown = set(seen)
        gone = [
            uid
            for (uid,) in self._db.execute(
                "SELECT study_instance_uid FROM study WHERE study_date = ? AND vanished = 0"
                " AND study_instance_uid NOT IN (SELECT study_instance_uid FROM gone)",
                (dicom_day(day),),
            )
            if uid not in shown
        ]
        with Transaction(self._db):
            self._db.executemany(
                "UPDATE study SET vanished = 1, need = 0 WHERE study_instance_uid = ?",
                [(uid,) for uid in gone],
            )
        return len(gone)

    def unsettled(self, before: date, limit: int) -> list[str]:
        """Return studies dated before `before` with a count that has not stood for a day, youngest first."""
        rows = self._db.execute(
            "SELECT study_instance_uid FROM study WHERE study_date < ? AND vanished = 0 AND stood_s < ?"
            " ORDER BY stood_s LIMIT ?",
            (dicom_day(before), SETTLED_AFTER_S, limit),
        )
        return [uid for (uid,) in rows]

    def jobs(self, limit: int, leave_out: Iterable[str] = ()) -> list[Job]:
        """Return the studies of which something has to be fetched, newest first."""
        left_out = list(leave_out)
        rows = self._db.execute(
            "SELECT study_instance_uid, need, facts, study_date, instances, counted FROM study"
            " WHERE need > 0 AND vanished = 0"
            f" AND study_instance_uid NOT IN ({marks(left_out)})"
            " ORDER BY study_date DESC, study_time DESC LIMIT ?",
            (*left_out, limit),
        )
        return [
            Job(uid, Need(need), _facts(facts) or PatientFacts(), day, instances if counted else None)
            for uid, need, facts, day, instances, counted in rows
        ]

    def totals(self, first: date, last: date) -> Totals:
        """Return the sums over the studies dated `first` to `last` that the primary has."""
        span = (dicom_day(first), dicom_day(last))
        where = "FROM study WHERE study_date BETWEEN ? AND ? AND vanished = 0"
        studies, instances, uncounted, missing, pending = self._db.execute(
            f"SELECT count(*), coalesce(sum(instances), 0), count(*) - count(instances),"
            f" coalesce(sum(missing), 0), coalesce(sum(missing * (1 - evicted)), 0) {where}",
            span,
        ).fetchone()
        short = dict(
            self._db.execute(
                f"SELECT study_instance_uid, instances {where} AND held > 0 AND missing > 0"
                " AND instances IS NOT NULL",
                span,
            ).fetchall()
        )
        return Totals(studies, None if uncounted else instances, missing, pending, short)

    def absent_days(self, first: date, last: date) -> set[date]:
        """Return the days with a study of which the archive holds nothing, or not all for want of space."""
        rows = self._db.execute(
            "SELECT DISTINCT study_date FROM study WHERE study_date BETWEEN ? AND ? AND vanished = 0"
            " AND (held = 0 OR evicted = 1)",
            (dicom_day(first), dicom_day(last)),
        )
        return {day for (text,) in rows if (day := parse_day(text)) is not None}

    def on_primary(self, limit: int) -> list[str]:
        """Return the newest studies that the primary has: what is owed of these is sent first."""
        rows = self._db.execute(
            "SELECT study_instance_uid FROM study WHERE vanished = 0"
            " ORDER BY study_date DESC, study_time DESC LIMIT ?",
            (limit,),
        )
        return [uid for (uid,) in rows]

    def shown(self, study_instance_uids: Sequence[str]) -> dict[str, tuple[int | None, int]]:
        """Return which of these the primary has: its count of instances, and how many the archive lacks."""
        found: dict[str, tuple[int | None, int]] = {}
        for part in parts(study_instance_uids):
            rows = self._db.execute(
                "SELECT study_instance_uid, instances, missing FROM study WHERE vanished = 0"
                f" AND study_instance_uid IN ({marks(part)})",
                part,
            )
            found |= {uid: (instances, missing) for uid, instances, missing in rows}
        return found

    def studies(self) -> int:
        """Return how many studies are known."""
        return int(self._db.execute("SELECT count(*) FROM study").fetchone()[0])

    # -- what has vanished on the primary

    def absent_studies(self, limit: int) -> list[str]:
        """Return studies that the last comparison missed and nobody has judged yet."""
        rows = self._db.execute("SELECT study_instance_uid FROM study WHERE vanished = 1 LIMIT ?", (limit,))
        return [uid for (uid,) in rows]

    def record_judged(self, study_instance_uids: Sequence[str]) -> None:
        with Transaction(self._db):
            self._db.executemany(
                "UPDATE study SET vanished = 2 WHERE study_instance_uid = ? AND vanished = 1",
                [(uid,) for uid in study_instance_uids],
            )

    def absent_before(self, study_instance_uids: Iterable[str]) -> set[str]:
        """Return which of these the last comparison did not see."""
        rows = self._db.execute("SELECT study_instance_uid FROM study WHERE vanished > 0")
        return {uid for (uid,) in rows} & set(study_instance_uids)

    # -- the sweep

    def swept_days(self) -> set[date]:
        """Return the days that have been compared at least once."""
        rows = self._db.execute("SELECT study_date FROM day")
        return {day for (text,) in rows if (day := parse_day(text)) is not None}

    def next_days(self, window: Sequence[date], count: int) -> list[date]:
        """Return the `count` days of `window` compared longest ago; never is longest, newest first."""
        turns: dict[str, int] = dict(self._db.execute("SELECT study_date, sweep FROM day").fetchall())
        order = sorted(window, key=lambda day: (turns.get(dicom_day(day), 0), -day.toordinal()))
        return order[:count]

    def record_swept(self, day: date) -> None:
        """Write down that `day` has been compared just now."""
        with Transaction(self._db):
            (last,) = self._db.execute("SELECT coalesce(max(sweep), 0) FROM day").fetchone()
            self._db.execute(
                "INSERT INTO day VALUES (?, ?) ON CONFLICT (study_date) DO UPDATE SET sweep = excluded.sweep",
                (dicom_day(day), last + 1),
            )

    def forget_before(self, first: date) -> list[str]:
        """Drop days and studies that have left the window; return the studies."""
        old = "study_date < ? AND study_date <> ''"
        with Transaction(self._db):
            self._db.execute("DELETE FROM day WHERE study_date < ?", (dicom_day(first),))
            rows = self._db.execute(
                f"DELETE FROM study WHERE {old} RETURNING study_instance_uid", (dicom_day(first),)
            ).fetchall()
        return [uid for (uid,) in rows]

    @property
    def first_inventory_done(self) -> bool:
        """Whether each day of the window has been compared at least once, ever."""
        return bool(self._db.execute("SELECT 1 FROM progress WHERE name = 'first_inventory'").fetchall())

    def record_first_inventory(self) -> None:
        with Transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO progress VALUES ('first_inventory', 'done')")


def _facts_json(facts: PatientFacts) -> str:
    return json.dumps(asdict(facts), ensure_ascii=False)


def _facts(text: str | None) -> PatientFacts | None:
    return PatientFacts(**json.loads(text)) if text else None
