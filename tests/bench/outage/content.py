"""What the primary holds: a dozen small studies, one of whole CT slices, one instance of 64 MB.

For the row of multipart answers also a study of many slices, whose pixels are known.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Final, Self

import numpy
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from failover.clock import SystemClock

ROOT: Final = "2.25.4"
# As long as the numbers that take its place, so that a new object is a matter of replacing bytes.
TEMPLATE_UID: Final = f"{ROOT}.900000000000000000000"
SMALL_STUDIES: Final = 12
SLICES: Final = 16
SIDE: Final = 512
SLICE_BYTES: Final = SIDE * SIDE * 2
MANY: Final = 64


@dataclass(frozen=True)
class Content:
    files: list[bytes]
    small: list[tuple[str, str, str]]
    """(study, series, instance) instance UIDs."""
    slices: str
    """The study of SLICES instances of 512 KB."""
    large: tuple[str, str, str]
    """The instance of 64 MB."""
    template: bytes
    """A Part 10 file in which TEMPLATE_UID stands for all three UIDs."""
    many: str
    """The study of MANY instances of 512 KB."""
    many_files: list[bytes]
    """Not among `files`."""
    many_pixels: Mapping[str, bytes] = field(repr=False)
    """By SOP instance UID, what `pixels_of` says."""

    def with_many(self) -> Self:
        return replace(self, files=self.files + self.many_files)


def pixels_of(file: bytes) -> bytes:
    """Return a digest of the pixels of a slice of 512 KB, not compressed."""
    return hashlib.sha256(file[-SLICE_BYTES:]).digest()


def part10(study: str, series: str, instance: str, *, side: int, depth_bytes: int = 2) -> bytes:
    """Return a CT instance of `side` x `side` pixels, `depth_bytes` each, with random content."""
    today = SystemClock().wall().strftime("%Y%m%d")
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, instance
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"Bench^{study[-6:]}", f"B{study[-6:]}", "19700101"
    ds.StudyDate, ds.StudyTime, ds.Modality, ds.AccessionNumber = today, "080000", "CT", study[-8:]
    ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "1", "1", "1"
    ds.Rows = ds.Columns = side
    ds.BitsAllocated = ds.BitsStored = depth_bytes * 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = ds.BitsStored - 1, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = numpy.frombuffer(os.urandom(side * side * depth_bytes), numpy.uint8).tobytes()
    ds["PixelData"].VR = "OW" if depth_bytes == 2 else "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = UID(instance)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def make(*, with_large: bool = True, with_many: bool = True) -> Content:
    """Without `with_large` and `with_many` `large` and `many` name what is not there."""
    files, small = [], []
    for number in range(SMALL_STUDIES):
        uids = (f"{ROOT}.1{number:03}", f"{ROOT}.2{number:03}", f"{ROOT}.3{number:03}")
        small.append(uids)
        files.append(part10(*uids, side=64))
    slices = f"{ROOT}.5000"
    files += [part10(slices, f"{ROOT}.5001", f"{ROOT}.6{n:03}", side=SIDE) for n in range(SLICES)]
    large = (f"{ROOT}.7000", f"{ROOT}.7001", f"{ROOT}.7002")
    if with_large:
        files.append(part10(*large, side=8192, depth_bytes=1))
    template = part10(TEMPLATE_UID, TEMPLATE_UID, TEMPLATE_UID, side=32)
    many = f"{ROOT}.8000"
    names = [f"{ROOT}.8{100 + n}" for n in range(MANY if with_many else 0)]
    made = {name: part10(many, f"{ROOT}.8001", name, side=SIDE) for name in names}
    pixels = {name: pixels_of(file) for name, file in made.items()}
    return Content(files, small, slices, large, template, many, [*made.values()], pixels)


def new_object(template: bytes, number: int) -> tuple[str, bytes]:
    """Return (SOP instance UID, Part 10 file) of a new study with one instance."""
    uid = f"{ROOT}.9{number:020}"
    assert len(uid) == len(TEMPLATE_UID)
    return uid, template.replace(TEMPLATE_UID.encode(), uid.encode())
