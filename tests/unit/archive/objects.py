"""Small objects for the archive's tests, made from nothing, with whatever UIDs and names a scene needs."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.10.1409"


def uid(*parts: int) -> str:
    """Return a UID below our test root."""
    return ".".join([ROOT, *map(str, parts)])


def data_set(study: int = 1, series: int = 1, instance: int = 1, **attributes: Any) -> Dataset:
    """Return a small CT image; `attributes` by keyword replace what is there."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CT
    ds.SOPInstanceUID = uid(study, series, instance)
    ds.StudyInstanceUID = uid(study)
    ds.SeriesInstanceUID = uid(study, series)
    ds.PatientName = f"Muster^Patient{study}"
    ds.PatientID = f"P{study}"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyDate = "20251215"
    ds.StudyTime = "101500"
    ds.AccessionNumber = f"A{study}"
    ds.Modality = "CT"
    ds.SeriesNumber = series
    ds.InstanceNumber = instance
    ds.Rows = ds.Columns = 4
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = bytes(range(32))
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def part10(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return `ds` as a Part 10 file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds = Dataset(ds)
    ds.file_meta = meta
    buffer = BytesIO()
    pydicom.dcmwrite(
        buffer,
        ds,
        enforce_file_format=True,
        implicit_vr=pydicom.uid.UID(syntax).is_implicit_VR,
        little_endian=pydicom.uid.UID(syntax).is_little_endian,
    )
    return buffer.getvalue()


def an_object(study: int = 1, series: int = 1, instance: int = 1, **attributes: Any) -> bytes:
    """Return a small CT image as a Part 10 file."""
    return part10(data_set(study, series, instance, **attributes))
