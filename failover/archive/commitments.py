"""Requests for storage commitment, kept until their reports are delivered, over any restart.

What is reported decides `commitment`. A request is in the index before the modality hears that it was taken;
its report goes out on a fresh association, under the AE title that the modality called (PS3.4 J.3.3), to the
address that `archive.move_destinations` has for the modality.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from failover.archive import commitment
from failover.archive.commitment import Known, Report, Request
from failover.archive.damaged import DAMAGED
from failover.archive.index import Index
from failover.archive.retention import PROOF_AGE_S
from failover.archive.writer import Transaction
from failover.clock import Clock
from failover.config.schema import MoveDestination
from failover.dicom.dimse import Command, CommandField, Tag
from failover.dicom.requestor import open_association
from failover.dicom.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from failover.dicom.units import ProposedContext, RoleSelection
from failover.errors import AssociationEnded, LimitExceeded, StorageError, UpstreamError
from failover.metrics import ArchiveMetrics
from failover.model import Address, AeTitle, DebtState, DicomPeer

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S: Final = 1.0
_FIRST_AGAIN_S: Final = 1.0
_LONGEST_AGAIN_S: Final = 600.0
# What cannot be decided yet is looked at so often at least: a proof may have come.
_LONGEST_LOOK_S: Final = 30.0
# A report to one that does not answer takes its whole time-out.
_MODALITIES_AT_ONCE: Final = 8
_REPORT_TIMEOUT_S: Final = 20.0
# A report that nobody takes for so long after it was due is given up: the modality asks again, or keeps.
_GIVE_UP_S: Final = 24 * 3600.0
# Requests that wait at once; more are refused with "resource limitation".
MAX_WAITING: Final = 10_000
_MESSAGE_ID: Final = 1
# PS3.7 annex C.
_NO_SUCH_ACTION: Final = 0x0123
_INVALID_ARGUMENT: Final = 0x0115
_RESOURCE_LIMITATION: Final = 0x0213


@dataclass(slots=True)
class _Tries:
    times: int = 0
    due_s: float = float("-inf")


_NEVER: Final = _Tries()


class Commitments:
    """One per archive. `take` for each N-ACTION, `run` as a task."""

    def __init__(
        self,
        index: Index,
        destinations: Mapping[AeTitle, MoveDestination],
        metrics: ArchiveMetrics,
        clock: Clock,
        *,
        by_primary: bool,
        wait_s: float,
    ) -> None:
        """`wait_s`: how long a proof is waited for before what lacks one is reported as failed."""
        self._index = index
        self._destinations = destinations
        self._metrics = metrics
        self._clock = clock
        self._by_primary = by_primary
        self._wait_s = wait_s
        self._tries: dict[int, _Tries] = {}
        self._unreached: dict[str, _Tries] = {}  # by the AE title of the modality

    def change(self, destinations: Mapping[AeTitle, MoveDestination]) -> None:
        """Report to these addresses from now on."""
        self._destinations = destinations
        self._unreached.clear()

    async def take(self, request: Request, calling_ae: str, called_ae: str) -> None:
        """Keep a request; it is durable on return. Raises LimitExceeded, StorageError."""
        now = self._clock.wall().timestamp()

        def work(transaction: Transaction) -> bool:
            connection = transaction.connection
            waiting = connection.execute("SELECT count(*) FROM commitments").fetchone()[0]
            if waiting >= MAX_WAITING:
                return False
            # PS3.4 J.3.2.1.1.1: a transaction that is asked for again is the same question.
            connection.execute(
                "INSERT OR REPLACE INTO commitments (transaction_uid, calling_ae, called_ae, objects,"
                " asked_at) VALUES (?, ?, ?, ?, ?)",
                (request.transaction_uid, calling_ae, called_ae, json.dumps(request.objects), now),
            )
            return True

        if not await self._index.write(work):
            raise LimitExceeded("too many requests for commitment wait")

    async def answer(
        self, command: Command, content: bytes, transfer_syntax: str, calling_ae: str, called_ae: str
    ) -> tuple[int, str | None]:
        """Return status and Error Comment for an N-ACTION; `content` is its data set. Raises StorageError."""
        if command.number(Tag.ACTION_TYPE_ID) != commitment.REQUEST_COMMITMENT:
            return _NO_SUCH_ACTION, None
        if command.sop_instance_uid != commitment.PUSH_MODEL_INSTANCE:
            return commitment.NO_SUCH_INSTANCE, None
        if AeTitle(calling_ae) not in self._destinations:
            # Taken without an address for its report it would be waited for until the modality gives up.
            return commitment.PROCESSING_FAILURE, "caller is not in archive.move_destinations"
        try:
            await self.take(commitment.read_request(content, transfer_syntax), calling_ae, called_ae)
        except commitment.RequestInvalid as error:
            return _INVALID_ARGUMENT, str(error)
        except LimitExceeded as error:
            return _RESOURCE_LIMITATION, str(error)
        return 0, None

    async def run(self) -> None:
        """Report what can be decided, until cancelled."""
        while True:
            try:
                await self.turn()
            except (StorageError, sqlite3.Error) as error:
                _log.warning("commitments could not be looked at", error=str(error))
            except Exception:
                _log.exception("commitments could not be looked at")
            await self._clock.sleep(_LOOK_EVERY_S)

    async def turn(self) -> None:
        """Look at each request that is due, and report what is decided; a few modalities at once."""
        waiting = await asyncio.to_thread(self._waiting)
        self._metrics.commitments_waiting.set(len(waiting))
        callers = {row["calling_ae"] for row in waiting}
        self._tries = {row["id"]: self._tries.get(row["id"], _Tries()) for row in waiting}
        self._unreached = {ae: tries for ae, tries in self._unreached.items() if ae in callers}
        now_s = self._clock.monotonic()
        due: dict[str, list[int]] = {}
        for row in waiting:
            unreached = self._unreached.get(row["calling_ae"], _NEVER)
            if max(self._tries[row["id"]].due_s, unreached.due_s) <= now_s:
                due.setdefault(row["calling_ae"], []).append(row["id"])
        at_once = asyncio.Semaphore(_MODALITIES_AT_ONCE)
        ended = await asyncio.gather(
            *(self._report_to(ae, ids, at_once) for ae, ids in due.items()), return_exceptions=True
        )
        for error in ended:
            if error is not None:
                raise error

    def unproven(self, limit: int, after: Sequence[int] = (0, 0)) -> tuple[list[str], Sequence[int] | None]:
        """Return objects that are waited for, owe nothing and have no proof young enough, oldest first.

        The replicator asks the primary for them; `after` is where the last call told to go on. Blocks.
        """
        if not self._by_primary:
            return [], None
        found = (
            self._index.reader()
            .execute(
                "SELECT c.id AS request, asked.key + 1 AS number, i.uid"
                " FROM commitments c CROSS JOIN json_each(c.objects) asked"
                " JOIN instances i ON i.uid = json_extract(asked.value, '$[1]')"
                " WHERE c.id >= ?1 AND (c.id, asked.key + 1) > (?1, ?2)"
                " AND i.state IN ('none', 'proven') AND coalesce(i.proven_at, 0) < ?3"
                " ORDER BY c.id, asked.key LIMIT ?4",
                (*after, self._proven_since(), limit),
            )
            .fetchall()
        )
        place = (found[-1]["request"], found[-1]["number"]) if found else None
        return list(dict.fromkeys(row["uid"] for row in found)), place

    # -- inside -------------------------------------------------------------------------------------

    def _proven_since(self) -> float:
        """A modality deletes its copy: what was shown longer ago, the primary may have lost since."""
        return self._clock.wall().timestamp() - PROOF_AGE_S

    async def _report_to(self, calling_ae: str, ids: list[int], at_once: asyncio.Semaphore) -> None:
        """Look at these requests of one modality; when it cannot be reached, the others wait as well."""
        async with at_once:
            for number in ids:
                looked = await asyncio.to_thread(self._look, number)
                if looked is None:
                    continue
                row, report = looked
                tries = self._tries[number]
                waited_s = self._clock.wall().timestamp() - row["asked_at"]
                if report is None:
                    # Exactly when the wait is over it is decided.
                    self._put_off(tries, _LONGEST_LOOK_S, max(_FIRST_AGAIN_S, self._wait_s - waited_s))
                    continue
                delivered = await self._deliver(row, report)
                if delivered is not None:
                    self._unreached.pop(calling_ae, None)
                if delivered:
                    self._metrics.commitments.labels("failed" if report.failed else "committed").inc()
                elif waited_s >= self._wait_s + _GIVE_UP_S:
                    _log.error("a commitment report was given up: nobody took it", caller=calling_ae)
                    self._metrics.commitments.labels("undelivered").inc()
                elif delivered is None:
                    self._put_off(self._unreached.setdefault(calling_ae, _Tries()), _LONGEST_AGAIN_S)
                    return
                else:
                    self._put_off(tries, _LONGEST_AGAIN_S)
                    continue
                await self._forget(number)

    def _put_off(self, tries: _Tries, longest_s: float, at_most_s: float = float("inf")) -> None:
        again_s = min(longest_s, _FIRST_AGAIN_S * 2 ** min(tries.times + 1, 10), at_most_s)
        tries.times += 1
        tries.due_s = self._clock.monotonic() + again_s

    def _waiting(self) -> list[sqlite3.Row]:
        return list(self._index.reader().execute("SELECT id, calling_ae FROM commitments ORDER BY id"))

    def _look(self, number: int) -> tuple[sqlite3.Row, Report | None] | None:
        """Return the request and what is to be reported by now; None: the request is gone. Blocks."""
        row = self._index.reader().execute("SELECT * FROM commitments WHERE id = ?", (number,)).fetchone()
        if row is None:
            return None
        objects = [(str(sop_class), str(uid)) for sop_class, uid in json.loads(row["objects"])]
        waited_long = self._clock.wall().timestamp() - row["asked_at"] >= self._wait_s
        known = self._known([uid for _, uid in objects])
        return row, commitment.decide(objects, known, by_primary=self._by_primary, waited_long=waited_long)

    def _known(self, uids: list[str]) -> dict[str, Known]:
        proven_since = self._proven_since()
        found = self._index.reader().execute(
            "SELECT i.uid, i.sop_class, i.state, i.proven_at, q.uid IS NOT NULL AS in_doubt,"
            # Hidden, and by no rejection note: janitor or scrubber found no whole file.
            " i.hidden AND i.uid NOT IN (SELECT uid FROM rejected) AS is_gone"
            " FROM json_each(?) asked JOIN instances i ON i.uid = asked.value"
            " LEFT JOIN quarantine q ON q.uid = i.uid AND q.reason <> ?",
            (json.dumps(uids), DAMAGED),
        )
        return {
            row["uid"]: Known(
                row["sop_class"],
                DebtState(row["state"]),
                (row["proven_at"] or 0.0) >= proven_since,
                bool(row["in_doubt"]),
                bool(row["is_gone"]),
            )
            for row in found
        }

    async def _forget(self, row: int) -> None:
        await self._index.write(
            lambda t: t.connection.execute("DELETE FROM commitments WHERE id = ?", (row,))
        )

    async def _deliver(self, row: sqlite3.Row, report: Report) -> bool | None:
        """Send the report; return whether the modality took it, None when it could not be reached."""
        destination = self._destinations.get(AeTitle(row["calling_ae"]))
        if destination is None:
            _log.warning("a commitment report has no address", caller=row["calling_ae"])
            return False
        peer = DicomPeer(Address(destination.host, destination.port), AeTitle(row["calling_ae"]))
        try:
            async with asyncio.timeout(_REPORT_TIMEOUT_S):
                status = await _report(peer, row, report)
        except (UpstreamError, AssociationEnded, TimeoutError) as error:
            _log.warning("a commitment report was not taken", caller=row["calling_ae"], error=str(error))
            return None
        if status != 0:
            _log.warning(
                "a commitment report was refused", caller=row["calling_ae"], status=f"0x{status:04X}"
            )
        return status == 0


async def _report(peer: DicomPeer, row: sqlite3.Row, report: Report) -> int:
    """Return the status that the modality answers. Raises UpstreamError, AssociationEnded."""
    association = await open_association(
        peer,
        row["called_ae"],
        [ProposedContext(1, commitment.PUSH_MODEL, (EXPLICIT_LITTLE, IMPLICIT_LITTLE))],
        timeout_s=_REPORT_TIMEOUT_S,
        # PS3.7 D.3.3.4: we call, and are the SCP.
        roles=[RoleSelection(commitment.PUSH_MODEL, scu=False, scp=True)],
    )
    try:
        if 1 not in association.contexts:
            raise AssociationEnded("it does not take the storage commitment service")
        event = Command.make(
            CommandField.N_EVENT_REPORT_RQ,
            {
                Tag.AFFECTED_SOP_CLASS_UID: commitment.PUSH_MODEL,
                Tag.AFFECTED_SOP_INSTANCE_UID: commitment.PUSH_MODEL_INSTANCE,
                Tag.MESSAGE_ID: _MESSAGE_ID,
                Tag.EVENT_TYPE_ID: report.event_type,
                Tag.DATA_SET_TYPE: 0x0001,
            },
        )
        syntax = association.contexts[1].transfer_syntax
        content = await asyncio.to_thread(
            commitment.report_data_set, row["transaction_uid"], report, row["called_ae"], syntax
        )
        await association.send(1, event, content)
        while (answer := await association.receive()) is not None:
            if answer.command.is_response and answer.command.message_id == _MESSAGE_ID:
                await association.release()
                return answer.command.status
        raise AssociationEnded("it released without an answer")
    except BaseException:
        association.abort("a report that came to nothing")
        raise
