"""Sends the primary what it is owed and proves that it is there.

The archive's ledger is the only truth of what is owed; this keeps in memory when an object is asked for or
tried again, and in the inventory how often it was refused. The rules are in `proof`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from failover.clients.stored import Stored
from failover.clock import Clock
from failover.control import Json
from failover.metrics import ReplicatorMetrics
from failover.model import DebtState
from failover.replication.archive_side import ArchiveSide, OwedObject
from failover.replication.inventory import Inventory
from failover.replication.proof import StoreHealth, again_after_s, is_permanent, next_question_s
from failover.replication.ways import BATCH, Way

_log = structlog.get_logger(__name__)
# Entries of the ledger looked at in one turn; those that wait for their next try are among them.
_LOOK_AT: Final = 500
# Studies that the primary also has, told to the ledger so that split studies are made whole first.
_STUDIES_FIRST: Final = 500


@dataclass(slots=True)
class _Waiting:
    """When an object is due again, how often that was so, and what the primary said of it."""

    times: int
    due_s: float
    said: str
    answered: bool = True


class Payback:
    """Each turn is short; the worker calls them one after the other."""

    def __init__(
        self, archive: ArchiveSide, inventory: Inventory, metrics: ReplicatorMetrics, clock: Clock
    ) -> None:
        self._archive, self._inventory, self._metrics, self._clock = archive, inventory, metrics, clock
        self._health: dict[str, StoreHealth] = {}
        self._sent_by: dict[str, str] = {}
        self._failures: dict[str, _Waiting] = {}
        self._questions: dict[str, _Waiting] = {}

    def health(self, service: str) -> StoreHealth:
        """What our stores by `service` (web, dicom) say of the primary."""
        return self._health.setdefault(service, StoreHealth())

    async def send(self, way: Way, limit: int = BATCH) -> int:
        """Send up to `limit` owed objects that are due; return how many were accepted.

        Raises UpstreamError when the primary cannot be reached, ControlError.
        """
        entries = await self._archive.ledger(
            DebtState.OWED, _LOOK_AT, studies_first=self._inventory.on_primary(_STUDIES_FIRST)
        )
        self._forget(self._failures, entries if len(entries) < _LOOK_AT else None)
        now_s = self._clock.monotonic()
        ready = (
            entry
            for entry in entries
            if not entry.restoring
            and self._due(self._failures, entry.sop_instance_uid, now_s)
            and entry.path.is_file()  # it may be moved this moment
        )
        due = list(islice(ready, limit))
        if not due:
            return 0
        health = self.health(way.name)
        try:
            answers = await way.send(due)
        except Exception:
            health.failed()
            for entry in due:
                self._put_off(entry, "no answer")
            raise
        via = "stow" if way.name == "web" else "store"
        # What was sent and not answered may be there: it is asked for like one that was accepted. What never
        # was stays owed, and due.
        sent = [e for e in due if e.sop_instance_uid not in answers or answers[e.sop_instance_uid].accepted]
        await self._archive.mark((entry.sop_instance_uid for entry in sent), DebtState.SENT)
        for entry in sent:
            self._ask_from_now(entry, answered=entry.sop_instance_uid in answers)
            self._sent_by[entry.sop_instance_uid] = way.name
        accepted = [entry for entry in sent if entry.sop_instance_uid in answers]
        self._metrics.sent.labels(via).inc(len(accepted))
        for _ in accepted:
            health.accepted()
        if len(accepted) < len(sent) or not all(answer.sent for answer in answers.values()):
            health.failed()
        answered = [
            (entry, answers[entry.sop_instance_uid]) for entry in due if entry.sop_instance_uid in answers
        ]
        refused = [(entry, answer) for entry, answer in answered if answer.sent and not answer.accepted]
        await self._archive.tried(entry.sop_instance_uid for entry, _ in refused)
        for entry, answer in refused:
            await self._refused(entry, answer, health)
        return len(accepted)

    async def prove(self, way: Way) -> int:
        """Ask for what was sent and is due; return how many objects are proven now.

        Raises UpstreamError, ControlError.
        """
        entries = await self._archive.ledger(DebtState.SENT, _LOOK_AT)
        self._forget(self._questions, entries if len(entries) < _LOOK_AT else None)
        now_s = self._clock.monotonic()
        by_study: dict[str, list[OwedObject]] = {}
        for entry in entries:
            if self._due(self._questions, entry.sop_instance_uid, now_s):
                by_study.setdefault(entry.study_instance_uid, []).append(entry)
        proven = 0
        for objects in by_study.values():
            proven += await self._prove_study(way, objects)
        return proven

    async def renew(self, way: Way, objects: Sequence[OwedObject]) -> dict[str, list[str]]:
        """Ask for `objects`, which owe nothing, and give what is shown a new proof.

        Return the others by study: they are not there any more, or under another patient.

        Raises UpstreamError, ControlError.
        """
        by_study: dict[str, list[OwedObject]] = {}
        for entry in objects:
            by_study.setdefault(entry.study_instance_uid, []).append(entry)
        missed: dict[str, list[str]] = {}
        for uid, study in by_study.items():
            shown = await way.shown(study)
            await self._archive.mark(shown, DebtState.PROVEN)
            if others := [e.sop_instance_uid for e in study if e.sop_instance_uid not in shown]:
                missed[uid] = others
        return missed

    async def _prove_study(self, way: Way, objects: Sequence[OwedObject]) -> int:
        shown = await way.shown(objects)
        await self._archive.mark(shown, DebtState.PROVEN)
        self._inventory.reckoning.taken(list(shown))
        for uid in shown:
            self._questions.pop(uid, None)
            self._failures.pop(uid, None)
            self.health(self._sent_by.pop(uid, way.name)).proven()
        self._metrics.proven.inc(len(shown))
        again = [e for e in objects if e.sop_instance_uid not in shown and self._asked_in_vain(e)]
        if again:
            _log.warning(
                "objects that were sent are not shown by the primary: sent again", objects=len(again)
            )
            await self._archive.mark((entry.sop_instance_uid for entry in again), DebtState.OWED)
            for entry in again:
                asked = self._questions.pop(entry.sop_instance_uid, None)
                sent_by = self._sent_by.pop(entry.sop_instance_uid, way.name)
                if asked is not None and not asked.answered:
                    self._put_off(entry, "no answer")  # counted when its association died
                    continue
                self._put_off(entry, "accepted, but not shown")
                self.health(sent_by).failed()
                self._metrics.failures.labels("prove").inc()
        return len(shown)

    async def _refused(self, entry: OwedObject, answer: Stored, health: StoreHealth) -> None:
        self._metrics.failures.labels("send").inc()
        self._put_off(entry, _status(answer))
        if not is_permanent(answer.failure_reason):
            _log.warning("the primary did not take an object", reason=answer.sentence)
            health.failed()
            return
        assert answer.failure_reason is not None
        refusals = self._inventory.reckoning.refused(entry.sop_instance_uid, answer.failure_reason)
        _log.warning("the primary refuses an object", reason=answer.sentence, times=refusals.times)
        if refusals.final:
            await self._archive.mark(
                [entry.sop_instance_uid], DebtState.REFUSED, status=answer.failure_reason
            )

    def progress(self, sop_instance_uids: Sequence[str]) -> dict[str, Json]:
        """Return what the primary said last of these objects, and in how many seconds each is due again.

        What was neither sent nor asked for since our start is left out: it is due now.
        """
        now_s = self._clock.monotonic()
        found = {uid: self._questions.get(uid) or self._failures.get(uid) for uid in sop_instance_uids}
        return {
            uid: {"last_status": waiting.said, "due_in_s": max(0.0, waiting.due_s - now_s)}
            for uid, waiting in found.items()
            if waiting is not None
        }

    # -- who is due

    @staticmethod
    def _due(waiting: dict[str, _Waiting], uid: str, now_s: float) -> bool:
        return uid not in waiting or waiting[uid].due_s <= now_s

    @staticmethod
    def _forget(waiting: dict[str, _Waiting], entries: Sequence[OwedObject] | None) -> None:
        """Drop what the ledger does not list any more. None: it lists more than was looked at."""
        if entries is not None and len(waiting) > len(entries):
            listed = {entry.sop_instance_uid for entry in entries}
            for uid in waiting.keys() - listed:
                del waiting[uid]

    def _put_off(self, entry: OwedObject, said: str) -> None:
        known = self._failures.get(entry.sop_instance_uid)
        times = (known.times if known else 0) + 1
        self._failures[entry.sop_instance_uid] = _Waiting(
            times, self._clock.monotonic() + again_after_s(times), said
        )

    def _ask_from_now(self, entry: OwedObject, *, answered: bool) -> None:
        due_s = self._clock.monotonic() + (next_question_s(0, answered=answered) or 0.0)
        said = "accepted" if answered else "no answer"
        self._questions[entry.sop_instance_uid] = _Waiting(0, due_s, said, answered)

    def _asked_in_vain(self, entry: OwedObject) -> bool:
        """Count the question; True when there is none left and the object is to be sent again."""
        known = self._questions.setdefault(entry.sop_instance_uid, _Waiting(0, 0.0, "accepted"))
        known.times += 1
        known.said = "accepted, not shown yet" if known.answered else "no answer, not shown yet"
        wait_s = next_question_s(known.times, answered=known.answered)
        if wait_s is None:
            return True
        known.due_s = self._clock.monotonic() + wait_s
        return False


def _status(answer: Stored) -> str:
    return answer.sentence if answer.failure_reason is None else f"0x{answer.failure_reason:04X}"
