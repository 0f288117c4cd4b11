"""The way to a primary by DIMSE: C-FIND, C-GET or C-MOVE, and C-STORE (PS3.4)."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import structlog
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info

from failover.clients.dimse_bulk import DimseBulk, NoContext, Outgoing, identifier
from failover.clients.stored import Stored
from failover.errors import UpstreamBroke, UpstreamRefused
from failover.model import AeTitle, InstanceKey, Uid
from failover.replication.archive_side import OwedObject
from failover.replication.reconcile import PatientFacts, StudyOnPrimary, dicom_day
from failover.replication.ways import BATCH, UIDS_AT_ONCE, Brought, InstanceOnPrimary, parts

_log = structlog.get_logger(__name__)
# Proposed where the primary does not say what its objects are; what is something else comes by C-MOVE.
_COMMON_SOP_CLASSES: Final = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.1",  # CR
    "1.2.840.10008.5.1.4.1.1.1.1",  # DX
    "1.2.840.10008.5.1.4.1.1.6.1",  # US
    "1.2.840.10008.5.1.4.1.1.3.1",  # US multi-frame
    "1.2.840.10008.5.1.4.1.1.7",  # secondary capture
    "1.2.840.10008.5.1.4.1.1.12.1",  # XA
    "1.2.840.10008.5.1.4.1.1.20",  # NM
)


_STUDY_KEYS: Final = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "NumberOfStudyRelatedInstances",
)


class DicomWay:
    """By C-FIND, C-GET or C-MOVE, and C-STORE."""

    name = "dicom"

    def __init__(
        self,
        client: DimseBulk,
        calling_ae: AeTitle,
        destination: AeTitle,
        expect_move: Callable[[str, int, float], Awaitable[None]],
    ) -> None:
        """`destination` is the archive's AE title, which the primary must know for C-MOVE."""
        self._client, self._calling_ae, self._destination = client, calling_ae, destination
        self._expect_move = expect_move
        self._get_is_offered = True
        self._message_ids = itertools.cycle(range(1, 65536))
        for _ in range(int.from_bytes(os.urandom(2), "big")):
            next(self._message_ids)  # so that a late store of a move before our restart has another one

    async def studies(self, first_day: date, last_day: date) -> list[StudyOnPrimary]:
        return await self._studies([{"StudyDate": f"{dicom_day(first_day)}-{dicom_day(last_day)}"}])

    async def named(self, study_instance_uids: Sequence[str]) -> list[StudyOnPrimary]:
        return await self._studies(
            [{"StudyInstanceUID": part} for part in parts(study_instance_uids, UIDS_AT_ONCE)]
        )

    async def _studies(self, questions: Sequence[Mapping[str, Any]]) -> list[StudyOnPrimary]:
        answers = await self._client.find(
            [identifier("STUDY", {**dict.fromkeys(_STUDY_KEYS, ""), **question}) for question in questions]
        )
        found = {str(match.StudyInstanceUID): match for matches in answers for match in matches}
        return [_study_from_match(match) for match in found.values()]

    async def instances(self, study_instance_uid: str) -> list[InstanceOnPrimary]:
        # PS3.4 C.4.1.2.1: level by level, with the unique keys of the levels above; few allow to skip one.
        (series,) = await self._client.find(
            [identifier("SERIES", {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": ""})]
        )
        answers = await self._client.find(
            [
                identifier(
                    "IMAGE",
                    {
                        "StudyInstanceUID": study_instance_uid,
                        "SeriesInstanceUID": str(one.SeriesInstanceUID),
                        "SOPInstanceUID": "",
                        "SOPClassUID": "",
                    },
                )
                for one in series
            ]
        )
        return [
            InstanceOnPrimary(
                InstanceKey(
                    Uid(study_instance_uid), Uid(str(one.SeriesInstanceUID)), Uid(str(match.SOPInstanceUID))
                ),
                str(match.SOPClassUID) if match.get("SOPClassUID") else None,
            )
            for one, matches in zip(series, answers, strict=True)
            for match in matches
        ]

    async def bring(self, wanted: Sequence[InstanceOnPrimary], folder: Path) -> AsyncIterator[Brought]:
        for part in _batches(wanted):
            left = {instance.key.sop_instance_uid for instance in part}
            if self._get_is_offered:
                try:
                    classes = {i.sop_class_uid for i in part if i.sop_class_uid} or set(_COMMON_SOP_CLASSES)
                    _, files = await self._client.get(_image_question(part), classes, folder)
                    for path in files:
                        uid = _sop_instance_uid(path)
                        left.discard(uid)
                        yield Brought(path, "get", uid)
                except NoContext:
                    _log.info("the primary offers no C-GET: C-MOVE from now on")
                    self._get_is_offered = False
                except UpstreamRefused as error:
                    _log.warning("C-GET refused, C-MOVE instead", error=str(error))
            if left:
                await self._move([instance for instance in part if instance.key.sop_instance_uid in left])

    async def let_go(self) -> None:
        await self._client.abort_retrieves()  # they are in threads

    async def _move(self, part: Sequence[InstanceOnPrimary]) -> None:
        message_id = next(self._message_ids)
        await self._expect_move(self._calling_ae, message_id, 600.0)
        await self._client.move(_image_question(part), self._destination, message_id)

    async def send(self, objects: Sequence[OwedObject]) -> dict[str, Stored]:
        return await self._client.store(
            [
                Outgoing(item.path, item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid)
                for item in objects
            ]
        )

    async def shown(self, objects: Sequence[OwedObject]) -> set[str]:
        study = objects[0].study_instance_uid
        # At IMAGE level the Study Root model has no patient: whose study it is says the STUDY level.
        questions = [identifier("STUDY", {"StudyInstanceUID": study, "PatientID": ""})]
        by_series: dict[str, list[str]] = {}
        for item in objects:
            by_series.setdefault(item.series_instance_uid, []).append(item.sop_instance_uid)
        for series, uids in by_series.items():
            questions += [
                identifier(
                    "IMAGE",
                    {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": part},
                )
                for part in parts(uids, UIDS_AT_ONCE)
            ]
        (studies, *images) = await self._client.find(questions)
        patients = {str(match.get("PatientID") or "") for match in studies if match.StudyInstanceUID == study}
        seen = {str(match.SOPInstanceUID) for matches in images for match in matches}
        return {
            item.sop_instance_uid
            for item in objects
            if item.sop_instance_uid in seen and patients == {item.patient_id}
        }


def _study_from_match(match: Dataset) -> StudyOnPrimary:
    count = match.get("NumberOfStudyRelatedInstances")
    return StudyOnPrimary(
        study_instance_uid=str(match.StudyInstanceUID),
        study_date=str(match.get("StudyDate") or ""),
        study_time=str(match.get("StudyTime") or ""),
        facts=PatientFacts(
            patient_id=_found(match, "PatientID"),
            issuer=_found(match, "IssuerOfPatientID") or None,
            name=_found(match, "PatientName"),
            birth_date=_found(match, "PatientBirthDate"),
            accession=_found(match, "AccessionNumber"),
        ),
        instances=int(count) if count not in (None, "") else None,
    )


def _found(match: Dataset, keyword: str) -> str | None:
    return str(match.get(keyword) or "") if keyword in match else None


def _image_question(part: Sequence[InstanceOnPrimary]) -> Dataset:
    return identifier(
        "IMAGE",
        {
            "StudyInstanceUID": part[0].key.study_instance_uid,
            "SeriesInstanceUID": part[0].key.series_instance_uid,
            "SOPInstanceUID": [instance.key.sop_instance_uid for instance in part],
        },
    )


def _batches(wanted: Sequence[InstanceOnPrimary]) -> Iterable[Sequence[InstanceOnPrimary]]:
    """Parts of one series each, no longer than BATCH, with at most nine SOP classes."""
    by_series: dict[str, list[InstanceOnPrimary]] = {}
    for instance in wanted:
        by_series.setdefault(instance.key.series_instance_uid, []).append(instance)
    for series in by_series.values():
        for part in parts(series, BATCH):
            classes = {instance.sop_class_uid for instance in part}
            if len(classes) <= 9:
                yield part
            else:  # a series has one SOP class; who mixes ten gets them one by one
                yield from ([instance] for instance in part)


def _sop_instance_uid(path: Path) -> str:
    try:
        return str(read_file_meta_info(path).MediaStorageSOPInstanceUID)
    except (OSError, AttributeError, ValueError) as error:
        raise UpstreamBroke("C-GET: a file without meta information") from error
