"""Sample studies, made from real images that pydicom ships and re-stamped to recent dates.

Several patients, whose names need several character sets, and several modalities; stacks are one slice
re-stamped at shifted positions. All UIDs follow from the seed: two calls with the same day and seed give the
same objects, byte for byte. Used by `failover demo` and by the tests. Reads files of pydicom, nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.data.data_manager import DATA_ROOT
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

_FILES: Final = Path(DATA_ROOT) / "test_files"
ISSUER: Final = "FAILOVER-DEMO"


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is in the picture; `character_set` is what the name is written in (PS3.3 C.12.1.1.2)."""

    patient_id: str
    name: str
    birth_date: str
    sex: str
    character_set: str | tuple[str, ...]


PATIENTS: Final = (
    Patient("DEMO-0001", "Müller^Jürgen", "19560314", "M", "ISO_IR 100"),
    Patient("DEMO-0002", "Yamada^Tarou=山田^太郎=やまだ^たろう", "19620921", "M", ("", "ISO 2022 IR 87")),
    Patient("DEMO-0003", "قباني^لنزار", "19730102", "M", "ISO_IR 127"),
    Patient("DEMO-0004", "Διονυσίου^Ελένη", "19881130", "F", "ISO_IR 126"),
    Patient("DEMO-0005", "Hong^Gildong=洪^吉洞=홍^길동", "19910517", "M", ("", "ISO 2022 IR 149")),
    Patient("DEMO-0006", "Wang^XiaoDong=王^小东", "20010808", "F", "ISO_IR 192"),
    Patient("DEMO-0007", "O'Brien^Siobhán^^Dr", "19490225", "F", "ISO_IR 192"),
    Patient("DEMO-0008", "Łukasiewicz^Zofia", "19950706", "F", "ISO_IR 101"),
)


@dataclass(frozen=True, slots=True)
class _Series:
    description: str
    make: Callable[[int], FileDataset]  # the n-th instance, unstamped
    instances: int


@dataclass(frozen=True, slots=True)
class _Study:
    patient: int  # index into PATIENTS
    days_ago: int
    time: str
    description: str
    series: tuple[_Series, ...]


def sample_studies(today: date, *, seed: int = 1) -> Iterator[FileDataset]:
    """Yield the instances of all sample studies, study by study, newest study first.

    Study dates lie between `today` and 80 days before it. Each data set can be written as a Part 10 file with
    `part10` as it is.
    """
    for number, study in enumerate(STUDIES):
        yield from _instances(study, number, today, seed)


def part10(instance: Dataset) -> bytes:
    """Return `instance` as a Part 10 file (PS3.10 section 7)."""
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, instance, enforce_file_format=True)
    return buffer.getvalue()


def write_samples(folder: Path, today: date, *, seed: int = 1) -> list[Path]:
    """Write all samples below `folder`, one folder per study; return the files, newest study first."""
    written = []
    for instance in sample_studies(today, seed=seed):
        place = folder / f"{instance.AccessionNumber}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{instance.Modality}-{instance.SeriesNumber}-{instance.InstanceNumber:03}.dcm"
        path.write_bytes(part10(instance))
        written.append(path)
    return written


def _uid(seed: int, *path: int) -> UID:
    # PS3.5 B.2: a UID derived from a UUID; these 128 bits come from the place in the tables below.
    name = f"failover sample {seed} " + ".".join(map(str, path))
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], 'big')}")


def _instances(study: _Study, number: int, today: date, seed: int) -> Iterator[FileDataset]:
    day = (today - timedelta(days=study.days_ago)).strftime("%Y%m%d")
    for series_number, series in enumerate(study.series, start=1):
        for index in range(series.instances):
            instance = series.make(index)
            _stamp_patient(instance, PATIENTS[study.patient])
            instance.StudyInstanceUID = _uid(seed, number)
            instance.SeriesInstanceUID = _uid(seed, number, series_number)
            instance.SOPInstanceUID = _uid(seed, number, series_number, index)
            instance.FrameOfReferenceUID = _uid(seed, number, 0, 0)
            instance.StudyID = str(number + 1)
            instance.AccessionNumber = f"A{seed:02}{number + 1:04}"
            instance.StudyDescription = study.description
            instance.SeriesDescription = series.description
            instance.SeriesNumber = series_number
            instance.InstanceNumber = index + 1
            for keyword in ("StudyDate", "SeriesDate", "ContentDate", "AcquisitionDate"):
                setattr(instance, keyword, day)
            for keyword in ("StudyTime", "SeriesTime", "ContentTime", "AcquisitionTime"):
                setattr(instance, keyword, study.time)
            instance.file_meta.MediaStorageSOPClassUID = instance.SOPClassUID
            instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
            yield instance


def _stamp_patient(instance: Dataset, patient: Patient) -> None:
    character_set = patient.character_set
    instance.SpecificCharacterSet = list(character_set) if isinstance(character_set, tuple) else character_set
    instance.PatientName = patient.name
    instance.PatientID = patient.patient_id
    instance.IssuerOfPatientID = ISSUER
    instance.PatientBirthDate = patient.birth_date
    instance.PatientSex = patient.sex
    instance.InstitutionName = "Failover Demo Hospital"
    instance.ReferringPhysicianName = "Demo^Referrer"


