"""What the archive answers to our other processes: ledger, take, studies, window, numbers.

Reads of the index that may be large run in threads, so that the DICOM side and DICOMweb never wait for them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from failover.archive import outlook
from failover.archive.commitments import Commitments
from failover.archive.expected import ExpectedMoves
from failover.archive.index import Index
from failover.archive.instances import Instances
from failover.archive.janitor import Janitor
from failover.archive.ledger import DebtNumbers, Ledger
from failover.archive.rows import text
from failover.archive.troubles import Troubles
from failover.archive.versions import differences
from failover.clock import Clock
from failover.control import Handler, Json
from failover.errors import ControlError
from failover.metrics import ArchiveMetrics
from failover.model import DebtState, Origin

# SOP instance UIDs, and where the next page begins; None: there is none.
_Page = tuple[list[str], Sequence[Any] | None]


class Handlers:
    """The methods of the socket `archive`. What a question lacks or has wrong raises ControlError."""

    def __init__(
        self,
        index: Index,
        instances: Instances,
        ledger: Ledger,
        moves: ExpectedMoves,
        commitments: Commitments,
        janitor: Janitor,
        metrics: ArchiveMetrics,
        troubles: Troubles,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._troubles = troubles
        self._index = index
        self._instances = instances
        self._ledger = ledger
        self._moves = moves
        self._commitments = commitments
        self._janitor = janitor
        self._metrics = metrics

    def methods(self) -> Mapping[str, Handler]:
        """Return the handlers by method, for `ControlServer`."""
        return {
            "ledger.numbers": self.ledger_numbers,
            "ledger.list": self.ledger_list,
            "ledger.studies": self.ledger_studies,
            "ledger.described": self.ledger_described,
            "ledger.mark": self.ledger_mark,
            "ledger.tried": self.ledger_tried,
            "take": self.take,
            "move.expect": self.move_expect,
            "studies.held": self.studies_held,
            "study.instances": self.study_instances,
            "studies.recent": self.studies_recent,
            "window.set": self.window_set,
            "retention.unproven": self.retention_unproven,
            "commitment.unproven": self.commitment_unproven,
            "retention.clock_right": self.retention_clock_right,
            "retention.plan": self.retention_plan,
            "retention.protect": self.retention_protect,
            "quarantine.list": self.quarantine_list,
            "numbers": self.numbers,
            "metrics": self.metrics,
        }

    async def ledger_numbers(self, question: Json) -> Json:
        """What is owed; while that is not known an error, or, `unknown_too`, null for each."""
        if self._index.recovered:
            numbers = asdict(await asyncio.to_thread(self._ledger.numbers))
        elif question.get("unknown_too"):
            numbers = dict.fromkeys(field.name for field in fields(DebtNumbers))
        else:
            raise ControlError("what was stored last is not in the index yet")
        return {**numbers, "troubles": self._troubles.sentences()}

    async def ledger_list(self, question: Json) -> Json:
        states = [_state(word) for word in question.get("states", ["owed"])]
        limit = int(question.get("limit", 100))
        after = question.get("after")
        first = [str(uid) for uid in question.get("studies_first") or []]
        return {
            "objects": await asyncio.to_thread(
                lambda: self._ledger.entries(states, limit=limit, after=after, studies_first=first)
            )
        }

    async def ledger_studies(self, question: Json) -> Json:
        limit, after = int(question.get("limit", 100)), str(question.get("after") or "")
        return {"studies": await asyncio.to_thread(self._ledger.studies, limit=limit, after=after)}

    async def ledger_described(self, question: Json) -> Json:
        uids = [str(uid) for uid in _given(question, "sop_instance_uids")]
        return {"objects": await asyncio.to_thread(self._ledger.described, uids)}

    async def ledger_mark(self, question: Json) -> Json:
        uids = [str(uid) for uid in _given(question, "sop_instance_uids")]
        state = _state(_given(question, "state"))
        return {"changed": await self._ledger.mark(uids, state, status=question.get("status"))}

    async def ledger_tried(self, question: Json) -> Json:
        await self._ledger.tried([str(uid) for uid in _given(question, "sop_instance_uids")])
        return {}

    async def take(self, question: Json) -> Json:
        origin = _origin(_given(question, "origin"))
        stored = await self._instances.take(Path(str(_given(question, "path"))), origin)
        return {"sop_instance_uid": stored.key.sop_instance_uid, "result": stored.result.value}

    async def move_expect(self, question: Json) -> Json:
        calling_ae, message_id = str(_given(question, "calling_ae")), int(_given(question, "message_id"))
        self._moves.expect(calling_ae, message_id, float(question.get("for_s", 600)))
        return {}

    async def studies_held(self, question: Json) -> Json:
        """What is held of these studies; `evicted`: of which something went for space, `evicted_until`: the
        youngest date of such a study. Neither is to be fetched again."""
        uids = [str(uid) for uid in _given(question, "study_instance_uids")]
        return {
            "studies": await asyncio.to_thread(self._studies, uids),
            "evicted": await asyncio.to_thread(self._evicted, uids),
            "evicted_until": await asyncio.to_thread(self._index.evicted_until),
        }

    async def study_instances(self, question: Json) -> Json:
        uid = str(_given(question, "study_instance_uid"))
        return {"instances": await asyncio.to_thread(self._study, uid)}

    async def studies_recent(self, question: Json) -> Json:
        """Studies of which something came in the last `for_s` seconds, each with how many objects of it the
        primary must have: those that are not owed."""
        for_s = float(_given(question, "for_s"))
        return {"studies": await asyncio.to_thread(self._ledger.recent_studies, for_s)}

    async def window_set(self, question: Json) -> Json:
        first = question.get("from")
        short = {str(uid): int(count) for uid, count in (question.get("short") or {}).items()}
        await self._index.set_window(_day(first) if first else None, short)
        return {}

    async def retention_unproven(self, question: Json) -> Json:
        """What would go by retention, were it proven: the replicator asks the primary for it."""
        return await self._unproven(self._janitor.unproven, question)

    async def commitment_unproven(self, question: Json) -> Json:
        """What a modality waits for, and would be told of, were it proven anew: asked for likewise."""
        return await self._unproven(self._commitments.unproven, question)

    async def _unproven(self, page: Callable[..., _Page], question: Json) -> Json:
        limit = int(question.get("limit", 100))
        after = (tuple(question["after"]),) if question.get("after") else ()

        def look() -> Json:
            uids, place = page(limit, *after)
            return {"objects": self._ledger.described(uids), "next": place and list(place)}

        return await asyncio.to_thread(look)

    async def retention_plan(self, question: Json) -> Json:
        """What goes next, when and why."""
        limit = int(question.get("limit", 100))
        return await asyncio.to_thread(outlook.plan, self._index, self._janitor, self._clock, limit)

    async def retention_protect(self, question: Json) -> Json:
        """Protect a study or a patient from retention, or no more."""
        study, patient = question.get("study_instance_uid"), question.get("patient_id")
        protected = bool(_given(question, "protected"))
        return await self._index.write(
            lambda transaction: outlook.protect(
                transaction, study=study, patient_id=patient, protected=protected
            )
        )

    async def retention_clock_right(self, question: Json) -> Json:
        """An operator says that the clock is right; `was`: what was the matter with it, null: nothing."""
        was = self._janitor.clock_guard.doubt
        if was is not None and not question.get("dry_run"):
            await asyncio.to_thread(self._janitor.clock_guard.confirm)
        return {"was": was}

    async def quarantine_list(self, question: Json) -> Json:
        """What is in quarantine, newest first; with `versions` also what is served, and what differs."""
        limit, after = int(question.get("limit", 100)), question.get("after")
        found = await asyncio.to_thread(self._index.quarantined, limit=limit, after=after)
        if question.get("versions"):
            found = [await asyncio.to_thread(self._versions, one) for one in found]
        return {"objects": found}

    async def numbers(self, question: Json) -> Json:
        return dict(self._index.numbers())

    async def metrics(self, question: Json) -> Json:
        return {"text": generate_latest(self._metrics.registry).decode("utf-8")}

    # -- reads, in a thread -------------------------------------------------------------------------

    def _studies(self, uids: list[str]) -> dict[str, Any]:
        found = self._index.reader().execute(
            "SELECT t.uid, t.instances, t.attributes, (SELECT count(*) FROM instances i WHERE i.study = t.id"
            " AND i.state IN ('owed', 'sent', 'refused')) AS not_on_primary FROM studies t"
            " WHERE t.uid IN (SELECT value FROM json_each(?))",
            (json.dumps(uids),),
        )
        studies: dict[str, Any] = {}
        for row in found:
            attributes = json.loads(row["attributes"])
            studies[row["uid"]] = {
                "instances": row["instances"],
                "not_on_primary": row["not_on_primary"],
                "patient_id": text(attributes, "00100020"),
                "issuer": text(attributes, "00100021"),
                "patient_name": text(attributes, "00100010"),
                "birth_date": text(attributes, "00100030"),
                "accession": text(attributes, "00080050"),
                "study_date": text(attributes, "00080020"),
            }
        return studies

    def _versions(self, quarantined: dict[str, Any]) -> dict[str, Any]:
        row = self._index.row(quarantined["uid"])
        held = None if row is None else self._index.held(row)
        path = self._index.file(quarantined["path"])
        served = None
        if held is not None:
            served = {
                "study_instance_uid": held.key.study_instance_uid,
                "bytes": held.size_bytes,
                "origin": held.origin.value,
                "state": held.state.value,
            }
        return {
            "id": quarantined["id"],
            "sop_instance_uid": quarantined["uid"],
            "reason": quarantined["reason"],
            "arrived_at": quarantined["arrived_at"],
            "served": served,
            "quarantined": {
                "study_instance_uid": quarantined["study_uid"],
                "bytes": quarantined["bytes"],
                "origin": quarantined["origin"],
                "caller": quarantined["caller"],
            },
            "differs": differences(None if held is None else held.path, path),
        }

    def _evicted(self, uids: list[str]) -> list[str]:
        found = self._index.reader().execute(
            "SELECT study_uid FROM evicted WHERE study_uid IN (SELECT value FROM json_each(?))",
            (json.dumps(uids),),
        )
        return [row["study_uid"] for row in found]

    def _study(self, study_instance_uid: str) -> list[dict[str, Any]]:
        """What is held of a study. Rejected objects too: they are not to be fetched again."""
        found = self._index.reader().execute(
            "SELECT i.uid, s.uid AS series_uid, i.state, i.hidden FROM instances i"
            " JOIN studies t ON t.id = i.study JOIN series s ON s.id = i.series WHERE t.uid = ?"
            " AND (i.hidden = 0 OR (i.state <> 'deleted' AND i.uid IN (SELECT uid FROM rejected)))",
            (study_instance_uid,),
        )
        return [
            {
                "sop_instance_uid": row["uid"],
                "series_instance_uid": row["series_uid"],
                "state": row["state"],
                "rejected": bool(row["hidden"]),
            }
            for row in found
        ]


def _given(question: Json, name: str) -> Any:
    if name not in question:
        raise ControlError(f"{name} must be given")
    return question[name]


def _state(word: Any) -> DebtState:
    try:
        return DebtState(word)
    except ValueError:
        raise ControlError(f"no such state: {word}") from None


def _origin(word: Any) -> Origin:
    try:
        return Origin(word)
    except ValueError:
        raise ControlError(f"no such origin: {word}") from None


def _day(word: Any) -> date:
    try:
        return datetime.strptime(str(word).replace("-", ""), "%Y%m%d").date()
    except ValueError:
        raise ControlError(f"no such day: {word}") from None
