"""The archive as the replicator sees it: its questions over the control channel, as typed answers.

The archive alone writes its index and the ledger in it. Every call raises ControlError; ControlUnreachable
when the archive is not there, which the supervisor mends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from failover.control import Json, ask
from failover.model import DebtState
from failover.replication.reconcile import PatientFacts, StudyInArchive

WantedBy = Literal["commitment", "retention"]
# Studies per question: the answer has about 200 bytes for each.
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class OwedObject:
    """An entry of the ledger."""

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: Path
    attempts: int
    restoring: bool = False  # its file is made what it was when it came: not to be sent now


@dataclass(frozen=True, slots=True)
class LedgerNumbers:
    lag_objects: int  # owed and sent, not proven
    pending: int  # of these, not yet sent
    refused: int

    @property
    def sent(self) -> int:
        return max(0, self.lag_objects - self.pending)


@dataclass(frozen=True, slots=True)
class HeldStudies:
    """`evicted_until`: the youngest study date (YYYYMMDD) of which something went for space."""

    studies: dict[str, StudyInArchive]
    evicted_until: str | None


class ArchiveSide:
    """Asks the archive whose control socket is at `socket`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def _ask(self, method: str, params: Json, *, timeout_s: float = 30.0) -> Json:
        return await ask(self._socket, method, params, timeout_s=timeout_s)

    # -- what it holds

    async def studies(self, study_instance_uids: Sequence[str]) -> HeldStudies:
        """Return what is held of each study; those of which nothing was ever held are left out."""
        found: dict[str, StudyInArchive] = {}
        until: str | None = None
        for start in range(0, len(study_instance_uids), _AT_ONCE):
            part = list(study_instance_uids[start : start + _AT_ONCE])
            answer = await self._ask("studies.held", {"study_instance_uids": part})
            for uid, study in answer["studies"].items():
                found[uid] = StudyInArchive(
                    instances=int(study["instances"]),
                    not_on_primary=int(study.get("not_on_primary", 0)),
                    facts=PatientFacts(
                        patient_id=_text(study, "patient_id"),
                        issuer=_text(study, "issuer") or None,
                        name=_text(study, "patient_name"),
                        birth_date=_text(study, "birth_date"),
                        accession=_text(study, "accession"),
                    ),
                )
            for uid in answer["evicted"]:
                found[uid] = replace(found.get(uid, StudyInArchive(0)), evicted=True)
            until = _text(answer, "evicted_until")
        return HeldStudies(found, until)

    async def instances(self, study_instance_uid: str) -> set[str]:
        """Return the SOP instance UIDs held of a study."""
        answer = await self._ask("study.instances", {"study_instance_uid": study_instance_uid})
        return {str(instance["sop_instance_uid"]) for instance in answer["instances"]}

    async def paid(self, study_instance_uid: str) -> list[str]:
        """Return the SOP instance UIDs held of a study that the primary must have: they are not owed.

        A rejected object it may hide, or not.
        """
        answer = await self._ask("study.instances", {"study_instance_uid": study_instance_uid})
        paid = (DebtState.NONE, DebtState.PROVEN)
        return [
            str(one["sop_instance_uid"])
            for one in answer["instances"]
            if one["state"] in paid and not one.get("rejected")
        ]

    async def recent_studies(self, for_s: float) -> dict[str, int]:
        """Return the studies of which something came in the last `for_s` seconds, with what is not owed."""
        answer = await self._ask("studies.recent", {"for_s": for_s})
        return {str(uid): int(paid) for uid, paid in answer["studies"].items()}

    # -- what it is given

    async def take(self, path: Path) -> str:
        """Hand over a file fetched from the primary: it is gone then. Return kept, known or replaced."""
        answer = await self._ask("take", {"path": str(path), "origin": "replicated"}, timeout_s=120.0)
        return str(answer["result"])

    async def expect_move(self, calling_ae: str, message_id: int, for_s: float) -> None:
        """Stores that name this Move Originator are replicated ones: we ask the primary for them next."""
        await self._ask("move.expect", {"calling_ae": calling_ae, "message_id": message_id, "for_s": for_s})

    async def set_window(self, first: str | None, short: dict[str, int]) -> None:
        """Tell what the last comparison covered."""
        await self._ask("window.set", {"from": first, "short": short})

    # -- what it owes the primary

    async def ledger_numbers(self) -> LedgerNumbers:
        answer = await self._ask("ledger.numbers", {})
        return LedgerNumbers(
            int(answer["lag_objects"]), int(answer["pending_to_primary"]), int(answer["refused"])
        )

    async def ledger(
        self, state: DebtState, limit: int, *, after: str | None = None, studies_first: Sequence[str] = ()
    ) -> list[OwedObject]:
        """Return entries in `state`, those of `studies_first` before others, oldest first."""
        answer = await self._ask(
            "ledger.list",
            {
                "states": [str(state)],
                "limit": limit,
                "after": after,
                "studies_first": list(studies_first),
            },
        )
        return [_owed(entry) for entry in answer["objects"]]

    async def unproven(
        self, wanted_by: WantedBy, limit: int, after: list[Any] | None = None
    ) -> tuple[list[OwedObject], list[Any] | None]:
        """Return objects that owe nothing and want a proof, and where to go on: they would be evicted, or
        reported to the modality that waits for them, were they proven."""
        answer = await self._ask(f"{wanted_by}.unproven", {"limit": limit, "after": after})
        return [_owed(entry) for entry in answer["objects"]], answer["next"]

    async def mark(
        self, sop_instance_uids: Iterable[str], state: DebtState, *, status: int | None = None
    ) -> None:
        """Write down in the ledger where these objects stand now."""
        uids = list(sop_instance_uids)
        if uids:
            await self._ask("ledger.mark", {"sop_instance_uids": uids, "state": str(state), "status": status})

    async def tried(self, sop_instance_uids: Iterable[str]) -> None:
        """Count that these were sent and not taken."""
        uids = list(sop_instance_uids)
        if uids:
            await self._ask("ledger.tried", {"sop_instance_uids": uids})


def _text(study: Json, name: str) -> str | None:
    value: Any = study.get(name)
    return None if value is None else str(value)


def _owed(entry: Json) -> OwedObject:
    return OwedObject(
        sop_instance_uid=str(entry["sop_instance_uid"]),
        series_instance_uid=str(entry["series_instance_uid"]),
        study_instance_uid=str(entry["study_instance_uid"]),
        patient_id=str(entry.get("patient_id") or ""),
        sop_class_uid=str(entry["sop_class_uid"]),
        transfer_syntax_uid=str(entry["transfer_syntax_uid"]),
        path=Path(entry["path"]),
        attempts=int(entry.get("attempts") or 0),
        restoring=bool(entry.get("restoring")),
    )