# -- the images ------------------------------------------------------------------------------------------


def _read(name: str) -> FileDataset:
    """Return a file of pydicom without private elements and without what names the old patient or site."""
    instance = pydicom.dcmread(_FILES / f"{name}.dcm")
    instance.decode()  # with the character set it was written in, before another is set
    instance.remove_private_tags()
    for keyword in (
        "OtherPatientIDs",
        "PatientAge",
        "PatientComments",
        "PatientWeight",
        "AdditionalPatientHistory",
        "PhysiciansOfRecord",
        "PerformingPhysicianName",
        "NameOfPhysiciansReadingStudy",
        "OperatorsName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "StationName",
        "TimezoneOffsetFromUTC",
        "InstanceCreationDate",
        "InstanceCreationTime",
        "InstanceCreatorUID",
        "AcquisitionDateTime",
        "RequestingPhysician",
        "RequestAttributesSequence",
        "ReferencedStudySequence",
        "ReferencedPerformedProcedureStepSequence",
        "ReferencedImageSequence",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformedProcedureStepID",
    ):
        if keyword in instance:
            delattr(instance, keyword)
    return instance


def _stack(name: str, spacing_mm: float, window: tuple[int, int]) -> Callable[[int], FileDataset]:
    """Return what makes the n-th slice from one: moved along its normal, its pixels shifted a little."""

    def slice_at(index: int) -> FileDataset:
        instance = _read(name)
        pixels = instance.pixel_array
        instance.PixelData = np.ascontiguousarray(np.roll(pixels, index, axis=0)).tobytes()
        row, column = np.array(instance.ImageOrientationPatient, dtype=float).reshape(2, 3)
        position = np.array(instance.ImagePositionPatient, dtype=float)
        position = position + index * spacing_mm * np.cross(row, column)
        instance.ImagePositionPatient = [f"{value:.4f}" for value in position]
        instance.SliceLocation = f"{index * spacing_mm:.2f}"
        instance.SliceThickness = f"{spacing_mm:g}"
        instance.WindowCenter, instance.WindowWidth = window
        return instance

    return slice_at


def _single(name: str, modality: str | None = None) -> Callable[[int], FileDataset]:
    """Return what makes the n-th instance from a file as it is, compressed or not."""

    def instance_at(_index: int) -> FileDataset:
        instance = _read(name)
        if modality is not None:
            instance.Modality = modality
        return instance

    return instance_at


def _structured_report(_index: int) -> FileDataset:
    report = _read("test-SR")
    report.Modality = "SR"
    return report


_CT: Final = _stack("CT_small", 5.0, (40, 400))
_MR: Final = _stack("MR_small", 4.0, (600, 1600))
_ABDOMEN: Final = _stack("examples_overlay", 6.0, (450, 200))
_US_RGB: Final = _single("examples_rgb_color")
_US_CINE: Final = _single("examples_ybr_color")  # 30 frames, JPEG baseline
_US_PALETTE: Final = _single("examples_palette")
_US_J2K: Final = _single("examples_jpeg2k")  # JPEG 2000 lossless
_PHOTO: Final = _single("SC_rgb_jpeg_dcmd", "XC")  # RGB secondary capture

STUDIES: Final = (
    _Study(0, 0, "073500", "CT Chest", (_Series("Axial", _CT, 24), _Series("Report", _structured_report, 1))),
    _Study(1, 0, "071000", "MR Head", (_Series("T1 axial", _MR, 16), _Series("T2 axial", _MR, 16))),
    _Study(2, 0, "064500", "CT Abdomen", (_Series("Axial", _CT, 16),)),
    _Study(3, 1, "181500", "US Heart", (_Series("Four chamber, cine", _US_CINE, 1),)),
    _Study(4, 1, "150000", "MR Abdomen", (_Series("T2 coronal", _ABDOMEN, 4),)),
    _Study(5, 2, "101000", "CT Head", (_Series("Native", _CT, 12), _Series("Contrast", _CT, 12))),
    _Study(6, 3, "093000", "US Abdomen", (_Series("Colour", _US_RGB, 2), _Series("Doppler", _US_PALETTE, 1))),
    _Study(7, 5, "140500", "MR Knee", (_Series("PD sagittal", _MR, 12),)),
    _Study(0, 9, "111500", "CT Chest, prior", (_Series("Axial", _CT, 20),)),
    _Study(1, 14, "083000", "US Thyroid", (_Series("Images", _US_J2K, 2),)),
    _Study(2, 21, "160000", "Wound photograph", (_Series("Left leg", _PHOTO, 1),)),
    _Study(3, 33, "120000", "MR Head, prior", (_Series("T1 axial", _MR, 10),)),
    _Study(5, 55, "091500", "US Pelvis", (_Series("Cine", _US_CINE, 1), _Series("Still", _US_RGB, 1))),
    _Study(4, 80, "103000", "CT Abdomen, prior", (_Series("Axial", _CT, 8),)),
)
