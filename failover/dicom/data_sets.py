"""Data sets to bytes, in the transfer syntaxes without compression. Pure."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from failover.dicom.negotiation import EXPLICIT_BIG, IMPLICIT_LITTLE


def encoded(data_set: Dataset, transfer_syntax: str) -> bytes:
    """Return `data_set` without group 0002, in its own Specific Character Set."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != EXPLICIT_BIG
    write_dataset(buffer, data_set, data_set.get("SpecificCharacterSet", "iso8859"))
    return buffer.getvalue()
