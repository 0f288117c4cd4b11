"""What makes a C-FIND match the same match at another upstream. Pure.

By the unique key of its level (PS3.4 C.6); when that was not asked for, by all it holds but where it can be
retrieved, which differs between archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from io import BytesIO
from typing import Final

from pydicom import Dataset
from pydicom.filereader import read_dataset

from failover.dicom.syntaxes import EXPLICIT_BIG, IMPLICIT_LITTLE

_LEVEL: Final = 0x00080052
_UNIQUE_KEYS: Final[Mapping[str, int]] = {
    "PATIENT": 0x00100020, "STUDY": 0x0020000D, "SERIES": 0x0020000E, "IMAGE": 0x00080018,
}  # fmt: skip
# Retrieve AE Title, Instance Availability, Retrieve URL and Query/Retrieve Level say nothing of the match.
_OF_THE_ARCHIVE: Final = frozenset({0x00080054, 0x00080056, 0x00081190, _LEVEL, 0x00080005})


def match_key(raw: bytes, transfer_syntax: str) -> bytes:
    """Return what is equal for two matches that are the same one; of what cannot be read, all its bytes."""
    try:
        match = read_dataset(
            BytesIO(raw), transfer_syntax == IMPLICIT_LITTLE, transfer_syntax != EXPLICIT_BIG
        )
        return _key(match)
    except Exception:  # pydicom raises what it likes; the caller got these bytes, so they are its match
        return blake2b(raw, digest_size=16).digest()


def _key(match: Dataset) -> bytes:
    level = str(match.get(_LEVEL).value).strip() if _LEVEL in match else ""
    tag = _UNIQUE_KEYS.get(level)
    if tag is not None and tag in match and match[tag].value:
        return f"{level} {str(match[tag].value).strip()}".encode()
    if not len(match):
        raise ValueError("nothing that can be read")
    digest = blake2b(digest_size=16)
    for element in match:
        if int(element.tag) not in _OF_THE_ARCHIVE:
            digest.update(f"{int(element.tag):08x} {element.value}".encode())
    return digest.digest()
