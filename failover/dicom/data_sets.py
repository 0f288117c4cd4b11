"""Data sets to bytes and back, in the transfer syntaxes without compression. Pure."""

from __future__ import annotations

from io import BytesIO

import pydicom.config
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from failover.dicom.syntaxes import EXPLICIT_BIG, IMPLICIT_LITTLE
from failover.errors import UnreadableDataSet

# A warning would name the value, on stderr; what peers send us is theirs, and passed on as it is.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def encoded(data_set: Dataset, transfer_syntax: str, character_set: object = None) -> bytes:
    """Return `data_set` without group 0002, in `character_set`, else its own Specific Character Set."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    buffer.is_little_endian = transfer_syntax != EXPLICIT_BIG
    own = data_set.get("SpecificCharacterSet", "iso8859")
    write_dataset(buffer, data_set, character_set or own)  # type: ignore[arg-type]
    return buffer.getvalue()


def decoded(raw: bytes, transfer_syntax: str) -> Dataset:
    """Return the data set in `raw`, each element of it read. Raises UnreadableDataSet."""
    try:
        found = read_dataset(
            BytesIO(raw), transfer_syntax == IMPLICIT_LITTLE, transfer_syntax != EXPLICIT_BIG
        )
        found.walk(lambda _dataset, _element: None)  # pydicom reads lazily: find what is broken here
    except Exception as error:  # pydicom raises what it likes
        raise UnreadableDataSet(f"a data set that cannot be read: {type(error).__name__}") from error
    return found
