"""The lists that prove what came back: what is owed, object by object, and what lies in quarantine.

The archive has the ledger and the quarantine, the replicator what has vanished and how far each debt is.
Their answers are joined here; nothing of them is logged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from failover.admin.questions import (
    OwedQuestion,
    OwedState,
    PlanQuestion,
    QuarantineQuestion,
    SplitQuestion,
)
from failover.admin.requests import ProtectionRequest
from failover.clock import Clock, rfc3339
from failover.control import Json, ask, socket_path
from failover.errors import ControlError, ControlUnreachable, Refused
from failover.model import LOST

# A page is read from the index in milliseconds; the versions in quarantine are read from their files.
_LIMIT_S: Final = 5.0
# Studies in debt that one answer goes through: after a long outage few are split, and whoever asks must not
# wait until all of them were looked at.
_STUDIES_LOOKED_AT: Final = 1000
_DEBT: Final = (OwedState.OWED, OwedState.SENT, OwedState.REFUSED)


class DebtLists:
    """Asks archive and replicator. `present`: the backup is the embedded one; else there is nobody to ask."""

    def __init__(self, state_dir: Path, clock: Clock, *, present: bool) -> None:
        self._archive = socket_path(state_dir, "archive")
        self._replicator = socket_path(state_dir, "replicator")
        self._clock, self._present = clock, present

    async def owed(self, question: OwedQuestion) -> Json:
        """Answer GET /api/owed. Raises Refused, ControlError when the archive does not answer."""
        self._check()
        if question.state is OwedState.VANISHED:
            objects = await self._vanished(question)
        else:
            objects = await self._in_ledger(question)
        uids = [str(entry["sop_instance_uid"]) for entry in objects]
        progress = await self._of_replicator("owed.progress", {"sop_instance_uids": uids}) or {}
        numbers = await self._of_archive("ledger.numbers", {})
        vanished = await self._of_replicator("vanished.list", {"limit": 0})
        now = self._clock.wall()
        return {
            "objects": [_entry(entry, progress, now) for entry in objects],
            "next": uids[-1] if len(uids) == question.limit else None,
            "counts": {
                "owed": numbers["pending_to_primary"],
                "sent": numbers["lag_objects"] - numbers["pending_to_primary"],
                "refused": numbers["refused"],
                "lost": numbers["lost"],
                "vanished": None if vanished is None else vanished["count"],
            },
            "sending": progress.get("allowed"),
        }

    async def plan(self, question: PlanQuestion) -> Json:
        """Answer GET /api/archive/plan. Raises Refused, ControlError."""
        self._check()
        answer = await self._of_archive("retention.plan", {"limit": question.limit})
        return {
            **answer,
            "studies": [{**one, "goes_at": _moment(one["goes_at"])} for one in answer["studies"]],
        }

    async def protect(self, request: ProtectionRequest) -> Json:
        """Answer POST /api/archive/protection. Raises Refused, ControlError."""
        self._check()
        wanted = {
            "study_instance_uid": request.study_instance_uid,
            "patient_id": request.patient_id,
            "protected": request.protected,
        }
        try:
            return await self._of_archive("retention.protect", wanted)
        except ControlUnreachable:
            raise
        except ControlError as error:
            raise Refused(str(error)) from None

    async def split(self, question: SplitQuestion) -> Json:
        """Answer GET /api/split: studies of which the primary has one part and is owed another.

        A page may be shorter than its limit, or empty, and still have a next one.
        Raises Refused, ControlError when one of the two does not answer: what is split, only both know.
        """
        self._check()
        answer = await self._of_archive(
            "ledger.studies", {"limit": _STUDIES_LOOKED_AT, "after": question.after}
        )
        in_debt: list[Json] = answer["studies"]
        uids = [study["study_instance_uid"] for study in in_debt]
        shown = await ask(
            self._replicator, "studies.shown", {"study_instance_uids": uids}, timeout_s=_LIMIT_S
        )
        on_primary: Json = shown["studies"]
        split = [
            {
                **study,
                "since": _moment(study["since"]),
                "on_primary": on_primary[study["study_instance_uid"]]["instances"],
                "to_fetch": on_primary[study["study_instance_uid"]]["missing"],
            }
            for study in in_debt
            if study["study_instance_uid"] in on_primary
        ]
        page = split[: question.limit]
        if len(page) < len(split):
            return {"studies": page, "next": page[-1]["study_instance_uid"]}
        return {"studies": page, "next": uids[-1] if len(uids) == _STUDIES_LOOKED_AT else None}

    async def quarantine(self, question: QuarantineQuestion) -> Json:
        """Answer GET /api/quarantine. Raises Refused, ControlError."""
        self._check()
        answer = await self._of_archive(
            "quarantine.list", {"limit": question.limit, "after": question.after, "versions": True}
        )
        objects = [{**one, "arrived_at": _moment(one["arrived_at"])} for one in answer["objects"]]
        return {"objects": objects, "next": objects[-1]["id"] if len(objects) == question.limit else None}

    async def _in_ledger(self, question: OwedQuestion) -> list[Json]:
        states = _DEBT if question.state is None else (question.state,)
        answer = await self._of_archive(
            "ledger.list",
            {"states": [str(s) for s in states], "limit": question.limit, "after": question.after},
        )
        objects: list[Json] = answer["objects"]
        return objects

    async def _vanished(self, question: OwedQuestion) -> list[Json]:
        page = await ask(
            self._replicator,
            "vanished.list",
            {"limit": question.limit, "after": question.after},
            timeout_s=_LIMIT_S,
        )
        uids = [one["sop_instance_uid"] for one in page["objects"]]
        described = await self._of_archive("ledger.described", {"sop_instance_uids": uids})
        known = {one["sop_instance_uid"]: one for one in described["objects"]}
        return [
            {**known.get(one["sop_instance_uid"], {}), **one, "state": "vanished"} for one in page["objects"]
        ]

    def _check(self) -> None:
        if not self._present:
            raise Refused("the backup is not our archive: what it owes the primary is not kept")

    async def _of_archive(self, method: str, params: Json) -> Json:
        return await ask(self._archive, method, params, timeout_s=_LIMIT_S)

    async def _of_replicator(self, method: str, params: Json) -> Json | None:
        """A replicator that restarts takes its part of the answer away, not all of it."""
        try:
            return await ask(self._replicator, method, params, timeout_s=_LIMIT_S)
        except ControlError:
            return None


def _entry(entry: Mapping[str, Any], progress: Json, now: datetime) -> Json:
    state, uid = str(entry["state"]), entry["sop_instance_uid"]
    known: Json = (progress.get("objects") or {}).get(uid) or {}
    status, due = known.get("last_status"), None
    if state in (OwedState.OWED, OwedState.SENT) and progress.get("sends"):
        due = rfc3339(now + timedelta(seconds=known.get("due_in_s", 0.0)))
    if state == OwedState.REFUSED and entry.get("refused_status") is not None:
        code = entry["refused_status"]
        status = "damaged or gone in the archive: send it again" if code == LOST else f"0x{code:04X}"
    return {
        "sop_instance_uid": uid,
        "study_instance_uid": entry["study_instance_uid"],
        "state": state,
        "since": _moment(entry.get("since")),
        "last_status": status,
        "times_sent": entry.get("attempts"),
        "next_attempt": due,
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(datetime.fromtimestamp(seconds, UTC))
