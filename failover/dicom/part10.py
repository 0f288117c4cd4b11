"""The head of a Part 10 file (PS3.10 7.1): preamble, prefix and File Meta Information. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from failover.dicom.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from failover.errors import UnreadableDataSet
from failover.model import parse_uid

PREAMBLE_LENGTH: Final = 128
PREFIX: Final = b"DICM"
# A real File Meta Information has some hundred bytes; private information (0002,0102) may add to it.
MAX_META_BYTES: Final = 1024 * 1024

_TIFF_MARKS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LONG_VRS: Final = frozenset({b"OB", b"UN", b"OW", b"UT", b"SQ"})


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What stands in group 0002, as far as we use it. `data_set_offset` is from the start of the file."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int
    has_tiff_preamble: bool = False


def write_head(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str = ""
) -> bytes:
    """Return everything of a Part 10 file before its data set; the preamble is zero."""
    elements = _element(0x0001, b"OB", b"\0\1")
    elements += _element(0x0002, b"UI", _uid(sop_class_uid))
    elements += _element(0x0003, b"UI", _uid(sop_instance_uid))
    elements += _element(0x0010, b"UI", _uid(transfer_syntax_uid))
    elements += _element(0x0012, b"UI", _uid(IMPLEMENTATION_CLASS_UID))
    elements += _element(0x0013, b"SH", _padded(IMPLEMENTATION_VERSION.encode("ascii"), b" "))
    if source_ae.strip(" "):
        elements += _element(0x0016, b"AE", _padded(source_ae.strip(" ").encode("ascii", "replace"), b" "))
    length = _element(0x0000, b"UL", struct.pack("<I", len(elements)))
    return bytes(PREAMBLE_LENGTH) + PREFIX + length + elements


def read_head(start: bytes | memoryview) -> FileMeta:
    """Return the File Meta Information at the `start` of a file. Raises UnreadableDataSet.

    `start` must hold all of it: MAX_META_BYTES or the whole file. Group 0002 ends where another group begins,
    whatever its length element says: both are wrong in the field, and this one is the reading of the others.
    """
    if bytes(start[PREAMBLE_LENGTH : PREAMBLE_LENGTH + 4]) != PREFIX:
        raise UnreadableDataSet("not a DICOM file: no DICM after the preamble")
    position = PREAMBLE_LENGTH + 4
    found: dict[int, bytes] = {}
    while position + 8 <= len(start):
        group, element = struct.unpack_from("<HH", start, position)
        if group != 0x0002:
            break
        vr = bytes(start[position + 4 : position + 6])
        if vr in _LONG_VRS:
            if position + 12 > len(start):
                raise UnreadableDataSet("the file meta information ends within an element")
            (length,) = struct.unpack_from("<I", start, position + 8)
            value_at = position + 12
        else:
            (length,) = struct.unpack_from("<H", start, position + 6)
            value_at = position + 8
        if value_at + length > len(start):
            raise UnreadableDataSet("the file meta information ends within an element")
        if length <= 64 or element in (0x0002, 0x0003, 0x0010):
            found.setdefault(element, bytes(start[value_at : value_at + length]))
        position = value_at + length
    syntax = _text(found.get(0x0010))
    if not syntax:
        raise UnreadableDataSet("the file meta information names no transfer syntax")
    return FileMeta(
        sop_class_uid=_text(found.get(0x0002)),
        sop_instance_uid=_text(found.get(0x0003)),
        transfer_syntax_uid=syntax,
        data_set_offset=position,
        has_tiff_preamble=bytes(start[:4]) in _TIFF_MARKS,
    )


def _text(value: bytes | None) -> str:
    if not value:
        return ""
    try:
        return parse_uid(value.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return ""


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if vr in _LONG_VRS:
        return struct.pack("<HH2s2xI", 0x0002, element, vr, len(value)) + value
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def _uid(text: str) -> bytes:
    # What a peer announces may be no UID: then it names nothing, and the data set is not what it names.
    return _padded(text.encode("ascii", "replace")[:64], b"\0")


def _padded(value: bytes, filler: bytes) -> bytes:
    return value + filler if len(value) % 2 else value
