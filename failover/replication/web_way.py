"""The way to a primary by DICOMweb: QIDO-RS, WADO-RS and STOW-RS (PS3.18)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import structlog

from failover.clients.dicomweb import DicomwebClient
from failover.clients.stored import NOT_SENT, Stored
from failover.dicom.json_model import first
from failover.errors import UpstreamError, UpstreamRefused, UpstreamUnreachable
from failover.model import InstanceKey, Uid
from failover.replication.archive_side import OwedObject
from failover.replication.reconcile import PatientFacts, StudyOnPrimary, dicom_day
from failover.replication.ways import UIDS_AT_ONCE, Brought, InstanceOnPrimary, parts

_log = structlog.get_logger(__name__)


class WebWay:
    """By QIDO-RS, WADO-RS and STOW-RS."""

    name = "web"

    def __init__(self, client: DicomwebClient) -> None:
        self._client = client

    async def studies(self, first_day: date, last_day: date) -> list[StudyOnPrimary]:
        span = dicom_day(first_day)
        if last_day != first_day:
            span = f"{span}-{dicom_day(last_day)}"
        return await self._studies([("StudyDate", span)])

    async def named(self, study_instance_uids: Sequence[str]) -> list[StudyOnPrimary]:
        found: list[StudyOnPrimary] = []
        for part in parts(study_instance_uids, UIDS_AT_ONCE):
            found += await self._studies([("StudyInstanceUID", ",".join(part))])
        return found

    async def _studies(self, query: list[tuple[str, str]]) -> list[StudyOnPrimary]:
        # Accession number, name, ID, birth date, counts are returned anyway (PS3.18 table 10.6.3-3).
        wanted = [("includefield", "00201208"), ("includefield", "00100021")]
        matches = await self._client.search_all("studies", [*query, *wanted], key="0020000D")
        return [_study_from_json(match) for match in matches]

    async def instances(self, study_instance_uid: str) -> list[InstanceOnPrimary]:
        matches = await self._client.search_all(
            f"studies/{study_instance_uid}/instances", [("includefield", "00080016")], key="00080018"
        )
        return [
            InstanceOnPrimary(
                InstanceKey(
                    Uid(study_instance_uid),
                    Uid(first(match, "0020000E") or ""),
                    Uid(match["00080018"]["Value"][0]),
                ),
                first(match, "00080016"),
            )
            for match in matches
        ]

    async def bring(self, wanted: Sequence[InstanceOnPrimary], folder: Path) -> AsyncIterator[Brought]:
        for instance in wanted:
            target = folder / f"wado-{os.urandom(12).hex()}.dcm"
            try:
                await self._client.retrieve_instance(instance.key, target)
            except UpstreamRefused as error:
                if error.transient:
                    raise
                _log.warning("primary does not give an instance it lists", error=str(error))
                continue
            yield Brought(target, "wado", instance.key.sop_instance_uid)

    async def let_go(self) -> None:
        return  # who leaves a retrieve closes its connection

    async def send(self, objects: Sequence[OwedObject]) -> dict[str, Stored]:
        answers: dict[str, Stored] = {}
        for number, item in enumerate(objects):
            try:
                answers[item.sop_instance_uid] = await self._client.store(item.path, item.sop_instance_uid)
            except UpstreamRefused as error:
                answers[item.sop_instance_uid] = Stored(False, None, str(error))
            except UpstreamUnreachable:
                if not number:
                    raise
                return answers | _not_sent(objects[number:])
            except UpstreamError:  # this one may be there
                return answers | _not_sent(objects[number + 1 :])
        return answers

    async def shown(self, objects: Sequence[OwedObject]) -> set[str]:
        study = objects[0].study_instance_uid
        proven: set[str] = set()
        for part in parts(objects, UIDS_AT_ONCE):
            asked = {item.sop_instance_uid: item for item in part}
            query = [("SOPInstanceUID", ",".join(asked)), ("includefield", "00100020")]
            for match in await self._client.search_all(f"studies/{study}/instances", query, key="00080018"):
                item = asked.get(first(match, "00080018") or "")
                # The path names the study; a server that returns the attribute must agree with it.
                if (
                    item is not None
                    and (first(match, "0020000D") or study) == study
                    and (first(match, "00100020") or "") == item.patient_id
                ):
                    proven.add(item.sop_instance_uid)
        return proven


def _not_sent(objects: Sequence[OwedObject]) -> dict[str, Stored]:
    return dict.fromkeys((item.sop_instance_uid for item in objects), NOT_SENT)


def _study_from_json(match: Mapping[str, Any]) -> StudyOnPrimary:
    count = first(match, "00201208")
    return StudyOnPrimary(
        study_instance_uid=first(match, "0020000D") or "",
        study_date=first(match, "00080020") or "",
        study_time=first(match, "00080030") or "",
        facts=PatientFacts(
            patient_id=_said(match, "00100020"),
            issuer=_said(match, "00100021") or None,
            name=_said(match, "00100010"),
            birth_date=_said(match, "00100030"),
            accession=_said(match, "00080050"),
        ),
        instances=int(count) if count is not None else None,
    )


def _said(match: Mapping[str, Any], tag: str) -> str | None:
    """The value; empty when the attribute is there without one, None when it is not there."""
    return (first(match, tag) or "") if tag in match else None
