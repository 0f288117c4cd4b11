"""What the archive owes the primary (DESIGN 4.4): numbers, lists, marks. Debt is a column of the index.

Who writes it down first is `placement`, in the transaction that makes the object durable. Here it is counted,
listed for the replicator, and marked as sent, proven, refused or owed again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from failover.archive import rejection
from failover.archive.index import Index
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.errors import StorageError
from failover.model import LOST, DebtState

# The gate to on_primary forgives what came straight to the archive in the last seconds (DESIGN 4.4).
FRESH_S: Final = 10.0
# Rows of one answer: each has some 400 bytes, and a frame of the control channel holds 64 MiB.
MAX_LIMIT: Final = 10_000

# The conditions must be written exactly as in the partial indexes, or SQLite looks at every row.
_IN_DEBT: Final = "i.state IN ('owed', 'sent', 'refused')"
_PAID_OFF: Final = "i.state IN ('proven', 'deleted')"
_DEBT: Final = (DebtState.OWED, DebtState.SENT, DebtState.REFUSED)
_PAID: Final = (DebtState.PROVEN, DebtState.DELETED)

_MARK: Final = {
    DebtState.SENT: (
        "state = 'sent', sent_at = :now, attempts = attempts + 1",
        "state IN ('owed', 'sent', 'refused')",
    ),
    # What was never owed gets a proof with a date too: eviction asks for one.
    DebtState.PROVEN: (
        "state = CASE WHEN state = 'none' THEN 'none' ELSE 'proven' END, proven_at = :now,"
        " refused_status = NULL",
        "1",
    ),
    DebtState.OWED: (
        "state_since = CASE WHEN state IN ('owed', 'sent') THEN state_since ELSE :now END,"
        " state = 'owed', proven_at = NULL, refused_status = NULL",
        "1",
    ),
    DebtState.REFUSED: (
        "state_since = CASE WHEN state = 'refused' THEN state_since ELSE :now END,"
        " state = 'refused', refused_status = :status",
        "state IN ('owed', 'sent', 'refused')",
    ),
    # What is owed was never there: it cannot have been deleted.
    DebtState.DELETED: (
        "state = 'deleted', state_since = :now, proven_at = NULL",
        "state IN ('none', 'proven')",
    ),
}


@dataclass(frozen=True, slots=True)
class DebtNumbers:
    """Lag is what is owed and sent, not yet proven; what is refused is out of it."""

    lag_objects: int
    lag_s: float  # age of the oldest of them; 0 when there is none
    pending_to_primary: int  # of them, not yet sent
    refused: int
    lost: int  # of the refused: not by the primary, but lost here before they were sent
    owed_older_than_10_s: int


class Ledger:
    """Reads are synchronous and from any thread; `mark` is durable on return."""

    def __init__(self, index: Index, clock: Clock) -> None:
        self._index = index
        self._clock = clock

    def numbers(self) -> DebtNumbers:
        """Return how much is owed now."""
        now = self._now()
        found = self._index.reader().execute(
            "SELECT i.state AS state, count(*) AS objects, min(i.arrived_at) AS oldest,"
            # What arrived in the future did so before our clock was set back: it is not of the last seconds.
            # What we brought ourselves and the primary lost since did not come straight to our port.
            " sum(i.arrived_at NOT BETWEEN ? AND ? OR i.origin IN ('replicated', 'copied')) AS aged,"
            " coalesce(sum(i.refused_status = ?), 0) AS lost"
            f" FROM instances i WHERE {_IN_DEBT}"
            " GROUP BY i.state",
            (now - FRESH_S, now, LOST),
        )
        by_state = {row["state"]: row for row in found}
        lagging = [by_state[state] for state in (DebtState.OWED, DebtState.SENT) if state in by_state]
        oldest = min((row["oldest"] for row in lagging), default=now)
        return DebtNumbers(
            lag_objects=sum(row["objects"] for row in lagging),
            lag_s=max(0.0, now - oldest),
            pending_to_primary=_objects(by_state, DebtState.OWED),
            refused=_objects(by_state, DebtState.REFUSED),
            lost=by_state[DebtState.REFUSED]["lost"] if DebtState.REFUSED in by_state else 0,
            owed_older_than_10_s=sum(row["aged"] for row in lagging),
        )

    def entries(
        self,
        states: Sequence[DebtState],
        *,
        limit: int = 100,
        after: str | None = None,
        studies_first: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Return objects in `states`: those of `studies_first` before the others, oldest first.

        `after` is the SOP instance UID of the last one got: those behind it follow. One that has gone
        meanwhile starts again from the first. `proven` is what was owed once, with `deleted` it can be asked
        for apart from debt. Raises StorageError for other states and for both together.
        """
        if not (set(states) <= set(_DEBT) or set(states) <= set(_PAID)):
            raise StorageError("only owed, sent and refused, or proven and deleted, can be listed")
        if not states:
            return []
        left = max(0, min(limit, MAX_LIMIT))
        last = self._position(after, frozenset(studies_first))
        entries: list[dict[str, Any]] = []
        for urgent in (True, False) if studies_first else (False,):
            if last is not None and urgent and not last[0]:
                continue
            behind = last[1:] if last is not None and last[0] == urgent else None
            rows = self._select(states, studies_first, urgent, behind, left - len(entries))
            entries += [self._entry(row) for row in rows]
        return entries

    def studies(self, *, limit: int, after: str = "") -> list[dict[str, Any]]:
        """Return the studies of which something is in debt, by UID, those behind `after`.

        Of each: how much in each state, since when (seconds since 1970), how many objects are held in all.
        """
        rows = self._index.reader().execute(
            "SELECT t.uid AS study_instance_uid, t.instances AS held, sum(i.state = 'owed') AS owed,"
            " sum(i.state = 'sent') AS sent, sum(i.state = 'refused') AS refused,"
            " min(coalesce(i.state_since, i.arrived_at)) AS since"
            f" FROM instances i JOIN studies t ON t.id = i.study WHERE {_IN_DEBT} AND t.uid > ?"
            " GROUP BY t.uid ORDER BY t.uid LIMIT ?",
            (after, max(0, min(limit, MAX_LIMIT))),
        )
        return [dict(row) for row in rows]

    def described(self, sop_instance_uids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the same facts of these objects, whatever their state; those not held are left out."""
        rows = self._index.reader().execute(
            "SELECT i.*, t.uid AS study_uid, s.uid AS series_uid FROM json_each(?) asked"
            " JOIN instances i ON i.uid = asked.value"
            " JOIN series s ON s.id = i.series JOIN studies t ON t.id = i.study",
            (json.dumps(list(sop_instance_uids)),),
        )
        return [self._entry(row) for row in rows]

    def recent_studies(self, for_s: float) -> dict[str, int]:
        """Return the studies of which something came in the last `for_s` seconds, with what is not owed."""
        found = self._index.reader().execute(
            "SELECT t.uid AS uid, count(*) AS paid FROM instances i JOIN studies t ON t.id = i.study"
            " WHERE i.study IN (SELECT study FROM instances WHERE arrived_at >= ?)"
            " AND i.state IN ('none', 'proven') AND i.hidden = 0 GROUP BY i.study",
            (self._now() - for_s,),
        )
        return {row["uid"]: row["paid"] for row in found}

    async def mark(
        self, sop_instance_uids: Sequence[str], state: DebtState, *, status: int | None = None
    ) -> int:
        """Write down where objects stand now; return how many rows changed.

        `status` is the permanent status of a refusal. UIDs that are not held change nothing. Raises
        StorageError for a state that is no mark.
        """
        if state not in _MARK:
            raise StorageError(f"{state} cannot be marked")

        def work(transaction: Transaction) -> int:
            wanted = list(sop_instance_uids)
            there = _hidden_there(transaction, wanted) if state is DebtState.OWED else set()
            if there:
                self._update(transaction, sorted(there), DebtState.PROVEN)
                wanted = [uid for uid in wanted if uid not in there]
            return len(there) + self._update(transaction, wanted, state, status)

        return await self._index.write(work)

    async def tried(self, sop_instance_uids: Sequence[str]) -> None:
        """Count a send that the primary answered, and did not take; what it took `mark` counts."""
        uids = json.dumps(list(sop_instance_uids))

        def work(transaction: Transaction) -> None:
            transaction.connection.execute(
                "UPDATE instances SET attempts = attempts + 1 WHERE uid IN (SELECT value FROM json_each(?))",
                (uids,),
            )

        await self._index.write(work)

    def _update(
        self,
        transaction: Transaction,
        sop_instance_uids: Sequence[str],
        state: DebtState,
        status: int | None = None,
    ) -> int:
        assignment, condition = _MARK[state]
        parameters = {"uids": json.dumps(list(sop_instance_uids)), "now": self._now(), "status": status}
        connection = transaction.connection
        # What was deleted on the primary is shown no more, unless it turns out to be owed.
        shown_anew = {DebtState.DELETED: "state IN ('none', 'proven')", DebtState.OWED: "state = 'deleted'"}
        changing = []
        if state in shown_anew:
            changing = connection.execute(
                "SELECT uid FROM instances WHERE uid IN (SELECT value FROM json_each(:uids))"
                f" AND {shown_anew[state]}",
                parameters,
            ).fetchall()
        changed = connection.execute(
            f"UPDATE instances SET {assignment}"
            f" WHERE uid IN (SELECT value FROM json_each(:uids)) AND {condition}",
            parameters,
        ).rowcount
        for row in changing:
            rejection.show_or_hide(transaction, row["uid"])
        return changed

    # -- inside -------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock.wall().timestamp()

    def _position(
        self, sop_instance_uid: str | None, first: frozenset[str]
    ) -> tuple[bool, float, int] | None:
        row = self._index.row(sop_instance_uid) if sop_instance_uid else None
        return None if row is None else (row["study_uid"] in first, row["arrived_at"], row["id"])

    def _select(
        self,
        states: Sequence[DebtState],
        studies: Sequence[str],
        urgent: bool,
        behind: tuple[float, int] | None,
        limit: int,
    ) -> list[sqlite3.Row]:
        conditions = [
            _IN_DEBT if states[0] in _DEBT else _PAID_OFF,
            f"i.state IN ({', '.join('?' * len(states))})",
        ]
        parameters: list[Any] = [state.value for state in states]
        if studies:
            word = "IN" if urgent else "NOT IN"
            conditions.append(f"t.uid {word} (SELECT value FROM json_each(?))")
            parameters.append(json.dumps(list(studies)))
        if behind is not None:
            conditions.append("(i.arrived_at, i.id) > (?, ?)")
            parameters += behind
        return list(
            self._index.reader().execute(
                "SELECT i.*, t.uid AS study_uid, s.uid AS series_uid FROM instances i"
                " JOIN series s ON s.id = i.series JOIN studies t ON t.id = i.study"
                f" WHERE {' AND '.join(conditions)} ORDER BY i.arrived_at, i.id LIMIT ?",
                (*parameters, limit),
            )
        )

    def _entry(self, row: sqlite3.Row) -> dict[str, Any]:
        now = self._now()
        held = self._index.held(row)
        return {
            "sop_instance_uid": held.key.sop_instance_uid,
            "series_instance_uid": held.key.series_instance_uid,
            "study_instance_uid": held.key.study_instance_uid,
            "patient_id": row["patient_id"],
            "sop_class_uid": held.sop_class_uid,
            "transfer_syntax_uid": held.transfer_syntax_uid,
            "path": str(held.path),
            "bytes": held.size_bytes,
            "arrived_at_s_ago": max(0.0, now - row["arrived_at"]),
            "state": held.state.value,
            "since": _since(row),
            "sent_s_ago": None if row["sent_at"] is None else max(0.0, now - row["sent_at"]),
            "attempts": row["attempts"],
            "refused_status": row["refused_status"],
            # Compressed while it was proven, and not yet what it was when it came: not to be sent now.
            "restoring": row["state"] == DebtState.OWED and row["compression"] == "done",
        }


def _hidden_there(transaction: Transaction, sop_instance_uids: Sequence[str]) -> set[str]:
    """Return which of these were sent, are named by a rejection note, and the primary has that note.

    A primary that hides what is rejected never shows them: they are not sent again.
    """
    found = transaction.connection.execute(
        "SELECT i.uid FROM instances i JOIN rejected r ON r.uid = i.uid JOIN instances n ON n.uid = r.note"
        " WHERE i.uid IN (SELECT value FROM json_each(?)) AND i.state = 'sent' AND n.hidden = 0"
        " AND n.state IN ('none', 'proven')",
        (json.dumps(list(sop_instance_uids)),),
    )
    return {row["uid"] for row in found}


def _since(row: sqlite3.Row) -> float | None:
    """Since when the object is owed (also while it is sent), refused or deleted; when it was proven. Seconds
    since 1970."""
    if row["state"] in (DebtState.NONE, DebtState.PROVEN):
        return row["proven_at"] and float(row["proven_at"])
    return float(row["arrived_at"] if row["state_since"] is None else row["state_since"])


def _objects(by_state: dict[str, sqlite3.Row], state: DebtState) -> int:
    return int(by_state[state]["objects"]) if state in by_state else 0
