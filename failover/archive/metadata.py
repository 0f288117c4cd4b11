"""The finished DICOM JSON of one object, and single large values of it. Blocking: runs in a decoder.

The URL of the object is not known where this runs: a mark stands in its place.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset

from failover.archive import pixels
from failover.archive.pixels import NoSuchFrame
from failover.dicom.json_model import to_json

# Where the object's URL goes. No character (Unicode 23.7): what a sender wrote of it is taken out.
URL_MARK: Final = "\uffff"
# Values above this stand behind a URI in metadata (PS3.18 F.2.7 leaves the size to us).
INLINE_BYTES: Final = 1024


def read(path: Path) -> bytes:
    """Return the metadata of the object at `path`. Raises UnreadableDataSet, FileNotFoundError."""

    def bulk_uri(at: str, length: int) -> str | None:
        if at == "7FE00010":
            return f"{word}/frames"
        return f"{word}/bulkdata/{at}" if length > INLINE_BYTES else None

    word = secrets.token_hex(16)  # nobody who wrote the object can know it
    header = pixels.read_header(path)
    found = to_json(header, bulk_uri=bulk_uri)
    found["00083002"] = {"vr": "UI", "Value": [str(header.file_meta.TransferSyntaxUID)]}
    found["00081190"] = {"vr": "UR", "Value": [word]}
    text = json.dumps(dict(sorted(found.items())), separators=(",", ":"), ensure_ascii=False)
    return text.replace(URL_MARK, "").replace(word, URL_MARK).encode()


def value(path: Path, at: str) -> bytes:
    """Return the binary value that `at`, a path of metadata, names. Raises NoSuchFrame: there is none."""
    steps = at.split("/")
    item: Dataset = pydicom.dcmread(path, defer_size=INLINE_BYTES)
    for tag, number in zip(steps[0:-1:2], steps[1::2], strict=True):
        sequence: Any = item.get(int(tag, 16))
        if sequence is None or sequence.VR != "SQ" or int(number) >= len(sequence.value):
            raise NoSuchFrame("no such value")
        item = sequence.value[int(number)]
    element = item.get(int(steps[-1], 16))
    if element is None or not isinstance(element.value, bytes):
        raise NoSuchFrame("no such value")
    return bytes(element.value)
