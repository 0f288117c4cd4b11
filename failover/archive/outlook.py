"""What retention will take, when and why, study by study; and what is protected from it.

The rules are those of `retention`, by which the janitor evicts; here nothing goes. A protected study stays;
so does every study of a protected patient, also what comes later.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from failover.archive.index import Index
from failover.archive.janitor import PATIENTS_FACT, PROTECTED, PROTECTED_PATIENTS, Janitor
from failover.archive.kept_facts import keep_fact
from failover.archive.retention import PROOF_AGE_S, Cause, Standing, outlook, space_wanted
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.dicom.query_keys import comparable_value
from failover.errors import ControlError

MOST_STUDIES: Final = 1000
_STUDIES: Final = f"SELECT t.id, t.uid, t.date, t.bytes, {PROTECTED} AS protected FROM studies t"
_OLDEST_FIRST: Final = (
    f"{_STUDIES} WHERE t.date > '' AND NOT {PROTECTED} ORDER BY t.date, t.time, t.id LIMIT ?"
)
_BY_ARRIVAL: Final = f"{_STUDIES} WHERE t.instances > 0 ORDER BY t.last_arrival, t.id LIMIT ?"
_OF_STUDY: Final = (
    "SELECT count(*) AS objects, sum(bytes) AS bytes, max(arrived_at) AS last_arrival,"
    " sum(state IN ('owed', 'sent')) AS owed, sum(state = 'refused') AS refused,"
    " sum(state IN ('none', 'proven') AND coalesce(proven_at, 0) < ?) AS unproven"
    " FROM instances WHERE study = ?"
)


def plan(index: Index, janitor: Janitor, clock: Clock, limit: int) -> dict[str, Any]:
    """Return the next `limit` studies that go, those for space first, then by age, and what decides it.

    `goes_at` is Unix time. Blocks: each study is summed up.
    """
    policy, now = janitor.policy, clock.wall().timestamp()
    reader = index.reader()
    held_bytes, free_bytes = index.numbers()["bytes"], janitor.free_bytes()
    wanted = space_wanted(held_bytes, free_bytes, policy)
    limit = max(1, min(limit, MOST_STUDIES))
    chosen: dict[int, tuple[sqlite3.Row, bool]] = {}
    left, by_age = wanted, janitor.clock_guard.believed
    for row in reader.execute(_OLDEST_FIRST, (limit,)) if wanted else ():
        if left <= 0:
            break
        chosen[row["id"]] = (row, True)
        left -= row["bytes"]
    for row in reader.execute(_BY_ARRIVAL, (limit,)):
        chosen.setdefault(row["id"], (row, False))
    studies = []
    for row, for_space in list(chosen.values())[:limit]:
        facts = reader.execute(_OF_STUDY, (now - PROOF_AGE_S, row["id"])).fetchone()
        if facts["objects"]:
            told = outlook(_standing(row, facts), policy, now, for_space=for_space, by_age=by_age)
            studies.append(_study(row, facts, told))
    patients = reader.execute(f"SELECT count(*) FROM ({PROTECTED_PATIENTS})").fetchone()[0]
    protected = reader.execute(f"SELECT count(*) FROM studies t WHERE {PROTECTED}").fetchone()[0]
    window = index.window
    return {
        "days": policy.days,
        "max_bytes": policy.max_bytes,
        "min_free_bytes": policy.min_free_bytes,
        "held_bytes": held_bytes,
        "free_bytes": free_bytes,
        "space_wanted_bytes": wanted,
        "clock_doubted": janitor.clock_guard.doubt,
        "window_from": window.first_day and window.first_day.isoformat(),
        "protected_studies": protected,
        "protected_patients": patients,
        "studies": studies,
    }


def protect(
    transaction: Transaction, *, study: str | None, patient_id: str | None, protected: bool
) -> dict[str, Any]:
    """Protect a study or a patient, or no more; return how many studies that are. Raises ControlError."""
    connection = transaction.connection
    if (study is None) == (patient_id is None):
        raise ControlError("either a study or a patient must be given")
    if study is not None:
        changed = connection.execute(
            "UPDATE studies SET protected = ? WHERE uid = ?", (int(protected), study)
        ).rowcount
        if not changed:
            raise ControlError("the archive holds no such study")
        return {"studies": changed}
    key = comparable_value("LO", patient_id or "")
    kept = {str(row[0]) for row in connection.execute(PROTECTED_PATIENTS)}
    wanted = kept | {key} if protected else kept - {key}
    if wanted == kept and not protected:
        raise ControlError("this patient is not protected")
    keep_fact(connection, PATIENTS_FACT, sorted(wanted))
    found = connection.execute("SELECT count(*) FROM studies WHERE patient_id = ?", (key,))
    return {"studies": int(found.fetchone()[0])}


def _standing(row: sqlite3.Row, facts: sqlite3.Row) -> Standing:
    return Standing(
        last_arrival=facts["last_arrival"],
        owed=facts["owed"],
        refused=facts["refused"],
        unproven=facts["unproven"],
        protected=bool(row["protected"]),
    )


def _study(
    row: sqlite3.Row, facts: sqlite3.Row, told: tuple[float | None, Cause | None, str | None]
) -> dict[str, Any]:
    goes_at, cause, waits_for = told
    return {
        "study_instance_uid": row["uid"],
        "study_date": row["date"],
        "objects": facts["objects"],
        "bytes": facts["bytes"],
        "protected": bool(row["protected"]),
        "goes_at": goes_at,
        "why": cause,
        "waits_for": waits_for,
    }
