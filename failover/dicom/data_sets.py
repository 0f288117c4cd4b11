"""Data sets of messages to bytes and back, in the transfer syntaxes without compression. Pure."""

from __future__ import annotations

from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from failover.dicom.negotiation import EXPLICIT_BIG, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet


def encoded(data_set: Dataset, transfer_syntax: str) -> bytes:
    """Return `data_set` without group 0002, in its own Specific Character Set."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != EXPLICIT_BIG
    write_dataset(buffer, data_set, data_set.get("SpecificCharacterSet", "iso8859"))
    return buffer.getvalue()


def decoded(raw: bytes, transfer_syntax: str) -> Dataset:
    """Return the data set in `raw`, its text decoded. Raises UnreadableDataSet."""
    try:
        data_set = read_dataset(
            BytesIO(raw), transfer_syntax == IMPLICIT_LITTLE, transfer_syntax != EXPLICIT_BIG
        )
        data_set.decode()
        data_set.walk(lambda _data_set, _element: None)  # pydicom reads lazily: find what is broken here
    except Exception as error:  # pydicom raises what it likes
        raise UnreadableDataSet(f"a data set that cannot be read: {type(error).__name__}") from error
    return data_set
