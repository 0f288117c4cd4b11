"""Rejection notes as IHE RAD Imaging Object Change Management has them: Key Object Selection documents."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.unit.archive.objects import uid

KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
MEANINGS = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
    "113000": "Of Interest",
}


def code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def a_note(
    named: Sequence[tuple[str, str, str, str]],
    title: str = "113001",
    *,
    study: str = uid(1),
    sop_instance_uid: str = uid(1, 77, 1),
    scheme: str = "DCM",
    **attributes: Any,
) -> bytes:
    """Return a Part 10 file that rejects `named`: (study, series, SOP instance, SOP class) each."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = KEY_OBJECT_SELECTION, sop_instance_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.77"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        "Muster^Patient1",
        "P1",
        "19700101",
        "O",
    )
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20251215", "101500", "A1", ""
    ds.ContentDate, ds.ContentTime, ds.ReferringPhysicianName, ds.Manufacturer = "20251215", "1100", "", "T"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "KO", 77, 1
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [code(title, MEANINGS[title], scheme)]
    evidence: dict[str, dict[str, list[Dataset]]] = {}
    content = []
    for of_study, series, instance, sop_class in named:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, instance
        evidence.setdefault(of_study, {}).setdefault(series, []).append(reference)
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "IMAGE"
        item.ReferencedSOPSequence = [reference]
        content.append(item)
    ds.CurrentRequestedProcedureEvidenceSequence = []
    for of_study, by_series in evidence.items():
        study_item = Dataset()
        study_item.StudyInstanceUID, study_item.ReferencedSeriesSequence = of_study, []
        for series, references in by_series.items():
            series_item = Dataset()
            series_item.SeriesInstanceUID, series_item.ReferencedSOPSequence = series, references
            study_item.ReferencedSeriesSequence.append(series_item)
        ds.CurrentRequestedProcedureEvidenceSequence.append(study_item)
    ds.ContentSequence = content
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = KEY_OBJECT_SELECTION
    ds.file_meta.MediaStorageSOPInstanceUID = sop_instance_uid
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
