"""The archive and the router as the replicator sees them: control sockets with behaviour, all in memory.

They keep the contract of the control methods; what they hold can be looked at and changed by a test. The real
archive takes the first one's place in the system tests.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import FileDataset

from failover.app.samples import part10
from failover.control import ControlServer, Handler, Json, socket_path


@dataclass
class Held:
    """One instance in the fake archive."""

    instance: FileDataset
    path: Path
    state: str = "none"
    attempts: int = 0
    status: int | None = None
    restoring: bool = False


class FakeArchive:
    """Listens as `archive` below `state_dir`; files lie in `data_dir`."""

    def __init__(self, state_dir: Path, data_dir: Path) -> None:
        self.held: dict[str, Held] = {}
        self.marks: list[tuple[str, str]] = []
        self.window: Json | None = None
        self.taken = Counter[str]()
        self.to_be_evicted: list[str] = []  # by age, were they proven
        self.expected_moves: list[tuple[str, int]] = []
        self.data_dir = data_dir
        (data_dir / "kept").mkdir(parents=True, exist_ok=True)
        self.socket = socket_path(state_dir, "archive")
        handlers: dict[str, Handler] = {
            "ledger.numbers": self._numbers,
            "ledger.list": self._list,
            "ledger.mark": self._mark,
            "ledger.tried": self._tried,
            "take": self._take,
            "move.expect": self._expect,
            "studies.held": self._studies,
            "study.instances": self._instances,
            "studies.recent": self._recent,
            "window.set": self._window,
            "retention.unproven": self._unproven,
            "commitment.unproven": self._nothing_unproven,
        }
        self._server = ControlServer(self.socket, handlers)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    def put(self, instance: FileDataset, state: str) -> None:
        """Hold `instance` in `state`, as if a caller or the replicator had brought it."""
        path = self.data_dir / "kept" / f"{instance.SOPInstanceUID}.dcm"
        path.write_bytes(part10(instance))
        self.held[instance.SOPInstanceUID] = Held(instance, path, state)

    def states(self) -> Counter[str]:
        return Counter(held.state for held in self.held.values())

    def study(self, uid: str) -> list[Held]:
        return [held for held in self.held.values() if held.instance.StudyInstanceUID == uid]

    async def _numbers(self, _: Json) -> Json:
        states = self.states()
        return {
            "lag_objects": states["owed"] + states["sent"],
            "lag_s": 0.0,
            "pending_to_primary": states["owed"],
            "refused": states["refused"],
            "owed_older_than_10_s": 0,
        }

    async def _list(self, params: Json) -> Json:
        first = set(params.get("studies_first") or ())
        chosen = [held for held in self.held.values() if held.state in params["states"]]
        chosen.sort(key=lambda held: held.instance.StudyInstanceUID not in first)
        return {"objects": [_entry(held) for held in chosen[: params["limit"]]]}

    async def _tried(self, params: Json) -> Json:
        return {}

    async def _mark(self, params: Json) -> Json:
        for uid in params["sop_instance_uids"]:
            held = self.held[uid]
            if params["state"] != "proven" or held.state != "none":
                held.state, held.status = params["state"], params.get("status")
            elif uid in self.to_be_evicted:
                self.to_be_evicted.remove(uid)  # what was never owed got a proof with a date
            held.attempts += params["state"] == "sent"
            self.marks.append((uid, held.state))
        return {"changed": len(params["sop_instance_uids"])}

    async def _take(self, params: Json) -> Json:
        path = Path(params["path"])
        assert path.is_relative_to(self.data_dir / "handover")
        assert params["origin"] == "replicated"
        instance = pydicom.dcmread(path)
        known = instance.SOPInstanceUID in self.held
        self.put(instance, "none")
        self.taken[instance.SOPInstanceUID] += 1
        await asyncio.to_thread(path.unlink)
        return {"sop_instance_uid": instance.SOPInstanceUID, "result": "replaced" if known else "kept"}

    async def _expect(self, params: Json) -> Json:
        self.expected_moves.append((params["calling_ae"], params["message_id"]))
        return {}

    async def _studies(self, params: Json) -> Json:
        found = {}
        for uid in params["study_instance_uids"]:
            study = self.study(uid)
            if study:
                instance = study[-1].instance
                found[uid] = {
                    "instances": len(study),
                    "not_on_primary": sum(h.state in ("owed", "sent", "refused") for h in study),
                    "patient_id": instance.PatientID,
                    "patient_name": str(instance.PatientName),
                    "birth_date": instance.PatientBirthDate,
                    "issuer": instance.IssuerOfPatientID,
                    "accession": instance.AccessionNumber,
                    "study_date": instance.StudyDate,
                }
        return {"studies": found, "evicted": [], "evicted_until": None}

    async def _recent(self, _: Json) -> Json:
        paid = [held for held in self.held.values() if held.state in ("none", "proven")]
        return {"studies": Counter(held.instance.StudyInstanceUID for held in paid)}

    async def _instances(self, params: Json) -> Json:
        return {
            "instances": [
                {
                    "sop_instance_uid": held.instance.SOPInstanceUID,
                    "series_instance_uid": held.instance.SeriesInstanceUID,
                    "state": held.state,
                }
                for held in self.study(params["study_instance_uid"])
            ]
        }

    async def _unproven(self, params: Json) -> Json:
        due = [self.held[uid] for uid in self.to_be_evicted if uid in self.held]
        # Where to go on is a place in the list; what got a proof has left it meanwhile.
        start = next((n for n, h in enumerate(due) if [h.instance.SOPInstanceUID] == params["after"]), -1) + 1
        page = due[start : start + params["limit"]]
        return {
            "objects": [_entry(held) for held in page],
            "next": [page[-1].instance.SOPInstanceUID] if page else None,
        }

    async def _nothing_unproven(self, params: Json) -> Json:
        return {"objects": [], "next": None}

    async def _window(self, params: Json) -> Json:
        self.window = params
        return {}


def _entry(held: Held) -> dict[str, Any]:
    instance = held.instance
    return {
        "sop_instance_uid": instance.SOPInstanceUID,
        "series_instance_uid": instance.SeriesInstanceUID,
        "study_instance_uid": instance.StudyInstanceUID,
        "patient_id": instance.PatientID,
        "sop_class_uid": instance.SOPClassUID,
        "transfer_syntax_uid": str(instance.file_meta.TransferSyntaxUID),
        "path": str(held.path),
        "bytes": held.path.stat().st_size,
        "arrived_at_s_ago": 0.0,
        "state": held.state,
        "sent_s_ago": None,
        "attempts": held.attempts,
        "restoring": held.restoring,
    }


class FakeRouter:
    """Listens as `router` and says `word`: change it as an operator or the health of the primary would."""

    def __init__(self, state_dir: Path, *, web: str | None = "up", dicom: str | None = "up") -> None:
        self.word: Json = {
            "mode": "auto",
            "phase": "on_primary",
            "forced": None,
            "keep_replicating": False,
            "primary": {"web": web, "dicom": dicom},
        }
        self._server = ControlServer(socket_path(state_dir, "router"), {"route": self._route})

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    async def _route(self, _: Json) -> Json:
        return self.word
