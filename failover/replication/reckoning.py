"""Objects that the primary refused or does not show any more, until they are judged.

It remembers; the rules are in `proof` and `vanished`. It lies in the inventory's file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from failover.control import Json
from failover.replication.inventory_file import Transaction, marks, parts
from failover.replication.proof import Refusals
from failover.replication.vanished import Gone


class Reckoning:
    """All calls are short and block; one process, one thread."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    # -- what has vanished

    def record_vanished(self, looked_at: Sequence[str], gone: Sequence[Gone], now: float) -> None:
        """Replace what is known to have vanished of the studies `looked_at` by `gone`.

        `now`: seconds since 1970; what was known before keeps its moment.
        """
        with Transaction(self._db):
            since: dict[str, float] = {}
            for part in parts(looked_at):
                since |= self._db.execute(
                    f"DELETE FROM gone WHERE study_instance_uid IN ({marks(part)})"
                    " RETURNING sop_instance_uid, since",
                    part,
                ).fetchall()
            self._db.executemany(
                "INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        one.sop_instance_uid,
                        one.study_instance_uid,
                        int(one.seen),
                        one.of_objects,
                        since.get(one.sop_instance_uid, now),
                    )
                    for one in gone
                ],
            )

    def vanished(self) -> list[Gone]:
        """Return what has vanished and is not judged yet."""
        rows = self._db.execute("SELECT sop_instance_uid, study_instance_uid, seen, of_objects FROM gone")
        return [Gone(sop, study, bool(seen), of_objects) for sop, study, seen, of_objects in rows]

    def vanished_page(self, limit: int, after: str) -> list[Json]:
        """Return the same for people, by SOP instance UID, those behind `after`."""
        rows = self._db.execute(
            "SELECT sop_instance_uid, study_instance_uid, since FROM gone WHERE sop_instance_uid > ?"
            " ORDER BY sop_instance_uid LIMIT ?",
            (after, limit),
        )
        return [
            {"sop_instance_uid": sop, "study_instance_uid": study, "since": since or None}
            for sop, study, since in rows
        ]

    def vanished_objects(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM gone").fetchone()[0])

    def vanished_studies(self) -> int:
        return int(self._db.execute("SELECT count(DISTINCT study_instance_uid) FROM gone").fetchone()[0])

    def forget_vanished(self) -> None:
        """All of it is in the ledger now."""
        with Transaction(self._db):
            self._db.execute("DELETE FROM gone")

    # -- refusals

    def refused(self, sop_instance_uid: str, status: int) -> Refusals:
        """Count a refusal for good, and return where the object stands now."""
        with Transaction(self._db):
            self._db.execute(
                "INSERT INTO refusal VALUES (?, 1, 0, ?)"
                " ON CONFLICT (sop_instance_uid) DO UPDATE SET times = times + 1, status = excluded.status",
                (sop_instance_uid, status),
            )
        return Refusals(
            *self._db.execute(
                "SELECT times, others_taken FROM refusal WHERE sop_instance_uid = ?", (sop_instance_uid,)
            ).fetchone()
        )

    def taken(self, sop_instance_uids: Sequence[str]) -> None:
        """Write down that the primary took these: every refused other one has been outlived by them."""
        if not sop_instance_uids:
            return
        with Transaction(self._db):
            self._db.executemany(
                "DELETE FROM refusal WHERE sop_instance_uid = ?", [(uid,) for uid in sop_instance_uids]
            )
            self._db.execute("UPDATE refusal SET others_taken = others_taken + ?", (len(sop_instance_uids),))
